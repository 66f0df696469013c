//! What it costs to resolve two forks of a large room that differ little: `cargo bench -p hearth-service`. The room has
//! 10,000 members, the forks differ in 100 entries of its state. Times are the best of some runs in milliseconds, with
//! what is needed in memory and with nothing there yet; the goal is 20.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{collections::HashMap, path::Path, sync::Arc, time::Instant};

use hearth_base::{
    ids::{EventNid, KeyNid, RoomNid},
    tasks::Supervisor,
};
use hearth_rules::{Draft, RoomVersion, Signer, event::Reference};
use hearth_service::state::{Fresh, State};
use hearth_store::{Settings, Store, db::Engine, events::NewEvent, state::StateMap};
use ruma::{OwnedRoomId, OwnedUserId, UserId, events::StateEventType, server_name};
use serde_json::{Value, json};

const MEMBERS: usize = 10_000;
const DIFFERING: usize = 100;

/// A room being written down, event by event.
struct Room {
    version: &'static RoomVersion,
    store: Store,
    signer: Signer,
    room: Option<(RoomNid, OwnedRoomId)>,
    /// What events name, by number.
    named: HashMap<EventNid, Reference>,
    written: Vec<NewEvent>,
    clock: u64,
}

impl Room {
    /// Puts an event on a fork.
    async fn send(&mut self, fork: &mut StateMap, sender: &UserId, kind: &str, key: &str, content: Value) -> EventNid {
        self.clock += 1;
        let room_id = self.room.as_ref().map(|(_, id)| id.clone());
        let draft =
            Draft::of(room_id, sender.to_owned(), kind.into(), Some(key.to_owned()), &content, self.clock).unwrap();
        let mut keys = draft.auth_keys(self.version).unwrap();
        keys.push((StateEventType::RoomCreate, String::new()));
        let (mut auth, mut names) = (Vec::new(), Vec::new());
        for (kind, key) in keys {
            let key = self.store.intern_key(&kind.to_string(), &key).await.unwrap();
            if let Some(nid) = fork.get(&key).filter(|nid| !auth.contains(*nid)) {
                auth.push(*nid);
                if kind != StateEventType::RoomCreate || !self.version.room_id_is_create_hash() {
                    names.push(self.named[nid].clone());
                }
            }
        }
        let pdu = Arc::new(draft.build(self.version, &[], self.clock, &names, &self.signer).unwrap());
        let user = self.store.intern_user(sender).await.unwrap();
        if self.room.is_none() {
            let (id, version) = (pdu.room_id().to_owned(), self.version.id.clone());
            let nid = self.store.make_stub_room(id.clone(), version, user, 0).await.unwrap();
            self.room = Some((nid, id));
        }
        let nid = self.store.new_event_nid().await.unwrap();
        let key: KeyNid = self.store.intern_key(kind, key).await.unwrap();
        self.named.insert(nid, pdu.reference(self.version));
        fork.insert(key, nid);
        self.written.push(NewEvent::outlier(nid, pdu, user, Some(key), Some(auth), false));
        nid
    }
}

fn user(n: usize) -> OwnedUserId {
    format!("@user{n}:example.org").try_into().unwrap()
}

async fn open(dir: &Path, supervisor: &Supervisor) -> Store {
    Store::open(&Settings::new(Engine::Sqlite { path: dir.join("bench.db") }), supervisor).await.unwrap()
}

/// Two forks of a large room on disk.
async fn forks(version: &'static RoomVersion, store: Store) -> [StateMap; 2] {
    let signer = Signer::new(server_name!("example.org").to_owned(), &[1; 32], "1").unwrap();
    let mut room = Room { version, store, signer, room: None, named: HashMap::new(), written: Vec::new(), clock: 0 };
    let (alice, mut trunk) = (user(0), StateMap::new());
    let create = json!({"creator": alice, "room_version": version.id});
    if !version.room_id_is_create_hash() {
        room.room = Some((
            room.store
                .make_stub_room(
                    "!large:example.org".try_into().unwrap(),
                    version.id.clone(),
                    room.store.intern_user(&alice).await.unwrap(),
                    0,
                )
                .await
                .unwrap(),
            "!large:example.org".try_into().unwrap(),
        ));
    }
    room.send(&mut trunk, &alice, "m.room.create", "", create).await;
    room.send(&mut trunk, &alice, "m.room.member", alice.as_str(), json!({"membership": "join"})).await;
    // Power changed hands now and then.
    for n in 1..50 {
        let mut users = json!({user(1).as_str(): n});
        if !version.room_id_is_create_hash() {
            users[alice.as_str()] = json!(100);
        }
        room.send(&mut trunk, &alice, "m.room.power_levels", "", json!({"users": users})).await;
    }
    room.send(&mut trunk, &alice, "m.room.join_rules", "", json!({"join_rule": "public"})).await;
    for n in 1..MEMBERS {
        let member = user(n);
        room.send(&mut trunk, &member, "m.room.member", member.as_str(), json!({"membership": "join"})).await;
    }
    let (mut left, mut right) = (trunk.clone(), trunk);
    for n in 2..2 + DIFFERING / 4 {
        let (banned, leaving, renamed) = (user(n), user(1000 + n), user(2000 + n));
        room.send(&mut left, &alice, "m.room.member", banned.as_str(), json!({"membership": "ban"})).await;
        let name = json!({"membership": "join", "displayname": "another"});
        room.send(&mut right, &banned, "m.room.member", banned.as_str(), name.clone()).await;
        room.send(&mut left, &leaving, "m.room.member", leaving.as_str(), json!({"membership": "leave"})).await;
        room.send(&mut right, &renamed, "m.room.member", renamed.as_str(), name).await;
        room.send(&mut right, &alice, "org.example.state", &n.to_string(), json!({})).await;
    }
    room.store.insert_outliers(room.room.unwrap().0, room.written).await.unwrap();
    [left, right]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    for version in ["1", "10", "12"] {
        let version = RoomVersion::known(version).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new();
        let store = open(dir.path(), &supervisor).await;
        let states = forks(version, store.clone()).await;
        let state = State::new(store);
        let (mut cold, mut warm) = (f64::MAX, f64::MAX);
        for n in 0..10 {
            let began = Instant::now();
            let resolved = state.resolve(version, &states, &Fresh::new()).await.unwrap();
            let took = began.elapsed().as_secs_f64() * 1e3;
            assert!(resolved.len() > MEMBERS);
            if n == 0 { cold = took } else { warm = warm.min(took) }
        }
        println!("version {version:2}: {cold:8.2} ms cold, {warm:8.2} ms warm");
    }
}
