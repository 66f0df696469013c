//! Accounts: who may have one, how passwords are checked, how long tokens live, what profiles tell.
//!
//! Mail is in `email`, sign-in elsewhere in `sso`.

mod email;
mod registration;
mod sso;

use std::time::Duration;

use url::Url;

pub(crate) use self::registration::shared_secret;
pub use self::{
    email::{AccountValidity, Email, EmailTls, Subjects},
    registration::{AutoJoin, Captcha, Medium, Registration, RoomPreset, ThreepidPattern},
    sso::{Delegation, Jwt, OidcProvider, Sso},
};
use crate::{read::At, secret::Secret};

/// Accounts and all that belongs to one.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Who may have an account, and how.
    pub registration: Registration,
    /// Checking and storing passwords.
    pub passwords: Passwords,
    /// How long tokens and devices live.
    pub sessions: Sessions,
    /// What users may change and others may see.
    pub profiles: Profiles,
    /// Outgoing mail; none means that nothing that needs mail is offered.
    pub email: Option<Email>,
    /// Accounts that end unless they are renewed.
    pub validity: Option<AccountValidity>,
    /// Sign-in elsewhere.
    pub sso: Sso,
    /// Signs guest tokens, short-lived login tokens and links to unsubscribe.
    pub macaroon_secret: Option<Secret<String>>,
    /// Signs links to the consent page.
    pub form_secret: Option<Secret<String>>,
    /// Credentials for calls.
    pub turn: Turn,
    /// How long the addresses of users are kept; none means for ever.
    pub user_ips_max_age: Option<Duration>,
    /// Record addresses of admins who act as a user.
    pub track_puppeted_user_ips: bool,
    /// Hosts that the `next_link` of a mail may lead to; none means all.
    pub next_link_hosts: Option<Vec<String>>,
    /// Do not tell whether an address is in use when a validation is asked for.
    pub inhibit_threepid_errors: bool,
    /// The type of new users, and further types that an admin may give.
    pub user_types: (Option<String>, Vec<String>),
}

/// Checking and storing passwords.
#[derive(Clone, Debug)]
pub struct Passwords {
    /// Where a password is accepted.
    pub login: PasswordLogin,
    /// Whether passwords of our own database count.
    pub local: bool,
    /// Appended to each password before it is hashed; without it no existing hash fits.
    pub pepper: Option<Secret<String>>,
    /// Cost of bcrypt hashes.
    pub bcrypt_rounds: u32,
    /// What a new password must have.
    pub policy: PasswordPolicy,
}

/// Where a password is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordLogin {
    /// For login and to confirm.
    Everywhere,
    /// Only to confirm an action of somebody logged in.
    OnlyToConfirm,
    /// Nowhere.
    Nowhere,
}

/// What a new password must have. All false and 0 when the policy is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// So many characters.
    pub minimum_length: usize,
    /// A digit.
    pub digit: bool,
    /// A symbol.
    pub symbol: bool,
    /// A small letter.
    pub lowercase: bool,
    /// A capital letter.
    pub uppercase: bool,
}

/// How long tokens and devices live; none means for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// A session as a whole, from login.
    pub lifetime: Option<Duration>,
    /// An access token that can be refreshed. None: refresh tokens are not given out.
    pub refreshable_access_token: Option<Duration>,
    /// A refresh token.
    pub refresh_token: Option<Duration>,
    /// An access token without refresh token.
    pub nonrefreshable_access_token: Option<Duration>,
    /// How long a passed confirmation may be used again.
    pub ui_auth: Duration,
    /// Devices that were unused for so long are logged out.
    pub delete_stale_devices_after: Option<Duration>,
    /// A token for a second device, from an existing session.
    pub login_via_existing: Option<LoginViaExisting>,
}

/// `POST /login/get_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginViaExisting {
    /// Whether the user has to confirm.
    pub confirm: bool,
    /// How long the token lives.
    pub token_lifetime: Duration,
}

/// What users may change and others may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profiles {
    /// Users may change their name.
    pub set_displayname: bool,
    /// Users may change their avatar.
    pub set_avatar_url: bool,
    /// Users may change their addresses.
    pub change_threepids: bool,
    /// Addresses are looked up at identity servers.
    pub lookup_threepids: bool,
    /// Reading a profile needs a token.
    pub require_auth: bool,
    /// Only profiles of users in a common room can be read.
    pub only_shared_rooms: bool,
    /// An invite carries name and avatar of the one who is invited.
    pub on_invite: bool,
    /// A member event may differ from the profile.
    pub per_room: bool,
    /// Changes of profiles are part of sync.
    pub in_sync: bool,
}

/// Credentials for calls.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Addresses of TURN servers; none means that calls get no help.
    pub uris: Vec<String>,
    /// Secret that time-limited credentials are made from.
    pub shared_secret: Option<Secret<String>>,
    /// A fixed user instead.
    pub username: Option<String>,
    /// And its password.
    pub password: Option<Secret<String>>,
    /// How long credentials hold.
    pub lifetime: Duration,
    /// Whether guests get them.
    pub guests: bool,
    /// MatrixRTC: (type, address of the service) of each transport.
    pub rtc_transports: Vec<(String, Url)>,
}

impl Accounts {
    pub(crate) fn read(root: &At<'_>) -> Self {
        let sso = Sso::read(root);
        let delegated = sso.delegation.is_some();
        let email = Email::read(root);
        let registration = Registration::read(root, email.is_some());
        let profiles = Profiles::read(root, delegated);
        let this = Self {
            validity: AccountValidity::read(root, email.is_some()),
            registration,
            passwords: Passwords::read(root, delegated),
            sessions: Sessions::read(root),
            profiles,
            email,
            sso,
            macaroon_secret: root.secret("macaroon_secret_key"),
            form_secret: root.secret("form_secret"),
            turn: Turn::read(root),
            user_ips_max_age: root.get("user_ips_max_age").opt_duration(),
            track_puppeted_user_ips: root.get("track_puppeted_user_ips").bool(),
            next_link_hosts: root
                .get("next_link_domain_whitelist")
                .opt_items()
                .map(|hosts| hosts.iter().map(At::str).collect()),
            inhibit_threepid_errors: root.get("request_token_inhibit_3pid_errors").bool(),
            user_types: user_types(root),
        };
        if delegated {
            sso::check_delegation(root, &this);
        }
        this
    }
}

/// The type of new users, which must be one of the built-in two or of the further ones.
fn user_types(root: &At<'_>) -> (Option<String>, Vec<String>) {
    let default_at = root.get("user_types.default_user_type");
    let default = default_at.opt_str();
    let extra = root.get("user_types.extra_user_types").strings();
    let known = |kind: &String| matches!(kind.as_str(), "support" | "bot") || extra.contains(kind);
    if default.as_ref().is_some_and(|kind| !known(kind)) {
        default_at.wrong("is neither support nor bot nor a type of your own", "add it to user_types.extra_user_types");
    }
    (default, extra)
}

/// What is appended to each password.
pub(crate) fn pepper(root: &At<'_>) -> Option<Secret<String>> {
    root.get("password_config.pepper").opt_str().map(Secret::new)
}

/// The cost of bcrypt hashes.
pub(crate) fn bcrypt_rounds(root: &At<'_>) -> u32 {
    let at = root.get("bcrypt_rounds");
    let rounds = at.int();
    if !(4..=31).contains(&rounds) {
        at.wrong("must be from 4 to 31", "12 is usual");
    }
    rounds
}

impl Passwords {
    fn read(root: &At<'_>, delegated: bool) -> Self {
        let at = root.get("password_config");
        let enabled = at.get("enabled");
        let login = if enabled.node().and_then(crate::units::str) == Some("only_for_reauth") {
            PasswordLogin::OnlyToConfirm
        } else if enabled.is_set() && enabled.bool() || !enabled.is_set() && !delegated {
            PasswordLogin::Everywhere
        } else {
            PasswordLogin::Nowhere
        };
        Self {
            login,
            local: at.get("localdb_enabled").bool(),
            pepper: pepper(root),
            bcrypt_rounds: bcrypt_rounds(root),
            policy: PasswordPolicy::read(&at.get("policy")),
        }
    }
}

impl PasswordPolicy {
    fn read(at: &At<'_>) -> Self {
        if !at.get("enabled").bool() {
            return Self::default();
        }
        Self {
            minimum_length: at.get("minimum_length").int::<u16>().into(),
            digit: at.get("require_digit").bool(),
            symbol: at.get("require_symbol").bool(),
            lowercase: at.get("require_lowercase").bool(),
            uppercase: at.get("require_uppercase").bool(),
        }
    }
}

impl Sessions {
    fn read(root: &At<'_>) -> Self {
        let lifetime = root.get("session_lifetime").opt_duration();
        let tokens =
            ["refreshable_access_token_lifetime", "refresh_token_lifetime", "nonrefreshable_access_token_lifetime"]
                .map(|key| {
                    let at = root.get(key);
                    let token = at.opt_duration();
                    // Only what was written down is held against it: the default of five minutes may well exceed a session.
                    if let (true, Some(token), Some(lifetime)) = (at.is_set(), token, lifetime)
                        && token > lifetime
                    {
                        at.wrong(
                            "is longer than session_lifetime, at whose end the token goes anyway",
                            "make it shorter",
                        );
                    }
                    token
                });
        let existing = root.get("login_via_existing_session");
        Self {
            lifetime,
            refreshable_access_token: tokens[0],
            refresh_token: tokens[1],
            nonrefreshable_access_token: tokens[2],
            ui_auth: root.get("ui_auth.session_timeout").duration(),
            delete_stale_devices_after: root.get("delete_stale_devices_after").opt_duration(),
            login_via_existing: existing.get("enabled").bool().then(|| LoginViaExisting {
                confirm: existing.get("require_ui_auth").bool(),
                token_lifetime: existing.get("token_timeout").duration(),
            }),
        }
    }
}

impl Profiles {
    fn read(root: &At<'_>, delegated: bool) -> Self {
        let require_auth = root.get("require_auth_for_profile_requests").bool();
        let shared = root.get("limit_profile_requests_to_users_who_share_rooms");
        let only_shared_rooms = shared.bool();
        if only_shared_rooms && !require_auth {
            shared.wrong("needs to know who asks", "set require_auth_for_profile_requests: true as well");
        }
        let changes = root.get("enable_3pid_changes");
        Self {
            set_displayname: root.get("enable_set_displayname").bool(),
            set_avatar_url: root.get("enable_set_avatar_url").bool(),
            change_threepids: if delegated && !changes.is_set() { false } else { changes.bool() },
            lookup_threepids: root.get("enable_3pid_lookup").bool(),
            require_auth,
            only_shared_rooms,
            on_invite: root.get("include_profile_data_on_invite").bool(),
            per_room: root.get("allow_per_room_profiles").bool(),
            in_sync: root.get("include_profile_updates_in_sync").bool(),
        }
    }
}

impl Turn {
    fn read(root: &At<'_>) -> Self {
        let transport = |at: &At<'_>| Some((at.get("type").str(), at.get("livekit_service_url").opt_url()?));
        Self {
            uris: root.get("turn_uris").strings(),
            shared_secret: root.secret("turn_shared_secret"),
            username: root.get("turn_username").opt_str(),
            password: root.get("turn_password").opt_str().map(Secret::new),
            lifetime: root.get("turn_user_lifetime").duration(),
            guests: root.get("turn_allow_guests").bool(),
            rtc_transports: root.get("matrix_rtc.transports").each(transport),
        }
    }
}
