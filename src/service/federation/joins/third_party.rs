//! Invites to e-mail addresses and phone numbers (server-server API, "Third-party invites"). A room keeps such an invite as
//! `m.room.third_party_invite`, with keys of the identity server that looks for whose the address is. Once that is found it
//! signs a proof, with which their server asks for an invite of the usual kind.
//!
//! That the proof is signed by a key of the room's is one of the rules; that the key holds still is asked for here.

use std::time::Duration;

use bytes::Bytes;
use hearth_base::{Error, Result};
use hearth_remote::Failure;
use hearth_rules::event::Draft;
use hearth_store::rooms::Room;
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, SigningKeyAlgorithm, UserId,
    api::federation::thirdparty::exchange_invite,
    events::{TimelineEventType, room::member::MembershipState},
    serde::{Base64, Raw, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
    third_party_invite::IdentityServerBase64PublicKey,
};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use super::Joins;
use crate::events::Arrived;

/// How long another server may take to pass on an invite, and an identity server to say whether a key holds.
const PATIENCE: Duration = Duration::from_secs(30);
const FOR_KEYS: Duration = Duration::from_secs(10);
/// Invites that may wait for one address, and keys of one invite that are looked at.
const MAX_INVITES: usize = 50;
const MAX_KEYS: usize = 20;
/// Bytes of an identity server's answer.
const MAX_ANSWER: usize = 16 << 10;

/// A member event in the making, as another server asks for it.
#[derive(Debug, Deserialize)]
pub struct Exchange {
    #[serde(rename = "type")]
    event_type: String,
    /// Some leave it out, as it stands in the path.
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    /// Who is invited.
    pub state_key: OwnedUserId,
    content: Content,
}

#[derive(Debug, Deserialize)]
struct Content {
    membership: String,
    third_party_invite: Proof,
}

#[derive(Debug, Deserialize)]
struct Proof {
    signed: CanonicalJsonObject,
}

/// An address that is a user's now, and the invites that wait for it.
#[derive(Debug, Deserialize)]
pub struct Bound {
    mxid: OwnedUserId,
    #[serde(default)]
    invites: Vec<Waiting>,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    mxid: OwnedUserId,
    room_id: OwnedRoomId,
    sender: OwnedUserId,
    signed: CanonicalJsonObject,
}

impl Joins {
    /// Invites a user of `origin` who has shown that a third-party invite is for them.
    ///
    /// # Errors
    /// 400 for what is no such event; 404 for rooms we are not in; 403 if the room does not allow it, or its key does not
    /// hold any more; 502 and 504 if nobody can say so, or their server cannot be asked.
    pub async fn exchange(&self, origin: &ServerName, room_id: &RoomId, wanted: &Exchange) -> Result<()> {
        if wanted.event_type != "m.room.member"
            || wanted.content.membership != "invite"
            || wanted.room_id.as_ref().is_some_and(|named| named != room_id)
        {
            return Err(Error::invalid_param("This is no invite to that room"));
        }
        if wanted.state_key.server_name() != origin {
            return Err(Error::forbidden(format!("{} is not a user of {origin}", wanted.state_key)));
        }
        let room = self.resident_for(origin, room_id).await?;
        self.invite_bound(&room, &wanted.sender, &wanted.state_key, &wanted.content.third_party_invite.signed).await
    }

    /// Brings the invites that wait for an address to a user of ours, whose it is: here if we are in the room, else by the
    /// server of who invited.
    ///
    /// # Errors
    /// 400 for others than users of ours; else the last failure, after all were tried.
    pub async fn bound(&self, bound: &Bound) -> Result<()> {
        if bound.mxid.server_name() != self.name() {
            return Err(Error::invalid_param(format!("{} is not a user of this server", bound.mxid)));
        }
        self.may_be_invited(&bound.mxid).await?;
        if bound.invites.len() > MAX_INVITES {
            return Err(Error::invalid_param(format!("More than {MAX_INVITES} invites")));
        }
        let mut done = Ok(());
        for waiting in &bound.invites {
            let one = if waiting.mxid != bound.mxid {
                Err(Error::invalid_param("An invite is for somebody else"))
            } else if let Some(room) = self.resident(&waiting.room_id).await? {
                self.invite_bound(&room, &waiting.sender, &waiting.mxid, &waiting.signed).await
            } else {
                self.ask_for_invite(waiting).await
            };
            if let Err(e) = one {
                tracing::info!(room.id = %waiting.room_id, user.id = %waiting.mxid, error = %e, "an invite to an address came to nothing");
                done = Err(e);
            }
        }
        done
    }

    /// Asks those who may know the room for an invite.
    async fn ask_for_invite(&self, waiting: &Waiting) -> Result<()> {
        let mut servers: Vec<OwnedServerName> = vec![waiting.sender.server_name().to_owned()];
        servers.extend(waiting.room_id.server_name().filter(|s| *s != waiting.sender.server_name()).map(Into::into));
        servers.retain(|server| self.federation.admits(server));
        let mut failure = Error::not_found("No known servers are in this room");
        for server in &servers {
            match self.put_exchange(server, waiting).await {
                Ok(()) => return Ok(()),
                Err(e) => failure = self.said(server, &e),
            }
        }
        Err(failure)
    }

    async fn put_exchange(&self, server: &ServerName, waiting: &Waiting) -> Result<(), Failure> {
        let ours = |e: &dyn std::fmt::Display| Failure::Ours(e.to_string());
        let proof = json!({ "display_name": waiting.mxid.localpart(), "signed": waiting.signed });
        let content = json!({ "membership": "invite", "third_party_invite": proof });
        let raw = Raw::from_json(to_raw_value(&content).map_err(|e| ours(&e))?);
        let Waiting { room_id, sender, mxid, .. } = waiting;
        let request = exchange_invite::v1::Request::new(room_id.clone(), sender.clone(), mxid.clone(), raw);
        // Ruma's body leaves out the room, which the specification wants in it as well.
        let mut request = self.federation.remote().signed(server, request)?;
        let event = json!({
            "type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": mxid, "content": content,
        });
        *request.body_mut() = Bytes::from(event.to_string());
        let request = self.federation.remote().sign(server, request)?;
        let patience = self.federation.once().within(PATIENCE);
        self.federation.exchange(server, request, patience).await.map(drop)
    }

    /// Invites whoever an address belongs to, in the name of who invited the address.
    async fn invite_bound(
        &self,
        room: &Room,
        sender: &UserId,
        target: &UserId,
        signed: &CanonicalJsonObject,
    ) -> Result<()> {
        let token = signed.get("token").and_then(|t| t.as_str()).unwrap_or_default();
        let invite = self.state.current_entry(room, "m.room.third_party_invite", token).await?;
        let invite = invite.ok_or_else(|| Error::forbidden("The room has no such invite"))?;
        let asked: Asked = invite.pdu.content_as().ok_or_else(|| Error::forbidden("The invite was withdrawn"))?;
        if self.membership_of(room, target).await?.1 == MembershipState::Join {
            return Ok(());
        }
        self.check_keys(&asked, signed).await?;
        let name = asked.display_name.unwrap_or_else(|| target.localpart().to_owned());
        let content = json!({
            "membership": "invite",
            "third_party_invite": { "display_name": name, "signed": signed },
        });
        let draft = Draft::of(
            Some(room.room_id.clone()),
            sender.to_owned(),
            TimelineEventType::RoomMember,
            Some(target.to_string()),
            &content,
            self.clock.now_ms(),
        )?;
        if target.server_name() != self.name() {
            return self.invite(room, &draft, target).await.map(drop);
        }
        self.may_be_invited(target).await?;
        let mut arrival = self.events.offer(room.nid, &draft).await?;
        arrival.pdu = self.events.vetted(room, arrival.pdu).await?;
        match self.events.receive(room.nid, vec![arrival]).await?.pop() {
            Some(Arrived::Placed) => Ok(()),
            Some(Arrived::SoftFailed(why) | Arrived::Rejected(why)) => Err(Error::forbidden(why)),
            None => Err(Error::broken("nothing became of an invite")),
        }
    }

    /// Whether a key of the room's that signed the proof holds still.
    async fn check_keys(&self, asked: &Asked, signed: &CanonicalJsonObject) -> Result<()> {
        let mut failure = Error::forbidden("The proof is not signed by a key of the invite");
        for (key, url) in asked.keys().take(MAX_KEYS).filter(|(key, _)| is_signed_by(signed, key)) {
            let Some(url) = url.filter(|url| !url.is_empty()) else { return Ok(()) };
            match self.is_valid(url, key).await {
                Ok(true) => return Ok(()),
                Ok(false) => failure = Error::forbidden("The key of the invite does not hold any more"),
                Err(e) => {
                    let why = format!("Nobody says whether the key of the invite still holds: {e}");
                    failure = Error::told(StatusCode::BAD_GATEWAY, "M_UNKNOWN", why);
                }
            }
        }
        Err(failure)
    }

    /// Asks an identity server whether a key holds (identity service API, `/pubkey/isvalid`).
    async fn is_valid(&self, url: &str, key: &str) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Said {
            valid: bool,
        }
        let asking = async {
            let mut answer = self.federation.remote().fetch(url, &[("public_key", key)]).await?.into_body();
            let mut text = Vec::new();
            while let Some(bytes) = answer.next().await? {
                if text.len() + bytes.len() > MAX_ANSWER {
                    return Err(Failure::TooLarge(MAX_ANSWER));
                }
                text.extend_from_slice(&bytes);
            }
            let said: Said = serde_json::from_slice(&text).map_err(|e| Failure::Nonsense(e.to_string()))?;
            Ok(said.valid)
        };
        tokio::time::timeout(FOR_KEYS, asking).await.unwrap_or(Err(Failure::TimedOut(FOR_KEYS)))
    }
}

/// The content of `m.room.third_party_invite`. Once redacted it has nothing of this, which withdraws the invite.
#[derive(Debug, Deserialize)]
struct Asked {
    display_name: Option<String>,
    public_key: Option<String>,
    key_validity_url: Option<String>,
    #[serde(default)]
    public_keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
struct Key {
    public_key: String,
    key_validity_url: Option<String>,
}

impl Asked {
    /// Keys, and where to ask whether they hold.
    fn keys(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let first = self.public_key.iter().map(|key| (key.as_str(), self.key_validity_url.as_deref()));
        first.chain(self.public_keys.iter().map(|key| (key.public_key.as_str(), key.key_validity_url.as_deref())))
    }
}

/// Whether any signature of an object is by that key.
fn is_signed_by(object: &CanonicalJsonObject, key: &str) -> bool {
    let Ok(key) = IdentityServerBase64PublicKey(key.to_owned()).decode() else { return false };
    let Ok(text) = to_canonical_json_string_for_signing(object) else { return false };
    let signatures = object.get("signatures").and_then(|all| all.as_object());
    let mut all = signatures.into_iter().flat_map(|all| all.values()).filter_map(|of| of.as_object()).flatten();
    all.any(|(_, signature)| {
        let signature = signature.as_str().and_then(|s| Base64::<Standard>::parse(s).ok());
        signature.is_some_and(|signature| {
            let algorithm = SigningKeyAlgorithm::Ed25519;
            verify_canonical_json_bytes(&algorithm, &key, signature.as_bytes(), text.as_bytes()).is_ok()
        })
    })
}
