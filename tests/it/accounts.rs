//! Registering, passwords, closing an account.

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{
    on_both,
    support::{Plan, SECRET, TestServer, User},
};

mod again;
mod erasing;

const REGISTER: &str = "/_matrix/client/v3/register";
const WHO: &str = "/_matrix/client/v3/account/whoami";
const PASSWORD: &str = "/_matrix/client/v3/account/password";
const ADMIN_REGISTER: &str = "/_synapse/admin/v1/register";

async fn token(server: &TestServer, token: &str, uses_allowed: Option<i64>, expires_ms: Option<i64>) {
    let row = hearth_store::accounts::RegistrationToken {
        token: token.to_owned(),
        uses_allowed,
        pending: 0,
        completed: 0,
        expires_ms,
    };
    assert!(server.services().store.add_registration_token(row).await.unwrap());
}

on_both! {
    async fn open_registration_asks_for_no_more_than_the_wish(server) {
        let nobody = server.nobody();
        let wish = json!({"username": "Ada", "password": "lovelace", "initial_device_display_name": "Engine"});
        let (session, body) = nobody.post(REGISTER, wish.clone()).await.asked();
        assert_eq!(body["flows"], json!([{"stages": ["m.login.dummy"]}]));
        assert!(body.get("errcode").is_none() && body.get("error").is_none(), "asking is no error: {body}");

        let mut wish = wish;
        wish["auth"] = json!({"type": "m.login.dummy", "session": session});
        let made = nobody.post(REGISTER, wish.clone()).await.good();
        assert_eq!(made["user_id"], "@ada:localhost");
        let ada = User::from_session(&server, &made);
        assert_eq!(ada.get(WHO).await.good(), json!({"user_id": "@ada:localhost", "device_id": ada.device}));
        let device = ada.get(&format!("/_matrix/client/v3/devices/{}", ada.device)).await.good();
        assert_eq!(device["display_name"], "Engine");

        // The name is taken.
        wish["auth"] = json!({"type": "m.login.dummy"});
        nobody.post(REGISTER, wish).await.refused(400, "M_USER_IN_USE");
        nobody.get("/_matrix/client/v3/register/available?username=ada").await.refused(400, "M_USER_IN_USE");
        let free = nobody.get("/_matrix/client/v3/register/available?username=bob").await.good();
        assert_eq!(free, json!({"available": true}));
    }

    async fn a_login_may_be_declined(server) {
        let body = json!({"username": "ada", "password": "x", "inhibit_login": true, "auth": {"type": "m.login.dummy"}});
        let bare = |name: &str| json!({"user_id": format!("@{name}:localhost"), "home_server": "localhost"});
        assert_eq!(server.nobody().post(REGISTER, body).await.good(), bare("ada"));
        // Who said so once need not say it again.
        let first = json!({"username": "eve", "inhibit_login": true});
        let (session, _) = server.nobody().post(REGISTER, first).await.asked();
        let then = json!({"password": "x", "auth": {"type": "m.login.dummy", "session": session}});
        assert_eq!(server.nobody().post(REGISTER, then).await.good(), bare("eve"));
    }

    async fn names_that_cannot_be_are_refused_before_anything_is_asked(server) {
        let long = "x".repeat(250);
        for name in ["", "ada lovelace", "ad@a", "ädä", "_bridge", "12345", &long, "a:b"] {
            let body = json!({"username": name, "password": "x"});
            server.nobody().post(REGISTER, body).await.refused(400, "M_INVALID_USERNAME");
        }
        // What older clients say of the type means nothing; that of application services does, and there are none.
        server.nobody().post(REGISTER, json!({"type": "m.login.password"})).await.asked();
        let bridge = json!({"type": "m.login.application_service", "username": "_bridge"});
        server.nobody().post(REGISTER, bridge).await.refused(401, "M_UNKNOWN_TOKEN");
        for body in [json!({"username": 5}), json!({"username": "a", "password": []}), json!({"auth": 7})] {
            server.nobody().post(REGISTER, body).await.refused(400, "M_BAD_JSON");
        }
        server.nobody().post(REGISTER, json!({"username": "a", "password": ""})).await.refused(400, "M_INVALID_PARAM");
        server.nobody().post(&format!("{REGISTER}?kind=king"), json!({})).await.refused(400, "M_INVALID_PARAM");
    }

    async fn a_name_is_made_up_for_who_gives_none(server) {
        let made = server.nobody().post(REGISTER, json!({"password": "x", "auth": {"type": "m.login.dummy"}})).await.good();
        assert!(made["user_id"].as_str().unwrap().ends_with(":localhost"));
    }

    async fn two_at_once_for_one_name_are_one_account(server) {
        let wish = json!({"username": "ada", "password": "x", "auth": {"type": "m.login.dummy"}});
        let (a, b) = (server.nobody(), server.nobody());
        let (a, b) = tokio::join!(a.post(REGISTER, wish.clone()), b.post(REGISTER, wish));
        let mut statuses = [a.status.as_u16(), b.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400], "{a:?} {b:?}");
    }

    async fn a_password_is_changed_with_the_old_one(server) {
        let ada = server.user("ada").await;
        let phone = ada.another_device().await;
        let wish = json!({"new_password": "difference engine"});
        let (session, body) = ada.post(PASSWORD, wish.clone()).await.asked();
        assert_eq!(body["flows"], json!([{"stages": ["m.login.password"]}]));
        let auth = |password: &str| {
            let id = json!({"type": "m.id.user", "user": "ada"});
            json!({"type": "m.login.password", "session": session, "identifier": id, "password": password})
        };
        let with = |auth: Value| { let mut w = wish.clone(); w["auth"] = auth; w };
        let failed = ada.post(PASSWORD, with(auth("wrong"))).await;
        let failed = failed.refused(401, "M_FORBIDDEN");
        assert_eq!((&failed["session"], failed["flows"].is_array()), (&json!(session), true));
        // What was begun for another operation, or by another user, proves nothing.
        let eve = server.user("eve").await;
        eve.post(PASSWORD, with(auth(&eve.password()))).await.refused(403, "M_FORBIDDEN");
        ada.post("/_matrix/client/v3/account/deactivate", json!({"auth": auth(&ada.password())})).await.refused(403, "M_FORBIDDEN");
        // Another's password is not one's own, and no step on the way either.
        let theirs = json!({"type": "m.login.password", "session": session, "identifier": {"type": "m.id.user", "user": "eve"}, "password": eve.password()});
        assert!(ada.post(PASSWORD, with(theirs)).await.refused(403, "M_FORBIDDEN")["flows"].is_null());

        ada.post(PASSWORD, with(auth(&ada.password()))).await.good();
        ada.get(WHO).await.good();
        phone.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        let login = |password: &str| json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "ada"}, "password": password});
        server.nobody().post("/_matrix/client/v3/login", login(&ada.password())).await.refused(403, "M_FORBIDDEN");
        server.nobody().post("/_matrix/client/v3/login", login("difference engine")).await.good();
    }

    async fn other_devices_may_stay_when_the_password_changes(server) {
        let ada = server.user("ada").await;
        let phone = ada.another_device().await;
        ada.post(PASSWORD, ada.confirmed(json!({"new_password": "new", "logout_devices": false}))).await.good();
        phone.get(WHO).await.good();
    }

    async fn a_closed_account_stays_closed_and_its_name_taken(server) {
        let ada = server.user("ada").await;
        let phone = ada.another_device().await;
        let closed = server.services().accounts.closed();
        ada.post("/_matrix/client/v3/account/deactivate", json!({})).await.asked();
        let answer = ada.post("/_matrix/client/v3/account/deactivate", ada.confirmed(json!({"erase": true}))).await.good();
        assert_eq!(answer["id_server_unbind_result"], "success");
        tokio::time::timeout(std::time::Duration::from_secs(5), closed.notified()).await.unwrap();
        for user in [&ada, &phone] {
            user.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
        }
        let login = json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "ada"}, "password": ada.password()});
        server.nobody().post("/_matrix/client/v3/login", login).await.refused(403, "M_USER_DEACTIVATED");
        server.nobody().post(REGISTER, json!({"username": "ada", "password": "x"})).await.refused(400, "M_USER_IN_USE");
    }

    async fn whoever_knows_the_shared_secret_makes_accounts(server) {
        let nobody = server.nobody();
        let nonce = || async { nobody.get(ADMIN_REGISTER).await.good()["nonce"].as_str().unwrap().to_owned() };
        let n = nonce().await;
        let body = json!({
            "nonce": n, "username": "Root", "displayname": "The Root", "password": "toor", "admin": true,
            "mac": mac(&[&n, "Root", "toor", "admin"]),
        });
        let made = nobody.post(ADMIN_REGISTER, body.clone()).await.good();
        assert_eq!((&made["user_id"], &made["home_server"]), (&json!("@root:localhost"), &json!("localhost")));
        User::from_session(&server, &made).get(WHO).await.good();
        let nid = server.services().store.user_nid(<&ruma::UserId>::try_from("@root:localhost").unwrap()).await.unwrap().unwrap();
        assert!(server.services().store.account(nid).await.unwrap().unwrap().admin);

        // A nonce is good once, whatever comes of it.
        nobody.post(ADMIN_REGISTER, body).await.refused(400, "M_UNKNOWN");
        let n = nonce().await;
        let forged = json!({"nonce": n, "username": "eve", "password": "e", "admin": true, "mac": mac(&[&n, "eve", "e", "notadmin"])});
        nobody.post(ADMIN_REGISTER, forged.clone()).await.refused(403, "M_UNKNOWN");
        nobody.post(ADMIN_REGISTER, forged).await.refused(400, "M_UNKNOWN");
        nobody.post(ADMIN_REGISTER, json!({"username": "eve"})).await.refused(400, "M_BAD_JSON");

        let n = nonce().await;
        let bot = json!({"nonce": n, "username": "bot", "password": "b", "user_type": "bot", "mac": mac(&[&n, "bot", "b", "notadmin", "bot"])});
        nobody.post(ADMIN_REGISTER, bot).await.good();
        let n = nonce().await;
        let odd = json!({"nonce": n, "username": "odd", "password": "b", "user_type": "king", "mac": mac(&[&n, "odd", "b", "notadmin", "king"])});
        nobody.post(ADMIN_REGISTER, odd).await.refused(400, "M_UNKNOWN");
    }
}

#[tokio::test]
async fn a_closed_door_stays_closed() {
    let server = Plan::default().services(|s| {
        s.accounts.registration = false;
        s.accounts.shared_secret = None;
    });
    let server = server.start().await;
    server.nobody().post(REGISTER, json!({"username": "ada", "password": "x"})).await.refused(403, "M_FORBIDDEN");
    let guest = server.nobody().post(&format!("{REGISTER}?kind=guest"), json!({})).await;
    guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    server.nobody().get(ADMIN_REGISTER).await.refused(400, "M_UNKNOWN");
}

#[tokio::test]
async fn guests_get_in_and_not_far() {
    let server = Plan::default().services(|s| s.accounts.guests = true).start().await;
    let made = server.nobody().post(&format!("{REGISTER}?kind=guest"), json!({})).await.good();
    let guest = User::from_session(&server, &made);
    assert_eq!(guest.get(WHO).await.good()["is_guest"], true);
    guest.get("/_matrix/client/v3/capabilities").await.good();
    assert_eq!(guest.get("/_matrix/client/v3/devices").await.good()["devices"][0]["device_id"], guest.device);
    let device = format!("/_matrix/client/v3/devices/{}", guest.device);
    guest.put(&device, json!({"display_name": "Borrowed"})).await.good();
    assert_eq!(guest.get(&device).await.good()["display_name"], "Borrowed");
    guest.delete(&device, json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let profile = format!("/_matrix/client/v3/profile/{}", guest.id);
    guest.put(&format!("{profile}/displayname"), json!({"displayname": "Passer-by"})).await.good();
    guest.delete(&format!("{profile}/displayname"), json!({})).await.good();
    assert_eq!(guest.get(&profile).await.good(), json!({}));
    for field in ["avatar_url", "m.tz"] {
        let path = format!("{profile}/{field}");
        guest.put(&path, json!({field: "mxc://a/b"})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
        guest.delete(&path, json!({})).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
    guest.get("/_matrix/client/v3/pushers").await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest.post("/_matrix/client/v3/logout", json!({})).await.good();
    guest.get(WHO).await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_guest_becomes_a_member_under_the_same_name() {
    let server = Plan::default().services(|s| s.accounts.guests = true).start().await;
    let nobody = server.nobody();
    let guest = async || {
        let made = nobody.post(&format!("{REGISTER}?kind=guest"), json!({})).await.good();
        User::from_session(&server, &made)
    };
    let (guest, other, ada) = (guest().await, guest().await, server.user("ada").await);
    let wish = |name: &str, token: &str| json!({"username": name, "password": "stays", "guest_access_token": token});
    let name = guest.id.localpart();

    // Only with the guest's own token, and only under the guest's own name.
    nobody.post(REGISTER, wish(name, other.token())).await.refused(403, "M_FORBIDDEN");
    nobody.post(REGISTER, wish(name, ada.token())).await.refused(403, "M_FORBIDDEN");
    nobody.post(REGISTER, wish("eve", guest.token())).await.refused(403, "M_FORBIDDEN");
    nobody.post(REGISTER, wish(name, "made up")).await.refused(401, "M_UNKNOWN_TOKEN");
    nobody.post(REGISTER, json!({"username": name, "password": "x"})).await.refused(400, "M_INVALID_USERNAME");

    let (session, _) = nobody.post(REGISTER, wish(name, guest.token())).await.asked();
    let mut body = wish(name, guest.token());
    body["auth"] = json!({"type": "m.login.dummy", "session": session});
    let mut without = body.clone();
    without["guest_access_token"].take();
    without["username"].take();
    nobody.post(REGISTER, without).await.refused(400, "M_MISSING_PARAM");
    let made = nobody.post(REGISTER, body.clone()).await.good();
    assert_eq!(made["user_id"], json!(guest.id));

    // The old session goes on, and is a guest's no more.
    for session in [&guest, &User::from_session(&server, &made)] {
        assert!(session.get(WHO).await.good().get("is_guest").is_none_or(|guest| *guest == json!(false)));
        session.get("/_matrix/client/v3/pushers").await.good();
    }
    assert_eq!(other.get(WHO).await.good()["is_guest"], true);
    let login =
        json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": "stays"});
    nobody.post("/_matrix/client/v3/login", login).await.good();
    body["auth"] = json!({"type": "m.login.dummy"});
    nobody.post(REGISTER, body).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_registration_token_lets_in_as_many_as_it_says() {
    let server = Plan::default().services(|s| s.accounts.registration_token = true).start().await;
    token(&server, "once", Some(1), None).await;
    token(&server, "late", None, Some(5)).await;
    let nobody = server.nobody();
    let valid = |t: &str| format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={t}");
    assert_eq!(nobody.get(&valid("once")).await.good(), json!({"valid": true}));
    assert_eq!(nobody.get(&valid("late")).await.good(), json!({"valid": false}));
    assert_eq!(nobody.get(&valid("none")).await.good(), json!({"valid": false}));

    let wish = |name: &str, auth: Value| json!({"username": name, "password": "x", "auth": auth});
    let (session, body) = nobody.post(REGISTER, json!({"username": "ada", "password": "x"})).await.asked();
    assert_eq!(body["flows"], json!([{"stages": ["m.login.registration_token"]}]));
    let auth = |token: &str| json!({"type": "m.login.registration_token", "session": session, "token": token});
    nobody.post(REGISTER, wish("ada", auth("late"))).await.refused(401, "M_UNAUTHORIZED");
    nobody
        .post(REGISTER, wish("ada", json!({"type": "m.login.dummy", "session": session})))
        .await
        .refused(401, "M_UNRECOGNIZED");
    nobody.post(REGISTER, wish("ada", auth("once"))).await.good();
    let (second, _) = nobody.post(REGISTER, json!({"username": "bob", "password": "x"})).await.asked();
    let again = json!({"type": "m.login.registration_token", "session": second, "token": "once"});
    nobody.post(REGISTER, wish("bob", again)).await.refused(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn terms_are_agreed_to_in_the_client_or_on_the_page() {
    let terms = hearth_service::accounts::Terms {
        version: "1.2".to_owned(),
        name: "Rules <of the> house".to_owned(),
        url: "https://example.org/terms?a=1&b=2".to_owned(),
    };
    let server = Plan::default().services(|s| s.accounts.terms = Some(terms)).start().await;
    let nobody = server.nobody();
    let (session, body) = nobody.post(REGISTER, json!({"username": "ada", "password": "x"})).await.asked();
    assert_eq!(body["params"]["m.login.terms"]["policies"]["privacy_policy"]["version"], "1.2");
    let page = format!("/_matrix/client/v3/auth/m.login.terms/fallback/web?session={session}");
    let shown = nobody.get(&page).await;
    assert!(shown.text.contains("Rules &lt;of the&gt; house") && shown.text.contains("a=1&amp;b=2"), "{shown:?}");
    assert!(shown.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    let done = nobody.send(reqwest::Method::POST, &page, Some(String::new())).await;
    assert!(done.text.contains("onAuthDone"), "{done:?}");
    let made =
        nobody.post(REGISTER, json!({"username": "ada", "password": "x", "auth": {"session": session}})).await.good();
    assert_eq!(made["user_id"], "@ada:localhost");
    nobody.get("/_matrix/client/v3/auth/m.login.terms/fallback/web?session=none").await.refused(404, "M_NOT_FOUND");
    nobody.get("/_matrix/client/v3/auth/m.login.terms/fallback/web").await.refused(400, "M_MISSING_PARAM");
    nobody.get(&page.replace("terms", "recaptcha")).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_password_keeps_to_the_policy() {
    let server = Plan::default().services(|s| {
        s.accounts.policy.enabled = true;
        s.accounts.policy.minimum_length = 8;
        s.accounts.policy.require_digit = true;
    });
    let server = server.start().await;
    let policy = server.nobody().get("/_matrix/client/v3/password_policy").await.good();
    assert_eq!(policy, json!({"m.minimum_length": 8, "m.require_digit": true}));
    for weak in ["short1", "longenoughbutnodigit"] {
        server
            .nobody()
            .post(REGISTER, json!({"username": "ada", "password": weak}))
            .await
            .refused(400, "M_WEAK_PASSWORD");
    }
    server.nobody().post(REGISTER, json!({"username": "ada", "password": "longenough1"})).await.asked();
    // It is for what users choose: whoever has the shared secret is not held to it, as by Synapse.
    let nobody = server.nobody();
    for (name, password, status) in [("bot", "x", 200), ("none", "", 400), ("long", &*"x".repeat(513), 400)] {
        let nonce = nobody.get(ADMIN_REGISTER).await.good()["nonce"].as_str().unwrap().to_owned();
        let mac = mac(&[&nonce, name, password, "notadmin"]);
        let body = json!({"nonce": nonce, "username": name, "password": password, "mac": mac});
        assert_eq!(nobody.post(ADMIN_REGISTER, body).await.status, status, "{name}");
    }
}

/// What proves that one knows the shared secret.
fn mac(parts: &[&str]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(parts.join("\0").as_bytes());
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn registrations_of_an_address_are_counted() {
    let server = Plan::default().api(|a| a.limits.enabled = true).start().await;
    for n in 0..3 {
        server.user(&format!("user{n}")).await;
    }
    let refused = server.nobody().post(REGISTER, json!({"username": "more", "password": "x"})).await;
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].is_u64());
}

#[tokio::test]
async fn confirmations_that_a_user_begins_are_counted() {
    let server = Plan::default().api(|a| a.limits.enabled = true).start().await;
    let (ada, bob) = (server.user("ada").await, server.user("bob").await);
    let begin = async |user: &User| user.post(PASSWORD, json!({"new_password": "x"})).await;
    let mut begun = 0;
    while begin(&ada).await.status == 401 {
        begun += 1;
        assert!(begun < 1000, "each is a row that stays for days");
    }
    begin(&ada).await.refused(429, "M_LIMIT_EXCEEDED");
    begin(&bob).await.asked();
    ada.post(PASSWORD, ada.confirmed(json!({"new_password": "x"}))).await.good();
}

/// `max_avatar_size` and `allowed_avatar_mimetypes`; the client of these tests uploads everything as JSON.
#[tokio::test]
async fn avatars_are_as_small_and_of_such_a_type_as_the_operator_wants() {
    let server = Plan::default().services(|s| {
        s.profile.max_avatar_size = Some(10);
        s.profile.avatar_types = Some(vec!["image/png".to_owned(), "application/JSON".to_owned()]);
    });
    let server = server.start().await;
    let ada = server.user("ada").await;
    let upload = async |body: &str| {
        let answer = ada.send(reqwest::Method::POST, "/_matrix/media/v3/upload", Some(body.to_owned())).await;
        answer.good()["content_uri"].clone()
    };
    let at = format!("/_matrix/client/v3/profile/{}/avatar_url", ada.id);
    let (small, large) = (upload("small").await, upload("much too large").await);
    ada.put(&at, json!({ "avatar_url": small })).await.good();
    ada.put(&at, json!({ "avatar_url": large })).await.refused(403, "M_FORBIDDEN");
    ada.put(&at, json!({ "avatar_url": "mxc://localhost/nowhere" })).await.refused(403, "M_FORBIDDEN");
    assert_eq!(ada.get(&at).await.good()["avatar_url"], small);
    ada.put(&at, json!({ "avatar_url": "" })).await.good();
    let server = Plan::default().services(|s| s.profile.avatar_types = Some(vec!["image/png".to_owned()]));
    let server = server.start().await;
    let ada = server.user("ada").await;
    let answer = ada.send(reqwest::Method::POST, "/_matrix/media/v3/upload", Some("{}".to_owned())).await;
    let json = answer.good()["content_uri"].clone();
    ada.put(&at, json!({ "avatar_url": json })).await.refused(403, "M_FORBIDDEN");
}
