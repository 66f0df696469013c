//! A private PostgreSQL for the tests of one run: started when the first test asks, gone with the process.
//!
//! PostgreSQL refuses to run as root, so under root it runs as user `postgres`. It listens on a socket in its own
//! directory, and on a loopback port where a password is asked for. A shell between us and it waits for our end, however
//! that comes, and stops it then. Databases are copies of a template that was migrated once.

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hearth_base::tasks::Supervisor;
use hearth_store::{Store, db::Engine};
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{process::Command, sync::OnceCell};

use super::pebble;

struct Cluster {
    socket: PathBuf,
    port: u16,
    /// Held open: its end is the end of the cluster.
    _leash: std::process::ChildStdin,
}

/// A fresh database; `None` where there is no PostgreSQL, which under `CI=true` is a failure.
pub async fn database() -> Option<Engine> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let cluster = cluster().await?;
    let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let copy = format!("CREATE DATABASE {name} TEMPLATE blank");
    cluster.admin().await.execute(sqlx::AssertSqlSafe(copy)).await.unwrap();
    Some(cluster.engine(&name))
}

/// An empty database as an administrator makes one for a Synapse, with an owner of its own and C locale, to be reached
/// at this port of 127.0.0.1; `None` as in [`database`]. Once for each pair of names.
pub async fn made_by_hand(owner: &str, password: &str, database: &str) -> Option<u16> {
    let cluster = cluster().await?;
    let mut admin = cluster.admin().await;
    let user = format!("CREATE USER {owner} PASSWORD '{password}'");
    admin.execute(sqlx::AssertSqlSafe(user)).await.unwrap();
    let make = format!(
        "CREATE DATABASE {database} ENCODING 'UTF8' LC_COLLATE='C' LC_CTYPE='C' template=template0 OWNER {owner}"
    );
    admin.execute(sqlx::AssertSqlSafe(make)).await.unwrap();
    Some(cluster.port)
}

async fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceCell<Option<Cluster>> = OnceCell::const_new();
    CLUSTER.get_or_init(start).await.as_ref()
}

impl Cluster {
    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new().socket(&self.socket).port(self.port).username("hearth").database(database)
    }

    fn engine(&self, database: &str) -> Engine {
        Engine::Postgres { options: Box::new(self.options(database)), max_connections: 4 }
    }

    async fn admin(&self) -> PgConnection {
        PgConnection::connect_with(&self.options("postgres")).await.unwrap()
    }

    /// An administrator's connection, once the cluster is up.
    async fn up(&self) -> PgConnection {
        for _ in 0..300 {
            if let Ok(connection) = PgConnection::connect_with(&self.options("postgres")).await {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = std::fs::read_to_string(self.socket.join("log")).unwrap_or_default();
        panic!("PostgreSQL does not come up: {log}");
    }
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

async fn start() -> Option<Cluster> {
    let Some(bin) = binaries() else {
        super::missing("no PostgreSQL under /usr/lib/postgresql, so nothing is tested on it");
        return None;
    };
    let dir = tempfile::Builder::new().prefix("hearth-pg-").tempdir().unwrap().keep();
    let owner = servant();
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).unwrap();
    }
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let data = dir.join("data");
    let mut initdb = Command::new(bin.join("initdb"));
    initdb
        .args([
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--username=hearth",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ])
        .arg(&data);
    if let Some((uid, gid)) = owner {
        initdb.uid(uid).gid(gid);
    }
    let made = initdb.current_dir(&dir).output().await.unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));

    let script = r#"
        "$1/postgres" -D "$2/data" -k "$2" -p "$3" -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200 >"$2/log" 2>&1 </dev/null &
        server=$!
        cat >/dev/null
        kill -QUIT $server
        wait $server
        rm -rf "$2"
    "#;
    let port = pebble::free().port();
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(script).arg("sh").arg(&bin).arg(&dir).arg(port.to_string());
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    // A group of its own, so that an interrupt from the keyboard reaches us and not it.
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    if let Some((uid, gid)) = owner {
        std::os::unix::process::CommandExt::uid(&mut shell, uid);
        std::os::unix::process::CommandExt::gid(&mut shell, gid);
    }
    let mut child = shell.spawn().unwrap();
    let leash = child.stdin.take().unwrap();
    keep(child);

    let cluster = Cluster { socket: dir, port, _leash: leash };
    cluster.up().await.execute("CREATE DATABASE blank").await.unwrap();
    let supervisor = Supervisor::new();
    let settings = hearth_store::Settings::new(cluster.engine("blank"));
    let store = Store::open(&settings, &supervisor).await.unwrap();
    store.close().await;
    drop(store);
    supervisor.stop(Duration::from_secs(5)).await;
    Some(cluster)
}

/// A child that nobody waits for is no zombie as long as somebody holds it.
fn keep(child: std::process::Child) {
    static CHILD: OnceLock<std::process::Child> = OnceLock::new();
    let _ = CHILD.set(child);
}
