//! Runs whose instant has come: a wait is over, a step is to be entered by a worker, somebody asked for
//! the run's end, or the sweep found that nothing else would move it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use sqlx::PgConnection;

use super::{
    Core, Point,
    batch::DueWork,
    made::{Made, SetAside},
    metrics, progress,
};
use crate::{
    definition::{StepIndex, StepKind},
    engine::{Input, StateName, attempt, input::Delivered},
    ids::{RunId, Visit},
    store::{
        StoreResult, healing,
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
        limit: i64,
    ) -> StoreResult<Vec<RunRow>> {
        self.core.reach(Point::BeforeDue).await;
        runs::lock_due(conn, among, limit).await
    }

    fn id(row: &RunRow) -> RunId {
        row.id
    }

    async fn work(&self, conn: &mut PgConnection, rows: Vec<RunRow>) -> StoreResult<Made> {
        let inputs = inputs(self.core, conn, &rows).await?;
        let late = |row: &RunRow| (row.now - row.wake_at?).to_std().ok();
        let late: Vec<Duration> = rows.iter().filter_map(late).collect();
        let made = progress::advance(self.core, conn, rows, inputs).await?;
        metrics::timer_lateness(late.into_iter());
        Ok(made)
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
/// are in a message, what has become of it. No due instant leads there but a cancellation, a retry by
/// hand and the sweep: usually nothing is read.
pub(super) async fn inputs(
    core: &Core,
    conn: &mut PgConnection,
    rows: &[RunRow],
) -> StoreResult<HashMap<RunId, VecDeque<Input>>> {
    let definitions = core
        .definitions
        .get(conn, rows.iter().map(|row| row.workflow_definition_id))
        .await?;
    let sends = |row: &&RunRow| {
        let definition = definitions.get(&row.workflow_definition_id);
        let step: Option<StepIndex> =
            definition.and_then(|definition| definition.index_of(row.current_step_id));
        row.state == StateName::Active.as_str()
            && definition.zip(step).is_some_and(|(definition, step)| {
                matches!(definition.step(step).kind, StepKind::Notify(_))
            })
    };
    let visits: Vec<(RunId, Visit)> = rows
        .iter()
        .filter(sends)
        .map(|row| (row.id, Visit(row.visit)))
        .collect();
    let mut messages: HashMap<RunId, Option<Input>> = visits
        .iter()
        .map(|(run, _)| (*run, Some(Input::DeliveryMissing)))
        .collect();
    for message in healing::messages(conn, &visits).await? {
        let status = parse_status(message.id, &message.status)?;
        let outcome = attempt::outcome_of(status, message.status_reason.as_deref());
        let told = outcome.map(|outcome| {
            Input::Delivered(Delivered {
                delivery: message.id,
                visit: message.visit,
                outcome,
                status,
            })
        });
        messages.insert(message.run, told);
    }
    let told = rows.iter().map(|row| {
        let message = messages.remove(&row.id).flatten();
        (row.id, message.into_iter().chain([Input::Due]).collect())
    });
    Ok(told.collect())
}
