//! `chimeway queues`: what is due, what waits for somebody, what keeps PostgreSQL from its own work.

use chimeway::{
    flow::{self, DueWork, Overview, TableRows},
    store::health::ChannelTries,
};
use serde::Serialize;

use super::Context;
use crate::{
    error::CliError,
    output::{self, Table, duration},
};

/// What is due in each queue and how late it is, how the channels do, and what needs somebody's eye
///
/// Reads the database alone: it works without a worker, and while workers are stuck. What a worker
/// holds at the moment is not due. Counts stop at 10,000.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway queues
  chimeway queues --json

OLDEST is how long the oldest due row has waited: more than a second means that workers do not keep up,
are not there, or do not run that queue.

IN FLIGHT is what workers hold at the moment. The other columns are of the newest 1,000 tries of all channels:
how many succeeded, failed and are tried again (TEMPORARY) or not (PERMANENT, BOUNCED), or were a worker's that
vanished (UNKNOWN); and the median of what the channel took to answer.

What only a worker knows (claims, timers' lateness, how long messages waited) is at its /metrics.")]
pub(crate) struct Args {}

pub(crate) async fn run(_: &Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    let overview = Overview::read(&mut conn).await?;
    let channels = flow::channel_tries(&mut conn).await?;
    if context.json {
        return output::print_json(&Document { overview, channels });
    }
    let mut table = Table::new(["QUEUE", "WORK", "DUE", "OLDEST", "NEXT IN"]);
    for work in &overview.queues {
        table.row([
            work.queue.to_owned(),
            work.kind.clone(),
            due(work),
            output::or_dash(work.oldest_seconds.map(duration)),
            output::or_dash(work.next_seconds.map(duration)),
        ]);
    }
    output::print(table)?;
    if !channels.is_empty() {
        output::print(format!("\n{}", of_channels(&channels)))?;
    }
    output::print(facts(&overview))
}

/// What a program reads.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    overview: Overview,
    channels: Vec<ChannelTries>,
}

fn of_channels(channels: &[ChannelTries]) -> Table {
    let mut table = Table::new([
        "CHANNEL",
        "IN FLIGHT",
        "TRIES",
        "SUCCEEDED",
        "TEMPORARY",
        "PERMANENT",
        "BOUNCED",
        "UNKNOWN",
        "MEDIAN",
    ]);
    for of in channels {
        let median = of
            .median_seconds
            .map(|it| format!("{:.0} ms", it * 1_000.0));
        table.row([
            of.channel.clone(),
            of.in_flight.to_string(),
            of.tries.to_string(),
            of.succeeded.to_string(),
            of.temporary.to_string(),
            of.permanent.to_string(),
            of.bounced.to_string(),
            of.unknown.to_string(),
            output::or_dash(median),
        ]);
    }
    table
}

/// What is beside the queues, one fact a line.
fn facts(overview: &Overview) -> String {
    let aside = overview.set_aside;
    let facts = [
        (
            "set aside",
            format!(
                "{}, {}, {}",
                counted(aside.events, "event"),
                counted(aside.runs, "run"),
                counted(aside.signals, "signal")
            ),
        ),
        (
            "expired leases",
            counted(overview.expired_leases, "").trim().to_owned(),
        ),
        ("oldest transaction", oldest(overview)),
        ("most dead rows", dead(overview.tables.first())),
        (
            "notification queue",
            format!("{:.1} % full", overview.notification_queue_ratio * 100.0),
        ),
    ];
    let lines = facts.map(|(name, fact)| format!("{name:20}{fact}\n"));
    format!("\n{}", lines.concat())
}

fn oldest(overview: &Overview) -> String {
    let (seconds, age) = (
        overview.oldest_transaction_seconds,
        overview.xmin_age_transactions,
    );
    if seconds == 0.0 && age == 0 {
        return "none is open".to_owned();
    }
    let open = duration(seconds);
    let age = counted(age, "transaction");
    format!("open for {open}; the oldest snapshot is {age} old")
}

fn due(work: &DueWork) -> String {
    match work.is_more() {
        true => "10000+".to_owned(),
        false => work.due.to_string(),
    }
}

fn dead(table: Option<&TableRows>) -> String {
    match table {
        Some(table) if table.dead > 0 => {
            let TableRows { table, live, dead } = table;
            format!("{table}: {dead} dead, {live} live")
        }
        _ => "none".to_owned(),
    }
}

fn counted(number: i64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number if noun.is_empty() => number.to_string(),
        number => format!("{number} {noun}s"),
    }
}
