//! What the server does now and then, and how often: one list.
//!
//! Work whose memory must be written at the stop is started by the service that holds it, and named here: `Login` (which
//! devices were seen, expired tokens and authentications), `Media` (what was asked for, expired uploads, retention),
//! `Presence` (how users of other servers are). So is what runs down by itself: `Typing`, `Presence`, the notifier's memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use hearth_base::tasks::Supervisor;
use hearth_config::Config;
use hearth_service::{
    Services,
    upkeep::{Settings, Upkeep},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Starts them all.
pub(super) fn start(services: &Arc<Services>, config: &Config, supervisor: &Supervisor) {
    let settings = Settings { redacted: config.rooms.retention.redacted, ..Settings::default() };
    let upkeep = Arc::new(Upkeep::new(services, settings));

    // Once, beside the first requests.
    let (store, stopping) = (services.store.clone(), supervisor.stopping());
    supervisor.task("rehearsal", move || {
        let (store, stopping) = (store.clone(), stopping.clone());
        async move {
            match store.rehearse(|| stopping.is_cancelled()).await {
                Err(_) if stopping.is_cancelled() => Ok(()),
                rehearsed => rehearsed,
            }
        }
    });

    let work = upkeep.clone();
    supervisor.every("log", HOUR, move || {
        let work = work.clone();
        async move { work.log().await }
    });

    let work = upkeep.clone();
    supervisor.every("redactions", HOUR, move || {
        let work = work.clone();
        async move { work.redactions().await }
    });

    let work = services.accounts.clone();
    supervisor.every("password-memory", MINUTE / 2, move || {
        work.release_memory();
        async { Ok(()) }
    });

    let work = services.to_device.clone();
    supervisor.every("to-device", HOUR, move || {
        let work = work.clone();
        async move { work.sweep().await }
    });

    // All folders in two days.
    let (work, folder) = (upkeep.clone(), Arc::new(AtomicU8::new(0)));
    supervisor.every("orphans", 10 * MINUTE, move || {
        let (work, folder) = (work.clone(), folder.fetch_add(1, Ordering::Relaxed));
        async move { work.blobs(folder).await }
    });

    // When an account is closed, at the start, and now and then for rooms that refused.
    let (closed, stopping) = (services.accounts.closed(), supervisor.stopping());
    supervisor.task("closed-accounts", move || {
        let (work, closed, stopping) = (upkeep.clone(), closed.clone(), stopping.clone());
        async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    done = work.closed_accounts() => done?,
                }
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    () = closed.notified() => {}
                    () = tokio::time::sleep(HOUR) => {}
                }
            }
        }
    });
}
