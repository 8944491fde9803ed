//! The status page for people: the few numbers that show whether all is well, and links to the others.

use std::fmt::Write as _;

use super::health::Health;
use crate::metrics::Metrics;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>cachectld</title><style>\
body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;margin:1rem 0}th,td{text-align:left;padding:.2rem 1rem .2rem 0}\
td+td{font-variant-numeric:tabular-nums}.bad{color:#b00020}</style>";

/// Renders it; every text in it is escaped.
pub(super) fn render(health: &Health, metrics: &Metrics) -> String {
    let mut page = String::from(HEAD);
    let uptime = std::time::Duration::from_secs(health.uptime().as_secs());
    let _ = write!(
        page,
        "<h1>cachectld {}</h1><p>{}, up {}</p>",
        env!("CARGO_PKG_VERSION"),
        health.phase(),
        humantime::format_duration(uptime),
    );
    section(&mut page, "Stores");
    for (name, trouble) in health.stores() {
        let (class, said) = match trouble {
            Some(trouble) => (" class=bad", trouble),
            None => ("", "reachable".to_owned()),
        };
        let (name, said) = (escape(&name), escape(&said));
        let _ = write!(page, "<tr><th>{name}<td{class}>{said}");
    }
    page.push_str("</table>");
    section(&mut page, "Now");
    for (name, value) in [
        ("Open connections", metrics.connections.open.get()),
        ("Unfinished uploads", metrics.uploads.open.get()),
        ("Queued blobs", metrics.queue.blobs.get()),
        ("Queued tags", metrics.queue.tags.get()),
        ("Queued bytes", metrics.queue.bytes.get()),
        ("Free bytes on disk", metrics.disk.free.get()),
    ] {
        let _ = write!(page, "<tr><th>{name}<td>{value}");
    }
    // For a single store these are not counted continuously: `cachectl du` computes them.
    let (used, limit) = (metrics.disk.used.get(), metrics.disk.limit.get());
    if used > 0 || limit > 0 {
        let _ = write!(page, "<tr><th>Bytes in the local cache directory<td>{used}");
    }
    let age = std::time::Duration::from_secs(metrics.queue.oldest.age().as_secs());
    let age = humantime::format_duration(age);
    let _ = write!(page, "<tr><th>Oldest queued entry<td>{age}</table>");
    page.push_str(
        "<p>More: <a href=\"/metrics\">/metrics</a>, <a href=\"/readyz\">/readyz</a></html>",
    );
    page
}

fn section(page: &mut String, title: &str) {
    let _ = write!(page, "<h2>{title}</h2><table>");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
