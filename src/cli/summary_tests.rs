use super::*;

fn part(hit: bool) -> Part {
    let mut part = Part::nothing("gobuild", "m", "why not");
    part.hit = hit;
    part.exact = hit;
    if hit {
        part.digest = Some(Digest::sha256_of(b"x"));
        part.miss = None;
        part.entries = 2;
        part.moved.bytes_moved = 5;
    }
    part
}

fn absent() -> Part {
    let mut part = part(false);
    part.absent = true;
    part.miss = Some("nothing is stored".to_owned());
    part
}

fn summary(verb: Verb, parts: Vec<Part>) -> Summary {
    Summary {
        verb,
        store: Some("disk:/s".to_owned()),
        parts,
        troubles: Vec::new(),
        elapsed: Duration::from_millis(1234),
    }
}

#[test]
fn hit_needs_all_that_is_stored_and_something() {
    let hit = |parts| summary(Verb::Import, parts).hit();
    assert!(hit(vec![part(true), part(true)]));
    assert!(hit(vec![part(true), absent()]));
    assert!(!hit(vec![part(true), part(false)]));
    assert!(!hit(vec![absent(), absent()]));
    assert!(!hit(vec![]));
    let mut folder = absent();
    folder.kind = "dir";
    assert!(!hit(vec![part(true), folder]));
}

#[test]
fn totals_are_sums_and_the_digest_is_the_first_there_is() {
    let json = summary(Verb::Import, vec![absent(), part(true), part(true)]).json(&[]);
    assert_eq!(json["entries"], 4);
    assert_eq!(json["bytes_moved"], 10);
    assert_eq!(json["elapsed_ms"], 1234);
    assert_eq!(json["digest"], Digest::sha256_of(b"x").to_string());
    assert_eq!(json["miss"], Value::Null);
    assert_eq!(json["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!(json["snapshots"][0]["miss"], "nothing is stored");
}

#[test]
fn a_damaged_miss_is_a_warning_and_under_strict_an_error() {
    let mut damaged = part(false);
    damaged.damaged = true;
    let mut all = summary(Verb::Import, vec![damaged]);
    assert_eq!(
        all.warnings(false, false),
        ["miss: why not; continuing without the cache"]
    );
    assert_eq!(all.plain_miss(), None);
    assert_eq!(all.json(&[])["trouble"], "why not");
    assert_eq!(all.verdict(true, false).unwrap_err().kind.code(), 1);
    assert_eq!(all.verdict(false, true).unwrap_err().kind.code(), 3);
    assert!(all.verdict(false, false).is_ok());
}

#[test]
fn a_plain_miss_is_no_trouble() {
    let mut all = summary(Verb::Import, vec![absent(), absent()]);
    assert!(all.warnings(false, false).is_empty());
    assert_eq!(all.plain_miss().as_deref(), Some("nothing is stored"));
    assert!(all.verdict(true, false).is_ok());
    assert_eq!(all.verdict(true, true).unwrap_err().kind.code(), 3);
}

#[test]
fn what_is_left_out_is_said_once() {
    let left = LeftOut {
        what: "tag x".into(),
        why: "it is of the future".into(),
    };
    for verb in [Verb::Export, Verb::Import] {
        for partial in [false, true] {
            let mut some = part(true);
            some.partial = partial;
            some.left_out.push(left.clone());
            let all = summary(verb, vec![some]);
            let said = all.text(false) + &all.warnings(false, false).join("\n");
            assert_eq!(said.matches("it is of the future").count(), 1, "{said}");
        }
    }
}

#[test]
fn a_log_has_one_line_a_cache_and_details_have_the_phases() {
    let mut hit = part(true);
    hit.scope = Some("default".to_owned());
    hit.phases.push(PhaseTime {
        phase: crate::progress::Phase::Resolve,
        elapsed: Duration::ZERO,
    });
    let mut restored = hit.clone();
    (restored.key, restored.by_other_key) = (Some("web-1".to_owned()), true);
    let mut headless = restored.clone();
    (headless.key, headless.partial) = (Some(String::new()), true);
    let all = summary(Verb::Import, vec![hit, restored, headless, absent()]);
    let text = all.text(false);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for (line, start) in lines.iter().zip([
        "import gobuild m: hit: 2 entries, 0 B; 0 restored, 5 B fetched in 0.00s (scope default, sha256:",
        "import gobuild m: restored from key web-1: 2 entries,",
        "import gobuild m: partly restored from the cache without a key: 2 entries,",
        "import gobuild m: miss: nothing is stored",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert_eq!(all.text(true).lines().count(), 5);
    assert!(
        all.text(true).contains("(resolve 0.00s"),
        "{}",
        all.text(true)
    );
    let exported = summary(Verb::Export, vec![part(true)]).text(false);
    assert!(exported.starts_with("export gobuild m: unchanged: 2 entries, 0 B in 0.00s ("));
}

#[test]
fn the_key_that_was_found_is_told() {
    let mut restored = part(true);
    (restored.key, restored.exact) = (Some("web-1".to_owned()), false);
    let all = summary(Verb::Import, vec![absent(), restored]);
    assert_eq!((all.exact(), all.matched_key()), (false, Some("web-1")));
    assert_eq!(all.json(&[])["matched_key"], "web-1");
    assert_eq!(summary(Verb::Import, vec![absent()]).matched_key(), None);
}

#[test]
fn one_empty_cache_beside_another_is_forgiven() {
    let mut nothing = CommandError::failed("nothing to export");
    nothing.nothing_there = true;
    let mut all = summary(Verb::Export, vec![part(true), absent()]);
    all.troubles.push(nothing);
    all.settle();
    assert!(all.verdict(true, false).is_ok());

    let mut nothing = CommandError::failed("nothing to export");
    nothing.nothing_there = true;
    let mut all = summary(Verb::Export, vec![absent()]);
    all.troubles.push(nothing);
    all.settle();
    assert_eq!(all.verdict(true, false).unwrap_err().kind.code(), 1);
}

#[test]
fn a_partial_hit_says_what_is_missing() {
    let mut some = part(true);
    some.partial = true;
    some.left_out.push(LeftOut {
        what: "ab-d".into(),
        why: "its pack is gone".into(),
    });
    let mut all = summary(Verb::Import, vec![some]);
    assert_eq!(
        all.warnings(false, false),
        ["partial hit: gobuild m: 1 entry could not be restored (ab-d: its pack is gone)"]
    );
    assert_eq!(all.json(&[])["partial"], true);
    assert!(all.verdict(false, true).is_ok());
    // It is reported once: as an error.
    assert!(all.warnings(true, false).is_empty());
    let error = all.verdict(true, false).unwrap_err();
    assert!(error.kind.code() == 1 && error.message.starts_with("partial hit: "));
}

#[test]
fn trouble_is_said_once_where_a_hit_is_required() {
    let trouble = || {
        let mut failed = summary(Verb::Import, vec![Part::nothing("dir", "d", "why")]);
        failed.troubles.push(CommandError::failed("why"));
        failed
    };
    let mut failed = trouble();
    assert_eq!(failed.warnings(false, false).len(), 1);
    assert!(failed.warnings(false, true).is_empty());
    assert_eq!(
        failed.verdict(false, true).unwrap_err().message,
        "miss: why"
    );
    // Changed files are not part of a miss.
    let mut partly = trouble();
    partly.troubles[0].partly = true;
    assert_eq!(partly.warnings(false, true).len(), 1);
}

#[test]
fn what_was_changed_before_it_failed_is_no_miss_and_an_export_does_not_go_on() {
    let partly = crate::source::Error::Fs(crate::fs::Error::new(
        "rename",
        "/t/b",
        std::io::Error::from(std::io::ErrorKind::StorageFull),
    ))
    .after(std::path::Path::new("/t"), 2, 1);
    let partly = CommandError::from(crate::ops::Error::Source(partly));
    let want = "2 files or folders were put in place and 1 removed";
    let mut failed = summary(Verb::Import, Vec::new());
    failed.troubles.push(partly);
    let warnings = failed.warnings(false, false);
    assert!(warnings[0].starts_with("partly restored: "), "{warnings:?}");
    assert!(
        warnings[0].contains(want) && warnings[0].contains("import again to complete it"),
        "{warnings:?}"
    );
    let mut failed = summary(Verb::Export, Vec::new());
    failed.troubles.push(CommandError::failed("why"));
    assert_eq!(failed.warnings(false, false), ["not exported: why"]);
}

#[test]
fn what_limits_left_out_is_in_the_line_and_a_warning_where_it_is_most() {
    let exported = |by_age: u64, by_size: u64| {
        let mut part = part(true);
        part.dropped = crate::ops::export::Dropped {
            by_age: (by_age, 10 * by_age),
            by_size: (by_size, 10_000 * by_size),
            of: (212, 2_120_000),
            max_age_days: 7,
            max_size: Some(100_000),
        };
        let all = summary(Verb::Export, vec![part]);
        (all.text(false), all.warnings(false, false), all.json(&[]))
    };
    let (line, warnings, json) = exported(0, 208);
    let want = "export gobuild m: unchanged: 2 entries, 0 B; 208 of 212 left out (max_size) in ";
    assert!(line.starts_with(want), "{line}");
    assert_eq!(
        warnings,
        [
            "gobuild m: 208 of 212 entries (2.1 MB of 2.1 MB) left out, the least recently used first, to stay within max_size (100.0 kB); \
          raise --max-size"
        ]
    );
    let dropped = &json["snapshots"][0]["dropped"];
    assert_eq!(dropped["max_size_entries"], 208);
    assert_eq!(dropped["max_size_bytes"], 2_080_000);
    assert_eq!(dropped["max_age_entries"], 0);
    let (line, warnings, _) = exported(3, 106);
    assert!(
        line.contains("; 106 of 212 left out (max_size); 3 of 212 dropped (unused for 7 days) in "),
        "{line}"
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    let (_, warnings, _) = exported(212, 0);
    assert!(
        warnings[0].starts_with(
            "gobuild m: everything is left out: none of its 212 entries was used in the last 7 days"
        ),
        "{warnings:?}"
    );
    let (line, warnings, _) = exported(0, 0);
    assert!(!line.contains("212") && warnings.is_empty(), "{line}");
}
