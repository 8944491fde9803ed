//! Failures as helpful messages, with their exit codes.

use std::{borrow::Cow, error::Error, fmt::Write as _};

use super::hints;
use crate::{
    config, ops,
    progress::Phase,
    redact::is_unfit,
    source,
    store::{self, ErrorKind},
};

/// Kind of a failure: heading and exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Invalid command line or setting: 2, always.
    Usage,
    /// The operation failed: 1. For export and import this is a cache problem, a miss unless `--strict`.
    Failed,
    /// A miss under `--require-hit`: 3.
    Miss,
    /// An internal error: 70 (`EX_SOFTWARE` of sysexits.h).
    Bug,
}

impl Kind {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Miss => 3,
            Self::Bug => 70,
        }
    }
}

/// A failure as shown to the user.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) kind: Kind,
    /// What failed, in one line, without a final period.
    pub(crate) message: String,
    /// Causes below, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do.
    pub(crate) hints: Vec<String>,
    /// There is nothing on this node to export: not a problem if the command found another cache.
    pub(crate) nothing_there: bool,
    /// The whole store is unreachable: further requests would waste time.
    pub(crate) store_is_lost: bool,
    /// The step during which the time budget ran out.
    pub(crate) spent: Option<&'static str>,
    /// An import failed after some files were put in place.
    pub(crate) partly: bool,
    /// The object of `--json` already reports it.
    pub(crate) in_the_object: bool,
}

/// Added to the message if an import ended while files were put in place.
pub(crate) const MAY_BE_PARTLY: &str =
    "; the target may be partly restored: import again to complete it";

/// Result of a subcommand.
pub(crate) type Result<T> = std::result::Result<T, CommandError>;

impl CommandError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: one_line(&message.into()),
            causes: Vec::new(),
            hints: Vec::new(),
            nothing_there: false,
            store_is_lost: false,
            spent: None,
            partly: false,
            in_the_object: false,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(one_line(&hint.into()));
        self
    }

    /// Marks a failure that the printed object already reports: no second object is printed.
    pub(crate) fn told(mut self) -> Self {
        self.in_the_object = true;
        self
    }

    pub(crate) fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    fn caused_by(mut self, error: &dyn Error) -> Self {
        let mut next = error.source();
        // A chain is finite, but nobody reads more causes.
        while let Some(e) = next.filter(|_| self.causes.len() < 8) {
            let text = one_line(&e.to_string());
            let known = self.causes.last().unwrap_or(&self.message);
            if !known.contains(&text) {
                self.causes.push(text);
            }
            next = e.source();
        }
        self
    }

    /// A spent budget, with the store's last answer and what to do about it.
    pub(crate) fn at_the_store(mut self, last: &store::Error) -> Self {
        self.hints = vec![match last.kind {
            ErrorKind::Throttled => "raise --budget, or lower --concurrency".to_owned(),
            _ if last.unheard => hints::UNHEARD.to_owned(),
            _ => "raise --budget, or try again once the store answers".to_owned(),
        }];
        self.causes = vec![one_line(&last.to_string())];
        self
    }

    /// A spent budget, with a hint on how to transfer less if the phase transfers bytes.
    pub(crate) fn carrying(mut self, phase: Option<Phase>) -> Self {
        if matches!(phase, Some(Phase::Pack | Phase::Upload | Phase::Restore)) {
            self.hints = vec![one_line(
                "raise --budget, or export less with --max-size or --max-age",
            )];
        }
        self
    }

    /// `error: …`, `caused by: …`, `hint: …`, one a line.
    pub(crate) fn render(&self) -> String {
        let heading = match self.kind {
            Kind::Bug => "error: this is a bug in cachectl",
            _ => "error",
        };
        let mut text = format!("{heading}: {}\n", self.message);
        for cause in &self.causes {
            let _ = writeln!(text, "  caused by: {cause}");
        }
        for hint in &self.hints {
            let _ = writeln!(text, "  hint: {hint}");
        }
        text
    }

    /// All of it in one line, for a warning.
    pub(crate) fn line(&self) -> String {
        let mut text = match self.kind {
            Kind::Bug => format!("this is a bug in cachectl: {}", self.message),
            _ => self.message.clone(),
        };
        for cause in &self.causes {
            let _ = write!(text, ": {cause}");
        }
        if !self.hints.is_empty() {
            let _ = write!(text, " (hint: {})", self.hints.join("; "));
        }
        text
    }
}

/// Longest word of a message, in characters: a path may have thousands.
const MAX_WORD: usize = 300;

/// A message of any origin, made fit for one line of a terminal: tags in words, very long words without their middle.
pub(crate) fn one_line(text: &str) -> String {
    let shown: String = ops::in_words(text)
        .chars()
        .map(|c| if is_unfit(c) { ' ' } else { c })
        .collect();
    let words = shown.split_whitespace().map(shortened);
    words.collect::<Vec<_>>().join(" ")
}

fn shortened(word: &str) -> Cow<'_, str> {
    let at = |n| word.char_indices().nth(n).map(|(at, _)| at);
    let Some((cut, length)) = at(MAX_WORD).zip(Some(word.chars().count())) else {
        return Cow::Borrowed(word);
    };
    let half = MAX_WORD / 2;
    let (start, end) = (at(half).unwrap_or(cut), at(length - half).unwrap_or(cut));
    Cow::Owned(format!("{}…{}", &word[..start], &word[end..]))
}

impl From<config::Error> for CommandError {
    fn from(e: config::Error) -> Self {
        let error = Self::usage(e.message);
        match e.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl From<store::Error> for CommandError {
    fn from(e: store::Error) -> Self {
        let kind = match e.kind {
            // An invalid URL or setting. A server that refuses a request, and a secret that this job was not given, are ordinary failures.
            ErrorKind::Invalid if e.op == "open" => Kind::Usage,
            _ => Kind::Failed,
        };
        let mut error = Self::new(kind, e.to_string()).caused_by(&e);
        error.hints.extend(hints::of_store(&e));
        error.store_is_lost = matches!(
            e.kind,
            ErrorKind::NoSuchStore
                | ErrorKind::Invalid
                | ErrorKind::Denied
                | ErrorKind::Unauthenticated
                | ErrorKind::Throttled
                | ErrorKind::Timeout
                | ErrorKind::Unavailable
        ) || e.unheard;
        error
    }
}

impl From<ops::Error> for CommandError {
    fn from(e: ops::Error) -> Self {
        match e {
            ops::Error::Store(e) => e.into(),
            ops::Error::Usage(message) => Self::usage(message),
            ops::Error::Budget { phase, .. } => {
                let mut error = Self::failed(e.to_string()).hint("raise --budget");
                error.store_is_lost = true;
                error.spent = Some(phase);
                error
            }
            ops::Error::Source(source::Error::Partly { .. }) => {
                let mut error = Self::failed(e.to_string());
                error.partly = true;
                error
            }
            ops::Error::Damaged { .. } => Self::failed(e.to_string())
                .hint("the next export of this cache packs the damaged entries again"),
            ops::Error::Memory { .. } => Self::failed(e.to_string())
                .hint("try again later, or read the store without the daemon, with --store"),
            ops::Error::Unreadable { .. } => Self::failed(e.to_string()).hint(
                "other exports under this name may have grown too large: `export --replace` stores only this cache",
            ),
            ops::Error::TooManyEntries { .. } => Self::failed(
                e.to_string(),
            )
            .hint("export parts of it under separate names, or leave paths out with --exclude"),
            ops::Error::TooBig { .. } => Self::failed(e.to_string())
                .hint("raise --max-size, leave paths out with --exclude, or export with --flatten"),
            ops::Error::NothingFits { .. } => Self::failed(e.to_string())
                .hint("raise --max-size; a number without a unit is bytes"),
            ops::Error::Replaced { .. } | ops::Error::AllAhead { .. } => {
                Self::failed(e.to_string())
            }
            ops::Error::EmptyFolder { .. } => Self::failed(e.to_string())
                .hint("to replace the stored folder by an empty one, add --allow-empty"),
            ops::Error::NothingToExport { .. } => {
                let mut error = Self::failed(e.to_string());
                error.nothing_there = true;
                error
            }
            ops::Error::Source(source::Error::Fs(ref refused)) if hints::is_not_allowed(refused.kind()) => {
                Self::failed(e.to_string()).caused_by(&e).hint(
                    "give this user write access (it may have been created by another user, such as root in an earlier step), or use another folder",
                )
            }
            ops::Error::Source(_) | ops::Error::Pack(_) | ops::Error::Local(_) => {
                Self::failed(e.to_string()).caused_by(&e)
            }
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
