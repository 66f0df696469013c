//! Syncing.

use std::{sync::Arc, time::Duration};

use hearth_base::{Error, Result};
use hearth_service::sync::{Ask, Filter};

use crate::{
    Cx,
    extract::{Client, Guests},
    respond::RawJson,
    routes::Routes,
};

mod old;

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(sync).merge(old::routes())
}

mod since {
    //! `GET /sync`. Ruma's type reads a filter into its parts on every request; ours leaves it as text, so that one made
    //! ready before is found by it. It also knows the unstable name of `use_state_after` (MSC4222).
    use ruma::{
        api::{auth_scheme::AccessToken, request, response},
        metadata,
        presence::PresenceState,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/sync",
            1.1 => "/_matrix/client/v3/sync",
        }
    }

    /// What is wanted.
    #[request]
    pub struct Request {
        /// JSON, or the number of a filter kept with us.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub filter: Option<String>,
        /// The `next_batch` of the last answer.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub since: Option<String>,
        /// All state, changed or not.
        #[ruma_api(query)]
        #[serde(default)]
        pub full_state: bool,
        /// Whether the user is here.
        #[ruma_api(query)]
        #[serde(default)]
        pub set_presence: PresenceState,
        /// How long to wait for news, ms.
        #[ruma_api(query)]
        #[serde(default)]
        pub timeout: u64,
        /// State at the end of the timeline.
        #[ruma_api(query)]
        #[serde(default)]
        pub use_state_after: bool,
        /// The same by its unstable name.
        #[ruma_api(query)]
        #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
        pub use_state_after_unstable: bool,
    }

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

/// What changed since the last time, or everything.
async fn sync(cx: Cx, req: Client<since::Request, Guests>) -> Result<RawJson> {
    let (who, body) = (&req.requester, req.body);
    // Presence itself is its own service's.
    if !matches!(body.set_presence.as_str(), "online" | "offline" | "unavailable") {
        return Err(Error::invalid_param("`set_presence` is `online`, `unavailable` or `offline`"));
    }
    let filter = match body.filter.as_deref().filter(|f| !f.is_empty()) {
        Some(named) => cx.sync.filter(who, named).await?,
        None => Arc::new(Filter::default()),
    };
    let ask = Ask {
        filter,
        since: body.since.filter(|s| !s.is_empty()),
        full_state: body.full_state,
        timeout: Duration::from_millis(body.timeout),
        state_after: body.use_state_after,
        state_after_unstable: body.use_state_after_unstable,
        set_presence: body.set_presence,
    };
    Ok(RawJson(cx.sync.sync(who, &ask).await?.into()))
}
