//! Who is in a room: every way in and out.

use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        Plan, TestServer, User,
        rooms::{V3, encoded, joined, state_of},
    },
};

async fn membership(asked: &User, room: &str, whose: &User) -> String {
    let content = asked.reads(room, "m.room.member", whose.id.as_str()).await.good();
    content["membership"].as_str().unwrap().to_owned()
}

on_both! {
    async fn a_name_taken_on_the_way_into_a_room_is_shown_there(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let open = alice.opens().await;
        let path = format!("{V3}/profile/{}/displayname", encoded(bob.id.as_str()));
        for n in 0..20 {
            let named = || bob.put(&path, json!({ "displayname": format!("name {n}") }));
            bob.leaves(&open).await;
            let (made, joined, first, second) = tokio::join!(bob.opens(), bob.joins(&open), named(), named());
            for done in [joined, first, second] {
                done.good();
            }
            for room in [&made, &open] {
                let seen = bob.reads(room, "m.room.member", bob.id.as_str()).await.good();
                assert_eq!(seen["displayname"], format!("name {n}"), "{n}: {seen}");
            }
        }
    }

    async fn rooms_that_two_are_in_are_listed(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let with = |user: &User, more: &str| {
            format!("/_matrix/client/v1/mutual_rooms?user_id={}{more}", encoded(user.id.as_str()))
        };
        assert_eq!(alice.get(&with(&bob, "")).await.good(), json!({ "joined": [], "count": 0 }));
        let mut rooms = Vec::new();
        for _ in 0..102 {
            let room = alice.opens().await;
            bob.joins(&room).await.good();
            rooms.push(room);
        }
        let (left, alone) = (rooms.pop().unwrap(), bob.opens().await);
        bob.leaves(&left).await.good();
        let first = alice.get(&with(&bob, "")).await.good();
        let next = format!("&from={}", first["next_batch"].as_str().unwrap());
        let second = alice.get(&with(&bob, &next)).await.good();
        assert_eq!((&first["count"], &second["count"]), (&json!(101), &json!(101)));
        assert!(second.get("next_batch").is_none(), "{second}");
        let mut listed: Vec<&str> =
            [&first, &second].iter().flat_map(|a| a["joined"].as_array().unwrap()).map(|r| r.as_str().unwrap()).collect();
        listed.sort_unstable();
        rooms.sort_unstable();
        assert_eq!(listed, rooms);
        assert!(!listed.contains(&alone.as_str()));
        // What it was called before.
        let unstable = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id=";
        let old = bob.get(&format!("{unstable}{}", encoded(alice.id.as_str()))).await.good();
        assert_eq!(old["joined"], first["joined"]);
        let token = old["next_batch_token"].as_str().unwrap();
        let old = bob.get(&format!("{unstable}{}&batch_token={token}", encoded(alice.id.as_str()))).await.good();
        assert_eq!(old, json!({ "joined": second["joined"] }));
        // A full page is the last if nothing follows.
        bob.leaves(rooms.last().unwrap()).await.good();
        let full = alice.get(&with(&bob, "")).await.good();
        assert_eq!((full["joined"].as_array().unwrap().len(), full.get("next_batch")), (100, None));
        // Nobody in particular, oneself, rubbish.
        let nobody = "/_matrix/client/v1/mutual_rooms?user_id=%40nobody%3Aelsewhere.org";
        assert_eq!(alice.get(nobody).await.good(), json!({ "joined": [], "count": 0 }));
        alice.get(&with(&alice, "")).await.refused(400, "M_INVALID_PARAM");
        alice.get(&with(&bob, "&from=rubbish")).await.refused(400, "M_INVALID_PARAM");
        alice.get("/_matrix/client/v1/mutual_rooms?user_id=bob").await.refused(400, "M_INVALID_PARAM");
        alice.get("/_matrix/client/v1/mutual_rooms").await.refused(400, "M_MISSING_PARAM");
    }

    async fn an_invite_is_taken_or_turned_down(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.creates(json!({ "name": "Private" })).await;
        bob.joins(&room).await.refused(403, "M_FORBIDDEN");
        bob.invites(&room, &carol).await.refused(403, "M_FORBIDDEN");
        alice.invites(&room, &bob).await.good();
        let invited = bob.syncs("").await;
        let state = &invited["rooms"]["invite"][&room]["invite_state"]["events"];
        assert_eq!(state_of(state, "m.room.name", "").unwrap()["content"]["name"], "Private");
        assert_eq!(state_of(state, "m.room.member", bob.id.as_str()).unwrap()["content"]["membership"], "invite");
        assert!(state_of(state, "m.room.create", "").is_some() && state_of(state, "m.room.join_rules", "").is_some());
        // The invited do not see the room yet.
        bob.in_room(&room, "state").await.refused(403, "M_FORBIDDEN");
        bob.joins(&room).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        alice.invites(&room, &bob).await.refused(403, "M_FORBIDDEN");
        alice.invites(&room, &carol).await.good();
        let since = carol.now().await;
        carol.leaves(&room).await.good();
        assert_eq!(membership(&alice, &room, &carol).await, "leave");
        let news = carol.syncs_since(&since).await;
        assert!(news["rooms"]["leave"][&room].is_object(), "{news}");
        assert!(news["rooms"]["invite"].is_null());
        carol.joins(&room).await.refused(403, "M_FORBIDDEN");
        // Names that nobody has are invited like others, and by those alone who may invite: who asks learns nothing.
        let later = json!({ "user_id": "@later:localhost" });
        carol.post_in_room(&room, "invite", later.clone()).await.refused(403, "M_FORBIDDEN");
        alice.post_in_room(&room, "invite", later).await.good();
        let later = server.user("later").await;
        assert!(later.syncs("").await["rooms"]["invite"][&room].is_object());
        later.joins(&room).await.good();
        alice.post_in_room(&room, "invite", json!({ "user_id": "nonsense" })).await.refused(400, "M_BAD_JSON");
        alice.post_in_room(&room, "invite", json!({})).await.refused(400, "M_MISSING_PARAM");
        let by_email = json!({ "id_server": "x", "id_access_token": "y", "medium": "email", "address": "a@b" });
        alice.post_in_room(&room, "invite", by_email).await.refused(502, "M_UNKNOWN");
    }

    async fn joining_by_id_by_alias_and_twice(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat", "room_alias_name": "pub" })).await;
        assert_eq!(bob.joins("#pub:localhost").await.good()["room_id"], room);
        assert_eq!(bob.joins(&room).await.good()["room_id"], room);
        bob.leaves(&room).await.good();
        bob.leaves(&room).await.good();
        // No body is a body without a reason.
        let path = format!("{V3}/join/{}", encoded(&room));
        bob.send(reqwest::Method::POST, &path, None).await.good();
        bob.leaves(&room).await.good();
        let answer = bob.post_in_room(&room, "join", json!({ "reason": "curious" })).await.good();
        assert_eq!(answer["room_id"], room);
        assert_eq!(alice.reads(&room, "m.room.member", bob.id.as_str()).await.good()["reason"], "curious");
        bob.joins("!nowhere:localhost").await.refused(404, "M_NOT_FOUND");
        bob.joins("#nowhere:localhost").await.refused(404, "M_NOT_FOUND");
        bob.joins("nonsense").await.refused(400, "M_INVALID_PARAM");
        bob.leaves("!nowhere:localhost").await.refused(404, "M_NOT_FOUND");
        let rooms = bob.get(&format!("{V3}/joined_rooms")).await.good();
        assert_eq!(rooms["joined_rooms"], json!([room]));
    }

    async fn kicks_and_bans_need_power_and_hold(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.opens().await;
        bob.joins(&room).await.good();
        carol.joins(&room).await.good();
        for what in ["kick", "ban"] {
            bob.does_to(&room, what, &carol).await.refused(403, "M_FORBIDDEN");
            bob.does_to(&room, what, &alice).await.refused(403, "M_FORBIDDEN");
        }
        let since = carol.now().await;
        alice.does_to(&room, "kick", &carol).await.good();
        let left = carol.syncs_since(&since).await;
        let last = left["rooms"]["leave"][&room]["timeline"]["events"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last["content"]["membership"], &last["content"]["reason"]), (&json!("leave"), &json!("kick")));
        alice.does_to(&room, "kick", &carol).await.refused(403, "M_FORBIDDEN");
        carol.joins(&room).await.good();
        alice.does_to(&room, "ban", &carol).await.good();
        alice.does_to(&room, "ban", &carol).await.good();
        carol.joins(&room).await.refused(403, "M_FORBIDDEN");
        carol.leaves(&room).await.refused(403, "M_FORBIDDEN");
        alice.invites(&room, &carol).await.refused(403, "M_FORBIDDEN");
        bob.does_to(&room, "unban", &carol).await.refused(403, "M_FORBIDDEN");
        alice.does_to(&room, "unban", &carol).await.good();
        alice.does_to(&room, "unban", &carol).await.refused(403, "M_BAD_STATE");
        carol.joins(&room).await.good();
        // Somebody who never was there can be banned too.
        let dave = server.user("dave").await;
        alice.does_to(&room, "ban", &dave).await.good();
        dave.joins(&room).await.refused(403, "M_FORBIDDEN");
    }

    async fn a_knock_is_let_in(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice
            .creates(json!({ "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }] }))
            .await;
        let path = format!("{V3}/knock/{}", encoded(&room));
        assert_eq!(bob.post(&path, json!({ "reason": "please" })).await.good()["room_id"], room);
        bob.joins(&room).await.refused(403, "M_FORBIDDEN");
        let knocking = bob.syncs("").await;
        assert!(knocking["rooms"]["knock"][&room]["knock_state"]["events"].is_array(), "{knocking}");
        assert_eq!(membership(&alice, &room, &bob).await, "knock");
        alice.invites(&room, &bob).await.good();
        bob.joins(&room).await.good();
        let closed = alice.creates(json!({})).await;
        bob.post(&format!("{V3}/knock/{}", encoded(&closed)), json!({})).await.refused(403, "M_FORBIDDEN");
        bob.post(&format!("{V3}/knock/!nowhere:localhost"), json!({})).await.refused(404, "M_NOT_FOUND");
    }

    async fn a_restricted_room_lets_in_who_is_in_the_other(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let club = alice.opens().await;
        let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
        let inner = alice.creates(json!({ "initial_state": [{ "type": "m.room.join_rules", "content": rule }] })).await;
        bob.joins(&club).await.good();
        bob.joins(&inner).await.good();
        carol.joins(&inner).await.refused(403, "M_FORBIDDEN");
        let member = alice.reads(&inner, "m.room.member", bob.id.as_str()).await.good();
        assert_eq!(member["join_authorised_via_users_server"], alice.id.as_str());
        // Who vouched is no word of theirs, whatever they copy into a later event.
        let again = json!({ "membership": "join", "displayname": "B", "join_authorised_via_users_server": "@x:elsewhere.org" });
        bob.sets(&inner, "m.room.member", bob.id.as_str(), again).await.good();
        let member = alice.reads(&inner, "m.room.member", bob.id.as_str()).await.good();
        assert_eq!(member, json!({ "membership": "join", "displayname": "B" }));
        bob.leaves(&inner).await.good();
        bob.sets(&inner, "m.room.member", bob.id.as_str(), json!({ "membership": "join" })).await.good();
        let member = alice.reads(&inner, "m.room.member", bob.id.as_str()).await.good();
        assert_eq!(member["join_authorised_via_users_server"], alice.id.as_str());
        // Their own words about themselves are still theirs.
        bob.says(&inner, "in").await;
        // A room that nobody here knows lets nobody in.
        let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": "!x:localhost" }] });
        alice.sets(&inner, "m.room.join_rules", "", rule).await.good();
        carol.joins(&inner).await.refused(403, "M_FORBIDDEN");
    }

    async fn a_forgotten_room_is_gone_until_it_comes_back(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        alice.says(&room, "hello").await;
        bob.joins(&room).await.good();
        bob.post_in_room(&room, "forget", json!({})).await.refused(400, "M_UNKNOWN");
        bob.leaves(&room).await.good();
        bob.pages(&room, "dir=b").await;
        let everything = encoded(r#"{"room":{"include_leave":true}}"#);
        assert!(bob.syncs(&format!("filter={everything}")).await["rooms"]["leave"][&room].is_object());
        bob.post_in_room(&room, "forget", json!({})).await.good();
        bob.in_room(&room, "messages?dir=b").await.refused(403, "M_FORBIDDEN");
        assert!(bob.syncs(&format!("filter={everything}")).await["rooms"].is_null());
        bob.joins(&room).await.good();
        assert!(joined(&bob.syncs("").await, &room).is_object());
        bob.post_in_room("!nowhere:localhost", "forget", json!({})).await.refused(403, "M_FORBIDDEN");
    }

    async fn members_are_listed_now_and_then(server) {
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.opens().await;
        let before = alice.now().await;
        bob.joins(&room).await.good();
        alice.invites(&room, &carol).await.good();
        let list = async |who: &User, query: &str| -> Vec<String> {
            let chunk = who.in_room(&room, &format!("members{query}")).await.good()["chunk"].clone();
            let mut names: Vec<String> =
                chunk.as_array().unwrap().iter().map(|e| e["state_key"].as_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(list(&alice, "").await, ["@alice:localhost", "@bob:localhost", "@carol:localhost"]);
        assert_eq!(list(&alice, "?membership=join").await, ["@alice:localhost", "@bob:localhost"]);
        for query in ["membership=foo", "not_membership=foo", "membership=join&not_membership=JOIN"] {
            alice.in_room(&room, &format!("members?{query}")).await.refused(400, "M_INVALID_PARAM");
        }
        assert_eq!(list(&alice, "?not_membership=join").await, ["@carol:localhost"]);
        assert_eq!(list(&alice, "?membership=invite&not_membership=invite").await.len(), 3);
        assert_eq!(list(&alice, &format!("?at={before}")).await, ["@alice:localhost"]);
        // Where all of the timeline begins there was nobody but who made the room.
        let all = alice.syncs("filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A50%7D%7D%7D").await;
        let begin = all["rooms"]["join"][room.as_str()]["timeline"]["prev_batch"].as_str().unwrap().to_owned();
        assert_eq!(list(&alice, &format!("?at={begin}")).await, ["@alice:localhost"]);
        alice.in_room(&room, "members?at=nonsense").await.refused(400, "M_INVALID_PARAM");
        carol.in_room(&room, "members").await.refused(403, "M_FORBIDDEN");
        let now = alice.in_room(&room, "joined_members").await.good();
        assert_eq!(now["joined"].as_object().unwrap().len(), 2);
        let nobody_in_particular = json!({ "display_name": "alice", "avatar_url": null });
        assert_eq!(now["joined"][alice.id.as_str()], nobody_in_particular);
        bob.leaves(&room).await.good();
        carol.joins(&room).await.good();
        // Who left sees the members of that time.
        assert_eq!(list(&bob, "?membership=join").await, ["@alice:localhost"]);
        bob.in_room(&room, "joined_members").await.refused(403, "M_FORBIDDEN");
    }

    async fn a_join_says_what_its_sender_puts_into_it(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.creates(json!({ "preset": "public_chat", "room_alias_name": "said" })).await;
        for way in [format!("{V3}/join/{}", encoded(&room)), format!("{V3}/join/%23said:localhost"), format!("{V3}/rooms/{}/join", encoded(&room))] {
            let body = json!({ "foo": "bar", "reason": "why not", "membership": "ban", "displayname": "not this way" });
            bob.post(&way, body).await.good();
            let content = alice.reads(&room, "m.room.member", bob.id.as_str()).await.good();
            assert_eq!((&content["foo"], &content["reason"]), (&json!("bar"), &json!("why not")));
            assert_eq!((&content["membership"], &content["displayname"]), (&json!("join"), &json!("bob")));
            bob.post(&way, json!({ "reason": 5 })).await.refused(400, "M_BAD_JSON");
            bob.post(&way, json!({ "third_party_signed": 5 })).await.refused(400, "M_BAD_JSON");
            bob.leaves(&room).await.good();
        }
    }

    async fn an_invite_to_an_address_is_for_who_holds_it(server) {
        use ruma::{CanonicalJsonObject, serde::{Base64, base64::UrlSafe}, signatures::{Ed25519KeyPair, sign_json}};
        let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
        let room = alice.creates(json!({ "name": "Private" })).await;
        let key = || Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "0".to_owned()).unwrap();
        let (key, wrong) = (key(), key());
        let public: Base64<UrlSafe, Vec<u8>> = Base64::new(key.public_key().to_vec());
        let invite = json!({
            "display_name": "b...@e...",
            "key_validity_url": "https://is.example/isvalid",
            "public_key": public,
            "public_keys": [{ "public_key": public }],
        });
        alice.sets(&room, "m.room.third_party_invite", "token", invite).await.good();
        let signed = |key: &Ed25519KeyPair, who: &User, token: &str| -> Value {
            let claim = json!({ "mxid": who.id, "sender": alice.id, "token": token });
            let mut claim: CanonicalJsonObject = serde_json::from_value(claim).unwrap();
            sign_json("is.example", key, &mut claim).unwrap();
            json!({ "third_party_signed": claim })
        };
        let join = format!("{V3}/join/{}", encoded(&room));
        bob.post(&join, json!({})).await.refused(403, "M_FORBIDDEN");
        bob.post(&join, signed(&wrong, &bob, "token")).await.refused(403, "M_FORBIDDEN");
        bob.post(&join, signed(&key, &bob, "another")).await.refused(403, "M_FORBIDDEN");
        carol.post(&join, signed(&key, &bob, "token")).await.refused(403, "M_FORBIDDEN");
        bob.post(&join, signed(&key, &bob, "token")).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        let events = alice.reads_all(&room, None, 50).await;
        let invited = events.iter().find(|e| e["content"]["membership"] == "invite").unwrap();
        assert_eq!((&invited["sender"], &invited["state_key"]), (&json!(alice.id), &json!(bob.id)));
        assert_eq!(invited["content"]["third_party_invite"]["display_name"], "b...@e...");
    }

    async fn membership_as_a_state_event(server) {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.opens().await;
        let member = "m.room.member";
        alice.sets(&room, member, bob.id.as_str(), json!({ "membership": "invite" })).await.good();
        bob.sets(&room, member, bob.id.as_str(), json!({ "membership": "join", "displayname": "B" })).await.good();
        assert_eq!(alice.reads(&room, member, bob.id.as_str()).await.good()["displayname"], "B");
        bob.sets(&room, member, alice.id.as_str(), json!({ "membership": "leave" })).await.refused(403, "M_FORBIDDEN");
        bob.sets(&room, member, bob.id.as_str(), json!({ "membership": 5 })).await.refused(400, "M_BAD_JSON");
        bob.sets(&room, member, bob.id.as_str(), json!({})).await.refused(400, "M_BAD_JSON");
        bob.sets(&room, member, bob.id.as_str(), json!({ "membership": "dancing" })).await.refused(400, "M_BAD_JSON");
        bob.sets(&room, member, "nonsense", json!({ "membership": "join" })).await.refused(400, "M_INVALID_PARAM");
        bob.sets(&room, member, bob.id.as_str(), json!({ "membership": "leave" })).await.good();
        let rooms = bob.get(&format!("{V3}/joined_rooms")).await.good();
        assert_eq!(rooms["joined_rooms"], Value::Array(Vec::new()));
    }
}

async fn guests(server: TestServer) {
    let alice = server.user("alice").await;
    let session = server.nobody().post(&format!("{V3}/register?kind=guest"), json!({})).await.good();
    let guest = User::from_session(&server, &session);
    let room = alice.opens().await;
    let access = json!({ "guest_access": "can_join" });
    guest.joins(&room).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let own = json!({ "membership": "join" });
    guest.sets(&room, "m.room.member", guest.id.as_str(), own).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    alice.sets(&room, "m.room.guest_access", "", access.clone()).await.good();
    guest.joins(&room).await.good();
    guest.says(&room, "hello").await;
    assert_eq!(membership(&alice, &room, &guest).await, "join");
    // A room that is not open to guests any longer has none.
    alice.sets(&room, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await.good();
    assert_eq!(membership(&alice, &room, &guest).await, "leave");
    assert_eq!(membership(&alice, &room, &alice).await, "join");
    let text = json!({ "msgtype": "m.text", "body": "?" });
    guest.sends(&room, "m.room.message", "late", text).await.refused(403, "M_FORBIDDEN");
    guest.joins(&room).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    alice.sets(&room, "m.room.guest_access", "", access).await.good();
    guest.joins(&room).await.good();
}

#[tokio::test]
async fn guests_are_where_they_may_be() {
    let plan = || Plan::default().services(|s| s.accounts.guests = true);
    guests(plan().sqlite().await).await;
    if let Some(server) = plan().postgres().await {
        guests(server).await;
    }
}

/// `forget_rooms_on_leave`: however one came to be out of a room, it is gone, and all one's devices are told so once.
#[tokio::test]
async fn whoever_is_out_of_a_room_may_have_forgotten_it() {
    let server = Plan::default().services(|s| s.membership.forget_on_leave = true).sqlite().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let rooms = [alice.opens().await, alice.opens().await, alice.opens().await, alice.opens().await];
    for room in &rooms {
        bob.joins(room).await.good();
    }
    let mut since = bob.now().await;
    bob.leaves(&rooms[0]).await.good();
    alice.does_to(&rooms[1], "kick", &bob).await.good();
    alice.does_to(&rooms[2], "ban", &bob).await.good();
    bob.sets(&rooms[3], "m.room.member", bob.id.as_str(), json!({ "membership": "leave" })).await.good();
    // Each comes and is forgotten by a commit of its own: by then something is to be told, and each is told once.
    let mut told = Vec::new();
    while told.len() < rooms.len() {
        let sync = bob.syncs(&format!("timeout=20000&since={}", encoded(&since))).await;
        told.extend(sync["rooms"]["leave"].as_object().into_iter().flatten().map(|(room, _)| room.clone()));
        since = sync["next_batch"].as_str().unwrap().to_owned();
    }
    told.sort_unstable();
    let mut all = rooms.to_vec();
    all.sort_unstable();
    assert_eq!(told, all);
    let everything = encoded(r#"{"room":{"include_leave":true}}"#);
    let tries = 0..2_000;
    let mut left = Value::Null;
    for _ in tries {
        left = bob.syncs(&format!("filter={everything}")).await["rooms"]["leave"].clone();
        if left.is_null() {
            break;
        }
    }
    assert!(left.is_null(), "{left}");
    for room in &rooms {
        bob.in_room(room, "messages?dir=b").await.refused(403, "M_FORBIDDEN");
    }
    bob.joins(&rooms[1]).await.good();
    assert!(joined(&bob.syncs("").await, &rooms[1]).is_object());
}
