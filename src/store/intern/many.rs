//! Many names at once, as a room's state brings them: looked up by one statement, and given numbers.

use std::{collections::HashSet, sync::atomic::Ordering};

use hearth_base::{Result, ids::UserNid};
use ruma::OwnedUserId;

use super::{StateKey, check_name, parse_user};
use crate::{Store, db::Texts, fetch_all, keys::to_json, sql};

impl Store {
    /// The numbers of those of the users that we have heard of.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn user_nids(&self, users: &[OwnedUserId]) -> Result<Vec<(OwnedUserId, UserNid)>> {
        let (mut out, mut missing) = (Vec::with_capacity(users.len()), Vec::new());
        for user in users {
            match self.inner.users.known(user) {
                Some(nid) => out.push((user.clone(), UserNid(nid))),
                None => missing.push(user.to_string()),
            }
        }
        if !missing.is_empty() {
            let sql = sql!("SELECT user_nid, user_id FROM users WHERE user_id " [in 1]);
            let rows: Vec<(i64, String)> = fetch_all!(&mut self.read().await?, (i64, String), sql, Texts(missing))?;
            for (nid, name) in rows {
                let id = parse_user(name)?;
                self.inner.users.remember(id.clone(), nid);
                out.push((id, UserNid(nid)));
            }
        }
        Ok(out)
    }

    /// Looks up users and state keys, so that memory has their numbers or knows that they have none. Names that cannot be
    /// stored are left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn look_up(&self, users: &HashSet<OwnedUserId>, keys: &HashSet<StateKey>) -> Result<()> {
        let (of_users, of_keys) = (&self.inner.users, &self.inner.keys);
        let users: Vec<_> = users
            .iter()
            .filter(|user| of_users.is_open(user) && check_name(user.as_str()).is_ok())
            .map(|user| (user, of_users.by_name.ticket(user)))
            .collect();
        let keys: Vec<_> = keys
            .iter()
            .filter(|key| of_keys.is_open(key) && is_storable(key))
            .map(|key| (key, of_keys.by_name.ticket(key)))
            .collect();
        if users.is_empty() && keys.is_empty() {
            return Ok(());
        }
        let sql = sql!(
            "SELECT user_nid, user_id, NULL AS state_key FROM users WHERE user_id "
            [in 1]
            " UNION ALL SELECT k.key_nid, k.event_type, k.state_key FROM "
            [rows 2]
            " CROSS JOIN state_keys k WHERE k.event_type = e.value ->> 0 AND k.state_key = e.value ->> 1"
        );
        let ids = Texts(users.iter().map(|(user, _)| user.to_string()).collect());
        let names: Vec<_> = keys.iter().map(|(key, _)| (&key.event_type, &key.state_key)).collect();
        type Row = (i64, String, Option<String>);
        let found: Vec<Row> = fetch_all!(&mut self.read().await?, Row, sql, ids, to_json(&names)?)?;
        for (nid, name, state_key) in found {
            match state_key {
                Some(state_key) => of_keys.remember(StateKey { event_type: name, state_key }, nid),
                None => of_users.remember(parse_user(name)?, nid),
            }
        }
        for (user, ticket) in users.into_iter().filter(|(user, _)| of_users.is_open(user)) {
            of_users.by_name.fill(user.clone(), None, ticket);
        }
        for (key, ticket) in keys.into_iter().filter(|(key, _)| of_keys.is_open(key)) {
            of_keys.by_name.fill(key.clone(), None, ticket);
        }
        Ok(())
    }

    /// Looks up users and state keys and gives those a number that have none, so that [`Store::intern_user`] and
    /// [`Store::intern_key`] find them in memory. Names that cannot be stored are left for those to refuse.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn intern_names(&self, users: &HashSet<OwnedUserId>, keys: &HashSet<StateKey>) -> Result<()> {
        let (of_users, of_keys) = (&self.inner.users, &self.inner.keys);
        let seen = (of_users.settled.load(Ordering::Acquire), of_keys.settled.load(Ordering::Acquire));
        self.look_up(users, keys).await?;
        // Where names were stored meanwhile a name is looked up again by itself.
        for user in users.iter().filter(|user| of_users.known(user).is_none() && check_name(user.as_str()).is_ok()) {
            of_users.give(user, self.nid().await?, seen.0);
        }
        for key in keys.iter().filter(|key| of_keys.known(key).is_none() && is_storable(key)) {
            of_keys.give(key, self.nid().await?, seen.1);
        }
        Ok(())
    }
}

fn is_storable(key: &StateKey) -> bool {
    check_name(&key.event_type).is_ok() && check_name(&key.state_key).is_ok()
}
