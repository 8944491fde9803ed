use super::*;
use std::collections::BTreeMap;

/// A lookup of these variables, with this process's `PATH` behind them.
fn vars(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
    let map: BTreeMap<String, OsString> = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), OsString::from(v)))
        .collect();
    move |name: &str| map.get(name).cloned()
}

fn defaults(pairs: &[(&str, &str)]) -> Result<GoEnv> {
    GoEnv::defaults(Path::new("/nowhere"), &vars(pairs), "no go".into())
}

#[test]
fn default_folders_are_those_of_the_documentation() {
    let env = defaults(&[("HOME", "/h")]).unwrap();
    assert_eq!(env.gocache, Path::new("/h/.cache/go-build"));
    assert_eq!(env.gomodcache, Path::new("/h/go/pkg/mod"));
    let env = defaults(&[
        ("HOME", "/h"),
        ("XDG_CACHE_HOME", "/x"),
        ("GOPATH", "/p1:/p2"),
    ])
    .unwrap();
    assert_eq!(env.gocache, Path::new("/x/go-build"));
    assert_eq!(env.gomodcache, Path::new("/p1/pkg/mod"));
    // An empty variable is an absent one.
    let env = defaults(&[("HOME", "/h"), ("GOCACHE", ""), ("GOMODCACHE", "/m")]).unwrap();
    assert_eq!(env.gocache, Path::new("/h/.cache/go-build"));
    assert_eq!(env.gomodcache, Path::new("/m"));
    assert!(env.warning().unwrap().contains("no go"));
}

#[test]
fn off_relative_and_homeless_are_clear_errors() {
    for (pairs, word) in [
        (&[("HOME", "/h"), ("GOCACHE", "off")][..], "GOCACHE=off"),
        (&[("HOME", "/h"), ("GOCACHE", "rel/cache")], "rel/cache"),
        (
            &[("HOME", "/h"), ("XDG_CACHE_HOME", "rel")],
            "XDG_CACHE_HOME",
        ),
        (&[("HOME", "/h"), ("GOMODCACHE", "mod")], "GOMODCACHE"),
        (&[], "HOME"),
    ] {
        let e = defaults(pairs).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    }
}

#[test]
fn trimpath_is_read_from_the_flags_and_the_last_wins() {
    for (flags, want) in [
        ("", false),
        ("-trimpath", true),
        ("-mod=mod --trimpath=true", true),
        ("-trimpath -trimpath=false", false),
        ("-trimpath=0", false),
        ("-trimpathological", false),
    ] {
        let env = defaults(&[("HOME", "/h"), ("GOFLAGS", flags)]).unwrap();
        assert_eq!(env.trimpath(), want, "{flags}");
    }
}

#[test]
fn without_a_go_command_the_defaults_hold_with_a_warning() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("go.mod"), "module example.com/m\n").unwrap();
    let sub = temp.path().join("a/b");
    std::fs::create_dir_all(&sub).unwrap();
    let lookup = vars(&[("HOME", "/h"), ("PATH", "/nonexistent")]);
    let env = GoEnv::detect(&sub, &lookup, GO_ENV_TIMEOUT).unwrap();
    assert!(matches!(&env.source, From::Defaults(why) if why.contains("PATH")));
    assert_eq!(env.gomod, Some(temp.path().join("go.mod")));
    assert_eq!(
        modfile::default_name(&env).as_deref(),
        Some("example.com/m")
    );
}

/// `PATH` of this machine, for tests that run the real command.
fn path() -> String {
    "/usr/local/go/bin:/usr/bin:/bin:/usr/lib/go/bin".into()
}

fn go_is_here() -> bool {
    std::env::split_paths(&path()).any(|d| d.join("go").is_file())
}

#[test]
fn the_real_command_is_asked_with_the_given_environment() {
    if !go_is_here() {
        return crate::source::cannot_show("what go does: there is no go command");
    }
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().to_str().unwrap().to_owned();
    std::fs::write(
        temp.path().join("go.mod"),
        "module \"example.com/real\"\n\ngo 1.20\n",
    )
    .unwrap();
    let lookup = vars(&[
        ("PATH", &path()),
        ("HOME", &home),
        ("GOFLAGS", "-trimpath -tags=x"),
        ("GOAMD64", "v3"),
        ("GOARCH", "amd64"),
        ("GOOS", "linux"),
    ]);
    let env = GoEnv::detect(temp.path(), &lookup, GO_ENV_TIMEOUT).unwrap();
    assert_eq!(env.source, From::GoCommand);
    assert_eq!(env.gocache, temp.path().join(".cache/go-build"));
    assert_eq!(env.gomodcache, temp.path().join("go/pkg/mod"));
    assert!(env.goversion.starts_with("go1."), "{}", env.goversion);
    assert_eq!(env.microarch, "GOAMD64=v3");
    assert!(env.trimpath());
    assert_eq!(
        modfile::default_name(&env).as_deref(),
        Some("example.com/real")
    );
    assert!(env.warning().is_none());

    let off = vars(&[("PATH", &path()), ("HOME", &home), ("GOCACHE", "off")]);
    let e = GoEnv::detect(temp.path(), &off, GO_ENV_TIMEOUT).unwrap_err();
    assert!(e.to_string().contains("GOCACHE=off"), "{e}");
    // Go calls that off, too.
    let relative = vars(&[
        ("PATH", &path()),
        ("HOME", &home),
        ("XDG_CACHE_HOME", "rel"),
    ]);
    let e = GoEnv::detect(temp.path(), &relative, GO_ENV_TIMEOUT).unwrap_err();
    assert!(e.to_string().contains("`rel/go-build`"), "{e}");
    let relative = vars(&[("PATH", &path()), ("HOME", &home), ("GOCACHE", "rel/x")]);
    let e = GoEnv::detect(temp.path(), &relative, GO_ENV_TIMEOUT).unwrap_err();
    assert!(
        e.to_string().contains("not an absolute path: `rel/x`"),
        "{e}"
    );
}

#[test]
fn the_toolchain_that_the_project_asks_for_counts_unless_switching_is_off() {
    let temp = tempfile::tempdir().unwrap();
    let gomod = temp.path().join("go.mod");
    let with = |text: &str, setting: &str| {
        std::fs::write(&gomod, text).unwrap();
        let mut env = defaults(&[("HOME", "/h")]).unwrap();
        env.gomod = Some(gomod.clone());
        env.goversion = "go1.26.8".into();
        modfile::toolchain(&env, setting)
    };
    let newer = "module m\ngo 1.27\ntoolchain go1.27.3\n";
    assert_eq!(with(newer, "local"), "go1.26.8");
    assert_eq!(with(newer, "auto"), "go1.27.3");
    assert_eq!(with(newer, "go1.25.1+auto"), "go1.27.3");
    assert_eq!(with(newer, "go1.25.1"), "go1.25.1");
    assert_eq!(with("module m\ngo 1.27\n", "auto"), "go1.27.0");
    assert_eq!(
        with("module m\ngo 1.20\ntoolchain go1.21.1\n", "auto"),
        "go1.26.8"
    );
    assert_eq!(
        with("module m\ngo 1.27\ntoolchain default\n", "auto"),
        "go1.26.8"
    );
}

#[test]
fn a_workspace_is_named_after_its_first_module_and_sums_come_from_all() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for (dir, module) in [("a", "example.com/a"), ("b", "example.com/b")] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
        std::fs::write(root.join(dir).join("go.mod"), format!("module {module}\n")).unwrap();
    }
    std::fs::write(
        root.join("go.work"),
        "go 1.26\nuse (\n\t./a // first\n\t\"./b\"\n)\n",
    )
    .unwrap();
    let mut env = defaults(&[("HOME", "/h")]).unwrap();
    env.gowork = Some(root.join("go.work"));
    env.gomod = Some(root.join("b/go.mod"));
    assert_eq!(
        modfile::default_name(&env).as_deref(),
        Some("example.com/a")
    );
    let sums = modfile::sum_files(&env);
    for file in ["go.work.sum", "a/go.sum", "b/go.sum"] {
        let want = root.join(file);
        assert!(
            sums.iter().any(|s| s.components().eq(want.components())),
            "{file} is not in {sums:?}"
        );
    }
}
