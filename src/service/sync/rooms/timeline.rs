//! The newest events of a room: as many as the filter wants, of those the user may see.

use std::{collections::HashSet, sync::Arc};

use hearth_base::{
    Result,
    ids::StreamPos,
    stream::{HistoryToken, PageToken},
};
use hearth_store::{events::StoredEvent, state::StateMap};

use super::super::{Sync, Turn, section::key};
use crate::{history::Viewer, notifier::RoomHub};

/// Rounds of looking for events that a filter lets pass, and how many are looked at in one at least and at most.
const ROUNDS: usize = 5;
const FEWEST: usize = 10;
const MOST: usize = 200;

/// The newest events of a room that are to be shown.
pub(in crate::sync) struct Timeline {
    /// Oldest first.
    pub(in crate::sync) events: Vec<Arc<StoredEvent>>,
    /// Whether some between the last answer and these are left out.
    pub(super) limited: bool,
    /// Whether the user may not see some state between the first of these and the newest event.
    pub(super) hides: bool,
    /// Place before the first.
    pub(in crate::sync) start: Option<PageToken>,
}
impl Sync {
    /// The newest events in `(after, upto]` that the user may see, or is told of as part of the newest state, and the filter
    /// lets pass. A client that learns state from them, and from what is told beside them, is to get to `leads_to`.
    pub(in crate::sync) async fn timeline(
        &self,
        turn: &Turn<'_>,
        viewer: &Viewer,
        hub: &RoomHub,
        after: StreamPos,
        upto: StreamPos,
        leads_to: Option<&StateMap>,
    ) -> Result<Timeline> {
        let filter = &turn.ask.filter.timeline;
        let limit = filter.timeline_limit(self.settings.timeline_limit);
        if !filter.has_room(&viewer.room.room_id) {
            return Ok(Timeline { events: Vec::new(), limited: false, hides: false, start: None });
        }
        let room = &viewer.room;
        // A timeline does not run over a hole: it begins behind the newest, and what lies before is paged to.
        let gap = if room.head.forked { self.store.newest_gap(room.nid, after, upto).await? } else { None };
        let after = gap.map_or(after, |gap| StreamPos(gap.0 - 1));
        // Who wants no events is still told that there are some; who wants few of many is not to get none of them.
        let page = if filter.is_open() { limit.max(1) } else { (limit * 2).clamp(FEWEST, MOST) };
        let end = upto;
        let (mut events, mut limited, mut upto, mut newest) = (Vec::new(), false, upto, None);
        let (mut hidden, mut hides) = (false, false);
        // What changed since the last answer while the user was away, and holds now, is told in any case: where it happened.
        let told_of = |e: &StoredEvent| {
            let is_newest = |newest: &StateMap| e.key.is_some_and(|key| newest.get(&key) == Some(&e.nid));
            turn.since.is_some() && e.pos > Some(turn.after()) && leads_to.is_some_and(is_newest)
        };
        for _ in 0..ROUNDS {
            let (found, more) = match hub.news(after, upto, page) {
                Some((nids, more)) => (self.store.events(&nids).await?, more),
                None => {
                    let mut found = self.store.news(viewer.room.nid, after, upto, page + 1).await?;
                    let more = found.len() > page;
                    found.truncate(page);
                    let places: Vec<_> = found.iter().filter_map(|e| Some((e.pos?, e.nid))).collect();
                    hub.recall(after, upto, &places, more);
                    (found, more)
                }
            };
            let Some(oldest) = found.iter().rev().find_map(|e| e.pos) else { break };
            newest = newest.or_else(|| found.first().and_then(|e| e.place()));
            upto = StreamPos(oldest.0 - 1);
            let mut left_out = false;
            let related = filter.related(&self.store, room.nid, &found).await?;
            let is_related = |e: &StoredEvent| related.as_ref().is_none_or(|related| related.contains(&e.nid));
            // What was taken out of the timeline is still in the ring.
            for event in found.into_iter().filter(|e| e.pos.is_some() && filter.has(&e.pdu) && is_related(e)) {
                if !viewer.shows(&event).await? && !told_of(&event) {
                    hidden |= event.pdu.is_state();
                    continue;
                }
                if events.len() == limit {
                    left_out = true;
                    break;
                }
                events.push(event);
                hides |= hidden;
            }
            limited = more || left_out;
            if !more || events.len() >= limit {
                break;
            }
        }
        if let Some(newest) = leads_to
            && (hides || !filter.is_open())
            && let Some(outdated) = events.iter().position(outdated_by(newest))
        {
            // What took its place is told beside the timeline, and would be undone by it.
            events.truncate(outdated);
            limited = true;
        }
        events.reverse();
        // If nothing is shown, all that is left out stands at or before the newest event.
        let place = events.first().and_then(|e: &Arc<StoredEvent>| e.place()).map(HistoryToken::before).or(newest);
        let mut start = place.map(PageToken::from);
        limited |= gap.is_some();
        if room.head.forked && limited {
            // Where history forks, what is left out need not all stand before the first event shown, nor what is shown after.
            let upto = events.first().and_then(|e| e.pos).map_or(end, |pos| StreamPos(pos.0 - 1));
            start = place.max(self.store.last_place(room.nid, upto).await?).map(|at| PageToken { at, upto });
        }
        Ok(Timeline { events, limited, hides, start })
    }

    /// Writes a timeline; what its events show of their children only where some children may be left out.
    pub(super) async fn write_timeline(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        viewer: &Viewer,
        timeline: &Timeline,
        newly: bool,
    ) -> Result<()> {
        key(out, "timeline");
        out.push_str("{\"events\":");
        if timeline.limited || newly {
            self.history.write_with_children(out, &timeline.events, viewer, turn.form()).await?;
        } else {
            self.history.write_all(out, &timeline.events, viewer, turn.form()).await?;
        }
        key(out, "limited");
        out.push_str(if timeline.limited { "true" } else { "false" });
        key(out, "prev_batch");
        out.push('"');
        match timeline.start {
            Some(start) => out.push_str(&start.to_string()),
            // Without news all there is lies before this answer; there are clients that always look for the token.
            None => out.push_str(&turn.now.to_string()),
        }
        out.push('"');
        out.push('}');
        Ok(())
    }
}

/// Whether an event, of some that come from the newest to the oldest, is the last of its key and still not what stands now:
/// the user may not see what came after it, or their filter leaves that out.
fn outdated_by(newest: &StateMap) -> impl FnMut(&Arc<StoredEvent>) -> bool {
    let mut keys = HashSet::new();
    move |event| event.key.is_some_and(|key| keys.insert(key) && newest.get(&key).is_some_and(|nid| *nid != event.nid))
}
