//! What `chimeway doctor` reads of a server and of our part of it: facts, which it judges. Everything but
//! [`signs`] works where there is no schema of ours, or another version of it, and for a role without privileges.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row as _};

use super::StoreResult;

/// The process of the server that serves this connection. By the simple protocol: a pooler that hands out
/// another server connection for each statement loses nothing by it.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn backend(conn: &mut PgConnection) -> StoreResult<i32> {
    let row = sqlx::raw_sql("-- doctor::backend\nselect pg_backend_pid()")
        .fetch_one(conn)
        .await?;
    Ok(row.try_get(0)?)
}

/// The server, and who we are to it.
#[derive(Debug, Clone)]
pub struct ServerRow {
    /// `150008` for 15.8.
    pub version_number: i32,
    /// As it says it.
    pub version: String,
    /// Whether it is a replica, or not recovered yet: nothing can be written.
    pub in_recovery: bool,
    /// Whether this connection is encrypted, as the server sees it.
    pub tls: bool,
    /// Its clock.
    pub now: DateTime<Utc>,
    /// Our role.
    pub role: String,
    /// Whether it may do everything.
    pub superuser: bool,
    /// How many sessions clients may have that are not superusers': of the server, the database and
    /// the role, whichever is least.
    pub sessions_allowed: i32,
    /// How many sessions clients have.
    pub sessions: i64,
    /// How many of them, of this database, call themselves `chimeway` and are not this one's.
    pub sessions_of_ours: i64,
    /// How many sessions of this database have done nothing within a transaction for a minute.
    pub idle_in_transaction: i64,
    /// For how many seconds the one has that has been so longest.
    pub idle_in_transaction_seconds: Option<f64>,
}

/// Reads them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn facts(conn: &mut PgConnection) -> StoreResult<ServerRow> {
    Ok(sqlx::query_as!(
        ServerRow,
        r#"-- doctor::facts
select current_setting('server_version_num')::int as "version_number!",
    current_setting('server_version') as "version!", pg_is_in_recovery() as "in_recovery!",
    coalesce((select ssl from pg_catalog.pg_stat_ssl where pid = pg_backend_pid()), false) as "tls!",
    clock_timestamp() as "now!", r.rolname::text as "role!", r.rolsuper as "superuser!",
    least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)
    ) as "sessions_allowed!",
    a.sessions as "sessions!", a.ours as "sessions_of_ours!", a.idle as "idle_in_transaction!",
    extract(epoch from clock_timestamp() - a.idle_since)::float8 as idle_in_transaction_seconds
from pg_catalog.pg_roles r
join pg_catalog.pg_database d on d.datname = current_database()
cross join (
    select count(*) filter (where backend_type = 'client backend') as sessions,
        count(*) filter (where datname = current_database() and application_name = 'chimeway'
            and pid <> pg_backend_pid()) as ours,
        count(*) filter (where stuck) as idle, min(state_change) filter (where stuck) as idle_since
    from pg_catalog.pg_stat_activity
    cross join lateral (
        select datname = current_database() and state like 'idle in transaction%'
            and state_change < clock_timestamp() - interval '1 minute' as stuck
    ) s
) a
where r.rolname = current_user"#
    )
    .fetch_one(conn)
    .await?)
}

/// A setting as it holds for our sessions when they begin, in the unit of `pg_settings`.
#[derive(Debug, Clone)]
pub struct SettingRow {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// These settings; those that this server does not have are left out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn settings(conn: &mut PgConnection, names: &[&str]) -> StoreResult<Vec<SettingRow>> {
    Ok(sqlx::query_as!(
        SettingRow,
        r#"-- doctor::settings
select name as "name!", reset_val as "value!" from pg_catalog.pg_settings where name = any($1) order by name"#,
        names as _,
    )
    .fetch_all(conn)
    .await?)
}

/// What outlives a session, and holds something of the server's.
#[derive(Debug, Clone)]
pub struct HolderRow {
    /// `prepared transaction` or `replication slot`.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// How many seconds ago a transaction was prepared.
    pub seconds: Option<f64>,
    /// How many bytes of the log the server keeps for a slot.
    pub bytes: Option<i64>,
    /// How many transactions old the snapshot is that it holds.
    pub xmin_age: Option<i32>,
    /// Whether somebody reads from a slot now.
    pub active: bool,
}

/// The prepared transactions of this database, and the replication slots of the server.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn holders(conn: &mut PgConnection) -> StoreResult<Vec<HolderRow>> {
    Ok(sqlx::query_as!(
        HolderRow,
        r#"-- doctor::holders
select 'prepared transaction' as "kind!", gid as "name!",
    extract(epoch from clock_timestamp() - prepared)::float8 as seconds, null::bigint as bytes,
    age(transaction) as xmin_age, false as "active!"
from pg_catalog.pg_prepared_xacts where database = current_database()
union all
select 'replication slot', slot_name::text, null,
    (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end
        - restart_lsn)::bigint,
    greatest(age(xmin), age(catalog_xmin)), active
from pg_catalog.pg_replication_slots"#
    )
    .fetch_all(conn)
    .await?)
}

/// Something of ours that is not as migrations made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlawRow {
    /// `unlogged`, `no autovacuum`, `invalid index`, `no trigger`, or a privilege that our role lacks.
    pub flaw: String,
    /// Which table, index or function.
    pub object: String,
}

/// The tables, indexes and triggers of our schema that somebody has changed.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn flaws(conn: &mut PgConnection) -> StoreResult<Vec<FlawRow>> {
    Ok(sqlx::query_as!(
        FlawRow,
        r#"-- doctor::flaws
with ours as (
    select c.oid, c.relname::text as name, c.relpersistence, c.reloptions
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'chimeway' and c.relkind in ('r', 'p')
)
select 'unlogged' as "flaw!", name as "object!" from ours where relpersistence <> 'p'
union all
select 'no autovacuum', name from ours
where exists (
    select from pg_catalog.pg_options_to_table(reloptions)
    where option_name = 'autovacuum_enabled' and not option_value::boolean
)
union all
select 'invalid index', i.indexrelid::regclass::text
from ours join pg_catalog.pg_index i on i.indrelid = ours.oid
where not (i.indisvalid and i.indisready)
union all
select 'no trigger', t.tgname::text || ' of ' || ours.name
from ours join pg_catalog.pg_trigger t on t.tgrelid = ours.oid
where not t.tgisinternal and t.tgenabled = 'D'
order by 1, 2"#
    )
    .fetch_all(conn)
    .await?)
}

/// What a worker does with our tables, beside reading them.
const WRITES: [(&str, &[&str]); 11] = [
    ("approvals", &["insert", "update", "delete"]),
    ("cron_ticks", &["insert", "delete"]),
    ("deliveries", &["insert", "update", "delete"]),
    ("delivery_attempts", &["insert", "update", "delete"]),
    ("events", &["insert", "update", "delete"]),
    ("interventions", &["insert", "delete"]),
    ("notifications", &["insert", "update", "delete"]),
    ("signals", &["insert", "update", "delete"]),
    ("worker_processes", &["insert", "update", "delete"]),
    ("workflow_runs", &["insert", "update", "delete"]),
    ("workflow_transitions", &["insert", "delete"]),
];
const READS: [&str; 9] = [
    "preferences",
    "recipients",
    "role_members",
    "schema_versions",
    "settings",
    "templates",
    "workflow_definitions",
    "workflow_steps",
    "workflow_triggers",
];
const CALLS: [&str; 8] = [
    "clock",
    "depth",
    "first_foreign_version",
    "now",
    "schema_version",
    "upsert_recipients",
    "uuid_v7",
    "wake",
];

/// What our role may not do, and a worker does. Tables and functions that are not there are left out. Without the use
/// of the schema itself nothing else is said.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lacking(conn: &mut PgConnection) -> StoreResult<Vec<FlawRow>> {
    let writes = WRITES.iter().flat_map(|&(table, privileges)| {
        let all = std::iter::once("select").chain(privileges.iter().copied());
        all.map(move |privilege| (table, privilege))
    });
    let reads = READS.iter().map(|&table| (table, "select"));
    let calls = CALLS.iter().map(|&function| (function, "execute"));
    let (objects, privileges): (Vec<_>, Vec<_>) = writes.chain(reads).chain(calls).unzip();
    Ok(sqlx::query_as!(
        FlawRow,
        r#"-- doctor::lacking
with wanted as (
    select w.name, w.privilege, n.oid as namespace
    from unnest($1::text[], $2::text[]) as w (name, privilege)
    join pg_catalog.pg_namespace n on n.nspname = 'chimeway' and has_schema_privilege(n.oid, 'usage')
)
select 'usage' as "flaw!", 'the schema' as "object!"
from pg_catalog.pg_namespace where nspname = 'chimeway' and not has_schema_privilege(oid, 'usage')
union all
select w.privilege, w.name
from wanted w
join pg_catalog.pg_class c on c.relnamespace = w.namespace and c.relname = w.name
where case w.privilege
    when 'select' then not has_table_privilege(c.oid, 'select')
    when 'delete' then not has_table_privilege(c.oid, 'delete')
    when 'execute' then false
    else not has_any_column_privilege(c.oid, w.privilege)
end
union all
select distinct w.privilege, w.name || '()'
from wanted w
join pg_catalog.pg_proc p on p.pronamespace = w.namespace and p.proname = w.name
where w.privilege = 'execute' and not has_function_privilege(p.oid, 'execute')
order by 1, 2"#,
        &objects as _,
        &privileges as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A column of a host's that workflows may write, as far as it is there and our role may.
#[derive(Debug, Clone)]
pub struct WritableRow {
    /// The table as it was asked for.
    pub table: String,
    /// The column.
    pub column: String,
    /// Whether there is such a table.
    pub table_exists: bool,
    /// Whether it has the column.
    pub column_exists: bool,
    /// Whether our role may read it.
    pub may_select: bool,
    /// Whether our role may change it.
    pub may_update: bool,
    /// Whether our role may insert rows that have it.
    pub may_insert: bool,
}

/// `columns[i]` of `tables[i]`, in their order. A name without a schema is looked up in the search path.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database), also for what is no name of a table.
pub async fn writable(
    conn: &mut PgConnection,
    tables: &[&str],
    columns: &[&str],
) -> StoreResult<Vec<WritableRow>> {
    Ok(sqlx::query_as!(
        WritableRow,
        r#"-- doctor::writable
select w.name as "table!", w.field as "column!", c.oid is not null as "table_exists!",
    a.attnum is not null as "column_exists!",
    coalesce(has_column_privilege(c.oid, a.attnum, 'select'), false) as "may_select!",
    coalesce(has_column_privilege(c.oid, a.attnum, 'update'), false) as "may_update!",
    coalesce(has_column_privilege(c.oid, a.attnum, 'insert'), false) as "may_insert!"
from unnest($1::text[], $2::text[]) with ordinality as w (name, field, place)
left join pg_catalog.pg_class c on c.oid = to_regclass(w.name) and c.relkind in ('r', 'p')
left join pg_catalog.pg_attribute a
    on a.attrelid = c.oid and a.attname = w.field and a.attnum > 0 and not a.attisdropped
order by w.place"#,
        tables as _,
        columns as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Our switches, and signs of workers.
#[derive(Debug, Clone)]
pub struct SignsRow {
    /// Whether commits that make work send NOTIFY.
    pub notify: bool,
    /// The instant that is taken for now; `None` outside tests.
    pub clock: Option<DateTime<Utc>>,
    /// How many seconds ago a worker did one of the duties of every minute; `None` where none has in a day.
    pub swept_seconds: Option<f64>,
}

/// Reads them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn signs(conn: &mut PgConnection) -> StoreResult<SignsRow> {
    Ok(sqlx::query_as!(
        SignsRow,
        r#"-- doctor::signs
select notify, clock,
    (select extract(epoch from chimeway.clock() - max(ran_at))::float8 from chimeway.cron_ticks) as swept_seconds
from chimeway.settings"#
    )
    .fetch_one(conn)
    .await?)
}
