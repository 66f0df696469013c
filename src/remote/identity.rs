//! Identity servers (identity service API, version 2): whose an e-mail address or phone number is, and invites to those that
//! are nobody's yet.
//!
//! Users choose which server is asked, and give the token it is shown. So all goes over `https`, to addresses that may be
//! dialled, redirects are not followed, an answer is small and in time, and of an answer counts only what has the form that
//! the specification gives it.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hearth_base::Result as Done;
use http::{HeaderValue, Method, Request, header};
use ruma::{OwnedUserId, RoomId, UserId, third_party_invite::IdentityServerBase64PublicKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    Failure,
    discovery::{Authority, Host, Lookup, dns::Dns},
    federation::successful,
    http::{Http, read},
};

/// Bytes of an answer.
const MAX_ANSWER: usize = 16 << 10;
/// Keys of one invite, which go into an event.
const MAX_KEYS: usize = 20;
/// Characters of the token of an invite (`/store-invite`).
const MAX_TOKEN: usize = 255;
/// Bytes of an Ed25519 key.
const KEY: usize = 32;

/// How identity servers are called.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses that may be dialled, the proxy, and what we call ourselves. What else is there concerns homeservers alone.
    pub remote: crate::Settings,
    /// How long one call may take.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { remote: crate::Settings::default(), timeout: Duration::from_secs(10) }
    }
}

/// Calls identity servers.
#[derive(Debug)]
pub struct Identity {
    http: Http,
    timeout: Duration,
}

/// What an identity server is told of an invite that it is to keep (`/store-invite`). Optional fields are for the mail that it
/// sends.
#[derive(Debug, Serialize)]
pub struct Invite<'a> {
    /// `email`; some may take `msisdn`.
    pub medium: &'a str,
    /// Who is invited.
    pub address: &'a str,
    /// Whither.
    pub room_id: &'a RoomId,
    /// Who invites.
    pub sender: &'a UserId,
    /// Name of who invites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_display_name: Option<&'a str>,
    /// Avatar of who invites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_avatar_url: Option<&'a str>,
    /// The room's alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_alias: Option<&'a str>,
    /// The room's avatar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_avatar_url: Option<&'a str>,
    /// The room's join rule.
    pub room_join_rules: &'a str,
    /// The room's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_name: Option<&'a str>,
    /// The room's type, if it is of a special one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<&'a str>,
    /// The client that the mail is to lead to, as Synapse tells it.
    #[serde(rename = "org.matrix.web_client_location", skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
}

/// What became of an invite that was to be kept.
#[derive(Debug)]
pub enum Kept {
    /// It is kept.
    Stored(Stored),
    /// The address is somebody's, since a moment ago.
    Bound(OwnedUserId),
}

/// An invite as an identity server keeps it.
#[derive(Debug, Deserialize)]
pub struct Stored {
    /// Its name: the state key of `m.room.third_party_invite`.
    pub token: String,
    /// Keys of which one will sign for whose the address is; at least one.
    pub public_keys: Vec<PublicKey>,
    /// A name for who is invited that does not give the address away.
    pub display_name: String,
}

/// A key of an identity server.
#[derive(Debug, Deserialize, Serialize)]
pub struct PublicKey {
    /// The key, in unpadded base64 of either alphabet.
    pub public_key: String,
    /// Where to ask whether it holds.
    pub key_validity_url: String,
}

impl Identity {
    /// # Errors
    /// If the resolver or the authorities of this machine cannot be read.
    pub fn new(settings: &Settings) -> Done<Self> {
        let dns = match settings.remote.name_server {
            Some(address) => Dns::at(address)?,
            None => Dns::system()?,
        };
        Ok(Self { http: Http::new(&settings.remote, dns, Lookup::Web(443))?, timeout: settings.timeout })
    }

    /// Whether nothing keeps us from trying: an address that is written out and forbidden will not do. Names are looked up when
    /// they are dialled.
    #[must_use]
    pub fn may_try(&self, server: &Authority) -> bool {
        match server.host() {
            Host::Ip(address) => self.http.dialer().may_dial(*address),
            Host::Name(_) => true,
        }
    }

    /// Whose an address is, if the server knows (`/hash_details`, `/lookup`). The address is hashed unless the server takes no
    /// hashes.
    ///
    /// # Errors
    /// Whatever keeps a sensible answer from coming.
    pub async fn lookup(
        &self,
        server: &Authority,
        token: &str,
        medium: &str,
        address: &str,
    ) -> Result<Option<OwnedUserId>, Failure> {
        match self.lookup_once(server, token, medium, address).await {
            // The pepper has changed between the two questions.
            Err(Failure::Refused(refusal)) if refusal.errcode == "M_INVALID_PEPPER" => {
                self.lookup_once(server, token, medium, address).await
            }
            ended => ended,
        }
    }

    async fn lookup_once(
        &self,
        server: &Authority,
        token: &str,
        medium: &str,
        address: &str,
    ) -> Result<Option<OwnedUserId>, Failure> {
        #[derive(Deserialize)]
        struct Details {
            lookup_pepper: String,
            algorithms: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Found {
            mappings: HashMap<String, String>,
        }
        let details: Details = self.call(server, token, Method::GET, "hash_details", Vec::new()).await?;
        let takes = |algorithm: &str| details.algorithms.iter().any(|a| a == algorithm);
        let pepper = &details.lookup_pepper;
        let (algorithm, question) = if takes("sha256") {
            ("sha256", hashed(address, medium, pepper))
        } else if takes("none") {
            ("none", format!("{address} {medium}"))
        } else {
            return Err(Failure::Nonsense("it takes no addresses in a form of the specification".to_owned()));
        };
        let body = json!({ "algorithm": algorithm, "pepper": pepper, "addresses": [question] });
        let found: Found = self.call(server, token, Method::POST, "lookup", body.to_string().into_bytes()).await?;
        let user = found.mappings.get(&question).map(|user| OwnedUserId::try_from(user.as_str())).transpose();
        user.map_err(|_| Failure::Nonsense("the address is of something that is no user".to_owned()))
    }

    /// Has an invite kept until its address is somebody's (`/store-invite`).
    ///
    /// # Errors
    /// Whatever keeps a sensible answer from coming.
    pub async fn store_invite(&self, server: &Authority, token: &str, invite: &Invite<'_>) -> Result<Kept, Failure> {
        #[derive(Deserialize)]
        struct InUse {
            mxid: OwnedUserId,
        }
        let body = serde_json::to_vec(invite).map_err(|e| Failure::Ours(e.to_string()))?;
        match self.call::<Stored>(server, token, Method::POST, "store-invite", body).await {
            Ok(stored) => stored.checked().map(Kept::Stored),
            Err(Failure::Refused(refusal)) if refusal.errcode == "M_THREEPID_IN_USE" => {
                match serde_json::from_slice::<InUse>(&refusal.body) {
                    Ok(in_use) => Ok(Kept::Bound(in_use.mxid)),
                    Err(_) => Err(Failure::Refused(refusal)),
                }
            }
            Err(e) => Err(e),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        server: &Authority,
        token: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let ours = |what: &str| Failure::Ours(what.to_owned());
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut bearer = bearer.map_err(|_| ours("the token cannot stand in a header"))?;
        bearer.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/identity/v2/{path}"))
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, bearer);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(body.into()).map_err(|_| ours("a call of an identity server"))?;
        let asking = async {
            let answer = successful(self.http.start(server, request).await?).await?;
            let body = read(answer.into_body(), MAX_ANSWER).await?;
            serde_json::from_slice(&body).map_err(|e| Failure::Nonsense(e.to_string()))
        };
        tokio::time::timeout(self.timeout, asking).await.unwrap_or(Err(Failure::TimedOut(self.timeout)))
    }
}

impl Stored {
    /// The same if it can go into an event, and proofs by its keys can be checked.
    fn checked(self) -> Result<Self, Failure> {
        let is_token = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'=' | b'_' | b'-');
        if self.token.is_empty() || self.token.len() > MAX_TOKEN || !self.token.bytes().all(is_token) {
            return Err(Failure::Nonsense("the token of the invite is none".to_owned()));
        }
        if !(1..=MAX_KEYS).contains(&self.public_keys.len()) || !self.public_keys.iter().all(PublicKey::is_sound) {
            return Err(Failure::Nonsense("the keys of the invite cannot be used".to_owned()));
        }
        Ok(self)
    }
}

impl PublicKey {
    /// Whether it is a key, and it can be asked whether it holds.
    fn is_sound(&self) -> bool {
        let key = IdentityServerBase64PublicKey(self.public_key.clone()).decode();
        let url = url::Url::parse(&self.key_validity_url);
        key.is_ok_and(|key| key.len() == KEY) && url.is_ok_and(|url| url.scheme() == "https")
    }
}

/// An address as it is asked about.
fn hashed(address: &str, medium: &str, pepper: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{address} {medium} {pepper}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hashed_as_in_the_specification() {
        for (address, medium, hash) in [
            ("alice@example.com", "email", "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"),
            ("bob@example.com", "email", "LJwSazmv46n0hlMlsb_iYxI0_HXEqy_yj6Jm636cdT8"),
            ("18005552067", "msisdn", "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I"),
        ] {
            assert_eq!(hashed(address, medium, "matrixrocks"), hash);
        }
    }
}
