//! The integration tests: one binary, a module a capability, over a server in this process ([`support`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod accounts;
mod devices;
mod directory;
mod events;
mod federation;
mod history;
mod login;
mod membership;
mod rooms;
mod server;
mod support;
mod sync;
