//! Old spellings mean what they meant.

use super::*;
use crate::{
    rooms::PresenceMode,
    server::{ListenerKind, Socket},
};

#[test]
fn switches() {
    assert_eq!(with("use_presence: false\n").rooms.presence.mode, PresenceMode::Off);
    assert_eq!(with("use_presence: false\npresence: {enabled: true}\n").rooms.presence.mode, PresenceMode::On);
    let config = with("restrict_public_rooms_to_local_users: false\n");
    assert!(config.rooms.directory.without_auth && config.federation.public_rooms);
    assert!(!with("disable_registration: true\n").accounts.registration.open);
    assert_eq!(wrong("disable_registration: false\n"), ["enable_registration@2"]);
    assert!(!with("start_pushers: false\n").rooms.push.send);
    assert!(with("start_pushers: false\npusher_instances: [p1]\n").rooms.push.send);
    assert!(with("send_federation: false\n").federation.silent);
    assert!(!with("send_federation: false\nfederation_sender_instances: [f1]\n").federation.silent);
}

#[test]
fn limits() {
    let message = with("rc_messages_per_second: 5\nrc_message_burst_count: 7\n").limits.message;
    assert_eq!((message.per_second, message.burst), (5.0, 7.0));
    let message = with("rc_messages_per_second: 5\nrc_message: {burst_count: 9}\n").limits.message;
    assert_eq!((message.per_second, message.burst), (0.2, 9.0), "the new form stands alone");
    let federation = with("federation_rc_window_size: 2000\nfederation_rc_concurrent: 9\n").limits.federation;
    assert_eq!((federation.window.as_millis(), federation.concurrent, federation.sleep_limit), (2000, 9, 10));
}

#[test]
fn other_endings() {
    let denied = |options: &str| with(options).server.outbound.deny.contains(&"10.0.0.0/8".parse().unwrap());
    assert!(denied("ip_range_blocklist: [10.0.0.0/8]\n") && !denied("ip_range_blocklist: []\n"));
    let federation = with("federation_ip_range_blacklist: [1.2.3.4]\n").server.outbound;
    assert!(federation.federation_deny.unwrap().contains(&"1.2.3.4/32".parse().unwrap()));
    assert_eq!(wrong("ip_range_blocklist: []\nip_range_blacklist: []\n"), ["ip_range_blocklist@2"]);
    assert_eq!(with("sso: {client_allowlist: ['https://a.example']}\n").accounts.sso.client_prefixes.len(), 1);
    assert_eq!(with("federation_domain_allowlist: []\n").federation.only, Some(vec![]));
}

#[test]
fn listeners_before_there_was_the_word() {
    let tls = "tls_certificate_path: c\ntls_private_key_path: k\n";
    let listeners =
        with(&format!("bind_port: 8448\nunsecure_port: 8008\nbind_host: 127.0.0.1\nmetrics_port: 9000\n{tls}"))
            .server
            .listeners;
    let port = |socket: &Socket| match socket {
        Socket::Tcp { port, addresses } => (*port, addresses.len()),
        Socket::Unix { .. } => panic!(),
    };
    let seen: Vec<_> = listeners.iter().map(|l| (port(&l.socket), l.tls, l.kind)).collect();
    assert_eq!(
        seen,
        [
            ((8448, 1), true, ListenerKind::Http),
            ((8008, 1), false, ListenerKind::Http),
            ((9000, 1), false, ListenerKind::Metrics)
        ]
    );
    assert_eq!(with("bind_port: 8448\nunsecure_port: 8008\nno_tls: true\n").server.listeners.len(), 1);
    assert_eq!(with("bind_port: 8448\nlisteners: []\n").server.listeners.len(), 0);
    let single = with("listeners: [{port: 1, bind_address: '::1'}]\n").server.listeners;
    assert_eq!(port(&single[0].socket), (1, 1));
}

#[test]
fn sections_that_moved() {
    let key = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";
    let servers =
        with(&format!("perspectives: {{servers: {{k.example: {{verify_keys: {{'ed25519:1': {{key: {key}}}}}}}}}}}\n"))
            .federation
            .trusted_key_servers;
    assert_eq!((servers[0].name.as_str(), servers[0].keys.len()), ("k.example", 1));

    let email = with("email: {notif_from: a@b.example, riot_base_url: 'https://r.example'}\n").accounts.email.unwrap();
    assert_eq!(email.client_base_url, "https://r.example");

    let oidc = with(
        "oidc_config: {enabled: true, issuer: 'https://i.example', client_id: c}\n\
         oidc_providers: [{idp_id: other, idp_name: O, issuer: 'https://o.example', client_id: c}]\n",
    )
    .accounts
    .sso
    .oidc;
    assert_eq!(oidc.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["oidc", "other"]);
    assert!(with("oidc_config: {enabled: false}\n").accounts.sso.oidc.is_empty());

    let prejoin = with("room_invite_state_types: [m.room.name]\n").rooms.prejoin_state;
    assert_eq!((prejoin.defaults, prejoin.more.len()), (false, 1));
}
