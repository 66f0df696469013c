//! The bulk half of the append path: many rooms' events, a few statements.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos},
};

use super::{
    Append, Appended, MemberRow, NewEvent, NewMembership, Standing, StateChange, StoredEvent, gaps, partial,
    placed::{Placed, clamp, type_of},
    redactions,
};
use crate::{
    db::Ints,
    execute, fetch_all,
    graph::pack,
    insert_rows, later,
    log::{Change, Tx},
    membership::Counts,
    relations,
    rooms::{Room, extremities_json},
    sql,
    state::SnapRow,
};

/// Stores what was built on rooms' present heads; the rest are conflicts. Appends to one room may follow each other.
pub(crate) async fn append_all(tx: &mut Tx, appends: &[&Append]) -> Result<Vec<Appended>> {
    load_revs(tx, appends).await?;
    let mut done: Vec<&Append> = Vec::with_capacity(appends.len());
    let mut fits = Vec::with_capacity(appends.len());
    let mut come = redactions::come(tx, appends).await?;
    let waits = appends.iter().any(|a| !a.redactions_ahead.is_empty());
    for append in appends {
        let room = append.room.nid;
        let fit = tx.revs.get(&room).copied() == append.on_rev
            && !append.redactions_ahead.iter().any(|(target, _)| come.contains(&(room, target.clone())));
        if fit && waits {
            come.extend(append.events.iter().map(|e| (room, e.pdu.event_id().to_owned())));
        }
        if fit {
            tx.revs.insert(append.room.nid, append.room.head.rev);
            done.push(append);
        }
        fits.push(fit);
    }
    let placed = place(tx, &done).await?;
    insert_rooms(tx, &done).await?;
    insert_snaps(tx, &done).await?;
    insert_events(tx, &placed).await?;
    place_outliers(tx, &placed).await?;
    insert_effects(tx, &placed).await?;
    partial::restate(tx, &done).await?;
    let whole = partial::change(tx, &done).await?;
    partial::note(tx, &placed).await?;
    insert_members(tx, &done).await?;
    apply_changes(tx, &done).await?;
    gaps::note(tx, &done, &placed).await?;
    redactions::apply(tx, &done, &placed).await?;
    update_heads(tx, &done, &placed, &whole).await?;
    Counts::changing(tx, &done);
    let mut stored: HashMap<EventNid, Arc<StoredEvent>> = HashMap::with_capacity(placed.len());
    let mut redacted = redactions::redacted_at_once(&done)?;
    for p in &placed {
        let mut event = p.stored();
        if let Some((by, pdu)) = redacted.remove(&event.nid) {
            (event.redacted_by, event.pdu) = (Some(by), Arc::new(pdu));
        }
        let event = Arc::new(event);
        stored.insert(event.nid, event.clone());
        if p.event.standing == Standing::Live {
            // The position was drawn in `place`; the log row is noted there too, this fills in the event.
            tx.fill(p.pos, Change::Event(event));
        }
    }
    remember_names(tx, &done);
    let mut done = done.into_iter();
    Ok(fits
        .into_iter()
        .map(|fit| match fit.then(|| done.next()).flatten() {
            Some(append) => Appended::Done(append.events.iter().filter_map(|e| stored.get(&e.nid).cloned()).collect()),
            None => Appended::Conflict,
        })
        .collect())
}

/// Events of rooms with other servers are named by what comes next.
fn remember_names(tx: &mut Tx, appends: &[&Append]) {
    let shared = appends.iter().filter(|a| a.room.head.forked);
    let names: Vec<(Box<str>, EventNid)> =
        shared.flat_map(|a| &a.events).map(|e| (e.pdu.event_id().as_str().into(), e.nid)).collect();
    if !names.is_empty() {
        tx.after_commit(move |store| {
            for (event_id, nid) in names {
                store.inner.event_nids.insert(event_id, nid);
            }
        });
    }
}

/// Makes sure that `tx.revs` knows every room appended to that exists.
async fn load_revs(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    let mut unknown: Vec<i64> = appends
        .iter()
        .filter(|a| a.on_rev.is_some() && !tx.revs.contains_key(&a.room.nid))
        .map(|a| a.room.nid.0)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    unknown.dedup();
    let sql = sql!("SELECT room_nid, rev FROM rooms WHERE room_nid " [in 1]);
    let rows: Vec<(i64, i64)> = fetch_all!(tx, (i64, i64), sql, Ints(unknown))?;
    tx.revs.extend(rows.into_iter().map(|(room, rev)| (RoomNid(room), rev)));
    Ok(())
}

async fn place<'a>(tx: &mut Tx, appends: &[&'a Append]) -> Result<Vec<Placed<'a>>> {
    let mut placed = Vec::new();
    let mut floors: HashMap<RoomNid, i64> = HashMap::new();
    for append in appends {
        let room = append.room.nid;
        let mut next = gaps::below(tx, append, &mut floors).await?;
        for event in &append.events {
            let pos = match event.standing {
                Standing::Live => tx.draw(),
                Standing::Backfilled => {
                    next += 1;
                    StreamPos(next - 1)
                }
                _ => StreamPos::ZERO,
            };
            placed.push(Placed { room, event, pos });
        }
    }
    Ok(placed)
}

async fn insert_rooms(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    const ROOM_INSERT: &str = "INSERT INTO rooms (room_nid, room_id, version, rev, snap_nid, depth, extremities, counter, pos, published, creator_nid, created_ms, partial, open, forked) VALUES ($1, $2, $3, $4, $5, 0, '[]', 0, 0, FALSE, $6, $7, FALSE, FALSE, FALSE)";
    for append in appends.iter().filter(|a| a.on_rev.is_none()) {
        let room = &append.room;
        later!(
            tx,
            ROOM_INSERT,
            room.nid.0,
            room.room_id.as_str(),
            room.version.as_str(),
            room.head.rev,
            room.head.snap.0,
            room.creator.0,
            room.created_ms
        )?;
        let (id, nid) = (room.room_id.to_string(), room.nid);
        tx.after_commit(move |store| {
            store.inner.room_nids.put(id, Some(nid));
            store.inner.relations.begin(nid);
        });
    }
    Ok(())
}

async fn insert_snaps(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    let rows: Vec<(RoomNid, &SnapRow)> = appends.iter().flat_map(|a| a.snaps.iter().map(|s| (a.room.nid, s))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    insert_rows!(tx, &rows,
    "INSERT INTO snaps (snap_nid, room_nid, base_nid, packed) VALUES ($1, $2, $3, $4)",
    "INSERT INTO snaps (snap_nid, room_nid, base_nid, packed) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BYTEA[])",
    r => {
        nid: i64 = r.1.nid.0,
        room: i64 = r.0.0,
        base: Option<i64> = r.1.base.map(|b| b.0),
        packed: Vec<u8> = r.1.packed.clone(),
    })
}

async fn insert_events(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<()> {
    let fresh: Vec<&Placed<'_>> = placed.iter().filter(|p| !p.event.known).collect();
    insert_rows!(tx, &fresh,
    "INSERT INTO events (event_nid, event_id, room_nid, pos, depth, standing, sender_nid, key_nid, event_type, origin_ms, snap_nid, after_nid, auth, counter, replaces_nid, device_id, txn_id, codec, json) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, $18)",
    "INSERT INTO events (event_nid, event_id, room_nid, pos, depth, standing, sender_nid, key_nid, event_type, origin_ms, snap_nid, after_nid, auth, counter, replaces_nid, device_id, txn_id, codec, json) SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, 0, r FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[], $8::BIGINT[], $9::TEXT[], $10::BIGINT[], $11::BIGINT[], $12::BIGINT[], $13::BYTEA[], $14::BIGINT[], $15::BIGINT[], $16::TEXT[], $17::TEXT[], $18::BYTEA[]) AS t(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r)",
    r => {
        nid: i64 = r.event.nid.0,
        id: String = r.event.pdu.event_id().to_string(),
        room: i64 = r.room.0,
        pos: Option<i64> = r.timeline_pos(),
        depth: i64 = clamp(r.event.pdu.depth()),
        standing: i64 = r.event.standing.code(),
        sender: i64 = r.event.sender.0,
        key: Option<i64> = r.event.key.map(|k| k.0),
        kind: String = type_of(&r.event.pdu),
        origin: i64 = clamp(r.event.pdu.origin_server_ts()),
        snap: Option<i64> = r.event.snap.map(|s| s.0),
        after: Option<i64> = r.event.after.map(|s| s.0),
        auth: Option<Vec<u8>> = r.event.auth.as_deref().map(pack),
        counter: i64 = r.event.counter,
        replaces: Option<i64> = r.event.replaces.map(|n| n.0),
        device: Option<String> = r.event.txn.as_ref().map(|t| t.0.clone()),
        txn: Option<String> = r.event.txn.as_ref().map(|t| t.1.clone()),
        json: Vec<u8> = r.event.pdu.json().as_bytes().to_vec(),
    })
}

/// Stores events that have no place, unless they are there.
pub(super) async fn insert_outliers(tx: &mut Tx, room: RoomNid, events: &[NewEvent]) -> Result<()> {
    insert_rows!(tx, events,
    "INSERT INTO events (event_nid, event_id, room_nid, depth, standing, sender_nid, key_nid, event_type, origin_ms, auth, counter, codec, json) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, 0, $11) ON CONFLICT (event_id) DO NOTHING",
    "INSERT INTO events (event_nid, event_id, room_nid, depth, standing, sender_nid, key_nid, event_type, origin_ms, auth, counter, codec, json) SELECT a, b, c, d, e, f, g, h, i, j, 0, 0, k FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[], $8::TEXT[], $9::BIGINT[], $10::BYTEA[], $11::BYTEA[]) AS t(a, b, c, d, e, f, g, h, i, j, k) ON CONFLICT (event_id) DO NOTHING",
    e => {
        nid: i64 = e.nid.0,
        id: String = e.pdu.event_id().to_string(),
        room_nid: i64 = room.0,
        depth: i64 = clamp(e.pdu.depth()),
        standing: i64 = e.standing.code(),
        sender: i64 = e.sender.0,
        key: Option<i64> = e.key.map(|k| k.0),
        kind: String = type_of(&e.pdu),
        origin: i64 = clamp(e.pdu.origin_server_ts()),
        auth: Option<Vec<u8>> = e.auth.as_deref().map(pack),
        json: Vec<u8> = e.pdu.json().as_bytes().to_vec(),
    })
}

/// Gives outliers that we had already their place.
async fn place_outliers(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<()> {
    const PLACE: &str = "UPDATE events SET pos = $2, standing = $3, snap_nid = $4, after_nid = $5, auth = COALESCE($6, auth), counter = $7, replaces_nid = $8 WHERE event_nid = $1";
    for p in placed.iter().filter(|p| p.event.known) {
        let e = p.event;
        later!(
            tx,
            PLACE,
            e.nid.0,
            p.timeline_pos(),
            e.standing.code(),
            e.snap.map(|s| s.0),
            e.after.map(|s| s.0),
            e.auth.as_deref().map(pack),
            e.counter,
            e.replaces.map(|n| n.0)
        )?;
        tx.stale(e.nid);
    }
    Ok(())
}

/// The members of rooms joined through other servers, or whose state is whole now, which [`partial::change`] has noted in
/// the log. Who is what they were stays where they were: it is no news to them.
async fn insert_members(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    let rows: Vec<(RoomNid, &MemberRow)> =
        appends.iter().flat_map(|a| a.members.iter().map(|m| (a.room.nid, m))).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let newest = tx.next_pos().0 - 1;
    insert_rows!(tx, &rows,
    "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten) VALUES ($1, $2, $3, $4, $5, $6, FALSE) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = CASE WHEN memberships.event_nid = excluded.event_nid AND memberships.membership = excluded.membership THEN memberships.pos ELSE excluded.pos END, stripped = NULL",
    "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten) SELECT a, b, c, d, e, f, FALSE FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BOOLEAN[]) AS t(a, b, c, d, e, f) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = CASE WHEN memberships.event_nid = excluded.event_nid AND memberships.membership = excluded.membership THEN memberships.pos ELSE excluded.pos END, stripped = NULL",
    r => {
        room: i64 = r.0.0,
        user: i64 = r.1.user.0,
        membership: String = r.1.membership.to_string(),
        event: i64 = r.1.event.0,
        pos: i64 = newest,
        local: bool = r.1.local,
    })
}

/// Changes of state that no event makes by itself: rows, memberships, and one entry in the log for all of an append.
async fn apply_changes(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    const CHANGE: &str =
        "INSERT INTO state_changes (room_nid, pos, key_nid, old_nid, new_nid) VALUES ($1, $2, $3, $4, $5)";
    const MEMBER: &str = "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten) VALUES ($1, $2, $3, $4, $5, $6, FALSE) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = CASE WHEN memberships.event_nid = excluded.event_nid AND memberships.membership = excluded.membership THEN memberships.pos ELSE excluded.pos END, stripped = NULL";
    const NO_MEMBER: &str = "UPDATE memberships SET membership = 'leave', pos = $3 WHERE room_nid = $1 AND user_nid = $2 AND membership <> 'leave'";
    for append in appends.iter().filter(|a| !a.changes.is_empty()) {
        let room = append.room.nid;
        let changes: Arc<[StateChange]> = append.changes.as_slice().into();
        let pos = tx.log(Change::State { room, changes: changes.clone() });
        tx.after_commit(move |store| store.inner.event_memory.changed(room));
        for change in &*changes {
            let new = change.new.as_ref().map(|e| e.nid);
            if change.old != new {
                execute!(tx, CHANGE, room.0, pos.0, change.key.0, change.old.map(|n| n.0), new.map(|n| n.0))?;
            }
            match (change.member, &change.new) {
                (Some((user, local)), Some(event)) => {
                    let membership = event.pdu.membership();
                    execute!(tx, MEMBER, room.0, user.0, &*membership, event.nid.0, pos.0, local)?;
                }
                (Some((user, _)), None) => execute!(tx, NO_MEMBER, room.0, user.0, pos.0).map(drop)?,
                (None, _) => {}
            }
        }
    }
    Ok(())
}

/// State changes, memberships, read positions, push actions, relations.
async fn insert_effects(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<()> {
    let live = || placed.iter().filter(|p| p.event.standing == Standing::Live);
    let changes: Vec<(&Placed<'_>, i64)> =
        live().filter(|p| p.event.sets_state).filter_map(|p| p.event.key.map(|k| (p, k.0))).collect();
    if !changes.is_empty() {
        for (p, _) in &changes {
            let room = p.room;
            tx.after_commit(move |store| store.inner.event_memory.changed(room));
        }
        insert_rows!(tx, &changes,
        "INSERT INTO state_changes (room_nid, pos, key_nid, old_nid, new_nid) VALUES ($1, $2, $3, $4, $5)",
        "INSERT INTO state_changes (room_nid, pos, key_nid, old_nid, new_nid) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[])",
        r => {
            room: i64 = r.0.room.0,
            pos: i64 = r.0.pos.0,
            key: i64 = r.1,
            old: Option<i64> = r.0.event.replaces.map(|n| n.0),
            new: Option<i64> = Some(r.0.event.nid.0),
        })?;
    }
    // One row a user and room, and below one a sender and room, the last: PostgreSQL refuses to update a row twice in one
    // statement.
    let mut members: HashMap<(i64, i64), (&Placed<'_>, &NewMembership)> = HashMap::new();
    for p in live() {
        if let Some(m) = &p.event.membership {
            members.insert((p.room.0, m.user.0), (p, m));
        }
    }
    if !members.is_empty() {
        insert_rows!(tx, members.values(),
        "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped) VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = excluded.pos, forgotten = FALSE, stripped = excluded.stripped",
        "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped) SELECT a, b, c, d, e, f, FALSE, g FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BOOLEAN[], $7::TEXT[]) AS t(a, b, c, d, e, f, g) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = excluded.pos, forgotten = FALSE, stripped = excluded.stripped",
        r => {
            room: i64 = r.0.room.0,
            user: i64 = r.1.user.0,
            membership: String = r.1.membership.to_string(),
            event: i64 = r.0.event.nid.0,
            pos: i64 = r.0.pos.0,
            local: bool = r.1.local,
            stripped: Option<String> = r.1.stripped.clone(),
        })?;
    }
    let mut reads: HashMap<(i64, i64), &Placed<'_>> = HashMap::new();
    for p in live().filter(|p| p.event.reads) {
        reads.insert((p.room.0, p.event.sender.0), p);
    }
    if !reads.is_empty() {
        insert_rows!(tx, reads.values(),
        "INSERT INTO read_positions (room_nid, user_nid, thread, pos, counter) VALUES ($1, $2, '', $3, $4) ON CONFLICT (room_nid, user_nid, thread) DO UPDATE SET pos = excluded.pos, counter = excluded.counter",
        "INSERT INTO read_positions (room_nid, user_nid, thread, pos, counter) SELECT a, b, '', c, d FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[]) AS t(a, b, c, d) ON CONFLICT (room_nid, user_nid, thread) DO UPDATE SET pos = excluded.pos, counter = excluded.counter",
        r => {
            room: i64 = r.room.0,
            user: i64 = r.event.sender.0,
            pos: i64 = r.pos.0,
            counter: i64 = r.event.counter,
        })?;
    }
    let push: Vec<_> = live().flat_map(|p| p.event.push.iter().map(move |a| (p, a))).collect();
    if !push.is_empty() {
        insert_rows!(tx, &push,
        "INSERT INTO push_actions (user_nid, room_nid, pos, event_nid, thread, counted, notify, highlight, actions) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        "INSERT INTO push_actions (user_nid, room_nid, pos, event_nid, thread, counted, notify, highlight, actions) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::TEXT[], $6::BOOLEAN[], $7::BOOLEAN[], $8::BOOLEAN[], $9::TEXT[])",
        r => {
            user: i64 = r.1.user.0,
            room: i64 = r.0.room.0,
            pos: i64 = r.0.pos.0,
            event: i64 = r.0.event.nid.0,
            thread: String = r.0.event.thread.clone(),
            counted: bool = r.0.event.counted,
            notify: bool = r.1.notify,
            highlight: bool = r.1.highlight,
            actions: String = r.1.actions.clone(),
        })?;
    }
    let shown = placed.iter().filter(|p| p.timeline_pos().is_some());
    let related: Vec<_> = shown.filter_map(|p| Some((p, p.event.relation.as_ref()?))).collect();
    if !related.is_empty() {
        for (p, relation) in &related {
            relations::Memory::relating(tx, p.room, &relation.rel_type);
        }
        insert_rows!(tx, &related,
        "INSERT INTO relations (event_nid, room_nid, target_id, rel_type, event_type, sender_nid, agg_key, depth, pos) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        "INSERT INTO relations (event_nid, room_nid, target_id, rel_type, event_type, sender_nid, agg_key, depth, pos) SELECT * FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::BIGINT[], $7::TEXT[], $8::BIGINT[], $9::BIGINT[])",
        r => {
            event: i64 = r.0.event.nid.0,
            room: i64 = r.0.room.0,
            target: String = r.1.target.to_string(),
            rel_type: String = r.1.rel_type.to_string(),
            kind: String = r.0.event.pdu.event_type().to_string(),
            sender: i64 = r.0.event.sender.0,
            key: Option<String> = r.1.key.clone(),
            depth: i64 = clamp(r.0.event.pdu.depth()),
            pos: i64 = r.0.pos.0,
        })?;
    }
    Ok(())
}

/// Writes each room's last head.
async fn update_heads(
    tx: &mut Tx,
    appends: &[&Append],
    placed: &[Placed<'_>],
    whole: &HashMap<RoomNid, StreamPos>,
) -> Result<()> {
    let mut newest: HashMap<RoomNid, StreamPos> = HashMap::new();
    for p in placed.iter().filter(|p| p.event.standing == Standing::Live) {
        newest.insert(p.room, p.pos);
    }
    let mut rooms: HashMap<RoomNid, Room> = HashMap::with_capacity(appends.len());
    for append in appends {
        let mut room = append.room.clone();
        if let Some(pos) = newest.get(&room.nid) {
            room.head.pos = *pos;
        }
        if let Some(pos) = whole.get(&room.nid) {
            room.head.whole = *pos;
        }
        rooms.insert(room.nid, room);
    }
    insert_rows!(tx, rooms.values(),
    "UPDATE rooms SET rev = $2, snap_nid = $3, depth = $4, extremities = $5, counter = $6, pos = $7, partial = $8, open = $9, forked = $10 WHERE room_nid = $1",
    "UPDATE rooms SET rev = b, snap_nid = c, depth = d, extremities = e, counter = f, pos = g, partial = h, open = i, forked = j FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::TEXT[], $6::BIGINT[], $7::BIGINT[], $8::BOOLEAN[], $9::BOOLEAN[], $10::BOOLEAN[]) AS t(a, b, c, d, e, f, g, h, i, j) WHERE room_nid = t.a",
    r => {
            room: i64 = r.nid.0,
            rev: i64 = r.head.rev,
            snap: i64 = r.head.snap.0,
            depth: i64 = r.head.depth,
            extremities: String = extremities_json(&r.head.extremities),
            counter: i64 = r.head.counter,
            pos: i64 = r.head.pos.0,
            partial: bool = r.head.partial,
            open: bool = r.head.open,
            forked: bool = r.head.forked,
        })?;
    tx.rooms.extend(rooms.into_values());
    Ok(())
}
