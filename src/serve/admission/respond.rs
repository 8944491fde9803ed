//! Bodies of responses: none holds a work permit; one that its client does not read gives back its slot among transfers, and is
//! cut off in the end.
//!
//! The server asks a body for more only when it has room, so a body cannot notice that its client has stopped reading. One task
//! checks all of them once a second.

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

/// How often they are checked.
const LOOK: Duration = Duration::from_secs(1);
/// After this long a client counts as not reading: until then some 256 KiB are on their way to it.
const UNREAD: Duration = Duration::from_secs(3);
/// Maximum size of a piece that is given to the server.
const PIECE: usize = 256 << 10;
/// Maximum time for a client to read a response of a request without a permit, such as a refusal: it is small.
const SMALL: Duration = Duration::from_secs(10);

/// All responses that are being sent.
pub(super) struct Responses {
    lane: Lane,
    /// For responses that keep a large manifest in memory.
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

/// What is sent to the client.
enum Of {
    /// The response of a request with a permit.
    Request(Ticket),
    /// The response of a gRPC call, which has an entry in a lane as long as it lasts.
    Call,
    /// Any other response.
    Small,
    /// Everything that is written to a connection.
    Connection,
}

/// Marks a response whose client is watched already.
#[derive(Debug, Clone, Copy)]
struct LookedAfter;

#[derive(Default)]
struct State {
    /// Since when the client has had unread data without being seen to read it; `None` while the daemon owes it the next bytes.
    since: Option<Instant>,
    /// Its entry in a lane: while it does not read; for a call or a short response as long as it lasts.
    parked: Option<Arc<Parked>>,
    /// Set while it does not read.
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

    /// Checks the client: parks it if it does not read, and closes the connection if it is silent for `stall`. A transfer that
    /// was cut ends only the response itself, once it is read again: its slot has already been given to another one.
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
                tracing::info!(caller = ?self.key, seconds, "Aborted a response that its client does not read");
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

/// An entry in the list of responses, until it is dropped.
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
    /// A response whose body holds the request's slot among transfers until its last byte was read, or its client stops
    /// reading; a response without a slot is a short one. The work is done.
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
    /// A response whose client is watched. That of a call, and a short one, is `parked` from the start; a call may have an
    /// `end`.
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

/// Whether the client of a connection reads what is written to it; the connection ends when this is dropped.
pub struct Writer(Entry);

impl Writer {
    /// Notes that the client stopped or resumed reading.
    pub fn blocked(&self, is_blocked: bool) {
        self.0.reader.connection.set_blocked(is_blocked);
        let mut state = self.0.reader.state.lock();
        state.since = is_blocked.then(Instant::now);
        let parked = state.parked.take();
        drop(state);
        // Dropping it removes it from its lane, which has its own lock.
        drop(parked);
    }
}

impl super::Admission {
    /// Everything that is written to a connection of the caller `key`.
    pub fn writer(&self, key: Key, connection: Connection) -> Writer {
        let (of, state) = (Of::Connection, State::default());
        Writer(self.responses.begin((key, connection), of, state))
    }

    /// Any response in transit to a client: one that is not watched yet, such as a refusal, must be read within 10 s.
    pub fn answer(&self, response: Response<Body>, client: (Key, Connection)) -> Response<Body> {
        if response.extensions().get::<LookedAfter>().is_some() {
            return response;
        }
        self.responses.send(response, client, Of::Small, None, None)
    }

    /// The response of a call that holds `parked` as long as it lasts; it ends with `last` if it is cut off or `limit` has
    /// passed.
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

/// A body in transit to its client.
struct Outgoing {
    body: Body,
    /// The part that did not fit into the last piece.
    rest: Option<Bytes>,
    /// `None` once a stream has ended.
    entry: Option<Entry>,
    /// Set while it waits for a slot again.
    back: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    end: Option<End>,
}

impl Outgoing {
    /// Splits long frames: the server keeps what it was given until the client reads it, and that is not watched.
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

    /// Notes that the client has read everything so far; ready once the response has its slot among transfers again.
    fn taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(entry) = &self.entry else {
            return Poll::Ready(());
        };
        let reader = &entry.reader;
        // One piece is in transit already; a second one would double the memory of a client that does not read.
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
            // They have their own locks.
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
            // After the last piece the server may not ask again: it drops the body when the client has read that piece.
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
