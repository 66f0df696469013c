//! The settings of calls to and from other servers.

use hearth_config::Config;
use hearth_service::{federation, server_keys::Notary};

/// How other servers are called, and whom we speak to.
#[must_use]
pub fn federation(config: &Config) -> federation::Settings {
    let (from, outbound) = (&config.federation, &config.server.outbound);
    let mut to = federation::Settings {
        only: from.only.clone(),
        profiles: from.profile_lookup,
        device_names: from.device_name_lookup,
        public_rooms: from.public_rooms,
        ..federation::Settings::default()
    };
    to.pauses.first = from.calls.backoff_min;
    to.pauses.factor = from.calls.backoff_factor;
    to.pauses.longest = from.calls.backoff_max;
    let remote = &mut to.remote;
    if let Some(suffix) = &config.server.user_agent_suffix {
        remote.user_agent = format!("{} {suffix}", remote.user_agent);
    }
    remote.deny = outbound.federation_deny.clone().unwrap_or_else(|| outbound.deny.clone());
    remote.allow.clone_from(&outbound.allow);
    remote.verify_certificates = from.verify_certificates;
    remote.unverified_hosts.clone_from(&from.unverified_domains);
    remote.custom_ca.clone_from(&from.custom_ca);
    remote.only_tls13 = from.only_tls13;
    remote.timeout = from.calls.timeout;
    remote.short = (from.calls.short_retries, from.calls.short_retry_delay);
    remote.long = (from.calls.long_retries, from.calls.long_retry_delay);
    remote.proxy =
        outbound.https_proxy.as_deref().and_then(|proxy| hearth_remote::http::Proxy::parse(proxy, &outbound.no_proxy));
    to
}

/// A server that vouches for the keys of others.
pub(super) fn notary(from: &hearth_config::federation::KeyServer) -> Notary {
    let keys = from.keys.iter().map(|(id, key)| (id.to_string(), key.encode())).collect();
    Notary { name: from.name.clone(), keys }
}
