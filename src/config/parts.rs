//! Parts of the configuration, for commands that need no more: they run as somebody who may not read the keys of the
//! server, and with files that hold nothing else. What is wrong with the rest is not their affair.

use std::path::PathBuf;

use crate::{
    EdgeConfig, Env, Mistakes, Secret, accounts, check,
    database::{Database, Engine},
    edge_section, files, old,
    read::{At, Cx},
    server::{self, Listener},
};

/// What an account is made with by the shared secret.
#[derive(Clone, Debug)]
pub struct Registering {
    /// The secret, if there is one.
    pub shared_secret: Option<Secret<String>>,
    /// Where the server answers.
    pub listeners: Vec<Listener>,
    /// Its front door.
    pub edge: Option<EdgeConfig>,
    /// The files beside which certificates may be kept: signing key, database, media.
    pub data: Vec<PathBuf>,
}

impl Registering {
    /// Reads it as [`crate::Config::load`] reads the whole.
    ///
    /// # Errors
    /// What is wrong with these options, by file and line.
    pub fn load(paths: &[PathBuf], env: Env) -> Result<Self, Mistakes> {
        read(paths, env, |root| {
            let edge = edge_section::read(root, check::EDGE).config;
            Self {
                shared_secret: accounts::shared_secret(root).0,
                listeners: server::listeners(root),
                data: if edge.as_ref().is_some_and(|edge| edge.local_ca) { data(root) } else { Vec::new() },
                edge,
            }
        })
    }
}

/// What a password is hashed with.
#[derive(Clone, Debug)]
pub struct Hashing {
    /// Appended to each password.
    pub pepper: Option<Secret<String>>,
    /// Cost of bcrypt hashes.
    pub bcrypt_rounds: u32,
}

impl Hashing {
    /// Reads it as [`crate::Config::load`] reads the whole.
    ///
    /// # Errors
    /// What is wrong with these options, by file and line.
    pub fn load(paths: &[PathBuf], env: Env) -> Result<Self, Mistakes> {
        read(paths, env, |root| Self { pepper: accounts::pepper(root), bcrypt_rounds: accounts::bcrypt_rounds(root) })
    }
}

fn data(root: &At<'_>) -> Vec<PathBuf> {
    let dir = &root.cx().dir;
    // Without a path it has a name of its own in the same folder.
    let mut files = vec![root.get("signing_key_path").opt_path().unwrap_or_else(|| dir.join("signing.key"))];
    if let Some(Database { main: Engine::Sqlite { path }, .. }) = Database::read(root) {
        files.push(path);
    }
    files.push(root.get("media_store_path").path_buf());
    files
}

fn read<T>(paths: &[PathBuf], env: Env, part: impl FnOnce(&At<'_>) -> T) -> Result<T, Mistakes> {
    let named = files::named(paths, &env);
    let cx = Cx::new(env, files::directory(&named));
    let mut root = files::read(&named, &cx);
    old::respell(&mut root, &cx);
    old::modernise(&mut root);
    let part = cx.is_readable().then(|| part(&At::root(&cx, &root)));
    match (part, cx.finish().0) {
        (Some(part), mistakes) if mistakes.is_empty() => Ok(part),
        (_, mistakes) => Err(Mistakes(mistakes)),
    }
}
