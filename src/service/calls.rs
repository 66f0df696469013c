//! Calls: credentials for the TURN server (client-server API, "Voice over IP").

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hearth_base::{Requester, Result, clock::Clock};
use hmac::{Hmac, Mac};
use sha1::Sha1;

/// The TURN server we know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `turn:` and `turns:` addresses; none: no TURN.
    pub turn_uris: Vec<String>,
    /// The secret we share with it (`turn_shared_secret`).
    pub turn_shared_secret: Option<String>,
    /// Fixed credentials, where there is no secret.
    pub turn_username: Option<String>,
    /// Their password.
    pub turn_password: Option<String>,
    /// How long credentials last (`turn_user_lifetime`).
    pub turn_user_lifetime: Duration,
    /// Whether guests may call (`turn_allow_guests`).
    pub turn_allow_guests: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            turn_uris: Vec::new(),
            turn_shared_secret: None,
            turn_username: None,
            turn_password: None,
            turn_user_lifetime: Duration::from_secs(3600),
            turn_allow_guests: true,
        }
    }
}

/// Credentials for TURN.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Turn {
    /// Name to log in with.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Where.
    pub uris: Vec<String>,
    /// Seconds they last.
    pub ttl: u64,
}

/// What calls need.
#[derive(Debug)]
pub struct Calls {
    settings: Settings,
    clock: Clock,
}

impl Calls {
    /// The service.
    #[must_use]
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self { settings, clock }
    }

    /// TURN credentials for a user; `None` if there is no TURN for them.
    ///
    /// # Errors
    /// If the shared secret cannot be used.
    pub fn turn(&self, who: &Requester) -> Result<Option<Turn>> {
        let s = &self.settings;
        if s.turn_uris.is_empty() || (who.is_guest && !s.turn_allow_guests) {
            return Ok(None);
        }
        let ttl = s.turn_user_lifetime.as_secs();
        let (username, password) = match (&s.turn_shared_secret, &s.turn_username, &s.turn_password) {
            // The scheme of coturn's `use-auth-secret`.
            (Some(secret), ..) => {
                let username = format!("{}:{}", self.clock.now_ms() / 1000 + ttl, who.user_id);
                let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())
                    .map_err(|e| hearth_base::Error::fault("turn_shared_secret", e))?;
                mac.update(username.as_bytes());
                (username, STANDARD.encode(mac.finalize().into_bytes()))
            }
            (None, Some(username), Some(password)) => (username.clone(), password.clone()),
            _ => return Ok(None),
        };
        Ok(Some(Turn { username, password, uris: s.turn_uris.clone(), ttl }))
    }
}
