//! Runs whose instant has come: a wait is over, or a step is to be entered by a worker.

use std::collections::{HashMap, VecDeque};

use sqlx::PgConnection;

use super::{Core, Point, batch::DueWork, progress, progress::Made};
use crate::{
    engine::Input,
    ids::RunId,
    store::{
        StoreResult,
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
        let inputs: HashMap<RunId, VecDeque<Input>> = rows
            .iter()
            .map(|row| (row.id, VecDeque::from([Input::Due])))
            .collect();
        progress::advance(self.core, conn, rows, inputs).await
    }

    async fn fail(&self, conn: &mut PgConnection, id: &RunId, reason: &str) -> StoreResult<()> {
        runs::fail(conn, &[*id], reason).await
    }
}
