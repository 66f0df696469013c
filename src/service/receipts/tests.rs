//! Receipts on a real database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::account_data::{AccountData, Settings as DataSettings};
use crate::{push::tests::House, state::State, testing::on_both};

async fn house() -> (House, Receipts) {
    let house = House::new(&["a", "b", "c"]).await;
    let state = Arc::new(State::new(house.store.clone()));
    let data = Arc::new(AccountData::new(house.store.clone(), DataSettings::default()));
    let history = Arc::new(History::new(house.store.clone(), state, data, None, Clock::new()));
    let receipts = Receipts::new(house.store.clone(), history, Clock::new());
    (house, receipts)
}

/// (event, kind, user) -> thread, as a user is shown it.
async fn shown_to(
    house: &House,
    receipts: &Receipts,
    user: &str,
    after: StreamPos,
) -> Vec<(String, String, String, Value)> {
    let (user, head) = (house.nid(user).await, house.store.head());
    let content = receipts.content_since(house.room.nid, Some(after), head, user).await.unwrap();
    let content: Value = serde_json::from_str(&content.unwrap_or_else(|| "{}".to_owned())).unwrap();
    let mut out = Vec::new();
    for (event, kinds) in content.as_object().unwrap() {
        for (kind, users) in kinds.as_object().unwrap() {
            for (user, entry) in users.as_object().unwrap() {
                assert!(entry["ts"].is_number());
                let thread = entry.get("thread_id").cloned().unwrap_or(Value::Null);
                out.push((event.clone(), kind.clone(), user.clone(), thread));
            }
        }
    }
    out
}

fn is(event: &StoredEvent, kind: &str, user: &str, thread: Value) -> (String, String, String, Value) {
    (event.event_id().to_string(), kind.to_owned(), format!("@{user}:x.org"), thread)
}

on_both! {
    async fn receipts_move_forward_and_private_ones_are_private() {
        let (mut house, receipts) = house().await;
        let one = house.say("a", json!({"body": "1"})).await;
        let two = house.say("a", json!({"body": "2"})).await;
        let b = house.who("b").await;
        let room = house.room.room_id.clone();
        let start = house.store.head();
        assert_eq!(house.total("b").await, (2, 0));
        receipts.send(&b, &room, READ, one.event_id(), None).await.unwrap();
        assert_eq!(house.total("b").await, (1, 0));
        assert_eq!(shown_to(&house, &receipts, "a", start).await, [is(&one, READ, "b", Value::Null)]);
        receipts.send(&b, &room, PRIVATE, two.event_id(), None).await.unwrap();
        assert_eq!(house.total("b").await, (0, 0), "the one further ahead counts");
        assert_eq!(shown_to(&house, &receipts, "a", start).await, [is(&one, READ, "b", Value::Null)]);
        assert_eq!(shown_to(&house, &receipts, "b", start).await.len(), 2);

        let head = house.store.head();
        receipts.send(&b, &room, PRIVATE, one.event_id(), None).await.unwrap();
        assert_eq!(house.store.head(), head, "nothing moves backwards");
        receipts.send(&b, &room, READ, two.event_id(), None).await.unwrap();
        assert_eq!(shown_to(&house, &receipts, "a", start).await, [is(&two, READ, "b", Value::Null)]);
        assert_eq!(shown_to(&house, &receipts, "a", house.store.head()).await, []);
    }

    async fn threads_have_receipts_of_their_own() {
        let (mut house, receipts) = house().await;
        let root = house.say("a", json!({"body": "root"})).await;
        let thread = root.event_id().as_str();
        let relates = |kind: &str, to: &EventId| json!({"body": "x", "m.relates_to": {"rel_type": kind, "event_id": to}});
        let inside = house.say("a", relates("m.thread", root.event_id())).await;
        let about = house.say("a", relates("m.reference", inside.event_id())).await;
        let outside = house.say("a", json!({"body": "else"})).await;
        let b = house.who("b").await;
        let room = house.room.room_id.clone();
        let unread = house.unread("b").await;
        assert_eq!((unread.main.notifications, unread.threads[thread].notifications), (3, 1));

        let status = async |event: &StoredEvent, thread: &str| {
            receipts.send(&b, &room, READ, event.event_id(), Some(thread)).await.err().map(|e| e.errcode().to_owned())
        };
        let invalid = Some("M_INVALID_PARAM".to_owned());
        assert_eq!(status(&outside, thread).await, invalid);
        assert_eq!(status(&inside, "main").await, invalid);
        assert_eq!(status(&inside, "").await, invalid);
        assert_eq!(status(&inside, thread).await, None);
        assert_eq!(status(&about, thread).await, None, "what relates to the thread is in it");
        let unread = house.unread("b").await;
        assert_eq!((unread.main.notifications, unread.threads.len()), (3, 0));
        assert_eq!(status(&outside, "main").await, None);
        assert_eq!(house.total("b").await, (0, 0));

        // Both stand at one event: the unthreaded one is shown.
        receipts.send(&b, &room, READ, outside.event_id(), None).await.unwrap();
        let shown = shown_to(&house, &receipts, "a", StreamPos::ZERO).await;
        assert!(shown.contains(&is(&outside, READ, "b", Value::Null)), "{shown:?}");
        assert!(shown.contains(&is(&about, READ, "b", json!(thread))), "{shown:?}");
        assert_eq!(shown.len(), 2);
        let at: HashSet<&EventId> = [about.event_id()].into();
        let content = receipts.content_at(house.room.nid, &at, house.store.head(), house.nid("a").await).await.unwrap();
        let content: Value = serde_json::from_str(&content.unwrap()).unwrap();
        assert_eq!(content.as_object().unwrap().keys().collect::<Vec<_>>(), [about.event_id().as_str()]);
    }

    async fn the_fully_read_marker_is_account_data_and_goes_forward() {
        let (mut house, receipts) = house().await;
        let one = house.say("a", json!({"body": "1"})).await;
        let two = house.say("a", json!({"body": "2"})).await;
        let b = house.who("b").await;
        let room = house.room.room_id.clone();
        let marker = async || {
            let stored = house.data.get(&b, &b.user_id, Some(&room), FULLY_READ).await.ok()?;
            let stored: Value = serde_json::from_str(stored.get()).unwrap();
            Some(stored["event_id"].as_str().unwrap().to_owned())
        };
        assert_eq!(marker().await, None);
        let id = |event: &StoredEvent| Some(event.event_id().to_owned());
        let markers = Markers { fully_read: id(&two), read: id(&one), private: id(&two) };
        receipts.mark(&b, &room, markers).await.unwrap();
        assert_eq!(marker().await.unwrap(), two.event_id().as_str());
        assert_eq!(house.total("b").await, (0, 0));
        receipts.send(&b, &room, FULLY_READ, one.event_id(), None).await.unwrap();
        assert_eq!(marker().await.unwrap(), two.event_id().as_str());
        receipts.mark(&b, &room, Markers::default()).await.unwrap();
    }

    async fn what_makes_no_receipt_is_refused() {
        let (mut house, receipts) = house().await;
        let event = house.say("a", json!({"body": "1"})).await;
        let room = house.room.room_id.clone();
        let (b, d) = (house.who("b").await, house.who("d").await);
        let refused = async |who: &Requester, kind: &str, event: &str, thread: Option<&str>| {
            let event = EventId::parse(event).unwrap();
            let e = receipts.send(who, &room, kind, &event, thread).await.unwrap_err();
            (e.status().as_u16(), e.errcode().to_owned())
        };
        let id = event.event_id().as_str();
        assert_eq!(refused(&b, "m.seen", id, None).await, (400, "M_INVALID_PARAM".to_owned()));
        assert_eq!(refused(&b, FULLY_READ, id, Some("main")).await, (400, "M_INVALID_PARAM".to_owned()));
        assert_eq!(refused(&b, READ, "$nothing", None).await, (404, "M_NOT_FOUND".to_owned()));
        assert_eq!(refused(&d, READ, id, None).await.0, 404);
        house.member("b", "b", "leave").await;
        assert_eq!(refused(&b, READ, id, None).await, (403, "M_FORBIDDEN".to_owned()));
    }

    async fn more_receipts_than_are_remembered_are_read_from_disk() {
        let names: Vec<String> = (0..60).map(|n| format!("u{n}")).collect();
        let users: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut house = House::new(&users).await;
        let state = Arc::new(State::new(house.store.clone()));
        let data = Arc::new(AccountData::new(house.store.clone(), DataSettings::default()));
        let history = Arc::new(History::new(house.store.clone(), state, data, None, Clock::new()));
        let receipts = Receipts::new(house.store.clone(), history, Clock::new());
        let event = house.say("u0", json!({"body": "1"})).await;
        let start = house.store.head();
        for user in &users {
            receipts.send(&house.who(user).await, &house.room.room_id, READ, event.event_id(), None).await.unwrap();
        }
        assert_eq!(shown_to(&house, &receipts, "u0", start).await.len(), 60);
        let late = StreamPos(house.store.head().0 - 10);
        assert_eq!(shown_to(&house, &receipts, "u0", late).await.len(), 10);
    }
}
