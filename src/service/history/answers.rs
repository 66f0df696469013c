//! What history is asked for over HTTP, as JSON texts: events are spliced from what is cached, never parsed and written
//! again.

use std::{collections::BTreeMap, sync::Arc};

use hearth_base::{
    Error, OrNotFound, Requester, Result,
    ids::EventNid,
    stream::{HistoryToken, PageToken},
};
use hearth_store::{
    events::{Direction, StoredEvent},
    state::StateMap,
};
use ruma::{EventId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};

use super::{Form, History, Wanted};
use crate::sync::filter;

/// A page asked for (spec: `GET /rooms/{roomId}/messages`).
#[derive(Debug)]
pub struct Messages<'a> {
    /// Which way.
    pub direction: Direction,
    /// Where the page begins; by default at the end it comes from.
    pub from: Option<&'a str>,
    /// Where to stop.
    pub to: Option<&'a str>,
    /// Events at most.
    pub limit: usize,
    /// Which events.
    pub filter: &'a filter::Events,
}

impl History {
    /// One event.
    ///
    /// # Errors
    /// 404 if there is none that the user may see.
    pub async fn event_json(&self, who: &Requester, room_id: &RoomId, event_id: &EventId) -> Result<String> {
        let (viewer, event) = self.event(who, room_id, event_id).await?;
        let bundles = self.bundles([&event].into_iter(), &viewer, Form::WITH_ROOM).await?;
        let mut out = String::new();
        self.write(&mut out, &event, &viewer, Form { bundles: Some(&bundles), ..Form::WITH_ROOM }).await?;
        Ok(out)
    }

    /// One event of whatever room (spec: `GET /events/{eventId}`, deprecated).
    ///
    /// # Errors
    /// 404 if there is none that the user may see.
    pub async fn event_anywhere_json(&self, who: &Requester, event_id: &EventId) -> Result<String> {
        let event = self.store.event_by_id(event_id).await?.or_not_found("Event")?;
        let room_id = event.pdu.room_id().to_owned();
        self.event_json(who, &room_id, event_id).await
    }

    /// All state of a room.
    ///
    /// # Errors
    /// 403 for those who may see nothing of it.
    pub async fn state_json(&self, who: &Requester, room_id: &RoomId) -> Result<String> {
        let viewer = self.enter_whole(who, room_id).await?;
        let events = self.state_events(&self.state(&viewer).await?).await?;
        let mut out = String::with_capacity(events.len() * 512);
        self.write_all(&mut out, &events, &viewer, Form::STATE).await?;
        Ok(out)
    }

    /// One piece of state: its content, or the whole event.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room, 404 if it has no such state.
    pub async fn state_entry_json(
        &self,
        who: &Requester,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        whole: bool,
    ) -> Result<String> {
        // Of members alone not all may be there.
        let viewer = match event_type {
            "m.room.member" if state_key != who.user_id.as_str() => self.enter_whole(who, room_id).await?,
            _ => self.enter(who, room_id).await?,
        };
        let state = self.state(&viewer).await?;
        let event = self.state.entry(&state, event_type, state_key).await?.or_not_found("State")?;
        if !whole {
            return Ok(event.pdu.content_json().to_owned());
        }
        let mut out = String::new();
        self.write(&mut out, &event, &viewer, Form::STATE).await?;
        Ok(out)
    }

    /// Member events, now or at the place of a token.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room, 400 for a token that is not ours.
    pub async fn members_json(
        &self,
        who: &Requester,
        room_id: &RoomId,
        at: Option<&str>,
        membership: Option<&MembershipState>,
        not_membership: Option<&MembershipState>,
    ) -> Result<String> {
        let viewer = self.enter_whole(who, room_id).await?;
        let state = match at {
            Some(token) => self.state_at(who, &viewer, token).await?,
            None => self.state(&viewer).await?,
        };
        let events = self.members(&state, membership, not_membership).await?;
        let mut out = String::with_capacity(events.len() * 512);
        out.push_str("{\"chunk\":");
        self.write_all(&mut out, &events, &viewer, Form::STATE).await?;
        out.push('}');
        Ok(out)
    }

    /// Who is in a room, with names and avatars.
    ///
    /// # Errors
    /// 403 for those who are not in it themselves.
    pub async fn joined_members_json(&self, who: &Requester, room_id: &RoomId) -> Result<String> {
        #[derive(Deserialize)]
        struct Content {
            displayname: Option<String>,
            avatar_url: Option<String>,
        }
        #[derive(Serialize)]
        struct Member {
            display_name: Option<String>,
            avatar_url: Option<String>,
        }
        #[derive(Serialize)]
        struct Answer {
            joined: BTreeMap<OwnedUserId, Member>,
        }
        let viewer = self.enter_whole(who, room_id).await?;
        if !viewer.is_joined() {
            return Err(Error::forbidden("You are not in this room"));
        }
        let state = self.state(&viewer).await?;
        let mut joined = BTreeMap::new();
        for event in self.members(&state, Some(&MembershipState::Join), None).await? {
            let Some(user) = event.pdu.state_key().and_then(|k| UserId::parse(k).ok()) else { continue };
            let content: Option<Content> = event.pdu.content_as();
            let (display_name, avatar_url) = content.map_or((None, None), |c| (c.displayname, c.avatar_url));
            joined.insert(user, Member { display_name, avatar_url });
        }
        serde_json::to_string(&Answer { joined }).map_err(|e| Error::fault("writing an answer", e))
    }

    /// A page of history.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room, 400 for a token that is not ours.
    pub async fn messages_json(&self, who: &Requester, room_id: &RoomId, ask: &Messages<'_>) -> Result<String> {
        let viewer = self.enter(who, room_id).await?;
        let filter = ask.filter;
        let wanted = Wanted { filter, here: filter.has_room(room_id) };
        let page = self.messages(&viewer, ask.direction, ask.from, ask.to, ask.limit, wanted).await?;
        let mut out = String::with_capacity(page.events.len() * 640 + 128);
        out.push_str("{\"chunk\":");
        self.write_with_children(&mut out, &page.events, &viewer, Form::WITH_ROOM).await?;
        let token = |at: HistoryToken| PageToken { at, upto: page.upto };
        push_token(&mut out, "start", Some(token(page.start)));
        push_token(&mut out, "end", page.end.map(token));
        let newest = match ask.direction {
            Direction::Backward => page.events.first(),
            Direction::Forward => page.events.last(),
        };
        if filter.lazy_members
            && let Some(newest) = newest
        {
            let state = self.state_beside(&viewer, newest).await?;
            let speakers = self.store.events(&self.speakers(&state, &page.events).await?).await?;
            out.push_str(",\"state\":");
            self.write_all(&mut out, &speakers, &viewer, Form::STATE).await?;
        }
        out.push('}');
        Ok(out)
    }

    /// An event, its neighbours and the state at the last of them.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room, 404 if there is no such event that they may see.
    pub async fn context_json(
        &self,
        who: &Requester,
        room_id: &RoomId,
        event_id: &EventId,
        limit: usize,
        filter: &filter::Events,
    ) -> Result<String> {
        let viewer = match filter.lazy_members {
            true => self.enter(who, room_id).await?,
            false => self.enter_whole(who, room_id).await?,
        };
        let wanted = Wanted { filter, here: filter.has_room(room_id) };
        let context = self.context(&viewer, event_id, limit, wanted).await?;
        let mut state = if filter.lazy_members {
            let shown = context.before.iter().chain(&context.after).chain([&context.event]);
            let shown: Vec<Arc<StoredEvent>> = shown.cloned().collect();
            self.context_state_lazily(&context.state, &shown).await?
        } else {
            self.state_events(&context.state).await?
        };
        let related = filter.related(&self.store, viewer.room.nid, &state).await?;
        state.retain(|e| filter.has(&e.pdu) && related.as_ref().is_none_or(|related| related.contains(&e.nid)));
        let shown = context.before.iter().chain(&context.after).chain([&context.event]);
        let bundles = self.bundles(shown, &viewer, Form::WITH_ROOM).await?;
        let form = Form { bundles: Some(&bundles), ..Form::WITH_ROOM };
        let mut out = String::with_capacity(4096);
        out.push_str("{\"event\":");
        self.write(&mut out, &context.event, &viewer, form).await?;
        out.push_str(",\"events_before\":");
        self.write_all(&mut out, &context.before, &viewer, form).await?;
        out.push_str(",\"events_after\":");
        self.write_all(&mut out, &context.after, &viewer, form).await?;
        out.push_str(",\"state\":");
        self.write_all(&mut out, &state, &viewer, Form::STATE).await?;
        push_token(&mut out, "start", Some(context.start.into()));
        push_token(&mut out, "end", Some(context.end.into()));
        out.push('}');
        Ok(out)
    }

    /// A state without members but for those who speak in these events, and the user.
    async fn context_state_lazily(
        &self,
        state: &StateMap,
        shown: &[Arc<StoredEvent>],
    ) -> Result<Vec<Arc<StoredEvent>>> {
        let keys = self.store.keys(&state.keys().copied().collect::<Vec<_>>()).await?;
        let others = state.values().zip(&keys).filter(|(_, key)| key.event_type != "m.room.member");
        let mut wanted: Vec<EventNid> = others.map(|(event, _)| *event).collect();
        wanted.extend(self.speakers(state, shown).await?);
        self.store.events(&wanted).await
    }
}

fn push_token(out: &mut String, key: &str, token: Option<PageToken>) {
    if let Some(token) = token {
        out.push_str(&format!(",\"{key}\":\"{token}\""));
    }
}
