//! Sessions of others that stay open for the whole cell.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use super::{cell::Cell, load::Load, supervisor::Supervisor, verdict::Faults};
use crate::{
    fleet::{execute, texts},
    support::eventually_or,
};

/// What was sent and recorded so far.
const SUCCEEDED: &str =
    "select count(*) from chimeway.delivery_attempts where outcome = 'succeeded'";

/// Events that were due long ago and are gone: whoever looks for due ones from the beginning of the index passes over
/// all of them, for as long as somebody keeps an old snapshot.
const DEAD_EVENTS: &str = "
    insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params, occurred_at, inserted_at, expand_at)
    select lpad(to_hex(n), 32, '0')::uuid, 'org_456', 'dead', gen_random_uuid(), '{}', now(), now(), now() - interval '1 hour'
    from generate_series(1, 100000) n;
    delete from chimeway.events where expand_at < now() - interval '30 minutes'";

/// How often somebody looked for due events, and how many entries all looks together have passed over.
const LOOKS: &str = "select idx_scan from pg_stat_user_indexes where indexrelname = 'events_due'";
const PASSED: &str =
    "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'events_due'";

/// An old snapshot: no dead row can be removed, and every index is full of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn a_session_holds_xmin() {
    let mut cell = Cell::begin("idle in transaction, holds xmin").await;
    let mut old = PgConnection::connect(&cell.server.url).await.unwrap();
    sqlx::raw_sql("begin isolation level repeatable read; select count(*) from chimeway.events")
        .execute(&mut old)
        .await
        .unwrap();
    let worker = cell.worker();
    let workers = Supervisor::start(2, move |_| worker());
    let load = Load::start(&cell);
    // Two seconds of work at its beginning, and at its end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = rate(&cell).await;
    execute(&cell.pool, DEAD_EVENTS).await;
    let (looks, passed) = (cell.count(LOOKS).await, cell.count(PASSED).await);
    cell.starts();
    let mut last = first;
    while cell.goes_on() {
        last = rate(&cell).await;
    }
    let looks = cell.count(LOOKS).await - looks;
    let each = (cell.count(PASSED).await - passed) / looks.max(1);
    let dead =
        "select sum(n_dead_tup)::bigint from pg_stat_user_tables where schemaname = 'chimeway'";
    let held = "select count(*) from pg_stat_activity where state = 'idle in transaction' and backend_xmin is not null";
    assert!(cell.count(held).await > 0, "nobody holds xmin");
    let dead = cell.count(dead).await;
    let verdict = cell
        .verdict(load, workers, Faults::Other(1, "old snapshot"))
        .await;
    assert!(dead > 100_000, "{dead} dead rows");
    // Now and then one looks from the beginning, and most from where that one found something.
    assert!(
        looks > 100 && each < 25_000,
        "each of {looks} looks passed over {each} entries"
    );
    assert!(
        last > first * 0.5,
        "{first:.0} messages a second, and then {last:.0}"
    );
    assert!(
        verdict.recovery < Duration::from_secs(5),
        "{:?}",
        verdict.recovery
    );
    old.close().await.unwrap();
}

/// Messages a second, over two.
async fn rate(cell: &Cell) -> f64 {
    let (began, before) = (Instant::now(), cell.count(SUCCEEDED).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = u32::try_from(cell.count(SUCCEEDED).await - before).unwrap();
    f64::from(sent) / began.elapsed().as_secs_f64()
}

/// What runs are doing that began long ago, and what became of their last tries.
const LEFT: &str = "
    select count(*) || ' ' || concat_ws(' ', r.state, r.status_reason, '|', d.channel, d.status, d.attempts, 'tries', d.crashes,
        'crashes, next', round(extract(epoch from d.next_attempt_at - now())), '| last', a.outcome, a.error_class,
        '| wakes', round(extract(epoch from r.wake_at - now())), '| owed', d.progress_owed_at is not null)
    from chimeway.workflow_runs r
    left join chimeway.deliveries d on d.workflow_run_id = r.id and d.visit = r.visit
    left join chimeway.delivery_attempts a on a.delivery_id = d.id and a.attempt_number = d.attempts
    where r.ended_at is null and r.started_at < now() - interval '6 s'
    group by r.state, r.status_reason, d.channel, d.status, d.attempts, d.crashes, a.outcome, a.error_class,
        round(extract(epoch from d.next_attempt_at - now())), round(extract(epoch from r.wake_at - now())),
        d.progress_owed_at is not null
    order by count(*) desc";

/// Rows of all kinds are held: whatever else there is ends, and what was held ends when it is let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn a_session_holds_rows() {
    const HOLD: &str = "
        begin;
        create temporary table held (id uuid);
        with r as (select id from chimeway.workflow_runs where ended_at is null order by id desc limit 5 for update skip locked)
            insert into held select id from r;
        with e as (select id from chimeway.events where expand_at is not null limit 5 for update skip locked)
            insert into held select id from e;
        with d as (
            select id from chimeway.deliveries where status in ('pending', 'dispatched', 'failed')
            order by id desc limit 5 for update skip locked
        ) insert into held select id from d;
        with s as (select id from chimeway.signals where routed_at is null limit 5 for update skip locked)
            insert into held select id from s;";
    let mut cell = Cell::begin("idle in transaction, holds rows").await;
    let worker = cell.worker();
    let workers = Supervisor::start(2, move |_| worker());
    let load = Load::start(&cell);
    cell.starts();
    let mut holders = vec![];
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let mut holder = PgConnection::connect(&cell.server.url).await.unwrap();
        sqlx::raw_sql(HOLD).execute(&mut holder).await.unwrap();
        let held: i64 = sqlx::query_scalar("select count(*) from held")
            .fetch_one(&mut holder)
            .await
            .unwrap();
        holders.push((holder, held));
    }
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let held: i64 = holders.iter().map(|(_, held)| held).sum();
    assert!(held > 10, "{held} rows are held");
    // All that is not held is done, however much there was: only the latest is on its way, and what its provider has
    // refused for now (three in a hundred) waits for its next try.
    let behind = "select count(*) from chimeway.workflow_runs r
        where ended_at is null and started_at < now() - interval '6 s' and not exists (
            select from chimeway.deliveries d
            where d.workflow_run_id = r.id and d.status = 'failed' and d.next_attempt_at > now()
        )";
    let waits = "select count(*) from chimeway.deliveries
        where status in ('pending', 'failed') and next_attempt_at < now() - interval '2 s'";
    let only_held = async || {
        let (runs, messages) = (cell.count(behind).await, cell.count(waits).await);
        (runs <= held && messages <= held).then_some(())
    };
    eventually_or(only_held, async || {
        let left = texts(&cell.pool, LEFT).await;
        format!("{held} rows are held, and more than that is left: {left:#?}")
    })
    .await;
    for (mut holder, _) in holders {
        sqlx::raw_sql("rollback")
            .execute(&mut holder)
            .await
            .unwrap();
        holder.close().await.unwrap();
    }
    let held = usize::try_from(held).unwrap();
    let verdict = cell
        .verdict(load, workers, Faults::Other(held, "rows held"))
        .await;
    assert!(
        verdict.recovery < Duration::from_secs(10),
        "{:?}",
        verdict.recovery
    );
}

/// The clock of one worker is five minutes ahead, that of another five minutes behind: nothing ends otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "chaos: scripts/chaos"]
async fn a_clock_is_wrong() {
    let library = faketime();
    let mut cell = Cell::begin("a worker's clock is 5 minutes off").await;
    let worker = cell.worker();
    let workers = Supervisor::start(2, move |started| {
        let offset = if started % 2 == 0 { "+5m" } else { "-5m" };
        worker()
            .environment("LD_PRELOAD", library)
            .environment("FAKETIME", offset)
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    });
    let load = Load::start(&cell);
    cell.starts();
    while cell.goes_on() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let verdict = cell
        .verdict(load, workers, Faults::Other(2, "wrong clocks"))
        .await;
    assert!(
        verdict.recovery < Duration::from_secs(5),
        "{:?}",
        verdict.recovery
    );
    // Lines of their logs are stamped by their own clocks.
    let hours = cell.minutes_logged();
    let apart = hours.iter().max().unwrap() - hours.iter().min().unwrap();
    assert!(
        apart >= 9,
        "the clocks were {apart} minutes apart: libfaketime does nothing"
    );
    let wrong = "select count(*) from chimeway.delivery_attempts
        where started_at not between now() - interval '3 minutes' and now()
            or finished_at not between now() - interval '3 minutes' and now()";
    assert_eq!(
        cell.count(wrong).await,
        0,
        "a worker's clock is in the rows"
    );
}

/// Debian's libfaketime.
fn faketime() -> &'static str {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    let found = places
        .into_iter()
        .find(|place| std::path::Path::new(place).exists());
    found.expect("libfaketime is not installed: run scripts/setup")
}
