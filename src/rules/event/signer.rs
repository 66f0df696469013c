//! Our server's signature: the ed25519 key under our name, signing event texts and JSON objects.
//!
//! Where the seed is kept and how old keys are published is the business of others.

use std::fmt;

use hearth_base::error::{Doing, Error, Result};
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair},
};

use super::{Pdu, canonical};
use crate::{
    json::{Object, Value, parse_object, write_object},
    versions::RoomVersion,
};

/// Signs in the name of our server.
pub struct Signer {
    server_name: OwnedServerName,
    key_id: Box<str>,
    key: Ed25519KeyPair,
}

/// The head of a PKCS#8 document that holds a bare ed25519 seed (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

impl Signer {
    /// The key of this seed, named `ed25519:<key_version>`.
    pub fn new(server_name: OwnedServerName, seed: &[u8; 32], key_version: &str) -> Result<Self> {
        // Grammar of key versions: appendices, "Cryptographic key representation".
        if key_version.is_empty() || !key_version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(Error::broken("a signing key version is letters, digits and underscores"));
        }
        let mut document = [0; 48];
        for (to, from) in document.iter_mut().zip(PKCS8_HEAD.iter().chain(seed)) {
            *to = *from;
        }
        let key = Ed25519KeyPair::from_der(&document, key_version.to_owned()).doing("reading the signing key")?;
        Ok(Self { server_name, key_id: format!("ed25519:{key_version}").into(), key })
    }

    /// In whose name it signs.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// `ed25519:<version>`.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key in unpadded base64, as published under `verify_keys`.
    #[must_use]
    pub fn public_key(&self) -> String {
        Base64::<ruma::serde::base64::Standard, _>::new(self.key.public_key()).encode()
    }

    /// Signs an object under its `signatures`, leaving those already there (appendices, "Signing JSON").
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<()> {
        ruma::signatures::sign_json(self.server_name.as_str(), &self.key, object).doing("signing JSON")
    }

    /// The signature of a text in unpadded base64.
    #[must_use]
    pub fn sign_text(&self, text: &str) -> String {
        self.key.sign(text.as_bytes()).base64()
    }

    /// Puts our signature on an event, beside those it has.
    pub(super) fn sign_event(&self, event: &mut Object, version: &RoomVersion) {
        let signature = Value::String(self.sign_text(&canonical::redacted_text(event, version)));
        let take = |object: &mut Object, key: &str| match object.remove(key) {
            Some(Value::Object(inner)) => inner,
            _ => Object::new(),
        };
        let mut all = take(event, "signatures");
        let mut ours = take(&mut all, self.server_name.as_str());
        ours.insert(self.key_id.to_string(), signature);
        all.insert(self.server_name.to_string(), Value::Object(ours));
        event.insert("signatures".to_owned(), Value::Object(all));
    }
}

impl Pdu {
    /// The same event with our signature beside those it has: invites to our users, and joins to restricted rooms
    /// that one of our users vouches for (server-server API, "Inviting to a room", "Restricted rooms").
    pub fn co_signed(&self, version: &RoomVersion, signer: &Signer) -> Result<Self> {
        let mut event = parse_object(self.json(), version.numbers()).doing("reading an event to sign")?;
        signer.sign_event(&mut event, version);
        let mut json = String::with_capacity(self.json().len() + 256);
        write_object(&mut json, &event);
        Ok(Self::parse_stored(self.event_id.clone(), json, version)?.with_rejected(self.rejected))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} {})", self.server_name, self.key_id)
    }
}
