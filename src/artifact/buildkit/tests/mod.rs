//! Handwritten documents in the form that BuildKit writes.

mod comparing;
mod configs;
mod exported;
mod hostile;
mod manifests;
mod merging;
mod random;
mod strangers;
mod trimming;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::*;
use crate::{
    artifact::{Manifest, media},
    digest::Digest,
    entry::Time,
};

/// Processor time of this thread: how long it took does not depend on what else the machine does.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Duration {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
    }

    fn start() -> Self {
        Self(Self::now())
    }

    fn so_far(&self) -> Duration {
        Self::now().checked_sub(self.0).unwrap()
    }
}

/// A blob called `name`.
fn blob(name: &str) -> Digest {
    Digest::sha256_of(name.as_bytes())
}

/// The descriptor of a layer as BuildKit writes it; its size is a function of the name.
fn layer(name: &str) -> Value {
    json!({
        "mediaType": media::LAYER_GZIP,
        "digest": blob(name),
        "size": 100 + name.len(),
        "annotations": {
            "buildkit/createdat": "2026-11-23T04:02:08.085920229Z",
            "containerd.io/uncompressed": blob(&format!("plain {name}")),
        },
    })
}

fn layers(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| layer(name)).collect()
}

/// A manifest of that form over layers and a config.
fn manifest(form: Form, layers: Vec<Value>, config: &[u8]) -> Manifest {
    let config = json!({
        "mediaType": media::BUILDKIT_CONFIG,
        "digest": Digest::sha256_of(config),
        "size": config.len(),
    });
    let mut document = json!({ "schemaVersion": 2, "mediaType": form.media_type() });
    if form == Form::Image {
        document["config"] = config;
        document["layers"] = layers.into();
    } else {
        let mut all = layers;
        all.push(config);
        document["manifests"] = all.into();
    }
    Manifest::new(form.media_type(), document.to_string())
}

fn read(manifest: &Manifest) -> CacheManifest {
    CacheManifest::read(manifest).unwrap().unwrap()
}

fn part_of(form: Form, layers: Vec<Value>, config: &Value) -> Part {
    let config = config.to_string();
    let manifest = manifest(form, layers, config.as_bytes());
    Part::read(read(&manifest), config.as_bytes()).unwrap()
}

/// An image-manifest cache whose layers are named, each on the one before.
fn part(stack: &[&str], records: &Value) -> Part {
    let on = |(at, name): (usize, &&str)| json!({ "blob": blob(name), "parent": at as i64 - 1 });
    let stacked: Vec<Value> = stack.iter().enumerate().map(on).collect();
    part_of(
        Form::Image,
        layers(stack),
        &json!({ "layers": stacked, "records": records }),
    )
}

/// A result of that layer, made on that day of November 2026.
fn at(layer: usize, day: u32) -> Value {
    json!([{ "layer": layer, "createdAt": format!("2026-11-{day:02}T04:02:08.5Z") }])
}

/// So many seconds after December 2026 began.
fn second(n: i64) -> Time {
    Time {
        secs: 1_796_083_200 + n,
        nanos: 0,
    }
}

fn merged(parts: &[&Part]) -> Merged {
    merge(parts.iter().copied(), Limits::default())
}

/// A merged cache, as a builder would read it.
fn again(merged: &Merged) -> Part {
    Part::read(read(&merged.manifest), &merged.config_bytes).unwrap()
}

fn config_of(merged: &Merged) -> Value {
    serde_json::from_slice(&merged.config_bytes).unwrap()
}
