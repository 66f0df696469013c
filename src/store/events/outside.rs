//! Memberships in rooms that we are not in, which other servers tell us of: invites, knocks, and that they came to
//! nothing. Their events have no place in a timeline of ours.

use std::sync::Arc;

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use ruma::RoomVersionId;

use super::{NewEvent, NewMembership, Standing, write::insert_outliers};
use crate::{
    Store, execute, fetch_optional,
    graph::pack,
    log::Change,
    rooms::{Room, Written},
};

const NUMBER: &str = "SELECT event_nid FROM events WHERE event_id = $1 AND room_nid = $2";
const TELL: &str = "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped) VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = excluded.pos, forgotten = FALSE, stripped = excluded.stripped WHERE memberships.membership <> 'join'";
const JUDGE: &str = "UPDATE events SET auth = $2, standing = $3 WHERE event_nid = $1 AND standing = $4";
const REVISE: &str = "UPDATE rooms SET version = $2, creator_nid = $3, rev = rev + 1 WHERE room_nid = $1 AND rev = $4 AND extremities = '[]'";

impl Store {
    /// Notes what a user is in a room that we are not in, with the event that says so. Who is joined stays so: that we know
    /// better.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn tell_from_outside(&self, room: RoomNid, event: NewEvent, is: NewMembership) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                insert_outliers(tx, room, std::slice::from_ref(&event)).await?;
                let id = event.pdu.event_id().as_str();
                let stored: Option<(i64,)> = fetch_optional!(tx, (i64,), NUMBER, id, room.0)?;
                let (nid,) = stored.ok_or_else(|| Error::broken("an outlier that was stored is not there"))?;
                let pos = tx.log(Change::Rooms { user: is.user, room });
                execute!(
                    tx,
                    TELL,
                    room.0,
                    is.user.0,
                    is.membership.as_str(),
                    nid,
                    pos.0,
                    is.local,
                    is.stripped.as_deref()
                )
                .map(drop)
            })
        })
        .await
    }

    /// Notes what allows an event that was told from outside, or that nothing does, now that there is something to judge it
    /// by.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn judge_outlier(&self, event: EventNid, auth: Vec<EventNid>, rejected: bool) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let standing = if rejected { Standing::Rejected } else { Standing::Outlier };
                execute!(tx, JUDGE, event.0, pack(&auth), standing.code(), Standing::Outlier.code())?;
                tx.stale(event);
                Ok(())
            })
        })
        .await
    }

    /// Corrects what we were told of a room that we know nothing else of: its version, and who made it.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn revise_stub_room(&self, room: Arc<Room>, version: RoomVersionId, creator: UserNid) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let rev = room.head.rev;
                if execute!(tx, REVISE, room.nid.0, version.as_str(), creator.0, rev)? > 0 {
                    let mut room = Room { version, creator, ..(*room).clone() };
                    room.head.rev = rev + 1;
                    tx.known.insert(room.nid, Written::from(&room.head));
                    tx.rooms.push(room);
                }
                Ok(())
            })
        })
        .await
    }
}
