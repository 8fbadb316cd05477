//! What cannot be handled: messages that kill, rows that kill, adapters that hang, rows that do not decode.

use std::time::Duration;

use sqlx::Executor as _;

use super::{cell::Cell, load::Load, supervisor::Supervisor, verdict::Faults};
use crate::fleet::{end_backoffs, texts};

/// A journey of somebody whom the load does not know, with the host's own row.
pub(super) async fn trigger_for(cell: &Cell, actor: &str) {
    let trigger = sqlx::query(
        "with event as (
            select chimeway.trigger('mention_escalation', jsonb_build_object('actor_id', $1::text), $2) as id
         )
         insert into host.journeys (actor, event_id) select $1, id from event",
    );
    let trigger = trigger.bind(actor).bind(cell.tenant());
    trigger.execute(&cell.pool).await.unwrap();
}

/// Handing over these messages aborts the process each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn messages_that_kill() {
    const POISON: i64 = 6;
    const QUARANTINED: &str = "select count(*) from chimeway.deliveries
        where status = 'cancelled' and status_reason = 'quarantined' and crashes = 5";
    let mut cell = Cell::begin("a message aborts the process").await;
    let worker = cell.worker();
    let workers = Supervisor::start(2, move |_| {
        let worker = worker().with("--abort-for", "poison");
        // Five leases have to end, one after the other.
        worker
            .with("--lease-ms", "1500")
            .with("--send-ms", "200")
            .with("--grace-ms", "100")
    });
    let load = Load::start(&cell);
    cell.starts();
    for number in 1..=POISON {
        let actor = format!("poison_{number}");
        let actor = actor.as_str();
        trigger_for(&cell, actor).await;
        // Nobody is to be told by email as well.
        let read = sqlx::query(
            "with told as (select chimeway.track($2, $1, 'notification_read'))
             insert into host.signals (actor) select $1 from told",
        );
        read.bind(actor)
            .bind(cell.tenant())
            .execute(&cell.pool)
            .await
            .unwrap();
    }
    let left = "select greatest(6 - count(*), 0) from chimeway.deliveries
        where status = 'cancelled' and status_reason = 'quarantined' and crashes = 5";
    cell.until("what kills is set aside", left).await;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let aside = sqlx::query_scalar::<_, String>(
        "select 'delivery ' || d.id from chimeway.deliveries d
         join chimeway.workflow_runs r on r.id = d.workflow_run_id and r.actor_id like 'poison%'",
    );
    let aside = aside.fetch_all(&cell.pool).await.unwrap();
    let aside: Vec<&str> = aside.iter().map(String::as_str).collect();
    // The innocents are the load: each must have ended as it must, none of them set aside.
    let verdict = cell.verdict_but(load, workers, Faults::Kills, &aside).await;
    assert!(verdict.tally.crashed >= 5, "{:?}", verdict.tally);
    // From the second crash on one at a time in each process: none of them died together. (The number of a try does not
    // say it: a provider refuses some for now.)
    let together = "
        select a.worker || ': ' || string_agg(r.actor_id || ' ' || d.channel || ' ' || d.status || ', try ' || a.attempt_number
            || ' at ' || a.started_at::time || ' of ' || (
                select string_agg(concat_ws(' ', b.outcome, b.error_class, b.started_at::time, b.finished_at::time), ', ' order by b.attempt_number)
                from chimeway.delivery_attempts b where b.delivery_id = d.id
            ), '; ')
        from chimeway.delivery_attempts a
        join chimeway.deliveries d on d.id = a.delivery_id
        join chimeway.workflow_runs r on r.id = d.workflow_run_id
        where a.outcome = 'unknown' and 2 <= (
            select count(*) from chimeway.delivery_attempts b
            where b.delivery_id = a.delivery_id and b.attempt_number < a.attempt_number and b.outcome = 'unknown'
        )
        group by a.worker having count(*) > 1";
    assert_eq!(texts(&cell.pool, together).await, Vec::<String>::new());
    assert_eq!(cell.count(QUARANTINED).await, POISON);
}

/// Handling these rows of batches aborts the process each time: an event, a signal, a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn rows_that_kill() {
    const ASIDE: &str = "
        select 'event of ' || (params ->> 'actor_id') || ' ' || quarantine_reason as row from chimeway.events
        where quarantine_reason is not null
        union all
        select 'run of ' || actor_id || ' ' || quarantine_reason from chimeway.workflow_runs
        where quarantine_reason is not null
        union all
        select 'signal of ' || actor_id || ' ' || quarantine_reason from chimeway.signals
        where quarantine_reason is not null
        order by row";
    let mut cell = Cell::begin("a row of a batch aborts the process").await;
    let kills = "
        create function host.kill() returns trigger language plpgsql as
            $$ begin raise warning 'abort this process'; return new; end $$;
        create trigger kill before insert on chimeway.notifications for each row
            when (new.recipient like 'poison_event%') execute function host.kill();
        create trigger kill before update on chimeway.signals for each row
            when (new.actor_id like 'poison_signal%' and new.routed_at is not null) execute function host.kill();
        create trigger kill before update on chimeway.workflow_runs for each row
            when (new.actor_id like 'poison_run%' and old.state = 'waiting' and new.state <> 'waiting')
            execute function host.kill();";
    cell.pool.execute(kills).await.unwrap();
    let worker = cell.worker();
    let workers = Supervisor::start(2, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    trigger_for(&cell, "poison_event").await;
    trigger_for(&cell, "poison_run").await;
    trigger_for(&cell, "poison_signal").await;
    let signal = "insert into host.signals (actor) values ('poison_signal');
        select chimeway.track('org_456', 'poison_signal', 'somebody_waved')";
    cell.pool.execute(signal).await.unwrap();
    let expected = [
        "event of poison_event worker_died",
        "run of poison_run worker_died",
        "signal of poison_signal worker_died",
    ];
    let left = "
        select 3 - (select count(*) from chimeway.events where quarantine_reason is not null)
            - (select count(*) from chimeway.workflow_runs where quarantine_reason is not null)
            - (select count(*) from chimeway.signals where quarantine_reason is not null)";
    cell.until("what kills is set aside", left).await;
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let aside = texts(
        &cell.pool,
        "select 'event ' || id from chimeway.events where params ->> 'actor_id' like 'poison%'
         union all select 'signal ' || id from chimeway.signals where actor_id like 'poison%'
         union all select 'run ' || id from chimeway.workflow_runs where actor_id like 'poison%'
         union all select actor || ':' from host.journeys where actor like 'poison_event' or actor like 'poison_run'",
    )
    .await;
    let aside: Vec<&str> = aside.iter().map(String::as_str).collect();
    let verdict = cell.verdict_but(load, workers, Faults::Kills, &aside).await;
    assert!(verdict.tally.crashed >= 15, "{:?}", verdict.tally);
    assert_eq!(texts(&cell.pool, ASIDE).await, expected);
}

/// An adapter that never answers: its sends end by their time-out, and hold up nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn an_adapter_hangs() {
    let mut cell = Cell::begin("an adapter hangs").await;
    let (worker, long) = (cell.worker(), cell.long);
    let workers = Supervisor::start(2, move |_| {
        let worker = worker().with("--hang-for", "hanging");
        // Ten tries have to end, one after the other.
        if long {
            worker.with("--send-ms", "2000")
        } else {
            worker
        }
    });
    let load = Load::start(&cell);
    cell.starts();
    let mut hanging = 0;
    while cell.goes_on() {
        if hanging < 10 {
            trigger_for(&cell, &format!("hanging_{hanging}")).await;
            hanging += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        end_backoffs(&cell.pool).await;
    }
    let verdict = cell
        .verdict(load, workers, Faults::Other(hanging, "hang for ever"))
        .await;
    assert_eq!(verdict.tally.kills(), 0);
    let timed_out = "select count(*) from chimeway.delivery_attempts
        where outcome = 'failed' and response ->> 'error' = 'no answer in time'";
    assert!(
        cell.count(timed_out).await >= 50,
        "five tries each, at least"
    );
    let exhausted =
        "select count(*) from chimeway.deliveries where status_reason = 'retries_exhausted'";
    assert_eq!(cell.count(exhausted).await, 20);
    let unknown = "select count(*) from chimeway.delivery_attempts where outcome = 'unknown'";
    assert_eq!(
        cell.count(unknown).await,
        0,
        "a lease ended while an adapter hung"
    );
}

/// Rows that somebody changed by hand: an event, a run, a delivery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn rows_that_do_not_decode() {
    let mut cell = Cell::begin("rows do not decode").await;
    let worker = cell.worker();
    let spoil = "
        alter table chimeway.workflow_runs drop constraint workflow_runs_state;
        create function host.spoil_event() returns trigger language plpgsql as
            $$ begin new.recipients := '[{\"identity\": 7}, 8]'; return new; end $$;
        create trigger spoil before insert on chimeway.events for each row
            when (new.params ->> 'actor_id' like 'bad_event%') execute function host.spoil_event();
        create function host.spoil_run() returns trigger language plpgsql as
            $$ begin new.state := 'perplexed'; return new; end $$;
        create trigger spoil before update on chimeway.workflow_runs for each row
            when (new.actor_id like 'bad_run%' and new.state = 'waiting') execute function host.spoil_run();
        create function host.spoil_delivery() returns trigger language plpgsql as
            $$ begin update chimeway.events set params = params || '{\"n\": 1e400}' where id = new.event_id;
               return new; end $$;
        create trigger spoil after insert on chimeway.notifications for each row
            when (new.recipient like 'bad_delivery%') execute function host.spoil_delivery();";
    cell.pool.execute(spoil).await.unwrap();
    let workers = Supervisor::start(2, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    let mut bad = 0;
    while cell.goes_on() {
        if bad < 10 {
            for kind in ["event", "run", "delivery"] {
                trigger_for(&cell, &format!("bad_{kind}_{bad}")).await;
            }
            bad += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let aside = texts(
        &cell.pool,
        "select 'event ' || id from chimeway.events where params ->> 'actor_id' like 'bad%'
         union all select 'run ' || id from chimeway.workflow_runs where actor_id like 'bad%'
         union all select actor || ':' from host.journeys where actor like 'bad_run%' or actor like 'bad_event%'",
    )
    .await;
    let aside: Vec<&str> = aside.iter().map(String::as_str).collect();
    let verdict = cell
        .verdict_but(load, workers, Faults::Other(3 * bad, "bad rows"), &aside)
        .await;
    assert_eq!(verdict.tally.kills(), 0);
    let refused = "select count(*) from chimeway.delivery_attempts
        where response ->> 'error' = 'the stored delivery does not decode'";
    assert_eq!(cell.count(refused).await, 20);
    let runs =
        "select count(*) from chimeway.workflow_runs where quarantine_reason = 'does_not_decode'";
    assert_eq!(cell.count(runs).await, 10);
}
