use super::*;
use crate::digest::Sha256;
use crate::source::{KnownContent, NothingKnown};
use std::{io::Write as _, process::Command};

const NOW: Time = Time {
    secs: 1_800_000_000,
    nanos: 0,
};

fn entry_path(p: &str) -> EntryPath {
    EntryPath::new(p.as_bytes()).unwrap()
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let at = root.join(path);
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, bytes).unwrap();
}

/// A deflated zip of a module, as a proxy serves it, and its hash.
fn module_zip(prefix: &str, body: &str) -> (Vec<u8>, H1) {
    let files = [
        (
            format!("{prefix}go.mod"),
            "module example.com/m\n".to_owned(),
        ),
        (
            format!("{prefix}m.go"),
            format!("package m\n\n// {body}\n").repeat(20),
        ),
    ];
    let mut w = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut digests = Vec::new();
    for (name, text) in &files {
        let options = ::zip::write::SimpleFileOptions::default()
            .compression_method(::zip::CompressionMethod::Deflated);
        w.start_file(name.as_str(), options).unwrap();
        w.write_all(text.as_bytes()).unwrap();
        digests.push((name.as_bytes(), Sha256::of(text.as_bytes())));
    }
    let h1 = H1::of_files(&digests).unwrap();
    (w.finish().unwrap().into_inner(), h1)
}

pub(crate) const BASE: &str = "cache/download/example.com/m/@v/v1.0.0";
const MOD: &[u8] = b"module example.com/m\n";

/// Puts the version [`BASE`] into a module cache, as Go leaves it; the line of go.sum for its zip.
pub(crate) fn fill(root: &Path, body: &str) -> String {
    let (zip, h1) = module_zip("example.com/m@v1.0.0/", body);
    write(root, &format!("{BASE}.zip"), &zip);
    write(root, &format!("{BASE}.ziphash"), h1.to_string().as_bytes());
    write(root, &format!("{BASE}.mod"), MOD);
    write(root, &format!("{BASE}.info"), br#"{"Version":"v1.0.0"}"#);
    format!("example.com/m v1.0.0 {h1}\n")
}

/// A module cache with one version in it, as Go leaves it.
struct Cache {
    temp: tempfile::TempDir,
    source: GoMod,
}

impl Cache {
    fn empty(go_sum: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let sum_dir = tempfile::tempdir().unwrap();
        write(sum_dir.path(), "go.sum", go_sum.as_bytes());
        let project = Project {
            sums: Sums::read(&[sum_dir.path().join("go.sum")]).unwrap(),
            toolchains: vec!["v0.0.1-go1.27.3".into()],
        };
        let source = GoMod::new(temp.path(), project);
        Self { temp, source }
    }

    fn with(go_sum: &str, body: &str) -> Self {
        let cache = Self::empty(go_sum);
        cache.fill(body);
        cache
    }

    fn fill(&self, body: &str) {
        fill(self.temp.path(), body);
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        write(self.temp.path(), path, bytes);
    }

    fn dir(&self) -> Dir {
        Dir::open(self.temp.path()).unwrap()
    }

    fn items(&self) -> Vec<Item> {
        self.source.scan(&NothingKnown).unwrap().items
    }

    fn item(&self, path: &str) -> Item {
        let mut item = self
            .items()
            .into_iter()
            .find(|i| i.entry.path == entry_path(path))
            .unwrap();
        self.source.complete(&mut item).unwrap();
        item
    }

    /// What an export would pack of one file.
    fn pack(&self, path: &str) -> std::result::Result<Vec<u8>, String> {
        let item = self.item(path);
        let mut content = self.source.open(&item)?;
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        content.settle()?;
        assert_eq!(bytes.len() as u64, item.entry.kind.content_len());
        Ok(bytes)
    }

    fn refused(&self, staged: &Cache) -> Vec<String> {
        let paths: Vec<EntryPath> = staged.items().into_iter().map(|i| i.entry.path).collect();
        let refused = self.source.check_staged(&staged.dir(), &paths).unwrap();
        refused
            .into_iter()
            .map(|(p, why)| format!("{p}: {why}"))
            .collect()
    }

    fn standing(&self, path: &str, of: &Cache) -> Standing {
        let entry = of.item(path).entry;
        let content = ContentId::of(&of.pack(path).unwrap());
        self.source
            .standing(
                &mut fs::Parents::new(&self.dir()),
                &entry,
                Some(&content),
                &NothingKnown,
            )
            .unwrap()
    }
}

#[test]
fn only_what_a_proxy_would_serve_is_carried() {
    let cache = Cache::with("", "x");
    for junk in [
        "cache/lock",
        "cache/vcs/abc.info",
        "cache/download/example.com/m/@v/list",
        "cache/download/example.com/m/@v/v1.0.0.lock",
        "cache/download/example.com/m/@v/v1.0.0.partial",
        "cache/download/example.com/m/@v/v1.0.0.zip123.tmp",
        "cache/download/example.com/m/@v/v1.0.0.mod55.tmp",
        // Damaged in a way that Go sees: a hash with zeroes cut short.
        "cache/download/example.com/m/@v/v1.0.1.ziphash",
        // What Go would take at its word.
        "cache/download/sumdb/sum.golang.org/lookup/example.com/m@v1.0.0",
        "cache/download/sumdb/sum.golang.org/tile/8/0/002",
        "example.com/m@v1.0.0/go.mod",
    ] {
        cache.write(junk, b"junk");
    }
    let at = cache
        .temp
        .path()
        .join("cache/download/example.com/m/@v/v1.0.2.mod");
    std::os::unix::fs::symlink("/etc/passwd", at).unwrap();
    let scan = cache.source.scan(&NothingKnown).unwrap();
    let found: Vec<String> = scan
        .items
        .iter()
        .map(|i| i.entry.path.to_string())
        .collect();
    let want: Vec<String> = ["info", "mod", "zip", "ziphash"]
        .iter()
        .map(|e| format!("{BASE}.{e}"))
        .collect();
    assert_eq!(found, want);
    for item in &scan.items {
        assert_eq!(item.entry.meta.mode, 0o644);
        assert_eq!(item.entry.meta.mtime, Time::default());
    }
    assert!(
        GoMod::new("/nonexistent", Project::default())
            .scan(&NothingKnown)
            .unwrap()
            .items
            .is_empty()
    );
}

#[test]
fn a_zip_is_packed_stored_and_its_restored_form_packs_to_the_same_bytes() {
    let zip = format!("{BASE}.zip");
    let cache = Cache::with("", "x");
    let packed = cache.pack(&zip).unwrap();
    let original = std::fs::read(cache.temp.path().join(&zip)).unwrap();
    assert!(packed.len() > original.len());
    cache.write(&zip, &packed);
    assert!(cache.pack(&zip).unwrap() == packed);
}

#[test]
fn a_zip_that_the_index_knows_is_not_opened() {
    struct Says;
    impl Known for Says {
        fn content(&self, path: &EntryPath, _: &fs::Stat) -> Option<KnownContent> {
            path.as_bytes().ends_with(b".zip").then_some(KnownContent {
                content: ContentId::OF_NOTHING,
                len: 12345,
            })
        }
    }
    let cache = Cache::with("", "x");
    cache.write(&format!("{BASE}.zip"), b"not a zip at all");
    let scan = cache.source.scan(&Says).unwrap();
    let zip = scan
        .items
        .iter()
        .find(|i| i.entry.path.as_bytes().ends_with(b".zip"))
        .unwrap();
    assert!(zip.complete);
    assert_eq!(zip.entry.kind.content_len(), 12345);
}

#[test]
fn damaged_files_are_never_published() {
    let zip = format!("{BASE}.zip");
    let (other, _) = module_zip("example.com/m@v1.0.0/", "other");
    // Whole, but not what its .ziphash says.
    let cache = Cache::with("", "x");
    cache.write(&zip, &other);
    assert!(cache.pack(&zip).unwrap_err().contains("expected is"));
    // Whole and with its own .ziphash, but not what go.sum says; then without a .ziphash.
    let (_, h1) = module_zip("example.com/m@v1.0.0/", "x");
    let cache = Cache::with(&format!("example.com/m v1.0.0 {h1}\n"), "other");
    assert!(cache.pack(&zip).unwrap_err().contains("go.sum"));
    std::fs::remove_file(cache.temp.path().join(format!("{BASE}.ziphash"))).unwrap();
    assert!(cache.pack(&zip).unwrap_err().contains(&h1.to_string()));
    // No zip, or one of another module.
    for bytes in [
        b"<html>".to_vec(),
        module_zip("example.com/n@v1.0.0/", "x").0,
    ] {
        cache.write(&zip, &bytes);
        let mut item = cache
            .items()
            .into_iter()
            .find(|i| i.entry.path == entry_path(&zip))
            .unwrap();
        assert!(cache.source.complete(&mut item).is_err());
        assert!(cache.source.open(&item).is_err());
    }
    // The small ones.
    let sum = format!("example.com/m v1.0.0/go.mod {}\n", H1::of_go_mod(MOD));
    let cache = Cache::with(&sum, "x");
    cache.pack(&format!("{BASE}.mod")).unwrap();
    cache.write(&format!("{BASE}.mod"), b"module example.com/evil\n");
    cache.write(&format!("{BASE}.info"), br#"{"Version":"v1.0.1"}"#);
    cache.write(&format!("{BASE}.ziphash"), &[0; 47]);
    for end in ["mod", "info", "ziphash"] {
        assert!(cache.pack(&format!("{BASE}.{end}")).is_err(), "{end}");
    }
}

#[test]
fn a_ziphash_that_is_not_of_its_zip_is_never_published() {
    let (_, right) = module_zip("example.com/m@v1.0.0/", "x");
    let (_, wrong) = module_zip("example.com/m@v1.0.0/", "other");
    let path = format!("{BASE}.ziphash");
    for (sum, says) in [
        (format!("example.com/m v1.0.0 {right}\n"), "go.sum"),
        (String::new(), ".ziphash"),
    ] {
        let cache = Cache::with(&sum, "x");
        cache.pack(&path).unwrap();
        cache.write(&path, wrong.to_string().as_bytes());
        assert!(cache.pack(&path).unwrap_err().contains(says), "{says}");
    }
}

#[test]
fn a_damaged_zip_that_stands_is_replaced() {
    let zip = format!("{BASE}.zip");
    let good = Cache::with("", "x");
    let ours = Cache::with("", "x");
    assert!(matches!(
        ours.standing(&zip, &good),
        Standing::SameAsRead(_)
    ));
    // As long as it was, and its own table is whole.
    let at = ours.temp.path().join(&zip);
    let mut bytes = std::fs::read(&at).unwrap();
    let middle = bytes.len() / 3;
    for b in &mut bytes[middle..middle + 4] {
        *b ^= 0x55;
    }
    std::fs::write(&at, bytes).unwrap();
    assert_eq!(ours.standing(&zip, &good), Standing::Other);
    // Another content under the .ziphash that go.sum wants.
    let (other, _) = module_zip("example.com/m@v1.0.0/", "y");
    std::fs::write(&at, other).unwrap();
    assert_eq!(ours.standing(&zip, &good), Standing::Other);
}

#[test]
fn staged_versions_are_compared_with_go_sum_and_ziphash() {
    let (_, h1) = module_zip("example.com/m@v1.0.0/", "x");
    let good_sum = format!(
        "example.com/m v1.0.0 {h1}\nexample.com/m v1.0.0/go.mod {}\n",
        H1::of_go_mod(MOD)
    );
    for sum in [good_sum.as_str(), ""] {
        assert!(Cache::empty(sum).refused(&Cache::with("", "x")).is_empty());
    }
    // Another content, with a .ziphash of its own: only go.sum can tell. All of the version is refused.
    let refused = Cache::empty(&good_sum).refused(&Cache::with("", "evil"));
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert!(refused.iter().any(|r| r.contains("go.sum")));
    // Another content under the right .ziphash.
    let staged = Cache::with("", "x");
    let (evil, _) = module_zip("example.com/m@v1.0.0/", "evil");
    staged.write(&format!("{BASE}.zip"), &evil);
    assert_eq!(Cache::empty("").refused(&staged).len(), 4);
    // A .mod that go.sum forbids, an .info of another version, a .ziphash that is none.
    for (end, bytes) in [
        ("mod", &b"module example.com/evil\n"[..]),
        ("info", b"{}"),
        ("ziphash", &[0; 47]),
        ("zip", b"PK"),
    ] {
        let staged = Cache::with("", "x");
        staged.write(&format!("{BASE}.{end}"), bytes);
        let refused = Cache::empty(&good_sum).refused(&staged);
        assert_eq!(refused.len(), 4, "{end}: {refused:?}");
    }
}

#[test]
fn a_version_that_is_refused_does_not_take_others_with_it() {
    let (_, h1) = module_zip("example.com/m@v1.0.0/", "x");
    let staged = Cache::with("", "evil");
    let other = "cache/download/example.com/m/@v/v1.0.1.mod";
    staged.write(other, MOD);
    let refused = Cache::empty(&format!("example.com/m v1.0.0 {h1}\n")).refused(&staged);
    assert_eq!(refused.len(), 4);
    assert!(!refused.iter().any(|r| r.starts_with(other)));
}

#[test]
fn a_ziphash_without_its_zip_must_fit_one_that_stands() {
    let alone = Cache::with("", "x");
    std::fs::remove_file(alone.temp.path().join(format!("{BASE}.zip"))).unwrap();
    let refused = Cache::empty("").refused(&alone);
    assert!(refused.iter().any(|r| r.contains("without its zip")));
    assert!(Cache::with("", "x").refused(&alone).is_empty());
    assert!(!Cache::with("", "other").refused(&alone).is_empty());
    // And a zip without a .ziphash must fit the .ziphash that stands.
    let alone = Cache::with("", "x");
    std::fs::remove_file(alone.temp.path().join(format!("{BASE}.ziphash"))).unwrap();
    assert!(Cache::empty("").refused(&alone).is_empty());
    assert!(Cache::with("", "x").refused(&alone).is_empty());
    assert!(!Cache::with("", "other").refused(&alone).is_empty());
}

#[test]
fn what_stands_and_is_not_wrong_is_kept() {
    let ours = Cache::with("", "x");
    let zip = format!("{BASE}.zip");
    let (_, h1) = module_zip("example.com/m@v1.0.0/", "x");
    let sum = format!("example.com/m v1.0.0 {h1}\n");
    for end in ["zip", "ziphash", "mod", "info"] {
        let path = format!("{BASE}.{end}");
        assert_eq!(Cache::empty("").standing(&path, &ours), Standing::Absent);
        // The same version, its zip compressed.
        let found = Cache::with("", "x").standing(&path, &ours);
        assert!(matches!(found, Standing::SameAsRead(_)), "{end}: {found:?}");
    }
    // Other content: kept unless go.sum speaks against it.
    assert_eq!(Cache::with("", "y").standing(&zip, &ours), Standing::Keep);
    assert_eq!(
        Cache::with(&sum, "y").standing(&zip, &ours),
        Standing::Other
    );
    let found = Cache::with(&sum, "x").standing(&zip, &ours);
    assert!(matches!(found, Standing::SameAsRead(_)), "{found:?}");
    let hash = format!("{BASE}.ziphash");
    assert_eq!(Cache::with("", "y").standing(&hash, &ours), Standing::Keep);
    assert_eq!(
        Cache::with(&sum, "y").standing(&hash, &ours),
        Standing::Other
    );
    // Damaged: replaced.
    for (end, bytes) in [
        ("zip", &b"PK\x03\x04 cut off"[..]),
        ("ziphash", &[0; 47]),
        ("mod", b""),
        ("info", b"<html>"),
    ] {
        let cache = Cache::with("", "x");
        let path = format!("{BASE}.{end}");
        cache.write(&path, bytes);
        assert_eq!(cache.standing(&path, &ours), Standing::Other, "{end}");
    }
    // Nothing of Go's, which the user is to be told of.
    let cache = Cache::with("", "x");
    std::fs::remove_file(cache.temp.path().join(&zip)).unwrap();
    std::fs::create_dir(cache.temp.path().join(&zip)).unwrap();
    let blocked = Standing::Blocked(crate::source::NOT_OF_GO);
    assert_eq!(cache.standing(&zip, &ours), blocked);
    let cache = Cache::with("", "x");
    std::fs::remove_file(cache.temp.path().join(&hash)).unwrap();
    assert_eq!(cache.standing(&zip, &ours), Standing::Other);
    // A .mod that go.sum wants otherwise.
    let sum = format!("example.com/m v1.0.0/go.mod {}\n", H1::of_go_mod(MOD));
    for (sum, want) in [("", Standing::Keep), (sum.as_str(), Standing::Other)] {
        let cache = Cache::with(sum, "x");
        cache.write(&format!("{BASE}.mod"), b"module example.com/other\n");
        assert_eq!(cache.standing(&format!("{BASE}.mod"), &ours), want);
    }
}

#[test]
fn admission_refuses_what_is_no_file_of_a_module() {
    type Change = fn(&mut Entry);
    let cache = Cache::with("", "x");
    let changes: &[(&str, Change)] = &[
        ("name", |e| {
            e.path = entry_path("cache/download/example.com/m/@v/list");
        }),
        ("name", |e| e.path = entry_path("cache/lock")),
        ("name", |e| {
            e.path = entry_path("example.com/m@v1.0.0/go.mod");
        }),
        ("name", |e| e.path = entry_path("cache/vcs/x")),
        ("regular", |e| e.kind = Kind::Dir),
        ("regular", |e| {
            e.kind = Kind::Symlink(b"/etc/passwd"[..].into());
        }),
        ("regular", |e| e.kind = Kind::Hardlink(e.path.clone())),
        ("regular", |e| {
            e.kind = Kind::File {
                size: 47,
                extents: Some(Box::default()),
            };
        }),
        ("bytes", |e| {
            e.kind = Kind::File {
                size: 501 << 20,
                extents: None,
            };
        }),
        ("mode", |e| e.meta.mode = 0o6644),
        ("mode", |e| e.meta.mode = 0o755),
        ("owner", |e| e.meta.uid = 1),
        ("attributes", |e| {
            e.xattrs = Box::new([(b"user.x"[..].into(), b"1"[..].into())]);
        }),
        ("another entry", |e| e.needs = Some(e.path.clone())),
    ];
    for item in cache.items() {
        cache.source.kind().admit(&item.entry, None).unwrap();
        for (word, change) in changes {
            let mut entry = item.entry.clone();
            change(&mut entry);
            let why = cache.source.kind().admit(&entry, None).unwrap_err();
            assert!(why.contains(word), "{word}: {why}");
        }
    }
    for (path, size) in [
        ("cache/download/sumdb/s.org/tile/8/0/001.p/1", 32),
        ("cache/download/sumdb/s.org/lookup/e.com/m@v1.0.0", 100),
        ("cache/download/e.com/m/@v/v1.0.0.ziphash", 48),
        ("cache/download/e.com/m/@v/v1.0.0.mod", 17 << 20),
        ("cache/download/e.com/m/@v/v1.0.0.info", 0),
    ] {
        let meta = crate::entry::Meta {
            mode: 0o644,
            ..Default::default()
        };
        let entry = Entry::file(entry_path(path), size, meta);
        assert!(cache.source.kind().admit(&entry, None).is_err(), "{path}");
    }
}

#[test]
fn used_is_what_the_project_names_or_the_job_brought() {
    let sum = format!("example.com/named v1.0.0/go.mod {}\n", H1::of_go_mod(b""));
    let cache = Cache::empty(&sum);
    let named = "cache/download/example.com/named/@v/v1.0.0.mod";
    let other = "cache/download/example.com/other/@v/v1.0.0.mod";
    let locked = "cache/download/example.com/locked/@v/v1.0.0.mod";
    let chain = "cache/download/golang.org/toolchain/@v/v0.0.1-go1.27.3.linux-amd64.ziphash";
    let old_chain = "cache/download/golang.org/toolchain/@v/v0.0.1-go1.26.1.linux-amd64.ziphash";
    let all = [named, other, locked, chain, old_chain];
    for path in all {
        cache.write(path, &[b'x'; 47]);
    }
    cache.write("cache/download/example.com/locked/@v/v1.0.0.lock", b"");
    let back = |path: &str, by: i64| {
        let p = entry_path(path);
        let dir = open_parent(&cache.dir(), &p).unwrap();
        let mtime = Time {
            secs: NOW.secs - by,
            nanos: 0,
        };
        dir.set_mtime(p.name(), mtime).unwrap();
    };
    let used = || -> Vec<String> {
        let items = cache.items();
        let mut used: Vec<_> = items
            .into_iter()
            .filter(|i| cache.source.used(i, Some(NOW)))
            .map(|i| i.entry.path.to_string())
            .collect();
        used.sort();
        used
    };
    for path in all {
        back(path, 7200);
    }
    back("cache/download/example.com/locked/@v/v1.0.0.lock", -5);
    let mut want = vec![named, locked, chain];
    want.sort_unstable();
    assert_eq!(used(), want);
    back("cache/download/example.com/locked/@v/v1.0.0.lock", 86_400);
    back(other, -60);
    let mut want = vec![named, other, chain];
    want.sort_unstable();
    assert_eq!(used(), want);
    assert!(cache.items().iter().all(|i| cache.source.used(i, None)));
    let item = cache.item(other);
    let mut restored = item.clone();
    restored.stat.mtime = cache.source.restored_mtime(&item.entry, NOW);
    assert!(!cache.source.used(&restored, Some(NOW)));
}

#[test]
fn a_ziphash_is_never_visible_before_its_zip() {
    let cache = Cache::empty("");
    let rank = |end: &str| cache.source.rank(&entry_path(&format!("{BASE}.{end}")));
    assert!(rank("zip") < rank("ziphash"));
    assert!(rank("ziphash") < rank("mod") && rank("mod") < rank("info"));
}

#[test]
fn a_mirror_touches_nothing_but_the_download_tree() {
    let source = Cache::empty("").source;
    for (path, is_dir, kept) in [
        ("cache", true, false),
        ("cache/download", true, false),
        ("cache/download/example.com/m/@v", true, false),
        ("cache/download/example.com/m/@v/v1.0.0.zip", false, false),
        ("cache/download/example.com/m/@v/v1.0.0.lock", false, true),
        ("cache/download/example.com/m/@v/list", false, true),
        ("cache/download/sumdb", true, true),
        ("cache/download/sumdb/sum.golang.org/tile", true, true),
        ("cache/vcs", true, true),
        ("cache/lock", false, true),
        ("example.com", true, true),
        ("cache/download2", true, true),
    ] {
        assert_eq!(source.keeps(path.as_bytes(), is_dir), kept, "{path}");
    }
}

#[test]
fn lists_are_rewritten_only_where_a_mod_was_placed() {
    let cache = Cache::with("", "x");
    let list = cache
        .temp
        .path()
        .join("cache/download/example.com/m/@v/list");
    let finish = |ends: &[&str]| {
        let placed: Vec<_> = ends
            .iter()
            .map(|e| entry_path(&format!("{BASE}.{e}")))
            .collect();
        cache.source.finish(&cache.dir(), &placed, NOW).unwrap();
    };
    finish(&["zip", "ziphash", "info"]);
    assert!(!list.exists());
    cache.write("cache/download/example.com/m/@v/v1.10.0.mod", MOD);
    cache.write("cache/download/example.com/m/@v/v1.9.0.mod", MOD);
    finish(&["mod"]);
    assert_eq!(std::fs::read(&list).unwrap(), b"v1.0.0\nv1.9.0\nv1.10.0\n");
    let before = std::fs::metadata(&list).unwrap().modified().unwrap();
    finish(&["mod"]);
    assert_eq!(
        std::fs::metadata(&list).unwrap().modified().unwrap(),
        before
    );
    std::fs::remove_file(&list).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &list).unwrap();
    let placed = [entry_path(&format!("{BASE}.mod"))];
    assert!(cache.source.finish(&cache.dir(), &placed, NOW).is_err());
}

/// Runs `go mod download -json` for one version; `None` where there is no `go`.
fn download(cache: &Path, proxy: &str, query: &str) -> Option<serde_json::Value> {
    let away = tempfile::tempdir().unwrap();
    let done = Command::new("go")
        .args(["mod", "download", "-json", query])
        .current_dir(away.path())
        .env("GOMODCACHE", cache)
        .env("GOPROXY", proxy)
        .env("GOSUMDB", "off")
        .env("GOFLAGS", "-modcacherw")
        .env("GOTOOLCHAIN", "local")
        .output()
        .ok()?;
    assert!(done.status.success(), "{done:?}");
    Some(serde_json::from_slice(&done.stdout).unwrap())
}

#[test]
fn a_cache_that_go_filled_serves_go_again_offline() {
    let proxy = tempfile::tempdir().unwrap();
    let at = "example.com/!upper/m/@v";
    for v in ["v1.9.0", "v1.10.0-pre"] {
        let (zip, _) = module_zip(&format!("example.com/Upper/m@{v}/"), v);
        write(proxy.path(), &format!("{at}/{v}.zip"), &zip);
        write(
            proxy.path(),
            &format!("{at}/{v}.mod"),
            b"module example.com/Upper/m\n",
        );
        let info = format!(r#"{{"Version":"{v}","Time":"2020-01-01T00:00:00Z"}}"#);
        write(proxy.path(), &format!("{at}/{v}.info"), info.as_bytes());
    }
    write(
        proxy.path(),
        &format!("{at}/list"),
        b"v1.9.0\nv1.10.0-pre\n",
    );
    let first = Cache::empty("");
    let url = format!("file://{}", proxy.path().display());
    let mut told = Vec::new();
    for v in ["v1.10.0-pre", "v1.9.0"] {
        let query = format!("example.com/Upper/m@{v}");
        let Some(json) = download(first.temp.path(), &url, &query) else {
            return crate::source::cannot_show("what go does: there is no go command");
        };
        told.push(json);
    }
    let (_, h1) = module_zip("example.com/Upper/m@v1.9.0/", "v1.9.0");
    assert_eq!(told[1]["Sum"], h1.to_string());
    let go_mod = H1::of_go_mod(b"module example.com/Upper/m\n");
    assert_eq!(told[1]["GoModSum"], go_mod.to_string());

    let second = Cache::empty(&format!("example.com/Upper/m v1.9.0 {h1}\n"));
    let items = first.items();
    assert_eq!(items.len(), 8);
    for item in &items {
        let path = item.entry.path.to_string();
        second.write(&path, &first.pack(&path).unwrap());
    }
    assert!(Cache::empty("").refused(&second).is_empty());
    let placed: Vec<EntryPath> = items.into_iter().map(|i| i.entry.path).collect();
    second.source.finish(&second.dir(), &placed, NOW).unwrap();
    let list = format!("cache/download/{at}/list");
    let lists = [&first, &second].map(|c| std::fs::read(c.temp.path().join(&list)).unwrap());
    assert_eq!(lists[0], lists[1]);
    let json = download(second.temp.path(), "off", "example.com/Upper/m@v1.9.0").unwrap();
    assert_eq!(json["Sum"], told[1]["Sum"]);
}
