//! Servers that fail are known without a question, as long as they are few enough to be held in memory.

use super::on_both;
use crate::destinations::Failing;

fn since(failing_ms: i64) -> Failing {
    Failing { failing_ms, retry_ms: failing_ms + 60_000, interval_ms: 60_000 }
}

on_both! {
    async fn every_server_that_fails_is_known_however_many_do(disk) {
        let mut open = disk.open().await;
        for round in 0..3_i64 {
            for n in 0..6_i64 {
                let server = format!("{n}.example");
                // Two of three are well again in the second round.
                let failing = (round != 1 || n % 3 == 0).then(|| since(100 * round + n));
                open.store.set_destination(&server, failing).await.unwrap();
                assert_eq!(open.store.destination(&server).await.unwrap(), failing);
            }
            for again in [false, true] {
                for n in 0..6_i64 {
                    let failing = (round != 1 || n % 3 == 0).then(|| since(100 * round + n));
                    let known = open.store.destination(&format!("{n}.example")).await.unwrap();
                    assert_eq!(known, failing, "round {round}, server {n}, opened again: {again}");
                }
                assert_eq!(open.store.destination("well.example").await.unwrap(), None);
                if !again {
                    open.close().await;
                    open = disk.open().await;
                }
            }
        }
        open.close().await;
    }
}
