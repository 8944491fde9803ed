//! Merging the keys, results and blobs of several caches.

use super::*;

/// Base, a step on it, and a step on that; keys and blobs are named after `x`.
fn build(x: &str, day: u32) -> Part {
    let names = ["base".to_owned(), format!("{x}1"), format!("{x}2")];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    part(
        &names,
        &json!([
            { "digest": "from", "layers": at(0, 1) },
            { "digest": format!("{x} run"), "inputs": [[{ "link": 0 }]], "layers": at(1, day) },
            { "digest": format!("{x} copy"), "inputs": [[{ "link": 1 }], [{ "selector": "files", "link": 3 }]], "layers": at(2, day) },
            { "digest": format!("{x} context") },
        ]),
    )
}

#[test]
fn two_builds_keep_all_their_results_and_share_what_is_the_same() {
    let (one, two) = (build("a", 2), build("b", 3));
    let merged = merged(&[&one, &two]);
    assert_eq!((merged.records, merged.results), (7, 5));
    assert_eq!(merged.dropped, Dropped::default());
    let part = again(&merged);
    assert_eq!(part.config.layers().len(), 5);
    assert_eq!(part.manifest.layers().len(), 5);
    assert!(contains(&part, &one) && contains(&part, &two));
    assert!(!contains(&one, &two) && !contains(&two, &one));
}

#[test]
fn the_order_of_parts_and_repetitions_do_not_matter() {
    let (one, two, three) = (build("a", 2), build("b", 3), build("a", 9));
    let first = merged(&[&one, &two, &three]);
    assert_eq!(merged(&[&three, &one, &two, &two, &three]), first);
    let together = again(&first).pushed_at(Some(second(9)));
    assert_eq!(merged(&[&together, &two]), first);
    assert_eq!(merged(&[&one, &one]), merged(&[&one]));
}

fn result_of(merged: &Merged) -> (Vec<Digest>, Value) {
    let part = again(merged);
    let blobs = part.manifest.layers().iter().map(|l| l.digest).collect();
    (blobs, config_of(merged)["records"][0]["layers"].clone())
}

#[test]
fn of_two_results_of_one_key_that_of_the_part_pushed_last_stays() {
    let parts = ["bad", "good"].map(|x| {
        let made = if x == "bad" {
            "9999-01-01T00:00:00Z"
        } else {
            "2026-11-03T04:02:08.5Z"
        };
        let results = json!([{ "layer": 0, "createdAt": made }]);
        part(&[x], &json!([{ "digest": "k", "layers": results }]))
    });
    let [bad, good] = parts;
    let (early, late) = (Some(second(3)), Some(second(4)));
    for (bad_at, good_at, want) in [
        (early, late, "good"),
        (late, early, "bad"),
        (None, early, "good"),
    ] {
        let (bad, good) = (
            bad.clone().pushed_at(bad_at),
            good.clone().pushed_at(good_at),
        );
        let one = merged(&[&bad, &good]);
        assert_eq!(one, merged(&[&good, &bad]));
        assert_eq!(result_of(&one).0, [blob(want)]);
    }
}

#[test]
fn no_result_is_written_as_newer_than_its_part() {
    let made = |at: &str| json!([{ "digest": at, "layers": [{ "layer": 0, "createdAt": at }] }]);
    let ahead = part(&["l"], &made("9999-01-01T00:00:00Z")).pushed_at(Some(second(3)));
    let other = part(&["l"], &made("2026-11-01T00:00:00Z")).pushed_at(Some(second(4)));
    let merged = config_of(&merged(&[&ahead, &other]));
    let mut times: Vec<&str> = Vec::new();
    for record in merged["records"].as_array().unwrap() {
        times.push(record["layers"][0]["createdAt"].as_str().unwrap());
    }
    times.sort_unstable();
    assert_eq!(times, ["2026-11-01T00:00:00Z", "2026-12-01T00:00:03Z"]);
}

#[test]
fn of_two_results_of_one_moment_all_replicas_take_the_same() {
    for time in [None, Some(second(1))] {
        let parts = ["a", "b", "c"].map(|x| {
            let part = part(&[x], &json!([{ "digest": "k", "layers": at(0, 3) }]));
            part.pushed_at(time)
        });
        let [a, b, c] = &parts;
        let last = [a, b, c]
            .into_iter()
            .max_by_key(|p| p.manifest.manifest().digest)
            .unwrap();
        let one = merged(&[a, b, c]);
        assert_eq!(one, merged(&[c, b, a]));
        assert_eq!(result_of(&one).0, [last.manifest.layers()[0].digest]);
    }
}

#[test]
fn a_newer_result_whose_blobs_were_lost_does_not_hide_an_older_one() {
    let old = part(&["old"], &json!([{ "digest": "k", "layers": at(0, 3) }]));
    let new = part(
        &["base", "new"],
        &json!([{ "digest": "k", "layers": at(1, 4) }]),
    );
    let pruned = Part {
        manifest: read(&new.manifest.without(&[blob("base")].into())),
        ..new.clone()
    };
    let merged = merged(&[&old, &pruned]);
    assert_eq!(merged.dropped.unusable, 1);
    let blobs: Vec<_> = again(&merged)
        .manifest
        .layers()
        .iter()
        .map(|l| l.digest)
        .collect();
    assert_eq!(blobs, [blob("old")]);
}

#[test]
fn chains_become_layers_with_parents() {
    let config = json!({
        "layers": [{ "blob": blob("b"), "parent": -1 }, { "blob": blob("a"), "parent": -1 }],
        "records": [
            { "digest": "k", "chains": [{ "layers": [1, 0], "createdAt": "2026-11-23T00:00:00Z" }] },
            { "digest": "empty", "chains": [{ "layers": [], "createdAt": "2026-11-23T00:00:00Z" }] },
        ],
    });
    let inline = part_of(Form::Image, layers(&["a", "b"]), &config);
    let merged = config_of(&merged(&[&inline]));
    let want = json!({
        "layers": [{ "blob": blob("a"), "parent": -1 }, { "blob": blob("b") }],
        "records": [{ "digest": "k", "layers": [{ "layer": 1, "createdAt": "2026-11-23T00:00:00Z" }] }],
    });
    assert_eq!(merged, want);
}

#[test]
fn one_blob_on_two_parents_is_two_layers_and_one_descriptor() {
    let stack = |below: &str| {
        part(
            &[below, "shared"],
            &json!([{ "digest": format!("on {below}"), "layers": at(1, 3) }]),
        )
    };
    let merged = again(&merged(&[&stack("a"), &stack("b")]));
    assert_eq!(
        (merged.config.layers().len(), merged.manifest.layers().len()),
        (4, 3)
    );
}

#[test]
fn keys_with_an_alternative_of_each_input_in_common_are_one_as_for_buildkit() {
    let with = |ways: Value, day| {
        part(
            &["x"],
            &json!([
                { "digest": "key" }, { "digest": "content 1" }, { "digest": "content 2" },
                { "digest": "step", "inputs": [ways], "layers": at(0, day) },
            ]),
        )
    };
    let one = with(json!([{ "link": 0 }, { "link": 1 }]), 3);
    let two = with(json!([{ "link": 0 }, { "link": 2 }]), 4);
    let both = merged(&[&one, &two]);
    assert_eq!((both.records, both.results), (4, 1));
    assert_eq!(again(&both).config.records()[3].inputs[0].len(), 3);
    // With another selector it is another use of the input.
    let three = with(json!([{ "link": 0, "selector": "s" }]), 5);
    assert_eq!(merged(&[&one, &three]).results, 2);
    // With two inputs one is not enough.
    let pair = |a: usize, b: usize| {
        part(
            &["x"],
            &json!([
                { "digest": "r0" }, { "digest": "r1" }, { "digest": "r2" },
                { "digest": "step", "inputs": [[{ "link": a }], [{ "link": b }]], "layers": at(0, 3) },
            ]),
        )
    };
    assert_eq!(merged(&[&pair(0, 1), &pair(0, 2)]).results, 2);
}

#[test]
fn keys_that_become_one_make_one_of_what_is_built_on_them() {
    let config = json!([
        { "digest": "a" }, { "digest": "b" },
        { "digest": "x", "inputs": [[{ "link": 0 }]] },
        { "digest": "x", "inputs": [[{ "link": 1 }]] },
        { "digest": "y", "inputs": [[{ "link": 2 }]], "layers": at(0, 3) },
        { "digest": "y", "inputs": [[{ "link": 3 }]], "layers": at(0, 4) },
    ]);
    let apart = part(&["l"], &config);
    assert_eq!(merged(&[&apart]).records, 6);
    let joins = part(
        &["l"],
        &json!([
            { "digest": "a" }, { "digest": "b" },
            { "digest": "x", "inputs": [[{ "link": 1 }, { "link": 0 }]], "layers": at(0, 1) },
        ]),
    );
    let one = merged(&[&apart, &joins]);
    assert_eq!((one.records, one.results), (4, 2));
    assert!(
        !contains(&apart, &joins),
        "it does not know that both ways lead to one key"
    );
}

/// A step that changed nothing: what it gives has the content of what it took.
#[test]
fn links_that_would_loop_are_left_out_and_nothing_is_lost() {
    let part = part(
        &["l"],
        &json!([
            { "digest": "from" }, { "digest": "content" },
            { "digest": "workdir", "inputs": [[{ "link": 0 }, { "link": 1 }]], "layers": at(0, 1) },
            { "digest": "workdir", "inputs": [[{ "link": 2 }, { "link": 1 }]], "layers": at(0, 2) },
            { "digest": "run", "inputs": [[{ "link": 3 }]], "layers": at(0, 3) },
        ]),
    );
    let one = merged(&[&part]);
    assert_eq!((one.records, one.results, one.dropped.loops), (4, 2, 1));
    assert_eq!(merged(&[&again(&one)]).config_bytes, one.config_bytes);
}

#[test]
fn longer_loops_are_cut_where_they_go_away_from_the_roots() {
    let part = part(
        &["l"],
        &json!([
            { "digest": "from" },
            { "digest": "x", "inputs": [[{ "link": 0 }]], "layers": at(0, 1) },
            { "digest": "y", "inputs": [[{ "link": 1 }]], "layers": at(0, 2) },
            { "digest": "x", "inputs": [[{ "link": 0 }, { "link": 2 }]], "layers": at(0, 3) },
        ]),
    );
    let one = merged(&[&part]);
    assert_eq!((one.records, one.results, one.dropped.loops), (3, 2, 1));
    let inputs: Vec<usize> = again(&one)
        .config
        .records()
        .iter()
        .map(|r| r.inputs.iter().flatten().count())
        .collect();
    assert_eq!(inputs, [0, 1, 1]);
}

#[test]
fn keys_that_lead_to_nothing_and_keys_for_one_use_are_left_out() {
    let part = part(
        &["l"],
        &json!([
            { "digest": "from" }, { "digest": "x", "inputs": [[{ "link": 0 }]] },
            { "digest": "k", "layers": at(0, 1) }, { "digest": "random:1", "layers": at(0, 9) },
        ]),
    );
    let merged = merged(&[&part]);
    assert_eq!(
        (merged.records, merged.results, merged.dropped.glue),
        (1, 1, 2)
    );
}

#[test]
fn nothing_merged_is_an_empty_cache() {
    let merged = merged(&[]);
    assert_eq!(merged.config_bytes, b"{}");
    assert_eq!(
        (again(&merged).manifest.layers().len(), merged.results),
        (0, 0)
    );
}

fn of_type(name: &str, media_type: &str) -> Value {
    let mut layer = layer(name);
    layer["mediaType"] = media_type.into();
    layer
}

fn single(form: Form, media_type: &str, name: &str) -> Part {
    let records = json!([{ "digest": name, "layers": at(0, 1) }]);
    let config = json!({ "layers": [{ "blob": blob(name), "parent": -1 }], "records": records });
    part_of(form, vec![of_type(name, media_type)], &config)
}

#[test]
fn an_image_is_made_of_any_image_and_never_has_dockers_media_types() {
    let image = single(Form::Image, media::LAYER_GZIP, "a");
    let list = single(Form::DockerList, media::DOCKER_LAYER_GZIP, "b");
    let index = single(Form::Index, media::FULL_PACK, "c");
    let types = |parts: &[&Part]| {
        let merged = again(&merged(parts));
        let mut types: Vec<String> = merged
            .manifest
            .layers()
            .iter()
            .map(|l| l.media_type.clone())
            .collect();
        types.sort();
        (merged.manifest.form(), types)
    };
    let own = |t: &[&str]| t.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        types(&[&image, &list]),
        (Form::Image, own(&[media::LAYER_GZIP, media::LAYER_GZIP]))
    );
    assert_eq!(
        types(&[&index, &list]),
        (Form::Index, own(&[media::LAYER_GZIP, media::FULL_PACK]))
    );
    let zstd = single(Form::DockerList, media::FULL_PACK, "d");
    assert_eq!(
        types(&[&zstd, &list]),
        (
            Form::DockerList,
            own(&[media::DOCKER_LAYER_GZIP, media::DOCKER_LAYER_ZSTD])
        )
    );
    let other = single(Form::DockerList, "application/x", "e");
    assert_eq!(
        types(&[&other, &image]),
        (Form::Image, own(&[media::LAYER_GZIP, "application/x"]))
    );
}

#[test]
fn annotations_that_a_reader_uses_are_kept() {
    let mut leaked = layer("a");
    leaked["annotations"]["containerd.io/distribution.source.registry.example"] = "app,lib".into();
    leaked["annotations"]["containerd.io/snapshot/stargz/toc.digest"] = json!(blob("toc"));
    leaked["annotations"]["note"] = "of no use".into();
    let config = json!({ "layers": [{ "blob": blob("a"), "parent": -1 }], "records": [{ "digest": "k", "layers": at(0, 1) }] });
    let with = part_of(Form::Image, vec![leaked], &config).pushed_at(Some(second(1)));
    let without = part_of(Form::Image, layers(&["a"]), &config);
    let both = again(&merged(&[&with, &without]));
    let keys: Vec<&str> = both.manifest.layers()[0]
        .annotations
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        [
            "buildkit/createdat",
            "containerd.io/snapshot/stargz/toc.digest",
            "containerd.io/uncompressed"
        ]
    );
}

#[test]
fn a_blob_is_described_by_the_part_pushed_last_that_can_and_not_without_diff_id() {
    let config = json!({ "layers": [{ "blob": blob("a"), "parent": -1 }], "records": [{ "digest": "k", "layers": at(0, 1) }] });
    let good = part_of(Form::Image, layers(&["a"]), &config);
    let mut bare = layer("a");
    bare["annotations"] = json!({});
    let bare = part_of(Form::Image, vec![bare], &config).pushed_at(Some(second(1)));
    assert_eq!(merged(&[&bare]).results, 0);
    assert_eq!(merged(&[&bare, &good]).results, 1);
    let mut others = [layer("a"), layer("a"), layer("a")];
    others[0]["size"] = json!(7);
    others[1]["mediaType"] = json!(media::FULL_PACK);
    others[2]["annotations"]["containerd.io/uncompressed"] = json!(blob("another"));
    for other in others {
        let both = vec![layer("a"), other.clone()];
        let other = part_of(Form::Image, vec![other], &config);
        for (first, second_at) in [(3, 4), (4, 3)] {
            let good = good.clone().pushed_at(Some(second(first)));
            let other = other.clone().pushed_at(Some(second(second_at)));
            let last = if first > second_at { &good } else { &other };
            let merged = merged(&[&good, &other]);
            assert_eq!(merged.results, 1);
            assert_eq!(again(&merged).manifest.layers(), last.manifest.layers());
        }
        // A part that contradicts itself says nothing.
        let both = part_of(Form::Image, both, &config).pushed_at(Some(second(9)));
        assert_eq!(merged(&[&both]).results, 0);
        let merged = merged(&[&both, &good]);
        assert_eq!(again(&merged).manifest.layers(), good.manifest.layers());
    }
}
