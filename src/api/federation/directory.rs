//! Aliases and published rooms, for other servers.

use hearth_base::Result;
use hearth_service::directory::PublicRooms;
use ruma::{
    api::federation::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        query::get_room_information,
    },
    directory::RoomNetwork,
};

use crate::{Cx, extract::Federation, respond::RawJson, routes::Routes};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(alias).on(public_rooms).on(find_public_rooms)
}

async fn alias(
    cx: Cx,
    req: Federation<get_room_information::v1::Request>,
) -> Result<get_room_information::v1::Response> {
    let (room_id, servers) = cx.directory.resolve_own(&req.body.room_alias).await?;
    Ok(get_room_information::v1::Response::new(room_id, servers))
}

fn network(network: &RoomNetwork) -> Option<&str> {
    match network {
        RoomNetwork::ThirdParty(network) => Some(network),
        _ => None,
    }
}

async fn public_rooms(cx: Cx, req: Federation<get_public_rooms::v1::Request>) -> Result<RawJson> {
    let body = &req.body;
    let ask = PublicRooms {
        limit: body.limit.and_then(|l| usize::try_from(u64::from(l)).ok()),
        since: body.since.as_deref(),
        network: network(&body.room_network),
        ..PublicRooms::default()
    };
    Ok(RawJson(cx.directory.public_rooms_for_server(&ask).await?.into()))
}

/// Published rooms by words and kind.
async fn find_public_rooms(cx: Cx, req: Federation<get_public_rooms_filtered::v1::Request>) -> Result<RawJson> {
    let body = &req.body;
    let ask = PublicRooms {
        limit: body.limit.and_then(|l| usize::try_from(u64::from(l)).ok()),
        since: body.since.as_deref(),
        term: body.filter.generic_search_term.as_deref(),
        types: body.filter.room_types.iter().map(|t| t.as_str().map(str::to_owned)).collect(),
        network: network(&body.room_network),
        ..PublicRooms::default()
    };
    Ok(RawJson(cx.directory.public_rooms_for_server(&ask).await?.into()))
}
