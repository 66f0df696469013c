//! Sessions of user-interactive authentication: begun, taken further, spent. Which stages there are and what they
//! ask is the API's business.

use hearth_base::{Result, ids::UserNid};
use hearth_store::login::UiaSession;
use serde_json::Value;

use super::{Login, random_text};

impl Login {
    /// Begins one for an operation, bound to a user unless registering. Gives its name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_uia(&self, user: Option<UserNid>, operation: String, request: String) -> Result<String> {
        let session_id = random_text(24);
        let session = UiaSession {
            session_id: session_id.clone(),
            created_ms: self.now(),
            user_nid: user.map(|u| u.0),
            operation,
            request,
            completed: String::new(),
        };
        self.store.begin_uia(session).await?;
        Ok(session_id)
    }

    /// One that has not run out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn uia(&self, session: &str) -> Result<Option<UiaSession>> {
        let since = self.now() - i64::try_from(self.settings.uia_timeout.as_millis()).unwrap_or(i64::MAX / 2);
        self.store.uia(session, since).await
    }

    /// Notes a stage as done.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn complete_uia(&self, session: String, stage: String, result: Value) -> Result<()> {
        self.store.complete_uia(session, stage, result).await
    }

    /// Spends one. Returns whether it was there to be spent.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_uia(&self, session: String) -> Result<bool> {
        self.store.end_uia(session).await
    }
}
