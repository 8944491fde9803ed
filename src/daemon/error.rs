//! Why the daemon does not start, with a hint and the exit code.

use std::{error::Error as StdError, fmt::Write as _};

use crate::{config, redact::is_unfit, serve::auth, store};

/// The kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Invalid command line or setting: 2.
    Usage,
    /// A problem with this machine: 1.
    Failed,
    /// A bug in our own code: 70 (`EX_SOFTWARE` of sysexits.h).
    Bug,
}

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Bug => 70,
        }
    }
}

/// A failure as shown to the user who started the daemon; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its kind.
    pub kind: Kind,
    /// What failed, one line, without a final period.
    pub message: String,
    /// How to fix it.
    pub hint: Option<String>,
}

/// Result of starting.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// A failure due to the command line or a setting.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A failure due to this machine.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `error: …`, `hint: …`, one a line.
    pub fn render(&self) -> String {
        let heading = match self.kind {
            Kind::Bug => "error: this is a bug in cachectld",
            _ => "error",
        };
        let mut text = format!("{heading}: {}\n", one_line(&self.message));
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "  hint: {}", one_line(hint));
        }
        text
    }
}

/// A message from any source, reduced to one line for a terminal.
fn one_line(text: &str) -> String {
    let shown: String = text
        .chars()
        .map(|c| if is_unfit(c) { ' ' } else { c })
        .collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error with its causes, as far as its text does not include them.
pub fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    // A chain is finite, but nobody reads more.
    for _ in 0..8 {
        let Some(below) = next else { break };
        let said = below.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        next = below.source();
    }
    text
}

impl From<config::Error> for Error {
    fn from(e: config::Error) -> Self {
        Self {
            hint: e.hint,
            ..Self::usage(e.message)
        }
    }
}

impl From<auth::Error> for Error {
    fn from(e: auth::Error) -> Self {
        Self {
            hint: e.hint,
            ..Self::usage(e.message)
        }
    }
}

impl From<store::Error> for Error {
    fn from(e: store::Error) -> Self {
        use store::ErrorKind;
        let message = with_causes(&e);
        match e.kind {
            ErrorKind::Invalid | ErrorKind::Unsupported => Self::usage(message),
            ErrorKind::Timeout if e.op == "open" => Self::failed(message).hint(
                "another process, such as `cachectl prune`, holds the store's lock: wait for it to end",
            ),
            _ => Self::failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_says_what_and_what_to_do_on_a_line_each() {
        let e = Error::usage("a\nb").hint("c\u{1b}d");
        assert_eq!(e.render(), "error: a b\n  hint: c d\n");
        assert_eq!(e.kind.code(), 2);
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("no room");
        let outer = crate::fs::Error::new("write", "/x", inner);
        let text = with_causes(&outer);
        assert_eq!(text.matches("no room").count(), 1, "{text}");
    }
}
