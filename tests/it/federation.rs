//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod finding;
mod sending;
pub mod support;
