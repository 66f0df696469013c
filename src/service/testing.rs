//! What the tests of services share: the engine that a test runs on.

use std::path::Path;

use hearth_store::db::Engine;

tokio::task_local! {
    /// Set within a test that runs on PostgreSQL.
    pub(crate) static POSTGRES: Engine;
}

/// The database of a test: that of [`on_both`], else a SQLite file in its folder.
pub(crate) fn engine(dir: &Path) -> Engine {
    POSTGRES.try_with(Clone::clone).unwrap_or_else(|_| Engine::Sqlite { path: dir.join("hearth.db") })
}

/// An empty database on PostgreSQL, where there is one.
pub(crate) async fn postgres() -> Option<Engine> {
    let options = hearth_test_postgres::database().await?;
    Some(Engine::Postgres { options: Box::new(options), max_connections: 4 })
}

/// Runs tests on both engines, as `name::sqlite` and `name::postgres`; they open what [`engine`] names.
macro_rules! on_both {
    ($(async fn $name:ident() $body:block)+) => {$(
        mod $name {
            use super::*;

            async fn story() $body

            #[tokio::test]
            async fn sqlite() {
                story().await;
            }

            #[tokio::test]
            async fn postgres() {
                if let Some(engine) = crate::testing::postgres().await {
                    crate::testing::POSTGRES.scope(engine, story()).await;
                }
            }
        }
    )+};
}
pub(crate) use on_both;
