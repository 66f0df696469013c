//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod chaos;
mod finding;
mod history;
mod hostile;
mod invites;
mod joining;
mod media;
mod partial;
mod reading;
mod resident;
mod rooms;
mod sending;
pub mod support;
mod versions;
