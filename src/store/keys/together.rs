//! A key as it is handed out: what is stored of it, with what was signed and said since.

use hearth_base::{Error, Result};
use serde_json::{Map, Value, value::RawValue};

/// Adds signatures of `signer` to a stored key, and to a device's its name as it is now.
pub(super) fn put_together(
    json: &str,
    signer: &str,
    signatures: &[(String, String)],
    device: Option<Option<String>>,
) -> Result<Box<RawValue>> {
    let fault = |e: serde_json::Error| Error::fault("a stored key is no JSON object", e);
    if signatures.is_empty() && device.is_none() {
        return RawValue::from_string(json.to_owned()).map_err(fault);
    }
    let mut key: Map<String, Value> = serde_json::from_str(json).map_err(fault)?;
    add_signatures(&mut key, signer, signatures);
    if let Some(name) = device {
        // What else its owner said stays.
        let mut unsigned = match key.shift_remove("unsigned") {
            Some(Value::Object(said)) => said,
            _ => Map::new(),
        };
        unsigned.shift_remove("device_display_name");
        if let Some(name) = name {
            unsigned.insert("device_display_name".to_owned(), Value::String(name));
        }
        key.insert("unsigned".to_owned(), Value::Object(unsigned));
    }
    serde_json::value::to_raw_value(&key).map_err(fault)
}

/// Adds signatures to a signed JSON object, beside those it has.
pub fn add_signatures(object: &mut Map<String, Value>, signer: &str, signatures: &[(String, String)]) {
    if signatures.is_empty() {
        return;
    }
    let Some(all) = object.entry("signatures").or_insert_with(|| Value::Object(Map::new())).as_object_mut() else {
        return;
    };
    let Some(of_signer) = all.entry(signer).or_insert_with(|| Value::Object(Map::new())).as_object_mut() else {
        return;
    };
    for (key_id, signature) in signatures {
        of_signer.insert(key_id.clone(), Value::String(signature.clone()));
    }
}
