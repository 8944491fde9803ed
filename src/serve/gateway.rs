//! The one way in to all doors.
//!
//! - Holds: the order of what every request goes through: a look at its head by the door, an id, a span and numbers, the check of host and
//!   site, authorization, a place, waiting for an unreachable store, headers that tame browsers.
//! - Enters: requests, with their [`Peer`] and [`Connection`](super::admission::Connection) among their extensions.
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

/// Lets requests in to doors.
pub struct Gateway {
    doors: Vec<Arc<dyn AnyDoor>>,
    authority: Arc<Authority>,
    admission: Arc<Admission>,
    holds: Arc<Holds>,
    observer: Observer,
    health: Option<Arc<Health>>,
}

impl Gateway {
    /// A way in for whom `authority` lets in, which callers share by `admission`; to no door yet.
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

    /// The same, with one more door: a request goes to the first one that it is for.
    #[must_use]
    pub fn door(mut self, door: Arc<impl Door>) -> Self {
        self.doors.push(door);
        self
    }

    /// The same, whose requests wait this long for an unreachable store. `remote` are the records of a store behind a network
    /// without a folder in front: it is asked what a tag stands for only for a while, and whether it answers anything else.
    #[must_use]
    pub fn holding(self, limit: Duration, remote: Option<Arc<dyn Records>>) -> Self {
        let holds = Arc::new(Holds::new(limit, remote));
        Self { holds, ..self }
    }

    /// The same, which tells `health` whether pushes are refused.
    #[must_use]
    pub fn telling(self, health: Arc<Health>) -> Self {
        let health = Some(health);
        Self { health, ..self }
    }

    /// Lets go the requests that wait for an unreachable store, since the daemon ends.
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

    /// Answers a request at a door; `None` leaves it for another one. On the heap: the answers of all doors are in no other future.
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

    /// In front of all else: what is not proper HTTP and what a web page in a browser would ask is refused, and what a browser gets
    /// cannot run.
    async fn guarded<D: Door>(
        &self,
        door: &D,
        route: Route<D::Asked>,
        request: Request<Body>,
    ) -> Response<Body> {
        if request.headers().get_all(header::HOST).iter().count() > 1 {
            // RFC 9112, 3.2: whoever stands in front may have taken the other one.
            return (StatusCode::BAD_REQUEST, "more than one Host header\n").into_response();
        }
        if coding::is_unknown(request.headers()) {
            // Where the body ends is what whoever stands in front may see otherwise, so nothing more is read.
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
            // What a GET would answer, without its body; the headers say how long that is.
            *response.body_mut() = Body::empty();
        }
        door.sign(response.headers_mut());
        browsers::harden(response.headers_mut());
        response
    }

    /// Lets a request in that may do what it asks for.
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
        let is_push = ![Method::GET, Method::HEAD].contains(&parts.method);
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
        // What was below it only met what the client had done wrong.
        let answered = answered.map_err(|refusal| ticket.fault().map_or(refusal, Refusal::from));
        if let Some(health) = &self.health {
            match &answered {
                Err(Refusal { store, .. }) if is_push && store.is_some() => health.pushed(*store),
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

/// The answer to a request that is refused, with the cause for the log.
fn refused(door: &impl Door, mut refusal: Refusal) -> Response<Body> {
    let why = refusal.why.take();
    let mut response = door.refuse(&refusal);
    if let Some(why) = why.map(Why) {
        response.extensions_mut().insert(why);
    }
    response
}

/// A door, whatever its requests ask for.
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
