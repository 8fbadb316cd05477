//! What no normal way leaves behind: live runs that nothing is going to move. Rows that were changed or
//! lost by hand can be in such a place; the sweep finds them.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreResult;
use crate::ids::{DeliveryId, RunId, Visit};

/// How far a walk over the live runs has come; the default is its beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The tenant of the last run that was looked at.
    pub tenant: String,
    /// Its actor.
    pub actor: String,
    /// The run.
    pub run: Uuid,
}

/// What a stretch of the walk found.
#[derive(Debug, Clone, Default)]
pub struct Stretch {
    /// Live runs that nothing moves: no due instant, no message on its way, no result owed,
    /// no decision that a person is asked for.
    pub stuck: Vec<RunId>,
    /// Where the next stretch begins; `None` at the end.
    pub next: Option<Place>,
}

/// Looks at `length` live runs from a place on, by index, whatever there is of history.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn walk(conn: &mut PgConnection, from: &Place, length: i64) -> StoreResult<Stretch> {
    let rows = sqlx::query!(
        r#"-- healing::walk
with stretch as materialized (
    select id, tenant_id, actor_id, visit,
        wake_at is null and quarantine_reason is null as unmoved
    from chimeway.workflow_runs
    where ended_at is null and (tenant_id, actor_id, id) > ($1, $2, $3)
    order by tenant_id, actor_id, id
    limit $4
), last as (
    select tenant_id, actor_id, id, (select count(*) from stretch) as length
    from stretch
    order by tenant_id desc, actor_id desc, id desc
    limit 1
)
select s.id, false as "is_last!", s.tenant_id, s.actor_id, 0::bigint as "length!"
from stretch s
where s.unmoved and not exists (
    select from chimeway.deliveries d
    where d.workflow_run_id = s.id and d.visit = s.visit
        and (d.status in ('pending', 'dispatched', 'failed') or d.progress_owed_at is not null
            -- Said by hand: it has no result to go on with.
            or (d.status = 'cancelled' and d.status_reason = 'superseded'))
) and not exists (
    select from chimeway.approvals a
    where a.workflow_run_id = s.id and a.visit = s.visit and a.decision is null
)
union all
select id, true, tenant_id, actor_id, length from last"#,
        from.tenant,
        from.actor,
        from.run,
        length,
    )
    .fetch_all(conn)
    .await?;
    let mut stretch = Stretch::default();
    for row in rows {
        let (Some(id), Some(tenant), Some(actor)) = (row.id, row.tenant_id, row.actor_id) else {
            continue;
        };
        if !row.is_last {
            stretch.stuck.push(RunId(id));
        } else if row.length >= length {
            stretch.next = Some(Place {
                tenant,
                actor,
                run: id,
            });
        }
    }
    Ok(stretch)
}

/// Makes runs due that nothing moves; one that another session holds is left to the next walk.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn make_due(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- healing::make_due
with free as materialized (
    select id from chimeway.workflow_runs
    where id = any($1)
        and case when ended_at is null then wake_at is null and quarantine_reason is null else false end
    order by id
    for no key update skip locked
)
update chimeway.workflow_runs r set wake_at = chimeway.now() from free where r.id = free.id"#,
        runs as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The message of a visit.
#[derive(Debug, Clone)]
pub struct MessageRow {
    /// Of which run.
    pub run: RunId,
    /// Of which visit.
    pub visit: Visit,
    /// The place of its action in the step; 0 for a step that is one message.
    pub action: i32,
    /// Which delivery.
    pub id: DeliveryId,
    /// Its status.
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
}

/// The messages of these visits, where there are any; of each the one of the last action.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn messages(
    conn: &mut PgConnection,
    visits: &[(RunId, Visit)],
) -> StoreResult<Vec<MessageRow>> {
    if visits.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        MessageRow,
        r#"-- healing::messages
select d.workflow_run_id as "run: RunId", d.visit as "visit: Visit", d.action_index as action,
    d.id as "id: DeliveryId", d.status, d.status_reason
from unnest($1::uuid[], $2::int[]) as u (run_id, visit)
cross join lateral (
    select * from chimeway.deliveries d
    where d.workflow_run_id = u.run_id and d.visit = u.visit
    order by d.action_index desc
    limit 1
) d"#,
        &visits.iter().map(|(run, _)| run.0).collect::<Vec<_>>(),
        &visits.iter().map(|(_, visit)| visit.0).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?)
}
