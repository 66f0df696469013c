//! The outbox over a real store, with servers of the test's own at the other end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashSet};

use futures_util::future::BoxFuture;
use hearth_remote::{Failure, Refusal};
use hearth_store::{
    devices::{NewDevice, to_device::Sending},
    log::{Change, Logged},
    login::NewToken,
    outbox::NewOutgoing,
};
use ruma::{ServerName, server_name};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::{
    federation::{Federation, edus::device_lists::DeviceLists},
    notifier::Notifier,
    push::tests::House,
};

/// Other servers: what reached them, and who is away.
struct Others {
    clock: Clock,
    got: Mutex<BTreeMap<OwnedServerName, Vec<Transaction>>>,
    tried: Mutex<Vec<(OwnedServerName, Transaction)>>,
    away: Mutex<HashSet<OwnedServerName>>,
    refusing: Mutex<HashSet<OwnedServerName>>,
    /// A text that none of them takes.
    disliked: Mutex<Option<&'static str>>,
    left_alone: Mutex<BTreeMap<OwnedServerName, u64>>,
    count: watch::Sender<usize>,
    recovered: Notify,
}

impl Carrier for Others {
    fn left_alone_until<'a>(&'a self, to: &'a ServerName) -> BoxFuture<'a, Option<u64>> {
        let until = self.left_alone.lock().get(to).copied().filter(|until| *until > self.clock.now_ms());
        Box::pin(async move { until })
    }

    fn carry<'a>(&'a self, to: &'a ServerName, transaction: Transaction) -> BoxFuture<'a, Result<Outcomes, Failure>> {
        Box::pin(async move {
            self.tried.lock().push((to.to_owned(), transaction.clone()));
            let ended = if self.away.lock().contains(to) {
                self.left_alone.lock().insert(to.to_owned(), self.clock.now_ms() + 600_000);
                Err(Failure::TimedOut(Duration::from_secs(1)))
            } else if self.refusing.lock().contains(to) {
                Err(Failure::Nonsense("no".to_owned()))
            } else if self.disliked.lock().is_some_and(|text| holds(&transaction, text)) {
                let status = http::StatusCode::BAD_REQUEST;
                let (errcode, error) = ("M_BAD_JSON".to_owned(), "no".to_owned());
                Err(Failure::Refused(Box::new(Refusal { status, errcode, error, retry_after: None, body: "".into() })))
            } else {
                self.got.lock().entry(to.to_owned()).or_default().push(transaction);
                Ok(Outcomes::new())
            };
            self.count.send_modify(|n| *n += 1);
            ended
        })
    }

    fn recovered(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.recovered.notified())
    }
}

impl Others {
    fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            got: Mutex::default(),
            tried: Mutex::default(),
            away: Mutex::default(),
            refusing: Mutex::default(),
            disliked: Mutex::default(),
            left_alone: Mutex::default(),
            count: watch::Sender::new(0),
            recovered: Notify::new(),
        })
    }

    fn go_away(&self, server: &ServerName) {
        self.away.lock().insert(server.to_owned());
    }

    fn come_back(&self, server: &ServerName) {
        self.away.lock().remove(server);
        self.left_alone.lock().remove(server);
        self.recovered.notify_waiters();
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut count = self.count.subscribe();
        let wait = async {
            while !done(self) {
                count.changed().await.unwrap();
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), wait).await;
        let said = [far(), near()].map(|server| (self.said(server), self.edus(server, "m.receipt")));
        assert!(ended.is_ok(), "never: {what}, but {said:?}");
    }

    /// Bodies of the messages that a server got, in order.
    fn said(&self, server: &ServerName) -> Vec<String> {
        let got = self.got.lock();
        let pdus = got.get(server).into_iter().flatten().flat_map(|t| &t.pdus);
        let bodies = pdus.filter_map(|p| {
            serde_json::from_str::<Value>(p.get()).unwrap()["content"]["body"].as_str().map(str::to_owned)
        });
        bodies.collect()
    }

    fn edus(&self, server: &ServerName, edu_type: &str) -> Vec<Value> {
        let got = self.got.lock();
        let edus = got.get(server).into_iter().flatten().flat_map(|t| &t.edus);
        let edus = edus.map(|e| serde_json::from_str::<Value>(e.get()).unwrap());
        edus.filter(|e| e["edu_type"] == edu_type).map(|e| e["content"].clone()).collect()
    }
}

fn holds(transaction: &Transaction, text: &str) -> bool {
    transaction.pdus.iter().chain(&transaction.edus).any(|raw| raw.get().contains(text))
}

/// One run of the server's sending half.
struct Run {
    outbox: Arc<Outbox>,
    supervisor: Supervisor,
}

impl Run {
    async fn begin(house: &House, others: &Arc<Others>) -> Self {
        Self::begin_with(house, others, Settings::default()).await
    }

    async fn begin_with(house: &House, others: &Arc<Others>, settings: Settings) -> Self {
        let (store, clock, supervisor) = (house.store.clone(), others.clock.clone(), Supervisor::new());
        let name: OwnedServerName = server_name!("x.org").to_owned();
        let signer = Arc::new(hearth_rules::Signer::new(name.clone(), &[7; 32], "a_1").unwrap());
        let federation = Federation::new(crate::federation::Settings::default(), signer, store.clone(), clock.clone());
        let federation = Arc::new(federation.unwrap());
        let notifier = Notifier::new(store.clone(), name.clone(), supervisor.clone());
        let lists = DeviceLists::new(store.clone(), federation.clone());
        let own = crate::keys::Settings::default();
        let keys = Keys::new(store.clone(), federation, lists, own, clock.clone(), supervisor.clone());
        let parts = Parts {
            servers: Arc::new(Servers::new(store.clone(), name.clone())),
            keys: Arc::new(keys),
            typing: Typing::new(store.clone(), notifier.clone(), clock.clone(), &supervisor),
            presence: Presence::new(
                store.clone(),
                notifier,
                clock.clone(),
                crate::presence::Settings::default(),
                &supervisor,
            ),
        };
        let outbox = Outbox::new(store, name, parts, others.clone(), clock, supervisor.clone(), settings);
        outbox.start().await.unwrap();
        Self { outbox, supervisor }
    }

    /// What the notifier does.
    fn hear(&self, event: &Arc<StoredEvent>) {
        let logged = Logged { pos: event.pos.unwrap(), change: Change::Event(event.clone()) };
        self.outbox.servers.on_change(&logged);
        self.outbox.on_change(&logged);
    }

    async fn say(&self, house: &mut House, body: &str) {
        let event = house.say("alice", json!({"msgtype": "m.text", "body": body})).await;
        self.hear(&event);
    }

    async fn member(&self, house: &mut House, user: &str, membership: &str) {
        let content = json!({ "membership": membership });
        let event = house.send("alice", "m.room.member", Some(user), content).await;
        self.hear(&event);
    }

    /// When all that was heard of has been handed out. Who is in a room then is told, if only since just now.
    async fn handed_out(&self) {
        let wait = async {
            while self.outbox.dispatched.load(Ordering::Acquire) < self.outbox.heard.lock().seen.0 {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "never handed out");
    }

    /// When the answers to what was sent have been read, too.
    async fn quiet(&self) {
        let wait = async {
            while self.outbox.peers.iter().any(|peer| peer.pending.lock().sending) {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "something is always on its way");
    }

    async fn end(self) {
        self.supervisor.stop(Duration::from_secs(5)).await;
    }
}

fn far() -> &'static ServerName {
    server_name!("far.org")
}

fn near() -> &'static ServerName {
    server_name!("near.org")
}

async fn world() -> (House, Arc<Others>, Run) {
    let house = House::new(&["alice"]).await;
    let others = Others::new(Clock::new());
    let run = Run::begin(&house, &others).await;
    (house, others, run)
}

/// The same with a user of another server in the room, who knows of it.
async fn acquainted() -> (House, Arc<Others>, Run) {
    let (mut house, others, run) = world().await;
    run.member(&mut house, "@bob:far.org", "join").await;
    others.until("it knows", |o| !o.got.lock().is_empty()).await;
    (house, others, run)
}

fn numbers(n: usize) -> Vec<String> {
    (0..n).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn what_is_sent_goes_to_the_servers_of_the_room_in_order() {
    let (mut house, others, run) = world().await;
    run.say(&mut house, "nobody hears this").await;
    run.handed_out().await;
    run.member(&mut house, "@bob:far.org", "join").await;
    run.member(&mut house, "@carol:near.org", "join").await;
    for n in numbers(130) {
        run.say(&mut house, &n).await;
    }
    others.until("both have all", |o| [far(), near()].iter().all(|s| o.said(s).len() == 130)).await;
    assert_eq!(others.said(far()), numbers(130));
    assert_eq!(others.said(near()), numbers(130));
    let got = others.got.lock();
    assert!(got.values().flatten().all(|t| t.pdus.len() <= 50 && t.edus.len() <= 100));
    let ids: HashSet<&String> = got[far()].iter().map(|t| &t.id).collect();
    assert_eq!(ids.len(), got[far()].len());
}

/// Who comes while something is on its way out was told of it by the join, if the join follows it.
#[tokio::test]
async fn what_was_said_before_a_server_came_is_not_sent_to_it() {
    let (mut house, others, run) = world().await;
    run.member(&mut house, "@carol:near.org", "join").await;
    run.handed_out().await;
    let before = house.say("alice", json!({"msgtype": "m.text", "body": "before"})).await;
    let content = json!({ "membership": "join" });
    let join = house.send("alice", "m.room.member", Some("@bob:far.org"), content).await;
    // Both are heard before anything goes out.
    run.hear(&before);
    run.hear(&join);
    run.say(&mut house, "after").await;
    others.until("all is out", |o| o.said(near()).len() == 2 && !o.said(far()).is_empty()).await;
    assert_eq!(others.said(far()), ["after"]);
    // Who goes and comes back is told from then on.
    run.member(&mut house, "@bob:far.org", "leave").await;
    run.member(&mut house, "@bob:far.org", "join").await;
    run.say(&mut house, "again").await;
    others.until("it has the last", |o| o.said(far()).len() == 2).await;
    assert_eq!(others.said(far()), ["after", "again"]);
    run.end().await;
}

#[tokio::test]
async fn a_server_that_was_away_gets_all_and_holds_up_nobody() {
    let (mut house, others, run) = world().await;
    run.member(&mut house, "@bob:far.org", "join").await;
    run.member(&mut house, "@carol:near.org", "join").await;
    others.until("both know", |o| o.got.lock().len() == 2).await;
    others.go_away(far());
    for n in numbers(120) {
        run.say(&mut house, &n).await;
    }
    others.until("the other has all", |o| o.said(near()).len() == 120).await;
    others.until("it was tried", |o| o.left_alone.lock().contains_key(far())).await;
    let tried = others.tried.lock().iter().filter(|(s, _)| s == far()).count();
    run.say(&mut house, "last").await;
    others.until("the other has the last", |o| o.said(near()).len() == 121).await;
    assert_eq!(others.tried.lock().iter().filter(|(s, _)| s == far()).count(), tried, "it is left alone meanwhile");
    assert_eq!(others.said(far()), Vec::<String>::new());
    others.come_back(far());
    others.until("it has all", |o| o.said(far()).len() == 121).await;
    let mut all = numbers(120);
    all.push("last".to_owned());
    assert_eq!(others.said(far()), all);
}

#[tokio::test]
async fn a_restart_forgets_nothing_that_is_owed() {
    let (mut house, others, run) = acquainted().await;
    others.go_away(far());
    for n in numbers(60) {
        run.say(&mut house, &n).await;
    }
    others.until("it was tried", |o| o.left_alone.lock().contains_key(far())).await;
    run.end().await;
    let cursors = house.store.outbox_cursors().await.unwrap();
    assert!(cursors.iter().any(|c| c.server == far().as_str()), "{cursors:?}");
    // As if killed: what this run wrote down at its end is taken back.
    let run = Run::begin(&house, &others).await;
    run.say(&mut house, "60").await;
    run.end().await;
    house.store.move_outbox_cursors(cursors, Vec::new()).await.unwrap();
    others.come_back(far());
    let run = Run::begin(&house, &others).await;
    others.until("it has all", |o| o.said(far()).iter().collect::<HashSet<_>>().len() == 61).await;
    run.quiet().await;
    run.end().await;
    let cursors = house.store.outbox_cursors().await.unwrap();
    assert_eq!(cursors.iter().map(|c| c.server.as_str()).collect::<Vec<_>>(), [""], "nobody is behind");
}

#[tokio::test]
async fn a_transaction_that_comes_again_is_the_same() {
    let (mut house, others, run) = world().await;
    others.refusing.lock().insert(far().to_owned());
    run.member(&mut house, "@bob:far.org", "join").await;
    others.until("it was refused", |o| o.tried.lock().len() == 1).await;
    others.refusing.lock().clear();
    run.end().await;
    let run = Run::begin(&house, &others).await;
    others.until("it came again", |o| o.tried.lock().len() == 2).await;
    let ids: Vec<_> = others.tried.lock().iter().map(|t| t.1.id.clone()).collect();
    assert_eq!(ids[0], ids[1]);
    run.end().await;
}

/// What a server will never take holds up neither what comes before nor what comes after it.
#[tokio::test]
async fn one_thing_that_a_server_does_not_take_is_given_up() {
    let (mut house, others, run) = world().await;
    run.member(&mut house, "@bob:far.org", "join").await;
    others.until("he is in", |o| !o.got.lock().is_empty()).await;
    run.end().await;
    *others.disliked.lock() = Some("poison");
    let settings = Settings { refused_pause: Duration::from_micros(1), ..Settings::default() };
    let run = Run::begin_with(&house, &others, settings).await;
    for n in 0..70 {
        run.say(&mut house, if n == 33 { "poison" } else { "well" }).await;
    }
    others.until("all but one", |o| o.said(far()).len() >= 69).await;
    assert_eq!(others.said(far()), ["well"; 69]);
    let tries = others.tried.lock().iter().filter(|(_, t)| t.pdus.len() == 1 && holds(t, "poison")).count();
    assert!(tries >= 10, "alone it was tried patiently, not {tries} times");
    run.quiet().await;
    run.say(&mut house, "well").await;
    others.until("the next", |o| o.said(far()).len() == 70).await;
    *others.disliked.lock() = Some(r#""message_id":"7""#);
    for n in 0..20 {
        send_to_device(&house, n).await;
    }
    others.until("all but one", |o| o.edus(far(), "m.direct_to_device").len() >= 19).await;
    run.end().await;
}

#[tokio::test]
async fn whom_an_event_is_about_hears_of_it() {
    let (mut house, others, run) = world().await;
    // An invite their server has signed.
    run.member(&mut house, "@bob:far.org", "invite").await;
    run.say(&mut house, "not for the invited").await;
    run.member(&mut house, "@bob:far.org", "leave").await;
    let withdrawn = |o: &Others| o.got.lock().get(far()).is_some_and(|t| t.iter().any(|t| !t.pdus.is_empty()));
    others.until("withdrawn", withdrawn).await;
    let first = others.got.lock()[far()].iter().flat_map(|t| t.pdus.clone()).next();
    assert!(first.is_some_and(|p| p.get().contains(r#""leave""#)), "the invite came again");
    run.member(&mut house, "@bob:far.org", "invite").await;
    run.member(&mut house, "@bob:far.org", "join").await;
    run.say(&mut house, "for the joined").await;
    run.member(&mut house, "@bob:far.org", "leave").await;
    run.say(&mut house, "not for the kicked").await;
    run.member(&mut house, "@bob:far.org", "ban").await;
    others
        .until("banned", |o| o.got.lock()[far()].iter().flat_map(|t| &t.pdus).any(|p| p.get().contains(r#""ban""#)))
        .await;
    assert_eq!(others.said(far()), ["for the joined"]);
    run.end().await;
}

async fn device(house: &House, name: &str) -> UserNid {
    let nid = house.store.intern_user(&crate::push::tests::id(name)).await.unwrap();
    let device = NewDevice {
        user: nid,
        device_id: "DEV".to_owned(),
        display_name: None,
        created_ms: 1,
        ip: None,
        user_agent: None,
    };
    let token = NewToken {
        token_hash: [1; 32],
        user: nid,
        device_id: Some("DEV".to_owned()),
        created_ms: 1,
        expires_ms: None,
        refresh: None,
        puppet_of: None,
    };
    house.store.log_in(device, token).await.unwrap();
    nid
}

async fn send_to_device(house: &House, n: usize) {
    let user = house.store.intern_user(&crate::push::tests::id("alice")).await.unwrap();
    let sending = Sending { user, device: "DEV".to_owned(), txn_id: n.to_string(), now_ms: 1 };
    let json = json!({"edu_type": "m.direct_to_device", "content": {"message_id": n.to_string()}}).to_string();
    let outgoing = vec![NewOutgoing { server: far().to_string(), json }];
    house.store.send_to_device(sending, Vec::new(), outgoing).await.unwrap();
}

fn message_ids(others: &Others) -> Vec<String> {
    let edus = others.edus(far(), "m.direct_to_device");
    edus.iter().map(|c| c["message_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn to_device_messages_are_neither_lost_nor_doubled() {
    let (house, others, run) = world().await;
    others.go_away(far());
    for n in 0..70 {
        send_to_device(&house, n).await;
    }
    // A transaction id counts once.
    send_to_device(&house, 0).await;
    others.until("it was tried", |o| o.left_alone.lock().contains_key(far())).await;
    run.end().await;
    others.left_alone.lock().clear();
    others.away.lock().clear();
    let run = Run::begin(&house, &others).await;
    others.until("all arrived", |o| message_ids(o).len() >= 70).await;
    assert_eq!(message_ids(&others), numbers(70));
    run.end().await;
    assert_eq!(house.store.outgoing_servers().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn device_changes_are_a_chain() {
    let (house, others, run) = acquainted().await;
    let user = device(&house, "alice").await;
    let hear = |pos| run.outbox.on_change(&Logged { pos, change: Change::DeviceList { user, device: true } });
    hear(house.store.head());
    others.until("told", |o| o.edus(far(), "m.device_list_update").len() == 1).await;
    house.store.rename_device(user, "DEV".to_owned(), Some("new".to_owned())).await.unwrap();
    hear(house.store.head());
    others.until("told again", |o| o.edus(far(), "m.device_list_update").len() == 2).await;
    house.store.delete_devices(user, vec!["DEV".to_owned()]).await.unwrap();
    hear(house.store.head());
    others.until("told of the end", |o| o.edus(far(), "m.device_list_update").len() == 3).await;
    let told = others.edus(far(), "m.device_list_update");
    assert_eq!(told[0]["prev_id"], json!([]));
    assert_eq!(told[1]["prev_id"], json!([told[0]["stream_id"]]));
    assert_eq!(told[2]["prev_id"], json!([told[1]["stream_id"]]));
    assert_eq!(told.iter().map(|t| t["deleted"].as_bool().unwrap()).collect::<Vec<_>>(), [false, false, true]);
    assert!(told[1].get("device_display_name").is_none(), "names are not for others unless that is wanted");
    run.end().await;
}

async fn changes(house: &House, user: UserNid, device: &'static str) {
    let devices = [device.to_owned()];
    let note = house.store.write(move |tx| Box::pin(async move { tx.note_devices(user, &devices).await }));
    note.await.unwrap();
}

/// A server that was away is told of each device once, and sees that it has missed nothing of what it is told.
#[tokio::test]
async fn device_changes_are_a_chain_for_who_was_away_too() {
    let (house, others, run) = acquainted().await;
    let user = device(&house, "alice").await;
    let hear = |pos| run.outbox.on_change(&Logged { pos, change: Change::DeviceList { user, device: true } });
    hear(house.store.head());
    others.until("told", |o| o.edus(far(), "m.device_list_update").len() == 1).await;
    others.go_away(far());
    for round in 0..3 {
        for device in ["DEV", "OTHER"] {
            changes(&house, user, device).await;
            hear(house.store.head());
        }
        // More than goes into one transaction comes between.
        for _ in 0..50 * (round % 2) {
            changes(&house, user, "BUSY").await;
            hear(house.store.head());
        }
    }
    others.until("it was tried", |o| o.left_alone.lock().contains_key(far())).await;
    others.come_back(far());
    let newest = house.store.newest_device_change(user).await.unwrap().unwrap();
    let is_told = |o: &Others| o.edus(far(), "m.device_list_update").iter().any(|e| e["stream_id"] == newest.pos);
    others.until("told of the newest", is_told).await;
    let told = others.edus(far(), "m.device_list_update");
    assert!(told.len() < 8, "each device once a transaction: {told:?}");
    for pair in told.windows(2) {
        assert_eq!(pair[1]["prev_id"], json!([pair[0]["stream_id"]]), "{told:?}");
    }
    for device in ["DEV", "OTHER", "BUSY"] {
        assert!(told.iter().any(|e| e["device_id"] == device), "{device}: {told:?}");
    }
    run.end().await;
}

#[tokio::test]
async fn what_may_be_lost_is_said_as_it_is_now() {
    let (house, others, run) = acquainted().await;
    let alice = house.who("alice").await;
    let room = house.room.room_id.clone();
    run.outbox.typing.set(&alice, &room, &alice.user_id, true, None).await.unwrap();
    others.until("typing", |o| o.edus(far(), "m.typing").len() == 1).await;
    run.outbox.typing.set(&alice, &room, &alice.user_id, false, None).await.unwrap();
    others.until("stopped", |o| o.edus(far(), "m.typing").len() == 2).await;
    let typing = others.edus(far(), "m.typing");
    assert_eq!(typing[0], json!({"room_id": room, "user_id": "@alice:x.org", "typing": true}));
    assert_eq!(typing[1]["typing"], false);
    let event = house.events.last().unwrap().clone();
    for (kind, thread) in [("m.read.private", None), ("m.read", Some("main"))] {
        house.read("alice", &event, thread, kind).await;
        let change = Change::Receipt { room: house.room.nid, user: alice.user_nid };
        run.outbox.on_change(&Logged { pos: house.store.head(), change });
    }
    // The second may find in the table what the first is sent with, and say it again.
    others.until("read", |o| !o.edus(far(), "m.receipt").is_empty()).await;
    let receipt = others.edus(far(), "m.receipt").remove(0);
    assert_eq!(
        receipt[room.as_str()]["m.read"]["@alice:x.org"],
        json!({"data": {"ts": 5, "thread_id": "main"}, "event_ids": [event.event_id()]})
    );
    assert_eq!(receipt[room.as_str()].as_object().unwrap().len(), 1, "what is private stays here");
    run.end().await;
}

#[tokio::test]
async fn a_receipt_waits_for_a_server_that_is_away_for_a_moment() {
    let (mut house, others, run) = acquainted().await;
    run.quiet().await;
    let alice = house.who("alice").await;
    let read = async |house: &House, event: &Arc<StoredEvent>| {
        house.read("alice", event, None, "m.read").await;
        let change = Change::Receipt { room: house.room.nid, user: alice.user_nid };
        run.outbox.on_change(&Logged { pos: house.store.head(), change });
    };
    others.go_away(far());
    let event = house.events.last().unwrap().clone();
    read(&house, &event).await;
    others.until("tried", |o| o.tried.lock().iter().any(|(_, t)| holds(t, "m.receipt"))).await;
    run.quiet().await;
    // What was said while it is left alone waits too.
    run.say(&mut house, "hello").await;
    let event = house.events.last().unwrap().clone();
    read(&house, &event).await;
    run.handed_out().await;
    assert!(others.edus(far(), "m.receipt").is_empty());
    others.come_back(far());
    let read_by_alice = |o: &Others| {
        o.edus(far(), "m.receipt").into_iter().any(|content| {
            content[house.room.room_id.as_str()]["m.read"]["@alice:x.org"]["event_ids"][0] == event.event_id().as_str()
        })
    };
    others.until("the receipt", read_by_alice).await;
    run.end().await;
}

#[tokio::test]
async fn who_was_put_out_is_told_even_after_the_log_has_ended() {
    let (mut house, others, run) = acquainted().await;
    run.quiet().await;
    others.go_away(far());
    run.member(&mut house, "@bob:far.org", "leave").await;
    others.until("it was tried", |o| o.left_alone.lock().contains_key(far())).await;
    run.quiet().await;
    run.end().await;
    house.store.prune_log(house.store.head(), 10_000).await.unwrap();
    others.come_back(far());
    let run = Run::begin(&house, &others).await;
    let is_put_out = |t: &Transaction| {
        t.pdus.iter().any(|pdu| pdu.get().contains(r#""membership":"leave""#) && pdu.get().contains("@bob:far.org"))
    };
    others.until("bob is out", |o| o.got.lock()[far()].iter().any(is_put_out)).await;
    run.end().await;
}
