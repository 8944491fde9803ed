//! Writing objects in one request: blobs that are not large, and the small documents of the tree.

use std::sync::Arc;

use aws_sdk_s3::{
    operation::put_object::builders::PutObjectFluentBuilder,
    types::{ObjectCannedAcl, ServerSideEncryption, StorageClass},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::future::{self, Either};

use super::{
    Wire,
    config::{Config, Sse},
    error::from_sdk,
    foreign::foreign,
    get::Head,
    missing::{Missing, missing},
    patience::counted,
};
use crate::{
    artifact::Descriptor,
    digest::Digest,
    store::{
        Put, Version,
        body::Body,
        check_body,
        error::{ErrorKind, Result},
        keyed::Condition,
        keys,
        marked::FOUND_SECS,
        net::Sent,
    },
};

const OP: &str = "put";
/// Blobs of up to this many bytes are not asked about: sending one in vain costs no more than the question.
const UNASKED_BYTES: u64 = 1 << 20;

pub(super) fn if_none_match(condition: &Condition) -> Option<String> {
    (*condition == Condition::Absent).then(|| "*".to_owned())
}

fn if_match(condition: &Condition) -> Option<String> {
    match condition {
        Condition::Is(Version(etag)) => Some(etag.clone()),
        _ => None,
    }
}

impl Wire {
    /// Returns true if no sweep can remove an object that was merely found: a sweep removes only what has not been written for
    /// the grace time, of which this is half.
    fn is_young(&self, head: &Head) -> bool {
        let (now, modified) = (self.clock.now(), head.modified);
        modified
            .zip(now)
            .is_some_and(|(m, now)| now.secs - m.secs < FOUND_SECS)
    }

    /// Returns true if a blob may be left as it was found. With another size it is damaged, and is overwritten; an old one is written
    /// again, or a sweep may remove it.
    fn may_stay(&self, head: &Head, desc: &Descriptor) -> bool {
        head.size == desc.size && self.is_young(head)
    }

    /// See [`crate::store::BlobStore::put`].
    pub(super) async fn put_blob(self: &Arc<Self>, desc: &Descriptor, body: &Body) -> Result<Put> {
        check_body(OP, desc, body).await?;
        let key = keys::blob(&desc.digest);
        if self.uses_conditions() && desc.size <= self.config.part_bytes() {
            return self.put_unasked(&key, desc, body).await;
        }
        let condition = match self.head(OP, &key).await? {
            Some(head) if self.may_stay(&head, desc) => return Ok(Put::Existed),
            Some(_) => Condition::None,
            None => Condition::Absent,
        };
        self.write_blob(&key, desc, body, condition).await
    }

    /// Sends a blob without waiting for the answer whether the store has it, since most are new: the store refuses to write it twice.
    /// While a large one is sent, it is asked about, and no longer sent if it exists.
    async fn put_unasked(&self, key: &str, desc: &Descriptor, body: &Body) -> Result<Put> {
        let found = {
            let asked = async {
                if desc.size <= UNASKED_BYTES {
                    std::future::pending::<()>().await;
                }
                self.head(OP, key).await
            };
            let sent = self.send_whole(key, desc, body, Condition::Absent);
            match future::select(Box::pin(asked), Box::pin(sent)).await {
                Either::Left((Ok(None), sent)) => match sent.await {
                    Err(e) if e.kind == ErrorKind::Conflict => None,
                    sent => return sent.map(|()| Put::Stored),
                },
                // Dropping the request ends it.
                Either::Left((found, _)) => found?,
                Either::Right((Err(e), _)) if e.kind == ErrorKind::Conflict => None,
                Either::Right((sent, _)) => return sent.map(|()| Put::Stored),
            }
        };
        let found = match found {
            // Somebody else was faster with the same bytes.
            None => self.head(OP, key).await?,
            found => found,
        };
        if found.is_some_and(|head| self.may_stay(&head, desc)) {
            return Ok(Put::Existed);
        }
        self.send_whole(key, desc, body, Condition::None).await?;
        Ok(Put::Stored)
    }

    /// See [`crate::store::Sweep::replace`].
    pub(super) async fn replace_blob(
        self: &Arc<Self>,
        desc: &Descriptor,
        body: &Body,
    ) -> Result<()> {
        check_body(OP, desc, body).await?;
        let key = keys::blob(&desc.digest);
        let written = self.write_blob(&key, desc, body, Condition::None).await;
        written.map(drop)
    }

    async fn write_blob(
        self: &Arc<Self>,
        key: &str,
        desc: &Descriptor,
        body: &Body,
        condition: Condition,
    ) -> Result<Put> {
        if desc.size <= self.config.part_bytes() {
            self.put_whole(key, desc, body, condition).await
        } else {
            self.put_in_parts(key, desc.size, body, condition).await
        }
    }

    /// Stores a blob in one request, even if it exists.
    pub(super) async fn put_whole(
        &self,
        key: &str,
        desc: &Descriptor,
        body: &Body,
        condition: Condition,
    ) -> Result<Put> {
        match self.send_whole(key, desc, body, condition.clone()).await {
            Ok(()) => Ok(Put::Stored),
            // Somebody else was faster with the same bytes, or wrote damaged ones after our check.
            Err(e) if e.kind == ErrorKind::Conflict && condition != Condition::None => {
                if self
                    .head(OP, key)
                    .await?
                    .is_some_and(|h| h.size == desc.size)
                {
                    return Ok(Put::Existed);
                }
                self.send_whole(key, desc, body, Condition::None).await?;
                Ok(Put::Stored)
            }
            Err(e) => Err(e),
        }
    }

    /// Sends a blob in one request.
    ///
    /// # Errors
    /// `Conflict` if the store reports that `condition` does not hold.
    async fn send_whole(
        &self,
        key: &str,
        desc: &Descriptor,
        body: &Body,
        condition: Condition,
    ) -> Result<()> {
        let sha256 = match desc.digest {
            Digest::Sha256(d) if self.sends_sha256 => Some(BASE64_STANDARD.encode(d.0)),
            _ => None,
        };
        let send = |condition: &Condition| {
            let (bytes, sent) = counted(body.stream(0..desc.size), desc.size);
            let request = self
                .request(key, condition)
                .set_storage_class(storage_class(&self.config))
                .set_checksum_sha256(sha256.clone())
                .content_length(desc.size as i64)
                .body(bytes);
            (request, sent)
        };
        self.put_request(OP, condition, send).await
    }

    /// Writes a small document.
    ///
    /// # Errors
    /// `Conflict` if the store reports that `condition` does not hold; a store that does not support conditions writes anyway.
    pub(super) async fn write(
        &self,
        op: &'static str,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<()> {
        let send = |condition: &Condition| {
            let len = bytes.len() as u64;
            let (body, sent) = counted(Body::from(bytes.clone()).stream(0..len), len);
            let request = self
                .request(key, condition)
                .content_length(len as i64)
                .body(body);
            (request, sent)
        };
        self.put_request(op, condition, send).await
    }

    fn request(&self, key: &str, condition: &Condition) -> PutObjectFluentBuilder {
        let (sse, sse_key) = sse(&self.config);
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(key))
            .set_if_none_match(if_none_match(condition))
            .set_if_match(if_match(condition))
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(sse_key)
            .set_acl(acl(&self.config))
    }

    async fn put_request(
        &self,
        op: &'static str,
        condition: Condition,
        send: impl Fn(&Condition) -> (PutObjectFluentBuilder, Arc<Sent>),
    ) -> Result<()> {
        let mut condition = condition;
        if !self.uses_conditions() {
            condition = Condition::None;
        }
        loop {
            let (request, sent) = send(&condition);
            let error = match self.sending(op, &sent, Box::pin(request.send())).await? {
                // A login page answers 200 to everything.
                Ok(answer) if answer.e_tag().is_none() => {
                    return Err(foreign(op, "the answer has no `ETag`"));
                }
                Ok(_) => return Ok(()),
                Err(e) => {
                    let absent = missing(&e) == Some(Missing::Said);
                    let mut e = from_sdk(op, e);
                    // `If-Match` on a missing object.
                    if absent && matches!(condition, Condition::Is(_)) {
                        e.kind = ErrorKind::Conflict;
                    }
                    e
                }
            };
            if error.kind != ErrorKind::Unsupported || condition == Condition::None {
                return Err(error);
            }
            self.refuses_conditions();
            condition = Condition::None;
        }
    }
}

pub(super) fn sse(config: &Config) -> (Option<ServerSideEncryption>, Option<String>) {
    let sse = config.sse.map(|sse| match sse {
        Sse::Aes256 => ServerSideEncryption::Aes256,
        Sse::AwsKms => ServerSideEncryption::AwsKms,
    });
    (sse, config.sse_kms_key_id.clone())
}

pub(super) fn acl(config: &Config) -> Option<ObjectCannedAcl> {
    config.acl.as_deref().map(ObjectCannedAcl::from)
}

pub(super) fn storage_class(config: &Config) -> Option<StorageClass> {
    config.storage_class.as_deref().map(StorageClass::from)
}
