//! The host application of the demo: its own table, and the SQL functions that any language can call.
//!
//! This is the one place outside the library's store that holds SQL. It does what a host does, and
//! reads the tables that hosts may read.

use chimeway::ids::EventId;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::error::CliError;

/// Whose data the demo's is.
pub(super) const TENANT: &str = "demo";

/// Someone who is mentioned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) email: &'static str,
}

pub(super) const ADA: Person = Person {
    name: "ada",
    email: "ada@example.com",
};
pub(super) const GRACE: Person = Person {
    name: "grace",
    email: "grace@example.com",
};
/// Her mention is rolled back.
pub(super) const MARY: Person = Person {
    name: "mary",
    email: "mary@example.com",
};

/// A row of the host's, and the event that was triggered with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mention {
    pub(super) row: i64,
    pub(super) event: EventId,
}

/// Whether a transaction is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
}

/// Makes the host's own table.
pub(super) async fn create_table(conn: &mut PgConnection) -> Result<(), CliError> {
    sqlx::query(
        "create table if not exists public.demo_mentions (
    id bigint generated always as identity primary key,
    document text not null,
    person text not null,
    mentioned_at timestamptz not null default now()
)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes a mention and triggers the workflow in one transaction: both stay or neither does.
pub(super) async fn mention(
    conn: &mut PgConnection,
    workflow: &str,
    person: Person,
    end: End,
) -> Result<Mention, CliError> {
    let mut tx = conn.begin().await?;
    let row = sqlx::query_scalar(
        "insert into public.demo_mentions (document, person) values ($1, $2) returning id",
    )
    .bind(DOCUMENT)
    .bind(person.name)
    .fetch_one(&mut *tx)
    .await?;
    let event: Uuid = sqlx::query_scalar(
        "select chimeway.trigger(workflow => $1, params => $2, tenant_id => $3, recipients => $4)",
    )
    .bind(workflow)
    .bind(json!({ "document": DOCUMENT }))
    .bind(TENANT)
    .bind(json!([{ "identity": person.name, "addresses": { "email": person.email } }]))
    .fetch_one(&mut *tx)
    .await?;
    match end {
        End::Commit => tx.commit().await?,
        End::Rollback => tx.rollback().await?,
    }
    Ok(Mention {
        row,
        event: EventId(event),
    })
}

const DOCUMENT: &str = "Q3 plan";

/// What [`mention`] sends, with its values filled in.
pub(super) fn shown(workflow: &str, person: Person) -> String {
    let Person { name, email } = person;
    format!(
        r#"begin;
insert into demo_mentions (document, person) values ('{DOCUMENT}', '{name}');
select chimeway.trigger(workflow => '{workflow}', tenant_id => '{TENANT}',
    params => '{{"document": "{DOCUMENT}"}}',
    recipients => '[{{"identity": "{name}", "addresses": {{"email": "{email}"}}}}]');
commit;"#
    )
}

/// Whether anything is left of a mention.
pub(super) async fn left_something(
    conn: &mut PgConnection,
    mention: Mention,
) -> Result<bool, CliError> {
    Ok(sqlx::query_scalar(
        "select exists (select from public.demo_mentions where id = $1)
    or exists (select from chimeway.events where id = $2)
    or exists (select from chimeway.notifications where event_id = $2)",
    )
    .bind(mention.row)
    .bind(mention.event.0)
    .fetch_one(conn)
    .await?)
}

/// Something that happened to a person's run: a line of its history, or a try to send.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Moment {
    /// Which run or delivery, and its place there: unlike every other moment's.
    pub(super) source: Uuid,
    pub(super) place: i32,
    /// Whether it is a try.
    pub(super) is_try: bool,
    pub(super) person: String,
    pub(super) at: DateTime<Utc>,
    /// The reason of a line, the outcome of a try.
    pub(super) word: String,
    pub(super) channel: Option<String>,
    /// The adapter that was called.
    pub(super) adapter: Option<String>,
    pub(super) facts: Value,
}

/// All that happened to the runs of these events, in order.
pub(super) async fn moments(
    conn: &mut PgConnection,
    events: &[Uuid],
) -> Result<Vec<Moment>, CliError> {
    Ok(sqlx::query_as(
        "with runs as (
    select r.id, r.actor_id
    from chimeway.workflow_runs r
    join chimeway.notifications n on n.id = r.notification_id
    where n.event_id = any($1)
)
select t.workflow_run_id as source, t.sequence as place, false as is_try, r.actor_id as person,
    t.inserted_at as at, t.reason as word, s.channel, null as adapter, t.context as facts
from runs r
join chimeway.workflow_transitions t on t.workflow_run_id = r.id
left join chimeway.workflow_steps s on s.id = t.workflow_step_id
union all
-- What a try led to is recorded with it, and comes after it.
select a.delivery_id, a.attempt_number, true, r.actor_id,
    least(a.finished_at, (
        select min(t.inserted_at) from chimeway.workflow_transitions t
        where t.workflow_run_id = r.id and t.delivery_id = a.delivery_id
    )),
    a.outcome, d.channel, a.adapter, '{}'
from runs r
join chimeway.deliveries d on d.workflow_run_id = r.id
join chimeway.delivery_attempts a on a.delivery_id = d.id
order by at, is_try desc, source, place",
    )
    .bind(events)
    .fetch_all(conn)
    .await?)
}
