//! Other servers: who may talk to us, how patiently we call, whose word we take about keys, and our own keys.
//!
//! Signing key files are read in `signing`, registrations of application services in `appservices`.

mod appservices;
mod signing;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, UInt,
    serde::{Base64, base64::Standard},
};

pub use self::{
    appservices::{Appservice, AppserviceNamespace},
    signing::{SigningKey, SigningKeyError},
};
use crate::read::At;

/// Other servers and our keys towards them.
#[derive(Clone, Debug)]
pub struct Federation {
    /// Only these servers; none means all, an empty list nobody.
    pub only: Option<Vec<OwnedServerName>>,
    /// Tell users which servers these are.
    pub tell_only: bool,
    /// Check certificates of other servers.
    pub verify_certificates: bool,
    /// Globs of domains that are not checked.
    pub unverified_domains: Vec<String>,
    /// CA files that stand in place of the system's.
    pub custom_ca: Vec<PathBuf>,
    /// TLS 1.3 and nothing older.
    pub only_tls13: bool,
    /// Others may read profiles.
    pub profile_lookup: bool,
    /// Others may read names of devices.
    pub device_name_lookup: bool,
    /// Others may read the room directory.
    pub public_rooms: bool,
    /// Rooms too large to join.
    pub complexity: Option<Complexity>,
    /// How patiently others are called.
    pub calls: Calls,
    /// Send nothing to other servers.
    pub silent: bool,
    /// Our keys: the first signs, all are published. Empty when [`Self::signing_key_to_make`] says where one is to be.
    pub signing_keys: Vec<SigningKey>,
    /// The file that the signing key is in.
    pub signing_key_path: PathBuf,
    /// Whether that file is missing and has to be made.
    pub signing_key_to_make: bool,
    /// Keys that no longer sign, and since when.
    pub old_keys: BTreeMap<OwnedServerSigningKeyId, OldKey>,
    /// How long our answer about our keys holds.
    pub key_refresh_interval: Duration,
    /// Notaries, asked for keys of others; none means that each server is asked itself.
    pub trusted_key_servers: Vec<KeyServer>,
    /// Keys to sign with as a notary; empty means our own.
    pub notary_keys: Vec<SigningKey>,
    /// Application services.
    pub appservices: Vec<Appservice>,
    /// Record addresses of users of application services.
    pub track_appservice_ips: bool,
    /// Send the token to application services in the query as well.
    pub appservice_query_token: bool,
}

/// Rooms too large to join.
#[derive(Clone, Debug, PartialEq)]
pub struct Complexity {
    /// The limit; 1.0 is 500 state events.
    pub limit: f64,
    /// What is told.
    pub error: String,
    /// Admins may all the same.
    pub admins_can_join: bool,
}

/// How patiently others are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// One call.
    pub timeout: Duration,
    /// Quick retries, for what a user waits for: how many, and the longest pause.
    pub short_retries: u32,
    /// The longest pause between them.
    pub short_retry_delay: Duration,
    /// Slow retries.
    pub long_retries: u32,
    /// The longest pause between them.
    pub long_retry_delay: Duration,
    /// First pause after a server failed.
    pub backoff_min: Duration,
    /// Factor of the next pause.
    pub backoff_factor: u32,
    /// Longest pause.
    pub backoff_max: Duration,
}

/// A key that no longer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// The public key.
    pub key: Base64<Standard>,
    /// When it went out of use.
    pub expired: MilliSecondsSinceUnixEpoch,
}

/// A notary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyServer {
    /// Its name.
    pub name: OwnedServerName,
    /// Keys by which its answers are checked; empty means that TLS has to do.
    pub keys: BTreeMap<OwnedServerSigningKeyId, Base64<Standard>>,
}

impl Federation {
    pub(crate) fn read(root: &At<'_>, server_name: &OwnedServerName) -> Self {
        let name = |at: &At<'_>| at.parse::<OwnedServerName>("a server name such as example.com");
        let only = root.get("federation_domain_whitelist");
        let tls = root.get("federation_client_minimum_tls_version");
        let tls_version = tls.word(&[("1", 10), ("1.0", 10), ("1.1", 11), ("1.2", 12), ("1.3", 13)]).unwrap_or(12);
        if tls.is_set() && tls_version < 12 {
            let text = "TLS older than 1.2 is not spoken to other servers; the minimum is 1.2.".to_owned();
            tls.notice(crate::NoticeSort::Other, text);
        }
        let complexity = root.get("limit_remote_rooms");
        let senders = !root.get("federation_sender_instances").items().is_empty();
        let signing_key_path = root
            .get("signing_key_path")
            .opt_path()
            .unwrap_or_else(|| root.cx().dir.join(format!("{server_name}.signing.key")));
        let signing_key_to_make = !root.get("signing_key").is_set() && !signing_key_path.exists();
        let notary_path = root.get("key_server_signing_keys_path");
        Self {
            only: only.opt_items().map(|items| items.iter().filter_map(name).collect()),
            tell_only: root.get("federation_whitelist_endpoint_enabled").bool(),
            verify_certificates: root.get("federation_verify_certificates").bool(),
            unverified_domains: root.get("federation_certificate_verification_whitelist").strings(),
            custom_ca: root.get("federation_custom_ca_list").each(|at| {
                let path = at.path_buf();
                at.read_file(&path).map(|_| path)
            }),
            only_tls13: tls_version == 13,
            profile_lookup: root.get("allow_profile_lookup_over_federation").bool(),
            device_name_lookup: root.get("allow_device_name_lookup_over_federation").bool(),
            public_rooms: root.get("allow_public_rooms_over_federation").bool(),
            complexity: complexity.get("enabled").bool().then(|| Complexity {
                limit: complexity.get("complexity").number(),
                error: complexity.get("complexity_error").str(),
                admins_can_join: complexity.get("admins_can_join").bool(),
            }),
            calls: Calls::read(&root.get("federation")),
            silent: !root.get("send_federation").bool() && !senders,
            signing_keys: if signing_key_to_make { Vec::new() } else { signing::read(root, &signing_key_path) },
            signing_key_path,
            signing_key_to_make,
            old_keys: root.get("old_signing_keys").entries().into_iter().filter_map(old_key).collect(),
            key_refresh_interval: root.get("key_refresh_interval").duration(),
            trusted_key_servers: KeyServer::read_all(root),
            notary_keys: notary_path.opt_path().map(|path| signing::read_file(&notary_path, &path)).unwrap_or_default(),
            appservices: appservices::read(root),
            track_appservice_ips: root.get("track_appservice_user_ips").bool(),
            appservice_query_token: root.get("use_appservice_legacy_authorization").bool(),
        }
    }
}

impl Calls {
    fn read(at: &At<'_>) -> Self {
        Self {
            timeout: at.get("client_timeout").duration(),
            short_retries: at.get("max_short_retries").int(),
            short_retry_delay: at.get("max_short_retry_delay").duration(),
            long_retries: at.get("max_long_retries").int(),
            long_retry_delay: at.get("max_long_retry_delay").duration(),
            backoff_min: at.get("destination_min_retry_interval").duration(),
            backoff_factor: at.get("destination_retry_multiplier").int(),
            backoff_max: at.get("destination_max_retry_interval").duration(),
        }
    }
}

fn old_key((id, at): (String, At<'_>)) -> Option<(OwnedServerSigningKeyId, OldKey)> {
    let id = key_id(&at, &id)?;
    let expired = at.get("expired_ts");
    if !expired.is_set() {
        expired.wrong("must be set", "it is the time when the key went out of use, in milliseconds since 1970");
        return None;
    }
    let expired = MilliSecondsSinceUnixEpoch(UInt::new(expired.int()).unwrap_or_default());
    Some((id, OldKey { key: public_key(&at.get("key"))?, expired }))
}

fn key_id(at: &At<'_>, id: &str) -> Option<OwnedServerSigningKeyId> {
    let id = id.parse().ok();
    if id.is_none() {
        at.wrong("is no key id", "write it as ed25519:a_AbCd");
    }
    id
}

fn public_key(at: &At<'_>) -> Option<Base64<Standard>> {
    let key = Base64::parse(at.str()).ok().filter(|key: &Base64| key.as_bytes().len() == 32);
    if key.is_none() {
        at.wrong("is no public key", "it has 43 characters of Base64, as /_matrix/key/v2/server shows it");
    }
    key
}

impl KeyServer {
    fn read_all(root: &At<'_>) -> Vec<Self> {
        let verified = root.get("federation_verify_certificates").bool();
        root.get("trusted_key_servers").each(|at| {
            let name = at.get("server_name");
            if !name.is_set() {
                name.wrong("must be set", "write - server_name: \"matrix.org\"");
                return None;
            }
            let key = |(id, at): (String, At<'_>)| Some((key_id(&at, &id)?, public_key(&at)?));
            let keys: BTreeMap<_, _> = at.get("verify_keys").entries().into_iter().filter_map(key).collect();
            let insecure = at.get("accept_keys_insecurely").opt_bool().unwrap_or(false);
            if keys.is_empty() && !verified && !insecure {
                at.wrong(
                    "could be anybody, because certificates are not checked",
                    "add its verify_keys, or set federation_verify_certificates: true",
                );
            }
            Some(Self { name: name.parse("a server name such as matrix.org")?, keys })
        })
    }
}
