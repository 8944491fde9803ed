//! Limits every answer except an object's own bytes to the size of a listing's page: the SDK reads all others whole, however
//! long, before anybody checks them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use aws_sdk_s3::{
    config::{ConfigBag, RuntimeComponents, SharedHttpClient},
    error::BoxError,
    primitives::SdkBody,
};
use aws_smithy_runtime_api::{
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        runtime_components::RuntimeComponentsBuilder,
    },
    shared::IntoShared as _,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A page of a listing has a thousand keys of at most 1,024 bytes; nothing else that is read whole is nearly as long.
pub(super) const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// Added by the SDK to the URL of every request for an object's bytes. Those are streamed, and their readers limit them.
const OBJECT: &str = "x-id=GetObject";

/// An answer that exceeds the limit.
#[derive(Debug, thiserror::Error)]
#[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
pub(super) struct TooLong;

/// The same client with the limit.
pub(super) fn capped(client: SharedHttpClient) -> SharedHttpClient {
    CappedClient(client).into_shared()
}

#[derive(Debug)]
struct CappedClient(SharedHttpClient);

impl HttpClient for CappedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(CappedConnector(self.0.http_connector(settings, components)))
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        cfg: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_base_client_config(components, cfg)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        cfg: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_final_config(components, cfg)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

#[derive(Debug)]
struct CappedConnector(SharedHttpConnector);

impl HttpConnector for CappedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let query = request.uri().split_once('?').map_or("", |(_, query)| query);
        let object = query.split('&').any(|part| part == OBJECT);
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            // If it is not a success, the answer to that request is a document, too.
            if object && answer.status().is_success() {
                return Ok(answer);
            }
            Ok(answer.map(|inner| {
                SdkBody::from_body_1_x(Capped {
                    inner,
                    left: MAX_ANSWER_BYTES,
                })
            }))
        })
    }
}

struct Capped {
    inner: SdkBody,
    left: u64,
}

impl Body for Capped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = self.left.checked_sub(bytes) else {
                return Poll::Ready(Some(Err(TooLong.into())));
            };
            self.left = left;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}
