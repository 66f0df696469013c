//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod finding;
mod media;
mod reading;
mod rooms;
mod sending;
pub mod support;
