//! Whether a user takes invites (spec: "Invite permission").

use hearth_base::{Result, ids::UserNid};
use serde::Deserialize;

use super::AccountData;

/// The kind that says which invites a user takes.
pub(crate) const INVITE_PERMISSION: &str = "m.invite_permission_config";

impl AccountData {
    /// Whether a user wants no invites, nor to be told of those that are there already.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn takes_no_invites(&self, user: UserNid) -> Result<bool> {
        Ok(blocks(self.store.account_data(user, None, INVITE_PERMISSION).await?.as_deref()))
    }
}

/// Whether the content of `m.invite_permission_config` keeps all invites away.
pub(crate) fn blocks(content: Option<&str>) -> bool {
    #[derive(Deserialize)]
    struct Config {
        default_action: Option<String>,
    }
    let config: Option<Config> = content.and_then(|c| serde_json::from_str(c).ok());
    config.is_some_and(|c| c.default_action.as_deref() == Some("block"))
}
