//! Answers to challenges under way, taken away when their order ends, however it ends.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use rustls::sign::CertifiedKey;

use crate::Shared;

/// What `/.well-known/acme-challenge/` answers, by token; holds only challenges of our own orders.
#[derive(Debug, Default)]
pub(crate) struct Challenges(RwLock<HashMap<String, String>>);

impl Challenges {
    /// The key authorization of a token.
    pub fn get(&self, token: &str) -> Option<String> {
        self.0.read().get(token).cloned()
    }
}

/// The challenges of one order; dropping it ends them.
pub(super) struct Shown<'s> {
    shared: &'s Shared,
    tokens: Vec<String>,
    names: Vec<String>,
}

impl<'s> Shown<'s> {
    pub fn new(shared: &'s Shared) -> Self {
        Self { shared, tokens: Vec::new(), names: Vec::new() }
    }

    /// Answers an HTTP-01 challenge from now on.
    pub fn http(&mut self, token: &str, authorization: &str) {
        self.shared.challenges.0.write().insert(token.to_owned(), authorization.to_owned());
        self.tokens.push(token.to_owned());
    }

    /// Answers a TLS-ALPN-01 challenge from now on.
    pub fn tls(&mut self, name: &str, key: Arc<CertifiedKey>) {
        self.shared.certificates.set_challenge(name, key);
        self.names.push(name.to_owned());
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let mut open = self.shared.challenges.0.write();
        for token in &self.tokens {
            open.remove(token);
        }
        drop(open);
        for name in &self.names {
            self.shared.certificates.clear_challenge(name);
        }
    }
}
