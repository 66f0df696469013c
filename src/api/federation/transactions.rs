//! `PUT /send/{txnId}`: what happens elsewhere.

use std::collections::BTreeMap;

use hearth_base::Result;
use hearth_service::federation::inbox::Refused;
use ruma::{OwnedEventId, api::federation::transactions::send_transaction_message::v1};
use serde::Serialize;

use crate::{Cx, extract::Federation, respond::Json, routes::Routes};

/// Bytes of a transaction: its 50 events of 64 KiB, and room for as much beside them.
const MAX_BODY: usize = 16 << 20;

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    // With a slash at the end, as servers of the first years have it.
    Routes::new().sized_also(send, &["/_matrix/federation/v1/send/{txn_id}/"], MAX_BODY)
}

/// What became of each event.
#[derive(Serialize)]
struct Done {
    pdus: BTreeMap<OwnedEventId, Outcome>,
}

/// Nothing of what was taken in, else why not.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    refused: Option<Refused>,
}

async fn send(cx: Cx, req: Federation<v1::Request>) -> Result<Json<Done>> {
    let (id, pdus) = (req.body.transaction_id, req.body.pdus);
    let edus = req.body.edus.into_iter().map(ruma::serde::Raw::into_json).collect();
    let outcomes = cx.transactions.receive(&req.server, id.as_str(), pdus, edus, req.pass.delay()).await?;
    let pdus = outcomes.iter().map(|(id, done)| (id.clone(), Outcome { refused: done.as_ref().err().cloned() }));
    Ok(Json(Done { pdus: pdus.collect() }))
}
