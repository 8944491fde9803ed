//! What is asked again, and how long.

use super::*;

#[tokio::test(start_paused = true)]
async fn broken_download_goes_on_where_it_broke() {
    let bytes = data(1000, 1);
    let (memory, desc) = memory_with(&bytes).await;
    let (a, b) = (bytes.clone(), bytes.clone());
    let scripted = Scripted::new(memory)
        // An error, an end without one, and no end at all.
        .get_answers(move |_| pieces(vec![Ok(a.slice(..100)), Err(temporary())]))
        .get_answers(move |r| pieces(vec![Ok(b.slice(r.start as usize..300))]))
        .get_answers(|_| Ok(Some(stream::pending().boxed())));
    let scripted = Arc::new(scripted);
    let store = Retrying::<dyn RepoStore>::new(scripted.clone(), QUICK);
    let stream = store.get(&desc, 10..990).await.unwrap().unwrap();
    // The first answer pretends to start at 10.
    let read: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(read.concat()[100..], bytes[110..990]);
    assert_eq!(
        *scripted.asked.lock(),
        [10..990, 110..990, 300..990, 300..990]
    );
}

#[tokio::test(start_paused = true)]
async fn trickle_counts_as_a_stall() {
    let bytes = data(1000, 1);
    let (memory, desc) = memory_with(&bytes).await;
    let slow = bytes.clone();
    let scripted = Scripted::new(memory).get_answers(move |_| {
        let slow = slow.clone();
        let drops = stream::unfold(0, move |i| {
            let slow = slow.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok(slow.slice(i..=i)), i + 1))
            }
        });
        Ok(Some(drops.boxed()))
    });
    let scripted = Arc::new(scripted);
    let store = Retrying::<dyn RepoStore>::new(scripted.clone(), QUICK);
    assert_eq!(whole(&store, &desc).await.unwrap().unwrap(), bytes);
    let asked = scripted.asked.lock().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn download_gives_up_when_nothing_moves_and_says_what_it_tried() {
    let (memory, desc) = memory_with(&data(1000, 1)).await;
    let mut scripted = Scripted::new(memory);
    for _ in 0..200 {
        scripted = scripted.get_answers(|_| pieces(vec![Err(temporary())]));
    }
    let policy = Policy {
        retry_for: Duration::from_millis(50),
        ..QUICK
    };
    let store = Retrying::<dyn RepoStore>::new(Arc::new(scripted), policy);
    let e = whole(&store, &desc).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable);
    assert!(e.attempts > 5 && e.elapsed <= policy.retry_for, "{e}");
    assert!(e.to_string().contains("attempts in"), "{e}");
}

#[tokio::test]
async fn blob_that_vanishes_or_grows_under_a_reader_is_an_error() {
    let bytes = data(1000, 1);
    let (memory, desc) = memory_with(&bytes).await;
    let a = bytes.clone();
    let gone = Scripted::new(memory.clone())
        .get_answers(move |_| pieces(vec![Ok(a.slice(..100)), Err(temporary())]))
        .get_answers(|_| Ok(None));
    let grown = Scripted::new(memory)
        .get_answers(move |_| pieces(vec![Ok(bytes.clone()), Ok(bytes.clone())]));
    for (scripted, range) in [(gone, 0..1000), (grown, 0..500)] {
        let store = Retrying::<dyn RepoStore>::new(Arc::new(scripted), QUICK);
        let stream = store.get(&desc, range).await.unwrap().unwrap();
        let e = stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt);
    }
}

#[tokio::test(start_paused = true)]
async fn only_temporary_errors_are_tried_again() {
    let (memory, desc) = memory_with(&data(10, 1)).await;
    for (kind, calls) in [
        (ErrorKind::Unavailable, 3),
        (ErrorKind::Throttled, 3),
        (ErrorKind::Timeout, 3),
        (ErrorKind::Denied, 1),
        (ErrorKind::Unauthenticated, 1),
        (ErrorKind::Corrupt, 1),
        (ErrorKind::NoSuchStore, 1),
        (ErrorKind::Full, 1),
    ] {
        let error = || Error::new(kind, "stat", "no");
        let scripted = Scripted::new(memory.clone()).fails_with(vec![error(), error()]);
        let scripted = Arc::new(scripted);
        let store = Retrying::<dyn RepoStore>::new(scripted.clone(), QUICK);
        let done = store.stat(&desc.digest).await;
        assert_eq!(done.is_ok(), kind.is_temporary());
        assert_eq!(scripted.calls.load(Ordering::Relaxed), calls, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn server_is_given_the_time_it_asks_for_within_the_budget() {
    let (memory, desc) = memory_with(&data(10, 1)).await;
    let asks = |ms| Error {
        retry_after: Some(Duration::from_millis(ms)),
        ..Error::new(ErrorKind::Throttled, "stat", "slow down")
    };
    let scripted = Arc::new(Scripted::new(memory.clone()).fails_with(vec![asks(100)]));
    let store = Retrying::<dyn RepoStore>::new(scripted, QUICK);
    let began = Instant::now();
    assert_eq!(store.stat(&desc.digest).await.unwrap(), Some(10));
    assert!(began.elapsed() >= Duration::from_millis(100));

    let scripted = Arc::new(Scripted::new(memory).fails_with(vec![asks(3_600_000)]));
    let store = Retrying::<dyn RepoStore>::new(scripted.clone(), QUICK);
    let began = Instant::now();
    assert_eq!(
        store.stat(&desc.digest).await.unwrap_err().kind,
        ErrorKind::Throttled
    );
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "it waited in vain"
    );
    assert_eq!(scripted.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn store_of_which_nothing_was_ever_heard_is_given_up_sooner() {
    let (memory, desc) = memory_with(&data(10, 1)).await;
    let policy = Policy {
        retry_for: Duration::from_mins(1),
        first_contact: Duration::from_secs(10),
        ..Policy::default()
    };
    let unheard = || (0..50).map(|_| temporary().unheard()).collect::<Vec<_>>();
    let heard = || (0..50).map(|_| temporary()).collect::<Vec<_>>();
    for (errors, soon) in [(unheard(), true), (heard(), false)] {
        let scripted = Arc::new(Scripted::new(memory.clone()).fails_with(errors));
        let store = Retrying::<dyn RepoStore>::new(scripted, policy);
        let e = store.stat(&desc.digest).await.unwrap_err();
        assert!(e.attempts > 2, "{e}");
        assert_eq!(e.elapsed <= policy.first_contact, soon, "{e}");
    }
    // Once it has answered, whatever it said, it is only busy.
    let scripted = Arc::new(Scripted::new(memory).fails_with(Vec::new()));
    let store = Retrying::<dyn RepoStore>::new(scripted.clone(), policy);
    store.stat(&desc.digest).await.unwrap();
    *scripted.errors.lock() = unheard();
    let e = store.stat(&desc.digest).await.unwrap_err();
    assert!(e.elapsed > policy.retry_for / 2, "{e}");
}

#[tokio::test(start_paused = true)]
async fn store_that_never_answers_is_a_timeout() {
    let mut scripted = Scripted::new(Arc::new(Memory::new()));
    scripted.hangs = true;
    let policy = Policy {
        stall: Duration::from_millis(10),
        retry_for: Duration::from_millis(100),
        ..QUICK
    };
    let store = Retrying::<dyn RepoStore>::new(Arc::new(scripted), policy);
    let e = store.resolve(&tag("t").into()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert!(e.attempts >= 2, "{e}");
}

#[tokio::test(start_paused = true)]
async fn why_it_is_asked_again_is_known_to_whoever_gives_up_first() {
    let scripted = Scripted::new(Arc::new(Memory::new())).fails_with(vec![temporary()]);
    let policy = Policy {
        retry_for: Duration::from_hours(10),
        pauses: Backoff::new(Duration::from_hours(1), Duration::from_hours(1)),
        ..QUICK
    };
    let trouble = Trouble::default();
    let contact = Contact::noting(trouble.clone());
    let store = Retrying::<dyn RepoStore>::sharing(Arc::new(scripted), policy, contact);
    let t = tag("t").into();
    let mut asked = store.resolve(&t);
    let soon = tokio::time::timeout(Duration::from_secs(1), &mut asked).await;
    assert!(soon.is_err());
    let last = trouble.last().unwrap();
    assert_eq!((&*last.message, last.attempts), ("for now", 1));
    assert!(asked.await.unwrap().is_none());
    assert!(trouble.last().is_none());
}

#[tokio::test]
async fn lost_answers_to_writes_are_not_conflicts() {
    let memory = Arc::new(Memory::new());
    let scripted = || Arc::new(Scripted::new(memory.clone()).fails_with(vec![temporary()]));
    let (m, other, t) = (manifest(1), manifest(2), tag("t"));
    let store = Retrying::<dyn RepoStore>::new(scripted(), QUICK);
    let done = store.publish(&m, Some(&t), &Expect::Absent).await.unwrap();
    assert_eq!(done, Published::Done);
    // Without a fault in between, the same expectation does not hold.
    let done = store
        .publish(&other, Some(&t), &Expect::Absent)
        .await
        .unwrap();
    assert_eq!(done, Published::Conflict);
    let untag = Retrying::<dyn Untag>::new(scripted(), QUICK);
    assert!(untag.untag(&t).await.unwrap());
    assert!(!untag.untag(&t).await.unwrap());
}
