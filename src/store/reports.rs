//! What users reported: events, rooms, users.

use hearth_base::{Error, Result, ids::UserNid};

use crate::{Store, fetch_optional};

/// Something reported.
#[derive(Clone, Debug)]
pub struct NewReport {
    /// When, ms.
    pub received_ms: i64,
    /// By whom.
    pub user: UserNid,
    /// The room, of an event or itself.
    pub room_id: Option<String>,
    /// The event.
    pub event_id: Option<String>,
    /// The user.
    pub target_id: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How bad, -100 to 0 (until spec v1.17).
    pub score: Option<i64>,
}

const REPORT_INSERT: &str = "INSERT INTO reports (id, received_ms, user_nid, room_id, event_id, target_id, reason, score) SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5, $6, $7 FROM reports RETURNING id";

impl Store {
    /// Keeps a report; gives its number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_report(&self, mut new: NewReport) -> Result<i64> {
        for text in [&mut new.room_id, &mut new.event_id, &mut new.target_id, &mut new.reason].into_iter().flatten() {
            // PostgreSQL has no texts with NUL.
            text.retain(|c| c != '\0');
        }
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<(i64,)> = fetch_optional!(
                    tx,
                    (i64,),
                    REPORT_INSERT,
                    new.received_ms,
                    new.user.0,
                    new.room_id.as_deref(),
                    new.event_id.as_deref(),
                    new.target_id.as_deref(),
                    new.reason.as_deref(),
                    new.score
                )?;
                row.map(|r| r.0).ok_or_else(|| Error::broken("a report without a number"))
            })
        })
        .await
    }
}
