//! The state of an import after its budget ran out.

use std::time::Duration;

use super::*;
use crate::{ops::Error, source};

const FILES: usize = 3000;

#[tokio::test(start_paused = true)]
async fn a_budget_that_ends_while_files_are_placed_tells_what_was_changed() {
    let world = World::new(Meet::CompareAndSwap);
    let (one, two) = (world.path("one", "t"), world.path("two", "t"));
    for (root, content) in [(&one, "new"), (&two, "is old")] {
        std::fs::create_dir_all(root).unwrap();
        for n in 0..FILES {
            std::fs::write(root.join(format!("f{n:04}")), content).unwrap();
        }
    }
    export_dir(&world.node("one"), &one).await;
    let mut node = world.node("two");
    node.budget = Some(Duration::from_hours(1));
    let options = importing(&dir(&two));
    let is_new = |n: usize| std::fs::read(two.join(format!("f{n:04}"))).unwrap() == b"new";
    // The budget ends as soon as the first file has changed.
    let spend = async {
        while !is_new(0) {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_hours(2)).await;
    };
    let (end, ()) = tokio::join!(import::run(&node, &options), spend);
    let changed = (0..FILES).filter(|n| is_new(*n)).count();
    match end {
        Err(Error::Source(e @ source::Error::Partly { moves, .. })) => {
            assert_eq!(moves as usize, changed);
            assert!(changed < FILES, "{e}");
            assert!(
                e.to_string().starts_with("the time budget was spent"),
                "{e}"
            );
        }
        // On a busy machine everything may already be placed.
        Ok(report) => assert!(is_hit(&report) && changed == FILES),
        Err(other) => panic!("{changed} files are changed: {other}"),
    }
    // Nothing continues in the background.
    let later = (0..FILES).filter(|n| is_new(*n)).count();
    assert_eq!(later, changed);
    node.budget = None;
    assert!(is_hit(&import::run(&node, &options).await.unwrap()));
}
