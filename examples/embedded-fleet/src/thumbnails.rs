//! The host's own work: a picture is uploaded, an apalis job makes its thumbnail and tells the owner.

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage, queries::push_tasks};
use chimeway::{
    Chimeway, Document, Recipient, Trigger, Workflow, WorkflowBuilder,
    ids::{self, ActorId, TenantId},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::Fallible;

const TENANT: &str = "org_456";
/// Named, for by default the queue is called as the Rust type is, and renaming that would orphan it.
const QUEUE: &str = "thumbnails";
/// How many at a time. apalis has no limit of its own: it would take the whole queue into memory.
const AT_ONCE: usize = 4;

/// The job.
#[derive(Debug, Serialize, Deserialize)]
struct MakeThumbnail {
    picture: i64,
}

/// What the job needs.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) pool: PgPool,
    pub(crate) chimeway: Chimeway,
}

/// The journey that a finished thumbnail starts.
struct PictureReady;

impl Workflow for PictureReady {
    fn workflow(&self) -> Document {
        WorkflowBuilder::new("picture_ready")
            .notify("in_app", "in_app", "picture_ready")
            .document()
    }
}

/// The host's own table.
pub(crate) async fn migrate(pool: &PgPool) -> Fallible<()> {
    let table = "create table if not exists pictures (
        id bigint generated always as identity primary key,
        owner text not null, name text not null, thumbnail text
    )";
    sqlx::raw_sql(table).execute(pool).await?;
    Ok(())
}

/// Keeps a picture and enqueues its job, in one transaction.
pub(crate) async fn upload(pool: &PgPool, owner: &str, name: &str) -> Fallible<i64> {
    let mut tx = pool.begin().await?;
    let picture =
        sqlx::query_scalar("insert into pictures (owner, name) values ($1, $2) returning id")
            .bind(owner)
            .bind(name)
            .fetch_one(&mut *tx)
            .await?;
    let job = serde_json::to_vec(&MakeThumbnail { picture })?;
    // Tried again at once after a failure: few times, then.
    let job = TaskBuilder::new(job).max_attempts(3).build();
    push_tasks(&mut *tx, QUEUE, vec![job]).await?;
    tx.commit().await?;
    Ok(picture)
}

/// Runs the queue until told to stop.
///
/// An apalis-postgres worker ends at the first error of the database, and work that it had finished
/// may stay unacknowledged: it is started anew after a pause, and a job may run twice.
pub(crate) async fn work(host: Host, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let config = Config::default()
            .queue(QUEUE)
            .batch_size(AT_ONCE)
            .heartbeat_interval(Duration::from_secs(10))
            .missed_heartbeats(6)
            .lock_tasks(false);
        // Without an interval an idle worker looks at every heartbeat only.
        let queue = PostgresStorage::new(&host.pool)
            .with_config(config)
            .poll_with_interval(Duration::from_millis(200));
        let host = host.clone();
        // A name that was never used: jobs of a dead worker of the same name would not be taken back.
        let worker = WorkerBuilder::new(format!("{QUEUE}-{}", ids::fresh()))
            .backend(queue)
            .concurrency(AT_ONCE)
            .catch_panic()
            .parallelize(tokio::spawn)
            .build(move |job: MakeThumbnail| {
                let host = host.clone();
                async move { host.make(job).await }
            });
        let stopped = stop.clone().cancelled_owned();
        let stopped = async move {
            stopped.await;
            Ok::<(), WorkerError>(())
        };
        let Err(error) = worker.run_until(stopped).await else {
            return;
        };
        eprintln!("the worker of thumbnails ended and will be started again: {error}");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => {}
        }
    }
}

impl Host {
    /// Makes a thumbnail and starts the journey that tells its owner, in one transaction: whatever
    /// apalis makes of the job afterwards, neither is there without the other, and neither twice.
    async fn make(&self, job: MakeThumbnail) -> Result<(), BoxDynError> {
        let mut tx = self.pool.begin().await?;
        let owner: Option<String> = sqlx::query_scalar(
            "update pictures set thumbnail = 'small ' || name where id = $1 and thumbnail is null
             returning owner",
        )
        .bind(job.picture)
        .fetch_optional(&mut *tx)
        .await?;
        // The job ran before.
        let Some(owner) = owner else { return Ok(()) };
        let trigger = Trigger::of(&PictureReady, TenantId::new(TENANT)?)?
            .params(json!({ "picture": job.picture }))
            .recipient(Recipient::new(ActorId::new(owner)?))
            .idempotency_key(format!("picture-{}", job.picture));
        self.chimeway.trigger(&mut tx, trigger).await?;
        tx.commit().await?;
        Ok(())
    }
}
