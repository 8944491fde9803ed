//! Paths of the carried files.

use crate::{digest::Sha256, entry::EntryPath, source::walk};

/// Length of `xx/<64 hex>-a` and `-d`.
const LEN: usize = 3 + 64 + 2;

/// The kinds of carried files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// `xx/<64 hex>-a`
    Action,
    /// `xx/<64 hex>-d`
    Output,
    /// `xx/<64 hex>-d/<name>`: an output of the linker, in a folder that holds nothing else.
    Program,
}

/// Parses the path of a carried file into its kind and the digest in it; `None` for every other path, and if the shard is not the
/// first byte of the digest.
pub(super) fn parse(path: &[u8]) -> Option<(Which, Sha256)> {
    let (file, rest) = path.split_at_checked(LEN)?;
    let (shard, name) = file.split_at(3);
    let (which, id) = parse_name(name)?;
    if shard[..2] != name[..2] || shard[2] != b'/' {
        return None;
    }
    match (which, rest) {
        (_, []) => Some((which, id)),
        (Which::Output, [b'/', program @ ..]) if is_program(program) => Some((Which::Program, id)),
        _ => None,
    }
}

/// Parses the name of an action entry or output in its shard.
pub(super) fn parse_name(name: &[u8]) -> Option<(Which, Sha256)> {
    let (hex, end) = name.split_at_checked(64)?;
    let which = match end {
        b"-a" => Which::Action,
        b"-d" => Which::Output,
        _ => return None,
    };
    Some((which, Sha256::from_hex(hex)?))
}

/// Returns true for one name that cachectl does not use itself.
fn is_program(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && !walk::is_temp(name)
}

/// Returns true if the path of a carried file is that of an action entry.
pub(super) fn is_action(path: &EntryPath) -> bool {
    let path = path.as_bytes();
    path.len() == LEN && path.ends_with(b"-a")
}

/// The path of the output with that digest, or of the folder that holds it as a program.
pub(super) fn output_path(output: Sha256) -> EntryPath {
    let hex = output.to_hex();
    EntryPath::new(format!("{}/{hex}-d", &hex[..2]).into_bytes())
        .expect("hex digits are a valid path")
}

/// The path itself, or of a program the folder that holds it.
pub(super) fn place(path: &EntryPath) -> &[u8] {
    let path = path.as_bytes();
    path.get(..LEN).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_forms_are_parsed() {
        let id = Sha256::of(b"x");
        let hex = id.to_hex();
        let output = format!("{}/{hex}-d", &hex[..2]);
        for (path, want) in [
            (output.clone(), Which::Output),
            (format!("{}/{hex}-a", &hex[..2]), Which::Action),
            (format!("{output}/hello"), Which::Program),
            // Named like files of the cache.
            (format!("{output}/{hex}-a"), Which::Program),
            (format!("{output}/trim.txt"), Which::Program),
        ] {
            assert_eq!(parse(path.as_bytes()), Some((want, id)), "{path}");
            let path = EntryPath::new(path.into_bytes()).unwrap();
            assert_eq!(is_action(&path), want == Which::Action, "{path}");
            if want != Which::Action {
                assert_eq!(place(&path), output.as_bytes());
            }
        }
        for path in [
            format!("{output}/"),
            format!("{output}/a/b"),
            format!("{output}x"),
            format!("{output}/.cachectl-tmp-0123456789abcdef"),
            format!("{}/{hex}-a/hello", &hex[..2]),
            format!("00/{hex}-d/hello"),
            format!("{hex}-d/hello"),
            "hello".into(),
        ] {
            assert_eq!(parse(path.as_bytes()), None, "{path}");
        }
    }
}
