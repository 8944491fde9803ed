//! Arguments and help. The flags of settings come from their table.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command as Clap, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{Layer, flags, keys::TABLE, table::Flag};

/// Carries build caches between CI nodes: Go's build and module caches, and any folder.
///
/// `import` restores a cache at the start of a job, `export` stores its new content at the end. Caches live in a
/// folder, an S3 bucket or an OCI registry. A cache problem never fails a build: it is a miss, reported in one
/// line.
#[derive(Debug, Parser)]
#[command(
    name = "cachectl",
    version,
    max_term_width = 100,
    propagate_version = true,
    after_help = "Exit codes: 0 success or a miss, 1 failure, 2 invalid command line or setting, 3 miss with --require-hit, 70 internal error.",
    after_long_help = "\
Examples:
  cachectl import go && go build ./... && cachectl export go
  cachectl export go --store 's3://ci-cache/go?region=eu-central-1'
  cachectl env    # what was detected, and what would be done

Settings come from cachectl.toml, then CACHECTL_* variables, then flags; later ones win.

Exit codes:
  0   success; also a miss or a cache problem, unless --strict or --require-hit
  1   failure
  2   invalid command line or setting
  3   miss, with --require-hit
  70  internal error
  130, 143  terminated by SIGINT, SIGTERM"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store the new content of a cache under its name.
    #[command(after_long_help = "\
Examples:
  cachectl export go    # both caches of Go, named after the main module
  cachectl export go --store s3://ci-cache
  cachectl export dir out gen --name app    # two folders: app/out, app/gen
  cachectl export dir .cache --name lint --merge --exclude '*.tmp'

  KEY=$(sha256sum package-lock.json | cut -c1-16)
  cachectl export dir node_modules --name web --key \"$KEY\"

An unchanged cache writes nothing. The output `digest` is added to $GITHUB_OUTPUT if that is set.")]
    Export(Export),
    /// Restore a cache; fetches only what this node lacks.
    #[command(after_long_help = "\
Examples:
  cachectl import go
  cachectl import go --require-hit    # exit code 3 on a miss
  cachectl import dir out --name app --digest sha256:4f1c…

  KEY=$(sha256sum package-lock.json | cut -c1-16)
  cachectl import dir node_modules --name web --key \"$KEY\" --mirror

The outputs `cache-hit` (true only for the requested key), `cache-matched-key` and `digest` are added to $GITHUB_OUTPUT if that is set.")]
    Import(Import),
    /// List the contents of the store.
    #[command(alias = "list")]
    Ls(Ls),
    /// Show the contents of a name, pack by pack.
    Inspect(Inspect),
    /// Check that names can be imported.
    Verify(Verify),
    /// Copy names, with everything they need, from store to store.
    Copy(Copy),
    /// Delete a name; a later `prune` frees its blobs.
    Rm(Rm),
    /// Delete old names, then blobs that nothing needs.
    Prune(Prune),
    /// Show disk usage by name.
    Du(Du),
    /// Show a daemon's version, listeners and upload queue.
    Status(Status),
    /// Make a daemon upload its queued writes now.
    Flush(Flush),
    /// Print the Buildx builder configuration for a daemon, or create the builder.
    #[command(after_long_help = "\
Examples:
  cachectl buildx-setup    # for a daemon at 127.0.0.1:5000
  cachectl buildx-setup --address 10.0.0.7:5000    # for one on another node
  cachectl buildx-setup --run --use    # creates it, as the current builder

The usual builder is a container, in which 127.0.0.1 is not this node's. For a daemon on this node the builder gets the node's network; for a daemon elsewhere, the daemon's address. Its configuration says where to use plain http.")]
    BuildxSetup(BuildxSetup),
    /// Show what was detected, what would be done, and the origin of each setting.
    Env(Env),
    /// Print a completion script for a shell.
    #[command(after_help = "Example: cachectl completions bash > /etc/bash_completion.d/cachectl")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page of cachectl, or of one command.
    #[command(after_help = "Example: cachectl man export | man -l -")]
    Man {
        /// A command such as `export`.
        command: Option<String>,
    },
    /// Print the version, as `--version` does.
    #[command(hide = true)]
    Version,
}

/// Which caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// Go's build and module caches: gobuild and gomod.
    Go,
    /// Go's build cache, GOCACHE.
    Gobuild,
    /// Go's module cache, GOMODCACHE.
    Gomod,
    /// Folders.
    Dir,
}

#[derive(Debug, Args)]
#[command(next_display_order = AFTER_SETTINGS)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Keep stored files that this folder does not have (folders only; Go caches are always merged).
    #[arg(long)]
    pub(crate) merge: bool,
    /// Export a folder even if it is empty, or everything in it is left out; it replaces the stored one.
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Write everything again as one complete archive, which `tar --zstd` can extract.
    #[arg(long)]
    pub(crate) flatten: bool,
    /// Replace everything stored under the name by this cache: after a poisoned or broken export. Start from an empty cache.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
#[command(next_display_order = AFTER_SETTINGS)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Import exactly this snapshot, ignoring name, key and scope.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Option<String>,
    /// Delete files that are not in the snapshot.
    #[arg(long)]
    pub(crate) mirror: bool,
    /// What to check against its hash.
    #[arg(long, value_name = "WHAT", default_value = "contents")]
    pub(crate) verify: Verified,
}

/// What an import checks against its hash.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Verified {
    /// What is read from the store, and the contents of the restored files.
    Contents,
    /// What is read from the store.
    Frames,
}

impl From<Verified> for crate::ops::restore::Verify {
    fn from(what: Verified) -> Self {
        match what {
            Verified::Contents => Self::Contents,
            Verified::Frames => Self::Frames,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Which caches.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: Source,
    /// Folders, for `dir`; several are stored as separate snapshots NAME/BASENAME.
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only this name or tag; REPO:TAG in repositories other than `cachectl`.
    pub(crate) name: Option<String>,
    /// Also show the tags.
    #[arg(long)]
    pub(crate) wide: bool,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

/// Which repositories are meant.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Only repositories that match, such as 'team/**'; may be repeated [default: all]
    #[arg(long = "repository", value_name = "GLOB")]
    pub(crate) repositories: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A name, a tag or a digest; REPO:TAG in repositories other than `cachectl`.
    pub(crate) name: String,
    /// Also list the entries.
    #[arg(long)]
    pub(crate) files: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --digests or --data, manifests and tables of contents are read, and every pack and blob must exist with the right size."
)]
pub(crate) struct Verify {
    /// A name, a tag (REPO:TAG in repositories other than `cachectl`) or a digest [default: everything]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Also hash every pack and blob.
    #[arg(long, conflicts_with = "data")]
    pub(crate) digests: bool,
    /// Also decode and hash every byte of every entry.
    #[arg(long)]
    pub(crate) data: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// URL of the store to read.
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// URL of the store to write.
    #[arg(value_name = "TO")]
    pub(crate) to: String,
    /// Only this name, tag or digest.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Which process copies [default: the daemon if one side is a daemon and the other is s3:// or oci://, else this process]
    #[arg(long, value_enum)]
    pub(crate) by: Option<By>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

/// Which process copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// This process, with its credentials; all bytes pass through it.
    Here,
    /// The daemon that is FROM or TO, else the configured one, with its own credentials; folders are on its machine.
    Daemon,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// A name or a tag; REPO:TAG in repositories other than `cachectl`.
    pub(crate) name: String,
    /// Delete only caches of this scope [default: all scopes]
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Delete only this key; `--key ''` selects the cache without a key [default: all keys]
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Delete only caches of this kind [default: all kinds]
    #[arg(long, value_name = "KIND", value_parser = ["gobuild", "gomod", "dir"])]
    pub(crate) kind: Option<String>,
    /// Delete without asking (cachectl asks on a terminal only).
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show what would be deleted; delete nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(next_display_order = AFTER_SETTINGS, after_help = "\
Examples:
  cachectl prune --max-age 14d --dry-run
  cachectl prune --max-size 50GB --keep 3
  cachectl prune --max-age 30d --repository 'team/**'
  cachectl prune --max-age 7d --now --daemon /run/cachectld.sock  # disk full

In repository `cachectl`, only cachectl snapshots are deleted; in other repositories, any tag.

Blobs are freed in two runs: one marks blobs that nothing needs, and one at least --grace later deletes them. With --now, one run does both; this needs a `disk:` or `oci-layout:` store, used directly or by a daemon that is its only user. In a registry only names are deleted: it collects its blobs itself.")]
pub(crate) struct Prune {
    /// Free the space in this run, without a grace time; requests to a daemon wait meanwhile.
    #[arg(long, conflicts_with = "prune.grace")]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Show what would be deleted; delete nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "OWN is what deleting the name would free: blobs that no other name needs. The last line also says what deleting all listed names would free."
)]
pub(crate) struct Du {
    /// Only this name or tag; REPO:TAG in repositories other than `cachectl`.
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

#[derive(Debug, Args)]
pub(crate) struct Status {}

#[derive(Debug, Args)]
#[command(
    after_help = "Example, before a node is shut down:\n  cachectl flush --wait --budget 2m --daemon /run/cachectld.sock"
)]
pub(crate) struct Flush {
    /// Wait until everything queued now is uploaded; exit code 1 if that fails.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BuildxSetup {
    /// Where builders reach the daemon's registry API [default: as reported by the daemon, else 127.0.0.1:5000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// The daemon uses TLS at that address.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Name of the builder.
    #[arg(long, default_value = "cachectl")]
    pub(crate) builder: String,
    /// Make it the current builder.
    #[arg(long = "use")]
    pub(crate) make_current: bool,
    /// Create the builder, instead of printing how to.
    #[arg(long)]
    pub(crate) run: bool,
}

#[derive(Debug, Args)]
#[command(next_display_order = AFTER_SETTINGS)]
pub(crate) struct Env {
    /// Show only settings that are set, not the defaults.
    #[arg(long)]
    pub(crate) changed: bool,
    /// Check that the store can be reached and read; exit code 1 if not.
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = EVERYWHERE, next_display_order = AFTER_STORES)]
pub(crate) struct Global {
    /// Settings file; all its keys take effect [default: $XDG_CONFIG_HOME/cachectl/cachectl.toml, overridden by
    /// ./cachectl.toml, which may set only some keys]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON object on standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only warnings and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log more to standard error (-v info, -vv debug, -vvv trace).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Heading of the flags that every command takes.
const EVERYWHERE: &str = "Everywhere";
/// Between two flags of settings in a command's help; other flags of every command stand behind `--store` and `--daemon`.
const STEP: usize = 10;
const AFTER_STORES: usize = STEP + 1;
/// The display order of a command's flags that are not settings; `--help` has 999.
const AFTER_SETTINGS: usize = 50 * STEP;

/// The command line with the flags of settings.
pub(crate) fn command() -> Clap {
    let everywhere = flags::args(&TABLE, |flag| flag.commands.is_empty());
    let mut root = Cli::command().args(in_order(everywhere).map(|arg| {
        let arg = arg.global(true);
        arg.help_heading(EVERYWHERE)
    }));
    for command in root.get_subcommands_mut() {
        let name = command.get_name().to_owned();
        let own = flags::args(&TABLE, |flag| flag.commands.contains(&&*name));
        *command = std::mem::take(command).args(in_order(own));
    }
    root
}

fn in_order(args: impl Iterator<Item = clap::Arg>) -> impl Iterator<Item = clap::Arg> {
    let numbered = args.enumerate();
    numbered.map(|(at, arg)| arg.display_order(at * STEP))
}

/// The settings given by the flags of a command line.
pub(crate) fn layer(matches: &ArgMatches) -> Layer {
    let Some((name, own)) = matches.subcommand() else {
        return Layer::default();
    };
    let is_taken = |flag: &Flag| flag.commands.is_empty() || flag.commands.contains(&name);
    flags::layer(&TABLE, own, is_taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    /// Flags that are not settings: they control only this run.
    const OF_ONE_RUN: [&str; 32] = [
        "allow-empty",
        "changed",
        "check",
        "config",
        "json",
        "quiet",
        "verbose",
        "merge",
        "flatten",
        "digest",
        "mirror",
        "verify",
        "files",
        "digests",
        "data",
        "dry-run",
        "help",
        "version",
        "name",
        "by",
        "wait",
        "address",
        "tls",
        "builder",
        "use",
        "run",
        "repository",
        "replace",
        "wide",
        "kind",
        "yes",
        "now",
    ];

    #[test]
    fn arguments_are_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_is_a_setting_or_of_one_run_and_every_key_with_a_flag_has_it() {
        let mut root = command();
        root.build();
        let mut flags: Vec<String> = root
            .get_subcommands()
            .flat_map(|c| {
                c.get_arguments()
                    .filter_map(|a| a.get_long())
                    .map(str::to_owned)
            })
            .collect();
        flags.sort();
        flags.dedup();
        let settings: Vec<&str> = KEYS.iter().filter_map(|k| Some(k.flag?.long)).collect();
        for flag in flags.iter().map(String::as_str) {
            let known = OF_ONE_RUN.contains(&flag) || settings.contains(&flag);
            assert!(known, "--{flag} is neither");
        }
        for flag in settings {
            assert!(flags.iter().any(|f| f == flag), "--{flag} does not exist");
        }
    }

    #[test]
    fn a_flag_is_only_that_of_commands_that_exist() {
        let root = Cli::command();
        for flag in KEYS.iter().filter_map(|k| k.flag) {
            for command in flag.commands {
                assert!(root.find_subcommand(command).is_some(), "{command}");
            }
        }
    }

    #[test]
    fn every_flag_reaches_its_key() {
        let layer = |line: &str| layer(&command().get_matches_from(line.split(' ')));
        let global = "--store a --daemon d --read-only --budget b --stall c --connect-timeout d --retry-for e -j 2 --concurrency 3 --bandwidth 4 --ca-bundle f";
        let source =
            "--name n --key k --scope s --exclude x --exclude y --xattrs --owner=false --strict";
        let export = layer(&format!(
            "cachectl export dir p {source} --max-age 1 --max-size 2 --level 5 {global}"
        ));
        let import = layer(&format!(
            "cachectl {global} import go {source} --restore-key r --require-hit"
        ));
        let prune = layer("cachectl prune --max-age 1d --max-size 2 --keep 3 --grace 0");
        for key in KEYS.iter().filter(|k| k.flag.is_some()) {
            let found = [&export, &import, &prune]
                .iter()
                .any(|l| l.get(key.name).is_some());
            assert!(found, "{}", key.name);
        }
        assert_eq!(import.count("jobs").unwrap(), Some(2));
        assert_eq!(export.list("exclude"), ["x", "y"]);
        assert_eq!(export.flag("owner").unwrap(), Some(false));
        assert_eq!(export.flag("strict").unwrap(), Some(true));
    }
}
