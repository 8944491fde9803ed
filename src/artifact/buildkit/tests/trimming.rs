//! Merged caches that would be larger than BuildKit reads.

use super::*;

/// So many branches on one old base: branch `i` is two steps, made on the days `i` and `i + 1` from some start.
fn branches(x: &str, count: usize) -> Part {
    let mut layers = vec![json!({ "blob": blob("base"), "parent": -1 })];
    let mut records = vec![json!({ "digest": "from", "layers": at(0, 1) })];
    let mut described = vec![layer("base")];
    for i in 0..count {
        for step in 0..2 {
            let name = format!("{x}{i}.{step}");
            let below = if step == 0 { 0 } else { layers.len() - 1 };
            let link = if step == 0 { 0 } else { records.len() - 1 };
            let day = i + step;
            let created = format!(
                "20{:02}-{:02}-{:02}T00:00:00Z",
                30 + day / 336,
                day / 28 % 12 + 1,
                day % 28 + 1
            );
            layers.push(json!({ "blob": blob(&name), "parent": below }));
            records.push(json!({
                "digest": blob(&name), "inputs": [[{ "link": link }]],
                "layers": [{ "layer": layers.len() - 1, "createdAt": created }],
            }));
            described.push(layer(&name));
        }
    }
    part_of(
        Form::Image,
        described,
        &json!({ "layers": layers, "records": records }),
    )
}

#[test]
fn the_newest_branches_stay_with_the_base_that_they_stand_on() {
    let part = branches("a", 30);
    let whole = merged(&[&part]);
    assert_eq!((whole.records, whole.dropped), (61, Dropped::default()));
    let small = merge([&part], Limits { max_bytes: 6_000 });
    assert!(small.manifest.bytes.len() < 6_000 && small.config_bytes.len() < 6_000);
    assert!(
        small.manifest.bytes.len() > 5_000,
        "{}",
        small.manifest.bytes.len()
    );
    let kept = again(&small);
    let digests: Vec<&str> = kept
        .config
        .records()
        .iter()
        .map(|r| r.digest.as_str())
        .collect();
    assert!(digests.contains(&"from") && digests.contains(&blob("a29.1").to_string().as_str()));
    assert!(!digests.contains(&blob("a0.1").to_string().as_str()));
    assert_eq!(
        (
            small.records + small.dropped.records,
            small.results + small.dropped.results
        ),
        (61, 61)
    );
    // What went is older than what stayed.
    let gone = 30 - (small.records - 1) / 2;
    assert!(!digests.contains(&blob(&format!("a{}.1", gone - 2)).to_string().as_str()));
}

#[test]
fn trimming_again_changes_nothing_and_does_not_depend_on_the_order() {
    let (one, two) = (branches("a", 40), branches("b", 25));
    for max_bytes in [800, 3_000, 10_000, 20_000] {
        let limits = Limits { max_bytes };
        let merged = merge([&one, &two], limits);
        assert!(merged.manifest.bytes.len() < max_bytes && merged.config_bytes.len() < max_bytes);
        assert_eq!(merge([&two, &one, &two], limits), merged);
        let twice = merge([&again(&merged)], limits);
        assert_eq!(
            (twice.manifest, twice.config_bytes),
            (merged.manifest, merged.config_bytes)
        );
    }
}

#[test]
fn a_limit_that_nothing_fits_gives_an_empty_cache() {
    let merged = merge([&branches("a", 3)], Limits { max_bytes: 500 });
    assert_eq!((merged.records, merged.results), (0, 0));
    assert_eq!(merged.dropped.results, 7);
}

#[test]
fn thousands_of_records_are_trimmed_to_what_buildkit_reads() {
    let parts: Vec<Part> = ["a", "b", "c", "d"]
        .iter()
        .map(|x| branches(x, 1_200))
        .collect();
    let took = Cpu::start();
    let merged = merge(&parts, Limits::default());
    let limit = 1 << 20;
    assert!(merged.manifest.bytes.len() < limit && merged.config_bytes.len() < limit);
    assert!(
        merged.manifest.bytes.len() > limit - 2_000,
        "{}",
        merged.manifest.bytes.len()
    );
    assert_eq!(merged.results + merged.dropped.results, 4 * 2_400 + 1);
    again(&merged);
    assert!(took.so_far() < Duration::from_mins(1));
}

#[test]
fn a_config_that_buildkit_cannot_read_comes_out_readable() {
    let part = branches("a", 4_000);
    assert!(Extent::of(&part).config_bytes > 1 << 20);
    let merged = merged(&[&part]);
    assert!(merged.results > 1_000 && merged.config_bytes.len() < 1 << 20);
}
