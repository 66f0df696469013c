//! What a client of ours cannot mean, though the room's rules need not say so, or say it less clearly: such requests are
//! mistakes (400), where what somebody lacks the power for is forbidden (403).

use hearth_base::{Error, Result, ids::RoomNid};
use hearth_store::events::StoredEvent;
use ruma::{OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::{Events, Outgoing};
use crate::{federation::acl, state::Tombstone};

/// Bytes of a transaction id.
const MAX_TXN_ID: usize = 512;

impl Events {
    /// Looks at an event that a client wants to send.
    ///
    /// # Errors
    /// 400 for a second create event, a room that is to be replaced by itself or closed to this server, a join rule that
    /// is no text, power levels that are no numbers, and numbers for those who stand above all.
    pub(super) async fn check_sense(&self, room_id: &RoomId, room: RoomNid, out: &Outgoing<'_>) -> Result<()> {
        match (out.event_type.to_string().as_str(), out.state_key.as_deref()) {
            ("m.room.create", Some(_)) => Err(Error::invalid_param("A room has one create event, its first")),
            ("m.room.tombstone", _) => check_tombstone(room_id, out),
            // Whoever did that could not take it back: other servers would not listen.
            ("m.room.server_acl", Some("")) if acl::shuts_out(out.content.get(), &self.server_name) => {
                Err(Error::invalid_param("The list would shut this server out"))
            }
            ("m.room.power_levels", Some("")) => self.check_levels(room, out).await,
            // Nobody could come in or change their own membership after that.
            ("m.room.join_rules", Some("")) if !has_text(out, "join_rule") => {
                Err(Error::bad_json("`join_rule` must be a string"))
            }
            _ => Ok(()),
        }
    }

    async fn check_levels(&self, room: RoomNid, out: &Outgoing<'_>) -> Result<()> {
        let known = self.state.room_by_nid(room).await?;
        let texts = !crate::state::version_of(&known)?.rules.authorization.integer_power_levels;
        if let Ok(levels) = serde_json::from_str(out.content.get()) {
            check_numbers(&levels, texts)?;
        }
        self.check_creators(room, out).await
    }

    /// Since version 12 creators have no number (rooms/v12, "Authorisation rules").
    async fn check_creators(&self, room: RoomNid, out: &Outgoing<'_>) -> Result<()> {
        #[derive(Deserialize)]
        struct Levels {
            users: BTreeMap<String, Value>,
        }
        let Ok(Levels { users }) = serde_json::from_str(out.content.get()) else { return Ok(()) };
        let room = self.state.room_by_nid(room).await?;
        if !crate::state::version_of(&room)?.rules.authorization.explicitly_privilege_room_creators {
            return Ok(());
        }
        if self.state.current_entry(&room, "m.room.create", "").await?.is_none() {
            // A room that is only known from outside.
            return Ok(());
        }
        let levels = self.state.power_levels(&room).await?;
        let is_creator = |user: &&OwnedUserId| users.contains_key(user.as_str());
        match levels.creators().iter().find(is_creator) {
            Some(creator) => {
                Err(Error::invalid_param(format!("{creator} made the room and cannot be given a power level")))
            }
            None => Ok(()),
        }
    }
}

/// What becomes a column of its own cannot hold NUL (PostgreSQL has no such texts), nor is there sense in it.
pub(super) fn check_names(out: &Outgoing<'_>) -> Result<()> {
    let state_key = out.state_key.as_deref().unwrap_or("");
    if out.event_type.to_string().contains('\0') || state_key.contains('\0') {
        return Err(Error::invalid_param("Event types and state keys cannot contain NUL"));
    }
    check_txn_id(out.txn_id.as_deref())
}

/// Transaction ids are stored.
pub(super) fn check_txn_id(txn_id: Option<&str>) -> Result<()> {
    match txn_id {
        Some(id) if id.contains('\0') || id.len() > MAX_TXN_ID => {
            Err(Error::invalid_param("The transaction id is too long or contains NUL"))
        }
        _ => Ok(()),
    }
}

/// What stands before transaction ids of `PUT /redact` where they are kept together with those of `PUT /send`.
const OF_REDACT: &str = "redact/";

/// A transaction id of `PUT /redact` as it is kept.
pub(super) fn of_redact(txn_id: String) -> String {
    OF_REDACT.to_owned() + &txn_id
}

/// The transaction id under which an event was sent, as its client gave it.
pub(crate) fn transaction_id(event: &StoredEvent) -> Option<&str> {
    let kept = event.txn_id.as_deref()?;
    let is_redaction = *event.pdu.event_type() == TimelineEventType::RoomRedaction;
    Some(kept.strip_prefix(OF_REDACT).filter(|_| is_redaction).unwrap_or(kept))
}

fn has_text(out: &Outgoing<'_>, key: &str) -> bool {
    serde_json::from_str(out.content.get())
        .is_ok_and(|content: Map<String, Value>| content.get(key).is_some_and(Value::is_string))
}

fn check_tombstone(room_id: &RoomId, out: &Outgoing<'_>) -> Result<()> {
    match serde_json::from_str(out.content.get()) {
        Ok(Tombstone { replacement_room }) if replacement_room == room_id => {
            Err(Error::invalid_param("A room cannot be replaced by itself"))
        }
        _ => Ok(()),
    }
}

/// The form of power levels ("m.room.power_levels"); `texts`: before version 10 a number may be written as text, and the
/// room's rules read it.
fn check_numbers(levels: &Map<String, Value>, texts: bool) -> Result<()> {
    let is_number = |value: &Value| value.is_i64() || texts && value.is_string();
    for (key, value) in levels {
        let good = match key.as_str() {
            "ban" | "events_default" | "invite" | "kick" | "redact" | "state_default" | "users_default" => {
                is_number(value)
            }
            "events" | "notifications" => value.as_object().is_some_and(|of| of.values().all(is_number)),
            "users" => value
                .as_object()
                .is_some_and(|of| of.iter().all(|(user, level)| UserId::parse(user).is_ok() && is_number(level))),
            _ => true,
        };
        if !good {
            return Err(Error::bad_json(format!("The power levels' `{key}` has not the form it must have")));
        }
    }
    Ok(())
}
