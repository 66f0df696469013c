//! Pages of history. What is missing between the events of a page is fetched from other servers first
//! ([`crate::federation::backfill`]), as far as that can be waited for.

use hearth_base::{
    Result,
    ids::StreamPos,
    stream::{HistoryToken, SyncToken},
};
use hearth_store::{
    events::{Direction, StoredEvent},
    rooms::Room,
};

use super::{History, MAX_PAGE, Page, Viewer, Wanted};

/// Rounds of looking for events for one answer, and how many are looked at in one at most where a filter lets few pass.
const MAX_ROUNDS: usize = 10;
const MOST: usize = 200;
/// How often history is fetched for one answer.
const FILLINGS: usize = 4;

impl History {
    /// A page of a room's history (spec: `GET /rooms/{roomId}/messages`).
    ///
    /// # Errors
    /// 400 for a token that is not ours.
    pub async fn messages(
        &self,
        viewer: &Viewer,
        direction: Direction,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
        wanted: Wanted<'_>,
    ) -> Result<Page> {
        let room = &viewer.room;
        let mut start = match from {
            Some(token) => self.place(room, token).await?,
            None if direction == Direction::Backward => HistoryToken::END,
            None => HistoryToken::START,
        };
        if let Some(left) = viewer.left_with().and_then(StoredEvent::place)
            && direction == Direction::Backward
        {
            // They see nothing of what came later; it need not be looked through.
            start = start.min(left);
        }
        let until = match to {
            Some(token) => self.place(room, token).await?,
            None if direction == Direction::Backward => HistoryToken::START,
            None => HistoryToken::END,
        };
        self.page(viewer, direction, start, until, limit.clamp(1, MAX_PAGE), wanted).await
    }

    pub(super) async fn page(
        &self,
        viewer: &Viewer,
        direction: Direction,
        mut start: HistoryToken,
        until: HistoryToken,
        limit: usize,
        wanted: Wanted<'_>,
    ) -> Result<Page> {
        let (mut events, mut at, mut fillings) = (Vec::new(), start, FILLINGS);
        let mut ask = limit;
        for _ in 0..MAX_ROUNDS {
            let found = self.store.history(viewer.room.nid, direction, at, until, ask).await?;
            let mut exhausted = found.len() < ask;
            let last = found.last().and_then(|e| e.place());
            if let Some(backfill) = &self.backfill
                && direction == Direction::Backward
                && fillings > 0
            {
                let lowest = if exhausted { until } else { last.unwrap_or(until) };
                if backfill.fill(&viewer.room, lowest.depth, at.depth).await? {
                    fillings -= 1;
                    continue;
                }
            }
            let Some(last) = last else {
                let end = (!events.is_empty()).then_some(at);
                return Ok(Page { events, start, end });
            };
            if start == HistoryToken::END {
                // The end of a room moves on; the page began here.
                start = found.first().and_then(|e| e.place()).unwrap_or(start);
            }
            let (mut reached, count) = (last, found.len());
            let related = wanted.filter.related(&self.store, viewer.room.nid, &found).await?;
            for (n, event) in found.into_iter().enumerate() {
                let passes = wanted.here
                    && wanted.filter.has(&event.pdu)
                    && related.as_ref().is_none_or(|related| related.contains(&event.nid));
                if !passes || !viewer.shows(&event).await? {
                    continue;
                }
                let place = event.place();
                events.push(event);
                if events.len() >= limit && n + 1 < count {
                    (reached, exhausted) = (place.unwrap_or(last), false);
                    break;
                }
            }
            at = match direction {
                Direction::Backward => reached.before(),
                Direction::Forward => reached,
            };
            // Where much is passed over, more is looked at each time.
            ask = (4 * ask).min(MOST).max(limit.saturating_sub(events.len()));
            if exhausted {
                // Only an empty page says that there is no more: clients take the last `end` for the beginning of the room,
                // and where something is missing it is worth to ask once more.
                let end = (!events.is_empty()).then_some(at);
                return Ok(Page { events, start, end });
            }
            if events.len() >= limit {
                break;
            }
        }
        Ok(Page { events, start, end: Some(at) })
    }

    /// The place in a room's history that a token stands for; tokens of /sync are taken too.
    ///
    /// # Errors
    /// 400 for a token that is not ours.
    pub async fn place(&self, room: &Room, token: &str) -> Result<HistoryToken> {
        if let Ok(place) = token.parse::<HistoryToken>() {
            return Ok(place);
        }
        let sync: SyncToken = token.parse()?;
        self.newest_place(room, sync.pos).await
    }

    /// The last place in a room's history of what was news up to that position.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn newest_place(&self, room: &Room, upto: StreamPos) -> Result<HistoryToken> {
        let newest = if room.head.forked {
            self.store.last_place(room.nid, upto).await?
        } else {
            self.store.news(room.nid, StreamPos::ZERO, upto, 1).await?.first().and_then(|e| e.place())
        };
        Ok(newest.unwrap_or(HistoryToken::START))
    }
}
