//! Reading and writing cache configs.

use super::*;

/// As BuildKit wrote it (buildkit-cache.md §1.1), digests made whole. The parent of the last layer is 0.
fn sample() -> String {
    let [aa, bb, cc, dd, ee] =
        ["aa", "bb", "cc", "dd", "ee"].map(|x| format!("sha256:{}", x.repeat(32)));
    let [k1, k2, k3, k4] = ["16", "8f", "90", "a1"].map(|x| format!("sha256:{}", x.repeat(32)));
    format!(
        concat!(
            r#"{{"layers":[{{"blob":"{aa}","parent":4}},{{"blob":"{bb}","parent":-1}},{{"blob":"{cc}"}},{{"blob":"{dd}","parent":2}},"#,
            r#"{{"blob":"{ee}","parent":-1}}],"records":[{{"layers":[{{"layer":1,"createdAt":"2026-11-23T04:02:08.085920229Z"}}],"#,
            r#""digest":"{k1}","inputs":[[{{"link":3}}]]}},{{"layers":[{{"layer":0,"createdAt":"2026-11-23T04:02:09Z"}}],"#,
            r#""digest":"{k2}","inputs":[[{{"selector":"{k4}","link":0}},{{"link":2}}],[{{"link":3}}]]}},{{"digest":"{k3}"}},{{"digest":"{k4}"}}]}}"#,
        ),
        aa = aa,
        bb = bb,
        cc = cc,
        dd = dd,
        ee = ee,
        k1 = k1,
        k2 = k2,
        k3 = k3,
        k4 = k4,
    )
}

#[test]
fn what_buildkit_wrote_is_read_and_written_byte_for_byte() {
    let config = CacheConfig::read(sample().as_bytes()).unwrap();
    assert_eq!(String::from_utf8(config.write()).unwrap(), sample());
}

#[test]
fn an_absent_parent_is_the_first_layer_and_minus_one_is_none() {
    let config = CacheConfig::read(sample().as_bytes()).unwrap();
    let parents: Vec<_> = config.layers().iter().map(|l| l.parent).collect();
    assert_eq!(parents, [Some(4), None, Some(0), Some(2), None]);
}

#[test]
fn chains_and_annotations_of_layers_are_kept_and_unknown_keys_are_not() {
    let text = json!({
        "layers": [{
            "blob": blob("a"), "parent": -1, "new": 1,
            "annotations": { "mediaType": media::LAYER_GZIP, "diffID": blob("plain a"), "size": 7, "createdAt": "2026-11-23T04:02:08Z", "new": 2 },
        }],
        "records": [{ "digest": "k", "chains": [{ "layers": [0, 0], "createdAt": "2026-11-23T04:02:08+01:00" }], "new": [[]] }],
        "new": {},
    });
    let config = CacheConfig::read(text.to_string().as_bytes()).unwrap();
    let want = format!(
        concat!(
            r#"{{"layers":[{{"blob":"{a}","parent":-1,"annotations":{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","#,
            r#""diffID":"{p}","size":7,"createdAt":"2026-11-23T04:02:08Z"}}}}],"#,
            r#""records":[{{"chains":[{{"layers":[0,0],"createdAt":"2026-11-23T03:02:08Z"}}],"digest":"k"}}]}}"#,
        ),
        a = blob("a"),
        p = blob("plain a"),
    );
    assert_eq!(String::from_utf8(config.write()).unwrap(), want);
    assert_eq!(CacheConfig::read(want.as_bytes()).unwrap(), config);
}

#[test]
fn what_go_leaves_out_or_calls_null_is_empty() {
    for text in [
        "{}",
        r#"{"layers":null,"records":null}"#,
        r#"{"layers":[],"records":[]}"#,
    ] {
        assert_eq!(
            CacheConfig::read(text.as_bytes()).unwrap(),
            CacheConfig::default(),
            "{text}"
        );
    }
    let text = format!(
        r#"{{"layers":[{{"blob":"{}","parent":-1,"annotations":{{}}}}],"records":[{{"layers":[{{}}],"chains":[{{"layers":null}}],"inputs":null}}]}}"#,
        blob("a")
    );
    let config = CacheConfig::read(text.as_bytes()).unwrap();
    let record = &config.records()[0];
    assert_eq!(
        (record.results[0].layer, record.chains[0].layers.len()),
        (0, 0)
    );
    let zero = r#""createdAt":"0001-01-01T00:00:00Z""#;
    let written = String::from_utf8(config.write()).unwrap();
    assert_eq!(written.matches(zero).count(), 3, "{written}");
}

#[test]
fn what_the_reader_of_buildkit_refuses_is_refused_with_the_reason() {
    let a = blob("a");
    let layers = format!(r#""layers":[{{"blob":"{a}","parent":-1}}]"#);
    for (text, why) in [
        (
            r#"{"records":[{"layers":[{"layer":0}]}]}"#.to_owned(),
            "names layer 0, which does not exist",
        ),
        (
            format!(r#"{{{layers},"records":[{{"layers":[{{"layer":1}}]}}]}}"#),
            "names layer 1, which does not exist",
        ),
        (
            format!(r#"{{{layers},"records":[{{"layers":[{{"layer":-1}}]}}]}}"#),
            "invalid value",
        ),
        (
            format!(r#"{{{layers},"records":[{{"chains":[{{"layers":[0,1]}}]}}]}}"#),
            "names layer 1, which does not exist",
        ),
        (
            format!(r#"{{"layers":[{{"blob":"{a}"}}]}}"#),
            "is its own parent's parent",
        ),
        (
            format!(r#"{{"layers":[{{"blob":"{a}","parent":1}},{{"blob":"{a}"}}]}}"#),
            "is its own parent's parent",
        ),
        (
            format!(r#"{{"layers":[{{"blob":"{a}","parent":1}}]}}"#),
            "has a parent that does not exist",
        ),
        (
            format!(r#"{{"layers":[{{"blob":"{a}","parent":-2}}]}}"#),
            "is negative",
        ),
        (
            r#"{"records":[{"inputs":[[{"link":0}]]}]}"#.to_owned(),
            "in a loop",
        ),
        (
            r#"{"records":[{"inputs":[[{"link":1}]]},{"inputs":[[{"link":0}]]}]}"#.to_owned(),
            "in a loop",
        ),
        (
            r#"{"records":[{"inputs":[[{"link":1}]]}]}"#.to_owned(),
            "links to record 1, which does not exist",
        ),
        (
            r#"{"records":[{"inputs":[[{"link":-1}]]}]}"#.to_owned(),
            "invalid value",
        ),
        (
            r#"{"records":[{"inputs":[[{"link":1}],[]]},{}]}"#.to_owned(),
            "an input without alternatives",
        ),
        (
            r#"{"records":[{"inputs":[[{"link":1}]]},{"digest":"random:1"}]}"#.to_owned(),
            "whose key is not cacheable",
        ),
    ] {
        let error = CacheConfig::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn the_bytes_must_be_those_that_the_manifest_names() {
    let manifest = read(&manifest(Form::Image, vec![], b"{}"));
    assert!(Part::read(manifest.clone(), b"{}").is_ok());
    assert!(Part::read(manifest, b"{ }").is_err());
}
