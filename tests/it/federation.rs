//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod finding;
mod rooms;
mod media;
mod reading;
pub mod support;
