//! From our tree to [`EdgeConfig`] by serde, with each mistake at its line.
//!
//! serde ends at the first value that it cannot take. So that value is cut out and the rest is read again, until all of
//! them are told.

use std::collections::BTreeSet;

use crate::{
    edge::EdgeConfig,
    mistakes::{Mistake, NoticeSort},
    read::{At, show, to_json},
    yaml::{Node, Value},
};

/// The section as far as it can be read.
#[derive(Default)]
pub(crate) struct Section {
    /// None where it is absent or null, or is no mapping.
    pub config: Option<EdgeConfig>,
    /// The paths of what could not be taken.
    cuts: BTreeSet<String>,
}

/// The parts that are mappings of known keys, below the section.
const MAPPINGS: &[&str] = &[
    "",
    "listen",
    "acme",
    "acme.eab",
    "certificates[]",
    "element",
    "admin_ui",
    "apps[]",
    "upstreams[]",
    "admin_api",
    "limits",
    "well_known",
];
const MAPPING: &str = "must be a mapping of keys to values";

/// Reads the section that stands under a key of the top.
pub(crate) fn read(top: &At<'_>, key: &str) -> Section {
    let mut section = Section::default();
    let (Some(root), Some(node)) = (top.node(), top.get(key).node()) else { return section };
    section.mappings(top, node, key, "");
    while let Some(rest) = section.rest(node, key) {
        match serde_path_to_error::deserialize::<_, EdgeConfig>(rest) {
            Ok(config) => {
                config.check().iter().for_each(|(path, sentence)| section.wrong(top, path, sentence));
                section.config = Some(config);
                break;
            }
            Err(error) => {
                let below = Some(error.path().to_string()).filter(|path| path != ".");
                let path = section.path(&below.map_or(key.to_owned(), |below| format!("{key}.{below}")));
                let sentence = in_words(&error.into_inner().to_string());
                if !section.lacks_by_cut(&path, &sentence) {
                    note(top, &path, &sentence);
                }
                section.cuts.insert(find(root, &path).1);
            }
        }
    }
    section
}

impl Section {
    /// Notes a mistake by its path, in this section as it was read or anywhere else in the configuration. What follows from
    /// another mistake is left out.
    pub fn wrong(&self, top: &At<'_>, path: &str, sentence: &str) {
        let path = self.path(path);
        let is_below =
            |cut: &String| cut.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if !self.cuts.iter().any(is_below) {
            note(top, &path, sentence);
        }
    }

    /// Cuts out lists that stand where serde would take them for mappings without keys.
    fn mappings(&mut self, top: &At<'_>, node: &Node, path: &str, below: &str) {
        match &node.value {
            Value::List(_) if MAPPINGS.contains(&below) => {
                note(top, path, MAPPING);
                self.cuts.insert(path.to_owned());
            }
            Value::List(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.mappings(top, item, &format!("{path}[{n}]"), &format!("{below}[]"));
                }
            }
            Value::Map(map) => {
                for (key, node) in &map.0 {
                    self.mappings(top, node, &join(path, key), &join(below, key));
                }
            }
            _ => {}
        }
    }

    /// What is left of a part of the section.
    fn rest(&self, node: &Node, path: &str) -> Option<serde_json::Value> {
        if self.cuts.contains(path) {
            return None;
        }
        Some(match &node.value {
            Value::List(items) => {
                let items = items.iter().enumerate();
                items.filter_map(|(n, item)| self.rest(item, &format!("{path}[{n}]"))).collect()
            }
            Value::Map(map) => {
                let entries = map.0.iter();
                entries
                    .filter_map(|(key, node)| Some((key.clone(), self.rest(node, &format!("{path}.{key}"))?)))
                    .collect()
            }
            _ => to_json(node),
        })
    }

    /// The path in the file of what stands at a path of what is left.
    fn path(&self, left: &str) -> String {
        let mut path = String::new();
        for step in steps(left) {
            path = match step {
                Step::Index(index) => {
                    let kept = |n: &usize| !self.cuts.contains(&format!("{path}[{n}]"));
                    format!("{path}[{}]", (0..).filter(kept).nth(index).unwrap_or(index))
                }
                Step::Key(key) => join(&path, key),
            };
        }
        path
    }

    /// Whether something is only missing because it was cut out.
    fn lacks_by_cut(&self, path: &str, sentence: &str) -> bool {
        let missing = sentence.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        missing.is_some_and(|key| self.cuts.contains(&join(path, key)))
    }
}

/// What serde says of a type, without the names of ours.
fn in_words(sentence: &str) -> String {
    if sentence.contains("expected struct ") {
        MAPPING.to_owned()
    } else if sentence.ends_with("expected a sequence") {
        "must be a list".to_owned()
    } else {
        sentence.to_owned()
    }
}

fn note(top: &At<'_>, path: &str, sentence: &str) {
    let mut mistake = Mistake::new(path, sentence);
    if let Some(root) = top.node() {
        let (node, found) = find(root, path);
        if !found.is_empty() {
            mistake = mistake.at(node.place.clone());
        }
        if found == path {
            mistake = mistake.value(show(path, node));
        }
    }
    top.cx().mistake(mistake);
}

/// Notes what is told and is no mistake.
pub(crate) fn warn(top: &At<'_>, path: &str, sentence: &str) {
    let place = top.node().map(|root| find(root, path)).filter(|(_, found)| !found.is_empty());
    top.cx().notice(
        NoticeSort::Warning,
        path,
        place.map(|(node, _)| node.place.clone()),
        format!("{path}: {sentence}."),
    );
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// The steps of a path such as `edge.apps[0].folder`.
fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| {
        let index = part.strip_suffix(']').and_then(|index| index.parse().ok());
        index.map_or(Step::Key(part), Step::Index)
    })
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The node at a path, or the deepest one on the way, and its own path.
fn find<'a>(mut node: &'a Node, path: &str) -> (&'a Node, String) {
    let mut found = String::new();
    for step in steps(path) {
        let (next, path) = match (&step, &node.value) {
            (Step::Index(index), Value::List(items)) => (items.get(*index), format!("{found}[{index}]")),
            (Step::Index(_), _) => (None, String::new()),
            (Step::Key(key), _) => (node.get(key), join(&found, key)),
        };
        match next {
            Some(next) => (node, found) = (next, path),
            None => break,
        }
    }
    (node, found)
}
