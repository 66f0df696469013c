//! Rooms that two users are in (client-server API, "Mutual rooms"; MSC2666).

use hearth_base::{Error, Requester, Result, ids::RoomNid};
use ruma::{OwnedRoomId, UserId};

use super::Membership;

/// Rooms of one answer.
const PAGE: usize = 100;

/// Some of the rooms that two users are in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MutualRooms {
    /// The rooms.
    pub joined: Vec<OwnedRoomId>,
    /// How many there are in all.
    pub count: u64,
    /// Where to go on; `None` at the end.
    pub next_batch: Option<String>,
}

impl Membership {
    /// The rooms to which both are joined, from where an earlier answer ended; none for users nobody has heard of.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for oneself, what can be no user, and a `from` that is not ours.
    pub async fn mutual_rooms(&self, who: &Requester, with: &UserId, from: Option<&str>) -> Result<MutualRooms> {
        if who.is(with) {
            return Err(Error::invalid_param("`user_id` is somebody else"));
        }
        if with.validate_historical().is_err() {
            return Err(Error::invalid_param("`user_id` is no user id"));
        }
        let after = match from {
            Some(from) => from.parse().map_err(|_| Error::invalid_param("`from` is no `next_batch` of this list"))?,
            None => 0,
        };
        let Some(with) = self.store.user_nid(with).await? else { return Ok(MutualRooms::default()) };
        // One more tells whether there are more.
        let (mut rooms, count) = self.store.rooms_in_common(who.user_nid, with, RoomNid(after), PAGE + 1).await?;
        let more = rooms.len() > PAGE;
        rooms.truncate(PAGE);
        let next_batch = rooms.last().filter(|_| more).map(|(last, _)| last.0.to_string());
        Ok(MutualRooms { joined: rooms.into_iter().map(|(_, room_id)| room_id).collect(), count, next_batch })
    }
}
