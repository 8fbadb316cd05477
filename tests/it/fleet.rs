//! A host application and fleets of workers inside the test's own process.

use std::time::Duration;

use chimeway::{
    Chimeway, Document, Recipient, Signal, Trigger,
    flow::{ChimewayBuilder, workers::Workers},
    ids::{ActorId, RunId, SignalName, TenantId, WorkflowKey},
};
use chimeway_testkit::{RecordingChannel, TENANT};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::eventually;

/// The journey of most of these tests: in the app, wait, then by email unless it was read.
pub(crate) fn journey(wait: &str) -> String {
    include_str!("../../journeys/mention_escalation.yaml").replace("PT2H", wait)
}

/// An application beside the workers: it triggers and tells signals, each in a transaction of its own.
#[derive(Clone)]
pub(crate) struct Host {
    chimeway: Chimeway,
    pool: PgPool,
}

impl Host {
    /// Knows the journey with a wait of this long.
    pub(crate) async fn with_journey(pool: &PgPool, wait: &str) -> Self {
        let chimeway = Chimeway::builder().extra_channel("email").unwrap().build();
        let document = Document::from_yaml("journey", &journey(wait)).unwrap();
        chimeway.apply(pool, &document).await.unwrap();
        let pool = pool.clone();
        Self { chimeway, pool }
    }

    /// Triggers the journey for someone inside a transaction.
    pub(crate) async fn trigger_in(&self, conn: &mut PgConnection, recipient: &str) {
        self.trigger_for(conn, [recipient.to_owned()]).await;
    }

    async fn trigger_for(
        &self,
        conn: &mut PgConnection,
        recipients: impl IntoIterator<Item = String>,
    ) {
        let key = WorkflowKey::new("mention_escalation").unwrap();
        let mut trigger = Trigger::new(key, tenant()).params(json!({}));
        for recipient in recipients {
            trigger = trigger.recipient(Recipient::new(ActorId::new(recipient).unwrap()));
        }
        self.chimeway.trigger(conn, trigger).await.unwrap();
    }

    /// Triggers the journey for someone.
    pub(crate) async fn trigger(&self, recipient: &str) {
        let mut tx = self.pool.begin().await.unwrap();
        self.trigger_in(&mut tx, recipient).await;
        tx.commit().await.unwrap();
    }

    /// Triggers the journey once for many: `user_0`, `user_1` ...
    pub(crate) async fn trigger_many(&self, count: usize) {
        self.trigger_range(0..count).await;
    }

    /// Triggers the journey once for some of the many.
    pub(crate) async fn trigger_range(&self, range: std::ops::Range<usize>) {
        let mut tx = self.pool.begin().await.unwrap();
        self.trigger_for(&mut tx, range.map(|n| format!("user_{n}")))
            .await;
        tx.commit().await.unwrap();
    }

    /// Tells inside a transaction that someone has read.
    pub(crate) async fn read_in(&self, conn: &mut PgConnection, recipient: &str) {
        let name = SignalName::new("notification_read").unwrap();
        let signal = Signal::new(tenant(), ActorId::new(recipient).unwrap(), name);
        self.chimeway.track(conn, signal).await.unwrap();
    }

    /// Tells that someone has read; the database's time when that was committed.
    pub(crate) async fn read(&self, recipient: &str) -> DateTime<Utc> {
        let mut tx = self.pool.begin().await.unwrap();
        self.read_in(&mut tx, recipient).await;
        tx.commit().await.unwrap();
        now(&self.pool).await
    }

    /// The run of someone who was triggered for once.
    pub(crate) async fn run_of(&self, recipient: &str) -> RunId {
        sqlx::query_scalar("select id from chimeway.workflow_runs where actor_id = $1")
            .bind(recipient)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The state of someone's run; none where there is no run yet.
    pub(crate) async fn state_of(&self, recipient: &str) -> Option<String> {
        sqlx::query_scalar("select state from chimeway.workflow_runs where actor_id = $1")
            .bind(recipient)
            .fetch_optional(&self.pool)
            .await
            .unwrap()
    }

    /// Waits until someone's run is in a state.
    pub(crate) async fn until(&self, recipient: &str, state: &str) {
        eventually(&format!("the run of {recipient} is {state}"), async || {
            (self.state_of(recipient).await.as_deref() == Some(state)).then_some(())
        })
        .await;
    }

    /// Waits until so many runs have ended.
    pub(crate) async fn until_ended(&self, count: usize) {
        let count = i64::try_from(count).unwrap();
        let statement = "select count(*) from chimeway.workflow_runs where ended_at is not null";
        eventually(&format!("{count} runs end"), async || {
            (number(&self.pool, statement).await == count).then_some(())
        })
        .await;
    }

    /// The same where tries may have failed: nobody waits for their backoff.
    pub(crate) async fn until_ended_after_all(&self, count: usize) {
        let count = i64::try_from(count).unwrap();
        let statement = "select count(*) from chimeway.workflow_runs where ended_at is not null";
        eventually(&format!("{count} runs end"), async || {
            end_backoffs(&self.pool).await;
            (number(&self.pool, statement).await == count).then_some(())
        })
        .await;
    }

    /// Where someone's run is and why.
    pub(crate) async fn explain(&self, recipient: &str) -> chimeway::flow::Explanation {
        let run = self.run_of(recipient).await;
        let mut conn = self.pool.acquire().await.unwrap();
        let explained = self
            .chimeway
            .workflows()
            .explain(&mut conn, &tenant(), run)
            .await;
        explained.unwrap().unwrap()
    }
}

fn tenant() -> TenantId {
    TenantId::new(TENANT).unwrap()
}

/// The database's time.
pub(crate) async fn now(pool: &PgPool) -> DateTime<Utc> {
    let statement = "select clock_timestamp()";
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// What a statement counts.
pub(crate) async fn number(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// The texts that a statement selects.
pub(crate) async fn texts(pool: &PgPool, statement: &'static str) -> Vec<String> {
    sqlx::query_scalar(statement).fetch_all(pool).await.unwrap()
}

pub(crate) async fn execute(pool: &PgPool, statement: &'static str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

/// Whoever is to be tried again later is tried now: tests do not wait for a backoff of 15 s.
pub(crate) async fn end_backoffs(pool: &PgPool) {
    let statement = "update chimeway.deliveries set next_attempt_at = clock_timestamp()
                     where id in (
                        select id from chimeway.deliveries
                        where status = 'failed' and next_attempt_at > clock_timestamp()
                        for no key update skip locked
                     );
                     select chimeway.wake('chimeway_delivery')";
    execute(pool, statement).await;
}

/// A pool as a process of its own would have.
pub(crate) async fn pool_of_its_own(database_url: &str, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .connect(database_url)
        .await
        .unwrap()
}

/// A handle whose channels are this one.
pub(crate) fn recording(channel: &RecordingChannel) -> ChimewayBuilder {
    let builder = Chimeway::builder()
        .channel("in_app", channel.clone())
        .unwrap();
    builder.channel("email", channel.clone()).unwrap()
}

/// Workers inside this process.
pub(crate) struct Fleet {
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Fleet {
    pub(crate) fn start(workers: Workers) -> Self {
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(workers.grace(Duration::from_secs(10)).run(async {
            let _ = stopped.await;
        }));
        Self { stop, running }
    }

    /// Drains it.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}
