//! Push rules as account data: `{"global": ruleset}`, the server's default rules filled in whenever they are read.

use hearth_rules::push::{self, Ruleset};
use ruma::UserId;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    global: Ruleset,
}

/// The rules of a user as they are in force, from what is stored.
#[must_use]
pub fn read(stored: Option<&str>, user: &UserId) -> Ruleset {
    let Some(stored) = stored else { return push::server_default(user) };
    match serde_json::from_str::<Stored>(stored) {
        Ok(stored) => push::with_defaults(stored.global, user),
        Err(e) => {
            tracing::warn!(user.id = %user, error = %e, "stored push rules cannot be read; the defaults hold");
            push::server_default(user)
        }
    }
}

/// A ruleset with all its kinds, as clients expect to find them even if empty.
#[must_use]
pub fn ruleset(rules: &Ruleset) -> Value {
    serde_json::to_value(rules).unwrap_or_else(|_| json!({}))
}

/// The content of `m.push_rules`.
#[must_use]
pub fn content(rules: &Ruleset) -> String {
    json!({"global": ruleset(rules)}).to_string()
}
