//! `chimeway prune`: what retention does, at once and by hand.

use std::time::{Duration, Instant};

use chimeway::flow::{Age, Chimeway, Kept, PruneStep, PrunedKind, Retention};
use serde_json::json;

use super::Context;
use crate::{
    config,
    error::CliError,
    output::{self, Table},
};

/// Take what is over and older than the settings keep it
///
/// Workers do this every minute (the queue `default`); by hand it is done at once, and without a worker. It
/// takes rows in short transactions and waits for nobody: workers and applications go on meanwhile. What a
/// live run may still read is never taken, however old it is.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway prune --dry-run                            how much is old enough, by the settings
  chimeway prune
  chimeway prune --kind runs --older-than 7d          runs that ended a week ago and before
  chimeway prune --kind runs --kind signals

The kinds, and how long each is kept unless [retention] in the settings says otherwise:
  runs            30d   since their end, with history, messages, tries and approvals
  inbox           90d   items of inboxes that have outlived their run
  events          30d   triggers that no run is left of: their idempotency keys are free again
  signals         30d   those that no live run may look for; never younger than 1d
  interventions  365d   notes of what people did by hand
  ticks            1d   which duties of the fleet were done; never younger than 1h")]
pub(crate) struct Args {
    /// Only this kind; may be given more than once
    #[arg(long, value_name = "KIND", value_parser = config::kind_kept)]
    kind: Vec<Kept>,
    /// Another age than the settings have, for the kinds that are named: 7d, 12h, 0s
    #[arg(long, value_name = "AGE", requires = "kind", value_parser = age)]
    older_than: Option<Age>,
    /// Change nothing; count what is old enough
    #[arg(long)]
    dry_run: bool,
}

fn age(text: &str) -> Result<Age, String> {
    match text.parse::<Age>() {
        Ok(Age::Off) => Err("what is older than for ever is nothing; write it like 7d".into()),
        Ok(age) => Ok(age),
        Err(bad) => Err(bad.to_string()),
    }
}

/// How often a person is told how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(2);
/// How long to wait before another look, where a worker prunes.
const ELSEWHERE: Duration = Duration::from_millis(200);

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let mut retention = context.config.retention.clone();
    let mut kinds = args.kind.clone();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        kinds.extend(Kept::ALL);
    }
    if let Some(age) = args.older_than {
        for kind in &kinds {
            retention = retention
                .with(*kind, age)
                .map_err(|young| CliError::Usage(format!("--older-than {age}: {young}")))?;
        }
    }
    let database = context.database()?;
    let mut conn = context.open().await?;
    let chimeway = Chimeway::builder().build();
    let done = match args.dry_run {
        true => chimeway.prunable(&mut conn, &retention, &kinds).await?,
        false => {
            drop(conn);
            let pool = database.pool(1);
            let done = prune(&chimeway, &pool, &retention, &kinds, context.json).await;
            pool.close().await;
            done?
        }
    };
    if context.json {
        return output::print_json(&json!({ "dry_run": args.dry_run, "kinds": done }));
    }
    let mut table = Table::new([
        "KIND",
        "OLDER THAN",
        if args.dry_run { "OLD ENOUGH" } else { "PRUNED" },
        "KEPT",
    ]);
    for PrunedKind {
        kind,
        age,
        pruned,
        kept,
    } in &done
    {
        let kept: Vec<String> = kept
            .iter()
            .map(|kept| format!("{}: {}", kept.rows, kept.because))
            .collect();
        table.row([
            kind.to_string(),
            age.to_string(),
            match age {
                Age::Off => "-".to_owned(),
                Age::Of(_) => pruned.to_string(),
            },
            output::or_dash((!kept.is_empty()).then(|| kept.join("; "))),
        ]);
    }
    output::print(table)
}

async fn prune(
    chimeway: &Chimeway,
    pool: &sqlx::PgPool,
    retention: &Retention,
    kinds: &[Kept],
    quiet: bool,
) -> Result<Vec<PrunedKind>, CliError> {
    let mut pruning = chimeway.pruning(pool, retention, kinds);
    let mut told = Instant::now();
    loop {
        match pruning.step().await? {
            PruneStep::Done => break,
            PruneStep::Worked => {}
            // A worker is at it, for a moment.
            PruneStep::Elsewhere => tokio::time::sleep(ELSEWHERE).await,
        }
        if !quiet && told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            output::note(format!("{} rows so far", pruning.pruned()))?;
        }
    }
    let mut done = pruning.report();
    // With a run its item and its event may go: they are told where they did.
    done.retain(|one| kinds.contains(&one.kind) || one.pruned > 0);
    Ok(done)
}
