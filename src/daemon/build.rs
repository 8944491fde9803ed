//! From a configuration to what answers requests.

use std::{path::Path, sync::Arc};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};

use super::listen::Handler;
use crate::{
    ops::prune,
    serve::{
        control::{self, Control},
        registry::Registry,
    },
    store::{
        self,
        ingest::Uploads,
        marked,
        open::{Opened, Options, StoreUrl},
    },
    task,
};

/// What answers requests.
pub struct Doors {
    /// All of them.
    pub handler: Handler,
    /// The control door, to be told where the daemon listens and when it drains.
    pub control: Arc<Control>,
}

/// Builds what answers requests; binds nothing.
///
/// `allow_path` lets requests of the control door name folders of this machine.
pub async fn build(
    url: &StoreUrl,
    options: &Options,
    state: &Path,
    allow_path: bool,
) -> store::Result<Doors> {
    let serving = Options {
        beside_doors: true,
        ..options.clone()
    };
    let opened = Arc::new(store::open::open(url, &serving).await?);
    know_marks(&opened).await;
    let repositories = opened.repositories.clone().ok_or_else(|| {
        store::Error::new(
            store::ErrorKind::Unsupported,
            "open",
            "this kind of store cannot stand behind a daemon yet; use disk: or s3:",
        )
        .at(&opened.url.to_string(), "")
    })?;
    let uploads = opened
        .spool_dir
        .clone()
        .unwrap_or_else(|| state.join("uploads"));
    // What lies on this machine's disk no other daemon sees.
    let shared = opened.spool_dir.is_none().then(|| repositories.records());
    let uploads = Arc::new(Uploads::open(&uploads, shared)?);
    let registry = Arc::new(Registry::new(repositories, uploads));
    let settings = control::Settings {
        allow_path,
        options: options.clone(),
        temp_dir: state.join("tmp"),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        concurrency: Options::default().concurrency,
    };
    let control = Arc::new(Control::new(opened, None, settings).await?);
    let doors = control.clone();
    let handler: Handler = Arc::new(move |request: Request<Body>| {
        let (registry, control) = (registry.clone(), control.clone());
        Box::pin(async move {
            if Control::takes(&request) {
                return control.handle(request).await;
            }
            let path = request.uri().path();
            if path == "/v2" || path.starts_with("/v2/") {
                return registry.handle(request).await;
            }
            let mut response = Response::new(Body::empty());
            if !matches!(path, "/readyz" | "/livez" | "/startupz") {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            response
        })
    });
    Ok(Doors {
        handler,
        control: doors,
    })
}

/// Keeps what marks name known, as [`marked`] asks of every daemon; a store that is away is asked again.
async fn know_marks(opened: &Arc<Opened>) {
    let read = async |opened: &Opened| {
        let read = prune::read_marked(opened).await;
        read.inspect_err(|error| tracing::warn!(%error, "Marks not read"))
            .is_ok()
    };
    let mut known = read(opened).await;
    let opened = opened.clone();
    let again = async move {
        loop {
            let soon = marked::EVERY / if known { 1 } else { 10 };
            tokio::time::sleep(soon).await;
            known = read(&opened).await;
        }
    };
    // As long as the process lives.
    task::spawn("read marks", again).detach();
}
