//! Where something appears on the web: a host, a path, or both.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A place: any host when `host` is none, and all paths at or below `path`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Lower case, without a port.
    pub host: Option<String>,
    /// Begins with a slash and does not end with one; empty for the root.
    pub path: String,
}

impl At {
    /// The rest of a request's path below this place, or none if it is elsewhere. Splits at segments: `/a` holds
    /// `/a` and `/a/b`, not `/ab`.
    #[must_use]
    pub fn below<'p>(&self, path: &'p str) -> Option<&'p str> {
        let rest = path.strip_prefix(self.path.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s.contains("://") {
            return Err(format!("`{s}`: leave the scheme away, e.g. `example.com/app`"));
        }
        let (host, path) = match s.find('/') {
            Some(slash) => s.split_at(slash),
            None => (s, ""),
        };
        let path = path.trim_end_matches('/');
        if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") || path.contains(['?', '#']) {
            return Err(format!("`{s}` is not a plain path"));
        }
        if s.is_empty() || host.contains([':', ' ', '*', '@']) {
            return Err(format!("`{s}` is not `/path`, `host` or `host/path` (hosts without a port)"));
        }
        let host = (!host.is_empty()).then(|| host.to_ascii_lowercase());
        Ok(Self { host, path: path.to_owned() })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host.as_deref().unwrap_or_default(), self.path)?;
        if self.host.is_none() && self.path.is_empty() { write!(f, "/") } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        super::from_text(d)
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
