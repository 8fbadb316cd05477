//! One module per command.
//!
//! To add a command: 1. a file here with its `Args`, whose doc comments and `after_help` are its help,
//! and a `run`; 2. its variant in `cli.rs`; 3. its arm in [`run`].

pub(crate) mod approvals;
pub(crate) mod bench;
pub(crate) mod cancel;
mod child;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod inbox;
pub(crate) mod init;
pub(crate) mod migrate;
pub(crate) mod preferences;
pub(crate) mod prune;
pub(crate) mod queues;
pub(crate) mod ready;
pub(crate) mod recipients;
pub(crate) mod retry;
pub(crate) mod roles;
pub(crate) mod runs;
pub(crate) mod settings;
mod suggest;
pub(crate) mod templates;
pub(crate) mod tokens;
pub(crate) mod traces;
pub(crate) mod track;
pub(crate) mod trigger;
pub(crate) mod worker;
pub(crate) mod workflows;

use chimeway::{
    flow::{Chimeway, ChimewayBuilder, FlowError},
    queue,
};
use chimeway_cluster::ClusterError;
use serde_json::Value;

use crate::{
    cli::{Cli, Command, Global},
    config::Config,
    database::{self, Database, Opened, Unfinished},
    error::CliError,
    telemetry,
};

/// What a command runs with.
pub(crate) struct Context {
    pub(crate) config: Config,
    /// Whether to print JSON.
    pub(crate) json: bool,
    /// The flag alone: what `DATABASE_URL` says does not count for a demo.
    pub(crate) database_flag: Option<String>,
    /// Under `dev` some channels are others.
    pub(crate) dev: Option<dev::DevChannels>,
    /// What is committed when the command ends.
    pub(crate) unfinished: Unfinished,
}

/// Runs the command.
///
/// # Errors
///
/// [`CliError`], which has the exit code.
pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    // These need no settings, and so must not fail by them.
    match &command {
        Command::Completions(args) => return completions::run(args),
        Command::Init(args) => return init::run(args, global.json),
        _ => {}
    }
    // A worker tells what it does, the others only what went wrong.
    let (flags, log) = match &command {
        Command::Worker(args) => (args.layer(global.layer()), queue::LOG_FILTER),
        Command::Dev(args) => (args.layer(global.layer()), "warn"),
        Command::Ready(args) => (args.layer(global.layer()), "warn"),
        // Filling tables takes its time, and that is nothing to warn of.
        Command::Bench(_) => (global.layer(), "warn,sqlx=error"),
        _ => (global.layer(), "warn"),
    };
    let context = Context {
        config: Config::load(global.config.as_deref(), flags)?,
        json: global.json,
        database_flag: global.database_url.clone(),
        dev: None,
        unfinished: Unfinished::default(),
    };
    telemetry::start(&context.config, log)?;
    let unfinished = context.unfinished.clone();
    let done = dispatch(command, &global, context).await;
    let done = done.and(unfinished.commit().await);
    done.map_err(CliError::or_of_a_pooler)
}

async fn dispatch(command: Command, global: &Global, context: Context) -> Result<(), CliError> {
    match command {
        Command::Demo(args) => demo::run(&args, &context).await,
        Command::Dev(args) => dev::run(&args, context).await,
        Command::Migrate(args) => migrate::run(&args, &context).await,
        Command::Worker(args) => worker::run(&args, &context).await,
        Command::Workflows(args) => workflows::run(args, &context).await,
        Command::Templates(args) => templates::run(args, &context).await,
        Command::Tokens(args) => tokens::run(args, &context).await,
        Command::Trigger(args) => trigger::run(args, &context).await,
        Command::Track(args) => track::run(args, &context).await,
        Command::Prune(args) => prune::run(&args, &context).await,
        Command::Queues(args) => queues::run(&args, &context).await,
        Command::Recipients(args) => recipients::run(args, &context).await,
        Command::Preferences(args) => preferences::run(args, &context).await,
        Command::Runs(args) => runs::run(args, &context).await,
        Command::Explain(args) => explain::run(args, &context).await,
        Command::Traces(args) => traces::run(&args, &context).await,
        Command::Cancel(args) => cancel::run(args, &context).await,
        Command::Retry(args) => retry::run(args, &context).await,
        Command::Pending(args) => approvals::pending(args, &context).await,
        Command::Approve(args) => approvals::approve(args.decision, &context).await,
        Command::Reject(args) => approvals::reject(args.decision, &context).await,
        Command::Roles(args) => roles::run(args, &context).await,
        Command::Inbox(args) => inbox::run(args, &context).await,
        Command::Doctor(args) => doctor::run(&args, &context).await,
        Command::Ready(args) => ready::run(&args, &context).await,
        Command::Bench(args) => bench::run(args, &context).await,
        Command::Config(args) => settings::run(&args, global),
        Command::Completions(_) | Command::Init(_) => Ok(()),
    }
}

impl Context {
    /// The database of the settings.
    fn database(&self) -> Result<Database, CliError> {
        let database = database::at(self.config.database_url.as_deref())?;
        Ok(database.pooled(self.config.pooled))
    }

    /// The same past the pooler, for what needs a session of its own; `None` where there is a pooler and no
    /// way past it is known.
    fn direct_database(&self) -> Result<Option<Database>, CliError> {
        match &self.config.direct_url {
            Some(url) => Ok(Some(database::at(Some(url))?)),
            None if self.config.pooled => Ok(None),
            None => self.database().map(Some),
        }
    }

    /// A connection to a database whose schema is the one that this program knows.
    async fn open(&self) -> Result<Opened, CliError> {
        database::opened(&self.database()?, &self.unfinished).await
    }

    /// The library, with the channels of the settings; a secret that is not here does not matter.
    fn chimeway(&self) -> Result<ChimewayBuilder, CliError> {
        let builder = with_channels(Chimeway::builder(), &self.config, false)?;
        match &self.dev {
            Some(dev) => dev.register(builder, &self.config),
            None => Ok(builder),
        }
    }

    /// The library, with channels that can send.
    fn sending_chimeway(&self) -> Result<ChimewayBuilder, CliError> {
        with_channels(Chimeway::builder(), &self.config, true)
    }
}

fn with_channels(
    mut builder: ChimewayBuilder,
    config: &Config,
    sends: bool,
) -> Result<ChimewayBuilder, CliError> {
    builder = builder.pooled(config.pooled);
    for (name, settings) in &config.channels {
        builder = settings.register(name, builder, &config.allow_private, sends)?;
    }
    for name in &config.extra_channels {
        builder = builder
            .extra_channel(name.as_str())
            .map_err(FlowError::from)?;
    }
    for one in &config.writable {
        builder = builder.writable(one.clone());
    }
    for kind in &config.extra_steps {
        builder = builder.extra_step(kind.as_str()).map_err(FlowError::from)?;
    }
    for action in &config.extra_actions {
        builder = builder
            .extra_action(action.as_str())
            .map_err(FlowError::from)?;
    }
    Ok(builder)
}

/// Starting and stopping a server blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, CliError> {
    let refused = |error: &dyn std::error::Error| CliError::Refused(error.to_string());
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| refused(&error)),
        Err(error) => Err(refused(&error)),
    }
}

/// A JSON object on the command line.
fn json_object(text: &str) -> Result<Value, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("it is not a JSON object such as {\"document_id\": \"doc_789\"}".into()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

/// How many lines to print.
fn limit(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(limit @ 1..=10_000) => Ok(limit),
        _ => Err("it is a whole number from 1 to 10000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_an_object() {
        assert!(json_object(r#"{"a": [1]}"#).is_ok());
        for text in ["[]", "1", "null", "{", ""] {
            assert!(json_object(text).is_err(), "{text}");
        }
    }
}
