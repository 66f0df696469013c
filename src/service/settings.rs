//! How the services are to behave: each capability's own settings, in one place.

use ruma::OwnedServerName;

use crate::{
    account_data, accounts, calls, devices, directory,
    federation::{self, gate, outbox},
    keys, login, media, membership, presence, profile, push, rooms, server_keys, sync,
};

/// How the services are to behave: each capability's own settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name, the part after the colon.
    pub server_name: OwnedServerName,
    /// Where clients reach us, with `/` at the end; for links that we hand out.
    pub public_baseurl: Option<String>,
    /// Our signing key, and whose word we take about those of others.
    pub server_keys: server_keys::Settings,
    /// Other servers.
    pub federation: federation::Settings,
    /// Accounts and passwords.
    pub accounts: accounts::Settings,
    /// Sessions and tokens.
    pub login: login::Settings,
    /// Keys of devices and users.
    pub keys: keys::Settings,
    /// Messages from device to device.
    pub to_device: devices::to_device::Settings,
    /// Account data and filters.
    pub account_data: account_data::Settings,
    /// Push rules and unread counts.
    pub push: push::Settings,
    /// Aliases, published rooms, the search for users.
    pub directory: directory::Settings,
    /// Membership of rooms.
    pub membership: membership::Settings,
    /// New rooms.
    pub rooms: rooms::Settings,
    /// Profiles.
    pub profile: profile::Settings,
    /// Presence.
    pub presence: presence::Settings,
    /// What /sync shows.
    pub sync: sync::Settings,
    /// How much another server may ask of us.
    pub gate: gate::Settings,
    /// Transactions to other servers.
    pub outbox: outbox::Settings,
    /// Calls.
    pub calls: calls::Settings,
    /// Media.
    pub media: media::Settings,
}

impl Settings {
    /// The usual settings of a server of this name, with a signing key made just now.
    #[must_use]
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            public_baseurl: None,
            server_keys: server_keys::Settings::generate(),
            federation: federation::Settings::default(),
            accounts: accounts::Settings::default(),
            login: login::Settings::default(),
            keys: keys::Settings::default(),
            to_device: devices::to_device::Settings::default(),
            account_data: account_data::Settings::default(),
            push: push::Settings::default(),
            directory: directory::Settings::default(),
            membership: membership::Settings::default(),
            rooms: rooms::Settings::default(),
            profile: profile::Settings::default(),
            presence: presence::Settings::default(),
            sync: sync::Settings::default(),
            gate: gate::Settings::default(),
            outbox: outbox::Settings::default(),
            calls: calls::Settings::default(),
            media: media::Settings::default(),
            server_name,
        }
    }
}
