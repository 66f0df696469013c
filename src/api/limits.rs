//! Rate limits: Synapse's `rc_*`, keyed by address, user or room.
//!
//! The algorithm is GCRA: one timestamp a key says when its burst is used up. Keys are kept in bounded caches, since a
//! stranger chooses them; a forgotten key starts afresh. Own code in place of a crate, because a limit must be asked
//! without being charged (failed logins) and its keys must be bounded.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hearth_base::{Error, Result, clock::Clock, requester::Requester};
use moka::{ops::compute::Op, sync::Cache};

/// So many at once, and so many a second after that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Actions a second in the long run.
    pub per_second: f64,
    /// Actions at once before it bites.
    pub burst: f64,
}

impl Rate {
    /// So many a second, so many at once.
    #[must_use]
    pub const fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst }
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident / $variant:ident = $per_second:literal, $burst:literal;)+) => {
        /// What may be done how often; the defaults are Synapse's.
        #[derive(Clone, Debug)]
        pub struct Settings {
            /// Whether anything is limited at all.
            pub enabled: bool,
            /// Keys remembered for each limit.
            pub keys: u64,
            /// Whether redactions of others' events count by themselves, and not as messages.
            pub redactions_apart: bool,
            $($(#[$doc])* pub $name: Rate,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { enabled: true, keys: 20_000, redactions_apart: false, $($name: Rate::new($per_second, $burst),)+ }
            }
        }

        /// The limits by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit {
            $($(#[$doc])* $variant,)+
        }

        impl Limits {
            /// Limits as configured.
            #[must_use]
            pub fn new(settings: &Settings, clock: Clock) -> Self {
                let lines = if settings.enabled {
                    vec![$(Line::new(settings.$name, settings.keys),)+]
                } else {
                    Vec::new()
                };
                Self { lines, clock, hasher: std::hash::RandomState::new() }
            }
        }
    };
}

limits! {
    /// Messages of a user.
    message / Message = 0.2, 10.0;
    /// Registrations from an address.
    registration / Registration = 0.17, 3.0;
    /// Authentications begun by a user, or from an address by somebody unknown; not configurable.
    uia_begin / UiaBegin = 1.0, 30.0;
    /// Registration tokens checked from an address.
    registration_token_validity / RegistrationTokenValidity = 0.1, 5.0;
    /// Logins from an address.
    login_address / LoginAddress = 0.003, 5.0;
    /// Logins to an account.
    login_account / LoginAccount = 0.003, 5.0;
    /// Failed logins to an account.
    login_failed / LoginFailed = 0.17, 3.0;
    /// Redactions of others' events by a user, where they count by themselves.
    admin_redaction / AdminRedaction = 0.2, 10.0;
    /// Joins of a user to rooms the server is in.
    joins_local / JoinsLocal = 0.1, 10.0;
    /// Joins of a user to other rooms.
    joins_remote / JoinsRemote = 0.01, 10.0;
    /// Joins to a room.
    joins_per_room / JoinsPerRoom = 1.0, 10.0;
    /// Validations of e-mail addresses and phone numbers from an address.
    threepid_validation / ThreepidValidation = 0.003, 5.0;
    /// Invites to a room.
    invites_per_room / InvitesPerRoom = 0.3, 10.0;
    /// Invites that a user gets.
    invites_per_user / InvitesPerUser = 0.003, 5.0;
    /// Invites that a user sends.
    invites_per_issuer / InvitesPerIssuer = 0.3, 10.0;
    /// Invites of a user to e-mail addresses and phone numbers.
    third_party_invite / ThirdPartyInvite = 0.0025, 5.0;
    /// Media announced by a user.
    media_create / MediaCreate = 10.0, 50.0;
    /// Previews of links asked for by a user; not configurable.
    preview / Preview = 2.0, 200.0;
    /// Requests of a user for others' keys.
    key_requests / KeyRequests = 20.0, 100.0;
    /// Questions of an address for keys of other servers; not configurable.
    notary / Notary = 5.0, 100.0;
    /// Addresses bound to users, as an address (of an identity server) tells; not configurable.
    bindings / Bindings = 1.0, 30.0;
    /// Presence set by a user.
    presence / Presence = 0.1, 1.0;
    /// Delayed events managed by a user.
    delayed_event_mgmt / DelayedEventMgmt = 1.0, 5.0;
    /// Reports by a user.
    reports / Reports = 1.0, 5.0;
    /// Rooms created by a user.
    room_creation / RoomCreation = 0.016, 10.0;
    /// Searches of the user directory by a user.
    user_directory / UserDirectory = 0.016, 200.0;
    /// Profiles asked for by a user.
    profile / Profile = 1.0, 500.0;
}

/// All limits with their memory.
pub struct Limits {
    lines: Vec<Line>,
    clock: Clock,
    hasher: std::hash::RandomState,
}

/// One limit: for each key the time, µs since 1970, at which it owes nothing any more.
struct Line {
    interval_us: u64,
    /// How far ahead of now that time may be after an action.
    tolerance_us: u64,
    due: Cache<u64, u64>,
}

impl Line {
    fn new(rate: Rate, keys: u64) -> Self {
        let interval_us = if rate.per_second > 0.0 { (1e6 / rate.per_second) as u64 } else { u64::MAX / 4096 };
        // No whole action allowed at once is still one: a limit of nothing would be a closed door.
        let tolerance_us = interval_us.saturating_mul(rate.burst.clamp(1.0, 4096.0) as u64);
        // A key that owes nothing is as good as forgotten.
        let idle = Duration::from_micros(tolerance_us.saturating_add(interval_us)).min(Duration::from_secs(864_000));
        Self { interval_us, tolerance_us, due: Cache::builder().max_capacity(keys).time_to_idle(idle).build() }
    }

    fn act(&self, key: u64, now: u64, charge: bool) -> Result<()> {
        let next = |due: u64| due.max(now).saturating_add(self.interval_us);
        let wait = |due: u64| next(due).saturating_sub(now).saturating_sub(self.tolerance_us);
        let mut refused = 0;
        if charge {
            let _ = self.due.entry(key).and_compute_with(|entry| {
                let due = entry.map_or(0, |e| e.into_value());
                refused = wait(due);
                if refused == 0 { Op::Put(next(due)) } else { Op::Nop }
            });
        } else {
            refused = wait(self.due.get(&key).unwrap_or(0));
        }
        if refused == 0 { Ok(()) } else { Err(Error::limit_exceeded(Duration::from_micros(refused.max(1000)))) }
    }
}

impl Limits {
    /// Counts an action of that key.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` with the time to wait, if there were too many.
    pub fn check(&self, limit: Limit, key: impl std::hash::Hash) -> Result<()> {
        self.act(limit, key, true)
    }

    /// Asks whether an action would be allowed, without counting it.
    ///
    /// # Errors
    /// As [`Limits::check`].
    pub fn would(&self, limit: Limit, key: impl std::hash::Hash) -> Result<()> {
        self.act(limit, key, false)
    }

    /// Counts an action of a user. Administrators and appservices are not limited.
    ///
    /// # Errors
    /// As [`Limits::check`].
    pub fn user(&self, limit: Limit, requester: &Arc<Requester>) -> Result<()> {
        if requester.is_admin || requester.appservice.is_some() {
            return Ok(());
        }
        self.check(limit, requester.user_nid)
    }

    /// Counts an action from an address; of IPv6 the network counts, since a host has 2^64 of them.
    ///
    /// # Errors
    /// As [`Limits::check`].
    pub fn address(&self, limit: Limit, ip: IpAddr) -> Result<()> {
        self.check(limit, network(ip))
    }

    /// Asks whether an action from an address would be allowed, without counting it.
    ///
    /// # Errors
    /// As [`Limits::check`].
    pub fn would_address(&self, limit: Limit, ip: IpAddr) -> Result<()> {
        self.would(limit, network(ip))
    }

    fn act(&self, limit: Limit, key: impl std::hash::Hash, charge: bool) -> Result<()> {
        let Some(line) = self.lines.get(limit as usize) else { return Ok(()) };
        let now = self.clock.steady_ms().saturating_mul(1000);
        line.act(self.hash(&key), now, charge)
    }

    fn hash(&self, key: &impl std::hash::Hash) -> u64 {
        use std::hash::BuildHasher;
        self.hasher.hash_one(key)
    }
}

fn network(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(u128::from(ip) >> 64 << 64, |v4| u128::from(u32::from(v4))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_each_key_for_itself() {
        let clock = Clock::new();
        let limits = Limits::new(&Settings { message: Rate::new(1.0, 2.0), ..Settings::default() }, clock.clone());
        limits.check(Limit::Message, "a").unwrap();
        limits.would(Limit::Message, "a").unwrap();
        limits.check(Limit::Message, "a").unwrap();
        let e = limits.check(Limit::Message, "a").unwrap_err();
        assert_eq!(e.errcode(), "M_LIMIT_EXCEEDED");
        let ms = e.body()["retry_after_ms"].as_u64().unwrap();
        assert!((1..=1000).contains(&ms), "{ms}");
        limits.would(Limit::Message, "a").unwrap_err();
        limits.check(Limit::Message, "b").unwrap();
        clock.advance_ms(1000);
        limits.check(Limit::Message, "a").unwrap();
        limits.check(Limit::Message, "a").unwrap_err();
        // A clock that was ahead is set right: nobody waits for the time it had.
        clock.set_back_ms(3_600_000);
        let ms = limits.check(Limit::Message, "a").unwrap_err().body()["retry_after_ms"].as_u64().unwrap();
        assert!(ms <= 1000, "{ms}");
        clock.advance_ms(1000);
        limits.check(Limit::Message, "a").unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one() {
        let limits = Limits::new(&Settings { registration: Rate::new(0.1, 1.0), ..Settings::default() }, Clock::new());
        limits.address(Limit::Registration, "2001:db8::1".parse().unwrap()).unwrap();
        limits.address(Limit::Registration, "2001:db8::2".parse().unwrap()).unwrap_err();
        limits.address(Limit::Registration, "2001:db8:0:1::2".parse().unwrap()).unwrap();
    }

    #[test]
    fn switched_off_nothing_is_refused() {
        let limits = Limits::new(&Settings { enabled: false, ..Settings::default() }, Clock::new());
        for _ in 0..100 {
            limits.check(Limit::Message, 1).unwrap();
        }
    }
}
