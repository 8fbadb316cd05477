//! Decisions that people are asked for. Whoever writes one has locked its run first.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;
use crate::ids::{ApprovalId, RunId, StepId, Visit};

/// An approval to open.
#[derive(Debug, Clone)]
pub struct NewApproval {
    /// Its row.
    pub id: ApprovalId,
    /// Of which run.
    pub run: RunId,
    /// Of which step.
    pub step: StepId,
    /// Of which visit.
    pub visit: Visit,
    /// Whose it is.
    pub tenant: String,
    /// user or role.
    pub assignee_kind: &'static str,
    /// Which one.
    pub assignee: String,
    /// When nobody can decide any more.
    pub deadline: Option<DateTime<Utc>>,
    /// When it is opened.
    pub at: DateTime<Utc>,
}

/// Opens approvals.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database); a repeated (run, visit) means that the run was not locked.
pub async fn open(conn: &mut PgConnection, approvals: &[NewApproval]) -> StoreResult<()> {
    if approvals.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- approvals::open
insert into chimeway.approvals (
    id, workflow_run_id, workflow_step_id, visit, tenant_id, assignee_kind, assignee, deadline, opened_at
)
select * from unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
    $9::timestamptz[]
)"#,
        &approvals.iter().map(|one| one.id.0).collect::<Vec<_>>(),
        &approvals.iter().map(|one| one.run.0).collect::<Vec<_>>(),
        &approvals.iter().map(|one| one.step.0).collect::<Vec<_>>(),
        &approvals.iter().map(|one| one.visit.0).collect::<Vec<_>>(),
        &approvals
            .iter()
            .map(|one| one.tenant.clone())
            .collect::<Vec<_>>(),
        &approvals
            .iter()
            .map(|one| one.assignee_kind)
            .collect::<Vec<_>>() as _,
        &approvals
            .iter()
            .map(|one| one.assignee.clone())
            .collect::<Vec<_>>(),
        &approvals.iter().map(|one| one.deadline).collect::<Vec<_>>() as _,
        &approvals.iter().map(|one| one.at).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Closes what is open of these locked runs: they have left without a decision.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn withdraw(conn: &mut PgConnection, runs: &[RunId]) -> StoreResult<()> {
    if runs.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- approvals::withdraw
update chimeway.approvals
set decision = 'withdrawn', decided_at = chimeway.now()
where workflow_run_id = any($1) and decision is null"#,
        runs as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What an approval of a visit has come to.
#[derive(Debug, Clone)]
pub struct ApprovalRow {
    /// Of which run.
    pub run: RunId,
    /// Of which visit.
    pub visit: Visit,
    /// Which approval.
    pub id: ApprovalId,
    /// approved, rejected or timed_out; `None` while it is open.
    pub decision: Option<String>,
}

/// What the approvals of these visits have come to; those whose time is over are closed first, unless
/// somebody was faster. The runs are locked, so that whoever decides now waits for this transaction.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn outcomes(
    conn: &mut PgConnection,
    visits: &[(RunId, Visit)],
) -> StoreResult<Vec<ApprovalRow>> {
    if visits.is_empty() {
        return Ok(vec![]);
    }
    let runs: Vec<_> = visits.iter().map(|(run, _)| run.0).collect();
    let of: Vec<_> = visits.iter().map(|(_, visit)| visit.0).collect();
    sqlx::query!(
        r#"-- approvals::outcomes (time)
update chimeway.approvals a
set decision = 'timed_out', decided_at = (select chimeway.now())
from unnest($1::uuid[], $2::int[]) as u (run_id, visit)
where a.workflow_run_id = u.run_id and a.visit = u.visit and a.decision is null
    and a.deadline <= (select chimeway.now())"#,
        &runs,
        &of,
    )
    .execute(&mut *conn)
    .await?;
    Ok(sqlx::query_as!(
        ApprovalRow,
        r#"-- approvals::outcomes
select a.workflow_run_id as "run: RunId", a.visit as "visit: Visit", a.id as "id: ApprovalId", a.decision
from unnest($1::uuid[], $2::int[]) as u (run_id, visit)
join chimeway.approvals a on a.workflow_run_id = u.run_id and a.visit = u.visit"#,
        &runs,
        &of,
    )
    .fetch_all(conn)
    .await?)
}

/// What became of a person's decision.
#[derive(Debug, Clone)]
pub struct DecidedRow {
    /// approved, rejected, already_decided, not_allowed, not_pending or not_found.
    pub answer: String,
    /// The approval it was about.
    pub approval: Option<ApprovalId>,
    /// What it has come to.
    pub won: Option<String>,
    /// Who decided it.
    pub won_by: Option<String>,
    /// When.
    pub won_at: Option<DateTime<Utc>>,
}

/// Decides what one tenant's run waits for, where it is still open and this one may; makes the run due. A
/// session that holds the run is waited for.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn decide(
    conn: &mut PgConnection,
    tenant: &str,
    run: RunId,
    decision: &str,
    by: &str,
    note: Option<&str>,
) -> StoreResult<DecidedRow> {
    Ok(sqlx::query_as!(
        DecidedRow,
        r#"-- approvals::decide
select answer as "answer!", approval as "approval: ApprovalId", won, won_by, won_at
from chimeway.decide($1, $2, $3, $4, $5)"#,
        tenant,
        run.0,
        decision,
        by,
        note,
    )
    .fetch_one(conn)
    .await?)
}

/// An open approval in a list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PendingApproval {
    /// Which approval.
    pub id: ApprovalId,
    /// Whose it is.
    pub tenant_id: String,
    /// The run that waits for it.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow: String,
    /// The version it follows.
    pub version: i32,
    /// The step that asks.
    pub step: Option<String>,
    /// user or role.
    pub assignee_kind: String,
    /// Which one.
    pub assignee: String,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
    /// When nobody can decide any more; `None`: it waits for as long as it takes.
    pub deadline: Option<DateTime<Utc>>,
}

/// Open approvals, the oldest first: of one tenant where that is given, and of those that one person may
/// decide where that is given, as a user or through a role; after an approval where that is given.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn pending(
    conn: &mut PgConnection,
    tenant: Option<&str>,
    assignee: Option<&str>,
    after: Option<ApprovalId>,
    limit: i64,
) -> StoreResult<Vec<PendingApproval>> {
    Ok(sqlx::query_as!(
        PendingApproval,
        r#"-- approvals::pending
select
    a.id as "id: ApprovalId", a.tenant_id, a.workflow_run_id as "run_id: RunId", d.workflow_key as workflow,
    d.workflow_version as version, s.step_key as "step?", a.assignee_kind, a.assignee, a.opened_at, a.deadline
from chimeway.approvals a
join chimeway.workflow_runs r on r.id = a.workflow_run_id
join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
left join chimeway.workflow_steps s on s.id = a.workflow_step_id
where a.decision is null and r.ended_at is null and r.cancel_requested_at is null
    and ($1::text is null or a.tenant_id = $1)
    and ($2::text is null or case a.assignee_kind
        when 'user' then a.assignee = $2
        else exists (
            select from chimeway.role_members m
            where m.tenant_id = a.tenant_id and m.role = a.assignee and m.member = $2
        )
    end)
    and ($3::uuid is null or a.id > $3)
order by a.id
limit $4"#,
        tenant,
        assignee,
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(conn)
    .await?)
}
