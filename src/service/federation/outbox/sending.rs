//! Sends to one server, one transaction after the other, notes what it acknowledged and writes down how far servers are.

use std::{
    cmp::Reverse,
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hearth_base::{Result, ids::StreamPos};
use hearth_remote::Failure;
use hearth_store::outbox::Cursor;

use super::{
    Outbox, Outcomes,
    load::Load,
    peer::{Behind, Peer},
    share::Disliked,
};

/// How far the log may be ahead of what is noted while no other server is known.
const UNSAVED: i64 = 1000;
/// Servers remembered that wait for nothing.
const IDLE: usize = 5_000;
/// The longest pause after refusals: whoever refuses is there, and may be mended at any moment.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The pause after a failure of our own.
const OWN_PAUSE_MS: u64 = 5_000;

impl Outbox {
    /// Sends to one server until nothing waits for it or it fails.
    pub(super) async fn send_all(self: &Arc<Self>, peer: &Arc<Peer>) {
        let stopping = self.supervisor.stopping();
        loop {
            // Asked first: putting a transaction together costs more than knowing that it cannot be sent.
            if let Some(until) = self.carrier.left_alone_until(&peer.name).await {
                self.rest(peer, until);
                return;
            }
            let load = match self.load(peer).await {
                Ok(Some(load)) => load,
                Ok(None) => {
                    let mut pending = peer.pending.lock();
                    if pending.has_work(self.now()) {
                        continue;
                    }
                    pending.sending = false;
                    pending.disliked = Disliked::default();
                    return;
                }
                Err(e) => {
                    tracing::warn!(server = %peer.name, error = %e, "what is owed to a server could not be read");
                    self.rest(peer, self.now() + OWN_PAUSE_MS);
                    return;
                }
            };
            let carried = async {
                let Ok(_permit) = self.permits.acquire().await else { return None };
                if load.transaction.pdus.is_empty() && load.transaction.edus.is_empty() {
                    // Only passed over in the log.
                    return Some(Ok(Outcomes::new()));
                }
                Some(self.carrier.carry(&peer.name, load.transaction.clone()).await)
            };
            let carried = tokio::select! {
                () = stopping.cancelled() => None,
                carried = carried => carried,
            };
            match carried {
                None => {
                    peer.pending.lock().sending = false;
                    return;
                }
                Some(Ok(outcomes)) => {
                    for (event, outcome) in outcomes {
                        if let Err(why) = outcome {
                            tracing::debug!(server = %peer.name, event.id = %event, why, "an event was not taken");
                        }
                    }
                    if !self.is_settled(peer, load).await {
                        return;
                    }
                }
                Some(Err(failure)) if self.is_given_up(peer, &load, &failure) => {
                    if !self.is_settled(peer, load).await {
                        return;
                    }
                }
                Some(Err(failure)) => {
                    peer.pending.lock().soft.put_back(load.soft);
                    let away = self.carrier.left_alone_until(&peer.name).await;
                    if away.is_some() {
                        peer.pending.lock().refusals = 0;
                    }
                    let until = away.unwrap_or_else(|| {
                        // It answers, but not as it should: a pause of our own.
                        let mut pending = peer.pending.lock();
                        pending.refusals += 1;
                        let factor = 1u32 << (pending.refusals - 1).min(16);
                        let pause = self.settings.refused_pause.saturating_mul(factor).min(LONGEST_PAUSE);
                        tracing::info!(server = %peer.name, error = %failure, pause_s = pause.as_secs(), "a server refused a transaction");
                        self.now() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2)
                    });
                    self.rest(peer, until);
                    return;
                }
            }
        }
    }

    /// Takes in a refusal. Whether what was sent is to count as settled, since its receiver will never take it.
    fn is_given_up(&self, peer: &Peer, load: &Load, failure: &Failure) -> bool {
        let mut pending = peer.pending.lock();
        if !pending.disliked.add(&load.transaction.id, failure) {
            return false;
        }
        pending.disliked = Disliked::default();
        drop(pending);
        let events: Vec<_> = load.events.iter().map(|e| e.event_id().as_str()).collect();
        tracing::warn!(
            server = %peer.name, error = %failure, events = events.join(", "), to_device = load.to_device.len(),
            "a server does not take one thing, which is given up so that what comes after it is sent"
        );
        true
    }

    /// [`Self::settle`], or a pause if that fails.
    async fn is_settled(self: &Arc<Self>, peer: &Arc<Peer>, load: Load) -> bool {
        let settled = self.settle(peer, load).await;
        if let Err(e) = &settled {
            tracing::warn!(server = %peer.name, error = %e, "an acknowledgement could not be noted");
            self.rest(peer, self.now() + OWN_PAUSE_MS);
        }
        settled.is_ok()
    }

    /// Notes what a server has acknowledged.
    pub(super) async fn settle(&self, peer: &Peer, load: Load) -> Result<()> {
        if !load.to_device.is_empty() {
            self.store.delete_outgoing(peer.name.to_string(), load.to_device).await?;
        }
        let mut pending = peer.pending.lock();
        pending.refusals = 0;
        // The queue may have been given up for the log meanwhile; then the cursor stands before what is sent again.
        if pending.behind.is_none() {
            let settled = pending.news.len().min(load.news);
            pending.news.drain(..settled);
        } else if let (Some(upto), Some(behind)) = (load.upto, &mut pending.behind) {
            behind.pos = behind.pos.max(upto);
            pending.unsaved = true;
        }
        Ok(())
    }

    /// Leaves a server alone until then, ms.
    pub(super) fn rest(self: &Arc<Self>, peer: &Peer, until: u64) {
        peer.pending.lock().rest(until, self.now_ms());
        self.due.lock().push(Reverse((until, peer.name.clone())));
        self.bell.notify_one();
    }

    /// Writes down how far servers are.
    pub(super) async fn save(&self, at_once: bool) -> Result<()> {
        {
            let heard = self.heard.lock();
            if heard.news.is_empty() && !heard.missed {
                self.dispatched.fetch_max(heard.seen.0, Ordering::AcqRel);
            }
        }
        let now = self.now();
        let mut all = StreamPos(self.dispatched.load(Ordering::Acquire));
        let (mut moved, mut caught_up, mut saved) = (Vec::new(), Vec::new(), Vec::new());
        let mut idle = HashSet::new();
        for peer in &self.peers {
            let mut pending = peer.pending.lock();
            match (pending.behind, pending.acknowledged()) {
                (Some(Behind { pos, since_ms, .. }), _) if pending.unsaved => {
                    moved.push(Cursor { server: peer.name.to_string(), pos: pos.0, since_ms });
                }
                (None, acknowledged) => {
                    all = acknowledged.map_or(all, |pos| all.min(pos));
                    if pending.unsaved {
                        caught_up.push(peer.name.to_string());
                    }
                }
                _ => {}
            }
            if std::mem::take(&mut pending.unsaved) {
                saved.push(peer.value().clone());
            }
            if pending.is_idle(now) {
                idle.insert(peer.key().clone());
            }
        }
        let ahead = all.0 - self.saved.load(Ordering::Relaxed);
        // Where nobody else is, a restart may read some of the log again.
        let due = ahead > 0 && (at_once || !self.peers.is_empty() || ahead >= UNSAVED);
        if !due && moved.is_empty() && caught_up.is_empty() {
            return Ok(());
        }
        moved.push(Cursor { server: String::new(), pos: all.0, since_ms: self.now_ms() });
        if let Err(e) = self.store.move_outbox_cursors(moved, caught_up).await {
            saved.iter().for_each(|peer| peer.pending.lock().unsaved = true);
            return Err(e);
        }
        self.saved.store(all.0, Ordering::Relaxed);
        if self.peers.len() > IDLE {
            self.peers.retain(|name, peer| !(idle.contains(name) && peer.pending.lock().is_idle(now)));
        }
        Ok(())
    }
}
