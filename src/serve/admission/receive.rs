//! Bodies of requests: none holds a work permit before its last byte, a slow one holds no permit at all, and one whose client
//! is silent is abandoned.

use std::{future::poll_fn, sync::Arc, time::Duration};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http_body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::{Admission, Connection, Fault, Key, Lane, Parked, Ticket};
use crate::{
    fair::lines,
    store::{ByteStream, Error, ErrorKind},
};

/// A body is slow if it brings less than this within [`WINDOW`].
const LEAST: usize = 64 << 10;
const WINDOW: Duration = Duration::from_secs(1);

impl Ticket {
    /// The body of an upload: its duration is not limited, but its client must not be silent.
    pub fn receive(&self, body: Body) -> ByteStream {
        let lane = self.admission().uploads.clone();
        self.stream(body, lane, None)
    }

    /// A body that is collected in memory, and must be complete within `limit`.
    pub fn receive_within(&self, body: Body, limit: Duration) -> ByteStream {
        let lane = self.admission().manifests.clone();
        self.stream(body, lane, Some(limit))
    }

    fn stream(&self, body: Body, lane: Lane, limit: Option<Duration>) -> ByteStream {
        let now = Instant::now();
        let receiving = Receiving {
            pieces: body.into_data_stream(),
            ticket: self.clone(),
            lane,
            moves: false,
            parked: None,
            window: now + WINDOW,
            came: 0,
            handed: now,
            limit: limit.map(|limit| (now + limit, limit)),
        };
        let next = |mut receiving: Receiving| async move {
            match receiving.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, receiving))),
                Err(fault) => {
                    tell(receiving.ticket.key(), &fault);
                    receiving.ticket.blame(&fault);
                    let kind = ErrorKind::Invalid;
                    Err(Error::new(kind, "receive", fault.to_string()))
                }
            }
        };
        stream::try_unfold(receiving, next).boxed()
    }
}

/// A body in transit.
struct Receiving {
    pieces: BodyDataStream,
    ticket: Ticket,
    lane: Lane,
    /// Whether it has begun: an empty body never does.
    moves: bool,
    /// Set while it is slow.
    parked: Option<Parked>,
    /// When the received bytes are counted again.
    window: Instant,
    came: usize,
    /// When the last piece was handed on: time that the consumer takes for it does not count as the client's.
    handed: Instant,
    limit: Option<(Instant, Duration)>,
}

impl Receiving {
    /// Exchanges the work permit for a slot among transfers, until the last byte is here.
    async fn begin(&mut self) -> Result<(), Fault> {
        self.moves = true;
        let place = self.ticket.transfer().await;
        place.map_err(|_| Fault::Crowded)?;
        self.ticket.end_work();
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if !self.moves {
            self.begin().await?;
        }
        let ours = self.handed.elapsed();
        self.window += ours;
        if let Some((at, _)) = &mut self.limit {
            *at += ours;
        }
        let stall = self.ticket.admission().stall();
        let silent = Instant::now() + stall;
        loop {
            let (until, fault) = match self.limit {
                Some((at, limit)) if at < silent => (at, Fault::Slow(limit)),
                _ => (silent, Fault::Silent(stall)),
            };
            let look = match self.parked {
                None => self.window.min(until),
                Some(_) => until,
            };
            let (parked, ticket) = (self.parked.as_ref(), &self.ticket);
            let cut = async {
                match parked {
                    Some(parked) => parked.cut().await,
                    None => poll_fn(|cx| ticket.poll_cut(cx)).await,
                }
            };
            let piece = tokio::select! {
                biased;
                piece = timeout_at(look, self.pieces.next()) => piece,
                () = cut => return Err(Fault::Crowded),
            };
            match piece {
                Ok(Some(Ok(piece))) => {
                    self.count(piece.len()).await;
                    self.handed = Instant::now();
                    return Ok(Some(piece));
                }
                Ok(Some(Err(error))) => return Err(Fault::of(&error)),
                Ok(None) => {
                    self.end().await;
                    return Ok(None);
                }
                Err(_) if look == until => return Err(fault),
                Err(_) => self.look(),
            }
        }
    }

    /// Counts received bytes: a body that is fast again rejoins the others.
    async fn count(&mut self, bytes: usize) {
        if self.parked.is_none() {
            self.came = self.came.saturating_add(bytes);
            if Instant::now() >= self.window {
                self.look();
            }
            return;
        }
        let now = Instant::now();
        if now >= self.window {
            (self.window, self.came) = (now + WINDOW, 0);
        }
        self.came = self.came.saturating_add(bytes);
        if self.came >= LEAST {
            self.leave().await;
        }
    }

    /// Evaluates a window: a body that was slow gives its slot back.
    fn look(&mut self) {
        if self.came < LEAST {
            let (key, connection) = (self.ticket.key().clone(), self.ticket.connection());
            self.parked = Some(self.lane.park_upload(key, connection));
            self.ticket.give_back();
        }
        (self.window, self.came) = (Instant::now() + WINDOW, 0);
    }

    async fn leave(&mut self) {
        if self.parked.is_some() {
            self.ticket.move_on().await;
            self.parked = None;
        }
    }

    /// From now on there is work to do.
    async fn end(&mut self) {
        self.ticket.end_transfer();
        self.leave().await;
        self.ticket.take_back().await;
    }
}

fn tell(caller: &Key, fault: &Fault) {
    if lines::may_write(caller) {
        tracing::info!(why = %fault, "Request body ended early");
    }
}

impl Admission {
    /// Reads a small body whole, without a permit: at most `most` bytes and what arrived with the last of them, within `limit`.
    ///
    /// # Errors
    /// The client's fault; a body that is too long is left to the caller of this function.
    pub async fn gather(
        self: &Arc<Self>,
        (key, connection): (Key, &Connection),
        mut body: Body,
        most: usize,
        limit: Duration,
    ) -> Result<Bytes, Fault> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let caller = key.clone();
        let parked = self.forms.park_on(key, connection, Instant::now());
        let read = async {
            let mut bytes = BytesMut::new();
            while bytes.len() <= most
                && let Some(frame) = http_body_util::BodyExt::frame(&mut body).await
            {
                let frame = frame.map_err(|e| Fault::of(&e))?;
                if let Ok(data) = frame.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
            Ok(bytes.freeze())
        };
        let read = tokio::select! {
            biased;
            read = tokio::time::timeout(limit, read) => read.unwrap_or(Err(Fault::Slow(limit))),
            () = parked.cut() => Err(Fault::Crowded),
        };
        read.inspect_err(|fault| tell(&caller, fault))
    }
}

#[cfg(test)]
mod tests;
