//! What is redacted is not unread any more.

use serde_json::{Value, json};

use super::{notifications, told};
use crate::{
    on_both,
    support::{
        Plan, TestServer, User,
        rooms::{V3, encoded, event_id, joined, txn},
    },
};

/// Unread of a room: notifications and highlights of the main timeline, and of one thread.
async fn unread(user: &User, room: &str, root: &str) -> [u64; 4] {
    let filter = encoded(r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#);
    let sync = user.syncs(&format!("filter={filter}")).await;
    let (main, thread) =
        (&joined(&sync, room)["unread_notifications"], &joined(&sync, room)["unread_thread_notifications"][root]);
    let of = |counts: &Value, name: &str| counts[name].as_u64().unwrap_or(0);
    [main, thread].map(|c| ["notification_count", "highlight_count"].map(|n| of(c, n))).concat().try_into().unwrap()
}

/// Whatever is remembered, and whatever the database says.
async fn restarted(server: TestServer, users: [&mut User; 4]) -> TestServer {
    let server = Plan::default().after(server).await;
    for user in users {
        *user = user.on(&server);
    }
    server
}

on_both! {
    async fn what_is_redacted_is_not_unread(server) {
        let (mut ada, mut bob) = (server.user("ada").await, server.user("bob").await);
        let (mut carol, mut dave) = (server.user("carol").await, server.user("dave").await);
        let room = ada.opens().await;
        for user in [&bob, &carol, &dave] {
            user.joins(&room).await.good();
        }
        // To Carol the room is silent, Dave listens for cake.
        let rule = |user: &User, path: &str, body: Value| {
            let (user, path) = (user.clone(), format!("{V3}/pushrules/global/{path}"));
            async move { user.put(&path, body).await.good() }
        };
        rule(&carol, &format!("room/{}", encoded(&room)), json!({ "actions": [] })).await;
        let loud = json!(["notify", { "set_tweak": "highlight" }]);
        rule(&dave, "content/cake", json!({ "pattern": "cake", "actions": loud })).await;

        let mention = |body: &str| json!({ "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": [bob.id] } });
        let send = async |content: Value| event_id(&ada.sends(&room, "m.room.message", &txn(), content).await.good());
        let root = ada.says(&room, "root").await;
        let cake = ada.says(&room, "have cake").await;
        let named = send(mention("bob")).await;
        let in_thread = |mut content: Value| {
            content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
            content
        };
        let reply = send(in_thread(json!({ "msgtype": "m.text", "body": "reply" }))).await;
        let named_there = send(in_thread(mention("bob, here"))).await;
        let last = ada.says(&room, "last").await;
        let mut expected = [[4, 1, 2, 1], [0, 0, 0, 0], [4, 1, 2, 0]];
        let check = async |users: [&User; 3], expected: &[[u64; 4]; 3], when: &str| {
            for (user, expected) in users.into_iter().zip(expected) {
                assert_eq!(unread(user, &room, &root).await, *expected, "{} {when}", user.id);
            }
        };
        check([&bob, &carol, &dave], &expected, "at first").await;
        for (event, what, counts) in [
            (&cake, "the cake", [[3, 1, 2, 1], [0; 4], [3, 0, 2, 0]]),
            (&named, "the mention", [[2, 0, 2, 1], [0; 4], [2, 0, 2, 0]]),
            (&named_there, "the mention in the thread", [[2, 0, 1, 0], [0; 4], [2, 0, 1, 0]]),
            // Once more takes nothing away.
            (&cake, "the cake again", [[2, 0, 1, 0], [0; 4], [2, 0, 1, 0]]),
            (&reply, "the reply", [[2, 0, 0, 0], [0; 4], [2, 0, 0, 0]]),
        ] {
            ada.redacts(&room, event).await.good();
            check([&bob, &carol, &dave], &counts, what).await;
            expected = counts;
        }
        assert_eq!(told(&notifications(&bob, "").await), ["last", "root"]);
        let server = restarted(server, [&mut ada, &mut bob, &mut carol, &mut dave]).await;
        check([&bob, &carol, &dave], &expected, "after a restart").await;
        assert_eq!(told(&notifications(&bob, "").await), ["last", "root"]);

        // What was read is not taken away twice, and what comes counts.
        bob.post(&format!("{V3}/rooms/{}/receipt/m.read/{}", encoded(&room), encoded(&last)), json!({})).await.good();
        check([&bob, &carol, &dave], &[[0; 4], [0; 4], [2, 0, 0, 0]], "read").await;
        ada.redacts(&room, &last).await.good();
        check([&bob, &carol, &dave], &[[0; 4], [0; 4], [1, 0, 0, 0]], "redacted after it was read").await;
        ada.says(&room, "next").await;
        check([&bob, &carol, &dave], &[[1, 0, 0, 0], [0; 4], [2, 0, 0, 0]], "the next").await;
        restarted(server, [&mut ada, &mut bob, &mut carol, &mut dave]).await;
        check([&bob, &carol, &dave], &[[1, 0, 0, 0], [0; 4], [2, 0, 0, 0]], "the next, after a restart").await;
    }
}
