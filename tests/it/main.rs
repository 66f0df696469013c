//! The integration tests: one binary, a module a capability, over a server in this process ([`support`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod accounts;
mod clients;
mod devices;
mod directory;
mod doctor;
mod events;
mod faults;
mod federation;
mod history;
mod hostile;
mod login;
mod membership;
mod previews;
mod push;
mod relations;
mod rooms;
mod server;
mod startup;
mod support;
mod sync;
mod tidy;
mod tutorial;
mod upkeep;
