//! One-time keys given out: of our users here, of others at their servers ([`super::servers`]).

use std::collections::BTreeMap;

use hearth_base::{Error, Requester, Result};
use hearth_store::keys::one_time::Wanted;
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Failures, Keys, is_name};

/// Keys by user, device and `algorithm:id`.
pub type KeysByDevice = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<String, Box<RawValue>>>>;

/// Which algorithm's key is wanted of which device.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>;

/// One-time keys given out (`POST /keys/claim`).
#[derive(Debug, Default, Serialize)]
pub struct ClaimedKeys {
    /// Servers that could not be asked.
    pub failures: Failures,
    /// What there was; devices without a key are left out.
    pub one_time_keys: KeysByDevice,
}

impl Keys {
    /// Gives out one key for each device: the oldest one-time key of that algorithm, else the fallback key.
    ///
    /// # Errors
    /// 413 for too many devices at once.
    pub async fn claim(&self, _requester: &Requester, wanted: Claims) -> Result<ClaimedKeys> {
        self.check_claims(&wanted)?;
        let (local, remote): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(|(user, _)| user.server_name() == self.server_name);
        let (ours, theirs) = futures_util::join!(self.claim_ours(local), self.claim_theirs(remote));
        let mut answer = theirs;
        answer.one_time_keys.extend(ours?);
        Ok(answer)
    }

    pub(super) fn check_claims(&self, wanted: &Claims) -> Result<()> {
        if wanted.values().map(BTreeMap::len).sum::<usize>() > self.settings.max_keys_per_request {
            return Err(Error::too_large("Too many keys at once"));
        }
        Ok(())
    }

    /// Gives out keys of devices of users of ours.
    pub(super) async fn claim_ours(&self, wanted: Claims) -> Result<KeysByDevice> {
        let users: Vec<OwnedUserId> = wanted.keys().cloned().collect();
        let nids = self.store.user_nids(&users).await?;
        let mut claims = Vec::new();
        for (user, nid) in &nids {
            let devices = wanted.get(user).into_iter().flatten();
            let devices = devices.filter(|(device, algorithm)| is_name(device.as_str()) && is_name(algorithm));
            claims.extend(devices.map(|(device, algorithm)| Wanted {
                user: *nid,
                device: device.to_string(),
                algorithm: algorithm.clone(),
            }));
        }
        let names: BTreeMap<i64, OwnedUserId> = nids.into_iter().map(|(user, nid)| (nid.0, user)).collect();
        let mut one_time_keys = KeysByDevice::new();
        for claimed in self.store.claim_keys(claims).await? {
            let Some(user) = names.get(&claimed.user) else { continue };
            let json = RawValue::from_string(claimed.json).map_err(|e| Error::fault("a stored key is no JSON", e))?;
            let of_user = one_time_keys.entry(user.clone()).or_default();
            let of_device = of_user.entry(claimed.device.into()).or_default();
            of_device.insert(format!("{}:{}", claimed.algorithm, claimed.key_id), json);
        }
        Ok(one_time_keys)
    }
}
