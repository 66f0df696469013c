//! Room aliases of this server.

use hearth_base::{
    Error, Result,
    ids::{RoomNid, UserNid},
};
use ruma::{OwnedRoomAliasId, RoomAliasId};

use crate::{Store, execute, fetch_all, fetch_optional, log::Tx};

const ALIAS: &str = "SELECT room_nid, creator_nid FROM aliases WHERE alias = $1";
const ALIASES_OF: &str = "SELECT alias FROM aliases WHERE room_nid = $1 ORDER BY alias";
const ALIAS_INSERT: &str =
    "INSERT INTO aliases (alias, room_nid, creator_nid) VALUES ($1, $2, $3) ON CONFLICT (alias) DO NOTHING";
const ALIAS_DELETE: &str = "DELETE FROM aliases WHERE alias = $1";

impl Store {
    /// The room an alias points to, and who made the alias.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn alias(&self, alias: &RoomAliasId) -> Result<Option<(RoomNid, UserNid)>> {
        let row: Option<(i64, i64)> = fetch_optional!(&mut self.read().await?, (i64, i64), ALIAS, alias.as_str())?;
        Ok(row.map(|(room, creator)| (RoomNid(room), UserNid(creator))))
    }

    /// The aliases of a room on this server.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn aliases_of(&self, room: RoomNid) -> Result<Vec<OwnedRoomAliasId>> {
        let rows: Vec<(String,)> = fetch_all!(&mut self.read().await?, (String,), ALIASES_OF, room.0)?;
        rows.into_iter()
            .map(|(a,)| OwnedRoomAliasId::try_from(a).map_err(|e| Error::fault("aliases table", e)))
            .collect()
    }

    /// Removes an alias. Returns whether it was there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_alias(&self, alias: OwnedRoomAliasId) -> Result<bool> {
        self.write(move |tx| Box::pin(async move { Ok(execute!(tx, ALIAS_DELETE, alias.as_str())? > 0) })).await
    }
}

impl Tx {
    /// Points an alias to a room.
    ///
    /// # Errors
    /// 409 `M_ROOM_IN_USE` if it points somewhere already.
    pub async fn insert_alias(&mut self, alias: &RoomAliasId, room: RoomNid, creator: UserNid) -> Result<()> {
        if execute!(self, ALIAS_INSERT, alias.as_str(), room.0, creator.0)? == 0 {
            return Err(Error::told(
                http::StatusCode::CONFLICT,
                "M_ROOM_IN_USE",
                format!("The alias {alias} is already taken"),
            ));
        }
        Ok(())
    }
}
