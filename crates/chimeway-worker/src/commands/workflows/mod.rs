//! `chimeway workflows`: documents in, versions out.

mod documents;
mod show;

use std::path::PathBuf;

use chimeway::{ids::WorkflowKey, store::workflows};
use clap::Subcommand;
use serde_json::json;

use super::{Context, suggest};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// Check, store and steer workflows
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway workflows validate journeys/        needs no database
  chimeway workflows apply journeys/mention_escalation.yaml
  chimeway workflows pause mention_escalation")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Find every mistake in documents; needs no database
    #[command(after_help = "Example:\n  chimeway workflows validate journeys/")]
    Validate(Paths),
    /// Store documents as versions of their workflows; nothing, if any of them has a mistake
    ///
    /// The same content is the same version. Starts nothing and stops nothing: triggers start the
    /// highest version, running runs keep theirs.
    #[command(after_help = "Example:\n  chimeway workflows apply journeys/mention_escalation.yaml")]
    Apply(Paths),
    /// List the workflows
    #[command(after_help = "Example:\n  chimeway workflows list --json")]
    List,
    /// Show a version of a workflow
    #[command(after_help = "\
Examples:
  chimeway workflows show mention_escalation --version 1
  chimeway workflows show purchase_approval --format yaml > purchase_approval.yaml")]
    Show {
        #[arg(value_name = "KEY")]
        key: WorkflowKey,
        /// Which version, instead of the latest
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        version: Option<i32>,
        /// Print its document instead: in our own way of writing it, or in Rocket's
        #[arg(long, value_name = "FORMAT")]
        format: Option<show::Format>,
    },
    /// Start no runs of a workflow for now; running runs go on
    #[command(after_help = "Example:\n  chimeway workflows pause mention_escalation")]
    Pause {
        #[arg(value_name = "KEY")]
        key: WorkflowKey,
    },
    /// Start runs again
    #[command(after_help = "Example:\n  chimeway workflows resume mention_escalation")]
    Resume {
        #[arg(value_name = "KEY")]
        key: WorkflowKey,
    },
}

#[derive(clap::Args)]
struct Paths {
    /// Files, or folders with .yaml, .yml and .json files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Validate(Paths { paths }) => documents::validate(&paths, context),
        Action::Apply(Paths { paths }) => documents::apply(&paths, context).await,
        Action::List => list(context).await,
        Action::Show {
            key,
            version,
            format,
        } => show::run(&key, version, format, context).await,
        Action::Pause { key } => set_active(&key, false, context).await,
        Action::Resume { key } => set_active(&key, true, context).await,
    }
}

/// Checks and stores documents, as `workflows apply` does.
pub(super) async fn apply(paths: &[PathBuf], context: &Context) -> Result<(), CliError> {
    documents::apply(paths, context).await
}

async fn list(context: &Context) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    let found = workflows::list(&mut conn).await?;
    if context.json {
        return output::print_json(&found);
    }
    if found.is_empty() {
        return output::print("no workflows");
    }
    let mut table = Table::new(["WORKFLOW", "LATEST", "STATE", "STEPS", "APPLIED"]);
    for workflow in found {
        table.row([
            workflow.key,
            format!("v{}", workflow.version),
            match workflow.retired_at {
                Some(_) => "retired".to_owned(),
                None => state(workflow.active).to_owned(),
            },
            workflow.steps.to_string(),
            output::instant(workflow.applied_at),
        ]);
    }
    output::print(table)
}

fn state(active: bool) -> &'static str {
    if active { "active" } else { "paused" }
}

async fn set_active(key: &WorkflowKey, active: bool, context: &Context) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    if !workflows::set_active(&mut conn, key.as_str(), active).await? {
        return Err(suggest::no_workflow(&mut conn, key, CliError::no_workflow(key)).await);
    }
    match context.json {
        true => output::print_json(&json!({ "key": key, "active": active })),
        false => output::print(format!("{key} {}", state(active))),
    }
}
