//! What the default rules alone say of an event, for everyone in the room at once: the room's counters and the common
//! case of pushing need no look at any user's rules.

use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use super::{PushEvent, Room};

/// What an event does to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// It notifies, and counts.
    pub notify: bool,
    /// It counts as a highlight.
    pub highlight: bool,
    /// The sound it makes.
    pub sound: Option<&'static str>,
}

/// What the default rules say of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultOutcome {
    /// To whoever is not in `named`.
    pub others: Effect,
    /// The users whom it mentions or invites, in order.
    pub named: Vec<OwnedUserId>,
    /// To those.
    pub to_named: Effect,
    /// The sender, to whom it does nothing.
    pub sender: OwnedUserId,
}

impl DefaultOutcome {
    /// To this user.
    #[must_use]
    pub fn to(&self, user: &UserId) -> Effect {
        if self.sender == user {
            Effect::default()
        } else if self.names(user) {
            self.to_named
        } else {
            self.others
        }
    }

    /// Whether it mentions or invites this user.
    #[must_use]
    pub fn names(&self, user: &UserId) -> bool {
        self.named.binary_search_by(|named| named.as_str().cmp(user.as_str())).is_ok()
    }
}

const NOTHING: Effect = Effect { notify: false, highlight: false, sound: None };
const NOTIFY: Effect = Effect { notify: true, ..NOTHING };
const HIGHLIGHT: Effect = Effect { highlight: true, ..NOTIFY };

const fn sounding(sound: &'static str) -> Effect {
    Effect { sound: Some(sound), ..NOTIFY }
}

/// Runs the default rules, in their order, for nobody in particular.
#[must_use]
pub fn default_outcome(event: &PushEvent<'_>, room: &Room<'_>) -> DefaultOutcome {
    let to_nobody =
        |others| DefaultOutcome { others, named: vec![], to_named: NOTHING, sender: event.pdu.sender().to_owned() };
    let text = |path| event.content_at(path).and_then(Value::as_str).unwrap_or_default();
    let event_type = event.pdu.event_type().to_string();
    let is = |wanted: &str| event_type.eq_ignore_ascii_case(wanted);

    if text("content.msgtype").eq_ignore_ascii_case("m.notice") {
        return to_nobody(NOTHING);
    }
    if is("m.room.member") {
        let invited = event.pdu.state_key().filter(|_| text("content.membership").eq_ignore_ascii_case("invite"));
        let invited = invited.and_then(|user| UserId::parse(user).ok());
        return DefaultOutcome {
            named: invited.into_iter().collect(),
            to_named: sounding("default"),
            ..to_nobody(NOTHING)
        };
    }

    let mentions = event.content().get("m.mentions");
    let named = event.mentioned();
    let mut named: Vec<OwnedUserId> = named.iter().filter_map(|user| UserId::parse(*user).ok()).collect();
    named.sort_unstable();
    named.dedup();

    let everyone = mentions.and_then(|mentions| mentions.get("room")).is_some_and(|room| *room == Value::Bool(true))
        && room.levels.is_some_and(|levels| levels.can(event.pdu.sender(), levels.to_notify("room")));
    let singleton = event.pdu.state_key() == Some("");
    let others = if everyone || (is("m.room.tombstone") && singleton) {
        HIGHLIGHT
    } else if is("m.reaction")
        || (is("m.room.server_acl") && singleton)
        || text(r"content.m\.relates_to.rel_type") == "m.replace"
    {
        NOTHING
    } else if is("m.call.invite") {
        sounding("ring")
    } else if is("m.room.encrypted") || is("m.room.message") {
        if room.member_count == 2 { sounding("default") } else { NOTIFY }
    } else {
        NOTHING
    };
    DefaultOutcome { named, to_named: Effect { sound: Some("default"), ..HIGHLIGHT }, ..to_nobody(others) }
}
