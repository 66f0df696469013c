//! Certificates from an ACME authority (RFC 8555): account, order, challenge, renewal.

pub(crate) mod challenges;

use std::sync::Arc;

use hearth_base::tasks::Supervisor;

use crate::{Error, Settings, Shared, tls::Certificates};

/// Puts the certificates kept from earlier runs into the table.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn load_kept(_settings: &Settings, _into: &Certificates) -> Result<(), Error> {
    Ok(())
}

/// Starts the task that orders and renews, if there is an authority to order from.
pub(crate) fn start(_settings: &Settings, _shared: &Arc<Shared>, _supervisor: &Supervisor) {}
