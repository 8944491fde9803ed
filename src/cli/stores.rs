//! Opens stores as the settings say; one of two files here that know the rooms below `ops`.

use super::error::Result;
use crate::{
    config::{Config, Env},
    store::open::{Opened, Options, StoreUrl},
};

/// Opens the store at `url`.
pub(crate) async fn open(
    url: &str,
    _config: &Config,
    _env: &Env,
    read_only: bool,
) -> Result<Opened> {
    let url: StoreUrl = url.parse()?;
    let options = Options { read_only, ..Options::default() };
    Ok(crate::store::open::open(&url, &options).await?)
}
