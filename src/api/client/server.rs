//! What this server is: versions, capabilities, TURN, protocols bridged.

use hearth_base::{Error, Result};
use hearth_rules::RoomVersion;
use hearth_service::{Settings, rooms::Preset};
use ruma::api::client::{
    discovery::{get_capabilities, get_supported_versions},
    thirdparty::{
        get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols, get_user_for_protocol,
        get_user_for_user_id,
    },
    voip::get_turn_server_info,
};
use serde_json::{Map, Value, json};

use crate::{
    Cx,
    extract::{Client, Guests, Public},
    respond::Json,
    routes::Routes,
};

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(versions)
        .on(capabilities)
        .on(turn)
        .on(protocols)
        .on(protocol)
        .on(locations_of_protocol)
        .on(users_of_protocol)
        .on(locations_of_alias)
        .on(users_of_id)
}

/// Versions of the specification: clients ask for threads, authenticated media, private receipts and much else by them.
const VERSIONS: [&str; 27] = [
    "r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4",
    "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17",
    "v1.18", "v1.19",
];

/// What of later versions and of proposals is here, by the flag clients look for.
const FEATURES: [&str; 15] = [
    "org.matrix.label_based_filtering",
    "org.matrix.e2e_cross_signing",
    // Aliases of rooms, private read receipts, room types in the directory, authenticated media.
    "org.matrix.msc2432",
    "org.matrix.msc2285.stable",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3916.stable",
    // Threads, and receipts of their own; relations of relations; filters by them.
    "org.matrix.msc3440.stable",
    "org.matrix.msc3771",
    "org.matrix.msc3981",
    "org.matrix.msc3874",
    // Rooms that two users are in.
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    // Fields of profiles; redactions sent as ordinary events.
    "uk.tcpip.msc4133.stable",
    "com.beeper.msc4169",
    // Accounts locked and suspended by administrators.
    "uk.timedout.msc4323",
];

/// Which versions and features are here.
async fn versions(cx: Cx, _: Public<get_supported_versions::Request>) -> Result<Json<Value>> {
    Ok(Json(json!({ "versions": VERSIONS, "unstable_features": features(&cx.settings) })))
}

fn features(settings: &Settings) -> Map<String, Value> {
    let forced = |preset| json!(settings.rooms.encrypted_presets.contains(&preset));
    let mut all: Map<String, Value> = FEATURES.iter().map(|f| ((*f).to_owned(), json!(true))).collect();
    all.insert("org.matrix.msc3882".to_owned(), json!(settings.login.get_token));
    all.insert("io.element.e2ee_forced.public".to_owned(), forced(Preset::Public));
    all.insert("io.element.e2ee_forced.private".to_owned(), forced(Preset::Private));
    all.insert("io.element.e2ee_forced.trusted_private".to_owned(), forced(Preset::TrustedPrivate));
    all
}

/// What the user may do here. Written out in full, since some clients take absence for a no.
async fn capabilities(cx: Cx, req: Client<get_capabilities::v3::Request, Guests>) -> Result<Json<Value>> {
    let accounts = cx.accounts.settings();
    let available: Map<String, Value> = RoomVersion::supported().map(|v| (v.id.to_string(), json!("stable"))).collect();
    let mut fields = json!({"enabled": true});
    let fixed: Vec<&str> = [("displayname", accounts.set_displayname), ("avatar_url", accounts.set_avatar_url)]
        .into_iter()
        .filter_map(|(field, may)| (!may).then_some(field))
        .collect();
    if let (false, Some(fields)) = (fixed.is_empty(), fields.as_object_mut()) {
        fields.insert("disallowed".to_owned(), json!(fixed));
    }
    let mut capabilities = json!({
        "m.change_password": {"enabled": accounts.passwords_enabled},
        "m.room_versions": {"default": cx.settings.rooms.default_version, "available": available},
        "m.set_displayname": {"enabled": accounts.set_displayname},
        "m.set_avatar_url": {"enabled": accounts.set_avatar_url},
        // They can be taken away; nobody can add one until there are e-mails that prove them.
        "m.3pid_changes": {"enabled": false},
        "m.get_login_token": {"enabled": cx.login.settings().get_token},
        "m.profile_fields": fields,
        "io.element.msc4452.preview_url": {"enabled": cx.previews.are_on()},
        "m.forget_forced_upon_leave": {"enabled": cx.settings.membership.forget_on_leave},
    });
    // "Should be omitted altogether" for who may do neither.
    if let (true, Some(all)) = (req.requester.is_admin, capabilities.as_object_mut()) {
        all.insert("m.account_moderation".to_owned(), json!({"lock": true, "suspend": true}));
    }
    Ok(Json(json!({ "capabilities": capabilities })))
}

/// Credentials for the TURN server; an empty object where there is none.
async fn turn(cx: Cx, req: Client<get_turn_server_info::v3::Request, Guests>) -> Result<Json<Value>> {
    Ok(Json(cx.calls.turn(&req.requester)?.map_or_else(|| json!({}), |turn| json!(turn))))
}

/// Networks that are bridged: those of application services, of which there are none.
async fn protocols(_: Cx, _: Client<get_protocols::v3::Request>) -> Result<get_protocols::v3::Response> {
    Ok(get_protocols::v3::Response::new(std::collections::BTreeMap::new()))
}

async fn protocol(_: Cx, _: Client<get_protocol::v3::Request>) -> Result<get_protocol::v3::Response> {
    Err(not_bridged())
}

async fn locations_of_protocol(
    _: Cx,
    _: Client<get_location_for_protocol::v3::Request>,
) -> Result<get_location_for_protocol::v3::Response> {
    Err(not_bridged())
}

async fn users_of_protocol(
    _: Cx,
    _: Client<get_user_for_protocol::v3::Request>,
) -> Result<get_user_for_protocol::v3::Response> {
    Err(not_bridged())
}

async fn locations_of_alias(
    _: Cx,
    _: Client<get_location_for_room_alias::v3::Request>,
) -> Result<get_location_for_room_alias::v3::Response> {
    Err(not_bridged())
}

async fn users_of_id(
    _: Cx,
    _: Client<get_user_for_user_id::v3::Request>,
) -> Result<get_user_for_user_id::v3::Response> {
    Err(not_bridged())
}

/// What is asked of a network of others, where there is none.
fn not_bridged() -> Error {
    Error::not_found("No network of others is bridged here")
}
