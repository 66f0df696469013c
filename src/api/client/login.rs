//! Logging in and out, refreshing tokens.

use hearth_base::{Error, Result};
use hearth_service::login::{Credential, Device};
use ruma::{
    OwnedDeviceId,
    api::client::session::{get_login_token, get_login_types, login, logout, logout_all, refresh_token},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Cx,
    extract::{As, Client, Everyone, Public},
    limits::Limit,
    respond::Json,
    routes::Routes,
    uiaa,
};

mod fallback;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(flows).on(log_in).on(login_token).on(refresh).on(log_out).on(log_out_everywhere).on(fallback::show)
}

/// Ways to log in.
async fn flows(cx: Cx, _: Public<get_login_types::v3::Request>) -> Result<Json<Value>> {
    let mut flows = Vec::new();
    if cx.accounts.settings().password_login {
        flows.push(json!({"type": "m.login.password"}));
    }
    if cx.login.settings().get_token {
        flows.push(json!({"type": "m.login.token", "get_login_token": true}));
    }
    Ok(Json(json!({ "flows": flows })))
}

/// The body of a login. Ruma's type is not used: it panics where `type` is missing.
#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    /// Before r0.4.0 in place of `identifier`.
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    #[serde(rename = "type")]
    kind: Option<String>,
    user: Option<String>,
    medium: Option<String>,
    address: Option<String>,
    phone: Option<String>,
    number: Option<String>,
}

impl Body {
    fn credential(&mut self) -> Result<Credential> {
        let missing = |what: &str| Error::missing_param(format!("{what} is missing"));
        match self.kind.as_str() {
            "m.login.token" => return self.token.take().map(Credential::Token).ok_or_else(|| missing("token")),
            "m.login.password" => {}
            other => return Err(Error::unknown(format!("Unknown login type {other}"))),
        }
        let password = self.password.take().ok_or_else(|| missing("password"))?;
        let Some(id) = self.identifier.take() else {
            return match (self.user.take(), self.medium.take(), self.address.take()) {
                (Some(typed), ..) => Ok(Credential::User { typed, password }),
                (None, Some(medium), Some(address)) => Ok(Credential::Threepid { medium, address, password }),
                _ => Err(missing("identifier")),
            };
        };
        match id.kind.as_deref() {
            Some("m.id.user") => {
                Ok(Credential::User { typed: id.user.ok_or_else(|| missing("identifier.user"))?, password })
            }
            // The specification's own example has no type.
            Some("m.id.thirdparty") | None => Ok(Credential::Threepid {
                medium: id.medium.ok_or_else(|| missing("identifier.medium"))?,
                address: id.address.ok_or_else(|| missing("identifier.address"))?,
                password,
            }),
            Some("m.id.phone") => Ok(Credential::Threepid {
                medium: "msisdn".to_owned(),
                address: id.phone.or(id.number).ok_or_else(|| missing("identifier.phone"))?,
                password,
            }),
            Some(_) => Err(Error::unknown("Unknown identifier type")),
        }
    }
}

/// The part of a user id that names its account here; of a name without server all of it.
fn localpart(typed: &str) -> &str {
    let Some(rest) = typed.strip_prefix('@') else { return typed };
    rest.split_once(':').map_or(rest, |(name, _)| name)
}

/// Opens a session for who proves to be its owner.
async fn log_in(cx: Cx, req: Public<As<login::v3::Request, Body>>) -> Result<login::v3::Response> {
    let mut body = req.body.body;
    let limits = cx.limits();
    limits.address(Limit::LoginAddress, req.origin.ip)?;
    let credential = body.credential()?;
    let typed = match &credential {
        // Whoever guesses has so many tries at an account, however its name is written.
        Credential::User { typed, .. } => Some(localpart(typed).to_lowercase()),
        Credential::Threepid { address, .. } => Some(address.to_lowercase()),
        Credential::Token(_) => None,
    };
    if let Some(typed) = &typed {
        limits.would(Limit::LoginFailed, typed)?;
    }
    let (user_id, account) = match cx.login.prove(credential).await {
        Ok(proved) => proved,
        Err(e) => {
            if let (Some(typed), "M_FORBIDDEN") = (&typed, e.errcode()) {
                limits.check(Limit::LoginFailed, typed)?;
            }
            return Err(e);
        }
    };
    limits.check(Limit::LoginAccount, account.user_nid)?;
    let device = Device {
        id: body.device_id,
        display_name: body.initial_device_display_name,
        refreshable: body.refresh_token,
        from: req.origin.from(),
    };
    let granted = cx.login.open(user_id, &account, device).await?;
    let mut answer = login::v3::Response::new(granted.user_id, granted.minted.access_token, granted.device_id);
    answer.refresh_token = granted.minted.refresh_token;
    answer.expires_in = granted.minted.expires_in;
    #[expect(deprecated, reason = "old clients read it")]
    {
        answer.home_server = Some(answer.user_id.server_name().to_owned());
    }
    if let Some(base) = &cx.settings.public_baseurl {
        answer.well_known = Some(login::v3::DiscoveryInfo::new(login::v3::HomeserverInfo::new(base.clone())));
    }
    Ok(answer)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Nothing {}

/// A token to log in another device with.
async fn login_token(
    cx: Cx,
    req: Client<As<get_login_token::v1::Request, Nothing>>,
) -> Result<get_login_token::v1::Response> {
    let settings = cx.login.settings();
    if !settings.get_token {
        return Err(Error::unrecognized("Sessions cannot log in other devices on this server"));
    }
    if settings.get_token_confirmed {
        uiaa::confirm(&cx, &req).await?;
    }
    let (token, lifetime) = cx.login.login_token(&req.requester).await?;
    Ok(get_login_token::v1::Response::new(lifetime, token))
}

/// The next pair of tokens.
async fn refresh(cx: Cx, req: Public<refresh_token::v3::Request>) -> Result<refresh_token::v3::Response> {
    let minted = cx.login.refresh(&req.body.refresh_token).await?;
    let mut answer = refresh_token::v3::Response::new(minted.access_token);
    answer.refresh_token = minted.refresh_token;
    answer.expires_in_ms = minted.expires_in;
    Ok(answer)
}

/// Ends this session.
async fn log_out(cx: Cx, req: Client<logout::v3::Request, Everyone>) -> Result<logout::v3::Response> {
    cx.login.logout(&req.requester).await?;
    Ok(logout::v3::Response::new())
}

/// Ends all sessions of the user.
async fn log_out_everywhere(
    cx: Cx,
    req: Client<logout_all::v3::Request, Everyone>,
) -> Result<logout_all::v3::Response> {
    cx.login.logout_all(&req.requester).await?;
    Ok(logout_all::v3::Response::new())
}
