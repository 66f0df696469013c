//! A transaction of another server (server-server API, "Transactions"): once, in bounds, one at a time a server.
//!
//! Answers are remembered, so that a transaction that comes again is answered and not done again. It is the same only if
//! it says the same: Dendrite tries again under the id of a transaction whose answer was lost, with whatever more it has
//! to say by then. What a restart forgets does no harm: events, to-device messages and device changes each know whether
//! they were there before.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hearth_base::{
    Error, Result,
    bill::{Bill, charged},
    cache::Lasting,
    tasks::Supervisor,
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::{
    budget::{self, Budget},
    edus::Edus,
    inbox::{Answers, Inbox},
};

/// Events and EDUs of a transaction.
const PDUS: usize = 50;
const EDUS: usize = 100;
/// Bytes of transactions of one server that wait; one may always.
const WAITING_BYTES: usize = 32 << 20;
/// Answers remembered, and for how long.
const ANSWERS: u64 = 5_000;
const REMEMBERED: Duration = Duration::from_secs(3_600);
/// Servers remembered.
const ORIGINS: u64 = 20_000;

/// What became of each event.
pub type Outcomes = Answers;

/// Takes transactions in.
pub struct Transactions {
    edus: Arc<Edus>,
    inbox: Arc<Inbox>,
    supervisor: Supervisor,
    origins: Lasting<OwnedServerName, Arc<Origin>>,
    /// With what they answer, as a number.
    answers: Lasting<(OwnedServerName, String), (u64, Arc<Outcomes>)>,
    hasher: RandomState,
}

impl std::fmt::Debug for Transactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transactions")
    }
}

/// One other server.
#[derive(Debug)]
struct Origin {
    /// One at a time: a server's events are in its order.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Of transactions that wait.
    bytes: AtomicUsize,
    budget: Mutex<Budget>,
}

impl Default for Origin {
    fn default() -> Self {
        let budget = Budget::new(budget::Settings::default(), Instant::now());
        Self { turn: Arc::default(), bytes: AtomicUsize::new(0), budget: Mutex::new(budget) }
    }
}

/// Bytes that wait.
struct Waiting<'o>(&'o Origin, usize);

impl<'o> Waiting<'o> {
    /// `None` if there are too many.
    fn begin(origin: &'o Origin, bytes: usize) -> Option<Self> {
        let held = origin.bytes.fetch_add(bytes, Ordering::AcqRel);
        let this = Self(origin, bytes);
        (held == 0 || held.saturating_add(bytes) <= WAITING_BYTES).then_some(this)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.bytes.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl Transactions {
    /// Made once.
    #[must_use]
    pub fn new(edus: Arc<Edus>, inbox: Arc<Inbox>, supervisor: Supervisor) -> Arc<Self> {
        Arc::new(Self {
            edus,
            inbox,
            supervisor,
            origins: Lasting::idle(ORIGINS, REMEMBERED),
            answers: Lasting::new(ANSWERS, REMEMBERED),
            hasher: RandomState::new(),
        })
    }

    /// Takes one in; it is done to its end even if the server hangs up. `delay` comes before it, in its turn: of a server
    /// that sends too many.
    ///
    /// # Errors
    /// 400 for more than a transaction may hold, 429 if too many wait; a fault if the database fails, so that the server
    /// sends it again.
    pub async fn receive(
        self: &Arc<Self>,
        from: &ServerName,
        id: &str,
        pdus: Vec<Box<RawValue>>,
        edus: Vec<Box<RawValue>>,
        delay: Option<Duration>,
    ) -> Result<Arc<Outcomes>> {
        if pdus.len() > PDUS {
            return Err(Error::invalid_param(format!("A transaction has {PDUS} PDUs at most")));
        }
        if edus.len() > EDUS {
            return Err(Error::invalid_param(format!("A transaction has {EDUS} EDUs at most")));
        }
        let name = (from.to_owned(), id.to_owned());
        let texts = |all: &[Box<RawValue>]| self.hasher.hash_one(all.iter().map(|raw| raw.get()).collect::<Vec<_>>());
        let content = self.hasher.hash_one([texts(&pdus), texts(&edus)]);
        if let Some(answer) = self.answered(&name, content) {
            return Ok(answer);
        }
        let origin = self.origins.get_with(from.to_owned(), Arc::default);
        let bytes = pdus.iter().chain(&edus).map(|raw| raw.get().len()).sum();
        let Some(waiting) = Waiting::begin(&origin, bytes) else {
            return Err(Error::limit_exceeded(Duration::from_secs(1)));
        };
        let (this, account) = (self.clone(), origin.clone());
        let turn = origin.turn.clone().lock_owned().await;
        tokio::time::sleep(delay.unwrap_or_default()).await;
        // It may have been done while this one waited.
        if let Some(answer) = self.answered(&name, content) {
            return Ok(answer);
        }
        let work = async move {
            let bill = Bill::default();
            let receiving = async {
                let outcomes =
                    if pdus.is_empty() { Outcomes::new() } else { this.inbox.receive(&name.0, pdus).await? };
                this.edus.receive(&name.0, &edus).await?;
                Ok(Arc::new(outcomes))
            };
            let done = charged(bill.clone(), Box::pin(receiving)).await;
            if let Ok(answer) = &done {
                this.answers.insert(name.clone(), (content, answer.clone()));
            }
            let rest = account.budget.lock().spend(bill.busy(), Instant::now());
            if rest.is_zero() {
                drop(turn);
            } else {
                tracing::info!(server = %name.0, busy = ?bill.busy(), ?rest, "a server's events cost much; it waits");
                let stopping = this.supervisor.stopping();
                this.supervisor.detach(async move {
                    tokio::select! {
                        () = tokio::time::sleep(rest) => {}
                        () = stopping.cancelled() => {}
                    }
                    drop(turn);
                });
            }
            done
        };
        let done = self.supervisor.job(work).await;
        drop(waiting);
        done
    }

    /// What a transaction was answered that said just this.
    fn answered(&self, name: &(OwnedServerName, String), content: u64) -> Option<Arc<Outcomes>> {
        self.answers.get(name).filter(|(said, _)| *said == content).map(|(_, answer)| answer)
    }
}
