//! What stands beside the events of a room: account data, receipts and who types, unread counts, the summary.

use hearth_base::{Result, ids::RoomNid};
use hearth_store::{rooms::Room, state::StateMap};
use ruma::OwnedUserId;

use super::super::{
    Sync, Turn,
    own::{OwnData, write_piece},
    section::{key, key_text},
};
use crate::{account_data::filters::THREAD_COUNTS, notifier::RoomHub, push::Count};

impl Sync {
    /// Writes the user's account data of a room, all of it where the room is `newly` told of; says whether there was any.
    pub(super) async fn write_room_data(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        room: &Room,
        own: &OwnData,
        newly: bool,
    ) -> Result<bool> {
        // Without a token all of it is here already.
        if newly && turn.since.is_some() {
            let all = self.sources.account_data.of_room(turn.who.user_nid, room.nid).await?;
            return Ok(write_account_data(out, turn, room, all.iter().map(|(k, c)| (k.as_str(), c.get()))));
        }
        let news = own.of_room(room.nid).iter();
        Ok(write_account_data(out, turn, room, news.map(|(k, c)| (k.as_str(), c.get()))))
    }

    /// Receipts and who types, by their types and as far as they are news.
    pub(in crate::sync) async fn ephemeral(
        &self,
        turn: &Turn<'_>,
        room: &Room,
        hub: &RoomHub,
        newly: bool,
        typing: bool,
    ) -> Result<Vec<(&'static str, String)>> {
        let filter = &turn.ask.filter.ephemeral;
        let here = filter.has_room(&room.room_id);
        let mut events = Vec::new();
        let after = turn.after();
        if here && filter.has_type("m.receipt") && (newly || hub.last_receipt() > after) {
            let after = (!newly).then_some(after);
            let content = self.sources.receipts.content_since(hub.nid, after, turn.now.pos, turn.who.user_nid).await?;
            events.extend(content.map(|content| ("m.receipt", content)));
        }
        if here && filter.has_type("m.typing") && (newly || typing) {
            let users = self.sources.typing.users(hub.nid);
            if typing || !users.is_empty() {
                events.push(("m.typing", serde_json::json!({ "user_ids": users }).to_string()));
            }
        }
        Ok(events)
    }

    /// Writes receipts and who types; says whether there was anything.
    pub(super) async fn write_ephemeral(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        room: &Room,
        hub: &RoomHub,
        newly: bool,
        typing: bool,
    ) -> Result<bool> {
        let events = self.ephemeral(turn, room, hub, newly, typing).await?;
        key(out, "ephemeral");
        out.push_str("{\"events\":[");
        for (kind, content) in &events {
            write_piece(out, None, kind, content);
        }
        out.push_str("]}");
        Ok(!events.is_empty())
    }

    /// Writes what is unread (spec: "Receiving notifications"; by thread where the client tells them apart).
    pub(super) async fn write_unread(&self, out: &mut String, turn: &Turn<'_>, room: RoomNid) -> Result<()> {
        let unread = self.sources.push.unread(turn.who.user_nid, room).await?;
        let by_thread = turn.ask.filter.timeline.thread_counts;
        let count = if by_thread { unread.main } else { unread.total() };
        key(out, "unread_notifications");
        write_count(out, count);
        if by_thread && !unread.threads.is_empty() {
            let old_name = turn.ask.filter.timeline.unstable.thread_counts.then_some(THREAD_COUNTS);
            for name in ["unread_thread_notifications"].into_iter().chain(old_name) {
                key(out, name);
                out.push('{');
                for (thread, count) in &unread.threads {
                    key_text(out, thread);
                    write_count(out, *count);
                }
                out.push('}');
            }
        }
        Ok(())
    }

    /// Writes who is in the room, as far as a client needs it to name the room (spec: `RoomSummary`). Gives whom it names.
    pub(super) async fn write_summary(
        &self,
        out: &mut String,
        turn: &Turn<'_>,
        room: &Room,
        state: &StateMap,
    ) -> Result<Vec<OwnedUserId>> {
        let (joined, invited) = self.store.member_counts(room.nid).await?;
        out.push('{');
        let mut heroes = Vec::new();
        if !self.state.is_named(state).await? {
            let nids = self.store.heroes(room.nid, turn.who.user_nid).await?;
            heroes = self.store.user_ids(&nids).await?;
            key(out, "m.heroes");
            // User ids always serialise.
            out.push_str(&serde_json::to_string(&heroes).unwrap_or_default());
        }
        key(out, "m.invited_member_count");
        out.push_str(itoa::Buffer::new().format(invited));
        key(out, "m.joined_member_count");
        out.push_str(itoa::Buffer::new().format(joined));
        out.push('}');
        Ok(heroes)
    }
}

fn write_count(out: &mut String, count: Count) {
    out.push('{');
    key(out, "highlight_count");
    out.push_str(itoa::Buffer::new().format(count.highlights));
    key(out, "notification_count");
    out.push_str(itoa::Buffer::new().format(count.notifications));
    out.push('}');
}

/// Writes account data of a room as the filter lets it pass; says whether there was any.
fn write_account_data<'a>(
    out: &mut String,
    turn: &Turn<'_>,
    room: &Room,
    data: impl Iterator<Item = (&'a str, &'a str)>,
) -> bool {
    let filter = &turn.ask.filter.room_account_data;
    key(out, "account_data");
    out.push_str("{\"events\":[");
    let mut any = false;
    for (kind, content) in data.filter(|(kind, _)| filter.has_room(&room.room_id) && filter.has_type(kind)) {
        any = true;
        write_piece(out, None, kind, content);
    }
    out.push_str("]}");
    any
}
