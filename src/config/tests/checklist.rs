//! Every row of the checklist: known, of the class it calls for, a right type is taken and a wrong one refused.
//!
//! `testdata/homeserver-yaml.tsv` holds the columns key, type and class of the checklist as they were copied from it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{LEAST, load};
use crate::{
    Env,
    known::{self, Class},
    read::Cx,
};

struct Row {
    key: String,
    kind: String,
    class: String,
}

/// The rows; those that name several options at once become several.
fn rows() -> Vec<Row> {
    let text = include_str!("../testdata/homeserver-yaml.tsv");
    let mut rows = Vec::new();
    for line in text.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [keys, kind, class] = columns[..] else { panic!("{line}") };
        let mut parent = String::new();
        for (i, key) in keys.split(", ").enumerate() {
            // `a.b, c` names a.b and a.c; without a dot in the first all are at the top.
            if i == 0 {
                parent = key.rsplit_once('.').map_or(String::new(), |(parent, _)| format!("{parent}."));
            }
            let key = if i > 0 && !key.contains('.') { format!("{parent}{key}") } else { key.to_owned() };
            rows.push(Row { key, kind: kind.to_owned(), class: class.to_owned() });
        }
    }
    rows
}

#[test]
fn every_row_is_known_and_of_its_class() {
    let known: HashMap<_, _> = known::rows().map(|row| (row.key, row)).collect();
    assert!(rows().len() >= 625, "the whole checklist is here");
    for row in rows() {
        let ours = known.get(row.key.as_str()).unwrap_or_else(|| panic!("{} is not known", row.key));
        let class = match ours.class {
            Class::Now | Class::Later => "honour",
            Class::Accept(_) => "accept",
            Class::Reject(..) => "reject",
        };
        // Two rows say in words that a part of them is of another class.
        let wanted = match row.key.as_str() {
            "replication_torture_level" => "accept",
            "room_invite_state_types" => "honour",
            _ => &row.class,
        };
        assert_eq!(class, wanted, "{}", row.key);
    }
}

#[test]
fn no_row_is_told_twice_and_every_default_is_of_its_own_kind() {
    let mut seen = HashMap::new();
    for row in known::rows() {
        assert!(seen.insert(row.key, row).is_none(), "{} has two rows", row.key);
        if !row.default.is_empty() {
            let default =
                known::default(row.key).unwrap_or_else(|| panic!("{}: {:?} is no YAML", row.key, row.default));
            let reject = matches!(row.class, Class::Reject(..)) && default.is_null();
            assert!(reject || crate::check::fits(row.kind, default), "{}: {:?}", row.key, row.default);
        }
    }
}

/// A value of the type, in YAML's flow style, and one that is of another type.
fn right_and_wrong(row: &Row) -> (&str, Option<&'static str>) {
    let special = match row.key.as_str() {
        // The checklist gives three options one row.
        "experimental_features.msc4108_enabled" => Some(("true", Some("[]"))),
        "experimental_features.msc4108_delegation_endpoint" => Some(("'https://a.example'", Some("[]"))),
        "experimental_features.msc4388_mode" => Some(("open", Some("[]"))),
        // Rows whose type is not the whole truth.
        "presence.enabled" => Some(("untracked", Some("sometimes"))),
        key if key.starts_with("stream_writers.") => Some(("worker1", Some("{}"))),
        "bind_host" | "bind_address" | "metrics_bind_host" => Some(("'::1'", Some("[text]"))),
        "no_tls" | "gzip_responses" => Some(("yes", Some("sometimes"))),
        "room_invite_state_types" => Some(("[m.room.name]", Some("text"))),
        "listeners[].mode" => Some(("'0o660'", Some("[660]"))),
        "user_consent.version" => Some(("'2.1'", Some("[text]"))),
        "password_config.enabled" => Some(("only_for_reauth", Some("sometimes"))),
        _ => None,
    };
    special.unwrap_or_else(|| by_type(&row.kind))
}

fn by_type(kind: &str) -> (&str, Option<&'static str>) {
    match kind {
        "any" => ("1", None),
        "string" => ("text", Some("[text]")),
        "string|null" => ("null", Some("[text]")),
        "boolean" => ("'true'", Some("sometimes")),
        "integer" | "integer|null" => ("7", Some("many")),
        "number" => ("0.5", Some("many")),
        "duration" | "duration|null" | "duration|object" => ("15m", Some("soon")),
        "size" | "size|null" => ("50M", Some("large")),
        "3pidmedium" => ("email", Some("telepathy")),
        "database" | "rc" | "rate limit" | "object" | "object|null" => ("{}", Some("[]")),
        "object or list" => ("[]", Some("text")),
        "array|null" | "list" | "list of any" | "list of object" | "list of string" | "list of string|array" => {
            ("[]", Some("text"))
        }
        other => match other.strip_prefix("list of enum ").or(other.strip_prefix("enum ")) {
            Some(words) if other.starts_with("list") => (words.split('/').next().unwrap(), Some("text")),
            Some(words) => (words.split('/').next().unwrap(), Some("nonsense")),
            None => panic!("a type that this test does not know: {other}"),
        },
    }
}

/// The YAML of one option at its place, with what its neighbours need so that nothing else is wrong.
fn document(key: &str, value: &str) -> String {
    let mut out = String::from(LEAST);
    let (mut indent, mut lead) = (0, String::new());
    let parts: Vec<&str> = key.split('.').collect();
    for (i, part) in parts.iter().enumerate() {
        let name = match part.trim_end_matches("[]") {
            "<name>" => "anything",
            name => name,
        };
        let last = i + 1 == parts.len();
        out.push_str(&format!("{}{lead}{name}:", " ".repeat(indent - lead.len())));
        lead.clear();
        if last {
            out.push_str(&if part.ends_with("[]") { format!(" [{value}]\n") } else { format!(" {value}\n") });
        } else {
            out.push('\n');
            indent += 2;
            if part.ends_with("[]") {
                indent += 2;
                lead = "- ".to_owned();
            }
        }
    }
    out
}

/// Whether the check complains about the type of this very option; what the sections find is not looked at.
fn type_is_refused(text: &str, path: &str) -> bool {
    let root = crate::yaml::parse(text, &Path::new("t.yaml").into()).unwrap().unwrap();
    let cx = Cx::new(Env::default(), PathBuf::new());
    crate::check::all(&root, &cx);
    cx.finish().0.iter().any(|mistake| mistake.key == path && mistake.fault.starts_with("must be "))
}

/// The path by which a mistake names the option.
fn path_of(key: &str) -> String {
    key.replace("[]", "[0]").replace("<name>", "anything")
}

#[test]
fn every_row_takes_a_right_type_and_refuses_a_wrong_one() {
    let mut checked = 0;
    for row in rows() {
        // Below an option that is refused as a whole, nobody looks.
        let hidden =
            ["modules[].", "listeners[].additional_resources."].iter().any(|parent| row.key.starts_with(parent));
        if hidden {
            continue;
        }
        let (right, wrong) = right_and_wrong(&row);
        let path = path_of(&row.key);
        let list = row.kind.starts_with("list of enum");
        let right = if list { format!("[{right}]") } else { right.to_owned() };
        let text = document(&row.key, &right);
        assert!(!type_is_refused(&text, &path), "{} does not take {right}:\n{text}", row.key);
        if let Some(wrong) = wrong {
            let text = document(&row.key, wrong);
            assert!(type_is_refused(&text, &path), "{} takes {wrong}:\n{text}", row.key);
            let mistakes = load(&text).expect_err(&text);
            let mistake = mistakes.0.iter().find(|mistake| mistake.key == path).unwrap();
            let line = u32::try_from(text.lines().count()).unwrap();
            assert_eq!(mistake.place.as_ref().unwrap().line, line, "{mistake}");
            checked += 1;
        }
    }
    assert!(checked > 550, "{checked}");
}

#[test]
fn every_refused_row_stops_the_start_with_reason_and_way_out() {
    for row in rows().iter().filter(|row| row.class == "reject" && row.key != "replication_torture_level") {
        let value = match by_type(&row.kind).0 {
            "{}" => "{enabled: true}",
            "[]" => "[{x: y}]",
            "'true'" => "true",
            "null" => "text",
            "1" => "true",
            value => value,
        };
        // Lists of texts hold texts.
        let value = if row.kind == "list of string" { "[elsewhere]" } else { value };
        let mistakes = load(&document(&row.key, value)).expect_err(&row.key);
        let top = path_of(&row.key);
        let about = mistakes.0.iter().find(|m| top.starts_with(&m.key) && m.fault.contains("is not possible here"));
        let about = about.unwrap_or_else(|| panic!("{}: {mistakes}", row.key));
        assert!(!about.way_out.is_empty() && about.place.is_some(), "{about}");
    }
}
