//! Whom an event mentions (client-server API, "User and room mentions").
//!
//! Since v1.17 that is what `m.mentions` says. Clients, bots and bridges older than that property leave it out, and the
//! rules that looked for names in their texts are gone, as they took common words for mentions. A whole user id with its
//! server is no common word: where an event has no `m.mentions`, it mentions those whose ids its text has.

use serde_json::Value;

use super::PushEvent;

/// Where an event says whom it mentions.
pub(super) const PATH: &str = r"content.m\.mentions.user_ids";

impl PushEvent<'_> {
    /// The ids of the users that the event mentions; they need not be ids of users.
    pub(super) fn mentioned(&self) -> Vec<&str> {
        let content = self.content();
        if let Some(mentions) = content.get("m.mentions") {
            let users = mentions.get("user_ids").and_then(Value::as_array);
            return users.map(|users| users.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        }
        // What an edit repeats was mentioned before.
        if self.content_at(r"content.m\.relates_to.rel_type").is_some_and(|rel| rel == "m.replace") {
            return Vec::new();
        }
        content.get("body").and_then(Value::as_str).map(written_in).unwrap_or_default()
    }
}

/// The user ids in a text.
fn written_in(text: &str) -> Vec<&str> {
    let is_id = |c: char| c.is_ascii_alphanumeric() || "._=-/+:[]".contains(c);
    let mut found = Vec::new();
    for (at, _) in text.match_indices('@') {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        // The middle of an address.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let Some(rest) = text.get(at + 1..) else { continue };
        let id = rest.find(|c| !is_id(c)).and_then(|end| rest.get(..end)).unwrap_or(rest);
        // A sentence ends, or somebody is spoken to.
        let has_brackets = id.contains('[');
        let id = id.trim_end_matches(|c| matches!(c, '.' | ':' | '-' | '/') || c == ']' && !has_brackets);
        if id.contains(':') {
            found.extend(text.get(at..at + 1 + id.len()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_texts() {
        for (text, ids) in [
            ("@a:x", &["@a:x"][..]),
            ("Hello @bob:example.org!", &["@bob:example.org"]),
            ("@a:x.org: and @b.c=d/e+f-g:127.0.0.1:8448, hi", &["@a:x.org", "@b.c=d/e+f-g:127.0.0.1:8448"]),
            ("(@a:[::1]) says so to @b:x.", &["@a:[::1]", "@b:x"]),
            ("https://matrix.to/#/@a:x", &["@a:x"]),
            ("write to me@a:x or ü@a:x or me_@a:x", &[]),
            ("[@a:x], -@b:x--", &["@a:x", "@b:x"]),
            ("@bob, @ and @: and @@", &[]),
            ("@@a:x", &["@a:x"]),
            ("ü @a:xü @b:yé", &["@a:x", "@b:y"]),
        ] {
            assert_eq!(written_in(text), ids, "{text}");
        }
    }
}
