//! How users of other servers were when their servers last spoke of them. Presence itself is in memory; this outlives a
//! restart, and is written seldom.

use hearth_base::{Result, ids::UserNid};
use ruma::OwnedUserId;

use crate::{Store, execute, fetch_all, insert_rows};

/// A user of another server, as it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who.
    pub user: UserNid,
    /// `online`, `unavailable` or `offline`.
    pub presence: String,
    /// What they say.
    pub status: Option<String>,
    /// When they last did something, ms.
    pub active_ms: i64,
    /// When their server said so, ms.
    pub heard_ms: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    user_nid: i64,
    user_id: String,
    presence: String,
    status: Option<String>,
    active_ms: i64,
    heard_ms: i64,
}

/// Users written together, so that nobody waits long behind them.
const PART: usize = 2_000;

const SINCE: &str = "SELECT p.user_nid, u.user_id, p.presence, p.status, p.active_ms, p.heard_ms FROM remote_presence p JOIN users u ON u.user_nid = p.user_nid WHERE p.heard_ms >= $1 AND p.presence <> 'offline' ORDER BY p.heard_ms DESC LIMIT $2";
const FORGET: &str = "DELETE FROM remote_presence WHERE heard_ms < $1";

impl Store {
    /// Those who were there when their servers last spoke of them, if that was not before `since_ms`; the latest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn heard_presence(&self, since_ms: i64, limit: usize) -> Result<Vec<(OwnedUserId, Heard)>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<Row> = fetch_all!(&mut self.read().await?, Row, SINCE, since_ms, limit)?;
        let heard = |row: Row| {
            let user_id = OwnedUserId::try_from(row.user_id).ok()?;
            let Row { user_nid, presence, status, active_ms, heard_ms, .. } = row;
            Some((user_id, Heard { user: UserNid(user_nid), presence, status, active_ms, heard_ms }))
        };
        Ok(rows.into_iter().filter_map(heard).collect())
    }

    /// Notes how users are, and forgets those of whom nothing was heard since `since_ms`.
    ///
    /// # Errors
    /// 503 if the database fails.
    pub async fn keep_presence(&self, mut heard: Vec<Heard>, since_ms: i64) -> Result<()> {
        while !heard.is_empty() {
            let rest = heard.split_off(heard.len().min(PART));
            let part = std::mem::replace(&mut heard, rest);
            self.write(move |tx| {
                Box::pin(async move {
                    insert_rows!(tx, &part,
                    "INSERT INTO remote_presence (user_nid, presence, status, active_ms, heard_ms) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (user_nid) DO UPDATE SET presence = excluded.presence, status = excluded.status, active_ms = excluded.active_ms, heard_ms = excluded.heard_ms",
                    "INSERT INTO remote_presence (user_nid, presence, status, active_ms, heard_ms) SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[]) ON CONFLICT (user_nid) DO UPDATE SET presence = excluded.presence, status = excluded.status, active_ms = excluded.active_ms, heard_ms = excluded.heard_ms",
                    r => {
                        user: i64 = r.user.0,
                        presence: String = r.presence.clone(),
                        status: Option<String> = r.status.clone().filter(|s| !s.contains('\0')),
                        active: i64 = r.active_ms,
                        heard: i64 = r.heard_ms,
                    })
                })
            })
            .await?;
        }
        self.write(move |tx| Box::pin(async move { execute!(tx, FORGET, since_ms).map(drop) })).await
    }
}
