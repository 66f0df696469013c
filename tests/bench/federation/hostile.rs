//! A server that signs well and asks as fast as it is answered, on many connections: what it costs, and what it costs those
//! who are honest beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::json;

use crate::{
    World, cpu,
    outsider::Outsider,
    support::rooms::{encoded, txn},
};

/// Requests of the hostile server under way at the same time.
const AT_ONCE: usize = 32;
/// How long each evil is done.
const FOR: Duration = Duration::from_secs(8);
/// What the honest server sends in that time, well within what it may.
const HONEST: usize = 60;

/// A thing to do again and again.
#[derive(Clone)]
struct Evil {
    name: &'static str,
    method: Method,
    path: String,
    body: Option<String>,
}

fn evils(eve: &Outsider) -> Vec<Evil> {
    let forger = hearth_rules::Signer::new(eve.signer.server_name().to_owned(), &[99; 32], "a").unwrap();
    let forged: Vec<String> = (0..50).map(|n| eve.message(&format!("forged {n}"), &forger).json().to_owned()).collect();
    let rejected: Vec<String> = (0..50)
        .map(|n| eve.message(&format!("{n}"), &eve.signer).json().replace("m.room.message", "m.room.name"))
        .collect();
    let rubbish: Vec<String> =
        (0..50).map(|n| json!({ "room_id": eve.room, "n": n, "type": "x" }).to_string()).collect();
    let edus: Vec<String> = (0..100)
        .map(|n| {
            let user = format!("@u{n}:{}", eve.signer.server_name());
            json!({ "edu_type": "m.typing", "content": { "room_id": eve.room, "user_id": user, "typing": true } })
                .to_string()
        })
        .collect();
    let huge = vec![format!(r#"{{"room_id":"{}","x":"{}"}}"#, eve.room, "[1,2],".repeat(600_000))];
    let (room, newest) = (encoded(&eve.room), encoded(eve.newest()));
    let send = || format!("/_matrix/federation/v1/send/{}", txn());
    let put = |name, body| Evil { name, method: Method::PUT, path: send(), body: Some(body) };
    let get = |name, path| Evil { name, method: Method::GET, path, body: None };
    let many: serde_json::Map<_, _> = (0..500).map(|n| (format!("@u{n}:x"), json!([]))).collect();
    vec![
        put("forged events", eve.transaction(&forged, &[])),
        put("changed events", eve.transaction(&rejected, &[])),
        put("rubbish", eve.transaction(&rubbish, &edus)),
        put("huge bodies", eve.transaction(&huge, &[])),
        get("states", format!("/_matrix/federation/v1/state/{room}?event_id={newest}")),
        get("history", format!("/_matrix/federation/v1/backfill/{room}?v={newest}&limit=100")),
        get("templates", format!("/_matrix/federation/v1/make_join/{room}/{}?ver=11", encoded(eve.user.as_str()))),
        Evil {
            name: "keys",
            method: Method::POST,
            path: "/_matrix/federation/v1/user/keys/query".to_owned(),
            body: Some(json!({ "device_keys": many }).to_string()),
        },
    ]
}

pub fn run() {
    let world = Arc::new(World::new(|s| s.gate = hearth_service::federation::gate::Settings::default()));
    let (mut eve, mut bob) = world
        .others
        .block_on(async { (Outsider::joins(3, "eve", &world).await, Outsider::joins(4, "bob", &world).await) });
    // Some history to read.
    let history: Vec<String> = (0..400).map(|n| eve.says(&format!("message {n}"))).collect();
    world.others.block_on(async {
        for part in history.chunks(50) {
            eve.sends(&world, part).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let idle = measure(&world, None, &mut bob);
    println!("hostile: an honest transaction alone costs {:.2} ms of CPU", idle.per_honest_ms());
    let (evils, eve) = (evils(&eve), Arc::new(eve));
    // Those that are named, if any is.
    let named = |evil: &Evil| std::env::args().any(|arg| arg == evil.name);
    let is_any = evils.iter().any(named);
    for evil in evils.into_iter().filter(|evil| !is_any || named(evil)) {
        let alone = measure_alone(&world, &eve, &evil);
        let beside = measure(&world, Some((&eve, &evil)), &mut bob);
        let more = beside.spent.saturating_sub(alone.spent);
        println!(
            "hostile: {:16} {:6.1} % of a core, {:5.0} answers a second; beside it an honest transaction {:.2} ms, slowest {:.0} ms",
            evil.name,
            alone.spent.as_secs_f64() / alone.took.as_secs_f64() * 100.0,
            alone.answers as f64 / alone.took.as_secs_f64(),
            more.as_secs_f64() * 1e3 / HONEST as f64,
            beside.slowest.as_secs_f64() * 1e3,
        );
    }
}

struct Measured {
    spent: Duration,
    took: Duration,
    answers: usize,
    slowest: Duration,
}

impl Measured {
    fn per_honest_ms(&self) -> f64 {
        self.spent.as_secs_f64() * 1e3 / HONEST as f64
    }
}

fn measure_alone(world: &Arc<World>, eve: &Arc<Outsider>, evil: &Evil) -> Measured {
    world.others.block_on(async {
        let attack = attack(world, eve, evil);
        // Whatever is allowed at once is over.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, begun) = (cpu(), Instant::now());
        let answers = attack.answers.load(Ordering::Relaxed);
        tokio::time::sleep(FOR).await;
        let (spent, took) = (cpu().saturating_sub(before), begun.elapsed());
        let answers = attack.answers.load(Ordering::Relaxed) - answers;
        attack.ends().await;
        Measured { spent, took, answers, slowest: Duration::ZERO }
    })
}

fn measure(world: &Arc<World>, evil: Option<(&Arc<Outsider>, &Evil)>, bob: &mut Outsider) -> Measured {
    let said: Vec<String> = (0..HONEST).map(|n| bob.says(&format!("honest {n}"))).collect();
    world.others.block_on(async {
        let attack = evil.map(|(eve, evil)| attack(world, eve, evil));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, begun) = (cpu(), Instant::now());
        let mut slowest = Duration::ZERO;
        for event in said {
            let sent = Instant::now();
            bob.sends(world, &[event]).await;
            slowest = slowest.max(sent.elapsed());
            tokio::time::sleep((FOR / HONEST as u32).saturating_sub(sent.elapsed())).await;
        }
        tokio::time::sleep(FOR.saturating_sub(begun.elapsed())).await;
        let (spent, took) = (cpu().saturating_sub(before), begun.elapsed());
        if let Some(attack) = attack {
            attack.ends().await;
        }
        Measured { spent, took, answers: 0, slowest }
    })
}

struct Attack {
    answers: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Attack {
    async fn ends(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

fn attack(world: &Arc<World>, eve: &Arc<Outsider>, evil: &Evil) -> Attack {
    let answers = Arc::new(AtomicUsize::new(0));
    let one = |_| {
        let (world, eve, evil, answers) = (world.clone(), eve.clone(), evil.clone(), answers.clone());
        tokio::spawn(async move {
            loop {
                let path = match evil.method {
                    Method::PUT => format!("/_matrix/federation/v1/send/{}", txn()),
                    _ => evil.path.clone(),
                };
                let _ = eve.calls(&world, evil.method.clone(), &path, evil.body.clone()).await;
                answers.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    Attack { tasks: (0..AT_ONCE).map(one).collect(), answers }
}
