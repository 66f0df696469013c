//! What we tell third parties about keys of servers (server-server API, "Querying Keys Through Another Server").
//!
//! Documents we have are handed on with our signature beside that of their server. For what we do not have we ask, but
//! little for each question and little at once: whoever asks is anybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use hearth_base::{Doing, Error, Result};
use hearth_store::server_keys::KeptDocument;
use ruma::{CanonicalJsonObject, OwnedServerName};
use serde_json::value::RawValue;

use super::{ServerKeys, document};

/// Servers in one question.
const MAX_SERVERS: usize = 200;
/// Servers that are asked for one question.
const MAX_FETCHES: usize = 10;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is wanted of a server.
#[derive(Clone, Debug, Default)]
pub struct Criteria {
    /// Key ids and until when they must be valid, ms (now, if that is not said). None is all that it has.
    pub keys: BTreeMap<String, Option<i64>>,
    /// Until when a key must be valid if none is named, ms.
    pub until: Option<i64>,
}

impl ServerKeys {
    /// The documents of servers, signed by us as well. Servers of which nothing can be had are left out.
    ///
    /// # Errors
    /// 413 for too many servers.
    pub async fn vouch(&self, wanted: BTreeMap<OwnedServerName, Criteria>) -> Result<Vec<Box<RawValue>>> {
        if wanted.len() > MAX_SERVERS {
            return Err(Error::too_large(format!("{MAX_SERVERS} servers may be asked for at once")));
        }
        let own = self.signer().server_name();
        let known = self.theirs_store().server_keys(wanted.keys().map(|s| &**s)).await?;
        let now = self.now();
        let lacking = wanted.iter().filter(|(server, criteria)| {
            let keys = known.get(*server);
            let is_good =
                |id: &String, until: i64| keys.and_then(|k| k.get(id)).is_some_and(|k| k.old || k.valid_ms >= until);
            let is_met = if criteria.keys.is_empty() {
                let until = criteria.until.unwrap_or(now);
                keys.is_some_and(|k| k.values().any(|k| !k.old && k.valid_ms >= until))
            } else {
                criteria.keys.iter().all(|(id, until)| is_good(id, until.unwrap_or(now)))
            };
            let may_ask = if keys.is_some_and(|k| !k.is_empty()) {
                self.theirs.may_ask_again(server)
            } else {
                self.theirs.may_ask(server)
            };
            *server != own && !is_met && may_ask
        });
        let fetches: Vec<OwnedServerName> = lacking.map(|(server, _)| server.clone()).take(MAX_FETCHES).collect();
        let fetching = stream::iter(fetches).for_each_concurrent(MAX_FETCHES, |s| self.theirs.fetch(s, false));
        // Who is not quick enough is in the answer to the next question.
        let _ = tokio::time::timeout(PATIENCE, fetching).await;
        let mut documents = Vec::new();
        for (server, criteria) in &wanted {
            if server == own {
                let json = String::from_utf8(self.document()?.to_vec()).doing("reading our own keys")?;
                documents.push(self.signed_too(&json)?);
                continue;
            }
            let kept = self.theirs_store().key_documents(server).await?;
            for document in chosen(&kept, criteria) {
                documents.push(self.signed_too(&document.json)?);
            }
        }
        Ok(documents)
    }

    fn theirs_store(&self) -> &hearth_store::Store {
        self.theirs.store()
    }

    fn signed_too(&self, json: &str) -> Result<Box<RawValue>> {
        debug_assert!(json.len() <= document::MAX_BYTES, "only what was checked is kept");
        let mut object: CanonicalJsonObject = serde_json::from_str(json).doing("reading a key document")?;
        for signer in &self.notary {
            signer.sign_json(&mut object)?;
        }
        let text = serde_json::to_string(&object).doing("writing a key document")?;
        RawValue::from_string(text).doing("writing a key document")
    }
}

/// Of a server's documents, the newest first, those with the keys that are wanted, each key in its newest; the newest
/// if none is named or known.
fn chosen<'d>(kept: &'d [KeptDocument], criteria: &Criteria) -> Vec<&'d KeptDocument> {
    let newest_with = |id: &String| kept.iter().position(|document| document.key_ids.contains(id));
    let places: BTreeSet<usize> = criteria.keys.keys().filter_map(newest_with).collect();
    let chosen: Vec<_> = places.into_iter().filter_map(|place| kept.get(place)).collect();
    if chosen.is_empty() { kept.first().into_iter().collect() } else { chosen }
}
