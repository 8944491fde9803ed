//! Listings, page by page.

use aws_sdk_s3::operation::list_objects_v2::{
    ListObjectsV2Output, builders::ListObjectsV2FluentBuilder,
};

use super::{Wire, foreign::foreign, get::time, patience::Answer};
use crate::{
    entry::Time,
    store::error::{Error, Result},
};

/// Maximum number of pages of a listing: a million keys need a thousand.
const MAX_PAGES: usize = 10_000;
/// Maximum memory for the result of a listing: about a million of our keys.
const MAX_BYTES: usize = 128 << 20;

/// An object in a listing.
pub(super) struct Listed {
    /// Relative to the store's prefix.
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) modified: Option<Time>,
}

/// The result of a short listing.
pub(super) enum Any {
    /// A key directly below the prefix.
    Key(String),
    /// There is none.
    Nothing,
    /// Only a complete listing would tell.
    Unclear,
}

/// Number of keys to request when looking for one directly below a prefix: there may be deeper ones too.
const A_FEW: i32 = 10;

/// Returns true if a key consists of `prefix` and at least one more character other than `/`.
pub(super) fn is_directly_below(prefix: &str, key: &str) -> bool {
    let name = key.strip_prefix(prefix);
    name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// An entry of a listing.
enum Entry {
    Object(Listed),
    /// With a delimiter: the common start of the names below, including the delimiter.
    Folder(String),
}

impl Wire {
    /// All objects whose keys start with `prefix`, in the store's order, which is not standardized.
    pub(super) async fn list(&self, op: &'static str, prefix: &str) -> Result<Vec<Listed>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let keep = |entry| {
            if let Entry::Object(object) = entry {
                bytes += object.key.len() + size_of::<Listed>();
                found.push(object);
            }
            bytes <= MAX_BYTES
        };
        self.pages(op, prefix, None, keep).await?;
        Ok(found)
    }

    /// The results of `pick` for the objects whose keys start with `prefix`; their keys are not kept.
    pub(super) async fn pick<T>(
        &self,
        op: &'static str,
        prefix: &str,
        mut pick: impl FnMut(Listed) -> Option<T> + Send,
    ) -> Result<Vec<T>>
    where
        T: Send,
    {
        let mut found = Vec::new();
        let keep = |entry| {
            if let Entry::Object(object) = entry {
                found.extend(pick(object));
            }
            true
        };
        self.pages(op, prefix, None, keep).await?;
        Ok(found)
    }

    /// The names of the folders directly below `prefix`, which ends in `/`.
    pub(super) async fn folders(&self, op: &'static str, prefix: &str) -> Result<Vec<String>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let keep = |entry| {
            if let Entry::Folder(name) = entry {
                bytes += name.len() + size_of::<String>();
                found.push(name);
            }
            bytes <= MAX_BYTES
        };
        self.pages(op, prefix, Some("/"), keep).await?;
        Ok(found)
    }

    /// Looks for a key directly below `prefix`, with one request.
    pub(super) async fn any(&self, op: &'static str, prefix: &str) -> Result<Any> {
        let page = self.page(op, prefix, |r| r.max_keys(A_FEW)).await?;
        let mut keys = page.contents().iter().filter_map(|o| self.own(o.key()?));
        if let Some(key) = keys.find(|key| is_directly_below(prefix, key)) {
            return Ok(Any::Key(key));
        }
        Ok(match page.is_truncated() {
            Some(true) => Any::Unclear,
            None if page.next_continuation_token().is_some() => Any::Unclear,
            _ => Any::Nothing,
        })
    }

    /// A key relative to the store's prefix; `None` if it does not start with that.
    fn own(&self, key: &str) -> Option<String> {
        key.strip_prefix(&self.prefix).map(str::to_owned)
    }

    /// One page of a listing; `with` adds parameters.
    async fn page(
        &self,
        op: &'static str,
        prefix: &str,
        with: impl FnOnce(ListObjectsV2FluentBuilder) -> ListObjectsV2FluentBuilder,
    ) -> Result<ListObjectsV2Output> {
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let sent = Box::pin(with(request.prefix(self.key(prefix))).send());
        // A store that has never responded gets no more time than for any other first request.
        let patience = if self.clock.heard() {
            Answer::Later
        } else {
            Answer::Soon
        };
        let page = self.answer(op, patience, sent).await?;
        self.signs.seen();
        Ok(page)
    }

    /// Passes each entry to `keep`, which returns whether there is room for more.
    async fn pages(
        &self,
        op: &'static str,
        prefix: &str,
        delimiter: Option<&str>,
        mut keep: impl FnMut(Entry) -> bool + Send,
    ) -> Result<()> {
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.page(op, prefix, |r| {
                r.set_delimiter(delimiter.map(str::to_owned))
                    .set_continuation_token(token.clone())
            });
            let page = page.await?;
            let mut has_room = true;
            for object in page.contents() {
                let Some(key) = object.key().and_then(|key| self.own(key)) else {
                    continue;
                };
                has_room = keep(Entry::Object(Listed {
                    key,
                    size: object
                        .size()
                        .and_then(|n| u64::try_from(n).ok())
                        .unwrap_or_default(),
                    modified: object.last_modified().and_then(time),
                }));
            }
            for folder in page.common_prefixes() {
                let Some(folder) = folder.prefix().and_then(|key| self.own(key)) else {
                    continue;
                };
                has_room = keep(Entry::Folder(folder));
            }
            if !has_room {
                return Err(endless(op));
            }
            let next = match page.next_continuation_token() {
                Some(next) if page.is_truncated().unwrap_or(true) => next.to_owned(),
                None if page.is_truncated() == Some(true) => {
                    let why = "the listing is truncated, but has no continuation token";
                    return Err(foreign(op, why));
                }
                _ => return Ok(()),
            };
            if token.as_ref() == Some(&next) {
                return Err(Error::corrupt(op, "the listing repeats itself"));
            }
            token = Some(next);
        }
        Err(endless(op))
    }
}

fn endless(op: &'static str) -> Error {
    Error::corrupt(op, "the listing does not end")
}
