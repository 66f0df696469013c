//! Rooms of the first versions among servers: their ids and references, their looser numbers, their redactions, the keys
//! they take, and the state they find when histories meet.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hearth_rules::{
    Draft, RoomVersion,
    auth::auth_keys,
    event::{Pdu, redaction::redact},
    json::{Object, Value as Json, parse_object, write_object},
};
use http::Method;
use ruma::{OwnedRoomId, events::TimelineEventType};
use serde_json::{Value, json, value::RawValue};
use sha2::{Digest, Sha256};

use super::{
    joining::{joins_through, membership},
    support::{Peer, Peers},
};
use crate::support::{
    User,
    rooms::{encoded, txn},
};

/// Of each form and algorithm one: named ids and resolution of its own, the same with the newer resolution, hashes with
/// slashes in them, and keys that must be valid.
const VERSIONS: [&str; 4] = ["1", "2", "3", "5"];

/// An event as somebody sees it, once it is as it should be.
async fn seen(user: &User, room: &str, event: &str, as_it_should: impl Fn(&Value) -> bool) -> Value {
    let path = format!("event/{}", encoded(event));
    let found = async {
        let mut since = user.now().await;
        loop {
            let answer = user.in_room(room, &path).await;
            if answer.status == 200 && as_it_should(&answer.body) {
                return answer.body;
            }
            let news = user.syncs(&format!("timeout=2000&since={}", encoded(&since))).await;
            since = news["next_batch"].as_str().unwrap().to_owned();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("{event} does not come"))
}

/// Waits until somebody sees those words.
async fn hears(user: &User, room: &str, event: &str, words: &str) {
    seen(user, room, event, |e| e["content"]["body"] == words).await;
}

/// Waits until an event is redacted.
async fn forgets(user: &User, room: &str, event: &str) {
    seen(user, room, event, |e| e["content"] == json!({})).await;
}

#[tokio::test]
async fn old_rooms_work_between_servers() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    for version in VERSIONS {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version })).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        for n in 0..3 {
            let said = alice.says(&room, &format!("hello {n}")).await;
            assert_eq!(said.contains(':'), matches!(version, "1" | "2"), "{said}");
            hears(&bob, &room, &said, &format!("hello {n}")).await;
        }
        // What one said they take back themselves, whoever may redact.
        let said = bob.says(&room, "never mind").await;
        hears(&alice, &room, &said, "never mind").await;
        bob.redacts(&room, &said).await.good();
        forgets(&alice, &room, &said).await;
        // Others need the power.
        let said = bob.says(&room, "rude").await;
        hears(&alice, &room, &said, "rude").await;
        alice.redacts(&room, &said).await.good();
        forgets(&bob, &room, &said).await;

        alice.invites(&room, &carol).await.good();
        carol.joins(&room).await.good();
        alice.does_to(&room, "ban", &carol).await.good();
        let topic = alice.sets(&room, "m.room.topic", "", json!({ "topic": "T" })).await.good();
        seen(&bob, &room, topic["event_id"].as_str().unwrap(), |_| true).await;
        assert_eq!(membership(&bob, &room, &carol).await, "ban");
        carol.joins(&room).await.refused(403, "M_FORBIDDEN");
        bob.leaves(&room).await.good();
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        assert_eq!(bob.reads(&room, "m.room.topic", "").await.good()["topic"], "T", "version {version}");
    }
}

/// A message of a user of `of` placed at the end of a room of `at`, with a change that no draft could make: id and text.
async fn odd(at: &Peer, room: &str, of: &Peer, sender: &User, change: impl FnOnce(&mut Object)) -> (String, String) {
    let services = at.services();
    let room_id: OwnedRoomId = room.try_into().unwrap();
    let known = services.state.room(&room_id).await.unwrap();
    let version = RoomVersion::get(&known.version).unwrap();
    let content = json!({ "body": "odd", "msgtype": "m.text" });
    let ts = of.clock().now_ms();
    let draft = Draft::of(Some(room_id), sender.id.clone(), "m.room.message".into(), None, &content, ts).unwrap();
    let state = services.state.current(&known).await.unwrap();
    let mut auth = Vec::new();
    let kind = TimelineEventType::RoomMessage;
    for (kind, key) in auth_keys(version, &kind, &sender.id, None, draft.content_json()).unwrap() {
        if let Some(event) = services.state.entry(&state, &kind.to_string(), &key).await.unwrap() {
            auth.push(event.pdu.reference(version));
        }
    }
    let prev: Vec<_> = known.head.extremities.iter().map(|e| e.event.clone()).collect();
    let depth = known.head.depth.unsigned_abs() + 1;
    let signer = of.services().server_keys.signer();
    let plain = draft.build(version, &prev, depth, &auth, signer).unwrap();

    let text = |object: &Object| {
        let mut text = String::new();
        write_object(&mut text, object);
        text
    };
    // By a version that has any numbers: messages are redacted alike in all of these.
    let lax = RoomVersion::get("5").unwrap();
    let mut event = parse_object(plain.json(), lax.numbers()).unwrap();
    change(&mut event);
    event.remove("hashes");
    event.remove("signatures");
    let hash = STANDARD_NO_PAD.encode(Sha256::digest(text(&event)));
    event.insert("hashes".to_owned(), Json::Object(Object::from([("sha256".to_owned(), Json::from(hash.as_str()))])));
    let signature = signer.sign_text(&redact(&text(&event), lax).unwrap());
    let by_key = Object::from([(signer.key_id().to_owned(), Json::from(signature.as_str()))]);
    let by_server = Object::from([(signer.server_name().to_string(), Json::Object(by_key))]);
    event.insert("signatures".to_owned(), Json::Object(by_server));
    let json = text(&event);
    let id = Pdu::parse_remote(&json, version).map_or_else(|_| String::new(), |e| e.claimed().event_id().to_string());
    (id, json)
}

/// Puts a number into the content, spelled like this.
fn number(spelled: &str) -> impl FnOnce(&mut Object) {
    move |event| {
        if let Some(Json::Object(content)) = event.get_mut("content") {
            content.insert("n".to_owned(), Json::Number(spelled.into()));
        }
    }
}

/// Sends an event to another server; what that says of it.
async fn tells(from: &Peer, to: &Peer, pdu: &str) -> Value {
    // As text, since not every number survives a tree of values.
    let body = format!(r#"{{"origin":"{}","origin_server_ts":1,"pdus":[{pdu}]}}"#, from.name());
    let path = format!("/_matrix/federation/v1/send/{}", txn());
    from.calls_with(to, Method::PUT, &path, RawValue::from_string(body).unwrap()).await.good()["pdus"].clone()
}

#[tokio::test]
async fn loose_numbers_go_from_server_to_server() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    for version in ["1", "3", "5", "6"] {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version })).await;
        for user in [&bob, &carol] {
            joins_through(user, &room, &[here.name().as_str()]).await.good();
        }
        for spelled in ["1.5", "100000000000000000000000000000", "1e+16", "9007199254740992"] {
            let (id, json) = odd(&here, &room, &there, &bob, number(spelled)).await;
            if version == "6" {
                // No event of that version: not taken, and not the end of the transaction that carries it.
                let (good, fine) = odd(&here, &room, &there, &bob, |_| {}).await;
                let deep = fine.replace("\"odd\"", &("[".repeat(500) + &"]".repeat(500)));
                let all = format!("{json},{deep},{fine}");
                assert_eq!(tells(&there, &here, &all).await, json!({ good.as_str(): {} }));
                continue;
            }
            assert_eq!(tells(&there, &here, &json).await, json!({ id.as_str(): {} }), "version {version}, {spelled}");
            let path = format!("/_matrix/federation/v1/event/{}", encoded(&id));
            let answer = there.asks(&here, &path).await.good();
            let shown = answer["pdus"][0]["content"]["n"].to_string();
            assert_eq!(shown.parse::<f64>().unwrap(), spelled.parse::<f64>().unwrap(), "{answer}");
        }
        if version == "6" {
            continue;
        }
        // What comes after names them: who was not told gets them from here, whole, as their hashes hold.
        let said = alice.says(&room, "after").await;
        hears(&carol, &room, &said, "after").await;
        hears(&bob, &room, &said, "after").await;
        let page = carol.in_room(&room, "messages?dir=b&limit=30").await.good();
        let odd: Vec<&Value> =
            page["chunk"].as_array().unwrap().iter().filter(|e| e["content"]["body"] == "odd").collect();
        assert_eq!(odd.len(), 4, "version {version}: {page}");
    }
}

#[tokio::test]
async fn keys_must_be_valid_since_version_5() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    // No key is promised for as long as that.
    let later = there.clock().now_ms() + 1000 * 24 * 3600 * 1000;
    for (version, taken) in [("1", true), ("4", true), ("5", false), ("10", false)] {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version })).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        let dated = |event: &mut Object| {
            event.insert("origin_server_ts".to_owned(), Json::Number(later.to_string().into()));
        };
        let (id, json) = odd(&here, &room, &there, &bob, dated).await;
        let told = tells(&there, &here, &json).await;
        assert_eq!(told[&id] == json!({}), taken, "version {version}: {told}");
    }
}

#[tokio::test]
async fn ids_of_the_first_versions_belong_to_their_server() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "1" })).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let said = alice.says(&room, "mine").await;
    let named = |name: &str| {
        let name = name.to_owned();
        move |event: &mut Object| drop(event.insert("event_id".to_owned(), Json::String(name)))
    };
    // Names that another server would have to sign for, or nobody could.
    for name in [format!("$made-up:{}", here.name()), "$nobody".to_owned()] {
        let (_, json) = odd(&here, &room, &there, &bob, named(&name)).await;
        let told = tells(&there, &here, &json).await;
        assert!(told[&name]["error"].is_string(), "{told}");
    }
    // The name of an event that is there already changes nothing.
    let (_, json) = odd(&here, &room, &there, &bob, named(&said)).await;
    tells(&there, &here, &json).await;
    hears(&alice, &room, &said, "mine").await;
    let own = format!("$any-name:{}", there.name());
    let (_, json) = odd(&here, &room, &there, &bob, named(&own)).await;
    assert_eq!(tells(&there, &here, &json).await, json!({ own.as_str(): {} }));
    hears(&alice, &room, &own, "odd").await;
}
