//! Responses' bodies: one that its client does not read gives its place back, and is cut off in the end.
//!
//! The server asks a body for more only when it has room, so a body learns nothing of a client that has stopped reading.
//! One task looks at all of them once a second.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, interval};

use super::{Connection, Key, Lane, Parked, Ticket};

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After so long a client has stopped reading: until then some 256 KiB are on their way to it.
const UNREAD: Duration = Duration::from_secs(3);

/// All responses that are being sent.
pub(super) struct Responses {
    lane: Lane,
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
    /// A request's place; a call of gRPC has none.
    ticket: Option<Ticket>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Since when the client has had something to read that it was not seen to take; `None` while we owe it the next bytes.
    since: Option<Instant>,
    /// Its place in a lane: while it does not read, or of a call as long as that lasts.
    parked: Option<Arc<Parked>>,
}

impl Reader {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after the client: parks one that does not read, and hangs up on one that was cut or is silent for `stall`.
    fn look(&self, lane: &Lane, stall: Duration) {
        let mut state = self.state();
        let Some(unread) = state.since.map(|since| since.elapsed()) else {
            return;
        };
        if state.parked.as_ref().is_some_and(|p| p.is_cut()) || unread >= stall {
            let seconds = unread.as_secs();
            tracing::info!(caller = ?self.key, seconds, "Response that is not read is cut off");
            self.connection.hang_up();
            return;
        }
        if unread < UNREAD || state.parked.is_some() {
            return;
        }
        state.parked = Some(Arc::new(lane.park(self.key.clone())));
        drop(state);
        if let Some(ticket) = &self.ticket {
            ticket.give_back();
        }
    }
}

impl Responses {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            sending: Mutex::default(),
        }
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        // Nothing can panic while it is held.
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn watch(&self, stall: impl Fn() -> Duration) {
        let mut tick = interval(LOOK);
        loop {
            tick.tick().await;
            let all: Vec<Arc<Reader>> = self.sending().all.values().cloned().collect();
            for reader in all {
                reader.look(&self.lane, stall());
            }
        }
    }

    fn begin(self: &Arc<Self>, reader: Reader) -> Entry {
        let reader = Arc::new(reader);
        let mut sending = self.sending();
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
        self.responses.sending().all.remove(&self.number);
    }
}

impl Ticket {
    /// A response's body, which holds the request's place until its last byte was taken, or nobody takes it.
    pub fn respond(self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let responses = self.admission().responses.clone();
        let entry = responses.begin(Reader {
            key: self.key().clone(),
            connection: self.connection().clone(),
            state: Mutex::new(State {
                since: Some(Instant::now()),
                parked: None,
            }),
            ticket: Some(self),
        });
        Body::new(Outgoing {
            body,
            entry: Some(entry),
            back: None,
            end: None,
        })
    }
}

/// Whether the client of a connection takes what is written to it; dropped, the connection has ended.
pub struct Writer(Entry);

impl Writer {
    /// Notes that the client stopped reading, or goes on.
    pub fn blocked(&self, is_blocked: bool) {
        self.0.reader.connection.set_blocked(is_blocked);
        let mut state = self.0.reader.state();
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
        Writer(self.responses.begin(Reader {
            key,
            connection,
            ticket: None,
            state: Mutex::default(),
        }))
    }
}

impl super::Admission {
    /// The response of a call that holds `parked` as long as it lasts, and ends with `last` when it is cut off or `limit` is
    /// over; its client is on the connection that `connection` ends.
    pub fn stream(
        &self,
        body: Body,
        key: Key,
        (parked, connection): (Parked, Connection),
        limit: Option<Duration>,
        last: fn() -> Frame<Bytes>,
    ) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let entry = self.responses.begin(Reader {
            key,
            connection,
            ticket: None,
            state: Mutex::new(State {
                since: Some(Instant::now()),
                parked: Some(Arc::new(parked)),
            }),
        });
        let limit = limit.map(|limit| Box::pin(tokio::time::sleep(limit)));
        Body::new(Outgoing {
            body,
            entry: Some(entry),
            back: None,
            end: Some(End { limit, last }),
        })
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
    /// `None` once its last byte was taken.
    entry: Option<Entry>,
    /// On its way back to a place.
    back: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    end: Option<End>,
}

impl Outgoing {
    /// Notes that the client has taken what it had; ready once the request has its place again.
    fn taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(entry) = &self.entry else {
            return Poll::Ready(());
        };
        let reader = &entry.reader;
        // One piece is on its way already; a second one would double what a client that does not read takes.
        ready!(reader.connection.poll_reads(cx));
        if self.back.is_none() {
            let mut state = reader.state();
            state.since = None;
            let Some(ticket) = reader.ticket.as_ref().filter(|_| state.parked.is_some()) else {
                return Poll::Ready(());
            };
            let ticket = ticket.clone();
            self.back = Some(Box::pin(async move { ticket.take_back().await }));
        }
        if let Some(back) = &mut self.back {
            ready!(back.as_mut().poll(cx));
            self.back = None;
            reader.state().parked = None;
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
        ready!(this.taken(cx));
        if let (Some(end), Some(entry)) = (&mut this.end, &this.entry) {
            let parked = entry.reader.state().parked.clone();
            if end.poll(parked.as_deref(), cx).is_ready() {
                let last = (end.last)();
                this.entry = None;
                this.body = Body::empty();
                return Poll::Ready(Some(Ok(last)));
            }
        }
        let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if matches!(polled, Some(Ok(_))) && !this.body.is_end_stream() {
            if let Some(entry) = &this.entry {
                entry.reader.state().since = Some(Instant::now());
            }
        } else if this.end.is_none() {
            // The server has all of it, and may not ask again.
            this.entry = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.end {
            Some(_) => self.entry.is_none(),
            None => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.end {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests;
