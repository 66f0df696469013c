//! Sessions: access tokens proved on every request, refreshed, ended; logins by password and token ([`grant`]);
//! OpenID.
//!
//! Proving a token is a cache hit ([`Store::session`]). When a device was last seen is kept in memory and written in
//! one go, once a minute at most for each device.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hearth_base::{Error, Requester, Result, clock::Clock, ids::UserNid, tasks::Supervisor};
use hearth_store::{
    Store,
    devices::Seen,
    login::{Session, TokenHash},
};
use parking_lot::Mutex;
use ruma::OwnedUserId;
use sha2::{Digest, Sha256};

use crate::accounts::Accounts;

pub mod grant;
pub mod tokens;
pub mod uia;

pub use grant::{Credential, Device, From, Granted};
use tokens::{Lifetimes, Mint, Minted};

/// How sessions live.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long tokens live.
    pub lifetimes: Lifetimes,
    /// How long a user-interactive authentication may take.
    pub uia_timeout: Duration,
    /// Whether a session may log in another device (`login_via_existing_session.enabled`).
    pub get_token: bool,
    /// Whether that takes the password once more (`require_ui_auth`).
    pub get_token_confirmed: bool,
    /// How long such a login token lasts (`token_timeout`).
    pub get_token_lifetime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetimes: Lifetimes::default(),
            uia_timeout: Duration::from_secs(2 * 24 * 3600),
            get_token: false,
            get_token_confirmed: true,
            get_token_lifetime: Duration::from_secs(300),
        }
    }
}

/// How long an OpenID token lasts.
pub const OPENID_LIFETIME: Duration = Duration::from_secs(3600);

/// A device is noted as seen no more often than this, ms.
const SEEN_EVERY_MS: i64 = 60_000;
/// How often what was noted is written.
const SEEN_FLUSH: Duration = Duration::from_secs(30);
/// How often what has run out is thrown away, in flushes.
const SWEEP_EVERY: u32 = 20;

/// Sessions and tokens.
pub struct Login {
    settings: Settings,
    store: Store,
    clock: Clock,
    mint: Mint,
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
    pub fn new(settings: Settings, store: Store, clock: Clock, mint: Mint, accounts: Arc<Accounts>) -> Self {
        Self { settings, store, clock, mint, accounts, seen: Mutex::new(HashMap::new()) }
    }

    /// How sessions live.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
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

    /// The guest whose access token this is, who wants to become a member ("Guest access").
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN`; 403 for the token of anybody else.
    pub async fn guest(&self, token: &str) -> Result<OwnedUserId> {
        let session = self.authenticate(token).await?;
        if !session.requester.is_guest || session.locked {
            return Err(Error::forbidden("This access token is not a guest's"));
        }
        Ok(session.requester.user_id.clone())
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

    /// The next pair of tokens for a refresh token. Until the new pair is used, the old one goes on working, so that a
    /// lost answer loses no session ("Refreshing access tokens").
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN`, with `soft_logout` if it was good until it ran out; 401 `M_USER_LOCKED`.
    pub async fn refresh(&self, token: &str) -> Result<Minted> {
        let unknown = || Error::unknown_token("Unknown refresh token", false);
        let hash = token_hash(token);
        let known = self.store.refresh_token(&hash).await?.ok_or_else(unknown)?;
        let now = self.now();
        if known.expires_ms.is_some_and(|end| end <= now) || known.ultimate_ms.is_some_and(|end| end <= now) {
            return Err(Error::unknown_token("The refresh token has run out", true));
        }
        if known.barred {
            return Err(grant::locked());
        }
        let (minted, new) = self.mint.mint(known.user, &known.device_id, true, known.ultimate_ms);
        if self.store.rotate(hash, new).await? { Ok(minted) } else { Err(unknown()) }
    }

    /// Ends the session that asks: its device goes, with keys and messages.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn logout(&self, who: &Requester) -> Result<()> {
        match (&who.device_id, who.token) {
            (Some(device), _) => self.store.delete_devices(who.user_nid, vec![device.to_string()]).await,
            (None, Some(token)) => self.store.drop_token(token).await,
            (None, None) => Ok(()),
        }
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn logout_all(&self, who: &Requester) -> Result<()> {
        self.store.end_all_sessions(who.user_nid).await
    }

    /// A token by which another service learns who the user is ("OpenID"). It opens nothing else.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn openid(&self, who: &Requester) -> Result<String> {
        let token = format!("hot_{}", random_text(43));
        self.store.add_openid_token(token_hash(&token), who.user_nid, self.after(OPENID_LIFETIME)).await?;
        Ok(token)
    }

    /// Whose OpenID token this is.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN`.
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId> {
        let user = self.store.openid_user(&token_hash(token), self.now()).await?;
        user.ok_or_else(|| {
            Error::told(http::StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "Access Token unknown or expired")
        })
    }

    fn after(&self, d: Duration) -> i64 {
        self.now().saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }
}
