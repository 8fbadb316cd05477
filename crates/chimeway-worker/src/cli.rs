//! The command line; the doc comments are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    commands::{
        approvals, bench, cancel, completions, demo, dev, doctor, explain, inbox, init, migrate,
        preferences, prune, queues, ready, recipients, retry, roles, runs, settings, templates,
        tokens, traces, track, trigger, worker, workflows,
    },
    config::{Layer, LogFormat},
};

/// Durable, explainable notification journeys and business workflows on PostgreSQL
#[derive(Parser)]
#[command(
    name = "chimeway",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 refused or failed, 2 bad usage, 3 not found.

Start here:
  chimeway demo              a journey from trigger to end, on a private PostgreSQL
  chimeway init              a first journey of your own; then `chimeway dev` plays it
  chimeway migrate           make the schema `chimeway` in your database
  chimeway worker            send, wait, decide and escalate until told to stop
  chimeway doctor            what is misconfigured, and how to mend it"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The database: postgres://USER:PASSWORD@HOST:PORT/DATABASE; HOST:PORT,HOST:PORT where there are
    /// replicas [env: DATABASE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// The database is reached through a pooler in transaction mode, such as PgBouncer [env: CHIMEWAY_POOLED]
    #[arg(long, global = true)]
    pub(crate) pooled: bool,
    /// A TOML file with settings; the environment and flags win over it [env: CHIMEWAY_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON document, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to log, on standard error: `info`, `chimeway=debug,sqlx=warn` [env: CHIMEWAY_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How log lines are written: text, or json, one object a line [env: CHIMEWAY_LOG_FORMAT] [default: text]
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub(crate) log_format: Option<LogFormat>,
}

impl Global {
    /// The settings that these flags give.
    pub(crate) fn layer(&self) -> Layer {
        Layer {
            database_url: self.database_url.clone(),
            pooled: self.pooled.then_some(true),
            log: self.log.clone(),
            log_format: self.log_format,
            ..Layer::default()
        }
    }
}

/// One file each in `commands/`: to begin with, to operate, to write workflows, to follow them, people, the rest.
#[derive(Subcommand)]
pub(crate) enum Command {
    Demo(demo::Args),
    Init(init::Args),
    Dev(dev::Args),
    Migrate(migrate::Args),
    Worker(worker::Args),
    Doctor(doctor::Args),
    Queues(queues::Args),
    Ready(ready::Args),
    Prune(prune::Args),
    Config(settings::Args),
    Workflows(workflows::Args),
    Templates(templates::Args),
    Trigger(trigger::Args),
    Track(track::Args),
    Runs(runs::Args),
    Explain(explain::Args),
    Traces(traces::Args),
    Cancel(cancel::Args),
    Retry(retry::Args),
    Pending(approvals::Pending),
    Approve(approvals::Approve),
    Reject(approvals::Reject),
    Roles(roles::Args),
    Recipients(recipients::Args),
    Preferences(preferences::Args),
    Inbox(inbox::Args),
    Tokens(tokens::Args),
    Bench(bench::Args),
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for command in command.get_subcommands() {
                let path = format!("{path} {}", command.get_name());
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains(&format!("\n  {path}")), "{path}: {help}");
                check(command, &path);
            }
        }
        check(&Cli::command(), "chimeway");
    }

    #[test]
    fn what_every_command_takes_may_stand_anywhere() {
        for line in [
            "chimeway --json --database-url postgres://h/d runs",
            "chimeway runs --json --database-url postgres://h/d",
        ] {
            let cli = parse(line).ok().unwrap();
            assert!(cli.global.json);
            assert_eq!(
                cli.global.layer().database_url.as_deref(),
                Some("postgres://h/d")
            );
        }
    }

    #[test]
    fn values_are_checked_before_anything_is_done() {
        let run = "0198f2c4-0000-7000-8000-000000000000";
        for (line, accepted) in [
            (format!("chimeway explain {run} --tenant acme"), true),
            (format!("chimeway explain {run}"), false),
            ("chimeway explain 17 --tenant acme".into(), false),
            (
                format!("chimeway traces {run} --tenant acme --limit 5"),
                true,
            ),
            (
                format!("chimeway traces {run} --tenant acme --limit 0"),
                false,
            ),
            ("chimeway runs --state waiting".into(), true),
            ("chimeway runs --state asleep".into(), false),
            (
                "chimeway worker --queue chimeway_delivery=40 --queue default=0".into(),
                true,
            ),
            ("chimeway worker --queue mail=40".into(), false),
            (
                "chimeway worker --channel email=log --no-listen".into(),
                true,
            ),
            ("chimeway worker --channel email=pigeon".into(), false),
            ("chimeway worker --http 127.0.0.1:9464".into(), true),
            ("chimeway worker --http".into(), false),
            ("chimeway queues --json".into(), true),
            ("chimeway prune --kind runs --older-than 7d".into(), true),
            ("chimeway prune --older-than 7d".into(), false),
            ("chimeway prune --kind runs --older-than off".into(), false),
            ("chimeway prune --kind workflows".into(), false),
            ("chimeway prune --dry-run --json".into(), true),
            ("chimeway queues chimeway_delivery".into(), false),
            ("chimeway doctor --accept tls --accept role".into(), true),
            ("chimeway doctor --accept nothing".into(), false),
            (
                "chimeway trigger k --tenant t --recipient r --address email=a@b.example".into(),
                true,
            ),
            (
                "chimeway trigger k --tenant t --recipient r --address email".into(),
                false,
            ),
            (
                "chimeway trigger k --tenant t --recipient r --params {\"a\":1}".into(),
                true,
            ),
            (
                "chimeway trigger k --tenant t --recipient r --params [1]".into(),
                false,
            ),
            ("chimeway trigger k --tenant t".into(), false),
            ("chimeway track read --tenant t --actor a".into(), true),
            ("chimeway workflows apply".into(), false),
            ("chimeway workflows show k --version 0".into(), false),
            (
                format!("chimeway inbox read --tenant t --recipient r {run}"),
                true,
            ),
            ("chimeway inbox read --tenant t --recipient r".into(), false),
            (
                "chimeway recipients set r --tenant t --address email=a@b.example".into(),
                true,
            ),
            ("chimeway recipients set r --tenant t".into(), false),
            (format!("chimeway cancel {run} --tenant t --by me"), true),
            ("chimeway cancel --workflow k --tenant t".into(), true),
            (
                format!("chimeway cancel {run} --workflow k --tenant t"),
                false,
            ),
            ("chimeway cancel --tenant t".into(), false),
            (format!("chimeway cancel {run}"), false),
            (format!("chimeway approve {run} --tenant t --by me"), true),
            (format!("chimeway approve {run} --tenant t"), false),
            (
                format!("chimeway reject {run} --tenant t --by me --note no"),
                true,
            ),
            ("chimeway reject --tenant t --by me".into(), false),
            ("chimeway pending".into(), true),
            (
                "chimeway pending --tenant t --assignee me --limit 5".into(),
                true,
            ),
            ("chimeway pending --limit 0".into(), false),
            ("chimeway roles add manager ada bob --tenant t".into(), true),
            ("chimeway roles add manager --tenant t".into(), false),
            ("chimeway roles list --tenant t".into(), true),
            ("chimeway roles list".into(), false),
            ("chimeway workflows show k --format rocket".into(), true),
            ("chimeway workflows show k --format xml".into(), false),
            (format!("chimeway retry {run} --tenant t"), true),
            ("chimeway retry 17 --tenant t".into(), false),
            (
                "chimeway preferences set r --tenant t --channel email=off".into(),
                true,
            ),
            (
                "chimeway preferences set r --tenant t --channel email=no".into(),
                false,
            ),
            ("chimeway preferences set r --tenant t".into(), false),
            (
                "chimeway inbox unread --tenant t --recipient r".into(),
                true,
            ),
            ("chimeway tokens create a --tenant t".into(), true),
            (
                "chimeway tokens create a --operator --acts-for-others".into(),
                true,
            ),
            (
                "chimeway tokens create a --tenant t --operator".into(),
                false,
            ),
            ("chimeway tokens create a".into(), false),
            (format!("chimeway tokens revoke {run}"), true),
            ("chimeway tokens revoke a".into(), false),
            ("chimeway tokens list --tenant t".into(), true),
        ] {
            assert_eq!(parse(&line).is_ok(), accepted, "{line}");
        }
    }
}
