//! What users sent who closed their account with the wish to be forgotten (client-server API, `POST /account/deactivate`).

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        Plan, User,
        rooms::{V3, bodies, encoded, event_id, state_of, txn},
    },
};

async fn closes(user: &User, erase: bool) {
    user.post(&format!("{V3}/account/deactivate"), user.confirmed(json!({ "erase": erase }))).await.good();
}

fn found<'a>(events: &'a Value, id: &str) -> &'a Value {
    events.as_array().unwrap().iter().find(|e| e["event_id"] == id).unwrap_or_else(|| panic!("no {id} in {events}"))
}

/// The timeline of a first sync.
async fn timeline(user: &User, room: &str) -> Value {
    let filter = encoded(r#"{"room":{"timeline":{"limit":50}}}"#);
    user.syncs(&format!("filter={filter}")).await["rooms"]["join"][room]["timeline"]["events"].clone()
}

on_both! {
    async fn what_erased_users_sent_is_kept_from_those_who_come_later(server) {
        let (ada, bob, eve) = (server.user("ada").await, server.user("bob").await, server.user("eve").await);
        let carl = server.user("carl").await;
        let room = ada.opens().await;
        for user in [&bob, &carl] {
            user.joins(&room).await.good();
        }
        let old = event_id(&ada.sets(&room, "m.room.topic", "", json!({ "topic": "old" })).await.good());
        let new = event_id(&ada.sets(&room, "m.room.topic", "", json!({ "topic": "new" })).await.good());
        let said = ada.says(&room, "of ada").await;
        carl.says(&room, "of carl").await;
        let root = bob.says(&room, "of bob").await;
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        let reply = json!({ "msgtype": "m.text", "body": "in thread", "m.relates_to": relation });
        let reply = event_id(&ada.sends(&room, "m.room.message", &txn(), reply).await.good());
        let gone = bob.says(&room, "oops").await;
        ada.redacts(&room, &gone).await.good();
        closes(&ada, true).await;
        closes(&carl, false).await;
        eve.joins(&room).await.good();

        let server = Plan::default().after(server).await;
        let (bob, eve) = (bob.on(&server), eve.on(&server));
        for (user, came_later) in [(&bob, false), (&eve, true)] {
            let shown = |whole: Value| if came_later { json!({}) } else { whole };
            let message = shown(json!({ "msgtype": "m.text", "body": "of ada" }));
            let page = user.pages(&room, "dir=b&limit=100").await["chunk"].clone();
            let synced = timeline(user, &room).await;
            for events in [&page, &synced] {
                assert_eq!(found(events, &said)["content"], message, "{events}");
                assert_eq!(found(events, &old)["content"], shown(json!({ "topic": "old" })));
                // What holds now is the room's, for everybody.
                assert_eq!(found(events, &new)["content"], json!({ "topic": "new" }));
                assert_eq!(found(events, &new)["unsigned"]["prev_content"], shown(json!({ "topic": "old" })));
                let others = bodies(events);
                assert!(others.contains(&"of bob") && others.contains(&"of carl"), "{events}");
                let last = &found(events, &root)["unsigned"]["m.relations"]["m.thread"]["latest_event"];
                assert_eq!((&last["event_id"], last["content"]["body"].is_null()), (&json!(reply), came_later));
                let because = &found(events, &gone)["unsigned"]["redacted_because"];
                assert_eq!((because["sender"].as_str(), because["content"]["reason"].is_null()), (Some(ada.id.as_str()), came_later));
            }
            assert_eq!(user.in_room(&room, &format!("event/{}", encoded(&said))).await.good()["content"], message);
            let context = user.in_room(&room, &format!("context/{}", encoded(&said))).await.good();
            assert_eq!(context["event"]["content"], message);
            assert_eq!(found(&context["events_before"], &old)["content"], shown(json!({ "topic": "old" })));
            let context = user.in_room(&room, &format!("context/{}", encoded(&root))).await.good();
            assert_eq!(found(&context["events_before"], &said)["content"], message);
            let path = format!("/_matrix/client/v1/rooms/{}/relations/{}", encoded(&room), encoded(&root));
            let children = user.get(&path).await.good()["chunk"].clone();
            assert_eq!(bodies(&children), if came_later { vec![] } else { vec!["in thread"] });
            let state = user.in_room(&room, "state").await.good();
            assert_eq!(state_of(&state, "m.room.topic", "").unwrap()["content"], json!({ "topic": "new" }));
        }

        // Who comes back was there at the time, and sees what was theirs to see.
        bob.leaves(&room).await.good();
        bob.joins(&room).await.good();
        assert!(bodies(&bob.pages(&room, "dir=b&limit=100").await["chunk"]).contains(&"of ada"));
    }
}
