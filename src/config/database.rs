//! Where the data is: an SQLite file or a PostgreSQL database, told in the terms of Python's drivers.

use std::path::PathBuf;

use crate::{mistakes::NoticeSort, read::At, secret::Secret};

/// Where the data is.
#[derive(Clone, Debug)]
pub struct Database {
    /// The database of everything.
    pub main: Engine,
    /// The one that holds the state tables of a Synapse whose tables were split; Hearth writes to `main` alone.
    pub state: Option<Engine>,
}

/// A database.
#[derive(Clone, Debug)]
pub enum Engine {
    /// A file; `:memory:` for none.
    Sqlite {
        /// Relative to the working directory.
        path: PathBuf,
    },
    /// A PostgreSQL server.
    Postgres(Box<Postgres>),
}

/// How to reach a PostgreSQL server; what is absent is left to libpq's defaults and variables.
#[derive(Clone, Debug, Default)]
pub struct Postgres {
    /// Name or address of the server, or the directory of its socket.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The role.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret<String>>,
    /// A `.pgpass` file to find the password in.
    pub passfile: Option<PathBuf>,
    /// The database.
    pub database: Option<String>,
    /// `disable` … `verify-full`.
    pub sslmode: Option<String>,
    /// CA certificates to check the server by.
    pub sslrootcert: Option<PathBuf>,
    /// Our certificate.
    pub sslcert: Option<PathBuf>,
    /// Its key.
    pub sslkey: Option<PathBuf>,
    /// How we are called in `pg_stat_activity`.
    pub application_name: Option<String>,
    /// Settings of the session, as `-c name=value`.
    pub options: Option<String>,
    /// Connections kept open. The pool of Python's driver has a minimum of 3 and a maximum of 5.
    pub cp_min: u32,
    /// Connections at most.
    pub cp_max: u32,
}

/// Settings of Python's pool without a meaning here; said by everybody, so not worth a line.
const POOL_ONLY: &[&str] = &["cp_reconnect", "cp_noisy", "cp_name", "cp_openfun", "check_same_thread"];

const SSL_MODES: &[(&str, &str)] = &[
    ("disable", "disable"),
    ("allow", "allow"),
    ("prefer", "prefer"),
    ("require", "require"),
    ("verify-ca", "verify-ca"),
    ("verify-full", "verify-full"),
];

impl Database {
    /// In the place of one that could not be read.
    pub(crate) fn nowhere() -> Self {
        Self { main: Engine::Sqlite { path: ":memory:".into() }, state: None }
    }

    pub(crate) fn read(root: &At<'_>) -> Option<Self> {
        let (single, several) = (root.get("database"), root.get("databases"));
        if !several.entries().is_empty() {
            if single.is_set() {
                several.wrong("stands beside database", "keep one of the two");
                return None;
            }
            return Self::several(&several);
        }
        if !single.is_set() {
            return Some(Self { main: Engine::Sqlite { path: "homeserver.db".into() }, state: None });
        }
        Some(Self { main: engine(&single)?, state: None })
    }

    fn several(at: &At<'_>) -> Option<Self> {
        let (mut main, mut state) = (None, None);
        for (_, at) in at.entries() {
            // As in the rows of the table, each entry is read like `database`.
            let engine = engine(&at);
            let stores = at.get("data_stores");
            for store in stores.items() {
                let slot = match store.str().as_str() {
                    "main" => &mut main,
                    "state" => &mut state,
                    _ => continue,
                };
                if slot.is_some() {
                    store.wrong("is in two databases", "each data store is in one database");
                }
                *slot = Some((at.path().to_owned(), engine.clone()));
            }
        }
        let (Some((main_path, main)), Some((state_path, state))) = (main, state) else {
            at.wrong("must hold both data stores, main and state", "add data_stores: [main, state] to one of them");
            return None;
        };
        let apart = main_path != state_path;
        Some(Self { main: main?, state: if apart { Some(state?) } else { None } })
    }
}

fn engine(at: &At<'_>) -> Option<Engine> {
    let name = at.get("name");
    // The entries of `databases` have no row with a default of their own.
    let name = if name.is_set() { name.str() } else { "sqlite3".to_owned() };
    let args = at.get("args");
    match name.as_str() {
        "sqlite3" => {
            let path = args.get("database").opt_path().unwrap_or_else(|| "homeserver.db".into());
            ignore_others(&args, &["database", "cp_min", "cp_max"]);
            Some(Engine::Sqlite { path })
        }
        "psycopg2" => Some(Engine::Postgres(Box::new(Postgres::read(&args)))),
        _ => {
            at.get("name").wrong("is no database we know", "write psycopg2 for PostgreSQL, or sqlite3");
            None
        }
    }
}

impl Postgres {
    fn read(args: &At<'_>) -> Self {
        const READ: &[&str] = &[
            "host",
            "port",
            "user",
            "password",
            "passfile",
            "database",
            "dbname",
            "sslmode",
            "sslrootcert",
            "sslcert",
            "sslkey",
            "application_name",
            "options",
            "cp_min",
            "cp_max",
        ];
        ignore_others(args, READ);
        let (database, dbname) = (args.get("database"), args.get("dbname"));
        if database.is_set() && dbname.is_set() && database.opt_str() != dbname.opt_str() {
            dbname.wrong("differs from args.database", "keep one of the two");
        }
        let number = |key: &str, default: u32| args.get(key).opt_int().unwrap_or(default);
        let sslmode = args.get("sslmode");
        let this = Self {
            host: args.get("host").opt_str().filter(|host| !host.is_empty()),
            port: args.get("port").opt_int(),
            user: args.get("user").opt_str(),
            password: args.get("password").opt_str().map(Secret::new),
            passfile: args.get("passfile").opt_path(),
            database: database.opt_str().or_else(|| dbname.opt_str()),
            sslmode: if sslmode.is_set() { sslmode.word(SSL_MODES).map(str::to_owned) } else { None },
            sslrootcert: args.get("sslrootcert").opt_path(),
            sslcert: args.get("sslcert").opt_path(),
            sslkey: args.get("sslkey").opt_path(),
            application_name: args.get("application_name").opt_str(),
            options: args.get("options").opt_str(),
            cp_min: number("cp_min", 3),
            cp_max: number("cp_max", 5),
        };
        if this.cp_max == 0 || this.cp_min > this.cp_max {
            args.get("cp_max")
                .wrong("must be at least 1 and at least cp_min", "the usual pair is cp_min: 5, cp_max: 10");
        }
        this
    }
}

fn ignore_others(args: &At<'_>, read: &[&str]) {
    for (key, at) in args.entries() {
        if !read.contains(&key.as_str()) && !POOL_ONLY.contains(&key.as_str()) {
            let text = format!("{} has no effect here: Hearth's own driver does not have it.", at.path());
            at.notice(NoticeSort::NoEffect, text);
        }
    }
}
