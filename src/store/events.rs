//! Events: stored once, as signed; cached parsed. What is to be stored is in `append.rs`, the bulk half of the append path in
//! [`write`].

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Error, Result,
    ids::{EventNid, KeyNid, RoomNid, SnapNid, StreamPos, UserNid},
    stream::HistoryToken,
};
use hearth_rules::{event::Pdu, versions::RoomVersion};
use ruma::{EventId, OwnedEventId};

use crate::{
    Store,
    db::{Ints, Texts},
    execute, fetch_all, fetch_optional, sql,
};

mod append;
mod changes;
mod gaps;
mod heads;
mod held;
mod lacking;
mod members;
mod memory;
mod news;
mod outliers;
mod outside;
mod partial;
mod placed;
mod redactions;
mod texts;
mod write;

pub use append::{
    Append, Appended, LateRedaction, MemberRow, NewEvent, NewMembership, NewPushAction, NewRedaction, NewRelation,
    StateChange,
};
pub use changes::Changed;
pub use gaps::Gap;
pub use held::{HeldEvent, HeldGroup};
pub use lacking::Lacking;
pub(crate) use memory::Memory;
pub(crate) use partial::Bell;
pub use partial::{Part, PartialRoom, Restated, Wholeness};
pub(crate) use write::append_all;

/// How an event stands with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Part of the timeline; it was news when it came.
    Live,
    /// Known because others name it; not part of the timeline.
    Outlier,
    /// Failed the authorisation checks; never seen by clients, never built upon.
    Rejected,
    /// Allowed where it was sent, not now: not shown, not built upon, part of later resolutions.
    SoftFailed,
    /// Part of the timeline, fetched later than what follows it; never was news.
    Backfilled,
}

impl Standing {
    /// As the column `standing` holds it.
    #[must_use]
    pub fn code(self) -> i64 {
        match self {
            Self::Live => 0,
            Self::Outlier => 1,
            Self::Rejected => 2,
            Self::SoftFailed => 3,
            Self::Backfilled => 4,
        }
    }

    pub(crate) fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Live,
            1 => Self::Outlier,
            3 => Self::SoftFailed,
            4 => Self::Backfilled,
            _ => Self::Rejected,
        }
    }
}

/// An event with all we know of it beside what was signed.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its number.
    pub nid: EventNid,
    /// Its room.
    pub room: RoomNid,
    /// Position in the log, negative if backfilled; `None` if it is not part of the timeline.
    pub pos: Option<StreamPos>,
    /// Depth, clamped to what the database holds.
    pub depth: i64,
    /// How it stands.
    pub standing: Standing,
    /// Who sent it.
    pub sender: UserNid,
    /// Its state key, if it is a state event.
    pub key: Option<KeyNid>,
    /// State before it; `None` for outliers.
    pub snap: Option<SnapNid>,
    /// State after it; equal to `snap` unless it is state that was allowed there.
    pub after: Option<SnapNid>,
    /// The room's counter after it.
    pub counter: i64,
    /// The state event it took the place of.
    pub replaces: Option<EventNid>,
    /// The redaction that took its content away.
    pub redacted_by: Option<EventNid>,
    /// Device that sent it, if one of ours did under a transaction id.
    pub device: Option<Box<str>>,
    /// That transaction id.
    pub txn_id: Option<Box<str>>,
    /// See [`NewEvent::relay`]; known while it is news, false when read from disk.
    pub relay: bool,
    /// See [`NewEvent::told`]; known while it is news, false when read from disk.
    pub told: bool,
    /// The event as it is to be shown: redacted, if it was.
    pub pdu: Arc<Pdu>,
}

impl StoredEvent {
    /// Its id.
    #[must_use]
    pub fn event_id(&self) -> &EventId {
        self.pdu.event_id()
    }

    /// Its place in history; `None` if it has none.
    #[must_use]
    pub fn place(&self) -> Option<HistoryToken> {
        self.pos.map(|pos| HistoryToken { depth: self.depth, pos })
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    event_nid: i64,
    event_id: String,
    room_nid: i64,
    pos: Option<i64>,
    depth: i64,
    standing: i64,
    sender_nid: i64,
    key_nid: Option<i64>,
    snap_nid: Option<i64>,
    after_nid: Option<i64>,
    counter: i64,
    replaces_nid: Option<i64>,
    redacted_by: Option<i64>,
    device_id: Option<String>,
    txn_id: Option<String>,
    json: Vec<u8>,
    version: String,
}

impl Row {
    fn read(self) -> Result<StoredEvent> {
        let fault = |what: &str| Error::broken(format!("events table: {what} of event {}", self.event_nid));
        let version = RoomVersion::known(&self.version).ok_or_else(|| fault("room version"))?;
        let event_id = OwnedEventId::try_from(self.event_id).map_err(|e| Error::fault("events table", e))?;
        let json = String::from_utf8(self.json).map_err(|e| Error::fault("events table", e))?;
        let standing = Standing::from_code(self.standing);
        Ok(StoredEvent {
            nid: EventNid(self.event_nid),
            room: RoomNid(self.room_nid),
            pos: self.pos.map(StreamPos),
            depth: self.depth,
            standing,
            sender: UserNid(self.sender_nid),
            key: self.key_nid.map(KeyNid),
            snap: self.snap_nid.map(SnapNid),
            after: self.after_nid.map(SnapNid),
            counter: self.counter,
            replaces: self.replaces_nid.map(EventNid),
            redacted_by: self.redacted_by.map(EventNid),
            device: self.device_id.map(Into::into),
            txn_id: self.txn_id.map(Into::into),
            relay: false,
            told: false,
            pdu: Arc::new(Pdu::parse_stored(event_id, json, version)?.with_rejected(standing == Standing::Rejected)),
        })
    }
}

const EVENT_BY_ID: &str = "SELECT event_nid FROM events WHERE event_id = $1";
const PAGE_BACK: &str = "SELECT event_nid FROM events WHERE room_nid = $1 AND pos IS NOT NULL AND (depth, pos) <= ($2, $3) AND (depth, pos) > ($4, $5) ORDER BY depth DESC, pos DESC LIMIT $6";
const PAGE_ON: &str = "SELECT event_nid FROM events WHERE room_nid = $1 AND pos IS NOT NULL AND (depth, pos) > ($2, $3) AND (depth, pos) <= ($4, $5) ORDER BY depth, pos LIMIT $6";
const BY_TXN: &str =
    "SELECT event_nid FROM events WHERE sender_nid = $1 AND room_nid = $2 AND txn_id = $3 AND device_id = $4";
const BY_TIME_ON: &str = "SELECT event_nid FROM events WHERE room_nid = $1 AND pos IS NOT NULL AND origin_ms >= $2 ORDER BY origin_ms, depth, pos LIMIT $3";
const BY_TIME_BACK: &str = "SELECT event_nid FROM events WHERE room_nid = $1 AND pos IS NOT NULL AND origin_ms <= $2 ORDER BY origin_ms DESC, depth DESC, pos DESC LIMIT $3";
const PRUNE_REDACTED: &str = "DELETE FROM redacted_events WHERE event_nid IN (SELECT event_nid FROM redacted_events WHERE redacted_ms < $1 LIMIT $2)";
const REDACTED: &str = "SELECT json FROM redacted_events WHERE event_nid = $1";

/// Which way to read history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Newest first.
    Backward,
    /// Oldest first.
    Forward,
}

impl Store {
    /// An event by its number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn event(&self, nid: EventNid) -> Result<Option<Arc<StoredEvent>>> {
        Ok(self.events(&[nid]).await?.pop())
    }

    /// Events by their numbers, in the order asked for; those we do not have are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn events(&self, nids: &[EventNid]) -> Result<Vec<Arc<StoredEvent>>> {
        let cache = &self.inner.events;
        let mut found: Vec<Option<Arc<StoredEvent>>> = nids.iter().map(|n| cache.get(n)).collect();
        let missing: Vec<i64> = nids.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(n, _)| n.0).collect();
        if !missing.is_empty() {
            let sql = sql!(
                "SELECT e.event_nid, e.event_id, e.room_nid, e.pos, e.depth, e.standing, e.sender_nid, e.key_nid, e.snap_nid, e.after_nid, e.counter, e.replaces_nid, e.redacted_by, e.device_id, e.txn_id, e.json, r.version FROM events e JOIN rooms r ON r.room_nid = e.room_nid WHERE e.event_nid "
                [in 1]
            );
            // A redaction committed while this is read makes it stale: then it is not kept.
            let tickets: HashMap<i64, _> = missing.iter().map(|n| (*n, cache.ticket(&EventNid(*n)))).collect();
            let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, sql, Ints(missing))?;
            let mut loaded = HashMap::with_capacity(rows.len());
            for row in rows {
                let event = Arc::new(row.read()?);
                if let Some(ticket) = tickets.get(&event.nid.0) {
                    cache.fill(event.nid, event.clone(), *ticket);
                }
                self.inner.event_nids.insert(event.event_id().as_str().into(), event.nid);
                loaded.insert(event.nid, event);
            }
            for (slot, nid) in found.iter_mut().zip(nids) {
                if slot.is_none() {
                    *slot = loaded.get(nid).cloned();
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// An event by its id.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn event_by_id(&self, id: &EventId) -> Result<Option<Arc<StoredEvent>>> {
        // PostgreSQL has no texts with NUL, so nothing is stored under one.
        if id.as_str().contains('\0') {
            return Ok(None);
        }
        if let Some(nid) = self.inner.event_nids.get(id.as_str()) {
            return self.event(nid).await;
        }
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), EVENT_BY_ID, id.as_str())?;
        match row {
            Some((nid,)) => self.event(EventNid(nid)).await,
            None => Ok(None),
        }
    }

    /// Events by their ids; those we do not have are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn events_by_id(&self, ids: &[OwnedEventId]) -> Result<Vec<Arc<StoredEvent>>> {
        let mut nids: Vec<EventNid> = Vec::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids.iter().filter(|id| !id.as_str().contains('\0')) {
            match self.inner.event_nids.get(id.as_str()) {
                Some(nid) => nids.push(nid),
                None => unknown.push(id.to_string()),
            }
        }
        if !unknown.is_empty() {
            let sql = sql!("SELECT event_nid FROM events WHERE event_id " [in 1]);
            let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, Texts(unknown))?;
            nids.extend(rows.into_iter().map(|(n,)| EventNid(n)));
        }
        self.events(&nids).await
    }

    /// The timeline of a room from one place towards another: backwards all events at or before `from` and after
    /// `until`; forwards all after `from`, at or before `until`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn history(
        &self,
        room: RoomNid,
        direction: Direction,
        from: HistoryToken,
        until: HistoryToken,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let statement = match direction {
            Direction::Backward => PAGE_BACK,
            Direction::Forward => PAGE_ON,
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(i64,)> = fetch_all!(
            &mut self.read().await?,
            (i64,),
            statement,
            room.0,
            from.depth,
            from.pos.0,
            until.depth,
            until.pos.0,
            limit
        )?;
        self.events(&rows.into_iter().map(|(n,)| EventNid(n)).collect::<Vec<_>>()).await
    }

    /// The events of a room sent at or after a time (forward) or at or before it, nearest first. Reads the whole room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn events_by_time(
        &self,
        room: RoomNid,
        direction: Direction,
        origin_ms: i64,
        limit: usize,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let statement = match direction {
            Direction::Backward => BY_TIME_BACK,
            Direction::Forward => BY_TIME_ON,
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), statement, room.0, origin_ms, limit)?;
        self.events(&rows.into_iter().map(|(n,)| EventNid(n)).collect::<Vec<_>>()).await
    }

    /// The event a device sent under a transaction id.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn event_by_txn(
        &self,
        sender: UserNid,
        room: RoomNid,
        device: &str,
        txn_id: &str,
    ) -> Result<Option<Arc<StoredEvent>>> {
        let row: Option<(i64,)> =
            fetch_optional!(&mut self.read().await?, (i64,), BY_TXN, sender.0, room.0, txn_id, device)?;
        match row {
            Some((nid,)) => self.event(EventNid(nid)).await,
            None => Ok(None),
        }
    }

    /// Forgets for good what was redacted before that time, ms; `most` at once. Gives how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prune_redacted(&self, before_ms: i64, most: u32) -> Result<u64> {
        self.write(move |tx| Box::pin(async move { execute!(tx, PRUNE_REDACTED, before_ms, i64::from(most)) })).await
    }

    /// What an event said before it was redacted, if that is still kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unredacted(&self, nid: EventNid) -> Result<Option<String>> {
        let row: Option<(Vec<u8>,)> = fetch_optional!(&mut self.read().await?, (Vec<u8>,), REDACTED, nid.0)?;
        row.map(|(json,)| String::from_utf8(json).map_err(|e| Error::fault("redacted_events table", e))).transpose()
    }
}
