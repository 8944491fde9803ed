use std::time::{Duration, SystemTime};

use super::{
    Metrics,
    http::{Done, Outcome, RouteLabel},
};

const BLOB: RouteLabel = RouteLabel {
    door: "registry",
    route: "/v2/{name}/blobs/{digest}",
    looks_up: Some("blob"),
    is_quiet: false,
};

fn done(method: &'static str, code: u16, outcome: Outcome) -> Done {
    Done {
        label: BLOB,
        method,
        code,
        tier: "local",
        outcome,
        elapsed: Duration::from_millis(3),
        bytes_in: 0,
        bytes_out: 7,
    }
}

/// Without what is behind the point.
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    let value: f64 = line.trim().parse().unwrap();
    value as u64
}

#[test]
fn a_request_is_counted_by_what_became_of_it() {
    let metrics = Metrics::new();
    metrics.http.record(&done("GET", 200, Outcome::Ok));
    metrics.http.record(&done("GET", 206, Outcome::Ok));
    metrics.http.record(&done("GET", 404, Outcome::Miss));
    metrics.http.record(&done("HEAD", 404, Outcome::Miss));
    let text = metrics.encode();
    let route = r#"door="registry",route="/v2/{name}/blobs/{digest}",method="GET""#;
    let of = |rest: &str| value(&text, &format!("cachectld_{rest}"));
    let one = format!(r#"requests_total{{{route},code="200",tier="local",outcome="ok"}}"#);
    assert_eq!(of(&one), 1);
    let times = format!(r#"request_duration_seconds_count{{{route},tier="local"}}"#);
    assert_eq!(of(&times), 3);
    let bytes = r#"response_bytes_total{door="registry",tier="local",outcome="ok"}"#;
    assert_eq!(of(bytes), 14);
    let hits =
        r#"lookups_total{door="registry",kind="blob",intent="read",tier="local",result="hit"}"#;
    assert_eq!(of(hits), 2);
    assert_eq!(of(&hits.replace("hit", "miss")), 1);
}

#[test]
fn a_failure_of_ours_is_neither_hit_nor_miss() {
    let metrics = Metrics::new();
    metrics.http.record(&done("GET", 500, Outcome::Error));
    metrics.http.record(&done("DELETE", 202, Outcome::Ok));
    assert!(!metrics.encode().contains("cachectld_lookups_total{"));
}

#[test]
fn requests_that_are_not_answered_make_no_histograms() {
    let metrics = Metrics::new();
    for (code, outcome) in [
        (400, Outcome::Refused),
        (503, Outcome::Error),
        (200, Outcome::Broken),
        (0, Outcome::Aborted),
    ] {
        metrics.http.record(&done("GET", code, outcome));
    }
    let text = metrics.encode();
    assert!(text.contains("cachectld_requests_total{"));
    assert!(!text.contains("cachectld_request_duration_seconds_bucket{"));
}

#[test]
fn names_are_described_once_and_have_no_two_of_ours_in_front() {
    let text = Metrics::new().encode();
    let mut described: Vec<&str> = text.lines().filter(|l| l.starts_with("# HELP ")).collect();
    let all = described.len();
    described.sort_unstable();
    described.dedup();
    assert_eq!(described.len(), all);
    assert!(text.contains("\ncachectld_build_info{version=\""), "{text}");
    assert!(text.contains("\nprocess_open_fds "), "{text}");
    assert!(
        text.contains("# TYPE process_cpu_seconds_total counter"),
        "{text}"
    );
    assert!(!text.contains("cachectld_process") && !text.contains("# EOF"));
}

#[test]
fn the_oldest_entry_of_the_queue_ages_by_itself() {
    let metrics = Metrics::new();
    let age = || value(&metrics.encode(), "cachectld_queue_oldest_age_seconds");
    assert_eq!(age(), 0);
    let since = SystemTime::now() - Duration::from_secs(90);
    metrics.queue.oldest.set(Some(since));
    assert!((90..120).contains(&age()));
    metrics.queue.oldest.set(None);
    assert_eq!(age(), 0);
}
