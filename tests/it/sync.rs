//! Syncing: what changed, told once, at once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        User,
        rooms::{V3, bodies, encoded, joined, state_of, types},
    },
};

mod echoes;
mod filters;
mod old;
mod untold;

fn next(sync: &Value) -> String {
    sync["next_batch"].as_str().unwrap().to_owned()
}

async fn with_filter(user: &User, filter: Value, rest: &str) -> Value {
    user.syncs(&format!("filter={}{rest}", encoded(&filter.to_string()))).await
}

on_both! {
    /// Whoever asks for the state after the timeline takes it from there alone (spec v1.16, `use_state_after`).
    async fn what_came_to_nothing_is_in_the_state_after(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let declined = alice.creates(json!({ "invite": [bob.id] })).await;
        let revoked = alice.creates(json!({ "invite": [bob.id] })).await;
        let door = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
        let knocked = alice.creates(json!({ "initial_state": [door] })).await;
        bob.post(&format!("{V3}/knock/{}", encoded(&knocked)), json!({})).await.good();
        let banned = alice.opens().await;
        bob.joins(&banned).await.good();
        bob.leaves(&banned).await.good();
        let since = bob.now().await;
        bob.leaves(&declined).await.good();
        alice.does_to(&revoked, "kick", &bob).await.good();
        bob.leaves(&knocked).await.good();
        alice.does_to(&banned, "ban", &bob).await.good();
        let filter = |filter: Value| format!("&filter={}", encoded(&filter.to_string()));
        for (query, name) in [
            ("&use_state_after=true", "state_after"),
            ("&org.matrix.msc4222.use_state_after=true", "org.matrix.msc4222.state_after"),
        ] {
            let all = bob.syncs(&format!("since={}{query}", encoded(&since))).await;
            for (room, is) in [(&declined, "leave"), (&revoked, "leave"), (&knocked, "leave"), (&banned, "ban")] {
                let there = &all["rooms"]["leave"][room];
                let own = state_of(&there[name]["events"], "m.room.member", bob.id.as_str());
                assert_eq!(own.unwrap()["content"]["membership"], is, "{there}");
                assert_eq!(types(&there["timeline"]["events"]), ["m.room.member"]);
            }
            let no_state = filter(json!({ "room": { "state": { "types": [] } } }));
            let less = bob.syncs(&format!("since={}{query}{no_state}", encoded(&since))).await;
            assert_eq!(less["rooms"]["leave"][&declined][name]["events"], json!([]));
        }
        // Else the timeline says it.
        let all = bob.syncs_since(&since).await;
        assert_eq!(all["rooms"]["leave"][&declined]["state"]["events"], json!([]));
    }

    /// The device that forgets a room is not the only one: all hear that they are out, if no more than that.
    async fn rooms_that_are_forgotten_are_told_as_left_first(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let (left, kicked) = (alice.opens().await, alice.opens().await);
        for room in [&left, &kicked] {
            bob.joins(room).await.good();
        }
        let declined = alice.creates(json!({ "invite": [bob.id] })).await;
        let since = bob.now().await;
        alice.says(&left, "heard").await;
        bob.leaves(&left).await.good();
        alice.does_to(&kicked, "kick", &bob).await.good();
        bob.leaves(&declined).await.good();
        for room in [&left, &kicked, &declined] {
            bob.post_in_room(room, "forget", json!({})).await.good();
        }
        let sync = bob.syncs_since(&since).await;
        let stream = bob.get(&format!("{V3}/events?timeout=0&from={}", encoded(&since))).await.good();
        for room in [&left, &kicked, &declined] {
            let events = sync["rooms"]["leave"][room]["timeline"]["events"].as_array().unwrap();
            assert_eq!((events.len(), &events[0]["content"]["membership"]), (1, &json!("leave")), "{sync}");
            let told: Vec<&Value> =
                stream["chunk"].as_array().unwrap().iter().filter(|e| e["room_id"] == room.as_str()).collect();
            assert_eq!((told.len(), &told[0]["content"]["membership"]), (1, &json!("leave")), "{stream}");
        }
        let everything = json!({ "room": { "include_leave": true } });
        assert_eq!(with_filter(&bob, everything, "").await["rooms"], Value::Null);
        assert_eq!(bob.syncs_since(&next(&sync)).await["rooms"], Value::Null, "once is enough");
    }

    /// Spec v1.18, "Invite permission": they are not told of while invites are blocked, and may be afterwards.
    async fn who_takes_no_invites_is_not_told_of_those_that_are_there(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let before = bob.now().await;
        let room = alice.creates(json!({ "invite": [bob.id] })).await;
        let takes = async |config: Value| {
            let kind = format!("{V3}/user/{}/account_data/m.invite_permission_config", encoded(bob.id.as_str()));
            bob.put(&kind, config).await.good();
        };
        let told = async || {
            let since = format!("since={}", encoded(&before));
            let mut told = Vec::new();
            for query in ["", &since, &format!("{since}&full_state=true")] {
                told.push(bob.syncs(query).await["rooms"]["invite"][&room].is_object());
            }
            let initial = bob.get(&format!("{V3}/initialSync")).await.good();
            told.push(initial["rooms"].as_array().unwrap().iter().any(|r| r["room_id"] == room));
            let stream = bob.get(&format!("{V3}/events?timeout=0&from={}", encoded(&before))).await.good();
            told.push(types(&stream["chunk"]).contains(&"m.room.member"));
            told
        };
        assert_eq!(told().await, [true; 5]);
        takes(json!({ "default_action": "block" })).await;
        assert_eq!(told().await, [false; 5]);
        // The invite stands, and whoever asks for it is told.
        assert_eq!(alice.reads(&room, "m.room.member", bob.id.as_str()).await.good()["membership"], "invite");
        takes(json!({})).await;
        assert_eq!(told().await, [true; 5]);
        takes(json!({ "default_action": "block" })).await;
        bob.joins(&room).await.good();
        assert!(joined(&bob.syncs("").await, &room).is_object());
    }

    async fn everything_once_and_then_what_is_new(server) {
        let alice = server.user("alice").await;
        let empty = alice.syncs("").await;
        assert!(empty["rooms"].is_null());
        let room = alice.creates(json!({ "name": "Room" })).await;
        let first = alice.syncs("").await;
        let there = joined(&first, &room);
        assert_eq!(there["timeline"]["limited"], false);
        assert_eq!(types(&there["timeline"]["events"])[0], "m.room.create");
        assert!(there["timeline"]["events"][0]["room_id"].is_null(), "rooms are named once");
        assert_eq!(there["summary"]["m.joined_member_count"], 1);
        assert_eq!(alice.syncs_since(&next(&first)).await["rooms"], Value::Null);
        // Since the empty sync the room is new, with all its state.
        let news = alice.syncs_since(&next(&empty)).await;
        assert_eq!(types(&joined(&news, &room)["timeline"]["events"])[0], "m.room.create");
        alice.says(&room, "hello").await;
        let second = alice.syncs_since(&next(&first)).await;
        assert_eq!(bodies(&joined(&second, &room)["timeline"]["events"]), ["hello"]);
        assert_eq!(joined(&second, &room)["state"]["events"], json!([]));
        // Also where there are no new events there is a way back.
        let path = format!("{V3}/user/{}/rooms/{}/account_data/a.b", encoded(alice.id.as_str()), encoded(&room));
        alice.put(&path, json!({})).await.good();
        let third = alice.syncs_since(&next(&second)).await;
        let timeline = &joined(&third, &room)["timeline"];
        let from = encoded(timeline["prev_batch"].as_str().unwrap());
        let page = alice.pages(&room, &format!("dir=b&limit=1&from={from}")).await;
        assert_eq!((&timeline["events"], bodies(&page["chunk"])), (&json!([]), vec!["hello"]));
        // The same token tells the same again.
        assert_eq!(bodies(&joined(&alice.syncs_since(&next(&first)).await, &room)["timeline"]["events"]), ["hello"]);
    }

    async fn a_receipt_in_a_thread_says_nothing_where_that_of_the_room_stands(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        let threaded = json!({ "body": "in it", "msgtype": "m.text", "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
        let reply = alice.sends(&room, "m.room.message", "t1", threaded).await.good();
        let reply = reply["event_id"].as_str().unwrap().to_owned();
        let reads = async |event: &str, body: Value| {
            let path = format!("{V3}/rooms/{}/receipt/m.read/{}", encoded(&room), encoded(event));
            bob.post(&path, body).await.good();
        };
        let before = alice.now().await;
        reads(&reply, json!({})).await;
        let told = alice.syncs_since(&before).await;
        assert_eq!(joined(&told, &room)["ephemeral"]["events"][0]["type"], "m.receipt");
        // The thread's, at the same event, is part of it (MSC4102); at another it is not.
        reads(&reply, json!({ "thread_id": root })).await;
        assert_eq!(alice.syncs_since(&next(&told)).await["rooms"], Value::Null);
        reads(&root, json!({ "thread_id": "main" })).await;
        let told = alice.syncs_since(&next(&told)).await;
        let receipt = &joined(&told, &room)["ephemeral"]["events"][0]["content"][&root]["m.read"][bob.id.as_str()];
        assert_eq!(receipt["thread_id"], "main");
    }

    async fn bad_questions_are_refused(server) {
        let alice = server.user("alice").await;
        for query in [
            "since=nonsense", "filter=nonsense", "filter=12345", "timeout=-1", "timeout=x", "full_state=maybe",
            "set_presence=nonsense",
        ] {
            alice.get(&format!("{V3}/sync?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        alice.get(&format!("{V3}/sync?filter={}", encoded("{nonsense"))).await.refused(400, "M_NOT_JSON");
        alice.get(&format!("{V3}/sync?filter={}", encoded(r#"{"room":5}"#))).await.refused(400, "M_BAD_JSON");
        server.nobody().get(&format!("{V3}/sync")).await.refused(401, "M_MISSING_TOKEN");
    }

    async fn a_token_of_a_history_that_is_lost_starts_anew(server) {
        let alice = server.user("alice").await;
        let room = alice.creates(json!({ "name": "Room" })).await;
        let token = next(&alice.syncs("").await);
        // As another run over the same database gave it, which the backup that was restored has not heard of.
        let parts: Vec<&str> = token.split('_').collect();
        let run = u32::from_str_radix(parts[2], 16).unwrap().wrapping_add(1);
        let lost = format!("{}_{}_{run:x}_{}", parts[0], parts[1], parts[3]);
        // And one of this run that is still to come.
        let ahead = format!("{}9_{}_{}_{}", parts[0], parts[1], parts[2], parts[3]);
        for token in [lost, ahead] {
            let asked = Instant::now();
            let anew = alice.syncs_since(&token).await;
            assert!(asked.elapsed() < Duration::from_secs(3), "it is of no use to wait");
            assert_eq!(types(&joined(&anew, &room)["timeline"]["events"])[0], "m.room.create");
        }
        assert_eq!(alice.syncs_since(&token).await["rooms"], Value::Null);
    }

    async fn a_waiting_sync_hears_at_once(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let mut since = bob.now().await;
        for n in 0..20 {
            let waiting = {
                let (bob, since) = (bob.clone(), since.clone());
                tokio::spawn(async move { bob.syncs(&format!("timeout=20000&since={since}")).await })
            };
            tokio::time::sleep(Duration::from_millis(n * 3)).await;
            alice.says(&room, &format!("{n}")).await;
            let said = Instant::now();
            let heard = waiting.await.unwrap();
            assert!(said.elapsed() < Duration::from_millis(1000), "{:?}", said.elapsed());
            assert_eq!(bodies(&joined(&heard, &room)["timeline"]["events"]), [n.to_string()]);
            since = next(&heard);
        }
        // Without news it waits as long as it is told.
        let began = Instant::now();
        let nothing = bob.syncs(&format!("timeout=300&since={since}")).await;
        assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
        assert!(nothing["rooms"].is_null());
        // What concerns others does not wake it; an invite does.
        let elsewhere = alice.opens().await;
        let waiting = {
            let (bob, since) = (bob.clone(), next(&nothing));
            tokio::spawn(async move { bob.syncs(&format!("timeout=20000&since={since}")).await })
        };
        alice.says(&elsewhere, "unheard").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        alice.invites(&elsewhere, &bob).await.good();
        assert!(waiting.await.unwrap()["rooms"]["invite"][&elsewhere].is_object());
    }

    async fn nothing_is_lost_or_told_twice(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let mut since = bob.now().await;
        let talking = {
            let (alice, room) = (alice.clone(), room.clone());
            tokio::spawn(async move {
                for n in 0..60 {
                    alice.says(&room, &n.to_string()).await;
                }
            })
        };
        let (mut heard, until) = (Vec::new(), Instant::now() + Duration::from_secs(30));
        // All of them at most, however long the machine was busy with something else.
        let filter = encoded(&json!({ "room": { "timeline": { "limit": 60 } } }).to_string());
        while heard.len() < 60 && Instant::now() < until {
            let sync = bob.syncs(&format!("timeout=5000&since={since}&filter={filter}")).await;
            assert_ne!(joined(&sync, &room)["timeline"]["limited"], true);
            if joined(&sync, &room).is_object() {
                heard.extend(bodies(&joined(&sync, &room)["timeline"]["events"]).into_iter().map(str::to_owned));
            }
            since = next(&sync);
        }
        talking.await.unwrap();
        assert_eq!(heard, (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    async fn a_limited_timeline_comes_with_the_state_of_the_gap(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        let since = alice.now().await;
        alice.sets(&room, "m.room.name", "", json!({ "name": "in the gap" })).await.good();
        bob.joins(&room).await.good();
        for n in 0..5 {
            alice.says(&room, &n.to_string()).await;
        }
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "shown" })).await.good();
        for lazy in [false, true] {
            let filter = json!({ "room": { "timeline": { "limit": 3 }, "state": { "lazy_load_members": lazy } } });
            let sync = with_filter(&alice, filter, &format!("&since={since}")).await;
            let there = joined(&sync, &room);
            assert_eq!(there["timeline"]["limited"], true);
            let state = &there["state"]["events"];
            assert_eq!(state_of(state, "m.room.name", "").unwrap()["content"]["name"], "in the gap");
            assert!(state_of(state, "m.room.topic", "").is_none(), "it is in the timeline");
            assert!(state_of(state, "m.room.member", bob.id.as_str()).is_some(), "who came meanwhile is told, lazy: {lazy}");
        }
        // As of the end of the timeline, if so asked.
        for (parameter, name) in
            [("use_state_after", "state_after"), ("org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after")]
        {
            let filter = json!({ "room": { "timeline": { "limit": 3 } } });
            let sync = with_filter(&alice, filter, &format!("&since={since}&{parameter}=true")).await;
            let there = joined(&sync, &room);
            assert!(there["state"].is_null());
            let state = &there[name]["events"];
            assert_eq!(state_of(state, "m.room.topic", "").unwrap()["content"]["topic"], "shown");
            assert_eq!(state_of(state, "m.room.name", "").unwrap()["content"]["name"], "in the gap");
            assert!(state_of(state, "m.room.create", "").is_none(), "only what changed");
        }
    }

    async fn full_state_answers_at_once_with_all_of_it(server) {
        let alice = server.user("alice").await;
        let room = alice.creates(json!({ "name": "Room" })).await;
        let own = format!("{V3}/user/{}", encoded(alice.id.as_str()));
        alice.put(&format!("{own}/account_data/org.example"), json!({ "n": 1 })).await.good();
        alice.put(&format!("{own}/rooms/{}/tags/u.work", encoded(&room)), json!({})).await.good();
        let since = alice.now().await;
        let began = Instant::now();
        let sync = alice.syncs(&format!("since={since}&full_state=true&timeout=20000")).await;
        assert!(began.elapsed() < Duration::from_secs(5));
        let there = joined(&sync, &room);
        let kinds = |part: &Value| {
            let events = part["account_data"]["events"].as_array().unwrap().iter();
            events.map(|e| e["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(there), ["m.tag"]);
        assert!(kinds(&sync).contains(&"org.example".to_owned()), "{sync}");
        assert_eq!(sync["presence"]["events"][0]["sender"], json!(alice.id));
        assert!(state_of(&there["state"]["events"], "m.room.create", "").is_some());
        assert_eq!(state_of(&there["state"]["events"], "m.room.name", "").unwrap()["content"]["name"], "Room");
        assert_eq!(there["timeline"]["events"].as_array().map_or(0, Vec::len), 0);
    }

    async fn lazily_come_speakers_heroes_and_oneself(server) {
        let (alice, room, bob) = crate::history::crowd(&server).await;
        let filter = json!({ "room": { "timeline": { "limit": 2 }, "state": { "lazy_load_members": true } } });
        let sync = with_filter(&alice, filter.clone(), "").await;
        let there = joined(&sync, &room);
        let members: Vec<&str> = there["state"]["events"].as_array().unwrap().iter()
            .filter(|e| e["type"] == "m.room.member").map(|e| e["state_key"].as_str().unwrap()).collect();
        assert!(members.contains(&alice.id.as_str()) && members.contains(&bob.id.as_str()), "{members:?}");
        let heroes: Vec<&str> = there["summary"]["m.heroes"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
        assert_eq!(heroes.len(), 4);
        assert!(heroes.iter().all(|h| members.contains(h)));
        assert_eq!(there["summary"]["m.joined_member_count"], 5);
        // A named room needs no heroes, and then only who speaks comes.
        alice.sets(&room, "m.room.name", "", json!({ "name": "x" })).await.good();
        let sync = with_filter(&alice, filter.clone(), "").await;
        let there = joined(&sync, &room);
        assert!(there["summary"]["m.heroes"].is_null());
        let members = there["state"]["events"].as_array().unwrap().iter().filter(|e| e["type"] == "m.room.member").count();
        assert_eq!(members, 2);
        let erin = User { ..server.user("frank").await };
        let since = next(&sync);
        erin.joins(&room).await.good();
        erin.says(&room, "hi").await;
        let sync = with_filter(&alice, filter, &format!("&since={since}")).await;
        assert_eq!(types(&joined(&sync, &room)["timeline"]["events"]), ["m.room.member", "m.room.message"]);
    }

    async fn leaving_and_coming_back(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        let before = bob.now().await;
        bob.joins(&room).await.good();
        let tags = format!("{V3}/user/{}/rooms/{}/tags/u.mine", encoded(bob.id.as_str()), encoded(&room));
        bob.put(&tags, json!({})).await.good();
        let since = bob.now().await;
        alice.says(&room, "seen").await;
        bob.leaves(&room).await.good();
        alice.says(&room, "unseen").await;
        alice.sets(&room, "m.room.name", "", json!({ "name": "unseen" })).await.good();
        let left = bob.syncs_since(&since).await;
        let there = &left["rooms"]["leave"][&room];
        assert_eq!(bodies(&there["timeline"]["events"]), ["seen"]);
        assert_eq!(types(&there["timeline"]["events"]).last(), Some(&"m.room.member"));
        assert!(left["rooms"]["join"].is_null());
        assert_eq!(there["account_data"]["events"], json!([]), "that was told before");
        // Who hears of the whole stay at once hears all of it.
        let stay = bob.syncs_since(&before).await;
        let stay = &stay["rooms"]["leave"][&room];
        assert_eq!((&stay["timeline"]["limited"], bodies(&stay["timeline"]["events"])), (&json!(true), vec!["seen"]));
        let mut known = stay["timeline"]["events"].as_array().unwrap().clone();
        known.extend(stay["state"]["events"].as_array().unwrap().iter().cloned());
        assert!(state_of(&json!(known), "m.room.create", "").is_some());
        assert_eq!(types(&stay["account_data"]["events"]), ["m.tag"]);
        assert!(bob.syncs_since(&next(&left)).await["rooms"].is_null(), "it is told once");
        assert!(bob.syncs("").await["rooms"].is_null());
        let all = with_filter(&bob, json!({ "room": { "include_leave": true, "timeline": { "limit": 1 } } }), "").await;
        let state = &all["rooms"]["leave"][&room]["state"]["events"];
        assert!(state_of(state, "m.room.create", "").is_some());
        assert!(state_of(state, "m.room.name", "").is_none(), "state from after the leave");
        bob.joins(&room).await.good();
        let back = bob.syncs_since(&next(&left)).await;
        let there = joined(&back, &room);
        // A room one comes back to is new: its state is there, before or in the timeline.
        let mut known = there["timeline"]["events"].as_array().unwrap().clone();
        known.extend(there["state"]["events"].as_array().into_iter().flatten().cloned());
        assert_eq!(state_of(&json!(known), "m.room.name", "").unwrap()["content"]["name"], "unseen");
        assert!(back["rooms"]["leave"].is_null());
    }

    async fn a_banned_user_hears_of_the_ban_and_no_more(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        bob.leaves(&room).await.good();
        let since = bob.now().await;
        alice.says(&room, "unseen").await;
        alice.does_to(&room, "ban", &bob).await.good();
        let sync = bob.syncs_since(&since).await;
        let there = &sync["rooms"]["leave"][&room];
        assert_eq!(types(&there["timeline"]["events"]), ["m.room.member"], "{sync}");
        assert_eq!(there["state"]["events"], json!([]));
    }

    async fn who_logs_in_anew_learns_where_others_took_them_out(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let rooms = [alice.opens().await, alice.opens().await, alice.opens().await];
        for room in &rooms {
            bob.joins(room).await.good();
        }
        bob.leaves(&rooms[0]).await.good();
        alice.does_to(&rooms[1], "kick", &bob).await.good();
        alice.does_to(&rooms[2], "ban", &bob).await.good();
        let left = bob.syncs("").await["rooms"]["leave"].clone();
        assert!(left[&rooms[0]].is_null() && left[&rooms[1]].is_object() && left[&rooms[2]].is_object(), "{left}");
        bob.post_in_room(&rooms[1], "forget", json!({})).await.good();
        assert!(bob.syncs("").await["rooms"]["leave"][&rooms[1]].is_null());
    }

    async fn a_room_that_is_told_of_has_all_its_parts(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let empty = alice.now().await;
        let room = alice.opens().await;
        let first = alice.syncs("").await;
        let again = alice.syncs(&format!("since={}&full_state=true", next(&first))).await;
        let entered = alice.syncs_since(&empty).await;
        alice.says(&room, "hello").await;
        let said = alice.syncs_since(&next(&first)).await;
        let typing = format!("{V3}/rooms/{}/typing/{}", encoded(&room), encoded(alice.id.as_str()));
        alice.put(&typing, json!({ "typing": true })).await.good();
        let typed = alice.syncs_since(&next(&said)).await;
        for sync in [&first, &again, &entered, &said, &typed] {
            let there = joined(sync, &room);
            for part in ["timeline", "state", "ephemeral", "account_data"] {
                assert!(there[part]["events"].is_array(), "{part} in {there}");
            }
            assert!(there["timeline"]["limited"].is_boolean(), "{there}");
            assert!(there["unread_notifications"].is_object(), "{there}");
        }
        for sync in [&first, &again, &entered, &said] {
            let token = joined(sync, &room)["timeline"]["prev_batch"].as_str().unwrap();
            alice.pages(&room, &format!("dir=b&from={token}")).await;
        }
        // What was entered meanwhile begins anew, however little was said in it.
        assert_eq!(joined(&entered, &room)["timeline"]["limited"], true);
        assert_eq!(joined(&first, &room)["timeline"]["limited"], false);
        bob.joins(&room).await.good();
        bob.leaves(&room).await.good();
        let filter = json!({ "room": { "include_leave": true } });
        let left = with_filter(&bob, filter, "").await;
        for part in ["timeline", "state"] {
            assert!(left["rooms"]["leave"][&room][part]["events"].is_array(), "{left}");
        }
    }

    async fn members_are_lazily_told_once(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.creates(json!({ "preset": "public_chat", "name": "named" })).await;
        for user in [&bob, &carol] {
            user.joins(&room).await.good();
        }
        for n in 0..3 {
            bob.says(&room, &n.to_string()).await;
        }
        let filter = |redundant: bool| {
            let state = json!({ "lazy_load_members": true, "include_redundant_members": redundant });
            json!({ "room": { "timeline": { "limit": 2 }, "state": state } })
        };
        let members = |sync: &Value| -> Vec<String> {
            let state = joined(sync, &room)["state"]["events"].as_array().unwrap();
            let members = state.iter().filter(|e| e["type"] == "m.room.member");
            let mut members: Vec<String> = members.map(|e| e["state_key"].as_str().unwrap().to_owned()).collect();
            members.sort();
            members
        };
        let first = with_filter(&alice, filter(false), "").await;
        assert_eq!(members(&first), [alice.id.as_str(), bob.id.as_str()]);
        bob.says(&room, "again").await;
        carol.says(&room, "for the first time").await;
        let second = with_filter(&alice, filter(false), &format!("&since={}", next(&first))).await;
        assert_eq!(members(&second), [carol.id.as_str()], "bob is known");
        // An answer that was lost on the way told nothing.
        let second = with_filter(&alice, filter(false), &format!("&since={}", next(&first))).await;
        assert_eq!(members(&second), [carol.id.as_str()]);
        bob.says(&room, "once more").await;
        carol.says(&room, "and more").await;
        let third = with_filter(&alice, filter(false), &format!("&since={}", next(&second))).await;
        assert!(members(&third).is_empty(), "{third}");
        let redundant = with_filter(&alice, filter(true), &format!("&since={}", next(&second))).await;
        assert_eq!(members(&redundant), [bob.id.as_str(), carol.id.as_str()]);
        // Another device knows nothing of it, and one that begins anew knows nothing any more.
        let other = alice.another_device().await;
        let since = other.now().await;
        bob.says(&room, "to all devices").await;
        let news = with_filter(&other, filter(false), &format!("&since={since}")).await;
        assert_eq!(members(&news), [bob.id.as_str()]);
        let anew = with_filter(&alice, json!({ "room": { "timeline": { "limit": 1 }, "state": { "lazy_load_members": true } } }), "").await;
        assert_eq!(members(&anew), [alice.id.as_str(), bob.id.as_str()]);
        carol.says(&room, "carol again").await;
        let news = with_filter(&alice, filter(false), &format!("&since={}", next(&anew))).await;
        assert_eq!(members(&news), [carol.id.as_str()]);
        for wrong in [json!({ "lazy_load_members": "true" }), json!({ "include_redundant_members": 1 })] {
            let path = format!("{V3}/user/{}/filter", encoded(alice.id.as_str()));
            alice.post(&path, json!({ "room": { "state": wrong } })).await.refused(400, "M_BAD_JSON");
        }
    }

    async fn who_comes_in_is_introduced(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let online = json!({ "presence": "online" });
        for user in [&alice, &bob] {
            user.put(&format!("{V3}/presence/{}/status", encoded(user.id.as_str())), online.clone()).await.good();
        }
        let room = alice.opens().await;
        let (of_alice, of_bob) = (alice.now().await, bob.now().await);
        bob.joins(&room).await.good();
        for (user, since, whom) in [(&alice, of_alice, &bob), (&bob, of_bob, &alice)] {
            let (mut since, until) = (since, Instant::now() + Duration::from_secs(20));
            loop {
                assert!(Instant::now() < until, "{} does not hear of {}", user.id, whom.id);
                let sync = user.syncs(&format!("timeout=5000&since={since}")).await;
                let shown = || sync["presence"]["events"].as_array().into_iter().flatten();
                assert!(shown().all(|e| e["sender"] != user.id.as_str()), "nobody is news to themselves: {sync}");
                let met = shown().find(|e| e["sender"] == whom.id.as_str());
                if let Some(met) = met {
                    assert_eq!(met["content"]["presence"], "online");
                    break;
                }
                since = next(&sync);
            }
        }
    }

    async fn who_was_never_here_is_introduced_as_well(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let (open, of_bob) = (alice.opens().await, bob.opens().await);
        let mut since = alice.now().await;
        bob.joins(&open).await.good();
        let heard = async |since: &mut String| {
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                assert!(Instant::now() < until, "alice does not hear of bob");
                let sync = alice.syncs(&format!("timeout=5000&since={}", encoded(since))).await;
                *since = next(&sync);
                let events = sync["presence"]["events"].as_array().cloned().unwrap_or_default();
                let met: Vec<Value> = events.into_iter().filter(|e| e["sender"] == bob.id.as_str()).collect();
                if !met.is_empty() {
                    return met;
                }
            }
        };
        let offline = [json!({ "type": "m.presence", "sender": bob.id, "content": { "presence": "offline" } })];
        assert_eq!(heard(&mut since).await, offline);
        bob.leaves(&open).await.good();
        alice.joins(&of_bob).await.good();
        assert_eq!(heard(&mut since).await, offline);
        // Once.
        let sync = alice.syncs(&format!("since={}", encoded(&since))).await;
        assert!(sync["presence"].is_null(), "{sync}");
    }
}
