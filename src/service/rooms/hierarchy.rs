//! The tree of a space, depth first (spec: `GET /rooms/{roomId}/hierarchy`).
//!
//! A page walks the tree again from its root, up to the room that the last page ended with: the tree may have changed
//! meanwhile, and nothing is kept for who never comes back. What a room's children are is remembered by its state. Rooms
//! that are not here are asked for at the servers that their parents name ([`elsewhere`]); those nobody tells of are passed
//! over. The other way, [`Rooms::hierarchy_for_server`] tells other servers of ours.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{Doing, Error, Requester, Result};
use hearth_rules::client_format::write_stripped;
use hearth_store::{events::StoredEvent, rooms::Room};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;
use serde_json::Value;

use super::Rooms;
use crate::directory::Summary;

pub(super) mod elsewhere;

use elsewhere::Budget;

/// Rooms in a page at most, and when the client does not say.
const MAX_PAGE: usize = 50;
/// How far down at most, and when the client does not say.
const MAX_DEPTH: u64 = 50;
/// Rooms looked at for one answer.
const MAX_WALK: usize = 5_000;
/// Places that wait to be looked at: a room may stand in many. Those that would come last are passed over.
const MAX_WAITING: usize = 4 * MAX_WALK;
/// Children of a room at most; what comes after them in its order is left out.
const MAX_CHILDREN: usize = 1_000;
/// Children of a space that another server is told of.
const MAX_FOR_SERVER: usize = 250;
/// Servers kept of those that a space names for a child.
const MAX_VIA: usize = 5;

/// A page of a space's tree asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hierarchy<'a> {
    /// Only rooms that the space suggests.
    pub suggested_only: bool,
    /// How far down; the root stands at 0.
    pub max_depth: Option<u64>,
    /// Rooms at most.
    pub limit: Option<usize>,
    /// Where the page goes on.
    pub from: Option<&'a str>,
}

/// A room that a space names as its child.
#[derive(Debug)]
pub(super) struct Child {
    room_id: OwnedRoomId,
    suggested: bool,
    /// Servers that should know it.
    via: Vec<OwnedServerName>,
    /// The event in stripped form.
    json: String,
}

/// A room and its children, as far as somebody may hear of them.
type Node = (Arc<Summary>, Arc<Vec<Child>>);

/// What a walk has heard of rooms that are not here.
struct Walk {
    budget: Budget,
    /// What the servers of their parents say of rooms.
    told: HashMap<OwnedRoomId, Arc<Summary>>,
    inaccessible: HashSet<OwnedRoomId>,
}

impl Walk {
    fn new() -> Self {
        Self { budget: Budget::new(), told: HashMap::new(), inaccessible: HashSet::new() }
    }
}

/// What is asked for on every page of a walk, and how far the last one came.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    suggested_only: bool,
    max_depth: u64,
    /// Rooms shown so far.
    shown: usize,
    /// The last of them.
    last: OwnedRoomId,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}_{}_{}_{}", u8::from(self.suggested_only), self.max_depth, self.shown, self.last)
    }
}

impl Place {
    fn parse(token: &str) -> Result<Self> {
        let read = || {
            let mut parts = token.strip_prefix('s')?.splitn(4, '_');
            Some(Self {
                suggested_only: match parts.next()? {
                    "0" => false,
                    "1" => true,
                    _ => return None,
                },
                max_depth: parts.next()?.parse().ok()?,
                shown: parts.next()?.parse().ok()?,
                last: RoomId::parse(parts.next()?).ok()?,
            })
        };
        read().ok_or_else(|| Error::invalid_param("`from` is not a token of this server"))
    }
}

impl Rooms {
    /// A page of a space's tree, as JSON.
    ///
    /// # Errors
    /// 403 for a root that the user may not hear of, 400 for a token that is not ours or asks for something else.
    pub async fn hierarchy_json(&self, who: &Requester, root: &RoomId, ask: Hierarchy<'_>) -> Result<String> {
        let limit = ask.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let after = ask.from.map(Place::parse).transpose()?;
        let max_depth = ask.max_depth.map(|d| d.min(MAX_DEPTH));
        let (suggested_only, max_depth) = match &after {
            Some(place)
                if place.suggested_only != ask.suggested_only || max_depth.is_some_and(|d| d != place.max_depth) =>
            {
                return Err(Error::invalid_param("`suggested_only` and `max_depth` cannot change from page to page"));
            }
            Some(place) => (place.suggested_only, place.max_depth.min(MAX_DEPTH)),
            None => (ask.suggested_only, max_depth.unwrap_or(MAX_DEPTH)),
        };
        let mut walk = Walk::new();
        let via: Vec<OwnedServerName> = root.server_name().map(ToOwned::to_owned).into_iter().collect();
        if self.look(who, root, &via, &mut walk).await?.is_none() {
            return Err(Error::forbidden("You are not in this room, and it is not open to you"));
        }
        let mut shown: Vec<(OwnedRoomId, String)> = Vec::new();
        let mut resumed = after.is_none();
        let (mut passed, mut more) = (0, false);
        // A room that stands in several places is shown in the first, depth first: that need not be where it is met first.
        let mut seen = HashSet::new();
        let mut next = vec![(root.to_owned(), 0, via)];
        for _ in 0..MAX_WALK {
            let unseen = std::iter::from_fn(|| next.pop()).find(|(room_id, ..)| seen.insert(room_id.clone()));
            let Some((room_id, depth, via)) = unseen else { break };
            let Some((summary, children)) = self.look(who, &room_id, &via, &mut walk).await? else { continue };
            if depth < max_depth {
                let wanted: Vec<&Child> = children
                    .iter()
                    .filter(|c| c.suggested || !suggested_only)
                    .filter(|c| !seen.contains(&c.room_id))
                    .collect();
                // The first is to be the next.
                next.extend(wanted.iter().rev().map(|child| (child.room_id.clone(), depth + 1, child.via.clone())));
                next.drain(..next.len().saturating_sub(MAX_WAITING));
            }
            passed += 1;
            if let (false, Some(place)) = (resumed, &after) {
                // Should the last room be gone, their number tells.
                resumed = place.last == room_id || passed > place.shown;
                if place.last == room_id || passed <= place.shown {
                    continue;
                }
            }
            if shown.len() == limit {
                more = true;
                break;
            }
            shown.push((room_id, entry(&summary, &children, suggested_only)?));
        }
        let mut out = String::from("{\"rooms\":[");
        out.push_str(&shown.iter().map(|(_, json)| json.as_str()).collect::<Vec<_>>().join(","));
        out.push(']');
        if let (true, Some((last, _))) = (more, shown.pop()) {
            let shown = after.map_or(0, |p| p.shown) + shown.len() + 1;
            let place = Place { suggested_only, max_depth, shown, last };
            out.push_str(",\"next_batch\":");
            out.push_str(&serde_json::to_string(&place.to_string()).doing("writing a token")?);
        }
        out.push('}');
        Ok(out)
    }

    /// A room and its children, if the user may hear of it.
    async fn look(
        &self,
        who: &Requester,
        room_id: &RoomId,
        via: &[OwnedServerName],
        walk: &mut Walk,
    ) -> Result<Option<Node>> {
        let nid = self.store.room_nid(room_id).await?;
        let (summary, children) = match nid {
            Some(nid) if self.store.is_resident(nid).await? => self.node(&*self.state.room_by_nid(nid).await?).await?,
            // What we know of a room that ours have left may be of yesterday.
            _ => match self.look_elsewhere(room_id, via, walk).await {
                Some(node) => node,
                None => return Ok(None),
            },
        };
        let membership = match nid {
            Some(nid) => self.store.membership(nid, who.user_nid).await?.map(|m| m.membership),
            None => None,
        };
        let may = self.may_hear_of(Some(who), &summary, membership.as_ref()).await?;
        Ok(may.then_some((summary, children)))
    }

    /// A room as other servers tell of it.
    async fn look_elsewhere(&self, room_id: &RoomId, via: &[OwnedServerName], walk: &mut Walk) -> Option<Node> {
        if walk.inaccessible.contains(room_id) {
            return None;
        }
        let told = walk.told.get(room_id).cloned();
        // Of a room that is no space there is no more to be heard.
        if let Some(summary) = told.clone().filter(|s| s.room_type.as_deref() != Some(SPACE)) {
            return Some((summary, Arc::default()));
        }
        match self.elsewhere.tree(room_id, via, &mut walk.budget).await {
            Some(tree) => {
                walk.told.extend(tree.summaries.iter().map(|(id, summary)| (id.clone(), summary.clone())));
                walk.inaccessible.extend(tree.inaccessible.iter().cloned());
                Some((tree.summary.clone(), tree.children.clone()))
            }
            None => told.map(|summary| (summary, Arc::default())),
        }
    }

    /// A room of ours and its children.
    async fn node(&self, room: &Room) -> Result<Node> {
        let summary = self.directory.summary(room).await?;
        let children =
            if summary.room_type.as_deref() == Some(SPACE) { self.children(room).await? } else { Arc::default() };
        Ok((summary, children))
    }

    /// A room and its children for another server, as JSON (server-server API, `GET /hierarchy/{roomId}`).
    ///
    /// # Errors
    /// 404 for a room that is not here, or that nobody of that server may hear of.
    pub async fn hierarchy_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<String> {
        let Some((summary, children, true)) = self.node_for(server, room_id).await? else {
            return Err(Error::not_found("Room does not exist"));
        };
        let (mut told, mut inaccessible) = (Vec::new(), Vec::new());
        for child in children.iter().filter(|c| c.suggested || !suggested_only).take(MAX_FOR_SERVER) {
            match self.node_for(server, &child.room_id).await? {
                None => {}
                Some((summary, _, true)) => told.push(serde_json::to_string(&*summary).doing("writing a summary")?),
                Some((_, _, false)) => inaccessible.push(&child.room_id),
            }
        }
        Ok(format!(
            r#"{{"room":{},"children":[{}],"inaccessible_children":{}}}"#,
            entry(&summary, &children, suggested_only)?,
            told.join(","),
            serde_json::to_string(&inaccessible).doing("writing a list of rooms")?
        ))
    }

    /// A room that is here, and whether users of that server may hear of it.
    async fn node_for(
        &self,
        server: &ServerName,
        room_id: &RoomId,
    ) -> Result<Option<(Arc<Summary>, Arc<Vec<Child>>, bool)>> {
        let Some(nid) = self.store.room_nid(room_id).await? else { return Ok(None) };
        if !self.store.is_resident(nid).await? {
            return Ok(None);
        }
        let room = self.state.room_by_nid(nid).await?;
        let (summary, children) = self.node(&room).await?;
        let mut may = summary.is_open() || self.answers.is_awaited(server, &room).await?;
        for other in &summary.allowed_room_ids {
            if may {
                break;
            }
            if let Some(nid) = self.store.room_nid(other).await? {
                may = self.answers.is_in(server, &*self.state.room_by_nid(nid).await?).await?;
            }
        }
        Ok(Some((summary, children, may)))
    }

    /// The children of a space, in its order.
    async fn children(&self, room: &Room) -> Result<Arc<Vec<Child>>> {
        if let Some(children) = self.children.get(&room.head.snap) {
            return Ok(children);
        }
        let state = self.state.current(room).await?;
        let keys = self.store.keys(&state.keys().copied().collect::<Vec<_>>()).await?;
        let nids: Vec<_> =
            state.values().zip(&keys).filter(|(_, k)| k.event_type == "m.space.child").map(|(nid, _)| *nid).collect();
        let mut children: Vec<_> = self.store.events(&nids).await?.iter().filter_map(|e| child_of(e)).collect();
        children.sort_by(|(a, _), (b, _)| a.cmp(b));
        children.truncate(MAX_CHILDREN);
        let children = Arc::new(children.into_iter().map(|(_, child)| child).collect::<Vec<_>>());
        self.children.insert(room.head.snap, children.clone());
        Ok(children)
    }
}

/// The type of rooms whose children are shown.
const SPACE: &str = "m.space";

/// By what children are ordered: those with an `order` first, then by time, then by id (spec: "Ordering of children within
/// a space").
type Rank = (bool, String, u64, OwnedRoomId);

/// What an event says of a child.
#[derive(Deserialize)]
struct Content {
    via: Vec<Value>,
    order: Option<Value>,
    suggested: Option<Value>,
}

/// The child that an event names; `None` if it names none any more, or never did.
fn child_of(event: &StoredEvent) -> Option<(Rank, Child)> {
    let room_id = RoomId::parse(event.pdu.state_key()?).ok()?;
    let mut json = String::new();
    write_stripped(&mut json, &event.pdu, true);
    child_from(room_id, event.pdu.content_as()?, event.pdu.origin_server_ts(), json)
}

fn child_from(room_id: OwnedRoomId, content: Content, origin_server_ts: u64, json: String) -> Option<(Rank, Child)> {
    if content.via.is_empty() {
        return None;
    }
    let via = content.via.iter().filter_map(|v| ServerName::parse(v.as_str()?).ok()).take(MAX_VIA).collect();
    let is_valid = |o: &&str| o.len() <= 50 && o.bytes().all(|b| (b' '..=b'~').contains(&b));
    let order = content.order.as_ref().and_then(Value::as_str).filter(is_valid).unwrap_or_default().to_owned();
    let suggested = content.suggested.as_ref().and_then(Value::as_bool).unwrap_or(false);
    let rank = (order.is_empty(), order, origin_server_ts, room_id.clone());
    Some((rank, Child { room_id, suggested, via, json }))
}

/// A room as the answer has it: its summary, and the events that name its children.
fn entry(summary: &Summary, children: &[Child], suggested_only: bool) -> Result<String> {
    let mut out = serde_json::to_string(summary).doing("writing a summary")?;
    out.pop();
    let children: Vec<&str> =
        children.iter().filter(|c| c.suggested || !suggested_only).map(|c| c.json.as_str()).collect();
    out.push_str(&format!(",\"children_state\":[{}]}}", children.join(",")));
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_round_trip() {
        let place = Place { suggested_only: true, max_depth: 3, shown: 50, last: RoomId::parse("!a_b:x").unwrap() };
        assert_eq!(Place::parse(&place.to_string()).unwrap(), place);
        for rubbish in ["", "s", "s2_1_1_!a:x", "s0_x_1_!a:x", "s0_1_1_a", "0_1_1_!a:x"] {
            assert!(Place::parse(rubbish).is_err(), "{rubbish}");
        }
    }
}
