//! Relations between events: which event points at which, and how (written by the append path). An event that is redacted
//! loses its row with its content.

use hearth_base::{
    Result,
    cache::Cache,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
    stream::HistoryToken,
};
use ruma::EventId;

use crate::{
    Store,
    db::{Ints, Texts},
    events::Direction,
    fetch_all, fetch_optional,
    log::Tx,
    sql,
};

/// How many relations in a row are followed where all that hangs on an event is wanted (spec: `recurse`, at least 3).
pub const RECURSION: i64 = 3;

/// A page of events that relate to another.
#[derive(Clone, Copy, Debug)]
pub struct Related<'a> {
    /// The room of both.
    pub room: RoomNid,
    /// The event related to.
    pub target: &'a EventId,
    /// Only this type of relation.
    pub rel_type: Option<&'a str>,
    /// Only this type of event.
    pub event_type: Option<&'a str>,
    /// Also what relates to what relates to it, [`RECURSION`] levels deep; each of them as wanted.
    pub recurse: bool,
    /// Which way.
    pub direction: Direction,
    /// As for [`Store::history`].
    pub from: HistoryToken,
    /// As for [`Store::history`].
    pub until: HistoryToken,
}

/// For whom children are summed up.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Who reads.
    pub user: UserNid,
    /// Whose events do not count.
    pub ignored: Vec<UserNid>,
    /// Nothing after this position counts.
    pub upto: StreamPos,
}

/// A thread as its root shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Event id of the root.
    pub root: String,
    /// The last events in it, topologically, newest first: at most ten.
    pub newest: Vec<EventNid>,
    /// Events in it, the root not counted.
    pub count: u64,
    /// Whether the reader wrote one of them.
    pub participated: bool,
}

/// An event as a child of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Event id of the parent.
    pub target: String,
    /// The child.
    pub event: EventNid,
}

/// That something relates to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationTo {
    /// Event id of what is related to.
    pub target: String,
    /// How.
    pub rel_type: String,
    /// Whose event it is.
    pub sender: UserNid,
}

/// Rooms of which is remembered what kinds of relations they have.
const KNOWN: u64 = 20_000;

/// Which relations that are shown at their parents a room has at all: most rooms have none of a kind, and are not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    threads: bool,
    edits: bool,
    references: bool,
}

impl Kinds {
    fn of(rel_type: &str) -> Self {
        Self { threads: rel_type == "m.thread", edits: rel_type == "m.replace", references: rel_type == "m.reference" }
    }

    /// Whether nothing of the other is missing here.
    fn has(self, other: Self) -> bool {
        self.threads >= other.threads && self.edits >= other.edits && self.references >= other.references
    }
}

/// The kinds of rooms asked for lately.
pub(crate) struct Memory(Cache<RoomNid, Kinds>);

impl Default for Memory {
    fn default() -> Self {
        Self(Cache::new(KNOWN))
    }
}

impl Memory {
    /// A room was made: nothing relates to anything in it.
    pub(crate) fn begin(&self, room: RoomNid) {
        self.0.put(room, Kinds::default());
    }

    /// Forgets, once it is committed, what a new relation of this type in a room changes.
    pub(crate) fn relating(tx: &mut Tx, room: RoomNid, rel_type: &str) {
        let kind = Kinds::of(rel_type);
        if kind != Kinds::default() {
            tx.after_commit(move |store| {
                let known = &store.inner.relations.0;
                if !known.get(&room).is_some_and(|kinds| kinds.has(kind)) {
                    known.invalidate(&room);
                }
            });
        }
    }
}

/// Events at the end of a thread that are told: the reader may not see the last.
const NEWEST: i64 = 10;
/// Replacements of an event looked at for the newest that is valid.
const EDITS: i64 = 3;
/// References of an event that are listed.
const REFERENCES: i64 = 100;

const PAGE_BACK: &str = "WITH RECURSIVE tree (event_nid, depth, pos, level) AS (\
     SELECT r.event_nid, r.depth, r.pos, 1 FROM relations r WHERE r.target_id = $1 AND r.room_nid = $2 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4) \
     UNION SELECT r.event_nid, r.depth, r.pos, t.level + 1 FROM tree t JOIN events e ON e.event_nid = t.event_nid JOIN relations r ON r.target_id = e.event_id AND r.room_nid = $2 WHERE t.level < $5 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4)) \
     SELECT DISTINCT event_nid, depth, pos FROM tree WHERE (depth < $6 OR (depth = $6 AND pos <= $7)) AND (depth > $8 OR (depth = $8 AND pos > $9)) ORDER BY depth DESC, pos DESC LIMIT $10";
const PAGE_ON: &str = "WITH RECURSIVE tree (event_nid, depth, pos, level) AS (\
     SELECT r.event_nid, r.depth, r.pos, 1 FROM relations r WHERE r.target_id = $1 AND r.room_nid = $2 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4) \
     UNION SELECT r.event_nid, r.depth, r.pos, t.level + 1 FROM tree t JOIN events e ON e.event_nid = t.event_nid JOIN relations r ON r.target_id = e.event_id AND r.room_nid = $2 WHERE t.level < $5 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4)) \
     SELECT DISTINCT event_nid, depth, pos FROM tree WHERE (depth > $6 OR (depth = $6 AND pos > $7)) AND (depth < $8 OR (depth = $8 AND pos <= $9)) ORDER BY depth, pos LIMIT $10";
const KINDS: &str = "SELECT \
     CASE WHEN EXISTS (SELECT 1 FROM relations WHERE room_nid = $1 AND rel_type = 'm.thread') THEN 1 ELSE 0 END, \
     CASE WHEN EXISTS (SELECT 1 FROM relations WHERE room_nid = $1 AND rel_type = 'm.replace') THEN 1 ELSE 0 END, \
     CASE WHEN EXISTS (SELECT 1 FROM relations WHERE room_nid = $1 AND rel_type = 'm.reference') THEN 1 ELSE 0 END";
const RELATION: &str = "SELECT r.rel_type, r.target_id FROM events e JOIN relations r ON r.event_nid = e.event_nid WHERE e.event_id = $1 AND r.room_nid = $2";
const ANNOTATION: &str = "SELECT event_nid FROM relations WHERE target_id = $1 AND rel_type = 'm.annotation' AND room_nid = $2 AND sender_nid = $3 AND event_type = $4 AND agg_key = $5 LIMIT 1";

impl Store {
    /// Events that relate to another, in the order of history.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn related(&self, page: Related<'_>, limit: usize) -> Result<Vec<EventNid>> {
        let statement = match page.direction {
            Direction::Backward => PAGE_BACK,
            Direction::Forward => PAGE_ON,
        };
        let rows: Vec<(i64, i64, i64)> = fetch_all!(
            &mut self.read().await?,
            (i64, i64, i64),
            statement,
            page.target.as_str(),
            page.room.0,
            page.rel_type.unwrap_or(""),
            page.event_type.unwrap_or(""),
            if page.recurse { RECURSION } else { 1 },
            page.from.depth,
            page.from.pos.0,
            page.until.depth,
            page.until.pos.0,
            i64::try_from(limit).unwrap_or(i64::MAX)
        )?;
        Ok(rows.into_iter().map(|(nid, ..)| EventNid(nid)).collect())
    }

    /// The relation that an event of a room has: its type and the id of the other event.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn relation(&self, room: RoomNid, event: &str) -> Result<Option<(String, String)>> {
        fetch_optional!(&mut self.read().await?, (String, String), RELATION, event, room.0)
    }

    /// The event by which a user gave another this annotation.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn annotation(
        &self,
        room: RoomNid,
        target: &EventId,
        by: UserNid,
        event_type: &str,
        key: &str,
    ) -> Result<Option<EventNid>> {
        let row: Option<(i64,)> = fetch_optional!(
            &mut self.read().await?,
            (i64,),
            ANNOTATION,
            target.as_str(),
            room.0,
            by.0,
            event_type,
            key
        )?;
        Ok(row.map(|(nid,)| EventNid(nid)))
    }

    async fn relation_kinds(&self, room: RoomNid) -> Result<Kinds> {
        let load = || async {
            let row: Option<(i32, i32, i32)> =
                fetch_optional!(&mut self.read().await?, (i32, i32, i32), KINDS, room.0)?;
            let (threads, edits, references) = row.unwrap_or_default();
            Ok(Kinds { threads: threads > 0, edits: edits > 0, references: references > 0 })
        };
        self.inner.relations.0.get_or(room, load).await
    }

    /// In which ways, and by whom, others relate to these events of a room.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn relations_to(&self, room: RoomNid, targets: Vec<String>) -> Result<Vec<RelationTo>> {
        let sql = sql!("SELECT DISTINCT target_id, rel_type, sender_nid FROM relations WHERE room_nid = $1 AND target_id " [in 2]);
        let rows: Vec<(String, String, i64)> =
            fetch_all!(&mut self.read().await?, (String, String, i64), sql, room.0, Texts(targets))?;
        let relation = |(target, rel_type, sender)| RelationTo { target, rel_type, sender: UserNid(sender) };
        Ok(rows.into_iter().map(relation).collect())
    }

    /// The threads that grow from these events.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn threads_of(&self, room: RoomNid, roots: Vec<String>, reader: &Reader) -> Result<Vec<Thread>> {
        if !self.relation_kinds(room).await?.threads {
            return Ok(Vec::new());
        }
        let sql = sql!(
            "SELECT target_id, event_nid, total, own FROM (\
             SELECT r.target_id, r.event_nid, COUNT(*) OVER w AS total, SUM(CASE WHEN r.sender_nid = $2 THEN 1 ELSE 0 END) OVER w AS own, \
             ROW_NUMBER() OVER (PARTITION BY r.target_id ORDER BY r.depth DESC, r.pos DESC) AS n \
             FROM relations r WHERE r.room_nid = $1 AND r.rel_type = 'm.thread' AND r.pos <= $3 AND NOT (r.sender_nid "
            [in 4]
            ") AND r.target_id "
            [in 5]
            " WINDOW w AS (PARTITION BY r.target_id)) t WHERE n <= $6 ORDER BY target_id, n"
        );
        let rows: Vec<(String, i64, i64, i64)> = fetch_all!(
            &mut self.read().await?,
            (String, i64, i64, i64),
            sql,
            room.0,
            reader.user.0,
            reader.upto.0,
            nids(&reader.ignored),
            Texts(roots),
            NEWEST
        )?;
        let mut threads: Vec<Thread> = Vec::new();
        for (root, event, count, own) in rows {
            match threads.last_mut().filter(|thread| thread.root == root) {
                Some(thread) => thread.newest.push(EventNid(event)),
                None => threads.push(Thread {
                    root,
                    newest: vec![EventNid(event)],
                    count: count.unsigned_abs(),
                    participated: own > 0,
                }),
            }
        }
        Ok(threads)
    }

    /// The newest replacements of these events by who sent them, newest first as far as their times tell; those that
    /// cannot be valid are left out (spec: "Validity of replacement events").
    ///
    /// # Errors
    /// If the database fails.
    pub async fn edits_of(&self, room: RoomNid, targets: Vec<String>, reader: &Reader) -> Result<Vec<Child>> {
        if !self.relation_kinds(room).await?.edits {
            return Ok(Vec::new());
        }
        let sql = sql!(
            "SELECT target_id, event_nid FROM (SELECT r.target_id, r.event_nid, e.origin_ms, \
             RANK() OVER (PARTITION BY r.target_id ORDER BY e.origin_ms DESC) AS n \
             FROM relations r JOIN events e ON e.event_nid = r.event_nid JOIN events o ON o.event_id = r.target_id \
             WHERE r.room_nid = $1 AND r.rel_type = 'm.replace' AND r.pos <= $2 AND o.room_nid = $1 AND o.sender_nid = r.sender_nid AND o.event_type = r.event_type AND o.key_nid IS NULL AND r.target_id "
            [in 3]
            ") t WHERE n <= $4 ORDER BY target_id, origin_ms DESC"
        );
        let session = &mut self.read().await?;
        let rows: Vec<(String, i64)> =
            fetch_all!(session, (String, i64), sql, room.0, reader.upto.0, Texts(targets), EDITS)?;
        Ok(children(rows))
    }

    /// What refers to these events, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn references_of(&self, room: RoomNid, targets: Vec<String>, reader: &Reader) -> Result<Vec<Child>> {
        if !self.relation_kinds(room).await?.references {
            return Ok(Vec::new());
        }
        let sql = sql!(
            "SELECT target_id, event_nid FROM (SELECT r.target_id, r.event_nid, r.depth, r.pos, \
             ROW_NUMBER() OVER (PARTITION BY r.target_id ORDER BY r.depth, r.pos) AS n \
             FROM relations r WHERE r.room_nid = $1 AND r.rel_type = 'm.reference' AND r.pos <= $2 AND NOT (r.sender_nid "
            [in 3]
            ") AND r.target_id "
            [in 4]
            ") t WHERE n <= $5 ORDER BY target_id, n"
        );
        let session = &mut self.read().await?;
        let ignored = nids(&reader.ignored);
        let rows: Vec<(String, i64)> =
            fetch_all!(session, (String, i64), sql, room.0, reader.upto.0, ignored, Texts(targets), REFERENCES)?;
        Ok(children(rows))
    }

    /// Roots of a room's threads, by the position of the last event in each, newest first, before a position; with
    /// `participated` only those that the reader wrote in.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn threads(
        &self,
        room: RoomNid,
        reader: &Reader,
        before: StreamPos,
        participated: bool,
        limit: usize,
    ) -> Result<Vec<(String, StreamPos)>> {
        // Walks back over the events in threads: one after which nothing comes in its thread is the last.
        let sql = sql!(
            "SELECT r.target_id, r.pos FROM relations r WHERE r.room_nid = $1 AND r.rel_type = 'm.thread' AND r.pos < $2 AND r.pos <= $3 AND NOT (r.sender_nid "
            [in 4]
            ") AND NOT EXISTS (SELECT n.event_nid FROM relations n WHERE n.target_id = r.target_id AND n.rel_type = 'm.thread' AND n.room_nid = $1 AND n.pos <= $3 AND n.depth >= r.depth AND (n.depth > r.depth OR n.pos > r.pos) AND NOT (n.sender_nid "
            [in 4]
            ")) AND ($5 = 0 OR EXISTS (SELECT o.event_nid FROM relations o WHERE o.target_id = r.target_id AND o.rel_type = 'm.thread' AND o.room_nid = $1 AND o.sender_nid = $5) OR EXISTS (SELECT e.event_nid FROM events e WHERE e.event_id = r.target_id AND e.room_nid = $1 AND e.sender_nid = $5)) ORDER BY r.pos DESC LIMIT $6"
        );
        let rows: Vec<(String, i64)> = fetch_all!(
            &mut self.read().await?,
            (String, i64),
            sql,
            room.0,
            before.0,
            reader.upto.0,
            nids(&reader.ignored),
            if participated { reader.user.0 } else { 0 },
            i64::try_from(limit).unwrap_or(i64::MAX)
        )?;
        Ok(rows.into_iter().map(|(root, pos)| (root, StreamPos(pos))).collect())
    }
}

fn nids(users: &[UserNid]) -> Ints {
    Ints(users.iter().map(|u| u.0).collect())
}

fn children(rows: Vec<(String, i64)>) -> Vec<Child> {
    rows.into_iter().map(|(target, event)| Child { target, event: EventNid(event) }).collect()
}
