//! What is to be stored: events with all that follows from them, in one piece for each room.

use std::sync::Arc;

use hearth_base::ids::{EventNid, KeyNid, SnapNid, UserNid};
use hearth_rules::event::Pdu;
use ruma::{OwnedEventId, events::room::member::MembershipState};

use super::{Restated, Standing, StoredEvent, Wholeness};
use crate::{rooms::Room, state::SnapRow};

/// A membership that an event brings.
#[derive(Clone, Debug)]
pub struct NewMembership {
    /// Whose.
    pub user: UserNid,
    /// What.
    pub membership: MembershipState,
    /// A user of this server.
    pub local: bool,
    /// Stripped state from outside, for invites and knocks.
    pub stripped: Option<String>,
}

/// What a user's push rules made of an event.
#[derive(Clone, Debug)]
pub struct NewPushAction {
    /// Whose rules.
    pub user: UserNid,
    /// Whether the user is notified.
    pub notify: bool,
    /// Whether it is a highlight.
    pub highlight: bool,
    /// The actions, JSON array.
    pub actions: String,
}

/// A relation that an event has to another (spec: "Relationship types").
#[derive(Clone, Debug)]
pub struct NewRelation {
    /// The event related to.
    pub target: OwnedEventId,
    /// E.g. `m.thread`.
    pub rel_type: String,
    /// `key` of an annotation.
    pub key: Option<String>,
}

/// A redaction taking effect with an event.
#[derive(Clone, Debug)]
pub struct NewRedaction {
    /// The event that loses its content.
    pub target: EventNid,
    /// Its JSON from now on.
    pub json: String,
}

/// A redaction that was here before the event it is about, which comes now.
#[derive(Clone, Debug)]
pub struct LateRedaction {
    /// What it takes away.
    pub redaction: NewRedaction,
    /// The redaction.
    pub by: EventNid,
    /// When it was sent, ms.
    pub at_ms: i64,
}

/// An event about to be stored.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its number, from [`crate::Store::new_event_nid`].
    pub nid: EventNid,
    /// The event.
    pub pdu: Arc<Pdu>,
    /// How it stands.
    pub standing: Standing,
    /// Who sent it.
    pub sender: UserNid,
    /// Its state key.
    pub key: Option<KeyNid>,
    /// Whether the row exists already: an outlier that now gets a place.
    pub known: bool,
    /// State before it.
    pub snap: Option<SnapNid>,
    /// State after it; equal to `snap` unless it is state that was allowed there.
    pub after: Option<SnapNid>,
    /// Its auth events, where all are known; since version 12 the create event too, though it is not named.
    pub auth: Option<Vec<EventNid>>,
    /// The room's counter after it.
    pub counter: i64,
    /// The state event it takes the place of.
    pub replaces: Option<EventNid>,
    /// Whether it changes the current state.
    pub sets_state: bool,
    /// Device and transaction id it was sent under.
    pub txn: Option<(String, String)>,
    /// The membership it brings.
    pub membership: Option<NewMembership>,
    /// Whether its sender, one of ours, has thereby read the room (spec: push module, "Receiving notifications").
    pub reads: bool,
    /// Whether the room's counter went up for it.
    pub counted: bool,
    /// Thread it belongs to: `main` or the root's event id.
    pub thread: String,
    /// What deviating members' rules made of it.
    pub push: Vec<NewPushAction>,
    /// Its relation.
    pub relation: Option<NewRelation>,
    /// The event it redacts, if that takes effect now.
    pub redaction: Option<NewRedaction>,
    /// A user of another server sent it and only we were told (`send_join` and its like): we owe it to the room's
    /// servers, as we owe them our own events.
    pub relay: bool,
    /// A user of ours sent it through another server, which tells the others.
    pub told: bool,
    /// The room's revision with it, if the state before it is not whole: then it is to be replaced.
    pub partial: Option<i64>,
}

impl NewEvent {
    /// An event that others name and that has no place in the timeline; `rejected` if its auth events refuse it.
    #[must_use]
    pub fn outlier(
        nid: EventNid,
        pdu: Arc<Pdu>,
        sender: UserNid,
        key: Option<KeyNid>,
        auth: Option<Vec<EventNid>>,
        rejected: bool,
    ) -> Self {
        Self {
            nid,
            pdu,
            standing: if rejected { Standing::Rejected } else { Standing::Outlier },
            sender,
            key,
            known: false,
            snap: None,
            after: None,
            auth,
            counter: 0,
            replaces: None,
            sets_state: false,
            txn: None,
            membership: None,
            reads: false,
            counted: false,
            thread: String::new(),
            push: Vec::new(),
            relay: false,
            told: false,
            partial: None,
            relation: None,
            redaction: None,
        }
    }
}

/// A change of the current state that no event of the same [`Append`] makes by itself: the outcome of a resolution, or
/// (then old and new are the same) that an event which seems to change the state does not.
#[derive(Clone, Debug)]
pub struct StateChange {
    /// Which entry.
    pub key: KeyNid,
    /// What stood there.
    pub old: Option<EventNid>,
    /// What stands there now.
    pub new: Option<Arc<StoredEvent>>,
    /// Whose membership the entry is, if it is one: the user, and whether they are ours.
    pub member: Option<(UserNid, bool)>,
}

/// The membership of a user, as a row of `memberships`.
#[derive(Clone, Debug)]
pub struct MemberRow {
    /// Whose.
    pub user: UserNid,
    /// What.
    pub membership: MembershipState,
    /// The event that says so.
    pub event: EventNid,
    /// A user of this server.
    pub local: bool,
}

/// Events of one room, all or none, on top of a known head.
#[derive(Clone, Debug)]
pub struct Append {
    /// The room as it is afterwards; its revision is greater than `on_rev`, its position is set by the writer.
    pub room: Room,
    /// Revision this was built on; `None` if the room does not exist yet.
    pub on_rev: Option<i64>,
    /// Snapshots that the events and the head refer to.
    pub snaps: Vec<SnapRow>,
    /// The events, oldest first.
    pub events: Vec<NewEvent>,
    /// What else changes in the current state, after the last event.
    pub changes: Vec<StateChange>,
    /// Memberships that come with a state which did not grow by single events: of a room joined through another server.
    pub members: Vec<MemberRow>,
    /// Events that these name as their predecessors and that we do not have, with the depth of who names them.
    pub missing: Vec<(OwnedEventId, i64)>,
    /// Which of the events are redacted by what was here before them.
    pub redacted: Vec<LateRedaction>,
    /// Events that these redact and that we do not have.
    pub redactions_ahead: Vec<(OwnedEventId, EventNid)>,
    /// Events of the room that get other states.
    pub restated: Vec<Restated>,
    /// How what is known of the room's state changes.
    pub wholeness: Wholeness,
}

impl Append {
    /// Nothing yet, on that revision of the room.
    #[must_use]
    pub fn on(room: Room, on_rev: Option<i64>) -> Self {
        Self {
            room,
            on_rev,
            snaps: Vec::new(),
            events: Vec::new(),
            changes: Vec::new(),
            members: Vec::new(),
            missing: Vec::new(),
            redacted: Vec::new(),
            redactions_ahead: Vec::new(),
            restated: Vec::new(),
            wholeness: Wholeness::Same,
        }
    }
}

/// What became of an [`Append`].
#[derive(Clone, Debug)]
pub enum Appended {
    /// Stored; the events as they stand now.
    Done(Vec<Arc<StoredEvent>>),
    /// The room had moved on: build again on its new head.
    Conflict,
}
