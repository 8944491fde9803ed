//! The messages of a streamed answer: progress, or a part of the report.

use super::{InParts, v1};

/// What a message says.
#[derive(Debug, Clone, PartialEq)]
pub enum Told<R> {
    /// How far the work is.
    Progress(v1::Progress),
    /// A part of the report.
    Report(R),
}

/// A message of one method's answer.
pub trait Message: Send + 'static {
    /// The report.
    type Report: InParts + Send;

    /// Says how far the work is.
    fn progress(progress: v1::Progress) -> Self;

    /// Carries a part of the report.
    fn report(part: Self::Report) -> Self;

    /// What it says; `None` for what only a later version understands.
    fn told(self) -> Option<Told<Self::Report>>;
}

macro_rules! message {
    ($($response:ident($module:ident) of $report:ident),+ $(,)?) => {$(
        impl Message for v1::$response {
            type Report = v1::$report;

            fn progress(progress: v1::Progress) -> Self {
                Self { event: Some(v1::$module::Event::Progress(progress)) }
            }

            fn report(part: v1::$report) -> Self {
                Self { event: Some(v1::$module::Event::Report(part)) }
            }

            fn told(self) -> Option<Told<v1::$report>> {
                Some(match self.event? {
                    v1::$module::Event::Progress(progress) => Told::Progress(progress),
                    v1::$module::Event::Report(part) => Told::Report(part),
                })
            }
        }
    )+};
}

message!(
    ListResponse(list_response) of ListReport,
    InspectResponse(inspect_response) of InspectReport,
    DeleteResponse(delete_response) of DeleteReport,
    PruneResponse(prune_response) of PruneReport,
    DiskUsageResponse(disk_usage_response) of DiskUsageReport,
    VerifyResponse(verify_response) of VerifyReport,
    CopyResponse(copy_response) of CopyReport,
);
