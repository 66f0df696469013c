//! End-to-end encryption, the server's part: publishes devices' and users' public keys, gives out one-time keys,
//! keeps signatures that verify ([`cross_signing`]) and backups of room keys ([`backups`]). Users of other servers are
//! asked for there, and other servers are told of ours ([`servers`]).
//!
//! Checks form and signatures; the texts and what is remembered of them are the store's.

use std::{collections::BTreeMap, sync::Arc};

use hearth_base::{
    Error, Result, clock::Clock, ids::StreamPos, requester::Requester, stream::SyncToken, tasks::Supervisor,
};
use hearth_store::{
    Store,
    keys::{
        Usage, UserKeys, add_signatures,
        one_time::{NewKey, Upload, Uploaded},
    },
};
use ruma::{CanonicalJsonObject, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::federation::{Federation, edus::device_lists::DeviceLists};

pub mod backups;
mod claims;
pub mod cross_signing;
pub mod servers;

pub use claims::{ClaimedKeys, Claims, KeysByDevice};

/// What users may store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One-time keys of a device, all algorithms together. Clients keep about 50.
    pub max_one_time_keys: u64,
    /// Bytes of one key of any sort.
    pub max_key_bytes: usize,
    /// Keys and signatures in one request.
    pub max_keys_per_request: usize,
    /// Backups of a user.
    pub max_backups: usize,
    /// Room keys in a backup.
    pub max_backup_keys: u64,
    /// Bytes of a backup's `auth_data`, and of one room key in it.
    pub max_backup_key_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_one_time_keys: 500,
            max_key_bytes: 16 << 10,
            max_keys_per_request: 10_000,
            max_backups: 100,
            max_backup_keys: 1_000_000,
            max_backup_key_bytes: 64 << 10,
        }
    }
}

/// Keys of users and devices. Clones are the same service.
#[derive(Clone, Debug)]
pub struct Keys {
    store: Store,
    federation: Arc<Federation>,
    device_lists: Arc<DeviceLists>,
    server_name: OwnedServerName,
    settings: Settings,
    clock: Clock,
    supervisor: Supervisor,
}

/// What a device publishes at once (`POST /keys/upload`).
#[derive(Debug, Default)]
pub struct NewKeys {
    /// Its identity keys.
    pub device_keys: Option<Box<RawValue>>,
    /// By `algorithm:id`.
    pub one_time_keys: BTreeMap<String, Box<RawValue>>,
    /// By `algorithm:id`.
    pub fallback_keys: BTreeMap<String, Box<RawValue>>,
}

/// By name of a server: why it could not be asked.
pub type Failures = BTreeMap<String, Value>;

/// The public keys of users, as far as the requester may see them (`POST /keys/query`).
#[derive(Debug, Default, Serialize)]
pub struct QueriedKeys {
    /// Servers that could not be asked.
    pub failures: Failures,
    /// Every user of this server that was asked for, and their devices.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
    /// The requester's user-signing key.
    pub user_signing_keys: BTreeMap<OwnedUserId, Box<RawValue>>,
}

/// Whose keys a client has to ask for again, and whose no longer (`GET /keys/changes`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Changed, or met.
    pub changed: Vec<OwnedUserId>,
    /// Parted from.
    pub left: Vec<OwnedUserId>,
}

/// The parts of device keys that are ours to check.
#[derive(Deserialize)]
struct DeviceKeysForm {
    user_id: String,
    device_id: String,
    algorithms: Vec<String>,
    keys: BTreeMap<String, String>,
    #[serde(default)]
    signatures: BTreeMap<String, BTreeMap<String, String>>,
}

impl Keys {
    /// The service for users of our server.
    #[must_use]
    pub fn new(
        store: Store,
        federation: Arc<Federation>,
        device_lists: Arc<DeviceLists>,
        settings: Settings,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Self {
        let server_name = federation.name().to_owned();
        Self { store, federation, device_lists, server_name, settings, clock, supervisor }
    }

    /// Publishes keys of the requester's device; gives the unclaimed one-time keys it has then, by algorithm.
    ///
    /// # Errors
    /// 400 for keys of others or of a wrong form, and for another key under the name of one that we have (clients
    /// recognise that sentence); 413 for more than a device may have.
    pub async fn upload(&self, requester: &Requester, keys: NewKeys) -> Result<BTreeMap<String, u64>> {
        let device = requester
            .device_id
            .as_ref()
            .ok_or_else(|| Error::invalid_param("Keys belong to a device, and this access token has none"))?;
        if keys.one_time_keys.len() + keys.fallback_keys.len() > self.settings.max_keys_per_request {
            return Err(Error::too_large("Too many keys at once"));
        }
        let device_keys = match &keys.device_keys {
            Some(raw) => Some(self.device_keys(requester, device.as_str(), raw)?),
            None => None,
        };
        let upload = Upload {
            user: requester.user_nid,
            device: device.to_string(),
            device_keys,
            one_time: self.new_keys(&keys.one_time_keys)?,
            fallback: self.new_keys(&keys.fallback_keys)?,
            now_ms: i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX),
            max_one_time: self.settings.max_one_time_keys,
        };
        if upload.device_keys.is_none() && upload.one_time.is_empty() && upload.fallback.is_empty() {
            // How clients ask for the counts.
            return Ok(self.store.key_counts(requester.user_nid, device.as_str()).await?.one_time.clone());
        }
        match self.store.upload_keys(upload).await? {
            Uploaded::Done(counts) => Ok(counts),
            Uploaded::NoDevice => Err(Error::unknown_token("This device is logged out", false)),
            Uploaded::Exists { key_id, old, new } => Err(Error::invalid_param(format!(
                "One time key {key_id} already exists. Old key: {old}; new key: {new}"
            ))),
            Uploaded::TooMany => {
                let max = self.settings.max_one_time_keys;
                Err(Error::too_large(format!("A device may have {max} one-time keys at most")))
            }
        }
    }

    /// Checks device keys; gives them as they are to be stored, without what servers add.
    fn device_keys(&self, requester: &Requester, device: &str, raw: &RawValue) -> Result<String> {
        self.check_size(raw)?;
        let wrong = |e: serde_json::Error| Error::bad_json(format!("device_keys: {e}"));
        let form: DeviceKeysForm = serde_json::from_str(raw.get()).map_err(wrong)?;
        if form.user_id != requester.user_id.as_str() || form.device_id != device {
            return Err(Error::invalid_param("device_keys must name the user and the device of the access token"));
        }
        if form.algorithms.len() > 100 || form.keys.len() > 100 {
            return Err(Error::too_large("device_keys has too many keys"));
        }
        // What cannot be canonical cannot be signed.
        let _: CanonicalJsonObject = serde_json::from_str(raw.get()).map_err(wrong)?;
        let mut object: Map<String, Value> = serde_json::from_str(raw.get()).map_err(wrong)?;
        // What a client adds unsigned is passed on (MSC4229), but for the name, which we say.
        match object.get_mut("unsigned") {
            Some(Value::Object(unsigned)) => drop(unsigned.shift_remove("device_display_name")),
            Some(_) => drop(object.shift_remove("unsigned")),
            None => {}
        }
        keep_signatures_of(&mut object, &requester.user_id, form.signatures.keys());
        serde_json::to_string(&object).map_err(wrong)
    }

    fn new_keys(&self, keys: &BTreeMap<String, Box<RawValue>>) -> Result<Vec<NewKey>> {
        keys.iter().map(|(name, raw)| self.new_key(name, raw)).collect()
    }

    /// Checks a one-time or fallback key: an object with a `key`, or a string.
    fn new_key(&self, name: &str, raw: &RawValue) -> Result<NewKey> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(#[expect(dead_code, reason = "only the form matters")] String),
            Object {
                #[expect(dead_code, reason = "only the form matters")]
                key: String,
                #[serde(default)]
                #[expect(dead_code, reason = "only the form matters")]
                signatures: BTreeMap<String, BTreeMap<String, String>>,
            },
        }
        self.check_size(raw)?;
        let (algorithm, key_id) = name
            .split_once(':')
            .filter(|(algorithm, id)| is_name(algorithm) && is_name(id))
            .ok_or_else(|| Error::invalid_param("The name of a key is its algorithm, a colon and an id"))?;
        let form: Form = serde_json::from_str(raw.get())
            .map_err(|_| Error::bad_json(format!("{name} is neither a key nor a signed key")))?;
        if matches!(form, Form::Text(_)) && algorithm.starts_with("signed_") {
            return Err(Error::bad_json(format!("{name} is not signed")));
        }
        Ok(NewKey { algorithm: algorithm.to_owned(), key_id: key_id.to_owned(), json: raw.get().to_owned() })
    }

    fn check_size(&self, raw: &RawValue) -> Result<()> {
        if raw.get().len() > self.settings.max_key_bytes {
            return Err(Error::too_large("A key is too large"));
        }
        Ok(())
    }

    /// The public keys of users: all their devices, or those named. Users of other servers are asked for there; servers
    /// that do not answer are among the failures.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn query(
        &self,
        requester: &Requester,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<QueriedKeys> {
        let (local, remote): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(|(user, _)| user.server_name() == self.server_name);
        let (ours, theirs) =
            futures_util::join!(self.query_ours(Some(requester), local), self.query_theirs(requester, remote));
        let (mut answer, theirs) = (ours?, theirs?);
        answer.failures = theirs.failures;
        answer.device_keys.extend(theirs.device_keys);
        answer.master_keys.extend(theirs.master_keys);
        answer.self_signing_keys.extend(theirs.self_signing_keys);
        Ok(answer)
    }

    /// The public keys of users of ours, as the requester or (`None`) another server may see them.
    async fn query_ours(
        &self,
        requester: Option<&Requester>,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    ) -> Result<QueriedKeys> {
        let mut answer = QueriedKeys::default();
        let users: Vec<OwnedUserId> = wanted.keys().cloned().collect();
        let nids: BTreeMap<OwnedUserId, _> = self.store.user_nids(&users).await?.into_iter().collect();
        let mut to_load: Vec<_> = nids.values().copied().collect();
        to_load.extend(requester.map(|r| r.user_nid).filter(|nid| !to_load.contains(nid)));
        let all = self.store.user_keys(&to_load).await?;
        let own = requester.and_then(|r| all.get(&r.user_nid)).cloned().unwrap_or_default();
        for (user, devices) in wanted {
            let keys = nids.get(&user).and_then(|nid| all.get(nid));
            let found = answer.device_keys.entry(user.clone()).or_default();
            let Some(keys) = keys else { continue };
            found.extend(chosen_devices(keys, &devices));
            if let Some(master) = keys.cross_signing(Usage::Master) {
                let given = nids.get(&user).and_then(|nid| own.given.get(&(*nid, master.public.clone())));
                let json = match (given, requester) {
                    (Some(given), Some(requester)) => with_signatures(&master.json, &requester.user_id, given)?,
                    _ => master.json.clone(),
                };
                answer.master_keys.insert(user.clone(), json);
            }
            if let Some(key) = keys.cross_signing(Usage::SelfSigning) {
                answer.self_signing_keys.insert(user.clone(), key.json.clone());
            }
            let is_own = requester.is_some_and(|r| r.is(&user));
            if let Some(key) = keys.cross_signing(Usage::UserSigning).filter(|_| is_own) {
                answer.user_signing_keys.insert(user, key.json.clone());
            }
        }
        Ok(answer)
    }

    /// Whose keys changed for the requester between two sync tokens. `to` is a hint, as the specification says: what
    /// happened since is told as well.
    ///
    /// # Errors
    /// 400 for what is no sync token.
    pub async fn changes(&self, requester: &Requester, from: &str, to: &str) -> Result<KeyChanges> {
        let (from, _): (SyncToken, SyncToken) = (from.parse()?, to.parse()?);
        // On a history that is lost nothing tells what changed since: all that ever did is told.
        let after = if self.store.gave_out(from.boot, from.pos) { from.pos } else { StreamPos::ZERO };
        self.changes_between(requester, after, self.store.head()).await
    }

    /// What /sync says under `device_lists` for `(after, upto]`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn changes_between(
        &self,
        requester: &Requester,
        after: StreamPos,
        upto: StreamPos,
    ) -> Result<KeyChanges> {
        let lists = self.store.device_lists_changed(requester.user_nid, after, upto).await?;
        Ok(KeyChanges {
            changed: self.store.user_ids(&lists.changed).await?,
            left: self.store.user_ids(&lists.left).await?,
        })
    }
}

/// Those of the devices that were asked for; all if none is named.
fn chosen_devices(keys: &UserKeys, named: &[OwnedDeviceId]) -> BTreeMap<OwnedDeviceId, Box<RawValue>> {
    if named.is_empty() {
        return keys.devices.iter().map(|(id, json)| (id.as_str().into(), json.clone())).collect();
    }
    named.iter().filter_map(|id| keys.devices.get(id.as_str()).map(|json| (id.clone(), json.clone()))).collect()
}

/// A key with signatures that only this requester sees.
fn with_signatures(json: &RawValue, signer: &UserId, signatures: &[(String, String)]) -> Result<Box<RawValue>> {
    let fault = |e: serde_json::Error| Error::fault("a stored key is no JSON object", e);
    let mut object: Map<String, Value> = serde_json::from_str(json.get()).map_err(fault)?;
    add_signatures(&mut object, signer.as_str(), signatures);
    serde_json::value::to_raw_value(&object).map_err(fault)
}

/// Takes the signatures of all others off a key: those are vouched for by nobody here.
fn keep_signatures_of<'s>(object: &mut Map<String, Value>, user: &UserId, signers: impl Iterator<Item = &'s String>) {
    if let Some(signatures) = object.get_mut("signatures").and_then(Value::as_object_mut) {
        for signer in signers.filter(|signer| *signer != user.as_str()) {
            signatures.shift_remove(signer);
        }
    }
}

/// Whether a text can name a device, key or session: of sane length, without control characters.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control)
}

#[cfg(test)]
pub(crate) mod tests;
