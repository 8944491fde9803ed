//! Real servers as children of the test process, on free loopback ports.
//!
//! Each is ready when its `start` returns and gone when it is dropped, or when the test process ends in any way.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::process::{Server, answers_ok};
pub(crate) use super::process::{free_port, http};
use super::scratch::Scratch;
use super::tools;

/// An S3 server with one bucket and one key pair.
#[derive(Debug)]
pub(crate) struct S3Server {
    server: Server,
    pub(crate) port: u16,
}

impl S3Server {
    pub(crate) const BUCKET: &str = "cachectl-tests";
    pub(crate) const ACCESS_KEY: &str = "tests-access-key";
    pub(crate) const SECRET_KEY: &str = "tests-secret-key";
    const READER_KEY: &str = "tests-reader-key";

    /// The credentials, as every S3 client reads them.
    pub(crate) fn env() -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".into(), Self::ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY".into(), Self::SECRET_KEY.into()),
        ]
    }

    /// Stops its process, so that it takes connections and never answers, or lets it go on.
    pub(crate) fn pause(&self, pause: bool) {
        self.server.pause(pause);
    }

    /// Credentials that may only read; of SeaweedFS alone.
    pub(crate) fn reader_env() -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".into(), Self::READER_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY".into(), Self::SECRET_KEY.into()),
        ]
    }

    /// A store URL below `prefix`, through `port` (the server's own, or a proxy's).
    pub(crate) fn url(port: u16, prefix: &str) -> String {
        format!(
            "s3://{}/{prefix}?region=us-east-1&endpoint=http://127.0.0.1:{port}&path_style=true",
            Self::BUCKET
        )
    }
}

/// SeaweedFS.
pub(crate) struct Weed;

impl Weed {
    /// The one of this test process: it takes seconds to start, so tests share it, each below a prefix of its own.
    pub(crate) fn shared() -> &'static S3Server {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(crate) fn start() -> S3Server {
        let dir = Scratch::new("weed");
        fs::create_dir(dir.path().join("data")).expect("a new folder");
        let identities = json!({"identities": [{
            "name": "tests",
            "credentials": [{"accessKey": S3Server::ACCESS_KEY, "secretKey": S3Server::SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }, {
            "name": "reader",
            "credentials": [{"accessKey": S3Server::READER_KEY, "secretKey": S3Server::SECRET_KEY}],
            "actions": ["Read", "List"],
        }]});
        fs::write(dir.path().join("s3.json"), identities.to_string()).expect("a new file");
        let (s3, filer) = (free_port(), free_port());
        let mut command = Command::new(tools::installed("weed"));
        // Ports that are not named would be the default, or another plus 10000, and clash with a second server.
        command.args([
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            "-volume.max=0",
            "-filer",
            "-s3",
        ]);
        command.args([
            "-s3.config=s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        command.arg(format!("-s3.port={s3}"));
        command.arg(format!("-filer.port={filer}"));
        for flag in [
            "master.port",
            "volume.port",
            "master.port.grpc",
            "volume.port.grpc",
            "filer.port.grpc",
            "s3.port.grpc",
        ] {
            command.arg(format!("-{flag}={}", free_port()));
        }
        let bucket = format!("/buckets/{}/", S3Server::BUCKET);
        let probe = format!("{bucket}ready");
        let server = Server::start("weed", dir, &command, || {
            // The first write makes SeaweedFS grow its volumes, which takes seconds: done here, not in a test.
            answers_ok("GET", s3, "/status", b"")
                && answers_ok("POST", filer, &bucket, b"")
                && answers_ok("PUT", filer, &probe, b"ready")
                && answers_ok("DELETE", filer, &probe, b"")
        });
        S3Server { server, port: s3 }
    }
}

/// MinIO.
pub(crate) struct Minio;

impl Minio {
    /// The one of this test process.
    pub(crate) fn shared() -> &'static S3Server {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(crate) fn start() -> S3Server {
        let dir = Scratch::new("minio");
        // A folder that is there before the start is a bucket.
        fs::create_dir_all(dir.path().join("data").join(S3Server::BUCKET)).expect("a new folder");
        let port = free_port();
        let mut command = Command::new(tools::built("minio"));
        command
            .args([
                "server",
                "--quiet",
                "--address",
                &format!("127.0.0.1:{port}"),
                "data",
            ])
            .env("MINIO_ROOT_USER", S3Server::ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", S3Server::SECRET_KEY)
            // Its console would listen on all interfaces, its update check would leave the machine.
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .env("MINIO_CONFIG_DIR", dir.path());
        let server = Server::start("minio", dir, &command, || {
            answers_ok("GET", port, "/minio/health/ready", b"")
        });
        S3Server { server, port }
    }
}

/// Whether a registry asks for a name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Open,
    Htpasswd,
}

/// An OCI registry that keeps its blobs in a folder.
#[derive(Debug)]
pub(crate) struct Registry {
    server: Server,
    command: Command,
    pub(crate) port: u16,
    login: Login,
}

impl Registry {
    pub(crate) const USER: &str = "tests";
    pub(crate) const PASSWORD: &str = "s3cret-for-tests";
    /// What `htpasswd -B` makes of the two.
    pub(super) const HTPASSWD: &str =
        "tests:$2b$05$X/AUbjQgc/C1Ipd.cgYKcuVP9j8fHLIAvau8oOWutFkFzdzQB54Pu\n";

    fn start(name: &'static str, program: &Path, login: Login) -> Self {
        let dir = Scratch::new(name);
        let port = free_port();
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": dir.path().join("data")},
                "delete": {"enabled": true},
            },
            "http": {"addr": format!("127.0.0.1:{port}"), "secret": "tests"},
        });
        if login == Login::Htpasswd {
            let file = dir.path().join("htpasswd");
            fs::write(&file, Self::HTPASSWD).expect("a new file");
            config["auth"] = json!({"htpasswd": {"realm": "tests", "path": file}});
        }
        // JSON is YAML.
        fs::write(dir.path().join("config.yml"), config.to_string()).expect("a new file");
        let mut command = Command::new(program);
        command
            .args(["serve", "config.yml"])
            // Version 3 would send its traces to a collector.
            .env("OTEL_TRACES_EXPORTER", "none");
        let server = Server::start(name, dir, &command, || Self::is_ready(port));
        Self {
            server,
            command,
            port,
            login,
        }
    }

    fn is_ready(port: u16) -> bool {
        matches!(http("GET", port, "/v2/", b""), Some((200 | 401, _)))
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again with the same tree.
    pub(crate) fn restart(&mut self) {
        let port = self.port;
        self.server
            .start_again(&self.command, || Self::is_ready(port));
    }

    /// A store URL of `repository`, through `port` (the server's own, or a proxy's).
    pub(crate) fn url(port: u16, repository: &str) -> String {
        format!("oci://127.0.0.1:{port}/{repository}")
    }

    /// A docker configuration folder that knows the password for `ports`, as every registry client reads it.
    pub(crate) fn docker_config(&self, ports: &[u16]) -> PathBuf {
        let folder = self.server.dir().join("docker");
        let ports = match self.login {
            Login::Open => &[],
            Login::Htpasswd => ports,
        };
        docker_config(&folder, ports);
        folder
    }

    /// Where the registry keeps its tree: `blobs/sha256/<2>/<hex>/data` and `repositories/<name>/…`.
    pub(crate) fn data(&self) -> PathBuf {
        self.server.dir().join("data/docker/registry/v2")
    }
}

/// Writes a docker configuration into `folder` that knows the tests' password for these loopback ports.
pub(super) fn docker_config(folder: &Path, ports: &[u16]) {
    use base64::Engine as _;
    let (user, password) = (Registry::USER, Registry::PASSWORD);
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let auths: serde_json::Map<String, Value> = ports
        .iter()
        .map(|port| (format!("127.0.0.1:{port}"), json!({"auth": auth})))
        .collect();
    fs::create_dir_all(folder).expect("a folder of our own");
    let text = json!({"auths": auths}).to_string();
    fs::write(folder.join("config.json"), text).expect("a file of our own");
}

/// Debian's `docker-registry` (2.8).
pub(crate) struct DebianRegistry;

impl DebianRegistry {
    pub(crate) fn start(login: Login) -> Registry {
        Registry::start(
            "docker-registry",
            &tools::installed("docker-registry"),
            login,
        )
    }
}

/// CNCF distribution, version 3.
pub(crate) struct DistributionV3;

impl DistributionV3 {
    pub(crate) fn start(login: Login) -> Registry {
        Registry::start("distribution-v3", &tools::built("registry"), login)
    }
}

/// A proxy that makes a link slow, or cuts it.
#[derive(Debug)]
pub(crate) struct Toxiproxy {
    server: Server,
    port: u16,
}

/// What is done to the bytes of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Toxic {
    /// Each piece of data arrives this much later, in both directions half of it.
    RoundTripMs(u64),
    /// Towards the client.
    DownKilobytesPerSecond(u64),
    /// Towards the server.
    UpKilobytesPerSecond(u64),
    /// Towards the client: the connection is closed after so many bytes.
    CutDownAfterBytes(u64),
    /// Towards the server.
    CutUpAfterBytes(u64),
    /// Towards the client: data stops, the connection stays.
    StallDown,
}

impl Toxic {
    fn bodies(self) -> Vec<Value> {
        let body = |kind: &str, stream: &str, attributes: Value| json!({"name": format!("{kind}-{stream}"), "type": kind, "stream": stream, "attributes": attributes});
        match self {
            Self::RoundTripMs(ms) => vec![
                body("latency", "upstream", json!({"latency": ms / 2})),
                body("latency", "downstream", json!({"latency": ms - ms / 2})),
            ],
            Self::DownKilobytesPerSecond(rate) => {
                vec![body("bandwidth", "downstream", json!({"rate": rate}))]
            }
            Self::UpKilobytesPerSecond(rate) => {
                vec![body("bandwidth", "upstream", json!({"rate": rate}))]
            }
            Self::CutDownAfterBytes(bytes) => {
                vec![body("limit_data", "downstream", json!({"bytes": bytes}))]
            }
            Self::CutUpAfterBytes(bytes) => {
                vec![body("limit_data", "upstream", json!({"bytes": bytes}))]
            }
            Self::StallDown => vec![body("timeout", "downstream", json!({"timeout": 0}))],
        }
    }
}

impl Toxiproxy {
    pub(crate) fn start() -> Self {
        let port = free_port();
        let mut command = Command::new(tools::built("toxiproxy"));
        command.args(["-host", "127.0.0.1", "-port", &port.to_string()]);
        let server = Server::start("toxiproxy", Scratch::new("toxiproxy"), &command, || {
            answers_ok("GET", port, "/version", b"")
        });
        Self { server, port }
    }

    /// A new loopback port that leads to `upstream` through `toxics`.
    pub(crate) fn proxy(&self, upstream: u16, toxics: &[Toxic]) -> u16 {
        let listen = free_port();
        let name = format!("to-{upstream}-by-{listen}");
        let proxy = json!({
            "name": name,
            "listen": format!("127.0.0.1:{listen}"),
            "upstream": format!("127.0.0.1:{upstream}"),
        });
        self.post("/proxies", &proxy);
        for body in toxics.iter().flat_map(|toxic| toxic.bodies()) {
            self.post(&format!("/proxies/{name}/toxics"), &body);
        }
        listen
    }

    fn post(&self, path: &str, body: &Value) {
        let answer = http("POST", self.port, path, body.to_string().as_bytes());
        assert!(
            matches!(answer, Some((200..=299, _))),
            "toxiproxy refuses {path} {body}: {answer:?}\n{}",
            self.server.log_tail()
        );
    }
}
