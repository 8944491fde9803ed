//! What is answered from records, and what is read for it.

use super::*;

impl World {
    /// Replaces a blob's bytes by others of the same number.
    fn damage(&self, digest: &Digest) {
        let path = self.dir.path().join("blobs/sha256").join(digest.hex());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, vec![b'x'; bytes.len()]).unwrap();
    }
}

async fn told(
    tags: &CacheTags,
    repo: &Repository,
    asked: &Reference,
    bytes: bool,
) -> Result<Answer> {
    let want = Want {
        bytes,
        folds: false,
    };
    let found = tags.find(repo, asked).await?.unwrap();
    tags.answer(repo, asked, found, want).await
}

#[tokio::test]
async fn what_was_read_once_is_told_by_its_record_as_long_as_its_bytes_are_there() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let config = put(&repo, media::IMAGE_CONFIG, b"{}".to_vec()).await;
    let document = json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "config": config, "layers": []});
    let image = Manifest::new(media::IMAGE_MANIFEST, document.to_string());
    push(&tags, &repo, &image).await;
    for asked in [Reference::Tag(tag()), Reference::Digest(image.digest)] {
        let Answer::Ready(first) = told(&tags, &repo, &asked, true).await.unwrap() else {
            panic!("{asked} is there");
        };
        assert_eq!(first.manifest.as_ref(), Some(&image));
        world.damage(&image.digest);
        let Answer::Ready(again) = told(&tags, &repo, &asked, false).await.unwrap() else {
            panic!("{asked} is there");
        };
        assert!(again.manifest.is_none(), "{asked} was read");
        assert_eq!(
            (again.digest, &again.media_type, again.size, again.modified),
            (first.digest, &first.media_type, first.size, first.modified)
        );
        let damaged = told(&tags, &repo, &asked, true).await.unwrap_err();
        assert_eq!(damaged.kind, crate::store::ErrorKind::Corrupt);
        world.lose(&image.digest);
        let lost = told(&tags, &repo, &asked, false).await;
        match asked {
            Reference::Tag(_) => {
                assert_eq!(lost.unwrap_err().kind, crate::store::ErrorKind::Corrupt);
            }
            Reference::Digest(_) => assert!(matches!(lost.unwrap(), Answer::Gone)),
        }
        repo.put_manifest(&image, &[tag()]).await.unwrap();
    }
}

#[tokio::test]
async fn a_cache_that_is_known_is_looked_over_each_time_without_being_read() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let pushed = cache(&repo, &["a", "b"], 1).await;
    push(&tags, &repo, &pushed).await;
    let asked = Reference::Digest(pushed.digest);
    let head = |tags| told(tags, &repo, &asked, false);
    assert!(matches!(head(&tags).await.unwrap(), Answer::Ready(_)));
    world.damage(&pushed.digest);
    assert!(matches!(head(&tags).await.unwrap(), Answer::Ready(_)));
    world.lose(&layer("b"));
    assert!(matches!(head(&tags).await.unwrap(), Answer::Gone));
}
