//! The store's clock, taken from the `Date` of every answer.

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::BoxError,
};

use crate::store::server_time::ServerClock;

impl Intercept for ServerClock {
    fn name(&self) -> &'static str {
        "cachectl::store::s3::ServerClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        self.listen(headers.get("date"), headers.get("age"));
        Ok(())
    }
}
