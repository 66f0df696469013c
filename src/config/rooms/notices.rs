//! What the server says to its users: notices, and the policy that they are asked to agree to.

use std::path::PathBuf;

use crate::read::At;

/// Messages of the server to its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNotices {
    /// Localpart of the sender.
    pub localpart: String,
    /// The sender's name.
    pub display_name: String,
    /// The sender's avatar.
    pub avatar_url: Option<String>,
    /// Name of the room.
    pub room_name: String,
    /// Its avatar.
    pub room_avatar_url: Option<String>,
    /// Its topic.
    pub room_topic: Option<String>,
    /// Join the user, without an invite to accept.
    pub auto_join: bool,
}

/// A policy that users agree to.
#[derive(Clone, Debug, PartialEq)]
pub struct Consent {
    /// Directory of pages: `<language>/<version>.html` and `success.html`.
    pub template_dir: PathBuf,
    /// The current version.
    pub version: String,
    /// Content of the notice to those who have not agreed, as JSON, with `%(consent_uri)s` to be filled in.
    pub notice: Option<serde_json::Value>,
    /// Guests get it too.
    pub notice_to_guests: bool,
    /// Nothing can be sent until one agrees; the text that says so.
    pub block_error: Option<String>,
    /// Registration asks for it.
    pub at_registration: bool,
    /// Name of the policy.
    pub policy_name: String,
}

impl ServerNotices {
    pub(super) fn read(root: &At<'_>) -> Option<Self> {
        let at = root.get("server_notices");
        if at.entries().is_empty() {
            return None;
        }
        let localpart = at.get("system_mxid_localpart");
        if !localpart.is_set() {
            localpart.wrong("must be set", "name the user that notices come from, such as notices");
            return None;
        }
        Some(Self {
            localpart: localpart.str(),
            display_name: at.get("system_mxid_display_name").str(),
            avatar_url: at.get("system_mxid_avatar_url").opt_str(),
            room_name: at.get("room_name").str(),
            room_avatar_url: at.get("room_avatar_url").opt_str(),
            room_topic: at.get("room_topic").opt_str(),
            auto_join: at.get("auto_join").bool(),
        })
    }
}

impl Consent {
    pub(super) fn read(root: &At<'_>) -> Option<Self> {
        let at = root.get("user_consent");
        if at.entries().is_empty() {
            return None;
        }
        let required = |key: &str, way_out: &str| {
            let at = at.get(key);
            if !at.is_set() {
                at.wrong("must be set", way_out);
            }
            at.opt_str()
        };
        let template_dir = required("template_dir", "name the directory with the pages of the policy");
        let version = required("version", "name the current version of the policy");
        let notice = at.get("server_notice_content");
        if notice.is_set() && !root.get("server_notices").is_set() {
            notice.wrong("needs somebody whom notices come from", "fill in the section server_notices");
        }
        Some(Self {
            template_dir: template_dir?.into(),
            version: version?,
            notice: notice.is_set().then(|| notice.json()),
            notice_to_guests: at.get("send_server_notice_to_guests").bool(),
            block_error: at.get("block_events_error").opt_str(),
            at_registration: at.get("require_at_registration").opt_bool().unwrap_or(false),
            policy_name: at.get("policy_name").str(),
        })
    }
}
