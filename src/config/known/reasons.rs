//! Why an option has no effect here, or is refused: the sentences that operators read.

use super::Class;

pub(super) const ONE_PROCESS: &str = "Hearth is one process, so there is nothing to tell other processes";
pub(super) const FOREGROUND: &str = "Hearth stays in the foreground; a service manager looks after it";
pub(super) const NO_PYTHON: &str = "it tunes the Python runtime, and there is none";
pub(super) const NO_SHELL: &str = "there is no debug shell into the running process";
pub(super) const NO_REPORTS: &str = "Hearth reports nothing to anybody";
pub(super) const OWN_CACHES: &str = "Hearth sizes its caches itself";
pub(super) const NO_SENTRY: &str = "errors are not sent to Sentry; they are in the log";
pub(super) const OWN_METRICS: &str = "Hearth has its own set of metrics";
pub(super) const NO_TRACING: &str = "traces are not sent anywhere";
pub(super) const OWN_MIGRATIONS: &str = "Hearth paces its own database migrations";
pub(super) const OWN_POOL: &str = "Hearth renews its database connections by itself";
pub(super) const ANY_COLLATION: &str = "Hearth does not depend on the database's collation";
pub(super) const OWN_TASKS: &str = "Hearth paces its background tasks itself";
pub(super) const NO_WARNING: &str = "there is no warning about key servers to suppress";
pub(super) const NOT_BUILT: &str = "Hearth does not have this feature";
pub(super) const TESTING: &str = "it is a switch for tests of Synapse's workers";
pub(super) const LONG_GONE: &str = "it belongs to an old release of Synapse";

/// A class made of a reason and a way out, so that a row stays on one line.
pub(super) type Refusal = (&'static str, &'static str);

pub(super) const fn reject(refusal: Refusal) -> Class {
    Class::Reject(refusal.0, refusal.1)
}

pub(super) const MODULES: Refusal = (
    "modules are Python code, which cannot run here, and they often decide who may log in or what may be posted",
    "remove the module if its work is not needed, or keep it in Synapse; auto_accept_invites is built in",
);
pub(super) const LISTENER_CODE: Refusal = (
    "the paths would be served by Python code, which cannot run here",
    "remove it, and serve these paths by another program through an upstream of the edge section",
);
pub(super) const STORAGE_CODE: Refusal = (
    "this storage provider is Python code, and media that only it holds would be missing",
    "copy its files into media_store_path and remove it, or use module: file_system",
);
pub(super) const SAML_CODE: Refusal = (
    "it is Python code, which cannot run here",
    "give the settings under sp_config, and map users by user_mapping_provider.config",
);
pub(super) const OIDC_CODE: Refusal = (
    "it is a Python class, which cannot run here",
    "remove it and map users by the templates of user_mapping_provider.config",
);
pub(super) const EGRESS: Refusal = (
    "it confines traffic to other servers to certain processes, and Hearth has only one",
    "remove it, and confine the one process by the firewall or by https_proxy",
);
pub(super) const WORKER: Refusal = (
    "this is the configuration of a Synapse worker, and a second server on the same data would corrupt it",
    "Hearth needs no workers: start it once, with the homeserver.yaml of the main process alone",
);
pub(super) const MSC3861: Refusal = (
    "this is the experimental form of delegated authentication, which Synapse has removed as well",
    "move the settings to matrix_authentication_service",
);
pub(super) const MSC3866: Refusal = (
    "approval of new accounts by an admin is not built, so that unapproved users would get in",
    "remove it, and use registration_requires_token or close the registration instead",
);
pub(super) const AUTH_CODE: Refusal = (
    "it decides by Python code who may log in, and that code cannot run here",
    "remove it, and move the users to passwords or to a provider under oidc_providers",
);
pub(super) const SPAM_CODE: Refusal = (
    "it decides by Python code what may be posted, and that code cannot run here",
    "remove it, if the server may do without",
);
pub(super) const PRESENCE_CODE: Refusal = ("it is Python code, which cannot run here", "remove presence_router");
pub(super) const IDENTITY_RESETS: Refusal = (
    "an identity server that may reset passwords can take over accounts; Synapse has removed it as well",
    "remove it, and let this server send the mails by the email section",
);
pub(super) const IDENTITY_MAIL: Refusal = (
    "mails are no longer sent through identity servers; Synapse has removed it as well",
    "remove it, and fill in the email section",
);
pub(super) const INSECURE_TLS: Refusal = (
    "it turns off all checks of certificates",
    "remove it; for a test, name the test's CA in federation_custom_ca_list",
);
