//! What anybody may ask of a server: its keys, its version, and whose OpenID token this is.

use std::collections::BTreeMap;

use hearth_base::{Error, Result};
use hearth_service::server_keys::Criteria;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::{
        discovery::{get_remote_server_keys, get_remote_server_keys_batch, get_server_keys, get_server_version},
        openid::get_openid_userinfo,
    },
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    Cx,
    extract::{Origin, Public},
    limits::Limit,
    respond::{Json, RawJson},
    routes::Routes,
};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    // The form with a key id is deprecated and means the same ("Publishing Keys").
    Routes::new()
        .also(keys, &["/_matrix/key/v2/server/{key_id}"])
        .on(others_keys)
        .on(one_of_others_keys)
        .on(many_others_keys)
        .on(version)
        .on(openid_user)
}

/// Documents of others, signed by us as well.
#[derive(Serialize)]
struct Vouched {
    server_keys: Vec<Box<RawValue>>,
}

async fn vouch(cx: &Cx, origin: &Origin, wanted: BTreeMap<OwnedServerName, Criteria>) -> Result<Json<Vouched>> {
    cx.limits().address(Limit::Notary, origin.ip)?;
    let server_keys = cx.server_keys.vouch(wanted).await?;
    Ok(Json(Vouched { server_keys }))
}

fn ms(ts: MilliSecondsSinceUnixEpoch) -> i64 {
    i64::from(ts.get())
}

/// Keys of another server.
async fn others_keys(cx: Cx, req: Public<get_remote_server_keys::v2::Request>) -> Result<Json<Vouched>> {
    let criteria = Criteria { until: Some(ms(req.body.minimum_valid_until_ts)), ..Criteria::default() };
    vouch(&cx, &req.origin, BTreeMap::from([(req.body.server_name, criteria)])).await
}

mod one_key {
    //! `GET /_matrix/key/v2/query/{serverName}/{keyId}`, deprecated and without a type in ruma.
    use ruma::{
        OwnedServerName,
        api::{auth_scheme::NoAuthentication, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: NoAuthentication,
        path: "/_matrix/key/v2/query/{server_name}/{key_id}",
    }

    /// Which key of which server.
    #[request]
    pub struct Request {
        /// The server.
        #[ruma_api(path)]
        pub server_name: OwnedServerName,
        /// The key.
        #[ruma_api(path)]
        pub key_id: String,
    }

    /// The answer is made by the handler.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

/// A key of another server: its document, if the key is in it or not.
async fn one_of_others_keys(cx: Cx, req: Public<one_key::Request>) -> Result<Json<Vouched>> {
    let criteria = Criteria { keys: BTreeMap::from([(req.body.key_id, None)]), ..Criteria::default() };
    vouch(&cx, &req.origin, BTreeMap::from([(req.body.server_name, criteria)])).await
}

/// Keys of other servers.
async fn many_others_keys(cx: Cx, req: Public<get_remote_server_keys_batch::v2::Request>) -> Result<Json<Vouched>> {
    let wanted = req.body.server_keys.into_iter().map(|(server, keys)| {
        let keys = keys.into_iter().map(|(id, criteria)| (id.to_string(), criteria.minimum_valid_until_ts.map(ms)));
        (server, Criteria { keys: keys.collect(), until: None })
    });
    vouch(&cx, &req.origin, wanted.collect()).await
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

mod userinfo {
    //! `GET /_matrix/federation/v1/openid/userinfo`, which may lack its token: then it is not authorised (401).
    use ruma::{
        api::{auth_scheme::NoAuthentication, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: NoAuthentication,
        path: "/_matrix/federation/v1/openid/userinfo",
    }

    /// The token.
    #[request]
    pub struct Request {
        /// What the user was given.
        #[ruma_api(query)]
        #[serde(default)]
        pub access_token: Option<String>,
    }

    /// The answer is made by the handler.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

/// Whose OpenID token this is.
async fn openid_user(cx: Cx, req: Public<userinfo::Request>) -> Result<get_openid_userinfo::v1::Response> {
    let token = req.body.access_token.ok_or_else(Error::missing_token)?;
    let user = cx.login.openid_user(&token).await?;
    Ok(get_openid_userinfo::v1::Response::new(user))
}
