//! How disputed layers are read.

use futures_util::FutureExt as _;

use super::{
    super::{
        settle::{MAX_BYTES, MAX_WORK, Settling, affordable},
        unpack::{self, Found, MAX_TIME},
    },
    contradicting::{described, gzip, layer_of, lies, part},
    *,
};

fn settling_within(time: Duration) -> CacheTags {
    let tags = CacheTags::default();
    let mut shared = Arc::into_inner(tags.shared).unwrap();
    shared.settling = Arc::new(Settling::within(time));
    CacheTags {
        shared: Arc::new(shared),
        caller: tags.caller,
    }
}

/// Takes every permit for reading disputed layers.
fn take_places(tags: &CacheTags) -> Vec<crate::fair::Permit> {
    let other = Key::Principal("other".into());
    let places = tags.settling.places();
    std::iter::from_fn(|| places.enter_now(other.clone())).collect()
}

async fn is_read(tags: &CacheTags, layer: &Digest) {
    while tags.settling.known(layer).is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_waits_for_the_disputed_layers_of_others() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let truth = layer_of(&repo, media::LAYER_GZIP, b"the layer").await;
    let honest = part(&repo, "honest", &truth).await;
    let liar = part(&repo, "liar", &lies(&truth)[2]).await;
    push(&tags, &repo, &honest).await;
    let taken = take_places(&tags);
    assert!(!taken.is_empty());
    let mut waiting = Box::pin(push(&tags, &repo, &liar));
    // As far as it gets without a permit.
    while tags.settling.places().waiting() == 0 {
        assert!(waiting.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    // Other tags of that repository, and other repositories.
    for repo in [
        repo.clone(),
        world.repositories.repository(&"b".parse().unwrap()),
    ] {
        let other: Tag = "other".parse().unwrap();
        for names in [&["a"], &["b"]] {
            let pushed = cache(&repo, names, 1).await;
            tags.push(&repo, &pushed, std::slice::from_ref(&other))
                .await
                .unwrap();
        }
        let merged = resolve(&tags, &repo, &Reference::Tag(other)).await.unwrap();
        assert_eq!(names_of(&merged), set(&["a", "b"]));
    }
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(taken);
    waiting.await;
    assert_eq!(described(&read(&tags, &repo).await.unwrap()), [truth]);
}

#[tokio::test]
async fn a_disputed_layer_is_read_once_for_all_tags_and_also_if_nobody_waits_any_more() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let truth = layer_of(&repo, media::FULL_PACK, b"the layer").await;
    let honest = part(&repo, "honest", &truth).await;
    let liar = part(&repo, "liar", &lies(&truth)[2]).await;
    push(&tags, &repo, &honest).await;
    let taken = take_places(&tags);
    let mut waiting = Box::pin(push(&tags, &repo, &liar));
    while tags.settling.places().waiting() == 0 {
        assert!(waiting.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(taken);
    tokio::task::yield_now().await;
    // It starts to read.
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(waiting);
    is_read(&tags, &truth.digest).await;
    while tags.settling.places().taken() > 0 {
        tokio::task::yield_now().await;
    }
    let _taken = take_places(&tags);
    push(&tags, &repo, &liar).await;
    let other: Tag = "other".parse().unwrap();
    for part in [&honest, &liar] {
        tags.push(&repo, part, std::slice::from_ref(&other))
            .await
            .unwrap();
    }
    for tag in [tag(), other] {
        let served = resolve(&tags, &repo, &Reference::Tag(tag)).await.unwrap();
        assert_eq!(described(&served), std::slice::from_ref(&truth));
    }
}

#[tokio::test]
async fn a_disputed_layer_that_costs_too_much_time_is_left_out_of_all_parts() {
    let world = World::new().await;
    let (tags, repo) = (settling_within(Duration::ZERO), world.repo());
    let truth = layer_of(&repo, media::LAYER_GZIP, &vec![7; 1 << 20]).await;
    let lie = lies(&truth).remove(2);
    let honest = part(&repo, "honest", &truth).await;
    let liar = part(&repo, "liar", &lie).await;
    for pushed in [&honest, &liar, &honest] {
        world.age_records();
        push(&tags, &repo, pushed).await;
    }
    let served = read(&tags, &repo).await;
    let told = served.as_ref().map(described).unwrap_or_default();
    assert_eq!(told, [], "{served:?}");
}

fn sized(n: u64, size: u64) -> (Digest, u64) {
    (Digest::sha256_of(&n.to_be_bytes()), size)
}

#[test]
fn which_layers_are_read_depends_on_their_sizes_and_digests_alone() {
    let all: BTreeSet<_> = [
        sized(0, MAX_BYTES - 1),
        sized(1, 2),
        sized(2, 1),
        sized(3, 1),
    ]
    .into();
    let read = affordable(&[all]);
    assert!(read.contains(&sized(0, MAX_BYTES - 1)) != read.contains(&sized(1, 2)));
    let small = (0..100_000).map(|n| sized(n, 1)).collect();
    let read = affordable(&[small]);
    assert_eq!(read.len() as u64, MAX_WORK / unpack::work(1));
}

#[test]
fn a_part_that_is_wrong_about_many_layers_keeps_nobody_from_being_right_about_few() {
    let small: BTreeSet<_> = (0..50_000).map(|n| sized(n, 1)).collect();
    let large = [sized(60_000, MAX_BYTES - 1)].into();
    let own: BTreeSet<_> = [sized(70_000, 30 << 20)].into();
    let read = affordable(&[small.clone(), large, small, own.clone()]);
    assert!(own.iter().all(|layer| read.contains(layer)));
    assert!(read.len() > 1000);
}

#[test]
fn no_number_of_parts_keeps_the_layers_of_the_part_pushed_last_from_being_read() {
    let own: BTreeSet<_> = [sized(60_000, 100 << 20)].into();
    let mut parts = vec![own.clone()];
    for part in 0..63_u64 {
        let small = (0..900).map(|n| sized(part * 900 + n, 1));
        parts.push(small.chain([sized(70_000 + part, 36 << 20)]).collect());
    }
    let read = affordable(&parts);
    assert!(own.iter().all(|layer| read.contains(layer)));
}

#[tokio::test]
async fn what_bytes_are_is_told_within_a_budget_of_bytes_and_members_and_frames() {
    let world = World::new().await;
    let repo = world.repo();
    let plain: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    let (front, back) = plain.split_at(100);
    let two_members = [gzip(front), gzip(back)].concat();
    let two_frames = [zstd(front), zstd(back)].concat();
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &zstd(&plain)].concat();
    let is = |kind: &str| {
        let diff_id = Some(Digest::sha256_of(&plain));
        Found::Is(crate::artifact::buildkit::Claim {
            media_type: kind.to_owned(),
            diff_id,
        })
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 9].to_vec();
    for (stored, expected) in [
        (plain.clone(), is(media::LAYER_TAR)),
        (gzip(&plain), is(media::LAYER_GZIP)),
        (two_members.clone(), is(media::LAYER_GZIP)),
        (zstd(&plain), is(media::FULL_PACK)),
        (two_frames.clone(), is(media::FULL_PACK)),
        (skipped, is(media::FULL_PACK)),
        (cut(two_members), Found::Untold),
        (cut(two_frames), Found::Untold),
        (gzip(&vec![0; 40 << 20]), Found::Untold),
        (zstd(&vec![0; 40 << 20]), Found::Untold),
        (gzip(b"").repeat(10_000), Found::Untold),
        (zstd(b"").repeat(10_000), Found::Untold),
        ([0x1f, 0x8b, 1, 2, 3].to_vec(), Found::Untold),
    ] {
        let size = stored.len() as u64;
        let desc = put(&repo, media::LAYER_TAR, stored).await;
        let found = unpack::look(&repo, desc.digest, size, MAX_TIME).await;
        assert_eq!(found.unwrap(), expected, "{size}");
    }
    let absent = Digest::sha256_of(b"absent");
    let found = unpack::look(&repo, absent, 1, MAX_TIME).await.unwrap();
    assert_eq!(found, Found::Missing);
}
