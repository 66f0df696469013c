//! Accounts: registering, passwords, third-party identifiers, who one is.

use hearth_base::{Error, Result};
use hearth_service::{
    accounts::register::{Newcomer, Password, Registered},
    login::{self, Device},
};
use http::Method;
use ruma::{
    OwnedDeviceId,
    api::client::account::{
        ThirdPartyIdRemovalStatus, change_password, check_registration_token_validity, deactivate, delete_3pid,
        get_3pids, get_username_availability, register, request_openid_token, whoami,
    },
};
use serde::{Deserialize, Deserializer};
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
    #[serde(default, deserialize_with = "flag")]
    inhibit_login: bool,
    #[serde(default, deserialize_with = "flag")]
    refresh_token: bool,
    #[serde(rename = "type")]
    login_type: Option<String>,
    /// Of a guest who becomes a member.
    guest_access_token: Option<String>,
}

/// A boolean, or 0 or 1: some clients know no other.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    let given = Value::deserialize(deserializer)?;
    as_flag(&given).ok_or_else(|| serde::de::Error::custom(format!("{given} is no boolean")))
}

fn as_flag(given: &Value) -> Option<bool> {
    given.as_bool().or(match given.as_u64() {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    })
}

impl SignUp {
    /// The device to be logged in, if any. Later requests may leave out what the first one said.
    fn device(&self, first: &Map<String, Value>, from: login::From) -> Option<Device> {
        let said = |key: &str| first.get(key).and_then(Value::as_str).map(str::to_owned);
        let agreed = |key: &str| first.get(key).and_then(as_flag).unwrap_or(false);
        let device = Device {
            id: self.device_id.clone().or_else(|| said("device_id").map(Into::into)),
            display_name: self.initial_device_display_name.clone().or_else(|| said("initial_device_display_name")),
            refreshable: self.refresh_token || agreed("refresh_token"),
            from,
        };
        (!self.inhibit_login && !agreed("inhibit_login")).then_some(device)
    }
}

/// How application services register their users.
const APPSERVICE: &str = "m.login.application_service";

/// Makes an account, once the newcomer has proved what is asked of them.
async fn sign_up(cx: Cx, req: Public<As<register::v3::Request, SignUp>>) -> Result<Json<Value>> {
    let asked = &req.body.body;
    let ip = req.origin.ip;
    cx.limits().would_address(Limit::Registration, ip)?;
    if asked.login_type.as_deref() == Some(APPSERVICE) {
        // There are no application services, so no token is one's.
        return Err(Error::unknown_token("Unknown application service token", false));
    }
    match kind(req.uri.query()).as_deref() {
        None | Some("user") => {}
        Some("guest") => {
            cx.limits().address(Limit::Registration, ip)?;
            let name = asked.initial_device_display_name.clone();
            return Ok(answer(cx.accounts.register_guest(name, req.origin.from()).await?));
        }
        Some(_) => return Err(Error::invalid_param("kind is `user` or `guest`")),
    }
    let mut operation = Operation {
        user: None,
        method: &Method::POST,
        path: req.uri.path(),
        json: &req.json,
        origin: &req.origin,
        keeps: None,
    };
    if let Some((user_id, first)) = uiaa::registered(&cx, &operation).await? {
        cx.limits().address(Limit::Registration, ip)?;
        let session = match asked.device(&first, req.origin.from()) {
            Some(device) => Some(cx.login.open_registered(user_id.clone(), device).await?),
            None => None,
        };
        return Ok(answer(Registered { user_id, session: session.map(|s| (s.device_id, s.minted)) }));
    }
    let guest = match &asked.guest_access_token {
        Some(token) => Some(cx.login.guest(token).await?),
        None => None,
    };
    let typed = asked.password.as_deref();
    cx.accounts.may_register(asked.username.as_deref(), typed, guest.as_deref()).await?;
    operation.keeps = typed;
    let proof = uiaa::run(&cx, &operation, &uiaa::for_newcomers(cx.accounts.settings())).await?;
    if guest.is_none() && proof.request.contains_key("guest_access_token") {
        return Err(Error::missing_param("guest_access_token is not kept between requests, and has to be sent again"));
    }
    let said = |key: &str| proof.request.get(key).and_then(Value::as_str).map(str::to_owned);
    let result = |stage: &str| proof.results.get(stage).and_then(Value::as_str).map(str::to_owned);
    let typed = asked.password.clone().map(Password::Plain);
    let newcomer = Newcomer {
        username: asked.username.clone().or_else(|| said("username")),
        password: typed.or_else(|| proof.password_hash().map(Password::Hashed)),
        registration_token: result(uiaa::REGISTRATION_TOKEN),
        consent_version: result(uiaa::TERMS),
        device: asked.device(&proof.request, req.origin.from()),
        guest,
    };
    cx.limits().address(Limit::Registration, ip)?;
    let registered = cx.accounts.register(newcomer).await?;
    if let Some(session) = proof.session {
        cx.login.spend_on_registration(session, &registered.user_id).await?;
    }
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
