//! The store over real databases: every story runs on SQLite and on PostgreSQL, where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, sync::Arc, time::Duration};

use hearth_base::{ids::UserNid, tasks::Supervisor};
use ruma::UserId;

use crate::{
    Settings, Store,
    db::{Engine, PgConnectOptions},
};

mod destinations;
mod faults;
mod names;
mod ownership;
mod pruning;
mod readers;
mod runs;
mod server_keys;
mod sessions;
mod statements;
mod their_keys;

/// Runs a story on both engines, as `name::sqlite` and `name::postgres`.
macro_rules! on_both {
    ($(async fn $name:ident($disk:ident) $body:block)+) => {$(
        mod $name {
            #[allow(unused_imports, reason = "not every story needs what stands around it")]
            use super::*;

            async fn story($disk: crate::tests::Disk) $body

            #[tokio::test]
            async fn sqlite() {
                story(crate::tests::Disk::sqlite()).await;
            }

            #[tokio::test]
            async fn postgres() {
                if let Some(disk) = crate::tests::Disk::postgres().await {
                    story(disk).await;
                }
            }
        }
    )+};
}
pub(crate) use on_both;

/// A place for a database, nothing in it yet.
pub(crate) struct Disk {
    pub(crate) engine: Engine,
    dir: Arc<tempfile::TempDir>,
}

impl Disk {
    pub(crate) fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { engine: Engine::Sqlite { path: dir.path().join("hearth.db") }, dir: Arc::new(dir) }
    }

    pub(crate) async fn postgres() -> Option<Self> {
        Some(Self::on_postgres(hearth_test_postgres::database().await?))
    }

    pub(crate) fn on_postgres(options: PgConnectOptions) -> Self {
        let engine = Engine::Postgres { options: Box::new(options), max_connections: 4 };
        Self { engine, dir: Arc::new(tempfile::tempdir().unwrap()) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::new(self.engine.clone());
        settings.media = Some(self.path().join("media"));
        settings
    }

    pub(crate) async fn open(&self) -> Open {
        self.try_open().await.unwrap()
    }

    pub(crate) async fn try_open(&self) -> hearth_base::Result<Open> {
        let supervisor = Supervisor::new();
        let store = Store::open(&self.settings(), &supervisor).await?;
        Ok(Open { store, supervisor })
    }

    /// A copy of the database as it is now; nobody may have it open.
    pub(crate) async fn backup(&self) -> Self {
        match &self.engine {
            Engine::Sqlite { path } => {
                let copy = Self::sqlite();
                let Engine::Sqlite { path: to } = &copy.engine else { unreachable!() };
                std::fs::copy(path, to).unwrap();
                assert!(!path.with_extension("db-wal").exists(), "closed without a checkpoint");
                copy
            }
            Engine::Postgres { options, .. } => {
                let cluster = hearth_test_postgres::shared().await.unwrap();
                Self::on_postgres(cluster.create(options.get_database()).await)
            }
        }
    }
}

/// An open store.
pub(crate) struct Open {
    pub(crate) store: Store,
    supervisor: Supervisor,
}

impl Open {
    pub(crate) async fn close(self) {
        self.store.close().await;
        drop(self.store);
        assert!(self.supervisor.stop(Duration::from_secs(10)).await);
    }

    pub(crate) async fn user(&self, name: &str) -> UserNid {
        self.store.intern_user(&UserId::parse(format!("@{name}:localhost")).unwrap()).await.unwrap()
    }

    /// Writes something that takes one position.
    pub(crate) async fn write(&self, user: UserNid, text: &str) -> hearth_base::Result<()> {
        let text = format!("{{\"text\":\"{text}\"}}");
        self.store.change_account_data(user, None, "m.test", 100, move |_| Ok(Some(text))).await
    }

    pub(crate) async fn read(&self, user: UserNid) -> Option<String> {
        let data = self.store.account_data(user, None, "m.test").await.unwrap();
        data.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap()["text"].as_str().unwrap().to_owned())
    }
}
