//! Many that trigger with one idempotency key.

use std::{collections::BTreeSet, process::Stdio, sync::Mutex};

use chimeway::Triggered;
use chimeway_testkit::{Story, TENANT};
use sqlx::{PgConnection, types::Uuid};
use tokio::process::Command;

use super::{Act, assert_quiet, at_once, random};
use crate::{
    invariants::audit,
    programs::{Ran, chimeway_at},
    tools::{MENTION, MORNING, lines, trigger_of, until_somebody_waits},
};

const COUNTS: &str = "select (select count(*) from chimeway.events) || ' '
    || (select count(*) from chimeway.notifications) || ' ' || (select count(*) from chimeway.workflow_runs)
    || ' ' || (select count(*) from chimeway.deliveries)";

async fn mention() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    story
}

/// Triggers with a key, in either language; the event's id.
async fn trigger_with(story: &Story, conn: &mut PgConnection, key: &str, in_sql: bool) -> Uuid {
    if in_sql {
        return sqlx::query_scalar(
            "select chimeway.trigger('mention_escalation', '{\"actor_id\": \"ada\"}', $1,
                idempotency_key => $2)",
        )
        .bind(TENANT)
        .bind(key)
        .fetch_one(conn)
        .await
        .unwrap();
    }
    let keyed = trigger_of("mention_escalation", "ada").idempotency_key(key);
    let triggered = story.chimeway().trigger(conn, keyed).await;
    triggered.unwrap().event().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_sessions_with_one_key_start_one_run() {
    let story = std::sync::Arc::new(mention().await);
    for seed in 0..20 {
        let events = std::sync::Arc::new(Mutex::new(vec![]));
        let sessions = (0..10).map(|n| -> Act {
            let (story, events) = (story.clone(), events.clone());
            Box::pin(async move {
                let mut tx = story.pool().begin().await.unwrap();
                let key = format!("key_{seed}");
                let event = trigger_with(&story, &mut tx, &key, n % 2 == 0).await;
                tx.commit().await.unwrap();
                events.lock().unwrap().push(event);
            })
        });
        at_once(&mut random(seed), sessions.collect()).await;
        story.drain().await;
        let events = events.lock().unwrap().clone();
        assert_eq!(events.len(), 10);
        assert_eq!(BTreeSet::from_iter(events).len(), 1);
        let one = seed + 1;
        assert_eq!(
            lines(story.pool(), COUNTS).await,
            format!("{one} {one} {one} {one}")
        );
    }
    audit(story.pool()).await;
    let story = std::sync::Arc::into_inner(story).unwrap();
    assert_quiet(story).await;
}

/// The one that was first takes its event back: one of those that waited for it is first then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_first_of_ten_sessions_rolls_back_another_ones_event_counts() {
    let story = std::sync::Arc::new(mention().await);
    for (seed, first_in_sql) in [(1, false), (2, true), (3, false), (4, true)] {
        let key = format!("key_{seed}");
        let mut first = story.pool().begin().await.unwrap();
        let taken_back = trigger_with(&story, &mut first, &key, first_in_sql).await;
        let events = std::sync::Arc::new(Mutex::new(vec![]));
        let waiting = tokio::spawn({
            let (story, events, key) = (story.clone(), events.clone(), key.clone());
            async move {
                let sessions = (0..9).map(|n| -> Act {
                    let (story, events, key) = (story.clone(), events.clone(), key.clone());
                    Box::pin(async move {
                        let mut tx = story.pool().begin().await.unwrap();
                        let event = trigger_with(&story, &mut tx, &key, n % 2 == 0).await;
                        tx.commit().await.unwrap();
                        events.lock().unwrap().push(event);
                    })
                });
                at_once(&mut random(seed), sessions.collect()).await;
            }
        });
        until_somebody_waits(story.pool()).await;
        assert!(events.lock().unwrap().is_empty());
        first.rollback().await.unwrap();
        waiting.await.unwrap();
        story.drain().await;
        let events = BTreeSet::from_iter(events.lock().unwrap().clone());
        assert_eq!(events.len(), 1);
        assert!(!events.contains(&taken_back));
        assert_eq!(
            lines(story.pool(), COUNTS).await,
            format!("{seed} {seed} {seed} {seed}")
        );
    }
    audit(story.pool()).await;
}

#[tokio::test]
async fn the_first_of_two_sessions_that_commits_is_the_seconds_answer() {
    let story = mention().await;
    for (key, sql) in [
        ("a", [false, true]),
        ("b", [true, false]),
        ("c", [false, false]),
    ] {
        let mut first = story.pool().begin().await.unwrap();
        let event = trigger_with(&story, &mut first, key, sql[0]).await;
        let second = async {
            let mut tx = story.pool().begin().await.unwrap();
            let event = trigger_with(&story, &mut tx, key, sql[1]).await;
            tx.commit().await.unwrap();
            event
        };
        let commit = async {
            until_somebody_waits(story.pool()).await;
            first.commit().await.unwrap();
        };
        let (second, ()) = futures::join!(second, commit);
        assert_eq!(second, event, "{key}");
    }
    let mut conn = story.pool().acquire().await.unwrap();
    let again = trigger_of("mention_escalation", "ada").idempotency_key("a");
    let again = story.chimeway().trigger(&mut conn, again).await.unwrap();
    assert!(matches!(again, Triggered::Already(_)));
}

#[tokio::test]
async fn four_processes_with_one_key_start_one_run() {
    let story = mention().await;
    let url = story.db().url();
    for round in 1..=3 {
        let key = format!("key_{round}");
        let running = (0..4).map(|_| {
            let mut command = Command::from(chimeway_at(
                &url,
                &[
                    "trigger",
                    "mention_escalation",
                    "--tenant",
                    TENANT,
                    "--recipient",
                    "ada",
                    "--idempotency-key",
                    &key,
                    "--json",
                ],
            ));
            command.stdin(Stdio::null()).output()
        });
        let ran: Vec<serde_json::Value> = futures::future::join_all(running)
            .await
            .into_iter()
            .map(|output| Ran::from(output.unwrap()).expect(0).json())
            .collect();
        for one in &ran {
            assert_eq!(one["event_id"], ran[0]["event_id"], "{ran:?}");
            assert_eq!(one["runs"], ran[0]["runs"], "{ran:?}");
            assert_eq!(one["runs"].as_array().unwrap().len(), 1, "{ran:?}");
        }
        let new = ran.iter().filter(|one| one["status"] == "new").count();
        assert_eq!(new, 1, "{ran:?}");
        story.drain().await;
        assert_eq!(
            lines(story.pool(), COUNTS).await,
            format!("{round} {round} {round} {round}")
        );
    }
    audit(story.pool()).await;
}
