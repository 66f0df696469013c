//! Edits, reactions, threads, references: what may be sent, what is listed, what a parent shows of its children.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        Answer, User,
        rooms::{bodies, encoded, event_id, joined, txn},
    },
};

/// Sends a message that relates to another event.
async fn relates(user: &User, room: &str, to: &str, rel_type: &str, more: Value) -> Answer {
    let mut content = json!({ "msgtype": "m.text", "body": rel_type });
    content.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let relation = content["m.relates_to"].take();
    let mut relation = if relation.is_null() { json!({}) } else { relation };
    relation["rel_type"] = json!(rel_type);
    relation["event_id"] = json!(to);
    content["m.relates_to"] = relation;
    user.sends(room, "m.room.message", &txn(), content).await
}

async fn replies(user: &User, room: &str, root: &str, body: &str) -> String {
    event_id(&relates(user, room, root, "m.thread", json!({ "body": body })).await.good())
}

async fn edits(user: &User, room: &str, event: &str, body: &str) -> String {
    let new = json!({ "body": body, "m.new_content": { "msgtype": "m.text", "body": body } });
    event_id(&relates(user, room, event, "m.replace", new).await.good())
}

async fn reacts(user: &User, room: &str, event: &str, key: &str) -> Answer {
    let content = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event, "key": key } });
    user.sends(room, "m.reaction", &txn(), content).await
}

async fn children(user: &User, room: &str, rest: &str) -> Answer {
    user.get(&format!("/_matrix/client/v1/rooms/{}/relations/{rest}", encoded(room))).await
}

async fn threads(user: &User, room: &str, query: &str) -> Value {
    user.get(&format!("/_matrix/client/v1/rooms/{}/threads?{query}", encoded(room))).await.good()
}

async fn ignores(user: &User, whom: &[&User]) {
    let list: serde_json::Map<String, Value> = whom.iter().map(|u| (u.id.to_string(), json!({}))).collect();
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", encoded(user.id.as_str()));
    user.put(&path, json!({ "ignored_users": list })).await.good();
}

fn ids(list: &Value) -> Vec<&str> {
    list["chunk"].as_array().unwrap().iter().map(|e| e["event_id"].as_str().unwrap()).collect()
}

async fn relations_of(user: &User, room: &str, event: &str) -> Value {
    let event = user.in_room(room, &format!("event/{}", encoded(event))).await.good();
    event["unsigned"]["m.relations"].clone()
}

on_both! {
    async fn children_come_in_pages_both_ways(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        let mut sent = Vec::new();
        for n in 0..5 {
            sent.push(replies(&bob, &room, &root, &format!("r{n}")).await);
        }
        let reaction = event_id(&reacts(&bob, &room, &root, "+1").await.good());
        sent.push(reaction.clone());
        sent.reverse();
        let at = encoded(&root);
        assert_eq!(ids(&children(&alice, &room, &at).await.good()), sent);
        let (mut paged, mut from) = (Vec::new(), String::new());
        loop {
            let page = children(&alice, &room, &format!("{at}?limit=2{from}")).await.good();
            assert_eq!(page["prev_batch"].is_null(), from.is_empty(), "{page}");
            assert!(page["recursion_depth"].is_null());
            paged.extend(ids(&page).iter().map(|id| (*id).to_owned()));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = format!("&from={}", encoded(next));
        }
        assert_eq!(paged, sent);
        let last = children(&alice, &room, &format!("{at}?limit=6")).await.good();
        assert!(ids(&last) == sent && last["next_batch"].is_null(), "there is no more: {last}");
        let forward = children(&alice, &room, &format!("{at}?dir=f&limit=3")).await.good();
        assert_eq!(ids(&forward), sent.iter().rev().take(3).collect::<Vec<_>>());
        let only = children(&alice, &room, &format!("{at}/m.annotation")).await.good();
        assert_eq!(ids(&only), [reaction.as_str()]);
        let only = children(&alice, &room, &format!("{at}/m.thread/m.room.message?limit=100")).await.good();
        assert_eq!(ids(&only), &sent[1..]);
        assert!(ids(&children(&alice, &room, &format!("{at}/m.thread/m.reaction")).await.good()).is_empty());
        // Old clients ask by the path before it was stable, and want the parent too.
        assert!(only["original_event"].is_null());
        let old = format!("/_matrix/client/unstable/rooms/{}/relations/{at}/m.annotation", encoded(&room));
        let old = alice.get(&old).await.good();
        assert_eq!((ids(&old), &old["original_event"]["event_id"]), (vec![reaction.as_str()], &json!(root)));
        children(&alice, &room, &format!("{at}?from=rubbish")).await.refused(400, "M_INVALID_PARAM");
        children(&alice, &room, &encoded("$no:x")).await.refused(404, "M_NOT_FOUND");
        let eve = server.user("eve").await;
        children(&eve, &room, &at).await.refused(404, "M_NOT_FOUND");
    }

    async fn recursion_goes_three_levels_down(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let root = alice.says(&room, "root").await;
        let mut chain = Vec::new();
        let mut parent = root.clone();
        for _ in 0..4 {
            parent = event_id(&relates(&alice, &room, &parent, "org.example.next", json!({})).await.good());
            chain.push(parent.clone());
        }
        let all = children(&alice, &room, &format!("{}?recurse=true&dir=f", encoded(&root))).await.good();
        assert_eq!(ids(&all), &chain[..3]);
        assert_eq!(all["recursion_depth"], 3);
        assert_eq!(ids(&children(&alice, &room, &encoded(&root)).await.good()), &chain[..1]);
        let none = children(&alice, &room, &format!("{}/m.thread?recurse=true", encoded(&root))).await.good();
        assert!(ids(&none).is_empty());
    }

    async fn a_parent_shows_thread_edit_and_references(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        assert!(relations_of(&alice, &room, &root).await.is_null());
        replies(&alice, &room, &root, "one").await;
        let two = replies(&bob, &room, &root, "two").await;
        let two_edited = edits(&bob, &room, &two, "two, better").await;
        edits(&alice, &room, &root, "first edit").await;
        let edited = edits(&alice, &room, &root, "second edit").await;
        // Other people's edits, other types' and those without content are none.
        edits(&bob, &room, &root, "by bob").await;
        relates(&alice, &room, &root, "m.replace", json!({ "body": "nothing new" })).await.good();
        let reference = event_id(&relates(&bob, &room, &root, "m.reference", json!({})).await.good());

        let seen = relations_of(&bob, &room, &root).await;
        let thread = &seen["m.thread"];
        assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(true)), "{seen}");
        assert_eq!(thread["latest_event"]["event_id"], json!(two));
        assert_eq!(thread["latest_event"]["room_id"], json!(room));
        let inner = &thread["latest_event"]["unsigned"]["m.relations"];
        assert_eq!(inner["m.replace"]["event_id"], json!(two_edited));
        assert_eq!(seen["m.replace"]["event_id"], json!(edited));
        assert_eq!(seen["m.replace"]["content"]["m.new_content"]["body"], "second edit");
        assert_eq!(seen["m.reference"], json!({ "chunk": [{ "event_id": reference }] }));

        // The same wherever the event is shown.
        let find = |list: &Value| {
            let event = list.as_array().unwrap().iter().find(|e| e["event_id"] == json!(root)).cloned();
            event.unwrap()["unsigned"]["m.relations"].clone()
        };
        let strip = |mut relations: Value| {
            // Ages differ from one look to the next, and /sync leaves out the room.
            fn walk(value: &mut Value) {
                if let Some(object) = value.as_object_mut() {
                    object.remove("age");
                    object.remove("room_id");
                    object.values_mut().for_each(walk);
                }
            }
            walk(&mut relations);
            relations
        };
        let seen = strip(seen);
        assert_eq!(strip(find(&bob.pages(&room, "dir=b&limit=50").await["chunk"])), seen);
        let context = bob.in_room(&room, &format!("context/{}", encoded(&two))).await.good();
        assert_eq!(strip(find(&context["events_before"])), seen);
        assert_eq!(strip(find(&threads(&bob, &room, "").await["chunk"])), seen);
        let sync = bob.syncs("").await;
        let timeline = &joined(&sync, &room)["timeline"];
        assert_eq!(strip(find(&timeline["events"])), seen);

        // What is redacted is taken back; a redacted parent keeps its thread but no edit.
        bob.redacts(&room, &two).await.good();
        alice.redacts(&room, &edited).await.good();
        bob.redacts(&room, &reference).await.good();
        let seen = relations_of(&alice, &room, &root).await;
        assert_eq!(seen["m.thread"]["count"], 1);
        assert_eq!(seen["m.replace"]["content"]["m.new_content"]["body"], "first edit");
        assert!(seen["m.reference"].is_null());
        alice.redacts(&room, &root).await.good();
        let seen = relations_of(&bob, &room, &root).await;
        assert_eq!((&seen["m.thread"]["count"], &seen["m.replace"]), (&json!(1), &Value::Null));
        assert_eq!(seen["m.thread"]["current_user_participated"], false);
    }

    async fn increments_of_sync_leave_adding_up_to_the_client(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let since = alice.now().await;
        let root = alice.says(&room, "root").await;
        replies(&alice, &room, &root, "one").await;
        let whole = alice.syncs_since(&since).await;
        let event = &joined(&whole, &room)["timeline"]["events"][0];
        assert!(event["unsigned"]["m.relations"].is_null(), "{event}");
        for n in 0..5 {
            replies(&alice, &room, &root, &format!("{n}")).await;
        }
        edits(&alice, &room, &root, "edited").await;
        let filter = encoded(r#"{"room":{"timeline":{"limit":2}}}"#);
        let limited = alice.syncs(&format!("since={}&filter={filter}", encoded(&since))).await;
        assert_eq!(joined(&limited, &room)["timeline"]["limited"], true);
    }

    async fn threads_are_listed_by_their_newest_event(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let mut roots = Vec::new();
        for n in 0..5 {
            let root = alice.says(&room, &format!("root {n}")).await;
            replies(&alice, &room, &root, "reply").await;
            roots.push(root);
        }
        replies(&bob, &room, &roots[1], "late").await;
        let expected = [&roots[1], &roots[4], &roots[3], &roots[2], &roots[0]];
        assert_eq!(ids(&threads(&alice, &room, "").await), expected);
        let (mut paged, mut from) = (Vec::new(), String::new());
        for _ in 0..10 {
            let page = threads(&alice, &room, &format!("limit=2{from}")).await;
            paged.extend(ids(&page).iter().map(|id| (*id).to_owned()));
            match page["next_batch"].as_str() {
                Some(next) => from = format!("&from={}", encoded(next)),
                None => break,
            }
        }
        assert_eq!(paged.iter().collect::<Vec<_>>(), expected);
        assert!(threads(&alice, &room, "limit=5").await["next_batch"].is_null(), "there are no more");
        assert_eq!(ids(&threads(&bob, &room, "include=participated").await), [&roots[1]]);
        assert_eq!(ids(&threads(&alice, &room, "include=participated").await), expected);
        let path = format!("/_matrix/client/v1/rooms/{}/threads", encoded(&room));
        for query in ["include=odd", "limit=0", "limit=-1", "from=rubbish"] {
            alice.get(&format!("{path}?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        server.user("eve").await.get(&path).await.refused(403, "M_FORBIDDEN");
    }

    async fn what_cannot_be_related_to_is_refused(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        let reply = replies(&alice, &room, &root, "reply").await;
        relates(&bob, &room, &reply, "m.thread", json!({})).await.refused(400, "M_UNKNOWN");
        let first = event_id(&reacts(&bob, &room, &root, "+1").await.good());
        reacts(&bob, &room, &root, "+1").await.refused(400, "M_DUPLICATE_ANNOTATION");
        // Nor by a client that asks again before it is answered.
        let asked: Vec<_> = (0..6)
            .map(|_| {
                let (user, room, root) = (bob.clone(), room.clone(), root.clone());
                tokio::spawn(async move { reacts(&user, &room, &root, "at once").await.status })
            })
            .collect();
        let mut taken = 0;
        for answer in asked {
            taken += i32::from(answer.await.unwrap().is_success());
        }
        assert_eq!(taken, 1);
        // Nor is there anything to say to what the room does not have.
        let other = bob.creates(json!({})).await;
        let elsewhere = bob.says(&other, "elsewhere").await;
        for parent in ["$nobody_has_it", &elsewhere] {
            reacts(&bob, &room, parent, "+1").await.refused(400, "M_UNKNOWN");
        }
        reacts(&bob, &room, &root, "-1").await.good();
        reacts(&alice, &room, &root, "+1").await.good();
        bob.redacts(&room, &first).await.good();
        reacts(&bob, &room, &root, "+1").await.good();
        // What is no relation is just content.
        for odd in [json!(3), json!({ "rel_type": 3 }), json!({ "rel_type": "m.thread", "event_id": "nonsense" })] {
            alice.sends(&room, "m.room.message", &txn(), json!({ "body": "odd", "m.relates_to": odd })).await.good();
        }
    }

    async fn who_is_ignored_is_not_heard(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        carol.joins(&room).await.good();
        let bobs = bob.says(&room, "bob's root").await;
        replies(&carol, &room, &bobs, "to bob").await;
        let root = alice.says(&room, "alice's root").await;
        let heard = replies(&carol, &room, &root, "heard").await;
        replies(&bob, &room, &root, "not heard").await;
        relates(&bob, &room, &root, "m.reference", json!({})).await.good();
        let since = alice.now().await;
        ignores(&alice, &[&bob]).await;

        let seen = relations_of(&alice, &room, &root).await;
        assert_eq!(seen["m.thread"]["count"], 1);
        assert_eq!(seen["m.thread"]["latest_event"]["event_id"], json!(heard));
        assert!(seen["m.reference"].is_null());
        assert_eq!(ids(&children(&alice, &room, &encoded(&root)).await.good()), [heard.as_str()]);
        assert!(!bodies(&alice.pages(&room, "dir=b&limit=50").await["chunk"]).contains(&"not heard"));
        alice.in_room(&room, &format!("event/{}", encoded(&bobs))).await.refused(404, "M_NOT_FOUND");
        let list = threads(&alice, &room, "").await;
        assert_eq!(ids(&list), [&root, &bobs]);
        assert_eq!(list["chunk"][1]["content"], json!({}), "the root of somebody ignored says nothing");
        assert_eq!(list["chunk"][1]["unsigned"]["m.relations"]["m.thread"]["count"], 1);

        bob.says(&room, "hello?").await;
        bob.sets(&room, "m.room.member", bob.id.as_str(), json!({ "membership": "join", "displayname": "B" })).await.good();
        let private = bob.creates(json!({})).await;
        bob.invites(&private, &alice).await.good();
        let sync = alice.syncs_since(&since).await;
        let events = &joined(&sync, &room)["timeline"]["events"];
        assert!(bodies(events).is_empty(), "{events}");
        assert_eq!(events[0]["type"], "m.room.member", "state is shown all the same");
        assert!(sync["rooms"]["invite"].is_null(), "{sync}");
        assert!(alice.syncs("").await["rooms"]["invite"].is_null());
        ignores(&alice, &[]).await;
        assert!(alice.syncs("").await["rooms"]["invite"][&private].is_object());
        assert_eq!(relations_of(&alice, &room, &root).await["m.thread"]["count"], 2);
    }

    async fn what_comes_after_leaving_is_not_told_by_a_parent(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        replies(&alice, &room, &root, "before").await;
        bob.leaves(&room).await.good();
        let after = replies(&alice, &room, &root, "after").await;
        edits(&alice, &room, &root, "secret").await;
        let seen = relations_of(&bob, &room, &root).await;
        assert_eq!(seen["m.thread"]["count"], 1);
        assert_ne!(seen["m.thread"]["latest_event"]["event_id"], json!(after));
        assert!(seen["m.replace"].is_null(), "{seen}");
        assert_eq!(ids(&children(&bob, &room, &encoded(&root)).await.good()).len(), 1);
    }

    async fn a_thread_ends_for_a_reader_with_what_they_may_see(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let visibility = json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } }]);
        let room = alice.creates(json!({ "preset": "public_chat", "initial_state": visibility })).await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        let seen = replies(&bob, &room, &root, "seen").await;
        bob.leaves(&room).await.good();
        replies(&alice, &room, &root, "hidden").await;
        bob.joins(&room).await.good();
        let thread = relations_of(&bob, &room, &root).await["m.thread"].take();
        assert_eq!(thread["latest_event"]["event_id"], json!(seen), "{thread}");
        assert_eq!(thread["count"], 1);
        let listed = &threads(&bob, &room, "").await["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
        assert_eq!(listed["latest_event"]["event_id"], json!(seen));
        assert_eq!(relations_of(&alice, &room, &root).await["m.thread"]["count"], 2);
    }

    async fn events_come_with_the_fields_and_in_the_format_asked_for(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        alice.says(&room, "hello").await;
        let filter = encoded(r#"{"event_fields":["type","content.body"],"room":{"timeline":{"limit":1}}}"#);
        let sync = alice.syncs(&format!("filter={filter}")).await;
        let events = &joined(&sync, &room)["timeline"]["events"];
        assert_eq!(events, &json!([{ "type": "m.room.message", "content": { "body": "hello" } }]));
        let state = joined(&sync, &room)["state"]["events"].as_array().unwrap();
        assert!(state.iter().all(|e| e.as_object().unwrap().keys().all(|k| k == "type" || k == "content")));
        let filter = encoded(r#"{"event_format":"federation","room":{"timeline":{"limit":1}}}"#);
        let sync = alice.syncs(&format!("filter={filter}")).await;
        let event = &joined(&sync, &room)["timeline"]["events"][0];
        assert!(event["hashes"]["sha256"].is_string() && event["auth_events"].is_array(), "{event}");
    }

    async fn who_wants_no_events_is_told_that_there_are_some(server) {
        let alice = server.user("alice").await;
        let room = alice.opens().await;
        let since = alice.now().await;
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "new" })).await.good();
        alice.says(&room, "hello").await;
        let filter = encoded(r#"{"room":{"timeline":{"limit":0}}}"#);
        let sync = alice.syncs(&format!("since={}&filter={filter}", encoded(&since))).await;
        let timeline = &joined(&sync, &room)["timeline"];
        assert_eq!((&timeline["events"], &timeline["limited"]), (&json!([]), &json!(true)), "{sync}");
        let page = alice.pages(&room, &format!("dir=b&limit=1&from={}", timeline["prev_batch"].as_str().unwrap())).await;
        assert_eq!(bodies(&page["chunk"]), ["hello"]);
    }

    async fn a_reaction_in_a_thread_belongs_to_the_thread(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        let root = alice.says(&room, "root").await;
        let reply = replies(&alice, &room, &root, "reply").await;
        // An edit that mentions bob notifies him, in the thread that it is an edit in.
        let mention = json!({ "body": "bob?", "m.mentions": { "user_ids": [bob.id] },
            "m.new_content": { "msgtype": "m.text", "body": "bob?" } });
        relates(&alice, &room, &reply, "m.replace", mention).await.good();
        let filter = encoded(r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#);
        let sync = bob.syncs(&format!("filter={filter}")).await;
        let unread = joined(&sync, &room);
        assert_eq!(unread["unread_thread_notifications"][&root]["highlight_count"], 1, "{unread}");
        assert_eq!(unread["unread_notifications"]["highlight_count"], 0);
        assert_eq!(unread["org.matrix.msc3773.unread_thread_notifications"], Value::Null);
        // Who asks by the name that was before the specification is told by it too.
        let old = encoded(r#"{"room":{"timeline":{"org.matrix.msc3773.unread_thread_notifications":true}}}"#);
        let sync = bob.syncs(&format!("filter={old}")).await;
        let told = joined(&sync, &room);
        assert_eq!(told["org.matrix.msc3773.unread_thread_notifications"], unread["unread_thread_notifications"]);
        assert_eq!(told["unread_notifications"], unread["unread_notifications"]);
    }
}
