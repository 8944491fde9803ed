//! What a tenant sees does not depend on what another one stores: the same random requests and verbs get byte-identical answers
//! in a store with content of another tenant and in one without.

use parking_lot::Mutex;

use super::{
    sharing::{Tenant, tenants_at},
    *,
};
use crate::{
    artifact::{Manifest, annotations},
    memory::MemoryBudget,
    ops::{Context, Reach, du, inspect, list, load::Tables, verify},
    progress::{Phase, Watch},
    store::{Body as Bytes, Repository, Store},
};

const SEEDS: u64 = 24;
const STEPS: usize = 40;
const SECRET: &[u8] = b"a layer of somebody else";
const SECRET_CONFIG: &str = r#"{"layers":[],"records":[{"digest":"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}]}"#;

/// Warnings of verbs are part of what a caller sees.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Watch for Warnings {
    fn begin(&self, _: Phase, _: Option<u64>) {}
    fn advance(&self, _: Phase, _: u64) {}
    fn end(&self, _: Phase) {}
    fn warn(&self, message: &str) {
        let mut all = self.0.lock();
        all.push(message.to_owned());
    }
}

/// A store with the tenant `b`, and optionally the content of `a`.
struct World {
    door: Door,
    store: Store,
}

fn image_of(config: (&str, &Digest), layers: &[Value]) -> Manifest {
    let config = json!({"mediaType": config.0, "digest": config.1, "size": 2});
    let document = json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "config": config, "layers": layers});
    Manifest::new(media::IMAGE_MANIFEST, document.to_string())
}

fn layer(digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media::LAYER_GZIP, "digest": digest, "size": size})
}

/// The image of the other tenant, whether it is stored or not.
fn secret_image() -> Manifest {
    let config = ("a/c", &Digest::sha256_of(b"{}"));
    image_of(config, &[layer(&Digest::sha256_of(SECRET), SECRET.len())])
}

async fn store(repository: &Repository, bytes: &[u8]) -> Digest {
    let desc = crate::artifact::Descriptor::of("a/b", bytes);
    let body = Bytes::Bytes(bytes.to_vec().into());
    repository.put_blob(&desc, &body).await.unwrap();
    desc.digest
}

impl World {
    async fn new(with_secrets: bool) -> Self {
        let door = tenants_at(Door::open().await).await;
        let url: StoreUrl = format!("disk:{}/store", door.dir.path().display())
            .parse()
            .unwrap();
        let opened = open::open(&url, &Options::default()).await.unwrap();
        let world = Self {
            door,
            store: opened,
        };
        if with_secrets {
            let secret = world.repository("a/x");
            for bytes in [SECRET, SECRET_CONFIG.as_bytes(), b"{}"] {
                store(&secret, bytes).await;
            }
            let tag = "v1".parse().unwrap();
            secret.put_manifest(&secret_image(), &[tag]).await.unwrap();
        }
        world.common().await;
        world.planted().await;
        world
    }

    fn repository(&self, name: &str) -> Repository {
        self.store.repository(&name.parse().unwrap()).unwrap()
    }

    /// Content that a caller who reads everything pushed for `b`.
    async fn common(&self) {
        let own = self.repository("b/x");
        let (config, lay) = (store(&own, b"[]").await, store(&own, b"common").await);
        let image = image_of(("a/c", &config), &[layer(&lay, 6)]);
        own.put_manifest(&image, &["common".parse().unwrap()])
            .await
            .unwrap();
    }

    /// What `b` left behind with an older release: a foreign layer, what was merged from it, and what was pushed at that time.
    async fn planted(&self) {
        let own = self.repository("b/x");
        let foreign = Digest::sha256_of(SECRET);
        let config = store(&own, b"{\"layers\":[]}").await;
        let config = ("a/c", &config);
        let mut borrowed = layer(&foreign, SECRET.len());
        borrowed["urls"] = json!(["https://x"]);
        let merged = json!({"schemaVersion": 2, "config": {"mediaType": media::BUILDKIT_CONFIG, "digest": config.1, "size": 13},
            "layers": [layer(&foreign, SECRET.len())], "annotations": {annotations::MERGED: "1"}});
        for (tag, manifest) in [
            ("part", image_of(config, &[borrowed])),
            (
                "merged",
                Manifest::new(media::IMAGE_MANIFEST, merged.to_string()),
            ),
            (
                "laundered",
                image_of(config, &[layer(&foreign, SECRET.len())]),
            ),
        ] {
            own.put_manifest(&manifest, &[tag.parse().unwrap()])
                .await
                .unwrap();
        }
    }

    /// The context of a verb called by `b`, and the verb's warnings.
    fn context(&self) -> (Context, Arc<Warnings>) {
        let warnings = Arc::new(Warnings::default());
        let b = |repo: &Repo| repo.as_str().starts_with("b/");
        let ctx = Context {
            store: self.store.clone(),
            reach: Reach::granted(b, self.door.registry.sights()),
            progress: warnings.clone(),
            state_dir: None,
            temp_dir: self.door.dir.path().to_owned(),
            threads: 1,
            concurrency: 2,
            budget: None,
            tables: Tables::within(MemoryBudget::of_command()),
        };
        (ctx, warnings)
    }

    async fn answer(&self, step: &Step) -> String {
        match step {
            Step::Ask(method, path, media_type, body) => {
                let tenant = Tenant {
                    door: &self.door,
                    name: "b",
                };
                let reply = tenant.send_as(method.clone(), path, media_type, body).await;
                shown(&reply)
            }
            Step::Verb(verb, word) => {
                let (ctx, warnings) = self.context();
                let said = said(&ctx, *verb, word).await;
                let mut warned = warnings.0.lock().clone();
                warned.sort();
                format!("{said}\n{warned:?}")
            }
        }
    }
}

/// A reply without the parts that differ from run to run: URLs of uploads, dates, and the request's own id.
fn shown(reply: &Reply) -> String {
    let mut headers: Vec<String> = reply
        .headers
        .iter()
        .filter(|(name, _)| {
            let is_random = reply.status == StatusCode::ACCEPTED && *name == header::LOCATION;
            let is_own = [
                "docker-upload-uuid",
                header::LAST_MODIFIED.as_str(),
                "x-request-id",
            ];
            !is_random && !is_own.contains(&name.as_str())
        })
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{} {headers:?}\n{:?}", reply.status, reply.body)
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    List,
    Inspect,
    Usage,
    Verify(verify::Depth),
}

async fn said(ctx: &Context, verb: Verb, word: &str) -> String {
    let some = Some(word).filter(|w| !w.is_empty());
    match verb {
        Verb::List => match list::run(ctx, some).await {
            Ok(mut report) => {
                for row in &mut report.rows {
                    row.pushed = None;
                }
                format!("{report:?}")
            }
            Err(e) => e.to_string(),
        },
        Verb::Inspect => match inspect::run(ctx, word, true).await {
            Ok(mut found) => {
                for f in &mut found {
                    f.row.pushed = None;
                }
                format!("{found:?}")
            }
            Err(e) => e.to_string(),
        },
        Verb::Usage => match du::run(ctx, some).await {
            Ok(mut report) => {
                report.rows.sort_by(|a, b| a.tag.cmp(&b.tag));
                format!("{report:?}")
            }
            Err(e) => e.to_string(),
        },
        Verb::Verify(depth) => match Box::pin(verify::run(ctx, some, depth)).await {
            Ok(mut report) => {
                report.damaged.sort();
                format!("{report:?}")
            }
            Err(e) => e.to_string(),
        },
    }
}

#[derive(Debug)]
enum Step {
    Ask(Method, String, String, String),
    Verb(Verb, String),
}

/// Generates the actions of `b`; knows all digests of the other tenant, and may learn its bytes.
struct Maker {
    random: fastrand::Rng,
    /// Digests of the manifests of `b`.
    manifests: Vec<Digest>,
}

impl Maker {
    fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.random.usize(..of.len())]
    }

    fn own(&mut self) -> (Digest, usize) {
        let bytes = self.bytes();
        (Digest::sha256_of(bytes.as_bytes()), bytes.len())
    }

    fn bytes(&mut self) -> String {
        let n = self.random.u32(..6);
        let layer = Digest::sha256_of(SECRET);
        match self.random.u32(..3) {
            0 => format!("blob {n}"),
            // Configs that BuildKit could have written.
            1 => json!({"layers": [{"blob": layer, "parent": -1}], "records": [{
                "digest": Digest::sha256_of(&[n as u8]),
                "layers": [{"layer": 0, "createdAt": format!("2026-11-23T04:02:0{n}Z")}],
            }]})
            .to_string(),
            _ => "common".to_owned(),
        }
    }

    fn digest(&mut self) -> (Digest, usize) {
        match self.random.u32(..10) {
            0..=4 => self.own(),
            5 => (Digest::sha256_of(SECRET), SECRET.len()),
            6 => (
                Digest::sha256_of(SECRET_CONFIG.as_bytes()),
                SECRET_CONFIG.len(),
            ),
            7 => (secret_image().digest, secret_image().bytes.len()),
            8 => (Digest::sha256_of(b"missing"), 7),
            _ => {
                let known = self.manifests.clone();
                if known.is_empty() {
                    self.own()
                } else {
                    (*self.one(&known), 300)
                }
            }
        }
    }

    fn descriptor(&mut self) -> Value {
        const TYPES: [&str; 8] = [
            media::LAYER_GZIP,
            media::LAYER_FOREIGN,
            media::DOCKER_LAYER_FOREIGN_GZIP,
            media::IMAGE_MANIFEST,
            media::IMAGE_INDEX,
            media::BUILDKIT_CONFIG,
            media::IMAGE_CONFIG,
            "",
        ];
        let (digest, size) = self.digest();
        let size = *self.one(&[size, size, size, 0, 7]);
        let mut found = json!({"mediaType": self.one(&TYPES), "digest": digest, "size": size});
        if self.random.u32(..3) == 0 {
            found["urls"] = json!(["https://x"]);
        }
        if self.random.bool() {
            let id = Digest::sha256_of(&[self.random.u8(..3)]);
            found["annotations"] = json!({annotations::UNCOMPRESSED: id, "note": digest});
        }
        found
    }

    fn descriptors(&mut self) -> Vec<Value> {
        let n = self.random.usize(..4);
        (0..n).map(|_| self.descriptor()).collect()
    }

    fn document(&mut self) -> (&'static str, Value) {
        let (media_type, mut document) = match self.random.u32(..5) {
            0 | 1 => {
                let mut config = self.descriptor();
                if self.random.bool() {
                    config["mediaType"] = json!(media::BUILDKIT_CONFIG);
                }
                let layers = self.descriptors();
                (
                    media::IMAGE_MANIFEST,
                    json!({"config": config, "layers": layers}),
                )
            }
            2 => (media::IMAGE_INDEX, json!({"manifests": self.descriptors()})),
            3 => (media::DOCKER_LIST, json!({"manifests": self.descriptors()})),
            _ => {
                let (digest, _) = self.digest();
                (
                    "application/vnd.oci.artifact.manifest.v1+json",
                    json!({"blobs": self.descriptors(), "fsLayers": [{"blobSum": digest}]}),
                )
            }
        };
        document["schemaVersion"] = json!(2);
        document["mediaType"] = json!(media_type);
        if self.random.u32(..4) == 0 {
            document["subject"] = self.descriptor();
        }
        (media_type, document)
    }

    fn tag(&mut self) -> String {
        let tags = ["t0", "t1", "part", "merged", "laundered", "common"];
        (*self.one(&tags)).to_owned()
    }

    fn ask(method: Method, path: String) -> Step {
        Step::Ask(method, path, String::new(), String::new())
    }

    fn step(&mut self) -> Step {
        let (digest, _) = self.digest();
        match self.random.u32(..16) {
            0..=2 => {
                let bytes = self.bytes();
                let digest = Digest::sha256_of(bytes.as_bytes());
                let path = format!("/v2/b/x/blobs/uploads/?digest={digest}");
                Step::Ask(Method::POST, path, String::new(), bytes)
            }
            3..=6 => {
                let (media_type, document) = self.document();
                let body = document.to_string();
                let own = Digest::sha256_of(body.as_bytes());
                self.manifests.push(own);
                let reference = if self.random.bool() {
                    self.tag()
                } else {
                    own.to_string()
                };
                let path = format!("/v2/b/x/manifests/{reference}");
                Step::Ask(Method::PUT, path, media_type.to_owned(), body)
            }
            7 => Self::ask(Method::GET, format!("/v2/b/x/manifests/{}", self.tag())),
            8 => Self::ask(Method::GET, format!("/v2/b/x/manifests/{digest}")),
            9 => {
                let method = self.one(&[Method::GET, Method::HEAD]).clone();
                Self::ask(method, format!("/v2/b/x/blobs/{digest}"))
            }
            10 => {
                let from = self.one(&["", "&from=b/x", "&from=b/y", "&from=a/x"]);
                let path = format!("/v2/b/y/blobs/uploads/?mount={digest}{from}");
                Self::ask(Method::POST, path)
            }
            11 => Self::ask(Method::DELETE, format!("/v2/b/x/blobs/{digest}")),
            12 => {
                let reference = if self.random.bool() {
                    self.tag()
                } else {
                    digest.to_string()
                };
                Self::ask(Method::DELETE, format!("/v2/b/x/manifests/{reference}"))
            }
            13 => Self::ask(Method::GET, format!("/v2/b/x/referrers/{digest}")),
            _ => {
                let verbs = [
                    Verb::List,
                    Verb::Inspect,
                    Verb::Usage,
                    Verb::Verify(verify::Depth::Structure),
                    Verb::Verify(verify::Depth::Digests),
                ];
                let verb = *self.one(&verbs);
                let tag = format!("b/x:{}", self.tag());
                let word = self.one(&[tag, digest.to_string(), String::new()]).clone();
                let is_inspect = matches!(verb, Verb::Inspect);
                let word = if is_inspect && word.is_empty() {
                    digest.to_string()
                } else {
                    word
                };
                Step::Verb(verb, word)
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_tenant_is_answered_depends_on_what_another_one_stores() {
    for seed in 0..SEEDS {
        let (with, without) = (World::new(true).await, World::new(false).await);
        let mut maker = Maker {
            random: fastrand::Rng::with_seed(seed),
            manifests: Vec::new(),
        };
        for at in 0..STEPS {
            let step = maker.step();
            let (one, other) = (with.answer(&step).await, without.answer(&step).await);
            assert_eq!(one, other, "seed {seed}, step {at}: {step:?}");
        }
    }
}
