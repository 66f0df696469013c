//! The devices of a user, seen and managed by their owner.

use hearth_base::{Error, OrNotFound, Requester, Result};
use hearth_store::Store;
pub use hearth_store::devices::Device;
use ruma::{DeviceId, UserId};

use crate::login::grant::LONGEST_NAME;

pub mod to_device;

/// Devices.
#[derive(Debug)]
pub struct Devices {
    store: Store,
}

impl Devices {
    /// The service over this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// All devices of the requester, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn list(&self, who: &Requester) -> Result<Vec<Device>> {
        self.store.devices(who.user_nid).await
    }

    /// One of them.
    ///
    /// # Errors
    /// 404 if it is not theirs.
    pub async fn get(&self, who: &Requester, device: &DeviceId) -> Result<Device> {
        self.store.device(who.user_nid, device.as_str()).await?.or_not_found("Device")
    }

    /// The devices of any user of this server, for administrators and the user.
    ///
    /// # Errors
    /// 403 for others, 404 if there is no such user.
    pub async fn whois(&self, who: &Requester, user: &UserId) -> Result<Vec<Device>> {
        if who.user_id != *user && !who.is_admin {
            return Err(Error::forbidden("You are not a server admin"));
        }
        let nid = self.store.user_nid(user).await?.or_not_found("User")?;
        self.store.account(nid).await?.or_not_found("User")?;
        self.store.devices(nid).await
    }

    /// Calls one of them by another name; no name given changes nothing.
    ///
    /// # Errors
    /// 404 if it is not theirs, 400 `M_TOO_LARGE` for a name of more than 100 characters.
    pub async fn rename(&self, who: &Requester, device: &DeviceId, name: Option<String>) -> Result<()> {
        let Some(name) = name else { return self.get(who, device).await.map(drop) };
        if name.chars().count() > LONGEST_NAME {
            let why = format!("A device's name has {LONGEST_NAME} characters at most");
            return Err(Error::told(http::StatusCode::BAD_REQUEST, "M_TOO_LARGE", why));
        }
        let name = name.replace('\0', "");
        let done = self.store.rename_device(who.user_nid, device.to_string(), Some(name)).await?;
        done.then_some(()).or_not_found("Device")
    }

    /// Deletes some of them, with their sessions, keys and waiting messages. Those that are gone already are no error.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete(&self, who: &Requester, devices: Vec<String>) -> Result<()> {
        self.store.delete_devices(who.user_nid, devices).await
    }
}
