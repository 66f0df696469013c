//! A user's push rules as the user sees and changes them (spec: "Push Rules: API"). What may be changed how is
//! [`hearth_rules::push::edit`]'s; limits are ours.

use hearth_base::{Doing, Error, Requester, Result};
use hearth_rules::push::{NewRule, Ruleset, edit};
use ruma::{
    RoomId,
    push::{Action, RuleKind},
};
use serde_json::Value;

use super::Push;
use crate::account_data::{PUSH_RULES, push_rules};

impl Push {
    /// All rules, kind by kind.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rules(&self, who: &Requester) -> Result<Value> {
        let stored = self.store.account_data(who.user_nid, None, PUSH_RULES).await?;
        Ok(push_rules::ruleset(&push_rules::read(stored.as_deref(), &who.user_id)))
    }

    /// The rules of a kind.
    ///
    /// # Errors
    /// 400 for a kind that is none.
    pub async fn rules_of_kind(&self, who: &Requester, kind: &str) -> Result<Vec<Value>> {
        let kind = kind_of(kind)?;
        let mut rules = self.rules(who).await?;
        Ok(rules.get_mut(kind.as_str()).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default())
    }

    /// One rule.
    ///
    /// # Errors
    /// 404 if there is none, 400 for a kind that is none.
    pub async fn rule(&self, who: &Requester, kind: &str, rule_id: &str) -> Result<Value> {
        let none = || Error::not_found("The push rule was not found");
        // Of a kind that there is not, there is no rule either.
        kind_of(kind).map_err(|_| none())?;
        let mut rules = self.rules_of_kind(who, kind).await?.into_iter();
        rules.find(|rule| rule.get("rule_id").and_then(Value::as_str) == Some(rule_id)).ok_or_else(none)
    }

    /// Adds or changes a rule of the user's own.
    ///
    /// # Errors
    /// 400 for ids that are the server's, actions and places that are not there, and beyond the limits.
    pub async fn put_rule(
        &self,
        who: &Requester,
        rule: NewRule,
        before: Option<String>,
        after: Option<String>,
    ) -> Result<()> {
        if rule.rule_id().len() > self.settings.max_rule_id {
            return Err(Error::invalid_param("The rule id is too long"));
        }
        if size(&rule)? > self.settings.max_rule {
            return Err(Error::too_large("The push rule is too large"));
        }
        check_actions(rule.actions())?;
        let most = self.settings.max_rules;
        self.change(who, move |rules| {
            edit::put(rules, rule, before.as_deref(), after.as_deref())?;
            if rules.count_own() > most {
                return Err(Error::unknown("There are too many push rules"));
            }
            Ok(())
        })
        .await
    }

    /// Removes a rule of the user's own.
    ///
    /// # Errors
    /// 404 if there is none, 400 if it is the server's.
    pub async fn delete_rule(&self, who: &Requester, kind: &str, rule_id: String) -> Result<()> {
        let kind = kind_of(kind)?;
        self.change(who, move |rules| edit::delete(rules, &kind, &rule_id)).await
    }

    /// Switches a rule on or off.
    ///
    /// # Errors
    /// 404 if there is none.
    pub async fn set_rule_enabled(&self, who: &Requester, kind: &str, rule_id: String, enabled: bool) -> Result<()> {
        let kind = kind_of(kind)?;
        self.change(who, move |rules| edit::set_enabled(rules, &kind, &rule_id, enabled)).await
    }

    /// Changes what a rule does.
    ///
    /// # Errors
    /// 404 if there is none, 400 for what is no action, 413 beyond the limits.
    pub async fn set_rule_actions(
        &self,
        who: &Requester,
        kind: &str,
        rule_id: String,
        actions: Vec<Action>,
    ) -> Result<()> {
        let kind = kind_of(kind)?;
        if serde_json::to_string(&actions).doing("writing push actions")?.len() > self.settings.max_rule {
            return Err(Error::too_large("The push rule is too large"));
        }
        check_actions(&actions)?;
        self.change(who, move |rules| edit::set_actions(rules, &kind, &rule_id, actions)).await
    }

    /// Gives the room that replaces another the rules that the user made for the old one.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn follow(&self, who: &Requester, old: &RoomId, new: &RoomId) -> Result<()> {
        let stored = self.store.account_data(who.user_nid, None, PUSH_RULES).await?;
        if !stored.is_some_and(|rules| rules.contains(old.as_str())) {
            return Ok(());
        }
        let (old, new, most) = (old.to_owned(), new.to_owned(), self.settings.max_rules);
        self.change(who, move |rules| {
            if rules.count_own() < most {
                edit::follow(rules, &old, &new);
            }
            Ok(())
        })
        .await
    }

    async fn change(
        &self,
        who: &Requester,
        change: impl FnOnce(&mut Ruleset) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let user = who.user_id.clone();
        let change = move |stored: Option<String>| {
            let mut rules = push_rules::read(stored.as_deref(), &user);
            change(&mut rules)?;
            Ok(Some(push_rules::content(&rules)))
        };
        // One piece a user, so it needs no bound of its own.
        self.store.change_account_data(who.user_nid, None, PUSH_RULES, u64::MAX, change).await
    }
}

/// The kind a path names.
fn kind_of(kind: &str) -> Result<RuleKind> {
    match RuleKind::from(kind) {
        kind @ (RuleKind::Override | RuleKind::Underride | RuleKind::Content | RuleKind::Room | RuleKind::Sender) => {
            Ok(kind)
        }
        _ => Err(Error::invalid_param("There is no such kind of push rule")),
    }
}

/// Refuses what is no action: a client that misspelt one would wonder for ever. Those of old do nothing, and those of
/// proposals have a name space.
fn check_actions(actions: &[Action]) -> Result<()> {
    for action in actions {
        let is_known = match action {
            Action::Notify | Action::SetTweak(_) => true,
            other => match serde_json::to_value(other).doing("reading a push action")? {
                Value::String(name) => matches!(name.as_str(), "dont_notify" | "coalesce") || name.contains('.'),
                _ => false,
            },
        };
        if !is_known {
            return Err(Error::invalid_param("There is no such action of a push rule"));
        }
    }
    Ok(())
}

/// Bytes of what a rule says.
fn size(rule: &NewRule) -> Result<usize> {
    let text = match rule {
        NewRule::Override(r) | NewRule::Underride(r) => serde_json::to_string(&(&r.conditions, &r.actions)),
        NewRule::Content(r) => serde_json::to_string(&(&r.pattern, &r.actions)),
        NewRule::Room(r) | NewRule::Sender(r) => serde_json::to_string(&r.actions),
    };
    Ok(text.doing("writing a push rule")?.len())
}
