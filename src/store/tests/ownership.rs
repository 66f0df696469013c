//! A database that is not ours is refused with one sentence, and nothing is written to it.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use hearth_base::tasks::Supervisor;
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};

use super::Disk;
use crate::{Store, db::Engine};

async fn made_by(sql: &'static str, disk: &Disk) {
    let Engine::Sqlite { path } = &disk.engine else { unreachable!() };
    let mut other: SqliteConnection =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap();
    other.execute(sql).await.unwrap();
    other.close().await.unwrap();
}

/// Opens it, which must fail and leave no trace.
async fn refused(disk: &Disk) -> String {
    let Engine::Sqlite { path } = &disk.engine else { unreachable!() };
    let (before, files) = (std::fs::read(path).unwrap(), files(disk.path()));
    let Err(e) = disk.try_open().await else { panic!("opened {}", path.display()) };
    assert_eq!(std::fs::read(path).unwrap(), before, "the file was written to");
    assert_eq!(self::files(disk.path()), files, "something was left behind");
    e.to_string()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_database_of_a_synapse_is_refused() {
    for journal in ["", "PRAGMA journal_mode = WAL;"] {
        let disk = Disk::sqlite();
        made_by(journal, &disk).await;
        made_by(
            "CREATE TABLE schema_version (version INTEGER); CREATE TABLE applied_schema_deltas (version INTEGER, file TEXT);
             CREATE TABLE events (stream_ordering INTEGER PRIMARY KEY, event_id TEXT); INSERT INTO events VALUES (1, '$a');",
            &disk,
        )
        .await;
        let why = refused(&disk).await;
        assert!(
            why.contains("Synapse") && why.contains("database.args.database") && why.contains("hearth.db"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn any_other_database_and_any_other_file_are_refused() {
    let disk = Disk::sqlite();
    made_by("CREATE TABLE moz_places (id INTEGER)", &disk).await;
    let why = refused(&disk).await;
    assert!(why.contains("another program") && why.contains("moz_places"), "{why}");

    let disk = Disk::sqlite();
    let Engine::Sqlite { path } = &disk.engine else { unreachable!() };
    std::fs::write(path, "server_name: example.org\n").unwrap();
    let why = refused(&disk).await;
    assert!(why.contains("no SQLite database") && why.contains("database.args.database"), "{why}");
}

#[tokio::test]
async fn an_empty_file_is_a_new_database() {
    let disk = Disk::sqlite();
    let Engine::Sqlite { path } = &disk.engine else { unreachable!() };
    std::fs::write(path, "").unwrap();
    disk.open().await.close().await;
    disk.open().await.close().await;
}

super::on_both! {
    async fn a_newer_database_is_refused(disk) {
        let open = disk.open().await;
        let newer = "INSERT INTO hearth_migrations (number, name) VALUES (9999, 'later')";
        open.store.write(move |tx| Box::pin(async move { crate::execute!(tx, newer).map(drop) })).await.unwrap();
        open.close().await;
        let Err(e) = disk.try_open().await else { panic!("opened") };
        assert!(e.to_string().contains("9999") && e.to_string().contains("newer"), "{e}");
    }

    async fn one_process_a_database(disk) {
        let open = disk.open().await;
        let Err(e) = disk.try_open().await else { panic!("opened twice") };
        assert!(e.to_string().contains("in use by another hearth"), "{e}");
        open.close().await;
        disk.open().await.close().await;
    }

    async fn one_process_a_media_folder(disk) {
        let open = disk.open().await;
        let mut draft = open.store.blobs().unwrap().draft();
        draft.push(Bytes::from_static(b"on its way")).await.unwrap();
        // Another database knows nothing of these media, and would have them swept.
        let other = Disk::sqlite();
        let mut settings = other.settings();
        settings.media = disk.settings().media;
        let Err(e) = Store::open(&settings, &Supervisor::new()).await else { panic!("opened twice") };
        assert!(e.to_string().contains("media folder") && e.to_string().contains("media_store_path"), "{e}");
        draft.finish().await.unwrap();
        open.close().await;
        let supervisor = Supervisor::new();
        let store = Store::open(&settings, &supervisor).await.unwrap();
        store.close().await;
        drop(store);
        assert!(supervisor.stop(Duration::from_secs(10)).await);
    }
}

#[tokio::test]
async fn on_postgres_a_synapse_keeps_its_tables() {
    let Some(disk) = Disk::postgres().await else { return };
    let Engine::Postgres { options, .. } = &disk.engine else { unreachable!() };
    let mut synapse = sqlx::PgConnection::connect_with(options).await.unwrap();
    synapse
        .execute(
            "CREATE TABLE schema_version (version BIGINT); CREATE TABLE applied_schema_deltas (version BIGINT);
             CREATE TABLE events (stream_ordering BIGINT, event_id TEXT); CREATE TABLE users (name TEXT);
             INSERT INTO events VALUES (1, '$a'); INSERT INTO users VALUES ('@a:localhost');",
        )
        .await
        .unwrap();
    let open = disk.open().await;
    let user = open.user("bob").await;
    open.write(user, "ours").await.unwrap();
    open.close().await;
    let all = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename";
    let theirs: Vec<String> = sqlx::query_scalar(all).fetch_all(&mut synapse).await.unwrap();
    assert_eq!(theirs, ["applied_schema_deltas", "events", "schema_version", "users"]);
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT event_id FROM public.events UNION ALL SELECT name FROM public.users")
            .fetch_all(&mut synapse)
            .await
            .unwrap();
    assert_eq!(rows, ["$a", "@a:localhost"]);
    let ours: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM hearth.users").fetch_one(&mut synapse).await.unwrap();
    assert_eq!(ours, 1);
}

#[tokio::test]
async fn on_postgres_a_schema_of_somebody_else_is_refused() {
    let Some(disk) = Disk::postgres().await else { return };
    let Engine::Postgres { options, .. } = &disk.engine else { unreachable!() };
    let mut other = sqlx::PgConnection::connect_with(options).await.unwrap();
    other.execute("CREATE SCHEMA hearth; CREATE TABLE hearth.fireplaces (id BIGINT)").await.unwrap();
    let Err(e) = disk.try_open().await else { panic!("opened") };
    assert!(e.to_string().contains("schema `hearth` of another program"), "{e}");
    let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'hearth'")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(tables, 1);
}
