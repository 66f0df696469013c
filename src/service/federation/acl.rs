//! Which servers a room keeps out (`m.room.server_acl`; client-server API, "Server Access Control Lists").
//!
//! An ACL is read once for its event. Patterns are matched without regard to case in time that grows with name × pattern
//! at worst, whatever the pattern; a huge list costs its length once a question, and answers are remembered.

use std::sync::Arc;

use hearth_base::{
    Result,
    cache::Cache,
    ids::{EventNid, RoomNid},
};
use hearth_store::Store;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::Value;

/// Lists remembered, and answers.
const LISTS: u64 = 2_000;
const ANSWERS: u64 = 100_000;

/// Server ACLs of rooms.
#[derive(Debug)]
pub struct Acls {
    store: Store,
    lists: Cache<(EventNid, bool), Arc<Acl>>,
    answers: Cache<((EventNid, bool), OwnedServerName), bool>,
}

/// Whether a list, the content of an `m.room.server_acl`, shuts out that server by a slip. Lists cannot tell servers of one
/// host apart, as they are held against names without the port: who denies the host of a server with a port may well mean
/// another of them.
pub(crate) fn shuts_out(content: &str, server: &ServerName) -> bool {
    let mut acl = Acl::read(content);
    if server.port().is_some() && !acl.denies(&server.as_str().to_lowercase()) {
        acl.deny.clear();
    }
    !acl.allows(server)
}

/// One list.
#[derive(Debug, PartialEq, Eq)]
struct Acl {
    ip_literals: bool,
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Acl {
    /// What is no list of texts is an empty one, as the specification says of missing fields: then nobody is allowed.
    fn read(content: &str) -> Self {
        #[derive(Deserialize, Default)]
        struct Content {
            #[serde(default)]
            allow: Value,
            #[serde(default)]
            deny: Value,
            #[serde(default)]
            allow_ip_literals: Value,
        }
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_lowercase)).collect()
        };
        let content: Content = serde_json::from_str(content).unwrap_or_default();
        Self {
            ip_literals: content.allow_ip_literals.as_bool().unwrap_or(true),
            allow: texts(&content.allow),
            deny: texts(&content.deny),
        }
    }

    fn allows(&self, server: &ServerName) -> bool {
        if !self.ip_literals && server.is_ip_literal() {
            return false;
        }
        let host = server.host().to_lowercase();
        !self.denies(&host) && self.allow.iter().any(|pattern| matches(&host, pattern))
    }

    fn denies(&self, name: &str) -> bool {
        self.deny.iter().any(|pattern| matches(name, pattern))
    }
}

/// Whether a text matches a pattern with `*` and `?`, both in lower case.
fn matches(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    // Where the last `*` stood, and how far the text had come when it took nothing.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == c => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

impl Acls {
    /// Over this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, lists: Cache::new(LISTS), answers: Cache::new(ANSWERS) }
    }

    /// Whether a room's ACL lets a server take part. A room without one, and one we do not know, keeps nobody out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn allows(&self, room: RoomNid, server: &ServerName) -> Result<bool> {
        // Given a number even if no room has one: what has none would be looked for on disk each time.
        let key = self.store.intern_key("m.room.server_acl", "").await?;
        let Some(room) = self.store.room(room).await? else { return Ok(true) };
        let state = self.store.snapshot(room.head.snap).await?;
        let Some(event) = state.get(&key).copied() else { return Ok(true) };
        let Some(event) = self.store.event(event).await? else { return Ok(true) };
        // What a redaction leaves is another list under the same number.
        let list = (event.nid, event.redacted_by.is_some());
        if let Some(answer) = self.answers.get(&(list, server.to_owned())) {
            return Ok(answer);
        }
        let acl = self.lists.get_with(list, || Arc::new(Acl::read(event.pdu.content_json())));
        let answer = acl.allows(server);
        self.answers.insert((list, server.to_owned()), answer);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn allows(content: &str, server: &str) -> bool {
        Acl::read(content).allows(server.try_into().unwrap())
    }

    #[test]
    fn deny_wins_and_what_is_not_allowed_is_denied() {
        let acl = r#"{"allow":["*"],"deny":["evil.org","*.evil.org","b?d.org"]}"#;
        assert!(allows(acl, "good.org") && allows(acl, "evil.org.example"));
        for denied in ["evil.org", "EVIL.org", "evil.org:8448", "a.b.evil.org", "bad.org"] {
            assert!(!allows(acl, denied), "{denied}");
        }
        assert!(!allows(r#"{"allow":["good.org"]}"#, "other.org"));
        assert!(!allows(r#"{"deny":[]}"#, "good.org"), "without `allow` nobody is allowed");
        assert!(!allows(r#"{"allow":"*"}"#, "good.org"));
    }

    #[test]
    fn a_server_is_shut_out_by_what_cannot_mean_another() {
        let shuts_out = |content: &str, server: &str| shuts_out(content, &ServerName::parse(server).unwrap());
        let host = r#"{"allow":["*"],"deny":["one.example"]}"#;
        assert!(shuts_out(host, "one.example") && !shuts_out(host, "one.example:8448"));
        for all in [r#"{"allow":["*"],"deny":["*"]}"#, r#"{"allow":["two.example"]}"#, "{}"] {
            assert!(shuts_out(all, "one.example") && shuts_out(all, "one.example:8448"), "{all}");
        }
        assert!(!shuts_out(r#"{"allow":["one.example"]}"#, "one.example:8448"));
    }

    #[test]
    fn ip_literals_are_addresses_without_their_port() {
        let acl = r#"{"allow":["*"],"allow_ip_literals":false}"#;
        assert!(!allows(acl, "1.2.3.4:99") && !allows(acl, "[::1]") && allows(acl, "one.org"));
        assert!(allows(r#"{"allow":["*"]}"#, "1.2.3.4"));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = "*a".repeat(200) + "b";
        let begun = std::time::Instant::now();
        assert!(!matches(&"a".repeat(230), &pattern));
        assert!(begun.elapsed() < std::time::Duration::from_millis(100));
    }
}
