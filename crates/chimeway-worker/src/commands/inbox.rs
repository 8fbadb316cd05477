//! `chimeway inbox`: one recipient's items.

use chimeway::{
    flow::inbox::{InboxItem, Mark, Page},
    ids::{ActorId, NotificationId, TenantId},
};
use clap::Subcommand;
use serde_json::json;
use sqlx::Connection as _;

use super::{Context, limit};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// See and change a recipient's in-app inbox
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway inbox list --tenant org_456 --recipient user_123
  chimeway inbox read --tenant org_456 --recipient user_123 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10
  chimeway inbox unread --tenant org_456 --recipient user_123 --json")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the items, newest first
    #[command(
        after_help = "Example:\n  chimeway inbox list --tenant org_456 --recipient user_123 --archived"
    )]
    List {
        #[command(flatten)]
        owner: Owner,
        /// Also those that are archived
        #[arg(long)]
        archived: bool,
        /// Only those older than this one
        #[arg(long, value_name = "ID")]
        before: Option<NotificationId>,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = limit)]
        limit: i64,
    },
    /// Count the unread items
    #[command(
        after_help = "Example:\n  chimeway inbox unread --tenant org_456 --recipient user_123"
    )]
    Unread {
        #[command(flatten)]
        owner: Owner,
        /// Also those that are archived
        #[arg(long)]
        archived: bool,
    },
    /// Open items: they are read from now on, and `notification_read` is told to the runs that wait for it
    #[command(
        after_help = "Example:\n  chimeway inbox read --tenant org_456 --recipient user_123 ID"
    )]
    Read(Items),
    /// Note that items were shown to the recipient
    #[command(
        after_help = "Example:\n  chimeway inbox seen --tenant org_456 --recipient user_123 ID ID"
    )]
    Seen(Items),
    /// Put items away
    #[command(
        after_help = "Example:\n  chimeway inbox archive --tenant org_456 --recipient user_123 ID"
    )]
    Archive(Items),
}

#[derive(clap::Args)]
struct Owner {
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
    /// Whose inbox
    #[arg(long, value_name = "ID")]
    recipient: ActorId,
}

#[derive(clap::Args)]
struct Items {
    #[command(flatten)]
    owner: Owner,
    /// The items
    #[arg(value_name = "ID", required = true)]
    items: Vec<NotificationId>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::List {
            owner,
            archived,
            before,
            limit,
        } => {
            list(
                &owner,
                Page {
                    limit,
                    before,
                    archived,
                },
                context,
            )
            .await
        }
        Action::Unread { owner, archived } => unread(&owner, archived, context).await,
        Action::Read(items) => mark(&items, Mark::Read, "read", context).await,
        Action::Seen(items) => mark(&items, Mark::Seen, "seen", context).await,
        Action::Archive(items) => mark(&items, Mark::Archived, "archived", context).await,
    }
}

async fn list(owner: &Owner, page: Page, context: &Context) -> Result<(), CliError> {
    let inbox = context.chimeway()?.build().inbox();
    let mut conn = context.open().await?;
    let items = inbox
        .list(&mut conn, &owner.tenant, &owner.recipient, page)
        .await?;
    if context.json {
        return output::print_json(&items);
    }
    if items.is_empty() {
        return output::print("no items");
    }
    let mut table = Table::new(["ITEM", "WHAT", "WORKFLOW", "STATE", "SINCE"]);
    for item in items {
        table.row([
            item.id.to_string(),
            output::or_dash(item.render_key.as_ref()),
            item.workflow.clone(),
            state(&item).to_owned(),
            output::instant(item.inserted_at),
        ]);
    }
    output::print(table)
}

fn state(item: &InboxItem) -> &'static str {
    match (item.archived_at, item.read_at, item.seen_at) {
        (Some(_), _, _) => "archived",
        (None, Some(_), _) => "read",
        (None, None, Some(_)) => "seen",
        (None, None, None) => "new",
    }
}

async fn unread(owner: &Owner, archived: bool, context: &Context) -> Result<(), CliError> {
    let inbox = context.chimeway()?.build().inbox();
    let mut conn = context.open().await?;
    let unread = inbox
        .unread_count(&mut conn, &owner.tenant, &owner.recipient, archived)
        .await?;
    match context.json {
        true => output::print_json(&json!({ "unread": unread })),
        false => output::print(unread),
    }
}

async fn mark(items: &Items, mark: Mark, word: &str, context: &Context) -> Result<(), CliError> {
    let Items { owner, items } = items;
    let inbox = context.chimeway()?.build().inbox();
    let mut conn = context.open().await?;
    let mut tx = conn.begin().await?;
    let marked = inbox
        .mark(&mut tx, &owner.tenant, &owner.recipient, items, mark)
        .await?;
    // All or nothing: dropping the transaction takes back what was marked.
    if let Some(missing) = items.iter().find(|item| !marked.contains(item)) {
        return Err(CliError::NotFound(format!(
            "`{}` has no item {missing}, nothing was changed; `chimeway inbox list` shows what there is",
            owner.recipient
        )));
    }
    tx.commit().await?;
    if context.json {
        return output::print_json(&json!({ word: marked }));
    }
    output::print(
        marked
            .iter()
            .map(|item| format!("{word} {item}\n"))
            .collect::<String>(),
    )
}
