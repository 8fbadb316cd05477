//! Many triggers, or signals, in one call: each is answered as if it were alone, with as many statements
//! as one takes.

use chimeway::{FlowError, Recipient, Trigger, Triggered, ids::TenantId};
use chimeway_testkit::Story;
use futures::future::join_all;
use serde_json::json;

use crate::{
    audit::assert_no_deadlocks,
    invariants::audit,
    logs::Logs,
    tools::{MENTION, MORNING, actor, lines, signal_of, tenant, trigger, trigger_of, written},
    trigger_api::Greeting,
};

const MAIL: &str = "{ key: mail, steps: [{ id: mail, action: { type: notify, channel: email, render_key: mail } }] }";

async fn begin() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    story.apply(MAIL).await;
    story
}

fn keyed(workflow: &str, who: &str, key: &str) -> Trigger {
    trigger_of(workflow, who).idempotency_key(key)
}

fn of_another(mut trigger: Trigger) -> Trigger {
    trigger.tenant = "org_789".parse::<TenantId>().unwrap();
    trigger
}

#[tokio::test]
async fn each_is_answered_as_if_it_were_alone() {
    let story = begin().await;
    let chimeway = story.chimeway();
    let first = trigger(chimeway, story.pool(), keyed("mail", "ada", "known")).await;
    let first = first.unwrap().event();
    story.pass("PT1S").await;
    let mut conn = story.pool().acquire().await.unwrap();
    let mut twice = trigger_of("mail", "bob");
    twice.recipients.push(Recipient::new(actor("bob")));
    let reached = |channel, address| {
        let mut trigger = of_another(trigger_of("mention_escalation", "grace"));
        trigger.recipients = vec![Recipient::new(actor("grace")).address(channel, address)];
        trigger
    };
    let answers = chimeway
        .trigger_many(
            &mut conn,
            [
                keyed("mail", "ada", "known"),
                keyed("mail", "ada", "new"),
                twice,
                keyed("mail", "mary", "new"),
                // Another tenant's keys are its own.
                of_another(keyed("mention_escalation", "ada", "new")),
                reached("email", "old@example.com"),
                reached("sms", "+43 1 555 0100"),
                reached("email", "grace@example.com"),
            ],
        )
        .await
        .unwrap();
    let new = answers[1].event();
    assert_eq!(answers[0], Triggered::Already(first));
    assert_eq!(answers[3], Triggered::Already(new));
    for (place, recipients) in [(1, 1), (2, 1), (4, 1), (5, 1)] {
        assert!(matches!(answers[place], Triggered::New(_)), "{place}");
        let runs = story.runs_of(answers[place].event()).await;
        assert_eq!(runs.len(), recipients, "{place}");
    }
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', tenant_id, identity, addresses) from chimeway.recipients"
        )
        .await,
        r#"org_789 grace {"sms": "+43 1 555 0100", "email": "grace@example.com"}"#
    );
    drop(conn);
    let settled = story.drain().await;
    assert_eq!(settled.deliveries, 7, "the first one's too");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_refused_one_is_the_refusal_of_all_and_leaves_nothing() {
    let story = begin().await;
    let chimeway = story.chimeway();
    trigger(chimeway, story.pool(), keyed("mail", "ada", "known"))
        .await
        .unwrap();
    let mut tx = story.pool().begin().await.unwrap();
    let before = written(&mut tx).await;
    let mut nobody = trigger_of("mail", "ada");
    nobody.recipients.clear();
    let mut nowhere = trigger_of("mail", "ada");
    nowhere.recipients[0].time_zone = Some("Mars/Olympus".to_owned());
    let stored_by_it = || Trigger::of(&Greeting("hello"), tenant()).unwrap();
    let stored_by_it = || stored_by_it().recipient(Recipient::new(actor("ada")));
    for (name, refused) in [
        ("unknown", vec![trigger_of("no_such", "ada")]),
        (
            "unknown, after a workflow written in Rust",
            vec![stored_by_it(), trigger_of("no_such", "ada")],
        ),
        ("no recipient", vec![nobody]),
        ("zone", vec![nowhere]),
        ("params", vec![trigger_of("mail", "ada").params(json!([]))]),
        (
            "key of before",
            vec![keyed("mention_escalation", "ada", "known")],
        ),
        (
            "key of the same call",
            vec![
                keyed("mail", "ada", "one"),
                keyed("mention_escalation", "ada", "one"),
            ],
        ),
    ] {
        let fine = [keyed("mail", "bob", "fine"), trigger_of("mail", "bob")];
        let answer = chimeway.trigger_many(&mut tx, fine.into_iter().chain(refused));
        let error = answer.await.unwrap_err();
        assert!(!matches!(error, FlowError::Store(_)), "{name}: {error}");
        assert_eq!(written(&mut tx).await, before, "{name}");
        let definitions = "select count(*) from chimeway.workflow_definitions";
        let definitions: i64 = sqlx::query_scalar(definitions)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(definitions, 2, "{name}");
    }
    assert_eq!(chimeway.trigger_many(&mut tx, []).await.unwrap(), []);
    let fine = chimeway.trigger_many(&mut tx, [keyed("mail", "bob", "fine")]);
    fine.await.unwrap();
    tx.commit().await.unwrap();
    audit(story.pool()).await;
}

/// How many statements so many triggers take, of two tenants and two workflows, with keys and addresses.
async fn statements(triggers: usize) -> usize {
    let story = begin().await;
    let each = |place: usize| {
        let workflow = ["mail", "mention_escalation"][place % 2];
        let who = format!("user_{place}");
        let mut trigger = keyed(workflow, &who, &format!("key_{place}"));
        trigger.recipients[0].time_zone = Some("Europe/London".to_owned());
        match place % 3 {
            0 => of_another(trigger),
            _ => trigger,
        }
    };
    let mut tx = story.pool().begin().await.unwrap();
    // Definitions are known then.
    let warm = (1_000..1_006).map(each);
    story.chimeway().trigger_many(&mut tx, warm).await.unwrap();
    let (logs, watching) = Logs::begin();
    let answers = story
        .chimeway()
        .trigger_many(&mut tx, (0..triggers).map(each))
        .await
        .unwrap();
    let statements = logs.text().matches("sqlx::query: summary").count();
    drop(watching);
    assert_eq!(answers.len(), triggers);
    tx.commit().await.unwrap();
    audit(story.pool()).await;
    statements
}

#[tokio::test]
async fn five_hundred_take_as_many_statements_as_six() {
    let (six, five_hundred) = (statements(6).await, statements(500).await);
    assert!(six > 5, "{six} statements: the log is not what it was");
    assert_eq!(six, five_hundred);
}

#[tokio::test]
async fn beyond_a_thousand_recipients_in_all_a_worker_makes_the_runs() {
    let story = begin().await;
    let crowd = |name: &str, size: usize| {
        let everybody = (0..size).map(|place| Recipient::new(actor(&format!("{name}_{place}"))));
        let mut trigger = trigger_of("mail", "ada");
        trigger.recipients = everybody.collect();
        trigger
    };
    let mut conn = story.pool().acquire().await.unwrap();
    let sizes = [("a", 600), ("b", 600), ("c", 400)];
    let crowds = sizes.map(|(name, size)| crowd(name, size));
    let answers = story.chimeway().trigger_many(&mut conn, crowds).await;
    let answers = answers.unwrap();
    drop(conn);
    let mut made = vec![];
    for answer in &answers {
        made.push(story.runs_of(answer.event()).await.len());
    }
    assert_eq!(made, [600, 0, 400]);
    story.drain().await;
    assert_eq!(story.runs_of(answers[1].event()).await.len(), 600);
    audit(story.pool()).await;
}

#[tokio::test]
async fn workflows_written_in_rust_are_stored_once_each() {
    let story = Story::begin(MORNING).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let triggers = (0..10).map(|place| {
        let content = ["hello", "good morning"][place % 2];
        let trigger = Trigger::of(&Greeting(content), tenant()).unwrap();
        trigger.recipient(Recipient::new(actor("ada")))
    });
    let triggers: Vec<Trigger> = triggers.collect();
    let answers = story.chimeway().trigger_many(&mut conn, triggers).await;
    assert_eq!(answers.unwrap().len(), 10);
    drop(conn);
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', d.workflow_version, count(*))
             from chimeway.events e join chimeway.workflow_definitions d on d.id = e.workflow_definition_id
             group by d.workflow_version order by 1"
        )
        .await,
        "1 5\n2 5"
    );
    audit(story.pool()).await;
}

/// Each session has the keys in an order of its own: they wait for each other, and never in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_the_same_keys_in_other_orders_start_each_once() {
    let story = begin().await;
    for round in 0..10 {
        let sessions = (0..6).map(|session: usize| {
            let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
            tokio::spawn(async move {
                let key = |place: usize| format!("key_{round}_{}", (place * (session + 1)) % 31);
                let triggers = (0..31).map(|place| keyed("mail", "ada", &key(place)));
                let triggers: Vec<Trigger> = triggers.collect();
                let mut tx = pool.begin().await.unwrap();
                let answers = chimeway.trigger_many(&mut tx, triggers).await.unwrap();
                tx.commit().await.unwrap();
                let new = |answer: &&Triggered| matches!(answer, Triggered::New(_));
                answers.iter().filter(new).count()
            })
        });
        let new = join_all(sessions).await.into_iter().map(Result::unwrap);
        assert_eq!(new.sum::<usize>(), 31, "round {round}");
    }
    assert_eq!(
        lines(story.pool(), "select count(*)::text from chimeway.events").await,
        "310"
    );
    audit(story.pool()).await;
    assert_no_deadlocks(story.db()).await;
}

#[tokio::test]
async fn many_signals_are_one_statement_and_end_their_waits() {
    let story = begin().await;
    let who: Vec<String> = (0..20).map(|place| format!("user_{place}")).collect();
    let triggers = who.iter().map(|who| trigger_of("mention_escalation", who));
    let mut conn = story.pool().acquire().await.unwrap();
    let answers = story.chimeway().trigger_many(&mut conn, triggers);
    answers.await.unwrap();
    drop(conn);
    story.drain().await;

    let mut conn = story.pool().acquire().await.unwrap();
    let (logs, watching) = Logs::begin();
    let signals = who.iter().map(|who| signal_of(who, "notification_read"));
    let ids = story.chimeway().track_many(&mut conn, signals).await;
    let statements = logs.text().matches("sqlx::query: summary").count();
    drop(watching);
    drop(conn);
    assert_eq!(ids.unwrap().len(), 20);
    assert_eq!(statements, 1);
    story.drain().await;
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', state, count(*)) from chimeway.workflow_runs group by state"
        )
        .await,
        "stopped 20"
    );
    audit(story.pool()).await;
}
