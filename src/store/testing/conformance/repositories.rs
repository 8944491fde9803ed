//! The suite for stores with many repositories: tests what [`Records`](crate::store::Records) and [`Repository`] promise.

#![expect(
    clippy::unwrap_used,
    reason = "a broken promise is a panic that names the case's line"
)]

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{blob_of, collect, unique_bytes, unique_manifest, unique_repo, unique_tag};
use crate::{
    artifact::{Manifest, Tag, media},
    digest::Digest,
    store::{
        ErrorKind, Expect, Published, Repositories, Repository,
        keys::{self, Repo},
        record,
        repository::Presence,
    },
};

/// Runs every case, all on one store.
///
/// # Panics
/// When the store breaks a promise.
pub async fn run(all: &dyn Repositories) {
    records_come_back_are_overwritten_and_go(all).await;
    record_that_is_too_long_is_corrupt(all).await;
    records_are_listed_by_prefix(all).await;
    what_is_no_record_of_a_repository_is_none_of_the_others(all).await;
    last_of_many_writers_wins_whole(all).await;
    repositories_with_anything_are_listed(all).await;
    tags_are_each_repositorys_own(all).await;
    long_names_are_names(all).await;
    manifest_is_read_by_digest_where_it_was_pushed(all).await;
    manifest_looks_like_nothing_of_ours(all).await;
    blobs_are_everybodys_until_deleted(all).await;
    deleted_manifest_takes_its_tags_along(all).await;
    parts_are_dated_and_go_one_by_one(all).await;
    super::merged::pushes_and_folds_of_a_tag_are_recorded(all).await;
    referrers_are_listed(all).await;
    own_repository_has_its_tags_as_they_are(all).await;
    many_at_once_lose_nothing(all).await;
}

fn unique_digest() -> Digest {
    Digest::sha256_of(&unique_bytes(32))
}

async fn push(repo: &Repository, manifest: &Manifest, tag: &Tag) {
    let tags = std::slice::from_ref(tag);
    repo.put_manifest(manifest, tags).await.unwrap();
}

async fn at(repo: &Repository, tag: &Tag) -> Option<Manifest> {
    let found = repo.manifest(&tag.clone().into()).await.unwrap();
    found.map(|r| r.manifest)
}

async fn by_digest(repo: &Repository, digest: &Digest) -> Option<Manifest> {
    let found = repo.manifest(&(*digest).into()).await.unwrap();
    found.map(|r| r.manifest)
}

async fn records_come_back_are_overwritten_and_go(all: &dyn Repositories) {
    let records = all.records();
    let repo = unique_repo("team/app");
    let d = unique_digest();
    for key in [
        keys::gone(&repo, &d),
        keys::linked(&repo, &d),
        keys::manifest(&repo, &Digest::Sha512([7; 64])),
        keys::referrer(&repo, &d, &Digest::Sha512([8; 64])),
    ] {
        let read = async || records.read_record(&key, 100).await.unwrap();
        assert_eq!(read().await, None, "{key}");
        records.remove_record(&key).await.unwrap();
        for text in ["{}", "{\"a\":1}", "\0\u{ff}\n\"", ""] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            records.write_record(&key, bytes.clone()).await.unwrap();
            assert_eq!(read().await, Some(bytes), "{key}");
        }
        records.remove_record(&key).await.unwrap();
        assert_eq!(read().await, None, "{key}");
        records.remove_record(&key).await.unwrap();
    }
}

async fn record_that_is_too_long_is_corrupt(all: &dyn Repositories) {
    let (records, key) = (
        all.records(),
        keys::gone(&unique_repo("a"), &unique_digest()),
    );
    let bytes = unique_bytes(record::MAX_BYTES as usize);
    records.write_record(&key, bytes.clone()).await.unwrap();
    let read = records.read_record(&key, record::MAX_BYTES).await;
    assert_eq!(read.unwrap(), Some(bytes));
    let e = records.read_record(&key, 100).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
}

async fn records_are_listed_by_prefix(all: &dyn Repositories) {
    let records = all.records();
    let (repo, other) = (unique_repo("a"), unique_repo("a"));
    let mut want: Vec<String> = (0..3)
        .map(|_| keys::gone(&repo, &unique_digest()))
        .collect();
    for key in want.iter().chain([
        &keys::gone(&other, &unique_digest()),
        &keys::linked(&repo, &unique_digest()),
        &keys::referrer(&repo, &unique_digest(), &unique_digest()),
    ]) {
        records.write_record(key, "{}".into()).await.unwrap();
    }
    want.sort();
    let list = async |prefix: &str| -> Vec<String> {
        let listed = records.list_records(prefix).await.unwrap();
        listed.into_iter().map(|l| l.key).collect()
    };
    let folder = want[0].rsplit_once('/').unwrap().0;
    assert_eq!(list(&format!("{folder}/")).await, want);
    assert_eq!(list(&format!("{folder}/sha256-")).await, want);
    assert_eq!(list(&want[1][..want[1].len() - 1]).await, [want[1].clone()]);
    assert_eq!(list(&format!("{folder}/nothing")).await, [""; 0]);
    let nobody = keys::manifests_prefix(&unique_repo("a"));
    assert_eq!(list(&nobody).await, [""; 0]);
}

async fn what_is_no_record_of_a_repository_is_none_of_the_others(all: &dyn Repositories) {
    let records = all.records();
    let (repo, d) = (unique_repo("a"), unique_digest());
    records
        .write_record(&keys::gone(&repo, &d), "{}".into())
        .await
        .unwrap();
    for key in [keys::linked(&repo, &d), keys::gone(&unique_repo("a"), &d)] {
        assert_eq!(records.read_record(&key, 100).await.unwrap(), None);
    }
}

async fn last_of_many_writers_wins_whole(all: &dyn Repositories) {
    let (records, key) = (
        all.records(),
        keys::gone(&unique_repo("a"), &unique_digest()),
    );
    let written: Vec<Bytes> = (0..8).map(|_| unique_bytes(3000)).collect();
    let writes = written
        .iter()
        .map(|b| records.write_record(&key, b.clone()));
    for done in join_all(writes).await {
        done.unwrap();
    }
    let read = records.read_record(&key, record::MAX_BYTES).await.unwrap();
    assert!(written.contains(&read.unwrap()));
    let last = unique_bytes(10);
    records.write_record(&key, last.clone()).await.unwrap();
    let read = records.read_record(&key, record::MAX_BYTES).await.unwrap();
    assert_eq!(read, Some(last));
}

async fn repositories_with_anything_are_listed(all: &dyn Repositories) {
    let long = format!("{}/b", ["long.name__x"; 12].join("/"));
    let names = ["a", "team/app", "team/app.2", "team/app_2-x", &long].map(unique_repo);
    for (i, name) in names.iter().enumerate() {
        let repo = all.repository(name);
        assert!(!repo.exists().await.unwrap());
        let (records, prefix) = (all.records(), keys::manifests_prefix(name));
        assert_eq!(records.any_record(&prefix).await.unwrap(), None);
        let manifest = unique_manifest();
        // With a tag, and without.
        match i % 2 {
            0 => push(&repo, &manifest, &unique_tag("t")).await,
            _ => repo.put_manifest(&manifest, &[]).await.unwrap(),
        }
        assert!(repo.exists().await.unwrap());
        let key = keys::manifest(name, &manifest.digest);
        assert_eq!(records.any_record(&prefix).await.unwrap(), Some(key));
    }
    let listed = all.records().repositories().await.unwrap();
    assert!(listed.is_sorted());
    for name in &names {
        assert!(listed.contains(name), "{name} of {listed:?}");
    }
}

async fn tags_are_each_repositorys_own(all: &dyn Repositories) {
    let (a, b) = (
        all.repository(&unique_repo("team/a")),
        all.repository(&unique_repo("team/b")),
    );
    let (one, two, tag) = (unique_manifest(), unique_manifest(), unique_tag("v1.0"));
    push(&a, &one, &tag).await;
    assert_eq!(at(&b, &tag).await, None);
    assert_eq!(b.tags().await.unwrap(), []);
    push(&b, &two, &tag).await;
    assert_eq!(at(&a, &tag).await, Some(one.clone()));
    assert_eq!(at(&b, &tag).await, Some(two.clone()));
    assert_eq!(a.tags().await.unwrap(), std::slice::from_ref(&tag));
    push(&a, &two, &tag).await;
    assert_eq!(at(&a, &tag).await, Some(two.clone()));
    assert!(a.delete_tag(&tag).await.unwrap());
    assert!(!a.delete_tag(&tag).await.unwrap());
    assert_eq!(at(&a, &tag).await, None);
    assert_eq!(a.tags().await.unwrap(), []);
    assert_eq!(at(&b, &tag).await, Some(two.clone()));
    // A tag is removed, its manifest is kept.
    assert_eq!(by_digest(&a, &one.digest).await, Some(one));
    push(&a, &two, &tag).await;
    assert_eq!(a.tags().await.unwrap(), [tag]);
}

async fn long_names_are_names(all: &dyn Repositories) {
    let long = format!("{}/b", ["long.name__x"; 12].join("/"));
    let (a, b) = (
        all.repository(&unique_repo(&long)),
        all.repository(&unique_repo(&long)),
    );
    let start = format!("_{:016x}", fastrand::u64(..));
    let tags: Vec<Tag> = ["a", "b"]
        .map(|end| format!("{start:x<127}{end}").parse().unwrap())
        .to_vec();
    for tag in &tags {
        let (one, two) = (unique_manifest(), unique_manifest());
        push(&a, &one, tag).await;
        assert_eq!(at(&a, tag).await, Some(one));
        assert_eq!(at(&b, tag).await, None);
        push(&a, &two, tag).await;
        assert_eq!(at(&a, tag).await, Some(two.clone()));
        let found = a.manifest(&tag.clone().into()).await.unwrap().unwrap();
        assert_eq!(found.manifest.media_type, two.media_type);
        a.add_part(tag, &two).await.unwrap();
        assert_eq!(a.parts(tag).await.unwrap()[0].digest, two.digest);
    }
    assert_eq!(a.tags().await.unwrap(), tags);
    assert_eq!(a.store().tags(&start).await.unwrap(), tags);
    assert_eq!(a.parts(&tags[1]).await.unwrap().len(), 1);
    for tag in &tags {
        assert!(a.delete_tag(tag).await.unwrap());
    }
    assert_eq!(a.tags().await.unwrap(), []);
}

async fn manifest_is_read_by_digest_where_it_was_pushed(all: &dyn Repositories) {
    let (a, b) = (
        all.repository(&unique_repo("a")),
        all.repository(&unique_repo("b")),
    );
    let manifest = unique_manifest();
    a.put_manifest(&manifest, &[]).await.unwrap();
    assert_eq!(
        by_digest(&a, &manifest.digest).await,
        Some(manifest.clone())
    );
    assert_eq!(by_digest(&b, &manifest.digest).await, None);
    assert_eq!(a.manifests().await.unwrap(), [manifest.digest]);
    // Its bytes are a blob, for manifests that name it in an index.
    let presence = a.presence(&manifest.digest).await.unwrap();
    assert!(matches!(presence, Presence::There(_)), "{presence:?}");
    assert_eq!(
        a.stat_blob(&manifest.digest).await.unwrap(),
        Some(manifest.bytes.len() as u64)
    );
}

/// A client gets back exactly what it pushed: even a record in the store's own format, which would point elsewhere if it were
/// treated as one.
async fn manifest_looks_like_nothing_of_ours(all: &dyn Repositories) {
    let (secret, own) = (unique_repo("secret"), unique_repo("own"));
    let (secret, own) = (all.repository(&secret), all.repository(&own));
    let (hidden, tag) = (unique_manifest(), unique_tag("t"));
    push(&secret, &hidden, &tag).await;
    let bytes = record::encode(&record::Tagged::at(&hidden));
    let bytes = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let forged = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media::IMAGE_INDEX,
        "artifactType": media::RECORD,
        "manifests": [],
        "annotations": {
            "io.cachectl.record.key": keys::tag(own.name(), &tag),
            "io.cachectl.record.bytes": bytes,
        },
    });
    let forged = Manifest::sniff(forged.to_string());
    push(&own, &forged, &tag).await;
    assert_eq!(at(&own, &tag).await, Some(forged.clone()));
    assert_eq!(by_digest(&own, &forged.digest).await, Some(forged));
    assert_eq!(own.tags().await.unwrap(), std::slice::from_ref(&tag));
    // And it can be replaced like any other.
    push(&own, &hidden, &tag).await;
    assert_eq!(at(&own, &tag).await, Some(hidden));
}

async fn blobs_are_everybodys_until_deleted(all: &dyn Repositories) {
    let (a, b) = (
        all.repository(&unique_repo("a")),
        all.repository(&unique_repo("b")),
    );
    let bytes = unique_bytes(1000);
    let (desc, body) = blob_of(&bytes);
    let digest = &desc.digest;
    assert_eq!(a.mount_blob(digest).await.unwrap(), None);
    assert_eq!(a.presence(digest).await.unwrap(), Presence::Missing);
    a.put_blob(&desc, &body).await.unwrap();
    assert_eq!(b.mount_blob(digest).await.unwrap(), Some(1000));
    let read = b.get_blob(&desc, 10..20).await.unwrap().unwrap();
    assert_eq!(collect(read).await.unwrap(), bytes.slice(10..20));
    assert_eq!(b.linked(digest).await.unwrap(), None);
    b.link(digest).await.unwrap();
    assert!(b.linked(digest).await.unwrap().unwrap().proves());
    assert!(b.delete_blob(digest).await.unwrap());
    assert!(!b.delete_blob(digest).await.unwrap());
    assert_eq!(b.presence(digest).await.unwrap(), Presence::Deleted);
    assert_eq!(a.stat_blob(digest).await.unwrap(), Some(1000));
    b.put_blob(&desc, &body).await.unwrap();
    assert!(matches!(
        b.presence(digest).await.unwrap(),
        Presence::There(_)
    ));
}

async fn deleted_manifest_takes_its_tags_along(all: &dyn Repositories) {
    let repo = all.repository(&unique_repo("a"));
    let (gone, stays) = (unique_manifest(), unique_manifest());
    let tags: Vec<Tag> = (0..3).map(|_| unique_tag("t")).collect();
    repo.put_manifest(&gone, &tags[..2]).await.unwrap();
    push(&repo, &stays, &tags[2]).await;
    repo.add_part(&tags[2], &gone).await.unwrap();
    assert!(repo.delete_manifest(&gone.digest).await.unwrap());
    assert!(!repo.delete_manifest(&gone.digest).await.unwrap());
    assert_eq!(by_digest(&repo, &gone.digest).await, None);
    assert_eq!(repo.tags().await.unwrap(), tags[2..]);
    assert_eq!(repo.parts(&tags[2]).await.unwrap(), []);
    assert_eq!(repo.manifests().await.unwrap(), [stays.digest]);
    push(&repo, &gone, &tags[0]).await;
    assert_eq!(by_digest(&repo, &gone.digest).await, Some(gone));
}

async fn parts_are_dated_and_go_one_by_one(all: &dyn Repositories) {
    let repo = all.repository(&unique_repo("a"));
    let (tag, other) = (unique_tag("cache.x"), unique_tag("cache"));
    let mut parts: Vec<Manifest> = (0..3).map(|_| unique_manifest()).collect();
    parts.sort_by_key(|m| m.digest.to_string());
    let began = repo.store().clock().await.unwrap();
    for part in &parts {
        repo.put_manifest(part, &[]).await.unwrap();
        repo.add_part(&tag, part).await.unwrap();
    }
    let listed = repo.parts(&tag).await.unwrap();
    let digests: Vec<Digest> = listed.iter().map(|p| p.digest).collect();
    assert_eq!(digests, parts.iter().map(|p| p.digest).collect::<Vec<_>>());
    for part in &listed {
        let at = part.modified.unwrap();
        assert!((at.secs - began.secs).abs() < 60, "{at:?} {began:?}");
    }
    assert_eq!(repo.parts(&other).await.unwrap(), []);
    repo.add_part(&tag, &parts[1]).await.unwrap();
    repo.remove_part(&tag, &parts[0].digest).await.unwrap();
    assert_eq!(repo.parts(&tag).await.unwrap().len(), 2);
    assert!(repo.delete_tag(&tag).await.unwrap());
    assert_eq!(repo.parts(&tag).await.unwrap(), []);
}

async fn referrers_are_listed(all: &dyn Repositories) {
    let repo = all.repository(&unique_repo("a"));
    let subject = unique_manifest();
    repo.put_manifest(&subject, &[]).await.unwrap();
    let mut referrers: Vec<Manifest> = Vec::new();
    for i in 0..2 {
        let doc = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE_INDEX,
            "subject": subject.descriptor(),
            "manifests": [],
            "annotations": { "n": format!("{i} {}", subject.digest) },
        });
        referrers.push(Manifest::sniff(doc.to_string()));
    }
    referrers.sort_by_key(|m| m.digest.to_string());
    for one in &referrers {
        repo.put_manifest(one, &[]).await.unwrap();
    }
    let listed = repo.referrers(&subject.digest).await.unwrap();
    assert_eq!(
        listed,
        referrers.iter().map(|m| m.digest).collect::<Vec<_>>()
    );
    repo.delete_manifest(&listed[0]).await.unwrap();
    assert_eq!(repo.referrers(&subject.digest).await.unwrap(), listed[1..]);
}

/// The command line finds its names where it wrote them, and nothing of other repositories.
async fn own_repository_has_its_tags_as_they_are(all: &dyn Repositories) {
    let (own, other) = (
        all.repository(&Repo::cli()),
        all.repository(&unique_repo("a")),
    );
    let (mine, theirs, tag) = (unique_manifest(), unique_manifest(), unique_tag("dir"));
    push(&other, &theirs, &tag).await;
    push(&own, &mine, &tag).await;
    let tags = own.tags().await.unwrap();
    assert!(tags.contains(&tag) && tags.iter().all(|t| !t.as_str().starts_with("_c.")));
    assert_eq!(at(&own, &tag).await, Some(mine.clone()));
    assert_eq!(by_digest(&own, &mine.digest).await, Some(mine));
    assert_eq!(by_digest(&own, &theirs.digest).await, None);
    assert!(own.delete_tag(&tag).await.unwrap());
    assert_eq!(at(&other, &tag).await, Some(theirs));
}

async fn many_at_once_lose_nothing(all: &dyn Repositories) {
    let name = unique_repo("a");
    let tag = unique_tag("moving");
    let manifests: Vec<Manifest> = (0..8).map(|_| unique_manifest()).collect();
    let writers = manifests.iter().enumerate().map(async |(i, manifest)| {
        let repo: Arc<Repository> = Arc::new(all.repository(&name));
        let own: Tag = format!("own-{i}").parse().unwrap();
        repo.put_manifest(manifest, &[own.clone(), tag.clone()])
            .await
            .unwrap();
        repo.add_part(&tag, manifest).await.unwrap();
        assert_eq!(at(&repo, &own).await.as_ref(), Some(manifest));
    });
    join_all(writers).await;
    let repo = all.repository(&name);
    assert_eq!(repo.tags().await.unwrap().len(), 9);
    assert_eq!(repo.parts(&tag).await.unwrap().len(), 8);
    assert_eq!(repo.manifests().await.unwrap().len(), 8);
    let last = at(&repo, &tag).await.unwrap();
    assert!(manifests.contains(&last));
    let again = repo.store().publish(&last, Some(&tag), &Expect::Anything);
    assert_eq!(again.await.unwrap(), Published::Done);
}
