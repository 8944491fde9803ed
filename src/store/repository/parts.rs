//! Merged tags as records: the parts of each, and what it was served as.

use super::Repository;
use crate::{
    artifact::{Manifest, Tag},
    digest::Digest,
    entry::Time,
    store::{
        error::{ErrorKind, Result},
        keys::{self, Key},
        record,
    },
};

/// A part of a merged tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPart {
    /// The manifest that was pushed.
    pub digest: Digest,
    /// When its record was written last, by the store's clock; `None` where the store does not say. Not before it was pushed:
    /// [`Repository::published`] says when that was.
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

    /// Makes a manifest that is there a part of a tag, or says that it was pushed again: now, by the store's clock.
    pub async fn add_part(&self, tag: &Tag, manifest: &Manifest) -> Result<()> {
        let now = self.store.clock().await?;
        self.add_part_at(tag, manifest, now).await
    }

    /// The same of one that was pushed at `time`.
    pub async fn add_part_at(&self, tag: &Tag, manifest: &Manifest, time: Time) -> Result<()> {
        let key = keys::part(&self.name, tag, &manifest.digest);
        let record = record::encode(&record::Part::of(manifest, time));
        self.records.write_record(&key, record.into()).await
    }

    /// When a part was pushed last, as its record says; `None` where there is none, or it does not say.
    pub async fn published(&self, tag: &Tag, digest: &Digest) -> Result<Option<Time>> {
        let key = keys::part(&self.name, tag, digest);
        let read = match self.records.read_record(&key, record::MAX_BYTES).await {
            // Its key is what makes it a part.
            Err(e) if e.kind == ErrorKind::Corrupt => None,
            other => other?,
        };
        let part = read.and_then(|b| record::decode::<record::Part>("list", &b).ok());
        Ok(part.and_then(|p| p.published()))
    }

    /// Records that a tag is served as a manifest made of `parts`.
    pub async fn add_fold(&self, tag: &Tag, digest: &Digest, fold: &record::Folded) -> Result<()> {
        let key = keys::fold(&self.name, tag, digest);
        self.records
            .write_record(&key, record::encode(fold).into())
            .await
    }

    /// What a tag was served as when it was served as this manifest; `None` if it never was, or that cannot be read.
    pub async fn fold(&self, tag: &Tag, digest: &Digest) -> Result<Option<record::Folded>> {
        let key = keys::fold(&self.name, tag, digest);
        let read = match self.records.read_record(&key, record::MAX_BYTES).await {
            Err(e) if e.kind == ErrorKind::Corrupt => None,
            other => other?,
        };
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

    /// Forgets that a tag was served as this manifest.
    pub async fn remove_fold(&self, tag: &Tag, digest: &Digest) -> Result<()> {
        let key = keys::fold(&self.name, tag, digest);
        self.records.remove_record(&key).await
    }

    /// Takes all parts away from a tag; `false` if there was none.
    pub(super) async fn remove_parts(&self, tag: &Tag) -> Result<bool> {
        let parts = self.parts(tag).await?;
        for part in &parts {
            self.remove_part(tag, &part.digest).await?;
        }
        Ok(!parts.is_empty())
    }

    /// Says whether a manifest is one of a tag's parts.
    pub async fn is_part(&self, tag: &Tag, digest: &Digest) -> Result<bool> {
        let key = keys::part(&self.name, tag, digest);
        match self.records.read_record(&key, record::MAX_BYTES).await {
            Err(e) if e.kind == ErrorKind::Corrupt => Ok(true),
            read => Ok(read?.is_some()),
        }
    }

    /// Takes a part away from a tag.
    pub async fn remove_part(&self, tag: &Tag, digest: &Digest) -> Result<()> {
        let key = keys::part(&self.name, tag, digest);
        self.records.remove_record(&key).await
    }
}
