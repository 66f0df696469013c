//! Keys and what hangs on them, over real stores: a world of users with devices who meet in rooms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use hearth_base::{clock::Clock, ids::StreamPos, requester::Requester, tasks::Supervisor};
use hearth_store::{Store, db::Engine, devices::NewDevice, login::NewToken};
use ruma::{
    CanonicalJsonObject, OwnedRoomId, UserId,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json, value::RawValue};

use super::{Keys, NewKeys, Settings};
use crate::{
    Services,
    devices::to_device::ToDevice,
    membership::{Joining, Membership},
    rooms::{NewRoom, Preset, Rooms},
};

mod backups;
mod cross_signing;
mod lists;
mod one_time;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) keys: Arc<Keys>,
    pub(crate) to_device: Arc<ToDevice>,
    pub(crate) clock: Clock,
    rooms: Arc<Rooms>,
    membership: Arc<Membership>,
    settings: hearth_store::Settings,
    supervisor: Supervisor,
    _dir: tempfile::TempDir,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn count() -> u32 {
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A world on SQLite, and one on PostgreSQL where there is one.
pub(crate) async fn worlds() -> Vec<World> {
    let dir = tempfile::tempdir().unwrap();
    let mut worlds = vec![World::on(Engine::Sqlite { path: dir.path().join("t.db") }, dir).await];
    if let Some(engine) = crate::testing::postgres().await {
        worlds.push(World::on(engine, tempfile::tempdir().unwrap()).await);
    }
    worlds
}

impl World {
    async fn on(engine: Engine, dir: tempfile::TempDir) -> Self {
        let (supervisor, settings) = (Supervisor::new(), hearth_store::Settings::new(engine));
        let store = Store::open(&settings, &supervisor).await.unwrap();
        let clock = Clock::new();
        let mut ours = crate::Settings::new("localhost".try_into().unwrap());
        ours.keys = Settings { max_one_time_keys: 60, max_backup_keys: 50, max_backups: 3, ..Settings::default() };
        let services = Services::start(ours, store.clone(), clock.clone(), supervisor.clone()).await.unwrap();
        Self {
            keys: services.keys.clone(),
            to_device: services.to_device.clone(),
            rooms: services.rooms.clone(),
            membership: services.membership.clone(),
            store,
            clock,
            settings,
            supervisor,
            _dir: dir,
        }
    }

    /// The same world after a restart: nothing is remembered. Services hold each other to the end of the process, and
    /// with them the lock of the database: what it left on disk is opened elsewhere.
    async fn restarted(self) -> Self {
        self.store.close().await;
        self.supervisor.begin_stop();
        let dir = tempfile::tempdir().unwrap();
        let engine = match self.settings.engine {
            Engine::Sqlite { path } => {
                let copy = dir.path().join("t.db");
                std::fs::copy(&path, &copy).unwrap();
                let wal = path.with_extension("db-wal");
                if wal.exists() {
                    std::fs::copy(wal, copy.with_extension("db-wal")).unwrap();
                }
                Engine::Sqlite { path: copy }
            }
            postgres => postgres,
        };
        Self::on(engine, dir).await
    }

    /// A user's device, logged in.
    pub(crate) async fn device(&self, name: &str, device: &str) -> Requester {
        let user_id = UserId::parse(format!("@{name}:localhost")).unwrap();
        let user = self.store.intern_user(&user_id).await.unwrap();
        let new = NewDevice {
            user,
            device_id: device.to_owned(),
            display_name: Some(format!("{name}'s {device}")),
            created_ms: 1,
            ip: None,
            user_agent: None,
        };
        let mut token_hash = [0; 32];
        token_hash[..4].copy_from_slice(&count().to_be_bytes());
        let token = NewToken {
            token_hash,
            user,
            device_id: Some(device.to_owned()),
            created_ms: 1,
            expires_ms: None,
            refresh: None,
            puppet_of: None,
        };
        self.store.log_in(new, token).await.unwrap();
        Requester { device_id: Some(device.into()), ..Requester::internal(user_id, user) }
    }

    async fn room(&self, who: &Requester) -> OwnedRoomId {
        let new = NewRoom { preset: Some(Preset::Public), ..NewRoom::default() };
        self.rooms.create(who, new).await.unwrap().room_id
    }

    async fn join(&self, who: &Requester, room: &OwnedRoomId) {
        self.membership.join(who, room, &[], Joining::default()).await.unwrap();
    }

    async fn leave(&self, who: &Requester, room: &OwnedRoomId) {
        self.membership.leave(who, room, None).await.unwrap();
    }

    fn now(&self) -> StreamPos {
        self.store.head()
    }

    /// Whose keys changed for `who` since: names of changed and left, sorted.
    async fn lists(&self, who: &Requester, after: StreamPos) -> (Vec<String>, Vec<String>) {
        self.until(who, after, self.now()).await
    }

    async fn until(&self, who: &Requester, after: StreamPos, upto: StreamPos) -> (Vec<String>, Vec<String>) {
        let lists = self.keys.changes_between(who, after, upto).await.unwrap();
        let names = |users: Vec<ruma::OwnedUserId>| {
            let mut names: Vec<String> = users.iter().map(|u| u.localpart().to_owned()).collect();
            names.sort();
            names
        };
        (names(lists.changed), names(lists.left))
    }

    /// Uploads identity keys for a device; gives the key that signs for it.
    async fn publish(&self, who: &Requester) -> Pair {
        let device = who.device_id.as_ref().unwrap();
        let pair = Pair::new(device.as_str());
        let mut keys = json!({
            "user_id": who.user_id, "device_id": device, "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": { (pair.id()): pair.public, (format!("curve25519:{device}")): "abc" },
        });
        pair.sign(who, &mut keys);
        let new = NewKeys { device_keys: Some(raw(&keys)), ..NewKeys::default() };
        self.keys.upload(who, new).await.unwrap();
        pair
    }

    /// What `who` sees of a user.
    async fn see(&self, who: &Requester, user: &Requester) -> super::QueriedKeys {
        self.keys.query(who, [(user.user_id.clone(), Vec::new())].into()).await.unwrap()
    }
}

/// A signing key with its name.
struct Pair {
    pair: Ed25519KeyPair,
    public: String,
}

impl Pair {
    /// Of a device.
    fn new(name: &str) -> Self {
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, name.to_owned()).unwrap();
        let public = Base64::<Standard, _>::new(pair.public_key()).encode();
        Self { pair, public }
    }

    /// Of a user: named by its public key.
    fn cross_signing() -> Self {
        let document = Ed25519KeyPair::generate();
        let public = Ed25519KeyPair::from_der(&document, String::new()).unwrap().public_key();
        let public = Base64::<Standard, _>::new(public).encode();
        let pair = Ed25519KeyPair::from_der(&document, public.clone()).unwrap();
        Self { pair, public }
    }

    fn id(&self) -> String {
        format!("ed25519:{}", self.pair.version())
    }

    fn sign(&self, who: &Requester, object: &mut Value) {
        let mut canonical: CanonicalJsonObject = serde_json::from_value(object.clone()).unwrap();
        sign_json(who.user_id.as_str(), &self.pair, &mut canonical).unwrap();
        *object = serde_json::to_value(canonical).unwrap();
    }

    /// The key as a cross-signing key, unsigned.
    fn key(&self, who: &Requester, usage: &str) -> Value {
        json!({ "user_id": who.user_id, "usage": [usage], "keys": { (self.id()): self.public } })
    }
}

pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap()
}
