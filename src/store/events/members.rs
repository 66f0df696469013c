//! Memberships in the append path: those that news bring, and those that come with a state.

use std::collections::HashMap;

use hearth_base::{
    Result,
    ids::{RoomNid, UserNid},
};

use super::{Append, MemberRow, NewMembership, Standing, placed::Placed};
use crate::{insert_rows, log::Tx};

/// Writes what the news say of members, in rooms whose members do not come with a state.
pub(super) async fn insert(tx: &mut Tx, appends: &[&Append], placed: &[Placed<'_>]) -> Result<()> {
    let members: Vec<_> = memberships(placed, |room| !brings_members(appends, room)).collect();
    if !members.is_empty() {
        insert_rows!(tx, &members,
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
    Ok(())
}

/// The members of rooms joined through other servers, or whose state is whole now, which [`super::partial::change`] has noted in
/// the log; and those whom the events with it make members. Who is what they were stays where they were: it is no news to
/// them.
pub(super) async fn insert_told(tx: &mut Tx, appends: &[&Append], placed: &[Placed<'_>]) -> Result<()> {
    let newest = tx.next_pos().0 - 1;
    let mut rows: HashMap<(i64, i64), (MemberRow, i64)> = HashMap::new();
    for append in appends {
        rows.extend(append.members.iter().map(|m| ((append.room.nid.0, m.user.0), (m.clone(), newest))));
    }
    if rows.is_empty() {
        return Ok(());
    }
    for (p, m) in memberships(placed, |room| brings_members(appends, room)) {
        let row = MemberRow { user: m.user, membership: m.membership.clone(), event: p.event.nid, local: m.local };
        rows.insert((p.room.0, m.user.0), (row, p.pos.0));
    }
    insert_rows!(tx, &rows,
    "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten) VALUES ($1, $2, $3, $4, $5, $6, FALSE) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = CASE WHEN memberships.event_nid = excluded.event_nid AND memberships.membership = excluded.membership THEN memberships.pos ELSE excluded.pos END, forgotten = memberships.forgotten AND excluded.membership <> 'join', stripped = NULL",
    "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten) SELECT a, b, c, d, e, f, FALSE FROM UNNEST($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BOOLEAN[]) AS t(a, b, c, d, e, f) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = CASE WHEN memberships.event_nid = excluded.event_nid AND memberships.membership = excluded.membership THEN memberships.pos ELSE excluded.pos END, forgotten = memberships.forgotten AND excluded.membership <> 'join', stripped = NULL",
    r => {
        room: i64 = r.0.0,
        user: i64 = r.1.0.user.0,
        membership: String = r.1.0.membership.to_string(),
        event: i64 = r.1.0.event.0,
        pos: i64 = r.1.1,
        local: bool = r.1.0.local,
    })
}

/// Whether members come to a room with its state.
fn brings_members(appends: &[&Append], room: RoomNid) -> bool {
    appends.iter().any(|a| a.room.nid == room && !a.members.is_empty())
}

/// The memberships that news bring, the last of each user and room: PostgreSQL refuses to update a row twice in one
/// statement.
fn memberships<'p, 'a>(
    placed: &'p [Placed<'a>],
    of: impl Fn(RoomNid) -> bool,
) -> impl Iterator<Item = (&'p Placed<'a>, &'a NewMembership)> {
    let mut members: HashMap<(RoomNid, UserNid), (&Placed<'_>, &NewMembership)> = HashMap::new();
    for p in placed.iter().filter(|p| p.event.standing == Standing::Live && of(p.room)) {
        if let Some(m) = &p.event.membership {
            members.insert((p.room, m.user), (p, m));
        }
    }
    members.into_values()
}
