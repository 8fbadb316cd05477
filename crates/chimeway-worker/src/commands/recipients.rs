//! `chimeway recipients`: how people are reached.

use chimeway::{
    flow::{Recipient, StoredRecipient},
    ids::{ActorId, ChannelName, TenantId},
};
use clap::Subcommand;
use sqlx::Connection as _;

use super::{Context, trigger::address};
use crate::{error::CliError, output};

/// See and change how recipients are reached
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway recipients set user_123 --tenant org_456 --address email=ada@example.com
  chimeway recipients show user_123 --tenant org_456

A message takes the address that is stored when a worker begins to send it: a corrected address counts
for the next try already. A message over a channel that needs an address, where none is known, is
suppressed (no_address), and its journey goes on.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Store addresses, language and time zone; what is not given stays as it is
    #[command(after_help = "\
Examples:
  chimeway recipients set user_123 --tenant org_456 --address email=ada@example.com \\
      --address sms=+43155501 --locale de-AT --time-zone Europe/Vienna
  chimeway recipients set user_123 --tenant org_456 --forget sms")]
    Set(Set),
    /// Show what is stored of a recipient
    #[command(after_help = "Example:\n  chimeway recipients show user_123 --tenant org_456 --json")]
    Show(Who),
}

/// Whom a command is about.
#[derive(clap::Args)]
pub(super) struct Who {
    /// Who, in your own words
    #[arg(value_name = "IDENTITY")]
    pub(super) identity: ActorId,
    /// Whose data this is
    #[arg(long)]
    pub(super) tenant: TenantId,
}

#[derive(clap::Args)]
#[group(id = "given", multiple = true, required = true, args = ["address", "forget", "locale", "time_zone"])]
struct Set {
    #[command(flatten)]
    who: Who,
    /// How the recipient is reached: email=ada@example.com; may be given more than once
    #[arg(long, value_name = "CHANNEL=VALUE", value_parser = address)]
    address: Vec<(ChannelName, String)>,
    /// Forget the address of this channel; may be given more than once
    #[arg(long, value_name = "CHANNEL")]
    forget: Vec<ChannelName>,
    /// Language and region: de-AT
    #[arg(long, value_name = "TAG")]
    locale: Option<String>,
    /// IANA time zone: Europe/Vienna
    #[arg(long, value_name = "NAME")]
    time_zone: Option<String>,
    /// What the recipient is: user, team; stored beside the others
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Set(set) => store(set, context).await,
        Action::Show(who) => show(&who, context).await,
    }
}

async fn store(set: Set, context: &Context) -> Result<(), CliError> {
    let recipients = context.chimeway()?.build().recipients();
    let mut conn = context.open().await?;
    let Who { identity, tenant } = set.who;
    let given = set.address.into_iter().fold(
        Recipient {
            kind: set.kind,
            locale: set.locale,
            time_zone: set.time_zone,
            ..Recipient::new(identity.clone())
        },
        |recipient, (channel, value)| recipient.address(channel, value),
    );
    let mut tx = conn.begin().await?;
    if !set.forget.is_empty() {
        recipients
            .forget(&mut tx, &tenant, &identity, &set.forget)
            .await?;
    }
    recipients.upsert(&mut tx, &tenant, &[given]).await?;
    let stored = recipients.get(&mut tx, &tenant, &identity).await?;
    tx.commit().await?;
    print(stored, &identity, &tenant, context)
}

async fn show(who: &Who, context: &Context) -> Result<(), CliError> {
    let recipients = context.chimeway()?.build().recipients();
    let mut conn = context.open().await?;
    let stored = recipients
        .get(&mut conn, &who.tenant, &who.identity)
        .await?;
    print(stored, &who.identity, &who.tenant, context)
}

fn print(
    stored: Option<StoredRecipient>,
    identity: &ActorId,
    tenant: &TenantId,
    context: &Context,
) -> Result<(), CliError> {
    let Some(stored) = stored else {
        return Err(CliError::NotFound(format!(
            "nothing is stored of the recipient `{identity}` of tenant `{tenant}`; `chimeway recipients \
             set {identity} --tenant {tenant} --address email=..` stores an address"
        )));
    };
    match context.json {
        true => output::print_json(&stored),
        false => output::print(block(&stored)),
    }
}

/// What is stored, on aligned lines.
fn block(stored: &StoredRecipient) -> String {
    let mut lines = vec![("recipient", stored.identity.to_string())];
    let rest = [
        ("type", &stored.kind),
        ("locale", &stored.locale),
        ("time zone", &stored.time_zone),
    ];
    for (name, text) in rest {
        if let Some(text) = text {
            lines.push((name, text.clone()));
        }
    }
    for (channel, address) in &stored.addresses {
        lines.push(("address", format!("{channel}={address}")));
    }
    lines.push(("since", output::instant(stored.updated_at)));
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:<11}{}\n", output::visible(text)));
    lines.collect()
}
