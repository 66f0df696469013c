//! Sessions: access tokens proved on every request, refreshed, ended; logins by password and token; OpenID.
//!
//! Proving a token is a cache hit ([`Store::session`]). When a device was last seen is kept in memory and written in
//! one go, once a minute at most for each device.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hearth_base::{Error, Result, clock::Clock, ids::UserNid, tasks::Supervisor};
use hearth_store::{
    Store,
    devices::Seen,
    login::{Session, TokenHash},
};
use parking_lot::Mutex;
use ruma::OwnedServerName;
use sha2::{Digest, Sha256};

use crate::accounts::Accounts;

mod uia;

/// How sessions live.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a user-interactive authentication may take.
    pub uia_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { uia_timeout: Duration::from_secs(2 * 24 * 3600) }
    }
}

/// A device is noted as seen no more often than this, ms.
const SEEN_EVERY_MS: i64 = 60_000;
/// How often what was noted is written.
const SEEN_FLUSH: Duration = Duration::from_secs(30);
/// How often what has run out is thrown away, in flushes.
const SWEEP_EVERY: u32 = 20;

/// Sessions and tokens.
pub struct Login {
    server_name: OwnedServerName,
    settings: Settings,
    store: Store,
    clock: Clock,
    accounts: Arc<Accounts>,
    /// Devices seen since the last flush; as many as there are devices with a valid token, at most.
    seen: Mutex<HashMap<(UserNid, String), Seen>>,
}

/// SHA-256 of a token, as it is kept.
#[must_use]
pub fn token_hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Random letters and digits: 5.9 bits each.
#[must_use]
pub fn random_text(length: usize) -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), length)
}

impl Login {
    /// The service over this store.
    #[must_use]
    pub fn new(
        server_name: OwnedServerName,
        settings: Settings,
        store: Store,
        clock: Clock,
        accounts: Arc<Accounts>,
    ) -> Self {
        Self { server_name, settings, store, clock, accounts, seen: Mutex::new(HashMap::new()) }
    }

    /// Starts writing down which devices were seen, and throwing away what has run out.
    pub fn start(self: &Arc<Self>, supervisor: &Supervisor) {
        let (this, stopping) = (self.clone(), supervisor.stopping());
        supervisor.task("sessions", move || {
            let (this, stopping) = (this.clone(), stopping.clone());
            async move {
                for round in 1_u32.. {
                    let stop = tokio::select! {
                        () = stopping.cancelled() => true,
                        () = tokio::time::sleep(SEEN_FLUSH) => false,
                    };
                    this.flush_seen().await?;
                    if stop {
                        return Ok(());
                    }
                    if round % SWEEP_EVERY == 0 {
                        let now = this.now();
                        let uia = now - i64::try_from(this.settings.uia_timeout.as_millis()).unwrap_or(i64::MAX / 2);
                        this.store.sweep_logins(uia, now).await?;
                    }
                }
                Ok(())
            }
        });
    }

    /// Now, ms.
    fn now(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    /// The session of an access token.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN`; with `soft_logout` if it was good until it ran out.
    pub async fn authenticate(&self, token: &str) -> Result<Arc<Session>> {
        let hash = token_hash(token);
        let session = self.store.session(&hash).await?;
        let Some(session) = session else { return Err(Error::unknown_token("Unknown access token", false)) };
        if session.expires_ms.is_some_and(|end| end <= self.now()) {
            return Err(Error::unknown_token("The access token has run out", true));
        }
        if let Some(refresh) = session.refresh_hash
            && !session.used.load(Ordering::Acquire)
        {
            // Before the request is answered: the old pair must not work beside the new one.
            self.store.session_used(hash, refresh).await?;
            session.used.store(true, Ordering::Release);
        }
        Ok(session)
    }

    /// Notes that a session's device made a request just now.
    pub fn seen(&self, session: &Session, ip: IpAddr, user_agent: Option<&str>) {
        let Some(device) = &session.requester.device_id else { return };
        let (now, last) = (self.now(), session.seen_ms.load(Ordering::Relaxed));
        if now - last < SEEN_EVERY_MS
            || session.seen_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let seen = Seen {
            user: session.requester.user_nid,
            device_id: device.to_string(),
            at_ms: now,
            ip: ip.to_string(),
            user_agent: user_agent.map(str::to_owned),
        };
        self.seen.lock().insert((seen.user, seen.device_id.clone()), seen);
    }

    /// Writes which devices were seen.
    ///
    /// # Errors
    /// If the database fails; what was noted is lost then, and noted again with the next requests.
    pub async fn flush_seen(&self) -> Result<()> {
        let seen: Vec<Seen> = std::mem::take(&mut *self.seen.lock()).into_values().collect();
        if seen.is_empty() { Ok(()) } else { self.store.devices_seen(seen).await }
    }
}
