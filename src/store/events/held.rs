//! Events of other servers that cannot be placed yet, because those who know what they follow could not be asked: kept
//! until they can be. Owns the table `held_events`, which is bounded by room, by origin and in all.

use hearth_base::{Error, Result, ids::RoomNid};
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use crate::{Store, execute, fetch_all, fetch_optional};

/// Events held of a room, of a server, and in all.
const OF_ROOM: i64 = 50;
const OF_ORIGIN: i64 = 50;
const IN_ALL: i64 = 2_000;

/// An event that waits for what it follows.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct HeldEvent {
    /// Its id.
    pub event_id: String,
    /// As it came, its signatures checked.
    pub json: String,
    /// How often it was tried again in vain.
    pub tries: i64,
}

/// What is held of one server in one room.
#[derive(Clone, Debug)]
pub struct HeldGroup {
    /// The room.
    pub room: RoomNid,
    /// The server.
    pub origin: OwnedServerName,
    /// How often the one that was tried least was tried again.
    pub tries: i64,
    /// When the first is to be tried again, ms.
    pub retry_ms: i64,
}

const COUNTS: &str = "SELECT (SELECT COUNT(*) FROM held_events WHERE room_nid = $1), (SELECT COUNT(*) FROM held_events WHERE origin = $2), (SELECT COUNT(*) FROM held_events)";
const HOLD: &str = "INSERT INTO held_events (event_id, room_nid, origin, json, tries, retry_ms) VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT (event_id) DO NOTHING";
const GROUPS: &str = "SELECT room_nid, origin, MIN(tries) AS tries, MIN(retry_ms) AS retry_ms FROM held_events GROUP BY room_nid, origin ORDER BY 4";
const OF: &str = "SELECT event_id, json, tries FROM held_events WHERE room_nid = $1 AND origin = $2";
const DEFER: &str = "UPDATE held_events SET tries = $2, retry_ms = $3 WHERE event_id = $1";
const HASTEN: &str = "UPDATE held_events SET retry_ms = $2 WHERE room_nid = $1 AND retry_ms > $2";
const RELEASE: &str = "DELETE FROM held_events WHERE event_id = $1";

impl Store {
    /// Holds events (ids and JSON) that `origin` sent, to be tried again at `retry_ms`; as many as there is room for. Those
    /// that are held already stay as they are.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn hold_events(
        &self,
        room: RoomNid,
        origin: &ServerName,
        events: Vec<(OwnedEventId, String)>,
        retry_ms: i64,
    ) -> Result<()> {
        let origin = origin.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let counts: Option<(i64, i64, i64)> =
                    fetch_optional!(tx, (i64, i64, i64), COUNTS, room.0, origin.as_str())?;
                let (of_room, of_origin, all) = counts.unwrap_or_default();
                let space = (OF_ROOM - of_room).min(OF_ORIGIN - of_origin).min(IN_ALL - all);
                for (id, json) in events.into_iter().take(usize::try_from(space).unwrap_or(0)) {
                    execute!(tx, HOLD, id.as_str(), room.0, origin.as_str(), json, retry_ms)?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Of which rooms and servers events are held, those first that are to be tried first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn held_groups(&self) -> Result<Vec<HeldGroup>> {
        let rows: Vec<(i64, String, i64, i64)> = fetch_all!(&mut self.read().await?, (i64, String, i64, i64), GROUPS)?;
        let group = |(room, origin, tries, retry_ms): (i64, String, i64, i64)| {
            let origin = origin.try_into().map_err(|e: ruma::IdParseError| Error::fault("held_events table", e))?;
            Ok(HeldGroup { room: RoomNid(room), origin, tries, retry_ms })
        };
        rows.into_iter().map(group).collect()
    }

    /// Those of one room and server.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn held_events(&self, room: RoomNid, origin: &ServerName) -> Result<Vec<HeldEvent>> {
        fetch_all!(&mut self.read().await?, HeldEvent, OF, room.0, origin.as_str())
    }

    /// Has all that is held of a room tried again at this time, ms, if that was to be later.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn hasten_held(&self, room: RoomNid, retry_ms: i64) -> Result<()> {
        self.write(move |tx| Box::pin(async move { execute!(tx, HASTEN, room.0, retry_ms).map(drop) })).await
    }

    /// Lets events go that are held no longer, and notes of the others how often they were tried and when they are to be
    /// tried again (ms).
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn settle_held(&self, gone: Vec<String>, deferred: Vec<(String, i64, i64)>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for id in gone {
                    execute!(tx, RELEASE, id)?;
                }
                for (id, tries, retry_ms) in deferred {
                    execute!(tx, DEFER, id, tries, retry_ms)?;
                }
                Ok(())
            })
        })
        .await
    }
}
