//! Public keys of other servers, and the documents they came in. All keys of a server are remembered together: whoever
//! checks a signature of a server will check another soon.

use std::{collections::BTreeMap, sync::Arc};

use hearth_base::{Result, cache::Cache};
use ruma::{OwnedServerName, ServerName};

use crate::{Store, db::Texts, execute, fetch_all, fetch_optional, sql};

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
}

/// Units of memory, each about 100 bytes.
const CACHE: u64 = 200_000;

/// What is remembered: servers whose keys were read or written; an empty map is a server without.
#[derive(Debug)]
pub(crate) struct Memory(Cache<OwnedServerName, Arc<VerifyKeys>>);

impl Default for Memory {
    fn default() -> Self {
        let weigh = |_: &OwnedServerName, keys: &Arc<VerifyKeys>| u32::try_from(keys.len()).unwrap_or(u32::MAX) + 1;
        Self(Cache::weighed(CACHE, weigh))
    }
}

const PUT: &str = "INSERT INTO server_keys (server, key_id, public_key, valid_ms, old) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server, key_id) DO UPDATE SET public_key = excluded.public_key, valid_ms = excluded.valid_ms, old = excluded.old";
const DOCUMENT: &str = "SELECT json, valid_ms, fetched_ms FROM key_documents WHERE server = $1";
const DOCUMENT_PUT: &str = "INSERT INTO key_documents (server, json, valid_ms, fetched_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (server) DO UPDATE SET json = excluded.json, valid_ms = excluded.valid_ms, fetched_ms = excluded.fetched_ms";

impl Store {
    /// The keys of servers, as far as we know them; every server that was asked for is in the answer.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn server_keys(
        &self,
        servers: impl IntoIterator<Item = &ServerName>,
    ) -> Result<BTreeMap<OwnedServerName, Arc<VerifyKeys>>> {
        let memory = &self.inner.server_keys.0;
        let mut all = BTreeMap::new();
        let mut missing = Vec::new();
        for server in servers {
            let server = server.to_owned();
            match memory.get(&server) {
                Some(keys) => drop(all.insert(server, keys)),
                None => missing.push((memory.ticket(&server), server)),
            }
        }
        if missing.is_empty() {
            return Ok(all);
        }
        let names = Texts(missing.iter().map(|(_, server)| server.to_string()).collect());
        let sql = sql!("SELECT server, key_id, public_key, valid_ms, old FROM server_keys WHERE server " [in 1]);
        type Row = (String, String, String, i64, bool);
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, sql, names)?;
        let mut found: BTreeMap<String, VerifyKeys> = BTreeMap::new();
        for (server, key_id, public_key, valid_ms, old) in rows {
            found.entry(server).or_default().insert(key_id, VerifyKey { public_key, valid_ms, old });
        }
        for (ticket, server) in missing {
            let keys = Arc::new(found.remove(server.as_str()).unwrap_or_default());
            memory.fill(server.clone(), keys.clone(), ticket);
            all.insert(server, keys);
        }
        Ok(all)
    }

    /// The newest document of a server's keys, without the keys in it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn key_document(&self, server: &ServerName) -> Result<Option<KeyDocument>> {
        let row: Option<(String, i64, i64)> =
            fetch_optional!(&mut self.read().await?, (String, i64, i64), DOCUMENT, server.as_str())?;
        let server = server.to_owned();
        Ok(row.map(|(json, valid_ms, fetched_ms)| KeyDocument {
            server,
            json,
            valid_ms,
            fetched_ms,
            keys: VerifyKeys::new(),
        }))
    }

    /// Keeps documents and the keys in them; keys known from earlier documents stay.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keep_key_documents(&self, documents: Vec<KeyDocument>) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                for d in &documents {
                    let server = d.server.as_str();
                    execute!(tx, DOCUMENT_PUT, server, d.json.as_str(), d.valid_ms, d.fetched_ms)?;
                    for (key_id, key) in &d.keys {
                        execute!(tx, PUT, server, key_id.as_str(), key.public_key.as_str(), key.valid_ms, key.old)?;
                    }
                }
                tx.after_commit(move |store| {
                    documents.iter().for_each(|d| store.inner.server_keys.0.invalidate(&d.server));
                });
                Ok(())
            })
        })
        .await
    }
}
