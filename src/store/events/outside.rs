//! Memberships in rooms that we are not in, which other servers tell us of: invites, knocks, and that they came to
//! nothing. Their events have no place in a timeline of ours.

use std::sync::Arc;

use hearth_base::{
    Error, Result,
    ids::{EventNid, RoomNid, UserNid},
};
use ruma::RoomVersionId;

use super::{NewEvent, NewMembership, NewPushAction, Standing, write::insert_outliers};
use crate::{
    Store, execute, fetch_optional,
    graph::pack,
    log::Change,
    rooms::{Room, Written},
};

const NUMBER: &str = "SELECT event_nid FROM events WHERE event_id = $1 AND room_nid = $2";
const TELL: &str = "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped) VALUES ($1, $2, $3, $4, $5, $6, FALSE, $7) ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, pos = excluded.pos, forgotten = FALSE, stripped = excluded.stripped WHERE memberships.membership <> 'join'";
const NOTIFIED: &str = "SELECT pos FROM push_actions WHERE user_nid = $1 AND room_nid = $2 AND event_nid = $3";
const NOTIFY: &str = "INSERT INTO push_actions (user_nid, room_nid, pos, event_nid, thread, counted, notify, highlight, actions) VALUES ($1, $2, $3, $4, 'main', FALSE, $5, $6, $7)";
const JUDGE: &str = "UPDATE events SET auth = $2, standing = $3 WHERE event_nid = $1 AND standing = $4";
const REVISE: &str = "UPDATE rooms SET version = $2, creator_nid = $3, rev = rev + 1 WHERE room_nid = $1 AND rev = $4 AND extremities = '[]'";

impl Store {
    /// Notes what a user is in a room that we are not in, with the event that says so, and what they are notified of. Who is
    /// joined stays so: that we know better.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn tell_from_outside(
        &self,
        room: RoomNid,
        event: NewEvent,
        is: NewMembership,
        push: Option<NewPushAction>,
    ) -> Result<()> {
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
                )?;
                if let Some(push) = push {
                    let NewPushAction { user, notify, highlight, actions } = push;
                    // Whoever tells it may do so again.
                    let before: Option<(i64,)> = fetch_optional!(tx, (i64,), NOTIFIED, user.0, room.0, nid)?;
                    if before.is_none() {
                        execute!(tx, NOTIFY, user.0, room.0, pos.0, nid, notify, highlight, actions.as_str())?;
                    }
                }
                Ok(())
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
