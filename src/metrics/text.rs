//! Conversion from OpenMetrics, which `prometheus-client` writes, to the older text format that every tool reads.
//!
//! OpenMetrics omits the `_total` of a counter's samples in `HELP` and `TYPE`; version 0.0.4 uses the same name for all.
//! Otherwise readers (such as `promtool check metrics`) see samples without a description.

/// Rewrites a whole exposition.
pub(super) fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + 512);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let described = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '));
        let typed = lines.peek().and_then(|next| next.strip_prefix("# TYPE "));
        match (described, typed.and_then(|rest| rest.split_once(' '))) {
            (Some((name, help)), Some((_, "counter"))) => {
                out.extend(["# HELP ", name, "_total ", help, "\n"]);
                out.extend(["# TYPE ", name, "_total counter\n"]);
                lines.next();
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_name_of_their_samples() {
        let open = "# HELP a_b It counts.\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n\
                    # HELP c It shows.\n# TYPE c gauge\n# UNIT c bytes\nc 1\n# EOF\n";
        let want = "# HELP a_b_total It counts.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n\
                    # HELP c It shows.\n# TYPE c gauge\nc 1\n";
        assert_eq!(classic(open), want);
    }
}
