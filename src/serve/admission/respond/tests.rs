use std::sync::Arc;

use futures_util::{FutureExt as _, stream};
use http_body_util::BodyExt as _;

use super::*;
use crate::{metrics, serve::admission::Admission, task};

const STALL: Duration = Duration::from_mins(10);

fn pieces(count: usize) -> Response<Body> {
    let piece = || Ok::<_, std::io::Error>(Bytes::from_static(b"piece"));
    Response::new(Body::from_stream(stream::iter(
        (0..count).map(move |_| piece()),
    )))
}

fn admission() -> (Arc<Admission>, task::Task<()>) {
    let admission = Arc::new(Admission::new(1, STALL, &metrics::Admission::default()));
    let watched = admission.clone();
    let watch = task::spawn("watch", async move { watched.watch().await });
    (admission, watch)
}

fn key(name: &str) -> Key {
    Key::Principal(name.into())
}

async fn ticket(admission: &Arc<Admission>, name: &str, connection: &Connection) -> Ticket {
    let ticket = without_transfer(admission, name, connection).await;
    ticket.transfer().await.unwrap();
    ticket
}

/// A response of a request whose response is short.
async fn without_transfer(
    admission: &Arc<Admission>,
    name: &str,
    connection: &Connection,
) -> Ticket {
    let mut extensions = axum::http::Extensions::new();
    extensions.insert(connection.clone());
    Ticket::take(admission, key(name), &extensions)
        .await
        .unwrap()
}

/// Work permits, and transfer slots, in use.
fn taken(admission: &Admission) -> (usize, usize) {
    let transfers = admission.transfers.places().taken();
    (admission.requests.taken(), transfers)
}

#[tokio::test(start_paused = true)]
async fn response_that_is_read_holds_a_place_among_transfers_to_its_last_byte_and_none_of_work() {
    let (admission, _watch) = admission();
    let ticket = ticket(&admission, "a", &Connection::default()).await;
    assert_eq!(taken(&admission), (1, 1));
    let body = ticket.respond(pieces(3)).into_body();
    assert_eq!(taken(&admission), (0, 1));
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 15);
    assert_eq!(taken(&admission), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn short_answers_hold_no_places_and_those_that_are_not_read_are_bounded() {
    let (admission, _watch) = admission();
    let mut held = Vec::new();
    for _ in 0..=crate::serve::admission::ANSWERS {
        let connection = Connection::default();
        let ticket = without_transfer(&admission, "a", &connection).await;
        held.push((connection, ticket.respond(pieces(1))));
        assert_eq!(taken(&admission), (0, 0));
    }
    tokio::time::sleep(2 * LOOK).await;
    assert!(held[0].0.ends().now_or_never().is_some());
    assert!(held[1].0.ends().now_or_never().is_none());
    assert_eq!(admission.answers.len(), crate::serve::admission::ANSWERS);
    drop(held);
    assert!(admission.answers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_on_many_streams_loses_one_to_who_has_none_and_the_others_go_on() {
    let (admission, _watch) = admission();
    admission.resize(16);
    let mut streams = Vec::new();
    for number in 0..16 {
        let connection = Connection::default();
        let name = if number < 14 { "many" } else { "few" };
        let ticket = ticket(&admission, name, &connection).await;
        streams.push((connection, ticket.respond(pieces(100)).into_body()));
    }
    // A request is processed at once, and its blob is sent after a moment; no client stops reading for long.
    let began = Instant::now();
    let connection = Connection::default();
    let mut new = Box::pin(ticket(&admission, "new", &connection));
    let new = loop {
        let sent = tokio::time::timeout(Duration::from_millis(300), &mut new).await;
        if let Ok(ticket) = sent {
            break ticket;
        }
        for (_, body) in &mut streams {
            assert!(body.frame().await.unwrap().is_ok());
        }
    };
    assert!(began.elapsed() <= 4 * LOOK);
    let mut ends = Vec::new();
    for (_, body) in &mut streams {
        ends.push(body.frame().await.unwrap().is_err());
    }
    assert_eq!(ends, [&[false; 13][..], &[true, false, false]].concat());
    let ended = streams
        .iter()
        .filter(|(c, _)| c.ends().now_or_never().is_some());
    assert_eq!(
        ended.count(),
        0,
        "the other streams of its connection go on"
    );
    assert_eq!(taken(&admission), (1, 16));
    drop(new);
}

#[tokio::test(start_paused = true)]
async fn of_who_does_not_read_the_connection_goes_on_when_its_place_goes_to_another() {
    let (admission, _watch) = admission();
    admission.resize(8);
    let mut streams = Vec::new();
    for _ in 0..7 {
        let connection = Connection::default();
        let ticket = ticket(&admission, "many", &connection).await;
        let mut body = ticket.respond(pieces(100)).into_body();
        assert!(body.frame().await.is_some());
        streams.push((connection, body));
    }
    let _few = ticket(&admission, "few", &Connection::default()).await;
    let connection = Connection::default();
    let read = async {
        tokio::time::sleep(2 * LOOK).await;
        for (_, body) in &mut streams {
            assert!(body.frame().await.is_some());
        }
    };
    let _new = tokio::join!(ticket(&admission, "new", &connection), read);
    tokio::time::sleep(2 * LOOK).await;
    // All its responses usually use one connection: only one of them is lost.
    let mut lost = 0;
    for (connection, body) in &mut streams {
        assert!(connection.ends().now_or_never().is_none());
        lost += usize::from(body.frame().await.unwrap().is_err());
    }
    assert_eq!(lost, 1);
}

#[tokio::test(start_paused = true)]
async fn response_that_is_not_read_gives_its_place_back_and_takes_one_when_it_is() {
    let (admission, _watch) = admission();
    let first = ticket(&admission, "a", &Connection::default()).await;
    let mut body = first.respond(pieces(3)).into_body();
    assert!(body.frame().await.is_some());
    let other = ticket(&admission, "b", &Connection::default()).await;
    assert!(body.frame().now_or_never().is_none(), "the place is taken");
    drop(other);
    assert!(body.frame().await.is_some());
    assert_eq!(taken(&admission), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn connection_whose_client_is_silent_is_ended() {
    let (admission, _watch) = admission();
    let connection = Connection::default();
    let ticket = ticket(&admission, "a", &connection).await;
    let mut body = ticket.respond(pieces(3)).into_body();
    assert!(body.frame().await.is_some());
    let began = Instant::now();
    connection.ends().await;
    let waited = began.elapsed();
    assert!(waited >= STALL && waited <= STALL + 2 * LOOK, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn of_too_many_responses_that_are_not_read_those_of_whoever_has_most_end_their_connections() {
    let (admission, _watch) = admission();
    admission.set_stall(Duration::from_hours(9));
    let mut held = Vec::new();
    for number in 0..=crate::serve::admission::UNREAD {
        let name = if number == 3 { "one" } else { "many" };
        let connection = Connection::default();
        let ticket = ticket(&admission, name, &connection).await;
        let mut body = ticket.respond(pieces(3)).into_body();
        assert!(body.frame().await.is_some());
        held.push((connection, body));
        // So that the next one gets the slot.
        tokio::time::sleep(UNREAD + 2 * LOOK).await;
    }
    let ended = |at: usize| held[at].0.ends().now_or_never().is_some();
    assert!(ended(0));
    assert!(!ended(3) && !ended(1));
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_for_a_client_while_its_connection_takes_nothing() {
    let (admission, _watch) = admission();
    let connection = Connection::default();
    let writer = admission.writer(key("a"), connection.clone());
    let ticket = ticket(&admission, "a", &connection).await;
    let mut body = ticket.respond(pieces(3)).into_body();
    assert!(body.frame().await.is_some());
    writer.blocked(true);
    assert!(body.frame().now_or_never().is_none());
    let body = task::spawn("body", async move { body.frame().await.is_some() });
    tokio::time::sleep(LOOK).await;
    writer.blocked(false);
    // It is woken although it is not polled again.
    assert!(body.join().await);
}

fn last() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(b"end"))
}

#[tokio::test(start_paused = true)]
async fn stream_ends_in_order_when_its_time_is_over_or_others_need_its_room() {
    let (admission, _watch) = admission();
    let minute = Some(Duration::from_mins(1));
    for limit in [minute, None] {
        let lane = Lane::new(1);
        let parked = lane.park(key("a"));
        let client = (key("a"), Connection::default());
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let response = Response::new(silent);
        let mut body = admission
            .stream(response, client, parked, limit, last)
            .into_body();
        assert!(body.frame().now_or_never().is_none());
        let began = Instant::now();
        let _other = limit.is_none().then(|| lane.park(key("a")));
        let end = body.frame().await.unwrap().unwrap();
        assert_eq!(end.into_data().unwrap(), "end");
        assert_eq!(began.elapsed(), limit.unwrap_or_default());
        assert!(body.frame().await.is_none());
        assert_eq!(lane.len(), usize::from(limit.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn small_answer_that_is_not_read_ends_its_connection_after_ten_seconds() {
    let (admission, _watch) = admission();
    let connection = Connection::default();
    let request = connection.begin();
    let refusal = Response::new(Body::from("no"));
    let response = admission.answer(refusal, (key("a"), connection.clone()));
    let began = Instant::now();
    // The server takes all of it before it knows that the client has a window for it.
    let mut body = response.into_body();
    assert!(body.frame().await.is_some() && body.is_end_stream());
    tokio::time::sleep(UNREAD + 2 * LOOK).await;
    let (rest, _) = connection.rests().unwrap();
    assert_eq!(rest, crate::serve::admission::Rest::Waiting);
    connection.ends().await;
    let waited = began.elapsed();
    assert!(waited >= SMALL && waited <= SMALL + 2 * LOOK, "{waited:?}");
    drop((body, request));
}

#[tokio::test(start_paused = true)]
async fn response_of_a_request_with_a_place_is_looked_after_once() {
    let (admission, _watch) = admission();
    let connection = Connection::default();
    let ticket = ticket(&admission, "a", &connection).await;
    let response = ticket.respond(pieces(3));
    let _response = admission.answer(response, (key("a"), connection.clone()));
    let ended = tokio::time::timeout(SMALL + 5 * LOOK, connection.ends()).await;
    assert!(ended.is_err(), "it has the time of an upload");
}

#[tokio::test(start_paused = true)]
async fn large_manifests_that_are_not_read_are_few_and_give_their_places_to_others() {
    let (admission, _watch) = admission();
    admission.requests.resize(1000);
    let mut held = Vec::new();
    for _ in 0..3 * crate::serve::admission::SLOW_MANIFESTS {
        let connection = Connection::default();
        let ticket = without_transfer(&admission, "a", &connection).await;
        ticket.large_transfer().await.unwrap();
        let large = Response::new(Body::from(vec![0; 4 << 20]));
        let mut body = ticket.respond(large).into_body();
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(
            piece.len() <= PIECE
                && body.size_hint().exact() == Some((4 << 20) - piece.len() as u64)
        );
        held.push((connection, body));
    }
    tokio::time::sleep(UNREAD + 2 * LOOK).await;
    assert_eq!(admission.large_transfers.places().taken(), 0);
    let ended = held
        .iter()
        .filter(|(c, _)| c.ends().now_or_never().is_some());
    assert_eq!(ended.count(), 2 * crate::serve::admission::SLOW_MANIFESTS);
    let (_, body) = held.pop().unwrap();
    assert_eq!(
        body.collect().await.unwrap().to_bytes().len(),
        (4 << 20) - PIECE
    );
}
