//! The process's environment as it was at the start, so that nothing else reads it and tests can supply a map.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::store::net::{self, Proxies};

/// Variables of CI systems that mark their jobs, besides `CI`, which not all of them set or pass into containers.
const CI_MARKS: [&str; 14] = [
    "APPVEYOR",
    "BITBUCKET_BUILD_NUMBER",
    "BUILDKITE",
    "CIRCLECI",
    "CIRRUS_CI",
    "CI_PIPELINE_FORGE_URL",
    "CODEBUILD_BUILD_ID",
    "DRONE",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "JENKINS_URL",
    "TEAMCITY_VERSION",
    "TF_BUILD",
    "TRAVIS",
];

/// A captured environment. An empty variable counts as not set, since CI systems pass missing inputs that way.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<OsString, OsString>);

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .map(|(k, v)| if is_ours(&k) { (k, trimmed(v)) } else { (k, v) })
                .filter(|(_, v)| !v.is_empty())
                .collect(),
        )
    }
}

/// Returns true if a variable has the prefix of our programs.
fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"CACHECTL")
}

/// The value without surrounding white space: a pasted secret, or the content of a file, often ends with a line break.
fn trimmed(value: OsString) -> OsString {
    match value.to_str() {
        Some(text) => text.trim().into(),
        None => value,
    }
}

impl Env {
    /// The variable's text; also `None` if it is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.os(name)?.to_str()
    }

    /// The proxies, from variables in upper or lower case; invalid ones are ignored, as in other HTTP clients.
    pub fn proxies(&self) -> Proxies {
        let first = |names: [&'static str; 4]| {
            let mut set = names.into_iter().filter(|name| self.os(name).is_some());
            set.find(|name| self.get(name).is_some_and(net::can_be_proxy))
        };
        let rules = self.get("NO_PROXY").or_else(|| self.get("no_proxy"));
        Proxies {
            http: first(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https: first(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            no_proxy: rules.map(str::to_owned),
        }
    }

    /// Proxy variables with invalid values, which HTTP clients ignore silently.
    pub fn unfit_proxies(&self) -> impl Iterator<Item = &'static str> {
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
        let all = names.into_iter().chain(["ALL_PROXY", "all_proxy"]);
        all.filter(|name| self.get(name).is_some_and(|text| !net::can_be_proxy(text)))
    }

    /// The raw variable.
    pub fn os(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// The variable as a path, if it is an absolute one: the XDG specification ignores others.
    pub fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.os(name).map(PathBuf::from).filter(|p| p.is_absolute())
    }

    /// Returns true if the variable is on: set, and not `0` or `false`.
    pub fn is_on(&self, name: &str) -> bool {
        self.os(name)
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }

    /// Returns true if this is a job of some CI system.
    pub fn is_ci(&self) -> bool {
        self.is_on("CI") || CI_MARKS.iter().any(|mark| self.is_on(mark))
    }

    /// Names that start with `prefix`, sorted.
    pub fn names_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a OsStr> {
        self.0
            .keys()
            .map(OsString::as_os_str)
            .filter(move |k| k.as_encoded_bytes().starts_with(prefix.as_bytes()))
    }

    /// `$<name>`, else `$HOME/<below>`, without `cachectl` added; the XDG base directories.
    fn base(&self, name: &str, below: &str) -> Option<PathBuf> {
        self.absolute(name)
            .or_else(|| Some(self.absolute("HOME")?.join(below)))
    }

    /// Cachectl's cache folder: `$XDG_CACHE_HOME/cachectl`.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        Some(self.base("XDG_CACHE_HOME", ".cache")?.join("cachectl"))
    }

    /// Cachectl's settings folder: `$XDG_CONFIG_HOME/cachectl`.
    pub fn config_dir(&self) -> Option<PathBuf> {
        Some(self.base("XDG_CONFIG_HOME", ".config")?.join("cachectl"))
    }

    /// Cachectl's folder for node indexes: `$XDG_STATE_HOME/cachectl`.
    pub fn state_dir(&self) -> Option<PathBuf> {
        Some(
            self.base("XDG_STATE_HOME", ".local/state")?
                .join("cachectl"),
        )
    }

    /// Folder for spools: `$TMPDIR`, else `/var/tmp`, which, unlike `/tmp`, is rarely in memory.
    pub fn temp_dir(&self) -> PathBuf {
        self.absolute("TMPDIR").unwrap_or_else(|| {
            let big = Path::new("/var/tmp");
            if big.is_dir() { big } else { Path::new("/tmp") }.to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_our_variables_is_none_of_theirs() {
        let env: Env = [
            ("CACHECTL_STORE", " disk:/a b\r\n"),
            ("CACHECTLD_STORE", "disk:/a\n"),
            ("CACHECTL_KEY", "\n"),
            ("GOFLAGS", " -v\n"),
        ]
        .into_iter()
        .collect();
        assert_eq!(env.get("CACHECTL_STORE"), Some("disk:/a b"));
        assert_eq!(env.get("CACHECTLD_STORE"), Some("disk:/a"));
        assert_eq!(env.get("CACHECTL_KEY"), None);
        assert_eq!(env.get("GOFLAGS"), Some(" -v\n"));
    }
}
