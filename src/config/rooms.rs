//! Rooms and what is around them: what new ones are like, who may list them, how long history is kept, presence, push,
//! search. The policies for mails and consent of single users are in `notices`.

mod notices;
mod retention;

use std::time::Duration;

use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::Value;

pub use self::{
    notices::{Consent, ServerNotices},
    retention::{PurgeJob, Retention},
};
use crate::read::At;

/// Rooms and what is around them.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// What new rooms are like.
    pub defaults: RoomDefaults,
    /// The room directory.
    pub directory: Directory,
    /// How long things are kept.
    pub retention: Retention,
    /// Who is here.
    pub presence: Presence,
    /// Push notifications.
    pub push: Push,
    /// The user directory.
    pub users: UserDirectory,
    /// Search in messages.
    pub search: bool,
    /// Upper bound of timelines in filters; none means no bound.
    pub timeline_limit: Option<u32>,
    /// How long an answer of /sync may be given again for the same request.
    pub sync_cache: Duration,
    /// Rooms that sync leaves out.
    pub hidden_from_sync: Vec<OwnedRoomId>,
    /// Rooms that do not make users see each other's presence.
    pub hidden_from_presence: Vec<OwnedRoomId>,
    /// Only admins of the server may invite its users.
    pub only_admins_invite: bool,
    /// Accepting invites without asking.
    pub auto_accept: Option<AutoAccept>,
    /// Leaving forgets.
    pub forget_on_leave: bool,
    /// A room with more ends of its history gets an event that joins them.
    pub dummy_events_threshold: u32,
    /// State shown with an invite or knock.
    pub prejoin_state: PrejoinState,
    /// Longest delay of delayed events; none turns them off.
    pub max_event_delay: Option<Duration>,
    /// Messages that delete themselves.
    pub self_destruct: bool,
    /// How long users may redact messages.
    pub redaction_allowed: Option<Duration>,
    /// Messages of the server to its users.
    pub notices: Option<ServerNotices>,
    /// A policy that users agree to.
    pub consent: Option<Consent>,
}

/// What new rooms are like.
#[derive(Clone, Debug)]
pub struct RoomDefaults {
    /// Their version.
    pub version: RoomVersionId,
    /// Which are encrypted.
    pub encryption: DefaultEncryption,
    /// Content of power levels by preset, as JSON, laid over the usual one.
    pub power_levels: Value,
}

/// Which new rooms are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultEncryption {
    /// All.
    All,
    /// Those of the two private presets.
    Invite,
    /// None, unless the client asks.
    Off,
}

/// The room directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// False: it is always empty.
    pub searchable: bool,
    /// It can be read without a token.
    pub without_auth: bool,
    /// Only members may add an alias.
    pub aliases_by_members_only: bool,
    /// Who may make which alias; none means anybody.
    pub alias_rules: Option<Vec<ListRule>>,
    /// Who may list which room; none means anybody.
    pub publication_rules: Option<Vec<ListRule>>,
}

/// The first rule whose three globs fit decides; when none fits, the answer is no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRule {
    /// Glob of the user.
    pub user_id: String,
    /// Glob of the alias.
    pub alias: String,
    /// Glob of the room.
    pub room_id: String,
    /// The answer.
    pub allow: bool,
}

/// Who is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is tracked.
    pub mode: PresenceMode,
    /// The first sync lists those who are away as well.
    pub offline_in_sync: bool,
    /// How long "active now" lasts.
    pub active: Duration,
    /// How long after the last sync somebody is offline.
    pub sync_timeout: Duration,
    /// How long until somebody is unavailable.
    pub idle: Duration,
}

/// Whether presence is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceMode {
    /// Yes.
    On,
    /// Updates from others are passed on, our own users are not watched.
    Untracked,
    /// No.
    Off,
}

/// Push notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push {
    /// Count and notify at all.
    pub enabled: bool,
    /// Put the content into the notification.
    pub include_content: bool,
    /// A badge counts rooms, not messages.
    pub count_rooms: bool,
    /// Random delay.
    pub jitter: Duration,
    /// Send them to gateways.
    pub send: bool,
    /// Rules a user may have.
    pub max_rules: u32,
    /// Length of a rule's id.
    pub max_rule_id: u32,
    /// Bytes of a rule.
    pub max_rule_size: u64,
}

/// The user directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserDirectory {
    /// Whether there is one.
    pub enabled: bool,
    /// Everybody, not only those one shares a room with.
    pub search_all: bool,
    /// Local users first.
    pub prefer_local: bool,
    /// Local users only.
    pub only_local: bool,
    /// Locked users too.
    pub locked: bool,
}

/// Accepting invites without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoAccept {
    /// Only to direct chats.
    pub only_direct: bool,
    /// Only from local users.
    pub only_local: bool,
}

/// State shown with an invite or knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrejoinState {
    /// Create, join rules, canonical alias, avatar, encryption, name and topic.
    pub defaults: bool,
    /// Further types, of which a state key may be asked for.
    pub more: Vec<(String, Option<String>)>,
}

/// The versions of which rooms can be made here.
const VERSIONS: &[(&str, RoomVersionId)] = &[
    ("1", RoomVersionId::V1),
    ("2", RoomVersionId::V2),
    ("3", RoomVersionId::V3),
    ("4", RoomVersionId::V4),
    ("5", RoomVersionId::V5),
    ("6", RoomVersionId::V6),
    ("7", RoomVersionId::V7),
    ("8", RoomVersionId::V8),
    ("9", RoomVersionId::V9),
    ("10", RoomVersionId::V10),
    ("11", RoomVersionId::V11),
    ("12", RoomVersionId::V12),
];

impl Rooms {
    pub(crate) fn read(root: &At<'_>) -> Self {
        let rooms = |key: &str| root.get(key).each(|at| at.parse("a room id such as !abc:example.com"));
        let limit: i64 = root.get("filter_timeline_limit").int();
        let accept = root.get("auto_accept_invites");
        Self {
            defaults: RoomDefaults::read(root),
            directory: Directory::read(root),
            retention: Retention::read(root),
            presence: Presence::read(&root.get("presence")),
            push: Push::read(root),
            users: UserDirectory::read(&root.get("user_directory")),
            search: root.get("enable_search").bool(),
            timeline_limit: u32::try_from(limit).ok(),
            sync_cache: root.get("caches.sync_response_cache_duration").duration(),
            hidden_from_sync: rooms("exclude_rooms_from_sync"),
            hidden_from_presence: rooms("exclude_rooms_from_presence"),
            only_admins_invite: root.get("block_non_admin_invites").bool(),
            auto_accept: accept.get("enabled").bool().then(|| AutoAccept {
                only_direct: accept.get("only_for_direct_messages").bool(),
                only_local: accept.get("only_from_local_users").bool(),
            }),
            forget_on_leave: root.get("forget_rooms_on_leave").bool(),
            dummy_events_threshold: root.get("dummy_events_threshold").int(),
            prejoin_state: PrejoinState::read(&root.get("room_prejoin_state")),
            max_event_delay: max_event_delay(&root.get("max_event_delay_duration")),
            self_destruct: root.get("enable_ephemeral_messages").bool(),
            redaction_allowed: root.get("redaction_allowed_period").opt_duration(),
            notices: ServerNotices::read(root),
            consent: Consent::read(root),
        }
    }
}

fn max_event_delay(at: &At<'_>) -> Option<Duration> {
    let delay = at.opt_duration();
    if delay.is_some_and(|delay| delay.is_zero()) {
        at.wrong("must be longer than nothing", "remove it to turn delayed events off");
    }
    delay
}

impl RoomDefaults {
    fn read(root: &At<'_>) -> Self {
        let at = root.get("default_room_version");
        let words: Vec<(&str, &RoomVersionId)> = VERSIONS.iter().map(|(word, version)| (*word, version)).collect();
        let encryption = root.get("encryption_enabled_by_default_for_room_type").word(&[
            ("all", DefaultEncryption::All),
            ("invite", DefaultEncryption::Invite),
            ("off", DefaultEncryption::Off),
        ]);
        Self {
            version: at.word(&words).cloned().unwrap_or(RoomVersionId::V12),
            encryption: encryption.unwrap_or(DefaultEncryption::Off),
            power_levels: root.get("default_power_level_content_override").json(),
        }
    }
}

impl Directory {
    fn read(root: &At<'_>) -> Self {
        let rules = |key: &str| {
            let at = root.get(key);
            at.is_set().then(|| at.each(ListRule::read))
        };
        Self {
            searchable: root.get("enable_room_list_search").bool(),
            without_auth: root.get("allow_public_rooms_without_auth").bool(),
            aliases_by_members_only: root.get("require_membership_for_aliases").bool(),
            alias_rules: rules("alias_creation_rules"),
            publication_rules: rules("room_list_publication_rules"),
        }
    }
}

impl ListRule {
    fn read(at: &At<'_>) -> Option<Self> {
        let glob = |key: &str| at.get(key).opt_str().unwrap_or_else(|| "*".to_owned());
        let allow = at.get("action").word(&[("allow", true), ("deny", false)])?;
        Some(Self { user_id: glob("user_id"), alias: glob("alias"), room_id: glob("room_id"), allow })
    }
}

impl Presence {
    fn read(at: &At<'_>) -> Self {
        let enabled = at.get("enabled");
        let mode = if enabled.node().and_then(crate::units::str) == Some("untracked") {
            PresenceMode::Untracked
        } else if enabled.bool() {
            PresenceMode::On
        } else {
            PresenceMode::Off
        };
        let idle_at = at.get("idle_timeout");
        let this = Self {
            mode,
            offline_in_sync: at.get("include_offline_users_on_sync").bool(),
            active: at.get("last_active_granularity").duration(),
            sync_timeout: at.get("sync_online_timeout").duration(),
            idle: idle_at.duration(),
        };
        if this.idle <= this.active {
            idle_at.wrong("must be longer than presence.last_active_granularity", "");
        }
        this
    }
}

impl Push {
    fn read(root: &At<'_>) -> Self {
        let at = root.get("push");
        let limits = root.get("push_rules.limits");
        let pushers = !root.get("pusher_instances").items().is_empty();
        Self {
            enabled: at.get("enabled").bool(),
            include_content: at.get("include_content").bool(),
            count_rooms: at.get("group_unread_count_by_room").bool(),
            jitter: at.get("jitter_delay").duration(),
            send: root.get("start_pushers").bool() || pushers,
            max_rules: limits.get("rule_count").int(),
            max_rule_id: limits.get("rule_id_length").int(),
            max_rule_size: limits.get("rule_size").size(),
        }
    }
}

impl UserDirectory {
    fn read(at: &At<'_>) -> Self {
        Self {
            enabled: at.get("enabled").bool(),
            search_all: at.get("search_all_users").bool(),
            prefer_local: at.get("prefer_local_users").bool(),
            only_local: at.get("exclude_remote_users").bool(),
            locked: at.get("show_locked_users").bool(),
        }
    }
}

impl PrejoinState {
    fn read(at: &At<'_>) -> Self {
        let more = at.get("additional_event_types").each(|at| {
            // A text is a type with any state key, a pair a type with this one.
            if at.node().is_some_and(|node| crate::units::str(node).is_some()) {
                return Some((at.str(), None));
            }
            match at.strings().as_slice() {
                [kind, state_key] => Some((kind.clone(), Some(state_key.clone()))),
                _ => {
                    at.wrong("must be a type, or a pair of type and state key", "write it as [\"m.room.x\", \"key\"]");
                    None
                }
            }
        });
        Self { defaults: !at.get("disable_default_event_types").bool(), more }
    }
}
