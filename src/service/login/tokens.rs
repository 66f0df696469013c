//! Tokens: how they are made and how long they live. The text goes to the client, its SHA-256 to the store.

use std::time::Duration;

use hearth_base::{clock::Clock, ids::UserNid};
use hearth_store::login::{NewRefresh, NewToken};

use super::{random_text, token_hash};

/// How long sessions and their tokens live; `None` is for ever.
#[derive(Clone, Debug)]
pub struct Lifetimes {
    /// A whole session (`session_lifetime`).
    pub session: Option<Duration>,
    /// An access token that can be refreshed (`refreshable_access_token_lifetime`).
    pub refreshable: Option<Duration>,
    /// An access token that cannot (`nonrefreshable_access_token_lifetime`).
    pub nonrefreshable: Option<Duration>,
    /// A refresh token (`refresh_token_lifetime`).
    pub refresh: Option<Duration>,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { session: None, refreshable: Some(Duration::from_secs(300)), nonrefreshable: None, refresh: None }
    }
}

/// A token as the client gets it.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The access token.
    pub access_token: String,
    /// The refresh token, if asked for.
    pub refresh_token: Option<String>,
    /// How long the access token lasts.
    pub expires_in: Option<Duration>,
}

/// Makes tokens.
#[derive(Clone, Debug)]
pub struct Mint {
    lifetimes: Lifetimes,
    clock: Clock,
}

impl Mint {
    /// A mint with these lifetimes.
    #[must_use]
    pub fn new(lifetimes: Lifetimes, clock: Clock) -> Self {
        Self { lifetimes, clock }
    }

    /// Tokens for a device of a user. A session that is refreshed keeps its end, `ultimate_ms`.
    #[must_use]
    pub fn mint(&self, user: UserNid, device: &str, refreshable: bool, ultimate_ms: Option<i64>) -> (Minted, NewToken) {
        let now = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let after = |d: Duration| now.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let ultimate = ultimate_ms.or_else(|| self.lifetimes.session.map(after));
        let sooner = |end: Option<i64>| match (end, ultimate) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let access_token = format!("hat_{}", random_text(43));
        let lifetime = if refreshable { self.lifetimes.refreshable } else { self.lifetimes.nonrefreshable };
        let expires_ms = sooner(lifetime.map(after));
        let refresh_token = refreshable.then(|| format!("hrt_{}", random_text(43)));
        let new = NewToken {
            token_hash: token_hash(&access_token),
            user,
            device_id: Some(device.to_owned()),
            created_ms: now,
            expires_ms,
            refresh: refresh_token.as_deref().map(|token| NewRefresh {
                token_hash: token_hash(token),
                expires_ms: sooner(self.lifetimes.refresh.map(after)),
                ultimate_ms: ultimate,
            }),
            puppet_of: None,
        };
        let expires_in = expires_ms.map(|end| Duration::from_millis(end.saturating_sub(now).unsigned_abs()));
        (Minted { access_token, refresh_token, expires_in }, new)
    }
}
