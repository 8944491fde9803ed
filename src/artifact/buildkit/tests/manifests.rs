//! Reading and pruning cache manifests.

use std::collections::HashSet;

use super::*;

#[test]
fn all_three_forms_are_read_with_their_layers_in_order() {
    for form in [Form::Image, Form::Index, Form::DockerList] {
        let text = manifest(form, layers(&["b", "a", "b"]), b"{}");
        let read = read(&text);
        assert_eq!(read.form(), form);
        assert_eq!(read.config().digest, Digest::sha256_of(b"{}"));
        let digests: Vec<_> = read.layers().iter().map(|l| l.digest).collect();
        assert_eq!(digests, [blob("b"), blob("a"), blob("b")]);
        let annotations = &read.layers()[1].annotations;
        assert_eq!(
            annotations["containerd.io/uncompressed"],
            blob("plain a").to_string()
        );
        assert_eq!(read.manifest(), &text);
    }
}

#[test]
fn what_is_no_cache_of_buildkit_is_none() {
    let image = json!({ "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob("c"), "size": 1 }, "layers": [layer("a")] });
    let index = json!({ "manifests": [{ "mediaType": media::IMAGE_MANIFEST, "digest": blob("m"), "size": 1 }] });
    let ours = json!({ "config": { "mediaType": media::CONFIG, "digest": blob("c"), "size": 1 }, "layers": [] });
    // A layer of that type is not a config.
    let layer = json!({ "config": { "mediaType": media::CONFIG }, "layers": [{ "mediaType": media::BUILDKIT_CONFIG }] });
    let texts = [image, index, ours, layer].map(|j| j.to_string());
    let others = [
        "",
        "{",
        "[]",
        "null",
        "1",
        "{}",
        r#"{"config":null}"#,
        r#"{"config":[1]}"#,
        r#"{"manifests":{}}"#,
        "\u{0}",
        "{}{}",
    ];
    for text in texts.iter().map(String::as_str).chain(others) {
        let manifest = Manifest::new(media::IMAGE_MANIFEST, text.to_owned());
        assert_eq!(CacheManifest::read(&manifest), Ok(None), "{text}");
    }
}

#[test]
fn one_that_claims_to_be_a_cache_and_makes_no_sense_is_an_error() {
    let typed = media::BUILDKIT_CONFIG;
    let config = json!({ "mediaType": typed, "digest": blob("c"), "size": 1 });
    let other = json!({ "mediaType": typed, "digest": blob("d"), "size": 1 });
    for (document, why) in [
        (
            json!({ "config": { "mediaType": typed } }),
            "missing field `digest`",
        ),
        (
            json!({ "config": { "mediaType": typed, "digest": "sha256:1", "size": 1 } }),
            "is not a digest",
        ),
        (
            json!({ "config": { "mediaType": typed, "digest": blob("c"), "size": -1 } }),
            "invalid value",
        ),
        (
            json!({ "config": config, "layers": [{ "digest": blob("a"), "size": 1 }] }),
            "`layers[0]` of the cache manifest: missing field `mediaType`",
        ),
        (
            json!({ "config": config, "layers": [layer("a"), 7] }),
            "`layers[1]`",
        ),
        (
            json!({ "config": config, "layers": {} }),
            "`layers` of the cache manifest",
        ),
        (
            json!({ "config": config, "manifests": [] }),
            "both an image and an index",
        ),
        (
            json!({ "manifests": [config], "layers": [] }),
            "both an image and an index",
        ),
        (json!({ "manifests": [config, other] }), "two configs"),
        (
            json!({ "mediaType": media::IMAGE_INDEX, "config": config }),
            "another media type",
        ),
        (
            json!({ "mediaType": media::IMAGE_MANIFEST, "manifests": [config] }),
            "another media type",
        ),
        (
            json!({ "mediaType": 1, "manifests": [config] }),
            "media type",
        ),
    ] {
        let manifest = Manifest::new(media::IMAGE_MANIFEST, document.to_string());
        let error = CacheManifest::read(&manifest).unwrap_err().to_string();
        assert!(error.contains(why), "{document}: {error}");
    }
    let twice = format!(r#"{{"config":{config},"layers":[],"layers":[]}}"#);
    let error = CacheManifest::read(&Manifest::new(media::IMAGE_MANIFEST, twice)).unwrap_err();
    assert!(error.to_string().contains("two fields `layers`"));
}

#[test]
fn go_takes_null_for_empty_and_so_do_we() {
    let config = json!({ "mediaType": media::BUILDKIT_CONFIG, "digest": blob("c"), "size": 1, "annotations": null });
    let document = json!({ "mediaType": null, "config": config, "layers": null });
    let read = read(&Manifest::new(media::IMAGE_MANIFEST, document.to_string()));
    assert!(read.layers().is_empty());
}

/// Fields that we do not know, in an order and with spaces and numbers that a rewrite would not keep.
const ODD: &str = r#"{ "zeta": 1e2, "schemaVersion":2, "config":{"size":2,"digest":"CONFIG","mediaType":"application/vnd.buildkit.cacheconfig.v0","x":null},
  "layers" : [ {"digest":"A","size":1,"mediaType":"t","y":[1.0]},{"mediaType":"t","size":1,"digest":"B"} , {"mediaType":"t","size":1,"digest":"A"}], "a\u0062c":{"b" : "\u00e9"} }"#;

fn odd() -> Manifest {
    let text = ODD.replace("CONFIG", &blob("c").to_string());
    let text = text
        .replace("\"A\"", &format!("\"{}\"", blob("a")))
        .replace("\"B\"", &format!("\"{}\"", blob("b")));
    Manifest::new("application/vnd.oci.image.manifest.v1+json", text)
}

#[test]
fn a_whole_manifest_stays_as_it_is() {
    for lost in [vec![], vec![blob("z")], vec![blob("c")]] {
        assert_eq!(read(&odd()).without(&lost.into_iter().collect()), odd());
    }
}

#[test]
fn pruning_takes_every_descriptor_of_a_lost_blob_and_nothing_else() {
    let pruned = read(&odd()).without(&HashSet::from([blob("a"), blob("c")]));
    let want = format!(
        r#"{{"zeta":1e2,"schemaVersion":2,"config":{{"size":2,"digest":"{}","mediaType":"application/vnd.buildkit.cacheconfig.v0","x":null}},"layers":[{{"mediaType":"t","size":1,"digest":"{}"}}],"abc":{{"b" : "\u00e9"}}}}"#,
        blob("c"),
        blob("b"),
    );
    assert_eq!(std::str::from_utf8(&pruned.bytes).unwrap(), want);
    assert_eq!(pruned.media_type, odd().media_type);
    assert_eq!(pruned.digest, Digest::sha256_of(want.as_bytes()));
    assert_eq!(read(&pruned).layers().len(), 1);
}

#[test]
fn pruning_keeps_the_config_in_every_form() {
    for form in [Form::Image, Form::Index, Form::DockerList] {
        let whole = read(&manifest(form, layers(&["a", "b"]), b"{}"));
        let lost = HashSet::from([blob("a"), blob("b"), Digest::sha256_of(b"{}")]);
        let pruned = read(&whole.without(&lost));
        assert_eq!(
            (pruned.form(), pruned.config(), pruned.layers().len()),
            (form, whole.config(), 0)
        );
        assert_eq!(pruned.without(&lost), *pruned.manifest());
    }
}

#[test]
fn pruning_in_two_steps_is_pruning_at_once() {
    let whole = read(&odd());
    let steps =
        read(&whole.without(&HashSet::from([blob("b")]))).without(&HashSet::from([blob("a")]));
    assert_eq!(steps, whole.without(&HashSet::from([blob("a"), blob("b")])));
}
