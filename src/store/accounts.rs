//! Local accounts: passwords, flags, third-party identifiers, registration tokens.
//!
//! A change that a running session must learn of (a flag, a closed account) makes the cached sessions of that user
//! forget, with the same commit ([`crate::login`]).

use hearth_base::{Error, Result, ids::UserNid};
use ruma::OwnedUserId;

use crate::{
    Store,
    devices::{self, NewDevice},
    execute, fetch_all, fetch_optional,
    log::Tx,
    login::{self, NewToken},
};

mod erased;

pub(crate) use erased::Erased;

/// A local account as stored.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Account {
    /// Whose, as a number.
    pub user_nid: i64,
    /// PHC string or bcrypt; `None`: no password login.
    pub password_hash: Option<String>,
    /// A server administrator.
    pub admin: bool,
    /// A guest.
    pub guest: bool,
    /// `bot`, `support`; `None` is an ordinary user.
    pub user_type: Option<String>,
    /// The appservice that made it.
    pub appservice_id: Option<String>,
    /// When made, ms.
    pub created_ms: i64,
    /// Closed for good; the name stays taken.
    pub deactivated: bool,
    /// Closed, and wants its messages hidden from newcomers.
    pub erased: bool,
    /// Locked (client-server API, "Account locking").
    pub locked: bool,
    /// Suspended ("Account suspension").
    pub suspended: bool,
    /// Is told its requests worked, and nobody else sees them.
    pub shadow_banned: bool,
    /// Approved by an administrator, where that is asked for.
    pub approved: bool,
    /// The terms consented to.
    pub consent_version: Option<String>,
    /// When consented, ms.
    pub consent_ms: Option<i64>,
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Whose.
    pub user: UserNid,
    /// Hash of the password, if it has one.
    pub password_hash: Option<String>,
    /// A server administrator.
    pub admin: bool,
    /// A guest.
    pub guest: bool,
    /// There is a guest of this name, who becomes an ordinary user.
    pub was_guest: bool,
    /// `bot`, `support`; `None` is an ordinary user.
    pub user_type: Option<String>,
    /// The appservice that makes it.
    pub appservice_id: Option<String>,
    /// Now, ms.
    pub created_ms: i64,
    /// First display name.
    pub displayname: Option<String>,
    /// The registration token to be used up.
    pub registration_token: Option<String>,
    /// The terms consented to.
    pub consent_version: Option<String>,
    /// First device and its token, unless the login was declined.
    pub session: Option<(NewDevice, NewToken)>,
}

/// What became of a new account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there.
    Yes,
    /// The name is taken; or there is no guest of that name any more.
    Taken,
    /// The registration token is used up or has run out meanwhile.
    TokenSpent,
}

/// A switch on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Server administrator.
    Admin,
    /// Locked.
    Locked,
    /// Suspended.
    Suspended,
    /// Shadow-banned.
    ShadowBanned,
    /// Approved.
    Approved,
}

/// A token that allows to register.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RegistrationToken {
    /// The token itself.
    pub token: String,
    /// How often it may be used; `None` is without end.
    pub uses_allowed: Option<i64>,
    /// Registrations begun with it.
    pub pending: i64,
    /// Registrations done with it.
    pub completed: i64,
    /// When it runs out, ms.
    pub expires_ms: Option<i64>,
}

impl RegistrationToken {
    /// Whether it can be used now.
    #[must_use]
    pub fn valid(&self, now_ms: i64) -> bool {
        self.expires_ms.is_none_or(|end| end > now_ms)
            && self.uses_allowed.is_none_or(|most| self.pending + self.completed < most)
    }
}

/// A third-party identifier of a user.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Threepid {
    /// `email` or `msisdn`.
    pub medium: String,
    /// Canonical address.
    pub address: String,
    /// When it was proved, ms.
    pub validated_ms: i64,
    /// When it was added, ms.
    pub added_ms: i64,
}

const ACCOUNT: &str = "SELECT user_nid, password_hash, admin, guest, user_type, appservice_id, created_ms, deactivated, erased, locked, suspended, shadow_banned, approved, consent_version, consent_ms FROM accounts WHERE user_nid = $1";
const INSERT: &str = "INSERT INTO accounts (user_nid, password_hash, admin, guest, user_type, appservice_id, created_ms, deactivated, erased, locked, suspended, shadow_banned, approved, consent_version, consent_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, FALSE, FALSE, FALSE, FALSE, FALSE, TRUE, $8, $9) ON CONFLICT (user_nid) DO NOTHING";
const PROMOTE: &str = "UPDATE accounts SET guest = FALSE, password_hash = $2, consent_version = $3, consent_ms = $4 WHERE user_nid = $1 AND guest AND NOT deactivated";
const SET_PASSWORD: &str = "UPDATE accounts SET password_hash = $2 WHERE user_nid = $1 AND NOT deactivated";
const SET_ADMIN: &str = "UPDATE accounts SET admin = $2 WHERE user_nid = $1";
const SET_LOCKED: &str = "UPDATE accounts SET locked = $2 WHERE user_nid = $1";
const SET_SUSPENDED: &str = "UPDATE accounts SET suspended = $2 WHERE user_nid = $1";
const SET_SHADOW_BANNED: &str = "UPDATE accounts SET shadow_banned = $2 WHERE user_nid = $1";
const SET_APPROVED: &str = "UPDATE accounts SET approved = $2 WHERE user_nid = $1";
const CLOSE: &str = "UPDATE accounts SET deactivated = TRUE, erased = (erased OR $2), password_hash = NULL, admin = FALSE WHERE user_nid = $1";
const DROP_THREEPIDS: &str = "DELETE FROM threepids WHERE user_nid = $1";
const DROP_THREEPID: &str = "DELETE FROM threepids WHERE user_nid = $1 AND medium = $2 AND address = $3";
const CLOSED_IN_ROOMS: &str = "SELECT DISTINCT u.user_nid, u.user_id FROM accounts a JOIN memberships m ON m.user_nid = a.user_nid AND m.membership IN ('join', 'invite', 'knock') JOIN users u ON u.user_nid = a.user_nid WHERE a.deactivated AND u.user_nid > $1 ORDER BY u.user_nid LIMIT $2";
const THREEPIDS: &str =
    "SELECT medium, address, validated_ms, added_ms FROM threepids WHERE user_nid = $1 ORDER BY added_ms, address";
const ADD_THREEPID: &str = "INSERT INTO threepids (medium, address, user_nid, validated_ms, added_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (medium, address) DO UPDATE SET user_nid = excluded.user_nid, validated_ms = excluded.validated_ms, added_ms = excluded.added_ms";
const BY_THREEPID: &str = "SELECT u.user_nid, u.user_id FROM threepids t JOIN users u ON u.user_nid = t.user_nid WHERE t.medium = $1 AND t.address = $2";
const TOKEN: &str =
    "SELECT token, uses_allowed, pending, completed, expires_ms FROM registration_tokens WHERE token = $1";
const ADD_TOKEN: &str = "INSERT INTO registration_tokens (token, uses_allowed, pending, completed, expires_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (token) DO NOTHING";
const SPEND_TOKEN: &str = "UPDATE registration_tokens SET completed = completed + 1 WHERE token = $1";
const COUNT: &str = "SELECT COUNT(*) FROM accounts WHERE NOT guest AND NOT deactivated";
const ANY: &str = "SELECT user_nid FROM accounts WHERE NOT guest LIMIT 1";

async fn insert(tx: &mut Tx, new: NewAccount) -> Result<Created> {
    // Whatever refuses comes before whatever writes: the token is asked first and spent last.
    if let Some(token) = &new.registration_token {
        let found: Option<RegistrationToken> = fetch_optional!(tx, RegistrationToken, TOKEN, token)?;
        if !found.is_some_and(|t| t.valid(new.created_ms)) {
            return Ok(Created::TokenSpent);
        }
    }
    let consent_ms = new.consent_version.as_ref().map(|_| new.created_ms);
    let made = if new.was_guest {
        // Their sessions go on, and are a guest's no more.
        login::refresh_sessions(tx, new.user).await?;
        execute!(tx, PROMOTE, new.user.0, new.password_hash, new.consent_version, consent_ms)?
    } else {
        execute!(
            tx,
            INSERT,
            new.user.0,
            new.password_hash,
            new.admin,
            new.guest,
            new.user_type,
            new.appservice_id,
            new.created_ms,
            new.consent_version,
            consent_ms
        )?
    };
    if made == 0 {
        return Ok(Created::Taken);
    }
    if let Some(token) = new.registration_token {
        execute!(tx, SPEND_TOKEN, token)?;
    }
    if let Some(name) = new.displayname {
        tx.first_name(new.user, name).await?;
    }
    if let Some((device, token)) = new.session {
        devices::upsert(tx, &device).await?;
        login::insert_token(tx, &token).await?;
        tx.note_devices(new.user, &[device.device_id]).await?;
    }
    Ok(Created::Yes)
}

impl Store {
    /// The account of a local user; `None` for remote ones and for names nobody registered.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account(&self, user: UserNid) -> Result<Option<Account>> {
        fetch_optional!(&mut self.read().await?, Account, ACCOUNT, user.0)
    }

    /// Makes an account, with all that belongs to it, or nothing.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn create_account(&self, new: NewAccount) -> Result<Created> {
        self.write(move |tx| Box::pin(insert(tx, new))).await
    }

    /// Sets or takes away the password. Returns whether there was an open account.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_password_hash(&self, user: UserNid, hash: Option<String>) -> Result<bool> {
        self.write(move |tx| Box::pin(async move { Ok(execute!(tx, SET_PASSWORD, user.0, hash)? > 0) })).await
    }

    /// Turns a switch of an account. Returns whether there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_flag(&self, user: UserNid, flag: Flag, on: bool) -> Result<bool> {
        let sql = match flag {
            Flag::Admin => SET_ADMIN,
            Flag::Locked => SET_LOCKED,
            Flag::Suspended => SET_SUSPENDED,
            Flag::ShadowBanned => SET_SHADOW_BANNED,
            Flag::Approved => SET_APPROVED,
        };
        self.write(move |tx| {
            Box::pin(async move {
                let done = execute!(tx, sql, user.0, on)? > 0;
                login::refresh_sessions(tx, user).await?;
                Ok(done)
            })
        })
        .await
    }

    /// Closes an account: sessions, devices, pushers, password, identifiers and account data go; the name stays taken.
    /// What becomes of its rooms is for those who read [`Store::closed_in_rooms`], and of its key backups for those who
    /// read [`Store::backup_of_closed`]. Returns whether there was an account.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn close_account(&self, user: UserNid, erase: bool) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                if execute!(tx, CLOSE, user.0, erase)? == 0 {
                    return Ok(false);
                }
                execute!(tx, DROP_THREEPIDS, user.0)?;
                if erase {
                    tx.delete_profile(user).await?;
                }
                login::drop_user_tokens(tx, user).await?;
                devices::drop_all(tx, user).await?;
                tx.delete_all_pushers(user).await?;
                tx.delete_account_data(user).await?;
                if erase {
                    tx.after_commit(move |store| store.inner.erased.insert(user));
                }
                Ok(true)
            })
        })
        .await
    }

    /// Closed accounts that are still in rooms, invited or knocking, by number behind `after`; some of them, if there are
    /// many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn closed_in_rooms(&self, after: UserNid, limit: u32) -> Result<Vec<(UserNid, OwnedUserId)>> {
        let rows: Vec<(i64, String)> =
            fetch_all!(&mut self.read().await?, (i64, String), CLOSED_IN_ROOMS, after.0, i64::from(limit))?;
        rows.into_iter().map(named).collect()
    }

    /// How many accounts are open, guests left out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_accounts(&self) -> Result<i64> {
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), COUNT)?;
        Ok(row.map_or(0, |r| r.0))
    }

    /// Whether anybody has an account or ever had one; guests do not count, closed accounts do.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn has_accounts(&self) -> Result<bool> {
        Ok(fetch_optional!(&mut self.read().await?, (i64,), ANY)?.is_some())
    }

    /// The third-party identifiers of a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn threepids(&self, user: UserNid) -> Result<Vec<Threepid>> {
        fetch_all!(&mut self.read().await?, Threepid, THREEPIDS, user.0)
    }

    /// Binds a proved identifier to a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_threepid(&self, user: UserNid, t: Threepid) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, ADD_THREEPID, t.medium, t.address, user.0, t.validated_ms, t.added_ms).map(drop)
            })
        })
        .await
    }

    /// Takes an identifier away from a user. Returns whether they had it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn drop_threepid(&self, user: UserNid, medium: String, address: String) -> Result<bool> {
        self.write(move |tx| Box::pin(async move { Ok(execute!(tx, DROP_THREEPID, user.0, medium, address)? > 0) }))
            .await
    }

    /// The user a third-party identifier belongs to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn user_of_threepid(&self, medium: &str, address: &str) -> Result<Option<(UserNid, OwnedUserId)>> {
        let row: Option<(i64, String)> =
            fetch_optional!(&mut self.read().await?, (i64, String), BY_THREEPID, medium, address)?;
        row.map(named).transpose()
    }

    /// A registration token.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn registration_token(&self, token: &str) -> Result<Option<RegistrationToken>> {
        fetch_optional!(&mut self.read().await?, RegistrationToken, TOKEN, token)
    }

    /// Adds a registration token. Returns `false` if there is one of that name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_registration_token(&self, t: RegistrationToken) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                Ok(execute!(tx, ADD_TOKEN, t.token, t.uses_allowed, t.pending, t.completed, t.expires_ms)? > 0)
            })
        })
        .await
    }
}

fn named((nid, id): (i64, String)) -> Result<(UserNid, OwnedUserId)> {
    Ok((UserNid(nid), OwnedUserId::try_from(id).map_err(|e| Error::fault("users table", e))?))
}
