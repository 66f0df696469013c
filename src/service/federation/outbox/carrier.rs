//! How transactions reach other servers: the border behind which tests put servers of their own.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use hearth_remote::Failure;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, ServerName, UInt,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1},
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::federation::Federation;

/// What is sent at once.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The same for the same content, if it has content that is there once only; else never the same.
    pub id: String,
    /// Now, ms.
    pub origin_server_ts: u64,
    /// Events, 50 at most.
    pub pdus: Vec<Box<RawValue>>,
    /// Everything else, 100 at most.
    pub edus: Vec<Box<RawValue>>,
}

/// What became of each event, as the other server says.
pub type Outcomes = BTreeMap<OwnedEventId, Result<(), String>>;

/// Carries transactions to other servers.
pub trait Carrier: Send + Sync + 'static {
    /// Until when a server is to be left alone, ms; `None` if it may be called.
    fn left_alone_until<'a>(&'a self, to: &'a ServerName) -> BoxFuture<'a, Option<u64>>;

    /// Carries one transaction; one try.
    fn carry<'a>(&'a self, to: &'a ServerName, transaction: Transaction) -> BoxFuture<'a, Result<Outcomes, Failure>>;

    /// Ends when some server that was away is there again.
    fn recovered(&self) -> BoxFuture<'_, ()>;
}

impl Carrier for Federation {
    fn left_alone_until<'a>(&'a self, to: &'a ServerName) -> BoxFuture<'a, Option<u64>> {
        Box::pin(async move { self.health().left_alone_until(to).await.ok().flatten() })
    }

    fn carry<'a>(&'a self, to: &'a ServerName, transaction: Transaction) -> BoxFuture<'a, Result<Outcomes, Failure>> {
        Box::pin(async move {
            let at = UInt::new(transaction.origin_server_ts).unwrap_or_default();
            let at = MilliSecondsSinceUnixEpoch(at);
            let mut request = v1::Request::new(transaction.id.into(), self.name().to_owned(), at);
            request.pdus = transaction.pdus;
            request.edus = transaction.edus.into_iter().map(Raw::<Edu>::from_json).collect();
            Ok(self.send(to, request, self.once()).await?.pdus)
        })
    }

    fn recovered(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.health().recovered().notified())
    }
}
