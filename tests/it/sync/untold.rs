//! State and events that a timeline leaves out: an answer tells of them all the same.

use serde_json::{Value, json};

use super::with_filter;
use crate::{
    on_both,
    support::{
        Plan, User,
        rooms::{bodies, encoded, joined, state_of, types},
    },
};

/// The names of a member in a list of events.
fn names_of<'a>(events: &'a Value, user: &str) -> Vec<&'a Value> {
    let of_user = |e: &&Value| e["type"] == "m.room.member" && e["state_key"] == user;
    events.as_array().unwrap().iter().filter(of_user).map(|e| &e["content"]["displayname"]).collect()
}

/// What a room is called by whoever reads the state of an answer and then its timeline.
fn name_led_to(there: &Value) -> &Value {
    let events = [&there["state"]["events"], &there["timeline"]["events"]];
    let mut named = events.into_iter().filter_map(Value::as_array).flatten().filter(|e| e["type"] == "m.room.name");
    &named.next_back().unwrap()["content"]["name"]
}

on_both! {
    async fn who_comes_is_told_the_state_that_changed_while_they_could_not_see(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let visibility = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
        let room = alice.creates(json!({ "preset": "private_chat", "initial_state": visibility })).await;
        let since = encoded(&bob.now().await);
        alice.invites(&room, &bob).await.good();
        alice.sets(&room, "m.room.name", "", json!({ "name": "New" })).await.good();
        let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        alice.sets(&room, "m.room.encryption", "", encryption).await.good();
        alice.invites(&room, &carol).await.good();
        carol.joins(&room).await.good();
        bob.joins(&room).await.good();
        let lazy = encoded(r#"{"room":{"state":{"lazy_load_members":true}}}"#);
        for query in ["", &format!("since={since}"), &format!("since={since}&full_state=true"), &format!("filter={lazy}")] {
            let sync = bob.syncs(query).await;
            let there = joined(&sync, &room);
            // What is new since the last answer is told where it happened, all else beside it; nothing twice.
            let (told, other) = match query.contains("since") {
                true => (&there["timeline"]["events"], &there["state"]["events"]),
                false => (&there["state"]["events"], &there["timeline"]["events"]),
            };
            assert_eq!(state_of(told, "m.room.name", "").unwrap()["content"]["name"], "New", "{query}: {there}");
            assert!(state_of(told, "m.room.encryption", "").is_some(), "{query}");
            if !query.contains("filter") {
                let carols = state_of(told, "m.room.member", carol.id.as_str());
                assert_eq!(carols.unwrap()["content"]["membership"], "join", "{query}");
            }
            assert_eq!(names_of(&there["timeline"]["events"], bob.id.as_str()).len(), 1);
            assert!(!types(other).contains(&"m.room.name"));
        }
        bob.leaves(&room).await.good();
        let sync = bob.syncs(&format!("since={since}")).await;
        assert_eq!(name_led_to(&sync["rooms"]["leave"][&room]), "New", "{sync}");
    }

    async fn who_comes_back_is_told_where_it_happened_what_changed_and_holds(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let visibility = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
        let room = alice.creates(json!({ "preset": "public_chat", "initial_state": visibility, "name": "Old" })).await;
        bob.joins(&room).await.good();
        let since = encoded(&bob.now().await);
        bob.leaves(&room).await.good();
        for n in 0..5 {
            alice.says(&room, &n.to_string()).await;
        }
        alice.sets(&room, "m.room.name", "", json!({ "name": "Newer" })).await.good();
        alice.sets(&room, "m.room.name", "", json!({ "name": "New" })).await.good();
        carol.joins(&room).await.good();
        for n in 0..5 {
            alice.says(&room, &n.to_string()).await;
        }
        bob.joins(&room).await.good();
        let sync = bob.syncs(&format!("since={since}")).await;
        let there = joined(&sync, &room);
        let timeline = there["timeline"]["events"].as_array().unwrap();
        assert!(timeline.iter().all(|e| e["type"] != "m.room.message" && e["content"]["name"] != "Newer"), "{there}");
        let place = |kind: &str, key: &str| {
            timeline.iter().position(|e| e["type"] == kind && e["state_key"] == key).expect(kind)
        };
        assert!(place("m.room.name", "") < place("m.room.member", carol.id.as_str()), "{there}");
        assert_eq!(timeline.last().unwrap()["state_key"], bob.id.as_str());
        assert_eq!(name_led_to(there), "New");
    }

    async fn a_room_whose_news_is_too_far_back_is_told_of_all_the_same(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let messages = json!({ "room": { "timeline": { "types": ["m.room.message"], "limit": 1 } } });
        let since = alice.now().await;
        bob.says(&room, "found").await;
        // More than an answer looks through.
        for n in 0..60 {
            bob.sends(&room, "a.made.up.filler", &n.to_string(), json!({})).await.good();
        }
        let sync = with_filter(&alice, messages, &format!("&since={}", encoded(&since))).await;
        let timeline = &joined(&sync, &room)["timeline"];
        assert_eq!((&timeline["events"], &timeline["limited"]), (&json!([]), &json!(true)), "{sync}");
        let from = timeline["prev_batch"].as_str().unwrap();
        let filter = encoded(r#"{"types":["m.room.message"]}"#);
        let page = alice.pages(&room, &format!("dir=b&limit=1&from={from}&filter={filter}")).await;
        assert_eq!(bodies(&page["chunk"]), ["found"]);
        let since = alice.now().await;
        bob.says(&room, "one").await;
        let none = json!({ "room": { "timeline": { "limit": 0 } } });
        let sync = with_filter(&alice, none, &format!("&since={}", encoded(&since))).await;
        assert_eq!(joined(&sync, &room)["timeline"]["limited"], true, "{sync}");
    }

    async fn a_timeline_does_not_undo_what_is_told_beside_it(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat", "name": "Old" })).await;
        let since = encoded(&bob.now().await);
        alice.sets(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await.good();
        alice.sets(&room, "m.room.name", "", json!({ "name": "New" })).await.good();
        bob.joins(&room).await.good();
        for query in [String::new(), format!("since={since}")] {
            let sync = bob.syncs(&query).await;
            let there = joined(&sync, &room);
            assert_eq!(name_led_to(there), "New", "{query}: {there}");
            let timeline = &there["timeline"];
            assert_eq!(timeline["limited"], true, "{query}: {there}");
            if !query.is_empty() {
                continue;
            }
            // What stands before the timeline is there for whoever pages back.
            let from = encoded(timeline["prev_batch"].as_str().unwrap());
            let page = bob.pages(&room, &format!("dir=b&limit=100&from={from}")).await;
            assert_eq!(page["chunk"][0]["content"]["name"], "Old", "{page}");
            assert_eq!(types(&page["chunk"]).last(), Some(&"m.room.create"));
        }
        bob.leaves(&room).await.good();
        let sync = bob.syncs(&format!("since={since}")).await;
        assert_eq!(name_led_to(&sync["rooms"]["leave"][&room]), "New", "{sync}");
    }

    async fn a_timeline_of_some_senders_does_not_undo_what_others_did(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let levels = json!({ "users": { alice.id.as_str(): 100, bob.id.as_str(): 100 } });
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override": levels })).await;
        bob.joins(&room).await.good();
        let since = encoded(&alice.now().await);
        alice.sets(&room, "m.room.name", "", json!({ "name": "Alice's" })).await.good();
        bob.sets(&room, "m.room.name", "", json!({ "name": "Bob's" })).await.good();
        let said = alice.says(&room, "hello").await;
        let of_alice = json!({ "room": { "timeline": { "senders": [alice.id] } } });
        for rest in [String::new(), format!("&since={since}")] {
            let sync = with_filter(&alice, of_alice.clone(), &rest).await;
            let there = joined(&sync, &room);
            assert_eq!(name_led_to(there), "Bob's", "{there}");
            assert_eq!(there["timeline"]["events"][0]["event_id"], said, "{there}");
        }
    }

    async fn a_member_is_told_once_where_a_filter_keeps_their_changes_out(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat", "name": "N" })).await;
        bob.joins(&room).await.good();
        let lazy = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "types": ["m.room.message"] } } });
        let since = with_filter(&alice, lazy.clone(), "").await["next_batch"].as_str().unwrap().to_owned();
        bob.says(&room, "hello").await;
        let named = json!({ "membership": "join", "displayname": "New" });
        bob.sets(&room, "m.room.member", bob.id.as_str(), named).await.good();
        for since in [format!("&since={}", encoded(&since)), String::new()] {
            let sync = with_filter(&alice, lazy.clone(), &since).await;
            let there = joined(&sync, &room);
            assert_eq!(types(&there["timeline"]["events"]), ["m.room.message"]);
            assert_eq!(names_of(&there["state"]["events"], bob.id.as_str()), [&json!("New")], "{there}");
        }
    }

    async fn who_was_thrown_out_and_then_banned_hears_what_came_before(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let since = encoded(&bob.now().await);
        alice.says(&room, "one").await;
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "two" })).await.good();
        alice.does_to(&room, "kick", &bob).await.good();
        alice.says(&room, "hidden").await;
        alice.does_to(&room, "ban", &bob).await.good();
        for after in ["", "&use_state_after=true"] {
            let sync = bob.syncs(&format!("since={since}{after}")).await;
            let there = &sync["rooms"]["leave"][&room];
            let timeline = &there["timeline"]["events"];
            assert_eq!(types(timeline), ["m.room.message", "m.room.topic", "m.room.member", "m.room.member"], "{sync}");
            assert_eq!(timeline[2]["content"]["membership"], "leave");
            assert_eq!(timeline[3]["content"]["membership"], "ban");
            assert!(!bodies(timeline).contains(&"hidden"));
            let name = if after.is_empty() { "state" } else { "state_after" };
            let members: Vec<&Value> = there[name]["events"].as_array().unwrap().iter().filter(|e| e["type"] == "m.room.member").collect();
            let told: Vec<&Value> = members.iter().map(|e| &e["content"]["membership"]).collect();
            assert_eq!(told, if after.is_empty() { vec![] } else { vec!["ban"] }, "{there}");
        }
        // Told once.
        let sync = bob.syncs_since(&bob.now().await).await;
        assert!(sync["rooms"]["leave"].is_null(), "{sync}");
    }

    async fn who_comes_back_is_told_of_members_anew(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.creates(json!({ "preset": "public_chat", "name": "N" })).await;
        bob.joins(&room).await.good();
        carol.joins(&room).await.good();
        let lazy = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 2 } } });
        for text in ["zero", "half", "one"] {
            carol.says(&room, text).await;
        }
        let tells_of = |sync: &Value, user: &str| state_of(&joined(sync, &room)["state"]["events"], "m.room.member", user).is_some();
        let mut sync = with_filter(&bob, lazy.clone(), "").await;
        assert!(tells_of(&sync, carol.id.as_str()), "{sync}");
        let next = |sync: &Value| format!("&since={}", encoded(sync["next_batch"].as_str().unwrap()));
        sync = with_filter(&bob, lazy.clone(), &next(&sync)).await;
        bob.leaves(&room).await.good();
        sync = with_filter(&bob, lazy.clone(), &next(&sync)).await;
        alice.says(&room, "two").await;
        alice.says(&room, "three").await;
        bob.joins(&room).await.good();
        sync = with_filter(&bob, lazy.clone(), &next(&sync)).await;
        carol.says(&room, "four").await;
        sync = with_filter(&bob, lazy.clone(), &next(&sync)).await;
        assert!(tells_of(&sync, carol.id.as_str()), "{sync}");
        // Only once, and again when all is asked for after a change.
        carol.says(&room, "five").await;
        sync = with_filter(&bob, lazy.clone(), &next(&sync)).await;
        assert!(!tells_of(&sync, carol.id.as_str()), "{sync}");
        let named = json!({ "membership": "join", "displayname": "New" });
        carol.sets(&room, "m.room.member", carol.id.as_str(), named).await.good();
        for text in ["six", "seven"] {
            alice.says(&room, text).await;
        }
        sync = with_filter(&bob, lazy.clone(), &format!("{}&full_state=true", next(&sync))).await;
        let state = &joined(&sync, &room)["state"]["events"];
        assert_eq!(names_of(state, carol.id.as_str()), [&json!("New")], "{sync}");
    }

    async fn what_was_told_in_a_lost_answer_is_told_again(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.creates(json!({ "preset": "public_chat", "name": "N" })).await;
        bob.joins(&room).await.good();
        carol.joins(&room).await.good();
        let lazy = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } } });
        let sync = async |since: &str| with_filter(&bob, lazy.clone(), since).await;
        let next = |sync: &Value| format!("&since={}", encoded(sync["next_batch"].as_str().unwrap()));
        let tells_of_carol =
            |sync: &Value| state_of(&joined(sync, &room)["state"]["events"], "m.room.member", carol.id.as_str()).is_some();
        alice.says(&room, "zero").await;
        let before = next(&sync("").await);
        carol.says(&room, "one").await;
        assert!(tells_of_carol(&sync(&before).await));
        // That never came; by now there is something else to tell.
        alice.says(&room, "two").await;
        let after = sync(&before).await;
        carol.says(&room, "three").await;
        let last = sync(&next(&after)).await;
        assert!(tells_of_carol(&after) || tells_of_carol(&last), "{last}");
        carol.says(&room, "four").await;
        assert!(!tells_of_carol(&sync(&next(&last)).await));
    }

    async fn a_summary_follows_names_and_members_that_a_filter_hides(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat", "name": "N" })).await;
        bob.joins(&room).await.good();
        let since = alice.now().await;
        alice.sets(&room, "m.room.name", "", json!({ "name": "" })).await.good();
        let sync = alice.syncs_since(&since).await;
        assert_eq!(joined(&sync, &room)["summary"]["m.heroes"], json!([bob.id]), "{sync}");
        let since = alice.now().await;
        bob.leaves(&room).await.good();
        let not_bob = json!({ "not_senders": [bob.id] });
        let filter = json!({ "room": { "timeline": not_bob, "state": not_bob } });
        let sync = with_filter(&alice, filter, &format!("&since={}", encoded(&since))).await;
        assert_eq!(joined(&sync, &room)["summary"]["m.joined_member_count"], 1, "{sync}");
    }

    async fn who_renames_themselves_hears_all_the_same_who_left(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let since = alice.now().await;
        let named = json!({ "membership": "join", "displayname": "New" });
        alice.sets(&room, "m.room.member", alice.id.as_str(), named.clone()).await.good();
        bob.sets(&room, "m.room.member", bob.id.as_str(), named).await.good();
        bob.leaves(&room).await.good();
        let left = async |alice: &User| alice.syncs_since(&since).await["device_lists"]["left"].clone();
        assert_eq!(left(&alice).await, json!([bob.id]));
        // Also if nobody remembers.
        let server = Plan::default().after(server).await;
        assert_eq!(left(&alice.on(&server)).await, json!([bob.id]));
    }

    async fn who_reads_the_state_after_a_timeline_finds_all_members_there(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "private_chat", "invite": [bob.id] })).await;
        let lazy = json!({ "room": { "state": { "lazy_load_members": true } } });
        let sync = with_filter(&alice, lazy.clone(), "&use_state_after=true").await;
        let there = joined(&sync, &room);
        assert_eq!(there["summary"]["m.heroes"], json!([bob.id]));
        let invited = state_of(&there["state_after"]["events"], "m.room.member", bob.id.as_str());
        assert_eq!(invited.unwrap()["content"]["membership"], "invite", "{there}");
    }
}
