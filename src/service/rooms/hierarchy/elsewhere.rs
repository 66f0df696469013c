//! Rooms that are not here, as servers that are in them tell of them (server-server API, `GET /hierarchy/{roomId}`).
//!
//! What they tell is remembered under the servers that were asked, so that a space full of wrong servers misleads nobody
//! but those who look at that space. Nothing of it is trusted further: form and number are checked, text is written anew.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_remote::Failure;
use moka::{Expiry, future::Cache};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, api::federation::space::get_hierarchy};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Child, Content, MAX_CHILDREN, Rank, child_from};
use crate::{directory::Summary, federation::Federation};

/// Bytes of what is remembered, about.
const MEMORY: u64 = 32 << 20;
/// How long an answer is good for, and how long none is (spec: "Responses to this endpoint should be cached"). That a
/// server shows nothing is good for nothing: it may be told at any moment that one of ours may see the room.
const GOOD_FOR: Duration = Duration::from_secs(300);
const NONE_FOR: Duration = Duration::from_secs(60);
/// Servers asked about a room, one after the other, and how long each may take.
const SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 4 << 20;
/// Questions of one walk, and how long they may take together.
const MAX_ASKED: usize = 30;
const IN_ALL: Duration = Duration::from_secs(15);

/// A room elsewhere with what its server says of its children.
#[derive(Debug)]
pub(in crate::rooms) struct Tree {
    pub summary: Arc<Summary>,
    pub children: Arc<Vec<Child>>,
    /// Of those children that the server knows.
    pub summaries: HashMap<OwnedRoomId, Arc<Summary>>,
    /// Children that are nowhere to be had.
    pub inaccessible: HashSet<OwnedRoomId>,
    weight: u32,
}

/// Asks other servers about rooms, and remembers what they said.
#[derive(Debug)]
pub(in crate::rooms) struct Elsewhere {
    federation: Arc<Federation>,
    trees: Cache<(OwnedRoomId, Vec<OwnedServerName>), Option<Arc<Tree>>>,
}

/// What one walk may still ask.
#[derive(Debug)]
pub(in crate::rooms) struct Budget {
    until: Instant,
    asks: usize,
}

impl Budget {
    pub(in crate::rooms) fn new() -> Self {
        Self { until: Instant::now() + IN_ALL, asks: MAX_ASKED }
    }
}

/// A server that was asked shows nothing of a room.
#[derive(Debug)]
struct Refused;

/// That nothing could be had is forgotten sooner.
struct Lifetimes;

impl<K> Expiry<K, Option<Arc<Tree>>> for Lifetimes {
    fn expire_after_create(&self, _: &K, tree: &Option<Arc<Tree>>, _: Instant) -> Option<Duration> {
        Some(if tree.is_some() { GOOD_FOR } else { NONE_FOR })
    }
}

impl Elsewhere {
    pub(in crate::rooms) fn new(federation: Arc<Federation>) -> Self {
        let trees = Cache::builder()
            .weigher(|_, tree: &Option<Arc<Tree>>| tree.as_ref().map_or(200, |t| t.weight))
            .max_capacity(MEMORY)
            .expire_after(Lifetimes)
            .build();
        Self { federation, trees }
    }

    /// What one of these servers says of a room; `None` if none of them does, or no more may be asked.
    pub(in crate::rooms) async fn tree(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        budget: &mut Budget,
    ) -> Option<Arc<Tree>> {
        let mut servers: Vec<OwnedServerName> = Vec::with_capacity(SERVERS);
        for server in via {
            if servers.len() < SERVERS && self.federation.admits(server) && !servers.contains(server) {
                servers.push(server.clone());
            }
        }
        let key = (room_id.to_owned(), servers);
        if let Some(known) = self.trees.get(&key).await {
            return known;
        }
        if key.1.is_empty() || budget.asks == 0 || budget.until <= Instant::now() {
            return None;
        }
        budget.asks -= 1;
        let servers = key.1.clone();
        self.trees.try_get_with(key, self.ask(room_id, &servers, budget.until)).await.unwrap_or(None)
    }

    async fn ask(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
        until: Instant,
    ) -> Result<Option<Arc<Tree>>, Refused> {
        let mut refused = false;
        for server in servers {
            let left = until.saturating_duration_since(Instant::now()).min(PATIENCE);
            if left.is_zero() {
                break;
            }
            match self.ask_one(room_id, server, left).await {
                Ok(tree) => return Ok(Some(Arc::new(tree))),
                Err(failure) => {
                    tracing::debug!(room.id = %room_id, server.name = %server, error = %failure, "no word of a room");
                    refused |= failure.is_not_found() && !failure.is_unrecognized();
                }
            }
        }
        if refused { Err(Refused) } else { Ok(None) }
    }

    async fn ask_one(&self, room_id: &RoomId, server: &ServerName, within: Duration) -> Result<Tree, Failure> {
        let request = get_hierarchy::v1::Request::new(room_id.to_owned());
        let request = self.federation.remote().signed(server, request)?;
        let patience = self.federation.once().within(within).up_to(MAX_ANSWER);
        let answer = self.federation.exchange(server, request, patience).await?;
        read(room_id, answer.body())
    }
}

/// Reads what a server says of a room. What is nonsense about a child costs that child alone.
fn read(room_id: &RoomId, body: &[u8]) -> Result<Tree, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        room: Value,
        #[serde(default)]
        children: Vec<Value>,
        #[serde(default)]
        inaccessible_children: Vec<Value>,
    }
    let nonsense = |e: serde_json::Error| Failure::Nonsense(e.to_string());
    let mut answer: Answer = serde_json::from_slice(body).map_err(nonsense)?;
    let state = answer.room.get_mut("children_state").map(Value::take).unwrap_or_default();
    let summary: Summary = serde_json::from_value(answer.room).map_err(nonsense)?;
    if summary.room_id != room_id {
        return Err(Failure::Nonsense("it tells of another room".to_owned()));
    }
    let state = if let Value::Array(state) = state { state } else { Vec::new() };
    let mut children: Vec<(Rank, Child)> = state.into_iter().filter_map(child_of).collect();
    children.sort_by(|(a, _), (b, _)| a.cmp(b));
    children.truncate(MAX_CHILDREN);
    let children: Vec<Child> = children.into_iter().map(|(_, child)| child).collect();
    let named: HashSet<&OwnedRoomId> = children.iter().map(|c| &c.room_id).collect();
    let summaries = answer.children.into_iter().filter_map(|c| serde_json::from_value::<Summary>(c).ok());
    let summaries =
        summaries.filter(|s| named.contains(&s.room_id)).map(|s| (s.room_id.clone(), Arc::new(s))).collect();
    let inaccessible = answer.inaccessible_children.iter().filter_map(|id| RoomId::parse(id.as_str()?).ok());
    let inaccessible = inaccessible.filter(|id| named.contains(id)).collect();
    Ok(Tree {
        summary: Arc::new(summary),
        summaries,
        inaccessible,
        children: Arc::new(children),
        // In memory it is about as large as it came, and a little more.
        weight: u32::try_from(body.len() * 2 + 1_000).unwrap_or(u32::MAX),
    })
}

/// A child as another server's space names it.
fn child_of(event: Value) -> Option<(Rank, Child)> {
    #[derive(Deserialize)]
    struct Stripped {
        r#type: String,
        state_key: OwnedRoomId,
        sender: ruma::OwnedUserId,
        origin_server_ts: ruma::UInt,
        content: Value,
    }
    let event: Stripped = serde_json::from_value(event).ok()?;
    if event.r#type != "m.space.child" {
        return None;
    }
    let content = Content::deserialize(&event.content).ok()?;
    let json = json!({
        "type": event.r#type,
        "state_key": event.state_key,
        "sender": event.sender,
        "origin_server_ts": event.origin_server_ts,
        "content": event.content,
    });
    child_from(event.state_key, content, event.origin_server_ts.into(), json.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(room: &Value, children: &Value) -> Result<Tree, Failure> {
        let body = json!({ "room": room, "children": children, "inaccessible_children": ["!d:x", 5, "!other:x"] });
        read(<&RoomId>::try_from("!a:x").unwrap(), body.to_string().as_bytes())
    }

    #[test]
    fn nonsense_about_a_child_costs_that_child() {
        let child = |key: &str, content: Value| json!({ "type": "m.space.child", "state_key": key, "sender": "@a:x", "origin_server_ts": 5, "content": content, "unsigned": {} });
        let via = json!({ "via": ["x", "not a name", 5, "y:1"], "suggested": true });
        let state = json!([
            child("!b:x", via),
            child("!c:x", json!({})),
            child("no room", json!({ "via": ["x"] })),
            5,
            child("!d:x", json!({ "via": ["x"] }))
        ]);
        let room = json!({ "room_id": "!a:x", "num_joined_members": 3, "world_readable": true, "guest_can_join": false, "children_state": state });
        let summary = |id: &str| json!({ "room_id": id, "num_joined_members": 1, "name": "n" });
        let tree = tree(&room, &json!([summary("!b:x"), summary("!stranger:x"), 7])).unwrap();
        assert_eq!(tree.summary.join_rule, "public", "what is assumed where nothing is said");
        let ids: Vec<&str> = tree.children.iter().map(|c| c.room_id.as_str()).collect();
        assert_eq!(ids, ["!b:x", "!d:x"]);
        assert_eq!(tree.children[0].via.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["x", "y:1"]);
        assert!(tree.children[0].suggested && !tree.children[0].json.contains("unsigned"));
        assert_eq!(tree.summaries.len(), 1);
        assert_eq!(tree.inaccessible.len(), 1);
    }

    #[test]
    fn another_room_is_no_answer() {
        tree(&json!({ "room_id": "!b:x" }), &json!([])).unwrap_err();
        tree(&json!(5), &json!([])).unwrap_err();
        assert!(tree(&json!({ "room_id": "!a:x", "children_state": 5 }), &json!([])).is_ok());
    }
}
