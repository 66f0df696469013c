//! History that forks: what arrives late stands before what was told already, and is told all the same, once.

use serde_json::{Value, json};

use super::hostile::besieged;
use crate::support::{
    User,
    rooms::{bodies, encoded, joined},
};

/// All messages after a token, by a sync of so many events and the pages of what it left out, oldest first in each.
async fn news(user: &User, room: &str, since: &str, limit: usize) -> Vec<String> {
    let filter = encoded(&json!({ "room": { "timeline": { "limit": limit } } }).to_string());
    let sync = user.syncs(&format!("since={}&filter={filter}", encoded(since))).await;
    let timeline = &joined(&sync, room)["timeline"];
    let mut found: Vec<String> = bodies(&timeline["events"]).into_iter().map(str::to_owned).collect();
    let mut from = timeline["prev_batch"].clone();
    while timeline["limited"] == true
        && let Some(token) = from.as_str()
    {
        let page = user.pages(room, &format!("dir=b&limit=2&from={}&to={}", encoded(token), encoded(since))).await;
        found.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
        from = if page["chunk"].as_array().is_some_and(Vec::is_empty) { Value::Null } else { page["end"].clone() };
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn a_gap_is_read_whole_and_once() {
    let (here, alice, rogue) = besieged().await;
    let room = rogue.room.clone();
    let (mut said, mut tokens): (Vec<String>, Vec<String>) = Default::default();
    let mut late = Vec::new();
    for n in 0..9 {
        tokens.push(alice.now().await);
        if n == 2 || n == 4 {
            late.push(rogue.signed(rogue.message(&here, &format!("late {n}")).await).1);
        }
        if n == 5 || n == 7 {
            said.push(late[0]["content"]["body"].as_str().unwrap().to_owned());
            let answer = rogue.sends(&here, vec![late.remove(0)]).await.good();
            assert!(answer["pdus"].as_object().unwrap().values().all(|one| one == &json!({})), "{answer}");
            tokens.push(alice.now().await);
        }
        said.push(format!("said {n}"));
        alice.says(&room, &format!("said {n}")).await;
    }
    for (behind, since) in tokens.iter().enumerate() {
        let mut expected = said[behind..].to_vec();
        expected.sort_unstable();
        for limit in 1..=12 {
            assert_eq!(news(&alice, &room, since, limit).await, expected, "{behind} behind, {limit} at a time");
        }
    }
}

/// Who is in a room is told for the place where a timeline begins, too, where history forks (client-server API, `GET
/// /rooms/{roomId}/members`).
#[tokio::test]
async fn members_are_listed_where_a_timeline_begins() {
    let (here, alice, rogue) = besieged().await;
    let room = rogue.room.clone();
    let mut late = rogue.message(&here, "").await;
    late["type"] = json!("m.room.member");
    late["state_key"] = late["sender"].clone();
    late["content"] = json!({ "membership": "join", "displayname": "Evelyn" });
    for text in ["one", "two"] {
        alice.says(&room, text).await;
    }
    rogue.sends(&here, vec![rogue.signed(late).1]).await.good();
    let filter = encoded(&json!({ "room": { "timeline": { "limit": 1 } } }).to_string());
    let sync = alice.syncs(&format!("filter={filter}")).await;
    let timeline = &joined(&sync, &room)["timeline"];
    assert_eq!(timeline["events"][0]["content"]["displayname"], "Evelyn", "{timeline}");
    let named = async |token: &Value| {
        let path = format!("members?at={}", encoded(token.as_str().unwrap()));
        let members = alice.in_room(&room, &path).await.good();
        let chunk = members["chunk"].as_array().unwrap();
        assert_eq!(chunk.len(), 2, "{members}");
        let eve = chunk.iter().find(|e| e["state_key"] == rogue.eve.id.as_str()).unwrap();
        eve["content"]["displayname"].clone()
    };
    assert_eq!(named(&sync["next_batch"]).await, "Evelyn");
    assert_eq!(named(&timeline["prev_batch"]).await, "eve");
}
