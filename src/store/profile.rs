//! Profiles: name, avatar and further fields, a row each.

use hearth_base::{Result, ids::UserNid};
use serde_json::Value;

use crate::{Store, execute, fetch_all, log::Tx};

const NAME_AND_AVATAR: &str =
    "SELECT field, value FROM profiles WHERE user_nid = $1 AND field IN ('displayname', 'avatar_url')";

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
}
