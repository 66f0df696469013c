//! How the events of a room hang together: which allow which, which are missing. The edges stand with the events (table
//! `events`, column `auth`); what is walked often is kept in memory as numbers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Error, Result,
    cache::Cache,
    ids::{EventNid, KeyNid, RoomNid},
};
use ruma::{EventId, OwnedEventId};

use crate::{
    Store,
    db::{Ints, Texts},
    events::Standing,
    fetch_all,
    rooms::Room,
    sql,
    state::{unvarint, varint},
};

/// Edges remembered, in numbers.
const EDGES: u64 = 400_000;

pub(crate) fn cache() -> Cache<EventNid, Arc<[EventNid]>> {
    Cache::weighed(EDGES, |_, edges: &Arc<[EventNid]>| u32::try_from(edges.len() + 12).unwrap_or(u32::MAX))
}

/// Encodes numbers as variable-length integers.
#[must_use]
pub fn pack(nids: &[EventNid]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nids.len() * 4);
    for nid in nids {
        varint(&mut out, nid.0);
    }
    out
}

/// Decodes what [`pack`] made.
///
/// # Errors
/// A fault on bytes that it did not make.
pub fn unpack(packed: &[u8]) -> Result<Vec<EventNid>> {
    let mut bytes = packed.iter();
    let mut out = Vec::new();
    while !bytes.as_slice().is_empty() {
        let nid = unvarint(&mut bytes).ok_or_else(|| Error::broken("a list of auth events ends in the middle"))?;
        out.push(EventNid(nid));
    }
    Ok(out)
}

/// An event that we have, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub nid: EventNid,
    /// Its room.
    pub room: RoomNid,
    /// How it stands.
    pub standing: Standing,
}

const MISSING: &str = "SELECT event_id, depth FROM missing_events WHERE room_nid = $1 ORDER BY depth DESC LIMIT $2";

impl Store {
    /// Which of these events we have, and how they stand.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn known_events(&self, ids: &[OwnedEventId]) -> Result<HashMap<OwnedEventId, Known>> {
        let sql = sql!("SELECT event_id, event_nid, room_nid, standing FROM events WHERE event_id " [in 1]);
        let mut known = HashMap::with_capacity(ids.len());
        let mut texts = Vec::new();
        for id in ids.iter().filter(|id| !id.as_str().contains('\0')) {
            let nid = self.inner.event_nids.get(id.as_str());
            match nid.and_then(|nid| self.inner.events.get(&nid)) {
                Some(e) => drop(known.insert(id.clone(), Known { nid: e.nid, room: e.room, standing: e.standing })),
                None => texts.push(id.to_string()),
            }
        }
        if texts.is_empty() {
            return Ok(known);
        }
        let rows: Vec<(String, i64, i64, i64)> =
            fetch_all!(&mut self.read().await?, (String, i64, i64, i64), sql, Texts(texts))?;
        for (id, nid, room, standing) in rows {
            let id = OwnedEventId::try_from(id).map_err(|e| Error::fault("events table", e))?;
            let standing = Standing::from_code(standing);
            self.inner.event_nids.insert(id.as_str().into(), EventNid(nid));
            known.insert(id, Known { nid: EventNid(nid), room: RoomNid(room), standing });
        }
        Ok(known)
    }

    /// Whether it may be that we have an event, as far as memory tells without the database: its depth is one that the room
    /// has reached, or its name is remembered, as that of what was refused lately. What lies deeper and is not remembered may
    /// have been refused long ago, or be stored without a place; that is rare, and storing it again finds it out.
    #[must_use]
    pub fn may_have(&self, room: &Room, id: &EventId, depth: u64) -> bool {
        i64::try_from(depth).is_ok_and(|depth| depth <= room.head.depth)
            || self.inner.event_nids.get(id.as_str()).is_some()
    }

    /// Those of these events that are state of a room: which entry, which event, and how it stands.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn state_entries(
        &self,
        room: RoomNid,
        ids: &[OwnedEventId],
    ) -> Result<Vec<(KeyNid, EventNid, Standing)>> {
        let sql = sql!("SELECT key_nid, event_nid, standing FROM events WHERE room_nid = $1 AND key_nid IS NOT NULL AND event_id " [in 2]);
        let texts: Vec<String> = ids.iter().map(ToString::to_string).filter(|id| !id.contains('\0')).collect();
        let rows: Vec<(Option<i64>, i64, i64)> =
            fetch_all!(&mut self.read().await?, (Option<i64>, i64, i64), sql, room.0, Texts(texts))?;
        let entry = |(key, nid, standing): (Option<i64>, i64, i64)| {
            Some((KeyNid(key?), EventNid(nid), Standing::from_code(standing)))
        };
        Ok(rows.into_iter().filter_map(entry).collect())
    }

    /// The auth events of these events. Those whose auth events we do not all have are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn auth_edges(&self, nids: &[EventNid]) -> Result<HashMap<EventNid, Arc<[EventNid]>>> {
        let cache = &self.inner.auth_edges;
        let mut found = HashMap::with_capacity(nids.len());
        let mut unknown = Vec::new();
        for nid in nids {
            match cache.get(nid) {
                Some(edges) => drop(found.insert(*nid, edges)),
                None => unknown.push(nid.0),
            }
        }
        for part in unknown.chunks(5_000) {
            let sql = sql!("SELECT event_nid, auth FROM events WHERE auth IS NOT NULL AND event_nid " [in 1]);
            let rows: Vec<(i64, Vec<u8>)> =
                fetch_all!(&mut self.read().await?, (i64, Vec<u8>), sql, Ints(part.to_vec()))?;
            for (nid, packed) in rows {
                let edges: Arc<[EventNid]> = unpack(&packed)?.into();
                cache.insert(EventNid(nid), edges.clone());
                found.insert(EventNid(nid), edges);
            }
        }
        Ok(found)
    }

    /// Which of these are state events of that key.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn events_of_key(&self, nids: &[EventNid], key: KeyNid) -> Result<Vec<EventNid>> {
        let sql = sql!("SELECT event_nid FROM events WHERE key_nid = $1 AND event_nid " [in 2]);
        let mut found = Vec::new();
        for part in nids.chunks(5_000) {
            let part = Ints(part.iter().map(|nid| nid.0).collect());
            let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, key.0, part)?;
            found.extend(rows.into_iter().map(|(nid,)| EventNid(nid)));
        }
        Ok(found)
    }

    /// The union of the auth chains of these events, themselves not included unless one is in another's.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn auth_chain(&self, of: impl IntoIterator<Item = EventNid>) -> Result<HashSet<EventNid>> {
        let mut chain = HashSet::new();
        let mut layer: Vec<EventNid> = of.into_iter().collect();
        let mut walked: HashSet<EventNid> = layer.iter().copied().collect();
        while !layer.is_empty() {
            let mut next = Vec::new();
            for edges in self.auth_edges(&layer).await?.values() {
                for nid in edges.iter() {
                    if chain.insert(*nid) && walked.insert(*nid) {
                        next.push(*nid);
                    }
                }
            }
            layer = next;
        }
        Ok(chain)
    }

    /// Events that others of a room name as their predecessors and that we do not have, with the depth of who names
    /// them; deepest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn missing_events(&self, room: RoomNid, limit: usize) -> Result<Vec<(OwnedEventId, i64)>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(String, i64)> = fetch_all!(&mut self.read().await?, (String, i64), MISSING, room.0, limit)?;
        rows.into_iter().map(|(id, depth)| Ok((event_id(id)?, depth))).collect()
    }

    /// Which of these events of a room are named by others that we have, while we do not have them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn missing_among(&self, room: RoomNid, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>> {
        let sql = sql!("SELECT event_id FROM missing_events WHERE room_nid = $1 AND event_id " [in 2]);
        let memory = &self.inner.event_memory.missing;
        let named = ids.iter().filter(|id| memory.may_have((room, id.as_str())));
        let texts: Vec<String> = named.map(ToString::to_string).collect();
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<(String,)> = fetch_all!(&mut self.read().await?, (String,), sql, room.0, Texts(texts))?;
        rows.into_iter().map(|(id,)| event_id(id)).collect()
    }
}

pub(crate) fn event_id(id: String) -> Result<OwnedEventId> {
    OwnedEventId::try_from(id).map_err(|e| Error::fault("missing_events table", e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packing_round_trips() {
        let nids: Vec<EventNid> = [0, 1, 127, 128, 70_000, i64::MAX].map(EventNid).to_vec();
        assert_eq!(unpack(&pack(&nids)).unwrap(), nids);
        assert!(unpack(&[0x80]).is_err());
    }
}
