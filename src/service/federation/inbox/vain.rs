//! Which servers were asked in vain of late for events and states that are missing here. Whoever tells nothing of use is
//! asked less, by all searches together: what it sends would have us ask for more and more otherwise, and each answer cost
//! a call. Who cannot be reached is left alone anyway ([`crate::federation::health`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_base::cache::Lasting;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};

/// Calls in vain before a server is asked no more, and how long it takes until one of them is forgotten.
const MOST: u32 = 100;
const FORGOTTEN: Duration = Duration::from_secs(1);
/// After so many a call that fails is not tried a second time.
const SOME: u32 = 10;
/// Servers remembered.
const SERVERS: u64 = 20_000;

/// What servers told.
#[derive(Debug)]
pub(super) struct Vain {
    servers: Lasting<OwnedServerName, Arc<Mutex<Tally>>>,
}

/// One server.
#[derive(Debug)]
struct Tally {
    count: u32,
    /// Up to here calls were forgotten.
    at: Instant,
}

impl Tally {
    fn now(&mut self, now: Instant) -> u32 {
        let forgotten = now.saturating_duration_since(self.at).as_secs() / FORGOTTEN.as_secs().max(1);
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        self.count = self.count.saturating_sub(forgotten);
        self.at = if self.count == 0 { now } else { self.at + FORGOTTEN.saturating_mul(forgotten) };
        self.count
    }
}

/// How a server is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// As any other.
    Well,
    /// Once.
    Once,
    /// Not now.
    Never,
}

impl Vain {
    /// Made once.
    pub(super) fn new() -> Self {
        Self { servers: Lasting::idle(SERVERS, FORGOTTEN.saturating_mul(MOST)) }
    }

    /// How to ask a server.
    pub(super) fn about(&self, server: &ServerName) -> Asked {
        match self.servers.get(server).map_or(0, |tally| tally.lock().now(Instant::now())) {
            MOST.. => Asked::Never,
            SOME.. => Asked::Once,
            _ => Asked::Well,
        }
    }

    /// A server answered something of use, or not.
    pub(super) fn note(&self, server: &ServerName, useful: bool) {
        let tally = match (useful, self.servers.get(server)) {
            (_, Some(tally)) => tally,
            (true, None) => return,
            (false, None) => self
                .servers
                .get_with(server.to_owned(), || Arc::new(Mutex::new(Tally { count: 0, at: Instant::now() }))),
        };
        let mut tally = tally.lock();
        let count = tally.now(Instant::now());
        tally.count = if useful { count.saturating_sub(1) } else { count.saturating_add(1).min(MOST) };
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn who_tells_nothing_is_asked_less_and_others_are_not() {
        let (vain, [one, two]) = (Vain::new(), [server_name!("one.org"), server_name!("two.org")]);
        for n in 0..MOST {
            let expected = if n < SOME { Asked::Well } else { Asked::Once };
            assert_eq!(vain.about(one), expected, "after {n}");
            vain.note(one, false);
        }
        assert_eq!((vain.about(one), vain.about(two)), (Asked::Never, Asked::Well));
        vain.note(one, true);
        assert_eq!(vain.about(one), Asked::Once, "who tells something again is asked again");
        let begun = Instant::now();
        let mut tally = Tally { count: MOST, at: begun };
        assert_eq!(tally.now(begun + FORGOTTEN.saturating_mul(5)), MOST - 5);
        assert_eq!(tally.now(begun + FORGOTTEN.saturating_mul(5)), MOST - 5);
        assert_eq!(tally.now(begun + FORGOTTEN.saturating_mul(1_000)), 0);
    }
}
