//! Sessions: access and refresh tokens, and the cache that makes an authenticated request cost no SQL. What proves
//! something once (login and OpenID tokens, user-interactive authentication) is in [`single_use`].
//!
//! Tokens are kept as SHA-256. The cache is told of every change between its commit and the answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64},
};

use hearth_base::{Error, Result, cache::Cache, ids::UserNid, requester::Requester};
use ruma::OwnedUserId;

use crate::{Store, db::Texts, execute, fetch_all, fetch_optional, log::Tx, sql};

pub mod single_use;

pub use single_use::{Redeemed, UiaSession};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// Sessions kept in memory.
const REMEMBERED: u64 = 20_000;

/// A valid access token, with all that a request has to know of its owner.
#[derive(Debug)]
pub struct Session {
    /// Who it belongs to.
    pub requester: Arc<Requester>,
    /// The account is locked.
    pub locked: bool,
    /// When it stops working, ms.
    pub expires_ms: Option<i64>,
    /// The refresh token it came with.
    pub refresh_hash: Option<TokenHash>,
    /// Whether it was ever used; the first use ends the tokens before it.
    pub used: AtomicBool,
    /// When its device was last noted as seen, ms.
    pub seen_ms: AtomicI64,
}

/// A new access token, and the refresh token that goes with it.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// SHA-256 of the access token.
    pub token_hash: TokenHash,
    /// Whose.
    pub user: UserNid,
    /// Of which device.
    pub device_id: Option<String>,
    /// When made, ms.
    pub created_ms: i64,
    /// When it stops working, ms.
    pub expires_ms: Option<i64>,
    /// The refresh token, if one comes with it.
    pub refresh: Option<NewRefresh>,
    /// The administrator who acts as this user by it.
    pub puppet_of: Option<UserNid>,
}

/// A new refresh token.
#[derive(Clone, Debug)]
pub struct NewRefresh {
    /// SHA-256 of it.
    pub token_hash: TokenHash,
    /// When it stops working, ms.
    pub expires_ms: Option<i64>,
    /// When the whole session ends, ms.
    pub ultimate_ms: Option<i64>,
}

/// A refresh token as stored.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// Whose.
    pub user: UserNid,
    /// Of which device.
    pub device_id: String,
    /// When it stops working, ms.
    pub expires_ms: Option<i64>,
    /// When the whole session ends, ms.
    pub ultimate_ms: Option<i64>,
    /// The account is locked or deactivated.
    pub barred: bool,
}

#[derive(sqlx::FromRow)]
struct SessionRow {
    user_nid: i64,
    user_id: String,
    device_id: Option<String>,
    expires_ms: Option<i64>,
    refresh_hash: Option<Vec<u8>>,
    used: bool,
    admin: bool,
    guest: bool,
    locked: bool,
    suspended: bool,
    shadow_banned: bool,
    last_seen_ms: Option<i64>,
}

impl SessionRow {
    fn session(self, token: TokenHash) -> Result<Arc<Session>> {
        let requester = Requester {
            user_id: OwnedUserId::try_from(self.user_id).map_err(|e| Error::fault("users table", e))?,
            user_nid: UserNid(self.user_nid),
            device_id: self.device_id.map(Into::into),
            token: Some(token),
            is_admin: self.admin,
            is_guest: self.guest,
            is_shadow_banned: self.shadow_banned,
            is_suspended: self.suspended,
            appservice: None,
        };
        Ok(Arc::new(Session {
            requester: Arc::new(requester),
            locked: self.locked,
            expires_ms: self.expires_ms,
            refresh_hash: self.refresh_hash.as_deref().map(hash_of).transpose()?,
            used: AtomicBool::new(self.used),
            seen_ms: AtomicI64::new(self.last_seen_ms.unwrap_or(0)),
        }))
    }
}

const SESSION: &str = "SELECT t.user_nid, u.user_id, t.device_id, t.expires_ms, t.refresh_hash, t.used, a.admin, a.guest, a.locked, a.suspended, a.shadow_banned, d.last_seen_ms FROM access_tokens t JOIN users u ON u.user_nid = t.user_nid JOIN accounts a ON a.user_nid = t.user_nid LEFT JOIN devices d ON d.user_nid = t.user_nid AND d.device_id = t.device_id WHERE t.token_hash = $1 AND NOT a.deactivated";
const INSERT_ACCESS: &str = "INSERT INTO access_tokens (token_hash, user_nid, device_id, created_ms, expires_ms, refresh_hash, used, puppet_of) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const INSERT_REFRESH: &str = "INSERT INTO refresh_tokens (token_hash, user_nid, device_id, next_hash, expires_ms, ultimate_ms) VALUES ($1, $2, $3, NULL, $4, $5)";
const MARK_USED: &str = "UPDATE access_tokens SET used = TRUE WHERE token_hash = $1";
const PREDECESSOR: &str = "SELECT token_hash FROM refresh_tokens WHERE next_hash = $1";
const DROP_REFRESH: &str = "DELETE FROM refresh_tokens WHERE token_hash = $1";
const DROP_ACCESS_OF_REFRESH: &str = "DELETE FROM access_tokens WHERE refresh_hash = $1 RETURNING token_hash";
const DROP_ACCESS: &str = "DELETE FROM access_tokens WHERE token_hash = $1 RETURNING token_hash";
const DROP_ACCESS_WITHOUT_DEVICE: &str =
    "DELETE FROM access_tokens WHERE user_nid = $1 AND device_id IS NULL AND puppet_of IS NULL RETURNING token_hash";
const DROP_ACCESS_OF_USER: &str = "DELETE FROM access_tokens WHERE user_nid = $1 RETURNING token_hash";
const DROP_REFRESH_OF_USER: &str = "DELETE FROM refresh_tokens WHERE user_nid = $1";
const TOKENS_OF_USER: &str = "SELECT token_hash FROM access_tokens WHERE user_nid = $1";
const REFRESH: &str = "SELECT r.user_nid, r.device_id, r.expires_ms, r.ultimate_ms, r.next_hash, (a.locked OR a.deactivated) AS barred FROM refresh_tokens r JOIN accounts a ON a.user_nid = r.user_nid WHERE r.token_hash = $1";
const SET_NEXT: &str = "UPDATE refresh_tokens SET next_hash = $2 WHERE token_hash = $1";

/// The cache of sessions.
#[derive(Debug)]
pub(crate) struct Sessions(Cache<TokenHash, Arc<Session>>);

impl Default for Sessions {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED))
    }
}

fn hash_of(bytes: &[u8]) -> Result<TokenHash> {
    TokenHash::try_from(bytes).map_err(|_| Error::broken("a token hash that is not 32 bytes"))
}

/// Makes sessions in memory forget these tokens once the transaction is committed.
fn forget(tx: &mut Tx, rows: &[(Vec<u8>,)]) -> Result<()> {
    let ended = rows.iter().map(|(h,)| hash_of(h)).collect::<Result<Vec<_>>>()?;
    if !ended.is_empty() {
        tx.after_commit(move |store| ended.iter().for_each(|hash| store.inner.sessions.0.invalidate(hash)));
    }
    Ok(())
}

/// Ends all sessions of devices.
pub(crate) async fn drop_device_tokens(tx: &mut Tx, user: UserNid, devices: &[String]) -> Result<()> {
    let refresh = sql!("DELETE FROM refresh_tokens WHERE user_nid = $1 AND device_id " [in 2]);
    let access = sql!("DELETE FROM access_tokens WHERE user_nid = $1 AND device_id " [in 2] " RETURNING token_hash");
    execute!(tx, refresh, user.0, Texts(devices.to_vec()))?;
    let ended = fetch_all!(tx, (Vec<u8>,), access, user.0, Texts(devices.to_vec()))?;
    forget(tx, &ended)
}

/// Ends the sessions of a user that have no device.
pub(crate) async fn drop_tokens_without_device(tx: &mut Tx, user: UserNid) -> Result<()> {
    let ended = fetch_all!(tx, (Vec<u8>,), DROP_ACCESS_WITHOUT_DEVICE, user.0)?;
    forget(tx, &ended)
}

/// Ends all sessions of a user, login and OpenID tokens included.
pub(crate) async fn drop_user_tokens(tx: &mut Tx, user: UserNid) -> Result<()> {
    execute!(tx, DROP_REFRESH_OF_USER, user.0)?;
    single_use::drop_of_user(tx, user).await?;
    let ended = fetch_all!(tx, (Vec<u8>,), DROP_ACCESS_OF_USER, user.0)?;
    forget(tx, &ended)
}

/// Makes sessions in memory learn of a change to their user's account.
pub(crate) async fn refresh_sessions(tx: &mut Tx, user: UserNid) -> Result<()> {
    let tokens = fetch_all!(tx, (Vec<u8>,), TOKENS_OF_USER, user.0)?;
    forget(tx, &tokens)
}

/// Stores a new access token and its refresh token, and remembers whose it is: it is used at once.
pub(crate) async fn insert_token(tx: &mut Tx, token: &NewToken) -> Result<()> {
    let refresh_hash = token.refresh.as_ref().map(|r| r.token_hash.to_vec());
    if let (Some(refresh), Some(device)) = (&token.refresh, &token.device_id) {
        execute!(
            tx,
            INSERT_REFRESH,
            &refresh.token_hash[..],
            token.user.0,
            device,
            refresh.expires_ms,
            refresh.ultimate_ms
        )?;
    }
    // Without a refresh token nothing hangs on the first use.
    let used = refresh_hash.is_none();
    execute!(
        tx,
        INSERT_ACCESS,
        &token.token_hash[..],
        token.user.0,
        token.device_id.as_deref(),
        token.created_ms,
        token.expires_ms,
        refresh_hash,
        used,
        token.puppet_of.map(|u| u.0)
    )?;
    let row: Option<SessionRow> = fetch_optional!(tx, SessionRow, SESSION, &token.token_hash[..])?;
    if let Some(row) = row {
        let (hash, session) = (token.token_hash, row.session(token.token_hash)?);
        tx.after_commit(move |store| store.inner.sessions.0.insert(hash, session));
    }
    Ok(())
}

/// Ends the pair of tokens that `refresh` was made from, now that the client proved to hold its successor.
async fn drop_predecessor(tx: &mut Tx, refresh: &TokenHash) -> Result<()> {
    let before: Vec<(Vec<u8>,)> = fetch_all!(tx, (Vec<u8>,), PREDECESSOR, &refresh[..])?;
    for (old,) in before {
        drop_pair(tx, &old).await?;
    }
    Ok(())
}

/// Ends a refresh token and the access token it came with.
async fn drop_pair(tx: &mut Tx, refresh: &[u8]) -> Result<()> {
    let ended = fetch_all!(tx, (Vec<u8>,), DROP_ACCESS_OF_REFRESH, refresh)?;
    execute!(tx, DROP_REFRESH, refresh)?;
    forget(tx, &ended)
}

impl Store {
    /// The session of an access token; `None` for one that never was or is no more. Expiry is for the caller to judge.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn session(&self, token: &TokenHash) -> Result<Option<Arc<Session>>> {
        let sessions = &self.inner.sessions.0;
        if let Some(session) = sessions.get(token) {
            return Ok(Some(session));
        }
        let ticket = sessions.ticket(token);
        let row: Option<SessionRow> = fetch_optional!(&mut self.read().await?, SessionRow, SESSION, &token[..])?;
        let Some(row) = row else { return Ok(None) };
        let session = row.session(*token)?;
        sessions.fill(*token, session.clone(), ticket);
        Ok(Some(session))
    }

    /// Notes the first use of an access token that came by a refresh: the tokens before it end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn session_used(&self, token: TokenHash, refresh: TokenHash) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, MARK_USED, &token[..])?;
                drop_predecessor(tx, &refresh).await
            })
        })
        .await
    }

    /// Stores a token without a device of its own beside it (appservices, administrators as users).
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_token(&self, token: NewToken) -> Result<()> {
        self.write(move |tx| Box::pin(async move { insert_token(tx, &token).await })).await
    }

    /// Ends one access token that has no device.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn drop_token(&self, token: TokenHash) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let ended = fetch_all!(tx, (Vec<u8>,), DROP_ACCESS, &token[..])?;
                forget(tx, &ended)
            })
        })
        .await
    }

    /// A refresh token.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn refresh_token(&self, token: &TokenHash) -> Result<Option<Refresh>> {
        type Row = (i64, String, Option<i64>, Option<i64>, Option<Vec<u8>>, bool);
        let row: Option<Row> = fetch_optional!(&mut self.read().await?, Row, REFRESH, &token[..])?;
        Ok(row.map(|(user, device_id, expires_ms, ultimate_ms, _, barred)| Refresh {
            user: UserNid(user),
            device_id,
            expires_ms,
            ultimate_ms,
            barred,
        }))
    }

    /// Exchanges a refresh token for the next pair. Until that pair is used the old one goes on working; a pair made
    /// from it before and never used is replaced. Returns whether the token was still there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rotate(&self, old: TokenHash, new: NewToken) -> Result<bool> {
        type Row = (i64, String, Option<i64>, Option<i64>, Option<Vec<u8>>, bool);
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<Row> = fetch_optional!(tx, Row, REFRESH, &old[..])?;
                let Some((_, _, _, _, next, _)) = row else { return Ok(false) };
                let Some(refresh) = new.refresh.as_ref().map(|r| r.token_hash) else {
                    return Err(Error::broken("a refresh without a new refresh token"));
                };
                // Whoever shows this token holds it: what it was made from ends.
                drop_predecessor(tx, &old).await?;
                if let Some(next) = next {
                    drop_pair(tx, &next).await?;
                }
                insert_token(tx, &new).await?;
                execute!(tx, SET_NEXT, &old[..], &refresh[..])?;
                Ok(true)
            })
        })
        .await
    }
}
