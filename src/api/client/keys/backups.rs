//! Backups of room keys: versions, and keys by room and session (client-server API, "Server-side key backups").

use std::collections::BTreeMap;

use hearth_base::{Error, Result};
use hearth_service::keys::backups::{BackupInfo, BackupState, Chosen, RoomKeys};
use ruma::{
    OwnedRoomId,
    api::client::backup::{
        KeyBackupData, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session, create_backup_version,
        delete_backup_keys, delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Cx,
    extract::{Client, Guests},
    respond::{Json, RawJson},
    routes::Routes,
};

/// Bytes of a body full of room keys; one is about a thousand, and clients send some hundred at once.
const KEYS_BODY: usize = 8 << 20;

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(create)
        .on(latest)
        .on(info)
        .on(update)
        .on(delete)
        .sized(put_all, KEYS_BODY)
        .sized(put_room, KEYS_BODY)
        .on(put_session)
        .on(get_all)
        .on(get_room)
        .on(get_session)
        .on(delete_all)
        .on(delete_room)
        .on(delete_session)
}

/// The body that describes a backup.
#[derive(Deserialize)]
struct Description {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

fn read<T: DeserializeOwned, R>(raw: &Raw<R>) -> Result<T> {
    serde_json::from_str(raw.json().get()).map_err(|e| Error::bad_json(e.to_string()))
}

/// A backup as clients see it.
#[derive(Debug, Serialize)]
pub(crate) struct Info {
    algorithm: String,
    auth_data: Box<RawValue>,
    count: u64,
    etag: String,
    version: String,
}

impl From<BackupInfo> for Info {
    fn from(info: BackupInfo) -> Self {
        let BackupInfo { version, algorithm, auth_data, state } = info;
        Self { algorithm, auth_data, count: state.count, etag: state.etag, version }
    }
}

/// Begins a backup.
async fn create(
    cx: Cx,
    req: Client<create_backup_version::v3::Request, Guests>,
) -> Result<create_backup_version::v3::Response> {
    let new: Description = read(&req.body.algorithm)?;
    let version = cx.keys.create_backup(&req.requester, new.algorithm, &new.auth_data).await?;
    Ok(create_backup_version::v3::Response::new(version))
}

/// Describes the current backup.
async fn latest(cx: Cx, req: Client<get_latest_backup_info::v3::Request, Guests>) -> Result<Json<Info>> {
    Ok(Json(cx.keys.backup(&req.requester, None).await?.into()))
}

/// Describes a backup.
async fn info(cx: Cx, req: Client<get_backup_info::v3::Request, Guests>) -> Result<Json<Info>> {
    Ok(Json(cx.keys.backup(&req.requester, Some(&req.body.version)).await?.into()))
}

/// Replaces a backup's `auth_data`.
async fn update(
    cx: Cx,
    req: Client<update_backup_version::v3::Request, Guests>,
) -> Result<update_backup_version::v3::Response> {
    let new: Description = read(&req.body.algorithm)?;
    let (version, named) = (&req.body.version, new.version.as_deref());
    cx.keys.update_backup(&req.requester, version, &new.algorithm, &new.auth_data, named).await?;
    Ok(update_backup_version::v3::Response::new())
}

/// Deletes a backup.
async fn delete(
    cx: Cx,
    req: Client<delete_backup_version::v3::Request, Guests>,
) -> Result<delete_backup_version::v3::Response> {
    cx.keys.delete_backup(&req.requester, &req.body.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

fn texts(sessions: BTreeMap<String, Raw<KeyBackupData>>) -> BTreeMap<String, Box<RawValue>> {
    sessions.into_iter().map(|(id, key)| (id, key.into_json())).collect()
}

/// Stores keys of many rooms.
async fn put_all(cx: Cx, req: Client<add_backup_keys::v3::Request, Guests>) -> Result<Json<BackupState>> {
    let keys = req.body.rooms.into_iter().map(|(room, keys)| (room.to_string(), texts(keys.sessions)));
    Ok(Json(cx.keys.put_room_keys(&req.requester, &req.body.version, keys.collect()).await?))
}

/// Stores keys of a room.
async fn put_room(cx: Cx, req: Client<add_backup_keys_for_room::v3::Request, Guests>) -> Result<Json<BackupState>> {
    let keys = RoomKeys::from([(req.body.room_id.to_string(), texts(req.body.sessions))]);
    Ok(Json(cx.keys.put_room_keys(&req.requester, &req.body.version, keys).await?))
}

/// Stores one key.
async fn put_session(
    cx: Cx,
    req: Client<add_backup_keys_for_session::v3::Request, Guests>,
) -> Result<Json<BackupState>> {
    let session = [(req.body.session_id, req.body.session_data.into_json())];
    let keys = RoomKeys::from([(req.body.room_id.to_string(), session.into())]);
    Ok(Json(cx.keys.put_room_keys(&req.requester, &req.body.version, keys).await?))
}

/// Keys of a room as clients see them.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Sessions {
    sessions: BTreeMap<String, Box<RawValue>>,
}

/// Keys of many rooms as clients see them.
#[derive(Debug, Serialize)]
pub(crate) struct Rooms {
    rooms: BTreeMap<String, Sessions>,
}

/// Gives all keys.
async fn get_all(cx: Cx, req: Client<get_backup_keys::v3::Request, Guests>) -> Result<Json<Rooms>> {
    let keys = cx.keys.room_keys(&req.requester, &req.body.version, Chosen::default()).await?;
    let rooms = keys.into_iter().map(|(room, sessions)| (room, Sessions { sessions })).collect();
    Ok(Json(Rooms { rooms }))
}

fn of_room(room: &OwnedRoomId) -> Chosen {
    Chosen { room: Some(room.to_string()), session: None }
}

fn one(room: &OwnedRoomId, session: &str) -> Chosen {
    Chosen { room: Some(room.to_string()), session: Some(session.to_owned()) }
}

/// Gives the keys of a room.
async fn get_room(cx: Cx, req: Client<get_backup_keys_for_room::v3::Request, Guests>) -> Result<Json<Sessions>> {
    let keys = cx.keys.room_keys(&req.requester, &req.body.version, of_room(&req.body.room_id)).await?;
    Ok(Json(keys.into_values().next().map_or_else(Sessions::default, |sessions| Sessions { sessions })))
}

/// Gives one key.
async fn get_session(cx: Cx, req: Client<get_backup_keys_for_session::v3::Request, Guests>) -> Result<RawJson> {
    let chosen = one(&req.body.room_id, &req.body.session_id);
    let keys = cx.keys.room_keys(&req.requester, &req.body.version, chosen).await?;
    let key = keys.into_values().flat_map(BTreeMap::into_values).next();
    let key = key.ok_or_else(|| Error::not_found("Key not found."))?;
    Ok(RawJson(String::from(Box::<str>::from(key)).into()))
}

/// Deletes all keys.
async fn delete_all(cx: Cx, req: Client<delete_backup_keys::v3::Request, Guests>) -> Result<Json<BackupState>> {
    Ok(Json(cx.keys.delete_room_keys(&req.requester, &req.body.version, Chosen::default()).await?))
}

/// Deletes the keys of a room.
async fn delete_room(
    cx: Cx,
    req: Client<delete_backup_keys_for_room::v3::Request, Guests>,
) -> Result<Json<BackupState>> {
    Ok(Json(cx.keys.delete_room_keys(&req.requester, &req.body.version, of_room(&req.body.room_id)).await?))
}

/// Deletes one key.
async fn delete_session(
    cx: Cx,
    req: Client<delete_backup_keys_for_session::v3::Request, Guests>,
) -> Result<Json<BackupState>> {
    let chosen = one(&req.body.room_id, &req.body.session_id);
    Ok(Json(cx.keys.delete_room_keys(&req.requester, &req.body.version, chosen).await?))
}
