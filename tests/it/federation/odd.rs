//! What is odd about something other servers say costs that alone: events whose names nobody can keep, requests that are
//! none, a room in a list that makes no sense.

use axum::{Router, routing::get};
use http::Method;
use serde_json::{Value, json};

use super::{
    hostile::{as_json, besieges, hears, shown},
    support::Peers,
};
use crate::support::rooms::{V3, encoded, txn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_cannot_be_kept_stop_nothing() {
    for here in [Some(Peers::one(2, |plan| plan).await), Peers::on_postgres(2).await].into_iter().flatten() {
        let (alice, rogue) = besieges(&here).await;
        let long = "é".repeat(128);
        let odd: Vec<(Value, Value)> = [
            (json!("m.odd"), json!(long)),
            (json!(long), json!("")),
            (json!("m.odd"), json!("with\0nul")),
            (json!("with\0nul"), json!("")),
            (json!("with\0nul"), Value::Null),
        ]
        .into();
        let mut ids = Vec::new();
        for (event_type, state_key) in odd {
            let mut event = rogue.message(&here, "odd").await;
            event["type"] = event_type;
            if !state_key.is_null() {
                event["state_key"] = state_key;
            }
            let (odd_id, event) = rogue.signed(event);
            let (good_id, good) = rogue.signed(rogue.message(&here, &format!("beside {}", ids.len())).await);
            let typing = json!({ "room_id": rogue.room, "user_id": rogue.eve.id, "typing": ids.len() % 2 == 0 });
            let body = json!({
                "origin": rogue.peer.name(), "origin_server_ts": 1, "pdus": [event, good],
                "edus": [{ "edu_type": "m.typing", "content": typing }],
            });
            let path = format!("/_matrix/federation/v1/send/{}", txn());
            let told = rogue.peer.calls(&here, Method::PUT, &path, Some(body)).await.good();
            assert_eq!(told["pdus"][&good_id], json!({}), "{told}");
            ids.push(odd_id);
        }
        let typing = |sync: &Value| sync["rooms"]["join"][&rogue.room]["ephemeral"]["events"].to_string();
        let sync = alice.get(&format!("{V3}/sync")).await.good();
        assert!(typing(&sync).contains(rogue.eve.id.as_str()), "{sync}");
        assert_eq!(shown(&alice, &rogue.room).await, ["beside 4", "beside 3", "beside 2", "beside 1", "beside 0"]);
        // Others build on them, and nobody minds.
        let mut after = rogue.message(&here, "after all").await;
        after["prev_events"] = json!(ids);
        rogue.sends(&here, vec![rogue.signed(after).1]).await.good();
        hears(&alice, &rogue.room, "after all").await;
        for id in &ids {
            alice.in_room(&rogue.room, &format!("event/{}", encoded(id))).await.refused(404, "M_NOT_FOUND");
        }
        // An id that none has is no event of ours to look for.
        let mut nowhere = rogue.message(&here, "nowhere").await;
        nowhere["prev_events"] = json!(["$a\0b"]);
        rogue.sends(&here, vec![rogue.signed(nowhere).1]).await.good();
        let carol = here.user("carol").await;
        carol.joins(&rogue.room).await.good();
        assert_eq!(shown(&carol, &rogue.room).await[0], "after all");
    }
}

/// Limits of a room's joins and a user's invites are for joins and invites.
#[tokio::test]
async fn rubbish_keeps_nobody_out() {
    let few = hearth_api::limits::Rate::new(0.001, 3.0);
    let here = Peers::one(2, |plan| {
        plan.api(move |s| {
            s.limits.enabled = true;
            s.limits.registration = hearth_api::limits::Rate::new(100.0, 100.0);
            (s.limits.joins_per_room, s.limits.invites_per_user) = (few, few);
            s.limits.invites_per_room = few;
        })
    })
    .await;
    let there = Peers::one(3, |plan| plan).await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    for n in 0..6 {
        let path = format!("/_matrix/federation/v2/send_join/{}/%24{n}", encoded(&room));
        let told = there.calls(&here, Method::PUT, &path, Some(json!({ "x": 1 }))).await;
        assert_eq!(told.status, 400, "{told:?}");
        let path = format!("/_matrix/federation/v2/invite/!x:y/%24{n}");
        let event = json!({ "state_key": alice.id });
        let body = json!({ "room_version": "10", "event": event, "invite_room_state": [] });
        let told = there.calls(&here, Method::PUT, &path, Some(body)).await;
        assert!((400..500).contains(&told.status) && told.status != 429, "{told:?}");
    }
    super::hostile::joins(&bob, &room, &here).await;
    here.user("carol").await.joins(&room).await.good();
    let theirs = bob.opens().await;
    bob.invites(&theirs, &alice).await.good();
    // What they are for they hold back.
    here.user("dave").await.joins(&room).await.good();
    here.user("erin").await.joins(&room).await.refused(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_room_that_makes_no_sense_is_not_the_whole_list() {
    let [here, there] = Peers::two().await;
    let bob = there.user("bob").await;
    let list = || async {
        as_json(json!({
            "chunk": [
                { "room_id": "!a:x", "num_joined_members": 3.0, "canonical_alias": "", "name": "a", "world_readable": true,
                    "aliases": ["#a:x"], "room_version": "9" },
                { "room_id": "!b:x", "num_joined_members": 2, "canonical_alias": "nothing", "guest_can_join": true, "topic": 5 },
                { "room_id": "b", "num_joined_members": 2 },
                "x",
                { "room_id": "!c:x", "num_joined_members": -1, "canonical_alias": "#c:x", "world_readable": "yes" },
            ],
            "next_batch": "on", "prev_batch": 5, "total_room_count_estimate": 7.0,
        }))
    };
    const PATH: &str = "/_matrix/federation/v1/publicRooms";
    here.also_serves(PATH, Router::new().route(PATH, get(list).post(list)));
    let path = format!("{V3}/publicRooms?server={}", encoded(here.name().as_str()));
    let told = bob.get(&path).await.good();
    let expected = json!({
        "chunk": [
            { "room_id": "!a:x", "num_joined_members": 3, "name": "a", "world_readable": true, "guest_can_join": false },
            { "room_id": "!b:x", "num_joined_members": 2, "world_readable": false, "guest_can_join": true },
            { "room_id": "!c:x", "num_joined_members": 0, "canonical_alias": "#c:x", "world_readable": false, "guest_can_join": false },
        ],
        "next_batch": "on", "total_room_count_estimate": 7,
    });
    assert_eq!(told, expected);
    let body = json!({ "filter": { "generic_search_term": "a" } });
    assert_eq!(bob.post(&path, body).await.good(), expected);
}
