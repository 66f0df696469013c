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
