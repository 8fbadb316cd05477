//! `chimeway roles`: who may decide as what.

use chimeway::ids::{ActorId, RoleName, TenantId};
use clap::Subcommand;
use serde_json::json;
use sqlx::Connection as _;

use super::Context;
use crate::{
    error::CliError,
    output::{self, Table},
};

/// See and change who may decide as what
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway roles add manager user_123 user_124 --tenant org_456
  chimeway roles list --tenant org_456

An approval of a role may be decided by whoever has it at that moment.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Give people a role
    #[command(after_help = "Example:\n  chimeway roles add manager user_123 --tenant org_456")]
    Add(Members),
    /// Take a role from people
    #[command(after_help = "Example:\n  chimeway roles remove manager user_123 --tenant org_456")]
    Remove(Members),
    /// List who has which role
    #[command(after_help = "Example:\n  chimeway roles list --tenant org_456 --role manager")]
    List(List),
}

#[derive(clap::Args)]
struct Members {
    #[arg(value_name = "ROLE")]
    role: RoleName,
    #[arg(value_name = "WHO", required = true)]
    members: Vec<ActorId>,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
}

#[derive(clap::Args)]
struct List {
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    /// Only this role
    #[arg(long)]
    role: Option<RoleName>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let roles = context.chimeway()?.build().roles();
    let mut conn = context.open().await?;
    match args.action {
        Action::Add(Members {
            role,
            members,
            tenant,
        }) => {
            let mut tx = conn.begin().await?;
            let added = roles.add(&mut tx, &tenant, &role, &members).await?;
            tx.commit().await?;
            match context.json {
                true => output::print_json(&json!({ "role": role, "added": added })),
                false => output::print(format!("`{role}` given to {}", people(added.len()))),
            }
        }
        Action::Remove(Members {
            role,
            members,
            tenant,
        }) => {
            let mut tx = conn.begin().await?;
            let removed = roles.remove(&mut tx, &tenant, &role, &members).await?;
            tx.commit().await?;
            match context.json {
                true => output::print_json(&json!({ "role": role, "removed": removed })),
                false => output::print(format!("`{role}` taken from {}", people(removed.len()))),
            }
        }
        Action::List(List { tenant, role }) => {
            let found = roles.list(&mut conn, &tenant, role.as_ref()).await?;
            if context.json {
                return output::print_json(&found);
            }
            if found.is_empty() {
                return output::print("nobody has a role");
            }
            let mut table = Table::new(["ROLE", "WHO", "SINCE"]);
            for one in found {
                table.row([one.role, one.member, output::instant(one.added_at)]);
            }
            output::print(table)
        }
    }
}

/// `1 person`, `2 people`.
fn people(number: usize) -> String {
    match number {
        1 => "1 person".to_owned(),
        number => format!("{number} people"),
    }
}
