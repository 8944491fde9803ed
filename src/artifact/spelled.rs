//! Decoding the name in a tag ([`super::name`]), for display.

use super::{
    Tag,
    name::{HASH_CHARS, head_of, is_base32, is_head},
};

/// The content of a snapshot's tag. A field that was too long for a tag ends in `…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelled {
    /// The first field, unchanged; it need not be a known kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Scope.
    pub scope: String,
    /// Key, empty for the head.
    pub key: String,
}

/// Reads a head's tag or a side tag; `None` for tags not written by [`super::name`].
///
/// The result may contain any character: any writer of the store can choose the tag.
pub fn read(text: &str) -> Option<Spelled> {
    let tag: Tag = text.parse().ok()?;
    let head = head_of(&tag).unwrap_or(tag);
    if !is_head(&head) {
        return None;
    }
    let fields: Vec<&str> = head.as_str().split('.').collect();
    let [kind, name, scope, key] = fields[..] else {
        return None;
    };
    let spelled = Spelled {
        kind: kind.to_owned(),
        name: clear(name)?,
        scope: clear(scope)?,
        key: clear(key)?,
    };
    (!spelled.name.is_empty() && !spelled.scope.is_empty()).then_some(spelled)
}

/// The unescaped field, as far as the tag contains it.
fn clear(field: &str) -> Option<String> {
    let cut = field.len().checked_sub(HASH_CHARS + 2).filter(|at| {
        let hash = field.get(*at..).and_then(|end| end.strip_prefix("__"));
        hash.is_some_and(is_base32)
    });
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = &field.as_bytes()[..cut.unwrap_or(field.len())];
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let byte = match first {
            b'_' => {
                let (hex, more) = rest.split_at_checked(2)?;
                rest = more;
                let mut byte = [0];
                const_hex::decode_to_slice(hex, &mut byte).ok()?;
                byte[0]
            }
            b'.' => return None,
            plain => *plain,
        };
        bytes.push(byte);
    }
    if cut.is_none() {
        return String::from_utf8(bytes).ok();
    }
    // A character may have been cut in two.
    let text = String::from_utf8_lossy(&bytes);
    Some(format!("{}…", text.trim_end_matches('\u{fffd}')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{artifact::name::SnapshotName, entry::Time};

    fn name(name: &str, scope: &str, key: &str) -> SnapshotName {
        SnapshotName {
            kind: "gobuild".into(),
            name: name.into(),
            scope: scope.into(),
            key: key.into(),
        }
    }

    #[test]
    fn what_was_spelled_is_read_back() {
        for (n, scope, key) in [
            ("example.com/acme/shop", "default", ""),
            ("web", "pr-7", "npm-1.2_3"),
            ("a b", "feature/ü", "k"),
        ] {
            let given = name(n, scope, key);
            let side = given.side_tag(Time::default(), 7);
            for tag in [given.tag(), side] {
                let read = read(tag.as_str()).unwrap();
                assert_eq!((&*read.kind, &*read.name), ("gobuild", n));
                assert_eq!((&*read.scope, &*read.key), (scope, key));
            }
        }
    }

    #[test]
    fn a_long_name_ends_where_its_tag_was_cut() {
        for long in ["a".repeat(300), "ü".repeat(300)] {
            let read = read(name(&long, "s", &long).tag().as_str()).unwrap();
            for field in [read.name, read.key] {
                let start = field.strip_suffix('…').unwrap();
                assert!(start.len() > 5 && long.starts_with(start), "{field}");
            }
        }
    }

    #[test]
    fn other_tags_are_not_read() {
        for other in [
            "latest",
            "v1.2.3",
            "a.b.c.d.e",
            "x..y.",
            "x.y..",
            "x._z.s.",
            "x.y.s._f",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
