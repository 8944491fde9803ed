//! The public OCI conformance suite against the registry door: nothing fails, and nothing is skipped.
//!
//! The number of checks is not the same for all registries: a push that fails is tried again by other ways. Where nothing
//! fails it is 862 by the rules of 1.1, of which they leave out two, and 1032 by the newest.
use std::sync::atomic::Ordering;

use crate::support::cachectld::{Access, Cachectld};
use crate::support::conformance::{Results, Rules, run, run_at};
use crate::support::door::{Door, ours};
use crate::support::e2e;
use crate::support::round_robin::RoundRobin;
use crate::support::servers::{DistributionV3, Login, free_port};
use crate::support::stores::{Backend, TestStore};
use crate::support::tools::say;

/// Rows of the suite's report; one more or less is another suite.
const ROWS: usize = 52;

fn check(results: &Results, rules: Rules, what: &str) {
    let counts = &results.counts;
    say(&format!("{what}, {rules:?}: {counts:?}"));
    assert_eq!(results.row_count, ROWS, "{what}, {rules:?}");
    assert!(
        (counts.fail, counts.error, counts.skip) == (0, 0, 0) && results.rows.is_empty(),
        "{what}, {rules:?}: {counts:?}\n{}\n{}",
        results.rows.join("\n"),
        results.complaints
    );
    // Upload cancel and the two ways to name tags in a push are newer than 1.1.
    let disabled = match rules {
        Rules::V1_1 => 2,
        Rules::Newest => 0,
    };
    assert_eq!(counts.disabled, disabled, "{what}, {rules:?}");
    assert_eq!(counts.pass, passes(rules), "{what}, {rules:?}");
}

fn passes(rules: Rules) -> usize {
    match rules {
        Rules::V1_1 => 860,
        Rules::Newest => 1032,
    }
}

fn conforms(mut door: Door, what: &str) {
    for rules in Rules::ALL {
        check(&run_at(&mut door, rules), rules, what);
    }
}

#[test]
fn the_door_conforms_on_disk() {
    if e2e() && ours() {
        conforms(Door::start(), "disk");
    }
}

#[test]
fn the_door_conforms_on_seaweedfs() {
    if e2e() && ours() {
        let store = TestStore::new(Backend::Seaweed);
        conforms(Door::over(store, Access::Anonymous), "SeaweedFS");
    }
}

#[test]
fn the_door_conforms_on_minio() {
    if e2e() && ours() {
        let store = TestStore::new(Backend::Minio);
        conforms(Door::over(store, Access::Anonymous), "MinIO");
    }
}

#[test]
fn the_door_conforms_on_an_image_layout() {
    if e2e() && ours() {
        let store = TestStore::new(Backend::OciLayout);
        conforms(Door::over(store, Access::Anonymous), "image layout");
    }
}

#[test]
fn the_door_conforms_over_debians_registry() {
    if e2e() && ours() {
        let store = TestStore::new(Backend::DebianRegistry);
        conforms(Door::over(store, Access::Anonymous), "Debian's registry");
    }
}

#[test]
fn the_door_conforms_over_distribution_v3() {
    if e2e() && ours() {
        let store = TestStore::new(Backend::DistributionV3);
        conforms(Door::over(store, Access::Anonymous), "distribution v3");
    }
}

#[test]
fn the_door_conforms_behind_a_password() {
    if e2e() && ours() {
        conforms(Door::with(Access::Basic), "disk, passwords");
    }
}

/// A user who has rights on some repositories only may name nothing in a manifest that was not pushed there: manifests whose parts
/// were never pushed are refused, and the suite is not asked for them. All else is as for everybody.
#[test]
fn the_door_conforms_for_a_tenant() {
    if e2e() && ours() {
        // Without `from` a blob is looked for in the repository itself; those of others are not this user's.
        conforms_but(
            Door::with(Access::Tenant),
            "disk, tenant",
            "blob-mount-anonymous",
        );
    }
}

/// The suite buys a token for the repository that it writes to, not for the one that it mounts from; the door then answers
/// 202, as the specification has it, and the suite counts that as skipped: once for each digest algorithm.
#[test]
fn the_door_conforms_behind_tokens_and_mounts_nothing_that_they_do_not_cover() {
    if e2e() && ours() {
        conforms_but(Door::with(Access::Token), "disk, tokens", "blob-mount");
    }
}

/// All but one check holds, which the suite counts as skipped once for each digest algorithm.
fn conforms_but(mut door: Door, what: &str, skipped: &str) {
    for rules in Rules::ALL {
        let mut results = run_at(&mut door, rules);
        let skips = results
            .complaints
            .matches(&format!("/{skipped}: Skip"))
            .count();
        assert_eq!(
            (skips, results.counts.skip),
            (2, 2),
            "{}",
            results.complaints
        );
        results.rows.retain(|row| !row.ends_with(": Skip"));
        // What is tried instead are other checks: fewer, or more.
        results.counts.skip = 0;
        results.counts.pass = passes(rules);
        check(&results, rules, what);
    }
}

/// Two daemons over one store are one service, request by request.
fn two_daemons_conform(backend: Backend) {
    if !e2e() || !ours() {
        return;
    }
    let mut first = Door::over(TestStore::new(backend), Access::Anonymous);
    let second = Cachectld::over(first.store.url()).envs(first.store.env());
    let mut second = second.start();
    for rules in Rules::ALL {
        if rules == Rules::Newest {
            first.accept_incomplete_images();
            second.accept_incomplete_images();
        }
        let proxy = RoundRobin::over(&[first.port, second.port]);
        let results = run(proxy.port, rules, false);
        check(&results, rules, &format!("two daemons on {backend:?}"));
        for count in proxy.counts.iter() {
            assert!(count.load(Ordering::SeqCst) > 500, "{:?}", proxy.counts);
        }
    }
}

#[test]
fn two_daemons_over_one_bucket_of_seaweedfs_conform() {
    two_daemons_conform(Backend::Seaweed);
}

#[test]
fn two_daemons_over_one_bucket_of_minio_conform() {
    two_daemons_conform(Backend::Minio);
}

/// The harness: a registry that is known to fail is seen to fail, alone and through the balancer.
#[test]
fn the_suite_finds_what_distribution_lacks() {
    if !e2e() {
        return;
    }
    let registry = DistributionV3::start(Login::Open);
    let alone = run(registry.port, Rules::V1_1, false);
    assert!(alone.counts.fail > 50, "{alone:?}");
    assert!(alone.rows.contains(&"Referrers: FAIL".to_owned()));
    assert!(alone.complaints.contains("empty/referrers: FAIL"));
    assert_eq!(alone.row_count, ROWS);
    let proxy = RoundRobin::over(&[registry.port]);
    let balanced = run(proxy.port, Rules::V1_1, false);
    assert_eq!(balanced.counts, alone.counts);
    // Nobody there: checks that fail, not a run without any.
    let nobody = run(free_port(), Rules::V1_1, false);
    assert!(nobody.counts.fail + nobody.counts.error > 0, "{nobody:?}");
}
