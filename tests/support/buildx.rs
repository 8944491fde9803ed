//! Buildx, standing alone, with the remote driver: the command that most people export and import caches with.
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::buildkit::Builder;
use super::door::Door;
use super::project::Project;
use super::scratch::Scratch;
use super::tools;

/// A Buildx configuration that knows one builder.
#[derive(Debug)]
pub(crate) struct Buildx {
    dir: Scratch,
    door: std::path::PathBuf,
}

/// What one build did, by the names of its instructions.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) cached: Vec<String>,
    pub(crate) executed: Vec<String>,
    pub(crate) digest: Option<String>,
}

impl Buildx {
    const NAME: &str = "tests";

    pub(crate) fn new(builder: &Builder, door: &Door) -> Self {
        let buildx = Self {
            dir: Scratch::new("buildx"),
            door: door.docker_config(),
        };
        let mut create = buildx.command();
        create.args(["create", "--name", Self::NAME, "--driver", "remote"]);
        tools::output_of(create.arg(builder.address()));
        buildx
    }

    /// Builds the project's last stage into an OCI layout, with more arguments; fails the test if the build fails.
    pub(crate) fn build(&self, project: &Project, more: &[&str]) -> Done {
        let place = |name: &str| self.dir.path().join(name).display().to_string();
        let image = format!("type=oci,tar=false,dest={}", place("image"));
        let mut build = self.command();
        build.args(["build", "--builder", Self::NAME, "--progress=rawjson"]);
        // An attestation carries the time of the build, and so would the image's digest.
        build.args(["--provenance=false", "--output", &image]);
        build.args(["--metadata-file", &place("metadata.json")]);
        build.args(more).arg(project.path());
        let out = build.output().expect("buildx starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{build:?}: {}\n{said}", out.status);
        let mut done = Done::default();
        let mut steps = super::buildkit::Progress::default();
        let lines = said
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.for_each(|status: Value| steps.take(&status));
        for step in steps.steps() {
            if step.is_instruction() {
                let list = if step.cached {
                    &mut done.cached
                } else {
                    &mut done.executed
                };
                list.push(step.name);
            }
        }
        let metadata = fs::read(self.dir.path().join("metadata.json")).expect("buildx writes it");
        let metadata: Value = serde_json::from_slice(&metadata).expect("buildx writes JSON");
        done.digest = metadata["containerimage.digest"]
            .as_str()
            .map(str::to_owned);
        done
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tools::built("buildx"));
        command.env("BUILDX_CONFIG", self.dir.path());
        command.env("DOCKER_CONFIG", &self.door);
        command
    }
}
