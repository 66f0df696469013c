//! What stops a start, and what is only said.

use super::*;

#[test]
fn all_mistakes_are_reported_at_once_with_key_line_value_and_way_out() {
    let text = "
listeners:
  - port: abc
    type: http
  - type: http
enable_search: sometimes
max_upload_size: huge
modules:
  - module: my.Spam
rc_login:
  address: {per_second: fast}
default_room_version: 99
edge:
  unknown_door: true
";
    let mistakes = load(text).unwrap_err();
    let keys: Vec<_> = mistakes.0.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "server_name",
            "listeners[0].port",
            "listeners[1]",
            "enable_search",
            "max_upload_size",
            "modules",
            "rc_login.address.per_second",
            "default_room_version",
            "edge.unknown_door",
        ],
        "{mistakes}"
    );
    let lines: Vec<_> = mistakes.0.iter().map(|m| m.place.as_ref().map_or(0, |place| place.line)).collect();
    assert_eq!(lines, [1, 3, 5, 6, 7, 9, 11, 12, 14]);
    let text = mistakes.to_string();
    assert_eq!(text.lines().count(), 9);
    assert!(text.contains("homeserver.yaml:6: enable_search (now: \"sometimes\") must be true or false"), "{text}");
    assert!(text.contains("homeserver.yaml:9: modules (now: a list of 1) is not possible here"), "{text}");
}

#[test]
fn all_mistakes_of_the_edge_are_reported_and_none_that_only_follows() {
    let text = "edge:
  local_ca: perhaps
  apps:
    - {folder: /a, at: 'https://a.test'}
    - {folder: /b, at: /b, spa: 7, colour: red}
    - {at: /c}
    - {folder: /d, at: /b, headers: {'a b': c}}
    - {folder: /e, at: /b}
  limits: {connections: many, headers: 1, exempt: [nobody, 10.0.0.0/8, me]}
  acme: {eab: {kid: x, key: 7}, challenges: [dns-01, http-01]}
  upstreams: {}
";
    assert_eq!(
        wrong(text),
        [
            "edge.local_ca@3",
            "edge.apps[0].at@5",
            "edge.apps[1].spa@6",
            "edge.apps[1].colour@6",
            "edge.apps[2]@7",
            "edge.apps[3].headers@8",
            "edge.apps[3].at@8",
            "edge.apps[4].at@9",
            "edge.limits.connections@10",
            "edge.limits.exempt[0]@10",
            "edge.limits.exempt[2]@10",
            "edge.limits.headers@10",
            "edge.acme.eab.key@11",
            "edge.acme.challenges[0]@11",
            "edge.upstreams@12",
        ]
    );
    for nothing in ["everything", "[]", "[1]"] {
        assert_eq!(wrong(&format!("edge: {nothing}\n")), ["edge@2"], "{nothing}");
    }
    let lists = "edge: {listen: [], limits: 5, apps: [[]], acme: {eab: []}}\n";
    let told = load(&format!("{LEAST}{lists}")).unwrap_err();
    let keys: Vec<_> = told.0.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["edge.listen", "edge.apps[0]", "edge.acme.eab", "edge.limits"]);
    assert!(told.0.iter().all(|mistake| mistake.fault == "must be a mapping of keys to values"), "{told}");
    let edge =
        with("edge: {local_ca: 'yes', redirect: 0, apps: [{folder: /a, at: /a, spa: 1}], limits: {headers: '50'}}")
            .edge;
    let edge = edge.unwrap();
    assert_eq!((edge.local_ca, edge.redirect, edge.apps[0].spa, edge.limits.headers), (true, Some(false), true, 50));
}

#[test]
fn a_secret_of_the_wrong_type_is_not_shown() {
    let text =
        load(&format!("{LEAST}macaroon_secret_key: 123456\nemail: {{smtp_pass: 77}}\n")).unwrap_err().to_string();
    assert!(!text.contains("123456") && !text.contains("77"), "{text}");
    assert!(text.contains("put it in quotes"), "{text}");
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(load("enable_search: true\n").unwrap_err().0[0].key, "server_name");
    assert_eq!(load("server_name: 'not a name'\n").unwrap_err().0[0].key, "server_name");
}

#[test]
fn open_registration_wants_a_check() {
    assert_eq!(wrong("enable_registration: 'true'\n"), ["enable_registration@2"]);
    for check in [
        "enable_registration_without_verification: 1",
        "registration_requires_token: true",
        "enable_registration_captcha: true",
        "registrations_require_3pid: [email]\nemail: {notif_from: a@b.example}",
    ] {
        assert!(with(&format!("enable_registration: true\n{check}\n")).accounts.registration.open, "{check}");
    }
}

#[test]
fn one_option_needs_another() {
    assert_eq!(wrong("registrations_require_3pid: [email]\n"), ["registrations_require_3pid[0]@2"]);
    assert_eq!(wrong("registrations_require_3pid: [msisdn]\n"), ["registrations_require_3pid[0]@2"]);
    assert_eq!(wrong("email: {smtp_host: mail.example}\n"), ["email.notif_from@2"]);
    assert_eq!(wrong("url_preview_enabled: true\n"), ["url_preview_enabled@2"]);
    assert!(with("url_preview_enabled: true\nurl_preview_ip_range_blacklist: []\n").media.previews.is_some());
    let previews = "url_preview_enabled: true\nurl_preview_ip_range_blacklist: []\n";
    let wrong_preview = |more: &str| wrong(&format!("{previews}{more}\n"));
    assert_eq!(wrong_preview("url_preview_url_blacklist: [{host: x}]"), ["url_preview_url_blacklist[0].host@4"]);
    assert_eq!(wrong_preview("url_preview_url_blacklist: [{path: '^('}]"), ["url_preview_url_blacklist[0].path@4"]);
    assert_eq!(wrong_preview("oembed: {additional_providers: [/nowhere]}"), ["oembed.additional_providers[0]@4"]);
    let consent = "listeners:\n  - port: 8008\n    resources:\n      - names: [client, consent]\n";
    assert_eq!(wrong(consent), ["listeners[0].resources[0].names[1]@5"]);
    let pages = "user_consent: {template_dir: /p, version: 1.0}\n";
    assert_eq!(with(&format!("{consent}{pages}")).rooms.consent.unwrap().version, "1.0");
    let only_shared = "limit_profile_requests_to_users_who_share_rooms: true\n";
    assert_eq!(wrong(only_shared), ["limit_profile_requests_to_users_who_share_rooms@2"]);
    assert!(
        with(&format!("{only_shared}require_auth_for_profile_requests: true\n")).accounts.profiles.only_shared_rooms
    );
    assert_eq!(wrong("autocreate_auto_join_room_preset: private_chat\n"), ["autocreate_auto_join_room_preset@2"]);
    assert_eq!(wrong("account_validity: {enabled: true, period: 6w, renew_at: 1w}\n"), ["account_validity.renew_at@2"]);
    assert_eq!(wrong("account_validity: {enabled: true}\n"), ["account_validity.period@2"]);
    assert_eq!(wrong("server_notices: {room_name: x}\n"), ["server_notices.system_mxid_localpart@2"]);
    assert_eq!(wrong("presence: {idle_timeout: 30s}\n"), ["presence.idle_timeout@2"]);
    assert_eq!(wrong("federation_verify_certificates: false\n"), ["trusted_key_servers[0]@0"]);
    assert_eq!(wrong("default_room_version: '0'\n"), ["default_room_version@2"]);
    assert_eq!(wrong("default_room_version: 13\n"), ["default_room_version@2"]);
}

#[test]
fn delegated_authentication_allows_nothing_beside_it() {
    let delegation = "matrix_authentication_service: {enabled: true, secret: s}\n";
    let accounts = with(delegation).accounts;
    assert_eq!(accounts.passwords.login, crate::accounts::PasswordLogin::Nowhere);
    assert!(!accounts.profiles.change_threepids);
    let own = "password_config: {enabled: true}\nenable_registration: true\nregistration_requires_token: true\n\
               jwt_config: {enabled: true, secret: s, algorithm: HS256}\nsession_lifetime: 1d\nallow_guest_access: true\n\
               login_via_existing_session: {enabled: true}\nenable_3pid_changes: true\n";
    let keys = wrong(&format!("{delegation}{own}"));
    assert_eq!(
        keys,
        [
            "password_config.enabled@3",
            "enable_registration@4",
            "jwt_config.enabled@6",
            "session_lifetime@7",
            "allow_guest_access@8",
            "login_via_existing_session.enabled@9",
            "enable_3pid_changes@10",
        ]
    );
    assert_eq!(wrong("matrix_authentication_service: {enabled: true}\n"), ["matrix_authentication_service.secret@2"]);
}

#[test]
fn refused_options_are_harmless_when_they_ask_for_nothing() {
    with(
        "modules: []\npassword_providers:\nldap_config: {enabled: false}\nworker_app: synapse.app.homeserver\n\
          worker_daemonize: false\noutbound_federation_restricted_to: [main]\naccount_threepid_delegates: {email: null}\n\
          experimental_features: {msc3861: {enabled: false}, msc3866: {}}\nsaml2_config: {config_path: null}\n\
          media_storage_providers:\n  - module: file_system\n    config: {directory: /m}\n\
          oidc_providers:\n  - {idp_id: a, idp_name: A, issuer: 'https://a.example', client_id: c, user_mapping_provider: {module: synapse.handlers.oidc.JinjaOidcMappingProvider}}\n",
    );
    assert_eq!(wrong("worker_app: synapse.app.generic_worker\n"), ["worker_app@2"]);
    assert_eq!(wrong("outbound_federation_restricted_to: [proxy1]\n"), ["outbound_federation_restricted_to@2"]);
    assert_eq!(
        wrong("media_storage_providers:\n  - module: s3_storage_provider.S3\n    config: {directory: /m}\n"),
        ["media_storage_providers[0].module@3"]
    );
    assert_eq!(
        wrong(
            "saml2_config:\n  sp_config:\n    metadata: {}\n    service: {sp: {want_response_signed: false}}\n    logger: {}\n"
        ),
        ["saml2_config.sp_config.service.sp.want_response_signed@5", "saml2_config.sp_config.logger@6"]
    );
}

#[test]
fn options_without_effect_are_named_once_and_only_when_set() {
    let options = "redis: {enabled: true, host: r, port: 6380}\nreport_stats: true\ndaemonize: false\n\
                   instance_map: {main: {host: h, port: 1}}\ncaches: {global_factor: 2.0, expire_caches: true}\nsentry:\n";
    assert_eq!(
        noticed(options, NoticeSort::NoEffect),
        ["redis", "report_stats", "instance_map", "caches.global_factor"]
    );
    let defaults =
        "report_stats: false\nevent_cache_size: 10K\ncaches: {cache_entry_ttl: 30m}\nredis: {enabled: 'false'}\n";
    assert_eq!(noticed(defaults, NoticeSort::NoEffect), [] as [String; 0]);
    let notice = loaded("daemonize: true\n").notices.remove(0);
    assert!(notice.to_string().contains("homeserver.yaml:2: daemonize has no effect here: Hearth stays"), "{notice}");
}

#[test]
fn options_not_yet_in_force_are_named_when_they_are_not_the_default() {
    use crate::known::{self, Class};
    let later = known::rows().find(|row| row.class == Class::Later && row.default == "false" && !row.key.contains('.'));
    // When everything is in force, nothing is left to say.
    let Some(row) = later else { return };
    assert_eq!(noticed(&format!("{}: 'true'\n", row.key), NoticeSort::NotYet), [row.key]);
    assert_eq!(noticed(&format!("{}: off\n", row.key), NoticeSort::NotYet), [] as [String; 0]);
}

#[test]
fn a_server_without_a_socket_is_noticed() {
    for (options, keys) in [
        ("listeners: []\n", &["listeners"][..]),
        ("", &[]),
        ("listeners: []\nedge: {}\n", &[]),
        ("listeners: [{type: http, port: 8008}]\n", &[]),
    ] {
        assert_eq!(noticed(options, NoticeSort::Other), keys, "{options}");
    }
}

#[test]
fn unknown_keys_are_named_and_nothing_more() {
    let options = "enable_serach: false\npresence: {enabled: true, x: {y: 1}}\nlisteners:\n  - {port: 8008, colour: red}\n\
                   experimental_features: {msc9999_enabled: true}\n\
                   extra_well_known_client_content: {anything: goes}\n";
    assert_eq!(
        noticed(options, NoticeSort::Unknown),
        ["enable_serach", "presence.x", "listeners[0].colour", "experimental_features.msc9999_enabled"]
    );
}

#[test]
fn sections_whose_content_is_commented_out_are_empty() {
    with(
        "presence:\nemail:\nretention:\noidc_providers:\nauto_join_rooms:\nlisteners:\nuser_consent:\ndatabase:\nedge:\n\
          trusted_key_servers:\nsso:\nopentracing:\nserver_notices:\n",
    );
    assert_eq!(wrong("enable_search:\n"), ["enable_search@2"]);
}
