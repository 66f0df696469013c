//! Receipts of users of other servers: theirs is the order of events that counts.

use serde_json::{Value, json};

use super::{
    hostile::{Rogue, besieged},
    sending::transaction,
    support::Peer,
};
use crate::support::{User, rooms::joined};

/// A receipt of the other server's user.
async fn reads(rogue: &Rogue, here: &Peer, event: &str, ts: u64) {
    let read = json!({ rogue.eve.id.as_str(): { "data": { "ts": ts }, "event_ids": [event] } });
    let edu = json!({ "edu_type": "m.receipt", "content": { rogue.room.as_str(): { "m.read": read } } });
    transaction(&rogue.peer, here, &format!("read{ts}"), vec![], vec![edu]).await.good();
}

/// The event a user is told that another has read.
async fn read_by(user: &User, room: &str, other: &str) -> String {
    let sync = user.syncs("").await;
    let events = joined(&sync, room)["ephemeral"]["events"].as_array().unwrap().clone();
    let receipts = events.iter().find(|e| e["type"] == "m.receipt").unwrap()["content"].as_object().unwrap().clone();
    let is_theirs = |content: &Value| content["m.read"].get(other).is_some();
    receipts.into_iter().find(|(_, content)| is_theirs(content)).unwrap().0
}

#[tokio::test]
async fn what_a_server_says_last_of_its_user_counts() {
    let (here, alice, rogue) = besieged().await;
    let (room, eve) = (rogue.room.clone(), rogue.eve.id.as_str());
    let first = alice.says(&room, "first").await;
    let second = alice.says(&room, "second").await;
    reads(&rogue, &here, &second, 10).await;
    assert_eq!(read_by(&alice, &room, eve).await, second);
    // An event that is still on its way.
    let (late, event) = rogue.signed(rogue.message(&here, "late").await);
    reads(&rogue, &here, &late, 20).await;
    assert_eq!(read_by(&alice, &room, eve).await, late);
    rogue.sends(&here, vec![event]).await.good();
    assert_eq!(read_by(&alice, &room, eve).await, late);
    // An event that came here sooner than one that stands before it there.
    reads(&rogue, &here, &first, 30).await;
    assert_eq!(read_by(&alice, &room, eve).await, first);
    // What is said again, or was said before, changes nothing.
    reads(&rogue, &here, &first, 40).await;
    reads(&rogue, &here, &second, 25).await;
    assert_eq!(read_by(&alice, &room, eve).await, first);
    // Nor does a clock that was ahead for once stand in the way of what is read until then.
    let year = 365 * 24 * 3_600_000;
    reads(&rogue, &here, &second, here.clock().now_ms() + year).await;
    assert_eq!(read_by(&alice, &room, eve).await, second);
    reads(&rogue, &here, &first, here.clock().now_ms()).await;
    assert_eq!(read_by(&alice, &room, eve).await, first);
    // Which events there are, and what they are called, that server knows.
    let now = here.clock().now_ms() + 2 * year;
    reads(&rogue, &here, "$nobody-told-of-it", now).await;
    assert_eq!(read_by(&alice, &room, eve).await, "$nobody-told-of-it");
    reads(&rogue, &here, "an event", now + 1).await;
    assert_eq!(read_by(&alice, &room, eve).await, "an event");
    reads(&rogue, &here, "", now + 2).await;
    assert_eq!(read_by(&alice, &room, eve).await, "an event");
}
