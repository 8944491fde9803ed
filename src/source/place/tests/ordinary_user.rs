//! Restoring as an ordinary user, whom permissions stop where they do not stop root: these tests mostly run as root.

use std::os::unix::process::CommandExt as _;

use super::*;

#[test]
fn an_ordinary_user_restores_into_read_only_folders() {
    if !crate::fs::is_root() {
        return as_ordinary_user();
    }
    let me = std::env::current_exe().unwrap();
    let name = "source::place::tests::ordinary_user::as_ordinary_user";
    let run = std::process::Command::new(me)
        .args(["--exact", name, "--ignored", "--nocapture"])
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output();
    match run {
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(
                out.status.success() && said.contains("1 passed"),
                "{said}\n{}",
                String::from_utf8_lossy(&out.stderr)
            );
        }
        // The test binary lies where only root can reach it.
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::PermissionDenied),
    }
}

#[test]
#[ignore = "run by the test above, as another user"]
fn as_ordinary_user() {
    let temp = tempfile::tempdir_in("/tmp").unwrap();
    let target = temp.path().join("t");
    let mode = |p: &str, mode: u32| {
        std::fs::set_permissions(target.join(p), PermissionsExt::from_mode(mode)).unwrap();
    };
    let mode_of = |p: &str| std::fs::metadata(target.join(p)).unwrap().mode() & 0o7777;
    let dir = |p: &str, mode| of_kind(p, mode, Kind::Dir);

    // New, then onto itself with more, then with folders and files in each other's way.
    restore(
        &target,
        &[
            dir("ro", 0o555),
            dir("ro/in", 0o500),
            file("ro/in/f"),
            file("ro/f"),
        ],
    );
    assert_eq!((mode_of("ro"), mode_of("ro/in")), (0o555, 0o500));
    let entries = [dir("ro", 0o555), file("ro/f"), file("ro/g"), file("ro/in")];
    let staging = Staging::begin(&target, PLAIN).unwrap();
    let staged = stage(&staging, &entries);
    place_with(staging, &entries, &staged, Some(&|_, _| false)).unwrap();
    assert_eq!(mode_of("ro"), 0o555);
    assert!(target.join("ro/in").is_file());

    // Folders that are no entries get their mode back.
    std::fs::create_dir(target.join("mine")).unwrap();
    mode("mine", 0o511);
    mode("", 0o555);
    restore(
        &target,
        &[file("mine/f"), dir("moved", 0o555), file("moved/f")],
    );
    assert_eq!((mode_of("mine"), mode_of("")), (0o511, 0o555));
    restore(
        &target,
        &[
            dir("moved", 0o500),
            dir("moved/deeper", 0o555),
            file("moved/deeper/f"),
        ],
    );
    assert_eq!(mode_of("moved/deeper"), 0o555);

    // Nobody knows what a folder holds that cannot be entered.
    mode("mine", 0o755);
    std::fs::create_dir_all(target.join("mine/way/in")).unwrap();
    mode("mine/way", 0o444);
    let way = path("mine/way");
    let parent = Dir::open(target.join("mine")).unwrap();
    let why = stays(&parent, &way, &OwnWithin::default(), &|_, _| false, true).unwrap();
    let wanted = "the folder in its place cannot be read: Permission denied";
    assert!(why.as_ref().unwrap().contains(wanted), "{why:?}");
    mode("mine/way", 0o755);

    // Mirrored away, though read-only.
    let staging = Staging::begin(&target, PLAIN).unwrap();
    let placed = place_with(staging, &[], &[], Some(&|_, _| false)).unwrap();
    assert!(placed.removed >= 8, "{placed:?}");
    assert_eq!(names(&target), Vec::<PathBuf>::new());
    assert_eq!(mode_of(""), 0o555);

    // Not ours at all.
    let e = Staging::begin(Path::new("/usr/lib"), PLAIN).unwrap_err();
    assert!(e.to_string().contains("/usr/lib"), "{e}");
    let e = Staging::begin(Path::new("/usr/lib/new/target"), PLAIN).unwrap_err();
    assert!(e.to_string().contains("/usr/lib/new"), "{e}");

    // What cannot be read is named: folders by the scan, files when they are opened.
    mode("", 0o755);
    std::fs::write(target.join("secret"), "x").unwrap();
    std::fs::create_dir(target.join("closed")).unwrap();
    mode("secret", 0o000);
    mode("closed", 0o000);
    let source = DirSource::new(&target, &Options::default()).unwrap();
    let scan = source.scan(&NothingKnown).unwrap();
    assert_eq!((scan.items.len(), scan.skipped.len()), (1, 1));
    assert_eq!(scan.skipped[0].path, "closed");
    assert!(source.open(&scan.items[0]).is_err());
    mode("closed", 0o700);
}
