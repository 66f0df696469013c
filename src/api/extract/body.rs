//! The bytes of a body: read up to a limit, and looked at for what no decoder would find wrong.

use axum::body::Body;
use bytes::Bytes;
use hearth_base::{Error, Result};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};

pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err(Error::unknown("The body of the request was cut off")),
    }
}

fn too_large(limit: usize) -> Error {
    Error::too_large(format!("The body of this request may have {limit} bytes at most"))
}

/// Bodies are objects. Serde would take a list for a struct as well, and some endpoints never look.
pub(super) fn check_object(json: &[u8]) -> Result<()> {
    // Nor does it read the text of fields that nobody asks for.
    if std::str::from_utf8(json).is_err() {
        return Err(not_json());
    }
    match json.iter().find(|b| !b.is_ascii_whitespace()) {
        None if json.is_empty() => Ok(()),
        Some(b'{') => Ok(()),
        _ if is_json(json) => Err(Error::bad_json("The body must be a JSON object")),
        _ => Err(not_json()),
    }
}

pub(super) fn check_depth(json: &[u8]) -> Result<()> {
    if !hearth_base::nests_too_deep(json) {
        return Ok(());
    }
    if is_json(json) { Err(Error::bad_json("The body nests too deep")) } else { Err(not_json()) }
}

pub(super) fn is_json(json: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok()
}

pub(super) fn not_json() -> Error {
    Error::not_json("The body is not JSON")
}
