//! Push rules: the specification's defaults, ruma's evaluation as the measure of ours, the fast path as the measure of
//! the slow, and editing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;
use ruma::{
    events::room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent},
    push::{
        NewConditionalPushRule, NewPatternedPushRule, NewSimplePushRule, PushConditionPowerLevelsCtx,
        PushConditionRoomCtx, RuleKind,
    },
    room_id,
    serde::Raw,
    server_name, uint, user_id,
};
use serde_json::json;

use super::*;
use crate::{
    Draft, Signer,
    client_format::{Unsigned, write_client_event},
    versions::DEFAULT,
};

fn event(sender: &UserId, event_type: &str, state_key: Option<&str>, content: &Value) -> Pdu {
    let signer = Signer::new(server_name!("a.org").to_owned(), &[1; 32], "1").unwrap();
    let room = room_id!("!r:a.org").to_owned();
    let draft =
        Draft::of(Some(room), sender.to_owned(), event_type.into(), state_key.map(Into::into), content, 5).unwrap();
    draft.build(DEFAULT, &[], 1, &[], &signer).unwrap()
}

fn levels() -> PowerLevels {
    let create = event(user_id!("@admin:a.org"), "m.room.topic", Some(""), &json!({}));
    let content = json!({"users": {"@alice:a.org": 50, "@bob:a.org": 49}, "notifications": {"room": 50}});
    let levels = event(user_id!("@admin:a.org"), "m.room.power_levels", Some(""), &content);
    PowerLevels::of(DEFAULT, &create, Some(&levels)).unwrap()
}

fn bob() -> &'static UserId {
    user_id!("@bob:a.org")
}

fn alice() -> &'static UserId {
    user_id!("@alice:a.org")
}

/// What fires for Bob in a room of that size.
fn fires(rules: &Ruleset, pdu: &Pdu, member_count: u64) -> Option<(String, bool, bool)> {
    let levels = levels();
    let room = Room { member_count, levels: Some(&levels) };
    let outcome = evaluate(rules, &PushEvent::new(pdu), &room, bob(), Some("Bob B."))?;
    Some((outcome.rule_id.to_owned(), outcome.notify, outcome.highlight))
}

fn message(body: &str) -> Pdu {
    event(alice(), "m.room.message", None, &json!({"msgtype": "m.text", "body": body}))
}

#[test]
fn the_defaults_are_those_of_the_specification() {
    let rules = server_default(bob());
    let ids = |set: &mut dyn Iterator<Item = &ConditionalPushRule>| set.map(|r| r.rule_id.clone()).collect::<Vec<_>>();
    assert_eq!(
        ids(&mut rules.override_.iter()),
        [
            ".m.rule.master",
            ".m.rule.suppress_notices",
            ".m.rule.invite_for_me",
            ".m.rule.member_event",
            ".m.rule.is_user_mention",
            ".m.rule.is_room_mention",
            ".m.rule.tombstone",
            ".m.rule.reaction",
            ".m.rule.room.server_acl",
            ".m.rule.suppress_edits"
        ]
    );
    assert_eq!(
        ids(&mut rules.underride.iter()),
        [
            ".m.rule.call",
            ".m.rule.encrypted_room_one_to_one",
            ".m.rule.room_one_to_one",
            ".m.rule.message",
            ".m.rule.encrypted"
        ]
    );
    assert!(rules.content.is_empty() && rules.room.is_empty() && rules.sender.is_empty());
    assert!(is_default(&rules, bob()));
    assert!(!is_default(&rules, alice()), "two of the rules name the user");
}

#[test]
fn the_default_rules_fire() {
    let rules = server_default(bob());
    let fired = |event_type: &str, key: Option<&str>, content: Value, count| {
        fires(&rules, &event(alice(), event_type, key, &content), count)
    };
    let rule = |id: &str, notify, highlight| Some((id.to_owned(), notify, highlight));
    assert_eq!(fired("m.room.message", None, json!({"body": "x"}), 3), rule(".m.rule.message", true, false));
    assert_eq!(fired("m.room.message", None, json!({"body": "x"}), 2), rule(".m.rule.room_one_to_one", true, false));
    assert_eq!(fired("m.room.encrypted", None, json!({}), 2), rule(".m.rule.encrypted_room_one_to_one", true, false));
    assert_eq!(fired("m.room.encrypted", None, json!({}), 9), rule(".m.rule.encrypted", true, false));
    assert_eq!(fired("m.call.invite", None, json!({}), 2), rule(".m.rule.call", true, false));
    assert_eq!(
        fired("m.room.message", None, json!({"msgtype": "m.notice"}), 2),
        rule(".m.rule.suppress_notices", false, false)
    );
    assert_eq!(fired("m.room.topic", Some(""), json!({"topic": "x"}), 2), None);
    let mention = json!({"m.mentions": {"user_ids": ["@carol:a.org", "@bob:a.org"]}});
    assert_eq!(fired("m.room.message", None, mention, 3), rule(".m.rule.is_user_mention", true, true));
    // Only events that say nothing of mentions are read for ids.
    let mut text = json!({"body": "Hello @bob:a.org!"});
    assert_eq!(fired("m.room.message", None, text.clone(), 3), rule(".m.rule.is_user_mention", true, true));
    text["m.relates_to"] = json!({"rel_type": "m.replace", "event_id": "$x"});
    assert_eq!(fired("m.room.message", None, text, 3), rule(".m.rule.suppress_edits", false, false));
    for silent in [
        json!({"body": "Hello @bob:a.org!", "m.mentions": {}}),
        json!({"body": "Hello bob, @bob, @bob:b.org!"}),
        json!({"body": ["@bob:a.org"]}),
    ] {
        assert_eq!(fired("m.room.message", None, silent, 3), rule(".m.rule.message", true, false));
    }
    let everyone = json!({"m.mentions": {"room": true}});
    assert_eq!(fired("m.room.message", None, everyone.clone(), 3), rule(".m.rule.is_room_mention", true, true));
    let by_carol = event(user_id!("@carol:a.org"), "m.room.message", None, &everyone);
    assert_eq!(fires(&rules, &by_carol, 3), rule(".m.rule.message", true, false));
    let invite = json!({"membership": "invite"});
    assert_eq!(
        fired("m.room.member", Some("@bob:a.org"), invite.clone(), 3),
        rule(".m.rule.invite_for_me", true, false)
    );
    assert_eq!(fired("m.room.member", Some("@carol:a.org"), invite, 3), rule(".m.rule.member_event", false, false));
    assert_eq!(fired("m.room.tombstone", Some(""), json!({}), 3), rule(".m.rule.tombstone", true, true));
    assert_eq!(fired("m.room.tombstone", Some("x"), json!({}), 3), None);
    assert_eq!(fired("m.reaction", None, json!({}), 3), rule(".m.rule.reaction", false, false));
    let edit = json!({"body": "x", "m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}});
    assert_eq!(fired("m.room.message", None, edit, 3), rule(".m.rule.suppress_edits", false, false));
    let own = event(bob(), "m.room.message", None, &json!({"m.mentions": {"user_ids": ["@bob:a.org"]}}));
    assert_eq!(fires(&rules, &own, 3), None, "never one's own events");
}

#[test]
fn tweaks_go_to_the_gateway() {
    let rules = server_default(bob());
    let levels = levels();
    let room = Room { member_count: 3, levels: Some(&levels) };
    let pdu = event(alice(), "m.room.message", None, &json!({"m.mentions": {"user_ids": ["@bob:a.org"]}}));
    let push = PushEvent::new(&pdu);
    let outcome = evaluate(&rules, &push, &room, bob(), None).unwrap();
    assert_eq!(Value::Object(outcome.tweaks()), json!({"sound": "default", "highlight": true}));
    let pdu = message("x");
    let push = PushEvent::new(&pdu);
    assert!(evaluate(&rules, &push, &room, bob(), None).unwrap().tweaks().is_empty());
}

fn actions(json: Value) -> Vec<Action> {
    serde_json::from_value(json).unwrap()
}

fn keyword(id: &str, pattern: &str) -> NewRule {
    let actions = actions(json!(["notify", {"set_tweak": "highlight"}]));
    NewRule::Content(NewPatternedPushRule::new(id.to_owned(), pattern.to_owned(), actions))
}

fn mute(room: &RoomId) -> NewRule {
    NewRule::Room(NewSimplePushRule::new(room.to_string(), vec![]))
}

fn conditional(id: &str, conditions: Value, acts: Value) -> NewRule {
    let rule = NewConditionalPushRule::new(id.to_owned(), serde_json::from_value(conditions).unwrap(), actions(acts));
    NewRule::Override(rule)
}

#[test]
fn users_rules_fire_in_the_order_of_kinds() {
    let mut rules = server_default(bob());
    edit::put(&mut rules, mute(room_id!("!r:a.org")), None, None).unwrap();
    assert_eq!(fires(&rules, &message("cake"), 3).unwrap(), ("!r:a.org".to_owned(), false, false));
    edit::put(&mut rules, keyword("cake", "c?ke"), None, None).unwrap();
    assert_eq!(fires(&rules, &message("have CAKE!"), 3).unwrap(), ("cake".to_owned(), true, true));
    assert_eq!(fires(&rules, &message("cakes"), 3).unwrap().0, "!r:a.org");
    let conditions = json!([{"kind": "event_match", "key": "content.body", "pattern": "have"},
        {"kind": "room_member_count", "is": "<=10"}]);
    edit::put(&mut rules, conditional("few", conditions, json!(["dont_notify"])), None, None).unwrap();
    assert_eq!(fires(&rules, &message("have cake"), 10).unwrap(), ("few".to_owned(), false, false));
    assert_eq!(fires(&rules, &message("have cake"), 11).unwrap().0, "cake");
    edit::set_enabled(&mut rules, &RuleKind::Override, ".m.rule.master", true).unwrap();
    assert_eq!(fires(&rules, &message("have cake"), 10).unwrap(), (".m.rule.master".to_owned(), false, false));
}

#[test]
fn unknown_conditions_never_hold() {
    let mut rules = Ruleset::new();
    edit::put(
        &mut rules,
        conditional("odd", json!([{"kind": "org.example.moon", "is": "full"}]), json!(["notify"])),
        None,
        None,
    )
    .unwrap();
    assert_eq!(fires(&rules, &message("x"), 3), None);
}

#[test]
fn old_rules_of_users_still_work() {
    let mut rules = server_default(bob());
    edit::put(
        &mut rules,
        conditional("name", json!([{"kind": "contains_display_name"}]), json!(["notify"])),
        None,
        None,
    )
    .unwrap();
    assert_eq!(fires(&rules, &message("ask bob b. about it"), 3).unwrap().0, "name");
    assert_eq!(fires(&rules, &message("ask bob"), 3).unwrap().0, ".m.rule.message");

    let stored: Ruleset = serde_json::from_value(json!({"override": [
        {"rule_id": ".m.rule.master", "default": true, "enabled": true, "conditions": [], "actions": ["dont_notify"]},
        {"rule_id": "mine", "default": false, "enabled": true, "conditions": [], "actions": ["notify"]},
        {"rule_id": ".m.rule.contains_display_name", "default": true, "enabled": true, "actions": ["notify"],
            "conditions": [{"kind": "contains_display_name"}]},
    ]}))
    .unwrap();
    let updated = with_defaults(stored, bob());
    let ids: Vec<_> = updated.override_.iter().map(|r| r.rule_id.as_str()).take(3).collect();
    assert_eq!(ids, [".m.rule.master", "mine", ".m.rule.suppress_notices"]);
    assert!(updated.override_.get(".m.rule.master").unwrap().enabled);
    assert!(updated.override_.get(".m.rule.contains_display_name").is_none());
}

#[test]
fn rules_are_placed_where_asked() {
    let mut rules = server_default(bob());
    let order = |rules: &Ruleset| rules.content.iter().map(|r| r.rule_id.clone()).collect::<Vec<_>>().join("");
    let put = |rules: &mut Ruleset, id: &str, before: Option<&str>, after: Option<&str>| {
        edit::put(rules, keyword(id, id), before, after)
    };
    for id in ["c", "b", "a"] {
        put(&mut rules, id, None, None).unwrap();
    }
    assert_eq!(order(&rules), "abc");
    put(&mut rules, "a", None, Some("c")).unwrap();
    assert_eq!(order(&rules), "bca");
    put(&mut rules, "a", Some("b"), None).unwrap();
    assert_eq!(order(&rules), "abc");
    put(&mut rules, "x", Some("c"), Some("a")).unwrap();
    assert_eq!(order(&rules), "abxc");
    edit::set_enabled(&mut rules, &RuleKind::Content, "b", false).unwrap();
    put(&mut rules, "b", None, None).unwrap();
    assert_eq!(order(&rules), "abxc");
    assert!(!rules.content.get("b").unwrap().enabled, "changing does not switch");

    for (id, before, after) in [
        (".mine", None, None),
        ("a/b", None, None),
        ("a\\b", None, None),
        ("y", Some(".m.rule.master"), None),
        ("y", None, Some("nowhere")),
        ("y", Some("y"), None),
        ("y", Some("a"), Some("nowhere")),
    ] {
        let error = put(&mut rules, id, before, after).unwrap_err();
        assert_eq!(error.status().as_u16(), 400);
        assert_eq!(order(&rules), "abxc", "a refused change changes nothing");
    }

    let all = json!([]);
    edit::put(&mut rules, conditional("first", all.clone(), json!([])), None, None).unwrap();
    let ids: Vec<_> = rules.override_.iter().map(|r| r.rule_id.as_str()).take(3).collect();
    assert_eq!(ids, [".m.rule.master", "first", ".m.rule.suppress_notices"]);
    edit::put(&mut Ruleset::new(), conditional("alone", all, json!([])), None, None).unwrap();
}

#[test]
fn rules_are_deleted_and_changed() {
    let mut rules = server_default(bob());
    edit::put(&mut rules, keyword("a", "a"), None, None).unwrap();
    edit::set_actions(&mut rules, &RuleKind::Content, "a", vec![]).unwrap();
    assert_eq!(fires(&rules, &message("a"), 3).unwrap(), ("a".to_owned(), false, false));
    edit::delete(&mut rules, &RuleKind::Content, "a").unwrap();
    let codes = |r: Result<(), hearth_base::Error>| r.unwrap_err().status().as_u16();
    assert_eq!(codes(edit::delete(&mut rules, &RuleKind::Content, "a")), 404);
    assert_eq!(codes(edit::set_enabled(&mut rules, &RuleKind::Room, "a", true)), 404);
    assert_eq!(codes(edit::set_actions(&mut rules, &RuleKind::from("odd"), "a", vec![])), 404);
    assert_eq!(codes(edit::delete(&mut rules, &RuleKind::Override, ".m.rule.master")), 400);
    edit::set_actions(&mut rules, &RuleKind::Override, ".m.rule.reaction", actions(json!(["notify"]))).unwrap();
    assert!(!is_default(&rules, bob()));
}

#[test]
fn unread_is_what_there_is_to_read() {
    let unread = |event_type: &str, key: Option<&str>, content: Value| {
        PushEvent::new(&event(alice(), event_type, key, &content)).counts_as_unread()
    };
    assert!(unread("m.room.message", None, json!({"body": "x"})));
    assert!(unread("m.room.encrypted", None, json!({})));
    assert!(unread("m.room.name", Some(""), json!({})));
    assert!(!unread("m.room.message", None, json!({"body": "x", "msgtype": "m.notice"})));
    assert!(!unread("m.room.message", None, json!({"body": ""})));
    assert!(!unread("m.room.encrypted", None, json!({"m.relates_to": {"rel_type": "m.replace"}})));
    assert!(!unread("m.room.member", Some("@x:a.org"), json!({})));
    assert!(!unread("m.reaction", None, json!({})));
}

fn any_event() -> impl Strategy<Value = Pdu> {
    let sender = prop::sample::select(vec![alice(), bob(), user_id!("@carol:a.org")]);
    let event_type = prop::sample::select(vec![
        "m.room.message",
        "M.Room.Message",
        "m.room.encrypted",
        "m.reaction",
        "m.room.member",
        "m.room.tombstone",
        "m.room.server_acl",
        "m.call.invite",
        "m.room.topic",
        "org.example",
    ]);
    let key = prop::sample::select(vec![None, Some(""), Some("@bob:a.org"), Some("x")]);
    let mentions = prop::sample::select(vec![
        Value::Null,
        json!({}),
        json!({"room": true}),
        json!({"room": "true"}),
        json!({"user_ids": ["@bob:a.org"]}),
        json!({"user_ids": ["@carol:a.org", 1]}),
        json!({"user_ids": "@bob:a.org", "room": true}),
        json!([]),
    ]);
    let msgtype = prop::sample::select(vec![Value::Null, json!("m.notice"), json!("m.text"), json!(3)]);
    let membership = prop::sample::select(vec![json!("invite"), json!("join")]);
    let relates =
        prop::sample::select(vec![Value::Null, json!({"rel_type": "m.replace"}), json!({"rel_type": ["m.replace"]})]);
    let body = prop_oneof!["[ab _.!]{0,8}".prop_map(Value::from), Just(json!(4)), Just(json!("Bob cakes cake"))];
    (sender, event_type, key, mentions, msgtype, membership, relates, body).prop_map(
        |(sender, event_type, key, mentions, msgtype, membership, relates, body)| {
            let mut content =
                json!({"membership": membership, "body": body, "n": 7, "list": [1, "x", true, null, [1]]});
            for (name, value) in [("m.mentions", mentions), ("msgtype", msgtype), ("m.relates_to", relates)] {
                if !value.is_null() {
                    content[name] = value;
                }
            }
            event(sender, event_type, key, &content)
        },
    )
}

fn any_rules() -> impl Strategy<Value = Ruleset> {
    let pattern = prop::sample::select(vec!["a", "ab", "a*", "*b", "a?b", "cake", "c*", "b a", "_", "!", "*", "?"]);
    let condition = prop::sample::select(vec![
        json!({"kind": "event_match", "key": "content.body", "pattern": "a b"}),
        json!({"kind": "event_match", "key": "type", "pattern": "m.room.*"}),
        json!({"kind": "event_match", "key": "content.membership", "pattern": "INVITE"}),
        json!({"kind": "event_match", "key": "content.m\\.relates_to.rel_type", "pattern": "*"}),
        json!({"kind": "event_match", "key": "room_id", "pattern": "!r*"}),
        json!({"kind": "event_match", "key": "content", "pattern": "*"}),
        json!({"kind": "event_property_is", "key": "content.n", "value": 7}),
        json!({"kind": "event_property_is", "key": "state_key", "value": ""}),
        json!({"kind": "event_property_is", "key": "origin_server_ts", "value": 5}),
        json!({"kind": "event_property_is", "key": "content.msgtype", "value": null}),
        json!({"kind": "event_property_contains", "key": "content.list", "value": null}),
        json!({"kind": "event_property_contains", "key": "content.list", "value": "x"}),
        json!({"kind": "event_property_contains", "key": "content.n", "value": 7}),
        json!({"kind": "room_member_count", "is": ">2"}),
        json!({"kind": "contains_display_name"}),
        json!({"kind": "sender_notification_permission", "key": "room"}),
    ]);
    let own = prop::collection::vec((condition.clone(), condition), 0..3);
    (own, prop::collection::vec(pattern, 0..3), any::<bool>(), any::<bool>()).prop_map(
        |(own, patterns, room, sender)| {
            let mut rules = server_default(bob());
            for (n, (one, two)) in own.into_iter().enumerate() {
                edit::put(&mut rules, conditional(&format!("c{n}"), json!([one, two]), json!(["notify"])), None, None)
                    .unwrap();
            }
            for pattern in patterns {
                edit::put(&mut rules, keyword(pattern, pattern), None, None).unwrap();
            }
            if room {
                edit::put(&mut rules, mute(room_id!("!r:a.org")), None, None).unwrap();
            }
            if sender {
                let rule = NewRule::Sender(NewSimplePushRule::new(alice().to_string(), vec![]));
                edit::put(&mut rules, rule, None, None).unwrap();
            }
            rules
        },
    )
}

/// What ruma makes of it.
fn theirs(rules: &Ruleset, pdu: &Pdu, member_count: u64) -> Option<(String, bool, bool)> {
    let mut text = String::new();
    write_client_event(&mut text, pdu, true, &Unsigned::default());
    let raw: Raw<()> = Raw::from_json_string(text).unwrap();
    let content: RoomPowerLevelsEventContent =
        serde_json::from_value(json!({"users": {"@alice:a.org": 50, "@bob:a.org": 49}})).unwrap();
    let levels =
        RoomPowerLevels::new(content.into(), &DEFAULT.rules.authorization, [user_id!("@admin:a.org").to_owned()]);
    let levels = PushConditionPowerLevelsCtx::from(levels);
    let room = room_id!("!r:a.org").to_owned();
    let count = ruma::UInt::new_saturating(member_count).max(uint!(0));
    let context =
        PushConditionRoomCtx::new(room, count, bob().to_owned(), "Bob B.".to_owned()).with_power_levels(levels);
    let rules: ruma::push::Ruleset = serde_json::from_value(serde_json::to_value(rules).unwrap()).unwrap();
    let matched = pin!(rules.get_match(&raw, &context));
    let Poll::Ready(matched) = matched.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("waits for nothing")
    };
    let rule = matched?;
    Some((
        rule.rule_id().to_owned(),
        rule.triggers_notification(),
        rule.triggers_notification() && rule.triggers_highlight(),
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn we_and_ruma_agree(rules in any_rules(), pdu in any_event(), member_count in 1..4_u64) {
        prop_assert_eq!(fires(&rules, &pdu, member_count), theirs(&rules, &pdu, member_count));
    }

    #[test]
    fn the_fast_path_says_what_the_default_rules_say(pdu in any_event(), member_count in 1..4_u64) {
        let levels = levels();
        let room = Room { member_count, levels: Some(&levels) };
        let push = PushEvent::new(&pdu);
        let fast = default_outcome(&push, &room);
        for user in [alice(), bob(), user_id!("@carol:a.org"), user_id!("@dave:a.org")] {
            let rules = server_default(user);
            let slow = evaluate(&rules, &push, &room, user, None);
            let sound = slow.and_then(|o| Some(o.tweaks().get("sound")?.as_str()?.to_owned()));
            let slow = slow.map(|o| (o.notify, o.highlight)).unwrap_or_default();
            let fast = fast.to(user);
            prop_assert_eq!((fast.notify, fast.highlight, fast.sound.map(str::to_owned)), (slow.0, slow.1, sound));
        }
    }
}
