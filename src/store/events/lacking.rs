//! Rooms whose state at our join could not all be checked: no key was to be had of a server that had signed part of it, and
//! that was away. Owns the table `lacking_keys`, which is bounded by room and in all; what finds no space there stays
//! missing until somebody speaks of whom the room's state says nothing.

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid},
};
use ruma::{OwnedServerName, ServerName};

use crate::{Store, execute, fetch_all};

/// Servers noted of a room, and in all rooms together.
const OF_ROOM: usize = 200;
const IN_ALL: i64 = 2_000;

/// A server whose keys lack for a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The room.
    pub room: RoomNid,
    /// The server.
    pub server: OwnedServerName,
    /// The event by which we came in, before which the state has the hole.
    pub join: EventNid,
    /// The server that told the state.
    pub via: OwnedServerName,
    /// Since when, ms.
    pub noted_ms: i64,
    /// How often the state was asked for again in vain.
    pub tries: i64,
    /// When it may be asked for again, ms.
    pub retry_ms: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    room_nid: i64,
    server: String,
    join_nid: i64,
    via: String,
    noted_ms: i64,
    tries: i64,
    retry_ms: i64,
}

impl TryFrom<Row> for Lacking {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let name =
            |name: String| name.try_into().map_err(|e: ruma::IdParseError| Error::fault("lacking_keys table", e));
        Ok(Self {
            room: RoomNid(row.room_nid),
            server: name(row.server)?,
            join: EventNid(row.join_nid),
            via: name(row.via)?,
            noted_ms: row.noted_ms,
            tries: row.tries,
            retry_ms: row.retry_ms,
        })
    }
}

const ALL: &str =
    "SELECT room_nid, server, join_nid, via, noted_ms, tries, retry_ms FROM lacking_keys ORDER BY room_nid, server";
const OF: &str = "SELECT server, join_nid FROM lacking_keys WHERE room_nid = $1";
const COUNT: &str = "SELECT COUNT(*) FROM lacking_keys";
const NOTE: &str = "INSERT INTO lacking_keys (room_nid, server, join_nid, via, noted_ms, tries, retry_ms) VALUES ($1, $2, $3, $4, $5, 0, 0)";
const DEFER: &str = "UPDATE lacking_keys SET tries = $3, retry_ms = $4 WHERE room_nid = $1 AND server = $2";
const REST: &str = "UPDATE lacking_keys SET retry_ms = $2 WHERE room_nid = $1 AND retry_ms < $2";
const FORGET: &str = "DELETE FROM lacking_keys WHERE room_nid = $1 AND server = $2";

impl Store {
    /// All servers whose keys lack, by room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn lacking_keys(&self) -> Result<Vec<Lacking>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, ALL)?;
        rows.into_iter().map(Lacking::try_from).collect()
    }

    /// Notes whose keys lacked when `via` told the state before the event by which we came into a room: these and no others,
    /// as many as there is room for. Of those that were noted before it stays known since when.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn set_lacking_keys(
        &self,
        (room, join): (RoomNid, EventNid),
        via: &ServerName,
        mut servers: Vec<OwnedServerName>,
        now_ms: i64,
    ) -> Result<()> {
        let old: Vec<(String, i64)> = fetch_all!(&mut self.read().await?, (String, i64), OF, room.0)?;
        if servers.is_empty() && old.is_empty() {
            return Ok(());
        }
        servers.truncate(OF_ROOM);
        let via = via.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let old: Vec<(String, i64)> = fetch_all!(tx, (String, i64), OF, room.0)?;
                for (server, of) in old {
                    match servers.iter().position(|s| s.as_str() == server).filter(|_| of == join.0) {
                        Some(at) => drop(servers.remove(at)),
                        None => drop(execute!(tx, FORGET, room.0, server)?),
                    }
                }
                let all: Vec<(i64,)> = fetch_all!(tx, (i64,), COUNT)?;
                let space = usize::try_from(IN_ALL - all.first().map_or(0, |row| row.0)).unwrap_or(0);
                for server in servers.into_iter().take(space) {
                    execute!(tx, NOTE, room.0, server.as_str(), join.0, via.as_str(), now_ms)?;
                }
                tx.after_commit(move |store| store.inner.lacking.ring());
                Ok(())
            })
        })
        .await
    }

    /// Notes that the state of a room was asked for again in vain for a server's keys, and until when it is not to be.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn defer_lacking_keys(
        &self,
        room: RoomNid,
        server: OwnedServerName,
        tries: i64,
        retry_ms: i64,
    ) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move { execute!(tx, DEFER, room.0, server.as_str(), tries, retry_ms).map(drop) })
        })
        .await
    }

    /// Has the state of a room not be asked for again before a time, ms, whoever comes back.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn rest_lacking_keys(&self, room: RoomNid, retry_ms: i64) -> Result<()> {
        self.write(move |tx| Box::pin(async move { execute!(tx, REST, room.0, retry_ms).map(drop) })).await
    }

    /// Forgets that a server's keys lack for a room.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn forget_lacking_keys(&self, room: RoomNid, server: OwnedServerName) -> Result<()> {
        self.write(move |tx| Box::pin(async move { execute!(tx, FORGET, room.0, server.as_str()).map(drop) })).await
    }

    /// Rings when servers' keys lack that did not before.
    #[must_use]
    pub fn lacking_bell(&self) -> &tokio::sync::Notify {
        self.inner.lacking.rung()
    }
}
