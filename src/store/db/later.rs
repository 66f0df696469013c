//! Statements that wait for each other, so that PostgreSQL hears of them in one round trip.
//!
//! A transaction of the writer is mostly rows for one table after the other, and nobody waits for the answer of each: a
//! round trip for each would be most of its cost on both sides. So on PostgreSQL they are kept until somebody reads or the
//! transaction ends, and run as the parts (`WITH`) of one statement. Such parts do not see what the others do, so there
//! is never more than one for a table, and none may read another's table.

use hearth_base::{Error, Result};
use sqlx::{Arguments as _, error::BoxDynError, postgres::PgArguments};

/// Statements that wait, and what they are given.
#[derive(Debug, Default)]
pub(crate) struct Later {
    /// Each with the number of parameters before its first.
    waiting: Vec<(&'static str, usize)>,
    args: PgArguments,
}

/// One statement that is to be run with what it is given.
pub(crate) type Joined = (String, PgArguments);

impl Later {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether one waits that writes to the same table.
    pub(crate) fn writes_where(&self, text: &str) -> bool {
        self.waiting.iter().any(|(waiting, _)| table(waiting) == table(text))
    }

    /// Adds a statement. If what it is given cannot be encoded, the transaction is to be undone.
    ///
    /// # Errors
    /// As said.
    pub(crate) fn add(
        &mut self,
        text: &'static str,
        bind: impl FnOnce(&mut PgArguments) -> std::result::Result<(), BoxDynError>,
    ) -> Result<()> {
        let before = self.args.len();
        bind(&mut self.args).map_err(|e| Error::fault("database", e))?;
        self.waiting.push((text, before));
        Ok(())
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What waits as one statement, if anything does; nothing waits any longer.
    pub(crate) fn join(&mut self) -> Option<Joined> {
        let Self { mut waiting, args } = std::mem::take(self);
        let (last, before) = waiting.pop()?;
        let mut text = parts(&waiting);
        text.push_str(if text.is_empty() { "" } else { " " });
        push_renumbered(&mut text, last, before);
        Some((text, args))
    }

    /// What waits as one statement that also moves the head of the log from one place to another, and fails with
    /// `division_by_zero` if it is not where it is thought to be.
    ///
    /// # Errors
    /// If numbers cannot be encoded.
    pub(crate) fn join_moving_head(&mut self, from: [i64; 3], to: [i64; 2]) -> Result<Joined> {
        const MOVE: &str = "UPDATE log_head SET pos = $4, commits = $5 WHERE id = 1 AND pos = $1 AND commits = $2 AND run = $3 RETURNING id";
        self.add(MOVE, |args| from.into_iter().chain(to).try_for_each(|n| args.add(n)))?;
        let Self { waiting, args } = std::mem::take(self);
        let mut text = parts(&waiting);
        text.push_str(&format!(" SELECT 1 / COUNT(*) FROM w{}", waiting.len() - 1));
        Ok((text, args))
    }
}

/// `WITH w0 AS (…), w1 AS (…)`, or nothing.
fn parts(waiting: &[(&'static str, usize)]) -> String {
    let mut text = String::with_capacity(waiting.iter().map(|(text, _)| text.len() + 32).sum());
    for (n, (part, before)) in waiting.iter().enumerate() {
        text.push_str(if n == 0 { "WITH" } else { "," });
        text.push_str(" w");
        text.push_str(&n.to_string());
        text.push_str(" AS (");
        push_renumbered(&mut text, part, *before);
        text.push(')');
    }
    text
}

/// Appends a statement whose parameters are counted from `before` on.
fn push_renumbered(text: &mut String, part: &str, before: usize) {
    let mut pieces = part.split('$');
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(digits);
        text.push('$');
        match number.parse::<usize>() {
            Ok(number) => text.push_str(&(number + before).to_string()),
            Err(_) => text.push_str(number),
        }
        text.push_str(rest);
    }
}

/// The table that a statement writes to.
fn table(text: &str) -> &str {
    let mut words = text.split(' ');
    let named = match words.next() {
        Some("UPDATE") => words.next(),
        // INTO or FROM stands between.
        _ => words.nth(1),
    };
    named.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn two() -> Later {
        let mut later = Later::default();
        later.add("INSERT INTO a (b) SELECT * FROM UNNEST($1::BIGINT[])", |args| args.add(vec![1_i64])).unwrap();
        later
            .add("UPDATE c SET d = $2 WHERE e = $1", |args| {
                args.add(7_i64)?;
                args.add("x")
            })
            .unwrap();
        later
    }

    #[test]
    fn what_waits_is_one_statement_with_its_parameters_in_a_row() {
        let mut later = two();
        assert!(
            later.writes_where("DELETE FROM a WHERE b = $1") && !later.writes_where("INSERT INTO e (b) VALUES ($1)")
        );
        let (text, args) = later.join().unwrap();
        assert_eq!(
            text,
            "WITH w0 AS (INSERT INTO a (b) SELECT * FROM UNNEST($1::BIGINT[])) UPDATE c SET d = $3 WHERE e = $2"
        );
        assert_eq!(args.len(), 3);
        assert!(later.is_empty() && later.join().is_none());
        later.add("DELETE FROM a WHERE b = $1", |args| args.add(1_i64)).unwrap();
        assert_eq!(later.join().unwrap().0, "DELETE FROM a WHERE b = $1");
    }

    #[test]
    fn the_head_moves_with_it() {
        let (text, args) = two().join_moving_head([1, 2, 3], [4, 5]).unwrap();
        assert!(text.ends_with(", w2 AS (UPDATE log_head SET pos = $7, commits = $8 WHERE id = 1 AND pos = $4 AND commits = $5 AND run = $6 RETURNING id) SELECT 1 / COUNT(*) FROM w2"), "{text}");
        assert_eq!(args.len(), 8);
    }
}
