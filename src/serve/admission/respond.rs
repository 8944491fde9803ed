//! Responses' bodies: none has a place of work; one that its client does not read gives its place among transfers back, and is cut off in
//! the end.
//!
//! The server asks a body for more only when it has room, so a body learns nothing of a client that has stopped reading.
//! One task looks at all of them once a second.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::Response,
};
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, interval};

use super::{Connection, Fault, Key, Lane, Parked, Ticket, connection::WaitsForClient};
use crate::fair::lines;

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After so long a client has stopped reading: until then some 256 KiB are on their way to it.
const UNREAD: Duration = Duration::from_secs(3);
/// Longest piece that the server is given at once.
const PIECE: usize = 256 << 10;
/// Longest time for a client to read an answer that no request with a place made, such as a refusal: it is small.
const SMALL: Duration = Duration::from_secs(10);

/// All responses that are being sent.
pub(super) struct Responses {
    lane: Lane,
    /// For those that keep a large manifest in memory.
    large: Lane,
    sending: Mutex<Sending>,
}

#[derive(Default)]
struct Sending {
    next: u64,
    all: HashMap<u64, Arc<Reader>>,
}

/// The client of one response.
struct Reader {
    key: Key,
    connection: Connection,
    of: Of,
    state: Mutex<State>,
}

/// Whose client it is.
enum Of {
    /// Of a request that has a place.
    Request(Ticket),
    /// Of a call of gRPC, which has a place in a lane as long as it lasts.
    Call,
    /// Of any other answer.
    Small,
    /// Of a connection, whatever is written to it.
    Connection,
}

/// Marks a response whose client is looked after.
#[derive(Debug, Clone, Copy)]
struct LookedAfter;

#[derive(Default)]
struct State {
    /// Since when the client has had something to read that it was not seen to take; `None` while we owe it the next bytes.
    since: Option<Instant>,
    /// Its place in a lane: while it does not read, or of a call or a short answer as long as that lasts.
    parked: Option<Arc<Parked>>,
    /// While it does not read.
    waits: Option<WaitsForClient>,
}

impl Reader {
    fn is_large(&self) -> bool {
        matches!(&self.of, Of::Request(ticket) if ticket.is_large())
    }

    fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.of {
            Of::Request(ticket) => ticket.poll_cut(cx),
            Of::Call | Of::Small | Of::Connection => Poll::Pending,
        }
    }

    /// Looks after the client: parks one that does not read, and hangs up on one that is silent for `stall`. Of a transfer that was cut
    /// the response alone ends, once it is read on: its place was given to somebody else already.
    fn look(&self, responses: &Responses, stall: Duration) {
        let stall = match self.of {
            Of::Small => stall.min(SMALL),
            _ => stall,
        };
        let mut state = self.state.lock();
        let Some(since) = state.since else {
            return;
        };
        let unread = since.elapsed();
        if state.parked.as_ref().is_some_and(|p| p.is_cut()) || unread >= stall {
            let seconds = unread.as_secs();
            if lines::may_write(&self.key) {
                tracing::info!(caller = ?self.key, seconds, "Response that is not read is cut off");
            }
            self.connection.hang_up();
            return;
        }
        if unread < UNREAD {
            return;
        }
        let is_counted = state.waits.is_some() || state.parked.as_ref().is_some_and(|p| p.waits());
        if !is_counted && !matches!(self.of, Of::Connection) {
            state.waits = Some(self.connection.wait_for_client(since));
        }
        if state.parked.is_none() {
            let lane = if self.is_large() {
                &responses.large
            } else {
                &responses.lane
            };
            state.parked = Some(Arc::new(lane.park(self.key.clone())));
        }
        drop(state);
        if let Of::Request(ticket) = &self.of {
            ticket.give_back();
        }
    }
}

impl Responses {
    pub(super) fn new(lane: Lane, large: Lane) -> Self {
        Self {
            lane,
            large,
            sending: Mutex::default(),
        }
    }

    pub(super) async fn watch(&self, stall: impl Fn() -> Duration) {
        let mut tick = interval(LOOK);
        loop {
            tick.tick().await;
            let all: Vec<Arc<Reader>> = self.sending.lock().all.values().cloned().collect();
            for reader in all {
                reader.look(self, stall());
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        (key, connection): (Key, Connection),
        of: Of,
        state: State,
    ) -> Entry {
        let reader = Arc::new(Reader {
            key,
            connection,
            of,
            state: Mutex::new(state),
        });
        let mut sending = self.sending.lock();
        let number = sending.next;
        sending.next += 1;
        sending.all.insert(number, reader.clone());
        Entry {
            responses: self.clone(),
            number,
            reader,
        }
    }
}

/// A response among all; dropped, it has ended.
struct Entry {
    responses: Arc<Responses>,
    number: u64,
    reader: Arc<Reader>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.responses.sending.lock().all.remove(&self.number);
    }
}

impl Ticket {
    /// A response whose body holds the request's place among transfers until its last byte was taken, or nobody takes it; one without is a
    /// short answer. The work is done.
    pub fn respond(self, response: Response<Body>) -> Response<Body> {
        self.end_work();
        let admission = self.admission().clone();
        let is_short = !self.is_transfer() && !response.body().is_end_stream();
        let parked = is_short.then(|| admission.answers.park(self.key().clone()));
        let client = (self.key().clone(), self.connection().clone());
        let of = Of::Request(self);
        admission.responses.send(response, client, of, parked, None)
    }
}

impl Responses {
    /// A response whose client is looked after. That of a call, and a short answer, is `parked` from the start; a call may have an `end`.
    fn send(
        self: &Arc<Self>,
        mut response: Response<Body>,
        client: (Key, Connection),
        of: Of,
        parked: Option<Parked>,
        end: Option<End>,
    ) -> Response<Body> {
        response.extensions_mut().insert(LookedAfter);
        if response.body().is_end_stream() {
            return response;
        }
        let state = State {
            since: Some(Instant::now()),
            parked: parked.map(Arc::new),
            waits: None,
        };
        let entry = self.begin(client, of, state);
        response.map(|body| {
            Body::new(Outgoing {
                body,
                rest: None,
                entry: Some(entry),
                back: None,
                end,
            })
        })
    }
}

/// Whether the client of a connection takes what is written to it; dropped, the connection has ended.
pub struct Writer(Entry);

impl Writer {
    /// Notes that the client stopped reading, or goes on.
    pub fn blocked(&self, is_blocked: bool) {
        self.0.reader.connection.set_blocked(is_blocked);
        let mut state = self.0.reader.state.lock();
        state.since = is_blocked.then(Instant::now);
        let parked = state.parked.take();
        drop(state);
        // It leaves its lane, which has a lock of its own.
        drop(parked);
    }
}

impl super::Admission {
    /// What is written to a connection of the caller `key`.
    pub fn writer(&self, key: Key, connection: Connection) -> Writer {
        let (of, state) = (Of::Connection, State::default());
        Writer(self.responses.begin((key, connection), of, state))
    }

    /// Any response, on its way to a client: one that nobody looks after yet, such as a refusal, must be read within 10 s.
    pub fn answer(&self, response: Response<Body>, client: (Key, Connection)) -> Response<Body> {
        if response.extensions().get::<LookedAfter>().is_some() {
            return response;
        }
        self.responses.send(response, client, Of::Small, None, None)
    }

    /// The response of a call that holds `parked` as long as it lasts, and ends with `last` when it is cut off or `limit` is
    /// over.
    pub fn stream(
        &self,
        response: Response<Body>,
        client: (Key, Connection),
        parked: Parked,
        limit: Option<Duration>,
        last: fn() -> Frame<Bytes>,
    ) -> Response<Body> {
        let limit = limit.map(|limit| Box::pin(tokio::time::sleep(limit)));
        let end = Some(End { limit, last });
        self.responses
            .send(response, client, Of::Call, Some(parked), end)
    }
}

/// When and how a stream ends early.
struct End {
    limit: Option<Pin<Box<Sleep>>>,
    last: fn() -> Frame<Bytes>,
}

impl End {
    fn poll(&mut self, parked: Option<&Parked>, cx: &mut Context<'_>) -> Poll<()> {
        if parked.is_some_and(|p| p.poll_cut(cx).is_ready()) {
            return Poll::Ready(());
        }
        match &mut self.limit {
            Some(limit) => limit.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// A body on its way to its client.
struct Outgoing {
    body: Body,
    /// What the last piece was too long for.
    rest: Option<Bytes>,
    /// `None` once a stream was ended.
    entry: Option<Entry>,
    /// On its way back to a place.
    back: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    end: Option<End>,
}

impl Outgoing {
    /// Cuts what is too long: what the server was given it keeps until the client takes it, and nobody looks after that.
    fn cut(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(mut data) if data.len() > PIECE => {
                self.rest = Some(data.split_off(PIECE));
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(frame) => frame,
        }
    }

    /// Notes that the client has taken what it had; ready once the response has its place among transfers again.
    fn taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(entry) = &self.entry else {
            return Poll::Ready(());
        };
        let reader = &entry.reader;
        // One piece is on its way already; a second one would double what a client that does not read takes.
        ready!(reader.connection.poll_reads(cx));
        if self.back.is_none() {
            let mut state = reader.state.lock();
            state.since = None;
            let waits = state.waits.take();
            let parked = match &reader.of {
                Of::Small => state.parked.take(),
                _ => None,
            };
            let is_parked = state.parked.is_some();
            drop(state);
            // They have locks of their own.
            drop((waits, parked));
            let ticket = match &reader.of {
                Of::Request(ticket) if is_parked && ticket.is_transfer() => ticket.clone(),
                _ => return Poll::Ready(()),
            };
            self.back = Some(Box::pin(async move { ticket.move_on().await }));
        }
        if let Some(back) = &mut self.back {
            ready!(back.as_mut().poll(cx));
            self.back = None;
            let parked = reader.state.lock().parked.take();
            drop(parked);
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.end.is_some() && this.entry.is_none() {
            return Poll::Ready(None);
        }
        if let Some(entry) = &this.entry
            && entry.reader.poll_cut(cx).is_ready()
        {
            return Poll::Ready(Some(Err(axum::Error::new(Fault::Crowded))));
        }
        ready!(this.taken(cx));
        if let (Some(end), Some(entry)) = (&mut this.end, &this.entry) {
            let parked = entry.reader.state.lock().parked.clone();
            if end.poll(parked.as_deref(), cx).is_ready() {
                let last = (end.last)();
                this.entry = None;
                this.body = Body::empty();
                return Poll::Ready(Some(Ok(last)));
            }
        }
        let polled = match this.rest.take() {
            Some(rest) => Some(Ok(Frame::data(rest))),
            None => ready!(Pin::new(&mut this.body).poll_frame(cx)),
        };
        if let (Some(Ok(_)), Some(entry)) = (&polled, &this.entry) {
            // After the last piece the server may not ask again: it drops the body when the client has taken that.
            entry.reader.state.lock().since = Some(Instant::now());
        }
        Poll::Ready(polled.map(|frame| frame.map(|frame| this.cut(frame))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.end {
            Some(_) => self.entry.is_none(),
            None => self.rest.is_none() && self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.end.is_some() {
            return SizeHint::default();
        }
        let (rest, mut hint) = (self.rest.as_ref(), self.body.size_hint());
        let rest = rest.map_or(0, |rest| rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests;
