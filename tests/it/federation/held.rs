//! Events whose gaps cannot be filled when they come: they are held, and shown once what they follow can be had, though
//! nobody speaks after them.

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};

use super::{
    hostile::{Rogue, as_json, besieged, besieges, hears, shown},
    support::{Peer, Peers, Trick},
};

/// Answers nothing about rooms.
fn silent() -> Trick {
    Arc::new(|path: &str| {
        let about = ["get_missing_events", "/state_ids/", "/state/", "/event/", "/event_auth/"];
        let away = || async { http::StatusCode::BAD_GATEWAY.into_response() }.boxed();
        about.iter().any(|part| path.contains(part)).then(|| -> BoxFuture<'static, Response> { away() })
    })
}

/// Tells this event when it is asked for what is missing.
fn tells(event: Value) -> Trick {
    Arc::new(move |path: &str| {
        let body = json!({ "events": [event] });
        path.contains("get_missing_events").then(|| async { as_json(body).into_response() }.boxed())
    })
}

/// Waits until nothing is held any more.
async fn let_go(here: &Peer) {
    let store = &here.services().store;
    let gone = async {
        while !store.held_groups().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), gone).await.is_ok(), "events are held for ever");
}

/// Two messages, of which the second follows the first.
async fn one_and_two(rogue: &Rogue, here: &Peer) -> [Value; 2] {
    let (id, one) = rogue.signed(rogue.message(here, "one").await);
    let mut two = rogue.message(here, "two").await;
    two["prev_events"] = json!([id]);
    two["depth"] = json!(one["depth"].as_u64().unwrap() + 1);
    [one, rogue.signed(two).1]
}

#[tokio::test]
async fn the_last_word_is_heard_though_its_server_could_not_be_asked() {
    let (here, alice, rogue) = besieged().await;
    let [one, two] = one_and_two(&rogue, &here).await;
    rogue.peer.tricks(Some(silent()));
    assert_eq!(rogue.sends(&here, vec![two]).await.status, 200);
    assert!(shown(&alice, &rogue.room).await.is_empty(), "nobody knows what it follows");
    // Who was told of it keeps it.
    let here = here.restarts().await;
    rogue.peer.tricks(Some(tells(one)));
    let alice = alice.on(&here);
    hears(&alice, &rogue.room, "two").await;
    assert_eq!(shown(&alice, &rogue.room).await, ["two", "one"]);
    let_go(&here).await;
}

#[tokio::test]
async fn the_answer_names_what_was_sent_and_no_more() {
    let (here, alice, rogue) = besieged().await;
    let [one, two] = one_and_two(&rogue, &here).await;
    rogue.peer.tricks(Some(tells(one)));
    let told = rogue.sends(&here, vec![two]).await.good();
    let answers: Vec<&Value> = told["pdus"].as_object().unwrap().values().collect();
    assert!(matches!(answers[..], [answer] if *answer == json!({})), "{told}");
    assert_eq!(shown(&alice, &rogue.room).await, ["two", "one"]);
}

#[tokio::test]
async fn what_nobody_tells_is_given_up() {
    // The suite's servers wait less than others; what is given up after twelve tries elsewhere is given up after one here.
    let here = Peers::one(2, |plan| plan.services(|s| s.federation.held.tries = 1)).await;
    let (alice, rogue) = besieges(&here).await;
    rogue.peer.tricks(Some(silent()));
    for _ in 0..2 {
        let mut pdus = Vec::new();
        for n in 0..40 {
            let mut event = rogue.message(&here, &format!("{n}")).await;
            event["prev_events"] = json!([format!("${n:043}")]);
            pdus.push(rogue.signed(event).1);
        }
        assert_eq!(rogue.sends(&here, pdus).await.status, 200);
    }
    let store = &here.services().store;
    let nid = store.held_groups().await.unwrap()[0].room;
    assert!(store.held_events(nid, rogue.peer.name()).await.unwrap().len() <= 50, "bounded");
    let_go(&here).await;
    assert!(shown(&alice, &rogue.room).await.is_empty());
}

#[tokio::test]
async fn what_comes_before_what_it_follows_is_shown_behind_it() {
    let here = Peers::one(2, |plan| plan.services(|s| s.federation.held.first = Duration::from_secs(3600))).await;
    let (alice, rogue) = besieges(&here).await;
    let [one, two] = one_and_two(&rogue, &here).await;
    // Asked for what lies between, its server says that there is nothing.
    rogue.peer.tricks(Some(Arc::new(|path: &str| {
        let nothing = || async { as_json(json!({ "events": [] })).into_response() }.boxed();
        path.contains("get_missing_events").then(|| -> BoxFuture<'static, Response> { nothing() })
    })));
    let told = rogue.sends(&here, vec![two.clone()]).await.good();
    let answers: Vec<&Value> = told["pdus"].as_object().unwrap().values().collect();
    assert!(matches!(answers[..], [answer] if *answer == json!({})), "nothing is wrong with it: {told}");
    assert!(shown(&alice, &rogue.room).await.is_empty(), "nobody knows what it follows");
    assert_eq!(rogue.sends(&here, vec![one]).await.status, 200);
    // Soon, not at the end of the pause, whether or not it is sent again.
    hears(&alice, &rogue.room, "two").await;
    assert_eq!(rogue.sends(&here, vec![two]).await.status, 200);
    assert_eq!(shown(&alice, &rogue.room).await, ["two", "one"]);
    let_go(&here).await;
}

/// What is sent again at that moment is news by itself.
#[tokio::test]
async fn what_is_sent_again_comes_with_what_it_comes_with() {
    let here = Peers::one(2, |plan| {
        plan.services(|s| {
            let held = &mut s.federation.held;
            (held.first, held.gathered) = (Duration::from_secs(3600), Duration::from_secs(3600));
        })
    })
    .await;
    let (alice, rogue) = besieges(&here).await;
    let [one, two] = one_and_two(&rogue, &here).await;
    rogue.peer.tricks(Some(silent()));
    assert_eq!(rogue.sends(&here, vec![two.clone()]).await.status, 200);
    assert_eq!(rogue.sends(&here, vec![one]).await.status, 200);
    hears(&alice, &rogue.room, "one").await;
    assert_eq!(shown(&alice, &rogue.room).await, ["one"]);
    assert_eq!(rogue.sends(&here, vec![two]).await.status, 200);
    assert_eq!(shown(&alice, &rogue.room).await, ["two", "one"]);
}
