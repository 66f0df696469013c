//! What the server does by itself now and then.

use std::time::Duration;

use hearth_service::upkeep::{Settings, Upkeep};
use serde_json::json;

use crate::{
    on_both,
    support::{
        TestServer,
        rooms::{V3, bodies, joined},
    },
};

fn upkeep(server: &TestServer) -> Upkeep {
    Upkeep::new(server.services(), Settings::default())
}

on_both! {
    async fn a_closed_account_leaves_its_rooms(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let mut rooms = Vec::new();
        for _ in 0..3 {
            let room = alice.creates(json!({ "preset": "public_chat", "invite": [bob.id] })).await;
            rooms.push(room);
        }
        for room in &rooms[..2] {
            bob.post(&format!("{V3}/rooms/{}/join", crate::support::rooms::encoded(room)), json!({})).await.good();
        }
        bob.post(&format!("{V3}/account/deactivate"), bob.confirmed(json!({}))).await.good();
        upkeep(&server).closed_accounts().await.unwrap();
        for room in &rooms {
            let member = alice.in_room(room, &format!("state/m.room.member/{}", bob.id)).await.good();
            assert_eq!(member["membership"], "leave", "two were joined, the third invited to");
            let member = alice.in_room(room, &format!("state/m.room.member/{}", alice.id)).await.good();
            assert_eq!(member["membership"], "join");
        }
        upkeep(&server).closed_accounts().await.unwrap();
    }

    async fn syncs_go_on_over_a_pruned_log(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat" })).await;
        bob.post(&format!("{V3}/rooms/{}/join", crate::support::rooms::encoded(&room)), json!({})).await.good();
        let first = bob.syncs("").await;
        alice.says(&room, "hello bob").await;
        let since = first["next_batch"].as_str().unwrap();
        let before = bob.syncs_since(since).await;
        let upkeep = upkeep(&server);
        upkeep.log().await.unwrap();
        server.clock().advance_ms(u64::try_from(Duration::from_secs(40 * 86_400).as_millis()).unwrap());
        upkeep.log().await.unwrap();
        upkeep.redactions().await.unwrap();
        let after = bob.syncs_since(since).await;
        assert_eq!(bodies(&joined(&after, &room)["timeline"]["events"]), ["hello bob"]);
        let unread = |sync| joined(sync, &room)["unread_notifications"].clone();
        assert_eq!(unread(&after), unread(&before));
    }
}
