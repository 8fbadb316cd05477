//! A journey told step by step.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use chimeway::{
    Chimeway, Dispatcher, Document, Recipient, Signal, Trigger, Workflow,
    channels::Channel,
    definition::IsoDuration,
    flow::{ChimewayBuilder, Explanation, Settled},
    ids::{ActorId, EventId, RunId, SignalId, SignalName, TenantId, WorkflowKey},
    store::{
        due,
        run_views::{self, RunFilter},
        settings,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{RecordingChannel, TestDb};

/// The tenant of every story, unless it says otherwise.
pub const TENANT: &str = "org_456";

/// A database, a handle with the Inline dispatcher, a recording channel under `email` and any other
/// name, and a clock that stands still.
pub struct Story {
    db: TestDb,
    chimeway: Chimeway,
    channel: RecordingChannel,
    now: Mutex<DateTime<Utc>>,
}

/// A story that is about to begin: for channels of your own.
pub struct StoryBuilder {
    builder: ChimewayBuilder,
    channel: RecordingChannel,
}

impl StoryBuilder {
    /// A channel of your own, under a name that documents may use.
    ///
    /// # Panics
    ///
    /// If the name is not one.
    #[must_use]
    pub fn channel(mut self, name: &str, channel: impl Channel) -> Self {
        self.builder = ok(self.builder.channel(name, channel));
        self
    }

    /// Another name that the recording channel is known under.
    #[must_use]
    pub fn recorded(self, name: &str) -> Self {
        let channel = self.channel.clone();
        self.channel(name, channel)
    }

    /// Changes the handle before it is built.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(ChimewayBuilder) -> ChimewayBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    /// Begins at an instant (RFC 3339).
    pub async fn begin(self, at: &str) -> Story {
        let now = at
            .parse()
            .unwrap_or_else(|_| panic!("`{at}` is not an instant like 2026-03-02T09:00:00Z"));
        let story = Story {
            db: TestDb::create().await,
            chimeway: self.builder.build(),
            channel: self.channel,
            now: Mutex::new(now),
        };
        story.set_clock(now).await;
        story
    }
}

impl Story {
    /// A story that begins at an instant (RFC 3339), with the recording channel under `in_app` and
    /// `email`.
    pub async fn begin(at: &str) -> Self {
        Self::builder().begin(at).await
    }

    /// A story to change before it begins.
    #[must_use]
    pub fn builder() -> StoryBuilder {
        let builder = Chimeway::builder()
            .dispatcher(Dispatcher::Inline)
            .worker_name("story");
        StoryBuilder {
            builder,
            channel: RecordingChannel::default(),
        }
        .recorded("in_app")
        .recorded("email")
    }

    /// The handle.
    #[must_use]
    pub fn chimeway(&self) -> &Chimeway {
        &self.chimeway
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &TestDb {
        &self.db
    }

    /// Connections to it.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// The recording channel, to be told how to answer.
    #[must_use]
    pub fn channel(&self) -> &RecordingChannel {
        &self.channel
    }

    /// The story's now.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn set_clock(&self, now: DateTime<Utc>) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
        let mut conn = ok(self.pool().acquire().await);
        ok(settings::set_clock(&mut conn, Some(now)).await);
    }

    /// Lets time pass, without doing what falls due in it: [`Story::drain`] does.
    pub async fn pass(&self, duration: &str) {
        let duration: IsoDuration = ok(duration.parse());
        self.set_clock(self.now() + duration.to_chrono()).await;
    }

    /// Lets time pass with workers at work: what is due now is done first, then whatever falls due
    /// meanwhile, each at its instant, and at last what is due at the end.
    pub async fn advance(&self, duration: &str) -> Settled {
        let duration: IsoDuration = ok(duration.parse());
        let end = self.now() + duration.to_chrono();
        let mut done = self.drain().await;
        while let Some(at) = self.next_due().await.filter(|at| *at < end) {
            self.set_clock(at).await;
            done = sum(done, self.drain().await);
        }
        self.set_clock(end).await;
        sum(done, self.drain().await)
    }

    /// The next instant at which something falls due; what is due already and cannot be done, because
    /// another session holds it, does not count.
    async fn next_due(&self) -> Option<DateTime<Utc>> {
        let mut conn = ok(self.pool().acquire().await);
        let workflows = ok(due::workflows(&mut conn, due::OfWorkflows::default()).await);
        let waits = [
            workflows.events.due,
            workflows.runs.due,
            workflows.owed.due,
            workflows.actions.due,
            ok(due::deliveries(&mut conn, None).await).to_claim,
            ok(due::signals(&mut conn, None).await).due,
        ];
        let ahead = waits.into_iter().flatten().filter(|wait| !wait.is_zero());
        Some(self.now() + TimeDelta::from_std(ahead.min()?).ok()?)
    }

    /// Does everything that is due now.
    pub async fn drain(&self) -> Settled {
        ok(self.chimeway.settle(self.pool()).await)
    }

    /// Looks for what nothing else would move, as a fleet does every minute: leases that ended without a
    /// record, runs that were changed or lost by hand. What it finds is due then.
    pub async fn sweep(&self) {
        ok(self.chimeway.sweep(self.pool()).await);
    }

    /// Stores a workflow, from YAML or JSON.
    pub async fn apply(&self, document: &str) {
        let document = ok(Document::from_yaml("story", document));
        if let Err(error) = self.chimeway.apply(self.pool(), &document).await {
            panic!("{error}");
        }
    }

    /// Triggers a workflow for one recipient in a transaction of its own; its run.
    pub async fn trigger(&self, workflow: &str, recipient: &str) -> RunId {
        self.trigger_with(workflow, recipient, json!({})).await
    }

    /// Triggers a workflow with params.
    pub async fn trigger_with(&self, workflow: &str, recipient: &str, params: Value) -> RunId {
        let trigger = Trigger::new(ok(WorkflowKey::new(workflow)), tenant()).params(params);
        self.begin_run(trigger, recipient).await
    }

    /// Starts a workflow written in Rust for one recipient, in a transaction of its own; its run.
    pub async fn start(&self, workflow: &impl Workflow, recipient: &str) -> RunId {
        let trigger = ok(Trigger::of(workflow, tenant()));
        self.begin_run(trigger, recipient).await
    }

    async fn begin_run(&self, trigger: Trigger, recipient: &str) -> RunId {
        let trigger = trigger.recipient(Recipient::new(ok(ActorId::new(recipient))));
        let mut tx = ok(self.pool().begin().await);
        let event = ok(self.chimeway.trigger(&mut tx, trigger).await).event();
        ok(tx.commit().await);
        self.runs_of(event).await[0]
    }

    /// The runs of an event, newest first.
    pub async fn runs_of(&self, event: EventId) -> Vec<RunId> {
        let filter = RunFilter {
            event: Some(event),
            ..RunFilter::default()
        };
        let mut conn = ok(self.pool().acquire().await);
        ok(run_views::list(&mut conn, &filter, 10_000).await)
            .into_iter()
            .map(|run| run.id)
            .collect()
    }

    /// Tells that someone did something; routed by the next [`Story::drain`] or [`Story::advance`].
    pub async fn signal(&self, actor: &str, name: &str) -> SignalId {
        self.signal_with(actor, name, json!({})).await
    }

    /// Tells it with a payload.
    pub async fn signal_with(&self, actor: &str, name: &str, payload: Value) -> SignalId {
        let signal = Signal::new(tenant(), ok(ActorId::new(actor)), ok(SignalName::new(name)))
            .payload(payload);
        let mut tx = ok(self.pool().begin().await);
        let id = ok(self.chimeway.track(&mut tx, signal).await);
        ok(tx.commit().await);
        id
    }

    /// What was handed to the recording channel: `<channel> <render key> to <recipient>`, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<String> {
        let line = |message: &crate::Sent| {
            let to = message.recipient.as_ref().map_or("nobody", ActorId::as_str);
            format!("{} {} to {to}", message.channel, message.render_key)
        };
        self.channel.sent().iter().map(line).collect()
    }

    /// Where a run is and why.
    pub async fn explain(&self, run: RunId) -> Explanation {
        let mut conn = ok(self.pool().acquire().await);
        let explanation = ok(self
            .chimeway
            .workflows()
            .explain(&mut conn, &tenant(), run)
            .await);
        explanation.unwrap_or_else(|| panic!("there is no run {run}"))
    }

    /// A run's history, a line each: time, what happened, step, states, facts.
    pub async fn history(&self, run: RunId) -> String {
        let mut conn = ok(self.pool().acquire().await);
        let lines = ok(self
            .chimeway
            .workflows()
            .list_traces(&mut conn, &tenant(), run, None)
            .await);
        let mut text = String::new();
        for line in lines.unwrap_or_default() {
            let _ = writeln!(
                text,
                "{} {} {} {}->{} {}",
                line.inserted_at.format("%m-%d %H:%M:%S"),
                line.reason,
                line.step_key.as_deref().unwrap_or("-"),
                line.from_state.as_deref().unwrap_or("-"),
                line.to_state,
                sorted(&line.context),
            );
        }
        text
    }
}

fn sum(a: Settled, b: Settled) -> Settled {
    Settled {
        events: a.events + b.events,
        signals: a.signals + b.signals,
        runs: a.runs + b.runs,
        deliveries: a.deliveries + b.deliveries,
    }
}

/// JSON with its keys in order, for comparing.
fn sorted(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<&String, String> = fields
                .iter()
                .map(|(name, value)| (name, sorted(value)))
                .collect();
            let inner: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{{{}}}", inner.join(" "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn tenant() -> TenantId {
    ok(TenantId::new(TENANT))
}

/// A story cannot go on without what it asked for.
fn ok<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
