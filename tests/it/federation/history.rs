//! History that is elsewhere: what lies before a join, what happened while nobody of a server was in the room, and what
//! each may see of it.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    joining::joins_through,
    support::{Lie, Peer, Peers},
};
use crate::support::{
    User,
    rooms::{V3, bodies, encoded, event_id, joined, state_of, txn},
};

/// A server that does not leave gaps alone for long.
async fn curious(last: u8) -> Peer {
    Peers::one(last, |plan| {
        plan.services(|s| {
            s.federation.backfill.first = Duration::from_millis(300);
            s.federation.backfill.longest = Duration::from_millis(300);
        })
    })
    .await
}

fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|e| e["event_id"].as_str().unwrap().to_owned()).collect()
}

/// What was said, oldest first, as one user reads all pages.
pub async fn read(user: &User, room: &str, size: usize) -> Vec<String> {
    let mut all = user.reads_all(room, None, size).await;
    all.reverse();
    all.iter().filter_map(|e| e["content"]["body"].as_str().map(str::to_owned)).collect()
}

/// Waits until somebody was told an event.
pub async fn hears(user: &User, room: &str, event: &str) {
    for _ in 0..400 {
        if user.in_room(room, &format!("event/{}", encoded(event))).await.status.is_success() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{} was not told {event}", user.id);
}

/// Waits until somebody sees another in the room.
pub async fn sees(user: &User, room: &str, whom: &User) {
    for _ in 0..400 {
        let member = user.reads(room, "m.room.member", whom.id.as_str()).await;
        if member.status.is_success() && member.good()["membership"] == "join" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{} does not see {}", user.id, whom.id);
}

async fn relates(user: &User, room: &str, to: &str, rel_type: &str, body: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": body, "m.new_content": { "msgtype": "m.text", "body": body },
        "m.relates_to": { "rel_type": rel_type, "event_id": to },
    });
    event_id(&user.sends(room, "m.room.message", &txn(), content).await.good())
}

#[tokio::test]
async fn what_lies_before_a_join_is_fetched_as_it_is_read() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    for version in ["6", "11", "12"] {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version })).await;
        let mut said = Vec::new();
        for n in 0..130 {
            said.push(alice.says(&room, &format!("{n}")).await);
            if n == 60 {
                alice.sets(&room, "m.room.topic", "", json!({ "topic": "one" })).await.good();
                alice.sets(&room, "m.room.topic", "", json!({ "topic": "two" })).await.good();
            }
        }
        relates(&alice, &room, &said[3], "m.replace", "better").await;
        relates(&alice, &room, &said[4], "m.thread", "in a thread").await;
        let redaction = event_id(&alice.redacts(&room, &said[5]).await.good());
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        let last = bob.says(&room, "last").await;
        hears(&alice, &room, &last).await;

        // A sync with all members has the room once they are known.
        bob.in_room(&room, "members").await.good();
        let asked = || here.was_asked_for("/backfill/");
        let before = asked();
        let first = bob.syncs("").await;
        let timeline = &joined(&first, &room)["timeline"];
        assert_eq!((&timeline["limited"], asked()), (&json!(true), before), "what is not here is left to pages");
        let from = timeline["prev_batch"].as_str().unwrap();
        let mut theirs = bob.reads_all(&room, Some(from), 20).await;
        let shown = timeline["events"].as_array().unwrap();
        theirs.splice(0..0, shown.iter().rev().cloned());
        let ours = alice.reads_all(&room, None, 50).await;
        assert_eq!(ids(&theirs), ids(&ours), "version {version}");
        // 150 events and the create event take two questions of a hundred.
        assert_eq!(asked() - before, 2);
        assert_eq!(theirs.last().unwrap()["type"], "m.room.create");

        // What hangs on an event is known, whichever came first.
        let of = |id: &str| theirs.iter().find(|e| e["event_id"] == id).unwrap();
        assert_eq!(of(&said[3])["unsigned"]["m.relations"]["m.replace"]["content"]["body"], "better");
        assert_eq!(
            of(&said[4])["unsigned"]["m.relations"]["m.thread"]["latest_event"]["content"]["body"],
            "in a thread"
        );
        assert_eq!((&of(&said[5])["content"], of(&said[6])["content"]["body"].as_str()), (&json!({}), Some("6")));
        assert_eq!(of(&said[5])["unsigned"]["redacted_because"]["event_id"], redaction);
        // And what stood before a change of state.
        let topics: Vec<&Value> = theirs.iter().filter(|e| e["type"] == "m.room.topic").collect();
        assert_eq!(topics[0]["unsigned"]["prev_content"]["topic"], "one");
        assert!(theirs.iter().all(|e| e["type"] != "m.room.message" || e["unsigned"]["membership"].is_string()));

        // It is here now: forwards, in context, in one page, without a question more.
        let forward = bob.pages(&room, "dir=f&limit=1000").await;
        let mut forward = ids(forward["chunk"].as_array().unwrap());
        forward.reverse();
        assert_eq!(forward, ids(&ours));
        let context = bob.in_room(&room, &format!("context/{}?limit=4", encoded(&said[50]))).await.good();
        assert_eq!(
            (bodies(&context["events_before"]), bodies(&context["events_after"])),
            (vec!["49", "48"], vec!["51", "52"])
        );
        assert_eq!(ids(&bob.reads_all(&room, None, 1000).await), ids(&ours));
        assert_eq!(asked() - before, 2);
        // Nothing of it is news, or unread.
        let news = bob.syncs_since(first["next_batch"].as_str().unwrap()).await;
        assert!(joined(&news, &room).is_null(), "{news}");
    }
}

#[tokio::test]
async fn pages_show_what_the_room_let_be_seen_at_the_time() {
    let [here, there] = Peers::two().await;
    for (visibility, stay, expected) in [
        ("world_readable", true, vec!["before", "invited", "in", "later"]),
        ("shared", true, vec!["before", "invited", "in", "later"]),
        ("shared", false, vec!["before", "invited", "in"]),
        ("invited", true, vec!["invited", "in", "later"]),
        ("invited", false, vec!["invited", "in"]),
        ("joined", true, vec!["in", "later"]),
        ("joined", false, vec!["in"]),
    ] {
        let tag = format!("{}{}", visibility.replace('_', "-"), if stay { "stay" } else { "go" });
        let (alice, carol) = (here.user(&format!("alice-{tag}")).await, there.user(&format!("carol-{tag}")).await);
        let bob = there.user(&format!("bob-{tag}")).await;
        let setting = json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } });
        let room = alice.creates(json!({ "preset": "public_chat", "initial_state": [setting] })).await;
        alice.says(&room, "before").await;
        alice.invites(&room, &bob).await.good();
        alice.says(&room, "invited").await;
        bob.joins(&room).await.good();
        // Another of the same server, who came when all had been said.
        let said = alice.says(&room, "in").await;
        hears(&bob, &room, &said).await;
        if !stay {
            // Or the states of his stay would be forgotten when Carol enters.
            super::partial::is_whole(&there, &room).await;
            bob.leaves(&room).await.good();
            joins_through(&carol, &room, &[here.name().as_str()]).await.good();
        } else {
            carol.joins(&room).await.good();
            // Or what Alice says next would not follow it.
            sees(&alice, &room, &carol).await;
        }
        let said = alice.says(&room, "later").await;
        hears(&carol, &room, &said).await;
        assert_eq!(read(&bob, &room, 3).await, expected, "{visibility}, stays: {stay}");
        let carols: &[&str] = match visibility {
            "world_readable" | "shared" => &["before", "invited", "in", "later"],
            _ => &["later"],
        };
        assert_eq!(read(&carol, &room, 3).await, carols, "{visibility}, stays: {stay}");
        // What each was at the time.
        for event in bob.reads_all(&room, None, 100).await {
            let is = match event["content"]["body"].as_str() {
                Some("before") => "leave",
                Some("invited") => "invite",
                Some("in") => "join",
                _ => continue,
            };
            assert_eq!(event["unsigned"]["membership"], is, "{visibility} {event}");
        }
    }
}

#[tokio::test]
async fn what_happened_while_nobody_was_there_is_a_gap_that_pages_fill() {
    let [here, third] = [Peers::one(2, |p| p).await, Peers::one(4, |p| p).await];
    let there = curious(3).await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let room = alice.opens().await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let early = alice.says(&room, "early").await;
    hears(&bob, &room, &early).await;
    let since = bob.now().await;
    bob.leaves(&room).await.good();
    let left = bob.syncs_since(&since).await;
    assert!(left["rooms"]["leave"][&room].is_object(), "{left}");
    let (since, dave) = (left["next_batch"].as_str().unwrap().to_owned(), there.user("dave").await);
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    for n in 0..5 {
        alice.says(&room, &format!("meanwhile {n}")).await;
    }
    // Somebody else of the server comes; who left sees nothing of it.
    joins_through(&dave, &room, &[here.name().as_str()]).await.good();
    let news = bob.syncs_since(&since).await;
    assert!(news["rooms"]["leave"].is_null(), "who had left is not told so again: {news}");
    let all = ["early", "meanwhile 0", "meanwhile 1", "meanwhile 2", "meanwhile 3", "meanwhile 4"];
    assert_eq!(read(&dave, &room, 2).await, all);
    assert_eq!(read(&bob, &room, 2).await, ["early"]);
    dave.leaves(&room).await.good();
    alice.says(&room, "later").await;

    bob.joins(&room).await.good();
    bob.in_room(&room, "members").await.good();
    let news = bob.syncs_since(&since).await;
    let timeline = &joined(&news, &room)["timeline"];
    assert_eq!((&timeline["limited"], bodies(&timeline["events"]).len()), (&json!(true), 0), "{news}");
    let state = &joined(&news, &room)["state"]["events"];
    assert!(state_of(state, "m.room.member", carol.id.as_str()).is_some(), "{news}");
    let from = timeline["prev_batch"].as_str().unwrap();
    let page = bob.pages(&room, &format!("dir=b&limit=6&from={}", encoded(from))).await;
    assert_eq!(bodies(&page["chunk"])[..2], ["later", "meanwhile 4"]);
    // Filled or not, whoever syncs over it later is not led over it.
    let news = bob.syncs_since(&since).await;
    assert_eq!(joined(&news, &room)["timeline"]["limited"], true);
    // The room's other servers are known anew.
    let said = bob.says(&room, "back").await;
    hears(&carol, &room, &said).await;
    hears(&alice, &room, &said).await;
}

#[tokio::test]
async fn who_reads_on_is_led_over_no_gap() {
    let here = Peers::one(2, |p| p).await;
    let there = curious(3).await;
    let (alice, bob, dave) = (here.user("alice").await, there.user("bob").await, there.user("dave").await);
    for by_context in [false, true] {
        let room = alice.opens().await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        let early = alice.says(&room, "early").await;
        hears(&bob, &room, &early).await;
        bob.leaves(&room).await.good();
        let all: Vec<String> = (0..6).map(|n| format!("meanwhile {n}")).collect();
        for text in &all {
            alice.says(&room, text).await;
        }
        joins_through(&dave, &room, &[here.name().as_str()]).await.good();
        let limit = if by_context { 20 } else { 0 };
        let context = dave.in_room(&room, &format!("context/{}?limit={limit}", encoded(&early))).await.good();
        let found = match by_context {
            true => context["events_after"].clone(),
            false => {
                let from = encoded(context["end"].as_str().unwrap());
                dave.pages(&room, &format!("dir=f&limit=20&from={from}")).await["chunk"].clone()
            }
        };
        assert_eq!(bodies(&found), all, "{found}");
    }
}

/// Changes the answers of what is asked for by such a path.
fn lie(what: &'static str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Option<Lie> {
    Some(Arc::new(move |path, body| {
        if path.contains(what) {
            change(body);
        }
    }))
}

#[tokio::test]
async fn servers_with_nothing_or_rubbish_are_passed_over() {
    let [here, third] = [Peers::one(2, |p| p).await, Peers::one(4, |p| p).await];
    let there = curious(3).await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let lies: Vec<(&str, Option<Lie>)> = vec![
        ("nothing", lie("/backfill/", |b| b["pdus"] = json!([]))),
        ("no list", lie("/backfill/", |b| b["pdus"] = json!({}))),
        ("no events", lie("/backfill/", |b| b["pdus"] = json!([1, "x", {}, { "type": "m.room.message" }]))),
        (
            "what nobody signed",
            lie("/backfill/", |b| {
                for event in b["pdus"].as_array_mut().unwrap() {
                    event["content"] = json!({ "body": "forged" });
                    event["signatures"] = json!({});
                }
            }),
        ),
        ("all but what was asked for", lie("/backfill/", |b| drop(b["pdus"].as_array_mut().unwrap().remove(0)))),
        ("no state", lie("/state_ids/", |b| *b = json!({ "pdu_ids": ["$nothing"], "auth_chain_ids": [] }))),
    ];
    for (what, told) in lies {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
        joins_through(&carol, &room, &[here.name().as_str()]).await.good();
        // So much that the room's beginning is no part of a page: the state at its end must be told.
        for n in 0..110 {
            alice.says(&room, &format!("{n}")).await;
        }
        let mark = alice.says(&room, "mark").await;
        hears(&carol, &room, &mark).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        sees(&carol, &room, &bob).await;
        here.lies(told);
        // The first that is asked is the creator's server; the other has it all.
        let page = bob.pages(&room, "dir=b&limit=5").await;
        assert_eq!(bodies(&page["chunk"])[..2], ["mark", "109"], "{what}");
        here.lies(None);
    }
}

#[tokio::test]
async fn who_cannot_be_reached_slows_nobody_and_is_asked_again_later() {
    let here = Peers::one(2, |p| p).await;
    let there = curious(3).await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    for n in 0..5 {
        alice.says(&room, &format!("{n}")).await;
    }
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    here.goes_away();
    assert!(read(&bob, &room, 5).await.is_empty());
    let begun = std::time::Instant::now();
    for _ in 0..5 {
        assert!(read(&bob, &room, 5).await.is_empty());
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    here.comes_back();
    for _ in 0..200 {
        if read(&bob, &room, 5).await == ["0", "1", "2", "3", "4"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("history was not asked for again");
}

#[tokio::test]
async fn many_readers_share_a_question() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    for n in 0..5 {
        alice.says(&room, &format!("{n}")).await;
    }
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let page = || read(&bob, &room, 100);
    let (one, two, three, four) = tokio::join!(page(), page(), page(), page());
    for page in [one, two, three, four] {
        assert_eq!(page, ["0", "1", "2", "3", "4"]);
    }
    assert_eq!(here.was_asked_for("/backfill/"), 1);
}

#[tokio::test]
async fn an_event_is_found_by_its_time_where_it_is() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    let mut said = Vec::new();
    for n in 0..60 {
        said.push(alice.says(&room, &format!("{n}")).await);
        // Times of their own.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    let wanted = alice.in_room(&room, &format!("event/{}", encoded(&said[30]))).await.good();
    let ts = wanted["origin_server_ts"].as_u64().unwrap();
    let find = |dir: &'static str, ts: u64| {
        let path = format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?dir={dir}&ts={ts}", encoded(&room));
        let bob = &bob;
        async move { bob.get(&path).await }
    };
    assert_eq!(find("f", ts).await.good()["event_id"], said[30]);
    assert_eq!(find("b", ts).await.good()["event_id"], said[30]);
    // It has its place: what stands around it can be read, and all of it in order.
    let context = bob.in_room(&room, &format!("context/{}?limit=4", encoded(&said[30]))).await.good();
    assert_eq!(bodies(&context["events_before"]), ["29", "28"]);
    let all: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    assert_eq!(read(&bob, &room, 7).await, all);
    find("f", 1 << 50).await.refused(404, "M_NOT_FOUND");
    assert_eq!(
        bob.get(&format!("{V3}/rooms/{}/messages?dir=b&limit=1", encoded(&room))).await.good()["chunk"][0]["type"],
        "m.room.member"
    );
}

#[tokio::test]
async fn a_sync_tells_what_changed_without_an_event() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    let room = alice.creates(json!({ "preset": "public_chat", "topic": "old" })).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    carol.joins(&room).await.good();
    let levels = json!({ "users": { carol.id.as_str(): 50 } });
    let before = bob.now().await;
    alice.sets(&room, "m.room.power_levels", "", levels).await.good();
    for _ in 0..400 {
        let levels = bob.reads(&room, "m.room.power_levels", "").await.good();
        if levels["users"][carol.id.as_str()] == 50 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    here.goes_away();
    there.goes_away();
    // At the same time: one sets the topic, another takes away her power to.
    let set = event_id(&carol.sets(&room, "m.room.topic", "", json!({ "topic": "hers" })).await.good());
    let since = bob.now().await;
    let after = |since: &str| format!("since={}&use_state_after=true", encoded(since));
    assert_eq!(bob.reads(&room, "m.room.topic", "").await.good()["topic"], "hers");
    alice.does_to(&room, "kick", &carol).await.good();
    here.comes_back();
    there.comes_back();
    // What is owed goes out with the next of it, at the latest.
    let ping = alice.says(&room, "ping").await;
    hears(&bob, &room, &ping).await;
    assert_eq!(bob.reads(&room, "m.room.topic", "").await.good()["topic"], "old");

    let news = bob.syncs_since(&since).await;
    let topic =
        |section: &Value| state_of(&section["events"], "m.room.topic", "").map(|e| e["content"]["topic"].clone());
    let room_news = joined(&news, &room);
    assert_eq!(room_news["timeline"]["limited"], false, "{news}");
    assert_eq!(topic(&room_news["state"]), Some(json!("old")), "{news}");
    let news = bob.syncs(&after(&since)).await;
    assert_eq!(topic(&joined(&news, &room)["state_after"]), Some(json!("old")), "{news}");
    // From before it all: the event is told, and in the form for that, that it does not count.
    let news = bob.syncs(&after(&before)).await;
    let timeline = joined(&news, &room)["timeline"]["events"].as_array().unwrap().clone();
    assert!(ids(&timeline).contains(&set), "{news}");
    // Who begins now has what holds.
    for limit in [1, 100] {
        let filter = encoded(&json!({ "room": { "timeline": { "limit": limit } } }).to_string());
        let all = bob.syncs(&format!("filter={filter}")).await;
        let room_now = joined(&all, &room);
        let in_timeline = topic(
            &json!({ "events": room_now["timeline"]["events"].as_array().unwrap().iter().rev().collect::<Vec<_>>() }),
        );
        if in_timeline.is_none() {
            assert_eq!(topic(&room_now["state"]), Some(json!("old")), "{all}");
        }
    }
    // She was put out of the room by an event of the other branch.
    let hers = carol.syncs("filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D").await;
    assert!(hers["rooms"]["leave"][&room].is_object(), "{hers}");
}
