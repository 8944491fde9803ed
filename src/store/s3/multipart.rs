//! Uploads in parts (S3 user guide, "Uploading and copying objects using multipart upload").
//!
//! Nothing is visible until the last request, `CompleteMultipartUpload`. Whatever ends the upload before, including dropping
//! the future, aborts it; if even that is impossible (kill -9), [`super::sweep`] does it later.

use std::{ops::Range, sync::Arc};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::oneshot,
    time::{Duration, sleep},
};

use super::{
    Wire,
    error::from_sdk,
    foreign::foreign,
    patience::{Answer, counted},
    put::{acl, if_none_match, sse, storage_class},
};
use crate::{
    backoff::Backoff,
    store::{
        Put,
        body::Body,
        error::{Error, ErrorKind, Result},
        keyed::Condition,
    },
    task,
};

const OP: &str = "put";
/// S3's limits: parts of an upload, bytes of an object.
const MAX_PARTS: u64 = 10_000;
const MAX_OBJECT: u64 = 5 << 40;
/// Part sizes are multiples of this; all but the last are equal, which R2 requires.
const GRAIN: u64 = 1 << 20;
/// Smaller parts are refused, and no faster.
const SMALL_PART: u64 = 5 << 20;
/// Attempts for each request of an upload.
const TRIES: u32 = 4;
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), MAX_PAUSE);
/// Maximum pause, even if the store asks for more: then the whole operation fails and its caller decides.
const MAX_PAUSE: Duration = Duration::from_secs(20);

impl Wire {
    pub(super) async fn put_in_parts(
        self: &Arc<Self>,
        key: &str,
        size: u64,
        body: &Body,
        condition: Condition,
    ) -> Result<Put> {
        let ranges = parts(
            size,
            self.config.part_bytes(),
            self.config.part_concurrency(),
        )?;
        let upload = Upload::begin(self.clone(), key).await?;
        match upload.run(size, body, &ranges, condition).await {
            Ok(Put::Stored) => {
                upload.done();
                Ok(Put::Stored)
            }
            Ok(Put::Existed) => {
                upload.abort().await;
                Ok(Put::Existed)
            }
            Err(e) => {
                upload.abort().await;
                Err(e)
            }
        }
    }
}

/// An incomplete upload; aborted when dropped.
struct Upload {
    wire: Arc<Wire>,
    key: String,
    /// `None` once there is nothing to abort.
    id: Option<String>,
}

impl Upload {
    /// Begins one in a separate task: if it were dropped before the answer, nobody would know what to abort.
    async fn begin(wire: Arc<Wire>, key: &str) -> Result<Self> {
        let (begun, wanted) = oneshot::channel();
        let key = key.to_owned();
        task::spawn("begin upload", async move {
            // If nobody wants it any more, the result is dropped here, and so aborted.
            drop(begun.send(Self::create(wire, &key).await));
        })
        .detach();
        wanted.await.unwrap_or_else(|_| {
            // Only a runtime that is shutting down drops tasks.
            Err(Error::unavailable(OP, "we are shutting down"))
        })
    }

    async fn create(wire: Arc<Wire>, key: &str) -> Result<Self> {
        let (sse, sse_key) = sse(&wire.config);
        let sent = Box::pin(
            wire.client
                .create_multipart_upload()
                .bucket(&wire.bucket)
                .key(wire.key(key))
                .set_server_side_encryption(sse)
                .set_ssekms_key_id(sse_key)
                .set_acl(acl(&wire.config))
                .set_storage_class(storage_class(&wire.config))
                .send(),
        );
        let answer = wire.answer(OP, Answer::Later, sent).await?;
        let id = answer.upload_id().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| foreign(OP, "the answer has no upload ID"))?;
        Ok(Self {
            id: Some(id.to_owned()),
            key: key.to_owned(),
            wire,
        })
    }

    fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    async fn run(
        &self,
        size: u64,
        body: &Body,
        ranges: &[Range<u64>],
        condition: Condition,
    ) -> Result<Put> {
        let mut parts: Vec<CompletedPart> = stream::iter(1..)
            .zip(stream::iter(ranges.iter().cloned()))
            .map(|(number, range)| self.part(number, range, body))
            .buffer_unordered(self.wire.config.part_concurrency())
            .try_collect()
            .await?;
        parts.sort_unstable_by_key(CompletedPart::part_number);
        self.complete(size, parts, condition).await
    }

    async fn part(&self, number: i32, range: Range<u64>, body: &Body) -> Result<CompletedPart> {
        let mut tries = 0;
        loop {
            tries += 1;
            let e = match self.try_part(number, range.clone(), body).await {
                Ok(part) => {
                    self.wire.parts.moved(range.end - range.start);
                    return Ok(part);
                }
                Err(e) => e,
            };
            self.wire.parts.failed(&e);
            pause(e, tries).await.map_err(|mut e| {
                e.message = format!("part {number}: {}", e.message);
                e
            })?;
        }
    }

    async fn try_part(&self, number: i32, range: Range<u64>, body: &Body) -> Result<CompletedPart> {
        let _place = self.wire.parts.place().await;
        let len = range.end - range.start;
        let (bytes, sent) = counted(body.stream(range), len);
        let answer = Box::pin(
            self.wire
                .client
                .upload_part()
                .bucket(&self.wire.bucket)
                .key(self.wire.key(&self.key))
                .upload_id(self.id())
                .part_number(number)
                .content_length(len as i64)
                .body(bytes)
                .send(),
        );
        let answer = self
            .wire
            .sending(OP, &sent, answer)
            .await?
            .map_err(|e| from_sdk(OP, e))?;
        let etag = answer.e_tag();
        let etag = etag.ok_or_else(|| foreign(OP, "the answer to a part has no `ETag`"))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .e_tag(etag)
            .set_checksum_crc32(answer.checksum_crc32)
            .set_checksum_crc32_c(answer.checksum_crc32_c)
            .set_checksum_crc64_nvme(answer.checksum_crc64_nvme)
            .set_checksum_sha1(answer.checksum_sha1)
            .set_checksum_sha256(answer.checksum_sha256)
            .build())
    }

    async fn complete(
        &self,
        size: u64,
        parts: Vec<CompletedPart>,
        condition: Condition,
    ) -> Result<Put> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let mut condition = if self.wire.uses_conditions() {
            condition
        } else {
            Condition::None
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let sent = Box::pin(
                self.wire
                    .client
                    .complete_multipart_upload()
                    .bucket(&self.wire.bucket)
                    .key(self.wire.key(&self.key))
                    .upload_id(self.id())
                    .multipart_upload(parts.clone())
                    .set_if_none_match(if_none_match(&condition))
                    .send(),
            );
            let answer = self.wire.answer(OP, Answer::AfterWork, sent).await;
            let e = match answer {
                Ok(answer) if answer.e_tag().is_some() => return Ok(Put::Stored),
                Ok(_) if self.is_there(size).await? => return Ok(Put::Stored),
                Ok(_) => {
                    let why = "the answer is empty, but the object does not exist";
                    return Err(foreign(OP, why));
                }
                Err(e) => e,
            };
            match e.kind {
                ErrorKind::Unsupported if condition != Condition::None => {
                    self.wire.refuses_conditions();
                    condition = Condition::None;
                    continue;
                }
                ErrorKind::Conflict if condition != Condition::None => {
                    // Same key, same bytes: if another upload's are complete, ours are not needed.
                    if self.is_there(size).await? {
                        return Ok(Put::Existed);
                    }
                    condition = Condition::None;
                    continue;
                }
                _ if !e.is_temporary() => return Err(e),
                _ => {}
            }
            match self.is_there(size).await {
                // It succeeded, only the answer was lost.
                Ok(true) => return Ok(Put::Stored),
                Ok(false) => {}
                // This request fails for the same reason; the next attempt will show.
                Err(asked) if asked.is_temporary() => {}
                Err(asked) => return Err(asked),
            }
            pause(e, tries).await?;
        }
    }

    async fn is_there(&self, size: u64) -> Result<bool> {
        let head = self.wire.head(OP, &self.key).await?;
        Ok(head.is_some_and(|h| h.size == size))
    }

    fn done(mut self) {
        self.id = None;
    }

    async fn abort(mut self) {
        if let Some(id) = self.id.take() {
            self.wire.abort(&self.wire.key(&self.key), &id).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // Outside a runtime nothing can send it; the sweep will.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (wire, key) = (self.wire.clone(), self.wire.key(&self.key));
        task::spawn("abort upload", async move { wire.abort(&key, &id).await }).detach();
    }
}

impl Wire {
    /// Aborts an upload; best effort, since left-overs are swept. `key` is the object's own.
    pub(super) async fn abort(&self, key: &str, id: &str) -> bool {
        let sent = Box::pin(
            self.client
                .abort_multipart_upload()
                .bucket(&self.bucket)
                .key(key)
                .upload_id(id)
                .send(),
        );
        let answer = self.answer("abort upload", Answer::Later, sent).await;
        if let Err(e) = &answer {
            tracing::debug!(store = self.url, key, error = %e, "Could not abort an unfinished multipart upload");
        }
        answer.is_ok()
    }
}

/// Waits before the next attempt, or returns the error if there should be none.
async fn pause(mut e: Error, tries: u32) -> Result<()> {
    let asked = e.retry_after.unwrap_or_default();
    if !e.is_temporary() || tries >= TRIES || asked > MAX_PAUSE {
        e.attempts = tries;
        return Err(e);
    }
    sleep(PAUSES.pause(tries - 1).max(asked)).await;
    Ok(())
}

/// Splits `size` bytes into parts of at most `base` bytes: smaller ones if fewer than `at_once` would result, so that as many
/// connections share the blob to its end; larger ones if there would be too many.
fn parts(size: u64, base: u64, at_once: usize) -> Result<Vec<Range<u64>>> {
    if size > MAX_OBJECT {
        return Err(Error::unsupported(
            OP,
            format!("S3 accepts objects of at most 5 TiB, but this one has {size} bytes"),
        ));
    }
    let share = size.div_ceil(at_once as u64).next_multiple_of(GRAIN);
    let base = base.min(share.max(SMALL_PART));
    let part = base.max(size.div_ceil(MAX_PARTS).next_multiple_of(GRAIN));
    Ok((0..size.div_ceil(part))
        .map(|n| n * part..size.min((n + 1) * part))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_blob_and_are_equal_but_the_last() {
        let mib = 1 << 20;
        let p = parts(140 * mib, 16 * mib, 8).unwrap();
        assert_eq!(p.len(), 9);
        assert_eq!(
            (p[0].clone(), p[8].clone()),
            (0..16 * mib, 128 * mib..140 * mib)
        );
        let p = parts(128 * mib, 16 * mib, 8).unwrap();
        assert_eq!(p.len(), 8);
    }

    #[test]
    fn all_connections_share_a_blob_but_no_part_is_too_small() {
        let mib = 1 << 20;
        let p = parts(64 * mib, 16 * mib, 8).unwrap();
        assert_eq!((p.len(), p[0].clone()), (8, 0..8 * mib));
        let p = parts(17 * mib, 16 * mib, 8).unwrap();
        assert_eq!((p.len(), p[0].clone()), (4, 0..5 * mib));
        let p = parts(65 * mib, 16 * mib, 1).unwrap();
        assert_eq!((p.len(), p[0].clone()), (5, 0..16 * mib));
    }

    #[test]
    fn huge_blobs_have_bigger_parts_and_too_huge_ones_are_refused() {
        let p = parts(MAX_OBJECT, 16 << 20, 8).unwrap();
        assert!(p.len() as u64 <= MAX_PARTS && p.last().unwrap().end == MAX_OBJECT);
        assert_eq!((p[0].end - p[0].start) % GRAIN, 0);
        assert_eq!(
            parts(MAX_OBJECT + 1, 16 << 20, 8).unwrap_err().kind,
            ErrorKind::Unsupported
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_temporary_trouble_is_tried_again_and_not_for_ever() {
        let e = |kind| Error::new(kind, OP, "x");
        assert!(pause(e(ErrorKind::Throttled), 1).await.is_ok());
        assert!(pause(e(ErrorKind::Denied), 1).await.is_err());
        assert_eq!(
            pause(e(ErrorKind::Timeout), TRIES)
                .await
                .unwrap_err()
                .attempts,
            TRIES
        );
        let mut long = e(ErrorKind::Throttled);
        long.retry_after = Some(Duration::from_hours(1));
        assert!(pause(long, 1).await.is_err());
    }
}
