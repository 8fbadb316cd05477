//! What a cell has: a server of its own, a seed, a clock.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use chimeway::{Chimeway, Document, store::schema};
use chimeway_cluster::{Cluster, Durability, Mode};
use chimeway_testkit::TENANT;
use chrono::DateTime;
use rand::{SeedableRng as _, rngs::StdRng};
use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};

use crate::{
    fleet::{journey, number},
    process::{Desk, WorkerCommand},
    support::eventually,
};

/// How long a cell does its worst, unless `CHAOS_SECONDS` says otherwise: in the short form, and with `CHAOS_LONG`.
const SHORT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

/// Who is asked, and what is done with the answer: paid once, or ended.
const PURCHASE: &str = "
key: purchase
context: { purchase: params.purchase }
steps:
  - id: ask
    action: { type: approval, assignee: { user: carol }, timeout: PT3S }
    on_outcome: { rejected: stop, timed_out: stop }
  - id: pay
    action:
      type: action
      actions:
        - { type: set_field, entity: purchases, record_id: context.purchase, field: status, value: paid }
  - id: tell
    action: { type: notify, channel: email, render_key: paid }
";

/// What the host knows of its own, each row written in the transaction that calls Chimeway: a commit whose answer
/// is lost is known by them.
const HOST: &str = "
    create schema host;
    create table host.journeys (actor text primary key, event_id uuid not null);
    create table host.signals (actor text primary key, committed_before timestamptz);
    create table host.purchases (id text primary key, tenant_id text not null, status text not null);
    create table host.payments (number bigint generated always as identity, purchase text not null);
    create table host.decisions (run_id uuid primary key, decision text not null);
    create function host.note_payment() returns trigger language plpgsql as
        $$ begin insert into host.payments (purchase) values (new.id); return null; end $$;
    create trigger note_payment after update on host.purchases for each row execute function host.note_payment();
";

/// How long a wait of the load's journeys is.
const WAIT: &str = "PT1S";

pub(crate) struct Cell {
    pub(crate) name: &'static str,
    /// The long form: settings as they are shipped, longer load.
    pub(crate) long: bool,
    pub(crate) server: Server,
    /// The host's own connections, and the audit's.
    pub(crate) pool: PgPool,
    pub(crate) desk: Desk,
    seed: u64,
    length: Duration,
    ends: Instant,
}

/// A private PostgreSQL.
pub(crate) struct Server {
    cluster: Cluster,
    pub(crate) url: String,
}

impl Server {
    /// Blocks: nothing else of the test may depend on this thread meanwhile.
    pub(crate) fn stop(&mut self, mode: Mode) {
        tokio::task::block_in_place(|| self.cluster.stop_server(mode)).unwrap();
    }

    pub(crate) fn start(&mut self) {
        tokio::task::block_in_place(|| self.cluster.start_server()).unwrap();
    }
}

impl Cell {
    /// Over a server that may lose the last commits when it is stopped like in a crash.
    pub(crate) async fn begin(name: &'static str) -> Self {
        Self::over(name, Durability::OffForTests).await
    }

    /// Over a server that loses no commit.
    pub(crate) async fn durable(name: &'static str) -> Self {
        Self::over(name, Durability::Full).await
    }

    async fn over(name: &'static str, durability: Durability) -> Self {
        let long = variable("CHAOS_LONG").is_some();
        let seconds = variable("CHAOS_SECONDS").map(|text| text.parse().unwrap());
        let usual = if long { LONG } else { SHORT };
        let seed = variable("CHAOS_SEED").map_or_else(rand::random, |text| text.parse().unwrap());
        println!("chaos: {name}: seed {seed}");
        let cluster = tokio::task::block_in_place(|| {
            Cluster::builder()
                .durability(durability)
                .setting("max_connections", "200")
                .database("chimeway_test")
                .start()
        });
        let cluster = cluster.unwrap();
        let url = cluster.url("chimeway_test");
        let mut conn = PgConnection::connect(&url).await.unwrap();
        schema::migrate(&mut conn).await.unwrap();
        sqlx::raw_sql(HOST).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy(&url)
            .unwrap();
        let chimeway = Chimeway::builder().extra_channel("email").unwrap().build();
        for document in [journey(WAIT).as_str(), PURCHASE] {
            let document = Document::from_yaml("chaos", document).unwrap();
            chimeway.apply(&pool, &document).await.unwrap();
        }
        let _ = std::fs::remove_file(log_of(name));
        let length = seconds.map_or(usual, Duration::from_secs);
        Self {
            name,
            long,
            server: Server { cluster, url },
            pool,
            desk: Desk::new(),
            seed,
            length,
            ends: Instant::now() + length,
        }
    }

    /// Chance for one purpose: the same for the same seed, whatever else is random.
    pub(crate) fn rng(&self, of: &str) -> StdRng {
        let mut hasher = DefaultHasher::new();
        (self.name, of).hash(&mut hasher);
        StdRng::seed_from_u64(self.seed ^ hasher.finish())
    }

    /// Whether there is time for more; counts from the first call of [`Cell::starts`].
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.ends
    }

    /// The load has begun: the time of the cell counts from now.
    pub(crate) fn starts(&mut self) {
        self.ends = Instant::now() + self.length;
    }

    /// Makes workers of this cell: in the short form with a lease of 2 s.
    pub(crate) fn worker(&self) -> impl Fn() -> WorkerCommand + Clone + Send + 'static {
        self.worker_at(&self.server.url)
    }

    /// The same over another way to the database.
    pub(crate) fn worker_at(
        &self,
        url: &str,
    ) -> impl Fn() -> WorkerCommand + Clone + Send + 'static {
        let (desk, url, log, long) = (self.desk.clone(), url.to_owned(), self.log(), self.long);
        move || {
            let worker = desk.worker(&url).log_to(&log);
            let worker = worker
                .with("--send-delay-ms", "10")
                .with("--temporary-percent", "3")
                .with("--allow-write", "host.purchases.status");
            if long {
                return worker;
            }
            worker
                .with("--lease-ms", "2000")
                .with("--send-ms", "700")
                .with("--grace-ms", "300")
        }
    }

    /// What a statement counts now.
    pub(crate) async fn count(&self, statement: &'static str) -> i64 {
        number(&self.pool, statement).await
    }

    /// What the workers of this cell say: kept after the test.
    pub(crate) fn log(&self) -> PathBuf {
        let name = self
            .name
            .replace(|one: char| !one.is_ascii_alphanumeric(), "_");
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos_{name}.log"))
    }

    /// How many lines of that have this in them.
    pub(crate) fn logged(&self, words: &str) -> usize {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).count()
    }

    /// The minutes in which the workers say their lines were written.
    pub(crate) fn minutes_logged(&self) -> Vec<i64> {
        let log = std::fs::read_to_string(self.log()).unwrap();
        let minute = |word: &str| {
            let start = word.find("20")?;
            let at = DateTime::parse_from_rfc3339(word.get(start..start + 27)?).ok()?;
            Some(at.timestamp() / 60)
        };
        let words = log.lines().filter_map(|line| line.split(' ').next());
        words.filter_map(minute).collect()
    }

    /// Waits until a statement counts something.
    pub(crate) async fn until_some(&self, statement: &'static str) {
        eventually(statement, async || {
            (self.count(statement).await > 0).then_some(())
        })
        .await;
    }

    pub(crate) fn tenant(&self) -> &'static str {
        TENANT
    }
}

fn log_of(name: &str) -> PathBuf {
    let name = name.replace(|one: char| !one.is_ascii_alphanumeric(), "_");
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos_{name}.log"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long and by which seed: what scripts/chaos says"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
