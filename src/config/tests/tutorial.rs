//! The file that our users bring loads unchanged, with the values that it means.

use std::{path::Path, time::Duration};

use super::*;
use crate::{
    accounts::{EmailTls, Medium, PasswordLogin},
    database::Engine,
    server::{Resource, Socket},
};

const TUTORIAL: &str = include_str!("../../../tests/it/fixtures/tutorial-homeserver.yaml");

#[test]
fn the_tutorials_file() {
    let Loaded { config, notices } = load(TUTORIAL).unwrap_or_else(|mistakes| panic!("{mistakes}"));

    let server = &config.server;
    assert_eq!(server.name, "my-example.com");
    assert_eq!(server.public_baseurl.as_str(), "https://chat.my-example.com/");
    assert_eq!(server.pid_file.as_deref(), Some(Path::new("/data/homeserver.pid")));
    let [listener] = &server.listeners[..] else { panic!("{:?}", server.listeners) };
    let addresses = vec!["::".parse().unwrap(), "0.0.0.0".parse().unwrap()];
    assert_eq!(listener.socket, Socket::Tcp { port: 8008, addresses });
    assert!(listener.x_forwarded && !listener.tls);
    assert_eq!(listener.resources[0].names, [Resource::Client, Resource::Federation, Resource::OpenId]);

    let Engine::Postgres(pg) = &config.database.main else { panic!("{:?}", config.database) };
    assert_eq!((pg.user.as_deref(), pg.database.as_deref()), (Some("synapse_user"), Some("synapse")));
    assert_eq!(pg.password.as_ref().unwrap().expose(), "password");
    assert_eq!((pg.host.as_deref(), pg.port, pg.cp_min, pg.cp_max), (Some("127.0.0.1"), None, 5, 10));

    let accounts = &config.accounts;
    assert!(accounts.registration.open);
    assert_eq!(accounts.registration.required_threepids, [Medium::Email]);
    assert_eq!(accounts.registration.shared_secret.as_ref().unwrap().expose(), "registration-secret");
    assert_eq!(accounts.macaroon_secret.as_ref().unwrap().expose(), "macaroon-secret");
    assert_eq!(accounts.form_secret.as_ref().unwrap().expose(), "form-secret");
    assert_eq!(accounts.passwords.login, PasswordLogin::Everywhere);
    let email = accounts.email.as_ref().unwrap();
    assert_eq!((email.host.as_str(), email.port, email.tls), ("smtp.my-example.com", 587, EmailTls::Offered));
    assert_eq!(email.password.as_ref().unwrap().expose(), "mailer-password");
    assert_eq!(email.from, "Chat <chat@my-example.com>");
    assert_eq!(email.validation_lifetime, Duration::from_secs(900));
    assert!(email.notifications && !email.notify_new_users);
    assert_eq!(email.invite_client.as_ref().unwrap().as_str(), "https://my-example.com/");

    let federation = &config.federation;
    assert_eq!(federation.signing_key_path, Path::new("/data/my-example.com.signing.key"));
    assert_eq!(federation.trusted_key_servers.len(), 1);
    assert_eq!(federation.trusted_key_servers[0].name, "matrix.org");
    assert_eq!(config.media.store_path, Path::new("/data/media_store"));
    assert_eq!(config.media.max_upload_size, 50 << 20);
    assert_eq!(config.telemetry.log_config.as_deref(), Some(Path::new("/data/my-example.com.log.config")));

    // Nothing unknown; what has no effect is named once each, keepalives of another driver among it.
    assert!(!notices.iter().any(|notice| notice.sort == NoticeSort::Unknown), "{notices:?}");
    let no_effect: Vec<_> = notices.iter().filter(|n| n.sort == NoticeSort::NoEffect).map(|n| n.key.as_str()).collect();
    assert_eq!(
        no_effect,
        [
            "database.args.keepalives_idle",
            "database.args.keepalives_interval",
            "database.args.keepalives_count",
            "suppress_key_server_warning",
        ]
    );
    let not_yet: Vec<_> = notices.iter().filter(|n| n.sort == NoticeSort::NotYet).map(|n| n.key.as_str()).collect();
    for key in not_yet {
        assert!(TUTORIAL.contains(&format!("\n{}", key.split('.').next().unwrap())), "{key}");
    }
}

/// Whatever is broken off or torn out of it, the answer is a configuration or mistakes with a place.
#[test]
fn a_torn_file_is_never_more_than_a_mistake() {
    let files = Files::new();
    let mut outcomes = [0, 0];
    let mut look = |text: &str| match files.load(text) {
        Ok(_) => outcomes[0] += 1,
        Err(mistakes) => {
            outcomes[1] += 1;
            assert!(!mistakes.0.is_empty() && mistakes.0.iter().all(|mistake| !mistake.fault.is_empty()));
        }
    };
    for end in (0..TUTORIAL.len()).step_by(11) {
        look(&TUTORIAL[..end]);
    }
    let lines: Vec<&str> = TUTORIAL.lines().collect();
    for torn in 0..lines.len() {
        let rest: Vec<&str> = lines.iter().enumerate().filter(|(i, _)| *i != torn).map(|(_, line)| *line).collect();
        look(&rest.join("\n"));
    }
    assert!(outcomes.iter().all(|n| *n > 10), "{outcomes:?}");
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", load(TUTORIAL).unwrap());
    for secret in ["registration-secret", "macaroon-secret", "form-secret", "mailer-password", "\"password\""] {
        assert!(!text.contains(secret), "{secret}");
    }
}
