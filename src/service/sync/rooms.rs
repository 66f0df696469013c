//! One room of an answer: timeline, state, summary; for rooms joined, invited to, knocked at and left.

use std::sync::Arc;

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos},
};
use hearth_rules::client_format::write_stripped;
use hearth_store::{events::StoredEvent, membership::Membership, rooms::Room, state::StateMap};
use ruma::events::TimelineEventType;

use super::{
    Sync, Turn,
    own::OwnData,
    section::{Sections, key, open},
};
use crate::{history::Viewer, notifier::RoomHub};

mod beside;
mod state;
mod timeline;

use state::Span;
use timeline::Timeline;

/// Changes of state that are looked through for one of a membership.
const LOOKED_THROUGH: usize = 100;

impl Sync {
    /// Whether a room the user is in may have news: a few loads of atomics, for most rooms all that a sync costs.
    pub(super) fn has_news(turn: &Turn<'_>, hub: &RoomHub, own: &OwnData) -> bool {
        let after = turn.after();
        turn.since.is_none()
            || turn.ask.full_state
            || hub.last() > after
            || hub.last_receipt() > after
            || typing_changed(turn, hub)
            || !own.of_room(hub.nid).is_empty()
    }

    /// Writes a room the user is in and that may have news.
    pub(super) async fn joined_room(
        &self,
        sections: &mut Sections,
        turn: &Turn<'_>,
        membership: &Membership,
        hub: &Arc<RoomHub>,
        own: &OwnData,
    ) -> Result<()> {
        let after = turn.after();
        let typing = typing_changed(turn, hub);
        let room = self.state.room_by_nid(hub.nid).await?;
        let filter = &turn.ask.filter;
        if !filter.rooms.has(&room.room_id) {
            return Ok(());
        }
        // Who wants all members gets the room once they are known.
        let all_members = !filter.state.lazy_members;
        if all_members && room.head.partial {
            return Ok(());
        }
        let viewer = self.history.viewer(turn.who, &room).await?;
        // Since the user's own member event changes also with their name, only a gap in the membership makes a room new.
        let newly = turn.since.is_none()
            || all_members && room.head.whole > after
            || membership.pos > after && !self.joined_throughout(&viewer, after).await?;
        let from = if newly { StreamPos::ZERO } else { after };
        let upto = turn.now.pos;
        let newest = self.state.current(&room).await?;
        let leads_to = Some(&newest).filter(|_| !turn.wants_state_after());
        let mut timeline = self.timeline(turn, &viewer, hub, from, upto, leads_to).await?;
        let full = newly || turn.ask.full_state;
        if newly {
            self.told.enter(turn, room.nid);
        }
        // A room that was entered begins anew, whatever the client knew of it.
        timeline.limited |= newly && turn.since.is_some();
        if full && timeline.start.is_none() {
            timeline.start = Some(self.history.newest_place(&room, upto).await?.into());
        }
        let span = Span { from, upto, full, newest: &newest };
        let mut state = self.state_events(turn, &room, &timeline, span).await?;
        let mut body = String::new();
        let mut beside = self.write_room_data(&mut body, turn, &room, own, newly).await?;
        beside |= self.write_ephemeral(&mut body, turn, &room, hub, newly, typing).await?;
        let counts = full || room.head.whole > after;
        let mut counts = counts || hub.last_member() > after;
        if timeline.events.is_empty() && !timeline.limited && state.is_empty() && !beside {
            counts = counts && (full || room.head.whole > after || self.members_changed(room.nid, after).await?);
            if !counts {
                return Ok(());
            }
        }
        let mut summary = String::new();
        // Who names a room matters only to one without a name of its own.
        if counts || state.iter().chain(&timeline.events).any(|e| names_room(e)) {
            let heroes = self.write_summary(&mut summary, turn, &room, &newest).await?;
            if turn.ask.filter.state.lazy_members {
                self.add_members(turn, &room, &mut state, &timeline, span, &heroes).await?;
            }
        }
        self.note_members(turn, hub.nid, &state, &timeline);
        self.write_state(&mut body, turn, &viewer, &state).await?;
        self.write_timeline(&mut body, turn, &viewer, &timeline, newly).await?;
        if !summary.is_empty() {
            key(&mut body, "summary");
            body.push_str(&summary);
        }
        self.write_unread(&mut body, turn, hub.nid).await?;
        open(&mut sections.join, &room.room_id);
        sections.join.push_str(&body);
        sections.join.push('}');
        Ok(())
    }

    /// Whether others may be in a room than at a position: a new name of a member does not count.
    async fn members_changed(&self, room: RoomNid, after: StreamPos) -> Result<bool> {
        let changes = self.store.later_changes(room, after).await?;
        if changes.len() > LOOKED_THROUGH {
            return Ok(true);
        }
        let nids: Vec<EventNid> = changes.iter().flat_map(|c| [c.old, c.new]).flatten().collect();
        let events = self.store.events(&nids).await?;
        let membership = |nid: Option<EventNid>| {
            let event = events.iter().find(|e| Some(e.nid) == nid)?;
            (*event.pdu.event_type() == TimelineEventType::RoomMember).then(|| event.pdu.membership())
        };
        Ok(changes.iter().any(|c| membership(c.old) != membership(c.new)))
    }

    /// Whether a user who is joined was so all the time since a position.
    async fn joined_throughout(&self, viewer: &Viewer, after: StreamPos) -> Result<bool> {
        let as_events_say = viewer.joined_since().is_some_and(|since| since <= after);
        if !viewer.room.head.forked || !as_events_say {
            return Ok(as_events_say);
        }
        // Where branches meet, who was out of the room can be back by what they were before.
        let Some(key) = self.store.key_nid("m.room.member", viewer.user_id().as_str()).await? else { return Ok(true) };
        for (was, is) in self.store.entry_changes(viewer.room.nid, key, after).await? {
            let events = self.store.events(&[was, is].into_iter().flatten().collect::<Vec<_>>()).await?;
            if events.len() < 2 || events.iter().any(|e| e.pdu.membership() != "join") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes a room the user is invited to or knocks at (spec: "Stripped state").
    pub(super) async fn invited_room(
        &self,
        sections: &mut Sections,
        turn: &Turn<'_>,
        membership: &Membership,
        name: &str,
    ) -> Result<()> {
        let room = self.state.room_by_nid(membership.room).await?;
        if !turn.ask.filter.rooms.has(&room.room_id) {
            return Ok(());
        }
        if name == "invite_state" && self.is_unwanted(turn, membership).await? {
            return Ok(());
        }
        let section = if name == "invite_state" { &mut sections.invite } else { &mut sections.knock };
        open(section, &room.room_id);
        key(section, name);
        section.push_str("{\"events\":[");
        match &membership.stripped {
            Some(stripped) => {
                section.push_str(stripped.trim().trim_start_matches('[').trim_end_matches(']'));
            }
            None => self.write_stripped_state(section, &room, membership).await?,
        }
        section.push_str("]}}");
        Ok(())
    }

    /// Whether an invite is not to be told of: the user takes none, or does not want to hear of who invites (spec: "Invite
    /// permission", "Ignoring Users").
    pub(super) async fn is_unwanted(&self, turn: &Turn<'_>, invite: &Membership) -> Result<bool> {
        if self.sources.account_data.takes_no_invites(turn.who.user_nid).await? {
            return Ok(true);
        }
        let ignored = self.sources.account_data.ignored(turn.who.user_nid).await?;
        if ignored.is_empty() {
            return Ok(false);
        }
        let event = self.store.event(invite.event).await?;
        Ok(event.is_some_and(|e| ignored.contains(e.pdu.sender())))
    }

    /// What one may know of a room before joining: the events the specification names, and the invite itself.
    async fn write_stripped_state(&self, out: &mut String, room: &Room, membership: &Membership) -> Result<()> {
        let Some(own) = self.store.event(membership.event).await? else { return Ok(()) };
        // Of an invite that came from outside there is no state; the room may be known by now.
        let state = match own.after {
            Some(after) => self.store.snapshot(after).await?,
            None => self.state.current(room).await?,
        };
        for event in self.state.before_joining(&state, Some(own.pdu.sender())).await? {
            if event.nid != own.nid {
                write_stripped(out, &event.pdu, false);
                out.push(',');
            }
        }
        tracing::trace!(room.id = %room.room_id, "stripped state written");
        write_stripped(out, &own.pdu, false);
        Ok(())
    }

    /// Writes a room the user has left since the last answer: what happened up to their leaving.
    pub(super) async fn left_room(
        &self,
        sections: &mut Sections,
        turn: &Turn<'_>,
        membership: &Membership,
        own_data: &OwnData,
    ) -> Result<()> {
        let room = self.state.room_by_nid(membership.room).await?;
        if !turn.ask.filter.rooms.has(&room.room_id) {
            return Ok(());
        }
        let hub = self.notifier.hub(membership.room).await?;
        let viewer = self.history.viewer(turn.who, &room).await?;
        let own = self.store.event(membership.event).await?;
        // Who came and left again since the last answer was never told of the room.
        let newly = turn.since.is_none() || viewer.came_after(turn.after());
        let from = if newly { StreamPos::ZERO } else { turn.after() };
        let full = newly || turn.ask.full_state;
        let filter = &turn.ask.filter.state;
        let is_state = |e: &Arc<StoredEvent>| filter.has_room(&room.room_id) && filter.has(&e.pdu);
        let may_see = match &own {
            Some(own) => viewer.may_see(own).await?,
            None => false,
        };
        let (timeline, state) = match (&own, viewer.left_with()) {
            (Some(own), left)
                if !membership.forgotten
                    && viewer.was_ever_in()
                    && (may_see || left.is_some_and(|left| left.pos > Some(from))) =>
            {
                let upto = membership.pos.min(turn.now.pos);
                let newest = match left.unwrap_or(own).after {
                    Some(after) => self.store.snapshot(after).await?,
                    // They left while we were not in the room, and know no more than we did then.
                    None => StateMap::new(),
                };
                let leads_to = Some(&newest).filter(|_| !turn.wants_state_after());
                let mut timeline = self.timeline(turn, &viewer, &hub, from, upto, leads_to).await?;
                timeline.limited |= newly && turn.since.is_some();
                let span = Span { from, upto, full, newest: &newest };
                // Who was banned after they had left may see no more of the room than that.
                let banned = Some(own.clone()).filter(|_| !may_see);
                timeline.events.extend(banned.clone());
                let mut state = self.state_events(turn, &room, &timeline, span).await?;
                if let Some(banned) = banned.filter(|e| turn.wants_state_after() && is_state(e)) {
                    state.retain(|told| told.key != banned.key);
                    state.push(banned);
                }
                (timeline, state)
            }
            // An invite or knock came to nothing, a ban after leaving, a room forgotten since: that is all there is to see.
            _ => {
                let start = own.as_ref().and_then(|e| e.place()).map(|place| place.before().into());
                let after = own.clone().filter(|e| turn.wants_state_after() && is_state(e));
                let timeline = Timeline { start, events: own.into_iter().collect(), limited: false, hides: false };
                (timeline, after.into_iter().collect())
            }
        };
        let mut body = String::new();
        self.write_room_data(&mut body, turn, &room, own_data, newly).await?;
        self.write_state(&mut body, turn, &viewer, &state).await?;
        self.write_timeline(&mut body, turn, &viewer, &timeline, full).await?;
        open(&mut sections.leave, &room.room_id);
        sections.leave.push_str(&body);
        sections.leave.push('}');
        Ok(())
    }
}

/// Whether who types in a room may be others than the client knows.
pub(super) fn typing_changed(turn: &Turn<'_>, hub: &RoomHub) -> bool {
    hub.last_typing() > turn.after_ephemeral() || turn.other_run()
}

/// Whether an event says what a room is called.
fn names_room(event: &StoredEvent) -> bool {
    let kinds = [TimelineEventType::RoomName, TimelineEventType::RoomCanonicalAlias];
    event.pdu.is_state() && kinds.contains(event.pdu.event_type())
}
