//! Aliases, published rooms, the search for users.

use hearth_base::{Error, Result};
use hearth_service::directory::{FoundUsers, PublicRooms};
use ruma::{
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility},
        room::{Visibility, aliases},
        user_directory::search_users,
    },
    directory::RoomNetwork,
};

use crate::{
    Cx,
    extract::{Client, Guests, OptionalClient, Public},
    limits::Limit,
    respond::{Json, RawJson},
    routes::Routes,
};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new()
        .on(resolve_alias)
        .on(add_alias)
        .on(remove_alias)
        .on(list_aliases)
        .on(get_visibility)
        .on(set_visibility)
        .on(public_rooms)
        .on(find_public_rooms)
        .on(find_users)
}

async fn resolve_alias(cx: Cx, req: Public<get_alias::v3::Request>) -> Result<get_alias::v3::Response> {
    let (room_id, servers) = cx.directory.resolve(&req.body.room_alias).await?;
    Ok(get_alias::v3::Response::new(room_id, servers))
}

async fn add_alias(cx: Cx, req: Client<create_alias::v3::Request>) -> Result<create_alias::v3::Response> {
    cx.directory.add_alias(&req.requester, req.body.room_alias, &req.body.room_id).await?;
    Ok(create_alias::v3::Response::new())
}

async fn remove_alias(cx: Cx, req: Client<delete_alias::v3::Request>) -> Result<delete_alias::v3::Response> {
    cx.directory.remove_alias(&req.requester, &req.body.room_alias).await?;
    Ok(delete_alias::v3::Response::new())
}

async fn list_aliases(cx: Cx, req: Client<aliases::v3::Request>) -> Result<aliases::v3::Response> {
    Ok(aliases::v3::Response::new(cx.directory.aliases(&req.requester, &req.body.room_id).await?))
}

async fn get_visibility(
    cx: Cx,
    req: Public<get_room_visibility::v3::Request>,
) -> Result<get_room_visibility::v3::Response> {
    let published = cx.directory.is_published(&req.body.room_id).await?;
    let visibility = if published { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

mod publishing {
    //! `PUT /directory/list/room/{roomId}`. Ruma's type demands the `visibility` that the specification does not.
    use ruma::{
        OwnedRoomId,
        api::{auth_scheme::AccessToken, client::room::Visibility, request, response},
        metadata,
    };

    metadata! {
        method: PUT,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/directory/list/room/{room_id}",
            1.1 => "/_matrix/client/v3/directory/list/room/{room_id}",
        }
    }

    /// Which room.
    #[request]
    pub struct Request {
        /// Its id.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// Published or not; by default it is.
        #[serde(default = "public")]
        pub visibility: Visibility,
    }

    fn public() -> Visibility {
        Visibility::Public
    }

    /// Done.
    #[response]
    #[derive(Default)]
    pub struct Response {}
}

async fn set_visibility(cx: Cx, req: Client<publishing::Request>) -> Result<publishing::Response> {
    let published = match req.body.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid_param("`visibility` is `public` or `private`")),
    };
    cx.directory.publish(&req.requester, &req.body.room_id, published).await?;
    Ok(publishing::Response {})
}

/// Published rooms, the fullest first.
async fn public_rooms(cx: Cx, req: OptionalClient<get_public_rooms::v3::Request, Guests>) -> Result<RawJson> {
    let body = &req.body;
    let ask = PublicRooms {
        server: body.server.as_deref(),
        limit: body.limit.and_then(|l| usize::try_from(u64::from(l)).ok()),
        since: body.since.as_deref(),
        ..PublicRooms::default()
    };
    Ok(RawJson(cx.directory.public_rooms(req.requester.is_some(), &ask).await?.into()))
}

/// Published rooms by words and kind.
async fn find_public_rooms(cx: Cx, req: Client<get_public_rooms_filtered::v3::Request, Guests>) -> Result<RawJson> {
    let body = &req.body;
    let ask = PublicRooms {
        server: body.server.as_deref(),
        limit: body.limit.and_then(|l| usize::try_from(u64::from(l)).ok()),
        since: body.since.as_deref(),
        term: body.filter.generic_search_term.as_deref(),
        types: body.filter.room_types.iter().map(|t| t.as_str().map(str::to_owned)).collect(),
        network: match &body.room_network {
            RoomNetwork::ThirdParty(network) => Some(network),
            _ => None,
        },
    };
    Ok(RawJson(cx.directory.public_rooms(true, &ask).await?.into()))
}

/// Users by a part of their id or name.
async fn find_users(cx: Cx, req: Client<search_users::v3::Request>) -> Result<Json<FoundUsers>> {
    cx.limits().user(Limit::UserDirectory, &req.requester)?;
    let limit = usize::try_from(u64::from(req.body.limit)).unwrap_or(usize::MAX);
    Ok(Json(cx.directory.search_users(&req.requester, &req.body.search_term, limit).await?))
}
