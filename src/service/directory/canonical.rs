//! Which aliases a room calls itself by: only those that lead to it, wherever they are kept.

use hearth_base::{Error, Requester, Result, ids::RoomNid};
use ruma::{OwnedEventId, OwnedRoomAliasId, RoomAliasId, RoomId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Directory;
use crate::events::Outgoing;

/// Content of `m.room.canonical_alias`, as far as it names aliases.
#[derive(Debug, Default, Deserialize)]
struct CanonicalAlias {
    alias: Option<String>,
    #[serde(default)]
    alt_aliases: Option<Vec<String>>,
}

impl CanonicalAlias {
    fn read(content: &RawValue) -> Result<Self> {
        serde_json::from_str(content.get())
            .map_err(|_| Error::bad_json("`alias` is not a string or `alt_aliases` not a list of strings"))
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        let alias = self.alias.iter().filter(|a| !a.is_empty());
        alias.chain(self.alt_aliases.iter().flatten()).map(String::as_str)
    }
}

impl Directory {
    /// Sends `m.room.canonical_alias`, after having looked whether the aliases that are new in it lead to the room.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for what is no alias, `M_BAD_ALIAS` for one that leads elsewhere; else as of sending state.
    pub async fn set_canonical_alias(
        &self,
        who: &Requester,
        room_id: &RoomId,
        content: &RawValue,
        timestamp: Option<u64>,
    ) -> Result<OwnedEventId> {
        let new = CanonicalAlias::read(content)?;
        if let Some(nid) = self.store.room_nid(room_id).await? {
            let room = self.state.room_by_nid(nid).await?;
            let event = self.state.current_entry(&room, "m.room.canonical_alias", "").await?;
            let old: CanonicalAlias = event.and_then(|e| e.pdu.content_as()).unwrap_or_default();
            for alias in new.all().filter(|a| !old.all().any(|o| o == *a)) {
                if !self.leads_to(&parsed(alias)?, nid, room_id).await? {
                    return Err(leads_elsewhere(alias));
                }
            }
        }
        let out = Outgoing {
            event_type: TimelineEventType::RoomCanonicalAlias,
            state_key: Some(String::new()),
            content,
            txn_id: None,
            timestamp,
        };
        self.events.send(who, room_id, out).await
    }

    /// Looks at the `m.room.canonical_alias` that a room is to begin with: only `own`, the alias it is made with, leads to it.
    ///
    /// # Errors
    /// As of [`Self::set_canonical_alias`].
    pub(crate) fn check_first_aliases(content: &RawValue, own: Option<&RoomAliasId>) -> Result<()> {
        for alias in CanonicalAlias::read(content)?.all() {
            if own != Some(&*parsed(alias)?) {
                return Err(leads_elsewhere(alias));
            }
        }
        Ok(())
    }

    /// Whether an alias points to a room; one of another server is asked for there.
    async fn leads_to(&self, alias: &RoomAliasId, nid: RoomNid, room_id: &RoomId) -> Result<bool> {
        if alias.server_name() == self.server_name {
            return Ok(self.store.alias(alias).await?.is_some_and(|(to, _)| to == nid));
        }
        match self.resolve(alias).await {
            Ok((to, _)) => Ok(to == room_id),
            Err(e @ Error::Fault(_)) => Err(e),
            Err(_) => Ok(false),
        }
    }
}

fn parsed(alias: &str) -> Result<OwnedRoomAliasId> {
    RoomAliasId::parse(alias).map_err(|_| Error::invalid_param(format!("{alias:?} is not a room alias")))
}

fn leads_elsewhere(alias: &str) -> Error {
    let error = format!("The alias {alias} does not point to this room");
    Error::told(http::StatusCode::BAD_REQUEST, "M_BAD_ALIAS", error)
}
