//! Workflows over all their versions, as those who keep them see them: made, replaced, retired.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreResult;
use crate::ids::WorkflowId;

/// A workflow with its latest version.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredWorkflow {
    /// Which workflow, over all its versions.
    pub id: WorkflowId,
    /// What it is called.
    pub key: String,
    /// Its latest version: what a trigger starts.
    pub version: i32,
    /// Whether triggers start runs.
    pub active: bool,
    /// The latest version's document, in canonical form.
    pub document: Value,
    /// When its first version was stored.
    pub created_at: DateTime<Utc>,
    /// When it was last paused, resumed or replaced.
    pub updated_at: DateTime<Utc>,
}

/// The workflows in use, by key: all of them, or those of an id or key of these. Retired ones are left out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn in_use(
    conn: &mut PgConnection,
    named: Option<(&[WorkflowId], &[&str])>,
) -> StoreResult<Vec<StoredWorkflow>> {
    let (ids, keys) = named.unwrap_or_default();
    Ok(sqlx::query_as!(
        StoredWorkflow,
        r#"-- workflow_rows::in_use
select w.id as "id: WorkflowId", w.workflow_key as key, d.workflow_version as version, w.active, d.document,
    w.created_at, w.updated_at
from chimeway.workflows w
cross join lateral (
    select * from chimeway.workflow_definitions d
    where d.workflow_key = w.workflow_key
    order by d.workflow_version desc
    limit 1
) d
where w.retired_at is null and ($1 or w.id = any($2) or w.workflow_key = any($3))
order by w.workflow_key"#,
        named.is_none(),
        ids as _,
        keys as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Makes workflows of these ids and keys, or brings retired ones of these keys back; those that are in use
/// already are left alone. Returns the keys of those it made: of two sessions that make the same one, one did.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn make(
    conn: &mut PgConnection,
    new: &[(WorkflowId, &str)],
    active: bool,
) -> StoreResult<Vec<String>> {
    Ok(sqlx::query_scalar!(
        r#"-- workflow_rows::make
insert into chimeway.workflows as w (id, workflow_key, active, created_at, updated_at)
select u.id, u.key, $3, chimeway.now(), chimeway.now()
from unnest($1::uuid[], $2::text[]) as u (id, key)
order by u.key
on conflict (workflow_key) do update
set active = excluded.active, updated_at = excluded.updated_at, retired_at = null
where w.retired_at is not null
returning workflow_key"#,
        &new.iter().map(|(id, _)| id.0).collect::<Vec<_>>(),
        &new.iter().map(|(_, key)| *key).collect::<Vec<_>>() as _,
        active,
    )
    .fetch_all(conn)
    .await?)
}

/// Marks workflows in use as changed now, and pauses or resumes them where that is asked for; returns those
/// that there are. They are held to the end of the transaction, so that what follows is not retired meanwhile.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn change(
    conn: &mut PgConnection,
    ids: &[WorkflowId],
    active: Option<bool>,
) -> StoreResult<Vec<WorkflowId>> {
    Ok(sqlx::query_scalar!(
        r#"-- workflow_rows::change
update chimeway.workflows
set updated_at = chimeway.now(), active = coalesce($2, active)
where id = any($1) and retired_at is null
returning id as "id: WorkflowId""#,
        ids as _,
        active,
    )
    .fetch_all(conn)
    .await?)
}

/// Retires workflows in use: triggers start no runs of them, and they are listed no more. Their versions stay,
/// and so do their runs, which go on. Returns those that it retired.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn retire(conn: &mut PgConnection, ids: &[WorkflowId]) -> StoreResult<Vec<WorkflowId>> {
    Ok(sqlx::query_scalar!(
        r#"-- workflow_rows::retire
update chimeway.workflows
set active = false, retired_at = chimeway.now(), updated_at = chimeway.now()
where id = any($1) and retired_at is null
returning id as "id: WorkflowId""#,
        ids as _,
    )
    .fetch_all(conn)
    .await?)
}
