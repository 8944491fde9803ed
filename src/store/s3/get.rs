//! Reading objects: sizes, ranges of blobs, small documents.

use std::{ops::Range, sync::Arc, sync::atomic::Ordering};

use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream as SdkStream};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::{
    Wire, error::from_sdk, foreign::foreign, missing::missing, patience::Answer, words::chain,
};
use crate::{
    artifact::Descriptor,
    entry::Time,
    redact,
    store::{
        body::ByteStream,
        check_range,
        error::{Error, ErrorKind, Result},
        net::{ContentRange, Watch},
        signs::To,
    },
};

/// A small object, read whole.
pub(super) struct Small {
    pub(super) bytes: Bytes,
    /// Unmodified, including quotes.
    pub(super) etag: Option<String>,
    pub(super) modified: Option<Time>,
}

/// What a HEAD reports about an object.
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) modified: Option<Time>,
}

impl Wire {
    /// Size and age of an object; `None` if it does not exist.
    pub(super) async fn head(&self, op: &'static str, key: &str) -> Result<Option<Head>> {
        let sent = Box::pin(
            self.client
                .head_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .send(),
        );
        let head = match self.within(op, Answer::Soon, sent).await? {
            Ok(head) => head,
            Err(e) => match missing(&e) {
                Some(missing) => {
                    self.believe(op, missing, To::Head).await?;
                    return Ok(None);
                }
                None => return Err(from_sdk(op, e)),
            },
        };
        check_tagged(op, head.e_tag())?;
        self.bucket_seen.store(true, Ordering::Relaxed);
        let size = head
            .content_length()
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| foreign(op, "the answer has no `Content-Length`"))?;
        Ok(Some(Head {
            size,
            modified: head.last_modified().and_then(time),
        }))
    }

    /// Requests an object, or a range of it in HTTP's form; `None` if it does not exist.
    async fn ask(
        &self,
        op: &'static str,
        key: &str,
        range: Option<String>,
    ) -> Result<Option<GetObjectOutput>> {
        let sent = Box::pin(
            self.client
                .get_object()
                .bucket(&self.bucket)
                .key(self.key(key))
                .set_range(range)
                .send(),
        );
        match self.within(op, Answer::Soon, sent).await? {
            Ok(object) => {
                check_tagged(op, object.e_tag())?;
                self.bucket_seen.store(true, Ordering::Relaxed);
                Ok(Some(object))
            }
            Err(e) => match missing(&e) {
                Some(missing) => {
                    self.believe(op, missing, To::Get).await?;
                    Ok(None)
                }
                None => Err(from_sdk(op, e)),
            },
        }
    }

    /// Reads an object of at most `limit` bytes; `None` if it does not exist.
    ///
    /// # Errors
    /// `Corrupt` for a longer one, `Unavailable` for an interrupted one.
    pub(super) async fn read(
        &self,
        op: &'static str,
        key: &str,
        limit: u64,
    ) -> Result<Option<Small>> {
        let Some(object) = self.ask(op, key, None).await? else {
            return Ok(None);
        };
        let too_long = |n: u64| {
            Error::corrupt(
                op,
                format!("object `{key}` has {n} bytes, more than the limit of {limit}"),
            )
        };
        let said = length(op, &object)?;
        if let Some(n) = said.filter(|n| *n > limit) {
            return Err(too_long(n));
        }
        let (etag, modified) = (
            object.e_tag().map(str::to_owned),
            object.last_modified().and_then(time),
        );
        let mut bytes = BytesMut::new();
        let mut body = object.body;
        let mut watch = Watch::new(op, self.patience.stall);
        while let Some(piece) = next(op, &mut body, &mut watch).await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limit {
                return Err(too_long(bytes.len() as u64));
            }
        }
        if let Some(n) = said.filter(|n| *n != bytes.len() as u64) {
            return Err(cut(op, bytes.len() as u64, n));
        }
        Ok(Some(Small {
            bytes: bytes.freeze(),
            etag,
            modified,
        }))
    }

    /// Streams `range` of an object that must have `desc.size` bytes; `None` if it does not exist.
    pub(super) async fn get(
        self: &Arc<Self>,
        key: &str,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        const OP: &str = "get";
        check_range(OP, desc, &range)?;
        if range.is_empty() {
            // HTTP has no empty ranges.
            return match self.head(OP, key).await? {
                None => Ok(None),
                Some(head) if head.size == desc.size => Ok(Some(stream::empty().boxed())),
                Some(head) => Err(Error::other_size(head.size, desc.size)),
            };
        }
        let whole = range == (0..desc.size);
        let asked = (!whole).then(|| format!("bytes={}-{}", range.start, range.end - 1));
        let object = match self.ask(OP, key, asked).await {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(None),
            Err(mut e) if e.kind == ErrorKind::Corrupt && !whole => {
                // 416: the object ends before the range starts.
                e.message = format!(
                    "it is shorter than the {} bytes of its descriptor: {}",
                    desc.size, e.message
                );
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        check_answer(&object, desc.size, &range, whole)?;
        let watch = Watch::new(OP, self.patience.stall);
        let rest = Rest {
            body: object.body,
            watch,
            left: range.end - range.start,
            of: range.end - range.start,
            url: self.url.clone(),
            key: desc.digest.to_string(),
        };
        Ok(Some(stream::try_unfold(rest, Rest::next).boxed()))
    }
}

/// A body that is being read.
struct Rest {
    body: SdkStream,
    watch: Watch,
    left: u64,
    of: u64,
    url: String,
    key: String,
}

impl Rest {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        match self.piece().await {
            Ok(Some(piece)) => Ok(Some((piece, self))),
            Ok(None) => Ok(None),
            Err(e) => Err(e.at(&self.url, &self.key)),
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(piece) = next("get", &mut self.body, &mut self.watch).await? else {
                return match self.left {
                    0 => Ok(None),
                    left => Err(cut("get", self.of - left, self.of)),
                };
            };
            if piece.len() as u64 > self.left {
                return Err(Error::corrupt(
                    "get",
                    format!("received more than the requested {} bytes", self.of),
                ));
            }
            self.left -= piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

/// The next piece of a body, or its end.
async fn next(op: &'static str, body: &mut SdkStream, watch: &mut Watch) -> Result<Option<Bytes>> {
    match watch.next(body.next()).await? {
        None => Ok(None),
        Some(Ok(bytes)) => Ok(Some(bytes)),
        Some(Err(e)) => {
            Err(Error::unavailable(op, format!("the body ended early: {}", chain(&e))).caused_by(e))
        }
    }
}

fn check_answer(
    object: &GetObjectOutput,
    size: u64,
    range: &Range<u64>,
    whole: bool,
) -> Result<()> {
    let wrong = |kind, why: String| Err(Error::new(kind, "get", why));
    let length = length("get", object)?;
    if whole && object.content_range().is_none() {
        return match length {
            Some(n) if n != size => Err(Error::other_size(n, size)),
            _ => Ok(()),
        };
    }
    let Some(said) = object.content_range() else {
        return match length {
            Some(n) if n != size => Err(Error::other_size(n, size)),
            _ => wrong(
                ErrorKind::Unsupported,
                "the store, or a proxy in front of it, ignores `Range`".to_owned(),
            ),
        };
    };
    let Some(ContentRange { first, last, total }) = ContentRange::parse(said) else {
        return wrong(
            ErrorKind::Corrupt,
            format!(
                "the answer has an invalid range: `{}`",
                redact::escaped(said)
            ),
        );
    };
    if let Some(total) = total.filter(|t| *t != size) {
        return Err(Error::other_size(total, size));
    }
    let asked = range.end - range.start;
    if first != range.start || last != range.end - 1 || length.is_some_and(|n| n != asked) {
        return wrong(
            ErrorKind::Corrupt,
            format!(
                "received bytes {first}-{last} instead of {}-{}",
                range.start,
                range.end - 1
            ),
        );
    }
    Ok(())
}

/// Every object has an `ETag`.
fn check_tagged(op: &'static str, etag: Option<&str>) -> Result<()> {
    etag.map(drop)
        .ok_or_else(|| foreign(op, "the answer has no `ETag`"))
}

fn length(op: &'static str, object: &GetObjectOutput) -> Result<Option<u64>> {
    object
        .content_length()
        .map(u64::try_from)
        .transpose()
        .map_err(|_| Error::corrupt(op, "its length is negative"))
}

fn cut(op: &'static str, came: u64, of: u64) -> Error {
    Error::unavailable(
        op,
        format!("the body ended early, after {came} of {of} bytes"),
    )
}

pub(super) fn time(t: &aws_sdk_s3::primitives::DateTime) -> Option<Time> {
    Time::from_nanos(t.as_nanos())
}
