//! End-to-end encryption: keys of devices and users, signatures, and [`backups`] of room keys (client-server API,
//! "End-to-End Encryption").
//!
//! Answers that carry keys are written from the texts the service gives, not by ruma's types, which leave out empty
//! maps that clients look for.

use std::collections::BTreeMap;

use hearth_base::Result;
use hearth_service::keys::{
    ClaimedKeys, NewKeys, QueriedKeys,
    cross_signing::{NewSigningKeys, SignatureFailures, SigningKeysUploaded},
};
use ruma::{
    OwnedOneTimeKeyId,
    api::client::keys::{claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures, upload_signing_keys},
    encryption::OneTimeKey,
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Cx,
    extract::{As, Client, Guests},
    limits::Limit,
    respond::Json,
    routes::Routes,
    uiaa,
};

pub mod backups;

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(upload)
        .on(query)
        .on(claim)
        .on(changes)
        .on(upload_signing)
        .on(upload_signatures)
        .merge(backups::routes())
}

fn by_name(keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>) -> BTreeMap<String, Box<RawValue>> {
    keys.into_iter().map(|(name, key)| (name.to_string(), key.into_json())).collect()
}

/// What `POST /keys/upload` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Counts {
    one_time_key_counts: BTreeMap<String, u64>,
}

/// Publishes keys of this device.
async fn upload(cx: Cx, req: Client<upload_keys::v3::Request, Guests>) -> Result<Json<Counts>> {
    let keys = NewKeys {
        device_keys: req.body.device_keys.map(Raw::into_json),
        one_time_keys: by_name(req.body.one_time_keys),
        fallback_keys: by_name(req.body.fallback_keys),
    };
    let one_time_key_counts = cx.keys.upload(&req.requester, keys).await?;
    Ok(Json(Counts { one_time_key_counts }))
}

/// Gives the public keys of users and their devices.
async fn query(cx: Cx, req: Client<get_keys::v3::Request, Guests>) -> Result<Json<QueriedKeys>> {
    cx.limits().check(Limit::KeyRequests, req.requester.user_nid)?;
    Ok(Json(cx.keys.query(&req.requester, req.body.device_keys).await?))
}

/// Gives out one-time keys.
async fn claim(cx: Cx, req: Client<claim_keys::v3::Request, Guests>) -> Result<Json<ClaimedKeys>> {
    cx.limits().check(Limit::KeyRequests, req.requester.user_nid)?;
    let wanted = req.body.one_time_keys.into_iter().map(|(user, devices)| {
        let devices = devices.into_iter().map(|(device, algorithm)| (device, algorithm.to_string())).collect();
        (user, devices)
    });
    Ok(Json(cx.keys.claim(&req.requester, wanted.collect()).await?))
}

/// Says whose keys changed.
async fn changes(cx: Cx, req: Client<get_key_changes::v3::Request, Guests>) -> Result<get_key_changes::v3::Response> {
    let changes = cx.keys.changes(&req.requester, &req.body.from, &req.body.to).await?;
    Ok(get_key_changes::v3::Response::new(changes.changed, changes.left))
}

/// The body of an upload of signing keys. Ruma's type is not used: it looks into `auth`, and refuses what old clients
/// say there, which [`uiaa`] understands.
#[derive(Debug, Default, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the API")]
pub(crate) struct SigningKeys {
    master_key: Option<Box<RawValue>>,
    self_signing_key: Option<Box<RawValue>>,
    user_signing_key: Option<Box<RawValue>>,
}

/// Publishes the user's signing keys; asks for their password where these would take the place of others.
async fn upload_signing(
    cx: Cx,
    mut req: Client<As<upload_signing_keys::v3::Request, SigningKeys>, Guests>,
) -> Result<upload_signing_keys::v3::Response> {
    let body = std::mem::take(&mut req.body.body);
    let keys = NewSigningKeys {
        master: body.master_key,
        self_signing: body.self_signing_key,
        user_signing: body.user_signing_key,
    };
    if cx.keys.upload_signing_keys(&req.requester, &keys, false).await? == SigningKeysUploaded::NeedsAuth {
        uiaa::confirm(&cx, &req).await?;
        cx.keys.upload_signing_keys(&req.requester, &keys, true).await?;
    }
    Ok(upload_signing_keys::v3::Response::new())
}

/// What `POST /keys/signatures/upload` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Failures {
    failures: SignatureFailures,
}

/// Publishes signatures.
async fn upload_signatures(cx: Cx, req: Client<upload_signatures::v3::Request, Guests>) -> Result<Json<Failures>> {
    let signed = req.body.signed_keys.iter().map(|(user, keys)| {
        let keys = keys.iter().map(|(name, key)| (name.to_owned(), key.to_owned())).collect();
        (user.clone(), keys)
    });
    let failures = cx.keys.upload_signatures(&req.requester, signed.collect()).await?;
    Ok(Json(Failures { failures }))
}

#[cfg(test)]
mod tests;
