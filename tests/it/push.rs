//! What one is notified of, listed.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        User,
        rooms::{V3, encoded, txn},
    },
};

async fn notifications(user: &User, query: &str) -> Value {
    user.get(&format!("{V3}/notifications?{query}")).await.good()
}

fn told(page: &Value) -> Vec<&str> {
    let list = page["notifications"].as_array().unwrap().iter();
    list.map(|n| n["event"]["content"]["body"].as_str().or(n["event"]["type"].as_str()).unwrap()).collect()
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
        assert_eq!((&list[1]["actions"], &list[4]["read"]), (&json!(["notify"]), &json!(true)), "his own came after it");
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
        bob.get(&format!("{V3}/notifications?from=x")).await.refused(400, "M_INVALID_PARAM");

        let mute = json!({ "actions": [] });
        bob.put(&format!("{V3}/pushrules/global/room/{}", encoded(&one)), mute).await.good();
        alice.says(&one, "unheard").await;
        assert!(!told(&notifications(&bob, "").await).contains(&"unheard"));
        assert!(told(&notifications(&alice, "").await).contains(&"his own"));
    }
}
