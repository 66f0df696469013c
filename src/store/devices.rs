//! The devices of local users: names, when and whence they were last seen. Deleting one takes its sessions, keys and
//! waiting to-device messages with it.

use hearth_base::{Error, Result, ids::UserNid};

use crate::{
    Store,
    db::Texts,
    execute, fetch_all, fetch_optional,
    log::Tx,
    login::{self, NewToken},
    sql,
};

pub mod to_device;

/// A device as stored.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Device {
    /// Its id.
    pub device_id: String,
    /// What its owner calls it.
    pub display_name: Option<String>,
    /// When it was made, ms.
    pub created_ms: i64,
    /// When it was last seen, ms.
    pub last_seen_ms: Option<i64>,
    /// From which address.
    pub last_seen_ip: Option<String>,
    /// With which program.
    pub user_agent: Option<String>,
}

/// A device that logs in.
#[derive(Clone, Debug)]
pub struct NewDevice {
    /// Whose.
    pub user: UserNid,
    /// Its id.
    pub device_id: String,
    /// Its first name; one that is there already keeps its own.
    pub display_name: Option<String>,
    /// Now, ms.
    pub created_ms: i64,
    /// Whence.
    pub ip: Option<String>,
    /// With which program.
    pub user_agent: Option<String>,
}

/// A device that made a request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose.
    pub user: UserNid,
    /// Which.
    pub device_id: String,
    /// When, ms.
    pub at_ms: i64,
    /// Whence.
    pub ip: String,
    /// With which program.
    pub user_agent: Option<String>,
}

const LIST: &str = "SELECT device_id, display_name, created_ms, last_seen_ms, last_seen_ip, user_agent FROM devices WHERE user_nid = $1 ORDER BY created_ms, device_id";
const ONE: &str = "SELECT device_id, display_name, created_ms, last_seen_ms, last_seen_ip, user_agent FROM devices WHERE user_nid = $1 AND device_id = $2";
const UPSERT: &str = "INSERT INTO devices (user_nid, device_id, display_name, created_ms, last_seen_ms, last_seen_ip, user_agent) VALUES ($1, $2, $3, $4, $4, $5, $6) ON CONFLICT (user_nid, device_id) DO UPDATE SET last_seen_ms = excluded.last_seen_ms, last_seen_ip = excluded.last_seen_ip, user_agent = excluded.user_agent";
const RENAME: &str = "UPDATE devices SET display_name = $3 WHERE user_nid = $1 AND device_id = $2";
const SEEN: &str = "UPDATE devices SET last_seen_ms = $3, last_seen_ip = $4, user_agent = $5 WHERE user_nid = $1 AND device_id = $2 AND (last_seen_ms IS NULL OR last_seen_ms < $3)";

/// Notes a device that logs in, new or known.
pub(crate) async fn upsert(tx: &mut Tx, d: &NewDevice) -> Result<()> {
    execute!(
        tx,
        UPSERT,
        d.user.0,
        &d.device_id,
        d.display_name.as_deref(),
        d.created_ms,
        d.ip.as_deref(),
        d.user_agent.as_deref()
    )
    .map(drop)
}

/// Deletes devices whose sessions have ended, with what other files keep for them. Gives how many there were.
async fn drop_some(tx: &mut Tx, user: UserNid, devices: &[String]) -> Result<u64> {
    let sql = sql!("DELETE FROM devices WHERE user_nid = $1 AND device_id " [in 2]);
    let gone = execute!(tx, sql, user.0, Texts(devices.to_vec()))?;
    tx.delete_device_keys(user, devices).await?;
    tx.delete_inboxes(user, devices).await?;
    tx.delete_pushers(user, devices).await?;
    tx.delete_notification_settings(user, devices).await?;
    if gone > 0 {
        tx.note_devices(user, devices).await?;
    }
    Ok(gone)
}

/// Deletes all devices of a user whose sessions have ended.
pub(crate) async fn drop_all(tx: &mut Tx, user: UserNid) -> Result<()> {
    let devices: Vec<Device> = fetch_all!(tx, Device, LIST, user.0)?;
    let names: Vec<String> = devices.into_iter().map(|d| d.device_id).collect();
    drop_some(tx, user, &names).await.map(drop)
}

impl Store {
    /// All devices of a user, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn devices(&self, user: UserNid) -> Result<Vec<Device>> {
        fetch_all!(&mut self.read().await?, Device, LIST, user.0)
    }

    /// One device.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device(&self, user: UserNid, device: &str) -> Result<Option<Device>> {
        fetch_optional!(&mut self.read().await?, Device, ONE, user.0, device)
    }

    /// Logs a device in: makes it or takes it over (its earlier tokens end), and stores its token.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn log_in(&self, device: NewDevice, token: NewToken) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let known: Option<Device> = fetch_optional!(tx, Device, ONE, device.user.0, &device.device_id)?;
                login::drop_device_tokens(tx, device.user, std::slice::from_ref(&device.device_id)).await?;
                upsert(tx, &device).await?;
                login::insert_token(tx, &token).await?;
                if known.is_none() {
                    if tx.is_cross_signing_key(device.user, &device.device_id).await? {
                        return Err(Error::invalid_param("A signing key of the user has this name"));
                    }
                    tx.note_devices(device.user, std::slice::from_ref(&device.device_id)).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Renames a device. Returns whether there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rename_device(&self, user: UserNid, device: String, name: Option<String>) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let done = execute!(tx, RENAME, user.0, device.as_str(), name)? > 0;
                if done {
                    tx.note_devices(user, std::slice::from_ref(&device)).await?;
                }
                Ok(done)
            })
        })
        .await
    }

    /// Deletes devices with all that hangs on them; those that are not there are passed over.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_devices(&self, user: UserNid, devices: Vec<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                login::drop_device_tokens(tx, user, &devices).await?;
                drop_some(tx, user, &devices).await.map(drop)
            })
        })
        .await
    }

    /// Deletes all devices and ends all sessions of a user, but for one device.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_other_devices(&self, user: UserNid, but: Option<String>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                // Asked within the transaction: a device that logs in meanwhile is before it or after it.
                let devices: Vec<Device> = fetch_all!(tx, Device, LIST, user.0)?;
                let others: Vec<String> =
                    devices.into_iter().map(|d| d.device_id).filter(|id| but.as_ref() != Some(id)).collect();
                login::drop_device_tokens(tx, user, &others).await?;
                login::drop_tokens_without_device(tx, user).await?;
                drop_some(tx, user, &others).await.map(drop)
            })
        })
        .await
    }

    /// Ends all sessions of a user and deletes all their devices.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_all_sessions(&self, user: UserNid) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                login::drop_user_tokens(tx, user).await?;
                drop_all(tx, user).await
            })
        })
        .await
    }

    /// Notes when and whence devices were seen; never back in time.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn devices_seen(&self, seen: Vec<Seen>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for s in seen {
                    execute!(tx, SEEN, s.user.0, s.device_id, s.at_ms, s.ip, s.user_agent)?;
                }
                Ok(())
            })
        })
        .await
    }
}
