//! Where a user's rules make a difference to what is counted: computed once a ruleset, so that most users of a room need
//! not be looked at for its events.

use std::collections::HashSet;

use hearth_rules::push::{self, Ruleset};
use ruma::{
    OwnedUserId, RoomId, UserId,
    push::{ConditionalPushRule, PushCondition},
};
use serde_json::Value;

use crate::account_data::ignored::ignored_in;

/// A user's rules and whom they ignore, with where that matters.
#[derive(Debug)]
pub(super) struct UserRules {
    pub(super) user: OwnedUserId,
    pub(super) rules: Ruleset,
    ignored: HashSet<OwnedUserId>,
    /// Whether an event of any room may count otherwise than by the default rules.
    everywhere: bool,
    /// Else only events of these rooms may; ids in lower case, as conditions match them.
    rooms: HashSet<String>,
    /// Whether a default rule does something else than by default, though it counts the same: makes another sound.
    pub(super) sounds: bool,
    /// Whether a rule asks for the user's display name.
    pub(super) asks_name: bool,
    /// Whether a rule asks for the number of members.
    pub(super) asks_members: bool,
    /// Whether a rule asks for power levels where the default rules do not.
    pub(super) asks_levels: bool,
    /// About how many bytes this takes.
    pub(super) weight: u32,
}

/// The default rules whose effects may differ by the number of members.
const BY_MEMBERS: [&str; 4] =
    [".m.rule.encrypted_room_one_to_one", ".m.rule.room_one_to_one", ".m.rule.message", ".m.rule.encrypted"];

impl UserRules {
    /// `None` if nothing is otherwise than by the default rules.
    pub(super) fn of(user: OwnedUserId, rules: Ruleset, ignored: Option<&str>) -> Option<Self> {
        let ignored = ignored.map(ignored_in).unwrap_or_default();
        let default = push::server_default(&user);
        let mut this = Self {
            user,
            ignored,
            everywhere: false,
            rooms: HashSet::new(),
            sounds: false,
            asks_name: false,
            asks_members: false,
            asks_levels: false,
            weight: 0,
            rules: Ruleset::new(),
        };
        for rule in &rules.override_ {
            this.look_at(rule, default.override_.get(rule.rule_id.as_str()));
        }
        for rule in &rules.underride {
            this.look_at(rule, default.underride.get(rule.rule_id.as_str()));
        }
        this.everywhere |= rules.content.iter().any(|r| r.enabled) || rules.sender.iter().any(|r| r.enabled);
        this.rooms.extend(rules.room.iter().filter(|r| r.enabled).map(|r| r.rule_id.as_str().to_lowercase()));
        let count = rules.override_.len() + rules.underride.len() + rules.content.len() + rules.room.len();
        this.weight =
            u32::try_from(1_000 + 400 * (count + rules.sender.len()) + 100 * this.ignored.len()).unwrap_or(u32::MAX);
        this.rules = rules;
        let differs = this.everywhere || this.sounds || !this.rooms.is_empty() || !this.ignored.is_empty();
        differs.then_some(this)
    }

    fn look_at(&mut self, rule: &ConditionalPushRule, default: Option<&ConditionalPushRule>) {
        match default.filter(|_| rule.default) {
            Some(default) if effect(rule) == effect(default) => {
                self.sounds |= rule.enabled && actions(rule) != actions(default);
            }
            Some(_) => {
                self.everywhere = true;
                self.asks_members |= BY_MEMBERS.contains(&rule.rule_id.as_str());
            }
            None if rule.enabled => {
                match rule.conditions.iter().find_map(only_room) {
                    Some(room) => drop(self.rooms.insert(room)),
                    None => self.everywhere = true,
                }
                for condition in &rule.conditions {
                    match condition {
                        PushCondition::RoomMemberCount(_) => self.asks_members = true,
                        PushCondition::SenderNotificationPermission(_) => self.asks_levels = true,
                        #[expect(deprecated, reason = "rules that users made when it was not")]
                        PushCondition::ContainsDisplayName => self.asks_name = true,
                        _ => {}
                    }
                }
            }
            None => {}
        }
    }

    /// Whether events of a room may count otherwise than by the default rules.
    pub(super) fn deviates_in(&self, room: &RoomId) -> bool {
        !self.ignored.is_empty() || self.has_rules_for(room)
    }

    /// Whether the rules themselves may differ in a room.
    pub(super) fn has_rules_for(&self, room: &RoomId) -> bool {
        self.everywhere || (!self.rooms.is_empty() && self.rooms.contains(&room.as_str().to_lowercase()))
    }

    /// Whether the user wants to hear nothing of a sender.
    pub(super) fn ignores(&self, sender: &UserId) -> bool {
        self.ignored.contains(sender)
    }
}

/// What a rule does to the counts when it fires; `None` if it cannot fire.
fn effect(rule: &ConditionalPushRule) -> Option<(bool, bool)> {
    let notify = rule.actions.iter().any(ruma::push::Action::should_notify);
    let highlight = rule.actions.iter().any(ruma::push::Action::is_highlight);
    rule.enabled.then_some((notify, notify && highlight))
}

/// What a rule asks for, to be compared.
fn actions(rule: &ConditionalPushRule) -> Option<Value> {
    serde_json::to_value(&rule.actions).ok()
}

/// The room, in lower case, without which a condition does not hold.
fn only_room(condition: &PushCondition) -> Option<String> {
    match condition {
        PushCondition::EventMatch(c) if c.key == "room_id" && !c.pattern.contains(['*', '?']) => {
            Some(c.pattern.to_lowercase())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ruma::{room_id, user_id};
    use serde_json::json;

    use super::*;

    fn of(change: impl FnOnce(&mut Ruleset), ignored: Option<&str>) -> Option<UserRules> {
        let user = user_id!("@a:x");
        let mut rules = push::server_default(user);
        change(&mut rules);
        UserRules::of(user.to_owned(), rules, ignored)
    }

    fn rule(id: &str, conditions: serde_json::Value) -> ConditionalPushRule {
        serde_json::from_value(
            json!({"rule_id": id, "default": false, "enabled": true, "actions": [], "conditions": conditions}),
        )
        .unwrap()
    }

    #[test]
    fn what_does_not_count_otherwise_is_no_deviation() {
        assert!(of(|_| {}, None).is_none());
        assert!(of(|_| {}, Some("{}")).is_none());
        assert!(of(|_| {}, Some(r#"{"ignored_users": 3}"#)).is_none());
        let silent = |rules: &mut Ruleset| {
            let actions = serde_json::from_value(json!(["notify"])).unwrap();
            push::edit::set_actions(rules, &ruma::push::RuleKind::Underride, ".m.rule.room_one_to_one", actions)
                .unwrap();
        };
        let rules = of(silent, None).unwrap();
        assert!(rules.sounds && !rules.deviates_in(room_id!("!a:x")), "a sound less is no difference to the counts");
        let mut off = rule("off", json!([]));
        off.enabled = false;
        assert!(of(|r| assert!(r.override_.insert(off)), None).is_none());
    }

    #[test]
    fn rules_of_a_room_stay_there() {
        let (here, there) = (room_id!("!Here:x"), room_id!("!there:x"));
        let conditions = json!([{"kind": "event_match", "key": "room_id", "pattern": "!Here:x"}]);
        let rules = of(|r| assert!(r.override_.insert(rule("one", conditions))), None).unwrap();
        assert!(rules.deviates_in(here) && !rules.deviates_in(there));
        let conditions = json!([{"kind": "event_match", "key": "room_id", "pattern": "!Her*"}]);
        let rules = of(|r| assert!(r.override_.insert(rule("one", conditions))), None).unwrap();
        assert!(rules.deviates_in(there));
        let rules = of(|_| {}, Some(r#"{"ignored_users": {"@b:x": {}}}"#)).unwrap();
        assert!(rules.deviates_in(there) && !rules.has_rules_for(there) && rules.ignores(user_id!("@b:x")));
    }
}
