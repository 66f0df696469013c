//! One state from many (rooms/vN, "State resolution"): ruma's algorithm for version 2 and 2.1, and in [`v1`] our own
//! for room version 1, which ruma lacks.
//!
//! Pure and synchronous, and for a torn room slow: call it on a blocking thread. Every event it may need must be at
//! hand by `fetch`: those of the states, of the auth difference and of the conflicted subgraph, the chains of power levels
//! events below them, and the auth events of all these. An event that `fetch` does not know is passed over, and servers
//! then disagree.
//!
//! Whole states need not be given: see [`needed_keys`].

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::error::{Doing, Result};
use ruma::{EventId, OwnedEventId, events::StateEventType, state_res::utils::event_id_set::EventIdSet};

use crate::{
    auth::judged::{self, Judged},
    event::Pdu,
    versions::RoomVersion,
};

pub mod v1;

/// A state: for each pair of type and state key the event that stands there.
pub type StateMap = ruma::state_res::StateMap<OwnedEventId>;
/// A set of events.
pub type EventSet = EventIdSet<OwnedEventId>;

/// Resolves the states of a room. `auth_chains` holds, for each of `states`, the union of the auth chains of its events
/// (without those events themselves, unless one is in another's chain); events that all have in common may be left out
/// of all of them. `between` is the [`conflicted_subgraph`], if the caller has a cheaper way to it than event by event; it
/// is only asked for by versions that [look there](RoomVersion::resolves_between). The outcome does not depend on the
/// order of the states.
pub fn resolve(
    version: &RoomVersion,
    states: &[StateMap],
    auth_chains: Vec<EventSet>,
    between: Option<EventSet>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<StateMap> {
    let Some((first, rest)) = states.split_first() else { return Ok(StateMap::new()) };
    if rest.iter().all(|state| state == first) {
        return Ok(first.clone());
    }
    let Some(rules) = version.rules.state_res.v2_rules() else {
        return Ok(v1::resolve(version, states, fetch));
    };
    let room = states.iter().flat_map(|state| state.values()).find_map(|id| fetch(id));
    let invite_only = room.and_then(|event| judged::invite_only(version, event.room_id()));
    // Each is looked at many times, and large ones are dear to make.
    let judged: RefCell<HashMap<OwnedEventId, Option<Judged<Arc<Pdu>>>>> = RefCell::default();
    let seen = |id: &EventId| {
        let make = || {
            let event = if judged::is_invite_only(id) { invite_only.clone() } else { fetch(id) };
            event.map(|event| Judged::new(version, event).with_default_rules())
        };
        if let Some(known) = judged.borrow().get(id) {
            return known.clone();
        }
        let made = make();
        judged.borrow_mut().insert(id.to_owned(), made.clone());
        made
    };
    let subgraph = |conflicted: &ruma::state_res::StateMap<Vec<OwnedEventId>>| {
        between.clone().or_else(|| Some(conflicted_subgraph(conflicted.values().flatten(), &fetch)))
    };
    ruma::state_res::resolve(&version.rules.authorization, rules, states, auth_chains, seen, subgraph)
        .doing("resolving state")
}

/// Which entries of the agreed part of the states the resolution of these events (the conflicted ones and the auth
/// difference) can look at. It is enough to give [`resolve`] states cut down to the entries that differ and these; the
/// other entries stay as they are. Spares cloning maps of thousands of members.
pub fn needed_keys<'a>(
    version: &RoomVersion,
    events: impl IntoIterator<Item = &'a Pdu>,
) -> HashSet<(StateEventType, String)> {
    let mut keys = HashSet::from([
        (StateEventType::RoomCreate, String::new()),
        (StateEventType::RoomPowerLevels, String::new()),
        (StateEventType::RoomJoinRules, String::new()),
    ]);
    for pdu in events {
        // An event that is malformed in this respect is refused by the rules before they look at any state.
        let wanted =
            crate::auth::auth_keys(version, pdu.event_type(), pdu.sender(), pdu.state_key(), pdu.content_json());
        keys.extend(wanted.unwrap_or_default());
    }
    keys
}

/// The union of the auth chains of `events`, themselves not included unless one is in another's chain. Walks event by
/// event: for rooms at hand, not for large ones on disk.
pub fn auth_chain<'a>(
    events: impl IntoIterator<Item = &'a OwnedEventId>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> EventSet {
    let mut chain = EventSet::new();
    let mut todo: Vec<Arc<Pdu>> = events.into_iter().filter_map(|id| fetch(id)).collect();
    while let Some(pdu) = todo.pop() {
        let create = crate::auth::create_event_id(&pdu).filter(|id| pdu.event_id() != id);
        for id in pdu.auth_events().iter().cloned().chain(create) {
            if !chain.contains(&id)
                && let Some(pdu) = fetch(&id)
            {
                chain.insert(id);
                todo.push(pdu);
            }
        }
    }
    chain
}

/// All events on paths of auth events from one of `conflicted` to another, ends included (rooms/v12, "Conflicted state
/// subgraph").
pub fn conflicted_subgraph<'a>(
    conflicted: impl IntoIterator<Item = &'a OwnedEventId>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> EventSet {
    enum Step {
        Enter(OwnedEventId),
        Leave(Arc<Pdu>),
    }
    let mut subgraph: EventSet = conflicted.into_iter().cloned().collect();
    // Whether an event leads to a conflicted one; of those still being walked, not yet.
    let mut leads: HashMap<OwnedEventId, bool> = HashMap::new();
    let mut steps: Vec<Step> = subgraph.iter().cloned().map(Step::Enter).collect();
    while let Some(step) = steps.pop() {
        match step {
            Step::Enter(id) => {
                if !leads.contains_key(&id)
                    && let Some(pdu) = fetch(&id)
                {
                    leads.insert(id, false);
                    let next: Vec<_> = pdu.auth_events().iter().cloned().map(Step::Enter).collect();
                    steps.push(Step::Leave(pdu));
                    steps.extend(next);
                }
            }
            Step::Leave(pdu) => {
                let led = pdu.auth_events().iter().any(|id| subgraph.contains(id) || leads.get(id) == Some(&true));
                if led {
                    leads.insert(pdu.event_id().to_owned(), true);
                    subgraph.insert(pdu.event_id().to_owned());
                }
            }
        }
    }
    subgraph
}

#[cfg(test)]
mod tests;
