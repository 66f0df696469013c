//! What the server says: policy, one capability a file, over [`hearth_store`] and [`hearth_rules`].
//!
//! [`Services`] holds every service once. They are made in one order, in [`Services::start`], and hold only earlier
//! ones; a later one learns of an earlier one's work from rows and wake-ups, never by being called.

use std::sync::Arc;

use hearth_base::{Result, clock::Clock, tasks::Supervisor};
use hearth_rules::event::Signer;
use hearth_store::Store;
use ruma::OwnedServerName;

pub mod account_data;
pub mod accounts;
pub mod events;
pub mod history;
pub mod keys;
pub mod login;
pub mod media;
pub mod membership;
pub mod notifier;
pub mod push;
pub mod rooms;
pub mod calls;
pub mod devices;
pub mod events;
pub mod history;
pub mod login;
pub mod membership;
pub mod notifier;
pub mod rooms;
pub mod server_keys;
pub mod state;
pub mod sync;

use account_data::AccountData;
use accounts::Accounts;
use events::Events;
use history::History;
use keys::Keys;
use login::Login;
use membership::Membership;
use notifier::Notifier;
use push::Push;
use rooms::Rooms;
use state::State;
use sync::Sync;
use to_device::ToDevice;
use calls::Calls;
use devices::Devices;
use login::{Login, tokens::Mint};
use server_keys::ServerKeys;

/// How the services are to behave: each capability's own settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name, the part after the colon.
    pub server_name: OwnedServerName,
    /// Where clients reach us, with `/` at the end; for links that we hand out.
    pub public_baseurl: Option<String>,
    /// What we sign with; `None` has a key made for this run, as tests want it.
    pub signer: Option<Arc<Signer>>,
    /// Our signing key.
    pub server_keys: server_keys::Settings,
    /// Accounts and passwords.
    pub accounts: accounts::Settings,
    /// Sessions and tokens.
    pub login: login::Settings,
    /// Keys.
    pub keys: keys::Settings,
    /// Messages from device to device.
    pub to_device: to_device::Settings,
    /// Account data and filters.
    pub account_data: account_data::Settings,
    /// Push rules and unread counts.
    pub push: push::Settings,
    /// Membership of rooms.
    pub membership: membership::Settings,
    /// New rooms.
    pub rooms: rooms::Settings,
    /// What /sync shows.
    pub sync: sync::Settings,
    /// New rooms.
    pub rooms: rooms::Settings,
    /// Calls.
    pub calls: calls::Settings,
}

impl Settings {
    /// The usual settings of a server of this name, with a signing key made just now.
    #[must_use]
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            public_baseurl: None,
            signer: None,
            accounts: accounts::Settings::default(),
            login: login::Settings::default(),
            keys: keys::Settings::default(),
            to_device: to_device::Settings::default(),
            account_data: account_data::Settings::default(),
            push: push::Settings::default(),
            membership: membership::Settings::default(),
            rooms: rooms::Settings::default(),
            sync: sync::Settings::default(),
            server_keys: server_keys::Settings::generate(),
            accounts: accounts::Settings::default(),
            login: login::Settings::default(),
            rooms: rooms::Settings::default(),
            calls: calls::Settings::default(),
        }
    }
}

/// Every service once, in the order in which they are made.
pub struct Services {
    /// How they behave.
    pub settings: Settings,
    /// Our disk.
    pub store: Store,
    /// What time it is.
    pub clock: Clock,
    /// Who runs what must outlive a request.
    pub supervisor: Supervisor,
    /// Our signing key.
    pub server_keys: Arc<ServerKeys>,
    /// Accounts and passwords.
    pub accounts: Arc<Accounts>,
    /// Sessions and tokens.
    pub login: Arc<Login>,
    /// Who waits for what.
    pub notifier: Arc<Notifier>,
    /// Keys of devices and users, backups.
    pub keys: Arc<Keys>,
    /// Messages from device to device.
    pub to_device: Arc<ToDevice>,
    /// What users keep with us.
    pub account_data: Arc<AccountData>,
    /// Push rules and unread counts.
    pub push: Arc<Push>,
    /// What a room is like.
    pub state: Arc<State>,
    /// Sending and redacting.
    pub events: Arc<Events>,
    /// Who is in which room.
    pub membership: Arc<Membership>,
    /// New rooms.
    pub rooms: Arc<Rooms>,
    /// What was said.
    pub history: Arc<History>,
    /// What is new.
    pub sync: Arc<Sync>,
    /// Devices of users.
    pub devices: Arc<Devices>,
    /// Calls.
    pub calls: Arc<Calls>,
}

impl Services {
    /// Makes all services and starts their tasks.
    ///
    /// # Errors
    /// If one cannot read what it needs to begin.
    pub async fn start(settings: Settings, store: Store, clock: Clock, supervisor: Supervisor) -> Result<Arc<Self>> {
        let name = settings.server_name.clone();
        let signer = match &settings.signer {
            Some(signer) => signer.clone(),
            None => Arc::new(Signer::new(name.clone(), &rand::random(), "auto")?),
        };
        let disk = || store.clone();
        let time = || clock.clone();
        let notifier = Notifier::new(disk(), name.clone(), supervisor.clone());
        let accounts = Arc::new(Accounts::new(name.clone(), settings.accounts.clone(), disk(), time()));
        let login = Login::new(name.clone(), settings.login.clone(), disk(), time(), accounts.clone());
        let login = Arc::new(login);
        let keys = Keys::new(disk(), name.clone(), settings.keys.clone(), time(), supervisor.clone());
        let keys = Arc::new(keys);
        let to_device = Arc::new(ToDevice::new(disk(), name.clone(), settings.to_device.clone(), time()));
        let account_data = Arc::new(AccountData::new(disk(), settings.account_data.clone()));
        let state = Arc::new(State::new(disk()));
        let push = Arc::new(Push::new(disk(), name, time(), settings.push.clone()));
        let events = Events::new(disk(), state.clone(), push.clone(), signer, time(), supervisor.clone());
        let events = Arc::new(events);
        let membership = Membership::new(disk(), state.clone(), events.clone(), time(), settings.membership.clone());
        let membership = Arc::new(membership);
        let rooms = Rooms::new(disk(), events.clone(), membership.clone(), time(), settings.rooms.clone());
        let rooms = Arc::new(rooms);
        let history = Arc::new(History::new(disk(), state.clone(), time()));
        let sync = Arc::new(Sync {
            store: disk(),
            state: state.clone(),
            history: history.clone(),
            notifier: notifier.clone(),
            account_data: account_data.clone(),
            push: push.clone(),
            keys: keys.clone(),
            to_device: to_device.clone(),
            settings: settings.sync.clone(),
        });
        let counting = push.clone();
        notifier.listen(vec![Box::new(move |logged| counting.on_change(logged))]);
        login.start(&supervisor);
        Ok(Arc::new(Self {
            settings,
            store,
            clock,
            supervisor,
            accounts,
            login,
            notifier,
            keys,
            to_device,
            account_data,
            push,
            state,
            events,
            membership,
            rooms,
            history,
            sync,
        }))
        let mint = Mint::new(settings.login.lifetimes.clone(), clock.clone());
        let server_keys = Arc::new(ServerKeys::new(&name, settings.server_keys.clone(), clock.clone())?);
        let accounts =
            Arc::new(Accounts::new(name, settings.accounts.clone(), store.clone(), clock.clone(), mint.clone()));
        let login =
            Arc::new(Login::new(settings.login.clone(), store.clone(), clock.clone(), mint, accounts.clone()));
        login.start(&supervisor);
        let devices = Arc::new(Devices::new(store.clone()));
        let calls = Arc::new(Calls::new(settings.calls.clone(), clock.clone()));
        Ok(Arc::new(Self { settings, store, clock, supervisor, server_keys, accounts, login, devices, calls }))
    }
}
pub mod to_device;
