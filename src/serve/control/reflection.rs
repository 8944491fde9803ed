//! Calls of reflection: the questions arrive while earlier ones are answered, so they are not read first. The questions end
//! with the answer; otherwise the service would keep them as long as the connection lives.

use axum::{body::Body, http::Response};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use tokio::{sync::oneshot, time::timeout};

use super::REFLECTION;

/// Maximum size of all questions of one call: names.
const MAX_BYTES: usize = 16 << 10;

/// Dropped with the answer.
pub(super) type Answering = oneshot::Sender<()>;

/// The questions of a call, which end with their answer, and after [`REFLECTION`].
pub(super) fn asked(body: Body) -> (Body, Answering) {
    let (answering, answered) = oneshot::channel();
    let over = timeout(REFLECTION, answered);
    let questions = Limited::new(body, MAX_BYTES).into_data_stream();
    let body = Body::from_stream(questions.take_until(Box::pin(over)));
    (body, answering)
}

/// The answer, which ends the questions when it ends.
pub(super) fn answered(response: Response<Body>, answering: Answering) -> Response<Body> {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ends_with_the_body = &answering;
            frame
        }))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn questions_end_with_their_answer_or_after_a_minute() {
        let silent = || Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let (questions, answering) = asked(silent());
        let answer = answered(Response::new(Body::empty()), answering);
        let mut end = Box::pin(questions.collect());
        assert!(futures_util::poll!(&mut end).is_pending());
        drop(answer);
        assert!(futures_util::poll!(&mut end).is_ready());
        let (questions, _answering) = asked(silent());
        assert!(questions.collect().await.unwrap().to_bytes().is_empty());
        let (questions, _answering) = asked(Body::from(vec![0; MAX_BYTES + 1]));
        assert!(questions.collect().await.is_err());
    }
}
