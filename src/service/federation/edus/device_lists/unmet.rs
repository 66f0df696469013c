//! Users of whom nobody can say yet whether ours meet them, since rooms with their servers are known in part only
//! (MSC3902). Those whose devices changed meanwhile, or were asked for by ours, are remembered: who turns out to be met
//! is told of once all of a room is there, and followed as anybody who is met there.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use hearth_base::Result;
use hearth_store::keys::theirs::Known;
use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{DeviceLists, ROOMS};

/// Users of a server, and servers, that are remembered; what is beyond finds its devices by asking.
const USERS: usize = 1_000;
const SERVERS: usize = 1_000;

/// Who may be met. Only in memory: after a restart nobody is remembered, and of encrypted rooms all are told anyway.
#[derive(Debug, Default)]
pub(super) struct Unmet {
    users: Mutex<HashMap<OwnedServerName, HashSet<OwnedUserId>>>,
    /// Some room is whole since somebody looked.
    look: AtomicBool,
}

impl Unmet {
    /// To be looked at: more is known of some room.
    pub(super) fn looked_for(&self) {
        self.look.store(true, Ordering::Release);
    }

    fn note(&self, user: &UserId) {
        let mut servers = self.users.lock();
        let server = user.server_name();
        if servers.len() >= SERVERS && !servers.contains_key(server) {
            return;
        }
        let users = servers.entry(server.to_owned()).or_default();
        if users.len() < USERS {
            users.insert(user.to_owned());
        }
    }
}

impl DeviceLists {
    /// Remembers those of these users who may be in a room that is known in part: their devices changed, or are asked for.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn may_be_met(&self, users: impl Iterator<Item = &UserId>) -> Result<()> {
        let mut servers: HashMap<&ServerName, bool> = HashMap::new();
        for user in users {
            let server = user.server_name();
            let may_be = match servers.get(server) {
                Some(may_be) => *may_be,
                None => self.store.may_be_in_part(server).await?,
            };
            servers.insert(server, may_be);
            if may_be {
                self.unmet.note(user);
            }
        }
        Ok(())
    }

    /// Looks at those who are remembered, if some room is whole since.
    pub(super) async fn meet(&self) -> Result<()> {
        if !self.unmet.look.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let remembered = std::mem::take(&mut *self.unmet.users.lock());
        for (server, users) in remembered {
            let mut unmet = Vec::new();
            for user in users {
                if !self.tells_of(&user).await? {
                    unmet.push(user);
                }
            }
            if !unmet.is_empty() && self.store.may_be_in_part(&server).await? {
                unmet.iter().for_each(|user| self.unmet.note(user));
            }
        }
        Ok(())
    }

    /// Tells ours of the devices of a user whom they meet and whom we do not follow yet; whether it is such a one.
    pub(super) async fn tells_of(&self, user: &UserId) -> Result<bool> {
        let Some(nid) = self.store.user_nid(user).await? else { return Ok(false) };
        match self.store.known(nid, ROOMS).await? {
            Known::Followed(_) => return self.store.meets_ours(nid).await,
            Known::Met(rooms) if rooms.is_empty() => return Ok(false),
            Known::Met(rooms) if self.is_to_be_followed(&rooms).await? => self.store.follow_and_tell(nid).await?,
            Known::Met(_) => self.store.tell_of_devices(nid).await?,
        }
        Ok(true)
    }
}
