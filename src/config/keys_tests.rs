use super::*;
use crate::config::table::InCheckout::{self, Counts, Ignored, OnlyTrue};

#[test]
fn names_and_variables_are_unique() {
    let mut names: Vec<_> = KEYS.iter().map(Key::env).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), KEYS.len());
}

#[test]
fn a_checkout_says_what_is_cached_and_how_fast_and_nothing_else() {
    let named = |which: InCheckout| -> Vec<&str> {
        let keys = KEYS.iter().filter(|k| k.in_checkout == which);
        keys.map(|k| k.name).collect()
    };
    // A key that is to join them was thought about first: what can a pull request's author do with it?
    let counts = [
        "name",
        "key",
        "restore_keys",
        "exclude",
        "xattrs",
        "max_age",
        "max_size",
        "level",
        "strict",
        "require_hit",
        "budget",
        "jobs",
        "concurrency",
        "stall",
        "connect_timeout",
        "retry_for",
        "bandwidth",
    ];
    assert_eq!(named(Counts), counts);
    assert_eq!(named(OnlyTrue), ["read_only"]);
    assert_eq!(named(Ignored).len(), KEYS.len() - counts.len() - 1);
}

#[test]
fn service_links_of_kubernetes_are_foreign() {
    for v in [
        "CACHECTL_SERVICE_HOST",
        "CACHECTL_SERVICE_PORT",
        "CACHECTL_SERVICE_PORT_HTTP",
        "CACHECTL_PORT",
        "CACHECTL_PORT_5000_TCP",
        "CACHECTL_PORT_5000_TCP_ADDR",
        "CACHECTL_REGISTRY_PORT_5000_TCP_PROTO",
    ] {
        assert!(TABLE.is_foreign(v), "{v}");
    }
    for v in ["CACHECTL_SCOPE", "CACHECTL_STOER", "CACHECTL_PORT_X_TCP"] {
        assert!(!TABLE.is_foreign(v), "{v}");
    }
    assert!(KEYS.iter().all(|k| !TABLE.is_foreign(&k.env())));
}

#[test]
fn a_setting_mistyped_is_told_from_another_programs_variable() {
    for (wrong, meant) in [
        ("STOER", "STORE"),
        ("SCOEP", "SCOPE"),
        ("KEEY", "KEY"),
        ("READONLY", "READ_ONLY"),
        ("READ_ONYL", "READ_ONLY"),
        ("REED_ONLI", "READ_ONLY"),
        ("READ_ONLY_MODE", "READ_ONLY"),
        ("READONLY_MODE", "READ_ONLY"),
        ("JOB_READ_ONLY", "READ_ONLY"),
        ("RESTORE_KEY", "RESTORE_KEYS"),
        ("CONFIGG", "CONFIG"),
    ] {
        assert_eq!(
            TABLE.meant_env(&format!("CACHECTL_{wrong}")),
            Some(format!("CACHECTL_{meant}")),
            "{wrong}"
        );
    }
    // What pipelines call the parts of a download, and their own things.
    let of_downloads = "VERSION CHECKSUM SHA256 SHA256SUM URL BIN HOME DIR PATH OS ARCH IMAGE TAG RELEASE REPO BRANCH";
    let of_jobs = "BUCKET REGION ENDPOINT ROLE JOB KEYS NAMES SCOPES STAGE ENV DEBUG TOKEN USER PASSWORD READ_ONLY_TOKEN QWERTYUIOP";
    for name in of_downloads.split(' ').chain(of_jobs.split(' ')) {
        for table in [&TABLE, &crate::config::daemon::keys::TABLE] {
            let variable = format!("{}{name}", table.prefix);
            assert_eq!(table.meant_env(&variable), None, "{variable}");
        }
    }
}

#[test]
fn nearest_names_are_whole() {
    for (wrong, near) in [("STOER", "STORE"), ("KEYS", "KEY"), ("REGION", "S3_REGION")] {
        assert_eq!(
            TABLE.nearest_env(&format!("CACHECTL_{wrong}")),
            Some(format!("CACHECTL_{near}"))
        );
    }
    assert_eq!(TABLE.nearest_env("CACHECTL_QWERTYUIOP"), None);
    assert_eq!(TABLE.nearest_key("storage_class"), Some("s3.storage_class"));
}
