//! Templates that other servers make for our users: what in them must be as asked for, and the event we make of one.

use hearth_base::{Error, Result};
use hearth_rules::{
    event::{Draft, Pdu, Reference, Signer},
    versions::RoomVersion,
};
use http::StatusCode;
use ruma::{OwnedUserId, RoomId, ServerName, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Most predecessors and auth events that an event names (server-server API, "PDUs").
const MAX_PREV: usize = 20;
const MAX_AUTH: usize = 10;

/// What counts of a template.
#[derive(Debug, Deserialize)]
pub(super) struct Given {
    room_id: Option<String>,
    sender: String,
    state_key: String,
    #[serde(rename = "type")]
    event_type: String,
    content: Content,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    depth: u64,
}

#[derive(Debug, Deserialize)]
struct Content {
    membership: String,
    join_authorised_via_users_server: Option<OwnedUserId>,
}

impl Given {
    /// Reads a template for that user's `membership` in that room.
    ///
    /// # Errors
    /// 502 if it is one for something else.
    pub(super) fn read(
        server: &ServerName,
        template: &str,
        version: &RoomVersion,
        room_id: &RoomId,
        user: &UserId,
        membership: &str,
    ) -> Result<Self> {
        let given: Self = serde_json::from_str(template).map_err(|e| nonsense(server, e))?;
        if given.room_id.as_deref() != Some(room_id.as_str())
            || given.sender != *user
            || given.state_key != *user
            || given.event_type != "m.room.member"
            || given.content.membership != membership
        {
            return Err(nonsense(server, "its template is for another event"));
        }
        let (prev, auth) = (given.prev_events.len(), given.auth_events.len());
        let fit = given.prev_events.iter().chain(&given.auth_events).all(|reference| reference.fits(version));
        if !fit || prev == 0 || prev > MAX_PREV || auth > MAX_AUTH {
            return Err(nonsense(server, "its template has no proper place"));
        }
        Ok(given)
    }

    /// Who vouches for a join.
    pub(super) fn voucher(&self) -> Option<&UserId> {
        self.content.join_authorised_via_users_server.as_deref()
    }

    /// The event at the place of the template, with our content and signature.
    ///
    /// # Errors
    /// 413 if our content is too large.
    pub(super) fn complete(
        &self,
        version: &RoomVersion,
        room_id: &RoomId,
        user: &UserId,
        mut content: Map<String, Value>,
        signer: &Signer,
        now_ms: u64,
    ) -> Result<Pdu> {
        content.remove("join_authorised_via_users_server");
        if let Some(voucher) = self.voucher().filter(|_| version.rules.authorization.restricted_join_rule) {
            content.insert("join_authorised_via_users_server".to_owned(), json!(voucher));
        }
        let draft = Draft::of(
            Some(room_id.to_owned()),
            user.to_owned(),
            TimelineEventType::RoomMember,
            Some(user.to_string()),
            &content,
            now_ms,
        )?;
        draft.build(version, &self.prev_events, self.depth, &self.auth_events, signer)
    }
}

/// 502: another server's answer is not what was asked for.
pub(super) fn nonsense(server: &ServerName, why: impl std::fmt::Display) -> Error {
    let why: String = why.to_string().chars().take(200).collect();
    Error::told(StatusCode::BAD_GATEWAY, "M_UNKNOWN", format!("The answer of {server} makes no sense: {why}"))
}
