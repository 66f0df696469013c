//! Backups of room keys: versions, the better key, counting, deleting.

use super::*;
use crate::keys::backups::{BackupState, RoomKeys};
use hearth_store::keys::backups::Chosen;

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

async fn create(world: &World, who: &Requester, key: &str) -> String {
    world.keys.create_backup(who, ALGORITHM.to_owned(), &raw(&json!({"public_key": key}))).await.unwrap()
}

fn key(index: u32, forwarded: u32, verified: bool, text: &str) -> Box<RawValue> {
    raw(&json!({
        "first_message_index": index, "forwarded_count": forwarded, "is_verified": verified,
        "session_data": { "ciphertext": text },
    }))
}

fn room_keys(room: &str, session: &str, key: Box<RawValue>) -> RoomKeys {
    [(room.to_owned(), [(session.to_owned(), key)].into())].into()
}

fn state(etag: &str, count: u64) -> BackupState {
    BackupState { etag: etag.to_owned(), count }
}

#[tokio::test]
async fn versions_are_created_updated_deleted_and_never_used_twice() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        assert_eq!(world.keys.backup(&alice, None).await.unwrap_err().errcode(), "M_NOT_FOUND");
        assert_eq!(create(&world, &alice, "a").await, "1");
        assert_eq!(create(&world, &alice, "b").await, "2");
        let info = world.keys.backup(&alice, None).await.unwrap();
        assert_eq!((info.version.as_str(), info.algorithm.as_str()), ("2", ALGORITHM));
        assert_eq!((value(&info.auth_data), info.state), (json!({"public_key": "b"}), state("0", 0)));
        assert_eq!(value(&world.keys.backup(&alice, Some("1")).await.unwrap().auth_data)["public_key"], "a");

        let new = raw(&json!({"public_key": "b", "signatures": {}}));
        world.keys.update_backup(&alice, "2", ALGORITHM, &new, Some("2")).await.unwrap();
        assert_eq!(value(&world.keys.backup(&alice, Some("2")).await.unwrap().auth_data), value(&new));
        for (version, algorithm, in_body, errcode) in [
            ("2", "m.other", None, "M_INVALID_PARAM"),
            ("2", ALGORITHM, Some("1"), "M_INVALID_PARAM"),
            ("9", ALGORITHM, None, "M_NOT_FOUND"),
            ("two", ALGORITHM, None, "M_NOT_FOUND"),
        ] {
            let e = world.keys.update_backup(&alice, version, algorithm, &new, in_body).await.unwrap_err();
            assert_eq!(e.errcode(), errcode);
        }
        world.keys.delete_backup(&alice, "2").await.unwrap();
        world.keys.delete_backup(&alice, "2").await.unwrap();
        assert_eq!(world.keys.delete_backup(&alice, "3").await.unwrap_err().errcode(), "M_NOT_FOUND");
        assert_eq!(world.keys.backup(&alice, Some("2")).await.unwrap_err().errcode(), "M_NOT_FOUND");
        assert_eq!(world.keys.backup(&alice, None).await.unwrap().version, "1");
        assert_eq!(create(&world, &alice, "c").await, "3");
        assert_eq!(create(&world, &alice, "d").await, "4");
        let e = world.keys.create_backup(&alice, ALGORITHM.to_owned(), &raw(&json!({}))).await.unwrap_err();
        assert_eq!(e.errcode(), "M_FORBIDDEN");
        for (algorithm, auth_data) in [("", json!({})), (ALGORITHM, json!(5)), (ALGORITHM, json!([]))] {
            let e = world.keys.create_backup(&alice, algorithm.to_owned(), &raw(&auth_data)).await.unwrap_err();
            assert_eq!(e.errcode(), "M_BAD_JSON");
        }
    }
}

#[tokio::test]
async fn only_a_better_key_replaces_one() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        create(&world, &alice, "a").await;
        // In order: what is put, and which then stands.
        let steps = [
            (key(5, 5, false, "first"), "first", "1"),
            (key(5, 5, false, "same"), "first", "1"),
            (key(5, 6, false, "more forwarded"), "first", "1"),
            (key(5, 4, false, "less forwarded"), "less forwarded", "2"),
            (key(6, 0, false, "later index"), "less forwarded", "2"),
            (key(4, 9, false, "earlier index"), "earlier index", "3"),
            (key(9, 9, true, "verified"), "verified", "4"),
            (key(0, 0, false, "unverified"), "verified", "4"),
            (key(9, 8, true, "verified, less forwarded"), "verified, less forwarded", "5"),
        ];
        for (put, stands, etag) in steps {
            let state_now = world.keys.put_room_keys(&alice, "1", room_keys("!r:x", "s", put)).await.unwrap();
            assert_eq!(state_now, state(etag, 1), "{stands}");
            let keys = world.keys.room_keys(&alice, "1", Chosen::default()).await.unwrap();
            assert_eq!(value(&keys["!r:x"]["s"])["session_data"]["ciphertext"], stands);
        }
        let stored = value(&world.keys.room_keys(&alice, "1", Chosen::default()).await.unwrap()["!r:x"]["s"]);
        assert_eq!(stored, value(&key(9, 8, true, "verified, less forwarded")));
    }
}

#[tokio::test]
async fn keys_go_into_the_current_version_only() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        let put = |version: &'static str| {
            let keys = room_keys("!r:x", "s", key(0, 0, false, "t"));
            let (world, alice) = (&world, &alice);
            async move { world.keys.put_room_keys(alice, version, keys).await }
        };
        assert_eq!(put("1").await.unwrap_err().errcode(), "M_NOT_FOUND");
        create(&world, &alice, "a").await;
        create(&world, &alice, "b").await;
        let e = put("1").await.unwrap_err();
        assert_eq!((e.status().as_u16(), e.errcode()), (403, "M_WRONG_ROOM_KEYS_VERSION"));
        assert_eq!(e.body()["current_version"], "2");
        assert_eq!(put("7").await.unwrap_err().errcode(), "M_NOT_FOUND");
        assert_eq!(put("2").await.unwrap(), state("1", 1));
        for wrong in [
            json!({"first_message_index": 0, "forwarded_count": 0, "is_verified": true}),
            json!({"first_message_index": -1, "forwarded_count": 0, "is_verified": true, "session_data": {}}),
            json!({"first_message_index": 0, "forwarded_count": 1e300, "is_verified": true, "session_data": {}}),
            json!({"first_message_index": 0, "forwarded_count": 0, "is_verified": 1, "session_data": {}}),
            json!({"first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": null}),
        ] {
            let e = world.keys.put_room_keys(&alice, "2", room_keys("!r:x", "t", raw(&wrong))).await.unwrap_err();
            assert_eq!(e.errcode(), "M_BAD_JSON", "{wrong}");
        }
    }
}

#[tokio::test]
async fn keys_are_read_counted_and_deleted_by_room_and_session() {
    for world in worlds().await {
        let alice = world.device("alice", "PHONE").await;
        create(&world, &alice, "a").await;
        let mut keys = RoomKeys::new();
        for room in ["!a:x", "!b:x"] {
            for n in 0..20 {
                keys.entry(room.to_owned()).or_default().insert(format!("s{n}"), key(n, 0, false, "t"));
            }
        }
        assert_eq!(world.keys.put_room_keys(&alice, "1", keys).await.unwrap(), state("1", 40));
        let more: RoomKeys =
            [("!c:x".to_owned(), (0..20).map(|n| (format!("s{n}"), key(n, 0, false, "t"))).collect())].into();
        assert_eq!(world.keys.put_room_keys(&alice, "1", more).await.unwrap_err().status(), 413);

        let room = |room: &str| Chosen { room: Some(room.to_owned()), session: None };
        let one = |session: &str| Chosen { room: Some("!a:x".to_owned()), session: Some(session.to_owned()) };
        let count = async |chosen: Chosen| {
            world.keys.room_keys(&alice, "1", chosen).await.map(|k| k.values().map(|s| s.len()).sum::<usize>())
        };
        assert_eq!(count(Chosen::default()).await.unwrap(), 40);
        assert_eq!(count(room("!a:x")).await.unwrap(), 20);
        assert_eq!(count(room("!z:x")).await.unwrap(), 0);
        assert_eq!(count(one("s3")).await.unwrap(), 1);
        assert_eq!(count(one("none")).await.unwrap_err().errcode(), "M_NOT_FOUND");

        assert_eq!(world.keys.delete_room_keys(&alice, "1", one("s3")).await.unwrap(), state("2", 39));
        assert_eq!(world.keys.delete_room_keys(&alice, "1", one("s3")).await.unwrap(), state("2", 39));
        assert_eq!(world.keys.delete_room_keys(&alice, "1", room("!a:x")).await.unwrap(), state("3", 20));
        assert_eq!(world.keys.delete_room_keys(&alice, "1", Chosen::default()).await.unwrap(), state("4", 0));
        assert_eq!(world.keys.delete_room_keys(&alice, "2", Chosen::default()).await.unwrap_err().status(), 404);
        assert_eq!(count(Chosen::default()).await.unwrap(), 0);

        // A deleted backup's keys are gone, and nobody else's are touched.
        let bob = world.device("bob", "DESK").await;
        create(&world, &bob, "b").await;
        for who in [&alice, &bob] {
            world.keys.put_room_keys(who, "1", room_keys("!r:x", "s", key(0, 0, false, "t"))).await.unwrap();
        }
        world.keys.delete_backup(&alice, "1").await.unwrap();
        let left = world.store.backup_sessions(alice.user_nid, 1, &Chosen::default()).await.unwrap();
        assert!(left.is_empty());
        assert_eq!(world.keys.backup(&bob, None).await.unwrap().state, state("1", 1));
    }
}
