//! `chimeway preferences`: what recipients want to be sent.

use chimeway::{
    flow::{Preference, StoredPreference},
    ids::{BadName, CategoryName, ChannelName},
};
use clap::Subcommand;
use sqlx::Connection as _;

use super::{Context, recipients::Who};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// See and change what recipients want to be sent
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway preferences set user_123 --tenant org_456 --channel email=off --category marketing=off
  chimeway preferences show user_123 --tenant org_456

Without a word everything is wanted. It is looked at when a message is planned and again when a worker
takes it up: what is not wanted is suppressed (channel_disabled, category_disabled), and its journey goes
on. A message's category is its step's, else `category` in the trigger's params.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say what a recipient wants; what is not said stays as it is
    #[command(
        after_help = "Example:\n  chimeway preferences set user_123 --tenant org_456 --channel email=on"
    )]
    Set(Set),
    /// Show what a recipient has said
    #[command(
        after_help = "Example:\n  chimeway preferences show user_123 --tenant org_456 --json"
    )]
    Show(Who),
}

#[derive(clap::Args)]
#[group(id = "given", multiple = true, required = true, args = ["channel", "category"])]
struct Set {
    #[command(flatten)]
    who: Who,
    /// Messages over a channel: email=off; may be given more than once
    #[arg(long, value_name = "CHANNEL=on|off", value_parser = wanted::<ChannelName>)]
    channel: Vec<(ChannelName, bool)>,
    /// Messages of a category: marketing=off; may be given more than once
    #[arg(long, value_name = "CATEGORY=on|off", value_parser = wanted::<CategoryName>)]
    category: Vec<(CategoryName, bool)>,
}

fn wanted<T: std::str::FromStr<Err = BadName>>(text: &str) -> Result<(T, bool), String> {
    let (name, word) = text
        .rsplit_once('=')
        .ok_or("write NAME=on or NAME=off".to_owned())?;
    let wanted = match word {
        "on" => true,
        "off" => false,
        _ => return Err(format!("`{word}` is neither `on` nor `off`")),
    };
    Ok((
        name.parse().map_err(|bad: BadName| bad.to_string())?,
        wanted,
    ))
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Set(set) => store(set, context).await,
        Action::Show(who) => show(&who, context).await,
    }
}

async fn store(set: Set, context: &Context) -> Result<(), CliError> {
    let preferences = context.chimeway()?.build().preferences();
    let mut conn = context.open().await?;
    let Who { identity, tenant } = set.who;
    let channels = set.channel.into_iter();
    let channels = channels.map(|(name, on)| (Preference::Channel(name), on));
    let categories = set.category.into_iter();
    let said: Vec<(Preference, bool)> = categories
        .map(|(name, on)| (Preference::Category(name), on))
        .chain(channels)
        .collect();
    let mut tx = conn.begin().await?;
    preferences.set(&mut tx, &tenant, &identity, &said).await?;
    let stored = preferences.list(&mut tx, &tenant, &identity).await?;
    tx.commit().await?;
    print(&stored, context)
}

async fn show(who: &Who, context: &Context) -> Result<(), CliError> {
    let preferences = context.chimeway()?.build().preferences();
    let mut conn = context.open().await?;
    let stored = preferences
        .list(&mut conn, &who.tenant, &who.identity)
        .await?;
    print(&stored, context)
}

fn print(stored: &[StoredPreference], context: &Context) -> Result<(), CliError> {
    if context.json {
        return output::print_json(&stored);
    }
    if stored.is_empty() {
        return output::print("nothing said: everything is wanted");
    }
    let mut table = Table::new(["KIND", "NAME", "WANTED", "SINCE"]);
    for one in stored {
        table.row([
            one.kind.clone(),
            one.name.clone(),
            if one.enabled { "on" } else { "off" }.to_owned(),
            output::instant(one.updated_at),
        ]);
    }
    output::print(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_and_off_are_the_words() {
        let email: ChannelName = "email".parse().unwrap();
        assert_eq!(wanted("email=off"), Ok((email.clone(), false)));
        assert_eq!(wanted("email=on"), Ok((email, true)));
        for text in ["email", "email=", "email=no", "=on", ""] {
            assert!(wanted::<ChannelName>(text).is_err(), "{text}");
        }
    }
}
