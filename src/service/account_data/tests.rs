//! Account data, tags and filters on a real database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::push::tests::{House, id};

fn text(json: Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&json).unwrap()
}

fn read(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}

async fn told<T: std::fmt::Debug>(call: impl Future<Output = Result<T>>) -> (u16, String) {
    let e = call.await.unwrap_err();
    (e.status().as_u16(), e.errcode().to_owned())
}

#[tokio::test]
async fn data_is_kept_shown_once_and_deleted() {
    let house = House::new(&["a"]).await;
    let (data, who) = (&house.data, house.who("a").await);
    let (user, room) = (who.user_id.clone(), house.room.room_id.clone());
    let start = house.store.head();
    let since = async |after: StreamPos| {
        let news = data.since(&user, who.user_nid, after, house.store.head()).await.unwrap();
        news.into_iter().map(|(room, kind, content)| (room.is_some(), kind, read(&content))).collect::<Vec<_>>()
    };
    assert_eq!(told(data.get(&who, &user, None, "m.direct")).await, (404, "M_NOT_FOUND".into()));
    data.put(&who, &user, None, "m.direct", &text(json!({"x": 1}))).await.unwrap();
    data.put(&who, &user, Some(&room), "m.direct", &text(json!({"x": 2}))).await.unwrap();
    assert_eq!(read(&data.get(&who, &user, None, "m.direct").await.unwrap()), json!({"x": 1}));
    assert_eq!(read(&data.get(&who, &user, Some(&room), "m.direct").await.unwrap()), json!({"x": 2}));
    assert_eq!(
        since(start).await,
        [(false, "m.direct".into(), json!({"x": 1})), (true, "m.direct".into(), json!({"x": 2}))]
    );
    let middle = house.store.head();
    data.put(&who, &user, None, "m.direct", &text(json!({"x": 3}))).await.unwrap();
    assert_eq!(since(middle).await, [(false, "m.direct".into(), json!({"x": 3}))]);

    let middle = house.store.head();
    data.delete(&who, &user, None, "m.direct").await.unwrap();
    assert_eq!(told(data.get(&who, &user, None, "m.direct")).await.0, 404);
    assert_eq!(since(middle).await, [(false, "m.direct".into(), json!({}))]);
    let head = house.store.head();
    data.delete(&who, &user, None, "m.direct").await.unwrap();
    data.delete(&who, &user, None, "m.never").await.unwrap();
    assert_eq!(house.store.head(), head, "deleting nothing is no news");
    let all = data.all(&user, who.user_nid, head).await.unwrap();
    let kinds: Vec<_> = all.iter().map(|(room, kind, _)| (room.is_some(), kind.as_str())).collect();
    assert_eq!(kinds, [(false, "m.push_rules"), (true, "m.direct")]);
    assert_eq!(data.of_room(who.user_nid, house.room.nid).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_may_not_be_set_is_refused() {
    let house = House::new(&["a", "b"]).await;
    let (data, who) = (&house.data, house.who("a").await);
    let user = who.user_id.clone();
    let object = text(json!({}));
    for kind in ["m.fully_read", "m.push_rules"] {
        assert_eq!(told(data.put(&who, &user, None, kind, &object)).await, (405, "M_BAD_JSON".into()));
        let room = Some(&*house.room.room_id);
        assert_eq!(told(data.put(&who, &user, room, kind, &object)).await, (405, "M_BAD_JSON".into()));
        assert_eq!(told(data.delete(&who, &user, None, kind)).await, (405, "M_BAD_JSON".into()));
    }
    assert_eq!(told(data.put(&who, &id("b"), None, "m.direct", &object)).await, (403, "M_FORBIDDEN".into()));
    assert_eq!(told(data.get(&who, &id("b"), None, "m.direct")).await, (403, "M_FORBIDDEN".into()));
    assert_eq!(told(data.put(&who, &user, None, "m.direct", &text(json!([])))).await, (400, "M_BAD_JSON".into()));
    assert_eq!(told(data.put(&who, &user, None, &"k".repeat(256), &object)).await, (400, "M_INVALID_PARAM".into()));
    let large = text(json!({"x": "y".repeat(1 << 20)}));
    assert_eq!(told(data.put(&who, &user, None, "m.direct", &large)).await, (413, "M_TOO_LARGE".into()));
    let few = AccountData::new(house.store.clone(), Settings { max_pieces: 2, ..Settings::default() });
    for kind in ["one", "two", "one"] {
        few.put(&who, &user, None, kind, &object).await.unwrap();
    }
    assert_eq!(told(few.put(&who, &user, None, "three", &object)).await, (413, "M_TOO_LARGE".into()));
    // Nor does a room nobody has heard of come to be by that.
    let unheard = RoomId::parse("!unheard:x.org").unwrap();
    assert_eq!(told(few.put(&who, &user, Some(&unheard), "three", &object)).await.0, 413);
    assert_eq!(told(few.set_tag(&who, &user, &unheard, "u.x", Map::new())).await.0, 413);
    assert_eq!(told(data.put(&who, &user, Some(&unheard), "m.direct", &large)).await.0, 413);
    let info = json!({"x": "y".repeat(1 << 20)}).as_object().unwrap().clone();
    assert_eq!(told(data.set_tag(&who, &user, &unheard, "u.x", info)).await.0, 413);
    data.delete_tag(&who, &user, &unheard, "u.x").await.unwrap();
    data.delete(&who, &user, Some(&unheard), "one").await.unwrap();
    assert_eq!(house.store.room_nid(&unheard).await.unwrap(), None);
    data.put(&who, &user, Some(&unheard), "one", &object).await.unwrap();
    assert!(house.store.room_nid(&unheard).await.unwrap().is_some());
}

#[tokio::test]
async fn tags_come_and_go() {
    let house = House::new(&["a", "b"]).await;
    let (data, who) = (&house.data, house.who("a").await);
    let (user, room) = (who.user_id.clone(), house.room.room_id.clone());
    let info = |json: Value| json.as_object().unwrap().clone();
    assert!(data.tags(&who, &user, &room).await.unwrap().is_empty());
    data.set_tag(&who, &user, &room, "m.favourite", info(json!({"order": 0.5, "note": "x"}))).await.unwrap();
    data.set_tag(&who, &user, &room, "u.work", info(json!({}))).await.unwrap();
    let tags = Value::Object(data.tags(&who, &user, &room).await.unwrap());
    assert_eq!(tags, json!({"m.favourite": {"order": 0.5, "note": "x"}, "u.work": {}}));
    data.delete_tag(&who, &user, &room, "m.favourite").await.unwrap();
    let stored = read(&data.get(&who, &user, Some(&room), "m.tag").await.unwrap());
    assert_eq!(stored, json!({"tags": {"u.work": {}}}));
    let wrong = info(json!({"order": "first"}));
    assert_eq!(told(data.set_tag(&who, &user, &room, "u.x", wrong)).await, (400, "M_BAD_JSON".into()));
    let long = "u".repeat(256);
    assert_eq!(told(data.set_tag(&who, &user, &room, &long, info(json!({})))).await.0, 400);
    assert_eq!(told(data.tags(&who, &id("b"), &room)).await.0, 403);
    // Whatever a client has put there by hand does not stand in the way.
    data.put(&who, &user, Some(&room), "m.tag", &text(json!({"tags": 3}))).await.unwrap();
    assert!(data.tags(&who, &user, &room).await.unwrap().is_empty());
    data.set_tag(&who, &user, &room, "u.x", info(json!({}))).await.unwrap();
}

#[tokio::test]
async fn a_filter_has_one_id_and_old_ones_go() {
    let house = House::new(&["a", "b"]).await;
    let who = house.who("a").await;
    let user = who.user_id.clone();
    let data = AccountData::new(house.store.clone(), Settings { max_filters: 3, ..Settings::default() });
    let define = async |json: Value| data.define_filter(&who, &user, &text(json)).await;
    let one = define(json!({"room": {"timeline": {"limit": 5}}, "event_format": "client"})).await.unwrap();
    let same = define(json!({"event_format": "client", "room": {"timeline": {"limit": 5}}})).await.unwrap();
    assert_eq!(one, same);
    let kept = read(&data.filter(&who, &user, &one).await.unwrap());
    assert_eq!(kept, json!({"room": {"timeline": {"limit": 5}}, "event_format": "client"}));
    let parsed = filters::read(&data.filter_text(who.user_nid, &one).await.unwrap()).unwrap();
    assert_eq!(parsed.0.room.timeline.limit, Some(5_u32.into()));
    let old = r#"{"room": {"timeline": {"org.matrix.msc3773.unread_thread_notifications": true}}}"#;
    let inline = filters::read(&data.filter_text(who.user_nid, old).await.unwrap()).unwrap();
    assert!(inline.0.room.timeline.unread_thread_notifications);

    for wrong in [
        json!([]),
        json!({"room": []}),
        json!({"room": {"timeline": {"limit": "many"}}}),
        json!({"room": {"timeline": {"senders": ["bob"]}}}),
        json!({"room": {"rooms": ["#alias:x"]}}),
        json!({"event_format": "odd"}),
    ] {
        assert_eq!(told(define(wrong)).await, (400, "M_BAD_JSON".into()));
    }
    assert_eq!(told(data.filter(&who, &user, "77")).await.0, 404);
    assert_eq!(told(data.filter(&who, &user, "x")).await.0, 404);
    assert_eq!(told(data.filter(&who, &id("b"), &one)).await.0, 403);
    assert_eq!(told(data.filter_text(who.user_nid, "77")).await.0, 400);
    for n in 0..3 {
        define(json!({"room": {"timeline": {"limit": n}}})).await.unwrap();
    }
    let b = house.who("b").await;
    assert_eq!(data.define_filter(&b, &b.user_id, &text(json!({}))).await.unwrap(), "0");
    let cold = AccountData::new(house.store.clone(), Settings::default());
    assert!(cold.filter(&who, &user, "3").await.is_ok());
    assert!(cold.filter(&who, &user, "1").await.is_ok());
}
