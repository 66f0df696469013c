//! State snapshots: what the state of a room was before each of its events.
//!
//! A snapshot is stored whole, or as the difference to a whole one: two point reads, never a chain. A new whole one
//! is written when the differences since the last add up to its size, which keeps both writing and reading near the
//! square root of the state. In memory, rooms in use share structure between versions ([`imbl::OrdMap`]).

use hearth_base::{
    Error, Result,
    ids::{EventNid, KeyNid, SnapNid},
};
use imbl::OrdMap;

use crate::{Store, fetch_optional};

/// States remembered with what is needed to store the next; a kilobyte or two each beside their snapshots.
pub(crate) const NEWEST: u64 = 500;

/// State as a map from key to event. Cheap to clone; versions share structure.
pub type StateMap = OrdMap<KeyNid, EventNid>;

/// A snapshot as it is stored.
#[derive(Clone, Debug)]
pub struct SnapRow {
    /// Its number.
    pub nid: SnapNid,
    /// The whole snapshot it differs from.
    pub base: Option<SnapNid>,
    /// See [`pack`].
    pub packed: Vec<u8>,
}

/// The newest state of a room, and what is needed to store the next.
#[derive(Clone, Debug)]
pub struct RoomState {
    /// The snapshot equal to `map`.
    pub snap: SnapNid,
    /// The state itself.
    pub map: StateMap,
    base: Option<SnapNid>,
    base_len: usize,
    diff: StateMap,
    /// Entries written as differences since the base.
    written: usize,
}

impl RoomState {
    /// The state before the first event; its snapshot is stored as an empty one.
    #[must_use]
    pub fn empty(nid: SnapNid) -> (Self, SnapRow) {
        let state =
            Self { snap: nid, map: StateMap::new(), base: None, base_len: 0, diff: StateMap::new(), written: 0 };
        (state, SnapRow { nid, base: None, packed: Vec::new() })
    }

    /// A state that did not come from the last one by single steps (resolution, a join from outside).
    #[must_use]
    pub fn whole(nid: SnapNid, map: StateMap) -> (Self, SnapRow) {
        let row = SnapRow { nid, base: None, packed: pack(&map) };
        let state = Self { snap: nid, base_len: map.len(), map, base: None, diff: StateMap::new(), written: 0 };
        (state, row)
    }

    /// A state near this one, as snapshot `nid`: stored as a difference while that is small.
    #[must_use]
    pub fn near(&self, nid: SnapNid, map: StateMap) -> (Self, SnapRow) {
        let mut diff = self.diff.clone();
        for change in self.map.diff(&map) {
            let (key, event) = match change {
                imbl::ordmap::DiffItem::Add(key, event) | imbl::ordmap::DiffItem::Update { new: (key, event), .. } => {
                    (key, *event)
                }
                // Event 0 stands for "removed".
                imbl::ordmap::DiffItem::Remove(key, _) => (key, EventNid(0)),
            };
            diff.insert(*key, event);
        }
        self.with(nid, map, diff)
    }

    /// The state after one more event, as snapshot `nid`.
    #[must_use]
    pub fn set(&self, nid: SnapNid, key: KeyNid, event: EventNid) -> (Self, SnapRow) {
        let mut map = self.map.clone();
        map.insert(key, event);
        let mut diff = self.diff.clone();
        diff.insert(key, event);
        self.with(nid, map, diff)
    }

    fn with(&self, nid: SnapNid, map: StateMap, diff: StateMap) -> (Self, SnapRow) {
        let written = self.written + diff.len();
        if written > self.base_len + 8 {
            return Self::whole(nid, map);
        }
        let base = self.base.unwrap_or(self.snap);
        let row = SnapRow { nid, base: Some(base), packed: pack(&diff) };
        (Self { snap: nid, map, base: Some(base), base_len: self.base_len, diff, written }, row)
    }
}

/// Encodes sorted (key, event) pairs as differences in variable-length integers. Event 0 stands for "removed".
#[must_use]
pub fn pack(map: &StateMap) -> Vec<u8> {
    let mut out = Vec::with_capacity(map.len() * 5);
    let (mut key, mut event) = (0_i64, 0_i64);
    for (k, e) in map {
        varint(&mut out, k.0.wrapping_sub(key));
        varint(&mut out, e.0.wrapping_sub(event));
        (key, event) = (k.0, e.0);
    }
    out
}

pub(crate) fn varint(out: &mut Vec<u8>, n: i64) {
    // Zigzag, then seven bits a byte.
    let mut n = ((n << 1) ^ (n >> 63)).cast_unsigned();
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The next number that [`varint`] wrote; `None` at the end, or if it is cut off.
pub(crate) fn unvarint(bytes: &mut std::slice::Iter<'_, u8>) -> Option<i64> {
    let (mut n, mut shift) = (0_u64, 0);
    loop {
        let byte = *bytes.next()?;
        n |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((n >> 1).cast_signed() ^ -((n & 1).cast_signed()));
        }
        shift += 7;
    }
}

/// Decodes what [`pack`] made.
///
/// # Errors
/// A fault on bytes that it did not make.
pub fn unpack(packed: &[u8]) -> Result<Vec<(KeyNid, EventNid)>> {
    let mut bytes = packed.iter();
    let mut next = || unvarint(&mut bytes);
    let mut out = Vec::new();
    let (mut key, mut event) = (0_i64, 0_i64);
    while let Some(k) = next() {
        let e = next().ok_or_else(|| Error::broken("a state snapshot ends in the middle"))?;
        key = key.wrapping_add(k);
        event = event.wrapping_add(e);
        out.push((KeyNid(key), EventNid(event)));
    }
    Ok(out)
}

const SNAP: &str = "SELECT base_nid, packed FROM snaps WHERE snap_nid = $1";

impl Store {
    /// The state a snapshot stands for.
    ///
    /// # Errors
    /// A fault for a snapshot that is not there.
    pub async fn snapshot(&self, nid: SnapNid) -> Result<StateMap> {
        if let Some(map) = self.inner.snaps.get(&nid) {
            return Ok(map);
        }
        let (base, packed) = self.snap_row(nid).await?;
        let map = match base {
            None => unpack(&packed)?.into_iter().collect(),
            Some(base) => overlay(Box::pin(self.snapshot(base)).await?, &unpack(&packed)?),
        };
        self.remember_snapshot(nid, &map);
        Ok(map)
    }

    fn remember_snapshot(&self, nid: SnapNid, map: &StateMap) {
        self.inner.snaps.insert(nid, map.clone());
    }

    /// Keeps a state in memory that has just been made, and is likely to be what the next event stands on.
    pub fn remember_state(&self, state: &RoomState) {
        self.remember_snapshot(state.snap, &state.map);
        self.inner.newest_states.insert(state.snap, state.clone());
    }

    /// The newest state of a room, ready for the next event.
    ///
    /// # Errors
    /// A fault for a snapshot that is not there.
    pub async fn room_state(&self, nid: SnapNid) -> Result<RoomState> {
        if let Some(state) = self.inner.newest_states.get(&nid) {
            return Ok(state);
        }
        let (base, packed) = self.snap_row(nid).await?;
        let diff: StateMap = match base {
            None => StateMap::new(),
            Some(_) => unpack(&packed)?.into_iter().collect(),
        };
        let map = self.snapshot(nid).await?;
        let base_len = match base {
            None => map.len(),
            Some(base) => self.snapshot(base).await?.len(),
        };
        let written = diff.len() * (diff.len() + 1) / 2;
        let state = RoomState { snap: nid, map, base, base_len, diff, written };
        self.inner.newest_states.insert(nid, state.clone());
        Ok(state)
    }

    async fn snap_row(&self, nid: SnapNid) -> Result<(Option<SnapNid>, Vec<u8>)> {
        let row: Option<(Option<i64>, Vec<u8>)> =
            fetch_optional!(&mut self.read().await?, (Option<i64>, Vec<u8>), SNAP, nid.0)?;
        let (base, packed) = row.ok_or_else(|| Error::broken(format!("{nid:?} is not stored")))?;
        Ok((base.map(SnapNid), packed))
    }
}

fn overlay(mut base: StateMap, diff: &[(KeyNid, EventNid)]) -> StateMap {
    for (key, event) in diff {
        if event.0 == 0 {
            base.remove(key);
        } else {
            base.insert(*key, *event);
        }
    }
    base
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packing_round_trips() {
        let map: StateMap = [(1, 5), (2, 4), (900, 0), (i64::MAX, i64::MIN)]
            .into_iter()
            .map(|(k, e)| (KeyNid(k), EventNid(e)))
            .collect();
        let back: StateMap = unpack(&pack(&map)).unwrap().into_iter().collect();
        assert_eq!(back, map);
        assert!(unpack(&[0x80]).unwrap().is_empty());
        assert!(unpack(&[2]).is_err());
        assert!(unpack(&[0xff; 20]).is_ok_and(|v| v.is_empty()));
    }

    #[test]
    fn differences_stay_small_and_wholes_come_in_time() {
        let (mut state, _) = RoomState::empty(SnapNid(1));
        let (mut bytes, mut wholes) = (0, 0);
        for n in 0..5_000 {
            let (next, row) = state.set(SnapNid(n + 2), KeyNid(n + 1), EventNid(n + 1));
            bytes += row.packed.len();
            wholes += usize::from(row.base.is_none());
            state = next;
        }
        assert_eq!(state.map.len(), 5_000);
        assert!(wholes < 400, "{wholes} whole snapshots");
        assert!(bytes < 5_000 * 500, "{bytes} bytes");
    }
}
