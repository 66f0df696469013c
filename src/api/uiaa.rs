//! User-interactive authentication (client-server API, "User-Interactive Authentication API").
//!
//! A handler whose operation needs it calls [`confirm`] first and goes on when it returns; until then the caller is
//! answered 401 with what is still to be done. Sessions live in the database, are bound to operation and user, and
//! are spent by the operation they were begun for.

use hearth_base::{Error, Result, ids::UserNid};
use hearth_service::login::uia::has_registered;
use http::{Method, StatusCode};
use ruma::{OwnedUserId, api::IncomingRequest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Cx,
    extract::{Admit, Client, Origin},
    limits::Limit,
};

/// The password of the account.
pub const PASSWORD: &str = "m.login.password";
/// Nothing but the wish.
pub const DUMMY: &str = "m.login.dummy";
/// A token handed out by an administrator.
pub const REGISTRATION_TOKEN: &str = "m.login.registration_token";
/// Consent to the terms.
pub const TERMS: &str = "m.login.terms";

/// What an operation asks for.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// Ways to do it, each a list of stages.
    pub flows: Vec<Vec<&'static str>>,
    /// What stages need to know, by stage.
    pub params: Map<String, Value>,
}

impl Challenge {
    /// One stage, without parameters.
    #[must_use]
    pub fn stage(stage: &'static str) -> Self {
        Self { flows: vec![vec![stage]], params: Map::new() }
    }
}

/// An operation that is to be authenticated.
#[derive(Debug)]
pub struct Operation<'a> {
    /// Who does it, unless registering.
    pub user: Option<UserNid>,
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// The body sent, with `auth` inside if the caller has got so far.
    pub json: &'a [u8],
    /// Whence.
    pub origin: &'a Origin,
    /// The password in it, if a hash of that is to be kept for later requests.
    pub keeps: Option<&'a str>,
}

impl Operation<'_> {
    /// What a session knows it by.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn body(&self) -> Result<Body> {
        if self.json.is_empty() {
            return Ok(Body { auth: None });
        }
        serde_json::from_slice(self.json).map_err(|e| Error::bad_json(e.to_string()))
    }
}

/// An authentication that is complete.
#[derive(Debug, Default)]
pub struct Proof {
    /// Its session, if it took more than one request.
    pub session: Option<String>,
    /// What each stage gave.
    pub results: Map<String, Value>,
    /// Parameters of the first request, without secrets.
    pub request: Map<String, Value>,
}

/// Under what name the hash of the first request's password is kept. Nobody else writes there.
const HASH: &str = "password_hash";

impl Proof {
    /// The hash of the password that the first request brought, if it is kept ([`Operation::keeps`]).
    #[must_use]
    pub fn password_hash(&self) -> Option<String> {
        self.request.get(HASH).and_then(Value::as_str).map(str::to_owned)
    }

    /// Ends the session, so that it proves nothing more. After the operation succeeded, if that may fail for reasons
    /// the caller can mend.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn spend(self, cx: &Cx) -> Result<bool> {
        match self.session {
            Some(session) => cx.login.end_uia(session).await,
            None => Ok(true),
        }
    }
}

/// Parameters that are not kept.
const SECRETS: [&str; 4] = ["password", "new_password", "guest_access_token", "token"];
/// Bytes of a first request that are kept at most.
const KEPT: usize = 8192;

#[derive(Deserialize)]
struct Body {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(rename = "type")]
    kind: Option<String>,
    session: Option<String>,
    #[serde(flatten)]
    data: Map<String, Value>,
}

/// Lets a user's request through once they have proved again, by password, that it is they.
///
/// # Errors
/// 401 with flows and session while there is something left to do; 403 if the session was begun for something else.
pub async fn confirm<R: IncomingRequest, A: Admit>(cx: &Cx, req: &Client<R, A>) -> Result<()> {
    let operation = Operation {
        user: Some(req.requester.user_nid),
        method: &R::METHOD,
        path: req.uri.path(),
        json: &req.json,
        origin: &req.origin,
        keeps: None,
    };
    let proof = run(cx, &operation, &Challenge::stage(PASSWORD)).await?;
    if proof.spend(cx).await? { Ok(()) } else { Err(Error::forbidden("This authentication has been used already")) }
}

/// Takes an operation one step further: a proof if all is done, else the error that says what is left.
///
/// # Errors
/// As [`confirm`].
pub async fn run(cx: &Cx, operation: &Operation<'_>, challenge: &Challenge) -> Result<Proof> {
    let name = operation.name();
    let Some(auth) = operation.body()?.auth else {
        let session = begin(cx, operation, name).await?;
        return Err(ask(challenge, &session, &Map::new(), None));
    };
    let mut proof = match &auth.session {
        None => Proof { request: kept(operation.json), ..Proof::default() },
        Some(id) => {
            let Some(known) = cx.login.uia(id).await?.filter(|known| !has_registered(known)) else {
                let session = begin(cx, operation, name).await?;
                let why = Error::unknown("This authentication session is unknown or has run out");
                return Err(ask(challenge, &session, &Map::new(), Some(why)));
            };
            if known.operation != name || known.user_nid.map(UserNid) != operation.user {
                return Err(Error::forbidden("This authentication was begun for another operation"));
            }
            Proof { session: auth.session.clone(), results: first(&known.completed), request: first(&known.request) }
        }
    };
    let mut failed = None;
    if let Some(kind) = &auth.kind
        && !proof.results.contains_key(kind)
    {
        match stage(cx, operation, challenge, kind, &auth.data).await {
            Ok(result) => {
                if let Some(session) = &proof.session {
                    cx.login.complete_uia(session.clone(), kind.clone(), result.clone()).await?;
                }
                proof.results.insert(kind.clone(), result);
            }
            // What is no verdict on the caller's proof (429, 500), or says that it is another's (403), is told as it is.
            Err(e) if e.status() != StatusCode::UNAUTHORIZED => return Err(e),
            Err(e) => failed = Some(e),
        }
    }
    let done = challenge.flows.iter().any(|flow| flow.iter().all(|s| proof.results.contains_key(*s)));
    if done && failed.is_none() {
        return Ok(proof);
    }
    let session = match proof.session {
        Some(session) => session,
        None => {
            let session = begin(cx, operation, name).await?;
            for (stage, result) in &proof.results {
                cx.login.complete_uia(session.clone(), stage.clone(), result.clone()).await?;
            }
            session
        }
    };
    Err(ask(challenge, &session, &proof.results, failed))
}

/// Begins a session. They are counted, since each is a row.
async fn begin(cx: &Cx, operation: &Operation<'_>, name: String) -> Result<String> {
    match operation.user {
        Some(user) => cx.limits().check(Limit::UiaBegin, user)?,
        None => cx.limits().address(Limit::UiaBegin, operation.origin.ip)?,
    }
    let mut request = kept(operation.json);
    if let Some(password) = operation.keeps {
        request.insert(HASH.to_owned(), json!(cx.accounts.hash(password.to_owned()).await?));
    }
    cx.login.begin_uia(operation.user, name, Value::Object(request).to_string()).await
}

/// Whom the session of a registration made an account for, if that was done with this session before, and the
/// parameters of its first request: an answer may be lost, and the question be asked again.
///
/// # Errors
/// If the database fails.
pub async fn registered(cx: &Cx, operation: &Operation<'_>) -> Result<Option<(OwnedUserId, Map<String, Value>)>> {
    let Some(session) = operation.body()?.auth.and_then(|auth| auth.session) else { return Ok(None) };
    let Some(known) = cx.login.uia(&session).await? else { return Ok(None) };
    if known.operation != operation.name() || known.user_nid.is_some() {
        return Ok(None);
    }
    Ok(cx.login.registered_by(&known).map(|user_id| (user_id, first(&known.request))))
}

/// Tries one stage; what it gives is kept with the session.
async fn stage(
    cx: &Cx,
    operation: &Operation<'_>,
    challenge: &Challenge,
    kind: &str,
    data: &Map<String, Value>,
) -> Result<Value> {
    if !challenge.flows.iter().flatten().any(|s| *s == kind) {
        return Err(Error::told(StatusCode::UNAUTHORIZED, "M_UNRECOGNIZED", "This stage is not part of any flow"));
    }
    match kind {
        PASSWORD => {
            let user = operation.user.ok_or_else(|| Error::broken("a password stage without a user"))?;
            let text = |key: &str| data.get(key).and_then(Value::as_str);
            let password = text("password").ok_or_else(|| Error::missing_param("password is missing"))?;
            // The identifier may be left out; if it is there it must be that of the user (old clients: `user`).
            let typed = match data.get("identifier").and_then(Value::as_object) {
                Some(id) => id.get("user").or_else(|| id.get("address")).and_then(Value::as_str),
                None => text("user"),
            };
            cx.limits().would(Limit::LoginFailed, user)?;
            if cx.accounts.confirm_password(user, typed, password.to_owned()).await? {
                return Ok(Value::Bool(true));
            }
            cx.limits().check(Limit::LoginFailed, user)?;
            Err(Error::told(StatusCode::UNAUTHORIZED, "M_FORBIDDEN", "Invalid username or password"))
        }
        DUMMY => Ok(Value::Bool(true)),
        TERMS => Ok(cx.accounts.settings().terms.as_ref().map_or(Value::Null, |t| json!(t.version))),
        REGISTRATION_TOKEN => {
            let token = data.get("token").and_then(Value::as_str);
            let token = token.ok_or_else(|| Error::missing_param("token is missing"))?;
            registration_token(cx, operation.origin, token).await
        }
        _ => Err(Error::told(StatusCode::UNAUTHORIZED, "M_UNRECOGNIZED", "This stage is not known")),
    }
}

/// Checks a registration token; what it gives is the token, to be used up with the account.
pub(crate) async fn registration_token(cx: &Cx, origin: &Origin, token: &str) -> Result<Value> {
    cx.limits().address(Limit::RegistrationTokenValidity, origin.ip)?;
    if cx.accounts.registration_token_valid(token).await? {
        return Ok(json!(token));
    }
    Err(Error::told(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", "Invalid registration token"))
}

/// What a newcomer is asked for.
#[must_use]
pub fn for_newcomers(settings: &hearth_service::accounts::Settings) -> Challenge {
    let (mut stages, mut params) = (Vec::new(), Map::new());
    if settings.registration_token {
        stages.push(REGISTRATION_TOKEN);
    }
    if let Some(terms) = &settings.terms {
        stages.push(TERMS);
        let policy = json!({"version": terms.version, "en": {"name": terms.name, "url": terms.url}});
        params.insert(TERMS.to_owned(), json!({"policies": {"privacy_policy": policy}}));
    }
    if stages.is_empty() {
        stages.push(DUMMY);
    }
    Challenge { flows: vec![stages], params }
}

/// The 401 that says what is left to do. Without a failure it carries no errcode: asking is not an error.
fn ask(challenge: &Challenge, session: &str, done: &Map<String, Value>, failed: Option<Error>) -> Error {
    let flows: Vec<Value> = challenge.flows.iter().map(|stages| json!({ "stages": stages })).collect();
    let (errcode, text) = match &failed {
        Some(Error::Told(told)) => (told.errcode.to_string(), told.error.to_string()),
        _ => (String::new(), String::new()),
    };
    let mut e = Error::told(StatusCode::UNAUTHORIZED, errcode, text)
        .with("flows", Value::Array(flows))
        .with("params", Value::Object(challenge.params.clone()))
        .with("session", json!(session));
    if !done.is_empty() {
        e = e.with("completed", done.keys().map(|k| json!(k)).collect());
    }
    e
}

/// A first request without its secrets; where there was one stands `true`. Of one that is too long nothing is kept.
fn kept(json: &[u8]) -> Map<String, Value> {
    let mut request: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
    request.remove("auth");
    request.remove(HASH);
    for secret in SECRETS {
        if let Some(value) = request.get_mut(secret) {
            *value = Value::Bool(true);
        }
    }
    let length = serde_json::to_string(&request).map_or(usize::MAX, |text| text.len());
    if length > KEPT { Map::new() } else { request }
}

fn first(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}
