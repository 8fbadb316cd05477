//! `chimeway bench` says what its documents promise, whatever the figures are; and what must not slip
//! is held without timing anything: statements do not grow with a batch, rows of a journey are a fixed
//! number.

use chimeway::{Recipient, Trigger, flow::workers::Workers, queue::QueueName};
use chimeway_testkit::{RecordingChannel, Story, TestDb};
use serde_json::Value;
use sqlx::PgPool;

use crate::{
    fleet::{Fleet, Host, recording},
    logs::Logs,
    programs::{Ran, chimeway, words},
    support::eventually,
    tools::{MENTION, MORNING, actor, tenant, trigger_of},
};

/// Runs a benchmark in a database of its own, and fails unless its document has these keys.
#[track_caller]
fn keys(ran: Ran, pointers: &[&str]) -> Value {
    let document = ran.expect(0).json();
    for pointer in ["/bench", "/server/fsync", "/server/synchronous_commit"]
        .iter()
        .chain(pointers)
    {
        assert!(
            document.pointer(pointer).is_some(),
            "no {pointer} in {document:#}"
        );
    }
    document
}

async fn bench(line: &str) -> Ran {
    let db = TestDb::create().await;
    let url = db.url();
    let line = format!("bench {line} --json --database-url {url}");
    let ran = tokio::task::spawn_blocking(move || chimeway("", &words(&line)));
    ran.await.unwrap()
}

#[tokio::test]
async fn journeys_and_their_floor_are_measured_in_turns() {
    let ran = bench("journeys --count 50 --rounds 2 --workers 2 --limit 10").await;
    let document = keys(
        ran,
        &[
            "/count",
            "/workers",
            "/limit",
            "/listen",
            "/floor/rate",
            "/statements",
        ],
    );
    assert_eq!(document["workers"], 2);
    assert_eq!(document["floor"]["rounds"].as_array().unwrap().len(), 2);
    for journey in ["j1", "j2"] {
        for key in [
            "rate",
            "rates",
            "share_of_floor",
            "trigger_seconds",
            "early_signals",
            "statements_per_journey",
            "commits_per_journey",
            "row_writes_per_journey",
            "wal_bytes_per_journey",
            "worker_cpu_seconds_per_1000",
            "server_cpu_seconds_per_1000",
            "host_cpu_seconds_per_1000",
            "worker_peak_mib",
            "server_private_peak_mib",
            "tables_per_journey",
        ] {
            assert!(
                document[journey].get(key).is_some(),
                "{journey}.{key}: {document:#}"
            );
        }
        assert_eq!(document[journey]["rates"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_floor_has_a_private_server_that_keeps_what_it_commits() {
    let line = "bench floor --count 1200 --rounds 1 --json";
    let ran = tokio::task::spawn_blocking(|| chimeway("", &words(line)));
    let document = keys(
        ran.await.unwrap(),
        &[
            "/count",
            "/rate",
            "/rate_after_wait",
            "/rounds/0/rate",
            "/row_writes_per_journey",
            "/wal_bytes_per_journey",
            "/tables_per_journey",
        ],
    );
    // The last one: else a journey's end is when its run was locked, and not its commit.
    let kept = ["fsync", "synchronous_commit", "full_page_writes"];
    for setting in kept.into_iter().chain(["track_commit_timestamp"]) {
        assert_eq!(document["server"][setting], "on", "{setting}");
    }
}

#[tokio::test]
async fn latencies_are_measured_of_every_journey() {
    let document = keys(
        bench("latency --rate 20 --seconds 1").await,
        &["/rate", "/seconds", "/commits_timed_by", "/unit"],
    );
    for (what, count) in [
        ("trigger_call", 20),
        ("trigger_to_channel", 20),
        ("signal_to_stopped", 10),
        ("due_to_channel", 10),
    ] {
        assert_eq!(document[what]["count"], count, "{what}: {document:#}");
        for key in ["p50", "p99", "max"] {
            assert!(document[what][key].is_number(), "{what}: {document:#}");
        }
    }
}

#[tokio::test]
async fn what_waits_is_idle_then_late_then_drained() {
    let document = keys(
        bench("waiting --runs 400 --idle-seconds 1").await,
        &[
            "/idle_cpu_of_a_core/workers",
            "/idle_cpu_of_a_core/server",
            "/drain/seconds",
            "/drain/rate",
            "/drain/floor_rate",
            "/drain/share_of_floor",
            "/drain/floor_rate_of_same_rows",
            "/drain/share_of_floor_of_same_rows",
            "/drain/worker_cpu_seconds_per_1000",
            "/drain/server_cpu_seconds_per_1000",
            "/worker_peak_mib",
        ],
    );
    assert_eq!(document["due"], 40);
    assert_eq!(document["lateness_ms"]["count"], 200);
}

#[tokio::test]
async fn growth_compares_three_states_of_a_database() {
    let document = keys(
        bench("growth --runs 500 --count 20 --rounds 1").await,
        &["/runs", "/count"],
    );
    for state in ["empty", "history", "snapshot"] {
        for key in ["rate", "share_of_floor", "wal_bytes_per_journey"] {
            assert!(document[state][key].is_number(), "{document:#}");
        }
    }
}

#[tokio::test]
async fn a_database_in_use_is_left_alone() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let line = format!("bench floor --database-url {}", story.db().url());
    let ran = tokio::task::spawn_blocking(move || chimeway("", &words(&line)));
    let error = ran.await.unwrap().expect(1).err;
    assert!(error.contains("name an empty one"), "{error}");
}

/// How many statements J1 takes for so many recipients, from its trigger to its end.
async fn statements(recipients: usize) -> usize {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    // Definitions and connections are known then.
    story.trigger("mention_escalation", "somebody").await;
    story.drain().await;
    story.advance("PT2H").await;

    let (logs, _watching) = Logs::begin();
    let trigger = Trigger::new("mention_escalation".parse().unwrap(), tenant());
    let everybody = (0..recipients).map(|place| Recipient::new(actor(&format!("user_{place}"))));
    let trigger = everybody.fold(trigger, Trigger::recipient);
    let mut tx = story.pool().begin().await.unwrap();
    story.chimeway().trigger(&mut tx, trigger).await.unwrap();
    tx.commit().await.unwrap();
    story.drain().await;
    story.advance("PT2H").await;
    assert_eq!(completed(story.pool()).await, recipients + 1);
    logs.text().matches("sqlx::query: summary").count()
}

async fn completed(pool: &PgPool) -> usize {
    let completed: i64 =
        sqlx::query_scalar("select count(*) from chimeway.workflow_runs where state = 'completed'")
            .fetch_one(pool)
            .await
            .unwrap();
    completed.try_into().unwrap()
}

/// This dispatcher claims 100 deliveries at a time, so that 500 are five batches.
#[tokio::test]
async fn statements_do_not_grow_with_the_batch() {
    let (ten, hundred, five_hundred) = (
        statements(10).await,
        statements(100).await,
        statements(500).await,
    );
    assert!(ten > 10, "{ten} statements: the log is not what it was");
    assert_eq!(hundred, ten, "a hundred take as many as ten");
    // A batch that was full is followed by another round, for what is left: less than what a whole journey takes.
    assert!(
        five_hundred - ten <= 4 * (ten / 2),
        "{ten} for 10, {five_hundred} for 500"
    );
}

/// How many statements one trigger for so many takes.
async fn statements_of_a_trigger(recipients: usize) -> usize {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    story.trigger("mention_escalation", "somebody").await;
    let everybody = (0..recipients).map(|place| Recipient::new(actor(&format!("user_{place}"))));
    let trigger = Trigger::new("mention_escalation".parse().unwrap(), tenant());
    let trigger = everybody.fold(trigger, Trigger::recipient);
    let mut tx = story.pool().begin().await.unwrap();
    let (logs, _watching) = Logs::begin();
    story.chimeway().trigger(&mut tx, trigger).await.unwrap();
    let statements = logs.text().matches("sqlx::query: summary").count();
    tx.commit().await.unwrap();
    let runs: i64 = sqlx::query_scalar("select count(*) from chimeway.workflow_runs")
        .fetch_one(story.pool())
        .await
        .unwrap();
    assert_eq!(usize::try_from(runs).unwrap(), recipients + 1);
    statements
}

#[tokio::test]
async fn a_trigger_for_a_thousand_is_a_handful_of_statements() {
    let one = statements_of_a_trigger(1).await;
    assert!((3..10).contains(&one), "{one} statements");
    assert_eq!(statements_of_a_trigger(1_000).await, one);
}

/// A process that has just begun knows no definition: those who are claimed together need it at the same time.
#[tokio::test]
async fn a_definition_is_read_once_for_all_that_are_claimed_together() {
    let db = TestDb::create().await;
    let host = Host::with_journey(db.pool(), "PT1H").await;
    host.trigger_many(40).await;
    let channel = RecordingChannel::default();
    let (logs, _watching) = Logs::begin();
    let workers = Workers::new(recording(&channel).build(), db.pool().clone());
    let fleet = Fleet::start(workers.limit(QueueName::Delivery, 80));
    eventually("all forty are sent", async || {
        (channel.sent().len() == 40).then_some(())
    })
    .await;
    fleet.stop().await;
    let read = logs.text().matches("summary=\"-- workflows::plans").count();
    assert_eq!(read, 1, "times that the definition was read");
}

/// Counts every row that is written to the tables, by triggers of its own; not the clock of stories,
/// which is a row of the settings.
async fn count_writes(pool: &PgPool) {
    for statement in [
        "create sequence public.row_writes minvalue 0 start 0",
        "create function public.count_write() returns trigger language plpgsql as $$ begin
            perform nextval('public.row_writes'); return null; end $$",
        "do $$ declare t text; begin
            for t in select tablename from pg_tables where schemaname = 'chimeway'
                and tablename <> 'settings' loop
                execute format('create trigger count_writes after insert or update or delete
                    on chimeway.%I for each row execute function public.count_write()', t);
            end loop;
        end $$",
        "select nextval('public.row_writes')",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
}

async fn writes(pool: &PgPool) -> i64 {
    let last = sqlx::query_scalar("select last_value from public.row_writes");
    last.fetch_one(pool).await.unwrap()
}

/// Event, notification, run and its three updates, six lines, two deliveries that are claimed and
/// recorded, two attempts.
#[tokio::test]
async fn a_journey_that_elapses_writes_twenty_rows() {
    const ROWS: i64 = 1 + 1 + (1 + 3) + 6 + 2 * (1 + 2) + 2;
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    count_writes(story.pool()).await;
    for journeys in [1_i64, 30] {
        let before = writes(story.pool()).await;
        let mut tx = story.pool().begin().await.unwrap();
        for place in 0..journeys {
            let trigger = trigger_of("mention_escalation", &format!("user_{place}"));
            story.chimeway().trigger(&mut tx, trigger).await.unwrap();
        }
        tx.commit().await.unwrap();
        story.drain().await;
        story.advance("PT2H").await;
        let written = writes(story.pool()).await - before;
        assert_eq!(written, journeys * ROWS, "{journeys} journeys");
    }
}

/// Event, notification, run and its two updates, five lines, one delivery that is claimed and recorded, its attempt;
/// the signal, and that every run has seen it.
#[tokio::test]
async fn a_journey_that_is_stopped_writes_sixteen_rows() {
    const ROWS: i64 = 1 + 1 + (1 + 2) + 5 + (1 + 2) + 1 + (1 + 1);
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    count_writes(story.pool()).await;
    for journeys in [1_i64, 30] {
        let before = writes(story.pool()).await;
        let people = || (0..journeys).map(|place| format!("user_{place}"));
        for person in people() {
            story.trigger("mention_escalation", &person).await;
        }
        story.drain().await;
        for person in people() {
            story.signal(&person, "notification_read").await;
        }
        story.drain().await;
        let written = writes(story.pool()).await - before;
        assert_eq!(written, journeys * ROWS, "{journeys} journeys");
        story.pass("PT3H").await;
    }
}
