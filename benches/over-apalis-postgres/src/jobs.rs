//! The jobs: one for each step of a journey. Each does its step and enqueues the next one in one
//! transaction, so that neither is there without the other.

use std::{
    io::Read as _,
    task::{Context, Poll},
    time::Duration,
};

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage, queries::push_tasks};
use chimeway::ids;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::time::{Interval, MissedTickBehavior};
use uuid::Uuid;

use crate::{
    Fallible,
    rows::{Journeys, Mail, WAIT_SECONDS},
};

const QUEUE: &str = "journeys";
/// What a worker prints when it is about to begin.
pub(crate) const READY: &str = "ready";
/// Connections of a worker, as `chimeway worker` has.
const POOL: u32 = 10;

/// How often an idle worker looks.
const LOOK: Duration = Duration::from_millis(5);

/// When an idle worker looks: apalis' own interval may lose its waker when it fires while a look is under way, and the
/// worker then sleeps until its next heartbeat.
struct Ticks(Interval);

impl Ticks {
    fn every(period: Duration) -> Self {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self(ticks)
    }
}

impl PollStrategy for Ticks {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut ticked = Poll::Pending;
        // To the one that is still to come, which wakes us.
        while self.0.poll_tick(cx).is_ready() {
            ticked = Poll::Ready(Some(()));
        }
        ticked
    }
}

/// What is to be done next for a run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Send the in-app message.
    InApp { run: Uuid, delivery: Uuid },
    /// The wait is over.
    Elapse { run: Uuid },
    /// Send the email.
    Email { run: Uuid, delivery: Uuid },
}

/// Enqueues jobs in the caller's transaction; the storage keeps whole seconds.
pub(crate) async fn enqueue(
    conn: &mut PgConnection,
    jobs: &[Job],
    in_seconds: u64,
) -> Fallible<()> {
    let mut tasks = vec![];
    for job in jobs {
        let task = TaskBuilder::new(serde_json::to_vec(job)?).max_attempts(5);
        let task = match in_seconds {
            0 => task,
            seconds => task.run_in_seconds(seconds),
        };
        tasks.push(task.build());
    }
    Ok(push_tasks(conn, QUEUE, tasks).await?)
}

/// Runs jobs until standard input ends.
pub(crate) async fn work(url: &str, limit: usize) -> Fallible<()> {
    let pool = PgPoolOptions::new()
        .max_connections(POOL)
        .connect(url)
        .await?;
    let journeys = Journeys::read(&mut *pool.acquire().await?, "").await?;
    let config = Config::default()
        .queue(QUEUE)
        .batch_size(limit)
        .lock_tasks(false);
    let queue = PostgresStorage::new(&pool)
        .with_config(config)
        .poll_with_strategy(Ticks::every(LOOK));
    let mail = Mail::compile()?;
    let handled = pool.clone();
    let worker = WorkerBuilder::new(format!("{QUEUE}-{}", ids::fresh()))
        .backend(queue)
        .concurrency(limit)
        .catch_panic()
        .parallelize(tokio::spawn)
        .build(move |job: Job| {
            let (pool, journeys, mail) = (handled.clone(), journeys.clone(), mail.clone());
            async move { handle(&pool, &journeys, &mail, job).await }
        });
    println!("{READY}");
    let ended = tokio::task::spawn_blocking(|| {
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut [0; 64]), Ok(1..)) {}
    });
    let ended = async move {
        let _ = ended.await;
        Ok::<(), WorkerError>(())
    };
    Ok(worker.run_until(ended).await?)
}

async fn handle(
    pool: &PgPool,
    journeys: &Journeys,
    mail: &Mail,
    job: Job,
) -> Result<(), BoxDynError> {
    let mut conn = pool.acquire().await?;
    match job {
        Job::InApp { run, delivery } => {
            // As an engine does that knows only ids: what is sent is read first.
            journeys.message(&mut conn, delivery).await?;
            let mut tx = conn.begin().await?;
            journeys.sent_in_app(&mut tx, run, delivery).await?;
            enqueue(&mut tx, &[Job::Elapse { run }], WAIT_SECONDS).await?;
            tx.commit().await?;
        }
        Job::Elapse { run } => {
            let mut tx = conn.begin().await?;
            let delivery = journeys.elapsed(&mut tx, run).await?;
            enqueue(&mut tx, &[Job::Email { run, delivery }], 0).await?;
            tx.commit().await?;
        }
        Job::Email { run, delivery } => {
            let params = journeys.message(&mut conn, delivery).await?;
            let hash = mail.render(run, delivery, params)?;
            let mut tx = conn.begin().await?;
            journeys.sent_email(&mut tx, run, delivery, &hash).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}
