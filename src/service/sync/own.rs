//! What is the user's own in an answer: account data, to-device messages, device lists, key counts.

use std::collections::{HashMap, HashSet};

use hearth_base::{Error, Result, ids::RoomNid};
use ruma::RoomId;
use serde_json::value::RawValue;

use super::{
    Sync, Turn,
    section::{json_text, key, key_text, key_value},
};

/// Account data that is news.
#[derive(Debug, Default)]
pub(crate) struct OwnData {
    global: Vec<(String, Box<RawValue>)>,
    rooms: HashMap<RoomNid, Vec<(String, Box<RawValue>)>>,
}

impl OwnData {
    /// What is news in one room.
    pub(super) fn of_room(&self, room: RoomNid) -> &[(String, Box<RawValue>)] {
        self.rooms.get(&room).map_or(&[], Vec::as_slice)
    }

    /// What is news and of no room.
    pub(super) fn global(&self) -> &[(String, Box<RawValue>)] {
        &self.global
    }
}

impl Sync {
    /// Reads the account data that is news.
    pub(super) async fn own_data(&self, turn: &Turn<'_>) -> Result<OwnData> {
        let (id, user) = (&turn.who.user_id, turn.who.user_nid);
        let account_data = &self.sources.account_data;
        let mut found = match turn.since {
            None => account_data.all(id, user, turn.now.pos).await?,
            Some(since) if turn.slot.last_own() > since.pos => {
                account_data.since(id, user, since.pos, turn.now.pos).await?
            }
            Some(_) if !turn.ask.full_state => return Ok(OwnData::default()),
            Some(_) => Vec::new(),
        };
        // Who asks for all state has nothing but a token left, and gets all account data too, as with Synapse. What was
        // deleted is in the news alone.
        if turn.since.is_some() && turn.ask.full_state {
            let news: HashSet<(Option<RoomNid>, String)> =
                found.iter().map(|(room, kind, _)| (*room, kind.clone())).collect();
            let all = account_data.all(id, user, turn.now.pos).await?.into_iter();
            found.extend(all.filter(|(room, kind, _)| !news.contains(&(*room, kind.clone()))));
        }
        let mut own = OwnData::default();
        for (room, kind, content) in found {
            match room {
                None => own.global.push((kind, content)),
                Some(room) => own.rooms.entry(room).or_default().push((kind, content)),
            }
        }
        Ok(own)
    }

    /// Writes global account data.
    pub(super) fn write_own_data(&self, out: &mut String, turn: &Turn<'_>, own: &OwnData) -> Result<bool> {
        let filter = &turn.ask.filter.account_data;
        let mut news = false;
        for (kind, content) in own.global.iter().filter(|(kind, _)| filter.has_type(kind)) {
            if !news {
                key(out, "account_data");
                out.push_str("{\"events\":[");
            }
            news = true;
            write_piece(out, None, kind, content.get());
        }
        if news {
            out.push_str("]}");
        }
        Ok(news)
    }

    /// Writes messages to this device, and moves the answer's token past them.
    pub(super) async fn write_to_device(&self, out: &mut String, turn: &mut Turn<'_>) -> Result<bool> {
        if turn.since.is_some_and(|since| turn.slot.last_to_device().0 <= since.to_device) {
            return Ok(false);
        }
        let after = turn.since.map_or(0, |s| s.to_device);
        let messages = self.sources.to_device.inbox(turn.who, after, turn.now.pos).await?;
        let Some((last, _)) = messages.last() else {
            // Nothing up to here: the next look need not ask the table again.
            turn.now.to_device = turn.now.pos.0;
            return Ok(false);
        };
        turn.now.to_device = *last;
        key(out, "to_device");
        out.push_str("{\"events\":[");
        for (n, (_, message)) in messages.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            out.push_str(message);
        }
        out.push_str("]}");
        Ok(true)
    }

    /// Writes whose keys changed. An initial sync has none: the client asks for those it needs.
    pub(super) async fn write_device_lists(&self, out: &mut String, turn: &Turn<'_>) -> Result<bool> {
        let Some(since) = turn.since else { return Ok(false) };
        let lists = self.sources.keys.changes_between(turn.who, since.pos, turn.now.pos).await?;
        if lists.changed.is_empty() && lists.left.is_empty() {
            return Ok(false);
        }
        key(out, "device_lists");
        let text = |users| serde_json::to_string(users).map_err(|e| Error::fault("writing an answer", e));
        out.push_str("{\"changed\":");
        out.push_str(&text(&lists.changed)?);
        out.push_str(",\"left\":");
        out.push_str(&text(&lists.left)?);
        out.push('}');
        Ok(true)
    }

    /// How others are, as far as it changed: events as JSON.
    pub(super) async fn presence(&self, turn: &Turn<'_>) -> Result<Vec<String>> {
        let after = turn.since.filter(|_| !turn.other_run() && !turn.ask.full_state).map(|since| since.ephemeral);
        let filter = &turn.ask.filter.presence;
        if after == Some(turn.now.ephemeral) || !filter.has_type("m.presence") {
            return Ok(Vec::new());
        }
        self.sources.presence.news(turn.who.user_nid, after, |user| filter.has_sender(user)).await
    }

    /// Writes how others are, as far as it changed.
    pub(super) async fn write_presence(&self, out: &mut String, turn: &Turn<'_>) -> Result<bool> {
        let events = self.presence(turn).await?;
        if events.is_empty() {
            return Ok(false);
        }
        key(out, "presence");
        out.push_str("{\"events\":[");
        out.push_str(&events.join(","));
        out.push_str("]}");
        Ok(true)
    }

    /// Writes how many keys the device has left, in every answer (spec: `device_one_time_keys_count`).
    pub(super) async fn write_key_counts(&self, out: &mut String, turn: &Turn<'_>) -> Result<()> {
        let Some(device) = &turn.who.device_id else { return Ok(()) };
        let counts = self.store.key_counts(turn.who.user_nid, device.as_str()).await?;
        key(out, "device_one_time_keys_count");
        out.push('{');
        // Clients take an algorithm that is left out for "unchanged", so this one is always said.
        if !counts.one_time.contains_key("signed_curve25519") {
            out.push_str("\"signed_curve25519\":0");
        }
        for (algorithm, count) in &counts.one_time {
            key_text(out, algorithm);
            out.push_str(itoa::Buffer::new().format(*count));
        }
        out.push('}');
        for name in ["device_unused_fallback_key_types", "org.matrix.msc2732.device_unused_fallback_key_types"] {
            key(out, name);
            out.push('[');
            for (n, algorithm) in counts.unused_fallback.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push_str(&json_text(algorithm));
            }
            out.push(']');
        }
        Ok(())
    }
}

/// Appends what is no event of a history (account data, receipts) as an element of a list; with its room, where the list
/// is of more than one.
pub(super) fn write_piece(out: &mut String, room: Option<&RoomId>, kind: &str, content: &str) {
    if !out.ends_with('[') {
        out.push(',');
    }
    out.push_str("{\"type\":");
    out.push_str(&json_text(kind));
    if let Some(room) = room {
        key_value(out, "room_id", room.as_str());
    }
    out.push_str(",\"content\":");
    out.push_str(content);
    out.push('}');
}
