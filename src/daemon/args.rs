//! The command line: a flag for each key of the settings table that has one, and a few flags that are not settings.

use std::path::PathBuf;

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
    value_parser,
};
use clap_complete::Shell;

use super::error::{Error, Result as DaemonResult};
use crate::config::{Layer, daemon::TABLE, flags};

/// Output about the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manual {
    Completions(Shell),
    Page,
}

impl Manual {
    /// The text to print.
    pub(super) fn text(self) -> DaemonResult<String> {
        let mut command = command();
        let mut text = Vec::new();
        match self {
            Self::Completions(shell) => {
                clap_complete::generate(shell, &mut command, "cachectld", &mut text);
            }
            Self::Page => crate::manual::page(command, &mut text)
                .map_err(|e| Error::failed(format!("cannot write the page: {e}")))?,
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// The parsed command line.
#[derive(Debug)]
pub(super) struct Args {
    /// The settings file, if one was given.
    pub(super) config: Option<PathBuf>,
    /// Only check the settings.
    pub(super) check: bool,
    /// Log all settings at startup.
    pub(super) verbose: bool,
    /// Only print something about the command line.
    pub(super) manual: Option<Manual>,
    /// Settings given as flags.
    pub(super) layer: Layer,
}

const ABOUT: &str = "Serves build caches to BuildKit, docker and other clients of OCI registries, from a folder or a bucket.";

const LONG_ABOUT: &str = "\
Serves build caches to BuildKit, docker and other clients of OCI registries, from a folder or a bucket.

Without any setting it keeps everything in $XDG_CACHE_HOME/cachectl and serves clients on this machine, at 127.0.0.1:5000 and at a unix socket. A build then uses it as a registry:

  docker buildx build \\
    --cache-to type=registry,ref=127.0.0.1:5000/app:cache,mode=max \\
    --cache-from type=registry,ref=127.0.0.1:5000/app:cache .";

const AFTER: &str = "\
Settings come from cachectld.toml, then CACHECTLD_* variables, then flags; later ones win. docs/cachectld-config.md lists the settings without a flag.

Examples:
  cachectld
  cachectld --store s3://ci-cache/daemon --front /var/cache/cachectld
  cachectld --listen 127.0.0.1:0 --socket none
  cachectld --listen 0.0.0.0:5000 --tls-cert c.pem --tls-key k.pem
  cachectld --check-config    # all settings, and the store
  cachectld --man | man -l -

Signals:
  HUP        reload settings, users and certificates, unless one is invalid
  TERM, INT  finish requests in progress, then exit; a second one: exit at once

Exit codes:
  0         stopped by a signal, all requests and uploads finished
  1         could not start, or could not finish within drain_timeout
  2         invalid command line or setting
  70        internal error
  130, 143  terminated by a second SIGINT, SIGTERM";

fn command() -> Command {
    Command::new("cachectld")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_long_help(AFTER)
        .max_term_width(100)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Settings file [default: $XDG_CONFIG_HOME/cachectl/cachectld.toml, else /etc/cachectl/cachectld.toml]"),
        )
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .help("Check the settings, the files that they name and whether the store is reachable; print the settings, and exit"),
        )
        .arg(
            Arg::new("verbose")
                .short('v')
                .long("verbose")
                .action(ArgAction::SetTrue)
                .help("Log every setting and its origin at startup"),
        )
        .arg(
            Arg::new("completions")
                .long("completions")
                .value_name("SHELL")
                .value_parser(value_parser!(Shell))
                .help("Print a completion script, and exit"),
        )
        .arg(
            Arg::new("man")
                .long("man")
                .action(ArgAction::SetTrue)
                .conflicts_with("completions")
                .help("Print the manual page, and exit"),
        )
        .args(flags::args(&TABLE, |_| true))
}

impl Args {
    /// Parses the command line of this process.
    ///
    /// # Errors
    /// The text to show instead: help, the version, or the mistake.
    pub(super) fn parse(
        line: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<Self, clap::Error> {
        let matches = command().try_get_matches_from(line).map_err(explained)?;
        Ok(Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            check: matches.get_flag("check-config"),
            verbose: matches.get_flag("verbose"),
            manual: match matches.get_one::<Shell>("completions") {
                Some(shell) => Some(Manual::Completions(*shell)),
                None => matches.get_flag("man").then_some(Manual::Page),
            },
            layer: flags::layer(&TABLE, &matches, |_| true),
        })
    }
}

/// Adds a tip to a mistake if the flag is what other servers call the listen address.
fn explained(mut e: clap::Error) -> clap::Error {
    let names = ["--port", "-p", "--addr", "--address", "--bind", "--host"];
    let is_address = matches!(
        e.get(ContextKind::InvalidArg),
        Some(ContextValue::String(flag)) if names.contains(&&**flag)
    );
    if e.kind() == ErrorKind::UnknownArgument && is_address {
        e.remove(ContextKind::SuggestedArg);
        let tip = "give the address as `--listen HOST:PORT`".into();
        e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn arguments_are_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn help_is_broken_into_lines_once_and_examples_can_be_pasted() {
        let texts = [LONG_ABOUT, AFTER];
        for paragraph in texts.iter().flat_map(|text| text.split("\n\n")) {
            let lines: Vec<&str> = paragraph.lines().collect();
            let rest = lines.iter().skip(1);
            assert!(
                lines.len() == 1
                    || rest.clone().all(|l| l.starts_with("  "))
                        && lines.iter().all(|l| l.len() <= 80),
                "{paragraph}"
            );
        }
    }

    #[test]
    fn flags_reach_their_keys() {
        let args = parse(
            "cachectld --store disk:/a --listen 127.0.0.1:1 --listen [::1]:1 --allow-path --insecure-no-auth=false --state /s --check-config",
        )
        .unwrap();
        assert!(args.check);
        assert_eq!(args.layer.list("listen"), ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(args.layer.flag("allow_path").unwrap(), Some(true));
        assert_eq!(
            args.layer.flag("auth.insecure_no_auth").unwrap(),
            Some(false)
        );
        let (_, origin) = args.layer.get("state_dir").unwrap();
        assert_eq!(origin.to_string(), "--state");
    }

    #[test]
    fn a_flag_given_twice_that_takes_one_value_is_refused() {
        assert!(parse("cachectld --store a --store b").is_err());
        assert!(parse("cachectld extra").is_err());
        let port = parse("cachectld --port 5000").unwrap_err().to_string();
        assert!(
            port.contains("tip: ") && port.contains("--listen"),
            "{port}"
        );
    }
}
