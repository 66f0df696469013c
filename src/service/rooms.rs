//! Rooms: made, replaced by newer ones, told of to those who are not in them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth_base::{
    Error, Requester, Result,
    cache::{Cache, Lasting},
    clock::Clock,
    ids::{RoomNid, SnapNid},
};
use hearth_rules::versions::RoomVersion;
use hearth_store::Store;
use ruma::{OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId, events::room::member::MembershipState};
use serde_json::{Map, Value};

use crate::{
    directory::{Directory, Summary},
    events::Events,
    federation::{Federation, answers::Answers},
    membership::Membership,
    state::State,
};

mod create;
mod hierarchy;
mod upgrade;

pub use create::{Created, NewRoom};
pub use hierarchy::Hierarchy;
use hierarchy::elsewhere::{Budget, Elsewhere};

/// How rooms are made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Version of new rooms when the client asks for none.
    pub default_version: RoomVersionId,
    /// Presets whose rooms are encrypted from the start (`encryption_enabled_by_default_for_room_type`).
    pub encrypted_presets: Vec<Preset>,
    /// Keys to put over the default power levels, by preset (`default_power_level_content_override`).
    pub power_level_overrides: Vec<(Preset, Map<String, Value>)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { default_version: RoomVersionId::V12, encrypted_presets: Vec::new(), power_level_overrides: Vec::new() }
    }
}

/// A bundle of initial state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// `private_chat`
    Private,
    /// `trusted_private_chat`
    TrustedPrivate,
    /// `public_chat`
    Public,
}

impl Preset {
    /// The preset of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "private_chat" => Some(Self::Private),
            "trusted_private_chat" => Some(Self::TrustedPrivate),
            "public_chat" => Some(Self::Public),
            _ => None,
        }
    }
}

/// Makes rooms.
#[derive(Debug)]
pub struct Rooms {
    store: Store,
    state: Arc<State>,
    events: Arc<Events>,
    directory: Arc<Directory>,
    membership: Arc<Membership>,
    server_name: OwnedServerName,
    clock: Clock,
    settings: Settings,
    /// One at a time replaces a room; the next finds it replaced.
    upgrades: Lasting<RoomNid, Arc<tokio::sync::Mutex<()>>>,
    /// When the newest room was made, ms.
    newest_ms: AtomicU64,
    /// Children of spaces, by their state.
    children: Cache<SnapNid, Arc<Vec<hierarchy::Child>>>,
    answers: Arc<Answers>,
    elsewhere: Elsewhere,
}

/// Whom rooms are made and told of with.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Sends the events of new rooms.
    pub events: Arc<Events>,
    /// Knows aliases and summaries.
    pub directory: Arc<Directory>,
    /// Moves users from a room to its successor.
    pub membership: Arc<Membership>,
    /// Knows which servers are in which rooms.
    pub answers: Arc<Answers>,
    /// Asks other servers.
    pub federation: Arc<Federation>,
}

/// Rooms that are being replaced, remembered.
const UPGRADES: u64 = 1_000;
/// Spaces whose children are remembered.
const SPACES: u64 = 1_000;

impl Rooms {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, state: Arc<State>, sources: Sources, clock: Clock, settings: Settings) -> Self {
        let Sources { events, directory, membership, answers, federation } = sources;
        let server_name = events.signer().server_name().to_owned();
        Self {
            store,
            state,
            events,
            directory,
            membership,
            server_name,
            clock,
            settings,
            upgrades: Lasting::idle(UPGRADES, Duration::from_secs(900)),
            newest_ms: AtomicU64::new(0),
            children: Cache::new(SPACES),
            answers,
            elsewhere: Elsewhere::new(federation),
        }
    }

    /// A time for a new room, ms: now, but no two alike. Since version 12 a room is named by the hash of its create
    /// event, and two of the same making in the same millisecond would be the same room.
    fn birth_ms(&self) -> u64 {
        let now = self.clock.now_ms();
        let before = self.newest_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(now.max(last + 1)));
        now.max(before.unwrap_or(0) + 1)
    }

    /// Version of new rooms when the client asks for none.
    #[must_use]
    pub fn default_version(&self) -> &RoomVersionId {
        &self.settings.default_version
    }

    /// What is told of a room to somebody, and what they are in it. Of a room that is not here, the servers `via` are
    /// asked for those who have authenticated.
    ///
    /// # Errors
    /// 404 if there is no such room, or none that they may hear of.
    pub async fn summary(
        &self,
        who: Option<&Requester>,
        room: &RoomOrAliasId,
        via: &[OwnedServerName],
    ) -> Result<(Arc<Summary>, Option<MembershipState>)> {
        let missing = || Error::not_found("Room not found");
        let mut via = via.to_vec();
        let room_id = match <&RoomId>::try_from(room) {
            Ok(room_id) => room_id.to_owned(),
            Err(alias) => {
                let (room_id, servers) = self.directory.resolve(alias).await?;
                via.extend(servers);
                room_id
            }
        };
        via.extend(room_id.server_name().map(ToOwned::to_owned));
        let nid = self.store.room_nid(&room_id).await?;
        let is_here = match nid {
            Some(nid) => self.store.is_resident(nid).await?,
            None => false,
        };
        let tree = match who {
            Some(_) if !is_here => self.elsewhere.tree(&room_id, &via, &mut Budget::new()).await,
            _ => None,
        };
        let summary = match (tree, nid) {
            (Some(tree), _) => tree.summary.clone(),
            (None, Some(nid)) => self.directory.summary(&*self.state.room_by_nid(nid).await?).await?,
            (None, None) => return Err(missing()),
        };
        let membership = match (who, nid) {
            (Some(who), Some(nid)) => self.store.membership(nid, who.user_nid).await?.map(|m| m.membership),
            _ => None,
        };
        if self.may_hear_of(who, &summary, membership.as_ref()).await? {
            Ok((summary, membership))
        } else {
            Err(missing())
        }
    }

    /// Whether somebody may be told of a room: whoever is in it or may come in, and everybody if anybody may read it (spec:
    /// `GET /room_summary`, `GET /rooms/{roomId}/hierarchy`).
    async fn may_hear_of(
        &self,
        who: Option<&Requester>,
        summary: &Summary,
        membership: Option<&MembershipState>,
    ) -> Result<bool> {
        use MembershipState as M;
        match membership {
            Some(M::Join | M::Invite | M::Knock) => return Ok(true),
            Some(M::Ban) => return Ok(summary.world_readable),
            _ if summary.is_open() => return Ok(true),
            _ => {}
        }
        let Some(who) = who else { return Ok(false) };
        // Bounded by the size of an event.
        for other in &summary.allowed_room_ids {
            if let Some(nid) = self.store.room_nid(other).await?
                && self.state.membership(nid, who.user_nid).await? == M::Join
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn version(&self, id: Option<&RoomVersionId>) -> Result<&'static RoomVersion> {
        let id = id.unwrap_or(&self.settings.default_version);
        RoomVersion::get(id).ok_or_else(|| unsupported_version(id.as_str()))
    }
}

/// 400 for a room version that there is not.
#[must_use]
pub fn unsupported_version(id: &str) -> Error {
    let why = format!("Room version {id} is not supported");
    Error::told(http::StatusCode::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION", why)
}
