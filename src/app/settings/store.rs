//! `database` and `media_store_path`: where the data lives.

use std::path::PathBuf;

use hearth_base::{Error, Result};
use hearth_config::{
    Config,
    database::{Engine, Postgres},
};
use hearth_store::db;

/// Where the data lives.
///
/// # Errors
/// If the database cannot be reached in the way that is configured.
pub fn store(config: &Config) -> Result<hearth_store::Settings> {
    let engine = match &config.database.main {
        Engine::Sqlite { path } => db::Engine::Sqlite { path: path.clone() },
        Engine::Postgres(postgres) => postgres_engine(postgres)?,
    };
    let mut settings = hearth_store::Settings::new(engine);
    settings.media = config.media.enabled.then(|| config.media.store_path.clone());
    Ok(settings)
}

fn postgres_engine(config: &Postgres) -> Result<db::Engine> {
    let mut options = db::PgConnectOptions::new();
    if let Some(host) = &config.host {
        options = options.host(host);
    }
    if let Some(port) = config.port {
        options = options.port(port);
    }
    if let Some(user) = &config.user {
        options = options.username(user);
    }
    if let Some(database) = &config.database {
        options = options.database(database);
    }
    if let Some(mode) = &config.sslmode {
        let mode = mode.parse().map_err(|e| Error::fault(format!("database.args.sslmode is {mode:?}"), e))?;
        options = options.ssl_mode(mode);
    }
    if let Some(file) = &config.sslrootcert {
        options = options.ssl_root_cert(file);
    }
    if let Some(file) = &config.sslcert {
        options = options.ssl_client_cert(file);
    }
    if let Some(file) = &config.sslkey {
        options = options.ssl_client_key(file);
    }
    if let Some(name) = &config.application_name {
        options = options.application_name(name);
    }
    if let Some(text) = &config.options {
        options = options.options(session_settings(text)?);
    }
    let password = match &config.password {
        Some(password) => Some(password.expose().clone()),
        None => from_passfile(config, &options)?,
    };
    if let Some(password) = password {
        options = options.password(&password);
    }
    Ok(db::Engine::Postgres { options: Box::new(options), max_connections: config.cp_max })
}

/// `-c name=value` or `--name=value`, several of them, as libpq takes them.
fn session_settings(text: &str) -> Result<Vec<(String, String)>> {
    let wrong = || {
        Error::broken(format!(
            "database.args.options is {text:?}: write it as -c name=value, several with spaces between"
        ))
    };
    let mut settings = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("-c") {
            Some("") => words.next(),
            Some(pair) => Some(pair),
            None => word.strip_prefix("--"),
        };
        let (name, value) = pair.and_then(|pair| pair.split_once('=')).ok_or_else(wrong)?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    Ok(settings)
}

/// The password that libpq would find: in `passfile`, or in the file that the environment or the home names.
fn from_passfile(config: &Postgres, options: &db::PgConnectOptions) -> Result<Option<String>> {
    let from_env = || std::env::var_os("PGPASSFILE").map(PathBuf::from);
    let at_home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    let Some(path) = config.passfile.clone().or_else(from_env).or_else(at_home) else { return Ok(None) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // Only the file that the configuration names has to be there.
        Err(e) if config.passfile.is_some() => {
            return Err(Error::fault(
                format!("database.args.passfile names {}, which cannot be read", path.display()),
                e,
            ));
        }
        Err(_) => return Ok(None),
    };
    // A socket is found under `localhost`.
    let host = if options.get_socket().is_some() { "localhost" } else { options.get_host() };
    let user = options.get_username();
    let wanted = [
        host.to_owned(),
        options.get_port().to_string(),
        options.get_database().unwrap_or(user).to_owned(),
        user.to_owned(),
    ];
    Ok(text.lines().find_map(|line| password_of(line, &wanted)))
}

/// The password of a line `host:port:database:user:password`, if the rest fits; `*` fits everything, and a backslash
/// takes `:` and itself literally.
fn password_of(line: &str, wanted: &[String; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let (mut fields, mut field, mut escaped) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                field.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    let fits = fields.len() == 4 && fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    fits.then_some(field)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_password_file_of_libpq() {
        let wanted = ["db.test", "5432", "synapse", "hearth"].map(str::to_owned);
        let of = |line: &str| password_of(line, &wanted);
        assert_eq!(of("db.test:5432:synapse:hearth:secret").as_deref(), Some("secret"));
        assert_eq!(of(r"*:*:*:hearth:se\:cr\\et:x").as_deref(), Some(r"se:cr\et:x"));
        for other in ["#*:*:*:*:x", "db.test:5433:*:*:x", "*:*:*:synapse:x", "*:*:*", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn settings_of_the_session() {
        let pairs = session_settings("-c jit=off  -cwork_mem=8MB --enable_nestloop=on").unwrap();
        let names: Vec<_> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(names, ["jit=off", "work_mem=8MB", "enable_nestloop=on"]);
        for wrong in ["jit=off", "-c", "-c jit", "-x y=z"] {
            assert!(session_settings(wrong).unwrap_err().to_string().contains("database.args.options"), "{wrong}");
        }
    }

    #[test]
    fn a_named_password_file_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, yaml) = (dir.path().join("pass"), dir.path().join("homeserver.yaml"));
        let text = format!(
            "server_name: a.test\nreport_stats: false\nsigning_key_path: {0}/key\ndatabase:\n  name: psycopg2\n  \
             args: {{ host: db.test, user: hearth, database: synapse, passfile: {0}/pass, application_name: mine, options: -c jit=off }}\n",
            dir.path().display()
        );
        std::fs::write(&yaml, text).unwrap();
        let config = Config::load(&[yaml], hearth_config::Env::default()).unwrap().config;
        let said = store(&config).unwrap_err().to_string();
        assert!(said.contains("database.args.passfile") && said.contains("/pass"), "{said}");
        std::fs::write(&path, "# ours\nother:*:*:*:no\ndb.test:*:*:*:yes\n").unwrap();
        let db::Engine::Postgres { options, .. } = store(&config).unwrap().engine else { unreachable!() };
        assert_eq!(options.get_application_name(), Some("mine"));
        assert!(options.get_options().unwrap().contains("jit=off"));
        assert!(format!("{options:?}").contains("yes"), "the password is there");
    }
}
