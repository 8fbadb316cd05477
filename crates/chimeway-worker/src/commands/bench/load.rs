//! The journeys that are measured, and a host that starts them: through the library, in transactions
//! of its own.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chimeway::{
    Chimeway, Document, Recipient, Signal, Trigger, WorkflowBuilder,
    ids::{ActorId, BadName, SignalName, TenantId, WorkflowKey},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{ground::Ground, process::Workers};
use crate::{database::Database, error::CliError};

pub(super) const MAIL_KEY: &str = "mention_email";
const SIGNAL: &str = "notification_read";
/// The wait of a journey that elapses, and how long after its trigger a signal ends the other one's.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// How many transactions are open at a time, and how many journeys each starts.
const CONNECTIONS: usize = 4;
const BATCH: usize = 250;

/// How a journey ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Journey {
    /// Trigger, in_app sent, a wait of a second elapses, email sent, completed.
    Elapses,
    /// Trigger, in_app sent, a signal comes while it waits, stopped.
    Stops,
}

impl Journey {
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Elapses => "bench_elapses",
            Self::Stops => "bench_stops",
        }
    }

    pub(super) const fn end(self) -> &'static str {
        match self {
            Self::Elapses => "completed",
            Self::Stops => "stopped",
        }
    }

    const fn wait(self) -> &'static str {
        match self {
            Self::Elapses => "PT1S",
            Self::Stops => "PT1H",
        }
    }
}

/// Both, as they are applied.
pub(super) fn documents() -> [Document; 2] {
    [Journey::Elapses, Journey::Stops].map(|journey| {
        WorkflowBuilder::new(journey.key())
            .notify("step_in_app", "in_app", "mention_notification")
            .wait("step_wait_for_read", journey.wait(), |wait| {
                wait.stop_on(SIGNAL)
            })
            .notify("step_email_escalation", "email", MAIL_KEY)
            .document()
    })
}

/// Journeys to start: each has a recipient of its own.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) journey: Journey,
    pub(super) count: usize,
    /// Whose they are: a round has a tenant of its own.
    pub(super) tenant: String,
    /// How many recipients a trigger has; each has a journey of its own.
    pub(super) recipients: usize,
}

impl Load {
    /// The trigger of one of them, or of some.
    pub(super) fn trigger(&self, places: Range<usize>) -> Result<Trigger, BadName> {
        let key = WorkflowKey::new(self.journey.key())?;
        let tenant = TenantId::new(self.tenant.as_str())?;
        let mut trigger = Trigger::new(key, tenant).params(params(places.start));
        if places.len() > 1 {
            for place in places {
                trigger = trigger.recipient(Recipient::new(ActorId::new(actor(place))?));
            }
        }
        Ok(trigger)
    }

    /// What its recipient does.
    pub(super) fn signal(&self, place: usize) -> Result<Signal, BadName> {
        let tenant = TenantId::new(self.tenant.as_str())?;
        Ok(Signal::new(
            tenant,
            ActorId::new(actor(place))?,
            SignalName::new(SIGNAL)?,
        ))
    }
}

/// What the host gives to a trigger.
pub(super) fn params(place: usize) -> Value {
    json!({
        "actor_id": actor(place),
        "name": "Ada",
        "by": "Grace",
        "document": "The plan for the next quarter",
        "document_id": format!("doc_{place}"),
    })
}

pub(super) fn actor(place: usize) -> String {
    format!("user_{place}")
}

/// Starts all of them, and tells the signals of those that are to stop; returns how long the triggers
/// took.
pub(super) async fn run(ground: &Ground, load: &Load) -> Result<Duration, CliError> {
    let next = Arc::new(AtomicUsize::new(0));
    let (begun, waiting) = mpsc::unbounded_channel();
    let mut hosts = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (next, begun) = (Arc::clone(&next), begun.clone());
        let host = Host::new(ground, load);
        hosts.spawn(host.triggers(next, begun));
    }
    drop(begun);
    let signals = Host::new(ground, load).signals(waiting);
    let signals = match load.journey {
        Journey::Stops => Some(tokio::spawn(signals)),
        Journey::Elapses => None,
    };
    let began = Instant::now();
    while let Some(host) = hosts.join_next().await {
        host.map_err(gone)??;
    }
    let took = began.elapsed();
    if let Some(signals) = signals {
        signals.await.map_err(gone)??;
    }
    Ok(took)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
pub(super) fn gone(error: tokio::task::JoinError) -> CliError {
    CliError::Refused(format!("a part of the benchmark broke down: {error}"))
}

/// Journeys whose triggers are committed, and when their signals are to be told.
type Begun = (Instant, Range<usize>);

/// A process beside the workers that triggers and tells.
struct Host {
    database: Database,
    chimeway: Chimeway,
    load: Load,
}

impl Host {
    fn new(ground: &Ground, load: &Load) -> Self {
        Self {
            database: ground.database.clone(),
            chimeway: ground.chimeway.clone(),
            load: load.clone(),
        }
    }

    async fn triggers(
        self,
        next: Arc<AtomicUsize>,
        begun: mpsc::UnboundedSender<Begun>,
    ) -> Result<(), CliError> {
        let mut conn = self.database.connect().await?;
        loop {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            let batch = from..self.load.count.min(from + BATCH);
            if batch.is_empty() {
                break;
            }
            let mut tx = conn.begin().await?;
            let firsts = batch.clone().step_by(self.load.recipients);
            let places = firsts.map(|from| from..batch.end.min(from + self.load.recipients));
            let triggers: Result<Vec<Trigger>, BadName> =
                places.map(|places| self.load.trigger(places)).collect();
            let triggers = triggers.map_err(chimeway::FlowError::from)?;
            self.chimeway.trigger_many(&mut tx, triggers).await?;
            tx.commit().await?;
            // Nobody waits for them where no signals are told.
            let _ = begun.send((Instant::now() + WAIT, batch));
        }
        Ok(conn.close().await?)
    }

    async fn signals(self, mut begun: mpsc::UnboundedReceiver<Begun>) -> Result<(), CliError> {
        let mut conn = self.database.connect().await?;
        while let Some((at, batch)) = begun.recv().await {
            sleep_until(at).await;
            let mut tx = conn.begin().await?;
            let signals: Result<Vec<Signal>, BadName> =
                batch.map(|place| self.load.signal(place)).collect();
            let signals = signals.map_err(chimeway::FlowError::from)?;
            self.chimeway.track_many(&mut tx, signals).await?;
            tx.commit().await?;
        }
        Ok(conn.close().await?)
    }
}

/// How often it is looked whether all have ended.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until no run of this tenant is live.
pub(super) async fn ended(
    pool: &PgPool,
    tenant: &str,
    count: usize,
    workers: &mut Workers,
) -> Result<(), CliError> {
    // Slower than ten a second is broken.
    let patience =
        Duration::from_secs(60) + Duration::from_millis(100) * count.try_into().unwrap_or(u32::MAX);
    let began = Instant::now();
    loop {
        let mut conn = pool.acquire().await?;
        let live: bool = sqlx::query_scalar(
            "select exists (select from chimeway.workflow_runs where tenant_id = $1 and ended_at is null)",
        )
        .bind(tenant)
        .fetch_one(&mut *conn)
        .await?;
        drop(conn);
        if !live {
            return Ok(());
        }
        workers.check()?;
        if began.elapsed() > patience {
            return Err(CliError::Refused(format!(
                "the journeys had not ended after {} s; try a smaller --count",
                patience.as_secs()
            )));
        }
        sleep(LOOK).await;
    }
}

/// What the rows of a tenant say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// From the first trigger to the last end, in seconds: to its commit, where the server keeps when that was.
    pub(super) seconds: f64,
    /// Runs that ended as they should.
    pub(super) ended: i64,
    /// Signals that came before their run waited: they end the wait as it begins.
    pub(super) early_signals: i64,
}

pub(super) async fn told(conn: &mut PgConnection, load: &Load) -> Result<Told, CliError> {
    let (seconds, ended) = sqlx::query_as(
        "select coalesce(extract(epoch from max( \
             case when current_setting('track_commit_timestamp')::bool then pg_xact_commit_timestamp(xmin) \
                else ended_at end) - min(started_at)), 0)::float8, \
         count(*) filter (where state = $2) from chimeway.workflow_runs where tenant_id = $1",
    )
    .bind(&load.tenant)
    .bind(load.journey.end())
    .fetch_one(&mut *conn)
    .await?;
    let early_signals = sqlx::query_scalar(
        "select count(*) from chimeway.workflow_transitions t \
         join chimeway.signals s on s.id = t.signal_id \
         join chimeway.workflow_transitions w on w.workflow_run_id = t.workflow_run_id \
           and w.reason = 'waiting_for_step_progression' \
         where s.tenant_id = $1 and s.occurred_at < w.inserted_at",
    )
    .bind(&load.tenant)
    .fetch_one(conn)
    .await?;
    Ok(Told {
        seconds,
        ended,
        early_signals,
    })
}
