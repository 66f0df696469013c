//! Account data, global and of rooms (tags, fully-read markers and push rules are such, too), and filters.
//!
//! What was deleted stays as a row without content, so that other devices hear of it (MSC3391). Point reads are
//! cached; the cache follows [`Change::AccountData`].

use std::sync::Arc;

use hearth_base::{
    Error, Result,
    cache::Cache,
    ids::{RoomNid, StreamPos, UserNid},
};

use crate::{
    Store,
    db::{Ints, Texts},
    execute, fetch_all, fetch_optional, later,
    log::{Change, Logged, Tx},
    sql,
};

/// One piece of account data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountData {
    /// The room it belongs to; `None` is global.
    pub room: Option<RoomNid>,
    /// Event type, e.g. `m.direct`.
    pub kind: String,
    /// The content, a JSON object; `None` if it was deleted.
    pub content: Option<String>,
    /// Where the last change stands.
    pub pos: StreamPos,
}

type Key = (UserNid, Option<RoomNid>, Arc<str>);

/// What is remembered of these tables.
#[derive(Debug)]
pub(crate) struct Memory {
    data: Cache<Key, Option<Arc<str>>>,
    filters: Cache<(UserNid, i64), Arc<str>>,
}

/// Bytes of account data remembered.
const DATA_BYTES: u64 = 8 << 20;
/// Filters remembered.
const FILTERS: u64 = 5_000;

impl Default for Memory {
    fn default() -> Self {
        let weigh = |key: &Key, value: &Option<Arc<str>>| {
            u32::try_from(key.2.len() + value.as_ref().map_or(0, |v| v.len()) + 100).unwrap_or(u32::MAX)
        };
        Self { data: Cache::weighed(DATA_BYTES, weigh), filters: Cache::new(FILTERS) }
    }
}

impl Memory {
    /// Forgets what a commit has changed.
    pub(crate) fn published(&self, changes: &[Logged]) {
        for logged in changes {
            if let Change::AccountData { user, room, kind } = &logged.change {
                self.data.invalidate(&(*user, *room, kind.clone()));
            }
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    room_nid: i64,
    kind: String,
    content: String,
    pos: i64,
}

impl From<Row> for AccountData {
    fn from(row: Row) -> Self {
        Self {
            room: (row.room_nid != 0).then_some(RoomNid(row.room_nid)),
            kind: row.kind,
            content: (!row.content.is_empty()).then_some(row.content),
            pos: StreamPos(row.pos),
        }
    }
}

fn column(room: Option<RoomNid>) -> i64 {
    room.map_or(0, |r| r.0)
}

const DATA_GET: &str = "SELECT content FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND kind = $3";
const DATA_SINCE: &str =
    "SELECT room_nid, kind, content, pos FROM account_data WHERE user_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos";
const DATA_ALL: &str = "SELECT room_nid, kind, content, pos FROM account_data WHERE user_nid = $1 AND pos <= $2 AND content <> '' ORDER BY room_nid, kind";
const DATA_OF_ROOM: &str = "SELECT room_nid, kind, content, pos FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND content <> '' ORDER BY kind";
const DATA_COUNT: &str = "SELECT COUNT(*) FROM account_data WHERE user_nid = $1";
const DATA_PUT: &str = "INSERT INTO account_data (user_nid, room_nid, kind, content, pos) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_nid, room_nid, kind) DO UPDATE SET content = excluded.content, pos = excluded.pos";
const DATA_HOLDERS: &str = "SELECT DISTINCT a.user_nid FROM account_data a JOIN memberships m ON m.user_nid = a.user_nid WHERE m.room_nid = $1 AND m.local AND m.membership = 'join' AND a.room_nid = 0 AND a.kind IN ($2, $3) AND a.content <> ''";
const DATA_DROP: &str = "DELETE FROM account_data WHERE user_nid = $1 RETURNING room_nid, kind";
const FILTER_GET: &str = "SELECT json FROM filters WHERE user_nid = $1 AND filter_id = $2";
const FILTER_SAME: &str = "SELECT filter_id FROM filters WHERE user_nid = $1 AND json = $2";
const FILTER_NEXT: &str = "SELECT COALESCE(MAX(filter_id) + 1, 0), COUNT(*) FROM filters WHERE user_nid = $1";
const FILTER_PUT: &str = "INSERT INTO filters (user_nid, filter_id, json) VALUES ($1, $2, $3)";
const FILTER_DROP: &str = "DELETE FROM filters WHERE user_nid = $1 AND filter_id <= $2";

impl Store {
    /// A piece of account data; `None` if there is none or it was deleted.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account_data(&self, user: UserNid, room: Option<RoomNid>, kind: &str) -> Result<Option<Arc<str>>> {
        let key: Key = (user, room, kind.into());
        self.inner
            .account_data
            .data
            .get_or(key, || async {
                let row: Option<(String,)> =
                    fetch_optional!(&mut self.read().await?, (String,), DATA_GET, user.0, column(room), kind)?;
                Ok(row.map(|r| r.0).filter(|c| !c.is_empty()).map(Into::into))
            })
            .await
    }

    /// What changed for a user in `(after, upto]`, deletions included, in the order of the changes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account_data_since(
        &self,
        user: UserNid,
        after: StreamPos,
        upto: StreamPos,
    ) -> Result<Vec<AccountData>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, DATA_SINCE, user.0, after.0, upto.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// All account data a user has as of `upto`; what was changed later is left to the next look.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account_data_all(&self, user: UserNid, upto: StreamPos) -> Result<Vec<AccountData>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, DATA_ALL, user.0, upto.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The account data a user has for one room, or (`None`) globally.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account_data_of(&self, user: UserNid, room: Option<RoomNid>) -> Result<Vec<AccountData>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, DATA_OF_ROOM, user.0, column(room))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Pieces a user has, all rooms together, deleted ones included.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account_data_count(&self, user: UserNid) -> Result<u64> {
        let held: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), DATA_COUNT, user.0)?;
        Ok(held.map_or(0, |(n,)| n.unsigned_abs()))
    }

    /// Our users who are joined to a room and have global account data of one of two kinds; of all, or of some.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn members_with_account_data(
        &self,
        room: RoomNid,
        among: Option<&[UserNid]>,
        kinds: [&str; 2],
    ) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = match among {
            Some([]) => Vec::new(),
            Some(users) => {
                let users = Ints(users.iter().map(|u| u.0).collect());
                let sql = sql!(
                    "SELECT DISTINCT a.user_nid FROM account_data a JOIN memberships m ON m.user_nid = a.user_nid WHERE m.room_nid = $1 AND m.local AND m.membership = 'join' AND a.room_nid = 0 AND a.kind IN ($2, $3) AND a.content <> '' AND a.user_nid "
                    [in 4]
                );
                fetch_all!(&mut self.read().await?, (i64,), sql, room.0, kinds[0], kinds[1], users)?
            }
            None => fetch_all!(&mut self.read().await?, (i64,), DATA_HOLDERS, room.0, kinds[0], kinds[1])?,
        };
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Changes a piece of account data: `change` is given what is there and says what is to be there. `None` deletes.
    /// At most `most` pieces a user.
    ///
    /// # Errors
    /// Those of `change`; 413 `M_TOO_LARGE` for one piece too many.
    pub async fn change_account_data<F>(
        &self,
        user: UserNid,
        room: Option<RoomNid>,
        kind: &str,
        most: u64,
        change: F,
    ) -> Result<()>
    where
        F: FnOnce(Option<String>) -> Result<Option<String>> + Send + 'static,
    {
        let kind: Arc<str> = kind.into();
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<(String,)> =
                    fetch_optional!(tx, (String,), DATA_GET, user.0, column(room), kind.as_ref())?;
                let new = row.is_none();
                let content = change(row.map(|r| r.0).filter(|c| !c.is_empty()))?;
                if new {
                    let held: Option<(i64,)> = fetch_optional!(tx, (i64,), DATA_COUNT, user.0)?;
                    if held.is_some_and(|(n,)| n.unsigned_abs() >= most) {
                        return Err(Error::too_large("Too many pieces of account data"));
                    }
                    if content.is_none() {
                        return Ok(());
                    }
                }
                tx.put_account_data(user, room, &kind, content.as_deref()).await.map(drop)
            })
        })
        .await
    }

    /// A filter as it was uploaded, in canonical order.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn filter(&self, user: UserNid, id: i64) -> Result<Option<Arc<str>>> {
        let memory = &self.inner.account_data.filters;
        if let Some(json) = memory.get(&(user, id)) {
            return Ok(Some(json));
        }
        let ticket = memory.ticket(&(user, id));
        let row: Option<(String,)> = fetch_optional!(&mut self.read().await?, (String,), FILTER_GET, user.0, id)?;
        Ok(row.map(|(json,)| {
            let json: Arc<str> = json.into();
            memory.fill((user, id), json.clone(), ticket);
            json
        }))
    }

    /// Keeps a filter; the same text gets the same number. Of more than `most` the oldest are dropped.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_filter(&self, user: UserNid, json: String, most: u64) -> Result<i64> {
        self.write(move |tx| {
            Box::pin(async move {
                let same: Option<(i64,)> = fetch_optional!(tx, (i64,), FILTER_SAME, user.0, json.as_str())?;
                if let Some((id,)) = same {
                    return Ok(id);
                }
                let row: Option<(i64, i64)> = fetch_optional!(tx, (i64, i64), FILTER_NEXT, user.0)?;
                let (id, held) = row.unwrap_or((0, 0));
                if held.unsigned_abs() >= most {
                    // Numbers have no gaps but at the old end.
                    execute!(tx, FILTER_DROP, user.0, id - i64::try_from(most).unwrap_or(i64::MAX))?;
                }
                execute!(tx, FILTER_PUT, user.0, id, json.as_str())?;
                Ok(id)
            })
        })
        .await
    }
}

impl Tx {
    /// Deletes what was said of notifications on devices that go (MSC3890).
    pub(crate) async fn delete_notification_settings(&mut self, user: UserNid, devices: &[String]) -> Result<()> {
        let prefixes = ["m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."];
        let kinds = devices.iter().flat_map(|device| prefixes.map(|prefix| format!("{prefix}{device}")));
        let there = sql!(
            "SELECT kind FROM account_data WHERE user_nid = $1 AND room_nid = 0 AND content <> '' AND kind " [in 2]
        );
        let there: Vec<(String,)> = fetch_all!(self, (String,), there, user.0, Texts(kinds.collect()))?;
        for (kind,) in there {
            self.put_account_data(user, None, &kind, None).await?;
        }
        Ok(())
    }

    /// Deletes all account data of a user, for an account that is closed: nobody will sync it any more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_account_data(&mut self, user: UserNid) -> Result<()> {
        let gone: Vec<(i64, String)> = fetch_all!(self, (i64, String), DATA_DROP, user.0)?;
        for (room, kind) in gone {
            let room = (room != 0).then_some(RoomNid(room));
            self.log(Change::AccountData { user, room, kind: kind.into() });
        }
        Ok(())
    }

    /// Puts a piece of account data in place, or (`None`) deletes it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_account_data(
        &mut self,
        user: UserNid,
        room: Option<RoomNid>,
        kind: &str,
        content: Option<&str>,
    ) -> Result<StreamPos> {
        let pos = self.log(Change::AccountData { user, room, kind: kind.into() });
        later!(self, DATA_PUT, user.0, column(room), kind, content.unwrap_or(""), pos.0)?;
        Ok(pos)
    }
}
