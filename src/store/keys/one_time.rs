//! One-time and fallback keys: uploaded by a device, claimed once each by others, counted at every sync.
//!
//! Owns the tables `one_time_keys` and `fallback_keys`. The counts are remembered by device; uploads and claims, which
//! only this file does, make them forgotten.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use hearth_base::{Result, ids::UserNid};
use serde_json::Value;

use crate::{Store, db::Texts, execute, fetch_all, fetch_optional, insert_rows, log::Tx, sql};

/// A device and whose it is.
pub type DeviceName = (UserNid, String);

/// What /sync says of a device's one-time and fallback keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// Unclaimed one-time keys by algorithm.
    pub one_time: BTreeMap<String, u64>,
    /// Algorithms of fallback keys that nobody has claimed yet.
    pub unused_fallback: Vec<String>,
}

/// A one-time or fallback key as a device uploads it.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// E.g. `signed_curve25519`.
    pub algorithm: String,
    /// The name behind the colon.
    pub key_id: String,
    /// The key, JSON: an object or a string.
    pub json: String,
}

/// What a device uploads at once.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Whose.
    pub user: UserNid,
    /// Which device.
    pub device: String,
    /// Its identity keys, without `unsigned`.
    pub device_keys: Option<String>,
    /// One-time keys.
    pub one_time: Vec<NewKey>,
    /// Fallback keys; the last of an algorithm counts.
    pub fallback: Vec<NewKey>,
    /// Now, ms.
    pub now_ms: i64,
    /// One-time keys a device may have at most.
    pub max_one_time: u64,
}

/// What became of an [`Upload`]. All is stored, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// Stored; the one-time keys there are now, by algorithm.
    Done(BTreeMap<String, u64>),
    /// The device is gone.
    NoDevice,
    /// There is another one-time key of that name.
    Exists {
        /// `algorithm:id`.
        key_id: String,
        /// The key we have, JSON.
        old: String,
        /// The key uploaded, JSON.
        new: String,
    },
    /// The device would have more one-time keys than it may.
    TooMany,
}

/// One key wanted of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// Whose device.
    pub user: UserNid,
    /// The device.
    pub device: String,
    /// Of which algorithm.
    pub algorithm: String,
}

/// A key given out.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Claimed {
    /// Whose device.
    #[sqlx(rename = "user_nid")]
    pub user: i64,
    /// The device.
    #[sqlx(rename = "device_id")]
    pub device: String,
    /// Of which algorithm.
    pub algorithm: String,
    /// Its name.
    pub key_id: String,
    /// The key, JSON.
    pub json: String,
    added_ms: i64,
}

#[derive(sqlx::FromRow)]
struct Fallback {
    #[sqlx(flatten)]
    key: Claimed,
    used: bool,
}

const DEVICE: &str = "SELECT device_id FROM devices WHERE user_nid = $1 AND device_id = $2";
const COUNTS: &str =
    "SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 GROUP BY algorithm";
const NEWEST: &str =
    "SELECT added_ms FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 ORDER BY added_ms DESC LIMIT 1";
/// Both at once: how many one-time keys, or NULL for a fallback key that nobody has claimed.
const COUNTS_AND_UNUSED: &str = "SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 GROUP BY algorithm UNION ALL SELECT algorithm, NULL FROM fallback_keys WHERE user_nid = $1 AND device_id = $2 AND NOT used ORDER BY 1";

impl Store {
    /// Stores what a device uploads.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn upload_keys(&self, upload: Upload) -> Result<Uploaded> {
        self.write(move |tx| Box::pin(async move { tx.upload_keys(upload).await })).await
    }

    /// Gives out a key for each device and algorithm wanted that has one: the oldest one-time key, which nobody else
    /// will get, or the fallback key.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn claim_keys(&self, mut wanted: Vec<Wanted>) -> Result<Vec<Claimed>> {
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.write(move |tx| Box::pin(async move { tx.claim_keys(wanted).await })).await
    }

    /// How many keys a device has left.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn key_counts(&self, user: UserNid, device: &str) -> Result<Arc<KeyCounts>> {
        let name = (user, device.to_owned());
        let counts = &self.inner.e2ee.counts;
        if let Some(known) = counts.get(&name) {
            return Ok(known);
        }
        let ticket = counts.ticket(&name);
        let rows: Vec<(String, Option<i64>)> =
            fetch_all!(&mut self.read().await?, (String, Option<i64>), COUNTS_AND_UNUSED, user.0, device)?;
        let (one_time, unused): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, count)| count.is_some());
        let found = Arc::new(KeyCounts {
            one_time: by_algorithm(one_time.into_iter().filter_map(|(a, count)| Some((a, count?))).collect()),
            unused_fallback: unused.into_iter().map(|(a, _)| a).collect(),
        });
        counts.fill(name, found.clone(), ticket);
        Ok(found)
    }
}

impl Tx {
    async fn upload_keys(&mut self, upload: Upload) -> Result<Uploaded> {
        let (user, device) = (upload.user, upload.device.as_str());
        let there: Option<(String,)> = fetch_optional!(self, (String,), DEVICE, user.0, device)?;
        if there.is_none() {
            return Ok(Uploaded::NoDevice);
        }
        let counted: Vec<(String, i64)> = fetch_all!(self, (String, i64), COUNTS, user.0, device)?;
        let mut counts = by_algorithm(counted);
        let fresh = match self.new_one_time_keys(&upload).await? {
            Ok(fresh) => fresh,
            Err(exists) => return Ok(exists),
        };
        if !fresh.is_empty() {
            let held: u64 = counts.values().sum();
            if held + fresh.len() as u64 > upload.max_one_time {
                return Ok(Uploaded::TooMany);
            }
            for key in &fresh {
                *counts.entry(key.algorithm.clone()).or_default() += 1;
            }
            let newest: Option<(i64,)> = fetch_optional!(self, (i64,), NEWEST, user.0, device)?;
            // What is uploaded later is claimed later, whatever the clock says.
            let added = newest.map_or(upload.now_ms, |(ms,)| upload.now_ms.max(ms + 1));
            let sql = sql!(
                "INSERT INTO one_time_keys (user_nid, device_id, algorithm, key_id, json, added_ms) SELECT $1, $2, e.value ->> 0, e.value ->> 1, e.value ->> 2, $4 FROM "
                [rows 3]
            );
            execute!(self, sql, user.0, device, rows(fresh)?, added)?;
        }
        if !upload.fallback.is_empty() {
            let last: BTreeMap<&str, &NewKey> = upload.fallback.iter().map(|k| (k.algorithm.as_str(), k)).collect();
            let sql = sql!(
                "INSERT INTO fallback_keys (user_nid, device_id, algorithm, key_id, json, used) SELECT $1, $2, e.value ->> 0, e.value ->> 1, e.value ->> 2, FALSE FROM "
                [rows 3]
                " WHERE TRUE ON CONFLICT (user_nid, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, json = excluded.json, used = CASE WHEN fallback_keys.key_id = excluded.key_id AND fallback_keys.json = excluded.json THEN fallback_keys.used ELSE FALSE END"
            );
            execute!(self, sql, user.0, device, rows(last.into_values())?)?;
        }
        if let Some(json) = &upload.device_keys {
            self.put_device_keys(user, device, json).await?;
        }
        self.forget_counts(vec![(user, upload.device)]);
        Ok(Uploaded::Done(counts))
    }

    /// Those of the uploaded keys that we do not have yet. The same key under the same name may come again: the answer
    /// to the first upload was lost.
    async fn new_one_time_keys<'u>(
        &mut self,
        upload: &'u Upload,
    ) -> Result<std::result::Result<Vec<&'u NewKey>, Uploaded>> {
        if upload.one_time.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        let sql = sql!(
            "SELECT algorithm, key_id, json FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 AND key_id "
            [in 3]
        );
        let ids = Texts(upload.one_time.iter().map(|k| k.key_id.clone()).collect());
        let had: Vec<(String, String, String)> =
            fetch_all!(self, (String, String, String), sql, upload.user.0, upload.device.as_str(), ids)?;
        let had: BTreeMap<(&str, &str), &str> =
            had.iter().map(|(a, k, j)| ((a.as_str(), k.as_str()), j.as_str())).collect();
        let mut fresh = Vec::with_capacity(upload.one_time.len());
        for key in &upload.one_time {
            match had.get(&(key.algorithm.as_str(), key.key_id.as_str())) {
                None => fresh.push(key),
                Some(old) if same_key(old, &key.json) => {}
                Some(old) => {
                    return Ok(Err(Uploaded::Exists {
                        key_id: format!("{}:{}", key.algorithm, key.key_id),
                        old: (*old).to_owned(),
                        new: key.json.clone(),
                    }));
                }
            }
        }
        Ok(Ok(fresh))
    }

    /// Nobody else writes meanwhile, so that what is found is there to be taken.
    async fn claim_keys(&mut self, wanted: Vec<Wanted>) -> Result<Vec<Claimed>> {
        // `CROSS JOIN` has SQLite look up each row of the list, and not the other way round; PostgreSQL would read the
        // whole table, but for `LATERAL`, which SQLite does not have.
        let oldest = sql!(
            "SELECT k.user_nid, k.device_id, k.algorithm, k.key_id, k.json, k.added_ms FROM " [rows 1] " CROSS JOIN "
            [either
                "one_time_keys k WHERE k.user_nid = CAST(e.value ->> 0 AS BIGINT) AND k.device_id = e.value ->> 1 AND k.algorithm = e.value ->> 2 AND (k.added_ms, k.key_id) = (SELECT o.added_ms, o.key_id FROM one_time_keys o WHERE o.user_nid = CAST(e.value ->> 0 AS BIGINT) AND o.device_id = e.value ->> 1 AND o.algorithm = e.value ->> 2 ORDER BY o.added_ms, o.key_id LIMIT 1)"
                "LATERAL (SELECT o.* FROM one_time_keys o WHERE o.user_nid = CAST(e.value ->> 0 AS BIGINT) AND o.device_id = e.value ->> 1 AND o.algorithm = e.value ->> 2 ORDER BY o.added_ms, o.key_id LIMIT 1) AS k"
            ]
        );
        let mut claimed: Vec<Claimed> = fetch_all!(self, Claimed, oldest, wanted_rows(&wanted)?)?;
        insert_rows!(self, &claimed,
        "DELETE FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 AND algorithm = $3 AND added_ms = $4 AND key_id = $5",
        "DELETE FROM one_time_keys k USING UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::TEXT[]) AS t(a, b, c, d, e) WHERE k.user_nid = t.a AND k.device_id = t.b AND k.algorithm = t.c AND k.added_ms = t.d AND k.key_id = t.e",
        r => {
            user: i64 = r.user,
            device: String = r.device.clone(),
            algorithm: String = r.algorithm.clone(),
            added: i64 = r.added_ms,
            key_id: String = r.key_id.clone(),
        })?;
        if claimed.len() < wanted.len() {
            let got: HashSet<(i64, &str, &str)> =
                claimed.iter().map(|c| (c.user, c.device.as_str(), c.algorithm.as_str())).collect();
            let short: Vec<Wanted> = wanted
                .into_iter()
                .filter(|w| !got.contains(&(w.user.0, w.device.as_str(), w.algorithm.as_str())))
                .collect();
            claimed.extend(self.claim_fallback_keys(&short).await?);
        }
        let touched = claimed.iter().map(|c| (UserNid(c.user), c.device.clone())).collect();
        self.forget_counts(touched);
        Ok(claimed)
    }

    async fn claim_fallback_keys(&mut self, wanted: &[Wanted]) -> Result<Vec<Claimed>> {
        // Marked when given out for the first time; afterwards there is nothing to write.
        let unused = sql!(
            "SELECT k.user_nid, k.device_id, k.algorithm, k.key_id, k.json, CAST(0 AS BIGINT) AS added_ms, k.used FROM " [rows 1]
            " CROSS JOIN fallback_keys k WHERE k.user_nid = CAST(e.value ->> 0 AS BIGINT) AND k.device_id = e.value ->> 1 AND k.algorithm = e.value ->> 2"
        );
        let found: Vec<Fallback> = fetch_all!(self, Fallback, unused, wanted_rows(wanted)?)?;
        insert_rows!(self, found.iter().filter(|f| !f.used).map(|f| &f.key),
        "UPDATE fallback_keys SET used = TRUE WHERE user_nid = $1 AND device_id = $2 AND algorithm = $3",
        "UPDATE fallback_keys k SET used = TRUE FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[]) AS t(a, b, c) WHERE k.user_nid = t.a AND k.device_id = t.b AND k.algorithm = t.c",
        r => {
            user: i64 = r.user,
            device: String = r.device.clone(),
            algorithm: String = r.algorithm.clone(),
        })?;
        Ok(found.into_iter().map(|f| f.key).collect())
    }

    /// Deletes the one-time and fallback keys of devices that go.
    pub(super) async fn delete_one_time_keys(&mut self, user: UserNid, devices: &[String]) -> Result<()> {
        let one_time = sql!("DELETE FROM one_time_keys WHERE user_nid = $1 AND device_id " [in 2]);
        let fallback = sql!("DELETE FROM fallback_keys WHERE user_nid = $1 AND device_id " [in 2]);
        execute!(self, one_time, user.0, Texts(devices.to_vec()))?;
        execute!(self, fallback, user.0, Texts(devices.to_vec()))?;
        self.forget_counts(devices.iter().map(|d| (user, d.clone())).collect());
        Ok(())
    }

    fn forget_counts(&mut self, devices: Vec<DeviceName>) {
        if !devices.is_empty() {
            self.after_commit(move |store| devices.iter().for_each(|name| store.inner.e2ee.counts.invalidate(name)));
        }
    }
}

fn by_algorithm(rows: Vec<(String, i64)>) -> BTreeMap<String, u64> {
    rows.into_iter().map(|(algorithm, n)| (algorithm, n.unsigned_abs())).collect()
}

fn rows<'k>(keys: impl IntoIterator<Item = &'k NewKey>) -> Result<String> {
    let rows: Vec<(&str, &str, &str)> =
        keys.into_iter().map(|k| (k.algorithm.as_str(), k.key_id.as_str(), k.json.as_str())).collect();
    super::to_json(&rows)
}

fn wanted_rows(wanted: &[Wanted]) -> Result<String> {
    let rows: Vec<(i64, &str, &str)> =
        wanted.iter().map(|w| (w.user.0, w.device.as_str(), w.algorithm.as_str())).collect();
    super::to_json(&rows)
}

/// Whether two keys are the same; they may be signed anew.
fn same_key(old: &str, new: &str) -> bool {
    let unsigned = |json: &str| {
        let mut key: Value = serde_json::from_str(json).ok()?;
        if let Value::Object(key) = &mut key {
            key.shift_remove("signatures");
        }
        Some(key)
    };
    old == new || unsigned(old).is_some_and(|old| unsigned(new) == Some(old))
}
