//! Rate limits: how often somebody may do something, and how many other servers may do at once.

use std::time::Duration;

use crate::read::At;

/// A bucket that fills at a rate and holds so many actions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Actions a second in the long run.
    pub per_second: f64,
    /// Actions at once before the limit bites.
    pub burst: f64,
}

/// All rate limits; each says for whom it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Messages, an account.
    pub message: Rate,
    /// Registrations, an address.
    pub registration: Rate,
    /// Checks of registration tokens, an address.
    pub registration_token_validity: Rate,
    /// Logins, an address.
    pub login_address: Rate,
    /// Logins, an account.
    pub login_account: Rate,
    /// Failed logins, an account.
    pub login_failed: Rate,
    /// Redactions by those who may redact others; none means that [`Self::message`] counts them.
    pub admin_redaction: Option<Rate>,
    /// Joins of rooms the server is in, a user.
    pub joins_local: Rate,
    /// Joins of other rooms, a user.
    pub joins_remote: Rate,
    /// Joins, a room.
    pub joins_per_room: Rate,
    /// Validations of third-party addresses, a client address.
    pub threepid_validation: Rate,
    /// Invites, a room.
    pub invites_per_room: Rate,
    /// Invites, a user who is invited.
    pub invites_per_user: Rate,
    /// Invites, a user who invites.
    pub invites_per_issuer: Rate,
    /// Invites by third-party address, an account.
    pub third_party_invite: Rate,
    /// Media ids reserved, an account.
    pub media_create: Rate,
    /// Presence updates, a user.
    pub presence: Rate,
    /// Changes of delayed events, a user or address.
    pub delayed_event_management: Rate,
    /// Reports, a user.
    pub reports: Rate,
    /// Rooms created, a user.
    pub room_creation: Rate,
    /// Searches of the user directory, a user.
    pub user_directory: Rate,
    /// Queries of device keys, a user.
    pub key_requests: Rate,
    /// Reads of profiles, a user.
    pub profile: Rate,
    /// Requests of another server.
    pub federation: FederationLimits,
    /// Read receipts sent out, a room and second.
    pub receipts_per_room_per_second: u32,
}

/// How the requests of one other server are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FederationLimits {
    /// The window in which requests are counted.
    pub window: Duration,
    /// So many in a window before each is delayed.
    pub sleep_limit: u32,
    /// The delay.
    pub sleep_delay: Duration,
    /// So many waiting before more are refused.
    pub reject_limit: u32,
    /// So many at the same time.
    pub concurrent: u32,
}

impl Limits {
    pub(crate) fn read(root: &At<'_>) -> Self {
        let rate = |key: &str| Rate::read(&root.get(key));
        let admin_redaction = root.get("rc_admin_redaction");
        let federation = root.get("rc_federation");
        let millis = |key: &str| Duration::from_millis(federation.get(key).int());
        Self {
            message: rate("rc_message"),
            registration: rate("rc_registration"),
            registration_token_validity: rate("rc_registration_token_validity"),
            login_address: rate("rc_login.address"),
            login_account: rate("rc_login.account"),
            login_failed: rate("rc_login.failed_attempts"),
            admin_redaction: admin_redaction.is_set().then(|| Rate::read(&admin_redaction)),
            joins_local: rate("rc_joins.local"),
            joins_remote: rate("rc_joins.remote"),
            joins_per_room: rate("rc_joins_per_room"),
            threepid_validation: rate("rc_3pid_validation"),
            invites_per_room: rate("rc_invites.per_room"),
            invites_per_user: rate("rc_invites.per_user"),
            invites_per_issuer: rate("rc_invites.per_issuer"),
            third_party_invite: rate("rc_third_party_invite"),
            media_create: rate("rc_media_create"),
            presence: rate("rc_presence.per_user"),
            delayed_event_management: rate("rc_delayed_event_mgmt"),
            reports: rate("rc_reports"),
            room_creation: rate("rc_room_creation"),
            user_directory: rate("rc_user_directory"),
            key_requests: rate("rc_key_requests"),
            profile: rate("rc_profile"),
            federation: FederationLimits {
                window: millis("window_size"),
                sleep_limit: federation.get("sleep_limit").int(),
                sleep_delay: millis("sleep_delay"),
                reject_limit: federation.get("reject_limit").int(),
                concurrent: federation.get("concurrent").int(),
            },
            receipts_per_room_per_second: root.get("federation_rr_transactions_per_room_per_second").int(),
        }
    }
}

impl Rate {
    fn read(at: &At<'_>) -> Self {
        let number = |key: &str| {
            let at = at.get(key);
            let number = at.number();
            if number < 0.0 {
                at.wrong("must not be negative", "write 0 to allow none at all");
            }
            number
        };
        Self { per_second: number("per_second"), burst: number("burst_count") }
    }
}
