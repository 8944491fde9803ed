//! What operators read must be what the daemon shows: `docs/metrics.md`, the dashboard, the alerts, the runbook.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cachectl::{
    metrics::{
        Metrics,
        http::{Done, Outcome, RouteLabel},
    },
    ops::cache_tags::CacheTags,
    serve::admin::{Caches, Stores},
    store::wrap::counters::Counters,
};

/// Labels that Prometheus adds, or makes for histograms.
const PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Everything that a daemon shows after one request of each kind: name and labels.
fn shown() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::new();
    metrics.add(Box::new(Stores::new(vec![Arc::new(Counters::default())])));
    metrics.add(Box::new(Caches::new(Arc::new(CacheTags::default()))));
    metrics.http.record(&Done {
        label: RouteLabel {
            door: "registry",
            route: "/v2/{name}/blobs/{digest}",
            looks_up: Some("blob"),
            is_quiet: false,
        },
        method: "GET",
        code: 200,
        tier: "local",
        outcome: Outcome::Ok,
        elapsed: Duration::from_millis(1),
        bytes_in: 0,
        bytes_out: 1,
    });
    metrics.http.saved("registry", "mounted", 1);
    drop(metrics.http.in_flight("registry"));
    let text = metrics.encode();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            found.insert(name.to_owned(), BTreeSet::new());
        } else if !line.starts_with('#') {
            let (name, labels) = line.split_once('{').unwrap_or((line, ""));
            let name = family(name.split(' ').next().unwrap());
            let known = found.get_mut(name);
            let known = known.unwrap_or_else(|| panic!("{name} is not described"));
            known.extend(label_names(labels));
        }
    }
    found
}

/// The name without what samples of histograms add to it.
fn family(name: &str) -> &str {
    let ends = ["_bucket", "_sum", "_count"];
    ends.iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The names in `a="…",b=~"…"}…`, up to the closing brace.
fn label_names(labels: &str) -> BTreeSet<String> {
    let mut outside = String::new();
    let mut quoted = false;
    for c in labels.chars() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted => break,
            c if !quoted => outside.push(c),
            _ => {}
        }
    }
    let names = outside.split(',').map(|part| {
        let name = part.trim().trim_end_matches(['=', '~', '!']);
        name.to_owned()
    });
    names.filter(|n| !n.is_empty() && n != "le").collect()
}

/// Every name of ours in a query, with the labels that are asked of it.
fn asked(query: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    for prefix in ["cachectld_", "process_"] {
        for (at, _) in query.match_indices(prefix) {
            if query[..at].ends_with(is_name) {
                continue;
            }
            let end = query[at..]
                .find(|c| !is_name(c))
                .map_or(query.len(), |n| at + n);
            let labels = query[end..].strip_prefix('{').map(label_names);
            found.push((query[at..end].to_owned(), labels.unwrap_or_default()));
        }
    }
    found
}

/// The rows of the tables of metrics in the document: name and labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let document = text("docs/metrics.md");
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let kind = cells.next()?;
        let labels = cells.next()?;
        let is_metric = ["counter", "gauge", "histogram"].contains(&kind);
        let labels = labels.split(',').map(|l| l.trim().to_owned());
        let labels: BTreeSet<String> = labels.filter(|l| !l.is_empty()).collect();
        is_metric.then(|| (name.to_owned(), labels))
    });
    rows.collect()
}

/// The queries of the dashboard.
fn dashboard() -> Vec<String> {
    fn collect(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(members) => {
                for (name, value) in members {
                    if let ("expr" | "query", Some(text)) = (name.as_str(), value.as_str()) {
                        found.push(text.to_owned());
                    }
                    collect(value, found);
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|i| collect(i, found)),
            _ => {}
        }
    }
    let document = text("examples/observability/dashboard.json");
    let mut found = Vec::new();
    collect(&serde_json::from_str(&document).unwrap(), &mut found);
    found
}

#[test]
fn the_document_lists_exactly_what_the_daemon_shows() {
    assert_eq!(documented(), shown());
}

#[test]
fn dashboard_and_alerts_ask_only_for_what_there_is() {
    let shown = shown();
    let mut queries = dashboard();
    queries.push(text("examples/observability/alerts.yml"));
    let asked: Vec<_> = queries.iter().flat_map(|q| asked(q)).collect();
    assert!(asked.len() > 60, "the queries are not where they were");
    for (name, labels) in asked {
        let known = shown.get(&name).or_else(|| shown.get(family(&name)));
        let known = known.unwrap_or_else(|| panic!("nothing is called {name}"));
        for label in labels {
            let there = known.contains(&label) || PROMETHEUS.contains(&&*label);
            assert!(there, "{name} has no label {label}");
        }
    }
}

#[test]
fn the_dashboard_shows_everything() {
    let asked: BTreeSet<String> = dashboard()
        .iter()
        .flat_map(|q| asked(q))
        .map(|(name, _)| family(&name).to_owned())
        .collect();
    // The same numbers in another way.
    let left_out = [
        "process_virtual_memory_bytes",
        "cachectld_store_existed_bytes_total",
    ];
    let missing: Vec<_> = shown()
        .into_keys()
        .filter(|name| !asked.contains(name) && !left_out.contains(&name.as_str()))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let rules = text("examples/observability/alerts.yml");
    let after = |start: &str| -> BTreeSet<String> {
        let lines = rules.lines().filter_map(|l| l.trim().strip_prefix(start));
        lines.map(|l| l.trim().to_owned()).collect()
    };
    let alerts = after("- alert:");
    assert!(alerts.len() > 10);
    let runbook = text("docs/operations.md");
    let sections = runbook.lines().filter_map(|l| l.strip_prefix("### "));
    let sections: BTreeSet<String> = sections
        .filter(|s| s.starts_with("Cachectld"))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(alerts, sections);
    let links = after("runbook:");
    let want = alerts
        .iter()
        .map(|a| format!("docs/operations.md#{}", a.to_lowercase()));
    assert_eq!(links, want.collect());
}

#[test]
fn every_alert_has_a_case_in_which_it_fires() {
    let values = |path: &str, start: &str| -> Vec<String> {
        let text = text(path);
        let lines = text.lines().filter_map(|l| l.trim().strip_prefix(start));
        lines.map(|l| l.trim().to_owned()).collect()
    };
    let alerts = values("examples/observability/alerts.yml", "- alert:");
    let cases = text("tests/observability/alerts.test.yml");
    for alert in alerts {
        let tests = cases.split("alertname: ").skip(1);
        let fires = tests
            .filter_map(|case| case.strip_prefix(&*alert))
            .any(|case| case.trim_start().starts_with("exp_alerts:\n"));
        assert!(
            fires,
            "no case of tests/observability/alerts.test.yml expects {alert}"
        );
    }
}

#[test]
fn what_watches_pods_asks_ports_that_they_have_and_jobs_begin_with_a_checkout() {
    let monitor = text("examples/observability/podmonitor.yml");
    let port = monitor
        .lines()
        .find_map(|l| l.trim().strip_prefix("- port: "));
    let port = port.expect("it asks a port");
    for daemon in ["deployment", "daemonset"] {
        let manifest = text(&format!("examples/k8s/{daemon}.yaml"));
        let named = format!("- name: {port}\n");
        assert!(manifest.contains(&named), "{daemon} has no port {port}");
        let address = manifest.lines().find(|l| l.contains("containerPort: 5001"));
        assert!(address.is_some(), "{daemon}: the port of admin_listen");
    }
    let service = text("examples/k8s/deployment.yaml");
    assert!(service.contains(&format!("targetPort: {port}\n")));
    let settings = text("examples/k8s/config.yaml");
    assert!(settings.contains(":5001"), "admin_listen is elsewhere");
    for job in ["build-job", "sidecar-job"] {
        let manifest = text(&format!("examples/k8s/{job}.yaml"));
        let (_, first) = manifest
            .split_once("initContainers:\n")
            .expect("it has some");
        let first = first
            .lines()
            .find_map(|l| l.trim().strip_prefix("- name: "));
        assert_eq!(first, Some("checkout"), "{job}");
    }
}

#[test]
fn queries_are_taken_apart() {
    let query = r#"sum by (a) (rate(cachectld_x_total{job="j",b=~"c|}d",e!="f"}[5m])) / my_process_y + process_z"#;
    let labels: BTreeSet<String> = ["job", "b", "e"].map(ToOwned::to_owned).into();
    let want = [
        ("cachectld_x_total".to_owned(), labels),
        ("process_z".to_owned(), BTreeSet::new()),
    ];
    assert_eq!(asked(query), want);
}
