//! One bad item never takes its batch along.

use std::sync::Arc;

use chimeway::{
    channels::Receipt,
    flow::{Point, workers::Workers},
    queue::QueueName,
};
use chimeway_testkit::{Answer, RecordingChannel, Story, TestDb};
use futures::FutureExt as _;
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Barrier;

use crate::{
    audit::audit,
    fleet::{Fleet, Host, execute, journey, number, recording, texts},
    support::eventually,
};

/// Has the database refuse something, by a trigger that is made like this.
async fn refuse(pool: &PgPool, trigger: &'static str) {
    execute(
        pool,
        "create function refuse() returns trigger language plpgsql as $$
            begin raise exception 'the test said so'; end $$",
    )
    .await;
    execute(pool, trigger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_the_database_refuses_is_recorded_without_the_providers_answer() {
    const MESSAGES: usize = 200;
    let db = TestDb::create().await;
    let (pool, channel) = (db.pool(), RecordingChannel::default());
    let host = Host::with_journey(pool, "PT1H").await;
    execute(
        pool,
        "alter table chimeway.delivery_attempts
            add constraint no_poison check (provider_message_id <> 'poison')",
    )
    .await;
    let receipt = |id: &str| Receipt {
        provider_message_id: Some(id.to_owned()),
        response: Some(json!({ "status": 202 })),
    };
    channel.answer([Answer::With(receipt("poison"))]);
    channel.always(Answer::With(receipt("fine")));
    // All are sent before the first is recorded: they meet in the same few transactions.
    let all_sent = Arc::new(Barrier::new(MESSAGES));
    let hook = move |point| {
        let all_sent = Arc::clone(&all_sent);
        async move {
            if point == Point::AfterSend {
                all_sent.wait().await;
            }
        }
        .boxed()
    };
    let chimeway = recording(&channel).hook(Arc::new(hook)).build();
    // One channel has half the slots.
    let workers = Workers::new(chimeway, pool.clone()).limit(QueueName::Delivery, 2 * MESSAGES);
    let fleet = Fleet::start(workers);
    host.trigger_many(MESSAGES).await;
    for n in 0..MESSAGES {
        host.until(&format!("user_{n}"), "waiting").await;
    }
    fleet.stop().await;
    assert_eq!(channel.sent().len(), MESSAGES);
    let tries =
        "select concat_ws(' ', outcome, provider_message_id, response ->> 'status', count(*))
                 from chimeway.delivery_attempts
                 group by outcome, provider_message_id, response ->> 'status' order by count(*)";
    assert_eq!(
        texts(pool, tries).await,
        ["succeeded 1", "succeeded fine 202 199"]
    );
    audit(pool).await;
}

/// A host's own trigger on our tables is enough. What was sent is written down, and told when the run can be written;
/// also where somebody asks for the run's end meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_cannot_be_written_holds_up_no_result() {
    const MESSAGES: usize = 20;
    for (cancelled, then) in [(false, "waiting"), (true, "stopped")] {
        let db = TestDb::create().await;
        let (pool, channel) = (db.pool(), RecordingChannel::default());
        let host = Host::with_journey(pool, "PT1H").await;
        refuse(
            pool,
            "create trigger refuse before update on chimeway.workflow_runs for each row
                when (new.actor_id = 'user_7' and new.cancel_requested_at is not distinct from old.cancel_requested_at)
                execute function refuse()",
        )
        .await;
        channel.always(Answer::With(Receipt {
            provider_message_id: Some("fine".to_owned()),
            response: None,
        }));
        let asks = pool.clone();
        let hook = move |point| {
            let pool = asks.clone();
            async move {
                if point == Point::AfterSend && cancelled {
                    let ask = "update chimeway.workflow_runs set cancel_requested_at = now(), wake_at = now()
                               where actor_id = 'user_7' and cancel_requested_at is null";
                    execute(&pool, ask).await;
                }
            }
            .boxed()
        };
        let chimeway = recording(&channel).hook(Arc::new(hook)).build();
        let fleet = Fleet::start(Workers::new(chimeway, pool.clone()));
        host.trigger_many(MESSAGES).await;
        for n in (0..MESSAGES).filter(|n| *n != 7) {
            host.until(&format!("user_{n}"), "waiting").await;
        }
        let of_it = "select concat_ws(' ', d.status, a.outcome, a.provider_message_id, d.progress_owed_at is not null)
                     from chimeway.deliveries d
                     join chimeway.delivery_attempts a on a.delivery_id = d.id
                     join chimeway.workflow_runs r on r.id = d.workflow_run_id where r.actor_id = 'user_7'";
        eventually("its result is written down", async || {
            (texts(pool, of_it).await == ["succeeded succeeded fine t"]).then_some(())
        })
        .await;
        execute(
            pool,
            "drop trigger refuse on chimeway.workflow_runs;
             update chimeway.deliveries set progress_owed_at = chimeway.now() where progress_owed_at is not null;
             update chimeway.workflow_runs set wake_at = chimeway.now() where quarantine_reason is not null or tries > 0",
        )
        .await;
        host.until("user_7", then).await;
        fleet.stop().await;
        assert_eq!(channel.sent().len(), MESSAGES);
        audit(pool).await;
    }
}

/// A constraint that is checked at the commit fails no later than any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_is_refused_at_the_commit_is_recorded_without_the_providers_answer() {
    let db = TestDb::create().await;
    let (pool, channel) = (db.pool(), RecordingChannel::default());
    let host = Host::with_journey(pool, "PT1H").await;
    refuse(
        pool,
        "create constraint trigger refuse after insert on chimeway.delivery_attempts
            deferrable initially deferred for each row when (new.provider_message_id = 'poison')
            execute function refuse()",
    )
    .await;
    channel.always(Answer::With(Receipt {
        provider_message_id: Some("poison".to_owned()),
        response: None,
    }));
    let fleet = Fleet::start(Workers::new(recording(&channel).build(), pool.clone()));
    host.trigger("user_1").await;
    host.until("user_1", "waiting").await;
    fleet.stop().await;
    let tries =
        "select concat_ws(' ', outcome, provider_message_id) from chimeway.delivery_attempts";
    assert_eq!(texts(pool, tries).await, ["succeeded"]);
    audit(pool).await;
}

/// Nothing can be done for it but to let the others go on; its lease ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_cannot_be_written_at_all_holds_up_no_other() {
    const MESSAGES: usize = 20;
    let db = TestDb::create().await;
    let (pool, channel) = (db.pool(), RecordingChannel::default());
    let host = Host::with_journey(pool, "PT1H").await;
    host.trigger_many(MESSAGES).await;
    execute(
        pool,
        "create function refuse() returns trigger language plpgsql as $$
            begin
                if (select r.actor_id from chimeway.deliveries d join chimeway.workflow_runs r on r.id = d.workflow_run_id
                    where d.id = new.delivery_id) = 'user_7' then
                    raise exception 'the test said so';
                end if;
                return new;
            end $$;
         create trigger refuse before insert on chimeway.delivery_attempts
            for each row execute function refuse()",
    )
    .await;
    let fleet = Fleet::start(Workers::new(recording(&channel).build(), pool.clone()));
    for n in (0..MESSAGES).filter(|n| *n != 7) {
        host.until(&format!("user_{n}"), "waiting").await;
    }
    // It drains: nothing waits for what cannot be written.
    fleet.stop().await;
    assert_eq!(channel.sent().len(), MESSAGES);
    let left = "select concat_ws(' ', r.actor_id, d.status) from chimeway.deliveries d
                join chimeway.workflow_runs r on r.id = d.workflow_run_id where d.status <> 'succeeded'";
    assert_eq!(texts(pool, left).await, ["user_7 dispatched"]);
}

/// As a row that was written by hand. They are due at once, and claimed together.
#[tokio::test]
async fn a_definition_that_no_worker_can_read_holds_up_no_message_of_another() {
    let db = TestDb::create().await;
    let (pool, channel) = (db.pool(), RecordingChannel::default());
    let host = Host::with_journey(pool, "PT1H").await;
    host.trigger("first").await;
    execute(
        pool,
        "set session_replication_role = replica;
         update chimeway.workflow_definitions set document = document || '{\"n\": 1e400}';
         set session_replication_role = origin",
    )
    .await;
    let host = Host::with_journey(pool, "PT2H").await;
    host.trigger_many(9).await;
    let fleet = Fleet::start(Workers::new(recording(&channel).build(), pool.clone()));
    for n in 0..9 {
        host.until(&format!("user_{n}"), "waiting").await;
    }
    let first = "select concat_ws(' ', d.status, a.outcome, a.response ->> 'error')
                 from chimeway.delivery_attempts a
                 join chimeway.deliveries d on d.id = a.delivery_id
                 join chimeway.workflow_runs r on r.id = d.workflow_run_id
                 where r.actor_id = 'first' and a.attempt_number = 1";
    eventually("its try is recorded", async || {
        (texts(pool, first).await == ["failed failed this worker cannot read the definition"])
            .then_some(())
    })
    .await;
    fleet.stop().await;
    assert_eq!(channel.sent().len(), 9);
}

#[tokio::test]
async fn an_event_whose_runs_cannot_be_made_is_set_aside_alone() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    refuse(
        story.pool(),
        "create trigger refuse before insert on chimeway.notifications
            for each row when (new.recipient = 'poison') execute function refuse();
         select chimeway.trigger('mention_escalation', jsonb_build_object('actor_id',
            case n when 7 then 'poison' else 'user_' || n end), 'org_456')
         from generate_series(1, 20) n;",
    )
    .await;
    story.drain().await;
    assert_eq!(story.sent().len(), 19);
    let due = "select concat_ws(' ', tries, quarantine_reason, expand_at is not null)
               from chimeway.events where expanded_count = 0";
    assert_eq!(texts(story.pool(), due).await, ["1 t"]);
    story.advance("PT1S").await;
    assert_eq!(texts(story.pool(), due).await, ["2 t"]);
    story.advance("PT2S").await;
    assert_eq!(texts(story.pool(), due).await, ["3 P0001 f"]);
    assert_eq!(story.sent().len(), 19);
    audit(story.pool()).await;
}

/// As a row that was written by hand: `chimeway.trigger` refuses these.
#[tokio::test]
async fn params_that_no_worker_can_read_fail_their_own_message_alone() {
    for params in [
        "update chimeway.events set params = params || '{\"n\": 1e400}' where params ->> 'n' = '7'",
        "update chimeway.events
         set params = jsonb_build_object('n', (repeat('[', 200) || repeat(']', 200))::jsonb)
         where params ->> 'n' = '7'",
    ] {
        let story = Story::begin("2026-03-02T09:00:00Z").await;
        story.apply(&journey("PT2H")).await;
        for n in 0..20 {
            let (who, params) = (format!("user_{n}"), json!({ "n": n.to_string() }));
            story.trigger_with("mention_escalation", &who, params).await;
        }
        execute(story.pool(), params).await;
        story.drain().await;
        assert_eq!(story.sent().len(), 19);
        let bad = "select concat_ws(' ', d.status, d.status_reason, a.outcome, a.response ->> 'error')
                   from chimeway.deliveries d join chimeway.delivery_attempts a on a.delivery_id = d.id
                   where d.status <> 'succeeded'";
        assert_eq!(
            texts(story.pool(), bad).await,
            ["cancelled permanent_failure failed the stored delivery does not decode"]
        );
        audit(story.pool()).await;
    }
}

#[tokio::test]
async fn a_run_whose_row_does_not_decode_is_set_aside_alone() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    for n in 0..10 {
        story
            .trigger("mention_escalation", &format!("user_{n}"))
            .await;
    }
    story.drain().await;
    execute(
        story.pool(),
        "alter table chimeway.workflow_runs drop constraint workflow_runs_state;
         update chimeway.workflow_runs set state = 'perplexed' where actor_id = 'user_3'",
    )
    .await;
    story.advance("PT2H").await;
    let emails = |story: &Story| {
        story
            .sent()
            .iter()
            .filter(|it| it.starts_with("email"))
            .count()
    };
    assert_eq!(emails(&story), 9);
    let bad = "select concat_ws(' ', state, tries, quarantine_reason, wake_at is not null)
               from chimeway.workflow_runs where actor_id = 'user_3'";
    assert_eq!(texts(story.pool(), bad).await, ["perplexed 1 t"]);
    story.advance("PT1S").await;
    story.advance("PT2S").await;
    assert_eq!(
        texts(story.pool(), bad).await,
        ["perplexed 3 does_not_decode f"]
    );
    let live = "select count(*) from chimeway.workflow_runs where ended_at is null";
    assert_eq!(number(story.pool(), live).await, 1);
    assert_eq!(emails(&story), 9);
}

#[tokio::test]
async fn a_result_for_a_run_that_does_not_decode_is_told_when_the_run_is_mended() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    let run = story.trigger("mention_escalation", "user_1").await;
    execute(
        story.pool(),
        "alter table chimeway.workflow_runs drop constraint workflow_runs_state;
         update chimeway.workflow_runs set state = 'perplexed'",
    )
    .await;
    story.drain().await;
    assert_eq!(story.sent().len(), 1, "the message is sent and recorded");
    execute(
        story.pool(),
        "update chimeway.workflow_runs set state = 'active'",
    )
    .await;
    story.advance("PT3S").await;
    assert_eq!(story.explain(run).await.state, "waiting");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_signal_that_cannot_be_routed_is_set_aside_alone_and_still_beats_the_timer() {
    let story = Story::begin("2026-03-02T09:00:00Z").await;
    story.apply(&journey("PT2H")).await;
    for n in 0..10 {
        story
            .trigger("mention_escalation", &format!("user_{n}"))
            .await;
    }
    story.drain().await;
    refuse(
        story.pool(),
        "create trigger refuse before update on chimeway.signals
            for each row when (new.actor_id = 'user_4' and new.routed_at is not null)
            execute function refuse()",
    )
    .await;
    for n in 0..10 {
        story
            .signal(&format!("user_{n}"), "notification_read")
            .await;
    }
    story.drain().await;
    let stopped = "select count(*) from chimeway.workflow_runs where state = 'stopped'";
    assert_eq!(number(story.pool(), stopped).await, 9);
    story.advance("PT1S").await;
    story.advance("PT2S").await;
    let bad = "select concat_ws(' ', tries, quarantine_reason, route_at) from chimeway.signals
               where routed_at is null";
    assert_eq!(texts(story.pool(), bad).await, ["3 P0001"]);
    assert_eq!(number(story.pool(), stopped).await, 9);

    story.advance("PT2H").await;
    assert_eq!(
        number(story.pool(), stopped).await,
        10,
        "the wait's end looks for signals itself"
    );
    assert_eq!(story.sent().len(), 10, "nobody gets an email");
    audit(story.pool()).await;
}
