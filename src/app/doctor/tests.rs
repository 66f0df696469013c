//! What is made of what was found.
#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn a_clock_is_judged_by_how_far_it_is_off() {
    let day = 86_400_000;
    assert_eq!(judge_clock(day, day + 900, "x.org").state, State::Fine);
    assert!(matches!(judge_clock(day, day + 20_000, "x.org").state, State::Odd(_)));
    let off = judge_clock(2 * day, day, "x.org");
    assert!(matches!(off.state, State::Bad(_)));
    assert_eq!(off.what, "86400 s ahead of that of x.org");
}

#[test]
fn another_server_under_our_name_is_known_by_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("key"), "ed25519 a_1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n").unwrap();
    let yaml = format!("server_name: a.test\nreport_stats: false\nsigning_key_path: {}\n", at("key").display());
    std::fs::write(at("homeserver.yaml"), yaml).unwrap();
    let config = Config::load(&[at("homeserver.yaml")], hearth_config::Env::default()).unwrap().config;
    let publishing = |seed: u8| {
        let signer = hearth_rules::Signer::new(config.server.name.clone(), &[seed; 32], "a_1").unwrap();
        let address = tester::Address {
            address: "192.0.2.1:8448".to_owned(),
            is_fine: true,
            tls: None,
            certificate_names: Vec::new(),
            certificate_issuer: None,
            certificate_expires: None,
            key_ids: Vec::new(),
            keys: [("ed25519:a_1".to_owned(), signer.public_key())].into(),
            software: None,
        };
        tester::Report {
            server_name: "a.test".to_owned(),
            is_fine: true,
            well_known: None,
            host: None,
            addresses: vec![address],
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    };
    assert_eq!(stranger(&config, &publishing(0)).map(|f| f.what), None);
    let found = stranger(&config, &publishing(1)).unwrap();
    assert!(matches!(found.state, State::Bad(_)) && found.what.contains("another server"), "{found}");
}

#[test]
fn the_time_is_read_from_a_header() {
    let mut headers = http::HeaderMap::new();
    assert_eq!(date_ms(&headers), None);
    headers.insert(http::header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
    assert_eq!(date_ms(&headers), Some(784_111_777_000));
    headers.insert(http::header::DATE, "soon".parse().unwrap());
    assert_eq!(date_ms(&headers), None);
}

#[test]
fn the_folder_that_stands_is_found() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(standing(&dir.path().join("a/b/c")), Some(dir.path()));
    assert_eq!(standing(Path::new("not-there/x")), Some(Path::new(".")));
}
