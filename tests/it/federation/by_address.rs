//! Invites by e-mail address and phone number: what an identity server is asked, what becomes of its answers, and how the
//! invite finds its user in the end (client-server API, "Third-party invites"; identity service API).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hearth_api::limits::Rate;
use hearth_rules::Signer;
use http::{Method, StatusCode, header};
use ruma::{CanonicalJsonObject, server_name};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::{
    joining::membership,
    support::{Peer, Peers, on_the_web},
};
use crate::support::{
    Answer, User,
    rooms::{V3, encoded, state_of},
};

const BOB: &str = "bob@example.org";
const HASH_DETAILS: &str = "/_matrix/identity/v2/hash_details";
const LOOKUP: &str = "/_matrix/identity/v2/lookup";
const STORE: &str = "/_matrix/identity/v2/store-invite";

/// An identity server that knows what it is told.
struct Identity {
    /// `address:port`
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    signer: Signer,
    known: Mutex<Known>,
    /// Rings when an invite has come, and lets it be answered; used once [`Known::slow`] is set.
    came: Notify,
    go_on: Notify,
}

#[derive(Default)]
struct Known {
    /// Where it is, with `https`.
    base: String,
    algorithms: Vec<&'static str>,
    pepper: String,
    /// Pepper to come when the present one has been told.
    next_pepper: Option<String>,
    /// Users by address and medium.
    bound: HashMap<String, String>,
    invites: Vec<Value>,
    /// What it was asked: path and body.
    asked: Vec<(String, Value)>,
    /// What it answers in place of the truth.
    answers: HashMap<&'static str, (u16, String)>,
    /// Paths that it never answers.
    silent: HashSet<&'static str>,
    slow: bool,
}

impl Identity {
    async fn start(until: &Peer) -> Self {
        let signer = Signer::new(server_name!("id.org").to_owned(), &[7; 32], "0").unwrap();
        let known = Known { algorithms: vec!["none", "sha256"], pepper: "salt".to_owned(), ..Known::default() };
        let shared = Arc::new(Shared { signer, known: Mutex::new(known), came: Notify::new(), go_on: Notify::new() });
        let base = on_the_web(9, Router::new().fallback(answer).with_state(shared.clone()), until).await;
        shared.known.lock().unwrap().base.clone_from(&base);
        Self { name: base.trim_start_matches("https://").to_owned(), shared }
    }

    fn know<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.shared.known.lock().unwrap())
    }

    fn answers(&self, path: &'static str, status: u16, body: impl ToString) {
        let body = body.to_string();
        self.know(|known| known.answers.insert(path, (status, body)));
    }

    fn tells_the_truth(&self) {
        self.know(|known| known.answers.clear());
    }

    /// Bodies of what it was asked at a path.
    fn asked(&self, path: &str) -> Vec<Value> {
        self.know(|known| known.asked.iter().filter(|(p, _)| p == path).map(|(_, body)| body.clone()).collect())
    }

    fn times_asked(&self) -> usize {
        self.know(|known| known.asked.len())
    }

    fn whose(&self, address: &str, user: &str) {
        self.know(|known| known.bound.insert(format!("{address} email"), user.to_owned()));
    }

    /// An address is a user's now: it tells their server of all invites that wait for it.
    async fn binds(&self, address: &str, user: &User, at: &Peer) {
        self.whose(address, user.id.as_str());
        let kept = self.know(|known| std::mem::take(&mut known.invites));
        let (mine, others): (Vec<Value>, Vec<Value>) = kept.into_iter().partition(|i| i["address"] == address);
        self.know(|known| known.invites = others);
        let invites: Vec<Value> = mine
            .iter()
            .map(|invite| {
                let proof = json!({ "mxid": user.id, "token": invite["token"], "sender": invite["sender"] });
                let mut proof: CanonicalJsonObject = serde_json::from_value(proof).unwrap();
                self.shared.signer.sign_json(&mut proof).unwrap();
                json!({ "medium": "email", "address": address, "mxid": user.id, "room_id": invite["room_id"],
                "sender": invite["sender"], "signed": proof })
            })
            .collect();
        let body = json!({ "medium": "email", "address": address, "mxid": user.id, "invites": invites });
        at.sends(at, Method::PUT, "/_matrix/federation/v1/3pid/onbind", Some(body), None).await.good();
    }

    /// Whom to invite.
    fn invite(&self, address: &str) -> Value {
        json!({ "id_server": self.name, "id_access_token": "secret", "medium": "email", "address": address })
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    if path == "/isvalid" {
        return Json(200, json!({ "valid": true }).to_string()).into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (silent, slow) = {
        let mut known = shared.known.lock().unwrap();
        known.asked.push((path.clone(), body.clone()));
        (known.silent.contains(path.as_str()), known.slow && path == STORE)
    };
    if silent {
        std::future::pending::<()>().await;
    }
    if slow {
        shared.came.notify_one();
        shared.go_on.notified().await;
    }
    if parts.headers.get(header::AUTHORIZATION).is_none_or(|h| h != "Bearer secret") {
        return Json(401, json!({ "errcode": "M_UNAUTHORIZED", "error": "who?" }).to_string()).into_response();
    }
    let mut known = shared.known.lock().unwrap();
    if let Some((status, body)) = known.answers.get(path.as_str()) {
        return Json(*status, body.clone()).into_response();
    }
    let (status, body) = known.truth(&path, body, &shared.signer.public_key());
    Json(status, body.to_string()).into_response()
}

impl Known {
    fn truth(&mut self, path: &str, mut body: Value, key: &str) -> (u16, Value) {
        match path {
            HASH_DETAILS => {
                let told = json!({ "lookup_pepper": self.pepper, "algorithms": self.algorithms });
                self.pepper = self.next_pepper.take().unwrap_or_else(|| self.pepper.clone());
                (200, told)
            }
            LOOKUP if body["pepper"] != self.pepper.as_str() => {
                (400, json!({ "errcode": "M_INVALID_PEPPER", "error": "it has changed" }))
            }
            LOOKUP => {
                let form = |address: &str| match body["algorithm"].as_str().unwrap() {
                    "sha256" => URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{address} {}", self.pepper))),
                    "none" => address.to_owned(),
                    other => panic!("{other}"),
                };
                let all: HashMap<String, &String> = self.bound.iter().map(|(a, user)| (form(a), user)).collect();
                let asked = body["addresses"].as_array().unwrap();
                let found = asked.iter().filter_map(|a| Some((a.as_str()?, *all.get(a.as_str()?)?)));
                (200, json!({ "mappings": found.collect::<HashMap<_, _>>() }))
            }
            STORE => {
                let token = format!("token-{}", self.asked.len());
                let url = format!("{}/isvalid", self.base);
                body["token"] = json!(token);
                self.invites.push(body);
                let key = json!({ "public_key": key, "key_validity_url": url });
                (200, json!({ "token": token, "public_keys": [key, key], "display_name": "b...@e..." }))
            }
            other => panic!("{other}"),
        }
    }
}

struct Json(u16, String);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap();
        (status, [(header::CONTENT_TYPE, "application/json"), (header::LOCATION, "/elsewhere")], self.1).into_response()
    }
}

async fn invites(who: &User, room: &str, to: Value) -> Answer {
    who.post_in_room(room, "invite", to).await
}

/// The invites by token that a room has: state keys and contents.
async fn by_token(who: &User, room: &str) -> Vec<(String, Value)> {
    let state = who.in_room(room, "state").await.good();
    let all = state.as_array().unwrap().iter().filter(|e| e["type"] == "m.room.third_party_invite");
    all.map(|e| (e["state_key"].as_str().unwrap().to_owned(), e["content"].clone())).collect()
}

#[tokio::test]
async fn an_invite_waits_for_its_user() {
    let [here, there] = Peers::two().await;
    let identity = Identity::start(&here).await;
    let alice = here.user("alice").await;
    let path = format!("{V3}/profile/{}/displayname", alice.id);
    alice.put(&path, json!({ "displayname": "Alice" })).await.good();
    for (n, version) in ["1", "3", "6", "11", "12"].into_iter().enumerate() {
        let room = alice
            .creates(json!({ "room_version": version, "name": "Tea", "room_alias_name": format!("tea{n}") }))
            .await;
        let (bob, carol) = (here.user(&format!("bob{n}")).await, there.user(&format!("carol{n}")).await);
        let addresses = [format!("strauss{n}@example.org"), format!("carol{n}@example.org")];
        // As people write it.
        assert_eq!(invites(&alice, &room, identity.invite(&format!("Strauß{n}@Example.ORG"))).await.good(), json!({}));
        invites(&alice, &room, identity.invite(&addresses[1])).await.good();
        let lookup = identity.asked(LOOKUP).pop().unwrap();
        assert_eq!((&lookup["algorithm"], &lookup["pepper"]), (&json!("sha256"), &json!("salt")));
        assert!(!lookup.to_string().contains("example.org"), "{lookup}");
        let kept = identity.know(|known| known.invites[0].clone());
        let want = json!({
            "medium": "email", "address": addresses[0], "room_id": room, "sender": alice.id, "token": kept["token"],
            "sender_display_name": "Alice", "room_name": "Tea", "room_alias": format!("#tea{n}:{}", here.name()),
            "room_join_rules": "invite",
        });
        assert_eq!(kept, want);

        let all = by_token(&alice, &room).await;
        let key = identity.shared.signer.public_key();
        let url = identity.know(|known| format!("{}/isvalid", known.base));
        let one = json!({ "public_key": key, "key_validity_url": url });
        let want = json!({
            "display_name": "b...@e...", "public_key": key, "key_validity_url": url, "public_keys": [one, one],
        });
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|(_, content)| *content == want), "{all:?}");
        let state = alice.in_room(&room, "state").await;
        assert!(!state.text.contains("example.org"), "the address is nobody's business");

        // Bob finds his way here, Carol elsewhere; both show that the address is theirs.
        identity.binds(&addresses[0], &bob, &here).await;
        identity.binds(&addresses[1], &carol, &there).await;
        for user in [&bob, &carol] {
            assert_eq!(membership(&alice, &room, user).await, "invite");
            let member = alice.reads(&room, "m.room.member", user.id.as_str()).await.good();
            assert_eq!(member["third_party_invite"]["display_name"], "b...@e...");
            let sync = user.syncs("").await;
            let shown = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
            assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Tea", "{sync}");
            user.joins(&room).await.good();
            assert_eq!(membership(&alice, &room, user).await, "join");
        }
        // From now on they are found.
        let bodies = identity.asked(STORE).len();
        invites(&alice, &room, identity.invite(&addresses[0])).await.refused(403, "M_FORBIDDEN");
        assert_eq!(identity.asked(STORE).len(), bodies);
    }
}

#[tokio::test]
async fn who_is_found_is_invited_as_usual() {
    let [here, there] = Peers::two().await;
    let identity = Identity::start(&here).await;
    let (alice, bob, carol) = (here.user("alice").await, here.user("bob").await, there.user("carol").await);
    let room = alice.creates(json!({})).await;
    identity.whose(BOB, bob.id.as_str());
    identity.whose("carol@example.org", carol.id.as_str());
    // A pepper that changes between the two questions is no hindrance, one that changes all the time is.
    identity.know(|known| known.next_pepper = Some("pepper".to_owned()));
    invites(&alice, &room, identity.invite(BOB)).await.good();
    assert_eq!(membership(&alice, &room, &bob).await, "invite");
    assert_eq!(identity.asked(LOOKUP).len(), 2);
    identity.know(|known| known.algorithms = vec!["rot13", "none"]);
    invites(&alice, &room, identity.invite("carol@example.org")).await.good();
    assert_eq!(membership(&alice, &room, &carol).await, "invite");
    assert_eq!(identity.asked(LOOKUP).pop().unwrap()["addresses"], json!(["carol@example.org email"]));
    assert!(carol.syncs("").await["rooms"]["invite"][&room].is_object());
    assert!(identity.asked(STORE).is_empty() && by_token(&alice, &room).await.is_empty());
    for user in [&bob, &carol] {
        user.joins(&room).await.good();
    }
    // Phone numbers are digits, however they are written.
    let dave = here.user("dave").await;
    identity.know(|known| known.bound.insert("447700900123 msisdn".to_owned(), dave.id.to_string()));
    let mut by_phone = identity.invite("+44 (7700) 900-123");
    by_phone["medium"] = json!("msisdn");
    invites(&alice, &room, by_phone).await.good();
    assert_eq!(membership(&alice, &room, &dave).await, "invite");
    // It may become somebody's just now.
    let erin = here.user("erin").await;
    let in_use = json!({ "errcode": "M_THREEPID_IN_USE", "error": "known", "mxid": erin.id });
    identity.answers(STORE, 400, in_use);
    invites(&alice, &room, identity.invite("erin@example.org")).await.good();
    assert_eq!(membership(&alice, &room, &erin).await, "invite");
    identity.tells_the_truth();
    // Who is banned is so under every name.
    alice.does_to(&room, "ban", &bob).await.good();
    invites(&alice, &room, identity.invite(BOB)).await.refused(403, "M_FORBIDDEN");
    // Whoever has no account yet may have one later.
    identity.whose("ghost@example.org", &format!("@ghost:{}", here.name()));
    invites(&alice, &room, identity.invite("ghost@example.org")).await.good();
}

#[tokio::test]
async fn nothing_goes_out_for_what_cannot_be() {
    let here = Peers::one(2, |plan| plan).await;
    let identity = Identity::start(&here).await;
    let (alice, bob, carol) = (here.user("alice").await, here.user("bob").await, here.user("carol").await);
    let room =
        alice.creates(json!({ "preset": "public_chat", "power_level_content_override": { "invite": 50 } })).await;
    bob.joins(&room).await.good();
    for name in ["id_server", "id_access_token", "medium", "address"] {
        let mut to = identity.invite(BOB);
        to.as_object_mut().unwrap().remove(name);
        let told = invites(&alice, &room, to).await.refused(400, "M_MISSING_PARAM");
        assert!(told["error"].as_str().unwrap().contains(name), "{told}");
        let mut to = identity.invite(BOB);
        to[name] = json!(5);
        invites(&alice, &room, to).await.refused(400, "M_BAD_JSON");
    }
    let long = format!("{}@example.org", "x".repeat(250));
    for (name, wrong) in [
        (
            "id_server",
            ["", "id org", "id.org/path", "https://id.org", "127.1", "[::1", "id.org:0", "id.org:x"].as_slice(),
        ),
        ("id_access_token", &["", "two words", "line\nfeed", "ü"]),
        ("medium", &["", "telepathy", "Email"]),
        ("address", &["", "bob", "@example.org", "bob@", "a@b@c", "Bob <bob@example.org>", "a@b,c@d", "a\n@b", &long]),
    ] {
        for wrong in wrong {
            let mut to = identity.invite(BOB);
            to[name] = json!(wrong);
            let answer = invites(&alice, &room, to.clone()).await;
            answer.refused(400, "M_INVALID_PARAM");
            let path = format!("{V3}/createRoom");
            alice.post(&path, json!({ "invite_3pid": [to] })).await.refused(400, "M_INVALID_PARAM");
        }
    }
    for wrong in ["", "phone", "+", "447700900123x", "1234567890123456"] {
        let mut to = identity.invite(wrong);
        to["medium"] = json!("msisdn");
        invites(&alice, &room, to).await.refused(400, "M_INVALID_PARAM");
    }
    // Not in the room, or without power there.
    invites(&carol, &room, identity.invite(BOB)).await.refused(403, "M_FORBIDDEN");
    invites(&bob, &room, identity.invite(BOB)).await.refused(403, "M_FORBIDDEN");
    invites(&alice, "!nowhere:example.org", identity.invite(BOB)).await.refused(403, "M_FORBIDDEN");
    let powerless = json!({
        "room_version": "11", "power_level_content_override": { "invite": 101 }, "invite_3pid": [identity.invite(BOB)],
    });
    alice.post(&format!("{V3}/createRoom"), powerless).await.refused(400, "M_INVALID_ROOM_STATE");
    let many: Vec<Value> = (0..21).map(|n| identity.invite(&format!("{n}@example.org"))).collect();
    alice.post(&format!("{V3}/createRoom"), json!({ "invite_3pid": many })).await.refused(400, "M_INVALID_PARAM");

    let closed = Peers::one(3, |plan| plan.services(|s| s.membership.no_lookup = true)).await;
    let ruled = Peers::one(4, |plan| plan.services(|s| s.membership.block_non_admin_invites = true)).await;
    let deny = vec!["127.0.0.0/8".parse().unwrap()];
    let wary = Peers::one(5, |plan| plan.services(|s| s.membership.identity.remote.deny = deny)).await;
    for (peer, errcode) in [(&closed, "M_FORBIDDEN"), (&ruled, "M_FORBIDDEN"), (&wary, "M_SERVER_NOT_TRUSTED")] {
        let dave = peer.user("dave").await;
        let room = dave.creates(json!({})).await;
        invites(&dave, &room, identity.invite(BOB)).await.refused(403, errcode);
        let body = json!({ "invite_3pid": [identity.invite(BOB)] });
        dave.post(&format!("{V3}/createRoom"), body).await.refused(403, errcode);
    }
    assert_eq!(identity.times_asked(), 0);
    let admin = ruled.admin("ada").await;
    let room = admin.creates(json!({})).await;
    invites(&admin, &room, identity.invite(BOB)).await.good();
}

#[tokio::test]
async fn an_identity_server_that_fails_is_told_of() {
    let here = Peers::one(2, |plan| plan).await;
    let identity = Identity::start(&here).await;
    let alice = here.user("alice").await;
    let room = alice.creates(json!({})).await;
    let key =
        json!({ "public_key": identity.shared.signer.public_key(), "key_validity_url": "https://id.org/isvalid" });
    let stored = |name: &str, value: Value| {
        let mut stored = json!({ "token": "t", "public_keys": [key], "display_name": "b..." });
        stored[name] = value;
        stored.to_string()
    };
    let keys = |name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        stored("public_keys", json!([key]))
    };
    let said = |errcode: &str| json!({ "errcode": errcode, "error": "so" }).to_string();
    let details = |algorithms: Value| json!({ "lookup_pepper": "salt", "algorithms": algorithms }).to_string();
    let key_of = |bytes: usize| json!(URL_SAFE_NO_PAD.encode(vec![1; bytes]));
    let gateway = (502, "M_UNKNOWN");
    for (path, status, body, want) in [
        (HASH_DETAILS, 401, said("M_UNKNOWN_TOKEN"), (403, "M_FORBIDDEN")),
        (HASH_DETAILS, 403, said("M_TERMS_NOT_SIGNED"), (403, "M_TERMS_NOT_SIGNED")),
        (HASH_DETAILS, 404, said("M_UNRECOGNIZED"), gateway),
        (HASH_DETAILS, 429, said("M_LIMIT_EXCEEDED"), gateway),
        (HASH_DETAILS, 500, "<html>".to_owned(), gateway),
        (HASH_DETAILS, 302, "{}".to_owned(), gateway),
        (HASH_DETAILS, 200, "<html>".to_owned(), gateway),
        (HASH_DETAILS, 200, details(json!([])), gateway),
        (HASH_DETAILS, 200, details(json!("sha256")), gateway),
        (HASH_DETAILS, 200, details(json!(["x".repeat(20_000), "sha256"])), gateway),
        (LOOKUP, 400, said("M_INVALID_PEPPER"), gateway),
        (LOOKUP, 403, said("M_FORBIDDEN"), gateway),
        (LOOKUP, 200, json!({}).to_string(), gateway),
        (STORE, 400, said("M_UNRECOGNIZED"), (400, "M_INVALID_PARAM")),
        (STORE, 400, said("M_THREEPID_IN_USE"), gateway),
        (STORE, 404, said("M_NOT_FOUND"), gateway),
        (STORE, 200, stored("token", json!("")), gateway),
        (STORE, 200, stored("token", json!("a b")), gateway),
        (STORE, 200, stored("token", json!("x".repeat(256))), gateway),
        (STORE, 200, stored("token", json!(5)), gateway),
        (STORE, 200, stored("display_name", Value::Null), gateway),
        (STORE, 200, stored("public_keys", json!([])), gateway),
        (STORE, 200, stored("public_keys", json!(vec![&key; 21])), gateway),
        (STORE, 200, keys("public_key", json!("not base64!")), gateway),
        (STORE, 200, keys("public_key", key_of(31)), gateway),
        (STORE, 200, keys("key_validity_url", json!("http://id.org/isvalid")), gateway),
        (STORE, 200, keys("key_validity_url", json!("/isvalid")), gateway),
    ] {
        identity.answers(path, status, &body);
        let answer = invites(&alice, &room, identity.invite(BOB)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["errcode"].as_str().unwrap()),
            want,
            "{path} {body}: {answer:?}"
        );
        identity.tells_the_truth();
    }
    assert!(identity.asked("/elsewhere").is_empty(), "redirects are not followed");
    // Somebody who is nobody.
    identity.whose(BOB, "bob");
    invites(&alice, &room, identity.invite(BOB)).await.refused(502, "M_UNKNOWN");
    identity.know(|known| known.bound.clear());
    let mut other = identity.invite(BOB);
    other["id_access_token"] = json!("another");
    invites(&alice, &room, other).await.refused(403, "M_FORBIDDEN");
    // A port where nobody listens, and a name that leads nowhere.
    for name in ["127.0.0.9:1", "nowhere.example"] {
        let mut other = identity.invite(BOB);
        other["id_server"] = json!(name);
        let told = invites(&alice, &room, other).await.refused(502, "M_UNKNOWN");
        assert_eq!(told["error"], format!("The identity server {name} could not be reached"));
    }
    assert!(by_token(&alice, &room).await.is_empty());
    let members = alice.in_room(&room, "members").await.good();
    assert_eq!(members["chunk"].as_array().unwrap().len(), 1);

    let hasty = Peers::one(3, |p| p.services(|s| s.membership.identity.timeout = Duration::from_millis(300))).await;
    let carol = hasty.user("carol").await;
    let room = carol.creates(json!({})).await;
    identity.know(|known| known.silent.insert(HASH_DETAILS));
    invites(&carol, &room, identity.invite(BOB)).await.refused(504, "M_UNKNOWN");
}

#[tokio::test]
async fn a_new_room_is_made_with_invites_by_address() {
    let [here, there] = Peers::two().await;
    let identity = Identity::start(&here).await;
    let (alice, bob, carol) = (here.user("alice").await, here.user("bob").await, there.user("carol").await);
    let path = format!("{V3}/createRoom");
    identity.whose(BOB, bob.id.as_str());
    identity.whose("carol@example.org", carol.id.as_str());
    let invited: Vec<Value> =
        ["Bob@example.org", "carol@example.org", "dave@example.org"].map(|a| identity.invite(a)).into();
    for version in ["10", "12"] {
        let body = json!({
            "room_version": version, "preset": "trusted_private_chat", "is_direct": true, "name": "Us", "invite_3pid": invited,
        });
        let room = alice.creates(body).await;
        for user in [&bob, &carol] {
            let member = alice.reads(&room, "m.room.member", user.id.as_str()).await.good();
            assert_eq!((&member["membership"], &member["is_direct"]), (&json!("invite"), &json!(true)));
        }
        let kept = identity.know(|known| known.invites.pop()).unwrap();
        assert_eq!((&kept["room_id"], &kept["room_name"]), (&json!(room), &json!("Us")));
        assert_eq!(by_token(&alice, &room).await[0].0, kept["token"].as_str().unwrap());
        // What an identity server says gives nobody power.
        let levels = alice.reads(&room, "m.room.power_levels", "").await.good();
        assert!(levels["users"][bob.id.as_str()].is_null(), "{levels}");
        let create = alice.reads(&room, "m.room.create", "").await.good();
        assert!(!create.to_string().contains(bob.id.as_str()), "{create}");
        bob.joins(&room).await.good();
        carol.joins(&room).await.good();
    }
    // Without an answer there is no room; with one, an invite that fails is passed over.
    let rooms = alice.get(&format!("{V3}/joined_rooms")).await.good();
    identity.answers(LOOKUP, 500, "");
    alice.post(&path, json!({ "invite_3pid": invited })).await.refused(502, "M_UNKNOWN");
    assert_eq!(alice.get(&format!("{V3}/joined_rooms")).await.good(), rooms);
    identity.tells_the_truth();
    identity.answers(STORE, 500, "");
    let room = alice.creates(json!({ "invite_3pid": invited })).await;
    assert_eq!(membership(&alice, &room, &bob).await, "invite");
    assert!(by_token(&alice, &room).await.is_empty());
}

#[tokio::test]
async fn nobody_invites_addresses_without_end() {
    let limited = |change: fn(&mut hearth_api::limits::Settings)| {
        move |plan: crate::support::Plan| {
            plan.api(move |api| {
                api.limits.enabled = true;
                api.limits.registration = Rate::new(100.0, 100.0);
                change(&mut api.limits);
            })
        }
    };
    let here = Peers::one(2, limited(|limits| limits.third_party_invite = Rate::new(0.001, 3.0))).await;
    let identity = Identity::start(&here).await;
    let alice = here.user("alice").await;
    let room = alice.creates(json!({})).await;
    invites(&alice, &room, identity.invite("1@example.org")).await.good();
    let body = json!({ "invite_3pid": [identity.invite("2@example.org"), identity.invite("3@example.org")] });
    alice.creates(body).await;
    let asked = identity.times_asked();
    invites(&alice, &room, identity.invite("4@example.org")).await.refused(429, "M_LIMIT_EXCEEDED");
    let body = json!({ "invite_3pid": [identity.invite("4@example.org")] });
    alice.post(&format!("{V3}/createRoom"), body).await.refused(429, "M_LIMIT_EXCEEDED");
    // Nor does anybody get them without end, whoever invites.
    let there = Peers::one(3, limited(|limits| limits.invites_per_user = Rate::new(0.001, 1.0))).await;
    let (bob, carol) = (there.user("bob").await, there.user("carol").await);
    let (tea, coffee) = (bob.creates(json!({})).await, carol.creates(json!({})).await);
    invites(&bob, &tea, identity.invite(BOB)).await.good();
    invites(&carol, &coffee, identity.invite(" BOB@example.org")).await.refused(429, "M_LIMIT_EXCEEDED");
    assert_eq!(identity.times_asked(), asked + 3, "one invite of three calls");
}

#[tokio::test]
async fn an_invite_that_is_kept_stands_in_the_room_though_its_caller_went() {
    let here = Peers::one(2, |plan| plan).await;
    let identity = Identity::start(&here).await;
    let alice = here.user("alice").await;
    let room = alice.creates(json!({})).await;
    identity.know(|known| known.slow = true);
    let (caller, to, at) = (alice.clone(), identity.invite(BOB), room.clone());
    let asking = tokio::spawn(async move { invites(&caller, &at, to).await });
    tokio::time::timeout(Duration::from_secs(30), identity.shared.came.notified()).await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    let since = alice.now().await;
    identity.shared.go_on.notify_one();
    let news = alice.syncs(&format!("since={}&timeout=30000", encoded(&since))).await;
    let timeline = &news["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(timeline[0]["type"], "m.room.third_party_invite", "{news}");
}
