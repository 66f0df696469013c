//! Changing a user's push rules (client-server API, "Push Rules: API"). Each function changes the ruleset or refuses
//! with the answer for the client and leaves it as it was.

use hearth_base::{Error, Result};
use ruma::{
    RoomId,
    push::{
        Action, ConditionalPushRule, EventMatchConditionData, PatternedPushRule, PushCondition, RuleKind,
        SimplePushRule,
    },
};

use super::{MAX_RULES, NewRule, Ruleset};

/// Adds a rule, or changes the one of that kind and id. It goes straight before the rule `before`, or else straight
/// after the rule `after`; a new rule without either goes first of its kind, a changed one stays where it was. New
/// rules are enabled, changed ones stay as they were.
///
/// Fails with 400 for ids that are reserved or hold slashes, and for `before` and `after` that are of server-default
/// rules or of none.
pub fn put(rules: &mut Ruleset, rule: NewRule, before: Option<&str>, after: Option<&str>) -> Result<()> {
    let id = rule.rule_id();
    if id.is_empty() || id.contains(['/', '\\']) {
        return Err(Error::invalid_param("The rule id is empty or holds a slash or backslash"));
    }
    if [Some(id), before, after].into_iter().flatten().any(|id| id.starts_with('.')) {
        return Err(Error::invalid_param("Rule ids that start with a dot belong to the server"));
    }
    let place = Place { before, after };
    match rule {
        NewRule::Override(new) => place.put(&mut rules.override_, ConditionalPushRule::from(new)),
        NewRule::Underride(new) => place.put(&mut rules.underride, ConditionalPushRule::from(new)),
        NewRule::Content(new) => place.put(&mut rules.content, PatternedPushRule::from(new)),
        NewRule::Room(new) => place.put(&mut rules.room, SimplePushRule::from(new)),
        NewRule::Sender(new) => place.put(&mut rules.sender, SimplePushRule::from(new)),
    }
}

/// Removes a rule of the user's own; 404 if there is none, 400 if it is the server's.
pub fn delete(rules: &mut Ruleset, kind: &RuleKind, rule_id: &str) -> Result<()> {
    if rules.is_default(kind, rule_id).ok_or_else(not_found)? {
        return Err(Error::invalid_param("Rules of the server cannot be removed"));
    }
    rules.remove(kind, rule_id);
    Ok(())
}

/// Switches a rule, also one of the server's; 404 if there is none.
pub fn set_enabled(rules: &mut Ruleset, kind: &RuleKind, rule_id: &str, enabled: bool) -> Result<()> {
    rules.change(kind, rule_id, |on, _| *on = enabled).then_some(()).ok_or_else(not_found)
}

/// Changes what a rule does, also one of the server's; 404 if there is none.
pub fn set_actions(rules: &mut Ruleset, kind: &RuleKind, rule_id: &str, actions: Vec<Action>) -> Result<()> {
    rules.change(kind, rule_id, |_, does| *does = actions).then_some(()).ok_or_else(not_found)
}

/// Gives a room the rules of the user's own that are for another: those of the kind `room`, and those of the kind
/// `override` that hold in that room only (so clients mute rooms).
pub fn follow(rules: &mut Ruleset, old: &RoomId, new: &RoomId) {
    let of_room = rules.room.get(old.as_str()).cloned();
    if let Some(mut rule) = of_room.filter(|_| !rules.room.contains(new.as_str())) {
        rule.rule_id = new.to_string();
        let _ = rules.room.insert(rule);
    }
    let is_old = |condition: &PushCondition| match condition {
        PushCondition::EventMatch(c) => c.key == "room_id" && c.pattern == old.as_str(),
        _ => false,
    };
    let found: Vec<ConditionalPushRule> =
        rules.override_.iter().filter(|r| !r.default && r.conditions.iter().any(is_old)).cloned().collect();
    let mut list: Vec<ConditionalPushRule> = std::mem::take(&mut rules.override_).into_iter().collect();
    for mut rule in found {
        let at = list.iter().position(|r| r.rule_id == rule.rule_id).map_or(list.len(), |at| at + 1);
        // A rule is found by its id, and that of a muted room is usually the room's.
        rule.rule_id = match rule.rule_id.contains(old.as_str()) {
            true => rule.rule_id.replace(old.as_str(), new.as_str()),
            false => format!("{}_{new}", rule.rule_id),
        };
        for condition in rule.conditions.iter_mut().filter(|c| is_old(c)) {
            *condition = PushCondition::EventMatch(EventMatchConditionData::new("room_id".to_owned(), new.to_string()));
        }
        if !list.iter().any(|r| r.rule_id == rule.rule_id) {
            list.insert(at, rule);
        }
    }
    rules.override_ = list.into_iter().collect();
}

fn not_found() -> Error {
    Error::not_found("The push rule was not found")
}

/// Any rule, as far as placing it goes.
trait Rule {
    fn id(&self) -> &str;
    fn enabled(&mut self) -> &mut bool;
}

macro_rules! rule {
    ($($rule:ty),*) => {$(
        impl Rule for $rule {
            fn id(&self) -> &str {
                &self.rule_id
            }

            fn enabled(&mut self) -> &mut bool {
                &mut self.enabled
            }
        }
    )*};
}
rule!(ConditionalPushRule, PatternedPushRule, SimplePushRule<String>);

/// Where a rule is to go.
struct Place<'a> {
    before: Option<&'a str>,
    after: Option<&'a str>,
}

impl Place<'_> {
    /// ruma's own insertion panics on some orders, so the set is taken apart and put together again.
    fn put<S, R>(&self, set: &mut S, mut rule: R) -> Result<()>
    where
        S: Default + IntoIterator<Item = R> + FromIterator<R>,
        R: Rule + Clone,
    {
        let mut list: Vec<R> = std::mem::take(set).into_iter().collect();
        let outcome = match self.index(&list, rule.id()) {
            Ok(at) => {
                let old = list.iter().position(|r| r.id() == rule.id());
                if let Some(mut old) = old.map(|at| list.remove(at)) {
                    *rule.enabled() = *old.enabled();
                }
                list.insert(at.min(list.len()), rule);
                Ok(())
            }
            Err(error) => Err(error),
        };
        *set = list.into_iter().collect();
        outcome
    }

    /// Where the rule stands afterwards, counted without its old self.
    fn index<R: Rule>(&self, list: &[R], id: &str) -> Result<usize> {
        let others = || list.iter().map(Rule::id).filter(|other| *other != id);
        let find = |wanted: &str| {
            let found = others().position(|other| other == wanted);
            found.ok_or_else(|| Error::unknown(format!("before/after rule not found: {wanted}")))
        };
        match (self.before, self.after) {
            (Some(before), after) => {
                after.map(find).transpose()?;
                find(before)
            }
            (None, Some(after)) => Ok(find(after)? + 1),
            (None, None) => match list.iter().position(|rule| rule.id() == id) {
                Some(at) => Ok(at),
                None if list.len() >= MAX_RULES => Err(Error::unknown("There are too many push rules of this kind")),
                // The master rule stands above all, the user's own included.
                None => Ok(list.iter().take_while(|rule| rule.id() == ".m.rule.master").count()),
            },
        }
    }
}
