//! Whether servers agree about a room, and if not, the first thing in which they differ.
//!
//! Compared are the graphs of events back from the newest, with what became of each and the state before it, then what
//! follows from them: current state, members, redactions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_store::{
    Store,
    events::{Standing, StoredEvent},
    rooms::Room,
    state::StateMap,
};
use ruma::{OwnedEventId, RoomId, events::room::member::MembershipState};

use super::switch::Node;

/// Type and state key.
type Key = (String, String);
type Named = BTreeMap<Key, OwnedEventId>;

/// One server's view of a room.
pub struct View {
    name: String,
    pub extremities: BTreeSet<OwnedEventId>,
    state: Named,
    /// Joined by the state, and by the table of memberships.
    joined: [BTreeSet<String>; 2],
    /// Back from the extremities to where all servers were in the room, in the order of depth.
    events: Vec<Seen>,
}

/// An event as a server sees it.
struct Seen {
    event: Arc<StoredEvent>,
    before: Option<Named>,
}

impl Seen {
    fn id(&self) -> &str {
        self.event.event_id().as_str()
    }

    fn is_rejected(&self) -> bool {
        self.event.standing == Standing::Rejected
    }

    fn told(&self) -> String {
        let (e, pdu) = (&self.event, &self.event.pdu);
        format!(
            "{} ({} {:?} of {} at depth {}, {:?})",
            e.event_id(),
            pdu.event_type(),
            pdu.state_key(),
            pdu.sender(),
            pdu.depth(),
            e.standing
        )
    }
}

async fn named(store: &Store, map: &StateMap) -> Named {
    let mut named = Named::new();
    for nid in map.values() {
        let event = store.event(*nid).await.unwrap().unwrap();
        let key = (event.pdu.event_type().to_string(), event.pdu.state_key().unwrap().to_owned());
        named.insert(key, event.event_id().to_owned());
    }
    named
}

/// The room as a server has it.
pub async fn room(node: &Node, room_id: &str) -> Arc<Room> {
    let store = &node.server().services().store;
    let nid = store.room_nid(<&RoomId>::try_from(room_id).unwrap()).await.unwrap().unwrap();
    store.room(nid).await.unwrap().unwrap()
}

impl View {
    /// Reads what a server has of a room behind that depth.
    pub async fn of(node: &Node, room_id: &str, floor: u64) -> Self {
        let store = &node.server().services().store;
        let room = room(node, room_id).await;
        let state = named(store, &store.snapshot(room.head.snap).await.unwrap()).await;
        let members = store.members(room.nid, &MembershipState::Join).await.unwrap();
        let members: Vec<_> = members.iter().map(|m| m.user).collect();
        let by_table = store.user_ids(&members).await.unwrap().iter().map(ToString::to_string).collect();
        let mut by_state = BTreeSet::new();
        for ((_, user), id) in state.iter().filter(|((kind, _), _)| kind == "m.room.member") {
            if store.event_by_id(id).await.unwrap().is_some_and(|e| e.pdu.membership() == "join") {
                by_state.insert(user.clone());
            }
        }
        let extremities: BTreeSet<OwnedEventId> =
            room.head.extremities.iter().map(|e| e.event_id().to_owned()).collect();
        let (mut seen, mut next) = (extremities.clone(), Vec::from_iter(extremities.clone()));
        let mut events = Vec::new();
        while let Some(id) = next.pop() {
            let Some(event) = store.event_by_id(&id).await.unwrap() else { continue };
            if event.pdu.depth() <= floor {
                continue;
            }
            next.extend(event.pdu.prev_events().iter().filter(|p| seen.insert((*p).clone())).cloned());
            let before = match event.snap {
                Some(snap) => Some(named(store, &store.snapshot(snap).await.unwrap()).await),
                None => None,
            };
            events.push(Seen { event, before });
        }
        events.sort_by_key(|e| (e.event.pdu.depth(), e.id().to_owned()));
        Self { name: node.name.to_string(), extremities, state, joined: [by_state, by_table], events }
    }

    fn find(&self, id: &str) -> Option<&Seen> {
        self.events.iter().find(|e| e.id() == id)
    }

    /// Whether the table of memberships says what the state says.
    pub fn contradiction(&self) -> Option<String> {
        let [by_state, by_table] = &self.joined;
        let odd: Vec<_> = by_state.symmetric_difference(by_table).collect();
        (!odd.is_empty()).then(|| format!("{}: state and memberships differ about {odd:?}", self.name))
    }

    /// The smallest thing in which two servers differ.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (here, there) = (&self.name, &other.name);
        for seen in &self.events {
            let Some(twin) = other.find(seen.id()) else {
                return Some(format!("{here} has {}, {there} does not", seen.told()));
            };
            if let (Some(before), Some(twins)) = (&seen.before, &twin.before)
                && before != twins
            {
                let what = differing(before, twins);
                return Some(format!("before {}: {what}; in {there} it is {:?}", seen.told(), twin.event.standing));
            }
            if seen.before.is_some() != twin.before.is_some() || seen.is_rejected() != twin.is_rejected() {
                return Some(format!("{} in {here}, {:?} in {there}", seen.told(), twin.event.standing));
            }
        }
        if let Some(more) = other.events.iter().find(|e| self.find(e.id()).is_none()) {
            return Some(format!("{there} has {}, {here} does not", more.told()));
        }
        if self.extremities != other.extremities {
            return Some(format!("extremities: {:?} and {:?}", self.extremities, other.extremities));
        }
        if self.state != other.state {
            return Some(format!("the current state: {}", differing(&self.state, &other.state)));
        }
        // Redactions count where they are no matter of who heard what first.
        let live = |e: &Seen| e.event.standing == Standing::Live;
        for seen in self.events.iter().filter(|e| live(e)) {
            let Some(target) = seen.event.pdu.redacts().and_then(|id| self.find(id.as_str())) else { continue };
            let twin = other.find(seen.id()).filter(|e| live(e)).and_then(|_| other.find(target.id()));
            if let Some(twin) = twin
                && twin.event.redacted_by.is_some() != target.event.redacted_by.is_some()
            {
                let (one, two) = (target.event.redacted_by.is_some(), twin.event.redacted_by.is_some());
                return Some(format!("{} redacted: {one} in {here}, {two} in {there}", target.told()));
            }
        }
        None
    }

    /// Whether all events of these users are part of the timeline, but for what they do to the membership of others.
    pub fn hides(&self, users: &[String]) -> Option<String> {
        let hidden = self.events.iter().find(|e| {
            let pdu = &e.event.pdu;
            // Whom they invite may have come, and whom they kick gone, as others see it: that is for soft failure to say.
            let of_others = pdu.membership() != "" && pdu.state_key() != Some(pdu.sender().as_str());
            users.contains(&pdu.sender().to_string())
                && !of_others
                && !matches!(e.event.standing, Standing::Live | Standing::Backfilled)
        });
        hidden.map(|e| format!("{} does not show {}", self.name, e.told()))
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }
}

/// The entries in which two states differ.
fn differing(one: &Named, other: &Named) -> String {
    let keys: BTreeSet<&Key> = one.keys().chain(other.keys()).collect();
    let odd = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
    odd.take(3)
        .map(|key| format!("{key:?}: {:?} and {:?}", one.get(key), other.get(key)))
        .collect::<Vec<_>>()
        .join(", ")
}
