//! `chimeway pending`, `approve` and `reject`: what waits for a person, and the decision.

use chimeway::{
    flow::approvals::{self, Decided},
    ids::{ActorId, ApprovalId, RunId, TenantId},
};
use serde_json::json;
use sqlx::Connection as _;

use super::{Context, limit};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// List approvals that are open, the oldest first
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway pending --tenant org_456 --assignee user_123
  chimeway pending --json

--assignee lists what that person may decide, as themselves or through a role.")]
pub(crate) struct Pending {
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Only those that this one may decide
    #[arg(long, value_name = "WHO")]
    assignee: Option<ActorId>,
    /// Only those that were opened after this one
    #[arg(long, value_name = "APPROVAL")]
    after: Option<ApprovalId>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "50", value_parser = limit)]
    limit: i64,
}

/// Approve what a run waits for
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway approve 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --by user_123
  chimeway approve 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --by user_123 --note 'in budget'

Of many who decide at once one counts; the others are told who it was.

Exit codes: 0 approved, 1 somebody was faster, is not asked, or nobody is, 3 that tenant has no such run.")]
pub(crate) struct Approve {
    #[command(flatten)]
    pub(crate) decision: Decision,
}

/// Reject what a run waits for
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway reject 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --by user_123 --note 'too much'

Of many who decide at once one counts; the others are told who it was.

Exit codes: 0 rejected, 1 somebody was faster, is not asked, or nobody is, 3 that tenant has no such run.")]
pub(crate) struct Reject {
    #[command(flatten)]
    pub(crate) decision: Decision,
}

/// Who decides about what.
#[derive(clap::Args)]
pub(crate) struct Decision {
    /// The run that waits
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    /// Who decides
    #[arg(long, value_name = "WHO")]
    by: ActorId,
    /// What they say about it, for the record
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

pub(crate) async fn pending(args: Pending, context: &Context) -> Result<(), CliError> {
    let approvals = context.chimeway()?.build().approvals();
    let mut conn = context.open().await?;
    let which = approvals::Pending {
        tenant: args.tenant,
        assignee: args.assignee,
        after: args.after,
        limit: args.limit,
    };
    let found = approvals.pending(&mut conn, &which).await?;
    if context.json {
        return output::print_json(&found);
    }
    if found.is_empty() {
        return output::print("nothing is waiting for approval");
    }
    let mut table = Table::new([
        "RUN", "TENANT", "WORKFLOW", "STEP", "ASKED", "SINCE", "UNTIL",
    ]);
    for one in found {
        table.row([
            one.run_id.to_string(),
            one.tenant_id,
            format!("{} v{}", one.workflow, one.version),
            output::or_dash(one.step),
            format!("{} {}", one.assignee_kind, one.assignee),
            output::instant(one.opened_at),
            output::or_dash(one.deadline.map(output::instant)),
        ]);
    }
    output::print(table)
}

pub(crate) async fn approve(args: Decision, context: &Context) -> Result<(), CliError> {
    let approvals = context.chimeway()?.build().approvals();
    let mut conn = context.open().await?;
    let mut tx = conn.begin().await?;
    let (tenant, note) = (&args.tenant, args.note.as_deref());
    let decided = approvals
        .approve(&mut tx, tenant, args.run, &args.by, note)
        .await?;
    tx.commit().await?;
    tell(&args, &decided, context)
}

pub(crate) async fn reject(args: Decision, context: &Context) -> Result<(), CliError> {
    let approvals = context.chimeway()?.build().approvals();
    let mut conn = context.open().await?;
    let mut tx = conn.begin().await?;
    let (tenant, note) = (&args.tenant, args.note.as_deref());
    let decided = approvals
        .reject(&mut tx, tenant, args.run, &args.by, note)
        .await?;
    tx.commit().await?;
    tell(&args, &decided, context)
}

fn tell(args: &Decision, decided: &Decided, context: &Context) -> Result<(), CliError> {
    let run = args.run;
    match decided {
        Decided::Approved { approval } | Decided::Rejected { approval } => {
            let answer = decided.as_str();
            match context.json {
                true => output::print_json(&json!({
                    "answer": answer, "run_id": run, "approval": approval,
                })),
                false => output::print(format!("{answer} {run}; a worker moves it on")),
            }
        }
        Decided::AlreadyDecided {
            decision,
            decided_by,
            decided_at,
            ..
        } => {
            let decision = decision.replace('_', " ");
            let by = decided_by
                .as_ref()
                .map_or_else(String::new, |who| format!(" by {}", output::visible(who)));
            Err(CliError::Refused(format!(
                "it was {decision}{by} at {} already",
                output::instant(*decided_at)
            )))
        }
        Decided::NotAllowed { .. } => Err(CliError::Refused(format!(
            "`{}` is not asked; `chimeway pending --tenant {}` says who is, and `chimeway roles add` gives a role",
            args.by, args.tenant
        ))),
        Decided::NotPending => Err(CliError::Refused(format!(
            "the run waits for no approval; `chimeway explain {run} --tenant {}` says what it does",
            args.tenant
        ))),
        Decided::NotFound => Err(CliError::no_run(run, &args.tenant)),
    }
}
