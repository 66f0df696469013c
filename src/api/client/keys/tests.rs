//! Encryption as clients speak it: one story from keys over messages and claims to a backup, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use axum::{Router, body::Body};
use hearth_base::{clock::Clock, tasks::Supervisor};
use hearth_service::{
    Services,
    accounts::register::{Newcomer, Password},
    login::grant::{Device, From},
};
use hearth_store::{Store, db::Engine};
use http::Request;
use http_body_util::BodyExt;
use ruma::{
    CanonicalJsonObject, ServerName,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};
use tower::ServiceExt;

struct World {
    router: Router,
    services: Arc<Services>,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let engine = Engine::Sqlite { path: dir.path().join("t.db") };
    let store = Store::open(&hearth_store::Settings::new(engine), &supervisor).await.unwrap();
    let mut settings = hearth_service::Settings::new(ServerName::parse("localhost").unwrap());
    settings.accounts.registration = true;
    let services = Services::start(settings, store, Clock::new(), supervisor).await.unwrap();
    World { router: crate::router(services.clone(), crate::Settings::default()), services, _dir: dir }
}

impl World {
    /// A user with a device; gives its token.
    async fn user(&self, name: &str, device: &str) -> String {
        let device = Device {
            id: Some(device.into()),
            display_name: Some(format!("{name}'s {device}")),
            refreshable: false,
            from: From { ip: [127, 0, 0, 1].into(), user_agent: None },
        };
        let newcomer = Newcomer {
            username: Some(name.to_owned()),
            password: Some(Password::Plain("correct horse".to_owned())),
            registration_token: None,
            consent_version: None,
            device: Some(device),
            guest: None,
        };
        self.services.accounts.register(newcomer).await.unwrap().session.unwrap().1.access_token
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3/{path}"))
            .header("authorization", format!("Bearer {token}"));
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn good(&self, method: &str, path: &str, token: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(body);
        let (status, answer) = self.send(method, path, token, body.as_ref()).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    async fn bad(&self, method: &str, path: &str, token: &str, body: Value) -> (u16, String) {
        let body = (!body.is_null()).then_some(body);
        let (status, answer) = self.send(method, path, token, body.as_ref()).await;
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

/// A user's master key, as a pair and as they publish it.
fn master(user: &str) -> Value {
    let document = Ed25519KeyPair::generate();
    let public = Ed25519KeyPair::from_der(&document, String::new()).unwrap().public_key();
    let public = Base64::<Standard, _>::new(public).encode();
    let pair = Ed25519KeyPair::from_der(&document, public.clone()).unwrap();
    let key = json!({"user_id": user, "usage": ["master"], "keys": {(format!("ed25519:{public}")): public}});
    let mut signed: CanonicalJsonObject = serde_json::from_value(key).unwrap();
    sign_json(user, &pair, &mut signed).unwrap();
    serde_json::to_value(signed).unwrap()
}

#[tokio::test]
async fn from_keys_to_a_message() {
    let world = world().await;
    let (alice, bob) = (world.user("alice", "PHONE").await, world.user("bob", "DESK").await);
    let upload = json!({
        "device_keys": {
            "user_id": "@alice:localhost", "device_id": "PHONE", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": {"ed25519:PHONE": "e", "curve25519:PHONE": "c"}, "signatures": {},
        },
        "one_time_keys": {"signed_curve25519:AAAA": {"key": "one", "signatures": {}}},
        "fallback_keys": {"signed_curve25519:AAAB": {"key": "two", "fallback": true, "signatures": {}}},
    });
    let counts = world.good("POST", "keys/upload", &alice, upload).await;
    assert_eq!(counts, json!({"one_time_key_counts": {"signed_curve25519": 1}}));

    let ask = json!({"device_keys": {"@alice:localhost": [], "@nobody:localhost": [], "@x:away.example": []}});
    let seen = world.good("POST", "keys/query", &bob, ask).await;
    let phone = &seen["device_keys"]["@alice:localhost"]["PHONE"];
    assert_eq!(phone["keys"]["curve25519:PHONE"], "c");
    assert_eq!(phone["unsigned"]["device_display_name"], "alice's PHONE");
    assert_eq!(seen["device_keys"]["@nobody:localhost"], json!({}));
    assert!(seen["failures"]["away.example"].is_object());
    assert_eq!(seen["master_keys"], json!({}));

    let ask = json!({"one_time_keys": {"@alice:localhost": {"PHONE": "signed_curve25519"}}});
    for name in ["signed_curve25519:AAAA", "signed_curve25519:AAAB"] {
        let claimed = world.good("POST", "keys/claim", &bob, ask.clone()).await;
        assert!(claimed["one_time_keys"]["@alice:localhost"]["PHONE"][name].is_object(), "{claimed}");
        assert_eq!(claimed["failures"], json!({}));
    }

    let message = json!({"messages": {"@alice:localhost": {"*": {"body": "hello"}}}});
    for _ in 0..2 {
        world.good("PUT", "sendToDevice/m.room.encrypted/t1", &bob, message.clone()).await;
    }
    let requester = hearth_base::requester::Requester {
        device_id: Some("PHONE".into()),
        ..hearth_base::requester::Requester::internal(
            "@alice:localhost".try_into().unwrap(),
            world.services.store.user_nid("@alice:localhost".try_into().unwrap()).await.unwrap().unwrap(),
        )
    };
    let inbox = world.services.to_device.inbox(&requester, 0, world.services.store.head()).await.unwrap();
    let inbox: Vec<Value> = inbox.iter().map(|(_, json)| serde_json::from_str(json).unwrap()).collect();
    assert_eq!(inbox, [json!({"type": "m.room.encrypted", "sender": "@bob:localhost", "content": {"body": "hello"}})]);

    let from = "h0_0_0_0";
    let changes = world.good("GET", &format!("keys/changes?from={from}&to={from}"), &alice, Value::Null).await;
    assert_eq!(changes, json!({"changed": ["@alice:localhost"], "left": []}));
}

#[tokio::test]
async fn signing_keys_change_by_password_only() {
    let world = world().await;
    let alice = world.user("alice", "PHONE").await;
    let (first, second) = (master("@alice:localhost"), master("@alice:localhost"));
    for _ in 0..2 {
        world.good("POST", "keys/device_signing/upload", &alice, json!({"master_key": first})).await;
    }
    let (status, asked) =
        world.send("POST", "keys/device_signing/upload", &alice, Some(&json!({"master_key": second}))).await;
    assert_eq!((status, &asked["flows"][0]["stages"][0]), (401, &json!("m.login.password")));
    let auth = |password: &str| {
        json!({
            "type": "m.login.password", "session": asked["session"], "password": password,
            "identifier": {"type": "m.id.user", "user": "alice"},
        })
    };
    let wrong = json!({"master_key": second, "auth": auth("wrong")});
    assert_eq!(world.bad("POST", "keys/device_signing/upload", &alice, wrong).await.0, 401);
    let seen = world.good("POST", "keys/query", &alice, json!({"device_keys": {"@alice:localhost": []}})).await;
    assert_eq!(seen["master_keys"]["@alice:localhost"], first);
    let right = json!({"master_key": second, "auth": auth("correct horse")});
    world.good("POST", "keys/device_signing/upload", &alice, right).await;
    let seen = world.good("POST", "keys/query", &alice, json!({"device_keys": {"@alice:localhost": []}})).await;
    assert_eq!(seen["master_keys"]["@alice:localhost"], second);

    // Old clients say who they are by `user`, and need no session for a single stage.
    let old = |user: &str| json!({"type": "m.login.password", "user": user, "password": "correct horse"});
    let third = json!({"master_key": first, "auth": old("@bob:localhost")});
    assert_eq!(world.bad("POST", "keys/device_signing/upload", &alice, third).await.0, 403);
    let third = json!({"master_key": first, "auth": old("@alice:localhost")});
    world.good("POST", "keys/device_signing/upload", &alice, third).await;
    let unfinished = json!({"master_key": second, "auth": {}});
    assert_eq!(world.bad("POST", "keys/device_signing/upload", &alice, unfinished).await.0, 401);

    let signed = json!({"@alice:localhost": {"PHONE": {}}});
    let failures = world.good("POST", "keys/signatures/upload", &alice, signed).await;
    assert_eq!(failures["failures"]["@alice:localhost"]["PHONE"]["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn a_backup_is_made_filled_read_and_emptied() {
    let world = world().await;
    let alice = world.user("alice", "PHONE").await;
    assert_eq!(world.bad("GET", "room_keys/version", &alice, Value::Null).await, (404, "M_NOT_FOUND".to_owned()));
    let backup = json!({"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "k"}});
    for version in ["1", "2"] {
        let made = world.good("POST", "room_keys/version", &alice, backup.clone()).await;
        assert_eq!(made, json!({ "version": version }));
    }
    let mut described = backup.clone();
    described["version"] = json!("2");
    world.good("PUT", "room_keys/version/2", &alice, described.clone()).await;
    described["count"] = json!(0);
    described["etag"] = json!("0");
    assert_eq!(world.good("GET", "room_keys/version", &alice, Value::Null).await, described);
    assert_eq!(world.good("GET", "room_keys/version/2", &alice, Value::Null).await, described);

    let key = |n: u32| json!({"first_message_index": n, "forwarded_count": 0, "is_verified": false, "session_data": {"c": n}});
    let all =
        json!({"rooms": {"!a:localhost": {"sessions": {"s1": key(1)}}, "!b:localhost": {"sessions": {"s2": key(2)}}}});
    let state = world.good("PUT", "room_keys/keys?version=2", &alice, all.clone()).await;
    assert_eq!(state, json!({"etag": "1", "count": 2}));
    let room = json!({"sessions": {"s/3": key(3)}});
    world.good("PUT", "room_keys/keys/!a:localhost?version=2", &alice, room).await;
    let state = world.good("PUT", "room_keys/keys/!c:localhost/s4?version=2", &alice, key(4)).await;
    assert_eq!(state, json!({"etag": "3", "count": 4}));
    let (status, wrong) = world.send("PUT", "room_keys/keys?version=1", &alice, Some(&all)).await;
    assert_eq!((status, &wrong["errcode"]), (403, &json!("M_WRONG_ROOM_KEYS_VERSION")));
    assert_eq!(wrong["current_version"], "2");

    let got = world.good("GET", "room_keys/keys?version=2", &alice, Value::Null).await;
    assert_eq!(got["rooms"]["!a:localhost"]["sessions"]["s/3"], key(3));
    let got = world.good("GET", "room_keys/keys/!b:localhost?version=2", &alice, Value::Null).await;
    assert_eq!(got, json!({"sessions": {"s2": key(2)}}));
    let got = world.good("GET", "room_keys/keys/!a:localhost/s%2F3?version=2", &alice, Value::Null).await;
    assert_eq!(got, key(3));
    let empty = world.good("GET", "room_keys/keys/!none:localhost?version=2", &alice, Value::Null).await;
    assert_eq!(empty, json!({"sessions": {}}));
    let none = world.bad("GET", "room_keys/keys/!a:localhost/none?version=2", &alice, Value::Null).await;
    assert_eq!(none, (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(world.bad("GET", "room_keys/keys", &alice, Value::Null).await, (400, "M_MISSING_PARAM".to_owned()));

    let state = world.good("DELETE", "room_keys/keys/!a:localhost/s1?version=2", &alice, Value::Null).await;
    assert_eq!(state, json!({"etag": "4", "count": 3}));
    world.good("DELETE", "room_keys/keys/!a:localhost?version=2", &alice, Value::Null).await;
    let state = world.good("DELETE", "room_keys/keys?version=2", &alice, Value::Null).await;
    assert_eq!(state["count"], 0);
    for _ in 0..2 {
        world.good("DELETE", "room_keys/version/2", &alice, Value::Null).await;
    }
    assert_eq!(world.good("GET", "room_keys/version", &alice, Value::Null).await["version"], "1");
}

#[tokio::test]
async fn rubbish_is_refused_by_its_name() {
    let world = world().await;
    let alice = world.user("alice", "PHONE").await;
    world.good("POST", "room_keys/version", &alice, json!({"algorithm": "a", "auth_data": {}})).await;
    for (method, path, body, status) in [
        ("POST", "keys/upload", json!({"one_time_keys": {"nocolon": {"key": "k"}}}), 400),
        ("POST", "keys/upload", json!({"one_time_keys": []}), 400),
        ("POST", "keys/upload", json!({"device_keys": {"user_id": "@alice:localhost"}}), 400),
        ("POST", "keys/upload", json!({"device_keys": {"user_id": "@alice:localhost", "device_id": "PHONE"}}), 400),
        ("POST", "keys/upload", json!({"device_keys": 5}), 400),
        ("POST", "keys/query", json!({}), 400),
        ("POST", "keys/query", json!({"device_keys": {"alice": []}}), 400),
        ("POST", "keys/claim", json!({"one_time_keys": {"@alice:localhost": "x"}}), 400),
        ("POST", "keys/device_signing/upload", json!({"master_key": {}}), 400),
        ("POST", "keys/signatures/upload", json!({"@alice:localhost": 5}), 400),
        ("GET", "keys/changes?from=x&to=y", Value::Null, 400),
        ("GET", "keys/changes", Value::Null, 400),
        ("PUT", "sendToDevice/m.test/t", json!({}), 400),
        ("PUT", "sendToDevice/m.test/t", json!({"messages": {"@alice:localhost": {"": {}}}}), 400),
        ("PUT", "sendToDevice/m.test/t", json!({"messages": {"@alice:localhost": {"PHONE": 5}}}), 400),
        ("PUT", "sendToDevice/m.test%00/t", json!({"messages": {}}), 400),
        ("POST", "room_keys/version", json!({"algorithm": "a"}), 400),
        ("POST", "room_keys/version", json!({"algorithm": 5, "auth_data": {}}), 400),
        ("PUT", "room_keys/keys?version=1", json!({"rooms": {"!a:b": {"sessions": {"s": {}}}}}), 400),
        ("PUT", "room_keys/keys?version=%00", json!({"rooms": {}}), 404),
        ("PUT", "room_keys/keys/!a:b/s?version=1", json!({}), 400),
    ] {
        let (got, errcode) = world.bad(method, path, &alice, body).await;
        assert_eq!(got, status, "{method} {path} {errcode}");
        assert!(errcode.starts_with("M_"), "{method} {path} {errcode}");
    }
}
