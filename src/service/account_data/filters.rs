//! Filters: kept once a text, under a number (spec: "Filtering"). Parsed ones are remembered.

use std::sync::Arc;

use hearth_base::{Error, OrNotFound, Requester, Result, ids::UserNid};
use ruma::{
    UserId,
    api::client::filter::{EventFormat, FilterDefinition},
};
use serde_json::{Value, value::RawValue};

use super::{AccountData, own, raw};

/// Bytes of a filter at most.
const MAX_BYTES: usize = 64 << 10;
/// The name that per-thread counts had before the spec.
const THREAD_COUNTS: &str = "org.matrix.msc3773.unread_thread_notifications";

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

    /// What a `filter` parameter means: the id of a filter, or a filter itself.
    ///
    /// # Errors
    /// 400 for what is neither.
    pub async fn filter_param(&self, user: UserNid, param: &str) -> Result<Arc<FilterDefinition>> {
        if param.starts_with('{') {
            if param.len() > MAX_BYTES {
                return Err(Error::too_large("The filter is too large"));
            }
            let value = serde_json::from_str(param).map_err(|e| Error::not_json(e.to_string()))?;
            return definition(value).map(Arc::new);
        }
        let unknown = || Error::invalid_param("There is no such filter");
        let id: i64 = param.parse().map_err(|_| unknown())?;
        if let Some(filter) = self.filters.get(&(user, id)) {
            return Ok(filter);
        }
        let ticket = self.filters.ticket(&(user, id));
        let json = self.store.filter(user, id).await?.ok_or_else(unknown)?;
        let value = serde_json::from_str(&json).map_err(|e| Error::fault("reading a stored filter", e))?;
        let filter = Arc::new(definition(value)?);
        self.filters.fill((user, id), filter.clone(), ticket);
        Ok(filter)
    }
}

/// Reads a filter.
fn definition(mut value: Value) -> Result<FilterDefinition> {
    if !value.is_object() {
        return Err(Error::bad_json("A filter is a JSON object"));
    }
    if let Some(timeline) = value.pointer_mut("/room/timeline").and_then(Value::as_object_mut)
        && let Some(old) = timeline.shift_remove(THREAD_COUNTS)
    {
        timeline.entry("unread_thread_notifications").or_insert(old);
    }
    let filter: FilterDefinition = serde_json::from_value(value).map_err(|e| Error::bad_json(e.to_string()))?;
    if !matches!(filter.event_format, EventFormat::Client | EventFormat::Federation) {
        return Err(Error::bad_json("`event_format` is `client` or `federation`"));
    }
    Ok(filter)
}
