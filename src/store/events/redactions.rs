//! Redactions: what they take away, and those that came before what they are about (history is fetched from its newest
//! end).

use std::collections::{HashMap, HashSet};

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid},
};
use hearth_rules::{event::Pdu, versions::RoomVersion};
use ruma::{EventId, OwnedEventId};

use super::{Append, LateRedaction, NewRedaction, Standing, placed::Placed, placed::clamp};
use crate::{Store, db::Texts, execute, fetch_all, fetch_optional, later, log::Tx, sql};

const AHEAD: &str = "SELECT event_nid FROM redactions_ahead WHERE target_id = $1 ORDER BY event_nid";

/// Those of the events that redactions of these appends are to wait for, that have come meanwhile. An append that waits for
/// what is here was built on what is past.
pub(super) async fn come(tx: &mut Tx, appends: &[&Append]) -> Result<HashSet<(RoomNid, OwnedEventId)>> {
    let wanted: Vec<String> =
        appends.iter().flat_map(|a| a.redactions_ahead.iter().map(|(target, _)| target.to_string())).collect();
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = sql!("SELECT event_id, room_nid FROM events WHERE event_id " [in 1]);
    let rows: Vec<(String, i64)> = fetch_all!(tx, (String, i64), sql, Texts(wanted))?;
    let parsed = rows.into_iter().filter_map(|(id, room)| Some((RoomNid(room), OwnedEventId::try_from(id).ok()?)));
    Ok(parsed.collect())
}

/// The events of these appends that were redacted before they came, as they stand then.
pub(super) fn redacted_at_once(appends: &[&Append]) -> Result<HashMap<EventNid, (EventNid, Pdu)>> {
    let mut all = HashMap::new();
    for append in appends.iter().filter(|a| !a.redacted.is_empty()) {
        let version = RoomVersion::known(append.room.version.as_str())
            .ok_or_else(|| Error::broken("an append to a room of a version that is none"))?;
        for LateRedaction { redaction: NewRedaction { target, json }, by, .. } in &append.redacted {
            let Some(event) = append.events.iter().find(|e| e.nid == *target) else { continue };
            let pdu = Pdu::parse_stored(event.pdu.event_id().to_owned(), json.as_str(), version)?;
            all.insert(*target, (*by, pdu));
        }
    }
    Ok(all)
}

/// Takes redacted content off the events and puts it aside; with it goes the event's relation. Notes redactions of what
/// is not here.
pub(super) async fn apply(tx: &mut Tx, appends: &[&Append], placed: &[Placed<'_>]) -> Result<()> {
    const KEEP: &str = "INSERT INTO redacted_events (event_nid, redacted_ms, json) SELECT event_nid, $2, json FROM events WHERE event_nid = $1 AND redacted_by IS NULL ON CONFLICT (event_nid) DO NOTHING";
    const UNRELATE: &str = "DELETE FROM relations WHERE event_nid = $1";
    const REDACT: &str = "UPDATE events SET redacted_by = $2, json = $3 WHERE event_nid = $1 AND redacted_by IS NULL";
    const WAIT: &str = "INSERT INTO redactions_ahead (target_id, event_nid) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    const DONE: &str = "DELETE FROM redactions_ahead WHERE target_id = $1";
    let mut all: Vec<(NewRedaction, EventNid, i64)> = Vec::new();
    let late: HashSet<EventNid> = appends.iter().flat_map(|a| &a.redacted).map(|late| late.redaction.target).collect();
    for p in placed {
        if let Some(redaction) = &p.event.redaction {
            all.push((redaction.clone(), p.event.nid, clamp(p.event.pdu.origin_server_ts())));
        }
    }
    for append in appends {
        all.extend(append.redacted.iter().map(|late| (late.redaction.clone(), late.by, late.at_ms)));
    }
    for (NewRedaction { target, json }, by, at_ms) in all {
        execute!(tx, KEEP, target.0, at_ms)?;
        later!(tx, REDACT, target.0, by.0, json.as_bytes())?;
        later!(tx, UNRELATE, target.0)?;
        uncount(tx, target).await?;
        tx.stale(target);
    }
    for append in appends {
        for (target, by) in &append.redactions_ahead {
            tx.store().inner.event_memory.ahead.add(target.as_str());
            later!(tx, WAIT, target.as_str(), by.0)?;
        }
    }
    for p in placed.iter().filter(|p| p.event.standing == Standing::Backfilled || late.contains(&p.event.nid)) {
        let event_id = p.event.pdu.event_id();
        if tx.store().inner.event_memory.ahead.may_have(event_id.as_str()) {
            later!(tx, DONE, event_id.as_str())?;
            let event_id = event_id.to_owned();
            tx.after_commit(move |store| store.inner.event_memory.ahead.remove(event_id.as_str()));
        }
    }
    Ok(())
}

/// Takes back that an event notified or highlighted: nobody is to look for what is gone. The room's counter stays, so the
/// row of everyone says that the event is not of it.
async fn uncount(tx: &mut Tx, target: EventNid) -> Result<()> {
    const PLACE: &str = "SELECT room_nid, pos FROM events WHERE event_nid = $1 AND pos > 0";
    const UNDO: &str = "DELETE FROM push_actions WHERE room_nid = $1 AND pos = $2 AND user_nid IN (SELECT user_nid FROM memberships WHERE room_nid = $1 AND local)";
    // The counter went up for it if it stands higher than after the event before.
    const GONE: &str = "INSERT INTO push_actions (user_nid, room_nid, pos, event_nid, thread, counted, notify, highlight, actions) SELECT 0, e.room_nid, e.pos, e.event_nid, '', TRUE, FALSE, FALSE, '[]' FROM events e WHERE e.event_nid = $1 AND e.counter > COALESCE((SELECT b.counter FROM events b WHERE b.room_nid = e.room_nid AND b.pos < e.pos AND b.pos > 0 ORDER BY b.pos DESC LIMIT 1), 0) ON CONFLICT (user_nid, room_nid, pos) DO UPDATE SET thread = excluded.thread, notify = excluded.notify, highlight = excluded.highlight, actions = excluded.actions";
    let Some((room, pos)) = fetch_optional!(tx, (i64, i64), PLACE, target.0)? else { return Ok(()) };
    later!(tx, UNDO, room, pos)?;
    later!(tx, GONE, target.0)
}

impl Store {
    /// The redactions of an event that came before it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn redactions_ahead(&self, target: &EventId) -> Result<Vec<EventNid>> {
        if !self.inner.event_memory.ahead.may_have(target.as_str()) {
            return Ok(Vec::new());
        }
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), AHEAD, target.as_str())?;
        Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
    }
}
