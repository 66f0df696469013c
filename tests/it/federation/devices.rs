//! Devices and keys of other servers' users, as they change while they are asked for.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    finding::publishes_keys,
    hostile::{answers, as_json},
    joining::joins_through,
    sending::transaction,
    support::Peers,
};
use crate::support::{
    User,
    rooms::{V3, encoded},
};

/// An answer that was long on its way does not undo what was said meanwhile.
#[tokio::test]
async fn new_signing_keys_outlive_an_older_list() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    let list = json!({ "user_id": bob.id, "stream_id": 1, "devices": [], "master_key": master(&bob, "b2xk") });
    let (late, reached) = (watch::Sender::new(false), watch::Sender::new(0));
    let (opened, reaches) = (late.clone(), reached.clone());
    there.tricks(Some(answers(&["/user/devices/"], move || {
        let (list, opened) = (list.clone(), opened.clone());
        reaches.send_modify(|n| *n += 1);
        async move {
            let _ = opened.subscribe().wait_for(|open| *open).await;
            as_json(list).into_response()
        }
        .boxed()
    })));
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let query = json!({ "device_keys": { bob.id.as_str(): [] } });
    let meanwhile = async {
        reached.subscribe().wait_for(|n| *n > 0).await.unwrap();
        let content = json!({ "user_id": bob.id, "master_key": master(&bob, "bmV3") });
        let edu = json!({ "edu_type": "m.signing_key_update", "content": content });
        transaction(&there, &here, "t", vec![], vec![edu]).await.good();
        there.tricks(None);
        late.send_replace(true);
        // The list is asked for again, which by now has the truth: here none at all.
        let mut since = alice.now().await;
        while there.was_asked_for("/user/devices/") == 0 {
            let sync = alice.get(&format!("{V3}/sync?timeout=500&since={}", encoded(&since))).await.good();
            since = sync["next_batch"].as_str().unwrap().to_owned();
        }
    };
    let path = format!("{V3}/keys/query");
    let all = async { tokio::join!(alice.post(&path, query.clone()), meanwhile) };
    assert!(tokio::time::timeout(Duration::from_secs(30), all).await.is_ok(), "the list was not asked for again");
    let found = alice.post(&path, query).await.good();
    assert_ne!(found["master_keys"][bob.id.as_str()]["keys"]["ed25519:b2xk"], "b2xk", "{found}");
}

/// The devices of members of open rooms are not fetched before somebody asks for them, though ours hear of a change all the
/// same; those of encrypted rooms are.
#[tokio::test]
async fn devices_are_fetched_for_encrypted_rooms_and_for_who_asks() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    let fetched = |user: &User| there.was_asked_for(&format!("/user/devices/{}", user.id));
    let open = alice.creates(json!({ "preset": "public_chat" })).await;
    joins_through(&bob, &open, &[here.name().as_str()]).await.good();
    let mut since = alice.now().await;
    publishes_keys(&bob).await;
    let hears = async {
        loop {
            let sync = alice.get(&format!("{V3}/sync?timeout=5000&since={}", encoded(&since))).await.good();
            since = sync["next_batch"].as_str().unwrap().to_owned();
            if sync["device_lists"]["changed"].as_array().is_some_and(|c| c.contains(&json!(bob.id))) {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), hears).await.is_ok(), "nothing was heard of bob");
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let secret = alice.creates(json!({ "preset": "public_chat", "initial_state": [encryption] })).await;
    joins_through(&carol, &secret, &[here.name().as_str()]).await.good();
    publishes_keys(&carol).await;
    let is_fetched = async {
        while fetched(&carol) == 0 {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), is_fetched).await.is_ok(), "carol's are not fetched");
    assert_eq!(fetched(&bob), 0);
    let query = json!({ "device_keys": { bob.id.as_str(): [] } });
    let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
    assert_eq!(found["device_keys"][bob.id.as_str()].as_object().unwrap().len(), 1, "{found}");
    assert_eq!(fetched(&bob), 1);
}

/// From the first change of a sequence on a user's devices are known; what is said of them is handed on, if they say no
/// more than that they are there.
#[tokio::test]
async fn a_sequence_begins_with_the_whole_list() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    let list = json!({ "user_id": bob.id, "stream_id": 1000, "devices": [{ "device_id": "D", "keys": { "x": {} } }] });
    let (list, fetched) = (Arc::new(Mutex::new(list)), watch::Sender::new(0));
    let (tells, counts) = (list.clone(), fetched.clone());
    there.tricks(Some(answers(&["/user/devices/"], move || {
        counts.send_modify(|n| *n += 1);
        let list = tells.lock().unwrap().clone();
        async move { as_json(list).into_response() }.boxed()
    })));
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let changes = async |id: &str, content: Value| {
        let mut content = content;
        (content["user_id"], content["device_id"]) = (json!(bob.id), json!("D"));
        let edu = json!({ "edu_type": "m.device_list_update", "content": content });
        transaction(&there, &here, id, vec![], vec![edu]).await.good();
    };
    // Ours were told by the join, and nobody has asked yet.
    let joined = alice.now().await;
    changes("first", json!({ "stream_id": 1000, "keys": { "x": {} } })).await;
    let sync = alice.get(&format!("{V3}/sync?timeout=0&since={}", encoded(&joined))).await.good();
    assert_eq!(sync["device_lists"], Value::Null, "{sync}");
    let is_fetched = async { drop(fetched.subscribe().wait_for(|n| *n > 0).await.unwrap()) };
    assert!(tokio::time::timeout(Duration::from_secs(30), is_fetched).await.is_ok(), "the list is not asked for");
    let device = async || {
        let query = json!({ "device_keys": { bob.id.as_str(): ["D"] } });
        let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
        found["device_keys"][bob.id.as_str()]["D"].clone()
    };
    assert_eq!(device().await["x"], json!({}));
    list.lock().unwrap()["devices"][0]["device_display_name"] = json!("Named");
    list.lock().unwrap()["stream_id"] = json!(1001);
    let named = json!({ "stream_id": 1001, "prev_id": [1000], "device_display_name": "Named", "keys": { "x": {} } });
    changes("second", named).await;
    assert_eq!(device().await["unsigned"]["device_display_name"], "Named");
    // Keys that say they are of another are none.
    list.lock().unwrap()["devices"][0]["keys"] = json!({ "user_id": alice.id, "device_id": "D" });
    list.lock().unwrap()["stream_id"] = json!(1003);
    changes("third", json!({ "stream_id": 1003, "prev_id": [1002] })).await;
    assert!(device().await.is_null());
}

/// Who shares a room with a user has heard of all their devices.
#[tokio::test]
async fn who_meets_again_is_told_nothing_anew() {
    let [here, there] = Peers::two().await;
    let bob = there.user("bob").await;
    let (alice, carol, dave) = (here.user("alice").await, here.user("carol").await, here.user("dave").await);
    publishes_keys(&alice).await;
    publishes_keys(&dave).await;
    let (first, second) = (alice.opens().await, carol.opens().await);
    for room in [&first, &second] {
        joins_through(&bob, room, &[here.name().as_str()]).await.good();
    }
    let got = there.keeps_transactions();
    alice.joins(&second).await.good();
    dave.joins(&second).await.good();
    let told = |of: &User| {
        let got = got();
        let edus = got.as_array().unwrap().iter().flat_map(|body| body["edus"].as_array().cloned().unwrap_or_default());
        edus.filter(|edu| edu["edu_type"] == "m.device_list_update" && edu["content"]["user_id"] == of.id.as_str())
            .count()
    };
    let told_of_dave = async {
        while told(&dave) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), told_of_dave).await.is_ok(), "{}", got());
    assert_eq!(told(&alice), 0, "{}", got());
}

/// With a join comes an update of the user's devices: ours hear of both at once, and of later changes one by one.
#[tokio::test]
async fn a_join_and_the_devices_that_come_with_it_are_one_piece_of_news() {
    // Who knows all of the room tells of their devices.
    let here = Peers::one(2, |plan| plan.services(|s| s.federation.completion.worth_omitting = 100)).await;
    let there = Peers::one(3, |plan| plan).await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    publishes_keys(&bob).await;
    let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
    let room = alice.creates(json!({ "preset": "public_chat", "initial_state": [encryption] })).await;
    let mut since = alice.now().await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let mut told = 0;
    let mut hears = async |until: &dyn Fn(usize) -> bool| {
        while !until(told) {
            let sync = alice.get(&format!("{V3}/sync?timeout=500&since={}", encoded(&since))).await.good();
            since = sync["next_batch"].as_str().unwrap().to_owned();
            told += sync["device_lists"]["changed"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|u| **u == json!(bob.id))
                .count();
        }
        told
    };
    let fetched = || there.was_asked_for(&format!("/user/devices/{}", bob.id)) > 0;
    let all = async {
        assert_eq!(hears(&|told| told > 0 && fetched()).await, 1);
        publishes_keys(&bob.another_device().await).await;
        // What had come before would have been told by now.
        hears(&|told| told > 1).await
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), all).await.expect("nothing was heard of bob"), 2);
}

/// A master key of a user.
fn master(user: &User, key: &str) -> Value {
    json!({ "user_id": user.id, "usage": ["master"], "keys": { format!("ed25519:{key}"): key } })
}
