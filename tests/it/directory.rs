//! Aliases, published rooms, the search for users, reports.

use hearth_service::directory::Rule;
use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        Plan,
        rooms::{V3, encoded},
    },
};

fn alias_at(alias: &str) -> String {
    format!("{V3}/directory/room/{}", encoded(alias))
}

on_both! {
    /// What a user keeps with an id is theirs; to everybody it is a room as little as before.
    async fn an_id_that_somebody_keeps_something_with_is_no_room(server) {
        let (ada, root) = (server.user("ada").await, server.admin("root").await);
        for id in ["!kept:localhost", "!kept:elsewhere.org", "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            let note = format!("{V3}/user/{}/rooms/{}/account_data/a.b", encoded(ada.id.as_str()), encoded(id));
            let listed = format!("{V3}/directory/list/room/{}", encoded(id));
            for kept in [false, true] {
                if kept {
                    ada.put(&note, json!({ "a": 1 })).await.good();
                }
                ada.get(&listed).await.refused(404, "M_NOT_FOUND");
                root.put(&listed, json!({ "visibility": "public" })).await.refused(404, "M_NOT_FOUND");
                let alias = format!("{V3}/directory/room/{}", encoded("#kept:localhost"));
                root.put(&alias, json!({ "room_id": id })).await.refused(403, "M_FORBIDDEN");
                ada.post_in_room(id, "leave", json!({})).await.refused(404, "M_NOT_FOUND");
                ada.post_in_room(id, "upgrade", json!({ "new_version": "11" })).await.refused(404, "M_NOT_FOUND");
                ada.post_in_room(id, "report", json!({ "reason": "" })).await.refused(404, "M_NOT_FOUND");
                ada.post_in_room(id, "forget", json!({})).await.refused(403, "M_FORBIDDEN");
                ada.in_room(id, "state").await.refused(403, "M_FORBIDDEN");
            }
            assert_eq!(ada.get(&note).await.good(), json!({ "a": 1 }));
        }
    }

    async fn the_life_of_an_alias(server) {
        let (alice, bob, root) = (server.user("alice").await, server.user("bob").await, server.admin("root").await);
        let room = alice.opens().await;
        let at = alias_at("#One:localhost");
        server.nobody().get(&at).await.refused(404, "M_NOT_FOUND");
        bob.put(&at, json!({ "room_id": room })).await.refused(403, "M_FORBIDDEN");
        alice.put(&at, json!({ "room_id": room })).await.good();
        alice.put(&at, json!({ "room_id": room })).await.refused(409, "M_UNKNOWN");
        let found = server.nobody().get(&at).await.good();
        assert_eq!((&found["room_id"], &found["servers"]), (&json!(room), &json!(["localhost"])));
        alice.put(&alias_at("#x:elsewhere"), json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
        alice.put(&alias_at("#a b:localhost"), json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
        alice.put(&format!("{V3}/directory/room/nonsense"), json!({ "room_id": room })).await.refused(400, "M_INVALID_PARAM");
        alice.put(&alias_at("#y:localhost"), json!({})).await.refused(400, "M_BAD_JSON");
        alice.put(&alias_at("#y:localhost"), json!({ "room_id": "!nowhere:x" })).await.refused(403, "M_FORBIDDEN");

        // Members see the list of them, others do not.
        let list = alice.in_room(&room, "aliases").await.good();
        assert_eq!(list["aliases"], json!(["#One:localhost"]));
        bob.in_room(&room, "aliases").await.refused(403, "M_FORBIDDEN");

        // Only who made it, or rules the room or the server, takes it away, out of the room's state as well.
        bob.joins(&room).await.good();
        bob.put(&alias_at("#bobs:localhost"), json!({ "room_id": room })).await.good();
        let content = json!({ "alias": "#One:localhost", "alt_aliases": ["#bobs:localhost"] });
        alice.sets(&room, "m.room.canonical_alias", "", content).await.good();
        bob.delete(&at, json!({})).await.refused(403, "M_FORBIDDEN");
        bob.delete(&alias_at("#bobs:localhost"), json!({})).await.good();
        // He may not change the state, so it stays there.
        let state = alice.reads(&room, "m.room.canonical_alias", "").await.good();
        assert_eq!(state["alt_aliases"], json!(["#bobs:localhost"]));
        alice.delete(&at, json!({})).await.good();
        assert!(alice.reads(&room, "m.room.canonical_alias", "").await.good()["alias"].is_null());
        server.nobody().get(&at).await.refused(404, "M_NOT_FOUND");
        alice.delete(&at, json!({})).await.refused(404, "M_NOT_FOUND");
        alice.put(&at, json!({ "room_id": room })).await.good();
        root.delete(&at, json!({})).await.good();
    }

    async fn a_canonical_alias_leads_to_the_room(server) {
        let alice = server.user("alice").await;
        let room = alice.creates(json!({ "room_alias_name": "here" })).await;
        alice.creates(json!({ "room_alias_name": "elsewhere" })).await;
        let set = async |content: Value| alice.sets(&room, "m.room.canonical_alias", "", content).await;
        set(json!({ "alias": "nonsense" })).await.refused(400, "M_INVALID_PARAM");
        set(json!({ "alias": 5 })).await.refused(400, "M_BAD_JSON");
        set(json!({ "alias": "#nowhere:localhost" })).await.refused(400, "M_BAD_ALIAS");
        set(json!({ "alias": "#elsewhere:localhost" })).await.refused(400, "M_BAD_ALIAS");
        set(json!({ "alt_aliases": ["#here:localhost", "#nowhere:localhost"] })).await.refused(400, "M_BAD_ALIAS");
        set(json!({ "alias": null, "alt_aliases": ["#here:localhost"] })).await.good();
        // What was there already is not asked about again.
        alice.delete(&alias_at("#here:localhost"), json!({})).await.good();
        alice.put(&alias_at("#new:localhost"), json!({ "room_id": room })).await.good();
        set(json!({ "alias": "#new:localhost" })).await.good();
        set(json!({})).await.good();
    }

    async fn published_rooms_are_listed_fullest_first(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let mut rooms = Vec::new();
        for n in 0..5 {
            rooms.push(alice.creates(json!({
                "preset": "public_chat", "visibility": "public", "name": format!("Room {n}"),
                "topic": if n == 3 { "ÄPFEL and pears" } else { "nothing" },
                "creation_content": if n == 4 { json!({ "type": "m.space" }) } else { json!({}) },
            })).await);
        }
        let hidden = alice.opens().await;
        for n in [2, 4] {
            bob.joins(&rooms[n]).await.good();
        }
        server.nobody().get(&format!("{V3}/publicRooms")).await.refused(401, "M_MISSING_TOKEN");
        let list = bob.get(&format!("{V3}/publicRooms")).await.good();
        assert_eq!(list["total_room_count_estimate"], 5);
        let chunk = list["chunk"].as_array().unwrap();
        assert_eq!(chunk.len(), 5);
        assert_eq!([&chunk[0]["num_joined_members"], &chunk[1]["num_joined_members"]], [2, 2]);
        assert!(chunk.iter().all(|r| r["room_id"] != json!(hidden)));
        let space = chunk.iter().find(|r| r["name"] == "Room 4").unwrap();
        let known = ["canonical_alias", "name", "num_joined_members", "room_id", "topic", "world_readable",
            "guest_can_join", "avatar_url", "join_rule", "room_type"];
        assert!(space.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())), "{space}");
        assert_eq!((&space["room_type"], &space["join_rule"]), (&json!("m.space"), &json!("public")));
        assert_eq!((&space["world_readable"], &space["guest_can_join"]), (&json!(false), &json!(false)));

        // Pages forwards and back.
        let (mut forward, mut since) = (Vec::new(), String::new());
        let last = loop {
            let page = bob.get(&format!("{V3}/publicRooms?limit=2&since={}", encoded(&since))).await.good();
            forward.extend(page["chunk"].as_array().unwrap().iter().map(|r| r["room_id"].clone()));
            match page["next_batch"].as_str() {
                Some(next) => since = next.to_owned(),
                None => break page["prev_batch"].clone(),
            }
            assert!(forward.len() <= 5);
        };
        assert_eq!(forward, chunk.iter().map(|r| r["room_id"].clone()).collect::<Vec<_>>());
        let back = bob.get(&format!("{V3}/publicRooms?limit=2&since={}", encoded(last.as_str().unwrap()))).await.good();
        let back: Vec<Value> = back["chunk"].as_array().unwrap().iter().map(|r| r["room_id"].clone()).collect();
        assert_eq!(back, forward[2..4]);
        bob.get(&format!("{V3}/publicRooms?since=nonsense")).await.refused(400, "M_INVALID_PARAM");
        bob.get(&format!("{V3}/publicRooms?server=127.0.0.9:1")).await.refused(502, "M_UNKNOWN");
        bob.get(&format!("{V3}/publicRooms?server=localhost")).await.good();

        // By words and kind.
        let find = async |filter: Value| {
            let list = bob.post(&format!("{V3}/publicRooms"), json!({ "filter": filter })).await.good();
            list["chunk"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(find(json!({ "generic_search_term": "room 1" })).await, ["Room 1"]);
        assert_eq!(find(json!({ "generic_search_term": "äpfel" })).await, ["Room 3"]);
        assert_eq!(find(json!({ "generic_search_term": "zzz" })).await, Vec::<String>::new());
        assert_eq!(find(json!({ "room_types": ["m.space"] })).await, ["Room 4"]);
        assert_eq!(find(json!({ "room_types": [null] })).await.len(), 4);
        assert_eq!(find(json!({ "room_types": [null, "m.space"] })).await.len(), 5);

        // The list follows the rooms at once.
        let at = |room: &str| format!("{V3}/directory/list/room/{}", encoded(room));
        bob.put(&at(&rooms[0]), json!({ "visibility": "private" })).await.refused(403, "M_FORBIDDEN");
        alice.put(&at(&rooms[0]), json!({ "visibility": "private" })).await.good();
        alice.put(&at(&hidden), json!({})).await.good();
        alice.put(&at(&hidden), json!({ "visibility": "x" })).await.refused(400, "M_INVALID_PARAM");
        alice.sets(&rooms[1], "m.room.name", "", json!({ "name": "Renamed" })).await.good();
        assert_eq!(server.nobody().get(&at(&hidden)).await.good()["visibility"], "public");
        server.nobody().get(&at("!nowhere:x")).await.refused(404, "M_NOT_FOUND");
        let list = bob.get(&format!("{V3}/publicRooms")).await.good();
        let names: Vec<&Value> = list["chunk"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
        assert!(names.contains(&&json!("Renamed")) && !names.contains(&&json!("Room 0")) && names.contains(&&Value::Null));
    }

    async fn users_are_found_where_one_may_meet_them(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let dave = server.user("dave_100").await;
        let find = async |term: &str| {
            let body = json!({ "search_term": term, "limit": 10 });
            let found = alice.post(&format!("{V3}/user_directory/search"), body).await.good();
            found["results"].as_array().unwrap().iter().map(|u| u["user_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(find("bob").await, Vec::<String>::new());
        // In a common room, however closed.
        let room = alice.creates(json!({ "invite": [bob.id] })).await;
        assert_eq!(find("bob").await, Vec::<String>::new());
        bob.joins(&room).await.good();
        assert_eq!(find("BO").await, [bob.id.as_str()]);
        assert_eq!(find("@bob:loc").await, [bob.id.as_str()]);
        // In a room open to all.
        carol.opens().await;
        assert_eq!(find("carol").await, [carol.id.as_str()]);
        let closed = dave.creates(json!({})).await;
        assert_eq!(find("dave").await, Vec::<String>::new());
        dave.sets(&closed, "m.room.join_rules", "", json!({ "join_rule": "public" })).await.good();
        assert_eq!(find("dave_1").await, [dave.id.as_str()]);
        // Neither is a pattern.
        assert_eq!(find("d%1").await, Vec::<String>::new());
        assert_eq!(find("d_v").await, Vec::<String>::new());
        assert_eq!(find("da\0ve").await, [dave.id.as_str()]);
        dave.sets(&closed, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await.good();
        assert_eq!(find("dave").await, Vec::<String>::new());
        assert_eq!(find("alice").await, Vec::<String>::new());
        let limited = alice.post(&format!("{V3}/user_directory/search"), json!({ "search_term": "local", "limit": 1 })).await.good();
        assert_eq!((limited["results"].as_array().unwrap().len(), &limited["limited"]), (1, &json!(true)));
        alice.post(&format!("{V3}/user_directory/search"), json!({})).await.refused(400, "M_BAD_JSON");
    }

    async fn reports_reach_the_server(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        let said = alice.says(&room, "bad").await;
        let event = format!("report/{}", encoded(&said));
        bob.post_in_room(&room, &event, json!({ "reason": "x" })).await.refused(404, "M_NOT_FOUND");
        bob.joins(&room).await.good();
        bob.post_in_room(&room, &event, json!({ "reason": "x\0y", "score": -50 })).await.good();
        bob.post_in_room(&room, "report/$nothing", json!({ "reason": "x" })).await.refused(404, "M_NOT_FOUND");
        bob.post_in_room(&room, "report", json!({ "reason": "" })).await.good();
        bob.post_in_room("!nowhere:x", "report", json!({ "reason": "" })).await.refused(404, "M_NOT_FOUND");
        bob.post(&format!("{V3}/users/{}/report", encoded(alice.id.as_str())), json!({ "reason": "x" })).await.good();
        bob.post(&format!("{V3}/users/@nobody:x/report"), json!({ "reason": "x" })).await.good();
    }
}

#[tokio::test]
async fn the_operators_rules_say_who_lists_what() {
    let rule = |user: &str, alias: &str, allow| Rule {
        user: user.to_owned(),
        alias: alias.to_owned(),
        room: "*".to_owned(),
        allow,
    };
    let aliases = vec![rule("@eve:*", "*", false), rule("*", "#free-*", true)];
    let listed = vec![rule("@ada:*", "*", true)];
    let plan = Plan::default().services(|s| {
        s.directory.alias_rules = Some(aliases);
        s.directory.publication_rules = Some(listed);
    });
    let server = plan.start().await;
    let (ada, eve) = (server.user("ada").await, server.user("eve").await);
    let room = ada.opens().await;
    let at = |alias: &str| alias_at(alias);
    ada.put(&at("#free-1:localhost"), json!({ "room_id": room })).await.good();
    ada.put(&at("#mine:localhost"), json!({ "room_id": room })).await.refused(403, "M_FORBIDDEN");
    let eves = eve.opens().await;
    eve.put(&at("#free-2:localhost"), json!({ "room_id": eves })).await.refused(403, "M_FORBIDDEN");
    // A room that is made with an alias or in the list is held to the same rules, and not made half.
    let create = format!("{V3}/createRoom");
    eve.post(&create, json!({ "room_alias_name": "free-3" })).await.refused(403, "M_FORBIDDEN");
    eve.post(&create, json!({ "visibility": "public" })).await.refused(403, "M_FORBIDDEN");
    assert_eq!(eve.get(&format!("{V3}/joined_rooms")).await.good()["joined_rooms"], json!([eves]));
    ada.post(&create, json!({ "room_alias_name": "free-3", "visibility": "public" })).await.good();
    let list = |room: &str| format!("{V3}/directory/list/room/{}", encoded(room));
    eve.put(&list(&eves), json!({ "visibility": "public" })).await.refused(403, "M_FORBIDDEN");
    eve.put(&list(&eves), json!({ "visibility": "private" })).await.good();
    ada.put(&list(&room), json!({ "visibility": "public" })).await.good();
}
