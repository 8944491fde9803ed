//! What prune needs: all blobs, all roots, marks, removal; and what broken uploads left behind.

use std::{
    collections::{BTreeSet, HashSet},
    sync::atomic::Ordering,
};

use async_trait::async_trait;
use aws_sdk_s3::types::{Delete, MetadataDirective, ObjectIdentifier};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    S3, Wire,
    get::{Head, time},
    list::Listed,
    missing::{Missing, missing},
    patience::{self, Answer},
    put::{Condition, acl, sse, storage_class},
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    entry::Time,
    store::{
        Body, StoredBlob, Sweep,
        error::{Error, ErrorKind, Result},
        keys::{self, Key},
        record,
        signs::To,
    },
};

/// Small requests on their way at once.
const CONCURRENCY: usize = 16;
/// Blobs that are looked at again and then removed in one go: S3's limit for `DeleteObjects` is 1,000 keys, and the
/// shorter the time between both, the better.
const BATCH: usize = 500;
/// What a header with a path in it (`x-amz-copy-source`) has to escape.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
/// Longest mark that is read.
const MAX_MARK_BYTES: u64 = 256 << 20;

#[async_trait]
impl Sweep for S3 {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        let blob = |object: Listed| match keys::parse(&object.key)? {
            Key::Blob(digest) => Some(StoredBlob {
                digest,
                size: object.size,
                // Of unknown age: too young to be swept.
                modified: object.modified.unwrap_or(FAR_FUTURE),
            }),
            _ => None,
        };
        let listed = self.wire.pick("list blobs", keys::BLOBS, blob).await;
        listed.map_err(|e| e.at(&self.wire.url, ""))
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        let roots = self.wire.roots().await;
        Ok(roots
            .map_err(|e| e.at(&self.wire.url, ""))?
            .into_iter()
            .collect())
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        let read = self
            .wire
            .read("read mark", &keys::mark(name), MAX_MARK_BYTES)
            .await;
        Ok(read
            .map_err(|e| e.at(&self.wire.url, name))?
            .map(|found| found.bytes))
    }

    async fn marks(&self) -> Result<Vec<String>> {
        let listed = self.wire.list("list marks", keys::MARKS).await;
        let listed = listed.map_err(|e| e.at(&self.wire.url, ""))?;
        let mut names: Vec<String> = listed
            .iter()
            .filter_map(|object| match keys::parse(&object.key)? {
                Key::Mark(name) => Some(name),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        let written = self
            .wire
            .write("write mark", &keys::mark(name), bytes, Condition::None)
            .await;
        written.map_err(|e| e.at(&self.wire.url, name))
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        let removed = self.wire.delete("remove mark", &keys::mark(name)).await;
        removed.map_err(|e| e.at(&self.wire.url, name))
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        let replaced = self.wire.replace_blob(desc, body).await;
        replaced.map_err(|e| e.at(&self.wire.url, desc.digest))
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        let removed = self.wire.remove(digests, unless_newer_than).await;
        removed.map_err(|e| e.at(&self.wire.url, ""))
    }

    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        let aborted = self.wire.abort_older(limit).await;
        aborted.map_err(|e| e.at(&self.wire.url, ""))
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        let renewed = self.wire.renew(&keys::blob(digest)).await;
        renewed.map_err(|e| e.at(&self.wire.url, digest))
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        Ok(None)
    }
}

const FAR_FUTURE: Time = Time {
    secs: i64::MAX,
    nanos: 0,
};

impl Wire {
    async fn roots(&self) -> Result<BTreeSet<Digest>> {
        const OP: &str = "list roots";
        let mut roots = BTreeSet::new();
        for repo in self.folders(OP, keys::REPOSITORIES).await? {
            let parts = self.list(OP, &format!("{repo}parts/")).await?;
            roots.extend(parts.iter().filter_map(|o| match keys::parse(&o.key)? {
                Key::Part(_, _, digest) => Some(digest),
                _ => None,
            }));
            let tags = self.list(OP, &format!("{repo}tags/")).await?;
            let read = stream::iter(tags)
                .map(|object| async move {
                    let found = match self.read(OP, &object.key, record::MAX_BYTES).await {
                        Err(e) if e.kind == ErrorKind::Corrupt => Err(e),
                        other => Ok(other?),
                    };
                    let tagged = found.and_then(|found| {
                        let found = found.map(|f| record::decode::<record::Tagged>(OP, &f.bytes));
                        found.transpose()
                    });
                    if let Err(e) = &tagged {
                        record::warn_of_damaged_name(&object.key, e);
                    }
                    Result::Ok(tagged)
                })
                .buffer_unordered(CONCURRENCY);
            let read: Vec<Result<Option<record::Tagged>>> = read.try_collect().await?;
            if read.iter().any(Result::is_err) {
                let manifests = self.list(OP, &format!("{repo}manifests/")).await?;
                roots.extend(
                    manifests
                        .iter()
                        .filter_map(|o| keys::parsed_manifest(&o.key)),
                );
            }
            roots.extend(read.into_iter().flatten().flatten().map(|t| t.digest));
        }
        Ok(roots)
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        const OP: &str = "remove";
        if digests.is_empty() {
            return Ok((0, 0));
        }
        let records = self.records_of(digests).await?;
        let (mut count, mut bytes) = (0, 0);
        for batch in digests.chunks(BATCH) {
            let heads: Vec<(Digest, Option<Head>)> = stream::iter(batch.iter().copied())
                .map(|d| async move { Result::Ok((d, self.head(OP, &keys::blob(&d)).await?)) })
                .buffer_unordered(CONCURRENCY)
                .try_collect()
                .await?;
            let old: Vec<(Digest, u64)> = heads
                .into_iter()
                .filter_map(|(d, head)| Some((d, head?)))
                .filter(|(_, head)| head.modified.is_some_and(|m| m <= unless_newer_than))
                .map(|(d, head)| (d, head.size))
                .collect();
            let gone: HashSet<Digest> = old.iter().map(|(d, _)| *d).collect();
            // Records first: one without its blob would promise what is not there.
            let of_gone = records.iter().filter(|(d, _)| gone.contains(d));
            let record_keys: Vec<String> = of_gone.map(|(_, key)| key.clone()).collect();
            for keys in record_keys.chunks(BATCH) {
                self.delete_all(OP, keys).await?;
            }
            let blobs: Vec<String> = old.iter().map(|(d, _)| keys::blob(d)).collect();
            self.delete_all(OP, &blobs).await?;
            count += old.len() as u64;
            bytes += old.iter().map(|(_, size)| size).sum::<u64>();
        }
        Ok((count, bytes))
    }

    /// What all repositories have written down about these manifests, with the manifest.
    async fn records_of(&self, digests: &[Digest]) -> Result<Vec<(Digest, String)>> {
        const OP: &str = "remove";
        let wanted: HashSet<&Digest> = digests.iter().collect();
        let mut found = Vec::new();
        for repo in self.folders(OP, keys::REPOSITORIES).await? {
            for kind in ["manifests/", "referrers/", "linked/"] {
                for object in self.list(OP, &format!("{repo}{kind}")).await? {
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

    /// Copies an object onto itself, which is all that gives it a new time (as BuildKit does, reference/buildkit-cache.md §4.1);
    /// S3 copies up to 5 GiB so.
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
                // A copy that changes nothing is refused.
                .metadata_directive(MetadataDirective::Replace)
                .set_server_side_encryption(sse)
                .set_ssekms_key_id(sse_key)
                .set_storage_class(storage_class(&self.config))
                .set_acl(acl(&self.config))
                .send(),
        );
        match patience::within(OP, self.stall, Answer::AfterWork, sent).await? {
            Ok(copied) if copied.copy_object_result().is_some() => Ok(true),
            Ok(_) => Err(super::foreign::foreign(
                OP,
                "the answer has no `CopyObjectResult`",
            )),
            Err(e) if missing(&e) == Some(Missing::Said) => Ok(false),
            Err(e) => Err(super::error::from_sdk(OP, e)),
        }
    }

    /// Removes an object; what is not there is removed already.
    pub(super) async fn delete(&self, op: &'static str, key: &str) -> Result<()> {
        let sent = Box::pin(
            self.client
                .delete_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .send(),
        );
        match patience::within(op, self.stall, Answer::Later, sent).await? {
            Ok(_) => Ok(()),
            Err(e) => match missing(&e) {
                Some(missing) => self.believe(op, missing, To::Get).await,
                None => Err(super::error::from_sdk(op, e)),
            },
        }
    }

    /// Removes objects, at most 1,000, in one request where the store can.
    async fn delete_all(&self, op: &'static str, keys: &[String]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        if self.batch_deletes.load(Ordering::Relaxed) {
            match self.delete_batch(op, keys).await {
                // GCS knows no `DeleteObjects`, others want a header that only they want.
                Err(e) if matches!(e.kind, ErrorKind::Unsupported | ErrorKind::Invalid) => {
                    tracing::debug!(store = self.url, error = %e, "Store deletes no batches");
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
        let invalid =
            |e: aws_sdk_s3::error::BuildError| Error::new(ErrorKind::Invalid, op, e.to_string());
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
        let answer = patience::answer(op, self.stall, Answer::Later, sent).await?;
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

    /// Takes back the parts of uploads that were begun before `limit` and never completed.
    ///
    /// A store that cannot list them is left alone: its own life-cycle rules do it.
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
            let page = match patience::answer(OP, self.stall, Answer::Later, sent).await {
                Ok(page) => page,
                Err(e) if e.is_temporary() => return Err(e),
                Err(e) => {
                    tracing::debug!(store = self.url, error = %e, "Unfinished uploads cannot be listed");
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
