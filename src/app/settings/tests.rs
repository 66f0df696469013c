//! What an administrator writes arrives at the services. What they make of it is told by their own tests.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use hearth_config::{Config, Env, NoticeSort};
use hearth_service::directory::Rule;

fn load(yaml: &str) -> (Config, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("homeserver.yaml");
    let key = dir.path().join("signing.key");
    std::fs::write(&key, "ed25519 a_1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n").unwrap();
    let least = format!("server_name: a.test\nreport_stats: false\nsigning_key_path: {}\n", key.display());
    std::fs::write(&path, format!("{least}{yaml}\n")).unwrap();
    let loaded = Config::load(&[path], Env::default()).unwrap();
    let late = loaded.notices.iter().filter(|n| n.sort == NoticeSort::NotYet).map(|n| n.key.clone()).collect();
    (loaded.config, late)
}

fn services(yaml: &str) -> hearth_service::Settings {
    let (config, late) = load(yaml);
    assert_eq!(late, Vec::<String>::new(), "what arrives is in force");
    super::services(&config).unwrap()
}

#[test]
fn profiles_are_as_private_as_asked_for() {
    let usual = services("").profile;
    assert!(!usual.require_auth && !usual.shared_rooms_only && usual.set_displayname && usual.set_avatar_url);
    assert_eq!((usual.max_avatar_size, usual.avatar_types), (None, None));
    let strict = services(
        "require_auth_for_profile_requests: true\nlimit_profile_requests_to_users_who_share_rooms: true\n\
         enable_set_displayname: false\nenable_set_avatar_url: false\nmax_avatar_size: 10M\n\
         allowed_avatar_mimetypes: [image/png]",
    );
    assert!(strict.profile.require_auth && strict.profile.shared_rooms_only);
    assert!(!strict.profile.set_displayname && !strict.profile.set_avatar_url);
    assert!(!strict.accounts.set_displayname && !strict.accounts.set_avatar_url);
    assert_eq!(strict.profile.max_avatar_size, Some(10 << 20));
    assert_eq!(strict.profile.avatar_types, Some(vec!["image/png".to_owned()]));
}

#[test]
fn presence_follows_its_section() {
    let usual = services("").presence;
    assert!(usual.enabled);
    let own = services(
        "presence: { enabled: true, last_active_granularity: 10s, sync_online_timeout: 20s, idle_timeout: 40s }",
    )
    .presence;
    assert_eq!([own.active, own.online, own.idle].map(|d| d.as_secs()), [10, 20, 40]);
    for off in ["presence: { enabled: false }", "presence: { enabled: untracked }", "use_presence: false"] {
        assert!(!services(off).presence.enabled, "{off}");
    }
}

#[test]
fn the_directory_follows_its_rules() {
    let usual = services("").directory;
    assert!(!usual.public_rooms_without_login && usual.room_list && usual.aliases_by_members && usual.user_search);
    assert!(!usual.search_all_users && usual.alias_rules.is_none() && usual.publication_rules.is_none());
    let own = services(
        "allow_public_rooms_without_auth: true\nenable_room_list_search: false\nrequire_membership_for_aliases: false\n\
         user_directory: { enabled: false, search_all_users: true }\n\
         alias_creation_rules: [{ user_id: \"@ada:*\", action: allow }]\nroom_list_publication_rules: []",
    )
    .directory;
    assert!(own.public_rooms_without_login && !own.room_list && !own.aliases_by_members);
    assert!(!own.user_search && own.search_all_users);
    let any = || "*".to_owned();
    let rule = Rule { user: "@ada:*".to_owned(), alias: any(), room: any(), allow: true };
    assert_eq!((own.alias_rules, own.publication_rules), (Some(vec![rule]), Some(vec![])));
}

#[test]
fn accounts_and_sessions_follow_their_options() {
    let usual = services("");
    assert!(usual.accounts.passwords_enabled && usual.accounts.password_login && !usual.accounts.allow_underscore);
    let reauth = services("password_config: { enabled: only_for_reauth }").accounts;
    assert!(reauth.passwords_enabled && !reauth.password_login);
    let off = services("password_config: { enabled: false }").accounts;
    assert!(!off.passwords_enabled && !off.password_login);
    let own = services(
        "allow_underscore_prefixed_registration: true\nallow_guest_access: true\nenable_3pid_changes: false\n\
         user_types: { extra_user_types: [robot] }\nsession_lifetime: 2h\n\
         login_via_existing_session: { enabled: true, require_ui_auth: false, token_timeout: 7s }",
    );
    assert!(own.accounts.allow_underscore && own.accounts.guests && !own.accounts.threepid_changes);
    assert_eq!(own.accounts.extra_user_types, ["robot"]);
    assert_eq!(own.login.lifetimes.session.unwrap().as_secs(), 7200);
    let existing = (own.login.get_token, own.login.get_token_confirmed, own.login.get_token_lifetime.as_secs());
    assert_eq!(existing, (true, false, 7));
}

#[test]
fn media_and_calls_follow_their_options() {
    let own = services(
        "media_retention: { local_media_lifetime: 90d, remote_media_lifetime: 14d }\n\
         prevent_media_downloads_from: [evil.test]\nmedia_upload_limits: [{ time_period: 1h, max_size: 1M }]\n\
         turn_uris: [\"turn:t.test\"]\nturn_shared_secret: s\nturn_user_lifetime: 1d\nturn_allow_guests: false",
    );
    let days = |d: Option<std::time::Duration>| d.unwrap().as_secs() / 86_400;
    assert_eq!((days(own.media.local_lifetime), days(own.media.remote_lifetime)), (90, 14));
    assert_eq!((own.media.blocked_servers.len(), own.media.upload_limits[0].max_bytes), (1, 1 << 20));
    assert_eq!((own.calls.turn_uris.len(), own.calls.turn_user_lifetime.as_secs()), (1, 86_400));
    assert!(!own.calls.turn_allow_guests && own.calls.turn_shared_secret.as_deref() == Some("s"));
}

#[test]
fn previews_follow_their_options() {
    assert!(services("").media.previews.is_none());
    let least = "url_preview_enabled: true\nurl_preview_ip_range_blacklist: [10.0.0.0/8]\n";
    let usual = services(least).media.previews.unwrap();
    assert_eq!((usual.max_size, usual.remote.languages.as_slice()), (10 << 20, ["en".to_owned()].as_slice()));
    assert!(usual.remote.remote.deny.contains(&"::ffff:10.0.0.0/104".parse().unwrap()));
    assert!(!usual.oembed.is_empty() && usual.deny_urls.is_empty() && usual.remote.http_proxy.is_none());
    let own = services(&format!(
        "{least}url_preview_ip_range_whitelist: [10.1.1.1]\nurl_preview_url_blacklist: [{{ netloc: x.test }}]\n\
         max_spider_size: 1M\nurl_preview_accept_language: [de, \"en;q=0.5\"]\n\
         oembed: {{ disable_default_providers: true }}\nhttp_proxy: http://p.test:3128\nhttps_proxy: s.test:3128"
    ))
    .media
    .previews
    .unwrap();
    assert_eq!((own.max_size, own.remote.languages.len(), own.oembed.len(), own.deny_urls.len()), (1 << 20, 2, 0, 1));
    assert!(own.remote.remote.allow.contains(&"10.1.1.1/32".parse().unwrap()));
    assert_eq!(own.remote.http_proxy.unwrap().address, "p.test:3128");
    assert_eq!(own.remote.remote.proxy.unwrap().address, "s.test:3128");
}

#[test]
fn invites_by_address_follow_their_options() {
    let usual = services("").membership;
    assert!(!usual.no_lookup && usual.invite_client.is_none() && usual.identity.remote.proxy.is_none());
    assert!(usual.identity.remote.deny.contains(&"10.0.0.0/8".parse().unwrap()), "private networks are not asked");
    let own = services(
        "enable_3pid_lookup: false\nip_range_blacklist: [192.0.2.0/24]\nip_range_whitelist: [192.0.2.1]\n\
         federation_ip_range_blacklist: []\nhttps_proxy: s.test:3128\nuser_agent_suffix: us",
    )
    .membership;
    let remote = own.identity.remote;
    assert!(own.no_lookup && remote.deny.contains(&"192.0.2.0/24".parse().unwrap()));
    assert!(remote.allow.contains(&"192.0.2.1/32".parse().unwrap()) && remote.user_agent.ends_with(" us"));
    assert_eq!(remote.proxy.unwrap().address, "s.test:3128");
    let mail = "email: { notif_from: Us <a@b.test>, invite_client_location: \"https://chat.test\" }";
    let (config, late) = load(mail);
    assert!(!late.contains(&"email.invite_client_location".to_owned()), "{late:?}");
    assert_eq!(super::services(&config).unwrap().membership.invite_client.as_deref(), Some("https://chat.test"));
}

/// Every limit by a rate of its own, so that none can take another's place.
#[test]
fn every_limit_arrives_at_its_own_place() {
    let keys = [
        "rc_message",
        "rc_registration",
        "rc_registration_token_validity",
        "rc_login.address",
        "rc_login.account",
        "rc_login.failed_attempts",
        "rc_joins.local",
        "rc_joins_per_room",
        "rc_invites.per_room",
        "rc_invites.per_user",
        "rc_invites.per_issuer",
        "rc_third_party_invite",
        "rc_media_create",
        "rc_key_requests",
        "rc_presence.per_user",
        "rc_reports",
        "rc_room_creation",
        "rc_user_directory",
        "rc_profile",
    ];
    let mut sections: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
    for (n, key) in keys.iter().enumerate() {
        let rate = format!("{{ per_second: {}, burst_count: {} }}", n + 1, n + 100);
        let (section, below) = key.split_once('.').map_or((*key, None), |(section, below)| (section, Some(below)));
        sections.entry(section).or_default().push(below.map_or(rate.clone(), |below| format!("{below}: {rate}")));
    }
    let yaml: Vec<String> = sections
        .iter()
        .map(|(section, rates)| match rates.as_slice() {
            [whole] if whole.starts_with('{') => format!("{section}: {whole}"),
            parts => format!("{section}: {{ {} }}", parts.join(", ")),
        })
        .collect();
    let (config, late) = load(&yaml.join("\n"));
    assert_eq!(late, Vec::<String>::new());
    let l = super::api(&config).limits;
    let arrived = [
        l.message,
        l.registration,
        l.registration_token_validity,
        l.login_address,
        l.login_account,
        l.login_failed,
        l.joins_local,
        l.joins_per_room,
        l.invites_per_room,
        l.invites_per_user,
        l.invites_per_issuer,
        l.third_party_invite,
        l.media_create,
        l.key_requests,
        l.presence,
        l.reports,
        l.room_creation,
        l.user_directory,
        l.profile,
    ];
    for (n, (rate, key)) in arrived.iter().zip(keys).enumerate() {
        assert_eq!((rate.per_second, rate.burst), (n as f64 + 1.0, n as f64 + 100.0), "{key}");
    }
}

#[test]
fn what_is_not_in_force_is_named() {
    for (yaml, key) in [
        ("ui_auth: { session_timeout: 15s }", "ui_auth"),
        (
            "enable_local_media_storage: false\nmedia_storage_providers: [{ module: file_system, config: { directory: /tmp } }]",
            "enable_local_media_storage",
        ),
        ("form_secret: x", "form_secret"),
        ("stats: { enabled: false }", "stats"),
        ("listeners: [{ port: 1, type: http, request_id_header: X-Id }]", "listeners[0].request_id_header"),
    ] {
        let (_, late) = load(yaml);
        assert!(late.iter().any(|l| l == key), "{yaml}: {late:?}");
    }
}

#[test]
fn a_generated_configuration_asks_for_nothing_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    for first in [true, false] {
        let at: PathBuf = dir.path().join(if first { "first" } else { "public" });
        let plan = if first {
            hearth_config::generate::Plan::first_start(&at)
        } else {
            hearth_config::generate::Plan::new("a.test", &at, &at)
        };
        plan.unwrap().write(&mut rand::rng()).unwrap();
        let loaded = Config::load(&[at.join("homeserver.yaml")], Env::default()).unwrap();
        assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
        let (_, notices) = loaded.config.telemetry.log().unwrap();
        assert!(notices.is_empty(), "{notices:?}");
    }
}

#[test]
fn what_is_said_of_other_servers_arrives() {
    let own = services(
        "ip_range_blacklist: [10.0.0.0/8]\nip_range_whitelist: [10.1.0.0/16]\nuser_agent_suffix: ours\n\
         allow_public_rooms_over_federation: true\nfederation_rr_transactions_per_room_per_second: 7\n\
         rc_federation: { window_size: 2000, sleep_limit: 3, sleep_delay: 100, reject_limit: 9, concurrent: 2 }\n\
         trusted_key_servers: [{ server_name: b.test }]",
    );
    let remote = &own.federation.remote;
    let [deny, allow] =
        [&remote.deny, &remote.allow].map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>());
    let has = |nets: &[String], net: &str| nets.iter().any(|n| n == net);
    assert!(has(&deny, "10.0.0.0/8") && !has(&deny, "192.168.0.0/16") && has(&allow, "10.1.0.0/16"));
    assert!(remote.user_agent.ends_with(" ours") && own.federation.public_rooms);
    assert_eq!(own.outbox.receipts_per_second, 7);
    let limits = &own.gate;
    assert_eq!((limits.window.as_millis(), limits.sleep_delay.as_millis()), (2000, 100));
    assert_eq!((limits.sleep_limit, limits.reject_limit, limits.concurrent), (3, 9, 2));
    assert_eq!(own.server_keys.notaries.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["b.test"]);
}
