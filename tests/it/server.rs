//! What the server says of itself, and what every path has in common.

use serde_json::json;

use crate::support::{NAME, Plan, TestServer};

#[tokio::test]
async fn it_says_what_it_is() {
    let server = TestServer::start().await;
    let nobody = server.nobody();
    let versions = nobody.get("/_matrix/client/versions").await.good();
    let named = versions["versions"].as_array().unwrap();
    assert!(
        ["r0.6.1", "v1.1", "v1.11", "v1.17", "v1.18", "v1.19"].iter().all(|v| named.contains(&json!(v))),
        "{named:?}"
    );
    // Filters by relations, and receipts of threads: stories of `history` and of the receipts show them.
    for flag in ["org.matrix.msc3874", "org.matrix.msc3771"] {
        assert_eq!(versions["unstable_features"][flag], true, "{flag}");
    }
    assert_eq!(versions["unstable_features"]["org.matrix.msc2285.stable"], true);
    assert_eq!(versions["unstable_features"]["org.matrix.msc3882"], false);
    let version = nobody.get("/_matrix/federation/v1/version").await.good();
    assert_eq!(version["server"]["name"], "Hearth");
    for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/ed25519:any"] {
        let keys = nobody.get(path).await.good();
        assert_eq!(keys["server_name"], NAME);
        let key_id = server.services().server_keys.signer().key_id().to_owned();
        assert!(keys["verify_keys"][&key_id]["key"].is_string(), "{keys}");
        assert!(keys["signatures"][NAME][&key_id].is_string(), "{keys}");
    }
}

#[tokio::test]
async fn capabilities_say_what_one_may_do() {
    let server = Plan::default().services(|s| s.accounts.set_displayname = false).start().await;
    let ada = server.user("ada").await;
    let all = &ada.get("/_matrix/client/v3/capabilities").await.good()["capabilities"];
    assert_eq!(all["m.room_versions"]["default"], "12");
    for version in 1..=12 {
        assert_eq!(all["m.room_versions"]["available"][version.to_string()], "stable");
    }
    assert!(all["m.room_versions"]["available"]["13"].is_null());
    assert_eq!(all["m.change_password"]["enabled"], true);
    assert_eq!(all["m.set_displayname"]["enabled"], false);
    assert_eq!(all["m.profile_fields"], json!({"enabled": true, "disallowed": ["displayname"]}));
    assert_eq!(all["m.forget_forced_upon_leave"]["enabled"], false);
    assert_eq!(all["m.3pid_changes"]["enabled"], false, "nobody can add one yet");
    assert!(all["m.account_moderation"].is_null(), "who may do neither is not told of it");
    let root = server.admin("root").await.get("/_matrix/client/v3/capabilities").await.good();
    assert_eq!(root["capabilities"]["m.account_moderation"], json!({"lock": true, "suspend": true}));
    server.nobody().get("/_matrix/client/v3/capabilities").await.refused(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn turn_credentials_last_as_long_as_they_say() {
    let server = TestServer::start().await;
    let path = "/_matrix/client/v3/voip/turnServer";
    assert_eq!(server.user("ada").await.get(path).await.good(), json!({}));
    let server = Plan::default().services(|s| {
        s.calls.turn_uris = vec!["turn:turn.example.org".to_owned()];
        s.calls.turn_shared_secret = Some("secret".to_owned());
    });
    let server = server.start().await;
    let turn = server.user("ada").await.get(path).await.good();
    let (end, user) = turn["username"].as_str().unwrap().split_once(':').unwrap();
    assert_eq!(
        (user, &turn["ttl"], &turn["uris"][0]),
        ("@ada:localhost", &json!(3600), &json!("turn:turn.example.org"))
    );
    let left = end.parse::<u64>().unwrap() - server.clock().now_ms() / 1000;
    assert!((3590..=3600).contains(&left), "{left}");
    // HMAC-SHA1 in base64.
    assert_eq!(turn["password"].as_str().unwrap().len(), 28);
}

/// Every route: a token is asked for where one is needed, and rubbish is never a fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_takes_rubbish() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let table = hearth_api::routes();
    assert!(table.table().len() > 30);
    for route in table.table() {
        let mut path = route.path.replace(['{', '}'], "x");
        if path.ends_with("/events") {
            // It waits unasked.
            path.push_str("?timeout=0");
        }
        for body in ["rubbish", "[]", "{\"auth\": 5}", "\u{0}", "{}"] {
            let body = (route.method != "GET").then(|| body.to_owned());
            for caller in [&server.nobody(), &ada.caller] {
                let answer = caller.send(route.method.clone(), &path, body.clone()).await;
                // Another server that is not there is no fault of ours.
                let away = matches!(answer.status.as_u16(), 502 | 504);
                assert!(away || !answer.status.is_server_error(), "{answer:?} {body:?}");
                assert!(answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
            }
            if path.contains("logout") {
                break;
            }
        }
    }
}

#[tokio::test]
async fn nothing_outlives_a_server() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let room = ada.opens().await;
    ada.says(&room, "hello").await;
    let services = std::sync::Arc::downgrade(server.services());
    let (notifier, typing) = match services.upgrade() {
        Some(all) => (std::sync::Arc::downgrade(&all.notifier), std::sync::Arc::downgrade(&all.typing)),
        None => panic!("it runs"),
    };
    drop((ada, server));
    let gone = async {
        while services.strong_count() + notifier.strong_count() + typing.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let left = || format!("{} {} {}", services.strong_count(), notifier.strong_count(), typing.strong_count());
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap_or_else(|_| panic!("{}", left()));
}

/// Spec, "Third-party Lookup": nothing is bridged, so nothing is found.
#[tokio::test]
async fn no_network_of_others_is_known() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let at = |rest: &str| format!("/_matrix/client/v3/thirdparty/{rest}");
    assert_eq!(ada.get(&at("protocols")).await.good(), json!({}));
    for rest in ["protocol/irc", "location/irc", "user/irc", "location?alias=%23a%3Ab.c", "user?userid=%40a%3Ab.c"] {
        ada.get(&at(rest)).await.refused(404, "M_NOT_FOUND");
        server.nobody().get(&at(rest)).await.refused(401, "M_MISSING_TOKEN");
    }
}
