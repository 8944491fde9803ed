//! Opens stores as the settings say; one of two files here that know the rooms below `ops`.

use super::error::{CommandError, Result};
use crate::{
    config::{Config, Env},
    store::open::{self, Opened, Options, StoreUrl},
};

/// Opens the store at `url`; remotes are not asked anything yet.
pub(crate) async fn open(url: &str, config: &Config, env: &Env, read_only: bool) -> Result<Opened> {
    let url: StoreUrl = url.parse()?;
    let options = Options {
        read_only,
        concurrency: config.concurrency,
        bandwidth: config.bandwidth,
        retry_for: config.retry_for,
        stall: config.stall,
        connect_timeout: config.connect_timeout,
        ca_bundle: config.ca_bundle.clone(),
        s3: config.s3.for_store(),
        registry: config.registry.for_store(env),
        ..Options::default()
    };
    Ok(open::open(&url, &options).await?)
}

/// Refuses a folder that is not there; of what is remote nothing is known before it is asked.
pub(crate) fn must_be_there(url: &str) -> Result<()> {
    let (StoreUrl::Disk(path) | StoreUrl::Layout(path)) = url.parse()? else {
        return Ok(());
    };
    if path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    Err(
        CommandError::failed(format!("there is no store at `{}`", path.display()))
            .hint("the first export to it makes it"),
    )
}
