//! Rooms joined while one of their servers was away and nobody gave its keys: what it had signed of the state was left out,
//! and comes once it is back.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::IntoResponse};
use futures_util::FutureExt;
use hearth_store::events::Standing;
use ruma::EventId;
use serde_json::{Value, json};

use super::{
    history,
    hostile::{answers, as_json, besieged, hears, refused, shown},
    joining::{joins_through, lie, membership, state},
    partial::is_whole,
    support::{Peer, Peers, Trick},
};
use crate::support::{
    User,
    rooms::{V3, encoded, joined, state_of},
};

/// Waits until something is so.
async fn becomes<F: Future<Output = bool>>(what: &str, is: impl Fn() -> F) {
    for _ in 0..1_200 {
        if is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not so: {what}");
}

/// A room of `here` in which carol of `third` has a say, joined by bob from `there` while `third` is away.
struct Story {
    here: Peer,
    there: Peer,
    third: Peer,
    alice: User,
    bob: User,
    carol: User,
    room: String,
}

impl Story {
    /// The state comes with the answer to the join, or after it.
    async fn begins(there: Peer, whole: bool) -> Self {
        let worth_omitting = if whole { 100 } else { 0 };
        let here =
            Peers::one(2, |plan| plan.services(move |s| s.federation.completion.worth_omitting = worth_omitting));
        let (here, third) = (here.await, Peers::one(4, |plan| plan).await);
        let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
        let levels = json!({ "users": { alice.id.as_str(): 100, carol.id.as_str(): 100 } });
        let room = json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override": levels });
        let room = alice.creates(room).await;
        joins_through(&carol, &room, &[here.name().as_str()]).await.good();
        carol.sets(&room, "m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await.good();
        let told = || async { alice.reads(&room, "m.room.encryption", "").await.status.is_success() };
        becomes("carol's word reached alice", told).await;
        third.goes_away();
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        is_whole(&there, &room).await;
        let story = Self { here, there, third, alice, bob, carol, room };
        story.bob.reads(&story.room, "m.room.member", story.carol.id.as_str()).await.refused(404, "M_NOT_FOUND");
        story.bob.reads(&story.room, "m.room.encryption", "").await.refused(404, "M_NOT_FOUND");
        story
    }

    /// The third server is back, and heard who came meanwhile.
    async fn comes_back(&self) {
        self.third.comes_back();
        self.alice.says(&self.room, "who is back?").await;
        history::sees(&self.carol, &self.room, &self.bob).await;
    }

    /// Everybody sees the same, and hears of the other.
    async fn ends(&self) {
        let same = || async { state(&self.alice, &self.room).await == state(&self.bob, &self.room).await };
        becomes("the same state", same).await;
        assert_eq!(membership(&self.bob, &self.room, &self.carol).await, "join");
        self.bob.says(&self.room, "from bob").await;
        hears(&self.carol, &self.room, "from bob").await;
        self.carol.says(&self.room, "from carol").await;
        hears(&self.bob, &self.room, "from carol").await;
    }

    async fn lacking(&self) -> usize {
        self.there.services().store.lacking_keys().await.unwrap().len()
    }
}

/// Does not tell what stood before an event.
fn silent() -> Option<Trick> {
    Some(answers(&["/state_ids/", "/state/"], || refused(404)))
}

async fn what_lacked_comes(there: Peer, whole: bool) {
    let s = Story::begins(there, whole).await;
    assert_eq!(s.lacking().await, 1);
    let since = s.bob.now().await;
    // While nobody tells the state, what its users say is not understood.
    s.here.tricks(silent());
    s.third.tricks(silent());
    s.comes_back().await;
    let early = s.carol.says(&s.room, "too early").await;
    let early = <&EventId>::try_from(early.as_str()).unwrap();
    let store = &s.there.services().store;
    let refused =
        || async { store.event_by_id(early).await.unwrap().is_some_and(|event| event.standing == Standing::Rejected) };
    becomes("refused", refused).await;
    let name = format!("{V3}/profile/{}/displayname", encoded(s.carol.id.as_str()));
    s.carol.put(&name, json!({ "displayname": "Caroline" })).await.good();
    s.here.tricks(None);
    s.third.tricks(None);
    s.ends().await;
    let news = s.bob.syncs_since(&since).await;
    let news = joined(&news, &s.room);
    let told = |kind: &str, key: &str| {
        let of = |part: &str| state_of(&news[part]["events"], kind, key).cloned();
        of("state").or_else(|| of("timeline")).unwrap_or_else(|| panic!("{kind} in {news}"))
    };
    assert_eq!(told("m.room.member", s.carol.id.as_str())["content"]["membership"], "join");
    assert_eq!(told("m.room.encryption", "")["sender"], s.carol.id.as_str());
    assert!(shown(&s.bob, &s.room).await.contains(&"too early".to_owned()));
    assert_eq!(s.lacking().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lacked_of_the_answer_to_a_join_comes_once_its_server_is_back() {
    what_lacked_comes(Peers::one(3, |plan| plan).await, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lacked_of_the_rest_of_a_state_comes_once_its_server_is_back() {
    let there = match Peers::on_postgres(3).await {
        Some(there) => there,
        None => Peers::one(3, |plan| plan).await,
    };
    what_lacked_comes(there, false).await;
}

/// A state that others told since has the same hole, and else says more than the one at the join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_behind_a_gap_is_filled_and_kept() {
    let s = Story::begins(Peers::one(3, |plan| plan).await, true).await;
    for n in 0..25 {
        s.alice.sets(&s.room, "org.example.entry", &format!("{n}"), json!({ "n": n })).await.good();
    }
    s.alice.says(&s.room, "before the gap").await;
    hears(&s.bob, &s.room, "before the gap").await;
    let lost = Arc::new(AtomicUsize::new(0));
    let count = lost.clone();
    let loses = Router::new().fallback(move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(as_json(json!({ "pdus": {} })))
    });
    s.there.also_serves("/_matrix/federation/v1/send/", loses.clone());
    s.alice.sets(&s.room, "m.room.topic", "", json!({ "topic": "Lost" })).await.good();
    becomes("lost", || async { lost.load(Ordering::Relaxed) > 0 }).await;
    s.there.also_serves("/nothing", loses);
    s.here.tricks(Some(answers(&["get_missing_events", "/backfill/"], || refused(404))));
    s.alice.says(&s.room, "behind the gap").await;
    hears(&s.bob, &s.room, "behind the gap").await;
    assert_eq!(s.bob.reads(&s.room, "m.room.topic", "").await.good()["topic"], "Lost");
    s.third.comes_back();
    s.ends().await;
    assert_eq!(s.bob.reads(&s.room, "m.room.topic", "").await.good()["topic"], "Lost");
    assert_eq!(s.lacking().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_is_remembered_though_nobody_speaks() {
    let mut s = Story::begins(Peers::one(3, |plan| plan).await, true).await;
    s.there = s.there.restarts().await;
    s.bob = s.bob.on(&s.there);
    s.third.comes_back();
    s.ends().await;
    assert_eq!(s.lacking().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_is_forgotten_with_the_room() {
    let s = Story::begins(Peers::one(3, |plan| plan).await, true).await;
    s.bob.leaves(&s.room).await.good();
    s.third.comes_back();
    becomes("forgotten", || async { s.lacking().await == 0 }).await;
    // The next time nothing lacks.
    joins_through(&s.bob, &s.room, &[s.here.name().as_str()]).await.good();
    s.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_speaks_shows_that_they_are_there() {
    let never = |s: &mut hearth_service::Settings| s.federation.completion.lacking_for = Duration::ZERO;
    let s = Story::begins(Peers::one(3, |plan| plan.services(never)).await, true).await;
    becomes("forgotten", || async { s.lacking().await == 0 }).await;
    s.comes_back().await;
    s.bob.reads(&s.room, "m.room.member", s.carol.id.as_str()).await.refused(404, "M_NOT_FOUND");
    let asked = s.third.was_asked_for("/state_ids/");
    s.carol.says(&s.room, "I have been here before you").await;
    hears(&s.bob, &s.room, "I have been here before you").await;
    s.ends().await;
    assert_eq!(s.third.was_asked_for("/state_ids/"), asked + 1);
    assert_eq!(s.bob.reads(&s.room, "m.room.encryption", "").await.good()["algorithm"], "m.megolm.v1.aes-sha2");
}

#[tokio::test]
async fn who_signs_badly_is_not_waited_for() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let room = alice.opens().await;
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    let (whose, server) = (carol.id.to_string(), third.name().to_string());
    let spoil = move |body: &mut Value| {
        for event in body["pdus"].as_array_mut().into_iter().flatten().filter(|e| e["state_key"] == whose.as_str()) {
            let signatures = event["signatures"][&server].as_object_mut().unwrap();
            signatures.values_mut().for_each(|signature| *signature = json!("A".repeat(86)));
        }
    };
    here.lies(Some(lie("/state/", spoil)));
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let asked = || async { here.was_asked_for("/state_ids/") > 0 };
    becomes("asked for the rest", asked).await;
    assert!(there.services().store.lacking_keys().await.unwrap().is_empty());
}

/// A server says that a user of its joined when the room was open to everybody, which nobody heard of.
#[tokio::test]
async fn nobody_speaks_their_way_into_a_room_that_is_closed() {
    let (here, alice, rogue) = besieged().await;
    let mallory = format!("@mallory:{}", rogue.peer.name());
    let template = rogue.message(&here, "let me in").await;
    let found = alice.in_room(&rogue.room, "state").await.good();
    let id = |kind: &str| state_of(&found, kind, "").unwrap()["event_id"].clone();
    let [create, levels, open] = ["m.room.create", "m.room.power_levels", "m.room.join_rules"].map(id);
    let mut join = template.clone();
    join["auth_events"] = json!([create, levels, open]);
    (join["sender"], join["state_key"]) = (json!(mallory), json!(mallory));
    (join["type"], join["content"]) = (json!("m.room.member"), json!({ "membership": "join" }));
    let (join_id, join) = rogue.signed(join);
    alice.sets(&rogue.room, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await.good();
    let before = state(&alice, &rogue.room).await;
    let mut ids = before.clone();
    ids.push(join_id.clone());
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, auth) = (asked.clone(), json!({ "auth_chain": [join], "pdu": join, "pdus": [join] }));
    rogue.peer.tricks(Some(Arc::new(move |path: &str| {
        if path.contains("/state_ids/") {
            count.fetch_add(1, Ordering::Relaxed);
            let body = json!({ "pdu_ids": ids, "auth_chain_ids": [open] });
            return Some(async { as_json(body).into_response() }.boxed());
        }
        let auth = auth.clone();
        let is_asked = ["/event_auth/", "/event/"].iter().any(|part| path.contains(part));
        is_asked.then(|| async { as_json(auth).into_response() }.boxed())
    })));
    for text in ["let me in", "let me in, I say"] {
        let mut message = rogue.message(&here, text).await;
        message["sender"] = json!(mallory);
        message["auth_events"] = json!([create, levels, join_id]);
        rogue.sends(&here, vec![rogue.signed(message).1]).await.good();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1, "asked again at once");
    assert!(shown(&alice, &rogue.room).await.is_empty());
    assert_eq!(state(&alice, &rogue.room).await, before);
    let honest = rogue.signed(rogue.message(&here, "honest").await).1;
    rogue.sends(&here, vec![honest]).await.good();
    assert_eq!(shown(&alice, &rogue.room).await, ["honest"]);
}
