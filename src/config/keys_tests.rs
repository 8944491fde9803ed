use super::*;

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
        "strict",
        "require_hit",
        "budget",
        "stall",
        "connect_timeout",
        "retry_for",
        "jobs",
        "concurrency",
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
fn nearest_names_are_whole() {
    assert_eq!(
        TABLE.nearest_env("CACHECTL_STOER").as_deref(),
        Some("CACHECTL_STORE")
    );
    assert_eq!(TABLE.nearest_env("CACHECTL_QWERTYUIOP"), None);
    assert_eq!(TABLE.nearest_key("storage_class"), Some("s3.storage_class"));
}
