//! Logging in: what proves a person, and the session they are granted.

use std::{net::IpAddr, time::Duration};

use hearth_base::{Error, Requester, Result};
use hearth_store::{accounts::Account, devices::NewDevice, login::Redeemed};
use http::StatusCode;
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::json;

use super::{Login, random_text, token_hash, tokens::Minted};

/// Whence a login comes.
#[derive(Clone, Debug)]
pub struct From {
    /// The address.
    pub ip: IpAddr,
    /// The program.
    pub user_agent: Option<String>,
}

/// A device that wants a session.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its id, if it has one; a known one is taken over.
    pub id: Option<OwnedDeviceId>,
    /// What it calls itself.
    pub display_name: Option<String>,
    /// Whether it can refresh tokens.
    pub refreshable: bool,
    /// Whence.
    pub from: From,
}

/// Bytes of a device id at most.
const LONGEST_ID: usize = 512;
/// Characters of a device's first name that are kept.
pub const LONGEST_NAME: usize = 100;

impl Device {
    /// What it calls itself, as it is kept: cut, and without NUL.
    pub(crate) fn name(&self) -> Option<String> {
        Some(self.display_name.as_ref()?.chars().filter(|c| *c != '\0').take(LONGEST_NAME).collect())
    }

    /// The id it asked for, or a new one.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for one that is empty or far too long.
    pub fn id(&self) -> Result<OwnedDeviceId> {
        match &self.id {
            Some(id) if id.as_str().is_empty() || id.as_str().len() > LONGEST_ID || id.as_str().contains('\0') => {
                Err(Error::invalid_param("A device id has 1 to 512 bytes, and no NUL"))
            }
            Some(id) => Ok(id.clone()),
            None => Ok(random_text(10).to_uppercase().into()),
        }
    }
}

/// What proves who somebody is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A user id or localpart and a password.
    User {
        /// As typed.
        typed: String,
        /// As typed.
        password: String,
    },
    /// An e-mail address or phone number and a password.
    Threepid {
        /// `email` or `msisdn`.
        medium: String,
        /// As typed.
        address: String,
        /// As typed.
        password: String,
    },
    /// A login token.
    Token(String),
}

/// A session just granted.
#[derive(Clone, Debug)]
pub struct Granted {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Its device.
    pub device_id: OwnedDeviceId,
    /// Its tokens.
    pub minted: Minted,
}

pub(super) fn locked() -> Error {
    Error::told(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked")
        .with("soft_logout", json!(true))
}

impl Login {
    /// Proves who somebody is. Takes the same time for names nobody has.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` for a wrong name, password or token; 403 `M_USER_DEACTIVATED`; 401 `M_USER_LOCKED`; 429.
    pub async fn prove(&self, credential: Credential) -> Result<(OwnedUserId, Account)> {
        let wrong = || Error::forbidden("Invalid username or password");
        let (found, password) = match credential {
            Credential::Token(token) => return self.redeem(&token).await,
            Credential::User { typed, password } => (self.accounts.find(&typed).await?, password),
            Credential::Threepid { medium, address, password } => {
                (self.accounts.find_threepid(&medium, &address).await?, password)
            }
        };
        if !self.accounts.settings().password_login {
            return Err(Error::forbidden("One does not log in by password on this server"));
        }
        let good = self.accounts.password_matches(found.as_ref().map(|(_, a)| a), password).await?;
        let (user_id, account) = found.ok_or_else(wrong)?;
        check_open(&account)?;
        if !good {
            return Err(wrong());
        }
        if account.locked { Err(locked()) } else { Ok((user_id, account)) }
    }

    async fn redeem(&self, token: &str) -> Result<(OwnedUserId, Account)> {
        let invalid = || Error::forbidden("Invalid login token");
        let Redeemed::Yes(user) = self.store.redeem_login_token(token_hash(token), self.now()).await? else {
            return Err(invalid());
        };
        let account = self.store.account(user).await?.ok_or_else(invalid)?;
        check_open(&account)?;
        if account.locked {
            return Err(locked());
        }
        Ok((self.store.user_id(user).await?, account))
    }

    /// Opens a session for someone proved.
    ///
    /// # Errors
    /// 400 for a device id that cannot be.
    pub async fn open(&self, user_id: OwnedUserId, account: &Account, device: Device) -> Result<Granted> {
        let (user, device_id) = (account.user_nid.into(), device.id()?);
        let (minted, token) = self.mint.mint(user, device_id.as_str(), device.refreshable, None);
        let row = NewDevice {
            user,
            device_id: device_id.to_string(),
            display_name: device.name(),
            created_ms: self.now(),
            ip: Some(device.from.ip.to_string()),
            user_agent: device.from.user_agent,
        };
        self.store.log_in(row, token).await?;
        Ok(Granted { user_id, device_id, minted })
    }

    /// Opens a session for someone whose account was made by the registration that goes on here.
    ///
    /// # Errors
    /// 403 `M_USER_DEACTIVATED` and 401 `M_USER_LOCKED` if the account was closed or locked since.
    pub async fn open_registered(&self, user_id: OwnedUserId, device: Device) -> Result<Granted> {
        let nobody = || Error::forbidden("This account is not here any more");
        let nid = self.store.user_nid(&user_id).await?.ok_or_else(nobody)?;
        let account = self.store.account(nid).await?.ok_or_else(nobody)?;
        check_open(&account)?;
        if account.locked {
            return Err(locked());
        }
        self.open(user_id, &account, device).await
    }

    /// A token by which another device of the same user can log in, once and soon.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn login_token(&self, who: &Requester) -> Result<(String, Duration)> {
        let (token, lifetime) = (format!("hlt_{}", random_text(43)), self.settings.get_token_lifetime);
        self.store.add_login_token(token_hash(&token), who.user_nid, self.after(lifetime)).await?;
        Ok((token, lifetime))
    }
}

fn check_open(account: &Account) -> Result<()> {
    if account.deactivated {
        return Err(Error::told(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", "This account has been deactivated"));
    }
    Ok(())
}
