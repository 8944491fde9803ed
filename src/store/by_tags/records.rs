//! Records as manifests under their own tags.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    AT_ONCE, ByTags, Flat,
    card::{self, Card},
    names::{Folder, Name, RecordKind, Whose, whose},
    no_place,
};
use crate::{
    artifact::{Descriptor, Manifest, Tag},
    store::{
        Expect,
        error::{Error, ErrorKind, Result, corrupt_is_none},
        keys::{self, Key, RESERVED_TAGS, Repo},
        record,
        records::{Listed, Records},
    },
};

/// The place of a record.
struct RecordPlace {
    folder: Folder,
    tag: Tag,
}

fn place(op: &'static str, key: &str) -> Result<RecordPlace> {
    let read = || {
        let (folder, name) = Folder::split(key)?;
        // The CLI's own tags are plain tags, and nothing else is stored in their place.
        let tag = match folder.kind {
            RecordKind::Tag if folder.repo == Repo::cli() => {
                let tag: Tag = name.parse().ok()?;
                (!keys::is_reserved(&tag)).then_some(tag)?
            }
            _ => folder.place(name)?,
        };
        Some(RecordPlace { folder, tag })
    };
    read().ok_or_else(|| no_place(op, key))
}

/// The content of a tag's record, given the manifest under the tag.
pub(super) fn tagged(op: &'static str, key: &str, found: &Manifest) -> Result<Bytes> {
    if card::is_card(found) {
        let card = Card::read_as(op, found, record::MAX_BYTES, key)?;
        return Ok(card.bytes);
    }
    Ok(record::encode(&record::Tagged::at(found)).into())
}

impl<S: Flat> ByTags<S> {
    async fn manifest_at(&self, tag: &Tag) -> Result<Option<Manifest>> {
        let found = self.flat().resolve(&tag.clone().into()).await?;
        Ok(found.map(|r| r.manifest))
    }

    /// The record in a listing; `None` if it was removed meanwhile, or is not a record.
    async fn listed(&self, folder: &Folder, tag: &Tag) -> Result<Option<Listed>> {
        let name = folder.name(tag);
        let bare = |key: String| Listed {
            key,
            size: None,
            modified: None,
        };
        let clear = match name {
            Name::Foreign => return Ok(None),
            // Listings include the time of parts, but not of other records.
            Name::Clear(name) if folder.kind != RecordKind::Part => {
                return Ok(Some(bare(folder.key(&name))));
            }
            Name::Clear(name) => Some(name),
            Name::Hashed => None,
        };
        let found = match self.manifest_at(tag).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            // A listing is about names; reading it reports the damage.
            Err(e) if e.kind == ErrorKind::Corrupt => {
                return Ok(clear.map(|name| bare(folder.key(&name))));
            }
            Err(e) => return Err(e),
        };
        let card = Card::read("list records", &found, record::MAX_BYTES);
        Ok(match (card, clear) {
            (Ok(card), clear) => {
                let key = clear.map_or(card.key, |name| folder.key(&name));
                let is_its = Folder::split(&key).is_some_and(|(its, name)| {
                    its == *folder && its.place(name).as_ref() == Some(tag)
                });
                is_its.then(|| Listed {
                    size: Some(card.bytes.len() as u64),
                    modified: card.modified,
                    key,
                })
            }
            (Err(_), clear) => clear.map(|name| bare(folder.key(&name))),
        })
    }

    /// The repository of the records in a folder, taken from the first readable one.
    async fn owner(&self, places: &[Tag]) -> Result<Option<Repo>> {
        for tag in places {
            let found = corrupt_is_none(self.manifest_at(tag).await)?;
            let card = found.and_then(|m| Card::read("list", &m, record::MAX_BYTES).ok());
            let owner = card.and_then(|card| {
                let (folder, _) = Folder::split(&card.key)?;
                tag.as_str()
                    .starts_with(folder.prefix())
                    .then_some(folder.repo)
            });
            if owner.is_some() {
                return Ok(owner);
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl<S: Flat> Records for ByTags<S> {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        const OP: &str = "read record";
        let place = place(OP, key)?;
        let found = self.manifest_at(&place.tag).await?;
        let bytes = match (found, place.folder.kind) {
            (Some(found), RecordKind::Tag) => tagged(OP, key, &found).map_err(|e| e.at("", key))?,
            (Some(found), _) => {
                let card = Card::read_as(OP, &found, limit, key);
                card.map_err(|e| e.at("", key))?.bytes
            }
            (None, RecordKind::Manifest) if place.folder.repo == Repo::cli() => {
                let Some(Key::Manifest(_, digest)) = keys::parse(key) else {
                    return Ok(None);
                };
                let known = self.0.by_tag.get(&digest);
                return Ok(known.map(|k| record::encode(&k).into()));
            }
            (None, _) => return Ok(None),
        };
        if bytes.len() as u64 > limit {
            let size = bytes.len();
            let why = format!("its record has {size} bytes, more than the limit of {limit}");
            return Err(Error::corrupt(OP, why).at("", key));
        }
        Ok(Some(bytes))
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        const OP: &str = "write record";
        let place = place(OP, key)?;
        if bytes.len() as u64 > record::MAX_BYTES {
            let (size, most) = (bytes.len(), record::MAX_BYTES);
            let why = format!("a record of {size} bytes exceeds the limit of {most}");
            return Err(Error::invalid(OP, why).at("", key));
        }
        let is_part = place.folder.kind == RecordKind::Part;
        let keeps: Option<Descriptor> = match place.folder.kind {
            RecordKind::Part => {
                let part: record::Tagged = record::decode(OP, &bytes).map_err(|e| e.at("", key))?;
                Some(Descriptor::new(&part.media_type, part.digest, part.size))
            }
            // A tag points at its manifest directly: see `repo`.
            RecordKind::Tag => return Err(no_place(OP, key)),
            _ => None,
        };
        let modified = if is_part {
            Some(self.flat().clock().await?)
        } else {
            None
        };
        let card = Card {
            key: key.to_owned(),
            bytes,
            modified,
        };
        self.write(&place.tag, &card, keeps.as_ref(), &Expect::Anything)
            .await
            .map(drop)
            .map_err(|e| e.at("", key))
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        let place = place("remove record", key)?;
        if let Some(Key::Manifest(_, digest)) = keys::parse(key)
            && place.folder.repo == Repo::cli()
        {
            self.0.by_tag.remove(&digest);
        }
        self.flat().untag(&place.tag).await.map(drop)
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        const OP: &str = "list records";
        let (folder, start) = Folder::split(prefix).ok_or_else(|| no_place(OP, prefix))?;
        let own_tags = folder.kind == RecordKind::Tag && folder.repo == Repo::cli();
        let mut found: Vec<Listed> = if own_tags {
            let tags = self.flat().standing(start).await?;
            let tags = tags.into_iter().filter(|t| !keys::is_reserved(t));
            tags.map(|t| Listed {
                key: folder.key(t.as_str()),
                size: None,
                modified: None,
            })
            .collect()
        } else {
            let places = self.flat().standing(folder.prefix()).await?;
            let folder = &folder;
            let read =
                stream::iter(places).map(|tag| async move { self.listed(folder, &tag).await });
            let read = read.buffered(AT_ONCE);
            read.try_filter_map(|listed| async move { Ok(listed) })
                .try_collect()
                .await?
        };
        found.retain(|l| l.key.strip_prefix(prefix).is_some_and(|n| !n.is_empty()));
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        const OP: &str = "list records";
        let (folder, _) = Folder::split(prefix).ok_or_else(|| no_place(OP, prefix))?;
        if folder.kind == RecordKind::Tag && folder.repo == Repo::cli() {
            let listed = self.list_records(prefix).await?;
            return Ok(listed.into_iter().next().map(|l| l.key));
        }
        for tag in self.flat().standing(folder.prefix()).await? {
            let listed = self.listed(&folder, &tag).await?;
            let name = listed.as_ref().and_then(|l| l.key.strip_prefix(prefix));
            if name.is_some_and(|name| !name.is_empty()) {
                return Ok(listed.map(|l| l.key));
            }
        }
        Ok(None)
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        let mut repos = BTreeSet::new();
        let mut folders: BTreeMap<String, Vec<Tag>> = BTreeMap::new();
        for tag in self.flat().standing(RESERVED_TAGS).await? {
            match whose(&tag) {
                Whose::Repo(repo) => {
                    repos.insert(repo);
                }
                Whose::ManifestOf(folder) => folders.entry(folder).or_default().push(tag),
                Whose::Unknown => {}
            }
        }
        if !self.flat().standing("").await?.is_empty() {
            repos.insert(Repo::cli());
        }
        for repo in &repos {
            folders.remove(Folder::of_manifests(repo).prefix());
        }
        let folders: Vec<Vec<Tag>> = folders.into_values().collect();
        let owners = stream::iter(folders).map(|of| async move { self.owner(&of).await });
        let owners: Vec<Option<Repo>> = owners.buffered(AT_ONCE).try_collect().await?;
        repos.extend(owners.into_iter().flatten());
        Ok(repos.into_iter().collect())
    }
}
