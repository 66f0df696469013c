//! What anybody may ask of a server: its keys, its version, and whose OpenID token this is.

use hearth_base::Result;
use ruma::api::federation::{
    discovery::{get_server_keys, get_server_version},
    openid::get_openid_userinfo,
};

use crate::{Cx, extract::Public, respond::RawJson, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    // The form with a key id is deprecated and means the same ("Publishing Keys").
    Routes::new().also(keys, &["/_matrix/key/v2/server/{key_id}"]).on(version).on(openid_user)
}

/// Our keys, signed by themselves.
async fn keys(cx: Cx, _: Public<get_server_keys::v2::Request>) -> Result<RawJson> {
    cx.server_keys.document().map(RawJson)
}

/// Name and version of this program.
async fn version(_: Cx, _: Public<get_server_version::v1::Request>) -> Result<get_server_version::v1::Response> {
    let mut server = get_server_version::v1::Server::new();
    server.name = Some("Hearth".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut answer = get_server_version::v1::Response::new();
    answer.server = Some(server);
    Ok(answer)
}

/// Whose OpenID token this is.
async fn openid_user(
    cx: Cx,
    req: Public<get_openid_userinfo::v1::Request>,
) -> Result<get_openid_userinfo::v1::Response> {
    let user = cx.login.openid_user(&req.body.access_token).await?;
    Ok(get_openid_userinfo::v1::Response::new(user))
}
