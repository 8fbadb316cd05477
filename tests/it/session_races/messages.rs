//! One message, and all who would send it.

use std::sync::{Arc, Mutex};

use chimeway::{FlowError, flow::workflows::Stamp};
use chimeway_testkit::{Answer, Story, TestDb};
use sqlx::types::Uuid;

use super::{Act, Handicap, assert_quiet, at_once, random, sent_to, settlers, settles};
use crate::{
    audit::{assert_no_deadlocks, assert_recorded, audit},
    fleet::{Host, number},
    process::Desk,
    replay::check,
    tools::MORNING,
    workflow_api::org,
};

const MAIL: &str = "{ key: mail, steps: [{ id: mail, action: { type: notify, channel: email, render_key: mail } }] }";

/// Both are there before the trigger commits, and hear of it at the same moment.
#[tokio::test]
async fn heavy_two_processes_send_each_of_two_hundred_messages_once() {
    const MESSAGES: usize = 200;
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "PT1H").await;
    let worker = |name: &str| desk.worker(&db.url()).with("--name", name).start();
    let workers = [worker("one").await, worker("other").await];
    for n in 0..MESSAGES {
        host.trigger(&format!("user_{n}")).await;
    }
    for n in 0..MESSAGES {
        host.until(&format!("user_{n}"), "waiting").await;
    }
    for worker in workers {
        worker.stop().await;
    }
    let sends = desk.sends();
    assert_eq!(sends.len(), MESSAGES);
    for (delivery, tries) in &sends {
        assert_eq!(tries.len(), 1, "{delivery} was sent {tries:?}");
    }
    let workers = "select count(distinct worker) from chimeway.delivery_attempts";
    assert_eq!(number(pool, workers).await, 2, "one of them did it all");
    assert_recorded(pool, &sends).await;
    audit(pool).await;
    assert_no_deadlocks(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ten_workers_find_is_sent_once() {
    let story = Story::begin(MORNING).await;
    story.apply(MAIL).await;
    for seed in 0..30 {
        let run = story.trigger("mail", "ada").await;
        let settling = settlers(&story, 10).into_iter();
        let acts = settling.map(|settler| settles(&story, settler)).collect();
        at_once(&mut random(seed), acts).await;
        story.drain().await;
        assert_eq!(sent_to(&story, run), ["email"], "seed {seed}");
    }
    check(&story).await;
    assert_quiet(story).await;
}

/// Somebody wants it tried now, at the moment at which it is tried again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_by_hand_beside_a_workers_own_makes_one_try() {
    let story = Story::begin(MORNING).await;
    story.apply(MAIL).await;
    let (mut handicap, mut taken, mut refused) = (Handicap::default(), 0, 0);
    for seed in 0..100 {
        story.channel().answer([Answer::Temporary(None)]);
        let run = story.trigger("mail", "ada").await;
        story.drain().await;
        story.pass("PT1M").await;
        let delivery: Uuid =
            sqlx::query_scalar("select id from chimeway.deliveries where workflow_run_id = $1")
                .bind(run)
                .fetch_one(story.pool())
                .await
                .unwrap();
        let answers = Arc::new(Mutex::new(vec![]));
        let retry = || -> Act {
            let (workflows, pool) = (story.chimeway().workflows(), story.pool().clone());
            let answers = Arc::clone(&answers);
            Box::pin(async move {
                let mut tx = pool.begin().await.unwrap();
                let done = workflows
                    .retry(&mut tx, org(), delivery, &Stamp::by("carol"))
                    .await;
                tx.commit().await.unwrap();
                answers.lock().unwrap().push(done);
            })
        };
        let mut acts: Vec<Act> = settlers(&story, 2)
            .into_iter()
            .map(|settler| settles(&story, settler))
            .collect();
        acts.push(handicap.on(retry()));
        acts.push(handicap.on(retry()));
        at_once(&mut random(seed), acts).await;
        story.drain().await;
        assert_eq!(sent_to(&story, run), ["email", "email"], "seed {seed}");
        let explained = story.explain(run).await;
        assert_eq!(explained.state, "completed", "seed {seed}");
        assert_eq!(explained.deliveries[0].attempts, 2, "seed {seed}");
        let stamped = explained.interventions.len();
        let answers = answers.lock().unwrap();
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(stamped, done, "seed {seed}");
        for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(matches!(answer, FlowError::NotRetryable { .. }), "{answer}");
        }
        handicap.take(done > 0);
        taken += done;
        refused += answers.len() - done;
    }
    assert!(taken > 0 && refused > 0, "nothing raced: {taken} {refused}");
    check(&story).await;
    assert_quiet(story).await;
}
