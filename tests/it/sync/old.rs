//! Syncing as it was before /sync, and looking into rooms one has not joined.

use std::time::{Duration, Instant};

use ruma::RoomId;
use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        Plan, TestServer, User,
        rooms::{V3, bodies, encoded, joined, state_of, types},
    },
};

const R0: &str = "/_matrix/client/r0";
const V1: &str = "/_matrix/client/api/v1";

async fn initial(user: &User, query: &str) -> Value {
    user.get(&format!("{V3}/initialSync?{query}")).await.good()
}

/// What is new after a token, without waiting.
async fn events(user: &User, from: &str, rest: &str) -> Value {
    user.get(&format!("{V3}/events?timeout=0&from={}{rest}", encoded(from))).await.good()
}

/// The same by a request that waits in the background.
fn waits(user: &User, from: &str, rest: &str) -> tokio::task::JoinHandle<Value> {
    let (user, path) = (user.clone(), format!("{V3}/events?timeout=20000&from={}{rest}", encoded(from)));
    tokio::spawn(async move { user.get(&path).await.good() })
}

/// Until somebody's request of one room's events has been let in.
async fn is_looked_into(server: &TestServer, room: &str) {
    let services = server.services();
    let nid = services.store.room_nid(&RoomId::parse(room).unwrap()).await.unwrap().unwrap();
    let hub = services.notifier.hub(nid).await.unwrap();
    let looked_into = async {
        while hub.listeners() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looked_into).await.expect("nobody looks into it");
}

fn end(answer: &Value) -> &str {
    answer["end"].as_str().unwrap_or_else(|| panic!("no end in {answer}"))
}

fn room<'a>(initial: &'a Value, id: &str) -> &'a Value {
    initial["rooms"].as_array().unwrap().iter().find(|r| r["room_id"] == id).unwrap_or(&Value::Null)
}

/// What of a stream is of one type.
fn of<'a>(answer: &'a Value, kind: &str) -> Vec<&'a Value> {
    answer["chunk"].as_array().unwrap().iter().filter(|e| e["type"] == kind).collect()
}

/// How a user came and went since a token, which moves on.
async fn moves(user: &User, from: &mut String) -> Vec<String> {
    let news = events(user, from, "").await;
    *from = end(&news).to_owned();
    let own = of(&news, "m.room.member").into_iter().filter(|e| e["state_key"] == user.id.as_str());
    own.map(|e| e["content"]["membership"].as_str().unwrap().to_owned()).collect()
}

async fn opens_to_all(user: &User) -> String {
    let setting = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } });
    user.creates(json!({ "preset": "public_chat", "initial_state": [setting] })).await
}

async fn hides(user: &User, room: &str) {
    user.sets(room, "m.room.history_visibility", "", json!({ "history_visibility": "shared" })).await.good();
}

/// A guest of a server that lets them in.
async fn guest(server: &TestServer) -> User {
    let made = server.nobody().post(&format!("{V3}/register?kind=guest"), json!({})).await.good();
    User::from_session(server, &made)
}

on_both! {
    async fn everything_at_once(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let id = alice.creates(json!({ "preset": "public_chat", "visibility": "public", "name": "Room" })).await;
        let private = alice.creates(json!({ "preset": "private_chat" })).await;
        for n in 0..15 {
            alice.says(&id, &n.to_string()).await;
        }
        let own = format!("{V3}/user/{}", encoded(alice.id.as_str()));
        alice.put(&format!("{own}/account_data/a.global"), json!({ "x": 1 })).await.good();
        alice.put(&format!("{own}/rooms/{}/tags/u.work", encoded(&id)), json!({ "order": 0.5 })).await.good();
        alice.put(&format!("{V3}/presence/{}/status", encoded(alice.id.as_str())), json!({ "presence": "online" })).await.good();
        let invited = bob.creates(json!({ "name": "Bob's", "invite": [alice.id] })).await;

        let all = initial(&alice, "limit=3").await;
        let there = room(&all, &id);
        assert_eq!((&there["membership"], &there["visibility"]), (&json!("join"), &json!("public")));
        assert_eq!(bodies(&there["messages"]["chunk"]), ["12", "13", "14"], "the newest, the oldest of them first");
        assert_eq!(there["messages"]["chunk"][0]["room_id"], id.as_str());
        assert_eq!(state_of(&there["state"], "m.room.name", "").unwrap()["content"]["name"], "Room");
        assert!(state_of(&there["state"], "m.room.member", alice.id.as_str()).is_some());
        assert_eq!(there["account_data"], json!([{ "type": "m.tag", "content": { "tags": { "u.work": { "order": 0.5 } } } }]));
        assert_eq!(room(&all, &private)["visibility"], "private");
        assert_eq!(all["account_data"].as_array().unwrap().iter().find(|d| d["type"] == "a.global").unwrap()["content"]["x"], 1);
        assert!(all["presence"].as_array().unwrap().iter().any(|p| p["type"] == "m.presence" && p["sender"] == alice.id.as_str()));
        let invite = room(&all, &invited);
        assert_eq!(invite["membership"], "invite");
        assert_eq!((&invite["invite"]["type"], &invite["invite"]["sender"]), (&json!("m.room.member"), &json!(bob.id)));
        assert!(invite["state"].is_null() && invite["messages"].is_null(), "{invite}");

        // Its tokens are places in history, and begin a sync.
        let start = there["messages"]["start"].as_str().unwrap();
        assert_eq!(bodies(&alice.pages(&id, &format!("dir=b&limit=2&from={start}")).await["chunk"]), ["11", "10"]);
        let newest = there["messages"]["end"].as_str().unwrap();
        alice.says(&id, "later").await;
        assert_eq!(bodies(&alice.pages(&id, &format!("dir=f&from={newest}")).await["chunk"]), ["later"]);
        assert_eq!(bodies(&joined(&alice.syncs_since(end(&all)).await, &id)["timeline"]["events"]), ["later"]);

        // By default ten, and none if so wished; by all its paths.
        assert_eq!(bodies(&room(&initial(&alice, "").await, &id)["messages"]["chunk"]).len(), 10);
        let none = initial(&alice, "limit=0").await;
        assert_eq!(room(&none, &id)["messages"]["chunk"], json!([]));
        let start = room(&none, &id)["messages"]["start"].as_str().unwrap();
        assert_eq!(bodies(&alice.pages(&id, &format!("dir=b&limit=1&from={start}")).await["chunk"]), ["later"]);
        for path in [R0, V1] {
            assert!(room(&alice.get(&format!("{path}/initialSync")).await.good(), &id).is_object());
        }
        for query in ["limit=-1", "limit=x", "archived=maybe"] {
            alice.get(&format!("{V3}/initialSync?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        server.nobody().get(&format!("{V3}/initialSync")).await.refused(401, "M_MISSING_TOKEN");
    }

    async fn rooms_one_has_left_are_in_the_archive(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let (left, banned, forgotten) = (alice.opens().await, alice.opens().await, alice.opens().await);
        for id in [&left, &banned, &forgotten] {
            bob.joins(id).await.good();
            alice.says(id, "seen").await;
            alice.sets(id, "m.room.name", "", json!({ "name": "then" })).await.good();
        }
        bob.leaves(&left).await.good();
        alice.does_to(&banned, "ban", &bob).await.good();
        bob.leaves(&forgotten).await.good();
        bob.post_in_room(&forgotten, "forget", json!({})).await.good();
        let rejected = alice.creates(json!({ "invite": [bob.id] })).await;
        bob.leaves(&rejected).await.good();
        for id in [&left, &banned] {
            alice.says(id, "unseen").await;
            alice.sets(id, "m.room.name", "", json!({ "name": "now" })).await.good();
        }
        assert_eq!(initial(&bob, "").await["rooms"], json!([]));
        let all = initial(&bob, "archived=true").await;
        assert_eq!(all["rooms"].as_array().unwrap().len(), 2, "{all}");
        for (id, membership) in [(&left, "leave"), (&banned, "ban")] {
            let there = room(&all, id);
            assert_eq!(there["membership"], membership);
            assert_eq!(bodies(&there["messages"]["chunk"]), ["seen"]);
            assert_eq!(state_of(&there["state"], "m.room.name", "").unwrap()["content"]["name"], "then");
            // The same room by itself, and no news of it.
            let alone = bob.in_room(id, "initialSync").await.good();
            assert_eq!(alone["membership"], membership);
            assert_eq!(state_of(&alone["state"], "m.room.name", "").unwrap()["content"]["name"], "then");
            assert_eq!(alone["visibility"], "private");
            assert_eq!(bodies(&alone["messages"]["chunk"]), ["seen"]);
            assert_eq!(types(&alone["messages"]["chunk"]).last(), Some(&"m.room.member"));
            alice.says(id, "unseen").await;
            let news = events(&bob, end(&alone["messages"]), &format!("&room_id={}", encoded(id))).await;
            assert_eq!(news["chunk"], json!([]));
        }
        for id in [&forgotten, &rejected] {
            bob.in_room(id, "initialSync").await.refused(403, "M_FORBIDDEN");
        }
    }

    async fn one_stream_tells_what_is_new(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let (one, two) = (alice.opens().await, alice.opens().await);
        for id in [&one, &two] {
            bob.joins(id).await.good();
        }
        let mut from = end(&initial(&bob, "").await).to_owned();
        // Who listens is here, and hears so.
        assert_eq!(types(&events(&bob, &from, "").await["chunk"]), ["m.presence"]);
        alice.says(&one, "a").await;
        alice.says(&two, "b").await;
        alice.says(&one, "c").await;
        let elsewhere = alice.opens().await;
        alice.says(&elsewhere, "unheard").await;
        let news = events(&bob, &from, "").await;
        assert_eq!(news["start"], from);
        assert_eq!(bodies(&news["chunk"]), ["a", "b", "c"], "in the order in which they were said");
        let rooms: Vec<&str> = of(&news, "m.room.message").iter().map(|e| e["room_id"].as_str().unwrap()).collect();
        assert_eq!(rooms, [&one, &two, &one]);
        assert_eq!(bodies(&events(&bob, &from, "").await["chunk"]), ["a", "b", "c"], "the same token tells the same");
        assert_eq!(of(&events(&bob, end(&news), "").await, "m.room.message"), [&Value::Null; 0]);
        // Places here are places in /sync, and the other way round.
        assert!(bob.syncs_since(end(&news)).await["rooms"]["join"][&one]["timeline"].is_null());
        alice.says(&two, "d").await;
        assert_eq!(bodies(&joined(&bob.syncs_since(end(&news)).await, &two)["timeline"]["events"]), ["d"]);
        from = bob.now().await;
        assert_eq!(of(&events(&bob, &from, "").await, "m.room.message"), [&Value::Null; 0]);

        // What stands beside events.
        let said = alice.says(&one, "read me").await;
        alice.post(&format!("{V3}/rooms/{}/receipt/m.read/{}", encoded(&one), encoded(&said)), json!({})).await.good();
        let typing = format!("{V3}/rooms/{}/typing/{}", encoded(&two), encoded(alice.id.as_str()));
        alice.put(&typing, json!({ "typing": true })).await.good();
        let own = format!("{V3}/user/{}", encoded(bob.id.as_str()));
        bob.put(&format!("{own}/account_data/a.global"), json!({ "x": 1 })).await.good();
        bob.put(&format!("{own}/rooms/{}/account_data/a.room", encoded(&one)), json!({ "x": 2 })).await.good();
        let status = json!({ "presence": "online", "status_msg": "here" });
        alice.put(&format!("{V3}/presence/{}/status", encoded(alice.id.as_str())), status).await.good();
        let news = events(&bob, &from, "").await;
        assert_eq!(bodies(&news["chunk"]), ["read me"]);
        let receipt = of(&news, "m.receipt")[0];
        assert_eq!(receipt["room_id"], one.as_str());
        assert!(receipt["content"][&said]["m.read"][alice.id.as_str()].is_object(), "{receipt}");
        let typists = json!({ "type": "m.typing", "room_id": two, "content": { "user_ids": [alice.id] } });
        assert_eq!(of(&news, "m.typing"), [&typists]);
        assert_eq!(of(&news, "a.global"), [&json!({ "type": "a.global", "content": { "x": 1 } })]);
        assert_eq!(of(&news, "a.room"), [&json!({ "type": "a.room", "room_id": one, "content": { "x": 2 } })]);
        let alice_is = of(&news, "m.presence").into_iter().find(|p| p["sender"] == alice.id.as_str()).unwrap();
        assert_eq!(alice_is["content"]["status_msg"], "here");
        assert_eq!(events(&bob, end(&news), "").await["chunk"], json!([]));
    }

    async fn coming_and_going_is_told(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let id = alice.creates(json!({ "preset": "private_chat" })).await;
        let mut from = end(&initial(&bob, "").await).to_owned();
        alice.invites(&id, &bob).await.good();
        assert_eq!(moves(&bob, &mut from).await, ["invite"]);
        bob.joins(&id).await.good();
        assert_eq!(moves(&bob, &mut from).await, ["join"]);
        alice.says(&id, "seen").await;
        alice.does_to(&id, "kick", &bob).await.good();
        alice.says(&id, "unseen").await;
        assert_eq!(bodies(&events(&bob, &from, "").await["chunk"]), ["seen"]);
        assert_eq!(moves(&bob, &mut from).await, ["leave"]);
        alice.does_to(&id, "ban", &bob).await.good();
        assert_eq!(moves(&bob, &mut from).await, ["ban"]);
        assert_eq!(moves(&bob, &mut from).await, Vec::<String>::new());
        // Nothing of those whom one does not want to hear of, invites neither.
        let shared = alice.opens().await;
        for user in [&bob, &carol] {
            user.joins(&shared).await.good();
        }
        let list = format!("{V3}/user/{}/account_data/m.ignored_user_list", encoded(bob.id.as_str()));
        bob.put(&list, json!({ "ignored_users": { carol.id.as_str(): {} } })).await.good();
        let from = bob.now().await;
        carol.says(&shared, "ignored").await;
        let annoying = carol.creates(json!({ "invite": [bob.id] })).await;
        alice.says(&shared, "heard").await;
        let news = events(&bob, &from, "").await;
        assert_eq!(types(&news["chunk"]), ["m.room.message"], "{news}");
        assert_eq!(bodies(&news["chunk"]), ["heard"]);
        assert!(room(&initial(&bob, "").await, &annoying).is_null());
    }

    async fn a_long_absence_is_caught_up_with_page_by_page(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let rooms = [alice.opens().await, alice.opens().await];
        for id in &rooms {
            bob.joins(id).await.good();
        }
        let mut from = end(&initial(&bob, "").await).to_owned();
        for n in 0..230 {
            alice.says(&rooms[n % 2], &n.to_string()).await;
        }
        let invited = alice.creates(json!({ "invite": [bob.id] })).await;
        let list = format!("{V3}/user/{}/account_data/a.b", encoded(bob.id.as_str()));
        bob.put(&list, json!({})).await.good();
        let (mut heard, mut last) = (Vec::new(), Value::Null);
        for page in 0..3 {
            let news = events(&bob, &from, "").await;
            assert_eq!(of(&news, "m.room.message").len(), if page < 2 { 100 } else { 30 });
            heard.extend(bodies(&news["chunk"]).into_iter().map(str::to_owned));
            from = end(&news).to_owned();
            last = news;
        }
        assert_eq!(heard, (0..230).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(of(&last, "m.room.member")[0]["room_id"], invited.as_str());
        assert_eq!(of(&last, "a.b").len(), 1);
        // Somebody whom one ignores may fill pages; they are passed over all the same.
        let ignore = format!("{V3}/user/{}/account_data/m.ignored_user_list", encoded(bob.id.as_str()));
        bob.put(&ignore, json!({ "ignored_users": { alice.id.as_str(): {} } })).await.good();
        from = bob.now().await;
        for n in 0..101 {
            alice.says(&rooms[0], &n.to_string()).await;
        }
        bob.says(&rooms[0], "mine").await;
        let passed = events(&bob, &from, "").await;
        assert_eq!(passed["chunk"], json!([]));
        assert_ne!(end(&passed), from);
        assert_eq!(bodies(&events(&bob, end(&passed), "").await["chunk"]), ["mine"]);
    }

    async fn who_waits_hears_at_once(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let id = alice.opens().await;
        bob.joins(&id).await.good();
        // Presence comes and goes with requests; these waits are for what is said.
        let mut from = bob.now().await;
        for n in 0..10 {
            let waiting = waits(&bob, &from, "");
            alice.says(&id, &n.to_string()).await;
            let said = Instant::now();
            let mut news = waiting.await.unwrap();
            while bodies(&news["chunk"]).is_empty() {
                news = waits(&bob, end(&news), "").await.unwrap();
            }
            assert!(said.elapsed() < Duration::from_secs(2), "{:?}", said.elapsed());
            assert_eq!(bodies(&news["chunk"]), [n.to_string()]);
            from = end(&news).to_owned();
        }
        let from = end(&events(&bob, &from, "").await).to_owned();
        let began = Instant::now();
        let nothing = bob.get(&format!("{V3}/events?timeout=300&from={from}")).await.good();
        assert_eq!(nothing["chunk"], json!([]));
        assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
        // Who does not say since when hears from now on; by all its paths.
        for path in [V3, R0, V1] {
            let nothing = bob.get(&format!("{path}/events?timeout=0&from=")).await.good();
            assert_eq!((&nothing["chunk"], nothing["end"].is_string()), (&json!([]), true));
        }
    }

    async fn wrong_questions_about_the_stream_are_refused(server) {
        let alice = server.user("alice").await;
        let id = alice.opens().await;
        for query in ["from=nonsense", "from=t1_1", "timeout=-1", "timeout=x", "room_id=nonsense"] {
            alice.get(&format!("{V3}/events?timeout=0&{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        // A token of a history that was lost: the client begins anew.
        let token = alice.now().await;
        let parts: Vec<&str> = token.split('_').collect();
        let lost = format!("{}9_{}_{}_{}", parts[0], parts[1], parts[2], parts[3]);
        for rest in [String::new(), format!("&room_id={}", encoded(&id))] {
            alice.get(&format!("{V3}/events?timeout=0&from={lost}{rest}")).await.refused(400, "M_INVALID_PARAM");
        }
        server.nobody().get(&format!("{V3}/events")).await.refused(401, "M_MISSING_TOKEN");
    }

    async fn a_stranger_looks_into_a_room_that_is_open_to_all(server) {
        let (alice, eve) = (server.user("alice").await, server.user("eve").await);
        let (closed, open) = (alice.opens().await, opens_to_all(&alice).await);
        for id in [closed.as_str(), "!nothing:localhost"] {
            eve.in_room(id, "initialSync").await.refused(403, "M_FORBIDDEN");
            eve.get(&format!("{V3}/events?timeout=0&room_id={}", encoded(id))).await.refused(403, "M_FORBIDDEN");
        }
        for text in ["one", "two", "three"] {
            alice.says(&open, text).await;
        }
        let seen = eve.in_room(&open, "initialSync?limit=2").await.good();
        assert_eq!((&seen["room_id"], &seen["membership"]), (&json!(open), &Value::Null));
        assert_eq!(bodies(&seen["messages"]["chunk"]), ["two", "three"]);
        assert!(state_of(&seen["state"], "m.room.member", alice.id.as_str()).is_some());
        let start = seen["messages"]["start"].as_str().unwrap();
        assert_eq!(bodies(&eve.pages(&open, &format!("dir=b&from={start}&limit=1")).await["chunk"]), ["one"]);
        let old = eve.get(&format!("{R0}/rooms/{}/initialSync", encoded(&open))).await.good();
        assert_eq!(bodies(&old["messages"]["chunk"]).len(), 3);
        eve.in_room(&open, "initialSync?limit=-1").await.refused(400, "M_INVALID_PARAM");

        // She hears what is said there while she looks, and only that.
        let only = format!("&room_id={}", encoded(&open));
        let start_of_it = end(&seen["messages"]).to_owned();
        let mut from = start_of_it.clone();
        for n in 0..5 {
            let waiting = waits(&eve, &from, &only);
            alice.says(&closed, "unheard").await;
            alice.says(&open, &n.to_string()).await;
            let said = Instant::now();
            let news = waiting.await.unwrap();
            assert!(said.elapsed() < Duration::from_secs(2), "{:?}", said.elapsed());
            assert_eq!(bodies(&news["chunk"]), [n.to_string()]);
            assert_eq!(news["chunk"][0]["room_id"], open.as_str());
            from = end(&news).to_owned();
        }
        assert_eq!(types(&events(&eve, &start_of_it, "").await["chunk"]), ["m.presence"], "it is none of her own rooms");
        // Up to when it is closed, and not beyond.
        let waiting = waits(&eve, &from, &only);
        is_looked_into(&server, &open).await;
        hides(&alice, &open).await;
        let news = waiting.await.unwrap();
        assert_eq!(types(&news["chunk"]), ["m.room.history_visibility"]);
        eve.get(&format!("{V3}/events?timeout=0&from={}{only}", end(&news))).await.refused(403, "M_FORBIDDEN");
        eve.in_room(&open, "initialSync").await.refused(403, "M_FORBIDDEN");
    }

    async fn what_was_said_behind_closed_doors_stays_there(server) {
        let (alice, eve) = (server.user("alice").await, server.user("eve").await);
        let id = opens_to_all(&alice).await;
        let from = end(&eve.in_room(&id, "initialSync").await.good()["messages"]).to_owned();
        alice.says(&id, "open").await;
        hides(&alice, &id).await;
        alice.says(&id, "closed").await;
        alice.sets(&id, "m.room.history_visibility", "", json!({ "history_visibility": "world_readable" })).await.good();
        alice.says(&id, "open again").await;
        let news = events(&eve, &from, &format!("&room_id={}", encoded(&id))).await;
        assert_eq!(bodies(&news["chunk"]), ["open", "open again"]);
        assert_eq!(bodies(&eve.in_room(&id, "initialSync").await.good()["messages"]["chunk"]), ["open", "open again"]);
    }

    async fn a_member_may_listen_to_one_room(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let (one, two) = (alice.opens().await, alice.opens().await);
        for id in [&one, &two] {
            bob.joins(id).await.good();
        }
        let from = bob.now().await;
        for (id, text) in [(&one, "one"), (&two, "two")] {
            let said = alice.says(id, text).await;
            alice.post(&format!("{V3}/rooms/{}/receipt/m.read/{}", encoded(id), encoded(&said)), json!({})).await.good();
        }
        bob.put(&format!("{V3}/user/{}/account_data/a.b", encoded(bob.id.as_str())), json!({})).await.good();
        let news = events(&bob, &from, &format!("&room_id={}", encoded(&one))).await;
        assert_eq!(types(&news["chunk"]), ["m.room.message", "m.receipt"]);
        assert!(news["chunk"].as_array().unwrap().iter().all(|e| e["room_id"] == one.as_str()));
        let there = bob.in_room(&one, "initialSync").await.good();
        assert_eq!((&there["membership"], bodies(&there["messages"]["chunk"])), (&json!("join"), vec!["one"]));
    }

    async fn a_single_event_of_whatever_room(server) {
        let (alice, eve) = (server.user("alice").await, server.user("eve").await);
        let id = alice.opens().await;
        let said = alice.says(&id, "hello").await;
        for path in [V3, R0] {
            let event = alice.get(&format!("{path}/events/{}", encoded(&said))).await.good();
            assert_eq!((&event["content"]["body"], &event["room_id"]), (&json!("hello"), &json!(id)));
        }
        eve.get(&format!("{V3}/events/{}", encoded(&said))).await.refused(404, "M_NOT_FOUND");
        alice.get(&format!("{V3}/events/{}", encoded("$nothing"))).await.refused(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn guests_look_into_rooms_and_no_further() {
    let server = Plan::default().services(|s| s.accounts.guests = true).start().await;
    let (alice, guest) = (server.user("alice").await, guest(&server).await);
    let (open, closed) = (opens_to_all(&alice).await, alice.opens().await);
    let seen = guest.in_room(&open, "initialSync").await.good();
    let waiting = waits(&guest, end(&seen["messages"]), &format!("&room_id={}", encoded(&open)));
    alice.says(&open, "welcome").await;
    assert_eq!(bodies(&waiting.await.unwrap()["chunk"]), ["welcome"]);
    guest.in_room(&closed, "initialSync").await.refused(403, "M_FORBIDDEN");
    guest.get(&format!("{V3}/events?timeout=0&room_id={}", encoded(&closed))).await.refused(403, "M_FORBIDDEN");
    for path in ["events?timeout=0", "initialSync"] {
        guest.get(&format!("{V3}/{path}")).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    }
}
