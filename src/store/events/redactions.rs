//! Redactions: what they take away, and those that came before what they are about (history is fetched from its newest
//! end).

use std::collections::HashSet;

use hearth_base::{Result, ids::EventNid};
use ruma::EventId;

use super::{Append, NewRedaction, Standing, write::Placed, write::clamp};
use crate::{Store, execute, fetch_all, log::Tx};

const AHEAD: &str = "SELECT event_nid FROM redactions_ahead WHERE target_id = $1 ORDER BY event_nid";

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
        execute!(tx, REDACT, target.0, by.0, json.as_bytes())?;
        execute!(tx, UNRELATE, target.0)?;
        tx.stale(target);
    }
    for append in appends {
        for (target, by) in &append.redactions_ahead {
            execute!(tx, WAIT, target.as_str(), by.0)?;
        }
    }
    for p in placed.iter().filter(|p| p.event.standing == Standing::Backfilled || late.contains(&p.event.nid)) {
        execute!(tx, DONE, p.event.pdu.event_id().as_str())?;
    }
    Ok(())
}

impl Store {
    /// The redactions of an event that came before it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn redactions_ahead(&self, target: &EventId) -> Result<Vec<EventNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), AHEAD, target.as_str())?;
        Ok(rows.into_iter().map(|(nid,)| EventNid(nid)).collect())
    }
}
