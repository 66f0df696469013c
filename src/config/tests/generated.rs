//! What is generated can be loaded, is told apart by its secrets, and the sample under `conf/` is fresh.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::*;
use crate::{
    database::Engine,
    generate::{GenerateError, Plan, sample},
    server::Socket,
};

fn env(vars: &[(&str, &str)]) -> Env {
    vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn generate_by_the_variables_of_the_image() {
    let files = Files::new();
    let dir = files.0.path().to_str().unwrap();
    let vars = env(&[
        ("SYNAPSE_SERVER_NAME", "my-example.com"),
        ("SYNAPSE_REPORT_STATS", "no"),
        ("SYNAPSE_CONFIG_DIR", dir),
        ("SYNAPSE_DATA_DIR", dir),
        ("SYNAPSE_HTTP_PORT", "9008"),
        ("SYNAPSE_LOG_LEVEL", "debug"),
        ("SYNAPSE_ENABLE_METRICS", "1"),
    ]);
    let plan = Plan::from_env(&vars).unwrap();
    let written = plan.write(&mut rand::rng()).unwrap();
    assert_eq!(written.made.len(), 3);
    for path in &written.made {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let secret = !path.to_string_lossy().ends_with("log.config");
        assert_eq!(mode & 0o077 == 0, secret, "{}", path.display());
    }

    let Loaded { config, notices } = Config::load(&[files.path("homeserver.yaml")], Env::default()).unwrap();
    assert_eq!(notices, []);
    assert_eq!(config.server.name, "my-example.com");
    assert_eq!(config.server.listeners.len(), 2);
    assert!(matches!(config.server.listeners[0].socket, Socket::Tcp { port: 9008, .. }));
    assert!(config.telemetry.metrics);
    assert_eq!(config.telemetry.log().unwrap().0.root, crate::telemetry::Level::Debug);
    assert_eq!(config.federation.signing_keys.len(), 1);
    assert!(matches!(&config.database.main, Engine::Sqlite { path } if *path == files.path("homeserver.db")));
    let secrets = [config.accounts.registration.shared_secret, config.accounts.macaroon_secret]
        .map(|secret| secret.unwrap().expose().clone());
    assert!(secrets.iter().all(|secret| secret.len() == 43));
    assert!(secrets[0] != secrets[1]);

    let before = fs::read(files.path("homeserver.yaml")).unwrap();
    let again = plan.write(&mut rand::rng()).unwrap();
    assert_eq!((again.made.len(), again.kept.len()), (0, 3), "what exists is left alone");
    assert_eq!(fs::read(files.path("homeserver.yaml")).unwrap(), before);
}

/// As in a container: what is published there has to be open to more than the container itself.
#[test]
fn private_ports_that_are_to_be_open_are_all_open() {
    let files = Files::new();
    let dir = files.0.path().to_str().unwrap();
    let vars = env(&[
        ("SYNAPSE_SERVER_NAME", "a.example"),
        ("SYNAPSE_REPORT_STATS", "no"),
        ("SYNAPSE_CONFIG_DIR", dir),
        ("SYNAPSE_DATA_DIR", dir),
        ("SYNAPSE_ENABLE_METRICS", "1"),
    ]);
    for (open, name) in [(true, "open.yaml"), (false, "shut.yaml")] {
        let plan = Plan { open_private_ports: open, config_path: files.path(name), ..Plan::from_env(&vars).unwrap() };
        plan.write(&mut rand::rng()).unwrap();
        let config = Config::load(&[files.path(name)], Env::default()).unwrap().config;
        assert_eq!(config.server.listeners.len(), 2);
        for listener in config.server.listeners {
            let Socket::Tcp { addresses, .. } = &listener.socket else { panic!("{listener:?}") };
            assert!(
                addresses.iter().all(|ip| if open { ip.is_unspecified() } else { ip.is_loopback() }),
                "{listener:?}"
            );
        }
    }
}

#[test]
fn generate_wants_its_two_variables() {
    let name = ("SYNAPSE_SERVER_NAME", "a.example");
    let plan_fault = |vars: &[(&str, &str)]| match Plan::from_env(&env(vars)) {
        Err(GenerateError::Plan(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(plan_fault(&[]).contains("SYNAPSE_SERVER_NAME"));
    assert!(plan_fault(&[name]).contains("SYNAPSE_REPORT_STATS"));
    assert!(plan_fault(&[name, ("SYNAPSE_REPORT_STATS", "maybe")]).contains("SYNAPSE_REPORT_STATS"));
    let stats = ("SYNAPSE_REPORT_STATS", "yes");
    assert!(plan_fault(&[("SYNAPSE_SERVER_NAME", "a b"), stats]).contains("a b"));
    assert!(plan_fault(&[name, stats, ("SYNAPSE_HTTP_PORT", "x")]).contains("SYNAPSE_HTTP_PORT"));
    assert!(plan_fault(&[name, stats, ("SYNAPSE_LOG_LEVEL", "loud")]).contains("SYNAPSE_LOG_LEVEL"));
    assert_eq!(Plan::from_env(&env(&[name, stats])).unwrap().config_path, Path::new("/data/homeserver.yaml"));
}

#[test]
fn the_first_start_keeps_to_loopback() {
    let files = Files::new();
    let dir = files.path("hearth-data");
    let plan = Plan::first_start(&dir).unwrap();
    plan.write(&mut rand::rng()).unwrap();
    let Loaded { config, notices } = Config::load(&[plan.config_path], Env::default()).unwrap();
    assert_eq!(notices, []);
    assert_eq!(config.server.name, "localhost");
    assert!(!config.server.has_public_baseurl);
    let [listener] = &config.server.listeners[..] else { panic!("{:?}", config.server.listeners) };
    let Socket::Tcp { port: 8008, addresses } = &listener.socket else { panic!("{:?}", listener.socket) };
    assert!(addresses.iter().all(std::net::IpAddr::is_loopback) && !listener.x_forwarded);
    assert!(config.edge.as_ref().is_some_and(|edge| edge.local_ca));
    assert!(matches!(&config.database.main, Engine::Sqlite { path } if *path == dir.join("homeserver.db")));
    assert_eq!(config.media.store_path, dir.join("media_store"));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let files = Files::new();
    let file = files.write("file", "");
    let error = Plan::first_start(&file.join("below")).unwrap().write(&mut rand::rng()).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

/// Written anew by `HEARTH_WRITE_SAMPLE=1 cargo test -p hearth-config`.
#[test]
fn the_sample_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conf/homeserver.yaml");
    if std::env::var_os("HEARTH_WRITE_SAMPLE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, sample()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), sample(), "conf/homeserver.yaml is stale");
}

/// What stands behind a `#` in the sample is valid too, once the `#` is gone.
#[test]
fn the_samples_comments_are_valid_options() {
    let files = Files::new();
    // Prose has one space behind its `#`, options none or more.
    let is_prose =
        |line: &str| line == "#" || line.starts_with("# ") && !line.starts_with("#  ") || line.starts_with("#  #");
    let open: Vec<_> = sample()
        .lines()
        .filter(|line| !is_prose(line))
        .map(|line| line.strip_prefix('#').unwrap_or(line).to_owned())
        .collect();
    // The edge section is checked by whoever owns it.
    let text = open.join("\n");
    let (before, rest) = text.split_once("\nedge:\n").unwrap();
    let after = rest.lines().skip_while(|line| line.starts_with(' ')).collect::<Vec<_>>().join("\n");
    let Loaded { notices, .. } =
        files.load(&format!("{before}\n{after}")).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
    assert!(!notices.iter().any(|notice| notice.sort == NoticeSort::Unknown), "{notices:?}");
}
