//! Servers among themselves: over TLS, signed, in one process ([`support`]).

mod by_address;
mod chaos;
mod devices;
mod finding;
mod forks;
mod held;
mod history;
mod hostile;
mod invites;
mod joining;
mod lacking;
mod media;
mod odd;
mod partial;
mod policy;
mod reading;
mod receipts;
mod resident;
mod returning;
mod rooms;
mod sending;
pub mod support;
mod third_party;
mod versions;
