//! Whether one cache makes another redundant, how much a cache holds, and whether it shrinks.

use super::*;

fn steps(names: &[&str], day: u32) -> Part {
    let record = |(i, name): (usize, &&str)| match i {
        0 => json!({ "digest": name, "layers": at(0, day) }),
        _ => json!({ "digest": name, "inputs": [[{ "link": i - 1 }]], "layers": at(i, day) }),
    };
    let records: Vec<Value> = names.iter().enumerate().map(record).collect();
    part(names, &records.into())
}

#[test]
fn a_longer_build_contains_a_shorter_one_however_old() {
    let (short, long) = (steps(&["a", "b"], 9), steps(&["a", "b", "c"], 1));
    assert!(contains(&long, &short));
    assert!(!contains(&short, &long));
    assert!(contains(&short, &short));
}

#[test]
fn other_results_of_the_same_keys_are_as_good() {
    let rebuilt = part(
        &["x", "y"],
        &json!([
            { "digest": "a", "layers": at(0, 5) },
            { "digest": "b", "inputs": [[{ "link": 0 }]], "layers": at(1, 5) },
        ]),
    );
    assert!(contains(&rebuilt, &steps(&["a", "b"], 1)));
}

#[test]
fn a_key_without_result_or_with_lost_blobs_contains_nothing() {
    let old = steps(&["a", "b"], 1);
    let bare = part(
        &["a"],
        &json!([
            { "digest": "a", "layers": at(0, 5) },
            { "digest": "b", "inputs": [[{ "link": 0 }]] },
        ]),
    );
    assert!(!contains(&bare, &old));
    let new = steps(&["a", "b", "c"], 5);
    let lost = Part {
        manifest: read(&new.manifest.without(&[blob("b")].into())),
        ..new
    };
    assert!(!contains(&lost, &old));
    // What the older one lost as well is not missed.
    let older = Part {
        manifest: read(&old.manifest.without(&[blob("b")].into())),
        ..old
    };
    assert!(contains(&steps(&["a"], 1), &older));
}

#[test]
fn every_alternative_of_every_input_must_be_there() {
    let with = |ways: Value| {
        part(
            &["l"],
            &json!([
                { "digest": "key" }, { "digest": "content" }, { "digest": "x", "inputs": [[{ "link": 0 }]] },
                { "digest": "step", "inputs": [ways], "layers": at(0, 1) },
            ]),
        )
    };
    let one = with(json!([{ "link": 0 }]));
    let two = with(json!([{ "link": 0 }, { "link": 1 }]));
    let other = with(json!([{ "link": 0, "selector": "s" }]));
    assert!(contains(&two, &one));
    assert!(!contains(&one, &two));
    assert!(!contains(&two, &other) && !contains(&other, &two));
}

#[test]
fn what_the_newer_one_says_of_a_layer_takes_no_result_from_the_older_one() {
    let old = steps(&["a", "b"], 1);
    for (field, lie) in [("size", json!(7)), ("mediaType", json!(media::LAYER_TAR))] {
        let mut false_layer = layer("a");
        false_layer[field] = lie;
        let config = json!({
            "layers": [{ "blob": blob("a"), "parent": -1 }, { "blob": blob("c"), "parent": -1 }],
            "records": [{ "digest": "c", "layers": at(1, 2) }],
        });
        let new = part_of(Form::Image, vec![false_layer, layer("c")], &config);
        assert!(!contains(&new, &old), "{field}");
    }
}

#[test]
fn glue_of_the_older_one_is_not_missed() {
    let old = part(
        &["a"],
        &json!([
            { "digest": "a", "layers": at(0, 1) }, { "digest": "nothing", "inputs": [[{ "link": 0 }]] },
        ]),
    );
    assert!(contains(&steps(&["a"], 1), &old));
}

#[test]
fn an_extent_counts_what_is_there_and_what_is_lost() {
    let config = json!({
        "layers": [{ "blob": blob("a"), "parent": -1 }, { "blob": blob("b") }, { "blob": blob("a"), "parent": 1 }],
        "records": [
            { "digest": "k", "layers": [{ "layer": 0, "createdAt": "2026-11-23T00:00:00Z" }, { "layer": 1, "createdAt": "2026-11-23T00:00:00Z" }] },
            { "digest": "glue" },
        ],
    });
    let part = part_of(Form::Index, layers(&["a", "c", "a"]), &config);
    let extent = Extent::of(&part);
    let want = Extent {
        records: 2,
        results: 1,
        lost_results: 1,
        layers: 3,
        blobs: 2,
        lost_blobs: 1,
        bytes: 202,
        config_bytes: part.manifest.config().size,
        manifest_bytes: part.manifest.manifest().bytes.len() as u64,
    };
    assert_eq!(extent, want);
}

#[test]
fn sizes_that_overflow_are_as_large_as_can_be() {
    let mut huge = layer("a");
    huge["size"] = json!(u64::MAX);
    let part = part_of(Form::Image, vec![huge, layer("b")], &json!({}));
    assert_eq!(Extent::of(&part).bytes, u64::MAX);
}

/// buildkit-cache.md, rule 10, as it was measured: 4 distinct blobs became 1.
#[test]
fn a_builder_that_only_imported_writes_a_shrunken_cache() {
    let (old, new) = (steps(&["a", "b", "c", "d"], 1), steps(&["a"], 1));
    let shrink = shrinks(&old, &new).unwrap();
    assert_eq!(
        (shrink.old.blobs, shrink.new.blobs, shrink.own_blobs),
        (4, 1, 0)
    );
    let said = "a cache of 4 blobs and 4 results would become one of 1 and 1, 0 of the blobs new";
    assert_eq!(shrink.to_string(), said);
    assert!(shrinks(&old, &part(&[], &json!([]))).is_some());
    assert!(contains(&again(&merged(&[&old, &new])), &old));
}

#[test]
fn a_cache_that_grows_stays_or_is_another_one_does_not_shrink() {
    let old = steps(&["a", "b", "c", "d"], 1);
    for new in [
        steps(&["a", "b", "c", "d", "e"], 2),
        steps(&["a", "b", "c", "d"], 2),
        steps(&["a", "b"], 2),
        steps(&["z"], 2),
        steps(&["a", "y", "z"], 2),
    ] {
        assert_eq!(shrinks(&old, &new), None, "{:?}", Extent::of(&new));
    }
    let nothing = part(&[], &json!([]));
    assert_eq!(shrinks(&nothing, &nothing), None);
    assert_eq!(shrinks(&nothing, &old), None);
}

#[test]
fn a_cache_that_lost_most_results_shrinks_even_with_the_same_blobs() {
    let old = steps(&["a", "b", "c", "d", "e"], 1);
    let new = part(
        &["a", "b", "c", "d", "e"],
        &json!([{ "digest": "a", "layers": at(4, 1) }]),
    );
    assert!(shrinks(&old, &new).is_some());
}
