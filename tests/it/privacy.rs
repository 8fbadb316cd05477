//! What a host gives us stays where it was put: no payload, address or name in histories, attempts,
//! logs or errors.

use std::{error::Error, fmt::Write as _};

use async_trait::async_trait;
use chimeway::{
    Recipient, Signal, Trigger,
    channels::{Channel, Message, Receipt, SendError},
    flow::workers::Workers,
};
use chimeway_testkit::Story;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::{
    logs::Logs,
    spans::Kept,
    tools::{MENTION, MORNING, actor, lines, tenant, trigger, trigger_of},
};

/// In everything that a host gives us and that may be about a person.
const MARK: &str = "Lovelace";

fn params() -> Value {
    json!({
        "name": format!("Ada {MARK}"),
        MARK: true,
        "nested": [{ "email": format!("ada@{MARK}.example") }],
    })
}

fn recipient() -> Recipient {
    Recipient::new(actor(&format!("ada.{MARK}"))).address("email", format!("ada@{MARK}.example"))
}

fn marked(workflow: &str) -> Trigger {
    let mut trigger = Trigger::new(workflow.parse().unwrap(), tenant())
        .params(params())
        .recipient(recipient());
    trigger.correlation_id = Some(format!("request of {MARK}"));
    trigger
}

fn signal(name: &str) -> Signal {
    let who = actor(&format!("ada.{MARK}"));
    Signal::new(tenant(), who, name.parse().unwrap()).payload(params())
}

/// Fails in every way, with words of a provider that repeats what it was given.
struct Gossip;

#[async_trait]
impl Channel for Gossip {
    fn adapter(&self) -> &'static str {
        "gossip"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let words = format!("no mailbox {:?}: {}", message.address, message.params);
        assert!(words.contains(MARK));
        match message.attempt.0 {
            1 => Err(SendError::temporary(words)),
            2 => panic!("{words}"),
            _ if message.step.as_str().ends_with("bounces") => Err(SendError::bounced(words)),
            _ => Err(SendError::permanent(words)),
        }
    }
}

const WORKFLOW: &str = r"
key: gossip
steps:
  - { id: log, action: { type: notify, channel: log, render_key: hello } }
  - { id: mail_bounces, action: { type: notify, channel: email, render_key: hello } }
  - { id: pause, action: { type: wait, duration: PT1H, stop_conditions: [{ type: signal_received, signal_type: go_on, then: next }] } }
  - { id: mail_is_refused, action: { type: notify, channel: email, render_key: hello } }
  - { id: lost, action: { type: notify, channel: sms, render_key: hello } }
";

async fn story() -> Story {
    followed_story(Kept::default()).await
}

/// As [`story`], and its spans are kept.
async fn followed_story(spans: Kept) -> Story {
    let story = Story::builder()
        .channel("email", Gossip)
        .with(|builder| builder.extra_channel("sms").unwrap().spans(spans))
        .begin(MORNING)
        .await;
    story.apply(WORKFLOW).await;
    story.apply(MENTION).await;
    story
}

/// Every column of a run's life but those that keep what the host gave.
async fn kept(story: &Story) -> String {
    lines(
        story.pool(),
        "select t::text from chimeway.workflow_transitions t
         union all select a::text from chimeway.delivery_attempts a
         union all select d::text from chimeway.deliveries d
         union all select r.status_context::text || r.context || coalesce(r.quarantine_reason, '')
            || coalesce(r.terminal_reason, '') || r.status_reason from chimeway.workflow_runs r
         union all select e.quarantine_reason from chimeway.events e where e.quarantine_reason is not null
         union all select s.quarantine_reason from chimeway.signals s where s.quarantine_reason is not null",
    )
    .await
}

/// Scenarios 30, 123.
#[tokio::test]
async fn a_journey_leaves_nothing_in_histories_attempts_and_logs() {
    let (logs, logging) = Logs::begin();
    let spans = Kept::default();
    let story = followed_story(spans.clone()).await;
    for key in ["first", "second"] {
        let keyed = marked("gossip").idempotency_key(format!("{key} of {MARK}"));
        trigger(story.chimeway(), story.pool(), keyed)
            .await
            .unwrap();
    }
    story.drain().await;
    for _ in 0..3 {
        story.advance("PT2M").await;
    }
    let mut tx = story.pool().begin().await.unwrap();
    story
        .chimeway()
        .track(&mut tx, signal("go_on"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    for _ in 0..12 {
        story.advance("PT2M").await;
    }
    let runs = lines(
        story.pool(),
        "select distinct state from chimeway.workflow_runs",
    )
    .await;
    assert_eq!(runs, "completed");

    // The same by a fleet of workers.
    let event = trigger(story.chimeway(), story.pool(), marked("gossip")).await;
    let run = story.runs_of(event.unwrap().event()).await[0];
    let (pool, chimeway) = (story.pool().clone(), story.chimeway().clone());
    let until_it_waits = async {
        while story.explain(run).await.deliveries.last().unwrap().attempts < 1
            || story.explain(run).await.deliveries.len() < 2
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    Workers::new(chimeway, pool).run(until_it_waits).await;

    let logs = logs.text();
    drop(logging);
    for known in [
        "message sent to the log",
        "this worker has no channel `sms`",
        "claims::claim",
    ] {
        assert!(logs.contains(known), "`{known}` was not logged");
    }
    assert_clean("the logs", &logs);
    let kept = kept(&story).await;
    assert!(kept.contains("the channel panicked") && kept.contains("the message bounced"));
    assert_clean("the rows", &kept);
    let spans = spans.all();
    let failed = spans.iter().filter(|span| span.failed).count();
    assert!(failed >= 20, "{spans:#?}");
    assert_clean("the spans", &format!("{spans:#?}"));
    let mut shown = String::new();
    for run in all_runs(&story).await {
        let explained = serde_json::to_string(&story.explain(run).await).unwrap();
        let _ = writeln!(shown, "{explained}\n{}", story.history(run).await);
    }
    assert_clean("the explanations", &shown);
}

async fn all_runs(story: &Story) -> Vec<chimeway::ids::RunId> {
    sqlx::query_scalar("select id from chimeway.workflow_runs")
        .fetch_all(story.pool())
        .await
        .unwrap()
}

/// What the database refuses for a reason of its own: its messages repeat whole rows.
#[tokio::test]
async fn rows_that_the_database_refuses_are_not_repeated() {
    let (logs, logging) = Logs::begin();
    let story = story().await;
    let mut errors = String::new();
    let mut refuse = async |sql: &'static str| {
        story.pool().execute(sql).await.unwrap();
        let mut tx = story.pool().begin().await.unwrap();
        let refused = story.chimeway().trigger(&mut tx, marked("gossip")).await;
        told(&mut errors, &refused.unwrap_err());
    };
    refuse("alter table chimeway.events add constraint no check (params ->> 'name' is null)").await;
    refuse(
        "alter table chimeway.events drop constraint no;
         alter table chimeway.recipients add constraint no check (addresses = '{}')",
    )
    .await;
    refuse(
        "alter table chimeway.recipients drop constraint no;
         create unique index no on chimeway.notifications (recipient);
         insert into chimeway.notifications (id, event_id, tenant_id, recipient, inserted_at)
         values (gen_random_uuid(), gen_random_uuid(), 'org_456', 'ada.Love' || 'lace', now())",
    )
    .await;
    // A host's own trigger that stumbles over a value.
    refuse(
        "create function no() returns trigger language plpgsql as
         $$ begin perform (new.params ->> 'name')::int; return new; end $$;
         create trigger no before insert on chimeway.events for each row execute function no()",
    )
    .await;
    for code in ["23514", "23505", "22P02"] {
        assert!(errors.contains(code), "{errors}");
    }
    assert_clean("the errors", &errors);

    // A worker meets such rows too.
    let story = self::story().await;
    story
        .pool()
        .execute("alter table chimeway.notifications add constraint no check (recipient is null)")
        .await
        .unwrap();
    let by_sql = "select chimeway.trigger('gossip', $1, 'org_456')";
    let params = json!({ "actor_id": format!("ada.{MARK}"), "name": MARK });
    sqlx::query(by_sql)
        .bind(params)
        .execute(story.pool())
        .await
        .unwrap();
    for _ in 0..4 {
        story.advance("PT1M").await;
    }
    let quarantine = "select quarantine_reason from chimeway.events";
    assert_eq!(lines(story.pool(), quarantine).await, "23514");
    let logs = logs.text();
    drop(logging);
    assert!(logs.contains("a row of a batch failed alone"));
    assert_clean("the logs", &logs);
    assert_clean("the rows", &kept(&story).await);
}

#[tokio::test]
async fn refusals_name_no_value() {
    let story = story().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let used = trigger_of("mention_escalation", "bob").idempotency_key(MARK);
    trigger(story.chimeway(), story.pool(), used).await.unwrap();
    let mut blank_actor = marked("gossip");
    blank_actor.recipients.clear();
    let mut nul = marked("gossip");
    nul.recipients[0] = recipient().address("sms", format!("{MARK}\0"));
    let mut nul_correlation = marked("gossip");
    nul_correlation.correlation_id = Some(format!("{MARK}\0"));
    let mut errors = String::new();
    for refused in [
        marked("no_such_thing"),
        marked("gossip").params(json!(MARK)),
        marked("gossip").params(json!({ MARK: format!("{MARK}\0") })),
        marked("gossip").params(json!({ format!("{MARK}\0"): 1 })),
        marked("gossip").idempotency_key(MARK),
        marked("gossip").idempotency_key(MARK.repeat(100)),
        marked("gossip").idempotency_key(format!("{MARK}\0")),
        blank_actor.clone(),
        blank_actor
            .clone()
            .params(json!({ "actor_id": MARK.repeat(100) })),
        blank_actor.params(json!({ "actor_id": format!("{MARK}\n") })),
        nul,
        nul_correlation,
    ] {
        let mut tx = conn.begin().await.unwrap();
        let refused = story.chimeway().trigger(&mut tx, refused).await;
        told(&mut errors, &refused.unwrap_err());
        tx.commit().await.unwrap();
    }
    let mut bad = signal("read");
    bad.payload = json!([MARK]);
    let mut nul = signal("read");
    nul.payload = json!({ "note": format!("{MARK}\0") });
    for refused in [bad, nul] {
        let refused = story.chimeway().track(&mut conn, refused).await;
        told(&mut errors, &refused.unwrap_err());
    }
    for name in [MARK.repeat(100), format!("{MARK}\n")] {
        told(
            &mut errors,
            &chimeway::ids::ActorId::new(name.clone()).unwrap_err(),
        );
        told(
            &mut errors,
            &chimeway::ids::TenantId::new(name).unwrap_err(),
        );
    }
    assert_eq!(errors.matches("BadJson").count(), 2 * 9, "{errors}");
    assert_clean("the errors", &errors);
}

/// What a host may print of an error: both forms, of the whole chain.
fn told(errors: &mut String, error: &dyn Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        let _ = writeln!(errors, "{error}\n{error:?}\n{error:#?}");
        next = error.source();
    }
}

fn assert_clean(what: &str, text: &str) {
    let dirty: Vec<&str> = text.lines().filter(|line| line.contains(MARK)).collect();
    assert!(dirty.is_empty(), "{what}: {dirty:#?}");
}
