//! `hearth doctor`, as an operator runs it: before the first start, beside a running server, and when something is wrong.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use hearth_test_postgres::Cluster;
use serde_json::json;

use crate::support::{pebble, program::Installation};

/// What is in the folder, and since when.
fn files(home: &Installation) -> BTreeMap<PathBuf, SystemTime> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| e.and_then(|e| Ok((e.path(), e.metadata()?.modified()?)));
    std::fs::read_dir(home.path("")).unwrap().map(|e| entry(e).unwrap()).collect()
}

#[tokio::test]
async fn it_says_what_stands_in_the_way() {
    let home = Installation::generate("localhost").await;
    let before = files(&home);
    let said = home.run("doctor", &[]).await.unwrap();
    for line in [
        "ok   database      SQLite: tables are made at the first start",
        "ok   disk",
        "can be listened on",
        "Nothing is in the way.",
    ] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    assert_eq!(files(&home), before, "nothing was written");

    let server = home.serve().await;
    let said = home.run("doctor", &[]).await.unwrap();
    for line in ["tables are up to date; a running hearth has it", "as it should be while hearth runs"] {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
    assert!(server.stop().await.success());

    let taken = std::net::TcpListener::bind(("127.0.0.1", home.port)).unwrap();
    std::fs::write(home.path("homeserver.db"), "no database at all, but something else").unwrap();
    let said = home.run("doctor", &[]).await.unwrap_err();
    drop(taken);
    for line in
        ["BAD  database", "it is no SQLite database", "BAD  port", "is in use by another program", "To be mended: 2."]
    {
        assert!(said.contains(line), "{line} is not in\n{said}");
    }
}

#[tokio::test]
async fn certificates_that_clients_refuse_are_told() {
    let home = Installation::generate("localhost").await;
    let at = pebble::free();
    home.add(&format!(
        "trusted_key_servers: []\nedge:\n  listen: {{http: false, https: '{at}', federation: false}}\n  certificates: \
         [{{cert: own.crt, key: own.key}}]\n"
    ));
    for (from, to, wrong) in
        [(2019, 2020, Some("has run out")), (2999, 3000, Some("does not hold yet")), (2019, 2999, None)]
    {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 3, 1);
        params.not_after = rcgen::date_time_ymd(to, 3, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        home.write("own.crt", &params.self_signed(&key).unwrap().pem());
        home.write("own.key", &key.serialize_pem());
        let said = home.run("doctor", &[]).await;
        match wrong {
            Some(why) => {
                let said = said.unwrap_err();
                assert!(said.contains("BAD  certificates  own.crt (localhost)") && said.contains(why), "{said}");
            }
            None => assert!(said.as_ref().unwrap().contains("days left"), "{said:?}"),
        }
    }
}

#[tokio::test]
async fn it_looks_at_postgresql_without_a_write() {
    let port = pebble::free().port();
    let Some(database) = Cluster::start_on(port).await else { return };
    database.admin("CREATE USER people PASSWORD 'secret'").await;
    database.admin("CREATE DATABASE chat TEMPLATE template0 OWNER people").await;
    let home = Installation::generate("localhost").await;
    let args = json!({"user": "people", "password": "secret", "database": "chat", "host": "127.0.0.1", "port": port});
    home.add(&format!("trusted_key_servers: []\ndatabase: {{name: psycopg2, args: {args}}}\n"));
    for _ in 0..2 {
        let said = home.run("doctor", &[]).await.unwrap();
        assert!(said.contains("PostgreSQL 1") && said.contains("tables are made at the first start"), "{said}");
        assert!(said.contains("agrees with that of the database"), "{said}");
    }
    let server = home.serve().await;
    let said = home.run("doctor", &[]).await.unwrap();
    assert!(said.contains("tables are up to date; a running hearth has it"), "{said}");
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_server_whose_name_is_an_address_is_looked_at_like_any_other() {
    let port = pebble::free().port();
    let home = Installation::generate(&format!("127.0.0.1:{port}")).await;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    home.write("own.crt", &made.cert.pem());
    home.write("own.key", &made.signing_key.serialize_pem());
    home.add(&format!(
        "trusted_key_servers: []\nfederation_custom_ca_list: [own.crt]\nedge:\n  listen: {{http: false, https: false, \
         federation: '127.0.0.1:{port}'}}\n  certificates: [{{cert: own.crt, key: own.key}}]\n"
    ));
    let server = home.serve().await;
    let said = home.run("doctor", &[]).await.unwrap();
    assert!(said.contains("?    federation    127.0.0.1") && said.contains("ip_range_whitelist"), "{said}");
    home.add("ip_range_whitelist: [127.0.0.1/32]\n");
    let said = home.run("doctor", &[]).await.unwrap();
    assert!(said.contains("ok   federation    other servers reach this one"), "{said}");
    assert!(server.stop().await.success());

    // One that answers under our name and is not ours is told from us here as well.
    let server = home.serve().await;
    let key = format!("127.0.0.1:{port}.signing.key");
    home.write(&key, "ed25519 a_1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n");
    let said = home.run("doctor", &[]).await.unwrap_err();
    assert!(said.contains("BAD  federation") && said.contains("another server answers"), "{said}");
    assert!(server.stop().await.success());
}
