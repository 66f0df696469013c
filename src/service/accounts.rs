//! Accounts: who may register under which name, passwords, closing an account.
//!
//! Passwords are hashed on the blocking pool, few at a time ([`passwords`]). What becomes of the rooms of a closed
//! account is membership's work: it reads [`Store::closed_in_rooms`] and waits on [`Accounts::closed`].

use hearth_base::{Result, clock::Clock, ids::UserNid};
use hearth_store::{Store, accounts::Account};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use tokio::sync::Notify;

pub mod passwords;

use passwords::Passwords;

/// How accounts are made and kept.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How passwords are hashed.
    pub passwords: passwords::Settings,
}

/// Accounts and their passwords.
pub struct Accounts {
    server_name: OwnedServerName,
    settings: Settings,
    store: Store,
    clock: Clock,
    passwords: Passwords,
    closed: Notify,
}

impl Accounts {
    /// The service over this store.
    #[must_use]
    pub fn new(server_name: OwnedServerName, settings: Settings, store: Store, clock: Clock) -> Self {
        let passwords = Passwords::new(settings.passwords.clone());
        Self { server_name, settings, store, clock, passwords, closed: Notify::new() }
    }

    /// Whether a user is ours by name.
    #[must_use]
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }

    /// The account of one of our users, by the id or localpart that a person typed: as written, else in lower case.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn find(&self, typed: &str) -> Result<Option<(OwnedUserId, Account)>> {
        let Ok(id) = UserId::parse_with_server_name(typed.trim(), &self.server_name) else { return Ok(None) };
        if !self.is_local(&id) {
            return Ok(None);
        }
        let lower = UserId::parse_with_server_name(id.localpart().to_lowercase(), &self.server_name).ok();
        for id in [Some(id.clone()), lower.filter(|l| *l != id)].into_iter().flatten() {
            if let Some(nid) = self.store.user_nid(&id).await?
                && let Some(account) = self.store.account(nid).await?
            {
                return Ok(Some((id, account)));
            }
        }
        Ok(None)
    }

    /// Whether this is the password of an account. An account without one takes as long to answer as one with.
    ///
    /// # Errors
    /// 429 if too many passwords wait to be checked.
    pub async fn password_matches(&self, account: Option<&Account>, password: String) -> Result<bool> {
        let hash = account.filter(|a| !a.deactivated).and_then(|a| a.password_hash.clone());
        self.passwords.verify(password, hash).await
    }

    /// Whether this is the password of that user; `typed` is the id they gave with it, if any, and must be theirs.
    ///
    /// # Errors
    /// 429 if too many passwords wait to be checked.
    pub async fn confirm_password(&self, user: UserNid, typed: Option<&str>, password: String) -> Result<bool> {
        if let Some(typed) = typed {
            let found = match self.find(typed).await? {
                Some((_, account)) => Some(UserNid(account.user_nid)),
                None => self.store.user_of_threepid("email", &typed.to_lowercase()).await?.map(|(nid, _)| nid),
            };
            if found != Some(user) {
                return Ok(false);
            }
        }
        let account = self.store.account(user).await?;
        self.password_matches(account.as_ref(), password).await
    }
}
