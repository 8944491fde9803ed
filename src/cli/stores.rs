//! Opens stores as the settings say; one of two files here that know the rooms below `ops`.

use std::{path::Path, sync::Arc};

use super::error::{CommandError, Result};
use crate::{
    config::{Config, Env},
    store::{
        Meet, Store,
        disk::{Disk, Settings},
        layout::Layout,
        open::Opened,
    },
};

/// Opens the store at `url`.
pub(crate) async fn open(
    url: &str,
    _config: &Config,
    _env: &Env,
    read_only: bool,
) -> Result<Opened> {
    let settings = Settings {
        read_only,
        ..Settings::default()
    };
    if let Some(path) = url.strip_prefix("disk:") {
        let disk = Disk::open(
            Path::new(path),
            "cachectl"
                .parse()
                .map_err(|e| CommandError::usage(format!("{e}")))?,
            &settings,
        )
        .await?;
        let spool_dir = disk.spool_dir();
        let disk = Arc::new(disk);
        return Ok(Opened {
            store: disk.clone() as Arc<dyn Store>,
            meet: Meet::CompareAndSwap,
            untag: Some(disk.clone()),
            sweep: Some(disk),
            url: url.to_owned(),
            spool_dir,
        });
    }
    if let Some(path) = url.strip_prefix("oci-layout:") {
        let disk = Layout::open(Path::new(path), &settings).await?;
        let spool_dir = disk.spool_dir();
        let disk = Arc::new(disk);
        return Ok(Opened {
            store: disk.clone() as Arc<dyn Store>,
            meet: Meet::CompareAndSwap,
            untag: Some(disk.clone()),
            sweep: Some(disk),
            url: url.to_owned(),
            spool_dir,
        });
    }
    Err(CommandError::usage(format!(
        "interim: {}",
        crate::redact::url(url)
    )))
}
