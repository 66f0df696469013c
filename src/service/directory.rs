//! The directory: aliases, which rooms are published, what is told of rooms to those who are not in them, and the search
//! for users. Summaries of rooms are kept by state snapshot, so they are never out of date and are made once a change.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result, cache::Cache};
use hearth_store::{Store, rooms::Room, state::StateMap};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId,
    api::federation::query::get_room_information,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    events::{Events, Outgoing, check_may_write},
    federation::{Federation, servers::Servers},
    state::State,
};

mod canonical;
mod public_rooms;
mod rules;
mod summary;

pub use public_rooms::PublicRooms;
pub use rules::Rule;
pub use summary::Summary;

/// How the directory behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Published rooms are told to people without an account (`allow_public_rooms_without_auth`).
    pub public_rooms_without_login: bool,
    /// Published rooms can be listed at all (`enable_room_list_search`).
    pub room_list: bool,
    /// Aliases are made by members of the room only (`require_membership_for_aliases`).
    pub aliases_by_members: bool,
    /// Who may make which alias; the first rule that fits decides, and if none does, nobody (`alias_creation_rules`).
    pub alias_rules: Option<Vec<Rule>>,
    /// Who may publish which room, in the same way (`room_list_publication_rules`).
    pub publication_rules: Option<Vec<Rule>>,
    /// Users can be searched for (`user_directory.enabled`).
    pub user_search: bool,
    /// All local users are found, not only those in common or open rooms (`user_directory.search_all_users`).
    pub search_all_users: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            public_rooms_without_login: false,
            room_list: true,
            aliases_by_members: true,
            alias_rules: None,
            publication_rules: None,
            user_search: true,
            search_all_users: false,
        }
    }
}

/// Summaries remembered.
const SUMMARIES: u64 = 10_000;
/// Servers of a room that are told with an alias, and bytes of another server's answer about one.
const MAX_SERVERS: usize = 200;
const MAX_RESOLVED: usize = 256 << 10;
/// Users found at most.
const MAX_USERS: usize = 50;
/// Rooms that a user of another server may be found in before others are found less.
const ROOMS_EACH: usize = 8;

/// Aliases, published rooms, users.
#[derive(Debug)]
pub struct Directory {
    store: Store,
    federation: Arc<Federation>,
    servers: Arc<Servers>,
    state: Arc<State>,
    events: Arc<Events>,
    server_name: OwnedServerName,
    settings: Settings,
    summaries: Cache<hearth_base::ids::SnapNid, Arc<Summary>>,
}

/// Users found (spec: `POST /user_directory/search`).
#[derive(Debug, Serialize)]
pub struct FoundUsers {
    /// The best first.
    pub results: Vec<FoundUser>,
    /// Whether there were more.
    pub limited: bool,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct FoundUser {
    /// Their id.
    pub user_id: OwnedUserId,
    /// Their name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<Value>,
    /// Their avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<Value>,
}

impl Directory {
    /// Made once.
    #[must_use]
    pub fn new(
        store: Store,
        federation: Arc<Federation>,
        servers: Arc<Servers>,
        state: Arc<State>,
        events: Arc<Events>,
        settings: Settings,
    ) -> Self {
        let server_name = federation.name().to_owned();
        Self { store, federation, servers, state, events, server_name, settings, summaries: Cache::new(SUMMARIES) }
    }

    /// The room an alias points to, and servers that are in it. An alias of another server is asked for there.
    ///
    /// # Errors
    /// 404 if it points nowhere; 502 and 504 if its server cannot be asked.
    pub async fn resolve(&self, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
        let server = alias.server_name();
        if server == self.server_name {
            return self.resolve_own(alias).await;
        }
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let patience = self.federation.short().up_to(MAX_RESOLVED);
        let found = self.federation.send_now(server, request, patience).await;
        let found = found.map_err(|e| self.federation.told(server, &e))?;
        let mut servers = found.servers;
        servers.truncate(MAX_SERVERS);
        if !servers.iter().any(|s| s == server) {
            servers.push(server.to_owned());
        }
        Ok((found.room_id, servers))
    }

    /// The room an alias of ours points to, and servers that are in it; what other servers may ask as well.
    ///
    /// # Errors
    /// 404 if it points nowhere, or is not ours.
    pub async fn resolve_own(&self, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
        let missing = || Error::not_found(format!("Room alias {alias} not found"));
        if alias.server_name() != self.server_name {
            return Err(missing());
        }
        let (nid, _) = self.store.alias(alias).await?.ok_or_else(missing)?;
        let room = self.state.room_by_nid(nid).await?;
        let others = self.servers.of_room(nid).await?;
        let servers = std::iter::once(&self.server_name).chain(others.iter()).take(MAX_SERVERS);
        Ok((room.room_id.clone(), servers.cloned().collect()))
    }

    /// Points an alias to a room.
    ///
    /// # Errors
    /// 400 for an alias of another server, 403 for those who are not in the room, 409 if it is taken.
    pub async fn add_alias(&self, who: &Requester, alias: OwnedRoomAliasId, room_id: &RoomId) -> Result<()> {
        check_may_write(who)?;
        self.check_own(&alias)?;
        let outside = || Error::forbidden("You must be in the room to make an alias for it");
        let nid = self.store.known_room(room_id).await?.ok_or_else(outside)?.nid;
        if self.settings.aliases_by_members
            && !who.is_admin
            && self.state.membership(nid, who.user_nid).await? != MembershipState::Join
        {
            return Err(outside());
        }
        self.check_alias_rules(who, room_id, &alias)?;
        let name = alias.clone();
        self.store.add_alias(alias, nid, who.user_nid).await.map_err(|e| match e.errcode() {
            "M_ROOM_IN_USE" => {
                Error::told(http::StatusCode::CONFLICT, "M_UNKNOWN", format!("Room alias {name} already exists"))
            }
            _ => e,
        })
    }

    /// Whether the operator's rules let a user make this alias for this room.
    ///
    /// # Errors
    /// 403 if they do not.
    pub fn check_alias_rules(&self, who: &Requester, room_id: &RoomId, alias: &RoomAliasId) -> Result<()> {
        if rules::allow(self.settings.alias_rules.as_deref(), &who.user_id, room_id, &[alias.as_str()]) {
            return Ok(());
        }
        Err(Error::forbidden("The rules of this server do not let you make this alias"))
    }

    /// Whether the operator's rules let a user publish this room, which has these aliases.
    ///
    /// # Errors
    /// 403 if they do not.
    pub fn check_publication_rules(&self, who: &Requester, room_id: &RoomId, aliases: &[&str]) -> Result<()> {
        if rules::allow(self.settings.publication_rules.as_deref(), &who.user_id, room_id, aliases) {
            return Ok(());
        }
        Err(Error::forbidden("The rules of this server do not let you publish this room"))
    }

    fn check_own(&self, alias: &RoomAliasId) -> Result<()> {
        if alias.server_name() != self.server_name {
            return Err(Error::invalid_param(format!("The alias must end in :{}", self.server_name)));
        }
        if alias.alias().is_empty() || alias.as_str().chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid_param("The alias is empty or has spaces in it"));
        }
        Ok(())
    }

    /// Removes an alias, also from the room's `m.room.canonical_alias` if the requester may change that.
    ///
    /// # Errors
    /// 404 if there is none, 403 for those who neither made it nor have power over the room's aliases.
    pub async fn remove_alias(&self, who: &Requester, alias: &RoomAliasId) -> Result<()> {
        let missing = || Error::not_found(format!("Room alias {alias} not found"));
        let (nid, creator) = self.store.alias(alias).await?.ok_or_else(missing)?;
        let room = self.state.room_by_nid(nid).await?;
        if creator != who.user_nid && !who.is_admin && !self.has_power(who, &room).await? {
            return Err(Error::forbidden("You may not remove this alias"));
        }
        if !self.store.delete_alias(alias.to_owned()).await? {
            return Err(missing());
        }
        if let Err(e) = self.drop_from_canonical(who, &room, alias).await {
            // That they may not change the event does not undo what they may (spec: `DELETE /directory/room`).
            tracing::debug!(room.id = %room.room_id, error = %e, "a removed alias stays in the room's state");
        }
        Ok(())
    }

    async fn drop_from_canonical(&self, who: &Requester, room: &Room, alias: &RoomAliasId) -> Result<()> {
        let Some(event) = self.state.current_entry(room, "m.room.canonical_alias", "").await? else { return Ok(()) };
        let Some(mut content) = event.pdu.content_as::<Map<String, Value>>() else { return Ok(()) };
        let before = content.clone();
        if content.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
            content.remove("alias");
        }
        if let Some(alt) = content.get_mut("alt_aliases").and_then(Value::as_array_mut) {
            alt.retain(|a| a.as_str() != Some(alias.as_str()));
        }
        if content == before {
            return Ok(());
        }
        let content =
            serde_json::value::to_raw_value(&content).map_err(|e| Error::fault("writing an alias event", e))?;
        let out = Outgoing {
            event_type: TimelineEventType::RoomCanonicalAlias,
            state_key: Some(String::new()),
            content: &content,
            txn_id: None,
            timestamp: None,
        };
        self.events.send(who, &room.room_id, out).await.map(drop)
    }

    /// Whether a user may say by which aliases a room goes: they may do with its place in the directory as they like.
    async fn has_power(&self, who: &Requester, room: &Room) -> Result<bool> {
        Ok(self.state.membership(room.nid, who.user_nid).await? == MembershipState::Join
            && self.state.power_levels(room).await?.can_send(
                &who.user_id,
                &TimelineEventType::RoomCanonicalAlias,
                true,
            ))
    }

    /// The aliases of this server that point to a room.
    ///
    /// # Errors
    /// 403 for those who are not in it, unless everybody may read it.
    pub async fn aliases(&self, who: &Requester, room_id: &RoomId) -> Result<Vec<OwnedRoomAliasId>> {
        let outside = || Error::forbidden("You are not in this room");
        let nid = self.store.room_nid(room_id).await?.ok_or_else(outside)?;
        if !who.is_admin && self.state.membership(nid, who.user_nid).await? != MembershipState::Join {
            let room = self.state.room_by_nid(nid).await?;
            let visibility = self.state.history_visibility(&self.state.current(&room).await?).await?;
            if !crate::history::world_readable(visibility) {
                return Err(outside());
            }
        }
        self.store.aliases_of(nid).await
    }

    /// Whether a room is published.
    ///
    /// # Errors
    /// 404 for rooms we do not know.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool> {
        let room = self.state.room(room_id).await?;
        self.store.is_published(room.nid).await
    }

    /// Publishes a room, or takes it out.
    ///
    /// # Errors
    /// 404 for rooms we do not know, 403 for those without power over its aliases.
    pub async fn publish(&self, who: &Requester, room_id: &RoomId, published: bool) -> Result<()> {
        check_may_write(who)?;
        let room = self.state.room(room_id).await?;
        if !who.is_admin && !self.has_power(who, &room).await? {
            return Err(Error::forbidden("You may not publish this room"));
        }
        if published {
            let aliases = self.store.aliases_of(room.nid).await?;
            self.check_publication_rules(who, room_id, &aliases.iter().map(|a| a.as_str()).collect::<Vec<_>>())?;
        }
        self.store.publish_room(room.nid, published).await
    }

    /// What may be told of a room, as of now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn summary(&self, room: &Room) -> Result<Arc<Summary>> {
        if let Some(summary) = self.summaries.get(&room.head.snap) {
            return Ok(summary);
        }
        let state: StateMap = self.state.current(room).await?;
        let summary = Arc::new(Summary::of(&self.store, &self.state, room, &state).await?);
        self.summaries.insert(room.head.snap, summary.clone());
        Ok(summary)
    }

    /// Users by a part of their id or name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn search_users(&self, who: &Requester, term: &str, limit: usize) -> Result<FoundUsers> {
        let term = term.trim();
        if !self.settings.user_search || term.is_empty() {
            return Ok(FoundUsers { results: Vec::new(), limited: false });
        }
        let limit = limit.clamp(1, MAX_USERS);
        let everybody = self.settings.search_all_users;
        let mut found = self.store.search_users(who.user_nid, term, everybody, limit + 1).await?;
        let limited = found.len() > limit;
        found.truncate(limit);
        let json = |text: Option<String>| {
            text.and_then(|t| serde_json::from_str::<Value>(&t).ok())
                .filter(|v| v.as_str().is_some_and(|s| !s.is_empty()))
        };
        let results = found.into_iter().filter_map(|f| {
            Some(FoundUser {
                user_id: OwnedUserId::try_from(f.user_id).ok()?,
                display_name: json(f.displayname),
                avatar_url: json(f.avatar_url),
            })
        });
        let mut found = FoundUsers { results: results.collect(), limited };
        self.add_members(who, term, limit, &mut found).await?;
        Ok(found)
    }

    /// Adds users of other servers, of whom no profile is here: as they are called in rooms that they share with who asks.
    async fn add_members(&self, who: &Requester, term: &str, limit: usize, found: &mut FoundUsers) -> Result<()> {
        let lower = term.to_lowercase();
        let members = self.store.search_members(who.user_nid, term, ROOMS_EACH * (limit + 1)).await?;
        let events = self.store.events(&members.iter().map(|(_, event)| *event).collect::<Vec<_>>()).await?;
        for (user, event) in members {
            let Some(event) = events.iter().find(|e| e.nid == event) else { continue };
            let content = event.pdu.content_as::<Map<String, Value>>().unwrap_or_default();
            let text = |key: &str| content.get(key).filter(|v| v.as_str().is_some_and(|s| !s.is_empty())).cloned();
            let (display_name, avatar_url) = (text("displayname"), text("avatar_url"));
            let named =
                display_name.as_ref().and_then(Value::as_str).is_some_and(|n| n.to_lowercase().contains(&lower));
            if let Some(known) = found.results.iter_mut().find(|f| f.user_id == *user) {
                known.display_name = known.display_name.take().or(display_name);
                known.avatar_url = known.avatar_url.take().or(avatar_url);
            } else if !named && !user.to_lowercase().contains(&lower) {
                // The term stands elsewhere in the event.
            } else if found.results.len() < limit {
                let Ok(user_id) = OwnedUserId::try_from(user) else { continue };
                found.results.push(FoundUser { user_id, display_name, avatar_url });
            } else {
                found.limited = true;
            }
        }
        Ok(())
    }
}
