//! Holds the whole tree against the known rows: wrong types and refused options become mistakes; options without
//! effect, not yet in force or unknown become notices. Knows nothing of what single options mean, but for the few
//! values that make a refused option harmless.

use crate::{
    known::{Class, Kind, Known, Shape},
    mistakes::{Mistake, NoticeSort},
    read::{Cx, show},
    units,
    yaml::{Map, Node, Value},
};

/// The top-level section that is ours alone; `edge.rs` checks it.
pub(crate) const EDGE: &str = "edge";

/// Checks the tree of a whole configuration.
pub(crate) fn all(root: &Node, cx: &Cx) {
    let Value::Map(map) = &root.value else { return };
    let walk = Walk { cx, group: None };
    for (key, node) in map.0.iter().filter(|(key, _)| key != EDGE) {
        walk.entry(Shape::all(), key, key.clone(), node);
    }
}

/// Whether a value is of a kind.
pub(crate) fn fits(kind: Kind, node: &Node) -> bool {
    match kind {
        Kind::Any => true,
        Kind::Bool => units::bool(node).is_some(),
        Kind::BoolOr(words) => units::bool(node).is_some() || units::str(node).is_some_and(|s| words.contains(&s)),
        Kind::Int => units::int(node).is_some(),
        Kind::Number => units::number(node).is_some(),
        Kind::Str => units::str(node).is_some(),
        Kind::Text => units::text(node).is_some(),
        Kind::Duration => units::duration(node).is_some(),
        Kind::Size => units::size(node).is_some(),
        Kind::Enum(words) => {
            units::str(node).is_some_and(|s| words.contains(&s))
                || (node.value == Value::Bool(false) && words.contains(&"off"))
        }
        // What is inside is checked entry by entry, so that each mistake has its own line.
        Kind::List(_) => matches!(node.value, Value::List(_) | Value::Null),
        Kind::Object => matches!(node.value, Value::Map(_) | Value::Null),
        Kind::Maybe(inner) => {
            node.is_null() || fits(*inner, node) || (*inner == Kind::Duration && units::is_infinite(node))
        }
        Kind::Or(kinds) => kinds.iter().any(|kind| match (kind, &node.value) {
            (Kind::List(inner), Value::List(items)) => items.iter().all(|item| fits(**inner, item)),
            _ => fits(*kind, node),
        }),
    }
}

/// What a kind wants, in words.
pub(crate) fn wants(kind: Kind) -> String {
    match kind {
        Kind::Any => "anything".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::BoolOr(words) | Kind::Enum(words) => {
            let boolean = if matches!(kind, Kind::Enum(_)) { "one of: " } else { "true, false, " };
            format!("{boolean}{}", words.join(", "))
        }
        Kind::Int => "a whole number".to_owned(),
        Kind::Number => "a number".to_owned(),
        Kind::Str | Kind::Text => "text".to_owned(),
        Kind::Duration => "a duration such as 30s, 5m, 12h, 7d, or whole milliseconds".to_owned(),
        Kind::Size => "a size such as 512K, 50M, 1G, or whole bytes".to_owned(),
        Kind::List(_) => "a list".to_owned(),
        Kind::Object => "a mapping of keys to values".to_owned(),
        Kind::Maybe(inner) => format!("{}, or null", wants(*inner)),
        Kind::Or(kinds) => kinds.iter().map(|kind| wants(*kind)).collect::<Vec<_>>().join(", or "),
    }
}

/// What would put a value of the wrong type right, where that is easily seen.
fn hint(kind: Kind, node: &Node) -> &'static str {
    match (kind, &node.value) {
        (Kind::Maybe(inner), _) => hint(*inner, node),
        (Kind::Str, Value::Int(_) | Value::Float(_) | Value::Bool(_)) => "put it in quotes",
        (_, Value::Null) => "give it a value, or remove the line",
        (Kind::List(_), _) => "write each entry on a line of its own, after a dash",
        (Kind::Object, _) => "write its options below it, indented",
        _ => "",
    }
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    cx: &'a Cx,
    /// The parent that stands for all below it in notices of one sort.
    group: Option<(NoticeSort, &'a str)>,
}

impl Walk<'_> {
    fn entry(&self, parent: &Shape, key: &str, path: String, node: &Node) {
        let Some(shape) = parent.key(key) else {
            let text = format!("{path} is not an option that is known here; it is ignored.");
            self.cx.notice(NoticeSort::Unknown, &path, Some(node.place.clone()), text);
            return;
        };
        self.node(shape, &path, node);
    }

    fn node(&self, shape: &Shape, path: &str, node: &Node) {
        let Some(row) = shape.row else { return self.inside(shape, path, node) };
        if let (Class::Reject(reason, way_out), false) = (row.class, harmless(row, node)) {
            if !fits(row.kind, node) {
                return self.wrong_type(row.kind, path, node);
            }
            let fault = format!("is not possible here: {reason}");
            self.cx.mistake(mistake(path, node, fault).way_out(way_out));
            return;
        }
        if !fits(row.kind, node) {
            return self.wrong_type(row.kind, path, node);
        }
        let sort = notice_sort(row.class);
        match sort {
            Some(sort) if self.group.is_some_and(|(group, _)| group == sort) => {}
            Some(sort) if all_of(shape, sort) => {
                if differs(shape, node) {
                    self.say(row, sort, path, node);
                }
                return Walk { group: Some((sort, path)), ..*self }.inside(shape, path, node);
            }
            _ => {}
        }
        self.inside(shape, path, node);
    }

    fn inside(&self, shape: &Shape, path: &str, node: &Node) {
        match &node.value {
            Value::Map(map) if !shape.is_free() => self.map(shape, path, map),
            Value::List(items) => {
                let kind = shape.row.map(|row| row.kind);
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    match kind {
                        Some(Kind::List(kind)) if !fits(*kind, item) => self.wrong_type(*kind, &path, item),
                        _ => {
                            if let Some(shape) = &shape.item {
                                self.inside(shape, &path, item);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
        if path == "saml2_config.sp_config" {
            pysaml2_keys(self.cx, path, node);
        }
    }

    fn map(&self, shape: &Shape, path: &str, map: &Map) {
        for (key, node) in &map.0 {
            self.entry(shape, key, format!("{path}.{key}"), node);
        }
    }

    fn wrong_type(&self, kind: Kind, path: &str, node: &Node) {
        let fault = format!("must be {}", wants(kind));
        self.cx.mistake(mistake(path, node, fault).way_out(hint(kind, node)));
    }

    fn say(&self, row: &Known, sort: NoticeSort, path: &str, node: &Node) {
        let text = match row.class {
            Class::Accept(reason) => format!("{path} has no effect here: {reason}."),
            _ => format!("{path} is understood, but not yet in force."),
        };
        self.cx.notice(sort, path, Some(node.place.clone()), text);
    }
}

fn mistake(path: &str, node: &Node, fault: String) -> Mistake {
    Mistake::new(path, fault).at(node.place.clone()).value(show(path, node))
}

fn notice_sort(class: Class) -> Option<NoticeSort> {
    match class {
        Class::Accept(_) => Some(NoticeSort::NoEffect),
        Class::Later => Some(NoticeSort::NotYet),
        Class::Now | Class::Reject(..) => None,
    }
}

/// Whether all that is known below a place calls for the same sort of notice, so that the place may stand for it.
fn all_of(shape: &Shape, sort: NoticeSort) -> bool {
    let below = shape.keys.values().chain(shape.any_key.as_deref()).chain(shape.item.as_deref());
    shape.row.is_none_or(|row| matches!(row.class, Class::Reject(..)) || notice_sort(row.class) == Some(sort))
        && below.into_iter().all(|shape| all_of(shape, sort))
}

/// Whether something in the tree is set to other than its default.
fn differs(shape: &Shape, node: &Node) -> bool {
    match &node.value {
        Value::Null => false,
        Value::Map(map) if !shape.is_free() => {
            map.0.iter().any(|(key, node)| shape.key(key).is_some_and(|shape| differs(shape, node)))
        }
        Value::Map(map) => !map.0.is_empty(),
        _ => shape.row.is_none_or(|row| !is_default(row, node)),
    }
}

/// Whether a value says the same as the default of its row. An empty list is the default of all lists without one.
fn is_default(row: &Known, node: &Node) -> bool {
    let Some(default) = crate::known::default(row.key) else {
        return matches!(&node.value, Value::List(items) if items.is_empty());
    };
    default == node || same(row.kind, default, node)
}

fn same(kind: Kind, a: &Node, b: &Node) -> bool {
    fn equal<T: PartialEq>(read: impl Fn(&Node) -> Option<T>, a: &Node, b: &Node) -> bool {
        matches!((read(a), read(b)), (Some(a), Some(b)) if a == b)
    }
    match kind {
        Kind::Bool | Kind::BoolOr(_) => equal(units::bool, a, b),
        Kind::Int | Kind::Number => equal(units::number, a, b),
        Kind::Duration => equal(units::duration, a, b),
        Kind::Size => equal(units::size, a, b),
        Kind::Text => equal(|node| units::text(node).map(str::to_owned), a, b),
        Kind::Enum(_) => [a, b].iter().all(|n| n.value == Value::Bool(false) || units::str(n) == Some("off")),
        Kind::Maybe(inner) => (a.is_null() && units::is_infinite(b)) || same(*inner, a, b),
        _ => false,
    }
}

/// Whether a refused option is set to something that asks for nothing.
fn harmless(row: &Known, node: &Node) -> bool {
    let empty = match &node.value {
        Value::Null => true,
        Value::List(items) => items.is_empty(),
        Value::Map(map) => map.0.is_empty(),
        _ => false,
    };
    if empty || is_default(row, node) {
        return true;
    }
    let word = units::str(node).unwrap_or_default();
    let off = |key: &str| node.get(key).is_none_or(|node| node.is_null() || units::bool(node) == Some(false));
    match row.key {
        "media_storage_providers[].module" => is_file_system(word),
        "saml2_config.user_mapping_provider.module" => word.ends_with(".DefaultSamlMappingProvider"),
        "oidc_providers[].user_mapping_provider.module" => word.ends_with(".JinjaOidcMappingProvider"),
        "outbound_federation_restricted_to" => match &node.value {
            Value::List(items) => items.iter().all(|item| matches!(units::str(item), Some("main" | "master"))),
            _ => false,
        },
        "worker_app" => word == "synapse.app.homeserver",
        "worker_name" => matches!(word, "main" | "master"),
        "experimental_features.msc3861" | "experimental_features.msc3866" | "ldap_config" => {
            matches!(node.value, Value::Map(_)) && off("enabled")
        }
        "use_insecure_ssl_client_just_for_testing_do_not_use" => units::bool(node) == Some(false),
        _ => false,
    }
}

/// Whether a storage provider is the one of plain files, under the names it has had.
fn is_file_system(module: &str) -> bool {
    module == "file_system" || module.ends_with(".FileStorageProviderBackend")
}

/// The settings of pysaml2 that are understood; others may weaken the checks of signatures unseen, so they are refused.
fn pysaml2_keys(cx: &Cx, path: &str, node: &Node) {
    const KNOWN: &[&str] =
        &["metadata", "entityid", "service", "key_file", "cert_file", "encryption_keypairs", "xmlsec_binary"];
    const KNOWN_SERVICE: &[&str] =
        &["endpoints", "required_attributes", "optional_attributes", "allow_unsolicited", "name_id_format"];
    let refuse = |path: String, node: &Node| {
        let fault = "is a setting of pysaml2 that is not understood here".to_owned();
        cx.mistake(mistake(&path, node, fault).way_out("remove it"));
    };
    let unknown = |node: &Node, path: &str, known: &[&str]| {
        let Value::Map(map) = &node.value else { return };
        for (key, node) in map.0.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            refuse(format!("{path}.{key}"), node);
        }
    };
    unknown(node, path, KNOWN);
    if let Some(service) = node.get("service") {
        unknown(service, &format!("{path}.service"), &["sp"]);
        if let Some(sp) = service.get("sp") {
            unknown(sp, &format!("{path}.service.sp"), KNOWN_SERVICE);
        }
    }
}
