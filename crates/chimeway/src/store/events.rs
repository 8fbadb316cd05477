//! Triggers and their notifications.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, types::Json};

use super::{StoreResult, due::Floor, json::Kept};
use crate::ids::{DefinitionId, EventId, NotificationId};

/// A trigger to store.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// Whose it is.
    pub tenant: String,
    /// Which workflow.
    pub workflow: String,
    /// The version that is the latest now.
    pub definition: DefinitionId,
    /// What the host gave.
    pub params: Value,
    /// Who is notified, where a worker is to make the runs.
    pub recipients: Option<Value>,
    /// The host's own id.
    pub correlation_id: Option<String>,
    /// Unique per tenant, where given.
    pub idempotency_key: Option<String>,
    /// Whether a worker is to make the runs.
    pub expand_later: bool,
}

/// Stores triggers at this very instant; returns those that are new, with that instant. One whose
/// idempotency key is known is left out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(
    conn: &mut PgConnection,
    events: &[NewEvent],
) -> StoreResult<Vec<(EventId, DateTime<Utc>)>> {
    let (keyed, plain): (Vec<&NewEvent>, Vec<&NewEvent>) = events
        .iter()
        .partition(|event| event.idempotency_key.is_some());
    let mut stored = insert_keyed(conn, &keyed).await?;
    stored.extend(insert_plain(conn, &plain).await?);
    Ok(stored)
}

/// Stores triggers that have a key, each key once. They are locked in the order of their keys.
async fn insert_keyed(
    conn: &mut PgConnection,
    events: &[&NewEvent],
) -> StoreResult<Vec<(EventId, DateTime<Utc>)>> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    let rows = sqlx::query!(
        r#"-- events::insert_keyed
insert into chimeway.events (
    id, tenant_id, workflow_key, workflow_definition_id, params, recipients, correlation_id,
    idempotency_key, occurred_at, inserted_at, expand_at, depth
)
select u.id, u.tenant_id, u.workflow_key, u.definition_id, u.params, u.recipients, u.correlation_id,
    u.idempotency_key, c.at, c.at, case when u.expand_later then c.at end, c.depth
from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::jsonb[], $6::jsonb[], $7::text[], $8::text[], $9::bool[]
    ) as u (
        id, tenant_id, workflow_key, definition_id, params, recipients, correlation_id,
        idempotency_key, expand_later
    ),
    (select chimeway.clock() as at, chimeway.depth() as depth) c
order by u.tenant_id, u.idempotency_key
on conflict (tenant_id, idempotency_key) where idempotency_key is not null do nothing
returning id as "id: EventId", occurred_at"#,
        &events.iter().map(|event| event.id.0).collect::<Vec<_>>(),
        &events.iter().map(|event| event.tenant.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.workflow.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.definition.0).collect::<Vec<_>>(),
        &events.iter().map(|event| Json(&event.params)).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.recipients.as_ref().map(Json)).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.correlation_id.as_deref()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.idempotency_key.as_deref()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.expand_later).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| (row.id, row.occurred_at));
    Ok(stored.collect())
}

/// Stores triggers that have none: without `on conflict`, for which PostgreSQL looks into every index first.
async fn insert_plain(
    conn: &mut PgConnection,
    events: &[&NewEvent],
) -> StoreResult<Vec<(EventId, DateTime<Utc>)>> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    let rows = sqlx::query!(
        r#"-- events::insert_plain
insert into chimeway.events (
    id, tenant_id, workflow_key, workflow_definition_id, params, recipients, correlation_id,
    occurred_at, inserted_at, expand_at, depth
)
select u.id, u.tenant_id, u.workflow_key, u.definition_id, u.params, u.recipients, u.correlation_id,
    c.at, c.at, case when u.expand_later then c.at end, c.depth
from unnest(
        $1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::jsonb[], $6::jsonb[], $7::text[], $8::bool[]
    ) as u (
        id, tenant_id, workflow_key, definition_id, params, recipients, correlation_id, expand_later
    ),
    (select chimeway.clock() as at, chimeway.depth() as depth) c
returning id as "id: EventId", occurred_at"#,
        &events.iter().map(|event| event.id.0).collect::<Vec<_>>(),
        &events.iter().map(|event| event.tenant.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.workflow.as_str()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.definition.0).collect::<Vec<_>>(),
        &events.iter().map(|event| Json(&event.params)).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.recipients.as_ref().map(Json)).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.correlation_id.as_deref()).collect::<Vec<_>>() as _,
        &events.iter().map(|event| event.expand_later).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| (row.id, row.occurred_at));
    Ok(stored.collect())
}

/// An event that has an idempotency key.
#[derive(Debug, Clone)]
pub struct KnownEvent {
    /// Which event.
    pub id: EventId,
    /// Whose it is.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// Which workflow it started.
    pub workflow: String,
}

/// The events of these idempotency keys, each with its tenant; unknown ones are left out. A statement of
/// its own: it sees what another session committed while this one waited.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn find_by_keys(
    conn: &mut PgConnection,
    keys: &[(&str, &str)],
) -> StoreResult<Vec<KnownEvent>> {
    if keys.is_empty() {
        return Ok(vec![]);
    }
    let (tenants, keys): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
    Ok(sqlx::query_as!(
        KnownEvent,
        r#"-- events::find_by_keys
select e.id as "id: EventId", e.tenant_id as tenant, e.idempotency_key as "key!", e.workflow_key as workflow
from (select distinct * from unnest($1::text[], $2::text[])) as u (tenant_id, idempotency_key)
join chimeway.events e on e.tenant_id = u.tenant_id and e.idempotency_key = u.idempotency_key"#,
        &tenants as _,
        &keys as _,
    )
    .fetch_all(conn)
    .await?)
}

/// An event whose runs are to be made.
#[derive(Debug, Clone)]
pub struct DueEvent {
    /// Which event.
    pub id: EventId,
    /// Whose it is.
    pub tenant: String,
    /// The version its runs follow.
    pub definition: DefinitionId,
    /// The instant of the trigger.
    pub occurred_at: DateTime<Utc>,
    /// How many recipients have their run.
    pub expanded: i32,
    /// How many there are; one for a record.
    pub total: i32,
    /// The database's now, when it was locked.
    pub now: DateTime<Utc>,
    /// Whether a record's state changed: its run is for that record.
    pub of_record: bool,
    /// Since when it is due.
    pub due_at: DateTime<Utc>,
    /// Tries with which worker processes died.
    pub crashes: i32,
}

/// Locks up to `limit` events whose runs are to be made, oldest first, among some where those are
/// given.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_due(
    conn: &mut PgConnection,
    among: Option<&[EventId]>,
    floor: Floor,
    limit: i64,
) -> StoreResult<Vec<DueEvent>> {
    Ok(sqlx::query_as!(
        DueEvent,
        r#"-- events::lock_due
select id as "id: EventId", tenant_id as tenant,
    workflow_definition_id as "definition: DefinitionId", occurred_at, expanded_count as expanded,
    coalesce(jsonb_array_length(recipients), 1) as "total!", (select chimeway.now()) as "now!",
    entity is not null as "of_record!", expand_at as "due_at!", crashes
from chimeway.events
where expand_at is not null and expand_at >= coalesce($3, timestamptz '-infinity')
    and expand_at <= (select chimeway.now())
    and ($2::uuid[] is null or id = any($2))
order by expand_at, id
limit $1
for no key update skip locked"#,
        limit,
        among as _,
        floor,
    )
    .fetch_all(conn)
    .await?)
}

/// What a trigger gave.
#[derive(Debug, Clone)]
pub struct Given {
    /// Which event.
    pub event: EventId,
    /// What the host gave, or the record.
    pub params: Kept,
    /// What kind of record changed its state; `None`: it was triggered by name.
    pub entity: Option<String>,
    /// Which record.
    pub record_id: Option<String>,
    /// Which field of it.
    pub field: Option<String>,
    /// The state before.
    pub from: Option<String>,
    /// The state after.
    pub to: Option<String>,
}

/// What these events' triggers gave.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn given(conn: &mut PgConnection, events: &[EventId]) -> StoreResult<Vec<Given>> {
    if events.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        Given,
        r#"-- events::given
select id as "event: EventId", params as "params: Kept", entity, record_id, field, from_value as "from",
    to_value as "to"
from chimeway.events
where id = any($1)
order by id"#,
        events as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A part of an event: recipients from one place on.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Which event.
    pub event: EventId,
    /// How many recipients come before.
    pub from: i32,
    /// How many to take.
    pub take: i32,
}

/// A recipient of an event.
#[derive(Debug, Clone)]
pub struct RecipientRow {
    /// Of which event.
    pub event: EventId,
    /// Who.
    pub identity: String,
    /// What the recipient is.
    pub kind: Option<String>,
}

/// The recipients of these parts of events.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn recipients(
    conn: &mut PgConnection,
    chunks: &[Chunk],
) -> StoreResult<Vec<RecipientRow>> {
    Ok(sqlx::query_as!(
        RecipientRow,
        r#"-- events::recipients
select e.id as "event: EventId", r.value ->> 'identity' as "identity!", r.value ->> 'type' as "kind"
from unnest($1::uuid[], $2::int[], $3::int[]) as u (event_id, from_count, take)
cross join lateral (
    select e.id, e.recipients, e.params from chimeway.events e where e.id = u.event_id offset 0
) e
-- By place: an array that is unpacked for each part of it costs its length once more each time.
cross join lateral jsonb_path_query(
    coalesce(e.recipients, jsonb_build_array(jsonb_build_object('identity', e.params -> 'actor_id'))),
    '$[$first to $last]',
    jsonb_build_object('first', u.from_count, 'last', u.from_count + u.take - 1)
) with ordinality as r (value, place)
order by e.id, r.place"#,
        &chunks.iter().map(|chunk| chunk.event.0).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.from).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.take).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?)
}

/// Notes how far these events have come; those that are through are due no more. The others are due again now, behind
/// all that are due already: an event with very many recipients does not hold up those of others.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn advance(conn: &mut PgConnection, chunks: &[Chunk]) -> StoreResult<()> {
    if chunks.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- events::advance
update chimeway.events e
set expanded_count = u.from_count + u.take,
    expand_at = case
        when u.from_count + u.take < coalesce(jsonb_array_length(e.recipients), 1) then (select chimeway.now())
    end
from unnest($1::uuid[], $2::int[], $3::int[]) as u (event_id, from_count, take)
where e.id = u.event_id"#,
        &chunks.iter().map(|chunk| chunk.event.0).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.from).collect::<Vec<_>>(),
        &chunks.iter().map(|chunk| chunk.take).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts a failed try to make these events' runs; the third one sets an event aside. Returns how
/// many were set aside.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn fail(conn: &mut PgConnection, events: &[EventId], reason: &str) -> StoreResult<usize> {
    if events.is_empty() {
        return Ok(0);
    }
    let set_aside = sqlx::query_scalar!(
        r#"-- events::fail
update chimeway.events
set tries = tries + 1,
    expand_at = case when tries < 2 then chimeway.now() + interval '1 second' * (tries + 1) end,
    quarantine_reason = case when tries < 2 then null else $2 end
where id = any($1)
returning tries = 3 as "aside!""#,
        events as _,
        reason,
    )
    .fetch_all(conn)
    .await?;
    Ok(set_aside.into_iter().filter(|aside| *aside).count())
}

/// A notification to make.
#[derive(Debug, Clone)]
pub struct NewNotification {
    /// Its id.
    pub id: NotificationId,
    /// Of which event.
    pub event: EventId,
    /// Whose it is.
    pub tenant: String,
    /// Who is notified.
    pub recipient: String,
    /// What the recipient is.
    pub kind: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
}

/// Makes notifications of events that have none of these recipients yet, each named once.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database); a repeated (event, recipient) is one.
pub async fn insert_notifications(
    conn: &mut PgConnection,
    notifications: &[NewNotification],
) -> StoreResult<()> {
    if notifications.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- events::insert_notifications
insert into chimeway.notifications (id, event_id, tenant_id, recipient, recipient_type, inserted_at)
select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])"#,
        &notifications.iter().map(|one| one.id.0).collect::<Vec<_>>(),
        &notifications.iter().map(|one| one.event.0).collect::<Vec<_>>(),
        &notifications.iter().map(|one| one.tenant.as_str()).collect::<Vec<_>>() as _,
        &notifications.iter().map(|one| one.recipient.as_str()).collect::<Vec<_>>() as _,
        &notifications.iter().map(|one| one.kind.as_deref()).collect::<Vec<_>>() as _,
        &notifications.iter().map(|one| one.at).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes the notifications that are not there yet; returns those that are new.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert_missing_notifications(
    conn: &mut PgConnection,
    notifications: &[NewNotification],
) -> StoreResult<Vec<NotificationId>> {
    if notifications.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- events::insert_missing_notifications
insert into chimeway.notifications (id, event_id, tenant_id, recipient, recipient_type, inserted_at)
select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
on conflict (event_id, recipient) do nothing
returning id as "id: NotificationId""#,
        &notifications.iter().map(|one| one.id.0).collect::<Vec<_>>(),
        &notifications
            .iter()
            .map(|one| one.event.0)
            .collect::<Vec<_>>(),
        &notifications
            .iter()
            .map(|one| one.tenant.as_str())
            .collect::<Vec<_>>() as _,
        &notifications
            .iter()
            .map(|one| one.recipient.as_str())
            .collect::<Vec<_>>() as _,
        &notifications
            .iter()
            .map(|one| one.kind.as_deref())
            .collect::<Vec<_>>() as _,
        &notifications.iter().map(|one| one.at).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?)
}

/// A notification as it is stored.
#[derive(Debug, Clone)]
pub struct NotificationRow {
    /// Which notification.
    pub id: NotificationId,
    /// Whose it is.
    pub tenant: String,
    /// Who is notified.
    pub recipient: String,
    /// Of which event.
    pub event: EventId,
}

/// Locks one tenant's notifications, waiting for sessions that hold them: for a caller's own
/// transaction. Another tenant's are neither locked nor waited for.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn lock_notifications(
    conn: &mut PgConnection,
    tenant: &str,
    notifications: &[NotificationId],
) -> StoreResult<Vec<NotificationRow>> {
    Ok(sqlx::query_as!(
        NotificationRow,
        r#"-- events::lock_notifications
select id as "id: NotificationId", tenant_id as tenant, recipient, event_id as "event: EventId"
from chimeway.notifications
where id = any($2) and tenant_id = $1
order by id
for no key update"#,
        tenant,
        notifications as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Those of these notifications that are there, whosever they are.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn known_notifications(
    conn: &mut PgConnection,
    notifications: &[NotificationId],
) -> StoreResult<Vec<NotificationId>> {
    Ok(sqlx::query_scalar!(
        r#"-- events::known_notifications
select id as "id: NotificationId" from chimeway.notifications where id = any($1)"#,
        notifications as _,
    )
    .fetch_all(conn)
    .await?)
}
