//! Whatever is thrown at any route: an answer in time, never a fault, always the form that clients rely on.
//!
//! Requests are drawn from a fixed seed: each route in turn, arguments and bodies that fit it or nearly do, or do not at
//! all. A failure tells the request, which is enough to repeat it.

use std::time::{Duration, Instant};

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::{
    on_both,
    support::{
        TestServer, User,
        rooms::{encoded, txn},
    },
};

/// How often each route is asked.
const ROUNDS: usize = 12;
/// The longest an answer may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const MAX_ANSWER: usize = 8 << 20;

/// What there is to name.
struct World {
    router: Router,
    user: User,
    admin: User,
    /// Ids of all kinds, by the kind.
    ids: Vec<(&'static str, Vec<String>)>,
}

const ODD: [&str; 22] = [
    "",
    " ",
    "%00",
    "%FF",
    "%",
    "..",
    ".",
    "%2F",
    "%2f..%2f",
    "null",
    "0",
    "-1",
    "99999999999999999999",
    "!",
    "$",
    "@",
    "#:",
    "%F0%9F%A6%8A",
    "a%20b",
    "'%3B--",
    "%22",
    "%7B%7D",
];

impl World {
    async fn new(server: &TestServer, seed: u64) -> Self {
        let user = server.user(&format!("fox{seed}")).await;
        let admin = server.admin(&format!("owl{seed}")).await;
        let alias = format!("den{seed}");
        let room = user.creates(json!({ "preset": "public_chat", "room_alias_name": alias, "name": "Den" })).await;
        let other = admin.creates(json!({ "name": "closed" })).await;
        let root = user.says(&room, "hello").await;
        let reply = json!({ "body": "re", "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
        user.sends(&room, "m.room.message", &txn(), reply).await.good();
        let hidden = admin.says(&other, "hidden").await;
        let sync = user.now().await;
        let page = user.pages(&room, "dir=b&limit=2").await;
        let ids = vec![
            ("room", vec![room, other, "!no:where".into()]),
            ("event", vec![root, hidden, "$no".into(), "$no:where".into()]),
            ("user", vec![user.id.to_string(), admin.id.to_string(), "@no:where".into(), "@no:localhost".into()]),
            ("alias", vec![format!("#{alias}:localhost"), "#no:localhost".into(), "#no:where".into()]),
            ("device", vec![user.device.clone(), "NONE".into()]),
            (
                "type",
                ["m.room.message", "m.room.name", "m.room.member", "m.tag", "m.room.power_levels", "x"]
                    .map(String::from)
                    .into(),
            ),
            ("server", vec!["localhost".into(), "example.org".into()]),
            (
                "token",
                vec![sync, page["end"].as_str().unwrap_or_default().to_owned(), "t1_1".into(), "h0_0_0_0".into()],
            ),
            (
                "word",
                ["m.read", "global", "override", "content", ".m.rule.master", "displayname", "m.thread", "0", "u.x"]
                    .map(String::from)
                    .into(),
            ),
        ];
        Self { router: server.router().clone(), user, admin, ids }
    }

    fn id(&self, rng: &mut StdRng, kind: &str) -> String {
        let of_kind = self.ids.iter().find(|(k, _)| *k == kind).and_then(|(_, ids)| ids.choose(rng));
        of_kind.cloned().unwrap_or_default()
    }

    fn any_id(&self, rng: &mut StdRng) -> String {
        let kind = self.ids.choose(rng).map(|(kind, _)| *kind).unwrap_or_default();
        self.id(rng, kind)
    }

    /// What an argument after that segment of a path is likely to be.
    fn argument(&self, rng: &mut StdRng, before: &str) -> String {
        match rng.random_range(0..20) {
            0..=1 => ODD.choose(rng).copied().unwrap_or_default().to_owned(),
            2 => "a".repeat(rng.random_range(200..3000)),
            3 => encoded(&self.any_id(rng)),
            _ => {
                let kind = match before {
                    "rooms" | "join" | "knock" | "summary" | "room_summary" => "room",
                    "room" => "alias",
                    "user" | "users" | "profile" | "presence" | "typing" | "whois" | "admin" => "user",
                    "event" | "events" | "context" | "relations" | "redact" | "report" => "event",
                    "state" | "send" | "account_data" | "sendToDevice" => "type",
                    "devices" => "device",
                    "download" | "thumbnail" | "upload" => "server",
                    _ => "word",
                };
                encoded(&self.id(rng, kind))
            }
        }
    }

    fn path(&self, rng: &mut StdRng, pattern: &str) -> String {
        let (mut out, mut before) = (String::new(), "");
        for segment in pattern.split('/').skip(1) {
            out.push('/');
            if segment.starts_with('{') {
                // Of several in a row each is a thing of its own.
                let kind = if before.starts_with('{') { "" } else { before };
                out.push_str(&self.argument(rng, kind));
            } else {
                out.push_str(segment);
            }
            before = segment;
        }
        out
    }

    fn query(&self, rng: &mut StdRng, pattern: &str) -> String {
        const NAMES: [&str; 36] = [
            "from",
            "to",
            "since",
            "limit",
            "dir",
            "filter",
            "ts",
            "membership",
            "not_membership",
            "at",
            "kind",
            "full_state",
            "set_presence",
            "user_id",
            "propagate",
            "width",
            "height",
            "method",
            "animated",
            "only",
            "include",
            "recurse",
            "max_depth",
            "suggested_only",
            "version",
            "server_name",
            "via",
            "format",
            "url",
            "timeout_ms",
            "before",
            "after",
            "use_state_after",
            "username",
            "room_id",
            "archived",
        ];
        let mut pairs = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            let name = NAMES.choose(rng).copied().unwrap_or_default();
            let value = match rng.random_range(0..10) {
                0 => ODD.choose(rng).copied().unwrap_or_default().to_owned(),
                1 => encoded(&self.value(rng, 2).to_string()),
                2..=4 => encoded(&self.id(rng, "token")),
                5 => encoded(&self.any_id(rng)),
                6 => ["b", "f", "x"].choose(rng).copied().unwrap_or_default().to_owned(),
                7 => ["true", "false", "join", "leave", "participated", "highlight", "crop", "scale"]
                    .choose(rng)
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
                _ => rng.random_range(0..300).to_string(),
            };
            pairs.push(format!("{name}={value}"));
        }
        // Waiting for news is not what is tried here, and the old stream waits unasked.
        if pattern.ends_with("/events") || rng.random_bool(0.2) {
            let timeout =
                ["timeout=0", "timeout=-1", "timeout=x", "timeout=1"].choose(rng).copied().unwrap_or_default();
            // Before what may end the query.
            pairs.insert(0, timeout.to_owned());
        }
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }

    fn text(&self, rng: &mut StdRng) -> String {
        match rng.random_range(0..12) {
            0 => String::new(),
            1 => "\0".to_owned(),
            2 => "\u{202e}\u{1f98a}\"\\\n".to_owned(),
            3 => "x".repeat(rng.random_range(1000..70_000)),
            4..=5 => {
                ["m.login.password", "m.login.dummy", "m.id.user", "join", "invite", "public", "event_match", "notify"]
                    .choose(rng)
                    .copied()
                    .unwrap_or_default()
                    .to_owned()
            }
            _ => self.any_id(rng),
        }
    }

    fn value(&self, rng: &mut StdRng, depth: usize) -> Value {
        match rng.random_range(0..if depth == 0 { 8 } else { 11 }) {
            0 => Value::Null,
            1 => json!(rng.random_bool(0.5)),
            2 => json!(rng.random_range(-5..100)),
            3 => [json!(i64::MIN), json!(u64::MAX), json!(1e300), json!(-0.5), json!(1_u64 << 53)]
                .choose(rng)
                .cloned()
                .unwrap_or_default(),
            4..=7 => json!(self.text(rng)),
            8 => json!((0..rng.random_range(0..4)).map(|_| self.value(rng, depth - 1)).collect::<Vec<_>>()),
            _ => {
                let mut object = Map::new();
                for _ in 0..rng.random_range(0..5) {
                    let key = KEYS.choose(rng).map_or_else(String::new, |k| (*k).to_owned());
                    let key = if rng.random_bool(0.2) { self.any_id(rng) } else { key };
                    object.insert(key, self.value(rng, depth - 1));
                }
                Value::Object(object)
            }
        }
    }

    /// Changes something somewhere in a value.
    fn bend(&self, rng: &mut StdRng, value: &mut Value) {
        match value {
            Value::Object(map) if !map.is_empty() && rng.random_bool(0.9) => {
                let n = rng.random_range(0..map.len());
                let Some(key) = map.keys().nth(n).cloned() else { return };
                match rng.random_range(0..5) {
                    0 => drop(map.remove(&key)),
                    1 => drop(map.insert(key, self.value(rng, 2))),
                    2 => drop(map.insert(KEYS.choose(rng).copied().unwrap_or_default().to_owned(), self.value(rng, 2))),
                    _ => {
                        if let Some(inner) = map.get_mut(&key) {
                            self.bend(rng, inner);
                        }
                    }
                }
            }
            Value::Array(list) if !list.is_empty() && rng.random_bool(0.8) => {
                let n = rng.random_range(0..list.len());
                if let Some(inner) = list.get_mut(n) {
                    self.bend(rng, inner);
                }
            }
            value => *value = self.value(rng, 3),
        }
    }

    fn body(&self, rng: &mut StdRng, pattern: &str) -> Option<Vec<u8>> {
        let fitting = self.fitting(rng, pattern);
        let text = match rng.random_range(0..20) {
            0 => return None,
            1 => return Some((0..rng.random_range(1..200)).map(|_| rng.random()).collect()),
            2 => "[".repeat(rng.random_range(1..2000)),
            3 => format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500)),
            4 => {
                let text = fitting.to_string();
                text.chars().take(rng.random_range(0..=text.len())).collect()
            }
            5..=6 => self.value(rng, 4).to_string(),
            7..=9 => {
                let mut object = Map::new();
                for _ in 0..rng.random_range(0..8) {
                    object.insert(KEYS.choose(rng).copied().unwrap_or_default().to_owned(), self.value(rng, 3));
                }
                Value::Object(object).to_string()
            }
            10..=13 => fitting.to_string(),
            _ => {
                let mut bent = fitting;
                for _ in 0..rng.random_range(1..4) {
                    self.bend(rng, &mut bent);
                }
                bent.to_string()
            }
        };
        Some(text.into_bytes())
    }

    /// A body that the route would take.
    fn fitting(&self, rng: &mut StdRng, pattern: &str) -> Value {
        let user = self.id(rng, "user");
        let device = self.user.device.clone();
        let event = self.id(rng, "event");
        let ends = |end: &str| pattern.ends_with(end);
        let has = |part: &str| pattern.contains(part);
        if ends("/createRoom") {
            json!({ "preset": "private_chat", "name": "n", "topic": "t", "invite": [user], "is_direct": true, "visibility": "private",
                "room_version": "11", "creation_content": { "m.federate": false }, "power_level_content_override": { "users": { (user): 50 } },
                "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }] })
        } else if ends("/keys/upload") {
            json!({ "device_keys": { "user_id": self.user.id, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
                "keys": { (format!("ed25519:{device}")): "a2V5" }, "signatures": {} },
                "one_time_keys": { "signed_curve25519:AAA": { "key": "a2V5", "signatures": {} } }, "fallback_keys": {} })
        } else if ends("/keys/query") {
            json!({ "device_keys": { (user): [device] } })
        } else if ends("/keys/claim") {
            json!({ "one_time_keys": { (user): { (device): "signed_curve25519" } } })
        } else if ends("/device_signing/upload") || ends("/signatures/upload") {
            let key = json!({ "user_id": self.user.id, "usage": ["master"], "keys": { "ed25519:a2V5": "a2V5" }, "signatures": {} });
            json!({ "master_key": key, (user): { (device): key } })
        } else if has("/pushrules/") {
            json!({ "actions": ["notify", { "set_tweak": "sound", "value": "x" }], "pattern": "x", "enabled": true,
                "conditions": [{ "kind": "event_match", "key": "content.body", "pattern": "a*" }] })
        } else if ends("/pushers/set") {
            json!({ "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "A", "device_display_name": "D", "lang": "en",
                "data": { "url": "https://push.example.org/_matrix/push/v1/notify" } })
        } else if has("/room_keys") {
            let key =
                json!({ "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": {} });
            json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "a2V5" }, "version": "1",
                "rooms": { (self.id(rng, "room")): { "sessions": { "s": key } } }, "sessions": { "s": key },
                "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": {} })
        } else if ends("/login") || ends("/register") {
            json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": self.user.id }, "password": self.user.password(),
                "username": format!("u{}", rng.random_range(0..1000)), "auth": { "type": "m.login.dummy" } })
        } else if has("/sendToDevice/") {
            json!({ "messages": { (user): { (device): { "a": 1 }, "*": {} } } })
        } else if ends("/filter") {
            json!({ "room": { "timeline": { "limit": 3, "types": ["m.*"] }, "rooms": [self.id(rng, "room")] }, "event_fields": ["content.body"] })
        } else if has("/receipt/") || ends("/read_markers") {
            json!({ "m.fully_read": event, "m.read": event, "thread_id": "main" })
        } else if has("/typing/") {
            json!({ "typing": true, "timeout": 1000 })
        } else if has("/send/") {
            json!({ "msgtype": "m.text", "body": "b", "m.relates_to": { "rel_type": "m.annotation", "event_id": event, "key": "k" },
                "m.mentions": { "user_ids": [user], "room": true } })
        } else if has("/state/") {
            json!({ "membership": "invite", "users": { (user): 3 }, "name": "n", "alias": "#den:localhost", "via": ["a"], "join_rule": "public" })
        } else if has("/profile/") {
            json!({ "displayname": "d", "avatar_url": "mxc://localhost/a", "u.x": 1 })
        } else if has("/tags/") {
            json!({ "order": 0.5 })
        } else if has("/presence/") {
            json!({ "presence": "online", "status_msg": "s" })
        } else if ends("/upgrade") {
            json!({ "new_version": "12" })
        } else if has("/directory/") {
            json!({ "room_id": self.id(rng, "room"), "visibility": "public" })
        } else {
            json!({ "user_id": user, "reason": "r", "limit": 3, "search_term": "o", "filter": { "generic_search_term": "d" },
                "devices": [device], "display_name": "n", "locked": true, "suspended": false, "score": -3, "refresh_token": "x" })
        }
    }

    async fn ask(&mut self, request: Request<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let answer = self.router.clone().oneshot(request).await.unwrap_or_else(|e| match e {});
        let (parts, body) = answer.into_parts();
        let body = http_body_util::Limited::new(body, MAX_ANSWER).collect().await;
        (parts.status, parts.headers, body.map(|b| b.to_bytes().to_vec()).unwrap_or_default())
    }
}

/// Names of what stands in requests.
const KEYS: [&str; 60] = [
    "type",
    "user",
    "user_id",
    "room_id",
    "event_id",
    "password",
    "username",
    "auth",
    "session",
    "identifier",
    "token",
    "device_id",
    "content",
    "membership",
    "reason",
    "invite",
    "invite_3pid",
    "initial_state",
    "state_key",
    "preset",
    "name",
    "topic",
    "visibility",
    "room_version",
    "creation_content",
    "power_level_content_override",
    "users",
    "events",
    "limit",
    "filter",
    "room",
    "timeline",
    "state",
    "types",
    "not_types",
    "senders",
    "m.relates_to",
    "rel_type",
    "key",
    "redacts",
    "m.mentions",
    "m.new_content",
    "messages",
    "device_keys",
    "one_time_keys",
    "keys",
    "signatures",
    "algorithm",
    "auth_data",
    "rooms",
    "sessions",
    "data",
    "url",
    "actions",
    "conditions",
    "pattern",
    "tags",
    "order",
    "thread_id",
    "erase",
];

/// What is wrong with an answer, if anything is.
fn wrong(path: &str, status: StatusCode, headers: &HeaderMap, body: &[u8], took: Duration) -> Option<String> {
    // That another server cannot be reached is no fault of ours.
    if status.is_server_error() && status != StatusCode::BAD_GATEWAY {
        return Some("a fault".to_owned());
    }
    if took > PATIENCE {
        return Some(format!("it took {took:?}"));
    }
    if headers.get("access-control-allow-origin").is_none_or(|v| v != "*") {
        return Some("no CORS headers".to_owned());
    }
    let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.starts_with("text/html") && path.contains("/fallback/") {
        return None;
    }
    if !status.is_success() && !status.is_redirection() && kind != "application/json" {
        return Some("an error that is not JSON".to_owned());
    }
    if kind != "application/json" {
        return None;
    }
    let json = match serde_json::from_slice::<Value>(body) {
        Ok(json) => json,
        Err(e) => {
            let around =
                body.get(e.column().saturating_sub(200)..(e.column() + 40).min(body.len())).unwrap_or_default();
            return Some(format!("not JSON, {e}, at {}", String::from_utf8_lossy(around)));
        }
    };
    if !status.is_success() && json["errcode"].as_str().is_none_or(str::is_empty) && !json["flows"].is_array() {
        return Some("an error without errcode".to_owned());
    }
    None
}

async fn throw(server: &TestServer, seed: u64) {
    let mut world = World::new(server, seed).await;
    let table: Vec<(Method, String)> =
        hearth_api::routes().table().iter().map(|r| (r.method.clone(), r.path.clone())).collect();
    assert!(table.len() > 150, "{} routes", table.len());
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut bad, mut good, mut asked) = (Vec::new(), 0, 0);
    for _ in 0..ROUNDS {
        for (method, pattern) in &table {
            let path = format!("{}{}", world.path(&mut rng, pattern), world.query(&mut rng, pattern));
            let method = match rng.random_range(0..40) {
                0 => [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD]
                    .choose(&mut rng)
                    .cloned()
                    .unwrap_or_default(),
                _ => method.clone(),
            };
            let mut request = Request::builder().method(method.clone()).uri(&path);
            let token = match rng.random_range(0..20) {
                0 => None,
                1 => Some("rubbish".to_owned()),
                2..=3 => world.admin.token.clone(),
                _ => world.user.token.clone(),
            };
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let body = if method == Method::GET { None } else { world.body(&mut rng, pattern) };
            let told = body.as_ref().map(|b| String::from_utf8_lossy(b).chars().take(600).collect::<String>());
            let Ok(request) = request.body(body.map_or_else(Body::empty, Body::from)) else { continue };
            let started = Instant::now();
            let (status, headers, answer) = world.ask(request).await;
            asked += 1;
            good += usize::from(status.is_success());
            if method != Method::HEAD
                && let Some(what) = wrong(&path, status, &headers, &answer, started.elapsed())
            {
                let answer: String = String::from_utf8_lossy(&answer).chars().take(300).collect();
                let path: String = path.chars().take(300).collect();
                bad.push(format!("{what}: {method} {path}\n  {told:?}\n  {status} {answer}"));
            }
            if status == StatusCode::UNAUTHORIZED {
                // Some of it logs out.
                for user in [&mut world.user, &mut world.admin] {
                    if user.get("/_matrix/client/v3/account/whoami").await.status == StatusCode::UNAUTHORIZED {
                        *user = user.another_device().await;
                    }
                }
            }
        }
    }
    assert!(
        bad.is_empty(),
        "{} of {asked}:\n{}",
        bad.len(),
        bad.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
    );
    assert!(good * 8 > asked, "only {good} of {asked} went through: the requests are no test any more");
}

on_both! {
    async fn nothing_breaks_a_route(server) {
        // More seeds than the usual one for who looks for more: HEARTH_SEEDS=2..40.
        let seeds = std::env::var("HEARTH_SEEDS").unwrap_or_default();
        let (from, upto) = seeds.split_once("..").unwrap_or(("1", "2"));
        for seed in from.parse().unwrap()..upto.parse().unwrap() {
            throw(&server, seed).await;
        }
    }
}
