//! Who hears of whose presence: what /sync tells of it, and for whom a change is kept.

use std::collections::HashSet;

use hearth_base::{Result, ids::UserNid};
use ruma::{UserId, presence::PresenceState};
use serde_json::{Value, json};

use super::{Change, News, Presence};

impl Presence {
    /// For /sync: `m.presence` events of those who are wanted that concern a user and are newer than `after`, as JSON; with
    /// `None`, how all those are whom the user may see and who are not offline.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn news(
        &self,
        who: UserNid,
        after: Option<u64>,
        wanted: impl Fn(&UserId) -> bool,
    ) -> Result<Vec<String>> {
        if !self.settings.enabled {
            return Ok(Vec::new());
        }
        let changed: Option<HashSet<UserNid>> = after.and_then(|after| {
            let changes = self.changes.lock();
            let newer = changes.list.iter().rev().take_while(|c| c.counter > after);
            (changes.floor <= after)
                .then(|| newer.filter(|c| c.recipients.contains(&who)).flat_map(|c| c.users.iter().copied()).collect())
        });
        let of = match changed {
            Some(changed) => changed,
            None if self.users.lock().is_empty() => return Ok(Vec::new()),
            None => {
                let sharers = self.store.sharing_rooms_with(who).await?;
                let users = self.users.lock();
                let here = |u: &UserNid| users.get(u).is_some_and(|s| s.shown != PresenceState::Offline);
                sharers.into_iter().chain([who]).filter(here).collect()
            }
        };
        let event = |user: &UserId, content: Value| {
            json!({"type": "m.presence", "sender": user, "content": content}).to_string()
        };
        let (mut events, mut unknown) = (Vec::with_capacity(of.len()), Vec::new());
        {
            let now = self.clock.steady_ms();
            let users = self.users.lock();
            for nid in of {
                match users.get(&nid) {
                    Some(s) if wanted(&s.user) => events.push(event(&s.user, s.content(now, &self.settings))),
                    Some(_) => {}
                    None => unknown.push(nid),
                }
            }
        }
        // Who was never here is met all the same.
        for user in self.store.user_ids(&unknown).await?.iter().filter(|user| wanted(user)) {
            events.push(event(user, json!({"presence": PresenceState::Offline})));
        }
        Ok(events)
    }

    /// Tells those who share a room with a user, and the user's other devices; other servers, if the user is ours.
    pub(super) async fn tell(&self, user: UserNid) -> Result<()> {
        let now = self.clock.steady_ms();
        if let Some(state) = self.users.lock().get_mut(&user)
            && !state.remote
        {
            state.told_ms = now;
            let _ = self.news.send(News::of(user));
        }
        let mut recipients: HashSet<UserNid> = self.store.sharing_rooms_with(user).await?.into_iter().collect();
        recipients.insert(user);
        self.show(vec![user], recipients);
        Ok(())
    }

    /// Has these people hear how those are.
    pub(super) fn show(&self, users: Vec<UserNid>, recipients: HashSet<UserNid>) {
        // Held, so that whoever is woken or sees the counter finds the change in the list.
        let mut changes = self.changes.lock();
        let counter = self.notifier.ephemeral_changed(recipients.iter().copied());
        changes.push(Change { counter, users, recipients });
    }
}
