//! Runs of the server over this database, and which positions each can have given out.
//!
//! A restored backup, or a replica that takes over, knows less than tokens in the hands of clients do, and gives out the
//! same positions again for other things. So each start notes where it began, and a token names the run that gave it: one
//! of a run that the database has not heard of, or beyond the place where the next run began, comes from a future that is
//! lost. Whoever shows one begins anew instead of missing what took its place.
//!
//! Owns the table `runs`.

use std::collections::HashMap;

use hearth_base::{Result, ids::StreamPos};

use crate::{Store, db::Session, execute, fetch_all};

/// Runs remembered: a client that was away for longer begins anew.
const KEPT: i64 = 10_000;

/// What is known of runs. Changes at the start only.
#[derive(Debug)]
pub(crate) struct Runs {
    /// This one.
    boot: u32,
    /// Where the earlier ones ended.
    ended: HashMap<u32, i64>,
}

const RUNS: &str = "SELECT boot, pos FROM runs ORDER BY number";
const BEGIN: &str = "INSERT INTO runs (number, boot, pos) SELECT COALESCE(MAX(number), 0) + 1, $1, $2 FROM runs";
const PRUNE: &str = "DELETE FROM runs WHERE number <= (SELECT MAX(number) FROM runs) - $1";
const WRITES: &str = "UPDATE log_head SET run = $1 WHERE id = 1";

/// Begins a run at the present head, within a transaction.
pub(crate) async fn begin(session: &mut Session, head: i64) -> Result<Runs> {
    let rows: Vec<(i64, i64)> = fetch_all!(session, (i64, i64), RUNS)?;
    let ends = rows.iter().skip(1).map(|(_, pos)| *pos).chain([head]);
    let ended: HashMap<u32, i64> =
        rows.iter().zip(ends).filter_map(|((boot, _), end)| Some((u32::try_from(*boot).ok()?, end))).collect();
    let mut boot: u32 = rand::random();
    while ended.contains_key(&boot) {
        boot = boot.wrapping_add(1);
    }
    execute!(session, BEGIN, i64::from(boot), head)?;
    execute!(session, WRITES, i64::from(boot))?;
    execute!(session, PRUNE, KEPT)?;
    Ok(Runs { boot, ended })
}

impl Runs {
    pub(crate) fn boot(&self) -> u32 {
        self.boot
    }
}

impl Store {
    /// This run, for tokens.
    #[must_use]
    pub fn boot(&self) -> u32 {
        self.inner.runs.boot()
    }

    /// Whether a run can have given out a token for this position, on the history that this database has.
    #[must_use]
    pub fn gave_out(&self, boot: u32, pos: StreamPos) -> bool {
        let runs = &self.inner.runs;
        let end = if boot == runs.boot { Some(self.head().0) } else { runs.ended.get(&boot).copied() };
        end.is_some_and(|end| pos.0 <= end)
    }
}
