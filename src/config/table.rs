//! The elements of a list of settings: keys and their formats; looking up names, and detecting wrong ones.

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
    /// A whole number of at least 1.
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
    /// Several texts that contain commas: like a list, but separated by semicolons in a variable.
    Rules,
}

/// The shapes of values, by the methods of [`Layer`](super::Layer) that read them.
#[expect(non_upper_case_globals, reason = "they are named like the methods")]
pub(super) mod shape_of {
    use super::Shape;

    pub(in crate::config) const text: Shape = Shape::Text;
    pub(in crate::config) const url: Shape = Shape::Url;
    pub(in crate::config) const secret: Shape = Shape::Secret;
    pub(in crate::config) const path: Shape = Shape::Path;
    pub(in crate::config) const flag: Shape = Shape::Flag;
    pub(in crate::config) const count: Shape = Shape::Count;
    pub(in crate::config) const size: Shape = Shape::Size;
    pub(in crate::config) const rate: Shape = Shape::Rate;
    pub(in crate::config) const duration: Shape = Shape::Time;
    pub(in crate::config) const nonzero_duration: Shape = Shape::Time;
    pub(in crate::config) const days: Shape = Shape::Days;
    pub(in crate::config) const list: Shape = Shape::List;
}

impl Shape {
    /// A description of how a value is written.
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

/// Whether a key takes effect in a settings file that was not named explicitly but only found in the working directory, where the
/// author of a pull request may have written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InCheckout {
    /// It takes effect: it controls what is cached and how fast, for this job only.
    Counts,
    /// Only `true` takes effect: it restricts the job, and a checkout may not lift a restriction.
    OnlyTrue,
    /// It is ignored, and reported: it controls where caches are stored, whose they are, or who is trusted.
    Ignored,
}

/// When a changed value of a daemon's key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesEffect {
    /// At a reload, for new requests.
    AtReload,
    /// At the next start.
    AtRestart,
}

/// The flag of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Its name, without dashes.
    pub long: &'static str,
    /// Its short form.
    pub short: Option<char>,
    /// The name of its value in help; `None`: the default name for that shape.
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
    /// A description of its default.
    pub default: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Prefixes of its variables; the first that is set is used.
    pub prefixes: &'static [&'static str],
    /// Whether it takes effect in a file that was only found in the working directory.
    pub in_checkout: InCheckout,
    /// When a changed value takes effect; for a command that is its next start.
    pub takes_effect: TakesEffect,
}

impl Key {
    /// A key without a flag, of a program that runs once.
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

    /// A key without a flag, of a daemon, whose file is not searched in a checkout.
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

    /// A command's key, for a daemon that shares it: without its flag, and ignored in a checkout.
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
    /// Prefix of its own variables.
    pub prefix: &'static str,
    /// The variable that names the settings file; not a key, since the file cannot say where it is.
    pub config_variable: &'static str,
    /// The variable that makes a file in the working directory count like a named one, if that folder is searched; not a key,
    /// since the file must not declare itself trusted.
    pub trust_variable: Option<&'static str>,
    /// Variables with our prefix that are not settings.
    pub not_ours: &'static [&'static str],
    /// Where all keys can be looked up; the end of a sentence.
    pub lookup: &'static str,
    /// Where all variables can be looked up.
    pub document: &'static str,
    /// The keys, in display order.
    pub keys: fn() -> &'static [Key],
}

impl Table {
    /// All keys, in display order.
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

    /// The most likely key for the mistyped `wrong`.
    pub fn nearest_key(&self, wrong: &str) -> Option<&'static str> {
        // If the table was forgotten, suggest the key in it.
        nearest(wrong, self.keys().iter().map(|k| k.name)).or_else(|| {
            let short = |k: &&Key| k.name.split_once('.').is_some_and(|(_, s)| s == wrong);
            self.keys().iter().find(short).map(|k| k.name)
        })
    }

    /// The variable most similar to `wrong`, if any: a possible correction.
    pub fn nearest_env(&self, wrong: &str) -> Option<String> {
        let names = self.bare_variables();
        let found = nearest(self.bare(wrong), names.iter().map(String::as_str))?;
        Some(format!("{}{found}", self.prefix))
    }

    /// The setting that was probably meant by the variable `wrong`, if it is unlikely to belong to another program.
    ///
    /// Such a variable makes the command fail: a user who wrote `READ_ONYL` or `READ_ONLY_MODE` must not learn about the mistake
    /// from data that an untrusted job has written. Other variables only cause a warning: a pipeline's own variable names (the
    /// checksum, bucket and region for downloading the program, the job) must not fail a build. The candidates are:
    /// - a mistyped name of ours ([`is_slip`]);
    /// - a longer name that contains one of our names of several words, which no other program contains by chance. Except if it
    ///   ends in a word for a thing rather than a switch: `READ_ONLY_TOKEN` is a token, and was not meant to make a job
    ///   read-only.
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

    /// All variables without the prefix, which would make all names look similar.
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

    /// Returns true if a variable with our prefix is neither a setting nor a mistake.
    ///
    /// Kubernetes sets `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT` and so on in every pod for each service of its namespace
    /// ("Accessing the Service", environment variables): a service named like the program must not fail builds.
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
