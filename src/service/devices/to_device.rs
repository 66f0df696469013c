//! Messages from device to device (spec: "Send-to-Device messaging"): sends them, hands them to /sync, deletes what
//! arrived.
//!
//! Which devices exist and that a transaction id counts once is settled in the store, in the transaction.

use std::{collections::BTreeMap, sync::Arc};

use hearth_base::{
    Error, Result,
    clock::Clock,
    ids::{StreamPos, UserNid},
    requester::Requester,
};
use hearth_store::{
    Store,
    devices::to_device::{NewMessage, Sending},
    outbox::NewOutgoing,
};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId, to_device::DeviceIdOrAllDevices};
use serde_json::value::RawValue;

use crate::keys::is_name;

/// What may be sent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of one message's content.
    pub max_message_bytes: usize,
    /// Messages in one request.
    pub max_messages: usize,
    /// How long a transaction id is remembered, ms.
    pub remember_txn_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_message_bytes: 64 << 10, max_messages: 10_000, remember_txn_ms: 24 * 3600 * 1000 }
    }
}

/// Messages that one /sync answer carries at most, as the specification recommends.
pub const PER_SYNC: usize = 100;

/// Bytes of messages in one EDU, unless a single message has more.
const EDU_BYTES: usize = 16 << 10;
/// How long ids of messages from other servers are remembered, ms, and how many.
const REMEMBER_RECEIVED_MS: i64 = 7 * 86_400_000;
const MAX_RECEIVED: i64 = 500_000;

/// Messages by user and device.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>>;

/// To-device messages. Clones are the same service.
#[derive(Clone, Debug)]
pub struct ToDevice {
    store: Store,
    server_name: OwnedServerName,
    settings: Settings,
    clock: Clock,
}

impl ToDevice {
    /// The service for users of `server_name`.
    #[must_use]
    pub fn new(store: Store, server_name: OwnedServerName, settings: Settings, clock: Clock) -> Self {
        Self { store, server_name, settings, clock }
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX)
    }

    /// Sends messages of one type to devices; those that do not exist are passed over. A repeated transaction id
    /// sends nothing.
    ///
    /// # Errors
    /// 400 for a wrong form, 413 for messages too large or too many.
    pub async fn send(&self, requester: &Requester, event_type: &str, txn_id: &str, messages: Messages) -> Result<()> {
        if !is_name(event_type) || !is_name(txn_id) {
            return Err(Error::invalid_param("Not an event type or transaction id"));
        }
        if messages.values().map(BTreeMap::len).sum::<usize>() > self.settings.max_messages {
            return Err(Error::too_large("Too many messages at once"));
        }
        let text = |text: &str| serde_json::to_string(text).map_err(|e| Error::fault("writing a message", e));
        let (kind, sender) = (text(event_type)?, text(requester.user_id.as_str())?);
        let outgoing = self.outgoing(&messages, &kind, &sender)?;
        let users: Vec<OwnedUserId> =
            messages.keys().filter(|user| user.server_name() == self.server_name).cloned().collect();
        let mut new = Vec::new();
        for (user, nid) in self.store.user_nids(&users).await? {
            for (device, content) in messages.get(&user).into_iter().flatten() {
                self.check(content)?;
                new.push(message(nid, device, &kind, &sender, content));
            }
        }
        let sending = Sending {
            user: requester.user_nid,
            device: requester.device_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            txn_id: txn_id.to_owned(),
            now_ms: self.now_ms(),
        };
        self.store.send_to_device(sending, new, outgoing).await.map(drop)
    }

    /// The messages for users of other servers, as EDUs of a sane size (server-server API, "Send-to-device messaging").
    fn outgoing(&self, messages: &Messages, kind: &str, sender: &str) -> Result<Vec<NewOutgoing>> {
        let mut by_server: BTreeMap<&str, Vec<Parcel<'_>>> = BTreeMap::new();
        for (user, devices) in messages.iter().filter(|(user, _)| user.server_name() != self.server_name) {
            for (device, content) in devices {
                self.check(content)?;
                let parcels = by_server.entry(user.server_name().as_str()).or_default();
                let full = parcels.last().is_none_or(|p| p.bytes + content.get().len() > EDU_BYTES);
                if full {
                    parcels.push(Parcel::default());
                }
                if let Some(parcel) = parcels.last_mut() {
                    parcel.bytes += content.get().len();
                    parcel.messages.entry(user).or_default().insert(device.to_string(), content);
                }
            }
        }
        let mut outgoing = Vec::new();
        for (server, parcels) in by_server {
            for parcel in parcels {
                let fault = |e: serde_json::Error| Error::fault("writing a message", e);
                let messages = serde_json::to_string(&parcel.messages).map_err(fault)?;
                let id = crate::login::random_text(24);
                let json = format!(
                    r#"{{"edu_type":"m.direct_to_device","content":{{"sender":{sender},"type":{kind},"message_id":"{id}","messages":{messages}}}}}"#
                );
                outgoing.push(NewOutgoing { server: server.to_owned(), json });
            }
        }
        Ok(outgoing)
    }

    /// Messages from a device of another server, once an id.
    ///
    /// # Errors
    /// If the database fails. What is too large or no message is left out.
    pub async fn receive(
        &self,
        origin: &ServerName,
        sender: &UserId,
        event_type: &str,
        message_id: &str,
        messages: Messages,
    ) -> Result<()> {
        let text = |text: &str| serde_json::to_string(text).map_err(|e| Error::fault("writing a message", e));
        let (kind, sender) = (text(event_type)?, text(sender.as_str())?);
        let users: Vec<OwnedUserId> =
            messages.keys().filter(|user| user.server_name() == self.server_name).cloned().collect();
        let mut new = Vec::new();
        let (mut refused, mut largest) = (0_usize, 0);
        for (user, nid) in self.store.user_nids(&users).await? {
            for (device, content) in messages.get(&user).into_iter().flatten() {
                if self.check(content).is_ok() {
                    new.push(message(nid, device, &kind, &sender, content));
                } else {
                    refused += 1;
                    largest = largest.max(content.get().len());
                }
            }
        }
        if refused > 0 {
            // Once for all of an EDU. Users miss them without a sign: what they cannot decrypt may be here.
            tracing::info!(
                %origin, event_type, messages = refused, largest_bytes = largest,
                most_bytes = self.settings.max_message_bytes,
                "messages to devices are too large, or of a wrong form, and were dropped"
            );
        }
        if new.is_empty() {
            return Ok(());
        }
        let (origin, id) = (origin.to_string(), message_id.to_owned());
        self.store.receive_to_device(origin, id, self.now_ms(), new).await.map(drop)
    }

    fn check(&self, content: &RawValue) -> Result<()> {
        if !content.get().starts_with('{') {
            return Err(Error::bad_json("The content of a message is an object"));
        }
        if hearth_base::nests_too_deep(content.get().as_bytes()) {
            return Err(Error::bad_json("A message nests too deep"));
        }
        if content.get().len() > self.settings.max_message_bytes {
            return Err(Error::too_large("A message is too large"));
        }
        Ok(())
    }

    /// The messages for the requester's device after those already received, as many as one answer may carry.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn inbox(&self, requester: &Requester, after: i64, upto: StreamPos) -> Result<Vec<(i64, String)>> {
        match &requester.device_id {
            Some(device) => {
                self.store.to_device_inbox(requester.user_nid, device.as_str(), after, upto, PER_SYNC).await
            }
            None => Ok(Vec::new()),
        }
    }

    /// Deletes what the requester's device has received. Safe to repeat.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn received(&self, requester: &Requester, upto: i64) -> Result<()> {
        match &requester.device_id {
            Some(device) => self.store.delete_to_device(requester.user_nid, device.as_str(), upto).await,
            None => Ok(()),
        }
    }

    /// Forgets transaction ids that no client will repeat any more. To be called now and then.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sweep(&self) -> Result<()> {
        let before = self.now_ms().saturating_sub(self.settings.remember_txn_ms);
        self.store.prune_to_device_txns(before).await?;
        let before = self.now_ms().saturating_sub(REMEMBER_RECEIVED_MS);
        self.store.prune_received_to_device(before, MAX_RECEIVED).await.map(drop)
    }
}

/// Messages of one EDU.
#[derive(Default)]
struct Parcel<'m> {
    bytes: usize,
    messages: BTreeMap<&'m UserId, BTreeMap<String, &'m RawValue>>,
}

/// One message as its recipient gets it.
fn message(user: UserNid, device: &DeviceIdOrAllDevices, kind: &str, sender: &str, content: &RawValue) -> NewMessage {
    let content = content.get();
    NewMessage {
        user,
        device: match device {
            DeviceIdOrAllDevices::DeviceId(id) => Some(id.to_string()),
            DeviceIdOrAllDevices::AllDevices => None,
        },
        json: Arc::from(format!(r#"{{"type":{kind},"sender":{sender},"content":{content}}}"#)),
    }
}

#[cfg(test)]
mod tests;
