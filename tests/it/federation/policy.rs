//! Rooms whose events a policy server is to sign (server-server API, "Policy Servers"): a server of its own that signs what
//! has no `spam` in it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use hearth_rules::{
    Signer,
    event::redaction::redact,
    json::{parse_object, write_object},
    versions::RoomVersion,
};
use ruma::OwnedEventId;
use serde_json::{Value, json};

use super::{
    hostile::{Rogue, as_json, besieged, hears, joins, shown},
    joining::membership,
    support::{Peer, Peers},
};
use crate::support::{User, rooms::txn};

/// The policy server: a homeserver with a user in the room, and another key to sign with.
struct Guard {
    peer: Peer,
    user: User,
    signer: Arc<Signer>,
    /// Events that it was asked about.
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<Value>>>;

impl Guard {
    /// Comes into the room; nobody asks it yet.
    async fn joins(last: u8, room: &str, via: &Peer) -> Self {
        let peer = Peers::one(last, |plan| plan).await;
        let signer = Arc::new(Signer::new(peer.name().to_owned(), &[last; 32], "policy_server").unwrap());
        let user = peer.user("guard").await;
        joins(&user, room, via).await;
        let guard = Self { peer, user, signer, asked: Asked::default() };
        guard.serves("/_matrix/policy/v1/sign");
        guard
    }

    fn serves(&self, path: &str) {
        let state = (self.signer.clone(), self.asked.clone());
        self.peer.also_serves("/_matrix/policy/", Router::new().route(path, post(sign)).with_state(state));
    }

    /// What a room says to be guarded.
    fn content(&self) -> Value {
        json!({ "via": self.peer.name(), "public_keys": { "ed25519": self.signer.public_key() } })
    }

    async fn is_chosen_by(&self, user: &User, room: &str) {
        user.sets(room, "m.room.policy", "", self.content()).await.good();
    }

    /// The texts it was asked about.
    fn was_asked_about(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter_map(|e| e["content"]["body"].as_str().map(str::to_owned)).collect()
    }
}

/// What is signed of an event.
fn signed_text(event: &Value) -> String {
    let version = RoomVersion::get("11").unwrap();
    let mut event = parse_object(&redact(&event.to_string(), version).unwrap(), version.numbers()).unwrap();
    event.remove("signatures");
    event.remove("unsigned");
    let mut text = String::new();
    write_object(&mut text, &event);
    text
}

fn signature(signer: &Signer, event: &Value) -> Value {
    json!({ signer.server_name().as_str(): { "ed25519:policy_server": signer.sign_text(&signed_text(event)) } })
}

async fn sign(State((signer, asked)): State<(Arc<Signer>, Asked)>, body: String) -> Response {
    let event: Value = serde_json::from_str(&body).unwrap();
    asked.lock().unwrap().push(event.clone());
    let refused = |status: StatusCode, errcode: &str| {
        (status, as_json(json!({ "errcode": errcode, "error": "This looks like spam" }))).into_response()
    };
    match event["content"]["body"].as_str().unwrap_or_default() {
        body if body.contains("spam") => refused(StatusCode::BAD_REQUEST, "M_FORBIDDEN"),
        body if body.contains("slow") => refused(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED"),
        body if body.contains("forged") => as_json(signature(&signer, &json!({ "type": "m.other" }))).into_response(),
        _ => as_json(signature(&signer, &event)).into_response(),
    }
}

fn message(text: &str) -> Value {
    json!({ "msgtype": "m.text", "body": text })
}

#[tokio::test]
async fn what_the_policy_server_does_not_sign_is_not_sent() {
    let (here, alice, Rogue { peer: there, eve: bob, room }) = besieged().await;
    let guard = Guard::joins(5, &room, &here).await;
    let says = async |text: &str| alice.sends(&room, "m.room.message", &txn(), message(text)).await;
    says("before").await.good();
    assert!(guard.was_asked_about().is_empty());
    guard.is_chosen_by(&alice, &room).await;
    assert!(guard.asked.lock().unwrap().is_empty(), "the choice of a policy server needs no leave");

    let sent = says("ham").await.good();
    says("spam").await.refused(400, "M_FORBIDDEN");
    assert_eq!(says("more spam").await.body["error"], "This looks like spam");
    let told = says("slow down").await.refused(429, "M_LIMIT_EXCEEDED");
    assert!(told["retry_after_ms"].is_u64(), "{told}");
    says("forged").await.refused(403, "M_FORBIDDEN");
    // State is asked about too, and what is the same is not sent again.
    let name = json!({ "name": "Guarded" });
    let named = alice.sets(&room, "m.room.name", "", name.clone()).await.good();
    assert_eq!(alice.sets(&room, "m.room.name", "", name).await.good(), named);
    alice.sets(&room, "m.room.policy", "other", json!({ "body": "spam" })).await.refused(400, "M_FORBIDDEN");
    // So is whom Alice invites, and a redaction.
    let carol = there.user("carol").await;
    alice.invites(&room, &carol).await.good();
    alice.redacts(&room, sent["event_id"].as_str().unwrap()).await.good();
    // A transaction is done once.
    let (once, content) = (txn(), message("once"));
    let first = alice.sends(&room, "m.room.message", &once, content.clone()).await.good();
    assert_eq!(alice.sends(&room, "m.room.message", &once, content).await.good(), first);
    says("after").await.good();
    hears(&bob, &room, "after").await;
    assert_eq!(shown(&bob, &room).await, ["after", "once", "before"]);
    let asked: Vec<Value> = guard.asked.lock().unwrap().iter().map(|e| e["type"].clone()).collect();
    for kind in ["m.room.name", "m.room.member", "m.room.redaction"] {
        assert_eq!(asked.iter().filter(|asked| **asked == kind).count(), 1, "{kind}: {asked:?}");
    }
    // Those of other servers who come in are asked about by the one they come in through.
    let dora = there.user("dora").await;
    let before = guard.asked.lock().unwrap().len();
    joins(&dora, &room, &here).await;
    assert!(guard.asked.lock().unwrap().len() > before);

    // Nothing is said while it is away, but the room can do without it.
    guard.peer.goes_away();
    assert!(says("nobody looks").await.status.is_server_error());
    alice.sets(&room, "m.room.policy", "", json!({})).await.good();
    says("free").await.good();
    hears(&bob, &room, "free").await;
}

/// An event as a server has it.
async fn stored(at: &Peer, event_id: &str) -> Value {
    let event_id: OwnedEventId = event_id.try_into().unwrap();
    let event = at.services().store.event_by_id(&event_id).await.unwrap().unwrap();
    serde_json::from_str(event.pdu.json()).unwrap()
}

/// The event with the guard's signature.
fn guarded(guard: &Guard, mut event: Value) -> Value {
    let signature = signature(&guard.signer, &event);
    let name = guard.peer.name().as_str();
    event["signatures"][name]["ed25519:policy_server"] = signature[name]["ed25519:policy_server"].clone();
    event
}

#[tokio::test]
async fn what_others_send_unsigned_is_asked_about_and_not_shown_if_refused() {
    let (here, alice, rogue) = besieged().await;
    let guard = Guard::joins(5, &rogue.room, &here).await;
    guard.is_chosen_by(&alice, &rogue.room).await;
    guard.asked.lock().unwrap().clear();
    let sends = async |event: Value| {
        let told = rogue.sends(&here, vec![event]).await.good();
        let answers = told["pdus"].as_object().unwrap().values().cloned().collect::<Vec<_>>();
        assert_eq!(answers, [json!({})], "its sender did nothing wrong");
    };
    let (_, signed) = rogue.signed(rogue.message(&here, "signed spam").await);
    sends(guarded(&guard, signed)).await;
    assert!(guard.was_asked_about().is_empty(), "who signed need not be asked");
    sends(rogue.signed(rogue.message(&here, "unsigned ham").await).1).await;
    let (refused, event) = rogue.signed(rogue.message(&here, "unsigned spam").await);
    sends(event).await;
    let (badly, mut event) = rogue.signed(rogue.message(&here, "badly signed ham").await);
    event["signatures"][guard.peer.name().as_str()]["ed25519:policy_server"] = json!("AAAA");
    sends(event).await;
    hears(&alice, &rogue.room, "badly signed ham").await;
    assert_eq!(shown(&alice, &rogue.room).await, ["badly signed ham", "unsigned ham", "signed spam"]);
    assert_eq!(guard.was_asked_about(), ["unsigned ham", "unsigned spam", "badly signed ham"]);
    alice.in_room(&rogue.room, &format!("event/{refused}")).await.refused(404, "M_NOT_FOUND");
    // What was asked for is handed on with the event.
    let kept = stored(&here, &badly).await;
    assert_eq!(guarded(&guard, kept.clone()), kept);
    // Nobody builds on what was refused.
    let next = alice.says(&rogue.room, "mine").await;
    let prev = stored(&here, &next).await["prev_events"].clone();
    assert!(!prev.as_array().unwrap().contains(&json!(refused)), "{prev}");
    // A policy server that has left is none.
    guard.user.leaves(&rogue.room).await.good();
    let left = async {
        while membership(&alice, &rogue.room, &guard.user).await != "leave" {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left).await.unwrap();
    sends(rogue.signed(rogue.message(&here, "nobody looks").await).1).await;
    hears(&alice, &rogue.room, "nobody looks").await;
}

#[tokio::test]
async fn an_older_policy_server_is_asked_where_it_answers() {
    let (here, alice, rogue) = besieged().await;
    let guard = Guard::joins(5, &rogue.room, &here).await;
    guard.serves("/_matrix/policy/unstable/org.matrix.msc4284/sign");
    let content = json!({ "via": guard.peer.name(), "public_key": guard.signer.public_key() });
    alice.sets(&rogue.room, "org.matrix.msc4284.policy", "", content).await.good();
    let says = async |text: &str| alice.sends(&rogue.room, "m.room.message", &txn(), message(text)).await;
    says("ham").await.good();
    says("spam").await.refused(400, "M_FORBIDDEN");
    assert_eq!(guard.was_asked_about(), ["ham", "spam"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_server_that_hangs_keeps_nobody_else_waiting() {
    let (here, alice, Rogue { room, .. }) = besieged().await;
    let slow = Guard::joins(5, &room, &here).await;
    slow.is_chosen_by(&alice, &room).await;
    let other = alice.opens().await;
    let quick = Guard::joins(6, &other, &here).await;
    quick.is_chosen_by(&alice, &other).await;
    let gate = slow.peer.holds("/_matrix/policy/");
    let held: Vec<_> = (0..70)
        .map(|n| {
            let (alice, room) = (alice.clone(), room.clone());
            tokio::spawn(async move { alice.sends(&room, "m.room.message", &txn(), message(&n.to_string())).await })
        })
        .collect();
    gate.is_reached(8).await;
    for n in 0..10 {
        alice.sends(&other, "m.room.message", &txn(), message(&n.to_string())).await.good();
    }
    assert_eq!(gate.count(), 8, "more wait for their turn");
    // Whoever waited is asked about all the same.
    gate.opens();
    for sent in held {
        sent.await.unwrap().good();
    }
    assert_eq!(slow.was_asked_about().len(), 70);
}
