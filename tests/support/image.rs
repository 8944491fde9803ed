//! A small image as an OCI layout, for clients to push; and what has to be in a layout that a client pulled it to.
//!
//! Source: the OCI image specification, "image-layout" and "config".
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::scratch::Scratch;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// More than the pieces in which some clients push.
const BULK: usize = 9 << 20;

/// An image of two layers, one of which is large enough to be pushed in pieces.
#[derive(Debug)]
pub(crate) struct Image {
    dir: Scratch,
    /// Of its manifest.
    pub(crate) digest: String,
    /// Of its configuration: what engines call the image's id.
    pub(crate) id: String,
}

impl Image {
    pub(crate) const TAG: &str = "v1";

    pub(crate) fn new() -> Self {
        let dir = Scratch::new("image");
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a new folder");
        let put = |bytes: &[u8], media: &str| {
            let hex = const_hex::encode(Sha256::digest(bytes));
            fs::write(blobs.join(&hex), bytes).expect("a new file");
            json!({"mediaType": media, "digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let mut bulk = vec![0; BULK];
        fastrand::fill(&mut bulk);
        let tars =
            [("hello", &b"hello\n"[..]), ("bulk", &bulk)].map(|(name, bytes)| tar(name, bytes));
        let layers = tars.each_ref().map(|tar| put(&gzip(tar), LAYER));
        let diff_ids = tars
            .each_ref()
            .map(|tar| format!("sha256:{}", const_hex::encode(Sha256::digest(tar))));
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(config.to_string().as_bytes(), CONFIG);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
        });
        let mut manifest = put(manifest.to_string().as_bytes(), MANIFEST);
        let digest = text(&manifest["digest"]);
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": Self::TAG});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        let write = |name: &str, value: &Value| {
            fs::write(dir.path().join(name), value.to_string()).expect("a new file");
        };
        write("index.json", &index);
        write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        Self {
            dir,
            digest,
            id: text(&config["digest"]),
        }
    }

    pub(crate) fn layout(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Requires that the layout in `folder` holds this image, every byte of it.
    #[track_caller]
    pub(crate) fn assert_is_in(&self, folder: &Path) {
        let blob = |digest: &str| {
            let hex = digest.trim_start_matches("sha256:");
            let path = folder.join("blobs/sha256").join(hex);
            let bytes = fs::read(&path);
            let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(const_hex::encode(Sha256::digest(&bytes)), hex);
            bytes
        };
        let manifest: Value = serde_json::from_slice(&blob(&self.digest)).expect("a manifest");
        blob(&text(&manifest["config"]["digest"]));
        for layer in manifest["layers"].as_array().expect("it has layers") {
            blob(&text(&layer["digest"]));
        }
    }
}

/// A root file system of one file, as engines import it.
pub(crate) fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, name, bytes)
        .expect("memory takes everything");
    tar.into_inner().expect("memory takes everything")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("memory takes everything");
    gzip.finish().expect("memory takes everything")
}

fn text(value: &Value) -> String {
    value.as_str().expect("we wrote a string").to_owned()
}
