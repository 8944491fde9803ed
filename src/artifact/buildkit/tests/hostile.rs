//! Malicious input: the reader must return an error quickly and without using much memory.

use super::*;

const MANY: usize = 4 << 20;

fn repeat(start: &str, unit: &str, end: &str) -> String {
    let count = (MANY - start.len() - end.len()) / unit.len() - 1;
    let mut text = String::with_capacity(MANY);
    text.push_str(start);
    text.push_str(&unit.repeat(count));
    text.push_str(unit.trim_end_matches(','));
    text.push_str(end);
    text
}

#[test]
fn large_and_deep_configs_are_refused() {
    for text in [
        "[".repeat(MANY),
        repeat("", r#"{"a":"#, ""),
        repeat(r#"{"x":"#, "[", "}"),
        repeat(r#"{"records":["#, "{},", "]}"),
        repeat(r#"{"records":[{"inputs":["#, "[],", "]}]}"),
        repeat(r#"{"records":[{"inputs":[["#, "{},", "]]}]}"),
        repeat(r#"{"records":[{"chains":["#, "{},", "]}]}"),
        repeat(r#"{"records":[{"chains":[{"layers":["#, "0,", "]}]}]}"),
        repeat(r#"{"records":[{"layers":["#, "{},", "]}]}"),
        repeat(r#"{"layers":["#, "{},", "]}"),
        format!(r#"{{"layers":[{{"blob":"{}"}}]}}"#, "é".repeat(1 << 20)),
        r#"{"layers":[{"blob":"sha256:00","parent":-1}]}"#.to_owned(),
        format!(
            r#"{{"layers":[{{"blob":"{}","parent":99999999999999999999}}]}}"#,
            blob("a")
        ),
        format!(
            r#"{{"layers":[{{"blob":"{}","parent":-9223372036854775808}}]}}"#,
            blob("a")
        ),
        r#"{"records":[{"inputs":[[{"link":18446744073709551615}]]}]}"#.to_owned(),
        r#"{"records":[{"inputs":[[{"link":1e0}]]}]}"#.to_owned(),
        r#"{"records":[{"digest":"a","digest":"b"}]}"#.to_owned(),
        r#"{"records":[{"layers":[{"createdAt":"2026-11-23"}]}]}"#.to_owned(),
        r#"{"records":{}}"#.to_owned(),
        "{}{}".to_owned(),
        " ".repeat(MAX_CONFIG_BYTES + 1),
        String::new(),
    ] {
        let error = CacheConfig::read(text.as_bytes())
            .map(|_| "read")
            .unwrap_err()
            .to_string();
        assert!(error.len() < 400, "{} bytes of error", error.len());
    }
    assert!(CacheConfig::read(b"\xff\xfe{}").is_err());
}

#[test]
fn large_and_deep_manifests_are_no_caches_or_refused() {
    let config = json!({ "mediaType": media::BUILDKIT_CONFIG, "digest": blob("c"), "size": 1 });
    for (text, refused) in [
        ("[".repeat(MANY), false),
        (repeat("{\"a\":", "[", "}"), false),
        (repeat("{\"manifests\":[", "{},", "]}"), false),
        (
            repeat(&format!("{{\"config\":{config},\"layers\":["), "{},", "]}"),
            true,
        ),
        (
            repeat(&format!("{{\"config\":{config},\"layers\":["), "[],", "]}"),
            true,
        ),
        (
            repeat(&format!("{{\"manifests\":[{config},"), "{},", "]}"),
            true,
        ),
    ] {
        let manifest = Manifest::new(media::IMAGE_MANIFEST, text);
        let read = CacheManifest::read(&manifest);
        assert_eq!(read.is_err(), refused, "{read:?}");
    }
}

#[test]
fn deep_unknown_fields_are_carried_through() {
    let config = json!({ "mediaType": media::BUILDKIT_CONFIG, "digest": blob("c"), "size": 1 });
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = format!(
        r#"{{"config":{config},"deep":{deep},"layers":[{}]}}"#,
        layer("a")
    );
    let pruned = read(&Manifest::new(media::IMAGE_MANIFEST, text)).without(&[blob("a")].into());
    assert!(std::str::from_utf8(&pruned.bytes).unwrap().contains(&deep));
}

#[test]
fn long_chains_of_layers_and_records_need_no_stack() {
    let layers: Vec<Value> = (0..20_000)
        .map(|i| json!({ "blob": blob("a"), "parent": i - 1 }))
        .collect();
    let records: Vec<Value> = (0..20_000)
        .map(|i| match i {
            0 => json!({ "digest": "k" }),
            _ => json!({ "digest": "k", "inputs": [[{ "link": i - 1 }]], "layers": at(i, 1) }),
        })
        .collect();
    let deep = part_of(
        Form::Image,
        self::layers(&["a"]),
        &json!({ "layers": layers, "records": records }),
    );
    let merged = merge(
        [&deep, &deep],
        Limits {
            max_bytes: MAX_CONFIG_BYTES,
        },
    );
    assert_eq!((merged.records, merged.results), (20_000, 19_999));
    assert!(contains(&deep, &deep));
}

/// A grid: every record shares each of its inputs with many, both with none.
#[test]
fn records_that_almost_match_are_compared_in_time() {
    let side = 130;
    let mut records: Vec<Value> = (0..2 * side)
        .map(|i| json!({ "digest": format!("root {i}") }))
        .collect();
    for (a, b) in (0..side).flat_map(|a| (0..side).map(move |b| (a, b))) {
        records.push(json!({ "digest": "k", "inputs": [[{ "link": a }], [{ "link": side + b }]], "layers": at(0, 1) }));
    }
    let grid = part(&["a"], &records.into());
    let took = Cpu::start();
    let merged = merge(
        [&grid],
        Limits {
            max_bytes: MAX_CONFIG_BYTES,
        },
    );
    assert_eq!(merged.results, side * side);
    assert!(took.so_far() < Duration::from_mins(1));
}

/// One key that ten thousand others lead to, and that becomes one with a thousand others, one after the other.
#[test]
fn a_key_that_grows_is_not_renamed_again_and_again() {
    let (many, joined) = (10_000, 1_000);
    let mut records = vec![
        json!({ "digest": "root" }),
        json!({ "digest": "x", "inputs": [[{ "link": 0 }]] }),
    ];
    for i in 0..many {
        records.push(json!({ "digest": format!("other {i}") }));
        let own = records.len() - 1;
        records.push(json!({ "digest": "k", "inputs": [[{ "link": 1 }], [{ "link": own }]], "layers": at(0, 1) }));
    }
    for i in 0..joined {
        let own = records.len();
        records.push(json!({ "digest": format!("root {i}") }));
        records.push(json!({ "digest": "x", "inputs": [[{ "link": own }]] }));
        records.push(json!({ "digest": "k", "inputs": [[{ "link": own + 1 }], [{ "link": own }]], "layers": at(0, 1) }));
        records.push(json!({ "digest": "x", "inputs": [[{ "link": 0 }, { "link": own }]] }));
    }
    let star = part(&["a"], &records.into());
    let took = Cpu::start();
    let merged = merge(
        [&star],
        Limits {
            max_bytes: MAX_CONFIG_BYTES,
        },
    );
    assert_eq!(merged.results, many + joined);
    assert_eq!(merged.records, 2 + 2 * many + 2 * joined);
    assert!(took.so_far() < Duration::from_mins(1));
}

#[test]
fn annotations_and_fields_of_a_manifest_are_few() {
    let config = json!({ "mediaType": media::BUILDKIT_CONFIG, "digest": blob("c"), "size": 1 });
    let annotated = |count: usize| {
        let annotations: serde_json::Map<_, _> =
            (0..count).map(|n| (n.to_string(), json!(""))).collect();
        json!({ "mediaType": media::LAYER_GZIP, "digest": blob("a"), "size": 1, "annotations": annotations })
    };
    let of = |entries: usize, count: usize| {
        let layers: Vec<Value> = (0..entries).map(|_| annotated(count)).collect();
        let document = json!({ "config": config, "layers": layers });
        CacheManifest::read(&Manifest::new(media::IMAGE_MANIFEST, document.to_string()))
    };
    assert!(of(1, 100).is_ok_and(|c| c.is_some()));
    assert!(of(1, 101).is_err());
    assert!(of(1000, 100).is_ok_and(|c| c.is_some()));
    assert!(of(1001, 100).is_err());
    let mut document = json!({ "config": config, "layers": [] });
    for n in 0..2000 {
        document[n.to_string()] = json!(1);
    }
    let many = Manifest::new(media::IMAGE_MANIFEST, document.to_string());
    assert!(!CacheManifest::read(&many).is_ok_and(|c| c.is_some()));
}
