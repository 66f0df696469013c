//! Answers to HTTP-01 challenges under way: token to key authorization.

use std::collections::HashMap;

use parking_lot::RwLock;

/// What `/.well-known/acme-challenge/` answers; holds only challenges of our own orders.
#[derive(Debug, Default)]
pub(crate) struct Challenges(RwLock<HashMap<String, String>>);

impl Challenges {
    pub fn get(&self, token: &str) -> Option<String> {
        self.0.read().get(token).cloned()
    }
}
