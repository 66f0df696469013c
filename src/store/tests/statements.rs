//! Every statement is prepared on both engines, and both must see the same in it: parameters, columns, sorts of values.
//!
//! Statements are not registered anywhere; they are found. [`texts`] reads the sources of the crate and takes every string
//! that begins as a statement does, every `sql!` and every pair of an `insert_rows!`, so that none can be forgotten. A
//! piece of a statement that somebody glues together at run time is taken for a whole one, and fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sqlx::{Column, Either, Executor, Statement, TypeInfo};

use super::Disk;
use crate::{
    db::{
        HasSession, Session,
        later::write_one,
        rehearsal::{READING, WRITING, rehearse},
    },
    fetch_all,
};

/// A statement as each engine gets it, and where it stands.
#[derive(Debug)]
struct Found {
    place: String,
    sqlite: Option<String>,
    postgres: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// Takes a source apart as far as needed here: comments go, strings are read.
fn tokens(source: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                for c in chars.by_ref() {
                    if c == '\n' {
                        break;
                    }
                }
            }
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                            Some('n') => text.push('\n'),
                            Some(other) => text.push(other),
                            None => {}
                        },
                        c => text.push(c),
                    }
                }
                out.push(Token::Text(text));
            }
            // A character or a lifetime.
            '\'' => {
                let escaped = chars.next_if_eq(&'\\').is_some();
                let _ = chars.next();
                if escaped || chars.peek() == Some(&'\'') {
                    while chars.next_if(|c| *c != '\'').is_some() {}
                    let _ = chars.next();
                }
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                out.push(Token::Word(word));
            }
            c if c.is_whitespace() => {}
            c => out.push(Token::Sign(c)),
        }
    }
    out
}

/// The tokens within the brackets that open at `at`, and where they end.
fn within(tokens: &[Token], at: usize) -> (&[Token], usize) {
    let mut depth = 0;
    for (n, token) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&tokens[at + 1..n], n + 1);
        }
    }
    panic!("a bracket that does not close")
}

fn is_statement(text: &str) -> bool {
    ["SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM ", "WITH "].iter().any(|verb| text.starts_with(verb))
}

/// All statements of a source.
fn texts(place: &str, source: &str) -> Vec<Found> {
    let tokens = tokens(source);
    let mut fragments: BTreeMap<String, String> = BTreeMap::new();
    let mut found = Vec::new();
    let mut add = |sqlite: Option<String>, postgres: Option<String>| {
        found.push(Found { place: place.to_owned(), sqlite, postgres });
    };
    let mut n = 0;
    while n < tokens.len() {
        let word = match &tokens[n] {
            Token::Word(word) => word.as_str(),
            // What is written with places for values is put together by the writer.
            Token::Text(text) if is_statement(text) && !text.contains('{') => {
                // What only one engine has, it has by these names.
                let postgres_only = text.contains("pg_");
                let sqlite_only = text.contains("sqlite_");
                add((!postgres_only).then(|| text.clone()), (!sqlite_only).then(|| text.clone()));
                n += 1;
                continue;
            }
            _ => {
                n += 1;
                continue;
            }
        };
        let is_macro = tokens.get(n + 1) == Some(&Token::Sign('!'));
        match word {
            "mod"
                if tokens.get(n + 1) == Some(&Token::Word("tests".to_owned()))
                    && tokens.get(n + 2) == Some(&Token::Sign('{')) =>
            {
                n = within(&tokens, n + 2).1;
            }
            "macro_rules" if is_macro => {
                let Some(Token::Word(name)) = tokens.get(n + 2) else { panic!("{place}: a macro without a name") };
                let (body, end) = within(&tokens, n + 3);
                if let [.., Token::Sign('{'), Token::Text(text), Token::Sign('}'), Token::Sign(';')]
                | [.., Token::Sign('{'), Token::Text(text), Token::Sign('}')] = body
                {
                    fragments.insert(name.clone(), text.clone());
                }
                n = end;
            }
            "concat" if is_macro => {
                let (body, end) = within(&tokens, n + 2);
                let mut text = String::new();
                for token in body {
                    match token {
                        Token::Text(part) => text.push_str(part),
                        Token::Word(name) => {
                            text.push_str(
                                fragments.get(name).unwrap_or_else(|| panic!("{place}: {name}! is not known")),
                            );
                        }
                        Token::Sign(_) => {}
                    }
                }
                add(Some(text.clone()), Some(text));
                n = end;
            }
            "sql" if is_macro => {
                let (body, end) = within(&tokens, n + 2);
                let (mut sqlite, mut postgres) = (String::new(), String::new());
                let mut m = 0;
                while m < body.len() {
                    match (&body[m], body.get(m + 1), body.get(m + 2)) {
                        (Token::Text(part), ..) => {
                            sqlite.push_str(part);
                            postgres.push_str(part);
                        }
                        (Token::Sign('['), Some(Token::Word(what)), Some(Token::Text(a))) if what == "either" => {
                            let Some(Token::Text(b)) = body.get(m + 3) else { panic!("{place}: either what?") };
                            sqlite.push_str(a);
                            postgres.push_str(b);
                            m += 4;
                        }
                        (Token::Sign('['), Some(Token::Word(what)), Some(Token::Word(n))) => {
                            let (a, b) = match what.as_str() {
                                "in" => (format!("IN (SELECT value FROM json_each(${n}))"), format!("= ANY(${n})")),
                                "rows" => (
                                    format!("json_each(${n}) AS e"),
                                    format!("json_array_elements(${n}::json) AS e(value)"),
                                ),
                                _ => panic!("{place}: [{what} {n}] is not known"),
                            };
                            sqlite.push_str(&a);
                            postgres.push_str(&b);
                            m += 3;
                        }
                        other => panic!("{place}: {other:?} in sql!"),
                    }
                    m += 1;
                }
                add(Some(sqlite), Some(postgres));
                n = end;
            }
            "insert_rows" if is_macro => {
                let (body, end) = within(&tokens, n + 2);
                let mut pair = body.iter().filter_map(|t| match t {
                    Token::Text(text) if is_statement(text) => Some(text.clone()),
                    _ => None,
                });
                let (one, many) = (pair.next(), pair.next());
                assert!(
                    one.is_some() && many.is_some() && pair.next().is_none(),
                    "{place}: insert_rows! has two texts"
                );
                let mut alone = String::new();
                write_one(&mut alone, (one.as_deref().unwrap(), many.as_deref().unwrap()), 0);
                add(one, Some(alone));
                add(None, many);
                n = end;
            }
            _ => n += 1,
        }
    }
    found
}

fn all() -> Vec<Found> {
    fn walk(dir: &Path, found: &mut Vec<Found>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !matches!(name, "tests" | "target") {
                walk(&path, found);
            } else if name.ends_with(".rs") && !matches!(name, "tests.rs" | "db.rs") {
                found.extend(texts(name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    found
}

/// What an engine sees in a statement.
#[derive(Debug)]
struct Seen {
    parameters: usize,
    columns: Vec<(String, Option<&'static str>)>,
}

/// The sort of a type, where the engine knows it.
fn sort(name: &str) -> Option<&'static str> {
    match name {
        "INTEGER" | "BIGINT" | "INT8" | "INT4" => Some("number"),
        "TEXT" => Some("text"),
        "BLOB" | "BYTEA" => Some("bytes"),
        "BOOLEAN" | "BOOL" => Some("truth"),
        "NULL" => None,
        other => panic!("a type that no other column has: {other}"),
    }
}

fn count<T>(parameters: Option<Either<&[T], usize>>) -> usize {
    match parameters {
        Some(Either::Left(types)) => types.len(),
        Some(Either::Right(n)) => n,
        None => 0,
    }
}

async fn seen(session: &mut impl HasSession, text: &str) -> Result<Seen, sqlx::Error> {
    macro_rules! of {
        ($statement:expr) => {{
            let statement = $statement;
            let columns = statement.columns().iter();
            Seen {
                parameters: count(statement.parameters()),
                columns: columns.map(|c| (c.name().to_owned(), sort(c.type_info().name()))).collect(),
            }
        }};
    }
    let text = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(text.to_owned()));
    Ok(match session.session() {
        Session::Sqlite(c) => of!((&mut **c).prepare(text).await?),
        Session::Postgres(c) => of!((&mut **c).prepare(text).await?),
    })
}

#[tokio::test]
async fn both_engines_see_the_same_in_every_statement() {
    let statements = all();
    assert!(statements.len() > 200, "only {} statements were found", statements.len());
    let (file, server) = (Disk::sqlite(), Disk::postgres().await);
    let sqlite = file.open().await;
    let postgres = match &server {
        Some(disk) => Some(disk.open().await),
        None => None,
    };
    let mut wrong = BTreeSet::new();
    let mut note = |place: &str, text: &str, why: String| {
        wrong.insert(format!("{place}: {text}\n    {why}"));
    };
    for s in &statements {
        let mut a = None;
        if let Some(text) = &s.sqlite {
            match seen(&mut sqlite.store.read().await.unwrap(), text).await {
                Ok(seen) => a = Some(seen),
                Err(e) => note(&s.place, text, format!("SQLite: {e}")),
            }
        }
        let (Some(text), Some(postgres)) = (&s.postgres, &postgres) else { continue };
        match seen(&mut postgres.store.read().await.unwrap(), text).await {
            Ok(b) => {
                let Some(a) = a else { continue };
                if a.parameters != b.parameters || a.columns.len() != b.columns.len() {
                    note(&s.place, text, format!("SQLite {a:?}, PostgreSQL {b:?}"));
                }
                for ((x, kind), (y, other)) in a.columns.iter().zip(&b.columns) {
                    // SQLite calls an expression by its text.
                    let named = !x.starts_with(|c: char| c.is_ascii_digit())
                        && x.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                    if (named && x != y) || (kind.is_some() && other.is_some() && kind != other) {
                        note(&s.place, text, format!("SQLite has {x} {kind:?}, PostgreSQL {y} {other:?}"));
                    }
                }
            }
            Err(e) => note(&s.place, text, format!("PostgreSQL: {e}")),
        }
    }
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), statements.len(), wrong.join("\n"));
}

/// A statement without the numbers of its parameters, which change when it is joined to others.
fn unnumbered(text: &str) -> String {
    let mut pieces = text.split('$');
    let mut out = pieces.next().unwrap().to_owned();
    for piece in pieces {
        out.push('$');
        out.push_str(piece.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    out
}

/// The statements that one was joined of: what stands in brackets behind `WITH w0 AS`, `, w1 AS` and so on, and the rest.
fn joined_of(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    for n in 0.. {
        let begin = if n == 0 { "WITH w0 AS (".to_owned() } else { format!(", w{n} AS (") };
        let Some(after) = rest.strip_prefix(&begin) else { break };
        let mut depth = 1;
        let end = after.find(|c| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        let (part, behind) = after.split_at(end.unwrap());
        parts.push(part);
        rest = &behind[1..];
    }
    let rest = rest.trim_start();
    // By which the head of the log moves.
    if !rest.starts_with("SELECT 1 / COUNT(*) FROM w") {
        parts.push(rest);
    }
    parts
}

#[test]
fn only_what_is_asked_is_rehearsed() {
    let asked: BTreeSet<String> = all().iter().filter_map(|s| s.postgres.as_deref().map(unnumbered)).collect();
    let rehearsed = READING.lines().chain(WRITING.lines()).flat_map(joined_of);
    let never: Vec<&str> = rehearsed.filter(|text| !asked.contains(&unnumbered(text))).collect();
    assert!(never.is_empty(), "record anew, tests/bench/join_cost.py --record: {never:#?}");
}

#[tokio::test]
async fn what_is_rehearsed_is_prepared_and_has_no_effect() {
    let Some(disk) = Disk::postgres().await else { return };
    let open = disk.open().await;
    let user = open.user("ann").await;
    open.write(user, "something").await.unwrap();
    let head = open.store.head();

    open.store.rehearse(|| false).await.unwrap();
    let mut reading = open.store.read().await.unwrap();
    for text in READING.lines() {
        let Session::Postgres(c) = reading.session() else { unreachable!() };
        rehearse(c, text).await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    let prepared = fetch_all!(&mut reading, (String,), "SELECT statement FROM pg_prepared_statements").unwrap();
    for text in READING.lines() {
        assert!(
            prepared.iter().any(|(prepared,)| prepared == text),
            "{text} is not prepared where it was asked before"
        );
    }
    for text in WRITING.lines() {
        let written = open.store.write(move |tx| {
            Box::pin(async move {
                let Session::Postgres(c) = tx.session() else { unreachable!() };
                let failed = rehearse(c, text).await.map_err(|e| panic!("{text}: {e}"));
                failed.map(drop)
            })
        });
        written.await.unwrap();
    }
    assert_eq!(open.store.head(), head);
    open.write(user, "more").await.unwrap();
    assert_eq!(open.read(user).await.as_deref(), Some("more"));
    open.close().await;
}

#[test]
fn statements_are_found_however_they_are_written() {
    let source = r#"
        // "SELECT a comment"
        macro_rules! columns { () => { "SELECT a, b FROM t " }; }
        const ONE: &str = "SELECT 1 FROM t WHERE c = 'x'";
        const TWO: &str = concat!(columns!(), "WHERE a = $1");
        fn f<'a>(c: char) { if c == '"' || c == '\'' { g("UPDATE t \
            SET a = 1") }
            let s = sql!("DELETE FROM t WHERE a " [in 1] " OR b = $2");
            insert_rows!(tx, &rows, "INSERT INTO t VALUES ($1)", "INSERT INTO t SELECT * FROM UNNEST($1::BIGINT[])", r => { a: i64 = r.0 });
            format!("UPDATE t SET a = {}", 1);
            x("SELECT pg_sleep(1)");
        }
        mod tests { const NO: &str = "SELECT nothing"; }
    "#;
    let found: Vec<(Option<String>, Option<String>)> =
        texts("here", source).into_iter().map(|f| (f.sqlite, f.postgres)).collect();
    let both = |text: &str| (Some(text.to_owned()), Some(text.to_owned()));
    assert_eq!(
        found,
        [
            both("SELECT 1 FROM t WHERE c = 'x'"),
            both("SELECT a, b FROM t WHERE a = $1"),
            both("UPDATE t SET a = 1"),
            (
                Some("DELETE FROM t WHERE a IN (SELECT value FROM json_each($1)) OR b = $2".to_owned()),
                Some("DELETE FROM t WHERE a = ANY($1) OR b = $2".to_owned()),
            ),
            (Some("INSERT INTO t VALUES ($1)".to_owned()), Some("INSERT INTO t VALUES (($1::BIGINT[])[1])".to_owned())),
            (None, Some("INSERT INTO t SELECT * FROM UNNEST($1::BIGINT[])".to_owned())),
            (None, Some("SELECT pg_sleep(1)".to_owned())),
        ]
    );
}
