//! Kills at any moment: afterwards every name has its old or its new content, and nothing obstructs the next run.

use std::{process::Command, time::Duration};

use super::*;

const FILES: usize = 120;
const BYTES: usize = 20_000;

fn entries() -> Vec<Entry> {
    let mut all: Vec<Entry> = (0..FILES)
        .map(|i| {
            let mut e = file(&format!("{}/{i}", i % 10));
            e.kind = Kind::File {
                size: BYTES as u64,
                extents: None,
            };
            e
        })
        .collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn restore_filled_with(target: &Path, byte: u8) {
    let entries = entries();
    let staging = Staging::begin(target, PLAIN).unwrap();
    for e in &entries {
        let f = staging.tree().create_file(&e.path, 0o644).unwrap();
        f.write_all_at(&vec![byte; BYTES], 0).unwrap();
        staging.tree().finish_file(&f, e, e.meta.mtime).unwrap();
    }
    place_with(staging, &entries, &vec![true; entries.len()], None).unwrap();
}

#[test]
fn a_kill_at_any_moment_leaves_whole_files_and_the_next_run_cleans_up() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    let name = "source::place::tests::killed::restoring_for_ever";
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored"])
            .current_dir(temp.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Whatever moment this hits, what is asserted holds.
        std::thread::sleep(Duration::from_millis(30 + round * 9));
        child.kill().unwrap();
        child.wait().unwrap();
        if !target.exists() {
            continue;
        }
        for e in entries() {
            match std::fs::read(target.join(e.path.as_path())) {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), BYTES);
                    assert!(bytes.iter().all(|b| *b == bytes[0]), "{}", e.path);
                }
                Err(e) => panic!("a name that was there is gone: {e}"),
            }
        }
    }
    restore_filled_with(&target, 9);
    assert_eq!(names(temp.path()), [PathBuf::from("t")]);
    assert_eq!(names(&target).len(), 10);
    assert_eq!(std::fs::read(target.join("3/3")).unwrap(), vec![9; BYTES]);
}

#[test]
#[ignore = "run by the test above, and killed"]
fn restoring_for_ever() {
    let target = std::env::current_dir().unwrap().join("t");
    for byte in (0..=255).cycle() {
        restore_filled_with(&target, byte);
    }
}
