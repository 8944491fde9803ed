use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::*;

const QUEUE: Queue = Queue { total: 8, each: 6 };

fn key(name: &str) -> Key {
    Key::Principal(name.into())
}

/// One of many addresses.
fn address(n: usize) -> Key {
    let n = u16::try_from(n).unwrap().to_be_bytes();
    Key::address([10, 0, n[0], n[1]].into())
}

type Asked = std::pin::Pin<Box<dyn Future<Output = Result<Permit, Full>>>>;

/// Asks for a place; polled once, so that it stands in the queue.
fn ask(pool: &Pool, name: &str) -> Asked {
    ask_as(pool, key(name))
}

fn ask_as(pool: &Pool, key: Key) -> Asked {
    let (pool, name) = (pool.clone(), key.clone());
    let mut asked = Box::pin(async move { pool.enter(key).await });
    assert!(
        asked.as_mut().now_or_never().is_none(),
        "{name} got a place"
    );
    asked
}

/// Addresses with a place each, and others that wait for one.
fn crowd(pool: &Pool, held: usize, waiting: usize) -> (Vec<Permit>, Vec<Asked>) {
    let places = (0..held).map(|n| pool.enter_now(address(n)).unwrap());
    let places = places.collect();
    let waiting = (held..held + waiting).map(|n| ask_as(pool, address(n)));
    (places, waiting.collect())
}

/// Those that have a place now; the others stay.
fn granted(asked: &mut Vec<Asked>) -> Vec<Permit> {
    let mut got = Vec::new();
    asked.retain_mut(|one| match one.as_mut().now_or_never() {
        None => true,
        Some(place) => {
            got.extend(place.ok());
            false
        }
    });
    got
}

async fn take(pool: &Pool, name: &str, count: usize) -> Vec<Permit> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(pool.enter(key(name)).await.unwrap());
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn one_caller_alone_has_every_place_that_is_not_reserved() {
    let pool = Pool::new("t", 16, QUEUE);
    let all = take(&pool, "a", 14).await;
    let mut more = ask(&pool, "a");
    // The reserved ones are for whoever holds few.
    let few = take(&pool, "b", 2).await;
    assert_eq!(pool.taken(), 16);
    drop(few);
    assert!(more.as_mut().now_or_never().is_none());
    drop(all);
    assert!(more.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_reserved_place_that_is_given_back_is_for_callers_with_few() {
    let pool = Pool::new("t", 16, QUEUE);
    let all_of = |key: Key, most: usize| -> Vec<Permit> {
        (0..most)
            .map_while(|_| pool.enter_now(key.clone()))
            .collect()
    };
    let (some, most) = (all_of(key("some"), 4), all_of(key("most"), 99));
    let reserved = all_of(key("late"), 99);
    assert_eq!((some.len(), most.len(), reserved.len()), (4, 10, 2));
    let grants = |key: Key, place: &Permit| pool.would_grant(&key, place);
    assert!(grants(key("some"), &most[0]) && !grants(key("some"), &reserved[0]));
    assert!(grants(key("late"), &most[0]) && grants(key("late"), &reserved[0]));
}

#[tokio::test(start_paused = true)]
async fn next_place_goes_to_whoever_holds_fewest_and_then_to_whoever_waits_longest() {
    let pool = Pool::new("t", 3, QUEUE);
    let mut held = take(&pool, "a", 3).await;
    let mut a = ask(&pool, "a");
    let mut b = ask(&pool, "b");
    let mut c = ask(&pool, "c");
    held.pop();
    assert!(a.as_mut().now_or_never().is_none());
    assert!(c.as_mut().now_or_never().is_none());
    let b = b.as_mut().now_or_never();
    assert!(b.is_some(), "it holds none and came first");
    held.pop();
    assert!(a.as_mut().now_or_never().is_none());
    let c = c.as_mut().now_or_never();
    assert!(c.is_some(), "it holds none");
    drop(held);
    assert!(a.as_mut().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn spare_places_are_for_callers_that_hold_none() {
    let pool = Pool::new("t", 4, QUEUE).with_spare(1);
    let _four = take(&pool, "a", 4).await;
    let _fifth = ask(&pool, "a");
    let one = take(&pool, "b", 1).await;
    let mut two = ask(&pool, "b");
    drop(one);
    assert!(
        two.as_mut().now_or_never().is_some(),
        "the spare one is free again"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_too_long_is_refused_and_leaves_the_queue() {
    let pool = Pool::new("t", 1, QUEUE);
    let _one = take(&pool, "a", 1).await;
    let began = Instant::now();
    assert_eq!(pool.enter(key("b")).await.unwrap_err(), Full { pool: "t" });
    assert_eq!(began.elapsed(), PATIENCE);
    assert_eq!((pool.taken(), pool.waiting()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn full_queue_refuses_the_newest_of_whoever_has_most_in_it() {
    let pool = Pool::new("t", 1, QUEUE);
    let _one = take(&pool, "x", 1).await;
    let mut many: Vec<_> = (0..6).map(|_| ask(&pool, "a")).collect();
    assert!(
        pool.enter(key("a")).await.is_err(),
        "six is what one caller may have"
    );
    let _two = [ask(&pool, "b"), ask(&pool, "b")];
    assert_eq!(pool.waiting(), 8);
    // One more of another caller: it is let in, at the expense of the one with most.
    let _c = ask(&pool, "c");
    assert_eq!(pool.waiting(), 8);
    assert!(many.pop().unwrap().await.is_err());
    assert!(many.pop().unwrap().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn place_that_was_granted_to_whoever_has_gone_is_free() {
    let pool = Pool::new("t", 1, QUEUE);
    let one = take(&pool, "a", 1).await;
    let (gone, mut stays) = (ask(&pool, "b"), ask(&pool, "c"));
    // Granted, and never looked at.
    drop(one);
    assert_eq!(pool.taken(), 1);
    drop(gone);
    assert!(stays.as_mut().now_or_never().is_some());
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn request_that_gave_its_place_back_waits_for_one_without_limit() {
    let pool = Pool::new("t", 1, QUEUE);
    let one = take(&pool, "a", 1).await;
    let mut again = Box::pin(pool.enter_again(key("b")));
    let hour = tokio::time::timeout(Duration::from_hours(1), again.as_mut()).await;
    assert!(hour.is_err());
    drop(one);
    assert!(again.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn places_become_fewer_as_they_are_given_back_and_more_at_once() {
    let pool = Pool::new("t", 3, QUEUE);
    let mut held = take(&pool, "a", 3).await;
    pool.resize(1);
    held.truncate(1);
    let mut second = ask(&pool, "a");
    pool.resize(2);
    assert!(second.as_mut().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn demand_is_what_each_caller_holds_and_waits_for() {
    let pool = Pool::new("t", 3, QUEUE);
    let _held = (take(&pool, "a", 2).await, take(&pool, "b", 1).await);
    let waits = ask(&pool, "b");
    let of = |name| pool.demand()[&key(name)];
    let demand = |held, waiting| Demand { held, waiting };
    assert_eq!((of("a"), of("b")), (demand(2, 0), demand(1, 1)));
    drop(waits);
    assert_eq!(of("b"), demand(1, 0));
}

#[tokio::test(start_paused = true)]
async fn many_waiters_of_three_callers_do_not_stand_before_a_fourth() {
    let queue = Queue {
        total: 100,
        each: 20,
    };
    let pool = Pool::new("t", 2, queue);
    let mut held = take(&pool, "x", 2).await;
    let mut crowd: Vec<_> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| (0..10).map(|_| ask(&pool, name)).collect::<Vec<_>>())
        .collect();
    // Each has had its turn before the fourth comes.
    for _ in 0..3 {
        held.remove(0);
        let at = crowd.iter_mut().position(|w| {
            let granted = w.as_mut().now_or_never();
            held.extend(granted.and_then(Result::ok));
            held.len() == 2
        });
        drop(crowd.remove(at.expect("somebody got the place")));
    }
    let mut fourth = ask(&pool, "d");
    held.clear();
    assert!(fourth.as_mut().now_or_never().is_some_and(|p| p.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn named_callers_have_half_of_the_places_before_any_number_of_addresses() {
    let queue = Queue {
        total: 1000,
        each: 20,
    };
    let pool = Pool::new("t", 8, queue);
    // Nobody else waits: they may have every place.
    let (mut held, mut waiting) = crowd(&pool, 8, 100);
    let mut named: Vec<_> = (0..6).map(|_| ask(&pool, "a")).collect();
    named.extend([ask(&pool, "b"), ask(&pool, "b")]);
    let mut of_named = Vec::new();
    for taken in 1..=4 {
        held.pop();
        assert!(granted(&mut waiting).is_empty());
        of_named.extend(granted(&mut named));
        assert_eq!(of_named.len(), taken);
    }
    let of = |name| pool.demand()[&key(name)].held;
    assert_eq!((of("a"), of("b")), (2, 2), "they share their half");
    // What one of either kind gives back another one of it gets.
    held.pop();
    held.extend(granted(&mut waiting));
    assert_eq!((held.len(), granted(&mut named).len()), (4, 0));
    of_named.pop();
    of_named.extend(granted(&mut named));
    assert_eq!((granted(&mut waiting).len(), of_named.len()), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn one_place_alternates_between_named_callers_and_addresses() {
    let queue = Queue {
        total: 1000,
        each: 20,
    };
    let pool = Pool::new("t", 1, queue);
    let (mut held, mut waiting) = crowd(&pool, 1, 100);
    let mut named: Vec<_> = (0..3).map(|_| ask(&pool, "a")).collect();
    let mut turns = Vec::new();
    while !named.is_empty() {
        held.pop();
        let got = granted(&mut named);
        turns.push(!got.is_empty());
        held.extend(got);
        held.extend(granted(&mut waiting));
        assert_eq!(held.len(), 1);
    }
    assert_eq!(turns, [true, false, true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn an_address_among_named_callers_is_one_more_of_them() {
    let pool = Pool::new("t", 4, QUEUE);
    let mut held = take(&pool, "a", 4).await;
    let mut first = vec![ask_as(&pool, address(1))];
    let mut rest = vec![ask_as(&pool, address(1)), ask(&pool, "b"), ask(&pool, "c")];
    held.pop();
    let _first = granted(&mut first);
    assert!(first.is_empty(), "it holds none and came first");
    held.truncate(1);
    let more = granted(&mut rest);
    assert_eq!((more.len(), rest.len()), (2, 1));
    let demand = pool.demand()[&address(1)];
    assert_eq!((demand.held, demand.waiting), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn queue_of_which_a_crowd_has_over_half_takes_named_waiters_at_its_expense() {
    let pool = Pool::new("t", 1, QUEUE);
    // Each waits once: nobody has more than whoever comes.
    let (_held, mut waiting) = crowd(&pool, 1, 8);
    assert!(pool.enter(address(99)).await.is_err());
    let mut named = vec![ask(&pool, "a"), ask(&pool, "a")];
    // One of those has most, and is no crowd.
    assert!(pool.enter(address(99)).await.is_err());
    named.extend([ask(&pool, "b"), ask(&pool, "a")]);
    assert_eq!((granted(&mut named).len(), named.len()), (0, 4));
    assert_eq!((granted(&mut waiting).len(), waiting.len()), (0, 4));
    let demand = pool.demand();
    assert_eq!(demand.len(), 7, "those that were refused are forgotten");
    // A crowd of half is left alone: the one with most gives way.
    let _c = ask(&pool, "c");
    assert_eq!((granted(&mut named).len(), named.len()), (0, 3));
    assert_eq!((granted(&mut waiting).len(), waiting.len()), (0, 4));
}
