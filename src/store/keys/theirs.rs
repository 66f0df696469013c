//! Devices and keys of other servers' users, as far as we follow them (server-server API, "Device Management").
//!
//! Owns the tables `remote_device_lists` and `remote_devices`; their cross-signing keys stand beside ours. What is here
//! is handed out by [`Store::user_keys`] like ours, and its changes are noted for our clients.

use hearth_base::{
    Result,
    ids::{RoomNid, UserNid},
};
use tokio::sync::Notify;

use super::Usage;
use crate::{Store, events::Standing, execute, fetch_all, fetch_optional, later, log::Tx};

/// Rings for whoever fetches lists.
#[derive(Debug, Default)]
pub(crate) struct StaleLists(Notify);

/// How far we follow a user's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Followed {
    /// The `stream_id` of the newest change we have.
    pub stream_id: i64,
    /// Changes were missed: to be fetched whole.
    pub stale: bool,
}

/// What ours have to do with a user of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// We follow their devices.
    Followed(Followed),
    /// We do not, and meet them in these rooms.
    Met(Vec<Met>),
}

/// A room that a user of another server is joined to and any of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// The room.
    pub room: RoomNid,
    /// Whether the user came while ours were there.
    pub came: bool,
}

/// A device of another server's user.
#[derive(Clone, Debug)]
pub struct RemoteDevice {
    /// Its id.
    pub device_id: String,
    /// Its name, if its server tells.
    pub display_name: Option<String>,
    /// Its identity keys, if it has any.
    pub json: Option<String>,
}

/// All that a server tells of a user's devices.
#[derive(Clone, Debug)]
pub struct RemoteList {
    /// How far it goes.
    pub stream_id: i64,
    /// The devices.
    pub devices: Vec<RemoteDevice>,
    /// The public cross-signing keys.
    pub signing_keys: Vec<(Usage, String)>,
}

const FOLLOWED: &str = "SELECT stream_id, stale FROM remote_device_lists WHERE user_nid = $1";
const KNOWN: &str = "SELECT stream_id, stale, CAST(NULL AS BIGINT) AS room_nid, CAST(NULL AS BIGINT) AS standing FROM remote_device_lists WHERE user_nid = $1 UNION ALL SELECT * FROM (SELECT CAST(NULL AS BIGINT), CAST(NULL AS BOOLEAN), a.room_nid, e.standing FROM memberships a LEFT JOIN events e ON e.event_nid = a.event_nid WHERE a.user_nid = $1 AND a.membership = 'join' AND EXISTS (SELECT 1 FROM memberships b WHERE b.room_nid = a.room_nid AND b.local AND b.membership = 'join') AND NOT EXISTS (SELECT 1 FROM remote_device_lists WHERE user_nid = $1) LIMIT $2) AS met";
const STALE: &str = "SELECT user_nid FROM remote_device_lists WHERE stale AND user_nid > $1 ORDER BY user_nid LIMIT $2";
const FOLLOW: &str = "INSERT INTO remote_device_lists (user_nid, stream_id, stale) VALUES ($1, $2, FALSE) ON CONFLICT (user_nid) DO UPDATE SET stale = remote_device_lists.stream_id > excluded.stream_id, stream_id = excluded.stream_id";
const MISSED: &str = "UPDATE remote_device_lists SET stream_id = $2 WHERE user_nid = $1 AND stale AND stream_id < $2";
const BEGIN: &str = "INSERT INTO remote_device_lists (user_nid, stream_id, stale) VALUES ($1, 0, TRUE) ON CONFLICT (user_nid) DO NOTHING";
const MARK: &str = "UPDATE remote_device_lists SET stale = TRUE WHERE user_nid = $1 AND NOT stale";
const UNFOLLOW: &str = "DELETE FROM remote_device_lists WHERE user_nid = $1 RETURNING stream_id";
const PUT: &str = "INSERT INTO remote_devices (user_nid, device_id, display_name, json) VALUES ($1, $2, $3, $4) ON CONFLICT (user_nid, device_id) DO UPDATE SET display_name = excluded.display_name, json = excluded.json";
const DROP: &str = "DELETE FROM remote_devices WHERE user_nid = $1 AND device_id = $2";
const DROP_ALL: &str = "DELETE FROM remote_devices WHERE user_nid = $1";
const COUNT: &str = "SELECT COUNT(*) FROM remote_devices WHERE user_nid = $1";
const PUT_KEY: &str = "INSERT INTO cross_signing_keys (user_nid, usage, json) VALUES ($1, $2, $3) ON CONFLICT (user_nid, usage) DO UPDATE SET json = excluded.json";
const DROP_KEYS: &str = "DELETE FROM cross_signing_keys WHERE user_nid = $1";

impl Store {
    /// How far we follow the devices of a user of another server; `None` if we do not.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn followed(&self, user: UserNid) -> Result<Option<Followed>> {
        fetch_optional!(&mut self.read().await?, Followed, FOLLOWED, user.0)
    }

    /// What ours have to do with a user of another server; of the rooms where they meet, `limit` at most.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn known(&self, user: UserNid, limit: usize) -> Result<Known> {
        type Row = (Option<i64>, Option<bool>, Option<i64>, Option<i64>);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, KNOWN, user.0, limit)?;
        let mut met = Vec::with_capacity(rows.len());
        for row in rows {
            match row {
                (Some(stream_id), Some(stale), ..) => return Ok(Known::Followed(Followed { stream_id, stale })),
                (_, _, room, standing) => met.extend(
                    room.map(|room| Met { room: RoomNid(room), came: standing == Some(Standing::Live.code()) }),
                ),
            }
        }
        Ok(Known::Met(met))
    }

    /// Begins to follow users: their lists are fetched by whoever does that.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn follow(&self, users: Vec<UserNid>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for user in users {
                    execute!(tx, BEGIN, user.0)?;
                }
                tx.after_commit(|store| store.inner.stale_lists.0.notify_one());
                Ok(())
            })
        })
        .await
    }

    /// Begins to follow a user, and tells our clients that their devices changed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn follow_and_tell(&self, user: UserNid) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                later!(tx, BEGIN, user.0)?;
                tx.note_device_list(user).await?;
                tx.after_commit(|store| store.inner.stale_lists.0.notify_one());
                Ok(())
            })
        })
        .await
    }

    /// Tells our clients that devices of a user changed whom nobody follows.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn tell_of_devices(&self, user: UserNid) -> Result<()> {
        self.write(move |tx| Box::pin(async move { tx.note_device_list(user).await.map(drop) })).await
    }

    /// Users whose devices are to be fetched whole, those behind `after`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn stale_device_lists(&self, after: UserNid, limit: i64) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), STALE, after.0, limit)?;
        Ok(rows.into_iter().map(|(nid,)| UserNid(nid)).collect())
    }

    /// Notes that changes of a user's devices were missed. Clients are told: they ask again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn mark_device_list_stale(&self, user: UserNid) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                if execute!(tx, MARK, user.0)? > 0 {
                    tx.note_device_list(user).await?;
                    tx.after_commit(|store| store.inner.stale_lists.0.notify_one());
                }
                Ok(())
            })
        })
        .await
    }

    /// Rings when a list is to be fetched whole.
    #[must_use]
    pub fn stale_lists_bell(&self) -> &Notify {
        &self.inner.stale_lists.0
    }

    /// Notes a change of a list that is to be fetched: what is fetched must not be older, and clients, who were answered
    /// by its server meanwhile, ask again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_change_missed(&self, user: UserNid, stream_id: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                if execute!(tx, MISSED, user.0, stream_id)? > 0 {
                    tx.note_device_list(user).await?;
                    tx.after_commit(|store| store.inner.stale_lists.0.notify_one());
                }
                Ok(())
            })
        })
        .await
    }

    /// Puts all that a server tells of a user in place of what we had, which is news to our clients unless it is the
    /// first. If it is older than a change that was missed, it is to be fetched again; so it is if it was `overtaken` by
    /// other news of the user, which is asked when it is its turn, and nothing is put then.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_remote_list(
        &self,
        user: UserNid,
        list: RemoteList,
        is_first: bool,
        overtaken: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                if overtaken() {
                    tx.after_commit(|store| store.inner.stale_lists.0.notify_one());
                    return Ok(());
                }
                later!(tx, DROP_ALL, user.0)?;
                later!(tx, DROP_KEYS, user.0)?;
                for device in &list.devices {
                    tx.put_remote_device(user, device).await?;
                }
                for (usage, json) in &list.signing_keys {
                    later!(tx, PUT_KEY, user.0, usage.as_str(), json.as_str())?;
                }
                later!(tx, FOLLOW, user.0, list.stream_id)?;
                tx.forget_keys(user);
                if !is_first {
                    tx.note_device_list(user).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Takes in one change of a list that we follow: the device, or (`Err`) the id of one that went. Gives whether there
    /// was room for it: a user has `most` devices at most.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn change_remote_list(
        &self,
        user: UserNid,
        stream_id: i64,
        change: std::result::Result<RemoteDevice, String>,
        most: i64,
    ) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                match change {
                    Ok(device) => {
                        let count: Option<(i64,)> = fetch_optional!(tx, (i64,), COUNT, user.0)?;
                        if count.is_some_and(|(n,)| n >= most) {
                            return Ok(false);
                        }
                        tx.put_remote_device(user, &device).await?;
                    }
                    Err(device_id) => drop(execute!(tx, DROP, user.0, device_id.as_str())?),
                }
                execute!(tx, FOLLOW, user.0, stream_id)?;
                tx.note_device_list(user).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Takes in cross-signing keys of a user whom we follow.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_remote_signing_keys(&self, user: UserNid, keys: Vec<(Usage, String)>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for (usage, json) in &keys {
                    execute!(tx, PUT_KEY, user.0, usage.as_str(), json.as_str())?;
                }
                tx.note_device_list(user).await.map(drop)
            })
        })
        .await
    }

    /// Follows a user no longer, whose changes do not reach us any more, or whose server tells no list. Our clients hear of
    /// it if there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unfollow(&self, user: UserNid) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let was: Option<(i64,)> = fetch_optional!(tx, (i64,), UNFOLLOW, user.0)?;
                let Some((stream_id,)) = was else { return Ok(()) };
                execute!(tx, DROP_ALL, user.0)?;
                execute!(tx, DROP_KEYS, user.0)?;
                tx.forget_keys(user);
                if stream_id > 0 {
                    tx.note_device_list(user).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

impl Tx {
    /// Has memory forget a user's keys though nobody is told that they changed.
    fn forget_keys(&mut self, user: UserNid) {
        self.after_commit(move |store| store.inner.e2ee.users.invalidate(&user));
    }

    async fn put_remote_device(&mut self, user: UserNid, device: &RemoteDevice) -> Result<()> {
        let (name, json) = (device.display_name.as_deref(), device.json.as_deref());
        later!(self, PUT, user.0, device.device_id.as_str(), name, json)
    }
}
