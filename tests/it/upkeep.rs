//! What the server does by itself now and then.

use std::time::Duration;

use hearth_service::upkeep::{Settings, Upkeep};
use hearth_store::keys::backups::Chosen;
use serde_json::json;

use crate::{
    on_both,
    support::{
        TestServer,
        rooms::{V3, bodies, encoded, joined},
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
            bob.post(&format!("{V3}/rooms/{}/join", encoded(room)), json!({})).await.good();
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

    async fn nothing_private_of_a_closed_account_is_kept(server) {
        let (ada, bob) = (server.user("ada").await, server.user("bob").await);
        let room = ada.creates(json!({})).await;
        let mut backups = Vec::new();
        for user in [&ada, &bob] {
            let algorithm = "m.megolm_backup.v1.curve25519-aes-sha2";
            let backup = json!({"algorithm": algorithm, "auth_data": {}});
            let made = user.post(&format!("{V3}/room_keys/version"), backup).await.good();
            let version = made["version"].as_str().unwrap().to_owned();
            let key = json!({"first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": {}});
            let path = format!("{V3}/room_keys/keys/{}/session?version={version}", encoded(&room));
            user.put(&path, key).await.good();
            backups.push(version.parse::<i64>().unwrap());
            user.put(&format!("{V3}/user/{}/account_data/org.example.diary", user.id), json!({"dear": "diary"})).await.good();
            user.put(&format!("{V3}/pushrules/global/content/word"), json!({"pattern": "w", "actions": []})).await.good();
            user.post(&format!("{V3}/pushers/set"), json!({
                "kind": "http", "app_id": "org.example", "pushkey": user.id, "app_display_name": "App",
                "device_display_name": "Phone", "lang": "en", "data": {"url": "https://push.example/_matrix/push/v1/notify"},
            })).await.good();
        }
        ada.put(&format!("{V3}/user/{}/rooms/{}/tags/m.favourite", ada.id, encoded(&room)), json!({})).await.good();
        ada.post(&format!("{V3}/account/deactivate"), ada.confirmed(json!({}))).await.good();
        upkeep(&server).closed_accounts().await.unwrap();

        let store = &server.services().store;
        for (user, version, there) in [(&ada, backups[0], false), (&bob, backups[1], true)] {
            let nid = store.user_nid(&user.id).await.unwrap().unwrap();
            let diary = store.account_data(nid, None, "org.example.diary").await.unwrap();
            let all = store.account_data_all(nid, store.head()).await.unwrap();
            assert_eq!((diary.is_some(), !all.is_empty()), (there, there), "{}: {all:?}", user.id);
            assert_eq!(!store.pushers(nid).await.unwrap().is_empty(), there);
            let keys = store.backup_sessions(nid, version, &Chosen::default()).await.unwrap();
            assert_eq!((store.backup(nid, None).await.unwrap().is_some(), !keys.is_empty()), (there, there));
        }
    }

    async fn syncs_go_on_over_a_pruned_log(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat" })).await;
        bob.post(&format!("{V3}/rooms/{}/join", encoded(&room)), json!({})).await.good();
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
