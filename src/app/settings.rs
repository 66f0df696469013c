//! From the configuration as administrators write it to the settings that each part of the server takes.

use std::{net::SocketAddr, path::PathBuf};

use hearth_api::limits::Rate as ApiRate;
use hearth_base::{Error, Result};
use hearth_config::{
    Config,
    accounts::{PasswordLogin, PasswordPolicy},
    database::{Engine, Postgres},
    limits::Rate,
    rooms::DefaultEncryption,
    server::{ListenerKind, Resource, Socket},
};
use hearth_edge::settings::{Listener, Place, Resources, Serves};
use hearth_service::{
    accounts::passwords::Policy,
    federation,
    media::{
        UploadLimit,
        sizes::{Method, Size, Sizes},
    },
    rooms::Preset,
    server_keys::{self, Notary, OldKey},
};
use hearth_store::db;
use serde_json::{Map, Value};

/// Where the data lives.
///
/// # Errors
/// If the database cannot be reached in the way that is configured.
pub fn store(config: &Config) -> Result<hearth_store::Settings> {
    let engine = match &config.database.main {
        Engine::Sqlite { path } => db::Engine::Sqlite { path: path.clone() },
        Engine::Postgres(postgres) => postgres_engine(postgres)?,
    };
    let mut settings = hearth_store::Settings::new(engine);
    settings.media = config.media.enabled.then(|| config.media.store_path.clone());
    Ok(settings)
}

fn postgres_engine(config: &Postgres) -> Result<db::Engine> {
    let mut options = db::PgConnectOptions::new();
    if let Some(host) = &config.host {
        options = options.host(host);
    }
    if let Some(port) = config.port {
        options = options.port(port);
    }
    if let Some(user) = &config.user {
        options = options.username(user);
    }
    if let Some(password) = &config.password {
        options = options.password(password.expose());
    }
    if let Some(database) = &config.database {
        options = options.database(database);
    }
    if let Some(mode) = &config.sslmode {
        let mode = mode.parse().map_err(|e| Error::fault(format!("database.args.sslmode is {mode:?}"), e))?;
        options = options.ssl_mode(mode);
    }
    if let Some(file) = &config.sslrootcert {
        options = options.ssl_root_cert(file);
    }
    if let Some(file) = &config.sslcert {
        options = options.ssl_client_cert(file);
    }
    if let Some(file) = &config.sslkey {
        options = options.ssl_client_key(file);
    }
    Ok(db::Engine::Postgres { options: Box::new(options), max_connections: config.cp_max })
}

/// How the services behave.
///
/// # Errors
/// If there is no signing key.
pub fn services(config: &Config) -> Result<hearth_service::Settings> {
    let (accounts, rooms, media) = (&config.accounts, &config.rooms, &config.media);
    let mut to = hearth_service::Settings::new(config.server.name.clone());
    to.public_baseurl = Some(config.server.public_baseurl.to_string());
    to.server_keys = signing_key(config)?;
    to.federation = federation(config);
    let limits = &config.limits.federation;
    to.transactions.window = limits.window;
    to.transactions.sleep_limit = limits.sleep_limit;
    to.transactions.sleep_delay = limits.sleep_delay;
    to.transactions.reject_limit = limits.reject_limit;
    to.outbox.receipts_per_second = config.limits.receipts_per_room_per_second;

    let registration = &accounts.registration;
    to.accounts.passwords.pepper = accounts.passwords.pepper.as_ref().map(|p| p.expose().clone()).unwrap_or_default();
    let policy = &accounts.passwords.policy;
    to.accounts.policy = Policy {
        enabled: *policy != PasswordPolicy::default(),
        minimum_length: policy.minimum_length,
        require_digit: policy.digit,
        require_symbol: policy.symbol,
        require_lowercase: policy.lowercase,
        require_uppercase: policy.uppercase,
    };
    to.accounts.passwords_enabled = accounts.passwords.local && accounts.passwords.login != PasswordLogin::Nowhere;
    // A stage that is asked for and not there yet must not be passed by leaving it out.
    let unmet = !registration.required_threepids.is_empty() || registration.captcha.required;
    to.accounts.registration = registration.open && !unmet;
    to.accounts.registration_token = registration.requires_token;
    to.accounts.shared_secret = registration.shared_secret.as_ref().map(|s| s.expose().clone());
    to.accounts.guests = registration.guests;
    to.accounts.hide_taken_names = registration.inhibit_in_use;
    to.accounts.set_displayname = accounts.profiles.set_displayname;
    to.accounts.set_avatar_url = accounts.profiles.set_avatar_url;
    to.accounts.threepid_changes = accounts.profiles.change_threepids;
    to.accounts.extra_user_types = accounts.user_types.1.clone();

    let sessions = &accounts.sessions;
    to.login.lifetimes.session = sessions.lifetime;
    to.login.lifetimes.refreshable = sessions.refreshable_access_token;
    to.login.lifetimes.nonrefreshable = sessions.nonrefreshable_access_token;
    to.login.lifetimes.refresh = sessions.refresh_token;
    if let Some(existing) = &sessions.login_via_existing {
        to.login.get_token = true;
        to.login.get_token_confirmed = existing.confirm;
        to.login.get_token_lifetime = existing.token_lifetime;
    }

    let turn = &accounts.turn;
    to.calls.turn_uris.clone_from(&turn.uris);
    to.calls.turn_shared_secret = turn.shared_secret.as_ref().map(|s| s.expose().clone());
    to.calls.turn_username.clone_from(&turn.username);
    to.calls.turn_password = turn.password.as_ref().map(|s| s.expose().clone());
    to.calls.turn_user_lifetime = turn.lifetime;
    to.calls.turn_allow_guests = turn.guests;

    to.membership.block_non_admin_invites = rooms.only_admins_invite;
    to.membership.no_profile_on_invite = !accounts.profiles.on_invite;
    to.membership.forget_on_leave = rooms.forget_on_leave;
    to.rooms.default_version = rooms.defaults.version.clone();
    to.rooms.encrypted_presets = match rooms.defaults.encryption {
        DefaultEncryption::All => vec![Preset::Private, Preset::TrustedPrivate, Preset::Public],
        DefaultEncryption::Invite => vec![Preset::Private, Preset::TrustedPrivate],
        DefaultEncryption::Off => Vec::new(),
    };
    to.rooms.power_level_overrides = power_levels(&rooms.defaults.power_levels);
    to.sync.timeline_limit =
        rooms.timeline_limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    to.push.enabled = rooms.push.enabled;
    to.push.max_rules = usize::try_from(rooms.push.max_rules).unwrap_or(usize::MAX);
    to.push.max_rule_id = usize::try_from(rooms.push.max_rule_id).unwrap_or(usize::MAX);
    to.push.max_rule = usize::try_from(rooms.push.max_rule_size).unwrap_or(usize::MAX);

    to.media.max_upload_size = media.max_upload_size;
    to.media.max_pending_uploads = u64::from(media.max_pending_uploads);
    to.media.pending_lifetime = media.unused_expiration;
    to.media.upload_limits = media
        .upload_limits
        .iter()
        .map(|limit| UploadLimit {
            period: limit.period,
            max_bytes: limit.max_size,
            info_uri: limit.info_uri.clone().unwrap_or_default(),
            can_upgrade: limit.can_upgrade,
        })
        .collect();
    to.media.authenticated_media = media.authenticated;
    to.media.blocked_servers.clone_from(&media.prevent_from);
    to.media.max_image_pixels = media.max_image_pixels;
    to.media.sizes = Sizes {
        listed: media
            .thumbnail_sizes
            .iter()
            .map(|s| Size {
                width: s.width,
                height: s.height,
                method: if s.crop { Method::Crop } else { Method::Scale },
            })
            .collect(),
        dynamic: media.dynamic_thumbnails,
    };
    to.media.local_lifetime = media.local_lifetime;
    to.media.remote_lifetime = media.remote_lifetime;
    Ok(to)
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
        notaries: config.federation.trusted_key_servers.iter().map(notary).collect(),
        notary_keys: config.federation.notary_keys.iter().map(|k| (*k.seed.expose(), k.version.clone())).collect(),
    })
}

fn notary(from: &hearth_config::federation::KeyServer) -> Notary {
    let keys = from.keys.iter().map(|(id, key)| (id.to_string(), key.encode())).collect();
    Notary { name: from.name.clone(), keys }
}

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

fn power_levels(overrides: &Value) -> Vec<(Preset, Map<String, Value>)> {
    let Value::Object(overrides) = overrides else { return Vec::new() };
    overrides
        .iter()
        .filter_map(|(preset, levels)| Some((Preset::parse(preset)?, levels.as_object()?.clone())))
        .collect()
}

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
    limits.joins_local = rate(from.joins_local);
    limits.joins_remote = rate(from.joins_remote);
    limits.joins_per_room = rate(from.joins_per_room);
    limits.threepid_validation = rate(from.threepid_validation);
    limits.invites_per_room = rate(from.invites_per_room);
    limits.invites_per_user = rate(from.invites_per_user);
    limits.invites_per_issuer = rate(from.invites_per_issuer);
    limits.third_party_invite = rate(from.third_party_invite);
    limits.media_create = rate(from.media_create);
    limits.presence = rate(from.presence);
    limits.delayed_event_mgmt = rate(from.delayed_event_management);
    limits.reports = rate(from.reports);
    limits.room_creation = rate(from.room_creation);
    limits.user_directory = rate(from.user_directory);
    limits.profile = rate(from.profile);
    to
}

/// What the front door is built from; `data_dir` is where certificates are kept.
#[must_use]
pub fn edge(config: &Config, data_dir: PathBuf) -> hearth_edge::Settings {
    let server = &config.server;
    hearth_edge::Settings {
        server_name: server.name.to_string(),
        public_baseurl: server.has_public_baseurl.then(|| server.public_baseurl.to_string()),
        listeners: server.listeners.iter().map(listener).collect(),
        tls_certificate_path: server.tls_certificate_path.clone(),
        tls_private_key_path: server.tls_private_key_path.clone(),
        serve_server_wellknown: server.serve_server_wellknown,
        extra_well_known_client_content: server.extra_well_known_client.clone(),
        default_identity_server: config.accounts.registration.default_identity_server.as_ref().map(ToString::to_string),
        web_client_location: server.web_client_location.as_ref().map(ToString::to_string),
        data_dir,
        max_upload_size: config.media.max_upload_size,
        edge: config.edge.clone(),
    }
}

fn listener(from: &hearth_config::server::Listener) -> Listener {
    let (place, name) = match &from.socket {
        Socket::Tcp { port, addresses } => {
            (Place::Tcp(addresses.iter().map(|ip| SocketAddr::new(*ip, *port)).collect()), port.to_string())
        }
        Socket::Unix { path, mode } => (Place::Unix(path.clone(), *mode), path.display().to_string()),
    };
    let names: Vec<&str> = from.resources.iter().flat_map(|r| &r.names).map(|r| resource(*r)).collect();
    Listener {
        name: from.tag.clone().unwrap_or(name),
        place,
        tls: from.tls,
        x_forwarded: from.x_forwarded,
        serves: match from.kind {
            ListenerKind::Metrics => Serves::Metrics,
            // The names come from the configuration's own list, so none is unknown.
            ListenerKind::Http => Serves::Http(Resources::from_names(names).unwrap_or(Resources::NONE)),
        },
    }
}

fn resource(resource: Resource) -> &'static str {
    match resource {
        Resource::Client => "client",
        Resource::Consent => "consent",
        Resource::Federation => "federation",
        Resource::Keys => "keys",
        Resource::Media => "media",
        Resource::Metrics => "metrics",
        Resource::OpenId => "openid",
        Resource::Static => "static",
        Resource::Health => "health",
    }
}
