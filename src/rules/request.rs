//! What servers sign of the requests they send each other (server-server API, "Request Authentication").

use crate::json::{Invalid, Value, push_str};

/// A request, as far as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Who sends it.
    pub origin: &'a str,
    /// For whom it is meant.
    pub destination: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// The body, JSON; empty if there is none.
    pub body: &'a str,
}

impl Signed<'_> {
    /// The canonical text that is signed. Bodies carry events of all room versions, so any number may stand in them.
    pub fn text(&self) -> Result<String, Invalid> {
        let mut out = String::with_capacity(self.body.len() + self.uri.len() + 256);
        out.push('{');
        if !self.body.is_empty() {
            out.push_str("\"content\":");
            Value::parse_body(self.body)?.write(&mut out);
            out.push(',');
        }
        let members =
            [("destination", self.destination), ("method", self.method), ("origin", self.origin), ("uri", self.uri)];
        for (n, (key, value)) in members.into_iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            push_str(&mut out, key);
            out.push(':');
            push_str(&mut out, value);
        }
        out.push('}');
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_signed_text_is_canonical_json() {
        let request = Signed {
            origin: "a.org",
            destination: "b.org",
            method: "PUT",
            uri: "/x?y=\"",
            body: " {\"b\":1.50, \"a\":[]}",
        };
        assert_eq!(
            request.text().unwrap(),
            r#"{"content":{"a":[],"b":1.5},"destination":"b.org","method":"PUT","origin":"a.org","uri":"/x?y=\""}"#
        );
        assert_eq!(
            Signed { body: "", ..request }.text().unwrap(),
            r#"{"destination":"b.org","method":"PUT","origin":"a.org","uri":"/x?y=\""}"#
        );
        Signed { body: "{", ..request }.text().unwrap_err();
    }
}
