//! Joining a room through servers that are in it: one after the other, until one lets us in with an answer that holds.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_base::{Error, Requester, Result, ids::RoomNid};
use hearth_remote::Failure;
use hearth_rules::{event::Pdu, versions::RoomVersion};
use hearth_store::rooms::Room;
use ruma::{
    OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::membership::{create_join_event, prepare_join_event},
    events::room::member::MembershipState,
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    Joins,
    entering::Answer,
    stripped,
    template::{Given, nonsense},
    version_named,
};

/// What became of a wish to go into a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// The user is in.
    In,
    /// The server is in the room meanwhile; the user can join here.
    Open,
}

/// A user who wants in.
#[derive(Clone, Debug)]
struct Wish {
    user: OwnedUserId,
    room_id: ruma::OwnedRoomId,
    content: Map<String, Value>,
    /// A guest, of whom it is not known yet whether the room is open to them.
    is_guest: bool,
}

/// Whom to ask about a room.
#[derive(Clone, Debug)]
pub(super) struct Whom {
    pub(super) first: Vec<OwnedServerName>,
    /// If none of them decides anything.
    pub(super) then: Vec<OwnedServerName>,
}

impl Whom {
    /// One after the other, whatever they say.
    pub(super) fn all(self) -> Vec<OwnedServerName> {
        [self.first, self.then].concat()
    }
}

impl Wish {
    /// Into a room that we are in: guests were looked at by its state.
    fn into(room: &Room, who: &Requester, content: Map<String, Value>) -> Self {
        Self { user: who.user_id.clone(), room_id: room.room_id.clone(), content, is_guest: false }
    }
}

/// Servers that are tried.
const MAX_SERVERS: usize = 10;
/// How long one may take for a template, and for the room's state.
const FOR_TEMPLATE: Duration = Duration::from_secs(20);
const FOR_STATE: Duration = Duration::from_secs(180);
/// Events of a room's state and auth chain that are written together with the join, at most.
const AT_ONCE: usize = 200;
/// Bytes of a room's state and auth chain.
const MAX_STATE: usize = 128 << 20;

impl Joins {
    /// Joins a user of ours to a room that we are not in, through servers that are. Runs to its end even if the caller
    /// goes. `content` is the member event's, with `membership`. Guests only get where guests may be.
    ///
    /// # Errors
    /// What the most telling of the servers said; 404 if none is known.
    pub async fn join(
        self: &Arc<Self>,
        who: &Requester,
        room_id: &RoomId,
        via: &[OwnedServerName],
        content: Map<String, Value>,
    ) -> Result<Went> {
        let whom = self.servers_for(who, room_id, via).await?;
        let wish = Wish { user: who.user_id.clone(), room_id: room_id.to_owned(), content, is_guest: who.is_guest };
        let this = self.clone();
        self.supervisor
            .job(async move {
                let lane = this.lanes.get_with(wish.room_id.clone(), Arc::default);
                let _one = lane.lock().await;
                if this.resident(&wish.room_id).await?.is_some() {
                    return Ok(Went::Open);
                }
                this.try_servers(&whom, &wish).await.map(|()| Went::In)
            })
            .await
    }

    /// Joins a user of ours to a room that we are in and may not let them into: somebody of another server is to vouch
    /// for them.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn join_vouched(
        self: &Arc<Self>,
        who: &Requester,
        room: &Room,
        via: &[OwnedServerName],
        content: Map<String, Value>,
    ) -> Result<()> {
        let mut servers = self.servers_that_invite(room).await?;
        for server in via {
            if self.federation.admits(server) && !servers.contains(server) {
                servers.push(server.clone());
            }
        }
        self.try_in_turn(servers, Wish::into(room, who, content)).await
    }

    /// Joins a user of ours to a room of whose state we know part: somebody who knows all of it is to let them in.
    /// [`Went::Open`] if all of it is known meanwhile.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn join_beside(
        self: &Arc<Self>,
        who: &Requester,
        room: &Room,
        via: &[OwnedServerName],
        content: Map<String, Value>,
    ) -> Result<Went> {
        let Some(partial) = self.store.partial_room(room.nid).await? else { return Ok(Went::Open) };
        let mut servers = via.to_vec();
        servers.push(partial.part.via);
        servers.extend(partial.part.servers);
        servers.extend(room.room_id.server_name().map(ToOwned::to_owned));
        let mut seen = HashSet::new();
        servers.retain(|s| self.federation.admits(s) && seen.insert(s.clone()));
        self.try_in_turn(servers, Wish::into(room, who, content)).await.map(|()| Went::In)
    }

    /// Tries servers when nobody else is joining the room. Runs to its end even if the caller goes.
    async fn try_in_turn(self: &Arc<Self>, servers: Vec<OwnedServerName>, wish: Wish) -> Result<()> {
        let this = self.clone();
        self.supervisor
            .job(async move {
                let lane = this.lanes.get_with(wish.room_id.clone(), Arc::default);
                let _one = lane.lock().await;
                this.try_servers(&Whom { first: servers, then: Vec::new() }, &wish).await
            })
            .await
    }

    async fn try_servers(&self, whom: &Whom, wish: &Wish) -> Result<()> {
        let mut refused: Option<Error> = None;
        let (until, mut left) = (self.searching_until(), MAX_SERVERS);
        for servers in [&whom.first, &whom.then] {
            if refused.as_ref().is_some_and(is_decided) {
                break;
            }
            for server in self.federation.likeliest_first(servers).await?.iter() {
                if left == 0 || Instant::now() >= until {
                    break;
                }
                left -= 1;
                match self.join_through(server, wish).await {
                    Ok(()) => return Ok(()),
                    Err(e) => {
                        tracing::info!(room.id = %wish.room_id, server = %server, error = %e, "a join through a server failed");
                        refused = Some(more_telling(refused, e));
                    }
                }
            }
        }
        Err(refused.unwrap_or_else(|| Error::not_found("No known servers are in this room")))
    }

    /// The end of a search for servers that help: whoever answers nothing is not to be the first of many.
    pub(super) fn searching_until(&self) -> Instant {
        Instant::now() + self.federation.settings().searching
    }

    async fn join_through(&self, server: &ServerName, wish: &Wish) -> Result<()> {
        let Wish { user, room_id, content, is_guest } = wish;
        if *is_guest {
            self.ask_for_guests(server, room_id).await?;
        }
        let mut request = prepare_join_event::v1::Request::new(room_id.clone(), user.clone());
        request.ver = RoomVersion::supported().map(|v| v.id.clone()).collect();
        let patience = self.federation.once().within(FOR_TEMPLATE.min(self.federation.settings().searching));
        let made = self.federation.send_now(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        let version = version_named(made.room_version.as_ref().map_or("1", |v| v.as_str()))?;
        let given = Given::read(server, made.event.get(), version, room_id, user, "join")?;
        let signer = self.server_keys.signer();
        let join = given.complete(version, room_id, user, content.clone(), signer, self.clock.now_ms())?;

        let json = raw(join.json())?;
        let mut request = create_join_event::v2::Request::new(room_id.clone(), join.event_id().to_owned(), json);
        // Where all of the state is known, part of one is no state to place an event on.
        let among = self.resident(room_id).await?;
        let may_omit =
            self.federation.settings().completion.enter_in_part && among.as_ref().is_none_or(|room| room.head.partial);
        request.omit_members = may_omit;
        let patience = self.federation.once().within(FOR_STATE).up_to(MAX_STATE);
        let answer: create_join_event::v2::RoomState =
            self.in_either_form(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        if answer.members_omitted && !may_omit {
            return Err(nonsense(server, "it leaves out members, which nobody asked for"));
        }
        let join = match given.voucher().filter(|_| version.rules.authorization.restricted_join_rule) {
            Some(voucher) => {
                let copy = answer.event.as_deref().ok_or_else(|| nonsense(server, "it did not sign the join"))?;
                self.vouched_for(server, &join, voucher, copy, version).await?
            }
            None => join,
        };
        // Who may be sent out again goes out of a room that is stored.
        let at_once = !is_guest && answer.auth_chain.len() + answer.state.len() <= AT_ONCE;
        let (room, is_stored) = self.room_of(server, room_id, version, &answer.state, user, at_once).await?;
        let part = answer.members_omitted.then(|| self.part(server, answer.servers_in_room.unwrap_or_default()));
        let taken = self.outliers.take_in_state(&room, is_stored, answer.auth_chain, answer.state, &join).await?;
        if *is_guest {
            self.keep_guest_out(server, &room, user, &taken.state).await?;
        }
        let was_here = among.is_some();
        self.go_in(Answer { server, room, is_stored, was_here, version, taken, part }, join).await
    }

    /// The join with the signature of the server that vouches for it.
    async fn vouched_for(
        &self,
        server: &ServerName,
        join: &Pdu,
        voucher: &UserId,
        copy: &RawValue,
        version: &'static RoomVersion,
    ) -> Result<Pdu> {
        let signed = join.with_signatures_of(voucher.server_name(), copy.get(), version);
        let signed = signed.map_err(|e| nonsense(server, e))?;
        let event = Pdu::parse_remote(signed.json(), version).map_err(|e| nonsense(server, e))?;
        self.verified(event, version).await.map_err(|e| nonsense(server, e))
    }

    /// Whom to ask about a room that we are not in: whom the user names, whoever invited them or spoke of the room, the
    /// server in its id, and those that were in it when we were. Where the user names servers, those that nobody named are
    /// for when none of these is there or knows the room (client-server API, `via`).
    pub(super) async fn servers_for(&self, who: &Requester, room_id: &RoomId, via: &[OwnedServerName]) -> Result<Whom> {
        let mut servers: Vec<OwnedServerName> = via.to_vec();
        let known = self.store.room_nid(room_id).await?;
        if let Some(nid) = known
            && let Some(told) = self.store.membership(nid, who.user_nid).await?
        {
            if let Some(event) = self.store.event(told.event).await? {
                servers.push(event.pdu.sender().server_name().to_owned());
            }
            let stripped = told.stripped.as_deref().map(stripped::senders).unwrap_or_default();
            servers.extend(stripped.iter().map(|user| user.server_name().to_owned()));
        }
        let named = if via.is_empty() { 0 } else { servers.len() };
        servers.extend(room_id.server_name().map(ToOwned::to_owned));
        if let Some(nid) = known {
            servers.extend(self.servers_once_in(nid).await?);
            // Of a room that was left before all of its members had come only these were named.
            if let Some(partial) = self.store.partial_room(nid).await? {
                servers.push(partial.part.via);
                servers.extend(partial.part.servers);
            }
        }
        let mut then = servers.split_off(named);
        let mut seen = HashSet::new();
        let mut is_new = |s: &OwnedServerName| self.federation.admits(s) && seen.insert(s.clone());
        servers.retain(&mut is_new);
        then.retain(&mut is_new);
        Ok(Whom { first: servers, then })
    }

    /// The servers with joined users by the state we have, those with the most users first.
    async fn servers_once_in(&self, room: RoomNid) -> Result<Vec<OwnedServerName>> {
        let members = self.store.members(room, &MembershipState::Join).await?;
        let users: Vec<_> = members.iter().filter(|m| !m.local).map(|m| m.user).collect();
        let mut counts: BTreeMap<OwnedServerName, usize> = BTreeMap::new();
        for user in self.store.user_ids(&users).await? {
            *counts.entry(user.server_name().to_owned()).or_default() += 1;
        }
        let mut servers: Vec<(OwnedServerName, usize)> = counts.into_iter().collect();
        servers.sort_by_key(|(_, users)| std::cmp::Reverse(*users));
        servers.truncate(MAX_SERVERS);
        Ok(servers.into_iter().map(|(server, _)| server).collect())
    }

    /// The other servers whose users may invite to a room, and so let in those whom its conditions allow.
    async fn servers_that_invite(&self, room: &Room) -> Result<Vec<OwnedServerName>> {
        let levels = self.state.power_levels(room).await?;
        let needed = self.invite_level(room).await?;
        let members = self.store.members(room.nid, &MembershipState::Join).await?;
        let users: Vec<_> = members.iter().filter(|m| !m.local).map(|m| m.user).collect();
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for user in self.store.user_ids(&users).await? {
            let server = user.server_name();
            if servers.len() >= MAX_SERVERS {
                break;
            }
            if !servers.iter().any(|s| s == server) && self.federation.admits(server) && levels.can(&user, needed) {
                servers.push(server.to_owned());
            }
        }
        Ok(servers)
    }

    /// What a user is told of a server's failure. That we asked in a wrong way is not theirs to mend (server-server API,
    /// `make_join`, 400).
    pub(super) fn said(&self, server: &ServerName, failure: &Failure) -> Error {
        let told = self.federation.told(server, failure);
        match told.errcode() {
            "M_INVALID_PARAM" | "M_MISSING_PARAM" | "M_BAD_JSON" | "M_NOT_JSON" => nonsense(server, failure),
            _ => told,
        }
    }
}

/// An event as a body.
pub(super) fn raw(json: &str) -> Result<Box<RawValue>> {
    RawValue::from_string(json.to_owned()).map_err(|e| Error::fault("writing an event", e))
}

/// How much a failure says.
fn weight(e: &Error) -> u8 {
    match e.errcode() {
        "M_FORBIDDEN" | "M_GUEST_ACCESS_FORBIDDEN" | "M_INCOMPATIBLE_ROOM_VERSION" | "M_UNSUPPORTED_ROOM_VERSION" => 4,
        "M_UNABLE_TO_GRANT_JOIN" | "M_UNABLE_TO_AUTHORISE_JOIN" => 3,
        "M_NOT_FOUND" => 1,
        _ if e.status().is_client_error() => 2,
        _ => 0,
    }
}

/// Whether a server of the room has said no, or that it is not the one to say.
fn is_decided(e: &Error) -> bool {
    weight(e) >= 3
}

/// Which of two failures says more: what a server of the room decided, rather than that another could not be asked.
pub(super) fn more_telling(before: Option<Error>, now: Error) -> Error {
    match before {
        Some(before) if weight(&before) >= weight(&now) => before,
        _ => now,
    }
}
