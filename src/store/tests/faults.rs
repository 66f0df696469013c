//! What a failing disk does to writers: an error, nothing half done, and all well once the fault has passed.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use hearth_base::{Error, Result, ids::UserNid};
use hearth_test_postgres::Cluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{Disk, Open, on_both};
use crate::{
    db::{Engine, HasSession, PgConnectOptions},
    log::Change,
};

/// Waits for what happens by itself.
async fn soon(what: &str, mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never happened: {what}");
}

/// Runs statements on the writer's own connection.
async fn on_writer(open: &Open, text: &'static str) -> Result<()> {
    let work = open.store.write(move |tx| {
        Box::pin(async move {
            tx.ready().await?;
            tx.session().batch(text.to_owned()).await
        })
    });
    work.await
}

/// Counts what the subscriber hears, and remembers the newest position.
fn listen(open: &Open) -> Arc<AtomicI64> {
    let heard = Arc::new(AtomicI64::new(0));
    let seen = heard.clone();
    open.store.subscribe(Box::new(move |changes| {
        seen.fetch_max(changes.last().map_or(0, |l| l.pos.0), Ordering::SeqCst);
        Box::new(|| {})
    }));
    heard
}

on_both! {
    async fn a_job_that_fails_leaves_nothing(disk) {
        let open = disk.open().await;
        let heard = listen(&open);
        let user = open.user("alice").await;
        open.write(user, "before").await.unwrap();
        assert_eq!(open.read(user).await.as_deref(), Some("before"));
        let head = open.store.head();
        let failing = open.store.write(move |tx| {
            Box::pin(async move {
                tx.put_account_data(user, None, "m.test", Some("{\"text\":\"after\"}")).await?;
                tx.log(Change::DeviceList { user, device: true });
                Err::<(), _>(Error::forbidden("no"))
            })
        });
        // Together with others, so that it runs in a savepoint.
        let (failed, a, b) = tokio::join!(failing, open.write(user, "a"), open.write(user, "b"));
        assert_eq!(failed.unwrap_err().errcode(), "M_FORBIDDEN");
        a.unwrap();
        b.unwrap();
        assert_eq!(open.store.head().0, head.0 + 2);
        assert_eq!(heard.load(Ordering::SeqCst), head.0 + 2);
        assert_eq!(open.read(user).await.as_deref(), Some("b"));
        open.close().await;
    }

    async fn a_job_that_panics_does_not_end_the_writer(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        open.write(user, "before").await.unwrap();
        let head = open.store.head();
        let panicking = open.store.write(move |tx| {
            Box::pin(async move {
                tx.put_account_data(user, None, "m.test", Some("{\"text\":\"half\"}")).await?;
                if user.0 != 0 {
                    panic!("on purpose");
                }
                Ok(())
            })
        });
        assert_eq!(panicking.await.unwrap_err().status(), 503);
        assert_eq!((open.read(user).await.as_deref(), open.store.head()), (Some("before"), head));
        open.write(user, "after").await.unwrap();
        assert_eq!((open.read(user).await.as_deref(), open.store.head().0), (Some("after"), head.0 + 1));
        open.close().await;
    }

    async fn a_listener_that_panics_costs_nobody_their_answer(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        open.store.subscribe(Box::new(|_| panic!("on purpose")));
        open.write(user, "one").await.unwrap();
        open.write(user, "two").await.unwrap();
        assert_eq!(open.read(user).await.as_deref(), Some("two"));
        open.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_passes_on_sqlite() {
    let disk = Disk::sqlite();
    let open = disk.open().await;
    let heard = listen(&open);
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    let head = open.store.head();
    // No page more than there are.
    on_writer(&open, "PRAGMA max_page_count = 1").await.unwrap();
    let long = "x".repeat(1 << 20);
    let new = open.user("new").await;
    let (a, b, c) = tokio::join!(open.write(user, &long), open.write(user, &long), open.write(new, &long));
    for e in [a.unwrap_err(), b.unwrap_err(), c.unwrap_err()] {
        assert_eq!(e.status(), 503, "{e}");
    }
    assert_eq!(open.read(user).await.as_deref(), Some("before"));
    assert_eq!((open.store.head(), heard.load(Ordering::SeqCst)), (head, head.0));
    // The fault passes: names that waited are stored, and nothing of what failed is there.
    on_writer(&open, "PRAGMA max_page_count = 1000000").await.unwrap();
    open.write(new, "room again").await.unwrap();
    open.write(user, &long).await.unwrap();
    assert_eq!(open.store.head().0, head.0 + 2);
    open.close().await;
    let open = disk.open().await;
    assert_eq!(open.user("new").await, new);
    assert_eq!(open.read(new).await.as_deref(), Some("room again"));
    open.close().await;
}

#[tokio::test]
async fn a_full_disk_passes_on_postgres() {
    let Some(disk) = Disk::postgres().await else { return };
    let open = disk.open().await;
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    let head = open.store.head();
    on_writer(
        &open,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON account_data EXECUTE FUNCTION full_disk()",
    )
    .await
    .unwrap();
    let new = open.user("new").await;
    for _ in 0..3 {
        let (a, b, c) = tokio::join!(open.write(user, "1"), open.write(new, "2"), open.write(user, "3"));
        for e in [a.unwrap_err(), b.unwrap_err(), c.unwrap_err()] {
            assert_eq!(e.status(), 503, "{e}");
        }
        assert_eq!((open.read(user).await.as_deref(), open.store.head()), (Some("before"), head));
    }
    on_writer(&open, "DROP TRIGGER full_disk ON account_data").await.unwrap();
    open.write(new, "room again").await.unwrap();
    assert_eq!((open.read(new).await.as_deref(), open.store.head().0), (Some("room again"), head.0 + 1));
    open.close().await;
}

#[tokio::test]
async fn a_postgres_that_was_restarted_is_found_again() {
    let Some(cluster) = Cluster::start().await else { return };
    let disk = Disk::on_postgres(cluster.create(None).await);
    let open = disk.open().await;
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    for n in 0..2 {
        let known = open.read(user).await;
        cluster.down().await;
        assert_eq!(open.read(user).await, known, "what is remembered can be read all the time");
        let (during, ()) = tokio::join!(open.write(user, "during"), cluster.up());
        // It may have waited for the server, or been refused; nothing else.
        if let Err(e) = during {
            assert_eq!(e.status(), 503, "{e}");
        }
        let text = format!("after {n}");
        open.write(user, &text).await.unwrap();
        assert_eq!(open.read(user).await, Some(text));
        // Readers whose connection died are given another.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        for _ in 0..8 {
            open.store.ping().await.unwrap();
        }
    }
    open.close().await;
}

#[tokio::test]
async fn a_postgres_that_is_known_to_be_away_is_waited_for_by_nobody() {
    let Some(cluster) = Cluster::start().await else { return };
    let disk = Disk::on_postgres(cluster.create(None).await);
    let open = disk.open().await;
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    cluster.down().await;
    // It may be back in a moment, so the first wait for it.
    let (written, read) = tokio::join!(open.write(user, "first"), open.store.ping());
    assert_eq!((written.unwrap_err().status().as_u16(), read.unwrap_err().status().as_u16()), (503, 503));
    let begun = Instant::now();
    for n in 0..10 {
        let text = format!("later {n}");
        let (written, one, two) = tokio::join!(open.write(user, &text), open.store.ping(), open.store.ping());
        for e in [written.unwrap_err(), one.unwrap_err(), two.unwrap_err()] {
            assert_eq!(e.status(), 503, "{e}");
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "waited for {:?}", begun.elapsed());
    cluster.up().await;
    // Whoever comes first finds it back.
    open.write(user, "after").await.unwrap();
    open.store.ping().await.unwrap();
    assert_eq!(open.read(user).await.as_deref(), Some("after"));
    open.close().await;
}

/// Stands between us and a PostgreSQL, and loses a commit when told to.
struct Between {
    dir: tempfile::TempDir,
    lose: Arc<AtomicU8>,
}

/// Nothing.
const PASS: u8 = 0;
/// The next commit does not reach the server.
const COMMIT: u8 = 1;
/// The answer to the next commit does not reach us.
const ANSWER: u8 = 2;
/// Nothing more passes, and nobody says so: a host that is gone.
const SILENT: u8 = 3;
/// What is written by [`write_at_once`] begins so.
const AT_ONCE: &str = "ATONCE";

/// Writes something by statements that can wait, so that they are the commit too.
async fn write_at_once(open: &Open, user: UserNid, text: &str) -> Result<()> {
    let text = format!("{{\"text\":\"{AT_ONCE} {text}\"}}");
    let work = open.store.write(move |tx| {
        Box::pin(async move { tx.put_account_data(user, None, "m.test", Some(&text)).await.map(drop) })
    });
    work.await
}

impl Between {
    fn us_and(server: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let lose = Arc::new(AtomicU8::new(PASS));
        let between = Self { dir, lose: lose.clone() };
        tokio::spawn(async move {
            while let Ok((us, _)) = listener.accept().await {
                let them = UnixStream::connect(server.join(".s.PGSQL.5432")).await.unwrap();
                tokio::spawn(relay(us, them, lose.clone()));
            }
        });
        between
    }
}

async fn relay(us: UnixStream, them: UnixStream, lose: Arc<AtomicU8>) {
    let ((mut from_us, mut to_us), (mut from_them, mut to_them)) = (us.into_split(), them.into_split());
    let (mut ours, mut theirs) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut deaf = false;
    loop {
        tokio::select! {
            n = from_us.read(&mut ours) => {
                let Ok(n @ 1..) = n else { return };
                let mut was_silent = false;
                while lose.load(Ordering::SeqCst) == SILENT {
                    was_silent = true;
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                if was_silent { return }
                if ours[..n].windows(6).any(|w| w == b"COMMIT" || w == AT_ONCE.as_bytes()) {
                    match lose.swap(PASS, Ordering::SeqCst) {
                        COMMIT => return,
                        ANSWER => deaf = true,
                        _ => {}
                    }
                }
                if to_them.write_all(&ours[..n]).await.is_err() { return }
            }
            n = from_them.read(&mut theirs) => {
                let Ok(n @ 1..) = n else { return };
                // The commit has been answered, so it took place.
                if deaf || to_us.write_all(&theirs[..n]).await.is_err() { return }
            }
        }
    }
}

#[tokio::test]
async fn a_postgres_that_falls_silent_is_not_waited_for_by_everybody() {
    let Some((disk, between)) = behind_a_relay().await else { return };
    let open = disk.open().await;
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    open.store.ping().await.unwrap();
    between.lose.store(SILENT, Ordering::SeqCst);
    // A connection that was used just now is not asked first.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let begun = Instant::now();
    let (written, read) = tokio::join!(open.write(user, "first"), open.store.ping());
    assert_eq!((written.unwrap_err().status().as_u16(), read.unwrap_err().status().as_u16()), (503, 503));
    assert!(begun.elapsed() < Duration::from_secs(40), "waited for {:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..10 {
        let (written, read) = tokio::join!(open.write(user, "later"), open.store.ping());
        assert!(written.is_err() && read.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "waited for {:?}", begun.elapsed());
    between.lose.store(PASS, Ordering::SeqCst);
    soon("it is found back", async || open.store.ping().await.is_ok()).await;
    soon("writing goes on", async || open.write(user, "after").await.is_ok()).await;
    assert_eq!(open.read(user).await.as_deref(), Some("after"));
    open.close().await;
}

async fn behind_a_relay() -> Option<(Disk, Between)> {
    let cluster = hearth_test_postgres::shared().await?;
    let direct = cluster.create(None).await;
    let between = Between::us_and(direct.get_socket().unwrap().clone());
    let options: PgConnectOptions = direct.socket(between.dir.path());
    Some((Disk::on_postgres(options), between))
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_out_about() {
    let Some((disk, between)) = behind_a_relay().await else { return };
    let open = disk.open().await;
    let heard = listen(&open);
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    assert_eq!(open.read(user).await.as_deref(), Some("before"));
    for n in 0..3 {
        let (new, head) = (open.user(&format!("new{n}")).await, open.store.head());
        between.lose.store(ANSWER, Ordering::SeqCst);
        let text = format!("in doubt {n}");
        assert_eq!(open.write(new, &text).await.unwrap_err().status(), 503);
        // Nobody writes anything more, and yet it becomes known that it was written.
        soon("the commit becomes known", async || open.store.head().0 == head.0 + 1).await;
        assert_eq!(open.read(new).await, Some(text));
        assert_eq!(heard.load(Ordering::SeqCst), head.0 + 1);
        // The new name is stored once, and the next transaction is not in its way.
        open.write(new, "next").await.unwrap();
        assert_eq!(open.store.head().0, head.0 + 2);
    }
    open.close().await;
}

#[tokio::test]
async fn a_transaction_that_is_one_statement_is_in_doubt_alike() {
    let Some((disk, between)) = behind_a_relay().await else { return };
    let open = disk.open().await;
    let user = open.user("alice").await;
    let mut count = open.store.head().0;
    for (lose, text) in [(ANSWER, "answer lost"), (COMMIT, "never came"), (ANSWER, "answer lost again")] {
        // The first after a while asks whether the connection works; the second is one statement.
        for n in 0..2 {
            write_at_once(&open, user, &format!("before {n}")).await.unwrap();
        }
        count += 2;
        between.lose.store(lose, Ordering::SeqCst);
        assert_eq!(write_at_once(&open, user, text).await.unwrap_err().status(), 503);
        if lose == ANSWER {
            count += 1;
            soon("the commit becomes known", async || open.store.head().0 == count).await;
            assert_eq!(open.read(user).await, Some(format!("{AT_ONCE} {text}")));
        } else {
            soon("writing goes on", async || write_at_once(&open, user, "after").await.is_ok()).await;
            count += 1;
            assert_eq!(open.read(user).await, Some(format!("{AT_ONCE} after")));
        }
        assert_eq!(open.store.head().0, count);
    }
    open.close().await;
}

#[tokio::test]
async fn a_statement_that_waits_and_fails_is_its_own_job_s_fault() {
    let Some(disk) = Disk::postgres().await else { return };
    let open = disk.open().await;
    let user = open.user("alice").await;
    write_at_once(&open, user, "before").await.unwrap();
    let bad = || {
        open.store.write(move |tx| {
            // A text that no column can hold.
            Box::pin(async move { tx.put_account_data(user, None, "m.\0", Some("{}")).await.map(drop) })
        })
    };
    let alone = bad().await.unwrap_err();
    assert_eq!((alone.status().as_u16(), alone.errcode()), (400, "M_INVALID_PARAM"), "{alone}");
    write_at_once(&open, user, "between").await.unwrap();
    let (bad, good) = tokio::join!(bad(), write_at_once(&open, user, "beside"));
    assert_eq!(bad.unwrap_err().status(), 400);
    good.unwrap();
    assert_eq!(open.read(user).await, Some(format!("{AT_ONCE} beside")));
    open.close().await;
}

#[tokio::test]
async fn a_commit_that_was_lost_on_the_way_is_not_taken_for_done() {
    let Some((disk, between)) = behind_a_relay().await else { return };
    let open = disk.open().await;
    let heard = listen(&open);
    let user = open.user("alice").await;
    open.write(user, "before").await.unwrap();
    let (new, head) = (open.user("new").await, open.store.head());
    between.lose.store(COMMIT, Ordering::SeqCst);
    assert_eq!(open.write(new, "lost").await.unwrap_err().status(), 503);
    soon("writing goes on", async || open.write(user, "after").await.is_ok()).await;
    assert_eq!((open.store.head().0, heard.load(Ordering::SeqCst)), (head.0 + 1, head.0 + 1));
    assert_eq!((open.read(user).await.as_deref(), open.read(new).await), (Some("after"), None));
    open.close().await;
}

#[tokio::test]
async fn a_postgres_that_went_back_in_time_ends_the_writing() {
    let Some(disk) = Disk::postgres().await else { return };
    let Engine::Postgres { options, .. } = &disk.engine else { unreachable!() };
    for (back, why) in [
        ("UPDATE hearth.log_head SET pos = pos - 1, commits = commits - 1", "gone back"),
        ("UPDATE hearth.log_head SET pos = pos + 1, commits = commits + 1, run = run + 1", "another hearth"),
    ] {
        let open = disk.open().await;
        let user = open.user("alice").await;
        open.write(user, "one").await.unwrap();
        open.write(user, "two").await.unwrap();
        let mut other = <sqlx::PgConnection as sqlx::Connection>::connect_with(options).await.unwrap();
        sqlx::Executor::execute(&mut other, back).await.unwrap();
        let rows = "DELETE FROM hearth.log WHERE pos > (SELECT pos FROM hearth.log_head)";
        sqlx::Executor::execute(&mut other, rows).await.unwrap();
        assert!(open.write(user, "three").await.is_err());
        let told = tokio::time::timeout(Duration::from_secs(5), open.store.lost()).await.unwrap();
        assert!(told.contains(why), "{told}");
        assert_eq!(open.write(user, "four").await.unwrap_err().status(), 503);
        open.close().await;
        // Started anew it goes on with what is there.
        let open = disk.open().await;
        open.write(user, "five").await.unwrap();
        assert_eq!(open.read(user).await.as_deref(), Some("five"));
        open.close().await;
    }
}
