//! One recipient's inbox: the notifications whose in-app message was delivered.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreResult;
use crate::ids::{EventId, NotificationId, RunId};

/// An item of an inbox.
#[derive(Debug, Clone, serde::Serialize)]
pub struct InboxItem {
    /// Which notification.
    pub id: NotificationId,
    /// The trigger.
    pub event_id: EventId,
    /// The run, which retention may have taken before the item.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow: String,
    /// The content's name, of its newest in-app message.
    pub render_key: Option<String>,
    /// What the host gave: the content's data.
    pub params: Value,
    /// When it was made.
    pub inserted_at: DateTime<Utc>,
    /// When it was listed before the recipient's eyes.
    pub seen_at: Option<DateTime<Utc>>,
    /// When it was opened.
    pub read_at: Option<DateTime<Utc>>,
    /// When it was put away.
    pub archived_at: Option<DateTime<Utc>>,
}

/// One recipient's items, newest first, before an item where that is given; archived ones only where
/// asked for.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(
    conn: &mut PgConnection,
    tenant: &str,
    recipient: &str,
    archived: bool,
    before: Option<NotificationId>,
    limit: i64,
) -> StoreResult<Vec<InboxItem>> {
    Ok(sqlx::query_as!(
        InboxItem,
        r#"-- inbox::list
select
    n.id as "id: NotificationId", n.event_id as "event_id: EventId", m.run_id as "run_id!: RunId",
    e.workflow_key as workflow,
    coalesce(s.config -> 'action' ->> 'render_key', s.step_key) as render_key, e.params,
    n.inserted_at, n.seen_at, n.read_at, n.archived_at
from chimeway.notifications n
join chimeway.events e on e.id = n.event_id
cross join lateral (
    -- An item may outlive its run.
    select n.kept_run_id as run_id, n.kept_step_id as workflow_step_id where n.kept_run_id is not null
    union all
    (
        select r.id, d.workflow_step_id
        from chimeway.workflow_runs r
        join chimeway.deliveries d on d.workflow_run_id = r.id
        where r.notification_id = n.id and d.channel = 'in_app' and d.status = 'succeeded'
        order by d.visit desc
        limit 1
    )
) m
left join chimeway.workflow_steps s on s.id = m.workflow_step_id
where n.tenant_id = $1 and n.recipient = $2
    and ($3 or n.archived_at is null)
    and ($4::uuid is null or n.id < $4)
order by n.id desc
limit $5"#,
        tenant,
        recipient,
        archived,
        before.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await?)
}

/// How many of one recipient's items are unread; archived ones count only where asked for.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn unread_count(
    conn: &mut PgConnection,
    tenant: &str,
    recipient: &str,
    archived: bool,
) -> StoreResult<i64> {
    Ok(sqlx::query_scalar!(
        r#"-- inbox::unread_count
select count(*) as "count!"
from chimeway.notifications n
where n.tenant_id = $1 and n.recipient = $2 and n.read_at is null
    and ($3 or n.archived_at is null)
    and (n.kept_run_id is not null or exists (
        select from chimeway.workflow_runs r
        join chimeway.deliveries d on d.workflow_run_id = r.id
        where r.notification_id = n.id and d.channel = 'in_app' and d.status = 'succeeded'
    ))"#,
        tenant,
        recipient,
        archived,
    )
    .fetch_one(conn)
    .await?)
}

/// What a recipient did with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It was listed before their eyes.
    Seen,
    /// They opened it.
    Read,
    /// They put it away.
    Archived,
}

/// An item that changed, or that was so before.
#[derive(Debug, Clone, Copy)]
pub struct Marked {
    /// Which notification.
    pub id: NotificationId,
    /// Whether this call changed it; false where it was marked so before.
    pub changed: bool,
}

/// Marks one recipient's items; returns those that are theirs. A second mark keeps the first instant.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn mark(
    conn: &mut PgConnection,
    tenant: &str,
    recipient: &str,
    items: &[NotificationId],
    mark: Mark,
) -> StoreResult<Vec<Marked>> {
    Ok(sqlx::query_as!(
        Marked,
        r#"-- inbox::mark
with theirs as materialized (
    select id,
        case $4 when 'seen' then seen_at when 'read' then read_at else archived_at end is null as changed
    from chimeway.notifications
    where id = any($3) and tenant_id = $1 and recipient = $2
    order by id
    for no key update
), written as (
    update chimeway.notifications n
    set seen_at = case $4 when 'seen' then chimeway.clock() else n.seen_at end,
        read_at = case $4 when 'read' then chimeway.clock() else n.read_at end,
        archived_at = case $4 when 'archived' then chimeway.clock() else n.archived_at end
    from theirs
    where n.id = theirs.id and theirs.changed
)
select id as "id: NotificationId", changed as "changed!" from theirs order by id"#,
        tenant,
        recipient,
        items as _,
        match mark {
            Mark::Seen => "seen",
            Mark::Read => "read",
            Mark::Archived => "archived",
        },
    )
    .fetch_all(conn)
    .await?)
}
