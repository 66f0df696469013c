//! Places events of which all is known that can be had: one write at a time in a room, each event after those it follows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{OrNotFound, Result, ids::EventNid};
use hearth_rules::{auth, event::Pdu, versions::RoomVersion};
use hearth_store::{
    events::{Standing, StoredEvent},
    graph::Known,
    rooms::Room,
    state::StateMap,
};
use ruma::{OwnedEventId, ServerName};

use super::{Answers, Inbox, KnownEvents, Sort, gaps::Found};
use crate::{
    events::{Arrival, Arrived, With},
    federation::{
        order::in_order,
        outliers::{Outlier, auth_ids, of_another_room},
    },
};

/// Ends that events of one transaction may leave in a room before they are brought together.
const MANY_ENDS: usize = 20;

/// What is said of an event that only we were told of and that stands on what is not here. Of others nothing is said, held
/// or not: their servers did nothing wrong, and could do nothing.
const LACKING: &str = "what it follows cannot be had at present";

/// What became of events.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) answers: Answers,
    /// Those that may be placed once somebody can be asked who could not.
    pub(super) wait: Vec<Pdu>,
}

/// An event with what it needs to be placed.
struct Ready {
    pdu: Pdu,
    /// States that stand in for those after predecessors that we do not have, or for the one before it.
    states: Vec<StateMap>,
    whole: bool,
    missing: Vec<OwnedEventId>,
    /// What stands in is not known to be all.
    in_part: bool,
    /// By the room's policy server.
    refused: bool,
    /// The room's state says nothing of its sender, what stands in does.
    of_stranger: bool,
}

impl Inbox {
    /// Fills the gaps before events and places them all, each after those it follows; with which of them we know, read
    /// after the room.
    pub(super) async fn take_in(
        &self,
        origin: &ServerName,
        room: &Room,
        version: &'static RoomVersion,
        (events, known): (Vec<Pdu>, KnownEvents),
        sort: Sort,
    ) -> Result<Taken> {
        let asked: HashSet<OwnedEventId> = events.iter().map(|e| e.event_id().to_owned()).collect();
        let mut found = self.search(origin, room, version, events, sort).await?;
        // What is old was looked at when it was new.
        if sort != Sort::History {
            found.refused = self.policy.review(room, version, &mut found.events).await?;
        }
        let hindered = found.hindered;
        let Taken { mut answers, mut wait } = self.place_found(room, version, (found, known), sort).await?;
        self.bring_together(room).await;
        for id in &asked {
            let waits = || if sort == Sort::ToldToUs { Err(LACKING.to_owned().into()) } else { Ok(()) };
            answers.entry(id.clone()).or_insert_with(waits);
        }
        wait.retain(|e| hindered && asked.contains(e.event_id()));
        Ok(Taken { answers, wait })
    }

    async fn place_found(
        &self,
        room: &Room,
        version: &'static RoomVersion,
        (mut found, mut known): (Found, KnownEvents),
        sort: Sort,
    ) -> Result<Taken> {
        let seen = room.head.rev;
        let mut answers = Answers::new();
        let lane = self.lanes.get_with(room.nid, Arc::default);
        let _one = lane.lock().await;
        let room = self.store.room(room.nid).await?.or_not_found("Room")?;
        // Others may have brought some of them meanwhile.
        if found.asked || room.head.rev != seen {
            let ids: Vec<OwnedEventId> = found.events.keys().cloned().collect();
            known = self.store.known_events(&ids).await?;
            for (id, _) in known.iter().filter(|(_, known)| known.standing != Standing::Outlier) {
                if found.events.remove(id).is_some() {
                    answers.insert(id.clone(), Ok(()));
                }
            }
        }
        let missing = self.missing(&room, &found.events).await?;
        let mut waiting: Vec<Arrival> = Vec::new();
        let mut near: HashSet<OwnedEventId> = HashSet::new();
        let mut ends: HashSet<OwnedEventId> = HashSet::new();
        for event in ready(&mut found, &missing) {
            // What allows it must stand before it is looked at.
            if auth_ids(version, &event.pdu).iter().any(|id| near.contains(id)) {
                self.place_all(&room, &mut waiting, &mut answers, sort).await?;
                near.clear();
            }
            let event_id = event.pdu.event_id().to_owned();
            // The next are resolved with each end that these leave.
            if sort != Sort::History && ends.len() >= MANY_ENDS {
                self.place_all(&room, &mut waiting, &mut answers, sort).await?;
                near.clear();
                ends.clear();
                self.bring_together(&room).await;
            }
            event.pdu.prev_events().iter().for_each(|id| {
                ends.remove(id);
            });
            ends.insert(event_id.clone());
            match self.arrival(&room, version, event, known.get(&event_id).copied(), sort).await? {
                Ok(arrival) => {
                    near.insert(event_id);
                    waiting.push(arrival);
                }
                Err((pdu, why)) => {
                    tracing::debug!(room.id = %room.room_id, event.id = %event_id, %why, "not placed");
                    if sort == Sort::ToldToUs {
                        answers.insert(event_id, Err(why.into()));
                    }
                    found.lacking.push(*pdu);
                }
            }
        }
        self.place_all(&room, &mut waiting, &mut answers, sort).await?;
        Ok(Taken { answers, wait: found.lacking })
    }

    async fn bring_together(&self, room: &Room) {
        if let Err(e) = self.events.bring_together(room.nid).await {
            tracing::warn!(room.id = %room.room_id, error = %e, "branches were not brought together");
        }
    }

    async fn place_all(
        &self,
        room: &Room,
        waiting: &mut Vec<Arrival>,
        answers: &mut Answers,
        sort: Sort,
    ) -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let mut arrivals = std::mem::take(waiting);
        let mut arrived = self.events.receive(room.nid, arrivals.clone()).await;
        // Somebody else may have stored one of them at the same moment: a join at our door, an event that another names.
        if arrived.is_err() && self.look_again(&mut arrivals, answers).await? {
            arrived = self.events.receive(room.nid, arrivals.clone()).await;
        }
        let ids: Vec<OwnedEventId> = arrivals.iter().map(|a| a.pdu.event_id().to_owned()).collect();
        let arrived: Vec<(OwnedEventId, Arrived)> = match arrived {
            Ok(arrived) => ids.into_iter().zip(arrived).collect(),
            Err(e) if e.is_final() => Box::pin(self.place_each(room, arrivals, answers)).await?,
            Err(e) => return Err(e),
        };
        for (id, arrived) in arrived {
            let answer = match arrived {
                Arrived::Placed => Ok(()),
                // The sender did nothing wrong (server-server API, "Soft failure").
                Arrived::SoftFailed(why) => {
                    tracing::debug!(room.id = %room.room_id, event.id = %id, %why, "soft-failed");
                    Ok(())
                }
                Arrived::Rejected(why) => {
                    tracing::debug!(room.id = %room.room_id, event.id = %id, %why, "rejected");
                    // Its form is good, and it was taken in, as what it is: a server that relays what others said, or
                    // that sees another state, does nothing wrong either. Who hands us an event to place is told.
                    if sort == Sort::ToldToUs { Err(why.into()) } else { Ok(()) }
                }
            };
            answers.insert(id, answer);
        }
        Ok(())
    }

    /// Takes in one by one what cannot be stored together: there is one among them that cannot be stored at all, and the
    /// others have done nothing.
    async fn place_each(
        &self,
        room: &Room,
        arrivals: Vec<Arrival>,
        answers: &mut Answers,
    ) -> Result<Vec<(OwnedEventId, Arrived)>> {
        let mut placed = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let id = arrival.pdu.event_id().to_owned();
            match self.events.receive(room.nid, vec![arrival]).await {
                Ok(arrived) => placed.extend(arrived.into_iter().map(|one| (id.clone(), one))),
                Err(e) if e.is_final() => {
                    tracing::warn!(room.id = %room.room_id, event.id = %id, error = %e, "an event cannot be stored");
                    answers.insert(id, Err(e.to_string().into()));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(placed)
    }

    /// Whether any of these is stored that was not; those that have a place meanwhile are left out.
    async fn look_again(&self, arrivals: &mut Vec<Arrival>, answers: &mut Answers) -> Result<bool> {
        let ids: Vec<OwnedEventId> = arrivals.iter().map(|a| a.pdu.event_id().to_owned()).collect();
        let known = self.store.known_events(&ids).await?;
        let mut changed = false;
        arrivals.retain_mut(|arrival| match known.get(arrival.pdu.event_id()) {
            Some(known) if known.standing != Standing::Outlier => {
                answers.insert(arrival.pdu.event_id().to_owned(), Ok(()));
                changed = true;
                false
            }
            Some(known) if !arrival.known => {
                (arrival.known, arrival.nid, changed) = (true, known.nid, true);
                true
            }
            _ => true,
        });
        Ok(changed)
    }

    /// Checks an event by what allows it; gives it back if that is not here.
    async fn arrival(
        &self,
        room: &Room,
        version: &'static RoomVersion,
        event: Ready,
        own: Option<Known>,
        sort: Sort,
    ) -> Result<std::result::Result<Arrival, (Box<Pdu>, String)>> {
        let Ready { pdu, states, whole, missing, in_part, refused: unsigned, of_stranger } = event;
        let ids = auth_ids(version, &pdu);
        let (known, foreign) = self.by_id(room, &ids).await?;
        if let Some(id) = ids.iter().find(|id| !known.contains_key(*id) && !foreign.contains(*id)) {
            let why = format!("its auth event {id} cannot be found");
            return Ok(Err((Box::new(pdu), why)));
        }
        let refused = match foreign.iter().next() {
            Some(id) => Some(of_another_room(id)),
            None => auth::check_auth_events(version, &pdu, |id| known.get(id).map(|o| o.pdu.clone())).err(),
        };
        let event_id = pdu.event_id().to_owned();
        let nid = match own {
            Some(own) => own.nid,
            None => self.store.new_event_nid().await?,
        };
        let referenced = room.head.forked && !self.store.missing_among(room.nid, &[event_id]).await?.is_empty();
        Ok(Ok(Arrival {
            pdu: Arc::new(pdu.with_rejected(refused.is_some())),
            nid,
            known: own.is_some(),
            auth: ids.iter().filter_map(|id| known.get(id).map(|o| o.nid)).collect::<Vec<EventNid>>(),
            rejected: refused.map(|why| why.0),
            refused: unsigned,
            states,
            whole,
            missing,
            referenced,
            history: sort == Sort::History,
            relay: sort == Sort::ToldToUs,
            told: false,
            in_part,
            of_stranger,
            with: With::default(),
        }))
    }

    /// Those of these events that we have, and those that we have in another room.
    async fn by_id(
        &self,
        room: &Room,
        ids: &[OwnedEventId],
    ) -> Result<(HashMap<OwnedEventId, Outlier>, HashSet<OwnedEventId>)> {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            self.store.events_by_id(ids).await?.into_iter().partition(|e| e.room == room.nid);
        let outlier = |e: Arc<StoredEvent>| {
            (e.event_id().to_owned(), Outlier { nid: e.nid, pdu: e.pdu.clone(), standing: e.standing })
        };
        let foreign = elsewhere.iter().map(|e| e.event_id().to_owned()).collect();
        Ok((here.into_iter().map(outlier).collect(), foreign))
    }
}

/// The events in order, with what stands in for what they lack. One that lacks something that nothing stands in for, and
/// what follows it, is left for another time.
fn ready(found: &mut Found, missing: &HashSet<OwnedEventId>) -> Vec<Ready> {
    let mut left: HashSet<OwnedEventId> = HashSet::new();
    let mut ready = Vec::with_capacity(found.events.len());
    for pdu in in_order(std::mem::take(&mut found.events), |pdu| pdu.prev_events().to_vec()) {
        let missing: Vec<OwnedEventId> = pdu.prev_events().iter().filter(|p| missing.contains(*p)).cloned().collect();
        let follows = pdu.prev_events().iter().any(|p| left.contains(p));
        let before = found.before.get(pdu.event_id()).cloned();
        let whole = before.is_some() && !missing.is_empty();
        let mut states: Vec<StateMap> = match before {
            Some(before) if whole => vec![before],
            _ => missing.iter().filter_map(|id| found.after.get(id).cloned()).collect(),
        };
        if follows || (!whole && states.len() < missing.len()) {
            left.insert(pdu.event_id().to_owned());
            found.lacking.push(pdu);
            continue;
        }
        let in_part = whole && found.unsure.contains(pdu.event_id());
        let refused = found.refused.contains(pdu.event_id());
        let of_stranger = found.strangers.contains(pdu.event_id());
        states.extend(found.beside.remove(pdu.event_id()).filter(|_| !whole));
        ready.push(Ready { pdu, states, whole, missing, in_part, refused, of_stranger });
    }
    ready
}
