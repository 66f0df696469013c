//! Going into rooms of other servers: through whom, into what, and with answers that lie.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, response::IntoResponse as _};
use futures_util::FutureExt as _;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    hostile::{answers, hears},
    partial::is_whole,
    support::{Lie, Peer, Peers, on_the_web},
};
use crate::support::{
    Answer, User,
    rooms::{V3, encoded, joined, state_of},
};

/// The versions whose rules differ in what a join is about.
const VERSIONS: [&str; 8] = ["1", "2", "3", "6", "9", "10", "11", "12"];

/// Joins through servers.
pub async fn joins_through(user: &User, room: &str, servers: &[&str]) -> Answer {
    let via: Vec<String> = servers.iter().map(|s| format!("via={}", encoded(s))).collect();
    user.post(&format!("{V3}/join/{}?{}", encoded(room), via.join("&")), json!({})).await
}

/// What a user is in a room, as somebody there sees it.
pub async fn membership(asked: &User, room: &str, whose: &User) -> String {
    let content = asked.reads(room, "m.room.member", whose.id.as_str()).await.good();
    content["membership"].as_str().unwrap().to_owned()
}

/// The whole state of a room in a comparable form.
pub async fn state(asked: &User, room: &str) -> Vec<String> {
    let state = asked.in_room(room, "state").await.good();
    let mut ids: Vec<String> =
        state.as_array().unwrap().iter().map(|e| e["event_id"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_room_of_each_version_is_joined() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    for version in VERSIONS {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version, "name": "Far away" })).await;
        alice.says(&room, "before").await;
        let since = bob.now().await;
        assert_eq!(joins_through(&bob, &room, &[here.name().as_str()]).await.good()["room_id"], room);
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        assert_eq!(state(&alice, &room).await, state(&bob, &room).await, "version {version}");
        let news = bob.syncs_since(&since).await;
        let news = joined(&news, &room);
        let mut seen = news["state"]["events"].as_array().unwrap().clone();
        seen.extend(news["timeline"]["events"].as_array().unwrap().iter().cloned());
        let seen = json!(seen);
        assert_eq!(state_of(&seen, "m.room.name", "").unwrap()["content"]["name"], "Far away", "{news}");
        assert_eq!(state_of(&seen, "m.room.member", bob.id.as_str()).unwrap()["content"]["displayname"], "bob");
        assert_eq!(news["summary"]["m.joined_member_count"], 2);
        // The next of the same server needs nobody else.
        let asked = here.was_asked_for("make_join");
        carol.joins(&room).await.good();
        assert_eq!(membership(&bob, &room, &carol).await, "join");
        assert_eq!(here.was_asked_for("make_join"), asked);
        bob.says(&room, "hello").await;
    }
}

#[tokio::test]
async fn both_ways_and_by_alias() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let one = alice.creates(json!({ "preset": "public_chat", "room_alias_name": "one" })).await;
    let other = bob.creates(json!({ "preset": "public_chat", "room_alias_name": "other" })).await;
    assert_eq!(bob.joins(&format!("#one:{}", here.name())).await.good()["room_id"], one);
    assert_eq!(alice.joins(&format!("#other:{}", there.name())).await.good()["room_id"], other);
    assert_eq!(membership(&alice, &one, &bob).await, "join");
    assert_eq!(membership(&bob, &other, &alice).await, "join");
    bob.joins(&format!("#none:{}", here.name())).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn several_servers_are_tried_and_the_most_telling_answer_is_told() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let open = alice.opens().await;
    let closed = alice.creates(json!({ "preset": "private_chat" })).await;
    // Nobody is there, and who is there is not in the room.
    let via = ["127.0.0.9:1", third.name().as_str(), here.name().as_str()];
    joins_through(&bob, &open, &via).await.good();
    assert_eq!(membership(&alice, &open, &bob).await, "join");
    let via = ["127.0.0.9:1", here.name().as_str(), third.name().as_str()];
    joins_through(&bob, &closed, &via).await.refused(403, "M_FORBIDDEN");
    joins_through(&bob, &closed, &[third.name().as_str()]).await.refused(404, "M_NOT_FOUND");
    joins_through(&bob, &closed, &["127.0.0.9:1"]).await.refused(502, "M_UNKNOWN");
    bob.joins("!nowhere-at-all").await.refused(404, "M_NOT_FOUND");
    joins_through(&bob, &open, &["not a server"]).await.refused(400, "M_INVALID_PARAM");
    // Who is banned stays out, wherever they come from.
    let carol = there.user("carol").await;
    let banning = alice.opens().await;
    alice.does_to(&banning, "ban", &carol).await.good();
    joins_through(&carol, &banning, &[here.name().as_str()]).await.refused(403, "M_FORBIDDEN");
}

/// Whom a user names is asked (client-server API, `POST /join/{roomIdOrAlias}`); what the server guesses, where none of them
/// is in the room.
#[tokio::test]
async fn who_is_named_decides() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let space = alice.opens().await;
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    let room = alice
        .creates(json!({
            "room_version": "8",
            "power_level_content_override": { "invite": 100 },
            "initial_state": [{
                "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow },
            }],
        }))
        .await;
    let (first, second) = (here.name().as_str(), there.name().as_str());
    for user in [&bob, &carol] {
        joins_through(user, &space, &[first]).await.good();
    }
    joins_through(&bob, &room, &[first]).await.good();
    for known in [&space, &room] {
        is_whole(&there, known).await;
    }
    // It has nobody who may let anybody in; where the room was made the id says, but nobody named that server.
    for come_back in [false, true] {
        joins_through(&carol, &room, &[second]).await.refused(400, "M_UNABLE_TO_GRANT_JOIN");
        if come_back {
            // Nobody who was named is there.
            joins_through(&carol, &room, &["127.0.0.9:1"]).await.good();
        } else {
            joins_through(&carol, &room, &[second, first]).await.good();
        }
        let join = carol.reads(&room, "m.room.member", carol.id.as_str()).await.good();
        assert_eq!(join["join_authorised_via_users_server"], alice.id.as_str());
        carol.leaves(&room).await.good();
        while membership(&bob, &room, &carol).await != "leave" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    carol.joins(&room).await.good();
}

/// Who names servers is told what these say; others are for when they say nothing.
#[tokio::test]
async fn servers_that_are_named_have_the_say() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    let answering = async |status: StatusCode, errcode: &str| {
        let body = json!({ "errcode": errcode, "error": "?" }).to_string();
        let router = Router::new().fallback(move || std::future::ready((status, body.clone())));
        on_the_web(20, router, &here).await.replace("https://", "")
    };
    let no = answering(StatusCode::FORBIDDEN, "M_FORBIDDEN").await;
    joins_through(&bob, &room, &[&no]).await.refused(403, "M_FORBIDDEN");
    let not_i = answering(StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN").await;
    joins_through(&bob, &room, &[&not_i]).await.refused(400, "M_UNABLE_TO_AUTHORISE_JOIN");
    assert_eq!(here.was_asked_for("/make_join/"), 0);
    // The room's id names one that knows.
    let unknown = answering(StatusCode::NOT_FOUND, "M_NOT_FOUND").await;
    joins_through(&bob, &room, &[&unknown]).await.good();
}

/// Who lets somebody in tells the others.
#[tokio::test]
async fn a_join_is_told_by_who_let_in() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    let [told_here, told_third] = [&here, &third].map(Peer::keeps_transactions);
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    bob.says(&room, "hello").await;
    let of_bob = |told: &Value| -> Vec<Value> {
        let events = told.as_array().unwrap().iter().flat_map(|t| t["pdus"].as_array().cloned().unwrap_or_default());
        events.filter(|e| e["sender"] == bob.id.as_str()).map(|e| e["type"].clone()).collect()
    };
    let both = async {
        while of_bob(&told_here()).is_empty() || of_bob(&told_third()).len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), both).await.is_ok(), "{} {}", told_here(), told_third());
    assert_eq!(of_bob(&told_here()), ["m.room.message"]);
    let mut third = of_bob(&told_third());
    third.sort_by_key(ToString::to_string);
    assert_eq!(third, ["m.room.member", "m.room.message"], "once each");
}

/// However many servers a client names: so many are asked, and for so long.
#[tokio::test]
async fn a_search_for_servers_that_let_one_in_has_an_end() {
    let [here, _] = Peers::two().await;
    let there = Peers::one(5, |plan| plan.services(|s| s.federation.searching = Duration::from_secs(1))).await;
    let bob = there.user("bob").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let refuses = Router::new().fallback(move || {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready((StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "?" }).to_string()))
    });
    let mut via = Vec::new();
    for last in 20..32 {
        via.push(on_the_web(last, refuses.clone(), &here).await.replace("https://", ""));
    }
    let named: Vec<&str> = via.iter().map(String::as_str).collect();
    let room = format!("!nowhere:{}", here.name());
    joins_through(&bob, &room, &named).await.refused(404, "M_NOT_FOUND");
    assert!((1..=10).contains(&asked.load(Ordering::Relaxed)), "{asked:?}");
    // Who says nothing at all has no turn after the time is up.
    let silent = Router::new().fallback(std::future::pending::<StatusCode>);
    let mut via = Vec::new();
    for last in 40..50 {
        via.push(on_the_web(last, silent.clone(), &here).await.replace("https://", ""));
    }
    let named: Vec<&str> = via.iter().map(String::as_str).collect();
    let paths = [format!("knock/{}", encoded(&room)), format!("join/{}", encoded(&room))];
    for path in paths {
        let via: Vec<String> = named.iter().map(|s| format!("via={}", encoded(s))).collect();
        let path = format!("{V3}/{path}?{}", via.join("&"));
        let answer = tokio::time::timeout(Duration::from_secs(19), bob.post(&path, json!({}))).await;
        answer.expect("it goes on and on").refused(504, "M_UNKNOWN");
    }
}

#[tokio::test]
async fn guests_get_into_rooms_of_other_servers_that_are_open_to_guests() {
    let here = Peers::one(2, |plan| plan).await;
    let there = Peers::one(3, |plan| plan.services(|s| s.accounts.guests = true)).await;
    let alice = here.user("alice").await;
    let session = there.nobody().post(&format!("{V3}/register?kind=guest"), json!({})).await.good();
    let guest = User::from_session(&there, &session);
    let room = alice.opens().await;
    let via = [here.name().as_str()];
    joins_through(&guest, &room, &via).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(here.was_asked_for("join"), 0);
    alice.reads(&room, "m.room.member", guest.id.as_str()).await.refused(404, "M_NOT_FOUND");
    // Whoever says that it is open, and lets them in, has said so for nothing.
    let lie: Lie = Arc::new(|path, json| {
        if path.contains("hierarchy") {
            json["room"]["guest_can_join"] = json!(true);
        }
    });
    here.lies(Some(lie));
    joins_through(&guest, &room, &via).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(here.was_asked_for("send_join"), 1);
    assert_eq!(membership(&alice, &room, &guest).await, "leave");
    assert!(guest.syncs("").await["rooms"]["join"].is_null());
    here.lies(None);
    alice.sets(&room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await.good();
    joins_through(&guest, &room, &via).await.good();
    assert_eq!(membership(&alice, &room, &guest).await, "join");
    guest.says(&room, "hello").await;
    // Others need no such permission.
    let (bob, other) = (there.user("bob").await, alice.opens().await);
    joins_through(&bob, &other, &via).await.good();
}

#[tokio::test]
async fn two_of_one_server_go_in_at_once() {
    let [here, there] = Peers::two().await;
    let alice = here.user("alice").await;
    let room = alice.opens().await;
    let (bob, carol) = (there.user("bob").await, there.user("carol").await);
    let via = [here.name().as_str()];
    let (one, other) = tokio::join!(joins_through(&bob, &room, &via), joins_through(&carol, &room, &via));
    one.good();
    other.good();
    assert_eq!(membership(&bob, &room, &carol).await, "join");
    assert_eq!(membership(&carol, &room, &bob).await, "join");
    // One of them went out, the other found the room open.
    assert_eq!(here.was_asked_for("make_join"), 1);
}

#[tokio::test]
async fn who_comes_back_finds_the_room_as_it_is_now() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    for version in ["10", "12"] {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version, "name": "Old" })).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        bob.leaves(&room).await.good();
        alice.sets(&room, "m.room.name", "", json!({ "name": "New" })).await.good();
        alice.sets(&room, "m.room.topic", "", json!({ "topic": "What was missed" })).await.good();
        // Whom to ask is known from before.
        bob.joins(&room).await.good();
        assert_eq!(bob.reads(&room, "m.room.name", "").await.good()["name"], "New");
        assert_eq!(bob.reads(&room, "m.room.topic", "").await.good()["topic"], "What was missed");
        assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
    }
}

#[tokio::test]
async fn members_of_a_space_are_let_in_by_who_may() {
    let [here, there] = Peers::two().await;
    let alice = here.user("alice").await;
    let (bob, carol, dave) = (there.user("bob").await, there.user("carol").await, there.user("dave").await);
    for version in ["8", "10", "12"] {
        let space = alice.opens().await;
        let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
        let room = alice
            .creates(json!({
                "room_version": version,
                "power_level_content_override": { "invite": 50 },
                "initial_state": [{
                    "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow },
                }],
            }))
            .await;
        let via = [here.name().as_str()];
        joins_through(&bob, &room, &via).await.refused(403, "M_FORBIDDEN");
        joins_through(&carol, &space, &via).await.good();
        // Through the other server, which vouches by signing.
        joins_through(&carol, &room, &via).await.good();
        let join = carol.reads(&room, "m.room.member", carol.id.as_str()).await.good();
        assert_eq!(join["join_authorised_via_users_server"], alice.id.as_str());
        assert_eq!(state(&alice, &room).await, state(&carol, &room).await);
        // Who vouched does not for a new name, and nobody holds it, or what follows, against her.
        let name = format!("{V3}/profile/{}/displayname", encoded(carol.id.as_str()));
        carol.put(&name, json!({ "displayname": format!("Carol {version}") })).await.good();
        carol.says(&room, "renamed").await;
        hears(&alice, &room, "renamed").await;
        let renamed = alice.reads(&room, "m.room.member", carol.id.as_str()).await.good();
        assert_eq!(renamed["displayname"], format!("Carol {version}"));
        assert!(renamed["join_authorised_via_users_server"].is_null(), "{renamed}");
        // In both rooms, but with nobody here who could vouch: the other server does.
        bob.joins(&room).await.refused(403, "M_FORBIDDEN");
        alice.invites(&room, &dave).await.good();
        dave.joins(&room).await.good();
    }
    // Who is in the space, and in a room where their own server has nobody with the power to let them in.
    let space = alice.opens().await;
    joins_through(&carol, &space, &[here.name().as_str()]).await.good();
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    let room = alice
        .creates(json!({
            "power_level_content_override": { "invite": 50 },
            "invite": [bob.id],
            "initial_state": [{
                "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow },
            }],
        }))
        .await;
    bob.joins(&room).await.good();
    carol.joins(&room).await.good();
    assert_eq!(membership(&alice, &room, &carol).await, "join");
    assert_eq!(membership(&bob, &room, &carol).await, "join");
    dave.joins(&room).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_name_taken_on_the_way_into_a_room_is_shown_there() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.opens().await;
    let gate = here.holds("/send_join/");
    let name = format!("{V3}/profile/{}/displayname", encoded(bob.id.as_str()));
    let renamed = async {
        gate.is_reached(1).await;
        bob.put(&name, json!({ "displayname": "Robert" })).await.good();
        gate.opens();
    };
    let via = [here.name().as_str()];
    let (went, ()) = tokio::join!(joins_through(&bob, &room, &via), renamed);
    went.good();
    bob.says(&room, "here I am").await;
    hears(&alice, &room, "here I am").await;
    let seen = alice.reads(&room, "m.room.member", bob.id.as_str()).await.good();
    assert_eq!((&seen["membership"], &seen["displayname"]), (&json!("join"), &json!("Robert")));
}

/// A small room that is new here is written with the join; not so if somebody has it written for another reason meanwhile.
#[tokio::test]
async fn a_room_that_comes_to_be_known_on_the_way_is_entered() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, third.user("carol").await);
    // Of an id that names a server it is not known that the version is not the newest of that kind.
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    let gate = third.holds("/_matrix/key/v2/server");
    let data = format!("{V3}/user/{}/rooms/{}/account_data/org.example", encoded(bob.id.as_str()), encoded(&room));
    let noted = async {
        gate.is_reached(1).await;
        bob.put(&data, json!({ "kept": true })).await.good();
        gate.opens();
    };
    let via = [here.name().as_str()];
    let (went, ()) = tokio::join!(joins_through(&bob, &room, &via), noted);
    went.good();
    assert_eq!(state(&alice, &room).await, state(&bob, &room).await);
    assert_eq!(bob.get(&data).await.good(), json!({ "kept": true }));
    carol.says(&room, "welcome").await;
    hears(&bob, &room, "welcome").await;
    bob.says(&room, "hello").await;
    hears(&carol, &room, "hello").await;
}

/// Changes the answers of what is asked for by such a path.
pub fn lie(what: &'static str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Lie {
    Arc::new(move |path, body| {
        if path.contains(what) {
            change(body);
        }
    })
}

#[tokio::test]
async fn answers_that_lie_are_refused_and_do_no_harm() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let other = alice.opens().await;
    let forget = |key: &'static str| {
        lie("send_join", move |body| {
            body["state"].as_array_mut().unwrap().retain(|e| e["type"] != key);
            body["auth_chain"].as_array_mut().unwrap().retain(|e| e["type"] != key);
        })
    };
    let (elsewhere, somebody) = (json!(other), json!(alice.id));
    let lies: Vec<(&str, Lie)> = vec![
        ("a version that we do not have", lie("make_join", |b| b["room_version"] = json!("99"))),
        ("another version than it is", lie("make_join", |b| b["room_version"] = json!("9"))),
        ("no version", lie("make_join", |b| drop(b.as_object_mut().unwrap().remove("room_version")))),
        ("another room", lie("make_join", move |b| b["event"]["room_id"] = elsewhere.clone())),
        ("somebody else's join", {
            let somebody = somebody.clone();
            lie("make_join", move |b| b["event"]["sender"] = somebody.clone())
        }),
        ("a join of somebody else", lie("make_join", move |b| b["event"]["state_key"] = somebody.clone())),
        ("another membership", lie("make_join", |b| b["event"]["content"]["membership"] = json!("leave"))),
        ("another type", lie("make_join", |b| b["event"]["type"] = json!("m.room.power_levels"))),
        ("no place", lie("make_join", |b| b["event"]["prev_events"] = json!([]))),
        ("too many predecessors", lie("make_join", |b| b["event"]["prev_events"] = json!(vec!["$x"; 30]))),
        ("no depth", lie("make_join", |b| b["event"]["depth"] = json!(-5))),
        ("no template", lie("make_join", |b| b["event"] = json!(7))),
        ("no create event", forget("m.room.create")),
        ("no power levels, which allow the join", forget("m.room.power_levels")),
        ("nothing", lie("send_join", |b| *b = json!({ "state": [], "auth_chain": [] }))),
        ("no state", lie("send_join", |b| b["state"] = json!([]))),
        ("no lists", lie("send_join", |b| *b = json!({ "state": 1, "auth_chain": {} }))),
        (
            "a create event by another",
            lie("send_join", |b| {
                for list in ["state", "auth_chain"] {
                    for event in b[list].as_array_mut().unwrap() {
                        if event["type"] == "m.room.create" {
                            event["signatures"] = json!({ "127.0.0.9:1": { "ed25519:a": "AAAA" } });
                        }
                    }
                }
            }),
        ),
        (
            "all signatures gone",
            lie("send_join", |b| {
                for list in ["state", "auth_chain"] {
                    for event in b[list].as_array_mut().unwrap() {
                        event["signatures"] = json!({});
                    }
                }
            }),
        ),
        (
            "rules that nobody signed",
            lie("send_join", |b| {
                for list in ["state", "auth_chain"] {
                    for event in b[list].as_array_mut().unwrap() {
                        if event["type"] == "m.room.join_rules" {
                            event["content"]["join_rule"] = json!("invite");
                        }
                    }
                }
            }),
        ),
    ];
    for (what, told) in lies {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10", "name": what })).await;
        here.lies(Some(told));
        let answer = joins_through(&bob, &room, &[here.name().as_str()]).await;
        let status = answer.status.as_u16();
        assert!(matches!(status, 400 | 502), "{what}: {answer:?}");
        bob.in_room(&room, "state").await.refused(403, "M_FORBIDDEN");
        assert!(bob.syncs("").await["rooms"]["join"][&room].is_null(), "{what}");
        // The same room can be joined as soon as somebody tells the truth.
        here.lies(None);
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        assert_eq!(bob.reads(&room, "m.room.name", "").await.good()["name"], what);
    }
}

#[tokio::test]
async fn a_bad_event_among_many_is_left_out() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "name": "Name", "topic": "Topic" })).await;
    here.lies(Some(lie("send_join", |b| {
        let state = b["state"].as_array_mut().unwrap();
        for event in state.iter_mut() {
            if event["type"] == "m.room.topic" {
                event["sender"] = json!("@mallory:127.0.0.9:1");
            }
        }
        state.push(json!({ "type": "m.room.name" }));
        state.push(json!("x"));
        state.push(json!({}));
    })));
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    assert_eq!(bob.reads(&room, "m.room.name", "").await.good()["name"], "Name");
    bob.reads(&room, "m.room.topic", "").await.refused(404, "M_NOT_FOUND");
}

/// Who wants all of a state gets all of it, or does not enter.
#[tokio::test]
async fn members_that_nobody_wanted_left_out_are_missed() {
    let [here, _] = Peers::two().await;
    let whole = Peers::one(5, |plan| plan.services(|s| s.federation.completion.enter_in_part = false)).await;
    let (alice, bob) = (here.user("alice").await, whole.user("bob").await);
    let room = alice.creates(json!({ "preset": "public_chat", "room_version": "10" })).await;
    here.lies(Some(lie("send_join", |b| {
        b["state"].as_array_mut().unwrap().retain(|e| e["type"] != "m.room.member");
        b["members_omitted"] = json!(true);
        b["servers_in_room"] = json!([]);
    })));
    joins_through(&bob, &room, &[here.name().as_str()]).await.refused(502, "M_UNKNOWN");
    bob.in_room(&room, "state").await.refused(403, "M_FORBIDDEN");
    here.lies(None);
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    assert_eq!(state(&bob, &room).await, state(&alice, &room).await);
}

/// A server that only speaks to some.
#[tokio::test]
async fn servers_that_may_not_be_spoken_to_are_not_asked() {
    let [here, _] = Peers::two().await;
    let closed = Peers::one(5, |plan| plan.services(|s| s.federation.only = Some(Vec::new()))).await;
    let (alice, bob) = (here.user("alice").await, closed.user("bob").await);
    let room = alice.opens().await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.refused(404, "M_NOT_FOUND");
}

/// Servers of the first years know the first form of these questions alone.
#[tokio::test]
async fn who_knows_no_second_form_is_asked_in_the_first() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    here.tricks(Some(answers(&["/federation/v2/"], || async { StatusCode::NOT_FOUND.into_response() }.boxed())));
    for version in ["1", "10"] {
        let room = alice.creates(json!({ "preset": "public_chat", "room_version": version, "name": "Old" })).await;
        joins_through(&bob, &room, &[here.name().as_str()]).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        assert_eq!(state(&bob, &room).await, state(&alice, &room).await);
        let private = alice.creates(json!({ "room_version": version })).await;
        alice.invites(&private, &bob).await.good();
        bob.leaves(&private).await.good();
        assert_eq!(membership(&alice, &private, &bob).await, "leave");
    }
    assert_eq!((here.was_asked_for("/v1/send_join/"), here.was_asked_for("/v1/send_leave/")), (2, 2));
}
