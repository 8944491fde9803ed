//! Shortcuts that save requests: they change no answer.

use super::{Subject, publish, unique_manifest, unique_tag};
use crate::store::{Expect, Known};

/// What a reader knows, right or wrong, changes no answer.
pub(super) async fn what_a_reader_knows_changes_no_answer(s: &Subject) {
    let (tag, gone) = (unique_tag("known"), unique_tag("gone"));
    let (first, second) = (unique_manifest(), unique_manifest());
    let both = [first.clone(), second.clone()];
    let known = [
        Known::default(),
        Known {
            manifests: &both[..1],
            guess: Some(second.digest),
        },
        Known {
            manifests: &both[1..],
            guess: Some(first.digest),
        },
        Known {
            manifests: &[],
            guess: Some(unique_manifest().digest),
        },
    ];
    for manifest in &both {
        publish(s, manifest, &tag, &Expect::Anything).await;
        let plain = s.store.resolve(&tag.clone().into()).await;
        let plain = plain.expect("resolve").expect("the tag is there");
        for known in known {
            let found = s.store.resolve_known(&tag, known).await;
            let found = found.expect("resolve").expect("the tag is there");
            assert_eq!(found.manifest, *manifest, "{known:?}");
            assert_eq!(found.version, plain.version, "{known:?}");
            assert_eq!(found.modified, plain.modified, "{known:?}");
            let none = s.store.resolve_known(&gone, known).await;
            assert!(none.expect("resolve").is_none(), "{known:?}");
        }
    }
}

/// A staged manifest has no name, and is published whole, also a second time.
pub(super) async fn staged_manifest_is_published_whole(s: &Subject) {
    let manifest = unique_manifest();
    let tags = [unique_tag("staged"), unique_tag("staged")];
    s.store.stage(&manifest).await.expect("stage");
    let named = s.store.resolve(&tags[0].clone().into()).await;
    assert!(named.expect("resolve").is_none(), "a tag points at it");
    for tag in tags {
        publish(s, &manifest, &tag, &Expect::Anything).await;
        for reference in [tag.into(), manifest.digest.into()] {
            let found = s.store.resolve(&reference).await.expect("resolve");
            let found = found.expect("it was published");
            assert_eq!(found.manifest, manifest, "{reference}");
        }
    }
}
