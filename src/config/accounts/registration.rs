//! Who may have an account, how it is verified, and which rooms a new user finds himself in.

use std::path::PathBuf;

use ruma::OwnedRoomAliasId;
use url::Url;

use crate::{pattern::Pattern, read::At, secret::Secret};

/// Who may have an account, and how.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Anybody may register.
    pub open: bool,
    /// Registration needs a token.
    pub requires_token: bool,
    /// Who has a token needs no address.
    pub token_spares_threepid: bool,
    /// Registration needs these kinds of address.
    pub required_threepids: Vec<Medium>,
    /// No stage for phone numbers.
    pub disable_msisdn: bool,
    /// Only addresses that fit one of these; none means all.
    pub allowed_threepids: Option<Vec<ThreepidPattern>>,
    /// Secret of the admin API for registration; none turns that API off.
    pub shared_secret: Option<Secret<String>>,
    /// The file that secret is in, where it is to be made because it is missing.
    pub shared_secret_to_make: Option<PathBuf>,
    /// Guests may register.
    pub guests: bool,
    /// Identity server named in `.well-known`.
    pub default_identity_server: Option<String>,
    /// Identity server that sends SMS for us.
    pub sms_delegate: Option<Url>,
    /// Do not tell that a name is taken.
    pub inhibit_in_use: bool,
    /// Names may begin with an underscore.
    pub allow_underscore: bool,
    /// Captcha, and whether registration needs it.
    pub captcha: Captcha,
    /// Rooms that new users join.
    pub auto_join: AutoJoin,
}

/// A kind of third-party address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A mail address.
    Email,
    /// A phone number.
    Msisdn,
}

const MEDIA: &[(&str, Medium)] = &[("email", Medium::Email), ("msisdn", Medium::Msisdn)];

/// Which addresses of a kind may be used.
#[derive(Clone, Debug)]
pub struct ThreepidPattern {
    /// The kind.
    pub medium: Medium,
    /// Fits from the beginning of the address.
    pub pattern: Pattern,
}

/// reCAPTCHA.
#[derive(Clone, Debug)]
pub struct Captcha {
    /// Registration needs it.
    pub required: bool,
    /// Key for the page.
    pub public_key: Option<String>,
    /// Key for the check.
    pub private_key: Option<Secret<String>>,
    /// Where an answer is checked.
    pub verify_url: Option<Url>,
}

/// Rooms that new users join.
#[derive(Clone, Debug)]
pub struct AutoJoin {
    /// The rooms.
    pub rooms: Vec<OwnedRoomAliasId>,
    /// Make those that are missing.
    pub create: bool,
    /// Make them open to other servers.
    pub federated: bool,
    /// As what they are made.
    pub preset: RoomPreset,
    /// Who makes them and invites; none means the first user.
    pub localpart: Option<String>,
    /// Guests too.
    pub guests: bool,
}

/// As what a room is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomPreset {
    /// Anybody may join.
    Public,
    /// By invitation.
    Private,
    /// By invitation, and all have the rights of the creator.
    TrustedPrivate,
}

const PRESETS: &[(&str, RoomPreset)] = &[
    ("public_chat", RoomPreset::Public),
    ("private_chat", RoomPreset::Private),
    ("trusted_private_chat", RoomPreset::TrustedPrivate),
];

impl Registration {
    pub(super) fn read(root: &At<'_>, has_email: bool) -> Self {
        let open_at = root.get("enable_registration");
        let open = open_at.bool();
        let captcha = Captcha {
            required: root.get("enable_registration_captcha").bool(),
            public_key: root.secret("recaptcha_public_key").map(|key| key.expose().clone()),
            private_key: root.secret("recaptcha_private_key"),
            verify_url: root.get("recaptcha_siteverify_api").opt_url(),
        };
        let requires_token = root.get("registration_requires_token").bool();
        let required_at = root.get("registrations_require_3pid");
        let required_threepids = required_at.each(|at| at.word(MEDIA));
        let verified = captcha.required || requires_token || !required_threepids.is_empty();
        if open && !verified && !root.get("enable_registration_without_verification").bool() {
            open_at.wrong(
                "opens the server to anybody without any check, which spammers find within days",
                "set one of enable_registration_captcha, registrations_require_3pid, registration_requires_token, \
                 or enable_registration_without_verification: true to have it so all the same",
            );
        }
        let sms_delegate = root.get("account_threepid_delegates.msisdn").opt_url();
        for at in required_at.items() {
            match at.word(MEDIA) {
                Some(Medium::Email) if !has_email => {
                    at.wrong("cannot be checked, because no mail can be sent", "fill in the section email");
                }
                Some(Medium::Msisdn) if sms_delegate.is_none() => {
                    at.wrong("cannot be checked, because no SMS can be sent", "set account_threepid_delegates.msisdn");
                }
                _ => {}
            }
        }
        let allowed = root.get("allowed_local_3pids");
        let pattern = |at: &At<'_>| {
            Some(ThreepidPattern { medium: at.get("medium").word(MEDIA)?, pattern: pattern_of(&at.get("pattern"))? })
        };
        let (shared_secret, shared_secret_to_make) = shared_secret(root);
        Self {
            open,
            requires_token,
            token_spares_threepid: root.get("enable_registration_token_3pid_bypass").bool(),
            required_threepids,
            disable_msisdn: root.get("disable_msisdn_registration").bool(),
            allowed_threepids: allowed.is_set().then(|| allowed.each(pattern)),
            shared_secret,
            shared_secret_to_make,
            guests: root.get("allow_guest_access").bool(),
            default_identity_server: root.get("default_identity_server").opt_str(),
            sms_delegate,
            inhibit_in_use: root.get("inhibit_user_in_use_error").bool(),
            allow_underscore: root.get("allow_underscore_prefixed_registration").bool(),
            captcha,
            auto_join: AutoJoin::read(root),
        }
    }
}

/// The secret, or the file to make it in when that is missing.
pub(crate) fn shared_secret(root: &At<'_>) -> (Option<Secret<String>>, Option<PathBuf>) {
    let file = root.get("registration_shared_secret_path");
    let alone = !root.get("registration_shared_secret").is_set();
    match file.opt_path() {
        Some(path) if alone && !path.exists() => (None, Some(path)),
        _ => (root.secret("registration_shared_secret"), None),
    }
}

impl AutoJoin {
    fn read(root: &At<'_>) -> Self {
        let preset_at = root.get("autocreate_auto_join_room_preset");
        let preset = preset_at.word(PRESETS).unwrap_or(RoomPreset::Public);
        let localpart = root.get("auto_join_mxid_localpart").opt_str();
        let this = Self {
            rooms: root.get("auto_join_rooms").each(|at| at.parse("a room alias such as #welcome:example.com")),
            create: root.get("autocreate_auto_join_rooms").bool(),
            federated: root.get("autocreate_auto_join_rooms_federated").bool(),
            preset,
            localpart,
            guests: root.get("auto_join_rooms_for_guests").bool(),
        };
        if this.preset != RoomPreset::Public && this.localpart.is_none() {
            preset_at.wrong(
                "makes rooms that one must be invited to, and nobody is named who invites",
                "set auto_join_mxid_localpart",
            );
        }
        this
    }
}

fn pattern_of(at: &At<'_>) -> Option<Pattern> {
    Pattern::new(&at.str()).map_err(|error| at.wrong(format!("is no regular expression: {error}"), "")).ok()
}
