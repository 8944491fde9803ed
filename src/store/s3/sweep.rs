//! Sweeping a bucket: all blobs, their records, removal; and left-overs of interrupted uploads.

use std::{collections::HashSet, sync::atomic::Ordering};

use async_trait::async_trait;
use aws_sdk_s3::types::{Delete, MetadataDirective, ObjectIdentifier};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Bucket, Wire,
    get::{Head, time},
    list::Listed,
    missing::{Missing, missing},
    patience::Answer,
    put::{acl, sse, storage_class},
};
use crate::{
    artifact::{Descriptor, Manifest},
    digest::Digest,
    entry::Time,
    store::{
        Body, StoredBlob,
        error::{Error, ErrorKind, Result},
        keyed::{Condition, SweptBlobs},
        keys::{self, Key},
        signs::To,
    },
};

/// Concurrent small requests.
const CONCURRENCY: usize = 16;
/// Characters to escape in a header that contains a path (`x-amz-copy-source`).
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Objects that are removed in one request: S3's limit is 1,000 keys.
pub(super) const BATCH: usize = 500;

const FAR_FUTURE: Time = Time {
    secs: i64::MAX,
    nanos: 0,
};

#[async_trait]
impl SweptBlobs for Bucket {
    /// Without checking first, since the same bytes may be written any number of times.
    async fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let key = keys::blob(&manifest.digest);
        let (desc, body) = (manifest.descriptor(), Body::from(manifest.bytes.clone()));
        let put = self.wire.put_whole(&key, &desc, &body, Condition::None);
        put.await.map(drop)
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        self.wire.replace_blob(desc, body).await
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        self.wire.renew(&keys::blob(digest)).await
    }

    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        let blob = |object: Listed| match keys::parse(&object.key)? {
            Key::Blob(digest) => Some(StoredBlob {
                digest,
                size: object.size,
                // Unknown age: too young to be swept.
                modified: object.modified.unwrap_or(FAR_FUTURE),
            }),
            _ => None,
        };
        self.wire.pick("list blobs", keys::BLOBS, blob).await
    }

    async fn older(&self, digests: &[Digest], limit: Time) -> Result<Vec<(Digest, u64)>> {
        let heads = stream::iter(digests.iter().copied())
            .map(|d| async move {
                let head = self.wire.head("remove", &keys::blob(&d)).await?;
                Result::Ok((d, head))
            })
            .buffer_unordered(CONCURRENCY);
        let heads: Vec<(Digest, Option<Head>)> = heads.try_collect().await?;
        Ok(heads
            .into_iter()
            .filter_map(|(d, head)| Some((d, head?)))
            .filter(|(_, head)| head.modified.is_some_and(|m| m <= limit))
            .map(|(d, head)| (d, head.size))
            .collect())
    }

    /// Lists all records: a request for each possible one would cost more.
    async fn records_of(&self, digests: &[Digest]) -> Result<Vec<(Digest, String)>> {
        const OP: &str = "remove";
        let wanted: HashSet<&Digest> = digests.iter().collect();
        let mut found = Vec::new();
        for repo in self.wire.folders(OP, keys::REPOSITORIES).await? {
            for kind in ["manifests/", "referrers/", "linked/"] {
                for object in self.wire.list(OP, &format!("{repo}{kind}")).await? {
                    if let Some(Key::Manifest(_, d) | Key::Referrer(_, _, d) | Key::Linked(_, d)) =
                        keys::parse(&object.key)
                        && wanted.contains(&d)
                    {
                        found.push((d, object.key));
                    }
                }
            }
        }
        Ok(found)
    }

    async fn remove_blobs(&self, blobs: &[(Digest, u64)], _limit: Time) -> Result<(u64, u64)> {
        let keys: Vec<String> = blobs.iter().map(|(d, _)| keys::blob(d)).collect();
        for some in keys.chunks(BATCH) {
            self.wire.delete_all("remove", some).await?;
        }
        let bytes = blobs.iter().map(|(_, size)| size).sum();
        Ok((blobs.len() as u64, bytes))
    }

    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        self.wire.abort_older(limit).await
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        Ok(None)
    }
}

impl Wire {
    /// Copies an object onto itself, the only way to give it a new time (as BuildKit does, reference/buildkit-cache.md §4.1);
    /// S3 copies up to 5 GiB in this way.
    async fn renew(&self, key: &str) -> Result<bool> {
        const OP: &str = "renew";
        let (sse, sse_key) = sse(&self.config);
        let source = format!("{}/{}", self.bucket, self.key(key));
        let sent = Box::pin(
            self.client
                .copy_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .copy_source(utf8_percent_encode(&source, IN_PATHS).to_string())
                // A copy without changes is refused.
                .metadata_directive(MetadataDirective::Replace)
                .set_server_side_encryption(sse)
                .set_ssekms_key_id(sse_key)
                .set_storage_class(storage_class(&self.config))
                .set_acl(acl(&self.config))
                .send(),
        );
        match self.within(OP, Answer::AfterWork, sent).await? {
            Ok(copied) if copied.copy_object_result().is_some() => Ok(true),
            Ok(_) => Err(super::foreign::foreign(
                OP,
                "the answer has no `CopyObjectResult`",
            )),
            Err(e) if missing(&e) == Some(Missing::Said) => Ok(false),
            Err(e) => Err(super::error::from_sdk(OP, e)),
        }
    }

    /// Removes an object; its absence is no error.
    pub(super) async fn delete(&self, op: &'static str, key: &str) -> Result<()> {
        let sent = Box::pin(
            self.client
                .delete_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .send(),
        );
        match self.within(op, Answer::Later, sent).await? {
            Ok(_) => Ok(()),
            Err(e) => match missing(&e) {
                Some(missing) => self.believe(op, missing, To::Get).await,
                None => Err(super::error::from_sdk(op, e)),
            },
        }
    }

    /// Removes objects, at most 1,000, in one request if the store supports it.
    pub(super) async fn delete_all(&self, op: &'static str, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        if self.batch_deletes.load(Ordering::Relaxed) {
            match self.delete_batch(op, keys).await {
                // GCS does not support `DeleteObjects`, others require a special header.
                Err(e) if matches!(e.kind, ErrorKind::Unsupported | ErrorKind::Invalid) => {
                    tracing::debug!(store = self.url, error = %e, "The store does not support batch deletion");
                    self.batch_deletes.store(false, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        stream::iter(keys)
            .map(Ok)
            .try_for_each_concurrent(CONCURRENCY, |key| self.delete(op, key))
            .await
    }

    async fn delete_batch(&self, op: &'static str, keys: &[String]) -> Result<()> {
        let invalid = |e: aws_sdk_s3::error::BuildError| Error::invalid(op, e.to_string());
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(self.key(key)).build())
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(invalid)?;
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(invalid)?;
        let sent = Box::pin(
            self.client
                .delete_objects()
                .bucket(&self.bucket)
                .delete(delete)
                .send(),
        );
        let answer = self.answer(op, Answer::Later, sent).await?;
        let refused = answer
            .errors()
            .iter()
            .find(|e| !matches!(e.code(), Some("NoSuchKey")));
        match refused {
            None => Ok(()),
            Some(e) => {
                let code = e.code().unwrap_or("no code");
                Err(Error::new(
                    super::error::by_code(code).unwrap_or(ErrorKind::Unavailable),
                    op,
                    format!(
                        "{code} for `{}`: {}",
                        e.key().unwrap_or_default(),
                        e.message().unwrap_or_default()
                    ),
                ))
            }
        }
    }

    /// Aborts uploads that were begun before `limit` and never completed.
    ///
    /// A store that cannot list them is left alone: its own life-cycle rules remove them.
    async fn abort_older(&self, limit: Time) -> Result<u64> {
        const OP: &str = "list unfinished uploads";
        let (mut key_marker, mut id_marker) = (None, None);
        let mut aborted = 0;
        loop {
            let sent = Box::pin(
                self.client
                    .list_multipart_uploads()
                    .bucket(&self.bucket)
                    .prefix(self.key(keys::BLOBS))
                    .set_key_marker(key_marker.clone())
                    .set_upload_id_marker(id_marker.clone())
                    .send(),
            );
            let page = match self.answer(OP, Answer::Later, sent).await {
                Ok(page) => page,
                Err(e) if e.is_temporary() => return Err(e),
                Err(e) => {
                    tracing::debug!(store = self.url, error = %e, "Could not list unfinished uploads");
                    return Ok(aborted);
                }
            };
            for upload in page.uploads() {
                let old = upload
                    .initiated()
                    .and_then(time)
                    .is_some_and(|at| at <= limit);
                if let (true, Some(key), Some(id)) = (old, upload.key(), upload.upload_id())
                    && self.abort(key, id).await
                {
                    aborted += 1;
                }
            }
            let next = (
                page.next_key_marker().map(str::to_owned),
                page.next_upload_id_marker().map(str::to_owned),
            );
            if page.is_truncated() != Some(true)
                || next == (None, None)
                || next == (key_marker.clone(), id_marker.clone())
            {
                return Ok(aborted);
            }
            (key_marker, id_marker) = next;
        }
    }
}
