//! Walks back through the graph of a room for another server: pages of history, and gaps between what it has.
//!
//! Both follow `prev_events`, not positions: what one server saw in which order says nothing to another. Rejected events
//! are walked through and not given, outliers end a walk, soft-failed events are given: others may build upon them.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{Result, ids::StreamPos, stream::HistoryToken};
use hearth_store::events::{Direction, Standing, StoredEvent};
use ruma::{OwnedEventId, RoomId, ServerName};

use super::{Answers, Eyes};

/// Events of a page of history at most.
const MAX_BACKFILL: usize = 100;
/// Missing events given at once at most.
const MAX_MISSING: usize = 20;
/// Events named by a question that are looked at.
const MAX_NAMED: usize = 100;

/// Which events another server misses (spec: `POST /get_missing_events/{roomId}`).
#[derive(Clone, Copy, Debug)]
pub struct Missing<'a> {
    /// What it has: the walk ends there.
    pub earliest: &'a [OwnedEventId],
    /// What it knows the predecessors of by name only: the walk begins there.
    pub latest: &'a [OwnedEventId],
    /// Nothing of less depth.
    pub min_depth: u64,
    /// Events at most.
    pub limit: usize,
}

/// An event in the order of a walk: the deepest first, then the newest.
struct Next(Arc<StoredEvent>);

impl Next {
    fn rank(&self) -> (i64, Option<StreamPos>, i64) {
        (self.0.depth, self.0.pos, self.0.nid.0)
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Next {}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl Answers {
    /// Events and those before them, deepest first, as a transaction (spec: `GET /backfill/{roomId}`).
    ///
    /// # Errors
    /// 403 for a server that is not in the room.
    pub async fn backfill(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<String> {
        let mut eyes = self.enter(server, room_id).await?;
        let limit = limit.min(MAX_BACKFILL);
        let mut seen: HashSet<OwnedEventId> = from.iter().take(MAX_NAMED).cloned().collect();
        let named: Vec<OwnedEventId> = seen.iter().cloned().collect();
        let mut next: BinaryHeap<Next> = self.placed(&eyes, &named).await?.into_iter().map(Next).collect();
        // Mostly history is one line: what comes next by depth is read at once, and the walk finds it in memory.
        let mut near: HashMap<OwnedEventId, Arc<StoredEvent>> = HashMap::new();
        if let Some(deepest) = next.peek() {
            let start = HistoryToken { depth: deepest.0.depth, pos: StreamPos(i64::MAX) };
            let room = eyes.room.nid;
            for event in self.store.history(room, Direction::Backward, start, HistoryToken::START, limit).await? {
                near.insert(event.event_id().to_owned(), event);
            }
        }
        let (mut found, mut walked) = (Vec::new(), 0);
        while let Some(Next(event)) = next.pop() {
            walked += 1;
            if found.len() >= limit || walked > 4 * MAX_BACKFILL {
                break;
            }
            let mut far = Vec::new();
            for id in event.pdu.prev_events() {
                if seen.insert(id.clone()) {
                    match near.remove(id) {
                        Some(event) => next.push(Next(event)),
                        None => far.push(id.clone()),
                    }
                }
            }
            if !far.is_empty() {
                next.extend(self.placed(&eyes, &far).await?.into_iter().map(Next));
            }
            if event.standing != Standing::Rejected {
                found.push(event);
            }
        }
        let mut out = self.transaction();
        self.write_all(&mut out, &mut eyes, &found).await?;
        out.push_str("]}");
        Ok(out)
    }

    /// Events between those a server has and those it knows of, oldest first.
    ///
    /// # Errors
    /// 403 for a server that is not in the room.
    pub async fn missing(&self, server: &ServerName, room_id: &RoomId, ask: Missing<'_>) -> Result<String> {
        let mut eyes = self.enter_any(server, room_id).await?;
        let limit = ask.limit.min(MAX_MISSING);
        let min_depth = i64::try_from(ask.min_depth).unwrap_or(i64::MAX);
        let mut seen: HashSet<OwnedEventId> = ask.earliest.iter().take(MAX_NAMED).cloned().collect();
        let named: Vec<OwnedEventId> =
            ask.latest.iter().take(MAX_NAMED).filter(|id| seen.insert((*id).clone())).cloned().collect();
        let mut layer = self.placed(&eyes, &named).await?;
        let (mut found, mut walked) = (Vec::new(), 0);
        while !layer.is_empty() && found.len() < limit && walked < 4 * MAX_BACKFILL {
            let before = layer.iter().flat_map(|e| e.pdu.prev_events());
            let before: Vec<OwnedEventId> = before.filter(|id| seen.insert((*id).clone())).cloned().collect();
            layer = self.placed(&eyes, &before).await?;
            layer.retain(|e| e.depth >= min_depth);
            walked += layer.len();
            let given = |e: &&Arc<StoredEvent>| {
                let vouched = !eyes.room.head.partial || *e.pdu.sender().server_name() == self.name;
                vouched && e.standing != Standing::Rejected
            };
            found.extend(layer.iter().filter(given).cloned());
        }
        found.truncate(limit);
        found.reverse();
        let mut out = String::from("{\"events\":[");
        self.write_all(&mut out, &mut eyes, &found).await?;
        out.push_str("]}");
        Ok(out)
    }

    /// Those of the named events that have a place in the room's graph.
    async fn placed(&self, eyes: &Eyes, ids: &[OwnedEventId]) -> Result<Vec<Arc<StoredEvent>>> {
        let mut events = self.store.events_by_id(ids).await?;
        events.retain(|e| e.room == eyes.room.nid && e.snap.is_some());
        Ok(events)
    }

    async fn write_all(&self, out: &mut String, eyes: &mut Eyes, events: &[Arc<StoredEvent>]) -> Result<()> {
        for (n, event) in events.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            self.write_seen(out, eyes, event).await?;
        }
        Ok(())
    }
}
