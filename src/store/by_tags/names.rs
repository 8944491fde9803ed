//! The place of each record: its key (see [`keys`]) as a tag of the single repository, and back.
//!
//! ```text
//! _c.t.<repo>.<tag>       a tag of another repository than the CLI's own
//! _c.p.<folder>.<digest>  a part of a merged tag
//! _c.d.<folder>.<digest>  a manifest that a merged tag was served as, and the parts it was made of
//! _c.m.<folder>.<digest>  metadata of a manifest
//! _c.f.<folder>.<digest>  a referrer
//! _c.l.<folder>.<digest>  a blob that is linked to a repository
//! _c.b.<folder>.<digest>  a doubted digest
//! _c.g.<folder>.<digest>  a tombstone
//! ```
//!
//! A tag has at most 128 characters of `[A-Za-z0-9._-]`:
//!
//! - `<repo>` keeps `[a-z0-9-]` and writes every other byte as `_xx`, so that people can read it. If that is longer than 40
//!   characters, it is `-` and a hash.
//! - `<folder>` is always a hash, of the key's text up to its last `/`. These hashes have 80 bits, in base 32.
//! - `<digest>` is the raw bytes of the digest (SHA-256 or SHA-512) in base 32.
//! - `<tag>` is the tag itself, or, if it does not fit, `-` and 130 bits of its hash.
//!
//! Callers know everything that is hashed, so every listing works by a prefix. The hashed text is also in the record, and is
//! compared when the record is read.

use std::fmt::Write as _;

use data_encoding::BASE32_NOPAD;

use crate::{
    artifact::Tag,
    digest::{Digest, Sha256},
    store::keys::{self, RESERVED_TAGS, Repo},
};

/// Longest tag (distribution spec, "Pulling manifests").
const MAX_TAG: usize = 128;
/// Longest repository name that is written in clear text.
const MAX_CLEAR_REPO: usize = 40;
/// Characters of the hash of a folder, and of a tag.
const FOLDER_CHARS: usize = 16;
const TAG_CHARS: usize = 26;

/// The kind of records in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    Tag,
    Part,
    Fold,
    Manifest,
    Referrer,
    Linked,
    Doubted,
    Gone,
}

impl RecordKind {
    const ALL: [(Self, &'static str, char); 8] = [
        (Self::Tag, "tags", 't'),
        (Self::Part, "parts", 'p'),
        (Self::Fold, "folds", 'd'),
        (Self::Manifest, "manifests", 'm'),
        (Self::Referrer, "referrers", 'f'),
        (Self::Linked, "linked", 'l'),
        (Self::Doubted, "doubted", 'b'),
        (Self::Gone, "gone", 'g'),
    ];

    fn letter(self) -> char {
        let own = Self::ALL.iter().find(|(kind, ..)| *kind == self);
        own.map_or('x', |(.., letter)| *letter)
    }

    fn of_letter(letter: char) -> Option<Self> {
        let own = Self::ALL.iter().find(|(.., l)| *l == letter);
        own.map(|(kind, ..)| *kind)
    }
}

/// The folder of a record's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) repo: Repo,
    pub(super) kind: RecordKind,
    /// The key up to its last `/`.
    text: String,
    /// The prefix of the tags of all its records.
    prefix: String,
}

impl Folder {
    /// Splits the folder from a key, or from a prefix of keys; `None` for keys without a place here.
    pub(super) fn split(key: &str) -> Option<(Self, &str)> {
        let (folder, name) = key.rsplit_once('/')?;
        let mut names = folder.strip_prefix(keys::REPOSITORIES)?.split('/');
        let repo = Repo::unescape(names.next()?)?;
        let (kind, middle) = (names.next()?, names.next());
        let (kind, ..) = *RecordKind::ALL.iter().find(|(_, name, _)| *name == kind)?;
        let has_middle = matches!(
            kind,
            RecordKind::Part | RecordKind::Fold | RecordKind::Referrer
        );
        if names.next().is_some() || middle.is_some() != has_middle {
            return None;
        }
        Some((Self::new(repo, kind, &key[..=folder.len()]), name))
    }

    fn new(repo: Repo, kind: RecordKind, text: &str) -> Self {
        let field = match kind {
            RecordKind::Tag => {
                let clear = escape(&repo);
                let fits = clear.len() <= MAX_CLEAR_REPO;
                if fits {
                    clear
                } else {
                    hashed(text, FOLDER_CHARS)
                }
            }
            _ => hash(text, FOLDER_CHARS),
        };
        Self {
            prefix: format!("{RESERVED_TAGS}{}.{field}.", kind.letter()),
            text: text.to_owned(),
            repo,
            kind,
        }
    }

    /// The folder of a repository's tags.
    pub(super) fn of_tags(repo: &Repo) -> Self {
        Self::new(repo.clone(), RecordKind::Tag, &keys::tags_prefix(repo))
    }

    /// The folder of the metadata of a repository's manifests.
    pub(super) fn of_manifests(repo: &Repo) -> Self {
        Self::new(
            repo.clone(),
            RecordKind::Manifest,
            &keys::manifests_prefix(repo),
        )
    }

    /// The prefix of the tags of all its records.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of its record `name`.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.text)
    }

    /// The place of its record `name`; `None` for a name that no key of ours has.
    pub(super) fn place(&self, name: &str) -> Option<Tag> {
        let field = match self.kind {
            RecordKind::Tag => {
                // Each name has one key.
                name.parse::<Tag>().ok()?;
                let fits = self.prefix.len() + name.len() <= MAX_TAG;
                if fits {
                    name.to_owned()
                } else {
                    hashed(name, TAG_CHARS)
                }
            }
            _ => match keys::unflat(name).filter(|d| keys::flat(d) == name)? {
                Digest::Sha256(Sha256(raw)) => base32(&raw),
                Digest::Sha512(raw) => base32(&raw),
            },
        };
        format!("{}{field}", self.prefix).parse().ok()
    }

    /// The name of the record at that place.
    pub(super) fn name(&self, place: &Tag) -> Name {
        let Some(field) = place.as_str().strip_prefix(&self.prefix) else {
            return Name::Foreign;
        };
        match self.kind {
            RecordKind::Tag if field.starts_with('-') => Name::Hashed,
            RecordKind::Tag => match field.parse::<Tag>() {
                Ok(_) => Name::Clear(field.to_owned()),
                Err(_) => Name::Foreign,
            },
            _ => digest(field).map_or(Name::Foreign, |d| Name::Clear(keys::flat(&d))),
        }
    }
}

/// A record's name, as far as its place reveals it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Clear(String),
    /// Only the record itself contains it.
    Hashed,
    /// Not a record of ours.
    Foreign,
}

/// What a place alone reveals about its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    Repo(Repo),
    /// Metadata of a manifest, in a folder with this prefix; the record contains the repository.
    ManifestOf(String),
    /// The repository is unknown, but it has other records too.
    Unknown,
}

/// The repository of a place: no repository has tags or parts without metadata of their manifests.
pub(super) fn whose(place: &Tag) -> Whose {
    let read = || {
        let rest = place.as_str().strip_prefix(RESERVED_TAGS)?;
        let (kind, rest) = rest.split_once('.')?;
        let mut letters = kind.chars();
        let kind = RecordKind::of_letter(letters.next()?).filter(|_| letters.next().is_none())?;
        let (field, _) = rest.split_once('.')?;
        match kind {
            RecordKind::Tag => unescape(field).map(Whose::Repo),
            RecordKind::Manifest => Some(Whose::ManifestOf(format!(
                "{RESERVED_TAGS}{}.{field}.",
                kind.letter()
            ))),
            _ => None,
        }
    };
    read().unwrap_or(Whose::Unknown)
}

/// Returns true if the record at `place` only says that a manifest with this digest exists: it is removed with the manifest.
pub(in crate::store) fn tells_of(place: &Tag, digest: &Digest) -> bool {
    let read = || {
        let rest = place.as_str().strip_prefix(RESERVED_TAGS)?;
        let (kind, rest) = rest.split_once('.')?;
        let (_, field) = rest.split_once('.')?;
        Some(matches!(kind, "m" | "f" | "d") && self::digest(field) == Some(*digest))
    };
    read().unwrap_or(false)
}

fn escape(repo: &Repo) -> String {
    let mut out = String::new();
    for b in repo.as_str().bytes() {
        if b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' {
            out.push(b as char);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "_{b:02x}");
        }
    }
    out
}

fn unescape(field: &str) -> Option<Repo> {
    let mut out = String::new();
    let mut rest = field;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '_' {
            let hex = rest.get(..2)?;
            out.push(u8::from_str_radix(hex, 16).ok()? as char);
            rest = &rest[2..];
        } else {
            out.push(c);
        }
    }
    let repo: Repo = out.parse().ok()?;
    (escape(&repo) == field).then_some(repo)
}

/// The first characters of a text's hash.
fn hash(text: &str, chars: usize) -> String {
    let mut all = base32(&Sha256::of(text.as_bytes()).0);
    all.truncate(chars);
    all
}

/// The same where clear text is possible, which never starts in this way.
fn hashed(text: &str, chars: usize) -> String {
    format!("-{}", hash(text, chars))
}

/// In lower case, which tags may contain.
fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes());
    bytes.ok().filter(|bytes| base32(bytes) == text)
}

fn digest(field: &str) -> Option<Digest> {
    let raw = unbase32(field)?;
    if let Ok(raw) = <[u8; 32]>::try_from(raw.as_slice()) {
        return Some(Digest::Sha256(Sha256(raw)));
    }
    raw.try_into().ok().map(Digest::Sha512)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(key: &str) -> Option<(Tag, Name)> {
        let (folder, name) = Folder::split(key)?;
        let place = folder.place(name)?;
        let back = folder.name(&place);
        if let Name::Clear(name) = &back {
            assert_eq!(folder.key(name), key);
        }
        Some((place, back))
    }

    #[test]
    fn every_key_has_a_place_of_its_own_and_is_read_back() {
        let long = format!("{}/x", ["abc_d.e"; 24].join("/"));
        let (a, b) = (Digest::sha256_of(b"a"), Digest::Sha512([7; 64]));
        let tags: [Tag; 3] = [
            "v1".parse().unwrap(),
            "w1".parse().unwrap(),
            "x".repeat(128).parse().unwrap(),
        ];
        let mut places = std::collections::BTreeSet::new();
        let mut count = 0;
        for repo in ["app", "team/app", "team/app.2", "team/app_2", "a-b", &long] {
            let repo: Repo = repo.parse().unwrap();
            let mut all: Vec<String> = tags.iter().map(|t| keys::tag(&repo, t)).collect();
            for d in [&a, &b] {
                all.extend(tags.iter().map(|t| keys::part(&repo, t, d)));
                all.extend(tags.iter().map(|t| keys::fold(&repo, t, d)));
                all.push(keys::manifest(&repo, d));
                all.extend([&a, &b].map(|s| keys::referrer(&repo, s, d)));
                all.push(keys::linked(&repo, d));
                all.push(keys::doubted(&repo, d));
                all.push(keys::gone(&repo, d));
            }
            for key in all {
                let (place, name) = there_and_back(&key).unwrap_or_else(|| panic!("{key}"));
                let hashed = key.ends_with(tags[2].as_str());
                assert_eq!(name == Name::Hashed, hashed, "{key} {place}");
                places.insert(place);
                count += 1;
            }
        }
        assert_eq!(places.len(), count);
    }

    #[test]
    fn places_of_short_names_can_be_read_by_people() {
        let repo: Repo = "team/app".parse().unwrap();
        let (place, _) = there_and_back(&keys::tag(&repo, &"v1.2".parse().unwrap())).unwrap();
        assert_eq!(place.as_str(), "_c.t.team_2fapp.v1.2");
        assert_eq!(whose(&place), Whose::Repo(repo));
    }

    #[test]
    fn what_is_no_record_has_no_place() {
        let d = keys::flat(&Digest::sha256_of(b"a"));
        for key in [
            "",
            "blobs/sha256/00",
            "uploads/x",
            "meta/marks/x",
            "r/app/tags/-x",
            "r/app/tags/a/b",
            "r/App/tags/x",
            "r/app/parts/x",
            "r/app/manifests/x",
            "r/app/else/x",
            &format!("r/app/manifests/{}", d.to_uppercase()),
            &format!("r/app/linked/x/{d}"),
        ] {
            assert_eq!(there_and_back(key), None, "{key}");
        }
    }

    #[test]
    fn foreign_places_are_nobodys() {
        let (folder, _) = Folder::split("r/app/manifests/").unwrap();
        for text in [
            "v1",
            "_c.",
            "_c.m",
            "_c.m.x",
            "_c.m.x.y",
            "_c.tt.app.v1",
            "_c.t._zz.v1",
            "_c.t._61pp.v1",
            "_c.t.-abc.v1",
            &format!("{}aaaa", folder.prefix()),
            &format!("{}{}", folder.prefix(), "7".repeat(52)),
        ] {
            let place: Tag = text.parse().unwrap();
            assert_eq!(folder.name(&place), Name::Foreign, "{text}");
            assert!(!matches!(whose(&place), Whose::Repo(_)), "{text}");
            assert!(!tells_of(&place, &Digest::sha256_of(b"a")));
        }
    }

    #[test]
    fn what_tells_of_a_manifest_is_known_by_its_place() {
        let repo: Repo = "app".parse().unwrap();
        let (d, e) = (Digest::sha256_of(b"d"), Digest::sha256_of(b"e"));
        let place = |key: String| there_and_back(&key).unwrap().0;
        assert!(tells_of(&place(keys::manifest(&repo, &d)), &d));
        assert!(tells_of(&place(keys::referrer(&repo, &e, &d)), &d));
        assert!(tells_of(
            &place(keys::fold(&repo, &"t".parse().unwrap(), &d)),
            &d
        ));
        assert!(!tells_of(&place(keys::referrer(&repo, &e, &d)), &e));
        assert!(!tells_of(&place(keys::gone(&repo, &d)), &d));
        assert!(!tells_of(
            &place(keys::part(&repo, &"t".parse().unwrap(), &d)),
            &d
        ));
    }
}
