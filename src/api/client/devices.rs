//! Devices of the user: list, name, delete; [`to_device`] messages between devices.

use hearth_base::{Requester, Result};
use hearth_service::devices::Device;
use ruma::api::client::{
    admin::get_user_info,
    device::{delete_device, delete_devices, get_device, get_devices, update_device},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Cx,
    extract::{As, Client, Guests},
    respond::Json,
    routes::Routes,
    uiaa,
};

pub mod to_device;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(list).on(get).on(whois).on(rename).on(delete_one).on(delete_many).merge(to_device::routes())
}

/// All of them.
async fn list(cx: Cx, req: Client<get_devices::v3::Request, Guests>) -> Result<Json<Value>> {
    let who = &req.requester;
    let devices: Vec<Value> = cx.devices.list(who).await?.iter().map(|device| render(who, device)).collect();
    Ok(Json(json!({ "devices": devices })))
}

/// One of them.
async fn get(cx: Cx, req: Client<get_device::v3::Request, Guests>) -> Result<Json<Value>> {
    Ok(Json(render(&req.requester, &cx.devices.get(&req.requester, &req.body.device_id).await?)))
}

fn render(who: &Requester, device: &Device) -> Value {
    let seen = device.last_seen_ip.as_ref().zip(device.last_seen_ms);
    // Whose it is is not in the specification, and has been told at all times; and clients look for each of these.
    json!({
        "device_id": device.device_id,
        "user_id": who.user_id,
        "display_name": device.display_name,
        "last_seen_ip": seen.map(|(ip, _)| ip),
        "last_seen_ts": seen.map(|(_, ms)| ms),
    })
}

/// When and whence a user was here last, for themselves and administrators (client-server API, "Server Administration").
async fn whois(cx: Cx, req: Client<get_user_info::v3::Request>) -> Result<Json<Value>> {
    let user = req.body.user_id;
    let mut devices = Map::new();
    for device in cx.devices.whois(&req.requester, &user).await? {
        let mut connections = Vec::new();
        if let (Some(ip), Some(last_seen)) = (device.last_seen_ip, device.last_seen_ms) {
            connections.push(json!({ "ip": ip, "last_seen": last_seen, "user_agent": device.user_agent }));
        }
        devices.insert(device.device_id, json!({ "sessions": [{ "connections": connections }] }));
    }
    Ok(Json(json!({ "user_id": user, "devices": devices })))
}

/// Calls one by another name.
async fn rename(cx: Cx, req: Client<update_device::v3::Request, Guests>) -> Result<update_device::v3::Response> {
    cx.devices.rename(&req.requester, &req.body.device_id, req.body.display_name).await?;
    Ok(update_device::v3::Response::new())
}

#[derive(Debug, Deserialize)]
pub(crate) struct One {}

/// Deletes one, once the user has proved again that it is they.
async fn delete_one(cx: Cx, req: Client<As<delete_device::v3::Request, One>>) -> Result<delete_device::v3::Response> {
    uiaa::confirm(&cx, &req).await?;
    cx.devices.delete(&req.requester, req.body.args).await?;
    Ok(delete_device::v3::Response::new())
}

#[derive(Debug, Deserialize)]
pub(crate) struct Many {
    devices: Vec<String>,
}

/// Deletes several.
async fn delete_many(
    cx: Cx,
    req: Client<As<delete_devices::v3::Request, Many>>,
) -> Result<delete_devices::v3::Response> {
    uiaa::confirm(&cx, &req).await?;
    cx.devices.delete(&req.requester, req.body.body.devices).await?;
    Ok(delete_devices::v3::Response::new())
}
