//! The configuration: a Synapse `homeserver.yaml`, read as Synapse reads it, into values that the server uses.
//!
//! [`Config::load`] finds the files, merges them, holds every option against the table in `known`, and reads the typed
//! sections; it reports all mistakes at once. What an option is, what its default is and whether the server acts on it
//! is told in one place, the rows under `known/`. To add an option: a row there, a field in its section.
//!
//! One section, `edge:`, is ours alone and strict; everywhere else an unknown key is only noticed.

pub mod accounts;
pub mod database;
pub mod edge;
pub mod env;
pub mod federation;
pub mod generate;
pub mod limits;
pub mod media;
pub mod pattern;
pub mod rooms;
pub mod secret;
pub mod server;
pub mod telemetry;

mod check;
mod edge_section;
mod files;
mod known;
mod mistakes;
mod old;
mod parts;
mod read;
#[cfg(test)]
mod tests;
mod units;
mod yaml;

use std::path::PathBuf;

pub use self::{
    accounts::Accounts,
    database::Database,
    edge::EdgeConfig,
    env::Env,
    federation::Federation,
    limits::Limits,
    media::Media,
    mistakes::{Examined, Mistake, Mistakes, Notice, NoticeSort, Place},
    parts::{Hashing, Registering},
    rooms::Rooms,
    secret::Secret,
    server::Server,
    telemetry::Telemetry,
};
use crate::read::{At, Cx};

/// What whoever uses a configuration sees of it.
type Examine<'a> = &'a dyn Fn(&Config) -> Examined;

/// The whole configuration; one field a section.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names, listeners, outgoing requests.
    pub server: Server,
    /// Where the data is.
    pub database: Database,
    /// Registration, passwords, tokens, mail, sign-in elsewhere.
    pub accounts: Accounts,
    /// Other servers, keys, application services.
    pub federation: Federation,
    /// Media.
    pub media: Media,
    /// Rate limits.
    pub limits: Limits,
    /// Rooms, presence, push, directories.
    pub rooms: Rooms,
    /// Logs and metrics.
    pub telemetry: Telemetry,
    /// What a reverse proxy did before: TLS, ACME, static files; `None` where something else does it.
    pub edge: Option<EdgeConfig>,
}

/// A configuration without mistakes, and what is worth a line in the log.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Options without effect, not yet in force or unknown; files that were skipped.
    pub notices: Vec<Notice>,
}

impl Config {
    /// Reads the files, or the directories' `*.yaml`, in this order; without any, those that the environment names in
    /// the manner of Synapse's container image (`SYNAPSE_CONFIG_PATH`, `SYNAPSE_CONFIG_DIR`).
    ///
    /// Writes nothing: a signing key or secret file that is missing is made by [`Config::make_missing`].
    ///
    /// # Errors
    /// All mistakes, by file and line.
    pub fn load(paths: &[PathBuf], env: Env) -> Result<Loaded, Mistakes> {
        Self::load_by(paths, env, None)
    }

    /// Like [`Config::load`], and all that a start looks at besides is among the mistakes: what is wrong with the file of
    /// `log_config`, and what `examine` finds, such as files that are for those to judge who use them. It may be shown a
    /// configuration that has other mistakes, where values that could not be read are some nothing.
    ///
    /// # Errors
    /// All mistakes, by file and line.
    pub fn load_examined(paths: &[PathBuf], env: Env, examine: impl Fn(&Self) -> Examined) -> Result<Loaded, Mistakes> {
        Self::load_by(paths, env, Some(&examine))
    }

    fn load_by(paths: &[PathBuf], env: Env, examine: Option<Examine<'_>>) -> Result<Loaded, Mistakes> {
        let named = files::named(paths, &env);
        let cx = Cx::new(env, files::directory(&named));
        files::check_environment(&cx);
        let mut root = files::read(&named, &cx);
        old::respell(&mut root, &cx);
        check::all(&root, &cx);
        old::modernise(&mut root);
        let config = cx.is_readable().then(|| Self::read(&At::root(&cx, &root), examine)).flatten();
        let (mut mistakes, mut notices) = cx.finish();
        if let (Some(config), Some(_)) = (&config, examine) {
            let named = root.get("log_config").map(|node| node.place.clone());
            let of_log = config.telemetry.log().err().into_iter().flat_map(|of_log| of_log.0);
            mistakes.extend(of_log.map(|one| Mistake { place: one.place.or_else(|| named.clone()), ..one }));
        }
        let order = |place: &Option<Place>| place.as_ref().map(|place| (place.file.clone(), place.line));
        mistakes.sort_by_key(|mistake| order(&mistake.place));
        notices.sort_by_key(|notice| order(&notice.place));
        match config {
            Some(config) if mistakes.is_empty() => Ok(Loaded { config, notices }),
            _ => Err(Mistakes(mistakes)),
        }
    }

    fn read(root: &At<'_>, examine: Option<Examine<'_>>) -> Option<Self> {
        // Each section is read even when another one failed, so that all mistakes are found. Nobody acts by what stands in
        // the place of one.
        let server = Server::read(root);
        let database = Database::read(root).unwrap_or_else(Database::nowhere);
        let accounts = Accounts::read(root);
        let limits = Limits::read(root);
        let media = Media::read(root);
        let rooms = Rooms::read(root);
        let telemetry = Telemetry::read(root);
        let mut edge = edge_section::read(root, check::EDGE);
        let server = server?;
        let federation = Federation::read(root, &server.name);
        let config =
            Self { server, database, accounts, federation, media, limits, rooms, telemetry, edge: edge.config.take() };
        let found = examine.map(|examine| examine(&config)).unwrap_or_default();
        found.mistakes.iter().for_each(|(path, sentence)| edge.wrong(root, path, sentence));
        found.warnings.iter().for_each(|(path, sentence)| edge_section::warn(root, path, sentence));
        Some(config)
    }
}
