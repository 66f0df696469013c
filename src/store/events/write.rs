//! The bulk half of the append path: many rooms' events, a few statements.

use std::{collections::HashMap, sync::Arc};

use hearth_base::{
    Result,
    ids::{EventNid, RoomNid, StreamPos},
};

use super::{
    Append, Appended, NewEvent, Standing, StateChange, StoredEvent, gaps, heads, members, partial,
    placed::{Placed, clamp, type_of},
    redactions,
};
use crate::{
    execute,
    graph::pack,
    insert_rows, later,
    log::{Change, Tx},
    membership::Counts,
    relations,
    rooms::Written,
    state::SnapRow,
};

/// Stores what was built on rooms' present heads; the rest are conflicts. Appends to one room may follow each other.
pub(crate) async fn append_all(tx: &mut Tx, appends: &[&Append]) -> Result<Vec<Appended>> {
    heads::load(tx, appends).await?;
    let mut done: Vec<&Append> = Vec::with_capacity(appends.len());
    let mut fits = Vec::with_capacity(appends.len());
    let mut come = redactions::come(tx, appends).await?;
    let waits = appends.iter().any(|a| !a.redactions_ahead.is_empty());
    for append in appends {
        let room = append.room.nid;
        let fit = tx.known.get(&room).map(|known| known.rev) == append.on_rev
            && !append.redactions_ahead.iter().any(|(target, _)| come.contains(&(room, target.clone())));
        if fit && waits {
            come.extend(append.events.iter().map(|e| (room, e.pdu.event_id().to_owned())));
        }
        if fit {
            let before = tx.known.get(&room).copied();
            let now = Written::from(&append.room.head);
            tx.known.insert(room, Written { rev: now.rev, ..before.unwrap_or(now) });
            done.push(append);
        }
        fits.push(fit);
    }
    let placed = place(tx, &done).await?;
    insert_snaps(tx, &done).await?;
    insert_events(tx, &placed).await?;
    place_outliers(tx, &placed).await?;
    members::insert(tx, &done, &placed).await?;
    insert_effects(tx, &placed).await?;
    partial::restate(tx, &done).await?;
    let whole = partial::change(tx, &done).await?;
    partial::note(tx, &placed).await?;
    members::insert_told(tx, &done, &placed).await?;
    apply_changes(tx, &done).await?;
    gaps::note(tx, &done, &placed).await?;
    redactions::apply(tx, &done, &placed).await?;
    heads::write(tx, &done, &placed, &whole).await?;
    Counts::changing(tx, &done);
    let mut stored: HashMap<EventNid, Arc<StoredEvent>> = HashMap::with_capacity(placed.len());
    let mut redacted = redactions::redacted_at_once(&done)?;
    let mut beside = Vec::new();
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
        } else if p.event.standing == Standing::Outlier && !p.event.known {
            beside.push(event);
        }
    }
    // The state that a room is entered with is looked at next.
    if !beside.is_empty() {
        tx.after_commit(move |store| beside.into_iter().for_each(|event| store.inner.events.put(event.nid, event)));
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

/// Events of rooms with other servers are named by what comes next; state is named once another server comes, and what
/// allows it is looked at again and again. What was refused may come again.
fn remember_names(tx: &mut Tx, appends: &[&Append]) {
    let mut names: Vec<(Box<str>, EventNid)> = Vec::new();
    let mut edges: Vec<(EventNid, Arc<[EventNid]>)> = Vec::new();
    for append in appends {
        for event in
            append.events.iter().filter(|e| append.room.head.forked || e.key.is_some() || e.standing != Standing::Live)
        {
            names.push((event.pdu.event_id().as_str().into(), event.nid));
            // Of what was here already more may be known than it comes with.
            if let (Some(auth), false) = (&event.auth, event.known) {
                edges.push((event.nid, auth.as_slice().into()));
            }
        }
    }
    if !names.is_empty() {
        tx.after_commit(move |store| {
            names.into_iter().for_each(|(event_id, nid)| store.inner.event_nids.insert(event_id, nid));
            edges.into_iter().for_each(|(nid, auth)| store.inner.auth_edges.insert(nid, auth));
        });
    }
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

/// State changes, read positions, push actions, relations.
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
    // One row a sender and room, the last: PostgreSQL refuses to update a row twice in one statement.
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
