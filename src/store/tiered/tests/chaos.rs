//! A remote that comes and goes with every question, and loses answers.

use super::*;

#[tokio::test(start_paused = true)]
async fn under_faults_every_acknowledged_tag_is_at_the_remote_in_the_end() {
    let faults = Faults {
        // The remote's own business: it checks what it reads.
        corrupt: 0.0,
        ..Faults::BAD_DAY
    };
    for seed in 0..6 {
        let world = World::new(Mode::WriteBack);
        let link = Link {
            faults: Some(faults),
            seed: AtomicU64::new(seed << 32),
            ..Link::default()
        };
        let daemon = world.start_over(Link::default(), link).await;
        let mut last = [None, None, None];
        for push_no in 0..12 {
            let at = push_no % 3;
            let tag = format!("t{at}");
            let mut tries = 0;
            let manifest = loop {
                tries += 1;
                match push(&daemon.repo("a"), &tag, seed * 100 + push_no as u64).await {
                    Ok(manifest) => break manifest,
                    // While the remote answers others the client is told, and tries again.
                    Err(e) => assert!(e.alone && tries < 100, "seed {seed}: {e}"),
                }
            };
            let now = points(&daemon.repo("a"), &tag).await;
            assert_eq!(now, Some(manifest.digest), "seed {seed}: `{tag}` went back");
            last[at] = Some(manifest);
        }
        if seed % 2 == 0 {
            // Each fault is an outage, and pauses between probes grow.
            let left = daemon.flush_for(Duration::from_hours(10)).await;
            assert!(left.is_flushed(), "seed {seed}: {left:?}");
            assert_eq!(daemon.status().numbers.left_alone, 0, "seed {seed}");
        } else {
            drop(daemon);
            let daemon = world.start().await;
            let status = daemon.flush().await;
            assert!(status.is_flushed(), "seed {seed}");
            assert_eq!(status.numbers.left_alone, 0, "seed {seed}");
        }
        for (at, last) in last.into_iter().enumerate() {
            let found = world.at_remote("a", &format!("t{at}")).await;
            assert_eq!(found, last, "seed {seed}");
        }
    }
}
