//! Events that point at others: edits, reactions, threads, references. What a new event may point at, which thread an event
//! is in, and the lists of children and of threads. What a parent shows of its children is in [`crate::history`], which
//! writes it with the event.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Error, Requester, Result,
    ids::{RoomNid, StreamPos, UserNid},
    stream::HistoryToken,
};
use hearth_store::{
    Store,
    events::{Direction, StoredEvent},
    relations::{RECURSION, Related},
};
use ruma::{EventId, OwnedEventId, RoomId, events::TimelineEventType};
use serde::Deserialize;

use crate::history::{Form, History};

/// Events or threads in a page at most.
const MAX_PAGE: usize = 100;
/// Pages of hidden ones looked through for one answer.
const MAX_ROUNDS: usize = 10;
/// Relations followed from an event to find its thread (spec: "Threaded read receipts").
const HOPS: usize = 3;
/// The thread that is none.
pub(crate) const MAIN: &str = "main";

/// Lists of related events.
#[derive(Debug)]
pub struct Relations {
    store: Store,
    history: Arc<History>,
}

/// A page of children asked for (spec: `GET /rooms/{roomId}/relations/{eventId}`).
#[derive(Clone, Copy, Debug)]
pub struct Children<'a> {
    /// Of which event.
    pub parent: &'a EventId,
    /// Only this type of relation.
    pub rel_type: Option<&'a str>,
    /// Only this type of event.
    pub event_type: Option<&'a str>,
    /// Also their children.
    pub recurse: bool,
    /// Which way.
    pub direction: Direction,
    /// Where the page begins.
    pub from: Option<&'a str>,
    /// Where to stop.
    pub to: Option<&'a str>,
    /// Events at most.
    pub limit: usize,
    /// Whether the parent is told with them, as MSC2675 had it before the endpoint was stable.
    pub with_parent: bool,
}

/// `m.relates_to`, as far as it names another event.
#[derive(Debug, Deserialize)]
pub(crate) struct RelatesTo {
    pub(crate) rel_type: String,
    pub(crate) event_id: OwnedEventId,
    pub(crate) key: Option<String>,
}

impl RelatesTo {
    /// The relation in the content of an event, if it has one.
    pub(crate) fn of(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "m.relates_to")]
            relates_to: RelatesTo,
        }
        if !content.contains("m.relates_to") {
            return None;
        }
        let Content { relates_to: r } = serde_json::from_str(content).ok()?;
        // PostgreSQL has no texts with NUL.
        let sound = [r.rel_type.as_str(), r.event_id.as_str(), r.key.as_deref().unwrap_or("")];
        sound.iter().all(|t| !t.contains('\0')).then_some(r)
    }
}

/// Refuses relations that a client of ours should not make: to what the room does not have, as Synapse does, and those of
/// the specification ("Validation of `m.thread` relationships", "Avoiding duplicate annotations").
pub(crate) async fn check(
    store: &Store,
    room: RoomNid,
    sender: UserNid,
    event_type: &TimelineEventType,
    content: &str,
) -> Result<()> {
    let Some(new) = RelatesTo::of(content) else { return Ok(()) };
    if store.event_by_id(&new.event_id).await?.is_none_or(|parent| parent.room != room) {
        return Err(Error::unknown("An event cannot relate to one that is not in the room"));
    }
    match (new.rel_type.as_str(), &new.key) {
        ("m.thread", _) if store.relation(room, new.event_id.as_str()).await?.is_some() => {
            Err(Error::unknown("A thread cannot begin at an event that relates to another"))
        }
        ("m.annotation", Some(key)) => {
            let event_type = event_type.to_string();
            match store.annotation(room, &new.event_id, sender, &event_type, key).await? {
                None => Ok(()),
                Some(_) => Err(Error::told(
                    http::StatusCode::BAD_REQUEST,
                    "M_DUPLICATE_ANNOTATION",
                    "You have given this annotation already",
                )),
            }
        }
        _ => Ok(()),
    }
}

/// The thread of an event that has this relation: `main`, or the root's id. Who relates to an event in a thread is in it,
/// too; what relates to the root of the thread `wanted` is taken to be in that one, since clients show it there.
pub(crate) async fn thread_of(
    store: &Store,
    room: RoomNid,
    relation: &RelatesTo,
    wanted: Option<&str>,
) -> Result<String> {
    let (mut rel_type, mut target) = (relation.rel_type.clone(), relation.event_id.to_string());
    for _ in 0..HOPS {
        if rel_type == "m.thread" || wanted == Some(target.as_str()) {
            return Ok(target);
        }
        match store.relation(room, &target).await? {
            Some(next) => (rel_type, target) = next,
            None => break,
        }
    }
    Ok(MAIN.to_owned())
}

impl Relations {
    /// Made once.
    #[must_use]
    pub fn new(store: Store, history: Arc<History>) -> Self {
        Self { store, history }
    }

    /// A page of an event's children, as JSON.
    ///
    /// # Errors
    /// 404 for an event that the user may not see, 400 for a token that is not ours.
    pub async fn children_json(&self, who: &Requester, room_id: &RoomId, ask: Children<'_>) -> Result<String> {
        let (viewer, parent) = self.history.event(who, room_id, ask.parent).await?;
        let room = &viewer.room;
        let (first, last) = match ask.direction {
            Direction::Backward => (HistoryToken::END, HistoryToken::START),
            Direction::Forward => (HistoryToken::START, HistoryToken::END),
        };
        let mut at = self.place(room, ask.from, first).await?;
        let until = self.place(room, ask.to, last).await?;
        let limit = ask.limit.clamp(1, MAX_PAGE);
        let mut shown: Vec<Arc<StoredEvent>> = Vec::new();
        let mut more = true;
        for _ in 0..MAX_ROUNDS {
            let page = Related {
                room: room.nid,
                target: ask.parent,
                rel_type: ask.rel_type,
                event_type: ask.event_type,
                recurse: ask.recurse,
                direction: ask.direction,
                from: at,
                until,
            };
            let wanted = limit - shown.len();
            // One more than wanted tells whether there are more.
            let mut found = self.store.related(page, wanted + 1).await?;
            more = found.len() > wanted;
            found.truncate(wanted);
            let found = self.store.events(&found).await?;
            let Some(place) = found.last().and_then(|e| e.place()) else { break };
            at = match ask.direction {
                Direction::Backward => place.before(),
                Direction::Forward => place,
            };
            shown.extend(viewer.shown(found).await?);
            if !more || shown.len() >= limit {
                break;
            }
        }
        let mut out = String::from("{\"chunk\":");
        self.history.write_with_children(&mut out, &shown, &viewer, Form::WITH_ROOM).await?;
        if more {
            out.push_str(&format!(",\"next_batch\":\"{at}\""));
        }
        if let Some(from) = ask.from {
            // A place of ours: nothing in it needs an escape.
            let start = self.history.place(room, from).await?;
            out.push_str(&format!(",\"prev_batch\":\"{start}\""));
        }
        if ask.with_parent {
            out.push_str(",\"original_event\":");
            self.history.write(&mut out, &parent, &viewer, Form::WITH_ROOM).await?;
        }
        if ask.recurse {
            out.push_str(&format!(",\"recursion_depth\":{RECURSION}"));
        }
        out.push('}');
        Ok(out)
    }

    async fn place(
        &self,
        room: &hearth_store::rooms::Room,
        token: Option<&str>,
        default: HistoryToken,
    ) -> Result<HistoryToken> {
        match token {
            Some(token) => self.history.place(room, token).await,
            None => Ok(default),
        }
    }

    /// A page of a room's threads by their roots, the one with the newest event first, as JSON.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room, 400 for a token that is not ours.
    pub async fn threads_json(
        &self,
        who: &Requester,
        room_id: &RoomId,
        participated: bool,
        from: Option<&str>,
        limit: usize,
    ) -> Result<String> {
        let viewer = self.history.enter(who, room_id).await?;
        let reader = self.history.reader(&viewer).await?;
        let mut before = from.map(parse).transpose()?.unwrap_or(StreamPos(i64::MAX));
        let limit = limit.clamp(1, MAX_PAGE);
        let (mut roots, mut more) = (Vec::new(), true);
        for _ in 0..MAX_ROUNDS {
            let wanted = limit - roots.len();
            let mut found = self.store.threads(viewer.room.nid, &reader, before, participated, wanted + 1).await?;
            more = found.len() > wanted;
            found.truncate(wanted);
            let Some((_, last)) = found.last() else { break };
            before = *last;
            let ids: Vec<OwnedEventId> = found.iter().filter_map(|(root, _)| EventId::parse(root).ok()).collect();
            let events = self.store.events_by_id(&ids).await?;
            let mut by_id: HashMap<OwnedEventId, Arc<StoredEvent>> =
                events.into_iter().map(|e| (e.event_id().to_owned(), e)).collect();
            for root in ids.iter().filter_map(|id| by_id.remove(id)) {
                if root.room == viewer.room.nid && root.pos.is_some() && viewer.may_see(&root).await? {
                    roots.push(root);
                }
            }
            if !more || roots.len() >= limit {
                break;
            }
        }
        let mut out = String::from("{\"chunk\":");
        self.history.write_with_children(&mut out, &roots, &viewer, Form::WITH_ROOM).await?;
        if more {
            out.push_str(&format!(",\"next_batch\":\"p{}\"", before.0));
        }
        out.push('}');
        Ok(out)
    }
}

/// Where a page of threads goes on.
fn parse(token: &str) -> Result<StreamPos> {
    let pos = token.strip_prefix('p').and_then(|pos| pos.parse().ok());
    pos.map(StreamPos).ok_or_else(|| Error::invalid_param("`from` is not a token of this server"))
}
