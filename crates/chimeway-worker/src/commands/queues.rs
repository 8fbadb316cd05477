//! `chimeway queues`: what is due, what waits for somebody, what keeps PostgreSQL from its own work.

use chimeway::flow::{DueWork, Overview, TableRows};

use super::Context;
use crate::{
    error::CliError,
    output::{self, Table, duration},
};

/// What is due in each queue and how late it is, and what needs somebody's eye
///
/// Reads the database alone: it works without a worker, and while workers are stuck. What a worker
/// holds at the moment is not due. Counts stop at 10,000.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway queues
  chimeway queues --json

OLDEST is how long the oldest due row has waited: more than a second means that workers do not keep up,
are not there, or do not run that queue.")]
pub(crate) struct Args {}

pub(crate) async fn run(_: &Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    let overview = Overview::read(&mut conn).await?;
    if context.json {
        return output::print_json(&overview);
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
    output::print(facts(&overview))
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
