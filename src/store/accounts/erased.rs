//! Who asked to be forgotten when they closed their account: asked for every event that is read, so all of them are
//! remembered.

use std::collections::HashSet;

use hearth_base::{Result, ids::UserNid};
use parking_lot::RwLock;

use crate::{Store, db::Session, fetch_all};

const ERASED: &str = "SELECT user_nid FROM accounts WHERE erased";

/// The erased accounts of this server, eight bytes each.
#[derive(Debug)]
pub(crate) struct Erased(RwLock<HashSet<UserNid>>);

impl Erased {
    pub(crate) async fn load(session: &mut Session) -> Result<Self> {
        let rows: Vec<(i64,)> = fetch_all!(session, (i64,), ERASED)?;
        Ok(Self(RwLock::new(rows.into_iter().map(|(nid,)| UserNid(nid)).collect())))
    }

    pub(super) fn insert(&self, user: UserNid) {
        self.0.write().insert(user);
    }
}

impl Store {
    /// Whether a user of ours closed their account with the wish that what they sent be kept from those who come later
    /// (spec: `POST /account/deactivate`, `erase`).
    #[must_use]
    pub fn is_erased(&self, user: UserNid) -> bool {
        self.inner.erased.0.read().contains(&user)
    }
}
