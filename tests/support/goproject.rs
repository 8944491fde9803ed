//! Real Go projects, and how much of one a build really compiled.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::node::Node;
use super::scratch::Scratch;
use super::tools::output_of;

/// A Go checkout. Builds use `-trimpath`, so it may lie anywhere.
#[derive(Debug)]
pub(crate) struct GoProject {
    dir: Scratch,
    package: &'static str,
}

/// What one build did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Build {
    pub(crate) compiled: usize,
    pub(crate) elapsed: Duration,
}

impl GoProject {
    /// A module whose `tool` line pulls in the oras client: 315 packages with `unsafe`, which is never compiled.
    pub(crate) fn oras() -> Self {
        let dir = Scratch::new("oras");
        let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/oras");
        for file in ["go.mod", "go.sum"] {
            fs::copy(pinned.join(file), dir.path().join(file)).expect("a file of this repository");
        }
        Self {
            dir,
            package: "oras.land/oras/cmd/oras",
        }
    }

    /// The same client as the main module, to be edited: its source copied out of `node`'s module cache.
    pub(crate) fn oras_source(node: &Node) -> Self {
        let outer = Self::oras();
        outer.download(node);
        let from = output_of(node.go(outer.path()).args([
            "list",
            "-m",
            "-f",
            "{{.Dir}}",
            "oras.land/oras",
        ]));
        let dir = Scratch::new("oras-source");
        let mut copy = node.command("cp");
        output_of(
            copy.arg("-r")
                .arg("--no-preserve=mode")
                .arg(format!("{}/.", from.trim()))
                .arg(dir.path()),
        );
        Self {
            dir,
            package: "./cmd/oras",
        }
    }

    /// A main package with one small dependency: for a quick look, not for figures.
    pub(crate) fn small() -> Self {
        let dir = Scratch::new("small");
        let write =
            |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a new file");
        write(
            "go.mod",
            "module example.invalid/small\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n",
        );
        write(
            "go.sum",
            "github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\n\
             github.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
        );
        write(
            "main.go",
            "package main\n\nimport \"github.com/google/uuid\"\n\nfunc main() { println(uuid.New().String()) }\n",
        );
        Self { dir, package: "." }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// How many packages a build on a node with an empty cache compiles.
    pub(crate) fn packages(&self, node: &Node) -> usize {
        let list = output_of(node.go(self.path()).args(["list", "-deps", self.package]));
        // `unsafe` is known to the compiler and never compiled.
        list.lines().filter(|package| *package != "unsafe").count()
    }

    /// Fetches every module of the build list: a build alone would leave some out.
    pub(crate) fn download(&self, node: &Node) {
        output_of(node.go(self.path()).args(["mod", "download", "all"]));
    }

    /// Builds the program on `node` and counts the packages that went through the compiler.
    pub(crate) fn build(&self, node: &Node) -> Build {
        self.build_with(node, &[])
    }

    /// Builds with more environment, for example `GOPROXY=off`.
    pub(crate) fn build_with(&self, node: &Node, env: &[(&str, &str)]) -> Build {
        let began = Instant::now();
        let mut command = node.go(self.path());
        command
            .args(["build", "-x", "-trimpath", "-o"])
            .arg(node.path("program"))
            .arg(self.package);
        command.envs(env.iter().copied());
        let out = command.output().expect("go is on PATH");
        let trace = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "{command:?}: {}\n{}",
            out.status,
            last_lines(&trace)
        );
        // `-x` prints one line for each run of the compiler, and none for a package that the cache had.
        let compiled = trace
            .lines()
            .filter(|line| line.contains("/compile -o "))
            .count();
        Build {
            compiled,
            elapsed: began.elapsed(),
        }
    }

    /// `go mod verify`, offline: every module's zip and tree still have the hashes that were noted.
    pub(crate) fn verify_modules_offline(&self, node: &Node) {
        let said = output_of(
            node.go(self.path())
                .env("GOPROXY", "off")
                .args(["mod", "verify"]),
        );
        assert_eq!(said.trim(), "all modules verified");
    }

    /// Appends a function to `file`, as an edit does that changes what the package compiles to.
    pub(crate) fn edit(&self, file: &str, mark: u32) {
        let path: PathBuf = self.path().join(file);
        let text = fs::read_to_string(&path).expect("a file of the project");
        let text = format!(
            "{text}\n// Edited{mark} stands for a day's work.\nfunc Edited{mark}() int {{ return {mark} }}\n"
        );
        fs::write(&path, text).expect("the copy is writable");
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
