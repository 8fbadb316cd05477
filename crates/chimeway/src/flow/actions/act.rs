//! The transaction of an action step: one run, its actions, and where it goes then.
//!
//! A step that writes a host's tables may wait for a row that a host holds, for a moment. So no other run is
//! with it in its transaction, and no batch waits for it.

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, stream};
use rand::RngExt as _;
use sqlx::PgPool;
use tokio::time::Instant;

use super::ground::Ground;
use crate::{
    flow::{
        Core, Point,
        batch::{self, Past, Took},
        due,
        made::{Made, SetAside},
        progress::{self, Acting},
    },
    ids::RunId,
    queue::QueueName,
    store::{
        StoreResult,
        acting::{self, DueActions},
        crashes,
        error::Fault,
        runs,
    },
};

/// How many due runs one look takes.
const BATCH: i64 = 100;
/// How many of them at a time.
const AT_ONCE: usize = 4;

/// Carries out the actions of due runs, each in a transaction of its own. Where a process may have died with one,
/// the try is counted first, as [`batch::take`] does.
///
/// # Errors
///
/// Only if the database is away.
pub(in crate::flow) async fn take(
    core: &Core,
    pool: &PgPool,
    suspect: Option<DateTime<Utc>>,
) -> StoreResult<Took> {
    let mut tx = batch::begin(pool).await?;
    let due = acting::due(&mut tx, BATCH).await?;
    tx.commit().await?;
    let is_safe = |one: &DueActions| {
        let past = Past {
            due_at: one.due_at,
            crashes: one.crashes,
        };
        !past.is_dangerous() && !past.is_suspect(suspect)
    };
    let (safe, dangerous): (Vec<_>, Vec<_>) = due.into_iter().partition(is_safe);
    let each = stream::iter(safe).map(|due| one(core, pool, due.run, false));
    let mut done: Vec<StoreResult<bool>> = each.buffer_unordered(AT_ONCE).collect().await;
    // Nothing else is with them.
    for due in dangerous {
        done.push(one_counted(core, pool, due.run).await);
    }
    let mut took = Took::default();
    for one in done {
        took.rows += usize::from(one?);
    }
    Ok(took)
}

async fn one_counted(core: &Core, pool: &PgPool, run: RunId) -> StoreResult<bool> {
    let mut tx = batch::begin(pool).await?;
    let counted = crashes::count_runs(&mut tx, &[run]).await?;
    tx.commit().await?;
    if counted.set_aside > 0 {
        tracing::error!(run.id = %run, "set aside: five worker processes in a row died with its actions");
        let mut made = Made::from(SetAside {
            runs: counted.set_aside,
            ..SetAside::default()
        });
        core.wake_after(pool, &mut made).await;
        return Ok(true);
    }
    match counted.taken.as_slice() {
        [run] => one(core, pool, *run, true).await,
        _ => Ok(false),
    }
}

/// Whether there was something to do.
async fn one(core: &Core, pool: &PgPool, run: RunId, counted: bool) -> StoreResult<bool> {
    let error = match carry_out(core, pool, run, counted).await {
        Ok(None) => return Ok(false),
        Ok(Some(mut made)) => {
            core.wake_after(pool, &mut made).await;
            // What the actions have started and told.
            core.wakes.of(QueueName::Workflows).now();
            core.wakes.of(QueueName::Signals).now();
            return Ok(true);
        }
        Err(error) => error,
    };
    let mut tx = batch::begin(pool).await?;
    if counted {
        crashes::retake_runs(&mut tx, &[run], true).await?;
    }
    match error.fault() {
        Fault::Away => return Err(error),
        Fault::Conflict => {
            let jitter = rand::rng().random_range(0.5..1.0);
            tracing::debug!(run.id = %run, "another session is in the way of actions; they are tried again");
            acting::defer(&mut tx, &[run], jitter).await?;
            tx.commit().await?;
        }
        Fault::Data => {
            let reason = error
                .sqlstate()
                .unwrap_or_else(|| "inconsistent".to_owned());
            tracing::error!(run.id = %run, sqlstate = %reason, "the actions of a run failed");
            let runs = acting::fail(&mut tx, &[run], &reason).await?;
            tx.commit().await?;
            let mut made = Made::from(SetAside {
                runs,
                ..SetAside::default()
            });
            core.wake_after(pool, &mut made).await;
        }
    }
    Ok(true)
}

async fn carry_out(
    core: &Core,
    pool: &PgPool,
    run: RunId,
    counted: bool,
) -> StoreResult<Option<Made>> {
    let mut tx = batch::begin(pool).await?;
    if counted {
        crashes::retake_runs(&mut tx, &[run], true).await?;
    }
    let began = Instant::now();
    let rows = runs::lock(&mut tx, &[run]).await?;
    let is_due = rows
        .iter()
        .any(|row| row.act_at.is_some_and(|at| at <= row.now));
    if !is_due {
        // Another worker was faster, or holds it.
        return Ok(None);
    }
    core.reach(Point::ActionsLocked).await;
    let inputs = due::inputs(core, &mut tx, &rows).await?;
    let standing = acting::standing(&mut tx, &[run]).await?;
    let Some(standing) = standing.first() else {
        return Ok(None);
    };
    core.reach(Point::ActionsRead).await;
    let ground = Ground::of(standing, began);
    let acting = Acting::Now(&ground);
    let (made, _) = progress::advance_each(core, &mut tx, rows, inputs, acting).await?;
    core.reach(Point::BeforeActionsCommit).await;
    tx.commit().await?;
    core.reach(Point::AfterActionsCommit).await;
    Ok(Some(made))
}
