//! One SQL text on either engine: how statements are written and run.

/// Builds a [`Sql`] from literals and the named differences: `[in 1]` is membership in the list bound as `$1`
/// ([`Ints`] or [`Texts`]); `[rows 1]` is a table `e` with one column `value`, of the elements of the JSON array bound
/// as `$1`, whose fields are read by `e.value ->> 0`; `[either "…" "…"]` is the first text on SQLite and the second on
/// PostgreSQL, where each can do well what the other cannot.
#[macro_export]
macro_rules! sql {
    ($($part:tt)+) => {
        $crate::db::Sql {
            sqlite: concat!($($crate::sql_part!(sqlite $part)),+),
            postgres: concat!($($crate::sql_part!(postgres $part)),+),
        }
    };
}

/// One piece of a [`sql!`](crate::sql).
#[macro_export]
#[doc(hidden)]
macro_rules! sql_part {
    (sqlite [in $n:literal]) => {
        concat!("IN (SELECT value FROM json_each($", $n, "))")
    };
    (postgres [in $n:literal]) => {
        concat!("= ANY($", $n, ")")
    };
    (sqlite [rows $n:literal]) => {
        concat!("json_each($", $n, ") AS e")
    };
    (postgres [rows $n:literal]) => {
        concat!("json_array_elements($", $n, "::json) AS e(value)")
    };
    (sqlite [either $sqlite:literal $postgres:literal]) => {
        $sqlite
    };
    (postgres [either $sqlite:literal $postgres:literal]) => {
        $postgres
    };
    ($engine:ident $text:literal) => {
        $text
    };
}

/// Runs a statement on whichever engine it is, and notes how it ended.
#[macro_export]
#[doc(hidden)]
macro_rules! statement {
    ($session:expr, $s:ident => $sqlite:expr, $p:ident => $postgres:expr) => {
        match &mut *$session {
            held => match $crate::db::HasSession::ready(held).await {
                Ok(()) => {
                    let done = match $crate::db::HasSession::session(held) {
                        $crate::db::Session::Sqlite($s) => $sqlite,
                        $crate::db::Session::Postgres($p) => $postgres,
                    };
                    if done.is_ok() {
                        $crate::db::HasSession::ended(held);
                    }
                    done.map_err($crate::db::failed)
                }
                Err(e) => Err(e),
            },
        }
    };
}

/// All rows of a statement, as `Vec<$row>`.
#[macro_export]
macro_rules! fetch_all {
    ($session:expr, $row:ty, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        $crate::statement!($session, c => sqlx::query_as::<sqlx::Sqlite, $row>(sql.sqlite)$(.bind($arg))*.fetch_all(&mut **c).await,
            c => sqlx::query_as::<sqlx::Postgres, $row>(sql.postgres)$(.bind($arg))*.fetch_all(&mut **c).await)
    }};
}

/// The row of a statement, if there is one.
#[macro_export]
macro_rules! fetch_optional {
    ($session:expr, $row:ty, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        $crate::statement!($session, c => sqlx::query_as::<sqlx::Sqlite, $row>(sql.sqlite)$(.bind($arg))*.fetch_optional(&mut **c).await,
            c => sqlx::query_as::<sqlx::Postgres, $row>(sql.postgres)$(.bind($arg))*.fetch_optional(&mut **c).await)
    }};
}

/// Runs a statement; gives the number of rows it touched.
#[macro_export]
macro_rules! execute {
    ($session:expr, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        $crate::statement!($session,
            c => sqlx::query::<sqlx::Sqlite>(sql.sqlite)$(.bind($arg))*.execute(&mut **c).await.map(|r| r.rows_affected()),
            c => sqlx::query::<sqlx::Postgres>(sql.postgres)$(.bind($arg))*.execute(&mut **c).await.map(|r| r.rows_affected()))
    }};
}

/// Runs a statement of the writer whose outcome nobody asks for. On PostgreSQL it may wait until the next one that
/// somebody does ask, or until the end: it must not read a table that another statement writes to.
#[macro_export]
macro_rules! later {
    ($tx:expr, $sql:expr $(, $arg:expr)* $(,)?) => {{
        let sql: $crate::db::Sql = $sql.into();
        match &mut *$tx {
            tx if tx.waits() => {
                tx.later(sql.postgres, |_args| {
                    $(sqlx::Arguments::add(_args, $arg)?;)*
                    Ok(())
                })
                .await
            }
            tx => $crate::execute!(tx, sql $(, $arg)*).map(drop),
        }
    }};
}

/// Writes many rows: `$one` row by row on SQLite, where a statement costs little; `$many` once on PostgreSQL, with a
/// list a column for `UNNEST`, and as [`later!`](crate::later) does. Both name the columns in the same order.
#[macro_export]
macro_rules! insert_rows {
    ($tx:expr, $rows:expr, $one:expr, $many:expr, $r:ident => { $($col:ident : $ty:ty = $val:expr),+ $(,)? }) => {
        match &mut *$tx {
            tx => {
                let rows = $rows;
                let mut done = Ok(());
                if tx.waits() {
                    $(let mut $col: Vec<$ty> = Vec::new();)+
                    let mut count = 0;
                    for $r in rows {
                        count += 1;
                        $($col.push($val);)+
                    }
                    done = tx
                        .later_rows(($one, $many), count, |args| {
                            $(sqlx::Arguments::add(args, $col)?;)+
                            Ok(())
                        })
                        .await;
                } else {
                    for $r in rows {
                        done = $crate::execute!(tx, $one $(, { let v: $ty = $val; v })+).map(drop);
                        if done.is_err() {
                            break;
                        }
                    }
                }
                done
            }
        }
    };
}
