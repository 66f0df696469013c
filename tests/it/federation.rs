//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod finding;
mod invites;
mod joining;
mod resident;
pub mod support;
