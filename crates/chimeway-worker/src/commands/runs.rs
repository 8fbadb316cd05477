//! `chimeway runs`: lists runs.

use chimeway::{
    engine::StateName,
    ids::{ActorId, EventId, TenantId, WorkflowKey},
    store::run_views::{self, RunFilter, RunSummary},
};
use clap::builder::PossibleValuesParser;

use super::{Context, limit};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// List runs, newest first
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway runs --tenant org_456
  chimeway runs --state waiting --workflow mention_escalation --limit 10
  chimeway runs --recipient user_123 --json")]
pub(crate) struct Args {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Only those in this state
    #[arg(long, value_parser = PossibleValuesParser::new(StateName::ALL.map(StateName::as_str)))]
    state: Option<String>,
    /// Only those of this workflow
    #[arg(long, value_name = "KEY")]
    workflow: Option<WorkflowKey>,
    /// Only those for this recipient
    #[arg(long, value_name = "ID")]
    recipient: Option<ActorId>,
    /// Only those that this event started
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "50", value_parser = limit)]
    limit: i64,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    let filter = RunFilter {
        tenant: args.tenant.map(Into::into),
        state: args.state,
        workflow: args.workflow.map(Into::into),
        recipient: args.recipient.map(Into::into),
        event: args.event,
        before: None,
    };
    let found = run_views::list(&mut conn, &filter, args.limit).await?;
    if context.json {
        return output::print_json(&found);
    }
    if found.is_empty() {
        return output::print("no runs");
    }
    let mut table = Table::new([
        "RUN",
        "TENANT",
        "WORKFLOW",
        "RECIPIENT",
        "STATE",
        "STEP",
        "WHY",
        "STARTED",
    ]);
    for run in found {
        table.row([
            run.id.to_string(),
            run.tenant_id.clone(),
            format!("{} v{}", run.workflow, run.version),
            run.recipient.clone(),
            run.state.clone(),
            output::or_dash(run.current_step_name.as_ref()),
            why(&run),
            output::instant(run.started_at),
        ]);
    }
    output::print(table)
}

/// Why a run is where it is: how it ended, until when it waits, or what moved it last.
fn why(run: &RunSummary) -> String {
    match (&run.terminal_reason, run.suspended_until) {
        (Some(reason), _) => reason.clone(),
        (None, Some(until)) => format!("until {}", output::instant(until)),
        (None, None) => run.status_reason.clone(),
    }
}
