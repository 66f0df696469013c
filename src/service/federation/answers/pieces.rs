//! A long answer, made while it is sent: text, events and ids of events, in order. What is in memory is the list of
//! numbers and one piece.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use hearth_base::{Error, Result, ids::EventNid};
use hearth_store::Store;

/// Events of one piece, each 64 KiB at most and mostly a hundredth of that.
const EVENTS: usize = 100;
/// Ids of one piece.
const IDS: usize = 2_000;

/// A JSON text in the making. An event that is not there any more fails the answer, which is then broken off: a state with
/// a hole would be believed.
#[derive(Debug)]
pub struct Pieces {
    store: Store,
    parts: VecDeque<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    /// These, from that one on.
    Events(Arc<[EventNid]>, usize),
    Ids(Arc<[EventNid]>, usize),
}

impl Pieces {
    /// An empty one.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, parts: VecDeque::new() }
    }

    /// Text comes next.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.parts.push_back(Part::Text(text.into()));
        self
    }

    /// All of it between two texts.
    #[must_use]
    pub fn within(mut self, before: impl Into<String>, after: impl Into<String>) -> Self {
        self.parts.push_front(Part::Text(before.into()));
        self.text(after)
    }

    /// Events come next, with commas between.
    #[must_use]
    pub fn events(mut self, nids: Arc<[EventNid]>) -> Self {
        self.parts.push_back(Part::Events(nids, 0));
        self
    }

    /// Ids of events come next, quoted, with commas between.
    #[must_use]
    pub fn ids(mut self, nids: Arc<[EventNid]>) -> Self {
        self.parts.push_back(Part::Ids(nids, 0));
        self
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// If the database fails, or an event is gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut out = String::new();
        while let Some(part) = self.parts.pop_front() {
            let gone = || Error::broken("an event of a state is gone");
            let left = match part {
                Part::Text(text) => {
                    out.push_str(&text);
                    continue;
                }
                Part::Events(nids, from) => {
                    let to = nids.len().min(from + EVENTS);
                    let some = nids.get(from..to).unwrap_or_default();
                    if self.store.write_event_texts(&mut out, some, from == 0).await? < some.len() {
                        return Err(gone());
                    }
                    (to < nids.len()).then_some(Part::Events(nids, to))
                }
                Part::Ids(nids, from) => {
                    let to = nids.len().min(from + IDS);
                    let some = nids.get(from..to).unwrap_or_default();
                    let ids = self.store.event_ids(some).await?;
                    if ids.len() < some.len() {
                        return Err(gone());
                    }
                    for (n, id) in ids.iter().enumerate() {
                        out.push_str(if n + from == 0 { "" } else { "," });
                        // Event ids of versions 1 and 2 may hold any sign.
                        out.push_str(&serde_json::to_string(id).map_err(|e| Error::fault("writing an event id", e))?);
                    }
                    (to < nids.len()).then_some(Part::Ids(nids, to))
                }
            };
            if let Some(left) = left {
                self.parts.push_front(left);
                break;
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    /// All pieces, one after the other.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        futures_util::stream::try_unfold(self, async |mut pieces| {
            // The answer has begun; all that is left is to break it off.
            let next = pieces.next().await.inspect_err(|e| tracing::error!(error = %e, "an answer was broken off"));
            Ok(next?.map(|piece| (piece, pieces)))
        })
    }
}
