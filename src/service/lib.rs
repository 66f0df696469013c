//! What the server says: policy, one capability a file, over [`hearth_store`] and [`hearth_rules`].
//!
//! [`Services`] holds every service once. They are made in one order, in [`Services::start`], and hold only earlier
//! ones; a later one learns of an earlier one's work from rows and wake-ups, never by being called.

use std::sync::Arc;

use hearth_base::{Result, clock::Clock, tasks::Supervisor};
use hearth_rules::event::Signer;
use hearth_store::Store;
use ruma::OwnedServerName;

pub mod accounts;
pub mod account_data;
pub mod events;
pub mod history;
pub mod login;
pub mod media;
pub mod keys;
pub mod membership;
pub mod notifier;
pub mod rooms;
pub mod profile;
pub mod push;
pub mod receipts;
pub mod state;
pub mod sync;
pub mod typing;

use accounts::Accounts;
use events::Events;
use history::History;
use login::Login;
use membership::Membership;
use notifier::Notifier;
use rooms::Rooms;
use state::State;
use sync::Sync;

/// How the services are to behave: each capability's own settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name, the part after the colon.
    pub server_name: OwnedServerName,
    /// Where clients reach us, with `/` at the end; for links that we hand out.
    pub public_baseurl: Option<String>,
    /// What we sign with; `None` has a key made for this run, as tests want it.
    pub signer: Option<Arc<Signer>>,
    /// Accounts and passwords.
    pub accounts: accounts::Settings,
    /// Sessions and tokens.
    pub login: login::Settings,
    /// Membership of rooms.
    pub membership: membership::Settings,
    /// New rooms.
    pub rooms: rooms::Settings,
    /// What /sync shows.
    pub sync: sync::Settings,
}

impl Settings {
    /// The usual settings of a server of this name.
    #[must_use]
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            public_baseurl: None,
            signer: None,
            accounts: accounts::Settings::default(),
            login: login::Settings::default(),
            membership: membership::Settings::default(),
            rooms: rooms::Settings::default(),
            sync: sync::Settings::default(),
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
    /// Accounts and passwords.
    pub accounts: Arc<Accounts>,
    /// Sessions and tokens.
    pub login: Arc<Login>,
    /// Who waits for what.
    pub notifier: Arc<Notifier>,
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
        let notifier = Notifier::new(store.clone(), name.clone(), supervisor.clone());
        let accounts = Arc::new(Accounts::new(name.clone(), settings.accounts.clone(), store.clone(), clock.clone()));
        let login = Arc::new(Login::new(name, settings.login.clone(), store.clone(), clock.clone(), accounts.clone()));
        let state = Arc::new(State::new(store.clone()));
        let events = Arc::new(Events::new(store.clone(), state.clone(), signer, clock.clone(), supervisor.clone()));
        let membership = Arc::new(Membership::new(
            store.clone(),
            state.clone(),
            events.clone(),
            clock.clone(),
            settings.membership.clone(),
        ));
        let rooms = Arc::new(Rooms::new(
            store.clone(),
            events.clone(),
            membership.clone(),
            clock.clone(),
            settings.rooms.clone(),
        ));
        let history = Arc::new(History::new(store.clone(), state.clone(), clock.clone()));
        let sync =
            Arc::new(Sync::new(store.clone(), state.clone(), history.clone(), notifier.clone(), settings.sync.clone()));
        login.start(&supervisor);
        Ok(Arc::new(Self {
            settings,
            store,
            clock,
            supervisor,
            accounts,
            login,
            notifier,
            state,
            events,
            membership,
            rooms,
            history,
            sync,
        }))
    }
}
pub mod to_device;
