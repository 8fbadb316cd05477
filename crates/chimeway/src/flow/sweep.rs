//! Closing leases that ended without a record, and the minute's safety net.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use rand::RngExt;
use tokio::time::Instant;

use super::{
    Core, batch, metrics,
    record::{Attempted, Record, Recorded},
    session::Sessions,
    spans::Origin,
};
use crate::{
    engine::AttemptResult,
    queue::QueueName,
    store::{StoreResult, claims, cron, due::Floor, healing},
};

/// How many leases one transaction closes.
const LEASES: i64 = 500;
/// Among how many of the rows that have been due longest they are looked for each second, and each minute.
pub(super) const EACH_SECOND: i64 = 2_000;
pub(super) const EACH_MINUTE: i64 = 1_000_000;
/// How many live runs one sweep looks at.
const STRETCH: i64 = 10_000;

/// Closes leases that ended at least the grace ago: the try counts as a crash with an unknown outcome,
/// and the delivery is tried again, given up or set aside like after any other failure. Closes none right after the
/// database was away: those who held them record first.
pub(super) async fn close_expired(
    core: &Core,
    sessions: &Sessions,
    among: i64,
    floor: Floor,
) -> StoreResult<usize> {
    let asked = Instant::now();
    let work = sessions.bounded();
    let look = async {
        let mut session = work.session().await?;
        core.outage.connected(asked);
        if core.outage.is_recent() {
            return Ok(vec![]);
        }
        claims::expired(
            &mut *session.read().await?,
            LEASES,
            core.timing.grace,
            among,
            floor,
        )
        .await
    };
    let expired = work.run(look).await?;
    if expired.is_empty() {
        return Ok(0);
    }
    let items = expired
        .into_iter()
        .map(|row| {
            let lease = chrono::TimeDelta::from_std(core.timing.lease).unwrap_or_default();
            let started_at = row.lease_until - lease;
            Arc::new(Attempted {
                claim: claims::ClaimRef {
                    id: row.id,
                    claim_no: row.claim_no,
                },
                number: row.attempt,
                crashes: row.crashes,
                run: row.run,
                visit: row.visit,
                action: row.action,
                result: AttemptResult::Unknown,
                adapter: row.channel.clone(),
                channel: row.channel,
                worker: row.owner,
                provider_message_id: None,
                response: None,
                template_hash: None,
                started_at,
                took: (row.now - started_at).to_std().unwrap_or(Duration::ZERO),
                jitter: rand::rng().random::<f64>(),
                unsent: None,
                origin: Origin::default(),
            })
        })
        .collect();
    let committed = batch::commit(sessions, &Record { core }, items).await?;
    let mut recorded = Recorded::all(committed.outputs);
    recorded.count(core);
    core.wake_after(sessions, &mut recorded.made).await;
    // Not those that another session holds, nor those that another worker has just closed.
    let closed = recorded.ended();
    metrics::leases_closed(closed);
    if closed > 0 {
        tracing::warn!(
            leases = closed,
            "leases ended without a record; their tries are closed as unknown"
        );
    }
    Ok(closed)
}

/// The minute's duty: takes the tick, or finds that another process has; looks at every queue, closes
/// leases.
pub(super) async fn sweep(
    core: &Core,
    sessions: &Sessions,
    name: &str,
    tick: chrono::DateTime<chrono::Utc>,
) -> StoreResult<bool> {
    core.wakes.all();
    let work = sessions.bounded();
    let take = async {
        let mut session = work.session().await?;
        let mut tx = session.begin().await?;
        let taken = cron::take_tick(&mut tx, name, tick).await?;
        tx.commit().await?;
        StoreResult::Ok(taken)
    };
    let taken = work.run(take).await?;
    if taken {
        close_expired(core, sessions, EACH_MINUTE, None).await?;
        heal(core, sessions).await?;
    }
    Ok(taken)
}

/// Looks at a stretch of the live runs for those that nothing is going to move, and makes them due. No
/// transaction of ours leaves one; rows that were changed or lost by hand may. Each sweep of a process
/// goes on where its last one ended, so that the cost of one does not grow with what waits.
pub(super) async fn heal(core: &Core, sessions: &Sessions) -> StoreResult<usize> {
    let walked = || core.walked.lock().unwrap_or_else(PoisonError::into_inner);
    let from = walked().clone();
    let work = sessions.bounded();
    let walk = async {
        let mut session = work.session().await?;
        let mut tx = session.begin().await?;
        let stretch = healing::walk(&mut tx, &from, STRETCH).await?;
        healing::make_due(&mut tx, &stretch.stuck).await?;
        tx.commit().await?;
        StoreResult::Ok(stretch)
    };
    let stretch = work.run(walk).await?;
    *walked() = stretch.next.unwrap_or_default();
    metrics::healed(stretch.stuck.len());
    for run in &stretch.stuck {
        tracing::warn!(run.id = %run, "nothing would have moved a run; it is made due");
    }
    if !stretch.stuck.is_empty() {
        core.wakes.of(QueueName::Workflows).now();
    }
    Ok(stretch.stuck.len())
}
