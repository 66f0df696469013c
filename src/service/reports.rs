//! Reports of events, rooms and users to the server's administrators, who read them over their API.

use std::sync::Arc;

use hearth_base::{OrNotFound, Requester, Result, clock::Clock};
use hearth_store::{Store, reports::NewReport};
use ruma::{EventId, RoomId, UserId};

use crate::history::History;

/// Bytes of a reason; the rest is cut.
const MAX_REASON: usize = 4096;

/// Keeps reports.
#[derive(Debug)]
pub struct Reports {
    store: Store,
    history: Arc<History>,
    clock: Clock,
}

impl Reports {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, history: Arc<History>, clock: Clock) -> Self {
        Self { store, history, clock }
    }

    /// Reports an event.
    ///
    /// # Errors
    /// 404 if there is none that the requester, who must be in the room, may see.
    pub async fn event(
        &self,
        who: &Requester,
        room_id: &RoomId,
        event_id: &EventId,
        reason: Option<String>,
        score: Option<i64>,
    ) -> Result<()> {
        let (viewer, _) = self.history.event(who, room_id, event_id).await?;
        viewer.is_joined().then_some(()).or_not_found("Event")?;
        let mut report = self.report(who, reason);
        report.room_id = Some(room_id.to_string());
        report.event_id = Some(event_id.to_string());
        report.score = score;
        self.keep(report).await
    }

    /// Reports a room, which the requester need not be in.
    ///
    /// # Errors
    /// 404 for rooms we do not know.
    pub async fn room(&self, who: &Requester, room_id: &RoomId, reason: Option<String>) -> Result<()> {
        self.store.known_room(room_id).await?.or_not_found("Room")?;
        let mut report = self.report(who, reason);
        report.room_id = Some(room_id.to_string());
        self.keep(report).await
    }

    /// Reports a user. Whether there is one is not told.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn user(&self, who: &Requester, user_id: &UserId, reason: Option<String>) -> Result<()> {
        if self.store.user_nid(user_id).await?.is_none() {
            return Ok(());
        }
        let mut report = self.report(who, reason);
        report.target_id = Some(user_id.to_string());
        self.keep(report).await
    }

    fn report(&self, who: &Requester, reason: Option<String>) -> NewReport {
        let reason = reason.map(|mut text| {
            text.truncate(text.floor_char_boundary(MAX_REASON));
            text
        });
        NewReport {
            received_ms: i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX),
            user: who.user_nid,
            room_id: None,
            event_id: None,
            target_id: None,
            reason,
            score: None,
        }
    }

    async fn keep(&self, report: NewReport) -> Result<()> {
        let by = report.user;
        let id = self.store.add_report(report).await?;
        tracing::info!(report.id = id, user.nid = by.0, "something was reported");
        Ok(())
    }
}
