//! Databases of our own on the PostgreSQL of this run ([`hearth_test_postgres`]): copies of one that was migrated once.

use std::time::Duration;

use hearth_base::tasks::Supervisor;
use hearth_store::{
    Store,
    db::{Engine, PgConnectOptions},
};
use tokio::sync::OnceCell;

/// A fresh database; `None` where there is no PostgreSQL, which under `CI=true` is a failure.
pub async fn database() -> Option<Engine> {
    static BLANK: OnceCell<()> = OnceCell::const_new();
    let cluster = hearth_test_postgres::shared().await?;
    BLANK
        .get_or_init(async || {
            let blank = engine(cluster.create_named("blank", "template0").await);
            let supervisor = Supervisor::new();
            let store = Store::open(&hearth_store::Settings::new(blank), &supervisor).await.unwrap();
            store.close().await;
            drop(store);
            supervisor.stop(Duration::from_secs(5)).await;
        })
        .await;
    Some(engine(cluster.create(Some("blank")).await))
}

fn engine(options: PgConnectOptions) -> Engine {
    Engine::Postgres { options: Box::new(options), max_connections: 4 }
}
