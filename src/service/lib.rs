//! What the server does: one service a capability, made once, in order, each holding only earlier ones.

pub mod events;
pub mod history;
pub mod keys;
pub mod membership;
pub mod notifier;
pub mod rooms;
pub mod state;
pub mod sync;
pub mod to_device;
