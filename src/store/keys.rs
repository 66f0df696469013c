//! The public keys of our users: devices' identity keys, cross-signing keys, what signs what.
//!
//! Owns the tables `device_keys`, `cross_signing_keys` and `key_signatures`, and the memory of them by user, ready to
//! hand out; [`one_time`] keys, the [`backups`] of room keys, the [`lists`] of whom to ask about and
//! the [`changes`] other servers hear of stand beside.
//! Whether a key or signature is right is decided by the service; here they are text.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_base::{Error, Result, ids::UserNid};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    Store,
    db::{Ints, Reading, Texts},
    execute, fetch_all, fetch_optional,
    log::{Change, Tx},
    sql,
};

pub mod backups;
pub mod changes;
pub mod lists;
mod news;
pub mod one_time;
mod remembered;
pub mod theirs;
mod together;

pub(crate) use remembered::Memory;
pub use together::add_signatures;
use together::put_together;

/// What a cross-signing key is for (spec: "Cross-signing").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    /// The user's identity.
    Master,
    /// Signs the user's own devices.
    SelfSigning,
    /// Signs other users' master keys; shown to its owner only.
    UserSigning,
}

impl Usage {
    /// Its name in Matrix.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

/// A cross-signing key.
#[derive(Clone, Debug)]
pub struct CrossSigningKey {
    /// The public key, unpadded base64, which is also its name.
    pub public: String,
    /// The key as its owner sees it: their own signatures included, nobody else's.
    pub json: Box<RawValue>,
}

/// All public keys of a user.
#[derive(Clone, Debug, Default)]
pub struct UserKeys {
    /// By device id: identity keys with signatures and display name, as they are handed out.
    pub devices: BTreeMap<String, Box<RawValue>>,
    /// The cross-signing keys there are.
    pub cross_signing: BTreeMap<Usage, CrossSigningKey>,
    /// What the user signed of others: (owner, public master key) to key id and signature.
    pub given: HashMap<(UserNid, String), Vec<(String, String)>>,
}

impl UserKeys {
    /// One of the cross-signing keys.
    #[must_use]
    pub fn cross_signing(&self, usage: Usage) -> Option<&CrossSigningKey> {
        self.cross_signing.get(&usage)
    }

    /// Bytes of memory, about.
    fn weight(&self) -> usize {
        let devices: usize = self.devices.iter().map(|(id, json)| id.len() + json.get().len() + 80).sum();
        let keys: usize = self.cross_signing.values().map(|k| k.json.get().len() + 120).sum();
        200 + devices + keys + self.given.len() * 300
    }
}

/// A signature on a device or master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSignature {
    /// Whose device or key is signed.
    pub target: UserNid,
    /// Device id, or public key of the master key.
    pub target_key: String,
    /// Which key signed: `ed25519:…`.
    pub key_id: String,
    /// The signature, unpadded base64.
    pub signature: String,
}

/// A cross-signing key about to be stored.
#[derive(Clone, Debug)]
pub struct NewCrossSigningKey {
    /// What it is for.
    pub usage: Usage,
    /// The public key, unpadded base64.
    pub public: String,
    /// As its owner signed it, without others' signatures.
    pub json: String,
}

/// What became of cross-signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSigned {
    /// They are stored, or were already.
    Done,
    /// They would replace others, and that was not allowed.
    WouldReplace,
    /// A device of the user is named like one of the keys.
    NameTaken,
}

const DEVICE_KEYS: &str = "SELECT json FROM device_keys WHERE user_nid = $1 AND device_id = $2";
const PUT_DEVICE_KEYS: &str = "INSERT INTO device_keys (user_nid, device_id, json) VALUES ($1, $2, $3) ON CONFLICT (user_nid, device_id) DO UPDATE SET json = excluded.json";
const CROSS_SIGNING: &str = "SELECT usage, json FROM cross_signing_keys WHERE user_nid = $1";
const PUT_CROSS_SIGNING: &str = "INSERT INTO cross_signing_keys (user_nid, usage, json, pos) VALUES ($1, $2, $3, $4) ON CONFLICT (user_nid, usage) DO UPDATE SET json = excluded.json, pos = excluded.pos";
const DROP_SIGNATURES_ON: &str = "DELETE FROM key_signatures WHERE target_nid = $1 AND target_key = $2";
const DROP_SIGNATURES_BY: &str = "DELETE FROM key_signatures WHERE signer_nid = $1 AND key_id = $2";

#[derive(sqlx::FromRow)]
struct SignatureRow {
    target_nid: i64,
    target_key: String,
    signer_nid: i64,
    key_id: String,
    signature: String,
}

impl Store {
    /// The keys of users of this server; those who never had any are there too, empty.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn user_keys(&self, users: &[UserNid]) -> Result<HashMap<UserNid, Arc<UserKeys>>> {
        let cache = &self.inner.e2ee.users;
        let (mut found, mut missing) = (HashMap::with_capacity(users.len()), Vec::new());
        for user in users {
            match cache.get(user) {
                Some(keys) => drop(found.insert(*user, keys)),
                None => missing.push(*user),
            }
        }
        if !missing.is_empty() {
            // Whoever is named twice is loaded once: the second time there would be nothing left to remember.
            missing.sort_unstable();
            missing.dedup();
            let tickets: Vec<_> = missing.iter().map(|user| (*user, cache.ticket(user))).collect();
            let mut loaded = load(&mut self.read().await?, &missing).await?;
            for (user, ticket) in tickets {
                let keys = Arc::new(loaded.remove(&user).unwrap_or_default());
                cache.fill(user, keys.clone(), ticket);
                found.insert(user, keys);
            }
        }
        Ok(found)
    }

    /// The keys of one user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keys_of(&self, user: UserNid) -> Result<Arc<UserKeys>> {
        Ok(self.user_keys(&[user]).await?.remove(&user).unwrap_or_default())
    }

    /// Stores cross-signing keys. What is the same as before, but for signatures, stays as it is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_cross_signing_keys(
        &self,
        user: UserNid,
        keys: Vec<NewCrossSigningKey>,
        may_replace: bool,
    ) -> Result<CrossSigned> {
        self.write(move |tx| Box::pin(async move { tx.put_cross_signing_keys(user, keys, may_replace).await })).await
    }

    /// Stores signatures that `signer` made, and has those told whom they concern: everybody who sees the signer's own
    /// devices and keys, or only the signer for what they signed of others.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_signatures(&self, signer: UserNid, signatures: Vec<NewSignature>) -> Result<()> {
        if signatures.is_empty() {
            return Ok(());
        }
        self.write(move |tx| Box::pin(async move { tx.put_signatures(signer, &signatures).await })).await
    }
}

impl Tx {
    /// Stores the identity keys of a device. Others than it had void the signatures on them.
    pub(super) async fn put_device_keys(&mut self, user: UserNid, device: &str, json: &str) -> Result<()> {
        let had: Option<(String,)> = fetch_optional!(self, (String,), DEVICE_KEYS, user.0, device)?;
        match had {
            Some((had,)) if had == json => return Ok(()),
            Some((had,)) if !same_but_signatures(&had, json) => {
                execute!(self, DROP_SIGNATURES_ON, user.0, device)?;
            }
            _ => {}
        }
        execute!(self, PUT_DEVICE_KEYS, user.0, device, json)?;
        self.note_devices(user, &[device.to_owned()]).await
    }

    async fn put_cross_signing_keys(
        &mut self,
        user: UserNid,
        keys: Vec<NewCrossSigningKey>,
        may_replace: bool,
    ) -> Result<CrossSigned> {
        let had: Vec<(String, String)> = fetch_all!(self, (String, String), CROSS_SIGNING, user.0)?;
        let had: HashMap<String, String> = had.into_iter().collect();
        let news: Vec<&NewCrossSigningKey> = keys
            .iter()
            .filter(|key| had.get(key.usage.as_str()).is_none_or(|had| !same_but_signatures(had, &key.json)))
            .collect();
        if news.is_empty() {
            return Ok(CrossSigned::Done);
        }
        // Once there is a master key, any new key is a change of identity.
        if had.contains_key(Usage::Master.as_str()) && !may_replace {
            return Ok(CrossSigned::WouldReplace);
        }
        let taken = sql!("SELECT device_id FROM devices WHERE user_nid = $1 AND device_id " [in 2] " LIMIT 1");
        let names = Texts(news.iter().map(|k| k.public.clone()).collect());
        let taken: Option<(String,)> = fetch_optional!(self, (String,), taken, user.0, names)?;
        if taken.is_some() {
            return Ok(CrossSigned::NameTaken);
        }
        let pos = self.next_pos();
        let is_told = news.iter().any(|key| key.usage != Usage::UserSigning);
        for key in news {
            let old = had.get(key.usage.as_str()).and_then(|json| public_key(json));
            if let Some(old) = old.filter(|old| *old != key.public) {
                execute!(self, DROP_SIGNATURES_ON, user.0, old.as_str())?;
                execute!(self, DROP_SIGNATURES_BY, user.0, format!("ed25519:{old}"))?;
            }
            execute!(self, PUT_CROSS_SIGNING, user.0, key.usage.as_str(), key.json.as_str(), pos.0)?;
        }
        match is_told {
            true => self.note_signing_keys(user).await?,
            false => drop(self.log(Change::OwnKeys { user })),
        }
        Ok(CrossSigned::Done)
    }

    async fn put_signatures(&mut self, signer: UserNid, signatures: &[NewSignature]) -> Result<()> {
        let sql = sql!(
            "INSERT INTO key_signatures (target_nid, target_key, signer_nid, key_id, signature, pos) SELECT CAST(e.value ->> 0 AS BIGINT), e.value ->> 1, $2, e.value ->> 2, e.value ->> 3, $3 FROM "
            [rows 1]
            " WHERE TRUE ON CONFLICT (target_nid, target_key, signer_nid, key_id) DO UPDATE SET signature = excluded.signature, pos = excluded.pos WHERE key_signatures.signature <> excluded.signature"
        );
        let rows: Vec<(i64, &str, &str, &str)> = signatures
            .iter()
            .map(|s| (s.target.0, s.target_key.as_str(), s.key_id.as_str(), s.signature.as_str()))
            .collect();
        let pos = self.next_pos();
        if execute!(self, sql, to_json(&rows)?, signer.0, pos.0)? == 0 {
            return Ok(());
        }
        let own: Vec<String> = signatures.iter().filter(|s| s.target == signer).map(|s| s.target_key.clone()).collect();
        if !own.is_empty() {
            // What is no device is the master key.
            let named = sql!("SELECT device_id FROM device_keys WHERE user_nid = $1 AND device_id " [in 2]);
            let devices: Vec<(String,)> = fetch_all!(self, (String,), named, signer.0, Texts(own.clone()))?;
            let devices: Vec<String> = devices.into_iter().map(|(d,)| d).collect();
            self.note_devices(signer, &devices).await?;
            if own.iter().any(|key| !devices.contains(key)) {
                self.note_signing_keys(signer).await?;
            }
        } else {
            self.log(Change::OwnKeys { user: signer });
        }
        Ok(())
    }

    /// Deletes the keys of devices that go, and the signatures on them. Who calls it notes the device list too.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_device_keys(&mut self, user: UserNid, devices: &[String]) -> Result<()> {
        let keys = sql!("DELETE FROM device_keys WHERE user_nid = $1 AND device_id " [in 2]);
        let signed = sql!("DELETE FROM key_signatures WHERE target_nid = $1 AND target_key " [in 2]);
        execute!(self, keys, user.0, Texts(devices.to_vec()))?;
        execute!(self, signed, user.0, Texts(devices.to_vec()))?;
        self.delete_one_time_keys(user, devices).await
    }

    /// Whether one of the user's cross-signing keys has this name, which no device of theirs may bear.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_cross_signing_key(&mut self, user: UserNid, name: &str) -> Result<bool> {
        let had: Vec<(String, String)> = fetch_all!(self, (String, String), CROSS_SIGNING, user.0)?;
        Ok(had.iter().any(|(_, json)| public_key(json).is_some_and(|public| public == name)))
    }
}

/// Reads what there is of users' keys and puts it together.
async fn load(session: &mut Reading, users: &[UserNid]) -> Result<HashMap<UserNid, UserKeys>> {
    // Devices, with `device` where a cross-signing key has its usage.
    let keys = sql!(
        "SELECT k.user_nid, 'device', k.device_id, k.json, d.display_name FROM device_keys k JOIN devices d ON d.user_nid = k.user_nid AND d.device_id = k.device_id WHERE k.user_nid "
        [in 1]
        " UNION ALL SELECT r.user_nid, 'device', r.device_id, r.json, r.display_name FROM remote_devices r WHERE r.json IS NOT NULL AND r.user_nid "
        [in 1]
        " UNION ALL SELECT c.user_nid, c.usage, '', c.json, NULL FROM cross_signing_keys c WHERE c.user_nid "
        [in 1]
    );
    let signed = sql!("SELECT target_nid, target_key, signer_nid, key_id, signature FROM key_signatures WHERE signer_nid " [in 1]);
    let nids = Ints(users.iter().map(|u| u.0).collect());
    let mut found: HashMap<UserNid, UserKeys> = users.iter().map(|u| (*u, UserKeys::default())).collect();
    type Row = (i64, String, String, String, Option<String>);
    let rows: Vec<Row> = fetch_all!(session, Row, keys, nids.clone())?;
    if rows.is_empty() {
        // Whoever has no keys has signed nothing.
        return Ok(found);
    }
    let names: HashMap<i64, String> = owner_names(session, &nids).await?;
    let signatures: Vec<SignatureRow> = fetch_all!(session, SignatureRow, signed, nids)?;
    let (own, given): (Vec<_>, Vec<_>) = signatures.into_iter().partition(|r| r.signer_nid == r.target_nid);
    let mut own_signatures: HashMap<(i64, String), Vec<(String, String)>> = HashMap::new();
    for r in own {
        own_signatures.entry((r.target_nid, r.target_key)).or_default().push((r.key_id, r.signature));
    }
    let (device_rows, key_rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, usage, ..)| usage == "device");
    for (user, _, device, json, name) in device_rows {
        let signatures = own_signatures.get(&(user, device.clone())).map_or(&[][..], Vec::as_slice);
        let owner = names.get(&user).map_or("", String::as_str);
        let json = put_together(&json, owner, signatures, Some(name))?;
        found.entry(UserNid(user)).or_default().devices.insert(device, json);
    }
    for (user, usage, _, json, _) in key_rows {
        let usage = [Usage::Master, Usage::SelfSigning, Usage::UserSigning].into_iter().find(|u| u.as_str() == usage);
        let (Some(usage), Some(public)) = (usage, public_key(&json)) else {
            return Err(Error::broken("cross_signing_keys table: a key that is none"));
        };
        let signatures = own_signatures.get(&(user, public.clone())).map_or(&[][..], Vec::as_slice);
        let owner = names.get(&user).map_or("", String::as_str);
        let json = put_together(&json, owner, signatures, None)?;
        found.entry(UserNid(user)).or_default().cross_signing.insert(usage, CrossSigningKey { public, json });
    }
    for r in given {
        let keys = found.entry(UserNid(r.signer_nid)).or_default();
        keys.given.entry((UserNid(r.target_nid), r.target_key)).or_default().push((r.key_id, r.signature));
    }
    Ok(found)
}

async fn owner_names(session: &mut Reading, users: &Ints) -> Result<HashMap<i64, String>> {
    let sql = sql!("SELECT user_nid, user_id FROM users WHERE user_nid " [in 1]);
    let rows: Vec<(i64, String)> = fetch_all!(session, (i64, String), sql, users.clone())?;
    Ok(rows.into_iter().collect())
}

/// The one public key of a cross-signing key.
fn public_key(json: &str) -> Option<String> {
    let key: Value = serde_json::from_str(json).ok()?;
    key.get("keys")?.as_object()?.values().next()?.as_str().map(ToOwned::to_owned)
}

/// Whether two signed objects say the same (appendices, "Signing JSON").
fn same_but_signatures(a: &str, b: &str) -> bool {
    let bare = |json: &str| {
        let mut object: Map<String, Value> = serde_json::from_str(json).ok()?;
        object.shift_remove("signatures");
        object.shift_remove("unsigned");
        Some(object)
    };
    a == b || bare(a).is_some_and(|a| bare(b) == Some(a))
}

/// Rows of a statement as the one parameter of `[rows n]`.
pub(crate) fn to_json<T: serde::Serialize>(rows: &T) -> Result<String> {
    serde_json::to_string(rows).map_err(|e| Error::fault("writing rows as JSON", e))
}
