//! What a user was notified of, newest first (spec: `GET /notifications`).
//!
//! Nobody has a row for what the default rules say of an unmentioned member, so it is read from the timelines of the
//! user's rooms: an event counts there if the room's counter went up with it. Rooms are looked at by their newest event,
//! and no further once a page is full of newer ones. With what sound the rules have to say again ([`super::actions`]).

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use hearth_base::{
    Doing, Error, Requester, Result,
    ids::{RoomNid, StreamPos},
};
use hearth_store::{Store, events::StoredEvent, receipts::ReadPosition};
use serde_json::value::RawValue;

use super::Push;
use crate::{
    history::{Form, History, Viewer},
    state::State,
};

/// Notifications in a page at most.
const MAX_PAGE: usize = 100;
/// Events of a room looked through for one answer.
const MAX_LOOKED_AT: usize = 500;

/// Lists notifications.
#[derive(Debug)]
pub struct Notified {
    store: Store,
    state: Arc<State>,
    push: Arc<Push>,
    history: Arc<History>,
}

/// One of them.
struct Notification {
    pos: StreamPos,
    event: Arc<StoredEvent>,
    thread: String,
    highlight: bool,
    actions: Actions,
}

/// What is to be done about an event.
enum Actions {
    /// Stored for this user.
    Own(String),
    /// What is known without asking for the user's sounds.
    OfAll(String),
}

impl Notified {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, state: Arc<State>, push: Arc<Push>, history: Arc<History>) -> Self {
        Self { store, state, push, history }
    }

    /// A page of notifications, as JSON; with `highlights` only those that highlight.
    ///
    /// # Errors
    /// 400 for a token that is not ours.
    pub async fn page_json(
        &self,
        who: &Requester,
        from: Option<&str>,
        highlights: bool,
        limit: usize,
    ) -> Result<String> {
        let before = from.map(parse).transpose()?.unwrap_or(StreamPos(i64::MAX));
        let limit = limit.clamp(1, MAX_PAGE);
        let mut nids = self.store.joined_rooms(who.user_nid).await?;
        let mut rooms = self.store.rooms(&nids).await?;
        rooms.sort_by_key(|room| std::cmp::Reverse(room.head.pos));
        nids.sort_unstable();
        let mut found: Vec<Notification> = Vec::new();
        let mut viewers: HashMap<RoomNid, Viewer> = HashMap::new();
        // One more than wanted tells whether there are more.
        let wanted = limit + 1;
        for room in rooms {
            if found.len() >= wanted && found.get(wanted - 1).is_some_and(|last| last.pos > room.head.pos) {
                break;
            }
            let room = Arc::new(room);
            let viewer = self.history.viewer(who, &room).await?;
            found.extend(self.of_room(&viewer, before, highlights, wanted).await?);
            viewers.insert(room.nid, viewer);
            newest(&mut found, wanted);
        }
        // Invites come from rooms that the user is not in, or was not in yet.
        let limit_rows = i64::try_from(wanted).unwrap_or(i64::MAX);
        for row in self.store.notified(who.user_nid, before, highlights, limit_rows).await? {
            let since = || viewers.get(&row.room).and_then(Viewer::joined_since);
            if (nids.binary_search(&row.room).is_err() || since().is_some_and(|since| row.pos < since))
                && let Some(event) = self.store.event(row.event).await?
            {
                if !viewers.contains_key(&row.room)
                    && let Some(room) = self.store.room(row.room).await?
                {
                    viewers.insert(row.room, self.history.viewer(who, &room).await?);
                }
                let actions = Actions::Own(row.actions);
                found.push(Notification { pos: row.pos, event, thread: row.thread, highlight: row.highlight, actions });
            }
        }
        newest(&mut found, wanted);
        let mut seen = Vec::with_capacity(found.len());
        for notification in found {
            if let Some(viewer) = viewers.get(&notification.event.room)
                && shown(viewer, &notification.event).await?
            {
                seen.push(notification);
            }
        }
        let mut found = seen;
        let more = found.len() > limit;
        found.truncate(limit);
        self.write(who, &found, &viewers, more).await
    }

    /// The newest of a room.
    async fn of_room(
        &self,
        viewer: &Viewer,
        before: StreamPos,
        highlights: bool,
        wanted: usize,
    ) -> Result<Vec<Notification>> {
        let room = viewer.room.nid;
        // With the event by which they came in, from which on the counter is looked at.
        let joined = viewer.joined_since().map_or(StreamPos::ZERO, |pos| StreamPos(pos.0 - 1));
        let (mut found, mut upto, mut looked_at) = (Vec::new(), StreamPos(before.0.saturating_sub(1)), 0);
        while looked_at < MAX_LOOKED_AT && found.len() < wanted {
            // The last of them is there only to tell whether the counter went up with the one before.
            let events = self.store.news(room, joined, upto, wanted.min(100) + 1).await?;
            let Some(oldest) = events.last().and_then(|e| e.pos) else { break };
            let rows = self.store.outcomes(viewer.user, room, oldest, upto).await?;
            for pair in events.windows(2) {
                let [event, older] = pair else { continue };
                let Some(pos) = event.pos.filter(|_| event.sender != viewer.user) else { continue };
                if !viewer.shows(event).await? {
                    continue;
                }
                let of = |own: bool| rows.iter().find(|r| r.pos == pos && r.own == own);
                let outcome = match (of(true), of(false)) {
                    (Some(own), _) => own.notify.then(|| (own.highlight, Actions::Own(own.actions.clone()))),
                    (None, Some(all)) => all.notify.then(|| (all.highlight, Actions::OfAll(all.actions.clone()))),
                    (None, None) => {
                        (event.counter > older.counter).then(|| (false, Actions::OfAll("[\"notify\"]".to_owned())))
                    }
                };
                if let Some((highlight, actions)) = outcome
                    && (highlight || !highlights)
                {
                    let thread = of(true).or(of(false)).map_or_else(|| super::MAIN.to_owned(), |r| r.thread.clone());
                    found.push(Notification { pos, event: event.clone(), thread, highlight, actions });
                }
            }
            looked_at += events.len();
            if events.len() < 2 {
                break;
            }
            upto = oldest;
        }
        Ok(found)
    }

    async fn write(
        &self,
        who: &Requester,
        found: &[Notification],
        viewers: &HashMap<RoomNid, Viewer>,
        more: bool,
    ) -> Result<String> {
        let mut out = String::from("{\"notifications\":[");
        let mut read: HashMap<RoomNid, Vec<ReadPosition>> = HashMap::new();
        let mut around = HashMap::new();
        let empty = out.len();
        for one in found {
            let Some(viewer) = viewers.get(&one.event.room) else { continue };
            let positions = match read.entry(one.event.room) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.store.read_positions(one.event.room, who.user_nid).await?),
            };
            let is_read = positions.iter().any(|p| (p.thread.is_empty() || p.thread == one.thread) && p.pos >= one.pos);
            let actions = match &one.actions {
                Actions::Own(actions) => actions.clone(),
                Actions::OfAll(known) => {
                    // Most events of a room stand in the same state.
                    let around = match around.entry((one.event.room, one.event.snap)) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(self.push.around(&self.state, viewer, &one.event).await?),
                    };
                    let actions = self.push.actions(viewer, &one.event, around, one.highlight).await?;
                    actions.unwrap_or_else(|| known.clone())
                }
            };
            // Actions of ours, and of rules that were read as JSON.
            let actions = RawValue::from_string(actions).doing("reading push actions")?;
            let room_id = serde_json::to_string(&viewer.room.room_id).doing("writing an answer")?;
            if out.len() > empty {
                out.push(',');
            }
            out.push_str(&format!("{{\"room_id\":{room_id},\"profile_tag\":null,\"read\":{is_read},"));
            out.push_str(&format!("\"actions\":{actions},\"ts\":"));
            out.push_str(&one.event.pdu.origin_server_ts().to_string());
            out.push_str(",\"event\":");
            self.history.write(&mut out, &one.event, viewer, Form::default()).await?;
            out.push('}');
        }
        out.push(']');
        if let (true, Some(last)) = (more, found.last()) {
            out.push_str(&format!(",\"next_token\":\"n{}\"", last.pos.0));
        }
        out.push('}');
        Ok(out)
    }
}

/// Whether a user is shown an event: what they may see of a room, and what makes them part of it, if not by somebody they
/// ignore.
async fn shown(viewer: &Viewer, event: &StoredEvent) -> Result<bool> {
    let is_own = event.pdu.state_key() == Some(viewer.user_id().as_str());
    Ok(viewer.shows(event).await? || is_own && !viewer.ignored().contains(event.pdu.sender()))
}

/// Sorts, and keeps the newest.
fn newest(found: &mut Vec<Notification>, wanted: usize) {
    found.sort_by_key(|n| std::cmp::Reverse(n.pos));
    found.truncate(wanted);
}

/// Where a page goes on.
fn parse(token: &str) -> Result<StreamPos> {
    let pos = token.strip_prefix('n').and_then(|pos| pos.parse().ok());
    pos.map(StreamPos).ok_or_else(|| Error::invalid_param("`from` is not a token of this server"))
}
