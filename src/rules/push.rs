//! Which push rule an event fires for a user, and what that means (client-server API, "Push Rules"). The rules are
//! ruma's; matching is ours, because ruma's builds a regular expression for every keyword of every user of every event,
//! and is asynchronous.
//!
//! [`PushEvent`] is made once for an event and asked for many users. Most users have the default rules, and for them
//! [`defaults`] gives one answer for the whole room. Changing rules is [`edit`]'s.

use std::sync::OnceLock;

use indexmap::IndexSet;
use ruma::{
    RoomId, UserId,
    push::{Action, ConditionalPushRule, PushCondition, ScalarJsonValue, SimplePushRule, Tweak},
};
use serde_json::{Map, Value};

use crate::{auth::PowerLevels, event::Pdu, property_path};

pub mod defaults;
pub mod edit;
pub mod glob;
mod mentions;
mod ruleset;

pub use defaults::{DefaultOutcome, Effect, default_outcome};
pub use ruleset::{NewRule, Ruleset};

/// The most rules a user may have of one kind.
pub const MAX_RULES: usize = 10_000;

/// The server-default rules of a user (client-server API, "Predefined Rules"; those that look for names in the text are
/// gone since v1.17, see [`mentions`]).
#[must_use]
pub fn server_default(user: &UserId) -> Ruleset {
    ruma::push::Ruleset::server_default(user).into()
}

/// Whether a user's rules are the defaults, so that [`default_outcome`] answers for them.
#[must_use]
pub fn is_default(rules: &Ruleset, user: &UserId) -> bool {
    match (serde_json::to_value(rules), serde_json::to_value(server_default(user))) {
        (Ok(rules), Ok(default)) => rules == default,
        _ => false,
    }
}

/// Stored rules brought up to date: default rules as they are today, switched and with actions as the user set them.
#[must_use]
pub fn with_defaults(stored: Ruleset, user: &UserId) -> Ruleset {
    stored.updated(ruma::push::Ruleset::server_default(user))
}

/// An event ready to be matched. Its content is read once, when first asked for.
#[derive(Debug)]
pub struct PushEvent<'a> {
    pdu: &'a Pdu,
    content: OnceLock<Value>,
    body: OnceLock<Option<String>>,
}

/// The room around an event, at the event.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// How many are joined.
    pub member_count: u64,
    /// Who may notify everyone; without, nobody.
    pub levels: Option<&'a PowerLevels>,
}

/// The rule that fired.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'r> {
    /// Whether the user is notified, and the event counted.
    pub notify: bool,
    /// Whether it is also counted as a highlight. Never without `notify`.
    pub highlight: bool,
    /// All the rule asks for.
    pub actions: &'r [Action],
    /// Its id.
    pub rule_id: &'r str,
}

impl Outcome<'_> {
    /// The `tweaks` to send to the push gateway. `highlight` is among them only if set.
    #[must_use]
    pub fn tweaks(&self) -> Map<String, Value> {
        let tweaks = self.actions.iter().filter_map(|action| match action {
            Action::SetTweak(Tweak::Highlight(_)) => {
                self.highlight.then(|| ("highlight".to_owned(), Value::Bool(true)))
            }
            Action::SetTweak(tweak) => {
                let value = tweak.value().and_then(|value| serde_json::from_str(value.get()).ok());
                Some((tweak.set_tweak().to_owned(), value.unwrap_or(Value::Null)))
            }
            _ => None,
        });
        tweaks.collect()
    }
}

/// The first rule that matches, or `None` if nothing does: then the user is not notified, as for their own events.
#[must_use]
pub fn evaluate<'r>(
    rules: &'r Ruleset,
    event: &PushEvent<'_>,
    room: &Room<'_>,
    user: &UserId,
    display_name: Option<&str>,
) -> Option<Outcome<'r>> {
    if event.pdu.sender() == user {
        return None;
    }
    let fires = |rule: &&ConditionalPushRule| applies(rule, event, room, display_name);
    let content = || {
        let mut rules = rules.content.iter();
        let rule = rules.find(|rule| rule.enabled && !legacy(&rule.rule_id, event) && event.says(&rule.pattern));
        rule.map(|rule| (&rule.rule_id, &rule.actions))
    };
    // By id, since users mute rooms and people by the hundred.
    let by_id = |rules: &'r IndexSet<SimplePushRule<String>>, id: &str| {
        rules.get(id).filter(|rule| rule.enabled).map(|rule| (&rule.rule_id, &rule.actions))
    };
    let conditional = |rule: &'r ConditionalPushRule| (&rule.rule_id, &rule.actions);
    let (rule_id, actions) = (rules.override_.iter().find(fires).map(conditional))
        .or_else(content)
        .or_else(|| by_id(&rules.room, event.pdu.room_id().as_str()))
        .or_else(|| by_id(&rules.sender, event.pdu.sender().as_str()))
        .or_else(|| rules.underride.iter().find(fires).map(conditional))?;
    let notify = actions.iter().any(Action::should_notify);
    Some(Outcome { notify, highlight: notify && actions.iter().any(Action::is_highlight), actions, rule_id })
}

fn applies(rule: &ConditionalPushRule, event: &PushEvent<'_>, room: &Room<'_>, display_name: Option<&str>) -> bool {
    rule.enabled
        && !legacy(&rule.rule_id, event)
        && rule.conditions.iter().all(|condition| holds(condition, event, room, display_name))
}

/// The mention rules of old, which a user may still have stored, are off for events that say whom they mention.
fn legacy(rule_id: &str, event: &PushEvent<'_>) -> bool {
    matches!(rule_id, ".m.rule.contains_display_name" | ".m.rule.roomnotif" | ".m.rule.contains_user_name")
        && event.content().get("m.mentions").is_some()
}

/// Whether a condition holds; those we do not know never do.
fn holds(condition: &PushCondition, event: &PushEvent<'_>, room: &Room<'_>, display_name: Option<&str>) -> bool {
    match condition {
        PushCondition::EventMatch(c) if c.key == "content.body" => event.says(&c.pattern),
        PushCondition::EventMatch(c) => event.text(&c.key).is_some_and(|value| glob::matches(&value, &c.pattern)),
        PushCondition::RoomMemberCount(c) => {
            std::ops::RangeBounds::contains(&c.is, &ruma::UInt::new_saturating(room.member_count))
        }
        PushCondition::SenderNotificationPermission(c) => {
            room.levels.is_some_and(|levels| levels.can(event.pdu.sender(), levels.to_notify(c.key.as_str())))
        }
        PushCondition::EventPropertyIs(c) => event.scalar(&c.key).is_some_and(|value| value == c.value),
        PushCondition::EventPropertyContains(c) if c.key == mentions::PATH => {
            matches!(&c.value, ScalarJsonValue::String(user) if event.mentioned().iter().any(|m| m == user))
        }
        PushCondition::EventPropertyContains(c) => {
            let list = event.content_at(&c.key).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|value| is_scalar(value, &c.value)))
        }
        #[expect(deprecated, reason = "rules that users made when it was not")]
        PushCondition::ContainsDisplayName => {
            display_name.zip(event.body()).is_some_and(|(name, body)| glob::literal_word(body, &name.to_lowercase()))
        }
        _ => false,
    }
}

fn is_scalar(value: &Value, wanted: &ScalarJsonValue) -> bool {
    match wanted {
        ScalarJsonValue::Null => value.is_null(),
        ScalarJsonValue::Bool(b) => value.as_bool() == Some(*b),
        ScalarJsonValue::Integer(n) => value.as_i64() == Some(i64::from(*n)),
        ScalarJsonValue::String(s) => value.as_str() == Some(s),
    }
}

impl<'a> PushEvent<'a> {
    /// Takes an event to be matched.
    #[must_use]
    pub fn new(pdu: &'a Pdu) -> Self {
        Self { pdu, content: OnceLock::new(), body: OnceLock::new() }
    }

    fn content(&self) -> &Value {
        self.content.get_or_init(|| self.pdu.content_as().unwrap_or_default())
    }

    /// The value at a path below `content`.
    fn content_at(&self, path: &str) -> Option<&Value> {
        let mut names = property_path::names(path);
        if names.next()? != "content" {
            return None;
        }
        names.try_fold(self.content(), |value, name| value.as_object()?.get(&*name))
    }

    /// The string at a path.
    fn text(&self, path: &str) -> Option<std::borrow::Cow<'_, str>> {
        Some(match path {
            "type" => self.pdu.event_type().to_string().into(),
            "room_id" => self.pdu.room_id().as_str().into(),
            "sender" => self.pdu.sender().as_str().into(),
            "state_key" => self.pdu.state_key()?.into(),
            "event_id" => self.pdu.event_id().as_str().into(),
            _ => self.content_at(path)?.as_str()?.into(),
        })
    }

    /// The value at a path, if it is no list or object.
    fn scalar(&self, path: &str) -> Option<ScalarJsonValue> {
        if path == "origin_server_ts" {
            return Some(
                ruma::Int::new_saturating(i64::try_from(self.pdu.origin_server_ts()).unwrap_or(i64::MAX)).into(),
            );
        }
        if let Some(text) = self.text(path) {
            return Some(ScalarJsonValue::String(text.into_owned()));
        }
        match self.content_at(path)? {
            Value::Null => Some(ScalarJsonValue::Null),
            Value::Bool(b) => Some(ScalarJsonValue::Bool(*b)),
            Value::Number(n) => Some(ScalarJsonValue::Integer(ruma::Int::try_from(n.as_i64()?).ok()?)),
            _ => None,
        }
    }

    /// `content.body` in lower case.
    fn body(&self) -> Option<&str> {
        self.body.get_or_init(|| Some(self.content().get("body")?.as_str()?.to_lowercase())).as_deref()
    }

    /// Whether a keyword or pattern stands in `content.body`, at word boundaries.
    fn says(&self, pattern: &str) -> bool {
        self.body().is_some_and(|body| glob::matches_word(body, pattern))
    }

    /// Where it happened.
    #[must_use]
    pub fn room_id(&self) -> &RoomId {
        self.pdu.room_id()
    }

    /// Whether it makes a room unread in the older sense of `org.matrix.msc2654.unread_count`: whatever brings
    /// something to read, notified or not.
    #[must_use]
    pub fn counts_as_unread(&self) -> bool {
        let state = self.pdu.is_state();
        let is_text = |path| self.content_at(path).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        match self.pdu.event_type().to_string().as_str() {
            _ if self.content_at(r"content.m\.relates_to.rel_type").is_some_and(|rel| rel == "m.replace") => false,
            "m.room.message" if !state && self.content_at("content.msgtype").is_some_and(|t| t == "m.notice") => false,
            "m.room.encrypted" => !state,
            "m.room.topic" | "m.room.name" | "m.room.avatar" | "m.room.tombstone" if state => true,
            _ => is_text("content.body"),
        }
    }
}

#[cfg(test)]
mod tests;
