//! Rooms: created, replaced by newer ones, summarised.

use hearth_base::{Error, Result};
use hearth_service::{
    membership::ByAddress,
    rooms::{Hierarchy, NewRoom, Preset, unsupported_version},
};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomVersionId,
    api::client::{
        membership::Invite3pid,
        room::{
            Visibility,
            create_room::{self, v3::RoomPreset},
            get_summary, upgrade_room,
        },
        space::get_hierarchy,
    },
    events::TimelineEventType,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::membership::may_invite_address;
use crate::{
    Cx,
    extract::{As, Client, Guests, OptionalClient},
    limits::Limit,
    respond::{Json, RawJson},
    routes::Routes,
};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(create).on(upgrade).on(hierarchy).also(
        summary,
        // Where the proposal had it first (MSC3266), and still asked by clients of its time.
        &["/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}"],
    )
}

/// What is told of a new room.
#[derive(Serialize)]
struct Made {
    room_id: OwnedRoomId,
    /// Not of the specification any more, and still looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<OwnedRoomAliasId>,
}

/// Creates a room.
async fn create(cx: Cx, req: Client<As<create_room::v3::Request, Wanted>>) -> Result<Json<Made>> {
    let who = &req.requester;
    let wanted = req.body.body;
    cx.limits().user(Limit::RoomCreation, who)?;
    for user in &wanted.invite {
        cx.limits().user(Limit::InvitesPerIssuer, who)?;
        if !who.is_admin && who.appservice.is_none() {
            cx.limits().check(Limit::InvitesPerUser, user)?;
        }
    }
    let new = asked(wanted)?;
    for to in &new.invite_3pid {
        may_invite_address(&cx, who, None, to)?;
    }
    let made = cx.rooms.create(who, new).await?;
    Ok(Json(Made { room_id: made.room_id, room_alias: made.alias }))
}

/// The room that is wanted. A version that cannot even be named is one that there is not.
#[derive(Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    creation_content: Option<Box<RawValue>>,
    #[serde(default)]
    initial_state: Vec<Box<RawValue>>,
    #[serde(default)]
    invite: Vec<OwnedUserId>,
    #[serde(default)]
    invite_3pid: Vec<Invite3pid>,
    #[serde(default)]
    is_direct: bool,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    power_level_content_override: Option<Box<RawValue>>,
    #[serde(default)]
    preset: Option<RoomPreset>,
    #[serde(default)]
    room_alias_name: Option<String>,
    #[serde(default)]
    room_version: Option<String>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    visibility: Visibility,
}

fn version(name: &str) -> Result<RoomVersionId> {
    RoomVersionId::try_from(name).map_err(|_| unsupported_version(name))
}

fn asked(body: Wanted) -> Result<NewRoom> {
    let preset = match body.preset {
        None => None,
        Some(RoomPreset::PrivateChat) => Some(Preset::Private),
        Some(RoomPreset::TrustedPrivateChat) => Some(Preset::TrustedPrivate),
        Some(RoomPreset::PublicChat) => Some(Preset::Public),
        Some(other) => return Err(Error::invalid_param(format!("There is no preset {other}"))),
    };
    let published = match body.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        other => return Err(Error::invalid_param(format!("`visibility` is `public` or `private`, not {other}"))),
    };
    let initial_state = body.initial_state.iter().map(|raw| initial_state(raw)).collect::<Result<_>>()?;
    Ok(NewRoom {
        version: body.room_version.as_deref().map(version).transpose()?,
        published,
        preset,
        alias: body.room_alias_name,
        name: body.name,
        topic: body.topic,
        creation_content: object(body.creation_content.as_deref(), "creation_content")?,
        initial_state,
        power_levels: object(body.power_level_content_override.as_deref(), "power_level_content_override")?,
        invite: body.invite,
        invite_3pid: body.invite_3pid.into_iter().map(by_address).collect::<Result<_>>()?,
        is_direct: body.is_direct,
    })
}

fn by_address(to: Invite3pid) -> Result<ByAddress> {
    ByAddress::new(&to.id_server, to.id_access_token, to.medium.as_str(), &to.address)
}

fn initial_state(raw: &RawValue) -> Result<(TimelineEventType, String, Box<RawValue>)> {
    #[derive(Deserialize)]
    struct Event {
        r#type: String,
        #[serde(default)]
        state_key: String,
        content: Box<RawValue>,
    }
    let event: Event = serde_json::from_str(raw.get())
        .map_err(|e| Error::bad_json(format!("An event of `initial_state` is none: {e}")))?;
    if event.r#type.contains('\0') || event.state_key.contains('\0') {
        return Err(Error::invalid_param("Event types and state keys cannot contain NUL"));
    }
    Ok((TimelineEventType::from(event.r#type), event.state_key, event.content))
}

fn object(raw: Option<&RawValue>, name: &str) -> Result<Map<String, Value>> {
    match raw {
        None => Ok(Map::new()),
        Some(raw) => serde_json::from_str::<Option<Map<String, Value>>>(raw.get())
            .map(Option::unwrap_or_default)
            .map_err(|_| Error::bad_json(format!("`{name}` is not an object"))),
    }
}

#[derive(Deserialize)]
pub(crate) struct Upgrade {
    new_version: String,
    #[serde(default)]
    additional_creators: Vec<OwnedUserId>,
}

/// Replaces a room by one of another version.
async fn upgrade(cx: Cx, req: Client<As<upgrade_room::v3::Request, Upgrade>>) -> Result<upgrade_room::v3::Response> {
    cx.limits().user(Limit::RoomCreation, &req.requester)?;
    let As { args, body, .. } = &req.body;
    let room_id = args.first().map(String::as_str).unwrap_or_default();
    let room_id = OwnedRoomId::try_from(room_id).map_err(|e| Error::invalid_param(e.to_string()))?;
    let version = version(&body.new_version)?;
    let room_id = cx.rooms.upgrade(&req.requester, &room_id, &version, &body.additional_creators).await?;
    Ok(upgrade_room::v3::Response::new(room_id))
}

/// The tree of a space.
async fn hierarchy(cx: Cx, req: Client<get_hierarchy::v1::Request, Guests>) -> Result<RawJson> {
    let body = &req.body;
    let limit = body.limit.map(super::history::size);
    if limit == Some(0) {
        return Err(Error::invalid_param("`limit` must be greater than 0"));
    }
    let ask = Hierarchy {
        suggested_only: body.suggested_only,
        max_depth: body.max_depth.map(u64::from),
        limit,
        from: body.from.as_deref(),
    };
    Ok(RawJson(cx.rooms.hierarchy_json(&req.requester, &body.room_id, ask).await?.into()))
}

/// What is told of a room to those who are not in it.
async fn summary(cx: Cx, req: OptionalClient<get_summary::v1::Request, Guests>) -> Result<Json<Value>> {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(flatten)]
        summary: &'a hearth_service::directory::Summary,
        #[serde(rename = "im.nheko.summary.room_version", skip_serializing_if = "str::is_empty")]
        version: &'a str,
        #[serde(rename = "im.nheko.summary.encryption", skip_serializing_if = "Option::is_none")]
        encryption: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        membership: Option<String>,
    }
    let (summary, membership) =
        cx.rooms.summary(req.requester.as_deref(), &req.body.room_id_or_alias, &req.body.via).await?;
    let answer = Answer {
        version: &summary.room_version,
        encryption: summary.encryption.as_deref(),
        membership: req.requester.map(|_| membership.map_or_else(|| "leave".to_owned(), |m| m.to_string())),
        summary: &summary,
    };
    serde_json::to_value(answer).map(Json).map_err(|e| Error::fault("writing a summary", e))
}
