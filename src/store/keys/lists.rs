//! Whose keys a client has to look at anew: users whose devices or keys changed, who began to share a room with it,
//! or share none any more (spec: end-to-end encryption, "Extensions to /sync").
//!
//! Owns the table `device_lists`; the newest changes are in memory ([`super::news`]). Rooms without encryption count too: whether a room is encrypted may change, and a client that tracks nobody
//! there ignores the answer. Only where all members of a room come at once (MSC3902) it must be encrypted for all to be
//! named.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos, UserNid},
};

use super::news::{Moved, News};
use crate::{
    Store,
    db::Ints,
    fetch_all, fetch_optional, later,
    log::{Change, Tx},
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

/// What happened in a room.
#[derive(Debug, Default)]
struct InRoom {
    moves: Vec<Moved>,
    /// What followed, up to now.
    later: Vec<Moved>,
    /// Whom the user invited, and who is invited no longer.
    uninvited: Vec<UserNid>,
    /// Who is in it was found out.
    whole: bool,
}

const NOTE: &str =
    "INSERT INTO device_lists (user_nid, pos) VALUES ($1, $2) ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos";
const POS: &str = "SELECT pos FROM device_lists WHERE user_nid = $1";
const CHANGED: &str = "SELECT user_nid FROM device_lists WHERE pos > $1 AND pos <= $2";
const MOVED: &str = "SELECT DISTINCT s.room_nid, b.user_nid, b.membership, e.sender_nid FROM memberships a JOIN state_changes s ON s.room_nid = a.room_nid AND s.pos > $2 AND s.pos <= $3 JOIN state_keys k ON k.key_nid = s.key_nid AND k.event_type = 'm.room.member' JOIN users u ON u.user_id = k.state_key JOIN memberships b ON b.room_nid = s.room_nid AND b.user_nid = u.user_nid JOIN events e ON e.event_nid = b.event_nid WHERE a.user_nid = $1 AND b.user_nid <> $1 AND (a.membership = 'join' OR a.pos > $2)";
const MOVED_SELF: &str = "SELECT s.room_nid, s.old_nid, s.new_nid FROM memberships a JOIN users u ON u.user_nid = a.user_nid JOIN state_keys k ON k.event_type = 'm.room.member' AND k.state_key = u.user_id JOIN state_changes s ON s.room_nid = a.room_nid AND s.key_nid = k.key_nid AND s.pos > $2 AND s.pos <= $3 WHERE a.user_nid = $1 AND a.pos > $2 ORDER BY s.pos";
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
        if recent.is_quiet_since(after.0) {
            return Ok(DeviceLists::default());
        }
        let (news, remembered) = self.device_news(user, after, upto).await?;
        // The tables say how things are now: what happened meanwhile is taken off again.
        let later = match recent.is_quiet_since(upto.0) {
            true => Vec::new(),
            false => self.device_news(user, upto, StreamPos(i64::MAX)).await?.0,
        };
        let (mut keys, mut own): (BTreeSet<UserNid>, bool) = (BTreeSet::new(), !remembered);
        let mut rooms: BTreeMap<RoomNid, InRoom> = BTreeMap::new();
        let mut invited: BTreeSet<UserNid> = BTreeSet::new();
        for one in news {
            match one {
                // Whoever else is there looks at their devices when they come.
                News::Invited { by, user: of } => drop((by == user).then(|| invited.insert(of))),
                News::Uninvited { room, by, user: of } if by == user => {
                    rooms.entry(room).or_default().uninvited.push(of);
                }
                News::Uninvited { .. } => {}
                News::Keys(of) => drop(keys.insert(of)),
                News::Own(of) => own |= of == user,
                News::Moved(moved) if self.has_moved(user, moved).await? => {
                    rooms.entry(moved.room).or_default().moves.push(moved);
                }
                News::Moved(_) => {}
                News::Whole(room) => rooms.entry(room).or_default().whole = true,
            }
        }
        for one in later {
            if let News::Moved(moved) = one
                && let Some(room) = rooms.get_mut(&moved.room)
                && self.has_moved(user, moved).await?
            {
                room.later.push(moved);
            }
        }
        let (joined, left) = self.met_and_parted(user, &rooms).await?;
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
        invited.retain(|of| !sharing.contains_key(of));
        // Who is invited is one to write to, whatever they were before; who was, and is no longer, is parted from.
        let waiting = self.waiting(user, &invited).await?;
        let left = left.into_iter().chain(invited.iter().copied());
        let left: BTreeSet<UserNid> = left.filter(|of| !sharing.contains_key(of) && !waiting.contains(of)).collect();
        changed.extend(waiting);
        Ok(DeviceLists { changed: changed.into_iter().collect(), left: left.into_iter().collect() })
    }

    /// What happened in `(after, upto]`, and whether it was all remembered.
    async fn device_news(&self, user: UserNid, after: StreamPos, upto: StreamPos) -> Result<(Vec<News>, bool)> {
        match self.inner.e2ee.recent.between(after.0, upto.0) {
            Some(news) => Ok((news, true)),
            None => Ok((self.news_from_tables(user, after, upto).await?, false)),
        }
    }

    /// Whether a move is one. What others did counts if in doubt; of `user` it is looked up: whoever turned an invite down is
    /// not to hear who is in the room.
    async fn has_moved(&self, user: UserNid, moved: Moved) -> Result<bool> {
        match moved.replaced {
            Some(replaced) if moved.user == user => Ok(self.is_join(Some(replaced)).await? != moved.joined),
            _ => Ok(true),
        }
    }

    async fn is_join(&self, event: Option<EventNid>) -> Result<bool> {
        let Some(event) = event else { return Ok(false) };
        Ok(self.event(event).await?.is_some_and(|event| event.pdu.membership() == "join"))
    }

    /// The same news as remembered, for those who were away for long. A member event of others is taken for a coming or going.
    async fn news_from_tables(&self, user: UserNid, after: StreamPos, upto: StreamPos) -> Result<Vec<News>> {
        let mut session = self.read().await?;
        let keys: Vec<(i64,)> = fetch_all!(&mut session, (i64,), CHANGED, after.0, upto.0)?;
        let moved: Vec<(i64, i64, String, i64)> =
            fetch_all!(&mut session, (i64, i64, String, i64), MOVED, user.0, after.0, upto.0)?;
        let mut news: Vec<News> = keys.into_iter().map(|(n,)| News::Keys(UserNid(n))).collect();
        let whole: Vec<(i64,)> = fetch_all!(&mut session, (i64,), WHOLE, user.0, after.0, upto.0)?;
        news.extend(whole.into_iter().map(|(room,)| News::Whole(RoomNid(room))));
        for (room, other, membership, by) in moved {
            let joined = membership == "join";
            news.push(News::Moved(Moved { room: RoomNid(room), user: UserNid(other), joined, replaced: None }));
            if membership == "invite" {
                news.push(News::Invited { by: UserNid(by), user: UserNid(other) });
            }
        }
        let own: Vec<(i64, Option<i64>, Option<i64>)> =
            fetch_all!(&mut session, (i64, Option<i64>, Option<i64>), MOVED_SELF, user.0, after.0, upto.0)?;
        drop(session);
        for (room, old, new) in own {
            let joined = self.is_join(new.map(EventNid)).await?;
            if self.is_join(old.map(EventNid)).await? != joined {
                news.push(News::Moved(Moved { room: RoomNid(room), user, joined, replaced: None }));
            }
        }
        Ok(news)
    }

    /// Who came to be in a room together with `user`, and who ceased to, room by room.
    async fn met_and_parted(
        &self,
        user: UserNid,
        rooms: &BTreeMap<RoomNid, InRoom>,
    ) -> Result<(BTreeSet<UserNid>, BTreeSet<UserNid>)> {
        let (mut met, mut parted) = (BTreeSet::new(), BTreeSet::new());
        if rooms.is_empty() {
            return Ok((met, parted));
        }
        let mine = sql!("SELECT room_nid, membership FROM memberships WHERE user_nid = $1 AND room_nid " [in 2]);
        let nids = Ints(rooms.keys().map(|r| r.0).collect());
        let mine: Vec<(i64, String)> = fetch_all!(&mut self.read().await?, (i64, String), mine, user.0, nids)?;
        let (mut entered, mut quit, mut came) = (Vec::new(), Vec::new(), false);
        for (nid, membership) in mine {
            let room = RoomNid(nid);
            let Some(InRoom { moves, later, uninvited, whole }) = rooms.get(&room) else { continue };
            // Of each user the first move says where they stood before it, as far as that is known.
            let before = |moves: &[Moved]| moves.iter().find(|m| m.user == user).map(|m| !m.joined);
            let here = before(later).unwrap_or(membership == "join");
            let own = before(moves);
            match (own.unwrap_or(here), here) {
                (false, true) => {
                    entered.push(nid);
                    came = true;
                    // They may only have changed their name; who left is sorted out by who is still met.
                    parted.extend(moves.iter().filter(|m| !m.joined).map(|m| m.user));
                }
                (true, true) => {
                    if *whole && self.is_encrypted(room).await? {
                        // All who were there already may be met now; who was known is sorted out by since when.
                        entered.push(nid);
                    }
                    // The last move says where they stand now.
                    let mut whole: HashMap<UserNid, (bool, bool)> = HashMap::new();
                    for m in moves {
                        whole.entry(m.user).or_insert((!m.joined, m.joined)).1 = m.joined;
                    }
                    met.extend(whole.iter().filter(|(_, was_now)| **was_now == (false, true)).map(|(u, _)| *u));
                    parted.extend(whole.iter().filter(|(_, (_, now))| !now).map(|(u, _)| *u));
                    parted.extend(uninvited);
                }
                // Who came and went may have been there when it was asked before, with whom no other room was shared.
                (_, false) if own.is_some() => {
                    quit.push(nid);
                    parted.extend(moves.iter().chain(later).filter(|m| !m.joined).map(|m| m.user));
                }
                (_, false) => {}
            }
        }
        met.extend(self.whose_membership_is(entered, "join").await?);
        parted.extend(self.whose_membership_is(quit.clone(), "join").await?);
        parted.extend(self.whose_membership_is(quit, "invite").await?);
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

    async fn whose_membership_is(&self, rooms: Vec<i64>, membership: &str) -> Result<Vec<UserNid>> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let sql = sql!("SELECT DISTINCT user_nid FROM memberships WHERE membership = $1 AND room_nid " [in 2]);
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, membership, Ints(rooms))?;
        Ok(rows.into_iter().map(|(n,)| UserNid(n)).collect())
    }

    /// Those of the others who are invited to a room that `user` is joined to.
    async fn waiting(&self, user: UserNid, others: &BTreeSet<UserNid>) -> Result<BTreeSet<UserNid>> {
        if others.is_empty() {
            return Ok(BTreeSet::new());
        }
        let sql = sql!(
            "SELECT DISTINCT b.user_nid FROM memberships b JOIN memberships a ON a.room_nid = b.room_nid AND a.user_nid = $1 AND a.membership = 'join' WHERE b.membership = 'invite' AND b.user_nid "
            [in 2]
        );
        let others = Ints(others.iter().map(|u| u.0).collect());
        let rows: Vec<(i64,)> = fetch_all!(&mut self.read().await?, (i64,), sql, user.0, others)?;
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
