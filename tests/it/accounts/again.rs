//! What a registration remembers of its first request, and what becomes of it when it is asked for again.

use serde_json::{Value, json};

use super::{REGISTER, WHO};
use crate::{
    on_both,
    support::{Plan, TestServer, User},
};

const LOGIN: &str = "/_matrix/client/v3/login";

fn by_password(name: &str, password: &str) -> Value {
    json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password})
}

async fn request_kept(server: &TestServer, session: &str) -> String {
    server.services().login.uia(session).await.unwrap().unwrap().request
}

on_both! {
    async fn the_password_of_the_first_request_is_the_accounts(server) {
        let nobody = server.nobody();
        let first = json!({
            "username": "ada", "password": "pässword of ada", "device_id": "ENGINE",
            "initial_device_display_name": "Engine", "password_hash": "$argon2id$mine",
        });
        let (session, _) = nobody.post(REGISTER, first).await.asked();
        let kept = request_kept(&server, &session).await;
        assert!(kept.contains("$argon2id$v=") && !kept.contains("word of ada") && !kept.contains("$mine"), "{kept}");
        let made = nobody.post(REGISTER, json!({"auth": {"type": "m.login.dummy", "session": session}})).await.good();
        assert_eq!((&made["user_id"], &made["device_id"]), (&json!("@ada:localhost"), &json!("ENGINE")));
        nobody.post(LOGIN, by_password("ada", "pässword of ada")).await.good();
        nobody.post(LOGIN, by_password("ada", "true")).await.refused(403, "M_FORBIDDEN");
        nobody.post(LOGIN, by_password("ada", "$argon2id$mine")).await.refused(403, "M_FORBIDDEN");

        // What comes last holds, and a weak one is refused at once.
        let (session, _) = nobody.post(REGISTER, json!({"username": "bob", "password": "first"})).await.asked();
        let last = json!({"password": "second", "auth": {"type": "m.login.dummy", "session": session}});
        nobody.post(REGISTER, last).await.good();
        nobody.post(LOGIN, by_password("bob", "second")).await.good();
        nobody.post(REGISTER, json!({"username": "eve", "password": ""})).await.refused(400, "M_INVALID_PARAM");

        // A hash of one's own making is none, with a session or without.
        let forged = json!({"username": "eve", "password_hash": "$argon2id$mine"});
        let (session, _) = nobody.post(REGISTER, forged.clone()).await.asked();
        assert!(!request_kept(&server, &session).await.contains("hash"));
        let mut at_once = forged;
        at_once["auth"] = json!({"type": "m.login.dummy"});
        nobody.post(REGISTER, at_once).await.good();
        nobody.post(LOGIN, by_password("eve", "")).await.refused(403, "M_FORBIDDEN");
    }

    async fn a_registration_asked_for_again_is_the_same_one(server) {
        let nobody = server.nobody();
        for (name, inhibit) in [(Some("ada"), json!(false)), (None, json!(0))] {
            let mut wish = json!({"password": "of ada", "inhibit_login": inhibit});
            if let Some(name) = name {
                wish["username"] = json!(name);
            }
            let (session, _) = nobody.post(REGISTER, wish.clone()).await.asked();
            wish["auth"] = json!({"type": "m.login.dummy", "session": session});
            let (made, again) = (nobody.post(REGISTER, wish.clone()).await.good(), nobody.post(REGISTER, wish).await.good());
            assert_eq!(made["user_id"], again["user_id"]);
            assert!(made["access_token"] != again["access_token"] && made["device_id"] != again["device_id"]);
            for session in [&made, &again] {
                assert_eq!(User::from_session(&server, session).get(WHO).await.good()["user_id"], made["user_id"]);
            }
            let bare = json!({"inhibit_login": 1, "auth": {"session": session}});
            let bare = nobody.post(REGISTER, bare).await.good();
            assert_eq!(bare, json!({"user_id": made["user_id"], "home_server": "localhost"}));
        }
        nobody.post(REGISTER, json!({"username": "eve", "inhibit_login": 2})).await.refused(400, "M_BAD_JSON");
        nobody.post(REGISTER, json!({"username": "eve", "inhibit_login": "yes"})).await.refused(400, "M_BAD_JSON");
        let (session, _) = nobody.post(REGISTER, json!({"username": "eve", "inhibit_login": 1})).await.asked();
        let made = nobody.post(REGISTER, json!({"auth": {"type": "m.login.dummy", "session": session}})).await.good();
        assert_eq!(made, json!({"user_id": "@eve:localhost", "home_server": "localhost"}), "said once is enough");
    }
}

/// The session of a registration is no second password: it serves for an hour, for an account that is open, and for
/// nothing but registering.
#[tokio::test]
async fn a_finished_registration_opens_no_door_for_long() {
    let server = Plan::default().sqlite().await;
    let nobody = server.nobody();
    let register = async |name: &str| {
        let (session, _) = nobody.post(REGISTER, json!({"username": name, "password": "hers"})).await.asked();
        let last = json!({"auth": {"type": "m.login.dummy", "session": session}});
        (User::from_session(&server, &nobody.post(REGISTER, last.clone()).await.good()), session, last)
    };
    let (ada, session, last) = register("ada").await;
    let elsewhere = json!({"new_password": "stolen", "auth": {"type": "m.login.password", "session": session,
        "password": "hers"}});
    ada.post("/_matrix/client/v3/account/password", elsewhere).await.asked();
    let close = json!({"auth": {"type": "m.login.password", "password": "hers"}});
    ada.post("/_matrix/client/v3/account/deactivate", close).await.good();
    nobody.post(REGISTER, last).await.refused(403, "M_USER_DEACTIVATED");

    let (bob, session, last) = register("bob").await;
    server.clock().advance_ms(59 * 60 * 1000);
    let again = nobody.post(REGISTER, last.clone()).await.good();
    assert_eq!(again["user_id"], json!(bob.id));
    server.clock().advance_ms(2 * 60 * 1000);
    // Nor does it make a second account.
    let (new, body) = nobody.post(REGISTER, last).await.asked();
    assert!(new != session && body["completed"].is_null(), "{body}");
}
