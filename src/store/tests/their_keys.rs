//! Devices of other servers' users: what memory has of them is what the tables have.

use ruma::user_id;

use super::on_both;
use crate::keys::theirs::{RemoteDevice, RemoteList};

on_both! {
    async fn a_first_list_is_seen_though_nobody_is_told_of_it(disk) {
        let open = disk.open().await;
        let store = &open.store;
        let bob = store.intern_user(user_id!("@bob:peer.example")).await.unwrap();
        let devices = async || {
            let keys = store.keys_of(bob).await.unwrap();
            keys.devices.keys().cloned().collect::<Vec<_>>()
        };
        let list = |stream_id: i64, device_id: &str| {
            let json = Some(format!(r#"{{"device_id":"{device_id}"}}"#));
            let device = RemoteDevice { device_id: device_id.to_owned(), display_name: None, json };
            RemoteList { stream_id, devices: vec![device], signing_keys: Vec::new() }
        };
        // Somebody asked before he was followed: memory has that there is nothing.
        assert!(devices().await.is_empty());
        store.follow(vec![bob]).await.unwrap();
        store.put_remote_list(bob, list(7, "DESK"), true, || false).await.unwrap();
        assert_eq!(devices().await, ["DESK"]);
        store.unfollow(bob).await.unwrap();
        assert!(devices().await.is_empty());
        // A server that begins to count at 0 has said as much.
        store.follow(vec![bob]).await.unwrap();
        store.put_remote_list(bob, list(0, "PHONE"), true, || false).await.unwrap();
        assert_eq!(devices().await, ["PHONE"]);
        store.unfollow(bob).await.unwrap();
        assert!(devices().await.is_empty());
    }
}
