//! What the server does: one service a capability, made once, in order, each holding only earlier ones.

pub mod account_data;
pub mod events;
pub mod notifier;
pub mod push;
pub mod state;
