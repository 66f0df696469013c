//! Signatures of other servers: of requests as they come in, and of many events at once.

use std::{collections::BTreeMap, sync::Arc, thread};

use hearth_base::{Error, Result, bill::blocking};
use hearth_rules::{
    RoomVersion,
    event::{Pdu, Unverified},
};
use hearth_store::server_keys::VerifyKeys;
use http::StatusCode;
use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};
use tokio::sync::Notify;

use super::{ServerKeys, theirs::Wanted};

/// Why an event is not taken for its sender's.
#[derive(Debug)]
pub enum Unproven {
    /// No key of this server is to be had that could prove it; another time there may be.
    NoKey(OwnedServerName),
    /// Its signatures or its form are wrong, for good.
    Wrong(Error),
}

impl From<Unproven> for Error {
    fn from(why: Unproven) -> Self {
        match why {
            Unproven::NoKey(server) => {
                Self::forbidden(format!("No key of {server} is known by which the event could be checked"))
            }
            Unproven::Wrong(why) => why,
        }
    }
}

/// Events that are checked where they are, a millisecond at most: threads for it are seldom there, and to make them and take
/// them down costs more.
const FEW: usize = 16;
/// Signatures of a request that are looked at.
const MAX_SIGNATURES: usize = 5;

impl ServerKeys {
    /// Whether a request is `origin`'s: `text` is what was signed (server-server API, "Request Authentication"),
    /// `signatures` are key ids and signatures in base64. One by a key that signs now must hold, and none may be false.
    ///
    /// # Errors
    /// 401 `M_UNAUTHORIZED`.
    pub async fn check_request(&self, origin: &ServerName, signatures: &[(String, String)], text: &str) -> Result<()> {
        let refused = |why: String| Error::told(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", why);
        if signatures.len() > MAX_SIGNATURES {
            return Err(refused(format!("A request may be signed {MAX_SIGNATURES} times at most")));
        }
        let key_ids: Vec<String> = signatures.iter().map(|(id, _)| id.clone()).collect();
        let now = self.now();
        let wanted = Wanted { server: origin.to_owned(), key_ids, at: now, for_request: true };
        let known = self.theirs.gather(&[wanted]).await?;
        let known = known.get(origin);
        let mut is_signed = false;
        for (key_id, signature) in signatures {
            let key = known.and_then(|keys| keys.get(key_id)).filter(|k| !k.old && k.valid_ms >= now);
            let Some(key) = key.and_then(|k| Base64::<Standard>::parse(&k.public_key).ok()) else { continue };
            let holds = Base64::<Standard>::parse(signature).is_ok_and(|signature| {
                let algorithm = SigningKeyAlgorithm::Ed25519;
                verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature.as_bytes(), text.as_bytes()).is_ok()
            });
            if !holds {
                return Err(refused(format!("Invalid signature for server {origin} with key {key_id}")));
            }
            is_signed = true;
        }
        if is_signed { Ok(()) } else { Err(refused(format!("No key of {origin} is known that signed this request"))) }
    }

    /// Whether a key of a server is had that holds today; asks for it if that may be done.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn has_any(&self, server: &ServerName) -> Result<bool> {
        let at = self.now();
        let wanted = Wanted { server: server.to_owned(), key_ids: Vec::new(), at, for_request: false };
        let known = self.theirs.gather(&[wanted]).await?;
        Ok(known.get(server).is_some_and(|keys| keys.values().any(|key| !key.old && key.valid_ms >= at)))
    }

    /// Rings when keys of other servers have come.
    #[must_use]
    pub fn came(&self) -> &Notify {
        self.theirs.came()
    }

    /// Checks signatures and hashes of events; the keys are gathered in one round. Answers stand in the order of the
    /// events; one whose hash is wrong is redacted.
    ///
    /// # Errors
    /// If the database fails. What is wrong with an event is its own answer: 403 for signatures, 400 for its form.
    pub async fn verify(&self, events: Vec<Unverified>, version: &'static RoomVersion) -> Result<Vec<Result<Pdu>>> {
        Ok(self.prove(events, version).await?.into_iter().map(|proved| proved.map_err(Error::from)).collect())
    }

    /// [`Self::verify`] that tells apart why an event does not hold.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prove(
        &self,
        events: Vec<Unverified>,
        version: &'static RoomVersion,
    ) -> Result<Vec<std::result::Result<Pdu, Unproven>>> {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut signers = Vec::with_capacity(events.len());
        for event in &events {
            let at = if version.rules.enforce_key_validity {
                i64::try_from(event.claimed().origin_server_ts()).unwrap_or(i64::MAX)
            } else {
                i64::MIN
            };
            let of_event = event.signers();
            for (server, key_ids) in of_event.iter().flatten() {
                if server != self.signer().server_name() {
                    // Each server needs to be looked for once for each set of keys.
                    let same = |w: &&mut Wanted| w.server == *server && w.key_ids == *key_ids;
                    match wanted.iter_mut().rev().take(50).find(same) {
                        Some(known) => known.at = known.at.max(at),
                        None => wanted.push(Wanted {
                            server: server.clone(),
                            key_ids: key_ids.clone(),
                            at,
                            for_request: false,
                        }),
                    }
                }
            }
            signers.push((at, of_event));
        }
        let mut keys = self.theirs.gather(&wanted).await?;
        keys.insert(self.signer().server_name().to_owned(), Arc::new(self.ours.verify_keys()));
        let work: Vec<Work> = events
            .into_iter()
            .zip(signers)
            .map(|(event, (at, signers))| match signers {
                Ok(signers) => {
                    let valid = valid(&keys, &signers, at);
                    let mut others = signers.into_iter().filter(|(server, _)| server != self.signer().server_name());
                    let without =
                        others.find(|(server, _)| valid.get(server.as_str()).is_none_or(|keys| keys.is_empty()));
                    Ok((event, valid, without.map(|(server, _)| server)))
                }
                Err(e) => Err(Unproven::Wrong(e.into())),
            })
            .collect();
        if work.len() <= FEW {
            return Ok(work.into_iter().map(check).collect());
        }
        // One thread a core: this is nothing but arithmetic.
        let threads = thread::available_parallelism().map_or(1, usize::from).min(work.len());
        let each = work.len().div_ceil(threads);
        let mut work = work.into_iter();
        let mut parts = Vec::new();
        loop {
            let part: Vec<Work> = work.by_ref().take(each).collect();
            if part.is_empty() {
                break;
            }
            parts.push(tokio::task::spawn_blocking(blocking(move || part.into_iter().map(check).collect::<Vec<_>>())));
        }
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.await.map_err(|e| Error::fault("checking signatures", e))?);
        }
        Ok(all)
    }
}

/// An event, the keys of its signers, and a signer of which there is none.
type Work = std::result::Result<(Unverified, PublicKeyMap, Option<OwnedServerName>), Unproven>;

fn check(work: Work) -> std::result::Result<Pdu, Unproven> {
    let (event, keys, without) = work?;
    match (event.verify(&keys), without) {
        (Ok(verified), _) => Ok(verified.into_pdu()),
        (Err(_), Some(server)) => Err(Unproven::NoKey(server)),
        (Err(e), None) => Err(Unproven::Wrong(Error::forbidden(e.to_string()))),
    }
}

/// The keys of an event's signers that were valid at `at`.
fn valid(
    keys: &BTreeMap<OwnedServerName, Arc<VerifyKeys>>,
    signers: &[(OwnedServerName, Vec<String>)],
    at: i64,
) -> PublicKeyMap {
    let mut valid = PublicKeyMap::new();
    for (server, key_ids) in signers {
        let Some(known) = keys.get(server) else { continue };
        let of_server = key_ids.iter().filter_map(|id| {
            let key = known.get(id).filter(|k| k.valid_ms >= at)?;
            Some((id.clone(), Base64::parse(&key.public_key).ok()?))
        });
        valid.insert(server.to_string(), of_server.collect());
    }
    valid
}
