//! A YAML file as a tree of values that know their line.
//!
//! saphyr-parser knows the syntax; the meaning is that of YAML 1.1 as PyYAML's `safe_load` reads it, because that is what
//! the files were written for: `yes` and `off` are booleans, `0777` is octal, `<<` merges, the last of several equal keys
//! wins. What a plain word means is decided in `scalar`.

mod scalar;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::Path, sync::Arc};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::mistakes::{Mistake, Place};

/// Deeper nesting than this is no configuration.
const MAX_DEPTH: usize = 64;
/// More values than this, aliases unfolded, is no configuration either.
const MAX_NODES: usize = 200_000;

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What it is.
    pub value: Value,
    /// How a scalar was written, without quotes; empty for lists and mappings.
    pub raw: String,
    /// Where it begins.
    pub place: Place,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null`, `~` or nothing at all.
    Null,
    /// A boolean of YAML 1.1.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction, or too large to be whole.
    Float(f64),
    /// Text; dates are text too.
    Str(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file, without duplicates.
    Map(Map),
}

/// A mapping in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Map(pub Vec<(String, Node)>);

impl PartialEq for Node {
    /// Same value, wherever it stands.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Node {
    /// What stands under a key, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// Whether it is null.
    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }
}

impl Map {
    /// What stands under a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Sets a key; an older value goes, and its position in the order with it.
    pub(crate) fn set(&mut self, key: String, node: Node) {
        self.remove(&key);
        self.0.push((key, node));
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Node> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }
}

/// Reads one document. `None` when there is none (an empty file). The error is one mistake with its line.
pub(crate) fn parse(text: &str, file: &Arc<Path>) -> Result<Option<Node>, Mistake> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(file.clone());
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| builder.scan_error(&error))?;
        builder.event(event, span)?;
    }
    Ok(builder.root)
}

/// A list or mapping whose end has not come yet.
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    /// `key` is the one whose value comes next; `merged` the pairs that `<<` brought.
    Map {
        own: Map,
        merged: Map,
        key: Option<(String, bool)>,
    },
}

struct Builder {
    file: Arc<Path>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

impl Builder {
    fn new(file: Arc<Path>) -> Self {
        Self { file, open: Vec::new(), anchors: HashMap::new(), nodes: 0, documents: 0, root: None }
    }

    fn place(&self, span: Span) -> Place {
        Place { file: self.file.clone(), line: u32::try_from(span.start.line()).unwrap_or(u32::MAX) }
    }

    fn fault(&self, place: Place, fault: impl Into<String>) -> Mistake {
        Mistake::new("", fault).at(place)
    }

    fn scan_error(&self, error: &ScanError) -> Mistake {
        let line = u32::try_from(error.marker().line()).unwrap_or(u32::MAX);
        let place = Place { file: self.file.clone(), line };
        self.fault(place, format!("is not valid YAML here: {}", error.info()))
            .way_out("often an indentation with tabs, a missing quote, or a colon in unquoted text")
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let place = self.place(span);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(self
                        .fault(place, "a second document begins with ---")
                        .way_out("keep one document in a file"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let value =
                    scalar::resolve(&text, plain, tag.as_deref()).map_err(|why| self.fault(place.clone(), why))?;
                // `<<` merges only where it is neither quoted nor a value.
                let merge = plain && tag.is_none() && text == "<<";
                self.put(Node { value, raw: text.into_owned(), place }, anchor, merge)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.known_tag(tag.as_deref(), "seq", &place)?;
                self.open(Open { place, anchor, kind: OpenKind::List(Vec::new()) })?;
            }
            Event::MappingStart(anchor, tag) => {
                self.known_tag(tag.as_deref(), "map", &place)?;
                let kind = OpenKind::Map { own: Map::default(), merged: Map::default(), key: None };
                self.open(Open { place, anchor, kind })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.fault(place, "an alias (*name) stands inside of what it names"));
                };
                self.nodes += count(&node);
                self.put(node, 0, false)?;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn known_tag(&self, tag: Option<&Tag>, own: &str, place: &Place) -> Result<(), Mistake> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == own) => {
                Err(self.fault(place.clone(), format!("the tag {}{} means nothing here", tag.handle, tag.suffix)))
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Mistake> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.fault(open.place, format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Mistake> {
        let Some(Open { place, anchor, kind }) = self.open.pop() else { return Ok(()) };
        let value = match kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map { own, mut merged, .. } => {
                // What the mapping says itself stands above what it merged.
                merged.0.retain(|(key, _)| own.get(key).is_none());
                merged.0.extend(own.0);
                Value::Map(merged)
            }
        };
        self.put(Node { value, raw: String::new(), place }, anchor, false)
    }

    /// Hands a finished node to what is open around it.
    fn put(&mut self, node: Node, anchor: usize, merge: bool) -> Result<(), Mistake> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.fault(node.place, format!("holds more than {MAX_NODES} values")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { key: key @ None, .. } => match node.value {
                Value::List(_) | Value::Map(_) => {
                    return Err(self
                        .fault(node.place, "a list or mapping cannot be a key")
                        .way_out("if text was meant, such as {{ template }}, put it in quotes"));
                }
                _ => *key = Some((node.raw, merge)),
            },
            OpenKind::Map { own, merged, key } => match key.take() {
                Some((_, true)) => {
                    let place = node.place.clone();
                    if !merge_into(merged, node) {
                        return Err(self.fault(place, "<< wants a mapping or a list of mappings"));
                    }
                }
                Some((name, false)) => own.set(name, node),
                None => {}
            },
        }
        Ok(())
    }
}

/// Adds what a merge key names; of a list, the first mapping that has a key wins.
fn merge_into(merged: &mut Map, node: Node) -> bool {
    match node.value {
        Value::Map(map) => map.0.into_iter().for_each(|(key, node)| merged.set(key, node)),
        Value::List(items) => {
            for item in items.into_iter().rev() {
                let Value::Map(map) = item.value else { return false };
                map.0.into_iter().for_each(|(key, node)| merged.set(key, node));
            }
        }
        _ => return false,
    }
    true
}

fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(map) => map.0.iter().map(|(_, node)| count(node)).sum(),
        _ => 0,
    }
}
