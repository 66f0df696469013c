//! What belongs to a user, over HTTP: account data, tags, filters, push rules, pushers, receipts, typing, profile, presence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use axum::{Router, body::Body};
use hearth_base::{Requester, clock::Clock, tasks::Supervisor};
use hearth_service::{Services, events::Outgoing, login::token_hash, rooms::NewRoom};
use hearth_store::{
    Store,
    accounts::{Created, NewAccount},
    db::Engine,
    devices::NewDevice,
    login::NewToken,
};
use http::Request;
use http_body_util::BodyExt;
use ruma::{OwnedRoomId, ServerName, UserId, events::TimelineEventType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

struct World {
    router: Router,
    services: Arc<Services>,
    room: OwnedRoomId,
    _dir: TempDir,
}

/// Ada has a room, Bob is in it, Cleo is not.
async fn world(change: impl FnOnce(&mut hearth_service::Settings)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let engine = Engine::Sqlite { path: dir.path().join("t.db") };
    let store = Store::open(&hearth_store::Settings::new(engine), &supervisor).await.unwrap();
    let mut settings = hearth_service::Settings::new(ServerName::parse("x.org").unwrap());
    change(&mut settings);
    let services = Services::start(settings, store, Clock::new(), supervisor).await.unwrap();
    let router = crate::router(services.clone(), crate::Settings::default());
    let mut world = World { router, services, room: OwnedRoomId::try_from("!none:x.org").unwrap(), _dir: dir };
    for name in ["ada", "bob", "cleo"] {
        world.user(name).await;
    }
    let new = NewRoom { invite: vec![id("bob")], ..NewRoom::default() };
    world.room = world.services.rooms.create(&world.who("ada").await, new).await.unwrap().room_id;
    world.services.membership.join(&world.who("bob").await, &world.room, &[], Default::default()).await.unwrap();
    world
}

fn id(name: &str) -> ruma::OwnedUserId {
    UserId::parse(format!("@{name}:x.org")).unwrap()
}

impl World {
    /// An account whose token is its name.
    async fn user(&self, name: &str) {
        let user = self.services.store.intern_user(&id(name)).await.unwrap();
        let device = NewDevice {
            user,
            device_id: "PHONE".to_owned(),
            display_name: None,
            created_ms: 1,
            ip: None,
            user_agent: None,
        };
        let token = NewToken {
            token_hash: token_hash(name),
            user,
            device_id: Some("PHONE".to_owned()),
            created_ms: 1,
            expires_ms: None,
            refresh: None,
            puppet_of: None,
        };
        let new = NewAccount {
            user,
            password_hash: None,
            admin: false,
            guest: false,
            was_guest: false,
            user_type: None,
            appservice_id: None,
            created_ms: 1,
            displayname: Some(name.to_owned()),
            registration_token: None,
            consent_version: None,
            session: Some((device, token)),
        };
        assert_eq!(self.services.store.create_account(new).await.unwrap(), Created::Yes);
    }

    async fn who(&self, name: &str) -> Requester {
        Requester::internal(id(name), self.services.store.intern_user(&id(name)).await.unwrap())
    }

    async fn say(&self, name: &str, content: Value) -> String {
        let content = serde_json::value::to_raw_value(&content).unwrap();
        let out = Outgoing {
            event_type: TimelineEventType::RoomMessage,
            state_key: None,
            content: &content,
            txn_id: None,
            timestamp: None,
        };
        self.services.events.send(&self.who(name).await, &self.room, out).await.unwrap().to_string()
    }

    async fn raw(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
        let path = path.replace("{room}", &self.room.as_str().replace('!', "%21"));
        let mut request = Request::builder().method(method).uri(format!("/_matrix/client{path}"));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        self.raw("GET", path, token, "").await
    }

    async fn put(&self, token: &str, path: &str, body: Value) -> (u16, Value) {
        self.raw("PUT", path, token, &body.to_string()).await
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> (u16, Value) {
        self.raw("POST", path, token, &body.to_string()).await
    }

    async fn delete(&self, token: &str, path: &str) -> (u16, Value) {
        self.raw("DELETE", path, token, "").await
    }

    async fn unread(&self, name: &str) -> (u64, u64) {
        let room = self.services.store.room_nid(&self.room).await.unwrap().unwrap();
        let user = self.services.store.intern_user(&id(name)).await.unwrap();
        let total = self.services.push.unread(user, room).await.unwrap().total();
        (total.notifications, total.highlights)
    }
}

fn done() -> (u16, Value) {
    (200, json!({}))
}

fn told((status, body): (u16, Value)) -> (u16, String) {
    (status, body["errcode"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

#[tokio::test]
async fn account_data_and_tags() {
    let w = world(|_| {}).await;
    let path = "/v3/user/@ada:x.org/account_data/m.direct";
    assert_eq!(told(w.get("ada", path).await), refused(404, "M_NOT_FOUND"));
    assert_eq!(w.put("ada", path, json!({"@bob:x.org": ["!r"]})).await, done());
    assert_eq!(w.get("ada", path).await, (200, json!({"@bob:x.org": ["!r"]})));
    assert_eq!(w.get("ada", "/r0/user/%40ada%3Ax.org/account_data/m.direct").await.0, 200);
    assert_eq!(told(w.get("bob", path).await), refused(403, "M_FORBIDDEN"));
    assert_eq!(told(w.get("", path).await), refused(401, "M_MISSING_TOKEN"));
    assert_eq!(told(w.raw("PUT", path, "ada", "{").await), refused(400, "M_NOT_JSON"));
    assert_eq!(told(w.raw("PUT", path, "ada", "[]").await), refused(400, "M_BAD_JSON"));
    let managed = "/v3/user/@ada:x.org/account_data/m.push_rules";
    assert_eq!(told(w.put("ada", managed, json!({})).await), refused(405, "M_BAD_JSON"));
    assert!(w.get("ada", managed).await.1["global"]["override"].is_array());
    assert_eq!(w.delete("ada", "/unstable/org.matrix.msc3391/user/@ada:x.org/account_data/m.direct").await, done());
    assert_eq!(w.get("ada", path).await.0, 404);

    let of_room = "/v3/user/@ada:x.org/rooms/{room}/account_data/org.x";
    assert_eq!(w.put("ada", of_room, json!({"a": 1})).await, done());
    assert_eq!(w.get("ada", of_room).await, (200, json!({"a": 1})));
    let nowhere = "/v3/user/@ada:x.org/rooms/@nota:room/account_data/org.x";
    assert_eq!(told(w.put("ada", nowhere, json!({})).await), refused(400, "M_INVALID_PARAM"));

    assert_eq!(w.get("ada", "/v3/user/@ada:x.org/rooms/{room}/tags").await, (200, json!({"tags": {}})));
    let tag = "/v3/user/@ada:x.org/rooms/{room}/tags/u.w%20ork";
    assert_eq!(w.put("ada", tag, json!({"order": 0.25, "more": true})).await, done());
    let tags = json!({"tags": {"u.w ork": {"order": 0.25, "more": true}}});
    assert_eq!(w.get("ada", "/v3/user/@ada:x.org/rooms/{room}/tags").await, (200, tags));
    assert_eq!(told(w.put("ada", tag, json!({"order": {}})).await), refused(400, "M_BAD_JSON"));
    assert_eq!(w.delete("ada", tag).await, done());
    assert_eq!(w.get("ada", "/v3/user/@ada:x.org/rooms/{room}/tags").await, (200, json!({"tags": {}})));
}

#[tokio::test]
async fn filters() {
    let w = world(|_| {}).await;
    let filter = json!({"room": {"timeline": {"limit": 10, "org.matrix.msc3773.unread_thread_notifications": true}}});
    let (status, answer) = w.post("ada", "/v3/user/@ada:x.org/filter", filter.clone()).await;
    assert_eq!(status, 200);
    let filter_id = answer["filter_id"].as_str().unwrap();
    assert_eq!(w.post("ada", "/v3/user/@ada:x.org/filter", filter.clone()).await.1["filter_id"], filter_id);
    assert_eq!(w.get("ada", &format!("/v3/user/@ada:x.org/filter/{filter_id}")).await, (200, filter.clone()));
    assert_eq!(told(w.get("ada", "/v3/user/@ada:x.org/filter/99").await), refused(404, "M_NOT_FOUND"));
    assert_eq!(told(w.post("bob", "/v3/user/@ada:x.org/filter", filter).await), refused(403, "M_FORBIDDEN"));
    let wrong = json!({"room": {"timeline": {"not_senders": ["x"]}}});
    assert_eq!(told(w.post("ada", "/v3/user/@ada:x.org/filter", wrong).await), refused(400, "M_BAD_JSON"));
}

#[tokio::test]
async fn push_rules_and_what_they_count() {
    let w = world(|_| {}).await;
    let (_, all) = w.get("ada", "/v3/pushrules/").await;
    assert_eq!(all["global"], w.get("ada", "/v3/pushrules/global/").await.1);
    assert_eq!(told(w.get("ada", "/v3/pushrules").await), refused(400, "M_UNRECOGNIZED"));
    for kind in ["override", "content", "room", "sender", "underride"] {
        assert!(all["global"][kind].is_array(), "{kind}");
    }
    let cake = "/v3/pushrules/global/content/cake";
    assert_eq!(told(w.get("bob", cake).await), refused(404, "M_NOT_FOUND"));
    let rule = json!({"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]});
    assert_eq!(w.put("bob", cake, rule.clone()).await, done());
    assert_eq!(w.put("bob", "/v3/pushrules/global/content/tea?before=cake", rule.clone()).await, done());
    assert_eq!(w.get("bob", cake).await.1["pattern"], "cake");
    assert_eq!(w.get("bob", &format!("{cake}/enabled")).await, (200, json!({"enabled": true})));
    assert_eq!(w.get("bob", &format!("{cake}/actions")).await, (200, json!({"actions": rule["actions"]})));
    let content = w.get("bob", "/v3/pushrules/global/").await.1["content"].clone();
    assert_eq!((&content[0]["rule_id"], &content[1]["rule_id"]), (&json!("tea"), &json!("cake")));

    w.say("ada", json!({"body": "cake", "msgtype": "m.text"})).await;
    assert_eq!(w.unread("bob").await, (1, 1));
    assert_eq!(w.put("bob", &format!("{cake}/enabled"), json!({"enabled": false})).await, done());
    assert_eq!(w.delete("bob", "/v3/pushrules/global/content/tea").await, done());
    w.say("ada", json!({"body": "cake", "msgtype": "m.text"})).await;
    assert_eq!(w.unread("bob").await, (2, 1));
    let mute = "/v3/pushrules/global/room/{room}";
    assert_eq!(w.put("bob", mute, json!({"actions": ["dont_notify"]})).await, done());
    w.say("ada", json!({"body": "x", "msgtype": "m.text"})).await;
    assert_eq!(w.unread("bob").await, (2, 1));
    assert_eq!(w.put("bob", &format!("{mute}/actions"), json!({"actions": ["notify"]})).await, done());
    w.say("ada", json!({"body": "x", "msgtype": "m.text"})).await;
    assert_eq!(w.unread("bob").await, (3, 1));

    let wrong = |path: &str| format!("/v3/pushrules/global/{path}");
    assert_eq!(told(w.put("bob", &wrong("odd/x"), rule.clone()).await).0, 400);
    assert_eq!(told(w.put("bob", &wrong("content/.x"), rule.clone()).await).0, 400);
    assert_eq!(told(w.put("bob", &wrong("content/x?after=no"), rule.clone()).await), refused(400, "M_UNKNOWN"));
    assert_eq!(told(w.put("bob", &wrong("content/x"), json!({"actions": []})).await), refused(400, "M_BAD_JSON"));
    assert_eq!(told(w.put("bob", &wrong("sender/.nobody"), rule).await).0, 400);
    assert_eq!(told(w.delete("bob", &wrong("content/x")).await), refused(404, "M_NOT_FOUND"));
    assert_eq!(
        told(w.put("bob", &wrong("room/x/enabled"), json!({"enabled": true})).await),
        refused(404, "M_NOT_FOUND")
    );
}

#[tokio::test]
async fn pushers() {
    let w = world(|_| {}).await;
    assert_eq!(w.get("ada", "/v3/pushers").await, (200, json!({"pushers": []})));
    let pusher = json!({
        "app_id": "org.app", "pushkey": "k", "kind": "http", "app_display_name": "App", "lang": "en",
        "device_display_name": "Phone", "data": {"url": "https://p.org/_matrix/push/v1/notify", "format": "event_id_only"},
    });
    assert_eq!(w.post("ada", "/v3/pushers/set", pusher.clone()).await, done());
    let (_, set) = w.get("ada", "/v3/pushers").await;
    let mut expected = pusher.clone();
    expected["org.matrix.msc3881.enabled"] = json!(true);
    expected["org.matrix.msc3881.device_id"] = json!("PHONE");
    assert_eq!(set, json!({"pushers": [expected]}));
    let mut partial = pusher.clone();
    partial.as_object_mut().unwrap().remove("lang");
    let (status, answer) = w.post("ada", "/v3/pushers/set", partial).await;
    assert_eq!(
        (status, &answer["errcode"], &answer["error"]),
        (400, &json!("M_MISSING_PARAM"), &json!("Missing parameters: lang"))
    );
    let gone = json!({"app_id": "org.app", "pushkey": "k", "kind": null});
    assert_eq!(w.post("ada", "/v3/pushers/set", gone).await, done());
    assert_eq!(w.get("ada", "/v3/pushers").await, (200, json!({"pushers": []})));
}

#[tokio::test]
async fn receipts_and_markers() {
    let w = world(|_| {}).await;
    let one = w.say("ada", json!({"body": "1", "msgtype": "m.text"})).await;
    let two = w.say("ada", json!({"body": "2", "msgtype": "m.text"})).await;
    assert_eq!(w.unread("bob").await, (2, 0));
    let path = |kind: &str, event: &str| format!("/v3/rooms/{{room}}/receipt/{kind}/{event}");
    assert_eq!(w.post("bob", &path("m.read", &one), json!({})).await, done());
    assert_eq!(w.unread("bob").await, (1, 0));
    assert_eq!(w.raw("POST", &path("m.read.private", &two), "bob", "").await, done());
    assert_eq!(w.unread("bob").await, (0, 0));
    for thread in [json!(3), json!(""), json!("$nothing")] {
        let answer = w.post("bob", &path("m.read", &two), json!({"thread_id": thread})).await;
        assert_eq!(told(answer), refused(400, "M_INVALID_PARAM"));
    }
    assert_eq!(w.post("bob", &path("m.read", &two), json!({"thread_id": "main"})).await, done());
    assert_eq!(told(w.post("bob", &path("m.odd", &two), json!({})).await), refused(400, "M_INVALID_PARAM"));
    assert_eq!(told(w.post("bob", &path("m.read", "$no"), json!({})).await), refused(404, "M_NOT_FOUND"));
    assert_eq!(told(w.post("cleo", &path("m.read", &two), json!({})).await).0, 404);
    let markers = json!({"m.fully_read": two, "m.read": two});
    assert_eq!(w.post("bob", "/v3/rooms/{room}/read_markers", markers).await, done());
    let marker = w.get("bob", "/v3/user/@bob:x.org/rooms/{room}/account_data/m.fully_read").await;
    assert_eq!(marker, (200, json!({"event_id": two})));
}

#[tokio::test]
async fn typing() {
    let w = world(|_| {}).await;
    let room = w.services.store.room_nid(&w.room).await.unwrap().unwrap();
    let path = "/v3/rooms/{room}/typing/@bob:x.org";
    assert_eq!(w.put("bob", path, json!({"typing": true, "timeout": 1000})).await, done());
    assert_eq!(w.services.typing.users(room), [id("bob")]);
    assert_eq!(w.put("bob", path, json!({"typing": true})).await, done());
    w.say("bob", json!({"body": "there", "msgtype": "m.text"})).await;
    assert!(w.services.typing.users(room).is_empty());
    assert_eq!(w.put("bob", path, json!({"typing": false})).await, done());
    assert_eq!(told(w.put("ada", path, json!({"typing": true})).await), refused(403, "M_FORBIDDEN"));
    assert_eq!(told(w.put("bob", path, json!({"typing": "yes"})).await), refused(400, "M_BAD_JSON"));
    let outside = "/v3/rooms/{room}/typing/@cleo:x.org";
    assert_eq!(told(w.put("cleo", outside, json!({"typing": true})).await), refused(403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn profiles_and_their_rooms() {
    let w = world(|_| {}).await;
    let name = "/v3/profile/@bob:x.org/displayname";
    assert_eq!(w.get("", name).await, (200, json!({"displayname": "bob"})));
    assert_eq!(w.put("bob", name, json!({"displayname": "Bob \"B\""})).await, done());
    let avatar = "/v3/profile/@bob:x.org/avatar_url";
    assert_eq!(w.put("bob", avatar, json!({"avatar_url": "mxc://x.org/abc"})).await, done());
    let zone = "/v3/profile/@bob:x.org/m.tz";
    assert_eq!(w.put("bob", zone, json!({"m.tz": "Europe/Paris"})).await, done());
    assert_eq!(
        w.put("bob", "/unstable/uk.tcpip.msc4133/profile/@bob:x.org/org.x.n", json!({"org.x.n": null})).await,
        done()
    );
    let whole =
        json!({"displayname": "Bob \"B\"", "avatar_url": "mxc://x.org/abc", "m.tz": "Europe/Paris", "org.x.n": null});
    assert_eq!(w.get("", "/v3/profile/@bob:x.org").await, (200, whole));

    let room = w.services.state.room(&w.room).await.unwrap();
    let member = w.services.state.current_entry(&room, "m.room.member", "@bob:x.org").await.unwrap().unwrap();
    let content: Value = member.pdu.content_as().unwrap();
    assert_eq!((&content["displayname"], &content["avatar_url"]), (&json!("Bob \"B\""), &json!("mxc://x.org/abc")));
    assert_eq!(content["membership"], "join");
    let before = w.services.store.head();
    assert_eq!(w.put("bob", name, json!({"displayname": "Bob \"B\""})).await, done());
    assert_eq!(w.services.store.head(), before, "the same name is no news");
    assert_eq!(w.put("bob", &format!("{name}?propagate=false"), json!({"displayname": "Q"})).await, done());
    assert_eq!(w.services.store.head(), before, "asked not to show it");
    assert_eq!(w.put("bob", name, json!({"displayname": "Q"})).await, done());
    let room = w.services.state.room(&w.room).await.unwrap();
    let member = w.services.state.current_entry(&room, "m.room.member", "@bob:x.org").await.unwrap().unwrap();
    assert_eq!(member.pdu.content_as::<Value>().unwrap()["displayname"], "Q", "said again, it is shown");

    assert_eq!(w.delete("bob", zone).await, done());
    assert_eq!(w.delete("bob", zone).await, done());
    assert_eq!(told(w.get("", zone).await), refused(404, "M_NOT_FOUND"));
    assert_eq!(w.put("bob", avatar, json!({"avatar_url": ""})).await, done());
    assert_eq!(w.get("", avatar).await, done());
    assert_eq!(told(w.get("", "/v3/profile/@nobody:x.org").await), refused(404, "M_NOT_FOUND"));
    assert_eq!(told(w.get("", "/v3/profile/nobody").await), refused(400, "M_INVALID_PARAM"));
    assert_eq!(told(w.put("ada", name, json!({"displayname": "x"})).await), refused(403, "M_FORBIDDEN"));
    assert_eq!(told(w.put("bob", name, json!({"name": "x"})).await), refused(400, "M_MISSING_PARAM"));
    assert_eq!(told(w.put("bob", name, json!({"displayname": 3})).await), refused(400, "M_BAD_JSON"));
    let long = json!({"displayname": "x".repeat(257)});
    assert_eq!(told(w.put("bob", name, long).await), refused(400, "M_INVALID_PARAM"));
    let long = json!({"avatar_url": format!("mxc://x/{}", "x".repeat(1000))});
    assert_eq!(told(w.put("bob", avatar, long).await), refused(400, "M_INVALID_PARAM"));
    for key in ["Name", "tz", "m.T"] {
        let answer = w.put("bob", &format!("/v3/profile/@bob:x.org/{key}"), json!({key: 1})).await;
        assert_eq!(told(answer), refused(400, "M_INVALID_PARAM"), "{key}");
    }
    let key = format!("m.{}", "x".repeat(254));
    let answer = w.put("bob", &format!("/v3/profile/@bob:x.org/{key}"), json!({&key: 1})).await;
    assert_eq!(told(answer), refused(400, "M_KEY_TOO_LARGE"));
    let large = json!({"org.x.n": "x".repeat(65_400)});
    assert_eq!(told(w.put("bob", "/v3/profile/@bob:x.org/org.x.n", large).await), refused(200, ""));
    let more = json!({"org.x.m": "x".repeat(200)});
    assert_eq!(told(w.put("bob", "/v3/profile/@bob:x.org/org.x.m", more).await), refused(400, "M_PROFILE_TOO_LARGE"));
}

#[tokio::test]
async fn profiles_may_be_kept_among_those_who_share_rooms() {
    let w = world(|s| {
        s.profile.require_auth = true;
        s.profile.shared_rooms_only = true;
        s.profile.set_displayname = false;
        s.profile.forbidden_fields = vec!["org.x".to_owned()];
    })
    .await;
    let name = "/v3/profile/@bob:x.org/displayname";
    assert_eq!(told(w.get("", name).await), refused(401, "M_MISSING_TOKEN"));
    assert_eq!(told(w.get("cleo", name).await), refused(403, "M_FORBIDDEN"));
    assert_eq!(w.get("ada", name).await.0, 200);
    assert_eq!(w.get("bob", name).await.0, 200);
    assert_eq!(told(w.put("bob", name, json!({"displayname": "x"})).await), refused(403, "M_FORBIDDEN"));
    assert_eq!(
        told(w.put("bob", "/v3/profile/@bob:x.org/org.x", json!({"org.x": 1})).await),
        refused(403, "M_FORBIDDEN")
    );
}

#[tokio::test]
async fn presence() {
    let w = world(|_| {}).await;
    let path = "/v3/presence/@bob:x.org/status";
    assert_eq!(w.put("bob", path, json!({"presence": "online", "status_msg": "hi"})).await, done());
    let (_, status) = w.get("ada", path).await;
    assert_eq!((&status["presence"], &status["status_msg"]), (&json!("online"), &json!("hi")));
    assert_eq!(told(w.get("cleo", path).await), refused(403, "M_FORBIDDEN"));
    assert_eq!(told(w.put("ada", path, json!({"presence": "online"})).await), refused(403, "M_FORBIDDEN"));
    let own = "/v3/presence/@cleo:x.org/status";
    assert_eq!(told(w.put("cleo", own, json!({"presence": "asleep"})).await), refused(400, "M_INVALID_PARAM"));
}
