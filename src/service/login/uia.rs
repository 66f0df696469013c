//! Sessions of user-interactive authentication: begun, taken further, spent. Which stages there are and what they
//! ask is the API's business.

use hearth_base::{Doing, Result, ids::UserNid};
use hearth_store::login::UiaSession;
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Login, random_text};

/// Under what name a session keeps whom it registered. No stage is called so.
const REGISTERED: &str = "registered";
/// How long somebody who was registered may ask again what became of it, ms: as long as an answer may be lost.
const AGAIN_MS: i64 = 60 * 60 * 1000;

/// Whom a session registered.
#[derive(Serialize, Deserialize)]
struct Outcome {
    user_id: OwnedUserId,
    at_ms: i64,
}

/// Whether a session has registered somebody, and so proves nothing more.
#[must_use]
pub fn has_registered(session: &UiaSession) -> bool {
    outcome(session).is_some()
}

fn outcome(session: &UiaSession) -> Option<Value> {
    let mut completed: Map<String, Value> = serde_json::from_str(&session.completed).ok()?;
    completed.remove(REGISTERED)
}

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

    /// Spends one on a registration: whoever holds it may ask again for a while who they are.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn spend_on_registration(&self, session: String, user_id: &UserId) -> Result<()> {
        let outcome = Outcome { user_id: user_id.to_owned(), at_ms: self.now() };
        let outcome = serde_json::to_value(outcome).doing("writing what became of a registration")?;
        self.store.complete_uia(session, REGISTERED.to_owned(), outcome).await
    }

    /// Whom a session registered lately, if it is one that did.
    #[must_use]
    pub fn registered_by(&self, session: &UiaSession) -> Option<OwnedUserId> {
        let outcome: Outcome = serde_json::from_value(outcome(session)?).ok()?;
        (outcome.at_ms + AGAIN_MS > self.now()).then_some(outcome.user_id)
    }

    /// Spends one. Returns whether it was there to be spent.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_uia(&self, session: String) -> Result<bool> {
        self.store.end_uia(session).await
    }
}
