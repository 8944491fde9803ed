//! Uploads in chunks, whose pieces are records of both tiers.

use tokio::time::timeout;

use super::*;
use crate::{
    entry::Time,
    store::{
        ingest::{Appended, UploadId, Uploads},
        keys,
        records::Listed,
        tiered::pieces::is_piece,
    },
};

const OWNER: &str = "a";
/// On the paused clock this costs nothing.
const FOR_EVER: Duration = Duration::from_hours(1);

/// What is asked of an upload of which one chunk is at the remote.
#[derive(Debug, Clone, Copy)]
enum Op {
    Append,
    /// By a client that does not say how far the upload is.
    AppendUnsaid,
    Status,
    Finish,
    FinishUnsaid,
    Cancel,
}

const OPS: [Op; 6] = [
    Op::Append,
    Op::AppendUnsaid,
    Op::Status,
    Op::Finish,
    Op::FinishUnsaid,
    Op::Cancel,
];

struct Upload {
    scene: Scene,
    uploads: Arc<Uploads>,
    id: UploadId,
}

fn body(bytes: &'static [u8]) -> ByteStream {
    Body::Bytes(Bytes::from_static(bytes)).stream(0..bytes.len() as u64)
}

impl Upload {
    async fn begun(mode: Mode) -> Self {
        let scene = Scene::of(mode).await;
        let records = scene.daemon.tiered.records();
        let dir = scene.world.dir.path().join("uploads");
        let uploads = Arc::new(Uploads::open(&dir, Some(records), true).unwrap());
        let id = uploads.begin(&Repo::cli(), OWNER, false).await.unwrap();
        let upload = Self { scene, uploads, id };
        assert_eq!(upload.append(Some(0), b"first").await, Appended::Size(5));
        upload
    }

    /// Another daemon over the same store.
    fn other(&self) -> Arc<Uploads> {
        let dir = self.scene.world.dir.path().join("others");
        let records = self.scene.daemon.tiered.records();
        Arc::new(Uploads::open(&dir, Some(records), true).unwrap())
    }

    async fn append(&self, at: Option<u64>, bytes: &'static [u8]) -> Appended {
        let appended = self
            .uploads
            .append((&self.id, OWNER), at, None, body(bytes));
        appended.await.unwrap()
    }

    /// The bytes of the whole upload, which ends.
    async fn finish(&self, at: Option<u64>, bytes: &'static [u8]) -> Digest {
        let last = Some(body(bytes));
        let done = self
            .uploads
            .finish((&self.id, OWNER), at, None, last)
            .await
            .unwrap();
        self.uploads.forget(&self.id, at, false).await.unwrap();
        done.unwrap().spool.digest()
    }

    /// Does it, and checks what comes of it.
    async fn does(&self, op: Op) {
        match op {
            Op::Append => assert_eq!(self.append(Some(5), b" more").await, Appended::Size(10)),
            Op::AppendUnsaid => assert_eq!(self.append(None, b" more").await, Appended::Size(10)),
            Op::Status => assert_eq!(self.uploads.size(&self.id).await.unwrap(), Some(5)),
            Op::Finish => {
                let digest = self.finish(Some(5), b" last").await;
                assert_eq!(digest, Digest::sha256_of(b"first last"));
            }
            Op::FinishUnsaid => {
                let digest = self.finish(None, b" last").await;
                assert_eq!(digest, Digest::sha256_of(b"first last"));
            }
            Op::Cancel => {
                assert!(self.uploads.cancel(&self.id).await.unwrap());
                assert_eq!(self.uploads.size(&self.id).await.unwrap(), None);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_by_what_is_kept_here_and_waits_until_it_is_known_at_most() {
    for (mode, op) in [Mode::WriteBack, Mode::WriteThrough]
        .into_iter()
        .flat_map(|mode| OPS.map(|op| (mode, op)))
    {
        for (way, known) in WAYS.into_iter().flat_map(|w| [(w, false), (w, true)]) {
            let upload = Box::pin(Upload::begun(mode)).await;
            upload.scene.goes(way);
            if known {
                upload.scene.is_known(way).await;
            }
            let began = Instant::now();
            let done = timeout(FOR_EVER, upload.does(op)).await;
            assert!(done.is_ok(), "{mode:?} {op:?} {way:?} {known}: it waits");
            let limit = if known { Duration::ZERO } else { KNOWN };
            let waited = began.elapsed();
            assert!(
                waited <= limit,
                "{mode:?} {op:?} {way:?} {known}: {waited:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_outlives_an_outage_is_whole_and_leaves_nothing() {
    for way in WAYS {
        let upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
        let Upload { scene, uploads, id } = &upload;
        scene.goes(way);
        let appended = timeout(FOR_EVER, upload.append(Some(5), b" more")).await;
        assert_eq!(appended.ok(), Some(Appended::Size(10)), "{way:?}");
        assert_eq!(uploads.size(id).await.unwrap(), Some(10), "{way:?}");
        scene.comes_back().await;
        assert_eq!(uploads.size(id).await.unwrap(), Some(10), "{way:?}");
        let digest = upload.finish(Some(10), b" last").await;
        assert_eq!(digest, Digest::sha256_of(b"first more last"), "{way:?}");
        let pieces = scene.daemon.tiered.records();
        let left = pieces.list_records(keys::UPLOADS).await.unwrap();
        assert_eq!(left, [], "{way:?}");
    }
}

/// Pieces below the folder of uploads in a store.
async fn pieces(records: &dyn Records) -> Vec<Listed> {
    let mut listed = records.list_records(keys::UPLOADS).await.unwrap();
    listed.retain(|listed| is_piece(&listed.key));
    listed
}

async fn in_front(world: &World) -> Arc<dyn Records> {
    let near = world.near().await;
    near.facts().repositories.as_ref().unwrap().records()
}

#[tokio::test(start_paused = true)]
async fn pieces_are_the_remotes_alone() {
    let upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
    let Upload { scene, .. } = &upload;
    let front = in_front(&scene.world).await;
    scene.goes(Way::Refused);
    scene.is_known(Way::Refused).await;
    upload.append(Some(5), b" more").await;
    assert_eq!(pieces(&*front).await, []);
    scene.comes_back().await;
    assert_eq!(upload.append(Some(10), b" yet").await, Appended::Size(14));
    assert_eq!(pieces(&*front).await, []);
    // What came meanwhile was sent first: another daemon has all of it.
    let other = upload.other();
    assert_eq!(other.size(&upload.id).await.unwrap(), Some(14));
    let digest = upload.finish(None, b" last").await;
    assert_eq!(digest, Digest::sha256_of(b"first more yet last"));
    assert_eq!(pieces(&*scene.daemon.tiered.records()).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_begun_during_an_outage_goes_on_after_it() {
    let scene = Box::pin(Scene::unreachable(Way::Refused)).await;
    let dir = scene.world.dir.path().join("uploads");
    let records = scene.daemon.tiered.records();
    let uploads = Arc::new(Uploads::open(&dir, Some(records), true).unwrap());
    let id = uploads.begin(&Repo::cli(), OWNER, false).await.unwrap();
    let upload = Upload { scene, uploads, id };
    assert_eq!(upload.uploads.size(&upload.id).await.unwrap(), Some(0));
    assert_eq!(upload.append(None, b"first").await, Appended::Size(5));
    upload.scene.comes_back().await;
    let digest = upload.finish(Some(5), b" last").await;
    assert_eq!(digest, Digest::sha256_of(b"first last"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_after_a_restart_during_an_outage() {
    for op in OPS {
        let mut upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
        upload.scene.goes(Way::Refused);
        upload.scene.is_known(Way::Refused).await;
        let dir = upload.scene.world.dir.path().join("uploads");
        let records = upload.scene.daemon.tiered.records();
        upload.uploads = Arc::new(Uploads::open(&dir, Some(records), true).unwrap());
        upload.does(op).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_cancelled_during_an_outage_is_over_after_it() {
    let upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
    let Upload { scene, uploads, id } = &upload;
    scene.goes(Way::Refused);
    scene.is_known(Way::Refused).await;
    upload.does(Op::Cancel).await;
    scene.comes_back().await;
    assert_eq!(uploads.size(id).await.unwrap(), None);
    let records = scene.daemon.tiered.records();
    assert_eq!(pieces(&*records).await.len(), 1);
    let now = Time::now();
    uploads.expire(Duration::from_hours(1), now).await.unwrap();
    let left = pieces(&*records).await;
    assert!(left.iter().all(|l| l.key.ends_with("gone")), "{left:?}");
    assert_eq!(upload.other().size(id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_came_during_an_outage_is_sent_after_it_although_nobody_goes_on_with_the_upload() {
    for restarts in [false, true] {
        sent_after_an_outage(restarts).await;
    }
}

async fn sent_after_an_outage(restarts: bool) {
    let mut upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
    upload.scene.goes(Way::Refused);
    upload.scene.is_known(Way::Refused).await;
    upload.append(Some(5), b" more").await;
    if restarts {
        let dir = upload.scene.world.dir.path().join("uploads");
        let records = upload.scene.daemon.tiered.records();
        upload.uploads = Arc::new(Uploads::open(&dir, Some(records), true).unwrap());
    }
    let Upload { scene, uploads, id } = &upload;
    scene.comes_back().await;
    assert_eq!(uploads.send_late().await.unwrap(), 1);
    assert_eq!(uploads.send_late().await.unwrap(), 0);
    assert_eq!(upload.other().size(id).await.unwrap(), Some(10));
    let digest = upload.finish(Some(10), b" last").await;
    assert_eq!(digest, Digest::sha256_of(b"first more last"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_here_of_an_upload_is_away_during_an_outage_and_not_gone() {
    let upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
    let Upload { scene, uploads, id } = &upload;
    scene.goes(Way::Refused);
    let other = upload.other();
    assert!(other.size(id).await.unwrap_err().is_temporary());
    let last = Some(body(b" last"));
    let ended = other.finish((id, OWNER), Some(5), None, last).await;
    assert!(ended.unwrap_err().is_temporary());
    assert_eq!(uploads.size(id).await.unwrap(), Some(5));
}

#[tokio::test(start_paused = true)]
async fn pieces_that_an_older_daemon_left_in_front_are_removed_at_the_start() {
    let world = World::new(Mode::WriteBack);
    let front = in_front(&world).await;
    let key = keys::upload("0a.00");
    let left = Bytes::from_static(b"left");
    front.write_record(&key, left).await.unwrap();
    let _daemon = world.start().await;
    while !pieces(&*front).await.is_empty() {
        tokio::task::yield_now().await;
    }
}
