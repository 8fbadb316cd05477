//! Hosts that say something of a run by hand, while workers move it.

use std::sync::{Arc, Mutex};

use chimeway::{
    FlowError,
    flow::workflows::{HistoryLine, RunUpdate},
    ids::{DefinitionId, NotificationId, RunId},
};
use chimeway_testkit::Story;
use rand::{RngExt as _, seq::IndexedRandom as _};
use serde_json::json;

use super::{Act, assert_quiet, at_once, random, settlers, settles};
use crate::{
    replay::check,
    tools::{MENTION, MORNING, lines},
    workflow_api::org,
};

/// Around and around, until somebody lets it go.
const CAROUSEL: &str = "
key: carousel
steps:
  - { id: tell, action: { type: notify, channel: in_app } }
  - id: rest
    action:
      type: wait
      duration: PT1M
      stop_conditions: [{ type: signal_received, signal_type: notification_read }]
  - { id: write, action: { type: notify, channel: email, render_key: write }, on_outcome: { delivered: { goto: tell } } }
";

/// A session that does a few things to a run, each in a transaction of its own.
fn meddles(story: &Story, run: RunId, seed: u64) -> Act {
    let (workflows, pool) = (story.chimeway().workflows(), story.pool().clone());
    Box::pin(async move {
        let mut random = random(seed);
        for n in 0..4 {
            let mut tx = pool.begin().await.unwrap();
            let kind = random.random_range(0..4);
            let step = ["tell", "rest", "write"].choose(&mut random).unwrap();
            let done = async {
                let tx = &mut *tx;
                if kind == 0 {
                    return workflows.progress(tx, org(), run).await.map(drop);
                }
                let locked = workflows.lock_run(tx, run).await?;
                match kind {
                    1 => {
                        let update = RunUpdate {
                            current_step: Some(step.parse()?),
                            ..RunUpdate::default()
                        };
                        workflows.update_run(tx, locked, update).await.map(drop)
                    }
                    2 => {
                        let update = RunUpdate {
                            context: Some(json!({ "seed": seed, "n": n })),
                            ..RunUpdate::default()
                        };
                        workflows.update_run(tx, locked, update).await.map(drop)
                    }
                    _ => {
                        let mut line = HistoryLine::new("looked_at_by_hand");
                        line.context = json!({ "n": n });
                        workflows
                            .append_transition(tx, locked, line)
                            .await
                            .map(drop)
                    }
                }
            };
            match done.await {
                Ok(()) | Err(FlowError::RunEnded(_)) => {}
                Err(error) => panic!("{error}"),
            }
            match random.random_bool(0.8) {
                true => tx.commit().await.unwrap(),
                // What was planned is taken back with it.
                false => tx.rollback().await.unwrap(),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_run_that_hosts_and_workers_move_is_what_its_history_says() {
    let story = Story::begin(MORNING).await;
    story.apply(CAROUSEL).await;
    for seed in 0..25 {
        let who = format!("user_{}", seed % 5);
        let run = story.trigger("carousel", &who).await;
        if seed % 2 == 0 {
            story.drain().await;
        }
        if seed % 3 == 0 {
            story.pass("PT1M").await;
        }
        let mut acts: Vec<Act> = (0..5)
            .map(|n| meddles(&story, run, 1_000 * seed + n))
            .collect();
        for settler in settlers(&story, 3) {
            acts.push(settles(&story, settler));
        }
        if seed % 4 == 0 {
            acts.push(super::runs::reads(&story, &who));
        }
        at_once(&mut random(seed), acts).await;
        check(&story).await;
        story.drain().await;
        check(&story).await;
    }
    let lines_of_hosts = "select (count(*) > 20)::text from chimeway.workflow_transitions
                          where reason = 'looked_at_by_hand'";
    assert_eq!(lines(story.pool(), lines_of_hosts).await, "true");
    assert_quiet(story).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eight_that_make_the_run_of_a_notification_one_does() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    for seed in 0..20 {
        story.trigger("mention_escalation", "ada").await;
        let found: (NotificationId, DefinitionId) = sqlx::query_as(
            "select notification_id, workflow_definition_id from chimeway.workflow_runs
             order by id desc limit 1",
        )
        .fetch_one(story.pool())
        .await
        .unwrap();
        // Its run is lost, as after a restore of some tables only.
        for lose in [
            "delete from chimeway.deliveries d using chimeway.workflow_runs r
             where r.id = d.workflow_run_id and r.notification_id = $1",
            "delete from chimeway.workflow_transitions t using chimeway.workflow_runs r
             where r.id = t.workflow_run_id and r.notification_id = $1",
            "delete from chimeway.workflow_runs where notification_id = $1",
        ] {
            let lost = sqlx::query(lose).bind(found.0).execute(story.pool());
            assert!(lost.await.unwrap().rows_affected() > 0);
        }
        let made = Arc::new(Mutex::new(vec![]));
        let mut acts: Vec<Act> = (0..8)
            .map(|n| -> Act {
                let (workflows, pool) = (story.chimeway().workflows(), story.pool().clone());
                let (made, now) = (Arc::clone(&made), story.now());
                Box::pin(async move {
                    let mut tx = pool.begin().await.unwrap();
                    let run = workflows
                        .create_initial_run(&mut tx, org(), found.0, found.1, now)
                        .await
                        .unwrap();
                    // The first one may take it back; another one's counts then.
                    match n % 4 {
                        0 => tx.rollback().await.unwrap(),
                        _ => {
                            tx.commit().await.unwrap();
                            made.lock().unwrap().push(run.id);
                        }
                    }
                })
            })
            .collect();
        for settler in settlers(&story, 2) {
            acts.push(settles(&story, settler));
        }
        at_once(&mut random(seed), acts).await;
        story.drain().await;
        let mut made = made.lock().unwrap().clone();
        assert_eq!(made.len(), 6);
        made.dedup();
        assert_eq!(made.len(), 1, "seed {seed}");
        check(&story).await;
    }
    assert_quiet(story).await;
}
