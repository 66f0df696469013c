//! Profiles: name, avatar and further fields, a row each.

use hearth_base::{Result, ids::UserNid};
use serde_json::Value;

use crate::{Store, fetch_all};

const NAME_AND_AVATAR: &str =
    "SELECT field, value FROM profiles WHERE user_nid = $1 AND field IN ('displayname', 'avatar_url')";

impl Store {
    /// A user's display name and avatar, as they go into member events.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn name_and_avatar(&self, user: UserNid) -> Result<(Option<Value>, Option<Value>)> {
        let rows: Vec<(String, String)> =
            fetch_all!(&mut self.read().await?, (String, String), NAME_AND_AVATAR, user.0)?;
        let of = |field: &str| {
            rows.iter().find(|(f, _)| f == field).and_then(|(_, v)| serde_json::from_str(v).ok())
        };
        Ok((of("displayname"), of("avatar_url")))
    }
}
