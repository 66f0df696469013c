//! Numbers for many names at once, as a room's state brings them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::Ordering,
};

use hearth_base::Result;
use ruma::OwnedUserId;

use super::{StateKey, check_name};
use crate::{Store, db::Texts, fetch_all, sql};

impl Store {
    /// Looks up many users at once and gives those a number who have none, so that [`Store::intern_user`] finds them in
    /// memory. Ids that cannot be stored are left for it to refuse.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn intern_users(&self, users: &HashSet<OwnedUserId>) -> Result<()> {
        let interner = &self.inner.users;
        let seen = interner.settled.load(Ordering::Acquire);
        let unknown: Vec<OwnedUserId> = users.iter().filter(|user| interner.known(user).is_none()).cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        self.user_nids(&unknown).await?;
        for user in unknown.iter().filter(|user| interner.known(user).is_none() && check_name(user.as_str()).is_ok()) {
            // Where names were stored meanwhile it is looked up again by itself.
            interner.give(user, self.nid().await?, seen);
        }
        Ok(())
    }

    /// Looks up many state keys at once and gives those a number that have none, so that [`Store::intern_key`] finds them
    /// in memory. Names that cannot be stored are left for it to refuse.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn intern_keys(&self, keys: &HashSet<StateKey>) -> Result<()> {
        let interner = &self.inner.keys;
        let seen = interner.settled.load(Ordering::Acquire);
        let storable = |key: &StateKey| check_name(&key.event_type).is_ok() && check_name(&key.state_key).is_ok();
        let unknown: Vec<&StateKey> =
            keys.iter().filter(|key| interner.known(key).is_none() && storable(key)).collect();
        let mut alone: Vec<String> = Vec::new();
        let mut by_type: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        // Some are known to have no number.
        for key in unknown.iter().filter(|key| interner.by_name.get(**key).is_none()) {
            match &*key.state_key {
                "" => alone.push(key.event_type.clone()),
                state_key => by_type.entry(&key.event_type).or_default().push(state_key.to_owned()),
            }
        }
        type Row = (i64, String, String);
        let mut found: Vec<Row> = Vec::new();
        if !alone.is_empty() {
            let of_types = sql!("SELECT key_nid, event_type, state_key FROM state_keys WHERE state_key = '' AND event_type " [in 1]);
            found = fetch_all!(&mut self.read().await?, Row, of_types, Texts(alone))?;
        }
        for (event_type, state_keys) in by_type {
            let of_type = sql!("SELECT key_nid, event_type, state_key FROM state_keys WHERE event_type = $1 AND state_key " [in 2]);
            let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, of_type, event_type, Texts(state_keys))?;
            found.extend(rows);
        }
        for (nid, event_type, state_key) in found {
            interner.remember(StateKey { event_type, state_key }, nid);
        }
        for key in unknown {
            if interner.known(key).is_none() {
                interner.give(key, self.nid().await?, seen);
            }
        }
        Ok(())
    }
}
