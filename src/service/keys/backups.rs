//! Backups of room keys: versions, and the encrypted keys in them (spec: "Server-side key backups").
//!
//! Keys go into the current version only, and only better ones replace others; that is decided in the store, in the
//! transaction. Deleting many keys goes on in small steps although the caller may have gone.

use std::collections::BTreeMap;

use hearth_base::{Error, OrNotFound, Result, requester::Requester};
pub use hearth_store::keys::backups::Chosen;
use hearth_store::keys::backups::{Backup, BackupChange, BackupSession};
use http::StatusCode;
use ruma::UInt;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{Keys, is_name};

/// Room keys by room and session, as `KeyBackupData`.
pub type RoomKeys = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;

/// What every change of keys is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupState {
    /// Changes with every change of the keys.
    pub etag: String,
    /// Keys in the backup.
    pub count: u64,
}

/// A backup's description.
#[derive(Debug)]
pub struct BackupInfo {
    /// Its name.
    pub version: String,
    /// How it is encrypted.
    pub algorithm: String,
    /// Data of the algorithm.
    pub auth_data: Box<RawValue>,
    /// What is in it.
    pub state: BackupState,
}

/// A room key as clients write and read it.
#[derive(Serialize, Deserialize)]
struct KeyBackupData<'a> {
    first_message_index: UInt,
    forwarded_count: UInt,
    is_verified: bool,
    #[serde(borrow)]
    session_data: &'a RawValue,
}

fn number(version: &str) -> Result<i64> {
    version.parse().ok().filter(|n| *n > 0).or_not_found("Backup version")
}

/// What clients put into a backup is theirs: an object as a rule, a text of old.
fn is_opaque(raw: &RawValue) -> bool {
    raw.get().starts_with(['{', '"'])
}

impl Keys {
    /// Begins a new backup, which becomes the current one; gives its version.
    ///
    /// # Errors
    /// 400 for a wrong form, 403 if the user has too many.
    pub async fn create_backup(
        &self,
        requester: &Requester,
        algorithm: String,
        auth_data: &RawValue,
    ) -> Result<String> {
        self.check_auth_data(&algorithm, auth_data)?;
        let (user, max) = (requester.user_nid, self.settings.max_backups);
        let version = self.store.create_backup(user, algorithm, auth_data.get().to_owned(), max).await?;
        let version = version.ok_or_else(|| Error::forbidden("There are too many key backups; delete one first"))?;
        Ok(version.to_string())
    }

    fn check_auth_data(&self, algorithm: &str, auth_data: &RawValue) -> Result<()> {
        if !is_name(algorithm) || !is_opaque(auth_data) {
            return Err(Error::bad_json("A backup has an algorithm and auth_data, an object or a text"));
        }
        if auth_data.get().len() > self.settings.max_backup_key_bytes {
            return Err(Error::too_large("auth_data is too large"));
        }
        Ok(())
    }

    /// The description of a backup, or of the current one.
    ///
    /// # Errors
    /// 404 if there is none.
    pub async fn backup(&self, requester: &Requester, version: Option<&str>) -> Result<BackupInfo> {
        let number = version.map(number).transpose()?;
        let backup = self.store.backup(requester.user_nid, number).await?;
        info(backup.or_not_found(if number.is_some() { "Backup version" } else { "Current backup version" })?)
    }

    /// Replaces a backup's `auth_data`.
    ///
    /// # Errors
    /// 404 if there is no such backup, 400 for another algorithm or another version in the body.
    pub async fn update_backup(
        &self,
        requester: &Requester,
        version: &str,
        algorithm: &str,
        auth_data: &RawValue,
        version_in_body: Option<&str>,
    ) -> Result<()> {
        self.check_auth_data(algorithm, auth_data)?;
        if version_in_body.is_some_and(|named| named != version) {
            return Err(Error::invalid_param("The version in the body is another"));
        }
        let number = number(version)?;
        let backup = self.store.backup(requester.user_nid, Some(number)).await?.or_not_found("Backup version")?;
        if backup.algorithm != algorithm {
            return Err(Error::invalid_param("The algorithm of a backup cannot change"));
        }
        let there = self.store.update_backup(requester.user_nid, number, auth_data.get().to_owned()).await?;
        there.then_some(()).or_not_found("Backup version")
    }

    /// Deletes a backup with its keys; one that is deleted already counts as deleted.
    ///
    /// # Errors
    /// 404 if there never was such a backup.
    pub async fn delete_backup(&self, requester: &Requester, version: &str) -> Result<()> {
        let number = number(version)?;
        let was = self.store.delete_backup(requester.user_nid, number).await?;
        was.then_some(()).or_not_found("Backup version")?;
        self.delete_sessions(requester, number, Chosen::default()).await
    }

    /// Stores room keys in the current backup, each unless a better one is there.
    ///
    /// # Errors
    /// 404 without such a backup; 403 `M_WRONG_ROOM_KEYS_VERSION` with the current version if it is another;
    /// 400 for a wrong form; 413 beyond what a backup may hold.
    pub async fn put_room_keys(&self, requester: &Requester, version: &str, keys: RoomKeys) -> Result<BackupState> {
        let number = number(version)?;
        if keys.values().map(BTreeMap::len).sum::<usize>() > self.settings.max_keys_per_request {
            return Err(Error::too_large("Too many keys at once"));
        }
        let mut sessions = Vec::new();
        for (room_id, of_room) in keys {
            for (session_id, raw) in of_room {
                sessions.push(self.backup_session(room_id.clone(), session_id, &raw)?);
            }
        }
        let max = self.settings.max_backup_keys;
        match self.store.put_backup_sessions(requester.user_nid, number, sessions, max).await? {
            BackupChange::Done { etag, sessions } => Ok(state(etag, sessions)),
            BackupChange::NotFound => Err(Error::not_found("Unknown backup version")),
            BackupChange::NotCurrent { current } => {
                let error = Error::told(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", "Wrong backup version.");
                Err(error.with("current_version", json!(current.to_string())))
            }
            BackupChange::TooMany => Err(Error::too_large(format!("A backup may hold {max} keys at most"))),
        }
    }

    fn backup_session(&self, room_id: String, session_id: String, raw: &RawValue) -> Result<BackupSession> {
        if raw.get().len() > self.settings.max_backup_key_bytes {
            return Err(Error::too_large("A room key is too large"));
        }
        if !is_name(&room_id) || !is_name(&session_id) {
            return Err(Error::invalid_param("Not the name of a room or session"));
        }
        let wrong = |e: serde_json::Error| Error::bad_json(format!("session {session_id}: {e}"));
        let key: KeyBackupData<'_> = serde_json::from_str(raw.get()).map_err(wrong)?;
        if !is_opaque(key.session_data) {
            return Err(Error::bad_json(format!("session {session_id}: session_data is neither an object nor a text")));
        }
        Ok(BackupSession {
            first_index: key.first_message_index.into(),
            forwarded: key.forwarded_count.into(),
            verified: key.is_verified,
            data: key.session_data.get().to_owned(),
            room_id,
            session_id,
        })
    }

    /// The keys of a backup: all, of a room, or one.
    ///
    /// # Errors
    /// 404 without such a backup, or if the one session asked for is not there.
    pub async fn room_keys(&self, requester: &Requester, version: &str, chosen: Chosen) -> Result<RoomKeys> {
        let number = number(version)?;
        self.store.backup(requester.user_nid, Some(number)).await?.or_not_found("Backup version")?;
        let sessions = self.store.backup_sessions(requester.user_nid, number, &chosen).await?;
        if sessions.is_empty() && chosen.session.is_some() {
            return Err(Error::not_found("Key not found."));
        }
        let mut keys = RoomKeys::new();
        for session in sessions {
            let json = format!(
                r#"{{"first_message_index":{},"forwarded_count":{},"is_verified":{},"session_data":{}}}"#,
                session.first_index, session.forwarded, session.verified, session.data
            );
            let json = RawValue::from_string(json).map_err(|e| Error::fault("a stored room key is no JSON", e))?;
            keys.entry(session.room_id).or_default().insert(session.session_id, json);
        }
        Ok(keys)
    }

    /// Deletes keys of a backup: all, of a room, or one.
    ///
    /// # Errors
    /// 404 without such a backup.
    pub async fn delete_room_keys(&self, requester: &Requester, version: &str, chosen: Chosen) -> Result<BackupState> {
        let number = number(version)?;
        self.store.backup(requester.user_nid, Some(number)).await?.or_not_found("Backup version")?;
        self.delete_sessions(requester, number, chosen).await?;
        let backup = self.store.backup(requester.user_nid, Some(number)).await?.or_not_found("Backup version")?;
        Ok(state(backup.etag, backup.sessions))
    }

    async fn delete_sessions(&self, requester: &Requester, version: i64, chosen: Chosen) -> Result<()> {
        let (store, user) = (self.store.clone(), requester.user_nid);
        let work = async move {
            while store.delete_backup_sessions(user, version, chosen.clone()).await? > 0 {}
            Ok(())
        };
        self.supervisor.job(work).await
    }
}

fn state(etag: i64, sessions: i64) -> BackupState {
    BackupState { etag: etag.to_string(), count: sessions.max(0).unsigned_abs() }
}

fn info(backup: Backup) -> Result<BackupInfo> {
    let auth_data =
        RawValue::from_string(backup.auth_data).map_err(|e| Error::fault("stored auth_data is no JSON", e))?;
    Ok(BackupInfo {
        version: backup.version.to_string(),
        algorithm: backup.algorithm,
        auth_data,
        state: state(backup.etag, backup.sessions),
    })
}
