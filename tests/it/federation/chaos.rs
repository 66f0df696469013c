//! Three servers that share a room through anything: random deeds of random users on all of them at once, while servers are
//! cut off from each other, stop and start, and clocks jump. When it is over and each server has said something, all have
//! the same events, the same state before each of them, and the same current state.
//!
//! What happens follows from a seed, as far as it can where things happen at once. `HEARTH_CHAOS=4..40` tries other seeds,
//! `HEARTH_CHAOS_DEEDS=1000` longer lives, `HEARTH_CHAOS_LOG=hearth_service::federation=debug` tells what the servers do.

use std::time::Duration;

use futures_util::future::join_all;
use hearth_base::tasks::Supervisor;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::support::{
    Answer, User,
    rooms::{V3, encoded, event_id, txn},
};

mod agreement;
mod switch;

use agreement::{View, room};
use switch::{Cut, Node, Switch};

/// Ordinary users of a server.
const USERS: usize = 3;
/// Deeds of a life.
const DEEDS: usize = 90;
/// The longest wait for words to arrive.
const PATIENCE: Duration = Duration::from_secs(90);

/// A user, wherever their server is now.
struct Person {
    node: usize,
    user: User,
}

/// What somebody is about to do.
struct Deed {
    person: usize,
    what: What,
}

enum What {
    Say,
    Set(&'static str, String, Value),
    Member(&'static str, Option<usize>),
    Levels(String, i64),
    Redact(String),
    Name(String),
}

struct World {
    rng: StdRng,
    seed: u64,
    supervisor: Supervisor,
    switch: Switch,
    nodes: Vec<Node>,
    /// The first of each server is its anchor: all-powerful, always there, never touched.
    people: Vec<Person>,
    room: String,
    /// Events that may be redacted.
    said: Vec<String>,
    floor: u64,
}

impl World {
    async fn begin(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (supervisor, switch) = (Supervisor::new(), Switch::new());
        let on_postgres = rng.random_range(0..8);
        let (mut nodes, mut people) = (Vec::new(), Vec::new());
        for n in 0..3u8 {
            let node = Node::start(20 + n, on_postgres & (1 << n) != 0, &switch, &supervisor).await;
            people.push(Person { node: n.into(), user: node.server().user(&format!("anchor{n}")).await });
            nodes.push(node);
        }
        for n in 0..nodes.len() * USERS {
            let node = n % nodes.len();
            people.push(Person { node, user: nodes[node].server().user(&format!("user{n}")).await });
        }
        let version = *["6", "9", "10", "11", "12"].choose(&mut rng).unwrap();
        // The creator of a room of version 12 has all power and is not named.
        let mut users = serde_json::Map::new();
        for (n, person) in people.iter().enumerate().skip(usize::from(version == "12")) {
            let level = if n < 3 {
                100
            } else if n < 6 {
                50
            } else {
                0
            };
            users.insert(person.user.id.to_string(), json!(level));
        }
        let levels = json!({ "users": users, "events": { "m.room.topic": 0, "org.test": 0 } });
        let body = json!({ "preset": "public_chat", "room_version": version, "power_level_content_override": levels });
        let room = people[0].user.creates(body).await;
        let mut world = Self { rng, seed, supervisor, switch, nodes, people, room, said: Vec::new(), floor: 0 };
        for n in 1..world.people.len() {
            let (via, path) = (world.nodes[0].name.to_string(), encoded(&world.room));
            let path = format!("{V3}/join/{path}?via={}", encoded(&via));
            let joined = world.people[n].user.post(&path, json!({})).await;
            joined.good();
        }
        world.last_words().await;
        let newest = agreement::room(&world.nodes[0], &world.room).await;
        world.floor = newest.head.depth.unsigned_abs();
        println!("seed {seed}: room version {version}, PostgreSQL mask {on_postgres:03b}");
        world
    }

    fn pick(&mut self, most: usize) -> usize {
        self.rng.random_range(0..most)
    }

    /// Somebody who is not an anchor.
    fn mortal(&mut self) -> usize {
        3 + self.pick(self.people.len() - 3)
    }

    fn deed(&mut self) -> Deed {
        let person = self.pick(self.people.len());
        let what = match self.pick(100) {
            0..28 => What::Say,
            28..36 => What::Set("m.room.topic", String::new(), json!({ "topic": txn() })),
            36..46 => What::Set("org.test", self.pick(4).to_string(), json!({ "n": txn() })),
            46..50 => {
                let rule = *["public", "public", "invite"].choose(&mut self.rng).unwrap();
                What::Set("m.room.join_rules", String::new(), json!({ "join_rule": rule }))
            }
            50..60 => What::Member("join", None),
            60..66 => What::Member("leave", None),
            66..71 => What::Member("kick", Some(self.mortal())),
            71..75 => What::Member("ban", Some(self.mortal())),
            75..78 => What::Member("unban", Some(self.mortal())),
            78..82 => What::Member("invite", Some(self.mortal())),
            82..89 => {
                let whose = self.mortal();
                let id = self.people[whose].user.id.to_string();
                What::Levels(id, *[0, 50, 50, 75].choose(&mut self.rng).unwrap())
            }
            89..91 => What::Levels("kick".to_owned(), *[50, 75].choose(&mut self.rng).unwrap()),
            91..96 => match self.said.choose(&mut self.rng) {
                Some(id) => What::Redact(id.clone()),
                None => What::Say,
            },
            _ => What::Name(txn()),
        };
        // Anchors stay.
        let what = match what {
            What::Member("leave", _) if person < 3 => What::Say,
            what => what,
        };
        Deed { person, what }
    }

    async fn does(&self, deed: Deed) -> Answer {
        let (user, room) = (&self.people[deed.person].user, self.room.as_str());
        match deed.what {
            What::Say => user.sends(room, "m.room.message", &txn(), json!({ "msgtype": "m.text", "body": "x" })).await,
            What::Set(kind, key, content) => user.sets(room, kind, &key, content).await,
            What::Member("join", _) => user.joins(room).await,
            What::Member("leave", _) => user.leaves(room).await,
            What::Member(what, whom) => user.does_to(room, what, &self.people[whom.unwrap()].user).await,
            What::Levels(what, level) => {
                let levels = user.reads(room, "m.room.power_levels", "").await;
                if !levels.status.is_success() {
                    return levels;
                }
                let mut levels = levels.body;
                match what.starts_with('@') {
                    true => levels["users"][what.as_str()] = json!(level),
                    false => levels[what.as_str()] = json!(level),
                }
                user.sets(room, "m.room.power_levels", "", levels).await
            }
            What::Redact(event) => user.redacts(room, &event).await,
            What::Name(name) => {
                let path = format!("{V3}/profile/{}/displayname", encoded(user.id.as_str()));
                user.put(&path, json!({ "displayname": name })).await
            }
        }
    }

    /// Several deeds at once.
    async fn happens(&mut self, many: usize) {
        let deeds: Vec<Deed> = (0..many).map(|_| self.deed()).collect();
        let answers = join_all(deeds.into_iter().map(|deed| self.does(deed))).await;
        for answer in answers {
            assert_ne!(answer.status.as_u16(), 500, "seed {}: {answer:?}", self.seed);
            if let (true, Some(id)) = (answer.status.is_success(), answer.body["event_id"].as_str()) {
                self.said.push(id.to_owned());
            }
        }
    }

    /// Something goes wrong, or is mended.
    async fn trouble(&mut self) {
        let one = self.pick(3);
        let other = (one + 1 + self.pick(2)) % 3;
        let (name, others) = (self.nodes[one].name.to_string(), self.nodes[other].name.to_string());
        match self.pick(20) {
            0..7 => {
                let how = *[Cut::Refused, Cut::Unanswered, Cut::Held].choose(&mut self.rng).unwrap();
                println!("  {one} and {other} are cut off, {how:?}");
                self.switch.cut(&name, &others, how);
            }
            7..10 => {
                println!("  {one} is alone");
                let third = self.nodes[3 - one - other].name.to_string();
                self.switch.cut(&name, &others, Cut::Refused);
                self.switch.cut(&name, &third, Cut::Refused);
            }
            10..16 => {
                println!("  {one} and {other} meet");
                self.switch.heal(&name, &others);
            }
            16..19 => {
                println!("  {one} starts again");
                self.restart(one).await;
            }
            // Keys of servers hold for a day: a clock that is further ahead is another story.
            _ => {
                println!("  the clock of {one} jumps");
                self.nodes[one].steps(self.rng.random_range(1_000..6 * 3_600_000));
            }
        }
    }

    async fn restart(&mut self, n: usize) {
        self.nodes[n].restart().await;
        for person in self.people.iter_mut().filter(|p| p.node == n) {
            person.user = person.user.on(self.nodes[n].server());
        }
    }

    /// Each server's anchor says something, which all others see before the next speaks.
    async fn last_words(&mut self) {
        for n in 0..3 {
            let mut before = Vec::new();
            for anchor in &self.people[..3] {
                before.push(anchor.user.now().await);
            }
            let word = self.people[n].user.says(&self.room, "a last word").await;
            let heard = join_all((0..3).filter(|m| *m != n).map(|m| self.hears(m, &before[m], &word))).await;
            if let Some(missed) = heard.into_iter().flatten().next() {
                let difference = self.difference().await.unwrap_or_default();
                panic!("seed {}: {missed} does not hear {}; {difference}", self.seed, self.nodes[n].name);
            }
        }
    }

    /// Waits until an anchor is shown an event; gives its server's name if that does not come.
    async fn hears(&self, n: usize, since: &str, event: &str) -> Option<String> {
        let mut since = since.to_owned();
        // What else came at the same time must not push it out of the timeline.
        let filter = encoded(r#"{"room":{"timeline":{"limit":1000}}}"#);
        let heard = async {
            loop {
                let path = format!("{V3}/sync?timeout=5000&since={}&filter={filter}", encoded(&since));
                let sync = self.people[n].user.get(&path).await.good();
                let timeline = &sync["rooms"]["join"][self.room.as_str()]["timeline"]["events"];
                if timeline.as_array().into_iter().flatten().any(|e| e["event_id"] == event) {
                    return;
                }
                sync["next_batch"].as_str().unwrap().clone_into(&mut since);
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.is_err().then(|| self.nodes[n].name.to_string())
    }

    /// The smallest thing in which servers differ, or contradict themselves.
    async fn difference(&self) -> Option<String> {
        let mut views = Vec::new();
        for node in &self.nodes {
            views.push(View::of(node, &self.room, self.floor).await);
        }
        let anchors: Vec<String> = self.people[..3].iter().map(|p| p.user.id.to_string()).collect();
        let [first, rest @ ..] = views.as_slice() else { return None };
        let alone = || views.iter().find_map(|v| v.contradiction().or_else(|| v.hides(&anchors)));
        rest.iter().find_map(|other| first.difference(other)).or_else(alone)
    }

    /// What clients of the three servers are told.
    async fn told(&self, what: &str) -> Vec<Value> {
        let told = join_all(self.people[..3].iter().map(|p| p.user.in_room(&self.room, what))).await;
        told.into_iter().map(|answer| answer.good()).collect()
    }

    async fn ends(mut self) {
        self.switch.heal_all();
        self.last_words().await;
        let difference = self.difference().await;
        assert!(difference.is_none(), "seed {}: {}", self.seed, difference.unwrap());
        let members = self.told("joined_members").await;
        assert!(members.iter().all(|m| *m == members[0]), "seed {}: {members:#?}", self.seed);
        let word =
            event_id(&json!({ "event_id": room(&self.nodes[0], &self.room).await.head.extremities[0].event_id() }));
        let count = View::of(&self.nodes[0], &self.room, self.floor).await.len();
        println!("seed {}: {count} events, the last is {word}", self.seed);
        self.supervisor.stop(Duration::from_secs(5)).await;
    }
}

async fn lives(seed: u64) {
    if let Ok(filter) = std::env::var("HEARTH_CHAOS_LOG") {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let deeds = std::env::var("HEARTH_CHAOS_DEEDS").map_or(DEEDS, |n| n.parse().unwrap());
    let mut world = World::begin(seed).await;
    let mut done = 0;
    while done < deeds {
        let many = 1 + world.pick(4);
        world.happens(many).await;
        done += many;
        if world.pick(3) == 0 {
            world.trouble().await;
        }
    }
    world.ends().await;
}

/// The seeds of every day, or those of `HEARTH_CHAOS`.
async fn seeds(usual: u64) {
    match std::env::var("HEARTH_CHAOS") {
        Err(_) => lives(usual).await,
        Ok(range) if usual == 1 => {
            let (from, upto) = range.split_once("..").unwrap();
            for seed in from.parse().unwrap()..upto.parse().unwrap() {
                lives(seed).await;
            }
        }
        Ok(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_agree_after_anything_one() {
    seeds(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_agree_after_anything_two() {
    seeds(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_agree_after_anything_three() {
    seeds(3).await;
}
