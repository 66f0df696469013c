//! The foundation by itself: decoding, errors, CORS, tokens, on a router over an empty SQLite store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use axum::{Router, body::Body};
use hearth_base::{clock::Clock, tasks::Supervisor};
use hearth_service::{Services, login::token_hash};
use hearth_store::{
    Store,
    accounts::NewAccount,
    db::Engine,
    devices::NewDevice,
    login::{NewRefresh, NewToken},
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use ruma::{ServerName, UserId};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    Cx, Settings,
    extract::{Client, Public},
    respond::RawJson,
    routes::Routes,
};

struct World {
    router: Router,
    services: Arc<Services>,
    _dir: tempfile::TempDir,
}

async fn echo(
    _: Cx,
    req: Public<ruma::api::client::session::refresh_token::v3::Request>,
) -> hearth_base::Result<RawJson> {
    Ok(RawJson(json!({"got": req.body.refresh_token}).to_string().into()))
}

async fn device(
    _: Cx,
    req: Client<ruma::api::client::device::get_device::v3::Request>,
) -> hearth_base::Result<RawJson> {
    Ok(RawJson(json!({"device": req.body.device_id}).to_string().into()))
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let engine = Engine::Sqlite { path: dir.path().join("t.db") };
    let store = Store::open(&hearth_store::Settings::new(engine), &supervisor).await.unwrap();
    let settings = hearth_service::Settings::new(ServerName::parse("localhost").unwrap());
    let services = Services::start(settings, store, Clock::new(), supervisor).await.unwrap();
    let cx = Cx::new(services.clone(), Settings { max_body_bytes: 1000, ..Settings::default() });
    let router = Routes::new().on(echo).on(device).on(crate::client::accounts::who_am_i).into_router(cx);
    World { router, services, _dir: dir }
}

impl World {
    async fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &(impl AsRef<[u8]> + ?Sized),
    ) -> (http::response::Parts, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer =
            self.router.clone().oneshot(request.body(Body::from(body.as_ref().to_owned())).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn errcode(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &(impl AsRef<[u8]> + ?Sized),
    ) -> (u16, String) {
        let (parts, body) = self.send(method, path, token, body).await;
        assert_eq!(parts.headers["access-control-allow-origin"], "*");
        (parts.status.as_u16(), body["errcode"].as_str().unwrap_or_default().to_owned())
    }

    async fn user(&self, name: &str, token: &str, refresh: Option<&str>, expires_ms: Option<i64>) {
        let id = UserId::parse(format!("@{name}:localhost")).unwrap();
        let user = self.services.store.intern_user(&id).await.unwrap();
        let device = NewDevice {
            user,
            device_id: "PHONE".to_owned(),
            display_name: None,
            created_ms: 1,
            ip: None,
            user_agent: None,
        };
        let token = NewToken {
            token_hash: token_hash(token),
            user,
            device_id: Some("PHONE".to_owned()),
            created_ms: 1,
            expires_ms,
            refresh: refresh.map(|r| NewRefresh { token_hash: token_hash(r), expires_ms: None, ultimate_ms: None }),
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
            displayname: None,
            registration_token: None,
            consent_version: None,
            session: Some((device, token)),
        };
        assert_eq!(self.services.store.create_account(new).await.unwrap(), hearth_store::accounts::Created::Yes);
    }
}

const REFRESH: &str = "/_matrix/client/v3/refresh";
const WHO: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn what_does_not_decode_is_told_as_the_specification_says() {
    let w = world().await;
    let ok = w.send("POST", REFRESH, None, r#"{"refresh_token":"a"}"#).await;
    assert_eq!((ok.0.status, ok.1), (StatusCode::OK, json!({"got": "a"})));
    let old = "/_matrix/client/unstable/org.matrix.msc2918/refresh";
    assert_eq!(w.send("POST", old, None, r#"{"refresh_token":"a"}"#).await.0.status, 200);
    let told = |n: u16, code: &str| (n, code.to_owned());
    for (body, want) in [
        ("{", told(400, "M_NOT_JSON")),
        ("rubbish", told(400, "M_NOT_JSON")),
        ("{\"refresh_token\": 5, rubbish", told(400, "M_NOT_JSON")),
        ("\u{1}", told(400, "M_NOT_JSON")),
        ("[]", told(400, "M_BAD_JSON")),
        ("[\"a\"]", told(400, "M_BAD_JSON")),
        ("\"a\"", told(400, "M_BAD_JSON")),
        ("{}", told(400, "M_BAD_JSON")),
        ("", told(400, "M_BAD_JSON")),
        ("{\"refresh_token\": 5}", told(400, "M_BAD_JSON")),
        (&format!("{{\"refresh_token\": \"{}\"}}", "x".repeat(1000)), told(413, "M_TOO_LARGE")),
        (&"[".repeat(900), told(400, "M_NOT_JSON")),
    ] {
        assert_eq!(w.errcode("POST", REFRESH, None, body).await, want, "{body}");
    }
    let odd = b"{\"refresh_token\": \"a\", \"unread\": \"\x81\"}";
    assert_eq!(w.errcode("POST", REFRESH, None, odd).await, told(400, "M_NOT_JSON"));
    assert_eq!(w.errcode("GET", REFRESH, None, "").await, told(405, "M_UNRECOGNIZED"));
    assert_eq!(w.errcode("GET", "/_matrix/client/v3/nothing", None, "").await, told(404, "M_UNRECOGNIZED"));
}

#[tokio::test]
async fn a_preflight_runs_nothing_and_is_answered_everywhere() {
    let w = world().await;
    for path in [REFRESH, WHO, "/_matrix/client/v3/nothing"] {
        let (parts, body) = w.send("OPTIONS", path, None, "").await;
        assert!(parts.status.is_success(), "{path}");
        assert_eq!(parts.headers["access-control-allow-origin"], "*");
        assert!(parts.headers["access-control-allow-headers"].to_str().unwrap().contains("Authorization"));
        assert!(parts.headers["access-control-allow-methods"].to_str().unwrap().contains("PUT"));
        assert_eq!(body, Value::Null);
    }
}

#[tokio::test]
async fn a_token_is_asked_for_before_anything_else() {
    let w = world().await;
    w.user("ada", "good", None, None).await;
    let told = |n: u16, code: &str| (n, code.to_owned());
    assert_eq!(w.errcode("GET", WHO, None, "").await, told(401, "M_MISSING_TOKEN"));
    assert_eq!(w.errcode("GET", WHO, Some(""), "").await, told(401, "M_MISSING_TOKEN"));
    let (parts, body) = w.send("GET", WHO, Some("bad"), "").await;
    assert_eq!(
        (parts.status.as_u16(), &body["errcode"], &body["soft_logout"]),
        (401, &json!("M_UNKNOWN_TOKEN"), &json!(false))
    );
    let (parts, body) = w.send("GET", WHO, Some("good"), "").await;
    assert_eq!(parts.status, 200);
    assert_eq!(body, json!({"user_id": "@ada:localhost", "device_id": "PHONE"}));
    assert_eq!(w.send("GET", &format!("{WHO}?access_token=good"), None, "").await.0.status, 200);
    assert_eq!(w.errcode("GET", &format!("{WHO}?access_token=goo"), None, "").await, told(401, "M_UNKNOWN_TOKEN"));
    w.services
        .store
        .delete_devices(
            w.services.store.user_nid(&UserId::parse("@ada:localhost").unwrap()).await.unwrap().unwrap(),
            vec!["PHONE".to_owned()],
        )
        .await
        .unwrap();
    assert_eq!(w.errcode("GET", WHO, Some("good"), "").await, told(401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout() {
    let w = world().await;
    let end = i64::try_from(w.services.clock.now_ms()).unwrap() + 60_000;
    w.user("ada", "short", Some("r"), Some(end)).await;
    assert_eq!(w.send("GET", WHO, Some("short"), "").await.0.status, 200);
    w.services.clock.advance_ms(61_000);
    let (parts, body) = w.send("GET", WHO, Some("short"), "").await;
    assert_eq!(
        (parts.status.as_u16(), &body["errcode"], &body["soft_logout"]),
        (401, &json!("M_UNKNOWN_TOKEN"), &json!(true))
    );
}

#[tokio::test]
async fn a_logout_whose_caller_hung_up_is_one_all_the_same() {
    let w = world().await;
    w.user("ada", "good", None, None).await;
    assert_eq!(w.send("GET", WHO, Some("good"), "").await.0.status, 200);
    let session = w.services.login.authenticate("good").await.unwrap();
    {
        let mut logout = std::pin::pin!(w.services.login.logout(&session.requester));
        assert!(futures_util::poll!(logout.as_mut()).is_pending());
    }
    // The next write is answered after that one.
    w.user("eve", "other", None, None).await;
    assert_eq!(w.errcode("GET", WHO, Some("good"), "").await, (401, "M_UNKNOWN_TOKEN".to_owned()));
}

#[tokio::test]
async fn path_arguments_are_decoded_once() {
    let w = world().await;
    w.user("ada", "good", None, None).await;
    let (_, body) = w.send("GET", "/_matrix/client/v3/devices/a%2Fb%25%20c", Some("good"), "").await;
    assert_eq!(body, json!({"device": "a/b% c"}));
    let bad = w.errcode("GET", "/_matrix/client/v3/devices/%ff", Some("good"), "").await;
    assert_eq!(bad, (400, "M_INVALID_PARAM".to_owned()));
}

#[test]
fn no_path_stands_twice() {
    let mut seen = std::collections::HashSet::new();
    for route in crate::routes().table() {
        assert!(seen.insert((route.method.clone(), route.path.clone())), "{} {}", route.method, route.path);
    }
}

#[tokio::test]
async fn what_nests_too_deep_is_refused() {
    let world = world().await;
    let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let body = |levels: usize| format!("{{\"refresh_token\":\"{{{{[[\\\"\",\"x\":{}}}", nested(levels));
    let (parts, answer) = world.send("POST", REFRESH, None, &body(99)).await;
    assert_eq!((parts.status.as_u16(), &answer["got"]), (200, &json!("{{[[\"")));
    assert_eq!(world.errcode("POST", REFRESH, None, &body(100)).await, (400, "M_BAD_JSON".to_owned()));
    assert_eq!(world.errcode("POST", REFRESH, None, &"[".repeat(900)).await, (400, "M_NOT_JSON".to_owned()));
}
