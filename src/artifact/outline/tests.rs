//! What is read from a document, position by position.

use super::*;

fn outline(media_type: &str, json: &str) -> Result<Outline, NoManifest> {
    Outline::of(&Manifest::new(media_type, json.to_owned()))
}

fn d(n: u8) -> Digest {
    Digest::sha256_of(&[n])
}

fn children(outline: &Outline) -> Vec<Digest> {
    outline.children().map(|n| n.digest).collect()
}

#[test]
fn children_are_all_positions_but_layers_from_elsewhere() {
    let json = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/c","digest":"{}","size":1}},"layers":[
        {{"mediaType":"a/l","digest":"{}","size":1}},
        {{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":"{}","size":1}},
        {{"mediaType":"a/l","digest":"{}","size":1,"urls":["https://x"]}}],
        "blobs":[{{"digest":"{}"}}],"fsLayers":[{{"blobSum":"{}"}}],
        "subject":{{"digest":"{}"}},"annotations":{{"k":"v"}},"x":{{"y":[1]}}}}"#,
        d(1),
        d(2),
        d(3),
        d(4),
        d(6),
        d(7),
        d(5)
    );
    let found = outline(media::IMAGE_MANIFEST, &json).unwrap();
    assert_eq!(children(&found), [d(1), d(2), d(6), d(7)]);
    assert_eq!(found.only_elsewhere(), BTreeSet::from([d(3), d(4)]));
    assert_eq!(found.subject, Some(d(5)));
    assert_eq!(found.artifact_type.as_deref(), Some("a/c"));
    assert_eq!(found.annotations["k"], "v");
    let granting = found.named.iter().filter(|n| n.grants_sight());
    let granting: Vec<Digest> = granting.map(|n| n.digest).collect();
    assert_eq!(granting, [d(1), d(2)]);
}

#[test]
fn only_layers_can_be_elsewhere() {
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    for (position, media_type, role, elsewhere) in [
        ("config", "a/c", Role::Config, false),
        ("layers", "a/l", Role::Layer, true),
        ("layers", media::IMAGE_MANIFEST, Role::Layer, true),
        ("manifests", media::IMAGE_MANIFEST, Role::Manifest, false),
        ("manifests", media::DOCKER_LIST, Role::Manifest, false),
        ("manifests", media::BUILDKIT_CONFIG, Role::Blob, false),
        ("manifests", "", Role::Blob, false),
        ("manifests", layer, Role::Layer, true),
        ("blobs", layer, Role::Blob, false),
    ] {
        let child = format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":3,"urls":["x"]}}"#,
            d(1)
        );
        let list = if position == "config" {
            child
        } else {
            format!("[{child}]")
        };
        let found = outline("a/b", &format!(r#"{{"{position}":{list}}}"#)).unwrap();
        let [named] = &found.named[..] else {
            panic!("{position} {media_type}: {found:?}");
        };
        let seen = (named.role, named.elsewhere, named.size);
        assert_eq!(seen, (role, elsewhere, Some(3)), "{position} {media_type}");
        assert!(!named.grants_sight(), "{position} {media_type}");
    }
}

#[test]
fn urls_that_are_none_do_not_make_a_layer_come_from_elsewhere() {
    for urls in ["null", "[]"] {
        let json = format!(r#"{{"layers":[{{"digest":"{}","urls":{urls}}}]}}"#, d(1));
        let found = outline(media::IMAGE_MANIFEST, &json).unwrap();
        assert!(
            found.named[0].grants_sight() && !found.named[0].elsewhere,
            "{urls}"
        );
    }
    for urls in ["5", "[5]", "\"x\""] {
        let json = format!(r#"{{"layers":[{{"digest":"{}","urls":{urls}}}]}}"#, d(1));
        assert!(outline(media::IMAGE_MANIFEST, &json).is_err(), "{urls}");
    }
}

#[test]
fn digest_that_is_also_named_as_a_child_is_a_child() {
    let json = format!(
        r#"{{"layers":[{{"digest":"{0}","urls":["x"]}},{{"digest":"{0}"}}]}}"#,
        d(1)
    );
    let found = outline(media::IMAGE_MANIFEST, &json).unwrap();
    assert_eq!(children(&found), [d(1)]);
    assert_eq!(found.only_elsewhere(), BTreeSet::new());
}

#[test]
fn image_that_is_an_index_too_is_ambiguous() {
    for (json, want) in [
        (r#"{"layers":[],"manifests":[]}"#, true),
        (r#"{"layers":[],"blobs":[]}"#, false),
        (r#"{"manifests":[]}"#, false),
    ] {
        let found = outline(media::IMAGE_INDEX, json).unwrap();
        assert_eq!(found.is_ambiguous, want, "{json}");
    }
}

#[test]
fn what_is_no_size_is_refused() {
    for (size, is_one) in [
        ("0", true),
        ("9007199254740993", true),
        ("-1", false),
        ("1e30", false),
        ("1180591620717411303424", false),
        ("\"1\"", false),
    ] {
        let json = format!(r#"{{"manifests":[{{"digest":"{}","size":{size}}}]}}"#, d(1));
        assert_eq!(outline(media::IMAGE_INDEX, &json).is_ok(), is_one, "{size}");
    }
}

#[test]
fn index_without_artifact_type_has_none() {
    let json = format!(r#"{{"manifests":[{{"digest":"{}"}}]}}"#, d(1));
    let found = outline(media::IMAGE_INDEX, &json).unwrap();
    assert_eq!(children(&found), [d(1)]);
    assert_eq!(found.artifact_type, None);
}

#[test]
fn what_is_no_manifest_says_why() {
    let sent = media::IMAGE_MANIFEST;
    assert!(matches!(outline(sent, "[]"), Err(NoManifest::Json(_))));
    assert!(matches!(outline(sent, ""), Err(NoManifest::Json(_))));
    assert!(matches!(
        outline(sent, r#"{"layers":[{"digest":"sha256:1"}]}"#),
        Err(NoManifest::Json(_))
    ));
    assert!(matches!(
        outline(sent, r#"{"mediaType":"a/b"}"#),
        Err(NoManifest::MediaType { .. })
    ));
    assert_eq!(
        outline(sent, r#"{"schemaVersion":1}"#),
        Err(NoManifest::SchemaOne)
    );
}

#[test]
fn a_list_of_the_values_of_fields_is_no_document_and_no_descriptor() {
    let child = format!(r#"["a/b","{}",1,[]]"#, d(1));
    let fields = format!(
        r#"[2,"{}",null,null,[],null,null,null,null,null]"#,
        media::IMAGE_MANIFEST
    );
    for document in [
        fields,
        format!(r#"{{"config":{child}}}"#),
        format!(r#"{{"layers":[{child}]}}"#),
        format!(r#"{{"manifests":[{child}]}}"#),
        format!(r#"{{"blobs":[{child}]}}"#),
        format!(r#"{{"fsLayers":[["{}"]]}}"#, d(1)),
        format!(r#"{{"subject":{child}}}"#),
    ] {
        let read = outline(media::IMAGE_MANIFEST, &document);
        assert!(matches!(read, Err(NoManifest::Json(_))), "{document}");
        let stored = Manifest::new(media::IMAGE_MANIFEST, document.clone());
        assert!(Outline::of_stored(&stored).is_err(), "{document}");
    }
}

#[test]
fn field_that_is_given_twice_is_refused() {
    // Which of the two counts, two readers could see differently.
    let json = format!(r#"{{"layers":[],"layers":[{{"digest":"{}"}}]}}"#, d(1));
    assert!(outline(media::IMAGE_MANIFEST, &json).is_err());
}
