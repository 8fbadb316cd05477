//! `chimeway retry`: makes due now what waits for another try or was set aside.

use chimeway::{flow::workflows::Stamp, ids::TenantId};
use serde_json::json;
use sqlx::{Connection as _, types::Uuid};

use super::{Context, cancel::By};
use crate::{error::CliError, output};

/// Try a delivery again now, or free a run, an event or a signal that was set aside
///
/// The tries that a message has had still count: five are its budget. A message that was given up is
/// not sent again, for its journey has gone on: trigger the workflow again.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway retry 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --reason 'the mail server is back'

`chimeway explain` names a run's deliveries; what was set aside is listed in docs/operating.md.")]
pub(crate) struct Args {
    /// The delivery; or a run, an event or a signal that was set aside
    #[arg(value_name = "DELIVERY")]
    id: Uuid,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    #[command(flatten)]
    stamp: By,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let workflows = context.chimeway()?.build().workflows();
    let mut conn = context.open().await?;
    let stamp: Stamp = args.stamp.into();
    let mut tx = conn.begin().await?;
    let done = workflows
        .retry(&mut tx, &args.tenant, args.id, &stamp)
        .await?;
    tx.commit().await?;
    match context.json {
        true => output::print_json(&json!({ "subject": done.subject, "id": done.id })),
        false => output::print(format!("{} {} is due now", done.subject, done.id)),
    }
}
