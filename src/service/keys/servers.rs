//! Keys between servers (server-server API, "End-to-End Encryption"): users of other servers are asked for at theirs,
//! and other servers are told of users of ours.
//!
//! Servers are asked at the same time, each with the same deadline, so that one that hangs costs the others nothing.
//! What they answer is taken only about their own users, and only if it says so itself.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};
use hearth_base::{Error, OrNotFound, Requester, Result, ids::UserNid};
use hearth_remote::Failure;
use hearth_store::keys::{Usage, changes::DeviceChange};
use ruma::{
    CanonicalJsonObject, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::federation::keys::{claim_keys, get_keys},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::{ClaimedKeys, Claims, Failures, Keys, QueriedKeys, is_name, with_signatures};

/// Servers asked at the same time.
const AT_ONCE: usize = 50;
/// Users of a server whose lists are fetched one by one; more are asked for together.
const FEW: usize = 10;
/// Bytes of a server's answer.
const MAX_ANSWER: usize = 16 << 20;

/// All devices of a user, as another server keeps them (`GET /user/devices/{userId}`).
#[derive(Debug, Serialize)]
pub struct UserDevices {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Counts changes of the list; the same number stands in the updates that follow.
    pub stream_id: i64,
    /// The devices that have keys.
    pub devices: Vec<UserDevice>,
    /// The master key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_key: Option<Box<RawValue>>,
    /// The self-signing key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_signing_key: Option<Box<RawValue>>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct UserDevice {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// Its identity keys.
    pub keys: Box<RawValue>,
    /// Its name, where others may see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_display_name: Option<String>,
}

/// A device as other servers see it.
#[derive(Debug)]
pub struct ShownDevice {
    /// Its identity keys, if it has any.
    pub keys: Option<Box<RawValue>>,
    /// Its name, where others may see it.
    pub name: Option<String>,
}

fn by_server<T>(wanted: BTreeMap<OwnedUserId, T>) -> BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> {
    let mut servers: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> = BTreeMap::new();
    for (user, what) in wanted {
        servers.entry(user.server_name().to_owned()).or_default().insert(user, what);
    }
    servers
}

/// Why a server could not be asked, as clients are told.
fn note(failures: &mut Failures, server: &OwnedServerName, failure: &Failure) {
    let status = failure.refusal().map_or(503, |r| r.status.as_u16());
    let message = format!("{server} could not be asked: {failure}");
    tracing::debug!(%server, error = %failure, "a server was not to be asked for keys");
    failures.insert(server.to_string(), json!({ "status": status, "message": message }));
}

impl Keys {
    /// Keys of users of other servers, with what the requester signed of them.
    pub(super) async fn query_theirs(
        &self,
        requester: &Requester,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<QueriedKeys> {
        let mut answer = QueriedKeys::default();
        if wanted.is_empty() {
            return Ok(answer);
        }
        let wanted = self.followed(wanted, &mut answer).await?;
        let asking = by_server(wanted).into_iter().map(|(server, wanted)| async move {
            let request = get_keys::v1::Request::new(wanted.clone());
            let patience = self.federation.short().up_to(MAX_ANSWER);
            let ended = self.federation.send(&server, request, patience).await;
            (server, wanted, ended)
        });
        let mut asking = stream::iter(asking).buffer_unordered(AT_ONCE);
        while let Some((server, wanted, ended)) = asking.next().await {
            let found = match ended {
                Ok(found) => found,
                Err(failure) => {
                    note(&mut answer.failures, &server, &failure);
                    continue;
                }
            };
            for (user, devices) in found.device_keys {
                let Some(asked) = wanted.get(&user) else { continue };
                let devices = devices.into_iter().filter(|(id, keys)| {
                    (asked.is_empty() || asked.contains(id)) && self.is_of_device(keys.json(), &user, id.as_str())
                });
                let devices = devices.map(|(id, keys)| (id, keys.into_json())).collect();
                answer.device_keys.insert(user, devices);
            }
            let of_user =
                |user: &OwnedUserId, json: &RawValue| wanted.contains_key(user) && self.is_of_user(json, user);
            for (user, key) in found.master_keys {
                if of_user(&user, key.json()) {
                    answer.master_keys.insert(user, key.into_json());
                }
            }
            for (user, key) in found.self_signing_keys {
                if of_user(&user, key.json()) {
                    answer.self_signing_keys.insert(user, key.into_json());
                }
            }
        }
        drop(asking);
        self.add_given(requester, &mut answer).await?;
        Ok(answer)
    }

    /// Answers for the users whom we follow; gives the others. Those who share a room with ours are followed from now on:
    /// where they are few of a server their lists are fetched first, and so asked for once, whoever asks then.
    async fn followed(
        &self,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        answer: &mut QueriedKeys,
    ) -> Result<BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>> {
        let users: Vec<OwnedUserId> = wanted.keys().cloned().collect();
        let nids: BTreeMap<OwnedUserId, UserNid> = self.store.user_nids(&users).await?.into_iter().collect();
        let (mut others, mut unsure) = (BTreeMap::new(), BTreeMap::new());
        for (user, devices) in wanted {
            let meets = match nids.get(&user) {
                Some(nid) if self.store.meets_ours(*nid).await? => Some(*nid),
                _ => None,
            };
            let Some(nid) = meets else {
                others.insert(user, devices);
                continue;
            };
            if !self.answered(&user, nid, &devices, answer).await? {
                unsure.insert(user, (nid, devices));
            }
        }
        self.device_lists.may_be_met(others.keys().map(|user| &**user)).await?;
        let (few, many): (Vec<_>, Vec<_>) = by_server(unsure).into_values().partition(|users| users.len() <= FEW);
        let nids = |of: &[BTreeMap<OwnedUserId, (UserNid, _)>]| -> Vec<UserNid> {
            of.iter().flat_map(BTreeMap::values).map(|(nid, _)| *nid).collect()
        };
        if !many.is_empty() {
            self.store.follow(nids(&many)).await?;
        }
        if !few.is_empty() {
            self.device_lists.refresh(nids(&few)).await?;
        }
        for (user, (nid, devices)) in few.into_iter().flatten() {
            if !self.answered(&user, nid, &devices, answer).await? {
                others.insert(user, devices);
            }
        }
        others.extend(many.into_iter().flatten().map(|(user, (_, devices))| (user, devices)));
        Ok(others)
    }

    /// Answers for a user whom we follow, if we have missed nothing; whether it did.
    async fn answered(
        &self,
        user: &OwnedUserId,
        nid: UserNid,
        devices: &[OwnedDeviceId],
        answer: &mut QueriedKeys,
    ) -> Result<bool> {
        if self.store.followed(nid).await?.is_none_or(|followed| followed.stale) {
            return Ok(false);
        }
        let keys = self.store.keys_of(nid).await?;
        answer.device_keys.insert(user.clone(), super::chosen_devices(&keys, devices));
        let of = |usage| keys.cross_signing(usage).map(|key| key.json.clone());
        answer.master_keys.extend(of(Usage::Master).map(|key| (user.clone(), key)));
        answer.self_signing_keys.extend(of(Usage::SelfSigning).map(|key| (user.clone(), key)));
        Ok(true)
    }

    /// Adds what the requester signed of others' master keys.
    async fn add_given(&self, requester: &Requester, answer: &mut QueriedKeys) -> Result<()> {
        if answer.master_keys.is_empty() {
            return Ok(());
        }
        let own = self.store.user_keys(&[requester.user_nid]).await?;
        let Some(given) = own.get(&requester.user_nid).map(|keys| &keys.given).filter(|g| !g.is_empty()) else {
            return Ok(());
        };
        let users: Vec<OwnedUserId> = answer.master_keys.keys().cloned().collect();
        for (user, nid) in self.store.user_nids(&users).await? {
            let Some(json) = answer.master_keys.get_mut(&user) else { continue };
            let Some(public) = public_key(json) else { continue };
            if let Some(signatures) = given.get(&(nid, public)) {
                *json = with_signatures(json, &requester.user_id, signatures)?;
            }
        }
        Ok(())
    }

    /// Claims keys of devices of other servers' users.
    pub(super) async fn claim_theirs(&self, wanted: Claims) -> ClaimedKeys {
        let mut answer = ClaimedKeys::default();
        let asking = by_server(wanted).into_iter().map(|(server, wanted)| async move {
            let claims = wanted.iter().map(|(user, devices)| {
                let devices = devices.iter().map(|(id, algorithm)| (id.clone(), algorithm.as_str().into()));
                (user.clone(), devices.collect())
            });
            let request = claim_keys::v1::Request::new(claims.collect());
            // Once: each try costs a key.
            let patience = self.federation.once().within(self.federation.settings().patience).up_to(MAX_ANSWER);
            let ended = self.federation.send(&server, request, patience).await;
            (server, wanted, ended)
        });
        let mut asking = stream::iter(asking).buffer_unordered(AT_ONCE);
        while let Some((server, wanted, ended)) = asking.next().await {
            let found = match ended {
                Ok(found) => found,
                Err(failure) => {
                    note(&mut answer.failures, &server, &failure);
                    continue;
                }
            };
            for (user, devices) in found.one_time_keys {
                for (device, keys) in devices {
                    if wanted.get(&user).is_none_or(|devices| !devices.contains_key(&device)) {
                        continue;
                    }
                    let keys = keys.into_iter().take(1).map(|(id, key)| (id.to_string(), key.into_json()));
                    let of_user = answer.one_time_keys.entry(user.clone()).or_default();
                    of_user.insert(device, keys.collect());
                }
            }
        }
        answer
    }

    /// Keys of users of ours for another server; what users are not of ours is left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn query_for_server(&self, mut wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>) -> Result<QueriedKeys> {
        wanted.retain(|user, _| user.server_name() == self.server_name);
        let mut answer = self.query_ours(None, wanted).await?;
        for json in answer.device_keys.values_mut().flat_map(BTreeMap::values_mut) {
            *json = self.as_shown(json)?.0;
        }
        Ok(answer)
    }

    /// Gives keys of devices of ours to another server.
    ///
    /// # Errors
    /// 413 for too many devices at once.
    pub async fn claim_for_server(&self, mut wanted: Claims) -> Result<super::KeysByDevice> {
        self.check_claims(&wanted)?;
        wanted.retain(|user, _| user.server_name() == self.server_name);
        self.claim_ours(wanted).await
    }

    /// All devices of a user of ours, for a server that begins to follow them.
    ///
    /// # Errors
    /// 404 for users that are not ours.
    pub async fn devices_for_server(&self, user: &UserId) -> Result<UserDevices> {
        if user.server_name() != self.server_name {
            return Err(Error::not_found("This user is not of this server"));
        }
        let nid = self.store.user_nid(user).await?.or_not_found("User")?;
        self.store.account(nid).await?.or_not_found("User")?;
        // Before the keys: what changes meanwhile is told again, never left out.
        let stream_id = self.store.newest_device_change(nid).await?.map_or(0, |change| change.pos);
        let all = self.store.user_keys(&[nid]).await?;
        let keys = all.get(&nid).cloned().unwrap_or_default();
        let mut devices = Vec::new();
        for (id, json) in &keys.devices {
            let (keys, device_display_name) = self.as_shown(json)?;
            devices.push(UserDevice { device_id: id.as_str().into(), keys, device_display_name });
        }
        let of = |usage| keys.cross_signing(usage).map(|key| key.json.clone());
        Ok(UserDevices {
            user_id: user.to_owned(),
            stream_id,
            devices,
            master_key: of(Usage::Master),
            self_signing_key: of(Usage::SelfSigning),
        })
    }

    /// What `m.device_list_update` says of a device of ours that is there: its keys and its name, as far as others may see
    /// them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_for_server(&self, change: &DeviceChange) -> Result<ShownDevice> {
        let user = UserNid(change.user_nid);
        let mut keys = None;
        if change.has_keys {
            let all = self.store.user_keys(&[user]).await?;
            if let Some(json) = all.get(&user).and_then(|keys| keys.devices.get(&change.device_id)) {
                keys = Some(self.as_shown(json)?.0);
            }
        }
        Ok(ShownDevice { keys, name: change.display_name.clone().filter(|_| self.federation.settings().device_names) })
    }

    /// Keys of a device as other servers see them, and the device's name if they may see that.
    fn as_shown(&self, json: &RawValue) -> Result<(Box<RawValue>, Option<String>)> {
        let fault = |e: serde_json::Error| Error::fault("a stored key is no JSON object", e);
        let mut object: Map<String, Value> = serde_json::from_str(json.get()).map_err(fault)?;
        let name = object.get("unsigned").and_then(|u| u.get("device_display_name")?.as_str()).map(str::to_owned);
        let shown = self.federation.settings().device_names;
        if !shown && let Some(Value::Object(unsigned)) = object.get_mut("unsigned") {
            unsigned.shift_remove("device_display_name");
            if unsigned.is_empty() {
                object.shift_remove("unsigned");
            }
        }
        Ok((serde_json::value::to_raw_value(&object).map_err(fault)?, name.filter(|_| shown)))
    }

    /// Whether keys may be those of a device: they do not say that they are of another.
    fn is_of_device(&self, json: &RawValue, user: &UserId, device: &str) -> bool {
        #[derive(Deserialize)]
        struct Form {
            #[serde(default)]
            user_id: Option<String>,
            #[serde(default)]
            device_id: Option<String>,
        }
        is_name(device)
            && self.is_canonical(json)
            && serde_json::from_str::<Form>(json.get()).is_ok_and(|form| {
                form.user_id.is_none_or(|u| u == user.as_str()) && form.device_id.is_none_or(|d| d == device)
            })
    }

    fn is_of_user(&self, json: &RawValue, user: &UserId) -> bool {
        #[derive(Deserialize)]
        struct Form {
            user_id: String,
        }
        self.is_canonical(json) && serde_json::from_str::<Form>(json.get()).is_ok_and(|f| f.user_id == user.as_str())
    }

    fn is_canonical(&self, json: &RawValue) -> bool {
        json.get().len() <= self.settings.max_key_bytes
            && serde_json::from_str::<CanonicalJsonObject>(json.get()).is_ok()
    }
}

/// The public key of a cross-signing key, which is also its name.
fn public_key(json: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Form {
        keys: BTreeMap<String, String>,
    }
    serde_json::from_str::<Form>(json.get()).ok()?.keys.into_values().next()
}
