//! Filters: kept once a text, under a number (spec: "Filtering"). What they let pass is [`crate::sync::filter`]'s.

use std::sync::Arc;

use hearth_base::{Error, OrNotFound, Requester, Result, ids::UserNid};
use ruma::{
    OwnedUserId, UserId,
    api::client::filter::{EventFormat, FilterDefinition, RoomEventFilter},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{AccountData, own, raw};

/// Bytes of a filter at most.
const MAX_BYTES: usize = 64 << 10;
/// The name that per-thread counts had before the spec (MSC3773), in filters and in /sync.
pub const THREAD_COUNTS: &str = "org.matrix.msc3773.unread_thread_notifications";

impl AccountData {
    /// Keeps a filter and gives its id: the same for the same filter, whatever the order of its keys.
    ///
    /// # Errors
    /// 403 for other users, 400 `M_BAD_JSON` for what is no filter.
    pub async fn define_filter(&self, who: &Requester, user: &UserId, filter: &RawValue) -> Result<String> {
        own(who, user)?;
        if filter.get().len() > MAX_BYTES {
            return Err(Error::too_large("The filter is too large"));
        }
        let mut value: Value = serde_json::from_str(filter.get()).map_err(|e| Error::bad_json(e.to_string()))?;
        definition(value.clone())?;
        value.sort_all_objects();
        let id = self.store.add_filter(who.user_nid, value.to_string(), self.settings.max_filters).await?;
        Ok(id.to_string())
    }

    /// A filter as it was uploaded.
    ///
    /// # Errors
    /// 403 for other users, 404 if there is none.
    pub async fn filter(&self, who: &Requester, user: &UserId, id: &str) -> Result<Box<RawValue>> {
        own(who, user)?;
        let id = id.parse().ok().or_not_found("Filter")?;
        raw(self.store.filter(who.user_nid, id).await?.or_not_found("Filter")?.as_ref().to_owned())
    }

    /// The filter that a `filter` parameter of /sync names: the text itself, or that of one kept with us.
    ///
    /// # Errors
    /// 400 for what is neither.
    pub async fn filter_text(&self, user: UserNid, named: &str) -> Result<Arc<str>> {
        if named.trim_start().starts_with('{') {
            return if named.len() > MAX_BYTES {
                Err(Error::invalid_param("The filter is too long"))
            } else {
                Ok(named.into())
            };
        }
        let unknown = || Error::invalid_param("There is no such filter");
        let number = named.parse().map_err(|_| unknown())?;
        self.store.filter(user, number).await?.ok_or_else(unknown)
    }
}

/// What ruma's type does not know of a filter of events.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Unstable {
    /// Only events with one of these relations (MSC3874).
    #[serde(rename = "org.matrix.msc3874.rel_types")]
    pub only: Option<Vec<String>>,
    /// Only events that others relate to in one of these ways (MSC3440).
    #[serde(default)]
    pub related_by_rel_types: Vec<String>,
    /// Only events that others of one of these senders relate to.
    #[serde(default)]
    pub related_by_senders: Vec<OwnedUserId>,
    /// No events with one of these.
    #[serde(rename = "org.matrix.msc3874.not_rel_types", default)]
    pub never: Vec<String>,
    /// Counts by thread under the name they had before the spec (MSC3773).
    #[serde(rename = "org.matrix.msc3773.unread_thread_notifications", default)]
    pub thread_counts: bool,
}

/// Reads the text of a filter.
///
/// # Errors
/// 400 `M_NOT_JSON`, `M_BAD_JSON` for what is no filter.
pub fn read(text: &str) -> Result<(FilterDefinition, Unstable)> {
    definition(serde_json::from_str(text).map_err(|_| Error::not_json("The filter is not JSON"))?)
}

/// Reads the text of a filter of a room's events, as pages of history take it.
///
/// # Errors
/// 400 `M_NOT_JSON`, `M_BAD_JSON` for what is no filter.
pub fn read_events(text: &str) -> Result<(RoomEventFilter, Unstable)> {
    let value: Value = serde_json::from_str(text).map_err(|_| Error::not_json("The filter is not JSON"))?;
    if !value.is_object() {
        return Err(Error::bad_json("A filter is a JSON object"));
    }
    Ok((parsed(value.clone())?, parsed(value)?))
}

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::bad_json(format!("The filter is none: {e}")))
}

fn definition(mut value: Value) -> Result<(FilterDefinition, Unstable)> {
    if !value.is_object() {
        return Err(Error::bad_json("A filter is a JSON object"));
    }
    let mut unstable = Unstable::default();
    if let Some(timeline) = value.pointer_mut("/room/timeline") {
        if timeline.is_object() {
            unstable = parsed(timeline.clone())?;
        }
        if let Some(timeline) = timeline.as_object_mut()
            && let Some(old) = timeline.shift_remove(THREAD_COUNTS)
        {
            timeline.entry("unread_thread_notifications").or_insert(old);
        }
    }
    let filter: FilterDefinition = parsed(value)?;
    if !matches!(filter.event_format, EventFormat::Client | EventFormat::Federation) {
        return Err(Error::bad_json("`event_format` is `client` or `federation`"));
    }
    Ok((filter, unstable))
}
