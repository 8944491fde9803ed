use std::time::Duration;

use super::{
    super::{Admission, SLOW_MANIFESTS},
    *,
};
use crate::metrics;

#[tokio::test]
async fn whoever_waits_lets_others_go_first() {
    let stall = Duration::from_mins(1);
    let admission = Admission::new(1, stall, &metrics::Admission::default());
    let admission = Arc::new(admission);
    let take = |name: &str| {
        let (admission, key) = (admission.clone(), Key::Principal(name.into()));
        async move { Ticket::take(&admission, key, &Extensions::new()).await }
    };
    let first = take("a").await.unwrap();
    let other = async {
        let second = take("b").await.unwrap();
        assert_eq!(admission.requests.taken(), 1);
        drop(second);
    };
    first.aside(other).await;
    assert_eq!(admission.requests.taken(), 1);
    drop(first);
    assert_eq!(admission.requests.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn large_manifests_that_rest_hold_no_places_and_few_are_kept() {
    let admission = Arc::new(Admission::default());
    let places = admission.large_transfers.places();
    let mut tickets = Vec::new();
    for n in 0..SLOW_MANIFESTS + 4 {
        let key = Key::Principal(format!("p{n}").into());
        let ticket = Ticket::take(&admission, key, &Extensions::new()).await;
        tickets.push(ticket.unwrap());
    }
    let rests = tickets.iter().map(|ticket| {
        let places = places.clone();
        async move {
            ticket.large_body().await.unwrap();
            let rest = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(places.taken(), 0);
            };
            let stays = ticket.rest(rest).await;
            let has_place = places.taken() > 0;
            ticket.drop_body();
            (stays, has_place)
        }
    });
    let ends = futures_util::future::join_all(rests).await;
    let stayed = ends.iter().filter(|(stays, _)| *stays).count();
    assert_eq!(stayed, SLOW_MANIFESTS);
    // A request that continues has its slot again.
    assert!(ends.iter().all(|(stays, has_place)| !stays || *has_place));
    assert_eq!(places.taken(), 0);
}
