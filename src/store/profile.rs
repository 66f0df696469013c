//! Profiles: name, avatar and further fields, a row each. Values are JSON. Remembered are names and avatars, which go into
//! every membership; the rest is asked for when somebody looks at one person.

use std::sync::Arc;

use hearth_base::{Result, cache::Cache, ids::UserNid};
use serde_json::Value;

use crate::{Store, execute, fetch_all, fetch_optional, log::Tx};

const NAME_AND_AVATAR: &str =
    "SELECT field, value FROM profiles WHERE user_nid = $1 AND field IN ('displayname', 'avatar_url')";
const PROFILE: &str = "SELECT field, value FROM profiles WHERE user_nid = $1 ORDER BY field";
const FIELD: &str = "SELECT value FROM profiles WHERE user_nid = $1 AND field = $2";
const FIELD_PUT: &str = "INSERT INTO profiles (user_nid, field, value) VALUES ($1, $2, $3) ON CONFLICT (user_nid, field) DO UPDATE SET value = excluded.value";
const FIELD_DROP: &str = "DELETE FROM profiles WHERE user_nid = $1 AND field = $2";

const FIRST_NAME: &str = "INSERT INTO profiles (user_nid, field, value) VALUES ($1, 'displayname', $2) ON CONFLICT (user_nid, field) DO NOTHING";
const DELETE_ALL: &str = "DELETE FROM profiles WHERE user_nid = $1";

/// Users whose names and avatars are remembered.
const REMEMBERED: u64 = 10_000;

/// A display name and an avatar, as JSON.
type NameAndAvatar = (Option<Value>, Option<Value>);

/// What is remembered.
#[derive(Debug)]
pub(crate) struct Memory(Cache<UserNid, Arc<NameAndAvatar>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED))
    }
}

impl Tx {
    /// Has names and avatars of a user be read again, once this is committed.
    fn forget_profile(&mut self, user: UserNid) {
        self.after_commit(move |store| store.inner.profiles.0.invalidate(&user));
    }

    /// Gives a new account its display name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn first_name(&mut self, user: UserNid, name: String) -> Result<()> {
        let name = Value::String(name);
        if execute!(self, FIRST_NAME, user.0, name.to_string())? > 0 {
            // What a profile begins with is all of it.
            self.after_commit(move |store| store.inner.profiles.0.put(user, Arc::new((Some(name), None))));
        }
        Ok(())
    }

    /// Deletes a profile, for an account that is erased.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_profile(&mut self, user: UserNid) -> Result<()> {
        self.forget_profile(user);
        execute!(self, DELETE_ALL, user.0).map(drop)
    }
}

impl Store {
    /// A user's display name and avatar, as they go into member events.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn name_and_avatar(&self, user: UserNid) -> Result<Arc<NameAndAvatar>> {
        self.inner.profiles.0.get_or(user, || self.read_name_and_avatar(user)).await
    }

    async fn read_name_and_avatar(&self, user: UserNid) -> Result<Arc<NameAndAvatar>> {
        let rows: Vec<(String, String)> =
            fetch_all!(&mut self.read().await?, (String, String), NAME_AND_AVATAR, user.0)?;
        let of = |field: &str| rows.iter().find(|(f, _)| f == field).and_then(|(_, v)| serde_json::from_str(v).ok());
        Ok(Arc::new((of("displayname"), of("avatar_url"))))
    }

    /// All fields of a user, as (field, JSON).
    ///
    /// # Errors
    /// If the database fails.
    pub async fn profile(&self, user: UserNid) -> Result<Vec<(String, String)>> {
        fetch_all!(&mut self.read().await?, (String, String), PROFILE, user.0)
    }

    /// One field of a user, as JSON.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn profile_field(&self, user: UserNid, field: &str) -> Result<Option<String>> {
        let row: Option<(String,)> = fetch_optional!(&mut self.read().await?, (String,), FIELD, user.0, field)?;
        Ok(row.map(|r| r.0))
    }

    /// Sets a field, or (`None`) removes it. `fits` is shown all other fields and may refuse. Returns whether anything
    /// changed.
    ///
    /// # Errors
    /// Those of `fits`.
    pub async fn set_profile_field<F>(&self, user: UserNid, field: &str, value: Option<String>, fits: F) -> Result<bool>
    where
        F: FnOnce(&[(String, String)]) -> Result<()> + Send + 'static,
    {
        let field = field.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                tx.forget_profile(user);
                let Some(value) = value else {
                    return execute!(tx, FIELD_DROP, user.0, field.as_str()).map(|rows| rows > 0);
                };
                let mut fields: Vec<(String, String)> = fetch_all!(tx, (String, String), PROFILE, user.0)?;
                if fields.iter().any(|(f, v)| *f == field && *v == value) {
                    return Ok(false);
                }
                fields.retain(|(f, _)| *f != field);
                fits(&fields)?;
                execute!(tx, FIELD_PUT, user.0, field.as_str(), value.as_str())?;
                Ok(true)
            })
        })
        .await
    }
}
