//! Resolution over small rooms that fork: known outcomes, and for random rooms that the order of the states is of no
//! importance and that agreed entries stay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use ruma::{OwnedRoomId, OwnedUserId, UserId, room_id, server_name};
use serde_json::{Value, json};

use super::*;
use crate::{Draft, Signer, auth::check_against};

/// All events of a room, whatever fork they are on.
struct Room {
    version: &'static RoomVersion,
    id: Option<OwnedRoomId>,
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    signer: Signer,
    clock: u64,
}

/// One line of history.
#[derive(Clone, Default)]
struct Fork {
    state: StateMap,
    tip: Option<OwnedEventId>,
    depth: u64,
}

fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:a.org")).unwrap()
}

impl Room {
    fn new(version: &str) -> (Self, Fork) {
        let version = RoomVersion::known(version).unwrap();
        let mut room = Self {
            version,
            id: (!version.room_id_is_create_hash()).then(|| room_id!("!r:a.org").to_owned()),
            events: HashMap::new(),
            signer: Signer::new(server_name!("a.org").to_owned(), &[1; 32], "1").unwrap(),
            clock: 1,
        };
        let mut fork = Fork::default();
        let alice = user("alice");
        let create = json!({"creator": alice, "room_version": version.id.as_str()});
        assert!(room.send(&mut fork, "alice", "m.room.create", Some(""), create));
        assert!(room.send(&mut fork, "alice", "m.room.member", Some("@alice:a.org"), json!({"membership": "join"})));
        assert!(room.send(&mut fork, "alice", "m.room.power_levels", Some(""), room.levels(&[])));
        assert!(room.send(&mut fork, "alice", "m.room.join_rules", Some(""), json!({"join_rule": "public"})));
        (room, fork)
    }

    fn levels(&self, others: &[(&str, i64)]) -> Value {
        let mut users: serde_json::Map<_, _> = others.iter().map(|(u, l)| (user(u).to_string(), json!(l))).collect();
        if !self.version.rules.authorization.explicitly_privilege_room_creators {
            users.insert(user("alice").to_string(), json!(100));
        }
        json!({"users": users, "events": {"m.room.topic": 0}})
    }

    fn fetch(&self, id: &EventId) -> Option<Arc<Pdu>> {
        self.events.get(id).cloned()
    }

    /// Puts an event on a fork if the rules allow it there.
    fn send(&mut self, fork: &mut Fork, sender: &str, event_type: &str, key: Option<&str>, content: Value) -> bool {
        self.clock += 1;
        let draft =
            Draft::of(self.id.clone(), user(sender), event_type.into(), key.map(Into::into), &content, self.clock)
                .unwrap();
        let named = |id: &OwnedEventId| self.events[id].reference(self.version);
        let keys = draft.auth_keys(self.version).unwrap();
        let auth: Vec<_> = keys.iter().filter_map(|k| fork.state.get(k)).map(named).collect();
        let prev: Vec<_> = fork.tip.iter().map(named).collect();
        let pdu = Arc::new(draft.build(self.version, &prev, fork.depth + 1, &auth, &self.signer).unwrap());
        let state = |t: &StateEventType, k: &str| self.fetch(fork.state.get(&(t.clone(), k.to_owned()))?);
        if check_against(self.version, &pdu, state).is_err() {
            return false;
        }
        self.id.get_or_insert_with(|| pdu.room_id().to_owned());
        let id = pdu.event_id().to_owned();
        if let Some(key) = pdu.state_key() {
            fork.state.insert((event_type.into(), key.to_owned()), id.clone());
        }
        fork.depth += 1;
        fork.tip = Some(id.clone());
        self.events.insert(id, pdu);
        true
    }

    fn member(&mut self, fork: &mut Fork, sender: &str, target: &str, membership: &str) -> bool {
        let target = user(target);
        self.send(fork, sender, "m.room.member", Some(target.as_str()), json!({"membership": membership}))
    }

    fn resolve(&self, forks: &[&Fork]) -> StateMap {
        let states: Vec<_> = forks.iter().map(|fork| fork.state.clone()).collect();
        let chains = states.iter().map(|state| auth_chain(state.values(), |id| self.fetch(id))).collect();
        resolve(self.version, &states, chains, None, |id| self.fetch(id)).unwrap()
    }

    fn content(&self, state: &StateMap, event_type: &str, key: &str) -> Option<Value> {
        self.fetch(state.get(&(event_type.into(), key.to_owned()))?)?.content_as()
    }
}

#[test]
fn a_ban_beats_what_the_banned_do_meanwhile() {
    for version in ["3", "6", "10", "11", "12"] {
        let (mut room, mut trunk) = Room::new(version);
        assert!(room.member(&mut trunk, "bob", "bob", "join"));
        assert!(room.send(&mut trunk, "alice", "m.room.topic", Some(""), json!({"topic": "old"})));
        let (mut left, mut right) = (trunk.clone(), trunk);
        assert!(room.member(&mut left, "alice", "bob", "ban"));
        assert!(room.send(&mut right, "bob", "m.room.topic", Some(""), json!({"topic": "bob's"})));
        let state = room.resolve(&[&left, &right]);
        assert_eq!(room.content(&state, "m.room.member", "@bob:a.org").unwrap()["membership"], "ban");
        assert_eq!(room.content(&state, "m.room.topic", "").unwrap()["topic"], "old", "version {version}");
    }
}

#[test]
fn the_more_powerful_sender_goes_first() {
    for version in ["6", "12"] {
        let (mut room, mut trunk) = Room::new(version);
        assert!(room.member(&mut trunk, "bob", "bob", "join"));
        let levels = room.levels(&[("bob", 50)]);
        assert!(room.send(&mut trunk, "alice", "m.room.power_levels", Some(""), levels));
        let (mut left, mut right) = (trunk.clone(), trunk);
        // Bob's change is older, but Alice's comes first by power and takes his away.
        let levels = room.levels(&[("bob", 50), ("carol", 50)]);
        assert!(room.send(&mut right, "bob", "m.room.power_levels", Some(""), levels));
        let levels = room.levels(&[]);
        assert!(room.send(&mut left, "alice", "m.room.power_levels", Some(""), levels.clone()));
        let state = room.resolve(&[&left, &right]);
        assert_eq!(room.content(&state, "m.room.power_levels", "").unwrap(), levels);
    }
}

#[test]
fn version_1_goes_by_depth() {
    // Events of version 3, which has the form that drafts build; the algorithm is asked for directly.
    let (mut room, trunk) = Room::new("3");
    let (mut left, mut right) = (trunk.clone(), trunk);
    assert!(room.send(&mut left, "alice", "m.room.topic", Some(""), json!({"topic": "shallow"})));
    assert!(room.send(&mut right, "alice", "m.room.name", Some(""), json!({"name": "x"})));
    assert!(room.send(&mut right, "alice", "m.room.topic", Some(""), json!({"topic": "deep"})));
    assert!(room.member(&mut left, "bob", "bob", "join"));
    let state = v1::resolve(room.version, &[left.state.clone(), right.state.clone()], |id| room.fetch(id));
    assert_eq!(room.content(&state, "m.room.topic", "").unwrap()["topic"], "deep");
    assert_eq!(room.content(&state, "m.room.name", "").unwrap()["name"], "x", "in one state only: no conflict");
    assert_eq!(room.content(&state, "m.room.member", "@bob:a.org").unwrap()["membership"], "join");
}

#[test]
fn version_1_stops_at_what_is_not_allowed() {
    let (mut room, mut trunk) = Room::new("3");
    assert!(room.member(&mut trunk, "bob", "bob", "join"));
    let levels = room.levels(&[("bob", 100)]);
    assert!(room.send(&mut trunk, "alice", "m.room.power_levels", Some(""), levels));
    let (mut left, mut right) = (trunk.clone(), trunk);
    let demoted = json!({"users": {"@alice:a.org": 100, "@bob:a.org": 0}});
    assert!(room.send(&mut left, "bob", "m.room.power_levels", Some(""), demoted.clone()));
    assert!(room.send(&mut right, "bob", "m.room.name", Some(""), json!({})));
    assert!(room.send(
        &mut right,
        "bob",
        "m.room.power_levels",
        Some(""),
        json!({"users": {"@alice:a.org": 100, "@bob:a.org": 100}, "ban": 60})
    ));
    // Bob's deeper change is judged in a state where his own shallower one has already taken his power.
    let state = v1::resolve(room.version, &[left.state.clone(), right.state.clone()], |id| room.fetch(id));
    assert_eq!(room.content(&state, "m.room.power_levels", "").unwrap(), demoted);
}

#[test]
fn the_conflicted_subgraph_is_what_lies_between() {
    let (mut room, mut trunk) = Room::new("12");
    let id = |fork: &Fork| fork.tip.clone().unwrap();
    assert!(room.member(&mut trunk, "bob", "bob", "join"));
    let before = id(&trunk);
    let levels = room.levels(&[("bob", 50)]);
    assert!(room.send(&mut trunk, "alice", "m.room.power_levels", Some(""), levels));
    let first = id(&trunk);
    let levels = room.levels(&[("bob", 60)]);
    assert!(room.send(&mut trunk, "alice", "m.room.power_levels", Some(""), levels));
    let between = id(&trunk);
    let levels = room.levels(&[("bob", 70)]);
    assert!(room.send(&mut trunk, "alice", "m.room.power_levels", Some(""), levels));
    let last = id(&trunk);
    assert!(room.send(&mut trunk, "bob", "m.room.topic", Some(""), json!({"topic": "x"})));
    let beside = id(&trunk);

    let found = conflicted_subgraph([&first, &last], |id| room.fetch(id));
    assert_eq!(found.len(), 3);
    assert!(found.contains(&first) && found.contains(&between) && found.contains(&last));
    let alone = conflicted_subgraph([&beside], |id| room.fetch(id));
    assert_eq!(alone.len(), 1);
    let far = conflicted_subgraph([&before, &beside], |id| room.fetch(id));
    assert_eq!(far.len(), 2, "the topic names the join itself");
    assert_eq!(conflicted_subgraph([&last], |_| None).len(), 1);
}

#[test]
fn states_cut_down_to_the_needed_keys_give_the_same() {
    for version in ["6", "11", "12"] {
        let (mut room, mut trunk) = Room::new(version);
        for name in ["bob", "carol", "dave", "erin", "frank"] {
            assert!(room.member(&mut trunk, name, name, "join"));
        }
        let (mut left, mut right) = (trunk.clone(), trunk.clone());
        assert!(room.member(&mut left, "alice", "bob", "ban"));
        assert!(room.send(&mut right, "bob", "m.room.topic", Some(""), json!({"topic": "x"})));
        assert!(room.member(&mut right, "carol", "carol", "leave"));
        let whole = room.resolve(&[&left, &right]);

        let differs = |key: &(StateEventType, String)| left.state.get(key) != right.state.get(key);
        let chains = [&left, &right].map(|f| auth_chain(f.state.values(), |id| room.fetch(id)));
        let difference = chains[0]
            .iter()
            .filter(|id| !chains[1].contains(id))
            .chain(chains[1].iter().filter(|id| !chains[0].contains(id)));
        let conflicted =
            [&left, &right].into_iter().flat_map(|f| f.state.iter()).filter(|(k, _)| differs(k)).map(|(_, v)| v);
        let events: Vec<_> = conflicted.chain(difference).filter_map(|id| room.fetch(id)).collect();
        let needed = needed_keys(room.version, events.iter().map(|e| &**e));
        assert!(!needed.iter().any(|(_, key)| key == "@frank:a.org"));
        let cut = |fork: &Fork| Fork {
            state: fork
                .state
                .iter()
                .filter(|(k, _)| differs(k) || needed.contains(k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            ..fork.clone()
        };
        let mut merged = trunk.state.clone();
        merged.extend(room.resolve(&[&cut(&left), &cut(&right)]));
        assert_eq!(merged, whole, "version {version}");
    }
}

fn random_room(version: &str, steps: &[(usize, usize, usize, usize)]) -> (Room, Vec<Fork>) {
    const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];
    let (mut room, mut trunk) = Room::new(version);
    room.member(&mut trunk, "bob", "bob", "join");
    let mut forks = vec![trunk; 3];
    for &(fork, actor, target, what) in steps {
        let (fork, actor, target) = (&mut forks[fork], NAMES[actor], NAMES[target]);
        match what {
            0 => room.member(fork, actor, actor, "join"),
            1 => room.member(fork, actor, actor, "leave"),
            2 => room.member(fork, actor, target, "invite"),
            3 => room.member(fork, actor, target, "ban"),
            4 => room.member(fork, actor, target, "leave"),
            5 => {
                let levels = room.levels(&[(target, 50)]);
                target != "alice" && room.send(fork, actor, "m.room.power_levels", Some(""), levels)
            }
            6 => room.send(fork, actor, "m.room.join_rules", Some(""), json!({"join_rule": "invite"})),
            7 => room.send(fork, actor, "m.room.join_rules", Some(""), json!({"join_rule": "public"})),
            _ => room.send(fork, actor, "m.room.topic", Some(""), json!({"topic": actor})),
        };
    }
    (room, forks)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_states_is_of_no_importance(
        steps in prop::collection::vec((0..3_usize, 0..4_usize, 0..4_usize, 0..9_usize), 0..30),
        version in prop::sample::select(vec!["3", "6", "10", "12"]),
    ) {
        let (room, forks) = random_room(version, &steps);
        let [a, b, c] = [&forks[0], &forks[1], &forks[2]];
        let outcome = room.resolve(&[a, b, c]);
        for order in [[a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
            prop_assert_eq!(&room.resolve(&order), &outcome);
        }
        let states = |order: [&Fork; 3]| order.map(|fork| fork.state.clone());
        let old = v1::resolve(room.version, &states([a, b, c]), |id| room.fetch(id));
        prop_assert_eq!(&v1::resolve(room.version, &states([c, a, b]), |id| room.fetch(id)), &old);
        for (key, id) in &a.state {
            if b.state.get(key) == Some(id) && c.state.get(key) == Some(id) {
                prop_assert_eq!(outcome.get(key), Some(id));
                prop_assert_eq!(old.get(key), Some(id));
            }
        }
        prop_assert_eq!(&room.resolve(&[a]), &a.state);
        prop_assert_eq!(&room.resolve(&[a, a]), &a.state);
    }
}
