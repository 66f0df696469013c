//! What nobody needs any more goes, bounded at a time, and nothing else.

use std::time::{Duration, SystemTime};

use hearth_base::ids::{RoomNid, StreamPos, UserNid};

use super::{Open, on_both};
use crate::{execute, fetch_all};

async fn run(open: &Open, statement: &'static str) {
    open.store.write(move |tx| Box::pin(async move { execute!(tx, statement).map(drop) })).await.unwrap();
}

async fn numbers(open: &Open, statement: &'static str) -> Vec<i64> {
    let rows: Vec<(i64,)> = fetch_all!(&mut open.store.read().await.unwrap(), (i64,), statement).unwrap();
    rows.into_iter().map(|r| r.0).collect()
}

on_both! {
    async fn the_log_goes_by_age_and_in_pieces(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        const LOG: &str = "SELECT pos FROM log ORDER BY pos";
        for _ in 0..5 {
            open.write(user, "x").await.unwrap();
        }
        assert_eq!(open.store.mark_log(1_000, 500).await.unwrap(), None, "nothing is known to be so old");
        for _ in 0..3 {
            open.write(user, "y").await.unwrap();
        }
        assert_eq!(open.store.mark_log(2_000, 1_500).await.unwrap(), Some(StreamPos(5)));
        assert_eq!(open.store.prune_log(StreamPos(5), 3).await.unwrap(), 3);
        assert_eq!(numbers(&open, LOG).await, [4, 5, 6, 7, 8]);
        assert_eq!(open.store.prune_log(StreamPos(5), 3).await.unwrap(), 2);
        assert_eq!(open.store.prune_log(StreamPos(5), 3).await.unwrap(), 0);
        assert_eq!(numbers(&open, LOG).await, [6, 7, 8]);
        open.close().await;
        // Positions go on where they were.
        let open = disk.open().await;
        assert_eq!(open.store.head(), StreamPos(8));
        open.write(user, "z").await.unwrap();
        assert_eq!(numbers(&open, LOG).await, [6, 7, 8, 9]);
        assert_eq!(open.store.mark_log(9_000, 2_500).await.unwrap(), Some(StreamPos(8)));
        open.close().await;
    }

    async fn push_actions_go_once_read_by_all_whom_they_concern(disk) {
        let open = disk.open().await;
        // Two of ours in room 7: one has read up to 20, the other nothing since 10; a third is gone; 9 has read all.
        run(&open, "INSERT INTO memberships (room_nid, user_nid, membership, event_nid, pos, local, forgotten) VALUES (7, 1, 'join', 1, 5, TRUE, FALSE), (7, 2, 'join', 2, 10, TRUE, FALSE), (7, 3, 'leave', 3, 6, TRUE, FALSE), (7, 4, 'join', 4, 1, FALSE, FALSE), (8, 1, 'join', 5, 2, TRUE, FALSE)").await;
        run(&open, "INSERT INTO read_positions (room_nid, user_nid, thread, pos, counter) VALUES (7, 1, '', 20, 0), (8, 1, '', 90, 0), (7, 2, 'main', 80, 0)").await;
        for (user, room) in [(0, 7), (1, 7), (2, 7), (3, 7), (1, 8)] {
            for pos in [8, 15, 25, 40] {
                open.store.write(move |tx| Box::pin(async move {
                    execute!(tx, "INSERT INTO push_actions (user_nid, room_nid, pos, event_nid, thread, counted, notify, highlight, actions) VALUES ($1, $2, $3, 1, 'main', TRUE, TRUE, FALSE, '[]')", user, room, pos)
                })).await.unwrap();
            }
        }
        let (mut behind, mut rounds) = ((UserNid(-1), RoomNid(0)), 0);
        while let Some(last) = open.store.prune_push_actions(behind, StreamPos(30), 2).await.unwrap() {
            behind = last;
            rounds += 1;
        }
        assert_eq!(rounds, 3);
        const OF: [&str; 5] = [
            "SELECT pos FROM push_actions WHERE user_nid = 0 AND room_nid = 7 ORDER BY pos",
            "SELECT pos FROM push_actions WHERE user_nid = 1 AND room_nid = 7 ORDER BY pos",
            "SELECT pos FROM push_actions WHERE user_nid = 2 AND room_nid = 7 ORDER BY pos",
            "SELECT pos FROM push_actions WHERE user_nid = 3 AND room_nid = 7 ORDER BY pos",
            "SELECT pos FROM push_actions WHERE user_nid = 1 AND room_nid = 8 ORDER BY pos",
        ];
        assert_eq!(numbers(&open, OF[0]).await, [15, 25, 40], "the last of all has read up to 10");
        assert_eq!(numbers(&open, OF[1]).await, [25, 40]);
        assert_eq!(numbers(&open, OF[2]).await, [15, 25, 40], "what came before the join does not concern them");
        assert_eq!(numbers(&open, OF[3]).await, [40], "who is gone has nothing unread, but it is not old yet");
        assert_eq!(numbers(&open, OF[4]).await, [40], "read, but not old yet");
        open.close().await;
    }

    async fn what_was_redacted_is_kept_for_a_while(disk) {
        let open = disk.open().await;
        for at in 1..=5_i64 {
            open.store.write(move |tx| Box::pin(async move {
                execute!(tx, "INSERT INTO redacted_events (event_nid, redacted_ms, json) VALUES ($1, $2, $3)", at, at * 100, &b"{}"[..])
            })).await.unwrap();
        }
        assert_eq!(open.store.prune_redacted(400, 2).await.unwrap(), 2);
        assert_eq!(open.store.prune_redacted(400, 2).await.unwrap(), 1);
        assert_eq!(numbers(&open, "SELECT event_nid FROM redacted_events ORDER BY event_nid").await, [4, 5]);
        open.close().await;
    }

    async fn bytes_without_a_row_go_and_others_stay(disk) {
        let open = disk.open().await;
        let blobs = open.store.blobs().unwrap().clone();
        let orphan = blobs.keep("nobody's".into()).await.unwrap().name;
        let medium = blobs.keep("somebody's".into()).await.unwrap().name;
        let small = blobs.keep("a thumbnail's".into()).await.unwrap().name;
        for (statement, blob) in [
            ("INSERT INTO media (server_name, media_id, blob, size, created_ms, accessed_ms, protected, authenticated) VALUES ('localhost', 'a', $1, 1, 1, 1, FALSE, TRUE)", medium),
            ("INSERT INTO thumbnails (server_name, media_id, width, height, method, animated, content_type, blob, size) VALUES ('localhost', 'a', 1, 1, 'crop', FALSE, 'image/png', $1, 1)", small),
        ] {
            open.store.write(move |tx| Box::pin(async move { execute!(tx, statement, blob.to_string()) })).await.unwrap();
        }
        let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let day = i64::try_from(Duration::from_secs(86_400).as_millis()).unwrap();
        let sweep = async |before| {
            let mut gone = 0;
            for folder in 0..=255 {
                gone += open.store.sweep_blobs(folder, before).await.unwrap();
            }
            gone
        };
        assert_eq!(sweep(now - day).await, 0, "it may be on its way to a row");
        assert_eq!(sweep(now + day).await, 1);
        assert!(blobs.read(orphan, None).await.unwrap().is_none());
        assert!(blobs.read(medium, None).await.unwrap().is_some());
        assert!(blobs.read(small, None).await.unwrap().is_some());
        open.close().await;
    }
}
