//! Who asks: access tokens to [`Requester`]. The lookup is a cache hit on nearly every request; when a device was
//! last seen is noted in memory and written together with others, once a minute at most. What other servers say of
//! themselves is read by [`x_matrix`].

use std::{borrow::Cow, sync::Arc};

use hearth_base::{Error, Result, requester::Requester};
use http::{StatusCode, header::AUTHORIZATION, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::{
    Cx,
    extract::{Admit, Origin},
};

pub mod x_matrix;

/// The access token of a request: `Authorization: Bearer …`, or the query parameter `access_token` (deprecated, and a
/// MUST: client-server API, "Using access tokens").
///
/// # Errors
/// 401 `M_MISSING_TOKEN` for another scheme or an unreadable header.
pub fn token(parts: &Parts) -> Result<Option<Cow<'_, str>>> {
    if let Some(header) = parts.headers.get(AUTHORIZATION) {
        let text = header.to_str().map_err(|_| Error::missing_token())?;
        return match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                Ok(Some(Cow::Borrowed(token.trim())))
            }
            _ => Err(Error::missing_token()),
        };
    }
    let query = parts.uri.query().unwrap_or_default();
    let Some(raw) = query.split('&').find_map(|pair| pair.strip_prefix("access_token=")) else { return Ok(None) };
    let token = percent_decode_str(raw).decode_utf8().map_err(|_| Error::missing_token())?;
    Ok(if token.is_empty() { None } else { Some(token) })
}

/// Who the token belongs to, if an endpoint that admits `A` is open to them.
///
/// # Errors
/// 401 `M_UNKNOWN_TOKEN` (with `soft_logout` where the session can go on), 401 `M_USER_LOCKED`, 403
/// `M_GUEST_ACCESS_FORBIDDEN`.
pub async fn requester<A: Admit>(cx: &Cx, token: &str, parts: &Parts, origin: &Origin) -> Result<Arc<Requester>> {
    let session = cx.login.authenticate(token).await?;
    if session.locked && !A::LOCKED {
        return Err(Error::told(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked")
            .with("soft_logout", json!(true)));
    }
    if session.requester.is_guest && !A::GUESTS {
        return Err(Error::told(
            StatusCode::FORBIDDEN,
            "M_GUEST_ACCESS_FORBIDDEN",
            format!("Guests may not use {} {}", parts.method, parts.uri.path()),
        ));
    }
    cx.login.seen(&session, origin.ip, origin.user_agent());
    Ok(session.requester.clone())
}
