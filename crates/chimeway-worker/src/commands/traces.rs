//! `chimeway traces`: the history of a run.

use chimeway::{
    ids::{RunId, TenantId},
    store::transitions::StoredTransition,
};

use super::{Context, limit};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// Show the history of a run
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway traces 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456
  chimeway traces 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --limit 5 --json")]
pub(crate) struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    /// Only the newest so many lines
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<i64>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let chimeway = context.chimeway()?.build();
    let mut conn = context.open().await?;
    let found = chimeway
        .workflows()
        .list_traces(&mut conn, &args.tenant, args.run, args.limit)
        .await?;
    let lines = found.ok_or_else(|| CliError::no_run(args.run, &args.tenant))?;
    match context.json {
        true => output::print_json(&lines),
        false => output::print(table(&lines)),
    }
}

fn table(lines: &[StoredTransition]) -> Table {
    let mut table = Table::new(["#", "AT", "STEP", "STATE", "WHAT HAPPENED", "FACTS"]);
    for line in lines {
        table.row([
            line.sequence.to_string(),
            line.inserted_at
                .format("%Y-%m-%d %H:%M:%S%.3fZ")
                .to_string(),
            output::or_dash(line.step_key.as_ref()),
            line.to_state.clone(),
            line.reason.clone(),
            facts(line),
        ]);
    }
    table
}

/// `from_step=a to_step=b`.
fn facts(line: &StoredTransition) -> String {
    let Some(facts) = line.context.as_object() else {
        return String::new();
    };
    let facts = facts.iter().map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={text}"),
        None => format!("{name}={value}"),
    });
    facts.collect::<Vec<_>>().join(" ")
}
