//! Values of single sections, where they are more than a lookup; and the defaults, which are Synapse's.

use std::time::Duration;

use super::*;
use crate::{
    accounts::PasswordLogin,
    rooms::{DefaultEncryption, PresenceMode},
    server::{Resource, Socket},
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn defaults_are_those_of_synapse() {
    let config = with("");
    assert_eq!(config.server.public_baseurl.as_str(), "https://example.com/");
    assert!(!config.server.has_public_baseurl);
    assert_eq!(config.server.listeners, []);
    let denied =
        |ip: &str| config.server.outbound.deny.iter().any(|net| net.contains(&ip.parse::<std::net::IpAddr>().unwrap()));
    for ip in
        ["127.0.0.1", "::ffff:127.0.0.1", "::10.1.2.3", "2002:c0a8:1::1", "0.0.0.0", "::", "fe80::1", "169.254.169.254"]
    {
        assert!(denied(ip), "{ip}");
    }
    assert!(!denied("8.8.8.8") && !denied("::ffff:8.8.8.8") && !denied("2002:808:808::1") && !denied("2001:4860::1"));
    assert_eq!(config.rooms.defaults.version.as_str(), "12", "the one that differs from 1.157");
    assert_eq!(config.rooms.defaults.encryption, DefaultEncryption::Off);
    assert_eq!(config.rooms.timeline_limit, Some(100));
    assert_eq!((config.rooms.presence.mode, config.rooms.presence.idle), (PresenceMode::On, 5 * MINUTE));
    assert_eq!(config.rooms.retention.redacted, Some(7 * 24 * 60 * MINUTE));
    assert_eq!(config.accounts.user_ips_max_age, Some(28 * 24 * 60 * MINUTE));
    let sessions = config.accounts.sessions;
    assert_eq!((sessions.lifetime, sessions.refresh_token), (None, None));
    assert_eq!(sessions.refreshable_access_token, Some(5 * MINUTE));
    assert_eq!(config.accounts.passwords.bcrypt_rounds, 12);
    assert!(config.accounts.email.is_none());
    assert_eq!((config.limits.message.per_second, config.limits.message.burst), (0.2, 10.0));
    assert_eq!(config.limits.admin_redaction, None);
    assert_eq!((config.limits.login_failed.per_second, config.limits.login_failed.burst), (0.17, 3.0));
    assert_eq!(config.limits.profile.burst, 500.0);
    assert_eq!(config.media.remote_download, (500 << 20, 87 << 10));
    assert_eq!(config.media.max_image_pixels, 32 << 20);
    assert_eq!(config.media.thumbnail_sizes.len(), 5);
    assert_eq!(config.federation.calls.backoff_max, Duration::from_secs(7 * 86_400));
    assert_eq!(config.federation.only, None);
    assert_eq!(config.federation.trusted_key_servers[0].name, "matrix.org");
    assert!(config.federation.signing_key_to_make);
}

#[test]
fn null_is_off_where_off_is_meant() {
    assert_eq!(with("redaction_retention_period: null\n").rooms.retention.redacted, None);
    assert_eq!(with("user_ips_max_age:\n").accounts.user_ips_max_age, None);
    assert_eq!(with("session_lifetime: infinity\n").accounts.sessions.lifetime, None);
    assert_eq!(with("filter_timeline_limit: -1\n").rooms.timeline_limit, None);
    assert_eq!(with("trusted_key_servers: []\n").federation.trusted_key_servers, []);
    assert_eq!(with("federation_domain_whitelist: []\n").federation.only, Some(Vec::new()));
    assert_eq!(with("federation_domain_whitelist: null\n").federation.only, None);
}

#[test]
fn a_limit_that_is_half_said_has_the_other_half_by_default() {
    let redaction = |options: &str| with(options).limits.admin_redaction.map(|rate| (rate.per_second, rate.burst));
    assert_eq!(redaction("rc_admin_redaction: {burst_count: 10}\n"), Some((0.17, 10.0)));
    assert_eq!(redaction("rc_admin_redaction: {per_second: 1}\n"), Some((1.0, 3.0)));
}

#[test]
fn yaml_booleans_where_words_were_meant() {
    let encryption = |text: &str| with(text).rooms.defaults.encryption;
    assert_eq!(encryption("encryption_enabled_by_default_for_room_type: off\n"), DefaultEncryption::Off);
    assert_eq!(encryption("encryption_enabled_by_default_for_room_type: invite\n"), DefaultEncryption::Invite);
    let login = |text: &str| with(&format!("password_config: {{enabled: {text}}}\n")).accounts.passwords.login;
    assert_eq!(login("only_for_reauth"), PasswordLogin::OnlyToConfirm);
    assert_eq!(login("off"), PasswordLogin::Nowhere);
    assert_eq!(login("'yes'"), PasswordLogin::Everywhere);
    assert_eq!(with("default_room_version: 10\n").rooms.defaults.version.as_str(), "10");
    assert_eq!(with("default_room_version: '1'\n").rooms.defaults.version.as_str(), "1");
}

#[test]
fn listeners() {
    let options = "listeners:
  - port: 8008
    bind_addresses: ['127.0.0.1', '::1']
    resources: [{names: [client, replication], compress: true}]
  - {path: /run/hearth.sock, mode: 660}
  - {path: /run/other.sock, mode: 0600}
  - {port: 9000, type: manhole}
  - {port: 9001, type: metrics, bind_addresses: [localhost]}
";
    let listeners = with(options).server.listeners;
    assert_eq!(listeners.len(), 4);
    assert!(listeners[1].x_forwarded && !listeners[0].x_forwarded, "before a Unix socket stands a proxy");
    assert_eq!(listeners[0].resources[0].names, [Resource::Client]);
    assert_eq!(listeners[1].socket, Socket::Unix { path: "/run/hearth.sock".into(), mode: 0o660 });
    assert_eq!(listeners[2].socket, Socket::Unix { path: "/run/other.sock".into(), mode: 0o600 });
    assert_eq!(noticed(options, NoticeSort::NoEffect), ["listeners[0].resources[0].names[1]", "listeners[3]"]);

    assert_eq!(wrong("listeners: [{port: 0}]\n"), ["listeners[0].port@2"]);
    assert_eq!(wrong("listeners: [{port: 70000}]\n"), ["listeners[0].port@2"]);
    assert_eq!(wrong("listeners: [{port: 1, path: /x}]\n"), ["listeners[0].path@2"]);
    assert_eq!(wrong("listeners: [{path: /x, mode: 999}]\n"), ["listeners[0].mode@2"]);
    assert_eq!(wrong("listeners: [{port: 1, bind_addresses: [chat.example]}]\n"), ["listeners[0].bind_addresses[0]@2"]);
    assert_eq!(
        wrong("listeners: [{port: 1, resources: [{names: [webclient]}]}]\n"),
        ["listeners[0].resources[0].names[0]@2"]
    );
    assert_eq!(wrong("listeners: [{port: 1, tls: true}]\n"), ["listeners[0].tls@2"]);
    assert!(with("listeners: [{port: 1, tls: true}]\nedge: {local_ca: true}\n").server.listeners[0].tls);
}

#[test]
fn addresses_of_the_server() {
    assert_eq!(
        with("public_baseurl: https://a.example/sub\n").server.public_baseurl.as_str(),
        "https://a.example/sub/"
    );
    assert_eq!(wrong("public_baseurl: a.example\n"), ["public_baseurl@2"]);
    assert_eq!(wrong("public_baseurl: ftp://a.example\n"), ["public_baseurl@2"]);
    assert_eq!(wrong("public_baseurl: https://a.example/?x\n"), ["public_baseurl@2"]);
    assert_eq!(wrong("ip_range_whitelist: [all]\n"), ["ip_range_whitelist[0]@2"]);
}

#[test]
fn keys_of_others_and_old_ones_of_ours() {
    let key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";
    let options = format!(
        "old_signing_keys:\n  ed25519:auto: {{key: {key}, expired_ts: 1576767829750}}\n\
         trusted_key_servers:\n  - {{server_name: k.example, verify_keys: {{'ed25519:a': {key}}}}}\n"
    );
    let federation = with(&options).federation;
    let (id, old) = federation.old_keys.first_key_value().unwrap();
    assert_eq!((id.as_str(), old.expired.get().into()), ("ed25519:auto", 1_576_767_829_750_u64));
    assert_eq!(federation.trusted_key_servers[0].keys.len(), 1);
    assert_eq!(
        wrong("old_signing_keys: {'ed25519:x': {key: AAAA, expired_ts: 1}}\n"),
        ["old_signing_keys.ed25519:x.key@2"]
    );
    assert_eq!(wrong("trusted_key_servers: [{name: x}]\n"), ["trusted_key_servers[0].server_name@2"]);
}

#[test]
fn refresh_tokens_and_session_lifetimes() {
    let sessions = with("session_lifetime: 1d\n").accounts.sessions;
    assert_eq!((sessions.lifetime, sessions.refreshable_access_token), (Some(24 * 60 * MINUTE), Some(5 * MINUTE)));
    assert_eq!(with("refreshable_access_token_lifetime:\n").accounts.sessions.refreshable_access_token, None);
    with("session_lifetime: 1m\n");
    for key in ["refreshable_access_token_lifetime", "refresh_token_lifetime", "nonrefreshable_access_token_lifetime"] {
        assert_eq!(wrong(&format!("session_lifetime: 1h\n{key}: 2h\n")), [format!("{key}@3")]);
    }
}

#[test]
fn application_services() {
    let files = Files::new();
    let good = "id: irc\nurl: http://localhost:9999/\nas_token: a\nhs_token: h\nsender_localpart: ircbot\nrate_limited: false\n\
                namespaces:\n  users: [{regex: '@irc_.*', exclusive: true}]\n  rooms: []\nprotocols: [irc]\n\
                de.sorunome.msc2409.push_ephemeral: true\n";
    let one = files.write("one.yaml", good);
    let list = |paths: &[&PathBuf]| {
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        format!("{LEAST}app_service_config_files: [{}]\n", paths.join(", "))
    };
    let services = files.load(&list(&[&one])).unwrap().config.federation.appservices;
    let irc = &services[0];
    assert_eq!((irc.id.as_str(), irc.url.as_ref().unwrap().as_str()), ("irc", "http://localhost:9999/"));
    assert!(irc.users[0].exclusive && irc.users[0].regex.matches("@irc_x:example.com"));
    assert!(!irc.users[0].regex.matches("!@irc_x"), "it fits from the beginning");
    assert!(irc.ephemeral && !irc.rate_limited && !irc.device_lists);
    assert!(!format!("{irc:?}").contains("\"a\""));

    let null =
        files.write("null.yaml", "id: b\nurl: null\nas_token: b\nhs_token: h\nsender_localpart: b\nnamespaces: {}\n");
    assert_eq!(files.load(&list(&[&null])).unwrap().config.federation.appservices[0].url, None);

    let mistakes = files.load(&list(&[&one, &one])).unwrap_err();
    assert!(mistakes.to_string().contains("of another registration"), "{mistakes}");
    let bad = files.write(
        "bad.yaml",
        "id: x\nas_token: 7\nhs_token: h\nsender_localpart: 'a b'\nnamespaces: {users: [{regex: '(', exclusive: true}, {regex: x}]}\n",
    );
    let mistakes = files.load(&list(&[&bad, &files.path("gone.yaml")])).unwrap_err();
    let keys: Vec<_> = mistakes.0.iter().map(|m| m.key.rsplit(' ').next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "url",
            "as_token",
            "sender_localpart",
            "namespaces.users[0]",
            "namespaces.users[1]",
            "app_service_config_files[1]"
        ],
        "{mistakes}"
    );
    let text = mistakes.to_string();
    assert!(text.contains("bad.yaml:2: ") && text.contains("gone.yaml"), "{text}");
}
