//! Coming in: joining and knocking, here where this server is in the room and knows enough of it, else through others.

use hearth_base::{Error, Requester, Result};
use hearth_store::rooms::Room;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, events::room::member::MembershipState};

use super::{Joining, Membership};
use crate::{events::check_may_write, federation::joins::Went};

impl Membership {
    /// Whether this server is in a room, so that joining it needs nobody else.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_here(&self, room_id: &RoomId) -> Result<bool> {
        Ok(self.joins.resident(room_id).await?.is_some())
    }

    /// Joins a room: here if this server is in it, else through the servers of `via` and those we know of.
    ///
    /// # Errors
    /// 404 if nobody is known who is in the room, 403 if its rules do not allow it, 502 and 504 if no server can be asked.
    pub async fn join(
        &self,
        who: &Requester,
        room_id: &RoomId,
        via: &[OwnedServerName],
        wish: Joining,
    ) -> Result<OwnedRoomId> {
        check_may_write(who)?;
        let coming = self.sets_out(who.user_nid);
        let room_id = self.come(who, room_id, via, wish).await?;
        self.arrives(coming, who, &room_id).await;
        Ok(room_id)
    }

    async fn come(
        &self,
        who: &Requester,
        room_id: &RoomId,
        via: &[OwnedServerName],
        wish: Joining,
    ) -> Result<OwnedRoomId> {
        let was = match self.store.room_nid(room_id).await? {
            Some(nid) => self.state.membership(nid, who.user_nid).await?,
            None => MembershipState::Leave,
        };
        if let Some(room) = self.joins.resident(room_id).await? {
            if room.head.partial && was != MembershipState::Join {
                self.check_guest(who, &room).await?;
                // Whether they are banned, for one, only those know who know all of the state.
                let content = self.joined(who, &wish).await?.object()?;
                if self.joins.join_beside(who, &room, via, content).await? == Went::In {
                    self.follow(who, &room).await;
                    return Ok(room.room_id.clone());
                }
                let room = self.state.room(room_id).await?;
                return self.join_here(who, &room, via, wish).await;
            }
            return self.join_here(who, &room, via, wish).await;
        }
        let content = self.joined(who, &wish).await?.object()?;
        let went = self.joins.join(who, room_id, via, content).await.map_err(|e| match was {
            // Others may have lifted the ban that we saw; if it does not work, it is why.
            MembershipState::Ban => Error::forbidden("You are banned from this room"),
            _ => e,
        })?;
        match went {
            Went::In => {
                self.follow(who, &*self.state.room(room_id).await?).await;
                Ok(room_id.to_owned())
            }
            Went::Open => {
                let room = self.state.room(room_id).await?;
                self.join_here(who, &room, via, wish).await
            }
        }
    }

    async fn join_here(
        &self,
        who: &Requester,
        room: &Room,
        via: &[OwnedServerName],
        wish: Joining,
    ) -> Result<OwnedRoomId> {
        let mut now = self.state.membership(room.nid, who.user_nid).await?;
        if now == MembershipState::Join && wish.says_nothing() {
            return Ok(room.room_id.clone());
        }
        if now != MembershipState::Join {
            self.check_guest(who, room).await?;
            if let Some(signed) = &wish.third_party_signed {
                self.accept(who, room, signed).await?;
                now = MembershipState::Invite;
            }
        }
        let mut content = self.joined(who, &wish).await?;
        if !matches!(now, MembershipState::Join | MembershipState::Invite | MembershipState::Ban) {
            match self.joins.authoriser(Some(who.user_nid), room).await {
                Ok(voucher) => content.join_authorised_via_users_server = voucher,
                Err(e) if matches!(e.errcode(), "M_UNABLE_TO_GRANT_JOIN" | "M_UNABLE_TO_AUTHORISE_JOIN") => {
                    return match self.joins.join_vouched(who, room, via, content.object()?).await {
                        Ok(()) => {
                            self.follow(who, room).await;
                            Ok(room.room_id.clone())
                        }
                        // Nobody else is there who could; which of us cannot is between servers.
                        Err(other) if other.errcode() == "M_NOT_FOUND" => {
                            tracing::debug!(room.id = %room.room_id, error = %e, "nobody lets a user into a restricted room");
                            Err(Error::forbidden("Nobody can tell that you are in a room that this room lets in"))
                        }
                        Err(other) => Err(other),
                    };
                }
                Err(e) => return Err(e),
            }
        }
        self.write(room, who, &who.user_id, &content, None).await?;
        if now != MembershipState::Join {
            self.follow(who, room).await;
        }
        Ok(room.room_id.clone())
    }

    /// Knocks at a room's door: here if this server is in it, else through others.
    ///
    /// # Errors
    /// 404 if nobody is known who is in the room, 403 if its join rules do not take knocks.
    pub async fn knock(
        &self,
        who: &Requester,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<OwnedRoomId> {
        check_may_write(who)?;
        let content = self.content("knock", who.user_nid, reason).await?;
        if !self.is_here(room_id).await? && self.joins.knock(who, room_id, via, content.object()?).await? == Went::In {
            return Ok(room_id.to_owned());
        }
        let room = self.sure_of(self.state.room(room_id).await?, &who.user_id).await?;
        self.write(&room, who, &who.user_id, &content, None).await?;
        Ok(room.room_id.clone())
    }
}
