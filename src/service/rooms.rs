//! Rooms: made, replaced by newer ones, told of to those who are not in them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_base::{Error, Requester, Result, clock::Clock};
use hearth_rules::versions::RoomVersion;
use hearth_store::Store;
use ruma::{OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId, events::room::member::MembershipState};
use serde_json::{Map, Value};

use crate::{
    directory::{Directory, Summary},
    events::Events,
    membership::Membership,
    state::State,
};

mod create;
mod upgrade;

pub use create::NewRoom;

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
    /// When the newest room was made, ms.
    newest_ms: AtomicU64,
}

impl Rooms {
    /// Made once.
    #[must_use]
    pub fn new(
        store: Store,
        state: Arc<State>,
        events: Arc<Events>,
        directory: Arc<Directory>,
        membership: Arc<Membership>,
        clock: Clock,
        settings: Settings,
    ) -> Self {
        let server_name = events.signer().server_name().to_owned();
        Self { store, state, events, directory, membership, server_name, clock, settings, newest_ms: AtomicU64::new(0) }
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

    /// What is told of a room to somebody, and what they are in it.
    ///
    /// # Errors
    /// 404 if there is no such room, or none that they may hear of.
    pub async fn summary(
        &self,
        who: Option<&Requester>,
        room: &RoomOrAliasId,
    ) -> Result<(Arc<Summary>, Option<MembershipState>)> {
        let missing = || Error::not_found("Room not found");
        let room_id = match <&RoomId>::try_from(room) {
            Ok(room_id) => room_id.to_owned(),
            Err(alias) => self.directory.resolve(alias).await?.0,
        };
        let room = self.state.room(&room_id).await.map_err(|_| missing())?;
        let summary = self.directory.summary(&room).await?;
        let membership = match who {
            Some(who) => self.store.membership(room.nid, who.user_nid).await?.map(|m| m.membership),
            None => None,
        };
        use MembershipState as M;
        let mut may = summary.is_open() || matches!(membership, Some(M::Join | M::Invite | M::Knock));
        if let Some(who) = who
            && !may
        {
            // Bounded by the size of an event.
            for other in &summary.allowed_room_ids {
                if let Some(nid) = self.store.room_nid(other).await?
                    && self.state.membership(nid, who.user_nid).await? == M::Join
                {
                    may = true;
                    break;
                }
            }
        }
        if may { Ok((summary, membership)) } else { Err(missing()) }
    }

    fn version(&self, id: Option<&RoomVersionId>) -> Result<&'static RoomVersion> {
        let id = id.unwrap_or(&self.settings.default_version);
        RoomVersion::get(id).ok_or_else(|| {
            Error::told(
                http::StatusCode::BAD_REQUEST,
                "M_UNSUPPORTED_ROOM_VERSION",
                format!("Room version {id} is not supported"),
            )
        })
    }
}
