//! Keys of other servers: from memory and disk, else asked for — the server itself, or the notaries that the
//! administrator trusts.
//!
//! A server is asked by one question at a time, which all who need its keys wait for, and not again within a minute,
//! whoever claims to be it; one that does not answer is left alone for longer and longer. Only a request signed by a key
//! that was in nothing it told has it asked at once, as it may have changed its key, or come back, just now: once for each
//! such key, and a few times a minute. So nobody can make us ask a third party more than that.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use hearth_base::{Result, cache::Cache, clock::Clock, tasks::Supervisor};
use hearth_remote::Failure;
use hearth_store::{
    Store,
    server_keys::{KeyDocument, VerifyKeys},
};
use parking_lot::Mutex;
use ruma::{
    OwnedServerName, ServerName,
    api::federation::discovery::{get_remote_server_keys_batch, get_server_keys},
};
use tokio::sync::{Notify, Semaphore};

use super::{Notary, document};
use crate::federation::Federation;

/// Keys that are needed.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Whose.
    pub server: OwnedServerName,
    /// Any of these.
    pub key_ids: Vec<String>,
    /// Valid then, ms.
    pub at: i64,
    /// For a request: the key must be one that still signs, and the server gave a sign of life.
    pub for_request: bool,
}

impl Wanted {
    fn is_met_by(&self, keys: &VerifyKeys) -> bool {
        self.key_ids
            .iter()
            .any(|id| keys.get(id).is_some_and(|k| k.valid_ms >= self.at && !(k.old && self.for_request)))
    }
}

/// Servers asked at the same time.
const AT_ONCE: usize = 32;
/// Servers that wait to be asked.
const MAX_WAITING: usize = 2_000;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Servers of which this many are missing are asked for at a notary first.
const MANY: usize = 10;
/// Servers in one question to a notary.
const PER_QUESTION: usize = 100;
/// Bytes of a notary's answer.
const MAX_ANSWER: usize = 8 << 20;
/// Servers of which we remember when they were asked.
const REMEMBERED: u64 = 50_000;
/// When a server that answered may be asked again, ms, and how often in that time for a document that holds longer.
const AGAIN: u64 = 60_000;
const OFTEN: u32 = 3;
/// How often in that time a server is asked at once for keys that it did not tell.
const SOUGHT: usize = 3;
/// The first and the longest pause for a server that did not, ms.
const FIRST_PAUSE: u64 = 10_000;
const LONGEST_PAUSE: u64 = 3600 * 1000;

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Not again before, ms.
    until: u64,
    failures: u32,
    /// When it was asked first of late, ms, and how often since.
    tries: (u64, u32),
}

/// Keys that a server was asked for at once, as it had not told them.
#[derive(Debug, Default)]
struct Sought {
    /// When the first was, ms.
    since: u64,
    /// Their ids, hashed: strangers choose them.
    key_ids: Vec<u64>,
}

/// Keys of other servers.
#[derive(Debug)]
pub(super) struct Theirs {
    store: Store,
    federation: Arc<Federation>,
    notaries: Vec<Notary>,
    clock: Clock,
    supervisor: Supervisor,
    asked: Cache<OwnedServerName, Asked>,
    sought: Cache<OwnedServerName, Arc<Mutex<Sought>>>,
    hasher: RandomState,
    under_way: Mutex<HashMap<OwnedServerName, Shared<BoxFuture<'static, ()>>>>,
    permits: Semaphore,
    came: Notify,
}

impl Theirs {
    pub fn new(
        notaries: Vec<Notary>,
        federation: Arc<Federation>,
        store: Store,
        clock: Clock,
        supervisor: Supervisor,
    ) -> Self {
        Self {
            store,
            // Our own word is no news to us.
            notaries: notaries.into_iter().filter(|n| n.name != *federation.name()).collect(),
            federation,
            clock,
            supervisor,
            asked: Cache::new(REMEMBERED),
            sought: Cache::new(REMEMBERED),
            hasher: RandomState::new(),
            under_way: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            came: Notify::new(),
        }
    }

    /// Rings when keys have come.
    pub fn came(&self) -> &Notify {
        &self.came
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    /// The keys of all servers in `wanted`, after those that lack were asked for. Whoever could not be asked is in the
    /// answer with what is known.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn gather(self: &Arc<Self>, wanted: &[Wanted]) -> Result<BTreeMap<OwnedServerName, Arc<VerifyKeys>>> {
        let mut known = self.store.server_keys(wanted.iter().map(|w| &*w.server)).await?;
        let mut missing = self.missing(wanted, &known);
        if missing.is_empty() {
            return Ok(known);
        }
        if missing.len() >= MANY && !self.notaries.is_empty() {
            let names: Vec<OwnedServerName> = missing.keys().cloned().collect();
            let questions = stream::iter(names.chunks(PER_QUESTION));
            questions.for_each_concurrent(4, |servers| self.ask_notaries(servers).map(drop)).await;
            known.extend(self.store.server_keys(missing.keys().map(|s| &**s)).await?);
            missing = self.missing(wanted, &known);
        }
        let fetches = stream::iter(missing.iter());
        fetches.for_each_concurrent(AT_ONCE, |(server, gave_sign)| self.fetch(server.clone(), *gave_sign)).await;
        known.extend(self.store.server_keys(missing.keys().map(|s| &**s)).await?);
        Ok(known)
    }

    /// Servers whose keys lack and who may be asked; and whether they gave a sign of life.
    fn missing(
        &self,
        wanted: &[Wanted],
        known: &BTreeMap<OwnedServerName, Arc<VerifyKeys>>,
    ) -> BTreeMap<OwnedServerName, bool> {
        let mut missing = BTreeMap::new();
        for one in wanted {
            let keys = known.get(&one.server);
            let is_met = keys.is_some_and(|keys| one.is_met_by(keys));
            let may_ask = || self.may_ask(&one.server) || self.may_seek(one, keys);
            if !is_met && self.federation.admits(&one.server) && may_ask() {
                *missing.entry(one.server.clone()).or_default() |= one.for_request;
            }
        }
        missing
    }

    pub fn may_ask(&self, server: &OwnedServerName) -> bool {
        self.asked.get(server).is_none_or(|asked| asked.until <= self.clock.steady_ms())
    }

    /// The same for who wants keys that hold longer than those we have.
    pub fn may_ask_again(&self, server: &OwnedServerName) -> bool {
        let now = self.clock.steady_ms();
        let few = |(first, count): (u64, u32)| count < OFTEN && now < first.saturating_add(AGAIN);
        self.may_ask(server) || self.asked.get(server).is_some_and(|asked| few(asked.tries))
    }

    /// Whether a server that was asked just now is asked once more for the keys of a request: for those that are in nothing
    /// it told. Counts them; to be asked once.
    fn may_seek(&self, wanted: &Wanted, known: Option<&Arc<VerifyKeys>>) -> bool {
        if !wanted.for_request || !self.asked.contains_key(&wanted.server) {
            return false;
        }
        let now = self.clock.steady_ms();
        let sought = self.sought.get_with(wanted.server.clone(), Arc::default);
        let mut sought = sought.lock();
        if sought.since.saturating_add(AGAIN) <= now {
            *sought = Sought { since: now, key_ids: Vec::new() };
        }
        let before = sought.key_ids.len();
        for key_id in wanted.key_ids.iter().filter(|id| known.is_none_or(|keys| !keys.contains_key(*id))) {
            let key_id = self.hasher.hash_one(key_id);
            if sought.key_ids.len() < SOUGHT && !sought.key_ids.contains(&key_id) {
                sought.key_ids.push(key_id);
            }
        }
        sought.key_ids.len() > before
    }

    /// Asks for the keys of one server; who asks for the same meanwhile waits for this. The work ends though its caller
    /// may go.
    pub async fn fetch(self: &Arc<Self>, server: OwnedServerName, gave_sign: bool) {
        let fetch = {
            let mut under_way = self.under_way.lock();
            match under_way.get(&server) {
                Some(fetch) => fetch.clone(),
                None if under_way.len() >= MAX_WAITING => return,
                None => {
                    let (this, name) = (self.clone(), server.clone());
                    let job = async move {
                        let work = this.clone();
                        let fetched = this.supervisor.job(async move {
                            work.fetch_now(&name, gave_sign).await;
                            work.under_way.lock().remove(&name);
                            Ok(())
                        });
                        if let Err(e) = fetched.await {
                            tracing::warn!(error = %e, "asking for keys ended early");
                        }
                    };
                    let fetch = job.boxed().shared();
                    under_way.insert(server, fetch.clone());
                    fetch
                }
            }
        };
        fetch.await;
    }

    async fn fetch_now(&self, server: &OwnedServerName, gave_sign: bool) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        let mut got = self.ask_server(server, gave_sign).await;
        if let Err(failure) = &got {
            tracing::debug!(%server, error = %failure, "a server did not tell its keys");
            if self.ask_notaries(std::slice::from_ref(server)).await {
                got = Ok(());
            }
        }
        let (now, before) = (self.clock.steady_ms(), self.asked.get(server));
        let recent = before.map(|a| a.tries).filter(|(first, _)| first.saturating_add(AGAIN) > now);
        let tries = recent.map_or((now, 1), |(first, count)| (first, count + 1));
        let asked = match got {
            Ok(()) => Asked { until: tries.0.saturating_add(AGAIN), failures: 0, tries },
            Err(_) => {
                let failures = before.map_or(0, |a| a.failures).saturating_add(1);
                let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE);
                Asked { until: now.saturating_add(pause), failures, tries }
            }
        };
        self.asked.insert(server.clone(), asked);
    }

    async fn ask_server(&self, server: &ServerName, gave_sign: bool) -> Result<(), Failure> {
        let patience = self.federation.once().within(PATIENCE).up_to(document::MAX_BYTES);
        let request = get_server_keys::v2::Request::new();
        let answer = if gave_sign {
            self.federation.ask_back(server, request, patience).await?
        } else {
            self.federation.ask(server, request, patience).await?
        };
        let read = document::read(answer.server_key.json().get(), self.now()).map_err(Failure::Nonsense)?;
        if read.kept.server != server {
            return Err(Failure::Nonsense(format!("it gave keys of {}", read.kept.server)));
        }
        self.keep(vec![read.kept]).await
    }

    async fn keep(&self, documents: Vec<KeyDocument>) -> Result<(), Failure> {
        self.store.keep_key_documents(documents).await.map_err(|e| Failure::Ours(e.to_string()))?;
        self.came.notify_one();
        Ok(())
    }

    /// Asks the notaries in turn for the keys of servers; whether anything new came.
    async fn ask_notaries(&self, servers: &[OwnedServerName]) -> bool {
        let mut left: BTreeSet<&OwnedServerName> = servers.iter().collect();
        for notary in &self.notaries {
            if left.is_empty() {
                break;
            }
            match self.ask_notary(notary, &left).await {
                Ok(documents) => {
                    left.retain(|server| !documents.iter().any(|d| d.server == **server));
                    if let Err(e) = self.keep(documents).await {
                        tracing::warn!(error = %e, "keys could not be kept");
                    }
                }
                Err(e) => tracing::info!(notary = %notary.name, error = %e, "a notary did not answer"),
            }
        }
        left.len() < servers.len()
    }

    async fn ask_notary(
        &self,
        notary: &Notary,
        servers: &BTreeSet<&OwnedServerName>,
    ) -> Result<Vec<KeyDocument>, Failure> {
        let wanted = servers.iter().map(|server| ((*server).clone(), BTreeMap::new())).collect();
        let request = get_remote_server_keys_batch::v2::Request::new(wanted);
        let patience = self.federation.once().within(PATIENCE * 2).up_to(MAX_ANSWER);
        let answer = self.federation.ask(&notary.name, request, patience).await?;
        let (mut documents, now) = (Vec::new(), self.now());
        for raw in answer.server_keys {
            let read = match document::read(raw.json().get(), now) {
                Ok(read) => read,
                Err(why) => {
                    tracing::debug!(notary = %notary.name, why, "a notary gave a document that cannot be used");
                    continue;
                }
            };
            let is_vouched = notary.keys.is_empty() || document::is_signed_by(&read.object, &notary.name, &notary.keys);
            if is_vouched && servers.contains(&read.kept.server) {
                documents.push(KeyDocument { second_hand: true, ..read.kept });
            }
        }
        Ok(documents)
    }
}
