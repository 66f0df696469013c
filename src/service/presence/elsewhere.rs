//! Presence between servers: what they say of their users, and what they are told of ours.

use hearth_base::{Result, ids::UserNid};
use ruma::{UserId, presence::PresenceState};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{MAX_STATUS, News, Presence, check_state, entry};

/// How a user of another server is, as it says.
#[derive(Clone, Debug)]
pub struct RemotePresence {
    /// Online, idle, offline.
    pub presence: PresenceState,
    /// What they say.
    pub status: Option<String>,
    /// How long ago they did something, ms.
    pub last_active_ago: u64,
}

impl Presence {
    /// What another server says of a user of its own whom somebody here may see.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_remote(&self, user: UserNid, user_id: &UserId, said: RemotePresence) -> Result<()> {
        if !self.settings.enabled || check_state(&said.presence).is_err() {
            return Ok(());
        }
        let now = self.clock.steady_ms();
        let status = said.status.filter(|s| !s.is_empty() && s.len() <= MAX_STATUS);
        let changed = {
            let mut users = self.users.lock();
            let Some(state) = entry(&mut users, user, user_id) else { return Ok(()) };
            state.remote = true;
            state.synced_ms = now;
            state.active_ms = now.saturating_sub(said.last_active_ago);
            let changed = state.shown != said.presence || state.status != status;
            state.wanted = said.presence.clone();
            (state.shown, state.status) = (said.presence, status);
            changed
        };
        if changed { self.tell(user).await } else { Ok(()) }
    }

    /// Hears whose presence changed of ours, from now on. Whoever is slow misses some.
    #[must_use]
    pub(crate) fn watch(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// How a user of ours is, as other servers are told; `None` if that is not known.
    #[must_use]
    pub fn for_server(&self, user: UserNid) -> Option<Value> {
        let now = self.clock.steady_ms();
        let users = self.users.lock();
        let state = users.get(&user).filter(|state| !state.remote)?;
        let mut content = state.content(now, &self.settings);
        if let Some(fields) = content.as_object_mut() {
            fields.entry("last_active_ago").or_insert(json!(0));
            fields.insert("user_id".to_owned(), json!(state.user));
        }
        Some(content)
    }
}
