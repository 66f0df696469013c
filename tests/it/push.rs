//! What one is notified of, listed.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        TestServer, User,
        rooms::{V3, encoded, event_id, txn},
    },
};

mod mentions;
mod redacted;

async fn notifications(user: &User, query: &str) -> Value {
    user.get(&format!("{V3}/notifications?{query}")).await.good()
}

fn told(page: &Value) -> Vec<&str> {
    let list = page["notifications"].as_array().unwrap().iter();
    list.map(|n| n["event"]["content"]["body"].as_str().or(n["event"]["type"].as_str()).unwrap()).collect()
}

/// Where rules are changed: what is no name of one, and what no rule can say (client-server API, "Push Rules: API").
#[tokio::test]
async fn what_is_no_push_rule_is_refused() {
    let server = TestServer::start().await;
    let ada = server.user("ada").await;
    let rules = format!("{V3}/pushrules");
    let rule = json!({ "actions": ["notify"], "conditions": [], "pattern": "word" });
    for path in
        ["", "/global", "/global/room", "/device/", "/device/room/x", "/global/room/!a:b/enabled/x", "/global/x/y/z"]
    {
        ada.get(&format!("{rules}{path}")).await.refused(400, "M_UNRECOGNIZED");
    }
    for path in
        ["", "/", "/global/", "/global/content", "/global/content/", "/device/content/word", "/global/content/a/b"]
    {
        ada.put(&format!("{rules}{path}"), rule.clone()).await.refused(400, "M_UNRECOGNIZED");
    }
    server.nobody().get(&format!("{rules}/")).await.refused(401, "M_MISSING_TOKEN");
    ada.get(&format!("{rules}/global/nothing/word")).await.refused(404, "M_NOT_FOUND");
    ada.put(&format!("{rules}/global/nothing/word"), rule.clone()).await.refused(400, "M_INVALID_PARAM");
    ada.put(&format!("{rules}/global/content/.word"), rule).await.refused(400, "M_INVALID_PARAM");
    ada.get(&format!("{rules}/global/content/word")).await.refused(404, "M_NOT_FOUND");

    let word = format!("{rules}/global/content/word");
    for (body, errcode) in [
        (json!({ "actions": ["notify"] }), "M_BAD_JSON"),
        (json!({ "pattern": "word" }), "M_BAD_JSON"),
        (json!({ "pattern": "word", "actions": ["ring"] }), "M_INVALID_PARAM"),
        (json!({ "pattern": "word", "actions": [{ "ring": true }] }), "M_INVALID_PARAM"),
    ] {
        ada.put(&word, body).await.refused(400, errcode);
    }
    let condition = json!({ "actions": [], "conditions": [{ "key": "type" }] });
    ada.put(&format!("{rules}/global/override/word"), condition).await.refused(400, "M_BAD_JSON");

    // What did something once is no mistake, and does nothing.
    let tweak = json!({ "set_tweak": "org.example.blink" });
    let actions = json!(["notify", "dont_notify", tweak, "org.example.action"]);
    ada.put(&word, json!({ "pattern": "word", "actions": actions })).await.good();
    assert_eq!(ada.get(&format!("{word}/actions")).await.good()["actions"], actions);
    ada.put(&format!("{word}/actions"), json!({ "actions": ["ring"] })).await.refused(400, "M_INVALID_PARAM");
    ada.put(&format!("{word}/enabled"), json!({ "enabled": "no" })).await.refused(400, "M_BAD_JSON");
    ada.put(&format!("{word}/enabled"), json!({ "enabled": false })).await.good();
    let list = ada.get(&format!("{rules}/global/content/")).await.good();
    assert_eq!(
        (list[0]["rule_id"].as_str(), &list[0]["enabled"], &list[1]),
        (Some("word"), &json!(false), &Value::Null)
    );
    let all = ada.get(&format!("{rules}/")).await.good();
    assert_eq!(
        (&all["global"]["content"], &all["global"]),
        (&list, &ada.get(&format!("{rules}/global/")).await.good())
    );
    for (path, body) in [("actions", json!({ "actions": [] })), ("enabled", json!({ "enabled": true }))] {
        ada.put(&format!("{rules}/global/underride/.m.rule.none/{path}"), body).await.refused(404, "M_NOT_FOUND");
    }
    ada.delete(&word, json!({})).await.good();
    ada.delete(&word, json!({})).await.refused(404, "M_NOT_FOUND");
    ada.delete(&format!("{rules}/global/override/.m.rule.master"), json!({})).await.refused(400, "M_INVALID_PARAM");
}

on_both! {
    async fn notifications_are_listed_newest_first(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let (one, two) = (alice.opens().await, alice.opens().await);
        alice.says(&one, "before bob").await;
        bob.joins(&one).await.good();
        bob.joins(&two).await.good();
        alice.says(&one, "a").await;
        alice.says(&two, "b").await;
        bob.says(&one, "his own").await;
        alice.sets(&two, "m.room.topic", "", json!({ "topic": "not told of" })).await.good();
        let content = json!({ "msgtype": "m.text", "body": "bob!", "m.mentions": { "user_ids": [bob.id] } });
        alice.sends(&two, "m.room.message", &txn(), content).await.good();
        alice.says(&one, "c").await;
        let closed = alice.creates(json!({})).await;
        alice.invites(&closed, &bob).await.good();

        let all = notifications(&bob, "").await;
        assert_eq!(told(&all), ["m.room.member", "c", "bob!", "b", "a"]);
        assert!(all["next_token"].is_null());
        let list = &all["notifications"];
        assert_eq!((&list[1]["room_id"], &list[1]["read"]), (&json!(one), &json!(false)));
        let between_two = json!(["notify", { "set_tweak": "sound", "value": "default" }]);
        assert_eq!((&list[1]["actions"], &list[4]["read"]), (&between_two, &json!(true)), "his own came after it");
        assert!(list[1]["ts"].is_u64() && list[1]["event"]["room_id"].is_null());
        assert_eq!(list[0]["room_id"], json!(closed));
        assert_eq!(told(&notifications(&bob, "only=highlight").await), ["bob!"]);

        let (mut paged, mut from) = (Vec::new(), String::new());
        for _ in 0..10 {
            let page = notifications(&bob, &format!("limit=2{from}")).await;
            paged.extend(told(&page).into_iter().map(str::to_owned));
            let Some(next) = page["next_token"].as_str() else { break };
            from = format!("&from={}", encoded(next));
        }
        assert_eq!(paged, told(&all));
        bob.joins(&closed).await.good();
        assert_eq!(told(&notifications(&bob, "").await), told(&all), "an invite is told of although it was taken");
        bob.get(&format!("{V3}/notifications?from=x")).await.refused(400, "M_INVALID_PARAM");

        let mute = json!({ "actions": [] });
        bob.put(&format!("{V3}/pushrules/global/room/{}", encoded(&one)), mute).await.good();
        alice.says(&one, "unheard").await;
        assert!(!told(&notifications(&bob, "").await).contains(&"unheard"));
        assert!(told(&notifications(&alice, "").await).contains(&"his own"));
    }

    /// Spec: "Predefined Rules". What the rules do beyond counting is told, too, as it was when the event came: a message
    /// between two makes a sound, a call rings.
    async fn notifications_have_the_sounds_of_the_rules(server) {
        let (ada, bob, carol) = (server.user("ada").await, server.user("bob").await, server.user("carol").await);
        let room = ada.opens().await;
        bob.joins(&room).await.good();
        let send = async |kind: &str, body: &str, more: Value| {
            let mut content = json!({ "msgtype": "m.text", "body": body });
            content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            event_id(&ada.sends(&room, kind, &txn(), content).await.good())
        };
        let sounds = async || {
            let page = notifications(&bob, "").await;
            let list = page["notifications"].as_array().unwrap().iter();
            let told = list.map(|n| {
                let of = |tweak: &str| n["actions"].as_array().unwrap().iter().find(|a| a["set_tweak"] == tweak).cloned();
                let sound = of("sound").map_or("-".to_owned(), |s| s["value"].as_str().unwrap().to_owned());
                let loud = if of("highlight").is_some() { "!" } else { "" };
                assert_eq!(n["actions"][0], "notify", "{n}");
                format!("{} {sound}{loud}", n["event"]["content"]["body"].as_str().unwrap())
            });
            told.collect::<Vec<_>>()
        };
        let rule = async |path: &str, body: Value| bob.put(&format!("{V3}/pushrules/global/{path}"), body).await.good();
        let root = send("m.room.message", "two", json!({})).await;
        send("m.room.message", "reply", json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": root } })).await;
        send("m.room.encrypted", "secret", json!({})).await;
        carol.joins(&room).await.good();
        send("m.room.message", "three", json!({})).await;
        send("m.call.invite", "call", json!({})).await;
        send("m.room.message", "all", json!({ "m.mentions": { "room": true } })).await;
        send("m.room.message", "bob", json!({ "m.mentions": { "user_ids": [bob.id] } })).await;
        let mut told =
            vec!["bob default!", "all -!", "call ring", "three -", "secret default", "reply default", "two default"];
        assert_eq!(sounds().await, told);

        // Rules that differ by their sound alone, for the rest by what they say now.
        let with = |sound: &str| json!(["notify", { "set_tweak": "sound", "value": sound }]);
        rule("underride/.m.rule.message/actions", json!({ "actions": with("drop") })).await;
        let loud = json!(["notify", { "set_tweak": "sound", "value": "gong" }, { "set_tweak": "highlight" }]);
        rule("override/.m.rule.is_user_mention/actions", json!({ "actions": loud })).await;
        send("m.room.message", "bob again", json!({ "m.mentions": { "user_ids": [bob.id] } })).await;
        told[3] = "three drop";
        told.insert(0, "bob again gong!");
        assert_eq!(sounds().await, told);
        rule("content/cake", json!({ "pattern": "cake", "actions": with("bell") })).await;
        send("m.room.message", "cake", json!({})).await;
        told.insert(0, "cake bell");
        assert_eq!(sounds().await, told);
        // What they would not do any more they did all the same.
        rule("underride/.m.rule.message/actions", json!({ "actions": [] })).await;
        told[5] = "three -";
        assert_eq!(sounds().await, told);
    }

    /// A rule id is any string, and one that names no room or sender never fires.
    async fn rules_of_rooms_and_senders_have_any_id(server) {
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        for kind in ["room", "sender"] {
            let rules = format!("{V3}/pushrules/global/{kind}");
            let at = |id: &str| format!("{rules}/{}", encoded(id));
            let order = async || {
                let list = ada.get(&format!("{rules}/")).await.good();
                let ids: Vec<String> =
                    list.as_array().unwrap().iter().map(|r| r["rule_id"].as_str().unwrap().to_owned()).collect();
                ids.join(" ")
            };
            let mute = json!({ "actions": [] });
            ada.put(&at("#c:example.com"), mute.clone()).await.good();
            ada.put(&at("#a:example.com"), mute.clone()).await.good();
            assert_eq!(order().await, "#a:example.com #c:example.com");
            let place = format!("{}?after={}", at("anything at all"), encoded("#a:example.com"));
            ada.put(&place, mute.clone()).await.good();
            let place = format!("{}?before={}", at("!b:example.com"), encoded("anything at all"));
            ada.put(&place, mute.clone()).await.good();
            assert_eq!(order().await, "#a:example.com !b:example.com anything at all #c:example.com");
            ada.put(&format!("{}?before=nowhere", at("#d:example.com")), mute.clone()).await.refused(400, "M_UNKNOWN");

            let one = at("#c:example.com");
            assert_eq!(
                ada.get(&one).await.good(),
                json!({ "rule_id": "#c:example.com", "actions": [], "default": false, "enabled": true })
            );
            ada.put(&format!("{one}/enabled"), json!({ "enabled": false })).await.good();
            assert_eq!(ada.get(&format!("{one}/enabled")).await.good(), json!({ "enabled": false }));
            ada.put(&format!("{one}/actions"), json!({ "actions": ["notify"] })).await.good();
            assert_eq!(ada.get(&format!("{one}/actions")).await.good(), json!({ "actions": ["notify"] }));
            ada.delete(&at("#a:example.com"), json!({})).await.good();
            ada.get(&at("#a:example.com")).await.refused(404, "M_NOT_FOUND");
            ada.put(&at("#x:example.com"), json!({ "conditions": [] })).await.refused(400, "M_BAD_JSON");
            ada.put(&at(".mine"), mute).await.refused(400, "M_INVALID_PARAM");
        }

        // Those that do name a room or a sender fire as ever.
        let (quiet, loud) = (bob.opens().await, bob.opens().await);
        let by_bob = format!("{V3}/pushrules/global/sender/{}", encoded(bob.id.as_str()));
        for room in [&quiet, &loud] {
            ada.joins(room).await.good();
        }
        let of_room = format!("{V3}/pushrules/global/room/{}", encoded(&quiet));
        ada.put(&of_room, json!({ "actions": [] })).await.good();
        bob.says(&quiet, "unheard").await;
        bob.says(&loud, "heard").await;
        assert_eq!(told(&notifications(&ada, "").await), ["heard"]);
        ada.put(&by_bob, json!({ "actions": [] })).await.good();
        bob.says(&loud, "unheard too").await;
        assert_eq!(told(&notifications(&ada, "").await), ["heard"]);
        let all = ada.syncs("").await;
        let content = &all["account_data"]["events"].as_array().unwrap().iter().find(|e| e["type"] == "m.push_rules");
        let rules = &content.unwrap()["content"]["global"];
        assert_eq!((rules["room"].as_array().unwrap().len(), rules["sender"].as_array().unwrap().len()), (4, 4));
    }
}
