//! Holes in what we have of a room: which events are named and not here, how often others were asked for them in vain, and
//! where a timeline is not to run on as if nothing were missing.

use std::collections::HashMap;

use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos},
    stream::HistoryToken,
};
use ruma::OwnedEventId;

use super::{Append, Standing, placed::Placed};
use crate::{Store, execute, fetch_all, fetch_optional, graph::event_id, later, log::Tx};

/// An event that others of its room name and that we do not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The event.
    pub event_id: OwnedEventId,
    /// The depth of who names it.
    pub depth: i64,
    /// How often others were asked for it in vain.
    pub tries: i64,
    /// When they may be asked again, ms.
    pub retry_ms: i64,
}

const LOWEST: &str = "SELECT MIN(pos) FROM events WHERE room_nid = $1";
const GAPS: &str = "SELECT event_id, depth, tries, retry_ms FROM missing_events WHERE room_nid = $1 AND depth > $2 AND depth <= $3 ORDER BY depth DESC, event_id LIMIT $4";
const DEFER: &str = "UPDATE missing_events SET tries = $3, retry_ms = $4 WHERE room_nid = $1 AND event_id = $2";
const NEWEST: &str = "SELECT MAX(pos) FROM gaps WHERE room_nid = $1 AND pos > $2 AND pos <= $3";
const SHALLOWEST: &str = "SELECT depth, pos FROM (\
     SELECT depth, pos FROM events WHERE room_nid = $1 AND pos > $2 ORDER BY pos LIMIT 10000) n ORDER BY depth, pos LIMIT 1";
const DEEPEST: &str =
    "SELECT depth, pos FROM events WHERE room_nid = $1 AND pos > 0 AND pos <= $2 ORDER BY depth DESC, pos DESC LIMIT 1";

/// The position of the first backfilled event of an append: all of them stand before whatever the room has, each after
/// those before it, so that no page of history that was given out changes. `floors` has what was drawn before.
pub(super) async fn below(tx: &mut Tx, append: &Append, floors: &mut HashMap<RoomNid, i64>) -> Result<i64> {
    let count = append.events.iter().filter(|e| e.standing == Standing::Backfilled).count();
    if count == 0 {
        return Ok(0);
    }
    let room = append.room.nid;
    let floor = match floors.get(&room) {
        Some(floor) => *floor,
        None => lowest(tx, room).await?,
    };
    let first = floor - i64::try_from(count).unwrap_or(i64::MAX / 2);
    floors.insert(room, first);
    Ok(first)
}

/// The lowest position of a room, 0 at most.
pub(super) async fn lowest(tx: &mut Tx, room: RoomNid) -> Result<i64> {
    let lowest: Option<(Option<i64>,)> = fetch_optional!(tx, (Option<i64>,), LOWEST, room.0)?;
    Ok(lowest.and_then(|(pos,)| pos).unwrap_or(0).min(0))
}

/// Notes which predecessors are not here, and after which of them the timeline goes on; of rooms that know only one line
/// of events there are none.
pub(super) async fn note(tx: &mut Tx, appends: &[&Append], placed: &[Placed<'_>]) -> Result<()> {
    const MISSING: &str = "INSERT INTO missing_events (room_nid, event_id, depth, tries, retry_ms) VALUES ($1, $2, $3, 0, 0) ON CONFLICT DO NOTHING";
    const FOUND: &str = "DELETE FROM missing_events WHERE room_nid = $1 AND event_id = $2";
    const GAP: &str = "INSERT INTO gaps (room_nid, pos) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    for append in appends.iter().filter(|a| a.room.head.forked) {
        let room = append.room.nid;
        for (event_id, depth) in &append.missing {
            tx.store().inner.event_memory.missing.add((room, event_id.as_str()));
            later!(tx, MISSING, room.0, event_id.as_str(), *depth)?;
        }
        for event in append.events.iter().filter(|e| e.standing != Standing::Outlier) {
            let event_id = event.pdu.event_id();
            if tx.store().inner.event_memory.missing.may_have((room, event_id.as_str())) {
                later!(tx, FOUND, room.0, event_id.as_str())?;
                let event_id = event_id.to_owned();
                tx.after_commit(move |store| store.inner.event_memory.missing.remove((room, event_id.as_str())));
            }
        }
        if append.missing.is_empty() {
            continue;
        }
        tx.after_commit(move |store| store.inner.event_memory.torn(room));
        for p in placed.iter().filter(|p| p.room == room && p.event.standing == Standing::Live) {
            if p.event.pdu.prev_events().iter().any(|id| append.missing.iter().any(|(missing, _)| missing == id)) {
                later!(tx, GAP, room.0, p.pos.0)?;
            }
        }
    }
    Ok(())
}

impl Store {
    /// The events that a room lacks and that somebody names whose depth is in `(above, upto]`, deepest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn gaps(&self, room: RoomNid, above: i64, upto: i64, limit: usize) -> Result<Vec<Gap>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(String, i64, i64, i64)> =
            fetch_all!(&mut self.read().await?, (String, i64, i64, i64), GAPS, room.0, above, upto, limit)?;
        rows.into_iter()
            .map(|(id, depth, tries, retry_ms)| Ok(Gap { event_id: event_id(id)?, depth, tries, retry_ms }))
            .collect()
    }

    /// Notes that others were asked in vain for events, and until when they are not to be asked again.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn defer_gaps(&self, room: RoomNid, gaps: Vec<Gap>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for gap in &gaps {
                    execute!(tx, DEFER, room.0, gap.event_id.as_str(), gap.tries, gap.retry_ms)?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The newest event of a room in `(after, upto]` that was news while not all it follows was here.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_gap(&self, room: RoomNid, after: StreamPos, upto: StreamPos) -> Result<Option<StreamPos>> {
        if !self.torn_since(room, after).await? {
            return Ok(None);
        }
        let row: Option<(Option<i64>,)> =
            fetch_optional!(&mut self.read().await?, (Option<i64>,), NEWEST, room.0, after.0, upto.0)?;
        Ok(row.and_then(|(pos,)| pos).map(StreamPos))
    }

    /// The first place in history of what has been news since that position, of the oldest ten thousand.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn first_place(&self, room: RoomNid, after: StreamPos) -> Result<Option<HistoryToken>> {
        let row: Option<(i64, i64)> =
            fetch_optional!(&mut self.read().await?, (i64, i64), SHALLOWEST, room.0, after.0)?;
        Ok(row.map(|(depth, pos)| HistoryToken { depth, pos: StreamPos(pos) }))
    }

    /// The last place in history of what was news up to that position: where branches meet, that need not be the newest.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn last_place(&self, room: RoomNid, upto: StreamPos) -> Result<Option<HistoryToken>> {
        let row: Option<(i64, i64)> = fetch_optional!(&mut self.read().await?, (i64, i64), DEEPEST, room.0, upto.0)?;
        Ok(row.map(|(depth, pos)| HistoryToken { depth, pos: StreamPos(pos) }))
    }
}
