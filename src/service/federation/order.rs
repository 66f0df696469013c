//! Events in the order in which they lean on each other.

use std::collections::{HashMap, VecDeque};

use hearth_rules::event::Pdu;
use ruma::OwnedEventId;

/// Each event after those of them that `before` names: its predecessors, or what allows it. Those that lean on none of them
/// come by depth. Events that lean on each other in a circle, which cannot be made, are left out.
pub(super) fn in_order(mut events: HashMap<OwnedEventId, Pdu>, before: impl Fn(&Pdu) -> Vec<OwnedEventId>) -> Vec<Pdu> {
    let mut waits: HashMap<OwnedEventId, usize> = HashMap::new();
    let mut next: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut first = Vec::new();
    for (id, pdu) in &events {
        let mut ids = before(pdu);
        ids.retain(|id| events.contains_key(id));
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            first.push((pdu.depth(), pdu.origin_server_ts(), id.clone()));
        } else {
            waits.insert(id.clone(), ids.len());
        }
        for leant_on in ids {
            next.entry(leant_on).or_default().push(id.clone());
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
