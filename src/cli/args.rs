//! Arguments and help. What is a setting too is only passed on as text: it is checked where all settings are.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Layer, Origin, Raw, keys};

/// Carries build caches between CI nodes: Go's build and module caches, and any folder.
///
/// `import` at the start of a job puts a cache back, `export` at its end stores what is new. Caches live in a
/// folder, an S3 bucket or an OCI registry. A cache problem never fails a build: it is a miss, with one line
/// that says why.
#[derive(Debug, Parser)]
#[command(
    name = "cachectl",
    version,
    max_term_width = 100,
    propagate_version = true,
    after_help = "Exit codes: 0 done (a miss too), 1 failed, 2 usage or settings, 3 miss with --require-hit, 70 a bug in cachectl.",
    after_long_help = "\
Examples:
  cachectl import go && go build ./... && cachectl export go
  cachectl export go --store 's3://ci-cache/go?region=eu-central-1'
  cachectl env    # what cachectl found here, and what it would do

Settings come from cachectl.toml, then CACHECTL_* variables, then flags; later ones win.

Exit codes:
  0   done; also a miss or a cache problem, unless --strict or --require-hit
  1   failed
  2   invalid command line or setting
  3   a miss, with --require-hit
  70  a bug in cachectl
  130, 143  ended by SIGINT, SIGTERM"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store what is new of a cache under its name.
    #[command(after_long_help = "\
Examples:
  cachectl export go    # both caches of Go, named after the main module
  cachectl export go --store s3://ci-cache
  cachectl export dir out gen --name app    # two folders: app/out, app/gen
  cachectl export dir .cache --name lint --merge --exclude '*.tmp'

  KEY=$(sha256sum package-lock.json | cut -c1-16)
  cachectl export dir node_modules --name web --key \"$KEY\"

An unchanged cache writes nothing. The outcome `digest` is added to $GITHUB_OUTPUT where that is set.")]
    Export(Export),
    /// Put a cache back; fetches only what is not here yet.
    #[command(after_long_help = "\
Examples:
  cachectl import go
  cachectl import go --require-hit    # exit code 3 on a miss
  cachectl import dir out --name app --digest sha256:4f1c…

  KEY=$(sha256sum package-lock.json | cut -c1-16)
  cachectl import dir node_modules --name web --key \"$KEY\" --mirror

The outcomes `cache-hit` (true only for the key that was asked for), `cache-matched-key` and `digest` are added to $GITHUB_OUTPUT where that is set.")]
    Import(Import),
    /// List what the store holds.
    #[command(alias = "list")]
    Ls(Ls),
    /// Show what a name holds, pack by pack.
    Inspect(Inspect),
    /// Check that names can be imported.
    Verify(Verify),
    /// Copy names, with all they need, from store to store.
    Copy(Copy),
    /// Take a name away; its blobs go with a later `prune`.
    Rm(Rm),
    /// Take old names away, then blobs that nothing needs.
    Prune(Prune),
    /// Show what takes how much room in the store.
    Du(Du),
    /// Show what a daemon is, where it listens, and what it has still to send.
    Status(Status),
    /// Let a daemon send what waits to its remote store now.
    Flush(Flush),
    /// Print, or make, what a Buildx builder needs to reach a daemon.
    #[command(after_long_help = "\
Examples:
  cachectl buildx-setup    # for a daemon at 127.0.0.1:5000
  cachectl buildx-setup --address 10.0.0.7:5000    # for one on another node
  cachectl buildx-setup --run --use    # makes the builder the current one

The usual builder is a container: 127.0.0.1 in it is not this node's. It is given the node's network, or, where the daemon is elsewhere, its address; and told where to speak plain http.")]
    BuildxSetup(BuildxSetup),
    /// Show what cachectl found here, what it would do, and where each setting came from.
    Env(Env),
    /// Print a completion script for a shell.
    #[command(after_help = "Example: cachectl completions bash > /etc/bash_completion.d/cachectl")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of one command if it is named.
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
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Keep what the stored folder has and this one has not (for folders; Go caches are always merged).
    #[arg(long)]
    pub(crate) merge: bool,
    /// Export a folder that is empty, or empty but for what is left out; it then takes the place of what is stored.
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Write everything anew as one whole, which `tar --zstd` can extract.
    #[arg(long)]
    pub(crate) flatten: bool,
    /// Store this cache alone in place of what is stored: after a poisoned or broken export. Start from an empty cache.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Drop entries of a Go cache that were not used for so many days [default: 7d]
    #[arg(long, value_name = "DAYS")]
    max_age: Option<String>,
    /// Keep the stored packs below this size: of Go caches what was used longest ago leaves first, a folder above it is not stored
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Prefix of keys that do as well, the newest first (may be repeated, tried in order).
    #[arg(long = "restore-key", value_name = "PREFIX")]
    restore_keys: Vec<String>,
    /// Import this snapshot, whatever names say.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Option<String>,
    /// Remove what is not in the snapshot.
    #[arg(long)]
    pub(crate) mirror: bool,
    /// End with exit code 3 on a miss.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", hide_possible_values = true)]
    require_hit: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// What to carry.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: Source,
    /// Folders, with `dir`; several are stored one by one as NAME/BASENAME.
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Name of the cache [default for Go: the main module's path; folders need one]
    #[arg(long)]
    name: Option<String>,
    /// Key of the snapshot, such as a lock file's hash [default: none, the name's head]
    #[arg(long)]
    key: Option<String>,
    /// Whose cache it is [default: from the CI system, else `default`]
    #[arg(long)]
    scope: Option<String>,
    /// Leave out paths in a folder that match, relative to it: `*.o`, `/out`, `tmp/`, `a/**/b` (may be repeated).
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Carry extended attributes of a folder's files.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) xattrs: Option<String>,
    /// Carry and restore owner and group of a folder's files.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) owner: Option<String>,
    /// Treat trouble with the cache, or a partial hit, as an error (exit code 1).
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    strict: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only this name or tag; REPO:TAG in another repository than `cachectl`.
    pub(crate) name: Option<String>,
    /// Show the tags too.
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
    /// A name, a tag or a digest; REPO:TAG in another repository than `cachectl`.
    pub(crate) name: String,
    /// List the entries too.
    #[arg(long)]
    pub(crate) files: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --digests or --data: manifests, tables of contents, and that every pack and blob is there with its size."
)]
pub(crate) struct Verify {
    /// A name, a tag (REPO:TAG in another repository than `cachectl`) or a digest; without: everything.
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Hash every pack and blob too.
    #[arg(long, conflicts_with = "data")]
    pub(crate) digests: bool,
    /// Decode and hash every byte of every entry too.
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
    /// Who copies [default: a daemon that is one side, if the other is s3:// or oci://; else this process]
    #[arg(long, value_enum)]
    pub(crate) by: Option<By>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

/// Who copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// This process, with its credentials; the bytes come through here.
    Here,
    /// The daemon that is FROM or TO, or that is set, with its own credentials; folders are its machine's.
    Daemon,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// A name or a tag; REPO:TAG in another repository than `cachectl`.
    pub(crate) name: String,
    /// Delete only caches of this scope [default: all scopes]
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Delete only this key; `--key ''` is the cache without a key [default: all keys]
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Delete only caches of this kind [default: all kinds]
    #[arg(long, value_name = "KIND", value_parser = ["gobuild", "gomod", "dir"])]
    pub(crate) kind: Option<String>,
    /// Do not ask before deleting (asked on a terminal only).
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show what would be deleted; delete nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cachectl prune --max-age 14d --dry-run
  cachectl prune --max-size 50GB --keep 3
  cachectl prune --max-age 30d --repository 'team/**'
  cachectl prune --max-age 7d --now --daemon /run/cachectld.sock  # disk full

In repository `cachectl`, only cachectl snapshots are deleted; in other repositories, any tag.

Blobs are freed in two runs: one marks what nothing needs, a later one, --grace after it, deletes it. With --now one run does both: on a `disk:` or `oci-layout:` store, alone or behind a daemon that is its only user. A registry collects its own blobs: only names are deleted.")]
pub(crate) struct Prune {
    /// Names not published for so long go.
    #[arg(long, value_name = "TIME")]
    max_age: Option<String>,
    /// Oldest names go until the store is below this size.
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// So many newest keys of each name and scope stay, and so many newest tags of each other repository.
    #[arg(long, value_name = "N")]
    keep: Option<String>,
    /// Blobs go once they have been unreachable for so long [default: 24h]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Free the space in this run, without a grace time; requests to a daemon wait for a moment.
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Say what would go, remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "OWN is what the removal of the name would give back: blobs that no other name needs. The last line adds what the removal of all names shown would."
)]
pub(crate) struct Du {
    /// Only this name or tag; REPO:TAG in another repository than `cachectl`.
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
}

#[derive(Debug, Args)]
pub(crate) struct Status {}

#[derive(Debug, Args)]
#[command(
    after_help = "Example, before a node is taken away:\n  cachectl flush --wait --budget 2m --daemon /run/cachectld.sock"
)]
pub(crate) struct Flush {
    /// End when all that waits now is sent; exit code 1 if it cannot be.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BuildxSetup {
    /// Where builders reach the daemon's registry door [default: what the daemon says, else 127.0.0.1:5000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// The daemon speaks TLS there.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Name of the builder.
    #[arg(long, default_value = "cachectl")]
    pub(crate) builder: String,
    /// Make it the current builder.
    #[arg(long = "use")]
    pub(crate) make_current: bool,
    /// Run what is printed.
    #[arg(long)]
    pub(crate) run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Env {
    /// Only the settings that are set, not the defaults.
    #[arg(long)]
    pub(crate) changed: bool,
    /// Ask the store whether it can be reached and read; exit code 1 if not.
    #[arg(long)]
    pub(crate) check: bool,
    /// Name of the cache, as for `export`.
    #[arg(long)]
    name: Option<String>,
    /// Key, as for `export`.
    #[arg(long)]
    key: Option<String>,
    /// Scope, as for `export`.
    #[arg(long)]
    scope: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// Where caches are kept: disk:/path, oci-layout:/path, s3://bucket/prefix, oci://host/repository,
    /// cachectld:/socket
    /// [default: disk:$XDG_CACHE_HOME/cachectl]
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// A daemon that takes the place of the store: its socket's path, cachectld+http://host:port or
    /// cachectld+https://host
    #[arg(long, global = true, value_name = "DAEMON")]
    daemon: Option<String>,
    /// Settings file, which counts in full [default: $XDG_CONFIG_HOME/cachectl/cachectl.toml, and over it what
    /// ./cachectl.toml says of how caches are carried]
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
    /// Never write to the store: `export` does nothing, for jobs that are not trusted.
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    read_only: Option<String>,
    /// Longest time the operation may take; 0: no limit [default: 10m import, 30m export]
    #[arg(long, global = true, value_name = "TIME")]
    budget: Option<String>,
    /// Longest time without a byte before a request is given up and tried again [default: 10s]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    stall: Option<String>,
    /// Longest time to connect to a remote store [default: 5s]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    connect_timeout: Option<String>,
    /// Longest time that one request is tried again [default: 20s]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    retry_for: Option<String>,
    /// Threads that pack, hash and unpack [default: all processors]
    #[arg(short, long, global = true, value_name = "N")]
    jobs: Option<String>,
    /// Requests in flight at once [default: 16]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    concurrency: Option<String>,
    /// Bytes per second to and from the store, such as 50MB/s
    #[arg(long, global = true, value_name = "RATE", hide_short_help = true)]
    bandwidth: Option<String>,
    /// PEM file of certificate authorities to trust besides the system's.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    ca_bundle: Option<PathBuf>,
}

impl Cli {
    /// What the flags say about settings.
    pub(crate) fn layer(&self) -> Layer {
        let mut flags = Flags::default();
        let g = &self.global;
        flags.one("store", g.store.as_ref());
        flags.one("daemon", g.daemon.as_ref());
        flags.one("read_only", g.read_only.as_ref());
        flags.one("budget", g.budget.as_ref());
        flags.one("stall", g.stall.as_ref());
        flags.one("connect_timeout", g.connect_timeout.as_ref());
        flags.one("retry_for", g.retry_for.as_ref());
        flags.one("jobs", g.jobs.as_ref());
        flags.one("concurrency", g.concurrency.as_ref());
        flags.one("bandwidth", g.bandwidth.as_ref());
        let bundle = g
            .ca_bundle
            .as_ref()
            .map(|p| p.to_string_lossy().into_owned());
        flags.one("ca_bundle", bundle.as_ref());
        match &self.command {
            Command::Export(a) => {
                flags.source(&a.source);
                flags.one("max_age", a.max_age.as_ref());
                flags.one("max_size", a.max_size.as_ref());
            }
            Command::Import(a) => {
                flags.source(&a.source);
                flags.many("restore_keys", &a.restore_keys);
                flags.one("require_hit", a.require_hit.as_ref());
            }
            Command::Prune(a) => {
                flags.one("prune.max_age", a.max_age.as_ref());
                flags.one("prune.max_size", a.max_size.as_ref());
                flags.one("prune.keep", a.keep.as_ref());
                flags.one("prune.grace", a.grace.as_ref());
            }
            Command::Env(a) => {
                flags.one("name", a.name.as_ref());
                flags.one("key", a.key.as_ref());
                flags.one("scope", a.scope.as_ref());
            }
            _ => {}
        }
        flags.0
    }
}

#[derive(Default)]
struct Flags(Layer);

impl Flags {
    fn set(&mut self, name: &str, raw: Raw) {
        let key = keys::find(name).expect("every flag's key is in the table, a test sees to it");
        let flag = key.flag.expect("it has a flag, the same test sees to it");
        self.0.set(key, raw, Origin::Flag(format!("--{flag}")));
    }

    fn one(&mut self, name: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.set(name, Raw::One(value.clone()));
        }
    }

    fn many(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            self.set(name, Raw::Many(values.to_vec()));
        }
    }

    fn source(&mut self, a: &SourceArgs) {
        self.one("name", a.name.as_ref());
        self.one("key", a.key.as_ref());
        self.one("scope", a.scope.as_ref());
        self.many("exclude", &a.exclude);
        self.one("xattrs", a.xattrs.as_ref());
        self.one("owner", a.owner.as_ref());
        self.one("strict", a.strict.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Flags that are no settings: they say what this one run does.
    const OF_ONE_RUN: [&str; 31] = [
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
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_a_setting_or_of_one_run_and_every_key_with_a_flag_has_it() {
        let mut root = Cli::command();
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
        for flag in &flags {
            let known = OF_ONE_RUN.contains(&flag.as_str())
                || keys::KEYS.iter().any(|k| k.flag == Some(flag));
            assert!(known, "--{flag} is neither");
        }
        for flag in keys::KEYS.iter().filter_map(|k| k.flag) {
            assert!(flags.iter().any(|f| f == flag), "--{flag} does not exist");
        }
    }

    #[test]
    fn every_flag_reaches_its_key() {
        let layer = |line: &str| Cli::parse_from(line.split(' ')).layer();
        let global = "--store a --daemon d --read-only --budget b --stall c --connect-timeout d --retry-for e -j 2 --concurrency 3 --bandwidth 4 --ca-bundle f";
        let source =
            "--name n --key k --scope s --exclude x --exclude y --xattrs --owner=false --strict";
        let export = layer(&format!(
            "cachectl export dir p {source} --max-age 1 --max-size 2 {global}"
        ));
        let import = layer(&format!(
            "cachectl import go {source} --restore-key r --require-hit {global}"
        ));
        let prune = layer("cachectl prune --max-age 1d --max-size 2 --keep 3 --grace 0");
        for key in keys::KEYS.iter().filter(|k| k.flag.is_some()) {
            let found = [&export, &import, &prune]
                .iter()
                .any(|l| l.get(key.name).is_some());
            assert!(found, "{}", key.name);
        }
        assert_eq!(export.list("exclude"), ["x", "y"]);
        assert_eq!(export.flag("owner").unwrap(), Some(false));
        assert_eq!(export.flag("strict").unwrap(), Some(true));
    }
}
