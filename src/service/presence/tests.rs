//! Presence: who is shown what, and when it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ruma::owned_server_name;

use super::*;
use crate::push::tests::{House, id};

struct World {
    house: House,
    notifier: Arc<Notifier>,
    presence: Arc<Presence>,
    clock: Clock,
}

async fn world() -> World {
    let house = House::new(&["a", "b"]).await;
    let (clock, supervisor) = (Clock::new(), Supervisor::new());
    let notifier = Notifier::new(house.store.clone(), owned_server_name!("x.org"), supervisor.clone());
    let settings = Settings::default();
    let presence = Presence::new(house.store.clone(), notifier.clone(), clock.clone(), settings, &supervisor);
    World { house, notifier, presence, clock }
}

impl World {
    async fn news(&self, user: &str, after: Option<u64>) -> Vec<(String, String)> {
        let news = self.presence.news(self.house.nid(user).await, after, |_| true).await.unwrap();
        let mut news: Vec<_> = news
            .iter()
            .map(|event| {
                let event: Value = serde_json::from_str(event).unwrap();
                let of = |value: &Value| value.as_str().unwrap().to_owned();
                (of(&event["sender"]), of(&event["content"]["presence"]))
            })
            .collect();
        news.sort();
        news
    }
}

fn is(user: &str, presence: &str) -> (String, String) {
    (id(user).to_string(), presence.to_owned())
}

#[tokio::test]
async fn who_syncs_is_online_then_idle_then_gone() {
    let w = world().await;
    let a = w.house.who("a").await;
    let start = w.notifier.ephemeral();
    let syncing = w.presence.syncing(&a, PresenceState::Online).await.unwrap().unwrap();
    assert_eq!(w.news("b", Some(start)).await, [is("a", "online")]);
    assert_eq!(w.news("b", None).await, [is("a", "online")]);
    assert_eq!(w.news("c", Some(start)).await, [], "a stranger hears nothing");
    let seen = w.notifier.ephemeral();
    drop(w.presence.syncing(&a, PresenceState::Online).await.unwrap());
    assert_eq!(w.notifier.ephemeral(), seen, "going on is no news");

    w.clock.advance_ms(300_000);
    w.presence.tick().await.unwrap();
    assert_eq!(w.news("b", Some(seen)).await, [is("a", "unavailable")]);
    drop(syncing);
    w.presence.tick().await.unwrap();
    assert_eq!(w.news("b", Some(seen)).await, [is("a", "unavailable")]);
    w.clock.advance_ms(30_000);
    w.presence.tick().await.unwrap();
    assert_eq!(w.news("b", Some(seen)).await, [is("a", "offline")]);
    assert_eq!(w.news("b", None).await, []);
}

#[tokio::test]
async fn a_status_is_set_and_seen_by_those_who_may() {
    let w = world().await;
    let (a, b, c) = (w.house.who("a").await, w.house.who("b").await, w.house.who("c").await);
    w.presence.set(&a, &a.user_id, PresenceState::Online, Some("here".to_owned())).await.unwrap();
    let status = w.presence.get(&b, &a.user_id).await.unwrap();
    assert_eq!((&status["presence"], &status["status_msg"]), (&json!("online"), &json!("here")));
    assert_eq!(status["currently_active"], true);
    assert_eq!(w.presence.get(&a, &b.user_id).await.unwrap(), json!({"presence": "offline"}));
    let refused =
        async |who: &Requester, user: &str| w.presence.get(who, &id(user)).await.unwrap_err().status().as_u16();
    assert_eq!(refused(&c, "a").await, 403);
    assert_eq!(refused(&a, "nobody").await, 404);
    let set = async |user: &str, state: &str| {
        let set = w.presence.set(&a, &id(user), PresenceState::from(state), None).await;
        set.unwrap_err().status().as_u16()
    };
    assert_eq!(set("b", "online").await, 403);
    assert_eq!(set("a", "asleep").await, 400);
    w.presence.set(&a, &a.user_id, PresenceState::Offline, None).await.unwrap();
    assert_eq!(w.presence.get(&b, &a.user_id).await.unwrap()["presence"], "offline");
}
