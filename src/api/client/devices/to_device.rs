//! Messages from device to device (client-server API, "Send-to-Device messaging").

use hearth_base::Result;
use ruma::{api::client::to_device::send_event_to_device, serde::Raw};

use crate::{
    Cx,
    extract::{Client, Guests},
    routes::Routes,
};

/// Bytes of a body; messages to some hundred devices are a megabyte.
const BODY: usize = 8 << 20;

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().sized(send, BODY)
}

/// Sends messages to devices.
async fn send(
    cx: Cx,
    req: Client<send_event_to_device::v3::Request, Guests>,
) -> Result<send_event_to_device::v3::Response> {
    let body = req.body;
    let messages = body.messages.into_iter().map(|(user, devices)| {
        let devices = devices.into_iter().map(|(device, content)| (device, Raw::into_json(content))).collect();
        (user, devices)
    });
    let (kind, txn_id) = (body.event_type.to_string(), body.txn_id.as_str());
    cx.to_device.send(&req.requester, &kind, txn_id, messages.collect()).await?;
    Ok(send_event_to_device::v3::Response::new())
}
