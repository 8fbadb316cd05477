//! What users of the original rely on, scenario by scenario. `docs/scenarios.md` lists them by number
//! with the tests that show each; where ours differs on purpose, it says why.

mod coverage;
mod definitions;
mod enqueue;
mod gaps;
mod inbox;
mod outcomes;
mod preferences;
mod progression;
mod recovery;
mod retries;
mod signals;
mod tenants;
mod traces;
mod trigger;
mod waits;

use chimeway::{
    Chimeway, FlowError,
    flow::workflows::Progressed,
    ids::{NotificationId, RunId},
};
use chimeway_testkit::Story;
use sqlx::{PgConnection, PgPool, postgres::PgListener};

use crate::{
    fleet::{execute, number},
    tools::{MORNING, tenant, trigger, trigger_of},
};

/// The journey that the original's own tests play: in the app, half an hour, then mail; mail at once
/// where the app does not take it.
const BASE: &str = "\
workflow_key: comment.escalation
workflow_version: 1
steps:
  - step_key: in_app
    step_order: 1
    channel: in_app
    config:
      progress:
        - {kind: wait_until, anchor: prior_delivery_terminal_at, delay_seconds: 1800, to_step: email}
        - {kind: on_outcome, outcome: bounced, to_step: email}
  - {step_key: email, step_order: 2, channel: email}
";
const KEY: &str = "comment.escalation";

/// The base journey, whose wait ends when one of these comes.
fn listening(signals: &str) -> String {
    let wait = format!("to_step: email, cancel_signals: [{signals}]}}");
    BASE.replacen("to_step: email}", &wait, 1)
}

/// A workflow of one step over `in_app` with these rules.
fn one_step(rules: &str) -> String {
    format!(
        "
workflow_key: one_step
workflow_version: 1
steps:
  - {{step_key: in_app, step_order: 1, channel: in_app, config: {{progress: [{rules}]}}}}
"
    )
}

/// A story with a workflow in it, and a run of it that has not been looked at.
async fn begin(document: &str, key: &str) -> (Story, RunId) {
    let story = Story::begin(MORNING).await;
    story.apply(document).await;
    let run = story.trigger(key, "ada").await;
    (story, run)
}

/// From now on each new email is due an hour after it was planned, so that a test can look at it
/// before it is sent.
async fn hold_emails(story: &Story) {
    execute(
        story.pool(),
        "create function later() returns trigger language plpgsql as $$
            begin new.next_attempt_at := new.next_attempt_at + interval '1 hour'; return new; end $$;
         create trigger later before insert on chimeway.deliveries
            for each row when (new.channel = 'email') execute function later()",
    )
    .await;
}

/// How many emails there are, sent or not.
async fn emails(story: &Story) -> i64 {
    let count = "select count(*) from chimeway.deliveries where channel = 'email'";
    number(story.pool(), count).await
}

/// How many rows wait for a worker, now or later. There is no other job.
async fn jobs(story: &Story) -> i64 {
    let count = "select (select count(*) from chimeway.events where expand_at is not null)
                + (select count(*) from chimeway.workflow_runs where wake_at is not null)
                + (select count(*) from chimeway.signals where route_at is not null)
                + (select count(*) from chimeway.deliveries
                    where next_attempt_at is not null or progress_owed_at is not null)";
    number(story.pool(), count).await
}

/// How many events, notifications, deliveries and attempts there are.
const COUNTS: &str = "select concat_ws(' ', (select count(*) from chimeway.events),
    (select count(*) from chimeway.notifications), (select count(*) from chimeway.deliveries),
    (select count(*) from chimeway.delivery_attempts))";

/// Lets a run go on; why it did not, or `moved`.
async fn progress(story: &Story, run: RunId) -> &'static str {
    let mut tx = story.pool().begin().await.unwrap();
    let progressed = progress_in(&mut tx, story.chimeway(), run).await.unwrap();
    tx.commit().await.unwrap();
    progressed.noop().unwrap_or("moved")
}

async fn progress_in(
    conn: &mut PgConnection,
    chimeway: &Chimeway,
    run: RunId,
) -> Result<Progressed, FlowError> {
    chimeway.workflows().progress(conn, &tenant(), run).await
}

/// The notification of a run.
async fn notification_of(story: &Story, run: RunId) -> NotificationId {
    let mut conn = story.pool().acquire().await.unwrap();
    let found = story
        .chimeway()
        .workflows()
        .get_run(&mut conn, &tenant(), run)
        .await;
    found.unwrap().unwrap().notification_id.unwrap()
}

/// The queues that a trigger through this handle wakes.
async fn woken_by_a_trigger(pool: &PgPool, chimeway: &Chimeway, key: &str) -> Vec<String> {
    let mut listener = PgListener::connect_with(pool).await.unwrap();
    listener.listen("chimeway").await.unwrap();
    let keyed = trigger_of(KEY, "ada").idempotency_key(key);
    trigger(chimeway, pool, keyed).await.unwrap();
    // What comes before this is all there was.
    sqlx::query("select pg_notify('chimeway', 'that is all')")
        .execute(pool)
        .await
        .unwrap();
    let mut heard = vec![];
    loop {
        let told = listener.recv().await.unwrap().payload().to_owned();
        if told == "that is all" {
            return heard;
        }
        heard.push(told);
    }
}
