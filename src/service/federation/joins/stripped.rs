//! What may be known of a room before joining: written for those we invite and for those who knock, read from those who
//! invite ours (client-server API, "Stripped state").

use hearth_base::{Doing, Error, Result};
use hearth_rules::{client_format::write_stripped, event::Pdu, versions::RoomVersion};
use hearth_store::rooms::Room;
use ruma::{OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::Joins;

/// Events of another server's stripped state that are looked at, and their bytes as we keep them.
const MAX_EVENTS: usize = 100;
const MAX_BYTES: usize = 256 << 10;

/// An event as stripped state has it.
#[derive(Deserialize, Serialize)]
struct Stripped<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    sender: OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    event_type: String,
}

impl Joins {
    /// What a room shows of itself to those outside, as whole events; with the member event of who invites.
    pub(super) async fn shown_events(&self, room: &Room, inviter: Option<&UserId>) -> Result<Vec<Box<RawValue>>> {
        let state = self.state.current(room).await?;
        let shown = self.state.before_joining(&state, inviter).await?;
        shown.iter().map(|e| RawValue::from_string(e.pdu.json().to_owned()).doing("writing stripped state")).collect()
    }

    /// Reads what another server shows of a room and gives it as clients get it, a JSON array. If `strict`, the create event
    /// must be shown, and all of it must be signed events of the room (server-server API, `PUT /invite`); else what is not is
    /// taken as it is. As it is also where nothing claims to be such an event: servers older than that rule (1.16) show four
    /// fields of each, also of the create event, and their invites are not to be lost.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM`; 413 for too much of it.
    pub(super) async fn stripped(
        &self,
        room_id: &RoomId,
        version: &'static RoomVersion,
        shown: &[Box<RawValue>],
        own: &Pdu,
        strict: bool,
    ) -> Result<String> {
        if shown.len() > MAX_EVENTS {
            return Err(Error::invalid_param(format!("More than {MAX_EVENTS} events of stripped state")));
        }
        if shown.iter().map(|e| e.get().len()).sum::<usize>() > 4 * MAX_BYTES {
            return Err(Error::too_large("The stripped state is too large"));
        }
        let whole = strict && shown.iter().any(|raw| is_whole(raw));
        let mut out = String::from("[");
        let (mut events, mut has_create) = (Vec::new(), false);
        for raw in shown {
            let parsed = Pdu::parse_remote(raw.get(), version);
            match parsed {
                Ok(event) if event.claimed().room_id() == room_id && event.claimed().is_state() => {
                    has_create |= event.claimed().is(&"m.room.create".into(), "");
                    if whole {
                        events.push(event);
                    } else {
                        push(&mut out, |out| write_stripped(out, event.claimed(), false));
                    }
                }
                Ok(_) if whole => return Err(Error::invalid_param("Stripped state of another room")),
                Err(e) if whole => return Err(Error::invalid_param(format!("Stripped state: {e}"))),
                Ok(_) => {}
                Err(_) => {
                    // Without state key, type or sender there is nothing to show.
                    let Ok(event) = serde_json::from_str::<Stripped<'_>>(raw.get()) else { continue };
                    has_create |= event.event_type == "m.room.create" && event.state_key.is_empty();
                    if event.event_type.len() <= 255 && event.state_key.len() <= 255 {
                        let text = serde_json::to_string(&event).doing("writing stripped state")?;
                        push(&mut out, |out| out.push_str(&text));
                    }
                }
            }
        }
        if strict && !has_create {
            return Err(Error::invalid_param("The stripped state has no m.room.create event"));
        }
        for checked in self.server_keys.verify(events, version).await? {
            let event = checked.map_err(|e| match e {
                Error::Told(told) => Error::invalid_param(format!("Stripped state: {}", told.error)),
                fault => fault,
            })?;
            // Of one that was altered only that is left which its signature is about.
            push(&mut out, |out| write_stripped(out, &event, false));
        }
        push(&mut out, |out| write_stripped(out, own, false));
        out.push(']');
        if out.len() > MAX_BYTES {
            return Err(Error::too_large("The stripped state is too large"));
        }
        Ok(out)
    }
}

/// Whether an entry has what events have between servers and stripped state has not.
fn is_whole(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Claim {
        hashes: Option<IgnoredAny>,
        signatures: Option<IgnoredAny>,
        auth_events: Option<IgnoredAny>,
    }
    serde_json::from_str(raw.get())
        .is_ok_and(|c: Claim| c.hashes.is_some() || c.signatures.is_some() || c.auth_events.is_some())
}

fn push(out: &mut String, write: impl FnOnce(&mut String)) {
    if out.len() > 1 {
        out.push(',');
    }
    write(out);
}

/// The servers of those who speak in stripped state.
pub(super) fn senders(stripped: &str) -> Vec<OwnedUserId> {
    #[derive(Deserialize)]
    struct Sent {
        sender: Option<OwnedUserId>,
    }
    let events: Vec<Sent> = serde_json::from_str(stripped).unwrap_or_default();
    events.into_iter().filter_map(|e| e.sender).collect()
}
