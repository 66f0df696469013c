//! From our tree to [`EdgeConfig`] by serde, with each mistake at its line.

use crate::{
    edge::{self, EdgeConfig},
    mistakes::Mistake,
    read::{At, show, to_json},
    yaml::{Node, Value},
};

/// What is wrong with a section whose values all have their form, for whoever can see more of it than we do.
pub(crate) type Examine<'a> = &'a dyn Fn(&EdgeConfig) -> Vec<edge::Mistake>;

/// Reads the section; `Some(None)` if it is absent or null, `None` after a mistake.
pub(crate) fn read(at: &At<'_>, examine: Examine<'_>) -> Option<Option<EdgeConfig>> {
    let Some(node) = at.node() else { return Some(None) };
    let config = match serde_path_to_error::deserialize::<_, EdgeConfig>(to_json(node)) {
        Ok(config) => config,
        Err(error) => {
            let path = error.path().to_string();
            wrong(at, node, if path == "." { "" } else { &path }, &error.into_inner().to_string());
            return None;
        }
    };
    for (path, sentence) in config.check().into_iter().chain(examine(&config)) {
        wrong(at, node, &path, &sentence);
    }
    Some(Some(config))
}

fn wrong(at: &At<'_>, section: &Node, path: &str, sentence: &str) {
    let path = path.strip_prefix("edge.").unwrap_or(path);
    let (node, whole) = find(section, path);
    let key = if path.is_empty() { at.path().to_owned() } else { format!("{}.{path}", at.path()) };
    let mut mistake = Mistake::new(&key, sentence).at(node.place.clone());
    if whole {
        mistake = mistake.value(show(&key, node));
    }
    at.cx().mistake(mistake);
}

/// The node at a path such as `apps[0].folder`, or the deepest one on the way, and whether it is the whole way.
fn find<'a>(mut node: &'a Node, path: &str) -> (&'a Node, bool) {
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        let next = match (&node.value, part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok())) {
            (Value::List(items), Some(index)) => items.get(index),
            _ => node.get(part),
        };
        match next {
            Some(next) => node = next,
            None => return (node, false),
        }
    }
    (node, true)
}
