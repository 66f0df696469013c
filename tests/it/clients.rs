//! Foreign clients on the real program, over TLS from its own authority: matrix-js-sdk with its Rust crypto in Node; the
//! same in two Chromiums, on a page that the server itself serves; a walk over the endpoints. What they do is told in
//! `tests/clients`; here is what they are let loose on.

use std::path::PathBuf;

use hearth_test_postgres::Cluster;
use serde_json::json;

use crate::support::{
    missing, pebble,
    program::{Installation, on_path, script},
};

/// An installation that answers by HTTPS at localhost; its address.
async fn installation() -> (Installation, String) {
    let home = Installation::generate("localhost").await;
    let https = pebble::free();
    let base = format!("https://localhost:{}", https.port());
    let edge = json!({
        "listen": {"http": false, "https": https.to_string(), "federation": false},
        "local_ca": true,
        // Once it is built.
        "element": {"folder": home.path("app"), "config": {"brand": "hearthside"}},
    });
    std::fs::create_dir(home.path("app")).unwrap();
    home.add(&format!("public_baseurl: {base}/\nedge: {edge}\n"));
    (home, base)
}

/// Whether the packages of the lockfile are there. `.ci/run` installs them; a test should not reach for the network.
fn packages_are_there() -> bool {
    let file = |name: &str| std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name));
    let installed = file("node_modules/.installed").is_ok_and(|stamp| stamp == file("package-lock.json").unwrap());
    if !installed {
        missing("no matrix-js-sdk (once: bash tests/clients/node.sh, with npm)");
    }
    installed
}

/// Runs a client's script against a server that lives as long.
async fn run(home: &Installation, base: &str, path: &str, more: &[&str]) {
    let server = home.serve().await;
    let (secret, authority) = (home.setting("registration_shared_secret"), home.path("edge/local-ca.crt"));
    let authority = authority.to_str().unwrap();
    let env = [("CA_FILE", authority), ("NODE_EXTRA_CA_CERTS", authority)];
    let (good, said) = script(path, &[&[base, &secret], more].concat(), &env).await;
    assert!(good, "{said}\nThe server:\n{}", server.told());
    println!("{said}");
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_js_sdk_on_sqlite() {
    if packages_are_there() {
        let (home, base) = installation().await;
        run(&home, &base, "tests/clients/js/run.sh", &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_js_sdk_on_postgres() {
    if !packages_are_there() {
        return;
    }
    let port = pebble::free().port();
    let Some(database) = Cluster::start_on(port).await else { return };
    database.admin("CREATE USER people PASSWORD 'secret'").await;
    database.admin("CREATE DATABASE chat TEMPLATE template0 OWNER people").await;
    let (home, base) = installation().await;
    let args = json!({"user": "people", "password": "secret", "database": "chat", "host": "127.0.0.1", "port": port});
    home.add(&format!("database: {{name: psycopg2, args: {args}}}\n"));
    run(&home, &base, "tests/clients/js/run.sh", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_in_browsers() {
    if !packages_are_there() {
        return;
    }
    for program in ["chromium", "certutil"] {
        if !on_path(program) {
            return missing(&format!("no {program} (Debian: chromium, libnss3-tools)"));
        }
    }
    let (home, base) = installation().await;
    let (good, said) = script("tests/clients/browser/build.sh", &[home.path("app").to_str().unwrap()], &[]).await;
    assert!(good, "{said}");
    run(&home, &base, "tests/clients/browser/run.sh", &[&format!("{base}/")]).await;
}

/// With a tool that is no part of this repository: it stands beside it, or nothing is done, in CI too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_endpoint_of_the_core_is_there() {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("HEARTH_SHARED").map_or_else(beside, PathBuf::from);
    if !shared.join("tools/endpoint-coverage").exists() {
        println!("skipped: no {}/tools/endpoint-coverage", shared.display());
        return;
    }
    let (home, _) = installation().await;
    let base = format!("http://localhost:{}", home.port);
    run(&home, &base, "tests/clients/endpoint_coverage.sh", &[]).await;
}
