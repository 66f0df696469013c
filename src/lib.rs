//! Hearth, a Matrix homeserver with its own front door.
//!
#![doc = include_str!("ARCHITECTURE.md")]
//!
//! # The crate
//!
//! The layers are crates of their own; this one assembles them.

pub mod app;
