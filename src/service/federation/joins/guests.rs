//! Guests of ours who want into a room that we are not in (client-server API, "Guest access"). Others do not know who is a
//! guest and let them in, so the room is asked about before; and if it turns out to be closed all the same, they go again.

use std::{collections::HashMap, time::Duration};

use hearth_base::{Error, Result};
use hearth_rules::event::Pdu;
use hearth_store::{events::Standing, rooms::Room};
use http::StatusCode;
use ruma::{OwnedEventId, RoomId, ServerName, UserId, api::federation::space::get_hierarchy};
use serde::Deserialize;
use serde_json::{Map, json};

use super::{Joins, template::nonsense};
use crate::federation::outliers::Outlier;

/// How long a server may take to say what a room is like, and the bytes of its answer.
const PATIENCE: Duration = Duration::from_secs(15);
const MAX_ANSWER: usize = 8 << 20;

/// Whether an `m.room.guest_access` event lets guests in.
pub(crate) fn lets_in(event: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        guest_access: String,
    }
    event.content_as::<Content>().is_some_and(|c| c.guest_access == "can_join")
}

/// 403 `M_GUEST_ACCESS_FORBIDDEN`: a room that is not open to guests.
pub(crate) fn kept_out() -> Error {
    Error::told(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not join this room")
}

impl Joins {
    /// Asks a server whether a room is open to guests.
    ///
    /// # Errors
    /// 403 `M_GUEST_ACCESS_FORBIDDEN` if not; what the server said if it does not tell.
    pub(super) async fn ask_for_guests(&self, server: &ServerName, room_id: &RoomId) -> Result<()> {
        #[derive(Deserialize)]
        struct Answer {
            room: Summary,
        }
        #[derive(Deserialize)]
        struct Summary {
            room_id: String,
            guest_can_join: bool,
        }
        let request = get_hierarchy::v1::Request::new(room_id.to_owned());
        let request = self.federation.remote().signed(server, request).map_err(|e| self.said(server, &e))?;
        let patience = self.federation.once().within(PATIENCE).up_to(MAX_ANSWER);
        let answer = self.federation.exchange(server, request, patience).await.map_err(|e| self.said(server, &e))?;
        let Answer { room } = serde_json::from_slice(answer.body()).map_err(|e| nonsense(server, e))?;
        if room.room_id != room_id.as_str() {
            return Err(nonsense(server, "it tells of another room"));
        }
        if room.guest_can_join { Ok(()) } else { Err(kept_out()) }
    }

    /// Whether the state that a server let a guest in with is open to guests. If not, they are out again with the answer.
    ///
    /// # Errors
    /// 403 `M_GUEST_ACCESS_FORBIDDEN` if not.
    pub(super) async fn keep_guest_out(
        &self,
        server: &ServerName,
        room: &Room,
        user: &UserId,
        state: &HashMap<OwnedEventId, Outlier>,
    ) -> Result<()> {
        let access = state.values().find(|o| {
            o.standing != Standing::Rejected
                && o.pdu.event_type().to_string() == "m.room.guest_access"
                && o.pdu.state_key() == Some("")
        });
        if access.is_some_and(|o| lets_in(&o.pdu)) {
            return Ok(());
        }
        let content = Map::from_iter([("membership".to_owned(), json!("leave"))]);
        if let Err(e) = self.leave_through(server, room, user, &content).await {
            tracing::warn!(room.id = %room.room_id, user.id = %user, server = %server, error = %e, "a guest could not be taken out of a room that is closed to guests");
        }
        Err(kept_out())
    }
}
