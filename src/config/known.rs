//! Every option of a homeserver.yaml that we know of: its type, its default and what we make of it.
//!
//! The rows stand in `known/*.rs`, one line an option, and are the one source for the type check, for the defaults of the
//! typed sections, and for what is said at start about options without effect. An option that the server learns to act on
//! moves here from `Later` to `Now`, and in no other place. A test holds the rows against the checklist.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, LazyLock},
};

use crate::yaml::{self, Node};

mod accounts;
mod features;
mod federation;
mod limits;
mod mail;
mod media;
mod old;
mod reasons;
mod rooms;
mod server;
mod sso;
mod workers;

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whatever it is, some code of ours looks at it, or nobody does.
    Any,
    /// A boolean, with all the spellings that people use.
    Bool,
    /// A boolean, or one of these words.
    BoolOr(&'static [&'static str]),
    /// A whole number.
    Int,
    /// A number, with or without a fraction.
    Number,
    /// Text. A bare number is refused, because `0123` and `1e3` would not mean what they look like.
    Str,
    /// Text that is so often written as a bare number that it may be one (`default_room_version: 10`).
    Text,
    /// Whole milliseconds, or a number with s, m, h, d, w or y.
    Duration,
    /// Whole bytes, or a number with K, M, G or T (1024-based).
    Size,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A list of such values. Null is an empty one.
    List(&'static Kind),
    /// A mapping; its keys have rows of their own, or are free. Null is an empty one.
    Object,
    /// Such a value or null, which means "off" or "not set".
    Maybe(&'static Kind),
    /// A value of one of these kinds.
    Or(&'static [Kind]),
}

/// What we make of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Acted upon.
    Now,
    /// Will be acted upon when the feature is there; named at start when it is set to something.
    Later,
    /// Read and checked, without effect; the reason.
    Accept(&'static str),
    /// Not started with; the reason and the way out.
    Reject(&'static str, &'static str),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Where it stands: `a.b`, `list[].key`, `map.<name>`.
    pub key: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default, as YAML; empty when there is none.
    pub default: &'static str,
    /// What we make of it.
    pub class: Class,
}

const fn k(key: &'static str, kind: Kind, default: &'static str, class: Class) -> Known {
    Known { key, kind, default, class }
}

/// The names of resources that a listener may carry.
pub(crate) const RESOURCES: &[&str] =
    &["client", "consent", "federation", "keys", "media", "metrics", "openid", "replication", "static", "health"];

/// All rows.
pub(crate) fn rows() -> impl Iterator<Item = &'static Known> {
    [
        server::ROWS,
        accounts::ROWS,
        sso::ROWS,
        mail::ROWS,
        rooms::ROWS,
        limits::ROWS,
        media::ROWS,
        federation::ROWS,
        features::ROWS,
        workers::ROWS,
        old::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// The rows as a tree that follows the shape of the file.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// The row of this very place; none for a parent that has no row of its own.
    pub row: Option<&'static Known>,
    /// What stands under which key of the mapping.
    pub keys: BTreeMap<&'static str, Shape>,
    /// What stands under any other key.
    pub any_key: Option<Box<Shape>>,
    /// What an entry of the list is.
    pub item: Option<Box<Shape>>,
}

impl Shape {
    /// The tree of all rows.
    pub(crate) fn all() -> &'static Self {
        static ALL: LazyLock<Shape> = LazyLock::new(|| {
            let mut all = Shape::default();
            for row in rows() {
                let mut at = &mut all;
                for part in row.key.split('.') {
                    let name = part.trim_end_matches("[]");
                    at = if name == "<name>" {
                        at.any_key.get_or_insert_default()
                    } else {
                        at.keys.entry(name).or_default()
                    };
                    if part.ends_with("[]") {
                        at = at.item.get_or_insert_default();
                    }
                }
                at.row = Some(row);
            }
            all
        });
        &ALL
    }

    /// What stands under this key.
    pub(crate) fn key(&self, name: &str) -> Option<&Self> {
        self.keys.get(name).or(self.any_key.as_deref())
    }

    /// Whether nothing is known of what is inside, so that anything may be.
    pub(crate) fn is_free(&self) -> bool {
        self.keys.is_empty() && self.any_key.is_none()
    }
}

/// The file that defaults claim to stand in.
pub(crate) const DEFAULT_FILE: &str = "(default)";

/// The default of an option, as if it stood in the file. `None` when it has none.
pub(crate) fn default(key: &str) -> Option<&'static Node> {
    static DEFAULTS: LazyLock<HashMap<&'static str, Node>> = LazyLock::new(|| {
        let file: Arc<Path> = Path::new(DEFAULT_FILE).into();
        let parse = |row: &'static Known| Some((row.key, yaml::parse(row.default, &file).ok()??));
        rows().filter(|row| !row.default.is_empty()).filter_map(parse).collect()
    });
    DEFAULTS.get(key)
}
