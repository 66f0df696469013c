//! What member events say that we write: membership, name and avatar, and why.

use hearth_base::{Doing, Error, Requester, Result, ids::UserNid};
use ruma::OwnedUserId;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Membership, ThirdPartySigned};

/// How somebody wants to join.
#[derive(Clone, Debug, Default)]
pub struct Joining {
    /// Why.
    pub reason: Option<String>,
    /// That an invite to an address of theirs is meant for them.
    pub third_party_signed: Option<ThirdPartySigned>,
    /// What else is to stand in the event.
    pub more: Map<String, Value>,
}

impl Joining {
    /// Whether it would change nothing for who is in the room.
    pub(super) fn says_nothing(&self) -> bool {
        self.reason.is_none() && self.more.is_empty()
    }
}

/// What a client does not put into a member event by joining.
const OURS: [&str; 6] =
    ["membership", "displayname", "avatar_url", "is_direct", "join_authorised_via_users_server", "third_party_invite"];

/// Content of a member event that we write.
#[derive(Debug, Default, Serialize)]
pub struct MemberContent {
    membership: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_direct: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) join_authorised_via_users_server: Option<OwnedUserId>,
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

impl MemberContent {
    /// Without name and avatar.
    pub(super) fn bare(membership: &'static str, reason: Option<String>) -> Self {
        Self { membership, reason, ..Self::default() }
    }

    /// As an object, for where it is completed elsewhere.
    pub(super) fn object(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self).doing("writing the content of a member event")? {
            Value::Object(object) => Ok(object),
            _ => Err(Error::broken("the content of a member event is no object")),
        }
    }

    /// Marks an invite as one to a conversation of two.
    pub(crate) fn direct(mut self, is_direct: bool) -> Self {
        self.is_direct = is_direct.then_some(true);
        self
    }
}

impl Membership {
    /// Content with the user's present name and avatar.
    pub(crate) async fn content(
        &self,
        membership: &'static str,
        user: UserNid,
        reason: Option<String>,
    ) -> Result<MemberContent> {
        let (displayname, avatar_url) = (*self.store.name_and_avatar(user).await?).clone();
        Ok(MemberContent { displayname, avatar_url, ..MemberContent::bare(membership, reason) })
    }

    /// Content of the join of a user.
    pub(super) async fn joined(&self, who: &Requester, wish: &Joining) -> Result<MemberContent> {
        let mut content = self.content("join", who.user_nid, wish.reason.clone()).await?;
        content.more = wish.more.clone();
        content.more.retain(|key, _| !OURS.contains(&key.as_str()));
        Ok(content)
    }

    /// Content of an invite for that user.
    pub(crate) async fn invite_content(&self, user: UserNid, reason: Option<String>) -> Result<MemberContent> {
        if self.settings.no_profile_on_invite {
            return Ok(MemberContent::bare("invite", reason));
        }
        self.content("invite", user, reason).await
    }
}
