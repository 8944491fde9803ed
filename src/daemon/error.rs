//! Why the daemon does not start, in words that help, and the exit code that goes with it.

use std::{error::Error as StdError, fmt::Write as _};

use crate::{config, redact::is_unfit, serve::auth, store};

/// Sort of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line or a setting cannot be: 2.
    Usage,
    /// Something of this machine is in the way: 1.
    Failed,
    /// A broken promise of our own code: 70 (`EX_SOFTWARE` of sysexits.h).
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

/// A failure as whoever started the daemon gets it; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Its sort.
    pub kind: Kind,
    /// What failed, one line, without a final period.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Result of starting.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure without advice.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Of the command line or a setting.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Of something of this machine.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Adds what to do.
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

/// A message from wherever it comes, fit for one line of a terminal.
fn one_line(text: &str) -> String {
    let shown: String = text
        .chars()
        .map(|c| if is_unfit(c) { ' ' } else { c })
        .collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error with those below it that it does not say itself.
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
                "another process holds the store's lock, such as `cachectl prune`: wait for it",
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
