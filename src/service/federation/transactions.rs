//! A transaction of another server (server-server API, "Transactions"): once, in bounds, one at a time a server.
//!
//! Answers are remembered, so that a transaction that comes again is answered and not done again. What a restart
//! forgets does no harm: events, to-device messages and device changes each know whether they were there before.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hearth_base::{Error, Result, clock::Clock, tasks::Supervisor};
use moka::sync::Cache;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::{edus::Edus, inbox::Inbox};

/// How the transactions of one other server are held back (`rc_federation`).
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The window in which transactions are counted.
    pub window: Duration,
    /// So many in a window before each is delayed.
    pub sleep_limit: u32,
    /// The delay.
    pub sleep_delay: Duration,
    /// So many waiting before more are refused.
    pub reject_limit: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(1),
            sleep_limit: 10,
            sleep_delay: Duration::from_millis(500),
            reject_limit: 50,
        }
    }
}

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
pub type Outcomes = BTreeMap<OwnedEventId, Result<(), String>>;

/// Takes transactions in.
pub struct Transactions {
    edus: Arc<Edus>,
    inbox: Arc<Inbox>,
    clock: Clock,
    supervisor: Supervisor,
    settings: Settings,
    origins: Cache<OwnedServerName, Arc<Origin>>,
    answers: Cache<(OwnedServerName, String), Arc<Outcomes>>,
}

impl std::fmt::Debug for Transactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transactions({:?})", self.settings)
    }
}

/// One other server.
#[derive(Debug, Default)]
struct Origin {
    /// One at a time: a server's events are in its order.
    turn: Arc<tokio::sync::Mutex<()>>,
    waiting: AtomicU32,
    waiting_bytes: AtomicUsize,
    /// When the window began, ms, and how many came since.
    window: Mutex<(u64, u32)>,
}

/// Counts who waits for a turn, and how much they hold.
struct Waiting<'o>(&'o Origin, usize);

impl<'o> Waiting<'o> {
    /// `None` if there are too many.
    fn begin(origin: &'o Origin, bytes: usize, most: u32) -> Option<Self> {
        let waiting = origin.waiting.fetch_add(1, Ordering::AcqRel);
        let held = origin.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        let this = Self(origin, bytes);
        (waiting == 0 || (waiting < most && held.saturating_add(bytes) <= WAITING_BYTES)).then_some(this)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.waiting_bytes.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl Transactions {
    /// Made once.
    #[must_use]
    pub fn new(
        edus: Arc<Edus>,
        inbox: Arc<Inbox>,
        clock: Clock,
        supervisor: Supervisor,
        settings: Settings,
    ) -> Arc<Self> {
        Arc::new(Self {
            edus,
            inbox,
            clock,
            supervisor,
            settings,
            origins: Cache::builder().max_capacity(ORIGINS).time_to_idle(REMEMBERED).build(),
            answers: Cache::builder().max_capacity(ANSWERS).time_to_live(REMEMBERED).build(),
        })
    }

    /// Takes one in; it is done to its end even if the server hangs up.
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
    ) -> Result<Arc<Outcomes>> {
        if pdus.len() > PDUS {
            return Err(Error::invalid_param(format!("A transaction has {PDUS} PDUs at most")));
        }
        if edus.len() > EDUS {
            return Err(Error::invalid_param(format!("A transaction has {EDUS} EDUs at most")));
        }
        let name = (from.to_owned(), id.to_owned());
        if let Some(answer) = self.answers.get(&name) {
            return Ok(answer);
        }
        let origin = self.origins.get_with(from.to_owned(), Arc::default);
        let bytes = pdus.iter().chain(&edus).map(|raw| raw.get().len()).sum();
        let Some(waiting) = Waiting::begin(&origin, bytes, self.settings.reject_limit) else {
            return Err(Error::limit_exceeded(self.settings.window.max(self.settings.sleep_delay)));
        };
        if self.is_hasty(&origin) {
            tokio::time::sleep(self.settings.sleep_delay).await;
        }
        let this = self.clone();
        let turn = origin.turn.clone().lock_owned().await;
        // It may have been done while this one waited.
        if let Some(answer) = self.answers.get(&name) {
            return Ok(answer);
        }
        let work = async move {
            let outcomes = if pdus.is_empty() { Outcomes::new() } else { this.inbox.receive(&name.0, pdus).await? };
            this.edus.receive(&name.0, &edus).await?;
            let answer = Arc::new(outcomes);
            this.answers.insert(name, answer.clone());
            drop(turn);
            Ok(answer)
        };
        let done = self.supervisor.job(work).await;
        drop(waiting);
        done
    }

    /// Counts a transaction; whether there were too many of late.
    fn is_hasty(&self, origin: &Origin) -> bool {
        let now = self.clock.now_ms();
        let window = u64::try_from(self.settings.window.as_millis()).unwrap_or(u64::MAX);
        let mut counted = origin.window.lock();
        if now.saturating_sub(counted.0) >= window {
            *counted = (now, 0);
        }
        counted.1 = counted.1.saturating_add(1);
        counted.1 > self.settings.sleep_limit
    }
}
