//! Pages of history. What is missing between the events of a page is fetched from other servers first
//! ([`crate::federation::backfill`]), as far as that can be waited for.

use hearth_base::{
    Result,
    ids::StreamPos,
    stream::{HistoryToken, PageToken, SyncToken},
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

/// What a page holds of the events between its ends, where history forks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// Nothing newer than that.
    upto: Option<StreamPos>,
    /// Only what is newer than that, or stands behind what was the last place then.
    since: Option<(StreamPos, HistoryToken)>,
}

impl Bounds {
    fn hold(&self, event: &StoredEvent) -> bool {
        self.upto.is_none_or(|upto| event.pos <= Some(upto))
            && self.since.is_none_or(|(since, last)| event.pos > Some(since) || event.place() > Some(last))
    }
}

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
        let mut bounds = Bounds::default();
        let mut start = match from {
            Some(token) => {
                bounds.upto = token.parse::<PageToken>().ok().map(|token| token.upto);
                self.place(room, token).await?
            }
            None if direction == Direction::Backward => HistoryToken::END,
            None => HistoryToken::START,
        };
        if let Some(left) = viewer.left_with().and_then(StoredEvent::place)
            && direction == Direction::Backward
        {
            // They see nothing of what came later; it need not be looked through.
            start = start.min(left);
        }
        let mut until = match to {
            Some(token) => self.place(room, token).await?,
            None if direction == Direction::Backward => HistoryToken::START,
            None => HistoryToken::END,
        };
        if direction == Direction::Forward {
            bounds = Bounds::default();
        } else if room.head.forked
            && let Some(since) = to.and_then(|token| token.parse::<SyncToken>().ok()).map(|token| token.pos)
        {
            // What came later may stand before what was the end then.
            bounds.since = Some((since, until));
            if let Some(first) = self.store.first_place(room.nid, since).await? {
                until = until.min(first.before());
            }
        }
        self.page(viewer, direction, (start, until), bounds, limit.clamp(1, MAX_PAGE), wanted).await
    }

    pub(super) async fn page(
        &self,
        viewer: &Viewer,
        direction: Direction,
        (mut start, until): (HistoryToken, HistoryToken),
        bounds: Bounds,
        limit: usize,
        wanted: Wanted<'_>,
    ) -> Result<Page> {
        let upto = bounds.upto.unwrap_or(StreamPos(i64::MAX));
        let (mut events, mut at, mut fillings) = (Vec::new(), start, FILLINGS);
        let mut ask = limit;
        for _ in 0..MAX_ROUNDS {
            let found = self.store.history(viewer.room.nid, direction, at, until, ask).await?;
            let mut exhausted = found.len() < ask;
            let last = found.last().and_then(|e| e.place());
            if let Some(backfill) = &self.backfill
                && fillings > 0
                // What lies before the first event that is here others tell from its end: who begins there would wait for all.
                && (direction, at) != (Direction::Forward, HistoryToken::START)
            {
                let far = if exhausted { until } else { last.unwrap_or(at) };
                let (above, upto) = match direction {
                    Direction::Backward => (far, at),
                    Direction::Forward => (at, far),
                };
                if Box::pin(backfill.fill(&viewer.room, above.depth, upto.depth)).await? {
                    fillings -= 1;
                    continue;
                }
            }
            let Some(last) = last else {
                let end = (!events.is_empty()).then_some(at);
                return Ok(Page { events, start, end, upto });
            };
            if start == HistoryToken::END {
                // The end of a room moves on; the page began here.
                start = found.first().and_then(|e| e.place()).unwrap_or(start);
            }
            let (mut reached, count) = (last, found.len());
            let related = wanted.filter.related(&self.store, viewer.room.nid, &found).await?;
            for (n, event) in found.into_iter().enumerate() {
                let passes = bounds.hold(&event)
                    && wanted.here
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
                return Ok(Page { events, start, end, upto });
            }
            if events.len() >= limit {
                break;
            }
        }
        Ok(Page { events, start, end: Some(at), upto })
    }

    /// The place in a room's history that a token stands for; tokens of /sync are taken too, what bounds a page is not.
    ///
    /// # Errors
    /// 400 for a token that is not ours.
    pub async fn place(&self, room: &Room, token: &str) -> Result<HistoryToken> {
        if let Ok(page) = token.parse::<PageToken>() {
            return Ok(page.at);
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
