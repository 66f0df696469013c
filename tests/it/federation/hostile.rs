//! A server that signs as it should and misbehaves in every other way: what it does costs it an answer, and nobody else
//! anything. It is a Hearth whose door answers as the test says ([`Peer::tricks`]) and whose events are made by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, stream};
use hearth_rules::{
    event::{Pdu, redaction::redact},
    json::{Object, Value as Json, parse_object, write_object},
    versions::RoomVersion,
};
use hearth_store::events::Standing;
use http::Method;
use ruma::{CanonicalJsonObject, EventId, RoomId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::support::{Peer, Peers, Told, Trick};
use crate::support::{
    User,
    rooms::{V3, encoded, txn},
};

pub const VERSION: &str = "11";
/// What an honest message may take beside anything.
const SWIFT: Duration = Duration::from_secs(10);

/// The misbehaving server with its user, in a room of the victim's.
pub struct Rogue {
    pub peer: Peer,
    pub eve: User,
    pub room: String,
}

/// An answer of JSON.
pub fn as_json(body: Value) -> impl IntoResponse {
    ([("content-type", "application/json")], body.to_string())
}

/// A server, its user Alice with a public room, and the misbehaving one in it.
pub async fn besieged() -> (Peer, User, Rogue) {
    let here = Peers::one(2, |plan| plan).await;
    let (alice, rogue) = besieges(&here).await;
    (here, alice, rogue)
}

/// A user of the server with a public room, and a misbehaving server in it.
pub async fn besieges(here: &Peer) -> (User, Rogue) {
    let peer = Peers::one(3, |plan| plan).await;
    let (alice, eve) = (here.user("alice").await, peer.user("eve").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": VERSION })).await;
    joins(&eve, &room, here).await;
    (alice, Rogue { peer, eve, room })
}

pub async fn joins(user: &User, room: &str, via: &Peer) {
    let path = format!("{V3}/join/{}?via={}", encoded(room), encoded(via.name().as_str()));
    user.post(&path, json!({})).await.good();
}

impl Rogue {
    /// A message as a good server would make it, not signed yet, on the victim's newest head.
    pub async fn message(&self, victim: &Peer, text: &str) -> Value {
        let store = &self.peer.services().store;
        let room_id = <&RoomId>::try_from(self.room.as_str()).unwrap();
        let room = store.room(store.room_nid(room_id).await.unwrap().unwrap()).await.unwrap().unwrap();
        let state = store.snapshot(room.head.snap).await.unwrap();
        let mut auth = Vec::new();
        for (kind, key) in [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", self.eve.id.as_str())]
        {
            let key = store.key_nid(kind, key).await.unwrap().unwrap();
            auth.push(store.event(state[&key]).await.unwrap().unwrap().event_id().to_owned());
        }
        let theirs = &victim.services().store;
        let head = theirs.room(theirs.room_nid(room_id).await.unwrap().unwrap()).await.unwrap().unwrap().head.clone();
        let prev: Vec<_> = head.extremities.iter().map(|e| e.event_id().to_owned()).collect();
        json!({
            "auth_events": auth, "prev_events": prev, "depth": head.depth + 1, "room_id": self.room,
            "sender": self.eve.id, "type": "m.room.message", "origin_server_ts": victim.clock().now_ms(),
            "content": { "msgtype": "m.text", "body": text },
        })
    }

    /// Hashes and signs an event as far as that is possible; gives its id where it has one.
    pub fn signed(&self, event: Value) -> (String, Value) {
        let version = RoomVersion::get(VERSION).unwrap();
        // What has no canonical form is sent as it is.
        let Ok(mut object) = parse_object(&event.to_string(), version.numbers()) else {
            return (String::new(), event);
        };
        let text = |object: &Object| {
            let mut text = String::new();
            write_object(&mut text, object);
            text
        };
        let signer = self.peer.services().server_keys.signer();
        object.remove("hashes");
        object.remove("signatures");
        let hash = STANDARD_NO_PAD.encode(Sha256::digest(text(&object)));
        object.insert(
            "hashes".to_owned(),
            Json::Object(Object::from([("sha256".to_owned(), Json::from(hash.as_str()))])),
        );
        let signature = signer.sign_text(&redact(&text(&object), version).unwrap());
        let by_key = Object::from([(signer.key_id().to_owned(), Json::from(signature.as_str()))]);
        let by_server = Object::from([(signer.server_name().to_string(), Json::Object(by_key))]);
        object.insert("signatures".to_owned(), Json::Object(by_server));
        let json = text(&object);
        let id = Pdu::parse_remote(&json, version).map(|e| e.claimed().event_id().to_string()).unwrap_or_default();
        (id, serde_json::from_str(&json).unwrap())
    }

    pub async fn sends(&self, victim: &Peer, pdus: Vec<Value>) -> Told {
        let body = json!({ "origin": self.peer.name(), "origin_server_ts": 1, "pdus": pdus });
        self.peer.calls(victim, Method::PUT, &format!("/_matrix/federation/v1/send/{}", txn()), Some(body)).await
    }
}

/// Answers of this kind to every question whose path has one of these in it.
pub fn answers(
    parts: &'static [&'static str],
    make: impl Fn() -> BoxFuture<'static, Response> + Send + Sync + 'static,
) -> Trick {
    Arc::new(move |path| parts.iter().any(|part| path.contains(part)).then(&make))
}

pub fn refused(status: u16) -> BoxFuture<'static, Response> {
    let status = http::StatusCode::from_u16(status).unwrap();
    let body = json!({ "errcode": "M_NOT_FOUND", "error": "no" });
    async move { (status, as_json(body)).into_response() }.boxed()
}

const ABOUT_ROOMS: &[&str] = &["get_missing_events", "/state_ids/", "/state/", "/event/", "/event_auth/", "/backfill/"];

/// What Alice is shown of her room, newest first.
pub async fn shown(alice: &User, room: &str) -> Vec<String> {
    let events = alice.reads_all(room, None, 100).await;
    events.iter().filter_map(|e| e["content"]["body"].as_str().map(str::to_owned)).collect()
}

/// Waits until somebody is shown a message with that text.
pub async fn hears(user: &User, room: &str, text: &str) {
    let mut since = String::new();
    let heard = async {
        loop {
            let sync = user.get(&format!("{V3}/sync?timeout=3000{since}")).await.good();
            let timeline = &sync["rooms"]["join"][room]["timeline"]["events"];
            if timeline.as_array().into_iter().flatten().any(|e| e["content"]["body"] == text) {
                return;
            }
            since = format!("&since={}", encoded(sync["next_batch"].as_str().unwrap()));
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), heard).await.is_ok(), "{text} never came");
}

/// Waits until somebody sees that another is in a room.
async fn hears_of(user: &User, room: &str, whom: &User) {
    let seen = async {
        while user.in_room(room, "joined_members").await.good()["joined"][whom.id.as_str()].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), seen).await.is_ok(), "{} never came", whom.id);
}

#[tokio::test]
async fn bad_events_of_a_transaction_cost_only_themselves() {
    let (here, alice, rogue) = besieged().await;
    let other_room = alice.opens().await;
    let with = async |change: &dyn Fn(&mut Value)| {
        let mut event = rogue.message(&here, "bad").await;
        change(&mut event);
        rogue.signed(event).1
    };
    let id = "$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut bad = vec![
        json!({}),
        json!({ "room_id": rogue.room }),
        json!({ "room_id": 5 }),
        json!([]),
        json!("x"),
        with(&|e| e["depth"] = json!(-1)).await,
        with(&|e| e["depth"] = json!("1")).await,
        with(&|e| e["origin_server_ts"] = json!(-5)).await,
        with(&|e| e["origin_server_ts"] = Value::Null).await,
        with(&|e| e["content"] = json!("text")).await,
        with(&|e| e["content"] = json!(["text"])).await,
        with(&|e| e["content"]["body"] = json!("x".repeat(70_000))).await,
        with(&|e| e["type"] = json!("t".repeat(300))).await,
        with(&|e| e["type"] = json!(5)).await,
        with(&|e| e["state_key"] = json!("k".repeat(300))).await,
        with(&|e| e["state_key"] = json!({})).await,
        with(&|e| e["sender"] = json!("eve")).await,
        with(&|e| e["sender"] = json!(alice.id)).await,
        with(&|e| e["sender"] = json!("@nobody:elsewhere.test")).await,
        with(&|e| e["room_id"] = json!("!unknown:elsewhere.test")).await,
        with(&|e| e["prev_events"] = json!(vec![id; 21])).await,
        with(&|e| e["prev_events"] = json!([5])).await,
        with(&|e| e["prev_events"] = json!({ "a": 1 })).await,
        with(&|e| e["auth_events"] = json!(vec![id; 11])).await,
        with(&|e| e["auth_events"] = json!([id])).await,
    ];
    // What has good form and signatures is taken in and rejected, which is no news to who sends it.
    let elsewhere = with(&|e| e["room_id"] = json!(other_room)).await;
    let not_allowed = vec![
        with(&|e| e["auth_events"] = json!([])).await,
        with(&|e| {
            e["type"] = json!("m.room.member");
            e["state_key"] = json!(alice.id);
            e["content"] = json!({ "membership": "ban" });
        })
        .await,
        with(&|e| {
            e["type"] = json!("m.room.create");
            e["state_key"] = json!("");
        })
        .await,
        with(&|e| {
            e["type"] = json!("m.room.power_levels");
            e["state_key"] = json!("");
            e["content"] = json!({ "users": { rogue.eve.id.as_str(): 100 } });
        })
        .await,
    ];
    // Signed by nobody, and with a signature of something else.
    let mut unsigned = rogue.message(&here, "bad").await;
    unsigned["hashes"] = json!({ "sha256": "AAAA" });
    unsigned["signatures"] = json!({});
    bad.push(unsigned);
    let mut forged = rogue.signed(rogue.message(&here, "bad").await).1;
    forged["depth"] = json!(forged["depth"].as_i64().unwrap() + 1);
    bad.push(forged);
    // Nobody asks a server for what it does not have.
    rogue.peer.tricks(Some(answers(ABOUT_ROOMS, || refused(404))));
    let (good, event) = rogue.signed(rogue.message(&here, "good").await);
    bad.insert(7, event);
    let told = rogue.sends(&here, bad).await.good();
    assert_eq!(told["pdus"][&good], json!({}), "{told}");
    // What has an id is named, whatever else is wrong with it.
    assert!(told["pdus"].as_object().unwrap().len() >= 20, "{told}");
    let fine: Vec<_> = told["pdus"].as_object().unwrap().values().filter(|v| v.get("error").is_none()).collect();
    // What stands on what nobody gives is waited for.
    assert_eq!(fine.len(), 2, "{told}");
    let told = rogue.sends(&here, not_allowed.clone()).await.good();
    assert!(told["pdus"].as_object().unwrap().values().all(|answer| *answer == json!({})), "{told}");
    // Nor does it hinder anything when it is told again.
    let (_, event) = rogue.signed(rogue.message(&here, "better").await);
    let again = not_allowed.into_iter().chain([event]).collect();
    let told = rogue.sends(&here, again).await.good();
    assert_eq!(told["pdus"].as_object().unwrap().len(), 5, "{told}");
    assert!(told["pdus"].as_object().unwrap().values().all(|answer| *answer == json!({})), "{told}");
    let told = rogue.sends(&here, vec![elsewhere]).await.good();
    assert!(told["pdus"].as_object().unwrap().values().all(|answer| *answer == json!({})), "{told}");
    // One whose content is not what was hashed is a redacted one.
    let (changed, mut event) = rogue.signed(rogue.message(&here, "hashed").await);
    event["content"]["body"] = json!("changed");
    rogue.sends(&here, vec![event]).await.good();
    let seen = alice.in_room(&rogue.room, &format!("event/{}", encoded(&changed))).await.good();
    assert_eq!(seen["content"], json!({}));
    assert_eq!(shown(&alice, &rogue.room).await, ["better", "good"]);
    alice.says(&rogue.room, "still here").await;
    alice.says(&other_room, "here too").await;
    let levels = alice.reads(&rogue.room, "m.room.power_levels", "").await.good();
    assert!(levels["users"].get(rogue.eve.id.as_str()).is_none());
}

#[tokio::test]
async fn what_was_refused_may_come_again() {
    let (here, alice, rogue) = besieged().await;
    let mut event = rogue.message(&here, "refused").await;
    event["auth_events"] = json!([]);
    let (refused, event) = rogue.signed(event);
    rogue.sends(&here, vec![event.clone()]).await.good();
    // Memory has nothing of it any more, and it lies deeper than the room.
    let here = here.restarts().await;
    let (good, news) = rogue.signed(rogue.message(&here, "good").await);
    let told = rogue.sends(&here, vec![event.clone(), news]).await.good();
    assert_eq!(told["pdus"], json!({ refused.as_str(): {}, good.as_str(): {} }));
    let told = rogue.sends(&here, vec![event]).await.good();
    assert_eq!(told["pdus"], json!({ refused.as_str(): {} }));
    assert_eq!(shown(&alice.on(&here), &rogue.room).await, ["good"]);
}

#[tokio::test]
async fn a_server_that_never_answers_keeps_nobody_waiting() {
    let (here, alice, rogue) = besieged().await;
    let honest = Peers::one(4, |plan| plan).await;
    let carol = honest.user("carol").await;
    joins(&carol, &rogue.room, &here).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Answers that have no end: a byte, and then nothing.
    rogue.peer.tricks(Some(answers(ABOUT_ROOMS, move || {
        count.fetch_add(1, Ordering::Relaxed);
        let drip = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{")) });
        let body = Body::from_stream(futures_util::StreamExt::chain(drip, stream::pending()));
        async move { Response::new(body) }.boxed()
    })));
    let mut event = rogue.message(&here, "from nowhere").await;
    event["prev_events"] = json!(["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]);
    let (_, event) = rogue.signed(event);
    let (evil, victim) = (rogue.peer.clone(), here.clone());
    let body = json!({ "origin": evil.name(), "origin_server_ts": 1, "pdus": [event] });
    let mut sending =
        tokio::spawn(
            async move { evil.calls(&victim, Method::PUT, "/_matrix/federation/v1/send/slow", Some(body)).await },
        );
    let begun = async {
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), begun).await.unwrap();
    // While that goes on, the same room goes on for everybody else, and so do others.
    let begun = Instant::now();
    carol.says(&rogue.room, "an honest word").await;
    hears(&alice, &rogue.room, "an honest word").await;
    alice.says(&rogue.room, "and an answer").await;
    hears(&carol, &rogue.room, "and an answer").await;
    assert!(begun.elapsed() < SWIFT, "{:?}", begun.elapsed());
    assert!((&mut sending).now_or_never().is_none(), "the slow one is not over yet");
    sending.abort();
    assert!(asked.load(Ordering::Relaxed) < 10);
}

#[tokio::test]
async fn ways_without_end_are_not_followed_for_ever() {
    let (here, alice, rogue) = besieged().await;
    let rogue = Arc::new(rogue);
    let template = rogue.message(&here, "on and on").await;
    let asked = Arc::new(AtomicUsize::new(0));
    // Each missing event that it tells of has another before it.
    let (count, made, from) = (asked.clone(), rogue.clone(), template.clone());
    rogue.peer.tricks(Some(Arc::new(move |path| {
        if !ABOUT_ROOMS.iter().any(|part| path.contains(part)) {
            return None;
        }
        let n = count.fetch_add(1, Ordering::Relaxed);
        if !path.contains("get_missing_events") {
            return Some(refused(404));
        }
        let mut event = from.clone();
        event["prev_events"] = json!([format!("$a{n:042}")]);
        let (_, event) = made.signed(event);
        Some(async move { as_json(json!({ "events": [event] })).into_response() }.boxed())
    })));
    let mut event = template.clone();
    event["prev_events"] = json!(["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]);
    let (_, event) = rogue.signed(event);
    assert_eq!(rogue.sends(&here, vec![event]).await.status, 200);
    let bounded = asked.load(Ordering::Relaxed);
    assert!(bounded < 100, "{bounded} questions for one event");
    // Rubbish for answers, and redirects.
    for (n, make) in [
        || async { "rubbish".into_response() }.boxed(),
        || async { as_json(json!({ "events": 5, "pdu_ids": {}, "auth_chain": "x" })).into_response() }.boxed(),
        || async { axum::response::Redirect::to("/_matrix/federation/v1/version").into_response() }.boxed(),
        || refused(500),
    ]
    .into_iter()
    .enumerate()
    {
        rogue.peer.tricks(Some(answers(ABOUT_ROOMS, make)));
        let mut event = template.clone();
        event["prev_events"] = json!([format!("$b{n:042}")]);
        event["auth_events"] = json!([format!("$c{n:042}")]);
        let (_, event) = rogue.signed(event);
        assert_eq!(rogue.sends(&here, vec![event]).await.status, 200);
    }
    rogue.peer.tricks(None);
    alice.says(&rogue.room, "over").await;
    assert_eq!(shown(&alice, &rogue.room).await[0], "over");
}

#[tokio::test]
async fn what_was_before_our_time_is_no_news() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (there.user("alice").await, here.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": VERSION })).await;
    joins(&bob, &room, &there).await;
    hears_of(&alice, &room, &bob).await;
    // Whoever is in stays in, but nobody could come any more.
    alice.sets(&room, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await.good();
    alice.says(&room, "closed").await;
    hears(&bob, &room, "closed").await;
    let state = |user: User, room: String| async move {
        let state = user.in_room(&room, "state").await.good();
        state.as_array().unwrap().iter().map(|e| e["event_id"].to_string()).collect::<Vec<_>>()
    };
    let before = state(bob.clone(), room.clone()).await;
    // The room's first events again, as they are, and beside what lies between.
    let events = alice.reads_all(&room, None, 100).await;
    let store = &there.services().store;
    let mut first: Vec<Value> = Vec::new();
    for event in events.iter().rev().take(3) {
        let id = <&EventId>::try_from(event["event_id"].as_str().unwrap()).unwrap();
        first.push(serde_json::from_str(store.event_by_id(id).await.unwrap().unwrap().pdu.json()).unwrap());
    }
    let rogue = Rogue { peer: there, eve: alice, room };
    for event in &first {
        let told = rogue.sends(&here, vec![event.clone()]).await.good();
        assert!(told.to_string().contains("older than"), "{told}");
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let (id, one) = rogue.signed(rogue.message(&here, "between").await);
    let (missing, count) = ([first, vec![one]].concat(), asked.clone());
    rogue.peer.tricks(Some(answers(&["get_missing_events"], move || {
        count.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "events": missing });
        async { as_json(body).into_response() }.boxed()
    })));
    let mut event = rogue.message(&here, "after it").await;
    event["prev_events"] = json!([id]);
    event["depth"] = json!(event["depth"].as_u64().unwrap() + 1);
    let told = rogue.sends(&here, vec![rogue.signed(event).1]).await.good();
    assert!(asked.load(Ordering::Relaxed) > 0, "{told}");
    rogue.peer.tricks(None);
    assert_eq!(shown(&bob, &rogue.room).await[..2], ["after it", "between"]);
    bob.says(&rogue.room, "still here").await;
    hears(&rogue.eve, &rogue.room, "still here").await;
    assert_eq!(state(bob.clone(), rogue.room.clone()).await, before);
}

#[tokio::test]
async fn many_branches_are_brought_together_quietly() {
    let (here, alice, rogue) = besieged().await;
    let template = rogue.message(&here, "").await;
    for part in 0..3 {
        let mut pdus = Vec::new();
        for n in 0..15 {
            let mut event = template.clone();
            event["content"]["body"] = json!(format!("{part} {n}"));
            pdus.push(rogue.signed(event).1);
        }
        rogue.sends(&here, pdus).await.good();
    }
    let store = &here.services().store;
    let nid = store.room_nid(<&RoomId>::try_from(rogue.room.as_str()).unwrap()).await.unwrap().unwrap();
    let room = store.room(nid).await.unwrap().unwrap();
    assert!(room.head.extremities.len() <= 10, "{}", room.head.extremities.len());
    assert!(here.was_asked_for("/send/") > 0);
    // The event that did it is shown to nobody.
    let events = alice.reads_all(&rogue.room, None, 100).await;
    assert_eq!(events.iter().filter(|e| e["content"]["body"].is_string()).count(), 45);
    assert!(events.iter().all(|e| e["type"] != "org.matrix.dummy_event"), "{events:?}");
    let id = alice.says(&rogue.room, "together").await;
    let event = store.event_by_id(<&EventId>::try_from(id.as_str()).unwrap()).await.unwrap().unwrap();
    assert!(event.pdu.prev_events().len() <= 20);
    // The other server, which asks for what it was not sent, follows.
    hears(&rogue.eve, &rogue.room, "together").await;
}

#[tokio::test]
async fn a_redaction_may_come_before_what_it_redacts() {
    let (here, alice, rogue) = besieged().await;
    let (target, said) = rogue.signed(rogue.message(&here, "a secret").await);
    let mut redaction = rogue.message(&here, "").await;
    redaction["type"] = json!("m.room.redaction");
    redaction["content"] = json!({ "redacts": target });
    redaction["prev_events"] = json!([target]);
    let (_, redaction) = rogue.signed(redaction);
    rogue.peer.tricks(Some(answers(ABOUT_ROOMS, || refused(404))));
    let told = rogue.sends(&here, vec![redaction]).await.good();
    assert!(told["pdus"].as_object().unwrap().values().all(|v| *v == json!({})), "{told}");
    let told = rogue.sends(&here, vec![said]).await.good();
    assert_eq!(told["pdus"][&target], json!({}));
    // The redaction is tried again as soon as what it follows has come.
    let redacted = async {
        while alice.in_room(&rogue.room, &format!("event/{}", encoded(&target))).await.good()["content"] != json!({}) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), redacted).await.is_ok(), "it is still shown");
    let store = &here.services().store;
    let event = store.event_by_id(<&EventId>::try_from(target.as_str()).unwrap()).await.unwrap().unwrap();
    assert!(event.standing == Standing::Live && event.redacted_by.is_some());
}

#[tokio::test]
async fn what_others_have_is_redacted_before_it_comes() {
    let (here, alice, rogue) = besieged().await;
    let carol = here.user("carol").await;
    carol.joins(&rogue.room).await.good();
    let (target, said) = rogue.signed(rogue.message(&here, "a secret").await);
    carol.redacts(&rogue.room, &target).await.refused(404, "M_NOT_FOUND");
    let redaction = alice.redacts(&rogue.room, &target).await.good();
    let redaction = redaction["event_id"].as_str().unwrap();
    // It is told to those who may have what it is about.
    let told = async {
        while !rogue.eve.in_room(&rogue.room, &format!("event/{}", encoded(redaction))).await.status.is_success() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    rogue.sends(&here, vec![said]).await.good();
    let seen = alice.in_room(&rogue.room, &format!("event/{}", encoded(&target))).await.good();
    assert_eq!(seen["content"], json!({}), "{seen}");
    assert_eq!(seen["unsigned"]["redacted_because"]["event_id"], redaction);
}

#[tokio::test]
async fn an_invite_taken_back_is_gone() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "private_chat", "room_version": VERSION })).await;
    alice.invites(&room, &bob).await.good();
    let sync = bob.syncs("").await;
    assert!(sync["rooms"]["invite"][room.as_str()].is_object(), "{sync}");
    let mut since = sync["next_batch"].as_str().unwrap().to_owned();
    alice.does_to(&room, "kick", &bob).await.good();
    let gone = async {
        loop {
            let sync = bob.get(&format!("{V3}/sync?timeout=3000&since={}", encoded(&since))).await.good();
            if sync["rooms"]["leave"][room.as_str()].is_object() {
                return;
            }
            sync["next_batch"].as_str().unwrap().clone_into(&mut since);
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), gone).await.is_ok(), "bob is still invited");
    assert!(bob.syncs("").await["rooms"]["invite"].get(room.as_str()).is_none());
}

#[tokio::test]
async fn keys_that_are_no_keys_prove_nothing() {
    let [here, rogue] = Peers::two().await;
    let alice = here.user("alice").await;
    let document = |change: fn(&mut Value)| -> Value {
        let mut keys: Value = serde_json::from_slice(&rogue.services().server_keys.document().unwrap()).unwrap();
        change(&mut keys);
        keys.as_object_mut().unwrap().remove("signatures");
        let mut object: CanonicalJsonObject = serde_json::from_value(keys).unwrap();
        rogue.services().server_keys.signer().sign_json(&mut object).unwrap();
        serde_json::to_value(&object).unwrap()
    };
    let documents = [
        document(|d| d["valid_until_ts"] = json!(1)),
        document(|d| d["server_name"] = json!("elsewhere.test")),
        document(|d| d["verify_keys"] = json!({})),
        document(|d| d["verify_keys"] = json!(5)),
        document(|d| {
            for n in 0..20_000 {
                d["old_verify_keys"][format!("ed25519:k{n}")] = json!({ "expired_ts": 1, "key": "x".repeat(43) });
            }
        }),
        json!([]),
    ];
    for wrong in documents {
        let wrong = Arc::new(wrong);
        rogue.tricks(Some(Arc::new(move |path| {
            let wrong = wrong.clone();
            path.contains("/key/").then(|| async move { as_json((*wrong).clone()).into_response() }.boxed())
        })));
        // A victim that has never heard of it.
        let victim = Peers::one(5, |plan| plan).await;
        let told = rogue.asks(&victim, "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Alocalhost").await;
        told.refused(401, "M_UNAUTHORIZED");
        assert!(rogue.was_asked_for("/key/") <= 20);
    }
    rogue.tricks(None);
    rogue
        .asks(&here, &format!("/_matrix/federation/v1/query/profile?user_id={}", encoded(alice.id.as_str())))
        .await
        .good();
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let (here, alice, rogue) = besieged().await;
    // An invite that shows ten thousand events of the room.
    let shown: Vec<Value> = (0..10_000)
        .map(|n| json!({ "type": "x", "state_key": n.to_string(), "sender": rogue.eve.id, "content": {} }))
        .collect();
    let mut invite = rogue.message(&here, "").await;
    invite["type"] = json!("m.room.member");
    invite["state_key"] = json!(alice.id);
    invite["content"] = json!({ "membership": "invite" });
    let elsewhere = rogue.eve.creates(json!({ "room_version": VERSION })).await;
    invite["room_id"] = json!(elsewhere);
    let (id, invite) = rogue.signed(invite);
    let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(&elsewhere), encoded(&id));
    let body = json!({ "event": invite, "room_version": VERSION, "invite_room_state": shown });
    let told = rogue.peer.calls(&here, Method::PUT, &path, Some(body)).await;
    assert!((400..500).contains(&told.status), "{told:?}");
    // EDUs by the hundred about rooms it is not in.
    let typing = json!({ "edu_type": "m.typing", "content": {
        "room_id": "!elsewhere:elsewhere.test", "user_id": rogue.eve.id, "typing": true } });
    let receipts: Value = (0..300)
        .map(|n| {
            (
                format!("!r{n}:elsewhere.test"),
                json!({ "m.read": {
        rogue.eve.id.as_str(): { "data": { "ts": 1 }, "event_ids": ["$x"] } } }),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut edus = vec![typing; 50];
    edus.extend(vec![json!({ "edu_type": "m.receipt", "content": receipts }); 49]);
    let begun = Instant::now();
    for _ in 0..5 {
        let body = json!({ "origin": rogue.peer.name(), "origin_server_ts": 1, "pdus": [], "edus": edus });
        let path = format!("/_matrix/federation/v1/send/{}", txn());
        rogue.peer.calls(&here, Method::PUT, &path, Some(body)).await.good();
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // A list of servers kept out as long as an event can be: the room goes on.
    let deny: Vec<String> = (0..2_000).map(|n| format!("*{n}*.*evil*.test")).collect();
    let acl = json!({ "allow": ["*"], "deny": deny, "allow_ip_literals": true });
    alice.sets(&rogue.room, "m.room.server_acl", "", acl).await.good();
    let begun = Instant::now();
    for n in 0..10 {
        let told = rogue.sends(&here, vec![rogue.signed(rogue.message(&here, &n.to_string()).await).1]).await.good();
        assert!(told["pdus"].as_object().unwrap().values().all(|v| *v == json!({})), "{told}");
    }
    assert!(begun.elapsed() < SWIFT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_file_without_end_is_cut_off() {
    let [here, rogue] = Peers::two().await;
    let alice = here.user("alice").await;
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    rogue.tricks(Some(answers(&["/media/"], move || {
        let count = count.clone();
        let head = "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: image/png\r\n\r\n";
        let first = stream::once(async move { Ok::<_, std::io::Error>(Bytes::from(head)) });
        let more = stream::repeat_with(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::from(vec![0; 1 << 16]))
        });
        let body = Body::from_stream(futures_util::StreamExt::chain(first, more));
        async move {
            let kind = [("content-type", "multipart/mixed; boundary=b")];
            (kind, body).into_response()
        }
        .boxed()
    })));
    let path = format!("/_matrix/client/v1/media/download/{}/endless", rogue.name());
    let answer = tokio::time::timeout(Duration::from_secs(40), alice.get(&path)).await.expect("it ends");
    assert!(matches!(answer.status.as_u16(), 404 | 413 | 502), "{answer:?}");
    let pieces = given.load(Ordering::Relaxed);
    assert!(pieces < 4_000, "{pieces} pieces of 64 KiB were taken");
    alice.syncs("").await;
}

/// Whoever makes one wish for more, and gives nothing of use, is not asked for ever.
#[tokio::test]
async fn who_tells_nothing_of_use_is_asked_less() {
    let here = Peers::one(2, |plan| plan.services(|s| s.federation.held.first = Duration::from_secs(3600))).await;
    let (alice, rogue) = besieges(&here).await;
    let honest = rogue.signed(rogue.message(&here, "honest").await).1;
    let mut junk = Vec::new();
    for n in 0..100 {
        let mut event = rogue.message(&here, "junk").await;
        event["prev_events"] = json!([format!("${n:043}")]);
        junk.push(rogue.signed(event).1);
    }
    let mut event = rogue.message(&here, "lost").await;
    event["prev_events"] = json!([format!("${:043}", 1_000)]);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let nonsense: Trick = Arc::new(move |path: &str| {
        let about = ["get_missing_events", "/state_ids/", "/state/", "/event/", "/event_auth/"];
        let part = *about.iter().find(|part| path.contains(**part))?;
        let n = count.fetch_add(1, Ordering::Relaxed);
        let body = match part {
            "get_missing_events" => {
                let told: Vec<Value> = junk.iter().cycle().skip(n * 20).take(20).cloned().collect();
                json!({ "events": told })
            }
            "/state_ids/" => {
                let ids: Vec<String> = (0..30).map(|i| format!("${:043}", 10_000 + n * 30 + i)).collect();
                json!({ "pdu_ids": ids, "auth_chain_ids": [] })
            }
            _ => return Some(refused(404)),
        };
        Some(async { as_json(body).into_response() }.boxed())
    });
    rogue.peer.tricks(Some(nonsense));
    rogue.sends(&here, vec![rogue.signed(event).1]).await.good();
    let first = asked.load(Ordering::Relaxed);
    assert!((2..150).contains(&first), "asked {first} times for one event");
    rogue.peer.tricks(None);
    rogue.sends(&here, vec![honest]).await.good();
    hears(&alice, &rogue.room, "honest").await;
}

/// What an answer costs its server waits for before it asks again; others do not.
#[tokio::test]
async fn who_asks_what_is_dear_waits_and_nobody_else() {
    let here = Peers::one(2, |plan| {
        plan.services(|s| {
            s.gate.concurrent = 1;
            s.gate.budget = hearth_service::federation::budget::Settings { burst: Duration::ZERO, share: 1_000_000 };
        })
    })
    .await;
    let asker = async |last| Peers::one(last, |plan| plan).await;
    let alice = here.user("alice").await;
    let questions = [
        (3, "/_matrix/federation/v1/publicRooms".to_owned(), None),
        (4, format!("/_matrix/federation/v1/query/profile?user_id={}", encoded(alice.id.as_str())), None),
        (
            5,
            "/_matrix/federation/v1/user/keys/query".to_owned(),
            Some(json!({ "device_keys": { alice.id.as_str(): [] } })),
        ),
    ];
    for (last, path, body) in questions {
        let (peer, method) = (asker(last).await, if body.is_some() { Method::POST } else { Method::GET });
        peer.calls(&here, method.clone(), &path, body.clone()).await.good();
        let again = tokio::time::timeout(Duration::from_secs(3), peer.calls(&here, method, &path, body)).await;
        assert!(again.is_err(), "{path} was answered at once: {again:?}");
    }
}

/// What leans on an event of another room is rejected, and what follows it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_another_room_allows_nothing() {
    for here in [Some(Peers::one(2, |plan| plan).await), Peers::on_postgres(2).await].into_iter().flatten() {
        let (alice, rogue) = besieges(&here).await;
        let elsewhere = alice.creates(json!({ "preset": "public_chat", "room_version": VERSION })).await;
        joins(&rogue.eve, &elsewhere, &here).await;
        let other = Rogue { peer: rogue.peer.clone(), eve: rogue.eve.clone(), room: elsewhere };
        let foreign = other.message(&here, "").await["auth_events"][2].clone();
        let mut bad = rogue.message(&here, "bad").await;
        bad["auth_events"][2] = foreign;
        let (bad_id, bad) = rogue.signed(bad);
        let told = rogue.sends(&here, vec![bad]).await.good();
        assert_eq!(told["pdus"][&bad_id], json!({}), "{told}");
        assert_eq!(rogue.peer.was_asked_for("/event_auth/"), 0, "what is known is not asked for");
        let mut after = rogue.message(&here, "after").await;
        after["prev_events"] = json!([bad_id]);
        rogue.sends(&here, vec![rogue.signed(after).1]).await.good();
        hears(&alice, &rogue.room, "after").await;
        assert_eq!(shown(&alice, &rogue.room).await, ["after"]);
    }
}

/// As an auth event or a predecessor that nobody sent, too.
#[tokio::test]
async fn a_member_by_an_event_of_another_room_is_none() {
    let (here, alice, rogue) = besieged().await;
    let elsewhere = alice.creates(json!({ "preset": "public_chat", "room_version": VERSION })).await;
    let mallory = rogue.peer.user("mallory").await;
    joins(&mallory, &elsewhere, &here).await;
    let other = Rogue { peer: rogue.peer.clone(), eve: mallory.clone(), room: elsewhere };
    let foreign = other.message(&here, "").await["auth_events"][2].clone();
    let head = rogue.message(&here, "").await;
    let on = |before: &Value, allows: &Value, change: &dyn Fn(&mut Value)| {
        let mut event = head.clone();
        (event["prev_events"], event["auth_events"][2]) = (before.clone(), allows.clone());
        change(&mut event);
        rogue.signed(event)
    };
    let (q_id, q) = on(&head["prev_events"], &foreign, &|e| {
        (e["sender"], e["state_key"], e["type"]) = (json!(mallory.id), json!(mallory.id), json!("m.room.member"));
        e["content"] = json!({ "membership": "join" });
    });
    let (r_id, r) = on(&json!([q_id]), &json!(q_id), &|e| e["sender"] = json!(mallory.id));
    let (_, s) = on(&json!([r_id]), &head["auth_events"][2], &|e| e["content"]["body"] = json!("good"));
    let path = format!("/_matrix/federation/v1/state_ids/{}", encoded(&rogue.room));
    let last = head["prev_events"][0].as_str().unwrap();
    let state = rogue.peer.asks(&here, &format!("{path}?event_id={}", encoded(last))).await.good();
    // The state after the newest event, which is the join of Eve.
    let mut ids = state["pdu_ids"].as_array().unwrap().clone();
    ids.push(json!(last));
    let ids = json!({ "pdu_ids": ids, "auth_chain_ids": [foreign] });
    rogue.peer.tricks(Some(Arc::new(move |path| {
        let of_q = path.ends_with(&*q_id) || path.ends_with(&*encoded(&q_id));
        let body = match path {
            path if path.contains("/get_missing_events/") => json!({ "events": [r] }),
            path if path.contains("/event/") && of_q => json!({ "origin": "x", "origin_server_ts": 1, "pdus": [q] }),
            path if path.contains("/state_ids/") => ids.clone(),
            path if path.contains("/event/") || path.contains("/event_auth/") => return Some(refused(404)),
            _ => return None,
        };
        Some(async move { as_json(body).into_response() }.boxed())
    })));
    rogue.sends(&here, vec![s]).await.good();
    hears(&alice, &rogue.room, "good").await;
    assert_eq!(shown(&alice, &rogue.room).await, ["good"]);
    alice.reads(&rogue.room, "m.room.member", mallory.id.as_str()).await.refused(404, "M_NOT_FOUND");
}

/// Who is kept out of a room is told so of each event, as of any question.
#[tokio::test]
async fn who_is_kept_out_is_told_so() {
    let (here, alice, rogue) = besieged().await;
    let path = format!("/_matrix/federation/v1/get_missing_events/{}", encoded(&rogue.room));
    // Nothing lies between no events.
    assert_eq!(rogue.peer.posts(&here, &path, json!({})).await.good(), json!({ "events": [] }));
    let (id, event) = rogue.signed(rogue.message(&here, "kept out").await);
    let host = rogue.peer.name().host();
    alice.sets(&rogue.room, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": [host] })).await.good();
    let told = rogue.sends(&here, vec![event]).await.good();
    assert_eq!(told["pdus"][&id]["errcode"], "M_FORBIDDEN", "{told}");
    assert!(told["pdus"][&id]["error"].is_string(), "{told}");
    rogue.peer.posts(&here, &path, json!({})).await.refused(403, "M_FORBIDDEN");
    // Where a list names the host of servers, it may mean another one on it.
    let host = here.name().host();
    alice.sets(&rogue.room, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": [host] })).await.good();
}
