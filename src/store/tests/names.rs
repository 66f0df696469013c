//! Names that get numbers: once each, and none that would stand in the way of every commit.

use std::{collections::HashSet, os::unix::fs::PermissionsExt};

use ruma::UserId;

use super::{Disk, on_both};
use crate::intern::StateKey;

on_both! {
    async fn a_name_that_no_database_holds_is_refused_and_writing_goes_on(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        let long = "k".repeat(60_000);
        assert_eq!(open.store.intern_key("m.room.topic", &long).await.unwrap_err().status(), 413);
        assert_eq!(open.store.intern_key(&long, "").await.unwrap_err().status(), 413);
        assert_eq!(open.store.intern_key("m.room.topic", "a\0b").await.unwrap_err().status(), 400);
        open.write(user, "after").await.unwrap();
        let widest = "k".repeat(255);
        let nid = open.store.intern_key(&widest, &widest).await.unwrap();
        open.write(user, "stored").await.unwrap();
        open.close().await;
        let open = disk.open().await;
        assert_eq!(open.store.key_nid(&widest, &widest).await.unwrap(), Some(nid));
        open.close().await;
    }

    async fn many_who_meet_a_new_name_at_once_agree_on_its_number(disk) {
        let open = disk.open().await;
        let someone = open.user("someone").await;
        for round in 0..20 {
            let name = UserId::parse(format!("@new{round}:localhost")).unwrap();
            let callers: Vec<_> = (0..12)
                .map(|n| {
                    let (store, name) = (open.store.clone(), name.clone());
                    tokio::spawn(async move {
                        for _ in 0..n {
                            tokio::task::yield_now().await;
                        }
                        let nid = store.intern_user(&name).await.unwrap();
                        // Each writes, so that the name is stored while others still ask for it.
                        let data = move |_| Ok(Some("{}".to_owned()));
                        store.change_account_data(nid, None, "m.test", 100, data).await.unwrap();
                        nid
                    })
                })
                .collect();
            let mut nids = Vec::new();
            for caller in callers {
                nids.push(caller.await.unwrap());
            }
            nids.dedup();
            assert_eq!(nids.len(), 1, "{name} has several numbers");
        }
        open.write(someone, "and writing goes on").await.unwrap();
        open.close().await;
    }

    async fn many_names_get_their_numbers_at_once(disk) {
        let open = disk.open().await;
        let name = |n: usize| match n % 3 {
            0 => StateKey::new(&format!("m.test.{n}"), ""),
            1 => StateKey::new("m.test", &format!("key {n}")),
            _ => StateKey::new("m.test", &format!("%_'\"\\{n}")),
        };
        let user = |n: usize| UserId::parse(format!("@many{n}:localhost")).unwrap();
        let stored = open.store.intern_key("m.test", &name(4).state_key).await.unwrap();
        let known = open.user("many7").await;
        open.write(known, "and with it the key").await.unwrap();
        open.close().await;

        let open = disk.open().await;
        let unstorable = [StateKey::new("m.test", "a\0b"), StateKey::new(&"k".repeat(300), "")];
        let (users, keys) = ((0..30).map(user).collect(), (0..30).map(name).chain(unstorable).collect());
        open.store.look_up(&users, &keys).await.unwrap();
        assert_eq!(open.store.user_nid(&user(7)).await.unwrap(), Some(known));
        assert_eq!(open.store.key_nid("m.test", &name(4).state_key).await.unwrap(), Some(stored));
        assert_eq!(open.store.user_nid(&user(8)).await.unwrap(), None, "known to have none");
        open.store.intern_names(&users, &keys).await.unwrap();
        let mut nids = HashSet::new();
        for n in 0..30 {
            let StateKey { event_type, state_key } = name(n);
            // Known already, though nothing of it is stored.
            nids.insert(open.store.key_nid(&event_type, &state_key).await.unwrap().unwrap().0);
            nids.insert(open.store.user_nid(&user(n)).await.unwrap().unwrap().0);
        }
        assert_eq!(nids.len(), 60, "one each");
        assert!(nids.contains(&stored.0) && nids.contains(&known.0), "those they had");
        assert_eq!(open.store.key_nid("m.test", "a\0b").await.unwrap(), None);
        open.write(known, "stores them").await.unwrap();
        open.close().await;
        let open = disk.open().await;
        let StateKey { event_type, state_key } = name(29);
        assert!(nids.contains(&open.store.key_nid(&event_type, &state_key).await.unwrap().unwrap().0));
        open.close().await;
    }

    async fn a_name_is_found_by_its_number_while_it_is_stored(disk) {
        let open = disk.open().await;
        let someone = open.user("someone").await;
        for round in 0..60 {
            let nid = open.store.intern_key("m.test", &format!("key {round}")).await.unwrap();
            let store = open.store.clone();
            let asking = tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(store.keys(&[nid]).await.unwrap()[0].state_key, format!("key {round}"));
                }
            });
            open.write(someone, "and with it the name").await.unwrap();
            asking.await.unwrap();
        }
        open.close().await;
    }
}

#[tokio::test]
async fn what_is_in_a_file_is_for_its_owner_alone() {
    let disk = Disk::sqlite();
    let open = disk.open().await;
    open.write(open.user("someone").await, "something").await.unwrap();
    for name in ["hearth.db", "hearth.db-wal", "hearth.db-shm"] {
        let mode = std::fs::metadata(disk.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    open.close().await;
}
