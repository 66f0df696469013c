//! What a server reads of rooms that live elsewhere: events, states, pages of history, spaces. The reader is let in by the
//! join of one of its users, signed by it and placed where the room lives.

use std::sync::Arc;

use hearth_rules::{Draft, RoomVersion, auth::auth_keys};
use hearth_service::events::{Arrival, Arrived, With};
use ruma::{OwnedRoomId, events::TimelineEventType};
use serde_json::{Value, json};

use super::support::{Peer, Peers};
use crate::support::{
    User,
    rooms::{V3, encoded},
};

const V1: &str = "/_matrix/federation/v1";

/// An event of a user of `of`, placed in a room of `at`; gives its id.
async fn places(
    at: &Peer,
    room: &str,
    of: &Peer,
    sender: &User,
    kind: &str,
    key: Option<&str>,
    content: Value,
) -> String {
    let services = at.services();
    let room_id: OwnedRoomId = room.try_into().unwrap();
    let room = services.state.room(&room_id).await.unwrap();
    let version = RoomVersion::known(&room.version).unwrap();
    let kind = TimelineEventType::from(kind);
    let key = key.map(str::to_owned);
    let ts = services.clock.now_ms();
    let draft = Draft::of(Some(room_id), sender.id.clone(), kind.clone(), key.clone(), &content, ts).unwrap();
    let state = services.state.current(&room).await.unwrap();
    let create = services.state.entry(&state, "m.room.create", "").await.unwrap().unwrap();
    let (mut auth, mut names) = (vec![create.nid], Vec::new());
    for (kind, key) in auth_keys(version, &kind, &sender.id, key.as_deref(), draft.content_json()).unwrap() {
        if let Some(event) = services.state.entry(&state, &kind.to_string(), &key).await.unwrap() {
            names.push(event.pdu.reference(version));
            if event.nid != create.nid {
                auth.push(event.nid);
            }
        }
    }
    let prev: Vec<_> = room.head.extremities.iter().map(|e| e.event.clone()).collect();
    let depth = u64::try_from(room.head.depth).unwrap() + 1;
    let pdu = draft.build(version, &prev, depth, &names, of.services().server_keys.signer()).unwrap();
    let id = pdu.event_id().to_string();
    let arrival = Arrival {
        pdu: Arc::new(pdu),
        nid: services.store.new_event_nid().await.unwrap(),
        known: false,
        auth,
        rejected: None,
        refused: false,
        states: Vec::new(),
        whole: false,
        missing: Vec::new(),
        referenced: false,
        history: false,
        relay: false,
        told: false,
        in_part: false,
        of_stranger: false,
        with: With::default(),
    };
    let arrived = services.events.receive(room.nid, vec![arrival]).await.unwrap();
    assert_eq!(arrived, [Arrived::Placed]);
    id
}

async fn member(at: &Peer, room: &str, of: &Peer, user: &User, membership: &str) -> String {
    places(at, room, of, user, "m.room.member", Some(user.id.as_str()), json!({ "membership": membership })).await
}

fn at(what: &str, room: &str, rest: &str) -> String {
    format!("{V1}/{what}/{}{rest}", encoded(room))
}

fn list(answer: &Value, name: &str) -> Vec<Value> {
    answer[name].as_array().unwrap_or_else(|| panic!("no {name} in {answer}")).clone()
}

fn bodies(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|e| e["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn a_server_reads_the_rooms_its_users_are_in() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    let one = alice.says(&room, "one").await;
    let event = |id: &str| format!("{V1}/event/{}", encoded(id));
    there.asks(&here, &event(&one)).await.refused(403, "M_FORBIDDEN");
    let join = member(&here, &room, &there, &bob, "join").await;
    let two = alice.says(&room, "two").await;
    let three = alice.says(&room, "three").await;

    let found = there.asks(&here, &event(&one)).await.good();
    assert_eq!((&found["origin"], found["origin_server_ts"].is_u64()), (&json!(here.name()), true));
    assert_eq!(bodies(&list(&found, "pdus")), ["one"]);
    assert!(found["pdus"][0]["signatures"][here.name().as_str()].is_object());
    there.asks(&here, &event("$nothing")).await.refused(404, "M_NOT_FOUND");

    // The state before an event does not have the event.
    let id = |id: &str| format!("?event_id={}", encoded(id));
    let before = there.asks(&here, &at("state_ids", &room, &id(&join))).await.good();
    let after = there.asks(&here, &at("state_ids", &room, &id(&two))).await.good();
    assert!(!list(&before, "pdu_ids").contains(&json!(join)) && list(&after, "pdu_ids").contains(&json!(join)));
    assert_eq!(list(&before, "pdu_ids").len() + 1, list(&after, "pdu_ids").len());
    let whole = there.asks(&here, &at("state", &room, &id(&two))).await.good();
    assert_eq!(list(&whole, "pdus").len(), list(&after, "pdu_ids").len());
    assert_eq!(list(&whole, "auth_chain").len(), list(&after, "auth_chain_ids").len());
    let types = |events: Vec<Value>| -> Vec<String> {
        let mut types: Vec<String> = events.iter().map(|e| e["type"].as_str().unwrap().to_owned()).collect();
        types.sort();
        types
    };
    assert!(types(list(&whole, "pdus")).contains(&"m.room.history_visibility".to_owned()));
    let auth = there.asks(&here, &at("event_auth", &room, &format!("/{}", encoded(&two)))).await.good();
    let expected = ["m.room.create", "m.room.member", "m.room.power_levels"];
    assert_eq!(types(list(&auth, "auth_chain")), expected);

    // Pages of history have the events named, newest first.
    let backfill = |from: &str, limit: usize| at("backfill", &room, &format!("?v={}&limit={limit}", encoded(from)));
    let page = there.asks(&here, &backfill(&three, 2)).await.good();
    assert_eq!(bodies(&list(&page, "pdus")), ["three", "two"]);
    let all = list(&there.asks(&here, &backfill(&three, 5000)).await.good(), "pdus");
    assert_eq!((bodies(&all), &all.last().unwrap()["type"]), (vec!["three", "two", "one"], &json!("m.room.create")));
    assert!(list(&there.asks(&here, &backfill("$nothing", 10)).await.good(), "pdus").is_empty());
    assert!(list(&there.asks(&here, &backfill(&three, 0)).await.good(), "pdus").is_empty());

    // What lies between, oldest first.
    let missing = at("get_missing_events", &room, "");
    let ask = json!({ "latest_events": [three], "earliest_events": [one], "limit": 50 });
    let between = list(&there.posts(&here, &missing, ask.clone()).await.good(), "events");
    let shape: Vec<&Value> = between.iter().map(|e| &e["type"]).collect();
    assert_eq!(shape, ["m.room.member", "m.room.message"]);
    let mut shallow = ask.clone();
    shallow["min_depth"] = between[1]["depth"].clone();
    assert_eq!(bodies(&list(&there.posts(&here, &missing, shallow).await.good(), "events")), ["two"]);
    let endless = json!({ "latest_events": [three], "earliest_events": [], "limit": 5000 });
    assert!(list(&there.posts(&here, &missing, endless).await.good(), "events").len() <= 20);

    let nearest = |dir: &str, ts: u64| at("timestamp_to_event", &room, &format!("?dir={dir}&ts={ts}"));
    assert_eq!(there.asks(&here, &nearest("b", 1 << 50)).await.good()["event_id"], three);
    assert!(there.asks(&here, &nearest("f", 0)).await.good()["origin_server_ts"].is_u64());
    there.asks(&here, &nearest("f", 1 << 50)).await.refused(404, "M_NOT_FOUND");

    // Of another room, of none, and by those who are not in it.
    let other = alice.opens().await;
    there.asks(&here, &at("state", &other, &id(&two))).await.refused(403, "M_FORBIDDEN");
    there.asks(&here, &at("state", "!none:x", &id(&two))).await.refused(403, "M_FORBIDDEN");
    member(&here, &other, &there, &bob, "join").await;
    there.asks(&here, &at("state", &other, &id(&two))).await.refused(404, "M_NOT_FOUND");
    assert!(
        list(&there.posts(&here, &at("get_missing_events", &other, ""), ask.clone()).await.good(), "events").is_empty()
    );
    let reads = [
        event(&one),
        at("state", &room, &id(&two)),
        at("state_ids", &room, &id(&two)),
        at("event_auth", &room, &format!("/{}", encoded(&two))),
        backfill(&three, 10),
        nearest("b", 1 << 50),
    ];
    for path in &reads {
        third.asks(&here, path).await.refused(403, "M_FORBIDDEN");
        there.asks(&here, path).await.good();
    }
    third.posts(&here, &missing, ask.clone()).await.refused(403, "M_FORBIDDEN");
    member(&here, &room, &there, &bob, "leave").await;
    for path in &reads {
        there.asks(&here, path).await.refused(403, "M_FORBIDDEN");
    }
    there.posts(&here, &missing, ask).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn what_a_server_may_not_see_it_gets_redacted() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    for (visibility, expected) in [
        ("world_readable", vec!["in", "invited", "before"]),
        ("shared", vec!["in", "invited", "before"]),
        ("invited", vec!["in", "invited"]),
        ("joined", vec!["in"]),
    ] {
        let setting = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } });
        let room = alice.creates(json!({ "initial_state": [setting] })).await;
        for topic in ["old", "new"] {
            alice.sets(&room, "m.room.topic", "", json!({ "topic": topic })).await.good();
        }
        let before = alice.says(&room, "before").await;
        places(&here, &room, &here, &alice, "m.room.member", Some(bob.id.as_str()), json!({ "membership": "invite" }))
            .await;
        alice.says(&room, "invited").await;
        member(&here, &room, &there, &bob, "join").await;
        let last = alice.says(&room, "in").await;
        let page = format!("?v={}&limit=100", encoded(&last));
        let pdus = list(&there.asks(&here, &at("backfill", &room, &page)).await.good(), "pdus");
        assert_eq!(bodies(&pdus), expected, "{visibility}");
        // Nothing is left out, and what is redacted keeps what its id and signature are about.
        assert_eq!(pdus.iter().filter(|e| e["type"] == "m.room.message").count(), 3);
        assert!(pdus.iter().all(|e| e["signatures"].is_object() && e["hashes"]["sha256"].is_string()));
        let single = there.asks(&here, &format!("{V1}/event/{}", encoded(&before))).await.good();
        let shown = single["pdus"][0]["content"] == json!({ "msgtype": "m.text", "body": "before" });
        assert_eq!(shown, expected.contains(&"before"), "{visibility}: {single}");
        // What stands in the room is what its members see, whenever it came to be.
        let topics: Vec<&Value> =
            pdus.iter().filter(|e| e["type"] == "m.room.topic").map(|e| &e["content"]["topic"]).collect();
        let old = if shown { json!("old") } else { Value::Null };
        assert_eq!(topics, [&json!("new"), &old], "{visibility}");
        // The server knows the member events it must know, whoever may see them.
        let joins = pdus.iter().filter(|e| e["type"] == "m.room.member" && e["content"]["membership"].is_string());
        assert_eq!(joins.count(), 3);
    }
}

/// What somebody sent who was erased since is given whole to the servers that were in the room at the time.
#[tokio::test]
async fn what_erased_users_sent_is_for_servers_that_were_there() {
    let [here, there] = Peers::two().await;
    let (alice, carol, bob) = (here.user("alice").await, here.user("carol").await, there.user("bob").await);
    let room = alice.opens().await;
    carol.joins(&room).await.good();
    let before = alice.says(&room, "before").await;
    carol.says(&room, "of carol").await;
    member(&here, &room, &there, &bob, "join").await;
    let during = alice.says(&room, "in").await;
    member(&here, &room, &there, &bob, "leave").await;
    alice.says(&room, "between").await;
    let back = member(&here, &room, &there, &bob, "join").await;
    let last = carol.says(&room, "last").await;
    alice.post(&format!("{V3}/account/deactivate"), alice.confirmed(json!({ "erase": true }))).await.good();

    let page = there.asks(&here, &at("backfill", &room, &format!("?v={}&limit=100", encoded(&last)))).await.good();
    let pdus = list(&page, "pdus");
    assert_eq!(bodies(&pdus), ["last", "in", "of carol"]);
    assert_eq!(pdus.iter().filter(|e| e["type"] == "m.room.message").count(), 5);
    for (id, shown) in [(&before, false), (&during, true)] {
        let single = there.asks(&here, &format!("{V1}/event/{}", encoded(id))).await.good();
        assert_eq!(single["pdus"][0]["content"]["body"].is_string(), shown, "{single}");
        assert!(single["pdus"][0]["signatures"].is_object());
    }
    let ask = json!({ "latest_events": [back], "earliest_events": [before], "limit": 50 });
    let between = list(&there.posts(&here, &at("get_missing_events", &room, ""), ask).await.good(), "events");
    assert_eq!(bodies(&between), ["of carol", "in"]);
    assert_eq!(between.iter().filter(|e| e["type"] == "m.room.message").count(), 3);
}

#[tokio::test]
async fn a_state_of_many_pieces_is_whole() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    member(&here, &room, &there, &bob, "join").await;
    for n in 0..250 {
        alice.sets(&room, "org.example.thing", &format!("{n}"), json!({ "n": n, "text": "\"\u{2603}" })).await.good();
    }
    let last = alice.says(&room, "x").await;
    let id = format!("?event_id={}", encoded(&last));
    let state = there.asks(&here, &at("state", &room, &id)).await.good();
    let mut keys: Vec<String> =
        list(&state, "pdus").iter().map(|e| format!("{}{}", e["type"], e["state_key"])).collect();
    let ids = there.asks(&here, &at("state_ids", &room, &id)).await.good();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), list(&ids, "pdu_ids").len()), (count, count));
    assert_eq!(keys.iter().filter(|k| k.contains("org.example.thing")).count(), 250);
}

#[tokio::test]
async fn a_tree_goes_on_at_other_servers() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let space = json!({ "type": "m.space" });
    let open = alice.creates(json!({ "preset": "public_chat", "name": "open" })).await;
    let secret = alice.creates(json!({ "preset": "private_chat", "name": "secret" })).await;
    let inner = alice.creates(json!({ "preset": "public_chat", "name": "inner", "creation_content": space })).await;
    let root = bob.creates(json!({ "preset": "public_chat", "name": "root", "creation_content": space })).await;
    let via = json!({ "via": [here.name()] });
    for child in [&open, &secret] {
        alice.sets(&inner, "m.space.child", child, via.clone()).await.good();
    }
    bob.sets(&root, "m.space.child", &inner, via.clone()).await.good();
    bob.sets(&root, "m.space.child", "!nowhere:127.0.0.9", json!({ "via": ["127.0.0.9:1"] })).await.good();

    let told = there.asks(&here, &at("hierarchy", &inner, "")).await.good();
    assert_eq!((&told["room"]["name"], told["children"][0]["name"].as_str()), (&json!("inner"), Some("open")));
    assert_eq!(list(&told["room"], "children_state").len(), 2);
    assert_eq!((list(&told, "children").len(), &told["inaccessible_children"]), (1, &json!([secret])));
    there.asks(&here, &at("hierarchy", &secret, "")).await.refused(404, "M_NOT_FOUND");
    there.asks(&here, &at("hierarchy", &root, "")).await.refused(404, "M_NOT_FOUND");

    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", encoded(&root));
    let asked = || here.was_asked(&at("hierarchy", &inner, "")) + here.was_asked(&format!("{V1}/hierarchy/{inner}"));
    let before = asked();
    for _ in 0..2 {
        let tree = bob.get(&path).await.good();
        let names: Vec<Value> = list(&tree, "rooms").iter().map(|r| r["name"].clone()).collect();
        assert_eq!(names, ["root", "inner", "open"]);
    }
    assert_eq!(asked(), before + 1, "what was told is remembered");

    // That nothing is shown is not: it may be the next moment.
    let later = alice.creates(json!({ "preset": "private_chat", "name": "later" })).await;
    bob.sets(&root, "m.space.child", &later, via).await.good();
    let names = async || -> Vec<Value> {
        let tree = bob.get(&path).await.good();
        list(&tree, "rooms").iter().map(|r| r["name"].clone()).collect()
    };
    assert_eq!(names().await, ["root", "inner", "open"]);
    alice.sets(&later, "m.room.join_rules", "", json!({ "join_rule": "public" })).await.good();
    assert!(names().await.contains(&json!("later")));

    // One room alone, for those who may ask others by us.
    let summary =
        |room: &str| format!("/_matrix/client/v1/room_summary/{}?via={}", encoded(room), encoded(here.name().as_str()));
    let told = bob.get(&summary(&open)).await.good();
    assert_eq!(
        (&told["name"], &told["membership"], &told["num_joined_members"]),
        (&json!("open"), &json!("leave"), &json!(1))
    );
    bob.get(&summary(&secret)).await.refused(404, "M_NOT_FOUND");
    there.nobody().get(&summary(&inner)).await.refused(404, "M_NOT_FOUND");
    // Whoever is invited may hear of it.
    places(&here, &secret, &here, &alice, "m.room.member", Some(bob.id.as_str()), json!({ "membership": "invite" }))
        .await;
    assert_eq!(there.asks(&here, &at("hierarchy", &secret, "")).await.good()["room"]["name"], "secret");
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    member(&here, &room, &there, &bob, "join").await;
    let last = encoded(&alice.says(&room, "x").await);
    let id = format!("?event_id={last}");
    for path in ["state", "state_ids"] {
        let told = there.asks(&here, &at(path, &room, &id)).await.good();
        assert_eq!(there.asks(&here, &at(path, &room, &format!("/{id}"))).await.good(), told);
    }
    let told = there.asks(&here, &at("backfill", &room, &format!("/?v={last}&limit=3"))).await.good();
    assert_eq!(list(&told, "pdus").len(), 3);
    let told = there.asks(&here, &format!("{V1}/event/{last}/")).await.good();
    assert_eq!(list(&told, "pdus").len(), 1);
    let nothing = json!({ "origin": there.name(), "origin_server_ts": 1, "pdus": [] });
    let told = there.calls(&here, http::Method::PUT, &format!("{V1}/send/t/"), Some(nothing)).await.good();
    assert_eq!(told, json!({ "pdus": {} }));
}
