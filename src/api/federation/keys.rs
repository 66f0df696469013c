//! Keys and devices of our users, for other servers.

use std::collections::BTreeMap;

use hearth_base::Result;
use hearth_service::keys::{Claims, KeysByDevice, servers::UserDevices};
use ruma::api::federation::{
    device::get_devices,
    keys::{claim_keys, get_keys},
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Cx, extract::Federation, respond::Json, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(devices).on(query).on(claim)
}

async fn devices(cx: Cx, req: Federation<get_devices::v1::Request>) -> Result<Json<UserDevices>> {
    cx.keys.devices_for_server(&req.body.user_id).await.map(Json)
}

/// Public keys by user.
#[derive(Serialize)]
struct Queried {
    device_keys: BTreeMap<ruma::OwnedUserId, BTreeMap<ruma::OwnedDeviceId, Box<RawValue>>>,
    master_keys: BTreeMap<ruma::OwnedUserId, Box<RawValue>>,
    self_signing_keys: BTreeMap<ruma::OwnedUserId, Box<RawValue>>,
}

async fn query(cx: Cx, req: Federation<get_keys::v1::Request>) -> Result<Json<Queried>> {
    let found = cx.keys.query_for_server(req.body.device_keys).await?;
    Ok(Json(Queried {
        device_keys: found.device_keys,
        master_keys: found.master_keys,
        self_signing_keys: found.self_signing_keys,
    }))
}

/// One-time keys that were given out.
#[derive(Serialize)]
struct Claimed {
    one_time_keys: KeysByDevice,
}

async fn claim(cx: Cx, req: Federation<claim_keys::v1::Request>) -> Result<Json<Claimed>> {
    let wanted = req.body.one_time_keys.into_iter().map(|(user, devices)| {
        (user, devices.into_iter().map(|(device, algorithm)| (device, algorithm.to_string())).collect())
    });
    let wanted: Claims = wanted.collect();
    let one_time_keys = cx.keys.claim_for_server(wanted).await?;
    Ok(Json(Claimed { one_time_keys }))
}
