//! Whom an event mentions, where it does not say so itself.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::rooms::{V3, encoded, joined, txn},
};

on_both! {
    /// Events without `m.mentions` mention those whose whole ids are in their texts (client-server API, "User and room
    /// mentions"); in a thread they count there.
    async fn a_whole_id_in_a_text_is_a_mention(server) {
        let (ada, bob, carol) = (server.user("ada").await, server.user("bob").await, server.user("carol").await);
        let room = ada.opens().await;
        for user in [&bob, &carol] {
            user.joins(&room).await.good();
        }
        // Carol has rules of her own.
        let rule = format!("{V3}/pushrules/global/content/cake");
        carol.put(&rule, json!({ "pattern": "cake", "actions": ["notify"] })).await.good();
        let root = ada.says(&room, "root").await;
        let send = async |mut content: Value| {
            content["msgtype"] = json!("m.text");
            ada.sends(&room, "m.room.message", &txn(), content).await.good();
        };
        let thread = json!({ "rel_type": "m.thread", "event_id": root });
        for user in [&bob, &carol] {
            let (id, name) = (user.id.as_str(), user.id.localpart());
            send(json!({ "body": format!("Hello {id}!") })).await;
            send(json!({ "body": format!("{id}: here"), "m.relates_to": thread })).await;
            send(json!({ "body": format!("Hello {name}, @{name}, {id}s, not{id}") })).await;
            send(json!({ "body": format!("Hello {id}"), "m.mentions": {} })).await;
        }
        let filter = encoded(r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#);
        for user in [&bob, &carol] {
            let sync = user.syncs(&format!("filter={filter}")).await;
            let room = joined(&sync, &room);
            assert_eq!(room["unread_notifications"], json!({ "notification_count": 7, "highlight_count": 1 }));
            let threads = &room["unread_thread_notifications"];
            assert_eq!(threads[&root], json!({ "notification_count": 2, "highlight_count": 1 }));
        }
    }
}
