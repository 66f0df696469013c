//! Events against the specification's vectors, against vectors computed apart from this code, against ruma's own
//! signing, and against rubbish.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use proptest::prelude::*;
use ruma::{
    CanonicalJsonObject, OwnedEventId, event_id, room_id,
    serde::Base64,
    server_name,
    signatures::{PublicKeyMap, hash_and_sign_event, reference_hash, verify_event},
    state_res::check_pdu_format,
    user_id,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    canonical::{MAX_DEPTH, MAX_EVENT},
    redaction::redact,
    *,
};
use crate::{
    json::Numbers,
    versions::{DEFAULT, RoomVersion},
};

/// The seed, server name and key version of the specification's vectors.
pub(crate) fn signer() -> Signer {
    let seed = STANDARD_NO_PAD.clone().decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0").unwrap();
    Signer::new(server_name!("domain").to_owned(), seed.as_slice().try_into().unwrap(), "1").unwrap()
}

fn keys() -> PublicKeyMap {
    let key = Base64::parse(signer().public_key()).unwrap();
    BTreeMap::from([("domain".to_owned(), BTreeMap::from([("ed25519:1".to_owned(), key)]))])
}

fn object(value: Value) -> CanonicalJsonObject {
    serde_json::from_value(value).unwrap()
}

fn versions() -> impl Iterator<Item = &'static RoomVersion> {
    (1..=12).map(|n: u8| RoomVersion::known(n.to_string()).unwrap())
}

fn draft(version: &RoomVersion, event_type: &str, state_key: Option<&str>, content: &Value) -> Draft {
    let unnamed = version.room_id_is_create_hash() && event_type == "m.room.create";
    Draft::new(
        (!unnamed).then(|| room_id!("!r:domain").to_owned()),
        user_id!("@u:domain").to_owned(),
        event_type.into(),
        state_key.map(ToOwned::to_owned),
        &to_raw_value(content).unwrap(),
        1_700_000_000_000,
    )
    .unwrap()
}

#[test]
fn json_signing_vectors_of_the_specification() {
    let mut empty = object(json!({}));
    signer().sign_json(&mut empty).unwrap();
    let signature = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ";
    assert_eq!(empty, object(json!({"signatures": {"domain": {"ed25519:1": signature}}})));

    let mut data = object(json!({"one": 1, "two": "Two"}));
    signer().sign_json(&mut data).unwrap();
    let signature = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw";
    assert_eq!(data, object(json!({"one": 1, "two": "Two", "signatures": {"domain": {"ed25519:1": signature}}})));
}

#[test]
fn event_signing_vector_of_the_specification() {
    let signed = r#"{"auth_events":[],"content":{},"depth":3,
        "hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},
        "origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain",
        "signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},
        "type":"X","unsigned":{"age_ts":1000000}}"#;
    // The vector is of a time when redaction kept `origin`: all versions before 11.
    for version in versions().filter(|v| v.event_id_is_hash() && !v.redacts_in_content()) {
        let event = Pdu::parse_remote(signed, version).unwrap();
        assert!(matches!(event.verify(&keys()).unwrap(), Verified::All(_)), "{version}");
    }
    let version = RoomVersion::known("11").unwrap();
    Pdu::parse_remote(signed, version).unwrap().verify(&keys()).unwrap_err();
}

#[derive(serde::Deserialize)]
struct Golden {
    version: String,
    event_id: OwnedEventId,
    event: Value,
    redacted: Value,
}

/// Events of eight types in eight versions; ids, hashes and signatures computed by a separate implementation.
fn golden() -> Vec<Golden> {
    include_str!("golden/events.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn golden_events_have_their_ids_hashes_and_signatures() {
    let all = golden();
    assert_eq!(all.len(), 64);
    for golden in all {
        let version = RoomVersion::known(&golden.version).unwrap();
        let event = Pdu::parse_remote(&golden.event.to_string(), version).unwrap();
        assert_eq!(event.signers().unwrap(), [(server_name!("domain").to_owned(), vec!["ed25519:1".to_owned()])]);
        let Verified::All(pdu) = event.verify(&keys()).unwrap() else { panic!("{}: hash", golden.event) };
        assert_eq!(pdu.event_id(), golden.event_id, "version {version}: {}", golden.event);

        let redacted = pdu.redacted(version).unwrap();
        assert_eq!(redacted.content_as::<Value>().unwrap(), golden.redacted, "version {version}");
        let again = Pdu::parse_remote(redacted.json(), version).unwrap();
        assert_eq!(again.claimed().event_id(), golden.event_id, "a redacted event keeps its id");

        let stored = Pdu::parse_stored(golden.event_id, pdu.json(), version).unwrap();
        assert_same(&pdu, &stored);
    }
}

fn assert_same(a: &Pdu, b: &Pdu) {
    assert_eq!(a.event_id, b.event_id);
    assert_eq!(a.room_id, b.room_id);
    assert_eq!(a.names_room, b.names_room);
    assert_eq!(a.sender, b.sender);
    assert_eq!(a.event_type, b.event_type);
    assert_eq!(a.state_key, b.state_key);
    assert_eq!(a.origin_server_ts, b.origin_server_ts);
    assert_eq!(a.depth, b.depth);
    assert_eq!(a.prev_events, b.prev_events);
    assert_eq!(a.auth_events, b.auth_events);
    assert_eq!(a.redacts, b.redacts);
    assert_eq!(a.json, b.json);
    assert_eq!(a.content_json(), b.content_json());
}

#[test]
fn a_changed_content_leaves_the_redacted_event() {
    for golden in golden() {
        let version = RoomVersion::known(&golden.version).unwrap();
        let mut event = golden.event;
        event["content"]["added"] = json!("later");
        let unverified = Pdu::parse_remote(&event.to_string(), version).unwrap();
        match unverified.verify(&keys()) {
            Ok(Verified::HashMismatchRedacted(pdu)) => {
                assert_eq!(pdu.event_id(), golden.event_id);
                assert_eq!(pdu.content_as::<Value>().unwrap(), golden.redacted);
            }
            // Of create events all content is signed since version 11.
            Err(_) => assert!(version.redacts_in_content() && event["type"] == "m.room.create"),
            Ok(Verified::All(_)) => panic!("a forged event passed"),
        }
    }
}

#[test]
fn a_changed_envelope_fails() {
    for golden in golden().into_iter().filter(|g| g.version == "10" || g.version == "12") {
        let version = RoomVersion::known(&golden.version).unwrap();
        let mut event = golden.event;
        event["depth"] = json!(13);
        Pdu::parse_remote(&event.to_string(), version).unwrap().verify(&keys()).unwrap_err();
    }
}

#[test]
fn unknown_keys_and_missing_signatures_fail() {
    let golden = golden().remove(8);
    let version = RoomVersion::known(&golden.version).unwrap();
    let event = || Pdu::parse_remote(&golden.event.to_string(), version).unwrap();
    event().verify(&PublicKeyMap::new()).unwrap_err();
    event().verify(&BTreeMap::from([("domain".to_owned(), BTreeMap::new())])).unwrap_err();
    let mut wrong = keys();
    wrong.get_mut("domain").unwrap().insert("ed25519:1".to_owned(), Base64::new(vec![7; 32]));
    event().verify(&wrong).unwrap_err();

    let mut bare = golden.event.clone();
    bare["signatures"] = json!({"elsewhere": {"ed25519:1": "AAAA"}});
    Pdu::parse_remote(&bare.to_string(), version).unwrap().verify(&keys()).unwrap_err();
}

#[test]
fn a_restricted_join_needs_the_resident_servers_signature() {
    let version = RoomVersion::known("10").unwrap();
    let content = json!({"membership": "join", "join_authorised_via_users_server": "@b:resident"});
    let join = draft(version, "m.room.member", Some("@u:domain"), &content);
    let pdu = join.build(version, &[], 5, &[], &signer()).unwrap();
    let event = Pdu::parse_remote(pdu.json(), version).unwrap();
    let servers: Vec<_> = event.signers().unwrap().into_iter().map(|(server, _)| server).collect();
    assert_eq!(servers, [server_name!("domain"), server_name!("resident")]);
    event.verify(&keys()).unwrap_err();

    // The key binds joins alone: neither other memberships nor messages that happen to carry it.
    let content = json!({"membership": "leave", "join_authorised_via_users_server": "@b:resident"});
    for other in
        [draft(version, "m.room.member", Some("@u:domain"), &content), draft(version, "m.room.message", None, &content)]
    {
        let pdu = other.build(version, &[], 5, &[], &signer()).unwrap();
        Pdu::parse_remote(pdu.json(), version).unwrap().verify(&keys()).unwrap();
    }
}

#[test]
fn co_signing_keeps_the_event_and_adds_a_signature() {
    let version = RoomVersion::known("10").unwrap();
    let content = json!({"membership": "join", "join_authorised_via_users_server": "@b:resident"});
    let join = draft(version, "m.room.member", Some("@u:domain"), &content);
    let pdu = join.build(version, &[], 5, &[], &signer()).unwrap();
    let resident = Signer::new(server_name!("resident").to_owned(), &[9; 32], "k").unwrap();
    let signed = pdu.co_signed(version, &resident).unwrap();
    assert_eq!(signed.event_id(), pdu.event_id());
    let mut keys = keys();
    let key = Base64::parse(resident.public_key()).unwrap();
    keys.insert("resident".to_owned(), BTreeMap::from([("ed25519:k".to_owned(), key)]));
    let verified = Pdu::parse_remote(signed.json(), version).unwrap().verify(&keys).unwrap();
    assert!(matches!(verified, Verified::All(_)));
}

/// Everything a draft builds is what ruma would have made of the same object.
#[test]
fn building_agrees_with_ruma() {
    let cases: &[(&str, Option<&str>, Value)] = &[
        ("m.room.message", None, json!({"body": "a \"b\" \\ \u{1} \u{8} \u{c} \n é 😀", "msgtype": "m.text", "n": -3})),
        ("m.room.encrypted", None, json!({"ciphertext": "…", "algorithm": "m.megolm.v1.aes-sha2"})),
        ("m.reaction", None, json!({"m.relates_to": {"key": "👍", "rel_type": "m.annotation", "event_id": "$x"}})),
        ("org.example.state", Some("a \"key\" \u{2}"), json!({"membership": "join"})),
        ("m.room.member", Some("@u:domain"), json!({"membership": "join", "displayname": "U", "avatar_url": null})),
        ("m.room.power_levels", Some(""), json!({"users": {"@u:domain": 100}, "invite": 1, "extra": [1, 2]})),
        ("m.room.create", Some(""), json!({"creator": "@u:domain", "room_version": "x", "predecessor": {}})),
        ("m.room.join_rules", Some(""), json!({"join_rule": "public", "allow": [], "extra": 1})),
        ("m.room.history_visibility", Some(""), json!({"history_visibility": "shared", "extra": 1})),
        ("m.room.aliases", Some("domain"), json!({"aliases": ["#a:domain"]})),
        ("m.room.server_acl", Some(""), json!({"allow": ["*"], "deny": []})),
        ("m.room.tombstone", Some(""), json!({"body": "x", "replacement_room": "!y:domain"})),
        ("m.room.redaction", None, json!({"reason": "spam"})),
    ];
    for version in versions() {
        let prev = [named("$one:x", version), named("$two:x", version)];
        let auth = [named("$three:x", version)];
        for (event_type, state_key, content) in cases {
            let mut draft = draft(version, event_type, *state_key, content);
            if *event_type == "m.room.redaction" {
                draft = draft.redacting(event_id!("$target").to_owned());
            }
            let pdu = draft.build(version, &prev, 7, &auth, &signer()).unwrap();
            let built: CanonicalJsonObject = serde_json::from_str(pdu.json()).unwrap();
            assert_eq!(serde_json::to_string(&built).unwrap(), pdu.json(), "canonical text");

            let mut theirs = built.clone();
            theirs.remove("hashes");
            theirs.remove("signatures");
            let key = ruma_key();
            hash_and_sign_event("domain", &key, &mut theirs, &version.rules.redaction).unwrap();
            assert_eq!(built, theirs);
            let hash = reference_hash(&built, &version.rules).unwrap();
            if version.event_id_is_hash() {
                assert_eq!(pdu.event_id().as_str(), format!("${hash}"));
            } else {
                assert_eq!(built["event_id"].as_str(), Some(pdu.event_id().as_str()));
                assert_eq!(pdu.event_id().server_name(), Some(server_name!("domain")));
                let reference = serde_json::to_value(pdu.reference(version)).unwrap();
                assert_eq!(reference, json!([pdu.event_id(), {"sha256": hash}]));
            }
            let verified = verify_event(&keys(), &built, &version.rules).unwrap();
            assert_eq!(verified, ruma::signatures::Verified::All);
            check_pdu_format(&built, &version.rules.event_format).unwrap();

            let stored = Pdu::parse_stored(pdu.event_id().to_owned(), pdu.json(), version).unwrap();
            assert_same(&pdu, &stored);
            let received = Pdu::parse_remote(pdu.json(), version).unwrap().verify(&keys()).unwrap();
            assert_same(&pdu, &received.into_pdu());
        }
    }
}

fn named(id: &str, version: &RoomVersion) -> Reference {
    let pair = json!([id, {"sha256": "SGFzaCBvZiB0aGUgZXZlbnQgdGhhdCBpcyBuYW1lZCE"}]);
    let id = json!(id);
    serde_json::from_value(if version.event_id_is_hash() { id } else { pair }).unwrap()
}

fn ruma_key() -> ruma::signatures::Ed25519KeyPair {
    let seed = STANDARD_NO_PAD.decode("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0").unwrap();
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    ruma::signatures::Ed25519KeyPair::from_der(&[&head[..], &seed].concat(), "1".to_owned()).unwrap()
}

#[test]
fn redacts_stands_where_the_version_wants_it() {
    for (version, in_content) in [("10", false), ("11", true)] {
        let version = RoomVersion::known(version).unwrap();
        let draft = draft(version, "m.room.redaction", None, &json!({"reason": "x"}))
            .redacting(event_id!("$target").to_owned());
        let pdu = draft.build(version, &[], 1, &[], &signer()).unwrap();
        let json: Value = serde_json::from_str(pdu.json()).unwrap();
        assert_eq!(json.get("redacts").is_some(), !in_content);
        assert_eq!(json["content"].get("redacts").is_some(), in_content);
        assert_eq!(pdu.redacts().unwrap(), "$target");
    }
}

#[test]
fn the_room_of_version_12_is_named_after_its_create_event() {
    let draft = draft(DEFAULT, "m.room.create", Some(""), &json!({"room_version": "12"}));
    let pdu = draft.build(DEFAULT, &[], 1, &[], &signer()).unwrap();
    assert_eq!(pdu.room_id().as_str()[1..], pdu.event_id().as_str()[1..]);
    assert!(Event::room_id(&pdu).is_none());
    assert!(!pdu.json().contains("room_id"));
}

#[test]
fn templates_are_events_without_hashes_and_signatures() {
    let draft = draft(DEFAULT, "m.room.member", Some("@u:domain"), &json!({"membership": "join"}));
    let template: Value =
        serde_json::from_str(&draft.template(DEFAULT, &[named("$p", DEFAULT)], 3, &[]).unwrap()).unwrap();
    assert_eq!(
        template,
        json!({"auth_events": [], "content": {"membership": "join"}, "depth": 3, "origin_server_ts": 1_700_000_000_000_u64,
            "prev_events": ["$p"], "room_id": "!r:domain", "sender": "@u:domain", "state_key": "@u:domain",
            "type": "m.room.member"})
    );
}

#[test]
fn drafts_refuse_what_cannot_be_canonical() {
    let new = |content: &str| {
        Draft::new(
            Some(room_id!("!r:domain").to_owned()),
            user_id!("@u:domain").to_owned(),
            "m.room.message".into(),
            None,
            serde_json::from_str(content).unwrap(),
            1,
        )
    };
    for content in
        ["[]", "1", "null", r#"{"a":1.5}"#, r#"{"a":1e3}"#, r#"{"a":-0}"#, r#"{"a":9007199254740992}"#, r#"{"a":1.0}"#]
    {
        let error = new(content).unwrap_err();
        assert_eq!((error.status().as_u16(), error.errcode()), (400, "M_BAD_JSON"), "{content}");
    }
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    for levels in [MAX_DEPTH + 1, 126, 127, 128, 500, 20_000] {
        assert_eq!(new(&nested(levels)).unwrap_err().errcode(), "M_BAD_JSON", "{levels}");
    }
    let deepest = new(&nested(MAX_DEPTH)).unwrap().build(DEFAULT, &[], 1, &[], &signer()).unwrap();
    Pdu::parse_remote(deepest.json(), DEFAULT).unwrap().verify(&keys()).unwrap();
    let inside_out =
        format!("{{\"a\":[{}{}]}}", "{\"a\":".repeat(MAX_DEPTH), "}".repeat(MAX_DEPTH)).replace(":}", ":1}");
    assert_eq!(new(&inside_out).unwrap_err().errcode(), "M_BAD_JSON");
    new(r#"{"a":9007199254740991,"b":-9007199254740991}"#).unwrap();
}

#[test]
fn the_size_limit_is_exact() {
    let size_for = |body: usize| {
        let draft = draft(DEFAULT, "m.room.message", None, &json!({"body": "x".repeat(body)}));
        draft.build(DEFAULT, &[], 1, &[], &signer()).map(|pdu| pdu.json().len())
    };
    let overhead = size_for(0).unwrap();
    assert_eq!(size_for(MAX_EVENT - overhead).unwrap(), MAX_EVENT);
    let error = size_for(MAX_EVENT - overhead + 1).unwrap_err();
    assert_eq!((error.status().as_u16(), error.errcode()), (413, "M_TOO_LARGE"));

    let largest = draft(DEFAULT, "m.room.message", None, &json!({"body": "x".repeat(MAX_EVENT - overhead)}));
    let largest = largest.build(DEFAULT, &[], 1, &[], &signer()).unwrap();
    Pdu::parse_remote(largest.json(), DEFAULT).unwrap().verify(&keys()).unwrap();
    let larger = largest.json().replace("xxx", "xxxx");
    Pdu::parse_remote(&larger, DEFAULT).unwrap_err();

    for (event_type, key) in [("t".repeat(256), "k".to_owned()), ("t".to_owned(), "k".repeat(256))] {
        let error = draft(DEFAULT, &event_type, Some(&key), &json!({})).build(DEFAULT, &[], 1, &[], &signer());
        assert_eq!(error.unwrap_err().errcode(), "M_TOO_LARGE");
    }
    draft(DEFAULT, &"t".repeat(255), Some(&"é".repeat(127)), &json!({}))
        .build(DEFAULT, &[], 1, &[], &signer())
        .unwrap();
}

#[test]
fn depth_is_cut_to_what_the_version_can_say() {
    for (version, most) in [(DEFAULT, (1 << 53) - 1), (RoomVersion::known("5").unwrap(), (1 << 63) - 1)] {
        let draft = draft(version, "m.room.message", None, &json!({}));
        let pdu = draft.build(version, &[], u64::MAX, &[], &signer()).unwrap();
        assert_eq!(pdu.depth(), most);
        Pdu::parse_remote(pdu.json(), version).unwrap().verify(&keys()).unwrap();
    }
}

#[test]
fn loose_numbers_are_kept_and_hold() {
    for version in versions() {
        let draft = draft(version, "m.room.message", None, &json!({"n": "NUMBER"}));
        let (prev, auth) = ([named("$one:x", version)], [named("$two:x", version)]);
        let pdu = draft.build(version, &prev, 3, &auth, &signer()).unwrap();
        for number in ["1.5", "1e+16", "-0.0", "100000000000000000000000000000", "9007199254740992", "1.0"] {
            let loose = pdu.json().replace("\"NUMBER\"", number);
            let event = Pdu::parse_remote(&loose, version);
            if version.numbers() == Numbers::Canonical {
                assert!(matches!(event, Err(Malformed::Json(_))));
                continue;
            }
            let event = event.unwrap();
            assert_eq!(event.claimed().json(), loose);
            let stored = Pdu::parse_stored(event.claimed().event_id().to_owned(), loose.as_str(), version).unwrap();
            assert_same(event.claimed(), &stored);
            assert!(stored.content_json().contains(number));
            // The hash is of other content, so only the signature holds.
            assert!(matches!(event.verify(&keys()).unwrap(), Verified::HashMismatchRedacted(_)));
            redact(&loose, version).unwrap();
            stored.co_signed(version, &Signer::new(server_name!("b").to_owned(), &[3; 32], "1").unwrap()).unwrap();
        }
    }
}

#[test]
fn hostile_forms_are_refused() {
    let good = || {
        json!({"type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain", "origin_server_ts": 1, "depth": 1,
            "prev_events": ["$p"], "auth_events": ["$a"], "content": {}, "hashes": {"sha256": "x"}, "signatures": {}})
    };
    let parse = |event: &Value| Pdu::parse_remote(&event.to_string(), DEFAULT);
    parse(&good()).unwrap();
    for field in [
        "type",
        "room_id",
        "sender",
        "origin_server_ts",
        "depth",
        "prev_events",
        "auth_events",
        "content",
        "hashes",
        "signatures",
    ] {
        let mut event = good();
        event.as_object_mut().unwrap().remove(field);
        parse(&event).unwrap_err();
        for wrong in
            [json!(null), json!(-1), json!(1.5), json!(true), json!([[]]), json!({"sha256": 1}), json!("\u{0}")]
        {
            let object_is_fine = (field == "content" || field == "signatures") && wrong.is_object();
            let string_is_fine = field == "type" && wrong.is_string();
            if !object_is_fine && !string_is_fine {
                let mut event = good();
                event[field] = wrong;
                parse(&event).unwrap_err();
            }
        }
    }
    for (field, wrong) in [
        ("state_key", json!(1)),
        ("state_key", json!("x".repeat(256))),
        ("type", json!("x".repeat(256))),
        ("sender", json!(format!("@{}:domain", "x".repeat(256)))),
        ("room_id", json!("r:domain")),
        ("depth", json!(9_007_199_254_740_992_u64)),
        ("origin_server_ts", json!(-5)),
        ("prev_events", json!(vec!["$x"; 21])),
        ("auth_events", json!(vec!["$x"; 11])),
        ("auth_events", json!(["$r:domain"])),
        ("prev_events", json!([["$x:domain", {"sha256": "x"}]])),
        ("prev_events", json!([format!("${}", "x".repeat(300))])),
    ] {
        let mut event = good();
        event[field] = wrong;
        parse(&event).unwrap_err();
    }
    let mut create = good();
    create["type"] = json!("m.room.create");
    parse(&create).unwrap_err();

    let mut odd = good();
    odd["type"] = json!("m.room.redaction");
    odd["content"]["redacts"] = json!(["$x"]);
    odd["unsigned"] = json!({"age": 1, "prev_content": {"forged": true}});
    let pdu = parse(&odd).unwrap();
    assert!(pdu.claimed().redacts().is_none());
    assert!(!pdu.claimed().json().contains("unsigned"));

    let deep = good()
        .to_string()
        .replace("\"content\":{}", &format!("\"content\":{{\"a\":{}{}}}", "[".repeat(9000), "]".repeat(9000)));
    Pdu::parse_remote(&deep, DEFAULT).unwrap_err();
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[@!$#][a-z]{0,4}(:[a-z]{0,4})?".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

const FIELDS: [&str; 16] = [
    "type",
    "room_id",
    "sender",
    "origin_server_ts",
    "depth",
    "prev_events",
    "auth_events",
    "content",
    "hashes",
    "signatures",
    "state_key",
    "redacts",
    "event_id",
    "unsigned",
    "origin",
    "x",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rubbish_never_panics(which in 0..64_usize, field in 0..16_usize, value in any_json(), text in ".{0,60}") {
        for version in versions() {
            let _ = Pdu::parse_remote(&text, version);
            let _ = redact(&text, version);
            let _ = Pdu::parse_stored(event_id!("$x").to_owned(), text.as_str(), version);
        }
        let golden = golden().swap_remove(which);
        let mut event = golden.event;
        event[FIELDS[field]] = value;
        for version in versions() {
            if let Ok(event) = Pdu::parse_remote(&event.to_string(), version) {
                let _ = event.signers();
                let stored = Pdu::parse_stored(event.claimed().event_id().to_owned(), event.claimed().json(), version).unwrap();
                assert_same(event.claimed(), &stored);
                let _ = event.verify(&keys());
            }
        }
    }

    #[test]
    fn redaction_is_idempotent(which in 0..64_usize, extra in any_json()) {
        let golden = golden().swap_remove(which);
        let version = RoomVersion::known(&golden.version).unwrap();
        let mut event = golden.event;
        event["content"]["extra"] = extra.clone();
        event["extra"] = extra;
        if let Ok(once) = redact(&event.to_string(), version) {
            prop_assert_eq!(redact(&once, version).unwrap(), once);
        }
    }

    #[test]
    fn what_we_build_others_accept(content in any_json(), key in proptest::option::of("[^\x00]{0,20}"), version in 1..=12_u8) {
        let version = RoomVersion::known(version.to_string()).unwrap();
        if let Ok(draft) = Draft::of(
            Some(room_id!("!r:domain").to_owned()),
            user_id!("@u:domain").to_owned(),
            "m.room.power_levels".into(),
            key,
            &content,
            1,
        ) {
            let pdu = draft.build(version, &[], 1, &[], &signer()).unwrap();
            let verified = Pdu::parse_remote(pdu.json(), version).unwrap().verify(&keys()).unwrap();
            prop_assert!(matches!(verified, Verified::All(_)));
            let object: CanonicalJsonObject = serde_json::from_str(pdu.json()).unwrap();
            prop_assert!(check_pdu_format(&object, &version.rules.event_format).is_ok());
        }
    }
}
