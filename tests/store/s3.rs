//! The S3 store against servers of others: SeaweedFS, and MinIO in `make e2e`.
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cachectl::artifact::{Descriptor, Manifest};
use cachectl::digest::Digest;
use cachectl::entry::Time;
use cachectl::redact::Secret;
use cachectl::store::{
    BlobStore as _, Body, ErrorKind, Expect, Meet, Published, Put, Records as _, SpoolWriter,
    Sweep as _, TagStore as _, keys, net, s3, testing::conformance,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Duration;

use crate::support::{
    self,
    servers::{Minio, S3Server, Weed},
};

const MIB: u64 = 1 << 20;

/// A store below a prefix of its own.
async fn open(server: &S3Server, more: &str) -> s3::S3 {
    let prefix = format!("s3-{:016x}", fastrand::u64(..));
    let url = format!("{}{more}", S3Server::url(server.port, &prefix));
    open_as(&url, S3Server::SECRET_KEY).await
}

async fn open_as(url: &str, secret: &str) -> s3::S3 {
    let common = net::Common {
        // These machines compile while they test.
        stall: Duration::from_secs(30),
        proxy_from_env: false,
        ..net::Common::default()
    };
    let keys = s3::Keys {
        id: S3Server::ACCESS_KEY.to_owned(),
        secret: Secret::new(secret),
        session: None,
    };
    let location = s3::Location::parse(url).unwrap();
    s3::S3::open_as(&location, &s3::Config::default(), &common, Some(keys))
        .await
        .unwrap()
}

async fn conforms(server: &'static S3Server) {
    let store = Arc::new(open(server, "&part_bytes=5MiB").await);
    conformance::run_all(async || conformance::Subject {
        store: store.clone(),
        meet: Meet::SideTags,
        untag: Some(store.clone()),
        sweep: Some(store.clone()),
        spool_dir: None,
        keep: Box::new(()),
    })
    .await;
}

/// Writes `len` bytes that repeat nowhere to a spool file.
fn spool(len: u64) -> (Descriptor, Body, Vec<u8>) {
    let mut rng = fastrand::Rng::new();
    let mut bytes = vec![0; len as usize];
    rng.fill(&mut bytes);
    let mut writer = SpoolWriter::create(&std::env::temp_dir()).unwrap();
    writer.write_all(&bytes).unwrap();
    let spool = writer.finish();
    let desc = Descriptor::new("application/octet-stream", spool.digest(), len);
    (desc, Body::Spool(Arc::new(spool)), bytes)
}

async fn read(store: &s3::S3, desc: &Descriptor, range: Range<u64>) -> Bytes {
    let stream = store.get(desc, range).await.unwrap().expect("it is there");
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat().into()
}

async fn big_blob_goes_up_in_parts_and_comes_down_in_ranges(server: &S3Server) {
    let store = open(server, "").await;
    let (desc, body, bytes) = spool(70 * MIB);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
    assert_eq!(store.stat(&desc.digest).await.unwrap(), Some(70 * MIB));
    let ranges = (0..10).map(|i| i * 7 * MIB..(i + 1) * 7 * MIB);
    let parts: Vec<Bytes> = stream::iter(ranges)
        .map(|range| read(&store, &desc, range))
        .buffered(8)
        .collect()
        .await;
    assert!(parts.concat() == bytes, "other bytes came back");
}

async fn wrong_digest_stays_invisible(server: &S3Server) {
    let store = open(server, "&part_bytes=5MiB").await;
    let (mut desc, body, _) = spool(12 * MIB);
    desc.digest = Digest::sha256_of(b"other");
    let e = store.put(&desc, &body).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert_eq!(store.stat(&desc.digest).await.unwrap(), None);
    assert!(store.blobs().await.unwrap().is_empty());
}

/// Unfinished uploads of exactly this key: MinIO lists them by nothing else.
async fn unfinished(server: &S3Server, key: &str) -> usize {
    let listed = support::stores::client(server)
        .list_multipart_uploads()
        .bucket(S3Server::BUCKET)
        .prefix(key)
        .send();
    listed.await.unwrap().uploads().len()
}

async fn dropped_upload_leaves_no_parts(server: &S3Server) {
    let prefix = format!("dropped-{:016x}", fastrand::u64(..));
    let url = format!(
        "{}&part_bytes=5MiB&part_concurrency=1",
        S3Server::url(server.port, &prefix)
    );
    let store = open_as(&url, S3Server::SECRET_KEY).await;
    let (desc, body, _) = spool(60 * MIB);
    let key = format!("{prefix}/blobs/sha256/{}", desc.digest.hex());
    {
        let put = store.put(&desc, &body);
        tokio::pin!(put);
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let step = tokio::time::timeout(Duration::from_millis(1), &mut put).await;
            assert!(step.is_err(), "it was through before it could be dropped");
            if unfinished(server, &key).await == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "the upload never began");
        }
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    while unfinished(server, &key).await > 0 {
        assert!(Instant::now() < deadline, "the upload was left behind");
    }
    assert_eq!(store.stat(&desc.digest).await.unwrap(), None);
}

async fn wrong_secret_and_wrong_bucket_are_named(server: &S3Server) {
    let url = S3Server::url(server.port, "x");
    let e = open_as(&url, "another-secret").await.tags("").await;
    let e = e.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    let url = url.replace(S3Server::BUCKET, "no-such-bucket-here");
    let store = open_as(&url, S3Server::SECRET_KEY).await;
    let desc = Descriptor::of("application/octet-stream", b"x");
    for e in [
        store.tags("").await.unwrap_err(),
        store.stat(&desc.digest).await.unwrap_err(),
        store.get(&desc, 0..1).await.map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(e.kind, ErrorKind::NoSuchStore, "{e}");
    }
}

/// What a killed process leaves behind. MinIO does not list such uploads and removes them itself after a day.
#[tokio::test]
async fn unfinished_upload_is_swept() {
    let server = cachectl::task::blocking(Weed::shared).await;
    let prefix = format!("unfinished-{:016x}", fastrand::u64(..));
    let key = format!("{prefix}/blobs/sha256/{}", "0".repeat(64));
    let begun = support::stores::client(server)
        .create_multipart_upload()
        .bucket(S3Server::BUCKET)
        .key(&key)
        .send();
    begun.await.unwrap();
    let store = open_as(&S3Server::url(server.port, &prefix), S3Server::SECRET_KEY).await;
    let at = |secs| Time { secs, nanos: 0 };
    let now = Time::now().secs;
    store.abandon_uploads(at(now - 3600)).await.unwrap();
    assert_eq!(
        unfinished(server, &key).await,
        1,
        "a young upload was swept"
    );
    store.abandon_uploads(at(now + 3600)).await.unwrap();
    assert_eq!(unfinished(server, &key).await, 0);
}

/// Both servers honour conditions, so here what is only a hint elsewhere can be seen to be sent right.
async fn conditions_hold_where_the_server_keeps_them(server: &S3Server) {
    let store = open(server, "").await;
    let tag = "head".parse().unwrap();
    let manifest = |n: u32| {
        Manifest::sniff(format!(
            "{{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[],\"n\":{n}}}"
        ))
    };
    let publish = async |n: u32, expect: &Expect| {
        let manifest = manifest(n);
        store.publish(&manifest, Some(&tag), expect).await.unwrap()
    };
    let never = Expect::Version(cachectl::store::Version(
        "\"0123456789abcdef0123456789abcdef\"".into(),
    ));
    assert_eq!(publish(1, &never).await, Published::Conflict);
    assert_eq!(publish(1, &Expect::Absent).await, Published::Done);
    assert_eq!(publish(2, &Expect::Absent).await, Published::Conflict);
    let head = store.resolve(&tag.clone().into()).await.unwrap().unwrap();
    assert_eq!(head.manifest, manifest(1));
    assert!((head.modified.unwrap().secs - Time::now().secs).abs() < 300);
    let read = Expect::Version(head.version.unwrap());
    assert_eq!(publish(2, &read).await, Published::Done);
    assert_eq!(publish(3, &read).await, Published::Conflict);
}

/// Two repositories have one blob, which somebody damages in the bucket; one of them brings it again.
async fn damaged_bytes_are_replaced_and_nobody_loses_the_blob(server: &S3Server) {
    let prefix = format!("s3-{:016x}", fastrand::u64(..));
    let url = format!("{}&part_bytes=5MiB", S3Server::url(server.port, &prefix));
    let store = open_as(&url, S3Server::SECRET_KEY).await;
    let theirs: keys::Repo = "secret/app".parse().unwrap();
    for (desc, body, bytes) in [spool(3000), spool(6 * MIB)] {
        store.put(&desc, &body).await.unwrap();
        let linked = keys::linked(&theirs, &desc.digest);
        store.write_record(&linked, "{}".into()).await.unwrap();
        let damaged = support::stores::client(server)
            .put_object()
            .bucket(S3Server::BUCKET)
            .key(format!("{prefix}/{}", keys::blob(&desc.digest)))
            .body(vec![7_u8; bytes.len()].into())
            .send();
        damaged.await.unwrap();
        // By its size it is there.
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
        store.replace(&desc, &body).await.unwrap();
        assert!(read(&store, &desc, 0..desc.size).await == bytes);
        let record = store.read_record(&linked, 100).await.unwrap();
        assert!(record.is_some(), "it was taken from another repository");
    }
}

macro_rules! against_each_server {
    ($($case:ident)*) => {
        mod seaweed {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(server().await).await;
            })*
            async fn server() -> &'static S3Server {
                cachectl::task::blocking(Weed::shared).await
            }
        }
        mod minio {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if !support::e2e() { return; }
                super::$case(server().await).await;
            })*
            async fn server() -> &'static S3Server {
                cachectl::task::blocking(Minio::shared).await
            }
        }
    };
}

against_each_server! {
    conforms
    big_blob_goes_up_in_parts_and_comes_down_in_ranges
    wrong_digest_stays_invisible
    damaged_bytes_are_replaced_and_nobody_loses_the_blob
    dropped_upload_leaves_no_parts
    wrong_secret_and_wrong_bucket_are_named
    conditions_hold_where_the_server_keeps_them
}
