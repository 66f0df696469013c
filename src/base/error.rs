//! Errors answer one question: is this told to the caller, or to the operator?
//!
//! [`Error::Told`] carries a Matrix errcode, a status and a sentence for the caller. [`Error::Fault`] carries a
//! cause for the operator; the caller sees 500 `M_UNKNOWN` (or 503 when a retry is sane) and no detail.
//! Constructors are named after the errcode they give (spec: client-server API, "Standard error response").

use std::{borrow::Cow, fmt, panic::Location, time::Duration};

use http::StatusCode;
use serde_json::{Map, Value, json};

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and who is to hear of it.
pub enum Error {
    /// Told to the caller as it stands.
    Told(Box<Told>),
    /// Told to the operator; the caller learns only that it failed.
    Fault(Box<Fault>),
}

/// An answer to the caller.
#[derive(Debug, Clone)]
pub struct Told {
    /// HTTP status.
    pub status: StatusCode,
    /// Matrix error code, e.g. `M_FORBIDDEN`.
    pub errcode: Cow<'static, str>,
    /// A sentence for humans.
    pub error: Cow<'static, str>,
    /// Further keys of the body (`retry_after_ms`, `soft_logout`, UIA's `flows`, ...).
    pub extra: Map<String, Value>,
}

/// A failure inside.
pub struct Fault {
    /// What was being done.
    pub what: Cow<'static, str>,
    /// Why it failed.
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Whether the same call may work a moment later (database away, disk full).
    pub retry: bool,
    /// Where in the code it was noticed.
    pub at: &'static Location<'static>,
}

impl Error {
    /// Any status, code and sentence.
    pub fn told(
        status: StatusCode,
        errcode: impl Into<Cow<'static, str>>,
        error: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Told(Box::new(Told { status, errcode: errcode.into(), error: error.into(), extra: Map::new() }))
    }

    /// A failure inside, with its cause.
    #[track_caller]
    pub fn fault(
        what: impl Into<Cow<'static, str>>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Fault(Box::new(Fault {
            what: what.into(),
            cause: Some(cause.into()),
            retry: false,
            at: Location::caller(),
        }))
    }

    /// A broken invariant: something that cannot be if our own data is sound.
    #[track_caller]
    pub fn broken(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Fault(Box::new(Fault { what: what.into(), cause: None, retry: false, at: Location::caller() }))
    }

    /// A failure inside that may pass by itself; answered 503.
    #[track_caller]
    pub fn unavailable(
        what: impl Into<Cow<'static, str>>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Fault(Box::new(Fault {
            what: what.into(),
            cause: Some(cause.into()),
            retry: true,
            at: Location::caller(),
        }))
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::FORBIDDEN, "M_FORBIDDEN", error)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::NOT_FOUND, "M_NOT_FOUND", error)
    }

    /// 404 `M_UNRECOGNIZED`.
    pub fn unrecognized(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", error)
    }

    /// 400 `M_UNKNOWN`.
    pub fn unknown(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::BAD_REQUEST, "M_UNKNOWN", error)
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", error)
    }

    /// 400 `M_MISSING_PARAM`.
    pub fn missing_param(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::BAD_REQUEST, "M_MISSING_PARAM", error)
    }

    /// 400 `M_BAD_JSON`: JSON, but not of the shape asked for.
    pub fn bad_json(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::BAD_REQUEST, "M_BAD_JSON", error)
    }

    /// 400 `M_NOT_JSON`.
    pub fn not_json(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::BAD_REQUEST, "M_NOT_JSON", error)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(error: impl Into<Cow<'static, str>>) -> Self {
        Self::told(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", error)
    }

    /// 401 `M_UNKNOWN_TOKEN`.
    pub fn unknown_token(error: impl Into<Cow<'static, str>>, soft_logout: bool) -> Self {
        Self::told(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", error).with("soft_logout", json!(soft_logout))
    }

    /// 401 `M_MISSING_TOKEN`.
    pub fn missing_token() -> Self {
        Self::told(StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "Missing access token")
    }

    /// 429 `M_LIMIT_EXCEEDED`, to be tried again after that long.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        Self::told(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", "Too many requests")
            .with("retry_after_ms", json!(ms))
    }

    /// Adds a key to the body told to the caller; no effect on faults.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        if let Self::Told(told) = &mut self {
            told.extra.insert(key.to_owned(), value);
        }
        self
    }

    /// The errcode the caller sees.
    #[must_use]
    pub fn errcode(&self) -> &str {
        match self {
            Self::Told(told) => &told.errcode,
            Self::Fault(_) => "M_UNKNOWN",
        }
    }

    /// Whether it is about what was asked, and would be said again: a refusal other than 429.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Told(told) if told.status != StatusCode::TOO_MANY_REQUESTS)
    }

    /// The status the caller sees.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Told(told) => told.status,
            Self::Fault(fault) if fault.retry => StatusCode::SERVICE_UNAVAILABLE,
            Self::Fault(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body the caller sees (spec: "Standard error response").
    #[must_use]
    pub fn body(&self) -> Value {
        match self {
            Self::Told(told) => {
                let mut body = told.extra.clone();
                body.insert("errcode".to_owned(), json!(told.errcode));
                body.insert("error".to_owned(), json!(told.error));
                Value::Object(body)
            }
            Self::Fault(fault) if fault.retry => {
                json!({"errcode": "M_UNKNOWN", "error": "The server cannot do this right now"})
            }
            Self::Fault(_) => json!({"errcode": "M_UNKNOWN", "error": "Internal server error"}),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(told) => write!(f, "{} {}: {}", told.status.as_u16(), told.errcode, told.error),
            Self::Fault(fault) => {
                write!(f, "{}", fault.what)?;
                let mut cause: Option<&dyn std::error::Error> =
                    fault.cause.as_deref().map(|c| c as &dyn std::error::Error);
                while let Some(c) = cause {
                    write!(f, ": {c}")?;
                    cause = c.source();
                }
                write!(f, " ({}:{})", fault.at.file(), fault.at.line())
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Turns an absence into 404 `M_NOT_FOUND`, said where it is asked for and never by itself.
pub trait OrNotFound<T> {
    /// The value, or 404 naming the thing that is not there.
    fn or_not_found(self, what: &str) -> Result<T>;
}

impl<T> OrNotFound<T> for Option<T> {
    fn or_not_found(self, what: &str) -> Result<T> {
        self.ok_or_else(|| Error::not_found(format!("{what} not found")))
    }
}

/// Names what was being done when something failed inside.
pub trait Doing<T> {
    /// The value, or a fault.
    #[track_caller]
    fn doing(self, what: &'static str) -> Result<T>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Doing<T> for std::result::Result<T, E> {
    #[track_caller]
    fn doing(self, what: &'static str) -> Result<T> {
        match self {
            Ok(v) => Ok(v),
            Err(e) => Err(Error::fault(what, e)),
        }
    }
}
