//! What went wrong, in words that help, and the exit code that goes with it.

use std::{borrow::Cow, error::Error, fmt::Write as _};

use crate::{
    config, ops,
    progress::Phase,
    redact::is_unfit,
    source,
    store::{self, ErrorKind},
};

/// Sort of a failure: heading and exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command line or a setting cannot be: 2, always.
    Usage,
    /// The operation failed: 1. For export and import this is cache trouble, a miss unless `--strict`.
    Failed,
    /// A miss under `--require-hit`: 3.
    Miss,
    /// A broken promise of our own code: 70 (`EX_SOFTWARE` of sysexits.h).
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

/// A failure as the user gets it.
#[derive(Debug)]
pub(crate) struct CommandError {
    pub(crate) kind: Kind,
    /// What failed, one line, without a final period.
    pub(crate) message: String,
    /// Causes below, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do.
    pub(crate) hints: Vec<String>,
    /// There is nothing on this node to export: no trouble where another cache of the command was there.
    pub(crate) nothing_there: bool,
    /// The store as a whole is out of reach: asking it for more is a waste of time.
    pub(crate) store_is_lost: bool,
    /// The time budget was spent, when this was done.
    pub(crate) spent: Option<&'static str>,
    /// An import failed when some of it was in place.
    pub(crate) partly: bool,
    /// The object of `--json` says it already.
    pub(crate) in_the_object: bool,
}

/// What is added where an import ended while files were put in place.
pub(crate) const MAY_BE_PARTLY: &str =
    "; the target may be partly restored: import again to complete it";

/// What to do about a store of which nothing was heard.
const UNHEARD: &str = "check the store's URL, and that this machine can reach it";

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

    /// For what the printed object tells as well: no second object is printed.
    pub(crate) fn told(mut self) -> Self {
        self.in_the_object = true;
        self
    }

    pub(crate) fn is_usage(&self) -> bool {
        self.kind == Kind::Usage
    }

    fn caused_by(mut self, error: &dyn Error) -> Self {
        let mut next = error.source();
        // A chain is finite, but nobody reads more.
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

    /// A spent budget, with what the store answered last and what to do about that.
    pub(crate) fn at_the_store(mut self, last: &store::Error) -> Self {
        self.hints = vec![match last.kind {
            ErrorKind::Throttled => "raise --budget, or lower --concurrency".to_owned(),
            _ if last.unheard => UNHEARD.to_owned(),
            _ => "raise --budget, or try again once the store answers".to_owned(),
        }];
        self.causes = vec![one_line(&last.to_string())];
        self
    }

    /// A spent budget, with what would make the work less where that is bytes to be moved.
    pub(crate) fn carrying(mut self, phase: Option<Phase>) -> Self {
        if matches!(phase, Some(Phase::Pack | Phase::Upload | Phase::Restore)) {
            self.hints = vec![one_line(
                "raise --budget, or lower what is carried with --max-size or --max-age",
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

/// A message from wherever it comes, fit for one line of a terminal: tags in words, very long words without their middle.
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
            // A URL or a setting that cannot be. A server that refuses a request and a secret that this job is not given are
            // trouble like other.
            ErrorKind::Invalid if e.op == "open" => Kind::Usage,
            _ => Kind::Failed,
        };
        let mut error = Self::new(kind, e.to_string()).caused_by(&e);
        error.hints.extend(store_hint(&e));
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
                .hint("the next export of this cache packs anew what is damaged"),
            ops::Error::Memory { .. } => Self::failed(e.to_string())
                .hint("try again later, or read the store without the daemon, with --store"),
            ops::Error::Unreadable { .. } => Self::failed(e.to_string()).hint(
                "what others pushed under this name may be too much: `export --replace` stores this cache alone",
            ),
            ops::Error::TooManyEntries { .. } => Self::failed(
                e.to_string(),
            )
            .hint("export parts of it under names of their own, or leave paths out with --exclude"),
            ops::Error::TooBig { .. } => Self::failed(e.to_string())
                .hint("raise --max-size, leave paths out with --exclude, or export with --flatten"),
            ops::Error::NothingFits { .. } => Self::failed(e.to_string())
                .hint("raise --max-size; a number without a unit is bytes"),
            ops::Error::Replaced { .. } | ops::Error::AllAhead { .. } => {
                Self::failed(e.to_string())
            }
            ops::Error::EmptyFolder { .. } => Self::failed(e.to_string())
                .hint("to store an empty folder in its place, add --allow-empty"),
            ops::Error::NothingToExport { .. } => {
                let mut error = Self::failed(e.to_string());
                error.nothing_there = true;
                error
            }
            ops::Error::Source(_) | ops::Error::Pack(_) | ops::Error::Local(_) => {
                Self::failed(e.to_string()).caused_by(&e)
            }
        }
    }
}

fn store_hint(e: &store::Error) -> Option<String> {
    let s3 = e.store.starts_with("s3://");
    let registry = e.store.starts_with("oci://");
    let daemon = e.store.starts_with("cachectld");
    Some(match e.kind {
        // What the message says of the credentials has the remedy.
        ErrorKind::Unauthenticated if e.message.contains("docker login") => return None,
        ErrorKind::Unauthenticated if s3 && !e.message.starts_with("no credentials") => {
            return None;
        }
        ErrorKind::Unauthenticated if s3 => {
            "give AWS credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role), or set s3.anonymous"
                .to_owned()
        }
        ErrorKind::Unauthenticated if registry => {
            let host = e.store["oci://".len()..].split('/').next().unwrap_or_default();
            format!("log in with `docker login {host}`, or give the credentials in DOCKER_AUTH_CONFIG")
        }
        ErrorKind::Unauthenticated if daemon => {
            "set registry.username and registry.password, or log in to the daemon's host with `docker login`".to_owned()
        }
        ErrorKind::Unavailable | ErrorKind::Timeout if daemon => {
            "see whether the daemon runs and listens there".to_owned()
        }
        // A daemon that refuses for another reason than missing rights says what to do.
        ErrorKind::Denied if ["`allowed_hosts`", "`external_url`", "`auth.htpasswd`"].iter().any(|s| e.message.contains(s)) => {
            return None;
        }
        ErrorKind::Denied if ["disk:", "oci-layout:"].iter().any(|s| e.store.starts_with(s)) => {
            "let this user read and write the store's folder (owner and mode of it and of those above it; for several users a common group and mode 2770, before the first export), or name another store with --store; --read-only if the job should only import".to_owned()
        }
        ErrorKind::Denied if e.message.contains("did not ask for any") => {
            "a registry asks for credentials before it refuses: see whether a firewall or a proxy stands before it, and whether the URL is right".to_owned()
        }
        ErrorKind::Denied if e.message.contains("no credentials were sent") => {
            "log in with `docker login`, or set registry.username and registry.password".to_owned()
        }
        ErrorKind::Denied if s3 => {
            "grant these credentials access (with s3.anonymous: everybody), or use --read-only if the job should only import".to_owned()
        }
        ErrorKind::Denied => {
            "grant these credentials access, or use --read-only if the job should only import".to_owned()
        }
        ErrorKind::NoSuchStore if s3 => "create the bucket, or correct the URL and region".to_owned(),
        ErrorKind::NoSuchStore => "create it, or correct the URL".to_owned(),
        ErrorKind::Throttled => "lower --concurrency".to_owned(),
        ErrorKind::Timeout | ErrorKind::Unavailable if e.unheard => UNHEARD.to_owned(),
        ErrorKind::Timeout => "raise --stall or --retry-for if the way to the store is slow".to_owned(),
        ErrorKind::Unavailable => "raise --retry-for if the store is often away for longer".to_owned(),
        ErrorKind::Full if daemon => {
            "free some room or memory there, as its message says: `cachectl prune`, or try again later".to_owned()
        }
        ErrorKind::Full => "free some room, with `cachectl prune` or --max-size".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn render_says_what_why_and_what_to_do() {
        let e = store::Error::new(ErrorKind::Unauthenticated, "pull", "GET answered 401")
            .at("oci://reg.example/go", "sha256:4f");
        let e = CommandError::from(ops::Error::Store(e));
        assert_eq!(
            e.render(),
            "error: cannot pull sha256:4f at oci://reg.example/go: GET answered 401\n  \
             hint: log in with `docker login reg.example`, or give the credentials in DOCKER_AUTH_CONFIG\n"
        );
        assert_eq!((e.kind, e.store_is_lost), (Kind::Failed, true));
    }

    #[test]
    fn hint_of_a_refusal_fits_who_refused() {
        let hints = |store: &str, message: &str| {
            let e = store::Error::new(ErrorKind::Denied, "open", message).at(store, "");
            CommandError::from(e).hints.join(" ")
        };
        // A folder's mode has nothing to do with credentials.
        let of_folder = hints("disk:/srv/cache", "Permission denied");
        assert!(
            of_folder.contains("owner and mode") && !of_folder.contains("credentials"),
            "{of_folder}"
        );
        assert!(hints("s3://b", "403").contains("credentials"));
        // A firewall's refusal is about no credentials.
        let firewall = "… 403 Forbidden; no credentials were sent: the answer did not ask for any";
        let firewall = hints("oci://reg.example/go", firewall);
        assert!(
            firewall.contains("a firewall") && !firewall.contains("grant"),
            "{firewall}"
        );
        let nobody = hints(
            "oci://reg.example/go",
            "403; no credentials were sent: none found",
        );
        assert!(nobody.contains("docker login"), "{nobody}");
        for said in [
            "the request is for the host `box`, …: add the name to `allowed_hosts` in its settings",
            "a web page of another site made this request …, which `external_url` names",
            "… came through a proxy …; give clients accounts (`auth.htpasswd` or `auth.tokens`)",
        ] {
            assert_eq!(hints("oci://box:5000/app", said), "", "{said}");
        }
    }

    #[test]
    fn messages_have_names_instead_of_tags_and_no_endless_words() {
        let e = store::Error::new(ErrorKind::Timeout, "resolve", "no answer").at(
            "oci://reg.example/go",
            "gobuild.example_2ecom_2fapp.default.",
        );
        assert_eq!(
            CommandError::from(e).message,
            "cannot resolve gobuild example.com/app (scope default) at oci://reg.example/go: no answer"
        );
        let e = CommandError::failed(format!("cannot read {}/end", "ü".repeat(4000)));
        assert!(e.message.chars().count() < 400, "{}", e.message);
        assert!(e.message.ends_with("ü/end"), "{}", e.message);
    }

    #[test]
    fn a_spent_budget_says_what_the_store_answered_and_how_to_carry_less_only_where_bytes_move() {
        let spent = || {
            CommandError::from(ops::Error::Budget {
                phase: Phase::Resolve.name(),
                budget: std::time::Duration::from_secs(3),
            })
        };
        let refused = store::Error::new(ErrorKind::Unavailable, "resolve", "Connection refused")
            .at("oci://r.example/c", "t")
            .unheard();
        let line = spent().at_the_store(&refused).line();
        assert_eq!(
            line,
            "gave up resolve after 3s, the time budget: cannot resolve t at oci://r.example/c: Connection refused \
             (hint: check the store's URL, and that this machine can reach it)"
        );
        let hints = |phase| spent().carrying(phase).hints.join("");
        assert_eq!(hints(Some(Phase::Resolve)), "raise --budget");
        assert!(hints(Some(Phase::Restore)).contains("--max-size"));
    }

    #[test]
    fn a_store_of_which_nothing_was_heard_is_not_a_matter_of_patience() {
        for kind in [ErrorKind::Timeout, ErrorKind::Unavailable] {
            let e = || store::Error::new(kind, "get", "no").at("s3://b", "k");
            let hints = |e| CommandError::from(e).hints.join("");
            assert!(hints(e()).contains("--retry-for"));
            assert_eq!(hints(e().unheard()), UNHEARD);
        }
    }

    #[test]
    fn line_breaks_and_escapes_of_a_server_do_not_reach_the_terminal() {
        let e = CommandError::failed("a\n\u{1b}[31m\u{202e} b");
        assert_eq!(e.line(), "a [31m b");
    }

    #[test]
    fn bad_options_are_usage_wherever_they_are_found() {
        let e = CommandError::from(store::Error::new(ErrorKind::Invalid, "open", "bad URL"));
        assert_eq!(e.kind.code(), 2);
        for op in ["get", "publish", "read password"] {
            let e = CommandError::from(store::Error::new(ErrorKind::Invalid, op, "refused"));
            assert_eq!(
                e.kind.code(),
                1,
                "{op}: what a server says is no usage error"
            );
        }
        assert_eq!(
            CommandError::from(ops::Error::Usage("x".into()))
                .kind
                .code(),
            2
        );
    }
}
