//! Rows of a host's own tables, as far as the settings of a worker allow it to write them.
//!
//! The one place where a statement is made of a text: no other way names a table that is known only when
//! the program runs. Every name in it comes quoted from the catalogue, every value is a parameter.

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::StoreResult;

/// A table as the catalogue has it.
#[derive(Debug, Clone)]
pub struct HostTable {
    /// Schema and name, quoted.
    relation: String,
    columns: Vec<HostColumn>,
}

/// One column of it.
#[derive(Debug, Clone)]
struct HostColumn {
    name: String,
    quoted: String,
    /// Schema and name, quoted.
    kind: String,
    is_json: bool,
}

impl HostTable {
    /// Whether it has a column of that name, among those that were asked for.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.column(column).is_some()
    }

    fn column(&self, name: &str) -> Option<&HostColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A table and those of its columns that are named; `None` where the connection knows no such table. The
/// name is looked up in its search path, unless it has a schema.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database), also for what is no name of a table.
pub async fn look(
    conn: &mut PgConnection,
    table: &str,
    columns: &[&str],
) -> StoreResult<Option<HostTable>> {
    let rows = sqlx::query!(
        r#"-- host_rows::look
select format('%I.%I', n.nspname, c.relname) as "relation!", a.attname::text as "name?",
    quote_ident(a.attname) as "quoted?", format('%I.%I', tn.nspname, t.typname) as "kind?",
    coalesce(t.oid in ('json'::regtype, 'jsonb'::regtype), false) as "is_json!"
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attname = any($2)
left join pg_type t on t.oid = a.atttypid
left join pg_namespace tn on tn.oid = t.typnamespace
where c.oid = to_regclass($1) and c.relkind in ('r', 'p')"#,
        table,
        columns as _,
    )
    .fetch_all(conn)
    .await?;
    let relation = rows.first().map(|row| row.relation.clone());
    let columns = rows.into_iter().filter_map(|row| {
        Some(HostColumn {
            name: row.name?,
            quoted: row.quoted?,
            kind: row.kind?,
            is_json: row.is_json,
        })
    });
    let columns = columns.collect();
    Ok(relation.map(|relation| HostTable { relation, columns }))
}

/// A statement and its parameters while it is made.
#[derive(Default)]
struct Statement {
    parameters: Vec<Option<String>>,
}

impl Statement {
    /// The place of a value, read as the type of its column.
    fn value(&mut self, column: &HostColumn, value: &Value) -> String {
        self.parameters.push(text(column, value));
        format!("($1[{}])::{}", self.parameters.len(), column.kind)
    }

    /// `column = value`
    fn equals(&mut self, column: &HostColumn, value: &str) -> String {
        let value = self.value(column, &Value::from(value));
        format!("{} = {value}", column.quoted)
    }
}

/// A value as PostgreSQL reads it.
fn text(column: &HostColumn, value: &Value) -> Option<String> {
    match value {
        value if column.is_json => Some(value.to_string()),
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

fn quoted_or_null(column: Option<&HostColumn>) -> String {
    column.map_or_else(|| "null".to_owned(), |column| column.quoted.clone())
}

fn row_of(names: &[&str], places: &[String]) -> String {
    match names {
        [] => "default values".to_owned(),
        names => format!("({}) values ({})", names.join(", "), places.join(", ")),
    }
}

/// Writes one field of one row; how many rows there were to write. The tenant is part of the condition
/// where it is given and the table has that column.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database): the value is not of the column's type, the
/// table's constraints or triggers refuse it, another session holds the row.
pub async fn set_field(
    conn: &mut PgConnection,
    table: &HostTable,
    (key, record): (&str, &str),
    (tenant_column, tenant): (&str, &str),
    (field, value): (&str, &Value),
) -> StoreResult<Option<u64>> {
    let (Some(key), Some(field)) = (table.column(key), table.column(field)) else {
        return Ok(None);
    };
    let mut statement = Statement::default();
    let relation = &table.relation;
    let value = statement.value(field, value);
    let mut conditions = vec![statement.equals(key, record)];
    if let Some(column) = table.column(tenant_column) {
        conditions.push(statement.equals(column, tenant));
    }
    let conditions = conditions.join(" and ");
    let assigned = format!("{} = {value}", field.quoted);
    let done = sqlx::query(AssertSqlSafe(format!(
        r#"-- host_rows::set_field
update {relation} set {assigned} where {conditions}"#
    )))
    .bind(statement.parameters)
    .persistent(false)
    .execute(conn)
    .await?;
    Ok(Some(done.rows_affected()))
}

/// Inserts one row; its key as text, where the table has that column. The tenant's column holds the
/// tenant, where the table has one. `None` where the table lacks a column that is given.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database): as [`set_field`].
pub async fn insert(
    conn: &mut PgConnection,
    table: &HostTable,
    key: &str,
    (tenant_column, tenant): (&str, &str),
    values: &[(&str, &Value)],
) -> StoreResult<Option<Option<String>>> {
    let mut statement = Statement::default();
    let (mut names, mut places) = (vec![], vec![]);
    let tenant = Value::from(tenant);
    let of_tenant = table.has(tenant_column).then_some((tenant_column, &tenant));
    for (name, value) in of_tenant.into_iter().chain(values.iter().copied()) {
        let Some(column) = table.column(name) else {
            return Ok(None);
        };
        names.push(column.quoted.as_str());
        places.push(statement.value(column, value));
    }
    let key = quoted_or_null(table.column(key));
    let relation = &table.relation;
    let row = row_of(&names, &places);
    let inserted = sqlx::query(AssertSqlSafe(format!(
        r#"-- host_rows::insert
insert into {relation} {row} returning ({key})::text"#
    )))
    .bind(statement.parameters)
    .persistent(false)
    .fetch_one(conn)
    .await?;
    Ok(Some(inserted.try_get(0)?))
}
