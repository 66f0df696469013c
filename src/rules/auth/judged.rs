//! Events as ruma's rules are to see them, where those ask for more than the specification does:
//!
//! - Before version 10 a power level may be a string, before version 6 also a fraction, which is cut off, or greater than
//!   canonical JSON allows (rooms/v1, "`m.room.power_levels` events accept values as floats"), and nobody looks at levels
//!   for notifications.
//! - A room without join rules is one for those who are invited.

use std::{ops::Deref, sync::Arc};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId, events::TimelineEventType, state_res::Event,
};
use serde_json::value::RawValue;

use crate::{
    event::Pdu,
    json::{MAX_INT, Object, Value, parse_object, write_object},
    versions::RoomVersion,
};

/// The id under which the rules find [`invite_only`]. No event is called so: it is neither a hash nor has it a server.
const INVITE_ONLY: &str = "$invite-only";

/// An event as the rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Judged<P> {
    pdu: P,
    /// In place of its own.
    content: Option<Arc<RawValue>>,
    /// In place of its own.
    auth_events: Option<Arc<[OwnedEventId]>>,
}

impl<P: Deref<Target = Pdu>> Judged<P> {
    /// An event of that version.
    pub(crate) fn new(version: &RoomVersion, pdu: P) -> Self {
        let content = match pdu.event_type() {
            TimelineEventType::RoomPowerLevels => plain_levels(version, pdu.content_json()),
            TimelineEventType::RoomJoinRules => with_join_rule(version, pdu.content_json()),
            _ => None,
        };
        Self { pdu, content: content.map(Into::into), auth_events: None }
    }

    /// The same, for rules that find state by auth events: a membership is also allowed by [`invite_only`], which
    /// join rules among its own auth events override, as they come later.
    pub(crate) fn with_default_rules(mut self) -> Self {
        if *self.pdu.event_type() == TimelineEventType::RoomMember
            && let Ok(default) = EventId::parse(INVITE_ONLY)
        {
            self.auth_events = Some(std::iter::once(default).chain(self.pdu.auth_events().iter().cloned()).collect());
        }
        self
    }
}

/// The join rules of a room that has none.
pub(crate) fn invite_only(version: &RoomVersion, room_id: &RoomId) -> Option<Arc<Pdu>> {
    let json = format!(
        r#"{{"auth_events":[],"content":{{"join_rule":"invite"}},"depth":0,"origin_server_ts":0,"prev_events":[],"room_id":{},"sender":"@_:localhost","state_key":"","type":"m.room.join_rules"}}"#,
        serde_json::to_string(room_id.as_str()).ok()?
    );
    Pdu::parse_stored(EventId::parse(INVITE_ONLY).ok()?, json, version).ok().map(Arc::new)
}

/// Whether an id is that of [`invite_only`].
pub(crate) fn is_invite_only(event_id: &EventId) -> bool {
    event_id == INVITE_ONLY
}

/// Power levels with integers only, as far as they stand for some; `None` if they may stay as they are.
fn plain_levels(version: &RoomVersion, content: &str) -> Option<Box<RawValue>> {
    const LEVELS: [&str; 7] = ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"];
    if version.rules.authorization.integer_power_levels {
        return None;
    }
    let mut content = parse_object(content, version.numbers()).ok()?;
    let mut changed = false;
    if !version.rules.authorization.limit_notifications_power_levels {
        changed |= content.remove("notifications").is_some();
    }
    for (key, value) in &mut content {
        match value {
            Value::Object(levels) if matches!(key.as_str(), "events" | "notifications" | "users") => {
                changed |= levels.values_mut().fold(false, |changed, level| changed | make_plain(level));
            }
            level if LEVELS.contains(&key.as_str()) => changed |= make_plain(level),
            _ => {}
        }
    }
    if changed { raw(&content) } else { None }
}

/// Makes an integer of canonical JSON of a level that stands for an integer; whether it was none before.
fn make_plain(level: &mut Value) -> bool {
    const MOST: i128 = MAX_INT as i128;
    let number = match level {
        Value::Number(text) => match text.parse::<i128>() {
            Ok(number) if number.abs() <= MOST => return false,
            Ok(number) => number,
            // Greater ones saturate, and a fraction is cut off.
            Err(_) => text.parse::<f64>().map_or(0, |number| number as i128),
        },
        Value::String(text) => match text.trim().parse::<i128>() {
            Ok(number) => number,
            Err(_) => return false,
        },
        _ => return false,
    };
    *level = Value::Number(number.clamp(-MOST, MOST).to_string().into());
    true
}

/// Join rules that name a rule; `None` if they do.
fn with_join_rule(version: &RoomVersion, content: &str) -> Option<Box<RawValue>> {
    if content.contains("\"join_rule\"") {
        return None;
    }
    let mut content = parse_object(content, version.numbers()).ok()?;
    content.entry("join_rule".to_owned()).or_insert_with(|| Value::from("invite"));
    raw(&content)
}

fn raw(object: &Object) -> Option<Box<RawValue>> {
    let mut text = String::new();
    write_object(&mut text, object);
    RawValue::from_string(text).ok()
}

impl<P: Deref<Target = Pdu>> Event for Judged<P> {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        Event::event_id(&*self.pdu)
    }

    fn room_id(&self) -> Option<&RoomId> {
        Event::room_id(&*self.pdu)
    }

    fn sender(&self) -> &UserId {
        self.pdu.sender()
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        Event::origin_server_ts(&*self.pdu)
    }

    fn event_type(&self) -> &TimelineEventType {
        self.pdu.event_type()
    }

    fn content(&self) -> &RawValue {
        self.content.as_deref().unwrap_or_else(|| self.pdu.content())
    }

    fn state_key(&self) -> Option<&str> {
        self.pdu.state_key()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Event::prev_events(&*self.pdu)
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        match &self.auth_events {
            Some(auth_events) => Box::new(auth_events.iter()),
            None => Event::auth_events(&*self.pdu),
        }
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        Event::redacts(&*self.pdu)
    }

    fn rejected(&self) -> bool {
        self.pdu.rejected()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn levels_are_made_integers() {
        let plain = |version: &str, content: &str| {
            plain_levels(RoomVersion::known(version).unwrap(), content).map(|raw| raw.get().to_owned())
        };
        let loose = r#"{"ban":"+50 ","events":{"a":5.9e1,"b":"x"},"kick":1e300,"notifications":{"room":[]},"other":1.5,"users":{"@a:b":-0.9}}"#;
        assert_eq!(
            plain("5", loose).unwrap(),
            r#"{"ban":50,"events":{"a":59,"b":"x"},"kick":9007199254740991,"other":1.5,"users":{"@a:b":0}}"#
        );
        assert_eq!(
            plain("9", r#"{"ban":"-7","notifications":{"room":1}}"#).unwrap(),
            r#"{"ban":-7,"notifications":{"room":1}}"#
        );
        assert_eq!(plain("9", r#"{"ban":7,"users":{"@a:b":100},"events":5}"#), None);
        assert_eq!(plain("10", r#"{"ban":"7"}"#), None);
    }
}
