//! State changes of hosts' records, and the workflows that listen to them.

use serde_json::Value;
use sqlx::PgConnection;

use super::StoreResult;
use crate::ids::{DefinitionId, EventId};

/// What the latest version of a workflow listens to.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Which workflow.
    pub workflow: String,
    /// Which version.
    pub version: i32,
    /// The row of that version.
    pub definition: DefinitionId,
    /// The kind of record; `None`: it listens to none.
    pub entity: Option<String>,
    /// The field; `None`: any.
    pub field: Option<String>,
    /// The state before, as text; `None`: any.
    pub from: Option<String>,
    /// The state after, as text; `None`: any.
    pub to: Option<String>,
}

/// Notes what workflows listen to, each by its latest version: an older one that comes later changes
/// nothing.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn listen(conn: &mut PgConnection, listeners: &[Listener]) -> StoreResult<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let optional = |of: fn(&Listener) -> &Option<String>| {
        let all = listeners.iter().map(|one| of(one).clone());
        all.collect::<Vec<_>>()
    };
    sqlx::query!(
        r#"-- state_changes::listen
insert into chimeway.workflow_triggers as known
    (workflow_key, workflow_version, workflow_definition_id, entity, field, from_value, to_value)
select * from unnest($1::text[], $2::int[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[])
on conflict (workflow_key) do update
set workflow_version = excluded.workflow_version, workflow_definition_id = excluded.workflow_definition_id,
    entity = excluded.entity, field = excluded.field, from_value = excluded.from_value,
    to_value = excluded.to_value
where known.workflow_version < excluded.workflow_version"#,
        &listeners.iter().map(|one| one.workflow.clone()).collect::<Vec<_>>(),
        &listeners.iter().map(|one| one.version).collect::<Vec<_>>(),
        &listeners.iter().map(|one| one.definition.0).collect::<Vec<_>>(),
        &optional(|one| &one.entity) as _,
        &optional(|one| &one.field) as _,
        &optional(|one| &one.from) as _,
        &optional(|one| &one.to) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A state change to store.
#[derive(Debug, Clone)]
pub struct NewStateChange {
    /// Whose record.
    pub tenant: String,
    /// What kind of record.
    pub entity: String,
    /// Which record.
    pub record_id: String,
    /// Which field of it.
    pub field: String,
    /// The state before, as text.
    pub from: Option<String>,
    /// The state after, as text.
    pub to: Option<String>,
    /// The record after it; a JSON object.
    pub record: Value,
}

/// Stores an event for each active workflow that listens, as deep in a chain of workflows as this
/// transaction writes; each with the place of its state change in the slice.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(
    conn: &mut PgConnection,
    changes: &[NewStateChange],
) -> StoreResult<Vec<(usize, EventId)>> {
    if changes.is_empty() {
        return Ok(vec![]);
    }
    let text = |of: fn(&NewStateChange) -> &String| {
        let all = changes.iter().map(|one| of(one).clone());
        all.collect::<Vec<_>>()
    };
    let rows = sqlx::query!(
        r#"-- state_changes::insert
select u.place as "place!", s.id as "id!: EventId"
from unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[]
    ) with ordinality as u (tenant_id, entity, record_id, field, from_value, to_value, record, place)
cross join lateral chimeway.store_state_change(
    u.tenant_id, u.entity, u.record_id, u.field, u.from_value, u.to_value, u.record, chimeway.depth()
) as s (id)
order by u.place"#,
        &text(|one| &one.tenant),
        &text(|one| &one.entity),
        &text(|one| &one.record_id),
        &text(|one| &one.field),
        &changes.iter().map(|one| one.from.clone()).collect::<Vec<_>>() as _,
        &changes.iter().map(|one| one.to.clone()).collect::<Vec<_>>() as _,
        &changes.iter().map(|one| one.record.clone()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let place = |place: i64| usize::try_from(place - 1).unwrap_or(0);
    Ok(rows
        .into_iter()
        .map(|row| (place(row.place), row.id))
        .collect())
}
