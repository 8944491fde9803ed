//! Uploads in chunks, whose pieces are records of both tiers.

use tokio::time::timeout;

use super::*;
use crate::{
    fair::{Key, caller},
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
        let uploads = Arc::new(Uploads::open(&dir, Some(records)).unwrap());
        let id = uploads.begin(&Repo::cli(), OWNER, false).await.unwrap();
        let upload = Self { scene, uploads, id };
        assert_eq!(upload.append(Some(0), b"first").await, Appended::Size(5));
        upload
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
        done.unwrap().digest()
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

/// Pieces that lie in front.
async fn in_front(scene: &Scene) -> Vec<Listed> {
    let near = scene.world.near().await;
    let records = near.repositories.unwrap().records();
    records.list_records(keys::UPLOADS).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_the_remote_has_of_an_upload_takes_no_room_for_pieces_in_front() {
    let upload = Box::pin(Upload::begun(Mode::WriteBack)).await;
    let Upload { scene, .. } = &upload;
    let is_piece = |listed: &Listed| is_piece(&listed.key);
    assert!(!in_front(scene).await.iter().any(is_piece));
    scene.goes(Way::Refused);
    scene.is_known(Way::Refused).await;
    upload.append(Some(5), b" more").await;
    assert_eq!(
        in_front(scene).await.into_iter().filter(is_piece).count(),
        1
    );
    // An earlier process left the rest: the remote's listing says so once it is asked.
    scene.comes_back().await;
    let records = scene.daemon.tiered.records();
    let listed = records.list_records(keys::UPLOADS).await.unwrap();
    assert_eq!(listed.len(), 2);
    let digest = upload.finish(Some(10), b" last").await;
    assert_eq!(digest, Digest::sha256_of(b"first more last"));
    assert!(!in_front(scene).await.iter().any(is_piece));
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_front_that_an_older_release_left_goes_when_the_remote_has_it() {
    let scene = Scene::of(Mode::WriteBack).await;
    let records = scene.daemon.tiered.records();
    let key = keys::upload("0a.00");
    records
        .write_record(&key, Bytes::from_static(b"first"))
        .await
        .unwrap();
    let near = scene.world.near().await.repositories.unwrap().records();
    near.write_record(&key, Bytes::from_static(b"first"))
        .await
        .unwrap();
    scene.daemon.tiered.core.count_pieces().await.unwrap();
    assert_eq!(records.list_records(keys::UPLOADS).await.unwrap().len(), 1);
    assert_eq!(near.list_records(keys::UPLOADS).await.unwrap(), []);
    let read = records.read_record(&key, 100).await.unwrap();
    assert_eq!(read.as_deref(), Some(&b"first"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_only_the_remote_has_is_away_during_an_outage_and_not_gone() {
    let scene = Scene::of(Mode::WriteBack).await;
    let records = scene.daemon.tiered.records();
    let key = keys::upload("0a.00");
    records
        .write_record(&key, Bytes::from_static(b"first"))
        .await
        .unwrap();
    scene.goes(Way::Refused);
    let read = records.read_record(&key, 100).await;
    assert!(read.unwrap_err().is_temporary());
    records.remove_record(&key).await.unwrap();
    assert_eq!(records.list_records(keys::UPLOADS).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn pieces_that_only_the_front_has_are_of_their_senders_share() {
    let mut world = World::new(Mode::WriteThrough);
    world.settings.room.max_bytes = 100;
    world.settings.room.low_water = 1.0;
    let daemon = world.start().await;
    daemon.outage().await;
    let records = daemon.tiered.records();
    let write = async |who: &str, n: u8, len: usize| {
        let who = Some(Key::Principal(who.into()));
        let key = keys::upload(&format!("{n:02x}.00"));
        let bytes = Bytes::from(vec![n; len]);
        caller::on_behalf_of(who, records.write_record(&key, bytes)).await
    };
    write("a", 1, 40).await.unwrap();
    assert_eq!(write("a", 2, 21).await.unwrap_err().kind, ErrorKind::Full);
    write("b", 3, 20).await.unwrap();
    // Written again it counts once, and ended no more.
    write("b", 3, 20).await.unwrap();
    records.remove_record(&keys::upload("01.00")).await.unwrap();
    write("a", 2, 40).await.unwrap();
    // A restart counts what lies there.
    drop((records, daemon));
    let daemon = world.start().await;
    daemon.outage().await;
    let records = daemon.tiered.records();
    let bytes = Bytes::from(vec![0; 41]);
    let refused = records.write_record(&keys::upload("04.00"), bytes).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Full);
}
