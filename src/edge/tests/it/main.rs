//! The edge as clients see it: a small router stands in for the homeserver, everything else is real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod acme;
mod certificates;
mod files;
mod front;
mod hostile;
mod pebble;
mod serving;
mod upstreams;
