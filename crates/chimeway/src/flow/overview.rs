//! How a database does: what is due and how late it is, what waits for somebody, and what keeps
//! PostgreSQL from its own work. For `chimeway queues` and for scrapes; works without a worker. And how its channels do,
//! for `chimeway queues` alone: a scrape has that of the workers.

use serde::Serialize;
use sqlx::PgConnection;

use super::{
    FlowError,
    metrics::{
        DEAD_ROWS, EXPIRED_LEASES, LIVE_ROWS, NOTIFICATION_QUEUE, OLDEST_TRANSACTION, QUEUE_DEPTH,
        QUEUE_LAG, SET_ASIDE, XMIN_AGE, set, set_of_queue, set_with,
    },
};
use crate::{
    queue::QueueName,
    store::health::{self, COUNTED, ChannelTries},
};

/// How a database does.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// What is due, by queue and kind of work.
    pub queues: Vec<DueWork>,
    /// What was set aside until somebody mends it.
    pub set_aside: SetAside,
    /// Leases that have ended and are not closed yet: a worker closes them within seconds.
    pub expired_leases: i64,
    /// How many transactions old the oldest snapshot is that keeps vacuum from its work.
    pub xmin_age_transactions: i64,
    /// How long the oldest transaction of the database has been open, as far as this role may see.
    pub oldest_transaction_seconds: f64,
    /// How full the server's queue of NOTIFY is, from 0 to 1.
    pub notification_queue_ratio: f64,
    /// The tables that grow, the one with the most dead rows first.
    pub tables: Vec<TableRows>,
}

/// One kind of due work.
#[derive(Debug, Clone, Serialize)]
pub struct DueWork {
    /// The queue that does it.
    pub queue: &'static str,
    /// `deliveries`, `signals`, `events`, `runs`, `owed` or `actions`.
    pub kind: String,
    /// How many rows are due and not held by a worker; counting stops at 10,001.
    pub due: i64,
    /// For how many seconds the oldest has been due.
    pub oldest_seconds: Option<f64>,
    /// In how many seconds the next one will be.
    pub next_seconds: Option<f64>,
}

impl DueWork {
    /// Whether there may be more than were counted.
    #[must_use]
    pub fn is_more(&self) -> bool {
        self.due >= COUNTED
    }
}

/// Rows that were set aside, up to 10,001 of each kind.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SetAside {
    /// Events whose runs cannot be made.
    pub events: i64,
    /// Live runs that cannot be decided.
    pub runs: i64,
    /// Signals that cannot be routed.
    pub signals: i64,
}

/// How many rows a table has, about, as PostgreSQL counts.
#[derive(Debug, Clone, Serialize)]
pub struct TableRows {
    /// Its name, without the schema.
    pub table: String,
    /// Rows.
    pub live: i64,
    /// Row versions that wait for vacuum.
    pub dead: i64,
}

impl Overview {
    /// Reads it, in four statements whose cost does not grow with what is stored or due.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`] if the database cannot be asked.
    pub async fn read(conn: &mut PgConnection) -> Result<Self, FlowError> {
        let due = health::due(conn).await?;
        let left = health::left(conn).await?;
        let server = health::server(conn).await?;
        let tables = health::tables(conn).await?;
        Ok(Self {
            queues: due.into_iter().map(DueWork::from).collect(),
            set_aside: SetAside {
                events: left.events,
                runs: left.runs,
                signals: left.signals,
            },
            expired_leases: left.expired_leases,
            xmin_age_transactions: server.xmin_age,
            oldest_transaction_seconds: server.oldest_transaction_seconds,
            notification_queue_ratio: server.notification_queue,
            tables: tables.into_iter().map(TableRows::from).collect(),
        })
    }

    /// Sets the gauges of the recorder that is in force.
    pub fn report(&self) {
        for work in &self.queues {
            set_of_queue(QUEUE_DEPTH, work.queue, &work.kind, number(work.due));
            let lag = work.oldest_seconds.unwrap_or_default();
            set_of_queue(QUEUE_LAG, work.queue, &work.kind, lag);
        }
        let SetAside {
            events,
            runs,
            signals,
        } = self.set_aside;
        for (kind, rows) in [("event", events), ("run", runs), ("signal", signals)] {
            set_with(SET_ASIDE, "kind", kind, number(rows));
        }
        set(EXPIRED_LEASES, number(self.expired_leases));
        set(XMIN_AGE, number(self.xmin_age_transactions));
        set(OLDEST_TRANSACTION, self.oldest_transaction_seconds);
        set(NOTIFICATION_QUEUE, self.notification_queue_ratio);
        for table in &self.tables {
            set_with(DEAD_ROWS, "table", &table.table, number(table.dead));
            set_with(LIVE_ROWS, "table", &table.table, number(table.live));
        }
    }
}

impl From<health::DueRow> for DueWork {
    fn from(row: health::DueRow) -> Self {
        let queue = match row.kind.as_str() {
            "deliveries" => QueueName::Delivery,
            "signals" => QueueName::Signals,
            _ => QueueName::Workflows,
        };
        Self {
            queue: queue.as_str(),
            kind: row.kind,
            due: row.due,
            oldest_seconds: row.oldest_seconds,
            next_seconds: row.next_seconds,
        }
    }
}

impl From<health::TableRow> for TableRows {
    fn from(row: health::TableRow) -> Self {
        Self {
            table: row.name,
            live: row.live,
            dead: row.dead,
        }
    }
}

/// How many of the newest tries [`ChannelTries`] are of: those of the messages that were planned last.
const NEWEST_TRIES: i64 = 1_000;

/// How the channels do that have something in flight, or were used by one of the newest 1,000 tries: one statement, whose
/// cost does not grow with what is stored or due.
///
/// # Errors
///
/// [`FlowError::Store`] if the database cannot be asked.
pub async fn channel_tries(conn: &mut PgConnection) -> Result<Vec<ChannelTries>, FlowError> {
    Ok(health::channels(conn, NEWEST_TRIES).await?)
}

/// As a recorder takes it: exact far beyond any count of ours.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn number(count: i64) -> f64 {
    count as f64
}
