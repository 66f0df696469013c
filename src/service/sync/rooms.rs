//! One room of an answer: timeline, state, summary; for rooms joined, invited to, knocked at and left.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Result,
    ids::{EventNid, KeyNid, RoomNid, StreamPos},
    stream::HistoryToken,
};
use hearth_rules::client_format::write_stripped;
use hearth_store::{events::StoredEvent, membership::Membership, rooms::Room, state::StateMap};
use ruma::{
    OwnedUserId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};

use serde::Deserialize;

use super::{
    Sync, Turn,
    own::{OwnData, write_piece},
    section::{Sections, key, key_text, open},
};
use crate::{history::Viewer, notifier::RoomHub, push::Count};

/// Rounds of looking for events that a filter lets pass.
const ROUNDS: usize = 5;

/// The newest events of a room that are to be shown.
struct Timeline {
    /// Oldest first.
    events: Vec<Arc<StoredEvent>>,
    /// Whether some between the last answer and these are left out.
    limited: bool,
    /// Place before the first.
    start: Option<HistoryToken>,
}

/// The stretch of a room's history that an answer covers.
struct Span<'a> {
    from: StreamPos,
    upto: StreamPos,
    /// All state is wanted, not only what changed.
    full: bool,
    /// State at its end.
    newest: &'a StateMap,
}

impl Sync {
    /// Writes a room the user is in, if it has news.
    pub(super) async fn joined_room(
        &self,
        sections: &mut Sections,
        turn: &Turn<'_>,
        membership: &Membership,
        hub: &Arc<RoomHub>,
        own: &OwnData,
    ) -> Result<()> {
        let after = turn.after();
        let account_data = own.of_room(hub.nid);
        let typing = hub.last_typing() > turn.after_ephemeral() || turn.other_run();
        let news = hub.last() > after || hub.last_receipt() > after || typing || !account_data.is_empty();
        if !news && turn.since.is_some() && !turn.ask.full_state {
            return Ok(());
        }
        let room = self.state.room_by_nid(hub.nid).await?;
        let filter = &turn.ask.filter;
        if !filter.rooms.has(&room.room_id) {
            return Ok(());
        }
        let viewer = self.history.viewer(turn.who, &room).await?;
        // Since the user's own member event changes also with their name, only a gap in the membership makes a room new.
        let newly =
            turn.since.is_none() || membership.pos > after && viewer.joined_since().is_none_or(|since| since > after);
        let from = if newly { StreamPos::ZERO } else { after };
        let upto = turn.now.pos;
        let timeline = self.timeline(turn, &viewer, hub, from, upto).await?;
        let full = newly || turn.ask.full_state;
        let newest = self.state.current(&room).await?;
        let mut state = self.state_events(turn, &room, &timeline, Span { from, upto, full, newest: &newest }).await?;
        let mut body = String::new();
        if newly && turn.since.is_some() {
            let all = self.sources.account_data.of_room(turn.who.user_nid, hub.nid).await?;
            write_account_data(&mut body, turn, all.iter().map(|(k, c)| (k.as_str(), c.get())));
        } else {
            write_account_data(&mut body, turn, account_data.iter().map(|(k, c)| (k.as_str(), c.get())));
        }
        self.write_ephemeral(&mut body, turn, &viewer.room, hub, newly, typing).await?;
        if timeline.events.is_empty() && state.is_empty() && body.is_empty() && !full {
            return Ok(());
        }
        let mut summary = String::new();
        if full || timeline.events.iter().chain(&state).any(|e| is_member(e)) {
            let heroes = self.write_summary(&mut summary, turn, &room, &newest).await?;
            if turn.ask.filter.state.lazy_members {
                self.add_members(turn, &mut state, &timeline, &newest, &heroes).await?;
            }
        }
        self.write_state(&mut body, turn, &viewer, &state).await?;
        self.write_timeline(&mut body, &viewer, &timeline).await?;
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

    /// What one may know of a room before joining: the events the specification names, and the invite itself.
    async fn write_stripped_state(&self, out: &mut String, room: &Room, membership: &Membership) -> Result<()> {
        let Some(own) = self.store.event(membership.event).await? else { return Ok(()) };
        let state = self.state.after(&own).await?;
        let sender = own.pdu.sender().to_string();
        let wanted = [
            ("m.room.create", ""),
            ("m.room.name", ""),
            ("m.room.avatar", ""),
            ("m.room.topic", ""),
            ("m.room.join_rules", ""),
            ("m.room.canonical_alias", ""),
            ("m.room.encryption", ""),
            ("m.room.member", sender.as_str()),
        ];
        for (event_type, state_key) in wanted {
            if let Some(event) = self.state.entry(&state, event_type, state_key).await?
                && event.nid != own.nid
            {
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
    ) -> Result<()> {
        let room = self.state.room_by_nid(membership.room).await?;
        if !turn.ask.filter.rooms.has(&room.room_id) {
            return Ok(());
        }
        let hub = self.notifier.hub(membership.room).await?;
        let viewer = self.history.viewer(turn.who, &room).await?;
        let own = self.store.event(membership.event).await?;
        let (from, full) = (turn.after(), turn.since.is_none() || turn.ask.full_state);
        let (timeline, state) = match (&own, viewer.left_with()) {
            (Some(own), left) if viewer.was_ever_in() && viewer.may_see(own) => {
                let upto = membership.pos.min(turn.now.pos);
                let timeline = self.timeline(turn, &viewer, &hub, from, upto).await?;
                let newest = self.state.after(left.unwrap_or(own)).await?;
                let span = Span { from, upto, full, newest: &newest };
                let state = self.state_events(turn, &room, &timeline, span).await?;
                (timeline, state)
            }
            // An invite or knock came to nothing, or a ban after leaving: that is all there is to see.
            _ => {
                let start = own.as_ref().and_then(|e| e.place()).map(before);
                (Timeline { start, events: own.into_iter().collect(), limited: false }, Vec::new())
            }
        };
        let mut body = String::new();
        self.write_state(&mut body, turn, &viewer, &state).await?;
        self.write_timeline(&mut body, &viewer, &timeline).await?;
        open(&mut sections.leave, &room.room_id);
        sections.leave.push_str(&body);
        sections.leave.push('}');
        Ok(())
    }

    /// The newest events in `(after, upto]` that the user may see and the filter lets pass.
    async fn timeline(
        &self,
        turn: &Turn<'_>,
        viewer: &Viewer,
        hub: &RoomHub,
        after: StreamPos,
        upto: StreamPos,
    ) -> Result<Timeline> {
        let filter = &turn.ask.filter.timeline;
        let limit = filter.timeline_limit(self.settings.timeline_limit);
        if !filter.has_room(&viewer.room.room_id) {
            return Ok(Timeline { events: Vec::new(), limited: false, start: None });
        }
        let (mut events, mut limited, mut upto, mut newest) = (Vec::new(), false, upto, None);
        for _ in 0..ROUNDS {
            let (found, more) = match hub.news(after, upto, limit) {
                Some((nids, more)) => (self.store.events(&nids).await?, more),
                None => {
                    let mut found = self.store.news(viewer.room.nid, after, upto, limit + 1).await?;
                    let more = found.len() > limit;
                    found.truncate(limit);
                    (found, more)
                }
            };
            let Some(oldest) = found.last().and_then(|e| e.pos) else { break };
            newest = newest.or_else(|| found.first().and_then(|e| e.place()));
            upto = StreamPos(oldest.0 - 1);
            let mut shown = found.into_iter().filter(|e| viewer.may_see(e) && filter.has(&e.pdu));
            while events.len() < limit
                && let Some(event) = shown.next()
            {
                events.push(event);
            }
            limited = more || shown.next().is_some();
            if !more || events.len() >= limit {
                break;
            }
        }
        events.reverse();
        // If nothing is shown, all that is left out stands at or before the newest event.
        let start = events.first().and_then(|e: &Arc<StoredEvent>| e.place()).map(before).or(newest);
        Ok(Timeline { events, limited, start })
    }

    /// The state that goes with a timeline: all of it, or what changed between the last answer and the timeline (or, with
    /// `state_after`, up to its end).
    async fn state_events(
        &self,
        turn: &Turn<'_>,
        room: &Room,
        timeline: &Timeline,
        span: Span<'_>,
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let filter = &turn.ask.filter.state;
        if !filter.has_room(&room.room_id) {
            return Ok(Vec::new());
        }
        let lazy = filter.lazy_members;
        let after_timeline = turn.ask.state_after || turn.ask.state_after_unstable;
        let first = timeline.events.first();
        let mut wanted: Vec<EventNid> = if span.full {
            let state = match first.and_then(|e| e.snap) {
                Some(snap) if !after_timeline => self.store.snapshot(snap).await?,
                _ => span.newest.clone(),
            };
            if lazy { self.without_members(turn, &state).await? } else { state.values().copied().collect() }
        } else if timeline.limited || after_timeline {
            // Whatever changed in the gap, members too: they may be members the client knows.
            let upto = match first.and_then(|e| e.pos) {
                Some(pos) if !after_timeline => StreamPos(pos.0 - 1),
                _ => span.upto,
            };
            let changes: HashMap<KeyNid, Option<EventNid>> =
                self.store.state_changes(room.nid, span.from, upto).await?;
            changes.into_values().flatten().collect()
        } else {
            Vec::new()
        };
        if lazy {
            let state = match first.and_then(|e| e.snap) {
                Some(snap) if !after_timeline => self.store.snapshot(snap).await?,
                _ => span.newest.clone(),
            };
            for nid in self.speakers(&state, timeline).await? {
                if !wanted.contains(&nid) {
                    wanted.push(nid);
                }
            }
        }
        let shown: Vec<EventNid> =
            if after_timeline { Vec::new() } else { timeline.events.iter().map(|e| e.nid).collect() };
        let events = self.store.events(&wanted).await?;
        Ok(events.into_iter().filter(|e| !shown.contains(&e.nid) && filter.has(&e.pdu)).collect())
    }

    /// A whole state but for members other than the user (spec: "Lazy-loading room members").
    async fn without_members(&self, turn: &Turn<'_>, state: &StateMap) -> Result<Vec<EventNid>> {
        let keys = self.store.keys(&state.keys().copied().collect::<Vec<_>>()).await?;
        let others = state
            .values()
            .zip(&keys)
            .filter(|(_, key)| key.event_type != "m.room.member" || key.state_key == turn.who.user_id.as_str());
        Ok(others.map(|(event, _)| *event).collect())
    }

    /// Member events of those who speak in a timeline.
    async fn speakers(&self, state: &StateMap, timeline: &Timeline) -> Result<Vec<EventNid>> {
        let (mut seen, mut nids): (Vec<&UserId>, Vec<EventNid>) = (Vec::new(), Vec::new());
        for sender in timeline.events.iter().map(|e| e.pdu.sender()) {
            if seen.contains(&sender) {
                continue;
            }
            seen.push(sender);
            nids.extend(self.state.entry_nid(state, "m.room.member", sender.as_str()).await?);
        }
        Ok(nids)
    }

    /// Adds the member events of users the room is named by (spec: `RoomSummary`, with lazy loading).
    async fn add_members(
        &self,
        turn: &Turn<'_>,
        state: &mut Vec<Arc<StoredEvent>>,
        timeline: &Timeline,
        newest: &StateMap,
        users: &[OwnedUserId],
    ) -> Result<()> {
        let users: Vec<&UserId> = users.iter().map(|u| &**u).collect();
        for event in self.history.members_of(newest, &users).await? {
            if turn.ask.filter.state.has(&event.pdu)
                && !state.iter().chain(&timeline.events).any(|e| e.nid == event.nid)
            {
                state.push(event);
            }
        }
        Ok(())
    }

    async fn write_state(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        viewer: &Viewer,
        events: &[Arc<StoredEvent>],
    ) -> Result<()> {
        let name = match (turn.ask.state_after, turn.ask.state_after_unstable) {
            (true, _) => "state_after",
            (false, true) => "org.matrix.msc4222.state_after",
            (false, false) => "state",
        };
        if events.is_empty() && name == "state" {
            return Ok(());
        }
        key(out, name);
        out.push_str("{\"events\":");
        self.history.write_all(out, events, viewer, false).await?;
        out.push('}');
        Ok(())
    }

    async fn write_timeline(&self, out: &mut String, viewer: &Viewer, timeline: &Timeline) -> Result<()> {
        if timeline.events.is_empty() && !timeline.limited {
            return Ok(());
        }
        key(out, "timeline");
        out.push_str("{\"events\":");
        self.history.write_all(out, &timeline.events, viewer, false).await?;
        key(out, "limited");
        out.push_str(if timeline.limited { "true" } else { "false" });
        if let Some(start) = timeline.start {
            key(out, "prev_batch");
            out.push('"');
            out.push_str(&start.to_string());
            out.push('"');
        }
        out.push('}');
        Ok(())
    }

    /// Writes receipts and who types.
    async fn write_ephemeral(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        room: &Room,
        hub: &RoomHub,
        newly: bool,
        typing: bool,
    ) -> Result<()> {
        let filter = &turn.ask.filter.ephemeral;
        if !filter.has_room(&room.room_id) {
            return Ok(());
        }
        let mut events = String::new();
        let after = turn.after();
        if filter.has_type("m.receipt") && (newly || hub.last_receipt() > after) {
            let after = (!newly).then_some(after);
            let content = self.sources.receipts.content_since(hub.nid, after, turn.now.pos, turn.who.user_nid).await?;
            if let Some(content) = content {
                events.push_str("{\"type\":\"m.receipt\",\"content\":");
                events.push_str(&content);
                events.push('}');
            }
        }
        if filter.has_type("m.typing") && (newly || typing) {
            let users = self.sources.typing.users(hub.nid);
            if typing || !users.is_empty() {
                if !events.is_empty() {
                    events.push(',');
                }
                events.push_str("{\"type\":\"m.typing\",\"content\":{\"user_ids\":");
                // User ids always serialise.
                events.push_str(&serde_json::to_string(&users).unwrap_or_default());
                events.push_str("}}");
            }
        }
        if !events.is_empty() {
            key(out, "ephemeral");
            out.push_str("{\"events\":[");
            out.push_str(&events);
            out.push_str("]}");
        }
        Ok(())
    }

    /// Writes what is unread (spec: "Receiving notifications"; by thread where the client tells them apart).
    async fn write_unread(&self, out: &mut String, turn: &Turn<'_>, room: RoomNid) -> Result<()> {
        let unread = self.sources.push.unread(turn.who.user_nid, room).await?;
        let by_thread = turn.ask.filter.timeline.thread_counts;
        let count = if by_thread { unread.main } else { unread.total() };
        key(out, "unread_notifications");
        write_count(out, count);
        if by_thread && !unread.threads.is_empty() {
            key(out, "unread_thread_notifications");
            out.push('{');
            for (thread, count) in &unread.threads {
                key_text(out, thread);
                write_count(out, *count);
            }
            out.push('}');
        }
        Ok(())
    }

    /// Writes who is in the room, as far as a client needs it to name the room (spec: `RoomSummary`). Gives whom it names.
    async fn write_summary(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        room: &Room,
        state: &StateMap,
    ) -> Result<Vec<OwnedUserId>> {
        const HEROES: usize = 5;
        let (joined, invited) = self.store.member_counts(room.nid).await?;
        out.push('{');
        let mut heroes = Vec::new();
        if !self.is_named(state).await? {
            let nids = self.store.heroes(room.nid, turn.who.user_nid, HEROES).await?;
            heroes = self.store.user_ids(&nids).await?;
            key(out, "m.heroes");
            // User ids always serialise.
            out.push_str(&serde_json::to_string(&heroes).unwrap_or_default());
        }
        key(out, "m.invited_member_count");
        out.push_str(itoa::Buffer::new().format(invited));
        key(out, "m.joined_member_count");
        out.push_str(itoa::Buffer::new().format(joined));
        out.push('}');
        Ok(heroes)
    }

    /// Whether a room has a name or canonical alias that is not empty.
    async fn is_named(&self, state: &StateMap) -> Result<bool> {
        #[derive(Deserialize)]
        struct Content {
            name: Option<String>,
            alias: Option<String>,
        }
        for event_type in ["m.room.name", "m.room.canonical_alias"] {
            let content: Option<Content> =
                self.state.entry(state, event_type, "").await?.and_then(|e| e.pdu.content_as());
            if content.is_some_and(|c| [c.name, c.alias].into_iter().flatten().any(|t| !t.is_empty())) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn write_count(out: &mut String, count: Count) {
    out.push('{');
    key(out, "highlight_count");
    out.push_str(itoa::Buffer::new().format(count.highlights));
    key(out, "notification_count");
    out.push_str(itoa::Buffer::new().format(count.notifications));
    out.push('}');
}

/// Writes account data of a room as the filter lets it pass.
fn write_account_data<'a>(out: &mut String, turn: &Turn<'_>, data: impl Iterator<Item = (&'a str, &'a str)>) {
    let filter = &turn.ask.filter.room_account_data;
    let mut first = true;
    for (kind, content) in data.filter(|(kind, _)| filter.has_type(kind)) {
        if first {
            key(out, "account_data");
            out.push_str("{\"events\":[");
        }
        first = false;
        write_piece(out, kind, content);
    }
    if !first {
        out.push_str("]}");
    }
}

/// The place before an event's.
fn before(place: HistoryToken) -> HistoryToken {
    HistoryToken { pos: StreamPos(place.pos.0.saturating_sub(1)), ..place }
}

fn is_member(event: &StoredEvent) -> bool {
    *event.pdu.event_type() == TimelineEventType::RoomMember
        && MembershipState::from(event.pdu.membership().into_owned()) != MembershipState::from("")
}
