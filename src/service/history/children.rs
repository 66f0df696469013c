//! What a parent shows of its children: the last of a thread, the newest edit, references (spec: "Aggregations of child
//! events"). Found for a whole page at once, a query a kind, and written before the page itself is.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{Result, ids::EventNid, ids::StreamPos};
use hearth_store::{
    events::StoredEvent,
    relations::{Child, Reader, Thread},
};
use ruma::events::TimelineEventType;
use serde::{Deserialize, de::IgnoredAny};

use super::{Form, History, Viewer};

/// The last event of a thread that a user is shown, and how many of the newest they are not.
struct Latest {
    event: Arc<StoredEvent>,
    hidden: u64,
}

/// The value of `m.relations` for each event that has one.
pub(crate) type Bundles = HashMap<EventNid, String>;

impl History {
    /// Appends a JSON array of events, each with what is known of its children.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn write_with_children(
        &self,
        out: &mut String,
        events: &[Arc<StoredEvent>],
        viewer: &Viewer,
        form: Form<'_>,
    ) -> Result<()> {
        let bundles = self.bundles(events.iter(), viewer, form).await?;
        self.write_all(out, events, viewer, Form { bundles: Some(&bundles), ..form }).await
    }

    /// For whom children are summed up.
    pub(crate) async fn reader(&self, viewer: &Viewer) -> Result<Reader> {
        let ignored: Vec<_> = viewer.ignored().iter().cloned().collect();
        let ignored = if ignored.is_empty() { Vec::new() } else { self.store.user_nids(&ignored).await? };
        Ok(Reader {
            user: viewer.user,
            ignored: ignored.into_iter().map(|(_, nid)| nid).collect(),
            upto: viewer.left_with().and_then(|e| e.pos).unwrap_or(StreamPos(i64::MAX)),
        })
    }

    /// What is known of the children of these events.
    pub(crate) async fn bundles(
        &self,
        events: impl Iterator<Item = &Arc<StoredEvent>>,
        viewer: &Viewer,
        form: Form<'_>,
    ) -> Result<Bundles> {
        // State has no aggregations.
        let parents: Vec<&Arc<StoredEvent>> = events.filter(|e| !e.pdu.is_state()).collect();
        if parents.is_empty() {
            return Ok(Bundles::new());
        }
        let reader = self.reader(viewer).await?;
        let threads = self.store.threads_of(viewer.room.nid, ids(&parents), &reader).await?;
        let latest = self.latest(&threads, viewer).await?;
        // What ends a thread is shown with its own children; threads do not nest.
        let all: Vec<&Arc<StoredEvent>> = parents.iter().copied().chain(latest.values().map(|l| &l.event)).collect();
        let mut parts = self.edits_and_references(&all, viewer, &reader, form).await?;
        let mut bundles = Bundles::new();
        for thread in threads {
            let Some(root) = parents.iter().find(|e| e.event_id() == thread.root.as_str()) else { continue };
            let Some(last) = latest.get(&thread.root) else { continue };
            let inner: Bundles = parts.get(&last.event.nid).map(|p| (last.event.nid, object(p))).into_iter().collect();
            let part = self.thread(&thread, root, last, viewer, Form { bundles: Some(&inner), ..form }).await?;
            bundles.insert(root.nid, part);
        }
        for parent in parents {
            let mut own = parts.remove(&parent.nid).unwrap_or_default();
            own.extend(bundles.remove(&parent.nid));
            if !own.is_empty() {
                bundles.insert(parent.nid, object(&own));
            }
        }
        Ok(bundles)
    }

    async fn thread(
        &self,
        thread: &Thread,
        root: &StoredEvent,
        last: &Latest,
        viewer: &Viewer,
        form: Form<'_>,
    ) -> Result<String> {
        let mut part = String::from("\"m.thread\":{\"latest_event\":");
        self.write(&mut part, &last.event, viewer, form).await?;
        let count = thread.count.saturating_sub(last.hidden);
        let participated = thread.participated || root.sender == viewer.user;
        part.push_str(&format!(",\"count\":{count},\"current_user_participated\":{participated}}}"));
        Ok(part)
    }

    /// What the user is shown as the last of each thread, by its root: what comes after it, but for what is too far from
    /// its end to be told, is not counted either if they may not see it.
    async fn latest(&self, threads: &[Thread], viewer: &Viewer) -> Result<HashMap<String, Latest>> {
        let mut shown = self.load(threads.iter().filter_map(|t| t.newest.first().copied()), viewer).await?;
        let short = threads.iter().filter(|t| t.newest.first().is_some_and(|nid| !shown.contains_key(nid)));
        let others = short.flat_map(|t| t.newest.iter().skip(1).copied()).collect::<Vec<_>>();
        shown.extend(self.load(others.into_iter(), viewer).await?);
        let latest = threads.iter().filter_map(|thread| {
            let event = thread.newest.iter().find_map(|nid| shown.get(nid))?;
            let looked_at = if thread.newest.first() == Some(&event.nid) { 0 } else { thread.newest.len() };
            let hidden = thread.newest.iter().take(looked_at).filter(|nid| !shown.contains_key(nid)).count();
            Some((thread.root.clone(), Latest { event: event.clone(), hidden: hidden as u64 }))
        });
        Ok(latest.collect())
    }

    /// The members of `m.relations` that are not of threads.
    async fn edits_and_references(
        &self,
        parents: &[&Arc<StoredEvent>],
        viewer: &Viewer,
        reader: &Reader,
        form: Form<'_>,
    ) -> Result<HashMap<EventNid, Vec<String>>> {
        let room = viewer.room.nid;
        let edits = self.store.edits_of(room, ids(parents), reader).await?;
        let references = self.store.references_of(room, ids(parents), reader).await?;
        let wanted = edits.iter().chain(&references).map(|c| c.event);
        let loaded = self.load(wanted, viewer).await?;
        let (edits, references) = (by_parent(&edits, &loaded), by_parent(&references, &loaded));
        let mut parts: HashMap<EventNid, Vec<String>> = HashMap::new();
        for parent in parents {
            let id = parent.event_id().as_str();
            if let Some(edit) = edits.get(id).and_then(|edits| newest_edit(parent, edits)) {
                let mut part = String::from("\"m.replace\":");
                self.write(&mut part, edit, viewer, form).await?;
                parts.entry(parent.nid).or_default().push(part);
            }
            if let Some(references) = references.get(id) {
                let chunk: Vec<_> = references.iter().map(|e| serde_json::json!({"event_id": e.event_id()})).collect();
                let part = format!("\"m.reference\":{}", serde_json::json!({ "chunk": chunk }));
                parts.entry(parent.nid).or_default().push(part);
            }
        }
        Ok(parts)
    }

    /// Those of these events that the user is shown.
    async fn load(
        &self,
        nids: impl Iterator<Item = EventNid>,
        viewer: &Viewer,
    ) -> Result<HashMap<EventNid, Arc<StoredEvent>>> {
        let nids: Vec<EventNid> = nids.collect();
        let events = viewer.shown(self.store.events(&nids).await?).await?;
        Ok(events.into_iter().map(|e| (e.nid, e)).collect())
    }
}

fn ids(events: &[&Arc<StoredEvent>]) -> Vec<String> {
    events.iter().map(|e| e.event_id().to_string()).collect()
}

fn by_parent<'a>(
    children: &'a [Child],
    loaded: &'a HashMap<EventNid, Arc<StoredEvent>>,
) -> HashMap<&'a str, Vec<&'a StoredEvent>> {
    let mut out: HashMap<&str, Vec<&StoredEvent>> = HashMap::new();
    for child in children {
        if let Some(event) = loaded.get(&child.event) {
            out.entry(&child.target).or_default().push(event);
        }
    }
    out
}

/// The newest edit that stands (spec: "Validity of replacement events"); sender and type have been looked at before.
fn newest_edit<'a>(parent: &StoredEvent, edits: &[&'a StoredEvent]) -> Option<&'a StoredEvent> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Option<Relation>,
        #[serde(rename = "m.new_content")]
        new_content: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: Option<String>,
    }
    let rel_type = |c: &Content| c.relates_to.as_ref().and_then(|r| r.rel_type.clone());
    let of_parent = parent.pdu.content_as::<Content>();
    if parent.redacted_by.is_some() || of_parent.is_some_and(|c| rel_type(&c).as_deref() == Some("m.replace")) {
        return None;
    }
    let stands = |e: &&&StoredEvent| {
        // An encrypted edit keeps its new content where we cannot look.
        *e.pdu.event_type() == TimelineEventType::RoomEncrypted
            || e.pdu.content_as::<Content>().is_some_and(|c| c.new_content.is_some())
    };
    edits.iter().filter(stands).max_by_key(|e| (e.pdu.origin_server_ts(), e.event_id())).copied()
}

fn object(members: &[String]) -> String {
    format!("{{{}}}", members.join(","))
}
