//! Certificates of our own making: by the local authority where one is configured, else self-signed for names that have
//! none from anywhere else, and for no longer than that.

use hearth_config::edge::EdgeConfig;
use time::OffsetDateTime;

use super::{Certificates, Source, local_ca, made};
use crate::{Error, Settings, folder, names};

/// When a certificate is made anew, in seconds before its end.
const LEFT: i64 = 30 * 86_400;

/// Makes what is missing or grows old, and takes away what is not needed any more.
///
/// # Errors
/// If one cannot be made, or kept.
pub(crate) fn refresh(settings: &Settings, certificates: &Certificates) -> Result<(), Error> {
    let edge = settings.edge.as_ref();
    let has_authority = edge.is_some_and(|edge: &EdgeConfig| edge.local_ca);
    certificates.retain(Source::LocalCa, |_, _| has_authority);
    let good = |label: &str, wanted: &[String]| {
        certificates.get(label).is_some_and(|c| {
            c.not_after - OffsetDateTime::now_utc().unix_timestamp() > LEFT
                && wanted.iter().all(|n| c.names.contains(n))
        })
    };
    let names = if edge.is_some() { names(settings) } else { Vec::new() };
    if has_authority && !good("local CA", &names) {
        certificates.put("local CA", local_ca::certificate(&folder(settings), &names)?);
    }
    let covered = |name: &String| certificates.covers(name, Source::LocalCa);
    let bare: Vec<String> = names.into_iter().filter(|name| !covered(name)).collect();
    if bare.is_empty() {
        certificates.retain(Source::SelfSigned, |_, _| false);
    } else if !good("self-signed", &bare) {
        certificates.put("self-signed", made::self_signed(&bare)?);
    }
    Ok(())
}
