//! A disk that takes nothing more for a while: whoever writes is told so, readers notice nothing, and all goes on after.

use hearth_store::{db::Sql, execute};
use serde_json::json;

use crate::{
    on_both,
    support::{
        TestServer,
        rooms::{V3, bodies, encoded, joined},
    },
};

/// PostgreSQL says what it says on a full disk; SQLite refuses the row, which is the nearest that can be had of it.
const FILL: [Sql; 2] = [
    Sql {
        sqlite: "CREATE TRIGGER full_disk BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END",
        postgres: "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$",
    },
    Sql {
        sqlite: "SELECT 1",
        postgres: "CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()",
    },
];
const CLEAR: [Sql; 1] = [Sql { sqlite: "DROP TRIGGER full_disk", postgres: "DROP TRIGGER full_disk ON events" }];

async fn run(server: &TestServer, statements: &'static [Sql]) {
    let store = &server.services().store;
    store
        .write(move |tx| {
            Box::pin(async move {
                for statement in statements {
                    execute!(tx, *statement)?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
}

on_both! {
    async fn a_full_disk_passes(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat" })).await;
        bob.post(&format!("{V3}/rooms/{}/join", encoded(&room)), json!({})).await.good();
        alice.says(&room, "before").await;
        let seen = bob.syncs("").await;
        let since = seen["next_batch"].as_str().unwrap();
        let send = async |text: &str| {
            let path = format!("{V3}/rooms/{}/send/m.room.message/{text}", encoded(&room));
            alice.put(&path, json!({ "msgtype": "m.text", "body": text })).await
        };
        run(&server, &FILL).await;
        for _ in 0..2 {
            let (a, b, c) = tokio::join!(send("one"), send("two"), send("three"));
            for answer in [a, b, c] {
                assert!(answer.status.is_server_error(), "{answer:?}");
                assert_eq!(answer.body["errcode"], "M_UNKNOWN");
            }
            assert_eq!(bob.syncs_since(since).await["rooms"], json!(null));
            alice.get(&format!("{V3}/profile/{}", bob.id)).await.good();
        }
        run(&server, &CLEAR).await;
        // The same transactions again, as a client does.
        for text in ["one", "two", "three"] {
            send(text).await.good();
        }
        let news = bob.syncs_since(since).await;
        assert_eq!(bodies(&joined(&news, &room)["timeline"]["events"]), ["one", "two", "three"]);
        assert_eq!(joined(&news, &room)["unread_notifications"]["notification_count"], 4, "with the one before");
    }
}
