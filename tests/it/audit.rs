//! What must hold beyond the rows alone: sends against attempts, and no deadlocks.

use std::collections::HashMap;

use chimeway_testkit::TestDb;
use sqlx::PgPool;

pub(crate) use crate::invariants::audit;
use crate::{process::Sends, support::eventually};

/// Each send has its attempt row, and each attempt row that is not unknown has its send; nothing was
/// sent twice under one attempt number.
pub(crate) async fn assert_recorded(pool: &PgPool, sends: &Sends) {
    let rows: Vec<(String, i32, String)> = sqlx::query_as(
        "select delivery_id::text, attempt_number, outcome from chimeway.delivery_attempts",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut recorded: HashMap<(String, i32), String> = rows
        .into_iter()
        .map(|(delivery, attempt, outcome)| ((delivery, attempt), outcome))
        .collect();
    for (delivery, attempts) in sends {
        for (attempt, _) in attempts {
            let row = recorded.remove(&(delivery.clone(), *attempt));
            assert!(
                row.is_some(),
                "try {attempt} of {delivery} has no row, or was made twice"
            );
        }
    }
    recorded.retain(|_, outcome| outcome != "unknown");
    assert!(recorded.is_empty(), "recorded and never sent: {recorded:?}");
}

/// Fails if PostgreSQL ever had to break a deadlock in this database. A session reports its counters
/// when it ends at the latest: all of them are ended first.
pub(crate) async fn assert_no_deadlocks(db: &TestDb) {
    db.pool().close().await;
    let mut conn = db.connect().await;
    eventually("the other sessions end", async || {
        let others: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut conn)
        .await
        .unwrap();
        (others == 0).then_some(())
    })
    .await;
    let deadlocks: i64 = sqlx::query_scalar(
        "select deadlocks from pg_stat_database where datname = current_database()",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(deadlocks, 0);
}
