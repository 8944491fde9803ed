//! Shows each request's trace to the store, so that what it or a proxy before it records can be found.

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::error::BoxError;

use crate::trace;

/// Adds `traceparent` after the request was signed: a header that the signature does not name may be added or lost on the
/// way (SigV4, "signed headers").
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
