use futures_util::FutureExt as _;

use super::*;
use crate::fair::Queue;

const QUEUE: Queue = Queue {
    total: 100,
    each: 100,
};

fn transfers(places: usize, longest: Option<Duration>) -> Transfers {
    let places = Pool::new("transfers", places, QUEUE);
    Transfers::new(places, longest, Counter::default())
}

fn named(name: &str) -> Key {
    Key::Principal(name.into())
}

fn address(n: u8) -> Key {
    Key::address([10, 0, 0, n].into())
}

fn all_of(transfers: &Transfers, key: &Key) -> Vec<Transfer> {
    std::iter::from_fn(|| transfers.enter_now(key)).collect()
}

fn cut(transfers: &[Transfer]) -> usize {
    transfers.iter().filter(|t| t.is_cut()).count()
}

#[tokio::test(start_paused = true)]
async fn whoever_has_fewer_gets_a_place_of_whoever_has_most_and_nobody_else_loses_one() {
    let transfers = transfers(16, None);
    let many = all_of(&transfers, &named("many"));
    let some: Vec<_> = (0..2)
        .map(|_| transfers.enter_now(&named("some")).unwrap())
        .collect();
    assert_eq!((many.len(), transfers.places().taken()), (14, 16));
    let began = Instant::now();
    let new = transfers.enter(&named("new")).await.unwrap();
    assert_eq!(began.elapsed(), GRACE);
    assert!(many[13].is_cut() && cut(&many) == 1 && cut(&some) == 0);
    // A cut transfer may last as long as it likes: its slot is gone.
    assert_eq!(transfers.places().taken(), 16);
    drop((many, some));
    assert_eq!(transfers.places().taken(), 1);
    drop(new);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_cut_for_a_caller_who_has_as_many_or_while_a_place_comes_free_by_itself() {
    let transfers = transfers(2, None);
    let (one, two) = (named("one"), named("two"));
    let held = [
        transfers.enter_now(&one).unwrap(),
        transfers.enter_now(&two).unwrap(),
    ];
    for key in [&one, &named("three")] {
        assert!(transfers.enter(key).await.is_err());
    }
    assert_eq!(cut(&held), 0);
    let [first, second] = held;
    drop(second);
    // It would give way.
    let third = transfers.enter_now(&one).unwrap();
    let more = transfers.enter_again(&two);
    let ends = async {
        tokio::time::sleep(GRACE / 2).await;
        drop(first);
    };
    let (more, ()) = tokio::join!(more, ends);
    assert!(!third.is_cut() && !more.is_cut());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_cut_where_that_helps_nobody_or_for_little_and_many_waiters_of_one_caller_cut_one_at_a_time()
 {
    let transfers = transfers(16, None);
    let many: Vec<_> = (0..14)
        .filter_map(|_| transfers.enter_now(&named("many")))
        .collect();
    let few: Vec<_> = (0..2)
        .filter_map(|_| transfers.enter_now(&named("few")))
        .collect();
    assert_eq!((many.len(), few.len()), (14, 2));
    let key = named("few");
    let mut waiting: Vec<_> = (0..12).map(|_| Box::pin(transfers.enter(&key))).collect();
    let mut got = Vec::new();
    let mut cuts = Vec::new();
    for _ in 0..9 {
        for _ in 0..4 {
            tokio::time::sleep(GRACE / 4).await;
            waiting.retain_mut(|enter| match enter.now_or_never() {
                Some(place) => {
                    got.extend(place.ok());
                    false
                }
                None => true,
            });
        }
        cuts.push(cut(&many));
    }
    // Not beyond the point where the others have about twice as many.
    assert!(
        cuts.windows(2).all(|pair| pair[1] <= pair[0] + 1),
        "{cuts:?}"
    );
    assert!(cuts[8] <= 4 && cuts[8] == cuts[7], "{cuts:?}");
    assert!(!got.is_empty() && cut(&got) == 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_taken_reserved_places_gets_more_of_whoever_has_the_rest() {
    for many in [named("many"), address(1)] {
        let transfers = transfers(64, None);
        let held = all_of(&transfers, &many);
        let few = named("few");
        let mut own: Vec<_> = std::iter::from_fn(|| transfers.enter_now(&few)).collect();
        assert_eq!((held.len(), own.len()), (56, 4));
        let began = Instant::now();
        own.push(transfers.enter(&few).await.unwrap());
        assert_eq!(began.elapsed(), GRACE);
        assert_eq!((cut(&held), cut(&own)), (1, 0));
        // The remaining reserved slots are not for it, and the caller with most does not get them either.
        assert!(transfers.enter_now(&few).is_none() && transfers.enter_now(&many).is_none());
        assert!(transfers.enter_now(&named("new")).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn where_places_became_fewer_whoever_has_most_gives_back_what_there_is_too_much_of() {
    let transfers = transfers(64, None);
    let held = all_of(&transfers, &named("many"));
    assert_eq!(held.len(), 56);
    transfers.places().resize(48);
    // Nothing is cut while nobody waits.
    tokio::time::advance(GRACE * 2).await;
    assert_eq!(cut(&held), 0);
    let began = Instant::now();
    let got = transfers.enter(&named("few")).await.unwrap();
    assert_eq!((began.elapsed(), cut(&held)), (GRACE, 9));
    drop((got, held));
    assert_eq!(transfers.places().taken(), 0);
    assert_eq!(all_of(&transfers, &named("many")).len(), 42);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_keeps_half_from_nobody_with_a_name_and_takes_nothing_of_theirs() {
    // While it has more than half it gives way, though no single caller has as many as `a`.
    let crowded = transfers(8, None);
    let held = [0; 2].map(|_| crowded.enter_now(&named("a")).unwrap());
    let crowd = [0, 1, 2, 3, 4, 5].map(|n| crowded.enter_now(&address(n)).unwrap());
    let other = crowded.enter(&named("b")).await.unwrap();
    assert_eq!((cut(&crowd), cut(&held)), (1, 0));
    drop(other);
    let transfers = transfers(8, None);
    let crowd: Vec<_> = (0..8)
        .filter_map(|n| transfers.enter_now(&address(n)))
        .collect();
    assert_eq!(crowd.len(), 8);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(transfers.enter(&named("a")).await.unwrap());
    }
    assert_eq!(cut(&crowd), 4);
    // It has half, and `a` has more than any other caller.
    assert!(transfers.enter(&address(99)).await.is_err());
    assert!(transfers.enter(&named("a")).await.is_err());
    assert_eq!((cut(&crowd), cut(&held)), (4, 0));
    // Another named caller has fewer than `a`.
    let other = transfers.enter(&named("b")).await.unwrap();
    assert_eq!((cut(&crowd), cut(&held)), (4, 1));
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn what_lasts_long_gives_way_to_whoever_has_none() {
    let longest = Duration::from_secs(10);
    let transfers = transfers(4, Some(longest));
    let held: Vec<_> = (0..4)
        .map(|n| transfers.enter_now(&named(&n.to_string())).unwrap())
        .collect();
    let began = Instant::now();
    // Every caller with one has no more than the others.
    let first = named("0");
    let mut more = Box::pin(transfers.enter(&first));
    assert!((&mut more).now_or_never().is_none());
    let new = transfers.enter(&named("new")).await.unwrap();
    assert!(began.elapsed() >= longest && began.elapsed() <= longest + GRACE);
    assert!(held[3].is_cut() && cut(&held) == 1 && !new.is_cut());
}
