//! Pushers, and what push rules made of events: `push_actions` (written by the append path).
//!
//! Nobody has a row for what the default rules say of an unmentioned member: the room's counter tells that. Rows stand
//! for what differs. Rows of user 0, [`EVERYONE`], are the default outcome for all members where the counter does not
//! tell enough: counted events in threads (so that counts can be told apart by thread), highlights of everybody, and
//! counted events that were redacted since (in a thread without a name, which nobody has).
//! A member's own row stands in place of the default outcome of that event.

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
};

use crate::{
    Store,
    db::{Ints, Texts},
    execute, fetch_all, fetch_optional,
    log::Tx,
    sql,
};

/// In `push_actions`: every member by the default rules. No user has this number.
pub const EVERYONE: UserNid = UserNid(0);

/// Where a user wants to be told of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pusher {
    /// Whose.
    pub user: UserNid,
    /// The app, e.g. `org.example.app.ios`.
    pub app_id: String,
    /// Address within the app's push service.
    pub pushkey: String,
    /// The device that set it.
    pub device_id: Option<String>,
    /// `http` or `email`.
    pub kind: String,
    /// Name of the app, for humans.
    pub app_name: String,
    /// Name of the device, for humans.
    pub device_name: String,
    /// Profile tag, if given.
    pub profile_tag: Option<String>,
    /// Language for the texts.
    pub lang: String,
    /// What the pusher needs, a JSON object.
    pub data: String,
    /// Whether it pushes at present (MSC3881).
    pub enabled: bool,
    /// When it was set first, ms.
    pub created_ms: i64,
    /// What has been pushed.
    pub pos: StreamPos,
}

#[derive(sqlx::FromRow)]
struct PusherRow {
    user_nid: i64,
    app_id: String,
    pushkey: String,
    device_id: Option<String>,
    kind: String,
    app_name: String,
    device_name: String,
    profile_tag: Option<String>,
    lang: String,
    data: String,
    enabled: bool,
    created_ms: i64,
    pos: i64,
}

impl From<PusherRow> for Pusher {
    fn from(row: PusherRow) -> Self {
        Self {
            user: UserNid(row.user_nid),
            app_id: row.app_id,
            pushkey: row.pushkey,
            device_id: row.device_id,
            kind: row.kind,
            app_name: row.app_name,
            device_name: row.device_name,
            profile_tag: row.profile_tag,
            lang: row.lang,
            data: row.data,
            enabled: row.enabled,
            created_ms: row.created_ms,
            pos: StreamPos(row.pos),
        }
    }
}

/// What is unread in one thread (`main` or the root's event id), as rows tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadRows {
    /// The thread; empty for what was redacted, which is in the room's counter and nobody's.
    pub thread: String,
    /// Events that count by the default rules; always 0 for `main`, where the room's counter tells.
    pub counted: i64,
    /// To be added for this user's own rules.
    pub deviation: i64,
    /// Highlights.
    pub highlights: i64,
}

/// An event that a user was notified of, beyond what the default rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notified {
    /// Where.
    pub room: RoomNid,
    /// Where it stands.
    pub pos: StreamPos,
    /// Which event.
    pub event: EventNid,
    /// Its thread.
    pub thread: String,
    /// Whether it is a highlight.
    pub highlight: bool,
    /// The actions, a JSON array.
    pub actions: String,
}

/// What rules made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// By the user's own rules; else what the default rules say of everyone.
    pub own: bool,
    /// Where the event stands.
    pub pos: StreamPos,
    /// Its thread.
    pub thread: String,
    /// Whether it notifies.
    pub notify: bool,
    /// Whether it is a highlight.
    pub highlight: bool,
    /// The actions, a JSON array.
    pub actions: String,
}

macro_rules! pusher_columns {
    () => {
        "SELECT user_nid, app_id, pushkey, device_id, kind, app_name, device_name, profile_tag, lang, data, enabled, created_ms, pos FROM pushers "
    };
}

const PUSHERS_OF: &str = concat!(pusher_columns!(), "WHERE user_nid = $1 ORDER BY app_id, pushkey");
const PUSHERS_COUNT: &str = "SELECT COUNT(*) FROM pushers WHERE user_nid = $1";
const PUSHER_PUT: &str = "INSERT INTO pushers (user_nid, app_id, pushkey, device_id, kind, app_name, device_name, profile_tag, lang, data, enabled, created_ms, pos) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (user_nid, app_id, pushkey) DO UPDATE SET device_id = excluded.device_id, kind = excluded.kind, app_name = excluded.app_name, device_name = excluded.device_name, profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data, enabled = excluded.enabled";
const PUSHER_DROP: &str = "DELETE FROM pushers WHERE user_nid = $1 AND app_id = $2 AND pushkey = $3";
const PUSHERS_DROP: &str = "DELETE FROM pushers WHERE user_nid = $1";
const PUSHER_DROP_OTHERS: &str = "DELETE FROM pushers WHERE app_id = $2 AND pushkey = $3 AND user_nid <> $1";

// The rows after $3 and up to $4, less those a threaded receipt has covered; and for rows of the user what the default
// outcome said of the same event, in whose place they stand.
const UNREAD: &str = "SELECT a.thread, \
     SUM(CASE WHEN a.user_nid = 0 AND a.counted AND a.thread <> 'main' THEN 1 ELSE 0 END), \
     SUM(CASE WHEN a.user_nid = 0 THEN 0 WHEN a.notify AND NOT a.counted THEN 1 WHEN a.counted AND NOT a.notify THEN -1 ELSE 0 END), \
     SUM(CASE WHEN a.highlight THEN 1 ELSE 0 END) - SUM(CASE WHEN a.user_nid <> 0 AND e.highlight THEN 1 ELSE 0 END) \
     FROM push_actions a \
     LEFT JOIN push_actions e ON e.user_nid = 0 AND e.room_nid = a.room_nid AND e.pos = a.pos \
     LEFT JOIN read_positions r ON r.room_nid = a.room_nid AND r.user_nid = $1 AND r.thread = a.thread \
     WHERE a.user_nid IN (0, $1) AND a.room_nid = $2 AND a.pos > $3 AND a.pos <= $4 AND (r.pos IS NULL OR a.pos > r.pos) \
     GROUP BY a.thread";
const COUNTED_IN_THREADS: &str = "SELECT COUNT(*) FROM push_actions WHERE user_nid = 0 AND room_nid = $1 AND pos > $2 AND pos <= $3 AND counted AND thread <> 'main'";
const OUTCOMES: &str = "SELECT user_nid, pos, thread, notify, highlight, actions FROM push_actions WHERE user_nid IN (0, $1) AND room_nid = $2 AND pos >= $3 AND pos <= $4";
const NOTIFIED: &str = "SELECT room_nid, pos, event_nid, thread, highlight, actions FROM push_actions WHERE user_nid = $1 AND notify AND pos < $2 AND (highlight OR NOT $3) ORDER BY pos DESC LIMIT $4";

const PAIRS: &str = "SELECT DISTINCT user_nid, room_nid FROM push_actions WHERE user_nid > $1 OR (user_nid = $1 AND room_nid > $2) ORDER BY user_nid, room_nid LIMIT $3";
// What the member has read, or for rows of everyone what all of ours have; where there is no member, all of it.
const DROP_READ: &str = "DELETE FROM push_actions WHERE user_nid = $1 AND room_nid = $2 AND pos <= $3 AND pos <= COALESCE((\
     SELECT MIN(COALESCE(r.pos, m.pos)) FROM memberships m \
     LEFT JOIN read_positions r ON r.room_nid = m.room_nid AND r.user_nid = m.user_nid AND r.thread = '' \
     WHERE m.room_nid = $2 AND m.local AND m.membership = 'join' AND ($1 = 0 OR m.user_nid = $1)), $3)";

#[derive(sqlx::FromRow)]
struct NotifiedRow {
    room_nid: i64,
    pos: i64,
    event_nid: i64,
    thread: String,
    highlight: bool,
    actions: String,
}

impl Tx {
    /// Deletes the pushers that devices that go have set.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_pushers(&mut self, user: UserNid, devices: &[String]) -> Result<()> {
        let sql = sql!("DELETE FROM pushers WHERE user_nid = $1 AND device_id " [in 2]);
        execute!(self, sql, user.0, Texts(devices.to_vec())).map(drop)
    }

    /// Deletes all pushers of a user, for an account that is closed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_all_pushers(&mut self, user: UserNid) -> Result<()> {
        execute!(self, PUSHERS_DROP, user.0).map(drop)
    }
}

impl Store {
    /// The pushers of a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn pushers(&self, user: UserNid) -> Result<Vec<Pusher>> {
        let rows: Vec<PusherRow> = fetch_all!(&mut self.read().await?, PusherRow, PUSHERS_OF, user.0)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Sets a pusher; with `alone`, those of other users for the same app and key go. It pushes what comes from now on.
    /// Returns false, and sets nothing, if it would be the user's first beyond `most`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_pusher(&self, pusher: Pusher, alone: bool, most: u64) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let p = &pusher;
                let head = tx.next_pos().0 - 1;
                execute!(
                    tx,
                    PUSHER_PUT,
                    p.user.0,
                    p.app_id.as_str(),
                    p.pushkey.as_str(),
                    p.device_id.as_deref(),
                    p.kind.as_str(),
                    p.app_name.as_str(),
                    p.device_name.as_str(),
                    p.profile_tag.as_deref(),
                    p.lang.as_str(),
                    p.data.as_str(),
                    p.enabled,
                    p.created_ms,
                    head
                )?;
                let held: Option<(i64,)> = fetch_optional!(tx, (i64,), PUSHERS_COUNT, p.user.0)?;
                if held.is_some_and(|(n,)| n.unsigned_abs() > most) {
                    execute!(tx, PUSHER_DROP, p.user.0, p.app_id.as_str(), p.pushkey.as_str())?;
                    return Ok(false);
                }
                if alone {
                    execute!(tx, PUSHER_DROP_OTHERS, p.user.0, p.app_id.as_str(), p.pushkey.as_str())?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Takes a pusher away. Returns whether there was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remove_pusher(&self, user: UserNid, app_id: String, pushkey: String) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                execute!(tx, PUSHER_DROP, user.0, app_id.as_str(), pushkey.as_str()).map(|rows| rows > 0)
            })
        })
        .await
    }

    /// Those of the users who are ours and joined to a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn joined_among(&self, room: RoomNid, users: &[UserNid]) -> Result<Vec<UserNid>> {
        let sql = sql!(
            "SELECT user_nid FROM memberships WHERE room_nid = $1 AND local AND membership = 'join' AND user_nid "
            [in 2]
        );
        let users = Ints(users.iter().map(|u| u.0).collect());
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, room.0, users)?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// What rows tell of a user's unread events of a room in `(after, upto]`, thread by thread.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unread_rows(
        &self,
        user: UserNid,
        room: RoomNid,
        after: StreamPos,
        upto: StreamPos,
    ) -> Result<Vec<UnreadRows>> {
        let rows: Vec<(String, i64, i64, i64)> =
            fetch_all!(&mut self.read().await?, (String, i64, i64, i64), UNREAD, user.0, room.0, after.0, upto.0)?;
        Ok(rows
            .into_iter()
            .map(|(thread, counted, deviation, highlights)| UnreadRows { thread, counted, deviation, highlights })
            .collect())
    }

    /// How many of the events of a room that count by the default rules, in `(after, upto]`, are in threads.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn counted_in_threads(&self, room: RoomNid, after: StreamPos, upto: StreamPos) -> Result<i64> {
        let row: Option<(i64,)> =
            fetch_optional!(&mut self.read().await?, (i64,), COUNTED_IN_THREADS, room.0, after.0, upto.0)?;
        Ok(row.map_or(0, |r| r.0))
    }

    /// What rows tell of a room's events in `[from, upto]`: what the default rules say of all, and what a user's own say.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn outcomes(
        &self,
        user: UserNid,
        room: RoomNid,
        from: StreamPos,
        upto: StreamPos,
    ) -> Result<Vec<Outcome>> {
        type Row = (i64, i64, String, bool, bool, String);
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, OUTCOMES, user.0, room.0, from.0, upto.0)?;
        Ok(rows
            .into_iter()
            .map(|(of, pos, thread, notify, highlight, actions)| Outcome {
                own: of != EVERYONE.0,
                pos: StreamPos(pos),
                thread,
                notify,
                highlight,
                actions,
            })
            .collect())
    }

    /// Forgets what push rules made of events up to a position, where everybody whom it concerns has read so far. Goes
    /// on behind a user and room, through `most` such pairs; gives the last, or `None` once all are done.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prune_push_actions(
        &self,
        behind: (UserNid, RoomNid),
        upto: StreamPos,
        most: u32,
    ) -> Result<Option<(UserNid, RoomNid)>> {
        let pairs: Vec<(i64, i64)> =
            fetch_all!(&mut self.read().await?, (i64, i64), PAIRS, behind.0.0, behind.1.0, i64::from(most))?;
        let last = pairs.last().map(|(user, room)| (UserNid(*user), RoomNid(*room)));
        self.write(move |tx| {
            Box::pin(async move {
                for (user, room) in pairs {
                    execute!(tx, DROP_READ, user, room, upto.0)?;
                }
                Ok(last)
            })
        })
        .await
    }

    /// What a user was notified of beyond the default rules (mentions, invites, own rules), before a position, newest
    /// first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn notified(
        &self,
        user: UserNid,
        before: StreamPos,
        highlights: bool,
        limit: i64,
    ) -> Result<Vec<Notified>> {
        let rows: Vec<NotifiedRow> =
            fetch_all!(&mut self.read().await?, NotifiedRow, NOTIFIED, user.0, before.0, highlights, limit)?;
        Ok(rows
            .into_iter()
            .map(|r| Notified {
                room: RoomNid(r.room_nid),
                pos: StreamPos(r.pos),
                event: EventNid(r.event_nid),
                thread: r.thread,
                highlight: r.highlight,
                actions: r.actions,
            })
            .collect())
    }
}
