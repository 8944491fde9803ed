//! Texts of errors and servers, for messages.

use std::error::Error as StdError;

/// Maximum length of a server's own text in a message.
const MAX_WORDS: usize = 300;

/// A server's text, reduced to one line.
pub(super) fn plain(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_WORDS)
        .collect()
}

/// The messages of an error and its causes, without repetitions.
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

/// The first error of a type in a chain of causes.
pub(super) fn find<'a, E: StdError + 'static>(e: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(e), |e| below(*e)).find_map(|e| e.downcast_ref())
}

/// The next error; includes the error inside an I/O error, which its `source` skips.
fn below<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match e.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as _),
        None => e.source(),
    }
}
