//! What other servers are told of our users' devices: which one changed, and where in each user's chain of changes it
//! stands (spec: server-server API, "Device Management").
//!
//! Owns the table `device_changes`.

use hearth_base::{
    Result,
    ids::{StreamPos, UserNid},
};

use crate::{Store, db::Ints, fetch_all, fetch_optional, later, log::Tx, outbox::DEVICE, sql};

const NOTE_CHANGE: &str = "INSERT INTO device_changes (user_nid, device_id, pos, prev) VALUES ($1, $2, $3, COALESCE((SELECT MAX(pos) FROM device_changes WHERE user_nid = $1 AND device_id <> ''), 0)) ON CONFLICT (user_nid, device_id) DO UPDATE SET pos = excluded.pos, prev = excluded.prev";
const NEWEST_CHANGE: &str = "SELECT c.user_nid, c.device_id, c.pos, c.prev, d.device_id IS NOT NULL AS is_there, k.device_id IS NOT NULL AS has_keys, d.display_name FROM device_changes c LEFT JOIN devices d ON d.user_nid = c.user_nid AND d.device_id = c.device_id LEFT JOIN device_keys k ON k.user_nid = c.user_nid AND k.device_id = c.device_id WHERE c.user_nid = $1 AND c.device_id <> '' ORDER BY c.pos DESC LIMIT 1";

const CHANGED: &str = "SELECT pos FROM device_changes WHERE user_nid = $1 AND pos > $2 LIMIT 1";
const CHANGE_BEFORE: &str = "SELECT pos FROM log WHERE pos < $1 AND pos > $2 AND kind = 4 AND user_nid = $3 AND extra = $4 ORDER BY pos DESC LIMIT 1";

/// How far the log is looked through for a change.
const FAR: i64 = 200_000;

/// A change of a device of ours, as other servers are told of it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DeviceChange {
    /// Whose.
    pub user_nid: i64,
    /// Which; empty stands for the cross-signing keys.
    pub device_id: String,
    /// Its `stream_id`: a log position.
    pub pos: i64,
    /// The `stream_id` of the user's change before it; 0: none.
    pub prev: i64,
    /// Whether there is such a device now.
    pub is_there: bool,
    /// Whether it has identity keys.
    pub has_keys: bool,
    /// What the device is called now.
    pub display_name: Option<String>,
}

impl Store {
    /// The device changes that were made at these positions, oldest first; what a later change of the same device
    /// replaced is left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_changes_at(&self, positions: &[StreamPos]) -> Result<Vec<DeviceChange>> {
        let sql = sql!(
            "SELECT c.user_nid, c.device_id, c.pos, c.prev, d.device_id IS NOT NULL AS is_there, k.device_id IS NOT NULL AS has_keys, d.display_name FROM device_changes c LEFT JOIN devices d ON d.user_nid = c.user_nid AND d.device_id = c.device_id LEFT JOIN device_keys k ON k.user_nid = c.user_nid AND k.device_id = c.device_id WHERE c.pos "
            [in 1]
            " ORDER BY c.pos"
        );
        fetch_all!(&mut self.read().await?, DeviceChange, sql, Ints(positions.iter().map(|p| p.0).collect()))
    }

    /// The newest change of a user's devices.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_device_change(&self, user: UserNid) -> Result<Option<DeviceChange>> {
        fetch_optional!(&mut self.read().await?, DeviceChange, NEWEST_CHANGE, user.0)
    }

    /// Whether anything that others are told of a user's devices changed after a position.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn have_devices_changed(&self, user: UserNid, after: Option<StreamPos>) -> Result<bool> {
        let after = after.map_or(0, |pos| pos.0);
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), CHANGED, user.0, after)?;
        Ok(row.is_some())
    }

    /// The last change of a user's devices before a position, also if a later one replaced it; `None` if the log does not
    /// tell.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_change_before(&self, user: UserNid, pos: StreamPos) -> Result<Option<StreamPos>> {
        let far = pos.0.saturating_sub(FAR);
        let row: Option<(i64,)> =
            fetch_optional!(&mut self.read().await?, (i64,), CHANGE_BEFORE, pos.0, far, user.0, DEVICE)?;
        Ok(row.map(|(pos,)| StreamPos(pos)))
    }
}

impl Tx {
    /// Notes that devices of a user of ours came, were renamed or went, or that their keys or signatures changed. Each
    /// change has a position of its own: other servers are told of one device at a time.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_devices(&mut self, user: UserNid, devices: &[String]) -> Result<()> {
        for device in devices {
            self.note_change(user, device).await?;
        }
        Ok(())
    }

    /// Notes that the cross-signing keys of a user of ours changed, or signatures on them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_signing_keys(&mut self, user: UserNid) -> Result<()> {
        self.note_change(user, "").await
    }

    async fn note_change(&mut self, user: UserNid, device: &str) -> Result<()> {
        let pos = self.note_list(user, !device.is_empty()).await?;
        later!(self, NOTE_CHANGE, user.0, device, pos.0)
    }
}
