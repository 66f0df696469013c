//! What the server says: policy, one capability a file, over [`hearth_store`] and [`hearth_rules`].
//!
//! [`Services`] holds every service once. They are made in one order, in [`Services::start`], and hold only earlier
//! ones; a later one learns of an earlier one's work from rows and wake-ups, never by being called.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hearth_base::{Result, clock::Clock, tasks::Supervisor};
use hearth_store::Store;

pub mod account_data;
pub mod accounts;
pub mod calls;
pub mod devices;
pub mod directory;
pub mod events;
pub mod federation;
pub mod history;
pub mod keys;
pub mod login;
pub mod media;
pub mod membership;
pub mod notifier;
pub mod presence;
pub mod profile;
pub mod push;
pub mod receipts;
pub mod relations;
pub mod reports;
pub mod rooms;
pub mod server_keys;
pub mod settings;
pub mod state;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod typing;
pub mod upkeep;

use account_data::AccountData;
use accounts::Accounts;
use calls::Calls;
use devices::{Devices, to_device::ToDevice};
use directory::Directory;
use events::Events;
use federation::{
    Federation,
    acl::Acls,
    answers::Answers,
    backfill::{self, Backfill},
    completion::{self, Completion},
    edus::{self, Edus, device_lists::DeviceLists},
    gate::Gate,
    inbox::Inbox,
    joins::Joins,
    outbox::{self, Outbox},
    outliers::Outliers,
    policy::Policy,
    servers::Servers,
    transactions::Transactions,
};
use history::History;
use keys::Keys;
use login::{Login, tokens::Mint};
use media::{Media, previews::Previews};
use membership::Membership;
use notifier::Notifier;
use presence::Presence;
use profile::Profile;
use push::{Notified, Push};
use receipts::Receipts;
use relations::Relations;
use reports::Reports;
use rooms::Rooms;
use server_keys::ServerKeys;
pub use settings::Settings;
use state::State;
use sync::{Sources, Sync};
use typing::Typing;

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
    /// Other servers: who may be called, and the calls.
    pub federation: Arc<Federation>,
    /// Events that others name.
    pub outliers: Arc<Outliers>,
    /// Events of other servers.
    pub inbox: Arc<Inbox>,
    /// Our signing key, and those of others.
    pub server_keys: Arc<ServerKeys>,
    /// Accounts and passwords.
    pub accounts: Arc<Accounts>,
    /// Sessions and tokens.
    pub login: Arc<Login>,
    /// Devices of users.
    pub devices: Arc<Devices>,
    /// Keys of devices and users, backups.
    pub keys: Arc<Keys>,
    /// Messages from device to device.
    pub to_device: Arc<ToDevice>,
    /// What users keep with us.
    pub account_data: Arc<AccountData>,
    /// What a room is like.
    pub state: Arc<State>,
    /// What other servers read of our rooms.
    pub answers: Arc<Answers>,
    /// Push rules and unread counts.
    pub push: Arc<Push>,
    /// Sending and redacting.
    pub events: Arc<Events>,
    /// Aliases, published rooms, the search for users.
    pub directory: Arc<Directory>,
    /// Going in and out of rooms with the help of other servers.
    pub joins: Arc<Joins>,
    /// New rooms.
    pub rooms: Arc<Rooms>,
    /// Who is in which room.
    pub membership: Arc<Membership>,
    /// What was said.
    pub history: Arc<History>,
    /// What users were notified of.
    pub notified: Arc<Notified>,
    /// Edits, reactions, threads.
    pub relations: Arc<Relations>,
    /// Reports to administrators.
    pub reports: Arc<Reports>,
    /// What people say of themselves.
    pub profile: Arc<Profile>,
    /// Files.
    pub media: Arc<Media>,
    /// Previews of links.
    pub previews: Arc<Previews>,
    /// What has been read.
    pub receipts: Arc<Receipts>,
    /// Who is typing.
    pub typing: Arc<Typing>,
    /// Who is here.
    pub presence: Arc<Presence>,
    /// Which servers are in which rooms.
    pub servers: Arc<Servers>,
    /// Which servers rooms keep out.
    pub acls: Arc<Acls>,
    /// How much another server may ask of us.
    pub gate: Arc<Gate>,
    /// What other servers send.
    pub transactions: Arc<Transactions>,
    /// What other servers are owed.
    pub outbox: Arc<Outbox>,
    /// Calls.
    pub calls: Arc<Calls>,
    /// What is new.
    pub sync: Arc<Sync>,
}

impl Services {
    /// Makes all services and starts their tasks. Boxed here, or all that the tasks do were compiled again in each crate
    /// that starts them.
    ///
    /// # Errors
    /// If one cannot read what it needs to begin.
    pub fn start(
        settings: Settings,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
    ) -> BoxFuture<'static, Result<Arc<Self>>> {
        Box::pin(Self::made(settings, store, clock, supervisor))
    }

    async fn made(settings: Settings, store: Store, clock: Clock, supervisor: Supervisor) -> Result<Arc<Self>> {
        let name = settings.server_name.clone();
        let disk = || store.clone();
        let time = || clock.clone();
        let notifier = Notifier::new(disk(), name.clone(), supervisor.clone());
        let signer = Arc::new(settings.server_keys.signer(name.clone())?);
        let federation = Federation::new(settings.federation.clone(), signer.clone(), disk(), time())?;
        let federation = Arc::new(federation);
        let server_keys = ServerKeys::new(
            signer.clone(),
            settings.server_keys.clone(),
            federation.clone(),
            disk(),
            time(),
            supervisor.clone(),
        )?;
        let server_keys = Arc::new(server_keys);
        let mint = Mint::new(settings.login.lifetimes.clone(), time());
        let accounts = Accounts::new(name.clone(), settings.accounts.clone(), disk(), time(), mint.clone());
        let accounts = Arc::new(accounts);
        let login = Arc::new(Login::new(settings.login.clone(), disk(), time(), mint, accounts.clone()));
        let devices = Arc::new(Devices::new(disk()));
        let device_lists = DeviceLists::new(disk(), federation.clone());
        let (lists, own) = (device_lists.clone(), settings.keys.clone());
        let keys = Keys::new(disk(), federation.clone(), lists, own, time(), supervisor.clone());
        let keys = Arc::new(keys);
        let to_device = Arc::new(ToDevice::new(disk(), name.clone(), settings.to_device.clone(), time()));
        let account_data = Arc::new(AccountData::new(disk(), settings.account_data.clone()));
        let state = Arc::new(State::new(disk()));
        let acls = Arc::new(Acls::new(disk()));
        let servers = Arc::new(Servers::new(disk(), name.clone()));
        let answers = Answers::new(disk(), state.clone(), name.clone(), acls.clone(), servers.clone(), time());
        let answers = Arc::new(answers);
        let push = Arc::new(Push::new(disk(), name.clone(), time(), settings.push.clone()));
        let policy = Arc::new(Policy::new(disk(), federation.clone(), servers.clone()).await?);
        let events =
            Events::new(disk(), state.clone(), push.clone(), policy.clone(), signer, time(), supervisor.clone());
        let events = Arc::new(events);
        let outliers = Arc::new(Outliers::new(disk(), server_keys.clone()));
        let directory = Directory::new(
            disk(),
            federation.clone(),
            servers.clone(),
            state.clone(),
            events.clone(),
            settings.directory.clone(),
        );
        let directory = Arc::new(directory);
        let joins = Joins::new(
            disk(),
            state.clone(),
            events.clone(),
            outliers.clone(),
            acls.clone(),
            servers.clone(),
            federation.clone(),
            push.clone(),
            server_keys.clone(),
            time(),
            supervisor.clone(),
            federation::joins::Settings { block_invites: settings.membership.block_non_admin_invites },
        );
        let joins = Arc::new(joins);
        let inbox = Arc::new(Inbox::new(
            disk(),
            events.clone(),
            server_keys.clone(),
            federation.clone(),
            outliers.clone(),
            acls.clone(),
            joins.clone(),
            servers.clone(),
            policy,
            time(),
        ));
        let parts = completion::Parts {
            state: state.clone(),
            events: events.clone(),
            inbox: inbox.clone(),
            servers: servers.clone(),
            federation: federation.clone(),
            server_keys: server_keys.clone(),
        };
        let completion = Completion::new(disk(), parts, time(), settings.federation.completion);
        let membership = Membership::new(
            disk(),
            state.clone(),
            events.clone(),
            joins.clone(),
            account_data.clone(),
            push.clone(),
            directory.clone(),
            time(),
            supervisor.clone(),
            settings.membership.clone(),
        )?;
        let membership = Arc::new(membership);
        let rooms = Rooms::new(
            disk(),
            state.clone(),
            rooms::Sources {
                events: events.clone(),
                directory: directory.clone(),
                membership: membership.clone(),
                answers: answers.clone(),
                federation: federation.clone(),
            },
            time(),
            settings.rooms.clone(),
        );
        let rooms = Arc::new(rooms);
        let parts = backfill::Parts {
            state: state.clone(),
            inbox: inbox.clone(),
            federation: federation.clone(),
            servers: servers.clone(),
        };
        let backfill = Backfill::new(disk(), parts, time(), supervisor.clone(), settings.federation.backfill);
        let history = Arc::new(History::new(disk(), state.clone(), account_data.clone(), Some(backfill), time()));
        let notified = Arc::new(Notified::new(disk(), state.clone(), push.clone(), history.clone()));
        let relations = Arc::new(Relations::new(disk(), history.clone()));
        let reports = Arc::new(Reports::new(disk(), history.clone(), time()));
        let media =
            Media::new(name.clone(), settings.media.clone(), federation.clone(), disk(), time(), supervisor.clone());
        let media = Arc::new(media);
        media.start(&supervisor);
        let (own, authenticated) = (settings.media.previews.clone(), settings.media.authenticated_media);
        let previews = Previews::new(name.clone(), own, authenticated, disk(), time(), supervisor.clone())?;
        let previews = Arc::new(previews);
        previews.start(&supervisor);
        let profile =
            Profile::new(disk(), federation.clone(), membership.clone(), supervisor.clone(), settings.profile.clone());
        let profile = Arc::new(profile);
        let receipts = Arc::new(Receipts::new(disk(), history.clone(), time()));
        let typing = Typing::new(disk(), notifier.clone(), time(), &supervisor);
        let presence = Presence::new(disk(), notifier.clone(), time(), settings.presence.clone(), &supervisor);
        presence.remember().await?;
        let parts = edus::Parts {
            acls: acls.clone(),
            typing: typing.clone(),
            presence: presence.clone(),
            receipts: receipts.clone(),
            to_device: to_device.clone(),
            device_lists: device_lists.clone(),
            servers: servers.clone(),
        };
        let edus = Arc::new(Edus::new(disk(), name.clone(), parts));
        let transactions = Transactions::new(edus, inbox.clone(), supervisor.clone());
        let gate = Arc::new(Gate::new(settings.gate, time(), supervisor.clone()));
        let parts = outbox::Parts {
            servers: servers.clone(),
            keys: keys.clone(),
            typing: typing.clone(),
            presence: presence.clone(),
        };
        let outbox =
            Outbox::new(disk(), name.clone(), parts, federation.clone(), time(), supervisor.clone(), settings.outbox);
        let calls = Arc::new(Calls::new(settings.calls.clone(), time()));
        let sync = Arc::new(Sync::new(
            disk(),
            state.clone(),
            history.clone(),
            notifier.clone(),
            Sources {
                account_data: account_data.clone(),
                push: push.clone(),
                keys: keys.clone(),
                to_device: to_device.clone(),
                receipts: receipts.clone(),
                typing: typing.clone(),
                presence: presence.clone(),
            },
            settings.sync.clone(),
        ));
        notifier.listen(vec![
            notifier::weakly(&state, State::on_change),
            // Before the outbox, which asks it.
            notifier::weakly(&servers, Servers::on_change),
            notifier::weakly(&device_lists, DeviceLists::on_change),
            notifier::weakly(&outbox, Outbox::on_change),
            notifier::weakly(&push, Push::on_change),
            notifier::weakly(&typing, Typing::on_change),
            notifier::weakly(&presence, Presence::on_change),
            notifier::weakly(&membership, Membership::on_change),
        ]);
        login.start(&supervisor);
        membership.start(&supervisor);
        device_lists.start(&supervisor);
        completion.start(&supervisor);
        inbox.start(&supervisor);
        outbox.start().await?;
        Ok(Arc::new(Self {
            settings,
            store,
            clock,
            supervisor,
            notifier,
            federation,
            outliers,
            inbox,
            server_keys,
            accounts,
            login,
            devices,
            keys,
            to_device,
            account_data,
            state,
            answers,
            push,
            events,
            rooms,
            directory,
            joins,
            membership,
            history,
            notified,
            relations,
            reports,
            profile,
            media,
            previews,
            receipts,
            typing,
            presence,
            servers,
            acls,
            gate,
            transactions,
            outbox,
            calls,
            sync,
        }))
    }
}
