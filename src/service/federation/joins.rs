//! Going in and out of rooms with the help of other servers, both sides of it: here we help their users ([`resident`],
//! [`invited`]), there they help ours ([`through`], [`outgoing`]) (server-server API, "Joining Rooms" to "Leaving Rooms").
//!
//! A room we only heard of has a row without state (a *stub*); invites, knocks and rejections concerning it are outliers
//! with a membership row. Being *resident* is having a user joined: only then is what we know of a room's state true.

use std::{sync::Arc, time::Duration};

use hearth_base::{
    Error, Result,
    cache::Lasting,
    clock::Clock,
    ids::{RoomNid, UserNid},
    tasks::Supervisor,
};
use hearth_rules::versions::RoomVersion;
use hearth_store::{Store, intern::StateKey, rooms::Room};
use http::StatusCode;
use ruma::{OwnedRoomId, RoomId, ServerName, UserId, events::room::member::MembershipState};
use serde_json::json;

use super::{Federation, acl::Acls, outliers::Outliers, servers::Servers};
use crate::{events::Events, push::Push, server_keys::ServerKeys, state::State};

mod admitted;
mod entering;
pub(crate) mod guests;
pub mod invited;
pub mod outgoing;
pub mod resident;
mod restricted;
mod stripped;
mod template;
pub mod third_party;
pub mod through;

pub use invited::Invitation;
pub use resident::{Reply, Template};
pub use through::Went;

/// How invites of other servers are met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Nobody but administrators of this server may invite, so nobody elsewhere (`block_non_admin_invites`).
    pub block_invites: bool,
}

/// Joins, leaves, knocks and invites between servers.
pub struct Joins {
    store: Store,
    state: Arc<State>,
    events: Arc<Events>,
    outliers: Arc<Outliers>,
    acls: Arc<Acls>,
    servers: Arc<Servers>,
    federation: Arc<Federation>,
    push: Arc<Push>,
    server_keys: Arc<ServerKeys>,
    clock: Clock,
    supervisor: Supervisor,
    settings: Settings,
    /// One of us at a time goes into a room; the next finds it open.
    lanes: Lasting<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>,
}

/// Rooms with somebody at the door, remembered.
const LANES: u64 = 10_000;

impl std::fmt::Debug for Joins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Joins")
    }
}

impl Joins {
    /// Made once.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "explicit dependencies")]
    pub fn new(
        store: Store,
        state: Arc<State>,
        events: Arc<Events>,
        outliers: Arc<Outliers>,
        acls: Arc<Acls>,
        servers: Arc<Servers>,
        federation: Arc<Federation>,
        push: Arc<Push>,
        server_keys: Arc<ServerKeys>,
        clock: Clock,
        supervisor: Supervisor,
        settings: Settings,
    ) -> Self {
        let lanes = Lasting::idle(LANES, Duration::from_secs(900));
        Self {
            store,
            state,
            events,
            outliers,
            acls,
            servers,
            federation,
            push,
            server_keys,
            clock,
            supervisor,
            settings,
            lanes,
        }
    }

    /// A room that this server takes part in: one of its users is joined.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn resident(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>> {
        let Some(nid) = self.store.room_nid(room_id).await? else { return Ok(None) };
        if !self.store.is_resident(nid).await? {
            return Ok(None);
        }
        self.store.room(nid).await
    }

    /// The row of a room that we are told of, and are not in. Of one that nobody was in or invited to only
    /// the id was known.
    async fn stub(&self, room_id: OwnedRoomId, version: &RoomVersion, creator: UserNid) -> Result<RoomNid> {
        let nid = self.store.make_stub_room(room_id, version.id.clone(), creator, self.now_ms()).await?;
        let room = self.state.room_by_nid(nid).await?;
        if room.version != version.id && !self.store.has_memberships(nid).await? {
            self.store.revise_stub_room(room, version.id.clone(), creator).await?;
        }
        Ok(nid)
    }

    fn name(&self) -> &ServerName {
        self.federation.name()
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    /// What a user is in a room, by what we know.
    async fn membership_of(&self, room: &Room, user: &UserId) -> Result<(Option<UserNid>, MembershipState)> {
        // Where they stand in the room's state is what is asked next.
        let member = StateKey::new("m.room.member", user.as_str());
        self.store.look_up(&[user.to_owned()].into(), &[member].into()).await?;
        match self.store.user_nid(user).await? {
            Some(nid) => Ok((Some(nid), self.state.membership(room.nid, nid).await?)),
            None => Ok((None, MembershipState::Leave)),
        }
    }
}

/// 400 `M_INCOMPATIBLE_ROOM_VERSION`: a room version that one side does not have.
#[must_use]
pub fn incompatible(version: &str) -> Error {
    Error::told(
        StatusCode::BAD_REQUEST,
        "M_INCOMPATIBLE_ROOM_VERSION",
        format!("The room is of version {version}, which is not supported"),
    )
    .with("room_version", json!(version))
}

/// The rules of a version that another server names.
fn version_named(name: &str) -> Result<&'static RoomVersion> {
    RoomVersion::get(name).ok_or_else(|| incompatible(name))
}
