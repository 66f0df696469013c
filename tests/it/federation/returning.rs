//! Users of a server go and come back, while others have not heard yet that anybody went.

use std::{future::Future, time::Duration};

use serde_json::{Value, json};

use super::{
    finding::publishes_keys,
    history::{hears, read},
    joining::{joins_through, membership},
    partial::{is_partial, is_whole},
    support::{Peer, Peers},
};
use crate::support::{User, rooms::V3};

/// Waits for something that is looked at again and again.
async fn becomes<F: Future<Output = bool>>(what: &str, is: impl Fn() -> F) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "{what}: never");
}

/// Two servers, of which the second goes into rooms with or without their members.
async fn two(in_part: bool) -> [Peer; 2] {
    let there = Peers::one(3, |plan| plan.services(move |s| s.federation.completion.enter_in_part = in_part)).await;
    [Peers::one(2, |plan| plan).await, there]
}

async fn is_left(user: &User, room: &str) -> Value {
    let sync = user.syncs("").await;
    assert!(sync["rooms"]["join"][room].is_null(), "who left is in: {sync}");
    user.syncs("filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D").await["rooms"]["leave"][room].clone()
}

/// Who left stays out, though another of the same server is let in by one that believes them in the room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_left_stays_out_whatever_others_have_not_heard() {
    for in_part in [true, false] {
        let [here, there] = two(in_part).await;
        let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
        let setting = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } });
        let room = alice.creates(json!({ "preset": "public_chat", "initial_state": [setting] })).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        is_whole(&there, &room).await;
        let said = alice.says(&room, "in").await;
        hears(&bob, &room, &said).await;
        // Nobody hears that he goes.
        let (news, rest) = (here.holds("/send/"), here.holds("/state_ids/"));
        bob.leaves(&room).await.good();
        news.is_reached(1).await;
        joins_through(&carol, &room, &[here.name().as_str()]).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        // Or whole all the same, if what her join follows has come meanwhile.
        assert!(in_part || !is_partial(&there, &room).await);
        let check = async || {
            assert_eq!(read(&bob, &room, 3).await, ["in"], "in part: {in_part}");
            assert!(is_left(&bob, &room).await.is_object(), "in part: {in_part}");
            assert_eq!(membership(&bob, &room, &bob).await, "leave", "in part: {in_part}");
        };
        check().await;
        let said = alice.says(&room, "later").await;
        hears(&carol, &room, &said).await;
        check().await;
        rest.opens();
        is_whole(&there, &room).await;
        check().await;
        let members = carol.in_room(&room, "joined_members").await.good();
        let members = members["joined"].as_object().unwrap();
        assert!(members.contains_key(carol.id.as_str()) && !members.contains_key(bob.id.as_str()), "{members:?}");
        // What Carol says follows his leave too.
        let said = carol.says(&room, "from carol").await;
        news.opens();
        hears(&alice, &room, &said).await;
        becomes("alice hears that he went", async || membership(&alice, &room, &bob).await == "leave").await;
        let said = alice.says(&room, "last").await;
        hears(&carol, &room, &said).await;
        check().await;
        assert_eq!(membership(&carol, &room, &carol).await, "join");
    }
}

/// Who comes back through a server that believes them there brings it news of the devices they have got meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_unheard_brings_news_of_devices() {
    for in_part in [true, false] {
        let [here, there] = two(in_part).await;
        let (alice, bob) = (here.user("alice").await, there.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat" })).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        publishes_keys(&bob).await;
        let devices = async || {
            let query = json!({ "device_keys": { bob.id.as_str(): [] } });
            let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
            found["device_keys"][bob.id.as_str()].as_object().map_or(0, serde_json::Map::len)
        };
        becomes("his device is known", async || devices().await == 1).await;
        let (news, rest) = (here.holds("/send/"), here.holds("/state_ids/"));
        bob.leaves(&room).await.good();
        news.is_reached(1).await;
        publishes_keys(&bob.another_device().await).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        assert!(in_part || !is_partial(&there, &room).await);
        news.opens();
        becomes("both are known", async || devices().await == 2).await;
        rest.opens();
        is_whole(&there, &room).await;
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        assert_eq!(membership(&bob, &room, &bob).await, "join");
    }
}

/// What is fetched of the past is no news, and takes no place of what is: who comes back later has it still before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_is_fetched_hides_no_news() {
    let [here, there] = two(false).await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    for n in 0..3 {
        alice.says(&room, &format!("before {n}")).await;
    }
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let before = bob.now().await;
    let news = alice.says(&room, "news").await;
    hears(&bob, &room, &news).await;
    assert_eq!(read(&bob, &room, 20).await, ["before 0", "before 1", "before 2", "news"]);
    // Nobody remembers what the room's newest event is.
    let there = there.restarts().await;
    let sync = bob.on(&there).syncs_since(&before).await;
    assert_eq!(sync["rooms"]["join"][&room]["timeline"]["events"][0]["content"]["body"], "news", "{sync}");
}
