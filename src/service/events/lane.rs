//! The lane of a room: its newest head, committed or on its way to the disk, on which the next event is built.
//!
//! Building holds the lane; waiting for the commit does not, so a hot room fills batches. A failed commit makes all
//! that were built upon it fail too (their revision does not fit); whoever sees the failure first has the lane read
//! its head again, and each builds anew.

use std::{collections::BTreeMap, sync::Arc};

use hearth_base::{
    Error, OrNotFound, Result,
    ids::{EventNid, KeyNid, RoomNid, UserNid},
};
use hearth_rules::{
    auth,
    event::{Draft, Pdu, Reference, Signer},
    versions::RoomVersion,
};
use hearth_store::{
    Store,
    events::{
        Append, LateRedaction, MemberRow, NewEvent, NewMembership, NewRedaction, NewRelation, Restated, Standing,
        StateChange, Wholeness,
    },
    rooms::{Extremity, Room},
    state::{RoomState, SnapRow},
};
use ruma::{
    OwnedEventId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;

use super::{allowed::AllowedBy, ends::some_extremities, redactions::Ahead};
use crate::{
    push::{Outcome, Push},
    relations::{self, RelatesTo},
    state::{Fresh, FreshEvent, State, version_of},
};

/// One room's lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) newest: tokio::sync::Mutex<Newest>,
}

/// What a lane holds.
#[derive(Debug, Default)]
pub(super) struct Newest {
    /// Counts how often the head was read again.
    pub(super) epoch: u64,
    /// `None` until read.
    pub(super) head: Option<Head>,
}

/// A head with events built upon it, perhaps not committed yet.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) room: Room,
    pub(super) version: &'static RoomVersion,
    pub(super) state: RoomState,
    /// State events that may not be on disk yet.
    pub(super) fresh: Fresh,
    /// Redactions of what is not here, that may not be on disk yet; the newest last.
    pub(super) ahead: Vec<Ahead>,
}

/// State events remembered until surely committed.
const FRESH: usize = 256;

impl Head {
    /// The committed head of a room.
    pub(super) async fn read(store: &Store, nid: RoomNid) -> Result<Self> {
        let room = store.room(nid).await?.or_not_found("Room")?;
        let version = version_of(&room)?;
        let state = store.room_state(room.head.snap).await?;
        Ok(Self { room: (*room).clone(), version, state, fresh: Fresh::new(), ahead: Vec::new() })
    }

    /// The head of a room that has no event yet, and its empty snapshot.
    pub(super) fn first(room: Room, version: &'static RoomVersion) -> (Self, SnapRow) {
        let (state, snap) = RoomState::empty(room.head.snap);
        (Self { room, version, state, fresh: Fresh::new(), ahead: Vec::new() }, snap)
    }

    /// Whether anybody may join or read the room.
    async fn is_open(&self, store: &Store) -> Result<bool> {
        #[derive(Deserialize)]
        struct Settings<'a> {
            join_rule: Option<&'a str>,
            history_visibility: Option<&'a str>,
        }
        for event_type in ["m.room.join_rules", "m.room.history_visibility"] {
            let Some(key) = store.key_nid(event_type, "").await? else { continue };
            if let Some(pdu) = self.state_event(store, key).await?
                && let Some(settings) = pdu.content_as::<Settings<'_>>()
                && (settings.join_rule == Some("public") || settings.history_visibility == Some("world_readable"))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn state_event(&self, store: &Store, key: KeyNid) -> Result<Option<Arc<Pdu>>> {
        let Some(nid) = self.state.map.get(&key) else { return Ok(None) };
        pdu_of(store, &self.fresh, *nid).await
    }

    /// The state event by the same user that says the same as a draft, if it stands.
    pub(super) async fn says_already(&self, store: &Store, draft: &Draft) -> Result<Option<OwnedEventId>> {
        let Some(state_key) = &draft.state_key else { return Ok(None) };
        let key = store.intern_key(&draft.event_type.to_string(), state_key).await?;
        let same = self.state_event(store, key).await?;
        let same = same.filter(|e| e.sender() == draft.sender && e.content_json() == draft.content_json());
        Ok(same.map(|e| e.event_id().to_owned()))
    }

    /// Remembers a state event that is on its way to the disk.
    pub(super) fn remember(&mut self, nid: EventNid, pdu: &Arc<Pdu>, auth: &[EventNid]) {
        if self.fresh.len() >= FRESH {
            self.fresh.clear();
        }
        self.fresh.insert(nid, FreshEvent { pdu: pdu.clone(), auth: auth.into() });
    }

    /// Looks again whether anybody may join or read the room, after these entries of its state changed.
    pub(super) async fn reopen(&mut self, store: &Store) -> Result<()> {
        self.room.head.open = self.is_open(store).await?;
        Ok(())
    }
}

/// An event by its number, on disk or on its way there.
pub(super) async fn pdu_of(store: &Store, fresh: &Fresh, nid: EventNid) -> Result<Option<Arc<Pdu>>> {
    if let Some(event) = fresh.get(&nid) {
        return Ok(Some(event.pdu.clone()));
    }
    Ok(store.event(nid).await?.map(|e| e.pdu.clone()))
}

/// What goes with a draft.
#[derive(Clone, Debug, Default)]
pub struct With {
    /// Device and transaction id it is sent under.
    pub txn: Option<(String, String)>,
    /// What it redacts, already found to be allowed.
    pub redaction: Option<Redaction>,
    /// Stripped state to keep with an invite or knock.
    pub stripped: Option<String>,
    /// Whether a state event equal to the current one may be answered with that one instead.
    pub dedupe: bool,
    /// Not shown to anybody, nor told to other servers until an event of theirs or ours follows it: it only brings
    /// branches together ([`super::ends`]).
    pub quiet: bool,
    /// Told to other servers, not shown to anybody.
    pub unshown: bool,
}

/// A redaction about to take effect.
#[derive(Clone, Debug)]
pub struct Redaction {
    /// The event it strips.
    pub target: EventNid,
    /// What remains of it.
    pub json: String,
}

/// A staged write.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) head: Head,
    pub(super) events: Vec<NewEvent>,
    pub(super) snaps: Vec<SnapRow>,
    /// Changes of the current state that none of the events makes by itself, after all of them; see [`Staged::note`].
    pub(super) changes: BTreeMap<KeyNid, StateChange>,
    pub(super) members: Vec<MemberRow>,
    pub(super) missing: Vec<(OwnedEventId, i64)>,
    /// Events that are redacted by what was here before them.
    pub(super) redacted: Vec<LateRedaction>,
    /// Events redacted by these, that are not here.
    pub(super) redactions_ahead: Vec<(OwnedEventId, EventNid)>,
    /// Events of before that get other states.
    pub(super) restated: Vec<Restated>,
    pub(super) wholeness: Wholeness,
    on_rev: Option<i64>,
}

/// How an event fared on the way into a write.
pub(super) enum Step {
    Staged,
    /// The current state says the same already; this event says it.
    Same(OwnedEventId),
}

impl Staged {
    /// A write on top of a head; `on_rev` is `None` for a new room.
    pub(super) fn on(head: Head, on_rev: Option<i64>) -> Self {
        Self {
            head,
            events: Vec::new(),
            snaps: Vec::new(),
            changes: BTreeMap::new(),
            members: Vec::new(),
            missing: Vec::new(),
            redacted: Vec::new(),
            redactions_ahead: Vec::new(),
            restated: Vec::new(),
            wholeness: Wholeness::Same,
            on_rev,
        }
    }

    /// The write for the store.
    pub(super) fn into_append(self) -> (Head, Append) {
        let append = Append {
            room: self.head.room.clone(),
            on_rev: self.on_rev,
            snaps: self.snaps,
            events: self.events,
            changes: self.changes.into_values().collect(),
            members: self.members,
            missing: self.missing,
            redacted: self.redacted,
            redactions_ahead: self.redactions_ahead,
            restated: self.restated,
            wholeness: self.wholeness,
        };
        (self.head, append)
    }

    /// Builds, checks and signs the next event.
    ///
    /// # Errors
    /// 403 if the room's rules do not allow it; 400/413 if it cannot be an event.
    pub(super) async fn push(&mut self, cx: &Builder<'_>, sender: UserNid, draft: &Draft, with: With) -> Result<Step> {
        let Builder { store, signer, server_name, push, state } = *cx;
        let prev: Vec<Reference> = some_extremities(&self.head.room.head.extremities);
        // Of more branches than an event can name, it stands after those that it does.
        let current = self.head.state.clone();
        let takes_some = prev.len() < self.head.room.head.extremities.len();
        if takes_some {
            self.head.state = self.after_all(store, state, &prev).await?;
        }
        let head = &mut self.head;
        let version = head.version;
        if draft.event_type == TimelineEventType::RoomCreate && !head.state.map.is_empty() {
            return Err(Error::forbidden("A room has one create event, its first"));
        }
        let key = match &draft.state_key {
            Some(state_key) => Some(store.intern_key(&draft.event_type.to_string(), state_key).await?),
            None => None,
        };
        if with.dedupe
            && let Some(same) = head.says_already(store, draft).await?
        {
            return Ok(Step::Same(same));
        }
        let allowed_by = AllowedBy::gather(store, head, draft).await?;
        let deepest = head.room.head.extremities.iter().map(|e| e.depth).max().unwrap_or(0);
        let depth = deepest.saturating_add(1);
        let pdu = draft.build(version, &prev, depth.unsigned_abs(), &allowed_by.named(version), signer)?;
        auth::check(version, &pdu, |id| allowed_by.by_id(id), |t, k| allowed_by.by_key(t, k))?;
        let pdu = Arc::new(pdu);

        let nid = store.new_event_nid().await?;
        let before = head.state.snap;
        let replaces = key.and_then(|key| head.state.map.get(&key).copied());
        if let Some(key) = key {
            let (state, snap) = head.state.set(store.new_snap_nid().await?, key, nid);
            store.remember_state(&state);
            head.state = state;
            self.snaps.push(snap);
            head.remember(nid, &pdu, &allowed_by.nids());
            if opens(&pdu) {
                head.reopen(store).await?;
            }
        }
        let redaction = match with.redaction {
            Some(r) => Some(NewRedaction { target: r.target, json: r.json }),
            // It may have come since somebody looked; else it is redacted when it comes.
            None if pdu.redacts().is_some() => {
                let before = self.head.state.clone();
                self.redaction(store, nid, &pdu, &before).await?
            }
            None => None,
        };
        let local = pdu.sender().server_name() == server_name;
        let (relation, thread) = relation_of(store, self.head.room.nid, &pdu).await?;
        let levels = async || allowed_by.levels(version);
        let outcome = match with.quiet || with.unshown {
            true => Outcome::default(),
            false => push.evaluate(self.head.room.nid, &pdu, sender, &thread, levels).await?,
        };
        let rh = &mut self.head.room.head;
        rh.rev += 1;
        rh.snap = self.head.state.snap;
        rh.depth = rh.depth.max(depth);
        rh.counter += i64::from(outcome.counted);
        rh.forked |= with.quiet;
        let mut rest: Vec<Extremity> = Vec::new();
        if takes_some {
            rest = rh.extremities.drain(..).filter(|e| !prev.contains(&e.event)).collect();
        }
        rest.push(Extremity { nid, event: pdu.reference(version), depth, after: rh.snap });
        rh.extremities = rest;
        let mut event = NewEvent {
            nid,
            standing: if with.quiet { Standing::SoftFailed } else { Standing::Live },
            sender,
            key,
            known: false,
            snap: Some(before),
            after: Some(rh.snap),
            auth: Some(allowed_by.nids()),
            counter: rh.counter,
            replaces,
            sets_state: key.is_some() && !takes_some,
            txn: with.txn,
            membership: None,
            reads: local && !with.quiet && !with.unshown,
            counted: outcome.counted,
            thread,
            push: outcome.actions,
            relation,
            redaction,
            relay: false,
            told: false,
            partial: rh.partial.then_some(rh.rev),
            pdu,
        };
        if takes_some {
            let after = std::mem::replace(&mut self.head.state, current);
            self.move_current(cx, state, &after, &mut event).await?;
        }
        if event.sets_state {
            event.membership = membership_of(store, &event.pdu, server_name, with.stripped).await?;
        }
        self.events.push(event);
        Ok(Step::Staged)
    }

    /// The state after some of the extremities together.
    async fn after_all(&mut self, store: &Store, state: &State, named: &[Reference]) -> Result<RoomState> {
        let mut states = Vec::with_capacity(named.len());
        for extremity in self.head.room.head.extremities.iter().filter(|e| named.contains(&e.event)) {
            states.push(store.snapshot(extremity.after).await?);
        }
        let map = state.resolve(self.head.version, &states, &self.head.fresh).await?;
        self.told(store, map).await
    }
}

/// What building needs beside the head.
#[derive(Clone, Copy)]
pub(super) struct Builder<'a> {
    pub(super) store: &'a Store,
    pub(super) signer: &'a Signer,
    pub(super) server_name: &'a ServerName,
    pub(super) push: &'a Push,
    pub(super) state: &'a State,
}

/// Whether an event may change whether anybody may join or read the room.
pub(super) fn opens(pdu: &Pdu) -> bool {
    matches!(pdu.event_type(), TimelineEventType::RoomJoinRules | TimelineEventType::RoomHistoryVisibility)
}

pub(super) async fn membership_of(
    store: &Store,
    pdu: &Pdu,
    server_name: &ServerName,
    stripped: Option<String>,
) -> Result<Option<NewMembership>> {
    if *pdu.event_type() != TimelineEventType::RoomMember {
        return Ok(None);
    }
    let user = pdu
        .state_key()
        .and_then(|k| <&UserId>::try_from(k).ok())
        .ok_or_else(|| Error::bad_json("The state key of a member event is not a user id"))?;
    Ok(Some(NewMembership {
        user: store.intern_user(user).await?,
        membership: MembershipState::from(pdu.membership().into_owned()),
        local: user.server_name() == server_name,
        stripped,
    }))
}

/// An event's relation, and the thread it belongs to (spec: "Relationship types", "Threading").
pub(super) async fn relation_of(store: &Store, room: RoomNid, pdu: &Pdu) -> Result<(Option<NewRelation>, String)> {
    let Some(r) = RelatesTo::of(pdu.content_json()).filter(|_| !pdu.is_state()) else {
        return Ok((None, relations::MAIN.to_owned()));
    };
    let thread = relations::thread_of(store, room, &r, None).await?;
    Ok((Some(NewRelation { target: r.event_id, rel_type: r.rel_type, key: r.key }), thread))
}
