//! What may be known of a room before joining: written for those we invite and for those who knock, read from those who
//! invite ours (client-server API, "Stripped state").

use std::time::Duration;

use futures_util::future::join_all;
use hearth_base::{Doing, Error, Result};
use hearth_rules::{
    client_format::write_stripped,
    event::{Pdu, Unverified},
    versions::RoomVersion,
};
use hearth_store::rooms::Room;
use ruma::{OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::Joins;

/// Events of another server's stripped state that are looked at, and their bytes as we keep them.
const MAX_EVENTS: usize = 100;
const MAX_BYTES: usize = 256 << 10;

/// How long the keys of servers that have nothing to do with an invite are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How what another server shows of a room is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// If any of it is a whole event, all must be signed events of the room, and the create event among them (server-server
    /// API, `PUT /invite`).
    Strict,
    /// What claims to be a signed event of the room and is none is left out (`PUT /send_knock`).
    Choosy,
    /// It is taken as it is.
    None,
}

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

    /// Reads what another server shows of a room and gives it as clients get it, a JSON array. Where nothing claims to be an
    /// event it is taken as it is: servers older than that rule (1.16) show four fields of each, or nothing at all, and their
    /// invites are not to be lost.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM`; 413 for too much of it.
    pub(super) async fn stripped(
        &self,
        room_id: &RoomId,
        version: &'static RoomVersion,
        shown: &[Box<RawValue>],
        own: &Pdu,
        care: Care,
    ) -> Result<String> {
        if shown.len() > MAX_EVENTS {
            return Err(Error::invalid_param(format!("More than {MAX_EVENTS} events of stripped state")));
        }
        if shown.iter().map(|e| e.get().len()).sum::<usize>() > 4 * MAX_BYTES {
            return Err(Error::too_large("The stripped state is too large"));
        }
        let whole = care == Care::Strict && shown.iter().any(|raw| is_whole(raw));
        let mut out = String::from("[");
        let (mut events, mut has_create) = (Vec::new(), false);
        for raw in shown {
            let parsed = Pdu::parse_remote(raw.get(), version);
            match parsed {
                Ok(event) if event.claimed().room_id() == room_id && event.claimed().is_state() => {
                    has_create |= event.claimed().is(&"m.room.create".into(), "");
                    if whole || care == Care::Choosy {
                        events.push(event);
                    } else {
                        push(&mut out, |out| write_stripped(out, event.claimed(), false));
                    }
                }
                Ok(_) if whole => return Err(Error::invalid_param("Stripped state of another room")),
                Err(e) if whole => return Err(Error::invalid_param(format!("Stripped state: {e}"))),
                Ok(_) => {}
                Err(_) if care == Care::Choosy && is_whole(raw) => {}
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
        if whole && !has_create {
            return Err(Error::invalid_param("The stripped state has no m.room.create event"));
        }
        let good = match whole {
            true => self.good_ones(events, own.sender().server_name(), version).await?,
            false => self.checked(events, version).await?,
        };
        for event in good {
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

impl Joins {
    /// Those of the events that `server` shows whose signatures are good. It answers for the create event and for what its
    /// own users sent; what others sent is left out if it cannot be checked now: their servers may be away, and an invite
    /// is not to fail for the topic.
    async fn good_ones(
        &self,
        events: Vec<Unverified>,
        server: &ServerName,
        version: &'static RoomVersion,
    ) -> Result<Vec<Pdu>> {
        let wrong = |why: &str| Error::invalid_param(format!("Stripped state: {why}"));
        let is_answered_for = |e: &Unverified| {
            e.claimed().is(&"m.room.create".into(), "") || e.claimed().sender().server_name() == server
        };
        let (own, others): (Vec<_>, Vec<_>) = events.into_iter().partition(is_answered_for);
        for event in &others {
            let signers = event.signers().map_err(|e| wrong(&e.to_string()))?;
            if signers.iter().any(|(_, keys)| keys.is_empty()) {
                return Err(wrong("an event is not signed by its server"));
            }
        }
        let mut good = Vec::with_capacity(own.len() + others.len());
        for checked in self.server_keys.verify(own, version).await? {
            good.push(checked.map_err(|e| match e {
                Error::Told(told) => wrong(&told.error),
                fault => fault,
            })?);
        }
        good.extend(self.checked(others, version).await?);
        Ok(good)
    }

    /// Those of events that can be checked now, and are good.
    async fn checked(&self, events: Vec<Unverified>, version: &'static RoomVersion) -> Result<Vec<Pdu>> {
        let check = |event| tokio::time::timeout(PATIENCE, self.server_keys.verify(vec![event], version));
        let mut good = Vec::with_capacity(events.len());
        for checked in join_all(events.into_iter().map(check)).await.into_iter().flatten() {
            good.extend(checked?.into_iter().flatten());
        }
        Ok(good)
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
