//! What proves something once and for a short while: login tokens, OpenID tokens, user-interactive authentication in
//! progress.

use hearth_base::{Error, Result, ids::UserNid};
use ruma::OwnedUserId;

use super::TokenHash;
use crate::{Store, execute, fetch_optional, log::Tx};

/// User-interactive authentication in progress.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct UiaSession {
    /// Its name.
    pub session_id: String,
    /// When begun, ms.
    pub created_ms: i64,
    /// Who it is bound to, unless registering.
    pub user_nid: Option<i64>,
    /// Method and path it was begun for.
    pub operation: String,
    /// Parameters of the first request without secrets, JSON.
    pub request: String,
    /// Stages done and their results, a JSON object.
    pub completed: String,
}

/// What became of a login token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// It was good, once.
    Yes(UserNid),
    /// Never heard of, used before, or too late.
    No,
}

const INSERT_LOGIN: &str =
    "INSERT INTO login_tokens (token_hash, user_nid, expires_ms, used) VALUES ($1, $2, $3, FALSE)";
const REDEEM_LOGIN: &str =
    "UPDATE login_tokens SET used = TRUE WHERE token_hash = $1 AND NOT used AND expires_ms > $2 RETURNING user_nid";
const INSERT_OPENID: &str = "INSERT INTO openid_tokens (token_hash, user_nid, expires_ms) VALUES ($1, $2, $3)";
/// OpenID tokens of a user that are good at the same time, and the rest.
const MOST_OPENID: i64 = 100;
const CROWD_OUT_OPENID: &str = "DELETE FROM openid_tokens WHERE user_nid = $1 AND token_hash <> $3 AND token_hash NOT IN (SELECT token_hash FROM openid_tokens WHERE user_nid = $1 ORDER BY expires_ms DESC LIMIT $2)";
const OPENID: &str = "SELECT u.user_id FROM openid_tokens o JOIN users u ON u.user_nid = o.user_nid WHERE o.token_hash = $1 AND o.expires_ms > $2";
const INSERT_UIA: &str = "INSERT INTO uia_sessions (session_id, created_ms, user_nid, operation, request, completed) VALUES ($1, $2, $3, $4, $5, '{}')";
const UIA: &str = "SELECT session_id, created_ms, user_nid, operation, request, completed FROM uia_sessions WHERE session_id = $1 AND created_ms > $2";
const UIA_COMPLETED: &str = "SELECT completed FROM uia_sessions WHERE session_id = $1";
const SET_UIA_COMPLETED: &str = "UPDATE uia_sessions SET completed = $2 WHERE session_id = $1";
const DROP_UIA: &str = "DELETE FROM uia_sessions WHERE session_id = $1";
const SWEEP_UIA: &str = "DELETE FROM uia_sessions WHERE created_ms < $1";
const SWEEP_LOGIN: &str = "DELETE FROM login_tokens WHERE expires_ms < $1";
const SWEEP_OPENID: &str = "DELETE FROM openid_tokens WHERE expires_ms < $1";
const DROP_LOGIN_OF_USER: &str = "DELETE FROM login_tokens WHERE user_nid = $1";
const DROP_OPENID_OF_USER: &str = "DELETE FROM openid_tokens WHERE user_nid = $1";

/// Deletes what a user has of these.
pub(super) async fn drop_of_user(tx: &mut Tx, user: UserNid) -> Result<()> {
    execute!(tx, DROP_LOGIN_OF_USER, user.0)?;
    execute!(tx, DROP_OPENID_OF_USER, user.0).map(drop)
}

impl Store {
    /// Stores a login token.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_login_token(&self, token: TokenHash, user: UserNid, expires_ms: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move { execute!(tx, INSERT_LOGIN, &token[..], user.0, expires_ms).map(drop) })
        })
        .await
    }

    /// Redeems a login token, once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn redeem_login_token(&self, token: TokenHash, now_ms: i64) -> Result<Redeemed> {
        let row: Option<(i64,)> = self
            .write(move |tx| Box::pin(async move { fetch_optional!(tx, (i64,), REDEEM_LOGIN, &token[..], now_ms) }))
            .await?;
        Ok(row.map_or(Redeemed::No, |(user,)| Redeemed::Yes(UserNid(user))))
    }

    /// Stores an OpenID token.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_openid_token(&self, token: TokenHash, user: UserNid, expires_ms: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, INSERT_OPENID, &token[..], user.0, expires_ms)?;
                execute!(tx, CROWD_OUT_OPENID, user.0, MOST_OPENID, &token[..]).map(drop)
            })
        })
        .await
    }

    /// Whose OpenID token this is, while it lasts.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn openid_user(&self, token: &TokenHash, now_ms: i64) -> Result<Option<OwnedUserId>> {
        let row: Option<(String,)> = fetch_optional!(&mut self.read().await?, (String,), OPENID, &token[..], now_ms)?;
        row.map(|(id,)| OwnedUserId::try_from(id).map_err(|e| Error::fault("users table", e))).transpose()
    }

    /// Begins a user-interactive authentication.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_uia(&self, session: UiaSession) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let s = session;
                execute!(tx, INSERT_UIA, s.session_id, s.created_ms, s.user_nid, s.operation, s.request).map(drop)
            })
        })
        .await
    }

    /// A user-interactive authentication begun after `since_ms`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn uia(&self, session_id: &str, since_ms: i64) -> Result<Option<UiaSession>> {
        fetch_optional!(&mut self.read().await?, UiaSession, UIA, session_id, since_ms)
    }

    /// Notes a stage as done, with its result.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn complete_uia(&self, session_id: String, stage: String, result: serde_json::Value) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<(String,)> = fetch_optional!(tx, (String,), UIA_COMPLETED, &session_id)?;
                let Some((completed,)) = row else { return Ok(()) };
                let mut done: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&completed).map_err(|e| Error::fault("uia_sessions table", e))?;
                done.insert(stage, result);
                let text = serde_json::to_string(&done).map_err(|e| Error::fault("uia_sessions table", e))?;
                execute!(tx, SET_UIA_COMPLETED, &session_id, text).map(drop)
            })
        })
        .await
    }

    /// Ends a user-interactive authentication. Returns whether it was there: it can be spent once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_uia(&self, session_id: String) -> Result<bool> {
        self.write(move |tx| Box::pin(async move { Ok(execute!(tx, DROP_UIA, session_id)? > 0) })).await
    }

    /// Throws away what has run out: authentications begun before `uia_ms`, tokens that ended before `now_ms`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sweep_logins(&self, uia_ms: i64, now_ms: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, SWEEP_UIA, uia_ms)?;
                execute!(tx, SWEEP_LOGIN, now_ms)?;
                execute!(tx, SWEEP_OPENID, now_ms).map(drop)
            })
        })
        .await
    }
}
