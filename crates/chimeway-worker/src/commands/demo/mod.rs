//! `chimeway demo`: one journey from trigger to end, with a real worker process and a real PostgreSQL.

mod host;
mod screen;
mod settings;
mod story;
mod timeline;

use std::{ffi::OsStr, process::Stdio};

use chimeway::{
    definition::Document,
    flow::{Chimeway, TemplateSource, Templates},
};
use chimeway_cluster::{Cluster, Durability, Mode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::{screen::Screen, story::Story};
use super::{Context, blocking, child::WorkerChild, migrate};
use crate::{database::Database, error::CliError, shutdown, sink::Sink};

/// Watch a journey from trigger to end, in about ten seconds
///
/// Starts a private PostgreSQL, a mail server that shows what it gets and a worker process, and
/// removes them when done. DATABASE_URL does not count here; with --database-url the demo runs there
/// instead, and leaves its rows behind (tenant `demo`, table public.demo_mentions).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway demo
  chimeway demo --database-url postgres://localhost/scratch")]
pub(crate) struct Args {}

/// The example that ships with the program.
const JOURNEY: &str = include_str!("../../../../../journeys/mention_escalation.yaml");
/// What its mail says: subject, text, HTML.
const MAIL: [&str; 3] = [
    include_str!("../../../../../journeys/templates/mention_email.subject.txt"),
    include_str!("../../../../../journeys/templates/mention_email.txt"),
    include_str!("../../../../../journeys/templates/mention_email.html"),
];
/// Instead of its two hours.
const SHORT_WAIT: &str = "PT4S";

const PRIVATE_DATABASE: &str = "chimeway_demo";

/// What things are called in the database.
#[derive(Debug, Clone, Copy)]
struct Names {
    workflow: &'static str,
    mail: &'static str,
}

/// A database to play in.
struct Playground {
    url: String,
    /// What the journey and its mail are called there: in a database that others use, not what theirs
    /// may be called.
    names: Names,
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
                names: Names {
                    workflow: "demo_mention_escalation",
                    mail: "demo_mention_email",
                },
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
            names: Names {
                workflow: "mention_escalation",
                mail: "mention_email",
            },
            cluster: Some(cluster),
        })
    }

    async fn play(&self, screen: &mut Screen, stop: &CancellationToken) -> Result<(), CliError> {
        let database = Database::new(&self.url)?;
        let mut conn = database.connect().await?;
        let version = migrate::bring_up(&mut conn).await?.1;
        screen.done(&format!(
            "migrated its schema `chimeway` to version {version}"
        ))?;

        let chimeway = Chimeway::builder().build();
        let pool = database.pool(2);
        let (document, templates) = (journey(self.names)?, templates(self.names)?);
        let applied = chimeway.apply_with(&pool, &document, &templates).await?;
        pool.close().await;
        screen.done(&format!(
            "applied the workflow {} v{} and the templates of its email",
            applied.key, applied.version
        ))?;
        screen.journey()?;

        let sink = Sink::start().await;
        let sink = sink.map_err(CliError::io("start the mail server"))?;
        screen.done(&format!(
            "started a mail server on 127.0.0.1:{}, which shows what it gets",
            sink.port()
        ))?;
        // The worker reads it as it starts.
        let settings =
            settings::write(sink.port()).map_err(CliError::io("write the worker's settings"))?;
        let args = ["worker", "--until-stdin-ends", "--config"].map(OsStr::new);
        let args = args.into_iter().chain([settings.path().as_os_str()]);
        let mut worker = WorkerChild::start(&self.url, args, Stdio::null())?;
        screen.done(&format!("started a worker, process {}", worker.id()))?;
        let mut story = Story::new(chimeway, conn, sink, self.names.workflow);
        let told = tokio::select! {
            told = story.tell(screen) => told,
            ended = worker.ended() => Err(ended),
            () = stop.cancelled() => Err(CliError::Refused(
                "the demo was interrupted; run it again to see it whole".into(),
            )),
        };
        let stopped = match worker.drain() {
            Ok(()) => worker.drained().await,
            Err(error) => Err(error),
        };
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

/// What the mail says, under its name there.
fn templates(names: Names) -> Result<Templates, CliError> {
    let [subject, text, html] = MAIL.map(|part| Some(part.to_owned()));
    let mut templates = Templates::new();
    let source = TemplateSource {
        subject,
        text,
        html,
    };
    match templates.add(names.mail, source) {
        Ok(()) => Ok(templates),
        Err(mistakes) => {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            Err(CliError::Refused(mistakes.join("; ")))
        }
    }
}

/// The example with a short wait, under these names and without a version of its own.
fn journey(names: Names) -> Result<Document, CliError> {
    let document = Document::from_yaml("mention_escalation.yaml", JOURNEY)
        .map_err(|mistake| CliError::Refused(mistake.to_string()))?;
    let mut value = document.value().clone();
    if let Some(document) = value.as_object_mut() {
        document.insert("key".into(), names.workflow.into());
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
        if action
            .get("channel")
            .is_some_and(|channel| channel == "email")
        {
            action.insert("render_key".into(), names.mail.into());
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
        let names = Names {
            workflow: "other",
            mail: "other_mail",
        };
        let played = validate(&journey(names).unwrap(), &Known::default()).unwrap();
        assert_eq!((played.plan.key.as_str(), played.version), ("other", None));
        assert!(templates(names).unwrap().get("other_mail").is_some());
        let mails = played.plan.steps.iter().filter(|step| match &step.kind {
            StepKind::Notify(notify) => notify.render_key.as_str() == "other_mail",
            _ => false,
        });
        assert_eq!(mails.count(), 1);
        assert_eq!(example.steps.len(), played.plan.steps.len());
        let waits = |steps: &[chimeway::definition::Step]| -> Vec<String> {
            let kinds = steps.iter().filter_map(|step| match &step.kind {
                StepKind::Wait(wait) => Some(wait.duration.to_string()),
                _ => None,
            });
            kinds.collect()
        };
        assert_eq!(waits(&example.steps), ["PT2H"]);
        assert_eq!(waits(&played.plan.steps), [SHORT_WAIT]);
    }
}
