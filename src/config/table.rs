//! What a list of settings is made of: keys and how each is written; how names are found, and found to be wrong.

use super::check::{is_slip, nearest};

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// A URL whose secrets are not shown.
    Url,
    /// A path; in the file relative to the file's folder.
    Path,
    /// `true` or `false`.
    Flag,
    /// A whole number from 1 on.
    Count,
    /// Bytes: `500MB`, `2GiB`.
    Size,
    /// Bytes per second: `50MB/s`.
    Rate,
    /// A span of time: `90s`, `10m`.
    Time,
    /// Whole days: `7d`.
    Days,
    /// A text that is never shown.
    Secret,
    /// Several texts: an array in the file, separated by commas in a variable, a repeated flag.
    List,
    /// Several texts that have commas in them: as a list, but separated by semicolons in a variable.
    Rules,
}

impl Shape {
    /// How a value is written, in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Url => "URL",
            Self::Path => "path",
            Self::Flag => "true, false",
            Self::Count => "number",
            Self::Size => "size",
            Self::Rate => "size per second",
            Self::Time => "time",
            Self::Days => "days",
            Self::Secret => "text, never shown",
            Self::List => "list",
            Self::Rules => "list of rules",
        }
    }
}

/// Whether a key counts in a settings file that nobody named: one that was merely found in the working directory, which for a
/// pull request its author may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InCheckout {
    /// It counts: it says what is cached and how fast, for this job alone.
    Counts,
    /// Only `true` counts: it limits the job, and a checkout may not lift a limit.
    OnlyTrue,
    /// It is ignored, and reported: it says where caches are kept, whose they are, or who is trusted.
    Ignored,
}

/// When another value of a daemon's key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesEffect {
    /// At a reload, for what comes next.
    AtReload,
    /// At the next start.
    AtRestart,
}

/// The flag of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Its name, without dashes.
    pub long: &'static str,
    /// A letter that stands for it.
    pub short: Option<char>,
    /// What help calls its value; `None`: what all values of that shape are called.
    pub value: Option<&'static str>,
    /// The commands that take it; empty: all, or a program without commands.
    pub commands: &'static [&'static str],
    /// Shown by `--help`, not by `-h`.
    pub is_advanced: bool,
}

impl Flag {
    /// A flag that every command takes.
    pub const fn new(long: &'static str) -> Self {
        Self {
            long,
            short: None,
            value: None,
            commands: &[],
            is_advanced: false,
        }
    }

    /// The same for these commands only.
    #[must_use]
    pub const fn of(mut self, commands: &'static [&'static str]) -> Self {
        self.commands = commands;
        self
    }

    /// The same with a letter.
    #[must_use]
    pub const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// The same with a name for its value.
    #[must_use]
    pub const fn value(mut self, name: &'static str) -> Self {
        self.value = Some(name);
        self
    }

    /// The same, shown by `--help` only.
    #[must_use]
    pub const fn advanced(mut self) -> Self {
        self.is_advanced = true;
        self
    }
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Name in the file; the part before a dot is its table.
    pub name: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// The flag, if there is one.
    pub flag: Option<Flag>,
    /// What holds without it, in words.
    pub default: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// What its variables start with; the first that is set counts.
    pub prefixes: &'static [&'static str],
    /// Whether it counts in a file that was merely found in the working directory.
    pub in_checkout: InCheckout,
    /// When another value counts; that of a command counts at its next start.
    pub takes_effect: TakesEffect,
}

impl Key {
    /// A key without flag of a program that runs once.
    pub(super) const fn of_command(
        name: &'static str,
        shape: Shape,
        in_checkout: InCheckout,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Self {
            name,
            shape,
            flag: None,
            default,
            about,
            prefixes: &[],
            in_checkout,
            takes_effect: TakesEffect::AtRestart,
        }
    }

    /// A key without flag of a daemon, whose file is not looked for in a checkout.
    pub(super) const fn of_daemon(
        name: &'static str,
        shape: Shape,
        takes_effect: TakesEffect,
        default: &'static str,
        about: &'static str,
    ) -> Self {
        Self {
            takes_effect,
            ..Self::of_command(name, shape, InCheckout::Ignored, default, about)
        }
    }

    /// The same key of a command, for a daemon that shares it: without its flag, and not out of a checkout.
    pub(super) fn for_daemon(self) -> Self {
        Self {
            flag: None,
            in_checkout: InCheckout::Ignored,
            ..self
        }
    }

    /// The same with a flag.
    pub(super) const fn with_flag(mut self, flag: Flag) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Its own environment variable: the CLI's `s3.storage_class` is `CACHECTL_S3_STORAGE_CLASS`.
    pub fn env(&self) -> String {
        self.variables().next().unwrap_or_default()
    }

    /// Every variable that sets it; an earlier one wins.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        let name = self.name.replace('.', "_").to_uppercase();
        self.prefixes.iter().map(move |p| format!("{p}{name}"))
    }
}

/// The settings of one program.
#[derive(Debug)]
pub struct Table {
    /// What its own variables start with.
    pub prefix: &'static str,
    /// The variable that names the settings file; not a key, since the file cannot say where it is.
    pub config_variable: &'static str,
    /// The variable that makes a file in the working directory count as one that was named, where that is looked for; not a
    /// key, since the file must not say so itself.
    pub trust_variable: Option<&'static str>,
    /// Variables that start like ours and are none.
    pub not_ours: &'static [&'static str],
    /// Where all keys can be looked up: completes a sentence.
    pub lookup: &'static str,
    /// Where all variables can be looked up.
    pub document: &'static str,
    /// The keys, in the order in which they are shown.
    pub keys: fn() -> &'static [Key],
}

impl Table {
    /// All keys, in the order in which they are shown.
    pub fn keys(&self) -> &'static [Key] {
        (self.keys)()
    }

    /// The key of that name.
    pub fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys().iter().find(|k| k.name == name)
    }

    /// The key of that variable, which starts with the table's own prefix.
    pub fn find_env(&self, variable: &str) -> Option<&'static Key> {
        self.keys().iter().find(|k| k.env() == variable)
    }

    /// Returns true if keys of that table of the file (`s3.`) exist.
    pub fn has_group(&self, prefix: &str) -> bool {
        self.keys().iter().any(|k| k.name.starts_with(prefix))
    }

    /// The key that somebody meant who wrote `wrong`.
    pub fn nearest_key(&self, wrong: &str) -> Option<&'static str> {
        // Who forgot the table meant the key in it.
        nearest(wrong, self.keys().iter().map(|k| k.name)).or_else(|| {
            let short = |k: &&Key| k.name.split_once('.').is_some_and(|(_, s)| s == wrong);
            self.keys().iter().find(short).map(|k| k.name)
        })
    }

    /// The variable that is most like `wrong`, if one is: what somebody may have meant who set that.
    pub fn nearest_env(&self, wrong: &str) -> Option<String> {
        let names = self.bare_variables();
        let found = nearest(self.bare(wrong), names.iter().map(String::as_str))?;
        Some(format!("{}{found}", self.prefix))
    }

    /// The variable that was meant by whoever set `wrong`, where that can hardly be another program's.
    ///
    /// Such a variable ends the command: whoever wrote `READ_ONYL` or `READ_ONLY_MODE` must not find out by what an untrusted job
    /// wrote. Everything else is only warned of, since it ends no build what a pipeline calls its own things: the checksum, bucket
    /// and region that the program is downloaded with, the job. So what counts is:
    /// - one of our names mistyped ([`is_slip`]);
    /// - more around one of our names of several words, which no other program has by chance. Not if it ends in a word for
    ///   something that one has and does not switch on: `READ_ONLY_TOKEN` is a token, and no job was made read-only by it.
    pub fn meant_env(&self, wrong: &str) -> Option<String> {
        const CREDENTIALS: [&str; 5] = ["_TOKEN", "_SECRET", "_PASSWORD", "_USER", "_KEY"];
        let names = self.bare_variables();
        let wrong = self.bare(wrong);
        let slips = names.iter().filter(|name| is_slip(wrong, name));
        let found = nearest(wrong, slips.map(String::as_str)).or_else(|| {
            if CREDENTIALS.iter().any(|word| wrong.ends_with(word)) {
                return None;
            }
            let joined = |name: &str| name.replace('_', "").to_ascii_uppercase();
            let mut of_words = names.iter().filter(|name| name.contains('_'));
            let meant = of_words.find(|name| joined(wrong).contains(&joined(name)));
            meant.map(String::as_str)
        })?;
        Some(format!("{}{found}", self.prefix))
    }

    /// All variables without the prefix, which would make everything look near.
    fn bare_variables(&self) -> Vec<String> {
        let own = self.keys().iter().map(Key::env);
        own.chain([self.config_variable.to_owned()])
            .chain(self.trust_variable.map(str::to_owned))
            .map(|v| self.bare(&v).to_owned())
            .collect()
    }

    fn bare<'a>(&self, variable: &'a str) -> &'a str {
        variable.strip_prefix(self.prefix).unwrap_or(variable)
    }

    /// Returns true if a variable that starts with our prefix is none of our settings and no mistake either.
    ///
    /// Kubernetes gives every pod `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT` and so on for each service of its namespace
    /// ("Accessing the Service", environment variables): a service called like the program must not end builds.
    pub fn is_foreign(&self, variable: &str) -> bool {
        if self.not_ours.contains(&variable) {
            return true;
        }
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let variable = format!(
            "_{}",
            variable.strip_prefix(self.prefix).unwrap_or_default()
        );
        if variable.ends_with("_SERVICE_HOST")
            || variable.ends_with("_PORT")
            || variable.contains("_SERVICE_PORT_")
        {
            return true;
        }
        // …_PORT_5000_TCP, …_PORT_5000_TCP_ADDR
        variable.rsplit_once("_PORT_").is_some_and(|(_, rest)| {
            let mut parts = rest.split('_');
            digits(parts.next().unwrap_or_default())
                && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
                && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
        })
    }
}
