//! Tests of the `edge:` section.
#![allow(clippy::unwrap_used)]

use super::*;

fn read(yaml: &str) -> Result<EdgeConfig, String> {
    serde_yaml::from_str(yaml).map_err(|e| e.to_string())
}

#[test]
fn an_empty_section_opens_the_usual_ports() {
    let edge = read("{}").unwrap();
    assert_eq!(edge.listen.https, Ports::one(443));
    assert_eq!(edge.listen.federation.sockets(&edge.listen.addresses).len(), 2);
    assert!(edge.check().is_empty());
}

#[test]
fn a_whole_section_is_read() {
    let edge = read(
        r#"
listen: {http: false, https: ["127.0.0.1:8443", 9443], federation: "[::1]:8448", addresses: ["::"]}
acme: {email: ops@example.com, domains: [example.com, [a.example.com, b.example.com]], challenges: [tls-alpn-01]}
element: {folder: /srv/element, at: chat.example.com, config: {brand: Ours}}
apps: [{folder: /srv/docs, at: /docs, headers: {X-Robots-Tag: noindex}}]
upstreams: [{at: "example.com/hooks", to: "http://127.0.0.1:9000", strip: true}, {at: /sfu, to: "unix:/run/sfu"}]
admin_api: {allow: [10.0.0.0/8, 192.0.2.7], listeners: [http, 8008]}
proxy_protocol: [192.0.2.10, "fd00::/8"]
limits: {requests_per_address: 50}
"#,
    )
    .unwrap();
    assert!(edge.check().is_empty(), "{:?}", edge.check());
    assert!(edge.listen.http.0.is_empty());
    assert_eq!(edge.listen.https.sockets(&edge.listen.addresses).len(), 2);
    assert_eq!(edge.upstreams[0].at.host.as_deref(), Some("example.com"));
    assert_eq!(edge.admin_api.allow.unwrap()[1].to_string(), "192.0.2.7/32");
    assert_eq!(edge.admin_api.listeners.unwrap(), ["http", "8008"]);
    assert_eq!(edge.proxy_protocol.len(), 2);
    assert_eq!(edge.acme.unwrap().domains.unwrap()[1].list().len(), 2);
}

#[test]
fn sizes_and_times_have_units_as_elsewhere() {
    let edge = read(
        r#"
limits: {body_size: 5M, header_size: 64K, header_timeout: 2m, body_timeout: "30", handshake_timeout: 5s}
upstreams: [{at: /a, to: "http://127.0.0.1:9000", timeout: 1h}, {at: /b, to: "http://127.0.0.1:9000", timeout: null}]
"#,
    )
    .unwrap();
    let limits = &edge.limits;
    assert_eq!((limits.body_size, limits.header_size), (Some(5 << 20), 64 << 10));
    assert_eq!((limits.header_timeout, limits.body_timeout, limits.handshake_timeout), (120, 30, 5));
    assert_eq!((edge.upstreams[0].timeout, edge.upstreams[1].timeout), (Some(3600), None));
    assert_eq!(read("limits: {body_size: 1000}").unwrap().limits.body_size, Some(1000));
    for (wrong, words) in [
        ("limits: {body_size: plenty}", "\"plenty\" is no size"),
        ("limits: {header_size: 5G}", "\"5G\" is no size"),
        ("limits: {body_timeout: -1}", "-1 is no time"),
        ("limits: {body_timeout: soon}", "\"soon\" is no time"),
    ] {
        let why = read(wrong).unwrap_err();
        assert!(why.contains(words), "{wrong}: {why}");
    }
}

#[test]
fn mistakes_are_named() {
    assert!(read("lisen: {}").unwrap_err().contains("lisen"));
    assert!(read("listen: {https: 70000}").unwrap_err().contains("70000"));
    assert!(read("apps: [{folder: /x, at: 'https://a.b/'}]").unwrap_err().contains("scheme"));
    let edge = read(
        r#"
acme: {directory: "http://ca.test/dir", domains: ["*.example.com", localhost, bücher.example], eab: {kid: x}}
upstreams: [{at: /a, to: "ftp://x"}, {at: /b, to: "http://x/y"}, {at: /c, to: "unix:x"}]
limits: {header_size: 10, connections: 0}
well_known: {support: {}}
"#,
    )
    .unwrap();
    for (directory, good) in [
        ("letsencrypt", true),
        ("https://ca.test/dir", true),
        ("letsencript", false),
        ("https:", false),
        ("ca.test/dir", false),
    ] {
        let edge = read(&format!("acme: {{directory: '{directory}'}}")).unwrap();
        assert_eq!(edge.check().is_empty(), good, "{directory}");
    }
    let keys: Vec<_> = edge.check().into_iter().map(|(key, _)| key).collect();
    for key in [
        "edge.acme.directory",
        "edge.acme.domains[0]",
        "edge.acme.domains[1]",
        "edge.acme.domains[2]",
        "edge.acme.eab",
        "edge.upstreams[0].to",
        "edge.upstreams[1].to",
        "edge.upstreams[2].to",
        "edge.limits.header_size",
        "edge.limits.connections",
        "edge.well_known.support",
    ] {
        assert!(keys.iter().any(|k| k == key), "{key} in {keys:?}");
    }
}

#[test]
fn documents_for_others_are_such_as_they_take() {
    for (section, key) in [
        ("{server: 'https://chat.example.com'}", "edge.well_known.server"),
        ("{server: 'chat.example.com/'}", "edge.well_known.server"),
        ("{client: {m.homeserver: 5}}", "edge.well_known.client"),
        ("{client: {m.homeserver: {base_url: chat.example.com}}}", "edge.well_known.client"),
        ("{client: {m.identity_server: {base_url: 'ftp://id.example.com'}}}", "edge.well_known.client"),
        ("{support: {}}", "edge.well_known.support"),
    ] {
        let mistakes = read(&format!("well_known: {section}")).unwrap().check();
        assert!(matches!(&mistakes[..], [(at, _)] if at == key), "{section}: {mistakes:?}");
    }
    for section in [
        "{server: chat.example.com}",
        "{server: '[2001:db8::1]:8448'}",
        "{client: {m.homeserver: {base_url: 'https://chat.example.com'}, org.example: 5}}",
        "{support: {contacts: []}}",
    ] {
        assert_eq!(read(&format!("well_known: {section}")).unwrap().check(), [], "{section}");
    }
}

/// With its entries commented out, a list of those who may must not become "everybody may".
#[test]
fn a_list_or_section_with_nothing_below_it_is_refused() {
    for empty in [
        "admin_api: {allow: }",
        "admin_api: {listeners: }",
        "acme: ",
        "acme: {domains: }",
        "acme: {challenges: }",
        "acme: {eab: }",
        "trusted_proxies: ",
        "proxy_protocol: ",
        "element: ",
        "admin_ui: ",
        "limits: {exempt: }",
        "well_known: {support: }",
    ] {
        let why = read(empty).unwrap_err();
        assert!(why.contains("has nothing below it"), "{empty}: {why}");
    }
    let edge = read("{acme: {}, admin_api: {allow: [], listeners: []}, redirect: null}").unwrap();
    assert!(edge.acme.is_some() && edge.admin_api.allow.is_some_and(|allow| allow.is_empty()));
    assert!(read("{}").unwrap().admin_api.allow.is_none());
}

#[test]
fn a_place_splits_at_segments() {
    let at: At = "Example.com/a/".parse().unwrap();
    assert_eq!((at.host.as_deref(), at.path.as_str()), (Some("example.com"), "/a"));
    assert_eq!(at.below("/a"), Some(""));
    assert_eq!(at.below("/a/b"), Some("/b"));
    assert_eq!(at.below("/ab"), None);
    let root: At = "/".parse().unwrap();
    assert_eq!(root.below("/x"), Some("/x"));
    for bad in ["", "a:1/x", "/a//b", "/a/../b", "https://x"] {
        assert!(bad.parse::<At>().is_err(), "{bad}");
    }
}

#[test]
fn the_sample_is_valid_and_names_every_key() {
    let sample: std::collections::BTreeMap<String, EdgeConfig> = serde_yaml::from_str(SAMPLE).unwrap();
    assert!(sample["edge"].check().is_empty(), "{:?}", sample["edge"].check());
    let all = serde_json::to_value(EdgeConfig::default()).unwrap();
    for key in all.as_object().unwrap().keys() {
        assert!(SAMPLE.contains(&format!("\n  {key}:")), "{key} is not in the sample");
    }
    for key in all["limits"].as_object().unwrap().keys() {
        assert!(SAMPLE.contains(&format!("\n    {key}:")), "limits.{key} is not in the sample");
    }
}
