//! One part cannot affect other parts that fit their share.

use super::*;

const LARGE: usize = 1_100_000;

/// A base, and a step of one's own on it.
fn honest(x: &str) -> Part {
    part(
        &["base", x],
        &json!([
            { "digest": "from", "layers": at(0, 1) },
            { "digest": format!("run {x}"), "inputs": [[{ "link": 0 }]], "layers": at(1, 2) },
        ]),
    )
}

/// Merged with two honest parts, which were pushed before it and, one of them, after it; no honest result may be missing.
fn keeps_the_others(stranger: &Part) {
    let (one, two) = (honest("a"), honest("b"));
    for (at_one, at_two) in [(1, 2), (1, 9)] {
        let one = one.clone().pushed_at(Some(second(at_one)));
        let two = two.clone().pushed_at(Some(second(at_two)));
        let stranger = stranger.clone().pushed_at(Some(second(5)));
        let merged = merged(&[&stranger, &one, &two]);
        assert!(merged.manifest.bytes.len() < 1 << 20 && merged.config_bytes.len() < 1 << 20);
        let whole = again(&merged);
        assert!(contains(&whole, &one) && contains(&whole, &two));
        let base = whole.manifest.layers();
        let base = base.iter().find(|l| l.digest == blob("base")).unwrap();
        assert_eq!(base, &one.manifest.layers()[0]);
    }
}

fn stranger(layers: Vec<Value>, records: &Value) -> Part {
    let config = json!({
        "layers": [{ "blob": blob("base"), "parent": -1 }, { "blob": blob("own") }],
        "records": records,
    });
    part_of(Form::Image, layers, &config)
}

#[test]
fn annotations_of_one_part_take_no_layer_from_others() {
    for (key, value) in [
        ("containerd.io/uncompressed", "zzz".to_owned()),
        ("buildkit/createdat", "zzz".to_owned()),
        ("buildkit/createdat", "2026-13-01T00:00:00Z".to_owned()),
        ("containerd.io/snapshot/stargz/toc.digest", "zzz".to_owned()),
        ("note", "z".repeat(LARGE)),
    ] {
        let records = json!([{ "digest": "own", "layers": at(1, 3) }]);
        for which in 0..2 {
            let mut layers = layers(&["base", "own"]);
            layers[which]["annotations"][key] = json!(value);
            keeps_the_others(&stranger(layers, &records));
        }
    }
    let mut layers = layers(&["base", "own"]);
    layers[1]["mediaType"] = json!("z".repeat(LARGE));
    keeps_the_others(&stranger(
        layers,
        &json!([{ "digest": "own", "layers": at(1, 3) }]),
    ));
}

#[test]
fn a_record_that_cannot_fit_leaves_out_itself_alone() {
    let key = "z".repeat(LARGE);
    for records in [
        json!([{ "digest": key, "layers": at(1, 3) }]),
        json!([{ "digest": "from" }, { "digest": "own", "inputs": [[{ "link": 0, "selector": key }]], "layers": at(1, 3) }]),
        // More ways to the honest keys.
        json!([{ "digest": "from" }, { "digest": "run a", "inputs": [[{ "link": 0, "selector": key }, { "link": 0 }]], "layers": at(1, 3) }]),
        json!([{ "digest": "from" }, { "digest": key }, { "digest": "run a", "inputs": [[{ "link": 1 }, { "link": 0 }]], "layers": at(1, 3) }]),
    ] {
        keeps_the_others(&stranger(layers(&["base", "own"]), &records));
    }
}

#[test]
fn a_chain_that_cannot_fit_leaves_out_itself_alone() {
    let stacked: Vec<Value> = (0..20_000)
        .map(|i| json!({ "blob": blob("own"), "parent": i - 1 }))
        .collect();
    for digest in ["own", "from"] {
        let config = json!({ "layers": stacked, "records": [{ "digest": digest, "layers": at(19_999, 3) }] });
        keeps_the_others(&part_of(Form::Image, layers(&["own"]), &config));
    }
    let records: Vec<Value> = (0..20_000)
        .map(|i| match i {
            0 => json!({ "digest": "from" }),
            _ => json!({ "digest": format!("own {i}"), "inputs": [[{ "link": i - 1 }]], "layers": at(0, 3) }),
        })
        .collect();
    let took = Cpu::start();
    keeps_the_others(&part(&["own"], &records.into()));
    assert!(took.so_far() < Duration::from_mins(1));
}

#[test]
fn what_is_tried_in_vain_is_bounded() {
    // That each of them has no room shows after some ten thousand steps.
    let stacked: Vec<Value> = (0..20_000)
        .map(|i| json!({ "blob": blob("own"), "parent": i - 1 }))
        .collect();
    let records: Vec<Value> = (0..4000)
        .map(|i| json!({ "digest": format!("own {i}"), "layers": at(19_999, 3) }))
        .collect();
    let config = json!({ "layers": stacked, "records": records });
    let stranger = part_of(Form::Image, layers(&["own"]), &config).pushed_at(Some(second(5)));
    let others: Vec<Part> = (0..100)
        .map(|n| honest(&format!("a{n}")).pushed_at(Some(second(1))))
        .collect();
    let all: Vec<&Part> = others.iter().chain([&stranger]).collect();
    let took = Cpu::start();
    assert_eq!(merged(&all).results, 101);
    let took = took.so_far();
    assert!(took < Duration::from_mins(1), "{took:?}");
}

#[test]
fn many_records_of_one_part_leave_their_share_to_others() {
    let records: Vec<Value> = (0..40_000)
        .map(|i| json!({ "digest": i.to_string(), "layers": at(0, 3) }))
        .collect();
    let many = part(&["own"], &records.into());
    keeps_the_others(&many);
    let merged = merged(&[&honest("a"), &many.pushed_at(Some(second(5)))]);
    assert!(
        merged.config_bytes.len() > (1 << 20) * 3 / 4,
        "{}",
        merged.config_bytes.len()
    );
}

#[test]
fn false_links_that_make_loops_take_no_way_from_others() {
    let step = |name: &str, links: &[usize]| {
        let ways: Vec<Value> = links.iter().map(|l| json!({ "link": l })).collect();
        json!({ "digest": name, "inputs": [ways] })
    };
    let mut records = vec![json!({ "digest": "from" })];
    records.extend((1..6).map(|n| step(&format!("n{n}"), &[n - 1])));
    let mut own = records[..5].to_vec();
    let mut last = step("c", &[5]);
    last["layers"] = at(0, 1);
    records.push(last);
    let honest = part(&["l"], &records.into());
    own.push(json!({ "digest": "X" }));
    own.extend([
        step("c", &[5]),
        step("n5", &[4, 6]),
        step("n5", &[4]),
        step("c", &[8, 5]),
        json!({ "digest": "Z", "layers": at(0, 1) }),
    ]);
    let liar = part(&["l"], &own.into());
    for (honest_at, liar_at) in [(1, 2), (2, 1)] {
        let honest = honest.clone().pushed_at(Some(second(honest_at)));
        let liar = liar.clone().pushed_at(Some(second(liar_at)));
        let one = merged(&[&liar, &honest]);
        assert!(one.dropped.loops > 0);
        assert!(contains(&again(&one), &honest), "{}", config_of(&one));
        assert_eq!(merged(&[&honest, &liar]), one);
    }
}

#[test]
fn of_links_that_loop_together_those_of_the_part_pushed_last_stay() {
    // Of each of two keys it can be said that it follows the other.
    let says = |first: &str, then: &str| {
        part(
            &["l"],
            &json!([
                { "digest": "from" },
                { "digest": first, "inputs": [[{ "link": 0 }]] },
                { "digest": then, "inputs": [[{ "link": 0 }, { "link": 1 }]], "layers": at(0, 1) },
            ]),
        )
    };
    for (old, last) in [(("p", "q"), ("q", "p")), (("q", "p"), ("p", "q"))] {
        let old = says(old.0, old.1).pushed_at(Some(second(1)));
        let last = says(last.0, last.1).pushed_at(Some(second(2)));
        let one = merged(&[&old, &last]);
        assert_eq!(one.dropped.loops, 1);
        assert!(contains(&again(&one), &last), "{}", config_of(&one));
    }
}

#[test]
fn a_part_that_contradicts_itself_or_has_no_such_layer_disputes_nothing() {
    let records = json!([{ "digest": "own", "layers": at(1, 3) }]);
    let honest = honest("a").pushed_at(Some(second(1)));
    let mut other = layer("base");
    other["annotations"]["containerd.io/uncompressed"] = json!(blob("another"));
    let twice = vec![layer("base"), other.clone(), layer("own")];
    let twice = stranger(twice, &records).pushed_at(Some(second(2)));
    other["size"] = json!(7);
    let wrong = stranger(vec![other, layer("own")], &records).pushed_at(Some(second(3)));
    let parts = [honest, twice, wrong];
    let lost = [(blob("base"), 7)].into();
    let claims = Claims::disputed(&parts, &lost);
    assert_eq!(claims.layers().count(), 0);
    let claims = Claims::disputed(&parts, &[].into());
    assert_eq!(claims.layers().count(), 1, "of another size");
}

#[test]
fn a_part_contains_none_that_describes_a_layer_in_another_way() {
    let honest = honest("a");
    let mut layers = layers(&["base", "a"]);
    layers[0]["annotations"]["containerd.io/uncompressed"] = json!(blob("another"));
    let config = serde_json::from_slice(&honest.config.write()).unwrap();
    let liar = part_of(Form::Image, layers, &config);
    assert!(contains(&honest, &honest));
    assert!(!contains(&liar, &honest));
}
