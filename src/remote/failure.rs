//! Why a call to another server came to nothing, and what follows from it: whether the server is to be left alone for a
//! while, whether another try is sane, and what a user who waited is told.

use std::time::Duration;

use hearth_base::Error;
use http::StatusCode;
use serde_json::json;

/// What another server answered in place of what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status, 300 and above.
    pub status: StatusCode,
    /// Its errcode; empty if the body had none.
    pub errcode: String,
    /// Its sentence, cut to a sane length.
    pub error: String,
    /// When it wishes to be asked again.
    pub retry_after: Option<Duration>,
    /// The body, for the few that say more in it (`room_version` of `M_INCOMPATIBLE_ROOM_VERSION`).
    pub body: bytes::Bytes,
}

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// What was to be called is no name of a server.
    #[error("`{0}` is not the name of a server")]
    Name(String),
    /// We may not speak to it: the list of servers, or the list of addresses.
    #[error("{0}")]
    Forbidden(String),
    /// Its name leads nowhere, nobody listens, or its certificate is not right.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no answer within {} seconds", .0.as_secs_f32())]
    TimedOut(Duration),
    /// It failed lately and is left alone until then, ms since 1970.
    #[error("it could not be reached lately and is left alone for a while")]
    LeftAlone(u64),
    /// It refused.
    #[error("it answered {} {}: {}", .0.status.as_u16(), .0.errcode, .0.error)]
    Refused(Box<Refusal>),
    /// Its answer is not what was asked for.
    #[error("its answer makes no sense: {0}")]
    Nonsense(String),
    /// Its answer has more than this many bytes.
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
    /// We could not even ask: a defect of ours.
    #[error("the request could not be made: {0}")]
    Ours(String),
}

/// The longest text of another server's that is handed on.
const MAX_TEXT: usize = 500;

impl Refusal {
    /// Reads an answer of status 300 and above.
    pub(crate) fn read(status: StatusCode, headers: &http::HeaderMap, body: bytes::Bytes) -> Self {
        #[derive(serde::Deserialize, Default)]
        struct Standard {
            #[serde(default)]
            errcode: String,
            #[serde(default)]
            error: String,
            #[serde(default)]
            retry_after_ms: Option<u64>,
        }
        let said: Standard = serde_json::from_slice(&body).unwrap_or_default();
        let header = headers.get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let retry_after = header.map(Duration::from_secs).or(said.retry_after_ms.map(Duration::from_millis));
        let errcode = if is_errcode(&said.errcode) { said.errcode } else { String::new() };
        Self { status, errcode, error: printable(&said.error), retry_after, body }
    }
}

/// `M_FORBIDDEN` or `ORG.EXAMPLE.CODE`.
fn is_errcode(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

impl Failure {
    /// Whether it shows that the server is away: then it is to be left alone for a while.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut(_) => true,
            // What it says of a file, and not of itself.
            Self::Refused(r) if matches!(r.errcode.as_str(), "M_NOT_YET_UPLOADED" | "M_TOO_LARGE") => false,
            // A proxy before a server that is down; a server that is overrun or falls over.
            Self::Refused(r) => r.status.is_server_error() || r.status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }

    /// Whether the same call may work a moment later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(r) => matches!(r.status.as_u16(), 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// What it answered, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the server says that there is no such thing (or that it does not know the question).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|r| r.status == StatusCode::NOT_FOUND)
    }

    /// Whether the server does not know the question itself ("Unsupported endpoints"), so that an older one may be asked.
    #[must_use]
    pub fn is_unrecognized(&self) -> bool {
        self.refusal().is_some_and(|r| match r.status.as_u16() {
            404 | 405 => matches!(r.errcode.as_str(), "" | "M_UNRECOGNIZED"),
            400 => r.errcode == "M_UNRECOGNIZED",
            _ => false,
        })
    }

    /// What a user who waited for `server` is told. An errcode of the other server is handed on where it is about what
    /// was asked for, never where it is about tokens or limits: those would be taken for ours.
    #[must_use]
    pub fn told(&self, server: &str) -> Error {
        let gateway = |status, text: String| Error::told(status, "M_UNKNOWN", text);
        match self {
            Self::Name(_) => Error::invalid_param(self.to_string()),
            Self::Forbidden(_) => Error::forbidden(format!("This server does not speak to {server}")),
            Self::TimedOut(_) => gateway(StatusCode::GATEWAY_TIMEOUT, format!("{server} did not answer in time")),
            Self::Refused(r) if r.status == StatusCode::NOT_FOUND && r.errcode == "M_UNRECOGNIZED" => {
                gateway(StatusCode::BAD_GATEWAY, format!("{server} does not offer this"))
            }
            Self::Refused(r) if r.can_be_handed_on() => {
                let error = if r.error.is_empty() { format!("{server} refused") } else { r.error.clone() };
                let told = Error::told(r.status, r.errcode.clone(), error);
                match serde_json::from_slice::<serde_json::Value>(&r.body).ok().and_then(|mut b| {
                    // The one errcode whose body clients need ("M_INCOMPATIBLE_ROOM_VERSION").
                    b.get_mut("room_version").map(serde_json::Value::take)
                }) {
                    Some(version) if version.is_string() => told.with("room_version", json!(version)),
                    _ => told,
                }
            }
            Self::Ours(why) => Error::broken(format!("calling {server}: {why}")),
            _ => gateway(
                StatusCode::BAD_GATEWAY,
                format!("{server} could not be reached: {}", printable(&self.to_string())),
            ),
        }
    }
}

impl Refusal {
    fn can_be_handed_on(&self) -> bool {
        let about_callers =
            ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_UNAUTHORIZED", "M_USER_LOCKED", "M_USER_SUSPENDED"];
        matches!(self.status.as_u16(), 400 | 403 | 404 | 409 | 413)
            && self.errcode.starts_with("M_")
            && !about_callers.contains(&self.errcode.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn refused(status: u16, body: &'static str) -> Failure {
        let status = StatusCode::from_u16(status).unwrap();
        Failure::Refused(Box::new(Refusal::read(status, &HeaderMap::new(), Bytes::from_static(body.as_bytes()))))
    }

    #[test]
    fn what_a_user_is_told() {
        let told = |f: Failure| {
            let e = f.told("x.org");
            (e.status().as_u16(), e.errcode().to_owned())
        };
        let pair = |status: u16, code: &str| (status, code.to_owned());
        assert_eq!(told(refused(403, r#"{"errcode":"M_FORBIDDEN","error":"no"}"#)), pair(403, "M_FORBIDDEN"));
        assert_eq!(told(refused(404, r#"{"errcode":"M_NOT_FOUND","error":"no"}"#)), pair(404, "M_NOT_FOUND"));
        // A client must not be logged out because another server does not know us.
        assert_eq!(told(refused(401, r#"{"errcode":"M_UNKNOWN_TOKEN","error":"no"}"#)), pair(502, "M_UNKNOWN"));
        assert_eq!(told(refused(403, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#)), pair(502, "M_UNKNOWN"));
        assert_eq!(told(refused(429, r#"{"errcode":"M_LIMIT_EXCEEDED"}"#)), pair(502, "M_UNKNOWN"));
        assert_eq!(told(refused(404, "<html>")), pair(502, "M_UNKNOWN"));
        assert_eq!(told(refused(404, r#"{"errcode":"M_UNRECOGNIZED"}"#)), pair(502, "M_UNKNOWN"));
        assert_eq!(told(Failure::TimedOut(Duration::from_secs(1))), pair(504, "M_UNKNOWN"));
        let version = refused(400, r#"{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","room_version":"99"}"#).told("x.org");
        assert_eq!(version.body()["room_version"], "99");
    }

    #[test]
    fn whose_fault_it_was() {
        assert!(refused(503, "").is_away() && refused(503, "").may_pass());
        assert!(refused(500, "").is_away() && !refused(500, "").may_pass());
        assert!(!refused(404, "").is_away());
        assert!(
            refused(404, "<html>").is_unrecognized() && !refused(404, r#"{"errcode":"M_NOT_FOUND"}"#).is_unrecognized()
        );
        assert!(
            refused(400, r#"{"errcode":"M_UNRECOGNIZED"}"#).is_unrecognized() && !refused(400, "").is_unrecognized()
        );
        assert!(!refused(504, r#"{"errcode":"M_NOT_YET_UPLOADED"}"#).is_away());
        let long = Refusal::read(
            StatusCode::BAD_REQUEST,
            &HeaderMap::new(),
            format!(r#"{{"error":"{}"}}"#, "x".repeat(9000)).into(),
        );
        assert_eq!(long.error.len(), MAX_TEXT);
    }
}
