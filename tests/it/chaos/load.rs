//! Hosts beside the workers: they trigger, from SQL and from Rust, commit and roll back, repeat keys, tell signals,
//! and decide. What a commit brought is known by the host's own rows, written in the same transaction.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chimeway::{
    Chimeway, Recipient, Signal, Trigger,
    ids::{ActorId, EventId, RunId, SignalName, TenantId, WorkflowKey},
};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cell::Cell;

/// How many hosts there are.
const HOSTS: usize = 3;
/// Between two triggers of one host, at most, in milliseconds.
const PACE: u64 = 50;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the hosts did.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Committed, as far as they were told.
    pub(crate) triggers: AtomicUsize,
    pub(crate) rolled_back: AtomicUsize,
    pub(crate) repeated: AtomicUsize,
    pub(crate) signals: AtomicUsize,
    pub(crate) decisions: AtomicUsize,
    /// Whatever the database refused, or did not answer.
    pub(crate) errors: AtomicUsize,
    /// The longest call of a host, in milliseconds.
    pub(crate) longest: AtomicU64,
}

pub(crate) struct Load {
    stop: CancellationToken,
    told: Arc<Told>,
    running: Vec<JoinHandle<()>>,
}

impl Load {
    /// Hosts and people, over connections of their own.
    pub(crate) fn start(cell: &Cell) -> Self {
        let (stop, told) = (CancellationToken::new(), Arc::<Told>::default());
        let mut running = vec![];
        for number in 0..HOSTS {
            let host = Host {
                number,
                chimeway: Chimeway::builder().extra_channel("email").unwrap().build(),
                pool: cell.pool.clone(),
                tenant: cell.tenant(),
                rng: cell.rng(&format!("host {number}")),
                told: Arc::clone(&told),
                count: 0,
                signals: BinaryHeap::new(),
            };
            running.push(tokio::spawn(host.run(stop.clone())));
        }
        let people = People {
            pool: cell.pool.clone(),
            tenant: cell.tenant(),
            rng: cell.rng("people"),
            told: Arc::clone(&told),
        };
        running.push(tokio::spawn(people.run(stop.clone())));
        Self {
            stop,
            told,
            running,
        }
    }

    /// Ends it: what is under way is finished, signals that were to come are told.
    pub(crate) async fn stop(self) -> Arc<Told> {
        self.stop.cancel();
        for running in self.running {
            running.await.unwrap();
        }
        self.told
    }
}

struct Host {
    number: usize,
    chimeway: Chimeway,
    pool: PgPool,
    tenant: &'static str,
    rng: StdRng,
    told: Arc<Told>,
    count: usize,
    /// Who is going to read, and when.
    signals: BinaryHeap<Reverse<(Instant, String)>>,
}

impl Host {
    async fn run(mut self, stop: CancellationToken) {
        while !(stop.is_cancelled() && self.signals.is_empty()) {
            let began = Instant::now();
            let done = match self.signals.peek() {
                Some(Reverse((at, _))) if *at <= Instant::now() => self.tell_next().await,
                _ if stop.is_cancelled() => Ok(()),
                _ => self.trigger().await,
            };
            if done.is_err() {
                self.told.errors.fetch_add(1, Relaxed);
            }
            let took = u64::try_from(began.elapsed().as_millis()).unwrap();
            self.told.longest.fetch_max(took, Relaxed);
            let pause = self.rng.random_range(0..PACE);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn trigger(&mut self) -> Fallible<()> {
        self.count += 1;
        let actor = format!("user_{}_{}", self.number, self.count);
        let (kind, way) = (self.rng.random_range(0..100), self.rng.random_range(0..2));
        let rolls_back = self.rng.random_range(0..10) == 0;
        let repeats = self.rng.random_range(0..10) == 0;
        let reads = self.rng.random_range(0..100);
        let delay = match reads {
            0..10 => Some(self.rng.random_range(0..20)),
            10..40 => Some(self.rng.random_range(100..700)),
            40..50 => Some(self.rng.random_range(1500..3000)),
            _ => None,
        };
        let mut tx = self.pool.begin().await?;
        if kind < 20 {
            self.buy(&mut tx, &actor).await?;
        } else {
            let event = match way {
                0 => self.trigger_by_sql(&mut tx, &actor, &actor).await?,
                _ => self.trigger_by_rust(&mut tx, &actor).await?,
            };
            let note = sqlx::query("insert into host.journeys (actor, event_id) values ($1, $2)");
            note.bind(&actor).bind(event).execute(&mut *tx).await?;
            if repeats {
                // The first event is answered, and nobody else is told.
                let again = format!("repeated_{actor}");
                let answer = self.trigger_by_sql(&mut tx, &again, &actor).await?;
                assert_eq!(answer, event, "a repeated key answers with another event");
                self.told.repeated.fetch_add(1, Relaxed);
            }
        }
        if rolls_back {
            tx.rollback().await?;
            self.told.rolled_back.fetch_add(1, Relaxed);
            return Ok(());
        }
        if let Some(delay) = delay.filter(|_| kind >= 20) {
            let at = Instant::now() + Duration::from_millis(delay);
            self.signals.push(Reverse((at, actor)));
        }
        tx.commit().await?;
        self.told.triggers.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn trigger_by_sql(
        &self,
        conn: &mut PgConnection,
        actor: &str,
        key: &str,
    ) -> Fallible<EventId> {
        let trigger = sqlx::query_scalar(
            "select chimeway.trigger('mention_escalation', jsonb_build_object('actor_id', $1::text), $2,
                idempotency_key => $3)",
        );
        let trigger = trigger.bind(actor).bind(self.tenant).bind(key);
        Ok(trigger.fetch_one(conn).await?)
    }

    async fn trigger_by_rust(&self, conn: &mut PgConnection, actor: &str) -> Fallible<EventId> {
        let key = WorkflowKey::new("mention_escalation")?;
        let trigger = Trigger::new(key, TenantId::new(self.tenant)?)
            .params(json!({}))
            .recipient(Recipient::new(ActorId::new(actor)?))
            .idempotency_key(actor);
        Ok(self.chimeway.trigger(conn, trigger).await?.event())
    }

    async fn buy(&self, conn: &mut PgConnection, actor: &str) -> Fallible<()> {
        let note = sqlx::query(
            "insert into host.purchases (id, tenant_id, status) values ($1, $2, 'asked')",
        );
        note.bind(actor)
            .bind(self.tenant)
            .execute(&mut *conn)
            .await?;
        let trigger = sqlx::query(
            "select chimeway.trigger('purchase',
                jsonb_build_object('actor_id', $1::text, 'purchase', $1::text), $2)",
        );
        trigger.bind(actor).bind(self.tenant).execute(conn).await?;
        Ok(())
    }

    /// Tells that the next one has read. When it is known to be committed is noted afterwards.
    async fn tell_next(&mut self) -> Fallible<()> {
        let Some(Reverse((_, actor))) = self.signals.pop() else {
            return Ok(());
        };
        let by_sql = self.rng.random_range(0..2) == 0;
        let mut tx = self.pool.begin().await?;
        if by_sql {
            let track = sqlx::query("select chimeway.track($1, $2, 'notification_read')");
            track
                .bind(self.tenant)
                .bind(&actor)
                .execute(&mut *tx)
                .await?;
        } else {
            let name = SignalName::new("notification_read")?;
            let signal = Signal::new(
                TenantId::new(self.tenant)?,
                ActorId::new(actor.as_str())?,
                name,
            );
            self.chimeway.track(&mut tx, signal).await?;
        }
        let note = sqlx::query("insert into host.signals (actor) values ($1)");
        note.bind(&actor).execute(&mut *tx).await?;
        tx.commit().await?;
        self.told.signals.fetch_add(1, Relaxed);
        let known = sqlx::query(
            "update host.signals set committed_before = clock_timestamp() where actor = $1",
        );
        known.bind(&actor).execute(&self.pool).await?;
        Ok(())
    }
}

struct People {
    pool: PgPool,
    tenant: &'static str,
    rng: StdRng,
    told: Arc<Told>,
}

impl People {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.decide().await.is_err() {
                self.told.errors.fetch_add(1, Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Decides a few of what is open; some are left to their time-out.
    async fn decide(&mut self) -> Fallible<()> {
        let open: Vec<RunId> = sqlx::query_scalar(
            "select workflow_run_id from chimeway.approvals
             where decision is null and workflow_run_id not in (select run_id from host.decisions) limit 5",
        )
        .fetch_all(&self.pool)
        .await?;
        for run in open {
            let (decision, function) = match self.rng.random_range(0..4) {
                0 => continue,
                1 => ("rejected", "select chimeway.reject($1, $2, 'carol')"),
                _ => ("approved", "select chimeway.approve($1, $2, 'carol')"),
            };
            let mut tx = self.pool.begin().await?;
            let decide = sqlx::query_scalar::<_, String>(function);
            let said = decide
                .bind(self.tenant)
                .bind(run)
                .fetch_one(&mut *tx)
                .await?;
            if said != decision {
                // Too late: it was decided by time.
                continue;
            }
            let note = sqlx::query("insert into host.decisions (run_id, decision) values ($1, $2)");
            note.bind(run).bind(decision).execute(&mut *tx).await?;
            tx.commit().await?;
            self.told.decisions.fetch_add(1, Relaxed);
        }
        Ok(())
    }
}
