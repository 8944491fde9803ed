//! What one manifest grants sight of.

use std::collections::BTreeSet;

use crate::{
    artifact::{
        Manifest,
        buildkit::is_merged,
        media,
        outline::{Outline, Role},
    },
    digest::Digest,
};

/// The first half of a digest: finding another blob with the same half takes 2^128 tries.
pub(super) type Key = [u8; 16];

pub(super) fn key(digest: &Digest) -> Key {
    let (bytes, is_long) = match digest {
        Digest::Sha256(sha) => (&sha.0[..], false),
        Digest::Sha512(raw) => (&raw[..], true),
    };
    let mut key = Key::default();
    key.copy_from_slice(&bytes[..size_of::<Key>()]);
    // Digests of the two algorithms must not collide.
    key[0] ^= u8::from(is_long);
    key
}

/// What a manifest grants by the positions in which it names digests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grants {
    /// Sorted: digests that its pusher could read.
    granted: Box<[Key]>,
    /// Sorted: digests that were not checked when it was pushed.
    unproven: Box<[Key]>,
    /// The config of a cache that the daemon merged.
    pub(super) merged_config: Option<Digest>,
    /// Its own config is among the unproven: a cache merged from it may reveal the config's content.
    pub(super) borrows_config: bool,
}

impl Grants {
    /// Reads a stored manifest; one that cannot be read grants nothing.
    pub(super) fn of(manifest: &Manifest) -> Self {
        let Ok(outline) = Outline::of_stored(manifest) else {
            return Self::default();
        };
        let is_config =
            |role, media_type: &str| role == Role::Config || media_type == media::BUILDKIT_CONFIG;
        let (mut granted, mut unproven) = (BTreeSet::new(), BTreeSet::new());
        let (mut config, mut borrows_config) = (None, false);
        for named in &outline.named {
            let key = key(&named.digest);
            let is_config = is_config(named.role, &named.media_type);
            if named.grants_sight() {
                granted.insert(key);
                config = config.or(is_config.then_some(named.digest));
            } else {
                unproven.insert(key);
                borrows_config |= is_config;
            }
        }
        unproven.retain(|key| !granted.contains(key));
        let merged_config = config.filter(|_| is_merged(manifest));
        if merged_config.is_some() {
            granted.clear();
        }
        Self {
            granted: granted.into_iter().collect(),
            unproven: unproven.into_iter().collect(),
            merged_config,
            borrows_config,
        }
    }

    /// The digests that a manifest doubts.
    pub(super) fn doubted_by(&self, manifest: &Manifest) -> BTreeSet<Digest> {
        let outline = Outline::of_stored(manifest).unwrap_or_default();
        let named = outline.named.iter().map(|named| named.digest);
        named.filter(|digest| self.doubts(&key(digest))).collect()
    }

    /// How many keys it holds.
    pub(super) fn keys(&self) -> usize {
        self.granted.len() + self.unproven.len()
    }

    pub(super) fn grants(&self, key: &Key) -> bool {
        self.granted.binary_search(key).is_ok()
    }

    /// Returns true if it may keep others from granting something.
    pub(super) fn casts_doubt(&self) -> bool {
        self.borrows_config || !self.unproven.is_empty()
    }

    pub(super) fn doubts(&self, key: &Key) -> bool {
        self.unproven.binary_search(key).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn d(of: &str) -> Digest {
        Digest::sha256_of(of.as_bytes())
    }

    fn grants(document: &Value) -> Grants {
        Grants::of(&Manifest::new(media::IMAGE_MANIFEST, document.to_string()))
    }

    #[test]
    fn positions_that_every_release_checked_grant_and_all_others_are_doubted() {
        let found = grants(&json!({
            "config": {"mediaType": "a/c", "digest": d("config")},
            "layers": [
                {"mediaType": "a/l", "digest": d("layer")},
                {"mediaType": "a/l", "digest": d("remote"), "urls": ["x"]},
                {"mediaType": "a/l", "digest": d("both"), "urls": ["x"]},
                {"mediaType": "a/l", "digest": d("both")},
            ],
            "blobs": [{"digest": d("blob")}],
            "subject": {"digest": d("subject")},
            "annotations": {"k": d("note").to_string()},
        }));
        for (name, granted, doubted) in [
            ("config", true, false),
            ("layer", true, false),
            ("both", true, false),
            ("remote", false, true),
            ("blob", false, true),
            ("subject", false, false),
            ("note", false, false),
        ] {
            let key = key(&d(name));
            assert_eq!(
                (found.grants(&key), found.doubts(&key)),
                (granted, doubted),
                "{name}"
            );
        }
        assert!(!found.borrows_config && found.merged_config.is_none());
    }

    #[test]
    fn merged_cache_grants_its_config_alone() {
        let config = json!({"mediaType": media::BUILDKIT_CONFIG, "digest": d("config")});
        let layer = json!({"mediaType": "a/l", "digest": d("layer")});
        let mark = json!({crate::artifact::annotations::MERGED: "1"});
        for document in [
            json!({"config": config, "layers": [layer], "annotations": mark}),
            json!({"manifests": [layer, config], "annotations": mark}),
        ] {
            let found = grants(&document);
            assert_eq!(found.merged_config, Some(d("config")));
            assert!(!found.grants(&key(&d("layer"))), "{document}");
        }
    }

    #[test]
    fn config_with_urls_is_borrowed() {
        let config =
            json!({"mediaType": media::BUILDKIT_CONFIG, "digest": d("config"), "urls": ["x"]});
        for document in [json!({"config": config}), json!({"manifests": [config]})] {
            let found = grants(&document);
            assert!(found.borrows_config, "{document}");
            assert!(!found.grants(&key(&d("config"))));
        }
    }
}
