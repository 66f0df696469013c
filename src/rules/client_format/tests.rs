//! The spliced form against the same event built by serde.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use ruma::{event_id, room_id, server_name, user_id};
use serde_json::{Value, json};

use super::{fields::write_fields, *};
use crate::{Draft, RoomVersion, Signer, versions::DEFAULT};

fn event(version: &RoomVersion, event_type: &str, state_key: Option<&str>, content: &Value) -> Pdu {
    let signer = Signer::new(server_name!("a.org").to_owned(), &[1; 32], "1").unwrap();
    let draft = Draft::of(
        Some(room_id!("!r:a.org").to_owned()),
        user_id!("@alice:a.org").to_owned(),
        event_type.into(),
        state_key.map(Into::into),
        content,
        1_700_000_000_000,
    );
    let mut draft = draft.unwrap();
    if event_type == "m.room.redaction" {
        draft = draft.redacting(event_id!("$target").to_owned());
    }
    draft.build(version, &[], 1, &[], &signer).unwrap()
}

fn client(pdu: &Pdu, with_room_id: bool, unsigned: &Unsigned<'_>) -> Value {
    let mut out = "before".to_owned();
    write_client_event(&mut out, pdu, with_room_id, unsigned);
    serde_json::from_str(out.strip_prefix("before").unwrap()).unwrap()
}

#[test]
fn a_full_event() {
    let pdu = event(DEFAULT, "m.room.topic", Some("k\"ey"), &json!({"topic": "\u{1}\"x\""}));
    let unsigned = Unsigned {
        age_ms: Some(-7),
        transaction_id: Some("t\"1"),
        membership: Some("join"),
        prev_content: Some(r#"{"topic":"old"}"#),
        prev_sender: Some(user_id!("@bob:b.org")),
        replaces_state: Some(event_id!("$old")),
        redacted_by: Some(event_id!("$redaction")),
        redacted_because: Some("{}"),
        relations: Some(r#"{"m.thread":{"count":1}}"#),
        more: &[("org.example", "[1]")],
    };
    assert_eq!(
        client(&pdu, true, &unsigned),
        json!({
            "type": "m.room.topic", "state_key": "k\"ey", "sender": "@alice:a.org", "room_id": "!r:a.org",
            "event_id": pdu.event_id(), "origin_server_ts": 1_700_000_000_000_u64, "content": {"topic": "\u{1}\"x\""},
            "unsigned": {
                "age": -7, "transaction_id": "t\"1", "membership": "join", "prev_content": {"topic": "old"},
                "prev_sender": "@bob:b.org", "replaces_state": "$old", "redacted_because": {},
                "redacted_by": "$redaction",
                "m.relations": {"m.thread": {"count": 1}}, "org.example": [1],
            },
        })
    );
    assert_eq!(
        client(&pdu, false, &Unsigned::default()),
        json!({
            "type": "m.room.topic", "state_key": "k\"ey", "sender": "@alice:a.org", "event_id": pdu.event_id(),
            "origin_server_ts": 1_700_000_000_000_u64, "content": {"topic": "\u{1}\"x\""},
        })
    );
}

#[test]
fn redactions_say_what_they_redact_in_both_places() {
    for version in ["9", "10", "11", "12"] {
        let version = RoomVersion::get(version).unwrap();
        for content in [
            json!({}),
            json!({"reason": "x"}),
            json!({"redacts": 1, "a": 2}),
            json!({"redacts": "$other"}),
            json!({"a": {"redacts": 1}}),
        ] {
            let pdu = event(version, "m.room.redaction", None, &content);
            let mut expected = content.clone();
            expected["redacts"] = json!("$target");
            let seen = client(&pdu, false, &Unsigned::default());
            assert_eq!(seen["content"], expected, "{version}");
            assert_eq!(seen["redacts"], "$target");
        }
    }
}

#[test]
fn a_redacted_event_keeps_its_face() {
    let pdu = event(DEFAULT, "m.room.message", None, &json!({"body": "bad"})).redacted(DEFAULT).unwrap();
    let seen = client(&pdu, false, &Unsigned { redacted_because: Some(r#"{"type":"x"}"#), ..Unsigned::default() });
    assert_eq!(seen["content"], json!({}));
    assert_eq!(seen["unsigned"]["redacted_because"]["type"], "x");
}

#[test]
fn stripped_state() {
    let pdu = event(DEFAULT, "m.room.name", Some(""), &json!({"name": "x"}));
    let stripped = |pdu: &Pdu, ts| {
        let mut out = String::new();
        write_stripped(&mut out, pdu, ts);
        out
    };
    assert_eq!(
        serde_json::from_str::<Value>(&stripped(&pdu, false)).unwrap(),
        json!({"type": "m.room.name", "state_key": "", "sender": "@alice:a.org", "content": {"name": "x"}})
    );
    assert!(stripped(&pdu, true).contains(r#""origin_server_ts":1700000000000,"room_id":"!r:a.org""#));
    assert_eq!(stripped(&event(DEFAULT, "m.room.message", None, &json!({})), true), "");
}

#[test]
fn only_the_wanted_fields() {
    let content =
        json!({"body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": "$x"}, "a\\b": 1, "n": {"m": {}}});
    let pdu = event(DEFAULT, "m.room.message", None, &content);
    let with = |paths: &[&str]| {
        let mut out = String::new();
        let unsigned = Unsigned { age_ms: Some(1), ..Unsigned::default() };
        write_fields(&mut out, &pdu, true, &unsigned, &EventFields::new(paths.iter().copied()));
        serde_json::from_str::<Value>(&out).unwrap()
    };
    assert_eq!(with(&["type", "content.body"]), json!({"type": "m.room.message", "content": {"body": "x"}}));
    assert_eq!(with(&["content"]), json!({"content": content}));
    assert_eq!(
        with(&["content.m\\.relates_to.rel_type"]),
        json!({"content": {"m.relates_to": {"rel_type": "m.thread"}}})
    );
    assert_eq!(
        with(&["content.a\\\\b", "content.a\\b", "content.body.x", "content.n.m.x"]),
        json!({"content": {"a\\b": 1}})
    );
    assert_eq!(with(&["content.m.relates_to", "", "."]), json!({}));
    assert_eq!(with(&["unsigned.age", "sender"]), json!({"unsigned": {"age": 1}, "sender": "@alice:a.org"}));
    assert_eq!(with(&[&"a.".repeat(10_000)]), json!({}));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splicing_equals_serialising(
        body in any::<String>(), key in proptest::option::of("[^\x00]{0,20}"), event_type in "[a-z\"\\\\é]{1,9}",
        txn in proptest::option::of(any::<String>()), age in proptest::option::of(any::<i64>()), room in any::<bool>(),
    ) {
        let content = json!({"body": body, "nested": {"b": [body]}});
        let pdu = event(DEFAULT, &event_type, key.as_deref(), &content);
        let mut expected = json!({
            "content": content, "type": event_type, "sender": "@alice:a.org", "event_id": pdu.event_id(),
            "origin_server_ts": 1_700_000_000_000_u64,
        });
        if let Some(key) = &key {
            expected["state_key"] = json!(key);
        }
        if room {
            expected["room_id"] = json!("!r:a.org");
        }
        if let Some(age) = age {
            expected["unsigned"]["age"] = json!(age);
        }
        if let Some(txn) = &txn {
            expected["unsigned"]["transaction_id"] = json!(txn);
        }
        let unsigned = Unsigned { age_ms: age, transaction_id: txn.as_deref(), ..Unsigned::default() };
        prop_assert_eq!(client(&pdu, room, &unsigned), expected);
    }
}
