//! Connections for reading: few, kept at hand, and replaced when they are of no use any longer.

use std::time::Duration;

use super::on_both;
use crate::{fetch_all, fetch_optional};

/// A statement that takes its time on either engine.
const SLOW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT CAST(MAX(i) AS BIGINT) FROM n";
const ECHO: &str = "SELECT CAST($1 AS BIGINT)";

on_both! {
    async fn who_breaks_off_in_the_middle_leaves_nothing_to_the_next(disk) {
        let open = disk.open().await;
        for n in 0..5_i64 {
            let broken_off = async {
                let mut session = open.store.read().await.unwrap();
                fetch_all!(&mut session, (i64,), SLOW).map(drop)
            };
            assert!(tokio::time::timeout(Duration::from_millis(1), broken_off).await.is_err());
            let row: Option<(i64,)> =
                fetch_optional!(&mut open.store.read().await.unwrap(), (i64,), ECHO, n).unwrap();
            assert_eq!(row, Some((n,)));
        }
        open.close().await;
    }

    async fn more_readers_than_connections_wait_for_each_other(disk) {
        let open = disk.open().await;
        let readers: Vec<_> = (0..200_i64)
            .map(|n| {
                let store = open.store.clone();
                tokio::spawn(async move {
                    let mut session = store.read().await.unwrap();
                    tokio::task::yield_now().await;
                    let row: Option<(i64,)> = fetch_optional!(&mut session, (i64,), ECHO, n).unwrap();
                    row == Some((n,))
                })
            })
            .collect();
        for reader in readers {
            assert!(reader.await.unwrap());
        }
        open.close().await;
    }

    async fn a_statement_that_fails_costs_nobody_else_anything(disk) {
        let open = disk.open().await;
        for _ in 0..30 {
            let mut session = open.store.read().await.unwrap();
            assert!(fetch_all!(&mut session, (i64,), "SELECT nothing FROM nowhere").is_err());
            drop(session);
            open.store.ping().await.unwrap();
        }
        open.close().await;
    }

    async fn a_connection_that_comes_back_soon_is_waited_for_and_one_that_does_not_is_not(disk) {
        let mut waited = false;
        // On a machine that stands still for longer than it is waited, another is opened.
        for _ in 0..5 {
            let open = disk.open().await;
            let held = open.store.read().await.unwrap();
            let before = open.store.inner.db.connections();
            let (next, ()) = tokio::join!(open.store.read(), async { drop(held) });
            waited |= open.store.inner.db.connections() == before;
            let beside = open.store.read().await.unwrap();
            drop((next, beside));
            open.close().await;
        }
        assert!(waited);
    }
}
