//! Typing: what is shown, when it ends, who is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ruma::owned_server_name;
use serde_json::json;

use super::*;
use crate::push::tests::{House, id};

struct World {
    house: House,
    notifier: Arc<Notifier>,
    typing: Arc<Typing>,
    clock: Clock,
}

async fn world() -> World {
    let house = House::new(&["a", "b"]).await;
    let (clock, supervisor) = (Clock::new(), Supervisor::new());
    let notifier = Notifier::new(house.store.clone(), owned_server_name!("x.org"), supervisor.clone());
    let typing = Typing::new(house.store.clone(), notifier.clone(), clock.clone(), &supervisor);
    World { house, notifier, typing, clock }
}

impl World {
    async fn set(&self, user: &str, types: bool, ms: Option<u64>) -> Result<()> {
        let who = self.house.who(user).await;
        let timeout = ms.map(Duration::from_millis);
        self.typing.set(&who, &self.house.room.room_id, &who.user_id, types, timeout).await
    }

    async fn counter(&self) -> u64 {
        self.notifier.hub(self.house.room.nid).await.unwrap().last_typing()
    }
}

#[tokio::test]
async fn it_begins_ends_and_runs_out() {
    let w = world().await;
    let room = w.house.room.nid;
    let slot = w.notifier.user(w.house.nid("b").await);
    let _rooms = w.notifier.rooms_of(&slot).await.unwrap();
    let rung = slot.bell().notified();
    let before = w.counter().await;
    w.set("a", true, Some(30_000)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), rung).await.expect("members are woken");
    let begun = w.counter().await;
    assert!(begun > before);
    assert_eq!(w.typing.users(room), [id("a")]);
    w.set("a", true, Some(30_000)).await.unwrap();
    assert_eq!(w.counter().await, begun, "going on is no news");
    w.set("b", true, None).await.unwrap();
    assert_eq!(w.typing.users(room), [id("a"), id("b")]);
    w.set("a", false, None).await.unwrap();
    assert_eq!(w.typing.users(room), [id("b")]);

    w.clock.advance_ms(29_000);
    let next = w.typing.tick().await.unwrap().unwrap();
    assert!(next <= Duration::from_secs(1), "{next:?}");
    let before = w.counter().await;
    w.clock.advance_ms(1_001);
    assert_eq!(w.typing.tick().await.unwrap(), None);
    assert_eq!(w.typing.users(room), Vec::<OwnedUserId>::new());
    assert!(w.counter().await > before);
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_nobody_typing() {
    let w = world().await;
    w.set("a", true, Some(30_000)).await.unwrap();
    w.clock.set_back_ms(3_600_000);
    w.clock.advance_ms(30_001);
    w.typing.tick().await.unwrap();
    assert_eq!(w.typing.users(w.house.room.nid), Vec::<OwnedUserId>::new());
}

#[tokio::test]
async fn nobody_types_for_hours() {
    let w = world().await;
    w.set("a", true, Some(u64::MAX)).await.unwrap();
    assert!(w.typing.tick().await.unwrap().unwrap() <= LONGEST);
}

#[tokio::test]
async fn who_sends_or_leaves_has_stopped() {
    let mut w = world().await;
    let room = w.house.room.nid;
    for user in ["a", "b"] {
        w.set(user, true, None).await.unwrap();
    }
    let logged = |event: Arc<hearth_store::events::StoredEvent>| Logged {
        pos: event.pos.unwrap(),
        change: Change::Event(event),
    };
    let event = w.house.say("a", json!({"body": "done"})).await;
    w.typing.on_change(&logged(event));
    assert_eq!(w.typing.users(room), [id("b")]);
    let event = w.house.member("b", "b", "leave").await;
    w.typing.on_change(&logged(event));
    assert_eq!(w.typing.users(room), Vec::<OwnedUserId>::new());
}

#[tokio::test]
async fn one_types_for_oneself_and_where_one_is() {
    let w = world().await;
    let (a, c) = (w.house.who("a").await, w.house.who("c").await);
    let room = &w.house.room.room_id;
    assert_eq!(w.typing.set(&a, room, &id("b"), true, None).await.unwrap_err().status().as_u16(), 403);
    assert_eq!(w.typing.set(&c, room, &c.user_id, true, None).await.unwrap_err().status().as_u16(), 403);
    let nowhere = RoomId::parse("!nowhere:x.org").unwrap();
    assert_eq!(w.typing.set(&a, &nowhere, &a.user_id, true, None).await.unwrap_err().status().as_u16(), 403);
}
