//! Room aliases of this server, and the search for users.

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use ruma::{OwnedRoomAliasId, RoomAliasId};

use crate::{Store, db::Sql, execute, fetch_all, fetch_optional, log::Tx, sql};

/// A user found.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct FoundUser {
    /// Their id.
    pub user_id: String,
    /// Their name, JSON.
    pub displayname: Option<String>,
    /// Their avatar, JSON.
    pub avatar_url: Option<String>,
}

const ALIAS: &str = "SELECT room_nid, creator_nid FROM aliases WHERE alias = $1";
const ALIASES_OF: &str = "SELECT alias FROM aliases WHERE room_nid = $1 ORDER BY alias";
const ALIAS_INSERT: &str =
    "INSERT INTO aliases (alias, room_nid, creator_nid) VALUES ($1, $2, $3) ON CONFLICT (alias) DO NOTHING";
const ALIAS_DELETE: &str = "DELETE FROM aliases WHERE alias = $1";
const ALIASES_MOVE: &str = "UPDATE aliases SET room_nid = $2 WHERE room_nid = $1";
/// Users whose id or name has a text in it: `$1` in lower case, `$2` as typed (engines fold letters beyond ASCII
/// differently). Those in a common or open room,
/// who searches only in an open one; with `$4` everybody else.
const USER_SEARCH: &str = "SELECT u.user_id, n.value AS displayname, a.value AS avatar_url FROM users u LEFT JOIN profiles n ON n.user_nid = u.user_nid AND n.field = 'displayname' LEFT JOIN profiles a ON a.user_nid = u.user_nid AND a.field = 'avatar_url' WHERE (lower(u.user_id) LIKE $1 ESCAPE '!' OR lower(n.value) LIKE $1 ESCAPE '!' OR n.value LIKE $2 ESCAPE '!') AND NOT (u.user_nid = $3 AND $4) AND NOT EXISTS (SELECT 1 FROM accounts c WHERE c.user_nid = u.user_nid AND (c.deactivated OR c.locked)) AND ($4 AND EXISTS (SELECT 1 FROM accounts c WHERE c.user_nid = u.user_nid) OR EXISTS (SELECT 1 FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid WHERE m.user_nid = u.user_nid AND m.membership = 'join' AND (r.open OR u.user_nid <> $3 AND EXISTS (SELECT 1 FROM memberships o WHERE o.room_nid = m.room_nid AND o.user_nid = $3 AND o.membership = 'join')))) ORDER BY CASE WHEN lower(u.user_id) LIKE $5 ESCAPE '!' OR lower(n.value) LIKE $6 ESCAPE '!' THEN 0 ELSE 1 END, CASE WHEN n.value IS NULL THEN 1 ELSE 0 END, u.user_id LIMIT $7";

/// Members of other servers in rooms of `$1`, by their id (`$2`) or the name that they have there (`$3` in lower case, `$4`
/// as typed). Of those in very large rooms 10,000 are looked through: clients search with each letter that is typed, and every
/// event is read for it.
const MEMBER_SEARCH: Sql = sql!(
    "SELECT u.user_id, c.event_nid FROM (SELECT m.user_nid, m.event_nid FROM memberships o JOIN memberships m ON m.room_nid = o.room_nid AND m.membership = 'join' AND NOT m.local WHERE o.user_nid = $1 AND o.membership = 'join' LIMIT 10000) c JOIN users u ON u.user_nid = c.user_nid JOIN events e ON e.event_nid = c.event_nid WHERE (lower(u.user_id) LIKE $2 ESCAPE '!' OR lower("
    [either "CAST(e.json AS TEXT)" "convert_from(e.json, 'UTF8')"]
    ") LIKE $3 ESCAPE '!' OR "
    [either "CAST(e.json AS TEXT)" "convert_from(e.json, 'UTF8')"]
    " LIKE $4 ESCAPE '!') LIMIT $5"
);

/// A text as part of a pattern: neither engine may take a part of it for one, nor PostgreSQL meet a NUL.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 8);
    for c in text.chars().filter(|c| *c != '\0') {
        if matches!(c, '%' | '_' | '!') {
            literal.push('!');
        }
        literal.push(c);
    }
    literal
}

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

    /// Points an alias to a room.
    ///
    /// # Errors
    /// 409 `M_ROOM_IN_USE` if it points somewhere already.
    pub async fn add_alias(&self, alias: OwnedRoomAliasId, room: RoomNid, creator: UserNid) -> Result<()> {
        self.write(move |tx| Box::pin(async move { tx.insert_alias(&alias, room, creator).await })).await
    }

    /// Users whose id or name has `term` in it, those that begin with it first; without the one who asks. If not
    /// `everybody`, only those in a room with them or in one that is open to all.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn search_users(
        &self,
        asking: UserNid,
        term: &str,
        everybody: bool,
        limit: usize,
    ) -> Result<Vec<FoundUser>> {
        let typed = literal(term);
        let lower = typed.to_lowercase();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        fetch_all!(
            &mut self.read().await?,
            FoundUser,
            USER_SEARCH,
            format!("%{lower}%"),
            format!("%{typed}%"),
            asking.0,
            everybody,
            format!("@{}%", lower.trim_start_matches('@')),
            format!("\"{lower}%"),
            limit
        )
    }

    /// Users of other servers in rooms with the one who asks whose id or name there may have `term` in it, with the event that
    /// says so; one may be found more than once.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn search_members(&self, asking: UserNid, term: &str, most: usize) -> Result<Vec<(String, EventNid)>> {
        let quoted = serde_json::Value::from(term).to_string();
        let written = literal(quoted.get(1..quoted.len() - 1).unwrap_or_default());
        let found: Vec<(String, i64)> = fetch_all!(
            &mut self.read().await?,
            (String, i64),
            MEMBER_SEARCH,
            asking.0,
            format!("%{}%", literal(term).to_lowercase()),
            format!("%\"displayname\":\"%{}%", written.to_lowercase()),
            format!("%\"displayname\":\"%{written}%"),
            i64::try_from(most).unwrap_or(i64::MAX)
        )?;
        Ok(found.into_iter().map(|(user, event)| (user, EventNid(event))).collect())
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

    /// Points all aliases of a room to another.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn move_aliases(&mut self, from: RoomNid, to: RoomNid) -> Result<()> {
        execute!(self, ALIASES_MOVE, from.0, to.0).map(drop)
    }
}
