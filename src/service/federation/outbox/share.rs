//! A server that refuses a transaction for what is in it (400, 413) would refuse it for ever, and all that comes after it
//! would wait. So transactions are halved until the one thing is found that it does not want, and that is given up at
//! last: what else waits goes on.

use hearth_remote::Failure;
use http::StatusCode;

/// After so many halvings of the largest transaction one thing is left of it.
const ALONE: u32 = 6;
/// So many times the one thing is tried, with growing pauses: more than half an hour, in which its receiver may be mended.
const TRIES: u32 = 10;

/// How much a transaction to a server may hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    halvings: u32,
}

impl Share {
    /// So many of what might be `most`.
    pub(super) fn of(&self, most: usize) -> usize {
        most.checked_shr(self.halvings).unwrap_or(0).max(1)
    }

    /// Whether it may hold one thing only.
    pub(super) fn is_alone(&self) -> bool {
        self.halvings >= ALONE
    }
}

/// What a server refused for what is in it.
#[derive(Debug, Default)]
pub(super) struct Disliked {
    pub(super) share: Share,
    /// The transaction of one thing that was refused last, and how often it was.
    last: Option<(String, u32)>,
}

impl Disliked {
    /// Takes in that a transaction of that id was refused. Whether it is to be given up, since it is one thing that was
    /// refused again and again.
    pub(super) fn add(&mut self, id: &str, failure: &Failure) -> bool {
        if !is_for_content(failure) {
            return false;
        }
        if !self.share.is_alone() {
            self.share.halvings += 1;
            return false;
        }
        let times = self.last.take().filter(|(of, _)| of == id).map_or(0, |(_, times)| times) + 1;
        self.last = Some((id.to_owned(), times));
        times >= TRIES
    }
}

/// Whether the server read what was sent and does not want it. What a proxy says before it has no errcode.
fn is_for_content(failure: &Failure) -> bool {
    let Failure::Refused(refusal) = failure else { return false };
    match refusal.status {
        StatusCode::PAYLOAD_TOO_LARGE => true,
        StatusCode::BAD_REQUEST => !refusal.errcode.is_empty(),
        _ => false,
    }
}
