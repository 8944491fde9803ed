//! Keys of everything in a store that is a tree: the same paths on disk and in a bucket.
//!
//! ```text
//! blobs/<alg>/<hex>                             bytes, manifests' among them
//! r/<repo>/tags/<tag>                           record::Tagged: what the tag points at
//! r/<repo>/parts/<tag>/<alg>-<hex>              record::Tagged: a part of a merged tag
//! r/<repo>/folds/<tag>/<alg>-<hex>              record::Folded: a manifest that a tag was served as, and the parts it was made of
//! r/<repo>/manifests/<alg>-<hex>                record::Manifested: media type, size, subject, artifact type
//! r/<repo>/referrers/<alg>-<hex>/<alg>-<hex>    a manifest (second) that names the first as its subject
//! r/<repo>/linked/<alg>-<hex>                   a blob brought there by a caller who may not read every repository
//! r/<repo>/doubted/<alg>-<hex>                  a digest of which manifests and links of older releases no longer give sight there
//! r/<repo>/gone/<alg>-<hex>                     tombstone of a blob or manifest that was deleted there
//! uploads/<id>                                  unfinished bytes; on disk also spools and temporary files
//! meta/marks/<name>                             a mark: the blobs that a prune found unreachable
//! meta/gc.lock                                  on disk only: users hold it shared, a sweep exclusively
//! meta/locks/<2 hex>                            on disk only: held while a tag is compared and renamed
//! ```
//!
//! `<repo>` is one name: `/` is written `%2F`. All keys are relative, without a leading `/`.

use std::{fmt, str::FromStr};

use crate::{artifact::Tag, digest::Digest};

/// Prefix of all blobs.
pub const BLOBS: &str = "blobs/";
/// Prefix of everything that belongs to a repository.
pub const REPOSITORIES: &str = "r/";
/// Prefix of unfinished data.
pub const UPLOADS: &str = "uploads/";
/// Prefix of tags that represent records, in a store that has nothing but tags (see [`super::by_tags`]).
pub const RESERVED_TAGS: &str = "_c.";
/// Prefix of the marks of marking runs.
pub const MARKS: &str = "meta/marks/";
/// On disk: held shared while the store is open, exclusively by a sweep.
pub const GC_LOCK: &str = "meta/gc.lock";
/// On disk: folder of the locks of tags.
pub const LOCKS: &str = "meta/locks/";

/// A repository's name, following the grammar of the distribution spec ("Pulling manifests"): lower-case words joined by `.`,
/// `_`, `__` or dashes, in components separated by `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repo(String);

/// Why text is not a valid repository name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a repository's name: expected lower-case words and digits with `.`, `_`, `-` between them, and `/`"
)]
pub struct RepoRefused(String);

impl Repo {
    /// The CLI's own repository.
    pub fn cli() -> Self {
        Self("cachectl".to_owned())
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The unique form of the name in keys.
    pub fn escaped(&self) -> String {
        self.0.replace('/', "%2F")
    }

    /// Parses the form of a repository's name in keys.
    pub fn unescape(s: &str) -> Option<Self> {
        // A name with a raw `/` cannot occur here, and `%` is not in the grammar, so this is the exact inverse.
        s.replace("%2F", "/").parse().ok()
    }
}

fn component_is_right(c: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = c.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !plain(*first) || !plain(*last) {
        return false;
    }
    c.split(|ch: char| ch.is_ascii() && plain(ch as u8))
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

/// Returns true if `s` is a valid repository name, at this registry or another.
pub(super) fn is_repository(s: &str) -> bool {
    s.len() <= 255 && s.split('/').all(component_is_right)
}

impl FromStr for Repo {
    type Err = RepoRefused;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // The escaped name is a file name, which is limited to 255 bytes.
        let length = s.len() + 2 * s.bytes().filter(|b| *b == b'/').count();
        if length <= 255 && is_repository(s) {
            Ok(Self(s.to_owned()))
        } else {
            Err(RepoRefused(s.chars().take(140).collect()))
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key represents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Bytes.
    Blob(Digest),
    /// A tag.
    Tag(Repo, Tag),
    /// A part of a merged tag.
    Part(Repo, Tag, Digest),
    /// The manifest that a tag was served as, merged from its parts.
    Fold(Repo, Tag, Digest),
    /// The record of a manifest.
    Manifest(Repo, Digest),
    /// Subject, then the manifest that refers to it.
    Referrer(Repo, Digest, Digest),
    /// A blob that was pushed or mounted to a repository.
    Linked(Repo, Digest),
    /// A doubted digest in a repository.
    Doubted(Repo, Digest),
    /// A tombstone.
    Gone(Repo, Digest),
    /// An unfinished upload.
    Upload(String),
    /// A mark, by its name.
    Mark(String),
}

/// Returns true if a tag represents a record.
pub(super) fn is_reserved(tag: &Tag) -> bool {
    tag.as_str().starts_with(RESERVED_TAGS)
}

/// Returns true if a listing by `prefix` shows a name: those that represent records only if the prefix asks for them.
pub(super) fn is_listed(name: &str, prefix: &str) -> bool {
    name.starts_with(prefix)
        && (prefix.starts_with(RESERVED_TAGS) || !name.starts_with(RESERVED_TAGS))
}

/// A digest as one name: `<alg>-<hex>`.
pub(super) fn flat(d: &Digest) -> String {
    format!("{}-{}", d.algorithm(), d.hex())
}

/// Parses what [`flat`] wrote.
pub(super) fn unflat(s: &str) -> Option<Digest> {
    let (alg, hex) = s.split_once('-')?;
    format!("{alg}:{hex}").parse().ok()
}

/// Writes every byte that is not safe in a file name as `%XX`, and a leading dot too.
fn plain_name(s: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(s.len());
    for (i, b) in s.bytes().enumerate() {
        if b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-') || (b == b'.' && i > 0) {
            out.push(b as char);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

fn unplain_name(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut rest = s.as_bytes();
    while let Some((b, tail)) = rest.split_first() {
        rest = tail;
        if *b == b'%' {
            let (hex, tail) = rest.split_at_checked(2)?;
            let mut byte = [0];
            const_hex::decode_to_slice(hex, &mut byte).ok()?;
            out.push(byte[0]);
            rest = tail;
        } else {
            out.push(*b);
        }
    }
    let name = String::from_utf8(out).ok()?;
    // One name has one key: any other spelling is not one of ours.
    (plain_name(&name) == s && !name.is_empty()).then_some(name)
}

/// The key of a blob.
pub fn blob(d: &Digest) -> String {
    format!("{BLOBS}{}/{}", d.algorithm(), d.hex())
}

/// The key of a tag.
pub fn tag(repo: &Repo, tag: &Tag) -> String {
    format!("{}{tag}", tags_prefix(repo))
}

/// The prefix of the keys of all tags of a repository; a tag's prefix may be appended.
pub fn tags_prefix(repo: &Repo) -> String {
    format!("{REPOSITORIES}{}/tags/", repo.escaped())
}

/// The key of one part of a merged tag.
pub fn part(repo: &Repo, tag: &Tag, d: &Digest) -> String {
    format!("{}{}", parts_prefix(repo, tag), flat(d))
}

/// The prefix of the keys of all parts of a merged tag.
pub fn parts_prefix(repo: &Repo, tag: &Tag) -> String {
    format!("{REPOSITORIES}{}/parts/{tag}/", repo.escaped())
}

/// The key of one manifest that a merged tag was served as.
pub fn fold(repo: &Repo, tag: &Tag, d: &Digest) -> String {
    format!("{}{}", folds_prefix(repo, tag), flat(d))
}

/// The prefix of the keys of all manifests that a merged tag was served as.
pub fn folds_prefix(repo: &Repo, tag: &Tag) -> String {
    format!("{REPOSITORIES}{}/folds/{tag}/", repo.escaped())
}

/// The key of a manifest's record.
pub fn manifest(repo: &Repo, d: &Digest) -> String {
    format!("{}{}", manifests_prefix(repo), flat(d))
}

/// The prefix of the keys of all manifests' records of a repository.
pub fn manifests_prefix(repo: &Repo) -> String {
    format!("{REPOSITORIES}{}/manifests/", repo.escaped())
}

/// The key of the record that `d` refers to `subject`.
pub fn referrer(repo: &Repo, subject: &Digest, d: &Digest) -> String {
    format!("{}{}", referrers_prefix(repo, subject), flat(d))
}

/// The prefix of the keys of all referrers of a manifest.
pub fn referrers_prefix(repo: &Repo, subject: &Digest) -> String {
    format!(
        "{REPOSITORIES}{}/referrers/{}/",
        repo.escaped(),
        flat(subject)
    )
}

/// The key of the record that the blob was pushed or mounted to this repository.
pub fn linked(repo: &Repo, d: &Digest) -> String {
    format!("{REPOSITORIES}{}/linked/{}", repo.escaped(), flat(d))
}

/// The key of the record that older manifests and links of this repository do not show the blob.
pub fn doubted(repo: &Repo, d: &Digest) -> String {
    format!("{}{}", doubted_prefix(repo), flat(d))
}

/// The prefix of the keys of all doubts of a repository.
pub fn doubted_prefix(repo: &Repo) -> String {
    format!("{REPOSITORIES}{}/doubted/", repo.escaped())
}

/// The key of a tombstone.
pub fn gone(repo: &Repo, d: &Digest) -> String {
    format!("{}{}", gone_prefix(repo), flat(d))
}

/// The prefix of the keys of all tombstones of a repository.
pub fn gone_prefix(repo: &Repo) -> String {
    format!("{REPOSITORIES}{}/gone/", repo.escaped())
}

/// The key of an unfinished upload; any id is converted to a plain name.
pub fn upload(id: &str) -> String {
    format!("{UPLOADS}{}", plain_name(id))
}

/// The key of a mark; any name is converted to a plain one.
pub fn mark(name: &str) -> String {
    format!("{MARKS}{}", plain_name(name))
}

/// On disk: the lock that is held while a tag is compared and renamed. One of 256 names, so that the folder stays small however
/// many tags are created and deleted, and lock files never have to be removed.
pub fn tag_lock(repo: &Repo, tag: &Tag) -> String {
    let id = Digest::sha256_of(format!("{repo}:{tag}").as_bytes()).hex();
    format!("{LOCKS}{}", &id[..2])
}

/// Parses a key; `None` for keys that are not ours.
pub fn parse(key: &str) -> Option<Key> {
    let (room, rest) = key.split_once('/')?;
    match room {
        "blobs" => {
            let (alg, hex) = rest.split_once('/')?;
            format!("{alg}:{hex}").parse().ok().map(Key::Blob)
        }
        "r" => parse_of_repo(rest),
        "uploads" => unplain_name(rest).map(Key::Upload),
        "meta" => unplain_name(rest.strip_prefix("marks/")?).map(Key::Mark),
        _ => None,
    }
}

fn parse_of_repo(rest: &str) -> Option<Key> {
    let mut names = rest.split('/');
    let repo = Repo::unescape(names.next()?)?;
    let (kind, first, second) = (names.next()?, names.next()?, names.next());
    if names.next().is_some() {
        return None;
    }
    match (kind, second) {
        ("tags", None) => Some(Key::Tag(repo, first.parse().ok()?)),
        ("parts", Some(d)) => Some(Key::Part(repo, first.parse().ok()?, unflat(d)?)),
        ("folds", Some(d)) => Some(Key::Fold(repo, first.parse().ok()?, unflat(d)?)),
        ("manifests", None) => Some(Key::Manifest(repo, unflat(first)?)),
        ("referrers", Some(d)) => Some(Key::Referrer(repo, unflat(first)?, unflat(d)?)),
        ("linked", None) => Some(Key::Linked(repo, unflat(first)?)),
        ("doubted", None) => Some(Key::Doubted(repo, unflat(first)?)),
        ("gone", None) => Some(Key::Gone(repo, unflat(first)?)),
        _ => None,
    }
}

/// The manifest that a record describes; `None` for other records.
pub(super) fn parsed_manifest(key: &str) -> Option<Digest> {
    match parse(key)? {
        Key::Manifest(_, digest) => Some(digest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_what_it_stands_for() {
        let repo: Repo = "team/app__x".parse().unwrap();
        let t: Tag = "gobuild.a.b.".parse().unwrap();
        let (a, b) = (Digest::sha256_of(b"a"), Digest::Sha512([7; 64]));
        for (key, want) in [
            (blob(&a), Key::Blob(a)),
            (blob(&b), Key::Blob(b)),
            (tag(&repo, &t), Key::Tag(repo.clone(), t.clone())),
            (part(&repo, &t, &a), Key::Part(repo.clone(), t.clone(), a)),
            (fold(&repo, &t, &a), Key::Fold(repo.clone(), t.clone(), a)),
            (manifest(&repo, &b), Key::Manifest(repo.clone(), b)),
            (referrer(&repo, &a, &b), Key::Referrer(repo.clone(), a, b)),
            (linked(&repo, &a), Key::Linked(repo.clone(), a)),
            (doubted(&repo, &a), Key::Doubted(repo.clone(), a)),
            (gone(&repo, &a), Key::Gone(repo.clone(), a)),
            (upload("../x"), Key::Upload("../x".to_owned())),
            (
                mark(".2026-01-02T03:04:05Z"),
                Key::Mark(".2026-01-02T03:04:05Z".to_owned()),
            ),
        ] {
            assert_eq!(parse(&key).as_ref(), Some(&want), "{key}");
            assert!(!key.contains("..") && !key.starts_with('/'), "{key}");
        }
    }

    #[test]
    fn foreign_keys_are_none() {
        for key in [
            "",
            "blobs",
            "blobs/sha256/xyz",
            "blobs/md5/00",
            "r/cachectl/tags/-x",
            "r/../tags/x",
            "r/a%2F..%2Fb/tags/x",
            "r/a/tags/x/y",
            "r/a/parts/x",
            "meta/gc.lock",
            "meta/marks/",
            "uploads/",
            "uploads/a%2",
            "uploads/%61",
            "r/A/tags/x",
        ] {
            assert_eq!(parse(key), None, "{key}");
        }
    }

    #[test]
    fn repository_names_follow_the_grammar() {
        for ok in ["cachectl", "a/b-c/d.e", "a__b", "a---b", "0"] {
            assert!(ok.parse::<Repo>().is_ok(), "{ok}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "A",
            "a..b",
            "a___b",
            ".a",
            "a-",
            "a/../b",
            "ä",
            "a%2Fb",
            "a b",
            &"a/".repeat(90),
        ] {
            assert!(bad.parse::<Repo>().is_err(), "{bad}");
        }
    }
}
