//! State resolution of room version 1 (rooms/v1, "State resolution"), with its known weaknesses: it is what such rooms
//! were agreed on.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use ruma::{EventId, events::StateEventType};
use sha1::{Digest, Sha1};

use super::StateMap;
use crate::{auth::check_against, event::Pdu, versions::RoomVersion};

type Key = (StateEventType, String);

/// The candidates for one entry, ordered by ascending depth, then descending SHA-1 of the event id.
type Candidates = Vec<Arc<Pdu>>;

/// Resolves by depth and authorisation. An event that `fetch` does not know cannot win an entry.
pub fn resolve(version: &RoomVersion, states: &[StateMap], fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>) -> StateMap {
    let (mut resolved, mut conflicts) = split(states, &fetch);
    // Whether an event is allowed by the entries settled so far, with one of them perhaps replaced.
    let allowed = |pdu: &Pdu, settled: &StateMap, instead: Option<(&Key, &Arc<Pdu>)>| {
        check_against(version, pdu, |event_type, state_key| match instead {
            Some((key, pdu)) if key.0 == *event_type && key.1 == state_key => Some(pdu.clone()),
            _ => fetch(settled.get(&(event_type.clone(), state_key.to_owned()))?),
        })
        .is_ok()
    };

    // The three types that authorise others come first, each judged by what stands before its own kind is settled.
    for event_type in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        let (these, others) = conflicts.into_iter().partition(|(key, _)| key.0 == event_type);
        conflicts = others;
        let settled: Vec<_> = Vec::into_iter(these)
            .filter_map(|(key, candidates)| {
                let mut candidates = candidates.into_iter();
                let mut winner = candidates.next()?;
                for pdu in candidates {
                    if !allowed(&pdu, &resolved, Some((&key, &winner))) {
                        break;
                    }
                    winner = pdu;
                }
                Some((key, winner.event_id().to_owned()))
            })
            .collect();
        resolved.extend(settled);
    }

    let settled: Vec<_> = conflicts
        .into_iter()
        .filter_map(|(key, candidates)| {
            // The deepest that is allowed; if none is, the least deep, so that the entry is not lost.
            let best = candidates.iter().rev().find(|pdu| allowed(pdu, &resolved, None));
            Some((key, best.or(candidates.first())?.event_id().to_owned()))
        })
        .collect();
    resolved.extend(settled);
    resolved
}

/// The entries on which the states do not differ, and the candidates for the others. An entry that only some of the
/// states have is no conflict.
fn split(states: &[StateMap], fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>) -> (StateMap, Vec<(Key, Candidates)>) {
    let mut agreed = StateMap::new();
    let mut conflicts: HashMap<Key, Vec<&EventId>> = HashMap::new();
    for (key, event_id) in states.iter().flatten() {
        match agreed.get(key) {
            None => {
                agreed.insert(key.clone(), event_id.clone());
            }
            Some(other) if other == event_id => {}
            Some(_) => conflicts.entry(key.clone()).or_default().push(event_id),
        }
    }
    let conflicts = conflicts
        .into_iter()
        .map(|(key, mut ids)| {
            let first = agreed.remove(&key);
            ids.extend(first.as_deref());
            ids.sort_unstable();
            ids.dedup();
            let mut candidates: Candidates = ids.into_iter().filter_map(&fetch).collect();
            candidates
                .sort_by_cached_key(|pdu| (pdu.depth(), Reverse(Sha1::digest(pdu.event_id().as_bytes()).to_vec())));
            (key, candidates)
        })
        .collect();
    (agreed, conflicts)
}
