//! Invites by e-mail address or phone number (client-server API, "Third-party invites"). An identity server of the user's
//! choosing says whose the address is. If it is nobody's, that server keeps the invite, and the room does as
//! `m.room.third_party_invite`; what follows once the address is somebody's is in `federation::joins::third_party`.
//!
//! An address goes to the identity server alone: into no event, no row and no log.

use std::{fmt, sync::Arc};

use hearth_base::{Error, Requester, Result};
use hearth_config::secret::Secret;
use hearth_remote::{
    Failure,
    discovery::Authority,
    identity::{Invite, Kept, Stored},
};
use hearth_rules::{auth::PowerLevels, event::Draft};
use hearth_store::rooms::Room;
use http::StatusCode;
use ruma::{
    OwnedUserId, RoomId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::{Value, json};

use super::Membership;
use crate::{
    accounts::canonical_threepid,
    events::{With, check_may_write},
};

/// Bytes of an e-mail address (RFC 5321), and digits of a phone number (E.164).
const MAX_EMAIL: usize = 254;
const MAX_DIGITS: usize = 15;
/// Bytes of a token for an identity server.
const MAX_TOKEN: usize = 4096;

/// An e-mail address or phone number, and the identity server that may know whose it is.
#[derive(Clone)]
pub struct ByAddress {
    server: Authority,
    token: Secret<String>,
    medium: &'static str,
    address: String,
}

impl fmt::Debug for ByAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByAddress({} known to {})", self.medium, self.server)
    }
}

impl ByAddress {
    /// Reads what a client says of whom it invites; `id_access_token` is the user's token for `id_server`.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for what is no server's name, no e-mail address, no phone number, or cannot be a token.
    pub fn new(id_server: &str, id_access_token: String, medium: &str, address: &str) -> Result<Self> {
        let server = Authority::parse(id_server)
            .map_err(|_| Error::invalid_param("`id_server` is not the name of a server, with or without a port"))?;
        let is_token = id_access_token.bytes().all(|b| b.is_ascii_graphic());
        if id_access_token.is_empty() || id_access_token.len() > MAX_TOKEN || !is_token {
            return Err(Error::invalid_param("`id_access_token` is no access token"));
        }
        let canonical = canonical_threepid(medium, address);
        let medium = match medium {
            "email" if is_email(&canonical) => "email",
            "email" => return Err(Error::invalid_param("`address` is not an e-mail address")),
            "msisdn" if is_phone_number(address, &canonical) => "msisdn",
            "msisdn" => return Err(Error::invalid_param("`address` is not a phone number")),
            _ => return Err(Error::invalid_param("`medium` is `email` or `msisdn`")),
        };
        Ok(Self { server, token: Secret::new(id_access_token), medium, address: canonical })
    }

    /// Medium and address, for counting how often somebody is invited.
    #[must_use]
    pub fn address(&self) -> (&str, &str) {
        (self.medium, &self.address)
    }
}

/// `user@domain`, and nothing around it (appendices, "E-Mail").
fn is_email(address: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains('@');
    address.len() <= MAX_EMAIL
        && !address.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ','))
        && address.rsplit_once('@').is_some_and(|(user, domain)| is_part(user) && is_part(domain))
}

/// Digits, written as people write them.
fn is_phone_number(written: &str, digits: &str) -> bool {
    (1..=MAX_DIGITS).contains(&digits.len())
        && written.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '(' | ')' | '.'))
}

impl Membership {
    /// Invites whoever an address belongs to, or will.
    ///
    /// # Errors
    /// 403 if not allowed, as for [`Self::invite`], `M_FORBIDDEN` too where addresses are not looked up, `M_SERVER_NOT_TRUSTED`
    /// for identity servers that we may not dial; 502 and 504 if the identity server fails.
    pub async fn invite_address(self: &Arc<Self>, who: &Requester, room_id: &RoomId, to: &ByAddress) -> Result<()> {
        self.check_may_look_up(who, to)?;
        let room = self.known(room_id).await?;
        if self.state.membership(room.nid, who.user_nid).await? != MembershipState::Join {
            return Err(Error::forbidden("You are not a member of this room"));
        }
        // Nobody's address goes out for an invite that cannot be.
        check_power(who, &self.state.power_levels(&room).await?)?;
        match self.look_up(to).await? {
            Some(user) => self.invite(who, room_id, &user, None).await,
            None => self.invite_nobody(who, &room, to).await,
        }
    }

    /// Whose addresses are, before a room is made to which they are invited: `None` for nobody's.
    ///
    /// # Errors
    /// As [`Self::invite_address`].
    pub(crate) async fn found(&self, who: &Requester, all: &[ByAddress]) -> Result<Vec<Option<OwnedUserId>>> {
        for to in all {
            self.check_may_look_up(who, to)?;
        }
        let mut found = Vec::with_capacity(all.len());
        for to in all {
            found.push(self.look_up(to).await?);
        }
        Ok(found)
    }

    /// Whether somebody may have us ask that identity server.
    fn check_may_look_up(&self, who: &Requester, to: &ByAddress) -> Result<()> {
        check_may_write(who)?;
        self.check_may_invite(who)?;
        if self.settings.no_lookup {
            return Err(Error::forbidden("This server does not look up e-mail addresses or phone numbers"));
        }
        if !self.identity.may_try(&to.server) {
            let why = format!("This server does not speak to {}", to.server);
            return Err(Error::told(StatusCode::FORBIDDEN, "M_SERVER_NOT_TRUSTED", why));
        }
        Ok(())
    }

    async fn look_up(&self, to: &ByAddress) -> Result<Option<OwnedUserId>> {
        let found = self.identity.lookup(&to.server, to.token.expose(), to.medium, &to.address).await;
        found.map_err(|e| told(to, &e))
    }

    /// Invites to a room whoever an address will belong to.
    ///
    /// # Errors
    /// As [`Self::invite_address`].
    pub(crate) async fn invite_nobody(self: &Arc<Self>, who: &Requester, room: &Room, to: &ByAddress) -> Result<()> {
        let (this, who, room, to) = (self.clone(), who.clone(), room.clone(), to.clone());
        // A caller who goes must not leave a mail about an invite that the room does not have.
        let work = async move {
            match this.stored(&who, &room, &to).await? {
                Kept::Bound(user) => this.invite(&who, &room.room_id, &user, None).await,
                Kept::Stored(stored) => this.invite_by_token(&who, &room, &stored).await,
            }
        };
        self.supervisor.job(work).await
    }

    async fn stored(&self, who: &Requester, room: &Room, to: &ByAddress) -> Result<Kept> {
        let summary = self.directory.summary(room).await?;
        let known = self.store.name_and_avatar(who.user_nid).await?;
        let (name, avatar) = &*known;
        let invite = Invite {
            medium: to.medium,
            address: &to.address,
            room_id: &room.room_id,
            sender: &who.user_id,
            sender_display_name: name.as_ref().and_then(Value::as_str),
            sender_avatar_url: avatar.as_ref().and_then(Value::as_str),
            room_alias: summary.canonical_alias.as_deref(),
            room_avatar_url: summary.avatar_url.as_deref(),
            room_join_rules: &summary.join_rule,
            room_name: summary.name.as_deref(),
            room_type: summary.room_type.as_deref(),
            client: self.settings.invite_client.as_deref(),
        };
        self.identity.store_invite(&to.server, to.token.expose(), &invite).await.map_err(|e| match e {
            Failure::Refused(r) if r.status == StatusCode::BAD_REQUEST && r.errcode == "M_UNRECOGNIZED" => {
                Error::invalid_param(format!("{} does not keep invites to {}", to.server, to.medium))
            }
            e => told(to, &e),
        })
    }

    async fn invite_by_token(&self, who: &Requester, room: &Room, stored: &Stored) -> Result<()> {
        // The first key stands a second time by itself, for those who know of one alone.
        let first = stored.public_keys.first().ok_or_else(|| Error::broken("an invite without a key"))?;
        let content = json!({
            "display_name": stored.display_name,
            "public_key": first.public_key,
            "key_validity_url": first.key_validity_url,
            "public_keys": stored.public_keys,
        });
        let draft = Draft::of(
            Some(room.room_id.clone()),
            who.user_id.clone(),
            TimelineEventType::RoomThirdPartyInvite,
            Some(stored.token.clone()),
            &content,
            self.clock.now_ms(),
        )?;
        self.events.append(room.nid, who.user_nid, draft, With::default()).await.map(drop)
    }
}

/// Whether somebody has the power to invite.
pub(crate) fn check_power(who: &Requester, levels: &PowerLevels) -> Result<()> {
    match levels.can(&who.user_id, levels.invite) {
        true => Ok(()),
        false => Err(Error::forbidden("You do not have the power to invite to this room")),
    }
}

/// What a user is told of an identity server that failed. What went wrong below the answer stays with us: it would tell what
/// listens where.
fn told(to: &ByAddress, failure: &Failure) -> Error {
    let server = &to.server;
    tracing::info!(server = %server, error = %failure, "an identity server failed");
    let gateway = |status, what: &str| Error::told(status, "M_UNKNOWN", format!("The identity server {server} {what}"));
    match failure {
        Failure::Refused(r) if r.status == StatusCode::UNAUTHORIZED => {
            Error::forbidden(format!("The identity server {server} does not accept the access token"))
        }
        // Clients show the terms, and come again.
        Failure::Refused(r) if r.status == StatusCode::FORBIDDEN && r.errcode == "M_TERMS_NOT_SIGNED" => {
            Error::told(r.status, r.errcode.clone(), r.error.clone())
        }
        Failure::Refused(r) => {
            gateway(StatusCode::BAD_GATEWAY, &format!("refused: {} {} {}", r.status.as_u16(), r.errcode, r.error))
        }
        Failure::TimedOut(_) => gateway(StatusCode::GATEWAY_TIMEOUT, "did not answer in time"),
        Failure::Nonsense(_) | Failure::TooLarge(_) => {
            gateway(StatusCode::BAD_GATEWAY, "gave an answer that makes no sense")
        }
        Failure::Ours(why) => Error::broken(format!("calling an identity server: {why}")),
        Failure::Name(_) | Failure::Forbidden(_) | Failure::Unreachable(_) | Failure::LeftAlone(_) => {
            gateway(StatusCode::BAD_GATEWAY, "could not be reached")
        }
    }
}
