//! Accounts: the registration by shared secret (`register_new_matrix_user`).

use hearth_base::Result;
use hearth_service::{accounts::register::BySecret, login::Device};
use ruma::OwnedDeviceId;
use serde_json::{Value, json};

use crate::{Cx, extract::Public, respond::Json, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(nonce).on(register)
}

mod begin {
    //! `GET /_synapse/admin/v1/register`: a nonce.
    use ruma::{
        api::{auth_scheme::NoAuthentication, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: NoAuthentication,
        path: "/_synapse/admin/v1/register",
    }

    /// No parameters.
    #[request]
    pub struct Request {}

    /// A nonce, good for one registration within a minute.
    #[response]
    pub struct Response {
        /// The nonce.
        pub nonce: String,
    }
}

mod finish {
    //! `POST /_synapse/admin/v1/register`: the registration.
    use ruma::{
        OwnedDeviceId,
        api::{auth_scheme::NoAuthentication, request, response},
        metadata,
    };

    metadata! {
        method: POST,
        rate_limited: false,
        authentication: NoAuthentication,
        path: "/_synapse/admin/v1/register",
    }

    /// Who is to be registered, authenticated by HMAC-SHA1 under the shared secret over nonce, user name, password,
    /// `admin` or `notadmin` and, if there is one, the user type, each parted by NUL.
    #[request]
    pub struct Request {
        /// From the GET.
        pub nonce: String,
        /// The localpart.
        pub username: String,
        /// The password.
        pub password: String,
        /// The HMAC, hexadecimal.
        pub mac: String,
        /// First display name.
        pub displayname: Option<String>,
        /// A server administrator.
        pub admin: Option<bool>,
        /// `bot`, `support` or one of the operator's own.
        pub user_type: Option<String>,
        /// Make no session.
        pub inhibit_login: Option<bool>,
        /// Id of the first device.
        pub device_id: Option<OwnedDeviceId>,
        /// Name of the first device.
        pub initial_device_display_name: Option<String>,
    }

    /// Made by the handler.
    #[response]
    pub struct Response {}
}

/// A nonce.
async fn nonce(cx: Cx, _: Public<begin::Request>) -> Result<begin::Response> {
    Ok(begin::Response { nonce: cx.accounts.nonce()? })
}

/// The registration.
async fn register(cx: Cx, req: Public<finish::Request>) -> Result<Json<Value>> {
    let asked = req.body;
    let device = Device {
        id: asked.device_id,
        display_name: asked.initial_device_display_name,
        refreshable: false,
        from: req.origin.from(),
    };
    let by = BySecret {
        nonce: asked.nonce,
        username: asked.username,
        password: asked.password,
        displayname: asked.displayname,
        admin: asked.admin.unwrap_or(false),
        user_type: asked.user_type,
        mac: asked.mac,
        device: (!asked.inhibit_login.unwrap_or(false)).then_some(device),
    };
    let made = cx.accounts.register_by_secret(by).await?;
    let mut answer = json!({"user_id": made.user_id, "home_server": cx.settings.server_name});
    if let (Some(answer), Some((device, minted))) = (answer.as_object_mut(), made.session) {
        let device: OwnedDeviceId = device;
        answer.insert("device_id".to_owned(), json!(device));
        answer.insert("access_token".to_owned(), json!(minted.access_token));
    }
    Ok(Json(answer))
}
