//! Documents of other servers' keys: the newest is right, whoever told it.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, ServerName, server_name};

use super::on_both;
use crate::server_keys::{KeyDocument, VerifyKey};

/// A document with these keys, each its id in place of a public key.
fn document(valid_ms: i64, fetched_ms: i64, second_hand: bool, ids: &[&str]) -> KeyDocument {
    let key = |id: &str| VerifyKey { public_key: format!("{id} of {valid_ms}"), valid_ms, old: false };
    let keys = ids.iter().map(|id| ((*id).to_owned(), key(id))).collect();
    KeyDocument { server: peer(), json: format!("{valid_ms}"), valid_ms, fetched_ms, keys, second_hand }
}

fn peer() -> OwnedServerName {
    server_name!("peer.example").to_owned()
}

on_both! {
    async fn what_a_notary_remembers_takes_the_place_of_nothing_newer(disk) {
        let open = disk.open().await;
        let store = &open.store;
        let check = async |valid: &[(&str, i64)], documents: &[&str]| {
            let keys = store.server_keys([&*peer()]).await.unwrap().remove(&peer()).unwrap();
            let found: BTreeMap<&str, i64> = keys.iter().map(|(id, key)| (id.as_str(), key.valid_ms)).collect();
            assert_eq!(found, valid.iter().copied().collect());
            assert!(keys.iter().all(|(id, key)| key.public_key == format!("{id} of {}", key.valid_ms)), "{keys:?}");
            let kept = store.key_documents(&peer()).await.unwrap();
            assert_eq!(kept.iter().map(|d| d.json.as_str()).collect::<Vec<_>>(), documents);
        };
        store.keep_key_documents(vec![document(200, 10, false, &["a"])]).await.unwrap();
        check(&[("a", 200)], &["200"]).await;
        store.keep_key_documents(vec![document(100, 20, true, &["a"])]).await.unwrap();
        check(&[("a", 200)], &["200"]).await;
        // Keys that are in no other document are news, but older ones.
        store.keep_key_documents(vec![document(150, 30, true, &["a", "b"])]).await.unwrap();
        check(&[("a", 200), ("b", 150)], &["200", "150"]).await;
        // Several at once, in any order.
        let several = vec![document(400, 40, true, &["c"]), document(300, 40, true, &["a"])];
        store.keep_key_documents(several).await.unwrap();
        check(&[("a", 300), ("b", 150), ("c", 400)], &["400", "300", "150"]).await;
        // What a server says itself is the newest, though it holds for less.
        store.keep_key_documents(vec![document(350, 50, false, &["a", "c"])]).await.unwrap();
        check(&[("a", 350), ("b", 150), ("c", 350)], &["350", "150"]).await;
        // Nobody fills the disk with keys.
        for n in 0..10_i64 {
            store.keep_key_documents(vec![document(n, 60 + n, true, &[&format!("k{n}")])]).await.unwrap();
        }
        assert_eq!(store.key_documents(&peer()).await.unwrap().len(), 5);
        open.close().await;
    }

    async fn the_first_document_of_a_server_is_written_with_what_follows_or_at_the_end(disk) {
        let open = disk.open().await;
        let names = [server_name!("one.example"), server_name!("two.example")];
        for server in names {
            assert!(open.store.server_keys([server]).await.unwrap()[server].is_empty());
        }
        let of = |server: &ServerName| KeyDocument { server: server.to_owned(), ..document(200, 10, false, &["a"]) };
        open.store.keep_key_documents(vec![of(names[0])]).await.unwrap();
        // At once for whoever checks a signature, and for whoever asks a notary.
        assert_eq!(open.store.server_keys([names[0]]).await.unwrap()[names[0]].len(), 1);
        assert_eq!(open.store.key_documents(names[0]).await.unwrap().len(), 1);
        open.store.keep_key_documents(vec![of(names[1])]).await.unwrap();
        // Also for who has just asked the disk in vain.
        open.store.inner.server_keys.forget(&names[1].to_owned());
        assert_eq!(open.store.server_keys([names[1]]).await.unwrap()[names[1]].len(), 1);
        // One that cannot be stored is nobody else's trouble.
        let third = server_name!("three.example");
        open.store.server_keys([third]).await.unwrap();
        let bad = KeyDocument { server: third.to_owned(), ..document(200, 10, false, &["a\0"]) };
        let _ = open.store.keep_key_documents(vec![bad]).await;
        open.close().await;
        let open = disk.open().await;
        for server in names {
            assert_eq!(open.store.server_keys([server]).await.unwrap()[server].len(), 1, "{server}");
        }
        open.close().await;
    }
}
