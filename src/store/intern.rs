//! Matrix ids as numbers: users and state keys, given out from blocks, remembered both ways.
//!
//! A new name gets its number at once and is *pending* until the writer has stored it: each batch stores all that
//! is pending first, so no row can refer to a number that is not there.

use std::{
    hash::Hash,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::{DashMap, Entry};
use hearth_base::{
    Error, OrNotFound, Result,
    cache::Cache,
    ids::{EventNid, KeyNid, RoomNid, SnapNid, UserNid},
};
use ruma::{OwnedUserId, UserId};

use crate::{
    Store,
    db::Ints,
    execute, fetch_all, fetch_optional, insert_rows,
    log::Tx,
    server_keys::{self, KeyDocument},
};

mod many;
#[cfg(test)]
mod tests;
mod well_known;

/// An event type and state key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    /// E.g. `m.room.member`.
    pub event_type: String,
    /// E.g. a user id; empty for most.
    pub state_key: String,
}

impl StateKey {
    /// The pair of these.
    #[must_use]
    pub fn new(event_type: &str, state_key: &str) -> Self {
        Self { event_type: event_type.to_owned(), state_key: state_key.to_owned() }
    }
}

/// Numbers reserved at a time.
const BLOCK: i64 = 4096;
/// Names remembered of each sort.
const REMEMBERED: u64 = 50_000;

/// The numbers of this run.
#[derive(Debug, Default)]
pub(crate) struct Nids {
    free: parking_lot::Mutex<Range<i64>>,
    refill: tokio::sync::Mutex<()>,
}

/// One sort of names.
#[derive(Debug)]
pub(crate) struct Interner<K: Hash + Eq + Clone + Send + Sync + 'static> {
    /// `None` for names that were asked for and have no number.
    by_name: Cache<K, Option<i64>>,
    by_nid: Cache<i64, K>,
    pending: DashMap<K, i64>,
    /// Counts commits that stored names; whoever sees it move looks again before giving a name a number.
    settled: AtomicU64,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Default for Interner<K> {
    fn default() -> Self {
        Self {
            by_name: Cache::new(REMEMBERED),
            by_nid: Cache::new(REMEMBERED),
            pending: DashMap::new(),
            settled: AtomicU64::new(0),
        }
    }
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Interner<K> {
    /// The number of a name, if it is remembered or pending.
    pub(crate) fn known(&self, name: &K) -> Option<i64> {
        self.by_name.get(name).flatten().or_else(|| self.pending.get(name).map(|n| *n))
    }

    /// Whether it is neither known that a name has a number nor that it has none.
    fn is_open(&self, name: &K) -> bool {
        self.by_name.get(name).is_none() && !self.pending.contains_key(name)
    }

    /// The number of a name, from memory or as `find` reads it; that there is none is remembered too.
    async fn find<F>(&self, name: &K, find: impl FnOnce() -> F) -> Result<Option<i64>>
    where
        F: Future<Output = Result<Option<i64>>>,
    {
        if let Some(nid) = self.known(name) {
            return Ok(Some(nid));
        }
        // One that was pending may be stored now.
        if let Some(found) = self.by_name.get(name) {
            return Ok(found);
        }
        let ticket = self.by_name.ticket(name);
        let found = find().await?;
        match found {
            Some(nid) => self.remember(name.clone(), nid),
            None => self.by_name.fill(name.clone(), None, ticket),
        }
        Ok(found)
    }

    fn remember(&self, name: K, nid: i64) {
        self.by_nid.insert(nid, name.clone());
        self.by_name.put(name, Some(nid));
    }

    /// Gives a name a number unless somebody else just has. `None` if names were stored since `seen`: this one may be
    /// among them, and a second number for it could never be stored.
    fn give(&self, name: &K, nid: i64, seen: u64) -> Option<i64> {
        match self.pending.entry(name.clone()) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(_) if self.settled.load(Ordering::Acquire) != seen => None,
            Entry::Vacant(free) => Some(*free.insert(nid)),
        }
    }

    fn settle(&self, names: Vec<(K, i64)>) {
        if !names.is_empty() {
            // Before any of them ceases to be pending.
            self.settled.fetch_add(1, Ordering::AcqRel);
        }
        for (name, nid) in names {
            self.remember(name.clone(), nid);
            self.pending.remove(&name);
        }
    }

    fn waiting(&self) -> Vec<(K, i64)> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        self.pending.iter().map(|e| (e.key().clone(), *e.value())).collect()
    }
}

/// What a batch has stored and must be told once it is committed.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    users: Vec<(OwnedUserId, i64)>,
    keys: Vec<(StateKey, i64)>,
    key_documents: Vec<Arc<KeyDocument>>,
}

const USER_BY_ID: &str = "SELECT user_nid FROM users WHERE user_id = $1";
const USER_BY_NID: &str = "SELECT user_nid, user_id FROM users WHERE user_nid = $1";
const KEY_BY_NAME: &str = "SELECT key_nid FROM state_keys WHERE event_type = $1 AND state_key = $2";

/// Stores all pending names in this transaction, and what else only waits to be written with something.
pub(crate) async fn store_pending(tx: &mut Tx) -> Result<Settled> {
    let store = tx.store().clone();
    let users = store.inner.users.waiting();
    let keys = store.inner.keys.waiting();
    if !users.is_empty() {
        insert_rows!(tx, &users,
            "INSERT INTO users (user_nid, user_id) VALUES ($1, $2)",
            "INSERT INTO users (user_nid, user_id) SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[])",
            r => { nid: i64 = r.1, name: String = r.0.to_string() })?;
    }
    if !keys.is_empty() {
        insert_rows!(tx, &keys,
            "INSERT INTO state_keys (key_nid, event_type, state_key) VALUES ($1, $2, $3)",
            "INSERT INTO state_keys (key_nid, event_type, state_key) SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[])",
            r => { nid: i64 = r.1, kind: String = r.0.event_type.clone(), key: String = r.0.state_key.clone() })?;
    }
    let key_documents = server_keys::store_waiting(tx).await?;
    Ok(Settled { users, keys, key_documents })
}

impl Store {
    /// Tells the interners, and who else had something waiting, what is committed.
    pub(crate) fn settle(&self, settled: Settled) {
        self.inner.users.settle(settled.users);
        self.inner.keys.settle(settled.keys);
        self.inner.server_keys.settle(&settled.key_documents);
    }

    /// A number never used before.
    async fn nid(&self) -> Result<i64> {
        let nids = &self.inner.nids;
        loop {
            if let Some(nid) = nids.free.lock().next() {
                return Ok(nid);
            }
            let _one = nids.refill.lock().await;
            if !nids.free.lock().is_empty() {
                continue;
            }
            let end = self
                .write(|tx| {
                    Box::pin(async move {
                        const RESERVE: &str =
                            "UPDATE log_head SET next_nid = next_nid + $1 WHERE id = 1 RETURNING next_nid";
                        let row: Option<(i64,)> = fetch_optional!(tx, (i64,), RESERVE, BLOCK)?;
                        row.map(|r| r.0).ok_or_else(|| Error::broken("log_head has no row"))
                    })
                })
                .await?;
            *nids.free.lock() = end - BLOCK..end;
        }
    }

    /// A number for a new event.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn new_event_nid(&self) -> Result<EventNid> {
        self.nid().await.map(EventNid)
    }

    /// A number for a new room.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn new_room_nid(&self) -> Result<RoomNid> {
        self.nid().await.map(RoomNid)
    }

    /// A number for a new state snapshot.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn new_snap_nid(&self) -> Result<SnapNid> {
        self.nid().await.map(SnapNid)
    }

    /// The number of a user we have heard of.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn user_nid(&self, user: &UserId) -> Result<Option<UserNid>> {
        let find = || async {
            let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), USER_BY_ID, user.as_str())?;
            Ok(row.map(|(nid,)| nid))
        };
        Ok(self.inner.users.find(&user.to_owned(), find).await?.map(UserNid))
    }

    /// The number of a user, if memory has it; always so for one whose event was just committed.
    #[must_use]
    pub fn known_user(&self, user: &UserId) -> Option<UserNid> {
        self.inner.users.known(&user.to_owned()).map(UserNid)
    }

    /// The number of a user, given now if there is none.
    ///
    /// # Errors
    /// 400 for a name that cannot be stored; else if the database fails.
    pub async fn intern_user(&self, user: &UserId) -> Result<UserNid> {
        check_name(user.as_str())?;
        let (users, name) = (&self.inner.users, user.to_owned());
        loop {
            let seen = users.settled.load(Ordering::Acquire);
            if let Some(nid) = self.user_nid(user).await? {
                return Ok(nid);
            }
            if let Some(nid) = users.give(&name, self.nid().await?, seen) {
                return Ok(UserNid(nid));
            }
        }
    }

    /// The id of a user.
    ///
    /// # Errors
    /// 404 for a number nobody has.
    pub async fn user_id(&self, nid: UserNid) -> Result<OwnedUserId> {
        if let Some(id) = self.inner.users.by_nid.get(&nid.0) {
            return Ok(id);
        }
        if let Some(entry) = self.inner.users.pending.iter().find(|e| *e.value() == nid.0) {
            return Ok(entry.key().clone());
        }
        let row: Option<(i64, String)> = fetch_optional!(&mut self.read().await?, (i64, String), USER_BY_NID, nid.0)?;
        let (_, name) = row.or_not_found("user")?;
        let id = parse_user(name)?;
        self.inner.users.remember(id.clone(), nid.0);
        Ok(id)
    }

    /// The ids of many users, in the order asked for.
    ///
    /// # Errors
    /// 404 for a number nobody has.
    pub async fn user_ids(&self, nids: &[UserNid]) -> Result<Vec<OwnedUserId>> {
        let missing: Vec<i64> = nids.iter().map(|n| n.0).filter(|n| !self.inner.users.by_nid.contains_key(n)).collect();
        if missing.len() > 1 {
            let sql = crate::sql!("SELECT user_nid, user_id FROM users WHERE user_nid " [in 1]);
            let rows: Vec<(i64, String)> = fetch_all!(&mut self.read().await?, (i64, String), sql, Ints(missing))?;
            for (nid, name) in rows {
                self.inner.users.remember(parse_user(name)?, nid);
            }
        }
        let mut out = Vec::with_capacity(nids.len());
        for nid in nids {
            out.push(self.user_id(*nid).await?);
        }
        Ok(out)
    }

    /// The number of a state key that some event has used.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn key_nid(&self, event_type: &str, state_key: &str) -> Result<Option<KeyNid>> {
        // Nothing is stored under what cannot be, and strangers ask for such names.
        if check_name(event_type).is_err() || check_name(state_key).is_err() {
            return Ok(None);
        }
        let find = || async {
            let row: Option<(i64,)> =
                fetch_optional!(&mut self.read().await?, (i64,), KEY_BY_NAME, event_type, state_key)?;
            Ok(row.map(|(nid,)| nid))
        };
        Ok(self.inner.keys.find(&StateKey::new(event_type, state_key), find).await?.map(KeyNid))
    }

    /// The number of a state key, given now if there is none.
    ///
    /// # Errors
    /// 400 for a name with NUL, which PostgreSQL cannot hold, 413 for one that is too long; else if the database fails.
    pub async fn intern_key(&self, event_type: &str, state_key: &str) -> Result<KeyNid> {
        check_name(event_type)?;
        check_name(state_key)?;
        let (keys, name) = (&self.inner.keys, StateKey::new(event_type, state_key));
        loop {
            let seen = keys.settled.load(Ordering::Acquire);
            if let Some(nid) = self.key_nid(event_type, state_key).await? {
                return Ok(nid);
            }
            if let Some(nid) = keys.give(&name, self.nid().await?, seen) {
                return Ok(KeyNid(nid));
            }
        }
    }

    /// The names of many state keys, in the order asked for; large lists cost one query for what is not remembered.
    ///
    /// # Errors
    /// A fault for a number nobody has.
    pub async fn keys(&self, nids: &[KeyNid]) -> Result<Vec<StateKey>> {
        let interner = &self.inner.keys;
        let pending = |nid: i64| interner.pending.iter().find(|e| *e.value() == nid).map(|e| e.key().clone());
        // What is not pending any more is on the disk, and read below; asked the other way round, what is stored between
        // the two looks would be nowhere.
        let mut found: Vec<Option<StateKey>> =
            nids.iter().map(|n| interner.by_nid.get(&n.0).or_else(|| pending(n.0))).collect();
        let missing: Vec<i64> = nids.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(n, _)| n.0).collect();
        if !missing.is_empty() {
            let sql = crate::sql!("SELECT key_nid, event_type, state_key FROM state_keys WHERE key_nid " [in 1]);
            let rows: Vec<(i64, String, String)> =
                fetch_all!(&mut self.read().await?, (i64, String, String), sql, Ints(missing))?;
            let mut loaded = std::collections::HashMap::with_capacity(rows.len());
            for (nid, event_type, state_key) in rows {
                let name = StateKey { event_type, state_key };
                interner.remember(name.clone(), nid);
                loaded.insert(nid, name);
            }
            for (slot, nid) in found.iter_mut().zip(nids).filter(|(slot, _)| slot.is_none()) {
                *slot = loaded.get(&nid.0).cloned();
            }
        }
        found.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| Error::broken("a state key without a name"))
    }
}

/// Bytes of a name at most (spec: "Size limits" of events, "Common Identifier Format").
const LONGEST: usize = 255;

/// Holds back names that no database could store: pending, they would stand in the way of every commit.
fn check_name(name: &str) -> Result<()> {
    if name.contains('\0') {
        return Err(Error::invalid_param("Names cannot contain NUL here"));
    }
    if name.len() > LONGEST {
        return Err(Error::too_large("A name is longer than 255 bytes"));
    }
    Ok(())
}

fn parse_user(name: String) -> Result<OwnedUserId> {
    OwnedUserId::try_from(name).map_err(|e| Error::fault("users table", e))
}

/// Reserves the first block, before there is a writer.
pub(crate) async fn reserve_first(session: &mut crate::db::Session, nids: &Nids) -> Result<()> {
    const NEXT: &str = "SELECT next_nid FROM log_head WHERE id = 1";
    const SET: &str = "UPDATE log_head SET next_nid = $1 WHERE id = 1";
    let row: Option<(i64,)> = fetch_optional!(session, (i64,), NEXT)?;
    let next = row.map(|r| r.0).ok_or_else(|| Error::broken("log_head has no row"))?;
    execute!(session, SET, next + BLOCK)?;
    *nids.free.lock() = next..next + BLOCK;
    Ok(())
}
