//! What always holds of the tree itself, so that nobody has to remember it: see "What always holds" in `src/ARCHITECTURE.md`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The capabilities: the same word in `api`, `service` and `store`.
const CAPABILITIES: [&str; 22] = [
    "account_data",
    "accounts",
    "calls",
    "devices",
    "directory",
    "events",
    "history",
    "keys",
    "login",
    "media",
    "membership",
    "oauth",
    "presence",
    "profile",
    "push",
    "receipts",
    "relations",
    "reports",
    "rooms",
    "search",
    "sync",
    "typing",
];
/// What else a layer may have, beside its capabilities.
const OF_LAYERS: [(&str, &[&str]); 5] = [
    ("src/api/client", &["server"]),
    ("src/api/admin", &["federation", "server"]),
    ("src/api/federation", &["server", "server_keys", "transactions"]),
    (
        "src/service",
        &[
            "appservices",
            "benches",
            "federation",
            "lib",
            "notifier",
            "server_keys",
            "settings",
            "state",
            "testing",
            "upkeep",
        ],
    ),
    (
        "src/store",
        &[
            "appservices",
            "blobs",
            "db",
            "destinations",
            "examine",
            "graph",
            "intern",
            "jobs",
            "lib",
            "log",
            "migrate",
            "outbox",
            "ownership",
            "runs",
            "server_keys",
            "state",
            "tests",
        ],
    ),
];
/// Which crates a crate may know: those right of it.
const ARROWS: [(&str, &[&str]); 9] = [
    ("base", &[]),
    ("config", &["base"]),
    ("rules", &["base"]),
    ("store", &["base", "rules"]),
    ("remote", &["base", "rules"]),
    ("service", &["base", "config", "rules", "store", "remote"]),
    // The store's types appear in what services give; no handler has a connection.
    ("api", &["base", "config", "rules", "service", "store"]),
    ("edge", &["base", "config"]),
    (".", &["api", "base", "config", "edge", "remote", "rules", "service", "store"]),
];
/// Lines of a file, tests apart.
const MOST_LINES: usize = 400;
/// Files that are longer for now, and how long they may be.
const LONG: [(&str, usize); 4] = [
    ("src/config/telemetry/log_config.rs", 420),
    ("src/service/lib.rs", 420),
    ("src/store/intern.rs", 415),
    ("src/store/log/writer.rs", 440),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files under a folder with that ending, by their path from the root.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {folder}");
    found.sort();
    found
}

fn is_test(path: &str) -> bool {
    ["/tests/", "/tests.rs", "/benches/", "/examples/"].iter().any(|part| path.contains(part))
        || path.starts_with("tests/")
}

/// Lines that are neither comments nor of a test module at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let text = text.get(..end).unwrap_or(text);
    text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn lines_with<'a>(
    path: &'a str,
    text: &'a str,
    wrong: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    code(text).filter(move |(_, line)| wrong(line)).map(move |(n, line)| format!("{path}:{n}: {}", line.trim()))
}

#[track_caller]
fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let all = files("src", "rs").into_iter().chain(files("tests", "rs"));
    none(all.filter(|(_, text)| !text.starts_with("//! ")).map(|f| f.0).collect(), "a file opens with `//!`");
}

#[test]
fn names_are_those_of_the_capabilities() {
    let mut wrong = Vec::new();
    for (folder, more) in OF_LAYERS {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_ours = path.is_dir() || path.extension().is_some_and(|e| e == "rs");
            let name = path.file_stem().unwrap().to_str().unwrap();
            if is_ours && !CAPABILITIES.contains(&name) && !more.contains(&name) {
                wrong.push(path.display().to_string());
            }
        }
    }
    none(wrong, "a file in api, service or store is named by its capability");
    let vague = ["mod", "utils", "util", "helpers", "helper", "common", "misc"];
    let all = files("src", "rs").into_iter().chain(files("tests", "rs")).map(|f| f.0);
    let named = |f: &String| Path::new(f).file_stem().is_some_and(|s| vague.iter().any(|v| s == *v));
    none(all.filter(named).collect(), "a name says what is in a file");
}

#[test]
fn arrows_between_crates_point_to_the_right() {
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for (name, may) in ARROWS {
        known.insert(name.to_owned());
        let folder = if name == "." { root() } else { root().join("src").join(name) };
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let of_all = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let own = of_all.split("\n[").next().unwrap_or_default();
        for line in own.lines().filter_map(|l| l.strip_prefix("hearth-")) {
            let other = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !may.contains(&other) {
                wrong.push(format!("{name} -> {other}"));
            }
        }
    }
    none(wrong, "a crate knows those right of it only");
    let members = std::fs::read_dir(root().join("src")).unwrap().map(|e| e.unwrap().path());
    let members = members.filter(|p| p.join("Cargo.toml").exists());
    let new = members.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).filter(|m| !known.contains(m));
    none(new.collect(), "a new crate has a line in ARROWS");
}

#[test]
fn sql_stands_in_store_alone() {
    let verbs = ["\"SELECT ", "\"INSERT INTO ", "\"DELETE FROM ", "\"CREATE TABLE ", "\"WITH RECURSIVE "];
    let is_sql = |line: &str| {
        verbs.iter().any(|verb| line.contains(verb)) || line.contains("\"UPDATE ") && line.contains(" SET ")
    };
    let rest = files("src", "rs").into_iter().filter(|(path, _)| !path.starts_with("src/store/") && !is_test(path));
    none(
        rest.flat_map(|(path, text)| lines_with(&path, &text, is_sql).collect::<Vec<_>>()).collect(),
        "SQL is store's",
    );
}

#[test]
fn only_the_supervisor_spawns() {
    // Work on the blocking pool ends by itself; what is spawned onto the runtime must be known to who stops it.
    let spawns = [
        "tokio::spawn(",
        "task::spawn(",
        "thread::spawn(",
        "spawn_local(",
        "JoinSet",
        "runtime.spawn(",
        "handle.spawn(",
    ];
    let is_spawn = |line: &str| spawns.iter().any(|spawn| line.contains(spawn));
    let rest = files("src", "rs").into_iter().filter(|(path, _)| path != "src/base/tasks.rs" && !is_test(path));
    none(
        rest.flat_map(|(path, text)| lines_with(&path, &text, is_spawn).collect::<Vec<_>>()).collect(),
        "only base::tasks::Supervisor spawns",
    );
}

#[test]
fn rules_do_nothing_but_think() {
    let words =
        ["async ", ".await", "tokio::", "sqlx::", "std::fs", "std::net", "Instant::now", "SystemTime", "rand::"];
    let acts = |line: &str| words.iter().any(|word| line.contains(word));
    let rules = files("src/rules", "rs").into_iter().filter(|(path, _)| !is_test(path));
    none(
        rules.flat_map(|(path, text)| lines_with(&path, &text, acts).collect::<Vec<_>>()).collect(),
        "rules has no I/O, no async, no clock, no chance",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let all = files("src", "rs").into_iter().chain(files("tests", "rs"));
    let later = all.flat_map(|(path, text)| {
        let found = text.lines().enumerate().filter(|(_, line)| words.iter().any(|w| line.contains(w)));
        found.map(|(n, line)| format!("{path}:{}: {}", n + 1, line.trim())).collect::<Vec<_>>()
    });
    none(later.collect(), "what is not done is left out, and told elsewhere");
}

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for (path, text) in files("src", "rs").into_iter().filter(|(path, _)| !is_test(path)) {
        let lines = text.lines().count();
        let most = LONG.iter().find(|(long, _)| *long == path).map(|l| l.1);
        match most {
            Some(most) if lines > most => {
                wrong.push(format!("{path} has {lines} lines, more than the {most} it is excused for"))
            }
            Some(_) if lines <= MOST_LINES => {
                wrong.push(format!("{path} has {lines} lines: it needs no excuse any more"))
            }
            None if lines > MOST_LINES => wrong.push(format!("{path} has {lines} lines")),
            _ => {}
        }
    }
    none(wrong, "a file near 400 lines becomes a folder");
}

#[test]
fn migrations_come_in_pairs() {
    let of = |engine: &str| -> Vec<String> {
        let all = files(&format!("migrations/{engine}"), "sql").into_iter();
        all.map(|(path, _)| path.rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(of("sqlite"), of("postgres"));
}
