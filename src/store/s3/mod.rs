//! A bucket as a store: [`Keyed`] below a prefix, using the AWS SDK.
//!
//! - Holds: the client, conversion of its errors, uploads in one piece or in parts, ranged reads, tags, listings.
//! - Enters: a [`Location`], a [`Config`], the settings of all remotes ([`net::Common`]).
//! - Leaves: the store traits; no type of the SDK.
//! - Deliberately absent: retries of whole operations (the `Retrying` wrapper; only parts of an upload are retried here, since
//!   sending 5 GB again is too much for one lost part), limits, and trust in the server's conditional writes.
//!
//! Objects appear atomically, so nothing is renamed. A blob's bytes are checked against its digest before the first of them is
//! sent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aws_sdk_s3::Client;

mod account;
mod blobs;
mod cap;
mod client;
mod clock;
mod config;
mod environment;
mod error;
mod foreign;
mod get;
mod list;
mod location;
mod missing;
mod multipart;
mod objects;
mod patience;
mod put;
mod sweep;
mod traced;
mod words;

pub use config::{Checksum, Config, Sse};
pub use location::Location;

use self::patience::Answer;
use super::{
    error::Result, keyed::Keyed, keys::Repo, net, server_time::ServerClock, signs::Signs,
    wrap::Width,
};
use crate::redact::Secret;

/// Parts of as many blobs may be sent at once, while that makes them faster together; half of one at first, since many connections
/// over a slow link look stalled.
const PARTS_BLOBS: usize = 4;

/// An access key that is passed in rather than found by the SDK.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Its id, which is not a secret.
    pub id: String,
    /// The key itself.
    pub secret: Secret,
    /// The session token of a temporary key.
    pub session: Option<Secret>,
}

/// A store in a bucket; cheap to clone.
pub type S3 = Keyed<Bucket>;

/// The driver of a bucket.
#[derive(Clone)]
pub struct Bucket {
    wire: Arc<Wire>,
}

/// State that all repositories of one store share.
struct Wire {
    client: Client,
    clock: ServerClock,
    bucket: String,
    /// Empty, or ending in `/`.
    prefix: String,
    /// For messages.
    url: String,
    config: Config,
    patience: net::Patience,
    sends_sha256: bool,
    /// The variable with the proxy in use.
    proxy: Option<&'static str>,
    /// Parts of all blobs that are sent at once.
    parts: Arc<Width>,
    /// Whether the bucket is known to exist.
    bucket_seen: AtomicBool,
    signs: Signs,
    /// False once the store has refused `If-None-Match` and `If-Match` as unknown.
    conditions: AtomicBool,
    /// False once the store has refused `DeleteObjects`.
    batch_deletes: AtomicBool,
}

impl S3 {
    /// Opens the store at `location`, whose own settings take precedence over `config`. The first request is sent when the
    /// bucket is needed.
    ///
    /// # Errors
    /// `Invalid` for invalid settings, an unreadable CA bundle, or a missing region.
    pub async fn open(location: &Location, config: &Config, common: &net::Common) -> Result<Self> {
        Self::open_as(location, config, common, None).await
    }

    /// The environment variable with the proxy through which the store is reached, if any.
    pub fn proxy(&self) -> Option<&'static str> {
        self.objects.wire.proxy
    }

    /// As [`Self::open`], with these keys instead of what the AWS chain would find.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_as(
        location: &Location,
        config: &Config,
        common: &net::Common,
        keys: Option<Keys>,
    ) -> Result<Self> {
        let config = config.clone().overridden_by(&location.settings);
        let mut url = Location {
            settings: config.clone(),
            ..location.clone()
        }
        .to_string();
        config.check().map_err(|e| e.at(&url, ""))?;
        net::install_tls_provider();
        let clock = ServerClock::default();
        let connection = client::connect(&location.bucket, &config, common, &clock, keys)
            .await
            .map_err(|e| e.at(&url, ""))?;
        if let (None, Some(host)) = (&config.endpoint, &connection.other_host) {
            // From the environment or a profile: messages must say where requests were sent.
            url = format!("{url}?endpoint={host}");
        }
        let mut prefix = location.prefix.clone();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        let parts = config.part_concurrency();
        let wire = Wire {
            parts: Width::new(parts.div_ceil(2), PARTS_BLOBS * parts),
            client: connection.client,
            clock,
            bucket: location.bucket.clone(),
            prefix,
            url,
            config,
            patience: net::Patience::of(common, Answer::Later as u32),
            sends_sha256: connection.sends_sha256,
            proxy: connection.proxy,
            bucket_seen: AtomicBool::new(false),
            signs: Signs::default(),
            conditions: AtomicBool::new(true),
            batch_deletes: AtomicBool::new(true),
        };
        let bucket = Bucket {
            wire: Arc::new(wire),
        };
        Ok(Self::new(bucket, Repo::cli()))
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.wire.url)
    }
}

impl Wire {
    /// The object key of a key of the tree.
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn uses_conditions(&self) -> bool {
        self.conditions.load(Ordering::Relaxed)
    }

    fn refuses_conditions(&self) {
        if self.conditions.swap(false, Ordering::Relaxed) {
            tracing::debug!(
                store = self.url,
                "The store does not support conditional writes"
            );
        }
    }
}
