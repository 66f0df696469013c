//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod finding;
mod rooms;
pub mod support;
