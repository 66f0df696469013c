//! Rooms joined with part of their state (MSC3902): usable at once, and whole a little later.

use std::{future::Future, time::Duration};

use hearth_rules::{Draft, RoomVersion, event::Reference};
use http::Method;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::{
    finding::publishes_keys,
    joining::{joins_through, lie, membership, state},
    resident::{completed, make, send},
    support::{Gate, Peer, Peers, Told},
};
use crate::support::{
    User,
    rooms::{V3, bodies, encoded, joined, state_of, types},
};

const V1: &str = "/_matrix/federation/v1";
const V2: &str = "/_matrix/federation/v2";
/// A filter for clients that load members when they need them.
const LAZY: &str = "filter=%7B%22room%22%3A%7B%22state%22%3A%7B%22lazy_load_members%22%3Atrue%7D%2C%22timeline%22%3A%7B%22lazy_load_members%22%3Atrue%7D%7D%7D";

/// Waits for something that happens by itself, for a while.
async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), happens).await.unwrap_or_else(|_| panic!("{what}: not in 30 s"))
}

/// Syncs lazily until a room of the answer is as wanted; gives it, and where the next sync begins.
async fn lazily(user: &User, since: &str, room: &str, wanted: impl Fn(&Value) -> bool) -> (Value, String) {
    soon("a lazy sync", async {
        let mut since = since.to_owned();
        loop {
            let from = if since.is_empty() { String::new() } else { format!("&since={}", encoded(&since)) };
            let sync = user.syncs(&format!("{LAZY}&timeout=5000{from}")).await;
            since = sync["next_batch"].as_str().unwrap().to_owned();
            let found = joined(&sync, room);
            if wanted(found) {
                return (found.clone(), since);
            }
        }
    })
    .await
}

/// Waits until a user sees a message in a room.
async fn sees(user: &User, room: &str, text: &str) {
    // An answer may say nothing of the room.
    let has = |found: &Value| found.is_object() && bodies(&found["timeline"]["events"]).contains(&text);
    lazily(user, "", room, has).await;
}

/// Whether a server lacks part of a room's state.
pub async fn is_partial(server: &Peer, room: &str) -> bool {
    let room = <&RoomId>::try_from(room).unwrap();
    server.services().state.room(room).await.unwrap().head.partial
}

/// Waits until a server has all of a room's state.
pub async fn is_whole(server: &Peer, room: &str) {
    let room = server.services().state.room(<&RoomId>::try_from(room).unwrap()).await.unwrap();
    soon("all of the state", server.services().state.whole(room.nid)).await.unwrap();
}

/// A room of `here` with some members, joined by bob from `there` while nobody tells its state.
struct Story {
    here: Peer,
    there: Peer,
    alice: User,
    dave: User,
    bob: User,
    room: String,
    gate: Gate,
}

impl Story {
    async fn begins() -> Self {
        let [here, there] = Peers::two().await;
        Self::between(here, there, &[]).await
    }

    async fn between(here: Peer, there: Peer, others: &[&User]) -> Self {
        let (alice, dave, bob) = (here.user("alice").await, here.user("dave").await, there.user("bob").await);
        let room = json!({ "preset": "public_chat", "room_version": "10", "name": "Large" });
        let room = alice.creates(room).await;
        dave.joins(&room).await.good();
        for other in others {
            joins_through(other, &room, &[here.name().as_str()]).await.good();
            other.in_room(&room, "members").await.good();
        }
        let gate = here.holds("/state_ids/");
        let story = Self { here, there, alice, dave, bob, room, gate };
        story.bob_joins().await;
        story
    }

    async fn bob_joins(&self) {
        joins_through(&self.bob, &self.room, &[self.here.name().as_str()]).await.good();
        assert!(is_partial(&self.there, &self.room).await);
    }

    /// All of the state comes, and is what it is where the room lives.
    async fn ends(&self) {
        self.gate.opens();
        is_whole(&self.there, &self.room).await;
        assert_eq!(state(&self.alice, &self.room).await, state(&self.bob, &self.room).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_usable_before_all_of_its_state_has_come() {
    let [here, there, third] = Peers::three().await;
    let carol = third.user("carol").await;
    let s = Story::between(here, there, &[&carol]).await;
    let eager = s.bob.now().await;
    // Who loads members lazily sees the room at once, who wants them all not yet.
    let (found, since) = lazily(&s.bob, "", &s.room, |found| !found.is_null()).await;
    assert_eq!(state_of(&found["state"]["events"], "m.room.name", "").unwrap()["content"]["name"], "Large");
    assert!(s.bob.syncs("").await["rooms"]["join"][&s.room].is_null());
    // What is said goes both ways, also to servers of which no member is known.
    s.bob.says(&s.room, "from bob").await;
    sees(&s.alice, &s.room, "from bob").await;
    sees(&carol, &s.room, "from bob").await;
    s.dave.says(&s.room, "from dave").await;
    let has = |found: &Value| found.is_object() && bodies(&found["timeline"]["events"]).contains(&"from dave");
    let (found, since) = lazily(&s.bob, &since, &s.room, has).await;
    let dave = state_of(&found["state"]["events"], "m.room.member", s.dave.id.as_str());
    assert_eq!(dave.unwrap()["content"]["membership"], "join", "who speaks is shown: {found}");
    let page =
        s.bob.pages(&s.room, &format!("dir=b&limit=5&filter={}", encoded(r#"{"lazy_load_members":true}"#))).await;
    assert!(state_of(&page["state"], "m.room.member", s.dave.id.as_str()).is_some(), "{page}");
    s.bob.sets(&s.room, "org.example", "", json!({ "a": 1 })).await.refused(403, "M_FORBIDDEN");
    s.bob.put(&format!("{V3}/profile/{}/displayname", s.bob.id), json!({ "displayname": "Robert" })).await.good();
    // What needs all members waits for them.
    let (bob, room) = (s.bob.clone(), s.room.clone());
    let members = tokio::spawn(async move { bob.in_room(&room, "members").await.good() });
    let (bob, room) = (s.bob.clone(), s.room.clone());
    let names = tokio::spawn(async move { bob.in_room(&room, "joined_members").await.good() });
    s.gate.is_reached(1).await;
    assert!(!members.is_finished() && !names.is_finished());
    s.gate.opens();
    let members = soon("members", members).await.unwrap();
    let all = [&s.alice, &s.dave, &s.bob, &carol];
    for user in all {
        assert!(state_of(&members["chunk"], "m.room.member", user.id.as_str()).is_some(), "{} in {members}", user.id);
    }
    assert_eq!(soon("names", names).await.unwrap()["joined"].as_object().unwrap().len(), all.len());
    assert!(!is_partial(&s.there, &s.room).await);
    let same = async {
        // That Bob has another name may still be on its way.
        while state(&s.alice, &s.room).await != state(&s.bob, &s.room).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the same state", same).await;
    // Who wanted all members has the room now, whole; who did not hears of how many there are.
    let sync = s.bob.syncs_since(&eager).await;
    let news = joined(&sync, &s.room);
    for user in [&s.alice, &s.dave, &carol] {
        let member = state_of(&news["state"]["events"], "m.room.member", user.id.as_str());
        assert!(member.is_some(), "{} in {news}", user.id);
    }
    assert_eq!(bodies(&news["timeline"]["events"]), ["from bob", "from dave"]);
    let (found, _) = lazily(&s.bob, &since, &s.room, |found| !found["summary"].is_null()).await;
    assert_eq!(found["summary"]["m.joined_member_count"], 4, "{found}");
    assert!(types(&found["state"]["events"]).len() < 3, "nobody asked for all members: {found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_stay_out_of_a_room_whose_part_is_not_open_to_them() {
    let here = Peers::one(2, |plan| plan).await;
    let there = Peers::one(3, |plan| plan.services(|s| s.accounts.guests = true)).await;
    let s = Story::between(here, there, &[]).await;
    let session = s.there.nobody().post(&format!("{V3}/register?kind=guest"), json!({})).await.good();
    let guest = User::from_session(&s.there, &session);
    let asked = s.here.was_asked_for("join");
    guest.joins(&s.room).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(s.here.was_asked_for("join"), asked, "nobody else was asked");
    s.alice.sets(&s.room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await.good();
    s.alice.says(&s.room, "come in").await;
    sees(&s.bob, &s.room, "come in").await;
    guest.joins(&s.room).await.good();
    s.ends().await;
    assert_eq!(membership(&s.alice, &s.room, &guest).await, "join");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_goes_on_by_itself() {
    let mut s = Story::begins().await;
    s.bob.says(&s.room, "before").await;
    s.gate.is_reached(1).await;
    s.there = s.there.restarts().await;
    s.bob = s.bob.on(&s.there);
    assert!(is_partial(&s.there, &s.room).await);
    s.gate.is_reached(2).await;
    let since = s.bob.now().await;
    s.bob.says(&s.room, "after").await;
    sees(&s.alice, &s.room, "after").await;
    assert!(s.bob.syncs_since(&since).await["rooms"]["join"][&s.room].is_null());
    s.ends().await;
    assert_eq!(bodies(&joined(&s.bob.syncs_since(&since).await, &s.room)["timeline"]["events"]), ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_tells_what_the_first_does_not() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let room = alice.opens().await;
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    is_whole(&third, &room).await;
    // It lets bob in, says something that is no answer, and is gone.
    here.lies(Some(lie("/state", |answer| *answer = json!({}))));
    let gate = third.holds("/state_ids/");
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    gate.is_reached(1).await;
    here.goes_away();
    bob.says(&room, "still here").await;
    sees(&carol, &room, "still here").await;
    gate.opens();
    is_whole(&there, &room).await;
    assert_eq!(membership(&bob, &room, &alice).await, "join");
    assert_eq!(membership(&bob, &room, &carol).await, "join");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_does_not_fit_is_none() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let (other, own) = (alice.opens().await, bob.opens().await);
    joins_through(&carol, &own, &[there.name().as_str()]).await.good();
    let room = alice.opens().await;
    // The state of another room, one without a beginning, one that lets nobody in.
    let lies: Vec<(&str, super::support::Lie)> = vec![
        (
            "no state",
            lie("/state", |answer| {
                for list in ["pdu_ids", "pdus", "auth_chain_ids", "auth_chain"] {
                    if !answer[list].is_null() {
                        answer[list] = json!([]);
                    }
                }
            }),
        ),
        ("another room's", {
            let there = state(&alice, &other).await;
            lie("/state_ids", move |answer| answer["pdu_ids"] = json!(there))
        }),
        ("no rules to join by", {
            let rules: Value = alice.in_room(&room, "state").await.good();
            let rules = state_of(&rules, "m.room.join_rules", "").unwrap()["event_id"].clone();
            lie("/state_ids", move |answer| answer["pdu_ids"].as_array_mut().unwrap().retain(|id| *id != rules))
        }),
    ];
    for (n, (what, told)) in lies.into_iter().enumerate() {
        here.lies(Some(told));
        let before = here.was_asked_for("/state_ids/");
        if n == 0 {
            joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        }
        soon(what, async {
            while here.was_asked_for("/state_ids/") < before + 3 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(is_partial(&there, &room).await, "{what}");
        // It is used meanwhile, and so are others.
        bob.says(&room, what).await;
        sees(&alice, &room, what).await;
        carol.says(&own, what).await;
        sees(&bob, &own, what).await;
    }
    here.lies(None);
    is_whole(&there, &room).await;
    assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_the_middle_can_come_back() {
    let s = Story::begins().await;
    s.gate.is_reached(1).await;
    s.bob.says(&s.room, "hello").await;
    s.bob.leaves(&s.room).await.good();
    soon("the leave", async { while membership(&s.alice, &s.room, &s.bob).await != "leave" {} }).await;
    s.alice.sets(&s.room, "m.room.topic", "", json!({ "topic": "New" })).await.good();
    s.bob_joins().await;
    assert_eq!(s.bob.reads(&s.room, "m.room.topic", "").await.good()["topic"], "New");
    s.bob.says(&s.room, "again").await;
    sees(&s.alice, &s.room, "again").await;
    s.ends().await;
    // And with another of the same server, who does not come in by the first one's word alone.
    let frank = s.there.user("frank").await;
    frank.joins(&s.room).await.good();
    frank.says(&s.room, "me too").await;
    sees(&s.alice, &s.room, "me too").await;
    assert_eq!(membership(&s.alice, &s.room, &frank).await, "join");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_in_the_middle_finds_the_way_back_alone() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    // The id of such a room names no server.
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "12" })).await;
    let gate = here.holds("/state_ids/");
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    assert!(is_partial(&there, &room).await);
    bob.leaves(&room).await.good();
    soon("the leave", async { while membership(&alice, &room, &bob).await != "leave" {} }).await;
    bob.joins(&room).await.good();
    gate.opens();
    is_whole(&there, &room).await;
    assert_eq!(membership(&alice, &room, &bob).await, "join");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_of_the_server_are_let_in_by_who_knows() {
    let s = Story::begins().await;
    let (frank, grace) = (s.there.user("frank").await, s.there.user("grace").await);
    s.alice.does_to(&s.room, "ban", &grace).await.good();
    frank.joins(&s.room).await.good();
    assert_eq!(membership(&s.alice, &s.room, &frank).await, "join");
    let (_, _) = lazily(&frank, "", &s.room, |found| !found.is_null()).await;
    grace.joins(&s.room).await.refused(403, "M_FORBIDDEN");
    // Of users of other servers it must be known what they are.
    let (bob, dave, room) = (s.bob.clone(), s.dave.clone(), s.room.clone());
    let kick = tokio::spawn(async move { bob.does_to(&room, "kick", &dave).await });
    s.gate.is_reached(1).await;
    assert!(!kick.is_finished());
    s.ends().await;
    soon("kick", kick).await.unwrap().refused(403, "M_FORBIDDEN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_by_another_door_before_it_is_known_that_they_may() {
    let s = Story::begins().await;
    let grace = s.there.user("grace").await;
    // A ban that her server is not told of, as nobody of its users is in the room then.
    s.bob.leaves(&s.room).await.good();
    soon("the leave", async { while membership(&s.alice, &s.room, &s.bob).await != "leave" {} }).await;
    s.alice.does_to(&s.room, "ban", &grace).await.good();
    s.bob_joins().await;
    let (user, room) = (grace.clone(), s.room.clone());
    let sets = tokio::spawn(async move {
        user.sets(&room, "m.room.member", user.id.as_str(), json!({ "membership": "join" })).await
    });
    s.ends().await;
    soon("the answer", sets).await.unwrap().refused(403, "M_FORBIDDEN");
    assert_eq!(membership(&s.bob, &s.room, &grace).await, "ban");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_seen_in_the_middle_is_told() {
    let s = Story::begins().await;
    s.alice.does_to(&s.room, "ban", &s.bob).await.good();
    soon("the ban", async {
        loop {
            let sync = s.bob.syncs(LAZY).await;
            if sync["rooms"]["join"][&s.room].is_null() {
                break;
            }
        }
    })
    .await;
    joins_through(&s.bob, &s.room, &[s.here.name().as_str()]).await.refused(403, "M_FORBIDDEN");
    s.gate.opens();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_servers_ask_meanwhile() {
    let [here, there, third] = Peers::three().await;
    let s = Story::between(here, there, &[]).await;
    let erin = third.user("erin").await;
    let all = ["10", "11", "12"];
    for what in ["join", "knock"] {
        make(&third, &s.there, what, &s.room, erin.id.as_str(), &all).await.refused(404, "M_NOT_FOUND");
    }
    let made = make(&third, &s.here, "join", &s.room, erin.id.as_str(), &all).await.good();
    let event = completed(&third, &made, |_| {});
    let path = format!("{V2}/send_join");
    send(&third, &s.there, &path, &s.room, event).await.refused(404, "M_NOT_FOUND");
    let own = s.bob.says(&s.room, "own").await;
    sees(&s.alice, &s.room, "own").await;
    let theirs = s.alice.says(&s.room, "theirs").await;
    sees(&s.bob, &s.room, "theirs").await;
    let unable = "M_UNABLE_DUE_TO_PARTIAL_STATE";
    for what in ["state", "state_ids"] {
        let path = format!("{V1}/{what}/{}?event_id={}", encoded(&s.room), encoded(&own));
        s.here.asks(&s.there, &path).await.refused(403, unable);
        third.asks(&s.there, &path).await.refused(403, "M_FORBIDDEN");
    }
    // What ours sent is given to those who were there, as it is asked for when a message is missed.
    s.here.asks(&s.there, &format!("{V1}/event/{}", encoded(&own))).await.good();
    s.here.asks(&s.there, &format!("{V1}/event/{}", encoded(&theirs))).await.refused(403, unable);
    let ask = json!({ "earliest_events": [], "latest_events": [theirs], "limit": 10 });
    let missing = s.here.posts(&s.there, &format!("{V1}/get_missing_events/{}", encoded(&s.room)), ask).await.good();
    assert_eq!(bodies(&missing["events"]), ["own"], "{missing}");
    s.ends().await;
    let path = format!("{V1}/state_ids/{}?event_id={}", encoded(&s.room), encoded(&own));
    s.here.asks(&s.there, &path).await.good();
    make(&third, &s.there, "join", &s.room, erin.id.as_str(), &all).await.good();
}

/// A state event of a user of `by`, on these events or the room's newest there, allowed by what is named.
async fn forged(
    by: &Peer,
    room: &str,
    sender: &User,
    what: (&str, &str, Value),
    on: &[&str],
    auth: &[&str],
) -> (String, Value) {
    let room_id: OwnedRoomId = room.try_into().unwrap();
    let services = by.services();
    let room = services.state.room(&room_id).await.unwrap();
    let version = RoomVersion::known(&room.version).unwrap();
    let named = |ids: &[&str]| serde_json::from_value::<Vec<Reference>>(json!(ids)).unwrap();
    let prev = match on {
        [] => room.head.extremities.iter().map(|e| e.event.clone()).collect(),
        on => named(on),
    };
    let depth = u64::try_from(room.head.depth).unwrap() + 1 + on.len() as u64;
    let (kind, key, content) = what;
    let now = by.clock().now_ms();
    let draft = Draft::of(Some(room_id), sender.id.clone(), kind.into(), Some(key.to_owned()), &content, now).unwrap();
    let pdu = draft.build(version, &prev, depth, &named(auth), services.server_keys.signer()).unwrap();
    (pdu.event_id().to_string(), serde_json::from_str(pdu.json()).unwrap())
}

async fn transaction(from: &Peer, to: &Peer, id: &str, pdus: Vec<Value>, edus: Vec<Value>) -> Told {
    let body = json!({ "origin": from.name(), "origin_server_ts": 1, "pdus": pdus, "edus": edus });
    from.calls(to, Method::PUT, &format!("{V1}/send/{id}"), Some(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_believed_is_judged_again() {
    let [here, there] = Peers::two().await;
    let (alice, dave, erin) = (here.user("alice").await, here.user("dave").await, here.user("erin").await);
    let levels = json!({ "users": { alice.id.as_str(): 100, dave.id.as_str(): 100, erin.id.as_str(): 50 } });
    let room = alice
        .creates(json!({
            "preset": "public_chat", "room_version": "10", "name": "N", "power_level_content_override": levels,
        }))
        .await;
    for user in [&dave, &erin] {
        user.joins(&room).await.good();
    }
    let all = alice.in_room(&room, "state").await.good();
    let id = |kind: &str, key: &str| state_of(&all, kind, key).unwrap()["event_id"].as_str().unwrap().to_owned();
    let (create, levels) = (id("m.room.create", ""), id("m.room.power_levels", ""));
    let (daves, erins) = (id("m.room.member", dave.id.as_str()), id("m.room.member", erin.id.as_str()));
    // Dave was there, and is not any more.
    dave.leaves(&room).await.good();
    let gate = here.holds("/state_ids/");
    let bob = there.user("bob").await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    // So he cannot kick erin, who may say what is in the room; but who is to know that?
    let leave = ("m.room.member", erin.id.as_str(), json!({ "membership": "leave" }));
    let (kick, event) = forged(&here, &room, &dave, leave, &[], &[&create, &levels, &daves, &erins]).await;
    transaction(&here, &there, "kick", vec![event], vec![]).await.good();
    let (_, since) = lazily(&bob, "", &room, |found| {
        found["timeline"]["events"].as_array().is_some_and(|all| all.iter().any(|e| e["event_id"] == kick))
    })
    .await;
    // By that she is gone, and what she says next cannot be.
    let state = ("org.example", "", json!({ "a": 1 }));
    let (said, event) = forged(&here, &room, &erin, state, &[&kick], &[&create, &levels, &erins]).await;
    transaction(&here, &there, "said", vec![event], vec![]).await.good();
    let see = format!("event/{}", encoded(&said));
    bob.in_room(&room, &see).await.refused(404, "M_NOT_FOUND");
    bob.says(&room, "a word").await;
    gate.opens();
    is_whole(&there, &room).await;
    bob.in_room(&room, &format!("event/{}", encoded(&kick))).await.refused(404, "M_NOT_FOUND");
    bob.in_room(&room, &see).await.good();
    assert_eq!(bob.reads(&room, "org.example", "").await.good()["a"], 1);
    assert_eq!(membership(&bob, &room, &erin).await, "join");
    let (found, _) = lazily(&bob, &since, &room, |found| !found["timeline"].is_null()).await;
    assert!(!found.to_string().contains(&kick), "{found}");
}

/// What only seems to hold in the part is held against nobody who names what does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_names_has_a_say_beside_the_part() {
    let [here, there] = Peers::two().await;
    let (alice, dave, erin) = (here.user("alice").await, here.user("dave").await, here.user("erin").await);
    let levels = json!({ "users": { alice.id.as_str(): 100, dave.id.as_str(): 100 } });
    let room = json!({
        "preset": "public_chat", "room_version": "10", "name": "N", "power_level_content_override": levels,
    });
    let room = alice.creates(room).await;
    for user in [&dave, &erin] {
        user.joins(&room).await.good();
    }
    let all = alice.in_room(&room, "state").await.good();
    let id = |kind: &str, key: &str| state_of(&all, kind, key).unwrap()["event_id"].as_str().unwrap().to_owned();
    let (create, levels) = (id("m.room.create", ""), id("m.room.power_levels", ""));
    let (daves, erins) = (id("m.room.member", dave.id.as_str()), id("m.room.member", erin.id.as_str()));
    dave.leaves(&room).await.good();
    let gate = here.holds("/state_ids/");
    let bob = there.user("bob").await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    // A kick by who is not there any more, and knows nothing of her join.
    let leave = ("m.room.member", erin.id.as_str(), json!({ "membership": "leave" }));
    let (kick, event) = forged(&here, &room, &dave, leave.clone(), &[], &[&create, &levels, &daves]).await;
    transaction(&here, &there, "kick", vec![event], vec![]).await.good();
    bob.in_room(&room, &format!("event/{}", encoded(&kick))).await.good();
    // She leaves herself.
    let (left, event) = forged(&here, &room, &erin, leave, &[&kick], &[&create, &levels, &erins]).await;
    transaction(&here, &there, "left", vec![event], vec![]).await.good();
    let see = format!("event/{}", encoded(&left));
    bob.in_room(&room, &see).await.good();
    gate.opens();
    is_whole(&there, &room).await;
    bob.in_room(&room, &format!("event/{}", encoded(&kick))).await.refused(404, "M_NOT_FOUND");
    bob.in_room(&room, &see).await.good();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_beside_events_comes_meanwhile() {
    let s = Story::begins().await;
    let (_, since) = lazily(&s.bob, "", &s.room, |found| !found.is_null()).await;
    let typing = json!({ "edu_type": "m.typing", "content": {
        "room_id": s.room, "user_id": s.dave.id, "typing": true,
    } });
    let read = json!({ "edu_type": "m.receipt", "content": { &s.room: { "m.read": { s.dave.id.as_str(): {
        "data": { "ts": 5 }, "event_ids": ["$some-event"],
    } } } } });
    // Of a server that is not in the room nothing is taken.
    let [other, _] = Peers::two().await;
    let mallory = other.user("mallory").await;
    let forged = json!({ "edu_type": "m.typing", "content": {
        "room_id": s.room, "user_id": mallory.id, "typing": true,
    } });
    transaction(&other, &s.there, "x", vec![], vec![forged]).await.good();
    transaction(&s.here, &s.there, "t", vec![], vec![typing, read]).await.good();
    let has = |found: &Value| types(&found["ephemeral"]["events"]).contains(&"m.typing");
    let (found, _) = lazily(&s.bob, &since, &s.room, has).await;
    let of = |kind: &str| {
        let all = found["ephemeral"]["events"].as_array().unwrap();
        all.iter().find(|e| e["type"] == kind).unwrap()["content"].clone()
    };
    assert_eq!(of("m.typing")["user_ids"], json!([s.dave.id]));
    assert_eq!(of("m.receipt")["$some-event"]["m.read"][s.dave.id.as_str()]["ts"], 5);
    s.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_nobody_spoke_of_hears_of_us_later() {
    let [here, there, third] = Peers::three().await;
    let (alice, carol) = (here.user("alice").await, third.user("carol").await);
    let room = alice.opens().await;
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    is_whole(&third, &room).await;
    here.lies(Some(lie("/send_join/", |answer| answer["servers_in_room"] = json!([]))));
    let (gate, bob) = (here.holds("/state_ids/"), there.user("bob").await);
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    here.lies(None);
    bob.says(&room, "who hears me?").await;
    sees(&alice, &room, "who hears me?").await;
    let since = carol.now().await;
    let rename = json!({ "display_name": "A new name" });
    bob.put(&format!("{V3}/devices/{}", bob.device), rename).await.good();
    gate.opens();
    is_whole(&there, &room).await;
    sees(&carol, &room, "who hears me?").await;
    soon("the devices", async {
        loop {
            let sync = carol.get(&format!("{V3}/sync?timeout=1000&since={}", encoded(&since))).await.good();
            if sync["device_lists"]["changed"].as_array().is_some_and(|c| c.contains(&json!(bob.id))) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_nameless_room_comes_with_those_it_is_named_by() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    for n in 0..6 {
        here.user(&format!("member{n}")).await.joins(&room).await.good();
    }
    let made = make(&there, &here, "join", &room, bob.id.as_str(), &["10"]).await.good();
    let (id, event) = completed(&there, &made, |_| {});
    let path = format!("{V2}/send_join/{}/{}?omit_members=true", encoded(&room), encoded(&id));
    let answer = there.calls(&here, Method::PUT, &path, Some(event)).await.good();
    assert_eq!((&answer["members_omitted"], &answer["servers_in_room"]), (&json!(true), &json!([here.name()])));
    let members = answer["state"].as_array().unwrap().iter().filter(|e| e["type"] == "m.room.member").count();
    assert_eq!(members, 5, "as many as a room is named by: {answer}");
    // What allows all that is there, and nothing twice.
    let version = RoomVersion::get("10").unwrap();
    let ids = |list: &str| -> Vec<String> {
        let events = answer[list].as_array().unwrap().iter();
        let parsed = events.map(|e| hearth_rules::event::Pdu::parse_remote(&e.to_string(), version).unwrap());
        parsed.map(|e| e.claimed().event_id().to_string()).collect()
    };
    let (state, chain) = (ids("state"), ids("auth_chain"));
    assert!(chain.iter().all(|id| !state.contains(id)));
    for event in answer["state"].as_array().unwrap().iter().chain(answer["auth_chain"].as_array().unwrap()) {
        for auth in event["auth_events"].as_array().unwrap() {
            let auth = auth.as_str().unwrap().to_owned();
            assert!(state.contains(&auth) || chain.contains(&auth), "{auth} of {event}");
        }
    }
}

#[tokio::test]
async fn a_room_of_few_comes_whole() {
    let [there, _] = Peers::two().await;
    let here = Peers::one(5, |plan| plan.services(|s| s.federation.completion.worth_omitting = 3)).await;
    let alice = here.user("alice").await;
    let room = alice.creates(json!({ "preset": "public_chat", "name": "Few", "room_version": "10" })).await;
    here.user("carol").await.joins(&room).await.good();
    let members_told = async |user: &str| {
        let user = there.user(user).await;
        let made = make(&there, &here, "join", &room, user.id.as_str(), &["10"]).await.good();
        let (id, event) = completed(&there, &made, |_| {});
        let path = format!("{V2}/send_join/{}/{}?omit_members=true", encoded(&room), encoded(&id));
        let answer = there.calls(&here, Method::PUT, &path, Some(event)).await.good();
        let members = answer["state"].as_array().unwrap().iter().filter(|e| e["type"] == "m.room.member").count();
        (members, answer["members_omitted"].as_bool().unwrap())
    };
    assert_eq!(members_told("bob").await, (2, false), "two are not worth a way back");
    assert_eq!(members_told("dave").await, (0, true), "three are");
}

/// Of all the members that come at once those are told whose devices changed meanwhile or were asked for; all of them, if
/// the room is encrypted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_devices_mattered_meanwhile_is_told_once_the_room_is_whole() {
    for is_encrypted in [false, true] {
        let [here, there] = Peers::two().await;
        let (alice, bob) = (here.user("alice").await, there.user("bob").await);
        let [dave, erin, frank] = [here.user("dave").await, here.user("erin").await, here.user("frank").await];
        let encryption = json!({ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } });
        let initial = if is_encrypted { json!([encryption]) } else { json!([]) };
        let room = json!({ "preset": "public_chat", "room_version": "10", "name": "Large", "initial_state": initial });
        let room = alice.creates(room).await;
        for user in [&dave, &erin, &frank] {
            user.joins(&room).await.good();
            publishes_keys(user).await;
        }
        let gate = here.holds("/state_ids/");
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        assert!(is_partial(&there, &room).await);
        publishes_keys(&dave.another_device().await).await;
        let dave_was_asked_for = || here.was_asked_for(&format!("/user/devices/{}", dave.id));
        // What is told first is told by then.
        for text in ["one", "two"] {
            alice.says(&room, text).await;
            sees(&bob, &room, text).await;
        }
        let query = json!({ "device_keys": { erin.id.as_str(): [] } });
        let found = bob.post(&format!("{V3}/keys/query"), query).await.good();
        assert_eq!(found["device_keys"][erin.id.as_str()].as_object().unwrap().len(), 1, "{found}");
        let mut since = bob.now().await;
        gate.opens();
        is_whole(&there, &room).await;
        let mut told = Vec::new();
        let wanted = [Some(&dave), Some(&erin), is_encrypted.then_some(&frank)];
        soon("news of devices", async {
            while !wanted.iter().flatten().all(|user| told.contains(&user.id.to_string())) {
                let sync = bob.get(&format!("{V3}/sync?timeout=1000&since={}", encoded(&since))).await.good();
                since = sync["next_batch"].as_str().unwrap().to_owned();
                let changed = sync["device_lists"]["changed"].as_array().into_iter().flatten();
                told.extend(changed.map(|user| user.as_str().unwrap().to_owned()));
            }
        })
        .await;
        assert_eq!(told.contains(&frank.id.to_string()), is_encrypted, "{told:?}");
        // As everywhere: devices of members of open rooms are fetched for who asks.
        assert!(is_encrypted || dave_was_asked_for() == 0);
        let query = json!({ "device_keys": { dave.id.as_str(): [] } });
        bob.post(&format!("{V3}/keys/query"), query).await.good();
        let asked = here.was_asked_for("/user/keys/query");
        let query = json!({ "device_keys": { dave.id.as_str(): [] } });
        let found = bob.post(&format!("{V3}/keys/query"), query).await.good();
        assert_eq!(found["device_keys"][dave.id.as_str()].as_object().unwrap().len(), 2, "{found}");
        assert_eq!(here.was_asked_for("/user/keys/query"), asked);
    }
}

/// Who comes back leans on how they left, which the part does not show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_in_the_middle_leans_on_how_they_left() {
    let s = Story::begins().await;
    publishes_keys(&s.bob).await;
    s.bob.leaves(&s.room).await.good();
    soon("the leave", async { while membership(&s.alice, &s.room, &s.bob).await != "leave" {} }).await;
    s.here.lies(Some(lie("/send_join/", |answer| {
        for list in ["state", "auth_chain"] {
            answer[list].as_array_mut().unwrap().retain(|e| e["content"]["membership"] != "leave");
        }
    })));
    let told = s.here.keeps_transactions();
    s.bob_joins().await;
    s.here.lies(None);
    // Who saw them leave has heard of their devices, and nobody but who let them in tells of the join.
    s.bob.says(&s.room, "here again").await;
    soon("a word", async { while !told().to_string().contains("here again") {} }).await;
    let told = told();
    assert!(!told.to_string().contains("m.device_list_update"), "{told}");
    assert!(!told.to_string().contains("m.room.member"), "{told}");
    s.ends().await;
}
