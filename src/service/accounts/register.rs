//! Registering: names and their rules, open and guest registration, registration tokens, and the registration by
//! shared secret that `register-user` and Synapse's `register_new_matrix_user` speak.

use std::sync::atomic::Ordering;

use hearth_base::{Error, Result};
use hearth_store::{
    accounts::{Created, NewAccount},
    devices::NewDevice,
};
use hmac::{Hmac, Mac};
use http::StatusCode;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use sha1::Sha1;

use super::{Accounts, passwords::Policy, refused};
use crate::login::{self, Device, random_text, tokens::Minted};

/// A password that somebody chose.
#[derive(Clone)]
pub enum Password {
    /// As typed.
    Plain(String),
    /// Its hash, from [`Accounts::hash`]: it was checked, and is not known any more.
    Hashed(String),
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// Someone who wants an account, and has proved what is asked of newcomers.
#[derive(Clone, Debug, Default)]
pub struct Newcomer {
    /// The localpart; one is made up if there is none.
    pub username: Option<String>,
    /// The password, unless there is to be none.
    pub password: Option<Password>,
    /// The registration token they came with.
    pub registration_token: Option<String>,
    /// The terms they agreed to.
    pub consent_version: Option<String>,
    /// Their first device; `None` makes no session (`inhibit_login`).
    pub device: Option<Device>,
    /// The guest that they are so far, and whose name they keep ("Guest access").
    pub guest: Option<OwnedUserId>,
}

/// A new account.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The first device and its tokens, unless declined.
    pub session: Option<(OwnedDeviceId, Minted)>,
}

/// The body of a registration by shared secret.
#[derive(Clone, Debug)]
pub struct BySecret {
    /// From [`Accounts::nonce`].
    pub nonce: String,
    /// The localpart.
    pub username: String,
    /// The password.
    pub password: String,
    /// First display name.
    pub displayname: Option<String>,
    /// A server administrator.
    pub admin: bool,
    /// `bot`, `support` or one of the operator's own.
    pub user_type: Option<String>,
    /// HMAC-SHA1 over the rest, hexadecimal.
    pub mac: String,
    /// First device.
    pub device: Option<Device>,
}

/// Bytes of a password hash's worth of name: the whole id has 255 at most (appendices, "User Identifiers").
const LONGEST_ID: usize = 255;

impl Accounts {
    /// Whether somebody may register under a name, by its form and by who has it.
    ///
    /// # Errors
    /// 400 `M_INVALID_USERNAME`, 400 `M_USER_IN_USE`.
    pub async fn available(&self, username: &str) -> Result<OwnedUserId> {
        let user_id = self.name(username, false)?;
        if !self.settings.hide_taken_names {
            self.untaken(&user_id).await?;
        }
        Ok(user_id)
    }

    async fn untaken(&self, user_id: &UserId) -> Result<()> {
        if let Some(nid) = self.store.user_nid(user_id).await?
            && self.store.account(nid).await?.is_some()
        {
            return Err(taken());
        }
        Ok(())
    }

    /// The user id of a name somebody wants. Administrators may give names that are set apart.
    fn name(&self, username: &str, by_admin: bool) -> Result<OwnedUserId> {
        let invalid = |why| Err(refused("M_INVALID_USERNAME", why));
        let username = username.to_lowercase();
        if username.is_empty() {
            return invalid("A user name cannot be empty");
        }
        if !username.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._=-/+".contains(&b)) {
            return invalid("User names are made of the letters a-z, digits and ._=-/+");
        }
        if username.starts_with('_') && !by_admin && !self.settings.allow_underscore {
            return invalid("User names that begin with _ are for bridges");
        }
        if username.bytes().all(|b| b.is_ascii_digit()) && !by_admin {
            return invalid("User names of digits only are for guests");
        }
        if username.len() + self.server_name.as_str().len() + 2 > LONGEST_ID {
            return invalid("This user name is too long");
        }
        UserId::parse_with_server_name(username, &self.server_name)
            .or_else(|_| invalid("This is not a valid user name"))
    }

    /// Checks what a newcomer asks for, before they are sent to prove anything. `guest` is whom they are so far.
    ///
    /// # Errors
    /// 403 if nobody may register, and for guests who want another name than theirs; 400 for a name or password that
    /// cannot be.
    pub async fn may_register(
        &self,
        username: Option<&str>,
        password: Option<&str>,
        guest: Option<&UserId>,
    ) -> Result<()> {
        if !self.settings.registration {
            return Err(Error::forbidden("Registration has been disabled on this server"));
        }
        match (username, guest) {
            (Some(username), Some(guest)) if username != guest.localpart() => {
                return Err(Error::forbidden("Guests become members under the name that they have"));
            }
            (Some(username), None) => drop(self.available(username).await?),
            _ => {}
        }
        match password {
            Some(password) => self.settings.policy.check(password),
            None => Ok(()),
        }
    }

    /// The hash of a password, to be kept until its account is made.
    ///
    /// # Errors
    /// 429 if too many wait.
    pub async fn hash(&self, password: String) -> Result<String> {
        self.passwords.hash(password).await
    }

    /// Makes the account of a newcomer.
    ///
    /// # Errors
    /// As [`Accounts::may_register`]; 400 `M_USER_IN_USE` if the name went meanwhile; 401 if the token is used up.
    pub async fn register(&self, newcomer: Newcomer) -> Result<Registered> {
        let (username, guest) = (newcomer.username.as_deref(), newcomer.guest);
        let typed = match &newcomer.password {
            Some(Password::Plain(password)) => Some(&**password),
            _ => None,
        };
        self.may_register(username, typed, guest.as_deref()).await?;
        let was_guest = guest.is_some();
        let user_id = match (guest, username) {
            (Some(guest), _) => guest,
            (None, Some(username)) => self.name(username, false)?,
            (None, None) => self.name(&format!("u{}", random_text(11)), false)?,
        };
        if newcomer.password.is_some() && !self.settings.passwords_enabled {
            return Err(Error::forbidden("This server has no passwords"));
        }
        let Newcomer { password, registration_token, consent_version, device, .. } = newcomer;
        let account = NewAccount { registration_token, consent_version, was_guest, ..blank() };
        self.create(user_id, account, password, None, device).await
    }

    /// Makes a guest, who has a device and no password.
    ///
    /// # Errors
    /// 403 `M_GUEST_ACCESS_FORBIDDEN` if guests may not come.
    pub async fn register_guest(&self, display_name: Option<String>, from: login::From) -> Result<Registered> {
        if !self.settings.guests {
            return Err(Error::told(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not come here"));
        }
        // Digits only, as no other account can be called; drawn, so that nobody counts our guests.
        let number = rand::random::<u64>() >> 11;
        let user_id = self.name(&number.to_string(), true)?;
        let device = Device { id: None, display_name, refreshable: false, from };
        self.create(user_id, NewAccount { guest: true, ..blank() }, None, None, Some(device)).await
    }

    /// Begins a registration by shared secret.
    ///
    /// # Errors
    /// 400 if there is no secret.
    pub fn nonce(&self) -> Result<String> {
        self.secret()?;
        let nonce = random_text(64);
        self.nonces.insert(nonce.clone(), ());
        Ok(nonce)
    }

    fn secret(&self) -> Result<&str> {
        let secret = self.settings.shared_secret.as_deref().filter(|s| !s.is_empty());
        secret.ok_or_else(|| Error::unknown("Shared secret registration is not enabled"))
    }

    /// Makes an account for someone who knows the shared secret.
    ///
    /// # Errors
    /// 400 for a nonce that is unknown or used, 403 for a wrong MAC, 400 for a name or password that cannot be.
    pub async fn register_by_secret(&self, by: BySecret) -> Result<Registered> {
        let secret = self.secret()?;
        if self.nonces.remove(&by.nonce).is_none() {
            return Err(Error::unknown("unrecognised nonce"));
        }
        if by.username.contains('\0') || by.password.contains('\0') {
            return Err(Error::unknown("Neither user name nor password may contain NUL"));
        }
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())
            .map_err(|e| Error::fault("registration_shared_secret", e))?;
        let admin = if by.admin { "admin" } else { "notadmin" };
        for (n, part) in
            [&*by.nonce, &*by.username, &*by.password, admin].into_iter().chain(by.user_type.as_deref()).enumerate()
        {
            if n > 0 {
                mac.update(b"\0");
            }
            mac.update(part.as_bytes());
        }
        let given = unhex(&by.mac).unwrap_or_default();
        if mac.verify_slice(&given).is_err() {
            return Err(Error::told(StatusCode::FORBIDDEN, "M_UNKNOWN", "HMAC incorrect"));
        }
        if let Some(kind) = &by.user_type
            && !["bot", "support"].contains(&kind.as_str())
            && !self.settings.extra_user_types.contains(kind)
        {
            return Err(Error::unknown("Invalid user type"));
        }
        let user_id = self.name(&by.username, true)?;
        self.untaken(&user_id).await?;
        // The policy is for what users choose; whoever has the secret is held to lengths alone, as by Synapse.
        Policy::default().check(&by.password)?;
        let account = NewAccount { admin: by.admin, user_type: by.user_type, ..blank() };
        self.create(user_id, account, Some(Password::Plain(by.password)), by.displayname, by.device).await
    }

    /// Whether anybody has an account, or ever had one. A yes is remembered: accounts are never taken away.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn any(&self) -> Result<bool> {
        if !self.any.load(Ordering::Relaxed) && self.store.has_accounts().await? {
            self.any.store(true, Ordering::Relaxed);
        }
        Ok(self.any.load(Ordering::Relaxed))
    }

    /// Makes the first account of the server, an administrator's. Who may ask for it is the caller's business.
    ///
    /// # Errors
    /// 403 if there is or was an account, or if passwords are not used here; 400 for a name or password that cannot be.
    pub async fn register_first(&self, username: &str, password: String) -> Result<OwnedUserId> {
        let user_id = self.name(username, false)?;
        self.settings.policy.check(&password)?;
        if !self.settings.passwords_enabled {
            return Err(Error::forbidden("This server has no passwords"));
        }
        // Two who come at once: the second waits, and finds an account.
        let _one = self.first.lock().await;
        if self.any().await? {
            return Err(Error::forbidden("This server has its first account already"));
        }
        let account = NewAccount { admin: true, ..blank() };
        self.create(user_id, account, Some(Password::Plain(password)), None, None).await.map(|made| made.user_id)
    }

    async fn create(
        &self,
        user_id: OwnedUserId,
        account: NewAccount,
        password: Option<Password>,
        displayname: Option<String>,
        device: Option<Device>,
    ) -> Result<Registered> {
        let password_hash = match password {
            Some(Password::Plain(password)) => Some(self.passwords.hash(password).await?),
            Some(Password::Hashed(hash)) => Some(hash),
            None => None,
        };
        let (user, now) = (self.store.intern_user(&user_id).await?, self.now());
        let displayname = displayname
            .map(|n| n.replace('\0', ""))
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| user_id.localpart().to_owned());
        let mut session = None;
        let mut rows = None;
        if let Some(device) = device {
            let id = device.id()?;
            let (minted, token) = self.mint.mint(user, id.as_str(), device.refreshable, None);
            let row = NewDevice {
                user,
                device_id: id.to_string(),
                display_name: device.name(),
                created_ms: now,
                ip: Some(device.from.ip.to_string()),
                user_agent: device.from.user_agent,
            };
            rows = Some((row, token));
            session = Some((id, minted));
        }
        let account = NewAccount {
            user,
            password_hash,
            created_ms: now,
            displayname: Some(displayname),
            session: rows,
            ..account
        };
        match self.store.create_account(account).await? {
            Created::Yes => Ok(Registered { user_id, session }),
            Created::Taken => Err(taken()),
            Created::TokenSpent => {
                Err(Error::told(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", "Invalid registration token"))
            }
        }
    }

    /// Whether a registration token can be used now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn registration_token_valid(&self, token: &str) -> Result<bool> {
        Ok(self.store.registration_token(token).await?.is_some_and(|t| t.valid(self.now())))
    }
}

fn taken() -> Error {
    refused("M_USER_IN_USE", "This user name is taken")
}

fn blank() -> NewAccount {
    NewAccount {
        user: hearth_base::ids::UserNid(0),
        password_hash: None,
        admin: false,
        guest: false,
        was_guest: false,
        user_type: None,
        appservice_id: None,
        created_ms: 0,
        displayname: None,
        registration_token: None,
        consent_version: None,
        session: None,
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok())).collect()
}
