//! The list of published rooms: sorted by how many are in them, filtered, in pages.
//!
//! A page token names the room it stops at, so that pages neither repeat nor skip when rooms come and go meanwhile.

use std::cmp::Reverse;

use hearth_base::{Error, Result};
use hearth_remote::Failure;
use ruma::{
    RoomAliasId, RoomId, ServerName, UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::{RoomNetwork, RoomTypeFilter},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Directory, Summary};

/// Rooms in a page when the client does not say, and at most.
const PAGE: usize = 100;

/// A page asked for (spec: `GET /publicRooms`).
#[derive(Debug, Default)]
pub struct PublicRooms<'a> {
    /// Of which server.
    pub server: Option<&'a ServerName>,
    /// Rooms at most; 0 is as none given.
    pub limit: Option<usize>,
    /// Where it goes on.
    pub since: Option<&'a str>,
    /// A text in name, topic or alias.
    pub term: Option<&'a str>,
    /// Kinds of rooms; `None` in it stands for ordinary ones. Empty: all.
    pub types: Vec<Option<String>>,
    /// A network of an appservice; we list none.
    pub network: Option<&'a str>,
}

/// Where a page begins or ends: how many are in the room, and its id.
type Place = (Reverse<u64>, String);

/// Reads another server's page. What is nonsense about a room costs that room alone, or its alias.
fn read(body: &[u8]) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    struct Page {
        chunk: Vec<Value>,
        #[serde(default)]
        next_batch: Value,
        #[serde(default)]
        prev_batch: Value,
        #[serde(default)]
        total_room_count_estimate: Value,
    }
    let page: Page = serde_json::from_slice(body).map_err(|e| Failure::Nonsense(e.to_string()))?;
    let rooms: Vec<Value> = page.chunk.into_iter().filter_map(listed).collect();
    let mut answer = json!({ "chunk": rooms });
    let tokens = [("next_batch", page.next_batch), ("prev_batch", page.prev_batch)];
    for (key, value) in tokens.into_iter().filter(|(_, value)| value.is_string()) {
        answer[key] = value;
    }
    if let Some(total) = count(&page.total_room_count_estimate) {
        answer["total_room_count_estimate"] = json!(total);
    }
    Ok(answer)
}

/// A room of another server's list as clients can read it.
fn listed(room: Value) -> Option<Value> {
    let Value::Object(mut room) = room else { return None };
    room.get("room_id")?.as_str().filter(|id| <&RoomId>::try_from(*id).is_ok())?;
    let members = room.get("num_joined_members").and_then(count).unwrap_or(0);
    room.insert("num_joined_members".to_owned(), json!(members));
    for required in ["world_readable", "guest_can_join"] {
        let said = room.get(required).and_then(Value::as_bool).unwrap_or(false);
        room.insert(required.to_owned(), json!(said));
    }
    let is_alias = |alias: &str| <&RoomAliasId>::try_from(alias).is_ok();
    room.retain(|key, value| match key.as_str() {
        "canonical_alias" => value.as_str().is_some_and(is_alias),
        "name" | "topic" | "avatar_url" | "join_rule" | "room_type" => value.is_string(),
        // As in our own list: there are clients that take no more than these.
        "room_id" | "num_joined_members" | "world_readable" | "guest_can_join" => true,
        _ => false,
    });
    Some(Value::Object(room))
}

/// A number of things, whole or as others write it.
fn count(value: &Value) -> Option<u64> {
    // Such numbers are as exact as those who count.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    value.as_u64().or_else(|| value.as_f64().filter(|n| (0.0..1e15).contains(n)).map(|n| n as u64))
}

impl Directory {
    /// A page of the published rooms, ours or another server's, as JSON.
    ///
    /// # Errors
    /// 401 for strangers if they are not to see it, 400 for a token that is not ours; 502 and 504 if another server
    /// cannot be asked.
    pub async fn public_rooms(&self, logged_in: bool, ask: &PublicRooms<'_>) -> Result<String> {
        if !logged_in && !self.settings.public_rooms_without_login {
            return Err(Error::missing_token());
        }
        match ask.server {
            // Strangers see our list if they may, but nobody else's through us.
            Some(server) if *server != self.server_name && !logged_in => Err(Error::missing_token()),
            Some(server) if *server != self.server_name => self.public_rooms_of(server, ask).await,
            _ => self.own_public_rooms(ask).await,
        }
    }

    /// A page of our published rooms for another server, as JSON.
    ///
    /// # Errors
    /// 403 where other servers are not told; 400 for a token that is not ours.
    pub async fn public_rooms_for_server(&self, ask: &PublicRooms<'_>) -> Result<String> {
        if !self.federation.settings().public_rooms {
            return Err(Error::forbidden("The published rooms of this server are not told to other servers"));
        }
        self.own_public_rooms(ask).await
    }

    /// A page of another server's published rooms, as JSON.
    async fn public_rooms_of(&self, server: &ServerName, ask: &PublicRooms<'_>) -> Result<String> {
        let limit = Some(ask.limit.filter(|l| *l > 0).unwrap_or(PAGE).min(PAGE));
        let limit = limit.and_then(|l| UInt::try_from(l).ok());
        let since = ask.since.filter(|s| !s.is_empty()).map(str::to_owned);
        let network = match ask.network {
            Some(network) => RoomNetwork::ThirdParty(network.to_owned()),
            None => RoomNetwork::Matrix,
        };
        let request = if ask.term.is_none() && ask.types.is_empty() {
            let mut request = get_public_rooms::v1::Request::new();
            (request.limit, request.since, request.room_network) = (limit, since, network);
            self.federation.remote().signed(server, request)
        } else {
            let mut request = get_public_rooms_filtered::v1::Request::new();
            (request.limit, request.since, request.room_network) = (limit, since, network);
            request.filter.generic_search_term = ask.term.map(str::to_owned);
            request.filter.room_types = ask.types.iter().map(|t| RoomTypeFilter::from(t.as_deref())).collect();
            self.federation.remote().signed(server, request)
        };
        let answer = match request {
            Ok(request) => self.federation.exchange(server, request, self.federation.short()).await,
            Err(e) => Err(e),
        };
        let answer = answer.and_then(|answer| read(answer.body())).map_err(|e| self.federation.told(server, &e))?;
        Ok(answer.to_string())
    }

    async fn own_public_rooms(&self, ask: &PublicRooms<'_>) -> Result<String> {
        let since = ask.since.filter(|s| !s.is_empty()).map(parse).transpose()?;
        let mut rooms = Vec::new();
        if self.settings.room_list && ask.network.is_none_or(str::is_empty) {
            let term = ask.term.map(|t| t.trim().to_lowercase()).filter(|t| !t.is_empty());
            for nid in self.store.published_rooms().await? {
                let Some(room) = self.store.room(nid).await? else { continue };
                let summary = self.summary(&room).await?;
                let wanted = summary.num_joined_members > 0
                    && (ask.types.is_empty() || ask.types.contains(&summary.room_type))
                    && term.as_ref().is_none_or(|t| summary.mentions(t));
                if wanted {
                    rooms.push((place(&summary), summary));
                }
            }
            rooms.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        let total = rooms.len();
        let limit = ask.limit.filter(|l| *l > 0).unwrap_or(PAGE).min(PAGE);
        let (from, upto) = match &since {
            None => (0, limit.min(total)),
            Some((true, after)) => {
                let from = rooms.partition_point(|(p, _)| p <= after);
                (from, (from + limit).min(total))
            }
            Some((false, before)) => {
                let upto = rooms.partition_point(|(p, _)| p < before);
                (upto.saturating_sub(limit), upto)
            }
        };
        let page = rooms.get(from..upto).unwrap_or_default();
        let chunk: Vec<Summary> = page.iter().map(|(_, s)| s.published()).collect();
        let mut answer = json!({ "chunk": chunk, "total_room_count_estimate": total });
        if let (Some((last, _)), true) = (page.last(), upto < total) {
            answer["next_batch"] = json!(token('n', last));
        }
        if let (Some((first, _)), true) = (page.first(), from > 0) {
            answer["prev_batch"] = json!(token('p', first));
        }
        Ok(answer.to_string())
    }
}

fn place(summary: &Summary) -> Place {
    (Reverse(summary.num_joined_members), summary.room_id.to_string())
}

fn token(letter: char, (Reverse(members), room_id): &Place) -> String {
    format!("{letter}{members}_{room_id}")
}

/// Whether a token goes on forwards, and from where.
fn parse(token: &str) -> Result<(bool, Place)> {
    let read = || {
        let (forward, rest) = match token.strip_prefix('n') {
            Some(rest) => (true, rest),
            None => (false, token.strip_prefix('p')?),
        };
        let (members, room_id) = rest.split_once('_')?;
        Some((forward, (Reverse(members.parse().ok()?), room_id.to_owned())))
    };
    read().ok_or_else(|| Error::invalid_param("`since` is not a token of this server"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let place = (Reverse(12), "!a_b:c".to_owned());
        assert_eq!(parse(&token('n', &place)).unwrap(), (true, place.clone()));
        assert_eq!(parse(&token('p', &place)).unwrap(), (false, place));
        for rubbish in ["x", "n", "n1", "nx_!a", "12_!a"] {
            assert!(parse(rubbish).is_err(), "{rubbish}");
        }
    }
}
