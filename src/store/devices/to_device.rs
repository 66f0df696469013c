//! Messages from device to device: stored until the recipient's next sync says that they arrived.
//!
//! Owns the tables `to_device`, `to_device_txns` and `received_to_device`; what goes to other servers is put into the
//! [`outbox`](crate::outbox) in the same transaction. A message's id is its position in the log, which is the order of
//! arrival; one request makes one position. What is known of an inbox (nothing newer than, nothing older than, how
//! full) is remembered, so that a sync of a device without mail costs no query and no write.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_base::{
    Result,
    cache::Cache,
    ids::{StreamPos, UserNid},
};

use crate::{
    Store,
    db::{Ints, Texts},
    execute, fetch_all, fetch_optional, insert_rows,
    keys::{one_time::DeviceName, to_json},
    log::{Change, Logged, Tx},
    outbox::NewOutgoing,
    sql,
};

/// A message on its way.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// To whom.
    pub user: UserNid,
    /// To which device; `None` is all of the user's that no other message of the request names.
    pub device: Option<String>,
    /// The event as the recipient gets it: `type`, `sender`, `content`.
    pub json: Arc<str>,
}

/// Who sends, and under which transaction id.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Who sends.
    pub user: UserNid,
    /// From which device; empty without one.
    pub device: String,
    /// Unique for the device.
    pub txn_id: String,
    /// Now, ms.
    pub now_ms: i64,
}

/// Devices whose inboxes are remembered.
const REMEMBERED: u64 = 20_000;
/// Messages that may wait for one device; what comes after is lost. Whoever comes back after so long finds what they
/// miss in the key backup.
const INBOX: i64 = 100_000;

/// What is known of inboxes.
#[derive(Debug)]
pub(crate) struct Inboxes {
    /// There is nothing newer than this id.
    newest: Cache<DeviceName, i64>,
    /// There is nothing up to this id. Never wrong again once right, as ids only grow.
    cleared: Cache<DeviceName, i64>,
    /// At most so many messages. Only the writer asks and sets it.
    sizes: Cache<DeviceName, i64>,
}

impl Default for Inboxes {
    fn default() -> Self {
        Self { newest: Cache::new(REMEMBERED), cleared: Cache::new(REMEMBERED), sizes: Cache::new(REMEMBERED) }
    }
}

impl Inboxes {
    /// Hears of a commit before anybody who waits for it.
    pub(crate) fn published(&self, changes: &[Logged]) {
        for logged in changes {
            if let Change::ToDevice { recipients } = &logged.change {
                recipients.iter().for_each(|name| self.newest.invalidate(name));
            }
        }
    }
}

const TXN: &str = "INSERT INTO to_device_txns (user_nid, device_id, txn_id, sent_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (user_nid, device_id, txn_id) DO NOTHING";
const OLD_TXNS: &str = "DELETE FROM to_device_txns WHERE sent_ms < $1";
const RECEIVED: &str = "INSERT INTO received_to_device (server, message_id, received_ms) VALUES ($1, $2, $3) ON CONFLICT (server, message_id) DO NOTHING";
const OLD_RECEIVED: &str = "DELETE FROM received_to_device WHERE received_ms < $1";
const SURPLUS: &str = "SELECT received_ms FROM received_to_device ORDER BY received_ms DESC LIMIT 1 OFFSET $1";
const INBOX_PAGE: &str =
    "SELECT id, json FROM to_device WHERE user_nid = $1 AND device_id = $2 AND id > $3 ORDER BY id LIMIT $4";
const OLDEST: &str = "SELECT id FROM to_device WHERE user_nid = $1 AND device_id = $2 ORDER BY id LIMIT 1";
const DELETE_UPTO: &str = "DELETE FROM to_device WHERE user_nid = $1 AND device_id = $2 AND id <= $3";

impl Store {
    /// Puts messages into the inboxes of those of the named devices that exist, and those for other servers into the
    /// outbox, unless the transaction id was used before. Returns whether it was new.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn send_to_device(
        &self,
        sending: Sending,
        messages: Vec<NewMessage>,
        outgoing: Vec<NewOutgoing>,
    ) -> Result<bool> {
        let outgoing = self.numbered(outgoing).await?;
        self.write(move |tx| {
            Box::pin(async move {
                let new = tx.send_to_device(&sending, &messages).await?;
                if new {
                    tx.put_outgoing(outgoing).await?;
                }
                Ok(new)
            })
        })
        .await
    }

    /// Puts messages from another server into inboxes, unless a message of that id came from there before. Returns
    /// whether it was new.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receive_to_device(
        &self,
        origin: String,
        message_id: String,
        now_ms: i64,
        messages: Vec<NewMessage>,
    ) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let new = execute!(tx, RECEIVED, origin.as_str(), message_id.as_str(), now_ms)? > 0;
                if new {
                    tx.put_to_device(&messages).await?;
                }
                Ok(new)
            })
        })
        .await
    }

    /// Forgets ids of messages from other servers that arrived before that time, ms, and the oldest of more than `most`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prune_received_to_device(&self, before_ms: i64, most: i64) -> Result<u64> {
        self.write(move |tx| {
            Box::pin(async move {
                let surplus: Option<(i64,)> = fetch_optional!(tx, (i64,), SURPLUS, most)?;
                let before = surplus.map_or(before_ms, |(ms,)| before_ms.max(ms));
                execute!(tx, OLD_RECEIVED, before)
            })
        })
        .await
    }

    /// The messages for a device in `(after, upto]`, oldest first, `limit` at most.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn to_device_inbox(
        &self,
        user: UserNid,
        device: &str,
        after: i64,
        upto: StreamPos,
        limit: usize,
    ) -> Result<Vec<(i64, String)>> {
        let name = (user, device.to_owned());
        let newest = &self.inner.inboxes.newest;
        if newest.get(&name).is_some_and(|id| id <= after) {
            return Ok(Vec::new());
        }
        let ticket = newest.ticket(&name);
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows: Vec<(i64, String)> =
            fetch_all!(&mut self.read().await?, (i64, String), INBOX_PAGE, user.0, device, after, most)?;
        if rows.len() < limit {
            newest.fill(name, rows.last().map_or(after, |(id, _)| *id), ticket);
        }
        rows.retain(|(id, _)| *id <= upto.0);
        Ok(rows)
    }

    /// Deletes the messages that a device has received, as its sync token says.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_to_device(&self, user: UserNid, device: &str, upto: i64) -> Result<()> {
        // A token may say anything; nothing has been received that was not sent.
        let upto = upto.min(self.head().0);
        let name = (user, device.to_owned());
        let cleared = &self.inner.inboxes.cleared;
        if cleared.get(&name).is_some_and(|id| id >= upto) {
            return Ok(());
        }
        let oldest: Option<(i64,)> = fetch_optional!(&mut self.read().await?, (i64,), OLDEST, user.0, device)?;
        if oldest.is_some_and(|(id,)| id <= upto) {
            self.write(move |tx| {
                Box::pin(async move {
                    let gone = execute!(tx, DELETE_UPTO, user.0, name.1.as_str(), upto)?;
                    if let Some(size) = tx.store().inner.inboxes.sizes.get(&name) {
                        let left = size.saturating_sub(i64::try_from(gone).unwrap_or(i64::MAX)).max(0);
                        tx.store().inner.inboxes.sizes.insert(name.clone(), left);
                    }
                    tx.after_commit(move |store| store.inner.inboxes.cleared.insert(name, upto));
                    Ok(())
                })
            })
            .await
        } else {
            // Nothing up to there, and what comes is numbered above.
            cleared.insert(name, upto);
            Ok(())
        }
    }

    /// Forgets transaction ids of sendToDevice used before that time, ms. Returns how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn prune_to_device_txns(&self, before_ms: i64) -> Result<u64> {
        self.write(move |tx| Box::pin(async move { execute!(tx, OLD_TXNS, before_ms) })).await
    }
}

impl Tx {
    async fn send_to_device(&mut self, sending: &Sending, messages: &[NewMessage]) -> Result<bool> {
        let (device, txn_id) = (sending.device.as_str(), sending.txn_id.as_str());
        if execute!(self, TXN, sending.user.0, device, txn_id, sending.now_ms)? == 0 {
            return Ok(false);
        }
        self.put_to_device(messages).await?;
        Ok(true)
    }

    /// Puts messages into inboxes, as part of a larger transaction (a message from another server).
    ///
    /// # Errors
    /// If the database fails.
    pub async fn put_to_device(&mut self, messages: &[NewMessage]) -> Result<()> {
        let addressed = self.addressed(messages).await?;
        let addressed = self.with_room(addressed).await?;
        if addressed.is_empty() {
            return Ok(());
        }
        let next = self.next_pos();
        insert_rows!(self, &addressed,
        "INSERT INTO to_device (user_nid, device_id, id, json) VALUES ($1, $2, $3, $4)",
        "INSERT INTO to_device (user_nid, device_id, id, json) SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::TEXT[])",
        r => {
            user: i64 = r.0.0.0,
            device: String = r.0.1.clone(),
            id: i64 = next.0,
            json: String = r.1.to_string(),
        })?;
        let recipients: Arc<[DeviceName]> = addressed.into_iter().map(|(name, _)| name).collect();
        self.log(Change::ToDevice { recipients });
        Ok(())
    }

    /// The devices that exist of those that the messages are for.
    async fn addressed(&mut self, messages: &[NewMessage]) -> Result<Vec<(DeviceName, Arc<str>)>> {
        let devices = sql!("SELECT user_nid, device_id FROM devices WHERE user_nid " [in 1]);
        let users: HashSet<i64> = messages.iter().map(|m| m.user.0).collect();
        let devices: Vec<(i64, String)> = fetch_all!(self, (i64, String), devices, Ints(users.into_iter().collect()))?;
        let named: HashMap<(UserNid, Option<&str>), &NewMessage> =
            messages.iter().map(|m| ((m.user, m.device.as_deref()), m)).collect();
        let mut addressed = Vec::with_capacity(messages.len());
        for (user, device) in devices {
            let user = UserNid(user);
            let message = named.get(&(user, Some(&*device))).or_else(|| named.get(&(user, None)));
            if let Some(json) = message.map(|m| m.json.clone()) {
                addressed.push(((user, device), json));
            }
        }
        Ok(addressed)
    }

    /// Those of the recipients whose inbox is not full; counts the messages as theirs.
    async fn with_room(&mut self, to: Vec<(DeviceName, Arc<str>)>) -> Result<Vec<(DeviceName, Arc<str>)>> {
        let store = self.store().clone();
        let sizes = &store.inner.inboxes.sizes;
        let unknown: Vec<(i64, &str)> =
            to.iter().filter(|(name, _)| !sizes.contains_key(name)).map(|((u, d), _)| (u.0, d.as_str())).collect();
        let mut counted: HashMap<DeviceName, i64> = HashMap::new();
        if !unknown.is_empty() {
            let count = sql!(
                "SELECT t.user_nid, t.device_id, COUNT(*) FROM " [rows 1]
                " CROSS JOIN to_device t WHERE t.user_nid = CAST(e.value ->> 0 AS BIGINT) AND t.device_id = e.value ->> 1 GROUP BY t.user_nid, t.device_id"
            );
            let rows: Vec<(i64, String, i64)> = fetch_all!(self, (i64, String, i64), count, to_json(&unknown)?)?;
            counted.extend(rows.into_iter().map(|(user, device, n)| ((UserNid(user), device), n)));
        }
        let mut kept = Vec::with_capacity(to.len());
        for (name, json) in to {
            let size = sizes.get(&name).or_else(|| counted.get(&name).copied()).unwrap_or(0);
            if size >= INBOX {
                tracing::warn!(user.nid = name.0.0, device.id = %name.1, "to-device inbox is full; a message is lost");
                continue;
            }
            sizes.insert(name.clone(), size + 1);
            kept.push((name, json));
        }
        Ok(kept)
    }

    /// Deletes what waits for devices that go, and the transaction ids they used.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_inboxes(&mut self, user: UserNid, devices: &[String]) -> Result<()> {
        let inbox = sql!("DELETE FROM to_device WHERE user_nid = $1 AND device_id " [in 2]);
        let txns = sql!("DELETE FROM to_device_txns WHERE user_nid = $1 AND device_id " [in 2]);
        execute!(self, inbox, user.0, Texts(devices.to_vec()))?;
        execute!(self, txns, user.0, Texts(devices.to_vec()))?;
        let names: Vec<DeviceName> = devices.iter().map(|d| (user, d.clone())).collect();
        for name in &names {
            self.store().inner.inboxes.sizes.invalidate(name);
        }
        Ok(())
    }
}
