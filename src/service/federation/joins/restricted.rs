//! Rooms that let in the members of other rooms: who of ours vouches for a join (spec: rooms/v8, "Restricted rooms";
//! server-server API, "Restricted rooms").

use hearth_base::{Error, Result, ids::UserNid};
use hearth_store::rooms::Room;
use http::StatusCode;
use ruma::{OwnedUserId, RoomId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::Value;

use super::Joins;
use crate::state::version_of;

impl Joins {
    /// Who of ours vouches for a user's join by their membership of another room; `None` where that is not needed.
    ///
    /// # Errors
    /// 403 for who meets no condition, 400 `M_UNABLE_TO_AUTHORISE_JOIN` if we cannot tell, `M_UNABLE_TO_GRANT_JOIN` if
    /// nobody here may invite.
    pub async fn authoriser(&self, user: Option<UserNid>, room: &Room) -> Result<Option<OwnedUserId>> {
        #[derive(Deserialize)]
        struct JoinRules {
            join_rule: String,
            #[serde(default)]
            allow: Vec<Value>,
        }
        let rules: Option<JoinRules> =
            self.state.current_entry(room, "m.room.join_rules", "").await?.and_then(|e| e.pdu.content_as());
        let Some(rules) = rules.filter(|r| matches!(r.join_rule.as_str(), "restricted" | "knock_restricted")) else {
            return Ok(None);
        };
        if !version_of(room)?.rules.authorization.restricted_join_rule {
            return Ok(None);
        }
        let (mut allowed, mut unknown) = (false, false);
        // Bounded by the size of an event.
        for condition in &rules.allow {
            let kind = condition.get("type").and_then(Value::as_str);
            let Some(other) = condition.get("room_id").and_then(Value::as_str) else { continue };
            if kind != Some("m.room_membership") {
                continue;
            }
            let Ok(other) = <&RoomId>::try_from(other) else { continue };
            let Some(other) = self.resident(other).await? else {
                unknown = true;
                continue;
            };
            if let Some(user) = user
                && self.state.membership(other.nid, user).await? == MembershipState::Join
            {
                allowed = true;
                break;
            }
            // Of a room that we have just joined ourselves we do not know who else is in it.
            unknown |= other.head.partial;
        }
        if !allowed && unknown {
            return Err(Error::told(
                StatusCode::BAD_REQUEST,
                "M_UNABLE_TO_AUTHORISE_JOIN",
                "This server is not in all of the rooms that this room lets in",
            ));
        }
        if !allowed {
            return Err(Error::forbidden("You are in none of the rooms that this room lets in"));
        }
        let levels = self.state.power_levels(room).await?;
        let needed = self.invite_level(room).await?;
        for member in self.store.members(room.nid, &MembershipState::Join).await?.iter().filter(|m| m.local) {
            let user = self.store.user_id(member.user).await?;
            if levels.can(&user, needed) {
                return Ok(Some(user));
            }
        }
        Err(Error::told(
            StatusCode::BAD_REQUEST,
            "M_UNABLE_TO_GRANT_JOIN",
            "Nobody on this server may let you into the room",
        ))
    }

    pub(super) async fn invite_level(&self, room: &Room) -> Result<i64> {
        #[derive(Deserialize)]
        struct Levels {
            invite: Option<Value>,
        }
        let levels: Option<Levels> =
            self.state.current_entry(room, "m.room.power_levels", "").await?.and_then(|e| e.pdu.content_as());
        Ok(levels
            .and_then(|l| l.invite)
            .and_then(|v| v.as_i64().or_else(|| v.as_str().and_then(|s| s.parse().ok())))
            .unwrap_or(0))
    }
}
