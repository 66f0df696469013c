//! A client's own events, which it knows by the answers to its requests.

use std::time::Instant;

use serde_json::json;

use super::next;
use crate::{
    on_both,
    support::rooms::{encoded, joined, txn},
};

on_both! {
    async fn who_sends_is_answered_before_their_sync_tells_of_it(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat" })).await;
        bob.joins(&room).await.good();
        let mut since = alice.now().await;
        let mut in_order = 0;
        for n in 0..20 {
            let waits = {
                let (alice, since) = (alice.clone(), encoded(&since));
                tokio::spawn(async move { (alice.syncs(&format!("timeout=20000&since={since}")).await, Instant::now()) })
            };
            // It waits before anything happens, as a rule; else it finds nothing, and waits then.
            tokio::task::yield_now().await;
            let content = json!({ "msgtype": "m.text", "body": n.to_string() });
            alice.sends(&room, "m.room.message", &txn(), content).await.good();
            let answered = Instant::now();
            let (sync, told) = waits.await.unwrap();
            assert_eq!(joined(&sync, &room)["timeline"]["events"][0]["content"]["body"], n.to_string());
            in_order += usize::from(answered < told);
            since = next(&sync);
        }
        // A machine that is busy with something else may turn a few around.
        assert!(in_order >= 15, "{in_order} of 20");
    }
}
