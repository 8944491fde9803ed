//! Credentials for the registry: Basic, or tokens, each renewed at 90 % of its life and when the registry refuses it.

use std::sync::Arc;

use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::{sync::OnceCell, time::Instant};
use tracing::{debug, warn};

use super::{
    challenge::{self, Challenge},
    config::Config,
    connection::Connection,
    credentials::{self, Account, Credential, Found},
    door::Door,
    guard,
    location::Location,
    once::Once,
    scopes::Scopes,
    token::{self, Realm, Token},
};
use crate::store::{Error, Result};

/// Maximum number of tokens that are kept; a registry store needs three, and one more for each repository to mount from.
const MAX_TOKENS: usize = 64;

/// The identity of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// With our credentials, if there are any.
    Ourselves,
    /// Anonymous.
    Anybody,
}

/// The credentials of a request.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) header: HeaderValue,
    /// The token, with the time of its request.
    token: Option<(Arc<OnceCell<Token>>, Instant)>,
}

#[derive(Debug, Clone)]
enum Scheme {
    /// The registry has not requested credentials yet.
    Unasked,
    Basic,
    Bearer(Realm),
}

#[derive(Debug)]
struct Kept {
    scopes: Scopes,
    whose: As,
    /// Filled by one request while others that need it wait.
    cell: Arc<OnceCell<Token>>,
}

#[derive(Debug)]
struct State {
    scheme: Scheme,
    tokens: Vec<Kept>,
    /// Used for the next token instead of the password.
    refresh: Option<Credential>,
    /// Our credentials are refused, and reading works without them.
    read_as_anybody: bool,
}

/// Credentials and tokens of one registry.
#[derive(Debug)]
pub(super) struct Auth {
    location: Location,
    config: Config,
    credential: OnceCell<Found>,
    state: Mutex<State>,
    warned: Once,
    warned_in_clear: Once,
}

impl Auth {
    pub(super) fn new(location: Location, config: Config) -> Self {
        Self {
            location,
            config,
            credential: OnceCell::new(),
            state: Mutex::new(State {
                scheme: Scheme::Unasked,
                tokens: Vec::new(),
                refresh: None,
                read_as_anybody: false,
            }),
            warned: Once::default(),
            warned_in_clear: Once::default(),
        }
    }

    async fn credential(&self) -> Result<Option<&Credential>> {
        let found = self
            .credential
            .get_or_try_init(|| credentials::find(&self.location, &self.config))
            .await?;
        let found = found.credential.as_ref();
        if found.is_some() && self.is_in_clear() && self.warned_in_clear.first() {
            // Logged at every verbosity: otherwise nobody would notice.
            warn!(target: "cachectl::insecure", store = %self.location, "Passwords and tokens for this daemon are sent over plain http; use cachectld+https://, or set registry.insecure if nobody can eavesdrop");
        }
        Ok(found)
    }

    /// Returns true if our credentials are sent in clear text over the network, and no setting permits that.
    fn is_in_clear(&self) -> bool {
        let http = matches!(self.location.door, Some(Door::Http)) && !self.config.insecure;
        http && self
            .location
            .api()
            .is_ok_and(|url| !guard::is_loopback(&url))
    }

    /// Returns true if there are credentials that reading may do without.
    pub(super) async fn has_credentials(&self) -> bool {
        matches!(self.credential().await, Ok(Some(_)))
    }

    /// The credentials of a request with identity `whose`, to report if it was refused.
    pub(super) fn account(&self, whose: As) -> Account {
        match self.credential.get() {
            _ if whose == As::Anybody => Account::NotSent("the request was anonymous".to_owned()),
            None => Account::NotSent("the answer did not ask for any".to_owned()),
            Some(found) if found.credential.is_some() => Account::Sent(found.account.clone()),
            Some(found) => Account::NotSent(found.account.clone()),
        }
    }

    /// The identity to try first for reading.
    pub(super) fn reader(&self) -> As {
        if self.state.lock().read_as_anybody {
            As::Anybody
        } else {
            As::Ourselves
        }
    }

    /// Remembers that reading works only without our credentials.
    pub(super) fn read_as_anybody(&self) {
        self.state.lock().read_as_anybody = true;
        if self.warned.first() {
            warn!(store = %self.location, "The stored credentials are refused; continuing to read without them");
        }
    }

    /// The header to send for `need`; `None` for no credentials.
    ///
    /// # Errors
    /// Errors of the token endpoint, and of configured credentials that cannot be read.
    pub(super) async fn show(
        &self,
        connection: &Connection,
        need: &Scopes,
        whose: As,
    ) -> Result<Option<Shown>> {
        let scheme = self.state.lock().scheme.clone();
        match scheme {
            Scheme::Unasked => Ok(None),
            Scheme::Basic if whose == As::Anybody => Ok(None),
            Scheme::Basic => {
                let header = self.credential().await?.and_then(Credential::basic);
                Ok(header.map(|header| Shown {
                    header,
                    token: None,
                }))
            }
            Scheme::Bearer(realm) => {
                let (cell, scopes) = self.cell(need, whose);
                let token = cell
                    .get_or_try_init(|| self.fetch(connection, &realm, &scopes, whose))
                    .await?;
                Ok(Some(Shown {
                    header: token.header.clone(),
                    token: Some((cell.clone(), token.since)),
                }))
            }
        }
    }

    /// Name and password; `None` while the registry has not requested credentials, or if ours are not a password.
    ///
    /// # Errors
    /// Errors of configured credentials that cannot be read.
    pub(super) async fn password(&self) -> Result<Option<HeaderValue>> {
        if matches!(self.state.lock().scheme, Scheme::Unasked) {
            return Ok(None);
        }
        Ok(self.credential().await?.and_then(Credential::basic))
    }

    /// A valid token that covers `need`, or the slot of one for exactly that.
    ///
    /// A wider one that has not been obtained yet is not used: the endpoint may refuse it.
    fn cell(&self, need: &Scopes, whose: As) -> (Arc<OnceCell<Token>>, Scopes) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let live = |k: &&Kept| {
            let fits = k.whose == whose && k.scopes.covers(need);
            fits && k.cell.get().is_some_and(|t| t.renew_at > now)
        };
        if let Some(kept) = state.tokens.iter().find(live) {
            return (kept.cell.clone(), kept.scopes.clone());
        }
        let same = |k: &&mut Kept| k.whose == whose && k.scopes == *need;
        if let Some(kept) = state.tokens.iter_mut().find(same) {
            if kept.cell.initialized() {
                kept.cell = Arc::default();
            }
            return (kept.cell.clone(), kept.scopes.clone());
        }
        if state.tokens.len() >= MAX_TOKENS {
            state.tokens.remove(0);
        }
        let kept = Kept {
            scopes: need.clone(),
            whose,
            cell: Arc::default(),
        };
        let found = (kept.cell.clone(), kept.scopes.clone());
        state.tokens.push(kept);
        found
    }

    async fn fetch(
        &self,
        connection: &Connection,
        realm: &Realm,
        scopes: &Scopes,
        whose: As,
    ) -> Result<Token> {
        let own = match whose {
            As::Anybody => None,
            As::Ourselves => self.credential().await?,
        };
        let refresh = self.state.lock().refresh.clone().filter(|_| own.is_some());
        if let Some(refresh) = refresh {
            match token::fetch(
                connection,
                realm,
                scopes,
                Some(&refresh),
                self.account(whose),
            )
            .await
            {
                Ok(token) => return Ok(self.keep_refresh(token)),
                Err(e) if e.is_temporary() => return Err(e),
                Err(error) => {
                    debug!(%error, "The refresh token is refused");
                    self.state.lock().refresh = None;
                }
            }
        }
        let token = token::fetch(connection, realm, scopes, own, self.account(whose)).await?;
        Ok(if own.is_some() {
            self.keep_refresh(token)
        } else {
            token
        })
    }

    fn keep_refresh(&self, token: Token) -> Token {
        if let Some(secret) = &token.refresh {
            self.state.lock().refresh = Some(Credential::Identity(secret.clone()));
        }
        token
    }

    /// Learns from a refusal, and widens `need` by what the registry requests. Returns true if a retry may succeed now.
    ///
    /// `since`: when the request was first sent; if a token requested later is refused, it is not renewed again.
    ///
    /// # Errors
    /// `Denied` for a realm at a forbidden place.
    pub(super) fn challenged(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        shown: Option<&Shown>,
        since: Instant,
        need: &mut Scopes,
    ) -> Result<bool> {
        // Sorted by preference.
        match challenge::parse(headers).into_iter().next() {
            Some(Challenge::Bearer {
                realm,
                service,
                scopes,
                error,
            }) => {
                let url = connection
                    .guard()
                    .realm(connection.base(), &realm)
                    .map_err(|why| Error::denied("get token", why))?;
                debug!(realm = %guard::show(&url), ?error, "Requesting a token");
                let wider = !need.covers(&scopes);
                need.merge(&scopes);
                let mut state = self.state.lock();
                let new = Realm { url, service };
                let moved = !matches!(&state.scheme, Scheme::Bearer(old) if *old == new);
                if moved {
                    state.scheme = Scheme::Bearer(new);
                    state.tokens.clear();
                    state.refresh = None;
                }
                let Some((cell, asked)) = shown.and_then(|s| s.token.as_ref()) else {
                    return Ok(moved || shown.is_none());
                };
                // Others may have renewed it already: remove only the token that was refused.
                state.tokens.retain(|k| !Arc::ptr_eq(&k.cell, cell));
                Ok(moved || wider || *asked < since)
            }
            Some(Challenge::Basic) => {
                let mut state = self.state.lock();
                let learned = !matches!(state.scheme, Scheme::Basic);
                state.scheme = Scheme::Basic;
                Ok(learned || shown.is_none())
            }
            None => Ok(false),
        }
    }
}
