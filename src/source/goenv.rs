//! Folders and settings of the `go` command, from one `go env -json`; without it, the documented defaults.

mod command;
pub mod modfile;

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::source::{Error, Result};
use command::run;

/// How long `go env` may take: its only slow step is one start of the C compiler.
pub const GO_ENV_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks up a variable of the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The source of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// The `go` command.
    GoCommand,
    /// The documented defaults, with the reason why the command was not used.
    Defaults(String),
}

/// Go's folders and settings in one project folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoEnv {
    /// The build cache, absolute.
    pub gocache: PathBuf,
    /// The module cache, absolute.
    pub gomodcache: PathBuf,
    /// The release that builds this project (`go1.26.8`), considering the toolchain that its `go.mod` requires; empty if unknown.
    pub goversion: String,
    /// Target operating system; empty if unknown.
    pub goos: String,
    /// Target processor; empty if unknown.
    pub goarch: String,
    /// The level of that processor: `GOAMD64`, `GOARM` … with its value (`GOAMD64=v1`); empty if it has none.
    pub microarch: String,
    /// Flags for every command.
    pub goflags: String,
    /// Where Go is installed; empty if unknown.
    pub goroot: PathBuf,
    /// The module file of the project, if there is one.
    pub gomod: Option<PathBuf>,
    /// The workspace file of the project, if there is one.
    pub gowork: Option<PathBuf>,
    /// Whether C is compiled too.
    pub cgo_enabled: bool,
    /// The C compiler, as set.
    pub cc: String,
    /// Experiments of the toolchain.
    pub goexperiment: String,
    /// The checksum database; empty if unknown.
    pub gosumdb: String,
    /// Where these values come from.
    pub source: From,
}

impl GoEnv {
    /// Asks the `go` command in `PATH`, in the folder `project`; falls back to the defaults if there is none or it fails.
    ///
    /// All variables that Go reads come from `lookup`. `GOTOOLCHAIN` is `local` for this call, so that nothing is downloaded; the
    /// toolchain that Go would use is determined from the project's files. Blocks for at most `timeout`.
    ///
    /// # Errors
    /// When the build cache is off, or a folder is not absolute or not known.
    pub fn detect(project: &Path, lookup: Lookup<'_>, timeout: Duration) -> Result<Self> {
        match run(OsStr::new("go"), project, lookup, timeout)
            .and_then(|json| Self::from_json(&json, lookup))
        {
            Ok(env) => env.checked(),
            Err(why) => Self::defaults(project, lookup, why),
        }
    }

    /// The values without a `go` command (`go help environment`; `cmd/go/internal/cache/default.go`,
    /// `cmd/go/internal/cfg/cfg.go`).
    ///
    /// # Errors
    /// As [`GoEnv::detect`].
    pub fn defaults(project: &Path, lookup: Lookup<'_>, why: String) -> Result<Self> {
        let get = |name: &str| lookup(name).filter(|v| !v.is_empty());
        let home = || {
            get("HOME").map(PathBuf::from).ok_or_else(|| {
                Error::Invalid("HOME is not set: set GOCACHE and GOMODCACHE, or HOME".into())
            })
        };
        let gocache = match get("GOCACHE") {
            Some(dir) => dir.into(),
            None => match get("XDG_CACHE_HOME") {
                Some(dir) => PathBuf::from(dir),
                None => home()?.join(".cache"),
            }
            .join("go-build"),
        };
        let gomodcache = match get("GOMODCACHE") {
            Some(dir) => dir.into(),
            None => match get("GOPATH").and_then(|p| std::env::split_paths(&p).next()) {
                Some(first) if !first.as_os_str().is_empty() => first,
                _ => home()?.join("go"),
            }
            .join("pkg/mod"),
        };
        let text = |name: &str| get(name).map(|v| v.to_string_lossy().into_owned());
        let goarch = text("GOARCH").unwrap_or_default();
        let microarch = microarch_of(&goarch, |name| text(name).unwrap_or_default());
        Self {
            gocache,
            gomodcache,
            goversion: String::new(),
            goos: text("GOOS").unwrap_or_default(),
            goarch,
            microarch,
            goflags: text("GOFLAGS").unwrap_or_default(),
            goroot: get("GOROOT").map(PathBuf::from).unwrap_or_default(),
            gomod: find_up(project, "go.mod"),
            gowork: match text("GOWORK").as_deref() {
                Some("off") => None,
                Some(path) => Some(PathBuf::from(path)),
                None => find_up(project, "go.work"),
            },
            cgo_enabled: text("CGO_ENABLED").as_deref() != Some("0"),
            cc: text("CC").unwrap_or_default(),
            goexperiment: text("GOEXPERIMENT").unwrap_or_default(),
            gosumdb: text("GOSUMDB").unwrap_or_default(),
            source: From::Defaults(why),
        }
        .checked()
    }

    /// One line for the user if the command was not used.
    pub fn warning(&self) -> Option<String> {
        match &self.source {
            From::GoCommand => None,
            From::Defaults(why) => Some(format!(
                "{why}; using Go's documented folders: GOCACHE={}, GOMODCACHE={}",
                self.gocache.display(),
                self.gomodcache.display()
            )),
        }
    }

    /// Returns true if paths are trimmed from build results: the last `-trimpath` in `GOFLAGS` counts.
    pub fn trimpath(&self) -> bool {
        self.goflags
            .split_ascii_whitespace()
            .filter_map(|f| flag(f, "trimpath"))
            .next_back()
            .is_some_and(|v| !matches!(v, "=false" | "=0" | "=f" | "=F" | "=FALSE" | "=False"))
    }

    fn from_json(json: &[u8], lookup: Lookup<'_>) -> std::result::Result<Self, String> {
        let vars: std::collections::BTreeMap<String, String> = serde_json::from_slice(json)
            .map_err(|e| format!("the output of `go env -json` is not JSON: {e}"))?;
        let text = |name: &str| vars.get(name).cloned().unwrap_or_default();
        let must = |name: &str| {
            vars.get(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
                .ok_or_else(|| format!("`go env -json` names no {name}"))
        };
        let file = |name: &str| {
            // GOMOD is the null device if modules are enabled but there is no module.
            Some(text(name))
                .filter(|v| !v.is_empty() && v != "off" && v != "/dev/null")
                .map(PathBuf::from)
        };
        let goarch = text("GOARCH");
        // Go also reports `off` for a path that is not absolute.
        let gocache = must("GOCACHE")?;
        let written = lookup("GOCACHE").filter(|v| !v.is_empty());
        let gocache = match written {
            Some(written) if gocache.as_os_str() == "off" => written.into(),
            // The default would be below that folder.
            None if gocache.as_os_str() == "off" => match lookup("XDG_CACHE_HOME") {
                Some(dir) if Path::new(&dir).is_relative() && !dir.is_empty() => {
                    Path::new(&dir).join("go-build")
                }
                _ => gocache,
            },
            _ => gocache,
        };
        let mut env = Self {
            gocache,
            gomodcache: must("GOMODCACHE")?,
            goversion: text("GOVERSION"),
            goos: text("GOOS"),
            microarch: microarch_of(&goarch, text),
            goarch,
            goflags: text("GOFLAGS"),
            goroot: text("GOROOT").into(),
            gomod: file("GOMOD"),
            gowork: file("GOWORK"),
            cgo_enabled: text("CGO_ENABLED") == "1",
            cc: text("CC"),
            goexperiment: text("GOEXPERIMENT"),
            gosumdb: text("GOSUMDB"),
            source: From::GoCommand,
        };
        let setting = toolchain_setting(lookup, Path::new(&text("GOENV")), &env.goroot);
        env.goversion = modfile::toolchain(&env, &setting);
        Ok(env)
    }

    fn checked(self) -> Result<Self> {
        for (name, dir, from) in [
            ("GOCACHE", &self.gocache, " (by GOCACHE or XDG_CACHE_HOME)"),
            ("GOMODCACHE", &self.gomodcache, ""),
        ] {
            if name == "GOCACHE" && dir.as_os_str() == "off" {
                return Err(Error::Invalid(
                    "the Go build cache is off (GOCACHE=off): unset GOCACHE".into(),
                ));
            }
            if !dir.is_absolute() {
                return Err(Error::Invalid(format!(
                    "{name} is not an absolute path: `{}`{from}; Go refuses it too",
                    dir.display()
                )));
            }
        }
        Ok(self)
    }
}

/// The rest of `word` if it is the flag `-name` or `--name`: empty, or `=value`.
pub(super) fn flag<'a>(word: &'a str, name: &str) -> Option<&'a str> {
    let rest = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    let rest = rest.strip_prefix(name)?;
    (rest.is_empty() || rest.starts_with('=')).then_some(rest)
}

/// The variable that sets the level of a processor, with its value.
fn microarch_of(goarch: &str, value: impl Fn(&str) -> String) -> String {
    let name = match goarch {
        "386" => "GO386",
        "amd64" => "GOAMD64",
        "arm" => "GOARM",
        "arm64" => "GOARM64",
        "mips" | "mipsle" => "GOMIPS",
        "mips64" | "mips64le" => "GOMIPS64",
        "ppc64" | "ppc64le" => "GOPPC64",
        "riscv64" => "GORISCV64",
        "wasm" => "GOWASM",
        _ => return String::new(),
    };
    match value(name) {
        v if v.is_empty() => String::new(),
        v => format!("{name}={v}"),
    }
}

/// `GOTOOLCHAIN` as set by the user: environment, then Go's own settings file, then the one shipped with Go (`cfg.Getenv`).
fn toolchain_setting(lookup: Lookup<'_>, goenv: &Path, goroot: &Path) -> String {
    if let Some(v) = lookup("GOTOOLCHAIN").filter(|v| !v.is_empty()) {
        return v.to_string_lossy().into_owned();
    }
    [goenv.to_path_buf(), goroot.join("go.env")]
        .iter()
        .filter(|p| p.is_absolute())
        .find_map(|p| {
            let bytes = crate::fs::read_if_there(p, 1 << 20).ok()??;
            String::from_utf8_lossy(&bytes)
                .lines()
                .find_map(|l| l.trim().strip_prefix("GOTOOLCHAIN=").map(str::to_owned))
        })
        .unwrap_or_default()
}

/// The nearest file with that name in `from` or a folder above it.
fn find_up(from: &Path, name: &str) -> Option<PathBuf> {
    from.ancestors()
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

#[cfg(test)]
mod tests;
