//! Parts with false claims about the layers of others.

use std::io::Write as _;

use super::*;
use crate::artifact::{annotations::UNCOMPRESSED, buildkit::CacheRecord};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

/// A layer as its builder describes it, correctly.
pub(super) async fn layer_of(repo: &Repository, media_type: &str, plain: &[u8]) -> Descriptor {
    let stored = match media_type {
        media::LAYER_GZIP => gzip(plain),
        media::FULL_PACK => zstd::bulk::compress(plain, 1).unwrap(),
        _ => plain.to_vec(),
    };
    let mut desc = put(repo, media_type, stored).await;
    let plain = Digest::sha256_of(plain).to_string();
    desc.annotations.insert(UNCOMPRESSED.to_owned(), plain);
    desc
}

/// A cache of the key `key` whose result is `layer`.
pub(super) async fn part(repo: &Repository, key: &str, layer: &Descriptor) -> Manifest {
    let config = json!({
        "layers": [{"blob": layer.digest, "parent": -1}],
        "records": [{
            "digest": Digest::sha256_of(key.as_bytes()),
            "layers": [{"layer": 0, "createdAt": "2026-11-23T04:02:00Z"}],
        }],
    });
    manifest(repo, vec![layer.clone()], &config).await
}

pub(super) fn described(manifest: &Manifest) -> Vec<Descriptor> {
    readable(manifest).unwrap().layers().to_vec()
}

pub(super) fn lies(truth: &Descriptor) -> Vec<Descriptor> {
    let mut size = truth.clone();
    size.size += 1;
    let mut kind = truth.clone();
    kind.media_type = if truth.media_type == media::FULL_PACK {
        media::LAYER_GZIP.to_owned()
    } else {
        media::FULL_PACK.to_owned()
    };
    let mut plain = truth.clone();
    let other = Digest::sha256_of(b"another").to_string();
    plain.annotations.insert(UNCOMPRESSED.to_owned(), other);
    let mut elsewhere = truth.clone();
    elsewhere.media_type = media::LAYER_FOREIGN.to_owned();
    vec![size, kind, plain, elsewhere]
}

#[tokio::test]
async fn a_false_word_about_a_layer_takes_nothing_from_those_who_say_what_is_true() {
    for kind in [media::LAYER_TAR, media::LAYER_GZIP, media::FULL_PACK] {
        let world = World::new().await;
        let repo = world.repo();
        let truth = layer_of(&repo, kind, b"the layer").await;
        for lie in lies(&truth) {
            let tags = CacheTags::default();
            repo.delete_tag(&tag()).await.unwrap();
            let honest = part(&repo, "honest", &truth).await;
            let liar = part(&repo, "liar", &lie).await;
            for next in [&honest, &liar, &honest] {
                world.age_records();
                push(&tags, &repo, next).await;
                assert!(
                    repo.is_part(&tag(), &honest.digest).await.unwrap(),
                    "{lie:?}"
                );
                for tags in [&tags, &CacheTags::default()] {
                    let served = read(tags, &repo).await.unwrap();
                    assert!(described(&served).iter().eq([&truth]), "{lie:?}");
                    let cache = readable(&served).unwrap();
                    let config = tags.part_of(&repo, cache).await.unwrap().unwrap().config;
                    let honest = Digest::sha256_of(b"honest").to_string();
                    let has = |r: &CacheRecord| r.digest == honest && r.results.len() == 1;
                    assert!(config.records().iter().any(has), "{lie:?}");
                }
            }
        }
    }
}

/// It cannot be decided, and a wrong claim makes a build fail.
#[tokio::test]
async fn a_disputed_layer_that_cannot_be_read_is_left_out_of_all_parts() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    // It unpacks to more than is read.
    let truth = layer_of(&repo, media::LAYER_GZIP, &vec![0; 40 << 20]).await;
    let lie = lies(&truth).remove(2);
    let honest = part(&repo, "honest", &truth).await;
    let liar = part(&repo, "liar", &lie).await;
    for pushed in [&honest, &liar, &honest] {
        world.age_records();
        push(&tags, &repo, pushed).await;
        let served = read(&tags, &repo).await;
        let is_disputed = repo.is_part(&tag(), &liar.digest).await.unwrap();
        let told = served.as_ref().map(described).unwrap_or_default();
        let expected: &[Descriptor] = if is_disputed {
            &[]
        } else {
            std::slice::from_ref(&truth)
        };
        assert_eq!(told, expected, "{served:?}");
        assert!(repo.is_part(&tag(), &honest.digest).await.unwrap());
    }
}

#[tokio::test]
async fn a_part_whose_layers_are_not_here_makes_no_other_one_leave() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let truth = layer_of(&repo, media::LAYER_TAR, b"the layer").await;
    let never = Descriptor::of(media::LAYER_TAR, b"never pushed");
    let never = Descriptor {
        annotations: truth.annotations.clone(),
        ..never
    };
    let honest = part(&repo, "k", &truth).await;
    push(&tags, &repo, &honest).await;
    world.age_records();
    push(&tags, &repo, &part(&repo, "k", &never).await).await;
    assert_eq!(described(&read(&tags, &repo).await.unwrap()), [truth]);
    assert!(repo.is_part(&tag(), &honest.digest).await.unwrap());
}

/// It would be the only one left, with its false claim.
#[tokio::test]
async fn a_part_that_has_all_keys_of_another_and_a_false_word_does_not_replace_it() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let truth = layer_of(&repo, media::LAYER_GZIP, b"the layer").await;
    let honest = part(&repo, "k", &truth).await;
    push(&tags, &repo, &honest).await;
    let mut senseless = truth.clone();
    let created = "buildkit/createdat".to_owned();
    senseless.annotations.insert(created, "zzz".to_owned());
    for lie in [lies(&truth).remove(2), senseless] {
        world.age_records();
        push(&tags, &repo, &part(&repo, "k", &lie).await).await;
        assert!(repo.is_part(&tag(), &honest.digest).await.unwrap());
        let served = read(&tags, &repo).await.unwrap();
        assert_eq!(described(&served), std::slice::from_ref(&truth));
    }
}

/// BuildKit would not read it: its manifest is too large.
#[tokio::test]
async fn a_part_too_large_to_be_read_alone_replaces_none() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let truth = layer_of(&repo, media::LAYER_GZIP, b"the layer").await;
    let honest = part(&repo, "k", &truth).await;
    push(&tags, &repo, &honest).await;
    world.age_records();
    let mut noted = truth.clone();
    noted
        .annotations
        .insert("note".to_owned(), "z".repeat(1 << 20));
    push(&tags, &repo, &part(&repo, "k", &noted).await).await;
    assert!(repo.is_part(&tag(), &honest.digest).await.unwrap());
    let served = read(&tags, &repo).await.unwrap();
    assert_eq!(described(&served), [truth]);
}
