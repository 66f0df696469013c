//! Who holds what power in a room, and how much each action asks for (client-server API, `m.room.power_levels`). Read
//! once from the create and the power levels event and then cheap to ask, so worth keeping beside the room's state.

use std::collections::{BTreeMap, HashSet};

use ruma::{
    OwnedUserId, UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use super::{NotAllowed, judged::Judged};
use crate::{event::Pdu, versions::RoomVersion};

/// The power in a room. Creators stand above all numbers since version 12; before, without a power levels event,
/// the creator has 100.
#[derive(Debug, Clone)]
pub struct PowerLevels {
    creators: HashSet<OwnedUserId>,
    infinite_creators: bool,
    /// Whether the room has a power levels event at all.
    set: bool,
    users: BTreeMap<OwnedUserId, i64>,
    events: BTreeMap<TimelineEventType, i64>,
    notifications: BTreeMap<String, i64>,
    users_default: i64,
    events_default: i64,
    state_default: i64,
    /// Needed to ban.
    pub ban: i64,
    /// Needed to kick, and to unban.
    pub kick: i64,
    /// Needed to invite.
    pub invite: i64,
    /// Needed to redact what others sent.
    pub redact: i64,
}

/// The power of a creator in a room without power levels, before version 12.
const CREATOR_WITHOUT_LEVELS: i64 = 100;

impl PowerLevels {
    /// Reads the levels of a room. Fails on events that authorisation would have refused.
    pub fn of(version: &RoomVersion, create: &Pdu, levels: Option<&Pdu>) -> Result<Self, NotAllowed> {
        let rules = &version.rules.authorization;
        let creators = RoomCreateEvent::new(create).creators(rules).map_err(NotAllowed)?;
        let event = levels.map(|levels| RoomPowerLevelsEvent::new(Judged::new(version, levels)));
        let int = |field: RoomPowerLevelsIntField| match &event {
            Some(event) => event.get_as_int_or_default(field, rules).map(i64::from).map_err(NotAllowed),
            None => Ok(i64::from(field.default_value())),
        };
        let mut read = Self {
            creators,
            infinite_creators: rules.explicitly_privilege_room_creators,
            set: event.is_some(),
            users: BTreeMap::new(),
            events: BTreeMap::new(),
            notifications: BTreeMap::new(),
            users_default: int(RoomPowerLevelsIntField::UsersDefault)?,
            events_default: int(RoomPowerLevelsIntField::EventsDefault)?,
            state_default: int(RoomPowerLevelsIntField::StateDefault)?,
            ban: int(RoomPowerLevelsIntField::Ban)?,
            kick: int(RoomPowerLevelsIntField::Kick)?,
            invite: int(RoomPowerLevelsIntField::Invite)?,
            redact: int(RoomPowerLevelsIntField::Redact)?,
        };
        if let Some(event) = &event {
            if let Some(users) = event.users(rules).map_err(NotAllowed)? {
                read.users = users.iter().map(|(user, level)| (user.clone(), (*level).into())).collect();
            }
            let events = event.events(rules).map_err(NotAllowed)?.unwrap_or_default();
            read.events = events.into_iter().map(|(event_type, level)| (event_type, level.into())).collect();
            let notifications = event.notifications(rules).map_err(NotAllowed)?.unwrap_or_default();
            read.notifications = notifications.into_iter().map(|(key, level)| (key, level.into())).collect();
        }
        Ok(read)
    }

    /// Who made the room: its sender, or the content's `creator` before version 11, and the additional creators since
    /// version 12.
    #[must_use]
    pub fn creators(&self) -> &HashSet<OwnedUserId> {
        &self.creators
    }

    /// The power of a user. [`UserPowerLevel`] compares with numbers' worth of power by [`Self::can`].
    #[must_use]
    pub fn user(&self, user: &UserId) -> UserPowerLevel {
        if self.infinite_creators && self.creators.contains(user) {
            return UserPowerLevel::Infinite;
        }
        let level = match self.users.get(user) {
            Some(level) => *level,
            None if !self.set && self.creators.contains(user) => CREATOR_WITHOUT_LEVELS,
            None => self.users_default,
        };
        UserPowerLevel::Int(ruma::Int::new_saturating(level))
    }

    /// The power needed to send such an event (not membership, which has rules of its own).
    #[must_use]
    pub fn to_send(&self, event_type: &TimelineEventType, is_state: bool) -> i64 {
        let default = if is_state { self.state_default } else { self.events_default };
        self.events.get(event_type).copied().unwrap_or(default)
    }

    /// The power needed to notify everyone by `m.mentions` of that kind (`room`); 50 unless the room says otherwise.
    #[must_use]
    pub fn to_notify(&self, key: &str) -> i64 {
        self.notifications.get(key).copied().unwrap_or(50)
    }

    /// Whether a user has that much power.
    #[must_use]
    pub fn can(&self, user: &UserId, needed: i64) -> bool {
        self.user(user) >= ruma::Int::new_saturating(needed)
    }

    /// Whether a user may send such an event, as far as power goes.
    #[must_use]
    pub fn can_send(&self, user: &UserId, event_type: &TimelineEventType, is_state: bool) -> bool {
        self.can(user, self.to_send(event_type, is_state))
    }

    /// Whether `user` has more power than `other`, as kicking and banning ask.
    #[must_use]
    pub fn outranks(&self, user: &UserId, other: &UserId) -> bool {
        self.user(user) > self.user(other)
    }

    /// The levels users were given by name; creators of version 12 are not among them.
    pub fn users(&self) -> impl Iterator<Item = (&UserId, i64)> {
        self.users.iter().map(|(user, level)| (&**user, *level))
    }

    /// The power of whoever is not named.
    #[must_use]
    pub fn users_default(&self) -> i64 {
        self.users_default
    }
}
