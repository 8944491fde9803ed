//! Programs of `go run` and `go tool`.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const NAME: &str = "hello-a";
const BYTES: &[u8] = b"program";

impl Cache {
    /// Puts a program and an action entry that names it; returns both paths.
    fn put_program(&self, action: &str, name: &str, bytes: &[u8]) -> (EntryPath, EntryPath) {
        let (act, place) = self.put(action, bytes, 7);
        std::fs::remove_file(self.at(&place)).unwrap();
        let program = place.join(name.as_bytes()).unwrap();
        self.write_program(&program, bytes, 0o755);
        (act, program)
    }

    fn write_program(&self, path: &EntryPath, bytes: &[u8], mode: u32) {
        self.write(path, bytes);
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.at(path), mode).unwrap();
    }

    fn at(&self, path: &EntryPath) -> PathBuf {
        self.temp.path().join(path.as_path())
    }

    fn folder_of(&self, program: &EntryPath) -> PathBuf {
        self.at(&program.parent().unwrap())
    }

    fn complete(&self, path: &EntryPath) -> std::result::Result<Entry, String> {
        let mut item = self.item(path);
        self.source.complete(&mut item)?;
        Ok(item.entry)
    }
}

fn content() -> ContentId {
    Sha256::of(BYTES).into()
}

#[test]
fn a_program_is_carried_under_its_name_and_its_action_needs_it() {
    let cache = Cache::new();
    let (act, program) = cache.put_program("link", NAME, BYTES);
    let mut paths = vec![act.clone(), program.clone()];
    paths.sort();
    let items = cache.items();
    let found: Vec<_> = items.iter().map(|i| i.entry.path.clone()).collect();
    assert_eq!(found, paths);
    let item = cache.item(&program);
    assert_eq!(item.claim, Some(content()));
    assert_eq!((item.entry.meta.mode, item.complete), (0o755, true));
    let mut bytes = Vec::new();
    let mut opened = cache.source.open(&item).unwrap();
    opened.read_to_end(&mut bytes).unwrap();
    opened.settle().unwrap();
    assert_eq!(bytes, BYTES);

    let kind = cache.source.kind();
    let action = cache.complete(&act).unwrap();
    assert_eq!(action.needs, Some(program));
    kind.admit(&action, Some(&ContentId::of(b"any"))).unwrap();
    kind.admit(&item.entry, Some(&content())).unwrap();
    let mut item = cache.item(&act);
    item.entry = action;
    cache.source.open(&item).unwrap();
}

#[test]
fn a_folder_without_exactly_one_program_is_no_output() {
    let cache = Cache::new();
    let (act, program) = cache.put_program("link", NAME, BYTES);
    let why = |word: &str| {
        let why = cache.complete(&act).unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
        assert_eq!(cache.items().len(), 1);
    };
    let other = program.parent().unwrap().join(b"other").unwrap();
    cache.write(&other, BYTES);
    why("exactly one program");
    std::fs::remove_file(cache.at(&other)).unwrap();
    std::fs::remove_file(cache.at(&program)).unwrap();
    why("missing");
    std::fs::create_dir(cache.at(&program)).unwrap();
    why("exactly one program");
    std::fs::remove_dir(cache.at(&program)).unwrap();
    cache.write_program(&program, b"pro", 0o755);
    assert!(cache.complete(&act).unwrap_err().contains('3'));
}

#[test]
fn only_executable_programs_with_the_content_of_their_name_are_admitted() {
    let cache = Cache::new();
    let (_, program) = cache.put_program("link", NAME, BYTES);
    let entry = cache.complete(&program).unwrap();
    let admit = |change: fn(&mut Entry), content: ContentId| {
        let mut entry = entry.clone();
        change(&mut entry);
        cache.source.kind().admit(&entry, Some(&content))
    };
    admit(|_| (), content()).unwrap();
    for (word, change) in [
        ("mode", (|e| e.meta.mode = 0o644) as fn(&mut Entry)),
        ("mode", |e| e.meta.mode = 0o777),
        ("needs no", |e| e.needs = Some(e.path.clone())),
        ("regular", |e| e.kind = Kind::Dir),
        ("name", |e| e.path = e.path.join(b"below").unwrap()),
    ] {
        let why = admit(change, content()).unwrap_err();
        assert!(why.contains(word), "{word}: {why}");
    }
    let why = admit(|_| (), ContentId::of(BYTES)).unwrap_err();
    assert!(why.contains("does not match its name"), "{why}");
}

#[test]
fn a_program_stands_if_go_can_run_it_and_a_folder_with_other_files_stays() {
    let cache = Cache::new();
    let (_, program) = cache.put_program("link", NAME, BYTES);
    let entry = cache.complete(&program).unwrap();
    let stands = || standing(&cache, &entry, &content());
    assert!(matches!(stands(), Standing::SameAsRead(_)));
    for (bytes, mode) in [(&b"PROGRAM"[..], 0o755), (b"pro", 0o755), (BYTES, 0o644)] {
        cache.write_program(&program, bytes, mode);
        assert_eq!(stands(), Standing::Other);
    }
    std::fs::remove_file(cache.at(&program)).unwrap();
    assert_eq!(stands(), Standing::Absent, "an empty folder");

    let other = program.parent().unwrap().join(b"other").unwrap();
    cache.write_program(&other, BYTES, 0o755);
    assert_eq!(stands(), Standing::Keep);
    cache.write_program(&other, b"PROGRAM", 0o755);
    assert!(matches!(stands(), Standing::Blocked(_)));
    cache.write_program(&program, BYTES, 0o755);
    assert!(matches!(stands(), Standing::Blocked(_)), "two files");

    let folder = cache.folder_of(&program);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(stands(), Standing::Absent);
    std::fs::write(&folder, BYTES).unwrap();
    assert_eq!(stands(), Standing::Other, "`go run` cannot run it");
    std::fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    assert_eq!(stands(), Standing::Absent);
}

#[test]
fn a_known_program_is_not_read() {
    let cache = Cache::new();
    let (_, program) = cache.put_program("link", NAME, BYTES);
    let entry = cache.complete(&program).unwrap();
    cache.write_program(&program, b"PROGRAM", 0o755);
    let stands = || {
        let known = Says(content());
        let root = cache.dir();
        let found =
            cache
                .source
                .standing(&mut Parents::new(&root), &entry, Some(&content()), &known);
        found.unwrap()
    };
    assert_eq!(stands(), Standing::Same);
    cache.write_program(&program, BYTES, 0o700);
    assert_eq!(stands(), Standing::Same);
    cache.write_program(&program, BYTES, 0o644);
    assert_eq!(stands(), Standing::Other, "it cannot be run");
}

#[test]
fn the_folder_of_a_program_is_dated_so_that_go_records_the_next_use() {
    let cache = Cache::new();
    let (act, program) = cache.put_program("link", NAME, BYTES);
    let entry = cache.complete(&program).unwrap();
    let now = Time::now();
    let folder = program.parent().unwrap();
    let dir = open_parent(&cache.dir(), &folder).unwrap();
    let mtime = || dir.stat(folder.name()).unwrap().unwrap().mtime;
    let of_program = cache.item(&program).stat.mtime;
    let dated = cache.source.restored_mtime(&entry, now);

    assert_ne!(mtime(), dated);
    let placed = [act, program.clone()];
    cache.source.finish(&cache.dir(), &placed, now).unwrap();
    assert_eq!(mtime(), dated);
    // Not used for days: Go would trim it in the middle of the job.
    let old = earlier(now, Duration::from_hours(5 * 24));
    dir.set_mtime(folder.name(), old).unwrap();
    cache.source.adjust(&cache.dir(), &entry, now).unwrap();
    assert_eq!(mtime(), dated);
    assert_eq!(cache.item(&program).stat.mtime, of_program);
}

#[test]
fn staged_actions_accept_a_program_staged_or_in_the_cache() {
    let (cache, staged) = (Cache::new(), Cache::new());
    let (act, program) = staged.put_program("link", NAME, BYTES);
    let paths = [act.clone(), program.clone()];
    let refused = |paths: &[EntryPath]| cache.source.check_staged(&staged.dir(), paths).unwrap();
    assert!(refused(&paths).is_empty());

    std::fs::remove_dir_all(staged.folder_of(&program)).unwrap();
    assert_eq!(refused(&paths[..1]).len(), 1);
    cache.put_program("link", "other", BYTES);
    assert!(refused(&paths[..1]).is_empty());
    let other = program.parent().unwrap().join(b"third").unwrap();
    cache.write(&other, BYTES);
    assert_eq!(refused(&paths[..1])[0].0, act);
}

#[test]
fn a_program_is_an_output_whatever_its_name() {
    let cache = Cache::new();
    let (act, program) = cache.put_program("link", NAME, BYTES);
    assert!(cache.source.rank(&program) < cache.source.rank(&act));
    let mut items = cache.items();
    items.sort_by(|a, b| pack_order_key(a).cmp(&pack_order_key(b)));
    assert_eq!(items[0].entry.path, act);
}

#[test]
fn a_mirror_may_remove_the_folder_of_a_program_and_nothing_else() {
    let cache = Cache::new();
    let (_, program) = cache.put_program("link", NAME, BYTES);
    let folder = program.parent().unwrap();
    let keeps = |path: &EntryPath, is_dir| cache.source.keeps(path.as_bytes(), is_dir);
    assert!(!keeps(&folder, true) && !keeps(&program, false));
    let other = folder.join(b"other").unwrap();
    cache.write(&other, BYTES);
    assert!(keeps(&folder, true), "two files");
    std::fs::remove_dir_all(cache.folder_of(&program)).unwrap();
    std::fs::create_dir(cache.folder_of(&program)).unwrap();
    assert!(keeps(&folder, true), "empty");
}

#[test]
fn an_action_that_go_can_use_is_kept_with_its_program() {
    let (ours, theirs) = (Cache::new(), Cache::new());
    let (act, _) = ours.put_program("link", NAME, BYTES);
    let entry = ours.complete(&act).unwrap();
    let bytes = std::fs::read(ours.at(&act)).unwrap();
    let content = ContentId::of(&bytes);
    let (_, local) = theirs.put_program("link", NAME, b"linked here");
    assert_eq!(standing(&theirs, &entry, &content), Standing::Keep);
    std::fs::remove_file(theirs.at(&local)).unwrap();
    assert_eq!(standing(&theirs, &entry, &content), Standing::Other);
}
