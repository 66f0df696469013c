//! How users of other servers are is written down now and then, and at the stop: their servers say it again only after a
//! while, and until then a restart would take them all for gone. Ours come back by themselves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth_base::{Result, tasks::Supervisor};
use hearth_store::presence::Heard;
use ruma::presence::PresenceState;

use super::{MAX_USERS, Presence, REMOTE, entry};

/// How often it is written.
const EVERY: Duration = Duration::from_secs(300);

/// Up to when what was heard is written down, ms.
#[derive(Debug, Default)]
pub(super) struct Kept(AtomicU64);

impl Presence {
    /// Takes those who were there a short while ago for as they were then; to be called before anybody asks.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remember(&self) -> Result<()> {
        if !self.settings.enabled {
            return Ok(());
        }
        let now = self.clock.steady_ms();
        let heard = self.store.heard_presence(signed(since(now)), MAX_USERS).await?;
        let mut users = self.users.lock();
        for (user_id, heard) in heard {
            let Some(state) = entry(&mut users, heard.user, &user_id) else { break };
            // A clock that was put back makes nobody stay for longer.
            let ms = |ms: i64| u64::try_from(ms).unwrap_or(0).min(now);
            (state.remote, state.synced_ms, state.active_ms) = (true, ms(heard.heard_ms), ms(heard.active_ms));
            state.wanted = PresenceState::from(heard.presence);
            (state.shown, state.status) = (state.wanted.clone(), heard.status);
        }
        drop(users);
        self.kept.0.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// Starts the task that writes it down.
    pub(super) fn keep(self: &Arc<Self>, supervisor: &Supervisor) {
        let (weak, stopping) = (Arc::downgrade(self), supervisor.stopping());
        supervisor.task("presence-kept", move || {
            let (weak, stopping) = (weak.clone(), stopping.clone());
            async move {
                loop {
                    let stop = tokio::select! {
                        () = stopping.cancelled() => true,
                        () = tokio::time::sleep(EVERY) => false,
                    };
                    let Some(this) = weak.upgrade() else { return Ok(()) };
                    this.write_down().await?;
                    if stop {
                        return Ok(());
                    }
                }
            }
        });
    }

    /// Writes down what was heard since it was done last.
    async fn write_down(&self) -> Result<()> {
        let (now, last) = (self.clock.steady_ms(), self.kept.0.load(Ordering::Relaxed));
        let heard: Vec<Heard> = {
            let users = self.users.lock();
            let news = users.iter().filter(|(_, state)| state.remote && state.synced_ms >= last);
            news.map(|(nid, state)| Heard {
                user: *nid,
                presence: state.wanted.to_string(),
                status: state.status.clone(),
                active_ms: signed(state.active_ms),
                heard_ms: signed(state.synced_ms),
            })
            .collect()
        };
        if !heard.is_empty() {
            self.store.keep_presence(heard, signed(since(now))).await?;
        }
        self.kept.0.store(now, Ordering::Relaxed);
        Ok(())
    }
}

/// Since when somebody must have been heard of who is still taken to be there, ms.
fn since(now: u64) -> u64 {
    now.saturating_sub(u64::try_from(REMOTE.as_millis()).unwrap_or(u64::MAX))
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
