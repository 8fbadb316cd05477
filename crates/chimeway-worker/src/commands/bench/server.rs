//! What the server counts: statements, row writes, write-ahead log.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::{PgConnection, Row as _};

use crate::{error::CliError, output::Table};

/// Whether there is a row of Chimeway's that a benchmark would be beside.
pub(super) async fn has_rows(conn: &mut PgConnection) -> Result<bool, CliError> {
    let there = sqlx::query_scalar(
        "select exists (select from chimeway.events) or exists (select from chimeway.workflows) \
         or exists (select from chimeway.signals) or exists (select from chimeway.recipients)",
    );
    Ok(there.fetch_one(conn).await?)
}

/// Makes statements countable, where the module for it is loaded.
pub(super) async fn watch_statements(conn: &mut PgConnection) {
    // Not there: statements are not counted, and the report says so.
    let _ = sqlx::query("create extension if not exists pg_stat_statements")
        .execute(conn)
        .await;
}

/// The process of this connection on the server, if that is this machine.
pub(super) async fn local_backend(conn: &mut PgConnection) -> Option<u32> {
    let pid: Option<i32> = sqlx::query_scalar(
        "select case when inet_server_addr() is null or inet_server_addr() <<= '127.0.0.0/8' \
         or inet_server_addr() = '::1' then pg_backend_pid() end",
    )
    .fetch_one(conn)
    .await
    .ok()?;
    u32::try_from(pid?).ok()
}

/// The settings that matter for what is measured.
pub(super) async fn settings(conn: &mut PgConnection) -> Result<Map<String, Value>, CliError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select name, current_setting(name) from pg_settings where name = any(array[\
         'server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', \
         'max_wal_size', 'shared_preload_libraries', 'track_commit_timestamp']) order by name",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect())
}

/// What the server has counted so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters {
    wal_bytes: f64,
    commits: f64,
    tables: Vec<TableWrites>,
    /// `None` where statements are not counted.
    statements: Option<Vec<Statement>>,
}

/// The row writes of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TableWrites {
    pub(super) table: String,
    pub(super) inserted: f64,
    pub(super) updated: f64,
    /// Updates that changed no index.
    pub(super) updated_hot: f64,
}

/// A statement, by the name that its text begins with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Statement {
    pub(super) name: String,
    pub(super) calls: f64,
    pub(super) milliseconds: f64,
    pub(super) rows: f64,
}

/// How long the counters are waited for: sessions tell theirs when they end.
const SETTLE: (Duration, u32) = (Duration::from_millis(150), 20);

impl Counters {
    /// Reads them when they have come to rest.
    pub(super) async fn settled(conn: &mut PgConnection) -> Result<Self, CliError> {
        let mut before = Self::read(conn).await?;
        for _ in 0..SETTLE.1 {
            tokio::time::sleep(SETTLE.0).await;
            let now = Self::read(conn).await?;
            if now.tables == before.tables {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    pub(super) async fn read(conn: &mut PgConnection) -> Result<Self, CliError> {
        let (wal_bytes, commits) = sqlx::query_as(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, xact_commit::float8 \
             from pg_stat_database where datname = current_database()",
        )
        .fetch_one(&mut *conn)
        .await?;
        let rows = sqlx::query(
            "select relname::text as name, n_tup_ins::float8 as inserted, \
             n_tup_upd::float8 as updated, n_tup_hot_upd::float8 as hot \
             from pg_stat_user_tables where schemaname = 'chimeway' order by relname",
        )
        .fetch_all(&mut *conn)
        .await?;
        let mut tables = vec![];
        for row in rows {
            tables.push(TableWrites {
                table: row.try_get("name")?,
                inserted: row.try_get("inserted")?,
                updated: row.try_get("updated")?,
                updated_hot: row.try_get("hot")?,
            });
        }
        Ok(Self {
            wal_bytes,
            commits,
            tables,
            statements: statements(conn).await,
        })
    }

    /// What was counted since, per journey.
    pub(super) fn since(&self, before: &Self, journeys: usize) -> Counted {
        let per = journeys.max(1) as f64;
        let tables: Vec<TableWrites> = self
            .tables
            .iter()
            .map(|now| {
                let was = before.tables.iter().find(|was| was.table == now.table);
                let less = |of: fn(&TableWrites) -> f64| (of(now) - was.map_or(0.0, of)) / per;
                TableWrites {
                    table: now.table.clone(),
                    inserted: less(|it| it.inserted),
                    updated: less(|it| it.updated),
                    updated_hot: less(|it| it.updated_hot),
                }
            })
            .filter(|writes| writes.inserted + writes.updated > 0.0)
            .collect();
        Counted {
            wal_bytes: (self.wal_bytes - before.wal_bytes) / per,
            commits: (self.commits - before.commits) / per,
            row_writes: tables.iter().map(|it| it.inserted + it.updated).sum(),
            statements: self
                .statements
                .as_ref()
                .map(|now| difference(now, before.statements.as_deref().unwrap_or_default(), per)),
            tables,
        }
    }
}

/// What was counted, per journey.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) wal_bytes: f64,
    pub(super) commits: f64,
    pub(super) row_writes: f64,
    pub(super) tables: Vec<TableWrites>,
    /// The costliest first; `None` where statements are not counted.
    pub(super) statements: Option<Vec<Statement>>,
}

impl Counted {
    /// Chimeway's own statements: begin and commit are not among them.
    pub(super) fn statements_per_journey(&self) -> Option<f64> {
        Some(self.statements.as_ref()?.iter().map(|it| it.calls).sum())
    }

    /// What takes most of the server's time, by statement; nothing where statements are not counted.
    pub(super) fn costliest(&self, name: &str) -> String {
        const SHOWN: usize = 20;
        let Some(statements) = &self.statements else {
            return String::new();
        };
        let mut table = Table::new([
            "STATEMENT",
            "MS PER 1,000",
            "CALLS PER 1,000",
            "ROWS PER CALL",
        ]);
        for statement in statements.iter().take(SHOWN) {
            table.row([
                statement.name.clone(),
                format!("{:.1}", statement.milliseconds * 1_000.0),
                format!("{:.1}", statement.calls * 1_000.0),
                format!("{:.1}", statement.rows / statement.calls),
            ]);
        }
        format!("{name}:\n{table}")
    }
}

fn difference(now: &[Statement], before: &[Statement], per: f64) -> Vec<Statement> {
    let mut found: Vec<Statement> = now
        .iter()
        .map(|now| {
            let was = before.iter().find(|was| was.name == now.name);
            let less = |of: fn(&Statement) -> f64| (of(now) - was.map_or(0.0, of)) / per;
            Statement {
                name: now.name.clone(),
                calls: less(|it| it.calls),
                milliseconds: less(|it| it.milliseconds),
                rows: less(|it| it.rows),
            }
        })
        .filter(|statement| statement.calls > 0.0)
        .collect();
    found.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    found
}

/// The statements of this database that begin with their name: `-- runs::lock`.
async fn statements(conn: &mut PgConnection) -> Option<Vec<Statement>> {
    let rows = sqlx::query(
        "select substring(query from '^-- ([a-z_]+::[a-z_]+)') as name, \
         sum(calls)::float8 as calls, sum(total_exec_time)::float8 as milliseconds, \
         sum(rows)::float8 as rows \
         from pg_stat_statements \
         where dbid = (select oid from pg_database where datname = current_database()) \
         and query like '-- %::%' group by 1",
    )
    .fetch_all(conn)
    .await
    .ok()?;
    let read = |row: sqlx::postgres::PgRow| {
        Some(Statement {
            name: row.try_get("name").ok()?,
            calls: row.try_get("calls").ok()?,
            milliseconds: row.try_get("milliseconds").ok()?,
            rows: row.try_get("rows").ok()?,
        })
    };
    Some(rows.into_iter().filter_map(read).collect())
}

/// How often a statement was called so far, and for how many milliseconds in all; `None` where statements are
/// not counted.
pub(super) async fn calls(conn: &mut PgConnection, name: &str) -> Option<(f64, f64)> {
    let statements = statements(conn).await?;
    let found = statements.iter().find(|statement| statement.name == name);
    Some(found.map_or((0.0, 0.0), |it| (it.calls, it.milliseconds)))
}

/// Reads tables anew, so that the planner knows what is there.
pub(super) async fn vacuum(conn: &mut PgConnection) -> Result<(), CliError> {
    for statement in [
        "vacuum analyze chimeway.events",
        "vacuum analyze chimeway.notifications",
        "vacuum analyze chimeway.workflow_runs",
        "vacuum analyze chimeway.workflow_transitions",
        "vacuum analyze chimeway.deliveries",
        "vacuum analyze chimeway.delivery_attempts",
        "checkpoint",
    ] {
        sqlx::query(statement).execute(&mut *conn).await?;
    }
    Ok(())
}
