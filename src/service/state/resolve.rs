//! One state from those of several branches of a room's history. The protocol's algorithm is in [`hearth_rules::resolve`];
//! here stands what makes it affordable: only the entries in which the branches differ, and those that the rules ask for
//! on the way, are handed to it, as events; all else stays numbers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Error, Result,
    bill::blocking,
    ids::{EventNid, KeyNid},
};
use hearth_rules::{
    event::Pdu,
    resolve::{self, EventSet},
    versions::RoomVersion,
};
use hearth_store::{Store, state::StateMap};
use ruma::{EventId, OwnedEventId, events::TimelineEventType};

use super::State;

/// Events that may not be on disk yet, with their auth events.
pub type Fresh = HashMap<EventNid, FreshEvent>;

/// An event on its way to the disk.
#[derive(Clone, Debug)]
pub struct FreshEvent {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// What allows it.
    pub auth: Arc<[EventNid]>,
}

impl State {
    /// Resolves the states of several branches of a room. Independent of their order.
    ///
    /// # Errors
    /// If the database fails, or an event that the states name is not there.
    pub async fn resolve(&self, version: &'static RoomVersion, states: &[StateMap], fresh: &Fresh) -> Result<StateMap> {
        let Some((first, rest)) = states.split_first() else { return Ok(StateMap::new()) };
        let differing = differing_keys(first, rest);
        if differing.is_empty() {
            return Ok(first.clone());
        }
        let graph = Graph { store: &self.store, fresh };
        let sides: Vec<Vec<EventNid>> =
            states.iter().map(|s| differing.iter().filter_map(|k| s.get(k).copied()).collect()).collect();
        // Each side's auth chain, without what all have in common anyway.
        let mut chains = Vec::with_capacity(sides.len());
        for side in &sides {
            chains.push(graph.chain(side.iter().copied()).await?);
        }
        let mut difference: HashSet<EventNid> = chains.iter().flatten().copied().collect();
        let conflicted: HashSet<EventNid> = sides.iter().flatten().copied().collect();
        // Conflicted ones are judged anyway. Mostly nothing is left, which spares walking the rest of the state.
        difference.retain(|nid| !conflicted.contains(nid) && !chains.iter().all(|chain| chain.contains(nid)));
        if !difference.is_empty() {
            let agreed = first.iter().filter(|(key, _)| !differing.contains(key)).map(|(_, nid)| *nid);
            let common = graph.chain(agreed).await?;
            difference.retain(|nid| !common.contains(nid));
            for chain in &mut chains {
                chain.retain(|nid| difference.contains(nid));
            }
        } else {
            chains.iter_mut().for_each(HashSet::clear);
        }

        let between = match version.resolves_between() {
            true => graph.between(&conflicted).await?,
            false => HashSet::new(),
        };
        let judged: HashSet<EventNid> = conflicted.iter().chain(&difference).chain(&between).copied().collect();
        let mut pdus = graph.events(judged.iter().copied()).await?;
        let needed = resolve::needed_keys(version, pdus.values().map(|e| &**e));
        let mut context: HashMap<KeyNid, EventNid> = HashMap::new();
        for (event_type, state_key) in needed {
            if let Some(key) = self.store.key_nid(&event_type.to_string(), &state_key).await?
                && !differing.contains(&key)
                && let Some(nid) = first.get(&key)
            {
                context.insert(key, *nid);
            }
        }
        // What allows all these, and the power levels below them with what allows those: nothing else is ever looked at.
        let given: Vec<EventNid> = judged.iter().copied().chain(context.values().copied()).collect();
        let levels = graph.levels(graph.chain(given.iter().copied()).await?).await?;
        let allow = graph.edges(judged.iter().chain(context.values()).chain(&levels).copied()).await?;
        let wanted = given.iter().chain(&levels).chain(allow.values().flat_map(|nids| nids.iter()));
        let wanted: HashSet<EventNid> = wanted.copied().filter(|nid| !pdus.contains_key(nid)).collect();
        pdus.extend(graph.events(wanted).await?);

        let keys: Vec<KeyNid> = differing.iter().chain(context.keys()).copied().collect();
        let names = self.store.keys(&keys).await?;
        let named: Vec<(KeyNid, (ruma::events::StateEventType, String))> = keys
            .iter()
            .copied()
            .zip(names)
            .map(|(nid, name)| (nid, (name.event_type.as_str().into(), name.state_key)))
            .collect();
        let id_of = |nid: &EventNid| pdus.get(nid).map(|pdu| pdu.event_id().to_owned());
        let cut: Vec<resolve::StateMap> = states
            .iter()
            .map(|state| named.iter().filter_map(|(key, name)| Some((name.clone(), id_of(state.get(key)?)?))).collect())
            .collect();
        let chains: Vec<EventSet> =
            chains.iter().map(|chain| chain.iter().filter_map(&id_of).collect::<EventSet>()).collect();
        let between: EventSet = between.iter().filter_map(&id_of).collect();
        let nids: HashMap<OwnedEventId, EventNid> =
            pdus.iter().map(|(nid, pdu)| (pdu.event_id().to_owned(), *nid)).collect();
        let by_id: HashMap<OwnedEventId, Arc<Pdu>> =
            pdus.into_values().map(|pdu| (pdu.event_id().to_owned(), pdu)).collect();
        let fetch = move |id: &EventId| by_id.get(id).cloned();
        let outcome = tokio::task::spawn_blocking(blocking(move || {
            resolve::resolve(version, &cut, chains, Some(between), fetch)
        }))
        .await
        .map_err(|e| Error::fault("resolving state", e))??;

        let mut resolved = first.clone();
        for (key, name) in &named {
            if let Some(nid) = outcome.get(name).and_then(|id| nids.get(id)) {
                resolved.insert(*key, *nid);
            } else {
                resolved.remove(key);
            }
        }
        Ok(resolved)
    }
}

/// The entries in which some of the states differ.
fn differing_keys(first: &StateMap, rest: &[StateMap]) -> HashSet<KeyNid> {
    use imbl::ordmap::DiffItem;
    let mut keys = HashSet::new();
    for other in rest {
        keys.extend(first.diff(other).map(|change| match change {
            DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => *key,
        }));
    }
    keys
}

/// Events and what allows them, on disk or on their way there.
struct Graph<'a> {
    store: &'a Store,
    fresh: &'a Fresh,
}

impl Graph<'_> {
    /// The union of the auth chains of these events, which may be in it themselves only if one allows another.
    async fn chain(&self, of: impl IntoIterator<Item = EventNid>) -> Result<HashSet<EventNid>> {
        let (mut chain, mut stored) = (HashSet::new(), Vec::new());
        let mut todo: Vec<EventNid> = of.into_iter().collect();
        while let Some(nid) = todo.pop() {
            match self.fresh.get(&nid) {
                Some(event) => todo.extend(event.auth.iter().filter(|nid| chain.insert(**nid))),
                None => stored.push(nid),
            }
        }
        chain.extend(self.store.auth_chain(stored).await?);
        Ok(chain)
    }

    /// What allows each of these events.
    async fn edges(&self, of: impl IntoIterator<Item = EventNid>) -> Result<HashMap<EventNid, Arc<[EventNid]>>> {
        let (mut edges, mut stored) = (HashMap::new(), Vec::new());
        for nid in of {
            match self.fresh.get(&nid) {
                Some(event) => drop(edges.insert(nid, event.auth.clone())),
                None => stored.push(nid),
            }
        }
        edges.extend(self.store.auth_edges(&stored).await?);
        Ok(edges)
    }

    /// The events on paths of auth events from one of these to another, ends included.
    async fn between(&self, ends: &HashSet<EventNid>) -> Result<HashSet<EventNid>> {
        let mut below = self.chain(ends.iter().copied()).await?;
        below.extend(ends);
        let mut allows: HashMap<EventNid, Vec<EventNid>> = HashMap::new();
        for (nid, auth) in self.edges(below).await? {
            for auth in auth.iter() {
                allows.entry(*auth).or_default().push(nid);
            }
        }
        // Upwards from the ends, but only through what lies below them.
        let mut between = ends.clone();
        let mut todo: Vec<EventNid> = ends.iter().copied().collect();
        while let Some(nid) = todo.pop() {
            todo.extend(allows.remove(&nid).unwrap_or_default().into_iter().filter(|above| between.insert(*above)));
        }
        Ok(between)
    }

    /// The power levels among these events.
    async fn levels(&self, among: HashSet<EventNid>) -> Result<Vec<EventNid>> {
        let (fresh, stored): (Vec<_>, Vec<_>) = among.into_iter().partition(|nid| self.fresh.contains_key(nid));
        let is_levels = |nid: &EventNid| {
            self.fresh.get(nid).is_some_and(|event| event.pdu.is(&TimelineEventType::RoomPowerLevels, ""))
        };
        let mut levels: Vec<EventNid> = fresh.into_iter().filter(is_levels).collect();
        if let Some(key) = self.store.key_nid("m.room.power_levels", "").await? {
            levels.extend(self.store.events_of_key(&stored, key).await?);
        }
        Ok(levels)
    }

    async fn events(&self, nids: impl IntoIterator<Item = EventNid>) -> Result<HashMap<EventNid, Arc<Pdu>>> {
        let (mut found, mut stored) = (HashMap::new(), Vec::new());
        for nid in nids {
            match self.fresh.get(&nid) {
                Some(event) => drop(found.insert(nid, event.pdu.clone())),
                None => stored.push(nid),
            }
        }
        found.extend(self.store.events(&stored).await?.into_iter().map(|e| (e.nid, e.pdu.clone())));
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
