//! What other servers cost us, in CPU of the server's own threads, over real TLS in this process:
//!
//! - `ingest`: a backlog of 10,000 events, in transactions of 50.
//! - `dead`: an hour in which 1,000 servers of a room cannot be reached and a message a minute is said.
//! - `hostile`: a server that signs well and asks as fast as it is answered, beside an honest one.
//!
//! `cargo bench -p hearth --bench federation [-- ingest dead hostile]`; results are kept in `tests/baseline/federation.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

#[path = "federation/hostile.rs"]
mod hostile;
#[path = "federation/outsider.rs"]
mod outsider;
/// What the integration tests have servers and users by.
#[path = "../it"]
mod it {
    #[path = "federation/support.rs"]
    pub mod peers;
    pub mod support;
}

use std::{
    fs,
    time::{Duration, Instant},
};

use hearth_base::clock::Clock;
use it::{peers, support};
use outsider::Outsider;
use peers::{Peer, Peers};
use serde_json::json;
use support::User;
use tokio::runtime::{Builder, Runtime};

const EVENTS: usize = 10_000;
const DEAD: usize = 1_000;
const MINUTES: u64 = 60;

/// The server under test on threads of its own, with Alice and her public room.
pub struct World {
    server_threads: Runtime,
    /// Where everybody else lives.
    pub others: Runtime,
    pub server: Peer,
    pub alice: User,
    pub room: String,
}

impl World {
    fn new(change: impl FnOnce(&mut hearth_service::Settings) + Send + 'static) -> Self {
        // What a thread has spent is not to be found any more once it is gone.
        let threads = |name: &str| {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(2).thread_name(name).thread_keep_alive(Duration::from_secs(3600));
            builder.enable_all().build().unwrap()
        };
        let (server_threads, others) = (threads("server"), threads("others"));
        let server = server_threads.block_on(Peers::one(2, |plan| plan.services(change)));
        let (alice, room) = others.block_on(async {
            let alice = server.user("alice").await;
            let room = alice.creates(json!({ "preset": "public_chat", "room_version": "11" })).await;
            (alice, room)
        });
        Self { server_threads, others, server, alice, room }
    }
}

/// CPU that the server's threads have taken so far, those of SQLite among them.
pub fn cpu() -> Duration {
    let mut nanos = 0;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if ["server", "sqlx"].iter().any(|name| read("comm").starts_with(name)) {
            let spent = read("schedstat");
            nanos += spent.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanos)
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    // What is dropped at the end of a world closes connections here.
    let closing = Builder::new_multi_thread().worker_threads(1).thread_name("closing").enable_all().build().unwrap();
    let _inside = closing.enter();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    if is_wanted("ingest") {
        ingest();
    }
    if is_wanted("dead") {
        dead();
    }
    if is_wanted("hostile") {
        hostile::run();
    }
}

fn ingest() {
    let world = World::new(|s| s.gate.sleep_limit = u32::MAX);
    let others = &world.others;
    let mut eve = others.block_on(Outsider::joins(3, "eve", &world));
    let events: Vec<String> = (0..EVENTS).map(|n| eve.says(&format!("message {n}"))).collect();
    let (before, begun) = (cpu(), Instant::now());
    others.block_on(async {
        for part in events.chunks(50) {
            let told = eve.sends(&world, part).await;
            assert_eq!(told["pdus"].as_object().unwrap().values().filter(|v| **v == json!({})).count(), 50, "{told}");
        }
    });
    let (spent, took) = (cpu().saturating_sub(before).as_secs_f64(), begun.elapsed().as_secs_f64());
    println!(
        "ingest: {EVENTS} events, {spent:.2} s of CPU, {:.0} events a CPU second ({took:.1} s)",
        EVENTS as f64 / spent
    );
}

fn dead() {
    let world = World::new(|s| s.federation.pauses = hearth_service::federation::health::Settings::default());
    let (server, alice) = (&world.server, &world.alice);
    world.others.block_on(async {
        let names = outsider::nobodies_join(DEAD, &world).await;
        let failed = async || {
            let mut count = 0;
            for name in &names {
                count += usize::from(server.services().store.destination(name.as_str()).await.unwrap().is_some());
            }
            count
        };
        let (before, begun) = (cpu(), Instant::now());
        alice.says(&world.room, "the first").await;
        while failed().await < DEAD {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let first = cpu().saturating_sub(before);
        let clock: &Clock = server.clock();
        for minute in 0..MINUTES {
            clock.advance_ms(60_000);
            alice.says(&world.room, &format!("minute {minute}")).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let spent = cpu().saturating_sub(before).as_secs_f64();
        let share = spent / (60 * MINUTES) as f64 * 100.0;
        println!(
            "dead: {DEAD} servers, an hour: {spent:.2} s of CPU, {share:.3} % of a core; finding them dead {:.2} s ({:.0} s)",
            first.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
    });
}
