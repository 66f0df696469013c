//! Which files are read, how they merge, and where secrets come from.

use std::path::Path;

use super::*;
use crate::database::Engine;

fn env(vars: &[(&str, &str)]) -> Env {
    vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_later_file_replaces_a_key_whole() {
    let files = Files::new();
    let one = files.write("1.yaml", "server_name: example.com\npush:\n  include_content: false\n  enabled: false\n");
    let two = files.write("2.yaml", "push:\n  enabled: false\nenable_search: no\n");
    let config = Config::load(&[one, two], Env::default()).unwrap().config;
    assert!(config.rooms.push.include_content, "the first push is gone, not merged");
    assert!(!config.rooms.push.enabled && !config.rooms.search);
}

#[test]
fn a_directory_is_its_yaml_files_in_order() {
    let files = Files::new();
    files.write("b.yaml", "server_name: b.example\n");
    files.write("a.yaml", "server_name: a.example\nenable_search: false\n");
    files.write("c.yml", "server_name: c.example\n");
    files.write("d.yaml.bak", ": not: yaml");
    fs::create_dir(files.path("sub.yaml")).unwrap();
    let loaded = Config::load(&[files.0.path().to_owned()], Env::default()).unwrap();
    assert_eq!(loaded.config.server.name, "b.example");
    assert!(!loaded.config.rooms.search);
    assert_eq!(loaded.notices.iter().filter(|n| n.text.contains("was skipped")).count(), 3);
}

#[test]
fn the_image_names_its_file_by_variables() {
    let files = Files::new();
    let path = files.write("homeserver.yaml", LEAST);
    let of = |name: &str, value: &Path| Config::load(&[], env(&[(name, value.to_str().unwrap())])).is_ok();
    assert!(of("SYNAPSE_CONFIG_PATH", &path));
    assert!(of("SYNAPSE_CONFIG_DIR", files.0.path()));
    assert!(!of("SYNAPSE_CONFIG_PATH", &files.path("none.yaml")));
    assert!(Config::load(&[], Env::default()).unwrap_err().to_string().contains("no configuration is given"));
}

#[test]
fn empty_files_are_skipped_and_broken_ones_are_not() {
    let files = Files::new();
    let (empty, list) = (files.write("empty.yaml", "# nothing\n"), files.write("list.yaml", "[1]\n"));
    let good = files.write("good.yaml", LEAST);
    let loaded = Config::load(&[empty, list, good.clone()], Env::default()).unwrap();
    assert_eq!(loaded.notices.len(), 2);

    fs::write(files.path("latin.yaml"), b"a: 1\nb: \xe4\n").unwrap();
    let broken = files.write("broken.yaml", "a: [\n");
    let mistakes =
        Config::load(&[good, broken, files.path("latin.yaml"), files.path("gone.yaml")], Env::default()).unwrap_err();
    assert_eq!(mistakes.0.len(), 3, "{mistakes}");
    assert!(mistakes.to_string().contains("latin.yaml:2: holds bytes that are not UTF-8"), "{mistakes}");
}

#[test]
fn secrets_come_from_a_file_or_from_the_option() {
    let files = Files::new();
    let path = files.write("secret", "  from the file \n");
    let text = format!("{LEAST}macaroon_secret_key_path: {}\n", path.display());
    let config = files.load(&text).unwrap().config;
    assert_eq!(config.accounts.macaroon_secret.unwrap().expose(), "from the file");

    let mistakes = files.load(&format!("{text}macaroon_secret_key: x\n")).unwrap_err();
    assert_eq!(mistakes.0[0].key, "macaroon_secret_key_path");
    assert!(files.load(&format!("{LEAST}form_secret_path: /nonexistent\n")).is_err());
    let empty = files.write("empty", "\n");
    assert!(files.load(&format!("{LEAST}turn_shared_secret_path: {}\n", empty.display())).is_err());
}

#[test]
fn a_missing_signing_key_and_registration_secret_are_made_once() {
    let files = Files::new();
    let (key, secret) = (files.path("s.key"), files.path("reg.secret"));
    let text =
        format!("{LEAST}signing_key_path: {}\nregistration_shared_secret_path: {}\n", key.display(), secret.display());
    let mut config = files.load(&text).unwrap().config;
    assert!(!key.exists() && !secret.exists(), "reading makes nothing");
    assert!(config.federation.signing_keys.is_empty() && config.accounts.registration.shared_secret.is_none());
    assert_eq!(config.make_missing(&mut rand::rng()).unwrap(), [key.clone(), secret.clone()]);
    assert_eq!(config.make_missing(&mut rand::rng()).unwrap(), [] as [PathBuf; 0]);

    let mut again = files.load(&text).unwrap().config;
    assert_eq!(again.federation.signing_keys, config.federation.signing_keys);
    assert_eq!(again.accounts.registration.shared_secret, config.accounts.registration.shared_secret);
    assert_eq!(again.make_missing(&mut rand::rng()).unwrap(), [] as [PathBuf; 0]);

    let text = format!("{LEAST}signing_key_path: /nonexistent/dir/key\n");
    let mistakes = files.load(&text).unwrap().config.make_missing(&mut rand::rng()).unwrap_err();
    assert!(mistakes.to_string().contains("/nonexistent/dir/key"), "{mistakes}");
}

#[test]
fn the_signing_key_is_looked_for_beside_the_file() {
    let files = Files::new();
    files.write("example.com.signing.key", "ed25519 a_one YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n\ned25519 a_two YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n");
    let config = files.load(LEAST).unwrap().config;
    let versions: Vec<_> = config.federation.signing_keys.iter().map(|key| key.version.as_str()).collect();
    assert_eq!(versions, ["a_one", "a_two"]);

    files.write("example.com.signing.key", "ed25519 a_one AAAA\nnonsense\n");
    let mistakes = files.load(LEAST).unwrap_err();
    assert!(mistakes.to_string().contains("line 1"), "{mistakes}");
    files.write("example.com.signing.key", "\n");
    assert!(files.load(LEAST).unwrap_err().to_string().contains("holds no key"));
}

#[test]
fn proxies_come_from_the_file_or_the_environment() {
    let files = Files::new();
    let path = files.write("homeserver.yaml", &format!("{LEAST}http_proxy: file:1\n"));
    let env = env(&[("http_proxy", "env:1"), ("HTTPS_PROXY", "env:2"), ("no_proxy", "a.example, 10.0.0.0/8")]);
    let outbound = Config::load(&[path], env).unwrap().config.server.outbound;
    assert_eq!(outbound.http_proxy.as_deref(), Some("file:1"));
    assert_eq!(outbound.https_proxy.as_deref(), Some("env:2"));
    assert_eq!(outbound.no_proxy, ["a.example", "10.0.0.0/8"]);
}

#[test]
fn the_image_has_variables_of_its_own() {
    let files = Files::new();
    let path = files.write("homeserver.yaml", LEAST);
    let load = |vars: &[(&str, &str)]| Config::load(std::slice::from_ref(&path), env(vars));
    let outbound =
        load(&[("SYNAPSE_HTTPS_PROXY", "image:1"), ("https_proxy", "env:1")]).unwrap().config.server.outbound;
    assert_eq!(outbound.https_proxy.as_deref(), Some("image:1"));
    assert!(load(&[("SYNAPSE_WORKER", "synapse.app.homeserver")]).is_ok());
    let mistakes = load(&[("SYNAPSE_WORKER", "synapse.app.generic_worker")]).unwrap_err();
    assert_eq!(mistakes.0[0].key, "SYNAPSE_WORKER");
}

#[test]
fn databases() {
    let sqlite = |config: &Config| match &config.database.main {
        Engine::Sqlite { path } => path.clone(),
        Engine::Postgres(_) => panic!("not SQLite"),
    };
    assert_eq!(sqlite(&with("")), Path::new("homeserver.db"));
    assert_eq!(sqlite(&with("database: {name: sqlite3, args: {database: /x.db}}\n")), Path::new("/x.db"));
    assert_eq!(sqlite(&with("database_path: /old.db\n")), Path::new("/old.db"));

    let config = with(
        "database: {name: psycopg2, args: {dbname: d, password: 1234, port: '5433', sslmode: require, cp_reconnect: true}}\n",
    );
    let Engine::Postgres(pg) = config.database.main else { panic!() };
    assert_eq!((pg.database.as_deref(), pg.port, pg.sslmode.as_deref()), (Some("d"), Some(5433), Some("require")));
    assert_eq!(pg.password.unwrap().expose(), "1234");
    assert_eq!((pg.cp_min, pg.cp_max), (3, 5));

    let split = "databases:\n  one: {name: sqlite3, args: {database: m}, data_stores: [main]}\n  two: {name: sqlite3, args: {database: s}, data_stores: [state]}\n";
    let config = with(split);
    assert_eq!(sqlite(&config), Path::new("m"));
    assert!(matches!(config.database.state, Some(Engine::Sqlite { path }) if path == Path::new("s")));
    let config = with("databases:\n  all: {name: sqlite3, args: {database: m}, data_stores: [main, state]}\n");
    assert!(config.database.state.is_none());

    assert_eq!(wrong("database: {name: mysql}\n"), ["database.name@2"]);
    assert_eq!(wrong("database: {name: psycopg2, args: {cp_min: 9, cp_max: 4}}\n"), ["database.args.cp_max@2"]);
    assert_eq!(wrong("database: {name: psycopg2, args: {sslmode: maybe}}\n"), ["database.args.sslmode@2"]);
    assert_eq!(wrong("databases:\n  one: {name: sqlite3, data_stores: [main]}\n"), ["databases@3"]);
    assert_eq!(
        noticed("database: {name: psycopg2, args: {service: x}}\n", NoticeSort::NoEffect),
        ["database.args.service"]
    );
}
