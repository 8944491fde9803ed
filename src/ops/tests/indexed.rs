//! The node index is written only when it has to change.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use super::*;
use crate::{fs, source::index::Stamp};

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A tree in which every file is old enough to be proven by its metadata.
fn settled(root: &Path) {
    write(root, "a/f", "hello");
    write(root, "b/c/g", "world");
    std::fs::hard_link(root.join("a/f"), root.join("b/h")).unwrap();
    Stamp::take_settled(&fs::Dir::open(root).unwrap()).unwrap();
}

/// The inode of a node's index: another one once it has been written again.
fn index_of(node: &Context) -> u64 {
    let state = std::fs::read_dir(node.state_dir.as_ref().unwrap()).unwrap();
    let files = state.map(|file| file.unwrap().path());
    let index = files
        .filter(|path| path.extension().is_some_and(|e| e == "idx"))
        .max();
    index.unwrap().metadata().unwrap().ino()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_export_leaves_the_index_as_it_is() {
    let world = World::new(Meet::CompareAndSwap);
    let (node, tree) = (world.node("one"), world.path("one", "tree"));
    settled(&tree);
    export_dir(&node, &tree).await;
    let first = index_of(&node);
    assert!(export_dir(&node, &tree).await.unchanged);
    assert_eq!(index_of(&node), first);
    write(&tree, "a/f", "other");
    assert!(!export_dir(&node, &tree).await.unchanged);
    assert_ne!(index_of(&node), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_what_is_there_leaves_the_index_as_it_is() {
    let world = World::new(Meet::CompareAndSwap);
    let (one, two) = (world.path("one", "tree"), world.path("two", "tree"));
    settled(&one);
    export_dir(&world.node("one"), &one).await;
    let node = world.node("two");
    import_dir(&node, &two).await;
    let first = index_of(&node);
    let again = import_dir(&node, &two).await;
    assert!(is_hit(&again) && again.entries_restored == 0, "{again:?}");
    assert_eq!(index_of(&node), first);
    // Something changed: it is restored, and its new metadata is recorded.
    write(&two, "b/c/g", "changed");
    let healed = import_dir(&node, &two).await;
    assert_eq!(healed.entries_restored, 1, "{healed:?}");
    assert_eq!(std::fs::read(two.join("b/c/g")).unwrap(), b"world");
    assert_ne!(index_of(&node), first);
    let last = index_of(&node);
    assert!(is_hit(&import_dir(&node, &two).await));
    assert_eq!(index_of(&node), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_was_damaged_before_an_export_kept_it_unread_is_restored_by_the_next_import()
{
    let world = World::new(Meet::SideTags);
    let (node, root) = (world.node("one"), world.path("one", "go-build"));
    let (_, output) = super::go::put(&root, "compile", b"archive", 1);
    let source = super::go::cache(&root, "go1");
    export::run(&node, &exporting(&source)).await.unwrap();
    std::fs::write(&output, b"ARCHIVE").unwrap();
    // Old enough for the index of the next export to prove it.
    Stamp::take_settled(&fs::Dir::open(&root).unwrap()).unwrap();
    let again = export::run(&node, &exporting(&source)).await.unwrap();
    assert!(again.unchanged, "{again:?}");
    let healed = import::run(&node, &importing(&source)).await.unwrap();
    assert!(is_hit(&healed), "{healed:?}");
    assert_eq!(std::fs::read(&output).unwrap(), b"archive");
}
