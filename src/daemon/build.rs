//! From a configuration to what answers requests.

use std::{path::Path, sync::Arc};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode},
};

use super::listen::Handler;
use crate::{
    serve::{
        auth::{self, Authority},
        registry::Registry,
    },
    store::{
        self,
        ingest::Uploads,
        open::{Options, StoreUrl},
    },
};

/// Builds what answers requests; binds nothing.
pub async fn build(url: &StoreUrl, options: &Options, state: &Path) -> store::Result<Handler> {
    let opened = store::open::open(url, options).await?;
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
    let authority = Authority::open(auth::Config::default(), state, auth::Exposure::LocalOnly);
    let authority = Arc::new(
        authority
            .await
            .map_err(|e| store::Error::new(store::ErrorKind::Invalid, "open", e.to_string()))?,
    );
    let registry = Arc::new(Registry::new(
        repositories,
        uploads,
        authority,
        Arc::default(),
    ));
    Ok(Arc::new(move |request: Request<Body>| {
        let registry = registry.clone();
        Box::pin(async move {
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
    }))
}
