//! The story: three mentions, of which one is rolled back; Ada reads hers, Grace does not.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chimeway::{
    engine::Reason,
    flow::{
        Chimeway, Explanation,
        inbox::{Mark, Page},
    },
    ids::{ActorId, RunId, TenantId},
    store::{
        run_views::{self, RunFilter},
        settings,
    },
};
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{
    host::{self, ADA, End, GRACE, MARY, Mention, Moment, Person, TENANT},
    screen::{Screen, Tone},
    timeline,
};
use crate::{
    commands::explain,
    error::CliError,
    sink::{Mail, Sink},
};

/// How often the timeline looks for what is new.
const LOOK: Duration = Duration::from_millis(50);
/// How long Ada lets her phone lie: the wait is 4 seconds.
const ADA_LOOKS_AFTER: Duration = Duration::from_millis(1500);
/// A mail that takes longer than this is lost.
const MAIL_PATIENCE: Duration = Duration::from_secs(2);
/// A journey that takes longer than this has gone wrong.
const PATIENCE: Duration = Duration::from_secs(14);

pub(super) struct Story {
    chimeway: Chimeway,
    conn: PgConnection,
    sink: Sink,
    mails: Vec<Mail>,
    workflow: &'static str,
}

impl Story {
    pub(super) fn new(
        chimeway: Chimeway,
        conn: PgConnection,
        sink: Sink,
        workflow: &'static str,
    ) -> Self {
        Self {
            chimeway,
            conn,
            sink,
            mails: Vec::new(),
            workflow,
        }
    }

    /// Tells it, and checks that it went as it should.
    pub(super) async fn tell(&mut self, screen: &mut Screen) -> Result<(), CliError> {
        host::create_table(&mut self.conn).await?;
        screen.heading(
            "The application writes its row and triggers the workflow in one transaction",
        )?;
        screen.block(&host::shown(self.workflow, ADA), Tone::Plain)?;
        let begun = settings::now(&mut self.conn).await?;
        let ada = self.mention(ADA, End::Commit).await?;
        let grace = self.mention(GRACE, End::Commit).await?;
        let mary = self.mention(MARY, End::Rollback).await?;
        screen.note("the same for grace; and for mary, but with `rollback` at the end")?;

        screen.heading("What happens, as it happens")?;
        self.follow(begun, [ada, grace], screen).await?;

        screen.heading("Why each run is where it is: `chimeway explain RUN --tenant demo`")?;
        let ada = self.explain(ADA, ada, screen).await?;
        let grace = self.explain(GRACE, grace, screen).await?;

        screen.heading("What was promised")?;
        expect_stopped(&ada)?;
        screen.done("ada read the mention: her run stopped, and no email exists")?;
        expect_completed(&grace)?;
        self.expect_one_mail_to(GRACE)?;
        screen.done("grace did not: her run is complete, and one email arrived, for her")?;
        if host::left_something(&mut self.conn, mary).await? {
            return Err(unexpected(
                "mary's transaction was rolled back, but something is left of it",
            ));
        }
        screen.done("mary's transaction was rolled back: there is no row and no event of hers")
    }

    async fn mention(&mut self, person: Person, end: End) -> Result<Mention, CliError> {
        host::mention(&mut self.conn, self.workflow, person, end).await
    }

    /// Prints what is new until both runs have ended.
    async fn follow(
        &mut self,
        begun: DateTime<Utc>,
        mentions: [Mention; 2],
        screen: &mut Screen,
    ) -> Result<(), CliError> {
        let events = mentions.map(|mention| mention.event.0);
        let mut told: HashSet<(Uuid, i32)> = HashSet::new();
        let (mut ended, mut waiting_since, mut has_read) = (0, None, false);
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = tokio::time::interval(LOOK);
        while ended < mentions.len() {
            if Instant::now() > deadline {
                return Err(unexpected(&format!(
                    "the journeys have not ended after {} seconds",
                    PATIENCE.as_secs()
                )));
            }
            ticks.tick().await;
            for moment in host::moments(&mut self.conn, &events).await? {
                if !told.insert((moment.source, moment.place)) {
                    continue;
                }
                let since = (moment.at - begun).to_std().unwrap_or_default();
                if let Some((text, tone)) = timeline::words(&moment) {
                    screen.moment(since, &moment.person, &text, tone)?;
                }
                if is_mail(&moment) {
                    let mail = self.next_mail().await?;
                    screen.mail(&mail)?;
                    self.mails.push(mail);
                }
                match reason(&moment) {
                    Some(Reason::WaitingForStepProgression) if moment.person == ADA.name => {
                        waiting_since = Some(Instant::now());
                    }
                    Some(Reason::WorkflowStopped | Reason::WorkflowCompleted) => ended += 1,
                    _ => {}
                }
            }
            let is_time = |since: Instant| since.elapsed() >= ADA_LOOKS_AFTER;
            if !has_read && waiting_since.is_some_and(is_time) {
                has_read = true;
                let since = (settings::now(&mut self.conn).await? - begun).to_std();
                let text = "opens the inbox and reads the mention: notification_read";
                screen.moment(since.unwrap_or_default(), ADA.name, text, Tone::Heard)?;
                self.read_inbox(ADA).await?;
            }
        }
        Ok(())
    }

    /// What the application does when a person opens the inbox. The mark and its signal are one
    /// transaction.
    async fn read_inbox(&mut self, person: Person) -> Result<(), CliError> {
        let (tenant, actor) = (name::<TenantId>(TENANT)?, name::<ActorId>(person.name)?);
        let inbox = self.chimeway.inbox();
        let mut tx = self.conn.begin().await?;
        let newest = Page {
            limit: 1,
            ..Page::default()
        };
        let items = inbox.list(&mut tx, &tenant, &actor, newest).await?;
        let items: Vec<_> = items.iter().map(|item| item.id).collect();
        if items.is_empty() {
            return Err(unexpected("ada's inbox is empty"));
        }
        inbox
            .mark(&mut tx, &tenant, &actor, &items, Mark::Read)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The mail that was taken: the server had it before the try was recorded.
    async fn next_mail(&mut self) -> Result<Mail, CliError> {
        match tokio::time::timeout(MAIL_PATIENCE, self.sink.next()).await {
            Ok(Some(mail)) => Ok(mail),
            Ok(None) | Err(_) => Err(unexpected("an email was sent, but it did not arrive")),
        }
    }

    fn expect_one_mail_to(&self, person: Person) -> Result<(), CliError> {
        match self.mails.as_slice() {
            [mail] if mail.to == [person.email] && self.sink.unseen() == 0 => Ok(()),
            _ => Err(unexpected(
                "the mail server did not get one email, for grace",
            )),
        }
    }

    async fn explain(
        &mut self,
        person: Person,
        mention: Mention,
        screen: &mut Screen,
    ) -> Result<Explanation, CliError> {
        let run = self.run_of(mention).await?;
        let tenant = name::<TenantId>(TENANT)?;
        let found = self
            .chimeway
            .workflows()
            .explain(&mut self.conn, &tenant, run)
            .await?;
        let explanation = found.ok_or_else(|| CliError::no_run(run, &tenant))?;
        screen.person(person.name)?;
        screen.block(&explain::block(&explanation), Tone::Plain)?;
        Ok(explanation)
    }

    async fn run_of(&mut self, mention: Mention) -> Result<RunId, CliError> {
        let filter = RunFilter {
            event: Some(mention.event),
            ..RunFilter::default()
        };
        match run_views::list(&mut self.conn, &filter, 2)
            .await?
            .as_slice()
        {
            [run] => Ok(run.id),
            found => Err(unexpected(&format!(
                "a mention has {} runs, not one",
                found.len()
            ))),
        }
    }
}

fn is_mail(moment: &Moment) -> bool {
    moment.is_try && moment.word == "succeeded" && moment.channel.as_deref() == Some("email")
}

fn reason(moment: &Moment) -> Option<Reason> {
    if moment.is_try {
        None
    } else {
        Reason::parse(&moment.word)
    }
}

fn name<T: std::str::FromStr<Err = chimeway::ids::BadName>>(text: &str) -> Result<T, CliError> {
    text.parse()
        .map_err(|error: chimeway::ids::BadName| CliError::Usage(error.to_string()))
}

fn expect_stopped(run: &Explanation) -> Result<(), CliError> {
    let is_so = run.state == "stopped"
        && run.terminal_reason.as_deref() == Some("stop_condition:notification_read")
        && run
            .deliveries
            .iter()
            .all(|delivery| delivery.channel != "email");
    if is_so {
        Ok(())
    } else {
        Err(unexpected(
            "ada's run did not stop when she read the mention",
        ))
    }
}

fn expect_completed(run: &Explanation) -> Result<(), CliError> {
    let emails: Vec<_> = run
        .deliveries
        .iter()
        .filter(|delivery| delivery.channel == "email")
        .collect();
    let is_so = run.state == "completed"
        && matches!(emails.as_slice(), [email] if email.status == "succeeded" && email.attempts == 1);
    if is_so {
        Ok(())
    } else {
        Err(unexpected("grace's run did not end with one email"))
    }
}

fn unexpected(what: &str) -> CliError {
    CliError::Refused(format!(
        "the demo went wrong: {what}; please report it with the output above"
    ))
}
