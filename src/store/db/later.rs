//! Statements that wait for each other, so that PostgreSQL hears of them in one round trip.
//!
//! A transaction of the writer is mostly rows for one table after the other, and nobody waits for the answer of each: a
//! round trip for each would be most of its cost on both sides. So on PostgreSQL they are kept until somebody reads or the
//! transaction ends, and run as the parts (`WITH`) of one statement. Such parts do not see what the others do, so there
//! is never more than one for a table, and none may read another's table.
//!
//! What writes rows is given a list a column. Taking a list apart (`UNNEST`) is a scan of its own in PostgreSQL, with memory
//! of its own: of a message that is some forty, and a third of what it costs. So of a list of one element it is said which
//! one, if no other is longer than two, as with whatever is written alone: else there would be many statements that differ
//! in nothing but which lists are long.

use hearth_base::{Error, Result};
use sqlx::{Arguments as _, error::BoxDynError, postgres::PgArguments};

/// Statements that wait, and what they are given.
#[derive(Debug, Default)]
pub(crate) struct Later {
    waiting: Vec<Part>,
    /// How long the longest of its lists is.
    longest: usize,
    args: PgArguments,
}

/// A statement that waits.
#[derive(Debug)]
struct Part {
    text: &'static str,
    /// The same for one row, of which each column is a parameter, if it is given lists of one element.
    one: Option<&'static str>,
    /// The number of parameters before its first.
    before: usize,
}

/// Elements of lists beside which one of a single element is not taken apart.
const SHORT: usize = 2;

/// Whether what a statement is given could be encoded.
pub(crate) type Bound = std::result::Result<(), BoxDynError>;

/// One statement that is to be run with what it is given.
pub(crate) type Joined = (String, PgArguments);

impl Later {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether one waits that writes to the same table.
    pub(crate) fn writes_where(&self, text: &str) -> bool {
        self.waiting.iter().any(|waiting| table(waiting.text) == table(text))
    }

    /// Adds a statement. If what it is given cannot be encoded, the transaction is to be undone.
    ///
    /// # Errors
    /// As said.
    pub(crate) fn add(&mut self, text: &'static str, bind: impl FnOnce(&mut PgArguments) -> Bound) -> Result<()> {
        self.push(text, None, bind)
    }

    /// Adds a statement that writes `rows` rows and is given a list a column (`$1::BIGINT[]`); `one` does the same with one
    /// row, and is given its columns.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(crate) fn add_rows(
        &mut self,
        (one, text): (&'static str, &'static str),
        rows: usize,
        bind: impl FnOnce(&mut PgArguments) -> Bound,
    ) -> Result<()> {
        self.longest = self.longest.max(rows);
        self.push(text, (rows == 1).then_some(one), bind)
    }

    fn push(
        &mut self,
        text: &'static str,
        one: Option<&'static str>,
        bind: impl FnOnce(&mut PgArguments) -> Bound,
    ) -> Result<()> {
        let before = self.args.len();
        bind(&mut self.args).map_err(|e| Error::fault("database", e))?;
        self.waiting.push(Part { text, one, before });
        Ok(())
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What waits as one statement, if anything does; nothing waits any longer.
    pub(crate) fn join(&mut self) -> Option<Joined> {
        let Self { mut waiting, longest, args } = std::mem::take(self);
        let last = waiting.pop()?;
        let mut text = parts(&waiting, longest);
        text.push_str(if text.is_empty() { "" } else { " " });
        last.write(&mut text, longest);
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
        let Self { waiting, longest, args } = std::mem::take(self);
        let mut text = parts(&waiting, longest);
        text.push_str(&format!(" SELECT 1 / COUNT(*) FROM w{}", waiting.len() - 1));
        Ok((text, args))
    }
}

/// `WITH w0 AS (…), w1 AS (…)`, or nothing.
fn parts(waiting: &[Part], longest: usize) -> String {
    let mut text = String::with_capacity(waiting.iter().map(|part| part.text.len() + 64).sum());
    for (n, part) in waiting.iter().enumerate() {
        text.push_str(if n == 0 { "WITH" } else { "," });
        text.push_str(" w");
        text.push_str(&n.to_string());
        text.push_str(" AS (");
        part.write(&mut text, longest);
        text.push(')');
    }
    text
}

impl Part {
    /// Appends it, as it is for many rows or for one.
    fn write(&self, text: &mut String, longest: usize) {
        match self.one {
            Some(one) if longest <= SHORT => write_one(text, (one, self.text), self.before),
            _ => each_parameter(text, self.text, |text, n| write_number(text, n + self.before)),
        }
    }
}

/// Appends a statement for one row that is given the lists of the one for many: each parameter is the first of its list.
pub(crate) fn write_one(text: &mut String, (one, many): (&str, &str), before: usize) {
    // As the other says what they are: `$1::BIGINT[]`.
    let mut lists: Vec<&str> = Vec::new();
    for (n, rest) in many.split('$').skip(1).filter_map(number) {
        if let Some(list) = rest.strip_prefix("::").and_then(|rest| rest.split_inclusive("[]").next()) {
            lists.resize(lists.len().max(n), "");
            if let Some(known) = n.checked_sub(1).and_then(|n| lists.get_mut(n)) {
                *known = list;
            }
        }
    }
    each_parameter(text, one, |text, n| {
        text.push('(');
        write_number(text, n + before);
        text.push_str("::");
        text.push_str(n.checked_sub(1).and_then(|n| lists.get(n)).copied().unwrap_or_default());
        text.push_str(")[1]");
    });
}

/// Appends a statement, with what `write` makes of each parameter.
fn each_parameter(text: &mut String, statement: &str, mut write: impl FnMut(&mut String, usize)) {
    let mut pieces = statement.split('$');
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        match number(piece) {
            Some((n, rest)) => {
                write(text, n);
                text.push_str(rest);
            }
            None => {
                text.push('$');
                text.push_str(piece);
            }
        }
    }
}

/// The number that a text begins with, and the rest.
fn number(text: &str) -> Option<(usize, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

fn write_number(text: &mut String, n: usize) {
    text.push('$');
    text.push_str(&n.to_string());
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

    fn two(rows: i64) -> Later {
        let mut later = Later::default();
        let insert = (
            "INSERT INTO a (b, c) VALUES ($1, $2)",
            "INSERT INTO a (b, c) SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[])",
        );
        let bind = |args: &mut PgArguments| {
            args.add((0..rows).collect::<Vec<i64>>())?;
            args.add((0..rows).map(|n| n.to_string()).collect::<Vec<String>>())
        };
        later.add_rows(insert, usize::try_from(rows).unwrap(), bind).unwrap();
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
        let mut later = two(3);
        assert!(
            later.writes_where("DELETE FROM a WHERE b = $1") && !later.writes_where("INSERT INTO e (b) VALUES ($1)")
        );
        let (text, args) = later.join().unwrap();
        assert_eq!(
            text,
            "WITH w0 AS (INSERT INTO a (b, c) SELECT * FROM UNNEST($1::BIGINT[], $2::TEXT[])) UPDATE c SET d = $4 WHERE e = $3"
        );
        assert_eq!(args.len(), 4);
        assert!(later.is_empty() && later.join().is_none());
        later.add("DELETE FROM a WHERE b = $1", |args| args.add(1_i64)).unwrap();
        assert_eq!(later.join().unwrap().0, "DELETE FROM a WHERE b = $1");
    }

    #[test]
    fn lists_of_one_are_not_taken_apart() {
        let joined = |rows: i64| {
            let mut later = two(rows);
            let delete =
                ("DELETE FROM f WHERE g = $1", "DELETE FROM f USING UNNEST($1::BYTEA[]) AS t(a) WHERE g = t.a");
            later.add_rows(delete, 1, |args| args.add(vec![vec![1_u8]])).unwrap();
            later.join().unwrap().0
        };
        assert_eq!(
            joined(1),
            "WITH w0 AS (INSERT INTO a (b, c) VALUES (($1::BIGINT[])[1], ($2::TEXT[])[1])), w1 AS (UPDATE c SET d = $4 WHERE e = $3) DELETE FROM f WHERE g = ($5::BYTEA[])[1]"
        );
        let (two, three) = (joined(2), joined(3));
        assert!(two.contains("UNNEST($1::BIGINT[], $2::TEXT[])") && two.ends_with("g = ($5::BYTEA[])[1]"), "{two}");
        assert!(three.ends_with("USING UNNEST($5::BYTEA[]) AS t(a) WHERE g = t.a"), "{three}");
    }

    #[test]
    fn the_head_moves_with_it() {
        let (text, args) = two(3).join_moving_head([1, 2, 3], [4, 5]).unwrap();
        assert!(text.ends_with(", w2 AS (UPDATE log_head SET pos = $8, commits = $9 WHERE id = 1 AND pos = $5 AND commits = $6 AND run = $7 RETURNING id) SELECT 1 / COUNT(*) FROM w2"), "{text}");
        assert_eq!(args.len(), 9);
    }
}
