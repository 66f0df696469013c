//! A restored backup gives positions out again; tokens of the history that was lost are told apart.

use hearth_base::ids::StreamPos;

use super::on_both;

on_both! {
    async fn tokens_outlive_a_restart(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        open.write(user, "one").await.unwrap();
        let (boot, pos) = (open.store.boot(), open.store.head());
        assert!(open.store.gave_out(boot, pos));
        assert!(!open.store.gave_out(boot, StreamPos(pos.0 + 1)), "nobody has that yet");
        open.close().await;
        let open = disk.open().await;
        assert_ne!(open.store.boot(), boot);
        assert!(open.store.gave_out(boot, pos));
        open.write(user, "two").await.unwrap();
        assert!(open.store.gave_out(boot, pos));
        assert!(!open.store.gave_out(boot, StreamPos(pos.0 + 1)), "that one was given out by the next run");
        assert!(!open.store.gave_out(boot.wrapping_add(7), StreamPos(1)), "a run that never was");
        open.close().await;
    }

    async fn tokens_of_a_lost_future_are_known_after_the_log_has_grown_past_them(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        open.write(user, "kept").await.unwrap();
        let (first, kept) = (open.store.boot(), open.store.head());
        open.close().await;
        let backup = disk.backup().await;

        // The same run goes on, and another follows; then the backup comes back.
        let open = disk.open().await;
        let second = open.store.boot();
        for n in 0..3 {
            open.write(user, &format!("lost {n}")).await.unwrap();
        }
        let lost = open.store.head();
        assert!(open.store.gave_out(second, lost));
        open.close().await;

        let open = backup.open().await;
        assert_eq!(open.read(user).await.as_deref(), Some("kept"));
        for n in 0..5 {
            open.write(user, &format!("new {n}")).await.unwrap();
        }
        assert!(open.store.head() > lost, "the position was given out again");
        assert!(!open.store.gave_out(second, lost));
        assert!(!open.store.gave_out(second, kept), "the backup has not heard of that run");
        assert!(open.store.gave_out(first, kept));
        assert!(!open.store.gave_out(first, lost));
        open.close().await;
    }

    async fn a_run_that_was_going_on_when_the_backup_was_made_ends_there(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        open.write(user, "kept").await.unwrap();
        let (boot, kept) = (open.store.boot(), open.store.head());
        open.close().await;
        // As a snapshot of the running server would be: the run is noted, its end is not.
        let backup = disk.backup().await;
        let open = backup.open().await;
        assert!(open.store.gave_out(boot, kept));
        open.write(user, "another").await.unwrap();
        assert!(!open.store.gave_out(boot, open.store.head()));
        open.close().await;
    }
}
