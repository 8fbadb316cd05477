//! Two dispatchers, the same handlers: the same histories.

use std::time::Duration;

use async_trait::async_trait;
use chimeway::{
    Chimeway, Dispatcher,
    channels::{Channel, Message, Receipt, SendError},
    flow::workers::Workers,
};
use chimeway_testkit::TestDb;
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::{
    audit::audit,
    fleet::{Fleet, Host, end_backoffs, number},
    support::eventually,
};

/// Refuses some recipients for good, and others at the first try.
struct Picky;

#[async_trait]
impl Channel for Picky {
    fn adapter(&self) -> &'static str {
        "picky"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        match message.recipient.as_ref().unwrap().as_str() {
            "refused" => Err(SendError::permanent("no")),
            "bounces" => Err(SendError::bounced("no")),
            "works_later" if message.attempt.0 == 1 => Err(SendError::temporary("not now")),
            _ => Ok(Receipt::default()),
        }
    }
}

/// What happened, without times and ids.
async fn histories(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', r.actor_id, t.sequence, t.visit, t.from_state, t.to_state, t.reason,
            s.step_key, t.context - 'suspended_until', t.delivery_id is not null, t.signal_id is not null)
         from chimeway.workflow_transitions t
         join chimeway.workflow_runs r on r.id = t.workflow_run_id
         join chimeway.workflow_steps s on s.id = t.workflow_step_id
         union all
         select concat_ws(' ', r.actor_id, 'delivery', d.visit, d.channel, d.status, d.status_reason,
            d.attempts, d.claim_no, d.crashes, a.attempt_number, a.outcome, a.error_class, a.response)
         from chimeway.deliveries d
         join chimeway.workflow_runs r on r.id = d.workflow_run_id
         left join chimeway.delivery_attempts a on a.delivery_id = d.id
         order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn history_under(dispatcher: Dispatcher) -> Vec<String> {
    let db = TestDb::create().await;
    let pool = db.pool();
    let host = Host::with_journey(pool, "PT1S").await;
    let builder = Chimeway::builder().dispatcher(dispatcher);
    let builder = builder.channel("in_app", Picky).unwrap();
    let chimeway = builder.channel("email", Picky).unwrap().build();
    let (mut inline, mut fleet) = (JoinSet::new(), None);
    match dispatcher {
        Dispatcher::Queued => fleet = Some(Fleet::start(Workers::new(chimeway, pool.clone()))),
        Dispatcher::Inline => {
            let pool = pool.clone();
            inline.spawn(async move {
                loop {
                    chimeway.settle(&pool).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    }
    let mut tx = pool.begin().await.unwrap();
    host.trigger_in(&mut tx, "has_read").await;
    host.read_in(&mut tx, "has_read").await;
    tx.commit().await.unwrap();
    for person in ["silent", "reads", "refused", "bounces", "works_later"] {
        host.trigger(person).await;
    }
    host.until("reads", "waiting").await;
    host.read("reads").await;
    eventually("all end", async || {
        end_backoffs(pool).await;
        let live = "select count(*) from chimeway.workflow_runs where ended_at is null";
        (number(pool, live).await == 0).then_some(())
    })
    .await;
    inline.shutdown().await;
    if let Some(fleet) = fleet {
        fleet.stop().await;
    }
    audit(pool).await;
    histories(pool).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journey_has_the_same_history_under_both_dispatchers() {
    let (queued, inline) = futures::join!(
        history_under(Dispatcher::Queued),
        history_under(Dispatcher::Inline)
    );
    assert_eq!(queued, inline);
    let ends = |line: &&String| {
        line.contains(" workflow_completed ") || line.contains(" workflow_stopped ")
    };
    assert_eq!(inline.iter().filter(ends).count(), 6);
}
