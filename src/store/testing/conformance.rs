//! One suite for every store: tests what [`BlobStore`](crate::store::BlobStore) and [`TagStore`](crate::store::TagStore)
//! promise.
//!
//! Every case uses bytes and tags that no other run has used, so cases may share a non-empty store. A broken promise is a panic
//! that shows the case's line.

use std::{any::Any, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, future::join_all};

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    digest::Digest,
    entry::Time,
    store::{
        Body, ByteStream, ErrorKind, Expect, Meet, Published, Put, RepoStore, Result, SpoolWriter,
        Sweep, Untag, Version, keys::Repo,
    },
    task,
};

mod merged;
pub mod repositories;
mod rounds;

/// A store to test, with its properties.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn RepoStore>,
    /// What it promises to concurrent writers of one name.
    pub meet: Meet,
    /// Its ability to remove tags.
    pub untag: Option<Arc<dyn Untag>>,
    /// Its ability to sweep.
    pub sweep: Option<Arc<dyn Sweep>>,
    /// The store's preferred folder for spools, if any.
    pub spool_dir: Option<PathBuf>,
    /// A value that must live as long as the store: a temporary folder, a server.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// Runs every case, each on a result of `fresh`: a new store each time, or the same.
///
/// # Panics
/// When the store breaks a promise.
pub async fn run_all(fresh: impl AsyncFn() -> Subject) {
    stat_of_missing_blob_is_none(&fresh().await).await;
    put_twice_writes_once(&fresh().await).await;
    blob_comes_back_whole_and_in_ranges(&fresh().await).await;
    empty_blob_is_a_blob(&fresh().await).await;
    wrong_digest_is_refused_and_invisible(&fresh().await).await;
    wrong_size_is_refused_and_invisible(&fresh().await).await;
    other_bytes_of_the_same_size_are_refused_over_what_is_there(&fresh().await).await;
    get_of_another_size_is_corrupt(&fresh().await).await;
    sha512_blob_is_a_blob(&fresh().await).await;
    large_spool_goes_through(&fresh().await).await;
    concurrent_puts_of_one_blob_all_succeed(&fresh().await).await;
    dropped_put_leaves_nothing_partial(&fresh().await).await;
    manifest_is_found_by_tag_and_digest(&fresh().await).await;
    missing_names_are_none(&fresh().await).await;
    manifest_with_a_wrong_digest_is_refused(&fresh().await).await;
    tag_moves(&fresh().await).await;
    rounds::what_a_reader_knows_changes_no_answer(&fresh().await).await;
    rounds::staged_manifest_is_published_whole(&fresh().await).await;
    tags_are_listed_by_prefix(&fresh().await).await;
    clock_is_near_ours(&fresh().await).await;
    let subject = fresh().await;
    if subject.meet == Meet::CompareAndSwap {
        expectations_hold(&subject).await;
        one_of_many_swaps_wins(&fresh().await).await;
        no_update_is_lost(&fresh().await).await;
    }
    if let Some(untag) = subject.untag.clone() {
        untag_takes_the_name_only(&subject, untag.as_ref()).await;
    }
    if let Some(sweep) = subject.sweep.clone() {
        marks_are_kept(sweep.as_ref()).await;
        swept_blob_is_gone(&subject, sweep.as_ref()).await;
        renewed_blob_is_as_if_written_now(&subject, sweep.as_ref()).await;
        replaced_bytes_take_nothing_that_is_said_of_them(&subject, sweep.as_ref()).await;
        roots_are_what_tags_name(&subject, sweep.as_ref()).await;
    }
}

/// Some bytes that no other run has used.
fn unique_bytes(len: usize) -> Bytes {
    let mut rng = fastrand::Rng::new();
    (0..len).map(|_| rng.u8(..)).collect()
}

fn unique_repo(stem: &str) -> Repo {
    let name = format!("{stem}{:016x}", fastrand::u64(..));
    name.parse().expect("a stem and hex digits are a name")
}

fn unique_tag(stem: &str) -> Tag {
    format!("{stem}-{:016x}", fastrand::u64(..))
        .parse()
        .expect("a word and hex digits are a tag")
}

fn unique_manifest() -> Manifest {
    let id = fastrand::u64(..);
    // Odd spacing: decoding and re-encoding it would show.
    Manifest::sniff(format!(
        "{{ \"schemaVersion\":2,\n\t\"mediaType\" : \"application/vnd.oci.image.index.v1+json\", \"manifests\":[], \"annotations\":{{\"id\":\"{id:016x}\"}} }}\n"
    ))
}

fn blob_of(bytes: &Bytes) -> (Descriptor, Body) {
    let desc = Descriptor::of("application/octet-stream", bytes);
    (desc, Body::Bytes(bytes.clone()))
}

async fn collect(stream: ByteStream) -> Result<Bytes> {
    let parts: Vec<Bytes> = stream.try_collect().await?;
    assert!(
        parts.iter().all(|p| !p.is_empty()),
        "a piece of a stream is empty"
    );
    Ok(parts.concat().into())
}

async fn read(s: &Subject, desc: &Descriptor, range: Range<u64>) -> Bytes {
    let stream = s.store.get(desc, range).await.expect("get");
    collect(stream.expect("the blob is there"))
        .await
        .expect("the stream is whole")
}

async fn put(s: &Subject, bytes: &Bytes) -> Descriptor {
    let (desc, body) = blob_of(bytes);
    s.store.put(&desc, &body).await.expect("put");
    desc
}

async fn publish(s: &Subject, manifest: &Manifest, tag: &Tag, expect: &Expect) -> Published {
    let done = s.store.publish(manifest, Some(tag), expect).await;
    done.expect("publish")
}

/// The current digest and version of a tag.
async fn head(s: &Subject, tag: &Tag) -> Option<(Digest, Option<Version>)> {
    let found = s.store.resolve(&Reference::Tag(tag.clone())).await;
    found
        .expect("resolve")
        .map(|r| (r.manifest.digest, r.version))
}

async fn stat_of_missing_blob_is_none(s: &Subject) {
    let (desc, _) = blob_of(&unique_bytes(32));
    assert_eq!(s.store.stat(&desc.digest).await.expect("stat"), None);
    assert!(s.store.get(&desc, 0..32).await.expect("get").is_none());
    assert!(s.store.get(&desc, 3..7).await.expect("get").is_none());
}

async fn put_twice_writes_once(s: &Subject) {
    let (desc, body) = blob_of(&unique_bytes(1000));
    assert_eq!(s.store.put(&desc, &body).await.expect("put"), Put::Stored);
    assert_eq!(s.store.put(&desc, &body).await.expect("put"), Put::Existed);
    assert_eq!(s.store.stat(&desc.digest).await.expect("stat"), Some(1000));
}

async fn blob_comes_back_whole_and_in_ranges(s: &Subject) {
    let bytes = unique_bytes(300_000);
    let desc = put(s, &bytes).await;
    for range in [
        0..300_000,
        0..1,
        0..1000,
        1234..250_000,
        299_999..300_000,
        150_000..300_000,
    ] {
        let part = bytes.slice(range.start as usize..range.end as usize);
        assert!(
            read(s, &desc, range.clone()).await == part,
            "range {range:?} has other bytes"
        );
    }
    assert!(read(s, &desc, 7..7).await.is_empty());
    let beyond = s.store.get(&desc, 299_999..300_001).await;
    assert!(beyond.is_err(), "a range beyond the blob was answered");
}

async fn empty_blob_is_a_blob(s: &Subject) {
    let desc = put(s, &Bytes::new()).await;
    assert_eq!(s.store.stat(&desc.digest).await.expect("stat"), Some(0));
    assert!(read(s, &desc, 0..0).await.is_empty());
}

async fn wrong_digest_is_refused_and_invisible(s: &Subject) {
    let (mut desc, body) = blob_of(&unique_bytes(5000));
    desc.digest = Digest::sha256_of(&unique_bytes(16));
    let e = s
        .store
        .put(&desc, &body)
        .await
        .expect_err("bytes of another digest were taken");
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert_eq!(s.store.stat(&desc.digest).await.expect("stat"), None);

    let (spool, _keep) = spool_of(s, unique_bytes(5000)).await;
    let e = s.store.put(&desc, &spool).await;
    let e = e.expect_err("a spool of another digest was taken");
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert_eq!(s.store.stat(&desc.digest).await.expect("stat"), None);
}

async fn wrong_size_is_refused_and_invisible(s: &Subject) {
    for off in [-1, 1] {
        let (mut desc, body) = blob_of(&unique_bytes(5000));
        desc.size = desc.size.saturating_add_signed(off);
        let e = s
            .store
            .put(&desc, &body)
            .await
            .expect_err("bytes of another size were taken");
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        assert_eq!(s.store.stat(&desc.digest).await.expect("stat"), None);
    }
}

/// Otherwise a caller who knows only a digest would be told that it brought the bytes.
async fn other_bytes_of_the_same_size_are_refused_over_what_is_there(s: &Subject) {
    let there = unique_bytes(5000);
    let sha256 = put(s, &there).await;
    let mut hasher = Digest::Sha512([0; 64]).hasher();
    hasher.update(&there);
    let sha512 = Descriptor::new("application/octet-stream", hasher.finish(), 5000);
    let takes_sha512 = s.store.put(&sha512, &Body::Bytes(there.clone())).await;
    let mut descriptors = vec![sha256];
    descriptors.extend(takes_sha512.is_ok().then_some(sha512));
    for desc in descriptors {
        let (spool, _keep) = spool_of(s, unique_bytes(5000)).await;
        for body in [Body::Bytes(unique_bytes(5000)), spool] {
            let e = s.store.put(&desc, &body).await;
            let e = e.expect_err("other bytes were taken for those that are there");
            assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        }
        assert_eq!(read(s, &desc, 0..5000).await, there);
    }
}

async fn get_of_another_size_is_corrupt(s: &Subject) {
    let mut desc = put(s, &unique_bytes(5000)).await;
    for size in [4999, 5001] {
        desc.size = size;
        let e = match s.store.get(&desc, 0..size).await {
            Err(e) => e,
            Ok(None) => panic!("a blob that is there was a miss"),
            Ok(Some(stream)) => collect(stream)
                .await
                .expect_err("a blob of another size was read"),
        };
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    }
}

async fn sha512_blob_is_a_blob(s: &Subject) {
    let bytes = unique_bytes(777);
    let mut hasher = Digest::Sha512([0; 64]).hasher();
    hasher.update(&bytes);
    let desc = Descriptor::new("application/octet-stream", hasher.finish(), 777);
    match s.store.put(&desc, &Body::Bytes(bytes.clone())).await {
        Ok(_) => assert_eq!(read(s, &desc, 0..777).await, bytes),
        // A registry of the older specification need not know it.
        Err(e) => assert_eq!(e.kind, ErrorKind::Unsupported, "{e}"),
    }
}

/// A spool of `bytes` where the store wants it; the folder lives at least as long as the value beside it.
async fn spool_of(s: &Subject, bytes: Bytes) -> (Body, Option<tempfile::TempDir>) {
    let wanted = s.spool_dir.clone();
    task::blocking(move || {
        use std::io::Write as _;
        let own = match wanted {
            Some(_) => None,
            None => Some(tempfile::tempdir().expect("make a temporary folder")),
        };
        let dir = own.as_ref().map(|d| d.path().to_owned()).or(wanted);
        let dir = dir.expect("one of both is there");
        let mut spool = SpoolWriter::create(&dir).expect("create a spool");
        spool.write_all(&bytes).expect("write the spool");
        (Body::Spool(Arc::new(spool.finish())), own)
    })
    .await
}

async fn large_spool_goes_through(s: &Subject) {
    const SIZE: u64 = 40 << 20;
    let unit = unique_bytes(1 << 20);
    let mut whole = Vec::with_capacity(SIZE as usize);
    for i in 0..40_u8 {
        whole.push(i);
        whole.extend_from_slice(&unit[1..]);
    }
    let (body, _keep) = spool_of(s, whole.clone().into()).await;
    let desc = Descriptor::of("application/octet-stream", &whole);
    assert_eq!(s.store.put(&desc, &body).await.expect("put"), Put::Stored);
    // The store must not lean on the spool.
    drop(body);
    assert!(
        read(s, &desc, 0..SIZE).await == whole,
        "the large blob has other bytes"
    );
    let middle = read(s, &desc, (SIZE / 2 - 3)..(SIZE / 2 + 3)).await;
    assert_eq!(
        middle,
        whole[(SIZE / 2 - 3) as usize..(SIZE / 2 + 3) as usize]
    );
}

async fn concurrent_puts_of_one_blob_all_succeed(s: &Subject) {
    let bytes = unique_bytes(200_000);
    let (desc, body) = blob_of(&bytes);
    let puts = (0..8).map(|_| s.store.put(&desc, &body));
    for done in join_all(puts).await {
        done.expect("one of eight puts of a blob failed");
    }
    assert_eq!(read(s, &desc, 0..200_000).await, bytes);
}

async fn dropped_put_leaves_nothing_partial(s: &Subject) {
    let bytes = unique_bytes(4 << 20);
    let (desc, body) = blob_of(&bytes);
    // The longer it was under way, the later the point at which it is given up.
    for micros in [0, 100, 1000, 5000, 20_000] {
        let patience = Duration::from_micros(micros);
        let _ = tokio::time::timeout(patience, s.store.put(&desc, &body)).await;
        match s.store.stat(&desc.digest).await.expect("stat") {
            None => {}
            Some(size) => {
                assert_eq!(size, desc.size, "a part of a blob is visible");
                assert!(
                    read(s, &desc, 0..size).await == bytes,
                    "a blob given up has other bytes"
                );
            }
        }
    }
    s.store
        .put(&desc, &body)
        .await
        .expect("a put after others were given up");
    assert!(
        read(s, &desc, 0..desc.size).await == bytes,
        "the blob has other bytes"
    );
}

async fn manifest_is_found_by_tag_and_digest(s: &Subject) {
    let (manifest, tag) = (unique_manifest(), unique_tag("found"));
    assert_eq!(
        publish(s, &manifest, &tag, &Expect::Anything).await,
        Published::Done
    );
    for reference in [tag.into(), manifest.digest.into()] {
        let found = s.store.resolve(&reference).await.expect("resolve");
        let found = found.expect("a published manifest is there");
        assert_eq!(found.manifest, manifest, "by {reference}");
    }
    let untagged = unique_manifest();
    let done = s.store.publish(&untagged, None, &Expect::Anything).await;
    assert_eq!(done.expect("publish"), Published::Done);
    let found = s
        .store
        .resolve(&untagged.digest.into())
        .await
        .expect("resolve");
    assert_eq!(found.expect("it is there by digest").manifest, untagged);
}

async fn missing_names_are_none(s: &Subject) {
    let missing: [Reference; 2] = [
        unique_tag("missing").into(),
        unique_manifest().digest.into(),
    ];
    for reference in missing {
        assert!(
            s.store
                .resolve(&reference)
                .await
                .expect("resolve")
                .is_none()
        );
    }
}

async fn manifest_with_a_wrong_digest_is_refused(s: &Subject) {
    let tag = unique_tag("refused");
    let mut manifest = unique_manifest();
    manifest.digest = unique_manifest().digest;
    let e = s
        .store
        .publish(&manifest, Some(&tag), &Expect::Anything)
        .await;
    assert_eq!(
        e.expect_err("a false digest was taken").kind,
        ErrorKind::Corrupt
    );
    assert_eq!(head(s, &tag).await, None);
}

async fn tag_moves(s: &Subject) {
    let tag = unique_tag("moves");
    let (first, second) = (unique_manifest(), unique_manifest());
    publish(s, &first, &tag, &Expect::Anything).await;
    let (_, before) = head(s, &tag).await.expect("the tag is there");
    publish(s, &second, &tag, &Expect::Anything).await;
    let (digest, after) = head(s, &tag).await.expect("the tag is there");
    assert_eq!(digest, second.digest);
    assert!(
        before.is_none() || before != after,
        "the version stayed though the tag moved"
    );
    let old = s
        .store
        .resolve(&first.digest.into())
        .await
        .expect("resolve");
    assert!(old.is_some(), "the manifest that the tag left is gone");
}

async fn tags_are_listed_by_prefix(s: &Subject) {
    const COUNT: usize = 120;
    let stem = unique_tag("list");
    let manifest = unique_manifest();
    let mut want: Vec<Tag> = (0..COUNT)
        .map(|i| {
            format!("{stem}.{i}")
                .parse()
                .expect("a tag and a number are a tag")
        })
        .collect();
    // A neighbour that shares the stem but not the dot.
    let neighbour: Tag = format!("{stem}_x").parse().expect("it is a tag");
    for tag in want.iter().chain([&neighbour]) {
        publish(s, &manifest, tag, &Expect::Anything).await;
    }
    want.sort();
    assert_eq!(s.store.tags(&format!("{stem}.")).await.expect("tags"), want);
    want.push(neighbour);
    assert_eq!(
        s.store.tags(stem.as_str()).await.expect("tags").len(),
        want.len()
    );
    let all = s.store.tags("").await.expect("tags");
    assert!(all.is_sorted() && want.iter().all(|t| all.contains(t)));
    assert!(
        s.store
            .tags(unique_tag("none").as_str())
            .await
            .expect("tags")
            .is_empty()
    );
}

async fn clock_is_near_ours(s: &Subject) {
    let theirs = s.store.clock().await.expect("clock");
    let off = (theirs.secs - Time::now().secs).abs();
    assert!(off < 300, "the store's clock is {off} s off");
}

async fn expectations_hold(s: &Subject) {
    let tag = unique_tag("expect");
    let [a, b, c] = [unique_manifest(), unique_manifest(), unique_manifest()];
    let never = Expect::Version(Version("never".to_owned()));
    assert_eq!(publish(s, &a, &tag, &never).await, Published::Conflict);
    assert_eq!(
        head(s, &tag).await,
        None,
        "a refused publication is visible"
    );
    assert_eq!(publish(s, &a, &tag, &Expect::Absent).await, Published::Done);
    assert_eq!(
        publish(s, &b, &tag, &Expect::Absent).await,
        Published::Conflict
    );
    let (digest, version) = head(s, &tag).await.expect("the tag is there");
    assert_eq!(digest, a.digest);
    let read = Expect::Version(version.expect("who promises to compare has versions"));
    assert_eq!(publish(s, &b, &tag, &read).await, Published::Done);
    assert_eq!(publish(s, &c, &tag, &read).await, Published::Conflict);
    assert_eq!(head(s, &tag).await.map(|h| h.0), Some(b.digest));
}

async fn one_of_many_swaps_wins(s: &Subject) {
    let tag = unique_tag("race");
    let first = unique_manifest();
    let mut expect = Expect::Absent;
    for _ in 0..3 {
        let manifests: Vec<_> = (0..8).map(|_| unique_manifest()).collect();
        let swaps = manifests.iter().map(|m| publish(s, m, &tag, &expect));
        let done = join_all(swaps).await;
        let winners: Vec<_> = (0..8).filter(|i| done[*i] == Published::Done).collect();
        assert_eq!(winners.len(), 1, "{} swaps of eight won", winners.len());
        let (digest, version) = head(s, &tag).await.expect("the tag is there");
        assert_eq!(
            digest, manifests[winners[0]].digest,
            "the head is not the winner's"
        );
        expect = Expect::Version(version.expect("who promises to compare has versions"));
    }
    assert_eq!(publish(s, &first, &tag, &expect).await, Published::Done);
}

/// Writers that each add their number to what they read: in the end all numbers must be present.
async fn no_update_is_lost(s: &Subject) {
    let tag = unique_tag("count");
    let writers = (0..6_u32).map(|me| {
        let tag = tag.clone();
        async move {
            for _ in 0..200 {
                let found = s.store.resolve(&tag.clone().into()).await.expect("resolve");
                let (mut seen, expect) = match found {
                    Some(r) => (
                        numbers(&r.manifest.bytes),
                        Expect::Version(r.version.expect("it has a version")),
                    ),
                    None => (Vec::new(), Expect::Absent),
                };
                seen.push(me);
                let manifest = Manifest::sniff(counted(&tag, &seen));
                if publish(s, &manifest, &tag, &expect).await == Published::Done {
                    return;
                }
            }
            panic!("a writer never got its turn");
        }
    });
    join_all(writers).await;
    let found = s
        .store
        .resolve(&tag.into())
        .await
        .expect("resolve")
        .expect("it is there");
    let mut seen = numbers(&found.manifest.bytes);
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5], "an update was lost");
}

fn counted(tag: &Tag, seen: &[u32]) -> String {
    let seen = serde_json::json!(seen).to_string();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::artifact::media::IMAGE_INDEX,
        "manifests": [],
        "annotations": { "seen": seen, "tag": tag.as_str() },
    })
    .to_string()
}

fn numbers(doc: &[u8]) -> Vec<u32> {
    let doc: serde_json::Value = serde_json::from_slice(doc).expect("our own document");
    let seen = doc["annotations"]["seen"].as_str().expect("it has numbers");
    serde_json::from_str(seen).expect("they are numbers")
}

async fn untag_takes_the_name_only(s: &Subject, untag: &dyn Untag) {
    let manifest = unique_manifest();
    let (goes, stays) = (unique_tag("goes"), unique_tag("stays"));
    publish(s, &manifest, &goes, &Expect::Anything).await;
    publish(s, &manifest, &stays, &Expect::Anything).await;
    assert!(untag.untag(&goes).await.expect("untag"));
    assert!(
        !untag.untag(&goes).await.expect("untag"),
        "it was there twice"
    );
    assert_eq!(head(s, &goes).await, None);
    assert_eq!(head(s, &stays).await.map(|h| h.0), Some(manifest.digest));
    let listed = s.store.tags(goes.as_str()).await.expect("tags");
    // A registry that cannot remove a tag still lists it; what matters there is that it resolves to nothing.
    assert!(
        listed.is_empty() || s.meet == Meet::SideTags,
        "a removed tag is listed"
    );
    assert_eq!(
        publish(s, &manifest, &goes, &Expect::Absent).await,
        Published::Done
    );
}

async fn marks_are_kept(sweep: &dyn Sweep) {
    let name = format!("mark {:x}/..", fastrand::u64(..));
    assert_eq!(sweep.read_mark(&name).await.expect("read_mark"), None);
    for text in ["one", "two"] {
        sweep
            .write_mark(&name, text.into())
            .await
            .expect("write_mark");
        let read = sweep.read_mark(&name).await.expect("read_mark");
        assert_eq!(read.as_deref(), Some(text.as_bytes()));
    }
    let marks = sweep.marks().await.expect("marks");
    assert!(marks.contains(&name) && marks.is_sorted());
    sweep.remove_mark(&name).await.expect("remove_mark");
    sweep
        .remove_mark(&name)
        .await
        .expect("removing what is gone");
    assert!(!sweep.marks().await.expect("marks").contains(&name));
}

async fn swept_blob_is_gone(s: &Subject, sweep: &dyn Sweep) {
    let bytes = unique_bytes(4000);
    let (goes, stays) = (put(s, &bytes).await, put(s, &unique_bytes(10)).await);
    let guard = sweep.lock_alone().await.expect("lock_alone");
    let listed = sweep.blobs().await.expect("blobs");
    let blob = listed
        .iter()
        .find(|b| b.digest == goes.digest)
        .expect("it is listed");
    assert_eq!(blob.size, 4000);
    let long_ago = Time {
        secs: blob.modified.secs - 3600,
        nanos: 0,
    };
    let kept = sweep
        .remove(&[goes.digest], long_ago)
        .await
        .expect("remove");
    assert_eq!(kept, (0, 0), "a blob written since was removed");
    let soon = Time {
        secs: blob.modified.secs + 3600,
        nanos: 0,
    };
    let removed = sweep.remove(&[goes.digest], soon).await.expect("remove");
    assert_eq!(removed, (1, 4000));
    drop(guard);
    assert_eq!(s.store.stat(&goes.digest).await.expect("stat"), None);
    assert_eq!(s.store.stat(&stays.digest).await.expect("stat"), Some(10));
    put(s, &bytes).await;
    assert_eq!(read(s, &goes, 0..4000).await, bytes);
}

async fn renewed_blob_is_as_if_written_now(s: &Subject, sweep: &dyn Sweep) {
    let bytes = unique_bytes(300);
    let desc = put(s, &bytes).await;
    let time = async || {
        let listed = sweep.blobs().await.expect("blobs");
        let blob = listed.into_iter().find(|b| b.digest == desc.digest);
        blob.expect("it is listed").modified
    };
    let before = time().await;
    assert!(sweep.renew(&desc.digest).await.expect("renew"));
    assert!(time().await >= before);
    assert_eq!(read(s, &desc, 0..300).await, bytes);
    let missing = Descriptor::of("x/y", &unique_bytes(5)).digest;
    assert!(
        !sweep
            .renew(&missing)
            .await
            .expect("renew what is not there")
    );
}

async fn replaced_bytes_take_nothing_that_is_said_of_them(s: &Subject, sweep: &dyn Sweep) {
    let (manifest, tag) = (unique_manifest(), unique_tag("mended"));
    publish(s, &manifest, &tag, &Expect::Anything).await;
    let desc = manifest.descriptor();
    let body = Body::Bytes(manifest.bytes.clone());
    sweep.replace(&desc, &body).await.expect("replace");
    for reference in [tag.into(), desc.digest.into()] {
        let found = s.store.resolve(&reference).await.expect("resolve");
        assert_eq!(found.expect("it is there").manifest, manifest);
    }
    let other = Body::Bytes(unique_bytes(desc.size as usize));
    let e = sweep.replace(&desc, &other).await.expect_err("other bytes");
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert_eq!(read(s, &desc, 0..desc.size).await, manifest.bytes);
    // Missing content is written.
    let bytes = unique_bytes(70);
    let (desc, body) = blob_of(&bytes);
    sweep.replace(&desc, &body).await.expect("replace");
    assert_eq!(read(s, &desc, 0..70).await, bytes);
}

async fn roots_are_what_tags_name(s: &Subject, sweep: &dyn Sweep) {
    let (tagged, untagged) = (unique_manifest(), unique_manifest());
    publish(s, &tagged, &unique_tag("root"), &Expect::Anything).await;
    s.store
        .publish(&untagged, None, &Expect::Anything)
        .await
        .expect("publish");
    let roots = sweep.roots().await.expect("roots");
    assert!(
        roots.contains(&tagged.digest),
        "a tag's manifest is no root"
    );
    assert!(
        !roots.contains(&untagged.digest),
        "a manifest without a name is a root"
    );
    let listed = sweep.blobs().await.expect("blobs");
    assert!(
        listed.iter().any(|b| b.digest == tagged.digest),
        "a manifest's bytes are not listed"
    );
}
