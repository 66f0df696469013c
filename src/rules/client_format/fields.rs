//! `event_fields` of a filter (client-server API, "Filtering"): which properties of an event a client wants at all.
//! Paths are dot-separated (appendices, "Dot-separated property paths").

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Unsigned, write_client_event};
use crate::{event::Pdu, property_path};

/// How deep a path may reach; deeper ones keep the whole property at that depth.
const MAX_DEPTH: usize = 16;

/// The wanted properties, parsed once per filter.
#[derive(Debug, Clone, Default)]
pub struct EventFields {
    tree: BTreeMap<String, EventFields>,
    /// Everything below is wanted.
    all: bool,
}

impl EventFields {
    /// Parses the paths of a filter.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut fields = Self::default();
        for path in paths {
            let mut at = &mut fields;
            for name in property_path::names(path).take(MAX_DEPTH) {
                at = at.tree.entry(name.into_owned()).or_default();
            }
            at.all = true;
        }
        fields
    }

    fn keep(&self, object: Map<String, Value>) -> Map<String, Value> {
        object
            .into_iter()
            .filter_map(|(key, value)| {
                let wanted = self.tree.get(&key)?;
                match value {
                    value if wanted.all => Some((key, value)),
                    Value::Object(inner) => {
                        let kept = wanted.keep(inner);
                        (!kept.is_empty()).then_some((key, Value::Object(kept)))
                    }
                    _ => None,
                }
            })
            .collect()
    }
}

/// Appends an event in client form with only the wanted properties. Slower than [`write_client_event`].
pub fn write_fields(out: &mut String, pdu: &Pdu, with_room_id: bool, unsigned: &Unsigned<'_>, fields: &EventFields) {
    let mut whole = String::new();
    write_client_event(&mut whole, pdu, with_room_id, unsigned);
    match serde_json::from_str::<Map<String, Value>>(&whole) {
        Ok(event) => out.push_str(&Value::Object(fields.keep(event)).to_string()),
        Err(_) => out.push_str(&whole),
    }
}
