//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod finding;
pub mod support;
