//! Triggers from Rust, inside the host's transaction.

use std::sync::Arc;

use chimeway::{
    Document, FlowError, Recipient, Trigger, Triggered, Workflow, WorkflowBuilder, store::workflows,
};
use chimeway_testkit::Story;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use tokio::sync::Barrier;

use crate::{
    invariants::audit,
    tools::{
        MENTION, MORNING, actor, lines, place, tenant, trigger, trigger_of, until_somebody_waits,
        written,
    },
};

pub(crate) struct Greeting(pub(crate) &'static str);

impl Workflow for Greeting {
    fn workflow(&self) -> Document {
        WorkflowBuilder::new("greeting")
            .notify("greet", "email", self.0)
            .document()
    }
}

fn greeting(content: &'static str) -> Trigger {
    Trigger::of(&Greeting(content), tenant())
        .unwrap()
        .recipient(Recipient::new(actor("ada")))
}

async fn mention() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    story
        .pool()
        .execute("create table comments (body text not null)")
        .await
        .unwrap();
    story
}

#[tokio::test]
async fn a_trigger_has_the_fate_of_the_hosts_transaction() {
    let story = mention().await;
    for commit in [false, true] {
        let mut conn = story.pool().acquire().await.unwrap();
        let before = written(&mut conn).await;
        let mut tx = conn.begin().await.unwrap();
        tx.execute("insert into comments values ('look, @ada')")
            .await
            .unwrap();
        let trigger = trigger_of("mention_escalation", "ada");
        story.chimeway().trigger(&mut tx, trigger).await.unwrap();
        // Nothing is done while it is open, whoever asks.
        assert_eq!(story.drain().await, Default::default());
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
            assert_eq!(written(&mut conn).await, before);
        }
        drop(conn);
        let settled = story.drain().await;
        assert_eq!(settled.deliveries, usize::from(commit));
        assert_eq!(
            lines(story.pool(), "select count(*)::text from comments").await,
            usize::from(commit).to_string()
        );
    }
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_workflow_written_in_rust_is_stored_by_its_trigger() {
    let story = mention().await;
    for content in ["hello", "hello", "good_morning", "good_morning"] {
        trigger(story.chimeway(), story.pool(), greeting(content))
            .await
            .unwrap();
    }
    story.drain().await;
    assert_eq!(
        story.sent(),
        ["hello", "hello", "good_morning", "good_morning"]
            .map(|content| format!("email {content} to ada"))
    );
    assert_eq!(
        lines(
            story.pool(),
            "select workflow_version::text from chimeway.workflow_definitions
             where workflow_key = 'greeting' order by workflow_version"
        )
        .await,
        "1\n2"
    );
    audit(story.pool()).await;
}

/// Invariant 14: what a rolled-back trigger had stored is not remembered anywhere.
#[tokio::test]
async fn a_definition_that_was_rolled_back_is_not_remembered() {
    let story = mention().await;
    let mut tx = story.pool().begin().await.unwrap();
    story
        .chimeway()
        .trigger(&mut tx, greeting("hello"))
        .await
        .unwrap();
    // The same transaction may go on with it.
    let by_key = trigger_of("greeting", "bob");
    story.chimeway().trigger(&mut tx, by_key).await.unwrap();
    tx.rollback().await.unwrap();

    let by_key = trigger(
        story.chimeway(),
        story.pool(),
        trigger_of("greeting", "ada"),
    );
    assert!(matches!(
        by_key.await.unwrap_err(),
        FlowError::UnknownWorkflow(_)
    ));
    // As after a savepoint.
    let mut tx = story.pool().begin().await.unwrap();
    {
        let mut inner = tx.begin().await.unwrap();
        let trigger = story.chimeway().trigger(&mut inner, greeting("hello"));
        trigger.await.unwrap();
        inner.rollback().await.unwrap();
    }
    let triggered = story.chimeway().trigger(&mut tx, greeting("hello"));
    let event = triggered.await.unwrap().event();
    tx.commit().await.unwrap();
    story.drain().await;
    let run = story.runs_of(event).await[0];
    assert_eq!(place(&story, run).await, "completed in greet: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_repeated_key_returns_the_first_event_and_writes_nothing() {
    let story = mention().await;
    let keyed = || trigger_of("mention_escalation", "ada").idempotency_key("comment-7");
    let first = trigger(story.chimeway(), story.pool(), keyed())
        .await
        .unwrap();
    let Triggered::New(event) = first else {
        panic!("{first:?}")
    };
    story.drain().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    for _ in 0..2 {
        let again = trigger(story.chimeway(), story.pool(), keyed()).await;
        assert_eq!(again.unwrap(), Triggered::Already(event));
    }
    // Also for other recipients, and when the workflow has been paused since.
    workflows::set_active(&mut conn, "mention_escalation", false)
        .await
        .unwrap();
    let other = trigger_of("mention_escalation", "bob").idempotency_key("comment-7");
    let again = trigger(story.chimeway(), story.pool(), other).await;
    assert_eq!(again.unwrap(), Triggered::Already(event));
    assert_eq!(written(&mut conn).await, before);
    assert_eq!(story.drain().await, Default::default());

    // Keys are a tenant's own.
    workflows::set_active(&mut conn, "mention_escalation", true)
        .await
        .unwrap();
    let mut elsewhere = keyed();
    elsewhere.tenant = "org_999".parse().unwrap();
    let elsewhere = trigger(story.chimeway(), story.pool(), elsewhere).await;
    assert!(matches!(elsewhere.unwrap(), Triggered::New(_)));
    audit(story.pool()).await;
}

#[tokio::test]
async fn ten_triggers_at_once_with_one_key_are_one_event() {
    let story = mention().await;
    let together = Arc::new(Barrier::new(10));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut conn = story.db().connect().await;
        let (chimeway, together) = (story.chimeway().clone(), Arc::clone(&together));
        callers.spawn(async move {
            let mut tx = conn.begin().await.unwrap();
            together.wait().await;
            let keyed = trigger_of("mention_escalation", "ada").idempotency_key("comment-7");
            let triggered = chimeway.trigger(&mut tx, keyed).await.unwrap();
            // The caller's transaction can go on, whoever came first.
            tx.execute("insert into comments values ('after')")
                .await
                .unwrap();
            tx.commit().await.unwrap();
            triggered
        });
    }
    let all = callers.join_all().await;
    let new = all.iter().filter(|one| matches!(one, Triggered::New(_)));
    assert_eq!(new.count(), 1);
    assert!(all.iter().all(|one| one.event() == all[0].event()));
    assert_eq!(
        lines(
            story.pool(),
            "select (select count(*) from chimeway.events) || ' ' || (select count(*) from chimeway.workflow_runs)
                || ' ' || (select count(*) from chimeway.deliveries) || ' ' || (select count(*) from comments)"
        )
        .await,
        "1 1 1 10"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_second_caller_with_the_key_waits_for_the_first() {
    for commit in [true, false] {
        let story = mention().await;
        let keyed = || trigger_of("mention_escalation", "ada").idempotency_key("comment-7");
        let mut first = story.pool().begin().await.unwrap();
        let triggered = story.chimeway().trigger(&mut first, keyed()).await;
        let event = triggered.unwrap().event();
        let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
        let second = tokio::spawn(async move { trigger(&chimeway, &pool, keyed()).await });
        until_somebody_waits(story.pool()).await;
        assert!(!second.is_finished());
        if commit {
            first.commit().await.unwrap();
            assert_eq!(second.await.unwrap().unwrap(), Triggered::Already(event));
        } else {
            first.rollback().await.unwrap();
            let second = second.await.unwrap().unwrap();
            assert!(matches!(second, Triggered::New(new) if new != event));
        }
        assert_eq!(
            lines(
                story.pool(),
                "select count(*)::text from chimeway.workflow_runs"
            )
            .await,
            "1"
        );
        audit(story.pool()).await;
    }
}

/// Every refusal: nothing is written, not even a definition, and the host's transaction goes on.
/// Scenarios 23, 40.
#[tokio::test]
async fn a_refused_trigger_writes_nothing_and_leaves_the_transaction_usable() {
    let story = mention().await;
    trigger(story.chimeway(), story.pool(), greeting("hello"))
        .await
        .unwrap();
    let used = trigger_of("greeting", "ada").idempotency_key("used");
    trigger(story.chimeway(), story.pool(), used).await.unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    story
        .apply("{ key: paused, steps: [{ id: hello, action: { type: notify, channel: email, render_key: a } }] }")
        .await;
    workflows::set_active(&mut conn, "paused", false)
        .await
        .unwrap();

    let mention = || trigger_of("mention_escalation", "ada");
    let of = |document: WorkflowBuilder| {
        Trigger::of(&Written(document), tenant())
            .unwrap()
            .recipient(Recipient::new(actor("ada")))
    };
    let reached = |recipient: Recipient| {
        let mut trigger = mention();
        trigger.recipients = vec![recipient];
        trigger
    };
    let ada = || Recipient::new(actor("ada"));
    let correlated = |id: &str| {
        let mut trigger = mention();
        trigger.correlation_id = Some(id.to_owned());
        trigger
    };
    let refused = [
        ("unknown", trigger_of("no_such_thing", "ada")),
        ("paused", trigger_of("paused", "ada")),
        (
            "paused, with content that is not stored yet",
            of(WorkflowBuilder::new("paused").notify("hello", "email", "b")),
        ),
        (
            "mistakes",
            of(WorkflowBuilder::new("wrong").notify("hello", "pigeon", "b")),
        ),
        (
            "version",
            of(WorkflowBuilder::new("mention_escalation")
                .version(1)
                .notify("hello", "email", "b")),
        ),
        ("list", mention().params(json!([]))),
        ("nul", mention().params(json!({ "text": ["\0"] }))),
        ("nul name", mention().params(json!({ "\0": 1 }))),
        ("blank key", mention().idempotency_key(" ")),
        ("long key", mention().idempotency_key("x".repeat(256))),
        ("used key", mention().idempotency_key("used")),
        (
            "nobody",
            Trigger::new("greeting".parse().unwrap(), tenant()),
        ),
        (
            "blank actor",
            Trigger::new("greeting".parse().unwrap(), tenant()).params(json!({ "actor_id": "  " })),
        ),
        (
            "actor of another type",
            Trigger::new("greeting".parse().unwrap(), tenant()).params(json!({ "actor_id": 7 })),
        ),
        ("correlation id", correlated("a\0b")),
        (
            "address",
            reached(ada().address("email", "ada\0@example.com")),
        ),
        (
            "locale",
            reached(Recipient {
                locale: Some("de\0".to_owned()),
                ..ada()
            }),
        ),
        (
            "type",
            reached(Recipient {
                kind: Some("us\0er".to_owned()),
                ..ada()
            }),
        ),
    ];
    let before = written(&mut conn).await;
    let mut said = vec![];
    for (name, trigger) in refused {
        let mut tx = conn.begin().await.unwrap();
        let error = story
            .chimeway()
            .trigger(&mut tx, trigger)
            .await
            .expect_err(name);
        said.push(format!("{name}: {} | {error}", error.code()));
        let goes_on = tx.execute("insert into comments values ('goes on')").await;
        assert!(goes_on.is_ok(), "{name}: {goes_on:?}");
        tx.commit().await.unwrap();
        assert_eq!(written(&mut conn).await, before, "{name}");
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    unknown: unknown_workflow | there is no workflow `no_such_thing`; apply its document with `chimeway workflows apply`
    paused: workflow_paused | the workflow `paused` is paused; resume it with `chimeway workflows resume paused`
    paused, with content that is not stored yet: workflow_paused | the workflow `paused` is paused; resume it with `chimeway workflows resume paused`
    mistakes: invalid_definition | the definition has a mistake: /steps/0/action/channel: unknown channel `pigeon`; known: email, in_app, log, webhook
    version: workflow_definition_version_conflict | workflow_definition_version_conflict: `mention_escalation` version 1 is stored with other steps; give it a new version, or leave the version out
    list: bad_json | params is not a JSON object; write {} for nothing
    nul: bad_json | params holds a NUL character, which PostgreSQL cannot keep; take it out
    nul name: bad_json | params holds a NUL character, which PostgreSQL cannot keep; take it out
    blank key: bad_json | the idempotency key is blank or longer than 255 bytes; leave it out, or give what makes this trigger unique
    long key: bad_json | the idempotency key is blank or longer than 255 bytes; leave it out, or give what makes this trigger unique
    used key: idempotency_key_reused | the idempotency key was used for the workflow `greeting`; use another key for another workflow
    nobody: no_recipient | there is no recipient; give recipients, or an `actor_id` in params
    blank actor: bad_name | the actor is blank
    actor of another type: no_recipient | there is no recipient; give recipients, or an `actor_id` in params
    correlation id: bad_json | the correlation id holds a NUL character, which PostgreSQL cannot keep; take it out
    address: bad_json | an address of a recipient holds a line break or another control character; write it on one line
    locale: bad_json | the locale of a recipient is not a language tag; write one such as en-GB (BCP 47)
    type: bad_json | the type of a recipient holds a NUL character, which PostgreSQL cannot keep; take it out
    "#);
}

struct Written(WorkflowBuilder);

impl Workflow for Written {
    fn workflow(&self) -> Document {
        self.0.clone().document()
    }
}

#[tokio::test]
async fn recipients_are_kept_with_how_they_are_reached() {
    let story = mention().await;
    let ada = Recipient {
        kind: Some("user".to_owned()),
        locale: Some("de-AT".to_owned()),
        time_zone: Some("Europe/Vienna".to_owned()),
        ..Recipient::new(actor("ada")).address("email", "ada@example.com")
    };
    let mut first = trigger_of("mention_escalation", "bob");
    first.recipients.push(ada);
    first.correlation_id = Some("request-9".to_owned());
    trigger(story.chimeway(), story.pool(), first)
        .await
        .unwrap();
    // What is not given keeps what is stored.
    let ada = Recipient::new(actor("ada")).address("sms", "+43 1 555");
    let mut second = trigger_of("mention_escalation", "bob");
    second.recipients = vec![ada];
    trigger(story.chimeway(), story.pool(), second)
        .await
        .unwrap();
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', tenant_id, identity, type, addresses, locale, time_zone)
             from chimeway.recipients"
        )
        .await,
        r#"org_456 ada user {"sms": "+43 1 555", "email": "ada@example.com"} de-AT Europe/Vienna"#
    );
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', correlation_id, recipients::text) from chimeway.events order by id"
        )
        .await,
        "request-9\n"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_recipient_named_twice_has_one_run() {
    let story = mention().await;
    let mut twice = trigger_of("mention_escalation", "ada");
    for name in ["bob", "ada", "bob"] {
        twice.recipients.push(Recipient::new(actor(name)));
    }
    let triggered = trigger(story.chimeway(), story.pool(), twice)
        .await
        .unwrap();
    assert_eq!(story.runs_of(triggered.event()).await.len(), 2);
    story.drain().await;
    assert_eq!(story.sent().len(), 2);
    audit(story.pool()).await;
}

#[tokio::test]
async fn very_many_recipients_are_left_to_a_worker_in_chunks() {
    let story = Story::begin(MORNING).await;
    story
        .apply("{ key: later, steps: [{ id: pause, action: { type: wait, duration: PT1H } }] }")
        .await;
    let mut many = Trigger::new("later".parse().unwrap(), tenant());
    for number in 0..1_500 {
        many.recipients
            .push(Recipient::new(actor(&format!("user_{number}"))));
    }
    // Twice in one chunk, and in two.
    for (place, repeated) in [(900, 100), (1_400, 7)] {
        many.recipients[place] = many.recipients[repeated].clone();
    }
    let triggered = trigger(story.chimeway(), story.pool(), many).await.unwrap();
    assert_eq!(
        lines(
            story.pool(),
            "select count(*)::text from chimeway.workflow_runs"
        )
        .await,
        "0",
        "the caller's transaction makes none"
    );
    audit(story.pool()).await;
    story.pass("PT10S").await;
    story.drain().await;
    assert_eq!(story.runs_of(triggered.event()).await.len(), 1_498);
    assert_eq!(
        lines(
            story.pool(),
            "select count(*)::text from chimeway.notifications group by xmin::text order by 1 desc"
        )
        .await,
        "999\n499",
        "one transaction makes a thousand at most"
    );
    assert_eq!(
        lines(
            story.pool(),
            "select distinct concat_ws(' ', state, started_at at time zone 'utc',
                suspended_until at time zone 'utc') from chimeway.workflow_runs"
        )
        .await,
        "waiting 2026-03-02 09:00:00 2026-03-02 10:00:10"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_thousand_recipients_are_made_in_line() {
    let story = Story::begin(MORNING).await;
    story
        .apply("{ key: later, steps: [{ id: pause, action: { type: wait, duration: PT1H } }] }")
        .await;
    let mut many = Trigger::new("later".parse().unwrap(), tenant());
    for number in 0..1_000 {
        many.recipients
            .push(Recipient::new(actor(&format!("user_{number}"))));
    }
    let triggered = trigger(story.chimeway(), story.pool(), many).await.unwrap();
    assert_eq!(story.runs_of(triggered.event()).await.len(), 1_000);
    audit(story.pool()).await;
}
