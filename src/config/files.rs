//! Which files make up the configuration, how they become one tree, and how new ones are made.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    env::Env,
    mistakes::{Mistake, NoticeSort, Place},
    read::Cx,
    yaml::{self, Map, Node, Value},
};

/// The files that were named by `-c`, or else by the variables of Synapse's container image.
pub(crate) fn named(paths: &[PathBuf], env: &Env) -> Vec<PathBuf> {
    if !paths.is_empty() {
        return paths.to_vec();
    }
    let path = env.get("SYNAPSE_CONFIG_PATH").map(PathBuf::from);
    let in_dir = || env.get("SYNAPSE_CONFIG_DIR").map(|dir| Path::new(dir).join("homeserver.yaml"));
    path.or_else(in_dir).into_iter().collect()
}

/// Refuses what the container image would have started instead of a whole server.
pub(crate) fn check_environment(cx: &Cx) {
    if let Some(module) = cx.env.get("SYNAPSE_WORKER").filter(|module| *module != "synapse.app.homeserver") {
        let fault = format!("asks for {module}, a worker, which Hearth does not have and does not need");
        cx.mistake(Mistake::new("SYNAPSE_WORKER", fault).way_out("start Hearth once, and no workers"));
    }
}

/// The directory of the last named file: where a signing key is looked for when no path is given.
pub(crate) fn directory(named: &[PathBuf]) -> PathBuf {
    let Some(last) = named.last() else { return PathBuf::from(".") };
    let dir = if last.is_dir() { Some(last.as_path()) } else { last.parent() };
    dir.filter(|dir| !dir.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Reads all files into one mapping: a top-level key of a later file replaces the earlier one whole.
pub(crate) fn read(named: &[PathBuf], cx: &Cx) -> Node {
    let mut all = Map::default();
    let mut place = None;
    if named.is_empty() {
        cx.mistake(Mistake::new("", "no configuration is given").way_out("name a homeserver.yaml by -c"));
    }
    for file in named.iter().flat_map(|path| expand(path, cx)) {
        let file: Arc<Path> = file.into();
        let Some(node) = read_one(&file, cx) else {
            place.get_or_insert(Place { file, line: 1 });
            continue;
        };
        place.get_or_insert(node.place);
        if let Value::Map(map) = node.value {
            map.0.into_iter().for_each(|(key, node)| all.set(key, node));
        }
    }
    let place = place.unwrap_or_else(|| Place { file: Path::new("").into(), line: 1 });
    Node { value: Value::Map(all), raw: String::new(), place }
}

/// A file stands for itself, a directory for its `*.yaml` in alphabetical order.
fn expand(path: &Path, cx: &Cx) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            let fault = format!("{} cannot be read: {error}", path.display());
            cx.mistake(Mistake::new("", fault));
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let file = entry.path();
        if file.is_file() && file.extension().is_some_and(|ext| ext == "yaml") {
            files.push(file);
        } else {
            let text = format!("{} is no *.yaml file and was skipped.", file.display());
            cx.notice(NoticeSort::Other, "", None, text);
        }
    }
    files.sort();
    files
}

fn read_one(file: &Arc<Path>, cx: &Cx) -> Option<Node> {
    let place = Place { file: file.clone(), line: 1 };
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            cx.mistake(Mistake::new("", format!("{} cannot be read: {error}", file.display())));
            return None;
        }
    };
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let newlines = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(newlines + 1).unwrap_or(u32::MAX);
            let fault = Mistake::new("", "holds bytes that are not UTF-8").way_out("save the file as UTF-8");
            cx.mistake(fault.at(Place { line, ..place }));
            return None;
        }
    };
    match yaml::parse(&text, file) {
        Err(mistake) => {
            cx.mistake(mistake);
            None
        }
        Ok(Some(node)) if matches!(node.value, Value::Map(_)) => Some(node),
        Ok(_) => {
            let text = format!("{} is empty or holds no options, and was skipped.", file.display());
            cx.notice(NoticeSort::Other, "", Some(place), text);
            None
        }
    }
}

/// Writes a file that must not exist yet. It is there whole and on the disk, or not at all: the rest of one for which the
/// disk had no room would be taken for a file that somebody made.
pub(crate) fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}
