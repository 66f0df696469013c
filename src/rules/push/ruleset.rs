//! A user's rules, kind by kind. They are ruma's, but for the ids of the kinds `room` and `sender`: to the
//! specification any rule id is a string, and one that names no room or user simply never fires.

use std::hash::Hash;

use indexmap::{Equivalent, IndexSet};
use ruma::push::{
    Action, ConditionalPushRule, NewConditionalPushRule, NewPatternedPushRule, NewSimplePushRule, PatternedPushRule,
    RuleKind, SimplePushRule,
};
use serde::{Deserialize, Serialize};

/// A user's rules, each kind in order of precedence.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ruleset {
    /// By a word of the text.
    #[serde(default)]
    pub content: IndexSet<PatternedPushRule>,
    /// By conditions, before all others.
    #[serde(rename = "override", default)]
    pub override_: IndexSet<ConditionalPushRule>,
    /// By the room that is the id.
    #[serde(default)]
    pub room: IndexSet<SimplePushRule<String>>,
    /// By the sender who is the id.
    #[serde(default)]
    pub sender: IndexSet<SimplePushRule<String>>,
    /// By conditions, after all others.
    #[serde(default)]
    pub underride: IndexSet<ConditionalPushRule>,
}

/// A rule to be added or changed.
#[derive(Debug, Clone)]
pub enum NewRule {
    /// Of the kind `override`.
    Override(NewConditionalPushRule),
    /// Of the kind `content`.
    Content(NewPatternedPushRule),
    /// Of the kind `room`.
    Room(NewSimplePushRule<String>),
    /// Of the kind `sender`.
    Sender(NewSimplePushRule<String>),
    /// Of the kind `underride`.
    Underride(NewConditionalPushRule),
}

impl NewRule {
    /// Its id.
    #[must_use]
    pub fn rule_id(&self) -> &str {
        match self {
            Self::Override(r) | Self::Underride(r) => &r.rule_id,
            Self::Content(r) => &r.rule_id,
            Self::Room(r) | Self::Sender(r) => &r.rule_id,
        }
    }

    /// What it does.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        match self {
            Self::Override(r) | Self::Underride(r) => &r.actions,
            Self::Content(r) => &r.actions,
            Self::Room(r) | Self::Sender(r) => &r.actions,
        }
    }
}

impl From<ruma::push::Ruleset> for Ruleset {
    /// Takes the kinds that have default rules; there are none of the kinds `room` and `sender`.
    fn from(rules: ruma::push::Ruleset) -> Self {
        let ruma::push::Ruleset { content, override_, underride, .. } = rules;
        Self { content, override_, underride, ..Self::default() }
    }
}

impl Ruleset {
    /// No rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many are the user's own.
    #[must_use]
    pub fn count_own(&self) -> usize {
        let conditional = self.override_.iter().chain(&self.underride).filter(|r| !r.default).count();
        let simple = self.room.iter().chain(&self.sender).filter(|r| !r.default).count();
        conditional + simple + self.content.iter().filter(|r| !r.default).count()
    }

    /// The same with default rules as they are today, switched and with actions as the user set them.
    pub(super) fn updated(mut self, defaults: ruma::push::Ruleset) -> Self {
        let mut theirs = ruma::push::Ruleset::new();
        theirs.content = self.content;
        theirs.override_ = self.override_;
        theirs.underride = self.underride;
        theirs.update_with_server_default(defaults);
        self.room.retain(|rule| !rule.default);
        self.sender.retain(|rule| !rule.default);
        Self { room: self.room, sender: self.sender, ..Self::from(theirs) }
    }

    /// Changes a rule; whether there is one.
    pub(super) fn change(
        &mut self,
        kind: &RuleKind,
        id: &str,
        change: impl FnOnce(&mut bool, &mut Vec<Action>),
    ) -> bool {
        match kind {
            RuleKind::Override => replace(&mut self.override_, id, |r| change(&mut r.enabled, &mut r.actions)),
            RuleKind::Underride => replace(&mut self.underride, id, |r| change(&mut r.enabled, &mut r.actions)),
            RuleKind::Content => replace(&mut self.content, id, |r| change(&mut r.enabled, &mut r.actions)),
            RuleKind::Room => replace(&mut self.room, id, |r| change(&mut r.enabled, &mut r.actions)),
            RuleKind::Sender => replace(&mut self.sender, id, |r| change(&mut r.enabled, &mut r.actions)),
            _ => false,
        }
    }

    /// Whether a rule is the server's; `None` if there is no such rule.
    pub(super) fn is_default(&self, kind: &RuleKind, id: &str) -> Option<bool> {
        match kind {
            RuleKind::Override => self.override_.get(id).map(|r| r.default),
            RuleKind::Underride => self.underride.get(id).map(|r| r.default),
            RuleKind::Content => self.content.get(id).map(|r| r.default),
            RuleKind::Room => self.room.get(id).map(|r| r.default),
            RuleKind::Sender => self.sender.get(id).map(|r| r.default),
            _ => None,
        }
    }

    /// Takes a rule away; the others stay in their order.
    pub(super) fn remove(&mut self, kind: &RuleKind, id: &str) {
        match kind {
            RuleKind::Override => drop(self.override_.shift_take(id)),
            RuleKind::Underride => drop(self.underride.shift_take(id)),
            RuleKind::Content => drop(self.content.shift_take(id)),
            RuleKind::Room => drop(self.room.shift_take(id)),
            RuleKind::Sender => drop(self.sender.shift_take(id)),
            _ => {}
        }
    }
}

/// Changes a rule where it stands.
fn replace<R>(set: &mut IndexSet<R>, id: &str, change: impl FnOnce(&mut R)) -> bool
where
    R: Clone + Eq + Hash,
    str: Equivalent<R>,
{
    let Some(mut rule) = set.get(id).cloned() else { return false };
    change(&mut rule);
    set.replace(rule);
    true
}
