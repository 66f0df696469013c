//! `database` and `media_store_path`: where the data lives.

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
    if let Some(password) = &config.password {
        options = options.password(password.expose());
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
    Ok(db::Engine::Postgres { options: Box::new(options), max_connections: config.cp_max })
}
