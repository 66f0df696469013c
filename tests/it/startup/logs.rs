//! `log_config`: whither, how, how much, and again on SIGHUP.

use super::*;
