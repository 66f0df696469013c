//! Policy servers (server-server API, "Policy Servers"): which server a room has each of its events looked at by, and
//! whether that server signed one. Its key stands in the room's state, so nobody need be asked to check a signature.

use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::verify_canonical_json_bytes,
};
use serde::Deserialize;

use super::{Malformed, Pdu, canonical, received::read};
use crate::{
    json::{Object, Value, parse_object},
    versions::RoomVersion,
};

/// The state event that names the policy server, and how it was called before it was in the specification (MSC4284).
pub const EVENT_TYPES: [&str; 2] = ["m.room.policy", "org.matrix.msc4284.policy"];
/// The id of the key by which it signs.
pub const KEY_ID: &str = "ed25519:policy_server";

/// A room's policy server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    via: OwnedServerName,
    /// Its key in base64, as the room has it.
    key: String,
}

/// Whether such a state event is the room's choice of a policy server, about which no policy server is asked.
#[must_use]
pub fn is_exempt(event_type: &str, state_key: Option<&str>) -> bool {
    EVENT_TYPES.contains(&event_type) && state_key == Some("")
}

impl PolicyServer {
    /// Reads the content of one of [`EVENT_TYPES`]; `None` if it is not valid, which is to have no policy server.
    #[must_use]
    pub fn of(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: String,
            public_keys: Option<Keys>,
            /// As the older event has it.
            public_key: Option<String>,
        }
        #[derive(Deserialize)]
        struct Keys {
            ed25519: String,
        }
        let content: Content = serde_json::from_str(content).ok()?;
        let key = content.public_keys.map(|keys| keys.ed25519).or(content.public_key)?;
        Some(Self { via: ServerName::parse(content.via.as_str()).ok()?, key })
    }

    /// Who it is.
    #[must_use]
    pub fn via(&self) -> &ServerName {
        &self.via
    }

    /// Whether it signed an event ("Validating Policy Server signatures"), or need not.
    #[must_use]
    pub fn approves(&self, pdu: &Pdu, version: &RoomVersion) -> bool {
        is_exempt(&pdu.event_type().to_string(), pdu.state_key())
            || parse_object(pdu.json(), version.numbers()).is_ok_and(|event| self.has_signed(&event, version))
    }

    fn has_signed(&self, event: &Object, version: &RoomVersion) -> bool {
        let signature = event.get("signatures").and_then(|all| all.as_object()?.get(self.via.as_str())?.as_object());
        let signature = signature.and_then(|keys| Base64::<Standard>::parse(keys.get(KEY_ID)?.as_str()?).ok());
        let key = Base64::<Standard>::parse(&self.key).ok();
        key.zip(signature).is_some_and(|(key, signature)| {
            let text = canonical::redacted_text(event, version);
            let algorithm = SigningKeyAlgorithm::Ed25519;
            verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature.as_bytes(), text.as_bytes()).is_ok()
        })
    }

    /// The event with a signature of this server beside those it has.
    ///
    /// # Errors
    /// If it is no signature of the event by the room's key.
    pub fn add_signature(&self, pdu: &Pdu, signature: &str, version: &RoomVersion) -> Result<Pdu, Malformed> {
        let mut event = parse_object(pdu.json(), version.numbers()).map_err(Malformed::Json)?;
        if let Some(Value::Object(all)) = event.get_mut("signatures") {
            let of_server = all.entry(self.via.to_string()).or_insert_with(|| Value::Object(Object::new()));
            if let Value::Object(keys) = of_server {
                keys.insert(KEY_ID.to_owned(), signature.into());
            }
        }
        if !self.has_signed(&event, version) {
            return Err(Malformed::Form(format!("{} did not sign it with the key of the room", self.via)));
        }
        Ok(read(&event, version)?.with_rejected(pdu.rejected()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ruma::{owned_room_id, owned_user_id, server_name};
    use serde_json::json;

    use super::*;
    use crate::{Draft, Signer, event::Reference};

    fn signer(name: &ServerName, seed: u8, key: &str) -> Signer {
        Signer::new(name.to_owned(), &[seed; 32], key).unwrap()
    }

    fn event(event_type: &str, state_key: Option<&str>, by: &Signer, version: &RoomVersion) -> Pdu {
        let state_key = state_key.map(str::to_owned);
        let (room, sender) = (owned_room_id!("!r:x.org"), owned_user_id!("@a:x.org"));
        let draft = Draft::of(Some(room), sender, event_type.into(), state_key, &json!({ "body": "hi" }), 7).unwrap();
        let none: [Reference; 0] = [];
        draft.build(version, &none, 3, &none, by).unwrap()
    }

    #[test]
    fn what_names_a_policy_server() {
        let of = |content: serde_json::Value| PolicyServer::of(&content.to_string());
        let named =
            of(json!({ "via": "p.org", "public_keys": { "ed25519": "AAAA", "other": "x" }, "more": 1 })).unwrap();
        assert_eq!((named.via().as_str(), named.key.as_str()), ("p.org", "AAAA"));
        assert_eq!(of(json!({ "via": "p.org", "public_key": "AAAA" })).unwrap(), named);
        for none in [
            json!({}),
            json!({ "via": "p.org" }),
            json!({ "via": "p.org", "public_keys": {} }),
            json!({ "via": "p.org", "public_keys": { "ed25519": 5 } }),
            json!({ "via": "p.org", "public_keys": "AAAA" }),
            json!({ "via": "not a name", "public_keys": { "ed25519": "AAAA" } }),
            json!({ "public_keys": { "ed25519": "AAAA" } }),
        ] {
            assert_eq!(of(none.clone()), None, "{none}");
        }
    }

    #[test]
    fn a_signature_is_added_and_found() {
        // The policy server may be the sender's own, whose signature must stay.
        for (name, version) in [("x.org", "11"), ("p.org", "12"), ("p.org", "4")] {
            let version = RoomVersion::get(version).unwrap();
            let via: OwnedServerName = name.try_into().unwrap();
            let (own, policy) = (signer(server_name!("x.org"), 1, "a"), signer(&via, 2, "policy_server"));
            let server = PolicyServer { via, key: policy.public_key() };
            let pdu = event("m.room.message", None, &own, version);
            assert!(!server.approves(&pdu, version));
            let text = canonical::redacted_text(&parse_object(pdu.json(), version.numbers()).unwrap(), version);
            let signed = server.add_signature(&pdu, &policy.sign_text(&text), version).unwrap();
            assert!(server.approves(&signed, version));
            assert_eq!(signed.event_id(), pdu.event_id());
            let all = serde_json::from_str::<serde_json::Value>(signed.json()).unwrap()["signatures"].clone();
            assert!(all["x.org"]["ed25519:a"].is_string() && all[name]["ed25519:policy_server"].is_string(), "{all}");
            // Another key, another event, no signature at all.
            assert!(!PolicyServer { key: own.public_key(), ..server.clone() }.approves(&signed, version));
            let other = event("m.room.name", Some(""), &own, version);
            server.add_signature(&other, &policy.sign_text(&text), version).unwrap_err();
            server.add_signature(&pdu, "rubbish", version).unwrap_err();
            assert!(!PolicyServer { key: "rubbish".into(), ..server }.approves(&signed, version));
        }
    }

    #[test]
    fn the_choice_of_a_policy_server_needs_no_leave() {
        let version = RoomVersion::get("11").unwrap();
        let own = signer(server_name!("x.org"), 1, "a");
        let server = PolicyServer { via: "p.org".try_into().unwrap(), key: "AAAA".into() };
        let approves = |state_key| server.approves(&event("m.room.policy", state_key, &own, version), version);
        assert!(approves(Some("")) && !approves(Some("other")) && !approves(None));
    }
}
