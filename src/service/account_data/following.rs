//! What a user keeps with a room, carried over to the room that replaces it.

use hearth_base::{Result, ids::UserNid};
use hearth_store::rooms::Room;
use serde_json::{Value, json};

use super::{AccountData, TAGS, parse};

/// Which rooms are conversations with whom.
const DIRECT: &str = "m.direct";

impl AccountData {
    /// Tags the new room as the old one was, unless it has tags, and notes it as a direct chat if the old one was one.
    ///
    /// # Errors
    /// If the database fails, or the user keeps too much already.
    pub(crate) async fn follow(&self, user: UserNid, old: &Room, new: &Room) -> Result<()> {
        let most = self.settings.max_pieces;
        if let Some(tags) = self.store.account_data(user, Some(old.nid), TAGS).await? {
            let change = move |stored: Option<String>| Ok(stored.or_else(|| Some((*tags).to_owned())));
            self.store.change_account_data(user, Some(new.nid), TAGS, most, change).await?;
        }
        let direct = self.store.account_data(user, None, DIRECT).await?;
        if !direct.is_some_and(|d| d.contains(old.room_id.as_str())) {
            return Ok(());
        }
        let (from, to) = (old.room_id.clone(), new.room_id.clone());
        let change = move |stored: Option<String>| {
            let mut content = parse(stored.as_deref());
            for rooms in content.values_mut().filter_map(Value::as_array_mut) {
                if rooms.iter().any(|r| r == from.as_str()) && !rooms.iter().any(|r| r == to.as_str()) {
                    rooms.push(json!(to));
                }
            }
            Ok(Some(Value::Object(content).to_string()))
        };
        self.store.change_account_data(user, None, DIRECT, most, change).await
    }
}
