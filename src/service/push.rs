//! Push rules, and what they make of events: who is notified, what is unread (spec: "Push Notifications").
//!
//! No row per member: an event that the default rules notify members of raises the room's counter once; rows are written
//! only for members whose outcome differs ([`hearth_store::push`]). So an event costs what it mentions, and the members
//! whose own rules may matter in that room ([`deviation`]). Counts are kept in memory ([`counts`]) and follow commits by
//! [`Push::on_change`]. Delivery to push gateways is not here.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hearth_base::{
    Result,
    cache::Cache,
    clock::Clock,
    ids::{RoomNid, StreamPos, UserNid},
};
use hearth_rules::{
    auth::PowerLevels,
    event::Pdu,
    push::{self as rules, Effect, PushEvent},
};
use hearth_store::{
    Store,
    events::{NewPushAction, StoredEvent},
    log::{Change, Logged},
    push::EVERYONE,
};
use moka::sync::Cache as Moka;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, RoomId, UserId, events::TimelineEventType};
use serde::Deserialize;

use crate::account_data::{PUSH_RULES, push_rules};

mod counts;
mod deviation;
mod editing;
mod pushers;

pub use counts::{Count, Unread};
use counts::{Deviation, MAIN, MAX_THREADS, MemberCounts, RoomCounts, Snapshot, Sum, Sums, Thread};
use deviation::UserRules;
pub use pushers::NewPusher;

/// How push is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether notifications and unread counts are computed at all (`push.enabled`).
    pub enabled: bool,
    /// Rules a user may have of their own (`push_rules.limits.rule_count`).
    pub max_rules: usize,
    /// Bytes of a rule's id (`push_rules.limits.rule_id_length`).
    pub max_rule_id: usize,
    /// Bytes of a rule's conditions, pattern and actions (`push_rules.limits.rule_size`).
    pub max_rule: usize,
    /// Pushers a user may have.
    pub max_pushers: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, max_rules: 10_000, max_rule_id: 300, max_rule: 1_024, max_pushers: 100 }
    }
}

/// What an event about to be stored does to the members of its room.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Whether the room's counter goes up.
    pub counted: bool,
    /// Rows for those to whom it does something else.
    pub actions: Vec<NewPushAction>,
}

const IGNORED_USERS: &str = "m.ignored_user_list";
/// Rooms remembered.
const ROOMS: u64 = 20_000;
/// Units of memory for users' rules, about bytes.
const RULES_BYTES: u64 = 16 << 20;
/// Members' counts remembered.
const MEMBERS: u64 = 200_000;
/// Changes of users' rules that rooms catch up with one by one; a room further behind looks at all its members again.
const CHANGES: usize = 256;

/// Push rules and counts.
pub struct Push {
    store: Store,
    server_name: OwnedServerName,
    clock: Clock,
    settings: Settings,
    /// Rules and ignored users of those who have any of their own that count otherwise.
    rules: Cache<UserNid, Option<Arc<UserRules>>>,
    changes: Mutex<Changes>,
    rooms: Moka<RoomNid, Arc<RoomMemory>>,
    members: Moka<(UserNid, RoomNid), Arc<MemberCounts>>,
    /// What events on their way to the disk will do, beyond the room's counter.
    effects: Moka<OwnedEventId, Arc<Effects>>,
}

/// Whose rules changed lately.
#[derive(Debug, Default)]
struct Changes {
    /// How many there were since the start.
    seen: u64,
    /// The last of them, oldest first.
    last: VecDeque<UserNid>,
}

/// What is kept of a room.
#[derive(Debug, Default)]
struct RoomMemory {
    counts: Arc<RoomCounts>,
    members: Mutex<Members>,
    /// One reads the database for `members`, the others wait.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Members {
    /// Our joined members to whom events may do something else than the default rules say; `None` until read.
    deviants: Option<Arc<[UserNid]>>,
    /// `Changes::seen` when that was.
    seen: u64,
    /// Members who came or went since.
    moved: Vec<UserNid>,
    /// How many are joined, servers all together; `None` if it may have changed.
    joined: Option<u64>,
    /// Counts changes of membership.
    moves: u64,
}

/// What an event does beyond the room's counter.
#[derive(Debug)]
struct Effects {
    thread: Thread,
    highlight: bool,
    deviations: Vec<Deviation>,
}

impl std::fmt::Debug for Push {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Push({} rooms, {} members)", self.rooms.entry_count(), self.members.entry_count())
    }
}

impl Push {
    /// Made once. [`Self::on_change`] is to hear of every commit.
    #[must_use]
    pub fn new(store: Store, server_name: OwnedServerName, clock: Clock, settings: Settings) -> Self {
        Self {
            store,
            server_name,
            clock,
            settings,
            rules: Cache::weighed(RULES_BYTES, |_, rules: &Option<Arc<UserRules>>| {
                rules.as_ref().map_or(50, |r| r.weight)
            }),
            changes: Mutex::default(),
            rooms: Moka::new(ROOMS),
            members: Moka::new(MEMBERS),
            effects: Moka::builder().max_capacity(20_000).time_to_live(Duration::from_secs(120)).build(),
        }
    }

    /// What a live event does to the members of its room; to be asked once it has its id, before it is stored. `levels`
    /// is asked for the power levels before the event, only if they matter.
    ///
    /// # Errors
    /// If the database fails, or `levels` does.
    pub async fn evaluate<F, Fut>(
        &self,
        room: RoomNid,
        pdu: &Pdu,
        sender: UserNid,
        thread: &str,
        levels: F,
    ) -> Result<Outcome>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<Option<PowerLevels>>>,
    {
        if !self.settings.enabled {
            return Ok(Outcome::default());
        }
        let memory = self.rooms.get_with(room, Arc::default);
        let mut deviants = Vec::new();
        let (mut asks_members, mut asks_levels) = (false, pdu.content_json().contains("m.mentions"));
        for user in self.deviants(&memory, room, pdu.room_id()).await?.iter().filter(|u| **u != sender) {
            if let Some(rules) = self.rules_of(*user).await? {
                asks_members |= rules.asks_members;
                asks_levels |= rules.asks_levels;
                deviants.push((*user, rules));
            }
        }
        let levels = if asks_levels { levels().await? } else { None };
        let member_count = if asks_members { self.joined(&memory, room).await? } else { 0 };
        let context = rules::Room { member_count, levels: levels.as_ref() };
        let event = PushEvent::new(pdu);
        let default = rules::default_outcome(&event, &context);
        let base = default.others;

        let mut outcome = Outcome { counted: base.notify, actions: Vec::new() };
        if base.highlight || (base.notify && thread != MAIN) {
            outcome.actions.push(row(EVERYONE, base));
        }
        let mut looked_at = HashSet::new();
        for (user, rules) in &deviants {
            looked_at.insert(*user);
            outcome.actions.extend(self.differing(room, *user, rules, &event, &context, base, &default).await?);
        }
        if !default.named.is_empty() {
            for (nid, user) in self.named(room, pdu, &default.named).await? {
                if nid == sender || !looked_at.insert(nid) {
                    continue;
                }
                match self.rules_of(nid).await? {
                    Some(rules) => {
                        outcome
                            .actions
                            .extend(self.differing(room, nid, &rules, &event, &context, base, &default).await?);
                    }
                    None => {
                        outcome.actions.extend(differs(default.to(&user), base).then(|| row(nid, default.to(&user))))
                    }
                }
            }
        }
        self.foresee(pdu, thread, base, &outcome);
        Ok(outcome)
    }

    /// Keeps what an event will do to members' counts, for when it is committed.
    fn foresee(&self, pdu: &Pdu, thread: &str, base: Effect, outcome: &Outcome) {
        if outcome.actions.is_empty() {
            return;
        }
        let sum = |notify, highlight| Sum::new(i64::from(notify), i64::from(highlight));
        let base_sum = sum(base.notify, base.highlight);
        let deviations = outcome.actions.iter().filter(|a| a.user != EVERYONE);
        let deviations =
            deviations.map(|a| Deviation { user: a.user, sum: sum(a.notify, a.highlight).minus(base_sum) }).collect();
        let effects = Effects { thread: thread.into(), highlight: base.highlight, deviations };
        self.effects.insert(pdu.event_id().to_owned(), Arc::new(effects));
    }

    /// The row of a user with rules of their own, if the event does to them something else than to others.
    #[expect(clippy::too_many_arguments, reason = "all of one event, asked for many users")]
    async fn differing(
        &self,
        room: RoomNid,
        nid: UserNid,
        own: &UserRules,
        event: &PushEvent<'_>,
        context: &rules::Room<'_>,
        base: Effect,
        default: &rules::DefaultOutcome,
    ) -> Result<Option<NewPushAction>> {
        if own.ignores(&default.sender) {
            return Ok(base.notify.then(|| row(nid, Effect::default())));
        }
        if !own.has_rules_for(event.room_id()) {
            let effect = default.to(&own.user);
            return Ok(differs(effect, base).then(|| row(nid, effect)));
        }
        let name = if own.asks_name { self.display_name(room, nid).await? } else { None };
        let fired = rules::evaluate(&own.rules, event, context, &own.user, name.as_deref());
        let (notify, highlight) = fired.map_or((false, false), |o| (o.notify, o.highlight));
        if (notify, highlight) == (base.notify, base.highlight) {
            return Ok(None);
        }
        let actions = fired.and_then(|o| serde_json::to_string(o.actions).ok()).unwrap_or_else(|| "[]".to_owned());
        Ok(Some(NewPushAction { user: nid, notify, highlight, actions }))
    }

    /// Those of the users an event names who are ours and joined, or are invited by it.
    async fn named(
        &self,
        room: RoomNid,
        pdu: &Pdu,
        named: &[ruma::OwnedUserId],
    ) -> Result<Vec<(UserNid, ruma::OwnedUserId)>> {
        let ours: Vec<_> = named.iter().filter(|u| u.server_name() == self.server_name).cloned().collect();
        let mut known: Vec<_> = self.store.user_nids(&ours).await?.into_iter().map(|(user, nid)| (nid, user)).collect();
        if known.is_empty() || *pdu.event_type() == TimelineEventType::RoomMember {
            return Ok(known);
        }
        let nids: Vec<UserNid> = known.iter().map(|(nid, _)| *nid).collect();
        let joined = self.store.joined_among(room, &nids).await?;
        known.retain(|(nid, _)| joined.contains(nid));
        Ok(known)
    }

    /// A user's rules; `None` if nothing counts otherwise than by the default rules.
    async fn rules_of(&self, user: UserNid) -> Result<Option<Arc<UserRules>>> {
        self.rules
            .get_or(user, || async {
                let stored = self.store.account_data(user, None, PUSH_RULES).await?;
                let ignored = self.store.account_data(user, None, IGNORED_USERS).await?;
                if stored.is_none() && ignored.is_none() {
                    return Ok(None);
                }
                let id = self.store.user_id(user).await?;
                let rules = push_rules::read(stored.as_deref(), &id);
                Ok(UserRules::of(id, rules, ignored.as_deref()).map(Arc::new))
            })
            .await
    }

    /// Our joined members to whom events of the room may do something else than the default rules say.
    async fn deviants(&self, memory: &RoomMemory, room: RoomNid, room_id: &RoomId) -> Result<Arc<[UserNid]>> {
        if let Some(known) = self.known_deviants(memory) {
            return Ok(known);
        }
        let _one = memory.reading.lock().await;
        if let Some(known) = self.known_deviants(memory) {
            return Ok(known);
        }
        let (known, moved) = {
            let mut members = memory.members.lock();
            (members.deviants.clone().map(|d| (d, members.seen)), std::mem::take(&mut members.moved))
        };
        let found = self.find_deviants(known, moved, room, room_id).await;
        let mut members = memory.members.lock();
        match found {
            Ok((deviants, seen)) => {
                (members.deviants, members.seen) = (Some(deviants.clone()), seen);
                Ok(deviants)
            }
            Err(e) => {
                members.deviants = None;
                Err(e)
            }
        }
    }

    /// Brings the list up to date, with the number of changes that it knows of.
    async fn find_deviants(
        &self,
        known: Option<(Arc<[UserNid]>, u64)>,
        moved: Vec<UserNid>,
        room: RoomNid,
        room_id: &RoomId,
    ) -> Result<(Arc<[UserNid]>, u64)> {
        let mut again = moved;
        // Whatever changes from here on is seen by the next look.
        let (seen, changed) = self.changes.lock().since(known.as_ref().map(|k| k.1));
        let mut deviants: Vec<UserNid> = Vec::new();
        match (known, changed) {
            (Some((known, _)), Some(changed)) if again.len() <= CHANGES => {
                again.extend(changed);
                again.sort_unstable();
                again.dedup();
                deviants.extend(known.iter().filter(|u| again.binary_search(u).is_err()));
                again = self.store.joined_among(room, &again).await?;
            }
            _ => again = self.store.members_with_account_data(room, [PUSH_RULES, IGNORED_USERS]).await?,
        }
        for user in again {
            if self.rules_of(user).await?.is_some_and(|rules| rules.deviates_in(room_id)) {
                deviants.push(user);
            }
        }
        Ok((deviants.into(), seen))
    }

    fn known_deviants(&self, memory: &RoomMemory) -> Option<Arc<[UserNid]>> {
        let seen = self.changes.lock().seen;
        let members = memory.members.lock();
        members.deviants.clone().filter(|_| members.moved.is_empty() && members.seen == seen)
    }

    async fn joined(&self, memory: &RoomMemory, room: RoomNid) -> Result<u64> {
        let before = {
            let members = memory.members.lock();
            if let Some(joined) = members.joined {
                return Ok(joined);
            }
            members.moves
        };
        let (joined, _) = self.store.member_counts(room).await?;
        let mut members = memory.members.lock();
        members.joined = Some(joined).filter(|_| members.moves == before);
        Ok(joined)
    }

    /// A member's name in a room.
    async fn display_name(&self, room: RoomNid, user: UserNid) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Member {
            displayname: Option<String>,
        }
        let Some(membership) = self.store.membership(room, user).await? else { return Ok(None) };
        let event = self.store.event(membership.event).await?;
        Ok(event.and_then(|e| e.pdu.content_as::<Member>()).and_then(|m| m.displayname))
    }

    /// What a user has not read of a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unread(&self, user: UserNid, room: RoomNid) -> Result<Unread> {
        if !self.settings.enabled {
            return Ok(Unread::default());
        }
        let counts = self.rooms.get_with(room, Arc::default).counts.clone();
        let at = match counts.snapshot() {
            Some(at) => at,
            None => {
                let (pos, counter) =
                    self.store.room(room).await?.map_or((StreamPos::ZERO, 0), |r| (r.head.pos, r.head.counter));
                counts.begin(pos, counter);
                counts.snapshot().unwrap_or(Snapshot { pos, counter, totals: Sums::default() })
            }
        };
        let key = (user, room);
        let mut member = self.members.get_with(key, || Arc::new(MemberCounts::new(counts.clone())));
        if !Arc::ptr_eq(&member.room, &counts) {
            member = Arc::new(MemberCounts::new(counts.clone()));
            self.members.insert(key, member.clone());
        }
        if let Some(unread) = member.read() {
            return Ok(unread);
        }
        // Of a moment when the member's memory stood already, so that nothing falls between.
        let at = counts.snapshot().unwrap_or(at);
        match self.load(user, room, &at).await {
            Ok(own) => member.settle(&at, own),
            Err(e) => {
                self.members.invalidate(&key);
                return Err(e);
            }
        }
        Ok(member.read().unwrap_or_default())
    }

    /// What is unread as of a moment, from the database.
    async fn load(&self, user: UserNid, room: RoomNid, at: &Snapshot) -> Result<Sums> {
        let positions = self.store.read_positions(room, user).await?;
        let of = |thread: &str| positions.iter().find(|p| p.thread == thread).map(|p| (p.pos, p.counter));
        let read = match of("") {
            Some(read) => read,
            None => self.joined_at(user, room).await?.unwrap_or((at.pos, at.counter)),
        };
        let main_read = of(MAIN).filter(|main| *main > read).unwrap_or(read);
        let mut own = Sums::default();
        for row in self.store.unread_rows(user, room, read.0, at.pos).await? {
            own.add(&row.thread.into(), Sum::new(row.counted + row.deviation, row.highlights));
        }
        let in_threads = self.store.counted_in_threads(room, main_read.0, at.pos).await?;
        own.main = own.main.plus(Sum::new(at.counter - main_read.1 - in_threads, 0));
        Ok(own)
    }

    /// Where a member who has read nothing yet came in.
    async fn joined_at(&self, user: UserNid, room: RoomNid) -> Result<Option<(StreamPos, i64)>> {
        let Some(membership) = self.store.membership(room, user).await? else { return Ok(None) };
        let event = self.store.event(membership.event).await?;
        Ok(event.and_then(|e| Some((e.pos?, e.counter))))
    }

    /// Hears of a commit, before anybody who waits for it does.
    pub fn on_change(&self, logged: &Logged) {
        match &logged.change {
            Change::Event(event) => self.take_in(logged.pos, event),
            Change::State { room, changes } => {
                if let Some(memory) = self.rooms.get(room) {
                    for (user, local) in changes.iter().filter_map(|c| c.member) {
                        self.member_moved(&memory, *room, local.then_some(user));
                    }
                }
            }
            Change::Receipt { room, user } => self.members.invalidate(&(*user, *room)),
            Change::AccountData { user, room: None, kind } if matches!(&**kind, PUSH_RULES | IGNORED_USERS) => {
                self.rules.invalidate(user);
                self.changes.lock().push(*user);
            }
            _ => {}
        }
    }

    fn take_in(&self, pos: StreamPos, event: &StoredEvent) {
        let effects = self.effects.remove(event.event_id());
        let Some(memory) = self.rooms.get(&event.room) else { return };
        let (thread, highlight) = effects.as_ref().map_or((MAIN.into(), false), |e| (e.thread.clone(), e.highlight));
        if memory.counts.take_in(pos, event.counter, &thread, highlight) > MAX_THREADS {
            self.rooms.invalidate(&event.room);
        }
        for deviation in effects.iter().flat_map(|e| &e.deviations) {
            let key = (deviation.user, event.room);
            if self.members.get(&key).is_some_and(|m| !m.take_in(pos, &thread, deviation.sum)) {
                self.members.invalidate(&key);
            }
        }
        // Whoever sends has read.
        self.members.invalidate(&(event.sender, event.room));
        if *event.pdu.event_type() == TimelineEventType::RoomMember
            && let Some(user) = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok())
        {
            let ours = (user.server_name() == self.server_name).then(|| self.store.known_user(user)).flatten();
            self.member_moved(&memory, event.room, ours);
        }
    }

    /// Somebody's membership may have changed; `ours` if they are a user of this server.
    fn member_moved(&self, memory: &RoomMemory, room: RoomNid, ours: Option<UserNid>) {
        let mut members = memory.members.lock();
        members.joined = None;
        members.moves += 1;
        let Some(nid) = ours else { return };
        if members.moved.len() <= CHANGES {
            members.moved.push(nid);
        } else {
            members.deviants = None;
        }
        drop(members);
        self.members.invalidate(&(nid, room));
    }
}

impl Changes {
    fn push(&mut self, user: UserNid) {
        self.seen += 1;
        if self.last.len() == CHANGES {
            self.last.pop_front();
        }
        self.last.push_back(user);
    }

    /// How many there were, and those since the `seen`-th; `None` if that is longer ago than is remembered.
    fn since(&self, seen: Option<u64>) -> (u64, Option<Vec<UserNid>>) {
        let missed = seen.and_then(|seen| usize::try_from(self.seen - seen).ok());
        let missed = missed.filter(|missed| *missed <= self.last.len());
        (self.seen, missed.map(|missed| self.last.iter().rev().take(missed).copied().collect()))
    }
}

fn differs(effect: Effect, base: Effect) -> bool {
    (effect.notify, effect.highlight) != (base.notify, base.highlight)
}

/// A row for what a default rule does.
fn row(user: UserNid, effect: Effect) -> NewPushAction {
    let mut actions = Vec::new();
    if effect.notify {
        actions.push(serde_json::json!("notify"));
    }
    if let Some(sound) = effect.sound {
        actions.push(serde_json::json!({"set_tweak": "sound", "value": sound}));
    }
    if effect.highlight {
        actions.push(serde_json::json!({"set_tweak": "highlight"}));
    }
    NewPushAction {
        user,
        notify: effect.notify,
        highlight: effect.highlight,
        actions: serde_json::Value::Array(actions).to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
