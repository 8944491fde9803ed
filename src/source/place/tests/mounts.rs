//! Mount points and full disks, in a separate mount namespace, if the machine allows one.

use std::process::Command;

use super::*;

#[test]
fn mount_points_are_restored_into_and_a_full_disk_leaves_the_target_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    for dir in ["t/mnt", "full", "w/way/sub/mnt", "w/way/a/bound", "w/src"] {
        std::fs::create_dir_all(temp.path().join(dir)).unwrap();
    }
    let script = "mount -t tmpfs none t/mnt && mount -t tmpfs -o size=256k none full && mount -t tmpfs none w/way/sub/mnt && mount --bind w/src w/way/a/bound || exit 77; exec \"$@\"";
    let name = "source::place::tests::mounts::in_a_namespace_of_its_own";
    let run = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .current_dir(temp.path())
        .output();
    // No such tool, not root, or a sandbox without mounts.
    let Ok(out) = run else {
        return crate::source::cannot_show("mounts: there is no `unshare`");
    };
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.code() == Some(77) || complaint.contains("unshare") {
        return crate::source::cannot_show("mounts: no right to mount a file system");
    }
    assert!(
        out.status.success() && said.contains("1 passed"),
        "{said}\n{complaint}"
    );
}

#[test]
#[ignore = "run by the test above, in a namespace with two small file systems"]
fn in_a_namespace_of_its_own() {
    let here = std::env::current_dir().unwrap();
    let (target, full) = (here.join("t"), here.join("full"));
    let dev = |p: &Path| std::fs::metadata(p).unwrap().dev();
    assert_ne!(dev(&target), dev(&target.join("mnt")), "not run by itself");

    std::fs::create_dir(target.join("mnt/in-the-way")).unwrap();
    std::fs::write(target.join("mnt/x"), "old").unwrap();
    std::fs::write(target.join("mnt/extra"), "old").unwrap();
    let hard = of_kind("mnt/d/hard", 0o644, Kind::Hardlink(path("mnt/x")));
    let mut entries = [
        of_kind("mnt", 0o750, Kind::Dir),
        of_kind("mnt/d", 0o555, Kind::Dir),
        file("mnt/d/f"),
        hard,
        file("mnt/in-the-way"),
        of_kind("mnt/link", 0o777, Kind::Symlink((*b"x").into())),
        file("mnt/x"),
        file("outside"),
    ];
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    for _ in 0..2 {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        let staged = stage(&staging, &entries);
        place_with(staging, &entries, &staged, Some(&|_, _| false)).unwrap();
        let source = DirSource::new(&target, &Options::default()).unwrap();
        let got: Vec<_> = source.scan(&NothingKnown).unwrap().items;
        let got: Vec<_> = got.into_iter().map(|i| i.entry.path).collect();
        let wanted: Vec<_> = entries.iter().map(|e| e.path.clone()).collect();
        assert_eq!(got, wanted);
        let (a, b) = (target.join("mnt/x"), target.join("mnt/d/hard"));
        let ino = |p: &Path| std::fs::metadata(p).unwrap().ino();
        assert_eq!(ino(&a), ino(&b));
        for (p, mode) in [("mnt", 0o750), ("mnt/d", 0o555), ("mnt/x", 0o644)] {
            let m = std::fs::metadata(target.join(p)).unwrap();
            assert_eq!((m.mode() & 0o7777, m.mtime()), (mode, 1000), "{p}");
        }
    }

    // A target that is a mount point itself.
    let placed = restore(&target.join("mnt"), &[file("y/z")]);
    assert_eq!(placed.moves, 1);

    std::fs::write(full.join("precious"), "old").unwrap();
    for target in [full.clone(), full.join("new")] {
        let staging = Staging::begin(&target, PLAIN).unwrap();
        let f = staging
            .tree()
            .create_file(&path("precious"), 0o644)
            .unwrap();
        let e = f.write_all_at(&vec![7; 1 << 20], 0).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::StorageFull);
        drop(staging);
        assert_eq!(names(&full), [PathBuf::from("precious")]);
        assert_eq!(read(full.join("precious")), "old");
    }

    a_folder_that_holds_a_mount_point_stays(&here);
}

/// Another file system, and then the same one once more.
fn a_folder_that_holds_a_mount_point_stays(here: &Path) {
    let target = here.join("w");
    for (mounted, file_there) in [("way/sub/mnt", "way/sub/mnt/f"), ("way/a/bound", "src/f")] {
        std::fs::write(target.join(mounted).join("f"), "mine").unwrap();
        let entries = [file("way")];
        let staging = Staging::begin(&target, PLAIN).unwrap();
        let staged = stage(&staging, &entries);
        let e = place_with(staging, &entries, &staged, Some(&|_, _| false)).unwrap_err();
        let why = format!("`{mounted}`, which is a mount point");
        assert!(e.to_string().contains(&why), "{e}");
        let way = Dir::open(target.join("way")).unwrap();
        let e = way.remove_tree(path(mounted).names().nth(1).unwrap());
        let e = e.unwrap_err().to_string();
        assert!(
            e.contains(mounted) && e.contains("it is a mount point"),
            "{e}"
        );
        assert_eq!(read(target.join(file_there)), "mine");
        if mounted == "way/sub/mnt" {
            // What no rename can bring there is copied.
            let copied = [file("way/sub/mnt/in/the/way")];
            std::fs::create_dir_all(target.join("way/sub/mnt/in/the/way/full")).unwrap();
            let staging = Staging::begin(&target, PLAIN).unwrap();
            let staged = stage(&staging, &copied);
            let e = place_with(staging, &copied, &staged, None).unwrap_err();
            assert!(e.to_string().contains("is not empty"), "{e}");
            assert!(target.join("way/sub/mnt/in/the/way/full").is_dir());
            let unmounted = Command::new("umount").arg(target.join(mounted)).status();
            assert!(unmounted.unwrap().success());
        }
    }
}
