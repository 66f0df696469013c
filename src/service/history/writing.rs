//! Events as their readers get them: what the server adds for one reader is found out here and written around the signed
//! text.

use std::sync::Arc;

use hearth_base::{Result, ids::EventNid};
use hearth_rules::{
    client_format::{EventFields, Unsigned, fields::write_fields, write_client_event, write_federation_event},
    event::{Pdu, redaction},
};
use hearth_store::{events::StoredEvent, rooms::Room};

use super::{Bundles, History, Viewer};
use crate::{events::sense::transaction_id, state::version_of};

/// How events are to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form<'a> {
    /// With their room's id: everywhere but in /sync.
    pub room_id: bool,
    /// As part of the room's state, which is one and the same for all who may read it.
    pub state: bool,
    /// Only these properties (`event_fields` of a filter).
    pub fields: Option<&'a EventFields>,
    /// As other servers get them (`event_format` of a filter).
    pub federation: bool,
    /// What they show of their children.
    pub(crate) bundles: Option<&'a Bundles>,
}

impl Form<'_> {
    /// As they usually are.
    pub const WITH_ROOM: Self = Self { room_id: true, state: false, fields: None, federation: false, bundles: None };
    /// As state usually is.
    pub const STATE: Self = Self { state: true, ..Self::WITH_ROOM };
}

impl History {
    /// Appends an event in the form clients get it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn write(&self, out: &mut String, event: &StoredEvent, viewer: &Viewer, form: Form<'_>) -> Result<()> {
        // Who sees an event of somebody they ignore (the root of a thread) sees that there is one, and no more.
        let hidden;
        let is_hidden = viewer.ignores(event)
            || self.was_erased_for(event, viewer).await? && !form.state && !self.is_in_force(event, viewer).await?;
        let pdu = if is_hidden {
            hidden = redacted(event, &viewer.room)?;
            &hidden
        } else {
            &*event.pdu
        };
        if form.federation {
            write_federation_event(out, pdu, version_of(&viewer.room)?.event_id_is_hash());
            return Ok(());
        }
        let now = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let age_of = |pdu: &Pdu| Some(now - i64::try_from(pdu.origin_server_ts()).unwrap_or(0));
        let replaced = self.as_shown(event.replaces, viewer).await?;
        let before = match &replaced {
            Some(pdu) if self.knows_before(event, viewer).await? => Some(pdu),
            _ => None,
        };
        let redaction = self.as_shown(event.redacted_by, viewer).await?;
        let mut because = String::new();
        if let Some(redaction) = &redaction {
            let unsigned = Unsigned { age_ms: age_of(redaction), ..Unsigned::default() };
            write_client_event(&mut because, redaction, true, &unsigned);
        }
        let own = viewer.user == event.sender
            && event.device.as_deref().is_some_and(|d| viewer.device.as_ref().is_some_and(|own| own.as_str() == d));
        let membership = viewer.membership_at(event).await?;
        let unsigned = Unsigned {
            age_ms: age_of(&event.pdu),
            transaction_id: transaction_id(event).filter(|_| own),
            membership: membership.as_deref(),
            prev_content: before.map(|pdu| pdu.content_json()),
            prev_sender: before.map(|pdu| pdu.sender()),
            replaces_state: replaced.as_ref().map(|pdu| pdu.event_id()),
            redacted_by: redaction.as_ref().map(|pdu| pdu.event_id()),
            redacted_because: (!because.is_empty()).then_some(because.as_str()),
            relations: form.bundles.and_then(|bundles| bundles.get(&event.nid)).map(String::as_str),
            more: &[],
        };
        match form.fields {
            None => write_client_event(out, pdu, form.room_id, &unsigned),
            Some(fields) => write_fields(out, pdu, form.room_id, &unsigned, fields),
        }
        Ok(())
    }

    /// Whether somebody of ours who sent an event was erased since, and the viewer is one of those who came later: not in
    /// the room when it was sent.
    async fn was_erased_for(&self, event: &StoredEvent, viewer: &Viewer) -> Result<bool> {
        if !self.store.is_erased(event.sender) {
            return Ok(false);
        }
        Ok(viewer.membership_at(event).await?.as_deref() != Some("join"))
    }

    /// Whether an event is of the room's state as it is now.
    async fn is_in_force(&self, event: &StoredEvent, viewer: &Viewer) -> Result<bool> {
        let Some(key) = event.key else { return Ok(false) };
        Ok(self.state.current(&viewer.room).await?.get(&key) == Some(&event.nid))
    }

    /// Whether a viewer may know what a state event took the place of. Whoever saw the event come knew the state before it;
    /// whoever sees it as part of a state may have come later than both.
    async fn knows_before(&self, event: &StoredEvent, viewer: &Viewer) -> Result<bool> {
        if viewer.is_own(event) || viewer.may_see(event).await? {
            return Ok(true);
        }
        match event.replaces {
            Some(nid) => match self.store.event(nid).await? {
                Some(replaced) => viewer.may_see(&replaced).await,
                None => Ok(false),
            },
            None => Ok(false),
        }
    }

    /// Another event that is told of along with one.
    async fn as_shown(&self, nid: Option<EventNid>, viewer: &Viewer) -> Result<Option<Arc<Pdu>>> {
        let Some(nid) = nid else { return Ok(None) };
        let Some(event) = self.store.event(nid).await? else { return Ok(None) };
        match self.was_erased_for(&event, viewer).await? {
            true => redacted(&event, &viewer.room).map(|pdu| Some(Arc::new(pdu))),
            false => Ok(Some(event.pdu.clone())),
        }
    }

    /// Appends a JSON array of events.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn write_all(
        &self,
        out: &mut String,
        events: &[Arc<StoredEvent>],
        viewer: &Viewer,
        form: Form<'_>,
    ) -> Result<()> {
        out.push('[');
        for (n, event) in events.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            self.write(out, event, viewer, form).await?;
        }
        out.push(']');
        Ok(())
    }
}

/// An event without what it says.
fn redacted(event: &StoredEvent, room: &Room) -> Result<Pdu> {
    let json = redaction::redact(event.pdu.json(), version_of(room)?)?;
    Pdu::parse_stored(event.event_id().to_owned(), json, version_of(room)?)
}
