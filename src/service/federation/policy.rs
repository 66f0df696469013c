//! Policy servers (server-server API, "Policy Servers"): a room may name a server that is to sign each of its events. Ours
//! are sent with its signature or not at all; those of others that it does not sign are soft-failed.
//!
//! Whom a room asks follows from its current state. It is asked before an event has a place ([`crate::events`]), or before
//! the room's lane is taken ([`super::inbox`]), so that a slow policy server keeps nobody waiting but who asks.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_base::{
    Error, Result,
    cache::Lasting,
    ids::{EventNid, KeyNid, RoomNid},
};
use hearth_remote::Failure;
use hearth_rules::{
    event::{
        Pdu, PolicyServer,
        policy::{EVENT_TYPES, KEY_ID},
    },
    versions::RoomVersion,
};
use hearth_store::{Store, rooms::Room, state::StateMap};
use http::{StatusCode, header::CONTENT_TYPE};
use ruma::{OwnedEventId, OwnedServerName};
use serde_json::Value;
use tokio::sync::{AcquireError, Semaphore};

use super::{Federation, servers::Servers};

/// How long a policy server may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of its answer.
const MAX_ANSWER: usize = 64 << 10;
/// Questions under way: all, those to one server, and those of one transaction. Whoever does not get their turn within
/// [`PATIENCE`] has no answer, so that a server that hangs keeps nobody waiting but those who ask it.
const AT_ONCE: usize = 256;
const EACH_SERVER: usize = 8;
const EACH: usize = 4;
/// Servers whose questions are counted. One that is forgotten is counted anew.
const SERVERS: u64 = 10_000;

/// Where to ask, and where those ask who are older than the specification (MSC4284).
const PATHS: [&str; 2] = ["/_matrix/policy/v1/sign", "/_matrix/policy/unstable/org.matrix.msc4284/sign"];

/// Asks policy servers.
#[derive(Debug)]
pub struct Policy {
    store: Store,
    federation: Arc<Federation>,
    servers: Arc<Servers>,
    /// Of the state entries that name one, the one that counts first.
    keys: Vec<KeyNid>,
    permits: Semaphore,
    turns: Lasting<OwnedServerName, Arc<Semaphore>>,
}

impl Policy {
    /// Made once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn new(store: Store, federation: Arc<Federation>, servers: Arc<Servers>) -> Result<Self> {
        let mut keys = Vec::with_capacity(EVENT_TYPES.len());
        for event_type in EVENT_TYPES {
            keys.push(store.intern_key(event_type, "").await?);
        }
        let turns = Lasting::idle(SERVERS, 2 * PATIENCE);
        Ok(Self { store, federation, servers, keys, permits: Semaphore::new(AT_ONCE), turns })
    }

    /// The events of a state that may name a policy server.
    pub(crate) fn entries<'a>(&'a self, state: &'a StateMap) -> impl Iterator<Item = EventNid> + 'a {
        self.keys.iter().filter_map(|key| state.get(key).copied())
    }

    /// The policy server that such an event names, if it is in the room. That we are it ourselves is of no consequence: we
    /// are none, and nobody could say anything there any more.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn named_by(&self, room: RoomNid, event: &Pdu) -> Result<Option<PolicyServer>> {
        let Some(server) = PolicyServer::of(event.content_json()) else { return Ok(None) };
        let here = *server.via() != *self.federation.name() && self.servers.is_in(server.via(), room).await?;
        Ok(here.then_some(server))
    }

    /// The policy server of a room, if it has one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of_room(&self, room: &Room) -> Result<Option<PolicyServer>> {
        let state = self.store.snapshot(room.head.snap).await?;
        for nid in self.entries(&state) {
            if let Some(event) = self.store.event(nid).await?
                && let Some(server) = self.named_by(room.nid, &event.pdu).await?
            {
                return Ok(Some(server));
            }
        }
        Ok(None)
    }

    /// The event with the policy server's signature, which is asked for if it is not there yet.
    ///
    /// # Errors
    /// What the policy server said, word for word (spec: "Validating Policy Server signatures"); 502 and 504 if it cannot
    /// be asked.
    pub async fn signed(&self, server: &PolicyServer, pdu: Arc<Pdu>, version: &RoomVersion) -> Result<Arc<Pdu>> {
        if server.approves(&pdu, version) {
            return Ok(pdu);
        }
        let turn = self.turns.get_with(server.via().to_owned(), || Arc::new(Semaphore::new(EACH_SERVER)));
        let taken =
            tokio::time::timeout(PATIENCE, async { Ok((turn.acquire().await?, self.permits.acquire().await?)) });
        let taken: Result<_, AcquireError> = match taken.await {
            Ok(taken) => taken,
            Err(_) => return Err(said(server, &Failure::TimedOut(PATIENCE))),
        };
        let _taken = taken.map_err(|e| Error::fault("asking a policy server", e))?;
        let signatures = self.ask(server, &pdu).await.map_err(|e| said(server, &e))?;
        let signature = signatures.ok_or_else(|| unsigned(server, "it gave no signature"))?;
        server.add_signature(&pdu, &signature, version).map(Arc::new).map_err(|e| unsigned(server, e))
    }

    async fn ask(&self, server: &PolicyServer, pdu: &Pdu) -> Result<Option<String>, Failure> {
        let [path, older] = PATHS;
        let answer = match self.ask_at(path, server, pdu).await {
            Err(failure) if failure.is_unrecognized() => self.ask_at(older, server, pdu).await,
            answer => answer,
        };
        let signatures: Value = serde_json::from_slice(&answer?).map_err(|e| Failure::Nonsense(e.to_string()))?;
        Ok(signatures[server.via().as_str()][KEY_ID].as_str().map(str::to_owned))
    }

    async fn ask_at(&self, path: &str, server: &PolicyServer, pdu: &Pdu) -> Result<Bytes, Failure> {
        let request = http::Request::post(path).header(CONTENT_TYPE, "application/json");
        let request = request.body(Bytes::from(pdu.json().to_owned())).map_err(|e| Failure::Ours(e.to_string()))?;
        let request = self.federation.remote().sign(server.via(), request)?;
        let patience = self.federation.once().within(PATIENCE).up_to(MAX_ANSWER);
        Ok(self.federation.consult(server.via(), request, patience).await?.into_body())
    }

    /// Has the room's policy server, if there is one, look at events that came; those it signs have its signature then.
    /// Gives those that it does not sign, or cannot be asked about.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) async fn review(
        &self,
        room: &Room,
        version: &'static RoomVersion,
        events: &mut HashMap<OwnedEventId, Pdu>,
    ) -> Result<HashSet<OwnedEventId>> {
        let Some(server) = self.of_room(room).await? else { return Ok(HashSet::new()) };
        let server = &server;
        let unsigned: Vec<Arc<Pdu>> =
            events.values().filter(|pdu| !server.approves(pdu, version)).cloned().map(Arc::new).collect();
        // Boxed: the compiler cannot see by itself that such a future may be sent to another thread.
        let looked_at = |pdu: Arc<Pdu>| -> BoxFuture<'_, (OwnedEventId, Result<Arc<Pdu>>)> {
            Box::pin(async move { (pdu.event_id().to_owned(), self.signed(server, pdu, version).await) })
        };
        let mut refused = HashSet::new();
        let mut asked = stream::iter(unsigned).map(looked_at).buffer_unordered(EACH);
        while let Some((event_id, signed)) = asked.next().await {
            match signed {
                Ok(pdu) => drop(events.insert(event_id, Arc::unwrap_or_clone(pdu))),
                Err(e) => {
                    tracing::debug!(event.id = %event_id, error = %e, "not signed by the policy server");
                    refused.insert(event_id);
                }
            }
        }
        Ok(refused)
    }
}

fn unsigned(server: &PolicyServer, why: impl std::fmt::Display) -> Error {
    let why: String = why.to_string().chars().take(200).collect();
    Error::forbidden(format!("The policy server {} did not sign the event: {why}", server.via()))
}

/// What a user is told of a refusal: its own words, unless they speak of tokens.
fn said(server: &PolicyServer, failure: &Failure) -> Error {
    match failure.refusal() {
        Some(r) if r.status == StatusCode::TOO_MANY_REQUESTS => {
            Error::limit_exceeded(r.retry_after.unwrap_or(Duration::from_secs(1)))
        }
        _ => failure.told(server.via().as_str()),
    }
}
