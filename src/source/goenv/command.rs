//! One run of `go env -json`, with a timeout.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::Lookup;
use crate::backoff::Backoff;

/// Longest output that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Interval between checks whether it has ended.
const LOOKS: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(10));

/// Requested settings that a variable can change.
const SETTINGS: &[&str] = &[
    "CC",
    "CGO_ENABLED",
    "GO386",
    "GOAMD64",
    "GOARCH",
    "GOARM",
    "GOARM64",
    "GOCACHE",
    "GOENV",
    "GOEXPERIMENT",
    "GOFLAGS",
    "GOMIPS",
    "GOMIPS64",
    "GOMODCACHE",
    "GOOS",
    "GOPPC64",
    "GORISCV64",
    "GOROOT",
    "GOSUMDB",
    "GOWASM",
    "GOWORK",
];

/// Other requested settings. Without a list, `go env` runs the C compiler for `GOGCCFLAGS` and writes the result into the build
/// cache, with the time: no export would ever be unchanged (`cmd/go/internal/envcmd`).
const ASKED_TOO: &[&str] = &["GOMOD", "GOVERSION"];

/// Other variables that affect the output.
const HEEDED_TOO: &[&str] = &[
    "PATH",
    "HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "CXX",
    "CGO_CFLAGS",
    "CGO_LDFLAGS",
    "GO111MODULE",
    "GOPATH",
    "GOPROXY",
];

/// Runs `go env -json` in `dir`; returns what it wrote.
///
/// Its output goes to files, not pipes: a grandchild that outlives it could hold a pipe open forever.
///
/// # Errors
/// A message: the command does not exist, it failed (with its stderr), or it took longer than `timeout` (and was killed).
pub(super) fn run(
    go: &OsStr,
    dir: &Path,
    lookup: Lookup<'_>,
    timeout: Duration,
) -> Result<Vec<u8>, String> {
    let name = go.to_string_lossy();
    let spool = || {
        tempfile::tempfile()
            .map_err(|e| format!("cannot create a temporary file for `{name} env`: {e}"))
    };
    let clone = |f: &File| {
        f.try_clone()
            .map_err(|e| format!("cannot duplicate a file handle for `{name} env`: {e}"))
    };
    let (out, err) = (spool()?, spool()?);
    let mut command = Command::new(go);
    command
        .args(["env", "-json"])
        .args(SETTINGS)
        .args(ASKED_TOO)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(clone(&out)?)
        .stderr(clone(&err)?)
        // A separate process group, so that a compiler it started is killed with it.
        .process_group(0);
    // Variables that affect the output come from the caller's lookup, not from this process; all others are passed on.
    for var in SETTINGS.iter().chain(HEEDED_TOO) {
        match lookup(var) {
            Some(value) => command.env(var, value),
            None => command.env_remove(var),
        };
    }
    command.env("GOTOOLCHAIN", "local");
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if dir.is_dir() => format!("there is no `{name}` in PATH"),
        _ => format!("cannot start `{name} env` in `{}`: {e}", dir.display()),
    })?;
    let status = wait(&mut child, timeout)
        .map_err(|e| format!("cannot wait for `{name} env`: {e}"))?
        .ok_or_else(|| format!("`{name} env` gave no answer within {timeout:?} and was stopped"))?;
    if !status.success() {
        let said = read(err).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said: String = said.trim().chars().take(2000).collect();
        return Err(format!("`{name} env` failed ({status}): {said}"));
    }
    read(out).map_err(|e| format!("cannot read the answer of `{name} env`: {e}"))
}

/// Waits for the child's end; `None` after a timeout: the child and its group have been killed then.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<Option<ExitStatus>> {
    let end = Instant::now() + timeout;
    let mut looks = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            if let Some(group) = rustix::process::Pid::from_raw(child.id() as i32) {
                // It may have just ended; then there is nothing to kill.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOKS.pause(looks));
        looks += 1;
    }
}

fn read(mut file: File) -> std::io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsString, os::unix::fs::PermissionsExt as _};

    fn script(text: &str) -> (tempfile::TempDir, OsString) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("go");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (temp, path.into())
    }

    fn lookup(name: &str) -> Option<OsString> {
        (name == "PATH").then(|| "/usr/bin:/bin".into())
    }

    #[test]
    fn a_command_that_hangs_is_stopped_with_what_it_started() {
        let (temp, go) = script("sleep 60 & echo $! >pid; wait");
        // On a loaded machine the command may take its time to begin.
        let pid: i32 = [1, 5, 25]
            .into_iter()
            .find_map(|secs| {
                let e = run(&go, temp.path(), &lookup, Duration::from_secs(secs)).unwrap_err();
                assert!(e.contains("no answer within"), "{e}");
                let pid = std::fs::read_to_string(temp.path().join("pid")).ok()?;
                pid.trim().parse().ok()
            })
            .unwrap();
        // It is dead as soon as it runs again, which may take a moment.
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z")
        };
        // For ever, if it was not stopped.
        while runs() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_failure_tells_what_the_command_said() {
        let (temp, go) = script("echo 'bad GOFLAGS' >&2; exit 3");
        let e = run(&go, temp.path(), &lookup, Duration::from_secs(20)).unwrap_err();
        assert!(e.contains("bad GOFLAGS") && e.contains('3'), "{e}");
    }

    #[test]
    fn variables_come_from_the_lookup_only() {
        let (temp, go) = script("echo \"$GOFLAGS|$HOME|$GOTOOLCHAIN\"");
        let lookup = |name: &str| match name {
            "PATH" => Some("/usr/bin:/bin".into()),
            "GOFLAGS" => Some("-trimpath".into()),
            _ => None,
        };
        let out = run(&go, temp.path(), &lookup, Duration::from_secs(20)).unwrap();
        assert_eq!(out, b"-trimpath||local\n");
    }

    #[test]
    fn absence_is_told_in_words() {
        let temp = tempfile::tempdir().unwrap();
        let e = run(
            OsStr::new("go-that-is-not-there"),
            temp.path(),
            &lookup,
            Duration::from_secs(1),
        )
        .unwrap_err();
        assert!(e.contains("in PATH"), "{e}");
    }
}
