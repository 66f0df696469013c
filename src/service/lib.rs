//! What the server says: policy, one capability a file, over [`hearth_store`] and [`hearth_rules`].
//!
//! [`Services`] holds every service once. They are made in one order, in [`Services::start`], and hold only earlier
//! ones; a later one learns of an earlier one's work from rows and wake-ups, never by being called.

use std::sync::Arc;

use hearth_base::{Result, clock::Clock, tasks::Supervisor};
use hearth_store::Store;
use ruma::OwnedServerName;

pub mod accounts;
pub mod calls;
pub mod devices;
pub mod directory;
pub mod events;
pub mod history;
pub mod login;
pub mod membership;
pub mod notifier;
pub mod reports;
pub mod rooms;
pub mod server_keys;
pub mod state;
pub mod sync;

use accounts::Accounts;
use calls::Calls;
use devices::Devices;
use directory::Directory;
use events::Events;
use history::History;
use login::{Login, tokens::Mint};
use membership::Membership;
use notifier::Notifier;
use reports::Reports;
use rooms::Rooms;
use server_keys::ServerKeys;
use state::State;
use sync::Sync;

/// How the services are to behave: each capability's own settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name, the part after the colon.
    pub server_name: OwnedServerName,
    /// Where clients reach us, with `/` at the end; for links that we hand out.
    pub public_baseurl: Option<String>,
    /// Our signing key.
    pub server_keys: server_keys::Settings,
    /// Accounts and passwords.
    pub accounts: accounts::Settings,
    /// Sessions and tokens.
    pub login: login::Settings,
    /// Aliases, published rooms, the search for users.
    pub directory: directory::Settings,
    /// Changes of membership.
    pub membership: membership::Settings,
    /// New rooms.
    pub rooms: rooms::Settings,
    /// Syncing.
    pub sync: sync::Settings,
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
            server_keys: server_keys::Settings::generate(),
            accounts: accounts::Settings::default(),
            login: login::Settings::default(),
            directory: directory::Settings::default(),
            membership: membership::Settings::default(),
            rooms: rooms::Settings::default(),
            sync: sync::Settings::default(),
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
    /// Who waits for what.
    pub notifier: Arc<Notifier>,
    /// Our signing key.
    pub server_keys: Arc<ServerKeys>,
    /// Accounts and passwords.
    pub accounts: Arc<Accounts>,
    /// Sessions and tokens.
    pub login: Arc<Login>,
    /// Devices of users.
    pub devices: Arc<Devices>,
    /// State of rooms.
    pub state: Arc<State>,
    /// Single events.
    pub events: Arc<Events>,
    /// Aliases, published rooms, the search for users.
    pub directory: Arc<Directory>,
    /// Who is in which room.
    pub membership: Arc<Membership>,
    /// Rooms made and replaced.
    pub rooms: Arc<Rooms>,
    /// Rooms read.
    pub history: Arc<History>,
    /// Reports to administrators.
    pub reports: Arc<Reports>,
    /// What changed for a user.
    pub sync: Arc<Sync>,
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
        let notifier = Notifier::new(store.clone(), name.clone(), supervisor.clone());
        let mint = Mint::new(settings.login.lifetimes.clone(), clock.clone());
        let server_keys = Arc::new(ServerKeys::new(&name, settings.server_keys.clone(), clock.clone())?);
        let accounts =
            Arc::new(Accounts::new(name, settings.accounts.clone(), store.clone(), clock.clone(), mint.clone()));
        let login =
            Arc::new(Login::new(settings.login.clone(), store.clone(), clock.clone(), mint, accounts.clone()));
        login.start(&supervisor);
        let devices = Arc::new(Devices::new(store.clone()));
        let calls = Arc::new(Calls::new(settings.calls.clone(), clock.clone()));
        let state = Arc::new(State::new(store.clone()));
        let signer = server_keys.signer().clone();
        let events =
            Arc::new(Events::new(store.clone(), state.clone(), signer, clock.clone(), supervisor.clone()));
        let directory =
            Arc::new(Directory::new(store.clone(), state.clone(), events.clone(), settings.directory.clone()));
        let membership = Arc::new(Membership::new(
            store.clone(),
            state.clone(),
            events.clone(),
            clock.clone(),
            settings.membership.clone(),
        ));
        let rooms = Arc::new(Rooms::new(
            store.clone(),
            state.clone(),
            events.clone(),
            directory.clone(),
            membership.clone(),
            clock.clone(),
            settings.rooms.clone(),
        ));
        let history = Arc::new(History::new(store.clone(), state.clone(), clock.clone()));
        let reports = Arc::new(Reports::new(store.clone(), history.clone(), clock.clone()));
        let sync = Arc::new(Sync::new(
            store.clone(),
            state.clone(),
            history.clone(),
            notifier.clone(),
            settings.sync.clone(),
        ));
        Ok(Arc::new(Self {
            settings,
            store,
            clock,
            supervisor,
            notifier,
            server_keys,
            accounts,
            login,
            devices,
            state,
            events,
            directory,
            membership,
            rooms,
            history,
            reports,
            sync,
            calls,
        }))
    }
}
