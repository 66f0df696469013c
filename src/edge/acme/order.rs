//! One order, from its names to the finished certificate (RFC 8555, section 7.4; challenges: RFC 8555 and 8737).

use std::{fmt, time::Duration};

use hearth_config::edge::Challenge;
use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use tokio::time::timeout;

use super::{
    account::{Authority, call},
    challenges::Shown,
};
use crate::{
    Shared,
    tls::{Certificate, made},
};

/// How long the authority may take to look at our challenges, or to sign.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no certificate, for one line of log.
#[derive(Debug)]
pub(super) struct Failed {
    what: String,
    /// The last part of an ACME problem type, e.g. `rateLimited`.
    kind: String,
}

impl Failed {
    pub fn said(what: impl Into<String>) -> Self {
        Self { what: what.into(), kind: String::new() }
    }

    pub fn during(self, doing: &str) -> Self {
        Self { what: format!("{doing}: {}", self.what), ..self }
    }

    pub fn is_rate_limit(&self) -> bool {
        self.kind == "rateLimited"
    }
}

impl From<instant_acme::Error> for Failed {
    fn from(e: instant_acme::Error) -> Self {
        let mut what = e.to_string();
        let mut kind = String::new();
        if let instant_acme::Error::Api(problem) = &e {
            kind = problem.r#type.as_deref().and_then(|t| t.rsplit(':').next()).unwrap_or_default().to_owned();
        } else {
            let mut cause = std::error::Error::source(&e);
            while let Some(c) = cause {
                what = format!("{what}: {c}");
                cause = c.source();
            }
        }
        Self { what, kind }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Orders a certificate for these names: key and chain as one PEM text.
///
/// # Errors
/// What the authority says, with the reason why a challenge failed.
pub(super) async fn certificate(
    authority: &Authority,
    shared: &Shared,
    names: &[String],
    challenge: Challenge,
    replaces: Option<Certificate>,
) -> Result<String, Failed> {
    let mut order = begin(authority, names, replaces).await?;
    let mut shown = Shown::new(shared);
    show(&mut order, &mut shown, challenge).await?;
    let policy = RetryPolicy::new().initial_delay(Duration::from_millis(250)).timeout(PATIENCE);
    let status = match timeout(PATIENCE, order.poll_ready(&policy)).await {
        Ok(Ok(status)) => status,
        // The order's own problem seldom says more than that something failed; the challenge does.
        Ok(Err(e)) => return Err(why(&mut order).await.unwrap_or_else(|| Failed::from(e))),
        Err(_) => return Err(Failed::said("the authority did not look at the challenges in time")),
    };
    if status != OrderStatus::Ready {
        let failed = why(&mut order).await;
        return Err(failed.unwrap_or_else(|| Failed::said("the authority refused the order")));
    }
    drop(shown);
    let key = call("sending the request", order.finalize()).await?;
    let chain = match timeout(PATIENCE, order.poll_certificate(&policy)).await {
        Ok(chain) => chain.map_err(|e| Failed::from(e).during("fetching the certificate"))?,
        Err(_) => return Err(Failed::said("the authority did not sign in time")),
    };
    Ok(format!("{key}{chain}"))
}

/// Opens the order. Says which certificate it replaces where that is understood, which spares rate limits.
async fn begin(authority: &Authority, names: &[String], replaces: Option<Certificate>) -> Result<Order, Failed> {
    let account = authority.account().await?;
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let old = replaces.as_ref().and_then(|c| c.key.cert.first());
    if let Some(id) = old.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok()) {
        let order = NewOrder::new(&identifiers).replaces(id);
        if let Ok(order) = call("opening the order", account.new_order(&order)).await {
            return Ok(order);
        }
        // Without renewal information, or the old one already replaced: an order like any other.
    }
    let opened = call("opening the order", account.new_order(&NewOrder::new(&identifiers))).await;
    if let Err(e) = &opened
        && e.kind == "accountDoesNotExist"
    {
        authority.forget();
    }
    opened
}

/// Shows the answer to each open challenge and tells the authority to look.
async fn show(order: &mut Order, shown: &mut Shown<'_>, wanted: Challenge) -> Result<(), Failed> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = call_next(&mut authorizations).await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            _ => return Err(Failed::said("an authorization is no longer open")),
        }
        let kind = match wanted {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            return Err(Failed::said("the authority does not offer the challenge that we can answer"));
        };
        let proof = challenge.key_authorization();
        match wanted {
            Challenge::Http01 => shown.http(&challenge.token, proof.as_str()),
            Challenge::TlsAlpn01 => {
                let name = challenge.identifier().to_string();
                let key = made::challenge(&name, proof.digest().as_ref()).map_err(|e| Failed::said(e.to_string()))?;
                shown.tls(&name, key);
            }
        }
        call("announcing the challenge", challenge.set_ready()).await?;
    }
    Ok(())
}

async fn call_next<'a>(
    authorizations: &'a mut instant_acme::Authorizations<'_>,
) -> Option<Result<instant_acme::AuthorizationHandle<'a>, Failed>> {
    match timeout(super::account::CALL, authorizations.next()).await {
        Ok(next) => Some(next?.map_err(Failed::from)),
        Err(_) => Some(Err(Failed::said("the authority did not answer in time"))),
    }
}

/// What the authority found wrong with a challenge.
async fn why(order: &mut Order) -> Option<Failed> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = call_next(&mut authorizations).await {
        let name = authorization.identifier().to_string();
        let Ok(state) = call("asking what failed", authorization.refresh()).await else { continue };
        let problem = state.challenges.iter().find_map(|c| c.error.clone());
        if let Some(problem) = problem {
            return Some(Failed::from(instant_acme::Error::Api(problem)).during(&name));
        }
    }
    None
}
