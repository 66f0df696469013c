//! Events in the order in which they follow each other.

use std::collections::{HashMap, HashSet, VecDeque};

use hearth_rules::event::Pdu;
use ruma::OwnedEventId;

/// Each event after those of them that it follows. Events that follow each other in a circle, which cannot be made,
/// are left out.
pub(super) fn in_order(events: HashMap<OwnedEventId, Pdu>) -> Vec<Pdu> {
    let mut events = events;
    let mut waits: HashMap<OwnedEventId, usize> = HashMap::new();
    let mut next: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut first = Vec::new();
    for (id, pdu) in &events {
        let prevs: HashSet<&OwnedEventId> = pdu.prev_events().iter().filter(|p| events.contains_key(*p)).collect();
        if prevs.is_empty() {
            first.push((pdu.depth(), pdu.origin_server_ts(), id.clone()));
        } else {
            waits.insert(id.clone(), prevs.len());
        }
        for prev in prevs {
            next.entry(prev.clone()).or_default().push(id.clone());
        }
    }
    first.sort_unstable();
    let mut ready: VecDeque<OwnedEventId> = first.into_iter().map(|(.., id)| id).collect();
    let mut ordered = Vec::with_capacity(events.len());
    while let Some(id) = ready.pop_front() {
        for after in next.remove(&id).unwrap_or_default() {
            if let Some(left) = waits.get_mut(&after) {
                *left -= 1;
                if *left == 0 {
                    ready.push_back(after);
                }
            }
        }
        ordered.extend(events.remove(&id));
    }
    ordered
}
