//! Properties over random caches.

use std::collections::{HashMap, HashSet};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const DIGESTS: usize = 7;
const BLOBS: usize = 8;

/// What a random record is made of; a digest always has the same count of inputs.
#[derive(Debug, Clone)]
struct Recipe {
    digest: usize,
    ways: Vec<Vec<(Index, bool)>>,
    results: Vec<(Index, u8)>,
    chain: Option<(Vec<Index>, u8)>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let ways = vec(vec((any::<Index>(), prop::bool::weighted(0.2)), 1..4), 2);
    let chain = prop::option::weighted(0.2, (vec(any::<Index>(), 0..3), 0..6_u8));
    (
        0..DIGESTS,
        ways,
        vec((any::<Index>(), 0..6_u8), 0..3),
        chain,
    )
        .prop_map(|(digest, ways, results, chain)| Recipe {
            digest,
            ways,
            results,
            chain,
        })
}

fn moment(n: u8) -> String {
    format!("2026-11-23T04:02:0{n}Z")
}

fn config(layers: &[(usize, Option<Index>)], recipes: &[Recipe]) -> Value {
    let parent = |at: usize, p: &Option<Index>| match p {
        Some(p) if at > 0 => p.index(at) as i64,
        _ => -1,
    };
    let stacked: Vec<Value> = layers
        .iter()
        .enumerate()
        .map(
            |(at, (name, p))| json!({ "blob": blob(&format!("b{name}")), "parent": parent(at, p) }),
        )
        .collect();
    let record = |(at, recipe): (usize, &Recipe)| {
        // Digests 0 to 2 are roots, 3 and 4 have one input, the rest two; without anything to link to it is a root as well.
        let digest = if at == 0 {
            recipe.digest % 3
        } else {
            recipe.digest
        };
        let arity = [0, 0, 0, 1, 1, 2, 2][digest];
        let way = |(link, selected): &(Index, bool)| {
            let selector = if *selected { "s" } else { "" };
            json!({ "selector": selector, "link": link.index(at.max(1)) })
        };
        let inputs: Vec<Vec<Value>> = recipe.ways[..arity]
            .iter()
            .map(|ways| ways.iter().map(way).collect())
            .collect();
        let results = recipe
            .results
            .iter()
            .map(|(l, t)| json!({ "layer": l.index(layers.len()), "createdAt": moment(*t) }));
        let chains = recipe.chain.iter().map(|(list, t)| {
            let list: Vec<usize> = list.iter().map(|l| l.index(layers.len())).collect();
            json!({ "layers": list, "createdAt": moment(*t) })
        });
        json!({
            "digest": format!("k{digest}"), "inputs": inputs,
            "layers": results.collect::<Vec<_>>(), "chains": chains.collect::<Vec<_>>(),
        })
    };
    let records: Vec<Value> = recipes.iter().enumerate().map(record).collect();
    json!({ "layers": stacked, "records": records })
}

fn random_part() -> impl Strategy<Value = Part> {
    let forms = prop_oneof![Just(Form::Image), Just(Form::Index), Just(Form::DockerList)];
    let layers = vec(
        (0..BLOBS, prop::option::weighted(0.7, any::<Index>())),
        1..10,
    );
    let lost = prop::collection::hash_set(0..BLOBS, 0..3);
    (forms, layers, vec(recipe(), 1..12), lost).prop_map(|(form, stack, recipes, lost)| {
        let named = (0..BLOBS).filter(|b| !lost.contains(b));
        let described = named.map(|b| layer(&format!("b{b}"))).collect();
        part_of(form, described, &config(&stack, &recipes))
    })
}

/// One exact key: a digest, and of each input one alternative.
#[derive(Debug, Clone)]
struct Query {
    digest: String,
    inputs: Vec<(String, Query)>,
}

/// Some exact keys of a record: the n-th alternative of each input, for each n.
fn queries(config: &CacheConfig, record: usize, depth: usize) -> Vec<Query> {
    let r = &config.records()[record];
    let most = r.inputs.iter().map(Vec::len).max().unwrap_or(1);
    let pick = |n: usize| Query {
        digest: r.digest.clone(),
        inputs: r
            .inputs
            .iter()
            .map(|ways| {
                let way = &ways[n % ways.len()];
                let below = queries(config, way.link, depth + 1);
                (way.selector.clone(), below[n % below.len()].clone())
            })
            .collect(),
    };
    (0..if depth > 6 { 1 } else { most }).map(pick).collect()
}

/// The records that BuildKit would find for a key: each input has one of the alternatives.
fn found(config: &CacheConfig, query: &Query) -> HashSet<usize> {
    let inputs: Vec<(&str, HashSet<usize>)> = query
        .inputs
        .iter()
        .map(|(s, q)| (s.as_str(), found(config, q)))
        .collect();
    let fits = |r: &CacheRecord| {
        r.digest == query.digest
            && r.inputs.len() == inputs.len()
            && r.inputs.iter().zip(&inputs).all(|(ways, (s, below))| {
                ways.iter()
                    .any(|w| w.selector == *s && below.contains(&w.link))
            })
    };
    (0..config.records().len())
        .filter(|at| fits(&config.records()[*at]))
        .collect()
}

/// Whether each result of a record has all its blobs in `blobs`, and when it was made.
fn usable(
    config: &CacheConfig,
    record: &CacheRecord,
    blobs: &HashSet<Digest>,
) -> Vec<crate::entry::Time> {
    let layers = config.layers();
    let whole = |top: usize| {
        let mut chain = std::iter::successors(Some(top), |at| layers[*at].parent);
        chain.all(|at| blobs.contains(&layers[at].blob))
    };
    let results = record
        .results
        .iter()
        .filter(|r| whole(r.layer))
        .map(|r| r.created_at);
    let listed = record.chains.iter().filter(|c| {
        !c.layers.is_empty() && c.layers.iter().all(|l| blobs.contains(&layers[*l].blob))
    });
    results.chain(listed.map(|c| c.created_at)).collect()
}

fn blobs<'a>(parts: impl IntoIterator<Item = &'a Part>) -> HashSet<Digest> {
    parts
        .into_iter()
        .flat_map(|p| p.manifest.layers())
        .map(|l| l.digest)
        .collect()
}

/// The same part, of whose layers each is described as it is (0), with another plain tar (1), or as packed in another way (2).
fn lying(part: &Part, lies: &[u8]) -> Part {
    let layers: Vec<Value> = (0..BLOBS)
        .map(|b| (layer(&format!("b{b}")), lies[b], blob(&format!("b{b}"))))
        .filter(|(_, _, digest)| part.manifest.layers().iter().any(|l| l.digest == *digest))
        .map(|(mut layer, lie, _)| {
            match lie {
                1 => layer["annotations"]["containerd.io/uncompressed"] = json!(blob("another")),
                2 => layer["mediaType"] = json!(media::FULL_PACK),
                _ => {}
            }
            layer
        })
        .collect();
    let config = serde_json::from_slice(&part.config.write()).unwrap();
    part_of(part.manifest.form(), layers, &config)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn a_merged_cache_is_valid_and_the_same_whatever_the_order(parts in vec(random_part(), 1..4), limit in prop_oneof![Just(1 << 20), 300_usize..4_000]) {
        let limits = Limits { max_bytes: limit };
        let merged = merge(&parts, limits);
        let part = again(&merged);
        let described = blobs([&part]);
        prop_assert!(part.config.layers().iter().all(|l| described.contains(&l.blob)));
        prop_assert_eq!(described.len(), part.manifest.layers().len());
        prop_assert!(part.config.records().iter().all(|r| r.chains.is_empty() && r.results.len() <= 1));
        prop_assert_eq!(Extent::of(&part).results, merged.results);
        // What is left when nothing fits has a size of its own.
        prop_assert!(merged.results == 0 || merged.manifest.bytes.len().max(merged.config_bytes.len()) < limit);
        prop_assert_eq!(&merge(parts.iter().rev().chain(&parts), limits), &merged);
        let twice = merge([&part], limits);
        prop_assert_eq!(twice.config_bytes, merged.config_bytes);
        prop_assert_eq!(twice.manifest, merged.manifest);
    }

    #[test]
    fn every_result_is_found_in_the_merged_cache_by_the_same_key(parts in vec(random_part(), 1..4)) {
        let merged = merged(&parts.iter().collect::<Vec<_>>());
        if merged.dropped.loops > 0 {
            return Ok(());
        }
        let whole = again(&merged);
        let (all, described) = (blobs(&parts), blobs([&whole]));
        for part in &parts {
            prop_assert!(contains(&whole, part));
            for (at, record) in part.config.records().iter().enumerate() {
                if usable(&part.config, record, &all).is_empty() {
                    continue;
                }
                for query in queries(&part.config, at, 0) {
                    let hits = found(&whole.config, &query);
                    let mut times = hits.iter().flat_map(|h| usable(&whole.config, &whole.config.records()[*h], &described));
                    prop_assert!(times.next().is_some(), "{:?}", query);
                }
            }
        }
    }

    #[test]
    fn no_part_takes_results_from_others_by_what_it_says_of_their_layers(honest in vec(random_part(), 1..4), liar in random_part(), lies in vec(0..3_u8, BLOBS)) {
        let mut parts: Vec<Part> = honest.iter().map(|p| p.clone().pushed_at(Some(second(1)))).collect();
        parts.push(lying(&liar, &lies).pushed_at(Some(second(2))));
        let mut claims = Claims::disputed(&parts, &HashSet::new());
        for b in (0..BLOBS).map(|b| format!("b{b}")) {
            let diff_id = Some(blob(&format!("plain {b}")));
            claims.prove(&blob(&b), Claim { media_type: media::LAYER_GZIP.to_owned(), diff_id });
        }
        let parts: Vec<Part> = parts.into_iter().map(|p| {
            let pruned = p.manifest.without(&claims.denied_by(&p.manifest));
            Part { manifest: read(&pruned), ..p }
        }).collect();
        let merged = merged(&parts.iter().collect::<Vec<_>>());
        if merged.dropped.loops > 0 {
            return Ok(());
        }
        let whole = again(&merged);
        let (own, described) = (blobs(&honest), blobs([&whole]));
        for part in &honest {
            for (at, record) in part.config.records().iter().enumerate() {
                if usable(&part.config, record, &own).is_empty() {
                    continue;
                }
                for query in queries(&part.config, at, 0) {
                    let hits = found(&whole.config, &query);
                    prop_assert!(hits.iter().any(|h| !usable(&whole.config, &whole.config.records()[*h], &described).is_empty()));
                }
            }
        }
    }

    #[test]
    fn nothing_is_found_that_no_part_has(parts in vec(random_part(), 1..4)) {
        let merged = again(&merged(&parts.iter().collect::<Vec<_>>()));
        let mut tops: HashMap<String, HashSet<Vec<Digest>>> = HashMap::new();
        let chain = |config: &CacheConfig, top: usize| -> Vec<Digest> {
            std::iter::successors(Some(top), |at| config.layers()[*at].parent).map(|at| config.layers()[at].blob).collect()
        };
        for config in parts.iter().map(|p| &p.config) {
            for record in config.records() {
                let of = tops.entry(record.digest.clone()).or_default();
                of.extend(record.results.iter().map(|r| chain(config, r.layer)));
                of.extend(record.chains.iter().map(|c| c.layers.iter().rev().map(|l| config.layers()[*l].blob).collect()));
            }
        }
        for record in merged.config.records() {
            for result in &record.results {
                prop_assert!(tops[&record.digest].contains(&chain(&merged.config, result.layer)));
            }
        }
    }

    #[test]
    fn what_contains_another_has_each_of_its_hits(newer in random_part(), older in random_part(), more in vec(random_part(), 0..2)) {
        // A part alone contains another too seldom; a merged one is a part like any other.
        let newer = again(&merge(more.iter().chain([&newer]), Limits::default()));
        if !contains(&newer, &older) {
            return Ok(());
        }
        // Keys that one more round through a loop would make are found by none but this test's own search.
        if merged(&[&newer, &older]).dropped.loops > 0 {
            return Ok(());
        }
        let described = blobs([&newer]);
        let own = blobs([&older]);
        for (at, record) in older.config.records().iter().enumerate() {
            if usable(&older.config, record, &own).is_empty() {
                continue;
            }
            for query in queries(&older.config, at, 0) {
                let hits = found(&newer.config, &query);
                prop_assert!(hits.iter().any(|h| !usable(&newer.config, &newer.config.records()[*h], &described).is_empty()));
            }
        }
    }

    #[test]
    fn a_config_round_trips(part in random_part()) {
        prop_assert_eq!(&CacheConfig::read(&part.config.write()).unwrap(), &part.config);
    }

    #[test]
    fn damaged_documents_are_errors_not_panics(part in random_part(), flips in vec((any::<Index>(), any::<u8>()), 1..6)) {
        let mut config = part.config.write();
        let mut manifest = part.manifest.manifest().bytes.to_vec();
        for (at, byte) in flips {
            let (c, m) = (at.index(config.len()), at.index(manifest.len()));
            config[c] = byte;
            manifest[m] = byte;
        }
        let _ = CacheConfig::read(&config).map(|c| CacheConfig::read(&c.write()).unwrap());
        let read = CacheManifest::read(&Manifest::new(media::IMAGE_MANIFEST, manifest));
        if let Ok(Some(read)) = read {
            let lost = read.layers().iter().take(2).map(|l| l.digest).collect();
            prop_assert!(CacheManifest::read(&read.without(&lost)).unwrap().is_some());
        }
    }

    #[test]
    fn pruning_is_a_function_of_what_is_lost(part in random_part(), lost in prop::collection::hash_set(0..BLOBS, 0..BLOBS)) {
        let lost: HashSet<Digest> = lost.into_iter().map(|b| blob(&format!("b{b}"))).collect();
        let pruned = read(&part.manifest.without(&lost));
        prop_assert!(pruned.layers().iter().all(|l| !lost.contains(&l.digest)));
        let kept = part.manifest.layers().iter().filter(|l| !lost.contains(&l.digest));
        prop_assert!(pruned.layers().iter().eq(kept));
        prop_assert_eq!(pruned.config(), part.manifest.config());
    }
}
