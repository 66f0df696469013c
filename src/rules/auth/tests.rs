//! Authorisation over small rooms built by hand, in several versions: that the adapter hands ruma's rules the right
//! state, and that the checks which are ours hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ruma::{OwnedRoomId, UserId, room_id, server_name, user_id};
use serde_json::{Value, json, value::to_raw_value};

use super::*;
use crate::event::{Reference, Signer};

/// A room in the making: events are built on the current state, checked as a received event is, and put into it.
struct Room {
    version: &'static RoomVersion,
    id: Option<OwnedRoomId>,
    events: Vec<Arc<Pdu>>,
    state: Vec<Arc<Pdu>>,
    signer: Signer,
}

impl Room {
    fn new(version: &str) -> Self {
        let signer = Signer::new(server_name!("a.org").to_owned(), &[1; 32], "1").unwrap();
        let version = RoomVersion::known(version).unwrap();
        let id = (!version.room_id_is_create_hash()).then(|| room_id!("!r:a.org").to_owned());
        Self { version, id, events: vec![], state: vec![], signer }
    }

    /// A room by Alice, with power levels and a join rule.
    fn of_alice(version: &str, join_rule: &str) -> Self {
        let mut room = Self::new(version);
        let alice = user_id!("@alice:a.org");
        room.send(alice, "m.room.create", Some(""), json!({"creator": alice, "room_version": version})).unwrap();
        room.send(alice, "m.room.member", Some(alice.as_str()), json!({"membership": "join"})).unwrap();
        let users = if room.version.rules.authorization.explicitly_privilege_room_creators {
            json!({})
        } else {
            json!({alice: 100})
        };
        room.send(alice, "m.room.power_levels", Some(""), json!({"users": users, "invite": 50})).unwrap();
        room.send(alice, "m.room.join_rules", Some(""), json!({"join_rule": join_rule})).unwrap();
        room
    }

    fn state(&self, event_type: &str, state_key: &str) -> Option<Arc<Pdu>> {
        self.state.iter().find(|e| e.is(&event_type.into(), state_key)).cloned()
    }

    fn fetch(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.events.iter().find(|e| e.event_id() == id).cloned()
    }

    fn build(
        &self,
        sender: &UserId,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Result<Pdu, NotAllowed> {
        let draft = Draft::new(
            self.id.clone(),
            sender.to_owned(),
            event_type.into(),
            state_key.map(Into::into),
            &to_raw_value(&content).unwrap(),
            1,
        )
        .unwrap();
        let auth: Vec<Reference> = draft
            .auth_keys(self.version)?
            .iter()
            .filter_map(|(t, k)| self.state(&t.to_string(), k))
            .map(|e| e.reference(self.version))
            .collect();
        let prev: Vec<_> = self.events.last().map(|e| e.reference(self.version)).into_iter().collect();
        Ok(draft.build(self.version, &prev, 1, &auth, &self.signer).unwrap())
    }

    fn check(&self, pdu: &Pdu) -> Result<(), NotAllowed> {
        check_auth_events(self.version, pdu, |id| self.fetch(id))?;
        check(self.version, pdu, |id| self.fetch(id), |t, k| self.state(&t.to_string(), k))
    }

    fn send(
        &mut self,
        sender: &UserId,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Result<Arc<Pdu>, NotAllowed> {
        let pdu = Arc::new(self.build(sender, event_type, state_key, content)?);
        self.check(&pdu)?;
        self.id.get_or_insert_with(|| pdu.room_id().to_owned());
        self.events.push(pdu.clone());
        if let Some(key) = pdu.state_key() {
            self.state.retain(|e| !e.is(pdu.event_type(), key));
            self.state.push(pdu.clone());
        }
        Ok(pdu)
    }

    fn levels(&self) -> PowerLevels {
        let create = self.state("m.room.create", "").unwrap();
        PowerLevels::of(self.version, &create, self.state("m.room.power_levels", "").as_deref()).unwrap()
    }
}

const VERSIONS: [&str; 10] = ["1", "2", "3", "5", "6", "7", "8", "10", "11", "12"];

#[test]
fn a_room_lives() {
    let (alice, bob) = (user_id!("@alice:a.org"), user_id!("@bob:b.org"));
    for version in VERSIONS {
        let mut room = Room::of_alice(version, "invite");
        room.send(alice, "m.room.message", None, json!({"body": "hi"})).unwrap();
        room.send(bob, "m.room.member", Some(bob.as_str()), json!({"membership": "join"})).unwrap_err();
        room.send(alice, "m.room.member", Some(bob.as_str()), json!({"membership": "invite"})).unwrap();
        room.send(bob, "m.room.message", None, json!({"body": "too soon"})).unwrap_err();
        room.send(bob, "m.room.member", Some(bob.as_str()), json!({"membership": "join"})).unwrap();
        room.send(bob, "m.room.message", None, json!({"body": "hello"})).unwrap();
        room.send(bob, "m.room.topic", Some(""), json!({"topic": "mine"})).unwrap_err();
        room.send(bob, "m.room.member", Some(alice.as_str()), json!({"membership": "leave"})).unwrap_err();
        room.send(alice, "m.room.member", Some(bob.as_str()), json!({"membership": "ban"})).unwrap();
        room.send(bob, "m.room.member", Some(bob.as_str()), json!({"membership": "join"})).unwrap_err();
    }
}

#[test]
fn auth_keys_follow_the_selection_rules() {
    let bob = user_id!("@bob:b.org");
    let member = |version: &str, content: &str| {
        let version = RoomVersion::known(version).unwrap();
        let keys = auth_keys(version, &TimelineEventType::RoomMember, bob, Some("@carl:c.org"), content).unwrap();
        let mut keys: Vec<_> = keys.into_iter().map(|(t, k)| format!("{t} {k}")).collect();
        keys.sort();
        keys
    };
    assert_eq!(
        member("10", r#"{"membership":"join","join_authorised_via_users_server":"@d:d.org"}"#),
        [
            "m.room.create ",
            "m.room.join_rules ",
            "m.room.member @bob:b.org",
            "m.room.member @carl:c.org",
            "m.room.member @d:d.org",
            "m.room.power_levels "
        ]
    );
    assert_eq!(
        member("12", r#"{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}"#),
        [
            "m.room.join_rules ",
            "m.room.member @bob:b.org",
            "m.room.member @carl:c.org",
            "m.room.power_levels ",
            "m.room.third_party_invite t"
        ]
    );
    auth_keys(room_version("12"), &TimelineEventType::RoomMember, bob, None, "{}").unwrap_err();
    auth_keys(room_version("12"), &TimelineEventType::RoomMember, bob, Some("x"), "rubbish").unwrap_err();
    assert!(auth_keys(room_version("12"), &TimelineEventType::RoomCreate, bob, Some(""), "{}").unwrap().is_empty());
}

fn room_version(version: &str) -> &'static RoomVersion {
    RoomVersion::known(version).unwrap()
}

#[test]
fn a_create_event_speaks_of_its_own_version() {
    for version in VERSIONS {
        let room = Room::new(version);
        let alice = user_id!("@alice:a.org");
        for (named, fine) in [(json!(version), true), (json!("13"), false), (json!(1), false), (Value::Null, false)] {
            let content = json!({"creator": alice, "room_version": named});
            let pdu = room.build(alice, "m.room.create", Some(""), content).unwrap();
            assert_eq!(room.check(&pdu).is_ok(), fine, "{version} {named}");
        }
    }
}

#[test]
fn rejected_and_foreign_auth_events_do_not_count() {
    let alice = user_id!("@alice:a.org");
    for version in ["6", "12"] {
        let room = Room::of_alice(version, "public");
        let pdu = room.build(alice, "m.room.message", None, json!({})).unwrap();
        room.check(&pdu).unwrap();
        let rejecting = |which: &TimelineEventType, id: &EventId| {
            let event = room.fetch(id)?;
            let rejected = event.event_type() == which;
            Some(Arc::new(Pdu::clone(&event).with_rejected(rejected)))
        };
        for which in [TimelineEventType::RoomPowerLevels, TimelineEventType::RoomCreate] {
            check_independent(room.version, &pdu, |id| rejecting(&which, id)).unwrap_err();
        }
        check_independent(room.version, &pdu, |_| None).unwrap_err();
        let other = Room::of_alice(version, "invite");
        check_independent(room.version, &pdu, |id| room.fetch(id).and(other.events.get(2).cloned())).unwrap_err();
    }
}

#[test]
fn levels_without_a_power_levels_event() {
    for (version, creator_is_infinite) in [("6", false), ("11", false), ("12", true)] {
        let mut room = Room::new(version);
        let (alice, bob) = (user_id!("@alice:a.org"), user_id!("@bob:b.org"));
        room.send(alice, "m.room.create", Some(""), json!({"creator": alice, "room_version": version})).unwrap();
        let levels = room.levels();
        assert_eq!(levels.can(alice, 101), creator_is_infinite);
        assert!(levels.can(alice, 100) && levels.outranks(alice, bob));
        assert!(levels.can(bob, 0) && !levels.can(bob, 1));
        assert!(levels.can_send(bob, &TimelineEventType::RoomMessage, false));
        assert!(!levels.can_send(bob, &TimelineEventType::RoomTopic, true));
        assert_eq!(
            (levels.ban, levels.kick, levels.redact, levels.invite, levels.to_notify("room")),
            (50, 50, 50, 0, 50)
        );
    }
}

#[test]
fn levels_from_the_event() {
    let alice = user_id!("@alice:a.org");
    let mut room = Room::of_alice("9", "public");
    let content = json!({
        "users": {alice: "100", "@bob:b.org": 7}, "users_default": 2, "events": {"m.room.topic": 3}, "state_default": "40",
        "events_default": 1, "ban": 60, "kick": 61, "redact": 62, "invite": 63, "notifications": {"room": 20},
    });
    room.send(alice, "m.room.power_levels", Some(""), content).unwrap();
    let levels = room.levels();
    let bob = user_id!("@bob:b.org");
    assert!(levels.can(alice, 100) && levels.can(bob, 7) && !levels.can(bob, 8));
    assert!(levels.can(user_id!("@new:c.org"), 2) && !levels.can(user_id!("@new:c.org"), 3));
    assert_eq!(levels.to_send(&TimelineEventType::RoomTopic, true), 3);
    assert_eq!(levels.to_send(&TimelineEventType::RoomName, true), 40);
    assert_eq!(levels.to_send(&TimelineEventType::RoomMessage, false), 1);
    assert_eq!((levels.ban, levels.kick, levels.redact, levels.invite, levels.to_notify("room")), (60, 61, 62, 63, 20));
}

#[test]
fn additional_creators_stand_above_levels_since_version_12() {
    let (alice, bob) = (user_id!("@alice:a.org"), user_id!("@bob:b.org"));
    let mut room = Room::new("12");
    let content = json!({"room_version": "12", "additional_creators": [bob]});
    room.send(alice, "m.room.create", Some(""), content).unwrap();
    room.send(alice, "m.room.member", Some(alice.as_str()), json!({"membership": "join"})).unwrap();
    let levels = room.levels();
    assert_eq!(levels.user(bob), ruma::events::room::power_levels::UserPowerLevel::Infinite);
    assert!(!levels.outranks(alice, bob));
    room.send(alice, "m.room.power_levels", Some(""), json!({"users": {bob: 100}})).unwrap_err();
    room.send(alice, "m.room.power_levels", Some(""), json!({"users": {}})).unwrap();

    let content = json!({"room_version": "12", "additional_creators": "bob"});
    let bad = Room::new("12");
    let pdu = bad.build(alice, "m.room.create", Some(""), content).unwrap();
    bad.check(&pdu).unwrap_err();
}
