//! Profiles: name, avatar and further fields, a row each. Values are JSON. Not cached: they are asked for when somebody
//! joins a room or looks at one person.

use hearth_base::{Result, ids::UserNid};
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

impl Tx {
    /// Gives a new account its display name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn first_name(&mut self, user: UserNid, name: String) -> Result<()> {
        execute!(self, FIRST_NAME, user.0, Value::String(name).to_string()).map(drop)
    }

    /// Deletes a profile, for an account that is erased.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_profile(&mut self, user: UserNid) -> Result<()> {
        execute!(self, DELETE_ALL, user.0).map(drop)
    }
}

impl Store {
    /// A user's display name and avatar, as they go into member events.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn name_and_avatar(&self, user: UserNid) -> Result<(Option<Value>, Option<Value>)> {
        let rows: Vec<(String, String)> =
            fetch_all!(&mut self.read().await?, (String, String), NAME_AND_AVATAR, user.0)?;
        let of = |field: &str| rows.iter().find(|(f, _)| f == field).and_then(|(_, v)| serde_json::from_str(v).ok());
        Ok((of("displayname"), of("avatar_url")))
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
