//! What our users do to rooms of other servers beside joining: reject an invite, knock; and whom of other servers they
//! invite into rooms of ours.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hearth_base::{Error, Requester, Result, ids::UserNid};
use hearth_remote::{
    Failure,
    federation::{Paths, Patience},
};
use hearth_rules::{
    event::{Draft, Malformed, Pdu},
    versions::RoomVersion,
};
use hearth_store::{membership::Membership, rooms::Room};
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    api::{
        OutgoingRequest,
        auth_scheme::AuthScheme,
        federation::{
            authentication::XMatrixSigningInput,
            membership::{
                RawStrippedState, create_invite, create_knock_event, create_leave_event, prepare_knock_event,
                prepare_leave_event,
            },
        },
    },
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    Joins, Went,
    stripped::Care,
    template::{Given, nonsense},
    through::raw,
    version_named,
};
use crate::{events::Arrived, state::version_of};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Servers that are tried.
const MAX_SERVERS: usize = 5;
/// Bytes of an answer.
const MAX_ANSWER: usize = 2 << 20;

impl Joins {
    /// Rejects an invite to a room that we are not in, or takes back a knock. Where nobody can be told it is so all the
    /// same: nothing obliges a user to keep an invite. Runs to its end even if the caller goes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn leave(
        self: &Arc<Self>,
        who: &Requester,
        room: Arc<Room>,
        invite: Membership,
        content: Map<String, Value>,
    ) -> Result<()> {
        let (this, user, nid) = (self.clone(), who.user_id.clone(), who.user_nid);
        let servers = self.servers_for(who, &room.room_id, &[]).await?.all();
        self.supervisor
            .job(async move {
                let lane = this.lanes.get_with(room.room_id.clone(), Arc::default);
                let _one = lane.lock().await;
                let (mut left, until) = (None, this.searching_until());
                for server in servers.iter().take(MAX_SERVERS) {
                    if Instant::now() >= until {
                        break;
                    }
                    match this.leave_through(server, &room, &user, &content).await {
                        Ok(pdu) => {
                            left = Some(pdu);
                            break;
                        }
                        Err(e) => {
                            tracing::info!(room.id = %room.room_id, server = %server, error = %e, "a rejection could not be told");
                        }
                    }
                }
                let pdu = match left {
                    Some(pdu) => pdu,
                    None => this.own_leave(&room, &user, &invite, &content).await?,
                };
                this.tell(room.nid, Arc::new(pdu), nid, MembershipState::Leave, None).await
            })
            .await
    }

    pub(super) async fn leave_through(
        &self,
        server: &ServerName,
        room: &Room,
        user: &UserId,
        content: &Map<String, Value>,
    ) -> Result<Pdu> {
        let (room_id, patience) = (&room.room_id, self.federation.once().within(PATIENCE).up_to(MAX_ANSWER));
        let request = prepare_leave_event::v1::Request::new(room_id.clone(), user.to_owned());
        let made = self.federation.send(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        let version = version_named(made.room_version.as_ref().map_or("1", |v| v.as_str()))?;
        let given = Given::read(server, made.event.get(), version, room_id, user, "leave")?;
        let signer = self.server_keys.signer();
        let pdu = given.complete(version, room_id, user, content.clone(), signer, self.clock.now_ms())?;
        let json = raw(pdu.json())?;
        let request = create_leave_event::v2::Request::new(room_id.clone(), pdu.event_id().to_owned(), json);
        let _: IgnoredAny = self.in_either_form(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        Ok(pdu)
    }

    /// A leave that stands on nothing but what it ends.
    async fn own_leave(
        &self,
        room: &Room,
        user: &UserId,
        invite: &Membership,
        content: &Map<String, Value>,
    ) -> Result<Pdu> {
        let ended = self.store.event(invite.event).await?;
        let ended = ended.ok_or_else(|| Error::broken("a membership without its event"))?;
        let draft = Draft::of(
            Some(room.room_id.clone()),
            user.to_owned(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            content,
            self.clock.now_ms(),
        )?;
        let version = version_of(room)?;
        let before = [ended.pdu.reference(version)];
        let depth = ended.pdu.depth().saturating_add(1);
        draft.build(version, &before, depth, &before, self.server_keys.signer())
    }

    /// Knocks at a room that we are not in.
    ///
    /// # Errors
    /// What the most telling of the servers said; 404 if none is known.
    pub async fn knock(
        self: &Arc<Self>,
        who: &Requester,
        room_id: &RoomId,
        via: &[OwnedServerName],
        content: Map<String, Value>,
    ) -> Result<Went> {
        let servers = self.servers_for(who, room_id, via).await?.all();
        let (this, room_id) = (self.clone(), room_id.to_owned());
        let (user, nid) = (who.user_id.clone(), who.user_nid);
        self.supervisor
            .job(async move {
                let lane = this.lanes.get_with(room_id.clone(), Arc::default);
                let _one = lane.lock().await;
                if this.resident(&room_id).await?.is_some() {
                    return Ok(Went::Open);
                }
                let (mut refused, until) = (None, this.searching_until());
                for server in this.federation.likeliest_first(&servers).await?.iter().take(MAX_SERVERS) {
                    if Instant::now() >= until {
                        break;
                    }
                    match this.knock_through(server, &room_id, &user, &content).await {
                        Ok((version, pdu, stripped)) => {
                            let creator = this.store.intern_user(&user).await?;
                            let room = this.stub(room_id, version, creator).await?;
                            this.tell(room, Arc::new(pdu), nid, MembershipState::Knock, Some(stripped)).await?;
                            return Ok(Went::In);
                        }
                        Err(e) => {
                            tracing::info!(room.id = %room_id, server = %server, error = %e, "a knock through a server failed");
                            refused = Some(super::through::more_telling(refused, e));
                        }
                    }
                }
                Err(refused.unwrap_or_else(|| Error::not_found("No known servers are in this room")))
            })
            .await
    }

    async fn knock_through(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        content: &Map<String, Value>,
    ) -> Result<(&'static RoomVersion, Pdu, String)> {
        let patience = self.federation.once().within(PATIENCE).up_to(MAX_ANSWER);
        let mut request = prepare_knock_event::v1::Request::new(room_id.to_owned(), user.to_owned());
        request.ver = RoomVersion::supported().map(|v| v.id.clone()).collect();
        let made = self.federation.send_now(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        let version = version_named(made.room_version.as_str())?;
        if version.room_id_is_create_hash() != room_id.server_name().is_none() {
            return Err(nonsense(server, "the room is of another version"));
        }
        let given = Given::read(server, made.event.get(), version, room_id, user, "knock")?;
        let signer = self.server_keys.signer();
        let pdu = given.complete(version, room_id, user, content.clone(), signer, self.clock.now_ms())?;
        let json = raw(pdu.json())?;
        let request = create_knock_event::v1::Request::new(room_id.to_owned(), pdu.event_id().to_owned(), json);
        let answer = self.federation.send_now(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        let shown = answer.knock_room_state.iter().filter_map(|e| serde_json::value::to_raw_value(e).ok());
        let shown: Vec<_> = shown.collect();
        let stripped = match self.stripped(room_id, version, &shown, &pdu, Care::Choosy).await {
            Ok(stripped) => stripped,
            // The knock stands, whatever is shown of the room.
            Err(_) => self.stripped(room_id, version, &[], &pdu, Care::None).await?,
        };
        Ok((version, pdu, stripped))
    }

    /// Invites a user of another server to a room we are in: their server signs the invite with us.
    ///
    /// # Errors
    /// 403 if the room or that server does not allow it; 502 and 504 if it cannot be asked.
    pub async fn invite(&self, room: &Room, draft: &Draft, user: &UserId) -> Result<OwnedEventId> {
        let version = version_of(room)?;
        let mut arrival = self.events.offer(room.nid, draft).await?;
        arrival.pdu = self.events.vetted(room, arrival.pdu).await?;
        let shown = self.shown_events(room, Some(&draft.sender)).await?;
        let server = user.server_name();
        let copy = self.signed_by(server, room, &arrival.pdu, shown).await.map_err(|e| self.said(server, &e))?;
        let signed = arrival.pdu.with_signatures_of(server, copy.get(), version);
        arrival.pdu = Arc::new(signed.map_err(|e| match e {
            // What the room's version says of JSON holds for the answer too, and others refuse it in the same way.
            Malformed::Json(_) => Error::from(e),
            Malformed::Form(_) => nonsense(server, e),
        })?);
        let event_id = arrival.pdu.event_id().to_owned();
        match self.events.receive(room.nid, vec![arrival]).await?.pop() {
            Some(Arrived::Placed) => Ok(event_id),
            Some(Arrived::SoftFailed(why) | Arrived::Rejected(why)) => Err(Error::forbidden(why)),
            None => Err(Error::broken("nothing became of an invite")),
        }
    }

    /// The copy of an invite that the server of the invited user signed. For rooms of versions 1 and 2 whoever answers 400 or
    /// 404, or does not know the question, may only know the first form and is asked by it (server-server API, `PUT /invite`).
    async fn signed_by(
        &self,
        server: &ServerName,
        room: &Room,
        invite: &Pdu,
        shown: Vec<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Failure> {
        let patience = self.federation.once().within(PATIENCE).up_to(MAX_ANSWER);
        let ours = |e: Error| Failure::Ours(e.to_string());
        let old = old_form(invite, &shown);
        let request = create_invite::v2::Request::new(
            room.room_id.clone(),
            invite.event_id().to_owned(),
            room.version.clone(),
            raw(invite.json()).map_err(ours)?,
            shown.into_iter().map(RawStrippedState::Pdu).collect(),
        );
        let mut request = self.federation.remote().signed(server, request)?;
        let is_old = version_of(room).is_ok_and(|version| !version.event_id_is_hash());
        match self.federation.exchange_now(server, request.clone(), patience).await {
            Err(failure) if is_old && (failure.is_unrecognized() || is_400_or_404(&failure)) => {
                *request.body_mut() = Bytes::from(old);
                self.in_old_form::<Signed>(server, request, patience).await.map(|signed| signed.event)
            }
            answer => read::<Signed>(&answer?).map(|signed| signed.event),
        }
    }

    /// The answer to a request of `/v2`, or to the same of `/v1` by a server that does not know the other (server-server API,
    /// `PUT /v1/send_join`, `PUT /v1/send_leave`).
    pub(super) async fn in_either_form<R, T>(
        &self,
        server: &ServerName,
        request: R,
        patience: Patience,
    ) -> Result<T, Failure>
    where
        R: OutgoingRequest,
        R::PathBuilder: Paths,
        for<'a> R::Authentication: AuthScheme<Input<'a> = XMatrixSigningInput<'a>>,
        T: DeserializeOwned,
    {
        let request = self.federation.remote().signed(server, request)?;
        match self.federation.exchange_now(server, request.clone(), patience).await {
            Err(failure) if failure.is_unrecognized() => self.in_old_form(server, request, patience).await,
            answer => read(&answer?),
        }
    }

    /// The answer to the form of a request that came before it, which stands behind a status.
    async fn in_old_form<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        mut request: http::Request<Bytes>,
        patience: Patience,
    ) -> Result<T, Failure> {
        let path = request.uri().path().replacen("/v2/", "/v1/", 1);
        *request.uri_mut() = path.parse().map_err(|e: http::uri::InvalidUri| Failure::Ours(e.to_string()))?;
        let request = self.federation.remote().sign(server, request)?;
        let answer = self.federation.exchange_now(server, request, patience).await?;
        read::<(u16, T)>(&answer).map(|(_, said)| said)
    }

    /// Takes note that an invite was withdrawn or a knock refused in a room we are not in, by an event whose signature is
    /// good. Gives whether it was so.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn withdrawn(&self, room: &Room, event: Arc<Pdu>) -> Result<bool> {
        let lane = self.lanes.get_with(room.room_id.clone(), Arc::default);
        let _one = lane.lock().await;
        let Some(user) = self.may_withdraw(room, &event).await? else { return Ok(false) };
        let membership = MembershipState::from(event.membership().into_owned());
        self.tell(room.nid, event, user, membership, None).await?;
        Ok(true)
    }

    /// Which of our users an event from outside makes leave, if it can. Whoever's server invited them may say so, or for a
    /// knock a server that spoke of the room; and anybody by an event that stands on the invite or knock, whose name
    /// only those in the room know. Nothing else can be told from outside. What was heard before says nothing of an invite
    /// that came after it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn may_withdraw(&self, room: &Room, event: &Pdu) -> Result<Option<UserNid>> {
        if *event.event_type() != TimelineEventType::RoomMember || !matches!(&*event.membership(), "leave" | "ban") {
            return Ok(None);
        }
        let user = event.state_key().and_then(|key| <&UserId>::try_from(key).ok());
        let Some(user) = user.filter(|user| user.server_name() == self.name()) else { return Ok(None) };
        let Some(nid) = self.store.user_nid(user).await? else { return Ok(None) };
        if self.store.is_resident(room.nid).await? {
            return Ok(None);
        }
        let Some(told) = self.store.membership(room.nid, nid).await? else { return Ok(None) };
        if !matches!(told.membership, MembershipState::Invite | MembershipState::Knock) {
            return Ok(None);
        }
        if self.store.event_by_id(event.event_id()).await?.is_some() {
            return Ok(None);
        }
        let from = event.sender().server_name();
        let spoke = told.stripped.as_deref().map(super::stripped::senders).unwrap_or_default();
        let ends = self.store.event(told.event).await?.is_some_and(|ended| {
            ended.pdu.sender().server_name() == from || event.auth_events().iter().any(|id| id == ended.event_id())
        });
        Ok((ends || spoke.iter().any(|u| u.server_name() == from)).then_some(nid))
    }
}

fn is_400_or_404(failure: &Failure) -> bool {
    failure.refusal().is_some_and(|refusal| matches!(refusal.status.as_u16(), 400 | 404))
}

/// An invite with both servers' signatures.
#[derive(Deserialize)]
struct Signed {
    event: Box<RawValue>,
}

fn read<T: DeserializeOwned>(answer: &http::Response<Bytes>) -> Result<T, Failure> {
    serde_json::from_slice(answer.body()).map_err(|e| Failure::Nonsense(e.to_string()))
}

/// An invite with what is shown of the room inside of it.
fn old_form(invite: &Pdu, shown: &[Box<RawValue>]) -> String {
    let shown: Vec<&str> = shown.iter().map(|raw| raw.get()).collect();
    let rest = invite.json().strip_suffix('}').unwrap_or_default();
    format!("{rest},\"unsigned\":{{\"invite_room_state\":[{}]}}}}", shown.join(","))
}
