//! Invites and knocks between servers: taken, turned down, withdrawn, refused.

use std::{sync::Arc, time::Duration};

use axum::response::IntoResponse;
use futures_util::FutureExt;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    hostile::as_json,
    joining::{joins_through, lie, membership},
    support::{Peer, Peers, Told, Trick},
};
use crate::support::{
    User,
    rooms::{V3, encoded, state_of},
};

/// Invites a user of another server.
async fn invited(alice: &User, version: &str, whom: &User) -> String {
    let room = alice.creates(json!({ "room_version": version, "name": "Private" })).await;
    alice.invites(&room, whom).await.good();
    room
}

#[tokio::test]
async fn an_invite_is_shown_and_taken() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    for version in ["1", "3", "6", "9", "10", "11", "12"] {
        let since = bob.now().await;
        let room = invited(&alice, version, &bob).await;
        assert_eq!(membership(&alice, &room, &bob).await, "invite");
        let news = bob.syncs_since(&since).await;
        let shown = &news["rooms"]["invite"][&room]["invite_state"]["events"];
        assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Private", "{news}");
        let own = state_of(shown, "m.room.member", bob.id.as_str()).unwrap();
        assert_eq!((&own["content"]["membership"], &own["sender"]), (&json!("invite"), &json!(alice.id)));
        assert!(state_of(shown, "m.room.create", "").is_some());
        assert!(own["signatures"].is_null() && own["event_id"].is_null(), "clients see stripped events: {own}");
        bob.in_room(&room, "state").await.refused(403, "M_FORBIDDEN");
        bob.in_room(&room, "messages?dir=b").await.refused(403, "M_FORBIDDEN");
        // Who invited says where the room is.
        bob.joins(&room).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        assert_eq!(membership(&bob, &room, &alice).await, "join");
    }
}

#[tokio::test]
async fn what_one_noted_of_a_room_is_there_when_one_comes_in() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    for version in ["1", "10", "12"] {
        let room = alice.creates(json!({ "room_version": version, "name": "Private" })).await;
        let since = bob.now().await;
        let of = |user: &User, rest: &str| {
            format!("{V3}/user/{}/rooms/{}/{rest}", encoded(user.id.as_str()), encoded(&room))
        };
        // There nobody has heard of the room.
        let (data, tags) = (of(&bob, "account_data/org.example"), of(&bob, "tags"));
        bob.get(&data).await.refused(404, "M_NOT_FOUND");
        assert_eq!(bob.get(&tags).await.good()["tags"], json!({}));
        bob.delete(&of(&bob, "tags/u.later"), json!({})).await.good();
        bob.put(&data, json!({ "a": 1 })).await.good();
        bob.put(&of(&bob, "tags/u.later"), json!({ "order": 0.5 })).await.good();
        assert_eq!(bob.get(&data).await.good(), json!({ "a": 1 }));
        assert_eq!(bob.get(&tags).await.good()["tags"]["u.later"]["order"], 0.5);
        // It opens no door.
        bob.syncs_since(&since).await;
        for rest in ["state", "members", "messages?dir=b"] {
            bob.in_room(&room, rest).await.refused(403, "M_FORBIDDEN");
        }
        bob.sends(&room, "m.room.message", "t", json!({ "body": "?" })).await.refused(403, "M_FORBIDDEN");
        bob.leaves(&room).await.refused(404, "M_NOT_FOUND");
        bob.post_in_room(&room, "forget", json!({})).await.refused(403, "M_FORBIDDEN");
        // Invites are of the version that the room has, turned down or taken.
        for guest in [&carol, &bob] {
            alice.invites(&room, guest).await.good();
        }
        carol.leaves(&room).await.good();
        assert_eq!(membership(&alice, &room, &carol).await, "leave");
        bob.joins(&room).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        // Until all members are there the room is not shown to who wants them.
        bob.in_room(&room, "members").await.good();
        let news = bob.syncs_since(&since).await;
        let shown = &news["rooms"]["join"][&room]["account_data"]["events"];
        let content = |kind: &str| {
            let found = shown.as_array().into_iter().flatten().find(|e| e["type"] == kind);
            found.unwrap_or_else(|| panic!("no {kind} in {news}"))["content"].clone()
        };
        assert_eq!(content("org.example"), json!({ "a": 1 }));
        assert_eq!(content("m.tag")["tags"]["u.later"]["order"], 0.5);
    }
}

#[tokio::test]
async fn an_invite_is_turned_down_even_if_nobody_hears_of_it() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = invited(&alice, "10", &bob).await;
    let since = bob.now().await;
    bob.leaves(&room).await.good();
    assert_eq!(membership(&alice, &room, &bob).await, "leave");
    let news = bob.syncs_since(&since).await;
    assert!(news["rooms"]["leave"][&room].is_object() && news["rooms"]["invite"].is_null(), "{news}");
    joins_through(&bob, &room, &[here.name().as_str()]).await.refused(403, "M_FORBIDDEN");
    // Again, and nobody is there to be told.
    alice.invites(&room, &bob).await.good();
    let since = bob.now().await;
    here.goes_away();
    bob.leaves(&room).await.good();
    let news = bob.syncs_since(&since).await;
    assert!(news["rooms"]["leave"][&room].is_object(), "{news}");
    assert!(bob.syncs("").await["rooms"]["invite"].is_null());
    here.comes_back();
    bob.post_in_room(&room, "forget", json!({})).await.good();
}

/// Wherever the room is, an invite is among what one was notified of, once.
#[tokio::test]
async fn an_invite_from_elsewhere_is_among_the_notifications() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let notified = async || bob.get(&format!("{V3}/notifications")).await.good()["notifications"].clone();
    assert_eq!(notified().await, json!([]));
    let room = invited(&alice, "12", &bob).await;
    let list = notified().await;
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!((&list[0]["room_id"], &list[0]["read"]), (&json!(room), &json!(false)));
    assert_eq!((&list[0]["event"]["type"], &list[0]["event"]["sender"]), (&json!("m.room.member"), &json!(alice.id)));
    assert_eq!(list[0]["actions"], json!(["notify", { "set_tweak": "sound", "value": "default" }]));
    // Its server sends it again if it has not heard our answer.
    let (path, again) =
        invitation(&here, &alice, "!other:x.org", bob.id.as_str(), json!({ "membership": "invite" })).await;
    for _ in 0..2 {
        let body = json!({ "room_version": "10", "event": again, "invite_room_state": [] });
        here.calls(&there, Method::PUT, &path, Some(body)).await.good();
    }
    assert_eq!(notified().await.as_array().unwrap().len(), 2);
    // Who is in has read it.
    bob.joins(&room).await.good();
    bob.in_room(&room, "members").await.good();
    let sync = bob.syncs("").await;
    assert_eq!(sync["rooms"]["join"][&room]["unread_notifications"]["notification_count"], 0, "{sync}");
    // Who wants to hear of no invites does not.
    let rule = format!("{V3}/pushrules/global/override/.m.rule.invite_for_me/enabled");
    bob.put(&rule, json!({ "enabled": false })).await.good();
    let before = notified().await.as_array().unwrap().len();
    invited(&alice, "10", &bob).await;
    assert_eq!(notified().await.as_array().unwrap().len(), before);
}

#[tokio::test]
async fn a_new_room_invites_users_of_other_servers() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, here.user("carol").await);
    let nobody = format!("@nobody:{}", there.name());
    let body = json!({ "preset": "trusted_private_chat", "is_direct": true, "invite": [bob.id, carol.id, nobody] });
    let room = alice.creates(body).await;
    for guest in [&bob, &carol] {
        let sync = guest.syncs("").await;
        let shown = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
        let own = state_of(shown, "m.room.member", guest.id.as_str()).unwrap();
        assert_eq!(own["content"]["is_direct"], true, "{sync}");
    }
    alice.reads(&room, "m.room.member", &nobody).await.refused(404, "M_NOT_FOUND");
    bob.joins(&room).await.good();
    assert_eq!(membership(&alice, &room, &bob).await, "join");
    alice.post_in_room(&room, "invite", json!({ "user_id": nobody })).await.refused(403, "M_FORBIDDEN");
    alice.post_in_room(&room, "invite", json!({ "user_id": "@x:127.0.0.9:1" })).await.refused(502, "M_UNKNOWN");
    // As state, it goes the same way.
    let dave = there.user("dave").await;
    alice.sets(&room, "m.room.member", dave.id.as_str(), json!({ "membership": "invite" })).await.good();
    assert!(dave.syncs("").await["rooms"]["invite"][&room].is_object());
}

#[tokio::test]
async fn who_wants_no_invites_gets_none() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, here.user("carol").await);
    let path = |user: &User| format!("{V3}/user/{}/account_data/m.invite_permission_config", encoded(user.id.as_str()));
    for guest in [&bob, &carol] {
        guest.put(&path(guest), json!({ "default_action": "block" })).await.good();
    }
    let room = alice.creates(json!({})).await;
    alice.invites(&room, &bob).await.refused(403, "M_INVITE_BLOCKED");
    alice.invites(&room, &carol).await.refused(403, "M_INVITE_BLOCKED");
    assert!(bob.syncs("").await["rooms"]["invite"].is_null());
    bob.put(&path(&bob), json!({})).await.good();
    alice.invites(&room, &bob).await.good();
    assert!(bob.syncs("").await["rooms"]["invite"][&room].is_object());
    let closed = Peers::one(5, |plan| plan.services(|s| s.membership.block_non_admin_invites = true)).await;
    let dave = closed.user("dave").await;
    alice.invites(&room, &dave).await.refused(403, "M_FORBIDDEN");
    for whom in [&alice.id, &closed.user("erin").await.id] {
        dave.post(&format!("{V3}/createRoom"), json!({ "invite": [whom] })).await.refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn a_knock_is_heard_and_answered() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    for version in ["7", "10", "12"] {
        let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
        let room = alice.creates(json!({ "room_version": version, "name": "Door", "initial_state": rules })).await;
        let knock = |user: &User| {
            let path = format!("{V3}/knock/{}?via={}", encoded(&room), encoded(here.name().as_str()));
            let user = user.clone();
            async move { user.post(&path, json!({ "reason": "let me in" })).await }
        };
        assert_eq!(knock(&bob).await.good()["room_id"], room);
        assert_eq!(membership(&alice, &room, &bob).await, "knock");
        let sync = bob.syncs("").await;
        let shown = &sync["rooms"]["knock"][&room]["knock_state"]["events"];
        assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Door", "{sync}");
        assert_eq!(state_of(shown, "m.room.member", bob.id.as_str()).unwrap()["content"]["reason"], "let me in");
        // Let in.
        alice.invites(&room, &bob).await.good();
        let sync = bob.syncs("").await;
        assert!(sync["rooms"]["knock"].is_null() && sync["rooms"]["invite"][&room].is_object(), "{sync}");
        bob.joins(&room).await.good();
        // Taken back: this server is in the room by now, so nobody needs to be asked.
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "t" })).await.good();
        drop(carol.leaves(&room).await);
    }
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    let path = format!("{V3}/knock/{}?via={}", encoded(&room), encoded(here.name().as_str()));
    carol.post(&path, json!({})).await.refused(403, "M_FORBIDDEN");
}

/// What a server shows of a room that is knocked at is left out if it claims to be an event and is none (spec v1.16).
#[tokio::test]
async fn what_a_knock_is_shown_is_true_or_not_shown() {
    type Change = fn(&mut Value);
    let [here, there] = Peers::two().await;
    let alice = here.user("alice").await;
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let body = json!({ "initial_state": rules, "name": "Door", "topic": "True" });
    let room = alice.creates(body).await;
    let path = format!("{V3}/knock/{}?via={}", encoded(&room), encoded(here.name().as_str()));
    let knocks: [(&str, Change, Option<Value>); 4] = [
        ("bob", |_| {}, Some(json!({ "name": "Door" }))),
        ("carol", |name| name["signatures"] = json!({}), None),
        ("dave", |name| name["content"]["name"] = json!("Trap"), Some(json!({}))),
        // Older servers show four fields of each.
        (
            "erin",
            |name| {
                for field in
                    ["auth_events", "depth", "hashes", "origin_server_ts", "prev_events", "room_id", "signatures"]
                {
                    name.as_object_mut().unwrap().remove(field);
                }
            },
            Some(json!({ "name": "Door" })),
        ),
    ];
    for (user, change, seen) in knocks {
        here.lies(Some(lie("/send_knock/", move |answer| {
            let shown = answer["knock_room_state"].as_array_mut().unwrap();
            change(shown.iter_mut().find(|e| e["type"] == "m.room.name").unwrap());
        })));
        let user = there.user(user).await;
        user.post(&path, json!({})).await.good();
        let sync = user.syncs("").await;
        let shown = &sync["rooms"]["knock"][&room]["knock_state"]["events"];
        assert_eq!(state_of(shown, "m.room.name", "").map(|e| e["content"].clone()), seen, "{sync}");
        assert_eq!(state_of(shown, "m.room.topic", "").unwrap()["content"]["topic"], "True", "{sync}");
    }
}

#[tokio::test]
async fn a_knock_is_taken_back() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.creates(json!({ "initial_state": rules })).await;
    let path = format!("{V3}/knock/{}?server_name={}", encoded(&room), encoded(here.name().as_str()));
    bob.post(&path, json!({})).await.good();
    bob.leaves(&room).await.good();
    assert_eq!(membership(&alice, &room, &bob).await, "leave");
    assert!(bob.syncs("").await["rooms"]["knock"].is_null());
}

/// An invite as its server would send it.
async fn invitation(there: &Peer, inviter: &User, room: &str, whom: &str, content: Value) -> (String, Value) {
    invitation_in("10", there, inviter, room, whom, content).await
}

async fn invitation_in(
    version: &str,
    there: &Peer,
    inviter: &User,
    room: &str,
    whom: &str,
    content: Value,
) -> (String, Value) {
    use hearth_rules::{Draft, RoomVersion};
    let draft = Draft::of(
        Some(room.try_into().unwrap()),
        inviter.id.clone(),
        "m.room.member".into(),
        Some(whom.to_owned()),
        &content,
        there.clock().now_ms(),
    );
    let (before, signer) = ([serde_json::from_value(json!("$x")).unwrap()], there.services().server_keys.signer());
    let pdu = draft.unwrap().build(RoomVersion::get(version).unwrap(), &before, 3, &before, signer).unwrap();
    let path = format!("/_matrix/federation/v2/invite/{}/{}", encoded(room), encoded(pdu.event_id().as_str()));
    (path, serde_json::from_str(pdu.json()).unwrap())
}

#[tokio::test]
async fn what_is_no_invite_is_not_signed() {
    let [here, there] = Peers::two().await;
    let (alice, mallory) = (here.user("alice").await, there.user("mallory").await);
    let room = format!("!made-up:{}", there.name());
    let invite = json!({ "membership": "invite" });
    let put = |path: String, body: Value| {
        let (here, there) = (here.clone(), there.clone());
        async move { there.calls(&here, Method::PUT, &path, Some(body)).await }
    };
    let (path, good) = invitation(&there, &mallory, &room, alice.id.as_str(), invite.clone()).await;
    let body = |version: &str, event: &Value| json!({ "room_version": version, "event": event });
    let told = put(path.clone(), body("99", &good)).await.refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(told["room_version"], "99");
    put(path.clone(), body("12", &good)).await.refused(400, "M_INVALID_PARAM");
    let elsewhere = path.replace(&encoded(&room), &encoded("!other:x.org"));
    put(elsewhere, body("10", &good)).await.refused(400, "M_INVALID_PARAM");
    let mut forged = good.clone();
    forged["origin_server_ts"] = json!(5);
    put(path.clone(), body("10", &forged)).await.refused(400, "M_INVALID_PARAM");
    let mut unsigned = good.clone();
    unsigned["signatures"] = json!({});
    put(path.clone(), body("10", &unsigned)).await.refused(403, "M_FORBIDDEN");
    let mut loose = good.clone();
    loose["content"]["weight"] = json!(1.5);
    put(path.clone(), body("10", &loose)).await.refused(400, "M_BAD_JSON");
    let too_much = json!({ "room_version": "10", "event": good, "invite_room_state": vec![json!({}); 200] });
    put(path.clone(), too_much).await.refused(400, "M_INVALID_PARAM");
    put(path.clone(), json!({ "room_version": "10" })).await.refused(400, "M_BAD_JSON");
    for (whom, content) in [
        (format!("@nobody:{}", here.name()), invite.clone()),
        ("@x:elsewhere.org".to_owned(), invite.clone()),
        (alice.id.to_string(), json!({ "membership": "join" })),
        (alice.id.to_string(), json!({ "membership": "ban" })),
    ] {
        let (path, event) = invitation(&there, &mallory, &room, &whom, content.clone()).await;
        let told = put(path, body("10", &event)).await;
        assert!(matches!(told.status, 400 | 403), "{whom} {content}: {told:?}");
        assert!(told.body["event"].is_null());
    }
    assert!(alice.syncs("").await["rooms"]["invite"].is_null());
    // What is one is signed by both, whatever else is shown of the room.
    let shown = json!([
        { "type": "m.room.name", "state_key": "", "sender": mallory.id, "content": { "name": "Trap" } },
        { "type": "m.room.topic" }, 7, "x",
    ]);
    let event =
        put(path.clone(), json!({ "room_version": "10", "event": good, "invite_room_state": shown })).await.good();
    let signatures = event["event"]["signatures"].as_object().unwrap();
    assert!(signatures.contains_key(here.name().as_str()) && signatures.contains_key(there.name().as_str()));
    let sync = alice.syncs("").await;
    let shown = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
    assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Trap");
    assert_eq!(shown.as_array().unwrap().len(), 2);
    // The first form is for the first versions, whose ids are not hashes.
    put(path.replace("v2", "v1"), good).await.refused(400, "M_INVALID_PARAM");
    // There is no such room; the invite goes all the same.
    alice.joins(&room).await.refused(404, "M_NOT_FOUND");
    alice.leaves(&room).await.good();
    assert!(alice.syncs("").await["rooms"]["invite"].is_null());
}

/// Invites to a room of version 12 and shows this of it.
async fn shows([there, here]: [&Peer; 2], inviter: &User, room: &str, whom: &User, shown: &Value) -> Told {
    let content = json!({ "membership": "invite" });
    let (path, invite) = invitation_in("12", there, inviter, room, whom.id.as_str(), content).await;
    let body = json!({ "room_version": "12", "event": invite, "invite_room_state": shown });
    there.calls(here, Method::PUT, &path, Some(body)).await
}

#[tokio::test]
async fn what_is_shown_of_a_room_is_checked_if_it_can_be() {
    let [here, there] = Peers::two().await;
    let (alice, carol) = (here.user("alice").await, there.user("carol").await);
    let room = carol.creates(json!({ "room_version": "12", "name": "Real" })).await;
    let mut events = Vec::new();
    for id in carol.in_room(&room, "state").await.good().as_array().unwrap() {
        let id = id["event_id"].as_str().unwrap().try_into().unwrap();
        let event = there.services().store.event_by_id(id).await.unwrap().unwrap();
        events.push(serde_json::from_str::<Value>(event.pdu.json()).unwrap());
    }
    let of = |kind: &str| events.iter().find(|e| e["type"] == kind).unwrap().clone();
    let (create, name) = (of("m.room.create"), of("m.room.name"));
    let strip = |event: &Value| {
        let (kind, sender, content) = (&event["type"], &event["sender"], &event["content"]);
        json!({ "type": kind, "state_key": "", "sender": sender, "content": content })
    };
    let mut unsigned = name.clone();
    unsigned["signatures"] = json!({});
    let other = carol.creates(json!({ "room_version": "12" })).await;
    let mut elsewhere = name.clone();
    elsewhere["room_id"] = json!(other);
    // Whoever shows events must show true ones, and what the room is.
    for shown in [
        json!([name]),
        json!([create, unsigned]),
        json!([create, elsewhere]),
        json!([create, strip(&name)]),
        json!([create, 7]),
    ] {
        shows([&there, &here], &carol, &room, &alice, &shown).await.refused(400, "M_INVALID_PARAM");
        assert!(alice.syncs("").await["rooms"]["invite"].is_null(), "{shown}");
    }
    // What no signature is about, and was changed on the way, is not shown.
    let mut altered = name.clone();
    altered["content"]["name"] = json!("Trap");
    let grace = here.user("grace").await;
    shows([&there, &here], &carol, &room, &grace, &json!([create, altered])).await.good();
    let sync = grace.syncs("").await;
    let seen = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
    assert_eq!(state_of(seen, "m.room.name", "").unwrap()["content"], json!({}), "{seen}");
    // Servers that know nothing of that show what they always did.
    let cases = [
        json!([]),
        json!([strip(&name)]),
        json!([strip(&create)]),
        json!([strip(&create), strip(&name)]),
        json!([create, name]),
    ];
    for (user, shown) in ["bob", "dave", "erin", "frank", "heidi"].into_iter().zip(cases) {
        let user = here.user(user).await;
        shows([&there, &here], &carol, &room, &user, &shown).await.good();
        let sync = user.syncs("").await;
        let seen = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
        assert!(state_of(seen, "m.room.member", user.id.as_str()).is_some(), "{sync}");
        let count = shown.as_array().unwrap().len();
        assert_eq!(seen.as_array().unwrap().len(), 1 + count, "{seen}");
        let named = shown.as_array().unwrap().iter().any(|e| e["type"] == "m.room.name");
        assert_eq!(state_of(seen, "m.room.name", "").is_some(), named);
    }
}

/// What is shown of a room is checked by the keys of whoever sent it; an invite does not fail for those who are away.
#[tokio::test]
async fn an_invite_does_not_wait_for_third_servers() {
    let [here, there, third] = Peers::three().await;
    let (alice, carol, dave) = (here.user("alice").await, there.user("carol").await, third.user("dave").await);
    let room = carol.creates(json!({ "room_version": "12", "preset": "public_chat", "name": "Real" })).await;
    joins_through(&dave, &room, &[there.name().as_str()]).await.good();
    let mut levels = carol.reads(&room, "m.room.power_levels", "").await.good();
    levels["users"] = json!({ dave.id.as_str(): 50 });
    carol.sets(&room, "m.room.power_levels", "", levels).await.good();
    let topic = async {
        loop {
            let since = carol.now().await;
            let set = dave.sets(&room, "m.room.topic", "", json!({ "topic": "t" })).await;
            if set.status == 200 && carol.reads(&room, "m.room.topic", "").await.status == 200 {
                return;
            }
            carol.syncs(&format!("timeout=500&since={}", encoded(&since))).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), topic).await.expect("there is never a topic");
    third.goes_away();
    carol.invites(&room, &alice).await.good();
    let sync = alice.syncs("").await;
    let shown = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
    assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Real", "{sync}");
    assert!(state_of(shown, "m.room.create", "").is_some() && state_of(shown, "m.room.topic", "").is_none());
}

#[tokio::test]
async fn old_rooms_invite_in_the_old_way_where_nothing_else_is_known() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    // By the spec 400 and 404 say it, whatever the errcode.
    let refusals = [(400, "M_UNKNOWN"), (404, "M_NOT_FOUND"), (404, "M_UNRECOGNIZED")];
    for (version, (status, errcode)) in ["1", "2", "1"].into_iter().zip(refusals) {
        let refuses: Trick = Arc::new(move |path| {
            path.contains("/v2/invite/").then(|| {
                let body = json!({ "errcode": errcode, "error": "What?" });
                async move { (StatusCode::from_u16(status).unwrap(), as_json(body)).into_response() }.boxed()
            })
        });
        there.tricks(Some(refuses));
        let room = invited(&alice, version, &bob).await;
        let sync = bob.syncs("").await;
        let shown = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
        assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Private", "{sync}");
        bob.joins(&room).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
    }
    let newer = alice.creates(json!({ "room_version": "10" })).await;
    assert!(alice.invites(&newer, &bob).await.status.is_server_error());
}

/// The sync in which a room is left.
async fn hears_of(user: &User, since: &str, room: &str) -> Value {
    let news = async {
        loop {
            let sync = user.syncs(&format!("timeout=2000&since={}", encoded(since))).await;
            if sync["rooms"]["leave"][room].is_object() {
                return sync;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), news).await.expect("the room is never left")
}

#[tokio::test]
async fn who_was_invited_hears_that_it_was_withdrawn() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    for what in ["kick", "ban"] {
        let room = invited(&alice, "10", &bob).await;
        let since = bob.now().await;
        alice.does_to(&room, what, &bob).await.good();
        let news = hears_of(&bob, &since, &room).await;
        assert!(news["rooms"]["invite"].is_null(), "{news}");
        assert!(bob.syncs("").await["rooms"]["invite"].is_null());
        joins_through(&bob, &room, &[here.name().as_str()]).await.refused(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn who_knocked_hears_of_a_refusal() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.creates(json!({ "initial_state": rules })).await;
    let path = format!("{V3}/knock/{}?via={}", encoded(&room), encoded(here.name().as_str()));
    bob.post(&path, json!({})).await.good();
    let since = bob.now().await;
    alice.does_to(&room, "kick", &bob).await.good();
    hears_of(&bob, &since, &room).await;
    assert!(bob.syncs("").await["rooms"]["knock"].is_null());
    // And may knock again.
    bob.post(&path, json!({})).await.good();
    assert_eq!(membership(&alice, &room, &bob).await, "knock");
}

/// Whoever may do so answers, also if their server never said a word of the room before.
#[tokio::test]
async fn who_knocked_or_was_invited_hears_of_a_refusal_by_others() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.creates(json!({ "initial_state": rules })).await;
    alice.invites(&room, &carol).await.good();
    carol.joins(&room).await.good();
    let mut levels = alice.reads(&room, "m.room.power_levels", "").await.good();
    levels["users"][carol.id.as_str()] = json!(50);
    alice.sets(&room, "m.room.power_levels", "", levels.clone()).await.good();
    let raised = async {
        while carol.reads(&room, "m.room.power_levels", "").await.good() != levels {
            carol.syncs(&format!("timeout=2000&since={}", encoded(&carol.now().await))).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), raised).await.expect("carol never gets any power");
    let path = format!("{V3}/knock/{}?via={}", encoded(&room), encoded(here.name().as_str()));
    for what in ["knock", "invite"] {
        if what == "knock" {
            bob.post(&path, json!({})).await.good();
        } else {
            alice.invites(&room, &bob).await.good();
        }
        assert_eq!(seen_as(&carol, &room, &bob, what).await, what);
        let since = bob.now().await;
        carol.does_to(&room, "kick", &bob).await.good();
        hears_of(&bob, &since, &room).await;
        assert!(bob.syncs("").await["rooms"][what].is_null());
    }
}

/// A withdrawal counts once: whoever repeats it says nothing of a new invite.
#[tokio::test]
async fn an_old_withdrawal_ends_no_new_invite() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = invited(&alice, "10", &bob).await;
    let since = bob.now().await;
    alice.does_to(&room, "kick", &bob).await.good();
    hears_of(&bob, &since, &room).await;
    let left = alice.in_room(&room, "state").await.good();
    let id = state_of(&left, "m.room.member", bob.id.as_str()).unwrap()["event_id"].as_str().unwrap().to_owned();
    let leave = here.services().store.event_by_id((*id).try_into().unwrap()).await.unwrap().unwrap();
    let leave: Value = serde_json::from_str(leave.pdu.json()).unwrap();
    alice.invites(&room, &bob).await.good();
    let transaction = json!({ "origin": here.name(), "origin_server_ts": here.clock().now_ms(), "pdus": [leave] });
    here.calls(&there, Method::PUT, "/_matrix/federation/v1/send/again", Some(transaction)).await.good();
    assert!(bob.syncs("").await["rooms"]["invite"][&room].is_object());
}

/// What a user is in a room, once somebody there sees it so.
async fn seen_as(asked: &User, room: &str, whose: &User, wanted: &str) -> String {
    let seen = async {
        loop {
            let since = asked.now().await;
            let path = format!("state/m.room.member/{}", encoded(whose.id.as_str()));
            let answer = asked.in_room(room, &path).await;
            if answer.status == 200 && answer.body["membership"] == wanted {
                return wanted.to_owned();
            }
            asked.syncs(&format!("timeout=2000&since={}", encoded(&since))).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("never seen so")
}

#[tokio::test]
async fn nobody_else_withdraws_an_invite() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, mallory) = (here.user("alice").await, there.user("bob").await, third.user("mallory").await);
    let room = invited(&alice, "10", &bob).await;
    let (_, leave) = invitation(&third, &mallory, &room, bob.id.as_str(), json!({ "membership": "leave" })).await;
    let transaction = json!({ "origin": third.name(), "origin_server_ts": third.clock().now_ms(), "pdus": [leave] });
    third.calls(&there, Method::PUT, "/_matrix/federation/v1/send/withdraw", Some(transaction)).await.good();
    assert!(bob.syncs("").await["rooms"]["invite"][&room].is_object());
}

/// Whoever signs an invite answers in the JSON that the room's version asks for.
#[tokio::test]
async fn an_invite_is_signed_in_canonical_json() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    there.lies(Some(lie("/invite/", |answer| answer["event"]["content"]["weight"] = json!(1.5))));
    for (version, is_strict) in [("5", false), ("6", true), ("10", true), ("12", true)] {
        let room = alice.creates(json!({ "room_version": version })).await;
        let answer = alice.invites(&room, &bob).await;
        if is_strict {
            answer.refused(400, "M_BAD_JSON");
            alice.reads(&room, "m.room.member", bob.id.as_str()).await.refused(404, "M_NOT_FOUND");
        } else {
            answer.good();
        }
    }
}
