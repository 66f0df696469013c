//! The protocol's laws. Pure: no I/O, no `async`, no clock and no randomness of its own; the same input always
//! gives the same output, and nothing a stranger sends makes it panic.
//!
//! Where ruma has the rule (signatures, redaction, authorisation, state resolution v2, push conditions), these
//! modules adapt it to our types; what ruma lacks is written here and tested against the specification.

pub mod auth;
pub mod client_format;
pub mod event;
pub mod json;
mod property_path;
pub mod push;
pub mod request;
pub mod resolve;
pub mod versions;
pub mod visibility;

pub use event::{Draft, Pdu, Signer};
pub use versions::RoomVersion;
