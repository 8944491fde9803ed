//! Real builders: a buildkitd each, with a root and a socket of its own, driven by buildctl.
//!
//! Source: moby/buildkit `docs/buildkitd.toml.md`; `client.SolveStatus` is what `--progress=rawjson` prints line by line.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;

use super::door::Door;
use super::process::{Server, contained};
use super::project::Project;
use super::scratch::Scratch;
use super::tools;
use super::tree;

/// One buildkitd. What it has cached goes with it.
#[derive(Debug)]
pub(crate) struct Builder {
    server: Server,
    docker_config: PathBuf,
}

impl Builder {
    /// A builder with empty state that reaches `door` by plain HTTP and knows its password.
    pub(crate) fn new(door: &Door) -> Self {
        Self::with(&[door.port], door.docker_config())
    }

    /// The same for several loopback ports, such as proxies of one door.
    pub(crate) fn with(ports: &[u16], docker_config: PathBuf) -> Self {
        let dir = Scratch::new("buildkitd");
        let socket = dir.short().join("socket");
        let mut config = vec![
            format!("root = \"{}\"", dir.path().join("root").display()),
            "[grpc]".to_owned(),
            format!("address = [\"unix://{}\"]", socket.display()),
            "[worker.oci]\nnetworkMode = \"host\"".to_owned(),
            "[worker.containerd]\nenabled = false".to_owned(),
        ];
        let http = |port| format!("[registry.\"127.0.0.1:{port}\"]\nhttp = true");
        config.extend(ports.iter().map(http));
        let file = dir.path().join("buildkitd.toml");
        fs::write(&file, config.join("\n")).expect("a new file");
        let mut command = contained(&tools::built("buildkitd"));
        command.arg("--config").arg(file);
        // Its default is one path for the whole machine, and builders that start at once remove each other's socket.
        command
            .arg("--otel-socket-path")
            .arg(dir.short().join("otel"));
        command.env("PATH", path_with_tools());
        let server = Server::start("buildkitd", dir, &command, || {
            UnixStream::connect(&socket).is_ok()
        });
        Self {
            server,
            docker_config,
        }
    }

    /// Where clients of it connect.
    pub(crate) fn address(&self) -> String {
        format!(
            "unix://{}",
            self.server.short_dir().join("socket").display()
        )
    }

    /// A build of the project's last stage for this machine's platform, put together.
    pub(crate) fn build(&self, project: &Project) -> Build<'_> {
        let out = Scratch::new("built");
        let context = project.path().display();
        let mut command = self.buildctl();
        command.args(["build", "--progress=rawjson", "--frontend=dockerfile.v0"]);
        command.arg(format!("--local=context={context}"));
        command.arg(format!("--local=dockerfile={context}"));
        command
            .arg("--metadata-file")
            .arg(out.path().join("metadata.json"));
        Build {
            builder: self,
            command,
            out,
            compression: "gzip",
            output: true,
        }
    }

    /// Forgets everything that it has cached.
    pub(crate) fn prune(&self) {
        tools::output_of(self.buildctl().args(["prune", "--all"]));
    }

    fn buildctl(&self) -> Command {
        let mut command = Command::new(tools::built("buildctl"));
        command.args(["--addr", &self.address()]);
        command.env("DOCKER_CONFIG", &self.docker_config);
        command
    }
}

/// `PATH` with the tools before everything else: builders and engines look for `runc` there.
pub(super) fn path_with_tools() -> OsString {
    let mut path = tools::folder().join("bin").into_os_string();
    path.push(":");
    path.push(tools::setting("PATH").expect("PATH is set"));
    path
}

/// A build that is being put together.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    builder: &'a Builder,
    command: Command,
    out: Scratch,
    compression: &'static str,
    output: bool,
}

impl<'a> Build<'a> {
    pub(crate) fn target(mut self, stage: &str) -> Self {
        self.command.arg(format!("--opt=target={stage}"));
        self
    }

    pub(crate) fn platform(mut self, platform: &str) -> Self {
        self.command.arg(format!("--opt=platform={platform}"));
        self
    }

    /// `--export-cache`, as `type=registry,ref=…,mode=max`.
    pub(crate) fn export(mut self, cache: impl AsRef<str>) -> Self {
        let cache = cache.as_ref();
        self.command.arg(format!("--export-cache={cache}"));
        self
    }

    /// `--import-cache`, as `type=registry,ref=…`.
    pub(crate) fn import(mut self, cache: impl AsRef<str>) -> Self {
        let cache = cache.as_ref();
        self.command.arg(format!("--import-cache={cache}"));
        self
    }

    /// Of the layers that this build makes. A cache export takes the output's layers as they are, whatever it was told.
    pub(crate) fn compression(mut self, name: &'static str) -> Self {
        self.compression = name;
        self
    }

    /// Pushes the image too.
    pub(crate) fn push(mut self, name: &str) -> Self {
        self.command
            .arg(format!("--output=type=image,push=true,name={name}"));
        self
    }

    /// Makes no image, so that layers that are in a cache need not be fetched.
    pub(crate) fn without_output(mut self) -> Self {
        self.output = false;
        self
    }

    /// Starts it, for a test that does something else meanwhile.
    pub(crate) fn start(mut self) -> Building<'a> {
        let out = self.out.path();
        if self.output {
            let (image, compression) = (out.join("image").display().to_string(), self.compression);
            self.command.arg(format!(
                "--output=type=oci,tar=false,dest={image},compression={compression}"
            ));
            let files = out.join("files").display().to_string();
            self.command
                .arg(format!("--output=type=local,dest={files}"));
        }
        // A file, not a pipe: a long build must not stop because nobody reads.
        let said = File::create(out.join("said")).expect("a new file");
        self.command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = self.command.stderr(said).spawn().expect("buildctl starts");
        Building {
            builder: self.builder,
            child,
            out: self.out,
            began: Instant::now(),
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Built {
        self.start().wait()
    }
}

/// A build under way.
#[derive(Debug)]
pub(crate) struct Building<'a> {
    /// Held, so that it outlives its build.
    builder: &'a Builder,
    child: Child,
    out: Scratch,
    began: Instant,
}

impl Building<'_> {
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    pub(crate) fn wait(mut self) -> Built {
        let status = self.child.wait().expect("our own child");
        let elapsed = self.began.elapsed();
        let said = fs::read(self.out.path().join("said")).expect("we made it");
        let said = String::from_utf8_lossy(&said);
        let metadata = fs::read(self.out.path().join("metadata.json")).unwrap_or_default();
        let metadata = serde_json::from_slice::<Value>(&metadata).unwrap_or_default();
        let mut progress = Progress::default();
        let mut other = Vec::new();
        for line in said.lines() {
            match serde_json::from_str(line) {
                Ok(status) => progress.take(&status),
                Err(_) => other.push(line),
            }
        }
        Built {
            status,
            elapsed,
            steps: progress.steps(),
            digest: metadata["containerimage.digest"]
                .as_str()
                .map(str::to_owned),
            cache: metadata["cache.manifest"].as_str().map(str::to_owned),
            stderr: other.join("\n"),
            out: self.out,
        }
    }
}

/// What one vertex of the build did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// It was found in a cache.
    pub(crate) cached: bool,
    /// What it wrote to its log; every RUN of [`Project::stages`] does.
    pub(crate) log: String,
    pub(crate) error: Option<String>,
}

impl Step {
    pub(crate) fn ran(&self) -> bool {
        !self.log.is_empty()
    }

    /// It is one of the Dockerfile's instructions, as `[linux/386 left 2/3] RUN …`, and not `[internal]`, `[auth]`,
    /// `importing` or `exporting`.
    pub(super) fn is_instruction(&self) -> bool {
        let place = self
            .name
            .strip_prefix('[')
            .and_then(|name| name.split_once(']'));
        place.is_some_and(|(place, _)| place.contains('/'))
    }
}

/// Vertex digest → step, in the order in which they were first heard of.
#[derive(Default)]
pub(super) struct Progress {
    order: Vec<String>,
    steps: BTreeMap<String, Step>,
}

impl Progress {
    pub(super) fn take(&mut self, status: &Value) {
        let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
        for vertex in list("vertexes") {
            let step = self.step(&vertex["digest"]);
            if let Some(name) = vertex["name"].as_str() {
                name.clone_into(&mut step.name);
            }
            // Said once; when the layer is then fetched, the same vertex starts again without it.
            step.cached |= vertex["cached"].as_bool().unwrap_or(false);
            if let Some(error) = vertex["error"].as_str().filter(|e| !e.is_empty()) {
                step.error = Some(error.to_owned());
            }
        }
        for log in list("logs") {
            let data = log["data"].as_str().unwrap_or_default();
            let data = base64::engine::general_purpose::STANDARD.decode(data);
            let data = data.expect("buildctl writes base64");
            let log_of = &mut self.step(&log["vertex"]).log;
            log_of.push_str(&String::from_utf8_lossy(&data));
        }
    }

    fn step(&mut self, digest: &Value) -> &mut Step {
        let digest = digest.as_str().expect("vertices have digests").to_owned();
        if !self.steps.contains_key(&digest) {
            self.order.push(digest.clone());
        }
        self.steps.entry(digest).or_default()
    }

    pub(super) fn steps(mut self) -> Vec<Step> {
        let order = self.order.iter();
        order
            .filter_map(|digest| self.steps.remove(digest))
            .collect()
    }
}

/// A build that has ended.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) status: ExitStatus,
    pub(crate) elapsed: Duration,
    /// Everything that was shown as a step, the builder's own ones included.
    pub(crate) steps: Vec<Step>,
    /// Of the image's manifest.
    pub(crate) digest: Option<String>,
    /// Descriptor of the exported cache, as JSON.
    cache: Option<String>,
    pub(crate) stderr: String,
    out: Scratch,
}

impl Built {
    /// Requires that the build did not fail.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "the build failed\n{self}");
        self
    }

    /// Requires that no instruction ran, and that there were some.
    #[track_caller]
    pub(crate) fn all_cached(self) -> Self {
        let fine = |step: &Step| step.cached && !step.ran() && step.error.is_none();
        let instructions = self.instructions();
        assert!(
            !instructions.is_empty() && instructions.iter().all(|step| fine(step)),
            "not everything was cached\n{self}"
        );
        self
    }

    /// How many instructions were not found in a cache.
    pub(crate) fn executed(&self) -> usize {
        let instructions = self.instructions();
        instructions.iter().filter(|step| !step.cached).count()
    }

    /// The Dockerfile's instructions that the build went through.
    pub(crate) fn instructions(&self) -> Vec<&Step> {
        let steps = self.steps.iter();
        steps.filter(|step| step.is_instruction()).collect()
    }

    /// What the import of a cache said was wrong with it.
    pub(crate) fn import_error(&self) -> Option<&str> {
        let import = |step: &&Step| step.name.starts_with("importing cache manifest");
        let mut steps = self.steps.iter().filter(import);
        steps.find_map(|step| step.error.as_deref())
    }

    /// Digest of the image; fails where none was made.
    #[track_caller]
    pub(crate) fn digest(&self) -> &str {
        self.digest
            .as_deref()
            .unwrap_or_else(|| panic!("no image was made\n{self}"))
    }

    /// The image's manifest and the folder of its blobs: an OCI layout.
    pub(crate) fn layout(&self) -> PathBuf {
        self.out.path().join("image")
    }

    /// The contents of the image's files.
    pub(crate) fn files(&self) -> BTreeMap<OsString, Vec<u8>> {
        tree::contents(&self.out.path().join("files"))
    }

    /// Media types of the image's layers, base first.
    pub(crate) fn layer_types(&self) -> Vec<String> {
        let hex = self.digest().trim_start_matches("sha256:");
        let manifest = self.layout().join("blobs/sha256").join(hex);
        let manifest =
            fs::read(manifest).expect("a layout holds the manifest that it was made for");
        let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
        let layers = manifest["layers"].as_array().expect("it has layers");
        let types = layers
            .iter()
            .filter_map(|layer| layer["mediaType"].as_str());
        types.map(str::to_owned).collect()
    }

    /// Descriptor of the cache that was exported to a registry.
    pub(crate) fn cache(&self) -> Value {
        let cache = self.cache.as_deref();
        let cache = cache.unwrap_or_else(|| panic!("no cache was exported\n{self}"));
        serde_json::from_str(cache).expect("buildctl writes JSON")
    }

    /// Digest of the cache manifest that was exported.
    pub(crate) fn cache_digest(&self) -> String {
        let cache = self.cache();
        let digest = cache["digest"].as_str();
        digest.expect("descriptors have digests").to_owned()
    }
}

impl std::fmt::Display for Built {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(out, "{} after {:?}", self.status, self.elapsed)?;
        for step in &self.steps {
            let state = match (step.cached, step.ran()) {
                (true, false) => "CACHED",
                (false, _) => "",
                (true, true) => "CACHED and ran",
            };
            let error = step.error.as_deref().unwrap_or("");
            writeln!(out, "  {}  {state} {error}", step.name)?;
            for line in step.log.lines() {
                writeln!(out, "    | {line}")?;
            }
        }
        write!(out, "--- stderr\n{}", self.stderr)
    }
}
