//! Reading rooms: pages, context, and who may see what.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        TestServer, User,
        rooms::{bodies, encoded, joined, state_of},
    },
};

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["event_id"].as_str().unwrap()).collect()
}

/// What of the story of a room each kind of visitor sees: `before` she is invited, `invited`, `in` the room, `out` of it
/// again.
async fn seen(server: &TestServer, visibility: &str, stay: bool) -> Vec<String> {
    let tag = format!("{}{}", visibility.replace('_', "-"), if stay { "stay" } else { "go" });
    let (alice, eve) = (server.user(&format!("alice-{tag}")).await, server.user(&format!("eve-{tag}")).await);
    let setting = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } });
    let room = alice.creates(json!({ "initial_state": [setting] })).await;
    alice.says(&room, "before").await;
    alice.invites(&room, &eve).await.good();
    alice.says(&room, "invited").await;
    eve.joins(&room).await.good();
    alice.says(&room, "in").await;
    if !stay {
        eve.leaves(&room).await.good();
        alice.says(&room, "out").await;
    }
    let mut paged = eve.reads_all(&room, None, 3).await;
    paged.reverse();
    let paged: Vec<String> = paged.iter().filter_map(|e| e["content"]["body"].as_str().map(str::to_owned)).collect();
    let forward = eve.pages(&room, "dir=f&limit=100").await;
    assert_eq!(bodies(&forward["chunk"]), paged, "both ways show the same");
    let all = alice.reads_all(&room, None, 100).await;
    for event in &all {
        // Single events follow the same rule as pages.
        let id = event["event_id"].as_str().unwrap();
        if let Some(body) = event["content"]["body"].as_str() {
            let answer = eve.in_room(&room, &format!("event/{}", encoded(id))).await;
            let context = eve.in_room(&room, &format!("context/{}?limit=2", encoded(id))).await;
            assert_eq!(answer.status.is_success(), paged.iter().any(|p| p == body), "{visibility} {body}");
            assert_eq!(context.status, answer.status);
        }
    }
    paged
}

on_both! {
    /// Spec v1.19, `unsigned.prev_content`: only for those who may see the previous event.
    async fn state_does_not_tell_what_was_before_ones_time(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        for visibility in ["joined", "invited", "shared"] {
            let setting = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } });
            let room = alice.creates(json!({ "preset": "private_chat", "initial_state": [setting] })).await;
            for topic in ["first", "second"] {
                alice.sets(&room, "m.room.topic", "", json!({ "topic": topic })).await.good();
            }
            alice.invites(&room, &bob).await.good();
            bob.joins(&room).await.good();
            // As each way of reading state tells it.
            let topics = async |user: &User| {
                let short = encoded(r#"{"room":{"timeline":{"limit":1}}}"#);
                let newest = user.pages(&room, "dir=b&limit=1").await["chunk"][0]["event_id"].as_str().unwrap().to_owned();
                let context = user.in_room(&room, &format!("context/{}", encoded(&newest))).await.good();
                let sync = user.syncs(&format!("filter={short}")).await;
                let sync = &joined(&sync, &room)["state"]["events"];
                let lists = [
                    user.in_room(&room, "state").await.good(),
                    user.in_room(&room, "initialSync").await.good()["state"].clone(),
                    context["state"].clone(),
                    sync.clone(),
                ];
                let mut found: Vec<Value> =
                    lists.iter().filter_map(|list| state_of(list, "m.room.topic", "").cloned()).collect();
                found.push(user.in_room(&room, "state/m.room.topic?format=event").await.good());
                found
            };
            for (user, knows) in [(&alice, true), (&bob, visibility == "shared")] {
                let found = topics(user).await;
                assert_eq!(found.len(), 5);
                for topic in found {
                    let unsigned = &topic["unsigned"];
                    assert_eq!(topic["content"]["topic"], "second");
                    assert!(unsigned["replaces_state"].is_string(), "{visibility}: {topic}");
                    assert_eq!(unsigned["prev_content"]["topic"] == "first", knows, "{visibility}: {topic}");
                    assert_eq!(unsigned["prev_content"].is_object(), knows, "{visibility}: {topic}");
                }
            }
            // What was there when one came one knows, and what one was oneself.
            alice.sets(&room, "m.room.topic", "", json!({ "topic": "third" })).await.good();
            let own = bob.in_room(&room, &format!("state/m.room.member/{}?format=event", encoded(bob.id.as_str()))).await;
            assert_eq!(own.good()["unsigned"]["prev_content"]["membership"], "invite");
            bob.leaves(&room).await.good();
            for user in [&alice, &bob] {
                let topic = user.in_room(&room, "state/m.room.topic?format=event").await.good();
                assert_eq!(topic["unsigned"]["prev_content"]["topic"], "second", "{visibility}: {topic}");
            }
        }
    }

    async fn visibility_is_as_the_room_had_it_at_the_time(server) {
        for (visibility, stay, expected) in [
            ("world_readable", true, vec!["before", "invited", "in"]),
            ("world_readable", false, vec!["before", "invited", "in", "out"]),
            ("shared", true, vec!["before", "invited", "in"]),
            ("shared", false, vec!["before", "invited", "in"]),
            ("invited", true, vec!["invited", "in"]),
            ("invited", false, vec!["invited", "in"]),
            ("joined", true, vec!["in"]),
            ("joined", false, vec!["in"]),
        ] {
            assert_eq!(seen(&server, visibility, stay).await, expected, "{visibility}, stays: {stay}");
        }
    }

    async fn a_stranger_reads_only_what_is_for_all(server) {
        let (alice, eve) = (server.user("alice").await, server.user("eve").await);
        let room = alice.opens().await;
        let said = alice.says(&room, "hidden").await;
        for path in ["messages?dir=b", "state", "members", "state/m.room.create"] {
            eve.in_room(&room, path).await.refused(403, "M_FORBIDDEN");
        }
        eve.in_room(&room, &format!("event/{}", encoded(&said))).await.refused(404, "M_NOT_FOUND");
        eve.in_room(&room, &format!("context/{}", encoded(&said))).await.refused(403, "M_FORBIDDEN");
        alice.sets(&room, "m.room.history_visibility", "", json!({ "history_visibility": "world_readable" })).await.good();
        alice.says(&room, "open").await;
        assert_eq!(bodies(&eve.pages(&room, "dir=b").await["chunk"]), ["open"]);
        eve.in_room(&room, "state").await.good();
        eve.in_room(&room, &format!("event/{}", encoded(&said))).await.refused(404, "M_NOT_FOUND");
    }

    async fn pages_add_up_to_the_whole(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        for n in 0..37 {
            alice.says(&room, &format!("{n}")).await;
        }
        let whole = alice.pages(&room, "dir=b&limit=1000").await;
        // The last `end` is the beginning of the room: there is nothing before it, and everything after it.
        let end = whole["end"].as_str().unwrap();
        let nothing = alice.pages(&room, &format!("dir=b&from={end}")).await;
        assert_eq!((&nothing["chunk"], &nothing["end"]), (&json!([]), &Value::Null));
        let first = alice.pages(&room, &format!("dir=f&from={end}&limit=1")).await;
        assert_eq!(first["chunk"][0]["type"], "m.room.create");
        let whole = whole["chunk"].as_array().unwrap().clone();
        for size in [1, 2, 7, 10, 36, 37, 100] {
            let all = alice.reads_all(&room, None, size).await;
            assert_eq!(ids(&all), ids(&whole), "pages of {size}");
        }
        // Forwards as backwards, and from the middle in both directions.
        let mut forward = alice.pages(&room, "dir=f&limit=1000").await["chunk"].as_array().unwrap().clone();
        forward.reverse();
        assert_eq!(ids(&forward), ids(&whole));
        let page = alice.pages(&room, "dir=b&limit=11").await;
        let middle = page["end"].as_str().unwrap();
        let older = alice.reads_all(&room, Some(middle), 5).await;
        let newer = alice.pages(&room, &format!("dir=f&from={middle}&limit=1000")).await;
        let mut joined: Vec<Value> = newer["chunk"].as_array().unwrap().clone();
        joined.reverse();
        joined.extend(older);
        assert_eq!(ids(&joined), ids(&whole));
        // `to` stops.
        let first = alice.pages(&room, "dir=b&limit=4").await;
        let end = first["end"].as_str().unwrap();
        let upto = alice.pages(&room, &format!("dir=b&to={end}&limit=1000")).await;
        assert_eq!(ids(upto["chunk"].as_array().unwrap()), ids(&whole[..4]));
        for query in ["dir=b&from=nonsense", "dir=b&to=nonsense", "dir=x", "dir=b&limit=-1"] {
            alice.in_room(&room, &format!("messages?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        alice.in_room(&room, "messages?dir=b&filter=%7B").await.refused(400, "M_NOT_JSON");
        alice.in_room(&room, "messages?dir=b&filter=%7B%22types%22%3A5%7D").await.refused(400, "M_BAD_JSON");
        // Who does not say which way and from where reads from the beginning on.
        for query in ["messages?limit=1", "messages?limit=1&from=", "messages?limit=1&from=END&to="] {
            assert_eq!(alice.in_room(&room, query).await.good()["chunk"][0]["type"], "m.room.create");
        }
    }

    async fn a_filter_may_ask_how_events_relate(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let root = alice.says(&room, "root").await;
        for rel_type in ["m.thread", "m.reference"] {
            let relation = json!({ "rel_type": rel_type, "event_id": root });
            let content = json!({ "msgtype": "m.text", "body": rel_type, "m.relates_to": relation });
            alice.sends(&room, "m.room.message", rel_type, content).await.good();
        }
        for (filter, found) in [
            (json!({ "org.matrix.msc3874.rel_types": ["m.thread"] }), vec!["m.thread"]),
            (json!({ "org.matrix.msc3874.rel_types": ["m.thread", "m.reference"] }), vec!["m.thread", "m.reference"]),
            (json!({ "org.matrix.msc3874.not_rel_types": ["m.thread"] }), vec!["root", "m.reference"]),
            (json!({ "org.matrix.msc3874.not_rel_types": ["m.thread", "m.reference"] }), vec!["root"]),
            (json!({ "related_by_rel_types": ["m.thread"] }), vec!["root"]),
            (json!({ "related_by_rel_types": ["m.replace"] }), vec![]),
            (json!({ "related_by_rel_types": [], "not_types": ["m.room.*"] }), vec![]),
            (json!({ "related_by_senders": [alice.id, "@nobody:x.org"] }), vec!["root"]),
            (json!({ "related_by_senders": ["@nobody:x.org"] }), vec![]),
            (json!({ "related_by_senders": [alice.id], "related_by_rel_types": ["m.replace"] }), vec![]),
            (json!({ "related_by_senders": [alice.id], "related_by_rel_types": ["m.reference"] }), vec!["root"]),
        ] {
            let page = alice.pages(&room, &format!("dir=f&limit=100&filter={}", encoded(&filter.to_string()))).await;
            assert_eq!(bodies(&page["chunk"]), found, "{filter}");
            let sync = json!({ "room": { "timeline": filter } });
            let sync = alice.syncs(&format!("filter={}", encoded(&sync.to_string()))).await;
            assert_eq!(bodies(&joined(&sync, &room)["timeline"]["events"]), found, "{filter}");
        }
        let last = alice.says(&room, "last").await;
        let filter = encoded(r#"{"related_by_rel_types":["m.thread"]}"#);
        let around = alice.in_room(&room, &format!("context/{}?filter={filter}", encoded(&last))).await.good();
        assert_eq!((bodies(&around["events_before"]), around["state"].as_array().unwrap().len()), (vec!["root"], 0));
    }

    async fn a_limited_sync_goes_on_in_messages(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let since = alice.now().await;
        for n in 0..30 {
            alice.says(&room, &format!("{n}")).await;
        }
        let filter = encoded(r#"{"room":{"timeline":{"limit":8}}}"#);
        for query in [format!("filter={filter}&since={since}"), format!("filter={filter}")] {
            let sync = alice.syncs(&query).await;
            let timeline = &joined(&sync, &room)["timeline"];
            assert_eq!(timeline["limited"], true);
            let mut shown = timeline["events"].as_array().unwrap().clone();
            assert_eq!(shown.len(), 8);
            shown.reverse();
            shown.extend(alice.reads_all(&room, timeline["prev_batch"].as_str(), 6).await);
            assert_eq!(ids(&shown), ids(&alice.reads_all(&room, None, 100).await));
        }
        // A token of /sync is a place in history, too.
        let all = alice.pages(&room, &format!("dir=f&from={since}&limit=100")).await;
        assert_eq!(bodies(&all["chunk"]).len(), 30);
    }

    async fn context_is_what_stands_around(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let mut said = Vec::new();
        for n in 0..9 {
            said.push(alice.says(&room, &format!("{n}")).await);
        }
        for (limit, before, after) in [
            (0, vec![], vec![]),
            (1, vec![], vec!["5"]),
            (4, vec!["3", "2"], vec!["5", "6"]),
            (5, vec!["3", "2"], vec!["5", "6", "7"]),
        ] {
            let around = alice.in_room(&room, &format!("context/{}?limit={limit}", encoded(&said[4]))).await.good();
            assert_eq!(around["event"]["content"]["body"], "4");
            assert_eq!(bodies(&around["events_before"]), before, "limit {limit}");
            assert_eq!(bodies(&around["events_after"]), after, "limit {limit}");
            assert!(state_of(&around["state"], "m.room.create", "").is_some());
        }
        let around = alice.in_room(&room, &format!("context/{}?limit=4", encoded(&said[4]))).await.good();
        let (start, end) = (around["start"].as_str().unwrap(), around["end"].as_str().unwrap());
        assert_eq!(bodies(&alice.pages(&room, &format!("dir=b&from={start}&limit=2")).await["chunk"]), ["1", "0"]);
        assert_eq!(bodies(&alice.pages(&room, &format!("dir=f&from={end}")).await["chunk"]), ["7", "8"]);
        // A filter chooses among the neighbours, never about the event itself.
        let filter = encoded(r#"{"types":["org.example"]}"#);
        let around = alice.in_room(&room, &format!("context/{}?filter={filter}", encoded(&said[4]))).await.good();
        assert_eq!((bodies(&around["events_before"]).len(), &around["event"]["content"]["body"]), (0, &json!("4")));
        alice.in_room(&room, "context/$nothing").await.refused(404, "M_NOT_FOUND");
    }

    async fn filters_choose(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        alice.says(&room, "a").await;
        bob.says(&room, "b").await;
        alice.sends(&room, "org.example.x", "t1", json!({ "body": "x", "url": "mxc://x/y" })).await.good();
        let page = async |filter: Value| {
            let filter = encoded(&filter.to_string());
            let page = alice.pages(&room, &format!("dir=b&limit=50&filter={filter}")).await;
            bodies(&page["chunk"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(page(json!({ "types": ["m.room.message"] })).await, ["b", "a"]);
        assert_eq!(page(json!({ "types": ["org.*"] })).await, ["x"]);
        assert_eq!(page(json!({ "not_types": ["m.room.*"] })).await, ["x"]);
        assert_eq!(page(json!({ "senders": [bob.id] })).await, ["b"]);
        assert_eq!(page(json!({ "not_senders": [bob.id] })).await, ["x", "a"]);
        assert_eq!(page(json!({ "contains_url": true })).await, ["x"]);
        assert_eq!(page(json!({ "contains_url": false })).await, ["b", "a"]);
        assert_eq!(page(json!({ "rooms": [] })).await, Vec::<String>::new());
        assert_eq!(page(json!({ "not_rooms": [room] })).await, Vec::<String>::new());
    }

    async fn what_a_filter_wants_is_found_behind_much_that_it_does_not(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let mut last = String::new();
        for n in 0..7 {
            last = alice.says(&room, &format!("{n}")).await;
            for filler in 0..12 {
                alice.sends(&room, "a.filler", &format!("{n}.{filler}"), json!({})).await.good();
            }
        }
        let filter = encoded(r#"{"types":["m.room.message"]}"#);
        let page = async |rest: &str| alice.pages(&room, &format!("limit=2&filter={filter}&{rest}")).await;
        // No page is without what it could hold, and none goes beyond.
        for (way, all) in [("b", ["6", "5", "4", "3", "2", "1", "0"]), ("f", ["0", "1", "2", "3", "4", "5", "6"])] {
            let mut found = Vec::new();
            let mut rest = format!("dir={way}");
            for want in [2, 2, 2, 1] {
                let got = page(&rest).await;
                assert_eq!(bodies(&got["chunk"]).len(), want, "{rest}");
                found.extend(bodies(&got["chunk"]).into_iter().map(str::to_owned));
                rest = format!("dir={way}&from={}", got["end"].as_str().unwrap_or_default());
            }
            assert_eq!(found, all);
        }
        let around = alice.in_room(&room, &format!("context/{}?limit=4&filter={filter}", encoded(&last))).await.good();
        assert_eq!(bodies(&around["events_before"]), ["5", "4"]);
    }

    async fn lazily_come_only_those_who_speak(server) {
        let (alice, room, bob) = crowd(&server).await;
        let filter = encoded(r#"{"lazy_load_members":true}"#);
        let page = alice.pages(&room, &format!("dir=b&limit=2&filter={filter}")).await;
        assert_eq!(bodies(&page["chunk"]), ["two", "one"]);
        let members: Vec<&str> =
            page["state"].as_array().unwrap().iter().map(|e| e["state_key"].as_str().unwrap()).collect();
        assert_eq!(members, [bob.id.as_str()]);
        let id = page["chunk"][0]["event_id"].as_str().unwrap();
        let around = alice.in_room(&room, &format!("context/{}?limit=1&filter={filter}", encoded(id))).await.good();
        let members: Vec<&str> = around["state"].as_array().unwrap().iter()
            .filter(|e| e["type"] == "m.room.member").map(|e| e["state_key"].as_str().unwrap()).collect();
        assert_eq!(members, [bob.id.as_str()]);
        assert!(state_of(&around["state"], "m.room.power_levels", "").is_some());
    }

    async fn an_event_is_found_by_its_time(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let mut said = Vec::new();
        for n in 0..3 {
            server.clock().advance_ms(60_000);
            said.push(alice.says(&room, &format!("{n}")).await);
        }
        let event = alice.in_room(&room, &format!("event/{}", encoded(&said[1]))).await.good();
        let at = event["origin_server_ts"].as_u64().unwrap();
        let find = async |ts: u64, dir: &str| {
            let path = format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={ts}&dir={dir}", encoded(&room));
            alice.get(&path).await
        };
        for (ts, dir, expected) in
            [(at, "f", 1), (at, "b", 1), (at + 1, "f", 2), (at - 1, "b", 0), (at + 1, "b", 1), (at - 1, "f", 1)]
        {
            assert_eq!(find(ts, dir).await.good()["event_id"], said[expected], "{ts} {dir}");
        }
        find(at + 10_000_000, "f").await.refused(404, "M_NOT_FOUND");
        find(0, "b").await.refused(404, "M_NOT_FOUND");
    }

    async fn the_state_of_those_who_left_is_that_of_their_leaving(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        alice.sets(&room, "m.room.name", "", json!({ "name": "then" })).await.good();
        bob.joins(&room).await.good();
        bob.leaves(&room).await.good();
        alice.sets(&room, "m.room.name", "", json!({ "name": "now" })).await.good();
        assert_eq!(bob.reads(&room, "m.room.name", "").await.good()["name"], "then");
        let state = bob.in_room(&room, "state").await.good();
        assert_eq!(state_of(&state, "m.room.name", "").unwrap()["content"]["name"], "then");
        // Also once they are invited again, or banned.
        alice.invites(&room, &bob).await.good();
        assert_eq!(bob.reads(&room, "m.room.name", "").await.good()["name"], "then");
        alice.does_to(&room, "ban", &bob).await.good();
        assert_eq!(bob.reads(&room, "m.room.name", "").await.good()["name"], "then");
    }
}

/// A room with five members, in which Bob said `one` and `two` last.
pub async fn crowd(server: &TestServer) -> (User, String, User) {
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.opens().await;
    bob.joins(&room).await.good();
    for name in ["carol", "dave", "erin"] {
        server.user(name).await.joins(&room).await.good();
    }
    alice.says(&room, "zero").await;
    bob.says(&room, "one").await;
    bob.says(&room, "two").await;
    (alice, room, bob)
}
