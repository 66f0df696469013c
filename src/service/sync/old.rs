//! Syncing as it was before /sync (deprecated, but for looking into rooms one has not joined: spec, "Room Previews"): all
//! there is at once, then one stream of events.
//!
//! Tokens are those of /sync. The stream goes on from what was told last, a page at a time and in the order in which things
//! happened, so nothing is left out and no state need be told beside it.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use hearth_base::{
    Error, Requester, Result,
    ids::{EventNid, RoomNid, StreamPos},
};
use hearth_store::{events::StoredEvent, membership::Membership};
use http::StatusCode;
use ruma::{RoomId, events::room::member::MembershipState, presence::PresenceState};
use serde_json::value::RawValue;

use super::{
    Ask, Filter, Sync, Turn, Wanted,
    own::{OwnData, write_piece},
    rooms::typing_changed,
    section::{key, key_value},
};
use crate::{
    history::{Form, Viewer},
    notifier::{Listening, UserRooms},
};

/// Events looked at for one answer; what stands behind them is for the next.
const PAGE: usize = 100;

/// An event that may be told, and where in the log.
type Told = (StreamPos, Arc<StoredEvent>);

impl Sync {
    /// All there is for a user (spec: `GET /initialSync`), with `limit` messages a room; `archived`: rooms they have left too.
    /// Rooms of whose state we know part come later: all members are told here.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn initial_json(&self, who: &Requester, limit: Option<usize>, archived: bool) -> Result<String> {
        let (slot, ask) = (self.notifier.user(who.user_nid), newest(limit));
        let turn = Turn { who, ask: &ask, slot: &slot, since: None, now: self.now(None) };
        let rooms = self.notifier.rooms_of(&slot).await?;
        let own = self.own_data(&turn).await?;
        let mut out = String::with_capacity(64 * 1024);
        out.push('{');
        key_value(&mut out, "end", &turn.now.to_string());
        key(&mut out, "presence");
        out.push('[');
        out.push_str(&self.presence(&turn).await?.join(","));
        out.push(']');
        key(&mut out, "account_data");
        write_pieces(&mut out, own.global());
        key(&mut out, "rooms");
        out.push('[');
        for membership in rooms.joined.iter().map(|(membership, _)| membership).chain(&rooms.others) {
            Box::pin(self.write_room_of(&mut out, &turn, membership, archived, &own)).await?;
        }
        out.push_str("]}");
        Ok(out)
    }

    /// A room with its newest messages (spec: `GET /rooms/{roomId}/initialSync`), for those who are or were in it, or who
    /// may look in from outside.
    ///
    /// # Errors
    /// 403 for everybody else; 503 if its state does not come.
    pub async fn room_initial_json(&self, who: &Requester, room: &RoomId, limit: Option<usize>) -> Result<String> {
        let (slot, ask) = (self.notifier.user(who.user_nid), newest(limit));
        let turn = Turn { who, ask: &ask, slot: &slot, since: None, now: self.now(None) };
        let viewer = self.history.enter_whole(who, room).await?;
        let nid = viewer.room.nid;
        let membership = self.store.membership(nid, who.user_nid).await?.map(|m| m.membership);
        let account_data = self.sources.account_data.of_room(who.user_nid, nid).await?;
        let mut out = String::new();
        self.write_room(&mut out, &turn, &viewer, membership.as_ref(), &account_data).await?;
        Ok(out)
    }

    /// What is new after `from` (the end of an answer here, or of /sync; by default now), waited for up to `timeout`: all
    /// that concerns the user, or what is new in one room, which they need not be in (spec: `GET /events`, in both forms).
    ///
    /// # Errors
    /// 400 for a token that is not ours, or of a history that was lost; 403 for a room that the user may see nothing of, and
    /// for a guest who names none.
    pub async fn events_json(
        &self,
        who: &Requester,
        room: Option<&RoomId>,
        from: Option<&str>,
        timeout: Duration,
    ) -> Result<String> {
        let lost = || Error::invalid_param("`from` is of a history that was lost; begin with an initial sync");
        let from = match from {
            Some(token) => self.since(token)?.ok_or_else(lost)?,
            None => self.now(None),
        };
        let (room, set_presence) = match room {
            Some(room) => {
                let room = self.history.enter(who, room).await?.room.nid;
                (Some(self.notifier.hub(room).await?.listen(who.user_nid)), PresenceState::Offline)
            }
            None if who.is_guest => {
                let error = "Guests have to name a room (`room_id`)";
                return Err(Error::told(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", error));
            }
            None => (None, PresenceState::Online),
        };
        let ask = Ask { timeout, set_presence, ..Ask::default() };
        self.answer(who, &ask, Some(from), &Wanted::Events(room)).await
    }

    /// Puts an answer of the stream together; `None` if there is nothing to say and it need not be said.
    pub(super) async fn look_at_events(
        &self,
        turn: &mut Turn<'_>,
        only: Option<&Listening>,
        must_answer: bool,
    ) -> Result<Option<String>> {
        let rooms = self.notifier.rooms_of(turn.slot).await?;
        let (mut events, is_full) = self.next_events(turn, &rooms, only).await?;
        let own = if only.is_none() { self.add_own_events(turn, &rooms, &mut events).await? } else { HashSet::new() };
        let mut chunk = String::from("[");
        self.write_events(&mut chunk, turn, &events, &own).await?;
        self.write_beside(&mut chunk, turn, &rooms, only).await?;
        if chunk == "[" && !is_full && !must_answer {
            return Ok(None);
        }
        chunk.push(']');
        let mut out = String::with_capacity(chunk.len() + 128);
        out.push('{');
        key_value(&mut out, "start", &turn.since.unwrap_or(turn.now).to_string());
        key_value(&mut out, "end", &turn.now.to_string());
        key(&mut out, "chunk");
        out.push_str(&chunk);
        out.push('}');
        Ok(Some(out))
    }

    /// The next page of events of the user's rooms, or of one room, and whether it is full. Then the answer ends with it.
    async fn next_events(
        &self,
        turn: &mut Turn<'_>,
        rooms: &UserRooms,
        only: Option<&Listening>,
    ) -> Result<(Vec<Told>, bool)> {
        let (after, upto) = (turn.after(), turn.now.pos);
        // Which rooms, and what is the last of them.
        let reach: HashMap<RoomNid, StreamPos> = match only {
            Some(Listening { hub, .. }) => (hub.last() > after).then_some((hub.nid, upto)).into_iter().collect(),
            None => {
                let joined = rooms.joined.iter().filter(|(_, hub)| hub.last() > after);
                let left = rooms.others.iter().filter(|m| m.pos > after && is_over(m));
                joined.map(|(_, hub)| (hub.nid, upto)).chain(left.map(|m| (m.room, m.pos))).collect()
            }
        };
        let nids: Vec<RoomNid> = reach.keys().copied().collect();
        let found = self.store.news_of_rooms(&nids, after, upto, PAGE).await?;
        let is_full = found.len() == PAGE;
        if is_full && let Some(last) = found.iter().rev().find_map(|e| e.pos) {
            turn.now.pos = last;
            turn.now.ephemeral = turn.after_ephemeral();
        }
        let told = found.into_iter().filter_map(|event| Some((event.pos?, event)));
        Ok((told.filter(|(pos, event)| reach.get(&event.room).is_some_and(|last| pos <= last)).collect(), is_full))
    }

    /// Adds how the user came to stand to rooms they are not in: an invite, a kick. Says which events are of that sort: they
    /// are told whoever may see the room.
    async fn add_own_events(
        &self,
        turn: &Turn<'_>,
        rooms: &UserRooms,
        events: &mut Vec<Told>,
    ) -> Result<HashSet<EventNid>> {
        let mut own = HashSet::new();
        let is_news = |m: &&Membership| m.pos > turn.after() && m.pos <= turn.now.pos;
        for membership in rooms.others.iter().filter(is_news) {
            if membership.membership == MembershipState::Invite && self.is_unwanted(turn, membership).await? {
                continue;
            }
            own.insert(membership.event);
            if !events.iter().any(|(_, e)| e.nid == membership.event) {
                events.extend(self.store.event(membership.event).await?.map(|event| (membership.pos, event)));
            }
        }
        events.sort_by_key(|(pos, _)| *pos);
        Ok(own)
    }

    /// Writes those events that the user may see, and those that are their `own`.
    async fn write_events(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        events: &[Told],
        own: &HashSet<EventNid>,
    ) -> Result<()> {
        let mut viewers: HashMap<RoomNid, Viewer> = HashMap::new();
        for (_, event) in events {
            let viewer = match viewers.entry(event.room) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    let room = self.state.room_by_nid(event.room).await?;
                    place.insert(self.history.viewer(turn.who, &room).await?)
                }
            };
            if own.contains(&event.nid) || viewer.shows(event).await? {
                next(out);
                self.history.write(out, event, viewer, Form::WITH_ROOM).await?;
            }
        }
        Ok(())
    }

    /// Writes what is new beside events: receipts, who types and account data in joined rooms; if no room is named, global
    /// account data and presence as well.
    async fn write_beside(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        rooms: &UserRooms,
        only: Option<&Listening>,
    ) -> Result<()> {
        let own = self.own_data(turn).await?;
        let asked = rooms.joined.iter().filter(|(_, hub)| only.is_none_or(|room| room.hub.nid == hub.nid));
        for (_, hub) in asked.filter(|(_, hub)| Self::has_news(turn, hub, &own)) {
            let room = self.state.room_by_nid(hub.nid).await?;
            for (kind, content) in self.ephemeral(turn, &room, hub, false, typing_changed(turn, hub)).await? {
                write_piece(out, Some(&room.room_id), kind, &content);
            }
            for (kind, content) in own.of_room(hub.nid) {
                write_piece(out, Some(&room.room_id), kind, content.get());
            }
        }
        if only.is_none() {
            for (kind, content) in own.global() {
                write_piece(out, None, kind, content.get());
            }
            for event in self.presence(turn).await? {
                next(out);
                out.push_str(&event);
            }
        }
        Ok(())
    }

    /// Writes one of the user's rooms, if it belongs into an initial sync.
    async fn write_room_of(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        membership: &Membership,
        archived: bool,
        own: &OwnData,
    ) -> Result<()> {
        let is_shown = match membership.membership {
            MembershipState::Join => true,
            MembershipState::Invite => !self.is_unwanted(turn, membership).await?,
            _ => archived && is_over(membership),
        };
        if !is_shown {
            return Ok(());
        }
        let room = self.state.room_by_nid(membership.room).await?;
        let viewer = self.history.viewer(turn.who, &room).await?;
        if membership.membership == MembershipState::Invite {
            let Some(invite) = self.store.event(membership.event).await? else { return Ok(()) };
            next(out);
            out.push('{');
            key_value(out, "room_id", room.room_id.as_str());
            key_value(out, "membership", membership.membership.as_str());
            key(out, "invite");
            self.history.write(out, &invite, &viewer, Form::STATE).await?;
            out.push('}');
            return Ok(());
        }
        // All members are told, so they have to be known; and who was only ever invited has nothing to look back at.
        if room.head.partial || !viewer.was_ever_in() {
            return Ok(());
        }
        next(out);
        self.write_room(out, turn, &viewer, Some(&membership.membership), own.of_room(room.nid)).await
    }

    /// Writes what a room is like (spec: `RoomInfo`): as it is, or for those who left as it was then.
    async fn write_room(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        viewer: &Viewer,
        membership: Option<&MembershipState>,
        account_data: &[(String, Box<RawValue>)],
    ) -> Result<()> {
        let room = &viewer.room;
        let hub = self.notifier.hub(room.nid).await?;
        let upto = viewer.left_with().and_then(|e| e.pos).map_or(turn.now.pos, |left| left.min(turn.now.pos));
        let timeline = self.timeline(turn, viewer, &hub, StreamPos::ZERO, upto, None).await?;
        let start = match timeline.start {
            Some(start) => start,
            None => self.history.newest_place(room, upto).await?.into(),
        };
        let state = self.history.state_events(&self.history.state(viewer).await?).await?;
        out.push('{');
        key_value(out, "room_id", room.room_id.as_str());
        // The specification has no word for who knocks.
        if let Some(membership) = membership.filter(|m| **m != MembershipState::Knock) {
            key_value(out, "membership", membership.as_str());
        }
        key(out, "messages");
        out.push('{');
        key_value(out, "start", &start.to_string());
        key_value(out, "end", &turn.now.to_string());
        key(out, "chunk");
        self.history.write_with_children(out, &timeline.events, viewer, Form::WITH_ROOM).await?;
        out.push('}');
        key(out, "state");
        self.history.write_all(out, &state, viewer, Form::STATE).await?;
        let is_public = self.store.is_published(room.nid).await?;
        key_value(out, "visibility", if is_public { "public" } else { "private" });
        key(out, "account_data");
        write_pieces(out, account_data);
        out.push('}');
        Ok(())
    }
}

/// Asks for the newest messages of rooms, as many as /sync gives if it is not said how many.
fn newest(limit: Option<usize>) -> Ask {
    let mut filter = Filter::default();
    filter.timeline.limit = limit;
    Ask { filter: Arc::new(filter), ..Ask::default() }
}

/// Whether the user is out of a room, and has not forgotten it.
fn is_over(membership: &Membership) -> bool {
    matches!(membership.membership, MembershipState::Leave | MembershipState::Ban) && !membership.forgotten
}

/// Makes place for one more element of a list.
fn next(out: &mut String) {
    if !out.is_empty() && !out.ends_with('[') {
        out.push(',');
    }
}

/// Writes a list of account data.
fn write_pieces(out: &mut String, pieces: &[(String, Box<RawValue>)]) {
    out.push('[');
    for (kind, content) in pieces {
        write_piece(out, None, kind, content.get());
    }
    out.push(']');
}
