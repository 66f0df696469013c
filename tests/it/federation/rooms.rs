//! A room that two servers share: what one says the other takes in, and where they speak at once both come to the same.
//!
//! The second server's join and what goes between the two are carried by hand here, so that the order of arrival is the
//! test's to choose.

use std::{collections::BTreeMap, sync::Arc};

use hearth_rules::{
    event::{Draft, Pdu, Reference},
    versions::RoomVersion,
};
use hearth_service::events::{Arrival, Entry, With};
use hearth_store::{events::StoredEvent, rooms::Room};
use ruma::{EventId, OwnedEventId, RoomId, UserId, events::TimelineEventType};
use serde_json::{Value, json, value::RawValue};

use super::{
    joining::joins_through,
    support::{Peer, Peers},
};
use crate::support::{
    User,
    rooms::{encoded, txn},
};

/// One server's side of the room.
struct Side<'a> {
    peer: &'a Peer,
    room_id: String,
}

impl Side<'_> {
    async fn room(&self) -> Arc<Room> {
        let store = &self.peer.services().store;
        let nid = store.room_nid(<&RoomId>::try_from(self.room_id.as_str()).unwrap()).await.unwrap().unwrap();
        store.room(nid).await.unwrap().unwrap()
    }

    async fn state(&self) -> BTreeMap<(String, String), OwnedEventId> {
        let store = &self.peer.services().store;
        let map = store.snapshot(self.room().await.head.snap).await.unwrap();
        let mut named = BTreeMap::new();
        for nid in map.values() {
            let event = store.event(*nid).await.unwrap().unwrap();
            let key = (event.pdu.event_type().to_string(), event.pdu.state_key().unwrap().to_owned());
            named.insert(key, event.event_id().to_owned());
        }
        named
    }

    async fn event(&self, event_id: &str) -> Arc<StoredEvent> {
        let event_id = <&EventId>::try_from(event_id).unwrap();
        self.peer.services().store.event_by_id(event_id).await.unwrap().unwrap()
    }

    /// Hands events over to the other side, as a transaction would.
    async fn tells(&self, other: &Side<'_>, events: &[&str]) {
        let mut raw = Vec::new();
        for event_id in events {
            raw.push(RawValue::from_string(self.event(event_id).await.pdu.json().to_owned()).unwrap());
        }
        let answers = other.peer.services().inbox.receive(self.peer.name(), raw).await.unwrap();
        for event_id in events {
            assert_eq!(answers[<&EventId>::try_from(*event_id).unwrap()], Ok(()), "{event_id}");
        }
    }

    /// A member event that another server's user would send here.
    async fn join_of(&self, other: &Peer, user: &UserId) -> Pdu {
        let room = self.room().await;
        let version = RoomVersion::known(&room.version).unwrap();
        let content = json!({"membership": "join"});
        let draft = Draft::of(
            Some(room.room_id.clone()),
            user.to_owned(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            &content,
            other.clock().now_ms(),
        )
        .unwrap();
        let state = self.state().await;
        let mut auth: Vec<Reference> = Vec::new();
        for (event_type, key) in draft.auth_keys(version).unwrap() {
            if let Some(event_id) = state.get(&(event_type.to_string(), key)) {
                auth.push(self.event(event_id.as_str()).await.pdu.reference(version));
            }
        }
        let prev: Vec<Reference> = room.head.extremities.iter().map(|e| e.event.clone()).collect();
        let depth = room.head.depth.unsigned_abs() + 1;
        draft.build(version, &prev, depth, &auth, other.services().events.signer()).unwrap()
    }
}

/// A room of `here` with a user of `there` in it.
async fn shared<'a>(here: &'a Peer, there: &'a Peer, alice: &User, bob: &User, body: Value) -> (Side<'a>, Side<'a>) {
    let room_id = alice.creates(body).await;
    let ours = Side { peer: here, room_id: room_id.clone() };
    let bob_id = <&UserId>::try_from(bob.id.as_str()).unwrap();
    let join = ours.join_of(there, bob_id).await;
    let before = ours.state().await;
    let room = ours.room().await;
    here.services().inbox.place(there.name(), room.nid, join.clone()).await.unwrap();

    let services = there.services();
    let creator = services.store.intern_user(<&UserId>::try_from(alice.id.as_str()).unwrap()).await.unwrap();
    let nid = services.store.make_stub_room(room.room_id.clone(), room.version.clone(), creator, 0).await.unwrap();
    let mut raw = Vec::new();
    for event_id in before.values() {
        raw.push(RawValue::from_string(ours.event(event_id.as_str()).await.pdu.json().to_owned()).unwrap());
    }
    let state = services.outliers.take_in(nid, raw).await.unwrap().found;
    assert_eq!(state.len(), before.len());
    let version = RoomVersion::known(&room.version).unwrap();
    let mut auth: Vec<OwnedEventId> = join.auth_events().to_vec();
    if version.room_id_is_create_hash() {
        auth.extend(hearth_rules::auth::create_event_id(&join));
    }
    let arrival = Arrival {
        nid: services.store.new_event_nid().await.unwrap(),
        known: false,
        auth: auth.iter().map(|id| state[id].nid).collect(),
        rejected: None,
        refused: false,
        states: Vec::new(),
        whole: false,
        missing: join.prev_events().to_vec(),
        referenced: false,
        history: false,
        relay: false,
        told: false,
        in_part: false,
        of_stranger: false,
        with: With::default(),
        pdu: Arc::new(join),
    };
    let entry =
        Entry { state: state.values().map(|o| o.nid).collect(), join: arrival, part: None, unstored: Vec::new() };
    services.events.enter(nid, entry).await.unwrap();
    (ours, Side { peer: there, room_id })
}

async fn says(user: &User, room_id: &str, body: &str) -> String {
    let path = format!("send/m.room.message/{}", txn());
    let path = format!("/_matrix/client/v3/rooms/{}/{path}", encoded(room_id));
    user.put(&path, json!({"msgtype": "m.text", "body": body})).await.good()["event_id"].as_str().unwrap().to_owned()
}

async fn sets(user: &User, room_id: &str, event_type: &str, content: Value) -> String {
    let path = format!("/_matrix/client/v3/rooms/{}/state/{event_type}", encoded(room_id));
    user.put(&path, content).await.good()["event_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn both_hear_each_other_and_agree_after_a_fork() {
    for version in ["1", "2", "3", "6", "9", "10", "11", "12"] {
        let [here, there] = Peers::two().await;
        let (alice, bob) = (here.user("alice").await, there.user("bob").await);
        let levels = json!({"users": {alice.id.as_str(): 100, bob.id.as_str(): 50}});
        let levels = if version == "12" { json!({"users": {bob.id.as_str(): 50}}) } else { levels };
        let body = json!({"preset": "public_chat", "room_version": version, "power_level_content_override": levels});
        let (ours, theirs) = shared(&here, &there, &alice, &bob, body).await;
        assert_eq!(ours.state().await, theirs.state().await);
        let synced = bob.get("/_matrix/client/v3/sync").await.good();
        let seen = &synced["rooms"]["join"][ours.room_id.as_str()];
        assert_eq!(seen["summary"]["m.joined_member_count"], 2, "{synced}");

        // One after the other.
        let hello = says(&alice, &ours.room_id, "hello").await;
        ours.tells(&theirs, &[&hello]).await;
        let since = synced["next_batch"].as_str().unwrap();
        let synced = bob.get(&format!("/_matrix/client/v3/sync?since={since}")).await.good();
        let timeline = &synced["rooms"]["join"][ours.room_id.as_str()]["timeline"]["events"];
        assert_eq!(timeline[0]["content"]["body"], "hello", "{synced}");
        let answer = says(&bob, &ours.room_id, "hello yourself").await;
        theirs.tells(&ours, &[&answer]).await;
        assert_eq!(ours.room().await.head.extremities.len(), 1);

        // Both at once, while nothing goes between them by itself: two branches, which both servers resolve to the same.
        here.goes_away();
        there.goes_away();
        let here_topic = sets(&alice, &ours.room_id, "m.room.topic", json!({"topic": "here"})).await;
        let there_topic = sets(&bob, &ours.room_id, "m.room.topic", json!({"topic": "there"})).await;
        let name = sets(&bob, &ours.room_id, "m.room.name", json!({"name": "there"})).await;
        ours.tells(&theirs, &[&here_topic]).await;
        theirs.tells(&ours, &[&there_topic, &name]).await;
        assert_eq!(ours.state().await, theirs.state().await, "version {version}");
        let topic = ours.state().await[&("m.room.topic".to_owned(), String::new())].to_string();
        assert!([&here_topic, &there_topic].contains(&&topic));
        for (user, side) in [(&alice, &ours), (&bob, &theirs)] {
            let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.topic", encoded(&side.room_id));
            let shown = user.get(&path).await.good();
            assert_eq!(shown["topic"], if topic == here_topic { "here" } else { "there" });
            assert_eq!(side.room().await.head.extremities.len(), 2);
        }
        // The next event brings the branches together.
        let last = says(&alice, &ours.room_id, "together").await;
        ours.tells(&theirs, &[&last]).await;
        assert_eq!(theirs.room().await.head.extremities.len(), 1);
        assert_eq!(ours.state().await, theirs.state().await);

        // A ban here and words there, at once: the words come to nothing here, and the ban holds there.
        let ban = json!({"user_id": bob.id});
        alice.post(&format!("/_matrix/client/v3/rooms/{}/ban", encoded(&ours.room_id)), ban).await.good();
        let late = says(&bob, &ours.room_id, "but").await;
        theirs.tells(&ours, &[&late]).await;
        let late = ours.event(&late).await;
        assert_eq!(late.standing, hearth_store::events::Standing::SoftFailed);
        let ban = ours.room().await.head.extremities[0].event_id().to_string();
        ours.tells(&theirs, &[&ban]).await;
        assert_eq!(ours.state().await, theirs.state().await, "version {version}");
        let joined = bob.get("/_matrix/client/v3/joined_rooms").await.good();
        assert_eq!(joined["joined_rooms"], json!([]));
    }
}

/// Who is joined to a room at a place of its history, as a user sees it.
async fn joined_at(asked: &User, room_id: &str, token: &str) -> Vec<String> {
    let path = format!("members?membership=join&at={}", encoded(token));
    let members = asked.in_room(room_id, &path).await.good();
    let mut names: Vec<String> = members["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["state_key"].as_str().unwrap().split_once(':').unwrap().0.to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_members_of_then_are_those_of_all_branches() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let (carol, dave) = (here.user("carol").await, there.user("dave").await);
    let (ours, theirs) = shared(&here, &there, &alice, &bob, json!({ "preset": "public_chat" })).await;
    let room = ours.room_id.as_str();
    let before = [alice.now().await, bob.now().await];
    here.goes_away();
    there.goes_away();
    carol.joins(room).await.good();
    let carols = ours.state().await[&("m.room.member".to_owned(), carol.id.to_string())].to_string();
    let between = alice.now().await;
    dave.joins(room).await.good();
    let daves = theirs.state().await[&("m.room.member".to_owned(), dave.id.to_string())].to_string();
    let mut said = vec![daves];
    for text in ["one", "two"] {
        said.push(says(&bob, room, text).await);
    }
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    theirs.tells(&ours, &said).await;
    ours.tells(&theirs, &[&carols]).await;
    let now = [alice.now().await, bob.now().await];
    // What is newest stands on a branch, on either side another.
    let all = ["@alice", "@bob", "@carol", "@dave"];
    assert_eq!(joined_at(&alice, room, &now[0]).await, all);
    assert_eq!(joined_at(&bob, room, &now[1]).await, all);
    let newest = &alice.pages(room, "dir=b&limit=1").await["start"];
    assert_eq!(joined_at(&alice, room, newest.as_str().unwrap()).await, all);
    // What changes later changes nothing of it, and what was before is as it was.
    alice.does_to(room, "kick", &carol).await.good();
    says(&alice, room, "together").await;
    assert_eq!(joined_at(&alice, room, &now[0]).await, all);
    assert_eq!(joined_at(&alice, room, &between).await, ["@alice", "@bob", "@carol"]);
    assert_eq!(joined_at(&alice, room, &before[0]).await, ["@alice", "@bob"]);
    assert_eq!(joined_at(&bob, room, &before[1]).await, ["@alice", "@bob"]);
    // Who is out of the room sees nothing of what came after.
    assert_eq!(joined_at(&carol, room, &alice.now().await).await, ["@alice", "@bob", "@dave"]);
    assert_eq!(joined_at(&carol, room, &between).await, ["@alice", "@bob", "@carol"]);
}

#[tokio::test]
async fn the_members_of_then_are_not_those_who_came_behind_our_back() {
    let [here, there] = Peers::two().await;
    let (alice, carol, bob) = (here.user("alice").await, here.user("carol").await, there.user("bob").await);
    let room = alice.opens().await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let then = bob.now().await;
    bob.leaves(&room).await.good();
    carol.joins(&room).await.good();
    bob.joins(&room).await.good();
    assert_eq!(joined_at(&bob, &room, &bob.now().await).await, ["@alice", "@bob", "@carol"]);
    assert_eq!(joined_at(&bob, &room, &then).await, ["@alice", "@bob"]);
}

#[tokio::test]
async fn bad_events_cost_nobody_else_anything() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let (ours, theirs) = shared(&here, &there, &alice, &bob, json!({"preset": "public_chat"})).await;
    let first = says(&bob, &ours.room_id, "first").await;
    theirs.tells(&ours, &[&first]).await;
    here.goes_away();
    there.goes_away();
    let good = says(&bob, &ours.room_id, "good").await;
    let event = theirs.event(&good).await;
    let raw = |text: String| RawValue::from_string(text).unwrap();
    let bad = [
        event.pdu.json().replace("\"depth\":", "\"depth\":-"),
        event.pdu.json().replace(bob.id.as_str(), alice.id.as_str()),
        event.pdu.json().replace("\"auth_events\":[", "\"auth_events\":[5,"),
        "{}".to_owned(),
        "[]".to_owned(),
        format!("{{\"room_id\":\"{}\"}}", ours.room_id),
    ];
    // Not signed by a key of the sender: refused, and welcome when it comes as it was sent.
    let unsigned = raw(event.pdu.json().replace("ed25519:", "ed25519:x"));
    let answers = here.services().inbox.receive(there.name(), vec![unsigned]).await.unwrap();
    assert!(answers[event.event_id()].is_err());
    let raws = bad.into_iter().chain([event.pdu.json().to_owned()]).map(raw).collect();
    let answers = here.services().inbox.receive(there.name(), raws).await.unwrap();
    assert_eq!(answers[event.event_id()], Ok(()));
    assert_eq!(answers.values().filter(|a| a.is_ok()).count(), 1, "{answers:?}");
    // Content that is not what was hashed is taken away.
    let second = says(&bob, &ours.room_id, "not this").await;
    let event = theirs.event(&second).await;
    let forged = raw(event.pdu.json().replace("not this", "but that"));
    here.services().inbox.receive(there.name(), vec![forged]).await.unwrap();
    assert_eq!(ours.event(&second).await.pdu.content_json(), "{}");
}
