//! Accounts: who may register under which name, passwords, closing an account.
//!
//! Passwords are hashed on the blocking pool, few at a time ([`passwords`]); registering is in [`register`]. What
//! becomes of the rooms of a closed account is membership's work: it reads [`Store::closed_in_rooms`] and is woken by
//! [`Accounts::closed`].

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use hearth_base::{Error, Requester, Result, cache::Lasting, clock::Clock, ids::UserNid};
pub use hearth_store::accounts::Flag;
use hearth_store::{
    Store,
    accounts::{Account, Threepid},
};
use http::StatusCode;
use ruma::{OwnedServerName, OwnedUserId, UserId};
use tokio::sync::Notify;
use unicase::UniCase;

use crate::login::tokens::Mint;

pub mod passwords;
pub mod register;

use passwords::Passwords;

/// How accounts are made and kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How passwords are hashed.
    pub passwords: passwords::Settings,
    /// What a new password must be like.
    pub policy: passwords::Policy,
    /// Whether passwords are used at all (`password_config.enabled`).
    pub passwords_enabled: bool,
    /// Whether one logs in by them, or only confirms what one does (`password_config.enabled: only_for_reauth`).
    pub password_login: bool,
    /// Whether anybody may register (`enable_registration`).
    pub registration: bool,
    /// Whether registering takes a token (`registration_requires_token`).
    pub registration_token: bool,
    /// The secret of the registration by `register-user` (`registration_shared_secret`).
    pub shared_secret: Option<String>,
    /// Whether guests may come (`allow_guest_access`).
    pub guests: bool,
    /// Tell nobody that a name is taken (`inhibit_user_in_use_error`).
    pub hide_taken_names: bool,
    /// Names may begin with `_`, which bridges use (`allow_underscore_prefixed_registration`).
    pub allow_underscore: bool,
    /// What newcomers must agree to.
    pub terms: Option<Terms>,
    /// Whether users may change their display name (`enable_set_displayname`).
    pub set_displayname: bool,
    /// Whether users may change their avatar (`enable_set_avatar_url`).
    pub set_avatar_url: bool,
    /// Whether users may change their e-mail addresses and phone numbers (`enable_3pid_changes`).
    pub threepid_changes: bool,
    /// Kinds of users beside `bot` and `support` (`user_types.extra_user_types`).
    pub extra_user_types: Vec<String>,
}

/// The terms a newcomer must agree to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Their version.
    pub version: String,
    /// Their name in English.
    pub name: String,
    /// Where to read them.
    pub url: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            passwords: passwords::Settings::default(),
            policy: passwords::Policy::default(),
            passwords_enabled: true,
            password_login: true,
            registration: false,
            registration_token: false,
            shared_secret: None,
            guests: false,
            hide_taken_names: false,
            allow_underscore: false,
            terms: None,
            set_displayname: true,
            set_avatar_url: true,
            threepid_changes: true,
            extra_user_types: Vec::new(),
        }
    }
}

/// Accounts and their passwords.
pub struct Accounts {
    server_name: OwnedServerName,
    settings: Settings,
    store: Store,
    clock: Clock,
    mint: Mint,
    passwords: Passwords,
    /// Nonces of the registration by shared secret that nobody has used yet.
    nonces: Lasting<String, ()>,
    closed: Arc<Notify>,
    /// Whether there is known to be an account.
    any: AtomicBool,
    /// Held while the first account is made.
    first: tokio::sync::Mutex<()>,
}

impl Accounts {
    /// The service over this store.
    #[must_use]
    pub fn new(server_name: OwnedServerName, settings: Settings, store: Store, clock: Clock, mint: Mint) -> Self {
        let passwords = Passwords::new(settings.passwords.clone());
        let nonces = Lasting::new(10_000, Duration::from_secs(60));
        Self {
            server_name,
            settings,
            store,
            clock,
            mint,
            passwords,
            nonces,
            closed: Arc::default(),
            any: AtomicBool::new(false),
            first: tokio::sync::Mutex::default(),
        }
    }

    /// Gives back memory that no password has been hashed in for a while.
    pub fn release_memory(&self) {
        self.passwords.release_memory();
    }

    /// How accounts are made and kept.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Rings when an account was closed: its user is to leave their rooms ([`Store::closed_in_rooms`]).
    #[must_use]
    pub fn closed(&self) -> Arc<Notify> {
        self.closed.clone()
    }

    /// Whether a user is ours by name.
    #[must_use]
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
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

    /// The account that a third-party identifier belongs to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn find_threepid(&self, medium: &str, address: &str) -> Result<Option<(OwnedUserId, Account)>> {
        let address = canonical_threepid(medium, address);
        let Some((nid, id)) = self.store.user_of_threepid(medium, &address).await? else { return Ok(None) };
        Ok(self.store.account(nid).await?.map(|account| (id, account)))
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
    /// 403 for the id of anybody else, 429 if too many passwords wait to be checked.
    pub async fn confirm_password(&self, user: UserNid, typed: Option<&str>, password: String) -> Result<bool> {
        if let Some(typed) = typed {
            let found = match self.find(typed).await? {
                None => self.find_threepid("email", typed).await?,
                found => found,
            };
            if found.is_none_or(|(_, account)| account.user_nid != user.0) {
                return Err(Error::forbidden("One confirms what one does by one's own password"));
            }
        }
        let account = self.store.account(user).await?;
        self.password_matches(account.as_ref(), password).await
    }

    /// Changes a user's own password; by default their other devices are logged out.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD` if the new one breaks the policy, 403 if passwords are not used here.
    pub async fn change_password(&self, who: &Requester, new: String, logout_devices: bool) -> Result<()> {
        if !self.settings.passwords_enabled {
            return Err(Error::forbidden("This server has no passwords"));
        }
        self.settings.policy.check(&new)?;
        let hash = self.passwords.hash(new).await?;
        if !self.store.set_password_hash(who.user_nid, Some(hash)).await? {
            return Err(Error::forbidden("This account has been deactivated"));
        }
        if logout_devices {
            let current = who.device_id.as_ref().map(ToString::to_string);
            self.store.delete_other_devices(who.user_nid, current).await?;
        }
        Ok(())
    }

    /// Closes a user's own account for good, on request with the wish that their messages be hidden from newcomers.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn close(&self, who: &Requester, erase: bool) -> Result<()> {
        self.store.close_account(who.user_nid, erase).await?;
        self.closed.notify_one();
        Ok(())
    }

    /// Turns a switch of one of our accounts, as an administrator.
    ///
    /// # Errors
    /// 403 for others than administrators, and for accounts of other administrators; 404 if there is no such account, or
    /// none any more.
    pub async fn set_flag(&self, who: &Requester, user: &UserId, flag: Flag, on: bool) -> Result<()> {
        let nid = UserNid(self.inspect(who, user).await?.user_nid);
        if nid == who.user_nid && matches!(flag, Flag::Locked | Flag::Suspended) && on {
            return Err(Error::forbidden("Administrators cannot lock or suspend themselves"));
        }
        if self.store.set_flag(nid, flag, on).await? { Ok(()) } else { Err(Error::not_found("User not found")) }
    }

    /// One of our accounts, for an administrator.
    ///
    /// # Errors
    /// As [`Self::set_flag`].
    pub async fn inspect(&self, who: &Requester, user: &UserId) -> Result<Account> {
        if !who.is_admin {
            return Err(Error::forbidden("You are not a server admin"));
        }
        let account = match self.store.user_nid(user).await? {
            Some(nid) if self.is_local(user) => self.store.account(nid).await?,
            _ => None,
        };
        let account = account.filter(|a| !a.deactivated).ok_or_else(|| Error::not_found("User not found"))?;
        if account.admin && account.user_nid != who.user_nid.0 {
            return Err(Error::forbidden("The user is another administrator"));
        }
        Ok(account)
    }

    /// The third-party identifiers of a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn threepids(&self, who: &Requester) -> Result<Vec<Threepid>> {
        self.store.threepids(who.user_nid).await
    }

    /// Takes a third-party identifier away from its user.
    ///
    /// # Errors
    /// 403 where users may not change theirs.
    pub async fn drop_threepid(&self, who: &Requester, medium: &str, address: &str) -> Result<()> {
        if !self.settings.threepid_changes {
            return Err(Error::forbidden("Third-party identifiers cannot be changed on this server"));
        }
        let address = canonical_threepid(medium, address);
        self.store.drop_threepid(who.user_nid, medium.to_owned(), address).await.map(drop)
    }
}

/// Addresses as they are kept: e-mail folded (`Strauß@` is `strauss@`), phone numbers as digits (appendices, "3PID Types").
pub(crate) fn canonical_threepid(medium: &str, address: &str) -> String {
    match medium {
        "email" => UniCase::new(address.trim()).to_folded_case(),
        "msisdn" => address.chars().filter(char::is_ascii_digit).collect(),
        _ => address.to_owned(),
    }
}

/// 400 with a code of its own.
fn refused(errcode: &'static str, error: &'static str) -> Error {
    Error::told(StatusCode::BAD_REQUEST, errcode, error)
}
