//! Tokens that clients hand back to us: `since`/`next_batch` of /sync, `from`/`to` of /messages.
//!
//! Opaque to clients, with a version letter in front, so that a later form can tell itself apart.

use std::{fmt, str::FromStr};

use crate::{Error, Result, ids::StreamPos};

/// Where a client stands in /sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Everything of the log up to here has been handed out.
    pub pos: StreamPos,
    /// To-device messages up to here have been handed out; of its own, since an answer may carry only some.
    pub to_device: i64,
    /// The run that gave this out: it says whether `pos` is of a history that the database has, and who counted
    /// `ephemeral`; another run resends what is ephemeral.
    pub boot: u32,
    /// Typing and presence up to here have been handed out.
    pub ephemeral: u64,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}_{}_{:x}_{}", self.pos.0, self.to_device, self.boot, self.ephemeral)
    }
}

impl FromStr for SyncToken {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parse = || {
            let mut parts = s.strip_prefix('h')?.splitn(4, '_');
            let token = Self {
                pos: StreamPos(parts.next()?.parse().ok()?),
                to_device: parts.next()?.parse().ok()?,
                boot: u32::from_str_radix(parts.next()?, 16).ok()?,
                ephemeral: parts.next()?.parse().ok()?,
            };
            (token.pos.0 >= 0 && token.to_device >= 0).then_some(token)
        };
        parse().ok_or_else(|| Error::invalid_param("Unknown sync token"))
    }
}

/// A place between two events of one room's history: just after the event at (depth, pos).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryToken {
    /// Depth of the event before this place.
    pub depth: i64,
    /// Its position; negative if it was backfilled.
    pub pos: StreamPos,
}

impl HistoryToken {
    /// Before the first event of any room.
    pub const START: Self = Self { depth: 0, pos: StreamPos(i64::MIN) };
    /// After the last event of any room.
    pub const END: Self = Self { depth: i64::MAX, pos: StreamPos(i64::MAX) };

    /// The place just before the event that this place follows.
    #[must_use]
    pub fn before(self) -> Self {
        Self { pos: StreamPos(self.pos.0.saturating_sub(1)), ..self }
    }
}

impl fmt::Display for HistoryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}_{}", self.depth, self.pos.0)
    }
}

impl FromStr for HistoryToken {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parse = || {
            let (depth, pos) = s.strip_prefix('t')?.split_once('_')?;
            Some(Self { depth: depth.parse().ok()?, pos: StreamPos(pos.parse().ok()?) })
        };
        parse().ok_or_else(|| Error::invalid_param("Unknown pagination token"))
    }
}

/// Where a page of history begins or ends. Where history forks, what came after an answer may stand before it: then the
/// page leaves out what is newer than that answer, or its reader would have it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The place.
    pub at: HistoryToken,
    /// Pages back from there hold nothing newer than this.
    pub upto: StreamPos,
}

impl From<HistoryToken> for PageToken {
    fn from(at: HistoryToken) -> Self {
        Self { at, upto: StreamPos(i64::MAX) }
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.upto {
            StreamPos(i64::MAX) => self.at.fmt(f),
            StreamPos(upto) => write!(f, "{}_{upto}", self.at),
        }
    }
}

impl FromStr for PageToken {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        if let Some((at, upto)) = s.rsplit_once('_')
            && let (Ok(at), Ok(upto)) = (at.parse(), upto.parse())
        {
            return Ok(Self { at, upto: StreamPos(upto) });
        }
        s.parse::<HistoryToken>().map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let t = SyncToken { pos: StreamPos(12), to_device: 7, boot: 0xdead_beef, ephemeral: 3 };
        assert_eq!(t.to_string().parse::<SyncToken>().unwrap(), t);
        let h = HistoryToken { depth: 5, pos: StreamPos(-9) };
        assert_eq!(h.to_string().parse::<HistoryToken>().unwrap(), h);
        assert_eq!(HistoryToken::START.to_string().parse::<HistoryToken>().unwrap(), HistoryToken::START);
    }

    #[test]
    fn pages_may_have_a_bound() {
        let at = HistoryToken { depth: 5, pos: StreamPos(-9) };
        for token in [PageToken::from(at), PageToken { at, upto: StreamPos(7) }] {
            assert_eq!(token.to_string().parse::<PageToken>().unwrap(), token);
        }
        assert_eq!(PageToken::from(at).to_string(), at.to_string());
        for s in ["", "t", "t1", "t1_x", "x1_2", "t1_2_", "t1_2_x", "t1_2_3_4", "h1_2_3_4"] {
            assert!(s.parse::<PageToken>().is_err(), "{s}");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for s in ["", "h", "h1_2_3", "h-1_0_0_0", "s12_3", "h1_2_zz_4", "h1_2_3_4_5x"] {
            assert!(s.parse::<SyncToken>().is_err(), "{s}");
        }
        for s in ["", "t", "t1", "t1_x", "x1_2"] {
            assert!(s.parse::<HistoryToken>().is_err(), "{s}");
        }
    }
}
