//! The settings of services, a function for each group of them.

use hearth_base::{Error, Result};
use hearth_config::{
    Config,
    accounts::{Accounts, PasswordLogin, PasswordPolicy},
    media::{Media, Previews},
    rooms::{DefaultEncryption, ListRule, PresenceMode, Rooms},
    server::Server,
};
use hearth_remote::{http::Proxy, preview};
use hearth_service::{
    Settings,
    accounts::passwords::Policy,
    directory::Rule,
    media::{
        UploadLimit, previews,
        sizes::{Method, Size, Sizes},
    },
    rooms::Preset,
    server_keys::{self, OldKey},
};
use serde_json::{Map, Value};

/// How the services behave.
///
/// # Errors
/// If there is no signing key.
pub fn services(config: &Config) -> Result<Settings> {
    let mut to = Settings::new(config.server.name.clone());
    to.public_baseurl = Some(config.server.public_baseurl.to_string());
    to.server_keys = signing_key(config)?;
    to.federation = super::federation(config);
    let limits = &config.limits.federation;
    to.gate.window = limits.window;
    to.gate.sleep_limit = limits.sleep_limit;
    to.gate.sleep_delay = limits.sleep_delay;
    to.gate.reject_limit = limits.reject_limit;
    to.gate.concurrent = limits.concurrent;
    to.outbox.receipts_per_second = config.limits.receipts_per_room_per_second;
    accounts(&config.accounts, &mut to);
    sessions(&config.accounts, &mut to);
    profiles(&config.accounts, &config.media, &mut to);
    calls(&config.accounts, &mut to);
    addresses(config, &mut to);
    rooms(&config.rooms, &mut to);
    directory(&config.rooms, &mut to);
    presence(&config.rooms, &mut to);
    media(&config.media, &mut to);
    to.media.previews = config.media.previews.as_ref().map(|from| links(from, &config.server));
    Ok(to)
}

fn accounts(from: &Accounts, to: &mut Settings) {
    let (registration, passwords, to) = (&from.registration, &from.passwords, &mut to.accounts);
    to.passwords.pepper = passwords.pepper.as_ref().map(|p| p.expose().clone()).unwrap_or_default();
    let policy = &passwords.policy;
    to.policy = Policy {
        enabled: *policy != PasswordPolicy::default(),
        minimum_length: policy.minimum_length,
        require_digit: policy.digit,
        require_symbol: policy.symbol,
        require_lowercase: policy.lowercase,
        require_uppercase: policy.uppercase,
    };
    to.passwords_enabled = passwords.local && passwords.login != PasswordLogin::Nowhere;
    to.password_login = passwords.local && passwords.login == PasswordLogin::Everywhere;
    // A stage that is asked for and not there yet must not be passed by leaving it out.
    let unmet = !registration.required_threepids.is_empty() || registration.captcha.required;
    to.registration = registration.open && !unmet;
    to.registration_token = registration.requires_token;
    to.shared_secret = registration.shared_secret.as_ref().map(|s| s.expose().clone());
    to.guests = registration.guests;
    to.hide_taken_names = registration.inhibit_in_use;
    to.allow_underscore = registration.allow_underscore;
    to.set_displayname = from.profiles.set_displayname;
    to.set_avatar_url = from.profiles.set_avatar_url;
    to.threepid_changes = from.profiles.change_threepids;
    to.extra_user_types.clone_from(&from.user_types.1);
}

fn sessions(from: &Accounts, to: &mut Settings) {
    let (sessions, to) = (&from.sessions, &mut to.login);
    to.lifetimes.session = sessions.lifetime;
    to.lifetimes.refreshable = sessions.refreshable_access_token;
    to.lifetimes.nonrefreshable = sessions.nonrefreshable_access_token;
    to.lifetimes.refresh = sessions.refresh_token;
    if let Some(existing) = &sessions.login_via_existing {
        to.get_token = true;
        to.get_token_confirmed = existing.confirm;
        to.get_token_lifetime = existing.token_lifetime;
    }
}

fn profiles(from: &Accounts, media: &Media, to: &mut Settings) {
    let profiles = &from.profiles;
    to.profile.require_auth = profiles.require_auth;
    to.profile.shared_rooms_only = profiles.only_shared_rooms;
    to.profile.set_displayname = profiles.set_displayname;
    to.profile.set_avatar_url = profiles.set_avatar_url;
    to.profile.max_avatar_size = media.max_avatar_size;
    to.profile.avatar_types.clone_from(&media.avatar_types);
    to.membership.no_profile_on_invite = !profiles.on_invite;
}

fn addresses(config: &Config, to: &mut Settings) {
    let (outbound, to) = (&config.server.outbound, &mut to.membership);
    to.no_lookup = !config.accounts.profiles.lookup_threepids;
    let client = config.accounts.email.as_ref().and_then(|email| email.invite_client.as_ref());
    // Identity servers put a path behind it.
    to.invite_client = client.map(|url| url.as_str().trim_end_matches('/').to_owned());
    let remote = &mut to.identity.remote;
    if let Some(suffix) = &config.server.user_agent_suffix {
        remote.user_agent = format!("{} {suffix}", remote.user_agent);
    }
    remote.deny.clone_from(&outbound.deny);
    remote.allow.clone_from(&outbound.allow);
    remote.proxy = outbound.https_proxy.as_deref().and_then(|proxy| Proxy::parse(proxy, &outbound.no_proxy));
}

fn calls(from: &Accounts, to: &mut Settings) {
    let (turn, to) = (&from.turn, &mut to.calls);
    to.turn_uris.clone_from(&turn.uris);
    to.turn_shared_secret = turn.shared_secret.as_ref().map(|s| s.expose().clone());
    to.turn_username.clone_from(&turn.username);
    to.turn_password = turn.password.as_ref().map(|s| s.expose().clone());
    to.turn_user_lifetime = turn.lifetime;
    to.turn_allow_guests = turn.guests;
}

fn rooms(from: &Rooms, to: &mut Settings) {
    let many = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    to.membership.block_non_admin_invites = from.only_admins_invite;
    to.membership.forget_on_leave = from.forget_on_leave;
    to.rooms.default_version = from.defaults.version.clone();
    to.rooms.encrypted_presets = match from.defaults.encryption {
        DefaultEncryption::All => vec![Preset::Private, Preset::TrustedPrivate, Preset::Public],
        DefaultEncryption::Invite => vec![Preset::Private, Preset::TrustedPrivate],
        DefaultEncryption::Off => Vec::new(),
    };
    to.rooms.power_level_overrides = power_levels(&from.defaults.power_levels);
    to.sync.timeline_limit = from.timeline_limit.map_or(usize::MAX, many);
    to.push.enabled = from.push.enabled;
    to.push.max_rules = many(from.push.max_rules);
    to.push.max_rule_id = many(from.push.max_rule_id);
    to.push.max_rule = usize::try_from(from.push.max_rule_size).unwrap_or(usize::MAX);
}

fn directory(from: &Rooms, to: &mut Settings) {
    let rule = |rule: &ListRule| Rule {
        user: rule.user_id.clone(),
        alias: rule.alias.clone(),
        room: rule.room_id.clone(),
        allow: rule.allow,
    };
    let rules = |rules: &Option<Vec<ListRule>>| rules.as_ref().map(|rules| rules.iter().map(rule).collect());
    let to = &mut to.directory;
    to.public_rooms_without_login = from.directory.without_auth;
    to.room_list = from.directory.searchable;
    to.aliases_by_members = from.directory.aliases_by_members_only;
    to.alias_rules = rules(&from.directory.alias_rules);
    to.publication_rules = rules(&from.directory.publication_rules);
    to.user_search = from.users.enabled;
    to.search_all_users = from.users.search_all;
}

fn presence(from: &Rooms, to: &mut Settings) {
    let (from, to) = (&from.presence, &mut to.presence);
    to.enabled = from.mode == PresenceMode::On;
    to.active = from.active;
    to.online = from.sync_timeout;
    to.idle = from.idle;
}

fn media(from: &Media, to: &mut Settings) {
    let to = &mut to.media;
    to.max_upload_size = from.max_upload_size;
    to.max_pending_uploads = u64::from(from.max_pending_uploads);
    to.pending_lifetime = from.unused_expiration;
    to.upload_limits = from
        .upload_limits
        .iter()
        .map(|limit| UploadLimit {
            period: limit.period,
            max_bytes: limit.max_size,
            info_uri: limit.info_uri.clone().unwrap_or_default(),
            can_upgrade: limit.can_upgrade,
        })
        .collect();
    to.authenticated_media = from.authenticated;
    to.blocked_servers.clone_from(&from.prevent_from);
    to.max_image_pixels = from.max_image_pixels;
    to.sizes = Sizes {
        listed: from
            .thumbnail_sizes
            .iter()
            .map(|s| Size {
                width: s.width,
                height: s.height,
                method: if s.crop { Method::Crop } else { Method::Scale },
            })
            .collect(),
        dynamic: from.dynamic_thumbnails,
    };
    to.local_lifetime = from.local_lifetime;
    to.remote_lifetime = from.remote_lifetime;
}

fn links(from: &Previews, server: &Server) -> previews::Settings {
    let outbound = &server.outbound;
    let proxy = |address: &Option<String>| address.as_deref().and_then(|a| Proxy::parse(a, &outbound.no_proxy));
    let remote = preview::Settings {
        remote: hearth_remote::Settings {
            // Sites that describe themselves to robots alone look for this word; our version is not their concern.
            user_agent: "Hearth (bot; previews of links)".to_owned(),
            deny: from.deny.clone(),
            allow: from.allow.clone(),
            proxy: proxy(&outbound.https_proxy),
            ..hearth_remote::Settings::default()
        },
        http_proxy: proxy(&outbound.http_proxy),
        languages: from.languages.clone(),
    };
    previews::Settings {
        remote,
        deny_urls: from.deny_urls.clone(),
        max_size: from.max_size,
        oembed: from.oembed.clone(),
        ..previews::Settings::default()
    }
}

fn signing_key(config: &Config) -> Result<server_keys::Settings> {
    let key = config
        .federation
        .signing_keys
        .first()
        .ok_or_else(|| Error::broken("there is no signing key: run `hearth generate-keys`, or restore the file"))?;
    let old = config.federation.old_keys.iter().map(|(id, old)| OldKey {
        key_id: id.to_string(),
        public_key: old.key.encode(),
        expired_ms: u64::from(old.expired.get()),
    });
    Ok(server_keys::Settings {
        seed: *key.seed.expose(),
        version: key.version.clone(),
        old: old.collect(),
        validity: config.federation.key_refresh_interval,
        notaries: config.federation.trusted_key_servers.iter().map(super::federation::notary).collect(),
        notary_keys: config.federation.notary_keys.iter().map(|k| (*k.seed.expose(), k.version.clone())).collect(),
    })
}

fn power_levels(overrides: &Value) -> Vec<(Preset, Map<String, Value>)> {
    let Value::Object(overrides) = overrides else { return Vec::new() };
    overrides
        .iter()
        .filter_map(|(preset, levels)| Some((Preset::parse(preset)?, levels.as_object()?.clone())))
        .collect()
}
