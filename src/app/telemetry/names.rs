//! By which names of Python's loggers our modules are meant, so that a log file written for Synapse says the same here.
//!
//! A record has two names: its own (`hearth_store::log`, also written with dots), and the one that the part of Synapse
//! with the same work has (`synapse.storage.log`).

/// Our modules, and the loggers with the same work. The first that fits counts.
const SAME: &[(&str, &str)] = &[
    ("sqlx::query", "synapse.storage.SQL"),
    ("sqlx", "synapse.storage.engines"),
    ("hearth_store", "synapse.storage"),
    ("hearth_service::server_keys", "synapse.crypto.keyring"),
    ("hearth_service::push", "synapse.push"),
    ("hearth_service::notifier", "synapse.notifier"),
    ("hearth_service::media", "synapse.media"),
    ("hearth_service", "synapse.handlers"),
    ("hearth_api::federation", "synapse.federation.transport.server"),
    ("hearth_api", "synapse.rest"),
    ("hearth_remote", "synapse.federation"),
    ("hearth_rules", "synapse.state"),
    ("hearth_edge::access", "synapse.access.http"),
    ("hearth_edge", "synapse.http"),
    ("hearth_config", "synapse.config"),
    ("hearth", "synapse.app"),
    ("hearth_base", "synapse.metrics.background_process_metrics"),
    ("hyper", "twisted.web"),
    ("h2", "twisted.web"),
    ("reqwest", "twisted.web.client"),
    ("rustls", "twisted.protocols.tls"),
    ("pingora_core", "twisted.internet"),
];

/// Requests that were answered.
pub(super) const ACCESS: &str = "hearth_edge::access";
/// The logger of those that came in by one listener is called by this and its name.
pub(super) const OF_LISTENER: &str = "synapse.access.http.";

/// Libraries that tell at INFO, several times an event, what is no news to an operator.
const CHATTY: &[&str] = &["ruma_state_res"];

/// Whether a module's INFO counts as DEBUG, unless a logger names the module.
pub(super) fn is_chatty(target: &str) -> bool {
    CHATTY
        .iter()
        .any(|library| target.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}

/// The name of the logger with the same work as a module.
pub(super) fn of_synapse(target: &str) -> String {
    for (module, logger) in SAME {
        if let Some(below) = target.strip_prefix(module)
            && (below.is_empty() || below.starts_with("::"))
        {
            return format!("{logger}{}", below.replace("::", "."));
        }
    }
    target.replace("::", ".")
}

/// Whether a logger of this name has something to do with a module.
pub(super) fn covers(logger: &str, target: &str, of_synapse: &str) -> bool {
    let below = |name: &str, separator: &str| {
        name.strip_prefix(logger).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
    };
    below(of_synapse, ".") || below(target, "::") || below(&target.replace("::", "."), ".")
}

/// Whether a name can be that of a part of this server.
pub(super) fn is_known(logger: &str) -> bool {
    let related = |name: &str, separator: &str| {
        let below = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
        };
        below(name, logger) || below(logger, name)
    };
    SAME.iter()
        .any(|(module, name)| related(name, ".") || related(module, "::") || related(&module.replace("::", "."), "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_answers_to_both_names() {
        let covers = |logger: &str, target: &str| covers(logger, target, &of_synapse(target));
        for logger in ["synapse", "synapse.storage", "synapse.storage.log", "hearth_store", "hearth_store.log"] {
            assert!(covers(logger, "hearth_store::log"), "{logger}");
        }
        for logger in ["synapse.storage.SQL", "synapse.stor", "hearth", "twisted", "hearth_store::lo"] {
            assert!(!covers(logger, "hearth_store::log"), "{logger}");
        }
        assert!(covers("synapse.storage.SQL", "sqlx::query") && covers("synapse.access", "hearth_edge::access"));
        assert!(covers("twisted", "hyper::proto::h1"));
    }

    #[test]
    fn chatty_libraries_are_known_with_their_modules() {
        assert!(is_chatty("ruma_state_res") && is_chatty("ruma_state_res::event_auth"));
        assert!(!is_chatty("ruma_state_resolver") && !is_chatty("hearth_rules::auth"));
    }

    #[test]
    fn names_of_nobody_are_noticed() {
        for known in ["synapse", "synapse.storage.SQL", "synapse.handlers.sync", "twisted", "hearth_edge::tls", "sqlx"]
        {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["shared_secret_authenticator", "ldap3", "synapse.module_api", "hearth_nothing"] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
