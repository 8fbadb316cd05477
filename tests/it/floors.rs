//! While a session keeps an old snapshot nothing that is done can be removed. Whoever looks for due rows from a floor on
//! does not pass over it.

use std::time::Duration;

use chimeway::{
    Recipient, Trigger,
    engine::turns::{Pair, Share},
    store::{
        claims::{self, Claim},
        due::{self, Floor, OfWorkflows},
        runs,
    },
};
use chimeway_testkit::Story;
use sqlx::{Connection as _, PgConnection};

use crate::{
    fairness::{BEGINNING, claim, claim_in_turn, slots, turns},
    fleet::execute,
    tools::{MORNING, actor},
};

/// Of so many people everything is done, and cannot be removed; something of one more is due.
const DONE: usize = 3_000;

async fn telling() -> Story {
    let story = Story::begin(MORNING).await;
    let step = "{ id: tell, action: { type: notify, channel: in_app } }";
    story
        .apply(&format!("{{ key: tell, steps: [{step}] }}"))
        .await;
    story
}

async fn trigger(story: &Story, people: std::ops::Range<usize>) {
    let trigger = Trigger::new("tell".parse().unwrap(), "org_456".parse().unwrap());
    let trigger = people.fold(trigger, |trigger, n| {
        trigger.recipient(Recipient::new(actor(&format!("user_{n}"))))
    });
    let mut tx = story.pool().begin().await.unwrap();
    story.chimeway().trigger(&mut tx, trigger).await.unwrap();
    tx.commit().await.unwrap();
}

/// How many blocks of deliveries and runs, and of their indexes, a look reads.
async fn blocks(conn: &mut PgConnection, look: impl AsyncFnOnce(&mut PgConnection)) -> i64 {
    let before = counted(conn).await;
    let mut tx = conn.begin().await.unwrap();
    look(&mut tx).await;
    tx.rollback().await.unwrap();
    counted(conn).await - before
}

async fn counted(conn: &mut PgConnection) -> i64 {
    sqlx::query("select pg_stat_force_next_flush()")
        .execute(&mut *conn)
        .await
        .unwrap();
    let statement =
        "select sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::int8
                     from pg_statio_user_tables where relname in ('deliveries', 'workflow_runs')";
    sqlx::query_scalar(statement).fetch_one(conn).await.unwrap()
}

async fn claims(conn: &mut PgConnection, turns_after: Option<(&str, &str)>, floor: Floor) -> usize {
    let slots = slots(10, &[]);
    let claim = Claim {
        floor,
        ..claim(&slots)
    };
    match turns_after {
        Some(after) => claim_in_turn(conn, &slots, &mut turns(after), floor)
            .await
            .len(),
        None => claims::claim(conn, &claim).await.unwrap().len(),
    }
}

#[tokio::test]
async fn a_look_from_a_floor_does_not_pass_over_what_is_done() {
    let story = telling().await;
    let mut old = story.pool().acquire().await.unwrap();
    let mut old = old
        .begin_with("begin isolation level repeatable read")
        .await
        .unwrap();
    sqlx::query("select count(*) from chimeway.deliveries")
        .execute(&mut *old)
        .await
        .unwrap();

    // A thousand are expanded at once, and more by workers.
    for from in (0..DONE).step_by(1_000) {
        trigger(&story, from..from + 1_000).await;
    }
    execute(
        story.pool(),
        "update chimeway.workflow_runs set wake_at = chimeway.now();
         update chimeway.workflow_runs set wake_at = null;
         update chimeway.deliveries set status = 'succeeded', next_attempt_at = null",
    )
    .await;
    story.pass("PT10S").await;
    trigger(&story, DONE..DONE + 1).await;
    execute(
        story.pool(),
        "update chimeway.workflow_runs set wake_at = chimeway.now() where actor_id = 'user_3000'",
    )
    .await;

    let mut conn = story.pool().acquire().await.unwrap();
    let floor = due::deliveries(&mut conn, None).await.unwrap().from;
    assert_eq!(floor, Some(story.now()), "the first that is to be done");
    let from = due::workflows(&mut conn, OfWorkflows::default())
        .await
        .unwrap();
    assert_eq!(from.runs.from, floor);
    assert_eq!(from.events.from, floor, "there is none: from now on");

    for turns in [None, BEGINNING] {
        let look = async |floor: Floor, conn: &mut PgConnection| {
            blocks(conn, async |conn| {
                assert_eq!(claims(conn, turns, floor).await, 1);
            })
            .await
        };
        let (all, some) = (look(None, &mut conn).await, look(floor, &mut conn).await);
        assert!(
            some * 3 < all,
            "claims, turns {turns:?}: {some} of {all} blocks"
        );
    }
    let share = async |floor: Floor, conn: &mut PgConnection| {
        let pair = Pair {
            tenant: "org_456".into(),
            channel: "in_app".into(),
        };
        let shares = [Share {
            pair,
            at_most: 10,
            floor,
        }];
        let slots = slots(10, &[]);
        blocks(conn, async |conn| {
            let claim = Claim {
                shares: Some(&shares),
                ..claim(&slots)
            };
            assert_eq!(claims::claim(conn, &claim).await.unwrap().len(), 1);
        })
        .await
    };
    let (all, some) = (share(None, &mut conn).await, share(floor, &mut conn).await);
    assert!(some * 3 < all, "a share: {some} of {all} blocks");
    let look = async |floor: Floor, conn: &mut PgConnection| {
        blocks(conn, async |conn| {
            assert_eq!(
                runs::lock_due(conn, None, floor, 10).await.unwrap().len(),
                1
            );
        })
        .await
    };
    let (all, some) = (look(None, &mut conn).await, look(floor, &mut conn).await);
    assert!(some * 3 < all, "due runs: {some} of {all} blocks");
    let ask = async |floor: Floor, conn: &mut PgConnection| {
        blocks(conn, async |conn| {
            let due = due::deliveries(conn, floor).await.unwrap();
            assert_eq!(due.to_claim, Some(Duration::ZERO));
        })
        .await
    };
    let (all, some) = (ask(None, &mut conn).await, ask(floor, &mut conn).await);
    assert!(some * 3 < all, "asking: {some} of {all} blocks");
    let leases = async |floor: Floor, conn: &mut PgConnection| {
        blocks(conn, async |conn| {
            let over = claims::expired(conn, 10, Duration::ZERO, 2_000, floor).await;
            assert_eq!(over.unwrap().len(), 0);
        })
        .await
    };
    let any_from = due::deliveries(&mut conn, None).await.unwrap().any_from;
    assert_eq!(any_from, floor);
    let (all, some) = (
        leases(None, &mut conn).await,
        leases(any_from, &mut conn).await,
    );
    assert!(some * 3 < all, "leases: {some} of {all} blocks");
    old.rollback().await.unwrap();
}

#[tokio::test]
async fn what_workers_died_with_is_not_looked_for_among_all_that_is_due() {
    let story = telling().await;
    for from in (0..DONE).step_by(1_000) {
        trigger(&story, from..from + 1_000).await;
    }
    let mut conn = story.pool().acquire().await.unwrap();
    let slots = slots(10, &[]);
    let look = async |conn: &mut PgConnection, found: usize| {
        let alone = Claim {
            isolated: true,
            ..claim(&slots)
        };
        blocks(conn, async |conn| {
            let claimed = claims::claim(conn, &alone).await.unwrap();
            assert_eq!(claimed.len(), found);
        })
        .await
    };
    let none = look(&mut conn, 0).await;
    assert!(none < 30, "{none} blocks");
    execute(
        story.pool(),
        "update chimeway.deliveries set crashes = 2
         where id in (select id from chimeway.deliveries order by id desc limit 3)",
    )
    .await;
    let three = look(&mut conn, 3).await;
    assert!(three < 150, "{three} blocks");
}
