//! The single entry point to all doors.
//!
//! - Holds: the order of what every request passes through: the door reads its head; request id, span and metrics; the check of
//!   host and site; authorization; a permit; waiting for an unreachable store; headers that restrain browsers.
//! - Enters: requests, with their [`Peer`] and [`Connection`](super::admission::Connection) in their extensions.
//! - Leaves: answers of [`Door`]s.
//! - Deliberately absent: routes, words of any protocol, sockets.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode, header, request::Parts},
    response::IntoResponse as _,
};
use futures_util::{FutureExt as _, future::BoxFuture};

use super::{
    admin::Health,
    admission::{Admission, Fault, Ticket},
    auth::{Authority, Peer, Principal},
    browsers, coding,
    door::{Access, Answer, Call, Door, Place, Route},
    hold::{HOLD, Holds},
    observe::{AskedBy, ClientGone, Observer, Why},
    refusal::Refusal,
};
use crate::{fair::caller, metrics::http::RouteLabel, store::Records};

/// Admits requests to doors.
pub struct Gateway {
    doors: Vec<Arc<dyn AnyDoor>>,
    authority: Arc<Authority>,
    admission: Arc<Admission>,
    holds: Arc<Holds>,
    observer: Observer,
    health: Option<Arc<Health>>,
}

impl Gateway {
    /// An entry point that authorizes callers by `authority` and shares capacity between them by `admission`; without any door
    /// yet.
    pub fn new(authority: Arc<Authority>, admission: Arc<Admission>, observer: Observer) -> Self {
        Self {
            doors: Vec::new(),
            authority,
            admission,
            holds: Arc::new(Holds::new(HOLD, None)),
            observer,
            health: None,
        }
    }

    /// The same, with one more door: the first door that recognizes a request answers it.
    #[must_use]
    pub fn door(mut self, door: Arc<impl Door>) -> Self {
        self.doors.push(door);
        self
    }

    /// The same, whose requests wait this long for an unreachable store. `remote` are the records of a remote store without a
    /// local cache directory: lookups of a tag wait for it only briefly, and it is asked whether it answers other requests.
    #[must_use]
    pub fn holding(self, limit: Duration, remote: Option<Arc<dyn Records>>) -> Self {
        let holds = Arc::new(Holds::new(limit, remote));
        Self { holds, ..self }
    }

    /// The same, which reports to `health` whether pushes are refused.
    #[must_use]
    pub fn telling(self, health: Arc<Health>) -> Self {
        let health = Some(health);
        Self { health, ..self }
    }

    /// Releases the requests that wait for an unreachable store, because the daemon is shutting down.
    pub fn drain(&self) {
        self.holds.end();
    }

    /// Answers a request.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let mut request = Some(request.into_parts());
        let answer = self
            .doors
            .iter()
            .find_map(|door| door.enter(self, &mut request));
        match answer {
            Some(answer) => answer.await,
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// Answers a request at a door; `None` leaves it to another one. Boxed, so that the futures of all doors are not part of
    /// the caller's future.
    pub(super) fn enter<'r, D: Door>(
        &'r self,
        door: &'r D,
        request: &mut Option<(Parts, Body)>,
    ) -> Option<BoxFuture<'r, Response<Body>>> {
        let route = door.route(&request.as_ref()?.0)?;
        let (parts, body) = request.take()?;
        let request = Request::from_parts(parts, body);
        let label = RouteLabel {
            door: door.name(),
            route: route.label,
            looks_up: route.looks_up,
            is_quiet: door.is_quiet(),
        };
        let answer = |request| self.guarded(door, route, request);
        let observed = self.observer.observe(label, request, answer);
        Some(observed.boxed())
    }

    /// Runs before all else: refuses malformed HTTP and requests that only a web page in a browser would send, and adds headers
    /// that keep a browser from running what it receives.
    async fn guarded<D: Door>(
        &self,
        door: &D,
        route: Route<D::Asked>,
        request: Request<Body>,
    ) -> Response<Body> {
        if request.headers().get_all(header::HOST).iter().count() > 1 {
            // RFC 9112, 3.2: a proxy in front may have used the other one.
            return (StatusCode::BAD_REQUEST, "more than one Host header\n").into_response();
        }
        if coding::is_unknown(request.headers()) {
            // A proxy in front may see a different end of the body, so nothing more is read.
            let close = [(header::CONNECTION, "close")];
            let said = "unknown Transfer-Encoding: only `chunked` is understood\n";
            return (StatusCode::NOT_IMPLEMENTED, close, said).into_response();
        }
        let is_head = request.method() == Method::HEAD;
        let host = match route.access {
            Access::Probe => Ok(()),
            _ => self.authority.check_host(&request),
        };
        let mut response = match host {
            Err(refusal) => refused(door, refusal),
            Ok(()) => match self.admit(door, route, request).await {
                Ok(response) => response,
                Err(refusal) => refused(door, refusal),
            },
        };
        if is_head {
            // The answer to a GET, without its body; the headers give its length.
            *response.body_mut() = Body::empty();
        }
        door.sign(response.headers_mut());
        browsers::harden(response.headers_mut());
        response
    }

    /// Authorizes the request, then lets the door answer it.
    async fn admit<D: Door>(
        &self,
        door: &D,
        route: Route<D::Asked>,
        request: Request<Body>,
    ) -> Answer {
        let asked = route.asked?;
        let (parts, mut body) = request.into_parts();
        let peer = Peer::of(&parts.extensions);
        let who = match &route.access {
            Access::Needs(needs) => self.authority.authorize(&parts, &peer, needs).await?,
            Access::Open | Access::Probe => Principal::nobody(),
        };
        let key = who.key(self.authority.caller(&parts.headers, &peer));
        let admission = &self.admission;
        let ticket = match route.place {
            Place::Request => Ticket::take(admission, key.clone(), &parts.extensions).await?,
            _ => Ticket::without_place(admission, key.clone(), &parts.extensions),
        };
        if let Place::Form { most, within } = route.place {
            let client = (key.clone(), ticket.connection());
            let form = admission.gather(client, body, most, within).await;
            body = form.map_err(|fault| Refusal::from(&fault))?.into();
        }
        let may_write = ![Method::GET, Method::HEAD].contains(&parts.method);
        let holds = self.holds.clone();
        let call = Call {
            parts,
            who,
            ticket,
            holds,
        };
        let mut body = Some(body);
        let ask = || door.answer(&asked, &call, body.take().unwrap_or_default());
        let answered = self.holds.ask(route.hold, &call.ticket, ask);
        let answered = caller::on_behalf_of(Some(key), answered).await;
        let Call { who, ticket, .. } = call;
        // The layers below only saw the consequences of the client's fault, so report the fault itself.
        let answered = answered.map_err(|refusal| ticket.fault().map_or(refusal, Refusal::from));
        if let Some(health) = &self.health {
            match &answered {
                Err(Refusal { store, .. }) if may_write && store.is_some() => health.pushed(*store),
                Ok(response) if response.status() == StatusCode::CREATED => health.pushed(None),
                _ => {}
            }
        }
        let mut response = answered.unwrap_or_else(|refusal| refused(door, refusal));
        if matches!(ticket.fault(), Some(Fault::Gone(_))) {
            response.extensions_mut().insert(ClientGone);
        }
        if !who.is_anonymous() {
            let name = AskedBy(who.name().to_owned());
            response.extensions_mut().insert(name);
        }
        Ok(match route.place {
            Place::Request => ticket.respond(response),
            _ => response,
        })
    }
}

/// The answer to a refused request, with the cause for the log.
fn refused(door: &impl Door, mut refusal: Refusal) -> Response<Body> {
    let why = refusal.why.take();
    let mut response = door.refuse(&refusal);
    if let Some(why) = why.map(Why) {
        response.extensions_mut().insert(why);
    }
    response
}

/// A door with its type of request erased.
trait AnyDoor: Send + Sync {
    /// [`Gateway::enter`].
    fn enter<'r>(
        &'r self,
        gateway: &'r Gateway,
        request: &mut Option<(Parts, Body)>,
    ) -> Option<BoxFuture<'r, Response<Body>>>;
}

impl<D: Door> AnyDoor for D {
    fn enter<'r>(
        &'r self,
        gateway: &'r Gateway,
        request: &mut Option<(Parts, Body)>,
    ) -> Option<BoxFuture<'r, Response<Body>>> {
        gateway.enter(self, request)
    }
}
