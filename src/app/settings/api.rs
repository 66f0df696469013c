//! `rc_*`: how often somebody may do something.

use hearth_api::limits::Rate as ApiRate;
use hearth_config::{Config, limits::Rate};

/// How the API behaves.
#[must_use]
pub fn api(config: &Config) -> hearth_api::Settings {
    let mut to = hearth_api::Settings::default();
    let rate = |r: Rate| ApiRate::new(r.per_second, r.burst);
    let (from, limits) = (&config.limits, &mut to.limits);
    limits.message = rate(from.message);
    limits.registration = rate(from.registration);
    limits.registration_token_validity = rate(from.registration_token_validity);
    limits.login_address = rate(from.login_address);
    limits.login_account = rate(from.login_account);
    limits.login_failed = rate(from.login_failed);
    limits.admin_redaction = rate(from.admin_redaction.unwrap_or(from.message));
    limits.redactions_apart = from.admin_redaction.is_some();
    limits.joins_local = rate(from.joins_local);
    limits.joins_remote = rate(from.joins_remote);
    limits.joins_per_room = rate(from.joins_per_room);
    limits.threepid_validation = rate(from.threepid_validation);
    limits.invites_per_room = rate(from.invites_per_room);
    limits.invites_per_user = rate(from.invites_per_user);
    limits.invites_per_issuer = rate(from.invites_per_issuer);
    limits.third_party_invite = rate(from.third_party_invite);
    limits.media_create = rate(from.media_create);
    limits.key_requests = rate(from.key_requests);
    limits.presence = rate(from.presence);
    limits.delayed_event_mgmt = rate(from.delayed_event_management);
    limits.reports = rate(from.reports);
    limits.room_creation = rate(from.room_creation);
    limits.user_directory = rate(from.user_directory);
    limits.profile = rate(from.profile);
    to
}
