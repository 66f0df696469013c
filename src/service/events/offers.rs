//! Events that another server has a say in before they have a place: templates that it is to complete (`make_join` and its
//! kin), and our own that it is to sign as well (invites). They stand on the room's newest head without holding its lane:
//! until they come back by [`Events::receive`] the room may have moved on, which then is a fork like any other.

use std::sync::Arc;

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use hearth_rules::{
    auth,
    event::{Draft, Pdu, PolicyServer, Reference, policy::is_exempt},
};
use hearth_store::{rooms::Room, state::StateMap};
use ruma::{OwnedEventId, events::TimelineEventType};

use super::{
    Arrival, Arrived, Events, With,
    allowed::AllowedBy,
    ends::some_extremities,
    heads::Work,
    lane::{Head, pdu_of},
};
use crate::state::version_of;

/// Where an event would stand.
struct Place {
    head: Head,
    allowed_by: AllowedBy,
    prev: Vec<Reference>,
    depth: u64,
}

impl Arrival {
    /// An event that stands on what we have.
    #[must_use]
    pub fn placed(nid: EventNid, pdu: Arc<Pdu>, auth: Vec<EventNid>) -> Self {
        Self {
            pdu,
            nid,
            known: false,
            auth,
            rejected: None,
            refused: false,
            states: Vec::new(),
            whole: false,
            missing: Vec::new(),
            referenced: false,
            history: false,
            relay: true,
            told: false,
            in_part: false,
            of_stranger: false,
            with: With::default(),
        }
    }
}

impl Events {
    /// An event without hashes and signatures for a user of another server, if the room's rules allow it (server-server
    /// API, "Joining Rooms").
    ///
    /// # Errors
    /// 403 if they do not.
    pub async fn template(&self, room: RoomNid, draft: &Draft) -> Result<String> {
        // Of what is committed: the answer names what allows the event, and comes back while the newest may still be on its
        // way to the disk.
        let place = self.place(Head::read(&self.store, room).await?, draft).await?;
        // What its server will sign is not ours to know; the rules look at no signature.
        self.built(&place, draft)?;
        let version = place.head.version;
        draft.template(version, &place.prev, place.depth, &place.allowed_by.named(version))
    }

    /// An event of ours, signed, that becomes part of the room by [`Events::receive`].
    ///
    /// # Errors
    /// 403 if the room's rules do not allow it; 400/413 if it cannot be an event.
    pub async fn offer(&self, room: RoomNid, draft: &Draft) -> Result<Arrival> {
        let place = self.place(Head::read(&self.store, room).await?, draft).await?;
        let pdu = Arc::new(self.built(&place, draft)?);
        let nid = self.store.new_event_nid().await?;
        Ok(Arrival::placed(nid, pdu, place.allowed_by.nids()))
    }

    /// The policy server that is to sign an event of ours, if the room has one.
    pub(super) async fn policy_server(&self, head: &Head, draft: &Draft) -> Result<Option<PolicyServer>> {
        for nid in self.policy.entries(&head.state.map) {
            if is_exempt(&draft.event_type.to_string(), draft.state_key.as_deref()) {
                return Ok(None);
            }
            if let Some(event) = pdu_of(&self.store, &head.fresh, nid).await?
                && let Some(server) = self.policy.named_by(head.room.nid, &event).await?
            {
                return Ok(Some(server));
            }
        }
        Ok(None)
    }

    /// An event that is about to be part of the room, with the signature of the room's policy server if it has one.
    ///
    /// # Errors
    /// What the policy server says if it does not sign it.
    pub async fn vetted(&self, room: &Room, pdu: Arc<Pdu>) -> Result<Arc<Pdu>> {
        match self.policy.of_room(room).await? {
            Some(server) => self.policy.signed(&server, pdu, version_of(room)?).await,
            None => Ok(pdu),
        }
    }

    /// Whether the room's policy server has signed an event, or the room has none.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_vetted(&self, room: &Room, pdu: &Pdu) -> Result<bool> {
        let server = self.policy.of_room(room).await?;
        let version = version_of(room)?;
        Ok(server.is_none_or(|server| server.approves(pdu, version)))
    }

    /// Appends an event of our own that the room's policy server is to sign first.
    pub(super) async fn append_signed(
        &self,
        room: RoomNid,
        sender: UserNid,
        draft: &Draft,
        with: With,
        server: &PolicyServer,
    ) -> Result<OwnedEventId> {
        if with.quiet || with.unshown {
            // It says nothing, so there is nothing to look at; the next event that says something does the same.
            return Err(Error::forbidden("The room has a policy server"));
        }
        let head = Head::read(&self.store, room).await?;
        if with.dedupe
            && let Some(same) = head.says_already(&self.store, draft).await?
        {
            return Ok(same);
        }
        let version = head.version;
        let place = self.place(head, draft).await?;
        let pdu = self.policy.signed(server, Arc::new(self.built(&place, draft)?), version).await?;
        let event_id = pdu.event_id().to_owned();
        let nid = self.store.new_event_nid().await?;
        let arrival = Arrival { with: with.clone(), ..Arrival::placed(nid, pdu, place.allowed_by.nids()) };
        match self.build(room, Work::Receive(vec![arrival])).await {
            Ok(mut outcomes) => match outcomes.pop() {
                Some(Arrived::Placed) => Ok(event_id),
                Some(Arrived::SoftFailed(why) | Arrived::Rejected(why)) => Err(Error::forbidden(why)),
                None => Err(Error::broken("nothing became of an event")),
            },
            Err(e) => self.done_before(sender, room, &with).await.ok_or(e),
        }
    }

    /// Whether the room's present state allows an event of another server.
    ///
    /// # Errors
    /// 403 if it does not.
    pub async fn check_now(&self, room: RoomNid, pdu: &Pdu) -> Result<()> {
        let head = self.newest(room).await?;
        let keys = auth::auth_keys(head.version, pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content_json())?;
        let is_create = *pdu.event_type() == TimelineEventType::RoomCreate;
        let allowed_by = AllowedBy::of(&self.store, &head, keys, is_create).await?;
        auth::check_against(head.version, pdu, |t, k| allowed_by.by_key(t, k))?;
        Ok(())
    }

    /// Whether a state allows an event.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn check_by(&self, room: RoomNid, pdu: &Pdu, state: &StateMap) -> Result<bool> {
        let mut head = Head::read(&self.store, room).await?;
        head.state.map = state.clone();
        let keys = auth::auth_keys(head.version, pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content_json())?;
        let allowed_by = AllowedBy::of(&self.store, &head, keys, false).await?;
        Ok(auth::check_against(head.version, pdu, |t, k| allowed_by.by_key(t, k)).is_ok())
    }

    /// The newest head of a room, which may be on its way to the disk.
    async fn newest(&self, room: RoomNid) -> Result<Head> {
        let lane = self.lanes.get_with(room, Arc::default);
        let mut newest = lane.newest.lock().await;
        match &newest.head {
            Some(head) => Ok(head.clone()),
            None => {
                let head = Head::read(&self.store, room).await?;
                newest.head = Some(head.clone());
                Ok(head)
            }
        }
    }

    async fn place(&self, head: Head, draft: &Draft) -> Result<Place> {
        if draft.event_type == TimelineEventType::RoomCreate || head.room.head.extremities.is_empty() {
            return Err(Error::forbidden("Nothing can be added to this room"));
        }
        let allowed_by = AllowedBy::gather(&self.store, &head, draft).await?;
        let prev = some_extremities(&head.room.head.extremities);
        let deepest = head.room.head.extremities.iter().map(|e| e.depth).max().unwrap_or(0);
        Ok(Place { head, allowed_by, prev, depth: deepest.saturating_add(1).unsigned_abs() })
    }

    fn built(&self, place: &Place, draft: &Draft) -> Result<Pdu> {
        let (version, allowed_by) = (place.head.version, &place.allowed_by);
        let named = allowed_by.named(version);
        let pdu = draft.build(version, &place.prev, place.depth, &named, &self.signer)?;
        auth::check(version, &pdu, |id| allowed_by.by_id(id), |t, k| allowed_by.by_key(t, k))?;
        Ok(pdu)
    }
}
