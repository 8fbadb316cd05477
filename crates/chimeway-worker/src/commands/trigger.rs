//! `chimeway trigger`: starts a workflow by hand.

use chimeway::{
    flow::{FlowError, Recipient, Trigger, Triggered},
    ids::{ActorId, ChannelName, TenantId, WorkflowKey},
    store::run_views::{self, RunFilter},
};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::{Context, json_object, suggest};
use crate::{error::CliError, output};

/// Start a workflow
///
/// A repeated idempotency key starts nothing and names the first event; that is not an error.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway trigger mention_escalation --tenant org_456 --recipient user_123
  chimeway trigger mention_escalation --tenant org_456 --recipient user_123 \\
      --address email=ada@example.com --params '{\"document_id\": \"doc_789\"}' \\
      --idempotency-key mention_17")]
pub(crate) struct Args {
    /// The workflow
    #[arg(value_name = "KEY")]
    workflow: WorkflowKey,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    /// Who is notified; may be given more than once
    #[arg(long, value_name = "ID", required = true)]
    recipient: Vec<ActorId>,
    /// How the recipient is reached: email=ada@example.com; may be given more than once
    #[arg(long, value_name = "CHANNEL=VALUE", value_parser = address)]
    address: Vec<(ChannelName, String)>,
    /// What messages are made of
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = json_object)]
    params: Value,
    /// Makes a repeated trigger harmless; unique per tenant
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Your own id for following a thing through systems
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
}

/// How many runs are named in the answer.
const RUNS_NAMED: i64 = 100;

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    if args.recipient.len() > 1 && !args.address.is_empty() {
        return Err(CliError::Usage(
            "--address belongs to one recipient, and several are given; trigger them one by one"
                .into(),
        ));
    }
    let chimeway = context.chimeway()?.build();
    let mut conn = context.open().await?;
    let recipients = args.recipient.into_iter().map(|identity| {
        let addresses = args.address.iter().cloned();
        addresses.fold(Recipient::new(identity), |recipient, (channel, value)| {
            recipient.address(channel, value)
        })
    });
    let mut tx = conn.begin().await?;
    let mut trigger = Trigger::new(args.workflow, args.tenant).params(args.params);
    trigger.recipients = recipients.collect();
    trigger.idempotency_key = args.idempotency_key;
    trigger.correlation_id = args.correlation_id;
    let triggered = match chimeway.trigger(&mut tx, trigger).await {
        Ok(triggered) => triggered,
        Err(FlowError::UnknownWorkflow(key)) => {
            tx.rollback().await?;
            let unknown = FlowError::UnknownWorkflow(key.clone()).into();
            return Err(suggest::no_workflow(&mut conn, &key, unknown).await);
        }
        Err(error) => return Err(error.into()),
    };
    tx.commit().await?;

    let event = triggered.event();
    let filter = RunFilter {
        event: Some(event),
        ..RunFilter::default()
    };
    let runs = run_views::list(&mut conn, &filter, RUNS_NAMED).await?;
    let is_new = matches!(triggered, Triggered::New(_));
    if context.json {
        let runs: Vec<Value> = runs
            .iter()
            .map(|run| json!({ "id": run.id, "recipient": run.recipient }))
            .collect();
        let status = if is_new { "new" } else { "already" };
        return output::print_json(&json!({ "event_id": event, "status": status, "runs": runs }));
    }
    let mut text = match is_new {
        true => format!("event {event}\n"),
        false => {
            format!("event {event}  (this idempotency key was used before: nothing was started)\n")
        }
    };
    for run in runs {
        text.push_str(&format!(
            "run   {}  {}\n",
            run.id,
            output::visible(&run.recipient)
        ));
    }
    output::print(text)
}

pub(super) fn address(text: &str) -> Result<(ChannelName, String), String> {
    match text.split_once('=') {
        Some((channel, value)) if !value.trim().is_empty() => {
            let channel = ChannelName::new(channel).map_err(|error| error.to_string())?;
            Ok((channel, value.to_owned()))
        }
        _ => Err(format!(
            "`{text}` is not CHANNEL=VALUE, such as email=ada@example.com"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_hold_an_equals_sign() {
        let (channel, value) = address("email=a=b@example.com").unwrap();
        assert_eq!(
            (channel.as_str(), value.as_str()),
            ("email", "a=b@example.com")
        );
        for text in ["email", "email=", "=a@example.com"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
