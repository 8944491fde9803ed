//! Where a snapshot of a Go cache is usable.
//!
//! Only the Go release is a gate: Go salts every action id with it, so two releases never share an entry. Everything else affects
//! how much of a snapshot will hit, and only ranks candidates.

use crate::source::{
    Fingerprint,
    goenv::{GoEnv, flag},
};

/// Flags in `GOFLAGS` that affect action ids; others (`-mod`, `-v`, `-p` …) do not affect cached results.
const BUILD_FLAGS: &[&str] = &[
    "asan",
    "asmflags",
    "buildmode",
    "compiler",
    "cover",
    "covermode",
    "coverpkg",
    "gccgoflags",
    "gcflags",
    "installsuffix",
    "ldflags",
    "linkshared",
    "msan",
    "pgo",
    "race",
    "tags",
];

/// The fingerprint of a build cache. The locations of the project and the module cache matter too, unless paths are trimmed.
pub fn gobuild(env: &GoEnv) -> Fingerprint {
    let trimmed = env.trimpath();
    let mut flags: Vec<&str> = env
        .goflags
        .split_ascii_whitespace()
        .filter(|word| BUILD_FLAGS.iter().any(|name| flag(word, name).is_some()))
        .collect();
    flags.sort_unstable();
    let mut print = Fingerprint {
        gate: env.goversion.clone(),
        ..Fingerprint::default()
    };
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            print.traits.insert(name.to_owned(), value);
        }
    };
    put("goos", env.goos.clone());
    put("goarch", env.goarch.clone());
    put("microarch", env.microarch.clone());
    put("goexperiment", env.goexperiment.clone());
    put("goflags", flags.join(" "));
    put("cgo", if env.cgo_enabled { "yes" } else { "no" }.into());
    if env.cgo_enabled {
        put("cc", env.cc.clone());
    }
    put("trimpath", if trimmed { "yes" } else { "no" }.into());
    if !trimmed {
        let project = env.gowork.as_deref().or(env.gomod.as_deref());
        let folder = project.and_then(|p| p.parent());
        put(
            "project",
            folder.map(|p| p.display().to_string()).unwrap_or_default(),
        );
        put("gomodcache", env.gomodcache.display().to_string());
    }
    print
}

/// The fingerprint of a module cache: empty, since its content is the same for everyone.
pub fn gomod() -> Fingerprint {
    Fingerprint::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::goenv::From;

    fn env(goflags: &str) -> GoEnv {
        GoEnv {
            gocache: "/h/.cache/go-build".into(),
            gomodcache: "/h/go/pkg/mod".into(),
            goversion: "go1.26.8".into(),
            goos: "linux".into(),
            goarch: "amd64".into(),
            microarch: "GOAMD64=v1".into(),
            goflags: goflags.into(),
            goroot: "/usr/local/go".into(),
            gomod: Some("/src/app/go.mod".into()),
            gowork: None,
            cgo_enabled: true,
            cc: "gcc".into(),
            goexperiment: String::new(),
            gosumdb: "sum.golang.org".into(),
            source: From::GoCommand,
        }
    }

    #[test]
    fn the_release_alone_is_the_gate() {
        let print = gobuild(&env(""));
        assert_eq!(print.gate, "go1.26.8");
        assert_eq!(print.traits["microarch"], "GOAMD64=v1");
        assert_eq!(gomod(), Fingerprint::default());
    }

    #[test]
    fn paths_count_only_where_they_are_not_trimmed() {
        let plain = gobuild(&env(""));
        assert_eq!(plain.traits["project"], "/src/app");
        assert_eq!(plain.traits["gomodcache"], "/h/go/pkg/mod");
        let trimmed = gobuild(&env("-trimpath"));
        assert_eq!(trimmed.traits["trimpath"], "yes");
        assert!(!trimmed.traits.contains_key("project"));
    }

    #[test]
    fn flags_that_change_nothing_cached_are_left_out_and_order_does_not_count() {
        let a = gobuild(&env("-race -tags=a,b -mod=mod -buildvcs=false"));
        let b = gobuild(&env("-v --tags=a,b -race".replace("--", "-").as_str()));
        assert_eq!(a.traits["goflags"], "-race -tags=a,b");
        assert_eq!(a, b);
    }
}
