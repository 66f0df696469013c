//! The rules against another implementation's answers, in `tests/golden`: what it makes of odd events in each room
//! version, whom it lets do what, and which state it finds where histories meet. `generate.py` beside them asks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hearth_rules::{
    Pdu, Signer,
    auth::check_against,
    event::{Verified, redaction::redact},
    resolve::{StateMap, auth_chain, resolve},
    versions::RoomVersion,
};
use proptest::prelude::*;
use ruma::{EventId, OwnedEventId, events::StateEventType, serde::Base64, server_name, signatures::PublicKeyMap};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

const EVENTS: &str = include_str!("../../../tests/golden/events.jsonl");
const AUTH: &str = include_str!("../../../tests/golden/auth.jsonl");
const RESOLUTION: &str = include_str!("../../../tests/golden/resolution.jsonl");

fn lines<'a, T: Deserialize<'a>>(text: &'a str) -> impl Iterator<Item = T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn known(version: impl ToString) -> &'static RoomVersion {
    RoomVersion::known(version.to_string()).unwrap()
}

#[derive(Deserialize)]
struct Form {
    version: String,
    sent: String,
    refused: Option<String>,
    event_id: Option<OwnedEventId>,
    hash: Option<String>,
    canonical: Option<String>,
    redacted: Option<String>,
    remains: Option<String>,
}

fn keys() -> PublicKeyMap {
    let seed = STANDARD_NO_PAD.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0").unwrap();
    let signer = Signer::new(server_name!("domain").to_owned(), seed.as_slice().try_into().unwrap(), "1").unwrap();
    let key = Base64::parse(signer.public_key()).unwrap();
    BTreeMap::from([("domain".to_owned(), BTreeMap::from([("ed25519:1".to_owned(), key)]))])
}

fn sha256(text: &str) -> Option<String> {
    use std::fmt::Write;
    let hex = Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    Some(hex)
}

#[test]
fn events_have_one_form_everywhere() {
    let (mut taken, mut refused) = (0, 0);
    for form in lines::<Form>(EVENTS) {
        let (version, sent) = (known(&form.version), &form.sent);
        let event = Pdu::parse_remote(sent, version);
        if form.refused.is_some() {
            assert!(event.is_err(), "version {version} takes {sent}");
            refused += 1;
            continue;
        }
        let event = event.unwrap_or_else(|e| panic!("version {version}: {e}: {sent}"));
        let verified = event.verify(&keys()).unwrap_or_else(|e| panic!("version {version}: {e}: {sent}"));
        let Verified::All(pdu) = verified else { panic!("version {version}: hash of {sent}") };
        assert_eq!(Some(pdu.event_id()), form.event_id.as_deref(), "version {version}: {sent}");
        assert_eq!(sha256(pdu.json()), form.canonical, "version {version}: {}", pdu.json());
        let redacted = redact(pdu.json(), version).unwrap();
        assert_eq!(sha256(&redacted), form.redacted, "version {version}: {redacted}");
        assert_eq!(Some(pdu.redacted(version).unwrap().content_json()), form.remains.as_deref());
        let reference = serde_json::to_value(pdu.reference(version)).unwrap();
        if version.event_id_is_hash() {
            assert_eq!(reference, json!(pdu.event_id()));
        } else {
            assert_eq!(reference, json!([pdu.event_id(), {"sha256": form.hash}]));
        }

        // What goes to the disk comes back, and holds as before.
        let stored = Pdu::parse_stored(pdu.event_id().to_owned(), pdu.json(), version).unwrap();
        assert_eq!(stored.json(), pdu.json());
        let again = Pdu::parse_remote(stored.json(), version).unwrap().verify(&keys()).unwrap();
        assert!(matches!(again, Verified::All(again) if again.event_id() == pdu.event_id()));
        let cut = Pdu::parse_remote(&redacted, version).unwrap().verify(&keys()).unwrap();
        assert_eq!(cut.into_pdu().event_id(), pdu.event_id());
        taken += 1;
    }
    assert!(taken > 350 && refused > 60, "{taken} and {refused}");
}

/// Type, state key, sender, content.
type Entry = (String, Option<String>, String, Value);

#[derive(Deserialize)]
struct Bases {
    bases: HashMap<String, Vec<Entry>>,
}

#[derive(Deserialize)]
struct Case {
    what: String,
    base: Option<String>,
    state: Vec<Entry>,
    event: Entry,
    allowed: Vec<u8>,
    prev: Option<String>,
    redacts: Option<String>,
    until: Option<u8>,
}

impl Case {
    /// The state and the event in a version.
    fn built(&self, bases: &Bases, version: &RoomVersion) -> (Vec<Arc<Pdu>>, Pdu) {
        let base = self.base.as_ref().map(|name| bases.bases[name].as_slice()).unwrap_or_default();
        let mut entries: Vec<&Entry> = Vec::new();
        for entry in base.iter().chain(&self.state) {
            entries.retain(|e| (&e.0, &e.1) != (&entry.0, &entry.1));
            entries.push(entry);
        }
        let mut state = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            state.push(Arc::new(pdu(version, number, entry, Map::new())));
        }
        let mut more = Map::new();
        if self.prev.is_some() {
            let create = state.iter().find(|e| e.is(&"m.room.create".into(), "")).unwrap();
            more.insert("prev_events".to_owned(), json!([create.event_id()]));
        }
        if let Some(redacts) = &self.redacts
            && !version.redacts_in_content()
        {
            more.insert("redacts".to_owned(), json!(redacts));
        }
        (state, pdu(version, 1000, &self.event, more))
    }
}

fn pdu(version: &RoomVersion, number: usize, entry: &Entry, more: Map<String, Value>) -> Pdu {
    let (event_type, state_key, sender, mut content) = entry.clone();
    let is_create = event_type == "m.room.create";
    if is_create {
        content["room_version"] = json!(version.id);
    }
    if version.room_id_is_create_hash()
        && event_type == "m.room.power_levels"
        && let Some(users) = content.get_mut("users").and_then(Value::as_object_mut)
    {
        users.remove("@creator:a");
    }
    let server = sender.split_once(':').unwrap().1.to_owned();
    let mut event = json!({
        "type": event_type, "sender": sender, "content": content, "depth": 5, "origin_server_ts": number,
        "prev_events": [], "auth_events": [], "room_id": "!room:a",
    });
    let fields = event.as_object_mut().unwrap();
    fields.extend(more);
    if let Some(state_key) = state_key {
        fields.insert("state_key".to_owned(), json!(state_key));
    }
    if version.room_id_is_create_hash() {
        fields.insert("room_id".to_owned(), json!("!create"));
        if is_create {
            fields.remove("room_id");
        }
    }
    let id = match (version.event_id_is_hash(), is_create) {
        (false, _) => format!("$e{number}:{server}"),
        (true, true) => "$create".to_owned(),
        (true, false) => format!("$e{number}"),
    };
    Pdu::parse_stored(id.try_into().unwrap(), event.to_string(), version).unwrap()
}

/// Power levels that the other implementation takes for integers because its language does, where the specification does
/// not (rooms/v1, "`m.room.power_levels` events accept values as strings"); and first levels that are none, after which
/// nobody there can do anything.
const AGREED_TO_DIFFER: [&str; 6] = [
    " is true",
    " is false",
    " is \"5_0\"",
    " is \"\\u0663\"",
    "a default that stands as true",
    "the first levels: {'ban': 'x'}",
];

#[test]
fn who_may_do_what_is_the_same_everywhere() {
    let (first, rest) = AUTH.split_once('\n').unwrap();
    let bases: Bases = serde_json::from_str(first).unwrap();
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for case in lines::<Case>(rest) {
        let mut differs = BTreeSet::new();
        for number in 1..=case.until.unwrap_or(12) {
            let version = known(number);
            let (state, event) = case.built(&bases, version);
            let verdict = check_against(version, &event, |event_type, state_key| {
                state.iter().find(|e| e.is(&event_type.to_string().as_str().into(), state_key)).cloned()
            });
            if verdict.is_ok() != case.allowed.contains(&number) {
                differs.insert(number);
            }
            asked += 1;
        }
        if differs.is_empty() == AGREED_TO_DIFFER.iter().any(|odd| case.what.ends_with(odd)) {
            wrong.push(format!("{}: {differs:?}, allowed in {:?}", case.what, case.allowed));
        }
    }
    assert!(asked > 10_000, "{asked}");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}

#[derive(Deserialize)]
struct Meeting {
    version: String,
    seed: u32,
    events: Vec<(OwnedEventId, String)>,
    states: Vec<Vec<usize>>,
    resolved: Vec<usize>,
}

impl Meeting {
    fn events(&self) -> HashMap<OwnedEventId, Arc<Pdu>> {
        let read = |(id, json): &(OwnedEventId, String)| {
            (id.clone(), Arc::new(Pdu::parse_stored(id.clone(), json.as_str(), known(&self.version)).unwrap()))
        };
        self.events.iter().map(read).collect()
    }

    fn state(&self, events: &HashMap<OwnedEventId, Arc<Pdu>>, entries: &[usize]) -> StateMap {
        let entry = |n: &usize| {
            let pdu = &events[&self.events[*n].0];
            let event_type: StateEventType = pdu.event_type().to_string().into();
            ((event_type, pdu.state_key().unwrap().to_owned()), pdu.event_id().to_owned())
        };
        entries.iter().map(entry).collect()
    }
}

fn resolved(version: &'static RoomVersion, events: &HashMap<OwnedEventId, Arc<Pdu>>, states: &[StateMap]) -> StateMap {
    let fetch = |id: &EventId| events.get(id).cloned();
    let chains = states.iter().map(|state| auth_chain(state.values(), fetch)).collect();
    resolve(version, states, chains, None, fetch).unwrap()
}

#[test]
fn histories_that_meet_come_to_one_state_everywhere() {
    let (mut wrong, mut conflicts) = (Vec::new(), 0);
    for meeting in lines::<Meeting>(RESOLUTION) {
        let (version, events) = (known(&meeting.version), meeting.events());
        let states: Vec<StateMap> = meeting.states.iter().map(|s| meeting.state(&events, s)).collect();
        conflicts += usize::from(states.iter().any(|s| *s != states[0]));
        let theirs = meeting.state(&events, &meeting.resolved);
        let ours = resolved(version, &events, &states);
        if ours != theirs {
            let keys: BTreeSet<_> =
                ours.keys().chain(theirs.keys()).filter(|k| ours.get(*k) != theirs.get(*k)).collect();
            wrong.push(format!("version {version}, seed {}: {keys:?}", meeting.seed));
        }
    }
    assert!(conflicts > 60, "{conflicts}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_histories_is_of_no_importance(which in any::<prop::sample::Index>(), order in any::<u64>()) {
        let all: Vec<&str> = RESOLUTION.lines().collect();
        let meeting: Meeting = serde_json::from_str(which.get::<&str>(&all)).unwrap();
        let (version, events) = (known(&meeting.version), meeting.events());
        let mut states: Vec<StateMap> = meeting.states.iter().map(|s| meeting.state(&events, s)).collect();
        let expected = meeting.state(&events, &meeting.resolved);
        // Any order, and any of them twice.
        states.push(states[usize::try_from(order % 7).unwrap() % states.len()].clone());
        let by = usize::try_from(order % 5).unwrap() % states.len();
        states.rotate_left(by);
        if order % 2 == 0 {
            states.reverse();
        }
        prop_assert_eq!(resolved(version, &events, &states), expected);
    }
}
