//! The protocol of a connection: HTTP/1.1 or HTTP/2, depending on its first bytes.
//!
//! Data that an HTTP/2 client may send unasked is kept in memory, whoever the client is and whatever happens to its request: so
//! it is limited to the minimum that the protocol allows, and higher only for a few connections.

use std::time::Duration;

use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};

use crate::serve::admission::{Pool, Queue};

/// Bytes of a request that a connection reads ahead, and of a response that it buffers.
const BUFFER_BYTES: usize = 128 << 10;
/// Maximum time for receiving the head of a request, and for an idle connection.
const HEAD: Duration = Duration::from_secs(75);
/// Concurrent requests on one HTTP/2 connection: the minimum recommended by the RFC (9113, 6.5.2); clients open another
/// connection for more.
const STREAMS: u32 = 100;
/// On an HTTP/2 connection without traffic, interval of the checks whether its client still exists.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Bytes of bodies that may arrive unasked on one HTTP/2 connection. Less is not possible (RFC 9113, 6.9.2).
const WINDOW: u32 = 65_535;
/// The same for a few connections: uploads over long distances are faster, since each round trip transfers as much, and streams
/// of a proxy interfere less with each other.
const LARGE_WINDOW: u32 = 1 << 20;
/// Maximum number of connections with a large window.
const LARGE_WINDOWS: usize = 64;

/// Slots of connections with a large window. Nobody waits for one.
pub(super) fn large_windows() -> Pool {
    let nobody = Queue { total: 0, each: 0 };
    Pool::new("large_windows", LARGE_WINDOWS, nobody)
}

/// How a connection is served.
pub(super) fn protocol(has_large_window: bool) -> auto::Builder<TokioExecutor> {
    let window = if has_large_window {
        LARGE_WINDOW
    } else {
        WINDOW
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .keep_alive_interval(KEEP_ALIVE)
        .max_send_buf_size(BUFFER_BYTES);
    builder
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

    use std::convert::Infallible;

    use axum::{
        body::Body,
        http::{Request, Response},
    };
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;
    use crate::{fair::Key, task};

    async fn frame(from: &mut DuplexStream) -> (u8, Vec<u8>) {
        let mut head = [0; 9];
        from.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        from.read_exact(&mut payload).await.unwrap();
        (head[3], payload)
    }

    /// Bytes that an HTTP/2 client may send on one stream, and on all of them together, before any are read.
    async fn windows(has_large_window: bool) -> (u32, u32) {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let never = hyper::service::service_fn(|_: Request<hyper::body::Incoming>| {
            std::future::pending::<Result<Response<Body>, Infallible>>()
        });
        let serving = protocol(has_large_window)
            .serve_connection(TokioIo::new(server), never)
            .into_owned();
        let _serving = task::spawn("serving", async move { serving.await.is_ok() });
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        client.write_all(hello).await.unwrap();
        let ping = b"\0\0\x08\x06\0\0\0\0\0........";
        client.write_all(ping).await.unwrap();
        // The first answer may arrive before the windows, the second cannot.
        let mut pings = 1;
        let (mut stream, mut connection) = (65_535, 65_535);
        loop {
            match frame(&mut client).await {
                (4, settings) => {
                    for setting in settings.chunks_exact(6).filter(|s| s[..2] == [0, 4]) {
                        stream = u32::from_be_bytes(setting[2..].try_into().unwrap());
                    }
                }
                (8, more) => connection += u32::from_be_bytes(more.try_into().unwrap()),
                (6, _) if pings == 2 => return (stream, connection),
                (6, _) => {
                    pings += 1;
                    client.write_all(ping).await.unwrap();
                }
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn bodies_that_nobody_reads_take_64_kib_a_connection_and_1_mib_of_few() {
        assert_eq!(windows(false).await, (WINDOW, WINDOW));
        assert_eq!(windows(true).await, (LARGE_WINDOW, LARGE_WINDOW));
        let places = large_windows();
        let key = |name: &str| Key::Principal(name.into());
        let held: Vec<_> = (0..1000)
            .filter_map(|_| places.enter_now(key("many")))
            .collect();
        assert_eq!(held.len(), LARGE_WINDOWS * 7 / 8);
        assert!(places.enter_now(key("new")).is_some());
    }
}
