//! Sign-in elsewhere: the Matrix Authentication Service, OpenID Connect, JWT, and which of them are switched on.
//!
//! SAML and CAS are type-checked with the rest of the file; their sections are read by the feature when it comes.

use std::collections::BTreeMap;

use url::Url;

use super::{Accounts, PasswordLogin};
use crate::{read::At, secret::Secret};

/// Sign-in elsewhere.
#[derive(Clone, Debug)]
pub struct Sso {
    /// All authentication is somebody else's work.
    pub delegation: Option<Delegation>,
    /// OpenID Connect providers, in order.
    pub oidc: Vec<OidcProvider>,
    /// JSON web tokens as passwords.
    pub jwt: Option<Jwt>,
    /// Whether SAML is configured.
    pub saml: bool,
    /// Whether CAS is configured and enabled.
    pub cas: bool,
    /// Prefixes of client addresses that need no confirmation page.
    pub client_prefixes: Vec<String>,
    /// Take over the name at each login.
    pub update_profile: bool,
}

/// The Matrix Authentication Service.
#[derive(Clone, Debug)]
pub struct Delegation {
    /// Its address.
    pub endpoint: Url,
    /// Speak HTTP/2 to it without TLS.
    pub force_http2: bool,
    /// Secret in both directions.
    pub secret: Secret<String>,
}

/// An OpenID Connect or OAuth 2.0 provider.
#[derive(Clone, Debug)]
pub struct OidcProvider {
    /// Its id; accounts are linked as `oidc-<id>`, those of the old single provider as `oidc`.
    pub id: String,
    /// The name shown.
    pub name: String,
    /// Icon, an mxc address.
    pub icon: Option<String>,
    /// Brand, for clients that know it.
    pub brand: Option<String>,
    /// The issuer.
    pub issuer: Url,
    /// Ask the issuer for its endpoints.
    pub discover: bool,
    /// Our id there.
    pub client_id: String,
    /// Our secret there; none where a signed token takes its place.
    pub client_secret: Option<Secret<String>>,
    /// Key and fields of that token.
    pub client_secret_jwt: Option<serde_json::Value>,
    /// `client_secret_basic`, `client_secret_post` or `none`.
    pub client_auth_method: String,
    /// `auto`, `always` or `never`.
    pub pkce_method: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Endpoints by option name, where discovery is off or they differ.
    pub endpoints: BTreeMap<&'static str, Url>,
    /// Where the user's attributes come from: `auto` or `userinfo_endpoint`.
    pub user_profile_method: String,
    /// Do not check what the issuer says of itself.
    pub skip_verification: bool,
    /// Link to an existing account of the same name.
    pub allow_existing_users: bool,
    /// Make accounts for new users.
    pub enable_registration: bool,
    /// Templates that make user name, display name, mail of the attributes.
    pub mapping: serde_json::Value,
    /// Accept the provider's word that a session ended.
    pub backchannel_logout: bool,
}

/// Logins of type `org.matrix.login.jwt`.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Secret or public key.
    pub secret: Secret<String>,
    /// Its algorithm.
    pub algorithm: String,
    /// The claim that holds the user name.
    pub subject_claim: String,
    /// The claim that holds the display name.
    pub display_name_claim: Option<String>,
    /// The issuer that a token must name.
    pub issuer: Option<String>,
    /// The audiences of which a token must name one.
    pub audiences: Option<Vec<String>>,
}

impl Sso {
    pub(super) fn read(root: &At<'_>) -> Self {
        Self {
            delegation: Delegation::read(&root.get("matrix_authentication_service")),
            oidc: OidcProvider::read_all(&root.get("oidc_providers")),
            jwt: Jwt::read(&root.get("jwt_config")),
            saml: !root.get("saml2_config.sp_config").entries().is_empty(),
            cas: cas_is_on(&root.get("cas_config")),
            client_prefixes: root.get("sso.client_whitelist").strings(),
            update_profile: root.get("sso.update_profile_information").bool(),
        }
    }
}

fn cas_is_on(at: &At<'_>) -> bool {
    let on = at.is_set() && at.get("enabled").bool();
    let url = at.get("server_url");
    if on && !url.is_set() {
        url.wrong("must be set", "name the CAS server");
    }
    on
}

impl Delegation {
    fn read(at: &At<'_>) -> Option<Self> {
        if !at.get("enabled").bool() {
            return None;
        }
        let secret = at.secret("secret");
        if secret.is_none() && !at.get("secret_path").is_set() {
            at.get("secret").wrong("must be set", "use the secret of the service's section matrix");
        }
        Some(Self {
            endpoint: at.get("endpoint").opt_url()?,
            force_http2: at.get("force_http2").bool(),
            secret: secret?,
        })
    }
}

impl OidcProvider {
    fn read_all(at: &At<'_>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for at in at.items() {
            let Some(provider) = Self::read(&at) else { continue };
            if all.iter().any(|other| other.id == provider.id) {
                at.get("idp_id").wrong("is the id of two providers", "choose another");
            }
            all.push(provider);
        }
        all
    }

    fn read(at: &At<'_>) -> Option<Self> {
        let or = |key: &str, default: &str| at.get(key).opt_str().unwrap_or_else(|| default.to_owned());
        let flag = |key: &str, default: bool| at.get(key).opt_bool().unwrap_or(default);
        let discover = flag("discover", true);
        let mut endpoints = BTreeMap::new();
        for key in ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"] {
            if let Some(url) = at.get(key).opt_url() {
                endpoints.insert(key, url);
            }
        }
        for key in ["authorization_endpoint", "token_endpoint"] {
            if !discover && !at.get(key).is_set() {
                at.get(key).wrong("must be set, because discovery is off", "");
            }
        }
        let scopes = at.get("scopes");
        let required = |key: &str| {
            let at = at.get(key);
            if !at.is_set() {
                at.wrong("must be set", "the provider's documentation tells it");
            }
            at.is_set().then(|| at.str())
        };
        let client_id = required("client_id");
        let issuer = required("issuer").and_then(|_| at.get("issuer").opt_url());
        let (id, name) = (required("idp_id"), required("idp_name"));
        let jwt = at.get("client_secret_jwt_key");
        let provider = Self {
            id: id?,
            name: name?,
            icon: at.get("idp_icon").opt_str(),
            brand: at.get("idp_brand").opt_str(),
            issuer: issuer?,
            discover,
            client_id: client_id?,
            client_secret: at.secret("client_secret"),
            client_secret_jwt: jwt.is_set().then(|| jwt.json()),
            client_auth_method: or("client_auth_method", "client_secret_basic"),
            pkce_method: or("pkce_method", "auto"),
            scopes: if scopes.is_set() { scopes.strings() } else { vec!["openid".to_owned()] },
            endpoints,
            user_profile_method: or("user_profile_method", "auto"),
            skip_verification: flag("skip_verification", false),
            allow_existing_users: flag("allow_existing_users", false),
            enable_registration: flag("enable_registration", true),
            mapping: at.get("user_mapping_provider.config").json(),
            backchannel_logout: flag("backchannel_logout_enabled", false),
        };
        let known = provider.id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'));
        if provider.id.is_empty() || !known {
            at.get("idp_id").wrong("has characters that an address cannot have", "use letters, digits, - . _ ~");
        }
        Some(provider)
    }
}

impl Jwt {
    fn read(at: &At<'_>) -> Option<Self> {
        if !at.get("enabled").bool() {
            return None;
        }
        let required = |key: &str| {
            let at = at.get(key);
            if !at.is_set() {
                at.wrong("must be set", "");
            }
            at.opt_str()
        };
        let (secret, algorithm) = (required("secret"), required("algorithm"));
        let audiences = at.get("audiences");
        Some(Self {
            secret: Secret::new(secret?),
            algorithm: algorithm?,
            subject_claim: at.get("subject_claim").str(),
            display_name_claim: at.get("display_name_claim").opt_str(),
            issuer: at.get("issuer").opt_str(),
            audiences: audiences.is_set().then(|| audiences.strings()),
        })
    }
}

/// Where authentication is delegated, nothing of our own may be on: it would be a way round.
pub(super) fn check_delegation(root: &At<'_>, accounts: &Accounts) {
    let sso = &accounts.sso;
    let conflicts = [
        ("password_config.enabled", accounts.passwords.login != PasswordLogin::Nowhere),
        ("enable_registration", accounts.registration.open),
        ("allow_guest_access", accounts.registration.guests),
        ("enable_registration_captcha", accounts.registration.captcha.required),
        ("enable_3pid_changes", accounts.profiles.change_threepids),
        ("oidc_providers", !sso.oidc.is_empty()),
        ("jwt_config.enabled", sso.jwt.is_some()),
        ("saml2_config", sso.saml),
        ("cas_config.enabled", sso.cas),
        ("login_via_existing_session.enabled", accounts.sessions.login_via_existing.is_some()),
        ("session_lifetime", root.get("session_lifetime").is_set()),
        ("refreshable_access_token_lifetime", root.get("refreshable_access_token_lifetime").is_set()),
        ("refresh_token_lifetime", root.get("refresh_token_lifetime").is_set()),
        ("nonrefreshable_access_token_lifetime", root.get("nonrefreshable_access_token_lifetime").is_set()),
    ];
    for (key, _) in conflicts.iter().filter(|(_, set)| *set) {
        let fault = "cannot be on while matrix_authentication_service does all authentication";
        root.get(key).wrong(fault, "switch it off here, and set it up in that service");
    }
}
