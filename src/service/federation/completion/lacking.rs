//! Fills holes in the state that rooms had when we came: a server that had signed part of it was away, nobody gave its keys,
//! and what cannot be proved is left out. Nobody else's word would do, since a document that says whose keys they are proves
//! nothing unless it comes from that server or from a notary whom the administrator trusts.
//!
//! When a key of such a server is had, the state before our join is asked for again. What lacked comes beside what was known,
//! and all that was placed since is judged by it ([`Events::begin_again`](crate::events::Events::begin_again)): the room is
//! partial meanwhile, and not before. A server that does not come back is forgotten some day, and so is a room that we left.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use hearth_base::Result;
use hearth_store::events::{Lacking, Part};
use ruma::OwnedServerName;

use super::{Completion, SERVERS, ms};
use crate::{events::Told, federation::inbox::Telling};

/// Servers asked for their keys at the same time.
const AT_ONCE: usize = 8;
/// How long coming into a room may take.
const COMING: Duration = Duration::from_secs(3600);

impl Completion {
    /// Looks whose keys are had now, whenever any came, or a server that was away is back.
    pub(super) async fn fill_holes(self: Arc<Self>) -> Result<()> {
        let health = self.federation.health();
        let mut recovered = Box::pin(health.recovered().notified());
        loop {
            // Armed before the look, so that nothing falls between.
            recovered.as_mut().enable();
            let Some(wait) = self.look_for_keys().await? else {
                self.store.lacking_bell().notified().await;
                continue;
            };
            tokio::select! {
                () = self.store.lacking_bell().notified() => {}
                () = self.server_keys.came().notified() => {}
                () = &mut recovered => recovered = Box::pin(health.recovered().notified()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Begins rooms again for which keys are had that lacked; gives when to look again, if any lack.
    async fn look_for_keys(&self) -> Result<Option<Duration>> {
        let (all, now) = (self.store.lacking_keys().await?, self.now());
        if all.is_empty() {
            return Ok(None);
        }
        let mut due: HashMap<OwnedServerName, Vec<Lacking>> = HashMap::new();
        let mut next = now.saturating_add(ms(self.settings.longest));
        for one in all {
            // It is noted before we come in, which takes a moment, and may fail. In this order: the join may come between.
            let has_come = self.store.event(one.join).await?.is_some();
            let is_in = self.store.is_resident(one.room).await?;
            let is_coming = !is_in && !has_come;
            let kept = if is_coming { COMING } else { self.settings.lacking_for };
            if one.noted_ms.saturating_add(ms(kept)) < now || !is_in && !is_coming {
                self.store.forget_lacking_keys(one.room, one.server).await?;
                continue;
            }
            if is_coming {
                next = next.min(now.saturating_add(ms(self.settings.first)));
                continue;
            }
            let alone = self.federation.health().left_alone_until(&one.server).await?;
            let until = one.retry_ms.max(alone.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0));
            if until > now {
                next = next.min(until);
                continue;
            }
            due.entry(one.server.clone()).or_default().push(one);
        }
        // Boxed: the compiler cannot see by itself that such a future may be sent to another thread.
        let ask = |server: OwnedServerName| -> BoxFuture<'_, Result<(OwnedServerName, bool)>> {
            Box::pin(async move {
                let has_any = self.server_keys.has_any(&server).await?;
                Ok((server, has_any))
            })
        };
        let servers: Vec<OwnedServerName> = due.keys().cloned().collect();
        let mut asked = stream::iter(servers).map(ask).buffer_unordered(AT_ONCE);
        let mut begun = HashSet::new();
        while let Some(answer) = asked.next().await {
            let (server, has_any) = answer?;
            for one in due.remove(&server).unwrap_or_default() {
                // Of a room that begins again it is found out who still lacks.
                if begun.contains(&one.room) {
                    continue;
                }
                let fills = has_any && self.begins_again(&one).await?;
                let tries = one.tries + i64::from(has_any);
                if fills {
                    begun.insert(one.room);
                    // Of a room that many servers have left for good each that comes back has all of it judged again.
                    let until = self.now().saturating_add(ms(self.settings.longest));
                    self.store.rest_lacking_keys(one.room, until).await?;
                }
                if tries > self.settings.lacking_tries {
                    self.store.forget_lacking_keys(one.room, one.server).await?;
                    continue;
                }
                let retry_ms = self.again_ms(tries);
                next = next.min(retry_ms);
                self.store.defer_lacking_keys(one.room, one.server, tries, retry_ms).await?;
            }
        }
        let wait = next.saturating_sub(self.now()).max(ms(self.settings.first));
        Ok(Some(Duration::from_millis(wait.unsigned_abs())))
    }

    /// Has a room begin again, if a server of it tells more of the state before our join than we know.
    async fn begins_again(&self, lacking: &Lacking) -> Result<bool> {
        let room = self.state.room_by_nid(lacking.room).await?;
        let Some(join) = self.store.event(lacking.join).await? else { return Ok(false) };
        let Some(snap) = join.snap.filter(|_| !room.head.partial) else { return Ok(false) };
        let known = self.store.snapshot(snap).await?.len();
        for server in self.who_may_tell(lacking).await? {
            match self.inbox.ask_beside(&server, &room, &join).await? {
                Telling::State(Told::Before(state), _) if state.len() > known => {
                    tracing::info!(room.id = %room.room_id, server = %lacking.server, "what lacked of a room's state can be proved now");
                    let part = Part { via: server, servers: Vec::new() };
                    self.events.begin_again(room.nid, join.clone(), part).await?;
                    return Ok(true);
                }
                _ => tracing::debug!(%server, room.id = %room.room_id, "a server does not tell what lacked"),
            }
        }
        Ok(false)
    }

    /// Who told the state, whose part lacks, then others of the room.
    async fn who_may_tell(&self, lacking: &Lacking) -> Result<Vec<OwnedServerName>> {
        let mut servers = vec![lacking.via.clone(), lacking.server.clone()];
        servers.extend(self.servers.by_members(lacking.room).await?);
        let mut seen = HashSet::new();
        servers.retain(|server| self.federation.admits(server) && seen.insert(server.clone()));
        servers.truncate(SERVERS);
        Ok(servers)
    }
}
