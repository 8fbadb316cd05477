//! The transaction of an action step: one run, its actions, and where it goes then.
//!
//! A step that writes a host's tables may wait for a row that a host holds, for a moment. So no other run is
//! with it in its transaction, and no batch waits for it.

use futures::{StreamExt as _, stream};
use rand::RngExt as _;
use tokio::time::Instant;

use super::ground::Ground;
use crate::{
    flow::{
        Core, Point,
        batch::{Look, Past, Took},
        due,
        made::{Made, SetAside},
        progress::{self, Acting},
        session::{Bounded, Sessions},
    },
    ids::RunId,
    queue::QueueName,
    store::{
        StoreError, StoreResult,
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
/// the try is counted first, as [`batch::take`](crate::flow::batch::take) does.
///
/// # Errors
///
/// Only if the database is away.
pub(in crate::flow) async fn take(
    core: &Core,
    sessions: &Sessions,
    look: Look,
) -> StoreResult<Took> {
    let work = sessions.bounded();
    let find = async {
        let mut session = work.session().await?;
        let mut tx = session.begin().await?;
        let due = acting::due(&mut tx, look.floor, BATCH).await?;
        tx.commit().await?;
        StoreResult::Ok(due)
    };
    let due = work.run(find).await?;
    let is_safe = |one: &DueActions| {
        let past = Past {
            due_at: one.due_at,
            crashes: one.crashes,
        };
        !past.is_dangerous() && !past.is_suspect(look.suspect)
    };
    let (safe, dangerous): (Vec<_>, Vec<_>) = due.into_iter().partition(is_safe);
    let each = stream::iter(safe).map(|due| one(core, sessions, due.run, false));
    let mut done: Vec<StoreResult<bool>> = each.buffer_unordered(AT_ONCE).collect().await;
    // Nothing else is with them.
    for due in dangerous {
        done.push(one_counted(core, sessions, due.run).await);
    }
    let mut took = Took::default();
    for one in done {
        took.rows += usize::from(one?);
    }
    Ok(took)
}

async fn one_counted(core: &Core, sessions: &Sessions, run: RunId) -> StoreResult<bool> {
    let work = sessions.bounded();
    let count = async {
        let mut session = work.session().await?;
        let mut tx = session.begin().await?;
        let counted = crashes::count_runs(&mut tx, &[run]).await?;
        tx.commit().await?;
        StoreResult::Ok(counted)
    };
    let counted = work.run(count).await?;
    if counted.set_aside > 0 {
        tracing::error!(run.id = %run, "set aside: five worker processes in a row died with its actions");
        let mut made = Made::from(SetAside {
            runs: counted.set_aside,
            ..SetAside::default()
        });
        core.wake_after(sessions, &mut made).await;
        return Ok(true);
    }
    match counted.taken.as_slice() {
        [run] => one(core, sessions, *run, true).await,
        _ => Ok(false),
    }
}

/// Whether there was something to do.
async fn one(core: &Core, sessions: &Sessions, run: RunId, counted: bool) -> StoreResult<bool> {
    let work = sessions.bounded();
    let error = match work.run(carry_out(core, work, run, counted)).await {
        Ok(None) => return Ok(false),
        Ok(Some(mut made)) => {
            core.wake_after(sessions, &mut made).await;
            // What the actions have started and told.
            core.wakes.of(QueueName::Workflows).now();
            core.wakes.of(QueueName::Signals).now();
            return Ok(true);
        }
        Err(error) => error,
    };
    if error.fault() == Fault::Away {
        return Err(error);
    }
    let work = sessions.bounded();
    let mut made = work.run(put_off(work, run, counted, &error)).await?;
    core.wake_after(sessions, &mut made).await;
    Ok(true)
}

/// Comes back to the actions of a run later, or sets it aside where it is at fault itself.
async fn put_off(
    work: Bounded<'_>,
    run: RunId,
    counted: bool,
    error: &StoreError,
) -> StoreResult<Made> {
    let mut session = work.session().await?;
    let mut tx = session.begin().await?;
    if counted {
        crashes::retake_runs(&mut tx, &[run], true).await?;
    }
    if error.fault() == Fault::Conflict {
        let jitter = rand::rng().random_range(0.5..1.0);
        tracing::debug!(run.id = %run, "another session is in the way of actions; they are tried again");
        acting::defer(&mut tx, &[run], jitter).await?;
        tx.commit().await?;
        return Ok(Made::default());
    }
    let reason = error
        .sqlstate()
        .unwrap_or_else(|| "inconsistent".to_owned());
    tracing::error!(run.id = %run, sqlstate = %reason, "the actions of a run failed");
    let runs = acting::fail(&mut tx, &[run], &reason).await?;
    tx.commit().await?;
    Ok(Made::from(SetAside {
        runs,
        ..SetAside::default()
    }))
}

async fn carry_out(
    core: &Core,
    work: Bounded<'_>,
    run: RunId,
    counted: bool,
) -> StoreResult<Option<Made>> {
    let mut session = work.session().await?;
    let mut tx = session.begin().await?;
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
