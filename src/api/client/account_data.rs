//! Account data, tags, filters.

use hearth_base::{Error, Result};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::{
        config::{get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data},
        filter::{create_filter, get_filter},
        tag::{create_tag, delete_tag, get_tags},
    },
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Cx,
    extract::Client,
    respond::{Json, RawJson},
    routes::Routes,
};

/// Bytes of a piece of account data at most, with the request around it.
const MAX_BODY: usize = (1 << 20) + 1024;

/// Its routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(get_global)
        .sized(set_global, MAX_BODY)
        .on(delete_global)
        .on(get_of_room)
        .sized(set_of_room, MAX_BODY)
        .on(delete_of_room)
        .on(tags)
        .on(set_tag)
        .on(remove_tag)
        .on(define_filter)
        .on(filter)
}

fn raw(json: Box<RawValue>) -> RawJson {
    RawJson(Box::<str>::from(json).into_string().into())
}

/// The body, which is known to be JSON.
fn body(json: &[u8]) -> Result<&RawValue> {
    serde_json::from_slice(json).map_err(|e| Error::not_json(e.to_string()))
}

mod deletion {
    //! `DELETE /user/{userId}/account_data/{type}` (MSC3391).
    use ruma::{
        OwnedUserId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: DELETE,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            unstable("org.matrix.msc3391") => "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{event_type}",
        }
    }

    /// What is to be deleted.
    #[request]
    pub struct Request {
        /// Whose.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// What.
        #[ruma_api(path)]
        pub event_type: String,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

mod room_deletion {
    //! `DELETE /user/{userId}/rooms/{roomId}/account_data/{type}` (MSC3391).
    use ruma::{
        OwnedRoomId, OwnedUserId,
        api::{auth_scheme::AccessToken, request, response},
        metadata,
    };

    metadata! {
        method: DELETE,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            unstable("org.matrix.msc3391") => "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
        }
    }

    /// What is to be deleted.
    #[request]
    pub struct Request {
        /// Whose.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// Of which room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// What.
        #[ruma_api(path)]
        pub event_type: String,
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn get_global(cx: Cx, req: Client<get_global_account_data::v3::Request>) -> Result<RawJson> {
    let kind = req.body.event_type.to_string();
    cx.account_data.get(&req.requester, &req.body.user_id, None, &kind).await.map(raw)
}

async fn set_global(
    cx: Cx,
    req: Client<set_global_account_data::v3::Request>,
) -> Result<set_global_account_data::v3::Response> {
    let kind = req.body.event_type.to_string();
    cx.account_data.put(&req.requester, &req.body.user_id, None, &kind, req.body.data.json()).await?;
    Ok(set_global_account_data::v3::Response::new())
}

async fn delete_global(cx: Cx, req: Client<deletion::Request>) -> Result<deletion::Response> {
    cx.account_data.delete(&req.requester, &req.body.user_id, None, &req.body.event_type).await?;
    Ok(deletion::Response {})
}

async fn get_of_room(cx: Cx, req: Client<get_room_account_data::v3::Request>) -> Result<RawJson> {
    let kind = req.body.event_type.to_string();
    cx.account_data.get(&req.requester, &req.body.user_id, Some(&req.body.room_id), &kind).await.map(raw)
}

async fn set_of_room(
    cx: Cx,
    req: Client<set_room_account_data::v3::Request>,
) -> Result<set_room_account_data::v3::Response> {
    let kind = req.body.event_type.to_string();
    let (user, room) = (&req.body.user_id, &req.body.room_id);
    cx.account_data.put(&req.requester, user, Some(room), &kind, req.body.data.json()).await?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn delete_of_room(cx: Cx, req: Client<room_deletion::Request>) -> Result<room_deletion::Response> {
    let (user, room) = (&req.body.user_id, &req.body.room_id);
    cx.account_data.delete(&req.requester, user, Some(room), &req.body.event_type).await?;
    Ok(room_deletion::Response {})
}

async fn tags(cx: Cx, req: Client<get_tags::v3::Request>) -> Result<Json<Value>> {
    let tags = cx.account_data.tags(&req.requester, &req.body.user_id, &req.body.room_id).await?;
    Ok(Json(json!({"tags": tags})))
}

async fn set_tag(cx: Cx, req: Client<create_tag::v3::Request>) -> Result<create_tag::v3::Response> {
    // Ruma's type knows `order` only; what else clients keep with a tag is theirs.
    let info: Map<String, Value> = serde_json::from_slice(&req.json).map_err(|e| Error::bad_json(e.to_string()))?;
    let (user, room): (&OwnedUserId, &OwnedRoomId) = (&req.body.user_id, &req.body.room_id);
    cx.account_data.set_tag(&req.requester, user, room, &req.body.tag, info).await?;
    Ok(create_tag::v3::Response::new())
}

async fn remove_tag(cx: Cx, req: Client<delete_tag::v3::Request>) -> Result<delete_tag::v3::Response> {
    cx.account_data.delete_tag(&req.requester, &req.body.user_id, &req.body.room_id, &req.body.tag).await?;
    Ok(delete_tag::v3::Response::new())
}

async fn define_filter(cx: Cx, req: Client<create_filter::v3::Request>) -> Result<create_filter::v3::Response> {
    let id = cx.account_data.define_filter(&req.requester, &req.body.user_id, body(&req.json)?).await?;
    Ok(create_filter::v3::Response::new(id))
}

async fn filter(cx: Cx, req: Client<get_filter::v3::Request>) -> Result<RawJson> {
    cx.account_data.filter(&req.requester, &req.body.user_id, &req.body.filter_id).await.map(raw)
}

#[cfg(test)]
mod tests;
