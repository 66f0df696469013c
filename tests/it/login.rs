//! Logging in and out, refreshing, login tokens, OpenID.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{Plan, TestServer, User},
};

const LOGIN: &str = "/_matrix/client/v3/login";
const REFRESH: &str = "/_matrix/client/v3/refresh";
const WHO: &str = "/_matrix/client/v3/account/whoami";

fn by_password(user: &str, password: &str) -> Value {
    json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": password})
}

fn text(body: &Value, key: &str) -> String {
    body[key].as_str().unwrap_or_else(|| panic!("no {key} in {body}")).to_owned()
}

on_both! {
    async fn a_password_opens_a_session(server) {
        let ada = server.user("ada").await;
        let nobody = server.nobody();
        assert_eq!(nobody.get(LOGIN).await.good()["flows"][0]["type"], "m.login.password");
        for name in ["ada", "@ada:localhost", "ADA", " ada "] {
            let session = nobody.post(LOGIN, by_password(name, &ada.password())).await.good();
            assert_eq!((&session["user_id"], &session["home_server"]), (&json!("@ada:localhost"), &json!("localhost")));
            User::from_session(&server, &session).get(WHO).await.good();
        }
        let old = json!({"type": "m.login.password", "user": "ada", "password": ada.password()});
        nobody.post("/_matrix/client/r0/login", old).await.good();
        for (name, password) in [("ada", "wrong"), ("nobody", "x"), ("@ada:elsewhere.org", "x"), ("", "x"), ("@", "x")] {
            nobody.post(LOGIN, by_password(name, password)).await.refused(403, "M_FORBIDDEN");
        }
    }

    async fn what_is_no_login_is_told_so(server) {
        let nobody = server.nobody();
        for (body, code) in [
            (json!({}), "M_BAD_JSON"),
            (json!({"type": 5}), "M_BAD_JSON"),
            (json!({"type": "m.login.password", "identifier": "ada"}), "M_BAD_JSON"),
            (json!({"type": "m.login.magic"}), "M_UNKNOWN"),
            (json!({"type": "m.login.password"}), "M_MISSING_PARAM"),
            (json!({"type": "m.login.password", "password": "x"}), "M_MISSING_PARAM"),
            (json!({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.user"}}), "M_MISSING_PARAM"),
            (json!({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.magic"}}), "M_UNKNOWN"),
            (json!({"type": "m.login.token"}), "M_MISSING_PARAM"),
        ] {
            nobody.post(LOGIN, body).await.refused(400, code);
        }
        nobody.post(LOGIN, json!({"type": "m.login.token", "token": "none"})).await.refused(403, "M_FORBIDDEN");
        let ada = server.user("ada").await;
        let mut long = by_password("ada", &ada.password());
        long["device_id"] = json!("x".repeat(600));
        nobody.post(LOGIN, long).await.refused(400, "M_INVALID_PARAM");
    }

    async fn texts_that_no_database_holds_are_no_fault(server) {
        let ada = server.user("ada").await;
        let nobody = server.nobody();
        nobody.post(LOGIN, by_password("a\0da", "x")).await.refused(403, "M_FORBIDDEN");
        let with = |key: &str, value: Value| { let mut b = by_password("ada", &ada.password()); b[key] = value; b };
        nobody.post(LOGIN, with("device_id", json!("a\0b"))).await.refused(400, "M_INVALID_PARAM");
        let named = nobody.post(LOGIN, with("initial_device_display_name", json!("a\0b"))).await.good();
        let named = User::from_session(&server, &named);
        let device = format!("/_matrix/client/v3/devices/{}", named.device);
        assert_eq!(named.get(&device).await.good()["display_name"], "ab");
        named.get("/_matrix/client/v3/devices/a%00b").await.refused(400, "M_INVALID_PARAM");
        for answer in [
            named.put(&device, json!({"display_name": "a\0b"})).await,
            nobody.post(REFRESH, json!({"refresh_token": "a\0b"})).await,
            nobody.post("/_matrix/client/v3/register", json!({"auth": {"type": "m.login.dummy", "session": "a\0b"}})).await,
            nobody.get("/_matrix/client/v1/register/m.login.registration_token/validity?token=a%00b").await,
            ada.post("/_matrix/client/v3/account/3pid/delete", json!({"medium": "email", "address": "a\0b"})).await,
            ada.post("/_matrix/client/v3/delete_devices", ada.confirmed(json!({"devices": ["a\0b"]}))).await,
        ] {
            assert!(!answer.status.is_server_error(), "{answer:?}");
        }
    }

    async fn a_third_party_id_stands_for_its_user(server) {
        let ada = server.user("ada").await;
        let nid = server.services().store.user_nid(&ada.id).await.unwrap().unwrap();
        let mail = hearth_store::accounts::Threepid {
            medium: "email".to_owned(), address: "ada@example.org".to_owned(), validated_ms: 1, added_ms: 2,
        };
        server.services().store.add_threepid(nid, mail).await.unwrap();
        let login = |address: &str| json!({"type": "m.login.password", "password": ada.password(),
            "identifier": {"type": "m.id.thirdparty", "medium": "email", "address": address}});
        server.nobody().post(LOGIN, login("Ada@Example.org")).await.good();
        server.nobody().post(LOGIN, login("eve@example.org")).await.refused(403, "M_FORBIDDEN");
        let all = ada.get("/_matrix/client/v3/account/3pid").await.good();
        assert_eq!(all, json!({"threepids": [{"medium": "email", "address": "ada@example.org", "validated_at": 1, "added_at": 2}]}));
        ada.post("/_matrix/client/v3/account/3pid/delete", json!({"medium": "email", "address": "ada@example.org"})).await.good();
        assert_eq!(ada.get("/_matrix/client/v3/account/3pid").await.good(), json!({"threepids": []}));
    }

    async fn the_same_device_logs_in_anew_and_its_old_token_ends(server) {
        let ada = server.user("ada").await;
        let mut body = by_password("ada", &ada.password());
        body["device_id"] = json!(ada.device);
        body["initial_device_display_name"] = json!("ignored for a device we know");
        let again = User::from_session(&server, &server.nobody().post(LOGIN, body).await.good());
        assert_eq!(again.device, ada.device);
        again.get(WHO).await.good();
        ada.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        assert_eq!(again.get("/_matrix/client/v3/devices").await.good()["devices"].as_array().unwrap().len(), 1);
    }

    async fn logging_out_ends_the_session_and_its_device(server) {
        let ada = server.user("ada").await;
        let (phone, tablet) = (ada.another_device().await, ada.another_device().await);
        phone.get(WHO).await.good();
        phone.post("/_matrix/client/v3/logout", json!({})).await.good();
        phone.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        assert_eq!(ada.get("/_matrix/client/v3/devices").await.good()["devices"].as_array().unwrap().len(), 2);
        tablet.post("/_matrix/client/v3/logout/all", json!({})).await.good();
        for user in [&ada, &tablet] {
            let body = user.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
            assert_eq!(body["soft_logout"], false);
        }
    }

    async fn a_refreshed_session_lives_on_and_the_old_pair_until_the_new_is_used(server) {
        let ada = server.user("ada").await;
        let mut body = by_password("ada", &ada.password());
        body["refresh_token"] = json!(true);
        let first = server.nobody().post(LOGIN, body).await.good();
        assert_eq!(first["expires_in_ms"], 300_000);
        let (a1, r1) = (server.with_token(&text(&first, "access_token")), text(&first, "refresh_token"));
        let refresh = |token: &str| { let (n, b) = (server.nobody(), json!({"refresh_token": token})); async move { n.post(REFRESH, b).await } };

        // A lost answer costs nothing: the old pair goes on, and the refresh can be repeated.
        let lost = refresh(&r1).await.good();
        a1.get(WHO).await.good();
        let second = refresh(&r1).await.good();
        server.with_token(&text(&lost, "access_token")).get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        a1.get(WHO).await.good();

        // The first use of the new pair ends the old one.
        let a2 = server.with_token(&text(&second, "access_token"));
        a2.get(WHO).await.good();
        a1.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        refresh(&r1).await.refused(401, "M_UNKNOWN_TOKEN");

        // So does refreshing with the new one.
        let r2 = text(&second, "refresh_token");
        let third = refresh(&r2).await.good();
        let fourth = refresh(&text(&third, "refresh_token")).await.good();
        a2.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        refresh(&r2).await.refused(401, "M_UNKNOWN_TOKEN");

        // What has run out is a soft logout, and can be refreshed.
        let a4 = server.with_token(&text(&fourth, "access_token"));
        a4.get(WHO).await.good();
        server.clock().advance_ms(301_000);
        assert_eq!(a4.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN")["soft_logout"], true);
        let fifth = refresh(&text(&fourth, "refresh_token")).await.good();
        let a5 = server.with_token(&text(&fifth, "access_token"));
        let who = a5.get(WHO).await.good();
        assert_eq!((&who["user_id"], &who["device_id"]), (&json!("@ada:localhost"), &first["device_id"]));

        // Logging out ends the refresh token too.
        a5.post("/_matrix/client/v3/logout", json!({})).await.good();
        refresh(&text(&fifth, "refresh_token")).await.refused(401, "M_UNKNOWN_TOKEN");
        server.nobody().post(REFRESH, json!({})).await.refused(400, "M_BAD_JSON");
    }

    async fn a_locked_account_may_only_log_out(server) {
        let (root, ada) = (server.admin("root").await, server.user("ada").await);
        let path = "/_matrix/client/v1/admin/lock/@ada:localhost";
        ada.get(WHO).await.good();
        assert_eq!(root.get(path).await.good(), json!({"locked": false}));
        assert_eq!(root.put(path, json!({"locked": true})).await.good(), json!({"locked": true}));
        assert_eq!(root.get(path).await.good(), json!({"locked": true}));
        assert_eq!(ada.get(WHO).await.refused(401, "M_USER_LOCKED")["soft_logout"], true);
        server.nobody().post(LOGIN, by_password("ada", &ada.password())).await.refused(401, "M_USER_LOCKED");
        server.nobody().post(LOGIN, by_password("ada", "wrong")).await.refused(403, "M_FORBIDDEN");
        root.put(path, json!({"locked": false})).await.good();
        ada.get(WHO).await.good();
        root.put(path, json!({"locked": true})).await.good();
        ada.post("/_matrix/client/v3/logout", json!({})).await.good();
        server.with_token(ada.token()).get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
    }

    async fn only_administrators_moderate_and_neither_themselves_nor_each_other(server) {
        let (root, ada) = (server.admin("root").await, server.user("ada").await);
        let (other, gone) = (server.admin("other").await, server.user("gone").await);
        gone.post("/_matrix/client/v3/account/deactivate", gone.confirmed(json!({}))).await.good();
        for what in ["lock", "suspend"] {
            let path = |user: &str| format!("/_matrix/client/v1/admin/{what}/{user}");
            let on = json!({"locked": true, "suspended": true});
            ada.put(&path("@root:localhost"), on.clone()).await.refused(403, "M_FORBIDDEN");
            ada.get(&path("@ada:localhost")).await.refused(403, "M_FORBIDDEN");
            root.put(&path("@root:localhost"), on.clone()).await.refused(403, "M_FORBIDDEN");
            root.get(&path("@root:localhost")).await.good();
            root.put(&path("@other:localhost"), on.clone()).await.refused(403, "M_FORBIDDEN");
            root.get(&path("@other:localhost")).await.refused(403, "M_FORBIDDEN");
            for user in ["@nobody:localhost", "@gone:localhost"] {
                root.put(&path(user), on.clone()).await.refused(404, "M_NOT_FOUND");
                root.get(&path(user)).await.refused(404, "M_NOT_FOUND");
            }
            root.put(&path("@ada:example.org"), on.clone()).await.refused(400, "M_INVALID_PARAM");
            root.put(&path("@ada:localhost"), json!({})).await.refused(400, "M_BAD_JSON");
        }
        other.get(WHO).await.good();
        let suspend = "/_matrix/client/v1/admin/suspend/@ada:localhost";
        root.put(suspend, json!({"suspended": true})).await.good();
        assert_eq!(root.get(suspend).await.good(), json!({"suspended": true}));
        ada.get(WHO).await.good();
        assert!(server.services().login.authenticate(ada.token()).await.unwrap().requester.is_suspended);
    }

    async fn another_service_learns_who_one_is_and_nothing_else(server) {
        let ada = server.user("ada").await;
        let path = |user: &str| format!("/_matrix/client/v3/user/{user}/openid/request_token");
        let token = ada.post(&path("@ada:localhost"), json!({})).await.good();
        assert_eq!((&token["token_type"], &token["matrix_server_name"], &token["expires_in"]), (&json!("Bearer"), &json!("localhost"), &json!(3600)));
        let token = text(&token, "access_token");
        let info = |t: &str| format!("/_matrix/federation/v1/openid/userinfo?access_token={t}");
        assert_eq!(server.nobody().get(&info(&token)).await.good(), json!({"sub": "@ada:localhost"}));
        server.nobody().get(&info("none")).await.refused(401, "M_UNKNOWN_TOKEN");
        server.nobody().get("/_matrix/federation/v1/openid/userinfo").await.refused(401, "M_MISSING_TOKEN");
        server.with_token(&token).get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        ada.post(&path("@eve:localhost"), json!({})).await.refused(403, "M_FORBIDDEN");
        ada.post(&path("eve"), json!({})).await.refused(400, "M_INVALID_PARAM");
        server.clock().advance_ms(3_601_000);
        server.nobody().get(&info(&token)).await.refused(401, "M_UNKNOWN_TOKEN");
        // Of many that are asked for the oldest go.
        let mut tokens = Vec::new();
        for _ in 0..102 {
            server.clock().advance_ms(1);
            tokens.push(text(&ada.post(&path("@ada:localhost"), json!({})).await.good(), "access_token"));
        }
        server.nobody().get(&info(&tokens[0])).await.refused(401, "M_UNKNOWN_TOKEN");
        server.nobody().get(&info(&tokens[101])).await.good();
        server.nobody().get(&info(&tokens[2])).await.good();
    }
}

#[tokio::test]
async fn a_session_logs_in_another_device_by_a_token_that_is_good_once() {
    let server = Plan::default().services(|s| s.login.get_token = true).start().await;
    let ada = server.user("ada").await;
    let get_token = "/_matrix/client/v1/login/get_token";
    assert_eq!(server.nobody().get(LOGIN).await.good()["flows"][1]["get_login_token"], true);
    ada.post(get_token, json!({})).await.asked();
    let token = ada.post(get_token, ada.confirmed(json!({}))).await.good();
    assert_eq!(token["expires_in_ms"], 300_000);
    let login = json!({"type": "m.login.token", "token": token["login_token"]});
    let phone = User::from_session(&server, &server.nobody().post(LOGIN, login.clone()).await.good());
    assert_eq!(phone.get(WHO).await.good()["user_id"], "@ada:localhost");
    server.nobody().post(LOGIN, login).await.refused(403, "M_FORBIDDEN");
    let late = ada.post(get_token, ada.confirmed(json!({}))).await.good();
    server.clock().advance_ms(301_000);
    let late = json!({"type": "m.login.token", "token": late["login_token"]});
    server.nobody().post(LOGIN, late).await.refused(403, "M_FORBIDDEN");

    let without = TestServer::start().await;
    without.user("ada").await.post(get_token, json!({})).await.refused(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn sessions_end_when_their_time_is_over() {
    let server = Plan::default().services(|s| {
        s.login.lifetimes.session = Some(std::time::Duration::from_secs(600));
    });
    let server = server.start().await;
    let ada = server.user("ada").await;
    let mut body = by_password("ada", &ada.password());
    body["refresh_token"] = json!(true);
    let session = server.nobody().post(LOGIN, body).await.good();
    ada.get(WHO).await.good();
    server.clock().advance_ms(400_000);
    let next = server.nobody().post(REFRESH, json!({"refresh_token": session["refresh_token"]})).await.good();
    assert!(next["expires_in_ms"].as_u64().unwrap() <= 200_000, "a refresh does not prolong the session: {next}");
    server.clock().advance_ms(201_000);
    assert_eq!(ada.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN")["soft_logout"], true);
    let over = server.nobody().post(REFRESH, json!({"refresh_token": next["refresh_token"]})).await;
    assert_eq!(over.refused(401, "M_UNKNOWN_TOKEN")["soft_logout"], true);
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let server = Plan::default().api(|a| {
        a.limits.enabled = true;
        a.limits.login_address = hearth_api::limits::Rate::new(100.0, 100.0);
    });
    let server = server.start().await;
    let ada = server.user("ada").await;
    for name in ["ada", "@ada:localhost", "ADA"] {
        server.nobody().post(LOGIN, by_password(name, "guess")).await.refused(403, "M_FORBIDDEN");
    }
    // Even the right password has to wait now; others' do not.
    server.nobody().post(LOGIN, by_password("ADA", &ada.password())).await.refused(429, "M_LIMIT_EXCEEDED");
    let bob = server.user("bob").await;
    server.nobody().post(LOGIN, by_password("bob", &bob.password())).await.good();
    server.clock().advance_ms(10_000);
    server.nobody().post(LOGIN, by_password("ada", &ada.password())).await.good();
}

/// `password_config.enabled: only_for_reauth`.
#[tokio::test]
async fn a_password_may_be_for_confirming_only() {
    let server = Plan::default().services(|s| s.accounts.password_login = false).start().await;
    let ada = server.user("ada").await;
    let flows = server.nobody().get("/_matrix/client/v3/login").await.good();
    assert!(!flows["flows"].as_array().unwrap().iter().any(|f| f["type"] == "m.login.password"), "{flows}");
    let body = json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "ada"},
        "password": ada.password(),
    });
    server.nobody().post("/_matrix/client/v3/login", body).await.refused(403, "M_FORBIDDEN");
    let delete = format!("/_matrix/client/v3/devices/{}", ada.device);
    let (session, _) = ada.delete(&delete, json!({})).await.asked();
    let mut confirmed = ada.confirmed(json!({}));
    confirmed["auth"]["session"] = session.into();
    ada.delete(&delete, confirmed).await.good();
}

/// Spec, "Login Fallback": the page is told the answer of /login, and tells the client.
#[tokio::test]
async fn who_knows_no_way_to_log_in_is_shown_a_page() {
    let path = "/_matrix/static/client/login/?device_id=PHONE";
    let page = TestServer::start().await.nobody().get(path).await;
    assert_eq!(page.status, 200);
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("connect-src 'self'") && !policy.contains("default-src 'self'"), "{policy}");
    for words in ["/_matrix/client/v3/login", "window.matrixLogin.onLogin(answer)", "location.search"] {
        assert!(page.text.contains(words), "no {words} in {}", page.text);
    }
    let without = Plan::default().services(|s| s.accounts.password_login = false).start().await;
    assert!(!without.nobody().get(path).await.text.contains("<form"));
}
