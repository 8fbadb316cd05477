//! `chimeway demo`: one journey from trigger to end, with a real worker process and a real PostgreSQL.

mod host;
mod process;
mod screen;
mod story;
mod timeline;

use chimeway::{definition::Document, flow::Chimeway};
use chimeway_cluster::{Cluster, ClusterError, Durability, Mode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::{process::WorkerProcess, screen::Screen, story::Story};
use super::{Context, migrate};
use crate::{database::Database, error::CliError, shutdown};

/// Watch a journey from trigger to end, in about ten seconds
///
/// Starts a private PostgreSQL and a worker process, and removes both when done. DATABASE_URL does
/// not count here; with --database-url the demo runs there instead, and leaves its rows behind
/// (tenant `demo`, table public.demo_mentions).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway demo
  chimeway demo --database-url postgres://localhost/scratch")]
pub(crate) struct Args {}

/// The example that ships with the program.
const JOURNEY: &str = include_str!("../../../../../journeys/mention_escalation.yaml");
/// Instead of its two hours.
const SHORT_WAIT: &str = "PT4S";

const PRIVATE_DATABASE: &str = "chimeway_demo";

/// A database to play in.
struct Playground {
    url: String,
    /// What the journey is called there: in a database that others use, not what theirs may be called.
    workflow: &'static str,
    cluster: Option<Cluster>,
}

pub(crate) async fn run(_args: &Args, context: &Context) -> Result<(), CliError> {
    let stop = shutdown::watch()?;
    let mut screen = Screen::new();
    screen.title("Chimeway demo: tell people in the app, and by email only if they do not look")?;
    let playground = Playground::open(context.database_flag.as_deref(), &mut screen).await?;
    let played = playground.play(&mut screen, &stop).await;
    let closed = playground.close().await;
    played.and(closed)?;
    screen.what_next()
}

impl Playground {
    async fn open(url: Option<&str>, screen: &mut Screen) -> Result<Self, CliError> {
        if let Some(url) = url {
            screen.done("uses the database of --database-url; its rows stay there")?;
            return Ok(Self {
                url: url.to_owned(),
                workflow: "demo_mention_escalation",
                cluster: None,
            });
        }
        let start = || {
            Cluster::builder()
                .durability(Durability::Full)
                .database(PRIVATE_DATABASE)
                .start()
        };
        let cluster = blocking(start).await?;
        screen.done(&format!(
            "started a private PostgreSQL on 127.0.0.1:{}",
            cluster.port()
        ))?;
        Ok(Self {
            url: cluster.url(PRIVATE_DATABASE),
            workflow: "mention_escalation",
            cluster: Some(cluster),
        })
    }

    async fn play(&self, screen: &mut Screen, stop: &CancellationToken) -> Result<(), CliError> {
        let database = Database::new(Some(&self.url))?;
        let mut conn = database.connect().await?;
        let version = migrate::bring_up(&mut conn).await?.1;
        screen.done(&format!(
            "migrated its schema `chimeway` to version {version}"
        ))?;

        let chimeway = Chimeway::builder().build();
        let pool = database.pool(2);
        let applied = chimeway.apply(&pool, &journey(self.workflow)?).await?;
        pool.close().await;
        screen.done(&format!(
            "applied the workflow {} v{}",
            applied.key, applied.version
        ))?;
        screen.journey()?;

        let mut worker = WorkerProcess::start(&self.url)?;
        screen.done(&format!("started a worker, process {}", worker.id()))?;
        screen
            .note("email has no provider here: the log adapter takes it, and writes a log line")?;
        let mut story = Story::new(chimeway, conn, self.workflow);
        let told = tokio::select! {
            told = story.tell(screen) => told,
            ended = worker.ended() => Err(ended),
            () = stop.cancelled() => Err(CliError::Refused(
                "the demo was interrupted; run it again to see it whole".into(),
            )),
        };
        let stopped = worker.stop().await;
        let result = match told {
            Ok(()) => stopped,
            Err(error) => Err(error),
        };
        match &result {
            Ok(()) => screen.done("the worker drained and exited with code 0")?,
            Err(error) if error.is_closed_output() || stop.is_cancelled() => {}
            Err(_) => worker.show_log(),
        }
        result
    }

    async fn close(self) -> Result<(), CliError> {
        match self.cluster {
            Some(cluster) => blocking(move || cluster.stop(Mode::Immediate)).await,
            None => Ok(()),
        }
    }
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

/// The example with a short wait, under this key and without a version of its own.
fn journey(key: &str) -> Result<Document, CliError> {
    let document = Document::from_yaml("mention_escalation.yaml", JOURNEY)
        .map_err(|mistake| CliError::Refused(mistake.to_string()))?;
    let mut value = document.value().clone();
    if let Some(document) = value.as_object_mut() {
        document.insert("key".into(), key.into());
        document.shift_remove("version");
    }
    let steps = value
        .get_mut("steps")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for action in steps.filter_map(|step| step.get_mut("action")?.as_object_mut()) {
        if action.contains_key("duration") {
            action.insert("duration".into(), SHORT_WAIT.into());
        }
    }
    Ok(Document::from_value(value))
}

#[cfg(test)]
mod tests {
    use chimeway::definition::{Known, StepKind, validate};

    use super::*;

    #[test]
    fn the_journey_is_the_example_with_a_short_wait() {
        let example = Document::from_yaml("a.yaml", JOURNEY).unwrap();
        let example = validate(&example, &Known::default()).unwrap().plan;
        let played = validate(&journey("other").unwrap(), &Known::default()).unwrap();
        assert_eq!((played.plan.key.as_str(), played.version), ("other", None));
        assert_eq!(example.steps.len(), played.plan.steps.len());
        let waits = |steps: &[chimeway::definition::Step]| -> Vec<String> {
            let kinds = steps.iter().filter_map(|step| match &step.kind {
                StepKind::Wait(wait) => Some(wait.duration.to_string()),
                StepKind::Notify(_) => None,
            });
            kinds.collect()
        };
        assert_eq!(waits(&example.steps), ["PT2H"]);
        assert_eq!(waits(&played.plan.steps), [SHORT_WAIT]);
    }
}
