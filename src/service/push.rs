//! Push rules, and what they make of events: who is notified, what is unread (spec: "Push Notifications").
//!
//! No row per member: an event that the default rules notify members of raises the room's counter once; rows are written
//! only for members whose outcome differs ([`hearth_store::push`]). So an event costs what it mentions, and the members
//! whose own rules may matter in that room ([`deviation`]). Counts are kept in memory ([`counts`]) and follow commits by
//! [`Push::on_change`]. Delivery to push gateways is not here.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hearth_base::{
    Result,
    cache::{Cache, Lasting},
    clock::Clock,
    ids::{RoomNid, UserNid},
};
use hearth_rules::{
    auth::PowerLevels,
    event::Pdu,
    push::{self as rules, Effect, PushEvent},
};
use hearth_store::{Store, events::NewPushAction, push::EVERYONE};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, events::TimelineEventType};
use serde::Deserialize;

use crate::account_data::{PUSH_RULES, ignored::IGNORED_USERS, push_rules};

mod actions;
mod counts;
mod deviants;
mod deviation;
mod editing;
mod notified;
mod pushers;
mod unread;

pub use counts::{Count, Unread};
use counts::{Deviation, MAIN, MemberCounts, RoomCounts, Sum, Thread};
use deviants::{Changes, Members};
use deviation::UserRules;
pub use notified::Notified;
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

/// Rooms remembered.
const ROOMS: u64 = 20_000;
/// Units of memory for users' rules, about bytes.
const RULES_BYTES: u64 = 16 << 20;
/// Members' counts remembered.
const MEMBERS: u64 = 200_000;

/// Push rules and counts.
pub struct Push {
    store: Store,
    server_name: OwnedServerName,
    clock: Clock,
    settings: Settings,
    /// Rules and ignored users of those to whom something is otherwise by their own.
    rules: Cache<UserNid, Option<Arc<UserRules>>>,
    changes: Mutex<Changes>,
    rooms: Cache<RoomNid, Arc<RoomMemory>>,
    members: Cache<(UserNid, RoomNid), Arc<MemberCounts>>,
    /// What events on their way to the disk will do, beyond the room's counter.
    effects: Lasting<OwnedEventId, Arc<Effects>>,
}

/// What is kept of a room.
#[derive(Debug, Default)]
struct RoomMemory {
    counts: Arc<RoomCounts>,
    members: Mutex<Members>,
    /// One reads the database for `members`, the others wait.
    reading: tokio::sync::Mutex<()>,
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
        write!(f, "Push({} rooms, {} members)", self.rooms.len(), self.members.len())
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
            rooms: Cache::new(ROOMS),
            members: Cache::new(MEMBERS),
            effects: Lasting::new(20_000, Duration::from_secs(120)),
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
            if !differs(effect, base) {
                return Ok(None);
            }
            if !own.sounds {
                return Ok(Some(row(nid, effect)));
            }
        }
        let fired = self.fired(room, nid, own, event, context).await?;
        Ok(((fired.notify, fired.highlight) != (base.notify, base.highlight)).then_some(fired))
    }

    /// What an event does to a user by their own rules.
    async fn fired(
        &self,
        room: RoomNid,
        user: UserNid,
        own: &UserRules,
        event: &PushEvent<'_>,
        context: &rules::Room<'_>,
    ) -> Result<NewPushAction> {
        let name = if own.asks_name { self.display_name(room, user).await? } else { None };
        let fired = rules::evaluate(&own.rules, event, context, &own.user, name.as_deref());
        let (notify, highlight) = fired.map_or((false, false), |o| (o.notify, o.highlight));
        let actions = fired.and_then(|o| serde_json::to_string(o.actions).ok()).unwrap_or_else(|| "[]".to_owned());
        Ok(NewPushAction { user, notify, highlight, actions })
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

    /// A user's rules; `None` if nothing is otherwise than by the default rules.
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
