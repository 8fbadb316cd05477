//! `chimeway track`: tells what an actor did.

use chimeway::{
    flow::Signal,
    ids::{ActorId, SignalName, TenantId},
};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::{Context, json_object};
use crate::{error::CliError, output};

/// Tell what somebody did
///
/// Every run of that actor that began before and waits for it reacts.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway track notification_read --tenant org_456 --actor user_123
  chimeway track notification_read --tenant org_456 --actor user_123 \\
      --payload '{\"document_id\": \"doc_789\"}'")]
pub(crate) struct Args {
    /// What was done
    #[arg(value_name = "EVENT")]
    name: SignalName,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    /// Who did it
    #[arg(long)]
    actor: ActorId,
    /// Anything else about it
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object)]
    payload: Value,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let chimeway = context.chimeway()?.build();
    let mut conn = context.open().await?;
    let mut tx = conn.begin().await?;
    let signal = Signal::new(args.tenant, args.actor, args.name).payload(args.payload);
    let id = chimeway.track(&mut tx, signal).await?;
    tx.commit().await?;
    match context.json {
        true => output::print_json(&json!({ "signal_id": id })),
        false => output::print(format!("signal {id}")),
    }
}
