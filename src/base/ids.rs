//! Typed numbers. Inside the server rooms, events, users and state keys are integers, so that joins are cheap
//! and one cannot be taken for another; Matrix ids stand at the borders only.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! nid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// The bare number, for SQL.
            #[must_use]
            pub fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<i64> for $name {
            fn from(n: i64) -> Self {
                Self(n)
            }
        }
    };
}

nid!(
    /// A room this server knows of.
    RoomNid
);
nid!(
    /// An event this server has stored. Says nothing about order.
    EventNid
);
nid!(
    /// A user, local or remote.
    UserNid
);
nid!(
    /// A pair of event type and state key.
    KeyNid
);
nid!(
    /// A state snapshot.
    SnapNid
);
nid!(
    /// A position in the log: gapless, in the order of commits, the same for all nodes. Negative for events
    /// that were backfilled, which never were news.
    StreamPos
);

impl StreamPos {
    /// Before everything.
    pub const ZERO: Self = Self(0);
}
