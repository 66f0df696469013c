//! Who asks. Made by `api/auth` from a proved token, handed down as the first argument of services.

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::ids::UserNid;

/// An authenticated local user and how they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The user acting.
    pub user_id: OwnedUserId,
    /// The same, as a number.
    pub user_nid: UserNid,
    /// The device the token belongs to; absent for appservices that masquerade without one and for admin tokens
    /// that puppet a user.
    pub device_id: Option<OwnedDeviceId>,
    /// Hash of the access token used; ties UIA sessions and `logout` to it.
    pub token: Option<[u8; 32]>,
    /// A server administrator.
    pub is_admin: bool,
    /// A guest account (spec: client-server API, "Guest access").
    pub is_guest: bool,
    /// Shadow-banned: is told its requests worked, and nobody else sees them.
    pub is_shadow_banned: bool,
    /// Suspended (spec: client-server API, "Account suspension"): may read and leave, not write.
    pub is_suspended: bool,
    /// Id of the appservice that acts, if one does.
    pub appservice: Option<String>,
}

impl Requester {
    /// A requester for work the server does on behalf of a local user (auto-join, deactivation).
    #[must_use]
    pub fn internal(user_id: OwnedUserId, user_nid: UserNid) -> Self {
        Self {
            user_id,
            user_nid,
            device_id: None,
            token: None,
            is_admin: false,
            is_guest: false,
            is_shadow_banned: false,
            is_suspended: false,
            appservice: None,
        }
    }

    /// Whether this requester is that user.
    #[must_use]
    pub fn is(&self, user: &UserId) -> bool {
        self.user_id == user
    }
}
