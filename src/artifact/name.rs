//! Names of snapshots, and how they are written as tags (docs/format.md, 6).
//!
//! A tag is `<kind>.<name>.<scope>.<key>`, always four fields; a side tag has a fifth, `w<store time, base32, 7><random, base32,
//! 9>`. The mark of a replacement is written like a side tag of the name's head with `r` instead of `w`; it is never a tag. A
//! field keeps `[A-Za-z0-9-]` and writes every other byte as `_xx`; a field over its limit is shortened to its beginning, `__`
//! and 12 base32 characters of its SHA-256, so two long names stay two tags.

use super::Tag;
use crate::{digest::Sha256, entry::Time};

/// Longest name, scope and key in a tag.
const SHARES: [usize; 3] = [32, 24, 40];
/// The extended hex alphabet of base32 (RFC 4648), lower case.
const BASE32: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
/// Characters of the hash that ends a shortened field.
pub(super) const HASH_CHARS: usize = 12;

/// The full name of a snapshot, as in its config.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct SnapshotName {
    /// `gobuild`, `gomod`, `dir`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Scope.
    pub scope: String,
    /// Key, empty for the head.
    pub key: String,
}

impl SnapshotName {
    /// The tag of the name's head.
    pub fn tag(&self) -> Tag {
        let fields = [
            field(&self.name, SHARES[0]),
            field(&self.scope, SHARES[1]),
            field(&self.key, SHARES[2]),
        ];
        let text = format!("{}.{}.{}.{}", self.kind, fields[0], fields[1], fields[2]);
        text.parse()
            .expect("fields hold only characters of a tag and stay within their shares")
    }

    /// The common prefix of all tags with the same kind, name and scope whose key starts with `key`; check the key in the config.
    pub fn key_prefix(&self, key: &str) -> String {
        let head = format!(
            "{}.{}.{}.",
            self.kind,
            field(&self.name, SHARES[0]),
            field(&self.scope, SHARES[1])
        );
        // A key over its limit keeps only its beginning in the tag.
        let clear = escape(key);
        let cut = clear.len().min(clear_len(SHARES[2]));
        head + &clear[..boundary(&clear, cut)]
    }

    /// The common prefix of the side tags of this name's head.
    pub fn side_prefix(&self) -> String {
        format!("{}.w", self.tag())
    }

    /// A new side tag: `now` is the store's clock, `random` has 45 random bits.
    pub fn side_tag(&self, now: Time, random: u64) -> Tag {
        let text = format!("{}{}", self.side_prefix(), moment(now, random));
        text.parse()
            .expect("a head's tag leaves room for 18 more characters")
    }

    /// The common prefix of the marks of replacements of this name, whatever the key.
    pub fn replacement_prefix(&self) -> String {
        let head = Self {
            key: String::new(),
            ..self.clone()
        };
        format!("{}.r", head.tag())
    }

    /// A mark that the name was replaced at `now` by the store's clock; `random` has 45 random bits.
    pub fn replacement_mark(&self, now: Time, random: u64) -> String {
        self.replacement_prefix() + &moment(now, random)
    }
}

/// A time and random bits, as 16 characters that sort by time.
fn moment(now: Time, random: u64) -> String {
    base32(u64::try_from(now.secs).unwrap_or(0), 7) + &base32(random, 9)
}

/// The time in a side tag's fifth field (seconds from 1970); `None` for every other tag.
pub fn side_time(tag: &Tag) -> Option<Time> {
    time_in(fifth(tag.as_str(), 'w')?)
}

/// The time in the mark of a replacement (seconds from 1970); `None` for every other text.
pub fn replaced_at(mark: &str) -> Option<Time> {
    time_in(fifth(mark, 'r')?)
}

fn time_in(field: &str) -> Option<Time> {
    let secs = field.bytes().skip(1).take(7).try_fold(0_i64, |sum, b| {
        let digit = BASE32.iter().position(|c| *c == b)?;
        Some(sum << 5 | digit as i64)
    })?;
    Some(Time { secs, nanos: 0 })
}

/// The head's tag that a side tag belongs to; `None` for every other tag.
pub fn head_of(tag: &Tag) -> Option<Tag> {
    let last = fifth(tag.as_str(), 'w')?;
    tag.as_str()[..tag.as_str().len() - last.len() - 1]
        .parse()
        .ok()
}

/// The fifth field of five, if it is of that sort.
fn fifth(text: &str, sort: char) -> Option<&str> {
    let last = text.split('.').nth(4)?;
    let ok = last.len() == 17 && last.starts_with(sort) && text.split('.').count() == 5;
    ok.then_some(last)
}

/// Selects snapshots of a name; `None` matches any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Only {
    /// Kind, as written in a tag.
    pub kind: Option<String>,
    /// Scope.
    pub scope: Option<String>,
    /// Key; empty for the name's head.
    pub key: Option<String>,
}

impl Only {
    /// Returns true if nothing is selected, so that everything matches.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if a head's tag matches; never if something is selected and the tag does not have four fields.
    pub fn admits(&self, head: &Tag) -> bool {
        if self.is_any() {
            return true;
        }
        let fields: Vec<&str> = head.as_str().split('.').collect();
        let [kind, _, scope, key] = fields[..] else {
            return false;
        };
        let is = |want: &Option<String>, share, found: &str| {
            let spelled = want.as_ref().map(|text| field(text, share));
            spelled.is_none_or(|spelled| spelled == found)
        };
        self.kind.as_ref().is_none_or(|want| want == kind)
            && is(&self.scope, SHARES[1], scope)
            && is(&self.key, SHARES[2], key)
    }
}

/// The full name in a head's tag; `None` for another tag, and if a field was shortened.
pub fn spelled(head: &Tag) -> Option<SnapshotName> {
    let fields: Vec<&str> = head.as_str().split('.').collect();
    let [kind, name, scope, key] = fields[..] else {
        return None;
    };
    Some(SnapshotName {
        kind: kind.to_owned(),
        name: unescape(name)?,
        scope: unescape(scope)?,
        key: unescape(key)?,
    })
}

/// The original text of an escaped field; `None` if it was shortened, or is not an escaped field.
fn unescape(field: &str) -> Option<String> {
    let mut parts = field.split('_');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2)?;
        out.extend(const_hex::decode(hex).ok()?);
        out.extend(part[2..].bytes());
    }
    String::from_utf8(out).ok()
}

/// Returns true if a tag has the four fields of a head (another program may still have written it).
pub fn is_head(tag: &Tag) -> bool {
    tag.as_str().split('.').count() == 4
}

/// Returns true if a cachectl tag (of a head, or a side tag) has this full name (literally, or by the hash of a long name).
pub fn is_named(tag: &Tag, name: &str) -> bool {
    let mut fields = tag.as_str().split('.');
    let found = fields.nth(1) == Some(&field(name, SHARES[0]));
    found && (is_head(tag) || head_of(tag).is_some())
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b == b'-' {
            out.push(b as char);
        } else {
            out.push('_');
            out.push_str(&const_hex::encode([b]));
        }
    }
    out
}

fn clear_len(share: usize) -> usize {
    share - 2 - HASH_CHARS
}

/// The longest length of at most `cut` that does not split an `_xx`.
fn boundary(escaped: &str, cut: usize) -> usize {
    let bytes = escaped.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let next = at + if bytes[at] == b'_' { 3 } else { 1 };
        if next > cut {
            break;
        }
        at = next;
    }
    at
}

fn field(text: &str, share: usize) -> String {
    let escaped = escape(text);
    if escaped.len() <= share {
        return escaped;
    }
    let hash = Sha256::of(text.as_bytes()).0;
    let number = u64::from_be_bytes([
        hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
    ]);
    let clear = &escaped[..boundary(&escaped, clear_len(share))];
    format!("{clear}__{}", base32(number >> 4, HASH_CHARS))
}

/// Returns true if the text consists of [`BASE32`] characters.
pub(super) fn is_base32(text: &str) -> bool {
    text.bytes().all(|b| BASE32.contains(&b))
}

/// The lowest `5 × chars` bits of `number`.
fn base32(number: u64, chars: usize) -> String {
    (0..chars)
        .rev()
        .map(|i| BASE32[(number >> (5 * i) & 31) as usize] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str, scope: &str, key: &str) -> SnapshotName {
        SnapshotName {
            kind: "gobuild".into(),
            name: name.into(),
            scope: scope.into(),
            key: key.into(),
        }
    }

    #[test]
    fn tag_spells_every_field() {
        let tag = name("example.com/app", "default", "").tag();
        assert_eq!(tag.as_str(), "gobuild.example_2ecom_2fapp.default.");
    }

    #[test]
    fn long_names_differ_and_fit() {
        let long = "a/".repeat(300);
        let a = name(&format!("{long}x"), &long, &long).tag();
        let b = name(&format!("{long}y"), &long, &long).tag();
        assert_ne!(a, b);
        let side = name(&long, &long, &long).side_tag(
            Time {
                secs: 1_800_000_000,
                nanos: 0,
            },
            u64::MAX,
        );
        assert!(side.as_str().len() <= 128, "{}", side.as_str().len());
    }

    #[test]
    fn key_prefix_is_a_prefix_of_every_such_tag() {
        for key in [
            "go.sum-abc",
            "x",
            "deps/with/slashes/that/are/very/long/and/longer/still/and/longer",
        ] {
            let full = name("n", "s", key).tag();
            for end in 0..=key.len() {
                let prefix = name("n", "s", "").key_prefix(&key[..end]);
                assert!(full.as_str().starts_with(&prefix), "{full} {prefix}");
            }
        }
    }

    #[test]
    fn a_tag_is_found_by_its_name_and_no_other() {
        let long = "a/".repeat(300);
        for text in ["example.com/app", "x", long.as_str()] {
            let n = name(text, "s", "k.1");
            let side = n.side_tag(Time::default(), 7);
            assert!(is_named(&n.tag(), text) && is_named(&side, text));
            assert!(!is_named(&n.tag(), &format!("{text}x")));
            assert!(!is_named(&n.tag(), "s"));
        }
        assert!(!is_named(&"v1.x.y".parse().unwrap(), "x"));
    }

    #[test]
    fn a_tag_spells_its_name_unless_a_field_is_cut() {
        for (text, scope, key) in [("example.com/a_b", "pr-7", ""), ("ü", "s", "go.sum-1")] {
            let full = name(text, scope, key);
            assert_eq!(spelled(&full.tag()), Some(full));
        }
        assert_eq!(spelled(&name(&"a/".repeat(300), "s", "").tag()), None);
        for other in ["latest", "v1.2.3", "a.b.c_zz.d", "a.b.c_f.d"] {
            assert_eq!(spelled(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn snapshots_are_chosen_by_kind_scope_and_key() {
        let long = "s/".repeat(300);
        let (head, keyed) = (name("n", &long, "").tag(), name("n", &long, "k").tag());
        let only = |kind: Option<&str>, scope: Option<&str>, key: Option<&str>| Only {
            kind: kind.map(str::to_owned),
            scope: scope.map(str::to_owned),
            key: key.map(str::to_owned),
        };
        assert!(only(None, None, None).admits(&"latest".parse().unwrap()));
        assert!(!only(None, Some("latest"), None).admits(&"latest".parse().unwrap()));
        let both = only(Some("gobuild"), Some(&long), None);
        assert!(both.admits(&head) && both.admits(&keyed));
        let of_head = only(None, None, Some(""));
        assert!(of_head.admits(&head) && !of_head.admits(&keyed));
        assert!(!only(Some("dir"), None, None).admits(&head));
        assert!(!only(None, Some("s"), None).admits(&head));
    }

    #[test]
    fn side_tag_tells_its_head_and_time() {
        let n = name("n", "s", "k");
        let t = Time {
            secs: 1_795_000_123,
            nanos: 0,
        };
        let side = n.side_tag(t, 12345);
        assert!(side.as_str().starts_with(&n.side_prefix()));
        assert_eq!(head_of(&side), Some(n.tag()));
        assert_eq!(side_time(&side), Some(t));
        assert_eq!(head_of(&n.tag()), None);
    }

    #[test]
    fn mark_of_a_replacement_is_that_of_all_keys_and_no_side_tag() {
        let t = Time {
            secs: 1_795_000_123,
            nanos: 0,
        };
        let mark = name("n", "s", "k").replacement_mark(t, 12345);
        assert!(mark.starts_with(&name("n", "s", "").replacement_prefix()));
        assert_eq!(replaced_at(&mark), Some(t));
        let as_tag: Tag = mark.parse().unwrap();
        assert_eq!((side_time(&as_tag), head_of(&as_tag)), (None, None));
        let side = name("n", "s", "").side_tag(t, 12345);
        assert_eq!(replaced_at(side.as_str()), None);
    }
}
