//! Finds programs and settings of the machine that the tests run on.
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// A variable of the environment that the tests themselves run in.
#[expect(
    clippy::disallowed_methods,
    reason = "tests have no configuration; this is their one place that reads the environment"
)]
pub(crate) fn setting(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Prints a line that `cargo test` shows even for a test that passes.
pub(crate) fn say(line: &str) {
    use std::io::Write as _;
    // The test runner captures `eprintln!`, not this handle; one write, so that lines of parallel tests do not mix.
    let thread = std::thread::current();
    let text = format!("{}: {line}\n", thread.name().unwrap_or("test"));
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// Says that a test shows nothing on this machine. In CI that is a failure, unless `TESTS_MAY_SKIP=1` allows it there: nobody reads
/// the lines of tests that pass.
pub(crate) fn cannot_show(what: &str) {
    let is_set = |name: &str| setting(name).is_some_and(|value| !value.is_empty());
    say(&format!("skipped: cannot show {what}"));
    assert!(
        !is_set("CI") || is_set("TESTS_MAY_SKIP"),
        "cannot show {what}; TESTS_MAY_SKIP=1 allows that"
    );
}

/// The folder that `tests/tools/install` fills.
pub(crate) fn folder() -> PathBuf {
    if let Some(set) = setting("CACHECTL_TOOLS") {
        return set.into();
    }
    let cache = setting("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(setting("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    cache.join("cachectl-tools")
}

/// A program installed by `make deps`.
pub(crate) fn installed(program: &str) -> PathBuf {
    find(&format!("bin/{program}"), "make deps")
}

/// A program built by `make deps-e2e`.
pub(crate) fn built(program: &str) -> PathBuf {
    find(&format!("bin/{program}"), "make deps-e2e")
}

/// A library to preload, installed by `make deps`.
pub(crate) fn library(file: &str) -> PathBuf {
    find(&format!("lib/{file}"), "make deps")
}

fn find(place: &str, target: &str) -> PathBuf {
    let path = folder().join(place);
    assert!(
        path.exists(),
        "{} is missing: run `{target}`",
        path.display()
    );
    path
}

/// Runs a program of the machine to its end and returns its standard output; panics with everything it said otherwise.
pub(crate) fn output_of(command: &mut Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("programs of the machine answer in UTF-8")
}
