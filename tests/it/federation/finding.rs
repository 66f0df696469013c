//! Finding and trusting: what a signature must be, and what servers ask each other without a room in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hearth_rules::{Draft, Pdu, RoomVersion, Signer, event::Unverified};
use http::Method;
use serde_json::{Value, json};

use super::{
    hostile::{answers, refused},
    joining::joins_through,
    support::{Peer, Peers},
};
use crate::support::{
    User,
    rooms::{V3, encoded},
};

const V1: &str = "/_matrix/federation/v1";

fn profile_of(user: &User) -> String {
    format!("{V1}/query/profile?user_id={}", encoded(user.id.as_str()))
}

#[tokio::test]
async fn a_request_is_its_servers_or_refused() {
    let [here, there, third] = Peers::three().await;
    let bob = there.user("bob").await;
    let path = profile_of(&bob);
    assert_eq!(here.asks(&there, &path).await.good(), json!({ "displayname": "bob" }));

    let get = |authorization: Option<String>| here.sends(&there, Method::GET, &path, None, authorization);
    get(None).await.refused(401, "M_UNAUTHORIZED");
    get(Some("Bearer x".to_owned())).await.refused(401, "M_UNAUTHORIZED");
    let signed = |to: &Peer, path: &str| here.signature(to.name(), &Method::GET, path, None);
    // Of another path, for another server, by another key, in another's name.
    get(Some(signed(&there, "/_matrix/federation/v1/query/profile?user_id=@x:y"))).await.refused(401, "M_UNAUTHORIZED");
    get(Some(signed(&here, &path))).await.refused(401, "M_UNAUTHORIZED");
    let good = signed(&there, &path);
    get(Some(good.replace("ed25519:", "ed25519:x"))).await.refused(401, "M_UNAUTHORIZED");
    get(Some(good.replace("sig=\"", "sig=\"AAAA"))).await.refused(401, "M_UNAUTHORIZED");
    let other_name = good.replace(here.name().as_str(), third.name().as_str());
    get(Some(other_name)).await.refused(401, "M_UNAUTHORIZED");
    // Nobody is there who could say what the keys are.
    let nobody = good.replace(here.name().as_str(), "127.0.0.9:1");
    get(Some(nobody)).await.refused(401, "M_UNAUTHORIZED");
    // We are not another server.
    let own = there.signature(there.name(), &Method::GET, &path, None);
    get(Some(own)).await.refused(403, "M_FORBIDDEN");
    get(Some(good)).await.good();
    // The body is signed too.
    let (query, body) = (format!("{V1}/user/keys/query"), json!({ "device_keys": { bob.id.as_str(): [] } }));
    let signature = here.signature(there.name(), &Method::POST, &query, Some(&body));
    let other = json!({ "device_keys": {} });
    let told = here.sends(&there, Method::POST, &query, Some(other), Some(signature.clone())).await;
    told.refused(401, "M_UNAUTHORIZED");
    here.sends(&there, Method::POST, &query, Some(body.clone()), Some(signature)).await.good();
    third.posts(&there, &query, body).await.good();
}

#[tokio::test]
async fn only_listed_servers_are_spoken_to() {
    let [here, _] = Peers::two().await;
    let closed =
        Peers::one(5, |plan| plan.services(|s| s.federation.only = Some(vec!["listed.test".try_into().unwrap()])))
            .await;
    let bob = closed.user("bob").await;
    here.asks(&closed, &profile_of(&bob)).await.refused(403, "M_FORBIDDEN");
    let alice = here.user("alice").await;
    let path = format!("{V3}/profile/{}", encoded(alice.id.as_str()));
    bob.get(&path).await.refused(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn profiles_are_asked_for_at_their_server() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let own = format!("{V3}/profile/{}", encoded(bob.id.as_str()));
    bob.put(&format!("{own}/avatar_url"), json!({ "avatar_url": "mxc://x/y" })).await.good();
    assert_eq!(alice.get(&own).await.good(), json!({ "displayname": "bob", "avatar_url": "mxc://x/y" }));
    assert_eq!(alice.get(&format!("{own}/displayname")).await.good(), json!({ "displayname": "bob" }));
    alice.get(&format!("{own}/org.example.tz")).await.refused(404, "M_NOT_FOUND");
    // Everybody has a name and an avatar, if empty ones.
    bob.put(&format!("{own}/avatar_url"), json!({ "avatar_url": "" })).await.good();
    let at_home = format!("{V1}/query/profile?user_id={}&field=avatar_url", encoded(bob.id.as_str()));
    assert_eq!(here.asks(&there, &at_home).await.good(), json!({}));
    for asks in [&alice, &bob] {
        assert_eq!(asks.get(&format!("{own}/avatar_url")).await.good(), json!({}));
    }
    let missing = format!("{V3}/profile/{}", encoded(&format!("@nobody:{}", there.name())));
    alice.get(&missing).await.refused(404, "M_NOT_FOUND");
    alice.get(&format!("{missing}/displayname")).await.refused(404, "M_NOT_FOUND");
    there.goes_away();
    alice.get(&own).await.refused(502, "M_UNKNOWN");
    // Left alone now; any request of its own ends that.
    assert!(here.services().federation.health().left_alone_until(there.name()).await.unwrap().is_some());
    there.comes_back();
    there.asks(&here, &profile_of(&alice)).await.good();
    assert_eq!(here.services().federation.health().left_alone_until(there.name()).await.unwrap(), None);
    alice.get(&own).await.good();
}

#[tokio::test]
async fn aliases_and_published_rooms() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let body = json!({ "preset": "public_chat", "visibility": "public", "room_alias_name": "den", "name": "Den" });
    let room = bob.creates(body).await;
    let alias = format!("{V3}/directory/room/{}", encoded(&format!("#den:{}", there.name())));
    let found = alice.get(&alias).await.good();
    assert_eq!(found, json!({ "room_id": room, "servers": [there.name()] }));
    let missing = format!("{V3}/directory/room/{}", encoded(&format!("#lost:{}", there.name())));
    alice.get(&missing).await.refused(404, "M_NOT_FOUND");

    let list = format!("{V3}/publicRooms?server={}", encoded(there.name().as_str()));
    let rooms = alice.get(&list).await.good();
    assert_eq!(
        (rooms["chunk"][0]["room_id"].as_str(), rooms["chunk"][0]["name"].as_str()),
        (Some(&*room), Some("Den"))
    );
    here.nobody().get(&list).await.refused(401, "M_MISSING_TOKEN");
    let find = async |term: &str| {
        let body = json!({ "filter": { "generic_search_term": term } });
        let found = alice.post(&list, body).await.good();
        found["chunk"].as_array().unwrap().len()
    };
    assert_eq!((find("den").await, find("nothing").await), (1, 0));
}

#[tokio::test]
async fn a_room_is_called_by_an_alias_of_another_server() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let room = bob.creates(json!({ "preset": "public_chat" })).await;
    joins_through(&alice, &room, &[there.name().as_str()]).await.good();
    let cave = format!("#cave:{}", here.name());
    alice.put(&format!("{V3}/directory/room/{}", encoded(&cave)), json!({ "room_id": room })).await.good();
    let set = async |aliases: Value| bob.sets(&room, "m.room.canonical_alias", "", aliases).await;
    for wrong in [format!("#nowhere:{}", here.name()), "#cave:127.0.0.9:1".to_owned()] {
        set(json!({ "alt_aliases": [cave, wrong] })).await.refused(400, "M_BAD_ALIAS");
    }
    let other = alice.creates(json!({ "room_alias_name": "other" })).await;
    assert_ne!(other, room);
    set(json!({ "alias": format!("#other:{}", here.name()) })).await.refused(400, "M_BAD_ALIAS");
    set(json!({ "alias": cave })).await.good();
    // Whoever asks hears of all servers by which the room can be entered.
    let found = bob.get(&format!("{V3}/directory/room/{}", encoded(&cave))).await.good();
    assert_eq!(found["servers"], json!([here.name(), there.name()]));
    assert_eq!(bob.reads(&room, "m.room.canonical_alias", "").await.good()["alias"], *cave);
}

#[tokio::test]
async fn published_rooms_are_told_to_servers_if_the_admin_wants() {
    let [here, _] = Peers::two().await;
    let quiet = Peers::one(5, |plan| plan.services(|s| s.federation.public_rooms = false)).await;
    here.asks(&quiet, &format!("{V1}/publicRooms")).await.refused(403, "M_FORBIDDEN");
}

/// Publishes keys of a user's device.
pub async fn publishes_keys(user: &User) {
    let (id, device) = (user.id.as_str(), &user.device);
    let keys = json!({
        "device_keys": {
            "user_id": id, "device_id": device, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("ed25519:{device}"): "a", format!("curve25519:{device}"): "b" },
            "signatures": { id: { format!("ed25519:{device}"): "c" } },
        },
        "one_time_keys": { "signed_curve25519:1": { "key": "k", "signatures": { id: { "ed25519:x": "s" } } } },
    });
    user.post(&format!("{V3}/keys/upload"), keys).await.good();
}

/// What a client adds unsigned to its keys is passed on (MSC4229); names of devices are nobody's business elsewhere.
#[tokio::test]
async fn what_is_unsigned_comes_along() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    let (id, device) = (bob.id.as_str(), bob.device.as_str());
    let keys = |unsigned: Value| {
        json!({ "device_keys": {
            "user_id": id, "device_id": device, "algorithms": [], "keys": { format!("ed25519:{device}"): "a" },
            "signatures": { id: { format!("ed25519:{device}"): "c" } }, "unsigned": unsigned,
        } })
    };
    let unsigned = async |user: &User| {
        let query = json!({ "device_keys": { id: [] } });
        let found = user.post(&format!("{V3}/keys/query"), query).await.good();
        found["device_keys"][id][device]["unsigned"].clone()
    };
    let renamed = json!({ "display_name": "Desk" });
    bob.put(&format!("{V3}/devices/{device}"), renamed).await.good();
    let said = json!({ "device_display_name": "Mine", "org.example": { "a": "b" } });
    bob.post(&format!("{V3}/keys/upload"), keys(said)).await.good();
    assert_eq!(unsigned(&carol).await, json!({ "device_display_name": "Desk", "org.example": { "a": "b" } }));
    assert_eq!(unsigned(&alice).await, json!({ "org.example": { "a": "b" } }), "asked for");
    // The same for who meets him, and is told.
    let room = alice.creates(json!({ "preset": "public_chat" })).await;
    joins_through(&bob, &room, &[here.name().as_str()]).await.good();
    assert_eq!(unsigned(&alice).await, json!({ "org.example": { "a": "b" } }), "followed");
    bob.post(&format!("{V3}/keys/upload"), keys(json!("nothing"))).await.good();
    assert_eq!(unsigned(&carol).await, json!({ "device_display_name": "Desk" }));
}

#[tokio::test]
async fn keys_of_users_elsewhere() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    publishes_keys(&bob).await;
    let (id, device) = (bob.id.as_str(), bob.device.as_str());
    let query = json!({ "device_keys": { id: [], "@x:127.0.0.9:1": [] } });
    let found = alice.post(&format!("{V3}/keys/query"), query).await.good();
    assert_eq!(found["device_keys"][id][device]["user_id"], *id, "{found}");
    // Names of devices are nobody's business unless the admin says so.
    assert!(found["device_keys"][id][device]["unsigned"].is_null(), "{found}");
    assert!(found["failures"]["127.0.0.9:1"].is_object(), "{found}");
    assert!(found["failures"][there.name().as_str()].is_null(), "{found}");

    let claim = json!({ "one_time_keys": { id: { device: "signed_curve25519" } } });
    let claimed = alice.post(&format!("{V3}/keys/claim"), claim.clone()).await.good();
    assert_eq!(claimed["one_time_keys"][id][device]["signed_curve25519:1"]["key"], "k", "{claimed}");
    let again = alice.post(&format!("{V3}/keys/claim"), claim).await.good();
    assert!(again["one_time_keys"][id][device].is_null(), "{again}");

    let devices = here.asks(&there, &format!("{V1}/user/devices/{}", encoded(id))).await.good();
    assert_eq!((&devices["user_id"], &devices["devices"][0]["device_id"]), (&json!(id), &json!(device)));
    assert!(devices["stream_id"].as_i64().unwrap() > 0 && devices["devices"][0]["device_display_name"].is_null());
    here.asks(&there, &format!("{V1}/user/devices/@nobody:{}", there.name())).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn whose_openid_token_it_is() {
    let [here, there] = Peers::two().await;
    let alice = here.user("alice").await;
    let path = format!("{V3}/user/{}/openid/request_token", encoded(alice.id.as_str()));
    let token = alice.post(&path, json!({})).await.good();
    let path = format!("{V1}/openid/userinfo?access_token={}", token["access_token"].as_str().unwrap());
    let told = there.sends(&here, Method::GET, &path, None, None).await.good();
    assert_eq!(told["sub"], alice.id.as_str());
    let bad = format!("{V1}/openid/userinfo?access_token=x");
    there.sends(&here, Method::GET, &bad, None, None).await.refused(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_notary_vouches_for_others() {
    let [here, there] = Peers::two().await;
    let key_id = there.services().server_keys.signer().key_id().to_owned();
    let name = there.name().as_str();
    let check = |keys: &Value| {
        assert_eq!(keys["server_keys"][0]["server_name"], *name, "{keys}");
        assert!(keys["server_keys"][0]["signatures"][name][&key_id].is_string(), "{keys}");
        let ours = here.services().server_keys.signer().key_id();
        assert!(keys["server_keys"][0]["signatures"][here.name().as_str()][ours].is_string(), "{keys}");
    };
    check(&here.nobody().get(&format!("/_matrix/key/v2/query/{name}")).await.good());
    // Who wants keys that hold longer has the server asked again, but not for ever.
    for _ in 0..5 {
        let path = format!("/_matrix/key/v2/query/{name}?minimum_valid_until_ts=9007199254740991");
        check(&here.nobody().get(&path).await.good());
    }
    assert_eq!(there.was_asked(KEYS), 3);
    // What is known is told though its server is away.
    there.goes_away();
    check(&here.nobody().get(&format!("/_matrix/key/v2/query/{name}/{key_id}")).await.good());
    let body = json!({ "server_keys": { name: { &key_id: { "minimum_valid_until_ts": 0 } }, "127.0.0.9:1": {} } });
    let many = here.nobody().post("/_matrix/key/v2/query", body).await.good();
    check(&many);
    assert_eq!(many["server_keys"].as_array().unwrap().len(), 1);
    let own = here.nobody().get(&format!("/_matrix/key/v2/query/{}", here.name())).await.good();
    assert_eq!(own["server_keys"][0]["server_name"], here.name().as_str());
}

/// A server's keys, signed by one of them.
fn key_document(signer: &Signer, until: u64) -> Value {
    let document = json!({
        "server_name": signer.server_name(), "valid_until_ts": until, "old_verify_keys": {},
        "verify_keys": { signer.key_id(): { "key": signer.public_key() } },
    });
    let mut document: ruma::CanonicalJsonObject = serde_json::from_value(document).unwrap();
    signer.sign_json(&mut document).unwrap();
    serde_json::to_value(document).unwrap()
}

/// A server that suddenly has other keys does not make a notary forget those it had.
#[tokio::test]
async fn a_notary_keeps_what_holds_keys_that_are_in_nothing_newer() {
    let [here, there] = Peers::two().await;
    let first = there.services().server_keys.signer().key_id().to_owned();
    let name = there.name();
    let ids = |keys: &Value| -> Vec<String> {
        let documents = keys["server_keys"].as_array().unwrap().iter();
        documents.flat_map(|d| d["verify_keys"].as_object().unwrap().keys().cloned()).collect()
    };
    let asks = async |wanted: Value| {
        let body = json!({ "server_keys": { name.as_str(): wanted } });
        ids(&here.nobody().post("/_matrix/key/v2/query", body).await.good())
    };
    assert_eq!(asks(json!({})).await, [first.as_str()]);
    // What it says next is of one other key, and then of another and one of them.
    let until = here.clock().now_ms() + 3_600_000;
    let (later, last) =
        (Signer::new(name.to_owned(), &[8; 32], "later"), Signer::new(name.to_owned(), &[9; 32], "last"));
    for (signer, has) in [(later.unwrap(), "ed25519:later"), (last.unwrap(), "ed25519:last")] {
        let document = key_document(&signer, until);
        let answer = move || async move { document.to_string() };
        there.also_serves(KEYS, axum::Router::new().route(KEYS, axum::routing::get(answer)));
        // Who wants a key for longer than it is known has its server asked.
        let wanted = json!({ first.as_str(): { "minimum_valid_until_ts": 9_007_199_254_740_991_u64 } });
        assert_eq!(asks(wanted).await, [first.as_str()]);
        assert_eq!(asks(json!({ has: {} })).await, [has]);
        assert_eq!(asks(json!({})).await, [has], "the newest, if none is named");
    }
    let both = asks(json!({ first.as_str(): {}, "ed25519:later": {}, "ed25519:never": {} })).await;
    assert_eq!(both, ["ed25519:later", &first]);
}

/// Whoever has changed its key within the minute is no stranger; and keys that nobody has make nobody ask without end.
#[tokio::test]
async fn a_key_that_was_changed_just_now_is_asked_for_at_once() {
    let [here, there] = Peers::two().await;
    let bob = here.user("bob").await;
    let path = profile_of(&bob);
    let until = here.clock().now_ms() + 3_600_000;
    let asked = Arc::new(AtomicUsize::new(0));
    let publishes = |signer: &Signer| {
        let (document, asked) = (key_document(signer, until).to_string(), asked.clone());
        let answer = move || {
            asked.fetch_add(1, Ordering::Relaxed);
            std::future::ready(document)
        };
        there.also_serves(KEYS, axum::Router::new().route(KEYS, axum::routing::get(answer)));
    };
    let count = || asked.load(Ordering::Relaxed);
    publishes(&Signer::new(there.name().to_owned(), &[8; 32], "before").unwrap());
    here.nobody().get(&format!("/_matrix/key/v2/query/{}", there.name())).await.good();
    assert_eq!(count(), 1);

    publishes(there.services().server_keys.signer());
    there.asks(&here, &path).await.good();
    assert_eq!(count(), 2);

    let good = there.signature(here.name(), &Method::GET, &path, None);
    let made_up = async |n: usize| {
        let signature = good.replace("ed25519:", &format!("ed25519:made_up_{n}"));
        there.sends(&here, Method::GET, &path, None, Some(signature)).await.refused(401, "M_UNAUTHORIZED");
    };
    for _ in 0..3 {
        made_up(0).await;
    }
    assert_eq!(count(), 3, "once for a key");
    for n in 1..10 {
        made_up(n).await;
    }
    assert_eq!(count(), 4, "and so often for a server");
    there.asks(&here, &path).await.good();
    // A minute later it is asked as ever, and for so many keys.
    here.clock().advance_ms(61_000);
    for n in 0..10 {
        made_up(n).await;
    }
    assert_eq!(count(), 8);
}

#[tokio::test]
async fn a_trusted_notary_speaks_for_those_who_are_away() {
    let [notary, away] = Peers::two().await;
    let bob = away.user("bob").await;
    notary.nobody().get(&format!("/_matrix/key/v2/query/{}", away.name())).await.good();
    let (name, signer) = (notary.name().to_owned(), notary.services().server_keys.signer().clone());
    let trusting = |good: bool| {
        let key = if good { signer.public_key() } else { "A".repeat(43) };
        let keys = [(signer.key_id().to_owned(), key)].into();
        let notary = hearth_service::server_keys::Notary { name: name.clone(), keys };
        Peers::one(6, |plan| plan.services(move |s| s.server_keys.notaries.push(notary)))
    };
    let (trusting, other) = (trusting(true).await, trusting(false).await);
    away.goes_away();
    let user = trusting.user("carol").await;
    // `away` still asks, but cannot be asked for its keys.
    let path = profile_of(&user);
    away.asks(&trusting, &path).await.good();
    let dave = other.user("dave").await;
    away.asks(&other, &profile_of(&dave)).await.refused(401, "M_UNAUTHORIZED");
    drop(bob);
}

const KEYS: &str = "/_matrix/key/v2/server";

/// Whose keys could not be had just now is asked again by their own next request, and not by that of each stranger.
#[tokio::test]
async fn a_server_that_failed_to_tell_its_keys_is_asked_again_at_once() {
    let [here, there] = Peers::two().await;
    let path = profile_of(&here.user("alice").await);
    there.tricks(Some(answers(&[KEYS], || refused(502))));
    there.asks(&here, &path).await.refused(401, "M_UNAUTHORIZED");
    there.tricks(None);
    there.asks(&here, &path).await.good();
    assert_eq!(there.was_asked(KEYS), 1, "beside the failure");
}

/// A message as its sender's server sends it.
fn message(version: &'static RoomVersion, signer: &Signer, text: &str, at: u64) -> String {
    let sender = format!("@u:{}", signer.server_name()).try_into().unwrap();
    let room = Some("!r:x".try_into().unwrap());
    let draft = Draft::of(room, sender, "m.room.message".into(), None, &json!({ "body": text }), at).unwrap();
    draft.build(version, &[], 5, &[], signer).unwrap().json().to_owned()
}

fn received(version: &'static RoomVersion, json: &str) -> Unverified {
    Pdu::parse_remote(json, version).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_are_checked_with_one_question_a_server() {
    let [here, there, other] = Peers::three().await;
    let version = RoomVersion::get("12").unwrap();
    let now = here.clock().now_ms();
    let signer = |peer: &Peer| peer.services().server_keys.signer().clone();
    let mut texts = Vec::new();
    for n in 0..40 {
        let by = [&there, &other, &here][n % 3];
        texts.push(message(version, &signer(by), &n.to_string(), now));
    }
    // A signature by another key under that name; one that was broken; a content that is not what was hashed; one of a
    // server that nobody finds.
    let forger = Signer::new(there.name().to_owned(), &[3; 32], signer(&there).key_id().trim_start_matches("ed25519:"));
    texts.push(message(version, &forger.unwrap(), "forged", now));
    texts.push(message(version, &signer(&there), "changed", now).replace("changed", "CHANGED"));
    let nobody = Signer::new("127.0.0.9:1".try_into().unwrap(), &[3; 32], "a").unwrap();
    texts.push(message(version, &nobody, "nobody", now));
    let events = || texts.iter().map(|t| received(version, t)).collect::<Vec<_>>();
    let keys = &here.services().server_keys;
    let (first, second) = tokio::join!(keys.verify(events(), version), keys.verify(events(), version));
    for checked in [first.unwrap(), second.unwrap()] {
        assert!(checked[..40].iter().all(Result::is_ok), "{checked:?}");
        assert_eq!(checked[0].as_ref().unwrap().content_as::<Value>().unwrap()["body"], "0");
        assert_eq!(checked[40].as_ref().unwrap_err().status().as_u16(), 403);
        let redacted = checked[41].as_ref().unwrap().content_as::<Value>().unwrap();
        assert_eq!(redacted, json!({}));
        assert_eq!(checked[42].as_ref().unwrap_err().status().as_u16(), 403);
    }
    assert_eq!((there.was_asked(KEYS), other.was_asked(KEYS)), (1, 1));
    // Whoever uses unknown keys in somebody's name makes nobody ask again and again.
    let unknown = Signer::new(there.name().to_owned(), &[3; 32], "unknown").unwrap();
    for _ in 0..3 {
        let event = received(version, &message(version, &unknown, "x", now));
        assert!(keys.verify(vec![event], version).await.unwrap()[0].is_err());
    }
    assert_eq!(there.was_asked(KEYS), 1);
    here.clock().advance_ms(61_000);
    let event = received(version, &message(version, &unknown, "x", now));
    assert!(keys.verify(vec![event], version).await.unwrap()[0].is_err());
    assert_eq!(there.was_asked(KEYS), 2);
}

#[tokio::test]
async fn keys_hold_as_long_as_their_server_says() {
    let here = Peers::one(2, |plan| plan).await;
    let there = Peers::one(3, |plan| plan.services(|s| s.server_keys.validity = Duration::from_secs(3600))).await;
    let version = RoomVersion::get("12").unwrap();
    let signer: Arc<Signer> = there.services().server_keys.signer().clone();
    let keys = &here.services().server_keys;
    let now = here.clock().now_ms();
    let verify = async |at: u64| {
        let event = received(version, &message(version, &signer, "x", at));
        keys.verify(vec![event], version).await.unwrap().remove(0).is_ok()
    };
    assert!(verify(now).await && verify(now - 86_400_000).await);
    // Signed after the key ran out, as far as we know, and its server is away.
    there.goes_away();
    here.clock().advance_ms(2 * 3600 * 1000);
    assert!(!verify(now + 2 * 3600 * 1000).await);
    assert!(verify(now + 1000).await);
    // It is asked again once it can be, and its new document is believed.
    there.comes_back();
    there.clock().advance_ms(2 * 3600 * 1000);
    here.clock().advance_ms(60_000);
    assert!(verify(now + 2 * 3600 * 1000).await);
    // The same for requests: a key that ran out proves nothing.
    let bob = here.user("bob").await;
    there.asks(&here, &profile_of(&bob)).await.good();
    there.goes_away();
    here.clock().advance_ms(24 * 3600 * 1000);
    there.asks(&here, &profile_of(&bob)).await.refused(401, "M_UNAUTHORIZED");
}

#[tokio::test]
async fn a_server_is_told_what_is_wrong_with_it() {
    let here = Peers::one(2, |plan| plan).await;
    let there = Peers::one(3, |plan| plan).await;
    let admin = here.admin("admin").await;
    let test =
        async |name: &str| admin.get(&format!("/_synapse/admin/v1/federation/test/{}", encoded(name))).await.good();
    let good = test(there.name().as_str()).await;
    assert_eq!((&good["is_fine"], &good["faults"]), (&json!(true), &json!([])), "{good}");
    assert_eq!(good["addresses"][0]["certificate_names"], json!(["127.0.0.3"]));
    assert!(good["addresses"][0]["software"].as_str().unwrap().starts_with("Hearth "), "{good}");
    let fault = async |name: &str, n: usize| test(name).await["faults"][n]["what"].as_str().unwrap().to_owned();
    assert!(fault("not a name", 0).await.contains("not the name of a server"));
    assert!(fault("127.0.0.9:1", 0).await.contains("no answer"));
    there.goes_away();
    assert!(fault(there.name().as_str(), 0).await.contains("no answer"));
    let other = Peers::misnamed(7, "127.0.0.8").await;
    let wrong = test(other.name().as_str()).await;
    assert!(wrong["faults"][0]["what"].as_str().unwrap().contains("is not trusted for 127.0.0.7"), "{wrong}");
    assert_eq!(wrong["is_fine"], false);
    here.user("bob").await.get("/_synapse/admin/v1/federation/test/x").await.refused(403, "M_FORBIDDEN");
}

/// Of users of other servers there are no profiles here: they are called as in the rooms that one meets them in.
#[tokio::test]
async fn who_is_met_is_found_by_name() {
    for here in [Some(Peers::one(2, |plan| plan).await), Peers::on_postgres(2).await].into_iter().flatten() {
        let there = Peers::one(3, |plan| plan).await;
        let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, here.user("carol").await);
        let own = format!("{V3}/profile/{}", encoded(bob.id.as_str()));
        for (field, value) in [("displayname", r#"Robert "Ö_100%""#), ("avatar_url", "mxc://x/y")] {
            let mut body = json!({});
            body[field] = json!(value);
            bob.put(&format!("{own}/{field}"), body).await.good();
        }
        let find = async |user: &User, term: &str| {
            let body = json!({ "search_term": term });
            user.post(&format!("{V3}/user_directory/search"), body).await.good()["results"].clone()
        };
        for _ in 0..2 {
            let room = alice.creates(json!({ "preset": "public_chat" })).await;
            joins_through(&bob, &room, &[here.name().as_str()]).await.good();
            let robert =
                json!([{ "user_id": bob.id, "display_name": r#"Robert "Ö_100%""#, "avatar_url": "mxc://x/y" }]);
            for term in ["robert", r#"t "Ö_"#, "0%\"", "@bob"] {
                assert_eq!(find(&alice, term).await, robert, "{term}");
            }
            for term in ["r_bert", "rob%", "membership", "mxc", "127.0.0.9"] {
                assert_eq!(find(&alice, term).await, json!([]), "{term}");
            }
            assert_eq!(find(&carol, "robert").await, json!([]), "she is in no room with him");
            bob.leaves(&room).await.good();
            let gone = async {
                while find(&alice, "robert").await != json!([]) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            assert!(tokio::time::timeout(Duration::from_secs(20), gone).await.is_ok());
        }
    }
}
