//! Workflows and their immutable versions.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreResult, json::Kept};
use crate::ids::{DefinitionId, StepId};

/// The latest version of a workflow.
#[derive(Debug, Clone)]
pub struct Latest {
    /// Which workflow.
    pub key: String,
    /// Whether triggers start runs.
    pub active: bool,
    /// Its latest version's row.
    pub definition: DefinitionId,
    /// Its latest version.
    pub version: i32,
    /// What that version holds.
    pub hash: String,
}

/// The latest versions of these workflows; unknown ones are left out. Never cached: another session
/// may apply or pause at any time.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn latest(conn: &mut PgConnection, keys: &[&str]) -> StoreResult<Vec<Latest>> {
    Ok(sqlx::query_as!(
        Latest,
        r#"-- workflows::latest
select w.workflow_key as key, w.active, d.id as "definition: DefinitionId",
    d.workflow_version as version, d.content_hash as hash
from (
    -- All of them, and a plan that is made once: see `deliveries::plan`.
    select distinct key from unnest($1::text[]) as asked (key) limit cardinality($1::text[])
) asked
join chimeway.workflows w on w.workflow_key = asked.key
cross join lateral (
    select * from chimeway.workflow_definitions d
    where d.workflow_key = w.workflow_key
    order by d.workflow_version desc
    limit 1
) d
order by w.workflow_key"#,
        keys as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A stored definition.
#[derive(Debug, Clone)]
pub struct DefinitionRow {
    /// Its row.
    pub id: DefinitionId,
    /// Which workflow.
    pub key: String,
    /// Which version.
    pub version: i32,
    /// The canonical document.
    pub document: Value,
    /// Its hash.
    pub hash: String,
    /// The rows of its steps, in order.
    pub step_ids: Vec<Uuid>,
    /// The channels its steps name.
    pub channels: Vec<String>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}

/// Definitions by id; unknown ones are left out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn load(
    conn: &mut PgConnection,
    ids: &[DefinitionId],
) -> StoreResult<Vec<DefinitionRow>> {
    if ids.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        DefinitionRow,
        r#"-- workflows::load
select d.id as "id: DefinitionId", d.workflow_key as key, d.workflow_version as version, d.document,
    d.content_hash as hash, d.created_at,
    coalesce(array_agg(s.id order by s.step_order) filter (where s.id is not null), '{}') as "step_ids!",
    coalesce(array_agg(s.channel) filter (where s.channel is not null), '{}') as "channels!"
from chimeway.workflow_definitions d
left join chimeway.workflow_steps s on s.workflow_definition_id = d.id
where d.id = any($1)
group by d.id
order by d.id"#,
        ids as _,
    )
    .fetch_all(conn)
    .await?)
}

/// What a worker follows a definition by.
#[derive(Debug, Clone)]
pub struct PlanRow {
    /// Its row.
    pub id: DefinitionId,
    /// Which version.
    pub version: i32,
    /// The canonical document.
    pub document: Kept,
    /// The rows of its steps, in order.
    pub step_ids: Vec<Uuid>,
    /// Whether it was stored before this transaction began, and so is not this transaction's own: only
    /// then may it be cached, for a rollback would take it back.
    pub committed: bool,
}

/// Plans by id; unknown ones are left out, and one that cannot be read is there, so that it fails alone.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn plans(conn: &mut PgConnection, ids: &[DefinitionId]) -> StoreResult<Vec<PlanRow>> {
    if ids.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        PlanRow,
        r#"-- workflows::plans
select d.id as "id: DefinitionId", d.workflow_version as version, d.document as "document: Kept",
    d.stored_at < transaction_timestamp() as "committed!",
    array(
        select s.id from chimeway.workflow_steps s where s.workflow_definition_id = d.id order by s.step_order
    ) as "step_ids!"
from chimeway.workflow_definitions d
where d.id = any($1)"#,
        ids as _,
    )
    .fetch_all(conn)
    .await?)
}

/// The row of one version, or of the latest one.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn find(
    conn: &mut PgConnection,
    key: &str,
    version: Option<i32>,
) -> StoreResult<Option<DefinitionId>> {
    Ok(sqlx::query_scalar!(
        r#"-- workflows::find
select id as "id: DefinitionId"
from chimeway.workflow_definitions
where workflow_key = $1 and ($2::int is null or workflow_version = $2)
order by workflow_version desc
limit 1"#,
        key,
        version,
    )
    .fetch_optional(conn)
    .await?)
}

/// A step to store.
#[derive(Debug, Clone)]
pub struct NewStep {
    /// Its row.
    pub id: StepId,
    /// What it is called.
    pub key: String,
    /// notify, wait, condition, approval, action, or a host's own.
    pub kind: String,
    /// The channel of a notify step.
    pub channel: Option<String>,
    /// The step as it stands in the document.
    pub config: Value,
}

/// A definition to store.
#[derive(Debug, Clone)]
pub struct NewDefinition {
    /// Its row.
    pub id: DefinitionId,
    /// The workflow's row, should this be its first version.
    pub workflow: Uuid,
    /// Which workflow.
    pub key: String,
    /// Which version.
    pub version: i32,
    /// The canonical document.
    pub document: Value,
    /// Its hash.
    pub hash: String,
    /// In order.
    pub steps: Vec<NewStep>,
}

/// Stores a version; false, and nothing written, where another session has stored it meanwhile.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(conn: &mut PgConnection, new: &NewDefinition) -> StoreResult<bool> {
    sqlx::query!(
        r#"-- workflows::insert (workflow)
insert into chimeway.workflows (id, workflow_key, created_at, updated_at)
values ($1, $2, chimeway.now(), chimeway.now())
on conflict (workflow_key) do nothing"#,
        new.workflow,
        new.key,
    )
    .execute(&mut *conn)
    .await?;
    let stored = sqlx::query!(
        r#"-- workflows::insert (definition)
insert into chimeway.workflow_definitions
    (id, workflow_key, workflow_version, document, content_hash, created_at)
values ($1, $2, $3, $4, $5, chimeway.now())
on conflict (workflow_key, workflow_version) do nothing"#,
        new.id.0,
        new.key,
        new.version,
        new.document,
        new.hash,
    )
    .execute(&mut *conn)
    .await?;
    if stored.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        r#"-- workflows::insert (steps)
insert into chimeway.workflow_steps (id, workflow_definition_id, step_key, step_order, kind, channel, config)
select u.id, $1, u.key, u.place, u.kind, u.channel, u.config
from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
    with ordinality as u (id, key, kind, channel, config, place)"#,
        new.id.0,
        &new.steps.iter().map(|step| step.id.0).collect::<Vec<_>>(),
        &new.steps.iter().map(|step| step.key.clone()).collect::<Vec<_>>(),
        &new.steps.iter().map(|step| step.kind.clone()).collect::<Vec<_>>(),
        &new.steps.iter().map(|step| step.channel.clone()).collect::<Vec<_>>() as _,
        &new.steps.iter().map(|step| step.config.clone()).collect::<Vec<_>>(),
    )
    .execute(&mut *conn)
    .await?;
    Ok(true)
}

/// A step as it is stored.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredStep {
    /// Its row.
    pub id: StepId,
    /// Of which definition.
    pub workflow_definition_id: DefinitionId,
    /// What it is called.
    pub step_key: String,
    /// Its place: 1, 2, 3 ...
    pub step_order: i32,
    /// notify, wait, condition, approval, action, or a host's own.
    pub kind: String,
    /// The channel of a notify step.
    pub channel: Option<String>,
    /// The step as it stands in the document.
    pub config: Value,
}

/// The steps of these definitions, in order.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn steps(
    conn: &mut PgConnection,
    definitions: &[DefinitionId],
) -> StoreResult<Vec<StoredStep>> {
    Ok(sqlx::query_as!(
        StoredStep,
        r#"-- workflows::steps
select id as "id: StepId", workflow_definition_id as "workflow_definition_id: DefinitionId", step_key,
    step_order, kind, channel, config
from chimeway.workflow_steps
where workflow_definition_id = any($1)
order by workflow_definition_id, step_order"#,
        definitions as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Pauses or resumes a workflow; false where there is none of that key. One that was retired is in use again
/// once it is resumed.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn set_active(conn: &mut PgConnection, key: &str, active: bool) -> StoreResult<bool> {
    Ok(sqlx::query!(
        r#"-- workflows::set_active
update chimeway.workflows
set active = $2, updated_at = chimeway.now(), retired_at = case when $2 then null else retired_at end
where workflow_key = $1"#,
        key,
        active,
    )
    .execute(conn)
    .await?
    .rows_affected()
        == 1)
}

/// A workflow in a list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WorkflowSummary {
    /// What it is called.
    pub key: String,
    /// Its latest version.
    pub version: i32,
    /// Whether triggers start runs.
    pub active: bool,
    /// When it was retired; `None` where it is in use.
    pub retired_at: Option<DateTime<Utc>>,
    /// How many steps the latest version has.
    pub steps: i64,
    /// When that was stored.
    pub applied_at: DateTime<Utc>,
}

/// All workflows, by key.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(conn: &mut PgConnection) -> StoreResult<Vec<WorkflowSummary>> {
    Ok(sqlx::query_as!(
        WorkflowSummary,
        r#"-- workflows::list
select w.workflow_key as key, d.workflow_version as version, w.active, w.retired_at,
    d.created_at as applied_at, (select count(*) from chimeway.workflow_steps s where s.workflow_definition_id = d.id) as "steps!"
from chimeway.workflows w
cross join lateral (
    select * from chimeway.workflow_definitions d
    where d.workflow_key = w.workflow_key
    order by d.workflow_version desc
    limit 1
) d
order by w.workflow_key"#
    )
    .fetch_all(conn)
    .await?)
}
