//! Push on a real database: rules, rows and counts; and a property: counts equal those of a naive server that keeps a row
//! for every member and event.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use hearth_base::{
    Requester,
    ids::{SnapNid, StreamPos},
    tasks::Supervisor,
};
use hearth_rules::{
    event::{Pdu, redaction},
    push::{NewRule, PushEvent, Ruleset, edit},
    versions::RoomVersion,
};
use hearth_store::{
    Settings as StoreSettings,
    events::{Append, Appended, NewEvent, NewMembership, NewRedaction, NewRelation, Standing, StoredEvent},
    receipts::NewReceipt,
    rooms::{Room, RoomHead},
    state::RoomState,
};
use proptest::prelude::*;
use ruma::{
    OwnedUserId, RoomVersionId, UserId, events::room::member::MembershipState, owned_room_id, owned_server_name,
    push::RuleKind,
};
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    account_data::{AccountData, Settings as DataSettings},
    relations::RelatesTo,
    testing::on_both,
};

/// A server with one room, without the rules of rooms: whatever is sent stands.
pub(crate) struct House {
    pub(crate) store: Store,
    pub(crate) push: Arc<Push>,
    pub(crate) data: AccountData,
    pub(crate) room: Room,
    state: Option<RoomState>,
    create: Arc<Pdu>,
    pub(crate) events: Vec<Arc<StoredEvent>>,
    next: u32,
    /// What the next event takes away.
    redaction: Option<NewRedaction>,
    _dir: tempfile::TempDir,
}

fn version() -> &'static RoomVersion {
    RoomVersion::known("10").unwrap()
}

pub(crate) fn id(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x.org")).unwrap()
}

impl House {
    /// The first of the users makes the room, the others join.
    pub(crate) async fn new(users: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        let engine = crate::testing::engine(dir.path());
        let store = Store::open(&StoreSettings::new(engine), &supervisor).await.unwrap();
        let push = Arc::new(new_push(&store));
        let hears = push.clone();
        store.subscribe(Box::new(move |changes| {
            changes.iter().for_each(|c| hears.on_change(c));
            Box::new(|| {})
        }));
        let nid = store.new_room_nid().await.unwrap();
        let creator = store.intern_user(&id(users[0])).await.unwrap();
        let head = RoomHead {
            rev: 0,
            snap: SnapNid(1),
            depth: 0,
            extremities: Vec::new(),
            counter: 0,
            pos: StreamPos::ZERO,
            partial: false,
            whole: StreamPos::ZERO,
            open: false,
            forked: false,
            entered: 0,
        };
        let room = Room {
            nid,
            room_id: owned_room_id!("!r:x.org"),
            version: RoomVersionId::V10,
            published: false,
            creator,
            created_ms: 0,
            head,
        };
        let content = json!({"creator": id(users[0]), "room_version": "10"});
        let create = Arc::new(pdu(0, &id(users[0]), "m.room.create", Some(""), &content));
        let data = AccountData::new(store.clone(), DataSettings::default());
        let mut house = Self {
            store,
            push,
            data,
            room,
            state: None,
            create,
            events: Vec::new(),
            next: 1,
            redaction: None,
            _dir: dir,
        };
        for user in users {
            house.member(user, user, "join").await;
        }
        house
    }

    pub(crate) async fn nid(&self, user: &str) -> UserNid {
        self.store.intern_user(&id(user)).await.unwrap()
    }

    pub(crate) async fn who(&self, user: &str) -> Requester {
        Requester::internal(id(user), self.nid(user).await)
    }

    pub(crate) async fn member(&mut self, sender: &str, target: &str, membership: &str) -> Arc<StoredEvent> {
        let content = json!({"membership": membership, "displayname": format!("Name of {target}")});
        self.send(sender, "m.room.member", Some(id(target).as_str()), content).await
    }

    pub(crate) async fn say(&mut self, sender: &str, content: Value) -> Arc<StoredEvent> {
        self.send(sender, "m.room.message", None, content).await
    }

    /// Redacts an event, whoever sent it.
    async fn redact(&mut self, sender: &str, target: &StoredEvent) -> Arc<StoredEvent> {
        let json = redaction::redact(target.pdu.json(), version()).unwrap();
        self.redaction = Some(NewRedaction { target: target.nid, json });
        self.send(sender, "m.room.redaction", None, json!({"redacts": target.event_id()})).await
    }

    pub(crate) async fn send(
        &mut self,
        sender: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Arc<StoredEvent> {
        let pdu = Arc::new(pdu(self.next, &id(sender), event_type, state_key, &content));
        self.next += 1;
        let first = self.room.head.rev == 0;
        let mut snaps = Vec::new();
        if first {
            let (state, row) = RoomState::empty(self.store.new_snap_nid().await.unwrap());
            self.room.head.snap = state.snap;
            self.state = Some(state);
            snaps.push(row);
        }
        let nid = self.store.new_event_nid().await.unwrap();
        let before = self.room.head.snap;
        let (mut key, mut replaces) = (None, None);
        if let Some(state_key) = state_key {
            let entry = self.store.intern_key(event_type, state_key).await.unwrap();
            let old = self.state.take().unwrap();
            replaces = old.map.get(&entry).copied();
            let (state, row) = old.set(self.store.new_snap_nid().await.unwrap(), entry, nid);
            self.room.head.snap = state.snap;
            self.state = Some(state);
            snaps.push(row);
            key = Some(entry);
        }
        let from = self.nid(sender).await;
        let thread = thread_of(&content);
        let outcome =
            self.push.evaluate(self.room.nid, &pdu, from, &thread, || async { Ok(self.levels()) }).await.unwrap();
        self.room.head.counter += i64::from(outcome.counted);
        self.room.head.rev += 1;
        let membership = match state_key.filter(|_| event_type == "m.room.member") {
            Some(target) => Some(NewMembership {
                user: self.store.intern_user(&UserId::parse(target).unwrap()).await.unwrap(),
                membership: MembershipState::from(content["membership"].as_str().unwrap()),
                local: target.ends_with(":x.org"),
                stripped: None,
            }),
            None => None,
        };
        let event = NewEvent {
            nid,
            pdu,
            standing: Standing::Live,
            sender: from,
            key,
            known: false,
            snap: Some(before),
            after: self.state.as_ref().map(|s| s.snap),
            auth: None,
            counter: self.room.head.counter,
            replaces,
            sets_state: key.is_some(),
            txn: None,
            membership,
            reads: true,
            counted: outcome.counted,
            thread,
            push: outcome.actions,
            relation: RelatesTo::of(&content.to_string()).map(|r| NewRelation {
                target: r.event_id,
                rel_type: r.rel_type,
                key: r.key,
            }),
            redaction: self.redaction.take(),
            relay: false,
            told: false,
            partial: None,
        };
        let on_rev = (!first).then_some(self.room.head.rev - 1);
        let append = Append { snaps, events: vec![event], ..Append::on(self.room.clone(), on_rev) };
        let Appended::Done(mut done) = self.store.append(append).await.unwrap() else { panic!("a conflict") };
        let event = done.pop().unwrap();
        self.events.push(event.clone());
        event
    }

    fn levels(&self) -> Option<PowerLevels> {
        Some(PowerLevels::of(version(), &self.create, None).unwrap())
    }

    pub(crate) async fn read(&self, user: &str, event: &StoredEvent, thread: Option<&str>, kind: &str) {
        let (room, user) = (self.room.nid, self.nid(user).await);
        let receipt = NewReceipt {
            kind: kind.to_owned(),
            thread: thread.map(ToOwned::to_owned),
            event_id: event.event_id().to_string(),
            event_pos: event.pos,
            counter: event.counter,
            ts_ms: 5,
            is_remote: false,
        };
        self.store
            .write(move |tx| Box::pin(async move { tx.put_receipts(room, user, &[receipt]).await }))
            .await
            .unwrap();
    }

    pub(crate) async fn unread(&self, user: &str) -> Unread {
        self.push.unread(self.nid(user).await, self.room.nid).await.unwrap()
    }

    /// (notifications, highlights) of the whole room.
    pub(crate) async fn total(&self, user: &str) -> (u64, u64) {
        let total = self.unread(user).await.total();
        (total.notifications, total.highlights)
    }
}

fn new_push(store: &Store) -> Push {
    Push::new(store.clone(), owned_server_name!("x.org"), Clock::new(), Settings::default())
}

fn pdu(n: u32, sender: &UserId, event_type: &str, state_key: Option<&str>, content: &Value) -> Pdu {
    let mut event = json!({
        "room_id": "!r:x.org", "sender": sender, "type": event_type, "origin_server_ts": 1, "depth": n + 1,
        "prev_events": [], "auth_events": [], "content": content,
    });
    if let Some(key) = state_key {
        event["state_key"] = json!(key);
    }
    Pdu::parse_stored(format!("$e{n}").as_str().try_into().unwrap(), event.to_string(), version()).unwrap()
}

fn thread_of(content: &Value) -> String {
    let relates = &content["m.relates_to"];
    let thread = relates["event_id"].as_str().filter(|_| relates["rel_type"] == "m.thread");
    thread.unwrap_or(MAIN).to_owned()
}

fn rule(kind: &str, id: &str, pattern: &str, actions: Value) -> NewRule {
    let actions = serde_json::from_value(actions).unwrap();
    let conditions = |pattern| serde_json::from_value(json!([pattern])).unwrap();
    match kind {
        "content" => NewRule::Content(ruma::push::NewPatternedPushRule::new(id.into(), pattern.into(), actions)),
        "room" => NewRule::Room(ruma::push::NewSimplePushRule::new(id.into(), actions)),
        "sender" => NewRule::Sender(ruma::push::NewSimplePushRule::new(id.into(), actions)),
        "override" => NewRule::Override(ruma::push::NewConditionalPushRule::new(
            id.into(),
            conditions(serde_json::from_str::<Value>(pattern).unwrap()),
            actions,
        )),
        _ => panic!("{kind}"),
    }
}

on_both! {
    async fn a_message_counts_for_all_but_its_sender_and_a_mention_highlights() {
        let mut house = House::new(&["a", "b", "c"]).await;
        assert_eq!(house.total("b").await, (0, 0), "joining is no news");
        house.say("a", json!({"body": "hello"})).await;
        assert_eq!(house.total("a").await, (0, 0));
        assert_eq!(house.total("b").await, (1, 0));
        house.say("a", json!({"body": "b", "m.mentions": {"user_ids": ["@b:x.org", "@nobody:x.org", "@b:y.org"]}})).await;
        assert_eq!(house.total("b").await, (2, 1));
        assert_eq!(house.total("c").await, (2, 0));
        house.say("b", json!({"body": "yes", "m.mentions": {"room": true}})).await;
        assert_eq!(house.total("b").await, (0, 0), "who sends has read");
        assert_eq!(house.total("c").await, (3, 0), "b may not call everyone");
        house.say("a", json!({"body": "all", "m.mentions": {"room": true}})).await;
        assert_eq!(house.total("b").await, (1, 1));
        assert_eq!(house.total("c").await, (4, 1));
        let last = house.events.last().unwrap().clone();
        house.read("c", &last, None, "m.read.private").await;
        assert_eq!(house.total("c").await, (0, 0));
        house.say("a", json!({"body": "quiet", "msgtype": "m.notice"})).await;
        assert_eq!(house.total("c").await, (0, 0));
    }

    async fn an_invite_notifies_the_invitee_alone() {
        let mut house = House::new(&["a", "b"]).await;
        house.nid("d").await;
        house.member("a", "d", "invite").await;
        assert_eq!(house.total("b").await, (0, 0));
        let notified = house.store.notified(house.nid("d").await, StreamPos(i64::MAX), false, 10).await.unwrap();
        assert_eq!(notified.len(), 1);
        assert_eq!(notified[0].actions, r#"["notify",{"set_tweak":"sound","value":"default"}]"#);
        house.member("d", "d", "join").await;
        assert_eq!(house.total("d").await, (0, 0));
        house.say("a", json!({"body": "welcome"})).await;
        assert_eq!(house.total("d").await, (1, 0));
    }

    async fn rows_are_written_for_those_who_differ_only() {
        let names: Vec<String> = (0..60).map(|n| format!("u{n}")).collect();
        let users: Vec<&str> = names.iter().map(String::as_str).collect();
        let house = House::new(&users).await;
        let rows = async |n: u32, content: Value| {
            let pdu = pdu(1_000 + n, &id("u0"), "m.room.message", None, &content);
            let thread = thread_of(&content);
            let sender = house.nid("u0").await;
            let levels = || async { Ok(house.levels()) };
            let outcome = house.push.evaluate(house.room.nid, &pdu, sender, &thread, levels).await.unwrap();
            assert!(outcome.counted);
            let mut users: Vec<_> = outcome.actions.iter().map(|a| (a.user, a.notify, a.highlight)).collect();
            users.sort_unstable();
            users
        };
        assert_eq!(rows(1, json!({"body": "x"})).await, []);
        let (u1, u2, u3) = (house.nid("u1").await, house.nid("u2").await, house.nid("u3").await);
        let both = json!({"body": "x", "m.mentions": {"user_ids": ["@u1:x.org", "@u2:x.org", "@u0:x.org"]}});
        assert_eq!(rows(2, both).await, [(u1, true, true), (u2, true, true)]);
        let everyone = json!({"body": "x", "m.mentions": {"room": true, "user_ids": ["@u1:x.org"]}});
        assert_eq!(rows(3, everyone).await, [(EVERYONE, true, true)]);

        let who = house.who("u3").await;
        house.push.put_rule(&who, rule("room", "!r:x.org", "", json!([])), None, None).await.unwrap();
        assert_eq!(rows(4, json!({"body": "x"})).await, [(u3, false, false)]);
        house.push.delete_rule(&who, "room", "!r:x.org".to_owned()).await.unwrap();
        house.push.put_rule(&who, rule("room", "!other:x.org", "", json!([])), None, None).await.unwrap();
        assert_eq!(rows(5, json!({"body": "x"})).await, []);
        let ignored = house.who("u2").await;
        let content = serde_json::value::to_raw_value(&json!({"ignored_users": {"@u0:x.org": {}}})).unwrap();
        house.data.put(&ignored, &ignored.user_id, None, IGNORED_USERS, &content).await.unwrap();
        assert_eq!(rows(6, json!({"body": "x"})).await, [(u2, false, false)]);
    }

    async fn rules_are_read_with_defaults_and_edited() {
        let house = House::new(&["a"]).await;
        let who = house.who("a").await;
        let rules = house.push.rules(&who).await.unwrap();
        assert_eq!(rules["override"][0]["rule_id"], ".m.rule.master");
        assert_eq!(rules["room"], json!([]));
        house.push.put_rule(&who, rule("content", "cake", "cake", json!(["notify"])), None, None).await.unwrap();
        house.push.set_rule_enabled(&who, "content", "cake".into(), false).await.unwrap();
        house.push.set_rule_actions(&who, "override", ".m.rule.reaction".into(), vec![]).await.unwrap();
        let cake = house.push.rule(&who, "content", "cake").await.unwrap();
        assert_eq!(
            cake,
            json!({"actions": ["notify"], "default": false, "enabled": false, "rule_id": "cake", "pattern": "cake"})
        );
        let stored = house.data.get(&who, &who.user_id, None, PUSH_RULES).await.unwrap();
        let stored: Value = serde_json::from_str(stored.get()).unwrap();
        assert_eq!(stored["global"]["content"][0]["rule_id"], "cake");

        let status = |r: Result<()>| r.unwrap_err().status().as_u16();
        let before = Some("nowhere".to_owned());
        assert_eq!(status(house.push.put_rule(&who, rule("content", "tea", "tea", json!([])), before, None).await), 400);
        let long = "x".repeat(301);
        assert_eq!(status(house.push.put_rule(&who, rule("content", &long, "tea", json!([])), None, None).await), 400);
        let long = "x".repeat(1_025);
        assert_eq!(status(house.push.put_rule(&who, rule("content", "tea", &long, json!([])), None, None).await), 413);
        assert_eq!(status(house.push.delete_rule(&who, "content", "tea".into()).await), 404);
        assert_eq!(status(house.push.delete_rule(&who, "override", ".m.rule.master".into()).await), 400);
        assert_eq!(status(house.push.delete_rule(&who, "odd", "tea".into()).await), 400);
        assert_eq!(house.push.rule(&who, "room", "cake").await.unwrap_err().status().as_u16(), 404);
    }

    async fn pushers_are_set_and_taken_over() {
        let house = House::new(&["a", "b"]).await;
        let (a, b) = (house.who("a").await, house.who("b").await);
        let pusher = |append| NewPusher {
            app_id: "org.app".into(),
            pushkey: "key".into(),
            kind: "http".into(),
            app_name: "App".into(),
            device_name: "Phone".into(),
            profile_tag: None,
            lang: "en".into(),
            data: json!({"url": "https://push.example.org/_matrix/push/v1/notify"}).as_object().unwrap().clone(),
            append,
            enabled: true,
        };
        house.push.set_pusher(&a, pusher(false)).await.unwrap();
        house.push.set_pusher(&a, NewPusher { device_name: "Tablet".into(), ..pusher(false) }).await.unwrap();
        let of_a = house.push.pushers(&a).await.unwrap();
        assert_eq!((of_a.len(), of_a[0].device_name.as_str()), (1, "Tablet"));
        assert_eq!(of_a[0].pos, house.store.head(), "what was before is not pushed");
        house.push.set_pusher(&b, pusher(true)).await.unwrap();
        assert_eq!(house.push.pushers(&a).await.unwrap().len(), 1);
        house.push.set_pusher(&b, pusher(false)).await.unwrap();
        assert_eq!(house.push.pushers(&a).await.unwrap().len(), 0, "another user has taken the key");
        house.push.remove_pusher(&b, "org.app".into(), "key".into()).await.unwrap();
        assert_eq!(house.push.pushers(&b).await.unwrap().len(), 0);

        let refused = async |new: NewPusher| house.push.set_pusher(&a, new).await.unwrap_err().errcode().to_owned();
        assert_eq!(refused(NewPusher { pushkey: "k".repeat(513), ..pusher(false) }).await, "M_INVALID_PARAM");
        assert_eq!(refused(NewPusher { kind: "smoke".into(), ..pusher(false) }).await, "M_INVALID_PARAM");
        assert_eq!(refused(NewPusher { data: Map::new(), ..pusher(false) }).await, "M_MISSING_PARAM");
        let elsewhere = json!({"url": "https://push.example.org/else"}).as_object().unwrap().clone();
        assert_eq!(refused(NewPusher { data: elsewhere, ..pusher(false) }).await, "M_INVALID_PARAM");
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Say { sender: usize, thread: Option<usize>, mentions: Vec<usize>, room: bool, text: usize },
    Read { user: usize, event: usize, thread: usize, private: bool },
    Redact { sender: usize, event: usize },
    Rule { user: usize, which: usize },
    Ignore { user: usize, whom: Option<usize> },
    Move { user: usize },
    Look { user: usize },
}

const USERS: [&str; 4] = ["a", "b", "c", "d"];
const TEXTS: [&str; 3] = ["nothing", "some cake", "bob"];

fn any_step() -> impl Strategy<Value = Step> {
    let user = 0..USERS.len();
    prop_oneof![
        6 => (user.clone(), proptest::option::weighted(0.4, 0..2_usize), prop::collection::vec(user.clone(), 0..2), prop::bool::weighted(0.2), 0..TEXTS.len())
            .prop_map(|(sender, thread, mentions, room, text)| Step::Say { sender, thread, mentions, room, text }),
        3 => (user.clone(), 0..12_usize, 0..4_usize, any::<bool>())
            .prop_map(|(user, event, thread, private)| Step::Read { user, event, thread, private }),
        2 => (user.clone(), 0..12_usize).prop_map(|(sender, event)| Step::Redact { sender, event }),
        2 => (user.clone(), 0..9_usize).prop_map(|(user, which)| Step::Rule { user, which }),
        1 => (user.clone(), proptest::option::of(user.clone())).prop_map(|(user, whom)| Step::Ignore { user, whom }),
        1 => user.clone().prop_map(|user| Step::Move { user }),
        3 => user.prop_map(|user| Step::Look { user }),
    ]
}

/// A server that keeps a row for every member and event.
#[derive(Default)]
struct Naive {
    rows: Vec<(usize, StreamPos, String, bool, bool)>,
    /// By user and thread.
    read: BTreeMap<(usize, String), StreamPos>,
    rules: Vec<Ruleset>,
    ignored: Vec<Option<usize>>,
    joined: Vec<bool>,
}

impl Naive {
    fn new() -> Self {
        let rules = USERS.iter().map(|u| rules::server_default(&id(u))).collect();
        Self { rules, ignored: vec![None; USERS.len()], joined: vec![true; USERS.len()], ..Self::default() }
    }

    fn sent(&mut self, event: &StoredEvent, sender: usize, thread: &str, levels: &PowerLevels) {
        let push = PushEvent::new(&event.pdu);
        let member_count = self.joined.iter().filter(|j| **j).count() as u64;
        let room = rules::Room { member_count, levels: Some(levels) };
        for user in (0..USERS.len()).filter(|u| self.joined[*u] && *u != sender && self.ignored[*u] != Some(sender)) {
            let name = format!("Name of {}", USERS[user]);
            let fired = rules::evaluate(&self.rules[user], &push, &room, &id(USERS[user]), Some(&name));
            if let Some(fired) = fired.filter(|f| f.notify) {
                self.rows.push((user, event.pos.unwrap(), thread.to_owned(), true, fired.highlight));
            }
        }
        self.reads(sender, "", event.pos.unwrap());
    }

    fn redacted(&mut self, pos: StreamPos) {
        self.rows.retain(|row| row.1 != pos);
    }

    fn reads(&mut self, user: usize, thread: &str, pos: StreamPos) {
        let read = self.read.entry((user, thread.to_owned())).or_default();
        *read = (*read).max(pos);
    }

    fn unread(&self, user: usize) -> Unread {
        let mut unread = Unread::default();
        for (_, pos, thread, _, highlight) in self.rows.iter().filter(|r| r.0 == user) {
            let read = |t: &str| self.read.get(&(user, t.to_owned())).copied().unwrap_or_default();
            if *pos > read("").max(read(thread)) {
                let count = match thread.as_str() {
                    MAIN => &mut unread.main,
                    _ => unread.threads.entry(thread.clone()).or_default(),
                };
                count.notifications += 1;
                count.highlights += u64::from(*highlight);
            }
        }
        unread
    }
}

async fn run(steps: Vec<Step>) {
    let mut house = House::new(&USERS).await;
    let mut naive = Naive::new();
    for user in 0..USERS.len() {
        naive.reads(user, "", house.events[user].pos.unwrap());
    }
    let levels = house.levels().unwrap();
    let roots = [house.events[0].event_id().to_string(), house.events[1].event_id().to_string()];
    for step in steps {
        match step {
            Step::Say { sender, thread, mentions, room, text } => {
                if !naive.joined[sender] {
                    continue;
                }
                let mut content = json!({"body": TEXTS[text], "msgtype": "m.text"});
                if let Some(root) = thread {
                    content["m.relates_to"] = json!({"rel_type": "m.thread", "event_id": roots[root]});
                }
                if room || !mentions.is_empty() {
                    let users: Vec<_> = mentions.iter().map(|m| id(USERS[*m])).collect();
                    content["m.mentions"] = json!({"user_ids": users, "room": room});
                }
                let event = house.say(USERS[sender], content.clone()).await;
                naive.sent(&event, sender, &thread_of(&content), &levels);
            }
            Step::Read { user, event, thread, private } => {
                let event = house.events[house.events.len().saturating_sub(event + 1)].clone();
                let thread = [None, Some(MAIN), Some(&*roots[0]), Some(&*roots[1])][thread];
                let kind = if private { "m.read.private" } else { "m.read" };
                house.read(USERS[user], &event, thread, kind).await;
                naive.reads(user, thread.unwrap_or(""), event.pos.unwrap());
            }
            Step::Redact { sender, event } => {
                let event = house.events[house.events.len().saturating_sub(event + 1)].clone();
                if naive.joined[sender] && !event.pdu.is_state() {
                    let redaction = house.redact(USERS[sender], &event).await;
                    naive.sent(&redaction, sender, MAIN, &levels);
                    naive.redacted(event.pos.unwrap());
                }
            }
            Step::Rule { user, which } => change_rule(&house, &mut naive, user, which).await,
            Step::Ignore { user, whom } => {
                let users: Map<String, Value> = whom.iter().map(|w| (id(USERS[*w]).to_string(), json!({}))).collect();
                let content = serde_json::value::to_raw_value(&json!({"ignored_users": users})).unwrap();
                let who = house.who(USERS[user]).await;
                house.data.put(&who, &who.user_id, None, IGNORED_USERS, &content).await.unwrap();
                naive.ignored[user] = whom;
            }
            Step::Move { user } => {
                naive.joined[user] = !naive.joined[user];
                let membership = if naive.joined[user] { "join" } else { "leave" };
                let event = house.member(USERS[user], USERS[user], membership).await;
                naive.reads(user, "", event.pos.unwrap());
            }
            // Of a room they left, nobody is told counts.
            Step::Look { user } if !naive.joined[user] => {}
            Step::Look { user } => {
                assert_eq!(house.unread(USERS[user]).await, naive.unread(user), "{}", USERS[user]);
            }
        }
    }
    let cold = new_push(&house.store);
    for (n, user) in USERS.iter().enumerate().filter(|(n, _)| naive.joined[*n]) {
        assert_eq!(house.unread(user).await, naive.unread(n), "{user} from memory");
        let nid = house.nid(user).await;
        assert_eq!(cold.unread(nid, house.room.nid).await.unwrap(), naive.unread(n), "{user} from the database");
    }
    house.store.close().await;
}

async fn change_rule(house: &House, naive: &mut Naive, user: usize, which: usize) {
    let who = house.who(USERS[user]).await;
    let rules = &mut naive.rules[user];
    let here = r#"{"kind": "event_match", "key": "room_id", "pattern": "!R:x.org"}"#;
    let pair = r#"{"kind": "room_member_count", "is": "<4"}"#;
    let name = r#"{"kind": "contains_display_name"}"#;
    let new = match which {
        0 => rule("room", "!r:x.org", "", json!([])),
        1 => rule("content", "cake", "cake", json!(["notify", {"set_tweak": "highlight"}])),
        2 => rule("sender", "@a:x.org", "", json!([])),
        3 => rule("override", "here", here, json!([])),
        4 => rule("override", "few", pair, json!([])),
        5 => rule("override", "name", name, json!(["notify", {"set_tweak": "highlight"}])),
        6 | 7 => {
            let id = if which == 6 { ".m.rule.is_room_mention" } else { ".m.rule.master" };
            let on = !rules.override_.get(id).unwrap().enabled;
            edit::set_enabled(rules, &RuleKind::Override, id, on).unwrap();
            house.push.set_rule_enabled(&who, "override", id.to_owned(), on).await.unwrap();
            return;
        }
        _ => {
            let own = [
                (RuleKind::Override, rules.override_.iter().find(|r| !r.default).map(|r| r.rule_id.clone())),
                (RuleKind::Content, rules.content.first().map(|r| r.rule_id.clone())),
                (RuleKind::Room, rules.room.first().map(|r| r.rule_id.clone())),
                (RuleKind::Sender, rules.sender.first().map(|r| r.rule_id.clone())),
            ];
            if let Some((kind, Some(id))) = own.into_iter().find(|(_, id)| id.is_some()) {
                edit::delete(rules, &kind, &id).unwrap();
                house.push.delete_rule(&who, kind.as_str(), id).await.unwrap();
            }
            return;
        }
    };
    edit::put(rules, new.clone(), None, None).unwrap();
    house.push.put_rule(&who, new, None, None).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_are_those_of_a_naive_server(steps in prop::collection::vec(any_step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
