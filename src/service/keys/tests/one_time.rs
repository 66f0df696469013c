//! Device keys, one-time and fallback keys: uploaded once, handed out once.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn one_time(range: std::ops::Range<u32>) -> BTreeMap<String, Box<RawValue>> {
    range.map(|n| (format!("signed_curve25519:{n:04}"), raw(&json!({"key": format!("k{n}")})))).collect()
}

fn upload(keys: BTreeMap<String, Box<RawValue>>) -> NewKeys {
    NewKeys { one_time_keys: keys, ..NewKeys::default() }
}

fn fallback(key: &str) -> NewKeys {
    let key = raw(&json!({"key": key, "fallback": true}));
    NewKeys { fallback_keys: [("signed_curve25519:F".to_owned(), key)].into(), ..NewKeys::default() }
}

/// Claims one key of a device: its name and its text.
async fn claim(world: &World, who: &Requester, of: &Requester) -> Option<(String, String)> {
    let device = of.device_id.clone().unwrap();
    let wanted = [(of.user_id.clone(), [(device, "signed_curve25519".to_owned())].into())].into();
    let mut got = world.keys.claim(who, wanted).await.unwrap().one_time_keys;
    let keys = got.remove(&of.user_id)?.into_values().next()?;
    assert_eq!(keys.len(), 1);
    let (name, key) = keys.into_iter().next()?;
    Some((name, value(&key)["key"].as_str().unwrap().to_owned()))
}

#[tokio::test]
async fn device_keys_are_seen_with_their_name_and_only_their_owner_uploads_them() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let seen = world.see(&bob, &alice).await;
        assert!(seen.device_keys[&alice.user_id].is_empty(), "a device without keys is not listed");
        world.publish(&alice).await;
        let seen = world.see(&bob, &alice).await;
        let phone = value(&seen.device_keys[&alice.user_id][<&ruma::DeviceId>::from("PHONE")]);
        assert_eq!(phone["unsigned"]["device_display_name"], "alice's PHONE");
        assert_eq!(phone["keys"]["curve25519:PHONE"], "abc");

        world.store.rename_device(alice.user_nid, "PHONE".to_owned(), Some("Telephone".to_owned())).await.unwrap();
        let seen = world.see(&bob, &alice).await;
        let phone = value(&seen.device_keys[&alice.user_id][<&ruma::DeviceId>::from("PHONE")]);
        assert_eq!(phone["unsigned"]["device_display_name"], "Telephone");

        for keys in [
            json!({"user_id": bob.user_id, "device_id": "PHONE", "algorithms": [], "keys": {}, "signatures": {}}),
            json!({"user_id": alice.user_id, "device_id": "OTHER", "algorithms": [], "keys": {}, "signatures": {}}),
            json!({"user_id": alice.user_id, "device_id": "PHONE", "keys": {"ed25519:PHONE": 5}}),
            json!({"user_id": alice.user_id, "device_id": "PHONE", "signatures": {"x": "y"}}),
            json!({"user_id": alice.user_id, "device_id": "PHONE", "number": 1.5}),
            json!([]),
        ] {
            let new = NewKeys { device_keys: Some(raw(&keys)), ..NewKeys::default() };
            assert_eq!(world.keys.upload(&alice, new).await.unwrap_err().status(), 400, "{keys}");
        }
        let nobody = Requester { device_id: None, ..alice.clone() };
        assert_eq!(world.keys.upload(&nobody, upload(one_time(0..1))).await.unwrap_err().status(), 400);
        let gone = Requester { device_id: Some("GONE".into()), ..alice.clone() };
        assert_eq!(world.keys.upload(&gone, upload(one_time(0..1))).await.unwrap_err().errcode(), "M_UNKNOWN_TOKEN");
    }
}

#[tokio::test]
async fn a_one_time_key_comes_again_but_not_another_under_its_name() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        let counts = world.keys.upload(&alice, upload(one_time(0..50))).await.unwrap();
        assert_eq!(counts["signed_curve25519"], 50);
        let counts = world.keys.upload(&alice, upload(one_time(40..52))).await.unwrap();
        assert_eq!(counts["signed_curve25519"], 52);
        let signed = json!({"key": "k3", "signatures": {alice.user_id.as_str(): {"ed25519:PHONE": "anew"}}});
        let again = upload([("signed_curve25519:0003".to_owned(), raw(&signed))].into());
        assert_eq!(world.keys.upload(&alice, again).await.unwrap()["signed_curve25519"], 52);

        let mut other = one_time(52..53);
        other.insert("signed_curve25519:0003".to_owned(), raw(&json!({"key": "other"})));
        let e = world.keys.upload(&alice, upload(other)).await.unwrap_err();
        assert_eq!(e.errcode(), "M_INVALID_PARAM");
        let text = e.body()["error"].as_str().unwrap().to_owned();
        let expected =
            r#"One time key signed_curve25519:0003 already exists. Old key: {"key":"k3"}; new key: {"key":"other"}"#;
        assert_eq!(text, expected);
        // Nothing of a refused upload stays, and an empty one says so.
        assert_eq!(world.keys.upload(&alice, NewKeys::default()).await.unwrap()["signed_curve25519"], 52);

        let e = world.keys.upload(&alice, upload(one_time(60..90))).await.unwrap_err();
        assert_eq!(e.status(), 413);
        for (name, key) in [
            ("signed_curve25519", json!({"key": "k"})),
            ("signed_curve25519:a", json!("k")),
            ("signed_curve25519:a", json!({"kee": "k"})),
            ("curve25519:a", json!(5)),
            ("curve25519:a\0", json!("k")),
        ] {
            let e = world.keys.upload(&alice, upload([(name.to_owned(), raw(&key))].into())).await.unwrap_err();
            assert_eq!(e.status(), 400, "{name} {key}");
        }
    }
}

#[tokio::test]
async fn keys_are_claimed_oldest_first_then_the_fallback_again_and_again() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        world.keys.upload(&alice, upload(one_time(5..6))).await.unwrap();
        world.keys.upload(&alice, upload(one_time(1..3))).await.unwrap();
        world.keys.upload(&alice, fallback("f1")).await.unwrap();
        let counts = async || (*world.store.key_counts(alice.user_nid, "PHONE").await.unwrap()).clone();
        assert_eq!(counts().await.one_time["signed_curve25519"], 3);
        assert_eq!(counts().await.unused_fallback, ["signed_curve25519"]);
        for (expected, left) in [("k5", 2), ("k1", 1), ("k2", 0)] {
            assert_eq!(claim(&world, &bob, &alice).await.unwrap().1, expected);
            assert_eq!(counts().await.one_time.get("signed_curve25519").copied().unwrap_or(0), left);
        }
        assert_eq!(counts().await.unused_fallback, ["signed_curve25519"]);
        assert_eq!(claim(&world, &bob, &alice).await.unwrap(), ("signed_curve25519:F".to_owned(), "f1".to_owned()));
        assert_eq!(claim(&world, &bob, &alice).await.unwrap().1, "f1");
        assert!(counts().await.unused_fallback.is_empty());
        // The same fallback key again is still used; another is not.
        world.keys.upload(&alice, fallback("f1")).await.unwrap();
        assert!(counts().await.unused_fallback.is_empty());
        world.keys.upload(&alice, fallback("f2")).await.unwrap();
        assert_eq!(counts().await.unused_fallback, ["signed_curve25519"]);
        assert_eq!(claim(&world, &bob, &alice).await.unwrap().1, "f2");
        assert_eq!(claim(&world, &alice, &bob).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_claims_at_once_never_get_the_same_key() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        world.keys.upload(&alice, upload(one_time(0..40))).await.unwrap();
        let world = Arc::new(world);
        let mut claims = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (world, alice, bob) = (world.clone(), alice.clone(), bob.clone());
            claims.spawn(async move { claim(&world, &bob, &alice).await });
        }
        let got: Vec<_> = claims.join_all().await.into_iter().flatten().collect();
        let names: BTreeSet<&str> = got.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((got.len(), names.len()), (40, 40));
        assert_eq!(world.store.key_counts(alice.user_nid, "PHONE").await.unwrap().one_time.len(), 0);
    }
}

#[tokio::test]
async fn many_devices_are_claimed_and_queried_at_once_and_others_servers_are_named() {
    for world in worlds().await {
        let bob = world.device("bob", "DESK").await;
        let mut wanted: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for n in 0..5 {
            for d in 0..10 {
                let who = world.device(&format!("u{n}"), &format!("D{d}")).await;
                world.publish(&who).await;
                world.keys.upload(&who, upload(one_time(0..3))).await.unwrap();
                let algorithm = "signed_curve25519".to_owned();
                wanted.entry(who.user_id.clone()).or_default().insert(who.device_id.clone().unwrap(), algorithm);
            }
        }
        let away = UserId::parse("@x:elsewhere.example").unwrap();
        wanted.insert(away.clone(), [("A".into(), "signed_curve25519".to_owned())].into());
        let mut query: BTreeMap<_, Vec<ruma::OwnedDeviceId>> = wanted.keys().map(|u| (u.clone(), Vec::new())).collect();
        let got = world.keys.claim(&bob, wanted).await.unwrap();
        assert_eq!(got.one_time_keys.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum::<usize>(), 50);
        assert_eq!(got.failures.keys().collect::<Vec<_>>(), ["elsewhere.example"]);
        let seen = world.keys.query(&bob, query.clone()).await.unwrap();
        assert_eq!(seen.device_keys.values().map(BTreeMap::len).sum::<usize>(), 50);
        assert_eq!(seen.failures.keys().collect::<Vec<_>>(), ["elsewhere.example"]);
        assert!(!seen.device_keys.contains_key(&away));
        for devices in query.values_mut() {
            devices.extend(["D3".into(), "D4".into(), "NONE".into()]);
        }
        let seen = world.keys.query(&bob, query).await.unwrap();
        assert_eq!(seen.device_keys.values().map(BTreeMap::len).sum::<usize>(), 10);
    }
}

#[tokio::test]
async fn a_device_that_goes_takes_its_keys_along() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        world.publish(&alice).await;
        world.keys.upload(&alice, upload(one_time(0..3))).await.unwrap();
        world.keys.upload(&alice, fallback("f1")).await.unwrap();
        assert_eq!(world.see(&bob, &alice).await.device_keys[&alice.user_id].len(), 1);
        world.store.delete_devices(alice.user_nid, vec!["PHONE".to_owned()]).await.unwrap();
        assert_eq!(world.see(&bob, &alice).await.device_keys[&alice.user_id].len(), 0);
        assert_eq!(claim(&world, &bob, &alice).await, None);
        let left = world.store.key_counts(alice.user_nid, "PHONE").await.unwrap();
        assert_eq!(*left, hearth_store::keys::one_time::KeyCounts::default());
    }
}
