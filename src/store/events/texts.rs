//! Events as text, for answers that hand on many at once: read as they are stored, neither parsed nor kept in memory, so
//! that one large answer does not push out what others use.

use hearth_base::{Error, Result, ids::EventNid};

use crate::{Store, db::Ints, fetch_all, sql};

/// Events asked for by one statement.
const BATCH: usize = 5_000;

impl Store {
    /// Appends events as other servers get them, with commas between; those we do not have are left out, and the order is
    /// any. Gives how many there were. `first` says that no comma is needed before.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn write_event_texts(&self, out: &mut String, nids: &[EventNid], first: bool) -> Result<usize> {
        let mut count = 0;
        let mut push = |json: &str| {
            if count > 0 || !first {
                out.push(',');
            }
            out.push_str(json);
            count += 1;
        };
        let mut unknown = Vec::new();
        for nid in nids {
            match self.inner.events.get(nid) {
                Some(event) => push(event.pdu.json()),
                None => unknown.push(nid.0),
            }
        }
        if !unknown.is_empty() {
            let sql = sql!("SELECT json FROM events WHERE event_nid " [in 1]);
            let rows: Vec<(Vec<u8>,)> = fetch_all!(&mut self.read().await?, (Vec<u8>,), sql, Ints(unknown))?;
            for (json,) in &rows {
                push(std::str::from_utf8(json).map_err(|e| Error::fault("events table", e))?);
            }
        }
        Ok(count)
    }

    /// The ids of events, in no order; those we do not have are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn event_ids(&self, nids: &[EventNid]) -> Result<Vec<String>> {
        let mut ids = Vec::with_capacity(nids.len());
        for part in nids.chunks(BATCH) {
            let sql = sql!("SELECT event_id FROM events WHERE event_nid " [in 1]);
            let part = Ints(part.iter().map(|n| n.0).collect());
            let rows: Vec<(String,)> = fetch_all!(&mut self.read().await?, (String,), sql, part)?;
            ids.extend(rows.into_iter().map(|(id,)| id));
        }
        Ok(ids)
    }
}
