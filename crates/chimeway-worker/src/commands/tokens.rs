//! `chimeway tokens`: who may call over HTTP.

use chimeway::{
    flow::{NewToken, StoredToken},
    ids::{ActorId, TenantId, TokenId},
};
use clap::Subcommand;
use serde_json::json;
use sqlx::Connection as _;

use super::Context;
use crate::{
    error::CliError,
    output::{self, Table},
};

/// Say who may call over HTTP
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway tokens create ada --tenant org_456                        a person
  chimeway tokens create shop --tenant org_456 --acts-for-others     a service, which has checked who asks it
  chimeway tokens create carol --operator                            workflows, and every tenant's data
  chimeway tokens revoke 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10

What is done with a token is done by its subject. Only a hash of it is stored: whoever loses a token makes
another one. `chimeway worker --http` serves the API; docs/http-api.md describes it.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token, which is printed this once
    #[command(after_help = "\
Examples:
  chimeway tokens create ada --tenant org_456
  TOKEN=$(chimeway tokens create shop --tenant org_456 --acts-for-others)")]
    Create(Create),
    /// List tokens, the newest first; the tokens themselves are not known
    #[command(after_help = "Example:\n  chimeway tokens list --tenant org_456")]
    List {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Take a token back: it opens nothing from now on
    #[command(
        after_help = "Example:\n  chimeway tokens revoke 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10"
    )]
    Revoke {
        /// Which token, as `chimeway tokens list` names it
        #[arg(value_name = "ID")]
        id: TokenId,
    },
}

#[derive(clap::Args)]
struct Create {
    /// Who calls with it, in your own words
    #[arg(value_name = "SUBJECT")]
    subject: ActorId,
    /// Whose data it reaches
    #[arg(long, required_unless_present = "operator")]
    tenant: Option<TenantId>,
    /// It reaches every tenant's data, and the workflows
    #[arg(long, conflicts_with = "tenant")]
    operator: bool,
    /// A call may name somebody else as the one who acts
    #[arg(long)]
    acts_for_others: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Create(new) => create(new, context).await,
        Action::List { tenant } => list(tenant.as_ref(), context).await,
        Action::Revoke { id } => revoke(id, context).await,
    }
}

/// The token alone is on standard output, so that a shell can take it.
async fn create(args: Create, context: &Context) -> Result<(), CliError> {
    let tokens = context.chimeway()?.build().tokens();
    let mut conn = context.open().await?;
    let new = NewToken {
        subject: args.subject.clone(),
        tenant: args.tenant.clone(),
        acts_for_others: args.acts_for_others,
    };
    let issued = tokens.create(&mut conn, new).await?;
    if context.json {
        return output::print_json(&json!({
            "id": issued.id,
            "token": issued.token,
            "subject": args.subject,
            "tenant_id": args.tenant,
            "acts_for_others": args.acts_for_others,
        }));
    }
    output::print(&issued.token)?;
    output::note(format!(
        "the token {} of {}; it is shown this once, and `chimeway tokens revoke {}` takes it back",
        issued.id,
        output::visible(args.subject.as_str()),
        issued.id
    ))
}

async fn list(tenant: Option<&TenantId>, context: &Context) -> Result<(), CliError> {
    let tokens = context.chimeway()?.build().tokens();
    let mut conn = context.open().await?;
    let found = tokens.list(&mut conn, tenant).await?;
    if context.json {
        return output::print_json(&found);
    }
    if found.is_empty() {
        return output::print("no tokens");
    }
    let mut table = Table::new([
        "TOKEN", "SUBJECT", "REACHES", "ACTS FOR", "SINCE", "REVOKED",
    ]);
    for token in found {
        table.row([
            token.id.to_string(),
            token.subject.clone(),
            reach(&token),
            match token.acts_for_others {
                true => "others too".to_owned(),
                false => "itself".to_owned(),
            },
            output::instant(token.created_at),
            output::or_dash(token.revoked_at.map(output::instant)),
        ]);
    }
    output::print(table)
}

fn reach(token: &StoredToken) -> String {
    match &token.tenant_id {
        Some(tenant) => format!("tenant {tenant}"),
        None => "everything".to_owned(),
    }
}

async fn revoke(id: TokenId, context: &Context) -> Result<(), CliError> {
    let tokens = context.chimeway()?.build().tokens();
    let mut conn = context.open().await?;
    let mut tx = conn.begin().await?;
    let revoked = tokens.revoke(&mut tx, id).await?;
    tx.commit().await?;
    match context.json {
        true => output::print_json(&revoked),
        false => output::print(format!("revoked {id}")),
    }
}
