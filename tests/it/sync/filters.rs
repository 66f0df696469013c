//! What a client's filter lets into an answer to /sync.

use serde_json::{Value, json};

use super::with_filter;
use crate::{
    on_both,
    support::rooms::{V3, bodies, encoded, joined, state_of, types},
};

on_both! {
    async fn filters_choose_rooms_and_events(server) {
        let alice = server.user("alice").await;
        let (one, two) = (alice.opens().await, alice.opens().await);
        alice.says(&one, "one").await;
        alice.says(&two, "two").await;
        let sync = with_filter(&alice, json!({ "room": { "rooms": [one] } }), "").await;
        assert!(joined(&sync, &one).is_object() && joined(&sync, &two).is_null());
        let sync = with_filter(&alice, json!({ "room": { "not_rooms": [one] } }), "").await;
        assert!(joined(&sync, &one).is_null() && joined(&sync, &two).is_object());
        let messages = json!({ "room": { "timeline": { "types": ["m.room.message"] }, "state": { "types": [] } } });
        let sync = with_filter(&alice, messages, "").await;
        let there = joined(&sync, &one);
        assert_eq!(types(&there["timeline"]["events"]), ["m.room.message"]);
        assert_eq!(there["state"]["events"], json!([]));
        // Kept filters work by their number, for their owner.
        let store = &server.services().store;
        let nid = store.user_nid(&alice.id).await.unwrap().unwrap();
        let id = store.add_filter(nid, json!({ "room": { "rooms": [two] } }).to_string(), 10).await.unwrap();
        let sync = alice.syncs(&format!("filter={id}")).await;
        assert!(joined(&sync, &one).is_null() && joined(&sync, &two).is_object());
        let bob = server.user("bob").await;
        bob.get(&format!("{V3}/sync?filter={id}")).await.refused(400, "M_INVALID_PARAM");
    }

    async fn a_filter_finds_the_little_it_wants(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        alice.says(&room, "found").await;
        for n in 0..12 {
            alice.sends(&room, "a.made.up.filler", &n.to_string(), json!({})).await.good();
        }
        let filter = json!({ "room": { "timeline": { "limit": 1, "types": ["m.room.message"] } } });
        let sync = with_filter(&alice, filter, "").await;
        let timeline = &joined(&sync, &room)["timeline"];
        assert_eq!(bodies(&timeline["events"]), ["found"]);
        assert_eq!(timeline["limited"], false, "there is no other");
        // As other servers get them, events have their id all the same.
        let filter = json!({ "event_format": "federation", "room": { "timeline": { "limit": 1 } } });
        let sync = with_filter(&alice, filter, "").await;
        let event = &joined(&sync, &room)["timeline"]["events"][0];
        for key in ["event_id", "room_id", "sender", "origin_server_ts", "type", "prev_events", "auth_events", "depth", "hashes", "signatures", "content"] {
            assert!(!event[key].is_null(), "{key} in {event}");
        }
        let same = alice.in_room(&room, &format!("event/{}", encoded(event["event_id"].as_str().unwrap()))).await.good();
        assert_eq!(same["type"], "a.made.up.filler");
        // Account data of rooms and presence know the other fields of filters, too.
        let path = format!("{V3}/user/{}/rooms/{}/account_data/a.b", encoded(alice.id.as_str()), encoded(&room));
        alice.put(&path, json!({ "x": 1 })).await.good();
        for (rooms, found) in [(json!([room]), 1), (json!(["!other:x"]), 0)] {
            let filter = json!({ "room": { "account_data": { "rooms": rooms } } });
            let sync = with_filter(&alice, filter, "").await;
            assert_eq!(joined(&sync, &room)["account_data"]["events"].as_array().unwrap().len(), found);
        }
        for (senders, found) in [(json!([alice.id]), 1), (json!(["@other:x"]), 0)] {
            let sync = with_filter(&alice, json!({ "presence": { "senders": senders } }), "").await;
            assert_eq!(sync["presence"]["events"].as_array().map_or(0, Vec::len), found);
        }
    }

    async fn a_new_name_is_no_news_of_a_room_to_who_wants_none(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let none = json!({ "types": [] });
        let nothing = json!({ "room": { "state": none, "timeline": none, "ephemeral": none } });
        let since = encoded(&alice.now().await);
        let path = format!("{V3}/profile/{}/displayname", encoded(alice.id.as_str()));
        alice.put(&path, json!({ "displayname": "New" })).await.good();
        let name = alice.reads(&room, "m.room.member", alice.id.as_str()).await.good();
        assert_eq!(name["displayname"], "New");
        let sync = with_filter(&alice, nothing.clone(), &format!("&since={since}")).await;
        assert!(joined(&sync, &room).is_null(), "{sync}");
        // How many there are is.
        bob.leaves(&room).await.good();
        let sync = with_filter(&alice, nothing, &format!("&since={since}")).await;
        assert_eq!(joined(&sync, &room)["summary"]["m.joined_member_count"], 1, "{sync}");
    }

    async fn state_that_a_filter_keeps_out_of_the_timeline_is_told_beside_it(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let only = |limit: u64| json!({ "room": { "timeline": { "types": ["m.room.message"], "limit": limit } } });
        let since = alice.syncs("").await["next_batch"].as_str().unwrap().to_owned();
        alice.says(&room, "before").await;
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "one" })).await.good();
        alice.says(&room, "between").await;
        alice.sets(&room, "m.room.name", "", json!({ "name": "N" })).await.good();
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "two" })).await.good();
        for (limit, said) in [(5, &["before", "between"][..]), (1, &["between"])] {
            let sync = with_filter(&alice, only(limit), &format!("&since={since}")).await;
            let there = joined(&sync, &room);
            assert_eq!(bodies(&there["timeline"]["events"]), said);
            let mut told: Vec<&Value> =
                there["state"]["events"].as_array().unwrap().iter().map(|e| &e["content"]).collect();
            told.sort_by_key(|c| c.to_string());
            assert_eq!(told, [&json!({ "name": "N" }), &json!({ "topic": "two" })]);
            // All of it from the start, too.
            let sync = with_filter(&alice, only(limit), "").await;
            let state = &joined(&sync, &room)["state"]["events"];
            assert_eq!(state_of(state, "m.room.topic", "").unwrap()["content"]["topic"], "two");
            assert_eq!(state_of(state, "m.room.name", "").unwrap()["content"]["name"], "N");
        }
        // A timeline of no room shows nothing, whatever happens there.
        let none = json!({ "room": { "timeline": { "rooms": [] } } });
        let sync = with_filter(&alice, none, &format!("&since={since}")).await;
        assert_eq!(joined(&sync, &room)["state"]["events"].as_array().unwrap().len(), 2);
    }
}
