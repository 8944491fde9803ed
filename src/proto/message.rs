//! The methods whose answer is a report: a stream of messages, each with progress or a part of the report.

use super::{InParts, Wire, v1};

/// The content of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum MessageContent<R> {
    /// Progress of the operation.
    Progress(v1::Progress),
    /// A part of the report.
    Report(R),
}

/// A message of one method's answer.
pub trait Message: prost::Message + Default + 'static {
    /// The report.
    type Report: InParts + Send;

    /// Makes a progress message.
    fn progress(progress: v1::Progress) -> Self;

    /// Makes a message with a part of the report.
    fn report(part: Self::Report) -> Self;

    /// Its content; `None` for content of a later version.
    fn content(self) -> Option<MessageContent<Self::Report>>;
}

/// The request of a method.
pub trait Method: prost::Message + 'static {
    /// The path of the method.
    const PATH: &'static str;
    /// The operation, as error messages name it: `cannot <OP>`.
    const OP: &'static str;
    /// One message of its answer.
    type Answer: Message;
    /// The report of the verb.
    type Report: Wire<<Self::Answer as Message>::Report>;
}

macro_rules! methods {
    ($(
        $method:literal, $op:literal: $request:ident -> $response:ident($module:ident)
            of $report:ident[$($list:ident),+] for $own:ty;
    )+) => {$(
        impl $crate::proto::Message for v1::$response {
            type Report = v1::$report;

            fn progress(progress: v1::Progress) -> Self {
                Self { event: Some(v1::$module::Event::Progress(progress)) }
            }

            fn report(part: v1::$report) -> Self {
                Self { event: Some(v1::$module::Event::Report(part)) }
            }

            fn content(self) -> Option<$crate::proto::MessageContent<v1::$report>> {
                Some(match self.event? {
                    v1::$module::Event::Progress(progress) => $crate::proto::MessageContent::Progress(progress),
                    v1::$module::Event::Report(part) => $crate::proto::MessageContent::Report(part),
                })
            }
        }

        impl $crate::proto::Method for v1::$request {
            const PATH: &'static str = concat!("/cachectl.v1.Control/", $method);
            const OP: &'static str = $op;
            type Answer = v1::$response;
            type Report = $own;
        }

        $crate::proto::parts::in_parts!($report: $($list),+);
    )+};
}
pub(super) use methods;
