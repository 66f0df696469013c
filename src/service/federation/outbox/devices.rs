//! What a server is told of devices of ours. Of each user this is a chain: every change names the one that the server was
//! told before it, by which it sees that it missed none. What a later change of the same device replaced is not told any
//! more, so the chain of a server that was away has fewer links than others', but no holes.

use std::collections::BTreeMap;

use hearth_base::{
    Doing, Result,
    ids::{StreamPos, UserNid},
};
use hearth_store::keys::changes::DeviceChange;
use serde_json::{Value, json, value::RawValue};

use super::{
    Outbox,
    load::{Durable, edu},
};

/// A change in the log that concerns devices of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) user: UserNid,
    /// A link of the chain, and not a change of the cross-signing keys.
    pub(super) device: bool,
}

impl Outbox {
    /// What a transaction says of devices.
    pub(super) async fn device_edus(&self, durable: &Durable) -> Result<Vec<Box<RawValue>>> {
        let mut changes = Vec::new();
        if !durable.devices.is_empty() {
            let positions: Vec<StreamPos> = durable.devices.iter().map(|(pos, _)| *pos).collect();
            changes = self.store.device_changes_at(&positions).await?;
        }
        let mut newest = Vec::new();
        for user in &durable.newest {
            if let Some(change) = self.store.newest_device_change(*user).await?
                && !changes.contains(&change)
            {
                newest.push(change);
            }
        }
        self.link(&mut changes, durable).await?;
        let mut edus = Vec::with_capacity(changes.len() + newest.len());
        for change in changes.iter().chain(&newest) {
            edus.extend(self.device_edu(change).await?);
        }
        Ok(edus)
    }

    /// Gives changes their places in the chain that the server knows: the first follows what it was told last, and the last
    /// stands for all that is behind it in the transaction, so that the next one follows it.
    async fn link(&self, changes: &mut Vec<DeviceChange>, durable: &Durable) -> Result<()> {
        let mut chains: BTreeMap<UserNid, (StreamPos, StreamPos)> = BTreeMap::new();
        for (pos, changed) in durable.devices.iter().filter(|(_, changed)| changed.device) {
            chains.entry(changed.user).or_insert((*pos, *pos)).1 = *pos;
        }
        for (user, (first, last)) in chains {
            let is_link = |c: &DeviceChange| c.user_nid == user.0 && !c.device_id.is_empty();
            let mut before = match changes.iter().find(|c| is_link(c)) {
                Some(change) if change.pos == first.0 => change.prev,
                _ => self.store.device_change_before(user, first).await?.map_or(0, |pos| pos.0),
            };
            // Of what the log does not hold any more it is not known what the server was told.
            if durable.after.is_some_and(|after| before > after.0) {
                before = 0;
            }
            match changes.iter_mut().rfind(|c| is_link(c)) {
                Some(change) => change.pos = last.0,
                // All of them were replaced by changes that come later. Without this one they would follow nothing.
                None => {
                    let newest = self.store.newest_device_change(user).await?;
                    changes.extend(newest.map(|change| DeviceChange { pos: last.0, ..change }));
                }
            }
            for change in changes.iter_mut().filter(|c| is_link(c)) {
                change.prev = std::mem::replace(&mut before, change.pos);
            }
        }
        Ok(())
    }

    /// `m.device_list_update`, or `m.signing_key_update`.
    async fn device_edu(&self, change: &DeviceChange) -> Result<Option<Box<RawValue>>> {
        let nid = UserNid(change.user_nid);
        let user = self.store.user_id(nid).await?;
        if change.device_id.is_empty() {
            let shown = self.keys.devices_for_server(&user).await;
            // An account that is gone has no keys.
            let Ok(shown) = shown else { return Ok(None) };
            let mut content = json!({"user_id": user});
            for (name, key) in [("master_key", shown.master_key), ("self_signing_key", shown.self_signing_key)] {
                if let Some(key) = key {
                    content[name] = serde_json::from_str(key.get()).doing("reading a stored key")?;
                }
            }
            return edu("m.signing_key_update", &content).map(Some);
        }
        let shown = match change.is_there {
            true => Some(self.keys.device_for_server(change).await?),
            false => None,
        };
        let prev: Vec<i64> = [change.prev].into_iter().filter(|prev| *prev > 0).collect();
        let mut content = json!({
            "user_id": user,
            "device_id": change.device_id,
            "stream_id": change.pos,
            "prev_id": prev,
            "deleted": shown.is_none(),
        });
        if let Some(shown) = shown {
            if let Some(keys) = shown.keys {
                content["keys"] = serde_json::from_str(keys.get()).doing("reading a stored key")?;
            }
            if let Some(name) = shown.name {
                content["device_display_name"] = Value::String(name);
            }
        }
        edu("m.device_list_update", &content).map(Some)
    }
}
