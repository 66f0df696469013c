//! The section `edge:`, which is ours alone: what a reverse proxy did before.

use serde::Deserialize;
use serde_json::Value;

/// The section `edge:`. Unlike anywhere else, unknown keys are refused here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeConfig {
    /// Ports to open.
    pub listen: Value,
    /// Issue certificates from a certificate authority of our own.
    pub local_ca: bool,
}

impl EdgeConfig {
    /// What is wrong with the values: (path below `edge`, sentence).
    #[must_use]
    pub fn check(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
