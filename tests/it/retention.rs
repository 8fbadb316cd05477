//! Retention: what is over goes, and nothing that lives notices.

use std::time::Duration;

use chimeway::{
    Chimeway,
    channels::InApp,
    flow::{Age, Kept, PrunedKind, Retention, inbox::Page},
    ids::{NotificationId, RunId},
};
use chimeway_testkit::Story;
use serde_json::json;
use sqlx::{Executor as _, PgPool};

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, actor, lines, place, tenant, trigger, trigger_of},
};

const APPROVAL: &str = "
key: approval
steps:
  - {id: ask, action: {type: approval, assignee: {user: boss}}}
  - {id: tell, action: {type: notify, channel: email}}
";

const LONG: &str = "
key: long
steps:
  - {id: tell, action: {type: notify, channel: email}}
  - {id: think, action: {type: wait, duration: P600D, stop_conditions: [
      {type: signal_received, signal_type: decided}]}}
  - {id: remind, action: {type: notify, channel: email}}
";

/// Everything as young as it may be.
pub(crate) fn aggressive() -> Retention {
    let set =
        |retention: Retention, kind: Kept| retention.with(kind, Age::Of(kind.least_age())).unwrap();
    Kept::ALL.into_iter().fold(Retention::off(), set)
}

fn keeping(kind: Kept, days: u64) -> Retention {
    let age = Age::Of(Duration::from_secs(86_400 * days));
    aggressive().with(kind, age).unwrap()
}

pub(crate) async fn prune(story: &Story, retention: &Retention) -> Vec<PrunedKind> {
    story
        .chimeway()
        .prune(story.pool(), retention)
        .await
        .unwrap()
}

pub(crate) fn pruned(done: &[PrunedKind], kind: Kept) -> u64 {
    done.iter().find(|one| one.kind == kind).unwrap().pruned
}

/// `runs: 1 held ..`
pub(crate) fn kept(done: &[PrunedKind]) -> Vec<String> {
    let kept = done.iter().flat_map(|one| {
        let kind = one.kind;
        one.kept
            .iter()
            .map(move |kept| format!("{kind}: {} {}", kept.rows, kept.because))
    });
    kept.collect()
}

/// How many rows each table has that belongs to runs.
pub(crate) async fn sizes(pool: &PgPool) -> String {
    lines(
        pool,
        "select concat_ws(' ', (select count(*) from chimeway.events), (select count(*) from chimeway.notifications),
            (select count(*) from chimeway.workflow_runs), (select count(*) from chimeway.workflow_transitions),
            (select count(*) from chimeway.deliveries), (select count(*) from chimeway.delivery_attempts),
            (select count(*) from chimeway.approvals))",
    )
    .await
}

/// Every row that a live run may read.
async fn live_rows(pool: &PgPool) -> String {
    lines(
        pool,
        "with live as (select * from chimeway.workflow_runs where ended_at is null)
        select row_to_json(r)::text from live r
        union all select row_to_json(t)::text from chimeway.workflow_transitions t join live on live.id = workflow_run_id
        union all select row_to_json(d)::text from chimeway.deliveries d join live on live.id = workflow_run_id
        union all select row_to_json(a)::text from chimeway.delivery_attempts a
            join chimeway.deliveries d on d.id = delivery_id join live on live.id = d.workflow_run_id
        union all select row_to_json(a)::text from chimeway.approvals a join live on live.id = workflow_run_id
        union all select row_to_json(n)::text from chimeway.notifications n
            where exists (select from live where notification_id = n.id)
        union all select row_to_json(e)::text from chimeway.events e
            where exists (
                select from live left join chimeway.notifications n on n.id = notification_id
                where e.id = coalesce(live.event_id, n.event_id)
            )
        union all select row_to_json(s)::text from chimeway.signals s
            where exists (
                select from live
                where live.tenant_id = s.tenant_id and live.actor_id = s.actor_id and started_at <= occurred_at
            )
        union all select row_to_json(i)::text from chimeway.interventions i
            where exists (select from live where live.id = subject_id)
        union all select row_to_json(w)::text from chimeway.workflow_definitions w
        order by 1",
    )
    .await
}

pub(crate) async fn story() -> Story {
    let story = Story::builder()
        .channel("in_app", InApp)
        .begin(MORNING)
        .await;
    story.apply(MENTION).await;
    story.apply(APPROVAL).await;
    story.apply(LONG).await;
    story
}

/// A mention that is over: in the app, two hours, an email.
pub(crate) async fn over(story: &Story, who: &str) -> RunId {
    let run = story.trigger("mention_escalation", who).await;
    story.advance("PT2H").await;
    run
}

pub(crate) async fn exists(story: &Story, run: RunId) -> bool {
    sqlx::query_scalar("select exists (select from chimeway.workflow_runs where id = $1)")
        .bind(run.0)
        .fetch_one(story.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_run_goes_with_all_that_is_its_alone() {
    let story = story().await;
    let run = over(&story, "ada").await;
    let asked = story.trigger("approval", "ada").await;
    story.drain().await;
    let mut conn = story.db().connect().await;
    conn.execute("select chimeway.approve('org_456', id, 'boss') from chimeway.workflow_runs where ended_at is null")
        .await
        .unwrap();
    story.drain().await;
    assert_eq!(place(&story, asked).await, "completed in tell: completed");
    assert_eq!(
        place(&story, run).await,
        "completed in step_email_escalation: completed"
    );

    // Not a moment too early.
    story.advance("PT719H").await;
    let done = prune(&story, &keeping(Kept::Runs, 30)).await;
    assert_eq!(pruned(&done, Kept::Runs), 0);
    story.advance("PT1H").await;
    let done = prune(&story, &keeping(Kept::Runs, 30)).await;
    assert_eq!(pruned(&done, Kept::Runs), 2);
    assert_eq!(pruned(&done, Kept::Inbox), 2);
    assert_eq!(pruned(&done, Kept::Events), 2);
    assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0");
}

#[tokio::test]
async fn live_runs_lose_nothing_of_any_kind() {
    let story = story().await;
    let waits = story.trigger("long", "ada").await;
    let asked = story.trigger("approval", "bob").await;
    story.drain().await;
    story.signal("ada", "something_else").await;
    story.signal("bob", "notification_read").await;
    let ended = over(&story, "cleo").await;
    story.signal("cleo", "notification_read").await;
    story.drain().await;
    let stamp = "insert into chimeway.interventions
                    (id, tenant_id, kind, subject, subject_id, made_by, made_at)
                 select chimeway.uuid_v7(), tenant_id, 'retry', 'run', id, 'somebody', chimeway.now()
                 from chimeway.workflow_runs";
    story.pool().execute(stamp).await.unwrap();
    story.pass("P500D").await;
    // Early for whoever looks at the wait next: it counts, however old it will be by then.
    let before = live_rows(story.pool()).await;
    let done = prune(&story, &aggressive()).await;
    assert_eq!(live_rows(story.pool()).await, before);
    for (kind, rows) in [
        (Kept::Runs, 1),
        (Kept::Inbox, 1),
        (Kept::Events, 1),
        (Kept::Signals, 1),
        (Kept::Interventions, 1),
    ] {
        assert_eq!(pruned(&done, kind), rows, "{done:?}");
    }
    assert_eq!(kept(&done), ["signals: 2 a live run may look for them"]);
    assert!(!exists(&story, ended).await);
    let mut conn = story.db().connect().await;
    let decided = "select chimeway.approve('org_456', $1, 'boss')";
    sqlx::query(decided)
        .bind(asked.0)
        .execute(&mut conn)
        .await
        .unwrap();
    story.drain().await;
    story.signal("ada", "decided").await;
    story.drain().await;
    assert_eq!(place(&story, asked).await, "completed in tell: completed");
    assert_eq!(
        place(&story, waits).await,
        "stopped in think: stop_condition:decided"
    );
    audit(story.pool()).await;
}

/// A signal that came before its wait counts when the wait is entered, however much later that is.
#[tokio::test]
async fn an_early_signal_stays_for_the_run_that_began_before_it() {
    let story = story().await;
    let later = "
key: later
steps:
  - {id: first, action: {type: wait, duration: P60D}}
  - {id: second, action: {type: wait, duration: P1D, stop_conditions: [
      {type: signal_received, signal_type: decided}]}}
  - {id: remind, action: {type: notify, channel: email}}
";
    story.apply(later).await;
    let run = story.trigger("later", "ada").await;
    story.drain().await;
    story.signal("ada", "decided").await;
    story.drain().await;
    for _ in 0..60 {
        prune(&story, &aggressive()).await;
        story.advance("P1D").await;
    }
    assert_eq!(
        place(&story, run).await,
        "stopped in second: stop_condition:decided"
    );
    assert_eq!(story.sent(), Vec::<String>::new());
    // Nobody may look for it any more.
    let done = prune(&story, &aggressive()).await;
    assert_eq!(
        (pruned(&done, Kept::Runs), pruned(&done, Kept::Signals)),
        (1, 1)
    );
}

#[tokio::test]
async fn a_signal_stays_that_is_not_routed_or_that_a_run_may_want_that_is_to_be_made() {
    let story = story().await;
    story.signal("ada", "unrouted").await;
    story.pass("P2D").await;
    let done = prune(&story, &aggressive()).await;
    assert_eq!(kept(&done), ["signals: 1 not routed yet, or set aside"]);

    // Its run will have begun before the signal.
    let trigger = "select chimeway.trigger('long', '{\"actor_id\": \"ada\"}', 'org_456')";
    story.pool().execute(trigger).await.unwrap();
    let aside = "update chimeway.events set quarantine_reason = 'XX000', expand_at = null";
    story.pool().execute(aside).await.unwrap();
    story.signal("ada", "decided").await;
    story.drain().await;
    story.pass("P2D").await;
    let done = prune(&story, &aggressive()).await;
    assert_eq!(
        pruned(&done, Kept::Signals),
        1,
        "the one that came before: {done:?}"
    );
    assert_eq!(kept(&done), ["signals: 1 a live run may look for them"]);
    let freed = "update chimeway.events set quarantine_reason = null, expand_at = chimeway.now()";
    story.pool().execute(freed).await.unwrap();
    story.drain().await;
    let ends = "select terminal_reason from chimeway.workflow_runs";
    assert_eq!(lines(story.pool(), ends).await, "stop_condition:decided");

    // Younger than a day, whatever the runs.
    story.signal("ada", "young").await;
    story.drain().await;
    story.pass("PT23H").await;
    prune(&story, &aggressive()).await;
    let left = "select event_name from chimeway.signals";
    assert_eq!(lines(story.pool(), left).await, "young");
}

async fn listed(story: &Story) -> usize {
    let mut conn = story.pool().acquire().await.unwrap();
    let inbox = story.chimeway().inbox();
    let (who, page) = (actor("ada"), Page::default());
    let items = inbox.list(&mut conn, &tenant(), &who, page).await.unwrap();
    let unread = inbox
        .unread_count(&mut conn, &tenant(), &who, false)
        .await
        .unwrap();
    assert_eq!(i64::try_from(items.len()).unwrap(), unread);
    for item in &items {
        assert_eq!(item.render_key.as_deref(), Some("mention_notification"));
        assert_eq!(item.params, json!({}));
        assert_eq!(item.workflow, "mention_escalation");
    }
    items.len()
}

#[tokio::test]
async fn an_item_outlives_its_run_and_an_event_both() {
    let story = story().await;
    let run = over(&story, "ada").await;
    let ages = keeping(Kept::Inbox, 90)
        .with(Kept::Events, Age::Of(Duration::from_secs(86_400 * 200)))
        .unwrap();
    let done = prune(&story, &ages).await;
    assert_eq!(
        (pruned(&done, Kept::Runs), pruned(&done, Kept::Inbox)),
        (1, 0)
    );
    assert_eq!(sizes(story.pool()).await, "1 1 0 0 0 0 0");
    assert_eq!(listed(&story).await, 1);
    audit(story.pool()).await;

    // Nobody is told of a run that is not there.
    let mut conn = story.pool().acquire().await.unwrap();
    let workflows = story.chimeway().workflows();
    assert!(
        workflows
            .explain(&mut conn, &tenant(), run)
            .await
            .unwrap()
            .is_none()
    );
    drop(conn);

    story.pass("P91D").await;
    let done = prune(&story, &ages).await;
    assert_eq!(
        (pruned(&done, Kept::Inbox), pruned(&done, Kept::Events)),
        (1, 0)
    );
    assert_eq!(listed(&story).await, 0);
    assert_eq!(sizes(story.pool()).await, "1 0 0 0 0 0 0");
    audit(story.pool()).await;

    story.pass("P110D").await;
    let done = prune(&story, &ages).await;
    assert_eq!(pruned(&done, Kept::Events), 1);
    assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0");
}

/// Of an event with many recipients the runs go one by one, and the event with the last.
#[tokio::test]
async fn an_event_stays_for_as_long_as_one_of_its_runs() {
    let story = story().await;
    let event =
        trigger_of("mention_escalation", "ada").recipient(chimeway::Recipient::new(actor("bob")));
    let mut tx = story.pool().begin().await.unwrap();
    let begun = story
        .chimeway()
        .trigger(&mut tx, event.idempotency_key("once"))
        .await;
    tx.commit().await.unwrap();
    story.drain().await;
    story.signal("ada", "notification_read").await;
    story.drain().await;
    prune(&story, &aggressive()).await;
    assert_eq!(sizes(story.pool()).await, "1 1 1 3 1 1 0");
    let again = || trigger_of("mention_escalation", "ada").idempotency_key("once");
    let repeated = trigger(story.chimeway(), story.pool(), again())
        .await
        .unwrap();
    assert_eq!(repeated.event(), begun.unwrap().event());
    story.advance("PT2H").await;
    prune(&story, &aggressive()).await;
    assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0");
    // Its key is free again.
    let anew = trigger(story.chimeway(), story.pool(), again())
        .await
        .unwrap();
    assert_ne!(anew.event(), repeated.event());
}

#[tokio::test]
async fn what_is_still_on_its_way_keeps_its_run() {
    let story = story().await;
    let run = over(&story, "ada").await;
    for (change, undone, because) in [
        (
            "update chimeway.deliveries set status = 'dispatched', next_attempt_at = chimeway.now(),
                lease_until = chimeway.now() + interval '30 s', lease_owner = 'w' where channel = 'email'",
            "update chimeway.deliveries set status = 'succeeded', next_attempt_at = null,
                lease_until = null, lease_owner = null where channel = 'email'",
            "runs: 1 a message of theirs is on its way",
        ),
        (
            "update chimeway.deliveries set progress_owed_at = chimeway.now() where channel = 'email'",
            "update chimeway.deliveries set progress_owed_at = null",
            "runs: 1 a message of theirs is on its way",
        ),
        (
            "update chimeway.events set expand_at = chimeway.now()",
            "update chimeway.events set expand_at = null",
            "runs: 1 not all runs of their trigger were made",
        ),
        (
            "update chimeway.events set quarantine_reason = 'XX000'",
            "update chimeway.events set quarantine_reason = null",
            "runs: 1 not all runs of their trigger were made",
        ),
    ] {
        story.pool().execute(change).await.unwrap();
        let done = prune(&story, &aggressive()).await;
        assert_eq!(kept(&done), [because], "{change}");
        assert!(exists(&story, run).await);
        story.pool().execute(undone).await.unwrap();
    }
    prune(&story, &aggressive()).await;
    assert!(!exists(&story, run).await);
}

/// What one pass meets in many batches: each takes a bounded number of rows.
#[tokio::test]
async fn many_runs_go_in_batches() {
    let story = story().await;
    let mut conn = story.pool().acquire().await.unwrap();
    conn.execute(
        "with n as (select i, gen_random_uuid() as run, gen_random_uuid() as event from generate_series(1, 2500) i),
        events as (
            insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params, occurred_at, inserted_at)
            select event, 'org_456', 'long', d.id, '{}', chimeway.now(), chimeway.now()
            from n, chimeway.workflow_definitions d where d.workflow_key = 'long'
        )
        insert into chimeway.workflow_runs (id, workflow_definition_id, current_step_id, started_at, last_transition_at,
            ended_at, visit, transition_count, tenant_id, actor_id, state, status_reason, terminal_reason, event_id,
            record_entity, record_id)
        select run, d.id, s.id, chimeway.now(), chimeway.now(), chimeway.now(), 1, 1, 'org_456', 'orders/1', 'completed',
            'workflow_completed', 'completed', event, 'orders', '1'
        from n, chimeway.workflow_definitions d
        join chimeway.workflow_steps s on s.workflow_definition_id = d.id and s.step_order = 1
        where d.workflow_key = 'long'",
    )
    .await
    .unwrap();
    drop(conn);
    let mut pruning = story
        .chimeway()
        .pruning(story.pool(), &aggressive(), &[Kept::Runs]);
    pruning.step().await.unwrap();
    assert_eq!(pruned(&pruning.report(), Kept::Runs), 1_000);
    while pruning.step().await.unwrap() == chimeway::flow::PruneStep::Worked {}
    assert_eq!(pruned(&pruning.report(), Kept::Runs), 2_500);
    assert_eq!(pruned(&pruning.report(), Kept::Events), 2_500);
    assert_eq!(sizes(story.pool()).await, "0 0 0 0 0 0 0");
}

#[tokio::test]
async fn a_fleet_prunes_by_itself() {
    let db = chimeway_testkit::TestDb::create().await;
    let channel = chimeway_testkit::RecordingChannel::default();
    let host = crate::fleet::Host::with_journey(db.pool(), "PT0.01S").await;
    let fleet = |retention| {
        let chimeway = crate::fleet::recording(&channel).build();
        let workers = chimeway::flow::workers::Workers::new(chimeway, db.pool().clone());
        crate::fleet::Fleet::start(
            workers
                .retention(retention)
                .prune("* * * * * *".parse().unwrap()),
        )
    };
    let (one, other) = (fleet(aggressive()), fleet(aggressive()));
    host.trigger_many(20).await;
    crate::support::eventually("all runs are over and gone", async || {
        let left = "select count(*) from chimeway.events";
        (crate::fleet::number(db.pool(), left).await == 0).then_some(())
    })
    .await;
    // Each of them was told in the app and by mail.
    assert_eq!(channel.sent().len(), 40);
    assert_eq!(sizes(db.pool()).await, "0 0 0 0 0 0 0");
    one.stop().await;
    other.stop().await;
}

mod kept_notifications {
    use super::*;

    /// Opening what has outlived its run is told like any other, and moves nothing.
    #[tokio::test]
    async fn an_item_that_outlived_its_run_can_be_read() {
        let story = story().await;
        over(&story, "ada").await;
        prune(&story, &keeping(Kept::Inbox, 90)).await;
        let id: sqlx::types::Uuid = sqlx::query_scalar("select id from chimeway.notifications")
            .fetch_one(story.pool())
            .await
            .unwrap();
        let mut tx = story.pool().begin().await.unwrap();
        let inbox = Chimeway::builder().build().inbox();
        let read = chimeway::flow::inbox::Mark::Read;
        let marked = inbox
            .mark(
                &mut tx,
                &tenant(),
                &actor("ada"),
                &[NotificationId(id)],
                read,
            )
            .await;
        assert_eq!(marked.unwrap(), [NotificationId(id)]);
        tx.commit().await.unwrap();
        story.drain().await;
        audit(story.pool()).await;
        let routed = "select (routed_at is not null)::text from chimeway.signals";
        assert_eq!(lines(story.pool(), routed).await, "true");
    }
}
