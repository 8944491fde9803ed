//! Sends each request's trace to the store, so that its log, or a proxy's, can be correlated.

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::error::BoxError;

use crate::trace;

/// Adds `traceparent` after the request was signed: headers that are not part of the signature may be added or lost in transit
/// (SigV4, "signed headers").
#[derive(Debug)]
pub(super) struct Traced;

impl Intercept for Traced {
    fn name(&self) -> &'static str {
        "cachectl::store::s3::Traced"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(here) = trace::current() {
            let headers = context.request_mut().headers_mut();
            headers.try_insert(trace::TRACEPARENT, here.to_string())?;
        }
        Ok(())
    }
}
