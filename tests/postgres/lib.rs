//! A private PostgreSQL for the tests of one process: started when the first test asks, gone with the process.
//!
//! PostgreSQL refuses to run as root, so under root it runs as user `postgres`. It listens on a socket in its own
//! directory, and on no port but one that a test names ([`Cluster::start_on`]). A shell between us and it waits for our end, however that comes, and stops it then. Tests of every
//! crate use it, so it knows nothing of ours: [`database`] is empty, [`Cluster::copy`] is a copy of a template that the
//! caller filled once. A test that stops the server or fills its disk starts a [`Cluster`] of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "only tests use it")]

use std::{
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

/// A running server with databases that only we know of.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    /// On loopback, for users with a password.
    port: Option<u16>,
    /// Its standard input is held open: its end is the end of the cluster.
    leash: Mutex<Child>,
}

/// An empty database on the cluster that the tests of this process share; `None` where there is no PostgreSQL, which
/// under `CI=true` is a failure.
pub async fn database() -> Option<PgConnectOptions> {
    Some(shared().await?.create(None).await)
}

/// The cluster that the tests of this process share; see [`database`].
pub async fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
    SHARED.get_or_init(Cluster::start).await.as_ref()
}

impl Cluster {
    /// Starts one; see [`database`].
    pub async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// Starts one that listens on a port of 127.0.0.1 too, where a password is asked for; see [`database`].
    pub async fn start_on(port: u16) -> Option<Self> {
        Self::start_with(Some(port)).await
    }

    async fn start_with(port: Option<u16>) -> Option<Self> {
        let Some(bin) = binaries() else {
            assert!(std::env::var("CI").is_err(), "no PostgreSQL under /usr/lib/postgresql");
            println!("skipped: no PostgreSQL under /usr/lib/postgresql, so nothing is tested on it");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("hearth-pg-").tempdir().unwrap().keep();
        let owner = servant();
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        // The shell stops whatever runs there when our end of its input is closed.
        let script = r#"cat >/dev/null; "$1/pg_ctl" -D "$2/data" -m immediate stop >/dev/null 2>&1; rm -rf "$2""#;
        let mut shell = as_servant(Command::new("/bin/sh"), owner);
        shell.arg("-c").arg(script).arg("sh").arg(&bin).arg(&dir).current_dir("/");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own, so that an interrupt from the keyboard reaches us and not it.
        shell.process_group(0);
        let leash = Mutex::new(shell.spawn().unwrap());
        let cluster = Self { dir, bin, owner, port, leash };
        let data = cluster.dir.join("data");
        let doors = ["--auth-local=trust", "--auth-host=scram-sha-256", "--username=hearth"];
        let how = [&doors[..], &["--encoding=UTF8", "--locale=C", "--no-sync", "-D"]].concat();
        let made = cluster.run("initdb", &how, &data).await;
        assert!(made.success(), "initdb: {}", cluster.log());
        cluster.up().await;
        Some(cluster)
    }

    /// How to reach a database of it.
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new().socket(&self.dir).username("hearth").database(database);
        // The socket is called by the port.
        options.port(self.port.unwrap_or(5432))
    }

    /// A new database: empty, or a copy.
    pub async fn create(&self, template: Option<&str>) -> PgConnectOptions {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.create_named(&name, template.unwrap_or("template0")).await
    }

    /// A new database of that name, as a copy of another to which nobody is connected.
    pub async fn create_named(&self, name: &str, template: &str) -> PgConnectOptions {
        self.admin(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        self.options(name)
    }

    /// Runs a statement as the superuser, in the database `postgres`.
    pub async fn admin(&self, statement: &str) {
        let mut admin = PgConnection::connect_with(&self.options("postgres")).await.unwrap();
        admin.execute(sqlx::AssertSqlSafe(statement.to_owned())).await.unwrap();
        admin.close().await.unwrap();
    }

    /// Stops the server as a crash would.
    pub async fn down(&self) {
        assert!(self.run("pg_ctl", &["-m", "immediate", "stop", "-w", "-D"], &self.dir.join("data")).await.success());
    }

    /// Starts it again; returns once it answers.
    pub async fn up(&self) {
        let dir = self.dir.display();
        let (port, listen) = self.port.map_or((5432, ""), |port| (port, "127.0.0.1"));
        let how = format!("-k {dir} -p {port} -c listen_addresses={listen} -c fsync=off -c max_connections=600");
        let log = format!("{dir}/log");
        let (data, how) = (self.dir.join("data"), ["start", "-w", "-t", "60", "-s", "-o", &how, "-l", &log, "-D"]);
        assert!(self.run("pg_ctl", &how, &data).await.success(), "PostgreSQL does not come up: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs one of PostgreSQL's programs on the data, without its output: the server would hold that open.
    async fn run(&self, program: &str, arguments: &[&str], data: &Path) -> ExitStatus {
        let mut command = as_servant(Command::new(self.bin.join(program)), self.owner);
        command.args(arguments).arg(data).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap_or(ExitStatus::from_raw(-1))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut shell = self.leash.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(shell.stdin.take());
        let _ = shell.wait();
    }
}

fn as_servant(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

/// The newest installed.
fn binaries() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists() && bin.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop().map(|(_, bin)| bin)
}

/// User and group that PostgreSQL is to run as, if we are root.
fn servant() -> Option<(u32, u32)> {
    let ours = std::fs::read_to_string("/proc/self/status").ok()?;
    let uid = ours.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_whitespace().next()?;
    if uid != "0" {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|l| l.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
