//! What every layer may use: errors, typed numbers, who asks, stream tokens, the supervisor, clocks.
//!
//! Nothing here knows of HTTP routes, SQL or Matrix rules; a type moves here only when at least two layers
//! that may not see each other need it.

pub mod bill;
pub mod cache;
pub mod clock;
mod depth;
pub mod error;
pub mod ids;
pub mod peer;
pub mod requester;
pub mod stream;
pub mod tasks;

pub use depth::nests_too_deep;
pub use error::{Doing, Error, OrNotFound, Result};
pub use requester::Requester;
