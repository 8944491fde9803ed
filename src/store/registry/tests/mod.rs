//! A registry that follows a script, to reproduce rare behaviour of real registries.

mod auth;
mod download;
mod fake;
mod many;
mod names;
mod upload;
mod way;

use std::time::Duration;

use bytes::Bytes;
use fake::Fake;
use futures_util::TryStreamExt as _;

use super::{Config, Location, Registry};
use crate::{
    artifact::Descriptor,
    redact::Secret,
    store::{BlobStore as _, Body, ByteStream, Put, Result, net},
};

fn some_bytes(len: usize) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(len as u64);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes.into()
}

fn desc(bytes: &Bytes) -> Descriptor {
    Descriptor::of("application/octet-stream", bytes)
}

fn common() -> net::Common {
    net::Common {
        stall: Duration::from_secs(5),
        ..net::Common::default()
    }
}

async fn open_with(fake: &Fake, config: Config) -> Registry {
    let location = Location::parse(&format!("oci://{}/team/app", fake.addr)).unwrap();
    Registry::open(&location, &config, &common()).await.unwrap()
}

async fn open(fake: &Fake) -> Registry {
    open_with(fake, Config::default()).await
}

fn as_user(password: &str) -> Config {
    Config {
        username: Some("user".to_owned()),
        password: Some(Secret::new(password)),
        ..Config::default()
    }
}

async fn collect(stream: ByteStream) -> Result<Bytes> {
    let parts: Vec<Bytes> = stream.try_collect().await?;
    Ok(parts.concat().into())
}

async fn put(store: &Registry, bytes: &Bytes) -> Result<Put> {
    store.put(&desc(bytes), &Body::from(bytes.clone())).await
}

async fn get(store: &Registry, bytes: &Bytes, range: std::ops::Range<u64>) -> Result<Bytes> {
    let stream = store.get(&desc(bytes), range).await?;
    collect(stream.expect("the blob is there")).await
}
