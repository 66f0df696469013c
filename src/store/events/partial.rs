//! Rooms whose state came in part (MSC3902): who may tell the rest, and which events have states that are to be replaced.
//!
//! Owns the tables `partial_rooms` and `partial_events`. While a room has a row, so do all of its events whose state before
//! them was found from what is not whole; when no event is left, the room's state is whole, and the log says so.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Doing, Error, Result,
    ids::{EventNid, RoomNid, SnapNid, StreamPos, UserNid},
};
use ruma::{OwnedServerName, ServerName};

use super::{Append, Standing, gaps, placed::Placed};
use crate::{
    Store,
    db::Ints,
    execute, fetch_all, fetch_optional, insert_rows, later,
    log::{Change, Tx},
    sql,
};

/// How an append changes what is known of a room's state.
#[derive(Clone, Debug, Default)]
pub enum Wholeness {
    /// Not at all.
    #[default]
    Same,
    /// The room is entered with all of its state, or with part of it. What stood on part of its state before has none
    /// that is known.
    Entered(Option<Part>),
    /// The state at our join had a hole that can be filled: the room is partial again until all that was placed since,
    /// and that join, has got other states.
    Again {
        /// The event by which we came in.
        join: EventNid,
        /// Its depth: what lies above stands.
        depth: i64,
        /// The server that fills the hole.
        part: Part,
    },
    /// All of its state is there.
    Whole {
        /// Servers that were in the room since we are, and of which we did not know.
        met: Arc<[OwnedServerName]>,
    },
}

/// What came with part of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The server that let us in.
    pub via: OwnedServerName,
    /// Those that were in the room before us, as it said.
    pub servers: Vec<OwnedServerName>,
}

/// A room whose state is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRoom {
    /// Which.
    pub room: RoomNid,
    /// The event by which we came in.
    pub join: EventNid,
    /// What came with its part.
    pub part: Part,
    /// Whether its state was whole before but for a hole: what is told of the join fills that, and changes nothing else.
    pub again: bool,
    /// How often all who may know were asked in vain.
    pub tries: i64,
    /// Not to be asked before, ms.
    pub retry_ms: i64,
}

/// An event with other states than before.
#[derive(Clone, Debug)]
pub struct Restated {
    /// Which.
    pub event: EventNid,
    /// State before it.
    pub snap: SnapNid,
    /// State after it.
    pub after: SnapNid,
    /// The state event it takes the place of.
    pub replaces: Option<EventNid>,
    /// How it stands, if that has changed: rejected, or part of the timeline without ever having been news.
    pub standing: Option<Standing>,
}

#[derive(sqlx::FromRow)]
struct Row {
    room_nid: i64,
    join_nid: i64,
    via: String,
    servers: String,
    again: bool,
    tries: i64,
    retry_ms: i64,
}

impl TryFrom<Row> for PartialRoom {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let via = row.via.try_into().map_err(|e: ruma::IdParseError| Error::fault("partial_rooms table", e))?;
        let servers = serde_json::from_str(&row.servers).doing("reading the servers of a room")?;
        let part = Part { via, servers };
        let (room, join) = (RoomNid(row.room_nid), EventNid(row.join_nid));
        Ok(Self { room, join, part, again: row.again, tries: row.tries, retry_ms: row.retry_ms })
    }
}

const ROOMS: &str =
    "SELECT room_nid, join_nid, via, servers, again, tries, retry_ms FROM partial_rooms ORDER BY room_nid";
const ROOM: &str =
    "SELECT room_nid, join_nid, via, servers, again, tries, retry_ms FROM partial_rooms WHERE room_nid = $1";
const PUT_ROOM: &str = "INSERT INTO partial_rooms (room_nid, join_nid, via, servers, again, tries, retry_ms) VALUES ($1, $2, $3, $4, $5, 0, 0) ON CONFLICT (room_nid) DO UPDATE SET join_nid = excluded.join_nid, via = excluded.via, servers = excluded.servers, again = excluded.again, tries = 0, retry_ms = 0";
const ANY_OF: &str = "SELECT room_nid FROM partial_rooms WHERE via = $1 OR servers LIKE $2 LIMIT 1";
const DEFER: &str = "UPDATE partial_rooms SET tries = $2, retry_ms = $3 WHERE room_nid = $1";
const DROP_ROOM: &str = "DELETE FROM partial_rooms WHERE room_nid = $1";
const EVENTS: &str = "SELECT event_nid FROM partial_events WHERE room_nid = $1 ORDER BY rev LIMIT $2";
const NOTE_AGAIN: &str = "INSERT INTO partial_events (room_nid, rev, event_nid) SELECT room_nid, -ROW_NUMBER() OVER (ORDER BY depth DESC, event_nid DESC), event_nid FROM (SELECT room_nid, depth, event_nid FROM events WHERE room_nid = $1 AND depth >= $2 AND pos IS NOT NULL AND after_nid IS NOT NULL UNION ALL SELECT room_nid, depth, event_nid FROM events WHERE room_nid = $1 AND depth >= $2 AND pos IS NULL AND after_nid IS NOT NULL) AS placed";
const DROP_EVENTS: &str = "DELETE FROM partial_events WHERE room_nid = $1";
const FORGET_STATES: &str = "UPDATE events SET snap_nid = NULL, after_nid = NULL WHERE event_nid IN (SELECT event_nid FROM partial_events WHERE room_nid = $1)";
const REJECT: &str = "UPDATE events SET standing = $2, pos = NULL WHERE event_nid = $1";
const UNRELATE: &str = "DELETE FROM relations WHERE event_nid = $1";
const PLACE: &str = "UPDATE events SET standing = $2, pos = $3 WHERE event_nid = $1";
const SPEAKERS: &str = "SELECT DISTINCT sender_nid FROM events WHERE room_nid = $1 AND pos > $2";

impl Store {
    /// The rooms whose state is not whole.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn partial_rooms(&self) -> Result<Vec<PartialRoom>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, ROOMS)?;
        rows.into_iter().map(PartialRoom::try_from).collect()
    }

    /// Whether a server was named to be in a room whose state is not whole.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn may_be_in_part(&self, server: &ServerName) -> Result<bool> {
        // No server's name has a sign in it that a pattern or JSON takes for something else.
        let named = format!("%\"{server}\"%");
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), ANY_OF, server.as_str(), named)?;
        Ok(row.is_some())
    }

    /// What is known of a room whose state is not whole; `None` if it is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn partial_room(&self, room: RoomNid) -> Result<Option<PartialRoom>> {
        let row: Option<Row> = fetch_optional!(&mut self.read().await?, Row, ROOM, room.0)?;
        row.map(PartialRoom::try_from).transpose()
    }

    /// Notes that all who may know a room's state were asked in vain, and until when they are not to be asked again.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn defer_partial_room(&self, room: RoomNid, tries: i64, retry_ms: i64) -> Result<()> {
        self.write(move |tx| Box::pin(async move { execute!(tx, DEFER, room.0, tries, retry_ms).map(drop) })).await
    }

    /// The events of a room whose states are not whole, each after those it follows that were here when it came.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn partial_events(&self, room: RoomNid, limit: usize) -> Result<Vec<EventNid>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), EVENTS, room.0, limit)?;
        Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
    }

    /// Which of these events have states that are not whole.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn partial_among(&self, events: &[EventNid]) -> Result<Vec<EventNid>> {
        let sql = sql!("SELECT event_nid FROM partial_events WHERE event_nid " [in 1]);
        let events = Ints(events.iter().map(|nid| nid.0).collect());
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, events)?;
        Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
    }

    /// Whose events came into a room's timeline after a position.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn speakers_since(&self, room: RoomNid, after: StreamPos) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), SPEAKERS, room.0, after.0)?;
        Ok(rows.into_iter().map(|(nid,)| UserNid(nid)).collect())
    }
}

/// Notes which of the events have states that are to be replaced; after [`change`], which forgets those before, or has
/// noted all that there are.
pub(super) async fn note(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<()> {
    let rows: Vec<(i64, i64, i64)> =
        placed.iter().filter_map(|p| Some((p.room.0, p.event.partial?, p.event.nid.0))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    insert_rows!(tx, &rows,
    "INSERT INTO partial_events (room_nid, rev, event_nid) VALUES ($1, $2, $3) ON CONFLICT (event_nid) DO NOTHING",
    "INSERT INTO partial_events (room_nid, rev, event_nid) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[]) ON CONFLICT (event_nid) DO NOTHING",
    r => { room: i64 = r.0, rev: i64 = r.1, event: i64 = r.2 })
}

/// Gives events their states.
pub(super) async fn restate(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    for append in appends.iter().filter(|a| !a.restated.is_empty()) {
        insert_rows!(tx, &append.restated,
        "UPDATE events SET snap_nid = $2, after_nid = $3, replaces_nid = $4 WHERE event_nid = $1",
        "UPDATE events SET snap_nid = b, after_nid = c, replaces_nid = d FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[]) AS t(a, b, c, d) WHERE event_nid = t.a",
        r => {
            event: i64 = r.event.0,
            snap: i64 = r.snap.0,
            after: i64 = r.after.0,
            replaces: Option<i64> = r.replaces.map(|n| n.0),
        })?;
        let done = sql!("DELETE FROM partial_events WHERE event_nid " [in 1]);
        execute!(tx, done, Ints(append.restated.iter().map(|r| r.event.0).collect()))?;
        let mut floor: Option<i64> = None;
        for restated in &append.restated {
            match restated.standing {
                Some(Standing::Backfilled) => {
                    let lowest = match floor {
                        Some(floor) => floor,
                        None => gaps::lowest(tx, append.room.nid).await?,
                    };
                    floor = Some(lowest - 1);
                    execute!(tx, PLACE, restated.event.0, Standing::Backfilled.code(), lowest - 1)?;
                }
                Some(standing) => {
                    execute!(tx, REJECT, restated.event.0, standing.code())?;
                    execute!(tx, UNRELATE, restated.event.0)?;
                }
                None => {}
            }
            tx.stale(restated.event);
        }
    }
    Ok(())
}

/// Notes which rooms' states are not whole any more, or are again. Gives where in the log they became so.
pub(super) async fn change(tx: &mut Tx, appends: &[&Append]) -> Result<HashMap<RoomNid, StreamPos>> {
    let mut whole = HashMap::new();
    for append in appends {
        let room = append.room.nid;
        match &append.wholeness {
            Wholeness::Same => {}
            Wholeness::Entered(part) => {
                // Of a room that was only heard of there is nothing.
                let is_new = append.on_rev.is_none_or(|rev| rev == 0);
                if !is_new {
                    forget(tx, room).await?;
                }
                match part {
                    Some(part) => {
                        let servers = serde_json::to_string(&part.servers).doing("writing the servers of a room")?;
                        let join =
                            append.events.iter().find(|e| e.standing == Standing::Live).map_or(0, |join| join.nid.0);
                        later!(tx, PUT_ROOM, room.0, join, part.via.as_str(), servers, false)?;
                    }
                    None if is_new => {}
                    None => later!(tx, DROP_ROOM, room.0)?,
                }
                tx.log(Change::State { room, changes: Arc::new([]) });
                if part.is_some() {
                    tx.after_commit(move |store| store.inner.partial.ring());
                }
            }
            Wholeness::Again { join, depth, part } => {
                let servers = serde_json::to_string(&part.servers).doing("writing the servers of a room")?;
                later!(tx, PUT_ROOM, room.0, join.0, part.via.as_str(), servers, true)?;
                // Their revisions lie below all that the room will have.
                execute!(tx, NOTE_AGAIN, room.0, *depth)?;
                tx.after_commit(move |store| store.inner.partial.ring());
            }
            Wholeness::Whole { met } => {
                let pos = tx.log(Change::Whole { room, met: met.clone() });
                later!(tx, DROP_EVENTS, room.0)?;
                later!(tx, DROP_ROOM, room.0)?;
                whole.insert(room, pos);
            }
        }
    }
    Ok(whole)
}

/// Takes the states of an earlier stay away that will not be replaced any more: nobody was there who could be asked.
async fn forget(tx: &mut Tx, room: RoomNid) -> Result<()> {
    let old: Vec<(i64,)> = fetch_all!(tx, (i64,), EVENTS, room.0, i64::MAX)?;
    if old.is_empty() {
        return Ok(());
    }
    execute!(tx, FORGET_STATES, room.0)?;
    old.iter().for_each(|(event,)| tx.stale(EventNid(*event)));
    execute!(tx, DROP_EVENTS, room.0).map(drop)
}

/// Rings when there is work for those who complete rooms.
#[derive(Debug, Default)]
pub(crate) struct Bell(tokio::sync::Notify);

impl Bell {
    pub(super) fn ring(&self) {
        self.0.notify_one();
    }

    pub(super) fn rung(&self) -> &tokio::sync::Notify {
        &self.0
    }
}

impl Store {
    /// Rings when a room was entered with part of its state, or a hole in it is to be filled; for the one who completes them.
    #[must_use]
    pub fn partial_bell(&self) -> &tokio::sync::Notify {
        self.inner.partial.rung()
    }
}
