//! Whose keys a client has to look at anew: users whose devices or keys changed, who began to share a room with it,
//! or share none any more (spec: end-to-end encryption, "Extensions to /sync").
//!
//! Owns the table `device_lists` and a memory of the newest changes, so that a sync that has nothing to hear of costs no
//! query. Rooms without encryption count too: whether a room is encrypted may change, and a client that tracks nobody
//! there ignores the answer. Only where all members of a room come at once (MSC3902) it must be encrypted for all to be
//! named.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::atomic::{AtomicI64, Ordering},
};

use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos, UserNid},
};
use parking_lot::Mutex;
use ruma::{UserId, events::TimelineEventType};

use crate::{
    Inner, Store,
    db::Ints,
    events::StoredEvent,
    fetch_all, fetch_optional, later,
    log::{Change, Logged, Tx},
    sql,
};

/// What /sync says under `device_lists`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceLists {
    /// Whose keys are to be asked for again.
    pub changed: Vec<UserNid>,
    /// With whom no room is shared any more.
    pub left: Vec<UserNid>,
}

/// Changes remembered.
const REMEMBERED: usize = 4096;

/// The newest changes that may concern somebody's device lists.
#[derive(Debug)]
pub(super) struct Recent {
    newest: AtomicI64,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// Every change after this position is in `items`.
    complete_after: i64,
    items: VecDeque<(i64, News)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// A user's devices or keys.
    Keys(UserNid),
    /// What of them a user alone sees: their user-signing key, or their signatures on keys of others.
    Own(UserNid),
    /// A user came into a room or went.
    Moved(Moved),
    /// Who is in a room was found out.
    Whole(RoomNid),
    /// Somebody was invited: what is said from now on may be for them too.
    Invited { by: UserNid, user: UserNid },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    room: RoomNid,
    user: UserNid,
    joined: bool,
}

impl Recent {
    pub(super) fn new(head: i64) -> Self {
        let ring = Ring { complete_after: head, items: VecDeque::new() };
        Self { newest: AtomicI64::new(head), ring: Mutex::new(ring) }
    }

    /// Remembers what of a commit matters here.
    pub(super) fn note(&self, inner: &Inner, changes: &[Logged]) {
        for logged in changes {
            let news = match &logged.change {
                Change::DeviceList { user, .. } => Ok(News::Keys(*user)),
                Change::OwnKeys { user } => Ok(News::Own(*user)),
                Change::Whole { room, .. } => Ok(News::Whole(*room)),
                // Seldom, and whoever stands before this asks the tables.
                Change::State { changes, .. } if changes.iter().any(|c| c.member.is_some()) => Err(()),
                Change::Event(event) => match (moved(inner, event), invited(inner, event)) {
                    (Some(moved), _) => moved.map(News::Moved).ok_or(()),
                    (None, Some(invited)) => invited.ok_or(()),
                    (None, None) => continue,
                },
                _ => continue,
            };
            let mut ring = self.ring.lock();
            match news {
                Ok(news) => {
                    if ring.items.len() == REMEMBERED
                        && let Some((pos, _)) = ring.items.pop_front()
                    {
                        ring.complete_after = pos;
                    }
                    ring.items.push_back((logged.pos.0, news));
                }
                Err(()) => {
                    // Who it was is not remembered: whoever stands before this asks the tables.
                    ring.items.clear();
                    ring.complete_after = logged.pos.0;
                }
            }
            self.newest.store(logged.pos.0, Ordering::Release);
        }
    }

    /// The changes in `(after, upto]`; `None` if they are not all remembered.
    fn between(&self, after: i64, upto: i64) -> Option<Vec<News>> {
        let ring = self.ring.lock();
        if after < ring.complete_after {
            return None;
        }
        let (from, to) =
            (ring.items.partition_point(|(pos, _)| *pos <= after), ring.items.partition_point(|(pos, _)| *pos <= upto));
        Some(ring.items.range(from..to.max(from)).map(|(_, news)| *news).collect())
    }
}

/// Whether an event lets somebody join or leave. `Some(None)`: it may, but who it is about is not remembered.
fn moved(inner: &Inner, event: &StoredEvent) -> Option<Option<Moved>> {
    if *event.pdu.event_type() != TimelineEventType::RoomMember {
        return None;
    }
    let joined = event.pdu.membership() == "join";
    let before = match event.replaces {
        None => Some(false),
        // A state event that is not in memory may have been either.
        Some(nid) => inner.events.get(&nid).map(|e| e.pdu.membership() == "join"),
    };
    if before == Some(joined) {
        return None;
    }
    let user = UserId::parse(event.pdu.state_key()?).ok()?;
    Some(inner.users.known(&user).map(|nid| Moved { room: event.room, user: UserNid(nid), joined }))
}

/// Whether an event invites somebody. `Some(None)`: it does, but who it is about is not remembered.
fn invited(inner: &Inner, event: &StoredEvent) -> Option<Option<News>> {
    if *event.pdu.event_type() != TimelineEventType::RoomMember || event.pdu.membership() != "invite" {
        return None;
    }
    let user = UserId::parse(event.pdu.state_key()?).ok()?;
    Some(inner.users.known(&user).map(|nid| News::Invited { by: event.sender, user: UserNid(nid) }))
}

const NOTE: &str =
    "INSERT INTO device_lists (user_nid, pos) VALUES ($1, $2) ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos";
const POS: &str = "SELECT pos FROM device_lists WHERE user_nid = $1";
const CHANGED: &str = "SELECT user_nid FROM device_lists WHERE pos > $1 AND pos <= $2";
const MOVED: &str = "SELECT DISTINCT s.room_nid, b.user_nid, b.membership, e.sender_nid FROM memberships a JOIN state_changes s ON s.room_nid = a.room_nid AND s.pos > $2 AND s.pos <= $3 JOIN state_keys k ON k.key_nid = s.key_nid AND k.event_type = 'm.room.member' JOIN users u ON u.user_id = k.state_key JOIN memberships b ON b.room_nid = s.room_nid AND b.user_nid = u.user_nid JOIN events e ON e.event_nid = b.event_nid WHERE a.user_nid = $1 AND (a.membership = 'join' OR a.pos > $2)";
const WHOLE: &str = "SELECT r.room_nid FROM rooms r JOIN memberships m ON m.room_nid = r.room_nid AND m.user_nid = $1 AND m.membership = 'join' WHERE r.whole_pos > $2 AND r.whole_pos <= $3";
const OWN: &str = "SELECT target_nid FROM key_signatures WHERE signer_nid = $1 AND target_nid <> $1 AND pos > $2 AND pos <= $3 UNION SELECT user_nid FROM cross_signing_keys WHERE user_nid = $1 AND usage = 'user_signing' AND pos > $2 AND pos <= $3";

impl Tx {
    /// Notes that a user's devices or keys changed, for the clients of this server alone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_device_list(&mut self, user: UserNid) -> Result<StreamPos> {
        self.note_list(user, false).await
    }

    /// The same; or, of one of our devices, as a link of the chain that other servers are told.
    pub(super) async fn note_list(&mut self, user: UserNid, device: bool) -> Result<StreamPos> {
        let pos = self.log(Change::DeviceList { user, device });
        later!(self, NOTE, user.0, pos.0)?;
        Ok(pos)
    }
}

impl Store {
    /// When a user's devices or their keys changed last; 0 if never.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_list_pos(&self, user: UserNid) -> Result<StreamPos> {
        let row: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), POS, user.0)?;
        Ok(StreamPos(row.map_or(0, |(pos,)| pos)))
    }

    /// Whose keys `user` has to look at anew for what happened in `(after, upto]`, and whose no longer.
    ///
    /// May name more than need be (a user who changed their name while nobody remembered), never less.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn device_lists_changed(&self, user: UserNid, after: StreamPos, upto: StreamPos) -> Result<DeviceLists> {
        let recent = &self.inner.e2ee.recent;
        if recent.newest.load(Ordering::Acquire) <= after.0 {
            return Ok(DeviceLists::default());
        }
        let remembered = recent.between(after.0, upto.0);
        let from_tables = remembered.is_none();
        let news = match remembered {
            Some(news) => news,
            None => self.news_from_tables(user, after, upto).await?,
        };
        let (mut keys, mut own): (BTreeSet<UserNid>, bool) = (BTreeSet::new(), from_tables);
        let mut moves: BTreeMap<RoomNid, Vec<Moved>> = BTreeMap::new();
        let (mut whole, mut invited): (BTreeSet<RoomNid>, BTreeSet<UserNid>) = Default::default();
        for one in news {
            match one {
                // Whoever else is there looks at their devices when they come.
                News::Invited { by, user: of } => drop((by == user).then(|| invited.insert(of))),
                News::Keys(of) => drop(keys.insert(of)),
                News::Own(of) => own |= of == user,
                News::Moved(moved) => moves.entry(moved.room).or_default().push(moved),
                News::Whole(room) => {
                    moves.entry(room).or_default();
                    whole.insert(room);
                }
            }
        }
        let (joined, left) = self.met_and_parted(user, &moves, &whole).await?;
        let mine = keys.remove(&user);
        let mut changed: BTreeSet<UserNid> = BTreeSet::new();
        if mine || own {
            let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), OWN, user.0, after.0, upto.0)?;
            changed.extend(rows.into_iter().map(|(n,)| UserNid(n)));
        }
        if mine {
            changed.insert(user);
        }
        let candidates: BTreeSet<UserNid> = keys.iter().chain(&joined).chain(&left).chain(&invited).copied().collect();
        if candidates.is_empty() {
            return Ok(DeviceLists { changed: changed.into_iter().collect(), left: Vec::new() });
        }
        let sharing = self.sharing_since(user, &candidates).await?;
        changed.extend(keys.into_iter().filter(|of| sharing.contains_key(of)));
        changed.extend(joined.into_iter().filter(|of| sharing.get(of).is_some_and(|since| *since > after)));
        changed.extend(invited.iter().filter(|of| !sharing.contains_key(of)).copied());
        // Who was invited is one to write to, whatever they were before.
        let left = left.into_iter().filter(|of| !sharing.contains_key(of) && !invited.contains(of)).collect();
        Ok(DeviceLists { changed: changed.into_iter().collect(), left })
    }

    /// The same news as remembered, for those who were away for long. A member event is taken for a coming or going.
    async fn news_from_tables(&self, user: UserNid, after: StreamPos, upto: StreamPos) -> Result<Vec<News>> {
        let mut session = self.read().await?;
        let keys: Vec<(i64,)> = fetch_all!(&mut session, (i64,), CHANGED, after.0, upto.0)?;
        let moved: Vec<(i64, i64, String, i64)> =
            fetch_all!(&mut session, (i64, i64, String, i64), MOVED, user.0, after.0, upto.0)?;
        let mut news: Vec<News> = keys.into_iter().map(|(n,)| News::Keys(UserNid(n))).collect();
        let whole: Vec<(i64,)> = fetch_all!(&mut session, (i64,), WHOLE, user.0, after.0, upto.0)?;
        news.extend(whole.into_iter().map(|(room,)| News::Whole(RoomNid(room))));
        for (room, user, membership, by) in moved {
            news.push(News::Moved(Moved { room: RoomNid(room), user: UserNid(user), joined: membership == "join" }));
            if membership == "invite" {
                news.push(News::Invited { by: UserNid(by), user: UserNid(user) });
            }
        }
        Ok(news)
    }

    /// Who came to be in a room together with `user`, and who ceased to, room by room.
    async fn met_and_parted(
        &self,
        user: UserNid,
        moves: &BTreeMap<RoomNid, Vec<Moved>>,
        whole: &BTreeSet<RoomNid>,
    ) -> Result<(BTreeSet<UserNid>, BTreeSet<UserNid>)> {
        let (mut met, mut parted) = (BTreeSet::new(), BTreeSet::new());
        if moves.is_empty() {
            return Ok((met, parted));
        }
        let mine = sql!("SELECT room_nid, membership FROM memberships WHERE user_nid = $1 AND room_nid " [in 2]);
        let rooms = Ints(moves.keys().map(|r| r.0).collect());
        let mine: Vec<(i64, String)> = fetch_all!(&mut self.read().await?, (i64, String), mine, user.0, rooms)?;
        let (mut entered, mut quit, mut came) = (Vec::new(), Vec::new(), false);
        for (room, membership) in mine {
            let room = RoomNid(room);
            let here = membership == "join";
            let Some(moves) = moves.get(&room) else { continue };
            let was_here = moves.iter().find(|m| m.user == user).map_or(here, |m| !m.joined);
            match (was_here, here) {
                (false, true) => {
                    entered.push(room.0);
                    came = true;
                    // They may only have changed their name; who left is sorted out by who is still met.
                    parted.extend(moves.iter().filter(|m| !m.joined).map(|m| m.user));
                }
                (true, false) => {
                    quit.push(room.0);
                    parted.extend(moves.iter().filter(|m| !m.joined).map(|m| m.user));
                }
                (true, true) => {
                    if whole.contains(&room) && self.is_encrypted(room).await? {
                        // All who were there already may be met now; who was known is sorted out by since when.
                        entered.push(room.0);
                    }
                    // The first move says where somebody stood before, as far as it is known, the last where they stand now.
                    let mut whole: HashMap<UserNid, (bool, bool)> = HashMap::new();
                    for m in moves {
                        whole.entry(m.user).or_insert((!m.joined, m.joined)).1 = m.joined;
                    }
                    met.extend(whole.iter().filter(|(_, was_now)| **was_now == (false, true)).map(|(u, _)| *u));
                    parted.extend(whole.iter().filter(|(_, (_, now))| !now).map(|(u, _)| *u));
                }
                (false, false) => {}
            }
        }
        met.extend(self.joined_members(entered).await?);
        parted.extend(self.joined_members(quit).await?);
        // Who enters a room is one of those who are met there.
        if !came {
            met.remove(&user);
        }
        parted.remove(&user);
        Ok((met, parted))
    }

    /// Whether a room is encrypted by its present state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_encrypted(&self, room: RoomNid) -> Result<bool> {
        let Some(key) = self.key_nid("m.room.encryption", "").await? else { return Ok(false) };
        let Some(room) = self.room(room).await? else { return Ok(false) };
        Ok(self.snapshot(room.head.snap).await?.contains_key(&key))
    }

    async fn joined_members(&self, rooms: Vec<i64>) -> Result<Vec<UserNid>> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let sql = sql!("SELECT DISTINCT user_nid FROM memberships WHERE membership = 'join' AND room_nid " [in 1]);
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, Ints(rooms))?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Those of the others who are joined to a room that `user` is joined to, and since when at the latest.
    async fn sharing_since(&self, user: UserNid, others: &BTreeSet<UserNid>) -> Result<HashMap<UserNid, StreamPos>> {
        let sql = sql!(
            "SELECT b.user_nid, MIN(CASE WHEN a.pos > b.pos THEN a.pos ELSE b.pos END) FROM memberships b JOIN memberships a ON a.room_nid = b.room_nid AND a.user_nid = $1 AND a.membership = 'join' WHERE b.membership = 'join' AND b.user_nid "
            [in 2] " GROUP BY b.user_nid"
        );
        let others = Ints(others.iter().map(|u| u.0).collect());
        let rows: Vec<(i64, i64)> = fetch_all!(&mut self.read().await?, (i64, i64), sql, user.0, others)?;
        Ok(rows.into_iter().map(|(user, since)| (UserNid(user), StreamPos(since))).collect())
    }
}
