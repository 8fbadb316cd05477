//! `chimeway cancel`: ends runs by hand.

use chimeway::{
    FlowError,
    flow::workflows::{Cancellation, Stamp, Workflows},
    ids::{DeliveryId, RunId, TenantId, WorkflowKey},
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::Context;
use crate::{error::CliError, output};

/// End a run, or all live runs of a workflow
///
/// Nothing more is sent for a run once this has returned, and a worker ends it: state stopped, reason
/// cancelled. A message that is being sent at this moment cannot be called back; it is named.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["run", "workflow"]),
    after_help = "\
Examples:
  chimeway cancel 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --reason 'sent by mistake'
  chimeway workflows pause mention_escalation    no new runs, so that the next one ends all
  chimeway cancel --workflow mention_escalation --tenant org_456

Exit codes: 0 also where its end was asked for before, 1 the run has ended, 3 that tenant has no such run."
)]
pub(crate) struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: Option<RunId>,
    /// All live runs of this workflow, over all its versions, in that tenant
    #[arg(long, value_name = "KEY")]
    workflow: Option<WorkflowKey>,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    #[command(flatten)]
    stamp: By,
}

/// Who does something by hand, and why.
#[derive(clap::Args)]
pub(super) struct By {
    /// Who does it, for the record [default: the database role]
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl From<By> for Stamp {
    fn from(By { by, reason }: By) -> Self {
        Self { by, reason }
    }
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let workflows = context.chimeway()?.build().workflows();
    let mut conn = context.open().await?;
    let stamp = args.stamp.into();
    match (args.run, args.workflow) {
        (Some(run), _) => {
            let mut tx = conn.begin().await?;
            let done = workflows.cancel(&mut tx, &args.tenant, run, &stamp).await;
            let done = done.map_err(|error| match error {
                FlowError::NotFound { .. } => CliError::no_run(run, &args.tenant),
                other => other.into(),
            })?;
            tx.commit().await?;
            match context.json {
                true => output::print_json(&json!({
                    "run_id": run, "requested": done.requested, "in_flight": done.in_flight,
                })),
                false => output::print(told(run, &done)),
            }
        }
        (None, Some(workflow)) => {
            let cancelled = all(&workflows, &mut conn, &args.tenant, &workflow, &stamp).await?;
            match context.json {
                true => output::print_json(&json!({ "requested": cancelled })),
                false => output::print(format!(
                    "{} of `{workflow}` asked to end",
                    output::count(cancelled, "run")
                )),
            }
        }
        // clap refuses this.
        (None, None) => Err(CliError::Usage("name a run, or --workflow".to_owned())),
    }
}

/// In transactions of up to 1,000 runs, so that none is long.
async fn all(
    workflows: &Workflows,
    conn: &mut PgConnection,
    tenant: &TenantId,
    workflow: &WorkflowKey,
    stamp: &Stamp,
) -> Result<usize, CliError> {
    if chimeway::store::workflows::find(conn, workflow.as_str(), None)
        .await?
        .is_none()
    {
        return Err(CliError::no_workflow(workflow));
    }
    let mut cancelled = 0;
    loop {
        let mut tx = conn.begin().await?;
        let runs = workflows
            .cancel_workflow(&mut tx, tenant, workflow, stamp)
            .await?;
        tx.commit().await?;
        cancelled += runs.len();
        if runs.is_empty() {
            return Ok(cancelled);
        }
    }
}

fn told(run: RunId, done: &Cancellation) -> String {
    let mut text = if done.requested {
        format!("asked to end {run}; a worker ends it\n")
    } else {
        format!("its end was asked for before: {run}\n")
    };
    for DeliveryId(delivery) in &done.in_flight {
        text.push_str(&format!(
            "still being sent, and not called back: delivery {delivery}\n"
        ));
    }
    text
}
