//! Who is in which room: one row a user and room, the current membership. Written by the append path, which says when
//! the counts that are remembered here change.

use hearth_base::{
    Error, Result,
    ids::{EventNid, KeyNid, RoomNid, StreamPos, UserNid},
};
use ruma::{OwnedRoomId, ServerName, UserId, events::room::member::MembershipState};

use crate::{Store, db::Ints, execute, fetch_all, fetch_optional, log::Change, sql};

mod counts;

pub(crate) use counts::Counts;

/// By how many members a nameless room is named (spec: `m.heroes`).
const HEROES: usize = 5;

/// A user's place in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The room.
    pub room: RoomNid,
    /// The user.
    pub user: UserNid,
    /// What they are there.
    pub membership: MembershipState,
    /// The event that says so.
    pub event: EventNid,
    /// Its position.
    pub pos: StreamPos,
    /// A user of this server.
    pub local: bool,
    /// Left, and does not want to hear of it again.
    pub forgotten: bool,
    /// Stripped state that came with an invite or knock through another server, a JSON array.
    pub stripped: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    room_nid: i64,
    user_nid: i64,
    membership: String,
    event_nid: i64,
    pos: i64,
    local: bool,
    forgotten: bool,
    stripped: Option<String>,
}

impl From<Row> for Membership {
    fn from(row: Row) -> Self {
        Self {
            room: RoomNid(row.room_nid),
            user: UserNid(row.user_nid),
            membership: MembershipState::from(row.membership),
            event: EventNid(row.event_nid),
            pos: StreamPos(row.pos),
            local: row.local,
            forgotten: row.forgotten,
            stripped: row.stripped,
        }
    }
}

const MEMBERSHIP: &str = "SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE room_nid = $1 AND user_nid = $2";
const MEMBERSHIPS_OF_USER: &str = "SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE user_nid = $1";
const MEMBERS_OF_ROOM: &str = "SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE room_nid = $1 AND membership = $2";
const JOINED_TO: &str = "SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership = 'join'";
const JOINED_HERE: &str = "SELECT user_nid FROM memberships WHERE room_nid = $1 AND local AND membership = 'join'";
const LEFT_HERE: &str = "SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE room_nid = $1 AND local AND membership IN ('leave', 'ban')";
const GUESTS_IN: &str = "SELECT m.user_nid FROM memberships m JOIN accounts a ON a.user_nid = m.user_nid AND a.guest WHERE m.room_nid = $1 AND m.local AND m.membership = 'join'";
const REMOTE_MEMBERS: &str = "SELECT m.user_nid, u.user_id FROM memberships m JOIN users u ON u.user_nid = m.user_nid WHERE m.room_nid = $1 AND m.membership = 'join' AND NOT m.local";
const MET_BY: &str = "SELECT a.user_nid FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.local AND b.membership = 'join' WHERE a.user_nid = $1 AND a.membership = 'join' LIMIT 1";
const COUNTS: &str = "SELECT membership, COUNT(*) FROM memberships WHERE room_nid = $1 GROUP BY membership";
const ANY_IN: &str = "SELECT user_nid FROM memberships WHERE room_nid = $1 LIMIT 1";
const JOINED_ROOMS_OF: &str = "SELECT room_nid FROM memberships WHERE user_nid = $1 AND membership = 'join'";
const SHARING: &str = "SELECT DISTINCT b.user_nid FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join' WHERE a.user_nid = $1 AND a.membership = 'join'";
const SHARE: &str = "SELECT CAST(1 AS BIGINT) FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join' WHERE a.user_nid = $1 AND a.membership = 'join' AND b.user_nid = $2 LIMIT 1";
const IN_COMMON: &str = "SELECT r.room_nid, r.room_id FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join' JOIN rooms r ON r.room_nid = a.room_nid WHERE a.user_nid = $1 AND a.membership = 'join' AND b.user_nid = $2 AND a.room_nid > $3 ORDER BY r.room_nid LIMIT $4";
const IN_COMMON_COUNT: &str = "SELECT COUNT(*) FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join' WHERE a.user_nid = $1 AND a.membership = 'join' AND b.user_nid = $2";
const FIRST: &str = "SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership IN ('join', 'invite') ORDER BY pos, user_nid LIMIT $2";
const FIRST_LEFT: &str = "SELECT user_nid FROM memberships WHERE room_nid = $1 AND user_nid <> $2 AND membership IN ('leave', 'ban') ORDER BY pos, user_nid LIMIT $3";
const OF_SERVER: &str = "SELECT u.user_id, m.membership, k.key_nid FROM memberships m JOIN users u ON u.user_nid = m.user_nid JOIN state_keys k ON k.event_type = 'm.room.member' AND k.state_key = u.user_id WHERE m.room_nid = $1 AND NOT m.local AND u.user_id LIKE $2";
const IS_RESIDENT: &str =
    "SELECT CAST(1 AS BIGINT) FROM memberships WHERE room_nid = $1 AND local AND membership = 'join' LIMIT 1";
const FORGET: &str =
    "UPDATE memberships SET forgotten = TRUE WHERE room_nid = $1 AND user_nid = $2 AND membership IN ('leave', 'ban')";

impl Store {
    /// A user's place in a room; `None` if they never were there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn membership(&self, room: RoomNid, user: UserNid) -> Result<Option<Membership>> {
        let row: Option<Row> = fetch_optional!(&mut self.read().await?, Row, MEMBERSHIP, room.0, user.0)?;
        Ok(row.map(Into::into))
    }

    /// All rooms a user has or had to do with, forgotten ones included.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn memberships_of(&self, user: UserNid) -> Result<Vec<Membership>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, MEMBERSHIPS_OF_USER, user.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The rooms a user is joined to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_rooms(&self, user: UserNid) -> Result<Vec<RoomNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), JOINED_ROOMS_OF, user.0)?;
        Ok(rows.into_iter().map(|(n,)| RoomNid(n)).collect())
    }

    /// Whether anybody is or was anything in a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn has_memberships(&self, room: RoomNid) -> Result<bool> {
        let any: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), ANY_IN, room.0)?;
        Ok(any.is_some())
    }

    /// The members of a room with that membership.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn members(&self, room: RoomNid, membership: &MembershipState) -> Result<Vec<Membership>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, MEMBERS_OF_ROOM, room.0, membership.as_str())?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Those who are joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_to(&self, room: RoomNid) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), JOINED_TO, room.0)?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Our own users who are joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_here(&self, room: RoomNid) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), JOINED_HERE, room.0)?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Our own users who left a room or were banned from it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ours_who_left(&self, room: RoomNid) -> Result<Vec<Membership>> {
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, LEFT_HERE, room.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Guests of this server who are joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn guests_in(&self, room: RoomNid) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), GUESTS_IN, room.0)?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Our own users who are joined to, invited to or knocking at rooms.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn local_members(&self, rooms: &[RoomNid]) -> Result<Vec<(RoomNid, UserNid)>> {
        let sql = sql!(
            "SELECT room_nid, user_nid FROM memberships WHERE local AND membership IN ('join', 'invite', 'knock') AND room_nid "
            [in 1]
        );
        let rooms = Ints(rooms.iter().map(|r| r.0).collect());
        let rows: Vec<(i64, i64)> = fetch_all!(&mut self.read().await?, (i64, i64), sql, rooms)?;
        Ok(rows.into_iter().map(|(room, user)| (RoomNid(room), UserNid(user))).collect())
    }

    /// The users of another server who have or had to do with a room: the key of their member event, and what they are.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn members_of_server(
        &self,
        room: RoomNid,
        server: &ServerName,
    ) -> Result<Vec<(KeyNid, MembershipState)>> {
        // The pattern may find too many (`_` is any sign, and SQLite does not mind the case), never too few.
        let pattern = format!("%:{server}");
        let rows: Vec<(String, String, i64)> =
            fetch_all!(&mut self.read().await?, (String, String, i64), OF_SERVER, room.0, pattern)?;
        let theirs = |user: &str| <&UserId>::try_from(user).is_ok_and(|u| u.server_name() == server);
        Ok(rows
            .into_iter()
            .filter(|(user, ..)| theirs(user))
            .map(|(_, membership, key)| (KeyNid(key), MembershipState::from(membership)))
            .collect())
    }

    /// Whether any user of ours is joined to a room: else what we know of it may be of yesterday.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_resident(&self, room: RoomNid) -> Result<bool> {
        let known = &self.inner.member_counts.resident;
        if known.get(&room).is_some() {
            return Ok(true);
        }
        let ticket = known.ticket(&room);
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), IS_RESIDENT, room.0)?;
        if row.is_some() {
            known.fill(room, (), ticket);
        }
        Ok(row.is_some())
    }

    /// Users of other servers who are joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remote_members(&self, room: RoomNid) -> Result<Vec<(UserNid, String)>> {
        let rows: Vec<(i64, String)> = fetch_all!(&mut self.read().await?, (i64, String), REMOTE_MEMBERS, room.0)?;
        Ok(rows.into_iter().map(|(n, id)| (UserNid(n), id)).collect())
    }

    /// Whether a user is joined to a room that any of our users is joined to.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn meets_ours(&self, user: UserNid) -> Result<bool> {
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), MET_BY, user.0)?;
        Ok(row.is_some())
    }

    /// How many are joined and invited.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn member_counts(&self, room: RoomNid) -> Result<(u64, u64)> {
        let counts = self.inner.member_counts.numbers.get_or(room, || async move {
            let rows: Vec<(String, i64)> = fetch_all!(&mut self.read().await?, (String, i64), COUNTS, room.0)?;
            let of = |m: &str| rows.iter().find(|(k, _)| k == m).map_or(0, |(_, n)| n.unsigned_abs());
            Ok((of("join"), of("invite")))
        });
        counts.await
    }

    /// By whom a nameless room is named for a user: members, or if there are none those who were (spec: "Calculating the
    /// display name for a room").
    ///
    /// # Errors
    /// If the database fails.
    pub async fn heroes(&self, room: RoomNid, without: UserNid) -> Result<Vec<UserNid>> {
        let numbers = |rows: Vec<(i64,)>| rows.into_iter().map(|(n,)| UserNid(n));
        let first = self.inner.member_counts.first.get_or(room, || async move {
            let rows = fetch_all!(&mut self.read().await?, (i64,), FIRST, room.0, HEROES as i64 + 1)?;
            Ok(numbers(rows).collect())
        });
        let heroes: Vec<UserNid> = first.await?.iter().copied().filter(|u| *u != without).take(HEROES).collect();
        if !heroes.is_empty() {
            return Ok(heroes);
        }
        let rows = fetch_all!(&mut self.read().await?, (i64,), FIRST_LEFT, room.0, without.0, HEROES as i64)?;
        Ok(numbers(rows).collect())
    }

    /// Everyone joined to a room that this user is joined to, themselves included if in any.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sharing_rooms_with(&self, user: UserNid) -> Result<Vec<UserNid>> {
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), SHARING, user.0)?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Whether two users are joined to a common room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn share_a_room(&self, a: UserNid, b: UserNid) -> Result<bool> {
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), SHARE, a.0, b.0)?;
        Ok(row.is_some())
    }

    /// Rooms that two users are joined to, those behind `after`, and how many there are in all.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rooms_in_common(
        &self,
        a: UserNid,
        b: UserNid,
        after: RoomNid,
        limit: usize,
    ) -> Result<(Vec<(RoomNid, OwnedRoomId)>, u64)> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut session = self.read().await?;
        let rows: Vec<(i64, String)> = fetch_all!(&mut session, (i64, String), IN_COMMON, a.0, b.0, after.0, limit)?;
        let count: Option<(i64,)> = fetch_optional!(&mut session, (i64,), IN_COMMON_COUNT, a.0, b.0)?;
        let named = |(nid, id): (i64, String)| {
            let id = id.try_into().map_err(|e: ruma::IdParseError| Error::fault("rooms table", e))?;
            Ok((RoomNid(nid), id))
        };
        let rooms = rows.into_iter().map(named).collect::<Result<_>>()?;
        Ok((rooms, count.map_or(0, |(n,)| n.unsigned_abs())))
    }

    /// Marks a room that the user left as forgotten. Returns whether there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget(&self, room: RoomNid, user: UserNid) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let done = execute!(tx, FORGET, room.0, user.0)? > 0;
                if done {
                    tx.log(Change::Rooms { user, room });
                }
                Ok(done)
            })
        })
        .await
    }
}
