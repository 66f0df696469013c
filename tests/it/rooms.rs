//! Rooms made, replaced, summarised.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        User,
        rooms::{V3, encoded, state_of},
    },
};

async fn tombstone(user: &User, room: &str) -> Value {
    user.in_room(room, "state/m.room.tombstone?format=event").await.good()
}

on_both! {
    async fn presets_make_the_state_that_the_specification_says(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        for (preset, rule, guests) in [
            ("private_chat", "invite", Some("can_join")),
            ("trusted_private_chat", "invite", Some("can_join")),
            ("public_chat", "public", None),
        ] {
            let room = alice
                .creates(json!({ "preset": preset, "name": "N", "topic": "T", "invite": [bob.id], "is_direct": true }))
                .await;
            let state = alice.in_room(&room, "state").await.good();
            let content = |kind: &str| state_of(&state, kind, "").unwrap_or_else(|| panic!("no {kind}"))["content"].clone();
            assert_eq!(content("m.room.join_rules")["join_rule"], rule);
            let open = state_of(&state, "m.room.guest_access", "").map(|e| e["content"]["guest_access"].as_str().unwrap());
            assert_eq!(open, guests);
            assert_eq!(content("m.room.history_visibility")["history_visibility"], "shared");
            assert_eq!(content("m.room.name")["name"], "N");
            assert_eq!(content("m.room.topic")["topic"], "T");
            let create = content("m.room.create");
            assert_eq!(create["room_version"], "12");
            let trusted = preset == "trusted_private_chat";
            assert_eq!(create["additional_creators"], if trusted { json!([bob.id]) } else { Value::Null });
            // Creators of version 12 stand above all numbers and have none.
            assert_eq!(content("m.room.power_levels")["users"], json!({}));
            assert_eq!(content("m.room.power_levels")["events"]["m.room.tombstone"], 150);
            let invite = state_of(&state, "m.room.member", bob.id.as_str()).unwrap();
            assert_eq!(invite["content"]["membership"], "invite");
            assert_eq!(invite["content"]["is_direct"], true);
            bob.joins(&room).await.good();
        }
    }

    async fn rooms_made_at_once_are_different_rooms(server) {
        // The id of a room of version 12 is the hash of its create event, and these differ in nothing but when they are
        // made, if in that.
        const MANY: usize = 40;
        let alice = server.user("alice").await;
        for version in ["12", "11"] {
            let mut making = tokio::task::JoinSet::new();
            for _ in 0..MANY {
                let alice = alice.clone();
                making.spawn(async move { alice.creates(json!({ "room_version": version, "name": "N" })).await });
            }
            let rooms: std::collections::HashSet<String> = making.join_all().await.into_iter().collect();
            assert_eq!(rooms.len(), MANY, "version {version}");
            for room in &rooms {
                assert_eq!(alice.reads(room, "m.room.name", "").await.good()["name"], "N");
            }
        }
        let joined = alice.get(&format!("{V3}/joined_rooms")).await.good();
        assert_eq!(joined["joined_rooms"].as_array().unwrap().len(), 2 * MANY);
    }

    async fn every_version_we_offer_makes_rooms_that_work(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        for version in 1..=12 {
            let room = alice.creates(json!({ "room_version": version.to_string(), "preset": "public_chat" })).await;
            assert_eq!(room.contains(':'), version < 12, "{room}");
            bob.joins(&room).await.good();
            let said = bob.says(&room, "hello").await;
            bob.redacts(&room, &said).await.good();
            let event = alice.in_room(&room, &format!("event/{}", encoded(&said))).await.good();
            assert_eq!(event["content"], json!({}), "version {version}");
            assert_eq!(event["unsigned"]["redacted_because"]["content"]["redacts"], said, "version {version}");
            let create = alice.reads(&room, "m.room.create", "").await.good();
            assert_eq!(create["room_version"], version.to_string());
            assert_eq!(create["creator"] == alice.id.as_str(), version < 11);
        }
        for version in ["0", "01", "13", "nonsense", "no_version", ""] {
            let body = json!({ "room_version": version });
            alice.post(&format!("{V3}/createRoom"), body).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
        }
    }

    async fn all_that_can_be_asked_for_is_in_the_room(server) {
        let alice = server.user("alice").await;
        let room = alice
            .creates(json!({
                "room_alias_name": "pub",
                "visibility": "public",
                "name": "The name",
                "creation_content": { "m.federate": false, "type": "m.space" },
                "power_level_content_override": { "events_default": 25 },
                "initial_state": [
                    { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
                    { "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                    { "type": "org.example", "state_key": "k", "content": { "x": 1 } },
                    { "type": "m.room.name", "content": { "name": "overridden" } },
                ],
            }))
            .await;
        let state = alice.in_room(&room, "state").await.good();
        let content = |kind: &str, key: &str| state_of(&state, kind, key).unwrap()["content"].clone();
        assert_eq!(content("m.room.canonical_alias", "")["alias"], "#pub:localhost");
        // Without a preset the visibility decides.
        assert_eq!(content("m.room.join_rules", "")["join_rule"], "public");
        assert_eq!(content("m.room.history_visibility", "")["history_visibility"], "joined");
        assert_eq!(content("m.room.encryption", "")["algorithm"], "m.megolm.v1.aes-sha2");
        assert_eq!(content("org.example", "k")["x"], 1);
        assert_eq!(content("m.room.name", "")["name"], "The name");
        assert_eq!(content("m.room.power_levels", "")["events_default"], 25);
        assert_eq!(content("m.room.power_levels", "")["ban"], 50);
        assert_eq!(content("m.room.create", "")["m.federate"], false);
        assert_eq!(content("m.room.create", "")["type"], "m.space");
        let itself = json!({ "type": "m.room.canonical_alias", "content": { "alias": "#other:localhost", "alt_aliases": [] } });
        let other = json!({ "room_alias_name": "other", "initial_state": [itself] });
        let other = alice.post(&format!("{V3}/createRoom"), other).await.good();
        assert_eq!(other["room_alias"], "#other:localhost", "clients of old look for it");
        let taken = json!({ "room_alias_name": "pub" });
        alice.post(&format!("{V3}/createRoom"), taken).await.refused(400, "M_ROOM_IN_USE");
    }

    async fn what_cannot_be_a_room_leaves_none(server) {
        let alice = server.user("alice").await;
        let create = format!("{V3}/createRoom");
        let named = |content: Value| json!({ "initial_state": [{ "type": "m.room.canonical_alias", "content": content }] });
        for (body, status, errcode) in [
            (json!({ "room_alias_name": "a b" }), 400, "M_INVALID_PARAM"),
            (json!({ "room_alias_name": "a:b" }), 400, "M_INVALID_PARAM"),
            (json!({ "preset": "nonsense" }), 400, "M_INVALID_PARAM"),
            (json!({ "visibility": "nonsense" }), 400, "M_INVALID_PARAM"),
            (json!({ "name": 5 }), 400, "M_BAD_JSON"),
            (json!({ "invite": ["nonsense"] }), 400, "M_BAD_JSON"),
            (json!({ "creation_content": 5 }), 400, "M_BAD_JSON"),
            (json!({ "initial_state": [{ "type": "x" }] }), 400, "M_BAD_JSON"),
            (json!({ "initial_state": [{ "type": "x\0", "content": {} }] }), 400, "M_INVALID_PARAM"),
            (json!({ "initial_state": [{ "type": "x", "content": { "n": 1.5 } }] }), 400, "M_BAD_JSON"),
            (json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] }), 400, "M_INVALID_ROOM_STATE"),
            (json!({ "power_level_content_override": { "users": { "@a:b": "x" } } }), 400, "M_INVALID_ROOM_STATE"),
            (named(json!({ "alias": "#none:localhost" })), 400, "M_BAD_ALIAS"),
            (named(json!({ "alt_aliases": ["#none:localhost"] })), 400, "M_BAD_ALIAS"),
            (named(json!({ "alias": "none" })), 400, "M_INVALID_PARAM"),
            (
                json!({ "invite_3pid": [
                    { "id_server": "x", "id_access_token": "y", "medium": "email", "address": "a@b" }
                ] }),
                502,
                "M_UNKNOWN",
            ),
        ] {
            alice.post(&create, body).await.refused(status, errcode);
        }
        assert_eq!(alice.get(&format!("{V3}/joined_rooms")).await.good()["joined_rooms"], json!([]));
        assert!(alice.syncs("").await["rooms"].is_null());
    }

    async fn an_upgrade_moves_the_room(server) {
        let (alice, bob, mallory) = (server.user("alice").await, server.user("bob").await, server.user("mallory").await);
        for (from, to) in [("10", "12"), ("12", "12"), ("12", "11"), ("6", "9"), ("1", "12"), ("2", "5"), ("4", "1")] {
            let name = format!("room{from}to{to}");
            let old = alice
                .creates(json!({
                    "room_version": from, "preset": "public_chat", "visibility": "public", "room_alias_name": name,
                    "name": "Name", "topic": "Topic", "creation_content": { "type": "m.space" },
                    "initial_state": [{ "type": "m.space.child", "state_key": "!c", "content": { "via": ["x"] } }],
                }))
                .await;
            let shape = [
                ("m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.org"] })),
                ("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
                ("m.room.avatar", json!({ "url": "mxc://localhost/a" })),
                ("m.room.topic", json!({ "topic": "Topic" })),
                ("m.room.guest_access", json!({ "guest_access": "forbidden" })),
                ("m.room.history_visibility", json!({ "history_visibility": "world_readable" })),
                ("m.room.join_rules", json!({ "join_rule": "public" })),
            ];
            for (kind, content) in &shape {
                alice.sets(&old, kind, "", content.clone()).await.good();
            }
            bob.joins(&old).await.good();
            mallory.joins(&old).await.good();
            alice.does_to(&old, "ban", &mallory).await.good();
            let upgrade = json!({ "new_version": to });
            bob.post_in_room(&old, "upgrade", upgrade.clone()).await.refused(403, "M_FORBIDDEN");
            for version in ["x", "no_version", ""] {
                let upgrade = json!({ "new_version": version });
                alice.post_in_room(&old, "upgrade", upgrade).await.refused(400, "M_UNSUPPORTED_ROOM_VERSION");
            }
            alice.post_in_room(&old, "upgrade", json!({ "new_version": 5 })).await.refused(400, "M_BAD_JSON");
            alice.post_in_room(&old, "upgrade", json!({})).await.refused(400, "M_BAD_JSON");
            let new = alice.post_in_room(&old, "upgrade", upgrade.clone()).await.good();
            assert_eq!(alice.post_in_room(&old, "upgrade", upgrade).await.good(), new, "the answer was lost");
            let new = new["replacement_room"].as_str().unwrap();

            let create = alice.reads(new, "m.room.create", "").await.good();
            assert_eq!(create["predecessor"]["room_id"], old);
            // Since version 12 a room is named by what stands in it, so it cannot name an event that names it.
            let last = if to == "12" { Value::Null } else { tombstone(&alice, &old).await["event_id"].clone() };
            assert_eq!(create["predecessor"]["event_id"], last);
            assert_eq!((&create["room_version"], &create["type"]), (&json!(to), &json!("m.space")));
            assert_eq!(alice.reads(&old, "m.room.tombstone", "").await.good()["replacement_room"], new);
            assert_eq!(alice.reads(new, "m.room.name", "").await.good()["name"], "Name");
            for (kind, content) in &shape {
                assert_eq!(alice.reads(new, kind, "").await.good(), *content, "{kind} from {from} to {to}");
            }
            assert_eq!(alice.reads(new, "m.space.child", "!c").await.good()["via"], json!(["x"]));
            let alias = format!("#{name}:localhost");
            let resolved = alice.get(&format!("{V3}/directory/room/{}", encoded(&alias))).await.good();
            assert_eq!(resolved["room_id"], new);
            assert_eq!(alice.reads(&old, "m.room.canonical_alias", "").await.good(), json!({}));
            assert_eq!(alice.reads(new, "m.room.canonical_alias", "").await.good(), json!({ "alias": alias }));
            for (room, visibility) in [(old.as_str(), "private"), (new, "public")] {
                let list = alice.get(&format!("{V3}/directory/list/room/{}", encoded(room))).await.good();
                assert_eq!(list["visibility"], visibility);
            }
            // The old one is closed to those without power, the new one open but to the banned.
            let text = json!({ "msgtype": "m.text", "body": "?" });
            bob.sends(&old, "m.room.message", "late", text).await.refused(403, "M_FORBIDDEN");
            bob.joins(new).await.good();
            bob.says(new, "here").await;
            mallory.joins(new).await.refused(403, "M_FORBIDDEN");
            // Who upgraded still rules.
            alice.sets(new, "m.room.power_levels", "", alice.reads(new, "m.room.power_levels", "").await.good()).await.good();
        }
    }

    /// Whoever lost patience asks again before the first is done.
    async fn upgrades_at_once_make_one_room(server) {
        let alice = server.user("alice").await;
        for version in ["11", "12"] {
            let old = alice.opens().await;
            let asked: Vec<_> = (0..8)
                .map(|_| {
                    let (user, room) = (alice.clone(), old.clone());
                    let upgrade = json!({ "new_version": version });
                    tokio::spawn(async move { user.post_in_room(&room, "upgrade", upgrade).await.good() })
                })
                .collect();
            let mut made = Vec::new();
            for answer in asked {
                made.push(answer.await.unwrap()["replacement_room"].as_str().unwrap().to_owned());
            }
            made.sort_unstable();
            made.dedup();
            assert_eq!(made, [alice.reads(&old, "m.room.tombstone", "").await.good()["replacement_room"].as_str().unwrap()]);
        }
        let rooms = alice.get(&format!("{V3}/joined_rooms")).await.good();
        assert_eq!(rooms["joined_rooms"].as_array().unwrap().len(), 4);
    }

    async fn what_makes_no_sense_in_a_room_is_a_mistake(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        for version in ["11", "12"] {
            let creators = if version == "12" { json!([bob.id]) } else { json!([]) };
            let creation = json!({ "additional_creators": creators });
            let room = alice
                .creates(json!({ "preset": "public_chat", "room_version": version, "creation_content": creation }))
                .await;
            bob.joins(&room).await.good();
            let create = json!({ "room_version": version, "entropy": 100 });
            alice.sets(&room, "m.room.create", "", create).await.refused(400, "M_INVALID_PARAM");
            let itself = json!({ "body": "?", "replacement_room": room });
            alice.sets(&room, "m.room.tombstone", "", itself.clone()).await.refused(400, "M_INVALID_PARAM");
            alice.sends(&room, "m.room.tombstone", "t", itself).await.refused(400, "M_INVALID_PARAM");
            for creator in [&alice, &bob] {
                let levels = alice.sets(&room, "m.room.power_levels", "", json!({ "users": { creator.id.as_str(): 100 } })).await;
                if version == "12" {
                    levels.refused(400, "M_INVALID_PARAM");
                }
            }
            let beyond = json!({ "users": { "@x:y": 9_007_199_254_740_992_i64 } });
            alice.sets(&room, "m.room.power_levels", "", beyond).await.refused(400, "M_BAD_JSON");
        }
        for wrong in [json!("x"), json!(["@foo:example.com", 42]), json!(["not-a-user"]), json!(["@a:dom$ain$.com"])] {
            let body = json!({ "preset": "public_chat", "creation_content": { "additional_creators": wrong } });
            assert_eq!(alice.post(&format!("{V3}/createRoom"), body).await.status, 400, "{wrong}");
        }
        let twice = json!({ "power_level_content_override": { "users": { alice.id.as_str(): 100 } } });
        alice.post(&format!("{V3}/createRoom"), twice).await.refused(400, "M_INVALID_ROOM_STATE");
    }

    async fn what_one_keeps_goes_along_where_clients_replace_a_room(server) {
        // Without `/upgrade`: first the new room, then the tombstone. Who is in the new room by then is not to be forgotten.
        let alice = server.user("alice").await;
        let old = alice.opens().await;
        alice.put(&format!("{V3}/pushrules/global/room/{}", encoded(&old)), json!({ "actions": ["notify"] })).await.good();
        let creation = json!({ "predecessor": { "room_id": old } });
        let new = alice.creates(json!({ "preset": "public_chat", "creation_content": creation })).await;
        let since = alice.now().await;
        alice.sets(&old, "m.room.tombstone", "", json!({ "body": "", "replacement_room": new })).await.good();
        let mut since = since;
        for _ in 0..10 {
            let sync = alice.syncs(&format!("timeout=5000&since={since}")).await;
            if sync["account_data"]["events"].as_array().into_iter().flatten().any(|e| e["type"] == "m.push_rules") {
                break;
            }
            since = sync["next_batch"].as_str().unwrap().to_owned();
        }
        alice.get(&format!("{V3}/pushrules/global/room/{}", encoded(&new))).await.good();
    }

    async fn a_summary_is_told_to_those_who_may_come(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let open = alice.creates(json!({ "preset": "public_chat", "name": "Open", "room_alias_name": "open" })).await;
        let closed = alice.creates(json!({ "name": "Closed" })).await;
        let at = |room: &str| format!("/_matrix/client/v1/room_summary/{}", encoded(room));
        let told = bob.get(&at(&open)).await.good();
        assert_eq!((&told["name"], &told["num_joined_members"]), (&json!("Open"), &json!(1)));
        assert_eq!((&told["join_rule"], &told["room_version"]), (&json!("public"), &json!("12")));
        assert_eq!(told["membership"], "leave");
        assert!(server.nobody().get(&at("#open:localhost")).await.good()["membership"].is_null());
        bob.get("/_matrix/client/unstable/im.nheko.summary/rooms/%23open:localhost/summary").await.good();
        bob.get("/_matrix/client/unstable/im.nheko.summary/summary/%23open:localhost").await.good();
        bob.get(&at(&closed)).await.refused(404, "M_NOT_FOUND");
        server.nobody().get(&at(&closed)).await.refused(404, "M_NOT_FOUND");
        bob.get(&at("!nowhere:localhost")).await.refused(404, "M_NOT_FOUND");
        alice.invites(&closed, &bob).await.good();
        assert_eq!(bob.get(&at(&closed)).await.good()["membership"], "invite");
        bob.joins(&closed).await.good();
        assert_eq!(bob.get(&at(&closed)).await.good()["num_joined_members"], 2);
    }

    async fn the_tree_of_a_space_is_walked_in_its_order(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let space = async |name: &str| {
            alice.creates(json!({ "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" } })).await
        };
        let child = async |of: &str, room: &str, content: Value| {
            alice.sets(of, "m.space.child", room, content).await.good();
        };
        let (root, inner) = (space("root").await, space("inner").await);
        let mut rooms = Vec::new();
        for n in 0..4 {
            rooms.push(alice.creates(json!({ "preset": "public_chat", "name": format!("room {n}") })).await);
        }
        let secret = alice.creates(json!({ "name": "secret" })).await;
        let via = json!(["localhost"]);
        child(&root, &rooms[0], json!({ "via": via })).await;
        child(&root, &inner, json!({ "via": via, "order": "b", "suggested": true })).await;
        child(&root, &rooms[1], json!({ "via": via, "order": "a" })).await;
        child(&root, &secret, json!({ "via": via, "order": "0" })).await;
        child(&root, &rooms[3], json!({})).await;
        child(&root, "!elsewhere:example.org", json!({ "via": ["127.0.0.9:1"] })).await;
        child(&inner, &rooms[2], json!({ "via": via, "suggested": true })).await;
        child(&inner, &root, json!({ "via": via })).await;
        // Also a child of the root, after the inner space.
        child(&inner, &rooms[0], json!({ "via": via, "order": "0" })).await;
        let path = |query: &str| format!("/_matrix/client/v1/rooms/{}/hierarchy?{query}", encoded(&root));
        let names = |answer: &Value| -> Vec<String> {
            answer["rooms"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
        };
        let all = bob.get(&path("")).await.good();
        assert_eq!(names(&all), ["root", "room 1", "inner", "room 0", "room 2"], "bob may not hear of the secret");
        assert_eq!(names(&alice.get(&path("")).await.good())[1], "secret");
        let first = &all["rooms"][0];
        assert_eq!((&first["room_type"], &first["num_joined_members"]), (&json!("m.space"), &json!(1)));
        let children = first["children_state"].as_array().unwrap();
        assert_eq!(children.len(), 5, "{children:?}");
        assert_eq!(children[0]["state_key"], json!(secret));
        assert!(children[0]["origin_server_ts"].is_u64() && children[0]["event_id"].is_null());
        assert_eq!(all["rooms"][1]["children_state"], json!([]));
        assert!(all["next_batch"].is_null());

        let suggested = bob.get(&path("suggested_only=true")).await.good();
        assert_eq!(names(&suggested), ["root", "inner", "room 2"]);
        assert_eq!(suggested["rooms"][0]["children_state"].as_array().unwrap().len(), 1);
        assert_eq!(names(&bob.get(&path("max_depth=1")).await.good()), ["root", "room 1", "inner", "room 0"]);
        assert_eq!(names(&bob.get(&path("max_depth=0")).await.good()), ["root"]);

        let (mut paged, mut from) = (Vec::new(), String::new());
        for _ in 0..10 {
            let page = bob.get(&path(&format!("limit=2{from}"))).await.good();
            paged.extend(names(&page));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = format!("&from={}", encoded(next));
        }
        assert_eq!(paged, names(&all));
        for query in [format!("max_depth=3{from}"), format!("suggested_only=true{from}"), "from=x".into(), "limit=0".into()] {
            bob.get(&path(&query)).await.refused(400, "M_INVALID_PARAM");
        }
        let hidden = format!("/_matrix/client/v1/rooms/{}/hierarchy", encoded(&secret));
        bob.get(&hidden).await.refused(403, "M_FORBIDDEN");
        let nowhere = format!("/_matrix/client/v1/rooms/{}/hierarchy", encoded("!nowhere:localhost"));
        bob.get(&nowhere).await.refused(403, "M_FORBIDDEN");
        // What is known of a room that nobody is in any more is of yesterday.
        alice.leaves(&inner).await.good();
        assert_eq!(names(&bob.get(&path("")).await.good()), ["root", "room 1", "room 0"]);
        let abandoned = format!("/_matrix/client/v1/rooms/{}/hierarchy", encoded(&inner));
        alice.get(&abandoned).await.refused(403, "M_FORBIDDEN");
        alice.does_to(&root, "ban", &bob).await.good();
        bob.get(&path("")).await.refused(403, "M_FORBIDDEN");
    }

    async fn what_one_keeps_with_a_room_goes_along_when_it_is_replaced(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let old = alice.creates(json!({ "preset": "public_chat", "room_version": "11" })).await;
        bob.joins(&old).await.good();
        let mute = |room: &str| {
            json!({ "actions": [], "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": room }] })
        };
        for user in [&alice, &bob] {
            let own = format!("{V3}/user/{}", encoded(user.id.as_str()));
            user.put(&format!("{own}/rooms/{}/tags/m.favourite", encoded(&old)), json!({ "order": 0.5 })).await.good();
            user.put(&format!("{own}/account_data/m.direct"), json!({ (alice.id.as_str()): ["!x:y", old] })).await.good();
            user.put(&format!("{V3}/pushrules/global/override/{}", encoded(&old)), mute(&old)).await.good();
            user.put(&format!("{V3}/pushrules/global/room/{}", encoded(&old)), json!({ "actions": ["notify"] })).await.good();
        }
        // Whoever names a room as the one that theirs replaces does not get at what people keep with it.
        let creation = json!({ "predecessor": { "room_id": old, "event_id": "$x" } });
        let false_heir = alice.creates(json!({ "preset": "public_chat", "creation_content": creation })).await;
        bob.joins(&false_heir).await.good();
        let tags_of = async |user: &User, room: &str| {
            let path = format!("{V3}/user/{}/rooms/{}/tags", encoded(user.id.as_str()), encoded(room));
            user.get(&path).await.good()["tags"].clone()
        };
        assert_eq!(tags_of(&bob, &false_heir).await, json!({}));
        let new = alice.post_in_room(&old, "upgrade", json!({ "new_version": "12" })).await.good();
        let new = new["replacement_room"].as_str().unwrap().to_owned();
        bob.joins(&new).await.good();
        for user in [&alice, &bob] {
            assert_eq!(tags_of(user, &new).await, json!({ "m.favourite": { "order": 0.5 } }));
            let own = format!("{V3}/user/{}", encoded(user.id.as_str()));
            let direct = user.get(&format!("{own}/account_data/m.direct")).await.good();
            assert_eq!(direct[alice.id.as_str()], json!(["!x:y", old, new]));
            let rule = user.get(&format!("{V3}/pushrules/global/override/{}", encoded(&new))).await.good();
            assert_eq!((&rule["conditions"], &rule["enabled"]), (&mute(&new)["conditions"], &json!(true)));
            user.get(&format!("{V3}/pushrules/global/room/{}", encoded(&new))).await.good();
        }
        alice.says(&new, "hello").await;
        let sync = bob.syncs("").await;
        assert_eq!(sync["rooms"]["join"][&new]["unread_notifications"]["notification_count"], 0, "muted as before");
    }
}
