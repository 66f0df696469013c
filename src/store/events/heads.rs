//! The rows of rooms in the append path: what they were before, and what they are with it.

use std::collections::{HashMap, HashSet};

use hearth_base::{
    Result,
    ids::{RoomNid, StreamPos},
};

use super::{Append, Standing, placed::Placed};
use crate::{
    db::Ints,
    fetch_all, insert_rows,
    log::Tx,
    rooms::{Room, Written, extremities_json},
    sql,
};

/// Makes sure that `tx.known` has every room appended to that exists.
pub(super) async fn load(tx: &mut Tx, appends: &[&Append]) -> Result<()> {
    let mut unknown: Vec<i64> = appends
        .iter()
        .filter(|a| a.on_rev.is_some() && !tx.known.contains_key(&a.room.nid))
        .map(|a| a.room.nid.0)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    unknown.dedup();
    let sql = sql!("SELECT room_nid, rev, pos, whole_pos FROM rooms WHERE room_nid " [in 1]);
    let rows: Vec<(i64, i64, i64, i64)> = fetch_all!(tx, (i64, i64, i64, i64), sql, Ints(unknown))?;
    let written = |rev, pos, whole| Written { rev, pos: StreamPos(pos), whole: StreamPos(whole) };
    tx.known.extend(rows.into_iter().map(|(room, rev, pos, whole)| (RoomNid(room), written(rev, pos, whole))));
    Ok(())
}

/// Writes each room's last head: new rooms whole, of others what may have changed.
pub(super) async fn write(
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
    let mut new: HashSet<RoomNid> = HashSet::new();
    for append in appends {
        let mut room = append.room.clone();
        if let Some(known) = tx.known.get_mut(&room.nid) {
            known.pos = newest.get(&room.nid).copied().unwrap_or(known.pos);
            known.whole = whole.get(&room.nid).copied().unwrap_or(known.whole);
            (room.head.pos, room.head.whole) = (known.pos, known.whole);
        }
        if append.on_rev.is_none() {
            new.insert(room.nid);
        }
        rooms.insert(room.nid, room);
    }
    insert_rooms(tx, rooms.values().filter(|room| new.contains(&room.nid))).await?;
    let heads: Vec<&Room> = rooms.values().filter(|room| !new.contains(&room.nid)).collect();
    if !heads.is_empty() {
        insert_rows!(tx, heads,
        "UPDATE rooms SET rev = $2, snap_nid = $3, depth = $4, extremities = $5, counter = $6, pos = $7, partial = $8, open = $9, forked = $10, whole_pos = $11, entered_depth = $12 WHERE room_nid = $1",
        "UPDATE rooms SET rev = b, snap_nid = c, depth = d, extremities = e, counter = f, pos = g, partial = h, open = i, forked = j, whole_pos = k, entered_depth = l FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::TEXT[], $6::BIGINT[], $7::BIGINT[], $8::BOOLEAN[], $9::BOOLEAN[], $10::BOOLEAN[], $11::BIGINT[], $12::BIGINT[]) AS t(a, b, c, d, e, f, g, h, i, j, k, l) WHERE room_nid = t.a",
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
            whole: i64 = r.head.whole.0,
            entered: i64 = r.head.entered,
        })?;
    }
    tx.rooms.extend(rooms.into_values());
    Ok(())
}

async fn insert_rooms(tx: &mut Tx, rooms: impl Iterator<Item = &Room>) -> Result<()> {
    let rooms: Vec<&Room> = rooms.collect();
    if rooms.is_empty() {
        return Ok(());
    }
    insert_rows!(tx, &rooms,
    "INSERT INTO rooms (room_nid, room_id, version, rev, snap_nid, depth, extremities, counter, pos, published, creator_nid, created_ms, partial, open, forked, whole_pos, entered_depth) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, FALSE, $10, $11, $12, $13, $14, $15, $16)",
    "INSERT INTO rooms (room_nid, room_id, version, rev, snap_nid, depth, extremities, counter, pos, published, creator_nid, created_ms, partial, open, forked, whole_pos, entered_depth) SELECT a, b, c, d, e, f, g, h, i, FALSE, j, k, l, m, n, o, p FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::TEXT[], $8::BIGINT[], $9::BIGINT[], $10::BIGINT[], $11::BIGINT[], $12::BOOLEAN[], $13::BOOLEAN[], $14::BOOLEAN[], $15::BIGINT[], $16::BIGINT[]) AS t(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)",
    r => {
        room: i64 = r.nid.0,
        id: String = r.room_id.to_string(),
        version: String = r.version.to_string(),
        rev: i64 = r.head.rev,
        snap: i64 = r.head.snap.0,
        depth: i64 = r.head.depth,
        extremities: String = extremities_json(&r.head.extremities),
        counter: i64 = r.head.counter,
        pos: i64 = r.head.pos.0,
        creator: i64 = r.creator.0,
        created: i64 = r.created_ms,
        partial: bool = r.head.partial,
        open: bool = r.head.open,
        forked: bool = r.head.forked,
        whole: i64 = r.head.whole.0,
        entered: i64 = r.head.entered,
    })?;
    for (id, nid) in rooms.iter().map(|room| (room.room_id.to_string(), room.nid)) {
        tx.after_commit(move |store| {
            store.inner.room_nids.put(id, Some(nid));
            store.inner.relations.begin(nid);
        });
    }
    Ok(())
}
