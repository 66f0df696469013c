//! Join, invite, knock, leave, kick, ban, unban, forget; coming in is in `coming.rs`, inviting by e-mail address in
//! `by_address.rs`. What can be decided in a room that this server is in is decided here; where others must help, [`Joins`]
//! asks them.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result, clock::Clock, tasks::Supervisor};
use hearth_remote::identity::{self, Identity};
use hearth_rules::event::Draft;
use hearth_store::{Store, rooms::Room};
use http::StatusCode;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    account_data::AccountData,
    directory::Directory,
    events::{Events, With, check_may_write},
    federation::joins::Joins,
    push::Push,
    state::State,
};

pub(crate) mod by_address;
mod chores;
mod coming;
mod content;
mod everywhere;
mod following;
mod guests;
mod mutual_rooms;
mod on_the_way;
mod third_party;

pub use by_address::ByAddress;
pub use content::{Joining, MemberContent};
pub use mutual_rooms::MutualRooms;
pub use third_party::ThirdPartySigned;

/// How membership is configured.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Only administrators may invite (`block_non_admin_invites`).
    pub block_non_admin_invites: bool,
    /// Names and avatars stay out of invites (`include_profile_data_on_invite: false`).
    pub no_profile_on_invite: bool,
    /// Leaving a room forgets it (`forget_rooms_on_leave`).
    pub forget_on_leave: bool,
    /// E-mail addresses and phone numbers are not looked up, so nobody is invited by them (`enable_3pid_lookup: false`).
    pub no_lookup: bool,
    /// How identity servers are called.
    pub identity: identity::Settings,
    /// The client that mails to who is invited by address are to lead to (`email.invite_client_location`).
    pub invite_client: Option<String>,
}

/// Changes of membership.
#[derive(Debug)]
pub struct Membership {
    store: Store,
    state: Arc<State>,
    events: Arc<Events>,
    joins: Arc<Joins>,
    account_data: Arc<AccountData>,
    push: Arc<Push>,
    directory: Arc<Directory>,
    identity: Identity,
    server_name: OwnedServerName,
    clock: Clock,
    supervisor: Supervisor,
    settings: Settings,
    chores: chores::Chores,
    on_the_way: on_the_way::OnTheWay,
}

impl Membership {
    /// Made once; [`Self::start`] begins its work.
    ///
    /// # Errors
    /// If the resolver or the authorities of this machine cannot be read.
    #[expect(clippy::too_many_arguments, reason = "explicit dependencies")]
    pub fn new(
        store: Store,
        state: Arc<State>,
        events: Arc<Events>,
        joins: Arc<Joins>,
        account_data: Arc<AccountData>,
        push: Arc<Push>,
        directory: Arc<Directory>,
        clock: Clock,
        supervisor: Supervisor,
        settings: Settings,
    ) -> Result<Self> {
        let server_name = events.signer().server_name().to_owned();
        Ok(Self {
            store,
            state,
            events,
            joins,
            account_data,
            push,
            directory,
            identity: Identity::new(&settings.identity)?,
            server_name,
            clock,
            supervisor,
            settings,
            chores: chores::Chores::default(),
            on_the_way: on_the_way::OnTheWay::default(),
        })
    }

    /// Leaves a room, rejects an invite, takes back a knock.
    ///
    /// # Errors
    /// 403 if the requester is in no such relation to the room.
    pub async fn leave(&self, who: &Requester, room_id: &RoomId, reason: Option<String>) -> Result<()> {
        let room = self.state.room(room_id).await?;
        match self.state.membership(room.nid, who.user_nid).await? {
            MembershipState::Leave => {
                // Leaving twice is no mistake, leaving where one never was is.
                if self.store.membership(room.nid, who.user_nid).await?.is_none() {
                    return Err(Error::forbidden("You are not a member of this room"));
                }
            }
            MembershipState::Ban => return Err(Error::forbidden("You are banned from this room")),
            _ => {
                let content = MemberContent::bare("leave", reason);
                match self.store.membership(room.nid, who.user_nid).await? {
                    Some(invite) if !self.store.is_resident(room.nid).await? => {
                        self.joins.leave(who, room.clone(), invite, content.object()?).await?;
                    }
                    _ => self.write(&room, who, &who.user_id, &content, None).await.map(drop)?,
                }
            }
        }
        if self.settings.forget_on_leave {
            self.store.forget(room.nid, who.user_nid).await?;
        }
        Ok(())
    }

    /// Invites a user.
    ///
    /// # Errors
    /// 403 if not allowed or the user is in the room or banned.
    pub async fn invite(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        self.check_may_invite(who)?;
        let room = self.known_about(room_id, user).await?;
        if self.of(&room, user).await? == MembershipState::Ban {
            return Err(Error::forbidden("The user is banned from this room"));
        }
        self.invite_as(who, &room, user, reason, false).await.map(drop)
    }

    /// Invites a user, of whatever server, with the content of our choosing.
    ///
    /// # Errors
    /// As [`Self::invite`].
    pub(crate) async fn invite_as(
        &self,
        who: &Requester,
        room: &Room,
        user: &UserId,
        reason: Option<String>,
        is_direct: bool,
    ) -> Result<OwnedEventId> {
        self.check_invitee(user).await?;
        let nid = self.store.intern_user(user).await?;
        let content = self.invite_content(nid, reason).await?.direct(is_direct);
        if user.server_name() == self.server_name {
            return self.write(room, who, user, &content, None).await;
        }
        let draft = self.draft(room, who, user, &content)?;
        self.joins.invite(room, &draft, user).await
    }

    /// Whether somebody may invite at all.
    pub(crate) fn check_may_invite(&self, who: &Requester) -> Result<()> {
        match self.settings.block_non_admin_invites && !who.is_admin {
            true => Err(Error::forbidden("Invites have been disabled on this server")),
            false => Ok(()),
        }
    }

    /// A local user who is to be invited must take invites. Names that nobody has yet may be invited like those that somebody
    /// has, so that strangers do not learn which are taken.
    pub(crate) async fn check_invitee(&self, user: &UserId) -> Result<()> {
        if user.server_name() != self.server_name {
            return Ok(());
        }
        match self.joins.may_be_invited(user).await {
            Err(e) if e.errcode() == "M_INVITE_BLOCKED" => Err(e),
            Err(e @ Error::Fault(_)) => Err(e),
            // Invites of closed accounts and of names nobody has yet are pointless, not forbidden.
            _ => Ok(()),
        }
    }

    /// Removes a user who is in, invited or knocking.
    ///
    /// # Errors
    /// 403 if not allowed or the user is not in the room.
    pub async fn kick(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        let room = self.known_about(room_id, user).await?;
        match self.of(&room, user).await? {
            MembershipState::Leave | MembershipState::Ban => Err(Error::forbidden("The user is not in this room")),
            _ => {
                let content = MemberContent::bare("leave", reason);
                self.write(&room, who, user, &content, None).await.map(drop)
            }
        }
    }

    /// Bans a user; banning twice changes nothing.
    ///
    /// # Errors
    /// 403 if not allowed.
    pub async fn ban(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        let room = self.known_about(room_id, user).await?;
        let content = MemberContent::bare("ban", reason);
        self.write(&room, who, user, &content, None).await.map(drop)
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// 403 if not allowed, and with `M_BAD_STATE` if the user is not banned (client-server API, "Other error codes").
    pub async fn unban(&self, who: &Requester, room_id: &RoomId, user: &UserId, reason: Option<String>) -> Result<()> {
        check_may_write(who)?;
        let room = self.known_about(room_id, user).await?;
        if self.of(&room, user).await? != MembershipState::Ban {
            let why = "The user is not banned from this room";
            return Err(Error::told(StatusCode::FORBIDDEN, "M_BAD_STATE", why));
        }
        let content = MemberContent::bare("leave", reason);
        self.write(&room, who, user, &content, None).await.map(drop)
    }

    /// Takes a room one has left out of one's sight.
    ///
    /// # Errors
    /// 400 `M_UNKNOWN` while one is still in it (spec: "Leaving rooms").
    pub async fn forget(&self, who: &Requester, room_id: &RoomId) -> Result<()> {
        let room = self.known(room_id).await?;
        match self.store.membership(room.nid, who.user_nid).await? {
            None => Err(Error::forbidden("You were never in this room")),
            Some(m) if matches!(m.membership, MembershipState::Leave | MembershipState::Ban) => {
                self.store.forget(room.nid, who.user_nid).await.map(drop)
            }
            Some(_) => Err(Error::unknown("You are still in this room; leave it first")),
        }
    }

    /// The rooms the requester is joined to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_rooms(&self, who: &Requester) -> Result<Vec<OwnedRoomId>> {
        let nids = self.store.joined_rooms(who.user_nid).await?;
        Ok(self.store.rooms(&nids).await?.into_iter().map(|r| r.room_id).collect())
    }

    /// Sends a member event as a state event from a client, with content of its own choosing.
    ///
    /// # Errors
    /// 403 if not allowed; 400 if it is not the content of a member event.
    pub async fn set(&self, who: &Requester, room_id: &RoomId, user: &UserId, content: &str) -> Result<OwnedEventId> {
        #[derive(Deserialize)]
        struct Wanted {
            membership: String,
        }
        check_may_write(who)?;
        let wanted: Wanted =
            serde_json::from_str(content).map_err(|_| Error::bad_json("`membership` is missing or not a string"))?;
        if !matches!(&*wanted.membership, "join" | "leave" | "invite" | "ban" | "knock") {
            return Err(Error::bad_json("`membership` is none of join, leave, invite, ban and knock"));
        }
        if wanted.membership == "invite" {
            self.check_may_invite(who)?;
            self.check_invitee(user).await?;
        }
        let mut room = self.known_about(room_id, user).await?;
        if wanted.membership == "join" {
            room = self.sure_of(room, user).await?;
            if who.is_guest {
                self.check_guest(who, &room).await?;
            }
        }
        let mut content: Map<String, Value> =
            serde_json::from_str(content).map_err(|_| Error::bad_json("The content is not an object"))?;
        // Who vouches for a join is not for the client to say, and means nothing from join to join.
        content.remove("join_authorised_via_users_server");
        if wanted.membership == "join"
            && user == who.user_id
            && !matches!(
                self.state.membership(room.nid, who.user_nid).await?,
                MembershipState::Join | MembershipState::Invite | MembershipState::Ban
            )
            && let Some(voucher) = self.joins.authoriser(Some(who.user_nid), &room).await?
        {
            content.insert("join_authorised_via_users_server".to_owned(), voucher.to_string().into());
        }
        let draft = Draft::of(
            Some(room.room_id.clone()),
            who.user_id.clone(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            &content,
            self.clock.now_ms(),
        )?;
        if wanted.membership == "invite" && user.server_name() != self.server_name {
            return self.joins.invite(&room, &draft, user).await;
        }
        self.events.append(room.nid, who.user_nid, draft, With { dedupe: true, ..With::default() }).await
    }

    async fn known(&self, room_id: &RoomId) -> Result<Arc<Room>> {
        self.state.room(room_id).await.map_err(|e| match e.errcode() {
            "M_NOT_FOUND" => Error::forbidden("You are not a member of this room"),
            _ => e,
        })
    }

    /// A room to do something in to a user: of users of other servers it must be known what they are there.
    async fn known_about(&self, room_id: &RoomId, user: &UserId) -> Result<Arc<Room>> {
        let room = self.known(room_id).await?;
        match user.server_name() == self.server_name || !room.head.partial {
            true => Ok(room),
            false => self.state.whole(room.nid).await,
        }
    }

    /// A room in which it is known what a user is who wants in, ours or not: of one that came in part, a ban may be unknown.
    async fn sure_of(&self, room: Arc<Room>, user: &UserId) -> Result<Arc<Room>> {
        match room.head.partial && self.of(&room, user).await? != MembershipState::Join {
            true => self.state.whole(room.nid).await,
            false => Ok(room),
        }
    }

    async fn of(&self, room: &Room, user: &UserId) -> Result<MembershipState> {
        match self.store.user_nid(user).await? {
            Some(nid) => self.state.membership(room.nid, nid).await,
            None => Ok(MembershipState::Leave),
        }
    }

    async fn write(
        &self,
        room: &Room,
        who: &Requester,
        user: &UserId,
        content: &MemberContent,
        stripped: Option<String>,
    ) -> Result<OwnedEventId> {
        let draft = self.draft(room, who, user, content)?;
        self.events.append(room.nid, who.user_nid, draft, With { stripped, dedupe: true, ..With::default() }).await
    }

    fn draft(&self, room: &Room, who: &Requester, user: &UserId, content: &MemberContent) -> Result<Draft> {
        Draft::of(
            Some(room.room_id.clone()),
            who.user_id.clone(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            content,
            self.clock.now_ms(),
        )
    }
}
