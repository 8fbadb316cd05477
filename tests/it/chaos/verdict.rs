//! What is asked after each cell, and the line that says so.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use sqlx::PgPool;

use super::{
    cell::{Cell, variable},
    load::Load,
    supervisor::{Supervisor, Tally},
};
use crate::{
    audit::audit,
    fleet::{end_backoffs, texts},
    process::Sends,
};

/// Journeys that did not end as they must: made no run or several, did not end, heard no signal that was committed
/// before the deadline, or stopped without one.
const LOST_JOURNEYS: &str = "
select j.actor || ': ' || coalesce(string_agg(concat_ws(' ', r.state, r.terminal_reason, r.status_reason), ', '), 'no run')
from host.journeys j
left join chimeway.workflow_runs r on r.actor_id = j.actor
left join host.signals told on told.actor = j.actor
left join chimeway.signals s on s.actor_id = j.actor
left join chimeway.workflow_transitions w
    on w.workflow_run_id = r.id and w.reason = 'waiting_for_step_progression'
group by j.actor
having count(distinct r.id) <> 1 or not coalesce(bool_and(case
    when told.actor is null then r.terminal_reason = 'completed'
    when told.committed_before < (w.context ->> 'suspended_until')::timestamptz and s.occurred_at >= r.started_at
        then r.terminal_reason = 'stop_condition:notification_read'
    else r.state in ('completed', 'stopped')
end), false)";

/// Purchases that did not end as was decided.
const LOST_PURCHASES: &str = "
select p.id || ': ' || coalesce(string_agg(concat_ws(' ', d.decision, p.status, r.state, r.terminal_reason), ', '), 'no run')
from host.purchases p
left join chimeway.workflow_runs r on r.actor_id = p.id
left join host.decisions d on d.run_id = r.id
group by p.id
having count(distinct r.id) <> 1 or not coalesce(bool_and(case d.decision
    when 'approved' then r.terminal_reason = 'completed' and p.status = 'paid'
    when 'rejected' then r.terminal_reason = 'outcome:rejected' and p.status = 'asked'
    else r.terminal_reason = 'outcome:timed_out' and p.status = 'asked'
end), false)";

/// What is left of a trigger that was rolled back, or of one whose key was known.
const GHOSTS: &str = "
with known as (select actor from host.journeys union all select id from host.purchases)
select 'run of ' || actor_id from chimeway.workflow_runs where actor_id not in (select actor from known)
union all
select 'notification of ' || recipient from chimeway.notifications where recipient not in (select actor from known)
union all
select 'event ' || id from chimeway.events
where id not in (select event_id from host.journeys)
    and coalesce(params ->> 'purchase', '') not in (select id from host.purchases)
union all
select 'signal of ' || actor_id from chimeway.signals where actor_id not in (select actor from host.signals)";

/// What was decided more than once.
const TWICE: &str = "
select 'payment of ' || purchase from host.payments group by purchase having count(*) > 1
union all
select 'visit ' || visit || ' of run ' || workflow_run_id from chimeway.workflow_transitions
where reason = 'step_activated' group by workflow_run_id, visit having count(*) > 1
union all
select 'end of run ' || workflow_run_id from chimeway.workflow_transitions
where to_state in ('completed', 'stopped', 'failed') group by workflow_run_id having count(*) > 1
union all
select 'run ' || workflow_run_id from chimeway.workflow_transitions
group by workflow_run_id having max(sequence) <> count(*)";

/// What is still held, due or set aside when all has ended.
const STUCK: &str = "
select 'event ' || id from chimeway.events where expand_at is not null or quarantine_reason is not null
union all
select 'signal ' || id from chimeway.signals where routed_at is null
union all
select 'run ' || id || ' ' || state from chimeway.workflow_runs
where ended_at is null or wake_at is not null or act_at is not null or quarantine_reason is not null
union all
select 'delivery ' || id || ' ' || status from chimeway.deliveries
where status in ('pending', 'dispatched', 'failed') or lease_owner is not null or progress_owed_at is not null
    or status_reason = 'quarantined'";

/// Messages that are not over, and whatever is more than half a second late.
const OPEN: &str = "
select (select count(*) from chimeway.deliveries where status in ('pending', 'dispatched', 'failed'))
    + (select count(*) from chimeway.events where expand_at < now() - interval '0.5 s')
    + (select count(*) from chimeway.signals where route_at < now() - interval '0.5 s')
    + (select count(*) from chimeway.workflow_runs
        where least(wake_at, act_at) < now() - interval '0.5 s')";

const LIVE: &str = "
select (select count(*) from chimeway.workflow_runs where ended_at is null and quarantine_reason is null)
    + (select count(*) from chimeway.events where expand_at is not null)
    + (select count(*) from chimeway.signals where route_at is not null)
    + (select count(*) from chimeway.deliveries where status in ('pending', 'dispatched', 'failed'))";

/// What went wrong on purpose.
pub(crate) enum Faults {
    /// Worker processes that were killed, or ended by a failpoint: the supervisor counted them.
    Kills,
    /// So many of something else.
    Other(usize, &'static str),
}

/// What the audit of a cell found.
pub(crate) struct Verdict {
    pub(crate) tally: Tally,
    pub(crate) triggers: usize,
    pub(crate) signals: usize,
    pub(crate) errors: usize,
    /// The longest call of a host.
    pub(crate) longest: Duration,
    /// Messages that were sent more than once, each time marked.
    pub(crate) resent: usize,
    /// From the last fault until no message was open and nothing late.
    pub(crate) recovery: Duration,
}

impl Cell {
    /// Ends the load, waits until all has ended, stops the workers, audits; prints the line of the cell.
    ///
    /// Call it at the last fault: the recovery counts from now. Whatever the cell holds is let go before.
    pub(crate) async fn verdict(
        &self,
        load: Load,
        supervisor: Supervisor,
        faults: Faults,
    ) -> Verdict {
        self.verdict_but(load, supervisor, faults, &[]).await
    }

    /// The same for a cell that sets something aside on purpose: rows that begin so may be stuck.
    pub(crate) async fn verdict_but(
        &self,
        load: Load,
        supervisor: Supervisor,
        faults: Faults,
        aside: &[&str],
    ) -> Verdict {
        let last_fault = Instant::now();
        let recovered = self.until("no message is open", OPEN);
        let (told, ()) = tokio::join!(load.stop(), recovered);
        let recovery = last_fault.elapsed();
        self.until("all has ended", LIVE).await;
        let tally = supervisor.stop().await;
        let is_aside = |row: &String| aside.iter().any(|start| row.starts_with(start));
        let find = async |statement: &'static str| {
            let mut rows = texts(&self.pool, statement).await;
            rows.retain(|row| !is_aside(row));
            rows
        };
        let mut lost = find(LOST_JOURNEYS).await;
        lost.extend(find(LOST_PURCHASES).await);
        let twice = find(TWICE).await;
        let taken = self.desk.taken();
        let unmarked = unmarked(&self.pool, &taken).await;
        let verdict = Verdict {
            triggers: told.triggers.load(Relaxed),
            signals: told.signals.load(Relaxed),
            errors: told.errors.load(Relaxed),
            longest: Duration::from_millis(told.longest.load(Relaxed)),
            resent: taken.values().filter(|sends| sends.len() > 1).count(),
            tally,
            recovery,
        };
        let faults = match faults {
            Faults::Kills => format!("{} kills", verdict.tally.kills()),
            Faults::Other(count, what) => format!("{count} {what}"),
        };
        self.print(&verdict, &faults, lost.len(), twice.len(), unmarked.len());

        assert!(lost.is_empty(), "lost: {lost:#?}");
        assert!(twice.is_empty(), "decided twice: {twice:#?}");
        assert!(unmarked.is_empty(), "sent twice: {unmarked:#?}");
        let ghosts = find(GHOSTS).await;
        assert!(ghosts.is_empty(), "nobody committed that: {ghosts:#?}");
        let stuck = find(STUCK).await;
        assert!(stuck.is_empty(), "stuck: {stuck:#?}");
        let unsent = unsent(&self.pool, &taken).await;
        assert!(unsent.is_empty(), "recorded and never sent: {unsent:?}");
        audit(&self.pool).await;
        let tally = &verdict.tally;
        assert!(tally.drained_badly.is_empty(), "{tally:?}");
        assert_eq!(tally.gave_up, 0, "a worker ended by itself: {tally:?}");
        // The load was one: all kinds of it.
        assert!(verdict.triggers > 20, "{} triggers", verdict.triggers);
        assert!(told.rolled_back.load(Relaxed) > 0, "{told:?}");
        assert!(told.repeated.load(Relaxed) > 0, "{told:?}");
        assert!(told.decisions.load(Relaxed) > 0, "{told:?}");
        assert!(verdict.signals > 0, "{told:?}");
        verdict
    }

    fn print(&self, verdict: &Verdict, faults: &str, lost: usize, twice: usize, unmarked: usize) {
        let (name, triggers) = (self.name, verdict.triggers);
        let seconds = verdict.recovery.as_secs_f64();
        let line = format!(
            "{name:<40} {triggers:>8} {faults:>18} {lost:>5} {twice:>14} {unmarked:>20} {seconds:>8.1} s"
        );
        println!("{line}");
        if let Some(file) = variable("CHAOS_REPORT") {
            let mut options = std::fs::OpenOptions::new();
            let mut report = options.create(true).append(true).open(file).unwrap();
            report.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }

    /// Waits until a statement counts nothing. The server may be away for a part of that.
    pub(super) async fn until(&self, what: &str, statement: &'static str) {
        let patience = Duration::from_secs(if self.long { 400 } else { 60 });
        let began = Instant::now();
        let mut hurried = Instant::now();
        loop {
            let left = sqlx::query_scalar::<_, i64>(statement);
            let left = left.fetch_one(&self.pool).await;
            if matches!(left, Ok(0)) {
                return;
            }
            assert!(began.elapsed() < patience, "not in time: {what}: {left:?}");
            // The short form does not wait for the 15 s before a message is tried again.
            if !self.long && left.is_ok() && hurried.elapsed() > Duration::from_millis(250) {
                hurried = Instant::now();
                end_backoffs(&self.pool).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Tries that succeeded, as their rows say, and that no channel has seen.
async fn unsent(pool: &PgPool, taken: &Sends) -> Vec<(String, i32)> {
    let rows: Vec<(String, i32)> = sqlx::query_as(
        "select delivery_id::text, attempt_number from chimeway.delivery_attempts where outcome = 'succeeded'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let is_sent = |row: &(String, i32)| {
        let sends = taken.get(&row.0);
        sends.is_some_and(|sends| sends.iter().any(|(attempt, _)| *attempt == row.1))
    };
    rows.into_iter().filter(|row| !is_sent(row)).collect()
}

/// Sends without a row, under one number twice, or after one that no row says failed or may have.
async fn unmarked(pool: &PgPool, taken: &Sends) -> Vec<String> {
    let rows: Vec<(String, i32, String, i32)> = sqlx::query_as(
        "select a.delivery_id::text, a.attempt_number, a.outcome, d.crashes
         from chimeway.delivery_attempts a join chimeway.deliveries d on d.id = a.delivery_id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let rows: HashMap<(&str, i32), (&str, i32)> = rows
        .iter()
        .map(|(delivery, attempt, outcome, crashes)| {
            ((delivery.as_str(), *attempt), (outcome.as_str(), *crashes))
        })
        .collect();
    let mut unmarked = vec![];
    for (delivery, sends) in taken {
        let mut attempts: Vec<i32> = sends.iter().map(|(attempt, _)| *attempt).collect();
        attempts.sort_unstable();
        for (place, attempt) in attempts.iter().enumerate() {
            let Some((_, crashes)) = rows.get(&(delivery.as_str(), *attempt)) else {
                unmarked.push(format!("{delivery} {attempt}: no row"));
                continue;
            };
            if place == 0 {
                continue;
            }
            let before = attempts[place - 1];
            let outcome = rows.get(&(delivery.as_str(), before)).map(|row| row.0);
            // A try that was closed as unknown may be told to have succeeded later.
            let marked = matches!(outcome, Some("unknown" | "failed")) || *crashes > 0;
            if before == *attempt || !marked {
                unmarked.push(format!(
                    "{delivery} {attempt} after {before}, which {outcome:?}"
                ));
            }
        }
    }
    unmarked
}
