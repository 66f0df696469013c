//! A private PostgreSQL for the tests of one run: started when the first test asks, gone with the process.
//!
//! PostgreSQL refuses to run as root, so under root it runs as user `postgres`. It listens on a socket in its own
//! directory only. A shell between us and it waits for our end, however that comes, and stops it then. Databases are
//! copies of a template that was migrated once.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
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

struct Cluster {
    socket: PathBuf,
    /// Held open: its end is the end of the cluster.
    _leash: std::process::ChildStdin,
}

/// A fresh database; `None` where there is no PostgreSQL, which under `CI=true` is a failure.
pub async fn database() -> Option<Engine> {
    static CLUSTER: OnceCell<Option<Cluster>> = OnceCell::const_new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(start).await.as_ref()?;
    let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut admin = PgConnection::connect_with(&options(&cluster.socket, "postgres")).await.unwrap();
    let copy = format!("CREATE DATABASE {name} TEMPLATE blank");
    admin.execute(sqlx::AssertSqlSafe(copy)).await.unwrap();
    Some(engine(&cluster.socket, &name))
}

fn options(socket: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new().socket(socket).username("hearth").database(database)
}

fn engine(socket: &Path, database: &str) -> Engine {
    Engine::Postgres { options: Box::new(options(socket, database)), max_connections: 4 }
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
    let data = dir.join("data");
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.args(["--auth=trust", "--username=hearth", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]).arg(&data);
    if let Some((uid, gid)) = owner {
        initdb.uid(uid).gid(gid);
    }
    let made = initdb.current_dir(&dir).output().await.unwrap();
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));

    let script = r#"
        "$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c max_connections=200 >"$2/log" 2>&1 </dev/null &
        server=$!
        cat >/dev/null
        kill -QUIT $server
        wait $server
        rm -rf "$2"
    "#;
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(script).arg("sh").arg(&bin).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
    shell.stderr(Stdio::null()).current_dir("/");
    // A group of its own, so that an interrupt from the keyboard reaches us and not it.
    std::os::unix::process::CommandExt::process_group(&mut shell, 0);
    if let Some((uid, gid)) = owner {
        std::os::unix::process::CommandExt::uid(&mut shell, uid);
        std::os::unix::process::CommandExt::gid(&mut shell, gid);
    }
    let mut child = shell.spawn().unwrap();
    let leash = child.stdin.take().unwrap();
    keep(child);

    let mut admin = connect(&dir).await;
    admin.execute("CREATE DATABASE blank").await.unwrap();
    let supervisor = Supervisor::new();
    let store = Store::open(&hearth_store::Settings::new(engine(&dir, "blank")), &supervisor).await.unwrap();
    store.close().await;
    drop(store);
    supervisor.stop(Duration::from_secs(5)).await;
    Some(Cluster { socket: dir, _leash: leash })
}

/// A child that nobody waits for is no zombie as long as somebody holds it.
fn keep(child: std::process::Child) {
    static CHILD: OnceLock<std::process::Child> = OnceLock::new();
    let _ = CHILD.set(child);
}

async fn connect(socket: &Path) -> PgConnection {
    for _ in 0..300 {
        if let Ok(connection) = PgConnection::connect_with(&options(socket, "postgres")).await {
            return connection;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("PostgreSQL does not come up: {}", std::fs::read_to_string(socket.join("log")).unwrap_or_default());
}
