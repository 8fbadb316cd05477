//! Runs whose instant has come: a wait is over, a step is to be entered by a worker, somebody asked for
//! the run's end, or the sweep found that nothing else would move it.

use std::collections::{HashMap, VecDeque};

use sqlx::PgConnection;

use super::{
    Core, Point,
    batch::{DueWork, Past},
    made::{Made, SetAside},
    progress,
};
use crate::{
    definition::{Outcome, StepKind},
    engine::{Input, StateName, attempt, input::Delivered},
    ids::{RunId, Visit},
    store::{
        StoreResult, approvals,
        crashes::{self, Counted},
        due::Floor,
        healing,
        owed::parse_status,
        runs::{self, RunRow},
    },
};

/// Moves due runs.
pub(super) struct Due<'a> {
    pub(super) core: &'a Core,
}

impl DueWork for Due<'_> {
    type Id = RunId;
    type Row = RunRow;
    const LIMIT: i64 = 500;

    async fn lock(
        &self,
        conn: &mut PgConnection,
        among: Option<&[RunId]>,
        floor: Floor,
        limit: i64,
    ) -> StoreResult<Vec<RunRow>> {
        self.core.reach(Point::BeforeDue).await;
        runs::lock_due(conn, among, floor, limit).await
    }

    fn id(row: &RunRow) -> RunId {
        row.id
    }

    fn past(row: &RunRow) -> Past {
        Past {
            due_at: row.wake_at.unwrap_or(row.now),
            crashes: row.crashes,
        }
    }

    async fn work(&self, conn: &mut PgConnection, rows: Vec<RunRow>) -> StoreResult<Made> {
        let inputs = inputs(self.core, conn, &rows).await?;
        let late = |row: &RunRow| (row.now - row.wake_at?).to_std().ok();
        let late = rows.iter().filter_map(late).collect();
        let made = progress::advance(self.core, conn, rows, inputs).await?;
        Ok(Made { late, ..made })
    }

    async fn count(&self, conn: &mut PgConnection, ids: &[RunId]) -> StoreResult<Counted<RunId>> {
        crashes::count_runs(conn, ids).await
    }

    async fn retake(&self, conn: &mut PgConnection, ids: &[RunId]) -> StoreResult<()> {
        crashes::retake_runs(conn, ids, false).await
    }

    fn aside(rows: usize) -> SetAside {
        SetAside {
            runs: rows,
            ..SetAside::default()
        }
    }

    async fn fail(
        &self,
        conn: &mut PgConnection,
        id: &RunId,
        reason: &str,
    ) -> StoreResult<SetAside> {
        let runs = runs::fail(conn, &[*id], reason).await?;
        Ok(SetAside {
            runs,
            ..SetAside::default()
        })
    }
}

/// What locked runs are told when they are looked at: that they are due, and before that, where they
/// are in a message, what has become of it, and where they wait for a decision, what that is. No due instant
/// leads into a message but a cancellation, a retry by hand and the sweep: usually nothing is read.
pub(super) async fn inputs(
    core: &Core,
    conn: &mut PgConnection,
    rows: &[RunRow],
) -> StoreResult<HashMap<RunId, VecDeque<Input>>> {
    let definitions = core
        .definitions
        .get(conn, rows.iter().map(|row| row.workflow_definition_id))
        .await?;
    let kind = |row: &RunRow| {
        let definition = definitions.get(&row.workflow_definition_id)?;
        Some(
            &definition
                .step(definition.index_of(row.current_step_id)?)
                .kind,
        )
    };
    let (mut sending, mut asking) = (vec![], vec![]);
    let mut first: HashMap<RunId, Option<Input>> = HashMap::new();
    for row in rows {
        let visit = (row.id, Visit(row.visit));
        match (StateName::parse(&row.state), kind(row)) {
            (Some(StateName::Active), Some(StepKind::Notify(_) | StepKind::Custom(_))) => {
                first.insert(row.id, Some(Input::DeliveryMissing));
                sending.push(visit);
            }
            // Without a delivery none of its actions was performed.
            (Some(StateName::Active), Some(StepKind::Action(_))) => sending.push(visit),
            (Some(StateName::Waiting), Some(StepKind::Approval(_))) => {
                first.insert(row.id, Some(Input::ApprovalMissing));
                asking.push(visit);
            }
            _ => {}
        }
    }
    for message in healing::messages(conn, &sending).await? {
        let status = parse_status(message.id, &message.status)?;
        let outcome = attempt::outcome_of(status, message.status_reason.as_deref());
        let told = outcome.map_or(Input::Sending, |outcome| {
            Input::Delivered(Delivered {
                delivery: message.id,
                visit: message.visit,
                action: usize::try_from(message.action).unwrap_or_default(),
                outcome,
                status,
            })
        });
        first.insert(message.run, Some(told));
    }
    for asked in approvals::outcomes(conn, &asking).await? {
        let outcome = asked.decision.as_deref().and_then(Outcome::parse);
        let told = outcome.map(|outcome| Input::Decided {
            approval: asked.id,
            visit: asked.visit,
            outcome,
        });
        first.insert(asked.run, told);
    }
    let told = rows.iter().map(|row| {
        let before = first.remove(&row.id).flatten();
        (row.id, before.into_iter().chain([Input::Due]).collect())
    });
    Ok(told.collect())
}
