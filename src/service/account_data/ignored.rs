//! Whom a user does not want to hear of (spec: "Ignoring Users"). The list is parsed once a change.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{Result, ids::UserNid};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, de::IgnoredAny};

use super::AccountData;

/// The kind that holds the list.
pub const IGNORED_USERS: &str = "m.ignored_user_list";

/// A list, with the text it was made of.
pub(super) type Parsed = (Arc<str>, Arc<HashSet<OwnedUserId>>);

impl AccountData {
    /// Whom a user ignores.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ignored(&self, user: UserNid) -> Result<Arc<HashSet<OwnedUserId>>> {
        let Some(text) = self.store.account_data(user, None, IGNORED_USERS).await? else {
            return Ok(self.nobody.clone());
        };
        if let Some((of, users)) = self.ignored.get(&user)
            && Arc::ptr_eq(&of, &text)
        {
            return Ok(users);
        }
        let users = Arc::new(ignored_in(&text));
        self.ignored.insert(user, (text, users.clone()));
        Ok(users)
    }
}

/// The users that the content of `m.ignored_user_list` names; none for what is no such content.
pub(crate) fn ignored_in(content: &str) -> HashSet<OwnedUserId> {
    #[derive(Deserialize, Default)]
    struct List {
        #[serde(default)]
        ignored_users: std::collections::BTreeMap<String, IgnoredAny>,
    }
    let list: List = serde_json::from_str(content).unwrap_or_default();
    list.ignored_users.into_keys().filter_map(|user| UserId::parse(user).ok()).collect()
}
