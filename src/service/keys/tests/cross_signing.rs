//! Cross-signing: who may publish what, whose signatures are kept, who sees them.

use super::*;
use crate::keys::cross_signing::{NewSigningKeys, SigningKeysUploaded};

/// The three keys of a user.
struct Identity {
    master: Pair,
    self_signing: Pair,
    user_signing: Pair,
}

impl Identity {
    fn new() -> Self {
        Self { master: Pair::cross_signing(), self_signing: Pair::cross_signing(), user_signing: Pair::cross_signing() }
    }

    fn keys(&self, who: &Requester) -> NewSigningKeys {
        let mut self_signing = self.self_signing.key(who, "self_signing");
        let mut user_signing = self.user_signing.key(who, "user_signing");
        self.master.sign(who, &mut self_signing);
        self.master.sign(who, &mut user_signing);
        NewSigningKeys {
            master: Some(raw(&self.master.key(who, "master"))),
            self_signing: Some(raw(&self_signing)),
            user_signing: Some(raw(&user_signing)),
        }
    }
}

async fn published(world: &World, who: &Requester) -> Identity {
    let identity = Identity::new();
    let done = world.keys.upload_signing_keys(who, &identity.keys(who), false).await.unwrap();
    assert_eq!(done, SigningKeysUploaded::Done);
    identity
}

#[tokio::test]
async fn the_first_keys_come_freely_others_only_by_proof() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let first = published(&world, &alice).await;
        let seen = world.see(&bob, &alice).await;
        assert_eq!(value(&seen.master_keys[&alice.user_id]), first.master.key(&alice, "master"));
        assert!(seen.self_signing_keys.contains_key(&alice.user_id));
        assert!(seen.user_signing_keys.is_empty(), "a user-signing key is its owner's own business");
        assert!(world.see(&alice, &alice).await.user_signing_keys.contains_key(&alice.user_id));

        let before = world.now();
        let again = world.keys.upload_signing_keys(&alice, &first.keys(&alice), false).await.unwrap();
        assert_eq!(again, SigningKeysUploaded::Done);
        assert_eq!(world.now(), before, "the same keys change nothing");

        let second = Identity::new();
        let refused = world.keys.upload_signing_keys(&alice, &second.keys(&alice), false).await.unwrap();
        assert_eq!(refused, SigningKeysUploaded::NeedsAuth);
        let seen = world.see(&bob, &alice).await;
        assert_eq!(value(&seen.master_keys[&alice.user_id]), first.master.key(&alice, "master"));
        world.keys.upload_signing_keys(&alice, &second.keys(&alice), true).await.unwrap();
        let seen = world.see(&bob, &alice).await;
        assert_eq!(value(&seen.master_keys[&alice.user_id]), second.master.key(&alice, "master"));

        let appservice = Requester { appservice: Some("bridge".to_owned()), ..alice.clone() };
        let done = world.keys.upload_signing_keys(&appservice, &first.keys(&alice), false).await.unwrap();
        assert_eq!(done, SigningKeysUploaded::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_first_identities_at_once_one_stands() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        let keys = world.keys.clone();
        let tries = (0..8).map(|_| {
            let (keys, alice) = (keys.clone(), alice.clone());
            async move { keys.upload_signing_keys(&alice, &Identity::new().keys(&alice), false).await.unwrap() }
        });
        let done = futures_util::future::join_all(tries).await;
        assert_eq!(done.iter().filter(|d| **d == SigningKeysUploaded::Done).count(), 1);
    }
}

/// Who signs their own device is named twice in what is loaded.
#[tokio::test]
async fn ones_own_device_is_signed_though_nothing_is_remembered() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        let identity = published(&world, &alice).await;
        world.publish(&alice).await;
        let mut phone = value(&world.see(&alice, &alice).await.device_keys[&alice.user_id]["PHONE"]);
        identity.self_signing.sign(&alice, &mut phone);
        let world = world.restarted().await;
        let signed = [(alice.user_id.clone(), [("PHONE".to_owned(), raw(&phone))].into())].into();
        let failures = world.keys.upload_signatures(&alice, signed).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        let seen = value(&world.see(&alice, &alice).await.device_keys[&alice.user_id]["PHONE"]);
        assert!(seen["signatures"][alice.user_id.as_str()][identity.self_signing.id()].is_string(), "{seen}");
    }
}

#[tokio::test]
async fn keys_that_are_not_signed_or_not_ones_own_are_refused() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let identity = Identity::new();
        let only_self = NewSigningKeys { master: None, user_signing: None, ..identity.keys(&alice) };
        let e = world.keys.upload_signing_keys(&alice, &only_self, false).await.unwrap_err();
        assert_eq!(e.errcode(), "M_MISSING_PARAM");

        let stranger = Identity::new();
        let mixed = NewSigningKeys { master: stranger.keys(&alice).master, ..identity.keys(&alice) };
        let e = world.keys.upload_signing_keys(&alice, &mixed, false).await.unwrap_err();
        assert_eq!((e.errcode(), e.status().as_u16()), ("M_INVALID_SIGNATURE", 400));

        let mut spoiled = value(identity.keys(&alice).self_signing.as_deref().unwrap());
        spoiled["extra"] = json!("not signed");
        let spoiled = NewSigningKeys { self_signing: Some(raw(&spoiled)), ..identity.keys(&alice) };
        let e = world.keys.upload_signing_keys(&alice, &spoiled, false).await.unwrap_err();
        assert_eq!(e.errcode(), "M_INVALID_SIGNATURE");

        assert_eq!(
            world.keys.upload_signing_keys(&bob, &identity.keys(&alice), false).await.unwrap_err().status(),
            400
        );
        let master = identity.master.key(&alice, "master");
        for (key, errcode) in [
            ("usage", json!(["self_signing"])),
            ("keys", json!({})),
            ("keys", json!({"ed25519:short": "short"})),
            (
                "keys",
                json!({(identity.master.id()): identity.master.public, (identity.self_signing.id()): identity.self_signing.public}),
            ),
            ("keys", json!({"ed25519:other": identity.master.public})),
            ("keys", json!("none")),
        ] {
            let mut wrong = master.clone();
            wrong[key] = errcode;
            let wrong = NewSigningKeys { master: Some(raw(&wrong)), ..NewSigningKeys::default() };
            assert_eq!(world.keys.upload_signing_keys(&alice, &wrong, false).await.unwrap_err().status(), 400);
        }
        // A device may not bear the name of a key.
        let named = world.device("carol", &identity.master.public).await;
        let e = world.keys.upload_signing_keys(&named, &identity.keys(&named), false).await.unwrap_err();
        assert_eq!(e.status(), 403);
        assert!(world.see(&bob, &alice).await.master_keys.is_empty(), "nothing of it was stored");
    }
}

#[tokio::test]
async fn signatures_that_verify_are_kept_and_seen_by_those_they_concern() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let carol = world.device("carol", "PAD").await;
        let phone = world.publish(&alice).await;
        let (of_alice, of_bob) = (published(&world, &alice).await, published(&world, &bob).await);

        // Alice signs her phone, her phone her master key, she Bob's master key.
        let device = &world.see(&alice, &alice).await.device_keys[&alice.user_id][<&ruma::DeviceId>::from("PHONE")];
        let mut device = value(device);
        of_alice.self_signing.sign(&alice, &mut device);
        let mut own_master = of_alice.master.key(&alice, "master");
        phone.sign(&alice, &mut own_master);
        let mut bobs_master = of_bob.master.key(&bob, "master");
        of_alice.user_signing.sign(&alice, &mut bobs_master);
        let own = [("PHONE".to_owned(), raw(&device)), (of_alice.master.public.clone(), raw(&own_master))];
        let bobs = [(of_bob.master.public.clone(), raw(&bobs_master))];
        let signed = [(alice.user_id.clone(), own.into()), (bob.user_id.clone(), bobs.into())];
        let failures = world.keys.upload_signatures(&alice, signed.into()).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");

        for who in [&alice, &bob, &carol] {
            let seen = world.see(who, &alice).await;
            let device = value(&seen.device_keys[&alice.user_id][<&ruma::DeviceId>::from("PHONE")]);
            let by = &device["signatures"][alice.user_id.as_str()];
            assert!(by[of_alice.self_signing.id()].is_string() && by["ed25519:PHONE"].is_string(), "{by}");
            let master = value(&seen.master_keys[&alice.user_id]);
            assert!(master["signatures"][alice.user_id.as_str()]["ed25519:PHONE"].is_string());
            let bobs = value(&world.see(who, &bob).await.master_keys[&bob.user_id]);
            let shown = bobs["signatures"][alice.user_id.as_str()][of_alice.user_signing.id()].is_string();
            assert_eq!(shown, who.user_id == alice.user_id, "what Alice signed of Bob is for Alice alone");
        }

        // New keys of Bob void what was signed of the old ones.
        world.keys.upload_signing_keys(&bob, &Identity::new().keys(&bob), true).await.unwrap();
        let bobs = value(&world.see(&alice, &bob).await.master_keys[&bob.user_id]);
        assert_eq!(bobs.get("signatures"), None);
    }
}

#[tokio::test]
async fn signatures_that_do_not_verify_are_named_one_by_one() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        world.publish(&alice).await;
        let (of_alice, of_bob) = (published(&world, &alice).await, published(&world, &bob).await);
        let device = &world.see(&alice, &alice).await.device_keys[&alice.user_id][<&ruma::DeviceId>::from("PHONE")];
        let device = value(device);

        let mut by_wrong_key = device.clone();
        of_bob.self_signing.sign(&alice, &mut by_wrong_key);
        let mut other_content = device.clone();
        other_content["algorithms"] = json!(["m.evil"]);
        of_alice.self_signing.sign(&alice, &mut other_content);
        let mut forged = device.clone();
        let forgery = Base64::<Standard, _>::new([9_u8; 64]).encode();
        forged["signatures"][alice.user_id.as_str()][of_alice.self_signing.id()] = json!(forgery);
        for wrong in [device.clone(), by_wrong_key, other_content, forged, json!({}), json!(5)] {
            let signed = [(alice.user_id.clone(), [("PHONE".to_owned(), raw(&wrong))].into())];
            let failures = world.keys.upload_signatures(&alice, signed.into()).await.unwrap();
            let failure = &failures[&alice.user_id]["PHONE"];
            let expected = if wrong == json!(5) { "M_BAD_JSON" } else { "M_INVALID_SIGNATURE" };
            assert_eq!(failure.errcode, expected, "{wrong}");
        }
        // Bob's master key signed by Alice's master key instead of her user-signing key; an unknown device; a user
        // of nowhere; and one that is right among them.
        let mut bobs = of_bob.master.key(&bob, "master");
        of_alice.master.sign(&alice, &mut bobs);
        let mut right = device.clone();
        of_alice.self_signing.sign(&alice, &mut right);
        let nobody = UserId::parse("@nobody:localhost").unwrap();
        let own = [("PHONE".to_owned(), raw(&right)), ("GONE".to_owned(), raw(&right))];
        let signed = [
            (alice.user_id.clone(), own.into()),
            (bob.user_id.clone(), [(of_bob.master.public.clone(), raw(&bobs)), ("DESK".to_owned(), raw(&bobs))].into()),
            (nobody.clone(), [("X".to_owned(), raw(&right))].into()),
        ];
        let failures = world.keys.upload_signatures(&alice, signed.into()).await.unwrap();
        assert_eq!(failures[&alice.user_id].len(), 1);
        assert_eq!(failures[&alice.user_id]["GONE"].errcode, "M_NOT_FOUND");
        assert_eq!(failures[&bob.user_id][&of_bob.master.public].errcode, "M_INVALID_SIGNATURE");
        assert_eq!(failures[&bob.user_id]["DESK"].errcode, "M_NOT_FOUND");
        assert_eq!(failures[&nobody]["X"].errcode, "M_NOT_FOUND");
        let seen = value(&world.see(&bob, &alice).await.device_keys[&alice.user_id][<&ruma::DeviceId>::from("PHONE")]);
        assert!(seen["signatures"][alice.user_id.as_str()][of_alice.self_signing.id()].is_string());
    }
}

#[tokio::test]
async fn what_one_signs_of_others_ones_own_devices_hear_of() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let (of_alice, of_bob) = (published(&world, &alice).await, published(&world, &bob).await);
        let mut bobs = of_bob.master.key(&bob, "master");
        of_alice.user_signing.sign(&alice, &mut bobs);
        let signed = [(bob.user_id.clone(), [(of_bob.master.public.clone(), raw(&bobs))].into())];
        let before = world.now();
        world.keys.upload_signatures(&alice, signed.into()).await.unwrap();
        assert_eq!(world.lists(&alice, before).await.0, ["bob"]);
        assert_eq!(world.lists(&bob, before).await.0, [""; 0]);
        let world = world.restarted().await;
        assert_eq!(world.lists(&alice, before).await.0, ["bob"]);
        assert_eq!(world.lists(&bob, before).await.0, [""; 0]);
    }
}

#[tokio::test]
async fn what_one_sees_alone_is_told_to_oneself_alone() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let room = world.room(&alice).await;
        world.join(&bob, &room).await;
        let first = published(&world, &alice).await;
        let of_bob = published(&world, &bob).await;
        let to_others = world.store.device_changes_since(StreamPos::ZERO, 100).await.unwrap();

        let before_key = world.now();
        let second = Identity { user_signing: Pair::cross_signing(), ..first };
        let only_user = NewSigningKeys { master: None, self_signing: None, ..second.keys(&alice) };
        let done = world.keys.upload_signing_keys(&alice, &only_user, true).await.unwrap();
        assert_eq!(done, SigningKeysUploaded::Done);
        let before_signature = world.now();
        let mut bobs_master = of_bob.master.key(&bob, "master");
        second.user_signing.sign(&alice, &mut bobs_master);
        let signed = [(bob.user_id.clone(), [(of_bob.master.public.clone(), raw(&bobs_master))].into())];
        assert!(world.keys.upload_signatures(&alice, signed.into()).await.unwrap().is_empty());

        let told = async |world: &World| {
            assert_eq!(world.lists(&bob, before_key).await, (vec![], vec![]));
            assert_eq!(world.lists(&alice, before_key).await.0, ["alice", "bob"]);
            assert_eq!(world.lists(&alice, before_signature).await.0, ["bob"], "whom she signed");
            assert_eq!(world.lists(&alice, world.now()).await.0, [""; 0]);
        };
        told(&world).await;
        let world = world.restarted().await;
        told(&world).await;
        let owed = world.store.device_changes_since(StreamPos::ZERO, 100).await.unwrap();
        assert_eq!(owed, to_others, "nor to other servers");

        // A new identity is everybody's business.
        let before_all = world.now();
        world.keys.upload_signing_keys(&alice, &Identity::new().keys(&alice), true).await.unwrap();
        assert_eq!(world.lists(&bob, before_all).await.0, ["alice"]);
        assert_ne!(world.store.device_changes_since(StreamPos::ZERO, 100).await.unwrap(), to_others);
    }
}
