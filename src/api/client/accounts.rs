//! Accounts: registering, passwords, third-party identifiers, who one is.

use hearth_base::{Error, Result};
use hearth_service::{
    accounts::register::{Newcomer, Registered},
    login::Device,
};
use http::Method;
use ruma::{
    OwnedDeviceId,
    api::client::account::{
        ThirdPartyIdRemovalStatus, change_password, check_registration_token_validity, deactivate, delete_3pid,
        get_3pids, get_username_availability, register, request_openid_token, whoami,
    },
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Cx,
    extract::{As, Client, Guests, Public},
    limits::Limit,
    respond::Json,
    routes::Routes,
    uiaa::{self, Operation},
};

pub mod fallback;
pub mod moderation;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(sign_up)
        .on(name_available)
        .on(token_validity)
        .on(who_am_i)
        .on(new_password)
        .on(close)
        .on(threepids)
        .on(drop_threepid)
        .on(openid_token)
        .on(password_policy)
        .merge(fallback::routes())
        .merge(moderation::routes())
}

#[derive(Debug, Deserialize)]
pub(crate) struct SignUp {
    username: Option<String>,
    password: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
    #[serde(rename = "type")]
    login_type: Option<String>,
    /// Of a guest who becomes a member.
    guest_access_token: Option<String>,
}

/// How application services register their users.
const APPSERVICE: &str = "m.login.application_service";

/// Makes an account, once the newcomer has proved what is asked of them.
async fn sign_up(cx: Cx, req: Public<As<register::v3::Request, SignUp>>) -> Result<Json<Value>> {
    let SignUp { mut username, password, device_id, initial_device_display_name: mut name, .. } = req.body.body;
    let ip = req.origin.ip;
    cx.limits().would_address(Limit::Registration, ip)?;
    if req.body.body.login_type.as_deref() == Some(APPSERVICE) {
        // There are no application services, so no token is one's.
        return Err(Error::unknown_token("Unknown application service token", false));
    }
    match kind(req.uri.query()).as_deref() {
        None | Some("user") => {}
        Some("guest") => {
            cx.limits().address(Limit::Registration, ip)?;
            return Ok(answer(cx.accounts.register_guest(name, req.origin.from()).await?));
        }
        Some(_) => return Err(Error::invalid_param("kind is `user` or `guest`")),
    }
    let guest = match &req.body.body.guest_access_token {
        Some(token) => Some(cx.login.guest(token).await?),
        None => None,
    };
    cx.accounts.may_register(username.as_deref(), password.as_deref(), guest.as_deref()).await?;
    let operation =
        Operation { user: None, method: &Method::POST, path: req.uri.path(), json: &req.json, origin: &req.origin };
    let proof = uiaa::run(&cx, &operation, &uiaa::for_newcomers(cx.accounts.settings())).await?;
    // Later requests may leave out what the first one said.
    let said = |key: &str| proof.request.get(key).and_then(Value::as_str).map(str::to_owned);
    let agreed = |key: &str| proof.request.get(key).and_then(Value::as_bool).unwrap_or(false);
    username = username.or_else(|| said("username"));
    name = name.or_else(|| said("initial_device_display_name"));
    for (secret, is_missing) in [("password", password.is_none()), ("guest_access_token", guest.is_none())] {
        if is_missing && proof.request.contains_key(secret) {
            let why = format!("{secret} is not kept between requests, and has to be sent again");
            return Err(Error::missing_param(why));
        }
    }
    let device = Device {
        id: device_id.or_else(|| said("device_id").map(Into::into)),
        display_name: name,
        refreshable: req.body.body.refresh_token || agreed("refresh_token"),
        from: req.origin.from(),
    };
    let result = |stage: &str| proof.results.get(stage).and_then(Value::as_str).map(str::to_owned);
    let newcomer = Newcomer {
        username,
        password,
        registration_token: result(uiaa::REGISTRATION_TOKEN),
        consent_version: result(uiaa::TERMS),
        device: (!req.body.body.inhibit_login && !agreed("inhibit_login")).then_some(device),
        guest,
    };
    cx.limits().address(Limit::Registration, ip)?;
    let registered = cx.accounts.register(newcomer).await?;
    proof.spend(&cx).await?;
    Ok(answer(registered))
}

/// The query parameter `kind`.
fn kind(query: Option<&str>) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query?.as_bytes());
    pairs.find(|(key, _)| key == "kind").map(|(_, kind)| kind.into_owned())
}

/// Ruma's type would write a device of `null` where there is none.
fn answer(registered: Registered) -> Json<Value> {
    // Old clients read the server's name.
    let mut answer = Map::from_iter([
        ("user_id".to_owned(), json!(registered.user_id)),
        ("home_server".to_owned(), json!(registered.user_id.server_name())),
    ]);
    if let Some((device, minted)) = registered.session {
        answer.insert("device_id".to_owned(), json!(device));
        answer.insert("access_token".to_owned(), json!(minted.access_token));
        if let Some(token) = minted.refresh_token {
            answer.insert("refresh_token".to_owned(), json!(token));
        }
        if let Some(left) = minted.expires_in {
            answer.insert("expires_in_ms".to_owned(), json!(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
        }
    }
    Json(Value::Object(answer))
}

/// Whether a name can be registered.
async fn name_available(
    cx: Cx,
    req: Public<get_username_availability::v3::Request>,
) -> Result<get_username_availability::v3::Response> {
    cx.limits().address(Limit::UiaBegin, req.origin.ip)?;
    if !cx.accounts.settings().registration {
        return Err(Error::forbidden("Registration has been disabled on this server"));
    }
    cx.accounts.available(&req.body.username).await?;
    Ok(get_username_availability::v3::Response::new(true))
}

/// Whether a registration token is good.
async fn token_validity(
    cx: Cx,
    req: Public<check_registration_token_validity::v1::Request>,
) -> Result<check_registration_token_validity::v1::Response> {
    cx.limits().address(Limit::RegistrationTokenValidity, req.origin.ip)?;
    if !cx.accounts.settings().registration {
        return Err(Error::forbidden("Registration has been disabled on this server"));
    }
    let valid = cx.accounts.registration_token_valid(&req.body.token).await?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

/// Whose token this is.
pub(crate) async fn who_am_i(_: Cx, req: Client<whoami::v3::Request, Guests>) -> Result<whoami::v3::Response> {
    let mut answer = whoami::v3::Response::new(req.requester.user_id.clone(), req.requester.is_guest);
    answer.device_id.clone_from(&req.requester.device_id);
    Ok(answer)
}

#[derive(Debug, Deserialize)]
pub(crate) struct NewPassword {
    new_password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
}

fn yes() -> bool {
    true
}

/// Changes the password.
async fn new_password(
    cx: Cx,
    req: Client<As<change_password::v3::Request, NewPassword>>,
) -> Result<change_password::v3::Response> {
    // First what a person could mend, so that the confirmation is not spent on it.
    cx.accounts.settings().policy.check(&req.body.body.new_password)?;
    uiaa::confirm(&cx, &req).await?;
    let NewPassword { new_password, logout_devices } = req.body.body;
    cx.accounts.change_password(&req.requester, new_password, logout_devices).await?;
    Ok(change_password::v3::Response::new())
}

#[derive(Debug, Deserialize)]
pub(crate) struct Close {
    #[serde(default)]
    erase: bool,
}

/// Closes the account for good.
async fn close(cx: Cx, req: Client<As<deactivate::v3::Request, Close>>) -> Result<deactivate::v3::Response> {
    uiaa::confirm(&cx, &req).await?;
    cx.accounts.close(&req.requester, req.body.body.erase).await?;
    // Nothing was ever bound at an identity server through us.
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::Success))
}

/// The third-party identifiers of the account.
async fn threepids(cx: Cx, req: Client<get_3pids::v3::Request>) -> Result<Json<Value>> {
    let all = cx.accounts.threepids(&req.requester).await?;
    let all: Vec<Value> = all
        .into_iter()
        .map(|t| {
            json!({"medium": t.medium, "address": t.address, "validated_at": t.validated_ms, "added_at": t.added_ms})
        })
        .collect();
    Ok(Json(json!({ "threepids": all })))
}

/// Takes a third-party identifier off the account.
async fn drop_threepid(cx: Cx, req: Client<delete_3pid::v3::Request>) -> Result<delete_3pid::v3::Response> {
    cx.accounts.drop_threepid(&req.requester, req.body.medium.as_str(), &req.body.address).await?;
    Ok(delete_3pid::v3::Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}

/// A token that tells another service who the user is.
async fn openid_token(
    cx: Cx,
    req: Client<request_openid_token::v3::Request, Guests>,
) -> Result<request_openid_token::v3::Response> {
    if !req.requester.is(&req.body.user_id) {
        return Err(Error::forbidden("OpenID tokens are for oneself only"));
    }
    let token = cx.login.openid(&req.requester).await?;
    Ok(request_openid_token::v3::Response::new(
        token,
        ruma::authentication::TokenType::Bearer,
        cx.settings.server_name.clone(),
        hearth_service::login::OPENID_LIFETIME,
    ))
}

mod policy {
    //! `GET /_matrix/client/v3/password_policy` (MSC2000).
    use ruma::{
        api::{auth_scheme::NoAccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: NoAccessToken,
        history: {
            1.0 => "/_matrix/client/r0/password_policy",
            1.1 => "/_matrix/client/v3/password_policy",
        }
    }

    /// No parameters.
    #[request]
    pub struct Request {}

    /// The answer is made by the handler.
    #[response]
    pub struct Response {}
}

/// What a password must be like.
async fn password_policy(cx: Cx, _: Public<policy::Request>) -> Result<Json<Map<String, Value>>> {
    let policy = &cx.accounts.settings().policy;
    let mut rules = Map::new();
    if policy.enabled {
        if policy.minimum_length > 0 {
            rules.insert("m.minimum_length".to_owned(), json!(policy.minimum_length));
        }
        for (name, needed) in [
            ("m.require_digit", policy.require_digit),
            ("m.require_symbol", policy.require_symbol),
            ("m.require_lowercase", policy.require_lowercase),
            ("m.require_uppercase", policy.require_uppercase),
        ] {
            if needed {
                rules.insert(name.to_owned(), json!(true));
            }
        }
    }
    Ok(Json(rules))
}
