//! How the typed sections read: a place in the tree that may be empty, and methods that turn it into values.
//!
//! A place knows its path, so that every mistake can name it, and its row in [`crate::known`], so that the default is
//! written down once, there. A method that finds something of the wrong type notes the mistake and goes on with a
//! nothing-value, which nobody sees, because a configuration with mistakes is never handed out.

mod forms;

use std::{
    cell::RefCell,
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use url::Url;

pub(crate) use self::forms::{show, to_json, with_carriers};

use crate::{
    env::Env,
    known,
    mistakes::{Mistake, Notice, NoticeSort, Place},
    secret::Secret,
    units,
    yaml::{Node, Value},
};

/// What all places share: where mistakes and notices go, and the surroundings of the process.
pub(crate) struct Cx {
    mistakes: RefCell<Vec<Mistake>>,
    notices: RefCell<Vec<Notice>>,
    named: RefCell<HashSet<String>>,
    /// The process environment.
    pub env: Env,
    /// The directory of the last file, where the signing key is looked for by default.
    pub dir: PathBuf,
}

impl Cx {
    /// Nothing found yet.
    pub(crate) fn new(env: Env, dir: PathBuf) -> Self {
        Self { mistakes: RefCell::default(), notices: RefCell::default(), named: RefCell::default(), env, dir }
    }

    /// Notes a mistake. Of several about one option only the first is kept: the others follow from it.
    pub(crate) fn mistake(&self, mistake: Mistake) {
        if mistake.key.is_empty() || self.named.borrow_mut().insert(mistake.key.clone()) {
            self.mistakes.borrow_mut().push(mistake);
        }
    }

    /// Notes something worth a line in the log.
    pub(crate) fn notice(&self, sort: NoticeSort, key: &str, place: Option<Place>, text: String) {
        self.notices.borrow_mut().push(Notice { key: key.to_owned(), place, sort, text });
    }

    /// Whether all files could be read; where one could not, what it holds would be missed by mistake.
    pub(crate) fn is_readable(&self) -> bool {
        !self.mistakes.borrow().iter().any(|mistake| mistake.key.is_empty())
    }

    /// What was found.
    pub(crate) fn finish(self) -> (Vec<Mistake>, Vec<Notice>) {
        (self.mistakes.into_inner(), self.notices.into_inner())
    }
}

/// A place in the tree.
#[derive(Clone)]
pub(crate) struct At<'a> {
    cx: &'a Cx,
    node: Option<&'a Node>,
    /// What it stands in, below the top: where to look if it is absent.
    around: Option<&'a Node>,
    path: String,
    row: String,
}

impl<'a> At<'a> {
    /// The top of the tree.
    pub(crate) fn root(cx: &'a Cx, node: &'a Node) -> Self {
        Self { cx, node: Some(node), around: None, path: String::new(), row: String::new() }
    }

    pub(crate) fn cx(&self) -> &'a Cx {
        self.cx
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The place under a key; `a.b` goes down two levels.
    pub(crate) fn get(&self, keys: &str) -> Self {
        keys.split('.').fold(self.clone(), |at, key| at.child(key, key))
    }

    fn child(&self, key: &str, row_key: &str) -> Self {
        let join = |parent: &str, key: &str| if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        Self {
            cx: self.cx,
            node: self.node.and_then(|node| node.get(key)),
            around: self.node.filter(|_| !self.path.is_empty()).or(self.around),
            path: join(&self.path, key),
            row: join(&self.row, row_key),
        }
    }

    /// Whether the option is written down with a value.
    pub(crate) fn is_set(&self) -> bool {
        self.node.is_some_and(|node| !node.is_null())
    }

    /// The value, or the default of the option, if it is not null.
    pub(crate) fn node(&self) -> Option<&'a Node> {
        let value = |node: &&Node| !node.is_null();
        self.node.filter(value).or_else(|| known::default(&self.row).filter(value))
    }

    /// Like [`Self::node`], but an explicit null means "none", not "the default".
    fn optional(&self) -> Option<&'a Node> {
        match self.node {
            Some(node) => Some(node),
            None => known::default(&self.row),
        }
        .filter(|node| !node.is_null())
    }

    /// Notes that this place is wrong.
    pub(crate) fn wrong(&self, fault: impl Into<String>, way_out: impl Into<String>) {
        let mut mistake = Mistake::new(self.path.clone(), fault).way_out(way_out);
        let is_written = |node: &&Node| node.place.file.as_os_str() != known::DEFAULT_FILE;
        if let Some(node) = self.node.filter(is_written) {
            mistake = mistake.at(node.place.clone()).value(show(&self.path, node));
        } else if let Some(around) = self.around.filter(is_written) {
            mistake = mistake.at(around.place.clone());
        }
        self.cx.mistake(mistake);
    }

    /// Notes that what has to stand in this mapping does not.
    pub(crate) fn lacks(&self, key: &str, way_out: &str) {
        let mut mistake = Mistake::new(key, "must be set").way_out(way_out);
        if let Some(node) = self.node.filter(|node| !node.place.file.as_os_str().is_empty()) {
            // Wherever its first option stands, the file as a whole is meant.
            mistake = mistake.at(Place { line: 1, ..node.place.clone() });
        }
        self.cx.mistake(mistake);
    }

    /// Notes something about this place that is worth a line in the log.
    pub(crate) fn notice(&self, sort: NoticeSort, text: String) {
        self.cx.notice(sort, &self.path, self.node.map(|node| node.place.clone()), text);
    }

    fn want<T>(&self, node: Option<&'a Node>, what: &str, read: impl Fn(&'a Node) -> Option<T>) -> Option<T> {
        let value = node.and_then(&read);
        if value.is_none() {
            match node {
                Some(_) => self.wrong(format!("must be {what}"), ""),
                None => self.wrong(format!("must be set: {what}"), ""),
            }
        }
        value
    }

    /// A boolean.
    pub(crate) fn bool(&self) -> bool {
        self.want(self.node(), "true or false", units::bool).unwrap_or_default()
    }

    /// A boolean that may be absent.
    pub(crate) fn opt_bool(&self) -> Option<bool> {
        self.optional().and_then(|node| self.want(Some(node), "true or false", units::bool))
    }

    /// A whole number that fits into `T`.
    pub(crate) fn int<T: TryFrom<i64> + Default>(&self) -> T {
        self.want(self.node(), "a whole number in range", |node| units::int(node).and_then(|n| n.try_into().ok()))
            .unwrap_or_default()
    }

    /// A whole number that may be absent or null.
    pub(crate) fn opt_int<T: TryFrom<i64> + Default>(&self) -> Option<T> {
        self.optional().map(|_| self.int())
    }

    /// A number.
    pub(crate) fn number(&self) -> f64 {
        self.want(self.node(), "a number", units::number).unwrap_or_default()
    }

    /// Text (or a bare number, where the type check let it pass).
    pub(crate) fn str(&self) -> String {
        self.want(self.node(), "text", units::text).unwrap_or_default().to_owned()
    }

    /// Text that may be absent or null.
    pub(crate) fn opt_str(&self) -> Option<String> {
        self.optional().map(|_| self.str())
    }

    /// A path, relative to the working directory of the process.
    pub(crate) fn path_buf(&self) -> PathBuf {
        PathBuf::from(self.str())
    }

    /// A path that may be absent, null or empty.
    pub(crate) fn opt_path(&self) -> Option<PathBuf> {
        self.opt_str().filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// A duration.
    pub(crate) fn duration(&self) -> Duration {
        self.want(self.node(), "a duration such as 30s, 5m, 12h, 7d, or whole milliseconds", units::duration)
            .unwrap_or_default()
    }

    /// A duration that may be off: absent, null or `infinity`.
    pub(crate) fn opt_duration(&self) -> Option<Duration> {
        self.optional().filter(|node| !units::is_infinite(node)).map(|_| self.duration())
    }

    /// A size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.want(self.node(), "a size such as 512K, 50M, 1G, or whole bytes", units::size).unwrap_or_default()
    }

    /// A size that may be off.
    pub(crate) fn opt_size(&self) -> Option<u64> {
        self.optional().map(|_| self.size())
    }

    /// One of some words; each stands for a value.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let list = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let node = self.node();
        let found = node.and_then(|node| {
            // YAML turns a bare `off` into a boolean.
            let text = if node.value == Value::Bool(false) { "off" } else { units::text(node)? };
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        });
        if found.is_none() {
            self.wrong("is not one of the possible words", format!("choose one of: {}", list()));
        }
        found
    }

    /// Text in the form that `T` reads.
    pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(&self, what: &str) -> Option<T> {
        let text = self.want(self.node(), what, units::text)?;
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(format!("must be {what}: {error}"), "");
                None
            }
        }
    }

    /// An `http` or `https` address.
    pub(crate) fn opt_url(&self) -> Option<Url> {
        let url: Url = self.optional().and_then(|_| self.parse("an http or https URL"))?;
        if matches!(url.scheme(), "http" | "https") && url.has_host() {
            return Some(url);
        }
        self.wrong("must be an http or https URL", "write it as https://chat.example.com/");
        None
    }

    /// The entries of a list; none when absent or null.
    pub(crate) fn items(&self) -> Vec<At<'a>> {
        let Some(node) = self.node() else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.wrong("must be a list", "write each entry on a line of its own, after a dash");
            return Vec::new();
        };
        let entry = |(i, node)| At {
            cx: self.cx,
            node: Some(node),
            around: None,
            path: format!("{}[{i}]", self.path),
            row: format!("{}[]", self.row),
        };
        items.iter().enumerate().map(entry).collect()
    }

    /// The entries of a list that may be absent, which is not the same as empty.
    pub(crate) fn opt_items(&self) -> Option<Vec<At<'a>>> {
        self.optional().map(|_| self.items())
    }

    /// The texts of a list.
    pub(crate) fn strings(&self) -> Vec<String> {
        self.items().iter().map(At::str).collect()
    }

    /// Each entry of a list, read by `read`; entries that are wrong are left out.
    pub(crate) fn each<T>(&self, read: impl FnMut(&At<'a>) -> Option<T>) -> Vec<T> {
        self.items().iter().filter_map(read).collect()
    }

    /// The keys of a mapping and what stands under them; none when absent or null.
    pub(crate) fn entries(&self) -> Vec<(String, At<'a>)> {
        let Some(node) = self.node() else { return Vec::new() };
        let Value::Map(map) = &node.value else {
            self.wrong("must be a mapping of keys to values", "");
            return Vec::new();
        };
        let child = |key: &String| {
            let mut at = self.child(key, "<name>");
            at.node = map.get(key);
            (key.clone(), at)
        };
        map.0.iter().map(|(key, _)| child(key)).collect()
    }

    /// Networks in CIDR form; a bare address is a network of one.
    pub(crate) fn nets(&self) -> Vec<IpNet> {
        self.each(|at| {
            let text = at.str();
            let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
            if net.is_none() {
                at.wrong("must be an address range", "write it as 10.0.0.0/8 or fe80::/10");
            }
            net.map(|net| net.trunc())
        })
    }

    /// The same, for ranges that must hold however an address is written: each IPv4 range comes with the IPv6 ranges
    /// that carry it (mapped, compatible, 6to4).
    pub(crate) fn nets_and_carriers(&self) -> Vec<IpNet> {
        self.nets().into_iter().flat_map(with_carriers).collect()
    }

    /// What the option holds, as JSON, for what is passed on as it is.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.node().map_or(serde_json::Value::Null, to_json)
    }

    /// The secret under `key`, or in the file that `key_path` names; of the two only one may be set.
    pub(crate) fn secret(&self, key: &str) -> Option<Secret<String>> {
        let (inline, file) = (self.get(key), self.get(&format!("{key}_path")));
        if inline.is_set() && file.is_set() {
            file.wrong(format!("stands beside {}", inline.path), "keep one of the two");
            return None;
        }
        if inline.is_set() {
            return inline.opt_str().map(Secret::new);
        }
        let path = file.opt_path()?;
        let text = file.read_file(&path)?;
        let secret = text.trim();
        if secret.is_empty() {
            file.wrong(format!("names {}, which is empty", path.display()), "write the secret into it");
            return None;
        }
        Some(Secret::new(secret.to_owned()))
    }

    /// The text of a file that this option names; what keeps it from being read is a mistake of this option.
    pub(crate) fn read_file(&self, path: &Path) -> Option<String> {
        match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                let way_out = match error.kind() {
                    io::ErrorKind::PermissionDenied => "let the user that runs the server read it (chown, chmod)",
                    io::ErrorKind::NotFound if path.is_relative() => {
                        "relative paths begin at the working directory of the process"
                    }
                    _ => "",
                };
                self.wrong(format!("names {}, which cannot be read: {error}", path.display()), way_out);
                None
            }
        }
    }
}
