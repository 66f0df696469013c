//! Push rules and pushers.

use hearth_base::{Error, Result};
use hearth_service::push::NewPusher;
use http::StatusCode;
use ruma::api::client::push::{
    delete_pushrule, get_notifications, get_pushers, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
    get_pushrules_all, get_pushrules_global_scope, set_pushrule_actions, set_pushrule_enabled,
};
use serde_json::{Map, Value, json};

use crate::{
    Cx,
    extract::Client,
    respond::{Json, RawJson},
    routes::Routes,
};

/// Notifications in a page when the client does not say.
const NOTIFICATIONS: usize = 50;

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(all_rules)
        .on(global_rules)
        .on(rules_of_kind)
        .on(rule)
        .on(set_rule)
        .on(delete_rule)
        .on(rule_enabled)
        .on(set_rule_enabled)
        .on(rule_actions)
        .on(set_rule_actions)
        .on(pushers)
        .on(set_pusher)
        .on(notifications)
        .refuse(&NO_RULE, || Error::told(StatusCode::BAD_REQUEST, "M_UNRECOGNIZED", "This names no push rule"))
}

/// Where push rules are, and what is no name of one: a slash that lacks, another scope than `global`, an empty id.
const NO_RULE: [&str; 10] = [
    "/_matrix/client/r0/pushrules",
    "/_matrix/client/r0/pushrules/",
    "/_matrix/client/r0/pushrules/global/",
    "/_matrix/client/r0/pushrules/global/{p0}/",
    "/_matrix/client/r0/pushrules/{*rest}",
    "/_matrix/client/v3/pushrules",
    "/_matrix/client/v3/pushrules/",
    "/_matrix/client/v3/pushrules/global/",
    "/_matrix/client/v3/pushrules/global/{p0}/",
    "/_matrix/client/v3/pushrules/{*rest}",
];

async fn all_rules(cx: Cx, req: Client<get_pushrules_all::v3::Request>) -> Result<Json<Value>> {
    Ok(Json(json!({"global": cx.push.rules(&req.requester).await?})))
}

async fn global_rules(cx: Cx, req: Client<get_pushrules_global_scope::v3::Request>) -> Result<Json<Value>> {
    cx.push.rules(&req.requester).await.map(Json)
}

mod put;

mod kind {
    //! `GET /pushrules/global/{kind}/`: not in the specification, and served by every server.
    use ruma::{
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/pushrules/global/{kind}/",
            1.1 => "/_matrix/client/v3/pushrules/global/{kind}/",
        }
    }

    /// Which rules.
    #[request]
    pub struct Request {
        /// Their kind.
        #[ruma_api(path)]
        pub kind: String,
    }

    /// The answer is made by the handler.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn rules_of_kind(cx: Cx, req: Client<kind::Request>) -> Result<Json<Vec<Value>>> {
    cx.push.rules_of_kind(&req.requester, &req.body.kind).await.map(Json)
}

async fn rule(cx: Cx, req: Client<get_pushrule::v3::Request>) -> Result<Json<Value>> {
    cx.push.rule(&req.requester, req.body.kind.as_str(), &req.body.rule_id).await.map(Json)
}

async fn set_rule(cx: Cx, req: Client<put::Request>) -> Result<put::Response> {
    let put::Request { kind, rule_id, before, after, fields } = req.body;
    let rule = put::rule(&kind, rule_id, fields)?;
    cx.push.put_rule(&req.requester, rule, before, after).await?;
    Ok(put::Response {})
}

async fn delete_rule(cx: Cx, req: Client<delete_pushrule::v3::Request>) -> Result<delete_pushrule::v3::Response> {
    cx.push.delete_rule(&req.requester, req.body.kind.as_str(), req.body.rule_id).await?;
    Ok(delete_pushrule::v3::Response::new())
}

async fn rule_enabled(cx: Cx, req: Client<get_pushrule_enabled::v3::Request>) -> Result<Json<Value>> {
    let rule = cx.push.rule(&req.requester, req.body.kind.as_str(), &req.body.rule_id).await?;
    Ok(Json(json!({"enabled": rule.get("enabled")})))
}

async fn set_rule_enabled(
    cx: Cx,
    req: Client<set_pushrule_enabled::v3::Request>,
) -> Result<set_pushrule_enabled::v3::Response> {
    let body = req.body;
    cx.push.set_rule_enabled(&req.requester, body.kind.as_str(), body.rule_id, body.enabled).await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

async fn rule_actions(cx: Cx, req: Client<get_pushrule_actions::v3::Request>) -> Result<Json<Value>> {
    let rule = cx.push.rule(&req.requester, req.body.kind.as_str(), &req.body.rule_id).await?;
    Ok(Json(json!({"actions": rule.get("actions")})))
}

async fn set_rule_actions(
    cx: Cx,
    req: Client<set_pushrule_actions::v3::Request>,
) -> Result<set_pushrule_actions::v3::Response> {
    let body = req.body;
    cx.push.set_rule_actions(&req.requester, body.kind.as_str(), body.rule_id, body.actions).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

async fn pushers(cx: Cx, req: Client<get_pushers::v3::Request>) -> Result<Json<Value>> {
    let pushers = cx.push.pushers(&req.requester).await?;
    let pushers: Vec<Value> = pushers
        .into_iter()
        .map(|p| {
            let data: Value = serde_json::from_str(&p.data).unwrap_or_else(|_| json!({}));
            let mut pusher = json!({
                "app_id": p.app_id,
                "pushkey": p.pushkey,
                "kind": p.kind,
                "app_display_name": p.app_name,
                "device_display_name": p.device_name,
                "lang": p.lang,
                "data": data,
                "org.matrix.msc3881.enabled": p.enabled,
                "org.matrix.msc3881.device_id": p.device_id,
            });
            if let (Some(tag), Some(pusher)) = (p.profile_tag, pusher.as_object_mut()) {
                pusher.insert("profile_tag".to_owned(), Value::String(tag));
            }
            pusher
        })
        .collect();
    Ok(Json(json!({"pushers": pushers})))
}

mod setting {
    //! `POST /pushers/set`. Ruma's type does not tell what is missing from what is wrong.
    use ruma::{
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };
    use serde_json::{Map, Value};

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/pushers/set",
            1.1 => "/_matrix/client/v3/pushers/set",
        }
    }

    /// A pusher to be set, or with `kind: null` to be removed.
    #[request]
    pub struct Request {
        /// Its fields.
        #[ruma_api(body)]
        pub fields: Map<String, Value>,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn set_pusher(cx: Cx, req: Client<setting::Request>) -> Result<setting::Response> {
    let fields = &req.body.fields;
    let missing: Vec<&str> = ["kind", "app_id", "pushkey"].into_iter().filter(|f| !fields.contains_key(*f)).collect();
    check_missing(&missing)?;
    let (app_id, pushkey) = (text(fields, "app_id")?, text(fields, "pushkey")?);
    if fields.get("kind").is_some_and(Value::is_null) {
        cx.push.remove_pusher(&req.requester, app_id, pushkey).await?;
        return Ok(setting::Response {});
    }
    let needed = ["app_display_name", "device_display_name", "lang", "data"];
    check_missing(&needed.into_iter().filter(|f| !fields.contains_key(*f)).collect::<Vec<_>>())?;
    let data = fields.get("data").and_then(Value::as_object).cloned();
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
    let pusher = NewPusher {
        app_id,
        pushkey,
        kind: text(fields, "kind")?,
        app_name: text(fields, "app_display_name")?,
        device_name: text(fields, "device_display_name")?,
        profile_tag: fields.get("profile_tag").and_then(Value::as_str).map(ToOwned::to_owned),
        lang: text(fields, "lang")?,
        data: data.ok_or_else(|| Error::bad_json("`data` must be an object"))?,
        append: flag("append").unwrap_or(false),
        enabled: flag("org.matrix.msc3881.enabled").or_else(|| flag("enabled")).unwrap_or(true),
    };
    cx.push.set_pusher(&req.requester, pusher).await?;
    Ok(setting::Response {})
}

/// What the user was notified of, newest first.
async fn notifications(cx: Cx, req: Client<get_notifications::v3::Request>) -> Result<RawJson> {
    let body = &req.body;
    // What else may stand in `only` is not said; it narrows nothing.
    let highlights = body.only.as_deref() == Some("highlight");
    let limit = body.limit.map_or(NOTIFICATIONS, super::history::size);
    let page = cx.notified.page_json(&req.requester, body.from.as_deref(), highlights, limit).await?;
    Ok(RawJson(page.into()))
}

fn check_missing(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::missing_param(format!("Missing parameters: {}", missing.join(", "))))
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<String> {
    let text = fields.get(name).and_then(Value::as_str);
    text.map(ToOwned::to_owned).ok_or_else(|| Error::bad_json(format!("`{name}` must be a string")))
}
