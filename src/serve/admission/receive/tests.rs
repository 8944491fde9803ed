use futures_util::{FutureExt as _, TryStreamExt as _};
use tokio::{sync::mpsc, time::sleep};

use super::*;
use crate::{metrics, serve::admission::Admission};

const STALL: Duration = Duration::from_mins(10);

type Piece = Result<Bytes, std::io::Error>;

/// A body, and the sender of its pieces.
fn body() -> (mpsc::Sender<Piece>, Body) {
    let (sender, receiver) = mpsc::channel::<Piece>(8);
    let next = |mut receiver: mpsc::Receiver<Piece>| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    };
    (sender, Body::from_stream(stream::unfold(receiver, next)))
}

async fn ticket() -> (Arc<Admission>, Ticket) {
    let admission = Arc::new(Admission::new(1, STALL, &metrics::Admission::default()));
    let ticket = another(&admission, "a").await;
    (admission, ticket)
}

async fn another(admission: &Arc<Admission>, name: &str) -> Ticket {
    let key = Key::Principal(name.into());
    let extensions = axum::http::Extensions::new();
    Ticket::take(admission, key, &extensions).await.unwrap()
}

/// Work permits and transfer slots in use, and the number of slow uploads.
fn places(admission: &Admission) -> (usize, usize, usize) {
    let transfers = admission.transfers.places().taken();
    let slow = admission.uploads.len();
    (admission.requests.taken(), transfers, slow)
}

fn some(bytes: usize) -> Bytes {
    Bytes::from(vec![0; bytes])
}

#[tokio::test(start_paused = true)]
async fn body_has_a_place_of_work_only_from_its_last_byte_on_however_fast_it_comes() {
    let (admission, ticket) = ticket().await;
    let (sender, body) = body();
    let mut received = ticket.receive(body);
    for _ in 0..100 {
        sender.send(Ok(some(LEAST))).await.unwrap();
        assert!(received.try_next().await.unwrap().is_some());
        assert_eq!(places(&admission), (0, 1, 0));
        sleep(WINDOW / 2).await;
    }
    drop(sender);
    assert!(received.try_next().await.unwrap().is_none());
    assert_eq!(places(&admission), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn body_without_bytes_that_waits_for_nobody_ends_in_a_place_of_work() {
    let (admission, ticket) = ticket().await;
    let mut received = ticket.receive(Body::empty());
    assert!(received.try_next().await.unwrap().is_none());
    assert_eq!(places(&admission), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn fast_body_of_whoever_has_most_gives_way_to_one_of_who_has_none() {
    let (admission, first) = ticket().await;
    admission.resize(8);
    let mut streams = Vec::new();
    for _ in 0..8 {
        let (sender, body) = body();
        let name = if streams.len() == 7 { "b" } else { "a" };
        let mut received = another(&admission, name).await.receive(body);
        sender.send(Ok(some(LEAST))).await.unwrap();
        assert!(received.try_next().await.unwrap().is_some());
        streams.push((sender, received));
    }
    let (sender, body) = body();
    let mut received = another(&admission, "c").await.receive(body);
    sender.send(Ok(some(1))).await.unwrap();
    assert!(received.try_next().await.unwrap().is_some());
    let mut ended = Vec::new();
    for (_, received) in &mut streams {
        ended.push(matches!(received.try_next().now_or_never(), Some(Err(_))));
    }
    assert_eq!(ended, [&[false; 6][..], &[true, false]].concat());
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn what_a_piece_is_kept_waiting_for_is_not_the_clients_time() {
    let (admission, ticket) = ticket().await;
    let (sender, body) = body();
    let limit = Duration::from_secs(5);
    let mut received = ticket.receive_within(body, limit);
    for _ in 0..5 {
        // It arrives a moment after it was asked for, and all of them together are as much as a body must bring in a window.
        let comes = async {
            sleep(WINDOW / 100).await;
            drop(sender.send(Ok(some(LEAST / 5))).await);
        };
        let (piece, ()) = tokio::join!(received.try_next(), comes);
        assert!(piece.unwrap().is_some());
        sleep(limit).await;
    }
    assert_eq!(places(&admission), (0, 1, 0));
    assert!(admission.manifests.is_empty());
}

#[tokio::test(start_paused = true)]
async fn body_that_trickles_holds_no_place_and_has_one_at_its_end() {
    let (admission, ticket) = ticket().await;
    let (sender, body) = body();
    let mut received = ticket.receive(body);
    for _ in 0..5 {
        sender.send(Ok(some(1))).await.unwrap();
        assert!(received.try_next().await.unwrap().is_some());
        assert!(received.try_next().now_or_never().is_none());
        sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(places(&admission), (0, 0, 1));
    drop(sender);
    let other = another(&admission, "b").await;
    assert!(
        received.try_next().now_or_never().is_none(),
        "the place is taken"
    );
    drop(other);
    assert!(received.try_next().await.unwrap().is_none());
    assert_eq!(places(&admission), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn body_that_is_fast_again_goes_on_among_the_others() {
    let (admission, ticket) = ticket().await;
    let (sender, body) = body();
    let mut received = ticket.receive(body);
    assert!(received.try_next().now_or_never().is_none());
    let slow = tokio::time::timeout(Duration::from_secs(3), received.try_next()).await;
    assert!(slow.is_err());
    assert_eq!(admission.uploads.len(), 1);
    sender.send(Ok(some(LEAST))).await.unwrap();
    assert!(received.try_next().await.unwrap().is_some());
    assert_eq!(places(&admission), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn silent_client_is_given_up_after_the_set_time_and_blamed() {
    let (_, ticket) = ticket().await;
    let (_sender, body) = body();
    let began = Instant::now();
    let mut received = ticket.receive(body);
    assert!(received.try_next().await.is_err());
    assert_eq!(began.elapsed(), STALL);
    assert_eq!(ticket.fault(), Some(&Fault::Silent(STALL)));
    assert_eq!(ticket.fault().unwrap().status(), 408);
}

#[tokio::test(start_paused = true)]
async fn body_with_a_limit_must_be_whole_within_it_however_it_comes() {
    let (_, ticket) = ticket().await;
    let (sender, body) = body();
    let limit = Duration::from_mins(1);
    let began = Instant::now();
    let mut received = ticket.receive_within(body, limit);
    let trickle = async {
        while sender.send(Ok(some(1))).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let read = async { while received.try_next().await.is_ok_and(|p| p.is_some()) {} };
    tokio::select! { () = trickle => {} () = read => {} }
    assert_eq!(began.elapsed(), limit);
    assert_eq!(ticket.fault(), Some(&Fault::Slow(limit)));
}

#[tokio::test(start_paused = true)]
async fn slow_body_of_whoever_has_most_is_cut_where_there_are_too_many() {
    let (admission, ticket) = ticket().await;
    let (_sender, body) = body();
    let mut received = ticket.receive_within(body, Duration::from_mins(5));
    let second = tokio::time::timeout(Duration::from_secs(2), received.try_next());
    assert!(second.await.is_err());
    let key = || Key::Principal("a".into());
    let _more: Vec<_> = (0..SLOW).map(|_| admission.manifests.park(key())).collect();
    assert!(received.try_next().await.is_err());
    assert_eq!(ticket.fault(), Some(&Fault::Crowded));
}

/// The capacity of the lane of manifests.
const SLOW: usize = crate::serve::admission::SLOW_MANIFESTS;

#[tokio::test(start_paused = true)]
async fn broken_body_is_the_clients_fault() {
    let (_, ticket) = ticket().await;
    let (sender, body) = body();
    let mut received = ticket.receive(body);
    let gone = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset");
    sender.send(Err(gone)).await.unwrap();
    let error = received.try_next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(matches!(ticket.fault(), Some(Fault::Gone(_))));
}

#[tokio::test(start_paused = true)]
async fn small_body_is_gathered_within_its_limits_and_without_a_place() {
    let (admission, _ticket) = ticket().await;
    let key = || Key::Principal("a".into());
    let connection = Connection::default();
    let ten = Duration::from_secs(10);
    let whole = admission
        .gather((key(), &connection), Body::from("form"), 64, ten)
        .await;
    assert_eq!(whole.unwrap(), "form");
    let (_sender, silent) = body();
    let began = Instant::now();
    let slow = admission
        .gather((key(), &connection), silent, 64, ten)
        .await;
    assert_eq!(slow, Err(Fault::Slow(ten)));
    assert_eq!(began.elapsed(), ten);
    let long = Body::from(vec![0; 200]);
    assert!(
        admission
            .gather((key(), &connection), long, 64, ten)
            .await
            .unwrap()
            .len()
            > 64
    );
}
