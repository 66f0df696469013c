//! To-device messages over real stores: sent once, read in order, gone once received.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hearth_base::{ids::StreamPos, requester::Requester};
use ruma::UserId;
use serde_json::{Value, json};

use super::{Messages, PER_SYNC};
use crate::keys::tests::{World, raw, worlds};

fn to(user: &Requester, device: &str, content: &Value) -> Messages {
    [(user.user_id.clone(), [(device.try_into().unwrap(), raw(content))].into())].into()
}

async fn send(world: &World, from: &Requester, txn: &str, messages: Messages) {
    world.to_device.send(from, "m.test", txn, messages).await.unwrap();
}

async fn inbox(world: &World, who: &Requester, after: i64) -> Vec<(i64, Value)> {
    let inbox = world.to_device.inbox(who, after, world.store.head()).await.unwrap();
    inbox.into_iter().map(|(id, json)| (id, serde_json::from_str(&json).unwrap())).collect()
}

#[tokio::test]
async fn messages_arrive_in_order_and_go_once_received() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let idle = world.store.head();
        assert!(inbox(&world, &bob, 0).await.is_empty());
        for n in 0..120 {
            send(&world, &alice, &format!("t{n}"), to(&bob, "DESK", &json!({ "n": n }))).await;
        }
        assert_eq!(world.store.head().0, idle.0 + 120, "one position a request");
        let first = inbox(&world, &bob, 0).await;
        assert_eq!(first.len(), PER_SYNC);
        let expected = json!({"type": "m.test", "sender": alice.user_id, "content": {"n": 0}});
        assert_eq!(first[0].1, expected);
        assert!(first.is_sorted_by(|a, b| a.0 < b.0 && a.1["content"]["n"].as_u64() < b.1["content"]["n"].as_u64()));
        let upto = first.last().unwrap().0;
        let bound = world.to_device.inbox(&bob, 0, StreamPos(first[9].0)).await.unwrap();
        assert_eq!(bound.len(), 10, "nothing after the end of the answer");

        // Read again before it was acknowledged: the same.
        assert_eq!(inbox(&world, &bob, 0).await, first);
        world.to_device.received(&bob, upto).await.unwrap();
        let rest = inbox(&world, &bob, upto).await;
        assert_eq!(rest.len(), 20);
        assert_eq!(rest[0].1["content"]["n"], 100);
        assert_eq!(inbox(&world, &bob, 0).await, rest, "what was received is gone");
        world.to_device.received(&bob, rest.last().unwrap().0).await.unwrap();
        assert!(inbox(&world, &bob, 0).await.is_empty());

        // What arrives later is seen although the inbox is known to be empty, and a token from beyond takes nothing.
        world.to_device.received(&bob, i64::MAX).await.unwrap();
        send(&world, &alice, "later", to(&bob, "DESK", &json!({"later": true}))).await;
        let later = inbox(&world, &bob, upto).await;
        assert_eq!(later.len(), 1);
        world.to_device.received(&bob, later[0].0).await.unwrap();
        assert!(inbox(&world, &bob, 0).await.is_empty());
    }
}

#[tokio::test]
async fn a_transaction_counts_once_a_device() {
    for world in worlds().await {
        let (alice, pad) = (world.device("alice", "PHONE").await, world.device("alice", "PAD").await);
        let bob = world.device("bob", "DESK").await;
        for _ in 0..3 {
            send(&world, &alice, "t", to(&bob, "DESK", &json!({}))).await;
        }
        assert_eq!(inbox(&world, &bob, 0).await.len(), 1);
        send(&world, &pad, "t", to(&bob, "DESK", &json!({}))).await;
        assert_eq!(inbox(&world, &bob, 0).await.len(), 2);
        world.to_device.sweep().await.unwrap();
        send(&world, &alice, "t", to(&bob, "DESK", &json!({}))).await;
        assert_eq!(inbox(&world, &bob, 0).await.len(), 2);
        world.clock.advance_ms(25 * 3600 * 1000);
        world.to_device.sweep().await.unwrap();
        send(&world, &alice, "t", to(&bob, "DESK", &json!({}))).await;
        assert_eq!(inbox(&world, &bob, 0).await.len(), 3);
    }
}

#[tokio::test]
async fn a_star_means_all_devices_that_are_not_named_and_strangers_are_passed_over() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let pad = world.device("bob", "PAD").await;
        let mut messages = to(&bob, "*", &json!({"to": "all"}));
        messages.get_mut(&bob.user_id).unwrap().extend([
            ("PAD".try_into().unwrap(), raw(&json!({"to": "pad"}))),
            ("GONE".try_into().unwrap(), raw(&json!({"to": "nobody"}))),
        ]);
        let message = || [("*".try_into().unwrap(), raw(&json!({})))].into();
        messages.insert(UserId::parse("@nobody:localhost").unwrap(), message());
        messages.insert(UserId::parse("@x:elsewhere.example").unwrap(), message());
        send(&world, &alice, "t", messages).await;
        assert_eq!(inbox(&world, &bob, 0).await[0].1["content"]["to"], "all");
        let of_pad = inbox(&world, &pad, 0).await;
        assert_eq!((of_pad.len(), &of_pad[0].1["content"]["to"]), (1, &json!("pad")));
        assert!(inbox(&world, &alice, 0).await.is_empty());

        let before = world.store.head();
        send(&world, &alice, "nobody", to(&bob, "GONE", &json!({}))).await;
        assert_eq!(world.store.head(), before, "what reaches nobody is no news");

        world.store.delete_devices(bob.user_nid, vec!["PAD".to_owned()]).await.unwrap();
        let pad = world.device("bob", "PAD").await;
        assert!(inbox(&world, &pad, 0).await.is_empty(), "a new device of an old name has no mail");
    }
}

#[tokio::test]
async fn messages_of_a_wrong_form_are_refused_whole() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let mut messages = to(&bob, "*", &json!({}));
        messages.get_mut(&bob.user_id).unwrap().insert("DESK".try_into().unwrap(), raw(&json!("text")));
        let e = world.to_device.send(&alice, "m.test", "t", messages).await.unwrap_err();
        assert_eq!(e.errcode(), "M_BAD_JSON");
        let large = json!({"text": "x".repeat(70_000)});
        let e = world.to_device.send(&alice, "m.test", "t", to(&bob, "DESK", &large)).await.unwrap_err();
        assert_eq!(e.status(), 413);
        for (kind, txn) in [("m.test\0", "t"), ("", "t"), ("m.test", "\0"), ("m.test", "")] {
            let e = world.to_device.send(&alice, kind, txn, to(&bob, "DESK", &json!({}))).await.unwrap_err();
            assert_eq!(e.errcode(), "M_INVALID_PARAM");
        }
        assert!(inbox(&world, &bob, 0).await.is_empty());
    }
}
