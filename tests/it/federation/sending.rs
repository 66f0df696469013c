//! What servers send each other: transactions in bounds and once, to-device messages that are neither lost nor doubled.

use std::{sync::Arc, time::Duration};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    finding::publishes_keys,
    hostile::{answers, refused},
    joining::joins_through,
    support::{Peer, Peers, Told},
};
use crate::support::{
    User,
    rooms::{V3, encoded, event_id},
};

const SEND: &str = "/_matrix/federation/v1/send";

async fn sends_to(from: &User, to: &User, txn: &str, body: Value) {
    let messages = json!({ "messages": { to.id.as_str(): { to.device.as_str(): body } } });
    from.put(&format!("{V3}/sendToDevice/m.test/{txn}"), messages).await.good();
}

/// Messages to a device: what the next syncs bring until there are as many.
async fn arrivals(user: &User, count: usize) -> Vec<Value> {
    let (mut since, mut arrived) = (String::new(), Vec::new());
    let all = async {
        while arrived.len() < count {
            let sync = user.get(&format!("{V3}/sync?timeout=2000{since}")).await.good();
            since = format!("&since={}", encoded(sync["next_batch"].as_str().unwrap()));
            arrived.extend(sync["to_device"]["events"].as_array().into_iter().flatten().cloned());
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), all).await.is_ok(), "only {arrived:?}");
    arrived
}

pub async fn transaction(from: &Peer, to: &Peer, id: &str, pdus: Vec<Value>, edus: Vec<Value>) -> Told {
    let body = json!({ "origin": from.name(), "origin_server_ts": 1, "pdus": pdus, "edus": edus });
    from.calls(to, Method::PUT, &format!("{SEND}/{id}"), Some(body)).await
}

fn message(sender: &str, id: &str, to: &User, device: &str, n: usize) -> Value {
    json!({ "edu_type": "m.direct_to_device", "content": {
        "sender": sender, "type": "m.test", "message_id": id,
        "messages": { to.id.as_str(): { device: { "n": n } } },
    }})
}

#[tokio::test]
async fn messages_reach_devices_of_other_servers() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    sends_to(&alice, &bob, "1", json!({ "n": 1 })).await;
    // The same again is not another.
    sends_to(&alice, &bob, "1", json!({ "n": 1 })).await;
    sends_to(&alice, &bob, "2", json!({ "n": 2 })).await;
    let arrived = arrivals(&bob, 2).await;
    assert_eq!(arrived[0], json!({ "type": "m.test", "sender": alice.id, "content": { "n": 1 } }));
    assert_eq!((arrived.len(), &arrived[1]["content"]["n"]), (2, &json!(2)));
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Users miss them without a sign, so that the administrator has to find one.
#[tokio::test]
async fn messages_that_are_too_large_are_dropped_with_a_line_in_the_log() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (format!("@alice:{}", here.name()), there.user("bob").await);
    let mut large = message(&alice, "large", &bob, &bob.device, 1);
    let text = "between us two ".repeat(5_000);
    large["content"]["messages"][bob.id.as_str()][&bob.device]["text"] = json!(text);
    large["content"]["messages"][bob.id.as_str()]["*"] = json!({ "n": 2, "text": text });
    let huge = json!({ "edu_type": "org.example", "content": { "text": "x".repeat(5 << 20) } });
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let listening = tracing::subscriber::set_default(subscriber);
    let edus = vec![large, huge, message(&alice, "small", &bob, "*", 3)];
    transaction(&here, &there, "t", vec![], edus).await.good();
    drop(listening);
    assert_eq!(arrivals(&bob, 1).await[0]["content"], json!({ "n": 3 }));
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("dropped")).collect();
    let [messages, edu] = lines[..] else { panic!("{log}") };
    for words in [here.name().as_str(), "m.test", "messages=2", "largest_bytes=75", "most_bytes=65536"] {
        assert!(messages.contains(words), "no {words}: {messages}");
    }
    assert!(edu.contains(here.name().as_str()) && edu.contains("bytes=5242"), "{edu}");
    assert!(!log.contains("between us") && !log.contains("xxxx"), "what was said is nobody's business");
}

#[tokio::test]
async fn a_server_that_was_away_gets_its_messages_once() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    there.goes_away();
    for n in 0..5 {
        sends_to(&alice, &bob, &n.to_string(), json!({ "n": n })).await;
    }
    let away = async {
        while here.services().federation.health().left_alone_until(there.name()).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), away).await.unwrap();
    there.comes_back();
    // It asks for something: that is a sign of life.
    there.asks(&here, &format!("/_matrix/federation/v1/user/devices/{}", encoded(alice.id.as_str()))).await.good();
    let arrived = arrivals(&bob, 5).await;
    assert_eq!(arrived.iter().map(|m| m["content"]["n"].as_i64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_transaction_counts_once_and_a_message_too() {
    let [here, there] = Peers::two().await;
    let bob = there.user("bob").await;
    let alice = format!("@alice:{}", here.name());
    let edus = |id: &str, n| vec![message(&alice, id, &bob, "*", n)];
    for _ in 0..2 {
        let told = transaction(&here, &there, "t1", vec![], edus("a", 1)).await;
        assert_eq!(told.good(), json!({ "pdus": {} }));
    }
    // Another transaction with the same message, and one with another.
    transaction(&here, &there, "t2", vec![], edus("a", 1)).await.good();
    transaction(&here, &there, "t3", vec![], edus("b", 2)).await.good();
    let arrived = arrivals(&bob, 2).await;
    assert_eq!(arrived.iter().map(|m| m["content"]["n"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_transaction_tried_again_with_more_in_it_brings_what_is_new() {
    let [here, there] = Peers::two().await;
    let bob = there.user("bob").await;
    let alice = format!("@alice:{}", here.name());
    let (first, second) = (message(&alice, "a", &bob, "*", 1), message(&alice, "b", &bob, "*", 2));
    transaction(&here, &there, "t", vec![], vec![first.clone()]).await.good();
    // The answer was lost on the way: the same id, and what there is to say by then.
    transaction(&here, &there, "t", vec![], vec![first, second]).await.good();
    let arrived = arrivals(&bob, 2).await;
    assert_eq!(arrived.iter().map(|m| m["content"]["n"].as_i64().unwrap()).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn what_is_wrong_with_an_edu_harms_nobody() {
    let [here, there] = Peers::two().await;
    let bob = there.user("bob").await;
    let (alice, eve) = (format!("@alice:{}", here.name()), "@eve:elsewhere.test");
    let room = bob.opens().await;
    let bad = vec![
        json!(5),
        json!({ "edu_type": "m.direct_to_device", "content": [] }),
        json!({ "edu_type": "org.example", "content": {} }),
        // In another's name; of no user of the server's; in a room they are not in.
        message(eve, "x", &bob, "*", 1),
        json!({ "edu_type": "m.typing", "content": { "room_id": room, "user_id": alice, "typing": true } }),
        json!({ "edu_type": "m.typing", "content": { "room_id": room, "user_id": bob.id, "typing": true } }),
        json!({ "edu_type": "m.receipt", "content": { room.as_str(): { "m.read": { bob.id.as_str(): {
            "data": { "ts": 1 }, "event_ids": ["$x"] } } } } }),
        json!({ "edu_type": "m.presence", "content": { "push": [{ "user_id": bob.id, "presence": "offline" }] } }),
        json!({ "edu_type": "m.device_list_update", "content": {
            "user_id": bob.id, "device_id": bob.device, "stream_id": 1, "prev_id": [], "deleted": true } }),
        json!({ "edu_type": "m.signing_key_update", "content": { "user_id": bob.id, "master_key": {} } }),
        message(&alice, "y", &bob, &bob.device, 2),
    ];
    transaction(&here, &there, "t", vec![], bad).await.good();
    let arrived = arrivals(&bob, 1).await;
    assert_eq!(arrived, [json!({ "type": "m.test", "sender": alice, "content": { "n": 2 } })]);
    let sync = bob.syncs("").await;
    let ephemeral = &sync["rooms"]["join"][room.as_str()]["ephemeral"]["events"];
    assert!(
        ephemeral
            .as_array()
            .into_iter()
            .flatten()
            .all(|e| e["content"]["user_ids"].as_array().is_none_or(Vec::is_empty)),
        "{ephemeral}"
    );
    bob.get(&format!("{V3}/devices/{}", bob.device)).await.good();
}

#[tokio::test]
async fn a_new_device_elsewhere_is_noticed_at_once() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    publishes_keys(&bob).await;
    let devices = async || {
        let query = json!({ "device_keys": { bob.id.as_str(): [] } });
        let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
        found["device_keys"][bob.id.as_str()].as_object().unwrap().len()
    };
    assert_eq!(devices().await, 1);
    // While the list is being fetched for the first time, and once it is followed: far sooner than lists are looked at
    // that nobody asked for.
    for count in 2..5 {
        let since = alice.now().await;
        publishes_keys(&bob.another_device().await).await;
        let noticed = async {
            let mut since = since;
            loop {
                let sync = alice.syncs(&format!("timeout=2000&since={}", encoded(&since))).await;
                let changed = sync["device_lists"]["changed"].as_array().is_some_and(|c| c.contains(&json!(bob.id)));
                if changed && devices().await == count {
                    return;
                }
                since = sync["next_batch"].as_str().unwrap().to_owned();
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), noticed).await.is_ok(), "device {count}");
    }
}

/// What is said after an invite may be for who is invited: who invites looks at their devices, the others when they come.
#[tokio::test]
async fn who_invites_is_told_to_look_at_devices() {
    let [here, there] = Peers::two().await;
    let (alice, dave, bob) = (here.user("alice").await, here.user("dave").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    dave.joins(&room).await.good();
    let names_bob =
        |sync: &Value| sync["device_lists"]["changed"].as_array().is_some_and(|c| c.contains(&json!(bob.id)));
    let (since, daves) = (alice.now().await, dave.now().await);
    alice.invites(&room, &bob).await.good();
    let sync = alice.syncs_since(&since).await;
    assert!(names_bob(&sync), "{sync}");
    let invited = sync["next_batch"].as_str().unwrap();
    let sync = dave.syncs_since(&daves).await;
    assert!(!names_bob(&sync), "{sync}");
    // Also if nobody remembers.
    let here = here.restarts().await;
    let (alice, dave) = (alice.on(&here), dave.on(&here));
    assert!(names_bob(&alice.syncs_since(&since).await));
    assert!(!names_bob(&dave.syncs_since(&daves).await));
    bob.joins(&room).await.good();
    for (user, since) in [(&alice, invited), (&dave, daves.as_str())] {
        let sync = user.syncs_since(since).await;
        assert!(names_bob(&sync), "{sync}");
    }
}

/// A server that tells no list of devices is asked for the keys themselves.
#[tokio::test]
async fn keys_are_had_from_servers_that_tell_no_list() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    there.tricks(Some(answers(&["/user/devices/"], || refused(404))));
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    publishes_keys(&bob).await;
    for _ in 0..2 {
        let query = json!({ "device_keys": { bob.id.as_str(): [] } });
        let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
        assert_eq!(found["device_keys"][bob.id.as_str()].as_object().unwrap().len(), 1, "{found}");
    }
    let now = alice.now().await;
    let query = json!({ "device_keys": { bob.id.as_str(): [] } });
    alice.post(&format!("{V3}/keys/query"), query).await.good();
    assert!(alice.syncs_since(&now).await["device_lists"].is_null(), "to ask is no news");
}

#[tokio::test]
async fn the_devices_of_who_is_met_are_asked_for_once() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    publishes_keys(&bob).await;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    there.tricks(Some(Arc::new(move |path: &str| {
        seen.lock().extend(path.contains("/user/").then(|| path.to_owned()));
        None
    })));
    let query = || async {
        let query = json!({ "device_keys": { bob.id.as_str(): [] } });
        let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
        assert_eq!(found["device_keys"][bob.id.as_str()].as_object().unwrap().len(), 1, "{found}");
    };
    tokio::join!(query(), query());
    query().await;
    let so_far = asked.lock().clone();
    assert!(so_far.len() == 1 && so_far[0].contains("/user/devices/"), "{so_far:?}");
    // Who goes and comes back may have other devices: they are asked for anew.
    bob.leaves(&room).await.good();
    publishes_keys(&bob.another_device().await).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let noticed = async {
        loop {
            let query = json!({ "device_keys": { bob.id.as_str(): [] } });
            let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
            if found["device_keys"][bob.id.as_str()].as_object().unwrap().len() == 2 {
                return;
            }
        }
    };
    let noticed = tokio::time::timeout(Duration::from_secs(20), noticed).await;
    assert!(noticed.is_ok(), "{:?}", asked.lock());
}

#[tokio::test]
async fn transactions_have_bounds() {
    let [here, there] = Peers::two().await;
    let many = |n: usize| vec![json!({}); n];
    transaction(&here, &there, "a", many(51), vec![]).await.refused(400, "M_INVALID_PARAM");
    transaction(&here, &there, "b", vec![], many(101)).await.refused(400, "M_INVALID_PARAM");
    transaction(&here, &there, "c", vec![], many(100)).await.good();
    let told = here.calls(&there, Method::PUT, &format!("{SEND}/d"), Some(json!({}))).await;
    assert_eq!(told.status, 400, "{told:?}");
}

/// Syncs until a room's counts are these: notifications and highlights.
async fn is_counted(user: &User, room: &str, expected: [u64; 2]) {
    let (mut since, mut seen) = (String::new(), [u64::MAX; 2]);
    let all = async {
        while seen != expected {
            let sync = user.get(&format!("{V3}/sync?timeout=2000{since}")).await.good();
            since = format!("&since={}", encoded(sync["next_batch"].as_str().unwrap()));
            let counts = &sync["rooms"]["join"][room]["unread_notifications"];
            if counts.is_object() {
                seen = ["notification_count", "highlight_count"].map(|name| counts[name].as_u64().unwrap());
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), all).await.is_ok(), "{seen:?}, not {expected:?}");
}

#[tokio::test]
async fn a_redaction_from_elsewhere_takes_back_that_something_notified() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    alice.says(&room, "one").await;
    let mention = json!({ "msgtype": "m.text", "body": "bob", "m.mentions": { "user_ids": [bob.id] } });
    let named = event_id(&alice.sends(&room, "m.room.message", "t", mention).await.good());
    is_counted(&bob, &room, [2, 1]).await;
    alice.redacts(&room, &named).await.good();
    is_counted(&bob, &room, [1, 0]).await;
}

/// Who comes to share a room hears how the others are, and they hear of who came, though nobody changes.
#[tokio::test]
async fn servers_that_meet_hear_how_their_users_are() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let status = |of: &User| format!("{V3}/presence/{}/status", encoded(of.id.as_str()));
    for user in [&alice, &bob] {
        user.put(&status(user), json!({ "presence": "online", "status_msg": "hello" })).await.good();
    }
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    for (user, other) in [(&alice, &bob), (&bob, &alice)] {
        let hears = async {
            let mut since = String::new();
            loop {
                let sync = user.get(&format!("{V3}/sync?timeout=1000{since}")).await.good();
                let news = sync["presence"]["events"].as_array().into_iter().flatten();
                if news.into_iter().any(|e| e["sender"] == other.id.as_str() && e["content"]["status_msg"] == "hello") {
                    return;
                }
                since = format!("&since={}", encoded(sync["next_batch"].as_str().unwrap()));
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), hears).await.is_ok(), "{} hears nothing", user.id);
    }
}

#[tokio::test]
async fn who_was_there_before_a_restart_is_there_after_it() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let status = format!("{V3}/presence/{}/status", encoded(bob.id.as_str()));
    bob.put(&status, json!({ "presence": "unavailable", "status_msg": "at lunch" })).await.good();
    let hears = async {
        while alice.get(&status).await.good()["status_msg"] != "at lunch" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), hears).await.is_ok(), "nothing was heard of bob");
    // Nobody says it again.
    there.services().supervisor.stop(Duration::from_secs(5)).await;
    let here = here.restarts().await;
    let alice = alice.on(&here);
    let is = alice.get(&status).await.good();
    assert_eq!((&is["presence"], &is["status_msg"]), (&json!("unavailable"), &json!("at lunch")));
}
