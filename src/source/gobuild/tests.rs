use super::{path::output_path, *};
use crate::{
    entry::Kind,
    fs::Stat,
    source::{KnownContent, NothingKnown},
};

mod programs;

const NOW: Time = Time {
    secs: 1_800_000_000,
    nanos: 5,
};

struct Cache {
    temp: tempfile::TempDir,
    source: GoBuild,
}

impl Cache {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let source = GoBuild::new(temp.path(), Fingerprint::default());
        Self { temp, source }
    }

    fn dir(&self) -> Dir {
        Dir::open(self.temp.path()).unwrap()
    }

    fn write(&self, path: &EntryPath, bytes: &[u8]) {
        write_in(self.temp.path(), path, bytes);
    }

    /// Puts an output and an action entry that names it; returns both paths.
    fn put(&self, action: &str, output: &[u8], nanos: u64) -> (EntryPath, EntryPath) {
        let out = output_path(Sha256::of(output));
        let id = Sha256::of(action.as_bytes());
        let act = action_path(id);
        self.write(&out, output);
        self.write(&act, &line(id, Sha256::of(output), output.len(), nanos));
        (act, out)
    }

    fn items(&self) -> Vec<Item> {
        self.source.scan(&NothingKnown).unwrap().items
    }

    fn item(&self, path: &EntryPath) -> Item {
        self.items()
            .into_iter()
            .find(|i| i.entry.path == *path)
            .unwrap()
    }
}

fn write_in(root: &Path, path: &EntryPath, bytes: &[u8]) {
    let at = root.join(path.as_path());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, bytes).unwrap();
}

fn action_path(id: Sha256) -> EntryPath {
    let hex = id.to_hex();
    EntryPath::new(format!("{}/{hex}-a", &hex[..2]).into_bytes()).unwrap()
}

fn line(id: Sha256, out: Sha256, size: usize, nanos: u64) -> Vec<u8> {
    format!("v1 {id} {out} {size:>20} {nanos:>20}\n").into_bytes()
}

fn completed(cache: &Cache, path: &EntryPath) -> Entry {
    let mut item = cache.item(path);
    cache.source.complete(&mut item).unwrap();
    item.entry
}

#[test]
fn an_absent_cache_is_an_empty_scan() {
    let source = GoBuild::new("/nonexistent/cache", Fingerprint::default());
    assert!(source.scan(&NothingKnown).unwrap().items.is_empty());
}

#[test]
fn only_entries_of_the_cache_are_carried() {
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 7);
    let root = cache.temp.path();
    let hex = Sha256::of(b"x").to_hex();
    for junk in [
        "trim.txt".to_owned(),
        "testexpire.txt".into(),
        "README".into(),
        "fuzz/example.com/p/FuzzX/1".into(),
        // In the wrong shard, without a shard, with another end, in upper case, a folder with two files.
        format!("00/{hex}-d"),
        format!("{hex}-d"),
        format!("{}/{hex}-x", &hex[..2]),
        format!("{}/{hex}-d.tmp", &hex[..2]),
        format!("{}/{}-d", &hex[..2], hex.to_uppercase()),
        format!("{}/{hex}-d/program", &hex[..2]),
        format!("{}/{hex}-d/another", &hex[..2]),
        // An action entry of 174 bytes.
        format!("{}/{hex}-a", &hex[..2]),
    ] {
        let at = root.join(junk);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, vec![b'x'; 174]).unwrap();
    }
    std::os::unix::fs::symlink(
        "/etc/passwd",
        root.join(out.as_path())
            .with_file_name(format!("{}-d", Sha256::of(b"l"))),
    )
    .unwrap();
    let scan = cache.source.scan(&NothingKnown).unwrap();
    let mut want = vec![act, out];
    want.sort();
    let found: Vec<_> = scan.items.iter().map(|i| i.entry.path.clone()).collect();
    assert_eq!(found, want);
    assert!(scan.skipped.is_empty());
}

#[test]
fn a_completed_action_names_its_output_and_its_own_time() {
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 1_700_000_000_000_000_009);
    let mut item = cache.item(&act);
    assert!(!item.complete);
    cache.source.complete(&mut item).unwrap();
    assert!(item.complete);
    assert_eq!(item.entry.needs.as_ref(), Some(&out));
    assert_eq!(item.entry.meta.mtime.nanos, 9);
    assert_eq!(item.entry.meta.mode, 0o644);
    let output = cache.item(&out);
    assert!(output.complete);
    assert_eq!(output.claim, Some(Sha256::of(b"output").into()));
    assert_eq!(output.entry.meta.mtime, Time::default());

    let mut bytes = Vec::new();
    for item in [item, output] {
        let mut content = cache.source.open(&item).unwrap();
        bytes.clear();
        content.read_to_end(&mut bytes).unwrap();
        content.settle().unwrap();
        assert_eq!(bytes.len() as u64, item.entry.kind.content_len());
    }
    assert_eq!(bytes, b"output");
}

#[test]
fn actions_without_a_whole_output_are_left_out() {
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 7);
    let at = cache.temp.path().join(out.as_path());
    let mut item = cache.item(&act);
    std::fs::write(&at, b"outp").unwrap();
    assert!(cache.source.complete(&mut item).unwrap_err().contains('4'));
    std::fs::remove_file(&at).unwrap();
    assert!(
        cache
            .source
            .complete(&mut item)
            .unwrap_err()
            .contains("missing")
    );
    cache.write(&act, &[b'x'; ENTRY_LEN]);
    assert!(cache.source.complete(&mut item).is_err());
}

#[test]
fn an_action_that_changed_after_it_was_read_is_not_packed() {
    let cache = Cache::new();
    let (act, _) = cache.put("one", b"output", 7);
    let mut item = cache.item(&act);
    cache.source.complete(&mut item).unwrap();
    cache.put("one", b"output", 8);
    assert!(cache.source.open(&item).is_err());
}

#[test]
fn actions_are_packed_first_and_each_sort_by_age() {
    let cache = Cache::new();
    let (a1, d1) = cache.put("one", b"1", 1);
    let (a2, d2) = cache.put("two", b"2", 2);
    for (path, secs) in [(&a1, 4), (&a2, 3), (&d1, 1), (&d2, 2)] {
        let dir = open_parent(&cache.dir(), path).unwrap();
        dir.set_mtime(path.name(), Time { secs, nanos: 0 }).unwrap();
    }
    let mut items = cache.items();
    items.sort_by(|a, b| pack_order_key(a).cmp(&pack_order_key(b)));
    let order: Vec<_> = items.into_iter().map(|i| i.entry.path).collect();
    assert_eq!(order, [a2, a1, d1, d2]);
}

#[test]
fn what_is_younger_than_an_import_less_an_hour_was_used() {
    let cache = Cache::new();
    let (act, _) = cache.put("one", b"1", 1);
    let mut item = cache.item(&act);
    let hours = |h: i64| Time {
        secs: NOW.secs - h * 3600,
        nanos: NOW.nanos,
    };
    for (mtime, want) in [
        (cache.source.restored_mtime(&item.entry, NOW), false),
        (hours(1), false),
        (
            Time {
                secs: hours(1).secs + 1,
                nanos: 0,
            },
            true,
        ),
        (NOW, true),
        (hours(-1), true),
    ] {
        item.stat.mtime = mtime;
        assert_eq!(cache.source.used(&item, Some(NOW)), want, "{mtime:?}");
        assert!(cache.source.used(&item, None));
    }
    // Go refreshes what is an hour old or more: a restored file shows its use at once.
    let restored = cache.source.restored_mtime(&item.entry, NOW);
    assert!(NOW.secs - restored.secs >= MTIME_INTERVAL.as_secs() as i64);
}

#[test]
fn admission_takes_what_the_cache_itself_exports() {
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 7);
    let entry = completed(&cache, &act);
    cache
        .source
        .kind()
        .admit(&entry, Some(&ContentId::of(b"any")))
        .unwrap();
    let entry = completed(&cache, &out);
    cache
        .source
        .kind()
        .admit(&entry, entry_claim(&out).as_ref())
        .unwrap();
}

#[test]
fn an_empty_output_is_admitted_under_the_hash_of_nothing_only() {
    let cache = Cache::new();
    let (_, out) = cache.put("empty", b"", 7);
    let mut entry = completed(&cache, &out);
    let kind = cache.source.kind();
    kind.admit(&entry, Some(&ContentId::OF_NOTHING)).unwrap();
    entry.path = output_path(Sha256::of(b"something"));
    let why = kind.admit(&entry, Some(&ContentId::OF_NOTHING));
    assert_eq!(why.unwrap_err(), "its content does not match its name");
}

fn entry_claim(path: &EntryPath) -> Option<ContentId> {
    parse(path.as_bytes()).map(|(_, id)| id.into())
}

#[test]
fn admission_refuses_what_is_no_entry_of_the_cache() {
    type Change = fn(&mut Entry);
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 7);
    let common: &[(&str, Change)] = &[
        ("name", |e| e.path = EntryPath::new(*b"trim.txt").unwrap()),
        ("name", |e| e.path = e.path.join(b"x/y").unwrap()),
        ("name", |e| {
            let other = [b"zz", &e.path.as_bytes()[2..]].concat();
            e.path = EntryPath::new(other).unwrap();
        }),
        ("regular", |e| e.kind = Kind::Dir),
        ("regular", |e| {
            e.kind = Kind::Symlink(b"/etc/passwd"[..].into());
        }),
        ("regular", |e| e.kind = Kind::Hardlink(e.path.clone())),
        ("regular", |e| {
            e.kind = Kind::File {
                size: 175,
                extents: Some(Box::default()),
            }
        }),
        ("mode", |e| e.meta.mode = 0o4644),
        ("mode", |e| e.meta.mode = 0o755),
        ("mode", |e| e.meta.mode = 0o600),
        ("mode", |e| e.meta.mode = 0),
        ("owner", |e| e.meta.uid = 1000),
        ("owner", |e| e.meta.gid = 1000),
        ("attributes", |e| {
            e.xattrs = Box::new([(b"user.x"[..].into(), b"1"[..].into())]);
        }),
    ];
    let only_action: &[(&str, Change)] = &[
        ("175", |e| {
            e.kind = Kind::File {
                size: 174,
                extents: None,
            }
        }),
        ("name its output", |e| e.needs = None),
        ("not an output", |e| e.needs = Some(e.path.clone())),
    ];
    let only_output: &[(&str, Change)] = &[("needs no", |e| e.needs = Some(e.path.clone()))];
    for (path, own) in [(&act, only_action), (&out, only_output)] {
        let claim = entry_claim(path);
        for (word, change) in common.iter().chain(own) {
            let mut entry = completed(&cache, path);
            change(&mut entry);
            let why = cache
                .source
                .kind()
                .admit(&entry, claim.as_ref())
                .unwrap_err();
            assert!(why.contains(word), "{word}: {why}");
        }
    }
    let entry = completed(&cache, &out);
    for content in [None, Some(ContentId::of(b"other"))] {
        let why = cache
            .source
            .kind()
            .admit(&entry, content.as_ref())
            .unwrap_err();
        assert!(why.contains("does not match its name"), "{why}");
    }
}

fn standing(cache: &Cache, entry: &Entry, content: &ContentId) -> Standing {
    cache
        .source
        .standing(
            &mut fs::Parents::new(&cache.dir()),
            entry,
            Some(content),
            &NothingKnown,
        )
        .unwrap()
}

#[test]
fn a_standing_output_is_right_only_with_its_content() {
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 7);
    let (entry, claim) = (completed(&cache, &out), Sha256::of(b"output").into());
    assert_eq!(standing(&cache, &entry, &claim), Standing::SameContent);

    cache
        .source
        .adjust(&cache.dir(), &entry, Time::now())
        .unwrap();
    assert_eq!(standing(&cache, &entry, &claim), Standing::Same);

    cache.write(&out, b"OUTPUT");
    assert_eq!(standing(&cache, &entry, &claim), Standing::Other);
    cache.write(&out, b"out");
    assert_eq!(standing(&cache, &entry, &claim), Standing::Other);
    let at = cache.temp.path().join(out.as_path());
    std::fs::remove_file(&at).unwrap();
    assert_eq!(standing(&cache, &entry, &claim), Standing::Absent);
    // Go can use a folder that holds the output as a program, and no other.
    let blocked = Standing::Blocked(crate::source::NOT_OF_GO);
    std::fs::create_dir(&at).unwrap();
    assert_eq!(standing(&cache, &entry, &claim), blocked);
    std::fs::write(at.join("program"), b"OUTPUT").unwrap();
    assert_eq!(standing(&cache, &entry, &claim), blocked);
    std::fs::write(at.join("program"), b"output").unwrap();
    assert_eq!(standing(&cache, &entry, &claim), Standing::Keep);
    std::fs::remove_dir_all(&at).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &at).unwrap();
    assert_eq!(standing(&cache, &entry, &claim), Standing::Other);
    drop(act);
}

/// Knows that every file has this content.
struct Says(ContentId);

impl Known for Says {
    fn content(&self, _: &EntryPath, stat: &Stat) -> Option<KnownContent> {
        Some(KnownContent {
            content: self.0,
            len: stat.size,
        })
    }
}

#[test]
fn what_the_index_knows_is_not_read() {
    let cache = Cache::new();
    let (_, out) = cache.put("one", b"output", 7);
    let entry = completed(&cache, &out);
    cache.write(&out, b"OUTPUT");
    let claim = Sha256::of(b"output").into();
    let found = cache
        .source
        .standing(
            &mut fs::Parents::new(&cache.dir()),
            &entry,
            Some(&claim),
            &Says(claim),
        )
        .unwrap();
    assert_eq!(found, Standing::SameContent);
}

#[test]
fn the_newer_usable_action_is_kept() {
    let ours = Cache::new();
    let (act, out) = ours.put("one", b"output", 50);
    let entry = completed(&ours, &act);
    let bytes = std::fs::read(ours.temp.path().join(act.as_path())).unwrap();
    let content = ContentId::of(&bytes);
    assert_eq!(standing(&ours, &entry, &content), Standing::SameContent);

    let theirs = Cache::new();
    assert_eq!(standing(&theirs, &entry, &content), Standing::Absent);
    for (nanos, want) in [
        (49, Standing::Other),
        (50, Standing::Keep),
        (51, Standing::Keep),
    ] {
        let (_, local) = theirs.put("one", b"local output", nanos);
        assert_eq!(standing(&theirs, &entry, &content), want, "{nanos}");
        // Without its output it is of no use, however new.
        std::fs::remove_file(theirs.temp.path().join(local.as_path())).unwrap();
        assert_eq!(standing(&theirs, &entry, &content), Standing::Other);
    }
    theirs.write(&act, b"broken");
    assert_eq!(standing(&theirs, &entry, &content), Standing::Other);
    drop(out);
}

#[test]
fn staged_actions_need_a_whole_output_staged_or_in_the_cache() {
    let cache = Cache::new();
    let staged = Cache::new();
    let mut paths = Vec::new();
    let (good, out) = staged.put("good", b"staged", 1);
    paths.extend([good, out]);
    // The output stands in the cache already.
    let (a, d) = cache.put("there", b"there", 1);
    write_in(
        staged.temp.path(),
        &a,
        &std::fs::read(cache.temp.path().join(a.as_path())).unwrap(),
    );
    paths.push(a);
    assert!(
        cache
            .source
            .check_staged(&staged.dir(), &paths)
            .unwrap()
            .is_empty()
    );

    let id = Sha256::of(b"bad");
    let bad = action_path(id);
    paths.push(bad.clone());
    for bytes in [
        vec![b'x'; ENTRY_LEN],
        line(id, Sha256::of(b"nowhere"), 7, 1),
        line(id, Sha256::of(b"staged"), 7, 1),
        line(Sha256::of(b"other"), Sha256::of(b"staged"), 6, 1),
    ] {
        write_in(staged.temp.path(), &bad, &bytes);
        let refused = cache.source.check_staged(&staged.dir(), &paths).unwrap();
        let refused: Vec<_> = refused.into_iter().map(|(p, _)| p).collect();
        assert_eq!(refused, std::slice::from_ref(&bad));
    }
    drop(d);
}

#[test]
fn outputs_become_visible_before_actions() {
    let cache = Cache::new();
    let (act, out) = cache.put("one", b"output", 7);
    assert!(cache.source.rank(&out) < cache.source.rank(&act));
}

#[test]
fn trim_stamp_is_written_unless_go_would_heed_the_old_one() {
    let cache = Cache::new();
    let at = cache.temp.path().join("trim.txt");
    let fresh = NOW.secs.to_string();
    let day = 86_400;
    let finish = || cache.source.finish(&cache.dir(), &[], NOW).unwrap();
    finish();
    assert_eq!(std::fs::read_to_string(&at).unwrap(), fresh);
    for (old, kept) in [
        ("junk".to_owned(), false),
        (String::new(), false),
        ((NOW.secs - 6 * day).to_string(), false),
        ((NOW.secs + day).to_string(), false),
        ((NOW.secs - 2 * day).to_string(), true),
        (format!("{}\n", NOW.secs - 60), true),
    ] {
        std::fs::write(&at, &old).unwrap();
        finish();
        let now = std::fs::read_to_string(&at).unwrap();
        assert_eq!(now == old, kept, "{old:?}");
        assert!(kept || now == fresh);
    }
    std::fs::write(&at, [0xff, 0xfe]).unwrap();
    finish();
    assert_eq!(std::fs::read_to_string(&at).unwrap(), fresh);
    assert_eq!(std::fs::read_dir(cache.temp.path()).unwrap().count(), 1);
}

#[test]
fn a_cache_that_go_wrote_is_carried_whole() {
    let cache = Cache::new();
    let done = std::process::Command::new("go")
        .args(["list", "-export=false", "errors", "strconv", "io"])
        .current_dir(cache.temp.path())
        .env("GOCACHE", cache.temp.path())
        .env("GOFLAGS", "")
        .output();
    let Ok(done) = done else {
        return crate::source::cannot_show("what go does: there is no go command");
    };
    assert!(done.status.success(), "{done:?}");
    let items = cache.items();
    assert!(items.len() > 4, "{}", items.len());
    for mut item in items {
        cache.source.complete(&mut item).unwrap();
        let mut content = cache.source.open(&item).unwrap();
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).unwrap();
        content.settle().unwrap();
        let claim = item.claim.unwrap_or_else(|| ContentId::of(&bytes));
        assert!(claim.matches(&bytes));
        cache
            .source
            .kind()
            .admit(&item.entry, Some(&claim))
            .unwrap();
        assert_ne!(standing(&cache, &item.entry, &claim), Standing::Other);
    }
}
