//! What users do in rooms, in words.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{Answer, User};

/// The client API.
pub const V3: &str = "/_matrix/client/v3";

/// A string as a segment of a path or a value of a query.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A transaction id never used before.
pub fn txn() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The event id of an answer.
pub fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().unwrap_or_else(|| panic!("no event_id in {answer}")).to_owned()
}

impl User {
    /// A request about a room.
    pub async fn in_room(&self, room: &str, rest: &str) -> Answer {
        self.get(&format!("{V3}/rooms/{}/{rest}", encoded(room))).await
    }

    /// A POST about a room.
    pub async fn post_in_room(&self, room: &str, what: &str, body: Value) -> Answer {
        self.post(&format!("{V3}/rooms/{}/{what}", encoded(room)), body).await
    }

    /// Creates a room.
    pub async fn creates(&self, body: Value) -> String {
        let answer = self.post(&format!("{V3}/createRoom"), body).await.good();
        answer["room_id"].as_str().unwrap().to_owned()
    }

    /// Creates a room that everybody may join.
    pub async fn opens(&self) -> String {
        self.creates(json!({ "preset": "public_chat" })).await
    }

    /// Joins a room by id or alias.
    pub async fn joins(&self, room: &str) -> Answer {
        self.post(&format!("{V3}/join/{}", encoded(room)), json!({})).await
    }

    /// Leaves a room.
    pub async fn leaves(&self, room: &str) -> Answer {
        self.post_in_room(room, "leave", json!({})).await
    }

    /// Invites somebody.
    pub async fn invites(&self, room: &str, who: &User) -> Answer {
        self.post_in_room(room, "invite", json!({ "user_id": who.id })).await
    }

    /// Kicks, bans or unbans somebody.
    pub async fn does_to(&self, room: &str, what: &str, who: &User) -> Answer {
        self.post_in_room(room, what, json!({ "user_id": who.id, "reason": what })).await
    }

    /// Sends any message event.
    pub async fn sends(&self, room: &str, kind: &str, txn: &str, content: Value) -> Answer {
        let path = format!("{V3}/rooms/{}/send/{}/{}", encoded(room), encoded(kind), encoded(txn));
        self.put(&path, content).await
    }

    /// Says something; gives the event's id.
    pub async fn says(&self, room: &str, text: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": text });
        event_id(&self.sends(room, "m.room.message", &txn(), content).await.good())
    }

    /// Sets state.
    pub async fn sets(&self, room: &str, kind: &str, key: &str, content: Value) -> Answer {
        self.put(&format!("{V3}/rooms/{}/state/{}/{}", encoded(room), encoded(kind), encoded(key)), content).await
    }

    /// Reads a piece of state.
    pub async fn reads(&self, room: &str, kind: &str, key: &str) -> Answer {
        self.in_room(room, &format!("state/{}/{}", encoded(kind), encoded(key))).await
    }

    /// Redacts an event.
    pub async fn redacts(&self, room: &str, event: &str) -> Answer {
        let path = format!("{V3}/rooms/{}/redact/{}/{}", encoded(room), encoded(event), txn());
        self.put(&path, json!({ "reason": "so" })).await
    }

    /// Syncs with a query, without waiting.
    pub async fn syncs(&self, query: &str) -> Value {
        self.get(&format!("{V3}/sync?{query}")).await.good()
    }

    /// Syncs since a token.
    pub async fn syncs_since(&self, since: &str) -> Value {
        self.syncs(&format!("since={}", encoded(since))).await
    }

    /// A token of now.
    pub async fn now(&self) -> String {
        self.syncs("").await["next_batch"].as_str().unwrap().to_owned()
    }

    /// A page of a room's history.
    pub async fn pages(&self, room: &str, query: &str) -> Value {
        self.in_room(room, &format!("messages?{query}")).await.good()
    }

    /// All events of a room that the user may see, newest first, in pages of that size.
    pub async fn reads_all(&self, room: &str, from: Option<&str>, size: usize) -> Vec<Value> {
        let (mut all, mut from) = (Vec::new(), from.map(str::to_owned));
        for _ in 0..200 {
            let since = from.as_ref().map(|f| format!("&from={}", encoded(f))).unwrap_or_default();
            let page = self.pages(room, &format!("dir=b&limit={size}{since}")).await;
            all.extend(page["chunk"].as_array().unwrap().iter().cloned());
            match page["end"].as_str() {
                Some(end) => from = Some(end.to_owned()),
                None => return all,
            }
        }
        panic!("history does not end");
    }
}

/// Bodies of the messages in a list of events, in order; none where there is no list, as in a sync without a timeline.
pub fn bodies(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|e| e["content"]["body"].as_str()).collect()
}

/// Types of a list of events, in order.
pub fn types(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().filter_map(|e| e["type"].as_str()).collect()
}

/// The event of a type and state key in a list.
pub fn state_of<'a>(events: &'a Value, kind: &str, key: &str) -> Option<&'a Value> {
    events.as_array()?.iter().find(|e| e["type"] == kind && e["state_key"] == key)
}

/// A joined room of a sync.
pub fn joined<'a>(sync: &'a Value, room: &str) -> &'a Value {
    &sync["rooms"]["join"][room]
}
