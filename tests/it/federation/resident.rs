//! What a server answers to those who want into its rooms, asked by hand.

use std::time::Duration;

use hearth_rules::{Draft, RoomVersion, event::Reference};
use http::Method;
use serde_json::{Value, json};

use super::{
    hostile::{VERSION, besieged},
    support::{Peer, Peers, Told},
};
use crate::support::{
    User,
    rooms::{encoded, joined},
};

/// A change to an event that makes it another.
type Lie = Box<dyn FnOnce(&mut Value)>;

const V1: &str = "/_matrix/federation/v1";
const V2: &str = "/_matrix/federation/v2";

pub async fn make(there: &Peer, here: &Peer, what: &str, room: &str, user: &str, versions: &[&str]) -> Told {
    let versions: Vec<String> = versions.iter().map(|v| format!("ver={v}")).collect();
    let query = if versions.is_empty() { String::new() } else { format!("?{}", versions.join("&")) };
    there.asks(here, &format!("{V1}/make_{what}/{}/{}{query}", encoded(room), encoded(user))).await
}

/// The event that a server would make of a template.
pub fn completed(there: &Peer, template: &Value, change: impl FnOnce(&mut Value)) -> (String, Value) {
    let mut event = template["event"].clone();
    change(&mut event);
    let text = |key: &str| event[key].as_str().unwrap().to_owned();
    let ids = |key: &str| serde_json::from_value::<Vec<Reference>>(event[key].clone()).unwrap();
    let draft = Draft::of(
        Some(text("room_id").try_into().unwrap()),
        text("sender").try_into().unwrap(),
        text("type").as_str().into(),
        Some(text("state_key")),
        &event["content"],
        there.clock().now_ms(),
    );
    let version = RoomVersion::get(template["room_version"].as_str().unwrap()).unwrap();
    let (depth, signer) = (event["depth"].as_u64().unwrap(), there.services().server_keys.signer());
    let pdu = draft.unwrap().build(version, &ids("prev_events"), depth, &ids("auth_events"), signer).unwrap();
    (pdu.event_id().to_string(), serde_json::from_str(pdu.json()).unwrap())
}

pub async fn send(there: &Peer, here: &Peer, what: &str, room: &str, event: (String, Value)) -> Told {
    let path = format!("{what}/{}/{}", encoded(room), encoded(&event.0));
    there.calls(here, Method::PUT, &path, Some(event.1)).await
}

async fn member(asked: &User, room: &str, whose: &User) -> Value {
    let answer = asked.reads(room, "m.room.member", whose.id.as_str()).await;
    answer.body["membership"].clone()
}

#[tokio::test]
async fn a_template_is_for_who_may_and_can() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let open = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let closed = alice.creates(json!({ "room_version": "10" })).await;
    let (bob_id, all) = (bob.id.as_str(), ["9", "10", "12"]);
    let told =
        make(&there, &here, "join", &open, bob_id, &["9", "12"]).await.refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(told["room_version"], "10");
    // Without the parameter it is version 1.
    make(&there, &here, "join", &open, bob_id, &[]).await.refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    make(&there, &here, "join", &open, alice.id.as_str(), &all).await.refused(403, "M_FORBIDDEN");
    make(&there, &here, "join", &closed, bob_id, &all).await.refused(403, "M_FORBIDDEN");
    make(&there, &here, "join", "!none:x.org", bob_id, &all).await.refused(404, "M_NOT_FOUND");
    make(&there, &here, "leave", &open, bob_id, &[]).await.refused(403, "M_FORBIDDEN");
    make(&there, &here, "knock", &open, bob_id, &all).await.refused(403, "M_FORBIDDEN");
    let made = make(&there, &here, "join", &open, bob_id, &all).await.good();
    assert_eq!(made["room_version"], "10");
    let event = &made["event"];
    assert_eq!(
        (&event["room_id"], &event["sender"], &event["state_key"]),
        (&json!(open), &json!(bob_id), &json!(bob_id))
    );
    assert_eq!((&event["type"], &event["content"]), (&json!("m.room.member"), &json!({ "membership": "join" })));
    assert!(event["signatures"].is_null() && event["hashes"].is_null(), "{event}");
    // A room that all of ours have left is none that we can help into.
    alice.leaves(&open).await.good();
    make(&there, &here, "join", &open, bob_id, &all).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn only_the_join_that_was_asked_for_is_taken() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10", "name": "Room" })).await;
    let other = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let made = make(&there, &here, "join", &room, bob.id.as_str(), &["10"]).await.good();
    let path = format!("{V2}/send_join");
    let wrong: Vec<(&str, Lie)> = vec![
        ("about another", {
            let id = json!(alice.id);
            Box::new(move |e| e["state_key"] = id)
        }),
        ("a leave", Box::new(|e| e["content"]["membership"] = json!("leave"))),
        ("an invite", Box::new(|e| e["content"]["membership"] = json!("invite"))),
        ("another type", Box::new(|e| e["type"] = json!("m.room.name"))),
        ("another room", {
            let id = json!(other);
            Box::new(move |e| e["room_id"] = id)
        }),
        ("unknown predecessors", Box::new(|e| e["prev_events"] = json!(["$nothing"]))),
        ("unknown auth events", Box::new(|e| e["auth_events"] = json!(["$nothing"]))),
    ];
    for (what, change) in wrong {
        let told = send(&there, &here, &path, &room, completed(&there, &made, change)).await;
        assert!(told.status == 400, "{what}: {told:?}");
        assert_eq!(told.body["errcode"], "M_INVALID_PARAM", "{what}: {told:?}");
    }
    let (id, event) = completed(&there, &made, |_| {});
    // No auth events at all do not allow it.
    let told = send(&there, &here, &path, &room, completed(&there, &made, |e| e["auth_events"] = json!([]))).await;
    assert!(matches!(told.status, 400 | 403), "{told:?}");
    send(&there, &here, &path, &room, ("$other".to_owned(), event.clone())).await.refused(400, "M_INVALID_PARAM");
    send(&there, &here, &path, &other, (id.clone(), event.clone())).await.refused(400, "M_INVALID_PARAM");
    send(&third, &here, &path, &room, (id.clone(), event.clone())).await.refused(403, "M_FORBIDDEN");
    let anothers = completed(&there, &made, |e| e["sender"] = json!(alice.id));
    send(&there, &here, &path, &room, anothers).await.refused(403, "M_FORBIDDEN");
    let mut forged = event.clone();
    forged["signatures"] = json!({ there.name().as_str(): { "ed25519:x": "AAAA" } });
    send(&there, &here, &path, &room, (id.clone(), forged)).await.refused(403, "M_FORBIDDEN");
    // What is no canonical JSON is no event of this version.
    let mut loose = event.clone();
    loose["content"]["weight"] = json!(1.5);
    send(&there, &here, &path, &room, (id.clone(), loose)).await.refused(400, "M_BAD_JSON");
    assert!(member(&alice, &room, &bob).await.is_null());

    let answer = send(&there, &here, &path, &room, (id.clone(), event.clone())).await.good();
    assert_eq!(member(&alice, &room, &bob).await, "join");
    let of = |list: &str, kind: &str| answer[list].as_array().unwrap().iter().filter(|e| e["type"] == kind).count();
    assert_eq!((of("state", "m.room.create"), of("state", "m.room.name"), of("state", "m.room.member")), (1, 1, 1));
    assert_eq!((of("auth_chain", "m.room.create"), of("auth_chain", "m.room.power_levels")), (1, 1));
    assert_eq!(answer["members_omitted"], false);
    assert_eq!(answer["event"], event);
    // Whoever did not get the answer asks again.
    let again = send(&there, &here, &path, &room, (id.clone(), event.clone())).await.good();
    assert_eq!(again["state"].as_array().unwrap().len(), answer["state"].as_array().unwrap().len());
    let old = send(&there, &here, &format!("{V1}/send_join"), &room, (id.clone(), event.clone())).await.good();
    assert_eq!(
        (&old[0], old[1]["state"].as_array().unwrap().len()),
        (&json!(200), answer["state"].as_array().unwrap().len())
    );
    let path = format!("{path}/{}/{}?omit_members=true", encoded(&room), encoded(&id));
    let reduced = there.calls(&here, Method::PUT, &path, Some(event)).await.good();
    assert_eq!((&reduced["servers_in_room"], &reduced["members_omitted"]), (&json!([here.name()]), &json!(true)));
    // The room has a name, so it needs nobody to be named by.
    assert!(reduced["state"].as_array().unwrap().iter().all(|e| e["type"] != "m.room.member"), "{reduced}");
    let ids =
        |list: &str| reduced[list].as_array().unwrap().iter().map(|e| e["hashes"].to_string()).collect::<Vec<_>>();
    assert!(ids("auth_chain").iter().all(|hash| !ids("state").contains(hash)));

    // And out again.
    let made = make(&there, &here, "leave", &room, bob.id.as_str(), &[]).await.good();
    send(&there, &here, &format!("{V1}/send_leave"), &room, completed(&there, &made, |_| {})).await.good();
    assert_eq!(member(&alice, &room, &bob).await, "leave");
}

/// A join that was refused as news, deeper than the room, is found again though nothing remembers it.
#[tokio::test]
async fn what_was_refused_as_news_is_no_way_in() {
    let (here, alice, rogue) = besieged().await;
    let mallory = rogue.peer.user("mallory").await;
    let made = make(&rogue.peer, &here, "join", &rogue.room, mallory.id.as_str(), &[VERSION]).await.good();
    let (id, join) = completed(&rogue.peer, &made, |e| e["depth"] = json!(1000));
    let rule = async |alice: &User, rule: &str| {
        alice.sets(&rogue.room, "m.room.join_rules", "", json!({ "join_rule": rule })).await.good();
    };
    rule(&alice, "invite").await;
    rogue.sends(&here, vec![join.clone()]).await.good();
    rule(&alice, "public").await;
    let here = here.restarts().await;
    let alice = alice.on(&here);
    let path = format!("{V2}/send_join");
    send(&rogue.peer, &here, &path, &rogue.room, (id, join)).await.refused(403, "M_FORBIDDEN");
    assert!(member(&alice, &rogue.room, &mallory).await.is_null());
    let made = make(&rogue.peer, &here, "join", &rogue.room, mallory.id.as_str(), &[VERSION]).await.good();
    send(&rogue.peer, &here, &path, &rogue.room, completed(&rogue.peer, &made, |_| {})).await.good();
    assert_eq!(member(&alice, &rogue.room, &mallory).await, "join");
}

/// What is said between a template and the join was told to those who were there: who comes in is shown it.
#[tokio::test]
async fn who_comes_in_hears_what_was_said_on_the_way() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let told = there.keeps_transactions();
    let made = make(&there, &here, "join", &room, bob.id.as_str(), &["10"]).await.good();
    let between = alice.says(&room, "between").await;
    let (join, event) = completed(&there, &made, |_| {});
    send(&there, &here, &format!("{V2}/send_join"), &room, (join.clone(), event)).await.good();
    let shown = async {
        loop {
            let told = told();
            let events =
                told.as_array().unwrap().iter().flat_map(|t| t["pdus"].as_array().cloned().unwrap_or_default());
            let follows = |e: &Value, id: &str| e["prev_events"].as_array().unwrap().contains(&json!(id));
            if events.into_iter().any(|e| follows(&e, &between) && follows(&e, &join)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), shown).await.is_ok(), "{}", told());
    // Nobody is shown what says nothing.
    let sync = alice.syncs("").await;
    let last = joined(&sync, &room)["timeline"]["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["type"], &last["sender"]), (&json!("m.room.member"), &json!(bob.id)), "{sync}");
}

#[tokio::test]
async fn nobody_is_vouched_for_who_meets_no_condition() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let space = alice.opens().await;
    let restricted = |space: &str| {
        json!({
            "room_version": "10",
            "initial_state": [{ "type": "m.room.join_rules", "content": {
                "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }],
            } }],
        })
    };
    let room = alice.creates(restricted(&space)).await;
    let unknown = alice.creates(restricted("!unknown:x.org")).await;
    let bob_id = bob.id.as_str();
    make(&there, &here, "join", &room, bob_id, &["10"]).await.refused(403, "M_FORBIDDEN");
    make(&there, &here, "join", &unknown, bob_id, &["10"]).await.refused(400, "M_UNABLE_TO_AUTHORISE_JOIN");
    // The template of a room that lets anybody in is no way around it.
    let open = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let mut made = make(&there, &here, "join", &open, bob_id, &["10"]).await.good();
    let state = alice.in_room(&room, "state").await.good();
    let id_of = |kind: &str| {
        state.as_array().unwrap().iter().find(|e| e["type"] == kind).map(|e| e["event_id"].clone()).unwrap()
    };
    let auth = ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.member"].map(id_of);
    made["event"]["room_id"] = json!(room);
    made["event"]["auth_events"] = json!(auth);
    made["event"]["prev_events"] = json!([id_of("m.room.join_rules")]);
    made["event"]["content"]["join_authorised_via_users_server"] = json!(alice.id);
    let event = completed(&there, &made, |_| {});
    send(&there, &here, &format!("{V2}/send_join"), &room, event).await.refused(403, "M_FORBIDDEN");
    assert!(member(&alice, &room, &bob).await.is_null());
    // In the space, it is signed.
    super::joining::joins_through(&bob, &space, &[here.name().as_str()]).await.good();
    let made = make(&there, &here, "join", &room, bob_id, &["10"]).await.good();
    assert_eq!(made["event"]["content"]["join_authorised_via_users_server"], alice.id.as_str());
    let answer = send(&there, &here, &format!("{V2}/send_join"), &room, completed(&there, &made, |_| {})).await.good();
    let signatures = answer["event"]["signatures"].as_object().unwrap();
    assert!(signatures.contains_key(here.name().as_str()) && signatures.contains_key(there.name().as_str()));
    // Nobody of ours may let anybody in.
    let levels = json!({ "invite": 101, "users": { alice.id.as_str(): 100 } });
    let tight = json!({ "room_version": "10", "power_level_content_override": levels,
        "initial_state": restricted(&space)["initial_state"] });
    let tight = alice.creates(tight).await;
    make(&there, &here, "join", &tight, bob_id, &["10"]).await.refused(400, "M_UNABLE_TO_GRANT_JOIN");
}
