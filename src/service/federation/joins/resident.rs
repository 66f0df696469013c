//! The resident's side: templates for users of other servers, and the events they make of them. What comes back is
//! looked at as if we had never seen it: the template was advice.

use std::{sync::Arc, time::Duration};

use hearth_base::{Doing, Error, Result, ids::EventNid};
use hearth_rules::{
    auth,
    event::{Draft, Pdu, Unverified},
    versions::RoomVersion,
};
use hearth_store::{
    events::{Standing, StoredEvent},
    rooms::Room,
};
use ruma::{
    EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{Joins, incompatible};
use crate::{
    events::{Arrival, Arrived},
    federation::{answers::Pieces, outliers::auth_ids},
    state::version_of,
};

/// What `make_join`, `make_leave` and `make_knock` answer.
#[derive(Debug, Serialize)]
pub struct Template {
    room_version: RoomVersionId,
    event: Box<RawValue>,
}

/// Which event another server asks to add.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// Who asks.
    pub origin: &'a ServerName,
    /// The room of the path.
    pub room_id: &'a RoomId,
    /// The event id of the path.
    pub event_id: &'a EventId,
    /// The event.
    pub json: &'a str,
}

/// A membership of another server's user that was taken in.
struct Taken {
    room: Arc<Room>,
    event: Arc<StoredEvent>,
    /// Whether it was not here before.
    is_news: bool,
}

/// How long somebody may take to speak before a server that has come in is shown what it may have missed.
const SPOKEN: Duration = Duration::from_secs(1);

impl Joins {
    /// A template for a user of `origin` (`make_join`, `make_leave`, `make_knock`); `versions` are those it offers.
    ///
    /// # Errors
    /// 404 for rooms we are not in, 403 if the room or its ACL does not allow it, 400 `M_INCOMPATIBLE_ROOM_VERSION`,
    /// `M_UNABLE_TO_AUTHORISE_JOIN` and `M_UNABLE_TO_GRANT_JOIN`.
    pub async fn make(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        wish: MembershipState,
        versions: Option<&[RoomVersionId]>,
    ) -> Result<Template> {
        if user.server_name() != origin {
            return Err(Error::forbidden(format!("{user} is not a user of {origin}")));
        }
        let room = self.resident_for(origin, room_id).await?;
        if versions.is_some_and(|offered| !offered.contains(&room.version)) {
            return Err(incompatible(room.version.as_str()));
        }
        let (nid, now) = self.membership_of(&room, user).await?;
        let mut content = json!({ "membership": wish });
        match (&wish, &now) {
            (MembershipState::Join, MembershipState::Join | MembershipState::Invite | MembershipState::Ban) => {}
            (MembershipState::Join, _) => {
                if let Some(voucher) = self.authoriser(nid, &room).await? {
                    content["join_authorised_via_users_server"] = json!(voucher);
                }
            }
            (MembershipState::Leave, MembershipState::Leave) => {
                return Err(Error::forbidden(format!("{user} is not in this room")));
            }
            _ => {}
        }
        let draft = Draft::of(
            Some(room.room_id.clone()),
            user.to_owned(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            &content,
            self.clock.now_ms(),
        )?;
        let event = self.events.template(room.nid, &draft).await?;
        let event = RawValue::from_string(event).doing("writing a template")?;
        Ok(Template { room_version: room.version.clone(), event })
    }

    /// Takes a join; gives the JSON of the room's state before it, of the auth chain and of the event as it stands here,
    /// and whether it is news. Whoever can do without has members left out (`omit_members`).
    ///
    /// # Errors
    /// As [`Self::make`], and 400 `M_INVALID_PARAM` for what is no such event, 403 for another server's and for bad signatures.
    pub async fn send_join(&self, reply: Reply<'_>, omit_members: bool) -> Result<(Pieces, bool)> {
        let origin = reply.origin;
        let was_here = match self.resident(reply.room_id).await? {
            Some(room) => self.servers.is_in(origin, room.nid).await?,
            None => false,
        };
        let Taken { room, event, is_news } = self.take(reply, MembershipState::Join).await?;
        if is_news && !was_here {
            let (events, nid, stopping) = (self.events.clone(), room.nid, self.supervisor.stopping());
            self.supervisor.detach(async move {
                if stopping.run_until_cancelled(tokio::time::sleep(SPOKEN)).await.is_none() {
                    return;
                }
                if let Err(e) = events.show_ends(nid).await {
                    tracing::warn!(room.nid = nid.0, error = %e, "a server that came in was not shown all ends");
                }
            });
        }
        Ok((self.admitted(&room, &event, omit_members).await?, is_news))
    }

    /// Takes a leave: an invite rejected, a knock taken back.
    ///
    /// # Errors
    /// As [`Self::send_join`].
    pub async fn send_leave(&self, reply: Reply<'_>) -> Result<()> {
        self.take(reply, MembershipState::Leave).await.map(drop)
    }

    /// Takes a knock; gives what one may know of the room before joining, as events.
    ///
    /// # Errors
    /// As [`Self::send_join`].
    pub async fn send_knock(&self, reply: Reply<'_>) -> Result<Vec<Box<RawValue>>> {
        let taken = self.take(reply, MembershipState::Knock).await?;
        self.shown_events(&taken.room, None).await
    }

    /// A room we are in, that does not keep `origin` out, and of which we know enough to let others in and out.
    pub(super) async fn resident_for(&self, origin: &ServerName, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.resident(room_id).await?;
        let room = room.ok_or_else(|| Error::not_found("This server is not in that room"))?;
        if room.head.partial {
            return Err(Error::not_found("This server has just joined that room and does not know all of it yet"));
        }
        self.check_acl(&room, origin).await?;
        Ok(room)
    }

    async fn take(&self, reply: Reply<'_>, wish: MembershipState) -> Result<Taken> {
        let mut guess = true;
        let taken = self.take_in(reply, &wish, &mut guess).await;
        // It was taken for new, and may not be.
        match taken.is_err() && guess && self.store.event_by_id(reply.event_id).await?.is_some() {
            true => self.take_in(reply, &wish, &mut false).await,
            false => taken,
        }
    }

    /// `guess`: whether the event may be taken for new without asking; afterwards, whether it was.
    async fn take_in(&self, reply: Reply<'_>, wish: &MembershipState, guess: &mut bool) -> Result<Taken> {
        let may_guess = std::mem::take(guess);
        let room = self.resident_for(reply.origin, reply.room_id).await?;
        let version = version_of(&room)?;
        let event = Pdu::parse_remote(reply.json, version)?;
        check_form(event.claimed(), &reply, wish)?;
        *guess = may_guess && !self.store.may_have(&room, reply.event_id, event.claimed().depth());
        let known = match *guess {
            true => None,
            false => self.store.event_by_id(reply.event_id).await?,
        };
        let outlier = match known {
            Some(known) if known.standing == Standing::Outlier => Some(known.nid),
            // Its server did not get our answer.
            Some(known) if known.standing == Standing::Live && known.room == room.nid => {
                return Ok(Taken { room, event: known, is_news: false });
            }
            Some(_) => return Err(Error::forbidden("This event was refused before")),
            None => None,
        };
        let event = self.vouched(event, &room, wish).await?;
        let pdu = self.verified(event, version).await?;
        // Refused before anything is kept: a stranger could fill the disk otherwise.
        self.events.check_now(room.nid, &pdu).await?;
        // The other server is not in the room, and cannot know whom to ask.
        let pdu = self.events.vetted(&room, Arc::new(pdu)).await?;
        let arrival = self.arrival(pdu, outlier, &room, version).await?;
        match self.events.receive(room.nid, vec![arrival]).await?.pop() {
            Some(Arrived::Placed) => {}
            Some(Arrived::SoftFailed(why) | Arrived::Rejected(why)) => return Err(Error::forbidden(why)),
            None => return Err(Error::broken("nothing became of an event")),
        }
        let event = self.store.event_by_id(reply.event_id).await?;
        let event = event.ok_or_else(|| Error::broken("an event that was stored is not there"))?;
        Ok(Taken { room, event, is_news: true })
    }

    /// A join that one of ours is to vouch for gets our signature, if its user meets a condition.
    async fn vouched(&self, event: Unverified, room: &Room, wish: &MembershipState) -> Result<Unverified> {
        #[derive(Deserialize)]
        struct Voucher {
            join_authorised_via_users_server: Option<OwnedUserId>,
        }
        let restricted = version_of(room)?.rules.authorization.restricted_join_rule;
        let claimed = event.claimed();
        let voucher = claimed.content_as::<Voucher>().and_then(|c| c.join_authorised_via_users_server);
        let ours = voucher.is_some_and(|user| user.server_name() == self.name());
        if !restricted || *wish != MembershipState::Join || !ours {
            return Ok(event);
        }
        let (nid, now) = self.membership_of(room, claimed.sender()).await?;
        if !matches!(now, MembershipState::Join | MembershipState::Invite) {
            self.authoriser(nid, room).await?;
        }
        event.co_signed(self.server_keys.signer()).map_err(|e| Error::invalid_param(e.to_string()))
    }

    /// An event whose signatures and hash are good.
    ///
    /// # Errors
    /// 403 if they are not.
    pub(super) async fn verified(&self, event: Unverified, version: &'static RoomVersion) -> Result<Pdu> {
        let checked = self.server_keys.verify(vec![event], version).await?.pop();
        checked.ok_or_else(|| Error::broken("a check without outcome"))?
    }

    /// An event that leans on nothing but what we have; `outlier` is its number if it is here already.
    async fn arrival(
        &self,
        pdu: Arc<Pdu>,
        outlier: Option<EventNid>,
        room: &Room,
        version: &RoomVersion,
    ) -> Result<Arrival> {
        let ids = auth_ids(version, &pdu);
        let auth = self.store.events_by_id(&ids).await?;
        let auth: Vec<Arc<StoredEvent>> = auth.into_iter().filter(|e| e.room == room.nid).collect();
        if auth.len() != ids.len() {
            return Err(Error::invalid_param("The event names auth events that are not of this room"));
        }
        auth::check_auth_events(version, &pdu, |id| auth.iter().find(|e| e.event_id() == id).map(|e| e.pdu.clone()))?;
        let prev = self.store.events_by_id(pdu.prev_events()).await?;
        let placed = prev.iter().filter(|e| e.room == room.nid && e.after.is_some()).count();
        if placed == 0 || placed != pdu.prev_events().len() {
            return Err(Error::invalid_param("The event names predecessors that are not of this room"));
        }
        let nid = match outlier {
            Some(nid) => nid,
            None => self.store.new_event_nid().await?,
        };
        let arrival = Arrival::placed(nid, pdu, auth.iter().map(|e| e.nid).collect());
        Ok(Arrival { known: outlier.is_some(), ..arrival })
    }

    /// Whether the room's ACL lets a server take part.
    pub(super) async fn check_acl(&self, room: &Room, server: &ServerName) -> Result<()> {
        if self.acls.allows(room.nid, server).await? {
            return Ok(());
        }
        Err(Error::forbidden("Your server is not admitted to this room"))
    }
}

/// Whether an event is what the path says, of a user of who asks (server-server API, `send_join`).
fn check_form(event: &Pdu, reply: &Reply<'_>, wish: &MembershipState) -> Result<()> {
    let what_is_wrong = if event.event_id() != reply.event_id {
        "The event is not the one of the path"
    } else if event.room_id() != reply.room_id {
        "The event is of another room"
    } else if *event.event_type() != TimelineEventType::RoomMember || event.membership() != wish.as_str() {
        "The event is of another kind"
    } else if event.sender().server_name() != reply.origin {
        return Err(Error::forbidden("The event is of another server's user"));
    } else if event.state_key() != Some(event.sender().as_str()) {
        "The event is about somebody else"
    } else {
        return Ok(());
    };
    Err(Error::invalid_param(what_is_wrong))
}
