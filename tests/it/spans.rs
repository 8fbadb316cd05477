//! What is told of runs to whoever follows them: one trace for each, its root the trigger.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use chimeway::{
    flow::spans::{Span, SpanKind, SpanSink, SpanValue},
    ids::RunId,
};
use chimeway_testkit::{Answer, Story};
use serde_json::json;
use sqlx::Executor as _;

use crate::{
    logs::Logs,
    programs::masked,
    tools::{MENTION, MORNING, trigger, trigger_of},
};

/// Keeps every span; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<Span>>>);

impl SpanSink for Kept {
    fn wants(&self, _run: RunId) -> bool {
        true
    }

    fn take(&self, spans: Vec<Span>) {
        assert!(!spans.is_empty(), "nothing is told");
        self.0.lock().unwrap().extend(spans);
    }
}

impl Kept {
    pub(crate) fn all(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }

    /// The spans of a run, a line each, in the order they were told.
    fn told(&self, run: RunId) -> String {
        let spans = self.all().into_iter().filter(|span| span.run == run);
        spans.map(|span| masked(&line(&span)) + "\n").collect()
    }

    /// What spans of a run are called, in the order they were told.
    fn names(&self, run: RunId) -> Vec<String> {
        let spans = self.all().into_iter().filter(|span| span.run == run);
        spans.map(|span| span.name).collect()
    }
}

fn line(span: &Span) -> String {
    let at = |at: chrono::DateTime<chrono::Utc>| at.format("%H:%M:%S").to_string();
    let attributes = span.attributes.iter().map(|(name, value)| match value {
        SpanValue::Text(text) => format!(" {}={text}", name.trim_start_matches("chimeway.")),
        SpanValue::Number(number) => format!(" {}={number}", name.trim_start_matches("chimeway.")),
    });
    let attributes: String = attributes.collect();
    let failed = if span.failed { " failed" } else { "" };
    let (name, began, ended) = (&span.name, at(span.began), at(span.ended));
    format!("{name} {began}..{ended}{failed}:{attributes}")
}

async fn followed() -> (Story, Kept) {
    let kept = Kept::default();
    let sink = kept.clone();
    let story = Story::builder()
        .with(|builder| builder.spans(sink))
        .begin(MORNING)
        .await;
    (story, kept)
}

/// Every run's spans hang together: one root, told once, and the others its children, each once.
fn assert_traces(kept: &Kept) {
    let mut runs: BTreeMap<RunId, Vec<Span>> = BTreeMap::new();
    for span in kept.all() {
        runs.entry(span.run).or_default().push(span);
    }
    assert!(!runs.is_empty());
    for (run, spans) in runs {
        let roots: Vec<&Span> = spans.iter().filter(|it| it.parent.is_none()).collect();
        let lines: Vec<String> = spans.iter().map(line).collect();
        assert_eq!(roots.len(), 1, "{run} {lines:#?}");
        assert_eq!(roots[0].kind, SpanKind::Trigger);
        let ids: BTreeSet<_> = spans.iter().map(|span| span.id).collect();
        assert_eq!(ids.len(), spans.len(), "{run} {lines:#?}");
        for span in &spans {
            assert!(span.ended >= span.began && span.began >= roots[0].began);
            assert!(span.parent.is_none_or(|parent| parent == roots[0].id));
        }
    }
}

#[tokio::test]
async fn a_journey_is_told_from_its_trigger_to_its_end() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    let minute = Duration::from_secs(60);
    story.channel().answer([
        Answer::Temporary(Some(minute)),
        Answer::Takes,
        Answer::Bounced,
    ]);
    let run = story.trigger("mention_escalation", "ada").await;
    assert_eq!(kept.told(run), "", "nothing of it has been worked on");
    story.drain().await;
    story.advance("PT3H").await;
    insta::assert_snapshot!(kept.told(run), @r"
    trigger mention_escalation 09:00:00..09:00:00: run.id=<id> workflow.key=mention_escalation workflow.version=1
    send in_app 09:00:00..09:00:00 failed: run.id=<id> delivery.id=<id> channel=in_app event.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_in_app attempt.number=1 outcome=failed error.type=temporary
    send in_app 09:01:00..09:01:00: run.id=<id> delivery.id=<id> channel=in_app event.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_in_app attempt.number=2 outcome=succeeded
    wait step_wait_for_read 09:01:00..11:01:00: run.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_wait_for_read outcome=elapsed
    send email 11:01:00..11:01:00 failed: run.id=<id> delivery.id=<id> channel=email event.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_email_escalation attempt.number=1 outcome=failed error.type=bounced
    run mention_escalation 09:00:00..11:01:00: run.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_email_escalation outcome=completed reason=completed
    ");
    assert_traces(&kept);
}

#[tokio::test]
async fn a_wait_that_a_signal_ends_says_so() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.advance("PT20M").await;
    story.signal("ada", "notification_read").await;
    story.advance("PT10M").await;
    insta::assert_snapshot!(kept.told(run), @r"
    trigger mention_escalation 09:00:00..09:00:00: run.id=<id> workflow.key=mention_escalation workflow.version=1
    send in_app 09:00:00..09:00:00: run.id=<id> delivery.id=<id> channel=in_app event.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_in_app attempt.number=1 outcome=succeeded
    wait step_wait_for_read 09:00:00..09:20:00: run.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_wait_for_read outcome=signalled
    run mention_escalation 09:00:00..09:20:00: run.id=<id> workflow.key=mention_escalation workflow.version=1 step.key=step_wait_for_read outcome=stopped reason=stop_condition:notification_read
    ");
    assert_traces(&kept);
}

#[tokio::test]
async fn runs_that_a_worker_makes_tell_that_too() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    story
        .pool()
        .execute(
            "select chimeway.trigger('mention_escalation', '{}', 'org_456',
                '[{\"identity\": \"ada\"}, {\"identity\": \"bob\"}]')",
        )
        .await
        .unwrap();
    story.pass("PT5S").await;
    story.drain().await;
    story.signal("bob", "notification_read").await;
    story.advance("PT2H").await;
    let spans = kept.all();
    let runs: BTreeSet<RunId> = spans.iter().map(|span| span.run).collect();
    assert_eq!(runs.len(), 2, "each run is a trace of its own");
    let expansions: Vec<&Span> = spans
        .iter()
        .filter(|span| span.kind == SpanKind::Expand)
        .collect();
    assert_eq!(expansions.len(), 2);
    for span in expansions {
        assert_eq!((span.ended - span.began).num_seconds(), 5);
    }
    let events: BTreeSet<String> = spans
        .iter()
        .flat_map(|span| &span.attributes)
        .filter(|(name, _)| *name == "chimeway.event.id")
        .map(|(_, value)| format!("{value:?}"))
        .collect();
    assert_eq!(events.len(), 1, "they name the trigger they have in common");
    assert_traces(&kept);
}

/// Somebody does not want to see anything in the app.
async fn unwanted(story: &Story, who: &str) {
    let preference =
        "insert into chimeway.preferences (tenant_id, recipient, kind, name, enabled, updated_at)
                      values ('org_456', $1, 'channel', 'in_app', false, now())";
    let written = sqlx::query(preference)
        .bind(who)
        .execute(story.pool())
        .await;
    written.unwrap();
}

/// However a run leaves its beginning, its trigger is told once.
#[tokio::test]
async fn a_run_whose_first_message_is_not_sent_has_its_trigger() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    story
        .apply(
            "key: later\nsteps:
  - { id: pause, action: { type: wait, duration: PT1H } }
  - { id: mail, action: { type: notify, channel: email, render_key: mail } }\n",
        )
        .await;
    // Before it is planned, and after.
    unwanted(&story, "ada").await;
    let ada = story.trigger("mention_escalation", "ada").await;
    let bob = story.trigger("mention_escalation", "bob").await;
    unwanted(&story, "bob").await;
    let cem = story.trigger("mention_escalation", "cem").await;
    let cancel = "select chimeway.cancel('org_456', $1, 'by mistake')";
    let cancelled = sqlx::query(cancel).bind(cem.0).execute(story.pool()).await;
    cancelled.unwrap();
    let dan = story.trigger("later", "dan").await;
    story.advance("PT3H").await;
    assert_eq!(
        kept.names(ada),
        [
            "trigger mention_escalation",
            "wait step_wait_for_read",
            "send email",
            "run mention_escalation"
        ]
    );
    assert_eq!(
        kept.names(bob),
        [
            "suppress in_app",
            "trigger mention_escalation",
            "wait step_wait_for_read",
            "send email",
            "run mention_escalation"
        ]
    );
    assert_eq!(
        kept.names(cem),
        ["trigger mention_escalation", "run mention_escalation"]
    );
    assert_eq!(
        kept.names(dan),
        ["trigger later", "wait pause", "send email", "run later"]
    );
    assert_traces(&kept);
}

#[tokio::test]
async fn a_try_whose_worker_vanished_is_told_when_it_is_closed() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    let claimed = "update chimeway.deliveries
        set status = 'dispatched', claim_no = 1, attempts = 1, lease_owner = 'gone',
            lease_until = chimeway.now() + interval '30 seconds'";
    story.pool().execute(claimed).await.unwrap();
    story.advance("PT10M").await;
    insta::assert_snapshot!(kept.told(run), @r"
    trigger mention_escalation 09:00:00..09:00:00: run.id=<id> workflow.key=mention_escalation workflow.version=1
    send in_app 09:00:00..09:10:00 failed: run.id=<id> delivery.id=<id> channel=in_app workflow.key=mention_escalation workflow.version=1 step.key=step_in_app attempt.number=1 outcome=unknown error.type=unknown
    ");
    story.advance("PT10H").await;
    assert_eq!(
        kept.names(run)[2..],
        [
            "send in_app",
            "wait step_wait_for_read",
            "send email",
            "run mention_escalation"
        ]
    );
    assert_traces(&kept);
}

/// A result of a run that another session holds is written down, and the run is told later.
#[tokio::test]
async fn a_run_that_a_host_holds_is_told_of_too() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    let mut host = story.pool().begin().await.unwrap();
    host.execute("select from chimeway.workflow_runs for update")
        .await
        .unwrap();
    story.drain().await;
    assert_eq!(
        kept.names(run),
        ["trigger mention_escalation", "send in_app"]
    );
    host.rollback().await.unwrap();
    story.advance("PT3H").await;
    assert_eq!(
        kept.names(run),
        [
            "trigger mention_escalation",
            "send in_app",
            "wait step_wait_for_read",
            "send email",
            "run mention_escalation"
        ]
    );
    assert_traces(&kept);
}

#[tokio::test]
async fn a_trigger_that_is_rolled_back_is_not_told() {
    let (story, kept) = followed().await;
    story.apply(MENTION).await;
    let mut tx = story.pool().begin().await.unwrap();
    let asked = trigger_of("mention_escalation", "ada").params(json!({}));
    story.chimeway().trigger(&mut tx, asked).await.unwrap();
    tx.rollback().await.unwrap();
    story.advance("PT3H").await;
    assert_eq!(kept.all(), []);
}

/// The names of the statements that a journey takes.
async fn statements(story: &Story) -> Vec<String> {
    story.apply(MENTION).await;
    let (logs, logging) = Logs::begin();
    trigger(
        story.chimeway(),
        story.pool(),
        trigger_of("mention_escalation", "ada"),
    )
    .await
    .unwrap();
    story.advance("PT3H").await;
    let text = logs.text();
    drop(logging);
    let names = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("-- ")?;
        Some(rest.split(&[' ', '\\', '"'][..]).next()?.to_owned())
    });
    names.collect()
}

#[tokio::test]
async fn following_runs_takes_no_statement() {
    let plain = Story::begin(MORNING).await;
    let (story, kept) = followed().await;
    let expected = statements(&plain).await;
    assert!(
        expected.iter().any(|name| name == "claims::claim"),
        "{expected:?}"
    );
    assert_eq!(statements(&story).await, expected);
    assert!(!kept.all().is_empty());
}
