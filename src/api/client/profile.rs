//! Profiles.

use std::sync::Arc;

use hearth_base::{Error, Requester, Result};
use ruma::api::client::profile::get_profile;
use serde_json::value::RawValue;

use crate::{
    Cx,
    extract::{Client, Guests, OptionalClient, Origin},
    limits::Limit,
    respond::RawJson,
    routes::Routes,
};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(profile).on(field).on(set_field).on(delete_field)
}

mod reading {
    //! `GET /profile/{userId}/{keyName}`.
    use ruma::{
        OwnedUserId,
        api::{auth_scheme::NoAccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: NoAccessToken,
        history: {
            unstable("uk.tcpip.msc4133") => "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
            1.0 => "/_matrix/client/r0/profile/{user_id}/{field}",
            1.1 => "/_matrix/client/v3/profile/{user_id}/{field}",
        }
    }

    /// Which field of whose profile.
    #[request]
    pub struct Request {
        /// Whose.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// Which.
        #[ruma_api(path)]
        pub field: String,
    }

    /// The answer is made by the handler.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

mod writing {
    //! `PUT /profile/{userId}/{keyName}`, for any field and value.
    use std::collections::BTreeMap;

    use ruma::{
        OwnedUserId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };
    use serde_json::value::RawValue;

    metadata! {
        method: PUT,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            unstable("uk.tcpip.msc4133") => "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
            1.0 => "/_matrix/client/r0/profile/{user_id}/{field}",
            1.1 => "/_matrix/client/v3/profile/{user_id}/{field}",
        }
    }

    /// A field and its value.
    #[request]
    pub struct Request {
        /// Whose.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// Which.
        #[ruma_api(path)]
        pub field: String,
        /// Whether rooms are to show it (MSC4069).
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub propagate: Option<bool>,
        /// The value, under the name of the field.
        #[ruma_api(body)]
        pub body: BTreeMap<String, Box<RawValue>>,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

mod removing {
    //! `DELETE /profile/{userId}/{keyName}`.
    use ruma::{
        OwnedUserId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: DELETE,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            unstable("uk.tcpip.msc4133") => "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}",
            1.16 => "/_matrix/client/v3/profile/{user_id}/{field}",
        }
    }

    /// Which field of whose profile.
    #[request]
    pub struct Request {
        /// Whose.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// Which.
        #[ruma_api(path)]
        pub field: String,
        /// Whether rooms are to show it (MSC4069).
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub propagate: Option<bool>,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

fn raw(json: Box<RawValue>) -> RawJson {
    RawJson(Box::<str>::from(json).into_string().into())
}

/// Profiles are asked for by name, so strangers could go through all names.
fn limit(cx: &Cx, who: Option<&Arc<Requester>>, origin: &Origin) -> Result<()> {
    match who {
        Some(who) => cx.limits().user(Limit::Profile, who),
        None => cx.limits().address(Limit::Profile, origin.ip),
    }
}

async fn profile(cx: Cx, req: OptionalClient<get_profile::v3::Request>) -> Result<RawJson> {
    limit(&cx, req.requester.as_ref(), &req.origin)?;
    cx.profile.get(req.requester.as_deref(), &req.body.user_id).await.map(raw)
}

async fn field(cx: Cx, req: OptionalClient<reading::Request>) -> Result<RawJson> {
    limit(&cx, req.requester.as_ref(), &req.origin)?;
    cx.profile.field(req.requester.as_deref(), &req.body.user_id, &req.body.field).await.map(raw)
}

/// Of their profile guests change the display name only (client-server API, "Guest access").
fn may_change(who: &Requester, field: &str) -> Result<()> {
    if !who.is_guest || field == "displayname" {
        return Ok(());
    }
    let why = "Guests may change their display name only";
    Err(Error::told(http::StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", why))
}

async fn set_field(cx: Cx, req: Client<writing::Request, Guests>) -> Result<writing::Response> {
    let body = &req.body;
    may_change(&req.requester, &body.field)?;
    let value = body.body.get(&body.field);
    let value = value.ok_or_else(|| Error::missing_param(format!("The body has no `{}`", body.field)))?;
    cx.profile.set(&req.requester, &body.user_id, &body.field, value, body.propagate.unwrap_or(true)).await?;
    Ok(writing::Response {})
}

async fn delete_field(cx: Cx, req: Client<removing::Request, Guests>) -> Result<removing::Response> {
    let body = &req.body;
    may_change(&req.requester, &body.field)?;
    cx.profile.delete(&req.requester, &body.user_id, &body.field, body.propagate.unwrap_or(true)).await?;
    Ok(removing::Response {})
}
