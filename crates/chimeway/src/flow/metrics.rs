//! What is measured, through the `metrics` facade: every metric by its name, and where it is recorded.
//!
//! A host installs a recorder, or none: then nothing is kept, and nothing worth naming is spent. The
//! program `chimeway` installs one for Prometheus where it serves HTTP.
//!
//! A duration lies between two instants of the database's clock, or between two of one process's
//! steady clock; the two are never mixed. Labels are bounded: a channel that this process does not have
//! is `other`, and no label holds a tenant, a workflow, a run or a recipient.
//!
//! To add a metric: 1. its constant; 2. its place in [`ALL`]; 3. a function that records it; 4. its line
//! in docs/metrics.md, its panel in deploy/grafana/chimeway.json; a test holds the four together.

use std::{collections::HashMap, time::Duration};

pub use metrics::Unit;
use metrics::{counter, gauge, histogram};

use super::{Chimeway, Core, made::SetAside, retention::Kept};

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, as it is scraped.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// What it counts.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub about: &'static str,
}

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from the start of the process.
    Counter,
    /// Is what it is now.
    Gauge,
    /// How often which value was seen.
    Histogram,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident = $kind:ident $name:literal $unit:ident [$($label:literal),*] $about:literal;)*) => {
        $(
            #[doc = $about]
            $(#[$doc])*
            pub const $id: Metric = Metric {
                name: $name,
                kind: MetricKind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                about: $about,
            };
        )*
        /// All of them.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    ATTEMPTS = Counter "chimeway_attempts_total" Count ["channel", "outcome"]
        "Recorded ends of claims, by channel and by how they ended.";
    SEND = Histogram "chimeway_send_seconds" Seconds ["channel"]
        "How long a channel took to answer.";
    DELIVERY_WAIT = Histogram "chimeway_delivery_wait_seconds" Seconds []
        "From the instant a message was due to the call of its channel.";
    CLAIM = Histogram "chimeway_claim_seconds" Seconds []
        "How long the statement took that claims deliveries.";
    IN_FLIGHT = Gauge "chimeway_in_flight" Count ["channel"]
        "Deliveries that this process holds, claimed or being sent.";
    RECORD_BATCH = Histogram "chimeway_record_batch_size" Count []
        "How many results one transaction recorded.";
    RECORD = Histogram "chimeway_record_seconds" Seconds []
        "How long recording a batch of results took, commit included.";
    TIMER_LATENESS = Histogram "chimeway_timer_lateness_seconds" Seconds []
        "From the instant a run was due to the transaction that decided it.";
    SIGNAL_LAG = Histogram "chimeway_signal_lag_seconds" Seconds []
        "From a signal's occurrence to the transaction that has shown it to every live run.";
    BATCHES = Counter "chimeway_batches_total" Count ["kind", "result"]
        "Batches of work, by kind and by result.";
    LEASES_CLOSED = Counter "chimeway_leases_closed_total" Count []
        "Leases that ended without a record and were closed by this process.";
    QUARANTINED = Counter "chimeway_quarantined_total" Count ["kind"]
        "Rows that this process set aside.";
    HEALED = Counter "chimeway_healed_total" Count []
        "Runs that nothing would have moved, found by this process's sweep and made due.";
    PRUNED = Counter "chimeway_pruned_total" Count ["kind"]
        "Rows that retention has taken, by kind.";
    SPANS = Counter "chimeway_spans_total" Count ["result"]
        "Spans of traces, by what became of them.";
    READY = Gauge "chimeway_ready" Count []
        "Whether every queue of this process reaches the database: 1 or 0.";
    DATABASE_UP = Gauge "chimeway_database_up" Count []
        "Whether this scrape could read the database: 1 or 0. At 0 the gauges below are left out.";
    QUEUE_DEPTH = Gauge "chimeway_queue_depth" Count ["queue", "kind"]
        "Rows that are due and not held by a worker, counted up to 10,001.";
    QUEUE_LAG = Gauge "chimeway_queue_lag_seconds" Seconds ["queue", "kind"]
        "How long the oldest due row has been due.";
    SET_ASIDE = Gauge "chimeway_set_aside" Count ["kind"]
        "Rows that wait for somebody to mend them, counted up to 10,001.";
    EXPIRED_LEASES = Gauge "chimeway_expired_leases" Count []
        "Leases that have ended and are not closed yet.";
    XMIN_AGE = Gauge "chimeway_xmin_age_transactions" Count []
        "How many transactions old the oldest snapshot is that keeps vacuum from its work.";
    OLDEST_TRANSACTION = Gauge "chimeway_oldest_transaction_seconds" Seconds []
        "How long the oldest transaction of the database has been open, as far as this role may see.";
    DEAD_ROWS = Gauge "chimeway_dead_rows" Count ["table"]
        "Row versions that wait for vacuum, about.";
    LIVE_ROWS = Gauge "chimeway_live_rows" Count ["table"]
        "Rows, about.";
    NOTIFICATION_QUEUE = Gauge "chimeway_notification_queue_ratio" Count []
        "How full the server's queue of NOTIFY is, from 0 to 1.";
}

/// How a claim may end, as [`ATTEMPTS`] has it.
const OUTCOMES: [&str; 8] = [
    "succeeded",
    "temporary",
    "permanent",
    "bounced",
    "unknown",
    "suppressed",
    "superseded",
    "already_sent",
];
/// How a batch may end, as [`BATCHES`] has it.
const WORKED: &str = "worked";
const HELD: &str = "held";
const FAILED: &str = "failed";
/// What may become of spans, as [`SPANS`] has it.
const SENT: &str = "sent";
const DROPPED: &str = "dropped";
/// The kind of batch that the group-commit stage commits.
const RESULTS: &str = "results";

/// Tells the recorder what each metric means.
pub fn describe() {
    for metric in ALL {
        let Metric {
            name, unit, about, ..
        } = *metric;
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, about),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, about),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, about),
        }
    }
}

/// Says whether this process is ready; see [`READY`].
pub fn ready(ready: bool) {
    set(READY, f64::from(u8::from(ready)));
}

/// Says whether the database could be read; see [`DATABASE_UP`].
pub fn database_up(up: bool) {
    set(DATABASE_UP, f64::from(u8::from(up)));
}

/// Counts spans that a collector has taken; see [`SPANS`].
pub fn spans_sent(spans: usize) {
    counter!(SPANS.name, "result" => SENT).increment(whole(spans));
}

/// Counts spans that no collector will get; see [`SPANS`].
pub fn spans_dropped(spans: usize) {
    counter!(SPANS.name, "result" => DROPPED).increment(whole(spans));
}

pub(super) fn set(metric: Metric, value: f64) {
    gauge!(metric.name).set(value);
}

pub(super) fn set_with(metric: Metric, label: &'static str, of: &str, value: f64) {
    gauge!(metric.name, label => of.to_owned()).set(value);
}

pub(super) fn set_of_queue(metric: Metric, queue: &'static str, kind: &str, value: f64) {
    gauge!(metric.name, "queue" => queue, "kind" => kind.to_owned()).set(value);
}

impl Chimeway {
    /// Begins to count at zero what this handle counts, so that the first event is seen as a growth.
    /// Call it once, when a recorder is installed.
    pub fn begin_counting(&self) {
        for channel in self.core.channels.names().chain([OTHER]) {
            for outcome in OUTCOMES {
                count(ATTEMPTS, channel, outcome, 0);
            }
            set_with(IN_FLIGHT, "channel", channel, 0.0);
        }
        set_aside(&SetAside::default());
        quarantined("delivery", 0);
        leases_closed(0);
        healed(0);
        for kind in Kept::ALL {
            pruned(kind.as_str(), 0);
        }
        for kind in ["signals", "events", "runs", "owed", "actions", RESULTS] {
            for result in [WORKED, HELD, FAILED] {
                batches(kind, result, 0);
            }
        }
        spans_sent(0);
        spans_dropped(0);
    }
}

const OTHER: &str = "other";

/// The channel as a label.
fn label<'a>(core: &Core, channel: &'a str) -> &'a str {
    if core.channels.has(channel) {
        channel
    } else {
        OTHER
    }
}

fn count(metric: Metric, channel: &str, outcome: &'static str, times: u64) {
    counter!(metric.name, "channel" => channel.to_owned(), "outcome" => outcome).increment(times);
}

pub(super) fn attempt(core: &Core, channel: &str, outcome: &'static str) {
    count(ATTEMPTS, label(core, channel), outcome, 1);
}

pub(super) fn sent(core: &Core, channel: &str, waited: Duration, took: Duration) {
    let channel = label(core, channel).to_owned();
    histogram!(SEND.name, "channel" => channel).record(took);
    histogram!(DELIVERY_WAIT.name).record(waited);
}

pub(super) fn claimed(took: Duration) {
    histogram!(CLAIM.name).record(took);
}

/// Those of one channel, of all that are in flight. Channels that are not ours count together.
pub(super) fn in_flight(core: &Core, all: &HashMap<String, usize>, channel: &str) {
    let label = label(core, channel);
    let count = match label {
        OTHER => {
            let others = all.iter().filter(|(name, _)| !core.channels.has(name));
            others.map(|(_, count)| count).sum()
        }
        _ => all.get(channel).copied().unwrap_or_default(),
    };
    set_with(IN_FLIGHT, "channel", label, number(count));
}

pub(super) fn recorded(results: usize, took: Duration) {
    histogram!(RECORD_BATCH.name).record(number(results));
    histogram!(RECORD.name).record(took);
    batches(RESULTS, WORKED, 1);
}

pub(super) fn not_recorded() {
    batches(RESULTS, FAILED, 1);
}

/// A batch that took so many rows: none, where another session held what was due.
pub(super) fn took(kind: &'static str, rows: usize) {
    batches(kind, if rows > 0 { WORKED } else { HELD }, 1);
}

pub(super) fn not_taken(kind: &'static str) {
    batches(kind, FAILED, 1);
}

fn batches(kind: &'static str, result: &'static str, times: u64) {
    counter!(BATCHES.name, "kind" => kind, "result" => result).increment(times);
}

pub(super) fn timer_lateness(late: &[Duration]) {
    let histogram = histogram!(TIMER_LATENESS.name);
    late.iter().for_each(|late| histogram.record(*late));
}

pub(super) fn signal_lag(lags: &[f64]) {
    let histogram = histogram!(SIGNAL_LAG.name);
    // A transaction's now is its beginning: one that began before the signal's may route it.
    lags.iter().for_each(|lag| histogram.record(lag.max(0.0)));
}

pub(super) fn leases_closed(leases: usize) {
    counter!(LEASES_CLOSED.name).increment(whole(leases));
}

pub(super) fn healed(runs: usize) {
    counter!(HEALED.name).increment(whole(runs));
}

pub(super) fn pruned(kind: &'static str, rows: u64) {
    counter!(PRUNED.name, "kind" => kind).increment(rows);
}

pub(super) fn set_aside(aside: &SetAside) {
    quarantined("event", aside.events);
    quarantined("run", aside.runs);
    quarantined("signal", aside.signals);
}

pub(super) fn quarantined(kind: &'static str, rows: usize) {
    counter!(QUARANTINED.name, "kind" => kind).increment(whole(rows));
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// As a recorder takes it. Counts of ours are small.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_unit_and_are_used_once() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let Metric { name, kind, .. } = metric;
            assert!(name.starts_with("chimeway_"), "{name}");
            assert_eq!(
                *kind == MetricKind::Counter,
                name.ends_with("_total"),
                "{name}"
            );
            assert_eq!(
                metric.unit == Unit::Seconds,
                name.ends_with("_seconds"),
                "{name}"
            );
        }
    }
}
