//! Peak memory of the readers of foreign JSON, as the allocator saw it, compared with the bounds stated here.

use std::fmt::Write as _;

use super::{
    Manifest,
    buildkit::{CacheConfig, CacheManifest, MAX_CONFIG_BYTES},
    config::Config,
    descriptor::MAX_MANIFEST_BYTES,
    media, mentions, outline, snapshot,
    toc::tests::{fuzz_time, mutate},
};
use crate::{digest::Digest, transfer::graph};

/// Peak of a manifest's reader for each byte that it reads, and besides.
const MANIFEST_PEAK: (u64, u64) = (50, 64 << 10);
/// Peak of the reader of a BuildKit config, likewise.
const BUILDKIT_PEAK: (u64, u64) = (100, 64 << 10);
/// Whatever its size: a BuildKit config, which may have four million bytes.
const BUILDKIT_MOST: u64 = 64 << 20;
/// Peak of the reader of a snapshot's config for each byte.
const CONFIG_PEAK: (u64, u64) = (16, 4 << 20);

fn peak(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).bytes_max
}

fn assert_below(bound: (u64, u64), len: usize, what: &str, peak: u64) {
    let most = bound.0 * len as u64 + bound.1;
    assert!(
        peak <= most,
        "{what}: {peak} bytes for a document of {len}, at most {most} are stated"
    );
}

/// `item` repeated between commas in a frame, as long as fits `len` bytes.
fn filled(before: &str, item: &str, after: &str, len: usize) -> String {
    let times = len.saturating_sub(before.len() + after.len()) / (item.len() + 1);
    let items = vec![item; times.max(1)].join(",");
    format!("{before}{items}{after}")
}

fn digest() -> Digest {
    Digest::sha256_of(b"x")
}

/// Manifests of the same size, each of what costs its readers most.
fn manifests(len: usize) -> Vec<Manifest> {
    let layer = format!(r#"{{"digest":"{}","mediaType":"","size":0}}"#, digest());
    let config = format!(
        r#"{{"digest":"{}","mediaType":"{}","size":0}}"#,
        digest(),
        media::BUILDKIT_CONFIG
    );
    let ours = format!(
        r#"{{"digest":"{}","mediaType":"{}","size":0}}"#,
        digest(),
        media::CONFIG
    );
    let mut keys = String::from(r#"{"schemaVersion":2,"annotations":{"a":"""#);
    let mut i = 0;
    while keys.len() < len {
        write!(keys, r#","{i}":"""#).unwrap();
        i += 1;
    }
    keys.push_str("}}");
    let urls = format!(
        r#"{{"schemaVersion":2,"layers":[{{"digest":"{}","mediaType":"","size":0,"urls":["#,
        digest()
    );
    let texts = [
        keys,
        filled(r#"{"schemaVersion":2,"layers":["#, &layer, "]}", len),
        filled(r#"{"schemaVersion":2,"manifests":["#, &layer, "]}", len),
        filled(
            &format!(r#"{{"schemaVersion":2,"config":{config},"layers":["#),
            &layer,
            "]}",
            len,
        ),
        filled(
            &format!(r#"{{"schemaVersion":2,"config":{ours},"layers":["#),
            &layer,
            "]}",
            len,
        ),
        filled(
            &format!(r#"{{"schemaVersion":2,"manifests":[{config},"#),
            &layer,
            "]}",
            len,
        ),
        filled(&urls, r#""""#, "]}]}", len),
        filled(r#"{"schemaVersion":2,"x":["#, "0", "]}", len),
        filled(r#"{"schemaVersion":2,"x":["#, "[]", "]}", len),
        filled(r#"{"schemaVersion":2,"x":["#, "{}", "]}", len),
        filled(r#"{"schemaVersion":2,"x":["#, r#""""#, "]}", len),
        filled(r#"{"schemaVersion":2,"#, r#""":0"#, "}", len),
        filled(r#"{"manifests":["#, "0", "]}", len),
    ];
    let types = [media::IMAGE_MANIFEST, media::IMAGE_INDEX];
    let both = |text: String| types.map(|t| Manifest::new(t, text.clone()));
    texts.into_iter().flat_map(both).collect()
}

fn read_manifest(manifest: &Manifest) {
    type Reader<'r> = &'r dyn Fn(&Manifest);
    let readers: [(&str, Reader); 5] = [
        ("outline", &|m| drop(outline::Outline::of(m))),
        ("snapshot", &|m| drop(snapshot::Outline::read(m))),
        ("children", &|m| drop(graph::children(m))),
        ("mentions", &|m| {
            drop(mentions::read(&m.bytes, &mut |_, _| {}));
        }),
        ("cache", &|m| drop(CacheManifest::read(m))),
    ];
    for (what, read) in readers {
        let peak = peak(|| read(manifest));
        let start = String::from_utf8_lossy(&manifest.bytes[..manifest.bytes.len().min(60)]);
        assert_below(
            MANIFEST_PEAK,
            manifest.bytes.len(),
            &format!("{what} of {start}"),
            peak,
        );
    }
}

/// Configs of the same size, each of what costs its reader most.
fn buildkit_configs(len: usize) -> Vec<String> {
    let layer = format!(
        r#"{{"blob":"{}","parent":-1,"annotations":{{}}}}"#,
        digest()
    );
    let one = format!(
        r#"{{"layers":[{{"blob":"{}","parent":-1}}],"records":[{{"#,
        digest()
    );
    vec![
        filled(r#"{"layers":["#, &layer, "]}", len),
        filled(r#"{"records":["#, "{}", "]}", len),
        filled(r#"{"records":["#, r#"{"digest":""}"#, "]}", len),
        filled(&format!(r#"{one}"layers":["#), "{}", "]}]}", len),
        filled(&format!(r#"{one}"chains":["#), "{}", "]}]}", len),
        filled(
            &format!(r#"{one}"chains":[{{"layers":["#),
            "0",
            "]}]}]}",
            len,
        ),
        filled(&format!(r#"{one}"inputs":["#), "[]", "]}]}", len),
        filled(&format!(r#"{one}"inputs":["#), "[{}]", "]}]}", len),
        filled(&format!(r#"{one}"inputs":[["#), "{}", "]]}]}", len),
        filled(
            r#"{"records":["#,
            r#"{"chains":[{},{},{},{},{},{},{},{},{},{},{},{}]}"#,
            "]}",
            len,
        ),
        filled(
            r#"{"records":["#,
            r#"{"inputs":[[],[],[],[],[],[],[],[],[],[],[],[]]}"#,
            "]}",
            len,
        ),
    ]
}

fn read_config(text: &[u8]) {
    let peak = peak(|| drop(CacheConfig::read(text)));
    let start = String::from_utf8_lossy(&text[..text.len().min(150)]);
    assert_below(BUILDKIT_PEAK, text.len(), &start, peak);
    assert!(peak <= BUILDKIT_MOST, "{peak} bytes: {start}");
}

#[test]
fn large_manifests_are_read_within_their_bound() {
    // The peak grows with the size; those of the largest would take minutes unoptimised.
    manifests(MAX_MANIFEST_BYTES as usize / 8)
        .iter()
        .for_each(read_manifest);
}

#[test]
fn the_largest_buildkit_configs_are_read_within_their_bound() {
    for text in buildkit_configs(MAX_CONFIG_BYTES) {
        read_config(text.as_bytes());
    }
}

#[test]
fn lists_of_a_snapshots_config_have_limits() {
    const LEN: usize = 4 << 20;
    let config = |field: &str, item: &str| {
        let head = r#"{"formatVersion":2,"kind":"dir","name":"n","scope":"s","key":"","entries":0,"bytes":0"#;
        match field {
            "gates" => filled(
                &format!(r#"{head},"packs":[],"fingerprint":{{"gates":["#),
                item,
                "]}}",
                LEN,
            ),
            "packs" => filled(
                &format!(r#"{head},"fingerprint":{{}},"packs":["#),
                item,
                "]}",
                LEN,
            ),
            field => filled(
                &format!(r#"{head},"fingerprint":{{}},"packs":[],"{field}":["#),
                item,
                "]}",
                LEN,
            ),
        }
    };
    let pack = format!(r#"{{"digest":"{}","entries":0,"live":"all"}}"#, digest());
    for (field, item, limited) in [
        ("gates", r#""""#, true),
        ("requiredFeatures", r#""""#, true),
        ("packs", pack.as_str(), true),
        ("folded", r#"{"tag":"","day":0}"#, false),
    ] {
        let text = config(field, item);
        let mut read = None;
        let peak = peak(|| read = Some(Config::decode(text.as_bytes())));
        assert_below(CONFIG_PEAK, text.len(), field, peak);
        let refused = read.and_then(Result::err).map(|e| e.to_string());
        let of_limit = refused.is_some_and(|e| e.contains("more than"));
        assert_eq!(of_limit, limited, "{field}");
    }
}

#[test]
fn fuzz_buildkit_config_within_its_bound() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let corpus: Vec<_> = [2000, 100_000]
        .into_iter()
        .flat_map(buildkit_configs)
        .collect();
    let end = std::time::Instant::now() + fuzz_time();
    while std::time::Instant::now() < end {
        let mut text = rng
            .choice(&corpus)
            .expect("never empty")
            .clone()
            .into_bytes();
        mutate(&mut rng, &mut text);
        read_config(&text);
    }
}

#[test]
fn fuzz_manifest_readers_within_their_bound() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let corpus: Vec<_> = [2000, 100_000].into_iter().flat_map(manifests).collect();
    let end = std::time::Instant::now() + fuzz_time();
    while std::time::Instant::now() < end {
        let manifest = rng.choice(&corpus).expect("never empty");
        let mut text = manifest.bytes.to_vec();
        mutate(&mut rng, &mut text);
        read_manifest(&Manifest::new(&manifest.media_type, text));
    }
}
