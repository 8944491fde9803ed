//! What errors and servers say, in words for a message.

use std::error::Error as StdError;

/// Longest part of a server's own words in a message.
const MAX_WORDS: usize = 300;

/// A server's words, fit for one line.
pub(super) fn plain(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_WORDS)
        .collect()
}

/// The messages of an error and of what is below it, each said once.
pub(super) fn chain(e: &(dyn StdError + 'static)) -> String {
    let mut said = String::new();
    let mut next = Some(e);
    while let Some(e) = next {
        let text = plain(&e.to_string());
        if !said.contains(&text) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        next = below(e);
    }
    said
}

/// The first error of a kind in a chain of them.
pub(super) fn find<'a, E: StdError + 'static>(e: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(e), |e| below(*e)).find_map(|e| e.downcast_ref())
}

/// The next error; what an I/O error wraps counts, though its `source` skips it.
fn below<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match e.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as _),
        None => e.source(),
    }
}
