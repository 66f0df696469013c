//! How much one other server may have us do (`rc_federation`): so many requests at the same time, so many in a window
//! before each is delayed, so many waiting before more are refused.
//!
//! Counted by server once a request has proved whose it is, since anybody can claim to be anybody. What the proof itself
//! costs grows with the body, so bytes are counted by address before. A server that asks too much too often lets its place
//! rest after each answer, longer the longer that took; and so does one whose answers kept threads busy for more than its
//! [`Budget`]: however hard a question is, its server has a bounded share of us.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use hearth_base::{Error, Result, bill::Bill, cache::Lasting, clock::Clock, tasks::Supervisor};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{self, Budget};

/// How the requests of one other server are held back.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The window in which requests are counted.
    pub window: Duration,
    /// So many in a window before each is delayed.
    pub sleep_limit: u32,
    /// The delay.
    pub sleep_delay: Duration,
    /// So many waiting before more are refused.
    pub reject_limit: u32,
    /// So many at the same time.
    pub concurrent: u32,
    /// What all of them may cost. Transactions have a budget of their own.
    pub budget: budget::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(1),
            sleep_limit: 10,
            sleep_delay: Duration::from_millis(500),
            reject_limit: 50,
            concurrent: 3,
            budget: budget::Settings::default(),
        }
    }
}

/// Servers and addresses remembered, and for how long.
const REMEMBERED: u64 = 20_000;
const IDLE: Duration = Duration::from_secs(3_600);
/// A place of a hasty server rests so many times as long as it was taken, at most so long.
const REST: u32 = 12;
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Bytes of bodies that one address may send a second, and at once.
const BYTES: u64 = 4 << 20;
const BURST: u64 = 64 << 20;
/// Longer than this nobody is kept waiting for their turn to send.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lets other servers in.
#[derive(Debug)]
pub struct Gate {
    settings: Settings,
    clock: Clock,
    supervisor: Supervisor,
    guests: Lasting<OwnedServerName, Arc<Guest>>,
    /// For each network the time, µs, at which what it sent is forgiven.
    scales: Lasting<u128, Arc<Mutex<u64>>>,
}

/// One other server.
#[derive(Debug)]
struct Guest {
    asking: Arc<Semaphore>,
    telling: Arc<Semaphore>,
    waiting: AtomicU32,
    /// When the window began, ms, and how many came since.
    window: Mutex<(u64, u32)>,
    budget: Mutex<Budget>,
}

/// What a request is about. Each kind has places of its own: of what it is told a server may have to ask the teller back,
/// and two that tell each other something would wait for each other for ever, if what they tell took the places of what
/// they ask. Whoever is asked answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// It wants to know something.
    Asks,
    /// It tells something: events, an invite, a join.
    Tells,
}

/// One of those who wait.
struct Waiting<'g>(&'g Guest);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place that a request has while it is answered. Clones are the same.
#[derive(Clone, Debug)]
pub struct Pass(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    place: Option<OwnedSemaphorePermit>,
    guest: Arc<Guest>,
    begun: Instant,
    /// How long the server is delayed at present.
    delay: Option<Duration>,
    bill: Bill,
    supervisor: Supervisor,
}

impl Pass {
    /// How long each request of the server is delayed, if it makes too many.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.0.delay
    }

    /// What the answer costs is to be put on this.
    #[must_use]
    pub fn bill(&self) -> Bill {
        self.0.bill.clone()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let hasty = self.delay.map_or(Duration::ZERO, |_| (self.begun.elapsed() * REST).min(LONGEST_REST));
        let rest = hasty.max(self.guest.budget.lock().spend(self.bill.busy(), Instant::now()));
        if rest.is_zero() {
            return;
        }
        let stopping = self.supervisor.stopping();
        self.supervisor.detach(async move {
            // At the stop nobody comes after.
            let _ = tokio::time::timeout(rest, stopping.cancelled()).await;
            drop(place);
        });
    }
}

impl Gate {
    /// Made once.
    #[must_use]
    pub fn new(settings: Settings, clock: Clock, supervisor: Supervisor) -> Self {
        let guests = Lasting::idle(REMEMBERED, IDLE);
        let scales = Lasting::idle(REMEMBERED, IDLE);
        Self { settings, clock, supervisor, guests, scales }
    }

    fn guest(&self, server: &ServerName) -> Arc<Guest> {
        self.guests.get_with(server.to_owned(), || {
            let places = || Arc::new(Semaphore::new(self.settings.concurrent.max(1) as usize));
            Arc::new(Guest {
                asking: places(),
                telling: places(),
                waiting: AtomicU32::new(0),
                window: Mutex::default(),
                budget: Mutex::new(Budget::new(self.settings.budget, Instant::now())),
            })
        })
    }

    /// Waits until an address may send a body of that many bytes.
    ///
    /// # Errors
    /// 429 if that would take long.
    pub async fn weigh(&self, from: IpAddr, bytes: u64) -> Result<()> {
        let scale = self.scales.get_with(network(from), Arc::default);
        let wait = {
            let now = self.clock.steady_ms().saturating_mul(1000);
            let mut due = scale.lock();
            let next = (*due).max(now).saturating_add(bytes.saturating_mul(1_000_000) / BYTES);
            let wait = Duration::from_micros(next.saturating_sub(now).saturating_sub(BURST * 1_000_000 / BYTES));
            if wait > PATIENCE {
                return Err(Error::limit_exceeded(wait));
            }
            *due = next;
            wait
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Whether no more of a server's requests would be let in, so that one need not be looked at.
    ///
    /// # Errors
    /// 429 if so.
    pub fn check(&self, server: &ServerName) -> Result<()> {
        match self.guests.get(server) {
            Some(guest) if guest.waiting.load(Ordering::Acquire) >= self.settings.reject_limit => Err(self.too_many()),
            _ => Ok(()),
        }
    }

    fn too_many(&self) -> Error {
        Error::limit_exceeded(self.settings.window.max(self.settings.sleep_delay))
    }

    /// Lets a request of a server in, when its turn has come.
    ///
    /// # Errors
    /// 429 if too many wait.
    pub async fn enter(&self, server: &ServerName, errand: Errand) -> Result<Pass> {
        let guest = self.guest(server);
        let before = guest.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(&guest);
        if before >= self.settings.reject_limit.max(1) {
            return Err(self.too_many());
        }
        let delay = self.is_hasty(&guest).then_some(self.settings.sleep_delay);
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let places = match errand {
            Errand::Asks => &guest.asking,
            Errand::Tells => &guest.telling,
        };
        let place = places.clone().acquire_owned().await.map_err(|e| Error::fault("waiting for a place", e))?;
        drop(waiting);
        let (begun, bill, supervisor) = (Instant::now(), Bill::default(), self.supervisor.clone());
        Ok(Pass(Arc::new(Taken { place: Some(place), guest, begun, delay, bill, supervisor })))
    }

    /// Counts a request; whether there were too many of late.
    fn is_hasty(&self, guest: &Guest) -> bool {
        let now = self.clock.steady_ms();
        let window = u64::try_from(self.settings.window.as_millis()).unwrap_or(u64::MAX);
        let mut counted = guest.window.lock();
        if now.saturating_sub(counted.0) >= window {
            *counted = (now, 0);
        }
        counted.1 = counted.1.saturating_add(1);
        counted.1 > self.settings.sleep_limit
    }
}

/// An address as one number; of IPv6 the network counts, since a host has 2^64 of them.
fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::{FutureExt, future::join_all};
    use ruma::server_name;

    use super::*;

    fn gate(settings: Settings) -> Arc<Gate> {
        Arc::new(Gate::new(settings, Clock::new(), Supervisor::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_so_many_waiting() {
        let gate = gate(Settings { concurrent: 2, reject_limit: 3, ..Settings::default() });
        let (one, two) = (server_name!("one.org"), server_name!("two.org"));
        let inside = [gate.enter(one, Errand::Tells).await.unwrap(), gate.enter(one, Errand::Tells).await.unwrap()];
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(gate.enter(one, Errand::Tells))).collect();
        assert!(waiting.iter_mut().all(|w| w.now_or_never().is_none()));
        assert_eq!(gate.check(one).unwrap_err().errcode(), "M_LIMIT_EXCEEDED");
        assert_eq!(gate.enter(one, Errand::Tells).await.unwrap_err().errcode(), "M_LIMIT_EXCEEDED");
        gate.check(two).unwrap();
        gate.enter(two, Errand::Tells).await.unwrap();
        drop(inside);
        let let_in = join_all(waiting.drain(..2)).await;
        assert!(let_in.iter().all(Result::is_ok));
        gate.check(one).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_takes_no_place_of_what_is_asked() {
        let gate = gate(Settings { concurrent: 1, ..Settings::default() });
        let server = server_name!("one.org");
        let _told = gate.enter(server, Errand::Tells).await.unwrap();
        let asked = gate.enter(server, Errand::Asks).now_or_never();
        drop(asked.unwrap().unwrap());
        assert!(gate.enter(server, Errand::Tells).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_hasty_are_delayed_and_their_places_rest() {
        let gate = gate(Settings { concurrent: 1, sleep_limit: 2, ..Settings::default() });
        let server = server_name!("one.org");
        for _ in 0..2 {
            assert_eq!(gate.enter(server, Errand::Asks).await.unwrap().delay(), None);
        }
        let begun = tokio::time::Instant::now();
        let pass = gate.enter(server, Errand::Asks).await.unwrap();
        assert_eq!(pass.delay(), Some(Duration::from_millis(500)));
        assert!(begun.elapsed() >= Duration::from_millis(500));
        std::thread::sleep(Duration::from_millis(10));
        drop(pass);
        let begun = tokio::time::Instant::now();
        drop(gate.enter(server, Errand::Asks).await.unwrap());
        // The next was delayed in any case; the place was free again by then.
        assert!(begun.elapsed() >= Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_makes_nobody_hasty() {
        let clock = Clock::new();
        let settings = Settings { sleep_limit: 1, ..Settings::default() };
        let gate = Arc::new(Gate::new(settings, clock.clone(), Supervisor::new()));
        let (server, address) = (server_name!("one.org"), "192.0.2.1".parse().unwrap());
        gate.weigh(address, BURST).await.unwrap();
        assert_eq!(gate.enter(server, Errand::Asks).await.unwrap().delay(), None);
        clock.set_back_ms(3_600_000);
        clock.advance_ms(60_000);
        gate.weigh(address, BURST).await.unwrap();
        assert_eq!(gate.enter(server, Errand::Asks).await.unwrap().delay(), None, "another window");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_what_is_dear_waits_and_nobody_else_does() {
        let budget = budget::Settings { burst: Duration::ZERO, share: 1_000 };
        let gate = gate(Settings { concurrent: 1, budget, ..Settings::default() });
        let (one, two) = (server_name!("one.org"), server_name!("two.org"));
        let pass = gate.enter(one, Errand::Asks).await.unwrap();
        let work = async { std::thread::sleep(Duration::from_millis(20)) };
        hearth_base::bill::charged(pass.bill(), Box::pin(work)).await;
        drop(pass);
        let begun = tokio::time::Instant::now();
        drop(gate.enter(two, Errand::Asks).await.unwrap());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop(gate.enter(one, Errand::Asks).await.unwrap());
        assert!(begun.elapsed() >= Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_sends_no_more_than_can_be_looked_at() {
        let gate = gate(Settings::default());
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let begun = tokio::time::Instant::now();
        gate.weigh(one, BURST).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        gate.weigh(one, BYTES).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(900));
        gate.weigh(two, BYTES).await.unwrap();
        let begun = tokio::time::Instant::now();
        gate.weigh(one, BYTES * 60).await.unwrap_err();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
