//! The same with streams of HTTP/2, which take few connections.

use axum::http::Request;
use tonic::{body::Body, codegen::Service as _, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{HELD, SLOW, Victim};

/// Streams of one connection that are held.
const EACH: usize = 50;

async fn channels(victim: &Victim) -> Vec<Channel> {
    let mut channels = Vec::new();
    for _ in 0..4 {
        let endpoint = Channel::from_shared(format!("http://{}", victim.address)).unwrap();
        channels.push(endpoint.connect().await.unwrap());
    }
    channels
}

/// A body of which one byte comes, and then nothing.
fn stuck() -> Body {
    use futures_util::{StreamExt as _, stream};
    let one = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"g"))]);
    Body::new(axum::body::Body::from_stream(one.chain(stream::pending())))
}

/// Serves the other one while streams are held; a thread, since it blocks.
fn serves_others(victim: &Victim, beside: &str) {
    tokio::task::block_in_place(|| victim.serves_others(beside));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_beside_slow_requests_on_streams_of_http_2() {
    let victim = Victim::start("");
    for (method, path, lane) in [
        ("POST", "/token", "forms"),
        ("PUT", "/v2/slow/manifests/t", "manifests"),
        ("POST", "/cachectl.v1.Control/List", "forms"),
    ] {
        let mut held = Vec::new();
        for channel in channels(&victim).await {
            for _ in 0..EACH {
                let mut channel = channel.clone();
                let grpc = path.starts_with("/cachectl");
                let kind = if grpc {
                    "application/grpc"
                } else {
                    "application/x-www-form-urlencoded"
                };
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header("content-type", kind)
                    .body(stuck())
                    .unwrap();
                held.push(cachectl::task::spawn("slow", async move {
                    std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
                    channel.call(request).await
                }));
            }
        }
        assert!(held.len() > HELD);
        tokio::task::block_in_place(|| victim.wait_for_clients(lane, SLOW));
        serves_others(&victim, &format!("200 streams of {path}"));
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_beside_health_watches_of_which_there_are_only_so_many() {
    let victim = Victim::start("");
    let mut open = Vec::new();
    for channel in channels(&victim).await {
        for _ in 0..2 * EACH {
            let mut client = HealthClient::new(channel.clone());
            let service = String::new();
            let watch = client.watch(HealthCheckRequest { service }).await;
            // Those above the limit end as soon as another begins.
            open.extend(watch);
        }
    }
    serves_others(&victim, "400 health watches");
    // 400 are 144 more than there is room for; they end in time.
    let mut rest = open.len();
    let most = rest - 144;
    while rest > most {
        let mut still = Vec::new();
        for mut watch in open {
            let step = std::time::Duration::from_millis(20);
            match tokio::time::timeout(step, watch.get_mut().message()).await {
                Ok(Ok(None) | Err(_)) => {}
                Ok(Ok(Some(_))) | Err(_) => still.push(watch),
            }
        }
        open = still;
        rest = open.len();
    }
}
