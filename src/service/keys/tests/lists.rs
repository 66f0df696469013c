//! Device lists: who is named to whom, from memory and from the tables.

use super::*;

#[tokio::test]
async fn whoever_shares_a_room_hears_of_changed_keys() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let carol = world.device("carol", "PAD").await;
        let room = world.room(&alice).await;
        world.join(&bob, &room).await;
        let before = world.now();
        assert_eq!(world.lists(&bob, before).await, (vec![], vec![]));
        world.publish(&alice).await;
        assert_eq!(world.lists(&bob, before).await.0, ["alice"]);
        assert_eq!(world.lists(&alice, before).await.0, ["alice"], "one's own other devices hear of it");
        assert_eq!(world.lists(&carol, before).await.0, [""; 0]);
        assert_eq!(world.lists(&bob, world.now()).await.0, [""; 0]);
        let renamed = world.now();
        world.store.rename_device(alice.user_nid, "PHONE".to_owned(), Some("x".to_owned())).await.unwrap();
        assert_eq!(world.lists(&bob, renamed).await.0, ["alice"]);
        let deleted = world.now();
        world.store.delete_devices(alice.user_nid, vec!["PHONE".to_owned()]).await.unwrap();
        assert_eq!(world.lists(&bob, deleted).await.0, ["alice"]);

        let world = world.restarted().await;
        assert_eq!(world.lists(&bob, before).await.0, ["alice"]);
        assert_eq!(world.lists(&carol, before).await.0, [""; 0]);
        assert_eq!(world.lists(&bob, world.now()).await.0, [""; 0]);
    }
}

#[tokio::test]
async fn those_who_meet_and_part_hear_of_each_other() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let carol = world.device("carol", "PAD").await;
        let (one, two) = (world.room(&alice).await, world.room(&alice).await);
        world.join(&carol, &one).await;

        let before_bob = world.now();
        world.join(&bob, &one).await;
        assert_eq!(world.lists(&alice, before_bob).await.0, ["bob"]);
        assert_eq!(world.lists(&bob, before_bob).await.0, ["alice", "bob", "carol"], "everybody in a room one enters");

        // A second room in common is no news, nor is leaving it.
        let before_second = world.now();
        world.join(&bob, &two).await;
        assert_eq!(world.lists(&alice, before_second).await, (vec![], vec![]));
        assert_eq!(world.lists(&bob, before_second).await, (vec![], vec![]));
        world.leave(&bob, &two).await;
        assert_eq!(world.lists(&alice, before_second).await, (vec![], vec![]));
        assert_eq!(world.lists(&bob, before_second).await, (vec![], vec![]));

        let before_leave = world.now();
        world.leave(&bob, &one).await;
        assert_eq!(world.lists(&alice, before_leave).await, (vec![], vec!["bob".to_owned()]));
        assert_eq!(world.lists(&carol, before_leave).await, (vec![], vec!["bob".to_owned()]));
        let parted = (vec![], vec!["alice".to_owned(), "carol".to_owned()]);
        assert_eq!(world.lists(&bob, before_leave).await, parted);
        // Came and went: nobody needs to look.
        assert_eq!(world.lists(&alice, before_bob).await.0, [""; 0]);

        // Who comes back is to be looked at again, as their keys may have changed meanwhile.
        let before_return = world.now();
        world.publish(&bob).await;
        assert_eq!(world.lists(&alice, before_return).await.0, [""; 0]);
        world.join(&bob, &one).await;
        assert_eq!(world.lists(&alice, before_return).await, (vec!["bob".to_owned()], vec![]));

        let world = world.restarted().await;
        assert_eq!(world.lists(&alice, before_return).await, (vec!["bob".to_owned()], vec![]));
        assert_eq!(world.lists(&bob, before_return).await.0, ["alice", "bob", "carol"]);
        let before_last = world.now();
        world.leave(&bob, &one).await;
        let world = world.restarted().await;
        assert_eq!(world.lists(&alice, before_last).await, (vec![], vec!["bob".to_owned()]));
        assert_eq!(world.lists(&bob, before_last).await, (vec![], vec!["alice".to_owned(), "carol".to_owned()]));
        assert_eq!(world.lists(&alice, before_bob).await.0, [""; 0]);
    }
}

#[tokio::test]
async fn a_new_name_is_no_news_to_those_who_share_a_room() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let room = world.room(&alice).await;
        world.join(&bob, &room).await;
        let before = world.now();
        // A join while joined is how names change.
        world
            .membership
            .join(&bob, &room, &[], Joining { reason: Some("again".to_owned()), ..Joining::default() })
            .await
            .unwrap();
        assert!(world.now() > before);
        assert_eq!(world.lists(&alice, before).await, (vec![], vec![]));
    }
}

#[tokio::test]
async fn whom_one_invites_is_to_be_looked_at_and_not_parted_from() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let room = world.room(&alice).await;
        world.join(&bob, &room).await;
        let before = world.now();
        world.leave(&bob, &room).await;
        world.membership.invite(&alice, &room, &bob.user_id, None).await.unwrap();
        let to_be_written_to = (vec!["bob".to_owned()], vec![]);
        assert_eq!(world.lists(&alice, before).await, to_be_written_to);
        let world = world.restarted().await;
        assert_eq!(world.lists(&alice, before).await, to_be_written_to);
    }
}

#[tokio::test]
async fn who_is_no_longer_invited_is_parted_from() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let carol = world.device("carol", "PAD").await;
        let (open, private) = (world.room(&alice).await, world.room(&alice).await);
        world.join(&carol, &open).await;
        let invite = async || world.membership.invite(&alice, &open, &bob.user_id, None).await.unwrap();
        let bob_left = (vec![], vec!["bob".to_owned()]);

        invite().await;
        let invited = world.now();
        world.leave(&bob, &open).await;
        assert_eq!(world.lists(&alice, invited).await, bob_left);
        assert_eq!(
            world.lists(&carol, invited).await,
            (vec![], vec![]),
            "whoever did not invite them was not told of them"
        );
        assert_eq!(
            world.lists(&bob, invited).await,
            (vec![], vec![]),
            "who is in a room is not told to whom it turned down"
        );

        invite().await;
        let again = world.now();
        world.membership.kick(&alice, &open, &bob.user_id, None).await.unwrap();
        assert_eq!(world.lists(&alice, again).await, bob_left);

        // Invited, and the room left behind.
        world.membership.invite(&alice, &private, &bob.user_id, None).await.unwrap();
        let before_quit = world.now();
        world.leave(&alice, &private).await;
        assert_eq!(world.lists(&alice, before_quit).await, bob_left);
        assert_eq!(world.lists(&alice, again).await, bob_left, "invited and gone in one");

        let world = world.restarted().await;
        assert_eq!(world.lists(&alice, invited).await, bob_left);
        assert_eq!(world.lists(&alice, before_quit).await, bob_left);
        assert_eq!(world.lists(&bob, invited).await, (vec![], vec![]));
    }
}

#[tokio::test]
async fn what_happens_while_it_is_asked_hides_nobody() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let carol = world.device("carol", "PAD").await;
        let (one, two) = (world.room(&carol).await, world.room(&carol).await);
        world.join(&alice, &one).await;
        world.join(&bob, &one).await;
        let bob_left = vec!["bob".to_owned()];
        let until = async |after, upto| world.until(&alice, after, upto).await.1;

        // Both go; what is asked up to the first going is answered after the second.
        let both = world.now();
        world.leave(&bob, &one).await;
        let bob_went = world.now();
        world.leave(&alice, &one).await;
        assert_eq!(until(both, bob_went).await, bob_left);

        // The other way round.
        world.join(&alice, &one).await;
        world.join(&bob, &one).await;
        let both = world.now();
        world.leave(&alice, &one).await;
        let alice_went = world.now();
        world.leave(&bob, &one).await;
        assert_eq!(until(both, alice_went).await, ["bob", "carol"]);

        // They met elsewhere meanwhile, and not for long.
        world.join(&alice, &one).await;
        world.join(&bob, &one).await;
        world.join(&bob, &two).await;
        let both = world.now();
        world.leave(&bob, &one).await;
        let bob_went = world.now();
        world.join(&alice, &two).await;
        assert_eq!(until(both, bob_went).await, [""; 0], "they are together still");
        world.leave(&alice, &two).await;
        assert_eq!(until(bob_went, world.now()).await, bob_left);

        let world = world.restarted().await;
        let until = async |after, upto| world.until(&alice, after, upto).await.1;
        assert_eq!(until(both, bob_went).await, bob_left);
        assert_eq!(until(bob_went, world.now()).await, bob_left);
    }
}

#[tokio::test]
async fn changes_between_two_tokens() {
    for world in worlds().await {
        let (alice, bob) = (world.device("alice", "PHONE").await, world.device("bob", "DESK").await);
        let room = world.room(&alice).await;
        world.join(&bob, &room).await;
        let token = |pos: StreamPos| {
            hearth_base::stream::SyncToken { pos, to_device: 0, boot: world.store.boot(), ephemeral: 0 }.to_string()
        };
        let from = token(world.now());
        world.publish(&alice).await;
        let changes = world.keys.changes(&bob, &from, &token(world.now())).await.unwrap();
        assert_eq!((changes.changed, changes.left), (vec![alice.user_id.clone()], vec![]));
        for (from, to) in [("", "h1_0_0_0"), ("h1_0_0_0", "s1"), ("'", "'")] {
            assert_eq!(world.keys.changes(&bob, from, to).await.unwrap_err().status(), 400);
        }
    }
}
