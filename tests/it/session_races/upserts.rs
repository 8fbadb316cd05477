//! Sessions that write the same recipients and preferences, in any order.

use std::sync::{Arc, Mutex};

use chimeway::{Recipient, flow::Preference};
use chimeway_testkit::Story;
use rand::seq::SliceRandom as _;

use super::{Act, assert_quiet, at_once, random};
use crate::{
    tools::{MORNING, actor, lines},
    workflow_api::org,
};

const PEOPLE: usize = 6;
const SESSIONS: usize = 8;

/// What a session says: its own number, everywhere.
fn recipients(session: usize, seed: u64) -> Vec<Recipient> {
    let mut given: Vec<Recipient> = (0..PEOPLE)
        .map(|n| {
            let who = Recipient::new(actor(&format!("user_{n}")));
            who.address("email", format!("session_{session}@e.example"))
        })
        .collect();
    given.shuffle(&mut random(seed * 100 + session as u64));
    given
}

/// Each session writes all of them, in an order of its own: the last one that commits has the last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipients_that_eight_sessions_write_are_as_the_last_one_said() {
    let story = Story::begin(MORNING).await;
    for seed in 0..25 {
        let order = Arc::new(Mutex::new(vec![]));
        let sessions = (0..SESSIONS).map(|session| -> Act {
            let (pool, order) = (story.pool().clone(), Arc::clone(&order));
            let recipients_of = story.chimeway().recipients();
            Box::pin(async move {
                let mut tx = pool.begin().await.unwrap();
                let given = recipients(session, seed);
                // In either language.
                if session % 2 == 0 {
                    let stored = recipients_of.upsert(&mut tx, org(), &given);
                    stored.await.unwrap();
                } else {
                    let rows: Vec<_> = given
                        .iter()
                        .map(|one| {
                            serde_json::json!({ "identity": one.identity, "addresses": one.addresses })
                        })
                        .collect();
                    sqlx::query("select chimeway.upsert_recipients($1, $2)")
                        .bind(org().as_str())
                        .bind(serde_json::Value::from(rows))
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                }
                // It holds all the rows: nobody else gets here before it has committed.
                order.lock().unwrap().push(session);
                tx.commit().await.unwrap();
            })
        });
        at_once(&mut random(seed), sessions.collect()).await;
        let last = *order.lock().unwrap().last().unwrap();
        let stored = "select string_agg(distinct addresses ->> 'email', ' ') || ' ' || count(*)
                      from chimeway.recipients";
        assert_eq!(
            lines(story.pool(), stored).await,
            format!("session_{last}@e.example {PEOPLE}"),
            "seed {seed}"
        );
    }
    assert_quiet(story).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preferences_that_eight_sessions_write_are_as_the_last_one_said() {
    let story = Story::begin(MORNING).await;
    for seed in 0..25 {
        let order = Arc::new(Mutex::new(vec![]));
        let sessions = (0..SESSIONS).map(|session| -> Act {
            let (pool, order) = (story.pool().clone(), Arc::clone(&order));
            let preferences = story.chimeway().preferences();
            Box::pin(async move {
                // Each session has a pattern of its own.
                let mut said: Vec<(Preference, bool)> = (0..4)
                    .map(|bit| {
                        let on = session & (1 << bit) != 0;
                        let name = format!("name_{bit}");
                        match bit % 2 {
                            0 => (Preference::Channel(name.parse().unwrap()), on),
                            _ => (Preference::Category(name.parse().unwrap()), on),
                        }
                    })
                    .collect();
                said.shuffle(&mut random(seed * 100 + session as u64));
                let mut tx = pool.begin().await.unwrap();
                preferences
                    .set(&mut tx, org(), &actor("ada"), &said)
                    .await
                    .unwrap();
                order.lock().unwrap().push(session);
                tx.commit().await.unwrap();
            })
        });
        at_once(&mut random(seed), sessions.collect()).await;
        let last = *order.lock().unwrap().last().unwrap();
        let stored =
            "select string_agg(enabled::text, ' ' order by name) from chimeway.preferences";
        let expected: Vec<String> = (0..4)
            .map(|bit| (last & (1 << bit) != 0).to_string())
            .collect();
        assert_eq!(
            lines(story.pool(), stored).await,
            expected.join(" "),
            "seed {seed}"
        );
    }
    assert_quiet(story).await;
}
