//! Public keys of other servers, and the documents they came in. All keys of a server are remembered together: whoever
//! checks a signature of a server will check another soon. Of documents those stay that have a key which no newer one has.
//!
//! The first document of a server *waits*: it can be fetched again, so nobody waits for the disk, and it is written with
//! what is written next. A server that is met for the first time is mostly met by something that will be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hearth_base::{Doing, Result, cache::Cache};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Notify;

use crate::{
    Store,
    db::{MOST_NAMES, Names, Session, Texts},
    execute, fetch_all, insert_rows,
    log::Tx,
    sql,
};

/// A public key of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyKey {
    /// The key in unpadded base64.
    pub public_key: String,
    /// What it signed until then is believed, ms.
    pub valid_ms: i64,
    /// Signs no requests any more.
    pub old: bool,
}

/// Keys of a server by key id.
pub type VerifyKeys = BTreeMap<String, VerifyKey>;

/// A document of a server's keys.
#[derive(Clone, Debug)]
pub struct KeyDocument {
    /// Whose.
    pub server: OwnedServerName,
    /// As it signed it.
    pub json: String,
    /// Until when it holds, ms.
    pub valid_ms: i64,
    /// When we got it, ms.
    pub fetched_ms: i64,
    /// The keys in it.
    pub keys: VerifyKeys,
    /// Whether a notary told it, who may have an older one than we.
    pub second_hand: bool,
}

/// A document of a server's keys as it is kept.
#[derive(Clone, Debug)]
pub struct KeptDocument {
    /// As its server signed it.
    pub json: String,
    /// The ids of the keys in it.
    pub key_ids: Vec<String>,
}

/// Documents of a server that are kept.
const DOCUMENTS_KEPT: usize = 5;

/// Units of memory, each about 100 bytes.
const CACHE: u64 = 200_000;

/// How long a document waits for something to be written with.
const WAIT: Duration = Duration::from_secs(2);
/// Documents that may wait; with more of them the disk is waited for.
const MOST_WAITING: usize = 200;

/// What is remembered.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Servers whose keys were read or written; an empty map is a server without.
    keys: Cache<OwnedServerName, Arc<VerifyKeys>>,
    /// Servers of which the table has keys: of one that is met for the first time it has none.
    on_disk: Names,
    /// The first documents of servers, not yet on disk.
    waiting: Mutex<BTreeMap<OwnedServerName, Arc<KeyDocument>>>,
    /// Told when one begins to wait.
    waits: Notify,
}

impl Memory {
    /// Reads which servers there are keys of.
    pub(crate) async fn load(session: &mut Session) -> Result<Self> {
        const SERVERS: &str = "SELECT DISTINCT server FROM server_keys LIMIT $1";
        let servers: Vec<(String,)> = fetch_all!(session, (String,), SERVERS, MOST_NAMES + 1)?;
        let weigh = |_: &OwnedServerName, keys: &Arc<VerifyKeys>| u32::try_from(keys.len()).unwrap_or(u32::MAX) + 1;
        Ok(Self {
            keys: Cache::weighed(CACHE, weigh),
            on_disk: Names::of(servers.iter().map(|(server,)| server.as_str())),
            waiting: Mutex::default(),
            waits: Notify::new(),
        })
    }

    /// Whether a document waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.lock().is_empty()
    }

    /// Forgets what is remembered of a server, as happens where there is much.
    #[cfg(test)]
    pub(crate) fn forget(&self, server: &OwnedServerName) {
        self.keys.invalidate(server);
    }

    /// Ends when one has waited for as long as it may.
    pub(crate) async fn due(&self) {
        loop {
            if !self.has_waiting() {
                self.waits.notified().await;
            }
            tokio::time::sleep(WAIT).await;
            if self.has_waiting() {
                return;
            }
        }
    }

    /// Has documents wait, if each is the first of its server and all can be stored; gives them back otherwise.
    fn let_wait(&self, documents: Vec<KeyDocument>) -> Option<Vec<KeyDocument>> {
        let mut waiting = self.waiting.lock();
        let servers: BTreeSet<&OwnedServerName> = documents.iter().map(|d| &d.server).collect();
        let may = waiting.len() + documents.len() <= MOST_WAITING
            && servers.len() == documents.len()
            && documents.iter().all(|d| self.has_none_of(&d.server) && d.is_storable());
        if !may {
            return Some(documents);
        }
        for d in documents {
            self.keys.put(d.server.clone(), Arc::new(d.keys.clone()));
            waiting.insert(d.server.clone(), Arc::new(d));
        }
        drop(waiting);
        self.waits.notify_one();
        None
    }

    /// Keys of a server of which the disk knew nothing just now.
    fn come(&self, server: &OwnedServerName) -> Option<Arc<VerifyKeys>> {
        let waiting = self.waiting.lock().get(server).map(|d| Arc::new(d.keys.clone()));
        waiting.or_else(|| self.keys.get(server))
    }

    /// Whether it is known that there is no key of a server here.
    fn has_none_of(&self, server: &OwnedServerName) -> bool {
        self.keys.get(server).is_some_and(|keys| keys.is_empty())
    }

    /// Remembers what a commit has written: the first keys of a server are all it has.
    fn remember(&self, d: &KeyDocument) {
        match self.has_none_of(&d.server) {
            true => self.keys.put(d.server.clone(), Arc::new(d.keys.clone())),
            false => self.keys.invalidate(&d.server),
        }
    }

    /// Is told that what waited is on disk.
    pub(crate) fn settle(&self, stored: &[Arc<KeyDocument>]) {
        if stored.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        for d in stored {
            waiting.remove(&d.server);
            // Forgotten meanwhile, and looked for on disk in vain.
            if self.has_none_of(&d.server) {
                self.keys.put(d.server.clone(), Arc::new(d.keys.clone()));
            }
        }
    }
}

impl KeyDocument {
    /// Whether PostgreSQL can hold it: what waits must not stand in the way of every commit.
    fn is_storable(&self) -> bool {
        !self.json.contains('\0')
            && self.keys.iter().all(|(id, key)| !id.contains('\0') && !key.public_key.contains('\0'))
    }
}

/// Stores what waits in this transaction; gives it.
pub(crate) async fn store_waiting(tx: &mut Tx) -> Result<Vec<Arc<KeyDocument>>> {
    let waiting: Vec<Arc<KeyDocument>> = tx.store().inner.server_keys.waiting.lock().values().cloned().collect();
    if !waiting.is_empty() {
        let rows = waiting.iter().map(|d| Ok((&**d, d.fetched_ms, ids_of(d)?))).collect::<Result<Vec<_>>>()?;
        put_documents(tx, &rows).await?;
        put_keys(tx, waiting.iter().map(|d| &**d)).await?;
    }
    Ok(waiting)
}

const PUT_UNKNOWN: &str = "INSERT INTO server_keys (server, key_id, public_key, valid_ms, old) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server, key_id) DO NOTHING";
const DOCUMENTS: &str = "SELECT json, key_ids FROM key_documents WHERE server = $1 ORDER BY fetched_ms DESC";
const DOCUMENTS_KEYS: &str =
    "SELECT fetched_ms, valid_ms, key_ids FROM key_documents WHERE server = $1 ORDER BY fetched_ms DESC";
const DOCUMENT_DROP: &str = "DELETE FROM key_documents WHERE server = $1 AND fetched_ms = $2";

impl Store {
    /// The keys of servers, as far as we know them; every server that was asked for is in the answer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn server_keys(
        &self,
        servers: impl IntoIterator<Item = &ServerName>,
    ) -> Result<BTreeMap<OwnedServerName, Arc<VerifyKeys>>> {
        let memory = &self.inner.server_keys.keys;
        let mut all = BTreeMap::new();
        let mut missing = Vec::new();
        for server in servers {
            let server = server.to_owned();
            match memory.get(&server) {
                Some(keys) => drop(all.insert(server, keys)),
                None => missing.push((memory.ticket(&server), server)),
            }
        }
        let on_disk = &self.inner.server_keys.on_disk;
        let asked = missing.iter().map(|(_, server)| server.as_str()).filter(|server| on_disk.may_have(server));
        let names = Texts(asked.map(str::to_owned).collect());
        let sql = sql!("SELECT server, key_id, public_key, valid_ms, old FROM server_keys WHERE server " [in 1]);
        type Row = (String, String, String, i64, bool);
        let rows: Vec<Row> = match names.0.is_empty() {
            true => Vec::new(),
            false => fetch_all!(&mut self.read().await?, Row, sql, names)?,
        };
        let mut found: BTreeMap<String, VerifyKeys> = BTreeMap::new();
        for (server, key_id, public_key, valid_ms, old) in rows {
            found.entry(server).or_default().insert(key_id, VerifyKey { public_key, valid_ms, old });
        }
        for (ticket, server) in missing {
            let keys = match found.remove(server.as_str()) {
                // Their first may have come while the disk was asked.
                None => self.inner.server_keys.come(&server).unwrap_or_default(),
                Some(keys) => Arc::new(keys),
            };
            memory.fill(server.clone(), keys.clone(), ticket);
            all.insert(server, keys);
        }
        Ok(all)
    }

    /// The documents of a server's keys, the newest first: each has a key that none before it has.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn key_documents(&self, server: &ServerName) -> Result<Vec<KeptDocument>> {
        if self.inner.server_keys.waiting.lock().contains_key(server) {
            self.write(|_| Box::pin(async { Ok(()) })).await?;
        }
        let rows: Vec<(String, String)> =
            fetch_all!(&mut self.read().await?, (String, String), DOCUMENTS, server.as_str())?;
        rows.into_iter().map(|(json, key_ids)| Ok(KeptDocument { json, key_ids: read_ids(&key_ids)? })).collect()
    }

    /// Keeps documents and the keys in them; keys known from earlier documents stay. What a notary told takes the place of
    /// nothing that holds for longer. The first of a server may be on disk a little later.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keep_key_documents(&self, documents: Vec<KeyDocument>) -> Result<()> {
        let Some(mut documents) = self.inner.server_keys.let_wait(documents) else { return Ok(()) };
        documents.sort_by_key(|d| d.valid_ms);
        self.write(move |tx| {
            Box::pin(async move {
                let mut seen = BTreeSet::new();
                for d in &documents {
                    let is_first = seen.insert(&d.server) && tx.store().inner.server_keys.has_none_of(&d.server);
                    let is_newest = tx.keep_document(d, is_first).await?;
                    tx.keep_keys(d, is_newest).await?;
                }
                tx.after_commit(move |store| documents.iter().for_each(|d| store.inner.server_keys.remember(d)));
                Ok(())
            })
        })
        .await
    }
}

impl Tx {
    /// Keeps a document, and says whether it is the newest; those before it go whose keys are all in newer ones, and the
    /// oldest of too many. Of a server's first there is none before it.
    async fn keep_document(&mut self, d: &KeyDocument, is_first: bool) -> Result<bool> {
        let server = d.server.as_str();
        let before: Vec<(i64, i64, String)> = match is_first {
            true => Vec::new(),
            false => fetch_all!(self, (i64, i64, String), DOCUMENTS_KEYS, server)?,
        };
        let key_ids = ids_of(d)?;
        let mut newer: BTreeSet<String> = BTreeSet::new();
        if d.second_hand && before.iter().any(|(_, valid_ms, _)| *valid_ms > d.valid_ms) {
            for (_, _, key_ids) in &before {
                newer.extend(read_ids(key_ids)?);
            }
            if before.len() < DOCUMENTS_KEPT && d.keys.keys().any(|id| !newer.contains(id)) {
                let at = before.last().map_or(d.fetched_ms, |(oldest, ..)| oldest.saturating_sub(1));
                put_documents(self, &[(d, at, key_ids)]).await?;
            }
            return Ok(false);
        }
        newer.extend(d.keys.keys().cloned());
        let mut kept = 1;
        for (fetched_ms, _, key_ids) in &before {
            let ids = read_ids(key_ids)?;
            if kept < DOCUMENTS_KEPT && ids.iter().any(|id| !newer.contains(id)) {
                newer.extend(ids);
                kept += 1;
            } else {
                execute!(self, DOCUMENT_DROP, server, *fetched_ms)?;
            }
        }
        // The newest is the one that came last, whatever the clock says.
        let at = before.first().map_or(d.fetched_ms, |(newest, ..)| d.fetched_ms.max(newest.saturating_add(1)));
        put_documents(self, &[(d, at, key_ids)]).await?;
        Ok(true)
    }

    /// Keeps the keys of a document; only the newest says how it is with keys that were known.
    async fn keep_keys(&mut self, d: &KeyDocument, is_newest: bool) -> Result<()> {
        if !is_newest {
            self.store().inner.server_keys.on_disk.add(d.server.as_str());
            for (key_id, key) in &d.keys {
                let (server, public) = (d.server.as_str(), key.public_key.as_str());
                execute!(self, PUT_UNKNOWN, server, key_id.as_str(), public, key.valid_ms, key.old)?;
            }
            return Ok(());
        }
        put_keys(self, [d]).await
    }
}

/// Writes documents, each with when it came (ms) and the ids of its keys.
async fn put_documents(tx: &mut Tx, documents: &[(&KeyDocument, i64, String)]) -> Result<()> {
    insert_rows!(tx, documents,
    "INSERT INTO key_documents (server, json, valid_ms, fetched_ms, key_ids) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server, fetched_ms) DO NOTHING",
    "INSERT INTO key_documents (server, json, valid_ms, fetched_ms, key_ids) SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::TEXT[]) ON CONFLICT (server, fetched_ms) DO NOTHING",
    r => {
        server: String = r.0.server.to_string(),
        json: String = r.0.json.clone(),
        valid_ms: i64 = r.0.valid_ms,
        fetched_ms: i64 = r.1,
        key_ids: String = r.2.clone(),
    })
}

/// Writes the keys of documents of different servers, whatever was said of them before.
async fn put_keys(tx: &mut Tx, documents: impl IntoIterator<Item = &KeyDocument>) -> Result<()> {
    let rows: Vec<(&KeyDocument, &String, &VerifyKey)> =
        documents.into_iter().flat_map(|d| d.keys.iter().map(move |(id, key)| (d, id, key))).collect();
    for (d, ..) in &rows {
        tx.store().inner.server_keys.on_disk.add(d.server.as_str());
    }
    insert_rows!(tx, &rows,
    "INSERT INTO server_keys (server, key_id, public_key, valid_ms, old) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key, valid_ms = excluded.valid_ms, old = excluded.old",
    "INSERT INTO server_keys (server, key_id, public_key, valid_ms, old) SELECT * FROM UNNEST($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::BOOLEAN[]) ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key, valid_ms = excluded.valid_ms, old = excluded.old",
    r => {
        server: String = r.0.server.to_string(),
        key_id: String = r.1.clone(),
        public: String = r.2.public_key.clone(),
        valid_ms: i64 = r.2.valid_ms,
        old: bool = r.2.old,
    })
}

fn ids_of(d: &KeyDocument) -> Result<String> {
    serde_json::to_string(&d.keys.keys().collect::<Vec<_>>()).doing("writing the ids of keys")
}

fn read_ids(json: &str) -> Result<Vec<String>> {
    serde_json::from_str(json).doing("reading the ids of keys")
}
