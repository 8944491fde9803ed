//! Records of merged tags: the parts of each, and the manifests it was served as.

use super::Repository;
use crate::{
    artifact::{Manifest, Tag},
    digest::Digest,
    entry::Time,
    store::{
        error::{ErrorKind, Result, corrupt_is_none},
        keys::{self, Key},
        record,
    },
};

/// A part of a merged tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPart {
    /// The manifest that was pushed.
    pub digest: Digest,
    /// When its record was last written, by the store's clock; `None` if the store does not report it. Not earlier than it was
    /// pushed; see [`Repository::published`] for that time.
    pub modified: Option<Time>,
}

impl Repository {
    /// The parts that a tag is merged from, sorted by their digests' text.
    pub async fn parts(&self, tag: &Tag) -> Result<Vec<TagPart>> {
        let listed = self
            .records
            .list_records(&keys::parts_prefix(&self.name, tag))
            .await?;
        Ok(listed
            .into_iter()
            .filter_map(|r| match keys::parse(&r.key)? {
                Key::Part(_, _, digest) => Some(TagPart {
                    digest,
                    modified: r.modified,
                }),
                _ => None,
            })
            .collect())
    }

    /// Makes an existing manifest a part of a tag, or records that it was pushed again: now, by the store's clock.
    pub async fn add_part(&self, tag: &Tag, manifest: &Manifest) -> Result<()> {
        let now = self.store.clock().await?;
        self.add_part_at(tag, manifest, now).await
    }

    /// The same for a manifest pushed at `time`.
    pub async fn add_part_at(&self, tag: &Tag, manifest: &Manifest, time: Time) -> Result<()> {
        let key = keys::part(&self.name, tag, &manifest.digest);
        let record = record::encode(&record::Part::of(manifest, time));
        self.records.write_record(&key, record.into()).await
    }

    /// When a part was last pushed, according to its record; `None` if there is none, or it does not contain the time.
    pub async fn published(&self, tag: &Tag, digest: &Digest) -> Result<Option<Time>> {
        let key = keys::part(&self.name, tag, digest);
        // Its key alone makes it a part.
        let read = corrupt_is_none(self.records.read_record(&key, record::MAX_BYTES).await)?;
        let part = read.and_then(|b| record::decode::<record::Part>("list", &b).ok());
        Ok(part.and_then(|p| p.published()))
    }

    /// Records that a tag is served as a manifest merged from `parts`.
    pub async fn add_fold(&self, tag: &Tag, digest: &Digest, fold: &record::Folded) -> Result<()> {
        let key = keys::fold(&self.name, tag, digest);
        self.records
            .write_record(&key, record::encode(fold).into())
            .await
    }

    /// The record of a tag being served as this manifest; `None` if it never was, or the record cannot be read.
    pub async fn fold(&self, tag: &Tag, digest: &Digest) -> Result<Option<record::Folded>> {
        let key = keys::fold(&self.name, tag, digest);
        let read = corrupt_is_none(self.records.read_record(&key, record::MAX_BYTES).await)?;
        Ok(read.and_then(|b| record::decode("list", &b).ok()))
    }

    /// The manifests that a tag was served as, sorted by their digests' text.
    pub async fn folds(&self, tag: &Tag) -> Result<Vec<Digest>> {
        let prefix = keys::folds_prefix(&self.name, tag);
        let listed = self.records.list_records(&prefix).await?;
        Ok(listed
            .iter()
            .filter_map(|r| match keys::parse(&r.key)? {
                Key::Fold(_, _, digest) => Some(digest),
                _ => None,
            })
            .collect())
    }

    /// Removes the record that a tag was served as this manifest.
    pub async fn remove_fold(&self, tag: &Tag, digest: &Digest) -> Result<()> {
        let key = keys::fold(&self.name, tag, digest);
        self.records.remove_record(&key).await
    }

    /// Removes all parts of a tag; `false` if there was none.
    pub(super) async fn remove_parts(&self, tag: &Tag) -> Result<bool> {
        let parts = self.parts(tag).await?;
        for part in &parts {
            self.remove_part(tag, &part.digest).await?;
        }
        Ok(!parts.is_empty())
    }

    /// Returns true if a manifest is one of a tag's parts.
    pub async fn is_part(&self, tag: &Tag, digest: &Digest) -> Result<bool> {
        let key = keys::part(&self.name, tag, digest);
        match self.records.read_record(&key, record::MAX_BYTES).await {
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(true),
            read => Ok(read?.is_some()),
        }
    }

    /// Removes a part of a tag.
    pub async fn remove_part(&self, tag: &Tag, digest: &Digest) -> Result<()> {
        let key = keys::part(&self.name, tag, digest);
        self.records.remove_record(&key).await
    }
}
