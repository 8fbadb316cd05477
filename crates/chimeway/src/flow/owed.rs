//! Results that were not told to their runs when they were recorded: another session held the run's row, it did not
//! decode, or workers died again and again with the message, and what comes next is told alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use sqlx::PgConnection;

use super::{
    Core,
    batch::{DueWork, Past},
    made::{Made, SetAside},
    progress,
};
use crate::{
    engine::{
        Input,
        attempt::{self, status_reason::SUPERSEDED},
        input::Delivered,
    },
    ids::{DeliveryId, RunId},
    store::{
        StoreResult,
        crashes::{self, Counted},
        deliveries,
        due::Floor,
        owed::{self, OwedRow, parse_status},
        runs,
    },
};

/// How long a result waits at most for a run that another session holds.
pub(super) const HELD: Duration = Duration::from_secs(1);
/// How long a result waits at most for a run that somebody has to mend.
pub(super) const SET_ASIDE: Duration = Duration::from_secs(60);

/// Tells runs what they are owed.
pub(super) struct Owed<'a> {
    pub(super) core: &'a Core,
}

impl DueWork for Owed<'_> {
    type Id = DeliveryId;
    type Row = OwedRow;
    const LIMIT: i64 = 500;

    /// Delivery rows come before run rows here, against the lock order; nothing is waited for on the
    /// way, so that no circle can close.
    async fn lock(
        &self,
        conn: &mut PgConnection,
        among: Option<&[DeliveryId]>,
        floor: Floor,
        limit: i64,
    ) -> StoreResult<Vec<OwedRow>> {
        owed::list(conn, among, floor, limit).await
    }

    fn id(row: &OwedRow) -> DeliveryId {
        row.id
    }

    fn past(row: &OwedRow) -> Past {
        Past {
            due_at: row.due_at,
            crashes: row.crashes,
        }
    }

    async fn work(&self, conn: &mut PgConnection, rows: Vec<OwedRow>) -> StoreResult<Made> {
        let asked: Vec<RunId> = rows.iter().map(|row| row.run).collect();
        let locked = runs::lock(conn, &asked).await?;
        let skipped = progress::skipped(conn, asked, &locked).await?;
        let mut inputs: HashMap<RunId, VecDeque<Input>> = HashMap::new();
        let live: HashSet<RunId> = locked.iter().map(|row| row.id).collect();
        let (mut settled, mut again, mut over) = (vec![], vec![], vec![]);
        for row in rows {
            if skipped.contains(&row.run) {
                again.push(row.id);
                continue;
            }
            settled.push(row.id);
            if !live.contains(&row.run) {
                over.push((row.run, SUPERSEDED));
            }
            let status = parse_status(row.id, &row.status)?;
            if let Some(outcome) = attempt::outcome_of(status, row.status_reason.as_deref()) {
                let result = Delivered {
                    delivery: row.id,
                    visit: row.visit,
                    action: usize::try_from(row.action).unwrap_or_default(),
                    outcome,
                    status,
                };
                inputs
                    .entry(row.run)
                    .or_default()
                    .push_back(Input::Delivered(result));
            }
        }
        // Before the runs move on: one that does not decode is owed its result again.
        owed::settle(conn, &settled).await?;
        // It ended while the result was recorded: a retry that was planned then comes too late.
        deliveries::cancel_unsent(conn, &over).await?;
        let mut made = progress::advance(self.core, conn, locked, inputs).await?;
        owed::owe(conn, &again, HELD).await?;
        if !again.is_empty() {
            made.wakes_in(chrono::TimeDelta::milliseconds(20));
        }
        Ok(made)
    }

    async fn count(
        &self,
        conn: &mut PgConnection,
        ids: &[DeliveryId],
    ) -> StoreResult<Counted<DeliveryId>> {
        crashes::count_owed(conn, ids).await
    }

    async fn retake(&self, conn: &mut PgConnection, ids: &[DeliveryId]) -> StoreResult<()> {
        crashes::retake_owed(conn, ids).await
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
        id: &DeliveryId,
        _reason: &str,
    ) -> StoreResult<SetAside> {
        owed::owe(conn, &[*id], SET_ASIDE).await?;
        Ok(SetAside::default())
    }
}
