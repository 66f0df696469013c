//! Single events: sent once, set, redacted, refused.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    on_both,
    support::rooms::{V3, encoded, event_id, txn},
};

on_both! {
    async fn a_transaction_is_sent_once(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let content = json!({ "msgtype": "m.text", "body": "once" });
        let first = event_id(&alice.sends(&room, "m.room.message", "same", content.clone()).await.good());
        let again = event_id(&alice.sends(&room, "m.room.message", "same", content.clone()).await.good());
        assert_eq!(first, again);
        // Another device has transactions of its own.
        let tablet = alice.another_device().await;
        let other = event_id(&tablet.sends(&room, "m.room.message", "same", content.clone()).await.good());
        assert_ne!(first, other);
        // Many at the same time are one as well.
        let mut all = Vec::new();
        for n in 0..24 {
            let (alice, room, content) = (alice.clone(), room.clone(), content.clone());
            let txn = format!("burst{}", n % 3);
            all.push(tokio::spawn(async move {
                (txn.clone(), event_id(&alice.sends(&room, "m.room.message", &txn, content).await.good()))
            }));
        }
        let mut seen = std::collections::HashMap::new();
        for one in all {
            let (txn, id) = one.await.unwrap();
            assert_eq!(*seen.entry(txn).or_insert(id.clone()), id);
        }
        let said = alice.reads_all(&room, None, 50).await;
        assert_eq!(said.iter().filter(|e| e["type"] == "m.room.message").count(), 5);
        // The sender's device is told its transaction id, nobody else.
        let event = format!("event/{}", encoded(&first));
        assert_eq!(alice.in_room(&room, &event).await.good()["unsigned"]["transaction_id"], "same");
        assert!(tablet.in_room(&room, &event).await.good()["unsigned"]["transaction_id"].is_null());
        // The same id at another endpoint is another transaction, and a repetition there one of that.
        let redact = format!("{V3}/rooms/{}/redact/{}/same", encoded(&room), encoded(&first));
        let redaction = event_id(&alice.put(&redact, json!({})).await.good());
        assert_ne!(redaction, first);
        assert_eq!(event_id(&alice.put(&redact, json!({})).await.good()), redaction);
        let event = format!("event/{}", encoded(&redaction));
        assert_eq!(alice.in_room(&room, &event).await.good()["unsigned"]["transaction_id"], "same");
        assert!(!alice.in_room(&room, &format!("event/{}", encoded(&first))).await.good()["unsigned"]["redacted_because"].is_null());
        // As an ordinary event a redaction has an id of that endpoint.
        let sent = json!({ "redacts": other });
        assert_eq!(event_id(&alice.sends(&room, "m.room.redaction", "same", sent).await.good()), first);
    }

    async fn without_a_transaction_each_request_is_another_event(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        let content = json!({ "msgtype": "m.text", "body": "hello" });
        let first = event_id(&alice.post_in_room(&room, "send/m.room.message", content.clone()).await.good());
        let second = event_id(&alice.post_in_room(&room, "send/m.room.message", content.clone()).await.good());
        assert_ne!(first, second);
        let said = alice.in_room(&room, &format!("event/{}", encoded(&second))).await.good();
        assert_eq!(said["content"], content);
        let redact = |event: &str| format!("redact/{}", encoded(event));
        bob.post_in_room(&room, &redact(&first), json!({})).await.refused(403, "M_FORBIDDEN");
        alice.post_in_room(&room, &redact(&first), json!({ "reason": "so" })).await.good();
        let gone = alice.in_room(&room, &format!("event/{}", encoded(&first))).await.good();
        assert_eq!(gone["content"], json!({}));
        assert_eq!(gone["unsigned"]["redacted_because"]["content"]["reason"], "so");
        let path = format!("{V3}/rooms/{}/send/m.room.message", encoded(&room));
        alice.send(Method::POST, &path, None).await.refused(400, "M_NOT_JSON");
        alice.send(Method::POST, &path, Some("{nonsense".to_owned())).await.refused(400, "M_NOT_JSON");
        alice.send(Method::POST, &path, Some("[]".to_owned())).await.refused(400, "M_BAD_JSON");
    }

    async fn a_crowd_in_one_room_loses_nothing(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let mut senders = Vec::new();
        for n in 0..4 {
            let user = server.user(&format!("user{n}")).await;
            user.joins(&room).await.good();
            let room = room.clone();
            senders.push(tokio::spawn(async move {
                let mut ids = Vec::new();
                for m in 0..10 {
                    ids.push(user.says(&room, &format!("{n}.{m}")).await);
                }
                ids
            }));
        }
        let mut sent = Vec::new();
        for sender in senders {
            sent.extend(sender.await.unwrap());
        }
        let all = alice.reads_all(&room, None, 7).await;
        let shown: Vec<&str> = all.iter().filter(|e| e["type"] == "m.room.message").map(|e| e["event_id"].as_str().unwrap()).collect();
        assert_eq!(shown.len(), 40);
        assert!(sent.iter().all(|id| shown.contains(&id.as_str())));
    }

    async fn an_event_is_shown_as_it_was_sent(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let content = json!({ "body": "snow \u{2603} \"quoted\" \u{0}", "n": -5, "deep": { "a": [1, { "b": null }] } });
        let id = event_id(&alice.sends(&room, "org.example.thing", "t/x?y", content.clone()).await.good());
        let event = alice.in_room(&room, &format!("event/{}", encoded(&id))).await.good();
        assert_eq!(event["content"], content);
        assert_eq!((&event["type"], &event["event_id"]), (&json!("org.example.thing"), &json!(id)));
        assert_eq!((&event["sender"], &event["room_id"]), (&json!(alice.id), &json!(room)));
        assert!(event["origin_server_ts"].as_u64().unwrap() > 1_600_000_000_000);
        assert!(event["unsigned"]["age"].as_i64().unwrap() >= 0);
        assert_eq!(event["unsigned"]["membership"], "join");
        assert!(event["state_key"].is_null());
        let old = alice.get(&format!("{V3}/events/{}", encoded(&id))).await.good();
        assert_eq!(old["event_id"], id);
        // Only appservices may say when it was.
        let path = format!("{V3}/rooms/{}/send/m.room.message/{}?ts=1000", encoded(&room), txn());
        let id = event_id(&alice.put(&path, json!({ "body": "x" })).await.good());
        let event = alice.in_room(&room, &format!("event/{}", encoded(&id))).await.good();
        assert_ne!(event["origin_server_ts"], 1000);
    }

    async fn what_cannot_be_an_event_is_refused(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let path = |kind: &str, txn: &str| format!("{V3}/rooms/{}/send/{kind}/{txn}", encoded(&room));
        let send = async |path: String, body: &str| alice.send(Method::PUT, &path, Some(body.to_owned())).await;
        send(path("m.room.message", "a"), "not json").await.refused(400, "M_NOT_JSON");
        send(path("m.room.message", "a"), "").await.refused(400, "M_NOT_JSON");
        send(path("m.room.message", "a"), "[]").await.refused(400, "M_BAD_JSON");
        send(path("m.room.message", "a"), "5").await.refused(400, "M_BAD_JSON");
        send(path("m.room.message", "a"), r#"{"n":1.5}"#).await.refused(400, "M_BAD_JSON");
        send(path("m.room.message", "a"), r#"{"n":9007199254740992}"#).await.refused(400, "M_BAD_JSON");
        send(path("x%00y", "a"), "{}").await.refused(400, "M_INVALID_PARAM");
        send(path("m.room.message", "a%00b"), "{}").await.refused(400, "M_INVALID_PARAM");
        send(path("%ff", "a"), "{}").await.refused(400, "M_INVALID_PARAM");
        send(path(&"x".repeat(300), "a"), "{}").await.refused(413, "M_TOO_LARGE");
        let huge = json!({ "body": "x".repeat(66_000) }).to_string();
        send(path("m.room.message", "a"), &huge).await.refused(413, "M_TOO_LARGE");
        send(format!("{V3}/rooms/nonsense/send/m.room.message/a"), "{}").await.refused(400, "M_INVALID_PARAM");
        send(format!("{V3}/rooms/!nowhere:x/send/m.room.message/a"), "{}").await.refused(403, "M_FORBIDDEN");
        alice.sets(&room, "x", "a\0b", json!({})).await.refused(400, "M_INVALID_PARAM");
        alice.reads(&room, "x", "a\0b").await.refused(400, "M_INVALID_PARAM");
        alice.in_room(&room, "event/$a%00b").await.refused(400, "M_INVALID_PARAM");
        alice.in_room(&room, "event/nonsense").await.refused(400, "M_INVALID_PARAM");
        alice.sets(&room, "m.room.create", "", json!({})).await.refused(400, "M_INVALID_PARAM");
        // What is state needs a key, and who may not set it may not say it either.
        for version in ["6", "11", "12"] {
            let room = alice.creates(json!({ "room_version": version })).await;
            for kind in ["m.room.member", "m.room.create"] {
                alice.sends(&room, kind, kind, json!({ "membership": "join" })).await.refused(403, "M_FORBIDDEN");
            }
        }
        server.nobody().put(&path("m.room.message", "a"), json!({})).await.refused(401, "M_MISSING_TOKEN");
        assert!(alice.reads_all(&room, None, 50).await.iter().all(|e| !e["state_key"].is_null()));
    }

    async fn state_that_no_room_can_use_is_a_mistake_and_not_forbidden(server) {
        let alice = server.user("alice").await;
        for version in ["9", "11", "12"] {
            let room = alice.creates(json!({ "room_version": version })).await;
            let levels = alice.reads(&room, "m.room.power_levels", "").await.good();
            for (key, wrong) in [
                ("events_default", json!([])),
                ("ban", json!(null)),
                ("users_default", json!({})),
                ("users", json!([])),
                ("users", json!({ "nobody": 5 })),
                ("users", json!({ "@bob:localhost": {} })),
                ("events", json!({ "m.room.name": true })),
                ("notifications", json!({ "room": [] })),
            ] {
                let mut levels = levels.clone();
                levels[key] = wrong;
                alice.sets(&room, "m.room.power_levels", "", levels).await.refused(400, "M_BAD_JSON");
            }
            // Numbers as text have been something until version 10.
            let mut text = levels.clone();
            text["events_default"] = json!("7");
            let text = alice.sets(&room, "m.room.power_levels", "", text).await;
            if version == "9" { text.good() } else { text.refused(400, "M_BAD_JSON") };
            alice.sets(&room, "m.room.power_levels", "", levels).await.good();

            for rule in [json!({}), json!({ "join_rule": 5 }), json!({ "join_rule": null })] {
                alice.sets(&room, "m.room.join_rules", "", rule).await.refused(400, "M_BAD_JSON");
            }
            alice.sets(&room, "m.room.join_rules", "", json!({ "join_rule": "org.example.rule" })).await.good();

            // Who locks their own server out cannot let it in again.
            let us = server.name().as_str();
            for acl in [json!({}), json!({ "allow": ["*.example"] }), json!({ "allow": ["*"], "deny": [us] })] {
                alice.sets(&room, "m.room.server_acl", "", acl).await.refused(400, "M_INVALID_PARAM");
            }
            alice.sets(&room, "m.room.server_acl", "", json!({ "allow": ["*"], "deny": ["bad.example"] })).await.good();
        }
    }

    async fn state_is_set_and_read_with_and_without_a_key(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        let at = format!("{V3}/rooms/{}/state/org.example", encoded(&room));
        let first = event_id(&alice.put(&at, json!({ "n": 1 })).await.good());
        assert_eq!(alice.get(&at).await.good(), json!({ "n": 1 }));
        assert_eq!(alice.get(&format!("{at}/")).await.good(), json!({ "n": 1 }));
        // Nothing changed: nothing happens.
        assert_eq!(event_id(&alice.put(&format!("{at}/"), json!({ "n": 1 })).await.good()), first);
        let second = event_id(&alice.put(&at, json!({ "n": 2 })).await.good());
        let event = alice.get(&format!("{at}?format=event")).await.good();
        assert_eq!((&event["event_id"], &event["state_key"]), (&json!(second), &json!("")));
        assert_eq!(event["unsigned"]["prev_content"], json!({ "n": 1 }));
        assert_eq!(event["unsigned"]["replaces_state"], first);
        alice.get(&format!("{at}?format=nonsense")).await.refused(400, "M_INVALID_PARAM");
        alice.get(&format!("{at}/other")).await.refused(404, "M_NOT_FOUND");
        bob.get(&at).await.refused(403, "M_FORBIDDEN");
        bob.joins(&room).await.good();
        bob.put(&at, json!({ "n": 3 })).await.refused(403, "M_FORBIDDEN");
        // A key with @ is its owner's alone.
        alice.sets(&room, "org.example", bob.id.as_str(), json!({})).await.refused(403, "M_FORBIDDEN");
        let key = alice.id.as_str();
        alice.sets(&room, "org.example/with slash", key, json!({ "x": true })).await.good();
        assert_eq!(bob.reads(&room, "org.example/with slash", key).await.good(), json!({ "x": true }));
    }

    async fn a_redaction_takes_the_content(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let (mine, theirs) = (bob.says(&room, "mine").await, alice.says(&room, "theirs").await);
        bob.redacts(&room, &theirs).await.refused(403, "M_FORBIDDEN");
        bob.redacts(&room, "$nothing").await.refused(404, "M_NOT_FOUND");
        let elsewhere = bob.says(&bob.opens().await, "elsewhere").await;
        bob.redacts(&room, &elsewhere).await.refused(404, "M_NOT_FOUND");
        alice.redacts(&room, &elsewhere).await.refused(400, "M_INVALID_PARAM");
        let before = alice.now().await;
        let redaction = event_id(&bob.redacts(&room, &mine).await.good());
        let event = alice.in_room(&room, &format!("event/{}", encoded(&mine))).await.good();
        assert_eq!(event["content"], json!({}));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!((&because["event_id"], &because["content"]["reason"]), (&json!(redaction), &json!("so")));
        assert_eq!(event["unsigned"]["redacted_by"], redaction);
        let news = alice.syncs_since(&before).await;
        let news = &news["rooms"]["join"][&room]["timeline"]["events"];
        assert_eq!((&news[0]["type"], &news[0]["redacts"]), (&json!("m.room.redaction"), &json!(mine)));
        assert_eq!(news[0]["content"]["redacts"], mine);
        // Also as an ordinary event; by power over others; the create event never.
        alice.sends(&room, "m.room.redaction", &txn(), json!({ "redacts": theirs })).await.good();
        let event = bob.in_room(&room, &format!("event/{}", encoded(&theirs))).await.good();
        assert_eq!(event["content"], json!({}));
        let third = bob.says(&room, "third").await;
        alice.redacts(&room, &third).await.good();
        let create = alice.in_room(&room, "state/m.room.create?format=event").await.good();
        alice.redacts(&room, &event_id(&create)).await.refused(403, "M_FORBIDDEN");
        // Redacted state keeps what the rules need.
        let name = event_id(&alice.sets(&room, "m.room.name", "", json!({ "name": "x" })).await.good());
        alice.redacts(&room, &name).await.good();
        assert_eq!(alice.reads(&room, "m.room.name", "").await.good(), json!({}));
        let all = alice.reads_all(&room, None, 100).await;
        assert!(all.iter().all(|e| e["content"]["body"] == Value::Null), "{all:?}");
    }

    async fn power_decides_who_may_do_what(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": "11" })).await;
        bob.joins(&room).await.good();
        for (kind, content) in [
            ("m.room.name", json!({ "name": "x" })),
            ("m.room.topic", json!({ "topic": "x" })),
            ("m.room.power_levels", json!({ "users": { bob.id.as_str(): 100 } })),
            ("m.room.join_rules", json!({ "join_rule": "invite" })),
            ("m.room.canonical_alias", json!({})),
        ] {
            bob.sets(&room, kind, "", content).await.refused(403, "M_FORBIDDEN");
        }
        let mut levels = alice.reads(&room, "m.room.power_levels", "").await.good();
        levels["users"][bob.id.as_str()] = json!(50);
        levels["events"]["m.room.message"] = json!(51);
        alice.sets(&room, "m.room.power_levels", "", levels.clone()).await.good();
        bob.sets(&room, "m.room.name", "", json!({ "name": "Bob's" })).await.good();
        bob.sends(&room, "m.room.message", &txn(), json!({ "body": "x" })).await.refused(403, "M_FORBIDDEN");
        // Nobody raises themselves or lowers their equals.
        levels["users"][bob.id.as_str()] = json!(100);
        bob.sets(&room, "m.room.power_levels", "", levels).await.refused(403, "M_FORBIDDEN");
    }

    async fn a_suspended_account_does_not_write(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let nid = server.services().store.user_nid(&alice.id).await.unwrap().unwrap();
        server.services().store.set_flag(nid, hearth_store::accounts::Flag::Suspended, true).await.unwrap();
        alice.sends(&room, "m.room.message", "t", json!({ "body": "x" })).await.refused(403, "M_USER_SUSPENDED");
        alice.post(&format!("{V3}/createRoom"), json!({})).await.refused(403, "M_USER_SUSPENDED");
        alice.in_room(&room, "state").await.good();
        alice.leaves(&room).await.good();
    }

    /// What is one's own one may take back, whoever has power in the room (spec: "Account suspension").
    async fn a_suspended_account_takes_back_what_it_said(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let (one, two, of_bob) = (alice.says(&room, "1").await, alice.says(&room, "2").await, bob.says(&room, "3").await);
        server.admin("root").await.put(&format!("/_matrix/client/v1/admin/suspend/{}", alice.id), json!({ "suspended": true })).await.good();
        let as_event = |id: &str| json!({ "redacts": id });
        alice.redacts(&room, &one).await.good();
        alice.sends(&room, "m.room.redaction", &txn(), as_event(&two)).await.good();
        for id in [&one, &two] {
            assert_eq!(bob.in_room(&room, &format!("event/{}", encoded(id))).await.good()["content"], json!({}));
        }
        for id in [&*of_bob, "$unheard_of"] {
            alice.redacts(&room, id).await.refused(403, "M_USER_SUSPENDED");
            alice.sends(&room, "m.room.redaction", &txn(), as_event(id)).await.refused(403, "M_USER_SUSPENDED");
        }
        // As state it is an event like any other.
        alice.sets(&room, "m.room.redaction", "", as_event(&two)).await.refused(403, "M_USER_SUSPENDED");
    }
}

#[tokio::test]
async fn limits_bite_and_tell_when_to_come_back() {
    let plan = crate::support::Plan::default().api(|api| {
        api.limits.enabled = true;
        api.limits.message = hearth_api::limits::Rate::new(0.5, 3.0);
        api.limits.registration = hearth_api::limits::Rate::new(100.0, 100.0);
    });
    let server = plan.sqlite().await;
    let alice = server.user("alice").await;
    let room = alice.opens().await;
    for _ in 0..3 {
        alice.says(&room, "quick").await;
    }
    let body = alice.sends(&room, "m.room.message", "t", json!({ "body": "x" })).await.refused(429, "M_LIMIT_EXCEEDED");
    assert!((1..=2000).contains(&body["retry_after_ms"].as_u64().unwrap()), "{body}");
    server.clock().advance_ms(2100);
    alice.says(&room, "patient").await;
}

/// `rc_admin_redaction`: whoever tidies up after others is counted by that, and everybody's own messages by `rc_message`.
#[tokio::test]
async fn redactions_of_others_may_count_by_themselves() {
    for apart in [true, false] {
        let plan = crate::support::Plan::default().api(move |api| {
            api.limits.enabled = true;
            api.limits.message = hearth_api::limits::Rate::new(0.001, 4.0);
            api.limits.admin_redaction = hearth_api::limits::Rate::new(0.001, 3.0);
            api.limits.redactions_apart = apart;
            api.limits.registration = hearth_api::limits::Rate::new(100.0, 100.0);
        });
        let server = plan.sqlite().await;
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let (mut of_bob, mine) = (Vec::new(), alice.says(&room, "mine").await);
        for n in 0..4 {
            of_bob.push(bob.says(&room, &format!("{n}")).await);
        }
        alice.redacts(&room, &of_bob[0]).await.good();
        alice.post_in_room(&room, &format!("redact/{}", encoded(&of_bob[1])), json!({})).await.good();
        let as_event = |id: &str| json!({ "redacts": id });
        alice.sends(&room, "m.room.redaction", &txn(), as_event(&of_bob[2])).await.good();
        for path in ["redact", "send"] {
            let answer = match path {
                "redact" => alice.redacts(&room, &of_bob[3]).await,
                _ => alice.sends(&room, "m.room.redaction", &txn(), as_event(&of_bob[3])).await,
            };
            answer.refused(429, "M_LIMIT_EXCEEDED");
        }
        let text = json!({ "msgtype": "m.text", "body": "more" });
        if !apart {
            alice.sends(&room, "m.room.message", &txn(), text).await.refused(429, "M_LIMIT_EXCEEDED");
            continue;
        }
        alice.says(&room, "more").await;
        alice.redacts(&room, &mine).await.good();
        alice.says(&room, "more").await;
        alice.sends(&room, "m.room.message", &txn(), text).await.refused(429, "M_LIMIT_EXCEEDED");
    }
}
