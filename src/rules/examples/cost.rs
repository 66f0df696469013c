//! What the hot paths of this crate cost, in microseconds a call on one core: `cargo run --release -p hearth-rules
//! --example cost`. A yardstick by hand, not a test; the build of a message with its checks is to stay well below 100.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for the person at the terminal")]

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Instant};

use hearth_rules::{
    Draft, Pdu, Signer, auth,
    client_format::{Unsigned, write_client_event},
    event::Reference,
    push,
    versions::DEFAULT,
};
use ruma::{EventId, RoomId, events::StateEventType, serde::Base64, server_name, user_id};
use serde_json::{json, value::to_raw_value};

fn time<T>(what: &str, mut f: impl FnMut() -> T) {
    let mut best = f64::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..500 {
            black_box(f());
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / 500.0);
    }
    println!("{what:44} {best:8.2} µs");
}

fn main() {
    let signer = Signer::new(server_name!("example.org").to_owned(), &[1; 32], "1").unwrap();
    let alice = user_id!("@alice:example.org");
    let mut room_id = None;
    let mut state: Vec<Arc<Pdu>> = vec![];
    let mut users: BTreeMap<String, i64> = (0..20).map(|n| (format!("@user{n}:example.org"), 50)).collect();
    users.insert("@mod:example.org".to_owned(), 100);
    for (event_type, key, content) in [
        ("m.room.create", "", json!({"room_version": "12"})),
        ("m.room.member", alice.as_str(), json!({"membership": "join", "displayname": "Alice"})),
        ("m.room.power_levels", "", json!({"users": users, "events": {"m.room.name": 50, "m.room.power_levels": 100}})),
    ] {
        let draft =
            Draft::of(room_id.clone(), alice.to_owned(), event_type.into(), Some(key.to_owned()), &content, 1).unwrap();
        let pdu = draft.build(DEFAULT, &[], 1, &[], &signer).unwrap();
        room_id.get_or_insert_with(|| pdu.room_id().to_owned());
        state.push(Arc::new(pdu));
    }
    let room_id = room_id.as_deref();
    let content = to_raw_value(&json!({
        "msgtype": "m.text", "body": "A message of ordinary length, with a \"quote\", as people write them all day long.",
        "format": "org.matrix.custom.html", "formatted_body": "A message of <b>ordinary</b> length",
        "m.mentions": {"user_ids": ["@bob:example.org"]},
    }))
    .unwrap();
    let draft = || {
        Draft::new(room_id.map(RoomId::to_owned), alice.to_owned(), "m.room.message".into(), None, &content, 1).unwrap()
    };
    let auth: Vec<Reference> = state.iter().skip(1).map(|e| e.reference(DEFAULT)).collect();
    let prev = [state.last().unwrap().reference(DEFAULT)];
    let message = draft().build(DEFAULT, &prev, 9, &auth, &signer).unwrap();
    let fetch = |id: &EventId| state.iter().find(|e| e.event_id() == id).cloned();
    let at = |t: &StateEventType, k: &str| {
        let t = t.to_string();
        state.iter().find(|e| e.state_key() == Some(k) && e.event_type().to_string() == t).cloned()
    };

    let drafted = draft();
    time("draft: canonical content", draft);
    time("draft: auth keys", || drafted.auth_keys(DEFAULT).unwrap());
    time("build: hash, sign, name", || drafted.build(DEFAULT, &prev, 9, &auth, &signer).unwrap());
    time("auth: independent and current state", || auth::check(DEFAULT, &message, fetch, at).unwrap());
    time("all of a send", || {
        let draft = draft();
        black_box(draft.auth_keys(DEFAULT).unwrap());
        let pdu = draft.build(DEFAULT, &prev, 9, &auth, &signer).unwrap();
        auth::check(DEFAULT, &pdu, fetch, at).unwrap();
    });
    time("parse stored", || Pdu::parse_stored(message.event_id().to_owned(), message.json(), DEFAULT).unwrap());
    let keys = BTreeMap::from([(
        "example.org".to_owned(),
        BTreeMap::from([("ed25519:1".to_owned(), Base64::parse(signer.public_key()).unwrap())]),
    )]);
    time("parse remote", || Pdu::parse_remote(message.json(), DEFAULT).unwrap());
    time("parse remote and verify", || Pdu::parse_remote(message.json(), DEFAULT).unwrap().verify(&keys).unwrap());
    let mut out = String::new();
    time("client form", || {
        out.clear();
        write_client_event(&mut out, &message, false, &Unsigned { age_ms: Some(7), ..Unsigned::default() });
    });
    let levels = auth::PowerLevels::of(DEFAULT, &state[0], Some(&state[2])).unwrap();
    time("power levels read", || auth::PowerLevels::of(DEFAULT, &state[0], Some(&state[2])).unwrap());
    let room = push::Room { member_count: 9, levels: Some(&levels) };
    time("push: default outcome", || push::default_outcome(&push::PushEvent::new(&message), &room));
    let rules = push::server_default(user_id!("@carol:example.org"));
    let event = push::PushEvent::new(&message);
    time("push: one user's rules", || {
        push::evaluate(&rules, &event, &room, user_id!("@carol:example.org"), None).is_some()
    });
}
