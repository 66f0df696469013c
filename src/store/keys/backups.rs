//! Backups of room keys, encrypted by their owner (spec: end-to-end encryption, "Server-side key backups").
//!
//! Owns the tables `key_backups` and `key_backup_sessions`. A deleted backup leaves its number behind, so that numbers
//! are not used twice. The number of sessions and the etag stand in the backup's row: every upload is answered with them.

use hearth_base::{Result, ids::UserNid};

use crate::{Store, execute, fetch_all, fetch_optional, log::Tx, sql};

use super::to_json;

/// A backup, without its keys.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Backup {
    /// Its number; the highest is the current one.
    pub version: i64,
    /// How it is encrypted.
    pub algorithm: String,
    /// Data of the algorithm, a JSON object.
    pub auth_data: String,
    /// Changes with every change of its keys.
    pub etag: i64,
    /// Keys in it.
    pub sessions: i64,
}

/// A room key in a backup.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BackupSession {
    /// The room it is for.
    pub room_id: String,
    /// The Megolm session.
    pub session_id: String,
    /// Index of the first message it decrypts.
    pub first_index: i64,
    /// How often it was forwarded.
    pub forwarded: i64,
    /// Whether the device it is from was verified.
    pub verified: bool,
    /// `session_data`, JSON.
    pub data: String,
}

/// What becomes of what is done to a backup's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupChange {
    /// Done; what the backup is like now.
    Done {
        /// The etag.
        etag: i64,
        /// Keys in it.
        sessions: i64,
    },
    /// There is no such backup.
    NotFound,
    /// It is not the current backup.
    NotCurrent {
        /// The one that is.
        current: i64,
    },
    /// It would hold more keys than it may.
    TooMany,
}

/// Which keys of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Those of this room only.
    pub room: Option<String>,
    /// This session only.
    pub session: Option<String>,
}

/// Keys deleted in one transaction; more would keep everybody else waiting.
const DELETED_AT_ONCE: i64 = 2_000;

macro_rules! backup_columns {
    () => {
        "SELECT version, algorithm, auth_data, etag, sessions FROM key_backups WHERE user_nid = $1 AND NOT deleted "
    };
}
const CURRENT: &str = concat!(backup_columns!(), "ORDER BY version DESC LIMIT 1");
const BACKUP: &str = concat!(backup_columns!(), "AND version = $2");
const NUMBERED: &str = "SELECT version, deleted FROM key_backups WHERE user_nid = $1 ORDER BY version DESC";
const CREATE: &str = "INSERT INTO key_backups (user_nid, version, algorithm, auth_data, etag, sessions, deleted) VALUES ($1, $2, $3, $4, 0, 0, FALSE)";
const UPDATE: &str = "UPDATE key_backups SET auth_data = $3 WHERE user_nid = $1 AND version = $2 AND NOT deleted";
const DELETE: &str =
    "UPDATE key_backups SET deleted = TRUE, auth_data = '{}', sessions = 0 WHERE user_nid = $1 AND version = $2";
const COUNT: &str = "UPDATE key_backups SET etag = etag + 1, sessions = sessions + $3 WHERE user_nid = $1 AND version = $2 RETURNING etag, sessions";
const SESSIONS: &str = "SELECT room_id, session_id, first_index, forwarded, verified, data FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 ORDER BY room_id, session_id";
const SESSIONS_OF_ROOM: &str = "SELECT room_id, session_id, first_index, forwarded, verified, data FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND room_id = $3 ORDER BY session_id";
const SESSION: &str = "SELECT room_id, session_id, first_index, forwarded, verified, data FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND room_id = $3 AND session_id = $4";
const OF_CLOSED: &str = "SELECT b.user_nid, b.version FROM key_backups b JOIN accounts a ON a.user_nid = b.user_nid WHERE a.deactivated AND NOT b.deleted LIMIT 1";
const DELETE_SOME: &str = "DELETE FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND (room_id, session_id) IN (SELECT room_id, session_id FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4) LIMIT $5)";

impl Store {
    /// The backup of that number, or the current one; deleted ones are not found.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn backup(&self, user: UserNid, version: Option<i64>) -> Result<Option<Backup>> {
        let mut session = self.read().await?;
        match version {
            Some(version) => fetch_optional!(&mut session, Backup, BACKUP, user.0, version),
            None => fetch_optional!(&mut session, Backup, CURRENT, user.0),
        }
    }

    /// A backup of an account that is closed, if there is one left.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn backup_of_closed(&self) -> Result<Option<(UserNid, i64)>> {
        let row: Option<(i64, i64)> = fetch_optional!(&mut self.read().await?, (i64, i64), OF_CLOSED)?;
        Ok(row.map(|(user, version)| (UserNid(user), version)))
    }

    /// Makes a new backup, which becomes the current one. `None` if the user has `max` already.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn create_backup(
        &self,
        user: UserNid,
        algorithm: String,
        auth_data: String,
        max: usize,
    ) -> Result<Option<i64>> {
        self.write(move |tx| {
            Box::pin(async move {
                let had: Vec<(i64, bool)> = fetch_all!(tx, (i64, bool), NUMBERED, user.0)?;
                if had.iter().filter(|(_, deleted)| !deleted).count() >= max {
                    return Ok(None);
                }
                let version = had.first().map_or(1, |(newest, _)| newest + 1);
                execute!(tx, CREATE, user.0, version, algorithm, auth_data)?;
                Ok(Some(version))
            })
        })
        .await
    }

    /// Replaces the data of a backup's algorithm. Returns whether there is such a backup.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn update_backup(&self, user: UserNid, version: i64, auth_data: String) -> Result<bool> {
        self.write(move |tx| Box::pin(async move { Ok(execute!(tx, UPDATE, user.0, version, auth_data)? > 0) })).await
    }

    /// Deletes a backup; its keys go by [`Store::delete_backup_sessions`]. Returns whether there ever was such a one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_backup(&self, user: UserNid, version: i64) -> Result<bool> {
        self.write(move |tx| Box::pin(async move { Ok(execute!(tx, DELETE, user.0, version)? > 0) })).await
    }

    /// Stores keys in the current backup, each unless there is a better one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_backup_sessions(
        &self,
        user: UserNid,
        version: i64,
        keys: Vec<BackupSession>,
        max: u64,
    ) -> Result<BackupChange> {
        self.write(move |tx| Box::pin(async move { tx.put_backup_sessions(user, version, &keys, max).await })).await
    }

    /// The keys of a backup.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn backup_sessions(&self, user: UserNid, version: i64, chosen: &Chosen) -> Result<Vec<BackupSession>> {
        let mut session = self.read().await?;
        match (chosen.room.as_deref(), chosen.session.as_deref()) {
            (Some(room), Some(id)) => fetch_all!(&mut session, BackupSession, SESSION, user.0, version, room, id),
            (Some(room), None) => {
                fetch_all!(&mut session, BackupSession, SESSIONS_OF_ROOM, user.0, version, room)
            }
            (None, _) => fetch_all!(&mut session, BackupSession, SESSIONS, user.0, version),
        }
    }

    /// Deletes some of the chosen keys of a backup, deleted or not; gives how many went. To be called until that is 0.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_backup_sessions(&self, user: UserNid, version: i64, chosen: Chosen) -> Result<u64> {
        self.write(move |tx| {
            Box::pin(async move {
                let (room, session) = (chosen.room.unwrap_or_default(), chosen.session.unwrap_or_default());
                let gone = execute!(tx, DELETE_SOME, user.0, version, room, session, DELETED_AT_ONCE)?;
                if gone > 0 {
                    let gone = i64::try_from(gone).unwrap_or(i64::MAX);
                    let _: Option<(i64, i64)> = fetch_optional!(tx, (i64, i64), COUNT, user.0, version, -gone)?;
                }
                Ok(gone)
            })
        })
        .await
    }
}

impl Tx {
    async fn put_backup_sessions(
        &mut self,
        user: UserNid,
        version: i64,
        keys: &[BackupSession],
        max: u64,
    ) -> Result<BackupChange> {
        let current: Option<Backup> = fetch_optional!(self, Backup, CURRENT, user.0)?;
        let Some(current) = current else { return Ok(BackupChange::NotFound) };
        if current.version != version {
            let named: Option<Backup> = fetch_optional!(self, Backup, BACKUP, user.0, version)?;
            return Ok(match named {
                Some(_) => BackupChange::NotCurrent { current: current.version },
                None => BackupChange::NotFound,
            });
        }
        let unchanged = BackupChange::Done { etag: current.etag, sessions: current.sessions };
        if keys.is_empty() {
            return Ok(unchanged);
        }
        let had = sql!(
            "SELECT s.room_id, s.session_id FROM " [rows 3]
            " CROSS JOIN key_backup_sessions s WHERE s.user_nid = $1 AND s.version = $2 AND s.room_id = e.value ->> 0 AND s.session_id = e.value ->> 1"
        );
        let put = sql!(
            "INSERT INTO key_backup_sessions (user_nid, version, room_id, session_id, first_index, forwarded, verified, data) SELECT $1, $2, e.value ->> 0, e.value ->> 1, CAST(e.value ->> 2 AS BIGINT), CAST(e.value ->> 3 AS BIGINT), (e.value ->> 4) = 't', e.value ->> 5 FROM "
            [rows 3]
            " WHERE TRUE ON CONFLICT (user_nid, version, room_id, session_id) DO UPDATE SET first_index = excluded.first_index, forwarded = excluded.forwarded, verified = excluded.verified, data = excluded.data WHERE (excluded.verified AND NOT key_backup_sessions.verified) OR (excluded.verified = key_backup_sessions.verified AND (excluded.first_index < key_backup_sessions.first_index OR (excluded.first_index = key_backup_sessions.first_index AND excluded.forwarded < key_backup_sessions.forwarded)))"
        );
        let names: Vec<(&str, &str)> = keys.iter().map(|k| (k.room_id.as_str(), k.session_id.as_str())).collect();
        let had: Vec<(String, String)> = fetch_all!(self, (String, String), had, user.0, version, to_json(&names)?)?;
        let added = i64::try_from(keys.len().saturating_sub(had.len())).unwrap_or(i64::MAX);
        if added > 0 && current.sessions.saturating_add(added).unsigned_abs() > max {
            return Ok(BackupChange::TooMany);
        }
        let rows: Vec<(&str, &str, i64, i64, &str, &str)> = keys
            .iter()
            .map(|k| {
                let verified = if k.verified { "t" } else { "f" };
                (k.room_id.as_str(), k.session_id.as_str(), k.first_index, k.forwarded, verified, k.data.as_str())
            })
            .collect();
        if execute!(self, put, user.0, version, to_json(&rows)?)? == 0 {
            return Ok(unchanged);
        }
        let counted: Option<(i64, i64)> = fetch_optional!(self, (i64, i64), COUNT, user.0, version, added)?;
        Ok(counted.map_or(BackupChange::NotFound, |(etag, sessions)| BackupChange::Done { etag, sessions }))
    }
}
