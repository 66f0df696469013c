//! `PUT /send/{txnId}`: what happens elsewhere.

use std::collections::BTreeMap;

use hearth_base::Result;
use ruma::{OwnedEventId, api::federation::transactions::send_transaction_message::v1};

use crate::{Cx, extract::Federation, routes::Routes};

/// Bytes of a transaction: its 50 events of 64 KiB, and room for as much beside them.
const MAX_BODY: usize = 16 << 20;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().sized(send, MAX_BODY)
}

async fn send(cx: Cx, req: Federation<v1::Request>) -> Result<v1::Response> {
    let (id, pdus) = (req.body.transaction_id, req.body.pdus);
    let edus = req.body.edus.into_iter().map(ruma::serde::Raw::into_json).collect();
    let outcomes = cx.transactions.receive(&req.server, id.as_str(), pdus, edus, req.pass.delay()).await?;
    let outcomes: BTreeMap<OwnedEventId, Result<(), String>> = (*outcomes).clone();
    Ok(v1::Response::new(outcomes))
}
